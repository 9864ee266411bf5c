//! The short way of a first packet: plain IPv4 of a subscriber, UDP or a SYN, through the translator to the outside.
//!
//! Nearly all flows of a carrier begin so. The long way ([`Worker::ip`] and what follows) has an answer for every
//! packet; this one only says yes. It looks at all that could speak against the flow before anything changes, and
//! whatever is not plain, down to a next hop that has to be asked for first, it leaves to the long way untouched.

use crate::bindings::{Unbound, sole};
use crate::expiry::due;
use crate::fast::{self, Drawn, Lane, Rewritten};
use crate::flows::Departing;
use crate::forwarding::{Route, is_unroutable};
use crate::neighbours::{Adjacency, NextHop};
use crate::outbox::Outbox;
use crate::pipeline::{Refusal, Tables, Verdict, Worker};
use crate::policy::{FirstPacket, NatVerdict};
use crate::ports::Taken;
use crate::{Buffer, BufferSource, Time, tcp};
use turnpike_abi::counters::{
    Counter, Direction, DropReason, FirewallAction, IcmpKind, ProtocolClass, TcpState,
};
use turnpike_abi::event::Tuple;
use turnpike_abi::flow::Toward;
use turnpike_abi::table::{SettingsRecord, Side};
use turnpike_abi::{Address, InterfaceId, PoolId, ZoneId, steering};
use turnpike_wire::packet;
use turnpike_wire::rewrite;

const TCP: u8 = 6;

/// Where a first packet goes, with nothing against it.
struct Way {
    zones: (ZoneId, ZoneId),
    pool: PoolId,
    /// The binding of its inside end, or where one will be filed.
    binding: Result<u32, Unbound>,
    /// The firewall's rule that accepts it, if it is not the default that does.
    rule: Option<u16>,
    /// Its next hop's place among the adjacencies.
    hop: u16,
    adjacency: Adjacency,
    class: ProtocolClass,
    state: TcpState,
    /// Bytes of the IP packet.
    length: u16,
}

impl<B: Buffer> Worker<B> {
    /// Opens a flow for its first packet, and sends that on.
    ///
    /// # Errors
    /// Gives the packet back for the long way: it is untouched, and nothing has changed.
    #[inline(always)]
    pub(crate) fn open_plain(
        &mut self,
        tables: &Tables,
        now: Time,
        (lane, drawn): (&Lane, &Drawn),
        mut buffer: B,
        source: &mut impl BufferSource<B>,
        out: &mut Outbox<B>,
    ) -> Result<(), B> {
        let Some(way) = self.way(tables, (lane, drawn), buffer.bytes()) else { return Err(buffer) };
        let on = InterfaceId(lane.on.into());
        match self.begin(tables, now, (lane, drawn), &way) {
            Ok(flow) => {
                self.clamp_plain(tables, lane, &way, buffer.bytes_mut());
                let mut lane = *lane;
                lane.length = way.length;
                if let Some(record) = self.flows.record(flow) {
                    fast::translate(buffer.bytes_mut(), &lane, record, Toward::Out);
                }
                let Way { adjacency, class, .. } = way;
                let done = Rewritten { adjacency, direction: Direction::In2Out, class };
                fast::depart(&mut self.counters, &lane, &done, buffer, out);
            }
            Err(reason) => {
                let verdict = match packet::parse_plain(buffer.bytes(), usize::from(lane.l3)) {
                    // RFC 6888 REQ-11: the packet is dropped and its sender told.
                    Ok(packet) if reason != DropReason::InternalError => {
                        Verdict::Refuse(Refusal { reason, kind: IcmpKind::UnreachableHost, mtu: 0, packet })
                    }
                    _ => Verdict::Drop(reason),
                };
                self.finish(Some(tables), now, (on, verdict), buffer, source, out);
            }
        }
        Ok(())
    }

    /// Where a first packet goes. `None` for the long way, which may also find that it goes nowhere.
    #[inline(always)]
    fn way(&mut self, tables: &Tables, (lane, drawn): (&Lane, &Drawn), frame: &[u8]) -> Option<Way> {
        let (key, on) = (lane.opening()?, InterfaceId(lane.on.into()));
        let (class, state, length) = if key.protocol == TCP {
            (ProtocolClass::Tcp, TcpState::Init, syn_of(frame, usize::from(lane.l3))?)
        } else {
            (ProtocolClass::Udp, TcpState::None, lane.length)
        };
        let [a, b, c, d, e, f, g, h] = key.addresses.to_ne_bytes();
        let [i, j, k, l] = key.ports.to_ne_bytes();
        let (source, destination) = ([a, b, c, d], [e, f, g, h]);
        let Tables { policy, forwarding } = tables;
        let from = policy.zone_of(on)?;
        if policy.side_of(from) != Side::INSIDE
            || is_unroutable(source)
            || is_unroutable(destination)
            || policy.pool_of_v4(source).is_some()
            || policy.pool_of_v4(destination).is_some()
        {
            return None;
        }
        let Route::Unicast { interface, via } = forwarding.lookup_v4(destination)? else { return None };
        if policy.settings.flags & SettingsRecord::REVERSE_PATH != 0 {
            let back = forwarding.lookup_v4(source)?;
            matches!(back, Route::Unicast { interface, .. } if interface == on).then_some(())?;
        }
        let to = policy.zone_of(interface)?;
        let mtu = policy.mtu_of(interface)?;
        let inside = Address::v4(source);
        if policy.side_of(to) != Side::OUTSIDE
            || steering::owner_of_inside(inside, self.workers) != self.id
            || length > mtu
        {
            return None;
        }
        let tuple = Tuple {
            source: inside,
            destination: Address::v4(destination),
            source_port: u16::from_be_bytes([i, j]),
            destination_port: u16::from_be_bytes([k, l]),
            protocol: key.protocol,
            reserved: [0; 3],
        };
        let first = FirstPacket { from, to, tuple, icmp: None };
        let NatVerdict::Translate(pool) = policy.nat_of(&first) else { return None };
        let verdict = policy.firewall(&first);
        if verdict.action != FirewallAction::Accept || !self.flows.has_room(false, true) {
            return None;
        }
        let end = (inside, tuple.source_port);
        let at = (lane.hash, drawn.place);
        let binding = self.bindings.search_at(&self.flows, at, key.protocol, end, pool);
        // One with a pinhole is the long way's.
        if binding.is_ok_and(|number| self.bindings.record(number).is_some_and(|record| !record.is_dynamic()))
        {
            return None;
        }
        // There was no flow when the burst was looked at; one that its plain packets opened since has a binding here.
        if (binding.is_ok() || !self.all_plain) && self.flows.find4(key).is_some() {
            return None;
        }
        let next_hop = NextHop { interface, address: via.unwrap_or(tuple.destination) };
        if !self.neighbours.has_places() {
            return None;
        }
        let hop = self.neighbours.adjacency(next_hop, self.interfaces.get(interface.index())?, mtu)?;
        let adjacency = *self.neighbours.adjacencies.get(usize::from(hop))?;
        if !adjacency.live || usize::from(adjacency.length) != usize::from(lane.l3) {
            return None;
        }
        let rule = verdict.by_rule.then_some(verdict.rule);
        Some(Way { zones: (from, to), pool, binding, rule, hop, adjacency, class, state, length })
    }

    /// Opens the flow, with a binding if there is none. Returns its number.
    ///
    /// # Errors
    /// The reason to drop its packet.
    #[inline(always)]
    fn begin(
        &mut self,
        tables: &Tables,
        now: Time,
        (lane, drawn): (&Lane, &Drawn),
        way: &Way,
    ) -> Result<u32, DropReason> {
        let &Way { zones: (from, to), pool, class, state, length, .. } = way;
        self.counters.verdict(from, to, FirewallAction::Accept);
        if let Some(rule) = way.rule {
            self.hits.count(rule);
        }
        let [a, b, c, d, ..] = lane.key.addresses.to_ne_bytes();
        if let Some(record) = tables.policy.pool(pool) {
            self.bindings.may_open(record, pool, Address::v4([a, b, c, d]), now)?;
        }
        let internal = DropReason::InternalError;
        let (binding, external) = match &way.binding {
            Ok(binding) => {
                self.counters.add(Counter::EimHits, 1);
                let binding = self.with_record(*binding).ok_or(internal)?;
                (Ok(binding), self.bindings.record(binding).ok_or(internal)?.external_end())
            }
            Err(unbound) => {
                let flow = self.flows.next_number().ok_or(internal)?;
                let bound = self.bindings.bind_sole(&tables.policy, unbound, flow, now, &mut self.counters);
                let Taken { subscriber, external, port } = bound?;
                (Err((flow, subscriber)), (external, port))
            }
        };
        let flow = Departing {
            key: lane.key,
            by_source: lane.hash,
            answers: drawn.answers(external),
            external,
            state,
            now,
            binding: binding.ok(),
            length,
            epoch: self.epoch,
            hop: way.hop,
            ingress: lane.on,
        };
        let due = due(tables, class, state, now);
        let Some(number) = self.flows.insert_departing(&flow, due) else {
            self.let_go(binding.unwrap_or_else(|(flow, _)| sole::binding_of(flow)));
            return Err(internal);
        };
        self.counters.add(Counter::PlainOpenings, 1);
        self.counters.flow_created(class, state);
        let [_, _, _, _, e, f, g, h] = lane.key.addresses.to_ne_bytes();
        match binding {
            Err((_, subscriber)) => self.bindings.sole_opened(number, subscriber, [e, f, g, h]),
            Ok(binding) => {
                let [_, _, k, l] = lane.key.ports.to_ne_bytes();
                self.hang((number, binding), (Address::v4([e, f, g, h]), u16::from_be_bytes([k, l])), false);
            }
        }
        Ok(number)
    }

    /// Lowers the MSS of a SYN to what both links carry.
    fn clamp_plain(&mut self, tables: &Tables, lane: &Lane, way: &Way, frame: &mut [u8]) {
        if way.class != ProtocolClass::Tcp || tables.policy.settings.mss_clamp == 0 {
            return;
        }
        let l3 = usize::from(lane.l3);
        let Some(segment) = frame.get_mut(l3 + 20..l3 + usize::from(way.length)) else { return };
        let on = tables.policy.mtu_of(InterfaceId(lane.on.into()));
        let mtu = way.adjacency.mtu.min(on.unwrap_or(u16::MAX));
        if rewrite::clamp_mss_of_syn(segment, mtu.saturating_sub(40)) {
            self.counters.add(Counter::MssClampedIn2Out, 1);
        }
    }
}

/// Bytes of the IP packet of a SYN whose header is sound. The rest of its IP header was looked at.
#[inline(always)]
fn syn_of(frame: &[u8], l3: usize) -> Option<u16> {
    let header: &[u8; 40] = frame.get(l3..)?.first_chunk()?;
    let length = u16::from_be_bytes([header[2], header[3]]);
    let (offset, flags) = (u16::from(header[32] >> 4) * 4, header[33]);
    (tcp::opens(flags) && offset >= 20 && 20 + offset <= length).then_some(length)
}

//! The way of a packet: link layer, sound IP packet, where to, which flow, out.
//!
//! Every packet ends in exactly one [`Verdict`], and [`Worker::finish`] is the one place that carries it out.

use crate::bindings::Bindings;
use crate::egress::{MAX_FRAGMENTS, Ready};
use crate::flows::Flows;
use crate::forwarding::{
    Forwarding, Route, is_link_local, is_martian_destination, is_martian_source, is_multicast,
};
use crate::fragments::Head;
use crate::hits::Hits;
use crate::keyed::Keyed;
use crate::neighbours::{Neighbours, NextHop};
use crate::outbox::{Crossed, Outbox};
use crate::policy::Policy;
use crate::reassembly::Reassembly;
use crate::records::Records;
use crate::replies::Limits;
use crate::{Buffer, BufferSource, Interface, Setup, Time};
use std::sync::Arc;
use turnpike_abi::counters::{Counter, Counters, Direction, DropReason, IcmpKind, ProtocolClass};
use turnpike_abi::event::FlowEnded;
use turnpike_abi::flow::StateHeader;
use turnpike_abi::table::{SettingsRecord, Side};
use turnpike_abi::{Address, InterfaceId, PortId, WorkerId, ZoneId};
use turnpike_shm::memory::Memory;
use turnpike_wire::Malformed;
use turnpike_wire::arp::{self, Arp};
use turnpike_wire::ethernet::{self, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet};
use turnpike_wire::packet::{self, Family, Fragment, Packet};

/// How far a packet has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// From the wire.
    Fresh,
    /// A fragment, where those of its datagram meet.
    Fragment,
    /// A fragment that knows its ports; otherwise as from the wire.
    Joined,
    /// At the owner of its inside address.
    Steered,
    /// From one host inside to another, at one of the workers that may have its flow.
    Between {
        /// Which of them: see [`crate::between`].
        stop: u8,
        /// A pinhole of the sender's would open the flow, were there none.
        may_open: bool,
    },
    /// For a pool address, at the owner of its port.
    Inbound {
        /// Its source was translated on the way: it comes from another subscriber.
        hairpin: bool,
        /// The port's owner leased the port to this worker.
        leased: bool,
    },
}

/// The tables in force. Read-only to the path.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    pub(crate) policy: Arc<Policy>,
    pub(crate) forwarding: Arc<Forwarding>,
}

/// What a worker owns.
#[derive(Debug)]
pub(crate) struct Worker<B> {
    pub(crate) id: WorkerId,
    pub(crate) workers: u8,
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) counters: Counters,
    pub(crate) flows: Flows,
    pub(crate) bindings: Bindings,
    pub(crate) neighbours: Neighbours<B>,
    pub(crate) limits: Limits,
    pub(crate) reassembly: Reassembly<B>,
    /// Changes when routes or policy do: what records know of next hops holds in one epoch.
    pub(crate) epoch: u32,
    /// No packet of the burst under way went the long way.
    pub(crate) all_plain: bool,
    /// Of the call that is under way.
    pub(crate) now: Time,
    /// Fragments being made; empty between packets.
    pub(crate) pieces: Vec<B>,
    /// By firewall rule.
    pub(crate) hits: Hits,
    /// Flows that ended, to be logged.
    pub(crate) ended: Records<FlowEnded>,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verdict {
    Transmit {
        next_hop: NextHop,
        /// Its place among the adjacencies, or [`turnpike_abi::flow::NO_HOP`].
        hop: u16,
        packet: Packet,
        direction: Direction,
        class: ProtocolClass,
    },
    /// Like `Transmit`, in pieces of at most `mtu` bytes.
    Split {
        next_hop: NextHop,
        packet: Packet,
        direction: Direction,
        class: ProtocolClass,
        mtu: u16,
    },
    Punt,
    /// To another worker; a fragment with what it knows of its datagram.
    Cross(WorkerId, Stage, Option<Head>),
    /// A fragment that must know its ports first.
    Join(Packet),
    Drop(DropReason),
    /// Dropped, and the sender is told. The frame is still as it came.
    Refuse(Refusal),
    /// An ARP request for a pool address.
    ProxyArp,
}

/// A packet whose sender is told why it was dropped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    pub(crate) reason: DropReason,
    pub(crate) kind: IcmpKind,
    /// Of the next link in bytes, where the packet was too big for it.
    pub(crate) mtu: u16,
    pub(crate) packet: Packet,
}

impl<B: Buffer> Worker<B> {
    pub(crate) fn new(setup: &Setup, state: &mut Memory, private: &mut Memory) -> Option<Self> {
        let keyed = Keyed::new(setup.key);
        let mut counters = Counters::default();
        counters.set(Counter::FlowsLimit, (setup.flows + setup.flows_v6) as u64);
        counters.set(Counter::BindingsLimit, setup.bindings as u64);
        let header = StateHeader {
            flows: u32::try_from(setup.flows).ok()?,
            flows_v6: u32::try_from(setup.flows_v6).ok()?,
            worker: setup.worker,
            workers: setup.workers,
            ..StateHeader::default()
        };
        Some(Self {
            id: setup.worker,
            workers: setup.workers,
            interfaces: setup.interfaces.clone(),
            counters,
            flows: Flows::new(header, keyed, state, private)?,
            bindings: Bindings::new(setup, keyed, private)?,
            neighbours: Neighbours::new(keyed),
            limits: Limits::new(setup.interfaces.len()),
            reassembly: Reassembly::new(keyed, setup.worker, setup.workers),
            epoch: 0,
            all_plain: false,
            now: Time(0),
            pieces: Vec::with_capacity(MAX_FRAGMENTS),
            hits: Hits::new(),
            ended: Records::new(),
        })
    }

    /// Routes or policy changed.
    pub(crate) fn next_epoch(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
    }

    /// A frame from the wire.
    pub(crate) fn frame(
        &mut self,
        tables: Option<&Tables>,
        now: Time,
        port: PortId,
        mut buffer: B,
        source: &mut impl BufferSource<B>,
        out: &mut Outbox<B>,
    ) {
        let (verdict, on) = match self.link(tables, port, &buffer) {
            Ok((on, link)) => (self.network(tables, now, on, (Stage::Fresh, None), &mut buffer, &link), on),
            Err(reason) => (Verdict::Drop(reason), InterfaceId(0)),
        };
        let joins = matches!(verdict, Verdict::Join(_));
        self.finish(tables, now, (on, verdict), buffer, source, out);
        if joins {
            self.leave_joined(tables, now, source, out);
        }
    }

    /// A frame from the wire that the fast path has looked at: for a station of `on`, an IP packet at `l3`.
    pub(crate) fn looked_at(
        &mut self,
        tables: &Tables,
        now: Time,
        (on, l3, family): (InterfaceId, usize, Family),
        mut buffer: B,
        source: &mut impl BufferSource<B>,
        out: &mut Outbox<B>,
    ) {
        let packet = match family {
            Family::V4 => packet::parse_plain(buffer.bytes(), l3),
            Family::V6 => packet::parse(buffer.bytes(), l3, family),
        };
        let verdict = match packet {
            Ok(packet) => self.ip(tables, now, on, Stage::Fresh, &mut buffer, &packet),
            Err(malformed) => Verdict::Drop(reason_of(malformed)),
        };
        let joins = matches!(verdict, Verdict::Join(_));
        self.finish(Some(tables), now, (on, verdict), buffer, source, out);
        if joins {
            self.leave_joined(Some(tables), now, source, out);
        }
    }

    /// A packet from another worker.
    pub(crate) fn crossed(
        &mut self,
        tables: Option<&Tables>,
        now: Time,
        crossed: Crossed<B>,
        source: &mut impl BufferSource<B>,
        out: &mut Outbox<B>,
    ) {
        let joins = crossed.stage == Stage::Fragment;
        self.pass_on(tables, now, crossed, source, out);
        if joins {
            self.leave_joined(tables, now, source, out);
        }
    }

    /// A packet that was here or at another worker before.
    pub(crate) fn pass_on(
        &mut self,
        tables: Option<&Tables>,
        now: Time,
        crossed: Crossed<B>,
        source: &mut impl BufferSource<B>,
        out: &mut Outbox<B>,
    ) {
        let Crossed { mut buffer, arrived_on, stage, head } = crossed;
        let verdict = match ethernet::parse(buffer.bytes()) {
            Ok(link) => self.network(tables, now, arrived_on, (stage, head), &mut buffer, &link),
            Err(malformed) => Verdict::Drop(reason_of(malformed)),
        };
        self.finish(tables, now, (arrived_on, verdict), buffer, source, out);
    }

    /// Ethernet: which interface, and is the frame for this station?
    fn link(
        &self,
        tables: Option<&Tables>,
        port: PortId,
        buffer: &B,
    ) -> Result<(InterfaceId, Ethernet), DropReason> {
        let link = ethernet::parse(buffer.bytes()).map_err(reason_of)?;
        // 802.1Q 9.6: a tag with VLAN id 0 carries priority only.
        let vlan = link.vlan.unwrap_or(0);
        let numbered = self.interfaces.iter().zip(0u16..);
        let found =
            numbered.into_iter().find(|(interface, _)| interface.port == port && interface.vlan == vlan);
        let (interface, id) = found.ok_or(DropReason::VlanUnknown)?;
        if !ethernet::is_multicast(link.destination) && link.destination != interface.mac {
            return Err(DropReason::MacNotOurs);
        }
        // The kernel resolves addresses before the first table is there.
        if tables.is_none() && link.ethertype != ETHERTYPE_ARP {
            return Err(DropReason::NotConfigured);
        }
        Ok((InterfaceId(id), link))
    }

    fn network(
        &mut self,
        tables: Option<&Tables>,
        now: Time,
        on: InterfaceId,
        (stage, head): (Stage, Option<Head>),
        buffer: &mut B,
        link: &Ethernet,
    ) -> Verdict {
        let family = match link.ethertype {
            ETHERTYPE_ARP => return arp_verdict(tables, on, buffer.bytes(), link),
            ETHERTYPE_IPV4 => Family::V4,
            ETHERTYPE_IPV6 => Family::V6,
            _ => return Verdict::Drop(DropReason::EthertypeUnknown),
        };
        let Some(tables) = tables else { return Verdict::Drop(DropReason::NotConfigured) };
        match packet::parse(buffer.bytes(), link.payload, family) {
            Ok(mut packet) => {
                if let Some(head) = head {
                    head.tell(&mut packet);
                }
                self.ip(tables, now, on, stage, buffer, &packet)
            }
            Err(malformed) => Verdict::Drop(reason_of(malformed)),
        }
    }

    /// A sound IP packet: for the box, for a pool address, or through.
    pub(crate) fn ip(
        &mut self,
        tables: &Tables,
        now: Time,
        on: InterfaceId,
        stage: Stage,
        buffer: &mut B,
        packet: &Packet,
    ) -> Verdict {
        let (source, destination) = (Address(packet.source), Address(packet.destination));
        let v6 = packet.family == Family::V6;
        // RFC 6092 REC-3: an IPv4-mapped address has no place on the wire; here it would pass for the IPv4 one.
        if v6 && destination.is_v4() {
            return Verdict::Drop(DropReason::MartianDestination);
        }
        if is_multicast(destination) || destination == Address::v4([255; 4]) {
            return if is_link_scope(destination) {
                Verdict::Punt
            } else {
                Verdict::Drop(DropReason::MulticastUnsupported)
            };
        }
        if is_multicast(source) || is_martian_source(source, v6) {
            return Verdict::Drop(DropReason::MartianSource);
        }
        // RFC 4291 2.5.5.2: it would pass for the IPv4 address in every table below.
        if v6 && destination.is_v4() {
            return Verdict::Drop(DropReason::MartianDestination);
        }
        // BCP 38: only the box itself sends from a pool address. On the wire such a source is spoofed, and
        // sets two subscribers on each other.
        if stage == Stage::Fresh && tables.policy.pool_of(source).is_some() {
            return Verdict::Drop(DropReason::SpoofedSource);
        }
        let pool = tables.policy.pool_of(destination);
        let route = tables.forwarding.lookup(destination);
        let local = route == Some(Route::Local);
        if local && pool.is_none() {
            // A link-local source is the link's own: no route tells about it (RFC 4291 2.5.6).
            let sound = stage != Stage::Fresh || is_link_local(source) || returns_to(tables, source, on);
            return if sound { Verdict::Punt } else { Verdict::Drop(DropReason::SpoofedSource) };
        }
        if is_martian_destination(destination, v6) {
            return Verdict::Drop(DropReason::MartianDestination);
        }
        // RFC 4291 2.5.6: link-local sources are never forwarded.
        if is_link_local(source) {
            return Verdict::Drop(DropReason::MartianSource);
        }
        let Some(from) = tables.policy.zone_of(on) else { return Verdict::Drop(DropReason::NotConfigured) };
        if stage == Stage::Fresh && !returns_to(tables, source, on) {
            return Verdict::Drop(DropReason::SpoofedSource);
        }
        let stage = match stage {
            Stage::Fresh | Stage::Fragment if packet.fragment != Fragment::Whole => {
                let place = self.meeting_place(tables, from, pool.is_some(), packet);
                if place != self.id && stage == Stage::Fresh {
                    return Verdict::Cross(place, Stage::Fragment, None);
                }
                return Verdict::Join(*packet);
            }
            Stage::Fragment | Stage::Joined => Stage::Fresh,
            stage => stage,
        };
        let passing = Passing { on, from, stage };
        match (stage, pool) {
            (Stage::Inbound { .. }, Some(pool)) => self.inbound(tables, now, &passing, buffer, packet, pool),
            (Stage::Inbound { .. }, None) => Verdict::Drop(DropReason::HairpinLoop),
            (_, Some(pool)) if tables.policy.side_of(from) == Side::INSIDE => {
                self.hairpin(tables, now, &passing, buffer, packet, pool)
            }
            (_, Some(pool)) => self.inbound(tables, now, &passing, buffer, packet, pool),
            (_, None) => self.through(tables, now, &passing, buffer, packet, route),
        }
    }

    /// Carries a verdict out.
    pub(crate) fn finish(
        &mut self,
        tables: Option<&Tables>,
        now: Time,
        (on, verdict): (InterfaceId, Verdict),
        mut buffer: B,
        source: &mut impl BufferSource<B>,
        out: &mut Outbox<B>,
    ) {
        match (verdict, tables) {
            (Verdict::Drop(reason), _) => self.discard(buffer, reason, out),
            (Verdict::Punt, _) => self.punt(on, buffer, out),
            (Verdict::Cross(to, stage, head), _) => {
                if out.cross.len() < out.cross.capacity() {
                    self.counters.add(Counter::CrossedOut, 1);
                    out.cross.push((to, Crossed { buffer, arrived_on: on, stage, head }));
                } else {
                    self.discard(buffer, DropReason::CrossingRingFull, out);
                }
            }
            (Verdict::Join(packet), Some(tables)) => self.join(tables, now, on, &packet, buffer),
            (Verdict::Transmit { next_hop, hop, packet, direction, class }, Some(tables)) => {
                self.count_fragment(&packet);
                // Ethernet padding ends here.
                if !buffer.resize(packet.end) {
                    return self.discard(buffer, DropReason::InternalError, out);
                }
                let ready = Ready { l3: packet.l3, family: packet.family, direction, class };
                match self.neighbours.station_at(hop) {
                    Some(mac) => self.emit(next_hop, buffer, ready, mac, out),
                    None => self.leave(tables, now, next_hop, buffer, ready, out),
                }
            }
            (Verdict::Split { next_hop, packet, direction, class, mtu }, Some(tables)) => {
                self.count_fragment(&packet);
                self.renumber(&mut buffer, &packet, direction);
                let l3 = ethernet::HEADER_LEN + ethernet::VLAN_LEN;
                let ready = Ready { l3, family: packet.family, direction, class };
                self.leave_in_pieces(tables, now, next_hop, (buffer, &packet), (mtu, ready), source, out);
            }
            (Verdict::Refuse(refusal), Some(tables)) => {
                self.counters.drop_packet(refusal.reason);
                self.refuse(tables, now, on, &refusal, buffer, out);
            }
            (Verdict::ProxyArp, _) => {
                let Some(interface) = self.interfaces.get(on.index()).copied() else {
                    return self.discard(buffer, DropReason::InternalError, out);
                };
                let payload =
                    ethernet::parse(buffer.bytes()).map_or(ethernet::HEADER_LEN, |link| link.payload);
                if arp::reply_in_place(buffer.bytes_mut(), payload, interface.mac).is_err() {
                    return self.discard(buffer, DropReason::ArpMalformed, out);
                }
                // The request ends here and the reply is the box's own; the frame serves both.
                self.counters.add(Counter::Generated, 1);
                self.counters.add(Counter::Punted, 1);
                if let Err(buffer) = out.transmit(interface.port, buffer) {
                    self.discard(buffer, DropReason::TxQueueFull, out);
                }
            }
            (
                Verdict::Transmit { .. } | Verdict::Split { .. } | Verdict::Refuse(_) | Verdict::Join(_),
                None,
            ) => {
                self.discard(buffer, DropReason::InternalError, out);
            }
        }
    }

    /// To the TAP twin, without tag.
    fn punt(&mut self, on: InterfaceId, mut buffer: B, out: &mut Outbox<B>) {
        if out.punt.len() >= out.punt.capacity() {
            return self.discard(buffer, DropReason::PuntRingFull, out);
        }
        if ethernet::parse(buffer.bytes()).is_ok_and(|link| link.vlan.is_some()) {
            let frame = buffer.bytes_mut();
            frame.copy_within(..12, ethernet::VLAN_LEN);
            buffer.trim_front(ethernet::VLAN_LEN);
        }
        self.counters.add(Counter::Punted, 1);
        out.punt.push((on, buffer));
    }

    /// A frame of the kernel, from a TAP twin.
    pub(crate) fn inject(&mut self, interface: InterfaceId, mut buffer: B, out: &mut Outbox<B>) {
        self.counters.add(Counter::Injected, 1);
        let Some(to) = self.interfaces.get(interface.index()).copied() else {
            return self.discard(buffer, DropReason::InternalError, out);
        };
        if buffer.bytes().len() < ethernet::HEADER_LEN {
            return self.discard(buffer, DropReason::EthTruncated, out);
        }
        if to.vlan != 0 {
            if !buffer.prepend(ethernet::VLAN_LEN) {
                return self.discard(buffer, DropReason::BufferExhausted, out);
            }
            let frame = buffer.bytes_mut();
            frame.copy_within(ethernet::VLAN_LEN..ethernet::VLAN_LEN + 12, 0);
            let [high, low] = to.vlan.to_be_bytes();
            if let Some(tag) = frame.get_mut(12..16) {
                tag.copy_from_slice(&[0x81, 0x00, high, low]);
            }
        }
        if let Err(buffer) = out.transmit(to.port, buffer) {
            self.discard(buffer, DropReason::TxQueueFull, out);
        }
    }
}

/// Where a packet came in and how far it has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passing {
    pub(crate) on: InterfaceId,
    pub(crate) from: ZoneId,
    pub(crate) stage: Stage,
}

/// ARP is the kernel's, but for requests for pool addresses (RFC 3022 6.2).
fn arp_verdict(tables: Option<&Tables>, on: InterfaceId, frame: &[u8], link: &Ethernet) -> Verdict {
    let body = frame.get(link.payload..).unwrap_or_default();
    let arp = match arp::parse(body) {
        Ok(arp) => arp,
        Err(malformed) => return Verdict::Drop(reason_of(malformed)),
    };
    let wanted = |tables: &Tables, arp: &Arp| {
        let target = Address::v4(arp.target_ip);
        let pool = tables.policy.pool_of(target).and_then(|pool| tables.policy.pool(pool));
        let asker = tables.forwarding.lookup(Address::v4(arp.sender_ip));
        arp.operation == arp::REQUEST
            && pool.is_some_and(|pool| pool.proxy_arp == 1 && tables.policy.zone_of(on) == Some(pool.zone))
            && !tables.forwarding.is_own(target)
            && matches!(asker, Some(Route::Unicast { interface, .. }) if interface == on)
    };
    match tables {
        Some(tables) if wanted(tables, &arp) => Verdict::ProxyArp,
        _ => Verdict::Punt,
    }
}

/// Multicast and broadcast that stays on the link and may be the kernel's: routing protocols, ND, DHCP.
fn is_link_scope(destination: Address) -> bool {
    match destination.to_v4() {
        Some([224, 0, 0, _] | [255, 255, 255, 255]) => true,
        Some(_) => false,
        None => matches!(destination.0, [0xff, scope, ..] if matches!(scope & 0x0f, 1 | 2)),
    }
}

/// BCP 84: strict reverse path, where the operator did not switch it off. A subscriber cannot borrow another network's
/// address, neither to be forwarded nor to speak to the box.
fn returns_to(tables: &Tables, source: Address, on: InterfaceId) -> bool {
    tables.policy.settings.flags & SettingsRecord::REVERSE_PATH == 0
        || matches!(
            tables.forwarding.lookup(source),
            Some(Route::Unicast { interface, .. }) if interface == on
        )
}

/// The drop reason of a malformed packet.
pub(crate) const fn reason_of(malformed: Malformed) -> DropReason {
    match malformed {
        Malformed::EthTruncated => DropReason::EthTruncated,
        Malformed::VlanTruncated => DropReason::VlanTruncated,
        Malformed::ArpMalformed => DropReason::ArpMalformed,
        Malformed::Ip4Truncated => DropReason::Ip4Truncated,
        Malformed::Ip4BadVersion => DropReason::Ip4BadVersion,
        Malformed::Ip4BadIhl => DropReason::Ip4BadIhl,
        Malformed::Ip4BadTotalLength => DropReason::Ip4BadTotalLength,
        Malformed::Ip4BadChecksum => DropReason::Ip4BadChecksum,
        Malformed::Ip4BadOptions => DropReason::Ip4BadOptions,
        Malformed::IpOptionsSourceRoute => DropReason::IpOptionsSourceRoute,
        Malformed::Ip6Truncated => DropReason::Ip6Truncated,
        Malformed::Ip6BadVersion => DropReason::Ip6BadVersion,
        Malformed::Ip6BadPayloadLength => DropReason::Ip6BadPayloadLength,
        Malformed::Ip6ExtTruncated => DropReason::Ip6ExtTruncated,
        Malformed::Ip6ExtOrder => DropReason::Ip6ExtOrder,
        Malformed::Ip6ExtLimit => DropReason::Ip6ExtLimit,
        Malformed::Ip6RoutingHeader0 => DropReason::Ip6RoutingHeader0,
        Malformed::FragTiny => DropReason::FragTiny,
        Malformed::FragOffsetOne => DropReason::FragOffsetOne,
        Malformed::FragOverrun => DropReason::FragOverrun,
        Malformed::FragBadLength => DropReason::FragBadLength,
        Malformed::TcpTruncated => DropReason::TcpTruncated,
        Malformed::TcpBadOffset => DropReason::TcpBadOffset,
        Malformed::TcpBadFlags => DropReason::TcpBadFlags,
        Malformed::UdpTruncated => DropReason::UdpTruncated,
        Malformed::UdpBadLength => DropReason::UdpBadLength,
        Malformed::IcmpTruncated => DropReason::IcmpTruncated,
        Malformed::IcmpBadChecksum => DropReason::IcmpBadChecksum,
        Malformed::IcmpInnerTruncated => DropReason::IcmpInnerTruncated,
        Malformed::IcmpInnerBadChecksum => DropReason::IcmpInnerBadChecksum,
    }
}

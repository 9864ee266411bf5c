//! Packets and their flows: through the firewall, out through the translator, in through a binding.

use crate::between::Between;
use crate::bindings::sole;
use crate::expiry::due;
use crate::flows::{Absent, NewFlow};
use crate::forwarding::Route;
use crate::fragments::{self, Head};
use crate::neighbours::NextHop;
use crate::pipeline::{Passing, Refusal, Stage, Tables, Verdict, Worker};
use crate::policy::{self, FirstPacket, NatVerdict, is_private};
use crate::translate::{self, Rewrite};
use crate::tuples::{answering, firewall_tuple, icmp_of, tuple_of};
use crate::{Buffer, Time, bindings, related, tcp};
use turnpike_abi::counters::{
    Counter, Direction, DropReason, FirewallAction, IcmpKind, ProtocolClass, TcpState,
};
use turnpike_abi::event::{BindingRow, Tuple};
use turnpike_abi::flow::{NO_HOP, NO_INGRESS, NONE, Toward, flag};
use turnpike_abi::table::{SettingsRecord, Side};
use turnpike_abi::{Address, InterfaceId, PoolId, ZoneId, steering};
use turnpike_wire::packet::{Family, Packet, TCP_SYN, Transport};
use turnpike_wire::rewrite;

/// Flows of a binding that are asked when it was last used.
const LOOKED_AT: usize = 16;

/// Where a packet would leave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Egress {
    pub(crate) next_hop: NextHop,
    pub(crate) zone: ZoneId,
    pub(crate) mtu: u16,
}

fn refuse(reason: DropReason, kind: IcmpKind, packet: &Packet) -> Verdict {
    Verdict::Refuse(Refusal { reason, kind, mtu: 0, packet: *packet })
}

impl<B: Buffer> Worker<B> {
    /// Neither for the box nor for a pool address.
    pub(crate) fn through(
        &mut self,
        tables: &Tables,
        now: Time,
        passing: &Passing,
        buffer: &mut B,
        packet: &Packet,
        route: Option<Route>,
    ) -> Verdict {
        let egress = match self.egress(tables, route, Address(packet.destination), packet) {
            Ok(egress) => egress,
            Err(verdict) => return verdict,
        };
        let (source, destination) = (Address(packet.source), Address(packet.destination));
        let policy = &tables.policy;
        let sides = (policy.side_of(passing.from), policy.side_of(egress.zone));
        let mut pool = None;
        if sides == (Side::INSIDE, Side::OUTSIDE) && packet.family == Family::V4 {
            match policy.nat(passing.from, egress.zone, source, destination) {
                NatVerdict::Translate(to) => pool = Some(to),
                NatVerdict::Exempt => {}
                // BCP 38: what the outside could not answer does not go there.
                NatVerdict::NoRule if is_private(source) => return Verdict::Drop(DropReason::PrivateSource),
                NatVerdict::NoRule => {}
            }
        }
        let (near, far) = related::flow_ends(buffer.bytes(), packet);
        let mut inbound = sides == (Side::OUTSIDE, Side::INSIDE);
        if sides == (Side::INSIDE, Side::INSIDE) {
            let zones = (passing.from, egress.zone);
            match self.between(tables, passing.stage, zones, buffer.bytes(), packet) {
                Between::Here { inbound: by_receiver } => inbound = by_receiver,
                Between::Next(worker, stage) => return Verdict::Cross(worker, stage, Head::of(packet)),
            }
        } else {
            let owner = match sides {
                (Side::INSIDE, _) => steering::owner_of_inside(near, self.workers),
                (_, Side::INSIDE) => steering::owner_of_inside(far, self.workers),
                _ => steering::owner_of_pair(near, far, self.workers),
            };
            if owner != self.id && passing.stage == Stage::Fresh {
                return Verdict::Cross(owner, Stage::Steered, Head::of(packet));
            }
        }
        if let Transport::IcmpError { .. } = packet.transport {
            return self.related(tables, buffer, packet, Some(egress), false);
        }
        let Some(tuple) = tuple_of(packet) else { return Verdict::Drop(DropReason::IcmpUnknownType) };
        // Without ports there is nothing to share an address by: who has it was told by a pinhole.
        if let (Some(pool), Transport::Other) = (pool, packet.transport)
            && self.bindings.of_inside(packet.protocol, source, 0, pool).is_none()
        {
            return Verdict::Drop(DropReason::ProtoUnsupported);
        }
        if packet.ttl <= 1 {
            return refuse(DropReason::TtlExpired, IcmpKind::TimeExceeded, packet);
        }
        let (flow, toward) = match self.flows.search(&tuple) {
            Ok(found) => found,
            Err(absent) => {
                let zones = (passing.from, egress.zone);
                match self.open(tables, now, zones, packet, (&tuple, absent), pool, inbound) {
                    Ok(found) => found,
                    Err(verdict) => return verdict,
                }
            }
        };
        let translated = self.flows.record(flow).is_some_and(|flow| flow.has(flag::TRANSLATED));
        let direction = if translated { Direction::In2Out } else { Direction::Routed };
        self.deliver(tables, now, passing, buffer, packet, (flow, toward), egress, direction)
    }

    /// From a subscriber to a pool address: its own source is translated first, then the packet is handled
    /// as if it came from outside (RFC 4787 REQ-9a: the other end sees an external source).
    pub(crate) fn hairpin(
        &mut self,
        tables: &Tables,
        now: Time,
        passing: &Passing,
        buffer: &mut B,
        packet: &Packet,
        target: PoolId,
    ) -> Verdict {
        let (source, destination) = (Address(packet.source), Address(packet.destination));
        let zone = tables.policy.pool(target).map_or(passing.from, |pool| pool.zone);
        let owner = steering::owner_of_inside(related::flow_ends(buffer.bytes(), packet).0, self.workers);
        if owner != self.id && passing.stage == Stage::Fresh {
            return Verdict::Cross(owner, Stage::Steered, Head::of(packet));
        }
        let pool = match tables.policy.nat(passing.from, zone, source, destination) {
            NatVerdict::Translate(pool) => pool,
            NatVerdict::NoRule if is_private(source) => return Verdict::Drop(DropReason::PrivateSource),
            NatVerdict::NoRule | NatVerdict::Exempt => {
                return self.inbound(tables, now, passing, buffer, packet, target);
            }
        };
        let mut port = 0;
        if let Transport::IcmpError { .. } = packet.transport {
            if let Err(reason) = self.related_rewrite(buffer, packet) {
                return Verdict::Drop(reason);
            }
        } else {
            let tuple = match tuple_of(packet) {
                Some(tuple) if packet.transport != Transport::Other => tuple,
                Some(_) => return Verdict::Drop(DropReason::ProtoUnsupported),
                None => return Verdict::Drop(DropReason::IcmpUnknownType),
            };
            if packet.ttl <= 1 {
                return refuse(DropReason::TtlExpired, IcmpKind::TimeExceeded, packet);
            }
            let (flow, toward) = match self.flows.search(&tuple) {
                Ok(found) => found,
                Err(absent) => {
                    let zones = (passing.from, zone);
                    match self.open(tables, now, zones, packet, (&tuple, absent), Some(pool), false) {
                        Ok(found) => found,
                        Err(verdict) => return verdict,
                    }
                }
            };
            self.touch(tables, now, (flow, toward), packet);
            let rewrite = self.flows.rewrite(flow, toward);
            translate::apply(buffer.bytes_mut(), packet, &rewrite);
            port = rewrite.port();
        }
        // RFC 6146 3.8 says it for NAT64: the outgoing tuple enters again as an incoming one.
        match fragments::turned(buffer.bytes(), packet, port) {
            Ok(turned) => {
                let passing = Passing { stage: Stage::Inbound { hairpin: true, leased: false }, ..*passing };
                self.inbound(tables, now, &passing, buffer, &turned, target)
            }
            Err(_) => Verdict::Drop(DropReason::InternalError),
        }
    }

    /// For a pool address.
    pub(crate) fn inbound(
        &mut self,
        tables: &Tables,
        now: Time,
        passing: &Passing,
        buffer: &mut B,
        packet: &Packet,
        pool: PoolId,
    ) -> Verdict {
        let (hairpin, leased) = match passing.stage {
            Stage::Inbound { hairpin, leased } => (hairpin, leased),
            _ => (false, false),
        };
        let local = tables.forwarding.lookup(Address(packet.destination)) == Some(Route::Local);
        let nobody = |reason| if local && !hairpin { Verdict::Punt } else { Verdict::Drop(reason) };
        let port = match packet.transport {
            Transport::Tcp { destination_port, .. } | Transport::Udp { destination_port, .. } => {
                destination_port
            }
            Transport::IcmpQuery { identifier, .. } => identifier,
            Transport::IcmpError { .. } => match self.embedded_port(buffer.bytes(), packet) {
                Ok(port) => port,
                Err(reason) => return nobody(reason),
            },
            Transport::IcmpOther { .. } => return nobody(DropReason::IcmpUnknownType),
            Transport::Other if bindings::is_translated(packet.protocol) => 0,
            Transport::Other | Transport::None => return nobody(DropReason::ProtoUnsupported),
        };
        let protocol = self.port_protocol(buffer.bytes(), packet);
        let owner = match bindings::class_of(protocol) {
            ProtocolClass::Other => steering::owner_of_portless(Address(packet.destination), self.workers),
            _ => steering::owner_of_port(port, self.workers),
        };
        if owner != self.id && !leased {
            return Verdict::Cross(owner, Stage::Inbound { hairpin, leased: false }, Head::of(packet));
        }
        let lease =
            if leased { None } else { self.bindings.lease(protocol, Address(packet.destination), port) };
        if let Some(to) = lease.filter(|to| *to != self.id) {
            return Verdict::Cross(to, Stage::Inbound { hairpin, leased: true }, Head::of(packet));
        }
        if let Transport::IcmpError { .. } = packet.transport {
            return match self.related(tables, buffer, packet, None, hairpin) {
                Verdict::Drop(reason) => nobody(reason),
                verdict => verdict,
            };
        }
        let Some(tuple) = tuple_of(packet) else { return nobody(DropReason::IcmpUnknownType) };
        if packet.ttl <= 1 && !hairpin && !local {
            return refuse(DropReason::TtlExpired, IcmpKind::TimeExceeded, packet);
        }
        // Packets from outside are of no flow that sends them out; those of a host inside that is not translated may be.
        let found = if !hairpin && tables.policy.side_of(passing.from) == Side::INSIDE {
            self.flows.search(&tuple)
        } else {
            self.flows.search_whole(&tuple)
        };
        let (flow, toward) = match found {
            Ok(found) => found,
            Err(absent) => match self.accept(tables, now, passing, packet, (&tuple, absent), pool) {
                Ok(found) => found,
                Err(Verdict::Drop(DropReason::NoMapping)) if packet.transport == Transport::Other => {
                    return nobody(DropReason::ProtoUnsupported);
                }
                Err(Verdict::Drop(DropReason::NoMapping)) => return nobody(DropReason::NoMapping),
                // As below: the frame is not as its sender knows it.
                Err(Verdict::Refuse(refusal)) if hairpin => return Verdict::Drop(refusal.reason),
                Err(verdict) => return verdict,
            },
        };
        let Rewrite::Destination(end) = self.flows.rewrite(flow, toward) else {
            return Verdict::Drop(DropReason::HairpinLoop);
        };
        let route = tables.forwarding.lookup(end.address());
        let egress = match self.egress(tables, route, end.address(), packet) {
            Ok(egress) => egress,
            Err(Verdict::Refuse(refusal)) if hairpin => return Verdict::Drop(refusal.reason),
            Err(verdict) => return verdict,
        };
        // A subscriber is inside (RFC 4787 REQ-7). With its route gone, the default route leads outside.
        if tables.policy.side_of(egress.zone) != Side::INSIDE {
            return Verdict::Drop(DropReason::NoRoute);
        }
        let direction = if hairpin { Direction::Hairpin } else { Direction::Out2In };
        match self.deliver(tables, now, passing, buffer, packet, (flow, toward), egress, direction) {
            // The sender would not know the packet that the error quotes: its source is translated by now.
            Verdict::Refuse(refusal) if hairpin => Verdict::Drop(refusal.reason),
            verdict => verdict,
        }
    }

    /// Where a route leads, or what to tell the sender.
    pub(crate) fn egress(
        &self,
        tables: &Tables,
        route: Option<Route>,
        destination: Address,
        packet: &Packet,
    ) -> Result<Egress, Verdict> {
        match route {
            Some(Route::Unicast { interface, via }) => {
                let zone =
                    tables.policy.zone_of(interface).ok_or(Verdict::Drop(DropReason::NotConfigured))?;
                let mtu = tables.policy.mtu_of(interface).unwrap_or(0);
                let next_hop = NextHop { interface, address: via.unwrap_or(destination) };
                Ok(Egress { next_hop, zone, mtu })
            }
            None => Err(refuse(DropReason::NoRoute, IcmpKind::UnreachableNet, packet)),
            Some(Route::Unreachable) => {
                Err(refuse(DropReason::RouteUnreachable, IcmpKind::UnreachableHost, packet))
            }
            Some(Route::Blackhole) => Err(Verdict::Drop(DropReason::RouteUnreachable)),
            Some(Route::Local) => Err(Verdict::Drop(DropReason::HairpinLoop)),
        }
    }

    /// Opens a flow for its first packet if the firewall lets it.
    fn open(
        &mut self,
        tables: &Tables,
        now: Time,
        (from, to): (ZoneId, ZoneId),
        packet: &Packet,
        (tuple, absent): (&Tuple, Absent),
        pool: Option<PoolId>,
        inbound: bool,
    ) -> Result<(u32, Toward), Verdict> {
        let state = opening_state(packet)?;
        let first = FirstPacket { from, to, tuple: firewall_tuple(tuple), icmp: icmp_of(packet) };
        let verdict = tables.policy.firewall(&first);
        let pinhole = (verdict.action != FirewallAction::Accept && !verdict.by_rule)
            .then(|| self.pinhole_for(tuple, pool, inbound))
            .flatten();
        match pinhole {
            None => self.judge(&first, verdict, packet)?,
            Some(Ok(_)) => self.counters.verdict(from, to, FirewallAction::Accept),
            Some(Err(reason)) => return Err(Verdict::Drop(reason)),
        }
        let pinhole = pinhole.and_then(Result::ok);
        if !self.flows.has_room(inbound, packet.family == Family::V4) {
            return Err(refuse(DropReason::FlowLimit, IcmpKind::UnreachableHost, packet));
        }
        let Some(pool) = pool else {
            let flow = NewFlow {
                forward: *tuple,
                absent,
                reverse: answering(tuple),
                translated: false,
                state,
                inbound,
                created: now,
                last: now,
                binding: pinhole.unwrap_or(NONE),
            };
            return self.admit(tables, &flow).map(|number| (number, opener(inbound)));
        };
        let inside = (tuple.source, tuple.source_port);
        if let Some(record) = tables.policy.pool(pool) {
            let allowed = self.bindings.may_open(record, pool, inside.0, now);
            allowed.map_err(|reason| refuse(reason, IcmpKind::UnreachableHost, packet))?;
        }
        let internal = Verdict::Drop(DropReason::InternalError);
        if !self.settle(tuple.protocol, inside, pool) {
            return Err(internal);
        }
        let binding = match self.bindings.search(tuple.protocol, inside, pool) {
            Ok(binding) => {
                self.counters.add(Counter::EimHits, 1);
                binding
            }
            Err(unbound) => {
                let bound =
                    self.bindings.bind(&mut self.flows, &tables.policy, &unbound, now, &mut self.counters);
                // RFC 6888 REQ-11: the packet is dropped and its sender told.
                bound.map_err(|reason| refuse(reason, IcmpKind::UnreachableHost, packet))?
            }
        };
        let record = self.bindings.record(binding).ok_or(internal)?;
        let external = (record.external(), record.external_port);
        let translated = Tuple { source: external.0, source_port: external.1, ..*tuple };
        let flow = NewFlow {
            forward: *tuple,
            absent,
            reverse: answering(&translated),
            translated: true,
            state,
            inbound,
            created: now,
            last: now,
            binding,
        };
        let admitted = self.admit(tables, &flow);
        if admitted.is_err() {
            self.let_go(binding);
        }
        admitted.map(|number| (number, opener(inbound)))
    }

    /// Opens a flow from outside to a binding (endpoint-independent filtering, RFC 4787 REQ-8).
    fn accept(
        &mut self,
        tables: &Tables,
        now: Time,
        passing: &Passing,
        packet: &Packet,
        (tuple, absent): (&Tuple, Absent),
        pool: PoolId,
    ) -> Result<(u32, Toward), Verdict> {
        if let Transport::IcmpQuery { reply, .. } = packet.transport {
            let reason = if reply { DropReason::IcmpReplyUnasked } else { DropReason::NoMapping };
            return Err(Verdict::Drop(reason));
        }
        let number = self
            .bindings
            .of_external(tuple.protocol, tuple.destination, tuple.destination_port)
            .ok_or(Verdict::Drop(DropReason::NoMapping))?;
        let internal = Verdict::Drop(DropReason::InternalError);
        let Some(binding) = self.bindings.copy(&self.flows, number) else { return Err(internal) };
        let remote = (tuple.source, tuple.source_port);
        if let Err(reason) = self.bindings.admits(&tables.policy, (number, &binding), remote) {
            self.counters.add(Counter::EifFiltered, 1);
            return Err(Verdict::Drop(reason));
        }
        let state = opening_state(packet)?;
        let inside = (binding.inside(), binding.inside_port);
        let translated = Tuple { destination: inside.0, destination_port: inside.1, ..*tuple };
        let route = tables.forwarding.lookup(inside.0);
        let egress = self.egress(tables, route, inside.0, packet)?;
        if tables.policy.side_of(egress.zone) != Side::INSIDE {
            return Err(Verdict::Drop(DropReason::NoRoute));
        }
        // A binding stands for the zone pair's default; a rule still has the last word. A hairpinned packet
        // comes from the pool's zone by its address and from its sender's in truth: both have a say, or a
        // pool address were the way around a rule between inside zones.
        let hairpin = matches!(passing.stage, Stage::Inbound { hairpin: true, .. });
        let seen_from = tables.policy.pool(pool).filter(|_| hairpin).map(|pool| pool.zone);
        for from in seen_from.into_iter().chain([passing.from]) {
            let first = FirstPacket { from, to: egress.zone, tuple: translated, icmp: None };
            let verdict = tables.policy.firewall(&first);
            if verdict.by_rule && verdict.action != FirewallAction::Accept {
                self.judge(&first, verdict, packet)?;
            } else if verdict.by_rule {
                self.hits.count(verdict.rule);
            }
        }
        self.counters.verdict(seen_from.unwrap_or(passing.from), egress.zone, FirewallAction::Accept);
        if !self.flows.has_room(true, true) {
            return Err(refuse(DropReason::FlowLimit, IcmpKind::UnreachableHost, packet));
        }
        let reverse = answering(&translated);
        // The inside end talks to this remote end through its mapping in another pool: packets of both could
        // not be told apart.
        if self.flows.find(&reverse).is_some() {
            return Err(Verdict::Drop(DropReason::FilteredRemote));
        }
        let refreshes = tables.policy.settings.flags & SettingsRecord::UDP_INBOUND_REFRESH != 0;
        let last = if binding.class() == ProtocolClass::Udp && binding.is_dynamic() && !refreshes {
            self.last_from_inside(&binding, now)
        } else {
            now
        };
        let Some(number) = self.with_record(number) else { return Err(internal) };
        let flow = NewFlow {
            forward: *tuple,
            absent,
            reverse,
            translated: true,
            state,
            inbound: true,
            created: now,
            last,
            binding: number,
        };
        self.counters.add(Counter::EifHits, 1);
        self.admit(tables, &flow).map(|number| (number, opener(true)))
    }

    /// Counts the firewall's answer, and turns a refusal into a verdict.
    fn judge(
        &mut self,
        first: &FirstPacket,
        verdict: policy::Verdict,
        packet: &Packet,
    ) -> Result<(), Verdict> {
        self.counters.verdict(first.from, first.to, verdict.action);
        if verdict.by_rule {
            self.hits.count(verdict.rule);
        }
        let reason =
            if verdict.by_rule { DropReason::FirewallRuleDeny } else { DropReason::FirewallDefaultDeny };
        match verdict.action {
            FirewallAction::Accept => Ok(()),
            FirewallAction::Drop => Err(Verdict::Drop(reason)),
            FirewallAction::Reject => Err(refuse(reason, IcmpKind::UnreachableAdmin, packet)),
        }
    }

    /// The pinhole that lets a flow pass which the zones' default refuses, or why it does not.
    pub(crate) fn pinhole_for(
        &self,
        tuple: &Tuple,
        pool: Option<PoolId>,
        inbound: bool,
    ) -> Option<Result<u32, DropReason>> {
        let (inside, remote) =
            ((tuple.source, tuple.source_port), (tuple.destination, tuple.destination_port));
        let (inside, remote) = if inbound { (remote, inside) } else { (inside, remote) };
        let endpoint = (tuple.protocol, inside.0, inside.1, pool.unwrap_or(BindingRow::NO_POOL));
        let found = self.bindings.opened_by(endpoint, remote, inbound)?;
        // One that is for others says nothing: the default does.
        (found != Err(DropReason::FilteredRemote)).then_some(found)
    }

    /// When a packet last came from inside through a binding. RFC 4787 REQ-6: what comes from outside does not
    /// keep a mapping, a new flow no more than a packet. The path stamps flows only, so the newest of the first
    /// few of them tells; a binding with more has lived by one of those.
    fn last_from_inside(&self, binding: &bindings::Binding, now: Time) -> Time {
        let mut idle = binding.idle_ms(now);
        let mut number = binding.first_flow;
        for _ in 0..LOOKED_AT {
            let Some(flow) = self.flows.record(number) else { break };
            idle = idle.min(flow.idle_ms(now.0));
            number = self.flows.next(number);
        }
        Time(now.0 - idle.min(now.0))
    }

    /// Files a new flow and hangs it into its binding's list.
    fn admit(&mut self, tables: &Tables, flow: &NewFlow) -> Result<u32, Verdict> {
        let class = bindings::class_of(flow.forward.protocol);
        let due = due(tables, class, flow.state, flow.last);
        let number = self.flows.insert(flow, due).ok_or(Verdict::Drop(DropReason::InternalError))?;
        self.counters.flow_created(class, flow.state);
        let out = if flow.inbound { &flow.reverse } else { &flow.forward };
        self.hang((number, flow.binding), (out.destination, out.destination_port), flow.inbound);
        Ok(number)
    }

    /// Hangs a new flow into its binding's list.
    pub(crate) fn hang(&mut self, (flow, binding): (u32, u32), remote: (Address, u16), inbound: bool) {
        if let Some(first) = self.bindings.hang(binding, flow) {
            self.flows.link(flow, first);
            self.bindings.flow_opened(binding, remote, inbound);
        }
    }

    /// The number of a binding once it has a record, which it gets if it has none.
    pub(crate) fn with_record(&mut self, binding: u32) -> Option<u32> {
        let Some(flow) = sole::flow_of(binding) else { return Some(binding) };
        self.bindings.give_record(&mut self.flows, flow)
    }

    /// Sees to it that the binding of an inside endpoint has a record, if there is one. `false` if there is no room for it:
    /// whoever looks for bindings with a record would make a second one then.
    pub(crate) fn settle(&mut self, protocol: u8, inside: (Address, u16), pool: PoolId) -> bool {
        let binding = self.bindings.any_of_inside(&self.flows, protocol, inside, pool);
        binding.is_none_or(|binding| self.with_record(binding).is_some())
    }

    /// Removes a binding that no flow uses after all.
    pub(crate) fn let_go(&mut self, binding: u32) {
        if let Some(flow) = sole::flow_of(binding) {
            if let Some(record) = self.flows.record(flow)
                && let Some(place) = self.bindings.leaving_with(record)
            {
                self.bindings.remove_sole(record, &place, &mut self.counters);
            }
        } else if self
            .bindings
            .record(binding)
            .is_some_and(|record| !record.is_in_use() && record.is_dynamic())
        {
            self.bindings.remove(&mut self.flows, binding, &mut self.counters);
        }
    }

    /// What happens to a packet of a known flow on its way out: TTL, MTU, state, rewrite.
    fn deliver(
        &mut self,
        tables: &Tables,
        now: Time,
        passing: &Passing,
        buffer: &mut B,
        packet: &Packet,
        (flow, toward): (u32, Toward),
        egress: Egress,
        direction: Direction,
    ) -> Verdict {
        if packet.ttl <= 1 {
            return refuse(DropReason::TtlExpired, IcmpKind::TimeExceeded, packet);
        }
        let too_big = packet.end - packet.l3 > usize::from(egress.mtu);
        if too_big && packet.dont_fragment {
            return Verdict::Refuse(Refusal {
                reason: DropReason::MtuExceeded,
                kind: IcmpKind::FragNeeded,
                mtu: egress.mtu,
                packet: *packet,
            });
        }
        self.touch(tables, now, (flow, toward), packet);
        let settled = match self.passes_by(tables, passing, packet, (flow, toward), &egress) {
            Ok(settled) => settled,
            Err(reason) => return Verdict::Drop(reason),
        };
        // A hairpinned packet comes back in as another: each has the long way to go.
        let hop = if direction != Direction::Hairpin && settled {
            self.remember(flow, toward, passing.on, &egress)
        } else {
            NO_HOP
        };
        let rewrite = self.flows.rewrite(flow, toward);
        let frame = buffer.bytes_mut();
        translate::apply(frame, packet, &rewrite);
        rewrite::decrement_ttl(frame, packet.l3, packet.family);
        if tables.policy.settings.mss_clamp == 1 {
            self.clamp(tables, passing, frame, packet, &egress, direction);
        }
        let class = bindings::class_of(packet.protocol);
        let next_hop = egress.next_hop;
        if too_big {
            Verdict::Split { next_hop, packet: *packet, direction, class, mtu: egress.mtu }
        } else {
            Verdict::Transmit { next_hop, hop, packet: *packet, direction, class }
        }
    }

    /// Leaves in the flow's record what the fast path needs for the next packet of this direction. Returns the next
    /// hop's place among the adjacencies, or [`NO_HOP`].
    fn remember(&mut self, flow: u32, toward: Toward, on: InterfaceId, egress: &Egress) -> u16 {
        if !self.neighbours.has_places() {
            self.neighbours.forget_places();
            self.next_epoch();
        }
        let Some(interface) = self.interfaces.get(egress.next_hop.interface.index()) else { return NO_HOP };
        let hop = self.neighbours.adjacency(egress.next_hop, interface, egress.mtu).unwrap_or(NO_HOP);
        let Some(record) = self.flows.record_mut(flow) else { return hop };
        if record.epoch != self.epoch {
            record.epoch = self.epoch;
            record.hops = [NO_HOP; 2];
            record.ingress = [NO_INGRESS; 2];
        }
        let at = toward as usize;
        if let (Some(to), Some(from)) = (record.hops.get_mut(at), record.ingress.get_mut(at)) {
            *to = hop;
            *from = u8::try_from(on.0).unwrap_or(NO_INGRESS);
        }
        hop
    }

    /// Lowers the MSS of a SYN to what both links carry.
    fn clamp(
        &mut self,
        tables: &Tables,
        passing: &Passing,
        frame: &mut [u8],
        packet: &Packet,
        egress: &Egress,
        direction: Direction,
    ) {
        let Transport::Tcp { flags, .. } = packet.transport else { return };
        if flags & TCP_SYN == 0 {
            return;
        }
        let headers = if packet.family == Family::V4 { 40 } else { 60 };
        let mtu = tables.policy.mtu_of(passing.on).unwrap_or(egress.mtu).min(egress.mtu);
        if rewrite::clamp_mss(frame, packet, mtu.saturating_sub(headers)) {
            let counter = if direction == Direction::Out2In {
                Counter::MssClampedOut2In
            } else {
                Counter::MssClampedIn2Out
            };
            self.counters.add(counter, 1);
        }
    }

    /// Notes a packet in its flow: counters, TCP state, and the stamp if it counts against idleness.
    fn touch(&mut self, tables: &Tables, now: Time, (flow, toward): (u32, Toward), packet: &Packet) {
        let Some(record) = self.flows.record_mut(flow) else { return };
        record.count(toward, (packet.end - packet.l3) as u64);
        match packet.transport {
            Transport::Tcp { flags, .. } => {
                let before = record.tcp_state();
                let state = tcp::next(before, flags, toward == opener(record.has(flag::INBOUND)));
                if state != before {
                    self.counters.tcp_state(before, state);
                    record.set_tcp_state(state);
                }
                record.mark(flag::RESET, state == TcpState::Transitory);
                record.stamp = now.0 as u32;
            }
            // RFC 4787 REQ-6: outbound packets refresh; inbound ones if the operator says so.
            Transport::Udp { .. } => {
                let inbound_counts = tables.policy.settings.flags & SettingsRecord::UDP_INBOUND_REFRESH != 0;
                if toward == Toward::Out || inbound_counts {
                    record.stamp = now.0 as u32;
                }
            }
            _ => record.stamp = now.0 as u32,
        }
    }

    /// The MTU and next hop of an interface for a packet that belongs to no flow of its own.
    pub(crate) fn related_egress(
        &self,
        tables: &Tables,
        to: Address,
        packet: &Packet,
    ) -> Result<Egress, Verdict> {
        self.egress(tables, tables.forwarding.lookup(to), to, packet)
    }

    /// Whether an interface exists; the control plane's word for it is not enough.
    pub(crate) fn has_interface(&self, interface: InterfaceId) -> bool {
        interface.index() < self.interfaces.len()
    }
}

/// The TCP state of a first packet, or why it cannot be one.
fn opening_state(packet: &Packet) -> Result<TcpState, Verdict> {
    match packet.transport {
        Transport::Tcp { flags, .. } if tcp::opens(flags) => Ok(TcpState::Init),
        Transport::Tcp { .. } => Err(Verdict::Drop(DropReason::SynRequired)),
        Transport::IcmpQuery { reply: true, .. } => Err(Verdict::Drop(DropReason::IcmpReplyUnasked)),
        _ => Ok(TcpState::None),
    }
}

/// The direction of packets from the end that opened a flow.
const fn opener(inbound: bool) -> Toward {
    if inbound { Toward::In } else { Toward::Out }
}

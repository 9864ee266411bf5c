//! Commands of the control plane. What they hold is checked field by field: the sender is not trusted.

use crate::bindings::{Binding, Shown, class_of, is_translated, sole};
use crate::expiry::timeout_ms;
use crate::flows::ends_of;
use crate::neighbours::NextHop;
use crate::outbox::Outbox;
use crate::pipeline::{Tables, Worker};
use crate::policy::has_ports;
use crate::ports::Coming;
use crate::{Buffer, Time, Violation};
use turnpike_abi::command::{
    Kind, Look, MAX_RANGE, NeighbourClear, NeighbourSet, NeighboursReset, Parity, PinholeAdd, PinholeRemove,
    PortLease, PortsRelease, PortsReserve, Slot, Walk, WalkTable,
};
use turnpike_abi::counters::{Counter, FlowEnd, ProtocolClass};
use turnpike_abi::event::{Ack, AckResult, BindingRow, Seen, WalkEnd};
use turnpike_abi::flow::{NONE, Toward, flag};
use turnpike_abi::layout::MAGIC;
use turnpike_wire::ethernet;

/// Most rows one walk sends.
const WALK_ROWS: u32 = 256;
/// Most flows a look goes through, the newest first.
const LOOK_FLOWS: usize = 256;
/// Most records one walk looks at: those of a large table that is nearly empty now hold packets up as well.
const WALK_RECORDS: usize = 2048;
/// Likewise units of 64 ports.
const WALK_UNITS: usize = 512;

/// Where a walk over bindings begins with those that have no port of their own: beyond every port's slot.
const PORTLESS: usize = 1 << 40;
/// A cursor over bindings counts the pools' cuts from here on, by as many bits.
const CUT: usize = 1 << 41;
const CUTS: usize = (1 << 20) - 1;

/// Protocols without ports that pinholes of the firewall may be for, besides those that are translated too.
const GRE: u8 = 47;
const ESP: u8 = 50;

type Answer = Result<AckResult, Violation>;

impl<B: Buffer> Worker<B> {
    /// Carries a command out and answers it.
    pub(crate) fn command(
        &mut self,
        tables: Option<&Tables>,
        now: Time,
        slot: &Slot,
        out: &mut Outbox<B>,
    ) -> Result<(), Violation> {
        let mut ack = Ack::default();
        ack.result = match slot.header.kind {
            Kind::NEIGHBOUR_SET => self.neighbour_set(&slot.body(), out)?,
            Kind::NEIGHBOUR_CLEAR => self.neighbour_clear(&slot.body(), out)?,
            Kind::NEIGHBOURS_RESET => {
                let NeighboursReset { magic } = slot.body();
                if magic != MAGIC {
                    return Err(Violation("malformed reset of neighbours"));
                }
                self.neighbours.reset();
                AckResult::OK
            }
            Kind::PINHOLE_ADD => self.pinhole_add(tables, now, &slot.body(), &mut ack)?,
            Kind::PINHOLE_REMOVE => {
                let PinholeRemove { id, drain, reserved } = slot.body();
                if drain > 1 || reserved != [0; 7] {
                    return Err(Violation("malformed removal of a pinhole"));
                }
                if self.close_pinhole(id, drain == 1) { AckResult::OK } else { AckResult::NOT_FOUND }
            }
            Kind::PORTS_RESERVE => self.ports_reserve(tables, now, &slot.body(), &mut ack)?,
            Kind::PORTS_RELEASE => {
                let PortsRelease { id } = slot.body();
                self.bindings.ports.at(now);
                match self.bindings.release_reservation(id) {
                    Ok(()) => AckResult::OK,
                    Err(result) => result,
                }
            }
            Kind::PORT_LEASE => self.port_lease(tables, now, &slot.body())?,
            Kind::PORT_RELEASE => {
                let lease: PortLease = slot.body();
                self.bindings.ports.at(now);
                if lease.owner == self.id {
                    // Asked of the worker that has it: the port goes back only when nothing here uses it.
                    if self.bindings.uses_lease(&lease) { AckResult::PORT_TAKEN } else { AckResult::OK }
                } else {
                    match self.bindings.release_port(&lease) {
                        Ok(()) => AckResult::OK,
                        Err(result) => result,
                    }
                }
            }
            // Its answer is what is seen.
            Kind::LOOK => {
                let seen = self.look(tables, now, &slot.body())?;
                self.counters.add(Counter::Commands, 1);
                self.event(Slot::new(Kind::SEEN, slot.header.sequence, &seen), out);
                return Ok(());
            }
            // Its answer is the rows.
            Kind::WALK => {
                self.counters.add(Counter::Commands, 1);
                return self.walk(now, slot, out);
            }
            _ => return Err(Violation("unknown kind of command")),
        };
        let counter = if ack.result == AckResult::OK { Counter::Commands } else { Counter::CommandsRefused };
        self.counters.add(counter, 1);
        self.counters.set(Counter::Neighbours, self.neighbours.known() as u64);
        self.counters.set(Counter::Pinholes, self.bindings.pinholes() as u64);
        self.event(Slot::new(Kind::ACK, slot.header.sequence, &ack), out);
        Ok(())
    }

    fn neighbour_set(&mut self, set: &NeighbourSet, out: &mut Outbox<B>) -> Answer {
        if !self.has_interface(set.interface) {
            return Err(Violation("neighbour on an unknown interface"));
        }
        if ethernet::is_multicast(set.mac) || set.mac == [0; 6] {
            return Err(Violation("station address of a neighbour is not unicast"));
        }
        let next_hop = NextHop { interface: set.interface, address: set.address };
        if !self.neighbours.set(next_hop, set.mac) {
            return Ok(AckResult::TABLE_FULL);
        }
        self.release_waiting(next_hop, set.mac, out);
        Ok(AckResult::OK)
    }

    fn neighbour_clear(&mut self, clear: &NeighbourClear, out: &mut Outbox<B>) -> Answer {
        if !self.has_interface(clear.interface) || clear.failed > 1 {
            return Err(Violation("malformed neighbour"));
        }
        let next_hop = NextHop { interface: clear.interface, address: clear.address };
        self.neighbours.clear(next_hop);
        if clear.failed == 1 {
            self.drop_waiting(next_hop, out);
        }
        Ok(AckResult::OK)
    }

    fn pinhole_add(&mut self, tables: Option<&Tables>, now: Time, add: &PinholeAdd, ack: &mut Ack) -> Answer {
        let malformed = Err(Violation("malformed pinhole"));
        let has = |flag| add.flags & flag != 0;
        let both = |a, b| has(a) && has(b);
        let contradictory = both(PinholeAdd::INBOUND, PinholeAdd::OUTBOUND)
            || both(PinholeAdd::LOCK_ADDRESS, PinholeAdd::LOCK_ENDPOINT)
            || both(PinholeAdd::EVEN, PinholeAdd::ODD)
            || both(PinholeAdd::LEASED, PinholeAdd::RESERVED)
            || has(PinholeAdd::RESERVED) != (add.reservation != 0)
            || (!has(PinholeAdd::POOL) && has(PinholeAdd::LEASED | PinholeAdd::RESERVED));
        if add.id == 0 || add.flags & !PinholeAdd::FLAGS != 0 || contradictory || add.ports > MAX_RANGE {
            return malformed;
        }
        let translated = has(PinholeAdd::POOL);
        let class = class_of(add.protocol);
        let ports = u16::from(add.ports.max(1));
        let known_protocol = match add.protocol {
            protocol if is_translated(protocol) => true,
            GRE | ESP => !translated,
            protocol => has_ports(protocol) && (!translated || class != ProtocolClass::Other),
        };
        let portless = !has_ports(add.protocol);
        let sound_ports = if portless {
            ports == 1 && add.inside_port == 0 && add.external_port == 0 && !has(PinholeAdd::RESERVED)
        } else {
            add.inside_port != 0 && add.inside_port.checked_add(ports - 1).is_some()
        };
        if !known_protocol || !sound_ports || !add.remote.is_canonical() {
            return malformed;
        }
        if add.remote_port_first > add.remote_port_last || add.inside.is_unspecified() {
            return malformed;
        }
        if translated && !add.inside.is_v4() {
            return Err(Violation("translated pinhole for an IPv6 host"));
        }
        let nowhere = add.external.is_unspecified() || (add.external_port == 0 && !portless);
        if has(PinholeAdd::LEASED) && nowhere {
            return Err(Violation("leased pinhole without external port"));
        }
        let Some(tables) = tables else { return Ok(AckResult::NO_POLICY) };
        if translated {
            for at in 0..ports {
                if !self.settle(add.protocol, (add.inside, add.inside_port + at), add.pool) {
                    return Ok(AckResult::TABLE_FULL);
                }
            }
        }
        if has(PinholeAdd::RESERVED)
            && let Err(result) = self.make_way(tables, add)
        {
            return Ok(result);
        }
        Ok(match self.bindings.add_pinhole(&mut self.flows, &tables.policy, add, now, &mut self.counters) {
            Ok(number) => {
                if let Some(binding) = self.bindings.record(number) {
                    (ack.external, ack.external_port) = (binding.external(), binding.external_port);
                }
                for at in 0..ports {
                    self.pinholes_changed(add, at);
                }
                AckResult::OK
            }
            Err(result) => result,
        })
    }

    fn ports_reserve(
        &mut self,
        tables: Option<&Tables>,
        now: Time,
        wanted: &PortsReserve,
        ack: &mut Ack,
    ) -> Answer {
        let protocol = matches!(class_of(wanted.protocol), ProtocolClass::Tcp | ProtocolClass::Udp);
        let parity = matches!(wanted.parity, Parity::ANY | Parity::EVEN | Parity::ODD);
        let somebody = !wanted.inside.is_unspecified();
        let sound = wanted.id != 0 && wanted.again <= 1 && (1..=MAX_RANGE).contains(&wanted.ports);
        if !sound || !protocol || !parity {
            return Err(Violation("malformed reservation"));
        }
        if somebody && !wanted.inside.is_v4() {
            return Err(Violation("reservation for an IPv6 host"));
        }
        let Some(tables) = tables else { return Ok(AckResult::NO_POLICY) };
        self.bindings.ports.at(now);
        Ok(match self.bindings.reserve(&tables.policy, wanted) {
            Ok(end) => {
                (ack.external, ack.external_port) = end;
                AckResult::OK
            }
            Err(result) => result,
        })
    }

    fn port_lease(&mut self, tables: Option<&Tables>, now: Time, lease: &PortLease) -> Answer {
        let whose = lease.owner.0 < self.workers && lease.owner != self.id;
        if !whose || lease.ports > MAX_RANGE || lease.again > 1 {
            return Err(Violation("malformed port lease"));
        }
        let ports = u16::from(lease.ports.max(1));
        let sound = match class_of(lease.protocol) {
            ProtocolClass::Tcp | ProtocolClass::Udp => {
                lease.external_port != 0 && lease.external_port.checked_add(ports - 1).is_some()
            }
            _ => {
                is_translated(lease.protocol) && (lease.external_port, ports, lease.reservation) == (0, 1, 0)
            }
        };
        if !sound {
            return Err(Violation("port lease for a protocol without ports"));
        }
        let Some(tables) = tables else { return Ok(AckResult::NO_POLICY) };
        self.bindings.ports.at(now);
        Ok(match self.bindings.lease_port(&tables.policy, lease) {
            Ok(()) => AckResult::OK,
            Err(result) => result,
        })
    }

    /// What an inside end has, and how long packets keep it.
    fn look(&self, tables: Option<&Tables>, now: Time, look: &Look) -> Result<Seen, Violation> {
        if look.inside.is_unspecified() || look.reserved != [0; 3] {
            return Err(Violation("malformed look"));
        }
        let mut seen = Seen::default();
        let inside = (look.inside, look.inside_port);
        let found = self.bindings.any_of_inside(&self.flows, look.protocol, inside, look.pool);
        let Some(binding) = found.and_then(|number| self.bindings.copy(&self.flows, number)) else {
            seen.external = self.bindings.external_of(look.inside, look.pool).unwrap_or_default();
            return Ok(seen);
        };
        (seen.external, seen.external_port) = (binding.external(), binding.external_port);
        seen.flags = if binding.is_dynamic() { Seen::DYNAMIC } else { 0 };
        let Some(tables) = tables else { return Ok(seen) };
        let mut number = binding.first_flow;
        for _ in 0..LOOK_FLOWS {
            let Some(flow) = self.flows.record(number) else { break };
            // What the host never answered it does not keep (RFC 4787 REQ-6).
            if flow.traffic(Toward::Out).0 > 0 {
                let left = timeout_ms(flow, &tables.policy.settings).saturating_sub(flow.idle_ms(now.0));
                seen.remaining_ms = seen.remaining_ms.max(left);
            }
            number = self.flows.next(number);
        }
        Ok(seen)
    }

    fn walk(&mut self, now: Time, slot: &Slot, out: &mut Outbox<B>) -> Result<(), Violation> {
        let walk: Walk = slot.body();
        if walk.limit == 0 || walk.limit > WALK_ROWS {
            return Err(Violation("walk for more rows than fit"));
        }
        let sequence = slot.header.sequence;
        let (cursor, limit) = (usize::try_from(walk.cursor).unwrap_or(usize::MAX), walk.limit as usize);
        let mut end = WalkEnd::default();
        // Where it goes on: at a row that found no room, or where it stopped looking.
        let mut send =
            |mut rows: &mut dyn Iterator<Item = (usize, BindingRow)>, stop: usize, records: usize| {
                for (_, row) in (&mut rows).take(limit - end.rows as usize) {
                    end.rows += 1;
                    out.events.push(Slot::new(Kind::BINDING_ROW, sequence, &row));
                }
                rows.next().map_or(after(stop, records), |(next, _)| next as u64)
            };
        let stop = cursor.saturating_add(WALK_RECORDS);
        let bindings = &self.bindings;
        let (reservations, leases) = bindings.held_places();
        end.cursor = match walk.table {
            // Those with a port of their own by that, which keeps its slot whatever becomes of the binding; then the
            // others, which all have a record.
            WalkTable::BINDINGS => {
                let row = |(place, number)| {
                    let binding = bindings.copy(&self.flows, number)?;
                    Some((place, self.row(now, (number, &binding), bindings.shown(number))))
                };
                let (slots, cuts) = bindings.ports.slots();
                let cut = (cuts as usize & CUTS) * CUT;
                // Ports lie elsewhere since: from the beginning, so that none is missed.
                let cursor = if cursor / CUT * CUT == cut { cursor - cut } else { 0 };
                let mut next = cursor;
                if cursor < PORTLESS {
                    let rows = bindings.ports.walk_bound(cursor, WALK_UNITS);
                    let stop = (cursor / 64 + WALK_UNITS) * 64;
                    next = (send(&mut rows.filter_map(row), stop, slots) as usize).min(PORTLESS);
                }
                let mut end = next as u64;
                if let Some(from) = next.checked_sub(PORTLESS) {
                    let rows = bindings.walk_portless(from, WALK_RECORDS);
                    let rows = rows.map(|number| (PORTLESS + number as usize, number));
                    end = send(&mut rows.filter_map(row), next + WALK_RECORDS, PORTLESS + bindings.records());
                }
                if end == WalkEnd::DONE { end } else { end + cut as u64 }
            }
            WalkTable::PINHOLES => {
                let rows = bindings.walk_pinholes(cursor, WALK_RECORDS);
                let row = |(number, binding, pinhole)| (number, self.row(now, binding, pinhole));
                send(&mut rows.map(row), stop, bindings.pinhole_records())
            }
            WalkTable::RESERVATIONS => {
                send(&mut bindings.walk_reservations(cursor, WALK_RECORDS), stop, reservations)
            }
            WalkTable::LEASES => send(&mut bindings.walk_leases(cursor, WALK_RECORDS), stop, leases),
            WalkTable::BLOCKS => {
                let mut rows = self.bindings.ports.walk_blocks(cursor, WALK_RECORDS, now);
                for (_, row) in rows.by_ref().take(limit) {
                    end.rows += 1;
                    out.events.push(Slot::new(Kind::PORTS_HELD, sequence, &row));
                }
                rows.next().map_or(after(stop, self.bindings.ports.blocks()), |(next, _)| next as u64)
            }
            _ => return Err(Violation("walk over an unknown table")),
        };
        out.events.push(Slot::new(Kind::WALK_END, sequence, &end));
        Ok(())
    }

    /// A binding as a row shows it, with one of its pinholes.
    fn row(&self, now: Time, (number, binding): (u32, &Binding), pinhole: Shown) -> BindingRow {
        BindingRow {
            inside: self.bindings.inside_of(binding),
            external: binding.external(),
            remote: pinhole.remote,
            pinhole: pinhole.id,
            age_ms: binding.age_ms(now),
            flows: self.bindings.flows_of(number),
            inside_port: binding.inside_port,
            external_port: binding.external_port,
            pool: binding.pool,
            protocol: binding.protocol,
            worker: self.id,
            remote_ports: pinhole.remote_ports,
        }
    }

    /// Prepares for another policy: bindings whose address left their pool end.
    pub(crate) fn policy_changed(&mut self, tables: &Tables) {
        let coming = self.bindings.ports.coming(&tables.policy);
        if coming.moves {
            self.settle_moving(&coming);
        }
        if self.bindings.set_pools(&tables.policy, coming) {
            for (_, flow) in self.flows.walk(0, usize::MAX) {
                let Some(((remote, _), inbound)) = self.remote_of(flow) else { continue };
                let translated = self.flows.record(flow).is_some_and(|record| record.has(flag::TRANSLATED));
                if translated && !inbound {
                    self.bindings.asked(self.flows.binding(flow), remote);
                }
            }
        }
        let mut from = 0;
        while let Some(outdated) = self.bindings.outdated(&tables.policy, from) {
            self.bindings.lost(outdated as u32, &mut self.counters);
            self.end_binding(outdated as u32, FlowEnd::Policy);
            from = outdated + 1;
        }
        if from > 0 {
            self.flows.look_at_all();
        }
    }

    /// Sees to it that every binding whose port will not stay where it is has a record when other pools come.
    fn settle_moving(&mut self, coming: &Coming) {
        for place in 0..self.flows.places() {
            let binding = self.flows.at(place).map_or(NONE, |flow| self.flows.binding(flow));
            let Some(flow) = sole::flow_of(binding) else { continue };
            let external = self.flows.record(flow).map(|record| ends_of(record).1.0);
            if external.is_some_and(|external| !self.bindings.ports.stays(external, coming)) {
                self.with_record(sole::binding_of(flow));
            }
        }
    }
}

/// Where a walk goes on that stopped looking at a place, of so many.
const fn after(stop: usize, places: usize) -> u64 {
    if stop < places { stop as u64 } else { WalkEnd::DONE }
}

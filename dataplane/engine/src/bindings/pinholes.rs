//! Pinholes: who may use a binding, in which direction, how many at a time, and who has it for himself.
//!
//! A binding has a list of them. A pinhole of several ports is a chain with one record for each.

use super::{Binding, Bindings, class_of, port_error};
use crate::Time;
use crate::flows::Flows;
use crate::policy::{Policy, admits};
use crate::ports::{Class, Entry, Taken, Wanted};
use turnpike_abi::command::{Kind, Parity, PinholeAdd, Slot};
use turnpike_abi::counters::{Counter, Counters, DropReason};
use turnpike_abi::event::{AckResult, BindingRow, PinholeClosed, PinholeLocked};
use turnpike_abi::flow::NONE;
use turnpike_abi::{Address, PoolId, Prefix, steering};

/// What a row shows of a pinhole: its id, and who may use it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    pub(crate) id: u64,
    pub(crate) remote: Prefix,
    pub(crate) remote_ports: [u16; 2],
}

/// A port of a pinhole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pinhole {
    id: u64,
    remote: Prefix,
    remote_ports: [u16; 2],
    pub(super) binding: u32,
    /// Next of the binding.
    next: u32,
    /// Next of the id.
    sibling: u32,
    flags: u16,
    max_flows: u16,
    /// Live flows that it let pass.
    flows: u32,
    /// Somebody has it for himself: `remote` and `remote_ports` are his.
    locked: bool,
    /// Closes; takes nobody new.
    closed: bool,
}

/// A pinhole that closes, and whether its flows are cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Closing {
    pub(crate) binding: u32,
    pub(crate) pinhole: u32,
}

impl Pinhole {
    const fn shown(&self) -> Shown {
        Shown { id: self.id, remote: self.remote, remote_ports: self.remote_ports }
    }

    fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    fn matches(&self, (address, port): (Address, u16)) -> bool {
        admits(&self.remote, self.remote_ports, address, port)
    }

    fn opens(&self, inbound: bool) -> bool {
        !self.has(if inbound { PinholeAdd::OUTBOUND } else { PinholeAdd::INBOUND })
    }

    fn locks(&self) -> bool {
        !self.locked && self.has(PinholeAdd::LOCK_ADDRESS | PinholeAdd::LOCK_ENDPOINT)
    }

    /// Whether it lets another flow pass.
    fn admit(&self, remote: (Address, u16), inbound: bool) -> Result<(), DropReason> {
        if self.closed || !self.matches(remote) {
            let locked = self.locked && !self.closed;
            return Err(if locked { DropReason::PinholeLocked } else { DropReason::FilteredRemote });
        }
        if !self.opens(inbound) {
            return Err(DropReason::PinholeOneWay);
        }
        if inbound && self.locks() && self.flows >= u32::from(PinholeAdd::CANDIDATES) {
            return Err(DropReason::PinholeLocked);
        }
        if self.max_flows != 0 && self.flows >= u32::from(self.max_flows) {
            return Err(DropReason::PinholeFlows);
        }
        Ok(())
    }
}

/// A packet of a flow that may be through a pinhole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PassingBy {
    /// It goes from inside to outside.
    pub(crate) outwards: bool,
    /// It shows that both ends take part: the handshake is complete, or the inside end replies.
    pub(crate) alive: bool,
    /// TCP is closing.
    pub(crate) ends: bool,
    /// Not TCP, and the zones would not let the inside end open the flow: only pinholes let it pass, each in
    /// its direction (RFC 5189 2.3.5).
    pub(crate) by_pinhole_only: bool,
}

/// What a packet of a flow through a pinhole means to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passage {
    /// Nothing more: later packets of this direction need no second look.
    Settled,
    /// Later packets are to be looked at too.
    Watched,
    /// It goes against the only direction that the pinholes allow.
    Against,
}

impl Bindings {
    /// The pinholes of a list, first to last.
    fn list(&self, first: u32) -> impl Iterator<Item = (u32, &Pinhole)> {
        let mut next = first;
        core::iter::from_fn(move || {
            let number = next;
            let pinhole = self.pinholes.get(number as usize)?;
            next = pinhole.next;
            Some((number, pinhole))
        })
    }

    /// The pinhole that lets a new flow pass.
    ///
    /// # Errors
    /// Why none of the list does.
    pub(super) fn pinhole_admits(
        &self,
        first: u32,
        remote: (Address, u16),
        inbound: bool,
    ) -> Result<u32, DropReason> {
        let mut why = DropReason::FilteredRemote;
        for (number, pinhole) in self.list(first) {
            match pinhole.admit(remote, inbound) {
                Ok(()) => return Ok(number),
                Err(DropReason::FilteredRemote) => {}
                Err(reason) => why = reason,
            }
        }
        Err(why)
    }

    /// Whether a pinhole of an inside endpoint lets a new flow pass that the zones' default would not.
    pub(crate) fn opened_by(
        &self,
        endpoint: (u8, Address, u16, PoolId),
        remote: (Address, u16),
        inbound: bool,
    ) -> Option<Result<u32, DropReason>> {
        let (protocol, address, port, pool) = endpoint;
        let number = self.of_inside(protocol, address, port, pool)?;
        self.record(number).filter(|record| !record.is_dynamic())?;
        Some(self.pinhole_admits(self.pinhole_of(number), remote, inbound).map(|_| number))
    }

    /// The pinhole that a flow counts in: the first that would have let it pass.
    fn home(&self, first: u32, remote: (Address, u16), inbound: bool) -> Option<u32> {
        let mut list = self.list(first);
        list.find(|(_, pinhole)| pinhole.matches(remote) && pinhole.opens(inbound)).map(|(number, _)| number)
    }

    pub(super) fn count_in_pinhole(&mut self, first: u32, remote: (Address, u16), inbound: bool, in_: bool) {
        let Some(home) = self.home(first, remote, inbound) else { return };
        let Some(pinhole) = self.pinholes.get_mut(home as usize) else { return };
        pinhole.flows = if in_ { pinhole.flows + 1 } else { pinhole.flows.saturating_sub(1) };
        if !in_ && pinhole.has(PinholeAdd::CLOSE_ON_END) && !pinhole.locks() {
            self.close_soon(home);
        }
    }

    /// What a packet of a flow means to its pinholes, and whether one of them was locked by it.
    pub(crate) fn passage(
        &mut self,
        number: u32,
        remote: (Address, u16),
        inbound: bool,
        packet: PassingBy,
        counters: &mut Counters,
    ) -> (Passage, bool) {
        let PassingBy { outwards, alive, ends, by_pinhole_only } = packet;
        let first = self.pinhole_of(number);
        if first == NONE {
            return (Passage::Settled, false);
        }
        if by_pinhole_only {
            let mut matching = self.list(first).filter(|(_, pinhole)| pinhole.matches(remote)).peekable();
            if matching.peek().is_some() && !matching.any(|(_, pinhole)| pinhole.opens(!outwards)) {
                return (Passage::Against, false);
            }
        }
        let Some(home) = self.home(first, remote, inbound) else { return (Passage::Settled, false) };
        let Some(pinhole) = self.pinholes.get_mut(home as usize) else { return (Passage::Settled, false) };
        if ends && pinhole.has(PinholeAdd::CLOSE_ON_END) && !pinhole.locks() {
            self.close_soon(home);
            return (Passage::Settled, false);
        }
        if !inbound || !pinhole.locks() {
            return (Passage::Settled, false);
        }
        if !alive {
            return (Passage::Watched, false);
        }
        let endpoint = pinhole.has(PinholeAdd::LOCK_ENDPOINT);
        pinhole.locked = true;
        pinhole.remote = Prefix::host(remote.0);
        if endpoint {
            pinhole.remote_ports = [remote.1; 2];
        }
        let remote_port = if endpoint { remote.1 } else { 0 };
        let event = PinholeLocked { id: pinhole.id, remote: remote.0, remote_port, reserved: [0; 6] };
        counters.add(Counter::PinholesLocked, 1);
        self.notice(Slot::new(Kind::PINHOLE_LOCKED, 0, &event), counters);
        (Passage::Settled, true)
    }

    /// Keeps an event until somebody has an outbox.
    fn notice(&mut self, slot: Slot, counters: &mut Counters) {
        if self.notices.len() < super::NOTICES {
            self.notices.push(slot);
        } else {
            counters.add(Counter::EventsDropped, 1);
        }
    }

    fn close_soon(&mut self, number: u32) {
        let Some(pinhole) = self.pinholes.get_mut(number as usize).filter(|pinhole| !pinhole.closed) else {
            return;
        };
        pinhole.closed = true;
        // One that finds no room takes nobody new and goes when its owner removes it.
        if self.closing.len() < super::NOTICES {
            let id = pinhole.id;
            self.closing.push(id);
        }
    }

    /// A pinhole that is to close by itself, and the event that says so.
    pub(crate) fn next_closing(&mut self, counters: &mut Counters) -> Option<u64> {
        let id = loop {
            let id = self.closing.pop()?;
            if self.first(id).is_some() {
                break id;
            }
        };
        counters.add(Counter::PinholesClosed, 1);
        self.notice(Slot::new(Kind::PINHOLE_CLOSED, 0, &PinholeClosed { id }), counters);
        Some(id)
    }

    /// Says that a pinhole went with its pool address.
    pub(crate) fn lost(&mut self, number: u32, counters: &mut Counters) {
        while let Some(pinhole) = self.pinholes.get(self.pinhole_of(number) as usize).copied() {
            let at = self.pinhole_of(number);
            if self.first(pinhole.id) == Some(at) {
                counters.add(Counter::PinholesClosed, 1);
                let event = PinholeClosed { id: pinhole.id };
                self.notice(Slot::new(Kind::PINHOLE_CLOSED, 0, &event), counters);
            }
            self.unlink(Closing { binding: number, pinhole: at });
        }
    }

    /// Installs a pinhole: on all of its ports or on none. Returns its first binding.
    ///
    /// # Errors
    /// What to answer.
    pub(crate) fn add_pinhole(
        &mut self,
        flows: &mut Flows,
        policy: &Policy,
        wanted: &PinholeAdd,
        now: Time,
        counters: &mut Counters,
    ) -> Result<u32, AckResult> {
        self.ports.at(now);
        if steering::owner_of_inside(wanted.inside, self.workers) != self.worker {
            return Err(AckResult::NOT_OWNER);
        }
        if let Some(first) = self.first(wanted.id) {
            return self.same(first, wanted).ok_or(AckResult::CONFLICT);
        }
        let plan = self.plan(policy, wanted)?;
        let mut done = 0;
        let mut outcome = Ok(());
        while done < plan.ports && outcome.is_ok() {
            outcome = self.install(flows, wanted, &plan, done, now, counters);
            done += u16::from(outcome.is_ok());
        }
        if let Err(error) = outcome {
            self.withdraw(flows, wanted.id, counters);
            if let (Some((external, first)), Some(class), true) = (plan.external, plan.class, plan.own_row) {
                for at in done..plan.ports {
                    self.ports.release_from_nobody(external, class, first.wrapping_add(at));
                }
            }
            return Err(error);
        }
        if plan.reserved {
            self.use_up(wanted.reservation);
        }
        self.first_of(wanted.id).map(|closing| closing.binding).ok_or(AckResult::TABLE_FULL)
    }

    /// The first binding of a pinhole that exists, if it is the same.
    fn same(&self, first: u32, wanted: &PinholeAdd) -> Option<u32> {
        let pinhole = self.pinholes.get(first as usize)?;
        let binding = self.record(pinhole.binding)?;
        let pool = if wanted.flags & PinholeAdd::POOL != 0 { wanted.pool } else { BindingRow::NO_POOL };
        let ports =
            core::iter::successors(Some(pinhole), |it| self.pinholes.get(it.sibling as usize)).count();
        let of_lock = (pinhole.remote, pinhole.remote_ports)
            == (wanted.remote, [wanted.remote_port_first, wanted.remote_port_last]);
        // Where its ports came from does not matter any more.
        let lasting = !(PinholeAdd::RESERVED | PinholeAdd::LEASED | PinholeAdd::EVEN | PinholeAdd::ODD);
        let same =
            (self.inside_of(binding), binding.inside_port, binding.protocol, binding.pool, pinhole.max_flows)
                == (wanted.inside, wanted.inside_port, wanted.protocol, pool, wanted.max_flows)
                && (of_lock || pinhole.locked)
                && (pinhole.flags ^ wanted.flags) & lasting == 0
                && ports == usize::from(wanted.ports.max(1))
                && (wanted.external_port == 0 || wanted.external_port == binding.external_port)
                && (wanted.external.is_unspecified() || wanted.external == binding.external());
        same.then_some(pinhole.binding)
    }

    /// Whether a pinhole for reserved ports can be installed once dynamic bindings make way for it.
    ///
    /// # Errors
    /// What to answer.
    pub(crate) fn check_reserved(&mut self, policy: &Policy, wanted: &PinholeAdd) -> Result<(), AckResult> {
        if steering::owner_of_inside(wanted.inside, self.workers) != self.worker {
            return Err(AckResult::NOT_OWNER);
        }
        self.plan(policy, wanted).map(drop)
    }

    /// Checks everything that can be checked before anything is changed.
    fn plan(&mut self, policy: &Policy, wanted: &PinholeAdd) -> Result<Plan, AckResult> {
        let ports = u16::from(wanted.ports.max(1));
        let translated = wanted.flags & PinholeAdd::POOL != 0;
        let pool = if translated { wanted.pool } else { BindingRow::NO_POOL };
        let reserved = wanted.flags & PinholeAdd::RESERVED != 0;
        let leased = wanted.flags & PinholeAdd::LEASED != 0;
        let class = Class::of(class_of(wanted.protocol));
        let mut plan = Plan { ports, pool, reserved, leased, class, external: None, own_row: false };
        if self.pinholes.len() - self.free_pinholes.len() + usize::from(ports) > self.capacity {
            return Err(AckResult::TABLE_FULL);
        }
        if translated {
            policy.pool(pool).ok_or(AckResult::NOT_IN_POOL)?;
        }
        let mut fresh = 0;
        let mut existing = None;
        for at in 0..ports {
            let number = self.of_inside(wanted.protocol, wanted.inside, wanted.inside_port + at, pool);
            let Some((number, record)) = number.and_then(|number| Some((number, self.record(number)?)))
            else {
                fresh += 1;
                continue;
            };
            if self.list(self.pinhole_of(number)).count() >= usize::from(PinholeAdd::MAX_SHARED) {
                return Err(AckResult::TOO_MANY);
            }
            // A reservation's ports replace those of a dynamic binding.
            if !(reserved && record.is_dynamic()) && existing.is_none() {
                existing = Some((record.external, record.external_port.wrapping_sub(at)));
            }
        }
        if fresh > self.room() {
            return Err(AckResult::TABLE_FULL);
        }
        if !translated {
            return Ok(plan);
        }
        let named = self.named(policy, wanted, &plan)?;
        if let (Some((external, port)), Some(class), false) = (named, class, reserved || leased)
            && wanted.flags & PinholeAdd::AGAIN != 0
        {
            self.ports.reclaim(external, class, (port, wanted.ports));
        }
        plan.external = named.or(existing);
        if let (Some(named), Some(existing)) = (named, existing) {
            let same_port = named.1 == existing.1;
            if named.0 != existing.0 || !same_port {
                return Err(AckResult::MAPPED_ELSEWHERE);
            }
        }
        let unspecified = wanted.external.is_unspecified() || reserved;
        if let (Some(existing), false) = (existing, unspecified)
            && Address::v4(existing.0) != wanted.external
        {
            return Err(AckResult::MAPPED_ELSEWHERE);
        }
        for at in 0..ports {
            let number = self.of_inside(wanted.protocol, wanted.inside, wanted.inside_port + at, pool);
            let of_plan = plan.external.map(|(external, port)| (external, port.wrapping_add(at)));
            match (number.and_then(|number| self.record(number)), of_plan) {
                (Some(record), Some(end)) if !(reserved && record.is_dynamic()) => {
                    if (record.external, record.external_port) != end {
                        return Err(AckResult::MAPPED_ELSEWHERE);
                    }
                }
                (_, Some((external, port))) => self.check_port(wanted, &plan, external, port)?,
                (_, None) => {}
            }
        }
        let (Some(class), Some(inside)) = (class, wanted.inside.to_v4()) else { return Ok(plan) };
        if !self.ports.has_ports_left(pool, inside, class, fresh as u32) {
            return Err(AckResult::LIMIT);
        }
        if plan.external.is_none() && ports > 1 {
            let random = self.random.next();
            let what = (class, wanted.ports, parity_of(wanted.flags));
            let external = wanted.external.to_v4();
            let row = self.ports.reserve(pool, Some(inside), external, what, random).map_err(port_error)?;
            (plan.external, plan.reserved, plan.own_row) = (Some(row), true, true);
        }
        Ok(plan)
    }

    /// The external end that the command names, itself or by its reservation.
    fn named(
        &self,
        policy: &Policy,
        wanted: &PinholeAdd,
        plan: &Plan,
    ) -> Result<Option<([u8; 4], u16)>, AckResult> {
        if plan.reserved {
            let held = self.reserved(wanted.reservation, plan.pool, wanted.protocol, wanted.ports.max(1));
            let held = held.ok_or(AckResult::NOT_RESERVED)?;
            return Ok(Some((held.external, held.port)));
        }
        let external = match wanted.external.to_v4() {
            Some(external) if policy.pool_of(wanted.external) == Some(plan.pool) => Some(external),
            None if wanted.external.is_unspecified() => None,
            _ => return Err(AckResult::NOT_IN_POOL),
        };
        if wanted.external_port == 0 && plan.class.is_some() {
            return Ok(None);
        }
        wanted.external_port.checked_add(plan.ports - 1).ok_or(AckResult::NOT_IN_POOL)?;
        let external = match (external, wanted.inside.to_v4()) {
            (Some(external), _) => external,
            (None, Some(inside)) => {
                let random = u64::from(wanted.inside_port);
                self.ports.external_for(plan.pool, inside, random).ok_or(AckResult::NO_PORT)?
            }
            (None, None) => return Err(AckResult::NOT_IN_POOL),
        };
        Ok(Some((external, wanted.external_port)))
    }

    /// Whether a certain external port may be had for a pinhole.
    fn check_port(
        &self,
        wanted: &PinholeAdd,
        plan: &Plan,
        external: [u8; 4],
        port: u16,
    ) -> Result<(), AckResult> {
        let Some(class) = plan.class else {
            let own = steering::owner_of_portless(Address::v4(external), self.workers) == self.worker;
            let key =
                super::ExternalKey { address: Address::v4(external), port: 0, protocol: wanted.protocol };
            return match self.portless.contains_key(&key) || self.leases.contains_key(&key) {
                true => Err(AckResult::PORT_TAKEN),
                false if own == plan.leased => Err(AckResult::NOT_OWNER),
                false => Ok(()),
            };
        };
        // A port outside the pool's range may be had by name: it is how a server gets port 80.
        let own = steering::owner_of_port(port, self.workers) == self.worker;
        if own == plan.leased {
            return Err(AckResult::NOT_OWNER);
        }
        if plan.leased {
            let taken = self.of_external(wanted.protocol, Address::v4(external), port).is_some();
            return if taken { Err(AckResult::PORT_TAKEN) } else { Ok(()) };
        }
        if plan.reserved {
            return Ok(());
        }
        self.ports.check_named(wanted.inside.to_v4(), external, class, port).map_err(port_error)
    }

    /// Installs the pinhole on one of its ports.
    fn install(
        &mut self,
        flows: &mut Flows,
        wanted: &PinholeAdd,
        plan: &Plan,
        at: u16,
        now: Time,
        counters: &mut Counters,
    ) -> Result<(), AckResult> {
        let inside_port = wanted.inside_port + at;
        let binding = match self.search(wanted.protocol, (wanted.inside, inside_port), plan.pool) {
            Ok(number) => number,
            Err(_) => {
                let number = self.next_number().ok_or(AckResult::TABLE_FULL)?;
                let taken = self.port_for(wanted, plan, at, number)?;
                let inside = (wanted.inside.to_v4().unwrap_or_default(), inside_port);
                let mut binding = Binding::new(&taken, inside, plan.pool, wanted.protocol, now);
                binding.flags |= if plan.leased { Binding::LEASED } else { 0 };
                if !self.insert(flows, number, &binding, counters) {
                    match plan.class {
                        Some(class) if plan.leased => self.ports.detach(taken.subscriber, class),
                        Some(class) if plan.pool != BindingRow::NO_POOL => {
                            self.ports.release(taken.subscriber, taken.external, class, taken.port);
                        }
                        _ if plan.pool == BindingRow::NO_POOL => self.forget_host(taken.subscriber),
                        _ => {}
                    }
                    return Err(AckResult::TABLE_FULL);
                }
                self.log_foreign(number);
                number
            }
        };
        let pinhole = Pinhole {
            id: wanted.id,
            remote: wanted.remote,
            remote_ports: [wanted.remote_port_first, wanted.remote_port_last],
            binding,
            next: NONE,
            sibling: NONE,
            flags: wanted.flags,
            max_flows: wanted.max_flows,
            flows: 0,
            locked: false,
            closed: false,
        };
        self.link(binding, pinhole);
        Ok(())
    }

    /// Takes the external port of one of the pinhole's ports.
    fn port_for(
        &mut self,
        wanted: &PinholeAdd,
        plan: &Plan,
        at: u16,
        number: u32,
    ) -> Result<Taken, AckResult> {
        let nothing = Taken { subscriber: NONE, external: [0; 4], port: 0 };
        let (pool, entry) = (plan.pool, Entry::Bound(number));
        if pool == BindingRow::NO_POOL {
            return Ok(Taken { subscriber: self.keep_host(wanted.inside), ..nothing });
        }
        let inside = wanted.inside.to_v4().ok_or(AckResult::NOT_IN_POOL)?;
        let end = plan.external.map(|(external, port)| (external, port.wrapping_add(at)));
        let Some(class) = plan.class else {
            let (external, _) = end.ok_or(AckResult::NO_PORT)?;
            return Ok(Taken { external, ..nothing });
        };
        let parity = parity_of(wanted.flags);
        let what = Wanted { pool, inside, class, parity, random: self.random.next() };
        let taken = match end {
            None => match wanted.external.to_v4() {
                // The address is named and differs from the subscriber's, or the subscriber has none yet.
                Some(external) => self.ports.take_on(&what, external, entry),
                None => self.ports.take(&what, entry),
            },
            Some((external, _)) if plan.leased => {
                let subscriber = self.ports.attach(pool, inside, external, class);
                subscriber.map(|subscriber| Taken { subscriber, external, port: end.map_or(0, |end| end.1) })
            }
            Some((external, port)) if plan.reserved => self.ports.claim(&what, external, port, entry),
            Some((external, port)) => self.ports.take_named(&what, external, port, entry),
        };
        let taken = taken.map_err(port_error)?;
        // RFC 4787 REQ-4 is a wish, RFC 5189 PRR's parity is not.
        let wrong = (parity == Parity::EVEN && taken.port % 2 == 1)
            || (parity == Parity::ODD && taken.port.is_multiple_of(2));
        if wrong && plan.external.is_none() {
            self.ports.release(taken.subscriber, taken.external, class, taken.port);
            return Err(AckResult::NO_PORT);
        }
        Ok(taken)
    }

    fn link(&mut self, binding: u32, pinhole: Pinhole) {
        let sibling = self.first(pinhole.id);
        let next = self.pinhole_of(binding);
        let pinhole = Pinhole { next, ..pinhole };
        let number = match self.free_pinholes.pop() {
            Some(number) => {
                if let Some(place) = self.pinholes.get_mut(number as usize) {
                    *place = pinhole;
                }
                number
            }
            None => {
                self.pinholes.push(pinhole);
                (self.pinholes.len() - 1) as u32
            }
        };
        self.pin(binding, number);
        if let Some(record) = self.record_mut(binding) {
            record.flags &= !Binding::DRAINING;
        }
        match sibling {
            None => {
                self.by_id.insert(pinhole.id, number);
            }
            // The lowest port stays first.
            Some(first) => {
                let mut last = first;
                while let Some(next) = self.pinholes.get(last as usize).map(|it| it.sibling)
                    && next != NONE
                {
                    last = next;
                }
                if let Some(last) = self.pinholes.get_mut(last as usize) {
                    last.sibling = number;
                }
            }
        }
    }

    /// The first record of a pinhole.
    fn first(&self, id: u64) -> Option<u32> {
        self.by_id.find(id, |number| self.pinholes.get(number as usize).is_some_and(|it| it.id == id))
    }

    /// The first port of a pinhole, to be closed; `None` if there is none left.
    pub(crate) fn first_of(&self, id: u64) -> Option<Closing> {
        let pinhole = self.first(id)?;
        let binding = self.pinholes.get(pinhole as usize)?.binding;
        Some(Closing { binding, pinhole })
    }

    /// Whether a flow passes by a pinhole that closes.
    pub(crate) fn is_by(&self, closing: Closing, remote: (Address, u16), inbound: bool) -> bool {
        let first = self.pinhole_of(closing.binding);
        self.home(first, remote, inbound) == Some(closing.pinhole)
    }

    /// Whether a flow lost a race for a pinhole that somebody else has locked now.
    pub(crate) fn lost_race(&self, number: u32, remote: (Address, u16), inbound: bool) -> bool {
        let first = self.pinhole_of(number);
        inbound && self.home(first, remote, inbound).is_none()
    }

    /// Takes one port of a pinhole away. Returns whether its binding has another pinhole.
    pub(crate) fn unlink(&mut self, closing: Closing) -> bool {
        let Some(&Pinhole { id, next, sibling, .. }) = self.pinholes.get(closing.pinhole as usize) else {
            return false;
        };
        let first = self.pinhole_of(closing.binding);
        if first == closing.pinhole {
            self.pin(closing.binding, next);
        } else {
            let before = self.list(first).find(|(_, pinhole)| pinhole.next == closing.pinhole);
            if let Some(before) = before.map(|(number, _)| number)
                && let Some(before) = self.pinholes.get_mut(before as usize)
            {
                before.next = next;
            }
        }
        match self.first(id) {
            Some(first) if first == closing.pinhole && sibling == NONE => {
                self.by_id.remove(id, first);
            }
            Some(first) if first == closing.pinhole => {
                self.by_id.rename(id, first, sibling);
            }
            Some(first) => {
                let mut at = first;
                while let Some(pinhole) = self.pinholes.get_mut(at as usize) {
                    if pinhole.sibling == closing.pinhole {
                        pinhole.sibling = sibling;
                        break;
                    }
                    at = pinhole.sibling;
                }
            }
            None => {}
        }
        if let Some(free) = self.pinholes.get_mut(closing.pinhole as usize) {
            // No pinhole has this id: a walk passes over it.
            free.id = 0;
        }
        self.free_pinholes.push(closing.pinhole);
        self.record(closing.binding).is_some_and(|record| !record.is_dynamic())
    }

    /// Lets nobody new in: the flows that a removed pinhole left live on.
    pub(crate) fn drain(&mut self, number: u32) {
        if let Some(record) = self.record_mut(number) {
            record.flags |= Binding::DRAINING;
        }
    }

    /// Forgets how many flows each pinhole of a binding has, to count anew.
    pub(crate) fn recount(&mut self, number: u32) {
        let mut at = self.pinhole_of(number);
        while let Some(pinhole) = self.pinholes.get_mut(at as usize) {
            pinhole.flows = 0;
            at = pinhole.next;
        }
    }

    /// Counts a flow again after [`Bindings::recount`].
    pub(crate) fn count_again(&mut self, number: u32, remote: (Address, u16), inbound: bool) {
        let first = self.pinhole_of(number);
        self.count_in_pinhole(first, remote, inbound, true);
    }

    /// Takes a pinhole back that could not be installed whole.
    fn withdraw(&mut self, flows: &mut Flows, id: u64, counters: &mut Counters) {
        while let Some(closing) = self.first_of(id) {
            let shared = self.unlink(closing);
            if !shared && self.record(closing.binding).is_some_and(|record| !record.is_in_use()) {
                self.remove(flows, closing.binding, counters);
            }
        }
    }

    /// Pinholes among the `most` records from `cursor` on: number, binding with its own, what is shown.
    pub(crate) fn walk_pinholes(
        &self,
        cursor: usize,
        most: usize,
    ) -> impl Iterator<Item = (usize, (u32, &Binding), Shown)> {
        let records = self.pinholes.iter().enumerate().skip(cursor).take(most);
        records.filter(|(_, pinhole)| pinhole.id != 0).filter_map(|(number, pinhole)| {
            let binding = self.record(pinhole.binding)?;
            Some((number, (pinhole.binding, binding), pinhole.shown()))
        })
    }

    /// Records of pinholes there are to walk over.
    pub(crate) fn pinhole_records(&self) -> usize {
        self.pinholes.len()
    }

    /// A binding's first pinhole as a row shows it.
    pub(crate) fn shown(&self, binding: u32) -> Shown {
        let nothing = Shown { id: 0, remote: Prefix::ANY, remote_ports: [0, u16::MAX] };
        self.pinholes.get(self.pinhole_of(binding) as usize).map_or(nothing, Pinhole::shown)
    }
}

/// How a pinhole is going to be installed.
#[derive(Clone, Copy, Debug)]
struct Plan {
    ports: u16,
    pool: PoolId,
    reserved: bool,
    leased: bool,
    class: Option<Class>,
    /// Its lowest external end, if that is known before.
    external: Option<([u8; 4], u16)>,
    /// Its ports were reserved for it alone, just now.
    own_row: bool,
}

/// The parity that a pinhole's flags ask for.
const fn parity_of(flags: u16) -> Parity {
    match (flags & PinholeAdd::EVEN != 0, flags & PinholeAdd::ODD != 0) {
        (true, false) => Parity::EVEN,
        (false, true) => Parity::ODD,
        _ => Parity::ANY,
    }
}

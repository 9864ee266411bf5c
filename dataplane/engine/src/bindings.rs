//! Bindings: which external port an inside endpoint has (RFC 4787 section 4, endpoint-independent), and
//! the pinholes that stay without traffic.

mod contacts;
mod ending;
mod held;
mod inside;
mod numbers;
mod pinholes;
mod slots;
pub(crate) mod sole;

use crate::flows::Flows;
use crate::index::Index;
use crate::keyed::{Keyed, Map, Random, TupleHash, map};
use crate::policy::Policy;
use crate::ports::{Class, Coming, Entry, Foreseen, PortError, Ports, Taken, Wanted};
use crate::{Setup, Time};
use contacts::Contacts;
use held::Reservation;
use numbers::Numbers;
use pinholes::Pinhole;
use slots::Slots;
use turnpike_abi::command::{Kind, Parity, Slot};
use turnpike_abi::counters::{Counters, DropReason, ProtocolClass};
use turnpike_abi::event::{AckResult, BindingRow};
use turnpike_abi::flow::{CREATED_SHIFT, NONE};
use turnpike_abi::table::{Filtering, PoolRecord};
use turnpike_abi::{Address, PoolId, WorkerId, steering};
use turnpike_shm::memory::{Memory, roomy};

pub(crate) use inside::{Entries, Place, Unbound};
pub(crate) use pinholes::{Closing, Passage, PassingBy, Shown};

const IPV6_IN_IPV4: u8 = 41;
const MOBILE: u8 = 55;
/// Most bindings of a worker: their numbers share a word with what else a port can stand for.
const MOST: usize = 1 << 29;
/// One reservation and one lease for so many bindings.
const HELD_SHARE: usize = 4;
/// Events that wait for the next look at the timers.
const NOTICES: usize = 1024;

/// The record of a binding, or of an untranslated inside endpoint with pinholes (`pool` is [`BindingRow::NO_POOL`]).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Binding {
    /// Zero for an IPv6 endpoint.
    inside: [u8; 4],
    external: [u8; 4],
    pub(crate) inside_port: u16,
    pub(crate) external_port: u16,
    /// Number of the subscriber; untranslated: of the inside address in `hosts`.
    subscriber: u32,
    /// First flow of the list that [`crate::flows::Flows::next`] continues.
    pub(crate) first_flow: u32,
    /// Milliseconds since the start, shifted as those of flows are.
    created: u32,
    /// Last packet from inside as far as ended flows know, milliseconds (RFC 4787 REQ-6).
    last: u32,
    pub(crate) pool: PoolId,
    pub(crate) protocol: u8,
    flags: u8,
}

const _: () = assert!(size_of::<Binding>() == 32);

impl Binding {
    const LIVE: u8 = 1;
    /// The port lies in another worker's block, which leased it.
    const LEASED: u8 = 2;
    /// Its last pinhole was removed and its flows were left: nobody new comes in.
    const DRAINING: u8 = 4;
    /// It has a line of its own in the log.
    const LOGGED: u8 = 8;
    /// It has a pinhole, or more than one flow: see [`Bindings::more`].
    const PINNED: u8 = 16;
    /// See [`Binding::PINNED`].
    const SHARED: u8 = 32;

    /// A dynamic binding without flows.
    fn new(taken: &Taken, inside: ([u8; 4], u16), pool: PoolId, protocol: u8, now: Time) -> Self {
        Self {
            inside: inside.0,
            external: taken.external,
            inside_port: inside.1,
            external_port: taken.port,
            subscriber: taken.subscriber,
            first_flow: NONE,
            created: (now.0 >> CREATED_SHIFT) as u32,
            last: now.0 as u32,
            pool,
            protocol,
            flags: Self::LIVE,
        }
    }

    /// The inside address of a translated binding.
    pub(crate) fn inside(&self) -> Address {
        Address::v4(self.inside)
    }

    /// The external address; unspecified if it is not translated.
    pub(crate) fn external(&self) -> Address {
        if self.pool == BindingRow::NO_POOL { Address::UNSPECIFIED } else { Address::v4(self.external) }
    }

    /// The external end of a translated binding.
    pub(crate) fn external_end(&self) -> ([u8; 4], u16) {
        (self.external, self.external_port)
    }

    pub(crate) fn class(&self) -> ProtocolClass {
        class_of(self.protocol)
    }

    /// Whether it was made by a packet and ends with its last flow.
    pub(crate) fn is_dynamic(&self) -> bool {
        !self.has(Self::PINNED)
    }

    /// Whether it has a port of a block of this worker's.
    fn has_own_port(&self) -> bool {
        self.pool != BindingRow::NO_POOL && !self.has(Self::LEASED) && Class::of(self.class()).is_some()
    }

    /// Whether it has a flow.
    pub(crate) fn is_in_use(&self) -> bool {
        self.first_flow != NONE
    }

    /// Milliseconds since the last packet from inside that an ended flow knew of.
    pub(crate) fn idle_ms(&self, now: Time) -> u64 {
        (now.0 as u32).wrapping_sub(self.last).into()
    }

    /// Notes that the last packet from inside came `idle` milliseconds ago.
    pub(crate) fn used(&mut self, now: Time, idle: u64) {
        if idle < self.idle_ms(now) {
            self.last = (now.0 as u32).wrapping_sub(idle as u32);
        }
    }

    /// Milliseconds since it was made.
    pub(crate) fn age_ms(&self, now: Time) -> u64 {
        now.0.saturating_sub(u64::from(self.created) << CREATED_SHIFT)
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ExternalKey {
    address: Address,
    port: u16,
    protocol: u8,
}

/// All bindings of a worker.
#[derive(Debug)]
pub(crate) struct Bindings {
    slab: Vec<Binding>,
    /// First pinhole plus one, and flows besides the first, of bindings that have them. Of those with one flow
    /// and nothing else, as most are, nothing is ever written here: zero pages stand for them.
    more: Vec<[u32; 2]>,
    free: Vec<u32>,
    /// Bindings without a record: [`sole`].
    soles: usize,
    capacity: usize,
    /// Those that have a record.
    by_inside: Index,
    hash: TupleHash,
    /// Inside addresses of untranslated endpoints.
    hosts: Vec<Address>,
    free_hosts: Vec<u32>,
    pinholes: Vec<Pinhole>,
    free_pinholes: Vec<u32>,
    /// First pinhole of an id; a range has one for each port.
    by_id: Numbers,
    /// Translated bindings of protocols without ports, by external address.
    portless: Map<ExternalKey, u32>,
    /// Ports of this worker's blocks, and portless protocols, whose inside host belongs to another worker.
    leases: Slots<ExternalKey, (WorkerId, PoolId)>,
    reservations: Slots<u64, Reservation>,
    contacts: Option<Contacts>,
    flows: usize,
    pub(crate) ports: Ports,
    /// Events for the control plane, until somebody has an outbox.
    pub(crate) notices: Vec<Slot>,
    /// Ids of pinholes that close by themselves.
    closing: Vec<u64>,
    /// Of the last new binding.
    last_pool: PoolId,
    random: Random,
    /// Drawn for the packet under way.
    foreseen: Option<Foreseen>,
    keyed: Keyed,
    worker: WorkerId,
    workers: u8,
}

/// Which table a protocol's ports are in; `None` for protocols without.
pub(crate) const fn class_of(protocol: u8) -> ProtocolClass {
    ProtocolClass::of(protocol)
}

/// Whether a pinhole may have a protocol without ports translated: 6in4 and 6to4, minimal encapsulation (RFC 2004).
pub(crate) const fn is_translated(protocol: u8) -> bool {
    matches!(protocol, IPV6_IN_IPV4 | MOBILE)
}

impl Bindings {
    /// Bytes of the memory given to [`Bindings::new`].
    pub(crate) const fn bytes(setup: &Setup) -> usize {
        Ports::bytes(setup.bindings)
    }

    pub(crate) fn new(setup: &Setup, keyed: Keyed, memory: &mut Memory) -> Option<Self> {
        let capacity = setup.bindings.min(MOST);
        // Most bindings have no record, and nothing is filed of them.
        let mut sparse = Memory::sparse(Index::bytes(capacity)).ok()?;
        Some(Self {
            slab: roomy(capacity),
            more: vec![[0; 2]; capacity],
            free: Vec::with_capacity(capacity),
            soles: 0,
            capacity,
            by_inside: Index::new(capacity, capacity, &mut sparse)?,
            hash: TupleHash::new(keyed),
            hosts: Vec::with_capacity(capacity),
            free_hosts: Vec::with_capacity(capacity),
            pinholes: Vec::with_capacity(capacity),
            free_pinholes: Vec::with_capacity(capacity),
            by_id: Numbers::new(capacity, keyed)?,
            portless: map(capacity.min(1 << 16), keyed),
            leases: Slots::new(capacity.div_ceil(HELD_SHARE), keyed)?,
            reservations: Slots::new(capacity.div_ceil(HELD_SHARE), keyed)?,
            contacts: None,
            flows: setup.flows,
            ports: Ports::new(setup, keyed, memory)?,
            notices: Vec::with_capacity(NOTICES),
            closing: Vec::with_capacity(NOTICES),
            last_pool: PoolId(0),
            random: Random::new(keyed),
            foreseen: None,
            keyed,
            worker: setup.worker,
            workers: setup.workers,
        })
    }

    pub(crate) fn record(&self, binding: u32) -> Option<&Binding> {
        self.slab.get(binding as usize).filter(|record| record.has(Binding::LIVE))
    }

    pub(crate) fn record_mut(&mut self, binding: u32) -> Option<&mut Binding> {
        self.slab.get_mut(binding as usize).filter(|record| record.has(Binding::LIVE))
    }

    /// First pinhole of a binding, or [`NONE`].
    fn pinhole_of(&self, number: u32) -> u32 {
        match self.record(number) {
            Some(record) if record.has(Binding::PINNED) => {
                self.more.get(number as usize).map_or(NONE, |[pinhole, _]| pinhole.wrapping_sub(1))
            }
            _ => NONE,
        }
    }

    /// Says which pinhole is the first of a binding, or that none is ([`NONE`]).
    fn pin(&mut self, number: u32, pinhole: u32) {
        let Some(record) = self.record_mut(number) else { return };
        if pinhole == NONE {
            record.flags &= !Binding::PINNED;
        } else {
            record.flags |= Binding::PINNED;
        }
        if let Some([place, _]) = self.more.get_mut(number as usize) {
            *place = pinhole.wrapping_add(1);
        }
    }

    /// Flows of a binding.
    pub(crate) fn flows_of(&self, number: u32) -> u32 {
        if sole::flow_of(number).is_some() {
            return 1;
        }
        let Some(record) = self.record(number).filter(|record| record.is_in_use()) else { return 0 };
        let shared = record.has(Binding::SHARED);
        1 + self.more.get(number as usize).filter(|_| shared).map_or(0, |[_, flows]| *flows)
    }

    /// Hangs a flow up as the first of a binding's list. Returns the one that was, or [`NONE`].
    pub(crate) fn hang(&mut self, number: u32, flow: u32) -> Option<u32> {
        let record = self.slab.get_mut(number as usize).filter(|record| record.has(Binding::LIVE))?;
        let first = core::mem::replace(&mut record.first_flow, flow);
        if first != NONE {
            record.flags |= Binding::SHARED;
            *self.more.get_mut(number as usize)?.last_mut()? += 1;
        }
        Some(first)
    }

    /// Takes a flow out of a binding's list, where `next` came after it.
    pub(crate) fn take_down(&mut self, number: u32, flow: u32, next: u32) -> Option<&mut Binding> {
        let record = self.slab.get_mut(number as usize).filter(|record| record.has(Binding::LIVE))?;
        if record.first_flow == flow {
            record.first_flow = next;
        }
        if record.has(Binding::SHARED) {
            let flows = self.more.get_mut(number as usize)?.last_mut()?;
            *flows -= 1;
            if *flows == 0 {
                record.flags &= !Binding::SHARED;
            }
        }
        Some(record)
    }

    /// The inside address of any binding.
    pub(crate) fn inside_of(&self, binding: &Binding) -> Address {
        if binding.pool != BindingRow::NO_POOL {
            return binding.inside();
        }
        self.hosts.get(binding.subscriber as usize).copied().unwrap_or_default()
    }

    /// Keeps the inside address of an untranslated endpoint.
    fn keep_host(&mut self, inside: Address) -> u32 {
        match self.free_hosts.pop() {
            Some(number) => {
                if let Some(place) = self.hosts.get_mut(number as usize) {
                    *place = inside;
                }
                number
            }
            None => {
                self.hosts.push(inside);
                (self.hosts.len() - 1) as u32
            }
        }
    }

    fn forget_host(&mut self, number: u32) {
        self.free_hosts.push(number);
    }

    /// Second step. Returns the subscriber's number.
    pub(crate) fn prefetch_subscriber(&self, inside: [u8; 4]) -> Option<u32> {
        self.ports.prefetch_subscriber(inside, self.last_pool)
    }

    /// Fifth step: draws the port that a new binding of a subscriber will get.
    pub(crate) fn draw(&mut self, subscriber: u32, block: u32, class: Class) -> Option<Foreseen> {
        self.ports.foresee(subscriber, block, class, self.random.quarter())
    }

    /// Says what was drawn for the packet that comes next.
    pub(crate) fn expect(&mut self, foreseen: Option<Foreseen>) {
        self.foreseen = foreseen;
    }

    /// The binding of an external endpoint: by direct index.
    pub(crate) fn of_external(&self, protocol: u8, address: Address, port: u16) -> Option<u32> {
        let Some(class) = Class::of(class_of(protocol)) else {
            return self.portless.get(&ExternalKey { address, port: 0, protocol }).copied();
        };
        if steering::owner_of_port(port, self.workers) != self.worker {
            // Of a block that leased it to this worker: rare, and here alone there is something to search. At its place
            // among this worker's own ports stands another one.
            return self.portless.get(&ExternalKey { address, port, protocol }).copied();
        }
        match self.ports.entry(address.to_v4()?, class, port) {
            Entry::Bound(binding) => Some(binding),
            _ => None,
        }
    }

    /// The worker that a port of this worker's blocks is leased to.
    pub(crate) fn lease(&self, protocol: u8, address: Address, port: u16) -> Option<WorkerId> {
        let Some(class) = Class::of(class_of(protocol)) else {
            let key = ExternalKey { address, port: 0, protocol };
            return self.leases.get(&key).map(|(worker, _)| *worker);
        };
        if steering::owner_of_port(port, self.workers) != self.worker {
            return None;
        }
        match self.ports.entry(address.to_v4()?, class, port) {
            Entry::Leased(worker) => Some(worker),
            _ => None,
        }
    }

    /// The external address that an inside host has in a pool.
    pub(crate) fn external_of(&self, inside: Address, pool: PoolId) -> Option<Address> {
        self.ports.external_of(inside.to_v4()?, pool).map(Address::v4)
    }

    /// Inside addresses with a binding.
    pub(crate) fn subscribers(&self) -> usize {
        self.ports.active()
    }

    /// Pinholes installed.
    pub(crate) fn pinholes(&self) -> usize {
        self.by_id.len()
    }

    /// Whether a subscriber may open another flow, by the limits of its pool. Takes it from its rate.
    ///
    /// # Errors
    /// The reason to drop the packet.
    pub(crate) fn may_open(
        &mut self,
        pool: &PoolRecord,
        id: PoolId,
        inside: Address,
        now: Time,
    ) -> Result<(), DropReason> {
        if pool.subscriber_flows == 0 && pool.subscriber_rate == 0 {
            return Ok(());
        }
        let number = inside.to_v4().and_then(|inside| self.ports.subscriber_of(inside, id));
        let Some(subscriber) = number.and_then(|number| self.ports.subscriber_mut(number)) else {
            return Ok(());
        };
        if !subscriber.has_flow_left(pool, false) {
            return Err(DropReason::SubscriberFlows);
        }
        if subscriber.admit(pool, now.0) { Ok(()) } else { Err(DropReason::SubscriberRate) }
    }

    /// A new binding, with a record, for the first packet of an inside endpoint.
    ///
    /// # Errors
    /// The reason to drop that packet.
    pub(crate) fn bind(
        &mut self,
        flows: &mut Flows,
        policy: &Policy,
        unbound: &Unbound,
        now: Time,
        counters: &mut Counters,
    ) -> Result<u32, DropReason> {
        let Unbound { inside, pool, protocol } = *unbound;
        let Some(number) = self.next_number() else { return Err(DropReason::BindingLimit) };
        let (taken, class) = self.take_port(policy, unbound, now, Entry::Bound(number), counters)?;
        let v4 = inside.0.to_v4().unwrap_or_default();
        let binding = Binding::new(&taken, (v4, inside.1), pool, protocol, now);
        if !self.insert(flows, number, &binding, counters) {
            self.ports.release(taken.subscriber, taken.external, class, taken.port);
            return Err(DropReason::BindingLimit);
        }
        Ok(number)
    }

    /// Takes an external port for a new binding.
    ///
    /// # Errors
    /// The reason to drop the packet that wants it.
    #[inline(always)]
    fn take_port(
        &mut self,
        policy: &Policy,
        unbound: &Unbound,
        now: Time,
        entry: Entry,
        counters: &mut Counters,
    ) -> Result<(Taken, Class), DropReason> {
        let Unbound { inside, pool, protocol } = *unbound;
        let (Some(class), Some(address)) = (Class::of(class_of(protocol)), inside.0.to_v4()) else {
            return Err(DropReason::ProtoUnsupported);
        };
        let record = policy.pool(pool).ok_or(DropReason::InternalError)?;
        let parity = match (record.flags & PoolRecord::PARITY != 0, inside.1 % 2) {
            (false, _) => Parity::ANY,
            (true, 0) => Parity::EVEN,
            (true, _) => Parity::ODD,
        };
        self.last_pool = pool;
        self.ports.at(now);
        let foreseen = self.foreseen.take().filter(|it| self.ports.is_of(it.subscriber, address, pool));
        let known = match &foreseen {
            Some(it) => Some(it.subscriber),
            None => self.ports.subscriber_of(address, pool),
        };
        let drawn = foreseen.filter(|it| parity == Parity::ANY && it.class == class);
        if let Some(it) = drawn
            && self.ports.take_foreseen(&it, pool, entry)
        {
            let Foreseen { subscriber, external, port, .. } = it;
            return Ok((Taken { subscriber, external, port }, class));
        }
        let wanted = Wanted { pool, inside: address, class, parity, random: self.random.next() };
        let taken = self.ports.take_for(known, &wanted, entry).map_err(|error| match error {
            // RFC 6888 REQ-11d: nothing is evicted to make room.
            PortError::Exhausted | PortError::Taken | PortError::UnknownAddress => {
                counters.pool_exhausted(pool.index());
                DropReason::PortExhausted
            }
            PortError::Limit => DropReason::SubscriberPorts,
            PortError::Room => DropReason::BindingLimit,
        })?;
        if known.is_none()
            && let Some(subscriber) = self.ports.subscriber_mut(taken.subscriber)
        {
            subscriber.admit(record, now.0);
        }
        Ok((taken, class))
    }

    /// The number that the next binding with a record will have.
    fn next_number(&self) -> Option<u32> {
        if self.room() > 0 { self.next_place() } else { None }
    }

    /// The place for the next record. There is one for every binding without.
    fn next_place(&self) -> Option<u32> {
        self.free
            .last()
            .copied()
            .or_else(|| (self.slab.len() < self.capacity).then_some(self.slab.len() as u32))
    }

    /// How many more fit.
    fn room(&self) -> usize {
        self.capacity - self.slab.len() + self.free.len() - self.soles
    }

    /// Writes a record to the place of [`Bindings::next_place`].
    fn store(&mut self, number: u32, binding: &Binding) {
        if self.free.pop().is_none() {
            self.slab.push(*binding);
        } else if let Some(slot) = self.slab.get_mut(number as usize) {
            *slot = *binding;
        }
    }

    /// Files a binding whose port is already taken, under the number of [`Bindings::next_number`].
    fn insert(&mut self, flows: &mut Flows, number: u32, binding: &Binding, counters: &mut Counters) -> bool {
        if !self.file(flows, number, binding) {
            return false;
        }
        self.store(number, binding);
        if binding.pool != BindingRow::NO_POOL {
            if binding.has(Binding::LEASED) || Class::of(binding.class()).is_none() {
                let port = binding.external_port;
                let key = ExternalKey { address: binding.external(), port, protocol: binding.protocol };
                self.portless.insert(key, number);
            }
            counters.binding_created(binding.class(), binding.pool.index());
        }
        true
    }

    /// Logs a translated binding whose port lies in no block of its subscriber's: the block's own line, if there is
    /// one, names somebody else.
    fn log_foreign(&mut self, number: u32) {
        let Some(&binding) = self.record(number).filter(|_| self.ports.records.is_wanted()) else { return };
        if binding.pool == BindingRow::NO_POOL || binding.has(Binding::LOGGED) {
            return;
        }
        let Binding { subscriber, external, external_port, .. } = binding;
        if !(binding.has_own_port() && self.ports.is_own(subscriber, external, external_port)) {
            self.log(Kind::PORTS_ASSIGNED, &binding);
            if let Some(record) = self.record_mut(number) {
                record.flags |= Binding::LOGGED;
            }
        }
    }

    fn log(&mut self, kind: Kind, binding: &Binding) {
        let Binding { inside, external, protocol, external_port, .. } = *binding;
        self.ports.note_foreign(kind, inside, external, protocol, external_port);
    }

    /// Counts a flow that uses a binding.
    pub(crate) fn flow_opened(&mut self, number: u32, remote: (Address, u16), inbound: bool) {
        let Some(&Binding { subscriber, pool, .. }) = self.record(number) else { return };
        let pinhole = self.pinhole_of(number);
        if pinhole != NONE {
            self.count_in_pinhole(pinhole, remote, inbound, true);
        }
        if pool != BindingRow::NO_POOL {
            self.ports.count_flow(subscriber, true);
            if !inbound {
                self.asked(number, remote.0);
            }
        }
    }

    /// Notes that the inside end of a translated binding has a flow that it opened to a remote address.
    pub(crate) fn asked(&mut self, number: u32, remote: Address) {
        if let (Some(contacts), Some(to)) = (&mut self.contacts, remote.to_v4()) {
            contacts.add(number, to);
        }
    }

    /// Whether a remote end may open a flow through a translated binding (RFC 4787 REQ-8).
    ///
    /// # Errors
    /// The reason to drop its packet.
    pub(crate) fn admits(
        &self,
        policy: &Policy,
        (number, binding): (u32, &Binding),
        remote: (Address, u16),
    ) -> Result<(), DropReason> {
        let pool = policy.pool(binding.pool).ok_or(DropReason::InternalError)?;
        if pool.subscriber_flows != 0 {
            let subscriber = self.ports.subscriber(binding.subscriber);
            if subscriber.is_some_and(|subscriber| !subscriber.has_flow_left(pool, true)) {
                return Err(DropReason::SubscriberFlows);
            }
        }
        if !binding.is_dynamic() {
            return self.pinhole_admits(self.pinhole_of(number), remote, true).map(drop);
        }
        if binding.has(Binding::DRAINING) {
            return Err(DropReason::FilteredRemote);
        }
        let known = match pool.filtering {
            Filtering::ADDRESS_DEPENDENT => {
                let contacts = self.contacts.as_ref();
                remote.0.to_v4().is_some_and(|from| contacts.is_some_and(|list| list.has(number, from)))
            }
            // An end that was asked has a flow, and this packet would be of it.
            Filtering::ADDRESS_AND_PORT_DEPENDENT => false,
            _ => true,
        };
        if known { Ok(()) } else { Err(DropReason::FilteredUnasked) }
    }

    /// Prepares for the pools of a new policy. Returns whether that is the first to ask who was asked: every flow there
    /// is has to be told then ([`Bindings::asked`]).
    pub(crate) fn set_pools(&mut self, policy: &Policy, coming: Coming) -> bool {
        let asks = |(_, pool): (PoolId, &PoolRecord)| pool.filtering == Filtering::ADDRESS_DEPENDENT;
        let first = self.contacts.is_none() && policy.pools().any(asks);
        if first {
            self.contacts = Contacts::new(self.flows, self.keyed);
        }
        let lost = self.ports.set_pools(coming);
        self.leases.retain(|key, (_, pool)| policy.pool_of(key.address) == Some(*pool));
        self.reservations.retain(|_, held| policy.pool_of(Address::v4(held.external)) == Some(held.pool));
        if lost {
            self.put_back(policy);
        }
        first
    }

    /// The first binding from `from` on that the pools of a new policy no longer allow.
    pub(crate) fn outdated(&self, policy: &Policy, from: usize) -> Option<usize> {
        let mut translated =
            self.walk(from, usize::MAX).filter(|(_, binding)| binding.pool != BindingRow::NO_POOL);
        translated
            .find(|(_, binding)| policy.pool_of(binding.external()) != Some(binding.pool))
            .map(|(number, _)| number)
    }

    /// Numbers of bindings without a port of this worker's among the `most` records from `cursor` on.
    pub(crate) fn walk_portless(&self, cursor: usize, most: usize) -> impl Iterator<Item = u32> {
        self.walk(cursor, most)
            .filter(|(_, binding)| !binding.has_own_port())
            .map(|(number, _)| number as u32)
    }

    /// Bindings among the `most` records from `cursor` on, with their numbers.
    fn walk(&self, cursor: usize, most: usize) -> impl Iterator<Item = (usize, &Binding)> {
        let records = self.slab.iter().enumerate().skip(cursor).take(most);
        records.filter(|(_, binding)| binding.has(Binding::LIVE))
    }

    /// Records there are to walk over.
    pub(crate) fn records(&self) -> usize {
        self.slab.len()
    }
}

fn port_error(error: PortError) -> AckResult {
    match error {
        PortError::Taken => AckResult::PORT_TAKEN,
        PortError::UnknownAddress => AckResult::NOT_IN_POOL,
        PortError::Exhausted => AckResult::NO_PORT,
        PortError::Limit => AckResult::LIMIT,
        PortError::Room => AckResult::TABLE_FULL,
    }
}

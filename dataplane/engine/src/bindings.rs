//! Bindings: which external port an inside endpoint has (RFC 4787 section 4, endpoint-independent), and
//! the pinholes that stay without traffic.

use crate::keyed::{Keyed, Map, Random, map};
use crate::policy::{Policy, admits};
use crate::ports::{PortError, Ports};
use crate::{Setup, Time};
use core::hash::BuildHasher;
use turnpike_abi::command::{PinholeAdd, PortLease};
use turnpike_abi::counters::{Counters, DropReason, ProtocolClass};
use turnpike_abi::event::{AckResult, BindingRow};
use turnpike_abi::flow::NONE;
use turnpike_abi::table::PoolRecord;
use turnpike_abi::{Address, PoolId, Prefix, WorkerId, steering};

/// A binding, or a pinhole of the firewall alone (`pool` is [`BindingRow::NO_POOL`]).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Binding {
    pub(crate) inside: Address,
    pub(crate) external: Address,
    pub(crate) inside_port: u16,
    pub(crate) external_port: u16,
    pub(crate) protocol: u8,
    pub(crate) class: ProtocolClass,
    pub(crate) pool: PoolId,
    /// Id of the pinhole, 0 for a dynamic binding.
    pub(crate) pinhole: u64,
    /// Who may open flows from outside.
    pub(crate) remote: Prefix,
    pub(crate) remote_ports: [u16; 2],
    /// The port lies in another worker's block, which leased it.
    leased: bool,
    pub(crate) created: Time,
    /// Last packet from inside (RFC 4787 REQ-6).
    pub(crate) last: Time,
    pub(crate) flows: u32,
    /// First flow of the list that [`crate::flows::Flow::next`] continues.
    pub(crate) first_flow: u32,
    live: bool,
}

impl Binding {
    /// Whether a remote end may open a flow through it (RFC 4787 REQ-8: endpoint-independent filtering,
    /// which a pinhole may narrow).
    pub(crate) fn admits(&self, remote: Address, port: u16) -> bool {
        admits(&self.remote, self.remote_ports, remote, port)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct InsideKey {
    address: Address,
    port: u16,
    pool: PoolId,
    protocol: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ExternalKey {
    address: Address,
    port: u16,
    protocol: u8,
}

/// What a subscriber has in a pool: one external address for all of it (RFC 4787 REQ-2, RFC 6888 REQ-2).
#[derive(Clone, Copy, Debug)]
struct Subscriber {
    external: [u8; 4],
    bindings: u32,
}

/// All bindings of a worker.
#[derive(Debug)]
pub(crate) struct Bindings {
    slab: Vec<Binding>,
    free: Vec<u32>,
    capacity: usize,
    by_inside: Map<InsideKey, u32>,
    by_external: Map<ExternalKey, u32>,
    by_pinhole: Map<u64, u32>,
    /// Ports of this worker's blocks whose inside host belongs to another worker.
    leases: Map<ExternalKey, WorkerId>,
    subscribers: Map<(Address, PoolId), Subscriber>,
    ports: Ports,
    random: Random,
    keyed: Keyed,
    worker: WorkerId,
    workers: u8,
}

/// Which table a protocol's ports are in; `None` for protocols without.
pub(crate) const fn class_of(protocol: u8) -> ProtocolClass {
    match protocol {
        6 => ProtocolClass::Tcp,
        17 => ProtocolClass::Udp,
        1 | 58 => ProtocolClass::Icmp,
        _ => ProtocolClass::Other,
    }
}

impl Bindings {
    pub(crate) fn new(setup: &Setup, keyed: Keyed) -> Self {
        let capacity = setup.bindings;
        Self {
            slab: Vec::with_capacity(capacity),
            free: Vec::with_capacity(capacity),
            capacity,
            by_inside: map(capacity, keyed),
            by_external: map(capacity, keyed),
            by_pinhole: map(capacity, keyed),
            leases: map(capacity, keyed),
            subscribers: map(capacity, keyed),
            ports: Ports::new(setup.worker, setup.workers, keyed),
            random: Random::new(keyed),
            keyed,
            worker: setup.worker,
            workers: setup.workers,
        }
    }

    pub(crate) fn record(&self, binding: u32) -> Option<&Binding> {
        self.slab.get(binding as usize).filter(|record| record.live)
    }

    pub(crate) fn record_mut(&mut self, binding: u32) -> Option<&mut Binding> {
        self.slab.get_mut(binding as usize).filter(|record| record.live)
    }

    /// The binding of an inside endpoint.
    pub(crate) fn of_inside(&self, protocol: u8, address: Address, port: u16, pool: PoolId) -> Option<u32> {
        self.by_inside.get(&InsideKey { address, port, pool, protocol }).copied()
    }

    /// The binding of an external endpoint.
    pub(crate) fn of_external(&self, protocol: u8, address: Address, port: u16) -> Option<u32> {
        self.by_external.get(&ExternalKey { address, port, protocol }).copied()
    }

    /// The worker that a port of this worker's blocks is leased to.
    pub(crate) fn lease(&self, protocol: u8, address: Address, port: u16) -> Option<WorkerId> {
        self.leases.get(&ExternalKey { address, port, protocol }).copied()
    }

    /// The external address that an inside host has in a pool.
    pub(crate) fn external_of(&self, inside: Address, pool: PoolId) -> Option<Address> {
        self.subscribers.get(&(inside, pool)).map(|subscriber| Address::v4(subscriber.external))
    }

    /// Inside addresses with a binding.
    pub(crate) fn subscribers(&self) -> usize {
        self.subscribers.len()
    }

    /// Pinholes installed.
    pub(crate) fn pinholes(&self) -> usize {
        self.by_pinhole.len()
    }

    /// A new binding for the first packet of an inside endpoint.
    ///
    /// # Errors
    /// The reason to drop that packet.
    pub(crate) fn bind(
        &mut self,
        policy: &Policy,
        pool: PoolId,
        protocol: u8,
        inside: (Address, u16),
        now: Time,
        counters: &mut Counters,
    ) -> Result<u32, DropReason> {
        let class = class_of(protocol);
        if !self.has_room() {
            return Err(DropReason::BindingLimit);
        }
        let chosen = self.external_address(policy, pool, inside.0, class);
        let random = self.random.next();
        let port = chosen
            .and_then(|external| self.ports.take_any(external, class, random).map(|port| (external, port)));
        let Some((external, external_port)) = port else {
            // RFC 6888 REQ-11d: nothing is evicted to make room.
            counters.pool_exhausted(pool.index());
            return Err(DropReason::PortExhausted);
        };
        let binding = Binding {
            inside: inside.0,
            external: Address::v4(external),
            inside_port: inside.1,
            external_port,
            protocol,
            class,
            pool,
            pinhole: 0,
            remote: Prefix::ANY,
            remote_ports: [0, u16::MAX],
            leased: false,
            created: now,
            last: now,
            flows: 0,
            first_flow: NONE,
            live: true,
        };
        Ok(self.insert(binding, counters))
    }

    /// The subscriber's external address, or one with a free port for a new subscriber. Which one that is
    /// depends on the subscriber alone, as long as there is a free port on it.
    fn external_address(
        &self,
        policy: &Policy,
        pool: PoolId,
        inside: Address,
        class: ProtocolClass,
    ) -> Option<[u8; 4]> {
        if let Some(subscriber) = self.subscribers.get(&(inside, pool)) {
            return Some(subscriber.external);
        }
        let hash = self.keyed.hash_one(inside);
        let preferred =
            policy.address_at(pool, hash).filter(|&external| self.ports.has_free(external, class));
        preferred.or_else(|| self.ports.any_open(pool, class, hash))
    }

    fn has_room(&self) -> bool {
        !self.free.is_empty() || self.slab.len() < self.capacity
    }

    /// Files a binding whose port is already taken. There is room.
    fn insert(&mut self, binding: Binding, counters: &mut Counters) -> u32 {
        let number = match self.free.pop() {
            Some(number) => {
                if let Some(slot) = self.slab.get_mut(number as usize) {
                    *slot = binding;
                }
                number
            }
            None => {
                self.slab.push(binding);
                (self.slab.len() - 1) as u32
            }
        };
        self.by_inside.insert(inside_key(&binding), number);
        if binding.pool != BindingRow::NO_POOL {
            self.by_external.insert(external_key(&binding), number);
            counters.binding_created(binding.class, binding.pool.index());
            let external = binding.external.to_v4().unwrap_or_default();
            let subscriber = self
                .subscribers
                .entry((binding.inside, binding.pool))
                .or_insert(Subscriber { external, bindings: 0 });
            subscriber.bindings += 1;
        }
        if binding.pinhole != 0 {
            self.by_pinhole.insert(binding.pinhole, number);
        }
        number
    }

    /// Removes a binding and frees its port. The caller has ended its flows.
    pub(crate) fn remove(&mut self, number: u32, counters: &mut Counters) {
        let Some(record) = self.slab.get_mut(number as usize).filter(|record| record.live) else { return };
        record.live = false;
        let binding = *record;
        self.by_inside.remove(&inside_key(&binding));
        if binding.pool != BindingRow::NO_POOL {
            self.by_external.remove(&external_key(&binding));
            counters.binding_ended(binding.class, binding.pool.index());
            if let (Some(external), false) = (binding.external.to_v4(), binding.leased) {
                self.ports.release(external, binding.class, binding.external_port);
            }
            let key = (binding.inside, binding.pool);
            if let Some(subscriber) = self.subscribers.get_mut(&key) {
                subscriber.bindings -= 1;
                if subscriber.bindings == 0 {
                    self.subscribers.remove(&key);
                }
            }
        }
        if binding.pinhole != 0 {
            self.by_pinhole.remove(&binding.pinhole);
        }
        self.free.push(number);
    }

    /// Installs a pinhole.
    ///
    /// # Errors
    /// What to answer.
    pub(crate) fn add_pinhole(
        &mut self,
        policy: &Policy,
        wanted: &PinholeAdd,
        now: Time,
        counters: &mut Counters,
    ) -> Result<u32, AckResult> {
        let translated = wanted.flags & PinholeAdd::POOL != 0;
        let leased = wanted.flags & PinholeAdd::LEASED != 0;
        let pool = if translated { wanted.pool } else { BindingRow::NO_POOL };
        let remote_ports = [wanted.remote_port_first, wanted.remote_port_last];
        if steering::owner_of_inside(wanted.inside, self.workers) != self.worker {
            return Err(AckResult::NOT_OWNER);
        }
        if let Some(&number) = self.by_pinhole.get(&wanted.id) {
            let same = self.record(number).is_some_and(|binding| {
                (
                    binding.inside,
                    binding.inside_port,
                    binding.protocol,
                    binding.pool,
                    binding.remote,
                    binding.remote_ports,
                ) == (wanted.inside, wanted.inside_port, wanted.protocol, pool, wanted.remote, remote_ports)
                    && (wanted.external_port == 0 || wanted.external_port == binding.external_port)
                    && (wanted.external.is_unspecified() || wanted.external == binding.external)
            });
            return if same { Ok(number) } else { Err(AckResult::CONFLICT) };
        }
        if let Some(number) = self.of_inside(wanted.protocol, wanted.inside, wanted.inside_port, pool) {
            return self.adopt(number, wanted, remote_ports);
        }
        if !self.has_room() {
            return Err(AckResult::TABLE_FULL);
        }
        let class = class_of(wanted.protocol);
        let (external, external_port) = if translated {
            policy.pool(pool).ok_or(AckResult::NOT_IN_POOL)?;
            self.pinhole_port(policy, pool, wanted, class, leased)?
        } else {
            (Address::UNSPECIFIED, 0)
        };
        let binding = Binding {
            inside: wanted.inside,
            external,
            inside_port: wanted.inside_port,
            external_port,
            protocol: wanted.protocol,
            class,
            pool,
            pinhole: wanted.id,
            remote: wanted.remote,
            remote_ports,
            leased,
            created: now,
            last: now,
            flows: 0,
            first_flow: NONE,
            live: true,
        };
        Ok(self.insert(binding, counters))
    }

    /// Turns the dynamic binding that an endpoint already has into the wanted pinhole.
    fn adopt(&mut self, number: u32, wanted: &PinholeAdd, remote_ports: [u16; 2]) -> Result<u32, AckResult> {
        let binding = self.record_mut(number).ok_or(AckResult::NOT_FOUND)?;
        if binding.pinhole != 0 {
            return Err(AckResult::CONFLICT);
        }
        let same_port = wanted.external_port == 0 || wanted.external_port == binding.external_port;
        let same_address = wanted.external.is_unspecified() || wanted.external == binding.external;
        if !same_port || !same_address {
            return Err(AckResult::MAPPED_ELSEWHERE);
        }
        binding.pinhole = wanted.id;
        binding.remote = wanted.remote;
        binding.remote_ports = remote_ports;
        self.by_pinhole.insert(wanted.id, number);
        Ok(number)
    }

    fn pinhole_port(
        &mut self,
        policy: &Policy,
        pool: PoolId,
        wanted: &PinholeAdd,
        class: ProtocolClass,
        leased: bool,
    ) -> Result<(Address, u16), AckResult> {
        let external = if wanted.external.is_unspecified() {
            let inside = wanted.inside;
            self.external_address(policy, pool, inside, class).ok_or(AckResult::NO_PORT)?
        } else if policy.pool_of(wanted.external) == Some(pool) {
            wanted.external.to_v4().ok_or(AckResult::NOT_IN_POOL)?
        } else {
            return Err(AckResult::NOT_IN_POOL);
        };
        let port = match wanted.external_port {
            0 => {
                let random = self.random.next();
                self.ports.take_any(external, class, random).ok_or(AckResult::NO_PORT)?
            }
            // A port outside the pool's range may be had by name: it is how a server gets port 80.
            port if leased => {
                if steering::owner_of_port(port, self.workers) == self.worker {
                    return Err(AckResult::NOT_OWNER);
                }
                if self.of_external(wanted.protocol, Address::v4(external), port).is_some() {
                    return Err(AckResult::PORT_TAKEN);
                }
                port
            }
            port if steering::owner_of_port(port, self.workers) != self.worker => {
                return Err(AckResult::NOT_OWNER);
            }
            port => {
                self.ports.take(external, class, port).map_err(port_error)?;
                port
            }
        };
        Ok((Address::v4(external), port))
    }

    /// The pinhole with `id`.
    pub(crate) fn pinhole(&self, id: u64) -> Option<u32> {
        self.by_pinhole.get(&id).copied()
    }

    /// Keeps a port of this worker's blocks for a pinhole of another worker.
    ///
    /// # Errors
    /// What to answer.
    pub(crate) fn lease_port(&mut self, policy: &Policy, lease: &PortLease) -> Result<(), AckResult> {
        if steering::owner_of_port(lease.external_port, self.workers) != self.worker {
            return Err(AckResult::NOT_OWNER);
        }
        let external = lease.external.to_v4().ok_or(AckResult::NOT_IN_POOL)?;
        if policy.pool_of(lease.external) != Some(lease.pool) {
            return Err(AckResult::NOT_IN_POOL);
        }
        let key =
            ExternalKey { address: lease.external, port: lease.external_port, protocol: lease.protocol };
        if self.leases.get(&key) == Some(&lease.owner) {
            return Ok(());
        }
        if self.leases.len() >= self.capacity {
            return Err(AckResult::TABLE_FULL);
        }
        self.ports.take(external, class_of(lease.protocol), lease.external_port).map_err(port_error)?;
        self.leases.insert(key, lease.owner);
        Ok(())
    }

    /// Takes a lease back.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn release_port(&mut self, lease: &PortLease) -> Result<(), AckResult> {
        let key =
            ExternalKey { address: lease.external, port: lease.external_port, protocol: lease.protocol };
        self.leases.remove(&key).ok_or(AckResult::NOT_FOUND)?;
        if let Some(external) = lease.external.to_v4() {
            self.ports.release(external, class_of(lease.protocol), lease.external_port);
        }
        Ok(())
    }

    /// Prepares for the pools of a new policy.
    pub(crate) fn set_pools(&mut self, policy: &Policy) {
        let range = |pool: &PoolRecord| (pool.port_first, pool.port_last);
        self.ports.set_pools(policy.pools().map(|(id, pool)| (range(pool), policy.addresses(id))));
        self.leases.retain(|key, _| policy.pool_of(key.address).is_some());
    }

    /// The first binding from `from` on that the pools of a new policy no longer allow.
    pub(crate) fn outdated(&self, policy: &Policy, from: usize) -> Option<usize> {
        let mut translated =
            self.walk(from, usize::MAX).filter(|(_, binding)| binding.pool != BindingRow::NO_POOL);
        translated
            .find(|(_, binding)| policy.pool_of(binding.external) != Some(binding.pool))
            .map(|(number, _)| number)
    }

    /// Bindings among the `most` records from `cursor` on, with their numbers.
    pub(crate) fn walk(&self, cursor: usize, most: usize) -> impl Iterator<Item = (usize, &Binding)> {
        self.slab.iter().enumerate().skip(cursor).take(most).filter(|(_, binding)| binding.live)
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
    }
}

fn inside_key(binding: &Binding) -> InsideKey {
    InsideKey {
        address: binding.inside,
        port: binding.inside_port,
        pool: binding.pool,
        protocol: binding.protocol,
    }
}

fn external_key(binding: &Binding) -> ExternalKey {
    ExternalKey { address: binding.external, port: binding.external_port, protocol: binding.protocol }
}

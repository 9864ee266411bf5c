//! Ports held back by command: reservations (RFC 5189 PRR), and leases to other workers.

use super::slots::Slots;
use super::{Binding, Bindings, ExternalKey, HELD_SHARE, class_of, port_error};
use crate::policy::Policy;
use crate::ports::{Class, Entry};
use turnpike_abi::command::{PortLease, PortsReserve};
use turnpike_abi::event::{AckResult, BindingRow};
use turnpike_abi::flow::NONE;
use turnpike_abi::{Address, PoolId, steering};

/// Ports in a row that nobody gets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reservation {
    pub(super) external: [u8; 4],
    pub(super) port: u16,
    pub(super) ports: u8,
    pub(super) class: Class,
    pub(super) pool: PoolId,
    inside: Address,
    protocol: u8,
}

impl Reservation {
    /// The ports, lowest first.
    pub(super) fn each(&self) -> impl Iterator<Item = u16> + use<> {
        (self.port..=u16::MAX).take(usize::from(self.ports))
    }
}

impl Bindings {
    /// Reservations among the `most` places from `cursor` on, as rows show them, with their places.
    pub(crate) fn walk_reservations(
        &self,
        cursor: usize,
        most: usize,
    ) -> impl Iterator<Item = (usize, BindingRow)> {
        self.reservations.walk(cursor, most).map(|(place, id, held)| {
            let row = BindingRow {
                inside: held.inside,
                external: Address::v4(held.external),
                pinhole: *id,
                external_port: held.port,
                pool: held.pool,
                protocol: held.protocol,
                worker: self.worker,
                ..BindingRow::default()
            };
            (place, row)
        })
    }

    /// Ports leased to other workers, likewise.
    pub(crate) fn walk_leases(
        &self,
        cursor: usize,
        most: usize,
    ) -> impl Iterator<Item = (usize, BindingRow)> {
        self.leases.walk(cursor, most).map(|(place, key, (worker, pool))| {
            let row = BindingRow {
                external: key.address,
                external_port: key.port,
                pool: *pool,
                protocol: key.protocol,
                worker: *worker,
                ..BindingRow::default()
            };
            (place, row)
        })
    }

    /// Places of reservations and of leases there are to walk over.
    pub(crate) fn held_places(&self) -> (usize, usize) {
        (self.reservations.places(), self.leases.places())
    }

    /// Holds ports in a row back. Returns the address and the lowest port.
    ///
    /// # Errors
    /// What to answer.
    pub(crate) fn reserve(
        &mut self,
        policy: &Policy,
        wanted: &PortsReserve,
    ) -> Result<(Address, u16), AckResult> {
        let class = Class::of(class_of(wanted.protocol)).ok_or(AckResult::NO_PORT)?;
        if let Some(held) = self.reservations.get(&wanted.id) {
            let same = (held.pool, held.ports, held.protocol, held.inside)
                == (wanted.pool, wanted.ports, wanted.protocol, wanted.inside)
                && (wanted.external_port == 0 || wanted.external_port == held.port)
                && (wanted.external.is_unspecified() || wanted.external == Address::v4(held.external));
            return if same { Ok((Address::v4(held.external), held.port)) } else { Err(AckResult::CONFLICT) };
        }
        if self.reservations.len() >= self.capacity.div_ceil(HELD_SHARE) {
            return Err(AckResult::TABLE_FULL);
        }
        policy.pool(wanted.pool).ok_or(AckResult::NOT_IN_POOL)?;
        let somebody = !wanted.inside.is_unspecified();
        if somebody && steering::owner_of_inside(wanted.inside, self.workers) != self.worker {
            return Err(AckResult::NOT_OWNER);
        }
        let inside = wanted.inside.to_v4();
        let external = match wanted.external.to_v4() {
            Some(external) if policy.pool_of(wanted.external) == Some(wanted.pool) => Some(external),
            None if wanted.external.is_unspecified() => None,
            _ => return Err(AckResult::NOT_IN_POOL),
        };
        let random = self.random.next();
        let (external, port) = match (external, wanted.external_port) {
            (_, 0) => {
                let what = (class, wanted.ports, wanted.parity);
                self.ports.reserve(wanted.pool, inside, external, what, random).map_err(port_error)?
            }
            (None, _) => return Err(AckResult::NOT_IN_POOL),
            (Some(external), first) => {
                if wanted.again == 1 {
                    self.end_leases(wanted, first);
                    self.ports.reclaim(external, class, (first, wanted.ports));
                }
                self.take_row(inside, external, class, (first, wanted.ports), Entry::Held)?;
                (external, first)
            }
        };
        let held = Reservation {
            external,
            port,
            ports: wanted.ports,
            class,
            pool: wanted.pool,
            inside: wanted.inside,
            protocol: wanted.protocol,
        };
        self.reservations.insert(wanted.id, held);
        Ok((Address::v4(external), port))
    }

    /// What a rule had leased while it was to be enabled is a reservation again.
    fn end_leases(&mut self, wanted: &PortsReserve, first: u16) {
        for port in first..=first.saturating_add(u16::from(wanted.ports) - 1) {
            let key = ExternalKey { address: wanted.external, port, protocol: wanted.protocol };
            let ends = (wanted.external.to_v4(), Class::of(class_of(wanted.protocol)));
            if let (Some(_), (Some(external), Some(class))) = (self.leases.remove(&key), ends) {
                self.ports.release_from_nobody(external, class, port);
            }
        }
    }

    /// Takes certain ports in a row for nobody: all of them or none.
    fn take_row(
        &mut self,
        inside: Option<[u8; 4]>,
        external: [u8; 4],
        class: Class,
        (first, ports): (u16, u8),
        entry: Entry,
    ) -> Result<(), AckResult> {
        let last = first.checked_add(u16::from(ports.max(1)) - 1).ok_or(AckResult::NOT_IN_POOL)?;
        for port in first..=last {
            if steering::owner_of_port(port, self.workers) != self.worker {
                return Err(AckResult::NOT_OWNER);
            }
            self.ports.check_named(inside, external, class, port).map_err(port_error)?;
        }
        for port in first..=last {
            if let Err(error) = self.ports.take_for_nobody(inside, external, class, port, entry) {
                for done in first..port {
                    self.ports.release_from_nobody(external, class, done);
                }
                return Err(port_error(error));
            }
        }
        Ok(())
    }

    /// Gives reserved ports back.
    ///
    /// # Errors
    /// If there is no such reservation.
    pub(crate) fn release_reservation(&mut self, id: u64) -> Result<(), AckResult> {
        let held = self.reservations.remove(&id).ok_or(AckResult::NOT_FOUND)?;
        for port in held.each() {
            self.ports.release_from_nobody(held.external, held.class, port);
        }
        Ok(())
    }

    /// The reservation with `id` if it is of these ports.
    pub(super) fn reserved(&self, id: u64, pool: PoolId, protocol: u8, ports: u8) -> Option<Reservation> {
        let held = self.reservations.get(&id).copied()?;
        ((held.pool, held.protocol, held.ports) == (pool, protocol, ports)).then_some(held)
    }

    /// Forgets a reservation whose ports have another use now.
    pub(super) fn use_up(&mut self, id: u64) {
        self.reservations.remove(&id);
    }

    /// Keeps ports of this worker's blocks for a pinhole of another worker: all of them or none.
    ///
    /// # Errors
    /// What to answer.
    pub(crate) fn lease_port(&mut self, policy: &Policy, lease: &PortLease) -> Result<(), AckResult> {
        let class = Class::of(class_of(lease.protocol));
        let owner = match class {
            Some(_) => steering::owner_of_port(lease.external_port, self.workers),
            None => steering::owner_of_portless(lease.external, self.workers),
        };
        if owner != self.worker {
            return Err(AckResult::NOT_OWNER);
        }
        let external = lease.external.to_v4().ok_or(AckResult::NOT_IN_POOL)?;
        if policy.pool_of(lease.external) != Some(lease.pool) {
            return Err(AckResult::NOT_IN_POOL);
        }
        let keys = keys(lease);
        if keys.clone().all(|key| self.leases.get(&key) == Some(&(lease.owner, lease.pool))) {
            return Ok(());
        }
        if self.leases.len() + usize::from(lease.ports.max(1)) > self.capacity.div_ceil(HELD_SHARE) {
            return Err(AckResult::TABLE_FULL);
        }
        let ports = lease.ports.max(1);
        match class {
            None => {
                let taken = |key| self.leases.contains_key(&key) || self.portless.contains_key(&key);
                if keys.clone().any(taken) {
                    return Err(AckResult::PORT_TAKEN);
                }
            }
            Some(class) if lease.reservation != 0 => {
                let held = self.reserved(lease.reservation, lease.pool, lease.protocol, ports);
                held.filter(|held| (held.external, held.port) == (external, lease.external_port))
                    .ok_or(AckResult::NOT_RESERVED)?;
                let held = |key: ExternalKey| self.ports.entry(external, class, key.port) == Entry::Held;
                if !keys.clone().all(held) {
                    return Err(AckResult::PORT_TAKEN);
                }
                self.use_up(lease.reservation);
                for key in keys.clone() {
                    self.ports.rename(external, class, key.port, Entry::Leased(lease.owner));
                }
            }
            Some(class) => {
                let entry = Entry::Leased(lease.owner);
                if lease.again == 1 {
                    self.ports.reclaim(external, class, (lease.external_port, ports));
                }
                // Some of them may be another rule's of the same inside end, which go on being so.
                let had = |leases: &Slots<_, _>, key: &_| leases.get(key) == Some(&(lease.owner, lease.pool));
                for key in keys.clone() {
                    if had(&self.leases, &key) {
                        continue;
                    }
                    if let Err(result) = self.take_row(None, external, class, (key.port, 1), entry) {
                        for done in keys.clone().filter(|done| done.port < key.port) {
                            if !had(&self.leases, &done) {
                                self.ports.release_from_nobody(external, class, done.port);
                            }
                        }
                        return Err(result);
                    }
                }
            }
        }
        for key in keys {
            self.leases.insert(key, (lease.owner, lease.pool));
        }
        Ok(())
    }

    /// Takes a lease back.
    ///
    /// # Errors
    /// If its owner has none.
    pub(crate) fn release_port(&mut self, lease: &PortLease) -> Result<(), AckResult> {
        let mut found = Err(AckResult::NOT_FOUND);
        let ends = (lease.external.to_v4(), Class::of(class_of(lease.protocol)));
        for key in keys(lease) {
            if self.leases.get(&key).is_none_or(|(owner, _)| *owner != lease.owner) {
                continue;
            }
            self.leases.remove(&key);
            found = Ok(());
            if let (Some(external), Some(class)) = ends {
                self.ports.release_from_nobody(external, class, key.port);
            }
        }
        found
    }

    /// Whether a binding of this worker uses a port that another one leased it.
    pub(crate) fn uses_lease(&self, lease: &PortLease) -> bool {
        keys(lease).any(|key| self.portless.contains_key(&key))
    }

    /// After the pools changed their shape: every port in use takes its place in the new one.
    pub(super) fn put_back(&mut self, policy: &Policy) {
        for (number, binding) in (0u32..).zip(&self.slab) {
            let own = binding.has(Binding::LIVE)
                && binding.has_own_port()
                && policy.pool_of(binding.external()) == Some(binding.pool);
            if let (true, Some(class)) = (own, Class::of(binding.class())) {
                let port = binding.external_port;
                self.ports.put_back(binding.subscriber, binding.external, class, port, Entry::Bound(number));
            }
        }
        for number in 0..self.slab.len() as u32 {
            let stays = |binding: &Binding| policy.pool_of(binding.external()) == Some(binding.pool);
            if self.record(number).is_some_and(stays) {
                self.log_foreign(number);
            }
        }
        for (_, held) in self.reservations.iter() {
            for port in held.each() {
                self.ports.put_back(NONE, held.external, held.class, port, Entry::Held);
            }
        }
        for (key, (owner, _)) in self.leases.iter() {
            if let (Some(external), Some(class)) = (key.address.to_v4(), Class::of(class_of(key.protocol))) {
                self.ports.put_back(NONE, external, class, key.port, Entry::Leased(*owner));
            }
        }
    }
}

/// Every port of a lease; port 0 once for a protocol without ports.
fn keys(lease: &PortLease) -> impl Iterator<Item = ExternalKey> + Clone + use<> {
    let (address, protocol) = (lease.external, lease.protocol);
    let last = lease.external_port.saturating_add(u16::from(lease.ports.max(1)) - 1);
    (lease.external_port..=last).map(move |port| ExternalKey { address, port, protocol })
}

//! Ports that somebody asks for by name: pinholes, reservations, leases. And what becomes of ports in
//! use when the pools change.

use super::geometry::place_of;
use super::pools::{Coming, Pools};
use super::quarantine::{Chain, STRIDE, chain, unchain};
use super::units::{Directory, END};
use super::{Class, Entry, PortError, Ports, Subscriber, Taken, Wanted};
use crate::policy::Policy;
use turnpike_abi::PoolId;
use turnpike_abi::command::Kind;
use turnpike_abi::flow::NONE;
use turnpike_abi::steering::owner_of_port;
use turnpike_abi::table::PoolRecord;

/// Freed ports that are looked at to find one that is wanted back.
const RECLAIMED: u32 = 4096;

impl Ports {
    /// Takes a certain port for a subscriber. It may lie in anybody's block, but not in another's computed range; a
    /// block that nobody has becomes the subscriber's, if it may have another one there, or nobody's.
    ///
    /// # Errors
    /// If somebody has the port or it is held back.
    pub(crate) fn take_named(
        &mut self,
        wanted: &Wanted,
        external: [u8; 4],
        port: u16,
        entry: Entry,
    ) -> Result<Taken, PortError> {
        self.check_named(Some(wanted.inside), external, wanted.class, port)?;
        let subscriber = self.attach_unpaired(wanted.pool, wanted.inside, wanted.class)?;
        let taken = self.put(subscriber, external, wanted.class, port, entry);
        if let Err(error) = taken {
            self.subscribers.forget_if_done(subscriber);
            return Err(error);
        }
        self.pair(subscriber, external);
        self.subscribers.count(subscriber, wanted.class, true);
        Ok(Taken { subscriber, external, port })
    }

    /// Whether a certain port may be had, by an inside address or by nobody.
    pub(crate) fn check_named(
        &self,
        inside: Option<[u8; 4]>,
        external: [u8; 4],
        class: Class,
        port: u16,
    ) -> Result<(), PortError> {
        let (address, pool) = self.address(external).ok_or(PortError::UnknownAddress)?;
        let (word, bit) = place_of(port, self.workers);
        if self.units.used(address, class, word) >> bit & 1 == 1 {
            return Err(PortError::Taken);
        }
        let state = self.pools.state(pool).ok_or(PortError::UnknownAddress)?;
        let number = state.geometry.block_of(word);
        let computed = inside.and_then(|inside| state.computed(inside, self.worker));
        if state.geometry.is_range(number) && computed != Some((address, number)) {
            return Err(PortError::Taken);
        }
        Ok(())
    }

    /// Takes a certain port, which is free, for nobody.
    pub(crate) fn take_for_nobody(
        &mut self,
        inside: Option<[u8; 4]>,
        external: [u8; 4],
        class: Class,
        port: u16,
        entry: Entry,
    ) -> Result<(), PortError> {
        self.check_named(inside, external, class, port)?;
        self.put(NONE, external, class, port, entry)?;
        self.tally.reserved += 1;
        Ok(())
    }

    /// Lets freed ports of this worker go before their time, for the rule that they were freed from: after a restart of
    /// the control plane in the middle of a change, what the journal has holds (RFC 6888 REQ-8 is for others). Those
    /// freed last are looked at first, and no more than some: what is not found stays held back.
    pub(crate) fn reclaim(&mut self, external: [u8; 4], class: Class, (first, ports): (u16, u8)) {
        for port in first..=first.saturating_add(u16::from(ports.max(1)) - 1) {
            if owner_of_port(port, self.workers) == self.worker
                && self.entry(external, class, port) == Entry::Cooling
            {
                self.reclaim_one(external, class, port);
            }
        }
    }

    fn reclaim_one(&mut self, external: [u8; 4], class: Class, port: u16) {
        let Some((address, _)) = self.address(external) else { return };
        let (word, bit) = place_of(port, self.workers);
        let Some(unit) = self.units.find(address, class, word) else { return };
        let (slot, now_s) = (unit * 64 + bit, self.now_s());
        let mut left = RECLAIMED;
        for due_s in (now_s..=now_s + u32::from(PoolRecord::MAX_QUARANTINE) + 1).rev() {
            // The last ones passed, the last of them first; and those that come.
            let (mut passed, mut coming) = ([END; STRIDE], *self.quarantine.port_chain(due_s));
            let mut place = 0;
            while coming[0] != END && left > 0 {
                let at = coming[0];
                unchain(&mut coming, self.units.chained(at));
                if at == slot {
                    return self.unhold(slot, due_s, place, (passed, coming));
                }
                chain(&mut passed, at);
                (place, left) = (place + 1, left - 1);
            }
        }
    }

    /// Takes a port out of its place in the chain of a second, before and after which others are: those before lead to
    /// the next but one now.
    fn unhold(&mut self, slot: u32, due_s: u32, place: usize, (passed, coming): (Chain, Chain)) {
        for (&before, &after) in passed.iter().rev().zip(&coming).filter(|(before, _)| **before != END) {
            self.units.chain(before, after);
        }
        let first = self.quarantine.port_chain(due_s);
        first.iter_mut().skip(place).zip(coming).for_each(|(at, next)| *at = next);
        self.quarantine.lose(1);
        self.free_slot(slot);
    }

    /// Gives a port back that [`Ports::take_for_nobody`] or [`Ports::reserve`] took.
    pub(crate) fn release_from_nobody(&mut self, external: [u8; 4], class: Class, port: u16) {
        if matches!(self.entry(external, class, port), Entry::Held | Entry::Leased(_)) {
            self.tally.reserved -= 1;
            self.release_port(external, class, port);
        }
    }

    /// Writes another entry to a reserved port. `false` if it is not reserved: the pool was cut in another way and
    /// somebody else had it.
    pub(crate) fn rename(&mut self, external: [u8; 4], class: Class, port: u16, entry: Entry) -> bool {
        let Some((address, _)) = self.address(external) else { return false };
        let (word, bit) = place_of(port, self.workers);
        match self.units.find(address, class, word) {
            Some(unit) if self.units.entry(address, class, word, bit) == Entry::Held => {
                self.units.set(unit * 64 + bit, entry);
                true
            }
            _ => false,
        }
    }

    /// Turns a reserved port into one in use by a subscriber.
    ///
    /// # Errors
    /// If the subscriber has as many as it may, or a table is full.
    pub(crate) fn claim(
        &mut self,
        wanted: &Wanted,
        external: [u8; 4],
        port: u16,
        entry: Entry,
    ) -> Result<Taken, PortError> {
        if self.entry(external, wanted.class, port) != Entry::Held {
            return Err(PortError::Taken);
        }
        let subscriber = self.attach(wanted.pool, wanted.inside, external, wanted.class)?;
        if self.rename(external, wanted.class, port, entry) {
            self.tally.reserved -= 1;
        }
        Ok(Taken { subscriber, external, port })
    }

    /// Takes any port of a certain address for a subscriber.
    ///
    /// # Errors
    /// As [`Ports::take`].
    pub(crate) fn take_on(
        &mut self,
        wanted: &Wanted,
        external: [u8; 4],
        entry: Entry,
    ) -> Result<Taken, PortError> {
        let known = self.subscribers.find(wanted.inside, wanted.pool);
        if known.and_then(|number| self.subscribers.record(number)).is_some_and(|it| it.external == external)
        {
            return self.take(wanted, entry);
        }
        let what = (wanted.class, 1, wanted.parity);
        let (external, port) =
            self.reserve(wanted.pool, Some(wanted.inside), Some(external), what, wanted.random)?;
        self.claim(wanted, external, port, entry)
            .inspect_err(|_| self.release_from_nobody(external, wanted.class, port))
    }

    /// The external address that a subscriber has or would get.
    pub(crate) fn external_for(&self, pool: PoolId, inside: [u8; 4], random: u64) -> Option<[u8; 4]> {
        let known = self.subscribers.find(inside, pool).and_then(|number| self.subscribers.record(number));
        let address = match known.map(|record| record.address).filter(|address| *address != NONE) {
            Some(address) => address,
            None => {
                let state = self.pools.state(pool)?;
                let all = state.geometry.fitting(None);
                state.address_for(inside, &self.blocks, self.keyed, random, &all)?
            }
        };
        self.pools.external(address)
    }

    /// Counts a port of another worker's block for a subscriber.
    pub(crate) fn attach(
        &mut self,
        pool: PoolId,
        inside: [u8; 4],
        external: [u8; 4],
        class: Class,
    ) -> Result<u32, PortError> {
        let subscriber = self.attach_unpaired(pool, inside, class)?;
        self.pair(subscriber, external);
        self.subscribers.count(subscriber, class, true);
        Ok(subscriber)
    }

    /// Takes that back.
    pub(crate) fn detach(&mut self, subscriber: u32, class: Class) {
        self.subscribers.count(subscriber, class, false);
        self.subscribers.forget_if_done(subscriber);
    }

    /// Whether a subscriber may have `more` ports (RFC 6888 REQ-4).
    pub(crate) fn has_ports_left(&self, pool: PoolId, inside: [u8; 4], class: Class, more: u32) -> bool {
        let limit = self.pools.state(pool).map_or(0, |state| state.record.subscriber_ports);
        let known = self.subscribers.find(inside, pool).and_then(|number| self.subscribers.record(number));
        let used = known.and_then(|it| it.ports.get(class.index()).copied()).unwrap_or(0);
        limit == 0 || more == 0 || used.saturating_add(more) <= limit
    }

    fn attach_unpaired(&mut self, pool: PoolId, inside: [u8; 4], class: Class) -> Result<u32, PortError> {
        let Some(number) = self.subscribers.find(inside, pool) else {
            return self.subscribers.insert(Subscriber::new(inside, pool, self.now.0)).ok_or(PortError::Room);
        };
        // RFC 6888 REQ-4: ports by name count like any.
        let limit = self.pools.state(pool).map_or(0, |state| state.record.subscriber_ports);
        let used = self.subscribers.record(number).and_then(|it| it.ports.get(class.index()).copied());
        if limit != 0 && used.unwrap_or(0) >= limit { Err(PortError::Limit) } else { Ok(number) }
    }

    /// A subscriber without external address gets the one of its first port.
    fn pair(&mut self, subscriber: u32, external: [u8; 4]) {
        let address = self.address(external).map_or(NONE, |(address, _)| address);
        if let Some(record) = self.subscribers.record_mut(subscriber)
            && record.address == NONE
        {
            (record.address, record.external) = (address, external);
        }
    }

    /// Takes a free port in whatever block it lies.
    fn put(
        &mut self,
        subscriber: u32,
        external: [u8; 4],
        class: Class,
        port: u16,
        entry: Entry,
    ) -> Result<(), PortError> {
        let (address, pool) = self.address(external).ok_or(PortError::UnknownAddress)?;
        let (word, bit) = place_of(port, self.workers);
        let state = self.pools.state(pool).ok_or(PortError::UnknownAddress)?;
        let number = state.geometry.block_of(word);
        let block = match self.blocks.find(address, number) {
            Some(block) => block,
            None => {
                let most = state.record.blocks;
                let owner = self.subscribers.record(subscriber).filter(|record| {
                    record.pool == pool
                        && (record.address == NONE || record.address == address)
                        && (most == 0 || record.blocks < most)
                        && (state.geometry.on_offer(number) || state.geometry.is_range(number))
                });
                let owner = if owner.is_some() { subscriber } else { NONE };
                self.take_block(owner, address, number).ok_or(PortError::Room)?
            }
        };
        let taken = self.take_bit(block, class, word, bit, entry);
        if taken.is_err() {
            self.block_idle(block);
        }
        taken
    }

    /// The pools of a new policy, which [`Ports::set_pools`] takes over.
    pub(crate) fn coming(&self, policy: &Policy) -> Coming {
        let records: Vec<_> =
            policy.pools().map(|(id, pool)| (*pool, policy.ranges_of(id).collect())).collect();
        self.coming_of(&records)
    }

    /// As [`Ports::coming`], from records and address ranges.
    pub(super) fn coming_of(&self, records: &[(PoolRecord, Vec<(u32, u32)>)]) -> Coming {
        self.pools.coming(Pools::new(records, self.worker, self.workers))
    }

    /// Whether the ports of an external address stay where they are.
    pub(crate) fn stays(&self, external: [u8; 4], coming: &Coming) -> bool {
        self.pool_of(external).is_some_and(|pool| coming.stays(external, pool).is_some())
    }

    /// Goes over to other pools. What lies on addresses that stay, in pools that are cut as before,
    /// stays as it is. Returns whether anything else was in use: [`Ports::put_back`] is for what it was used for.
    pub(crate) fn set_pools(&mut self, coming: Coming) -> bool {
        if !coming.moves {
            self.pools.adjust(&coming.pools);
            return false;
        }
        let stays = self.places_of_blocks(&coming);
        let old = core::mem::replace(&mut self.pools, coming.pools);
        let units = self.units.renew(self.pools.len());
        self.blocks.renew(self.pools.len(), self.pools.blocks());
        let mut lost = Vec::new();
        for (at, stays) in self.blocks.numbers().zip(stays) {
            let Some(&record) = self.blocks.record(at) else { continue };
            let words = record.first_word..record.first_word + record.words;
            match stays {
                Some(address) => {
                    self.units.carry(&units, record.address, address, words);
                    self.blocks.carry(at, address);
                    self.pools.block_taken(address, record.number);
                }
                None => lost.push(at),
            }
        }
        if !lost.is_empty() {
            self.cuts += 1;
            self.leave_chains(&lost);
        }
        for at in &lost {
            self.drop_block(*at, &units, &old);
        }
        for number in self.subscribers.numbers() {
            if let Some(record) = self.subscribers.record_mut(number) {
                let is = self.pools.number(record.external).filter(|(_, pool)| *pool == record.pool);
                record.address = is.map_or(NONE, |(address, _)| address);
            }
        }
        !lost.is_empty()
    }

    /// The address that each block will have, if its ports stay where they are.
    fn places_of_blocks(&self, coming: &Coming) -> Vec<Option<u32>> {
        let place = |at| {
            let address = self.blocks.record(at)?.address;
            coming.stays(self.pools.external(address)?, self.pools.pool_of(address)?)
        };
        self.blocks.numbers().map(place).collect()
    }

    /// Forgets a block whose address or shape is gone, with its ports.
    fn drop_block(&mut self, at: u32, units: &Directory, old: &Pools) {
        let Some(&record) = self.blocks.record(at) else { return };
        if let Some(logged) = self.logged_block(old, at) {
            self.records.note((Kind::PORTS_RELEASED, logged));
        }
        let words = record.first_word..record.first_word + record.words;
        for class in Class::ALL {
            if record.free.get(class.index()).is_some_and(|free| *free > 0) {
                self.blocks.unlink(&mut self.subscribers, at, class);
            }
        }
        let held = self.units.drop_words(units, record.address, words);
        self.tally.reserved -= u64::from(held);
        self.blocks.forget(at);
        if let Some(subscriber) = self.subscribers.record_mut(record.subscriber) {
            subscriber.blocks -= 1;
            self.tally.released += 1;
            self.subscribers.forget_if_done(record.subscriber);
        }
    }

    /// Takes blocks (their numbers ascend) and their ports out of the chains of what is held back.
    fn leave_chains(&mut self, lost: &[u32]) {
        let is_lost = |block: u32| lost.binary_search(&block).is_ok();
        let mut left = 0;
        for (ports, blocks) in self.quarantine.heads() {
            let mut from = core::mem::replace(ports, [END; STRIDE]);
            while from[0] != END {
                let slot = from[0];
                unchain(&mut from, self.units.chained(slot));
                if self.units.unit(slot).is_some_and(|unit| !is_lost(unit.block)) {
                    let next = chain(ports, slot);
                    self.units.chain(slot, next);
                } else {
                    left += 1;
                }
            }
            let (mut from, mut kept) = (*blocks, NONE);
            while let Some(next) = self.blocks.record(from).map(|record| record.next) {
                if !is_lost(from) {
                    if let Some(record) = self.blocks.record_mut(from) {
                        record.next = kept;
                    }
                    kept = from;
                }
                from = next;
            }
            *blocks = kept;
        }
        self.quarantine.lose(left);
    }

    /// Puts a port in use back that [`Ports::set_pools`] could not keep, if its pool still has it.
    pub(crate) fn put_back(
        &mut self,
        subscriber: u32,
        external: [u8; 4],
        class: Class,
        port: u16,
        entry: Entry,
    ) {
        if self.entry(external, class, port) == Entry::Free {
            let put = self.put(subscriber, external, class, port, entry);
            if put.is_ok() && subscriber == NONE {
                self.tally.reserved += 1;
            }
            self.pair(subscriber, external);
        }
    }
}

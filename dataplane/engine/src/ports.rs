//! External ports: which are in use, whose they are, and which may be had. Exact, a bit each.
//!
//! A subscriber gets ports in blocks ([`geometry`]): a primary one, then more on the same external address up to its
//! pool's limit. A port is random within a block that has one free (RFC 6056); summary bits and lists of blocks
//! with free ports find it in a fixed number of steps, however full everything is. Nothing here allocates after
//! start but the directories of new pool addresses, which are zero pages until somebody uses them.

mod blocks;
mod geometry;
mod log;
mod named;
mod pools;
mod quarantine;
mod release;
mod rows;
mod subscribers;
#[cfg(test)]
mod tests;
mod units;

use crate::keyed::Keyed;
use crate::records::Records;
use crate::{Setup, Time};
use blocks::Blocks;
use geometry::{place_of, port_of, words_of};
use pools::Pools;
use quarantine::Quarantine;
use rows::Row;
use subscribers::Subscribers;
use turnpike_abi::command::{Kind, Parity};
use turnpike_abi::counters::{Counter, Counters, ProtocolClass};
use turnpike_abi::flow::NONE;
use turnpike_abi::{PoolId, WorkerId};
use turnpike_shm::memory::Memory;
use units::Units;

pub(crate) use pools::Coming;
pub(crate) use release::Place;
pub(crate) use subscribers::Subscriber;
pub(crate) use units::Entry;

/// Up to so many bindings each may be another subscriber's.
const MANY: usize = 1 << 16;
const EVEN: u64 = 0x5555_5555_5555_5555;

/// Protocols that have ports or query identifiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Tcp,
    Udp,
    Icmp,
}

impl Class {
    pub(crate) const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Icmp];
    pub(crate) const COUNT: usize = 3;

    pub(crate) const fn of(class: ProtocolClass) -> Option<Self> {
        match class {
            ProtocolClass::Tcp => Some(Self::Tcp),
            ProtocolClass::Udp => Some(Self::Udp),
            ProtocolClass::Icmp => Some(Self::Icmp),
            ProtocolClass::Other => None,
        }
    }

    const fn index(self) -> usize {
        self as usize
    }

    fn of_index(index: u8) -> Option<Self> {
        Self::ALL.get(usize::from(index)).copied()
    }
}

/// A port that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) subscriber: u32,
    pub(crate) external: [u8; 4],
    pub(crate) port: u16,
}

/// A port that was drawn before it is taken, so that what lies in memory of it is near by then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Foreseen {
    pub(crate) subscriber: u32,
    pub(crate) external: [u8; 4],
    pub(crate) port: u16,
    pub(crate) class: Class,
    block: u32,
    word: u16,
    bit: u32,
}

/// Why a port cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortError {
    /// Somebody has it, or it is held back.
    Taken,
    /// No pool has the address.
    UnknownAddress,
    /// None is left that the subscriber could have.
    Exhausted,
    /// The subscriber has as many as it may.
    Limit,
    /// A table of the worker is full.
    Room,
}

/// What to take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) pool: PoolId,
    pub(crate) inside: [u8; 4],
    pub(crate) class: Class,
    pub(crate) parity: Parity,
    pub(crate) random: u64,
}

/// Subscribers of a worker with room for `bindings`: whoever has a binding has several.
const fn subscribers(bindings: usize) -> usize {
    let (few, some) = (if bindings < MANY { bindings } else { MANY }, bindings / 8);
    if some > few { some } else { few }
}

/// What happened, since the start.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    primary: u64,
    overflow: u64,
    released: u64,
    skipped: u64,
    /// Now.
    reserved: u64,
}

/// Ports of every pool address, as far as this worker gives them out.
#[derive(Debug)]
pub(crate) struct Ports {
    worker: WorkerId,
    workers: u8,
    keyed: Keyed,
    pools: Pools,
    subscribers: Subscribers,
    blocks: Blocks,
    units: Units,
    quarantine: Quarantine,
    tally: Tally,
    /// How often ports took other places, because a pool was cut anew.
    cuts: u64,
    now: Time,
    /// What subscribers got and gave back, to be logged.
    pub(crate) records: Records<log::Logged>,
}

impl Ports {
    /// Bytes of the memory given to [`Ports::new`].
    pub(crate) const fn bytes(bindings: usize) -> usize {
        Subscribers::bytes(subscribers(bindings))
    }

    pub(crate) fn new(setup: &Setup, keyed: Keyed, memory: &mut Memory) -> Option<Self> {
        let (bindings, words) = (setup.bindings, words_of(setup.worker, setup.workers));
        Some(Self {
            worker: setup.worker,
            workers: setup.workers,
            keyed,
            pools: Pools::default(),
            subscribers: Subscribers::new(subscribers(bindings), keyed, memory)?,
            // One for each binding, and as many again for what is held back.
            blocks: Blocks::new(bindings * 2),
            units: Units::new(bindings * 2, words),
            quarantine: Quarantine::new(bindings),
            tally: Tally::default(),
            cuts: 0,
            now: Time(0),
            records: Records::new(),
        })
    }

    fn now_s(&self) -> u32 {
        (self.now.0 / 1000) as u32
    }

    /// Number of an address and its pool.
    fn address(&self, external: [u8; 4]) -> Option<(u32, PoolId)> {
        self.pools.number(external)
    }

    /// The pool of an external address.
    pub(crate) fn pool_of(&self, external: [u8; 4]) -> Option<PoolId> {
        self.address(external).map(|(_, pool)| pool)
    }

    /// Ports in use from slot `cursor` on, in as many units, that are a binding's: slots, and the bindings.
    pub(crate) fn walk_bound(&self, cursor: usize, units: usize) -> impl Iterator<Item = (usize, u32)> {
        self.units.walk(cursor, units).filter_map(|slot| match self.units.entry_of(slot) {
            Entry::Bound(binding) => Some((slot as usize, binding)),
            _ => None,
        })
    }

    /// Slots there are to walk over, and how often pools were cut anew: until then a port in use keeps its slot.
    pub(crate) fn slots(&self) -> (usize, u64) {
        (self.units.slots(), self.cuts)
    }

    /// What a port of this worker's stands for.
    pub(crate) fn entry(&self, external: [u8; 4], class: Class, port: u16) -> Entry {
        let Some((address, _)) = self.address(external) else { return Entry::Free };
        let (word, bit) = place_of(port, self.workers);
        self.units.entry(address, class, word, bit)
    }

    /// The number of a subscriber that has something in the pool.
    pub(crate) fn subscriber_of(&self, inside: [u8; 4], pool: PoolId) -> Option<u32> {
        self.subscribers.find(inside, pool)
    }

    /// The external address of a subscriber that has something in the pool.
    pub(crate) fn external_of(&self, inside: [u8; 4], pool: PoolId) -> Option<[u8; 4]> {
        let subscriber = self.subscriber(self.subscriber_of(inside, pool)?)?;
        (subscriber.address != NONE).then_some(subscriber.external)
    }

    pub(crate) fn subscriber(&self, number: u32) -> Option<&Subscriber> {
        self.subscribers.record(number)
    }

    pub(crate) fn subscriber_mut(&mut self, number: u32) -> Option<&mut Subscriber> {
        self.subscribers.record_mut(number)
    }

    /// First of five steps that bring the lines near which a new binding of a subscriber will need.
    pub(crate) fn prefetch_index(&self, inside: [u8; 4], pool: PoolId) {
        self.subscribers.prefetch_index(inside, pool);
    }

    /// Second step. Returns what the third asks for.
    pub(crate) fn prefetch_subscriber(&self, inside: [u8; 4], pool: PoolId) -> Option<u32> {
        self.subscribers.prefetch_record(inside, pool)
    }

    /// Third step. Returns what the fourth asks for.
    pub(crate) fn prefetch_block(&self, subscriber: u32, class: Class) -> Option<u32> {
        let block = *self.subscribers.record(subscriber)?.open.get(class.index())?;
        self.blocks.prefetch(block);
        Some(block)
    }

    /// Fourth step.
    pub(crate) fn prefetch_units(&self, block: u32, class: Class) {
        if let Some(block) = self.blocks.record(block) {
            self.units.prefetch_directory(block.address, class, block.first_word);
        }
    }

    /// Fifth step: the port that a new binding gets ([`Ports::take_foreseen`]) unless somebody takes it before.
    pub(crate) fn foresee(&self, subscriber: u32, block: u32, class: Class, random: u16) -> Option<Foreseen> {
        // The word comes from the high bits of the low half, the port in it from the low bits of the high half.
        let random = u64::from(random);
        let (word, bit) = self.choose_in(block, class, u64::MAX, random << 32 | random << 16)?;
        let address = self.blocks.record(block)?.address;
        self.units.prefetch(address, class, word);
        let port = port_of(word, self.worker, self.workers)? + bit as u16;
        Some(Foreseen { subscriber, block, external: self.pools.external(address)?, port, word, bit, class })
    }

    /// Whether a subscriber is the one of an inside address in a pool.
    pub(crate) fn is_of(&self, number: u32, inside: [u8; 4], pool: PoolId) -> bool {
        let record = self.subscribers.record(number);
        record.is_some_and(|it| it.inside == inside && it.pool == pool && !it.is_done())
    }

    /// Takes the port that was foreseen. `false`, and nothing taken, if it is not to be had any more.
    #[inline(always)]
    pub(crate) fn take_foreseen(&mut self, foreseen: &Foreseen, pool: PoolId, entry: Entry) -> bool {
        let &Foreseen { subscriber, block, word, bit, class, .. } = foreseen;
        let taken = self.is_to_be_had(foreseen, pool).unwrap_or(false)
            && self.take_bit(block, class, word, bit, entry).is_ok();
        if taken {
            self.subscribers.count(subscriber, class, true);
        }
        taken
    }

    #[inline(always)]
    fn is_to_be_had(&self, foreseen: &Foreseen, pool: PoolId) -> Option<bool> {
        let &Foreseen { subscriber, block, external, word, bit, class, .. } = foreseen;
        let limit = self.pools.state(pool)?.record.subscriber_ports;
        let record = self.subscribers.record(subscriber)?;
        let (used, head) = (*record.ports.get(class.index())?, *record.open.get(class.index())?);
        let of_block = self.blocks.record(block)?;
        let inside = (of_block.first_word..of_block.first_word + of_block.words).contains(&word);
        let free = inside && self.units.used(of_block.address, class, word) >> bit & 1 == 0;
        Some(free && head == block && record.external == external && (limit == 0 || used < limit))
    }

    /// Counts a flow of a subscriber in or out.
    pub(crate) fn count_flow(&mut self, number: u32, opened: bool) {
        if let Some(subscriber) = self.subscribers.record_mut(number) {
            subscriber.flows = if opened { subscriber.flows + 1 } else { subscriber.flows.saturating_sub(1) };
        }
    }

    /// Takes a port for `entry`: random in a block of the subscriber, or in a block that it gets now.
    ///
    /// # Errors
    /// Fails only if no port is free that the subscriber may have, or a table is full.
    pub(crate) fn take(&mut self, wanted: &Wanted, entry: Entry) -> Result<Taken, PortError> {
        self.take_for(self.subscribers.find(wanted.inside, wanted.pool), wanted, entry)
    }

    /// As [`Ports::take`], where it is known which subscriber it is for, if there is one yet.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn take_for(
        &mut self,
        known: Option<u32>,
        wanted: &Wanted,
        entry: Entry,
    ) -> Result<Taken, PortError> {
        let Wanted { pool, class, random, .. } = *wanted;
        let state = self.pools.state(pool).ok_or(PortError::UnknownAddress)?;
        let limit = state.record.subscriber_ports;
        let parity = match wanted.parity {
            Parity::EVEN => EVEN,
            Parity::ODD => !EVEN,
            _ => u64::MAX,
        };
        if let Some(number) = known {
            let subscriber = self.subscribers.record(number).ok_or(PortError::Room)?;
            let [used, head] =
                [&subscriber.ports, &subscriber.open].map(|list| list.get(class.index()).copied());
            if limit != 0 && used.unwrap_or(0) >= limit {
                return Err(PortError::Limit);
            }
            if let Some(block) = head.filter(|head| *head != NONE) {
                let (external, port) =
                    (subscriber.external, self.take_in(block, class, parity, random, entry)?);
                self.subscribers.count(number, class, true);
                return Ok(Taken { subscriber: number, external, port });
            }
        }
        let number = self.with_new_block(known, pool, wanted.inside, None, random)?;
        let subscriber = self.subscribers.record(number).ok_or(PortError::Room)?;
        let external = subscriber.external;
        let head = subscriber.open.get(class.index()).copied().unwrap_or(NONE);
        let port = self.take_in(head, class, parity, random.rotate_left(17), entry);
        let port = port.inspect_err(|_| self.block_idle(head))?;
        self.subscribers.count(number, class, true);
        Ok(Taken { subscriber: number, external, port })
    }

    /// Gives a subscriber another block, or its first: one that the row fits in, if there is one. Returns the subscriber.
    fn with_new_block(
        &mut self,
        known: Option<u32>,
        pool: PoolId,
        inside: [u8; 4],
        row: Option<&Row>,
        random: u64,
    ) -> Result<u32, PortError> {
        let state = self.pools.state(pool).ok_or(PortError::UnknownAddress)?;
        let (blocks, paired) = known
            .and_then(|number| self.subscribers.record(number))
            .map_or((0, NONE), |subscriber| (subscriber.blocks, subscriber.address));
        if state.record.blocks != 0 && blocks >= state.record.blocks {
            return Err(PortError::Limit);
        }
        let fitting = state.geometry.fitting(row);
        let address = if paired == NONE {
            let address = state.address_for(inside, &self.blocks, self.keyed, random, &fitting);
            address.ok_or(PortError::Exhausted)?
        } else {
            paired
        };
        // RFC 7422 section 2 step 3: the computed range before all else.
        let computed = state.computed(inside, self.worker).filter(|(at, _)| *at == address);
        let computed = computed.filter(|&(_, block)| {
            self.blocks.find(address, block).is_none()
                && row.is_none_or(|row| state.geometry.fits(block, row))
        });
        let number = match computed {
            Some((_, block)) => block,
            None => {
                let taken = self.blocks.taken(address).ok_or(PortError::UnknownAddress)?;
                state.geometry.choose(taken, &fitting, random).ok_or(PortError::Exhausted)?
            }
        };
        let subscriber = match known {
            Some(number) => number,
            None => {
                let new = Subscriber::new(inside, pool, self.now.0);
                self.subscribers.insert(new).ok_or(PortError::Room)?
            }
        };
        let taken = self.take_block(subscriber, address, number);
        if taken.is_none() {
            self.subscribers.forget_if_done(subscriber);
        }
        taken.map(|_| subscriber).ok_or(PortError::Room)
    }

    /// Gives a subscriber, or nobody ([`NONE`]), a block that is free.
    fn take_block(&mut self, subscriber: u32, address: u32, number: u16) -> Option<u32> {
        let pool = self.pools.pool_of(address)?;
        let state = self.pools.state(pool)?;
        let block = self.blocks.take(&state.geometry, subscriber, (address, number), self.now)?;
        self.pools.block_taken(address, number);
        let external = self.pools.external(address)?;
        if let Some(record) = self.subscribers.record_mut(subscriber) {
            if record.blocks == 0 {
                self.tally.primary += 1;
            } else {
                self.tally.overflow += 1;
            }
            record.blocks += 1;
            (record.address, record.external) = (address, external);
        }
        for class in Class::ALL {
            if self.blocks.record(block)?.free.get(class.index()).is_some_and(|free| *free > 0) {
                self.blocks.link(&mut self.subscribers, block, class);
            }
        }
        self.note_block(Kind::PORTS_ASSIGNED, block);
        Some(block)
    }

    /// Takes a free eligible port of a block, of the parity if there is one.
    fn take_in(
        &mut self,
        block: u32,
        class: Class,
        parity: u64,
        random: u64,
        entry: Entry,
    ) -> Result<u16, PortError> {
        let (word, bit) = self.choose_in(block, class, parity, random).ok_or(PortError::Exhausted)?;
        let port = port_of(word, self.worker, self.workers).ok_or(PortError::Exhausted)? + bit as u16;
        self.take_bit(block, class, word, bit, entry).map(|()| port)
    }

    /// Word and bit of a free eligible port of a block, of the parity if there is one.
    fn choose_in(&self, block: u32, class: Class, parity: u64, random: u64) -> Option<(u16, u32)> {
        let record = self.blocks.record(block)?;
        let (address, first, words) = (record.address, record.first_word, u32::from(record.words.max(1)));
        let geometry = &self.pools.of_address(address)?.geometry;
        // As even as a remainder, without a division.
        let start = ((u64::from(random as u32) * u64::from(words)) >> 32) as u32;
        let mut open = (!record.full.get(class.index())?).rotate_right(start);
        let mut chosen = None;
        while open != 0 {
            let at = (open.trailing_zeros() + start) % 64;
            let word = first + at as u16;
            let free = geometry.eligible(word) & !self.units.used(address, class, word);
            let wanted = free & parity;
            if wanted != 0 || chosen.is_none() {
                chosen = Some((word, if wanted == 0 { free } else { wanted }));
            }
            if wanted != 0 {
                break;
            }
            open &= open - 1;
        }
        let (word, free) = chosen?;
        let turn = (random >> 32) as u32 % 64;
        Some((word, (free.rotate_right(turn).trailing_zeros() + turn) % 64))
    }

    /// Takes a port of a block that is free.
    fn take_bit(
        &mut self,
        block: u32,
        class: Class,
        word: u16,
        bit: u32,
        entry: Entry,
    ) -> Result<(), PortError> {
        let record = self.blocks.record_mut(block).ok_or(PortError::Room)?;
        let address = record.address;
        let eligible = self.pools.of_address(address).map_or(0, |state| state.geometry.eligible(word));
        let used = self.units.take(block, address, class, (word, bit), entry).ok_or(PortError::Room)?;
        record.busy += 1;
        if eligible >> bit & 1 == 0 {
            return Ok(());
        }
        let index = class.index();
        if let (0, Some(full)) = (eligible & !used, record.full.get_mut(index)) {
            *full |= 1 << (word - record.first_word);
        }
        let Some(free) = record.free.get_mut(index) else { return Ok(()) };
        *free -= 1;
        if *free == 0 {
            self.blocks.unlink(&mut self.subscribers, block, class);
        }
        Ok(())
    }

    /// Notes the time before anything is taken or given back.
    pub(crate) fn at(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    /// Subscribers with a port in use.
    pub(crate) fn active(&self) -> usize {
        self.subscribers.active()
    }

    /// Publishes what there is to count.
    pub(crate) fn count(&self, counters: &mut Counters) {
        counters.set(Counter::BlocksPrimary, self.tally.primary);
        counters.set(Counter::BlocksOverflow, self.tally.overflow);
        counters.set(Counter::BlocksReleased, self.tally.released);
        counters.set(Counter::QuarantineSkipped, self.tally.skipped);
        counters.set(Counter::Blocks, self.tally.primary + self.tally.overflow - self.tally.released);
        counters.set(Counter::Quarantined, self.quarantine.held.into());
        counters.set(Counter::PortsReserved, self.tally.reserved);
    }
}

//! Ports in a row, held back for nobody: reservations, and pinholes of several ports.
//!
//! A row lies in one block: one of its subscriber, or one that is nobody's, which reservations without inside host
//! share. Blocks of other subscribers are theirs alone, also what is free in them.

use super::pools::PoolState;
use super::{Class, EVEN, Entry, PortError, Ports};
use turnpike_abi::PoolId;
use turnpike_abi::command::Parity;
use turnpike_abi::flow::NONE;

/// Nobody's blocks that are searched for a row before another is taken, and if there is no other to take.
const FEW: usize = 64;
const MOST: usize = 1 << 10;

/// What a row has to be like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    count: u32,
    /// Bits of a word at which it may begin, by parity.
    wanted: u64,
    /// Those of them at which rows of its length lie side by side, with nothing lost between.
    aligned: u64,
}

impl Row {
    pub(super) fn new(count: u8, parity: Parity) -> Self {
        let count = u32::from(count.max(1));
        let wanted = match parity {
            Parity::EVEN => EVEN,
            Parity::ODD => !EVEN,
            _ => u64::MAX,
        };
        let size = count.next_power_of_two().min(64);
        let every = (0..64).step_by(size as usize).fold(0, |every, bit| every | 1u64 << bit);
        let aligned = if parity == Parity::ODD { every << 1 } else { every };
        Self { count, wanted, aligned: if size == 1 { wanted } else { aligned & wanted } }
    }

    /// The bits of a word at which a row begins, from what is free in it and in the ports that follow.
    pub(super) fn starts(&self, free: u64, next: u64) -> u64 {
        let mut row = u128::from(free) | u128::from(next) << 64;
        let mut have = 1;
        while have < self.count {
            let more = have.min(self.count - have);
            row &= row >> more;
            have += more;
        }
        row as u64 & self.wanted
    }
}

impl Ports {
    /// Takes `count` ports in a row for nobody, from the blocks of the subscriber if there is one and it has room or may
    /// have another, else from nobody's. Returns the address and the first port.
    ///
    /// # Errors
    /// If there is no such row where it may be.
    pub(crate) fn reserve(
        &mut self,
        pool: PoolId,
        inside: Option<[u8; 4]>,
        external: Option<[u8; 4]>,
        (class, count, parity): (Class, u8, Parity),
        random: u64,
    ) -> Result<([u8; 4], u16), PortError> {
        let row = Row::new(count, parity);
        let known = inside.and_then(|inside| self.subscribers.find(inside, pool));
        let paired = known.and_then(|number| self.subscribers.record(number)).map(|record| record.address);
        let wanted = external.map(|external| self.address(external).map_or(NONE, |(address, _)| address));
        let address = wanted.or(paired.filter(|address| *address != NONE));
        // The subscriber's own blocks, the newest first.
        let mut block = known
            .and_then(|number| self.subscribers.record(number))
            .and_then(|record| record.open.get(class.index()).copied())
            .unwrap_or(NONE);
        while let Some(record) = self.blocks.record(block) {
            let next = self.blocks.next(block, class);
            if address.is_none_or(|address| address == record.address)
                && let Some(found) = self.reserve_in(block, class, &row, random)
            {
                return Ok(found);
            }
            block = next;
        }
        // A new block of its own.
        if let Some(inside) = inside
            && (wanted.is_none() || wanted == paired)
        {
            match self.with_new_block(known, pool, inside, Some(&row), random) {
                Ok(number) => {
                    let head =
                        self.subscribers.record(number).and_then(|it| it.open.get(class.index()).copied());
                    return self.reserve_in_new(head.unwrap_or(NONE), class, &row, random);
                }
                Err(PortError::Limit | PortError::Exhausted) => {}
                Err(error) => return Err(error),
            }
        }
        // Nobody's blocks, the newest first; another one; where there is none, the rest of nobody's.
        let whose = (pool, address);
        let newest = self.blocks.nobodys(class);
        let rest = match self.reserve_in_nobodys(newest, FEW, whose, class, &row, random) {
            Ok(found) => return Ok(found),
            Err(rest) => rest,
        };
        let state = self.pools.state(pool).ok_or(PortError::UnknownAddress)?;
        if let Some((address, number)) = self.another_block(state, address, &row, random) {
            let block = self.take_block(NONE, address, number).ok_or(PortError::Room)?;
            return self.reserve_in_new(block, class, &row, random);
        }
        self.reserve_in_nobodys(rest, MOST, whose, class, &row, random).map_err(|_| PortError::Exhausted)
    }

    /// A block on offer that nobody has and the row fits in, of the address if it has to be a certain one.
    fn another_block(
        &self,
        state: &PoolState,
        address: Option<u32>,
        row: &Row,
        random: u64,
    ) -> Option<(u32, u16)> {
        let fitting = state.geometry.fitting(Some(row));
        let choose = |address| state.geometry.choose(self.blocks.taken(address)?, &fitting, random);
        let address = address.or_else(|| state.any_open(random, |address| choose(address).is_some()))?;
        Some((address, choose(address)?))
    }

    /// Takes a row in one of nobody's blocks, from `at` on, of `most`. Returns what comes behind them if there is none.
    fn reserve_in_nobodys(
        &mut self,
        mut at: u32,
        most: usize,
        (pool, address): (PoolId, Option<u32>),
        class: Class,
        row: &Row,
        random: u64,
    ) -> Result<([u8; 4], u16), u32> {
        for _ in 0..most {
            let Some(&record) = self.blocks.record(at) else { break };
            let next = self.blocks.next(at, class);
            // A block in somebody's computed range is nobody's if its ports were named beyond a limit, but not for all.
            let fits = self.pools.pool_of(record.address) == Some(pool)
                && address.is_none_or(|address| address == record.address)
                && self.pools.state(pool).is_some_and(|state| state.geometry.on_offer(record.number));
            if fits && let Some(found) = self.reserve_in(at, class, row, random) {
                return Ok(found);
            }
            at = next;
        }
        Err(at)
    }

    /// Takes a row in a block that was chosen to have room for it.
    fn reserve_in_new(
        &mut self,
        block: u32,
        class: Class,
        row: &Row,
        random: u64,
    ) -> Result<([u8; 4], u16), PortError> {
        let found = self.reserve_in(block, class, row, random);
        if found.is_none() {
            self.block_idle(block);
        }
        found.ok_or(PortError::Room)
    }

    /// Takes a row of free ports in a block: beside others of its length from a random place on, else wherever it fits.
    fn reserve_in(&mut self, block: u32, class: Class, row: &Row, random: u64) -> Option<([u8; 4], u16)> {
        let record = *self.blocks.record(block)?;
        if u32::from(*record.free.get(class.index())?) < row.count {
            return None;
        }
        let geometry = &self.pools.of_address(record.address)?.geometry;
        let free = |word: u16| {
            let inside = (record.first_word..record.first_word + record.words).contains(&word);
            if inside { geometry.eligible(word) & !self.units.used(record.address, class, word) } else { 0 }
        };
        let mut chosen = None;
        for step in 0..record.words {
            let word = record.first_word + (random as u16 % record.words + step) % record.words;
            let next = if geometry.goes_on(word) { free(word + 1) } else { 0 };
            let starts = row.starts(free(word), next);
            let aligned = starts & row.aligned;
            if aligned != 0 || chosen.is_none() && starts != 0 {
                chosen = Some((word, if aligned != 0 { aligned } else { starts }));
            }
            if aligned != 0 {
                break;
            }
        }
        let (word, starts) = chosen?;
        let port = super::port_of(word, self.worker, self.workers)?;
        let turn = (random >> 32) as u32 % 64;
        let bit = (starts.rotate_right(turn).trailing_zeros() + turn) % 64;
        let (external, first) = (self.pools.external(record.address)?, port + bit as u16);
        for at in bit..bit + row.count {
            let (word, bit) = (word + (at / 64) as u16, at % 64);
            if self.take_bit(block, class, word, bit, Entry::Held).is_err() {
                // No room for a unit: give back what there is.
                for done in first..port + at as u16 {
                    self.release_from_nobody(external, class, done);
                }
                return None;
            }
            self.tally.reserved += 1;
        }
        Some((external, first))
    }
}

//! How the ports of a pool's addresses are cut into blocks.
//!
//! A worker owns every `workers`-th granule of [`steering::PORT_BLOCK`] ports of each address and counts its
//! ports without the gaps ("local" ports). A block is a run of local ports: it lies in one granule if it is not
//! larger than one, and is a set of the worker's own granules if it is. So a block belongs to one worker whatever
//! its size and however many workers there are, and each of its ports is steered there.
//!
//! A deterministic pool begins with the computed ranges of RFC 7422; behind them lie the blocks of the
//! dynamic share. Ports outside the pool's range lie in blocks too, so that they can be had by name, but are never
//! on offer.

use super::rows::Row;
use turnpike_abi::deterministic::Plan;
use turnpike_abi::table::PoolRecord;
use turnpike_abi::{WorkerId, steering};

/// Ports of a word.
pub(super) const WORD: u16 = 64;
/// Words of blocks' bits of an address: blocks of 64 ports, one worker.
pub(super) const BLOCK_WORDS: usize = 16;

/// Words of local ports that a worker has of each address.
pub(super) fn words_of(worker: WorkerId, workers: u8) -> u16 {
    let granules = (u16::MAX / steering::PORT_BLOCK) + 1;
    let workers = u16::from(workers.max(1));
    (granules + workers - 1 - u16::from(worker.0)) / workers * (steering::PORT_BLOCK / WORD)
}

/// The port that bit 0 of a local word stands for.
pub(super) fn port_of(word: u16, worker: WorkerId, workers: u8) -> Option<u16> {
    steering::port_of_local(word.checked_mul(WORD)?, worker, workers)
}

/// The local word and bit of a port; its owner is the caller.
pub(super) fn place_of(port: u16, workers: u8) -> (u16, u32) {
    let local = steering::local_of_port(port, workers);
    (local / WORD, u32::from(local % WORD))
}

/// The blocks of one pool, for one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    worker: WorkerId,
    workers: u8,
    first: u16,
    last: u16,
    words: u16,
    /// First word of the computed ranges, words of each, how many.
    begin: u16,
    range_words: u16,
    ranges: u16,
    /// First word of the blocks, words of each.
    blocks_begin: u16,
    block_words: u16,
    pub(super) plan: Option<Plan>,
    /// Blocks that anybody may get.
    offer: [u64; BLOCK_WORDS],
    pub(super) offered: u16,
    /// The first of those.
    offer_first: u16,
    /// By word, ports that are given out without being asked for, as bits.
    eligible: Vec<u64>,
}

impl Geometry {
    pub(super) fn new(pool: &PoolRecord, addresses: u32, worker: WorkerId, workers: u8) -> Self {
        let deterministic = pool.flags & PoolRecord::DETERMINISTIC != 0;
        let plan = deterministic.then(|| Plan::new(pool, addresses, workers).ok()).flatten();
        let share = plan.map(|plan| plan.share(worker)).unwrap_or_default();
        let range_words = plan.map_or(0, |plan| plan.ports() / WORD);
        let begin = share.begin / WORD;
        let mut geometry = Self {
            worker,
            workers,
            first: pool.port_first,
            last: pool.port_last,
            words: words_of(worker, workers),
            begin,
            range_words,
            ranges: share.ranges,
            blocks_begin: begin + share.ranges * range_words,
            block_words: (pool.block_size / WORD).max(1),
            plan,
            offer: [0; BLOCK_WORDS],
            offered: 0,
            offer_first: 0,
            eligible: Vec::new(),
        };
        geometry.eligible = (0..geometry.words).map(|word| geometry.eligible_of(word)).collect();
        for block in geometry.ranges..geometry.low() {
            if geometry.capacity(block) > 0
                && let Some(offer) = geometry.offer.get_mut(usize::from(block / 64))
            {
                *offer |= 1 << (block % 64);
                if geometry.offered == 0 {
                    geometry.offer_first = block;
                }
                geometry.offered += 1;
            }
        }
        geometry
    }

    /// First number of the blocks below the computed ranges.
    fn low(&self) -> u16 {
        self.ranges + (self.words - self.blocks_begin).div_ceil(self.block_words)
    }

    /// How many blocks an address has: their numbers are below that.
    pub(super) fn blocks(&self) -> u16 {
        self.low() + self.begin.div_ceil(self.block_words)
    }

    /// The block that a word lies in.
    pub(super) fn block_of(&self, word: u16) -> u16 {
        if word >= self.blocks_begin {
            self.ranges + (word - self.blocks_begin) / self.block_words
        } else if word >= self.begin {
            (word - self.begin) / self.range_words.max(1)
        } else {
            self.low() + word / self.block_words
        }
    }

    /// First word of a block, and how many it has, 1 to 64.
    pub(super) fn words(&self, block: u16) -> (u16, u16) {
        if block < self.ranges {
            return (self.begin + block * self.range_words, self.range_words);
        }
        let low = self.low();
        let (first, end) = if block < low {
            (self.blocks_begin + (block - self.ranges) * self.block_words, self.words)
        } else {
            ((block - low) * self.block_words, self.begin)
        };
        (first, self.block_words.min(end.saturating_sub(first)))
    }

    /// Ports of a word that are given out without being asked for, as bits.
    pub(super) fn eligible(&self, word: u16) -> u64 {
        self.eligible.get(usize::from(word)).copied().unwrap_or(0)
    }

    fn eligible_of(&self, word: u16) -> u64 {
        let Some(port) = port_of(word, self.worker, self.workers) else { return 0 };
        let from = self.first.saturating_sub(port);
        let to = self.last.saturating_sub(port).min(WORD - 1);
        if from >= WORD || self.last < port {
            return 0;
        }
        (u64::MAX << from) & (u64::MAX >> (WORD - 1 - to))
    }

    /// Ports of a block that are given out without being asked for.
    pub(super) fn capacity(&self, block: u16) -> u16 {
        let (first, words) = self.words(block);
        (first..first + words).map(|word| self.eligible(word).count_ones() as u16).sum()
    }

    /// Whether a block is a computed range.
    pub(super) fn is_range(&self, block: u16) -> bool {
        block < self.ranges
    }

    /// Whether anybody may get a block.
    pub(super) fn on_offer(&self, block: u16) -> bool {
        self.offer.get(usize::from(block / 64)).is_some_and(|offer| offer >> (block % 64) & 1 == 1)
    }

    /// Whether the ports of the next word follow on those of a word: else another worker's lie between.
    pub(super) fn goes_on(&self, word: u16) -> bool {
        let port = |word| port_of(word, self.worker, self.workers);
        port(word).and_then(|port| port.checked_add(WORD)).is_some_and(|next| port(word + 1) == Some(next))
    }

    /// Whether a row fits in a block that has nothing in use.
    pub(super) fn fits(&self, block: u16, row: &Row) -> bool {
        let (first, words) = self.words(block);
        let free = |word: u16| if word < first + words { self.eligible(word) } else { 0 };
        let next = |word: u16| if self.goes_on(word) { free(word + 1) } else { 0 };
        (first..first + words).any(|word| row.starts(free(word), next(word)) != 0)
    }

    /// Blocks on offer that a row fits in, as bits; without a row, all of them.
    pub(super) fn fitting(&self, row: Option<&Row>) -> [u64; BLOCK_WORDS] {
        let Some(row) = row else { return self.offer };
        let mut fitting = self.offer;
        for (at, blocks) in (0u16..).zip(&mut fitting) {
            for bit in
                (0..64).filter(|bit| self.offer.get(usize::from(at)).is_some_and(|it| it >> bit & 1 == 1))
            {
                if !self.fits(at * 64 + bit, row) {
                    *blocks &= !(1 << bit);
                }
            }
        }
        fitting
    }

    /// A block of those that are `fitting` and that `taken` leaves, from a random one on.
    pub(super) fn choose(
        &self,
        taken: &[u64; BLOCK_WORDS],
        fitting: &[u64; BLOCK_WORDS],
        random: u64,
    ) -> Option<u16> {
        let from = self.offer_first + (random % u64::from(self.offered.max(1))) as u16;
        let start = usize::from(from / 64);
        for step in 0..=BLOCK_WORDS {
            let at = (start + step) % BLOCK_WORDS;
            let mut free = fitting.get(at)? & !taken.get(at)?;
            // The first word from the random one on, and again whole at the end of the round.
            if step == 0 {
                free &= u64::MAX << (from % 64);
            }
            if free != 0 {
                return Some(at as u16 * 64 + free.trailing_zeros() as u16);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Every word of every worker lies in exactly one block, and blocks consist of their words.
        #[test]
        fn blocks_partition_the_ports(
            workers in 1u8..=64, at in any::<prop::sample::Index>(), shift in 6u32..=12, first in 1u16..40_000,
            hosts in 0u32..300, addresses in 1u32..5, dynamic in 0u16..4,
        ) {
            let worker = WorkerId(at.index(workers.into()) as u8);
            let deterministic = hosts > 0;
            let pool = PoolRecord {
                port_first: first,
                port_last: 65_535,
                block_size: 1 << shift,
                flags: if deterministic { PoolRecord::DETERMINISTIC } else { 0 },
                inside_first: [10, 0, 0, 0],
                inside_last: (0x0a00_0000 + hosts).to_be_bytes(),
                dynamic,
                ..PoolRecord::default()
            };
            let geometry = Geometry::new(&pool, addresses, worker, workers);
            for word in 0..words_of(worker, workers) {
                let block = geometry.block_of(word);
                let (first, words) = geometry.words(block);
                prop_assert!((first..first + words).contains(&word), "{word} in {block}: {first} {words}");
                prop_assert!(words <= 64);
                for word in [first, first + words - 1] {
                    prop_assert_eq!(geometry.block_of(word), block);
                }
                let port = port_of(word, worker, workers).unwrap();
                prop_assert_eq!(steering::owner_of_port(port, workers), worker);
                prop_assert_eq!(place_of(port + 5, workers), (word, 5));
                prop_assert!(usize::from(block) < BLOCK_WORDS * 64 && block < geometry.blocks());
            }
        }
    }
}

//! From the hash of a key to the number that stands for it: buckets of one cache line.
//!
//! A bucket holds a tag byte and a reference for each of 12 entries; all tags are compared at once. A reference
//! takes as many bits as its numbers need, the rest hold more of the hash, so that a wrong candidate, and with
//! it the miss of a record that is not the right one, is rare. What does not fit into its bucket goes to the
//! next ones; the home bucket counts those and knows some of their hashes' bits, so that most searches end where they
//! began.

use turnpike_shm::memory::{Array, Memory};
use turnpike_shm::simd::equal_bytes;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Entries of a bucket.
const SLOTS: usize = 12;
/// Buckets behind its home in which an entry may lie, its home among them: far more than chance needs.
const REACH: usize = 64;
/// Filled to 72 of 100 at most: one bucket in six is full then, one entry in forty lies behind its home. At 85 a new flow
/// takes a quarter longer, for four bytes a flow.
const LOAD: (usize, usize) = (18, 25);

/// One cache line of the index.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
struct Bucket {
    /// 0 where there is no entry.
    tags: [u8; SLOTS],
    /// Entries that belong here and lie in one of the next buckets.
    away: u16,
    /// How many buckets behind this one such entries may lie.
    reach: u8,
    /// The [`trace`]s of such entries, and of some that are gone.
    traces: u8,
    references: [u32; SLOTS],
}

/// An index of up to a fixed number of entries. Takes no memory after it was made.
#[derive(Debug)]
pub(crate) struct Index {
    buckets: Array<Bucket>,
    /// Bits of a reference that are its number.
    number: u32,
}

impl Index {
    /// Bytes that an index for `entries` takes.
    pub(crate) const fn bytes(entries: usize) -> usize {
        Memory::bytes_of::<Bucket>(Self::buckets(entries))
    }

    const fn buckets(entries: usize) -> usize {
        (entries * LOAD.1).div_ceil(SLOTS * LOAD.0) + REACH
    }

    /// An index for `entries` whose numbers are below `numbers`. `None` if the memory is used up.
    pub(crate) fn new(entries: usize, numbers: usize, memory: &mut Memory) -> Option<Self> {
        let buckets = memory.array(Self::buckets(entries))?;
        let number = usize::BITS - numbers.saturating_sub(1).leading_zeros();
        Some(Self { buckets, number: if number >= 32 { u32::MAX } else { (1 << number) - 1 } })
    }

    /// The bucket where a search for `hash` begins. The last [`REACH`] are nobody's home, so none wraps
    /// round.
    #[inline(always)]
    fn home(&self, hash: u64) -> usize {
        let homes = (self.buckets.len() - REACH) as u64;
        (((hash >> 32) * homes) >> 32) as usize
    }

    /// Asks for the cache line where a search for `hash` will begin.
    #[inline(always)]
    pub(crate) fn prefetch(&self, hash: u64) {
        self.buckets.prefetch(self.home(hash));
    }

    /// Asks for the next bucket if the one where a search for `hash` begins, which was asked for, is full: an entry will
    /// be filed there.
    #[inline(always)]
    pub(crate) fn prefetch_overflow(&self, hash: u64) {
        let home = self.home(hash);
        if self.buckets.get(home).is_some_and(|bucket| equal_tags(bucket, 0) == 0) {
            self.buckets.prefetch(home + 1);
        }
    }

    /// The first number that has the hash's bits, without a look at the key.
    #[inline(always)]
    pub(crate) fn guess(&self, hash: u64) -> Option<u32> {
        self.find(hash, |_| true)
    }

    /// The number under `hash` that `is` recognises.
    #[inline(always)]
    pub(crate) fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let home = self.home(hash);
        let bucket = self.buckets.get(home)?;
        if let Some(number) = self.candidates(bucket, hash).find(|&number| is(number)) {
            return Some(number);
        }
        if bucket.traces & trace(hash) == 0 {
            return None;
        }
        let others = self.buckets.get(home + 1..=home + usize::from(bucket.reach))?;
        others.iter().find_map(|bucket| self.candidates(bucket, hash).find(|&number| is(number)))
    }

    /// Numbers in a bucket whose entries have the hash's bits.
    #[inline(always)]
    fn candidates<'a>(&'a self, bucket: &'a Bucket, hash: u64) -> impl Iterator<Item = u32> + 'a {
        let mut equal = equal_tags(bucket, tag_of(hash));
        let more = self.more_of(hash);
        core::iter::from_fn(move || {
            while equal != 0 {
                let at = equal.trailing_zeros() as usize;
                equal &= equal - 1;
                let reference = bucket.references.get(at).copied().unwrap_or(0);
                if reference & !self.number == more {
                    return Some(reference & self.number);
                }
            }
            None
        })
    }

    /// The bits of a reference that hold more of the hash.
    #[inline(always)]
    fn more_of(&self, hash: u64) -> u32 {
        hash as u32 & !self.number
    }

    /// Files `number` under `hash`. `false`, and nothing changed, if all buckets in reach are full.
    pub(crate) fn insert(&mut self, hash: u64, number: u32) -> bool {
        let home = self.home(hash);
        let reference = number | self.more_of(hash);
        for distance in 0..REACH {
            let Some(bucket) = self.buckets.get_mut(home + distance) else { return false };
            let free = equal_tags(bucket, 0);
            if free == 0 {
                continue;
            }
            let at = free.trailing_zeros() as usize;
            if let (Some(tag), Some(place)) = (bucket.tags.get_mut(at), bucket.references.get_mut(at)) {
                (*tag, *place) = (tag_of(hash), reference);
            }
            if let (true, Some(home)) = (distance > 0, self.buckets.get_mut(home)) {
                home.away += 1;
                home.reach = home.reach.max(distance as u8);
                home.traces |= trace(hash);
            }
            return true;
        }
        false
    }

    /// Takes `number` off the index. `false` if it was not filed under `hash`.
    pub(crate) fn remove(&mut self, hash: u64, number: u32) -> bool {
        let Some((distance, at)) = self.locate(hash, number) else { return false };
        let home = self.home(hash);
        if let Some(tag) = self.buckets.get_mut(home + distance).and_then(|bucket| bucket.tags.get_mut(at)) {
            *tag = 0;
        }
        if let (true, Some(home)) = (distance > 0, self.buckets.get_mut(home)) {
            home.away -= 1;
            if home.away == 0 {
                (home.reach, home.traces) = (0, 0);
            }
        }
        true
    }

    /// Has another number stand where `number` is filed. `false` if it is not filed under `hash`.
    pub(crate) fn rename(&mut self, hash: u64, number: u32, to: u32) -> bool {
        let Some((distance, at)) = self.locate(hash, number) else { return false };
        let (home, reference) = (self.home(hash), to | self.more_of(hash));
        let place = self.buckets.get_mut(home + distance).and_then(|bucket| bucket.references.get_mut(at));
        place.map(|place| *place = reference).is_some()
    }

    /// Where `number` is filed under `hash`: buckets behind its home, and the slot there.
    #[inline(always)]
    fn locate(&self, hash: u64, number: u32) -> Option<(usize, usize)> {
        let home = self.home(hash);
        let (tag, reference) = (tag_of(hash), number | self.more_of(hash));
        for distance in 0..REACH {
            let bucket = self.buckets.get(home + distance)?;
            let mut equal = equal_tags(bucket, tag);
            while equal != 0 {
                let at = equal.trailing_zeros() as usize;
                equal &= equal - 1;
                if bucket.references.get(at) == Some(&reference) {
                    return Some((distance, at));
                }
            }
        }
        None
    }
}

/// The tag of a hash: never 0.
#[inline(always)]
const fn tag_of(hash: u64) -> u8 {
    // The top bits name the bucket, and what is below bit 32 goes into the reference: bits of both would tell
    // nothing apart.
    let tag = (hash >> 32) as u8;
    if tag == 0 { 0xff } else { tag }
}

/// One bit that an entry which lies behind its home leaves there.
#[inline(always)]
const fn trace(hash: u64) -> u8 {
    1 << (hash >> 29 & 7)
}

/// A bit for each slot whose tag is `tag`.
#[inline(always)]
fn equal_tags(bucket: &Bucket, tag: u8) -> u32 {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = bucket.tags;
    let low = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    let high = u64::from(u32::from_le_bytes([i, j, k, l]));
    equal_bytes(low, high, tag) & ((1 << SLOTS) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn index(entries: usize, numbers: usize) -> Index {
        let mut memory = Memory::ordinary(Index::bytes(entries)).unwrap();
        Index::new(entries, numbers, &mut memory).unwrap()
    }

    proptest! {
        /// Against a map, with hashes that meet in few buckets and share tags.
        #[test]
        fn finds_what_was_filed_and_nothing_else(
            steps in prop::collection::vec((0u64..40, any::<bool>()), 0..400),
        ) {
            let mut index = index(64, 1000);
            let mut oracle = BTreeMap::new();
            let hash_of = |key: u64| (key % 3) << 62 | (key % 7) << 29 | (key % 2) << 24 | (key % 5) << 20;
            for (number, (key, add)) in (0u32..).zip(steps) {
                if add {
                    if !oracle.contains_key(&key) && index.insert(hash_of(key), number) {
                        oracle.insert(key, number);
                    }
                } else if let Some(number) = oracle.remove(&key) {
                    let now = number ^ 512;
                    prop_assert!(index.rename(hash_of(key), number, now));
                    prop_assert!(!index.rename(hash_of(key), number, now));
                    prop_assert!(index.remove(hash_of(key), now));
                }
                for key in 0..40 {
                    let wanted = oracle.get(&key).copied();
                    prop_assert_eq!(index.find(hash_of(key), |number| Some(number) == wanted), wanted);
                }
            }
        }
    }

    #[test]
    fn takes_as_many_as_it_was_made_for() {
        let entries = 200_000;
        let mut index = index(entries, entries);
        let mut state = 1u64;
        let mut hashes = Vec::new();
        for number in 0..entries as u32 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let hash = state ^ state >> 29;
            assert!(index.insert(hash, number), "{number} of {entries}");
            hashes.push(hash);
        }
        let mut looked = 0u64;
        for (number, &hash) in (0..).zip(&hashes) {
            assert_eq!(
                index.find(hash, |candidate| {
                    looked += 1;
                    candidate == number
                }),
                Some(number)
            );
        }
        assert!(looked < entries as u64 * 101 / 100, "{looked} records looked at for {entries} keys");
        for (number, &hash) in (0..).zip(&hashes) {
            assert!(index.remove(hash, number));
        }
        assert!(
            index
                .buckets
                .iter()
                .all(|bucket| (bucket.tags, bucket.away, bucket.traces) == ([0; SLOTS], 0, 0))
        );
    }
}

//! From the hash of a key to the number that stands for it: buckets of one cache line.
//!
//! A bucket holds a tag byte and a reference for each of 12 entries; all tags are compared at once. A reference
//! takes as many bits as its numbers need, the rest hold more of the hash, so that a wrong candidate, and with
//! it the miss of a record that is not the right one, is rare. What does not fit into its bucket goes to the
//! next ones; the home bucket counts those and knows some of their hashes' bits, so that most searches end where they
//! began.
//!
//! The hash's lowest byte is the tag, and nothing else of it: entries whose hashes differ there alone have one home, and
//! [`Index::find_any`] looks at all of them.

use turnpike_shm::memory::{Array, Memory};
use turnpike_shm::simd::equal_bytes;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Entries of a bucket.
const SLOTS: usize = 12;
/// Buckets behind its home in which an entry may lie, its home among them: far more than chance needs.
const REACH: usize = 64;
/// Slots of a bucket that [`Index::insert_near`] leaves to others.
const SPARE: u32 = 2;
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
    away: u8,
    /// How many buckets behind this one such entries may lie.
    reach: u8,
    /// The [`trace`]s of such entries, and of some that are gone.
    traces: u8,
    /// What [`Index::note`] counted, in two halves.
    notes: u8,
    references: [u32; SLOTS],
}

impl Bucket {
    /// Writes an entry to the first slot that `free` has a bit for.
    #[inline(always)]
    fn put(&mut self, free: u32, tag: u8, reference: u32) -> bool {
        let at = free.trailing_zeros() as usize;
        let (Some(its_tag), Some(its_reference)) = (self.tags.get_mut(at), self.references.get_mut(at))
        else {
            return false;
        };
        (*its_tag, *its_reference) = (tag, reference);
        true
    }
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
        // The tag's bits are not for both.
        let number = (usize::BITS - numbers.saturating_sub(1).leading_zeros()).max(u8::BITS);
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
    pub(crate) fn find(&self, hash: u64, is: impl FnMut(u32) -> bool) -> Option<u32> {
        self.search(hash, |bucket| equal_tags(bucket, tag_of(hash)), is)
    }

    /// As [`Index::find`], under all hashes that differ from `hash` in their lowest byte alone.
    #[inline(always)]
    pub(crate) fn find_any(&self, hash: u64, is: impl FnMut(u32) -> bool) -> Option<u32> {
        self.search(hash, |bucket| self.kin(bucket, hash), is)
    }

    /// The number that `is` recognises among those in the `slots` of the buckets where an entry with the hash may lie.
    #[inline(always)]
    fn search(
        &self,
        hash: u64,
        slots: impl Fn(&Bucket) -> u32,
        mut is: impl FnMut(u32) -> bool,
    ) -> Option<u32> {
        let home = self.home(hash);
        let bucket = self.buckets.get(home)?;
        if let Some(number) = self.candidates(bucket, hash, slots(bucket)).find(|&number| is(number)) {
            return Some(number);
        }
        if bucket.traces & trace(hash) == 0 {
            return None;
        }
        let others = self.buckets.get(home + 1..=home + usize::from(bucket.reach))?;
        others
            .iter()
            .find_map(|bucket| self.candidates(bucket, hash, slots(bucket)).find(|&number| is(number)))
    }

    /// A bit for each slot of a bucket whose entry has the hash's bits, but for the tag's.
    #[inline(always)]
    fn kin(&self, bucket: &Bucket, hash: u64) -> u32 {
        let more = self.more_of(hash);
        // One bit after the other, without a branch: the compiler compares several at once.
        let references = bucket.references.iter().enumerate();
        let bits = references.map(|(at, reference)| u32::from(reference & !self.number == more) << at);
        bits.fold(0, core::ops::BitOr::bitor) & !equal_tags(bucket, 0)
    }

    /// Numbers in some slots of a bucket whose entries have the hash's bits, the tag's aside.
    #[inline(always)]
    fn candidates<'a>(
        &'a self,
        bucket: &'a Bucket,
        hash: u64,
        mut slots: u32,
    ) -> impl Iterator<Item = u32> + 'a {
        let more = self.more_of(hash);
        core::iter::from_fn(move || {
            while slots != 0 {
                let at = slots.trailing_zeros() as usize;
                slots &= slots - 1;
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

    /// Files `number` under `hash` where that is looked for first. `false`, and nothing changed, if `most` entries are there
    /// already whose hashes differ from it in the lowest byte alone, or if hardly any would fit beside it.
    pub(crate) fn insert_near(&mut self, hash: u64, number: u32, most: u32) -> bool {
        let (home, reference) = (self.home(hash), number | self.more_of(hash));
        let Some(bucket) = self.buckets.get(home) else { return false };
        let (kin, free) = (self.kin(bucket, hash).count_ones(), equal_tags(bucket, 0));
        if kin >= most || free.count_ones() <= SPARE {
            return false;
        }
        self.buckets.get_mut(home).is_some_and(|bucket| bucket.put(free, tag_of(hash), reference))
    }

    /// Counts something that is not filed here and has `hash`, but for the lowest byte. More of them in a bucket than can be
    /// counted are never forgotten.
    pub(crate) fn note(&mut self, hash: u64) {
        let home = self.home(hash);
        if let Some(bucket) = self.buckets.get_mut(home)
            && bucket.notes & NOTES << half(hash) != NOTES << half(hash)
        {
            bucket.notes += 1 << half(hash);
        }
    }

    /// Undoes one [`Index::note`].
    pub(crate) fn forget(&mut self, hash: u64) {
        let home = self.home(hash);
        if let Some(bucket) = self.buckets.get_mut(home) {
            let count = bucket.notes >> half(hash) & NOTES;
            debug_assert!(count != 0, "forgotten more often than noted");
            bucket.notes -= u8::from(count != 0 && count != NOTES) << half(hash);
        }
    }

    /// Whether something may have been noted for `hash`. If not, nothing was.
    #[inline(always)]
    pub(crate) fn is_noted(&self, hash: u64) -> bool {
        self.buckets.get(self.home(hash)).is_none_or(|bucket| bucket.notes >> half(hash) & NOTES != 0)
    }

    /// Files `number` under `hash`. `false`, and nothing changed, if all buckets in reach are full, or more entries are away
    /// from their home than can be counted.
    pub(crate) fn insert(&mut self, hash: u64, number: u32) -> bool {
        let home = self.home(hash);
        let crowded = self.buckets.get(home).is_none_or(|bucket| bucket.away == u8::MAX);
        let reference = number | self.more_of(hash);
        for distance in 0..REACH {
            let Some(bucket) = self.buckets.get_mut(home + distance) else { return false };
            let free = equal_tags(bucket, 0);
            if free == 0 {
                if crowded {
                    return false;
                }
                continue;
            }
            bucket.put(free, tag_of(hash), reference);
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
        for distance in 0..=usize::from(self.buckets.get(home)?.reach) {
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
    // The top bits name the bucket, and those above what a number takes go into the reference: bits of either would tell
    // nothing apart.
    let tag = hash as u8;
    if tag == 0 { 0xff } else { tag }
}

/// The most that half of a bucket's notes counts.
const NOTES: u8 = 0x0f;

/// Where the half of a bucket's notes begins that a hash counts in.
#[inline(always)]
const fn half(hash: u64) -> u32 {
    (hash >> 8 & 1) as u32 * 4
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
    use crate::keyed::{Keyed, TupleHash};
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

    proptest! {
        /// Entries of few ends, which differ in their lowest byte: against a map, with other entries beside them.
        #[test]
        fn entries_of_an_end_lie_together_and_leave_room(
            steps in prop::collection::vec((0u64..6, 0u64..9, any::<bool>()), 0..300),
        ) {
            let mut index = index(64, 1000);
            let mut oracle = BTreeMap::new();
            let hash_of = |end: u64, tag: u64| (end % 2) << 63 | (end % 3) << 29 | end << 20 | (tag * 31);
            for (number, (end, tag, near)) in (0u32..).zip(steps) {
                let hash = hash_of(end, tag);
                let filed = match oracle.remove(&(end, tag)) {
                    Some((number, _)) => {
                        prop_assert!(index.remove(hash, number));
                        prop_assert!(!index.remove(hash, number));
                        continue;
                    }
                    None if near => index.insert_near(hash, number, 3),
                    None => index.insert(hash, number),
                };
                let home = index.home(hash);
                if filed {
                    oracle.insert((end, tag), (number, near));
                    let free = equal_tags(&index.buckets[home], 0).count_ones();
                    prop_assert!(!near || free >= SPARE, "{} left", free);
                    let kin = index.kin(&index.buckets[home], hash).count_ones();
                    prop_assert!(!near || kin <= 3, "{} together", kin);
                }
                for end in 0..6 {
                    let of_end = oracle.range((end, 0)..(end + 1, 0)).map(|(_, &(number, _))| number);
                    let of_end: Vec<u32> = of_end.collect();
                    let mut seen = Vec::new();
                    index.find_any(hash_of(end, 0), |number| {
                        seen.push(number);
                        false
                    });
                    prop_assert!(of_end.iter().all(|number| seen.contains(number)), "{:?} {:?}", of_end, seen);
                    for tag in 0..9 {
                        let wanted = oracle.get(&(end, tag)).map(|&(number, _)| number);
                        let found = index.find(hash_of(end, tag), |number| Some(number) == wanted);
                        prop_assert_eq!(found, wanted);
                    }
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

    #[test]
    fn what_cannot_be_counted_behind_its_home_is_refused() {
        let mut index = index(1000, 1000);
        let most = SLOTS as u32 + u32::from(u8::MAX);
        assert!((1..=most).all(|number| index.insert(0, number)));
        assert!(!index.insert(0, 0));
        assert!(index.remove(0, 1));
        assert!(index.insert(0, 0), "at home there is room");
    }

    #[test]
    fn what_was_noted_is_known_until_it_is_forgotten() {
        let mut index = index(64, 64);
        let (one, other, elsewhere) = (1 << 63, 1 << 63 | 1 << 8, 0);
        for hash in [one, one | 0xff, other, one] {
            index.note(hash);
        }
        index.forget(one);
        index.forget(one | 1);
        assert!(index.is_noted(one) && index.is_noted(other) && !index.is_noted(elsewhere));
        index.forget(one);
        assert!(!index.is_noted(one) && index.is_noted(other));
        (0..100).for_each(|_| index.note(one));
        (0..100).for_each(|_| index.forget(one));
        index.forget(other);
        assert!(index.is_noted(one), "more than can be counted");
        assert!(!index.is_noted(other), "each half by itself");
    }

    /// The hashes of endpoints that follow each other fill buckets as evenly as any.
    #[test]
    fn endpoints_in_a_row_spread() {
        let entries = 1u32 << 17;
        for key in 0..8 {
            let hash = TupleHash::new(Keyed::new([key; 16]));
            for which in [true, false] {
                let mut index = index(entries as usize, entries as usize);
                for at in 0..entries {
                    let [a, b, c, d] = (0x0a00_0000 + at / 64).to_be_bytes();
                    let ([m, n], [e, f, g, h]) = ((1024 + at as u16 % 64).to_be_bytes(), [192, 0, 2, 1]);
                    let (addresses, ports) = ([a, b, c, d, e, f, g, h], [m, n, 0, 53]);
                    let (addresses, ports) = (u64::from_ne_bytes(addresses), u32::from_ne_bytes(ports));
                    let (by_source, whole) = hash.v4_by_source(addresses, ports, 17);
                    assert!(index.insert(if which { by_source } else { whole }, at));
                }
                let away: usize = index.buckets.iter().map(|bucket| usize::from(bucket.away)).sum();
                assert!(away < entries as usize / 28, "{away} of {entries} entries behind their home");
            }
        }
    }

    /// So do the hashes of flows of which one end is always the same, whatever the key: those of a busy server to many
    /// external ports, of a busy client to many servers.
    #[test]
    fn flows_of_one_end_spread_under_any_key() {
        let entries = 1u32 << 14;
        let (server, client) = ((0xc633_6407, 443), (0x0a00_0009, 5000));
        type Ends = ((u32, u16), (u32, u16));
        let shapes: [&dyn Fn(u32) -> Ends; 4] = [
            &|at| (server, (0xcb00_7100 + at / 8192, 1024 + (at % 8192) as u16)),
            &|at| (client, (0x0100_0000 + at, 53)),
            &|at| (client, (0xc633_6407, at as u16)),
            &|at| ((0x0a00_0000 + at, 5000), server),
        ];
        for (key, shape) in (0..100u32).flat_map(|key| (0..shapes.len()).map(move |shape| (key, shape))) {
            let hash = TupleHash::new(Keyed::new(u128::from(key).to_le_bytes()));
            let mut indexes = [(); 2].map(|()| index(entries as usize, entries as usize));
            for at in 0..entries {
                let ((from, from_port), (to, to_port)) = shapes[shape](at);
                let ([a, b, c, d], [e, f, g, h]) = (from.to_be_bytes(), to.to_be_bytes());
                let ([m, n], [o, p]) = (from_port.to_be_bytes(), to_port.to_be_bytes());
                let (addresses, ports) = ([a, b, c, d, e, f, g, h], [m, n, o, p]);
                let (addresses, ports) = (u64::from_ne_bytes(addresses), u32::from_ne_bytes(ports));
                let (by_source, whole) = hash.v4_by_source(addresses, ports, 17);
                assert!(indexes[0].insert(whole, at), "{shape}, key {key}");
                // By its source no end has more than one.
                assert!(shape != 3 || indexes[1].insert(by_source, at), "{shape}, key {key}");
            }
            for index in indexes {
                let away: usize = index.buckets.iter().map(|bucket| usize::from(bucket.away)).sum();
                assert!(away < entries as usize / 20, "{shape}, key {key}: {away} behind their home");
            }
        }
    }
}

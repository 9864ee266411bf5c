//! Words of 64 ports that are in use at least in part, with what each port stands for.
//!
//! The directory leads from (pool address, protocol, port) to the unit in one step, the unit to the port's entry in
//! the next: no hash. Units are taken as ports are, from a slab that was sized at start.
//!
//! Most words have few ports in use: a unit is one cache line with room for the entries of 11 ports, and what is
//! more lies in chunks of 7. The entries stand in the order of their ports, so the number of ports in use below one
//! is the place of its entry.

use super::Class;
use turnpike_abi::WorkerId;
use turnpike_abi::flow::NONE;
use turnpike_shm::memory::{Array, prefetch_value, roomy, zeros};

/// What a port stands for: an entry of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Free, or of a word that no unit stands for.
    Free,
    /// This binding's.
    Bound(u32),
    /// Reserved.
    Held,
    /// Leased to another worker.
    Leased(WorkerId),
    /// Freed, and held back.
    Cooling,
}

const HELD: u32 = 1 << 30;
const LEASED: u32 = HELD | 1 << 29;
/// The rest is the next slot of its second, or [`END`].
const COOLING: u32 = 1 << 31;
/// The last of a chain of cooling ports.
pub(super) const END: u32 = COOLING - 1;

impl Entry {
    const fn encode(self) -> u32 {
        match self {
            Self::Free => 0,
            Self::Bound(binding) => binding + 1,
            Self::Held => HELD,
            Self::Leased(worker) => LEASED | worker.0 as u32,
            Self::Cooling => COOLING | END,
        }
    }

    const fn decode(entry: u32) -> Self {
        match entry {
            0 => Self::Free,
            1..HELD => Self::Bound(entry - 1),
            HELD..LEASED => Self::Held,
            LEASED..COOLING => Self::Leased(WorkerId(entry as u8)),
            _ => Self::Cooling,
        }
    }
}

/// Entries in a unit itself, and in a chunk.
const OWN: usize = 11;
const MORE: usize = 7;

/// 64 ports of one protocol.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Unit {
    /// Which are in use: [`Units::used`] says the same.
    used: u64,
    pub(super) block: u32,
    /// Its first chunk, or the next free unit, or [`NONE`].
    more: u32,
    pub(super) word: u16,
    pub(super) class: u8,
    reserved: u8,
    entries: [u32; OWN],
}

/// Entries that a unit has no room for.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
struct Chunk {
    /// The next of the unit, or the next free one, or [`NONE`].
    next: u32,
    entries: [u32; MORE],
}

const _: () = assert!(size_of::<Unit>() == 64 && size_of::<Chunk>() == 32);

impl Unit {
    /// The place of a port's entry.
    fn rank(&self, bit: u32) -> usize {
        (self.used & ((1 << bit) - 1)).count_ones() as usize
    }

    fn has(&self, bit: u32) -> bool {
        self.used >> bit & 1 == 1
    }

    /// Puts an entry to its place; each from there on moves to the next. Returns what has no room any more: the last one, or
    /// the entry itself.
    fn put(&mut self, rank: usize, entry: u32) -> u32 {
        let before = self.entries;
        let [.., last] = before;
        // All of them each time, and no branch that depends on the rank: the compiler moves four at once.
        let mut shifted = [entry; OWN];
        for (to, from) in shifted.iter_mut().skip(1).zip(before) {
            *to = from;
        }
        for (at, ((to, before), after)) in (0..).zip(self.entries.iter_mut().zip(before).zip(shifted)) {
            let other = if at == rank { entry } else { after };
            *to = if at < rank { before } else { other };
        }
        if rank < OWN { last } else { entry }
    }
}

/// A port as the unit's number and the bit in it.
pub(super) type Slot = u32;

/// Units whose slots an entry can name: all are below [`END`].
const MOST: usize = END as usize / 64;

/// By class, then address and word: a unit plus one, 0 for none.
pub(super) type Directory = [Array<u32>; Class::COUNT];

#[derive(Debug)]
pub(super) struct Units {
    slab: Vec<Unit>,
    /// First of the free ones, or [`NONE`].
    free: u32,
    chunks: Vec<Chunk>,
    free_chunks: u32,
    /// Units there can be, and chunks: a unit needs its first with its twelfth port.
    capacity: usize,
    directory: Directory,
    /// Likewise: the ports in use. Apart from the units, so that the words of a block share a cache line.
    used: [Array<u64>; Class::COUNT],
    /// Words a worker has of each address.
    words: usize,
}

impl Units {
    /// Room for `capacity` units, or for as many as slots can name.
    pub(super) fn new(capacity: usize, words: u16) -> Self {
        let capacity = capacity.min(MOST);
        Self {
            slab: roomy(capacity),
            free: NONE,
            chunks: roomy(capacity),
            free_chunks: NONE,
            capacity,
            directory: Default::default(),
            used: Default::default(),
            words: usize::from(words),
        }
    }

    fn place(&self, address: u32, word: u16) -> usize {
        address as usize * self.words + usize::from(word)
    }

    fn filed(&self, address: u32, class: Class, word: u16) -> Option<&u32> {
        of_class(&self.directory, class).get(self.place(address, word))
    }

    fn filed_mut(&mut self, address: u32, class: Class, word: u16) -> Option<&mut u32> {
        let place = self.place(address, word);
        self.directory.get_mut(class.index())?.get_mut(place)
    }

    fn used_mut(&mut self, address: u32, class: Class, word: u16) -> Option<&mut u64> {
        let place = self.place(address, word);
        self.used.get_mut(class.index())?.get_mut(place)
    }

    /// Asks for the part of the directory that has a block's words.
    pub(super) fn prefetch_directory(&self, address: u32, class: Class, word: u16) {
        let used = of_class(&self.used, class).get(self.place(address, word));
        if let (Some(entry), Some(used)) = (self.filed(address, class, word), used) {
            prefetch_value(entry);
            prefetch_value(used);
        }
    }

    /// Asks for the unit of a word.
    pub(super) fn prefetch(&self, address: u32, class: Class, word: u16) {
        if let Some(unit) = self.find(address, class, word).and_then(|unit| self.slab.get(unit as usize)) {
            prefetch_value(unit);
        }
    }

    /// Asks for the unit of a port.
    pub(super) fn prefetch_unit(&self, slot: Slot) {
        if let Some(unit) = self.unit(slot) {
            prefetch_value(unit);
        }
    }

    /// Slots in use from `cursor` on, in the next `units` units.
    pub(super) fn walk(&self, cursor: usize, units: usize) -> impl Iterator<Item = Slot> {
        let first = cursor / 64;
        let units = self.slab.iter().enumerate().skip(first).take(units);
        units.flat_map(move |(number, unit)| {
            let skipped = if number == first { cursor % 64 } else { 0 };
            let mut used = unit.used >> skipped << skipped;
            core::iter::from_fn(move || {
                let bit = (used != 0).then(|| used.trailing_zeros())?;
                used &= used - 1;
                Some(number as u32 * 64 + bit)
            })
        })
    }

    /// Slots of all units there ever were.
    pub(super) fn slots(&self) -> usize {
        self.slab.len() * 64
    }

    /// The unit of a word.
    pub(super) fn find(&self, address: u32, class: Class, word: u16) -> Option<u32> {
        self.find_in(&self.directory, address, class, word)
    }

    fn find_in(&self, directory: &Directory, address: u32, class: Class, word: u16) -> Option<u32> {
        of_class(directory, class).get(self.place(address, word))?.checked_sub(1)
    }

    /// The ports in use of a word.
    pub(super) fn used(&self, address: u32, class: Class, word: u16) -> u64 {
        of_class(&self.used, class).get(self.place(address, word)).copied().unwrap_or(0)
    }

    pub(super) fn unit(&self, slot: Slot) -> Option<&Unit> {
        self.slab.get(slot as usize / 64)
    }

    /// What a port stands for.
    pub(super) fn entry(&self, address: u32, class: Class, word: u16, bit: u32) -> Entry {
        self.find(address, class, word).map_or(Entry::Free, |unit| self.entry_of(unit * 64 + bit))
    }

    /// As [`Units::entry`], where the unit is known.
    pub(super) fn entry_of(&self, slot: Slot) -> Entry {
        let bit = slot % 64;
        let Some(unit) = self.unit(slot).filter(|unit| unit.has(bit)) else { return Entry::Free };
        self.at(unit, unit.rank(bit)).map_or(Entry::Free, Entry::decode)
    }

    /// The entry of a unit at a place.
    fn at(&self, unit: &Unit, rank: usize) -> Option<u32> {
        let Some(mut rank) = rank.checked_sub(OWN) else { return unit.entries.get(rank).copied() };
        let mut chunk = self.chunks.get(unit.more as usize)?;
        while rank >= MORE {
            chunk = self.chunks.get(chunk.next as usize)?;
            rank -= MORE;
        }
        chunk.entries.get(rank).copied()
    }

    /// Takes a free port for `entry`. Returns the ports of the word in use now. `None` if there is no room for its
    /// unit.
    pub(super) fn take(
        &mut self,
        block: u32,
        address: u32,
        class: Class,
        (word, bit): (u16, u32),
        entry: Entry,
    ) -> Option<u64> {
        let number = match self.find(address, class, word) {
            Some(number) => number,
            None => self.file(block, address, class, word)?,
        };
        let unit = self.slab.get_mut(number as usize)?;
        let (rank, had) = (unit.rank(bit), unit.used.count_ones() as usize);
        if had >= OWN && (had - OWN).is_multiple_of(MORE) {
            let chunk = take_chunk(&mut self.chunks, &mut self.free_chunks, self.capacity)?;
            *last_of(&mut unit.more, &mut self.chunks)? = chunk;
        }
        unit.used |= 1 << bit;
        let used = unit.used;
        let mut carried = unit.put(rank, entry.encode());
        if had >= OWN {
            let (mut next, mut skip, mut left) = (unit.more, rank.saturating_sub(OWN), had + 1 - OWN);
            while left > 0 {
                let chunk = self.chunks.get_mut(next as usize)?;
                let here = left.min(MORE);
                let moving = chunk.entries.get_mut(skip.min(here)..here).unwrap_or_default();
                moving.iter_mut().for_each(|entry| core::mem::swap(entry, &mut carried));
                (next, skip, left) = (chunk.next, skip.saturating_sub(MORE), left - here);
            }
        }
        *self.used_mut(address, class, word)? = used;
        Some(used)
    }

    /// A unit without ports, for a word that has none.
    fn file(&mut self, block: u32, address: u32, class: Class, word: u16) -> Option<u32> {
        self.filed(address, class, word)?;
        let of = class.index() as u8;
        let unit = Unit { used: 0, block, more: NONE, word, class: of, reserved: 0, entries: [0; OWN] };
        let number = if let Some(free) = self.slab.get_mut(self.free as usize) {
            let number = core::mem::replace(&mut self.free, free.more);
            *free = unit;
            number
        } else if self.slab.len() < self.capacity {
            self.slab.push(unit);
            (self.slab.len() - 1) as u32
        } else {
            return None;
        };
        *self.filed_mut(address, class, word)? = number + 1;
        Some(number)
    }

    /// Gives a unit back, and what chunks it has.
    fn unfile(&mut self, number: u32) {
        let Some(unit) = self.slab.get_mut(number as usize) else { return };
        unit.used = 0;
        let mut chunk = core::mem::replace(&mut unit.more, self.free);
        self.free = number;
        while let Some(free) = self.chunks.get_mut(chunk as usize) {
            let next = core::mem::replace(&mut free.next, self.free_chunks);
            self.free_chunks = chunk;
            chunk = next;
        }
    }

    /// Frees a port in use.
    pub(super) fn free(&mut self, address: u32, slot: Slot) {
        let (number, bit) = (slot / 64, slot % 64);
        let Some(unit) = self.slab.get(number as usize).filter(|unit| unit.has(bit)) else { return };
        let Some(class) = Class::of_index(unit.class) else { return };
        let (word, used) = (unit.word, unit.used & !(1 << bit));
        if let Some(word) = self.used_mut(address, class, word) {
            *word = used;
        }
        if used != 0 {
            self.take_out(number, bit);
            return;
        }
        if let Some(directory) = self.filed_mut(address, class, word) {
            *directory = 0;
        }
        self.unfile(number);
    }

    /// Takes the entry of a port in use out of its unit: each behind it moves to the one before.
    fn take_out(&mut self, number: u32, bit: u32) -> Option<()> {
        let unit = self.slab.get_mut(number as usize)?;
        let (rank, left) = (unit.rank(bit), unit.used.count_ones() as usize - 1);
        unit.used &= !(1 << bit);
        if rank < OWN {
            unit.entries.copy_within(rank + 1.., rank);
        }
        if left < OWN {
            return Some(());
        }
        if rank < OWN {
            let first = *self.chunks.get(unit.more as usize)?.entries.first()?;
            *unit.entries.last_mut()? = first;
        }
        let (mut at, mut from) = (unit.more, rank.saturating_sub(OWN));
        let mut behind = OWN;
        while let Some(&Chunk { next, .. }) = self.chunks.get(at as usize) {
            let first = self.chunks.get(next as usize).and_then(|next| next.entries.first()).copied();
            let chunk = self.chunks.get_mut(at as usize)?;
            if from < MORE {
                chunk.entries.copy_within(from + 1.., from);
                *chunk.entries.last_mut()? = first.unwrap_or(0);
            }
            behind += MORE;
            (at, from) = (next, from.saturating_sub(MORE));
            // The one that is empty now is the last.
            if left <= behind {
                break;
            }
        }
        if (left - OWN).is_multiple_of(MORE) {
            self.drop_last_chunk(number);
        }
        Some(())
    }

    fn drop_last_chunk(&mut self, number: u32) -> Option<()> {
        let first = self.slab.get(number as usize)?.more;
        let (mut before, mut last) = (NONE, first);
        while self.chunks.get(last as usize)?.next != NONE {
            (before, last) = (last, self.chunks.get(last as usize)?.next);
        }
        match self.chunks.get_mut(before as usize) {
            Some(before) => before.next = NONE,
            None => self.slab.get_mut(number as usize)?.more = NONE,
        }
        self.chunks.get_mut(last as usize)?.next = core::mem::replace(&mut self.free_chunks, last);
        Some(())
    }

    /// Writes another entry to a port in use.
    pub(super) fn set(&mut self, slot: Slot, entry: Entry) {
        self.write(slot, entry.encode());
    }

    /// Puts a cooling port before `next` into a chain.
    pub(super) fn chain(&mut self, slot: Slot, next: u32) {
        self.write(slot, COOLING | next);
    }

    /// The next in the chain.
    pub(super) fn chained(&self, slot: Slot) -> u32 {
        let unit = self.unit(slot).filter(|unit| unit.has(slot % 64));
        let entry = unit.and_then(|unit| self.at(unit, unit.rank(slot % 64)));
        entry.filter(|entry| entry & COOLING != 0).map_or(END, |entry| entry & !COOLING)
    }

    fn write(&mut self, slot: Slot, value: u32) {
        let Some(unit) = self.slab.get_mut(slot as usize / 64).filter(|unit| unit.has(slot % 64)) else {
            return;
        };
        let rank = unit.rank(slot % 64);
        let place = match rank.checked_sub(OWN) {
            None => unit.entries.get_mut(rank),
            Some(rank) => {
                let mut chunk = unit.more;
                for _ in 0..rank / MORE {
                    chunk = self.chunks.get(chunk as usize).map_or(NONE, |chunk| chunk.next);
                }
                self.chunks.get_mut(chunk as usize).and_then(|chunk| chunk.entries.get_mut(rank % MORE))
            }
        };
        if let Some(place) = place {
            *place = value;
        }
    }

    /// Makes a directory for `addresses` and returns the old one. It takes memory where it is written. Without any from
    /// the kernel there are no ports.
    pub(super) fn renew(&mut self, addresses: usize) -> Directory {
        let places = addresses * self.words;
        self.used = Class::ALL.map(|_| zeros(places).unwrap_or_default());
        core::mem::replace(&mut self.directory, Class::ALL.map(|_| zeros(places).unwrap_or_default()))
    }

    /// Carries the units of a block's words over from the old directory.
    pub(super) fn carry(&mut self, old: &Directory, from: u32, to: u32, words: core::ops::Range<u16>) {
        for class in Class::ALL {
            for word in words.clone() {
                let Some(number) = self.find_in(old, from, class, word) else { continue };
                let used = self.slab.get(number as usize).map_or(0, |unit| unit.used);
                if let Some(place) = self.filed_mut(to, class, word) {
                    *place = number + 1;
                }
                if let Some(place) = self.used_mut(to, class, word) {
                    *place = used;
                }
            }
        }
    }

    /// Gives the units of a block's words back that the new directory does not have. Returns how many of their
    /// ports were nobody's.
    pub(super) fn drop_words(&mut self, old: &Directory, from: u32, words: core::ops::Range<u16>) -> u32 {
        let mut held = 0;
        for class in Class::ALL {
            for word in words.clone() {
                let Some(number) = self.find_in(old, from, class, word) else { continue };
                if let Some(unit) = self.slab.get(number as usize) {
                    let entries = (0..unit.used.count_ones() as usize).filter_map(|at| self.at(unit, at));
                    held += entries.filter(|entry| (HELD..COOLING).contains(entry)).count() as u32;
                }
                self.unfile(number);
            }
        }
        held
    }
}

fn of_class<T>(of: &[Array<T>; Class::COUNT], class: Class) -> &[T] {
    of.get(class.index()).map_or(&[], |array| array)
}

fn take_chunk(chunks: &mut Vec<Chunk>, free: &mut u32, capacity: usize) -> Option<u32> {
    if let Some(chunk) = chunks.get_mut(*free as usize) {
        return Some(core::mem::replace(free, core::mem::replace(&mut chunk.next, NONE)));
    }
    (chunks.len() < capacity).then(|| {
        chunks.push(Chunk { next: NONE, entries: [0; MORE] });
        (chunks.len() - 1) as u32
    })
}

/// Where the number of another chunk behind those from `first` on belongs.
fn last_of<'a>(first: &'a mut u32, chunks: &'a mut [Chunk]) -> Option<&'a mut u32> {
    let mut last = *first;
    if last == NONE {
        return Some(first);
    }
    loop {
        match chunks.get(last as usize)?.next {
            NONE => return chunks.get_mut(last as usize).map(|chunk| &mut chunk.next),
            next => last = next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const WORDS: u16 = 2;

    fn entry(number: u32) -> Entry {
        match number % 8 {
            0 => Entry::Held,
            1 => Entry::Leased(WorkerId(number as u8)),
            _ => Entry::Bound(number),
        }
    }

    proptest! {
        /// Against a map: sparse and full words, cooling ports among the others.
        #[test]
        fn each_port_keeps_its_entry(
            steps in prop::collection::vec((0..WORDS, 0u32..64, 0u8..8), 0..600), sparse: bool,
        ) {
            let mut units = Units::new(usize::from(WORDS) * 8, WORDS);
            units.renew(1);
            let mut oracle = BTreeMap::new();
            for (number, (word, bit, step)) in (0u32..).zip(steps) {
                let key = (word, bit);
                let slot = units.find(0, Class::Udp, word).map(|unit| unit * 64 + bit);
                match (oracle.get(&key).copied(), slot) {
                    (None, _) if step < if sparse { 2 } else { 6 } => {
                        let used = units.take(9, 0, Class::Udp, key, entry(number)).unwrap();
                        prop_assert_eq!(used, units.used(0, Class::Udp, word));
                        oracle.insert(key, (entry(number), END));
                    }
                    (Some(_), Some(slot)) if step < 4 => {
                        units.free(0, slot);
                        oracle.remove(&key);
                    }
                    (Some(_), Some(slot)) if step < 6 => {
                        units.chain(slot, number);
                        oracle.insert(key, (Entry::Cooling, number));
                    }
                    (Some(_), Some(slot)) => {
                        units.set(slot, entry(number));
                        oracle.insert(key, (entry(number), END));
                    }
                    _ => {}
                }
                for (word, bit) in (0..WORDS).flat_map(|word| (0..64).map(move |bit| (word, bit))) {
                    let (wanted, next) = oracle.get(&(word, bit)).copied().unwrap_or((Entry::Free, END));
                    prop_assert_eq!(units.entry(0, Class::Udp, word, bit), wanted);
                    let slot = units.find(0, Class::Udp, word).map(|unit| unit * 64 + bit);
                    prop_assert_eq!(slot.map_or(END, |slot| units.chained(slot)), next);
                }
            }
            // Everything is given back.
            for (word, bit) in oracle.into_keys() {
                let unit = units.find(0, Class::Udp, word).unwrap();
                units.free(0, unit * 64 + bit);
            }
            prop_assert_eq!(free_of(units.free, |at| units.slab[at].more), units.slab.len());
            prop_assert_eq!(free_of(units.free_chunks, |at| units.chunks[at].next), units.chunks.len());
            prop_assert!(units.used.iter().flat_map(|used| used.iter()).all(|&used| used == 0));
        }
    }

    /// The length of a list.
    fn free_of(first: u32, next: impl Fn(usize) -> u32) -> usize {
        core::iter::successors((first != NONE).then_some(first), |&at| {
            Some(next(at as usize)).filter(|&next| next != NONE)
        })
        .count()
    }
}

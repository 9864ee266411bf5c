//! Words of 64 ports that are in use at least in part, with what each port stands for.
//!
//! The directory leads from (pool address, protocol, port) to the unit in one step, the unit to the port's entry in
//! the next: no hash. Units are taken as ports are, from a slab that was sized at start.

use super::Class;
use turnpike_abi::WorkerId;
use turnpike_shm::memory::prefetch_value;

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

/// 64 ports of one protocol; which of them are in use stands in [`Units::used`].
#[derive(Clone, Debug)]
pub(super) struct Unit {
    pub(super) block: u32,
    pub(super) word: u16,
    pub(super) class: u8,
    entries: [u32; 64],
}

/// A port as the unit's number and the bit in it.
pub(super) type Slot = u32;

#[derive(Debug)]
pub(super) struct Units {
    slab: Vec<Unit>,
    free: Vec<u32>,
    capacity: usize,
    /// By address, class and word: unit plus one, 0 for none.
    directory: Vec<u32>,
    /// Likewise: the ports in use. Apart from the units, so that the words of a block share a cache line.
    used: Vec<u64>,
    /// Words a worker has of each address.
    words: usize,
}

impl Units {
    pub(super) fn new(capacity: usize, words: u16) -> Self {
        Self {
            slab: Vec::with_capacity(capacity),
            free: Vec::with_capacity(capacity),
            capacity,
            directory: Vec::new(),
            used: Vec::new(),
            words: usize::from(words),
        }
    }

    fn place(&self, address: u32, class: Class, word: u16) -> usize {
        (address as usize * Class::COUNT + class.index()) * self.words + usize::from(word)
    }

    /// Asks for the part of the directory that has a block's words.
    pub(super) fn prefetch_directory(&self, address: u32, class: Class, word: u16) {
        let place = self.place(address, class, word);
        if let (Some(entry), Some(used)) = (self.directory.get(place), self.used.get(place)) {
            prefetch_value(entry);
            prefetch_value(used);
        }
    }

    /// The unit of a word.
    pub(super) fn find(&self, address: u32, class: Class, word: u16) -> Option<u32> {
        self.directory.get(self.place(address, class, word))?.checked_sub(1)
    }

    /// The ports in use of a word.
    pub(super) fn used(&self, address: u32, class: Class, word: u16) -> u64 {
        self.used.get(self.place(address, class, word)).copied().unwrap_or(0)
    }

    pub(super) fn unit(&self, slot: Slot) -> Option<&Unit> {
        self.slab.get(slot as usize / 64)
    }

    /// What a port stands for.
    pub(super) fn entry(&self, address: u32, class: Class, word: u16, bit: u32) -> Entry {
        let unit = self.find(address, class, word).and_then(|unit| self.slab.get(unit as usize));
        unit.and_then(|unit| unit.entries.get(bit as usize))
            .map_or(Entry::Free, |entry| Entry::decode(*entry))
    }

    /// Takes a free port for `entry`. `None` if there is no room for its unit.
    pub(super) fn take(
        &mut self,
        block: u32,
        address: u32,
        class: Class,
        (word, bit): (u16, u32),
        entry: Entry,
    ) -> Option<Slot> {
        let number = match self.find(address, class, word) {
            Some(number) => number,
            None => self.file(Unit { block, word, class: class.index() as u8, entries: [0; 64] }, address)?,
        };
        let place = self.place(address, class, word);
        *self.used.get_mut(place)? |= 1 << bit;
        let unit = self.slab.get_mut(number as usize)?;
        *unit.entries.get_mut(bit as usize)? = entry.encode();
        Some(number * 64 + bit)
    }

    fn file(&mut self, unit: Unit, address: u32) -> Option<u32> {
        let class = Class::of_index(unit.class)?;
        let place = self.place(address, class, unit.word);
        let directory = self.directory.get_mut(place)?;
        let number = match self.free.pop() {
            Some(number) => {
                *self.slab.get_mut(number as usize)? = unit;
                number
            }
            None if self.slab.len() < self.capacity => {
                self.slab.push(unit);
                (self.slab.len() - 1) as u32
            }
            None => return None,
        };
        *directory = number + 1;
        Some(number)
    }

    /// Frees a port in use.
    pub(super) fn free(&mut self, address: u32, slot: Slot) {
        let number = slot / 64;
        let Some(unit) = self.slab.get_mut(number as usize) else { return };
        if let Some(entry) = unit.entries.get_mut(slot as usize % 64) {
            *entry = 0;
        }
        let word = unit.word;
        let Some(class) = Class::of_index(unit.class) else { return };
        let place = self.place(address, class, word);
        let Some(used) = self.used.get_mut(place) else { return };
        *used &= !(1 << (slot % 64));
        if *used == 0 {
            if let Some(directory) = self.directory.get_mut(place) {
                *directory = 0;
            }
            self.free.push(number);
        }
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
        let entry = self.unit(slot).and_then(|unit| unit.entries.get(slot as usize % 64));
        entry.filter(|entry| **entry & COOLING != 0).map_or(END, |entry| entry & !COOLING)
    }

    fn write(&mut self, slot: Slot, value: u32) {
        let unit = self.slab.get_mut(slot as usize / 64);
        if let Some(entry) = unit.and_then(|unit| unit.entries.get_mut(slot as usize % 64)) {
            *entry = value;
        }
    }

    /// Makes a directory for `addresses` and returns the old one. The kernel's zero pages stand for it until
    /// it is written, so its size costs nothing here.
    pub(super) fn renew(&mut self, addresses: usize) -> Vec<u32> {
        let places = addresses * Class::COUNT * self.words;
        self.used = vec![0; places];
        core::mem::replace(&mut self.directory, vec![0; places])
    }

    /// Carries the units of a block's words over from the old directory.
    pub(super) fn carry(&mut self, old: &[u32], from: u32, to: u32, words: core::ops::Range<u16>) {
        for class in Class::ALL {
            for word in words.clone() {
                let (was, is) = (self.place(from, class, word), self.place(to, class, word));
                if let (Some(&unit), Some(place)) = (old.get(was), self.directory.get_mut(is))
                    && unit != 0
                {
                    *place = unit;
                    let entries = self.slab.get(unit as usize - 1).map_or(&[0; 64], |unit| &unit.entries);
                    let bits = entries.iter().rev().fold(0, |bits, &entry| bits << 1 | u64::from(entry != 0));
                    if let Some(used) = self.used.get_mut(is) {
                        *used = bits;
                    }
                }
            }
        }
    }

    /// Gives the units of a block's words back that the new directory does not have. Returns how many of their
    /// ports were nobody's.
    pub(super) fn drop_words(&mut self, old: &[u32], from: u32, words: core::ops::Range<u16>) -> u32 {
        let mut held = 0;
        for class in Class::ALL {
            for word in words.clone() {
                let number = old.get(self.place(from, class, word)).and_then(|unit| unit.checked_sub(1));
                let Some(number) = number else { continue };
                if let Some(unit) = self.slab.get_mut(number as usize) {
                    held +=
                        unit.entries.iter().filter(|entry| (HELD..COOLING).contains(*entry)).count() as u32;
                    unit.entries = [0; 64];
                }
                self.free.push(number);
            }
        }
        held
    }
}

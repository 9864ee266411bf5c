//! From a key to the number of the record that holds it, for tables that are large enough for everything and hold
//! little: memory that nothing was filed in is never touched.

use crate::index::Index;
use crate::keyed::Keyed;
use core::hash::{BuildHasher, Hash};
use turnpike_shm::memory::Memory;

/// Numbers by keys, which their records hold.
#[derive(Debug)]
pub(super) struct Numbers {
    index: Index,
    keyed: Keyed,
    len: usize,
}

impl Numbers {
    /// For up to `entries` records. `None` if the kernel gives no memory.
    pub(super) fn new(entries: usize, keyed: Keyed) -> Option<Self> {
        // Half filled at most: what is filed always finds a place.
        let mut memory = Memory::sparse(Index::bytes(entries * 2)).ok()?;
        Some(Self { index: Index::new(entries * 2, entries, &mut memory)?, keyed, len: 0 })
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The number under `key` whose record `is` recognises by it.
    pub(super) fn find(&self, key: impl Hash, is: impl Fn(u32) -> bool) -> Option<u32> {
        self.index.find(self.keyed.hash_one(key), is)
    }

    /// Files a number under a key that has none.
    pub(super) fn insert(&mut self, key: impl Hash, number: u32) {
        self.len += usize::from(self.index.insert(self.keyed.hash_one(key), number));
    }

    /// Has another number stand under a key.
    pub(super) fn rename(&mut self, key: impl Hash, number: u32, to: u32) {
        self.index.rename(self.keyed.hash_one(key), number, to);
    }

    /// Takes a number off.
    pub(super) fn remove(&mut self, key: impl Hash, number: u32) {
        self.len -= usize::from(self.index.remove(self.keyed.hash_one(key), number));
    }
}

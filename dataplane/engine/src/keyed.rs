//! The keyed hash of every table, and random numbers from the same key.
//!
//! Attackers choose the tuples, so the hash has a key that is new at every start (SipHash-1-3).

use core::hash::{BuildHasher, Hasher};
use siphasher::sip::SipHasher13;

/// Builds hashers with the worker's key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keyed {
    k0: u64,
    k1: u64,
}

impl Keyed {
    pub(crate) fn new(key: [u8; 16]) -> Self {
        let key = u128::from_le_bytes(key);
        Self { k0: key as u64, k1: (key >> 64) as u64 }
    }
}

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.k0, self.k1)
    }
}

/// A map with the worker's key.
pub(crate) type Map<K, V> = hashbrown::HashMap<K, V, Keyed>;

/// A map that holds `items` entries without ever allocating again: with twice the room, hashbrown clears
/// its tombstones in place.
pub(crate) fn map<K, V>(items: usize, keyed: Keyed) -> Map<K, V> {
    Map::with_capacity_and_hasher(items * 2, keyed)
}

/// Numbers nobody outside can guess (RFC 6056 section 3.3 asks that of port choice).
#[derive(Debug)]
pub(crate) struct Random {
    keyed: Keyed,
    counter: u64,
}

impl Random {
    pub(crate) fn new(keyed: Keyed) -> Self {
        Self { keyed, counter: 0 }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(1);
        let mut hasher = self.keyed.build_hasher();
        hasher.write_u64(self.counter);
        hasher.finish()
    }
}

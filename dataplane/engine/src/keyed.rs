//! The keyed hash of every table, and random numbers from the same key.
//!
//! Attackers choose the tuples, so the hash has a key that is new at every start (SipHash-1-3).

use core::hash::{BuildHasher, Hasher};
use siphasher::sip::SipHasher13;
use turnpike_abi::event::Tuple;

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

/// Hash of a packet's five-tuple. One secret multiplication for each 16 bytes, the halves of the product folded,
/// and another to spread them: as unpredictable without the key as SipHash in practice, in a tenth of the time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TupleHash {
    secret: [u64; 6],
}

impl TupleHash {
    pub(crate) fn new(keyed: Keyed) -> Self {
        // An even factor would lose the top bit of what it multiplies.
        Self { secret: core::array::from_fn(|at| keyed.hash_one(at) | 1) }
    }

    /// IPv4: the addresses and the ports as they stand in the packet.
    #[inline(always)]
    pub(crate) fn v4(&self, addresses: u64, ports: u32, protocol: u8) -> u64 {
        self.v4_by_source(addresses, ports, protocol).1
    }

    /// Two hashes of an IPv4 packet: one that tells its source endpoint, but for the lowest byte, which tells the whole key and
    /// is never that of the other hash; and [`TupleHash::v4`].
    #[inline(always)]
    pub(crate) fn v4_by_source(&self, addresses: u64, ports: u32, protocol: u8) -> (u64, u64) {
        let [a, b, c, d, e, ..] = self.secret;
        let protocol = u64::from(protocol);
        // Two rounds for every bit of either: one alone has keys with which ports or addresses in a row meet in few buckets.
        let half = mix(addresses ^ a, (protocol << 32 | u64::from(ports)) ^ b);
        let whole = mix(half, c) & !0xff | half & 0xff;
        let (address, port) = (addresses.to_le() & 0xffff_ffff, u64::from(ports.to_le()) & 0xffff);
        let source = mix(mix(address ^ d, (protocol << 16 | port) ^ b), e);
        (source & !0xff | (half & 0xff) ^ 0x80, whole)
    }

    /// IPv6, likewise.
    #[inline(always)]
    pub(crate) fn v6(&self, source: [u8; 16], destination: [u8; 16], ports: u32, protocol: u8) -> u64 {
        let [a, b, c, d, e, f] = self.secret;
        let halves = |bytes: [u8; 16]| {
            let whole = u128::from_le_bytes(bytes);
            (whole as u64, (whole >> 64) as u64)
        };
        let ((s0, s1), (d0, d1)) = (halves(source), halves(destination));
        let ends = mix(s0 ^ a, s1 ^ b) ^ mix(d0 ^ d, d1 ^ e).rotate_left(32);
        mix(mix(ends, (u64::from(protocol) << 32 | u64::from(ports)) ^ f), c)
    }

    /// Of a tuple of either family.
    pub(crate) fn of(&self, tuple: &Tuple) -> u64 {
        let ports = ports_of(tuple);
        match (tuple.source.to_v4(), tuple.destination.to_v4()) {
            (Some([a, b, c, d]), Some([e, f, g, h])) => {
                self.v4(u64::from_ne_bytes([a, b, c, d, e, f, g, h]), ports, tuple.protocol)
            }
            _ => self.v6(tuple.source.0, tuple.destination.0, ports, tuple.protocol),
        }
    }
}

/// Source and destination port as they stand in a packet.
pub(crate) const fn ports_of(tuple: &Tuple) -> u32 {
    let ([a, b], [c, d]) = (tuple.source_port.to_be_bytes(), tuple.destination_port.to_be_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// Builds hashers for a map that packets search, folded products as in [`TupleHash`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Folding {
    secret: [u64; 2],
}

impl Folding {
    pub(crate) fn new(keyed: Keyed) -> Self {
        let TupleHash { secret: [.., first, second] } = TupleHash::new(keyed);
        Self { secret: [first, second] }
    }
}

impl BuildHasher for Folding {
    type Hasher = Folded;

    fn build_hasher(&self) -> Folded {
        let [sum, secret] = self.secret;
        Folded { sum, secret }
    }
}

/// A hash on its way.
#[derive(Debug)]
pub(crate) struct Folded {
    sum: u64,
    secret: u64,
}

impl Hasher for Folded {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.write_u64(u64::from_le_bytes(*word)));
        if !rest.is_empty() {
            let last = rest.iter().rev().fold(rest.len() as u64, |word, &byte| word << 8 | u64::from(byte));
            self.write_u64(last);
        }
    }

    fn write_u16(&mut self, word: u16) {
        self.write_u64(word.into());
    }

    fn write_u64(&mut self, word: u64) {
        self.sum = mix(self.sum ^ word, self.secret);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        mix(self.sum, self.secret.rotate_left(32) | 1)
    }
}

/// The product, its halves folded.
#[inline(always)]
const fn mix(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
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
    /// What [`Random::quarter`] has not given out of its last number, and how many quarters that is.
    rest: (u64, u8),
}

impl Random {
    pub(crate) fn new(keyed: Keyed) -> Self {
        Self { keyed, counter: 0, rest: (0, 0) }
    }

    /// As many random bits as the choice of one of the 4096 ports of a block takes, and some.
    pub(crate) fn quarter(&mut self) -> u16 {
        let (rest, quarters) = match self.rest {
            (_, 0) => (self.next(), 4),
            rest => rest,
        };
        self.rest = (rest >> 16, quarters - 1);
        rest as u16
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(1);
        let mut hasher = self.keyed.build_hasher();
        hasher.write_u64(self.counter);
        hasher.finish()
    }
}

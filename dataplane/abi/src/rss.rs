//! How a device's receive-side scaling computes [`crate::steering`].
//!
//! The Toeplitz hash XORs, for each set bit `i` of its input, the 32 bits of the key from bit `i` on. With a
//! single bit `b` set in the key, bit `k` of the hash (counted from the lowest) is input bit `b - 31 + k`, and
//! nothing else of the packet matters. The redirection table is indexed by the low bits of the hash, so it
//! sees seven neighbouring bits of the packet, reversed: of an inside port the last seven of the IPv4 source
//! address, of an outside port the first seven of the destination port. Its entries then name the owners.
//!
//! The IPv6 tuple has nothing of the kind at these places. Two more bits, behind what an IPv4 tuple reaches,
//! spread IPv6 over the queues; it meets its owner where the device takes [`flow_key_v6`] or rules.

use crate::address::{Address, WorkerId};
use crate::steering;

/// Bytes of the shortest key devices have. Longer ones end in zeros: the hash of no tuple reaches them.
pub const KEY_LENGTH: usize = 40;

/// Bits of a subscriber's address or an external port that name its owner.
pub const OWNER_BITS: u32 = 7;

/// What the packets that arrive on a port are hashed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Facing {
    /// Subscribers are here: by source address.
    Inside,
    /// The world is here: by destination port (IPv4) or destination address (IPv6).
    Outside,
}

/// A key and a redirection table for one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rss {
    facing: Facing,
    workers: u8,
    entries: u16,
    /// Of the owner's bits those that the table sees: all, or the lower ones.
    bits: u32,
}

impl Rss {
    /// For a device whose redirection table has `entries`. `None` if that is no power of two, or too few to
    /// tell the owners apart: 128 do for any number of workers, fewer for a power of two that is not above them.
    #[must_use]
    pub const fn new(facing: Facing, workers: u8, entries: u16) -> Option<Self> {
        if workers == 0 || !entries.is_power_of_two() {
            return None;
        }
        let seen = entries.trailing_zeros();
        let bits = if seen < OWNER_BITS { seen } else { OWNER_BITS };
        if bits < OWNER_BITS && !(1u32 << bits).is_multiple_of(workers as u32) {
            return None;
        }
        Some(Self { facing, workers, entries, bits })
    }

    /// The key.
    #[must_use]
    pub const fn key(&self) -> [u8; KEY_LENGTH] {
        // A smaller table sees fewer bits; they must be the lower ones.
        let skipped = OWNER_BITS - self.bits;
        let (exact, spread) = match self.facing {
            // First of the seven bits + 31: bit 25 of the tuple, and of IPv6 the last of the source address.
            Facing::Inside => (25 + 31, 121 + 31),
            // Bit 80 of the tuple, and of IPv6 the last seven of the destination's /64.
            Facing::Outside => (80 + 31, 128 + 57 + 31),
        };
        let mut key = [0; KEY_LENGTH];
        set(&mut key, exact + skipped);
        set(&mut key, spread + skipped);
        key
    }

    /// Entries of the redirection table.
    #[must_use]
    pub const fn entries(&self) -> u16 {
        self.entries
    }

    /// Whose queue an entry of the table names.
    #[must_use]
    pub fn worker_at(&self, entry: u16) -> WorkerId {
        let reversed = u32::from(entry).reverse_bits().checked_shr(u32::BITS - self.bits);
        // Below 128, as `bits` is at most seven.
        let low = reversed.unwrap_or(0) as u8;
        match self.facing {
            Facing::Inside => steering::owner_of_inside(Address::v4([0, 0, 0, low]), self.workers),
            Facing::Outside => steering::owner_of_port(u16::from(low) * steering::PORT_BLOCK, self.workers),
        }
    }

    /// Whose queue a TCP or UDP packet with this tuple comes to (addresses of one family, ports in host byte
    /// order): a device's RSS, emulated.
    #[must_use]
    pub fn worker_of(
        &self,
        source: Address,
        destination: Address,
        source_port: u16,
        destination_port: u16,
    ) -> WorkerId {
        let mut tuple = [0; 36];
        let length = match (source.to_v4(), destination.to_v4()) {
            (Some(source), Some(destination)) => fill(&mut tuple, &[&source, &destination]),
            _ => fill(&mut tuple, &[&source.0, &destination.0]),
        };
        let ports = tuple.get_mut(length..).unwrap_or_default();
        let length = length + fill(ports, &[&source_port.to_be_bytes(), &destination_port.to_be_bytes()]);
        let hash = toeplitz(&self.key(), tuple.get(..length).unwrap_or_default());
        self.worker_at((hash % u32::from(self.entries)) as u16)
    }
}

/// A key that finds the owner of an IPv6 packet if the device hashes the inside address alone (the source on
/// an inside port, the destination on an outside one), wherever in its input the device leaves it.
/// For a redirection table of 128 entries in the order of [`Rss::worker_at`] with [`Facing::Inside`].
#[must_use]
pub const fn flow_key_v6(facing: Facing) -> [u8; KEY_LENGTH] {
    let mut key = [0; KEY_LENGTH];
    // The last seven bits of the /64.
    set(&mut key, 57 + 31);
    if let Facing::Outside = facing {
        set(&mut key, 128 + 57 + 31);
    }
    key
}

/// A class of subscribers or ports with one owner: those whose owner bits, masked, are `value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// Value of the bits.
    pub value: u8,
    /// Which of the seven bits count.
    pub mask: u8,
    /// The owner.
    pub worker: WorkerId,
}

/// The classes that together hold every subscriber or port once, as few as there can be: what matching rules
/// of a device are made from.
pub fn classes(workers: u8) -> impl Iterator<Item = Class> {
    let workers = workers.max(1);
    let all = 1u8 << OWNER_BITS;
    let count = if workers.is_power_of_two() && workers <= all { workers } else { all };
    (0..count).map(move |value| {
        let worker = steering::owner_of_inside(Address::v4([0, 0, 0, value]), workers);
        Class { value, mask: count - 1, worker }
    })
}

/// The Toeplitz hash of `input` (network byte order); bits that the key does not have count as 0.
#[must_use]
pub fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let byte = |at: usize| key.get(at).copied().unwrap_or(0);
    let mut window = u32::from_be_bytes([byte(0), byte(1), byte(2), byte(3)]);
    let mut hash = 0;
    for (at, &octet) in input.iter().enumerate() {
        let next = byte(at + 4);
        for bit in 0..8 {
            if octet & (0x80 >> bit) != 0 {
                hash ^= window;
            }
            window = window << 1 | u32::from(next >> (7 - bit) & 1);
        }
    }
    hash
}

const fn set(key: &mut [u8; KEY_LENGTH], bit: u32) {
    key[(bit / 8) as usize] |= 0x80 >> (bit % 8);
}

/// Writes the parts one behind the other and returns their length.
fn fill(to: &mut [u8], parts: &[&[u8]]) -> usize {
    let mut length = 0;
    for part in parts {
        for (to, from) in to.iter_mut().skip(length).zip(*part) {
            *to = *from;
        }
        length += part.len();
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Microsoft, "Verifying the RSS hash calculation".
    #[test]
    fn the_hash_is_toeplitz() {
        let key = [
            0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
            0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
            0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
        ];
        let tuple = [66, 9, 149, 187, 161, 142, 100, 80, 0x0a, 0xea, 0x06, 0xe6];
        assert_eq!(toeplitz(&key, &tuple), 0x51cc_c178);
        assert_eq!(toeplitz(&key, &tuple[..8]), 0x323e_8fc2);
    }

    #[test]
    fn tables_too_small_or_odd_are_refused() {
        for facing in [Facing::Inside, Facing::Outside] {
            assert!(Rss::new(facing, 3, 64).is_none());
            assert!(Rss::new(facing, 64, 32).is_none());
            assert!(Rss::new(facing, 2, 0).is_none());
            assert!(Rss::new(facing, 2, 100).is_none());
            assert!(Rss::new(facing, 0, 128).is_none());
            assert!(Rss::new(facing, 3, 128).is_some());
            assert!(Rss::new(facing, 4, 4).is_some());
        }
    }

    #[test]
    fn every_class_has_one_owner_and_every_value_one_class() {
        for workers in 1..=64u8 {
            for value in 0..128u8 {
                let mut matching = classes(workers).filter(|class| value & class.mask == class.value);
                let class = matching.next().expect("a class");
                assert_eq!(matching.next(), None);
                assert_eq!(class.worker, steering::owner_of_inside(Address::v4([0, 0, 0, value]), workers));
                let port = u16::from(value) * steering::PORT_BLOCK + 77;
                assert_eq!(class.worker, steering::owner_of_port(port, workers));
                let mut prefix = [0; 16];
                prefix[7] = value;
                assert_eq!(class.worker, steering::owner_of_inside(Address(prefix), workers));
            }
            let least = if workers.is_power_of_two() { usize::from(workers) } else { 128 };
            assert_eq!(classes(workers).count(), least);
        }
    }
}

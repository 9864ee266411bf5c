//! Which external ports are in use: exact, a bit each.

use crate::keyed::{Keyed, Map};
use turnpike_abi::counters::ProtocolClass;
use turnpike_abi::{WorkerId, steering};

const WORDS: usize = 65536 / 64;
/// Protocols that have ports or query identifiers.
const CLASSES: usize = 3;

/// Ports of every pool address, as far as this worker gives them out.
#[derive(Debug)]
pub(crate) struct Ports {
    worker: WorkerId,
    workers: u8,
    addresses: Map<[u8; 4], Box<[[u64; WORDS]; CLASSES]>>,
}

/// Why a certain port cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortError {
    Taken,
    UnknownAddress,
}

impl Ports {
    pub(crate) fn new(worker: WorkerId, workers: u8, keyed: Keyed) -> Self {
        Self { worker, workers, addresses: Map::with_hasher(keyed) }
    }

    /// Keeps the bitmaps of the addresses that stay, makes those of new ones, forgets the rest.
    pub(crate) fn set_addresses(&mut self, addresses: impl Iterator<Item = [u8; 4]>) {
        let keyed = *self.addresses.hasher();
        let mut old = core::mem::replace(&mut self.addresses, Map::with_hasher(keyed));
        for address in addresses {
            let ports = old.remove(&address).unwrap_or_else(|| Box::new([[0; WORDS]; CLASSES]));
            self.addresses.insert(address, ports);
        }
    }

    /// Takes a free port of this worker's blocks in `first..=last`; any of them if `random` is. Fails only
    /// if none is free.
    pub(crate) fn take_any(
        &mut self,
        address: [u8; 4],
        class: ProtocolClass,
        (first, last): (u16, u16),
        random: u64,
    ) -> Option<u16> {
        let (worker, workers) = (self.worker, self.workers);
        let used = self.addresses.get_mut(&address)?.get_mut(class.index())?;
        let (first_word, last_word) = (usize::from(first) / 64, usize::from(last) / 64);
        let span = last_word - first_word + 1;
        let start = (random as u32 as usize) % span;
        for step in 0..=span {
            let word = first_word + (start + step) % span;
            if steering::owner_of_port((word * 64) as u16, workers) != worker {
                continue;
            }
            let mut free = !used.get(word)? & within(word, first, last);
            // The first word is tried from a random bit on, and again whole at the end of the round.
            let from = (random >> 32) as u32 % 64;
            if step == 0 && free >> from != 0 {
                free &= u64::MAX << from;
            }
            if free != 0 {
                let bit = free.trailing_zeros();
                *used.get_mut(word)? |= 1 << bit;
                return Some((word * 64) as u16 + bit as u16);
            }
        }
        None
    }

    /// Whether a port of this worker's blocks in `first..=last` is free.
    pub(crate) fn has_free(&self, address: [u8; 4], class: ProtocolClass, (first, last): (u16, u16)) -> bool {
        let Some(used) = self.addresses.get(&address).and_then(|ports| ports.get(class.index())) else {
            return false;
        };
        (usize::from(first) / 64..=usize::from(last) / 64).any(|word| {
            steering::owner_of_port((word * 64) as u16, self.workers) == self.worker
                && used.get(word).is_some_and(|used| !used & within(word, first, last) != 0)
        })
    }

    /// Takes a certain port.
    pub(crate) fn take(
        &mut self,
        address: [u8; 4],
        class: ProtocolClass,
        port: u16,
    ) -> Result<(), PortError> {
        let ports = self.addresses.get_mut(&address).ok_or(PortError::UnknownAddress)?;
        let used = ports.get_mut(class.index()).ok_or(PortError::UnknownAddress)?;
        let word = used.get_mut(usize::from(port) / 64).ok_or(PortError::UnknownAddress)?;
        let bit = 1 << (port % 64);
        if *word & bit != 0 {
            return Err(PortError::Taken);
        }
        *word |= bit;
        Ok(())
    }

    /// Gives a port back.
    pub(crate) fn release(&mut self, address: [u8; 4], class: ProtocolClass, port: u16) {
        let ports = self.addresses.get_mut(&address).and_then(|ports| ports.get_mut(class.index()));
        if let Some(word) = ports.and_then(|used| used.get_mut(usize::from(port) / 64)) {
            *word &= !(1 << (port % 64));
        }
    }
}

/// Bits of `word` that stand for ports in `first..=last`.
fn within(word: usize, first: u16, last: u16) -> u64 {
    let low = word * 64;
    let from = usize::from(first).saturating_sub(low);
    let to = usize::from(last).saturating_sub(low).min(63);
    if from > 63 || usize::from(last) < low {
        return 0;
    }
    (u64::MAX << from) & (u64::MAX >> (63 - to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const ADDRESS: [u8; 4] = [203, 0, 113, 1];

    fn ports(worker: u8, workers: u8) -> Ports {
        let mut ports = Ports::new(WorkerId(worker), workers, Keyed::new([7; 16]));
        ports.set_addresses([ADDRESS].into_iter());
        ports
    }

    proptest! {
        /// UDP-11: the allocator behaves the same up to the last free port.
        #[test]
        fn udp_11_fails_only_when_no_port_is_left(
            first in 1u16..60_000, extra in 0u16..3000, workers in 1u8..5, seed in any::<u64>(),
        ) {
            let last = first.saturating_add(extra);
            let mut ports = ports(0, workers);
            let eligible: BTreeSet<u16> =
                (first..=last).filter(|&port| steering::owner_of_port(port, workers) == WorkerId(0)).collect();
            let mut taken = BTreeSet::new();
            let mut random = Random(seed);
            while let Some(port) = ports.take_any(ADDRESS, ProtocolClass::Udp, (first, last), random.next()) {
                prop_assert!(eligible.contains(&port));
                prop_assert!(taken.insert(port), "{} given twice", port);
            }
            prop_assert_eq!(&taken, &eligible);
            prop_assert!(!ports.has_free(ADDRESS, ProtocolClass::Udp, (first, last)));
            if let Some(&port) = taken.first() {
                prop_assert_eq!(ports.take(ADDRESS, ProtocolClass::Udp, port), Err(PortError::Taken));
                ports.release(ADDRESS, ProtocolClass::Udp, port);
                prop_assert_eq!(ports.take_any(ADDRESS, ProtocolClass::Udp, (first, last), seed), Some(port));
            }
        }
    }

    struct Random(u64);
    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            self.0
        }
    }

    /// UPD-11, RFC 6056: every port of the range comes up about as often as every other.
    #[test]
    fn upd_11_choice_is_spread_over_the_range() {
        let mut random = crate::keyed::Random::new(Keyed::new([1; 16]));
        let mut counts = [0u32; 64];
        for _ in 0..64_000 {
            let mut ports = ports(0, 1);
            let port = ports.take_any(ADDRESS, ProtocolClass::Tcp, (1024, 65535), random.next()).unwrap();
            counts[usize::from(port / 1024)] += 1;
            ports.release(ADDRESS, ProtocolClass::Tcp, port);
        }
        let expected = 64_000.0 / 63.0;
        let chi: f64 =
            counts[1..].iter().map(|&count| (f64::from(count) - expected).powi(2) / expected).sum();
        assert_eq!(counts[0], 0);
        // 62 degrees of freedom: 0.1 % of fair draws lie above 102.
        assert!(chi < 102.0, "chi-square {chi}");
    }

    /// UPD-6: protocols do not share ports.
    #[test]
    fn upd_6_each_protocol_has_its_own_ports() {
        let mut ports = ports(0, 1);
        assert_eq!(ports.take(ADDRESS, ProtocolClass::Tcp, 5000), Ok(()));
        assert_eq!(ports.take(ADDRESS, ProtocolClass::Udp, 5000), Ok(()));
        assert_eq!(ports.take(ADDRESS, ProtocolClass::Tcp, 5000), Err(PortError::Taken));
        assert_eq!(ports.take([192, 0, 2, 1], ProtocolClass::Tcp, 1), Err(PortError::UnknownAddress));
    }
}

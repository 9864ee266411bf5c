//! Which external ports are in use: exact, a bit each.

use crate::keyed::{Keyed, Map};
use turnpike_abi::counters::ProtocolClass;
use turnpike_abi::{PoolId, WorkerId, steering};

const WORDS: usize = 65536 / 64;
/// Protocols that have ports or query identifiers.
const CLASSES: usize = 3;

/// Ports of every pool address, as far as this worker gives them out.
#[derive(Debug)]
pub(crate) struct Ports {
    worker: WorkerId,
    workers: u8,
    addresses: Map<[u8; 4], Address>,
    /// By pool and class, the addresses that have a free port, in no order: what a new subscriber gets is
    /// found without a walk over the pool.
    open: Vec<[Vec<[u8; 4]>; CLASSES]>,
}

/// A pool address.
#[derive(Debug)]
struct Address {
    used: Box<[[u64; WORDS]; CLASSES]>,
    pool: PoolId,
    /// Ports given out without being asked for.
    range: (u16, u16),
    /// Free ones of those in this worker's blocks.
    free: [u32; CLASSES],
    /// Place in `open`, while `free` is not 0.
    place: [usize; CLASSES],
}

/// Why a certain port cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortError {
    Taken,
    UnknownAddress,
}

impl Ports {
    pub(crate) fn new(worker: WorkerId, workers: u8, keyed: Keyed) -> Self {
        Self { worker, workers, addresses: Map::with_hasher(keyed), open: Vec::new() }
    }

    /// Keeps the bitmaps of the addresses that stay, makes those of new ones, forgets the rest. `pools` are in
    /// the order of their ids, each with its range of ports.
    pub(crate) fn set_pools<A: Iterator<Item = [u8; 4]>>(
        &mut self,
        pools: impl Iterator<Item = ((u16, u16), A)>,
    ) {
        let keyed = *self.addresses.hasher();
        let mut old = core::mem::replace(&mut self.addresses, Map::with_hasher(keyed));
        self.open.clear();
        for (pool, (range, addresses)) in (0..).map(PoolId).zip(pools) {
            let whole = self.count_free(&[0; WORDS], range);
            let mut open: [Vec<[u8; 4]>; CLASSES] = Default::default();
            let mut size = 0;
            for external in addresses {
                size += 1;
                let mut address = old.remove(&external).unwrap_or_else(|| Address {
                    used: Box::new([[0; WORDS]; CLASSES]),
                    pool,
                    range,
                    free: [whole; CLASSES],
                    place: [0; CLASSES],
                });
                if address.range != range {
                    address.range = range;
                    address.free = address.used.each_ref().map(|used| self.count_free(used, range));
                }
                address.pool = pool;
                for ((open, place), free) in open.iter_mut().zip(&mut address.place).zip(address.free) {
                    if free > 0 {
                        *place = open.len();
                        open.push(external);
                    }
                }
                self.addresses.insert(external, address);
            }
            // It will not have to grow on the path.
            open.iter_mut().for_each(|open| open.reserve(size - open.len()));
            self.open.push(open);
        }
    }

    fn count_free(&self, used: &[u64; WORDS], (first, last): (u16, u16)) -> u32 {
        let words = used.iter().enumerate();
        let own = words
            .filter(|(word, _)| steering::owner_of_port((word * 64) as u16, self.workers) == self.worker);
        own.map(|(word, used)| (!used & within(word, first, last)).count_ones()).sum()
    }

    /// Takes a free port of this worker's blocks in the pool's range; any of them if `random` is. Fails only
    /// if none is free.
    pub(crate) fn take_any(&mut self, address: [u8; 4], class: ProtocolClass, random: u64) -> Option<u16> {
        if !self.has_free(address, class) {
            return None;
        }
        let (worker, workers) = (self.worker, self.workers);
        let record = self.addresses.get(&address)?;
        let used = record.used.get(class.index())?;
        let (first, last) = record.range;
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
                let port = (word * 64) as u16 + free.trailing_zeros() as u16;
                return self.take(address, class, port).ok().map(|()| port);
            }
        }
        None
    }

    /// Whether a port of this worker's blocks in the pool's range is free.
    pub(crate) fn has_free(&self, address: [u8; 4], class: ProtocolClass) -> bool {
        self.addresses
            .get(&address)
            .and_then(|address| address.free.get(class.index()))
            .is_some_and(|free| *free > 0)
    }

    /// An address of the pool with such a port, if there is one: the one that `random` names.
    pub(crate) fn any_open(&self, pool: PoolId, class: ProtocolClass, random: u64) -> Option<[u8; 4]> {
        let open = self.open.get(pool.index())?.get(class.index())?;
        open.get((random % (open.len() as u64).max(1)) as usize).copied()
    }

    /// Takes a certain port.
    pub(crate) fn take(
        &mut self,
        address: [u8; 4],
        class: ProtocolClass,
        port: u16,
    ) -> Result<(), PortError> {
        let record = self.addresses.get_mut(&address).ok_or(PortError::UnknownAddress)?;
        let used = record.used.get_mut(class.index()).ok_or(PortError::UnknownAddress)?;
        let word = used.get_mut(usize::from(port) / 64).ok_or(PortError::UnknownAddress)?;
        let bit = 1 << (port % 64);
        if *word & bit != 0 {
            return Err(PortError::Taken);
        }
        *word |= bit;
        self.count(address, class, port, false);
        Ok(())
    }

    /// Gives a port back.
    pub(crate) fn release(&mut self, address: [u8; 4], class: ProtocolClass, port: u16) {
        let used = self.addresses.get_mut(&address).and_then(|record| record.used.get_mut(class.index()));
        let Some(word) = used.and_then(|used| used.get_mut(usize::from(port) / 64)) else { return };
        let bit = 1 << (port % 64);
        if *word & bit != 0 {
            *word &= !bit;
            self.count(address, class, port, true);
        }
    }

    /// Notes that a port became free, or is not any more.
    fn count(&mut self, address: [u8; 4], class: ProtocolClass, port: u16, freed: bool) {
        let own = steering::owner_of_port(port, self.workers) == self.worker;
        let class = class.index();
        let Some(record) = self.addresses.get_mut(&address) else { return };
        if !own || !(record.range.0..=record.range.1).contains(&port) {
            return;
        }
        let open = self.open.get_mut(record.pool.index()).and_then(|open| open.get_mut(class));
        let (Some(open), Some(free), Some(place)) =
            (open, record.free.get_mut(class), record.place.get_mut(class))
        else {
            return;
        };
        if freed {
            if *free == 0 {
                *place = open.len();
                open.push(address);
            }
            *free += 1;
            return;
        }
        *free -= 1;
        if *free == 0 {
            let hole = *place;
            open.swap_remove(hole);
            let moved = open.get(hole).and_then(|moved| self.addresses.get_mut(moved));
            if let Some(place) = moved.and_then(|moved| moved.place.get_mut(class)) {
                *place = hole;
            }
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

    fn ports(worker: u8, workers: u8, range: (u16, u16)) -> Ports {
        let mut ports = Ports::new(WorkerId(worker), workers, Keyed::new([7; 16]));
        ports.set_pools([(range, [ADDRESS].into_iter())].into_iter());
        ports
    }

    proptest! {
        /// UDP-11: the allocator behaves the same up to the last free port.
        #[test]
        fn udp_11_fails_only_when_no_port_is_left(
            first in 1u16..60_000, extra in 0u16..3000, workers in 1u8..5, seed in any::<u64>(),
        ) {
            let last = first.saturating_add(extra);
            let mut ports = ports(0, workers, (first, last));
            let eligible: BTreeSet<u16> =
                (first..=last).filter(|&port| steering::owner_of_port(port, workers) == WorkerId(0)).collect();
            let mut taken = BTreeSet::new();
            let mut random = Random(seed);
            while let Some(port) = ports.take_any(ADDRESS, ProtocolClass::Udp, random.next()) {
                prop_assert!(eligible.contains(&port));
                prop_assert!(taken.insert(port), "{} given twice", port);
            }
            prop_assert_eq!(&taken, &eligible);
            prop_assert!(!ports.has_free(ADDRESS, ProtocolClass::Udp));
            if let Some(&port) = taken.first() {
                prop_assert_eq!(ports.take(ADDRESS, ProtocolClass::Udp, port), Err(PortError::Taken));
                ports.release(ADDRESS, ProtocolClass::Udp, port);
                prop_assert_eq!(ports.take_any(ADDRESS, ProtocolClass::Udp, seed), Some(port));
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        TakeAny(u8),
        Take(u8, u16),
        Release(u8, u16),
        Range(u16, u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => any::<u8>().prop_map(Step::TakeAny),
            2 => (0u8..4, 990u16..1100).prop_map(|(address, port)| Step::Take(address, port)),
            3 => (0u8..4, 990u16..1100).prop_map(|(address, port)| Step::Release(address, port)),
            1 => (1000u16..1030, 0u16..40).prop_map(|(first, extra)| Step::Range(first, first + extra)),
        ]
    }

    proptest! {
        /// The counts and the list of open addresses agree with a set of taken ports, whatever happens.
        #[test]
        fn open_addresses_are_those_with_a_free_port(
            steps in prop::collection::vec(step(), 0..300), workers in 1u8..3,
        ) {
            let addresses: Vec<[u8; 4]> = (0..4).map(|last| [203, 0, 113, last]).collect();
            let mut ports = Ports::new(WorkerId(1 % workers), workers, Keyed::new([7; 16]));
            let mut range = (1000, 1003);
            let set = |ports: &mut Ports, range| {
                ports.set_pools([(range, addresses.iter().copied())].into_iter());
            };
            set(&mut ports, range);
            let mut taken = BTreeSet::new();
            for step in steps {
                match step {
                    Step::TakeAny(seed) => {
                        let open = ports.any_open(PoolId(0), ProtocolClass::Udp, seed.into());
                        let port = open.and_then(|address| {
                            ports.take_any(address, ProtocolClass::Udp, u64::from(seed) << 30)
                        });
                        prop_assert_eq!(open.is_some(), port.is_some());
                        if let (Some(address), Some(port)) = (open, port) {
                            prop_assert!(taken.insert((address, port)));
                        }
                    }
                    Step::Take(at, port) => {
                        let address = addresses[usize::from(at)];
                        let fresh = taken.insert((address, port));
                        prop_assert_eq!(ports.take(address, ProtocolClass::Udp, port).is_ok(), fresh);
                    }
                    Step::Release(at, port) => {
                        let address = addresses[usize::from(at)];
                        taken.remove(&(address, port));
                        ports.release(address, ProtocolClass::Udp, port);
                    }
                    Step::Range(first, last) => {
                        range = (first, last);
                        set(&mut ports, range);
                    }
                }
                let mut open: Vec<_> = ports.open[0][ProtocolClass::Udp.index()].clone();
                open.sort_unstable();
                let free = |address: &[u8; 4]| {
                    (range.0..=range.1).any(|port| {
                        steering::owner_of_port(port, workers) == WorkerId(1 % workers)
                            && !taken.contains(&(*address, port))
                    })
                };
                prop_assert_eq!(open, addresses.iter().copied().filter(free).collect::<Vec<_>>());
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
            let mut ports = ports(0, 1, (1024, 65535));
            let port = ports.take_any(ADDRESS, ProtocolClass::Tcp, random.next()).unwrap();
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
        let mut ports = ports(0, 1, (1024, 65535));
        assert_eq!(ports.take(ADDRESS, ProtocolClass::Tcp, 5000), Ok(()));
        assert_eq!(ports.take(ADDRESS, ProtocolClass::Udp, 5000), Ok(()));
        assert_eq!(ports.take(ADDRESS, ProtocolClass::Tcp, 5000), Err(PortError::Taken));
        assert_eq!(ports.take([192, 0, 2, 1], ProtocolClass::Tcp, 1), Err(PortError::UnknownAddress));
    }
}

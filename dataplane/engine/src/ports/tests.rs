//! The allocator against sets and its own books.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use turnpike_abi::steering;
use turnpike_abi::table::PoolRecord;

const FIRST: u32 = u32::from_be_bytes([203, 0, 113, 0]);
const POOL: PoolId = PoolId(0);

fn setup(worker: u8, workers: u8) -> Setup {
    Setup {
        worker: WorkerId(worker),
        workers,
        ports: 0,
        interfaces: Vec::new(),
        flows: 0,
        flows_v6: 0,
        bindings: 1 << 17,
        key: [7; 16],
    }
}

fn ports(worker: u8, workers: u8) -> Ports {
    let setup = setup(worker, workers);
    let mut memory = Memory::ordinary(Ports::bytes(setup.bindings)).unwrap();
    Ports::new(&setup, Keyed::new(setup.key), &mut memory).unwrap()
}

fn record(first: u16, last: u16, block_size: u16) -> PoolRecord {
    PoolRecord { port_first: first, port_last: last, block_size, ..PoolRecord::default() }
}

fn set(ports: &mut Ports, record: PoolRecord, addresses: u32) -> bool {
    ports.set_pools(ports.coming_of(&[(record, vec![(FIRST, FIRST + addresses - 1)])]))
}

fn wanted(host: u8, class: Class, random: u64) -> Wanted {
    Wanted { pool: POOL, inside: [10, 0, 0, host], class, parity: Parity::ANY, random }
}

struct Random(u64);
impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 ^ self.0 >> 31
    }
}

/// Every count, summary and list agrees with the ports in use.
fn assert_sound(ports: &Ports) {
    let mut blocks_of: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let mut taken: BTreeMap<u32, u16> = BTreeMap::new();
    for at in ports.blocks.numbers() {
        let Some(block) = ports.blocks.record(at) else { continue };
        assert_eq!(ports.blocks.find(block.address, block.number), Some(at));
        let geometry = &ports.pools.state(ports.pools.pool_of(block.address).unwrap()).unwrap().geometry;
        let mut busy = 0;
        for class in Class::ALL {
            let mut free = 0;
            for word in 0..block.words {
                let used = ports.units.used(block.address, class, block.first_word + word);
                let left = geometry.eligible(block.first_word + word) & !used;
                busy += used.count_ones();
                free += left.count_ones();
                assert_eq!(block.full[class as usize] >> word & 1 == 1, left == 0, "summary");
            }
            assert_eq!(u32::from(block.free[class as usize]), free);
        }
        assert_eq!(block.busy, busy);
        blocks_of.entry(block.subscriber).or_default().push(at);
        *taken.entry(block.address).or_default() += u16::from(geometry.on_offer(block.number));
    }
    for number in ports.subscribers.numbers() {
        let Some(subscriber) = ports.subscribers.record(number) else { continue };
        let known = ports.subscribers.find(subscriber.inside, subscriber.pool) == Some(number);
        let mine = if known { blocks_of.remove(&number).unwrap_or_default() } else { Vec::new() };
        if !known {
            continue;
        }
        assert_eq!(usize::from(subscriber.blocks), mine.len());
        for class in Class::ALL {
            let mut listed = Vec::new();
            let mut at = subscriber.open[class as usize];
            while at != NONE {
                listed.push(at);
                at = ports.blocks.next(at, class);
            }
            listed.sort_unstable();
            let free = |at: &u32| ports.blocks.record(*at).unwrap().free[class as usize] > 0;
            assert_eq!(listed, mine.iter().copied().filter(free).collect::<Vec<_>>(), "list of open blocks");
        }
        for at in mine {
            assert_eq!(ports.blocks.record(at).unwrap().address, subscriber.address, "paired");
        }
    }
    let nobodys = blocks_of.remove(&NONE).unwrap_or_default();
    for class in Class::ALL {
        let mut listed = Vec::new();
        let mut at = ports.blocks.nobodys(class);
        while at != NONE {
            listed.push(at);
            at = ports.blocks.next(at, class);
        }
        listed.sort_unstable();
        let free = |at: &u32| ports.blocks.record(*at).unwrap().free[class as usize] > 0;
        assert_eq!(listed, nobodys.iter().copied().filter(free).collect::<Vec<_>>(), "nobody's open blocks");
    }
    assert!(blocks_of.is_empty(), "blocks of subscribers that are gone: {blocks_of:?}");
    let offered = ports.pools.state(POOL).unwrap().geometry.offered;
    let mut open: BTreeSet<u32> = (0..ports.pools.len() as u32).collect();
    open.retain(|address| taken.get(address).copied().unwrap_or(0) < offered);
    for random in 0..8 {
        let any = ports.pools.state(POOL).unwrap().any_open(random, |_| true);
        assert!(any.map_or(open.is_empty(), |any| open.contains(&any)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// UDP-11: the allocator behaves the same up to the last free port, whatever the size of its blocks.
    #[test]
    fn udp_11_fails_only_when_no_port_is_left(
        first in 1u16..60_000, extra in 0u16..3000, workers in 1u8..5, shift in 6u32..=12, seed in any::<u64>(),
    ) {
        let last = first.saturating_add(extra);
        let mut ports = ports(0, workers);
        set(&mut ports, record(first, last, 1 << shift), 1);
        let eligible: BTreeSet<u16> =
            (first..=last).filter(|&port| steering::owner_of_port(port, workers) == WorkerId(0)).collect();
        let mut taken = BTreeSet::new();
        let mut random = Random(seed);
        let last = loop {
            match ports.take(&wanted(1, Class::Udp, random.next()), Entry::Bound(9)) {
                Ok(got) => {
                    prop_assert!(eligible.contains(&got.port));
                    prop_assert!(taken.insert(got.port), "{} given twice", got.port);
                }
                Err(error) => break error,
            }
        };
        prop_assert_eq!(last, PortError::Exhausted);
        prop_assert_eq!(&taken, &eligible);
        assert_sound(&ports);
        if let Some(&port) = taken.first() {
            let external = FIRST.to_be_bytes();
            prop_assert_eq!(ports.entry(external, Class::Udp, port), Entry::Bound(9));
            let again = ports.take_named(&wanted(1, Class::Udp, 0), external, port, Entry::Bound(1));
            prop_assert_eq!(again, Err(PortError::Taken));
            let subscriber = ports.subscriber_of([10, 0, 0, 1], POOL).unwrap();
            ports.release(subscriber, external, Class::Udp, port);
            let got = ports.take(&wanted(1, Class::Udp, seed), Entry::Bound(2));
            prop_assert_eq!(got.map(|got| got.port), Ok(port));
        }
    }

    /// Rows have the length and the parity that was asked for, lie in a row, and belong to one worker.
    #[test]
    fn rows_are_whole_and_of_the_right_parity(
        count in 1u8..=64, parity in 0u8..3, workers in 1u8..4, shift in 6u32..=12, host in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let mut ports = ports(0, workers);
        set(&mut ports, record(1024, 9000, 1 << shift), 2);
        let mut random = Random(seed);
        let mut taken = BTreeSet::new();
        let inside = host.then_some([10, 0, 0, 1]);
        while let Ok((external, first)) =
            ports.reserve(POOL, inside, None, (Class::Udp, count, Parity(parity)), random.next())
        {
            prop_assert!(parity == 0 || (first % 2 == 0) == (parity == 1));
            for port in first..first + u16::from(count) {
                prop_assert!((1024..=9000).contains(&port));
                prop_assert_eq!(steering::owner_of_port(port, workers), WorkerId(0));
                prop_assert_eq!(ports.entry(external, Class::Udp, port), Entry::Held);
                prop_assert!(taken.insert((external, port)), "given twice");
            }
        }
        assert_sound(&ports);
        prop_assert_eq!(row_left(&ports, host.then_some(1), (count, Parity(parity))), None, "refused");
        // A row of one is there as long as a port is.
        if count == 1 && parity == 0 && !host {
            let all = (1024u16..=9000).filter(|&port| steering::owner_of_port(port, workers) == WorkerId(0));
            prop_assert_eq!(taken.len(), all.count() * 2);
        }
        for (external, port) in taken {
            ports.release_from_nobody(external, Class::Udp, port);
        }
        assert_sound(&ports);
        prop_assert_eq!(ports.tally.reserved, 0);
    }
}

/// Where a row of UDP ports is that a reservation, for a host or for nobody, may have: the first of it.
fn row_left(ports: &Ports, host: Option<u8>, (count, parity): (u8, Parity)) -> Option<(u32, u16)> {
    let known = host.and_then(|host| ports.subscriber_of([10, 0, 0, host], POOL));
    let mine =
        known.and_then(|number| ports.subscriber(number)).map(|it| it.address).filter(|at| *at != NONE);
    let geometry = &ports.pools.state(POOL).unwrap().geometry;
    for address in (0..ports.pools.len() as u32).filter(|at| mine.is_none_or(|mine| mine == *at)) {
        let mut free: BTreeMap<u16, BTreeSet<u16>> = BTreeMap::new();
        for word in 0..words_of(ports.worker, ports.workers) {
            let number = geometry.block_of(word);
            let owner =
                ports.blocks.find(address, number).map(|at| ports.blocks.record(at).unwrap().subscriber);
            let own = owner.is_some() && owner == known;
            if !own && (!geometry.on_offer(number) || owner.is_some_and(|owner| owner != NONE)) {
                continue;
            }
            let left = geometry.eligible(word) & !ports.units.used(address, Class::Udp, word);
            let first = port_of(word, ports.worker, ports.workers).unwrap();
            let bits = (0..64u16).filter(|bit| left >> bit & 1 == 1);
            free.entry(number).or_default().extend(bits.map(|bit| first + bit));
        }
        for of_block in free.values() {
            let starts = of_block.iter().copied().find(|&first| {
                let right = match parity {
                    Parity::EVEN => first % 2 == 0,
                    Parity::ODD => first % 2 == 1,
                    _ => true,
                };
                right
                    && (0..u16::from(count))
                        .all(|at| first.checked_add(at).is_some_and(|it| of_block.contains(&it)))
            });
            if let Some(first) = starts {
                return Some((address, first));
            }
        }
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Rows of 64, 32, 16, 8, 4 and 2 ports, as many of each as may be, fill all that is not a subscriber's; what is given
    /// back can be had again, however many blocks it lies in.
    #[test]
    fn rows_fill_all_blocks_that_no_subscriber_has(
        first in 16u16..200, words in 1u16..200, workers in 1u8..4, shift in 6u32..=12, addresses in 1u32..3,
        hosts in 0u8..4, most in prop::collection::vec(0usize..20, 6), even in any::<bool>(), seed in any::<u64>(),
    ) {
        let mut ports = ports(0, workers);
        set(&mut ports, record(first * 64, (first + words) * 64 - 1, 1 << shift), addresses);
        let mut random = Random(seed);
        for host in 0..hosts {
            // There may be no block for all of them.
            let _ = ports.take(&wanted(host, Class::Udp, random.next()), Entry::Bound(9));
        }
        let mut held = BTreeSet::new();
        let parity = if even { Parity::EVEN } else { Parity::ANY };
        let mut row = |ports: &mut Ports, count| {
            let got = ports.reserve(POOL, None, None, (Class::Udp, count, parity), random.next());
            got.inspect(|&(external, first)| {
                held.extend((first..first + u16::from(count)).map(|port| (external, port)));
            })
        };
        for (count, most) in [64, 32, 16, 8, 4, 2].into_iter().zip(most) {
            for _ in 0..most {
                if row(&mut ports, count).is_err() {
                    break;
                }
            }
        }
        while row(&mut ports, 2).is_ok() {}
        assert_sound(&ports);
        prop_assert_eq!(row_left(&ports, None, (1, Parity::ANY)), None, "free, and nobody's");
        let of_subscribers: u32 = (0..hosts)
            .filter_map(|host| ports.subscriber_of([10, 0, 0, host], POOL))
            .flat_map(|number| ports.blocks.numbers().map(move |at| (number, at)))
            .filter_map(|(number, at)| ports.blocks.record(at).filter(|block| block.subscriber == number))
            .map(|block| u32::from(ports.pools.state(POOL).unwrap().geometry.capacity(block.number)))
            .sum();
        let mine = (first * 64..(first + words) * 64)
            .filter(|&port| steering::owner_of_port(port, workers) == WorkerId(0)).count() as u32;
        prop_assert_eq!(held.len() as u32, mine * addresses - of_subscribers, "all of it");
        // A pair here and there is given back, and had again.
        let pairs: Vec<_> = held.iter().copied().filter(|(_, port)| port % 22 == 0).collect();
        for (external, port) in &pairs {
            ports.release_from_nobody(*external, Class::Udp, *port);
            ports.release_from_nobody(*external, Class::Udp, port + 1);
        }
        for _ in &pairs {
            prop_assert!(ports.reserve(POOL, None, None, (Class::Udp, 2, parity), random.next()).is_ok());
        }
        prop_assert_eq!(row_left(&ports, None, (1, Parity::ANY)), None);
        assert_sound(&ports);
    }
}

/// The one pair that is left is found behind a hundred blocks that have a single port left each.
#[test]
fn no_block_of_nobodys_is_forgotten() {
    let mut ports = ports(0, 1);
    set(&mut ports, record(1024, 1024 + 101 * 64 - 1, 64), 1);
    let pair =
        |ports: &mut Ports, random| ports.reserve(POOL, None, None, (Class::Udp, 2, Parity::ANY), random);
    let mut random = Random(5);
    while pair(&mut ports, random.next()).is_ok() {}
    let external = FIRST.to_be_bytes();
    for port in [1030, 1031] {
        ports.release_from_nobody(external, Class::Udp, port);
    }
    for block in 1..=100 {
        ports.release_from_nobody(external, Class::Udp, 1024 + 64 * block);
    }
    assert_eq!(pair(&mut ports, 9), Ok((external, 1030)));
    assert_eq!(pair(&mut ports, 9), Err(PortError::Exhausted));
    assert_sound(&ports);
}

#[derive(Clone, Debug)]
enum Step {
    Take(u8, u8, u64),
    Named(u8, u8, u16),
    Release(prop::sample::Index),
    Reserve(Option<u8>, u8, u64),
    Unreserve(prop::sample::Index),
    Wait(u64),
    Shape(u8, u16, u32, u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0u8..6, 0u8..3, any::<u64>()).prop_map(|(host, class, random)| Step::Take(host, class, random)),
        2 => (0u8..6, 0u8..3, 900u16..3000).prop_map(|(host, class, port)| Step::Named(host, class, port)),
        8 => any::<prop::sample::Index>().prop_map(Step::Release),
        2 => (prop::option::of(0u8..6), 1u8..20, any::<u64>()).prop_map(|(h, n, r)| Step::Reserve(h, n, r)),
        2 => any::<prop::sample::Index>().prop_map(Step::Unreserve),
        4 => (1u64..90_000).prop_map(Step::Wait),
        1 => (6u8..9, 1u16..200, 1u32..5, 0u16..4).prop_map(|(s, q, a, b)| Step::Shape(s, q, a, b)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Against a map of ports in use and held back, through changes of the pool's shape: nothing is given twice or
    /// too early (CGN-8), and a refusal is true.
    #[test]
    fn cgn_8_nothing_is_given_twice_or_before_its_time(
        steps in prop::collection::vec(step(), 0..300), workers in 1u8..3,
    ) {
        let mut ports = ports(0, workers);
        let mut shape = PoolRecord { quarantine: 60, quarantine_tcp: 10, ..record(1000, 2200, 64) };
        let mut addresses = 2;
        set(&mut ports, shape, addresses);
        let mut used: BTreeMap<([u8; 4], u8, u16), u32> = BTreeMap::new();
        let mut rows: Vec<([u8; 4], u16, u8)> = Vec::new();
        let mut cooling: BTreeMap<([u8; 4], u8, u16), u64> = BTreeMap::new();
        let mut now = 5000;
        ports.at(Time(now));
        let (mut given, mut refused) = (0, 0);
        for step in steps {
            match step {
                Step::Take(host, class, random) => {
                    let class_of = Class::ALL[usize::from(class)];
                    match ports.take(&wanted(host, class_of, random), Entry::Bound(u32::from(host))) {
                        Ok(got) => {
                            given += 1;
                            let key = (got.external, class, got.port);
                            prop_assert!(used.insert(key, got.subscriber).is_none(), "given twice");
                            let over = cooling.get(&key).is_none_or(|&until| until <= now);
                            prop_assert!(over, "held back until {:?}, now {now}", cooling.get(&key));
                        }
                        Err(why) => {
                            refused += 1;
                            // True: no port in its blocks, and no block it could have.
                            let known = ports.subscriber_of([10, 0, 0, host], POOL);
                            let mine = known.and_then(|number| ports.subscriber(number)).copied();
                            let has = mine.is_some_and(|mine| mine.open[usize::from(class)] != NONE);
                            prop_assert!(!has, "{why:?} with a free port");
                            let blocks = mine.map_or(0, |mine| mine.blocks);
                            if why == PortError::Limit {
                                prop_assert!(shape.blocks != 0 && blocks >= shape.blocks);
                            } else {
                                prop_assert_eq!(why, PortError::Exhausted);
                                let geometry = &ports.pools.state(POOL).unwrap().geometry;
                                let address = mine.map(|mine| mine.address).filter(|at| *at != NONE);
                                for at in 0..addresses {
                                    if address.is_none_or(|address| address == at) {
                                        let taken = ports.blocks.taken(at).unwrap();
                                        prop_assert_eq!(geometry.choose(taken, &geometry.fitting(None), 3), None);
                                    }
                                }
                            }
                        }
                    }
                }
                Step::Named(host, class, port) => {
                    if steering::owner_of_port(port, workers) != WorkerId(0) {
                        continue;
                    }
                    let class_of = Class::ALL[usize::from(class)];
                    let external = FIRST.to_be_bytes();
                    let key = (external, class, port);
                    let got = ports.take_named(&wanted(host, class_of, 0), external, port, Entry::Bound(1));
                    match got {
                        Ok(got) => prop_assert!(used.insert(key, got.subscriber).is_none(), "given twice"),
                        Err(why) => {
                            prop_assert_eq!(why, PortError::Taken);
                            let held = class == 1 && rows.iter().any(|row| {
                                row.0 == external && (row.1..row.1 + u16::from(row.2)).contains(&port)
                            });
                            prop_assert!(used.contains_key(&key) || cooling.contains_key(&key) || held);
                        }
                    }
                }
                Step::Release(at) => {
                    if used.is_empty() {
                        continue;
                    }
                    let (&(external, class, port), &subscriber) = used.iter().nth(at.index(used.len())).unwrap();
                    used.remove(&(external, class, port));
                    ports.release(subscriber, external, Class::ALL[usize::from(class)], port);
                    let seconds = if class == 0 { shape.quarantine_tcp } else { shape.quarantine };
                    cooling.insert((external, class, port), now + u64::from(seconds) * 1000);
                }
                Step::Reserve(host, count, random) => {
                    let inside = host.map(|host| [10, 0, 0, host]);
                    let what = (Class::Udp, count, Parity::ANY);
                    match ports.reserve(POOL, inside, None, what, random) {
                        Ok((external, first)) => {
                            for port in first..first + u16::from(count) {
                                prop_assert!(!used.contains_key(&(external, 1, port)));
                            }
                            rows.push((external, first, count));
                        }
                        Err(why) => {
                            prop_assert_eq!(why, PortError::Exhausted);
                            prop_assert_eq!(row_left(&ports, host, (count, Parity::ANY)), None, "refused");
                        }
                    }
                }
                Step::Unreserve(at) => {
                    if rows.is_empty() {
                        continue;
                    }
                    let (external, first, count) = rows.swap_remove(at.index(rows.len()));
                    for port in first..first + u16::from(count) {
                        ports.release_from_nobody(external, Class::Udp, port);
                        cooling.insert((external, 1, port), now + u64::from(shape.quarantine) * 1000);
                    }
                }
                Step::Wait(ms) => {
                    now += ms;
                    for _ in 0..100 {
                        ports.tick(Time(now));
                    }
                }
                Step::Shape(shift, quarantine, count, blocks) => {
                    let cut = shape.block_size != 1 << shift;
                    let fewer = count < addresses;
                    (shape.block_size, shape.quarantine, shape.blocks) = (1 << shift, quarantine, blocks);
                    addresses = count;
                    let lost = set(&mut ports, shape, addresses);
                    let stays = |external: &[u8; 4]| u32::from_be_bytes(*external) - FIRST < addresses;
                    if lost {
                        prop_assert!(cut || fewer);
                        for (&(external, class, port), &subscriber) in &used {
                            let class = Class::ALL[usize::from(class)];
                            if stays(&external) {
                                ports.put_back(subscriber, external, class, port, Entry::Bound(0));
                            }
                        }
                        for (external, first, count) in rows.iter().filter(|row| stays(&row.0)) {
                            for port in *first..*first + u16::from(*count) {
                                ports.put_back(NONE, *external, Class::Udp, port, Entry::Held);
                            }
                        }
                    }
                    // What left the pool ends, as the bindings do.
                    for (&(external, class, port), &subscriber) in &used {
                        if !stays(&external) {
                            ports.release(subscriber, external, Class::ALL[usize::from(class)], port);
                        }
                    }
                    used.retain(|(external, ..), _| stays(external));
                    rows.retain(|(external, ..)| stays(external));
                    // Another cut, and a pool address that comes back, forget what was held back.
                    if cut {
                        cooling.clear();
                    }
                    cooling.retain(|(external, ..), _| stays(external));
                }
            }
            assert_sound(&ports);
        }
        let _ = (given, refused);
    }
}

/// CGN-4: blocks and ports of a subscriber are limited, each with its own answer.
#[test]
fn cgn_4_a_subscriber_gets_as_many_blocks_and_ports_as_it_may() {
    let fill = |record: PoolRecord| {
        let mut ports = ports(0, 1);
        set(&mut ports, record, 1);
        let mut random = Random(1);
        let mut count = 0;
        let why = loop {
            match ports.take(&wanted(1, Class::Udp, random.next()), Entry::Bound(0)) {
                Ok(_) => count += 1,
                Err(why) => break why,
            }
        };
        // The other protocols have their own count.
        assert!(ports.take(&wanted(1, Class::Tcp, 5), Entry::Bound(0)).is_ok());
        assert!(ports.take(&wanted(2, Class::Udp, 5), Entry::Bound(0)).is_ok());
        (count, why)
    };
    let base = record(1024, 65535, 128);
    assert_eq!(fill(PoolRecord { blocks: 3, ..base }), (384, PortError::Limit));
    assert_eq!(fill(PoolRecord { subscriber_ports: 200, ..base }), (200, PortError::Limit));
    assert_eq!(fill(PoolRecord { blocks: 1, subscriber_ports: 200, ..base }), (128, PortError::Limit));
}

/// UDP-4: parity is kept while there is a port of it.
#[test]
fn udp_4_parity_is_kept_while_it_can_be() {
    let mut ports = ports(0, 1);
    set(&mut ports, record(1024, 1024 + 255, 256), 1);
    let mut random = Random(3);
    for at in 0..256 {
        let want = Wanted { parity: Parity::EVEN, ..wanted(1, Class::Udp, random.next()) };
        let got = ports.take(&want, Entry::Bound(0)).unwrap();
        assert_eq!(got.port.is_multiple_of(2), at < 128, "{at}");
    }
}

/// UPD-11, RFC 6056: every port of a block comes up about as often as every other, and so does every block.
#[test]
fn upd_11_choice_is_spread_over_the_block_and_the_range() {
    let mut random = crate::keyed::Random::new(Keyed::new([1; 16]));
    let (mut in_block, mut blocks) = ([0u32; 256], [0u32; 252]);
    let mut ports = ports(0, 1);
    set(&mut ports, record(1024, 65535, 256), 1);
    for _ in 0..256_000 {
        let got = ports.take(&wanted(1, Class::Tcp, random.next()), Entry::Bound(0)).unwrap();
        in_block[usize::from(got.port % 256)] += 1;
        blocks[usize::from(got.port / 256) - 4] += 1;
        ports.release(got.subscriber, got.external, Class::Tcp, got.port);
    }
    for (counts, limit) in [(&in_block[..], 330.0), (&blocks[..], 326.0)] {
        let expected = 256_000.0 / counts.len() as f64;
        let chi: f64 = counts.iter().map(|&count| (f64::from(count) - expected).powi(2) / expected).sum();
        // 255 and 251 degrees of freedom: 0.1 % of fair draws lie above.
        assert!(chi < limit, "chi-square {chi} of {}", counts.len());
    }
}

/// UPD-6: protocols do not share ports.
#[test]
fn upd_6_each_protocol_has_its_own_ports() {
    let mut ports = ports(0, 1);
    set(&mut ports, record(1024, 65535, 256), 1);
    let external = FIRST.to_be_bytes();
    let mut named = |class, port| {
        ports.take_named(&wanted(1, class, 0), external, port, Entry::Bound(0)).map(|got| got.port)
    };
    assert_eq!(named(Class::Tcp, 5000), Ok(5000));
    assert_eq!(named(Class::Udp, 5000), Ok(5000));
    assert_eq!(named(Class::Tcp, 5000), Err(PortError::Taken));
    let unknown = ports.take_named(&wanted(1, Class::Tcp, 0), [192, 0, 2, 1], 1, Entry::Bound(0));
    assert_eq!(unknown, Err(PortError::UnknownAddress));
}

/// CGN-8, CGN-Q: a block whose last port ended comes back when its time is over, and not to others before.
#[test]
fn cgn_q_an_idle_block_is_held_back_and_comes_back() {
    let mut ports = ports(0, 1);
    set(&mut ports, PoolRecord { quarantine: 120, ..record(1024, 1024 + 63, 64) }, 1);
    ports.tick(Time(1000));
    let got = ports.take(&wanted(1, Class::Tcp, 1), Entry::Bound(0)).unwrap();
    ports.release(got.subscriber, got.external, Class::Tcp, got.port);
    ports.tick(Time(119_000));
    // Nobody else gets it; its subscriber does, at once.
    assert_eq!(ports.take(&wanted(2, Class::Tcp, 1), Entry::Bound(0)), Err(PortError::Exhausted));
    let got = ports.take(&wanted(1, Class::Tcp, 1), Entry::Bound(0)).unwrap();
    ports.release(got.subscriber, got.external, Class::Tcp, got.port);
    for second in 120..=240 {
        ports.tick(Time(second * 1000));
        let free = ports.subscriber_of([10, 0, 0, 1], POOL).is_none();
        assert_eq!(free, second * 1000 > 239_000, "{second}");
    }
    assert!(ports.take(&wanted(2, Class::Tcp, 1), Entry::Bound(0)).is_ok());
    assert_eq!((ports.tally.primary, ports.tally.released), (2, 1));
}

/// CGN-8: as many are held back as may be.
#[test]
fn cgn_8_the_number_held_back_is_limited() {
    let mut ports = ports(0, 1);
    set(&mut ports, PoolRecord { quarantine: 120, quarantine_ports: 10, ..record(1024, 65535, 64) }, 1);
    let taken: Vec<_> =
        (0..30).map(|at| ports.take(&wanted(1, Class::Udp, at), Entry::Bound(0)).unwrap()).collect();
    for got in taken {
        ports.release(got.subscriber, got.external, Class::Udp, got.port);
    }
    assert_eq!((ports.quarantine.held, ports.tally.skipped), (10, 20));
}

/// DET-4, DET-5: the computed range first, whatever else is free, then blocks of the dynamic share.
#[test]
fn det_4_the_computed_range_is_used_first_and_then_the_dynamic_share() {
    for workers in 1..4 {
        let inside = [198, 51, 100, 6];
        let worker = steering::owner_of_inside(turnpike_abi::Address::v4(inside), workers);
        let mut ports = ports(worker.0, workers);
        let record = PoolRecord {
            flags: PoolRecord::DETERMINISTIC,
            inside_first: [198, 51, 100, 1],
            inside_last: [198, 51, 100, 14],
            dynamic: 2,
            ..record(1024, 65535, 256)
        };
        set(&mut ports, record, 2);
        let plan = ports.pools.state(POOL).unwrap().geometry.plan.unwrap();
        let place = plan.forward(inside).unwrap();
        let runs: Vec<_> = plan.runs(place).collect();
        let mut random = Random(9);
        for at in 0..u32::from(plan.ports()) + 256 {
            let want = Wanted { inside, ..wanted(0, Class::Udp, random.next()) };
            let got = ports.take(&want, Entry::Bound(0)).unwrap();
            assert_eq!(u32::from_be_bytes(got.external), FIRST + place.address);
            let computed = runs.iter().any(|(first, last)| (*first..=*last).contains(&got.port));
            assert_eq!(computed, at < u32::from(plan.ports()), "{at}");
            if !computed {
                let holder = plan.reverse(place.address, got.port);
                assert_eq!(holder, turnpike_abi::deterministic::Holder::Dynamic);
            }
        }
        // Nobody else has a port of the range by name.
        let other = Wanted { inside: [198, 51, 100, 7], ..wanted(0, Class::Tcp, 0) };
        let external = (FIRST + place.address).to_be_bytes();
        assert_eq!(ports.take_named(&other, external, runs[0].0, Entry::Bound(0)), Err(PortError::Taken));
        assert_sound(&ports);
    }
}

/// What finds no room for its words leaves nothing behind: no block, no row in part.
#[test]
fn whoever_finds_no_room_has_nothing() {
    let bindings = 2;
    let setup = Setup { bindings, ..setup(0, 1) };
    let mut memory = Memory::ordinary(Ports::bytes(bindings)).unwrap();
    let mut ports = Ports::new(&setup, Keyed::new(setup.key), &mut memory).unwrap();
    set(&mut ports, record(1024, 65535, 256), 1);
    let external = FIRST.to_be_bytes();
    // Room for four words, and all are in use.
    for port in [1024, 1100, 1200] {
        ports.take_for_nobody(None, external, Class::Tcp, port, Entry::Held).unwrap();
    }
    let (_, held) = ports.reserve(POOL, None, None, (Class::Udp, 1, Parity::ANY), 0).unwrap();
    for random in 0..40 {
        // Behind the one that is held: in its word and in the next, which finds no room.
        let row = ports.reserve(POOL, None, None, (Class::Udp, 64, Parity::ANY), random << 34);
        assert_eq!(row, Err(PortError::Room));
        assert_eq!(ports.entry(external, Class::Udp, held), Entry::Held);
        assert_eq!(ports.tally.reserved, 4);
        assert_sound(&ports);
    }
    assert_eq!(ports.take(&wanted(1, Class::Udp, 1), Entry::Bound(0)), Err(PortError::Room));
    assert_eq!(ports.subscriber_of([10, 0, 0, 1], POOL), None);
    assert_eq!((ports.tally.primary, ports.tally.released), (1, 1));
    assert_sound(&ports);
}

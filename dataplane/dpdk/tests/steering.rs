//! Both directions of a session reach the worker that owns the subscriber: with the key and the table that a
//! device of DPDK has taken (`net_null`, read back), and with DPDK's own Toeplitz (`rte_softrss`).

mod eal;

use turnpike_abi::rss::{Facing, KEY_LENGTH, Rss, flow_key_v6};
use turnpike_abi::stats::Steering;
use turnpike_abi::{Address, WorkerId, steering};
use turnpike_dpdk::{Eal, Mempool, Port, PortConfig, PortHandle, RssState, softrss};

const WORKERS: std::ops::RangeInclusive<u8> = 1..=64;
const SESSIONS: usize = 2000;

/// xorshift64*
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| (self.next() >> 56) as u8)
    }

    fn port(&mut self) -> u16 {
        (self.next() >> 48) as u16
    }
}

/// A session of a subscriber with a peer, translated to an external address and port of the subscriber's worker.
struct Session {
    inside: [u8; 4],
    inside_port: u16,
    external: [u8; 4],
    external_port: u16,
    peer: [u8; 4],
    peer_port: u16,
}

impl Session {
    fn random(random: &mut Random, workers: u8) -> Self {
        let inside = random.bytes();
        let owner = steering::owner_of_inside(Address::v4(inside), workers);
        let external_port = loop {
            let port = random.port();
            if steering::owner_of_port(port, workers) == owner {
                break port;
            }
        };
        Self {
            inside,
            inside_port: random.port(),
            external: random.bytes(),
            external_port,
            peer: random.bytes(),
            peer_port: random.port(),
        }
    }
}

fn tuple<const N: usize>(source: [u8; N], destination: [u8; N], ports: [u16; 2]) -> Vec<u8> {
    let [from, to] = ports.map(u16::to_be_bytes);
    [&source[..], &destination, &from, &to].concat()
}

fn started(eal: &Eal, pool: &Mempool, name: &str, facing: Facing, workers: u8) -> PortHandle {
    let config = PortConfig {
        rx_queues: workers.into(),
        tx_queues: workers.into(),
        steering: Some(facing),
        ..PortConfig::default()
    };
    let port = Port::configure(eal, name, &config, pool).expect("a port");
    port.start().expect("it starts").0
}

fn queue(state: &RssState, tuple: &[u8]) -> WorkerId {
    let hash = softrss(&state.key, tuple) as usize;
    WorkerId(state.table[hash % state.table.len()] as u8)
}

#[test]
fn every_unfragmented_return_packet_reaches_the_owner() {
    let eal = eal::start();
    let pool = Mempool::new(&eal, "packets", 2048, 64, 2048).expect("a pool");
    let mut random = Random(0x5eed_0003);
    for workers in WORKERS {
        let inside = started(&eal, &pool, "net_null_in,no-rx=1", Facing::Inside, workers);
        let outside = started(&eal, &pool, "net_null_out,no-rx=1", Facing::Outside, workers);
        let means = if workers == 1 { Steering::ONE_QUEUE } else { Steering::RSS_KEY };
        assert_eq!(inside.negotiated().steering_v4, means, "{workers} workers");
        assert_eq!(outside.negotiated().steering_v4, means, "{workers} workers");
        if workers == 1 {
            continue;
        }
        let (inside, outside) = (inside.rss_state().expect("told"), outside.rss_state().expect("told"));
        let mut seen = vec![0; workers.into()];
        for _ in 0..SESSIONS {
            let session = Session::random(&mut random, workers);
            let owner = steering::owner_of_inside(Address::v4(session.inside), workers);
            let out = tuple(session.inside, session.peer, [session.inside_port, session.peer_port]);
            let back = tuple(session.peer, session.external, [session.peer_port, session.external_port]);
            assert_eq!(queue(&inside, &out), owner, "{workers} workers, out");
            assert_eq!(queue(&outside, &back), owner, "{workers} workers, back");
            // Outbound packets without ports the device can see: ICMP, fragments.
            assert_eq!(queue(&inside, &out[..8]), owner, "{workers} workers, addresses alone");
            seen[owner.index()] += 1;
        }
        assert!(seen.iter().all(|&sessions| sessions > 0), "{workers} workers: one had no session: {seen:?}");
    }
    ipv6_reaches_its_owner_by_a_flow_rule(&mut random);
    the_emulation_is_the_device(&mut random);
}

/// A rule's key, over an input that is the inside address alone: where it is in the whole tuple, or first.
fn ipv6_reaches_its_owner_by_a_flow_rule(random: &mut Random) {
    for workers in WORKERS {
        let order = Rss::new(Facing::Inside, workers, 128).expect("128 entries do");
        for _ in 0..SESSIONS / 4 {
            let address: [u8; 16] = random.bytes();
            let owner = steering::owner_of_inside(Address(address), workers);
            let as_source = tuple(address, [0; 16], [0; 2]);
            let as_destination = tuple([0; 16], address, [0; 2]);
            for (facing, input) in [
                (Facing::Inside, &as_source[..]),
                (Facing::Inside, &address),
                (Facing::Outside, &as_destination),
                (Facing::Outside, &address),
            ] {
                let hash = softrss(&flow_key_v6(facing), input);
                assert_eq!(order.worker_at((hash % 128) as u16), owner, "{workers} workers, {facing:?}");
            }
        }
    }
}

/// `Rss::worker_of` stands for a device in benches and tests that have none.
fn the_emulation_is_the_device(random: &mut Random) {
    let mut queues_of_v6 = [0u32; 64];
    for entries in [64, 128, 512] {
        for facing in [Facing::Inside, Facing::Outside] {
            let rss = Rss::new(facing, 64, entries).expect("a power of two");
            let key: [u8; KEY_LENGTH] = rss.key();
            for _ in 0..SESSIONS {
                let ports = [random.port(), random.port()];
                let (a, b) = (random.bytes(), random.bytes());
                let hash = softrss(&key, &tuple::<4>(a, b, ports)) % u32::from(entries);
                let worker = rss.worker_of(Address::v4(a), Address::v4(b), ports[0], ports[1]);
                assert_eq!(rss.worker_at(hash as u16), worker);
                let owner = match facing {
                    Facing::Inside => steering::owner_of_inside(Address::v4(a), 64),
                    Facing::Outside => steering::owner_of_port(ports[1], 64),
                };
                assert_eq!(worker, owner, "{entries} entries, {facing:?}");

                let (a, b) = (random.bytes(), random.bytes());
                let hash = softrss(&key, &tuple::<16>(a, b, ports)) % u32::from(entries);
                let worker = rss.worker_of(Address(a), Address(b), ports[0], ports[1]);
                assert_eq!(rss.worker_at(hash as u16), worker);
                queues_of_v6[worker.index()] += 1;
            }
        }
    }
    assert!(queues_of_v6.iter().all(|&packets| packets > 0), "IPv6 is spread: {queues_of_v6:?}");
}

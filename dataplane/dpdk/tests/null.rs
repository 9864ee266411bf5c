//! One EAL a process, so one test a binary: `net_null`, which makes packets from nothing and swallows all.

mod eal;

use turnpike_abi::rss::Facing;
use turnpike_abi::stats::Steering;
use turnpike_dpdk::{BURST, Eal, Error, HEADROOM, Mbuf, Mempool, Port, PortConfig};
use turnpike_engine::{Buffer, BufferSource};

#[test]
fn null_ports() {
    let eal = eal::start();
    assert_eq!(Eal::init::<&str>(&[]).err(), Some(Error::AlreadyInitialised));
    assert!(eal.version().starts_with("DPDK "), "{}", eal.version());
    assert!(eal.tsc_hz() > 1_000_000);
    assert!(turnpike_dpdk::rdtsc() < turnpike_dpdk::rdtsc());
    assert!(eal.memory(0).is_some_and(|memory| memory.total >= memory.free && memory.free > 0));

    let pool = Mempool::new(&eal, "packets", 2048, 64, 2048).expect("a pool");
    assert_eq!((pool.size(), pool.available(), pool.in_use()), (2048, 2048, 0));
    a_buffer(&pool);
    a_full_pool(&pool);
    a_device_that_does_not_exist(&eal, &pool);
    limits(&eal, &pool);
    bursts(&eal, &pool);
    threads_and_steering(&eal, &pool);
    assert_eq!(pool.in_use(), 0, "every buffer came home");

    // A packet may outlive the pool's handle and DPDK's.
    let packet = pool.source().take(100).expect("a buffer");
    drop(pool);
    drop(eal);
    assert_eq!(packet.bytes().len(), 0);
}

fn a_buffer(pool: &Mempool) {
    let mut source = pool.source();
    assert!(source.take(pool.room() + 1).is_none(), "larger than a buffer");
    let mut packet = source.take(pool.room()).expect("a buffer");
    assert_eq!((packet.bytes().len(), packet.headroom(), packet.tailroom()), (0, HEADROOM, pool.room()));
    assert!(packet.resize(60));
    packet.bytes_mut().fill(7);
    assert!(packet.prepend(4));
    assert_eq!((packet.bytes().len(), packet.headroom()), (64, HEADROOM - 4));
    assert_eq!(packet.bytes()[4..], [7; 60]);
    assert!(!packet.prepend(HEADROOM), "no headroom for that");
    assert!(!packet.prepend(usize::MAX));
    packet.trim_front(5);
    assert_eq!(packet.bytes(), [7; 59]);
    assert!(!packet.resize(pool.room()), "one byte of room went to the trimmed front");
    assert!(packet.resize(pool.room() - 1));
    packet.trim_front(usize::MAX);
    assert!(packet.bytes().is_empty());
    assert_eq!(pool.in_use(), 1);
    drop(packet);
    assert_eq!(pool.in_use(), 0);
}

fn a_full_pool(pool: &Mempool) {
    let mut source = pool.source();
    let mut all = Vec::new();
    while let Some(packet) = source.take(0) {
        all.push(packet);
    }
    assert_eq!((all.len(), pool.available()), (2048, 0));
    Mbuf::free_bulk(&mut all);
    assert!(all.is_empty());
    assert_eq!(pool.available(), 2048);
    Mbuf::free_bulk(&mut all);
    assert_eq!(pool.available(), 2048, "nothing is freed twice");
}

fn a_device_that_does_not_exist(eal: &Eal, pool: &Mempool) {
    let error =
        Port::configure(eal, "net_nothing0", &PortConfig::default(), pool).expect_err("no such driver");
    assert!(error.to_string().contains("net_nothing0"), "{error}");
    let error = Port::configure(eal, "a\0b", &PortConfig::default(), pool).expect_err("a zero byte");
    assert!(matches!(error, Error::ZeroByte(_)));
}

fn limits(eal: &Eal, pool: &Mempool) {
    let refused = |config: PortConfig, word: &str| {
        let error = Port::configure(eal, "net_null_limits", &config, pool).expect_err(word);
        assert!(error.to_string().contains(word), "{error}");
    };
    refused(PortConfig { rx_queues: 0, ..PortConfig::default() }, "RX queues");
    refused(PortConfig { tx_queues: u16::MAX, ..PortConfig::default() }, "TX queues");
    refused(PortConfig { mtu: 9000, ..PortConfig::default() }, "do not fit");
    refused(PortConfig { mtu: 10, ..PortConfig::default() }, "MTU 10");
}

fn bursts(eal: &Eal, pool: &Mempool) {
    let config = PortConfig { rx_queues: 1, tx_queues: 1, ..PortConfig::default() };
    let port = Port::configure(eal, "net_null0,size=100", &config, pool).expect("a port");
    let twice = Port::configure(eal, "net_null0", &config, pool).expect_err("it has an owner");
    assert!(twice.to_string().contains("in use"), "{twice}");
    let (mut handle, mut rx, mut tx) = port.start().expect("it starts");
    assert_eq!((handle.driver(), handle.device()), ("net_null", "net_null0,size=100"));
    assert!(handle.link().up);
    assert_eq!(handle.mtu(), 1500);
    assert_ne!(handle.mac(), [0; 6]);
    handle.set_promiscuous().expect("promiscuous");
    handle.set_all_multicast().expect("all multicast");

    let mut packets = Vec::with_capacity(100);
    assert_eq!(rx[0].burst(&mut packets), BURST);
    assert_eq!(rx[0].burst(&mut packets), 100 - BURST, "no more than there is room for");
    assert_eq!(rx[0].burst(&mut packets), 0);
    assert_eq!((packets.len(), packets.capacity()), (100, 100));
    assert!(packets.iter().all(|packet| packet.bytes().len() == 100));
    let mut sent = 0;
    while !packets.is_empty() {
        sent += tx[0].burst(&mut packets);
    }
    assert_eq!((sent, tx[0].burst(&mut packets)), (100, 0));
    let stats = handle.stats();
    assert_eq!((stats.rx_packets, stats.tx_packets, stats.rx_errors), (100, 100, 0));

    // The port lives until its last queue is gone.
    drop(handle);
    assert_eq!(rx[0].burst(&mut packets), BURST);
    drop(packets);
    drop((rx, tx));
    assert_eq!(pool.in_use(), 0);
    Port::configure(eal, "net_null0,size=64", &config, pool).expect("the name is free again");
}

fn threads_and_steering(eal: &Eal, pool: &Mempool) {
    let config =
        PortConfig { rx_queues: 2, tx_queues: 2, steering: Some(Facing::Outside), ..PortConfig::default() };
    let port = Port::configure(eal, "net_null1", &config, pool).expect("two queues");
    let (handle, rx, tx) = port.start().expect("it starts");
    let agreed = handle.negotiated();
    assert_eq!((agreed.rss, agreed.steering_v4), (true, Steering::RSS_KEY), "{agreed:?}");
    assert_eq!(agreed.steering_v6, Steering::SOFTWARE, "it has no flow rules");
    assert_eq!(agreed.queues, (2, 2));
    std::thread::scope(|scope| {
        for (mut rx, mut tx) in rx.into_iter().zip(tx) {
            scope.spawn(move || {
                let _registration = eal.register_thread().expect("an lcore id");
                let mut packets = Vec::with_capacity(BURST);
                for _ in 0..1000 {
                    rx.burst(&mut packets);
                    tx.burst(&mut packets);
                    Mbuf::free_bulk(&mut packets);
                }
            });
        }
    });
    assert_eq!(handle.stats().rx_packets, 2 * 1000 * BURST as u64);
}

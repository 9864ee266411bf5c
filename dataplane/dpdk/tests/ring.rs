//! `net_ring` brings back what was sent, and takes only so much: order, content, what the device left.

mod eal;

use turnpike_dpdk::{BURST, Mempool, Port, PortConfig};
use turnpike_engine::{Buffer, BufferSource};

#[test]
fn a_ring_brings_back_what_was_sent() {
    let eal = eal::start();
    let pool = Mempool::new(&eal, "packets", 4095, 64, 2048).expect("a pool");
    let port = Port::configure(&eal, "net_ring0", &PortConfig::default(), &pool).expect("a ring port");
    let (handle, mut rx, mut tx) = port.start().expect("it starts");
    assert_eq!(handle.driver(), "net_ring");

    let mut source = pool.source();
    let mut packets = Vec::with_capacity(3000);
    for number in 0u32..3000 {
        let mut packet = source.take(64).expect("a buffer");
        assert!(packet.resize(64));
        packet.bytes_mut()[..4].copy_from_slice(&number.to_be_bytes());
        packets.push(packet);
    }
    let number = |bytes: &[u8]| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);

    // The ring has 1023 places.
    let took = tx[0].burst(&mut packets);
    assert_eq!((took, packets.len()), (1023, 3000 - 1023));
    assert_eq!(
        packets.first().map(|packet| number(packet.bytes())),
        Some(1023),
        "the rest moved to the front"
    );
    assert_eq!(tx[0].burst(&mut packets), 0, "full");
    assert_eq!(packets.len(), 3000 - 1023);
    assert_eq!(pool.in_use(), 3000);

    let mut back = Vec::with_capacity(BURST);
    let mut expected = 0;
    while expected < 3000 {
        assert!(rx[0].burst(&mut back) > 0);
        for packet in back.drain(..) {
            assert_eq!((number(packet.bytes()), packet.bytes().len()), (expected, 64));
            expected += 1;
        }
        tx[0].burst(&mut packets);
    }
    assert_eq!(rx[0].burst(&mut back), 0);
    assert!(packets.is_empty());
    assert_eq!(pool.in_use(), 0);

    drop((handle, rx, tx));
    assert_eq!(pool.in_use(), 0, "closing frees nothing twice");
}

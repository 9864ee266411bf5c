//! Translation of IPv4 flows: RFC 4787, 5382, 5508, 3022. Tests carry the ids of their requirement rows.

use turnpike_abi::WorkerId;
use turnpike_abi::counters::{Counter, DropReason, ProtocolClass};
use turnpike_sim::packets::{Build, Seen, see};
use turnpike_sim::tables::address;
use turnpike_sim::{Appliance, Steering};
use turnpike_wire::packet::{TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN};

const HOST: &str = "10.0.0.9";
const OTHER_HOST: &str = "10.0.0.10";
const SERVER: &str = "198.51.100.7";
const OTHER_SERVER: &str = "198.51.100.8";
const ROUTER: [u8; 6] = [0x02, 0xee, 0, 0, 0, 1];
const HOST_MAC: [u8; 6] = [0x02, 0xff, 0, 0, 0, 1];

/// A box whose neighbours are known.
fn appliance(workers: u8) -> Appliance {
    let mut appliance = Appliance::new(workers);
    appliance.neighbour(1, address("192.0.2.254"), ROUTER);
    appliance.neighbour(0, address(HOST), HOST_MAC);
    appliance.neighbour(0, address(OTHER_HOST), [0x02, 0xff, 0, 0, 0, 2]);
    appliance
}

fn out(appliance: &mut Appliance, packet: &Build) -> Seen {
    appliance.receive(0, &[&packet.frame(0)]);
    let sent = appliance.sent().unwrap_or_else(|| panic!("nothing left: {:?}", drops(appliance)));
    assert_eq!(sent.port.0, 1);
    see(&sent.bytes)
}

fn back(appliance: &mut Appliance, packet: &Build) -> Option<Seen> {
    appliance.receive(1, &[&packet.frame(1)]);
    let sent = appliance.sent()?;
    assert_eq!(sent.port.0, 0);
    Some(see(&sent.bytes))
}

fn drops(appliance: &Appliance) -> Vec<&'static str> {
    let counters = appliance.counters();
    DropReason::ALL.iter().filter(|&&reason| counters.drops(reason) > 0).map(|reason| reason.name()).collect()
}

fn text(end: (std::net::IpAddr, u16)) -> (String, u16) {
    (end.0.to_string(), end.1)
}

#[test]
fn udp_1_the_mapping_does_not_depend_on_the_destination() {
    for workers in [1, 3] {
        let mut appliance = appliance(workers);
        let first = out(&mut appliance, &Build::udp((HOST, 5000), (SERVER, 53), b"a"));
        let second = out(&mut appliance, &Build::udp((HOST, 5000), (OTHER_SERVER, 99), b"b"));
        assert_eq!(first.source(), second.source());
        assert_eq!(first.to, ROUTER);
        assert_eq!(first.packet.ttl, 63);
        assert_eq!(appliance.counters().bindings(ProtocolClass::Udp).0, 1);
        assert_eq!(appliance.counters().get(Counter::EimHits), 1);
    }
}

#[test]
fn nat_1_replies_reach_the_inside_host_with_right_checksums() {
    for workers in [1, 2, 4] {
        let mut appliance = appliance(workers);
        let left = out(&mut appliance, &Build::udp((HOST, 5000), (SERVER, 53), b"question"));
        let (external, port) = text(left.source());
        let seen = back(&mut appliance, &Build::udp((SERVER, 53), (&external, port), b"answer")).unwrap();
        assert_eq!(text(seen.destination()), (HOST.to_owned(), 5000));
        assert_eq!(text(seen.source()), (SERVER.to_owned(), 53));
        assert_eq!(seen.payload(), b"answer");
        assert_eq!(seen.to, HOST_MAC);
    }
}

#[test]
fn nat_1_a_udp_checksum_of_zero_stays_zero() {
    let mut appliance = appliance(1);
    let mut packet = Build::udp((HOST, 5000), (SERVER, 53), b"none");
    packet.checksum_at = None;
    let seen = out(&mut appliance, &packet);
    assert_eq!(seen.frame[seen.packet.l4 + 6..seen.packet.l4 + 8], [0, 0]);
}

#[test]
fn nat_2_echo_identifiers_are_translated_and_replies_come_back() {
    let mut appliance = appliance(2);
    let left = out(&mut appliance, &Build::echo(HOST, SERVER, 77, false, &[1; 56]));
    let (external, identifier) = text(left.source());
    let seen = back(&mut appliance, &Build::echo(SERVER, &external, identifier, true, &[1; 56])).unwrap();
    assert_eq!(text(seen.destination()), (HOST.to_owned(), 77));
    // A reply that nobody asked for does not pass, nor does a request from outside.
    assert!(back(&mut appliance, &Build::echo(OTHER_SERVER, &external, identifier, true, b"")).is_none());
    assert!(back(&mut appliance, &Build::echo(SERVER, &external, identifier, false, b"")).is_none());
    assert_eq!(appliance.drops(DropReason::IcmpReplyUnasked), 1);
    assert_eq!(appliance.drops(DropReason::NoMapping), 1);
}

#[test]
fn udp_8_anybody_reaches_a_mapped_port() {
    let mut appliance = appliance(2);
    let left = out(&mut appliance, &Build::udp((HOST, 5000), (SERVER, 53), b"a"));
    let (external, port) = text(left.source());
    let seen = back(&mut appliance, &Build::udp((OTHER_SERVER, 9), (&external, port), b"hello")).unwrap();
    assert_eq!(text(seen.destination()), (HOST.to_owned(), 5000));
    assert_eq!(appliance.counters().get(Counter::EifHits), 1);
    assert!(back(&mut appliance, &Build::udp((SERVER, 53), (&external, port ^ 1), b"")).is_none());
    assert_eq!(appliance.drops(DropReason::NoMapping), 1);
}

#[test]
fn udp_9a_hairpinned_packets_come_from_the_external_address() {
    for workers in [1, 2, 5] {
        let mut appliance = appliance(workers);
        let a = text(out(&mut appliance, &Build::udp((HOST, 5000), (SERVER, 53), b"a")).source());
        let b = text(out(&mut appliance, &Build::udp((OTHER_HOST, 6000), (SERVER, 53), b"b")).source());
        appliance.receive(0, &[&Build::udp((HOST, 5000), (&b.0, b.1), b"over").frame(0)]);
        let sent = appliance.sent().unwrap_or_else(|| panic!("{:?}", drops(&appliance)));
        assert_eq!(sent.port.0, 0);
        let seen = see(&sent.bytes);
        assert_eq!(text(seen.source()), a);
        assert_eq!(text(seen.destination()), (OTHER_HOST.to_owned(), 6000));
        assert_eq!(seen.packet.ttl, 63);
        appliance.receive(0, &[&Build::udp((OTHER_HOST, 6000), (&a.0, a.1), b"and back").frame(0)]);
        let seen = see(&appliance.sent().expect("the answer").bytes);
        assert_eq!(text(seen.source()), b);
        assert_eq!(text(seen.destination()), (HOST.to_owned(), 5000));
    }
}

#[test]
fn tcp_2_a_connection_opens_closes_and_ends() {
    let mut appliance = appliance(2);
    let left = out(&mut appliance, &Build::tcp((HOST, 40000), (SERVER, 80), TCP_SYN, b""));
    let (external, port) = text(left.source());
    let answer = |flags| Build::tcp((SERVER, 80), (&external, port), flags, b"");
    assert!(back(&mut appliance, &answer(TCP_SYN | TCP_ACK)).is_some());
    out(&mut appliance, &Build::tcp((HOST, 40000), (SERVER, 80), TCP_ACK, b"GET"));
    assert!(back(&mut appliance, &answer(TCP_ACK | TCP_FIN)).is_some());
    out(&mut appliance, &Build::tcp((HOST, 40000), (SERVER, 80), TCP_FIN | TCP_ACK, b""));
    assert!(back(&mut appliance, &answer(TCP_ACK)).is_some());
    assert_eq!(appliance.counters().flows(ProtocolClass::Tcp).0, 1);
    appliance.advance(239_000, 1000);
    assert_eq!(appliance.counters().flows(ProtocolClass::Tcp).0, 1);
    appliance.advance(20_000, 1000);
    assert_eq!(appliance.counters().flows(ProtocolClass::Tcp).0, 0);
    assert_eq!(appliance.counters().bindings(ProtocolClass::Tcp).0, 0);
}

#[test]
fn tcp_4_unsolicited_segments_get_no_answer() {
    let mut appliance = appliance(1);
    for flags in [TCP_SYN, TCP_ACK, TCP_RST] {
        appliance.receive(1, &[&Build::tcp((SERVER, 80), ("203.0.113.3", 5000), flags, b"").frame(1)]);
    }
    assert!(appliance.sent().is_none());
    assert_eq!(appliance.drops(DropReason::NoMapping), 3);
    appliance.receive(0, &[&Build::tcp((HOST, 1), (SERVER, 80), TCP_ACK, b"").frame(0)]);
    assert_eq!(appliance.drops(DropReason::SynRequired), 1);
}

#[test]
fn udp_5_an_idle_mapping_lives_its_time_and_no_longer() {
    let mut appliance = appliance(1);
    out(&mut appliance, &Build::udp((HOST, 5000), (SERVER, 53), b"a"));
    appliance.advance(299_000, 500);
    assert_eq!(appliance.counters().bindings(ProtocolClass::Udp).0, 1);
    appliance.advance(2_000, 500);
    assert_eq!(appliance.counters().bindings(ProtocolClass::Udp).0, 0);
}

#[test]
fn icmp_4_an_error_from_outside_reaches_the_host_it_is_about() {
    for workers in [1, 3] {
        for quoted in [28, 200] {
            let mut appliance = appliance(workers);
            let left = out(&mut appliance, &Build::udp((HOST, 5000), (SERVER, 53), &[9; 300]));
            let external = text(left.source()).0;
            let about = &left.ip()[..quoted];
            let error = Build::icmp_error("192.0.2.254", &external, 11, 0, 0, about);
            let seen = back(&mut appliance, &error).unwrap_or_else(|| panic!("{:?}", drops(&appliance)));
            assert_eq!(seen.icmp(), (11, 0));
            assert_eq!(text(seen.destination()).0, HOST);
            assert_eq!(text(seen.source()).0, "192.0.2.254");
            // The embedded packet is the one the host sent, but for TTL and header checksum.
            let original = Build::udp((HOST, 5000), (SERVER, 53), &[9; 300]).ttl(63).ip();
            assert_eq!(seen.payload(), &original[..quoted]);
        }
    }
}

#[test]
fn icmp_ttl_an_expired_packet_is_answered_by_the_box() {
    let mut appliance = appliance(2);
    appliance.receive(0, &[&Build::udp((HOST, 5000), (SERVER, 33434), b"probe").ttl(1).frame(0)]);
    let sent = appliance.sent().expect("Time Exceeded");
    assert_eq!(sent.port.0, 0);
    let seen = see(&sent.bytes);
    assert_eq!(seen.icmp(), (11, 0));
    assert_eq!(text(seen.source()).0, "10.0.0.1");
    assert_eq!(text(seen.destination()).0, HOST);
    assert_eq!(seen.to, HOST_MAC);
    assert_eq!(appliance.drops(DropReason::TtlExpired), 1);
    // No flow, no binding for it.
    assert_eq!(appliance.counters().bindings(ProtocolClass::Udp).1, 0);
}

#[test]
fn packets_wait_for_their_next_hop_and_not_longer() {
    let mut appliance = Appliance::new(1);
    appliance.steer(Steering::Fixed(WorkerId(0)));
    appliance.receive(0, &[&Build::udp((HOST, 1), (SERVER, 2), b"x").frame(0)]);
    assert!(appliance.sent().is_none());
    assert_eq!(appliance.counters().get(Counter::Held), 1);
    appliance.neighbour(1, address("192.0.2.254"), ROUTER);
    assert_eq!(see(&appliance.sent().expect("released").bytes).to, ROUTER);
    appliance.receive(1, &[&Build::udp((SERVER, 2), ("203.0.113.1", 2), b"x").frame(1)]);
    let mut appliance = Appliance::new(1);
    for _ in 0..20 {
        appliance.receive(0, &[&Build::udp((HOST, 1), (SERVER, 2), b"x").frame(0)]);
    }
    appliance.advance(3100, 100);
    assert_eq!(appliance.drops(DropReason::NeighbourUnresolved), 8);
    assert_eq!(appliance.drops(DropReason::NeighbourQueueFull), 12);
    assert_eq!(appliance.live_frames(), 0);
}

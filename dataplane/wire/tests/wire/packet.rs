//! Sound packets: what the parse says about them.

use super::build::*;
use turnpike_wire::packet::{
    self, Family, Fragment, Packet, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, Transport, mapped, unmapped,
};

pub fn parse(frame: &[u8]) -> Packet {
    let family = if frame[12..14] == [8, 0] { Family::V4 } else { Family::V6 };
    packet::parse(frame, L3, family).unwrap()
}

#[test]
fn ipv4_udp_with_ethernet_padding() {
    let mut frame = v4(17, &udp(b"data"));
    let end = frame.len();
    frame.resize(60, 0xee);
    let expected = Packet {
        family: Family::V4,
        l3: 14,
        l4: 34,
        end,
        source: mapped(SOURCE),
        destination: mapped(DESTINATION),
        protocol: 17,
        ttl: 64,
        traffic_class: 0xb8,
        identification: 0x1234,
        dont_fragment: false,
        has_options: false,
        fragment: Fragment::Whole,
        transport: Transport::Udp { source_port: 40000, destination_port: 53, checksum_zero: false },
    };
    assert_eq!(parse(&frame), expected);
    assert_eq!(unmapped(expected.source), Some(SOURCE));
    assert_eq!(unmapped(SOURCE_V6), None);
}

#[test]
fn ipv6_tcp_behind_extensions() {
    let chain = [options_header(0), options_header(60), routing_header(0, 0), fragment_header(0, false)];
    let frame = v6_chain(&chain, 6, &tcp(&[], TCP_SYN, b""));
    let packet = parse(&frame);
    assert_eq!((packet.l4, packet.end), (L3 + 40 + 8 + 8 + 24 + 8, frame.len()));
    assert_eq!((packet.source, packet.destination), (SOURCE_V6, DESTINATION_V6));
    assert_eq!((packet.traffic_class, packet.ttl, packet.protocol), (0xb8, 64, 6));
    // RFC 6946: an atomic fragment is a whole packet.
    assert_eq!((packet.fragment, packet.identification), (Fragment::Whole, 0xcafe_f00d));
    assert!(packet.has_options && packet.dont_fragment);
    let flags = TCP_SYN;
    assert_eq!(packet.transport, Transport::Tcp { source_port: 40000, destination_port: 80, flags });
    assert!(!parse(&v6_chain(&[fragment_header(0, false)], 17, &udp(b""))).has_options);
}

#[test]
fn ipv4_options_are_passed_over() {
    // Router Alert, then the end of the list: what stands behind it is padding, not an option.
    let packet = parse(&v4_options(&[148, 4, 0, 0, 0, 131, 3, 4], 17, &udp(b"")));
    assert!(packet.has_options);
    assert_eq!(packet.l4, L3 + 28);
    assert!(matches!(packet.transport, Transport::Udp { source_port: 40000, .. }));
}

#[test]
fn sound_flag_combinations_pass() {
    for flags in [TCP_SYN, TCP_SYN | TCP_ACK, TCP_ACK, TCP_RST, TCP_RST | TCP_ACK, TCP_FIN | TCP_ACK, 0xc2] {
        let packet = parse(&v4(6, &tcp(&[1; 8], flags, b"data")));
        assert_eq!(packet.transport, Transport::Tcp { source_port: 40000, destination_port: 80, flags });
    }
}

#[test]
fn fragments() {
    let first = parse(&v4_fragment(0, true, 17, &udp(&[0; 64])[..24]));
    assert_eq!(first.fragment, Fragment::First { data: first.l4 });
    assert!(matches!(first.transport, Transport::Udp { destination_port: 53, .. }));

    let later = parse(&v4_fragment(24, true, 17, &[0; 8]));
    assert_eq!(
        (later.fragment, later.transport),
        (Fragment::Later { offset: 24, more: true }, Transport::None)
    );
    // Offset 8 is an attack on TCP only (RFC 3128).
    assert_eq!(
        parse(&v4_fragment(8, false, 17, &[0; 3])).fragment,
        Fragment::Later { offset: 8, more: false }
    );
    // As far as a datagram goes: 20 + 65504 + 11 = 65535.
    parse(&v4_fragment(65504, false, 17, &[0; 11]));

    let chain = [options_header(0), fragment_header(0, true), options_header(60)];
    let first = parse(&v6_chain(&chain, 17, &udp(&[0; 64])[..24]));
    assert_eq!(first.fragment, Fragment::First { data: L3 + 40 + 16 });
    assert_eq!(first.l4, L3 + 40 + 24);
    // What follows the header of a later fragment is data, whatever it calls itself.
    let later = parse(&v6_chain(&[fragment_header(1024, false)], 60, &[0xff; 5]));
    assert_eq!(later.fragment, Fragment::Later { offset: 1024, more: false });
    assert_eq!((later.protocol, later.l4), (60, L3 + 48));
}

#[test]
fn udp_checksum_zero_is_told() {
    let mut frame = v4(17, &udp(b"data"));
    frame[L3 + 26..L3 + 28].fill(0);
    assert!(matches!(parse(&frame).transport, Transport::Udp { checksum_zero: true, .. }));
}

#[test]
fn icmp_kinds() {
    let v4_transport = |kind| parse(&v4(1, &icmp4(kind, 0, [0xab, 0xcd, 0, 1], b"data"))).transport;
    let v6_transport = |kind| parse(&v6(58, &icmp6(kind, 0, [0xab, 0xcd, 0, 1], b"data"))).transport;
    let query = |kind, reply| Transport::IcmpQuery { identifier: 0xabcd, kind, code: 0, reply };
    for kind in 0..=u8::MAX {
        let expected = match kind {
            8 | 13 => query(kind, false),
            0 | 14 => query(kind, true),
            3 | 11 | 12 => Transport::IcmpError { kind, code: 0, inner: L3 + 28 },
            // Source Quench and Redirect among them (ICMP-10c).
            _ => Transport::IcmpOther { kind, code: 0 },
        };
        assert_eq!(v4_transport(kind), expected);
        let expected = match kind {
            128 => query(kind, false),
            129 => query(kind, true),
            1..=4 => Transport::IcmpError { kind, code: 0, inner: L3 + 48 },
            _ => Transport::IcmpOther { kind, code: 0 },
        };
        assert_eq!(v6_transport(kind), expected);
    }
    // ICMP of the other family is just another protocol, and so is AH.
    assert_eq!(parse(&v4(58, b"x")).transport, Transport::Other);
    assert_eq!(parse(&v6(1, b"x")).transport, Transport::Other);
    assert_eq!(parse(&v6(51, b"x")).transport, Transport::Other);
}

#[test]
fn icmp_3_only_errors_are_verified() {
    let mut query = icmp4(8, 0, [0; 4], b"data");
    query[2] ^= 0xff;
    assert!(matches!(parse(&v4(1, &query)).transport, Transport::IcmpQuery { .. }));
    // With segments left the destination is not the one the checksum covers.
    let mut error = icmp6(1, 4, [0; 4], &packet_v6(17, &udp(b"")));
    error[2] ^= 0xff;
    let frame = v6_chain(&[routing_header(2, 1)], 58, &error);
    assert!(matches!(parse(&frame).transport, Transport::IcmpError { .. }));
}

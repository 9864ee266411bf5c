//! Rewrites in place: every checksum is right afterwards, and nothing else has changed.

use super::build::*;
use super::packet::parse;
use proptest::prelude::*;
use turnpike_wire::checksum::{Delta, ones_complement, transport};
use turnpike_wire::packet::{Family, Packet, TCP_ACK, TCP_SYN, mapped};
use turnpike_wire::rewrite::*;

fn transport_check(frame: &[u8], packet: &Packet) -> u16 {
    transport(&packet.source, &packet.destination, packet.protocol, &frame[packet.l4..packet.end])
}

/// Translates source address and port as a NAPT does.
fn translate(frame: &mut [u8], address: [u8; 4], port: u16) {
    let packet = parse(frame);
    let old_port = u16::from_be_bytes([frame[packet.l4], frame[packet.l4 + 1]]);
    let old: [u8; 4] = frame[L3 + 12..L3 + 16].try_into().unwrap();
    let delta = Delta::bytes(&old, &address).and(Delta::word(old_port, port));
    set_ipv4_source(frame, L3, address);
    set_port(frame, packet.l4, port);
    match packet.protocol {
        17 => adjust_udp(frame, packet.l4 + UDP_CHECKSUM, delta),
        _ => adjust(frame, packet.l4 + TCP_CHECKSUM, delta),
    }
}

fn syn(options: &[u8]) -> Vec<u8> {
    v4(6, &tcp(options, TCP_SYN, b""))
}

#[test]
fn addresses_of_the_frame() {
    let mut frame = v4(17, &udp(b""));
    let before = frame.clone();
    set_mac(&mut frame, [1; 6], [2; 6]);
    assert_eq!(frame[..12], [[1; 6], [2; 6]].concat());
    assert_eq!(frame[12..], before[12..]);

    let mut frame = v6(17, &udp(b""));
    set_ipv6_source(&mut frame, L3, DESTINATION_V6);
    set_ipv6_destination(&mut frame, L3, SOURCE_V6);
    assert_eq!((parse(&frame).source, parse(&frame).destination), (DESTINATION_V6, SOURCE_V6));
}

#[test]
fn hop_limits_go_down_to_zero() {
    for mut frame in [v4(17, &udp(b"")), v6(17, &udp(b""))] {
        let family = parse(&frame).family;
        for left in (0..64).rev().chain([0]) {
            decrement_ttl(&mut frame, L3, family);
            assert_eq!(parse(&frame).ttl, left);
        }
    }
}

#[test]
fn offsets_past_the_frame_change_nothing() {
    let before = v4(17, &udp(b""));
    for at in [before.len() - 1, before.len(), usize::MAX] {
        let mut frame = before.clone();
        set_ipv4_source(&mut frame, at, [0; 4]);
        set_ipv4_destination(&mut frame, at, [0; 4]);
        set_ipv6_source(&mut frame, at, [0; 16]);
        set_ipv6_destination(&mut frame, at, [0; 16]);
        set_port(&mut frame, at, 0);
        adjust(&mut frame, at, Delta::word(0, 1));
        adjust_udp(&mut frame, at, Delta::word(0, 1));
        decrement_ttl(&mut frame, at, Family::V4);
        decrement_ttl(&mut frame, at, Family::V6);
        assert_eq!(frame, before);
    }
    set_mac(&mut [0; 11], [1; 6], [2; 6]);
}

#[test]
fn mss_1_lowered_at_even_and_odd_offset() {
    for options in [&[2, 4, 0x05, 0xb4][..], &[1, 2, 4, 0x05, 0xb4, 1, 1, 0], &[3, 3, 7, 2, 4, 0x05, 0xb4, 0]]
    {
        for flags in [TCP_SYN, TCP_SYN | TCP_ACK] {
            let mut frame = v4(6, &tcp(options, flags, b"data"));
            let packet = parse(&frame);
            assert!(clamp_mss(&mut frame, &packet, 1220));
            let at = options.windows(2).position(|pair| pair == [5, 0xb4]).unwrap();
            assert_eq!(frame[packet.l4 + 20 + at..][..2], 1220u16.to_be_bytes());
            assert_eq!(transport_check(&frame, &packet), 0, "{options:?}");
            assert!(!clamp_mss(&mut frame, &packet, 1220), "done already");
        }
    }
}

#[test]
fn mss_1_never_raised_never_inserted() {
    let unchanged = [
        ("smaller already", syn(&[2, 4, 0x04, 0x00])),
        ("no option", syn(&[1, 1, 1, 0])),
        ("no options at all", syn(&[])),
        ("not a SYN", v4(6, &tcp(&[2, 4, 0x05, 0xb4], TCP_ACK, b""))),
        ("behind the end of the list", syn(&[0, 0, 0, 0, 2, 4, 0x05, 0xb4])),
        ("behind a malformed option", syn(&[3, 0, 0, 0, 2, 4, 0x05, 0xb4])),
        ("length not 4", syn(&[2, 3, 0x05, 0xb4])),
        ("cut by the end of the header", syn(&[1, 1, 2, 4])),
        ("in the data", v4(6, &tcp(&[], TCP_SYN, &[2, 4, 0x05, 0xb4]))),
        ("UDP", v4(17, &udp(&[0; 20]))),
        ("later fragment", v4_fragment(64, false, 6, &tcp(&[2, 4, 0x05, 0xb4], TCP_SYN, b""))),
    ];
    for (what, before) in unchanged {
        let mut frame = before.clone();
        assert!(!clamp_mss(&mut frame, &parse(&before), 1220), "{what}");
        assert_eq!(frame, before, "{what}");
    }
}

proptest! {
    #[test]
    fn nat_1_checksums_right_after_translation(
        data in prop::collection::vec(any::<u8>(), 0..64),
        address in any::<[u8; 4]>(),
        port in any::<u16>(),
        with_udp in any::<bool>(),
    ) {
        let mut frame = if with_udp { v4(17, &udp(&data)) } else { v4(6, &tcp(&[], TCP_ACK, &data)) };
        let before = frame.clone();
        translate(&mut frame, address, port);
        set_ipv4_destination(&mut frame, L3, [192, 0, 2, 1]);
        set_ipv4_destination(&mut frame, L3, DESTINATION);
        // The parse verifies the header checksum.
        let packet = parse(&frame);
        prop_assert_eq!(packet.source, mapped(address));
        prop_assert_eq!(transport_check(&frame, &packet), 0);
        prop_assert_eq!(ones_complement(&frame[L3..L3 + 20]), 0);
        // And back: the very same bytes.
        translate(&mut frame, SOURCE, 40000);
        prop_assert_eq!(frame, before);
    }

    #[test]
    fn nat_1_udp_checksum_zero_stays(address in any::<[u8; 4]>(), port in any::<u16>()) {
        let mut datagram = udp(b"data");
        datagram[6..8].fill(0);
        let mut frame = v4(17, &datagram);
        translate(&mut frame, address, port);
        prop_assert_eq!(&frame[L3 + 26..L3 + 28], &[0, 0]);
    }
}

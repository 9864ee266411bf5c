//! Packets embedded in ICMP errors, and the errors that the box writes, verified by etherparse.

use etherparse::{
    Icmpv4Slice, Icmpv4Type, Icmpv6Slice, NetSlice, PacketBuilder, SlicedPacket, TransportSlice,
};
use proptest::prelude::*;
use turnpike_wire::inner::{Inner, InnerTransport, parse};
use turnpike_wire::packet::mapped;
use turnpike_wire::{Family, Malformed, checksum, icmp_error};

const A: [u8; 4] = [10, 0, 0, 9];
const B: [u8; 4] = [198, 51, 100, 7];
const A6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
const B6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
/// Bytes before the embedded packet.
const BEFORE: usize = 42;

fn udp4() -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ipv4(A, B, 64).udp(5000, 53).write(&mut packet, &[7; 32]).expect("a packet");
    packet
}

fn tcp4() -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ipv4(A, B, 64).tcp(5000, 80, 1, 100).syn().write(&mut packet, &[]).expect("a packet");
    packet
}

/// An IPv6 packet with `extensions` between header and UDP; `next` names the first of them.
fn udp6(next: u8, extensions: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ipv6(A6, B6, 64).udp(5000, 53).write(&mut packet, &[7; 32]).expect("a packet");
    let length = (packet.len() - 40 + extensions.len()) as u16;
    packet[4..6].copy_from_slice(&length.to_be_bytes());
    packet[6] = next;
    packet.splice(40..40, extensions.iter().copied());
    packet
}

fn embedded(packet: &[u8], family: Family) -> Result<Inner, Malformed> {
    let frame = [&[0xee; BEFORE][..], packet].concat();
    parse(&frame, BEFORE, frame.len(), family)
}

fn with_options(mut packet: Vec<u8>, options: &[u8]) -> Vec<u8> {
    packet.splice(20..20, options.iter().copied());
    packet[0] = 0x45 + (options.len() / 4) as u8;
    let length = packet.len() as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet[10..12].fill(0);
    let check = checksum::ones_complement(&packet[..20 + options.len()]);
    packet[10..12].copy_from_slice(&check.to_be_bytes());
    packet
}

/// RFC 792: eight bytes are enough to find the ports; TCP's checksum is not among them.
#[test]
fn icmp_4_eight_bytes_of_transport_are_enough() {
    let inner = embedded(&udp4()[..28], Family::V4).unwrap();
    assert_eq!((inner.source, inner.destination, inner.protocol), (mapped(A), mapped(B), 17));
    assert_eq!((inner.l3, inner.l4, inner.end), (BEFORE, BEFORE + 20, BEFORE + 28));
    assert_eq!(inner.ip_checksum_at, Some(BEFORE + 10));
    let udp = InnerTransport::Ports {
        source_port: 5000,
        destination_port: 53,
        checksum_at: Some(BEFORE + 26),
        udp: true,
    };
    assert_eq!(inner.kind, udp);

    let inner = embedded(&tcp4()[..28], Family::V4).unwrap();
    let tcp = |checksum_at| InnerTransport::Ports {
        source_port: 5000,
        destination_port: 80,
        checksum_at,
        udp: false,
    };
    assert_eq!(inner.kind, tcp(None));
    assert_eq!(embedded(&tcp4()[..37], Family::V4).unwrap().kind, tcp(None));
    assert_eq!(embedded(&tcp4()[..38], Family::V4).unwrap().kind, tcp(Some(BEFORE + 36)));
}

#[test]
fn icmp_3b_ports_stand_behind_the_options() {
    let packet = with_options(udp4(), &[7, 7, 4, 0, 0, 0, 0, 0]);
    let inner = embedded(&packet[..36], Family::V4).unwrap();
    assert_eq!(inner.l4, BEFORE + 28);
    assert!(matches!(inner.kind, InnerTransport::Ports { source_port: 5000, destination_port: 53, .. }));
    // The same eight bytes do not reach the ports.
    assert_eq!(embedded(&packet[..28], Family::V4), Err(Malformed::IcmpInnerTruncated));
}

#[test]
fn icmp_3c_the_embedded_transport_checksum_is_not_looked_at() {
    let mut packet = udp4();
    packet[26] ^= 0xff;
    assert!(embedded(&packet, Family::V4).is_ok());
    packet[10] ^= 0xff;
    assert_eq!(embedded(&packet, Family::V4), Err(Malformed::IcmpInnerBadChecksum));
}

/// RFC 4884: what lies behind the packet's own length is padding and extensions.
#[test]
fn icmp_3d_extensions_are_not_part_of_the_packet() {
    let packet = udp4();
    let length = packet.len();
    let padded = [&packet[..], &[0; 68], &[0x20, 0, 0, 0, 0, 8, 1, 1, 0, 0, 0x10, 0]].concat();
    assert_eq!(embedded(&padded, Family::V4).unwrap().end, BEFORE + length);
}

#[test]
fn ipv6_extension_headers_are_walked() {
    let hop_by_hop = [60, 0, 1, 4, 0, 0, 0, 0];
    let destination_options = [44, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let first_fragment = [17, 0, 0, 1, 0, 0, 0, 5];
    let packet = udp6(0, &[&hop_by_hop[..], &destination_options, &first_fragment].concat());
    for end in [40 + 32 + 8, packet.len()] {
        let inner = embedded(&packet[..end], Family::V6).unwrap();
        assert_eq!((inner.source, inner.destination, inner.protocol), (A6, B6, 17));
        assert_eq!((inner.l4, inner.end, inner.ip_checksum_at), (BEFORE + 72, BEFORE + end, None));
        assert!(matches!(inner.kind, InnerTransport::Ports { source_port: 5000, udp: true, .. }));
    }
    for end in [39, 40, 47, 56, 72, 79] {
        assert_eq!(embedded(&packet[..end], Family::V6), Err(Malformed::IcmpInnerTruncated), "{end} bytes");
    }
    let later_fragment = [17, 0, 0, 9, 0, 0, 0, 5];
    assert_eq!(embedded(&udp6(44, &later_fragment), Family::V6), Err(Malformed::IcmpInnerTruncated));
}

#[test]
fn queries_and_errors_are_told_apart() {
    let echo = |kind: u8| {
        let mut packet = Vec::new();
        PacketBuilder::ipv4(A, B, 64).icmpv4_echo_request(77, 1).write(&mut packet, &[]).expect("a packet");
        packet[20] = kind;
        embedded(&packet, Family::V4).unwrap().kind
    };
    assert_eq!(echo(8), InnerTransport::Query { identifier: 77, kind: 8, checksum_at: BEFORE + 22 });
    assert_eq!(echo(0), InnerTransport::Query { identifier: 77, kind: 0, checksum_at: BEFORE + 22 });
    for error in [3, 4, 5, 11, 12] {
        assert_eq!(echo(error), InnerTransport::IcmpError);
    }
    assert_eq!(echo(9), InnerTransport::Other);
}

/// Over every byte: what etherparse has a type for loses the fields that the type does not use.
fn icmpv4_checksum(icmp: &Icmpv4Slice<'_>) -> u16 {
    let raw =
        Icmpv4Type::Unknown { type_u8: icmp.type_u8(), code_u8: icmp.code_u8(), bytes5to8: icmp.bytes5to8() };
    raw.calc_checksum(icmp.payload())
}

proptest! {
    /// Wherever a quote is cut, it is either long enough for its ports or refused.
    #[test]
    fn a_quote_of_any_length(length in 0usize..80, options in any::<bool>(), v6 in any::<bool>()) {
        let packet = match (v6, options) {
            (false, false) => udp4(),
            (false, true) => with_options(udp4(), &[1; 12]),
            (true, false) => udp6(17, &[]),
            (true, true) => udp6(60, &[17, 0, 1, 4, 0, 0, 0, 0]),
        };
        let family = if v6 { Family::V6 } else { Family::V4 };
        let whole = embedded(&packet, family).unwrap();
        let length = length.min(packet.len());
        match embedded(&packet[..length], family) {
            Ok(inner) => {
                prop_assert!(length >= whole.l4 - BEFORE + 8);
                prop_assert_eq!((inner.l4, inner.kind), (whole.l4, whole.kind));
            }
            Err(reason) => {
                prop_assert!(length < whole.l4 - BEFORE + 8);
                prop_assert_eq!(reason, Malformed::IcmpInnerTruncated);
            }
        }
    }

    /// RFC 1812 4.3.2.3: as much of the packet as fits into 576 bytes.
    #[test]
    fn ipv4_errors_are_sound(
        quoted in prop::collection::vec(any::<u8>(), 0..1500), room in 0usize..700, kind in 3u8..13, code in 0u8..16,
        rest in any::<u32>(), tos in any::<u8>(), identification in any::<u16>(),
    ) {
        let mut out = vec![0xee; room];
        let length = icmp_error::ipv4(&mut out, A, B, kind, code, rest, tos, identification, &quoted);
        if room < 28 {
            prop_assert_eq!(length, 0);
            return Ok(());
        }
        prop_assert_eq!(length, (28 + quoted.len()).min(room).min(icmp_error::IPV4_LIMIT));
        prop_assert!(out[length..].iter().all(|&byte| byte == 0xee), "wrote behind its end");
        let sliced = SlicedPacket::from_ip(&out[..length]).expect("a sound packet");
        let Some(NetSlice::Ipv4(ip)) = sliced.net else { panic!("not IPv4") };
        let header = ip.header();
        prop_assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
        prop_assert_eq!((header.source(), header.destination()), (A, B));
        prop_assert_eq!((header.slice()[1], header.identification()), (tos, identification));
        prop_assert_eq!(usize::from(header.total_len()), length);
        let Some(TransportSlice::Icmpv4(icmp)) = sliced.transport else { panic!("not ICMP") };
        prop_assert_eq!((icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8()), (kind, code, rest.to_be_bytes()));
        prop_assert_eq!(icmpv4_checksum(&icmp), icmp.checksum());
        prop_assert_eq!(icmp.payload(), &quoted[..length - 28]);
    }

    /// RFC 4443 2.4 c: as much of the packet as fits into the minimum MTU.
    #[test]
    fn ipv6_errors_are_sound(
        quoted in prop::collection::vec(any::<u8>(), 0..1600), room in 0usize..1500, kind in 1u8..5, code in 0u8..8,
        rest in any::<u32>(), class in any::<u8>(),
    ) {
        let mut out = vec![0xee; room];
        let length = icmp_error::ipv6(&mut out, A6, B6, kind, code, rest, class, &quoted);
        if room < 48 {
            prop_assert_eq!(length, 0);
            return Ok(());
        }
        prop_assert_eq!(length, (48 + quoted.len()).min(room).min(icmp_error::IPV6_LIMIT));
        let sliced = SlicedPacket::from_ip(&out[..length]).expect("a sound packet");
        let Some(NetSlice::Ipv6(ip)) = sliced.net else { panic!("not IPv6") };
        prop_assert_eq!((ip.header().source(), ip.header().destination()), (A6, B6));
        prop_assert_eq!(ip.header().traffic_class(), class);
        let icmp = Icmpv6Slice::from_slice(ip.payload().payload).expect("ICMPv6");
        prop_assert!(icmp.is_checksum_valid(A6, B6));
        prop_assert_eq!((icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8()), (kind, code, rest.to_be_bytes()));
        prop_assert_eq!(icmp.payload(), &quoted[..length - 48]);
    }
}

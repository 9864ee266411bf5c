//! Packets embedded in ICMP errors, and errors that the box makes.

use super::build::*;
use super::packet::parse;
use proptest::prelude::*;
use turnpike_wire::checksum;
use turnpike_wire::inner::{self, Inner, InnerTransport};
use turnpike_wire::packet::{Family, TCP_ACK, Transport, mapped};
use turnpike_wire::{icmp, icmp_error};

fn inner_of(frame: &[u8]) -> Inner {
    let packet = parse(frame);
    let Transport::IcmpError { inner, .. } = packet.transport else { panic!("{packet:?}") };
    inner::parse(frame, inner, packet.end, packet.family).unwrap()
}

fn error4(quote: &[u8]) -> Vec<u8> {
    v4(1, &icmp4(3, 3, [0; 4], quote))
}

const INNER: usize = L3 + 28;

#[test]
fn eight_bytes_of_tcp_have_ports_and_no_checksum() {
    let inner = inner_of(&error4(&packet_v4(&[], 0, 6, &tcp(&[], TCP_ACK, b""))[..28]));
    assert_eq!((inner.l3, inner.l4, inner.end), (INNER, INNER + 20, INNER + 28));
    assert_eq!((inner.source, inner.destination), (mapped(SOURCE), mapped(DESTINATION)));
    assert_eq!(inner.ip_checksum_at, Some(INNER + 10));
    let ports = |checksum_at, udp, destination_port| InnerTransport::Ports {
        source_port: 40000,
        destination_port,
        checksum_at,
        udp,
    };
    assert_eq!(inner.kind, ports(None, false, 80));
    let long = inner_of(&error4(&packet_v4(&[], 0, 6, &tcp(&[], TCP_ACK, b""))));
    assert_eq!(long.kind, ports(Some(INNER + 36), false, 80));
    let udp = inner_of(&error4(&packet_v4(&[], 0, 17, &udp(&[0; 1000]))[..28]));
    assert_eq!(udp.kind, ports(Some(INNER + 26), true, 53));
}

#[test]
fn icmp_3b_ports_stand_behind_options() {
    let inner = inner_of(&error4(&packet_v4(&[148, 4, 0, 0, 1, 1, 1, 0], 0, 17, &udp(b""))));
    assert_eq!(inner.l4, INNER + 28);
    assert!(matches!(inner.kind, InnerTransport::Ports { source_port: 40000, udp: true, .. }));
}

#[test]
fn icmp_3c_embedded_transport_checksum_is_not_validated() {
    let mut datagram = udp(b"data");
    datagram[6] ^= 0xff;
    inner_of(&error4(&packet_v4(&[], 0, 17, &datagram)));
}

#[test]
fn icmp_3d_padding_is_not_the_embedded_packet() {
    // RFC 4884: a short packet is padded to 128 bytes, then extensions follow.
    let mut quote = packet_v4(&[], 0, 17, &udp(b""));
    quote.resize(128, 0);
    quote.extend_from_slice(&[0x20, 0, 0, 0, 0, 8, 1, 1, 0, 0, 0, 0]);
    assert_eq!(inner_of(&error4(&quote)).end, INNER + 28);
}

#[test]
fn embedded_icmp() {
    let quote = |kind| error4(&packet_v4(&[], 0, 1, &icmp4(kind, 0, [0xab, 0xcd, 0, 0], b"")));
    let query = |kind, checksum_at| InnerTransport::Query { identifier: 0xabcd, kind, checksum_at };
    assert_eq!(inner_of(&quote(8)).kind, query(8, INNER + 22));
    for kind in [3, 4, 5, 11, 12] {
        assert_eq!(inner_of(&quote(kind)).kind, InnerTransport::IcmpError);
    }
    assert_eq!(inner_of(&quote(9)).kind, InnerTransport::Other);
    assert_eq!(inner_of(&error4(&packet_v4(&[], 0, 47, b""))).kind, InnerTransport::Other);

    let quote = |kind| v6(58, &icmp6(1, 4, [0; 4], &packet_v6(58, &icmp6(kind, 0, [0xab, 0xcd, 0, 0], b""))));
    assert_eq!(inner_of(&quote(128)).kind, query(128, L3 + 48 + 42));
    assert_eq!(inner_of(&quote(2)).kind, InnerTransport::IcmpError);
    assert_eq!(inner_of(&quote(135)).kind, InnerTransport::Other);
}

#[test]
fn embedded_ipv6_with_extensions() {
    let chain = [options_header(0), fragment_header(0, true)];
    let quote = v6_chain(&chain, 17, &udp(&[0; 2000]))[L3..L3 + 64].to_vec();
    let inner = inner_of(&v6(58, &icmp6(2, 0, [0, 0, 5, 0], &quote)));
    assert_eq!((inner.l4, inner.protocol, inner.ip_checksum_at), (L3 + 48 + 56, 17, None));
    assert!(matches!(inner.kind, InnerTransport::Ports { destination_port: 53, udp: true, .. }));
}

#[test]
fn errors_have_room_or_are_not_made() {
    assert_eq!(icmp_error::ipv4(&mut [0; 27], SOURCE, DESTINATION, 3, 1, 0, 0, 0, b""), 0);
    assert_eq!(icmp_error::ipv4(&mut [0; 28], SOURCE, DESTINATION, 3, 1, 0, 0, 0, b"data"), 28);
    assert_eq!(icmp_error::ipv6(&mut [0; 47], SOURCE_V6, DESTINATION_V6, 1, 0, 0, 0, b""), 0);
}

proptest! {
    #[test]
    fn icmp_ptb_errors_parse_and_quote(
        length in 0usize..1500,
        room in 0usize..1600,
        tos in any::<u8>(),
        mtu in any::<u16>(),
        odd in any::<u8>(),
    ) {
        // RFC 1812 4.3.2.3 and RFC 4443 2.4 (c): as much as fits.
        let data = vec![odd; length];
        for (family, headers, limit) in [(Family::V4, 28, 576), (Family::V6, 48, 1280)] {
            let mut frame = vec![0xee; L3 + room];
            let (quoted, written, kind, code) = match family {
                Family::V4 => {
                    let quoted = packet_v4(&[], 0, 17, &udp(&data));
                    let (kind, code, mtu) = (icmp::UNREACHABLE, 4, mtu.into());
                    let length =
                        icmp_error::ipv4(&mut frame[L3..], SOURCE, DESTINATION, kind, code, mtu, tos, 77, &quoted);
                    (quoted, length, kind, code)
                }
                Family::V6 => {
                    let quoted = packet_v6(17, &udp(&data));
                    let (kind, mtu) = (icmp::V6_PACKET_TOO_BIG, mtu.into());
                    let length = icmp_error::ipv6(
                        &mut frame[L3..], SOURCE_V6, DESTINATION_V6, kind, 0, mtu, tos, &quoted,
                    );
                    (quoted, length, kind, 0)
                }
            };
            if room < headers {
                prop_assert_eq!(written, 0);
                continue;
            }
            prop_assert_eq!(written, (headers + quoted.len()).min(limit).min(room));
            prop_assert!(frame[L3 + written..].iter().all(|byte| *byte == 0xee), "wrote past the packet");
            let packet = turnpike_wire::packet::parse(&frame, L3, family).unwrap();
            prop_assert_eq!(packet.transport, Transport::IcmpError { kind, code, inner: L3 + headers });
            prop_assert_eq!((packet.ttl, packet.traffic_class, packet.end), (64, tos, L3 + written));
            prop_assert_eq!(&frame[L3 + headers..packet.end], &quoted[..written - headers]);
            prop_assert_eq!(&frame[L3 + headers - 4..L3 + headers], &u32::from(mtu).to_be_bytes()[..]);
            prop_assert_eq!(
                checksum::transport(&packet.source, &packet.destination, packet.protocol, &frame[packet.l4..packet.end]),
                0
            );
            if family == Family::V4 {
                prop_assert_eq!((packet.identification, packet.dont_fragment), (77, false));
            }
            // etherparse agrees on the whole.
            let theirs = etherparse::SlicedPacket::from_ip(&frame[L3..packet.end]).unwrap();
            prop_assert!(theirs.transport.is_some());
        }
    }
}

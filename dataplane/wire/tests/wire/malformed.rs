//! One frame for every way a frame can be wrong, and a check that none was forgotten.

use super::build::*;
use turnpike_wire::packet::{self, Family, TCP_ACK, TCP_FIN, TCP_PSH, TCP_RST, TCP_SYN};
use turnpike_wire::{Malformed, arp, ethernet, inner, packet::Transport};

/// What the box does with a frame, as far as this crate goes.
fn refusal(frame: &[u8]) -> Option<Malformed> {
    let check = || {
        let header = ethernet::parse(frame)?;
        let family = match header.ethertype {
            ethernet::ETHERTYPE_ARP => return arp::parse(&frame[header.payload..]).map(|_| ()),
            ethernet::ETHERTYPE_IPV4 => Family::V4,
            ethernet::ETHERTYPE_IPV6 => Family::V6,
            _ => return Ok(()),
        };
        let packet = packet::parse(frame, header.payload, family)?;
        if let Transport::IcmpError { inner, .. } = packet.transport {
            inner::parse(frame, inner, packet.end, family)?;
        }
        Ok(())
    };
    check().err()
}

/// `frame` with its bytes at `at` replaced, and the IPv4 header checksum right again.
fn with(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    if frame[12..14] == [8, 0] {
        seal_v4(&mut frame[L3..]);
    }
    frame
}

fn cut(mut frame: Vec<u8>, length: usize) -> Vec<u8> {
    frame.truncate(length);
    frame
}

fn udp4() -> Vec<u8> {
    v4(17, &udp(b"data"))
}

fn flags(flags: u8) -> Vec<u8> {
    v4(6, &tcp(&[], flags, b""))
}

fn cases() -> Vec<(Malformed, &'static str, Vec<u8>)> {
    use Malformed::*;
    let udp6 = || v6(17, &udp(b"data"));
    let arp_request = |start: [u8; 6]| frame(0x0806, &[&start[..], &[0; 22]].concat());
    let quote = packet_v4(&[], 0, 17, &udp(b""));
    let error = |quote: &[u8]| v4(1, &icmp4(3, 3, [0; 4], quote));
    let error6 = |quote: &[u8]| v6(58, &icmp6(1, 4, [0; 4], quote));
    let destination_options = || options_header(60);
    vec![
        (EthTruncated, "13 bytes", cut(udp4(), 13)),
        (EthTruncated, "empty", vec![]),
        (VlanTruncated, "tag of 3 bytes", cut(frame(0x8100, &[0, 5, 8, 0]), 17)),
        (ArpMalformed, "cut", cut(arp_request([0, 1, 8, 0, 6, 4]), 41)),
        (ArpMalformed, "hardware not Ethernet", arp_request([0, 6, 8, 0, 6, 4])),
        (ArpMalformed, "protocol not IPv4", arp_request([0, 1, 0x86, 0xdd, 6, 4])),
        (ArpMalformed, "address length", arp_request([0, 1, 8, 0, 6, 16])),
        (Ip4Truncated, "19 bytes", cut(udp4(), L3 + 19)),
        (Ip4BadVersion, "version 6 under EtherType IPv4", with(udp4(), L3, &[0x65])),
        (Ip4BadIhl, "16 bytes", with(udp4(), L3, &[0x44])),
        (Ip4BadIhl, "past the frame", with(v4(253, b""), L3, &[0x46])),
        (Ip4BadTotalLength, "past the frame", with(udp4(), L3 + 2, &[0, 33])),
        (Ip4BadTotalLength, "under the header", with(udp4(), L3 + 2, &[0, 19])),
        (Ip4BadTotalLength, "zero", with(udp4(), L3 + 2, &[0, 0])),
        (Ip4BadChecksum, "off by one", {
            let mut frame = udp4();
            frame[L3 + 11] ^= 1;
            frame
        }),
        (Ip4BadOptions, "length past the header", v4_options(&[7, 5, 4, 0], 17, &udp(b""))),
        (Ip4BadOptions, "length 1", v4_options(&[7, 1, 0, 0], 17, &udp(b""))),
        (Ip4BadOptions, "length 0", v4_options(&[7, 0, 0, 0], 17, &udp(b""))),
        (Ip4BadOptions, "no length", v4_options(&[1, 1, 1, 7], 17, &udp(b""))),
        (IpOptionsSourceRoute, "loose", v4_options(&[131, 3, 4, 0], 17, &udp(b""))),
        (IpOptionsSourceRoute, "strict behind NOP", v4_options(&[1, 137, 3, 4], 17, &udp(b""))),
        (Ip6Truncated, "39 bytes", cut(udp6(), L3 + 39)),
        (Ip6BadVersion, "version 4 under EtherType IPv6", with(udp6(), L3, &[0x4b])),
        (Ip6BadPayloadLength, "past the frame", with(udp6(), L3 + 4, &[0, 13])),
        (Ip6BadPayloadLength, "zero", with(udp6(), L3 + 4, &[0, 0])),
        (Ip6ExtTruncated, "length past the packet", v6_chain(&[(60, vec![0, 1, 1, 4, 0, 0, 0, 0])], 17, b"")),
        (Ip6ExtTruncated, "7 bytes", v6(60, &[17, 0, 1, 3, 0, 0, 0])),
        (
            Ip6ExtTruncated,
            "in a first fragment",
            v6_chain(&[fragment_header(0, true)], 60, &[17, 2, 1, 4, 0, 0, 0, 0]),
        ),
        (
            Ip6ExtOrder,
            "Hop-by-Hop second",
            v6_chain(&[destination_options(), options_header(0)], 17, &udp(b"")),
        ),
        (Ip6ExtOrder, "two Hop-by-Hop", v6_chain(&[options_header(0), options_header(0)], 17, &udp(b""))),
        (Ip6ExtOrder, "two Routing", v6_chain(&[routing_header(2, 0), routing_header(2, 0)], 17, &udp(b""))),
        (
            Ip6ExtOrder,
            "two Fragment",
            v6_chain(&[fragment_header(0, false), fragment_header(0, false)], 17, &udp(b"")),
        ),
        (Ip6ExtLimit, "nine headers", v6_chain(&vec![destination_options(); 9], 17, &udp(b""))),
        (Ip6RoutingHeader0, "FW-3", v6_chain(&[routing_header(0, 1)], 17, &udp(b""))),
        (FragTiny, "TCP flags cut off", v4_fragment(0, true, 6, &tcp(&[], TCP_SYN, b"")[..16])),
        (FragTiny, "TCP options cut off", v4_fragment(0, true, 6, &tcp(&[1; 12], TCP_SYN, b"")[..24])),
        (FragTiny, "IPv6 TCP", v6_chain(&[fragment_header(0, true)], 6, &tcp(&[], TCP_SYN, b"")[..16])),
        (FragOffsetOne, "TCP flags overwritten", v4_fragment(8, false, 6, &[0; 16])),
        (FragOffsetOne, "IPv6", v6_chain(&[fragment_header(8, true)], 6, &[0; 16])),
        (FragOverrun, "ping of death", v4_fragment(65528, false, 1, &[0; 64])),
        (FragOverrun, "the header counts", v4_fragment(65512, false, 1, &[0; 8])),
        (FragOverrun, "IPv6", v6_chain(&[fragment_header(65528, false)], 58, &[0; 8])),
        (FragBadLength, "13 bytes, not the last", v4_fragment(0, true, 17, &[0; 13])),
        (FragBadLength, "empty first", v4_fragment(0, true, 17, &[])),
        (FragBadLength, "empty last", v4_fragment(64, false, 17, &[])),
        (FragBadLength, "IPv6", v6_chain(&[fragment_header(64, true)], 17, &[0; 9])),
        (TcpTruncated, "19 bytes", v4(6, &tcp(&[], TCP_ACK, b"")[..19])),
        (TcpTruncated, "IPv6", v6(6, &tcp(&[], TCP_ACK, b"")[..19])),
        (TcpBadOffset, "16 bytes", with(flags(TCP_ACK), L3 + 32, &[0x40])),
        (TcpBadOffset, "past the segment", with(flags(TCP_ACK), L3 + 32, &[0x60])),
        (TcpBadFlags, "none", flags(0)),
        (TcpBadFlags, "ECE alone", flags(packet::TCP_ECE)),
        (TcpBadFlags, "SYN and FIN", flags(TCP_SYN | TCP_FIN | TCP_ACK)),
        (TcpBadFlags, "SYN and RST", flags(TCP_SYN | TCP_RST)),
        (TcpBadFlags, "FIN without ACK", flags(TCP_FIN | TCP_PSH)),
        (UdpTruncated, "7 bytes", v4(17, &udp(b"")[..7])),
        (UdpBadLength, "7", with(udp4(), L3 + 24, &[0, 7])),
        (UdpBadLength, "past the packet", with(udp4(), L3 + 24, &[0, 13])),
        (IcmpTruncated, "7 bytes", v4(1, &icmp4(8, 0, [0; 4], b"")[..7])),
        (IcmpTruncated, "IPv6", v6(58, &icmp6(128, 0, [0; 4], b"")[..7])),
        (IcmpBadChecksum, "ICMP-3", with(error(&quote), L3 + 22, &[0xde, 0xad])),
        (
            IcmpBadChecksum,
            "ICMPv6 without pseudo header",
            v6(58, &icmp4(1, 4, [0; 4], &packet_v6(17, &udp(b"")))),
        ),
        (IcmpInnerTruncated, "7 bytes of UDP", error(&quote[..27])),
        (IcmpInnerTruncated, "header cut", error(&quote[..19])),
        (IcmpInnerTruncated, "later fragment", error(&packet_v4(&[], 4, 17, &[0; 16]))),
        (IcmpInnerTruncated, "another version", error(&packet_v6(17, &udp(b"")))),
        (IcmpInnerTruncated, "IPv6 UDP", error6(&packet_v6(17, &udp(b""))[..47])),
        (
            IcmpInnerTruncated,
            "IPv6 later fragment",
            error6(&v6_chain(&[fragment_header(64, true)], 17, &[0; 8])[L3..]),
        ),
        (
            IcmpInnerTruncated,
            "IPv6 extension cut",
            error6(&v6_chain(&[destination_options()], 17, &udp(b""))[L3..L3 + 44]),
        ),
        (IcmpInnerBadChecksum, "ICMP-3a", {
            let mut quote = quote.clone();
            quote[8] -= 1;
            error(&quote)
        }),
    ]
}

#[test]
fn every_refusal_has_its_frame() {
    let mut seen = Vec::new();
    for (expected, what, frame) in cases() {
        assert_eq!(refusal(&frame), Some(expected), "{expected:?}, {what}: {frame:02x?}");
        seen.push(expected);
    }
    let missing: Vec<_> = Malformed::ALL.iter().filter(|reason| !seen.contains(reason)).collect();
    assert!(missing.is_empty(), "no frame for {missing:?}");
}

#[test]
fn refusals_say_what_is_wrong() {
    let texts: std::collections::HashSet<String> = Malformed::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), Malformed::ALL.len());
}

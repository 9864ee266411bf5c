//! One constructed frame for every way in which a frame can be malformed, refused for exactly that reason.

use turnpike_wire::checksum::{ones_complement, transport};
use turnpike_wire::packet::{TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, mapped};
use turnpike_wire::{Family, Malformed, arp, ethernet, inner, packet};

fn v4_with(options: &[u8], protocol: u8, fragment: u16, message: &[u8]) -> Vec<u8> {
    let header_len = 20 + options.len();
    let mut bytes = vec![0x40 | (header_len / 4) as u8, 0];
    bytes.extend(((header_len + message.len()) as u16).to_be_bytes());
    bytes.extend([0, 7]);
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([64, protocol, 0, 0, 192, 0, 2, 1, 198, 51, 100, 7]);
    bytes.extend(options);
    fix(&mut bytes);
    bytes.extend(message);
    bytes
}

/// Writes the IPv4 header checksum.
fn fix(header: &mut [u8]) {
    header[10..12].fill(0);
    let length = usize::from(header[0] & 0xf) * 4;
    let check = ones_complement(&header[..length]);
    header[10..12].copy_from_slice(&check.to_be_bytes());
}

fn v4(protocol: u8, message: &[u8]) -> Vec<u8> {
    v4_with(&[], protocol, 0, message)
}

fn changed(mut bytes: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    bytes[at] = value;
    bytes
}

fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend((payload.len() as u16).to_be_bytes());
    bytes.extend([next, 64]);
    bytes.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    bytes.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    bytes.extend(payload);
    bytes
}

fn udp(payload: usize) -> Vec<u8> {
    let mut bytes = vec![0, 53, 0x30, 0x39];
    bytes.extend(((8 + payload) as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.resize(8 + payload, 0x55);
    bytes
}

fn tcp(data_offset: u8, flags: u8) -> Vec<u8> {
    let mut bytes = vec![0, 80, 0x30, 0x39, 0, 0, 0, 1, 0, 0, 0, 0, data_offset << 4, flags];
    bytes.extend([0x20, 0, 0, 0, 0, 0]);
    bytes
}

/// An IPv4 packet with an ICMP error about `about`, its ICMP checksum right.
fn error_about(about: &[u8]) -> Vec<u8> {
    let mut message = vec![3, 1, 0, 0, 0, 0, 0, 0];
    message.extend(about);
    let check = transport(&mapped([192, 0, 2, 1]), &mapped([198, 51, 100, 7]), 1, &message);
    message[2..4].copy_from_slice(&check.to_be_bytes());
    v4(1, &message)
}

fn parse_v4(bytes: &[u8]) -> Option<Malformed> {
    packet::parse(bytes, 0, Family::V4).err()
}

fn parse_v6(bytes: &[u8]) -> Option<Malformed> {
    packet::parse(bytes, 0, Family::V6).err()
}

/// What is refused about the packet that a sound ICMP error embeds.
fn parse_inner(bytes: &[u8]) -> Option<Malformed> {
    let outer = packet::parse(bytes, 0, Family::V4).expect("the error itself is sound");
    let packet::Transport::IcmpError { inner: at, .. } = outer.transport else { panic!("not an error") };
    inner::parse(bytes, at, outer.end, Family::V4).err()
}

fn cases() -> Vec<(Malformed, &'static str, Option<Malformed>)> {
    let v4_udp = v4(17, &udp(4));
    let v6_udp = v6(17, &udp(4));
    let hop_by_hop = |next: u8| vec![next, 0, 1, 4, 0, 0, 0, 0];
    let options = |count: usize| {
        let mut chain = Vec::new();
        for left in (0..count).rev() {
            chain.extend([if left == 0 { 17 } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
        }
        chain.extend(udp(0));
        v6(60, &chain)
    };
    assert_eq!(parse_v6(&options(packet::EXTENSION_HEADERS)), None);
    let fragment6 = |next: u8, field: u16, payload: &[u8]| {
        let mut bytes = vec![next, 0];
        bytes.extend(field.to_be_bytes());
        bytes.extend([0, 0, 0, 9]);
        bytes.extend(payload);
        v6(44, &bytes)
    };
    let arp_request = {
        let mut bytes = [0; arp::PACKET_LEN];
        let arp = arp::Arp {
            operation: arp::REQUEST,
            sender_mac: [2, 0, 0, 0, 0, 1],
            sender_ip: [192, 0, 2, 1],
            target_mac: [0; 6],
            target_ip: [192, 0, 2, 2],
        };
        arp::write(&mut bytes, &arp).expect("room");
        bytes
    };
    let quoted = v4(17, &udp(0));
    vec![
        (Malformed::EthTruncated, "13 bytes", ethernet::parse(&[0; 13]).err()),
        (Malformed::VlanTruncated, "half a tag", {
            let mut frame = vec![0; 16];
            frame[12..14].copy_from_slice(&[0x81, 0x00]);
            ethernet::parse(&frame).err()
        }),
        (Malformed::ArpMalformed, "27 bytes", arp::parse(&arp_request[..27]).err()),
        (Malformed::ArpMalformed, "hardware type 6", {
            arp::parse(&changed(arp_request.to_vec(), 1, 6)).err()
        }),
        (Malformed::ArpMalformed, "a reply is not answered", {
            let mut frame = [&[0; 14][..], &changed(arp_request.to_vec(), 7, 2)].concat();
            arp::reply_in_place(&mut frame, 14, [2; 6]).err()
        }),
        (Malformed::Ip4Truncated, "19 bytes", parse_v4(&v4_udp[..19])),
        (Malformed::Ip4BadVersion, "version 5", parse_v4(&changed(v4_udp.clone(), 0, 0x55))),
        (Malformed::Ip4BadIhl, "16 bytes of header", parse_v4(&changed(v4_udp.clone(), 0, 0x44))),
        (Malformed::Ip4BadIhl, "header past the frame", parse_v4(&changed(v4_udp.clone(), 0, 0x4f))),
        (Malformed::Ip4BadTotalLength, "past the frame", parse_v4(&changed(v4_udp.clone(), 3, 33))),
        (Malformed::Ip4BadTotalLength, "under the header's", parse_v4(&changed(v4_udp.clone(), 3, 19))),
        (Malformed::Ip4BadChecksum, "TTL changed", parse_v4(&changed(v4_udp.clone(), 8, 63))),
        (Malformed::Ip4BadOptions, "length 1", parse_v4(&v4_with(&[7, 1, 0, 0], 17, 0, &udp(0)))),
        (Malformed::Ip4BadOptions, "length past the header", {
            parse_v4(&v4_with(&[7, 5, 0, 0], 17, 0, &udp(0)))
        }),
        (Malformed::Ip4BadOptions, "no length", parse_v4(&v4_with(&[1, 1, 1, 7], 17, 0, &udp(0)))),
        (Malformed::IpOptionsSourceRoute, "loose", {
            parse_v4(&v4_with(&[131, 7, 4, 10, 0, 0, 1, 0], 17, 0, &udp(0)))
        }),
        (Malformed::IpOptionsSourceRoute, "strict, behind a NOP", {
            parse_v4(&v4_with(&[1, 137, 7, 4, 10, 0, 0, 1], 17, 0, &udp(0)))
        }),
        (Malformed::Ip6Truncated, "39 bytes", parse_v6(&v6_udp[..39])),
        (Malformed::Ip6BadVersion, "version 4", parse_v6(&changed(v6_udp.clone(), 0, 0x40))),
        (Malformed::Ip6BadPayloadLength, "past the frame", parse_v6(&changed(v6_udp.clone(), 5, 13))),
        (Malformed::Ip6BadPayloadLength, "0, as of a jumbogram", parse_v6(&v6(0, &[]))),
        (Malformed::Ip6ExtTruncated, "longer than the packet", parse_v6(&v6(60, &[17, 9, 1, 4, 0, 0, 0, 0]))),
        (Malformed::Ip6ExtTruncated, "4 bytes", parse_v6(&v6(43, &[17, 0, 4, 0]))),
        (Malformed::Ip6ExtOrder, "Hop-by-Hop second", {
            parse_v6(&v6(60, &[&hop_by_hop(0)[..], &hop_by_hop(17), &udp(0)].concat()))
        }),
        (Malformed::Ip6ExtOrder, "two Fragment headers", {
            let second = [17, 0, 0, 0, 0, 0, 0, 9];
            parse_v6(&fragment6(44, 0, &[&second[..], &udp(0)].concat()))
        }),
        (Malformed::Ip6ExtOrder, "two Routing headers", {
            let routing = |next: u8| vec![next, 0, 4, 0, 0, 0, 0, 0];
            parse_v6(&v6(43, &[&routing(43)[..], &routing(17), &udp(0)].concat()))
        }),
        (Malformed::Ip6ExtLimit, "one more than the limit", {
            parse_v6(&options(packet::EXTENSION_HEADERS + 1))
        }),
        (Malformed::Ip6RoutingHeader0, "one segment left", {
            let mut routing = vec![17, 2, 0, 1, 0, 0, 0, 0];
            routing.extend([0x20; 16]);
            parse_v6(&v6(43, &[&routing[..], &udp(0)].concat()))
        }),
        (Malformed::FragTiny, "8 bytes of TCP", parse_v4(&v4_with(&[], 6, 0x2000, &tcp(5, TCP_SYN)[..8]))),
        (Malformed::FragTiny, "16 bytes of TCP in IPv6", parse_v6(&fragment6(6, 1, &tcp(5, TCP_SYN)[..16]))),
        (Malformed::FragTiny, "TCP options cut", {
            let message = [&tcp(8, TCP_SYN)[..], &[1; 4]].concat();
            parse_v4(&v4_with(&[], 6, 0x2000, &message))
        }),
        (Malformed::FragOffsetOne, "TCP flags in the second fragment", {
            parse_v4(&v4_with(&[], 6, 0x0001, &[0; 16]))
        }),
        (Malformed::FragOverrun, "ping of death", parse_v4(&v4_with(&[], 1, 0x1fff, &[0; 16]))),
        (Malformed::FragOverrun, "in IPv6", parse_v6(&fragment6(17, 0xfff8, &[0; 16]))),
        (Malformed::FragBadLength, "9 bytes, more to come", parse_v4(&v4_with(&[], 17, 0x2002, &[0; 9]))),
        (Malformed::FragBadLength, "empty", parse_v4(&v4_with(&[], 17, 0x0002, &[]))),
        (Malformed::TcpTruncated, "19 bytes", parse_v4(&v4(6, &tcp(5, TCP_SYN)[..19]))),
        (Malformed::TcpBadOffset, "16 bytes", parse_v4(&v4(6, &tcp(4, TCP_SYN)))),
        (Malformed::TcpBadOffset, "past the segment", parse_v4(&v4(6, &tcp(6, TCP_SYN)))),
        (Malformed::TcpBadFlags, "none", parse_v4(&v4(6, &tcp(5, 0)))),
        (Malformed::TcpBadFlags, "SYN FIN", parse_v4(&v4(6, &tcp(5, TCP_SYN | TCP_FIN)))),
        (Malformed::TcpBadFlags, "SYN RST", parse_v6(&v6(6, &tcp(5, TCP_SYN | TCP_RST | TCP_ACK)))),
        (Malformed::TcpBadFlags, "FIN alone", parse_v4(&v4(6, &tcp(5, TCP_FIN)))),
        (Malformed::UdpTruncated, "7 bytes", parse_v4(&v4(17, &udp(0)[..7]))),
        (Malformed::UdpBadLength, "7", parse_v4(&v4(17, &changed(udp(0), 5, 7)))),
        (Malformed::UdpBadLength, "past the packet", parse_v6(&v6(17, &changed(udp(0), 5, 9)))),
        (Malformed::IcmpTruncated, "7 bytes", parse_v4(&v4(1, &[8, 0, 0, 0, 0, 1, 0]))),
        (Malformed::IcmpTruncated, "7 bytes in IPv6", parse_v6(&v6(58, &[128, 0, 0, 0, 0, 1, 0]))),
        (Malformed::IcmpBadChecksum, "of an error", {
            let mut error = error_about(&quoted);
            error[22] ^= 1;
            parse_v4(&error)
        }),
        (Malformed::IcmpBadChecksum, "of an ICMPv6 error", {
            parse_v6(&v6(58, &[&[1, 4, 0, 0, 0, 0, 0, 0][..], &v6_udp].concat()))
        }),
        (Malformed::IcmpInnerTruncated, "7 bytes of UDP", parse_inner(&error_about(&quoted[..27]))),
        (Malformed::IcmpInnerTruncated, "header cut", parse_inner(&error_about(&quoted[..19]))),
        (Malformed::IcmpInnerTruncated, "later fragment", {
            parse_inner(&error_about(&v4_with(&[], 17, 2, &udp(0))))
        }),
        (Malformed::IcmpInnerTruncated, "of the other family", parse_inner(&error_about(&v6_udp))),
        (Malformed::IcmpInnerBadChecksum, "TTL changed", {
            parse_inner(&error_about(&changed(quoted.clone(), 8, 1)))
        }),
    ]
}

#[test]
fn each_case_is_refused_for_its_reason() {
    for (expected, name, found) in cases() {
        assert_eq!(found, Some(expected), "{name}");
    }
}

#[test]
fn there_is_a_case_for_every_reason() {
    for reason in Malformed::ALL {
        assert!(cases().iter().any(|(covered, ..)| covered == reason), "no case for {reason:?}");
        assert!(!reason.to_string().is_empty());
    }
}

//! The parse against etherparse, over packets of every kind, sound and mutated.
//!
//! Where the two disagree the difference is one of those named in `only_we_refuse` and `only_we_accept`.

use super::build::*;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeMap;
use turnpike_wire::Malformed;
use turnpike_wire::packet::{self, Family, Fragment, Packet, Transport, mapped};

/// Header chains of IPv6, transports of both families, then up to two flipped bytes and another length.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let flags = prop::sample::select(vec![0x02u8, 0x12, 0x10, 0x18, 0x11, 0x04]);
    let data = prop::collection::vec(any::<u8>(), 0..40);
    let transport =
        (0..6u8, flags, data, any::<[u8; 4]>()).prop_map(|(kind, flags, data, rest)| match kind {
            0 => (6, tcp(&[], flags, &data)),
            1 => (6, tcp(&[2, 4, 5, 0xb4, 1, 1, 1, 0], flags, &data)),
            2 => (17, udp(&data)),
            3 => (1, icmp4(8, 0, rest, &data)),
            4 => (58, icmp6(129, 0, rest, &data)),
            _ => (47, data),
        });
    let chain = prop::sample::select(vec![
        vec![],
        vec![options_header(60)],
        vec![options_header(0), routing_header(2, 0)],
        vec![fragment_header(0, false)],
        vec![fragment_header(0, true)],
        vec![fragment_header(64, false)],
    ]);
    let options = prop::sample::select(vec![vec![], vec![148, 4, 0, 0], vec![1, 7, 7, 4, 0, 0, 0, 0]]);
    let fragment = prop::sample::select(vec![0u16, 0, 0, 0x4000, 0x2000, 0x2008, 0x0008]);
    let v4 = (options, fragment, transport.clone())
        .prop_map(|(options, field, (kind, bytes))| frame(0x0800, &packet_v4(&options, field, kind, &bytes)));
    let v6 = (chain, transport).prop_map(|(chain, (kind, bytes))| v6_chain(&chain, kind, &bytes));
    let flips = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    let resized = prop::option::weighted(0.3, -30i32..30);
    (prop_oneof![v4, v6], flips, any::<bool>(), resized).prop_map(|(mut frame, flips, sealed, resized)| {
        for (at, byte) in flips {
            let at = L3 + at.index(frame.len() - L3);
            frame[at] = byte;
        }
        if sealed && frame[12..14] == [8, 0] {
            seal_v4(&mut frame[L3..]);
        }
        let length = frame.len() as i32 + resized.unwrap_or(0);
        frame.resize((length.max(0) as usize).max(L3), 0);
        frame
    })
}

/// What etherparse does not look at, or sees otherwise.
fn only_we_refuse(reason: Malformed, theirs: &SlicedPacket<'_>) -> bool {
    use Malformed::*;
    match reason {
        // It verifies no checksum and walks no options.
        Ip4BadChecksum | IcmpBadChecksum | Ip4BadOptions | IpOptionsSourceRoute => true,
        // It takes a payload length of 0 as "to the end of the slice", for IPv6 and UDP.
        Ip6BadPayloadLength | UdpBadLength => true,
        // It has no policy on extension headers, fragments and flags.
        Ip6ExtOrder | Ip6ExtLimit | Ip6RoutingHeader0 | FragTiny | FragOffsetOne | FragOverrun => true,
        FragBadLength | TcpBadFlags => true,
        // It leaves the transport header of a first fragment alone.
        TcpBadOffset => theirs.is_ip_payload_fragmented(),
        _ => false,
    }
}

/// What it refuses and we pass on.
fn only_we_accept(packet: &Packet) -> bool {
    let protocol = packet.protocol;
    // It reads what follows the Fragment header of a later fragment as if it were headers.
    matches!(packet.fragment, Fragment::Later { .. })
        // It goes on through AH, Mobility, HIP and Shim6, and reads IGMP and the other family's ICMP.
        || matches!(protocol, 51 | 135 | 139 | 140 | 2)
        || (packet.transport == Transport::Other && matches!(protocol, 1 | 58))
        // It wants a Timestamp to be exactly 20 bytes.
        || matches!(packet.transport, Transport::IcmpQuery { kind: 13 | 14, .. })
        // The header of a first fragment with another upper layer.
        || matches!(packet.fragment, Fragment::First { .. })
}

fn compare(frame: &[u8], ours: &Packet, theirs: &SlicedPacket<'_>) {
    let payload = match theirs.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            assert_eq!(ours.family, Family::V4);
            assert_eq!(ours.source, mapped(header.source()));
            assert_eq!(ours.destination, mapped(header.destination()));
            assert_eq!((ours.ttl, ours.dont_fragment), (header.ttl(), header.dont_fragment()));
            assert_eq!(ours.traffic_class, header.dcp().value() << 2 | header.ecn().value());
            assert_eq!(ours.identification, u32::from(header.identification()));
            assert_eq!(ours.has_options, !header.options().is_empty());
            assert_eq!(ours.fragment == Fragment::Whole, !ip.is_payload_fragmented());
            ip.payload()
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            assert_eq!(ours.family, Family::V6);
            assert_eq!((ours.source, ours.destination), (header.source(), header.destination()));
            assert_eq!((ours.ttl, ours.traffic_class), (header.hop_limit(), header.traffic_class()));
            assert_eq!(ours.fragment == Fragment::Whole, !ip.is_payload_fragmented());
            ip.payload()
        }
        NetSlice::Arp(_) => panic!("{ours:?}"),
    };
    if only_we_accept(ours) {
        return;
    }
    assert_eq!(ours.protocol, payload.ip_number.0);
    assert_eq!(&frame[ours.l4..ours.end], payload.payload);
    match (&ours.transport, theirs.transport.as_ref()) {
        (Transport::Tcp { source_port, destination_port, flags }, Some(TransportSlice::Tcp(tcp))) => {
            assert_eq!((*source_port, *destination_port), (tcp.source_port(), tcp.destination_port()));
            let bits =
                [tcp.fin(), tcp.syn(), tcp.rst(), tcp.psh(), tcp.ack(), tcp.urg(), tcp.ece(), tcp.cwr()];
            let theirs = bits.iter().rev().fold(0u8, |flags, bit| flags << 1 | u8::from(*bit));
            assert_eq!(*flags, theirs);
        }
        (Transport::Udp { source_port, destination_port, checksum_zero }, Some(TransportSlice::Udp(udp))) => {
            assert_eq!((*source_port, *destination_port), (udp.source_port(), udp.destination_port()));
            assert_eq!(*checksum_zero, udp.checksum() == 0);
        }
        (Transport::IcmpQuery { identifier, kind, code, .. }, Some(TransportSlice::Icmpv4(icmp))) => {
            assert_eq!((*kind, *code), (icmp.type_u8(), icmp.code_u8()));
            assert_eq!(identifier.to_be_bytes(), icmp.bytes5to8()[..2]);
        }
        (Transport::IcmpQuery { identifier, kind, code, .. }, Some(TransportSlice::Icmpv6(icmp))) => {
            assert_eq!((*kind, *code), (icmp.type_u8(), icmp.code_u8()));
            assert_eq!(identifier.to_be_bytes(), icmp.bytes5to8()[..2]);
        }
        (
            Transport::IcmpOther { kind, code } | Transport::IcmpError { kind, code, .. },
            Some(TransportSlice::Icmpv4(icmp)),
        ) => assert_eq!((*kind, *code), (icmp.type_u8(), icmp.code_u8())),
        (
            Transport::IcmpOther { kind, code } | Transport::IcmpError { kind, code, .. },
            Some(TransportSlice::Icmpv6(icmp)),
        ) => assert_eq!((*kind, *code), (icmp.type_u8(), icmp.code_u8())),
        (Transport::Other, None) => {}
        (ours, theirs) => panic!("{ours:?} is {theirs:?}"),
    }
}

#[test]
fn agrees_with_etherparse() {
    let mut outcomes = BTreeMap::<String, usize>::new();
    let mut runner = TestRunner::new(Config::with_cases(6000));
    let outcome = std::cell::RefCell::new(&mut outcomes);
    runner
        .run(&frames(), |frame| {
            let family = if frame[12..14] == [8, 0] { Family::V4 } else { Family::V6 };
            let ours = packet::parse(&frame, L3, family);
            // EtherType and version must agree for us; it goes by the version.
            let theirs = match family {
                Family::V4 => SlicedPacket::from_ether_type(etherparse::EtherType::IPV4, &frame[L3..]),
                Family::V6 => SlicedPacket::from_ether_type(etherparse::EtherType::IPV6, &frame[L3..]),
            };
            let name = match (&ours, &theirs) {
                (Ok(ours), Ok(theirs)) => {
                    compare(&frame, ours, theirs);
                    format!("both accept {:?}", std::mem::discriminant(&ours.transport))
                }
                (Err(_), Err(_)) => "both refuse".into(),
                (Err(reason), Ok(theirs)) => {
                    prop_assert!(only_we_refuse(*reason, theirs), "{:?}", reason);
                    "only we refuse".into()
                }
                (Ok(ours), Err(theirs)) => {
                    prop_assert!(only_we_accept(ours), "{:?}: {:?}", ours, theirs);
                    "only we accept".into()
                }
            };
            *outcome.borrow_mut().entry(name).or_default() += 1;
            Ok(())
        })
        .unwrap();

    // Not vacuous: most packets are accepted by both, and each transport was among them.
    let accepted: Vec<usize> = outcomes
        .iter()
        .filter(|(name, _)| name.starts_with("both accept"))
        .map(|(_, count)| *count)
        .collect();
    assert!(accepted.iter().sum::<usize>() > 1500, "{outcomes:?}");
    assert!(accepted.len() >= 5, "{outcomes:?}");
    for other in ["both refuse", "only we refuse"] {
        assert!(outcomes.get(other).is_some_and(|count| *count > 100), "{outcomes:?}");
    }
}

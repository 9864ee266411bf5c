//! Any bytes: nothing panics, and what the parse says lies in the frame.

use super::build::*;
use proptest::prelude::*;
use turnpike_wire::checksum::Delta;
use turnpike_wire::packet::{self, Family, Fragment, Packet, Transport};
use turnpike_wire::{arp, ethernet, fragment, icmp_error, inner, rewrite};

/// Everything the packet path does with a frame.
fn walk(frame: &[u8]) {
    let Ok(header) = ethernet::parse(frame) else { return };
    assert!(header.payload <= frame.len());
    let _ = arp::parse(&frame[header.payload..]);
    let _ = arp::reply_in_place(&mut frame.to_vec(), header.payload, [2; 6]);
    for family in [Family::V4, Family::V6] {
        let _ = inner::parse(frame, header.payload, frame.len(), family);
        if let Ok(packet) = packet::parse(frame, header.payload, family) {
            change(frame, &packet);
        }
    }
}

fn change(frame: &[u8], packet: &Packet) {
    let Packet { family, l3, l4, end, .. } = *packet;
    assert!(l3 < l4 && l4 <= end && end <= frame.len());
    assert_eq!(matches!(packet.fragment, Fragment::Later { .. }), packet.transport == Transport::None);
    let mut changed = frame.to_vec();
    let mut made = [0; 1500];
    rewrite::decrement_ttl(&mut changed, l3, family);
    rewrite::clamp_mss(&mut changed, packet, 536);
    if matches!(packet.transport, Transport::Udp { .. }) {
        rewrite::adjust_udp(&mut changed, l4 + rewrite::UDP_CHECKSUM, Delta::word(1, 2));
    }
    assert!(packet::parse(&changed, l3, family).is_ok());
    if let Transport::IcmpError { inner, .. } = packet.transport
        && let Ok(inner) = inner::parse(frame, inner, end, family)
    {
        assert!(inner.l3 < inner.l4 && inner.end <= end);
    }
    if let Some(plan) = fragment::plan(l4 - l3, end - l4, 576).filter(|_| family == Family::V4) {
        let pieces = (0..plan.count()).map(|index| plan.write(index, frame, l3, &mut made));
        assert!(pieces.into_iter().all(|length| length > 0));
    }
    assert!(icmp_error::ipv4(&mut made, SOURCE, DESTINATION, 3, 4, 0, 0, 0, &frame[l3..end]) > 0);
    assert!(icmp_error::ipv6(&mut made, SOURCE_V6, DESTINATION_V6, 2, 0, 0, 0, &frame[l3..end]) > 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_no_panic(frame in prop::collection::vec(any::<u8>(), 0..200), l3 in any::<usize>(), end in any::<usize>()) {
        walk(&frame);
        for family in [Family::V4, Family::V6] {
            prop_assert!(packet::parse(&frame, l3, family).is_err() || l3 < frame.len());
            let _ = inner::parse(&frame, l3, end, family);
        }
    }

    #[test]
    fn any_header_behind_a_sound_start_no_panic(
        start in prop::sample::select(vec![
            v4(6, &tcp(&[2, 4, 5, 0xb4], 2, b"")),
            v4(1, &icmp4(3, 3, [0; 4], &packet_v4(&[], 0, 17, &udp(b"")))),
            v6(58, &icmp6(1, 0, [0; 4], &packet_v6(17, &udp(b"")))),
            v6_chain(&[options_header(0), routing_header(2, 1), fragment_header(0, true)], 17, &udp(&[0; 16])),
        ]),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        length in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let mut frame = start;
        for (at, byte) in flips {
            let at = at.index(frame.len());
            frame[at] = byte;
        }
        if cut {
            frame.truncate(length.index(frame.len()));
        }
        if frame.len() >= L3 + 20 {
            seal_v4(&mut frame[L3..]);
        }
        walk(&frame);
    }
}

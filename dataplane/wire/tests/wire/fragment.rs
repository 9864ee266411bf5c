//! Splitting packets and putting them together again.

use super::build::*;
use proptest::prelude::*;
use turnpike_wire::fragment::plan;
use turnpike_wire::packet::{self, Family, Fragment};

/// All pieces of the IPv4 packet in `frame`, each from its IP header on.
fn pieces(frame: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    let packet = packet::parse(frame, L3, Family::V4).unwrap();
    let plan = plan(packet.l4 - L3, packet.end - packet.l4, mtu).unwrap();
    (0..plan.count())
        .map(|index| {
            let mut out = vec![0xee; mtu];
            let length = plan.write(index, frame, L3, &mut out);
            assert!(length > 0);
            out.truncate(length);
            out
        })
        .collect()
}

/// Header length, offset in bytes, MF.
fn place(packet: &[u8]) -> (usize, usize, bool) {
    let field = u16::from_be_bytes([packet[6], packet[7]]);
    (usize::from(packet[0] & 0xf) * 4, usize::from(field & 0x1fff) * 8, field & MORE != 0)
}

#[test]
fn only_copied_options_are_copied() {
    // Record Route is not copied, Router Alert is, and a copied one of 3 bytes is padded.
    let options = [7, 7, 4, 0, 0, 0, 0, 1, 148, 4, 0, 0, 130, 3, 9, 0];
    let frame = v4_options(&options, 17, &udp(&[7; 100]));
    let pieces = pieces(&frame, 76);
    assert_eq!(pieces.len(), 3);
    assert_eq!(pieces[0][20..36], options);
    assert_eq!(pieces[1][20..28], [148, 4, 0, 0, 130, 3, 9, 0]);
    assert_eq!(place(&pieces[1]).0, 28);
}

#[test]
fn no_plan_where_none_works() {
    assert_eq!(plan(20, 1000, 27), None, "no room for 8 bytes");
    assert!(plan(20, 7, 27).is_some(), "fits as it is");
    assert_eq!(plan(19, 1000, 576), None);
    assert_eq!(plan(64, 1000, 576), None);
    assert_eq!(plan(20, 65516, 576), None);
    assert_eq!(plan(20, usize::MAX, 576), None);
    assert_eq!(plan(20, 0, 576).unwrap().count(), 1);
    let plan = plan(20, 1000, 576).unwrap();
    assert_eq!(plan.count(), 2);
    assert_eq!(plan.write(2, &[0x45; 2000], 0, &mut [0; 600]), 0);
    assert_eq!(plan.write(0, &[0x45; 1000], 0, &mut [0; 600]), 0);
    assert_eq!(plan.write(0, &[0x45; 2000], 0, &mut [0; 500]), 0);
    assert_eq!(plan.write(0, &[0x45; 2000], usize::MAX, &mut [0; 600]), 0);
}

proptest! {
    #[test]
    fn udp_13a_pieces_reassemble_in_order(
        payload in prop::collection::vec(any::<u8>(), 1..1500),
        option in prop::sample::select(vec![&[][..], &[148, 4, 0, 0], &[7, 7, 4, 1, 2, 3, 4, 0]]),
        mtu in 68usize..1600,
        offset in prop::option::of(2usize..100),
        more in any::<bool>(),
    ) {
        // A whole packet, or a fragment that has to be split again.
        let (field, payload) = match offset {
            None => (0, payload),
            Some(offset) if more => {
                let length = payload.len().next_multiple_of(8);
                let mut payload = payload;
                payload.resize(length, 0);
                (offset as u16 | MORE, payload)
            }
            Some(offset) => (offset as u16, payload),
        };
        let frame = frame(0x0800, &packet_v4(option, field, 253, &payload));
        let pieces = pieces(&frame, mtu);
        prop_assert_eq!(pieces.len() > 1, 20 + option.len() + payload.len() > mtu);

        let (_, start, source_more) = place(&frame[L3..]);
        let mut together = Vec::new();
        for (index, piece) in pieces.iter().enumerate() {
            prop_assert!(piece.len() <= mtu);
            let (header_len, offset, more) = place(piece);
            prop_assert_eq!(offset, start + together.len());
            prop_assert_eq!(more, source_more || index + 1 < pieces.len());
            // Sound as a packet, header checksum included.
            let piece_frame = super::build::frame(0x0800, piece);
            let packet = packet::parse(&piece_frame, L3, Family::V4).unwrap();
            prop_assert_eq!(packet.fragment == Fragment::Whole, offset == 0 && !more);
            prop_assert_eq!((packet.identification, packet.ttl, packet.traffic_class), (0x1234, 64, 0xb8));
            together.extend_from_slice(&piece[header_len..]);
        }
        prop_assert_eq!(together, payload);
    }

    #[test]
    fn etherparse_reassembles_it(payload in prop::collection::vec(any::<u8>(), 100..1500), mtu in 68usize..600) {
        let frame = v4(17, &udp(&payload));
        let mut pool = etherparse::defrag::IpDefragPool::<(), ()>::new();
        let mut whole = None;
        for piece in pieces(&frame, mtu) {
            let sliced = etherparse::SlicedPacket::from_ip(&piece).unwrap();
            whole = pool.process_sliced_packet(&sliced, (), ()).unwrap().or(whole);
        }
        match whole {
            Some(whole) => prop_assert_eq!(whole.payload, &frame[L3 + 20..]),
            None => prop_assert!(frame.len() - L3 <= mtu),
        }
    }
}

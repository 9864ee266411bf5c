//! Fragmentation and MSS clamping: what leaves is what came, in smaller pieces.

use etherparse::{Ipv4HeaderSlice, PacketBuilder};
use proptest::prelude::*;
use turnpike_wire::checksum::{ones_complement, transport};
use turnpike_wire::packet::{TCP_ACK, TCP_SYN, parse};
use turnpike_wire::{Family, fragment, rewrite};

const A: [u8; 4] = [10, 0, 0, 9];
const B: [u8; 4] = [198, 51, 100, 7];

/// An IPv4 packet with `options` (multiple of 4 bytes) and any payload, DF=0, at `l3` of a frame.
fn packet(l3: usize, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let length = 20 + options.len();
    let mut header = vec![0x40 | (length / 4) as u8, 0x10];
    header.extend(((length + payload.len()) as u16).to_be_bytes());
    header.extend([0x12, 0x34, 0, 0, 61, 17, 0, 0]);
    header.extend([A, B].concat());
    header.extend(options);
    let check = ones_complement(&header);
    header[10..12].copy_from_slice(&check.to_be_bytes());
    [&vec![0xee; l3][..], &header, payload].concat()
}

/// Cuts a packet; every piece is checked by etherparse.
fn pieces(frame: &[u8], l3: usize, mtu: usize) -> Option<Vec<Vec<u8>>> {
    let header = Ipv4HeaderSlice::from_slice(&frame[l3..]).expect("sound");
    let plan = fragment::plan(header.slice().len(), frame.len() - l3 - header.slice().len(), mtu)?;
    let mut out = vec![0; mtu];
    let pieces = (0..plan.count()).map(|index| {
        let length = plan.write(index, frame, l3, &mut out);
        assert!(length > 0 && length <= mtu, "piece of {length} for {mtu}");
        let piece = Ipv4HeaderSlice::from_slice(&out[..length]).expect("a sound piece");
        assert_eq!(usize::from(piece.total_len()), length);
        assert_eq!(piece.header_checksum(), piece.to_header().calc_header_checksum());
        assert_eq!(ones_complement(piece.slice()), 0);
        out[..length].to_vec()
    });
    let pieces = pieces.collect();
    assert_eq!(plan.write(plan.count(), frame, l3, &mut out), 0);
    Some(pieces)
}

/// Puts fragments together the way RFC 791 section 3.2 does.
fn reassemble(pieces: &[Vec<u8>]) -> (Vec<u8>, bool) {
    let mut payload = Vec::new();
    let mut last = false;
    for piece in pieces {
        let header = Ipv4HeaderSlice::from_slice(piece).expect("sound");
        assert_eq!(payload.len(), usize::from(header.fragments_offset().value()) * 8, "out of order");
        assert!(!last, "a piece behind the last");
        assert_eq!((header.source(), header.destination(), header.identification()), (A, B, 0x1234));
        assert_eq!((header.ttl(), header.protocol().0, header.slice()[1]), (61, 17, 0x10));
        assert!(!header.dont_fragment());
        payload.extend(&piece[header.slice().len()..]);
        last = !header.more_fragments();
    }
    (payload, last)
}

fn options() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(vec![
        vec![],
        // Router alert is copied, record route is not (RFC 791 3.1).
        vec![148, 4, 0, 0],
        vec![7, 7, 4, 0, 0, 0, 0, 0],
        vec![1, 148, 4, 0, 0, 7, 3, 4, 0, 0, 0, 0],
        [[1; 36], [0; 36]].concat()[..40].to_vec(),
    ])
}

proptest! {
    /// RFC 4787 REQ-13a, RFC 791 3.2.
    #[test]
    fn udp_13a_fragments_reassemble_to_the_original(
        options in options(), length in 0usize..4000, mtu in 68usize..1501, l3 in 0usize..20,
    ) {
        let payload: Vec<u8> = (0..length).map(|i| (i * 7) as u8).collect();
        let frame = packet(l3, &options, &payload);
        let pieces = pieces(&frame, l3, mtu).expect("68 bytes have room for any header");
        prop_assert_eq!(reassemble(&pieces), (payload, true));
        if frame.len() - l3 <= mtu {
            prop_assert_eq!(&pieces, &vec![frame[l3..].to_vec()], "changed what fits");
        } else {
            prop_assert!(pieces.len() > 1);
        }
        for (index, piece) in pieces.iter().enumerate() {
            let header = Ipv4HeaderSlice::from_slice(piece).unwrap();
            let alert = header.options().windows(2).any(|option| option == [148, 4]);
            prop_assert_eq!(alert, options.windows(2).any(|option| option == [148, 4]));
            if index > 0 {
                prop_assert!(!header.options().contains(&7), "an option that is not copied was");
            }
        }
    }

    /// A fragment is cut further for a narrower link; its pieces fall into the datagram's places.
    #[test]
    fn udp_13a_pieces_of_pieces_reassemble(length in 600usize..3000, first in 200usize..600, second in 68usize..200) {
        let payload: Vec<u8> = (0..length).map(|i| (i * 13) as u8).collect();
        let whole = packet(0, &[], &payload);
        let all: Vec<Vec<u8>> = pieces(&whole, 0, first).unwrap().iter().flat_map(|piece| pieces(piece, 0, second).unwrap()).collect();
        prop_assert_eq!(reassemble(&all), (payload, true));
    }

    #[test]
    fn plans_for_links_without_room_are_refused(header in 0usize..80, payload in 0usize..70_000, mtu in 0usize..100) {
        if let Some(plan) = fragment::plan(header, payload, mtu) {
            prop_assert!((20..=60).contains(&header) && header % 4 == 0);
            prop_assert!(plan.count() == 1 || mtu >= header + 8);
        }
    }

    #[test]
    fn mss_1_the_option_is_lowered_wherever_it_lies(
        before in prop::sample::select(vec![vec![], vec![1], vec![1, 1], vec![1, 1, 1], vec![4, 2], vec![3, 3, 7], vec![8, 10, 1, 2, 3, 4, 5, 6, 7, 8]]),
        mss in any::<u16>(), limit in any::<u16>(), ack in any::<bool>(), payload in prop::collection::vec(any::<u8>(), 0..20),
        v6 in any::<bool>(),
    ) {
        let mut options = [&before[..], &[2, 4], &mss.to_be_bytes()].concat();
        let at = 20 + options.len() - 2;
        options.resize(options.len().next_multiple_of(4), 0);
        let flags = TCP_SYN | if ack { TCP_ACK } else { 0 };
        let mut frame = segment(v6, flags, &options, &payload);
        let family = if v6 { Family::V6 } else { Family::V4 };
        let parsed = parse(&frame, 0, family).unwrap();
        let original = frame.clone();
        let lowered = rewrite::clamp_mss(&mut frame, &parsed, limit);
        prop_assert_eq!(lowered, mss > limit);
        let mut expected = original;
        expected[parsed.l4 + at..parsed.l4 + at + 2].copy_from_slice(&mss.min(limit).to_be_bytes());
        expected[parsed.l4 + 16..parsed.l4 + 18].copy_from_slice(&frame[parsed.l4 + 16..parsed.l4 + 18]);
        prop_assert_eq!(&frame, &expected, "something else changed");
        prop_assert_eq!(transport(&parsed.source, &parsed.destination, 6, &frame[parsed.l4..]), 0, "checksum");
    }

    #[test]
    fn mss_1_any_options_no_panic_and_the_checksum_stays_right(
        words in prop::collection::vec(any::<[u8; 4]>(), 0..10), limit in any::<u16>(),
    ) {
        let mut frame = segment(false, TCP_SYN, &words.concat(), &[]);
        let parsed = parse(&frame, 0, Family::V4).unwrap();
        rewrite::clamp_mss(&mut frame, &parsed, limit);
        prop_assert_eq!(transport(&parsed.source, &parsed.destination, 6, &frame[20..]), 0);
    }
}

fn segment(v6: bool, flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let mut wide = [0; 16];
    wide[0] = 0x20;
    let builder = if v6 { PacketBuilder::ipv6(wide, wide, 9) } else { PacketBuilder::ipv4(A, B, 9) };
    let step = builder.tcp(40000, 80, 1, 1000).syn();
    let step = if flags & TCP_ACK != 0 { step.ack(5) } else { step };
    step.options_raw(options).expect("up to 40 bytes").write(&mut frame, payload).expect("a packet");
    frame
}

#[test]
fn mss_1_without_the_option_nothing_is_inserted() {
    for options in [&[][..], &[1, 1, 1, 1], &[4, 2, 0, 0], &[0, 2, 4, 5]] {
        let mut frame = segment(false, TCP_SYN, options, b"data");
        let parsed = parse(&frame, 0, Family::V4).unwrap();
        let original = frame.clone();
        assert!(!rewrite::clamp_mss(&mut frame, &parsed, 536));
        assert_eq!(frame, original);
    }
}

#[test]
fn mss_1_only_a_syn_is_looked_at() {
    let mut frame = segment(false, TCP_SYN, &[2, 4, 0xff, 0xff], &[]);
    frame[33] = TCP_ACK;
    let parsed = parse(&frame, 0, Family::V4).unwrap();
    assert!(!rewrite::clamp_mss(&mut frame, &parsed, 536));
}

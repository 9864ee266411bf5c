//! The Internet checksum: golden vectors of RFC 1071 and RFC 1624, and the incremental update against the full one.

use proptest::prelude::*;
use turnpike_wire::checksum::{Delta, fold, ones_complement, pseudo_header, sum, transport};
use turnpike_wire::protocol;

/// The oracle: 16-bit words added one by one with end-around carry.
fn naive(bytes: &[u8]) -> u16 {
    let mut total = 0u16;
    for pair in bytes.chunks(2) {
        let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        let (added, carry) = total.overflowing_add(word);
        total = added + u16::from(carry);
    }
    !total
}

/// RFC 1071 section 3.
#[test]
fn rfc_1071_example() {
    let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(fold(sum(&bytes)), 0xddf2);
    assert_eq!(ones_complement(&bytes), 0x220d);
}

/// RFC 1624 section 4: the old equation gave 0xffff here.
#[test]
fn rfc_1624_example() {
    assert_eq!(Delta::word(0x5555, 0x3285).apply(0xdd2f), 0x0000);
}

#[test]
fn golden_ipv4_header() {
    let mut header = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0x00, 0x01, 0xc0, 0xa8,
        0x00, 0xc7,
    ];
    assert_eq!(ones_complement(&header), 0xb861);
    header[10..12].copy_from_slice(&[0xb8, 0x61]);
    assert_eq!(ones_complement(&header), 0);
}

#[test]
fn golden_edges() {
    assert_eq!(ones_complement(&[]), 0xffff);
    assert_eq!(ones_complement(&[0xff; 64]), 0);
    assert_eq!(ones_complement(&[0xab]), !0xab00);
    // The longest IP packet there is, all ones.
    assert_eq!(ones_complement(&[0xff; 65535]), naive(&[0xff; 65535]));
}

/// RFC 768: a UDP checksum that comes out as 0 is sent as 0xffff, and 0 means none.
#[test]
fn nat_3_udp_edges() {
    let to_zero = Delta::word(0x0000, 0x1234);
    let check = 0x1234;
    assert_eq!(to_zero.apply(check), 0);
    assert_eq!(to_zero.apply_udp(check), 0xffff);
    for delta in [to_zero, Delta::NONE, Delta::word(0xffff, 0)] {
        assert_eq!(delta.apply_udp(0), 0);
    }
}

/// 0 and 0xffff, the two zeros of ones' complement, come up in one word of four.
fn word() -> impl Strategy<Value = u16> {
    prop_oneof![4 => any::<u16>(), 1 => Just(0u16), 1 => Just(0xffffu16)]
}

fn words(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(word(), count)
        .prop_map(|words| words.into_iter().flat_map(u16::to_be_bytes).collect())
}

proptest! {
    #[test]
    fn sum_equals_adding_word_by_word(bytes in prop::collection::vec(any::<u8>(), 0..1600)) {
        prop_assert_eq!(ones_complement(&bytes), naive(&bytes));
    }

    #[test]
    fn sums_of_even_pieces_add_up(bytes in words(2..200), cut in any::<prop::sample::Index>()) {
        let (head, tail) = bytes.split_at(cut.index(bytes.len() / 2) * 2);
        prop_assert_eq!(!fold(sum(head) + sum(tail)), naive(&bytes));
    }

    /// NAT-3, RFC 1624 equation 3. Of a message that is not all zeros, as no packet is.
    #[test]
    fn nat_3_incremental_equals_full(
        mut message in words(4..100), at in any::<prop::sample::Index>(), new in words(1..9),
    ) {
        message[0] |= 1;
        let at = 2 + at.index(message.len() / 2 - 1) * 2;
        let new = &new[..new.len().min(message.len() - at)];
        let check = ones_complement(&message);
        let old = message[at..at + new.len()].to_vec();
        message[at..at + new.len()].copy_from_slice(new);
        let full = ones_complement(&message);
        let delta = Delta::bytes(&old, new);
        prop_assert_eq!(delta.apply(check), full);

        // Word by word, in any grouping, undone, and through a flow record it is the same.
        let by_word = old.chunks(2).zip(new.chunks(2)).fold(Delta::NONE, |delta, (old, new)| {
            delta.and(Delta::word(u16::from_be_bytes([old[0], old[1]]), u16::from_be_bytes([new[0], new[1]])))
        });
        prop_assert_eq!(by_word.apply(check), full);
        prop_assert_eq!(delta.inverse().apply(full), check);
        prop_assert_eq!(Delta::from_bits(delta.to_bits()).apply(check), full);

        // UDP sends the other zero.
        let udp = |check: u16| if check == 0 { 0xffff } else { check };
        prop_assert_eq!(delta.apply_udp(udp(check)), udp(full));
    }

    /// A receiver accepts what the update gives, whatever form of zero it has.
    #[test]
    fn nat_3_updated_message_verifies(mut message in words(4..60), new in word()) {
        message[0] |= 1;
        message[2..4].fill(0);
        let check = ones_complement(&message);
        let delta = Delta::word(u16::from_be_bytes([message[4], message[5]]), new);
        message[4..6].copy_from_slice(&new.to_be_bytes());
        message[2..4].copy_from_slice(&delta.apply(check).to_be_bytes());
        prop_assert_eq!(ones_complement(&message), 0);
    }

    #[test]
    fn pseudo_header_is_that_of_the_family(
        v4 in any::<bool>(), source in any::<[u8; 16]>(), destination in any::<[u8; 16]>(),
        message in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let length = message.len() as u32;
        let (source, destination, mut pseudo) = if v4 {
            let (s, d) = (&source[..4], &destination[..4]);
            let pseudo = [s, d, &[0, 17], &length.to_be_bytes()[2..]].concat();
            let mapped = |address: &[u8]| turnpike_wire::packet::mapped(address.try_into().unwrap());
            (mapped(s), mapped(d), pseudo)
        } else {
            // Never v4-mapped.
            let (mut s, mut d) = (source, destination);
            (s[0], d[0]) = (0x20, 0x20);
            (s, d, [&s[..], &d[..], &length.to_be_bytes(), &[0, 0, 0, 17]].concat())
        };
        prop_assert_eq!(fold(pseudo_header(&source, &destination, protocol::UDP, length)), !naive(&pseudo));
        pseudo.extend(&message);
        prop_assert_eq!(transport(&source, &destination, protocol::UDP, &message), naive(&pseudo));
    }
}

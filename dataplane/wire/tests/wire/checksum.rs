//! RFC 1071, RFC 1624 and row NAT-3.

use super::build::{DESTINATION, DESTINATION_V6, SOURCE, SOURCE_V6};
use super::build::{naive_checksum, pseudo_v4, pseudo_v6};
use proptest::prelude::*;
use turnpike_wire::checksum::{Delta, fold, ones_complement, pseudo_header, sum, transport};
use turnpike_wire::packet::mapped;

/// Words at which ones'-complement arithmetic has its corners, mixed with any.
fn word() -> impl Strategy<Value = u16> {
    prop_oneof![
        3 => prop::sample::select(vec![0x0000, 0xffff, 0x0001, 0xfffe, 0x00ff, 0xff00, 0x7fff, 0x8000]),
        5 => any::<u16>(),
    ]
}

fn bytes_of(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// Equal as ones'-complement numbers: 0x0000 and 0xffff are both zero.
fn congruent(a: u16, b: u16) -> bool {
    a % 0xffff == b % 0xffff
}

#[test]
fn rfc_1071_section_3_example() {
    let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(fold(sum(&bytes)), 0xddf2);
    assert_eq!(ones_complement(&bytes), !0xddf2);
}

#[test]
fn rfc_1624_section_4_example() {
    // HC = 0xdd2f, m = 0x5555, m' = 0x3285: equation 2 says 0xffff, which is wrong; equation 3 says 0.
    assert_eq!(Delta::word(0x5555, 0x3285).apply(0xdd2f), 0x0000);
}

#[test]
fn odd_last_byte_is_padded() {
    assert_eq!(sum(&[0x12]), 0x1200);
    assert_eq!(sum(&[]), 0);
    assert_eq!(fold(0xffff_ffff), 0xffff);
}

#[test]
fn long_input_does_not_overflow() {
    assert_eq!(fold(sum(&vec![0xff; 400_001])), fold(0xffff + 0xff00));
}

#[test]
fn nat_3_udp_checksum_zero() {
    let any = Delta::word(1, 2);
    assert_eq!(any.apply_udp(0), 0, "no checksum stays none");
    // A rewrite whose result is 0 is sent as 0xffff: 0 would say there is none.
    let to_zero = Delta::word(0x5555, 0x3285);
    assert_eq!(to_zero.apply(0xdd2f), 0);
    assert_eq!(to_zero.apply_udp(0xdd2f), 0xffff);
}

#[test]
fn nothing_changes_nothing() {
    for check in 0..=u16::MAX {
        assert_eq!(Delta::NONE.apply(check), check);
    }
    assert_eq!(Delta::NONE.inverse(), Delta::NONE);
    assert_eq!(Delta::default(), Delta::NONE);
}

proptest! {
    #[test]
    fn sum_equals_the_naive_one(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(ones_complement(&bytes), naive_checksum(&[&bytes]));
    }

    #[test]
    fn nat_3_incremental_equals_full(
        mut words in prop::collection::vec(word(), 1..12),
        at in any::<prop::sample::Index>(),
        new in word(),
    ) {
        let old_check = ones_complement(&bytes_of(&words));
        let at = at.index(words.len());
        let old = std::mem::replace(&mut words[at], new);
        let full = ones_complement(&bytes_of(&words));
        let delta = Delta::word(old, new);
        let updated = delta.apply(old_check);

        // RFC 1624 equation 3, computed the slow way: HC' = ~(~HC + ~m + m').
        let equation_3 = naive_checksum(&[&bytes_of(&[!old_check, !old, new])]);
        prop_assert_eq!(updated, equation_3);
        prop_assert!(congruent(updated, full), "{:04x} {:04x}", updated, full);
        // All headers that exist hold a word other than 0: then it is the same number too.
        if words.iter().any(|word| *word != 0) && old_check != 0xffff {
            prop_assert_eq!(updated, full);
        }
        prop_assert!(congruent(delta.inverse().apply(updated), old_check));
    }

    #[test]
    fn nat_3_deltas_compose(old in prop::collection::vec(word(), 6), new in prop::collection::vec(word(), 6), fixed in 1u16..) {
        let mut before = bytes_of(&old);
        before.extend_from_slice(&fixed.to_be_bytes());
        let mut after = bytes_of(&new);
        after.extend_from_slice(&fixed.to_be_bytes());
        let check = ones_complement(&before);

        let at_once = Delta::bytes(&bytes_of(&old), &bytes_of(&new));
        let by_word = old.iter().zip(&new).fold(Delta::NONE, |all, (old, new)| all.and(Delta::word(*old, *new)));
        prop_assert_eq!(at_once.apply(check), ones_complement(&after));
        prop_assert_eq!(by_word.apply(check), ones_complement(&after));
        prop_assert_eq!(at_once.and(at_once.inverse()).apply(check), check);
        prop_assert_eq!(Delta::from_bits(at_once.to_bits()), at_once);
        // A UDP checksum is 0xffff where the sum says 0.
        let sent = if check == 0 { 0xffff } else { check };
        let expected = match ones_complement(&after) { 0 => 0xffff, right => right };
        prop_assert_eq!(at_once.apply_udp(sent), expected);
    }

    #[test]
    fn transport_equals_the_naive_one(message in prop::collection::vec(any::<u8>(), 0..100), protocol in any::<u8>()) {
        let v4 = naive_checksum(&[&pseudo_v4(SOURCE, DESTINATION, protocol, message.len()), &message]);
        let v6 = naive_checksum(&[&pseudo_v6(protocol, message.len()), &message]);
        let pseudo = pseudo_header(&mapped(SOURCE), &mapped(DESTINATION), protocol, message.len() as u32);
        prop_assert_eq!(!fold(pseudo + sum(&message)), v4);
        if protocol != 1 {
            prop_assert_eq!(transport(&mapped(SOURCE), &mapped(DESTINATION), protocol, &message), v4);
            prop_assert_eq!(transport(&SOURCE_V6, &DESTINATION_V6, protocol, &message), v6);
        }
    }
}

//! Any bytes as a table: no panic, and every fault lies inside the table. The same harness runs as fuzz target `tables`.

use proptest::prelude::*;
use std::collections::BTreeSet;
use turnpike_engine::Policy;
use turnpike_sim::any_table::{Outcome, interfaces, run, sound_forwarding, sound_policy};
use turnpike_sim::tables::PolicyTable;

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_as_a_table_are_decoded_or_refused(data in prop::collection::vec(any::<u8>(), 0..1200)) {
        run(&data);
    }

    #[test]
    fn a_sound_table_with_any_few_bytes_changed_is_decoded_or_refused(
        kind in 1u8..3, edits in prop::collection::vec(any::<u8>(), 3..12),
    ) {
        run(&[&[kind], &edits[..]].concat());
    }

    #[test]
    fn a_sound_table_with_its_middle_replaced_is_decoded_or_refused(
        policy in any::<bool>(), at in any::<prop::sample::Index>(), piece in prop::collection::vec(any::<u8>(), 1..64),
    ) {
        let mut table = if policy { sound_policy() } else { sound_forwarding() };
        let at = at.index(table.len());
        let length = piece.len().min(table.len() - at);
        table[at..at + length].copy_from_slice(&piece[..length]);
        run(&[&[0], &table[..]].concat());
    }
}

#[test]
fn sound_tables_are_accepted() {
    assert_eq!(run(&[1]), Outcome::Policy);
    assert_eq!(run(&[2]), Outcome::Forwarding);
}

/// The harness is not vacuous: changing single bytes of sound tables leads to many different refusals, and to
/// tables that are still accepted and then run.
#[test]
fn every_byte_of_a_sound_table_may_change() {
    let mut reasons = BTreeSet::new();
    let mut accepted = 0;
    for kind in 1..3 {
        let length = if kind == 1 { sound_policy() } else { sound_forwarding() }.len() as u16;
        for at in 0..length {
            let [high, low] = at.to_be_bytes();
            for value in [0, 1, 0x7f, 0xff] {
                match run(&[kind, high, low, value]) {
                    Outcome::Refused(fault) => {
                        reasons.insert(fault.what);
                    }
                    Outcome::Policy | Outcome::Forwarding => accepted += 1,
                }
            }
        }
    }
    assert!(accepted > 100, "only {accepted} accepted");
    assert!(reasons.len() >= 20, "only these reasons: {reasons:?}");
}

/// A worker keeps memory for every pool address; a control plane may not ask for all there is.
#[test]
fn pools_of_more_than_65536_addresses_are_refused() {
    let mut table = PolicyTable::default();
    table.ranges[0].first = [10, 128, 0, 0];
    table.ranges[0].last = [10, 128, 255, 255];
    assert!(Policy::decode(&table.bytes(1), &interfaces()).is_ok());
    table.ranges[0].last = [10, 129, 0, 0];
    let fault = Policy::decode(&table.bytes(1), &interfaces()).unwrap_err();
    assert_eq!(fault.what, "pools have more than 65536 addresses");
}

//! The conformance sheet says what the tests show: every row is there, and every test it names exists.

use turnpike_conformance::{Sheet, numbered};

/// The requirement rows: name and how many there are.
const ROWS: &[(&str, usize)] = &[
    ("A-GEN", 13),
    ("A-SES", 7),
    ("A-ADR", 9),
    ("A-PRR", 5),
    ("A-PER", 5),
    ("A-RLC", 2),
    ("A-REN", 3),
    ("A-GRP", 3),
    ("A-CNF", 5),
    ("A-AMB", 7),
];

fn sheet() -> Sheet {
    Sheet::read("controlplane/policy/conformance.md", "A-")
}

#[test]
fn every_row_stands_once_in_the_sheet() {
    sheet().has_exactly(&numbered(ROWS));
}

#[test]
fn every_test_that_the_sheet_names_exists() {
    sheet().names_tests_that_exist();
}

#[test]
fn a_row_is_met_by_a_test_and_what_is_not_says_why() {
    sheet().bears_out_each_status();
}

#[test]
fn the_sheet_counts_its_rows() {
    sheet().counts_its_rows();
}

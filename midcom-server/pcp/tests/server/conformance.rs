//! The conformance sheet says what the tests show: every row is there, and every test it names exists.

use turnpike_conformance::{Sheet, numbered};

/// The requirement rows: name and how many there are.
const ROWS: &[(&str, usize)] = &[
    ("E-COM", 12),
    ("E-MAP", 18),
    ("E-PEER", 4),
    ("E-OPT", 3),
    ("E-REC", 4),
    ("E-SEC", 1),
    ("E-PMP", 7),
    ("E-SET", 7),
];

fn sheet() -> Sheet {
    Sheet::read("midcom-server/pcp/conformance.md", "E-")
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

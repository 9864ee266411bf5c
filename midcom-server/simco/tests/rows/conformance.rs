//! The conformance sheet says what the tests show: every row is there, and every test it names exists.

use turnpike_conformance::{Sheet, numbered};

/// The requirement rows: name and how many there are.
const ROWS: &[(&str, usize)] = &[
    ("B-FMT", 5),
    ("B-SES", 6),
    ("B-PRR", 3),
    ("B-PER", 3),
    ("B-PEA", 1),
    ("B-PLC", 1),
    ("B-PRS", 1),
    ("B-PRL", 1),
    ("B-PDR", 1),
    ("B-ARE", 1),
    ("B-CAP", 1),
    ("B-KA", 1),
    ("B-AMB", 24),
    ("B-SEC", 5),
];

fn sheet() -> Sheet {
    Sheet::read("midcom-server/simco/conformance.md", "B-")
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

/// The profile of B-AMB-20 is row B-SEC-02.
#[test]
fn a_row_with_tests_has_one_of_its_name() {
    for row in sheet().rows() {
        let own = row.id.to_lowercase().replace('-', "_");
        let named = row.tests.iter().any(|(_, test)| test.starts_with(&own));
        assert!(row.tests.is_empty() || named || row.id == "B-AMB-20", "{}: no test has its name", row.id);
    }
}

#[test]
fn the_sheet_counts_its_rows() {
    sheet().counts_its_rows();
}

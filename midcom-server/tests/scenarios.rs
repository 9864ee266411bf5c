//! The sheet of the scenarios says what the checks show: every row is there, and every check it names is run.

use std::collections::BTreeSet;
use turnpike_conformance::Sheet;

/// The sections of draft-ietf-midcom-scenarios-00 that are scenarios, and the rows that follow from them.
const ROWS: &str = "2.1 2.1.1 2.1.2 2.2 2.2.1 2.2.2 2.3.1 2.3.2 2.3.3 2.4.1 2.4.2 2.4.3 2.4.4 2.4.5
    F-21-a F-21-b F-211-a F-212-a F-22-a F-222-lock F-222-pred F-231 F-232 F-233 F-244 F-245 F-SEC";

fn sheet() -> Sheet {
    Sheet::read("midcom-server/scenarios.md", "")
}

#[test]
fn every_row_stands_once_in_the_sheet() {
    let wanted: BTreeSet<String> = ROWS.split_whitespace().map(str::to_owned).collect();
    sheet().has_exactly(&wanted);
}

#[test]
fn every_check_that_the_sheet_names_is_run() {
    sheet().names_tests_that_exist();
}

#[test]
fn a_row_is_met_by_a_check_and_what_is_not_says_why() {
    sheet().bears_out_each_status();
}

/// A scenario has a check that is named after it.
#[test]
fn a_scenario_has_a_check_of_its_name() {
    for row in sheet().rows().iter().filter(|row| row.id.starts_with('2')) {
        let own = format!("scenario_{}_", row.id.replace('.', "_"));
        // 2.1 is not met by a check of 2.1.1: no number follows.
        let named = |test: &str| {
            test.strip_prefix(&own)
                .is_some_and(|rest| rest.starts_with(|letter: char| letter.is_alphabetic()))
        };
        assert!(row.tests.iter().any(|(_, test)| named(test)), "{}: no check has its name", row.id);
    }
}

#[test]
fn the_sheet_counts_its_rows() {
    sheet().counts_its_rows();
}

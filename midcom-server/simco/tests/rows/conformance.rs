//! The conformance sheet says what the tests show: every row is there, and every test it names exists.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const SHEET: &str = include_str!("../../conformance.md");

/// The requirement rows, by family and how many.
const FAMILIES: &[(&str, u32)] = &[
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

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

struct Row {
    id: &'static str,
    status: &'static str,
    /// File and function of each test it names.
    tests: Vec<(&'static str, &'static str)>,
    remark: &'static str,
}

fn sheet() -> Vec<Row> {
    let rows = SHEET.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| B-")?.strip_suffix(" |")?.splitn(3, " | ");
        let (id, status, remark) = (cells.next()?, cells.next()?, cells.next()?);
        let id = &line[2..2 + 2 + id.len()];
        let named = remark.split('`').skip(1).step_by(2);
        let tests =
            named.map(|name| name.split_once("::").unwrap_or_else(|| panic!("{id}: `{name}` is no test")));
        Some(Row { id, status, tests: tests.collect(), remark })
    });
    rows.collect()
}

#[test]
fn every_row_stands_once_in_the_sheet() {
    let found: Vec<String> = sheet().iter().map(|row| row.id.to_owned()).collect();
    let wanted: BTreeSet<String> = FAMILIES
        .iter()
        .flat_map(|(family, count)| (1..=*count).map(move |number| format!("{family}-{number:02}")))
        .collect();
    let unique: BTreeSet<String> = found.iter().cloned().collect();
    assert_eq!(unique.len(), found.len(), "a row stands twice");
    assert_eq!(unique, wanted);
}

#[test]
fn every_test_that_the_sheet_names_exists() {
    let mut sources = BTreeMap::new();
    for row in sheet() {
        for (file, test) in &row.tests {
            let source = sources.entry(*file).or_insert_with(|| {
                std::fs::read_to_string(root().join(file))
                    .unwrap_or_else(|error| panic!("{}: {file}: {error}", row.id))
            });
            let name = format!("fn {test}(");
            let at = source.find(&name).unwrap_or_else(|| panic!("{}: no {test} in {file}", row.id));
            let before = source[..at].trim_end().lines().next_back().unwrap_or_default();
            let attribute = source[..at]
                .lines()
                .rev()
                .take(3)
                .any(|line| matches!(line.trim(), "#[test]" | "#[tokio::test]"));
            assert!(attribute, "{}: {test} is not a test: {before}", row.id);
        }
    }
}

/// A row with a test of its own has one that is named after it.
#[test]
fn a_row_is_met_by_a_test_and_what_is_not_says_why() {
    for row in sheet() {
        match row.status {
            "met" => assert!(!row.tests.is_empty(), "{} is met by no test", row.id),
            "partly" => {
                let said = row.remark.rsplit('`').next().unwrap_or_default().len() > 4;
                assert!(!row.tests.is_empty() && said, "{}: what is shown, and what is not?", row.id);
            }
            "not" => assert!(row.tests.is_empty() && !row.remark.is_empty(), "{}: why not?", row.id),
            other => panic!("{}: {other} is no status", row.id),
        }
        let own = row.id.to_lowercase().replace('-', "_");
        let named = row.tests.iter().any(|(_, test)| test.starts_with(&own));
        // The profile of B-AMB-20 is row B-SEC-02.
        assert!(row.tests.is_empty() || named || row.id == "B-AMB-20", "{}: no test has its name", row.id);
    }
}

/// The counts of the first paragraph are those of the sheet.
#[test]
fn the_sheet_counts_its_rows() {
    let rows = sheet();
    let count = |status: &str| rows.iter().filter(|row| row.status == status).count();
    let expected = format!(
        "Of {} rows {} are met, {} partly, {} not.",
        rows.len(),
        count("met"),
        count("partly"),
        count("not")
    );
    assert!(SHEET.contains(&expected), "it should say: {expected}");
}

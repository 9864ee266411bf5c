//! The conformance sheet says what the tests show: every row is there, and every test it names exists.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The requirement rows: name and how many there are.
const ROWS: [(&str, usize); 10] = [
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

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn text() -> String {
    std::fs::read_to_string(root().join("controlplane/policy/conformance.md")).expect("the sheet")
}

struct Row {
    id: String,
    status: String,
    /// File and function of each test it names.
    tests: Vec<(String, String)>,
    remark: String,
}

fn sheet() -> Vec<Row> {
    let text = text();
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| A-")?.strip_suffix(" |")?.splitn(3, " | ");
        let (id, status, remark) = (cells.next()?, cells.next()?, cells.next()?);
        let named = remark.split('`').skip(1).step_by(2);
        let tests = named.map(|name| {
            let (file, test) = name.split_once("::").unwrap_or_else(|| panic!("{id}: `{name}` is no test"));
            (file.to_owned(), test.to_owned())
        });
        Some(Row {
            id: format!("A-{id}"),
            status: status.to_owned(),
            tests: tests.collect(),
            remark: remark.to_owned(),
        })
    });
    rows.collect()
}

#[test]
fn every_row_stands_once_in_the_sheet() {
    let found: Vec<String> = sheet().into_iter().map(|row| row.id).collect();
    let unique: BTreeSet<String> = found.iter().cloned().collect();
    assert_eq!(unique.len(), found.len(), "a row stands twice");
    let numbered = |(name, count): (&str, usize)| {
        let name = name.to_owned();
        (1..=count).map(move |number| format!("{name}-{number:02}"))
    };
    let wanted: BTreeSet<String> = ROWS.into_iter().flat_map(numbered).collect();
    assert_eq!(unique, wanted);
}

#[test]
fn every_test_that_the_sheet_names_exists() {
    let mut sources = BTreeMap::new();
    for row in sheet() {
        for (file, test) in &row.tests {
            let source = sources.entry(file.clone()).or_insert_with(|| {
                std::fs::read_to_string(root().join(file))
                    .unwrap_or_else(|error| panic!("{}: {file}: {error}", row.id))
            });
            if file.ends_with(".py") {
                assert!(source.contains(&format!("\ndef {test}(")), "{}: no {test} in {file}", row.id);
                let listed =
                    source.rsplit("CHECKS = [").next().is_some_and(|list| list.contains(test.as_str()));
                assert!(listed, "{}: {test} is not run", row.id);
                continue;
            }
            // With its attribute, in a module or in a property test's macro.
            let name = format!("fn {test}(");
            let at = source.find(&name).unwrap_or_else(|| panic!("{}: no {test} in {file}", row.id));
            let before: Vec<&str> = source[..at].trim_end().lines().rev().take(2).collect();
            let marked = before
                .iter()
                .any(|line| ["#[test]", "#[tokio::test]"].iter().any(|mark| line.contains(mark)));
            assert!(marked, "{}: {test} is not a test", row.id);
        }
    }
}

#[test]
fn a_row_is_met_by_a_test_and_what_is_not_says_why() {
    for row in sheet() {
        let said = row.remark.rsplit('`').next().unwrap_or_default().len() > 4;
        match row.status.as_str() {
            "met" => assert!(!row.tests.is_empty(), "{} is met by no test", row.id),
            "partly" => assert!(!row.tests.is_empty() && said, "{}: what is shown, and what is not?", row.id),
            "not" => assert!(row.tests.is_empty() && !row.remark.is_empty(), "{}: why not?", row.id),
            other => panic!("{}: {other} is no status", row.id),
        }
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
    assert!(text().contains(&expected), "it should say: {expected}");
}

//! The conformance sheet says what the tests show: every row is there, and every test it names exists.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The requirement rows, by their stable ids.
const ROWS: &[&str] = &[
    "UDP-1",
    "UDP-2",
    "UDP-3",
    "UDP-3a",
    "UDP-4",
    "UDP-5",
    "UDP-5a",
    "UDP-5c",
    "UDP-6",
    "UDP-7",
    "UDP-8",
    "UDP-9",
    "UDP-9a",
    "UDP-10",
    "UDP-11",
    "UDP-12",
    "UDP-12a/b",
    "UDP-13",
    "UDP-13a",
    "UDP-14",
    "UDP-14a",
    "TCP-1",
    "TCP-2",
    "TCP-2a",
    "TCP-3",
    "TCP-4",
    "TCP-5",
    "TCP-6",
    "TCP-7",
    "TCP-8/8a",
    "TCP-9",
    "TCP-10",
    "ICMP-1",
    "ICMP-2",
    "ICMP-3",
    "ICMP-3b",
    "ICMP-3c",
    "ICMP-3d",
    "ICMP-4",
    "ICMP-5",
    "ICMP-6",
    "ICMP-7/7a",
    "ICMP-8",
    "ICMP-9",
    "ICMP-10a",
    "ICMP-10c",
    "ICMP-10d-f",
    "ICMP-PTB",
    "ICMP-TTL",
    "ICMP-SR",
    "ICMP-11",
    "UPD-1",
    "UPD-2",
    "UPD-3",
    "UPD-4",
    "UPD-5",
    "UPD-6",
    "UPD-7",
    "UPD-8",
    "UPD-9",
    "UPD-10",
    "UPD-11",
    "UPD-12",
    "UPD-13",
    "UPD-14",
    "CGN-1",
    "CGN-2",
    "CGN-3",
    "CGN-4",
    "CGN-4c",
    "CGN-5",
    "CGN-6",
    "CGN-7",
    "CGN-8",
    "CGN-9",
    "CGN-10",
    "CGN-11a",
    "CGN-11b",
    "CGN-11c",
    "CGN-11d",
    "CGN-12",
    "CGN-13/14/15",
    "CGN-L",
    "CGN-B",
    "CGN-Q",
    "DCCP-1",
    "DCCP-2",
    "DCCP-3",
    "DCCP-4",
    "DCCP-5",
    "DCCP-6",
    "DCCP-7/8",
    "DCCP-9/10",
    "DCCP-11",
    "DCCP-12/13",
    "SCTP-N",
    "SCTP-D",
    "DET-1",
    "DET-2",
    "DET-3",
    "DET-4",
    "DET-5",
    "DET-6",
    "DET-7",
    "DET-8",
    "DET-9",
    "LOG-1",
    "LOG-2",
    "LOG-3",
    "LOG-4",
    "LOG-5",
    "LOG-6",
    "LOG-7",
    "LOG-8",
    "LOG-9",
    "LOG-10",
    "LOG-11",
    "LOG-12",
    "LOG-13",
    "LOG-14",
    "LOG-15",
    "NAT-1",
    "NAT-2",
    "NAT-3",
    "NAT-4",
    "NAT-5",
    "NAT-6",
    "NAT-7",
    "NAT-8",
    "IPID-1",
    "IPID-2",
    "N64-1",
    "N64-2",
    "N64-3",
    "N64-4",
    "N64-5",
    "N64-6",
    "N64-7",
    "N64-8",
    "N64-9",
    "N64-10",
    "N64-11",
    "N64-12",
    "N64-13",
    "N64-14",
    "N64-15",
    "N64-16",
    "A52-1",
    "A52-2",
    "A52-3",
    "X-1",
    "X-2",
    "X-3",
    "X-4",
    "X-5",
    "X-6",
    "X-7",
    "X-8",
    "X-9",
    "X-10",
    "X-11",
    "X-12",
    "FW-0",
    "FW-1",
    "FW-2",
    "FW-3",
    "FW-4",
    "FW-5",
    "FW-6",
    "FW-7",
    "FW-8",
    "FW-9",
    "FW-10",
    "FW-11",
    "FW-12",
    "FW-13",
    "FW-14",
    "FW-15",
    "FW-16",
    "FW-17",
    "FW-18",
    "FW-19",
    "FW-20",
    "6T4-1",
    "6T4-2",
    "6T4-3",
    "6T4-4",
    "6T4-5",
    "6T4-6",
    "6T4-7",
    "6T4-8",
    "6T4-9",
    "6T4-10",
    "6T4-11",
    "6T4-12",
    "6T4-13",
    "TUN-1",
    "TUN-2",
    "TUN-3",
    "TUN-4",
    "IPS-1",
    "IPS-2",
    "IPS-3",
    "IPS-4",
    "IPS-5",
    "MIP-1",
    "GRE-1",
    "P41-1",
    "FRG-1",
    "FRG-2",
    "FRG-3",
    "FRG-4",
    "FRG-5",
    "FRG-6",
    "HP-1",
    "HP-2",
    "MSS-1",
    "MSS-2",
    "TTL-1",
    "TTL-2",
    "PMT-1",
    "PMT-2",
    "PMT-3",
    "PMT-4",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

struct Row {
    id: String,
    status: String,
    /// File and function of each test it names.
    tests: Vec<(String, String)>,
    remark: String,
}

fn sheet() -> Vec<Row> {
    let text = std::fs::read_to_string(root().join("dataplane/engine/conformance.md")).expect("the sheet");
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.strip_suffix(" |")?.splitn(3, " | ");
        let (id, status, remark) = (cells.next()?, cells.next()?, cells.next()?);
        if id == "row" {
            return None;
        }
        let named = remark.split('`').skip(1).step_by(2);
        let tests = named.map(|name| {
            let (file, test) = name.split_once("::").unwrap_or_else(|| panic!("{id}: `{name}` is no test"));
            (file.to_owned(), test.to_owned())
        });
        Some(Row {
            id: id.to_owned(),
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
    let unique: BTreeSet<&str> = found.iter().map(String::as_str).collect();
    assert_eq!(unique.len(), found.len(), "a row stands twice");
    let wanted: BTreeSet<&str> = ROWS.iter().copied().collect();
    let missing: Vec<_> = wanted.difference(&unique).collect();
    let unknown: Vec<_> = unique.difference(&wanted).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "missing {missing:?}, unknown {unknown:?}");
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
            // With its attribute, in a module or in a property test's macro.
            let name = format!("fn {test}(");
            let at = source.find(&name).unwrap_or_else(|| panic!("{}: no {test} in {file}", row.id));
            let before: Vec<&str> = source[..at].trim_end().lines().rev().take(3).collect();
            assert!(before.iter().any(|line| line.trim() == "#[test]"), "{}: {test} is not a test", row.id);
        }
    }
}

#[test]
fn a_row_is_met_by_a_test_and_what_is_not_says_why() {
    for row in sheet() {
        match row.status.as_str() {
            "met" => assert!(!row.tests.is_empty(), "{} is met by no test", row.id),
            "partly" => {
                let said = row.remark.rsplit('`').next().unwrap_or_default().len() > 4;
                assert!(!row.tests.is_empty() && said, "{}: what is shown, and what is not?", row.id);
            }
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
    let text = std::fs::read_to_string(root().join("dataplane/engine/conformance.md")).expect("the sheet");
    assert!(text.contains(&expected), "it should say: {expected}");
}

//! Conformance sheets: a row for each requirement, `| id | status | remark |`, whose remark names tests as
//! `` `file::function` ``. The tests of a crate that has a sheet hold it to what is there.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A requirement and how it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The requirement's stable id.
    pub id: String,
    /// `met`, `partly` or `not`.
    pub status: String,
    /// File, from the project's root, and function of each test the remark names.
    pub tests: Vec<(String, String)>,
    /// The remark as it stands.
    pub remark: String,
}

/// A sheet. Its checks panic with the row that is wrong.
#[derive(Clone, Debug)]
pub struct Sheet {
    text: String,
    rows: Vec<Row>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The ids of families whose rows are numbered from 01 on.
#[must_use]
pub fn numbered(families: &[(&str, usize)]) -> BTreeSet<String> {
    let ids = |(family, count): &(&str, usize)| {
        let family = (*family).to_owned();
        (1..=*count).map(move |number| format!("{family}-{number:02}"))
    };
    families.iter().flat_map(ids).collect()
}

impl Sheet {
    /// Reads the sheet at `path`, from the project's root. A row's id begins with `family`; of a sheet of many
    /// families, which has none in common, every row but the heading and the rule under it is one.
    ///
    /// # Panics
    /// If there is no such file, or a remark quotes what is no test.
    #[must_use]
    pub fn read(path: &str, family: &str) -> Self {
        let text =
            std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        let rows = text.lines().filter_map(|line| row(line, family)).collect();
        Self { text, rows }
    }

    /// The sheet's rows, in order.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Each of `wanted` stands in the sheet once, and nothing else does.
    ///
    /// # Panics
    /// If not.
    pub fn has_exactly(&self, wanted: &BTreeSet<String>) {
        let unique: BTreeSet<String> = self.rows.iter().map(|row| row.id.clone()).collect();
        assert_eq!(unique.len(), self.rows.len(), "a row stands twice");
        let missing: Vec<_> = wanted.difference(&unique).collect();
        let unknown: Vec<_> = unique.difference(wanted).collect();
        assert!(missing.is_empty() && unknown.is_empty(), "missing {missing:?}, unknown {unknown:?}");
    }

    /// Every test that a row names exists and is run: a Rust function with its attribute, or a check in its file's
    /// list.
    ///
    /// # Panics
    /// If not.
    pub fn names_tests_that_exist(&self) {
        let mut sources = BTreeMap::new();
        for row in &self.rows {
            for (file, test) in &row.tests {
                let source = sources.entry(file).or_insert_with(|| {
                    std::fs::read_to_string(root().join(file))
                        .unwrap_or_else(|error| panic!("{}: {file}: {error}", row.id))
                });
                let found = if file.ends_with(".py") { check(source, test) } else { rust(source, test) };
                assert_eq!(found, Ok(()), "{}: {file}: {test}", row.id);
            }
        }
    }

    /// A row is met by a test, and what is not met, or not wholly, says why.
    ///
    /// # Panics
    /// If not.
    pub fn bears_out_each_status(&self) {
        for Row { id, status, tests, remark } in &self.rows {
            let said = remark.rsplit('`').next().unwrap_or_default().len() > 4;
            match status.as_str() {
                "met" => assert!(!tests.is_empty(), "{id} is met by no test"),
                "partly" => assert!(!tests.is_empty() && said, "{id}: what is shown, and what is not?"),
                "not" => assert!(tests.is_empty() && !remark.is_empty(), "{id}: why not?"),
                other => panic!("{id}: {other} is no status"),
            }
        }
    }

    /// The counts of the first paragraph are those of the rows.
    ///
    /// # Panics
    /// If not.
    pub fn counts_its_rows(&self) {
        let count = |status: &str| self.rows.iter().filter(|row| row.status == status).count();
        let (all, met, partly, not) = (self.rows.len(), count("met"), count("partly"), count("not"));
        let expected = format!("Of {all} rows {met} are met, {partly} partly, {not} not.");
        assert!(self.text.contains(&expected), "it should say: {expected}");
    }
}

fn row(line: &str, family: &str) -> Option<Row> {
    let mut cells = line.strip_prefix("| ")?.strip_suffix(" |")?.splitn(3, " | ");
    let (id, status, remark) = (cells.next()?, cells.next()?, cells.next()?);
    if !id.starts_with(family) || id == "row" {
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
}

/// A check of the lab: a function that its file's list has.
fn check(source: &str, test: &str) -> Result<(), &'static str> {
    if !source.contains(&format!("\ndef {test}(")) {
        return Err("is not there");
    }
    let list = source.split_once("\nCHECKS = [").and_then(|(_, rest)| rest.split(']').next()).unwrap_or("");
    let mut names = list.split(|letter: char| !(letter.is_alphanumeric() || letter == '_'));
    if names.any(|name| name == test) { Ok(()) } else { Err("is not in the list of checks") }
}

/// A test of Rust, on its own, in a module or in a property test's macro.
fn rust(source: &str, test: &str) -> Result<(), &'static str> {
    let at = source.find(&format!("fn {test}(")).ok_or("is not there")?;
    let mut before = source[..at].trim_end().lines().rev().take(3);
    let marked = before.any(|line| matches!(line.trim(), "#[test]" | "#[tokio::test]"));
    if marked { Ok(()) } else { Err("is not a test") }
}

#[cfg(test)]
mod tests {
    use super::{Row, Sheet, check, numbered, row, rust};

    fn sheet(text: &str) -> Sheet {
        Sheet { text: text.to_owned(), rows: text.lines().filter_map(|line| row(line, "A-")).collect() }
    }

    #[test]
    fn a_row_is_its_cells_and_the_tests_it_names() {
        let read = row("| A-B-01 | met | see `x.rs::y`, and more |", "A-");
        let wanted = Row {
            id: "A-B-01".into(),
            status: "met".into(),
            tests: vec![("x.rs".into(), "y".into())],
            remark: "see `x.rs::y`, and more".into(),
        };
        assert_eq!(read, Some(wanted));
        assert_eq!(row("| row | status | tests |", ""), None);
        assert_eq!(row("|---|---|---|", ""), None);
        assert_eq!(row("| B-1 | met | x |", "A-"), None);
    }

    #[test]
    #[should_panic(expected = "missing [\"A-B-02\"], unknown []")]
    fn a_row_that_is_missing_is_seen() {
        sheet("| A-B-01 | not | never |").has_exactly(&numbered(&[("A-B", 2)]));
    }

    #[test]
    #[should_panic(expected = "a row stands twice")]
    fn a_row_that_stands_twice_is_seen() {
        sheet("| A-B-01 | not | never |\n| A-B-01 | not | never |").has_exactly(&numbered(&[("A-B", 1)]));
    }

    #[test]
    #[should_panic(expected = "A-B-01 is met by no test")]
    fn a_row_without_test_is_not_met() {
        sheet("| A-B-01 | met | surely |").bears_out_each_status();
    }

    #[test]
    #[should_panic(expected = "Of 1 rows 0 are met, 0 partly, 1 not.")]
    fn a_wrong_count_is_seen() {
        sheet("Of 1 rows 1 are met, 0 partly, 0 not.\n| A-B-01 | not | never |").counts_its_rows();
    }

    #[test]
    fn a_test_has_its_attribute_and_a_check_its_place_in_the_list() {
        assert_eq!(rust("#[test]\nfn y() {}", "y"), Ok(()));
        assert_eq!(rust("    #[tokio::test]\n    async fn y() {}", "y"), Ok(()));
        assert_eq!(rust("fn y() {}", "y"), Err("is not a test"));
        assert_eq!(rust("", "y"), Err("is not there"));
        let source = "\ndef y(lab):\n    pass\n\nCHECKS = [(\"y\", y)]\n";
        assert_eq!(check(source, "y"), Ok(()));
        assert_eq!(
            check("\ndef y(lab):\n    pass\n\nCHECKS = [yy]\n", "y"),
            Err("is not in the list of checks")
        );
        assert_eq!(check(source, "x"), Err("is not there"));
    }
}

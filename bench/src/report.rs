//! Tables: aligned text for people, one JSON object a table for programs.

use crate::spread::Summary;
use serde_json::{Map, Value, json};

/// Where results go.
#[derive(Debug)]
pub struct Report {
    json: bool,
}

/// A table, with the conditions that hold for all of it.
#[derive(Debug)]
pub struct Table {
    title: String,
    conditions: Vec<(&'static str, String)>,
    /// Key in JSON and heading in the table.
    columns: Vec<(&'static str, &'static str)>,
    rows: Vec<Vec<Cell>>,
}

/// One value.
#[derive(Clone, Debug)]
pub enum Cell {
    /// Words.
    Text(String),
    /// A count.
    Count(u64),
    /// A number, and how many decimals of it the table shows.
    Number(f64, usize),
    /// Median with its spread.
    Spread(Summary),
    /// Does not apply.
    None,
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Cell {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<Summary> for Cell {
    fn from(summary: Summary) -> Self {
        Self::Spread(summary)
    }
}

impl Cell {
    fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Count(count) => count.to_string(),
            Self::Number(number, decimals) => format!("{number:.decimals$}"),
            Self::Spread(Summary { median, p10, p90 }) => format!("{median:.0} ({p10:.0}..{p90:.0})"),
            Self::None => "-".to_owned(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Text(text) => json!(text),
            Self::Count(count) => json!(count),
            Self::Number(number, _) => json!(number),
            Self::Spread(summary) => json!(summary),
            Self::None => Value::Null,
        }
    }
}

impl Table {
    /// An empty table. `columns` are pairs of key and heading.
    pub fn new(title: impl Into<String>, columns: &[(&'static str, &'static str)]) -> Self {
        Self { title: title.into(), conditions: Vec::new(), columns: columns.to_vec(), rows: Vec::new() }
    }

    /// States a condition under which all rows were measured.
    pub fn condition(&mut self, name: &'static str, value: impl Into<String>) {
        self.conditions.push((name, value.into()));
    }

    /// Adds a row, a cell a column.
    ///
    /// # Panics
    /// If the cells are not as many as the columns.
    pub fn row(&mut self, cells: Vec<Cell>) {
        assert_eq!(cells.len(), self.columns.len(), "a cell a column in {}", self.title);
        self.rows.push(cells);
    }

    fn to_json(&self) -> Value {
        let row = |cells: &Vec<Cell>| {
            let pairs =
                self.columns.iter().zip(cells).map(|((key, _), cell)| ((*key).to_owned(), cell.json()));
            Value::Object(pairs.collect::<Map<_, _>>())
        };
        let conditions = self.conditions.iter().map(|(name, value)| ((*name).to_owned(), json!(value)));
        json!({
            "table": self.title,
            "conditions": conditions.collect::<Map<_, _>>(),
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }

    fn to_text(&self) -> String {
        let mut lines =
            vec![self.columns.iter().map(|(_, heading)| (*heading).to_owned()).collect::<Vec<_>>()];
        lines.extend(self.rows.iter().map(|cells| cells.iter().map(Cell::text).collect()));
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
            .collect();
        // Words to the left, numbers to the right.
        let words: Vec<bool> = (0..self.columns.len())
            .map(|column| self.rows.iter().all(|cells| matches!(cells[column], Cell::Text(_))))
            .collect();
        let mut text = format!("### {}\n\n", self.title);
        for (name, value) in &self.conditions {
            text.push_str(&format!("{name}: {value}  \n"));
        }
        if !self.conditions.is_empty() {
            text.push('\n');
        }
        for (number, line) in lines.iter().enumerate() {
            let cells = line.iter().zip(&widths).zip(&words).map(|((cell, &width), &words)| {
                if words { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            text.push_str(&format!("| {} |\n", cells.collect::<Vec<_>>().join(" | ")));
            if number == 0 {
                let rules = widths.iter().zip(&words).map(|(&width, &words)| {
                    if words { "-".repeat(width + 2) } else { format!("{}:", "-".repeat(width + 1)) }
                });
                text.push_str(&format!("|{}|\n", rules.collect::<Vec<_>>().join("|")));
            }
        }
        text
    }
}

impl Report {
    /// Prints tables, or JSON if `json`.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints a finished table.
    pub fn table(&mut self, table: &Table) {
        if self.json {
            println!("{}", table.to_json());
        } else {
            println!("{}", table.to_text());
        }
    }

    /// Says what is going on, where nobody takes it for a result.
    pub fn note(&self, text: &str) {
        eprintln!("{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new("A test", &[("name", "name"), ("cost", "cycles"), ("ratio", "ratio")]);
        table.condition("flows", "64k");
        table.row(vec![
            "one".into(),
            Summary { median: 12.4, p10: 11.0, p90: 20.0 }.into(),
            Cell::Number(1.26, 1),
        ]);
        table.row(vec!["another".into(), 7.into(), Cell::None]);
        table
    }

    #[test]
    fn a_table_is_aligned_and_valid_markdown() {
        let text = "### A test\n\nflows: 64k  \n\n\
            | name    |      cycles | ratio |\n\
            |---------|------------:|------:|\n\
            | one     | 12 (11..20) |   1.3 |\n\
            | another |           7 |     - |\n";
        assert_eq!(table().to_text(), text);
    }

    #[test]
    fn a_table_is_an_object() {
        let expected = json!({
            "table": "A test",
            "conditions": { "flows": "64k" },
            "rows": [
                { "name": "one", "cost": { "median": 12.4, "p10": 11.0, "p90": 20.0 }, "ratio": 1.26 },
                { "name": "another", "cost": 7, "ratio": null },
            ],
        });
        assert_eq!(table().to_json(), expected);
    }
}

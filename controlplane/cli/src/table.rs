//! Aligned columns.

use std::borrow::Cow;
use std::io::{self, Write};

/// A column: its title, and whether it holds numbers and is aligned to the right.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    title: &'static str,
    right: bool,
}

/// A column of text.
#[must_use]
pub const fn text(title: &'static str) -> Column {
    Column { title, right: false }
}

/// A column of numbers.
#[must_use]
pub const fn number(title: &'static str) -> Column {
    Column { title, right: true }
}

/// A table that may come in pages: columns grow with a page that needs it, and never shrink.
#[derive(Clone, Debug)]
pub struct Table {
    columns: &'static [Column],
    widths: Vec<usize>,
    titled: bool,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub fn new(columns: &'static [Column]) -> Self {
        Self { columns, widths: columns.iter().map(|column| column.title.len()).collect(), titled: false }
    }

    /// The lines of a page: the titles before the first, then a line for each row. Control characters in a
    /// cell are shown escaped.
    #[must_use]
    pub fn lines(&mut self, rows: &[Vec<String>]) -> Vec<String> {
        let rows: Vec<Vec<Cow<'_, str>>> =
            rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
        for row in &rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        let titles = (!self.titled).then(|| self.columns.iter().map(|column| column.title.into()).collect());
        self.titled = true;
        titles.iter().chain(&rows).map(|row| self.line(row)).collect()
    }

    fn line(&self, row: &[Cow<'_, str>]) -> String {
        let mut line = String::new();
        for ((column, &width), cell) in self.columns.iter().zip(&self.widths).zip(row) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            line += &if column.right { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
        }
        line.truncate(line.trim_end().len());
        line
    }

    /// Writes a page.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&mut self, out: &mut dyn Write, rows: &[Vec<String>]) -> io::Result<()> {
        self.lines(rows).iter().try_for_each(|line| writeln!(out, "{line}"))
    }
}

/// The text with control characters escaped, so that a name or note cannot steer a terminal.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    let escape = |char: char| {
        if char.is_control() { char.escape_default().to_string() } else { char.to_string() }
    };
    Cow::Owned(text.chars().map(escape).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] = &[text("NAME"), number("COUNT"), text("NOTE")];

    fn row(cells: [&str; 3]) -> Vec<String> {
        cells.map(Into::into).into()
    }

    #[test]
    fn numbers_right_text_left_nothing_behind() {
        let mut table = Table::new(COLUMNS);
        assert_eq!(
            table.lines(&[row(["a", "1", ""]), row(["long name", "1234567", "x"])]),
            ["NAME         COUNT  NOTE", "a                1", "long name  1234567  x"]
        );
        assert_eq!(table.lines(&[row(["b", "2", "y"])]), ["b                2  y"]);
    }

    #[test]
    fn a_page_without_rows_still_has_titles_once() {
        let mut table = Table::new(COLUMNS);
        assert_eq!(table.lines(&[]), ["NAME  COUNT  NOTE"]);
        assert!(table.lines(&[]).is_empty());
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("plain"), "plain");
        assert_eq!(printable("a\u{1b}[2J\nb"), "a\\u{1b}[2J\\nb");
        assert_eq!(printable("Zürich"), "Zürich");
    }
}

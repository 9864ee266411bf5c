//! What is wrong with a file, and where.

use std::fmt;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line and column (in characters), both from 1; `None` if it concerns the file as a whole.
    pub place: Option<(usize, usize)>,
    /// Path of the key, such as `pool[0].ports`; `None` for a syntax error.
    pub key: Option<String>,
    /// The value, what is wrong with it and what is allowed.
    pub message: String,
}

/// Everything that is wrong with a file, in the order of its text. Displays as one line for each:
/// `FILE:LINE:COLUMN: key "KEY": MESSAGE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    origin: String,
    list: Vec<Problem>,
    /// Problems found beyond [`MOST_LISTED`].
    unlisted: usize,
}

/// Problems that are listed; the rest is a number.
const MOST_LISTED: usize = 100;

/// A problem at a byte of the text; the line and column of those that are listed are counted at the end.
pub(crate) struct Found {
    pub(crate) at: usize,
    pub(crate) key: Option<String>,
    pub(crate) message: String,
}

impl Problems {
    pub(crate) fn new(origin: &str, text: &str, lines: &Lines, mut found: Vec<Found>) -> Self {
        found.sort_by_key(|found| found.at);
        let unlisted = found.len().saturating_sub(MOST_LISTED);
        let listed = found.into_iter().take(MOST_LISTED);
        let list = listed.map(|Found { at, key, message }| Problem {
            place: Some((lines.line(at), lines.column(text, at))),
            key,
            message,
        });
        Self { origin: origin.to_owned(), list: list.collect(), unlisted }
    }

    pub(crate) fn whole_file(origin: &str, message: String) -> Self {
        let list = vec![Problem { place: None, key: None, message }];
        Self { origin: origin.to_owned(), list, unlisted: 0 }
    }

    pub(crate) fn not_utf8(origin: &str, bytes: &[u8], at: usize) -> Self {
        let valid = bytes.get(..at).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default();
        let byte = bytes.get(at).copied().unwrap_or_default();
        let message = format!("byte 0x{byte:02x} is not UTF-8: save the file as UTF-8");
        Self::new(origin, valid, &Lines::new(valid), vec![Found { at, key: None, message }])
    }

    /// Name of the file.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The problems, at most a hundred.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.list.len() + self.unlisted
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.list.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{}", self.origin)?;
            if let Some((line, column)) = problem.place {
                write!(f, ":{line}:{column}")?;
            }
            write!(f, ": ")?;
            if let Some(key) = &problem.key {
                write!(f, "key \"{key}\": ")?;
            }
            write!(f, "{}", problem.message)?;
        }
        if self.unlisted > 0 {
            write!(f, "\n{}: {} more problems", self.origin, self.unlisted)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Where each line of a text starts.
pub(crate) struct Lines(Vec<usize>);

impl Lines {
    pub(crate) fn new(text: &str) -> Self {
        Self(std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect())
    }

    /// Line of a byte offset, from 1.
    pub(crate) fn line(&self, at: usize) -> usize {
        self.0.partition_point(|&start| start <= at)
    }

    /// Column of a byte offset, from 1, in characters.
    fn column(&self, text: &str, at: usize) -> usize {
        let start = self.0.get(self.line(at) - 1).copied().unwrap_or_default();
        let before = text.get(start..).unwrap_or_default();
        before.char_indices().take_while(|(offset, _)| start + offset < at).count() + 1
    }
}

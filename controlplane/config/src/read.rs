//! Walks a TOML document: reads the keys a section knows, notes where each value stands, collects
//! everything that is wrong and goes on.

use crate::problem::{Found, Lines, Problems};
use crate::value::{Refusal, Text};
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::ops::{Range, RangeInclusive};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The text under check: where keys stand and what was wrong so far.
pub(crate) struct Document<'t> {
    text: &'t str,
    lines: Lines,
    /// Byte offset of each value, by key path.
    places: HashMap<String, usize>,
    /// Key paths that could not be read; what depends on them is not reported again.
    faulty: HashSet<String>,
    problems: Vec<Found>,
}

impl<'t> Document<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        Self {
            text,
            lines: Lines::new(text),
            places: HashMap::new(),
            faulty: HashSet::new(),
            problems: Vec::new(),
        }
    }

    /// Reports what the parser said about the bytes of `span`.
    pub(crate) fn syntax_error(&mut self, span: Range<usize>, message: &str) {
        let at = span.start;
        let message = match self.text.get(span) {
            Some(word) if !word.trim().is_empty() => format!("not TOML: {}: {message}", quoted(word)),
            _ => format!("not TOML: {message}"),
        };
        self.problems.push(Found { at, key: None, message });
    }

    fn report(&mut self, path: &str, at: usize, message: String) {
        self.problems.push(Found { at, key: Some(path.to_owned()), message });
    }

    fn unreadable(&mut self, path: &str, at: usize, message: String) {
        self.report(path, at, message);
        self.faulty.insert(path.to_owned());
    }

    /// Whether the value at `path` could not be read, so that its place holds a stand-in.
    pub(crate) fn is_faulty(&self, path: &str) -> bool {
        self.faulty.contains(path)
    }

    /// Reports what a check found about the value at `path`, unless the value was unreadable already.
    /// A key that is left out is reported where its table starts.
    pub(crate) fn refuse(&mut self, path: &str, message: String) {
        if !self.is_faulty(path) {
            let at = self.offset(path);
            self.report(path, at, message);
        }
    }

    /// Line of the value at `path`.
    pub(crate) fn line(&self, path: &str) -> usize {
        self.lines.line(self.offset(path))
    }

    fn offset(&self, path: &str) -> usize {
        let mut path = path;
        loop {
            if let Some(&at) = self.places.get(path) {
                return at;
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = path.get(..end).unwrap_or_default(),
                None => return 0,
            }
        }
    }

    pub(crate) fn into_problems(self, origin: &str) -> Option<Problems> {
        let found = !self.problems.is_empty();
        found.then(|| Problems::new(origin, self.text, &self.lines, self.problems))
    }
}

/// A table of the document. Every key that is asked for is known; [`Section::finish`] refuses the others.
pub(crate) struct Section<'a, 't> {
    path: String,
    at: usize,
    table: Option<&'a DeTable<'t>>,
    known: Vec<&'static str>,
    document: &'a mut Document<'t>,
}

impl<'a, 't> Section<'a, 't> {
    pub(crate) fn root(table: &'a DeTable<'t>, document: &'a mut Document<'t>) -> Self {
        Self { path: String::new(), at: 0, table: Some(table), known: Vec::new(), document }
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn find(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'t>>> {
        self.known.push(key);
        let value = self.table?.get(key)?;
        self.document.places.insert(self.path_of(key), value.span().start);
        Some(value)
    }

    /// The value of `key` through `read`, or `None` if it is left out or wrong.
    pub(crate) fn optional<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&DeValue<'t>) -> Result<T, Refusal>,
    ) -> Option<T> {
        let value = self.find(key)?;
        match read(value.get_ref()) {
            Ok(value) => Some(value),
            Err(refusal) => {
                let message = format!("{} {refusal}", shown(value.get_ref()));
                self.document.unreadable(&self.path_of(key), value.span().start, message);
                None
            }
        }
    }

    /// As [`Section::optional`]; a key that is left out is a problem, with `what` it would say.
    pub(crate) fn required<T>(
        &mut self,
        key: &'static str,
        what: &str,
        read: impl FnOnce(&DeValue<'t>) -> Result<T, Refusal>,
    ) -> Option<T> {
        let present = self.has(key);
        let value = self.optional(key, read);
        if !present {
            let path = self.path_of(key);
            if self.document.is_faulty(&self.path) {
                self.document.faulty.insert(path);
            } else {
                self.document.unreadable(&path, self.at, format!("is missing: {what}"));
            }
        }
        value
    }

    /// The elements of the array at `key`, each through `read`; `None` if it is left out or any is wrong.
    /// `what` is said of a value that is not an array.
    pub(crate) fn list<T>(
        &mut self,
        key: &'static str,
        what: &str,
        mut read: impl FnMut(&DeValue<'t>) -> Result<T, Refusal>,
    ) -> Option<Vec<T>> {
        let value = self.find(key)?;
        let path = self.path_of(key);
        let Some(array) = value.get_ref().as_array() else {
            let message = format!("{} is not a list: {what}", shown(value.get_ref()));
            self.document.unreadable(&path, value.span().start, message);
            return None;
        };
        let mut list = Vec::with_capacity(array.len());
        for (i, element) in array.iter().enumerate() {
            let path_of_element = format!("{path}[{i}]");
            match read(element.get_ref()) {
                Ok(element) => list.push(element),
                Err(refusal) => {
                    let message = format!("{} {refusal}", shown(element.get_ref()));
                    self.document.unreadable(&path_of_element, element.span().start, message);
                    self.document.faulty.insert(path.clone());
                }
            }
            self.document.places.insert(path_of_element, element.span().start);
        }
        (list.len() == array.len()).then_some(list)
    }

    /// As [`Section::list`]; a key that is left out is a problem, with `what` it would say.
    pub(crate) fn required_list<T>(
        &mut self,
        key: &'static str,
        what: &str,
        read: impl Fn(&DeValue<'t>) -> Result<T, Refusal>,
    ) -> Option<Vec<T>> {
        if self.has(key) {
            self.list(key, what, read)
        } else {
            self.required(key, what, |_| Err(Refusal::from("")))
        }
    }

    /// Whether the table has `key`, readable or not.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// Reports what is wrong about `key`, or about its absence.
    pub(crate) fn refuse(&mut self, key: &str, message: &str) {
        let path = self.path_of(key);
        if !self.document.is_faulty(&self.path) {
            self.document.refuse(&path, message.to_owned());
        }
        self.document.faulty.insert(path);
    }

    /// Reports that `key` is left out and has no default because of the value of `source`.
    pub(crate) fn cannot_default(&mut self, key: &str, source: &str, message: String) {
        let at = self.document.offset(&self.path_of(source));
        self.document.unreadable(&self.path_of(key), at, message);
    }

    /// The table at `key`, read by `read`; an absent one is read as an empty one.
    pub(crate) fn table<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'_, 't>) -> T) -> T {
        let path = self.path_of(key);
        let mut at = self.at;
        let mut table = None;
        if let Some(value) = self.find(key) {
            at = value.span().start;
            table = value.get_ref().as_table();
            if table.is_none() {
                let message = format!("{} is not a table: write [{path}]", shown(value.get_ref()));
                self.document.unreadable(&path, at, message);
            }
        }
        self.read_section(path, at, table, read)
    }

    fn read_section<T>(
        &mut self,
        path: String,
        at: usize,
        table: Option<&DeTable<'t>>,
        read: impl FnOnce(&mut Section<'_, 't>) -> T,
    ) -> T {
        let mut section = Section { path, at, table, known: Vec::new(), document: self.document };
        let value = read(&mut section);
        section.finish();
        value
    }

    /// The tables of the array of tables at `key`, each read by `read`.
    pub(crate) fn tables<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Section<'_, 't>) -> T,
    ) -> Vec<T> {
        let Some(value) = self.find(key) else { return Vec::new() };
        let path = self.path_of(key);
        let header = format!("[[{}]]", without_indices(&path));
        let Some(array) = value.get_ref().as_array() else {
            let message = format!("{} is not a list of tables: write {header}", shown(value.get_ref()));
            self.document.unreadable(&path, value.span().start, message);
            return Vec::new();
        };
        let mut list = Vec::with_capacity(array.len());
        for (i, element) in array.iter().enumerate() {
            let path = format!("{path}[{i}]");
            let at = element.span().start;
            let table = element.get_ref().as_table();
            self.document.places.insert(path.clone(), at);
            if table.is_none() {
                let message = format!("{} is not a table: write {header}", shown(element.get_ref()));
                self.document.unreadable(&path, at, message);
            }
            list.push(self.read_section(path, at, table, &mut read));
        }
        list
    }

    /// Refuses the keys that nobody asked for.
    pub(crate) fn finish(&mut self) {
        for key in self.table.into_iter().flat_map(DeTable::keys) {
            let name: &str = key.get_ref();
            if self.known.contains(&name) {
                continue;
            }
            let mut message = String::from("is not a known key");
            match nearest(name, &self.known) {
                Some(known) => {
                    let _ = write!(message, ": did you mean \"{known}\"?");
                }
                None => {
                    let place = if self.path.is_empty() { "of the file" } else { "here" };
                    let _ = write!(message, ": the keys {place} are {}", self.known.join(", "));
                }
            }
            let path = self.path_of(&cut(&name.escape_debug().to_string()));
            self.document.report(&path, key.span().start, message);
        }
    }
}

/// Reads a value that is written as a string.
pub(crate) fn text<T: Text>(value: &DeValue<'_>) -> Result<T, Refusal> {
    value.as_str().ok_or_else(|| Refusal::from(T::REFUSAL))?.parse()
}

/// Reads an integer within `range`.
pub(crate) fn integer<T: TryFrom<i64>>(
    range: RangeInclusive<i64>,
) -> impl Fn(&DeValue<'_>) -> Result<T, Refusal> {
    move |value| {
        let allowed = || format!("write {} to {}", range.start(), range.end());
        let Some(integer) = value.as_integer() else {
            return Err(Refusal::from(format!("is not an integer: {}", allowed())));
        };
        i64::from_str_radix(integer.as_str(), integer.radix())
            .ok()
            .filter(|number| range.contains(number))
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| Refusal::from(format!("is out of range: {}", allowed())))
    }
}

/// Reads a boolean.
pub(crate) fn boolean(value: &DeValue<'_>) -> Result<bool, Refusal> {
    value.as_bool().ok_or_else(|| Refusal::from("is not a boolean: write true or false"))
}

/// A value as it is quoted in a message.
fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(string) => quoted(string),
        DeValue::Integer(integer) => cut(&integer.to_string()),
        DeValue::Float(float) => cut(&float.to_string()),
        DeValue::Boolean(boolean) => boolean.to_string(),
        DeValue::Datetime(datetime) => datetime.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// A string in quotation marks, escaped and cut to what fits into a message.
pub(crate) fn quoted(string: &str) -> String {
    format!("\"{}\"", cut(&string.escape_debug().to_string()))
}

fn cut(string: &str) -> String {
    const MOST: usize = 80;
    match string.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", string.get(..end).unwrap_or_default()),
        None => string.to_owned(),
    }
}

/// `port[1].vlan` as `port.vlan`.
fn without_indices(path: &str) -> String {
    path.split('[').map(|part| part.split_once(']').map_or(part, |(_, rest)| rest)).collect()
}

/// The known word that `word` was probably meant to be.
pub(crate) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    const LONGEST: usize = 32;
    if word.chars().count() > LONGEST {
        return None;
    }
    known
        .iter()
        .map(|known| (edits(word, known), *known))
        .filter(|(edits, known)| *edits <= 1 + known.len() / 4)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, known)| known)
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut next = Vec::with_capacity(row.len());
        next.push(i + 1);
        for (j, to) in b.iter().enumerate() {
            let change = row[j] + usize::from(from != *to);
            next.push(change.min(row[j + 1] + 1).min(next[j] + 1));
        }
        row = next;
    }
    row[b.len()]
}

//! Flows and bindings: printed page by page, so that millions of rows need no memory.

use crate::output::{DONE, Failure, NO_MATCH, Output};
use crate::table::Table;
use serde::Serialize;
use turnpike_api::{Client, Envelope, ErrorBody, ErrorCode, MAX_PAGE, Payload, Request, Timestamp};

/// What is walked, and how it is shown.
pub struct Walk<'a, T> {
    /// The rows in words: `flows`.
    pub what: &'a str,
    /// The request for a page: cursor and limit.
    pub request: &'a dyn Fn(Option<String>, u32) -> Request,
    /// Whether the rows are filtered: then none of them is no match.
    pub filtered: bool,
    /// Most rows; `None` for every one.
    pub cap: Option<u64>,
    /// Columns of the table.
    pub table: Table,
    /// A row of it.
    pub row: &'a dyn Fn(&T) -> Vec<String>,
}

/// Walks the pages and prints them. Returns the exit code.
///
/// # Errors
/// Those of the client and of standard output. A document that was begun is completed before, marked as truncated.
pub fn print<T>(client: &mut Client, output: &mut Output<'_>, mut walk: Walk<'_, T>) -> Result<u8, Failure>
where
    T: Serialize,
    Vec<T>: Payload,
{
    let mut sink = Sink::new(output);
    let mut count = 0;
    let mut cursor: Option<String> = None;
    let mut warnings: Vec<String> = Vec::new();
    let truncated = loop {
        // One row more than wanted tells whether something is left out.
        let missing = walk.cap.map_or(u64::MAX, |cap| cap - count + 1);
        let limit = u32::try_from(missing).unwrap_or(MAX_PAGE).min(MAX_PAGE);
        let page = client
            .call::<Vec<T>>(&(walk.request)(cursor.clone(), limit))
            .map_err(|error| error.body())
            .and_then(|page| match &page.next_cursor {
                Some(next) if cursor.as_ref() == Some(next) => Err(stuck(walk.what)),
                _ => Ok(page),
            });
        let mut page = match page {
            Ok(page) => page,
            Err(body) => return sink.broken(body, warnings),
        };
        for warning in page.warnings.drain(..) {
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        let room = usize::try_from(missing - 1).unwrap_or(usize::MAX);
        let more = page.data.len() > room;
        page.data.truncate(room);
        count += page.data.len() as u64;
        sink.page(&page, &mut walk)?;
        // A page can be cut short for other reasons than its cursor: the table changed underway.
        let incomplete = page.truncated && page.next_cursor.is_none();
        cursor = page.next_cursor;
        if more || cursor.is_none() {
            break more || incomplete;
        }
    };
    sink.end(truncated, &warnings)?;
    if !output.json {
        output.warnings(&warnings);
    }
    if truncated {
        output.note(&format!("showing {count} {}, there are more: --limit N or --all shows them", walk.what));
    }
    if count > 0 {
        return Ok(DONE);
    }
    if walk.filtered {
        output.note(&format!("no {} match", walk.what));
        Ok(NO_MATCH)
    } else {
        output.note(&format!("no {}", walk.what));
        Ok(DONE)
    }
}

fn stuck(what: &str) -> ErrorBody {
    ErrorBody::new(ErrorCode::Failed, format!("the control plane repeats the same page of {what}"))
        .with_hint("install the same release of turnpike and turnpike-controlplane")
}

/// Writes the document piece by piece.
struct Sink<'o, 'a> {
    output: &'o mut Output<'a>,
    begun: bool,
    rows: u64,
}

impl<'o, 'a> Sink<'o, 'a> {
    const fn new(output: &'o mut Output<'a>) -> Self {
        Self { output, begun: false, rows: 0 }
    }

    fn page<T: Serialize>(&mut self, page: &Envelope<Vec<T>>, walk: &mut Walk<'_, T>) -> Result<(), Failure> {
        if !self.output.json {
            if !page.data.is_empty() {
                let rows: Vec<_> = page.data.iter().map(walk.row).collect();
                walk.table.write(self.output.stdout(), &rows)?;
            }
            return Ok(());
        }
        if !self.begun {
            self.head(&page.schema, &page.host, page.generated_at)?;
        }
        for row in &page.data {
            let row = serde_json::to_string(row)?;
            let separator = if self.rows == 0 { "" } else { "," };
            write!(self.output.stdout(), "{separator}\n    {row}")?;
            self.rows += 1;
        }
        Ok(())
    }

    fn head(&mut self, schema: &str, host: &str, generated_at: Timestamp) -> Result<(), Failure> {
        self.begun = true;
        let [schema, host] = [serde_json::to_string(schema)?, serde_json::to_string(host)?];
        write!(
            self.output.stdout(),
            "{{\n  \"schema\": {schema},\n  \"host\": {host},\n  \"generated_at\": \"{generated_at}\",\n  \"data\": ["
        )?;
        Ok(())
    }

    fn end(&mut self, truncated: bool, warnings: &[String]) -> Result<(), Failure> {
        if self.output.json && self.begun {
            let close = if self.rows == 0 { "]" } else { "\n  ]" };
            let warnings = serde_json::to_string(warnings)?;
            writeln!(
                self.output.stdout(),
                "{close},\n  \"next_cursor\": null,\n  \"truncated\": {truncated},\n  \"warnings\": {warnings}\n}}"
            )?;
        }
        Ok(())
    }

    /// Ends after an error. A JSON document that was begun is completed with the error as a warning, since a
    /// second one must not follow it.
    fn broken(&mut self, body: ErrorBody, mut warnings: Vec<String>) -> Result<u8, Failure> {
        if !(self.output.json && self.begun) {
            return Err(body.into());
        }
        warnings.push(body.message.clone());
        self.end(true, &warnings)?;
        self.output.flush()?;
        self.output.error_text(&body)?;
        Ok(body.code.exit_code())
    }
}

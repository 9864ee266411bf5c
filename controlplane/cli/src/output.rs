//! Where results, notes and errors go.

use serde::Serialize;
use std::io::{self, Write};
use turnpike_api::envelope::ErrorEnvelope;
use turnpike_api::{ClientError, Envelope, ErrorBody, ErrorCode};

/// Exit code of a command that did what it says.
pub const DONE: u8 = 0;
/// Exit code where nothing fits the filter.
pub const NO_MATCH: u8 = 3;
/// Exit code of a check that found the box degraded.
pub const DEGRADED: u8 = 9;

/// Why a command ended early.
#[derive(Debug)]
pub enum Failure {
    /// Something went wrong; the error decides the exit code.
    Refused(ErrorBody),
    /// The reader of standard output went away, as `head` does: it has what it wants.
    Closed,
}

impl From<ErrorBody> for Failure {
    fn from(body: ErrorBody) -> Self {
        Self::Refused(body)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Refused(error.body())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::Closed
        } else {
            Self::Refused(ErrorBody::new(ErrorCode::Failed, format!("output cannot be written: {error}")))
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        io::Error::from(error).into()
    }
}

/// The two streams of a command.
pub struct Output<'a> {
    stdout: io::BufWriter<&'a mut dyn Write>,
    stderr: &'a mut dyn Write,
    /// Whether standard output is one JSON document.
    pub json: bool,
    quiet: bool,
}

impl<'a> Output<'a> {
    /// Results to `stdout`, everything else to `stderr`.
    pub fn new(stdout: &'a mut dyn Write, stderr: &'a mut dyn Write, json: bool, quiet: bool) -> Self {
        Self { stdout: io::BufWriter::new(stdout), stderr, json, quiet }
    }

    /// Standard output, buffered.
    pub fn stdout(&mut self) -> &mut dyn Write {
        &mut self.stdout
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    /// If standard output is closed or cannot be written.
    pub fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.stdout.flush()?)
    }

    /// A line for the person, beside the result.
    pub fn note(&mut self, text: &str) {
        if !self.quiet {
            // Standard error gone: there is nobody left to tell.
            let _ = self.stdout.flush();
            let _ = writeln!(self.stderr, "{text}");
        }
    }

    /// Prints an answer: as JSON, or by `text`, with its warnings beside it.
    ///
    /// # Errors
    /// If standard output is closed or cannot be written.
    pub fn answer<T: Serialize>(
        &mut self,
        envelope: &Envelope<T>,
        text: impl FnOnce(&mut dyn Write, &T) -> io::Result<()>,
    ) -> Result<(), Failure> {
        if self.json {
            serde_json::to_writer_pretty(&mut self.stdout, envelope)?;
            writeln!(self.stdout)?;
            return Ok(());
        }
        text(&mut self.stdout, &envelope.data)?;
        self.warnings(&envelope.warnings);
        Ok(())
    }

    /// Prints an answer's warnings beside its text.
    pub fn warnings(&mut self, warnings: &[String]) {
        for warning in warnings {
            self.note(&format!("warning: {}", crate::table::printable(warning)));
        }
    }

    /// Prints an error and returns its exit code.
    pub fn error(&mut self, body: &ErrorBody) -> u8 {
        // What went wrong may be standard output itself: standard error hears of it all the same, and
        // where neither can be written the exit code tells.
        let _ = self.error_document(body);
        let _ = self.error_text(body);
        body.code.exit_code()
    }

    fn error_document(&mut self, body: &ErrorBody) -> io::Result<()> {
        if self.json {
            let envelope = ErrorEnvelope { error: body.clone() };
            serde_json::to_writer_pretty(&mut self.stdout, &envelope)?;
            writeln!(self.stdout)?;
        }
        self.stdout.flush()
    }

    /// Prints an error to standard error alone.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn error_text(&mut self, body: &ErrorBody) -> io::Result<()> {
        let printable = crate::table::printable;
        writeln!(self.stderr, "turnpike: {}", printable(&body.message))?;
        for detail in &body.details {
            writeln!(self.stderr, "  {}", printable(detail))?;
        }
        match &body.hint {
            Some(hint) => writeln!(self.stderr, "hint: {}", printable(hint)),
            None => Ok(()),
        }
    }
}

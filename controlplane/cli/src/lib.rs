//! The command line of Turnpike: what `turnpike` asks of the control plane and how it prints the answers.
//!
//! | module | what it does |
//! |---|---|
//! | [`args`] | the command tree |
//! | [`output`] | where results, notes and errors go; exit codes |
//! | [`table`], [`units`] | columns and numbers |
//! | [`show`], [`status`] | the text of each answer |
//! | [`pages`] | flows and bindings, page by page |
//! | [`commands`] | the other commands |
//! | [`midcom`] | an agent: rules over SIMCO |
//! | [`reasons`] | drop reasons in words |
//! | [`top`] | the live screen |
#![forbid(unsafe_code)]

pub mod args;
pub mod commands;
pub mod midcom;
pub mod nat;
pub mod output;
pub mod pages;
pub mod reasons;
pub mod rules;
pub mod show;
pub mod status;
pub mod table;
pub mod top;
pub mod units;

use args::Cli;
use clap::Parser;
use output::{Failure, Output};
use std::ffi::OsString;
use std::io::Write;

/// Runs a command line, the program's name included, and returns its exit code.
pub fn run(args: impl IntoIterator<Item = OsString>, stdout: &mut dyn Write, stderr: &mut dyn Write) -> u8 {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(refusal) => {
            // Help and versions are results; everything else is a usage error. Where neither can be written,
            // the exit code is all that is left to say it.
            let text = refusal.render();
            let _ = if refusal.use_stderr() { write!(stderr, "{text}") } else { write!(stdout, "{text}") };
            return u8::try_from(refusal.exit_code()).unwrap_or(2);
        }
    };
    let mut output = Output::new(stdout, stderr, cli.json, cli.quiet);
    let ended = commands::run(&cli, &mut output).and_then(|code| {
        output.flush()?;
        Ok(code)
    });
    match ended {
        Ok(code) => code,
        Err(Failure::Closed) => 0,
        Err(Failure::Refused(body)) => output.error(&body),
    }
}

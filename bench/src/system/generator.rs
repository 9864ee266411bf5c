//! `turnpike-generator`, driven by JSON lines.

use super::host::Process;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{ChildStdin, ChildStdout};

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From subscribers.
    In2out,
    /// To subscribers.
    Out2in,
    /// Half of them each way.
    Mixed,
}

impl Direction {
    /// As in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::In2out => "in2out",
            Self::Out2in => "out2in",
            Self::Mixed => "both ways, half each",
        }
    }
}

/// What it is told; the generator has the same.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Request {
    Learn { rate: f64, milliseconds: u64 },
    Trial { rate: f64, milliseconds: u64, direction: Direction },
}

/// What it answers.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Ready { driver: String },
    Learned { arrived: u32 },
    Outcome(Outcome),
    Error(String),
}

/// What became of a trial.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Outcome {
    /// Packets offered.
    pub sent: u64,
    /// Packets that came out right.
    pub received: u64,
    /// Packets that came out wrong.
    pub wrong: u64,
    /// Packets a second as they were really sent.
    pub rate: f64,
    /// In nanoseconds.
    pub latency_ns: Latency,
}

/// Latency in nanoseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Latency {
    pub p50: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

/// The generator process.
#[derive(Debug)]
pub struct Tester {
    /// Driver of its ports.
    pub driver: String,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    _process: Process,
}

impl Tester {
    /// Takes over a process that was just started, and waits until it is set up.
    ///
    /// # Errors
    /// If it ends instead.
    pub fn new(mut process: Process) -> Result<Self, String> {
        let (requests, answers) = process.pipes().ok_or("the generator has no pipes")?;
        let mut tester =
            Self { driver: String::new(), requests, answers: BufReader::new(answers), _process: process };
        match tester.answer()? {
            Answer::Ready { driver } => tester.driver = driver,
            other => return Err(format!("the generator began with {other:?}")),
        }
        Ok(tester)
    }

    /// Sets every flow up. Returns how many came through.
    ///
    /// # Errors
    /// If the generator ended.
    pub fn learn(&mut self, rate: f64, milliseconds: u64) -> Result<u32, String> {
        match self.ask(&Request::Learn { rate, milliseconds })? {
            Answer::Learned { arrived } => Ok(arrived),
            other => Err(format!("the generator answered {other:?}")),
        }
    }

    /// Sends at `rate` packets a second.
    ///
    /// # Errors
    /// If the generator ended.
    pub fn trial(&mut self, rate: f64, milliseconds: u64, direction: Direction) -> Result<Outcome, String> {
        match self.ask(&Request::Trial { rate, milliseconds, direction })? {
            Answer::Outcome(outcome) => Ok(outcome),
            other => Err(format!("the generator answered {other:?}")),
        }
    }

    fn ask(&mut self, request: &Request) -> Result<Answer, String> {
        let mut line = serde_json::to_string(request).map_err(|error| error.to_string())?;
        line.push('\n');
        self.requests
            .write_all(line.as_bytes())
            .map_err(|error| format!("the generator is gone: {error}"))?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Answer, String> {
        let mut line = String::new();
        let length = self.answers.read_line(&mut line).map_err(|error| error.to_string())?;
        if length == 0 {
            return Err("the generator ended; its log says why".to_owned());
        }
        match serde_json::from_str(&line).map_err(|error| format!("the generator said {line:?}: {error}"))? {
            Answer::Error(why) => Err(format!("the generator did not understand: {why}")),
            answer => Ok(answer),
        }
    }
}

//! What is around every answer, and errors.

use crate::data::{
    ConfigData, DropsData, NeighbourData, PinholeData, PoolData, PortData, ReloadData, RouteData, StatusData,
    VersionData, WorkerData,
};
use crate::{
    AgentData, BindingData, FirewallRuleData, FlowData, GroupData, NatForwardData, NatReverseData, RuleData,
    SessionData, Timestamp,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What an [`Envelope`] carries, with the name of its form.
pub trait Payload: Serialize + DeserializeOwned {
    /// `turnpike.<what>.v<number>`; the number grows only for a change that breaks readers.
    const SCHEMA: &'static str;
}

macro_rules! payload {
    ($($type:ty = $schema:literal,)+) => { $(impl Payload for $type { const SCHEMA: &'static str = $schema; })+ };
}

payload! {
    StatusData = "turnpike.status.v1",
    Vec<PortData> = "turnpike.ports.v1",
    Vec<WorkerData> = "turnpike.workers.v1",
    Vec<FlowData> = "turnpike.flows.v1",
    Vec<BindingData> = "turnpike.bindings.v1",
    Vec<PoolData> = "turnpike.pools.v1",
    Vec<NeighbourData> = "turnpike.neighbours.v1",
    Vec<RouteData> = "turnpike.routes.v1",
    Vec<FirewallRuleData> = "turnpike.firewall.v1",
    DropsData = "turnpike.drops.v1",
    ConfigData = "turnpike.config.v1",
    PinholeData = "turnpike.pinhole.v1",
    Vec<PinholeData> = "turnpike.pinholes.v1",
    RuleData = "turnpike.rule.v1",
    Vec<RuleData> = "turnpike.rules.v1",
    Vec<GroupData> = "turnpike.groups.v1",
    Vec<AgentData> = "turnpike.agents.v1",
    Vec<SessionData> = "turnpike.sessions.v1",
    ReloadData = "turnpike.reload.v1",
    VersionData = "turnpike.version.v1",
    NatForwardData = "turnpike.nat_forward.v1",
    NatReverseData = "turnpike.nat_reverse.v1",
}

/// A successful answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// [`Payload::SCHEMA`] of `data`.
    pub schema: String,
    /// Name of the box.
    pub host: String,
    /// When the answer was made.
    pub generated_at: Timestamp,
    /// The answer.
    pub data: T,
    /// Where the next page begins; opaque. `null` on the last page and where there are no pages.
    pub next_cursor: Option<String>,
    /// Whether something was left out: more rows than were asked for, or a table that changed underway.
    pub truncated: bool,
    /// What the reader should know beside the data, in words.
    pub warnings: Vec<String>,
}

impl<T: Payload> Envelope<T> {
    /// A complete answer made now.
    #[must_use]
    pub fn new(host: impl Into<String>, data: T) -> Self {
        Self {
            schema: T::SCHEMA.into(),
            host: host.into(),
            generated_at: Timestamp::now(),
            data,
            next_cursor: None,
            truncated: false,
            warnings: Vec::new(),
        }
    }

    /// The same as one page of several, if `next_cursor` is some.
    #[must_use]
    pub fn with_next(mut self, next_cursor: Option<String>) -> Self {
        self.truncated = next_cursor.is_some();
        self.next_cursor = next_cursor;
        self
    }

    /// The same with a warning.
    #[must_use]
    pub fn with_warning(mut self, warning: impl Into<String>) -> Self {
        self.warnings.push(warning.into());
        self
    }
}

/// Kind of an error; decides the CLI's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Understood and tried, and it did not work: no free port, table full.
    Failed,
    /// The request is malformed, too long, or a value is out of its range.
    BadRequest,
    /// What it names does not exist.
    NotFound,
    /// This user may not.
    Permission,
    /// The process that has to do it does not answer: the dataplane is not attached, or the control plane not there.
    Unreachable,
    /// The configuration is refused; the running one stays.
    ConfigInvalid,
    /// It contradicts what is there: the port is taken, another change is underway.
    Conflict,
    /// The dataplane did not answer in time.
    Timeout,
    /// A defect of Turnpike. Please report it.
    Internal,
}

impl ErrorCode {
    /// Every code.
    pub const ALL: [Self; 9] = [
        Self::Failed,
        Self::BadRequest,
        Self::NotFound,
        Self::Permission,
        Self::Unreachable,
        Self::ConfigInvalid,
        Self::Conflict,
        Self::Timeout,
        Self::Internal,
    ];

    /// Exit code of the CLI.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Failed | Self::Internal => 1,
            Self::BadRequest => 2,
            Self::NotFound => 3,
            Self::Permission => 5,
            Self::Unreachable => 6,
            Self::ConfigInvalid => 7,
            Self::Conflict => 8,
            Self::Timeout => 124,
        }
    }
}

/// Why a request was not carried out. On the wire as `{"error": {...}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// Kind of error.
    pub code: ErrorCode,
    /// What was wrong, and where.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Where there is more than one fault, each by itself: the problems of a configuration.
    #[serde(default)]
    pub details: Vec<String>,
}

impl ErrorBody {
    /// An error without hint.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, details: Vec::new() }
    }

    /// The same with what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same with each fault by itself.
    #[must_use]
    pub fn with_details(mut self, details: Vec<String>) -> Self {
        self.details = details;
        self
    }
}

impl fmt::Display for ErrorBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ErrorBody {}

/// An error as it stands on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorEnvelope {
    /// The error.
    pub error: ErrorBody,
}

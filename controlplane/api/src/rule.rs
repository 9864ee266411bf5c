//! Rules, groups, agents and sessions of MIDCOM (RFC 5189), whatever front end made them.

use crate::{ErrorBody, ErrorCode, PinholeState, PortRange, Prefix, Protocol, Timestamp};
use serde::{Deserialize, Serialize};

/// Which rules; what is `null` does not restrict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuleFilter {
    /// Internal address or prefix.
    pub subscriber: Option<Prefix>,
    /// IP protocol.
    pub protocol: Option<Protocol>,
    /// Owner, such as `simco:proxy.example`, or a front end alone: `pcp`.
    pub owner: Option<String>,
    /// Group.
    pub group: Option<u32>,
}

impl RuleFilter {
    /// Whether nothing is restricted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A page of rules, by id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RulesRequest {
    /// Which.
    #[serde(default)]
    pub filter: RuleFilter,
    /// `next_cursor` of the page before; `null` for the first.
    #[serde(default)]
    pub cursor: Option<String>,
    /// Most rows, 1 to [`crate::MAX_PAGE`].
    pub limit: u32,
}

/// A page of groups, by id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupsRequest {
    /// `next_cursor` of the page before; `null` for the first.
    #[serde(default)]
    pub cursor: Option<String>,
    /// Most rows, 1 to [`crate::MAX_PAGE`].
    pub limit: u32,
}

pub(crate) fn check_page(limit: u32, cursor: Option<&str>) -> Result<(), ErrorBody> {
    let bad = |message| Err(ErrorBody::new(ErrorCode::BadRequest, message));
    if !(1..=crate::MAX_PAGE).contains(&limit) {
        return bad(format!("limit is {limit}, allowed are 1 to {}", crate::MAX_PAGE));
    }
    match cursor {
        Some(cursor) if cursor.parse::<u32>().is_err() => {
            bad("cursor is not one that a response gave".into())
        }
        _ => Ok(()),
    }
}

/// Ends a rule, whoever owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleDelete {
    /// [`RuleData::id`].
    pub id: u32,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleAction {
    /// Keeps an outside end for a later enable rule.
    Reserve,
    /// Lets packets through.
    Enable,
}

impl RuleAction {
    /// The name in JSON and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reserve => "reserve",
            Self::Enable => "enable",
        }
    }
}

/// Which way a rule lets packets through, or their first SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleDirection {
    /// From outside.
    In,
    /// From inside.
    Out,
    /// Both.
    Both,
}

impl RuleDirection {
    /// The name in JSON and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
            Self::Both => "both",
        }
    }
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleData {
    /// Its id (PID), the same across restarts.
    pub id: u32,
    /// Its group (GID).
    pub group: u32,
    /// Who made it: a front end and what that knows its client by.
    pub owner: String,
    /// Zone of the internal host.
    pub zone: String,
    /// What it does.
    pub action: RuleAction,
    /// Which way; `null` of a reservation.
    pub direction: Option<RuleDirection>,
    /// IP protocol.
    pub protocol: Protocol,
    /// Consecutive ports.
    pub ports: u16,
    /// A0, `ADDRESS:PORT` with the lowest port; `null` of a reservation whose host is not known yet.
    pub internal: Option<String>,
    /// A2; `null` if nothing is reserved.
    pub outside: Option<String>,
    /// A3, `ADDRESS[/LENGTH]:PORT` with `*` for every port; `null` of a reservation.
    pub external: Option<String>,
    /// The remote end that locked it.
    pub locked: Option<String>,
    /// Name of the pool of `outside`.
    pub pool: Option<String>,
    /// Remote ports that may use it; `null` for those of `external`.
    pub remote_ports: Option<PortRange>,
    /// How far it is in the workers.
    pub state: PinholeState,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends; `null` for when somebody deletes it.
    pub expires_at: Option<Timestamp>,
    /// Seconds left; `null` as `expires_at`.
    pub lifetime_seconds: Option<u32>,
    /// What it is for.
    pub description: Option<String>,
}

/// A group of rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupData {
    /// Its id (GID).
    pub id: u32,
    /// Whose it is.
    pub owner: String,
    /// Its rules.
    pub rules: u64,
    /// Seconds left of the rule that lives longest; `null` if one lives until it is deleted.
    pub lifetime_seconds: Option<u32>,
}

/// An agent that has rules, sessions or a section in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentData {
    /// Its front end and name.
    pub agent: String,
    /// Whether it may make rules now: configured by name, or of a front end that is enabled.
    pub enabled: bool,
    /// Its rules.
    pub rules: u64,
    /// Most rules; `null` for no limit.
    pub rules_limit: Option<u64>,
    /// Its open sessions.
    pub sessions: u64,
    /// Most sessions.
    pub sessions_limit: u64,
}

/// An open session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionData {
    /// Its number, from 1 since the control plane's start.
    pub id: u64,
    /// Whose it is.
    pub agent: String,
    /// Where it comes from.
    pub peer: String,
    /// What secures it, such as `TLSv1.3`.
    pub security: String,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// Requests received.
    pub requests: u64,
    /// Requests refused.
    pub refused: u64,
    /// Notifications sent.
    pub notifications: u64,
}

//! The text of rules, groups, agents and sessions.

use crate::show::{NONE, or_none, table, yes_no};
use crate::table::{Column, number, text};
use crate::units;
use std::io::{self, Write};
use turnpike_api::{AgentData, GroupData, RuleData, SessionData};

/// Columns of [`rule`].
pub const RULES: &[Column] = &[
    number("ID"),
    number("GROUP"),
    text("ACTION"),
    text("DIR"),
    text("PROTOCOL"),
    number("PORTS"),
    text("INTERNAL"),
    text("OUTSIDE"),
    text("EXTERNAL"),
    text("LEFT"),
    text("STATE"),
    text("OWNER"),
    text("DESCRIPTION"),
];

fn left(seconds: Option<u32>) -> String {
    seconds.map_or_else(|| "forever".into(), |seconds| units::duration(u64::from(seconds)))
}

/// A row of rules. A remote end that locked the rule stands in parentheses.
#[must_use]
pub fn rule(rule: &RuleData) -> Vec<String> {
    let mut external = or_none(rule.external.as_deref());
    if let Some(ports) = rule.remote_ports {
        external += &format!(" ports {ports}");
    }
    if let Some(locked) = &rule.locked {
        external += &format!(" ({locked})");
    }
    vec![
        rule.id.to_string(),
        rule.group.to_string(),
        rule.action.name().into(),
        rule.direction.map_or(NONE, turnpike_api::RuleDirection::name).into(),
        rule.protocol.to_string(),
        rule.ports.to_string(),
        or_none(rule.internal.as_deref()),
        or_none(rule.outside.as_deref()),
        external,
        left(rule.lifetime_seconds),
        rule.state.name().into(),
        rule.owner.clone(),
        or_none(rule.description.as_deref()),
    ]
}

/// A rule in one line.
#[must_use]
pub fn line(rule: &RuleData) -> String {
    let mut line = format!("rule {}: {} {}", rule.id, rule.action.name(), rule.protocol);
    if let Some(outside) = &rule.outside {
        line += &format!(" {outside}");
    }
    if let Some(internal) = &rule.internal {
        line += &format!(" to {internal}");
    }
    line + &format!(" of {}", rule.owner)
}

/// Columns of [`group`].
pub const GROUPS: &[Column] = &[number("ID"), number("RULES"), text("LEFT"), text("OWNER")];

/// A row of groups.
#[must_use]
pub fn group(group: &GroupData) -> Vec<String> {
    vec![
        group.id.to_string(),
        units::thousands(group.rules),
        left(group.lifetime_seconds),
        group.owner.clone(),
    ]
}

const AGENTS: &[Column] =
    &[text("AGENT"), text("ENABLED"), number("RULES"), number("LIMIT"), number("SESSIONS"), number("LIMIT")];

/// Agents.
///
/// # Errors
/// Those of `out`.
pub fn agents(out: &mut dyn Write, agents: &[AgentData]) -> io::Result<()> {
    table(out, AGENTS, agents, |agent| {
        vec![
            agent.agent.clone(),
            yes_no(agent.enabled).into(),
            units::thousands(agent.rules),
            agent.rules_limit.map_or_else(|| NONE.into(), units::thousands),
            units::thousands(agent.sessions),
            units::thousands(agent.sessions_limit),
        ]
    })
}

const SESSIONS: &[Column] = &[
    number("ID"),
    text("AGENT"),
    text("PEER"),
    text("SECURITY"),
    text("OPENED"),
    number("REQUESTS"),
    number("REFUSED"),
    number("NOTIFIED"),
];

/// Sessions.
///
/// # Errors
/// Those of `out`.
pub fn sessions(out: &mut dyn Write, sessions: &[SessionData]) -> io::Result<()> {
    table(out, SESSIONS, sessions, |session| {
        vec![
            session.id.to_string(),
            session.agent.clone(),
            session.peer.clone(),
            session.security.clone(),
            session.opened_at.to_string(),
            units::thousands(session.requests),
            units::thousands(session.refused),
            units::thousands(session.notifications),
        ]
    })
}

//! What an agent's commands print with `--json`.

use crate::midcom::args::protocol_name;
use serde::{Deserialize, Serialize};
use turnpike_api::Payload;
use turnpike_midcom::agent::{Notice, Status};
use turnpike_simco::{
    Direction, EnableStatus, Enabled, Ends, Established, IpVersion, IpVersions, Notification, Reserved, Tuple,
};

/// What a middlebox can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MiddleboxData {
    /// It is a packet filter.
    pub firewall: bool,
    /// It translates addresses.
    pub nat: bool,
    /// It translates ports.
    pub port_translation: bool,
    /// It translates both addresses.
    pub twice_nat: bool,
    /// Prefixes inside.
    pub internal_wildcard: bool,
    /// Prefixes outside.
    pub external_wildcard: bool,
    /// All ports at once.
    pub port_wildcard: bool,
    /// Rules survive its restart.
    pub persistent: bool,
    /// IP versions inside, 4 and 6.
    pub internal_versions: Vec<u8>,
    /// IP versions outside.
    pub external_versions: Vec<u8>,
    /// The longest lifetime.
    pub max_lifetime_seconds: u32,
    /// Extensions in use, as a set of bits.
    pub extensions: u32,
    /// Rules that are not used end after so long; `null`: unknown, or they do not.
    pub idle_timeout_seconds: Option<u32>,
    /// Sessions the agent may have; `null`: unknown.
    pub max_sessions: Option<u32>,
}

/// An end of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndData {
    /// Address, or that of the prefix.
    pub address: String,
    /// Below the address's bits: every address of the prefix.
    pub prefix_length: u8,
    /// The lowest port; 0: every port.
    pub port: u16,
    /// Consecutive ports.
    pub ports: u16,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MidcomRule {
    /// PID.
    pub rule: u32,
    /// GID.
    pub group: u32,
    /// `reserve` or `enable`.
    pub action: String,
    /// Seconds left.
    pub lifetime_seconds: u32,
    /// Name or number.
    pub protocol: String,
    /// `in`, `out` or `both`; of an enable rule's status.
    pub direction: Option<String>,
    /// A0.
    pub internal: Option<EndData>,
    /// A1.
    pub inside: Option<EndData>,
    /// A2; `null`: nothing is reserved, for nothing is translated.
    pub outside: Option<EndData>,
    /// A3.
    pub external: Option<EndData>,
    /// Who made it.
    pub owner: Option<String>,
}

/// A lifetime that was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifetimeData {
    /// PID, of a rule.
    pub rule: Option<u32>,
    /// GID, of a group.
    pub group: Option<u32>,
    /// What was granted.
    pub lifetime_seconds: u32,
    /// Whether it is gone.
    pub deleted: bool,
}

/// An authorization token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenData {
    /// Hexadecimal digits.
    pub token: String,
    /// Seconds since 1970.
    pub expires_unix: u64,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MidcomGroup {
    /// GID.
    pub group: u32,
    /// Whose rules they are.
    pub owner: String,
}

/// A line of `watch`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventData {
    /// `open`, `lost`, `resynchronized`, `rule`, `group`, `expiring` or `badly_formed`.
    pub event: String,
    /// PID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<u32>,
    /// GID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
    /// Seconds left; 0: ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifetime_seconds: Option<u32>,
    /// After a resynchronization: the rules there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<u32>>,
    /// In words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Payload for MiddleboxData {
    const SCHEMA: &'static str = "turnpike.midcom-session.v1";
}

impl Payload for MidcomRule {
    const SCHEMA: &'static str = "turnpike.midcom-rule.v1";
}

impl Payload for TokenData {
    const SCHEMA: &'static str = "turnpike.midcom-token.v1";
}

impl Payload for LifetimeData {
    const SCHEMA: &'static str = "turnpike.midcom-lifetime.v1";
}

/// Rules of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MidcomRules(pub Vec<MidcomRule>);

impl Payload for MidcomRules {
    const SCHEMA: &'static str = "turnpike.midcom-rules.v1";
}

/// Groups of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MidcomGroups(pub Vec<MidcomGroup>);

impl Payload for MidcomGroups {
    const SCHEMA: &'static str = "turnpike.midcom-groups.v1";
}

fn versions(versions: IpVersions) -> Vec<u8> {
    let list = [(versions.v4, 4), (versions.v6, 6)];
    list.into_iter().filter(|(there, _)| *there).map(|(_, number)| number).collect()
}

/// The attributes of an SE reply.
#[must_use]
pub fn middlebox(established: &Established) -> MiddleboxData {
    let known = &established.capabilities;
    let more = established.more;
    MiddleboxData {
        firewall: known.firewall,
        nat: known.nat,
        port_translation: known.port_translation,
        twice_nat: known.twice_nat,
        internal_wildcard: known.internal_wildcard,
        external_wildcard: known.external_wildcard,
        port_wildcard: known.port_wildcard,
        persistent: known.persistent,
        internal_versions: versions(known.internal_versions),
        external_versions: versions(known.external_versions),
        max_lifetime_seconds: known.max_lifetime,
        extensions: established.extensions.unwrap_or_default().0,
        idle_timeout_seconds: more.map(|more| more.idle_timeout).filter(|&seconds| seconds > 0),
        max_sessions: more.map(|more| more.max_sessions),
    }
}

fn end(tuple: &Tuple) -> EndData {
    match tuple.ends {
        Ends::ProtocolsOnly { version, .. } => {
            let address = if version == IpVersion::V4 { "0.0.0.0" } else { "::" };
            EndData { address: address.to_owned(), prefix_length: 0, port: 0, ports: 1 }
        }
        Ends::Full { address, prefix, port, range } => {
            EndData { address: address.to_string(), prefix_length: prefix, port, ports: range }
        }
    }
}

/// What was reserved.
#[must_use]
pub fn reserved(reserved: &Reserved, owner: Option<&[u8]>) -> MidcomRule {
    let there = matches!(reserved.outside.ends, Ends::Full { .. });
    MidcomRule {
        rule: reserved.rule,
        group: reserved.group,
        action: "reserve".to_owned(),
        lifetime_seconds: reserved.lifetime,
        protocol: protocol_name(reserved.outside.protocol),
        direction: None,
        internal: None,
        inside: reserved.inside.as_ref().map(end),
        outside: there.then(|| end(&reserved.outside)),
        external: None,
        owner: owner.map(|owner| String::from_utf8_lossy(owner).into_owned()),
    }
}

/// What was enabled, between these.
#[must_use]
pub fn enabled(enabled: &Enabled, internal: &Tuple, external: &Tuple, direction: Direction) -> MidcomRule {
    MidcomRule {
        rule: enabled.rule,
        group: enabled.group,
        action: "enable".to_owned(),
        lifetime_seconds: enabled.lifetime,
        protocol: protocol_name(internal.protocol),
        direction: Some(way(direction).to_owned()),
        internal: Some(end(internal)),
        inside: enabled.inside.as_ref().map(end),
        outside: Some(end(&enabled.outside)),
        external: Some(end(external)),
        owner: None,
    }
}

/// A rule's status.
#[must_use]
pub fn status(status: &Status) -> MidcomRule {
    match status {
        Status::Reserve(reserve, owner) => reserved(reserve, Some(owner)),
        Status::Enable(status) => enable_status(status),
    }
}

fn enable_status(status: &EnableStatus) -> MidcomRule {
    MidcomRule {
        rule: status.rule,
        group: status.group,
        action: "enable".to_owned(),
        lifetime_seconds: status.lifetime,
        protocol: protocol_name(status.internal.protocol),
        direction: Some(way(status.parameters.direction).to_owned()),
        internal: Some(end(&status.internal)),
        inside: status.inside.as_ref().map(end),
        outside: Some(end(&status.outside)),
        external: Some(end(&status.external)),
        owner: Some(String::from_utf8_lossy(&status.owner).into_owned()),
    }
}

fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "in",
        Direction::Outbound => "out",
        Direction::Bidirectional => "both",
    }
}

/// What is told unasked.
#[must_use]
pub fn event(notice: &Notice) -> EventData {
    let named = |event: &str| EventData { event: event.to_owned(), ..EventData::default() };
    match notice {
        Notice::Open(_) => named("open"),
        Notice::Lost(why) => EventData { reason: Some(why.to_string()), ..named("lost") },
        Notice::Resynchronized(found) => {
            let rules = found.iter().map(Status::rule).collect();
            EventData { rules: Some(rules), ..named("resynchronized") }
        }
        Notice::Notification(notification) => match notification {
            Notification::BadlyFormed => named("badly_formed"),
            Notification::SessionTerminated { reason } => {
                EventData { reason: reason.clone(), ..named("lost") }
            }
            Notification::Rule { rule, lifetime, reason } => EventData {
                rule: Some(*rule),
                lifetime_seconds: Some(*lifetime),
                reason: reason.clone(),
                ..named("rule")
            },
            Notification::Group { group, lifetime } => {
                EventData { group: Some(*group), lifetime_seconds: Some(*lifetime), ..named("group") }
            }
            Notification::Expiring { rule, lifetime } => {
                EventData { rule: Some(*rule), lifetime_seconds: Some(*lifetime), ..named("expiring") }
            }
        },
    }
}

//! MIDCOM: who may open what through which front end. `[midcom]`, `[[agent]]`, `[pcp]`,
//! `[[third_party]]`, as types and from the document.

use crate::address::Network;
use crate::read::{Section, boolean, integer, text};
use crate::sections::{absolute_path, protocol, word};
use crate::value::{Name, Protocol, Refusal};
use serde::Serialize;
use std::path::PathBuf;
use toml::de::DeValue;

/// Largest lifetime, seconds; 4294967295 is "until somebody deletes it".
const LONGEST_LIFETIME: i64 = u32::MAX as i64;
/// Largest lifetime of a host's rule, seconds: 4294967295 says that it is not the host's (RFC 6887 section 11.3).
const LONGEST_PCP: i64 = LONGEST_LIFETIME - 1;
const MOST_RULES: i64 = 16_000_000;
const MOST_SESSIONS: i64 = 100_000;
/// Longest name of an agent, bytes.
const LONGEST_AGENT: usize = 255;

/// `[midcom]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Midcom {
    /// Rules in all.
    pub rules: u32,
    /// Rules for one inside host, whoever made them.
    pub rules_per_host: u32,
    /// Sessions in all.
    pub sessions: u32,
    /// Consecutive ports of a rule.
    pub range: u16,
    /// What happens to flows when a rule ends.
    pub ending: Ending,
    /// Answer "no such rule" about rules of others.
    pub hide_foreign: bool,
    /// Seconds before its end that agents are told a rule ends; 0 does not tell.
    pub notice: u32,
    /// The audit log; `None` is `audit.jsonl` in `control.state`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<PathBuf>,
}

impl Default for Midcom {
    fn default() -> Self {
        Self {
            rules: 1_000_000,
            rules_per_host: 1024,
            sessions: 1024,
            range: 64,
            ending: Ending::Cut,
            hide_foreign: false,
            notice: 0,
            audit: None,
        }
    }
}

/// What happens to a rule's flows when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// They end with it.
    Cut,
    /// They go on until they end by themselves.
    Drain,
}

/// A right of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// Reserve.
    Reserve,
    /// Enable.
    Enable,
    /// Shorten lifetimes.
    Modify,
    /// Lengthen lifetimes.
    Extend,
    /// Delete.
    Delete,
    /// List.
    Read,
    /// All of it with everybody's rules.
    Admin,
}

impl Right {
    const WORDS: [(&'static str, Self); 7] = [
        ("reserve", Self::Reserve),
        ("enable", Self::Enable),
        ("modify", Self::Modify),
        ("extend", Self::Extend),
        ("delete", Self::Delete),
        ("read", Self::Read),
        ("admin", Self::Admin),
    ];
    /// What an agent does with its own rules.
    pub const OWN: [Self; 6] =
        [Self::Reserve, Self::Enable, Self::Modify, Self::Extend, Self::Delete, Self::Read];
}

/// `[[agent]]`: a MIDCOM agent, known by its certificate's name or by its key's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Agent {
    /// What it authenticates as.
    pub name: String,
    /// Inside zones it may open for.
    pub zones: Vec<Name>,
    /// What it may do.
    pub rights: Vec<Right>,
    /// Inside hosts (A0) it may open for.
    pub inside: Vec<Network>,
    /// Remote ends (A3) it may open towards.
    pub outside: Vec<Network>,
    /// Protocols it may open; empty is every one.
    pub protocols: Vec<Protocol>,
    /// Whether it may open for everybody, or for prefixes.
    pub external_wildcard: bool,
    /// Agents whose rules it may act on.
    pub takes_over: Vec<String>,
    /// Most rules.
    pub rules: u32,
    /// Most sessions.
    pub sessions: u32,
    /// Longest lifetime, seconds.
    pub lifetime: u32,
    /// Seconds after which its idle rules end; 0 keeps them.
    pub idle: u32,
    /// Answer only when it is on disk.
    pub durable: bool,
    /// The file of the key it proves itself by where it speaks in clear text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

/// `[pcp]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pcp {
    /// Inside zones whose hosts may open for themselves over PCP; none turns it off.
    pub zones: Vec<Name>,
    /// The same over NAT-PMP.
    pub nat_pmp: Vec<Name>,
    /// MAP is allowed.
    pub map: bool,
    /// PEER is allowed.
    pub peer: bool,
    /// Most rules of a host.
    pub rules: u32,
    /// Shortest lifetime granted, seconds.
    pub lifetime_min: u32,
    /// Longest lifetime, seconds.
    pub lifetime: u32,
    /// Most ports of a set (RFC 7753).
    pub port_set: u16,
    /// Requests of a subscriber a second.
    pub rate: u32,
    /// Protocols; empty is every one.
    pub protocols: Vec<Protocol>,
}

impl Default for Pcp {
    fn default() -> Self {
        Self {
            zones: Vec::new(),
            nat_pmp: Vec::new(),
            map: true,
            peer: true,
            rules: 256,
            lifetime_min: 120,
            // Not longer than an outgoing TCP connection has its mapping (RFC 6887 section 18.1).
            lifetime: 7200,
            port_set: 16,
            rate: 10,
            protocols: Vec::new(),
        }
    }
}

/// `[[third_party]]`: PCP clients that may open for other hosts (RFC 6887 13.1).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ThirdParty {
    /// The clients.
    pub clients: Network,
    /// Whom they may open for.
    pub hosts: Vec<Network>,
    /// Most rules of a client.
    pub rules: u32,
}

pub(crate) fn midcom(section: &mut Section<'_, '_>) -> Midcom {
    let default = Midcom::default();
    let endings = [("cut", Ending::Cut), ("drain", Ending::Drain)];
    Midcom {
        rules: section.optional("rules", integer(0..=MOST_RULES)).unwrap_or(default.rules),
        rules_per_host: section
            .optional("rules_per_host", integer(0..=MOST_RULES))
            .unwrap_or(default.rules_per_host),
        sessions: section.optional("sessions", integer(0..=MOST_SESSIONS)).unwrap_or(default.sessions),
        range: section.optional("range", integer(1..=64)).unwrap_or(default.range),
        ending: section
            .optional("ending", |value| word(value, &endings, "is not an ending: write \"cut\" or \"drain\""))
            .unwrap_or(default.ending),
        hide_foreign: section.optional("hide_foreign", boolean).unwrap_or(default.hide_foreign),
        notice: section.optional("notice", integer(0..=86_400)).unwrap_or(default.notice),
        audit: section.optional("audit", absolute_path),
    }
}

pub(crate) fn agent(section: &mut Section<'_, '_>) -> Agent {
    let rights = "is not a right: write reserve, enable, modify, extend, delete, read or admin";
    Agent {
        name: section.required("name", "give the name of its certificate", agent_name).unwrap_or_default(),
        zones: zones(section, "zones", true),
        rights: section
            .list("rights", "write [\"reserve\", \"enable\", ...]", |value| {
                word(value, &Right::WORDS, rights)
            })
            .unwrap_or_else(|| Right::OWN.to_vec()),
        inside: section
            .required_list("inside", "list the hosts it may open for, such as [\"192.168.0.0/24\"]", text)
            .unwrap_or_default(),
        outside: section
            .list("outside", "list prefixes", text)
            .unwrap_or_else(|| vec![Network::ANY_V4, Network::ANY_V6]),
        protocols: section.list("protocols", "list protocols", protocol).unwrap_or_default(),
        external_wildcard: section.optional("external_wildcard", boolean).unwrap_or(false),
        takes_over: section.list("takes_over", "list names of agents", agent_name).unwrap_or_default(),
        rules: section.optional("rules", integer(0..=MOST_RULES)).unwrap_or(10_000),
        sessions: section.optional("sessions", integer(0..=MOST_SESSIONS)).unwrap_or(16),
        lifetime: section.optional("lifetime", integer(1..=LONGEST_LIFETIME)).unwrap_or(3600),
        idle: section.optional("idle", integer(0..=LONGEST_LIFETIME)).unwrap_or(0),
        durable: section.optional("durable", boolean).unwrap_or(true),
        key: section.optional("key", absolute_path),
    }
}

pub(crate) fn pcp(section: &mut Section<'_, '_>) -> Pcp {
    let default = Pcp::default();
    Pcp {
        zones: zones(section, "zones", false),
        nat_pmp: zones(section, "nat_pmp", false),
        map: section.optional("map", boolean).unwrap_or(default.map),
        peer: section.optional("peer", boolean).unwrap_or(default.peer),
        rules: section.optional("rules", integer(0..=MOST_RULES)).unwrap_or(default.rules),
        lifetime_min: section
            .optional("lifetime_min", integer(1..=LONGEST_PCP))
            .unwrap_or(default.lifetime_min),
        lifetime: section.optional("lifetime", integer(1..=LONGEST_PCP)).unwrap_or(default.lifetime),
        port_set: section.optional("port_set", integer(1..=64)).unwrap_or(default.port_set),
        rate: section.optional("rate", integer(1..=1_000_000)).unwrap_or(default.rate),
        protocols: section.list("protocols", "list protocols", protocol).unwrap_or_default(),
    }
}

pub(crate) fn third_party(section: &mut Section<'_, '_>) -> ThirdParty {
    ThirdParty {
        clients: section
            .required("clients", "give the prefix of the clients, such as \"192.168.0.2/32\"", text)
            .unwrap_or(Network::ANY_V4),
        hosts: section
            .required_list("hosts", "list whom they may open for, such as [\"192.168.0.0/24\"]", text)
            .unwrap_or_default(),
        rules: section.optional("rules", integer(0..=MOST_RULES)).unwrap_or(10_000),
    }
}

pub(crate) fn zones(section: &mut Section<'_, '_>, key: &'static str, required: bool) -> Vec<Name> {
    let what = "list inside zones, such as [\"inside\"]";
    let list = if required { section.required_list(key, what, text) } else { section.list(key, what, text) };
    list.unwrap_or_default()
}

fn agent_name(value: &DeValue<'_>) -> Result<String, Refusal> {
    let fits = |text: &&str| {
        (1..=LONGEST_AGENT).contains(&text.len())
            && !text.chars().any(|c| c.is_control() || c.is_whitespace())
    };
    value
        .as_str()
        .filter(fits)
        .map(str::to_owned)
        .ok_or("is not the name of an agent: write 1 to 255 bytes without spaces".into())
}

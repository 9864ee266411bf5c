//! Who may do what: profiles by authenticated identity, quotas, and what the operator enabled
//! (RFC 5189 2.1.5; RFC 3303 6.2). What is not here is refused.

use crate::identity::{Agent, Front, Name};
use crate::realm::Realm;
use crate::transaction::Ending;
use crate::tuple::{Lifetime, Network, Protocol};
use hashbrown::HashMap;
use std::net::IpAddr;

/// Rights of an agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights(u8);

impl Rights {
    /// PRR.
    pub const RESERVE: Self = Self(1);
    /// PER.
    pub const ENABLE: Self = Self(2);
    /// RLC and GLC with a lifetime above 0 and below what is left.
    pub const MODIFY: Self = Self(4);
    /// RLC and GLC with lifetime 0.
    pub const DELETE: Self = Self(8);
    /// PRL, PRS, GL, GS.
    pub const READ: Self = Self(16);
    /// Every rule of every owner (RFC 5189 2.1.5 "administrator").
    pub const ADMIN: Self = Self(32);
    /// RLC and GLC beyond what is left.
    pub const EXTEND: Self = Self(64);
    /// Everything an agent does with its own rules.
    pub const OWN: Self = Self(1 | 2 | 4 | 8 | 16 | 64);

    /// The rights of both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are among them.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// For which inside hosts (A0) an agent may open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The address it speaks from ([`crate::Requester::host`]) alone.
    Own,
    /// These; third-party control.
    Prefixes(Vec<Network>),
}

/// What an agent may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Zones of the inside hosts it may open for; the first is what it means if it names none.
    pub zones: Vec<Name>,
    /// Its rights.
    pub rights: Rights,
    /// Inside hosts.
    pub inside: Scope,
    /// Remote ends (A3) it may open towards.
    pub outside: Vec<Network>,
    /// Protocols; empty is every one the box knows.
    pub protocols: Vec<Protocol>,
    /// Whether A3 may be a prefix, or anybody.
    pub external_wildcard: bool,
    /// Agents whose rules it may act on as on its own (takeover, decision G-05).
    pub takes_over: Vec<Agent>,
    /// Most rules.
    pub rules: u32,
    /// Most sessions.
    pub sessions: u32,
    /// Longest lifetime.
    pub lifetime: Lifetime,
    /// Seconds after which its idle rules end.
    pub idle: Option<u32>,
    /// Whether answers wait until the rule is on disk. Without, a rule of the last milliseconds may be lost in a
    /// crash although it was granted. Rules by permit wait all the same.
    pub durable: bool,
}

/// What the operator enabled of a front end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrontAccess {
    /// Inside zones it is enabled for. Nothing is open elsewhere.
    pub zones: Vec<Name>,
    /// Its agents by name. Taken first.
    pub agents: HashMap<Name, Profile>,
    /// Hosts with a profile of their own, such as those that may open for others over PCP; the first match counts.
    pub hosts: Vec<(Network, Profile)>,
    /// Everybody else's; `None` refuses them.
    pub everybody: Option<Profile>,
}

impl FrontAccess {
    /// The profile of an agent that speaks from `host`.
    #[must_use]
    pub fn profile(&self, agent: &Agent, host: Option<IpAddr>) -> Option<&Profile> {
        self.agents
            .get(&agent.name)
            .or_else(|| {
                let host = host?;
                self.hosts.iter().find(|(network, _)| network.contains(host)).map(|(_, profile)| profile)
            })
            .or(self.everybody.as_ref())
    }
}

/// How much there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rules in all.
    pub rules: usize,
    /// Rules for one inside host, whoever made them.
    pub per_subscriber: u32,
    /// Sessions in all.
    pub sessions: u32,
    /// Consecutive ports of a rule.
    pub range: u16,
    /// Requests under way.
    pub pending: usize,
    /// Seconds before its end that an agent is told a rule ends; 0 does not tell.
    pub notice: u32,
    /// Permits of which uses are spent and that have not ended.
    pub permits: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            rules: 1 << 20,
            per_subscriber: 1024,
            sessions: 1024,
            range: 64,
            pending: 1 << 16,
            notice: 0,
            permits: 1 << 16,
        }
    }
}

/// Everything the configuration says to the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Pools, and who is translated through them.
    pub realm: Realm,
    /// Front ends. What is missing is refused.
    pub fronts: HashMap<Front, FrontAccess>,
    /// How much there may be.
    pub limits: Limits,
    /// What happens to flows when a rule ends, unless the rule says so.
    pub ending: Ending,
    /// Answer "no such rule" about rules of others (RFC 3304 2.2.6).
    pub hide_foreign: bool,
}

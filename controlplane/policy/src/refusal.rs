//! Why something was refused, and what that is called in SIMCO, PCP and NAT-PMP.

use crate::identity::Agent;
use crate::rule::{Ended, Grant, GroupId, RuleId};
use crate::tuple::{Network, Protocol, Tuple};
use std::net::IpAddr;
use turnpike_abi::event::AckResult;

/// Why a request was refused. A refused request changed nothing (RFC 5189 2.3.14).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The front end is not enabled for the zone, or for none.
    #[error("{front} is not enabled for zone {zone:?}: the configuration enables it with `zones`")]
    NotEnabled {
        /// The front end.
        front: &'static str,
        /// The zone.
        zone: String,
    },
    /// The agent is not configured.
    #[error("{0} is not an agent of the configuration")]
    UnknownAgent(Agent),
    /// The agent has as many sessions as it may have, or there are as many as there may be.
    #[error("{limit} sessions are open, the most {whose} may have")]
    Sessions {
        /// The limit.
        limit: u32,
        /// `the box` or `an agent`.
        whose: &'static str,
    },
    /// The agent lacks the right to this transaction.
    #[error("{agent} has no right to {transaction}")]
    NotAuthorized {
        /// The agent.
        agent: Agent,
        /// What it asked for.
        transaction: &'static str,
    },
    /// The agent may not open for this inside host.
    #[error("{agent} may not open for {internal}")]
    NotItsHost {
        /// The agent.
        agent: Agent,
        /// A0.
        internal: Network,
    },
    /// The agent may not open towards this remote end.
    #[error("{agent} may not open towards {external}")]
    NotItsRemote {
        /// The agent.
        agent: Agent,
        /// A3.
        external: Network,
    },
    /// The agent may not open for this protocol.
    #[error("{agent} may not open protocol {protocol}")]
    NotItsProtocol {
        /// The agent.
        agent: Agent,
        /// The protocol.
        protocol: Protocol,
    },
    /// The permit it showed was used up.
    #[error("the authorization was used {0} times, as often as it may be")]
    PermitUsed(u32),
    /// The permit it showed is over.
    #[error("the authorization has expired")]
    PermitExpired,
    /// Uses of as many permits are remembered as may be.
    #[error(
        "uses of {0} authorizations are remembered, the most the box holds: no other is taken until one of them expires"
    )]
    PermitsFull(usize),
    /// No such rule.
    #[error("no rule {0}")]
    NoSuchRule(RuleId),
    /// It belongs to somebody else.
    #[error("rule {0} belongs to another agent")]
    NotYourRule(RuleId),
    /// No such group.
    #[error("no group {0}")]
    NoSuchGroup(GroupId),
    /// It belongs to somebody else.
    #[error("group {0} belongs to another agent")]
    NotYourGroup(GroupId),
    /// It is not a reservation (any more).
    #[error("rule {0} is not a reservation")]
    NotReserved(RuleId),
    /// What is to be enabled contradicts the reservation.
    #[error("rule {rule} was reserved with another {what}")]
    ReservedMismatch {
        /// The reservation.
        rule: RuleId,
        /// `internal address`, `range`.
        what: &'static str,
    },
    /// Its protocol is not the reservation's.
    #[error("rule {0} was reserved for another protocol")]
    ReservedProtocol(RuleId),
    /// Its family is not the reservation's.
    #[error("rule {0} was reserved for another IP version")]
    ReservedVersion(RuleId),
    /// The reserved port has not the internal port's parity.
    #[error("the reserved port {outside} has not the parity of the internal port {internal}")]
    ReservedParity {
        /// Lowest outside port.
        outside: u16,
        /// Lowest internal port.
        internal: u16,
    },
    /// The families of A0 and A3 differ.
    #[error("A0 and A3 are of different IP versions: the box does not translate between them")]
    Versions,
    /// The parameters contradict each other.
    #[error("the parameters contradict each other: {0}")]
    Inconsistent(&'static str),
    /// A prefix or port 0 as A0.
    #[error("internal address {0}: a rule is for one inside host and its ports")]
    InternalWildcard(Tuple),
    /// A prefix as A3 that the agent may not use.
    #[error("external address {0}: this agent has to name the remote host")]
    ExternalWildcard(Tuple),
    /// A protocol the box has no rules of.
    #[error("protocol {protocol}: {why}")]
    UnsupportedProtocol {
        /// The protocol.
        protocol: Protocol,
        /// Why not.
        why: &'static str,
    },
    /// Twice-NAT.
    #[error("the box has no twice-NAT")]
    TwiceNat,
    /// Rules of interfaces.
    #[error("the box has no rules of interfaces")]
    Interfaces,
    /// Not an address of a host.
    #[error("{0} is not the address of a host")]
    NotAHost(IpAddr),
    /// A prefix longer than its address.
    #[error("{0}: the prefix is longer than the address")]
    NotAPrefix(Network),
    /// The ports end beyond 65535.
    #[error("port {port} with {range} consecutive ports goes beyond 65535")]
    Port {
        /// Lowest port.
        port: u16,
        /// Ports.
        range: u16,
    },
    /// Too many ports at once.
    #[error("{range} consecutive ports; 1 to {most} are allowed")]
    Range {
        /// Asked for.
        range: u16,
        /// Most.
        most: u16,
    },
    /// The description or the tag is too long.
    #[error("the annotation is longer than {0} bytes")]
    Annotation(usize),
    /// A behaviour that the protocol does not have.
    #[error("{0}")]
    Behaviour(&'static str),
    /// No pool of that name.
    #[error("no pool {pool:?}; the configuration has {known:?}")]
    NoSuchPool {
        /// The name.
        pool: String,
        /// Those there are.
        known: Vec<String>,
    },
    /// Not an address of the pool.
    #[error("{address} is not an address of pool {pool:?}")]
    NotInPool {
        /// The pool.
        pool: String,
        /// The address.
        address: IpAddr,
    },
    /// Wanted an external end of something that is not translated.
    #[error("{0} is not translated: leave the pool and the external end out")]
    NotTranslated(IpAddr),
    /// Another inside end has the outside end.
    #[error("external {protocol} {outside} belongs to rule {holder}")]
    ExternalTaken {
        /// The protocol.
        protocol: Protocol,
        /// The end.
        outside: Grant,
        /// Who has it.
        holder: RuleId,
    },
    /// The inside end has another outside end already.
    #[error("inside {protocol} {internal} has rule {holder} with another external end{}", at(*.outside))]
    MappedElsewhere {
        /// The protocol.
        protocol: Protocol,
        /// The inside end.
        internal: Tuple,
        /// The rule that has it.
        holder: RuleId,
        /// Its outside end.
        outside: Option<Grant>,
    },
    /// No address of the pool is free for a protocol without ports.
    #[error("no address of the pool is free for protocol {0}")]
    NoAddress(Protocol),
    /// No port, or not as many consecutive ones.
    #[error("no free port: {0}")]
    NoPort(&'static str),
    /// The outside end that was insisted on cannot be had.
    #[error("the external end that was asked for cannot be had: {0}")]
    NotProvided(&'static str),
    /// The agent, or the subscriber, has as many rules as it may have.
    #[error("{whose} has {limit} rules, the most it may have")]
    Quota {
        /// Who.
        whose: String,
        /// The limit.
        limit: u32,
    },
    /// There are as many as there may be.
    #[error("there are {0} rules, the most the box holds")]
    Full(usize),
    /// A new rule without lifetime.
    #[error("a rule cannot begin with lifetime 0")]
    LifetimeZero,
    /// The lifetime cannot be made longer.
    #[error("the lifetime of rule {0} cannot be extended")]
    NotExtendable(RuleId),
    /// No worker can carry it out.
    #[error("the dataplane is not attached: try again when `turnpike status` says attached")]
    Detached,
    /// The worker said no.
    #[error("{}", .0.text())]
    Worker(AckResult),
    /// The journal could not be written.
    #[error("the journal could not be written: see the daemon's log")]
    Journal,
    /// It ended before it was granted.
    #[error("it ended before it was granted ({})", .0.name())]
    Withdrawn(Ended),
    /// Too many requests wait.
    #[error("too many requests are under way")]
    Busy,
}

fn at(outside: Option<Grant>) -> String {
    outside.map_or_else(String::new, |end| format!(", {end}"))
}

/// A PCP result code (RFC 6887 7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PcpResult {
    /// The code.
    pub code: u8,
    /// Whether the client should wait long (30 minutes) before it asks again; else 30 seconds.
    pub long: bool,
}

const fn long(code: u8) -> PcpResult {
    PcpResult { code, long: true }
}

const fn short(code: u8) -> PcpResult {
    PcpResult { code, long: false }
}

impl Refusal {
    /// The low byte of SIMCO's negative reply (RFC 4540 4.2.3).
    #[must_use]
    pub const fn simco(&self) -> u8 {
        match self {
            Self::Sessions { .. } => 0x21,
            Self::UnknownAgent(_) => 0x24,
            Self::NotEnabled { .. }
            | Self::NotAuthorized { .. }
            | Self::NotItsHost { .. }
            | Self::NotItsRemote { .. }
            | Self::NotItsProtocol { .. }
            | Self::PermitUsed(_)
            | Self::PermitExpired => 0x41,
            Self::Quota { .. } | Self::Full(_) | Self::PermitsFull(_) | Self::Busy => 0x42,
            Self::NoSuchRule(_) => 0x43,
            Self::NoSuchGroup(_) => 0x44,
            Self::NotYourRule(_) => 0x45,
            Self::NotYourGroup(_) => 0x46,
            Self::NoSuchPool { .. } | Self::NotInPool { .. } | Self::NotTranslated(_) => 0x47,
            Self::NoAddress(_) => 0x48,
            Self::NoPort(_) => 0x49,
            Self::Detached | Self::Journal | Self::Withdrawn(_) | Self::Interfaces | Self::LifetimeZero => {
                0x4A
            }
            Self::Worker(result) => worker_simco(*result),
            Self::NotReserved(_)
            | Self::ReservedMismatch { .. }
            | Self::Inconsistent(_)
            | Self::Annotation(_)
            | Self::Behaviour(_) => 0x4B,
            Self::InternalWildcard(_) | Self::ExternalWildcard(_) => 0x4C,
            Self::ReservedProtocol(_) => 0x4D,
            Self::TwiceNat => 0x4E,
            Self::ReservedVersion(_) | Self::Versions => 0x4F,
            Self::ExternalTaken { .. } | Self::MappedElsewhere { .. } | Self::NotProvided(_) => 0x50,
            Self::NotExtendable(_) => 0x52,
            Self::NotAHost(_) | Self::NotAPrefix(_) => 0x53,
            Self::UnsupportedProtocol { .. } => 0x54,
            Self::Port { .. } => 0x55,
            Self::Range { .. } => 0x56,
            Self::ReservedParity { .. } => 0x58,
        }
    }

    /// PCP's result.
    #[must_use]
    pub const fn pcp(&self) -> PcpResult {
        match self {
            Self::NotEnabled { .. }
            | Self::UnknownAgent(_)
            | Self::NotAuthorized { .. }
            | Self::NotItsHost { .. }
            | Self::NotItsRemote { .. }
            | Self::NotItsProtocol { .. }
            | Self::PermitUsed(_)
            | Self::PermitExpired
            | Self::NotYourRule(_)
            | Self::NotYourGroup(_)
            | Self::NotExtendable(_) => long(2),
            Self::Inconsistent(_)
            | Self::NoSuchRule(_)
            | Self::NoSuchGroup(_)
            | Self::NotReserved(_)
            | Self::ReservedMismatch { .. }
            | Self::ReservedProtocol(_)
            | Self::ReservedVersion(_)
            | Self::ReservedParity { .. }
            | Self::Versions
            | Self::NotAHost(_)
            | Self::NotAPrefix(_)
            | Self::Port { .. }
            | Self::Range { .. }
            | Self::Annotation(_)
            | Self::Behaviour(_)
            | Self::Interfaces
            | Self::LifetimeZero => long(3),
            Self::Detached | Self::Withdrawn(_) => short(7),
            Self::Worker(result) => short(worker_pcp(*result)),
            Self::NoAddress(_)
            | Self::NoPort(_)
            | Self::Full(_)
            | Self::PermitsFull(_)
            | Self::Journal
            | Self::Busy
            | Self::Sessions { .. } => short(8),
            Self::UnsupportedProtocol { .. } | Self::InternalWildcard(_) | Self::TwiceNat => long(9),
            Self::Quota { .. } => short(10),
            Self::NoSuchPool { .. }
            | Self::NotInPool { .. }
            | Self::NotTranslated(_)
            | Self::ExternalTaken { .. }
            | Self::MappedElsewhere { .. }
            | Self::NotProvided(_) => short(11),
            Self::ExternalWildcard(_) => long(2),
        }
    }

    /// NAT-PMP's result (RFC 6886 3.5): 2 not authorized, 3 network failure, 4 out of resources.
    #[must_use]
    pub const fn nat_pmp(&self) -> u16 {
        match self.pcp().code {
            2 | 3 | 9 => 2,
            7 => 3,
            _ => 4,
        }
    }

    /// A short word for metrics and the audit log.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotEnabled { .. } => "not_enabled",
            Self::UnknownAgent(_) => "unknown_agent",
            Self::Sessions { .. } => "sessions",
            Self::NotAuthorized { .. } => "not_authorized",
            Self::NotItsHost { .. } => "not_its_host",
            Self::NotItsRemote { .. } => "not_its_remote",
            Self::NotItsProtocol { .. } => "not_its_protocol",
            Self::PermitUsed(_) => "permit_used",
            Self::PermitExpired => "permit_expired",
            Self::NoSuchRule(_) => "no_such_rule",
            Self::NotYourRule(_) => "not_your_rule",
            Self::NoSuchGroup(_) => "no_such_group",
            Self::NotYourGroup(_) => "not_your_group",
            Self::NotReserved(_) => "not_reserved",
            Self::ReservedMismatch { .. }
            | Self::ReservedProtocol(_)
            | Self::ReservedVersion(_)
            | Self::ReservedParity { .. } => "reserved_mismatch",
            Self::Versions => "ip_version",
            Self::Inconsistent(_) | Self::Behaviour(_) | Self::Annotation(_) | Self::LifetimeZero => {
                "inconsistent"
            }
            Self::InternalWildcard(_) | Self::ExternalWildcard(_) => "wildcard",
            Self::UnsupportedProtocol { .. } => "protocol",
            Self::TwiceNat => "twice_nat",
            Self::Interfaces => "interfaces",
            Self::NotAHost(_) | Self::NotAPrefix(_) => "illegal_address",
            Self::Port { .. } | Self::Range { .. } => "illegal_port",
            Self::NoSuchPool { .. } | Self::NotInPool { .. } | Self::NotTranslated(_) => "address_space",
            Self::ExternalTaken { .. } | Self::MappedElsewhere { .. } => "conflict",
            Self::NoAddress(_) => "no_address",
            Self::NoPort(_) => "no_port",
            Self::NotProvided(_) => "not_provided",
            Self::Quota { .. } => "quota",
            Self::Full(_) | Self::PermitsFull(_) | Self::Busy => "full",
            Self::NotExtendable(_) => "not_extendable",
            Self::Detached => "detached",
            Self::Worker(_) => "worker",
            Self::Journal => "journal",
            Self::Withdrawn(_) => "withdrawn",
        }
    }
}

const fn worker_simco(result: AckResult) -> u8 {
    match result {
        AckResult::NO_PORT => 0x49,
        AckResult::TABLE_FULL | AckResult::LIMIT | AckResult::TOO_MANY => 0x42,
        AckResult::PORT_TAKEN | AckResult::MAPPED_ELSEWHERE => 0x50,
        AckResult::NOT_IN_POOL => 0x47,
        _ => 0x4A,
    }
}

const fn worker_pcp(result: AckResult) -> u8 {
    match result {
        AckResult::NO_PORT | AckResult::TABLE_FULL => 8,
        AckResult::LIMIT | AckResult::TOO_MANY => 10,
        AckResult::PORT_TAKEN | AckResult::MAPPED_ELSEWHERE | AckResult::NOT_IN_POOL => 11,
        _ => 7,
    }
}

//! The transactions of RFC 5189, as front ends ask for them and get them answered. One request, one answer.

use crate::identity::{Agent, Name};
use crate::rule::{GroupId, RuleId, RuleStatus};
use crate::tuple::{Direction, IpVersion, Lifetime, Network, Parity, PortParity, Protocol, Service, Tuple};
use std::net::IpAddr;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// PRR, policy reserve rule (2.3.8). Answered with [`Reply::Reserved`].
    Reserve(Box<Reserve>),
    /// PER, policy enable rule (2.3.9), also after a reservation. Answered with [`Reply::Enabled`].
    Enable(Box<Enable>),
    /// RLC, policy rule lifetime change (2.3.10). Answered with [`Reply::Lifetime`].
    RuleLifetime {
        /// The rule.
        rule: RuleId,
        /// From now; 0 deletes.
        lifetime: Lifetime,
    },
    /// PRL, policy rule list (2.3.11): every rule the agent may see. Answered with [`Reply::Rules`].
    RuleList(Filter),
    /// PRS, policy rule status (2.3.12). Answered with [`Reply::Rule`].
    RuleStatus(RuleId),
    /// GLC, group lifetime change (2.4.2): RLC of every member at once. Answered with [`Reply::Lifetime`].
    GroupLifetime {
        /// The group.
        group: GroupId,
        /// From now; 0 deletes.
        lifetime: Lifetime,
    },
    /// GL, group list (2.4.3). Answered with [`Reply::Groups`].
    GroupList,
    /// GS, group status (2.4.4). Answered with [`Reply::Group`].
    GroupStatus(GroupId),
    /// The statuses of every rule on inside ports, whoever owns them, for a front end that answers with what is
    /// there (RFC 6887 11.3). Not a transaction of agents: no rights are asked. Answered with [`Reply::Found`].
    Find(Find),
    /// Other words and data on a rule of one's own. Answered with [`Reply::Lifetime`].
    Annotate {
        /// The rule.
        rule: RuleId,
        /// In place of what is there.
        annotation: Annotation,
    },
}

impl Request {
    /// The transaction's name in RFC 5189, as metrics and the audit log show it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Reserve(_) => "prr",
            Self::Enable(_) => "per",
            Self::RuleLifetime { .. } => "rlc",
            Self::RuleList(_) => "prl",
            Self::RuleStatus(_) => "prs",
            Self::GroupLifetime { .. } => "glc",
            Self::GroupList => "gl",
            Self::GroupStatus(_) => "gs",
            Self::Find(_) => "find",
            Self::Annotate { .. } => "annotate",
        }
    }
}

/// Parameters of PRR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// The group to be in; `None` makes one.
    pub group: Option<GroupId>,
    /// The inside zone of A0; `None` is the agent's first.
    pub zone: Option<Name>,
    /// Traditional NAT or twice.
    pub service: Service,
    /// Family of A0, which A0 may not contradict.
    pub internal_version: IpVersion,
    /// A0: address and lowest port (0: not known yet). SIMCO without its extension has none.
    pub internal: Option<Tuple>,
    /// Family of A3.
    pub external_version: IpVersion,
    /// TCP, UDP or a protocol without ports.
    pub protocol: Protocol,
    /// Consecutive ports, 1 or more.
    pub range: u16,
    /// Of the lowest outside port.
    pub parity: PortParity,
    /// What is wished of A2.
    pub outside: Option<Outside>,
    /// Inside and outside interface (2.3.7); refused, since the box has no rules of interfaces.
    pub interfaces: Option<(Name, Name)>,
    /// How long.
    pub lifetime: Lifetime,
    /// What the front end keeps with it.
    pub annotation: Annotation,
}

/// Parameters of PER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enable {
    /// The reservation it takes the place of. Its group, protocol and range hold then, whatever is here; the
    /// protocol, range and families here must not differ (SIMCO's codes 0x4D, 0x4B, 0x4F).
    pub reserved: Option<RuleId>,
    /// The group to be in; `None` makes one.
    pub group: Option<GroupId>,
    /// The inside zone of A0; `None` is the agent's first.
    pub zone: Option<Name>,
    /// TCP, UDP, a protocol without ports, or any where nothing is translated.
    pub protocol: Protocol,
    /// Consecutive ports, 1 or more: port `i` of A0 belongs to port `i` of A2, and of A3 unless that is wild.
    pub range: u16,
    /// Of A2 against A0.
    pub parity: Parity,
    /// Which way.
    pub direction: Direction,
    /// A0.
    pub internal: Tuple,
    /// A3.
    pub external: Tuple,
    /// What is wished of A2.
    pub outside: Option<Outside>,
    /// Inside and outside interface (2.3.7); refused, since the box has no rules of interfaces.
    pub interfaces: Option<(Name, Name)>,
    /// How long.
    pub lifetime: Lifetime,
    /// What MIDCOM cannot say.
    pub behaviour: Behaviour,
    /// What the front end keeps with it.
    pub annotation: Annotation,
}

impl Enable {
    /// One port of a host, to and from everybody of its family.
    #[must_use]
    pub fn new(protocol: Protocol, internal: Tuple, direction: Direction, lifetime: Lifetime) -> Self {
        Self {
            reserved: None,
            group: None,
            zone: None,
            protocol,
            range: 1,
            parity: Parity::Any,
            direction,
            internal,
            external: Tuple::any(internal.version()),
            outside: None,
            interfaces: None,
            lifetime,
            behaviour: Behaviour::default(),
            annotation: Annotation::default(),
        }
    }
}

/// A wish for A2 (SIMCO's extension 0x8005, PCP's suggested external address and port, NAT-PMP's suggested port).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outside {
    /// The pool; `None` is the one the NAT rules give the inside host.
    pub pool: Option<Name>,
    /// The address.
    pub address: Option<IpAddr>,
    /// The lowest port.
    pub port: Option<u16>,
    /// Refuse rather than grant another (PCP's PREFER_FAILURE).
    pub strict: bool,
}

/// What happens to a rule's flows when it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ending {
    /// They end with it.
    #[default]
    Cut,
    /// They go on until they end by themselves; no new ones.
    Drain,
}

/// Who locks the hole (scenario 2.2.2, variation of option 1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lock {
    /// Nobody.
    #[default]
    No,
    /// The first remote address that completes a handshake, or is answered over UDP.
    Address,
    /// That address with its port.
    AddressAndPort,
}

/// What the scenarios need beyond RFC 5189 (SIMCO's extension 0x8006).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Behaviour {
    /// Whether the first source shuts the others out.
    pub lock: Lock,
    /// Most flows at a time; 0 is no limit, 1 a single connection.
    pub max_flows: u16,
    /// The rule ends with the first of its connections that ends (FINs, a reset; UDP: no more packets).
    pub close_on_fin: bool,
    /// Seconds without a packet after which the rule ends; `None` is the agent's own limit.
    pub idle: Option<u32>,
    /// Remote ports that may use it, where A3 has every port.
    pub remote_ports: Option<(u16, u16)>,
    /// What its end does to its flows; `None` is the configuration's word.
    pub ending: Option<Ending>,
}

/// What a front end and its client keep with a rule; journalled, and returned in [`RuleStatus`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Annotation {
    /// What it is for, in its owner's words; at most [`Annotation::LONGEST`] bytes.
    pub description: Option<Box<str>>,
    /// The front end's own, such as PCP's nonce; at most [`Annotation::LONGEST`] bytes.
    pub tag: Box<[u8]>,
}

impl Annotation {
    /// Longest description and tag, bytes.
    pub const LONGEST: usize = 255;
}

/// Which rules; what is `None` does not restrict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of the requester itself alone.
    pub own: bool,
    /// Whose A0 lies in it.
    pub internal: Option<Network>,
    /// Of this protocol.
    pub protocol: Option<Protocol>,
    /// Only with higher identities: paging.
    pub after: Option<RuleId>,
    /// Most rules in the answer; 0 is no limit.
    pub limit: u32,
}

/// Inside ports to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Find {
    /// Zone of the inside host; `None` is the requester's first.
    pub zone: Option<Name>,
    /// Protocol; `None` is every one.
    pub protocol: Option<Protocol>,
    /// The inside host.
    pub host: IpAddr,
    /// First and last port; 0 to 65535 is every one.
    pub ports: (u16, u16),
}

/// A successful answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To PRR.
    Reserved {
        /// The new rule.
        rule: RuleId,
        /// Its group.
        group: GroupId,
        /// A1; always empty, since there is no twice-NAT.
        inside: Option<Tuple>,
        /// A2: empty on a pure firewall.
        outside: Option<Tuple>,
        /// Granted.
        lifetime: Lifetime,
    },
    /// To PER.
    Enabled {
        /// The rule; the reservation's, if there was one.
        rule: RuleId,
        /// Its group.
        group: GroupId,
        /// A1: A3, since there is no twice-NAT.
        inside: Tuple,
        /// A2: A0 on a pure firewall.
        outside: Tuple,
        /// Granted.
        lifetime: Lifetime,
    },
    /// To RLC, GLC: granted; [`Lifetime::NONE`] if it is deleted.
    Lifetime(Lifetime),
    /// To PRL, by identity, with owners (RFC 5189 2.3.11).
    Rules(Vec<(RuleId, Agent)>),
    /// To PRS.
    Rule(Box<RuleStatus>),
    /// To GL.
    Groups(Vec<(GroupId, Agent)>),
    /// To GS.
    Group {
        /// Its owner.
        owner: Agent,
        /// That of the member that lives longest.
        lifetime: Lifetime,
        /// Its members.
        rules: Vec<RuleId>,
    },
    /// To [`Request::Find`], by identity.
    Found(Vec<RuleStatus>),
}

/// What the box can do (RFC 5189 2.1.6), for the answer to SE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// It is a firewall.
    pub firewall: bool,
    /// It translates addresses and ports for this agent's zones.
    pub nat: bool,
    /// Prefixes as A0.
    pub internal_wildcard: bool,
    /// Prefixes as A3.
    pub external_wildcard: bool,
    /// Port 0 as every port of A3.
    pub port_wildcard: bool,
    /// Rules outlive a restart of the box.
    pub persistent: bool,
    /// Families of A0.
    pub internal_versions: (bool, bool),
    /// Families of A3: IPv4, IPv6.
    pub external_versions: (bool, bool),
    /// Longest lifetime granted to this agent.
    pub lifetime: Lifetime,
    /// Seconds after which idle rules of this agent end; `None` if they do not.
    pub idle: Option<u32>,
    /// Most sessions of this agent.
    pub sessions: u32,
    /// Transactions this agent may use, by [`Request::name`].
    pub transactions: Vec<&'static str>,
}

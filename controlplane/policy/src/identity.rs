//! Who asks: agents, their sessions, and the front ends they come through.

use std::net::IpAddr;
use std::sync::Arc;

/// A name of the configuration (zone, pool) or of an agent; shared, so that a million rules hold it once.
pub type Name = Arc<str>;

/// A front end of the policy engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Front {
    /// `turnpike pinhole` and `turnpike rule`.
    Cli,
    /// MIDCOM agents over SIMCO (RFC 4540).
    Simco,
    /// Hosts over PCP (RFC 6887).
    Pcp,
    /// Hosts over NAT-PMP (RFC 6886).
    NatPmp,
    /// Permissions of the TURN relay.
    Turn,
}

impl Front {
    /// Every front end.
    pub const ALL: [Self; 5] = [Self::Cli, Self::Simco, Self::Pcp, Self::NatPmp, Self::Turn];

    /// As owners, metrics and the audit log show it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cli => "cli",
            Self::Simco => "simco",
            Self::Pcp => "pcp",
            Self::NatPmp => "nat-pmp",
            Self::Turn => "turn",
        }
    }

    /// From its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|front| front.name() == name)
    }
}

/// An authenticated agent (RFC 5189 2.1.5): the owner of the rules it makes, for good. Shown as `simco:NAME`.
/// A host that speaks PCP or NAT-PMP is the agent `ZONE/ADDRESS` of that front end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Agent {
    /// How it speaks to the box.
    pub front: Front,
    /// What it authenticated as: for SIMCO the certificate's name, 1 to 255 bytes.
    pub name: Name,
}

impl Agent {
    /// Longest name, bytes: what SIMCO's owner attribute holds (RFC 4540 4.3.6).
    pub const LONGEST: usize = 255;

    /// The agent of that name.
    #[must_use]
    pub fn new(front: Front, name: &str) -> Self {
        Self { front, name: name.into() }
    }
}

impl std::fmt::Display for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.front.name(), self.name)
    }
}

/// An open session, which hears notifications. Never used twice by one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// Names a request until it is answered; chosen by the caller, distinct among those under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId(pub u64);

/// Who makes a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requester {
    /// The authenticated agent.
    pub agent: Agent,
    /// Its session, which is not notified of what it did itself. `None` for front ends without sessions.
    pub session: Option<SessionId>,
    /// The address it speaks from. A host of a front end whose profile says [`crate::Scope::Own`] opens for
    /// this address alone.
    pub host: Option<IpAddr>,
    /// An authorization somebody else gave it for this request (scenario 2.3.3), already verified.
    pub permit: Option<Permit>,
}

impl Requester {
    /// An agent without session, host or permit.
    #[must_use]
    pub const fn new(agent: Agent) -> Self {
        Self { agent, session: None, host: None, permit: None }
    }

    /// The same in a session.
    #[must_use]
    pub const fn in_session(mut self, session: SessionId) -> Self {
        self.session = Some(session);
        self
    }

    /// The same from an address.
    #[must_use]
    pub const fn from_host(mut self, host: IpAddr) -> Self {
        self.host = Some(host);
        self
    }
}

/// What a verified authorization token allows beyond the agent's own rights. The front end checks the token's
/// seal and expiry; the engine checks what is asked against it and counts its uses by `nonce`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    /// Inside hosts (A0) it is good for.
    pub inside: crate::Network,
    /// Remote ends (A3).
    pub outside: crate::Network,
    /// Protocol, if only one.
    pub protocol: Option<crate::Protocol>,
    /// Longest lifetime, seconds.
    pub lifetime: u32,
    /// Rules that may be made with it.
    pub rules: u32,
    /// Its identity.
    pub nonce: [u8; 16],
    /// When it ends, so that its uses can be forgotten.
    pub expires: crate::Time,
}

//! Rules and groups as they stand.

use crate::identity::{Agent, Name};
use crate::transaction::{Annotation, Behaviour, Ending};
use crate::tuple::{Direction, Lifetime, Parity, PortParity, Protocol, Time, Tuple};
use std::net::Ipv4Addr;

/// Identity of a rule (PID), from 1, not used again before the numbers run out; kept across restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(pub u32);

impl std::fmt::Display for RuleId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Identity of a group (GID), likewise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

impl std::fmt::Display for GroupId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Keeps A2 for a later enable rule; packets pass as if it was not there.
    Reserve(PortParity),
    /// Lets packets through.
    Enable {
        /// Which way.
        direction: Direction,
        /// Of A2 against A0.
        parity: Parity,
    },
}

impl Action {
    /// As tables and logs show it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reserve(_) => "reserve",
            Self::Enable { .. } => "enable",
        }
    }
}

/// How far a rule is in the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// On its way to the worker, or waiting for the dataplane to come back.
    Pending,
    /// In force.
    Active,
    /// Granted, but the worker refused it when it was installed again; tried anew now and then.
    Suspended,
    /// On its way out.
    Closing,
}

impl State {
    /// As tables show it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Closing => "closing",
        }
    }
}

/// A2 where it is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Grant {
    /// Pool address.
    pub address: Ipv4Addr,
    /// Lowest port; 0 of a protocol without ports.
    pub port: u16,
}

impl std::fmt::Display for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.address, self.port)
    }
}

/// A rule: what the journal holds of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its identity.
    pub id: RuleId,
    /// Its group.
    pub group: GroupId,
    /// Who made it.
    pub owner: Agent,
    /// The inside zone.
    pub zone: Name,
    /// What it does.
    pub action: Action,
    /// Protocol.
    pub protocol: Protocol,
    /// Consecutive ports.
    pub range: u16,
    /// A0; `None` of a reservation whose host is not known yet.
    pub internal: Option<Tuple>,
    /// A3; of no meaning in a reservation.
    pub external: Tuple,
    /// The pool A2 is of; `None` where nothing is translated.
    pub pool: Option<Name>,
    /// A2 where it is translated.
    pub outside: Option<Grant>,
    /// Beyond RFC 5189.
    pub behaviour: Behaviour,
    /// The remote end that locked it, with port 0 if only its address did.
    pub locked: Option<Tuple>,
    /// What its end does to its flows.
    pub ending: Ending,
    /// The front end's.
    pub annotation: Annotation,
    /// When it was made.
    pub created: Time,
    /// When it ends; `None` if only somebody can end it.
    pub expires: Option<Time>,
}

/// A rule as PRS shows it (RFC 5189 2.3.12).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleStatus {
    /// The rule.
    pub rule: Rule,
    /// How far it is in the workers.
    pub state: State,
    /// A1: A3 where it is known.
    pub inside: Option<Tuple>,
    /// A2: A0 on a pure firewall.
    pub outside: Option<Tuple>,
    /// What is left.
    pub lifetime: Lifetime,
}

/// Why a rule ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ended {
    /// Its owner, or who may act for it, deleted it.
    Deleted,
    /// The operator deleted it.
    Operator,
    /// Its lifetime ran out.
    Expired,
    /// No packet passed for its idle time.
    Idle,
    /// Its only connection ended.
    Closed,
    /// It was never granted.
    Abandoned,
}

impl Ended {
    /// Every reason.
    pub const ALL: [Self; 6] =
        [Self::Deleted, Self::Operator, Self::Expired, Self::Idle, Self::Closed, Self::Abandoned];

    /// As metrics and logs show it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::Operator => "operator",
            Self::Expired => "expired",
            Self::Idle => "idle",
            Self::Closed => "closed",
            Self::Abandoned => "abandoned",
        }
    }
}

/// Identity of a notification: never repeats over all sessions of this process (RFC 5189 2.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NotificationId(pub u64);

/// What a session hears unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Its identity.
    pub id: NotificationId,
    /// What happened.
    pub event: Event,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// REN (SIMCO's ARE): somebody else made a rule, changed its lifetime or ended it, or it ended by itself.
    Rule {
        /// The rule.
        rule: RuleId,
        /// What is left; [`Lifetime::NONE`] if it is gone.
        lifetime: Lifetime,
    },
    /// GEN: somebody else changed a group's lifetime.
    Group {
        /// The group.
        group: GroupId,
        /// What is left; [`Lifetime::NONE`] if it is gone.
        lifetime: Lifetime,
    },
    /// A rule ends soon (an extension; RFC 5189 has none).
    Expiring {
        /// The rule.
        rule: RuleId,
        /// What is left.
        lifetime: Lifetime,
    },
    /// STN (SIMCO's AST): the session is over. Nothing follows.
    SessionEnded(SessionEnd),
}

/// Why the box ends a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionEnd {
    /// The agent is no longer configured.
    NotAuthorized,
    /// The operator ended it.
    Operator,
    /// The control plane is stopping.
    Stopping,
}

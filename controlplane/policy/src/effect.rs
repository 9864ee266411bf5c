//! What the engine has the daemon do.

use crate::identity::{Agent, Name, SessionId, TransactionId};
use crate::refusal::Refusal;
use crate::rule::{Ended, GroupId, Notification, Rule, RuleId};
use crate::transaction::Reply;
use crate::tuple::{Lifetime, Time};
use turnpike_abi::WorkerId;
use turnpike_abi::command::{PinholeAdd, PinholeRemove, PortLease, PortsRelease, PortsReserve};

/// Names a note in the journal that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Names a command that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// A change of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The rule, in place of what is there under its identity.
    Write(Box<Rule>),
    /// The rule is gone.
    Forget(RuleId),
    /// One more use of a permit ([`crate::Uses::and_one`]); with the rule that was granted by it.
    Use {
        /// The permit's identity.
        permit: [u8; 16],
        /// When it ends.
        expires: Time,
    },
    /// The permit is over, and its uses with it.
    ForgetPermit([u8; 16]),
    /// Identities below these may have been given out.
    Ids {
        /// Of rules.
        rules: RuleId,
        /// Of groups.
        groups: GroupId,
    },
}

/// What a worker is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Open a pinhole.
    Add(PinholeAdd),
    /// Close it.
    Remove(PinholeRemove),
    /// Hold ports back.
    Reserve(PortsReserve),
    /// Give them back.
    Unreserve(PortsRelease),
    /// Keep ports for a pinhole of another worker.
    Lease(PortLease),
    /// Take that back.
    Release(PortLease),
}

/// What the daemon has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Make the changes durable, all or none of them, then call [`crate::Engine::durable`]; or
    /// [`crate::Engine::not_durable`].
    Note {
        /// To be handed back.
        ticket: Ticket,
        /// The changes.
        notes: Vec<Note>,
    },
    /// Send it; the worker's answer goes to [`crate::Engine::answer`].
    Tell {
        /// To be handed back.
        token: Token,
        /// The worker.
        worker: WorkerId,
        /// What to tell it.
        command: Command,
    },
    /// The one answer to a request.
    Reply {
        /// As it was submitted.
        transaction: TransactionId,
        /// The answer.
        result: Result<Reply, Refusal>,
    },
    /// Say it to a session. Behind [`crate::Event::SessionEnded`] nothing more is said to it.
    Notify {
        /// To whom.
        session: SessionId,
        /// What.
        notification: Notification,
    },
    /// For the audit log and the counters.
    Audit(Box<Audit>),
    /// A granted rule could not be installed again; it is tried anew now and then.
    Suspended(RuleId, Refusal),
}

/// A line of the audit log: who opened what, when and until when, and what was refused for which reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// When.
    pub time: Time,
    /// What.
    pub event: AuditEvent,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditEvent {
    /// A rule was granted: reserved, or opened.
    Granted {
        /// Who asked.
        by: Agent,
        /// The transaction.
        transaction: &'static str,
        /// The rule.
        rule: Box<Rule>,
    },
    /// The lifetime of a rule or of a group's rules was changed.
    Changed {
        /// Who asked.
        by: Agent,
        /// The transaction.
        transaction: &'static str,
        /// The rules, at most 64 of them.
        rules: Vec<RuleId>,
        /// Whose they are.
        owner: Agent,
        /// The new lifetime.
        lifetime: Lifetime,
    },
    /// A rule ended.
    Ended {
        /// Who deleted it, if somebody did.
        by: Option<Agent>,
        /// The rule.
        rule: Box<Rule>,
        /// Why.
        why: Ended,
    },
    /// A request was refused.
    Refused {
        /// Who asked.
        by: Agent,
        /// The transaction.
        transaction: &'static str,
        /// The rule or group it named, and what it wanted to open, as far as it said.
        about: Box<About>,
        /// Why.
        why: Refusal,
    },
    /// A remote end locked a rule.
    Locked {
        /// The rule.
        rule: Box<Rule>,
    },
    /// A session was let in, or not.
    Session {
        /// Whose.
        agent: Agent,
        /// Its identity, if it was let in.
        session: Option<SessionId>,
        /// Why not.
        why: Option<Refusal>,
    },
}

/// What a refused request was about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// The rule it named.
    pub rule: Option<RuleId>,
    /// The group it named.
    pub group: Option<GroupId>,
    /// The zone it named.
    pub zone: Option<Name>,
    /// A0, with its protocol.
    pub internal: Option<(crate::Protocol, crate::Tuple)>,
    /// A3.
    pub external: Option<crate::Tuple>,
}

//! The policy engine: who may open what, for how long, and what the workers have to be told. One engine for every
//! front end (SIMCO, PCP, NAT-PMP, TURN, the CLI), in the terms of RFC 5189.
//!
//! Pure and synchronous: time is an argument, nothing is read or written. [`Engine`] takes [`Request`]s, the
//! journal's word and the workers' answers, and yields [`Effect`]s; the daemon carries them out in order.
//!
//! # For front ends
//!
//! Front ends do not call the engine: they hold a `turnpike_gateway::Gateway`, which carries requests to the
//! daemon's task and answers back. A session (SIMCO) gets replies and notifications from one channel, in the order
//! RFC 5189 demands; a front end without sessions (PCP, NAT-PMP) awaits each answer.
//!
//! ```text
//! Gateway::open(agent, about)      -> Result<Session, Refusal>   SE: profile found, quota of sessions kept
//! Session::call(by, tid, request)                               then Session::next() yields Said::Reply { tid, .. }
//!                                                               and Said::Notification(..) (REN, GEN, STN)
//! drop(session)                                                 ST, broken connection: rules live on
//! Gateway::transact(by, request)   -> Result<Reply, Refusal>    one request without session
//! Gateway::may_session(agent)      -> Result<Capabilities, Refusal>   before authentication is complete
//! ```
//!
//! - Who asks is a [`Requester`]: the authenticated [`Agent`], its session, the host it speaks from, and a [`Permit`]
//!   if it showed a verified authorization token (scenario 2.3.3).
//! - What may be asked is [`Request`]: PRR [`Reserve`], PER [`Enable`] (with `reserved: Some(pid)` it is SIMCO's PEA),
//!   RLC, PRL, PRS, GLC, GL, GS, and two that are the box's own: [`Find`] (what is there on an inside port) and
//!   `Annotate`. Every request gets exactly one answer: a [`Reply`] or a [`Refusal`].
//! - A [`Refusal`] names its code in each protocol: [`Refusal::simco`], [`Refusal::pcp`], [`Refusal::nat_pmp`].
//! - Tuples are [`Tuple`]: address, prefix length, lowest port. Port 0 is every port; a length below the family's bits
//!   is an address wildcard; protocol and range are the rule's, equal on all four (RFC 5189 2.3.6).
//! - Same zone, A0 address, A0 port and protocol always have the same A2 (endpoint-independent mapping): a second rule
//!   for an A0 that has one gets its A2. A PCP mapping with filters is a group of rules, one for each filter, and its
//!   renewal a GLC; [`Annotation::tag`] keeps the nonce.
//! - An identical or overlapping rule of anybody is another rule (RFC 5189 2.3.9); packets pass until the last is gone.
//!   What conflicts is an outside end that belongs to another inside end.
//! - A permit is good for as many enable rules as it says: a use is spent if and only if its rule is granted, in the same
//!   note of the journal, and remembered until the permit ends.
//! - Lifetimes are seconds; more than the profile's most is cut to it, `Lifetime::NONE` deletes.
//!
//! # A rule's way
//!
//! ```text
//! PRR, PER --> checked --> [lease] --> installed by the worker --> in the journal --> answered, others notified
//!                 | refused            | refused                     | not written: taken back, refused
//! RLC ------> in the journal --> answered, others notified
//! RLC 0, expiry --> notified (expiry) --> in the journal --> taken from the worker --> answered, others notified
//! ```
//!
//! After a restart the daemon walks the workers' pinholes, reservations and leases: what the journal has and they have
//! not is installed with the same outside end, what they have and the journal has not is removed, and nothing else is
//! touched.
#![forbid(unsafe_code)]

mod access;
mod admit;
mod changes;
mod command;
mod effect;
mod ends;
mod engine;
mod identity;
mod index;
mod leases;
mod lists;
mod permits;
mod realm;
mod record;
mod refusal;
mod rule;
mod sessions;
mod steps;
mod transaction;
mod tuple;
mod turns;

pub use access::{Access, FrontAccess, Limits, Profile, Rights, Scope};
pub use effect::{About, Audit, AuditEvent, Command, Effect, Note, Ticket, Token};
pub use engine::Engine;
pub use identity::{Agent, Front, Name, Permit, Requester, SessionId, TransactionId};
pub use permits::Uses;
pub use realm::{Pool, Realm, Translation};
pub use record::{RECORD_VERSION, Undecodable};
pub use refusal::{PcpResult, Refusal};
pub use rule::{
    Action, Ended, Event, Grant, GroupId, Notification, NotificationId, Rule, RuleId, RuleStatus, SessionEnd,
    State,
};
pub use transaction::{
    Annotation, Behaviour, Capabilities, Enable, Ending, Filter, Find, Lock, Outside, Reply, Request, Reserve,
};
pub use tuple::{
    Direction, IpVersion, Lifetime, Network, Parity, PortParity, Protocol, Service, Time, Tuple,
};

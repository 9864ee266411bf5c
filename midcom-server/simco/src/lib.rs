//! SIMCO 3.0 (RFC 4540) without sockets: the codec and both sides' session state machines.
//!
//! | module | what it does |
//! |---|---|
//! | [`Request`], [`Outcome`] | messages of the agent and of the middlebox: decode, encode |
//! | [`Session`] | the middlebox's side: octets and time in, replies and requests for the policy engine out |
//! | [`AgentSession`] | the agent's side |
//! | [`checks`] | what section 8 checks of tuples and parameters, in its order |
//! | [`authentication`] | the challenge and response that RFC 4540 leaves open |
//!
//! Whatever octets arrive, nothing here panics, and what is held is bounded by [`Settings`]. Where RFC 4540
//! contradicts itself, `conformance.md` says which way was taken; it is printed here:
//!
#![doc = include_str!("../conformance.md")]
#![forbid(unsafe_code)]

mod agent;
pub mod any_bytes;
mod attribute;
pub mod authentication;
pub mod checks;
mod extension;
mod failure;
mod message;
mod middlebox;
mod parameters;
mod reader;
mod reply;
mod request;
mod tuple;

pub use agent::{AgentEvent, AgentSession, Credentials, Ended};
pub use attribute::{MAX_AUTHENTICATION, MAX_OWNER};
pub use extension::{
    Behaviour, Extensions, Interfaces, Lock, MAX_TEXT, MoreCapabilities, Page, WantedOutside,
};
pub use failure::{Failure, Malformed};
pub use message::{HEADER, Header, MAX_MESSAGE};
pub use middlebox::{Closed, Directory, Event, NotificationIds, Session, Settings, Underlying};
pub use parameters::{
    Capabilities, Direction, EnableParameters, IpVersions, NatMode, PortParity, ReserveParameters, Version,
};
pub use reply::{
    EnableStatus, Enabled, Established, MAX_LISTED, Notification, Outcome, Refused, Reply, Reserved,
};
pub use request::{Enable, EnableReserved, Establish, Extras, Request, Reserve, RuleRequest};
pub use tuple::{Ends, IpVersion, Location, Tuple, Wildcards, has_ports};

/// The TCP port on which middleboxes listen (RFC 4540 section 3).
pub const PORT: u16 = 7626;

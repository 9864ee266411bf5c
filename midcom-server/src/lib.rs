//! MIDCOM over SIMCO (RFC 4540) on TCP: the server in front of the policy engine, and the agent's side as a library.
//!
//! | module | what it does |
//! |---|---|
//! | [`Server`], `connection` | listener, TLS 1.2 and 1.3 with certificates of both sides, sessions |
//! | `guard` | bounds on connections, a rest for sources that fail to authenticate |
//! | `translate` | SIMCO's requests in the policy engine's words, and its answers in SIMCO's |
//! | [`agent`] | a session from the other side: reconnects, and learns anew what it has |
//! | [`certificate`] | who a certificate says its holder is |
//!
//! Messages and state machines are [`turnpike_simco`]'s; what is allowed is the policy engine's business.
#![forbid(unsafe_code)]

pub mod agent;
pub mod certificate;
mod connection;
mod guard;
mod server;
mod translate;

pub use guard::{Counters, Limits};
pub use server::{Server, Settings};

//! Answers about deterministic pools (RFC 7422).

use crate::{PortRange, Timestamp};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// Where a deterministic pool maps an inside address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatForwardData {
    /// The inside address.
    pub inside: Ipv4Addr,
    /// The pool.
    pub pool: String,
    /// Its external address.
    pub external: Ipv4Addr,
    /// Its ports of every protocol, lowest first; one range if there is one worker.
    pub ports: Vec<PortRange>,
    /// Since when the configuration says so; `null` if nothing older is known.
    pub since: Option<Timestamp>,
}

/// Whose an external port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortHolder {
    /// One inside address's alone, by computation.
    Inside,
    /// Of the dynamic share: the log of block assignments tells.
    Dynamic,
    /// Of a range that no inside address has.
    Unassigned,
    /// Not given out unasked: a pinhole may have it.
    Reserved,
}

/// Whose an external port is, or was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatReverseData {
    /// The external address.
    pub external: Ipv4Addr,
    /// The port.
    pub port: u16,
    /// The pool.
    pub pool: String,
    /// Whose it is.
    pub holder: PortHolder,
    /// The inside address, if it is one's.
    pub inside: Option<Ipv4Addr>,
    /// Since when the configuration says so; `null` if nothing older is known.
    pub since: Option<Timestamp>,
}

//! Why something was refused, and why a pinhole ended.

use crate::former::{Endpoint, Grant, Owner, PinholeId, Protocol};
use std::net::{IpAddr, Ipv4Addr};
use turnpike_abi::event::AckResult;

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No worker can carry it out.
    #[error("the dataplane is not attached: try again when `turnpike show status` says ready")]
    Detached,
    /// The owner's name is empty or too long.
    #[error("the owner's name has {0} bytes; 1 to 64 are allowed")]
    Owner(usize),
    /// Port 0.
    #[error("port 0 cannot be opened: give the port the inside host listens on")]
    PortZero,
    /// Not an address of a host.
    #[error("{0} is not the address of a host")]
    NotAHost(IpAddr),
    /// The remote prefix is of another family, too long, or its ports are the wrong way round.
    #[error("remote {address}/{length} ports {}-{}: {why}", ports.0, ports.1)]
    Remote {
        /// Network address.
        address: IpAddr,
        /// Prefix length.
        length: u8,
        /// Ports.
        ports: (u16, u16),
        /// What is wrong.
        why: &'static str,
    },
    /// IPv6 is not translated.
    #[error("{0} is an IPv6 address, which is not translated: leave the pool and the external end out")]
    NotTranslated(IpAddr),
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
        address: Ipv4Addr,
    },
    /// A lifetime of nothing or beyond the limit.
    #[error("lifetime of {asked} ms; 1 to {most} are allowed")]
    Lifetime {
        /// Milliseconds asked for.
        asked: u64,
        /// Most.
        most: u64,
    },
    /// The same pinhole exists.
    #[error("pinhole {0} is the same")]
    Duplicate(PinholeId),
    /// Another inside end has the external end.
    #[error("external {protocol} {external} belongs to pinhole {holder}")]
    ExternalTaken {
        /// The protocol.
        protocol: Protocol,
        /// The end.
        external: Grant,
        /// Who has it.
        holder: PinholeId,
    },
    /// The inside end has a pinhole that differs.
    #[error("inside {protocol} {inside} already has pinhole {holder}{}: remove that first", at(*.external))]
    InsideTaken {
        /// The protocol.
        protocol: Protocol,
        /// The inside end.
        inside: Endpoint,
        /// Its external end, if it has one and it is known yet.
        external: Option<Grant>,
        /// The pinhole.
        holder: PinholeId,
    },
    /// The owner has as many as it may have.
    #[error("{owner} has {limit} pinholes, the most one owner may have")]
    OwnerQuota {
        /// The owner.
        owner: Owner,
        /// The limit.
        limit: usize,
    },
    /// There are as many as there may be.
    #[error("there are {0} pinholes, the most the box holds")]
    Full(usize),
    /// No such pinhole.
    #[error("no pinhole {0}")]
    NotFound(PinholeId),
    /// It went away before it was granted.
    #[error("removed before it was granted ({0})")]
    Withdrawn(Ended),
    /// The worker said no.
    #[error("{}", .0.text())]
    Worker(AckResult),
    /// The journal could not be written.
    #[error("the journal could not be written: see the daemon's log")]
    Journal,
}

fn at(external: Option<Grant>) -> String {
    external.map_or_else(String::new, |end| format!(" at {end}"))
}

/// Why a pinhole ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ended {
    /// Somebody removed it.
    Removed,
    /// Its lifetime ran out.
    Expired,
    /// It was never granted.
    Abandoned,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Removed => "removed",
            Self::Expired => "lifetime over",
            Self::Abandoned => "never granted",
        })
    }
}

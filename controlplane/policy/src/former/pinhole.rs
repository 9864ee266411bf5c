//! What a pinhole is.

use std::net::{IpAddr, Ipv4Addr};
use turnpike_abi::{Address, Prefix};

/// Milliseconds since the epoch. Only differences and order matter to the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// `milliseconds` later.
    #[must_use]
    pub const fn after(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_add(milliseconds))
    }

    /// Milliseconds from `self` until `later`, 0 if that has passed.
    #[must_use]
    pub const fn until(self, later: Self) -> u64 {
        later.0.saturating_sub(self.0)
    }
}

/// Identity of a pinhole: from 1, never used twice, kept across restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PinholeId(pub u64);

impl std::fmt::Display for PinholeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// On whose behalf a pinhole exists: a front end and what it knows its client by, such as `cli:1000`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(pub String);

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// IP protocol number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// From an IP protocol number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }

    /// As tables show it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The inside end (A0 of RFC 5189).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// The inside host.
    pub address: IpAddr,
    /// Its port, not 0.
    pub port: u16,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::net::SocketAddr::new(self.address, self.port).fmt(f)
    }
}

/// The outside end (A2) as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct External {
    /// Name of the pool.
    pub pool: String,
    /// A pool address, or let the worker choose.
    pub address: Option<Ipv4Addr>,
    /// A port, or let the worker choose.
    pub port: Option<u16>,
}

/// The outside end as it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Grant {
    /// Pool address.
    pub address: Ipv4Addr,
    /// Port, not 0.
    pub port: u16,
}

impl std::fmt::Display for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.address, self.port)
    }
}

/// Who may use a pinhole (A3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Remote {
    /// Network address, of the inside end's family.
    pub address: IpAddr,
    /// Prefix length in the family's own terms.
    pub length: u8,
    /// Lowest and highest remote port.
    pub ports: (u16, u16),
}

impl Remote {
    /// Everybody of `family`'s family.
    #[must_use]
    pub fn anyone(family: IpAddr) -> Self {
        let address = match family {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        };
        Self { address, length: 0, ports: (0, u16::MAX) }
    }

    /// As the workers take it; `None` if the length is too large for the family.
    #[must_use]
    pub fn prefix(&self) -> Option<Prefix> {
        // The inside end's family is the filter's already.
        if self.length == 0 {
            return Some(Prefix::ANY);
        }
        Prefix::new(Address::from(self.address), self.length)
    }
}

/// What somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// Who asks.
    pub owner: Owner,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its inside end.
    pub inside: Endpoint,
    /// Its outside end; `None` is a pinhole of the firewall alone, without translation.
    pub external: Option<External>,
    /// Who may use it.
    pub remote: Remote,
    /// Milliseconds it lives; `None` until it is removed.
    pub lifetime: Option<u64>,
    /// What it is for, in its owner's words.
    pub note: Option<String>,
}

/// What is known of a pinhole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinhole {
    /// Its identity.
    pub id: PinholeId,
    /// As it was asked for.
    pub request: Request,
    /// When that was.
    pub created: Time,
    /// When it ends.
    pub expires: Option<Time>,
    /// The outside end it got.
    pub granted: Option<Grant>,
}

/// How far a pinhole is, for those who look.
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

/// What the journal has to remember of a pinhole's progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Asked for; its owner has not been answered. After a restart it is withdrawn.
    Asked,
    /// Granted; its owner counts on it.
    Granted,
    /// To be taken from the workers.
    Closing,
}

/// What the journal holds of a pinhole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The pinhole.
    pub pinhole: Pinhole,
    /// How far it is.
    pub phase: Phase,
}

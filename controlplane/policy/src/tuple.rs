//! Address tuples and the parameters of rules (RFC 5189 2.3.5, 2.3.6).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
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

/// Seconds a rule lives from now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lifetime(pub u32);

impl Lifetime {
    /// Deletes (RFC 5189 2.3.10).
    pub const NONE: Self = Self(0);
    /// Until somebody deletes it; granted only to agents whose longest lifetime this is.
    pub const FOREVER: Self = Self(u32::MAX);

    /// The time it ends if it begins at `now`; `None` if never.
    #[must_use]
    pub const fn from(self, now: Time) -> Option<Time> {
        match self {
            Self::FOREVER => None,
            Self(seconds) => Some(now.after(seconds as u64 * 1000)),
        }
    }

    /// What is left at `now` of a rule that ends at `expires`, rounded up: 0 only when it is over.
    #[must_use]
    pub fn left(expires: Option<Time>, now: Time) -> Self {
        let Some(expires) = expires else { return Self::FOREVER };
        Self(u32::try_from(now.until(expires).div_ceil(1000)).unwrap_or(u32::MAX - 1).min(u32::MAX - 1))
    }
}

/// IP version of a tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpVersion {
    /// That of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Bits of an address.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// 0.0.0.0 or ::.
    #[must_use]
    pub const fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Self::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }
}

/// An IP protocol number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(pub u8);

impl Protocol {
    /// Every protocol (RFC 5189 2.3.6); only where nothing is translated.
    pub const ANY: Self = Self(0);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);

    /// Whether its packets have ports that rules look at.
    #[must_use]
    pub const fn has_ports(self) -> bool {
        matches!(self.0, 6 | 17)
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0 => f.write_str("any"),
            6 => f.write_str("tcp"),
            17 => f.write_str("udp"),
            number => number.fmt(f),
        }
    }
}

/// A prefix of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    /// Network address.
    pub address: IpAddr,
    /// Prefix length in the family's own terms.
    pub length: u8,
}

impl Network {
    /// Every IPv4 address.
    pub const V4: Self = Self { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), length: 0 };
    /// Every IPv6 address.
    pub const V6: Self = Self { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), length: 0 };

    /// One address.
    #[must_use]
    pub const fn host(address: IpAddr) -> Self {
        Self { address, length: IpVersion::of(address).bits() }
    }

    /// Whether all of `other` lies in it.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        if IpVersion::of(self.address) != IpVersion::of(other.address) || self.length > other.length {
            return false;
        }
        let bits = |address: IpAddr| match address {
            IpAddr::V4(v4) => u128::from(u32::from(v4)) << 96,
            IpAddr::V6(v6) => u128::from(v6),
        };
        let mask = u128::MAX.checked_shl(128 - u32::from(self.length.min(128))).unwrap_or(0);
        (bits(self.address) ^ bits(other.address)) & mask == 0
    }

    /// Whether `address` lies in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.covers(&Self::host(address))
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// One of A0 (internal), A1 (inside), A2 (outside), A3 (external). The protocol and the number of consecutive
/// ports are the rule's, since they are equal on all four (RFC 5189 2.3.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// Address, or the address of a prefix.
    pub address: IpAddr,
    /// Prefix length in the family's own terms; all bits for one address.
    pub length: u8,
    /// Lowest port, host byte order; 0 is every port, and of no meaning without ports.
    pub port: u16,
}

impl Tuple {
    /// A port of an address; port 0 is all of them.
    #[must_use]
    pub const fn new(address: IpAddr, port: u16) -> Self {
        Self { address, length: IpVersion::of(address).bits(), port }
    }

    /// Every port of every address of a family: SIMCO's "protocols only".
    #[must_use]
    pub const fn any(version: IpVersion) -> Self {
        Self { address: version.unspecified(), length: 0, port: 0 }
    }

    /// Its family.
    #[must_use]
    pub const fn version(&self) -> IpVersion {
        IpVersion::of(self.address)
    }

    /// Whether it stands for more than one address.
    #[must_use]
    pub const fn address_wild(&self) -> bool {
        self.length < self.version().bits()
    }

    /// Its addresses.
    #[must_use]
    pub const fn network(&self) -> Network {
        Network { address: self.address, length: self.length }
    }

    /// Its addresses as the workers take them; `None` if the length is too large for the family.
    #[must_use]
    pub fn prefix(&self) -> Option<Prefix> {
        if self.length > self.version().bits() {
            return None;
        }
        // The inside end's family is the filter's already.
        if self.length == 0 {
            return Some(Prefix::ANY);
        }
        Prefix::new(Address::from(self.address), self.length)
    }
}

impl std::fmt::Display for Tuple {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.length == 0 {
            f.write_str(if self.version() == IpVersion::V4 { "0.0.0.0/0" } else { "::/0" })?;
        } else if self.address_wild() {
            self.network().fmt(f)?;
        } else if self.version() == IpVersion::V6 {
            write!(f, "[{}]", self.address)?;
        } else {
            self.address.fmt(f)?;
        }
        match self.port {
            0 => f.write_str(":*"),
            port => write!(f, ":{port}"),
        }
    }
}

/// Which way a rule lets packets (UDP and others) or the first SYN (TCP) through (RFC 5189 2.3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// From A3 to A0.
    Inbound,
    /// From A0 to A3.
    Outbound,
    /// Both.
    Bidirectional,
}

impl Direction {
    /// As tables and logs show it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inbound => "in",
            Self::Outbound => "out",
            Self::Bidirectional => "both",
        }
    }
}

/// Parity of an enable rule's outside port (RFC 5189 2.3.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Parity {
    /// Whatever is free.
    #[default]
    Any,
    /// That of the internal port.
    Same,
}

/// Parity of the lowest port that is reserved (RFC 5189 2.3.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortParity {
    /// Whatever is free.
    #[default]
    Any,
    /// Odd.
    Odd,
    /// Even.
    Even,
}

/// The NAT service that is asked for (RFC 5189 2.3.8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// A2 is reserved.
    #[default]
    Traditional,
    /// A1 and A2 are. The box has none of it: a firewall ignores the parameter, a translator refuses it
    /// unless `lenient` (RFC 5189 2.3.8 lets it reserve A2 alone, RFC 4540 8.2.3 does not).
    Twice {
        /// Take A2 alone for an answer.
        lenient: bool,
    },
}

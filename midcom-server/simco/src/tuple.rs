//! The address tuple (RFC 4540 section 4.3.8).

use crate::Malformed;
use crate::reader::Reader;
use std::fmt;
use std::net::IpAddr;

/// A version of the Internet Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IpVersion {
    /// IPv4, coded 1.
    V4,
    /// IPv6, coded 2.
    V6,
}

impl IpVersion {
    /// The version of `address`.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Bits of an address: 32 or 128.
    #[must_use]
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    pub(crate) fn code(self) -> u8 {
        match self {
            Self::V4 => 1,
            Self::V6 => 2,
        }
    }
}

/// Where an address is seen (RFC 5189 section 2.3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Location {
    /// A0, the internal host's own.
    Internal = 0,
    /// A1, the external host's as seen inside.
    Inside = 1,
    /// A2, the internal host's as seen outside.
    Outside = 2,
    /// A3, the external host's own.
    External = 3,
}

impl Location {
    fn from_code(code: u8) -> Result<Self, Malformed> {
        match code {
            0 => Ok(Self::Internal),
            1 => Ok(Self::Inside),
            2 => Ok(Self::Outside),
            3 => Ok(Self::External),
            _ => Err(Malformed::Undefined("location")),
        }
    }
}

/// The addresses and ports of a tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ends {
    /// First field 1: any address and any port.
    ProtocolsOnly {
        /// Of the addresses.
        version: IpVersion,
        /// Irrelevant, but comes back as it was sent.
        prefix: u8,
    },
    /// First field 0.
    Full {
        /// The address, or one of the prefix.
        address: IpAddr,
        /// Prefix length in bits; below the address's width it stands for all addresses of the prefix.
        prefix: u8,
        /// The lowest port in host order; 0 is every port.
        port: u16,
        /// Consecutive ports from `port` on; irrelevant if `port` is 0.
        range: u16,
    },
}

/// An address tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Whose it is.
    pub location: Location,
    /// Number of the transport protocol as IANA has it; 0 is every protocol.
    pub protocol: u8,
    /// Addresses and ports.
    pub ends: Ends,
}

/// What of a tuple stands for more than one value. The port range never does (RFC 4540 section 8.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wildcards {
    /// More than one address.
    pub address: bool,
    /// Every port.
    pub port: bool,
    /// Every protocol.
    pub protocol: bool,
}

/// True if packets of `protocol` carry port numbers: TCP, UDP, DCCP, SCTP, UDP-Lite.
#[must_use]
pub fn has_ports(protocol: u8) -> bool {
    matches!(protocol, 6 | 17 | 33 | 132 | 136)
}

impl Tuple {
    /// One address and `range` ports from `port` on.
    #[must_use]
    pub fn full(location: Location, protocol: u8, address: IpAddr, port: u16, range: u16) -> Self {
        let prefix = IpVersion::of(address).bits();
        Self { location, protocol, ends: Ends::Full { address, prefix, port, range } }
    }

    /// Any address and any port of an IP version.
    #[must_use]
    pub fn protocols_only(location: Location, protocol: u8, version: IpVersion) -> Self {
        Self { location, protocol, ends: Ends::ProtocolsOnly { version, prefix: 0 } }
    }

    /// The same at another place.
    #[must_use]
    pub fn at(self, location: Location) -> Self {
        Self { location, ..self }
    }

    /// Of the addresses.
    #[must_use]
    pub fn version(&self) -> IpVersion {
        match self.ends {
            Ends::ProtocolsOnly { version, .. } => version,
            Ends::Full { address, .. } => IpVersion::of(address),
        }
    }

    /// What is wildcarded. A protocol without ports has none to wildcard (B-AMB-11), and a wildcarded protocol
    /// makes ports irrelevant.
    #[must_use]
    pub fn wildcards(&self) -> Wildcards {
        let (address, port) = match self.ends {
            Ends::ProtocolsOnly { .. } => (true, true),
            Ends::Full { address, prefix, port, .. } => (prefix < IpVersion::of(address).bits(), port == 0),
        };
        Wildcards { address, port: port && has_ports(self.protocol), protocol: self.protocol == 0 }
    }

    /// The tuple of an attribute's value.
    ///
    /// # Errors
    /// What is wrong.
    pub fn decode(value: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(value);
        let first = reader.u8()?;
        let prefix = reader.u8()?;
        let protocol = reader.u8()?;
        let location = Location::from_code(reader.u8()?)?;
        let version = match first & 0x0F {
            1 => IpVersion::V4,
            2 => IpVersion::V6,
            _ => return Err(Malformed::Undefined("IP version")),
        };
        let ends = match first >> 4 {
            0 => {
                let (port, range) = (reader.u16()?, reader.u16()?);
                let address = match version {
                    IpVersion::V4 => reader.ipv4()?,
                    IpVersion::V6 => reader.ipv6()?,
                };
                if prefix > version.bits() {
                    return Err(Malformed::Undefined("prefix length"));
                }
                Ends::Full { address, prefix, port, range }
            }
            1 => Ends::ProtocolsOnly { version, prefix },
            _ => return Err(Malformed::Undefined("first field of a tuple")),
        };
        reader.end()?;
        Ok(Self { location, protocol, ends })
    }

    /// Appends the value, without the attribute's type and length: 4, 12 or 24 octets.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let version = self.version().code();
        let fixed = |first: u8, prefix| [first << 4 | version, prefix, self.protocol, self.location as u8];
        match self.ends {
            Ends::ProtocolsOnly { prefix, .. } => out.extend(fixed(1, prefix)),
            Ends::Full { address, prefix, port, range } => {
                out.extend(fixed(0, prefix));
                out.extend(port.to_be_bytes());
                out.extend(range.to_be_bytes());
                match address {
                    IpAddr::V4(address) => out.extend(address.octets()),
                    IpAddr::V6(address) => out.extend(address.octets()),
                }
            }
        }
    }
}

impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ends {
            Ends::ProtocolsOnly { version: IpVersion::V4, .. } => write!(f, "any IPv4")?,
            Ends::ProtocolsOnly { version: IpVersion::V6, .. } => write!(f, "any IPv6")?,
            Ends::Full { address, prefix, port, range } => {
                match address {
                    IpAddr::V4(address) => write!(f, "{address}")?,
                    IpAddr::V6(address) => write!(f, "[{address}]")?,
                }
                if prefix < IpVersion::of(address).bits() {
                    write!(f, "/{prefix}")?;
                }
                match (port, range) {
                    (0, _) => {}
                    (port, 0 | 1) => write!(f, ":{port}")?,
                    (port, range) => write!(f, ":{port}+{range}")?,
                }
            }
        }
        match self.protocol {
            0 => Ok(()),
            6 => write!(f, " tcp"),
            17 => write!(f, " udp"),
            other => write!(f, " protocol {other}"),
        }
    }
}

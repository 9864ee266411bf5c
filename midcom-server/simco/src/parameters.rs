//! Attributes of fixed layout: version, capabilities and the two parameter sets (RFC 4540 sections 4.3.1, 4.3.3,
//! 4.3.9 and 4.3.10).

use crate::reader::Reader;
use crate::{IpVersion, Malformed};

/// A version of SIMCO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// The major number.
    pub major: u8,
    /// The minor number.
    pub minor: u8,
}

impl Version {
    /// SIMCO 3.0, which RFC 4540 specifies.
    pub const V3_0: Self = Self { major: 3, minor: 0 };

    pub(crate) fn decode(value: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(value);
        let version = Self { major: reader.u8()?, minor: reader.u8()? };
        reader.u16()?;
        reader.end()?;
        Ok(version)
    }

    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        out.extend([self.major, self.minor, 0, 0]);
    }
}

/// Which IP versions there are on one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IpVersions {
    /// IPv4, coded 1.
    pub v4: bool,
    /// IPv6, coded 2.
    pub v6: bool,
}

impl IpVersions {
    /// IPv4 and IPv6.
    pub const BOTH: Self = Self { v4: true, v6: true };

    /// True if `version` is among them.
    #[must_use]
    pub fn has(self, version: IpVersion) -> bool {
        match version {
            IpVersion::V4 => self.v4,
            IpVersion::V6 => self.v6,
        }
    }

    fn from_code(code: u8) -> Self {
        Self { v4: code & 1 != 0, v6: code & 2 != 0 }
    }

    fn code(self) -> u8 {
        u8::from(self.v4) | u8::from(self.v6) << 1
    }
}

/// What the middlebox is and can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Packet filter firewall (0x80).
    pub firewall: bool,
    /// Network address translator (0x40).
    pub nat: bool,
    /// PDR transactions (0x10).
    pub disable: bool,
    /// The NAT translates ports (0x01).
    pub port_translation: bool,
    /// The NAT translates protocols (0x02).
    pub protocol_translation: bool,
    /// Twice-NAT (0x04).
    pub twice_nat: bool,
    /// Internal addresses may be wildcarded (I).
    pub internal_wildcard: bool,
    /// External addresses may be wildcarded (E).
    pub external_wildcard: bool,
    /// Ports may be wildcarded (P).
    pub port_wildcard: bool,
    /// Policy rules survive a restart (S).
    pub persistent: bool,
    /// In the internal network (IIV).
    pub internal_versions: IpVersions,
    /// In the external network (EIV).
    pub external_versions: IpVersions,
    /// The longest lifetime of a policy rule, in seconds.
    pub max_lifetime: u32,
}

impl Capabilities {
    pub(crate) fn decode(value: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(value);
        let kind = reader.u8()?;
        let flags = reader.u8()?;
        reader.u16()?;
        let max_lifetime = reader.u32()?;
        reader.end()?;
        // The flags of translation mean nothing without that of a NAT (section 4.3.3).
        let nat = kind & 0x40 != 0;
        Ok(Self {
            firewall: kind & 0x80 != 0,
            nat,
            disable: kind & 0x10 != 0,
            port_translation: nat && kind & 0x01 != 0,
            protocol_translation: nat && kind & 0x02 != 0,
            twice_nat: nat && kind & 0x04 != 0,
            internal_wildcard: flags & 0x80 != 0,
            external_wildcard: flags & 0x40 != 0,
            port_wildcard: flags & 0x20 != 0,
            persistent: flags & 0x10 != 0,
            internal_versions: IpVersions::from_code(flags >> 2),
            external_versions: IpVersions::from_code(flags),
            max_lifetime,
        })
    }

    /// The MB type octet: the flags of translation need that of a NAT (section 4.3.3).
    #[must_use]
    pub fn middlebox_type(&self) -> u8 {
        let nat = u8::from(self.port_translation)
            | u8::from(self.protocol_translation) << 1
            | u8::from(self.twice_nat) << 2
            | 0x40;
        u8::from(self.firewall) << 7 | u8::from(self.disable) << 4 | if self.nat { nat } else { 0 }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let flags = u8::from(self.internal_wildcard) << 7
            | u8::from(self.external_wildcard) << 6
            | u8::from(self.port_wildcard) << 5
            | u8::from(self.persistent) << 4
            | self.internal_versions.code() << 2
            | self.external_versions.code();
        out.extend([self.middlebox_type(), flags, 0, 0]);
        out.extend(self.max_lifetime.to_be_bytes());
    }
}

/// The NAT that a reservation is meant for (NM).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatMode {
    /// Only the inside host's address is translated.
    Traditional,
    /// Both addresses are.
    Twice,
}

/// What the lowest reserved port has to be (PP).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortParity {
    /// Odd or even.
    Any,
    /// Odd.
    Odd,
    /// Even.
    Even,
}

/// The PRR parameter set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReserveParameters {
    /// NM.
    pub mode: NatMode,
    /// PP.
    pub parity: PortParity,
    /// IPi, none: any.
    pub inside: Option<IpVersion>,
    /// IPo, none: any.
    pub outside: Option<IpVersion>,
    /// Number of the transport protocol; 0 reserves an address only.
    pub protocol: u8,
    /// Consecutive ports; 0xFFFF is all ports of the protocol, 0 is not valid.
    pub range: u16,
}

impl ReserveParameters {
    /// The range that stands for all ports.
    pub const ALL_PORTS: u16 = 0xFFFF;

    pub(crate) fn decode(value: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(value);
        let bits = reader.u8()?;
        let protocol = reader.u8()?;
        let range = reader.u16()?;
        reader.end()?;
        let version = |code: u8, name| match code & 3 {
            0 => Ok(None),
            1 => Ok(Some(IpVersion::V4)),
            2 => Ok(Some(IpVersion::V6)),
            _ => Err(Malformed::Undefined(name)),
        };
        Ok(Self {
            mode: match bits >> 6 {
                1 => NatMode::Traditional,
                2 => NatMode::Twice,
                _ => return Err(Malformed::Undefined("NAT mode")),
            },
            parity: match bits >> 4 & 3 {
                0 => PortParity::Any,
                1 => PortParity::Odd,
                2 => PortParity::Even,
                _ => return Err(Malformed::Undefined("port parity")),
            },
            inside: version(bits >> 2, "inside IP version")?,
            outside: version(bits, "outside IP version")?,
            protocol,
            range,
        })
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let version = |version: Option<IpVersion>| version.map_or(0, IpVersion::code);
        let mode = match self.mode {
            NatMode::Traditional => 1,
            NatMode::Twice => 2,
        };
        let parity = match self.parity {
            PortParity::Any => 0,
            PortParity::Odd => 1,
            PortParity::Even => 2,
        };
        out.push(mode << 6 | parity << 4 | version(self.inside) << 2 | version(self.outside));
        out.push(self.protocol);
        out.extend(self.range.to_be_bytes());
    }
}

/// Which way the first packet goes: the only way for UDP and IP, the SYN's for TCP (RFC 5189 section 2.3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the external to the internal host.
    Inbound,
    /// From the internal to the external host.
    Outbound,
    /// Both ways.
    Bidirectional,
}

/// The PER parameter set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EnableParameters {
    /// Odd stays odd and even stays even on the other side; otherwise any port will do.
    pub same_parity: bool,
    /// Which way.
    pub direction: Direction,
}

impl EnableParameters {
    pub(crate) fn decode(value: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(value);
        let parity = reader.u8()?;
        let direction = reader.u8()?;
        reader.u16()?;
        reader.end()?;
        Ok(Self {
            same_parity: match parity {
                0 => false,
                3 => true,
                _ => return Err(Malformed::Undefined("port parity")),
            },
            direction: match direction {
                1 => Direction::Inbound,
                2 => Direction::Outbound,
                3 => Direction::Bidirectional,
                _ => return Err(Malformed::Undefined("direction")),
            },
        })
    }

    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        let direction = match self.direction {
            Direction::Inbound => 1,
            Direction::Outbound => 2,
            Direction::Bidirectional => 3,
        };
        out.extend([if self.same_parity { 3 } else { 0 }, direction, 0, 0]);
    }
}

//! Addresses and identifiers as both processes write them.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An IPv4 or IPv6 address in network byte order; IPv4 in its mapped form `::ffff:a.b.c.d`
/// (RFC 4291, section 2.5.5.2). A mapped address never arrives in an IPv6 packet: the engine drops those.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(transparent)]
pub struct Address(pub [u8; 16]);

impl Address {
    /// `::`, which stands for "none" or "choose one" where a field allows that.
    pub const UNSPECIFIED: Self = Self([0; 16]);

    /// The mapped form of an IPv4 address.
    #[must_use]
    pub const fn v4(octets: [u8; 4]) -> Self {
        // Written as one number, as it is read by [`Address::to_v4`]: a processor forwards no parts of what was just stored.
        Self((0xffff << 32 | u32::from_be_bytes(octets) as u128).to_be_bytes())
    }

    /// The four octets, if this is an IPv4 address.
    #[must_use]
    pub const fn to_v4(self) -> Option<[u8; 4]> {
        // As one number: byte by byte it would be twenty instructions, dozens of times a packet.
        let bits = u128::from_be_bytes(self.0);
        if bits >> 32 == 0xffff { Some((bits as u32).to_be_bytes()) } else { None }
    }

    /// Whether this is an IPv4 address.
    #[must_use]
    pub const fn is_v4(self) -> bool {
        self.to_v4().is_some()
    }

    /// Whether this is `::`.
    #[must_use]
    pub const fn is_unspecified(self) -> bool {
        u128::from_be_bytes(self.0) == 0
    }

    /// The standard library's form.
    #[must_use]
    pub const fn to_ip(self) -> IpAddr {
        match self.to_v4() {
            Some([a, b, c, d]) => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
            None => IpAddr::V6(Ipv6Addr::from_octets(self.0)),
        }
    }
}

impl From<Ipv4Addr> for Address {
    fn from(ip: Ipv4Addr) -> Self {
        Self::v4(ip.octets())
    }
}

impl From<Ipv6Addr> for Address {
    fn from(ip: Ipv6Addr) -> Self {
        Self(ip.octets())
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => ip.into(),
            IpAddr::V6(ip) => ip.into(),
        }
    }
}

impl core::fmt::Display for Address {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.to_ip().fmt(f)
    }
}

/// A prefix over the 128-bit form of [`Address`]: an IPv4 `/24` has length 120.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct Prefix {
    /// Network address; the bits behind `length` are zero in what the control plane sends.
    pub address: Address,
    /// 0 to 128, counted in the 128-bit form. 0 matches every address of both families.
    pub length: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

impl Prefix {
    /// Every address of both families.
    pub const ANY: Self = Self { address: Address::UNSPECIFIED, length: 0, reserved: [0; 7] };

    /// A prefix of `length` bits in the family's own terms (0 to 32 for IPv4), its host bits cleared.
    /// `None` if the length is too large for the family.
    #[must_use]
    pub fn new(address: Address, length: u8) -> Option<Self> {
        let length = if address.is_v4() {
            if length > 32 {
                return None;
            }
            length + 96
        } else if length > 128 {
            return None;
        } else {
            length
        };
        let bits = u128::from_be_bytes(address.0) & Self::mask(length);
        Some(Self { address: Address(bits.to_be_bytes()), length, reserved: [0; 7] })
    }

    /// The prefix that holds one address.
    #[must_use]
    pub const fn host(address: Address) -> Self {
        Self { address, length: 128, reserved: [0; 7] }
    }

    /// Network mask of `length` bits over the 128-bit form. Lengths past 128 count as 128.
    #[must_use]
    pub const fn mask(length: u8) -> u128 {
        match length {
            0 => 0,
            1..=127 => u128::MAX << (128 - length),
            _ => u128::MAX,
        }
    }

    /// Whether `address` lies inside.
    #[must_use]
    pub const fn contains(&self, address: Address) -> bool {
        (u128::from_be_bytes(self.address.0) ^ u128::from_be_bytes(address.0)) & Self::mask(self.length) == 0
    }

    /// Whether the length is in range and no host bit is set.
    #[must_use]
    pub const fn is_canonical(&self) -> bool {
        self.length <= 128 && u128::from_be_bytes(self.address.0) & !Self::mask(self.length) == 0
    }

    /// The length in the family's own terms: 0 to 32 for a prefix of IPv4 addresses.
    #[must_use]
    pub const fn family_length(&self) -> u8 {
        if self.address.is_v4() && self.length >= 96 { self.length - 96 } else { self.length }
    }
}

impl core::fmt::Display for Prefix {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}/{}", self.address, self.family_length())
    }
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable,
            KnownLayout,
        )]
        #[repr(transparent)]
        pub struct $name(pub $int);

        impl $name {
            /// As an index. The peer's value: check it before use.
            #[must_use]
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}

identifier! {
    /// A worker thread of the dataplane, from 0.
    WorkerId(u8)
}
identifier! {
    /// A DPDK port in configuration order, from 0.
    PortId(u16)
}
identifier! {
    /// A place with addresses: a port without tag, or a VLAN of a port. In configuration order, from 0.
    InterfaceId(u16)
}
identifier! {
    /// A zone of the firewall, from 0.
    ZoneId(u8)
}
identifier! {
    /// A pool of external addresses, from 0.
    PoolId(u16)
}

impl ZoneId {
    /// In a rule: any zone.
    pub const ANY: Self = Self(0xff);
}

//! Addresses and prefixes as the configuration writes them.

use crate::value::{Refusal, Text, decimal, serialize_displayed};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use turnpike_abi::{Address, Prefix};

serialize_displayed!(InterfaceAddress, Network, AddressRange);

/// Splits `ADDRESS/LENGTH`; the length fits the family, the address is not in IPv4-mapped form.
fn address_and_length(text: &str, refusal: &'static str) -> Result<(IpAddr, u8), Refusal> {
    let (address, length) = text.split_once('/').ok_or(refusal)?;
    let address: IpAddr = address.parse().map_err(|_| refusal)?;
    let length: u8 = decimal(length).ok_or(refusal)?;
    let (longest, family) = if address.is_ipv4() { (32, "IPv4") } else { (128, "IPv6") };
    if length > longest {
        return Err(format!("has a length of {length}: an {family} prefix has at most {longest}").into());
    }
    match address {
        IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => {
            Err("is an IPv4 address in IPv6 form: write it as IPv4".into())
        }
        address => Ok((address, length)),
    }
}

/// An address of the box with the length of its link's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceAddress {
    /// The address.
    pub address: IpAddr,
    /// Length of the prefix of its link, 1 to 32 or 1 to 128.
    pub length: u8,
}

impl InterfaceAddress {
    /// The prefix of its link.
    #[must_use]
    pub fn network(&self) -> Network {
        Network { address: truncated(self.address, self.length), length: self.length }
    }

    /// Whether it is an IPv6 link-local address; those of different links may look alike.
    #[must_use]
    pub const fn is_link_local(&self) -> bool {
        matches!(self.address, IpAddr::V6(address) if address.is_unicast_link_local())
    }
}

impl Text for InterfaceAddress {
    const REFUSAL: &'static str = "is not an address with its prefix length: write ADDRESS/LENGTH such as \"192.0.2.1/24\" or \"2001:db8::1/64\"";
}

impl FromStr for InterfaceAddress {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let (address, length) = address_and_length(text, Self::REFUSAL)?;
        if length == 0 {
            return Err("has a length of 0: no link holds every address, write 1 or more".into());
        }
        let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
        if address.is_unspecified() || address.is_multicast() || address.is_loopback() || broadcast {
            return Err("is not an address that an interface can have: write a unicast address".into());
        }
        let interface = Self { address, length };
        // RFC 3021: a /31 has neither a network nor a broadcast address.
        if let (IpAddr::V4(host), 1..=30) = (address, length) {
            let host_bits = u32::MAX >> length;
            if u32::from(host) & host_bits == 0 {
                return Err("is the address of the network itself: write one of its hosts".into());
            }
            if u32::from(host) & host_bits == host_bits {
                return Err("is the broadcast address of its network: write one of its hosts".into());
            }
        }
        Ok(interface)
    }
}

impl fmt::Display for InterfaceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// A prefix without host bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    address: IpAddr,
    length: u8,
}

impl Network {
    /// Every IPv4 address.
    pub const ANY_V4: Self = Self { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), length: 0 };
    /// Every IPv6 address.
    pub const ANY_V6: Self = Self { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), length: 0 };

    /// The prefix of `length` bits that holds `address`; a length past the family's counts as the whole address.
    #[must_use]
    pub fn new(address: IpAddr, length: u8) -> Self {
        let length = length.min(if address.is_ipv4() { 32 } else { 128 });
        Self { address: truncated(address, length), length }
    }

    /// Its lowest address.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// Its length in bits, 0 to 32 or 0 to 128.
    #[must_use]
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// Whether its addresses are IPv4.
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// Whether `address` lies inside.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.is_v4() == address.is_ipv4() && truncated(address, self.length) == self.address
    }

    /// Whether one of the two lies inside the other.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// As the dataplane has it.
    #[must_use]
    pub fn prefix(&self) -> Prefix {
        let shift = if self.is_v4() { 96 } else { 0 };
        Prefix { address: Address::from(self.address), length: self.length + shift, reserved: [0; 7] }
    }
}

impl Text for Network {
    const REFUSAL: &'static str =
        "is not a prefix: write ADDRESS/LENGTH such as \"192.0.2.0/24\" or \"2001:db8::/32\"";
}

impl FromStr for Network {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let (address, length) = address_and_length(text, Self::REFUSAL)?;
        let network = Self::new(address, length);
        if network.address != address {
            return Err(format!("has bits set behind its length: the prefix is \"{network}\"").into());
        }
        Ok(network)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

fn truncated(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
        }
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & Prefix::mask(length))),
    }
}

/// IPv4 addresses from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressRange {
    /// Lowest.
    pub first: Ipv4Addr,
    /// Highest.
    pub last: Ipv4Addr,
}

impl AddressRange {
    /// How many addresses it holds, 1 to 2^32.
    #[must_use]
    pub fn count(&self) -> u64 {
        u64::from(self.last.to_bits()) - u64::from(self.first.to_bits()) + 1
    }

    /// Whether `address` lies inside.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&address)
    }
}

impl Text for AddressRange {
    const REFUSAL: &'static str =
        "is not a range of IPv4 addresses: write ADDRESS, ADDRESS/LENGTH or FIRST-LAST with FIRST <= LAST";
}

impl FromStr for AddressRange {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let range = if text.contains('/') {
            let network: Network = match text.parse() {
                // Which of the three forms was meant is clear: only what is wrong inside it is news.
                Err(refusal) if refusal == Network::REFUSAL.into() => return Err(Self::REFUSAL.into()),
                other => other?,
            };
            let IpAddr::V4(first) = network.address else { return Err(V6_POOL.into()) };
            let host_bits = u32::MAX.checked_shr(network.length.into()).unwrap_or(0);
            Self { first, last: Ipv4Addr::from_bits(first.to_bits() | host_bits) }
        } else {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            if first.parse::<Ipv6Addr>().is_ok() {
                return Err(V6_POOL.into());
            }
            let first = first.parse().map_err(|_| Self::REFUSAL)?;
            let last = last.parse().map_err(|_| Self::REFUSAL)?;
            Self { first, last }
        };
        if range.first > range.last {
            return Err(Self::REFUSAL.into());
        }
        // 0/8 and 127/8 (RFC 1122 3.2.1.3), 224/4 and above are nobody's source address.
        let reserved = [(0, 0), (127, 127), (224, 255)];
        let (low, high) = (range.first.octets()[0], range.last.octets()[0]);
        if reserved.iter().any(|&(first, last)| low <= last && high >= first) {
            return Err("holds addresses that no host can have: write unicast addresses".into());
        }
        Ok(range)
    }
}

const V6_POOL: &str = "is IPv6: pools hold IPv4 addresses, IPv6 is forwarded without translation";

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.count();
        if count == 1 {
            return write!(f, "{}", self.first);
        }
        let length = 32 - count.trailing_zeros().min(32);
        if count.is_power_of_two() && u64::from(self.first.to_bits()).is_multiple_of(count) {
            write!(f, "{}/{length}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

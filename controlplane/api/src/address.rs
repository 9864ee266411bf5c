//! Addresses, endpoints, prefixes and protocols as people write them.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

/// A text that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    text: String,
    expected: String,
}

impl ParseError {
    pub(crate) fn new(text: &str, expected: impl Into<String>) -> Self {
        Self { text: text.chars().take(80).collect(), expected: expected.into() }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" is not {}", self.text.escape_debug(), self.expected)
    }
}

impl std::error::Error for ParseError {}

/// Serializes a type by its `Display` and reads it by its `FromStr`.
macro_rules! as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use as_text;

/// An address and a port (of ICMP queries the identifier, 0 for protocols without ports).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// Port or query identifier.
    pub port: u16,
}

impl Endpoint {
    /// An endpoint from the shared form.
    #[must_use]
    pub const fn new(address: turnpike_abi::Address, port: u16) -> Self {
        Self { address: address.to_ip(), port }
    }
}

impl fmt::Display for Endpoint {
    /// `192.0.2.1:80`, `[2001:db8::1]:80`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(address) => write!(f, "{address}:{}", self.port),
            IpAddr::V6(address) => write!(f, "[{address}]:{}", self.port),
        }
    }
}

impl FromStr for Endpoint {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match socket_address(text) {
            Some(socket) => Ok(Self { address: socket.ip(), port: socket.port() }),
            None => {
                Err(ParseError::new(text, "an address and port like 192.168.0.10:443 or [2001:db8::10]:443"))
            }
        }
    }
}

/// A socket address without zone or flow label, which have no place in a rule.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let socket: SocketAddr = text.parse().ok()?;
    let plain = match socket {
        SocketAddr::V4(_) => true,
        SocketAddr::V6(v6) => v6 == SocketAddrV6::new(*v6.ip(), v6.port(), 0, 0),
    };
    plain.then_some(socket)
}

/// An endpoint of which a part may be left open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EndpointPattern {
    /// The address; `null` for any.
    pub address: Option<IpAddr>,
    /// The port; `null` for any.
    pub port: Option<u16>,
}

impl EndpointPattern {
    /// Whether `endpoint` fits.
    #[must_use]
    pub fn matches(&self, endpoint: &Endpoint) -> bool {
        self.address.is_none_or(|address| address == endpoint.address)
            && self.port.is_none_or(|port| port == endpoint.port)
    }
}

impl fmt::Display for EndpointPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, self.port) {
            (Some(address), Some(port)) => Endpoint { address, port }.fmt(f),
            (Some(address), None) => address.fmt(f),
            (None, Some(port)) => write!(f, ":{port}"),
            (None, None) => f.write_str("any"),
        }
    }
}

impl FromStr for EndpointPattern {
    type Err = ParseError;

    /// `ADDRESS`, `ADDRESS:PORT` or `:PORT`; IPv6 addresses with a port in brackets.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse() {
            return Ok(Self { address: Some(address), port: None });
        }
        if let Some(socket) = socket_address(text) {
            return Ok(Self { address: Some(socket.ip()), port: Some(socket.port()) });
        }
        match text.strip_prefix(':').map(str::parse) {
            Some(Ok(port)) => Ok(Self { address: None, port: Some(port) }),
            _ => Err(ParseError::new(
                text,
                "ADDRESS, ADDRESS:PORT or :PORT, like 203.0.113.5:80 or [2001:db8::5]:80",
            )),
        }
    }
}

/// A prefix in its family's own terms. Host bits are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// `address/length`.
    ///
    /// # Errors
    /// If the length is too large for the family or a host bit is set.
    pub fn new(address: IpAddr, length: u8) -> Result<Self, ParseError> {
        let text = || format!("{address}/{length}");
        let shared: turnpike_abi::Address = address.into();
        let Some(prefix) = turnpike_abi::Prefix::new(shared, length) else {
            return Err(ParseError::new(
                &text(),
                format!("a prefix: the length is at most {}", bits(address)),
            ));
        };
        if prefix.address != shared {
            return Err(ParseError::new(
                &text(),
                format!("a prefix: host bits are set, did you mean {prefix}?"),
            ));
        }
        Ok(Self { address, length })
    }

    /// The prefix that holds one address.
    #[must_use]
    pub const fn host(address: IpAddr) -> Self {
        Self { address, length: bits(address) }
    }

    /// Network address.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// 0 to 32 or 0 to 128.
    #[must_use]
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// Whether `address` is of the same family and lies inside.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && turnpike_abi::Prefix::from(*self).contains(address.into())
    }

    /// The shared form as people write it; `None` for every address of both families, which no one prefix names.
    #[must_use]
    pub fn from_shared(prefix: turnpike_abi::Prefix) -> Option<Self> {
        if prefix.length == 0 {
            return None;
        }
        // ::ffff:0:0/96 is how the shared form says 0.0.0.0/0.
        let address = if prefix.address.is_v4() && prefix.length >= 96 {
            prefix.address.to_ip()
        } else {
            IpAddr::V6(prefix.address.0.into())
        };
        Self::new(address, prefix.family_length()).ok()
    }
}

const fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

impl From<Prefix> for turnpike_abi::Prefix {
    fn from(prefix: Prefix) -> Self {
        let length = 128 - bits(prefix.address) + prefix.length;
        Self { address: prefix.address.into(), length, reserved: [0; 7] }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for Prefix {
    type Err = ParseError;

    /// `ADDRESS/LENGTH`, or an address for itself alone.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = "an address or prefix like 192.168.0.0/16 or 2001:db8::/32";
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| ParseError::new(text, expected))?;
        // A mapped address is IPv4 in the shared form: taken as IPv6 it would change its meaning on the way.
        if matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
            return Err(ParseError::new(text, "in a form this takes: write the IPv4 address itself"));
        }
        match length {
            None => Ok(Self::host(address)),
            Some(length) if !length.starts_with('+') => {
                Self::new(address, length.parse().map_err(|_| ParseError::new(text, expected))?)
            }
            Some(_) => Err(ParseError::new(text, expected)),
        }
    }
}

as_text!(Prefix);

/// Ports from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortRange {
    /// Lowest.
    pub first: u16,
    /// Highest.
    pub last: u16,
}

impl PortRange {
    /// Every port.
    pub const ALL: Self = Self { first: 0, last: u16::MAX };
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl FromStr for PortRange {
    type Err = ParseError;

    /// `A-B` or `A`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if first <= last => Ok(Self { first, last }),
            _ => Err(ParseError::new(text, "a port or a range of ports like 1024-2047")),
        }
    }
}

/// An IP protocol number. Written by its name where it has a usual one, else in digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP of IPv4.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// ICMP of IPv6.
    pub const ICMPV6: Self = Self(58);

    /// Names of the IANA registry, in lower case.
    const NAMES: [(u8, &'static str); 14] = [
        (1, "icmp"),
        (2, "igmp"),
        (4, "ipip"),
        (6, "tcp"),
        (17, "udp"),
        (33, "dccp"),
        (41, "ipv6"),
        (47, "gre"),
        (50, "esp"),
        (51, "ah"),
        (58, "icmpv6"),
        (89, "ospf"),
        (132, "sctp"),
        (136, "udplite"),
    ];

    /// Whether the numbers in an [`Endpoint`] mean something: ports, or identifiers of ICMP queries.
    #[must_use]
    pub const fn has_ports(self) -> bool {
        matches!(self.0, 1 | 6 | 17 | 33 | 58 | 132 | 136)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(number, _)| *number == self.0) {
            Some((_, name)) => f.pad(name),
            None => self.0.fmt(f),
        }
    }
}

impl FromStr for Protocol {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lower = text.to_ascii_lowercase();
        match Self::NAMES.iter().find(|(_, name)| *name == lower) {
            Some((number, _)) => Ok(Self(*number)),
            None => text.parse().map(Self).map_err(|_| {
                ParseError::new(text, "a protocol: tcp, udp, icmp, icmpv6, sctp, ... or 0 to 255")
            }),
        }
    }
}

as_text!(Protocol);

/// The IPv4 addresses from `first` to `last` as text: one address alone, a range with a dash.
#[must_use]
pub fn address_range(first: Ipv4Addr, last: Ipv4Addr) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_come_back() {
        for text in ["192.0.2.1:80", "[2001:db8::1]:443", "[::]:0"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        for wrong in
            ["", "192.0.2.1", "192.0.2.1:", "2001:db8::1:", "192.0.2.1:65536", "[fe80::1%1]:80", "host:80"]
        {
            assert!(wrong.parse::<Endpoint>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn patterns_come_back() {
        for text in ["192.0.2.1", "192.0.2.1:80", ":80", "2001:db8::1", "[2001:db8::1]:80"] {
            assert_eq!(text.parse::<EndpointPattern>().unwrap().to_string(), text);
        }
        assert_eq!("[2001:db8::1]".parse::<EndpointPattern>().unwrap().to_string(), "2001:db8::1");
        for wrong in ["", ":", "example.org", "192.0.2.0/24", ":65536", "[192.0.2.1"] {
            assert!(wrong.parse::<EndpointPattern>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn prefixes_come_back_and_refuse_host_bits() {
        for text in
            ["0.0.0.0/0", "192.168.0.0/16", "192.0.2.1/32", "::/0", "2001:db8::/32", "2001:db8::1/128"]
        {
            let prefix: Prefix = text.parse().unwrap();
            assert_eq!(prefix.to_string(), text);
            if text != "::/0" {
                assert_eq!(Prefix::from_shared(prefix.into()), Some(prefix), "{text}");
            }
        }
        assert_eq!("192.0.2.1".parse::<Prefix>().unwrap().to_string(), "192.0.2.1/32");
        let error = "192.0.2.77/24".parse::<Prefix>().unwrap_err().to_string();
        assert_eq!(error, "\"192.0.2.77/24\" is not a prefix: host bits are set, did you mean 192.0.2.0/24?");
        for wrong in ["", "/", "192.0.2.0/33", "::/129", "192.0.2.0/+8", "192.0.2.0/", "::ffff:192.0.2.1"] {
            assert!(wrong.parse::<Prefix>().is_err(), "{wrong}");
        }
        assert_eq!(Prefix::from_shared(turnpike_abi::Prefix::ANY), None);
    }

    #[test]
    fn a_prefix_holds_its_own_family_alone() {
        let all4: Prefix = "0.0.0.0/0".parse().unwrap();
        let all6: Prefix = "::/0".parse().unwrap();
        let (v4, v6) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        assert!(all4.contains(v4) && !all4.contains(v6));
        assert!(all6.contains(v6) && !all6.contains(v4));
    }

    #[test]
    fn protocols_by_name_and_number() {
        assert_eq!("TCP".parse(), Ok(Protocol::TCP));
        assert_eq!("58".parse(), Ok(Protocol::ICMPV6));
        assert_eq!(Protocol(99).to_string(), "99");
        assert!("tcpp".parse::<Protocol>().is_err());
        assert!("256".parse::<Protocol>().is_err());
    }

    #[test]
    fn port_ranges() {
        assert_eq!("80".parse(), Ok(PortRange { first: 80, last: 80 }));
        assert_eq!("1024-2047".parse(), Ok(PortRange { first: 1024, last: 2047 }));
        assert_eq!(PortRange { first: 80, last: 80 }.to_string(), "80");
        assert!("2-1".parse::<PortRange>().is_err());
        assert!("-".parse::<PortRange>().is_err());
    }
}

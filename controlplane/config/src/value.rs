//! Single values: names, ports, sizes. Each type says itself how it is written.

use serde::Serialize;
use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

/// Why a value was not taken: the rest of a sentence that begins with the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(Cow<'static, str>);

impl From<&'static str> for Refusal {
    fn from(text: &'static str) -> Self {
        Self(Cow::Borrowed(text))
    }
}

impl From<String> for Refusal {
    fn from(text: String) -> Self {
        Self(Cow::Owned(text))
    }
}

/// A type that is written as a string.
pub(crate) trait Text: FromStr<Err = Refusal> {
    /// What is said of a value that has another form.
    const REFUSAL: &'static str;
}

/// Types that serialize as they display.
macro_rules! serialize_displayed {
    ($($name:ty),*) => { $(
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )* };
}
pub(crate) use serialize_displayed;

serialize_displayed!(Name, TapName, MacAddress, PortRange, MemorySize, Metrics);

/// Name of a port, VLAN interface, zone or pool: 1 to 31 characters of `a-z`, `0-9`, `_` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// Longest name, bytes: one less than its field in the statistics segment.
    pub const LONGEST: usize = 31;

    /// What stands for a name that could not be read.
    pub(crate) const UNREAD: Self = Self(String::new());

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn is_unread(&self) -> bool {
        self.0.is_empty()
    }
}

impl Text for Name {
    const REFUSAL: &'static str = "is not a name: write 1 to 31 characters of a-z, 0-9, _ and -";
}

impl FromStr for Name {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let fits = (1..=Self::LONGEST).contains(&text.len())
            && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
        if fits { Ok(Self(text.to_owned())) } else { Err(Self::REFUSAL.into()) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Name of a TAP twin: what the kernel takes as the name of an interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TapName(String);

impl TapName {
    /// Longest name, bytes (`IFNAMSIZ` less its terminator).
    pub const LONGEST: usize = 15;

    /// The name a TAP twin has unless the configuration gives another: `tp-` and the interface's.
    ///
    /// # Errors
    /// If that is too long.
    pub fn default_of(interface: &Name) -> Result<Self, Refusal> {
        format!("tp-{interface}").parse()
    }

    pub(crate) const UNREAD: Self = Self(String::new());

    pub(crate) fn is_unread(&self) -> bool {
        self.0.is_empty()
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Text for TapName {
    const REFUSAL: &'static str =
        "is not the name of a kernel interface: write 1 to 15 characters of a-z, A-Z, 0-9, _, - and .";
}

impl FromStr for TapName {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        if text.is_empty() || !text.bytes().all(allowed) || text == "." || text == ".." {
            return Err(Self::REFUSAL.into());
        }
        if text.len() > Self::LONGEST {
            let long = text.len();
            return Err(format!("has {long} bytes: the name of a TAP twin has at most 15").into());
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for TapName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A station address, transmission order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl Text for MacAddress {
    const REFUSAL: &'static str =
        "is not a station address: write six hexadecimal bytes such as \"02:00:00:00:00:01\"";
}

impl FromStr for MacAddress {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            *octet = parts
                .next()
                .filter(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
                .and_then(|part| u8::from_str_radix(part, 16).ok())
                .ok_or(Self::REFUSAL)?;
        }
        if parts.next().is_some() {
            return Err(Self::REFUSAL.into());
        }
        if octets[0] & 1 == 1 {
            return Err("is a group address: the lowest bit of a station's first byte is 0".into());
        }
        if octets == [0; 6] {
            return Err("is no station's address: leave the key out to keep the device's own".into());
        }
        Ok(Self(octets))
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Ports from `first` to `last`, both included, host byte order, neither 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// Lowest.
    pub first: u16,
    /// Highest.
    pub last: u16,
}

impl Text for PortRange {
    const REFUSAL: &'static str =
        "is not a port range: write FIRST-LAST with 1 <= FIRST <= LAST <= 65535, or one port, as a string";
}

impl FromStr for PortRange {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = decimal(first).zip(decimal(last)).map(|(first, last)| Self { first, last });
        range.filter(|range| 1 <= range.first && range.first <= range.last).ok_or(Self::REFUSAL.into())
    }
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

/// An amount of memory: a whole number of MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemorySize {
    mib: u32,
}

impl MemorySize {
    /// `mib` MiB.
    #[must_use]
    pub const fn from_mib(mib: u32) -> Self {
        Self { mib }
    }

    /// In MiB.
    #[must_use]
    pub const fn mib(self) -> u32 {
        self.mib
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        (self.mib as u64) << 20
    }
}

impl Text for MemorySize {
    const REFUSAL: &'static str =
        "is not an amount of memory: write a number of MiB or GiB such as \"512M\" or \"2G\", 64M to 1024G";
}

impl FromStr for MemorySize {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let mebibytes = text.strip_suffix('M').map(|number| (number, 1));
        let (number, scale) =
            mebibytes.or_else(|| text.strip_suffix('G').map(|number| (number, 1024))).ok_or(Self::REFUSAL)?;
        decimal::<u32>(number)
            .and_then(|number| number.checked_mul(scale))
            .filter(|mib| (64..=1 << 20).contains(mib))
            .map(Self::from_mib)
            .ok_or(Self::REFUSAL.into())
    }
}

impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mib {
            mib if mib.is_multiple_of(1024) => write!(f, "{}G", mib / 1024),
            mib => write!(f, "{mib}M"),
        }
    }
}

/// Where metrics are served; `None`, written `""`, is nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Metrics(pub Option<SocketAddr>);

impl Text for Metrics {
    const REFUSAL: &'static str = "is not an address to listen on: write ADDRESS:PORT such as \"127.0.0.1:9464\" or \"[::1]:9464\", or \"\" for none";
}

impl FromStr for Metrics {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let address: SocketAddr = text.parse().map_err(|_| Self::REFUSAL)?;
        if address.port() == 0 {
            return Err("has port 0: write 1 to 65535".into());
        }
        Ok(Self(Some(address)))
    }
}

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |address| address.fmt(f))
    }
}

/// A timeout in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Seconds(pub u32);

impl From<Seconds> for Duration {
    fn from(seconds: Seconds) -> Self {
        Self::from_secs(seconds.0.into())
    }
}

/// What a rule says of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// ICMP in IPv4 and ICMPv6 in IPv6.
    Icmp,
    /// The number in the IPv4 header or that of the last IPv6 header.
    Number(u8),
}

impl Protocol {
    /// Names that are known besides `icmp`, with their numbers as IANA assigned them.
    pub const NAMES: [(&'static str, u8); 12] = [
        ("igmp", 2),
        ("ipip", 4),
        ("tcp", 6),
        ("udp", 17),
        ("dccp", 33),
        ("6in4", 41),
        ("gre", 47),
        ("esp", 50),
        ("ah", 51),
        ("ospf", 89),
        ("pim", 103),
        ("sctp", 132),
    ];

    pub(crate) const REFUSAL: &'static str = "is not a protocol: write icmp, igmp, ipip, tcp, udp, dccp, 6in4, gre, esp, ah, ospf, pim, sctp, or a number from 0 to 255";

    /// Whether its packets carry port numbers that rules look at: TCP, UDP, DCCP, SCTP.
    #[must_use]
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::Number(6 | 17 | 33 | 132))
    }

    /// Whether it is ICMP or ICMPv6, by name or by number.
    #[must_use]
    pub const fn is_icmp(self) -> bool {
        matches!(self, Self::Icmp | Self::Number(1 | 58))
    }
}

impl FromStr for Protocol {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        if text == "icmp" {
            return Ok(Self::Icmp);
        }
        let known = Self::NAMES.iter().find(|(name, _)| *name == text);
        known.map(|(_, number)| Self::Number(*number)).ok_or(Self::REFUSAL.into())
    }
}

impl Serialize for Protocol {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Icmp => serializer.serialize_str("icmp"),
            Self::Number(number) => match Self::NAMES.iter().find(|(_, known)| known == number) {
                Some((name, _)) => serializer.serialize_str(name),
                None => serializer.serialize_u8(*number),
            },
        }
    }
}

/// A decimal number of digits alone: no sign, no blank.
pub(crate) fn decimal<T: FromStr>(text: &str) -> Option<T> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

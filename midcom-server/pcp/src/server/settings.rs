//! What the operator says, and where the server is.

use std::net::{IpAddr, Ipv4Addr};

/// Milliseconds. Only differences and order matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// `seconds` later.
    #[must_use]
    pub const fn after_seconds(self, seconds: u32) -> Self {
        self.after(seconds as u64 * 1000)
    }

    /// `milliseconds` later.
    #[must_use]
    pub const fn after(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_add(milliseconds))
    }

    /// Milliseconds until `later`, 0 if that has passed.
    #[must_use]
    pub const fn until(self, later: Self) -> u64 {
        later.0.saturating_sub(self.0)
    }

    /// Whole seconds until `later`, rounded up, so that nobody is told less than is left.
    #[must_use]
    pub fn seconds_until(self, later: Self) -> u32 {
        u32::try_from(self.until(later).div_ceil(1000)).unwrap_or(u32::MAX)
    }
}

/// An address prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// The network.
    pub address: IpAddr,
    /// Leading bits that count, in the family's own terms.
    pub length: u8,
}

impl Prefix {
    /// Whether `address` is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let (ours, theirs, width) = match (self.address, address) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => (u32::from(ours).into(), u32::from(theirs).into(), 32),
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => (u128::from(ours), u128::from(theirs), 128),
            _ => return false,
        };
        let ignored = u32::from(u8::saturating_sub(width, self.length));
        (ours ^ theirs).checked_shr(ignored).unwrap_or(0) == 0
    }
}

/// Clients that may speak for others (RFC 6887 section 13.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThirdParty {
    /// Who.
    pub client: Prefix,
    /// For whom.
    pub hosts: Vec<Prefix>,
}

/// How a host's packets leave the box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Translated; with the external address where there is but one.
    Translated(Option<Ipv4Addr>),
    /// As they are: external ends are internal ends (RFC 6887 section 11.3).
    Untranslated,
}

/// What the operator says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// MAP is allowed (RFC 6887 section 11).
    pub map: bool,
    /// PEER is allowed (RFC 6887 section 12).
    pub peer: bool,
    /// Shortest and longest lifetime granted, seconds (RFC 6887 section 15).
    pub lifetime: (u32, u32),
    /// Mappings a subscriber may have: an IPv4 address, or an IPv6 network of 64 bits (RFC 6887 section 17.2).
    pub quota: usize,
    /// Mappings there may be.
    pub mappings: usize,
    /// Filters a mapping may have, 1 to 8.
    pub filters: usize,
    /// Ports a set may have (RFC 7753); 1 maps a single port whatever is asked for.
    pub port_set: u16,
    /// Requests of a subscriber a second; twice as many at once.
    pub rate: u32,
    /// Who may speak for others. Nobody by default (RFC 6887 section 18.1).
    pub third_party: Vec<ThirdParty>,
    /// IPv4 hosts that are translated or not, the first that fits; hosts in none are not.
    pub sides: Vec<(Prefix, Side)>,
    /// Protocols that can be mapped where packets are translated.
    pub translated: Vec<u8>,
    /// Protocols with ports that can be mapped where they are not.
    pub untranslated: Vec<u8>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            map: true,
            peer: true,
            lifetime: (120, 7200),
            quota: 64,
            mappings: 1 << 20,
            filters: 8,
            port_set: 1,
            rate: 10,
            third_party: Vec::new(),
            sides: Vec::new(),
            translated: vec![6, 17],
            untranslated: vec![6, 17],
        }
    }
}

impl Settings {
    /// How `host`'s packets leave.
    #[must_use]
    pub fn side(&self, host: IpAddr) -> Side {
        let found = self.sides.iter().find(|(prefix, _)| prefix.contains(host));
        found.map_or(Side::Untranslated, |(_, side)| *side)
    }

    /// The lifetime to grant where `asked` seconds are asked for.
    #[must_use]
    pub fn granted(&self, asked: u32) -> u32 {
        asked.min(self.lifetime.1).max(self.lifetime.0)
    }

    /// Whether a mapping of one port of `protocol` can be made for hosts of `side`.
    #[must_use]
    pub fn maps(&self, side: Side, protocol: u8) -> bool {
        match side {
            Side::Translated(_) => self.translated.contains(&protocol),
            Side::Untranslated => self.untranslated.contains(&protocol),
        }
    }
}

/// An address of the box that requests are received at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Kernel index of the interface.
    pub interface: u32,
    /// The box's address there.
    pub address: IpAddr,
}

/// What is spoken at a place. Nothing, unless the operator says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Speaks {
    /// PCP.
    pub pcp: bool,
    /// NAT-PMP, to IPv4 hosts that are translated.
    pub nat_pmp: bool,
}

//! The vendor extensions: attributes from 0x8000 on, group transactions, two notifications. There is no registry;
//! an agent offers what it understands in its SE request, and neither side sends any other (B-AMB-16). The layouts
//! are in `conformance.md`.

use crate::reader::Reader;
use crate::{Malformed, Tuple};

/// The longest text or name of an extension, in octets.
pub const MAX_TEXT: usize = 255;

/// A set of extensions, as attribute 0x8000 carries it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions(pub u32);

impl Extensions {
    /// No extension: SIMCO 3.0 as RFC 4540 has it.
    pub const NONE: Self = Self(0);
    /// 0x8001: the internal address tuple in a PRR request.
    pub const INTERNAL_TUPLE: Self = Self(1 << 1);
    /// 0x8002: a reason in negative replies and notifications.
    pub const REASON: Self = Self(1 << 2);
    /// 0x8003: more capabilities in the SE reply.
    pub const MORE_CAPABILITIES: Self = Self(1 << 3);
    /// 0x8004: the realm of a rule.
    pub const REALM: Self = Self(1 << 4);
    /// 0x8005: a wanted outside tuple.
    pub const WANTED_OUTSIDE: Self = Self(1 << 5);
    /// 0x8006: locks, limits of flows, idle time.
    pub const BEHAVIOUR: Self = Self(1 << 6);
    /// 0x8007: an authorization token in a rule's request.
    pub const TOKEN: Self = Self(1 << 7);
    /// 0x8008: the interfaces of a rule.
    pub const INTERFACES: Self = Self(1 << 8);
    /// 0x8009: PRL by pages.
    pub const PAGES: Self = Self(1 << 9);
    /// GLC, GL, GS and the notification GEN.
    pub const GROUPS: Self = Self(1 << 16);
    /// The notification PEN, before a rule expires.
    pub const EXPIRY_NOTICE: Self = Self(1 << 17);
    /// All that this codec knows.
    pub const ALL: Self = Self(0x3FE | 1 << 16 | 1 << 17);

    /// True if all of `other` are among them.
    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Those that are in both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those that are in either.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that are not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// What the capabilities attribute has no room for (RFC 5189 section 2.1.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MoreCapabilities {
    /// Group transactions are supported.
    pub groups: bool,
    /// Rules may name interfaces.
    pub interfaces: bool,
    /// Seconds after which an unused rule ends; 0: it does not.
    pub idle_timeout: u32,
    /// Sessions that an agent may have at once.
    pub max_sessions: u32,
    /// Rules that an agent may have at once.
    pub max_rules: u32,
}

impl MoreCapabilities {
    pub(crate) fn decode(value: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(value);
        let flags = reader.u32()?;
        let more = Self {
            groups: flags & 1 != 0,
            interfaces: flags & 2 != 0,
            idle_timeout: reader.u32()?,
            max_sessions: reader.u32()?,
            max_rules: reader.u32()?,
        };
        reader.end()?;
        Ok(more)
    }

    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        out.extend((u32::from(self.groups) | u32::from(self.interfaces) << 1).to_be_bytes());
        out.extend(self.idle_timeout.to_be_bytes());
        out.extend(self.max_sessions.to_be_bytes());
        out.extend(self.max_rules.to_be_bytes());
    }
}

/// Whom the first packet locks a pinhole to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Lock {
    /// Nobody: it stays as wide as it was asked for.
    #[default]
    None,
    /// The first external address.
    Address,
    /// The first external address and port.
    AddressAndPort,
}

/// How a pinhole behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Behaviour {
    /// Whether the first source keeps it for itself.
    pub lock: Lock,
    /// It ends when its connection does.
    pub close_on_fin: bool,
    /// Flows at once; 0: any number.
    pub max_flows: u16,
    /// Seconds without a packet after which it ends; 0: it does not.
    pub idle_timeout: u32,
}

impl Behaviour {
    pub(crate) fn decode(value: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(value);
        let lock = match reader.u8()? {
            0 => Lock::None,
            1 => Lock::Address,
            2 => Lock::AddressAndPort,
            _ => return Err(Malformed::Undefined("lock")),
        };
        let flags = reader.u8()?;
        let behaviour = Self {
            lock,
            close_on_fin: flags & 1 != 0,
            max_flows: reader.u16()?,
            idle_timeout: reader.u32()?,
        };
        reader.end()?;
        Ok(behaviour)
    }

    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        let lock = match self.lock {
            Lock::None => 0,
            Lock::Address => 1,
            Lock::AddressAndPort => 2,
        };
        out.extend([lock, u8::from(self.close_on_fin)]);
        out.extend(self.max_flows.to_be_bytes());
        out.extend(self.idle_timeout.to_be_bytes());
    }
}

/// The outside tuple that an agent would like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedOutside {
    /// This one or none; otherwise any other will do.
    pub strict: bool,
    /// The address and port; port 0: any.
    pub tuple: Tuple,
}

impl WantedOutside {
    pub(crate) fn decode(value: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(value);
        let flags = reader.u32()?;
        Ok(Self { strict: flags & 1 != 0, tuple: Tuple::decode(reader.rest())? })
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(u32::from(self.strict).to_be_bytes());
        self.tuple.encode(out);
    }
}

/// The interfaces of a rule; both or neither (RFC 5189 section 2.3.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interfaces {
    /// Towards the internal host.
    pub inside: String,
    /// Towards the external host.
    pub outside: String,
}

impl Interfaces {
    pub(crate) fn decode(value: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(value);
        let inside = text(reader.short_octets()?)?;
        let outside = text(reader.short_octets()?)?;
        reader.end()?;
        Ok(Self { inside, outside })
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        for name in [&self.inside, &self.outside] {
            let name = clipped(name);
            out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
            out.extend(name.as_bytes());
        }
    }
}

/// Which rules a PRL request asks for, and in the reply where to go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Rules with a greater PID only; in a reply the greatest that was listed. None: from the first.
    pub after: Option<u32>,
    /// At most so many; 0: as many as fit.
    pub limit: u32,
    /// Rules of this group only.
    pub group: Option<u32>,
}

impl Page {
    pub(crate) fn decode(value: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(value);
        let flags = reader.u32()?;
        let (after, limit, group) = (reader.u32()?, reader.u32()?, reader.u32()?);
        reader.end()?;
        let given = |bit: u32, value| (flags & bit != 0).then_some(value);
        Ok(Self { after: given(1, after), limit, group: given(2, group) })
    }

    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        let flags = u32::from(self.after.is_some()) | u32::from(self.group.is_some()) << 1;
        for value in [flags, self.after.unwrap_or(0), self.limit, self.group.unwrap_or(0)] {
            out.extend(value.to_be_bytes());
        }
    }
}

/// UTF-8 of at most [`MAX_TEXT`] octets.
pub(crate) fn text(value: &[u8]) -> Result<String, Malformed> {
    if value.len() > MAX_TEXT {
        return Err(Malformed::Undefined("length of a text"));
    }
    std::str::from_utf8(value).map(str::to_owned).map_err(|_| Malformed::Undefined("encoding of a text"))
}

/// As much of `text` as fits, whole characters.
pub(crate) fn clipped(text: &str) -> &str {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

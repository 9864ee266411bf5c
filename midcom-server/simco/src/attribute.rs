//! Attributes of a message: their types, and the check of type and number (RFC 4540 section 6, 5).

use crate::extension::{
    Behaviour, Extensions, Interfaces, MoreCapabilities, Page, WantedOutside, clipped, text,
};
use crate::reader::Reader;
use crate::{Capabilities, EnableParameters, Malformed, ReserveParameters, Tuple, Version};

/// Challenges and tokens have at most so many octets (section 4.3.2).
pub const MAX_AUTHENTICATION: usize = 4096;
/// Owners have at most so many octets (section 4.3.7).
pub const MAX_OWNER: usize = 255;

/// A type of attribute, named by its bit in a [`Kinds`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Version = 1,
    Challenge,
    Token,
    Capabilities,
    Rule,
    Group,
    Lifetime,
    Owner,
    Tuple,
    Reserve,
    Enable,
    Extensions = 16,
    InternalTuple,
    Reason,
    MoreCapabilities,
    Realm,
    WantedOutside,
    Behaviour,
    RuleToken,
    Interfaces,
    Page,
}

impl Kind {
    fn from_code(code: u16) -> Option<Self> {
        Some(match code {
            0x0001 => Self::Version,
            0x0002 => Self::Challenge,
            0x0003 => Self::Token,
            0x0004 => Self::Capabilities,
            0x0005 => Self::Rule,
            0x0006 => Self::Group,
            0x0007 => Self::Lifetime,
            0x0008 => Self::Owner,
            0x0009 => Self::Tuple,
            0x000A => Self::Reserve,
            0x000B => Self::Enable,
            0x8000 => Self::Extensions,
            0x8001 => Self::InternalTuple,
            0x8002 => Self::Reason,
            0x8003 => Self::MoreCapabilities,
            0x8004 => Self::Realm,
            0x8005 => Self::WantedOutside,
            0x8006 => Self::Behaviour,
            0x8007 => Self::RuleToken,
            0x8008 => Self::Interfaces,
            0x8009 => Self::Page,
            _ => return None,
        })
    }

    pub(crate) fn code(self) -> u16 {
        let bit = self as u16;
        if bit < 16 { bit } else { 0x8000 + (bit - 16) }
    }

    fn bit(self) -> u32 {
        1 << self as u8
    }
}

/// A set of attribute types.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kinds(u32);

impl Kinds {
    pub(crate) fn of(kinds: &[Kind]) -> Self {
        Self(kinds.iter().fold(0, |bits, kind| bits | kind.bit()))
    }

    /// Those among `self` whose extension is granted, or that belong to RFC 4540.
    pub(crate) fn granted(self, extensions: Extensions) -> Self {
        // Attribute 0x8000+n has bit n of the offer and bit 16+n here; the offer itself is always understood.
        let vendor = (extensions.0 & 0x3FE) << 16 | 1 << 16;
        Self(self.0 & (vendor | 0xFFFF))
    }

    fn has(self, kind: Kind) -> bool {
        self.0 & kind.bit() != 0
    }
}

/// The attributes of one message, each in its place.
#[derive(Debug, Default)]
pub(crate) struct Attributes {
    seen: Kinds,
    pub(crate) version: Option<Version>,
    pub(crate) challenge: Option<Vec<u8>>,
    pub(crate) token: Option<Vec<u8>>,
    pub(crate) capabilities: Option<Capabilities>,
    pub(crate) rules: Vec<u32>,
    pub(crate) groups: Vec<u32>,
    pub(crate) lifetime: Option<u32>,
    pub(crate) owners: Vec<Vec<u8>>,
    /// In the order they came.
    pub(crate) tuples: [Option<Tuple>; 4],
    pub(crate) reserve: Option<ReserveParameters>,
    pub(crate) enable: Option<EnableParameters>,
    pub(crate) extensions: Option<Extensions>,
    pub(crate) internal_tuple: Option<Tuple>,
    pub(crate) reason: Option<String>,
    pub(crate) more_capabilities: Option<MoreCapabilities>,
    pub(crate) realms: Vec<String>,
    pub(crate) wanted_outside: Option<WantedOutside>,
    pub(crate) behaviour: Option<Behaviour>,
    pub(crate) rule_token: Option<Vec<u8>>,
    pub(crate) interfaces: Option<Interfaces>,
    pub(crate) page: Option<Page>,
}

/// What a message may and must have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    pub(crate) required: Kinds,
    pub(crate) optional: Kinds,
    /// Of these there may be any number.
    pub(crate) repeated: Kinds,
    pub(crate) tuples: (usize, usize),
    /// Attributes from 0x8000 on that are not known are passed over.
    pub(crate) lenient: bool,
}

impl Figure {
    pub(crate) fn new(required: &[Kind], optional: &[Kind]) -> Self {
        Self {
            required: Kinds::of(required),
            optional: Kinds::of(optional),
            repeated: Kinds::default(),
            tuples: (0, 0),
            lenient: false,
        }
    }

    /// At least and at most so many address tuples.
    pub(crate) fn tuples(self, least: usize, most: usize) -> Self {
        Self { tuples: (least, most), ..self }
    }

    pub(crate) fn repeated(self, kinds: &[Kind]) -> Self {
        Self { repeated: Kinds::of(kinds), ..self }
    }

    pub(crate) fn granted(self, extensions: Extensions) -> Self {
        Self { optional: self.optional.granted(extensions), ..self }
    }

    pub(crate) fn lenient(self) -> Self {
        Self { lenient: true, ..self }
    }
}

impl Attributes {
    /// The attributes of `payload`, which has to be as `figure` says. Their order does not matter, but that of
    /// the tuples is kept (B-AMB-15).
    pub(crate) fn decode(payload: &[u8], figure: &Figure) -> Result<Self, Malformed> {
        let mut attributes = Self::default();
        let mut tuples = 0;
        let mut reader = Reader::new(payload);
        while !reader.is_empty() {
            let code = reader.u16()?;
            let length = reader.u16()?;
            let value = reader.take(usize::from(length))?;
            let kind = match Kind::from_code(code) {
                Some(kind) => kind,
                None if figure.lenient && code >= 0x8000 => continue,
                None => return Err(Malformed::Unexpected(code)),
            };
            if kind == Kind::Tuple && figure.tuples.1 > 0 {
                let place = attributes.tuples.get_mut(tuples).filter(|_| tuples < figure.tuples.1);
                *place.ok_or(Malformed::Repeated(code))? = Some(Tuple::decode(value)?);
                tuples += 1;
                continue;
            }
            let allowed = figure.required.has(kind) || figure.optional.has(kind);
            if !allowed && !figure.repeated.has(kind) {
                if figure.lenient && code >= 0x8000 {
                    continue;
                }
                return Err(Malformed::Unexpected(code));
            }
            if attributes.seen.has(kind) && !figure.repeated.has(kind) {
                return Err(Malformed::Repeated(code));
            }
            attributes.seen.0 |= kind.bit();
            attributes.put(kind, value)?;
        }
        let missing = figure.required.0 & !attributes.seen.0;
        if tuples < figure.tuples.0 {
            return Err(Malformed::Missing(Kind::Tuple.code()));
        }
        if missing != 0 {
            let bit = u16::try_from(missing.trailing_zeros()).unwrap_or_default();
            return Err(Malformed::Missing(if bit < 16 { bit } else { 0x8000 + (bit - 16) }));
        }
        Ok(attributes)
    }

    fn put(&mut self, kind: Kind, value: &[u8]) -> Result<(), Malformed> {
        match kind {
            Kind::Version => self.version = Some(Version::decode(value)?),
            Kind::Challenge => self.challenge = Some(octets(value, MAX_AUTHENTICATION)?),
            Kind::Token => self.token = Some(octets(value, MAX_AUTHENTICATION)?),
            Kind::Capabilities => self.capabilities = Some(Capabilities::decode(value)?),
            Kind::Rule => self.rules.push(number(value)?),
            Kind::Group => self.groups.push(number(value)?),
            Kind::Lifetime => self.lifetime = Some(number(value)?),
            Kind::Owner => self.owners.push(octets(value, MAX_OWNER)?),
            Kind::Tuple => return Err(Malformed::Unexpected(kind.code())),
            Kind::Reserve => self.reserve = Some(ReserveParameters::decode(value)?),
            Kind::Enable => self.enable = Some(EnableParameters::decode(value)?),
            Kind::Extensions => self.extensions = Some(Extensions(number(value)?)),
            Kind::InternalTuple => self.internal_tuple = Some(Tuple::decode(value)?),
            Kind::Reason => self.reason = Some(text(value)?),
            Kind::MoreCapabilities => self.more_capabilities = Some(MoreCapabilities::decode(value)?),
            Kind::Realm => self.realms.push(text(value)?),
            Kind::WantedOutside => self.wanted_outside = Some(WantedOutside::decode(value)?),
            Kind::Behaviour => self.behaviour = Some(Behaviour::decode(value)?),
            Kind::RuleToken => self.rule_token = Some(octets(value, MAX_AUTHENTICATION)?),
            Kind::Interfaces => self.interfaces = Some(Interfaces::decode(value)?),
            Kind::Page => self.page = Some(Page::decode(value)?),
        }
        Ok(())
    }

    /// The one rule, group or owner of a figure that has one.
    pub(crate) fn rule(&self) -> Result<u32, Malformed> {
        self.rules.first().copied().ok_or(Malformed::Missing(Kind::Rule.code()))
    }

    pub(crate) fn group(&self) -> Result<u32, Malformed> {
        self.groups.first().copied().ok_or(Malformed::Missing(Kind::Group.code()))
    }

    pub(crate) fn owner(&mut self) -> Result<Vec<u8>, Malformed> {
        self.owners.pop().ok_or(Malformed::Missing(Kind::Owner.code()))
    }

    pub(crate) fn tuple(&self, place: usize) -> Result<Tuple, Malformed> {
        self.tuples.get(place).copied().flatten().ok_or(Malformed::Missing(Kind::Tuple.code()))
    }
}

/// The value of an optional field of a figure that requires it.
pub(crate) fn present<T>(value: Option<T>, kind: Kind) -> Result<T, Malformed> {
    value.ok_or(Malformed::Missing(kind.code()))
}

fn number(value: &[u8]) -> Result<u32, Malformed> {
    let mut reader = Reader::new(value);
    let number = reader.u32()?;
    reader.end()?;
    Ok(number)
}

fn octets(value: &[u8], most: usize) -> Result<Vec<u8>, Malformed> {
    if value.len() > most { Err(Malformed::Undefined("length of an attribute")) } else { Ok(value.to_vec()) }
}

/// Appends attributes to a message.
pub(crate) struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    fn attribute(&mut self, kind: Kind, value: impl FnOnce(&mut Vec<u8>)) {
        self.out.extend(kind.code().to_be_bytes());
        let at = self.out.len();
        self.out.extend([0, 0]);
        value(self.out);
        let length = u16::try_from(self.out.len() - at - 2).unwrap_or(u16::MAX);
        if let Some(place) = self.out.get_mut(at..at + 2) {
            place.copy_from_slice(&length.to_be_bytes());
        }
    }

    pub(crate) fn number(&mut self, kind: Kind, value: u32) {
        self.attribute(kind, |out| out.extend(value.to_be_bytes()));
    }

    pub(crate) fn octets(&mut self, kind: Kind, value: &[u8], most: usize) {
        self.attribute(kind, |out| out.extend(value.iter().take(most)));
    }

    pub(crate) fn text(&mut self, kind: Kind, value: &str) {
        self.attribute(kind, |out| out.extend(clipped(value).as_bytes()));
    }

    pub(crate) fn version(&mut self, version: Version) {
        self.attribute(Kind::Version, |out| version.encode(out));
    }

    pub(crate) fn capabilities(&mut self, capabilities: &Capabilities) {
        self.attribute(Kind::Capabilities, |out| capabilities.encode(out));
    }

    pub(crate) fn tuple(&mut self, tuple: &Tuple) {
        self.attribute(Kind::Tuple, |out| tuple.encode(out));
    }

    pub(crate) fn reserve(&mut self, parameters: &ReserveParameters) {
        self.attribute(Kind::Reserve, |out| parameters.encode(out));
    }

    pub(crate) fn enable(&mut self, parameters: EnableParameters) {
        self.attribute(Kind::Enable, |out| parameters.encode(out));
    }

    pub(crate) fn internal_tuple(&mut self, tuple: &Tuple) {
        self.attribute(Kind::InternalTuple, |out| tuple.encode(out));
    }

    pub(crate) fn more_capabilities(&mut self, more: MoreCapabilities) {
        self.attribute(Kind::MoreCapabilities, |out| more.encode(out));
    }

    pub(crate) fn wanted_outside(&mut self, wanted: &WantedOutside) {
        self.attribute(Kind::WantedOutside, |out| wanted.encode(out));
    }

    pub(crate) fn behaviour(&mut self, behaviour: Behaviour) {
        self.attribute(Kind::Behaviour, |out| behaviour.encode(out));
    }

    pub(crate) fn interfaces(&mut self, interfaces: &Interfaces) {
        self.attribute(Kind::Interfaces, |out| interfaces.encode(out));
    }

    pub(crate) fn page(&mut self, page: Page) {
        self.attribute(Kind::Page, |out| page.encode(out));
    }
}

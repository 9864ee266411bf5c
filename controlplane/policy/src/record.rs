//! How a rule lies in the journal, and the uses of a permit: a version byte, then fields of fixed order, integers in big-endian order, texts and
//! optional fields behind a length or presence byte. A record that does not decode to its last byte is an
//! error, never skipped.

use crate::identity::{Agent, Front};
use crate::permits::Uses;
use crate::rule::{Action, Grant, GroupId, Rule, RuleId};
use crate::transaction::{Annotation, Behaviour, Ending, Lock};
use crate::tuple::{Direction, Parity, PortParity, Protocol, Time, Tuple};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The encoding written. Records of every version up to it are read.
pub const RECORD_VERSION: u8 = 1;

/// Why a record cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    /// Written by a later release.
    #[error("it is of version {0}, this release reads up to {RECORD_VERSION}: run the release that wrote it")]
    Version(u8),
    /// Ends early.
    #[error("it ends in the middle of a field")]
    Short,
    /// A field holds a value that none of ours writes.
    #[error("its field {0:?} has an impossible value")]
    Field(&'static str),
    /// Goes on behind its last field.
    #[error("{0} bytes follow its last field")]
    Long(usize),
}

impl Rule {
    /// As it is written; the identity is the record's key.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder(Vec::with_capacity(160));
        out.byte(RECORD_VERSION);
        out.u32(self.group.0);
        out.byte(front_code(self.owner.front));
        out.bytes(self.owner.name.as_bytes());
        out.bytes(self.zone.as_bytes());
        match self.action {
            Action::Reserve(parity) => {
                out.byte(0);
                out.byte(parity as u8);
            }
            Action::Enable { direction, parity } => {
                out.byte(1 + direction as u8);
                out.byte(parity as u8);
            }
        }
        out.byte(self.protocol.0);
        out.u16(self.range);
        out.option(self.internal.as_ref(), Encoder::tuple);
        out.tuple(&self.external);
        out.option(self.pool.as_ref(), |out, pool| out.bytes(pool.as_bytes()));
        out.option(self.outside.as_ref(), |out, end| {
            out.0.extend(end.address.octets());
            out.u16(end.port);
        });
        let Behaviour { lock, max_flows, close_on_fin, idle, remote_ports, ending } = self.behaviour;
        out.byte(lock as u8);
        out.u16(max_flows);
        out.byte(u8::from(close_on_fin));
        out.option(idle.as_ref(), |out, idle| out.u32(*idle));
        out.option(remote_ports.as_ref(), |out, (first, last)| {
            out.u16(*first);
            out.u16(*last);
        });
        out.option(ending.as_ref(), |out, ending| out.byte(*ending as u8));
        out.option(self.locked.as_ref(), Encoder::tuple);
        out.byte(self.ending as u8);
        out.option(self.annotation.description.as_ref(), |out, text| out.bytes(text.as_bytes()));
        out.bytes(&self.annotation.tag);
        out.u64(self.created.0);
        out.option(self.expires.as_ref(), |out, expires| out.u64(expires.0));
        out.0
    }

    /// As it was.
    ///
    /// # Errors
    /// If `bytes` are anything but a whole record.
    pub fn decode(id: RuleId, bytes: &[u8]) -> Result<Self, Undecodable> {
        let mut from = Decoder(bytes);
        match from.byte()? {
            RECORD_VERSION => {}
            other => return Err(Undecodable::Version(other)),
        }
        let group = GroupId(from.u32()?);
        let front = from.byte()?;
        let front = Front::ALL.into_iter().find(|known| front_code(*known) == front);
        let front = front.ok_or(Undecodable::Field("front end"))?;
        let owner = Agent::new(front, from.text("owner")?);
        let zone = from.text("zone")?.into();
        let action = match (from.byte()?, from.byte()?) {
            (0, 0) => Action::Reserve(PortParity::Any),
            (0, 1) => Action::Reserve(PortParity::Odd),
            (0, 2) => Action::Reserve(PortParity::Even),
            (direction @ 1..=3, parity @ 0..=1) => Action::Enable {
                direction: match direction {
                    1 => Direction::Inbound,
                    2 => Direction::Outbound,
                    _ => Direction::Bidirectional,
                },
                parity: if parity == 0 { Parity::Any } else { Parity::Same },
            },
            _ => return Err(Undecodable::Field("action")),
        };
        let protocol = Protocol(from.byte()?);
        let range = from.u16()?;
        if range == 0 && protocol.has_ports() {
            return Err(Undecodable::Field("range"));
        }
        let internal = from.option("internal", |from| from.tuple("internal"))?;
        let external = from.tuple("external")?;
        let pool = from.option("pool", |from| from.text("pool").map(Into::into))?;
        let outside = from.option("outside", |from| {
            Ok(Grant { address: Ipv4Addr::from(from.array::<4>()?), port: from.u16()? })
        })?;
        let lock = match from.byte()? {
            0 => Lock::No,
            1 => Lock::Address,
            2 => Lock::AddressAndPort,
            _ => return Err(Undecodable::Field("lock")),
        };
        let max_flows = from.u16()?;
        let close_on_fin = match from.byte()? {
            0 => false,
            1 => true,
            _ => return Err(Undecodable::Field("close on FIN")),
        };
        let idle = from.option("idle", Decoder::u32)?;
        let remote_ports = from.option("remote ports", |from| Ok((from.u16()?, from.u16()?)))?;
        let ending = from.option("wished ending", |from| from.ending())?;
        let behaviour = Behaviour { lock, max_flows, close_on_fin, idle, remote_ports, ending };
        let locked = from.option("locked", |from| from.tuple("locked"))?;
        let ending = from.ending()?;
        let description = from.option("description", |from| from.text("description").map(Into::into))?;
        let annotation = Annotation { description, tag: from.bytes()?.into() };
        let created = Time(from.u64()?);
        let expires = from.option("expires", |from| from.u64().map(Time))?;
        if !from.0.is_empty() {
            return Err(Undecodable::Long(from.0.len()));
        }
        Ok(Self {
            id,
            group,
            owner,
            zone,
            action,
            protocol,
            range,
            internal,
            external,
            pool,
            outside,
            behaviour,
            locked,
            ending,
            annotation,
            created,
            expires,
        })
    }
}

impl Uses {
    /// As it is written; the permit's identity is the record's key.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder(Vec::with_capacity(13));
        out.byte(RECORD_VERSION);
        out.u32(self.times);
        out.u64(self.expires.0);
        out.0
    }

    /// As it was.
    ///
    /// # Errors
    /// If `bytes` are anything but a whole record.
    pub fn decode(bytes: &[u8]) -> Result<Self, Undecodable> {
        let mut from = Decoder(bytes);
        match from.byte()? {
            RECORD_VERSION => {}
            other => return Err(Undecodable::Version(other)),
        }
        let (times, expires) = (from.u32()?, Time(from.u64()?));
        if times == 0 {
            return Err(Undecodable::Field("times"));
        }
        if !from.0.is_empty() {
            return Err(Undecodable::Long(from.0.len()));
        }
        Ok(Self { times, expires })
    }
}

/// Fixed for ever, whatever the order of [`Front::ALL`].
const fn front_code(front: Front) -> u8 {
    match front {
        Front::Cli => 0,
        Front::Simco => 1,
        Front::Pcp => 2,
        Front::NatPmp => 3,
        Front::Turn => 4,
    }
}

struct Encoder(Vec<u8>);

impl Encoder {
    fn byte(&mut self, value: u8) {
        self.0.push(value);
    }

    fn u16(&mut self, value: u16) {
        self.0.extend(value.to_be_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.0.extend(value.to_be_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend(value.to_be_bytes());
    }

    /// Texts and tags are bounded far below this length where they are taken; a longer one is cut, not corrupted.
    fn bytes(&mut self, bytes: &[u8]) {
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        self.u16(length);
        self.0.extend(bytes.iter().take(usize::from(length)));
    }

    fn tuple(&mut self, tuple: &Tuple) {
        match tuple.address {
            IpAddr::V4(v4) => {
                self.byte(4);
                self.0.extend(v4.octets());
            }
            IpAddr::V6(v6) => {
                self.byte(6);
                self.0.extend(v6.octets());
            }
        }
        self.byte(tuple.length);
        self.u16(tuple.port);
    }

    fn option<T: ?Sized>(&mut self, value: Option<&T>, write: impl FnOnce(&mut Self, &T)) {
        self.byte(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }
}

struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Undecodable> {
        let (array, rest) = self.0.split_first_chunk::<N>().ok_or(Undecodable::Short)?;
        self.0 = rest;
        Ok(*array)
    }

    fn byte(&mut self) -> Result<u8, Undecodable> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, Undecodable> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Undecodable> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Undecodable> {
        self.array().map(u64::from_be_bytes)
    }

    fn bytes(&mut self) -> Result<&'a [u8], Undecodable> {
        let length = usize::from(self.u16()?);
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Undecodable::Short)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn text(&mut self, field: &'static str) -> Result<&'a str, Undecodable> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Undecodable::Field(field))
    }

    fn tuple(&mut self, field: &'static str) -> Result<Tuple, Undecodable> {
        let address: IpAddr = match self.byte()? {
            4 => Ipv4Addr::from(self.array::<4>()?).into(),
            6 => Ipv6Addr::from(self.array::<16>()?).into(),
            _ => return Err(Undecodable::Field(field)),
        };
        let tuple = Tuple { address, length: self.byte()?, port: self.u16()? };
        tuple.prefix().map(|_| tuple).ok_or(Undecodable::Field(field))
    }

    fn ending(&mut self) -> Result<Ending, Undecodable> {
        match self.byte()? {
            0 => Ok(Ending::Cut),
            1 => Ok(Ending::Drain),
            _ => Err(Undecodable::Field("ending")),
        }
    }

    fn option<T>(
        &mut self,
        field: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T, Undecodable>,
    ) -> Result<Option<T>, Undecodable> {
        match self.byte()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(Undecodable::Field(field)),
        }
    }
}

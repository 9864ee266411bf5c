//! Requests as a server reads them (RFC 6887 sections 7.1 and 8.2).

use super::bytes::Reader;
use super::option::{self, PcpOption};
use super::{HEADER, LONGEST, MAP, Opcode, PEER, ResultCode, VERSION};
use std::net::{IpAddr, SocketAddr};

/// What a client tells its mappings by.
pub type Nonce = [u8; 12];

/// Whose format a message is in: its first octet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 0.
    NatPmp,
    /// 2.
    Pcp,
    /// Any other.
    Other,
}

impl Version {
    /// That of a request; `None` of what is dropped without a word: less than two octets, and responses.
    #[must_use]
    pub fn of(message: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(message);
        let (version, opcode) = (reader.u8()?, reader.u8()?);
        if opcode & Opcode::RESPONSE != 0 {
            return None;
        }
        Some(match version {
            0 => Self::NatPmp,
            VERSION => Self::Pcp,
            _ => Self::Other,
        })
    }
}

/// MAP's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Map {
    /// The client's word for this mapping.
    pub nonce: Nonce,
    /// IP protocol number, 0 for all.
    pub protocol: u8,
    /// Host byte order, 0 for all.
    pub internal_port: u16,
    /// Suggested external end; port 0 and the family's zero address say nothing.
    pub suggested: SocketAddr,
}

/// PEER's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// What MAP has too.
    pub map: Map,
    /// The other end.
    pub remote: SocketAddr,
}

/// The payload of an opcode that is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Body {
    /// Nothing.
    Announce,
    /// A mapping for whoever comes.
    Map(Map),
    /// A mapping towards one end.
    Peer(Peer),
}

/// A request whose header and payload are sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The opcode.
    pub opcode: Opcode,
    /// Lifetime asked for, seconds.
    pub lifetime: u32,
    /// The payload.
    pub body: Body,
    /// The options that are understood, in order, up to the first fault.
    pub options: Vec<PcpOption>,
    /// What was wrong with the option after those.
    pub fault: Option<ResultCode>,
}

/// Why a message is no request to work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Dropped without a word.
    Silent,
    /// Answered with this error.
    Error(ResultCode),
}

impl From<ResultCode> for Fault {
    fn from(code: ResultCode) -> Self {
        Self::Error(code)
    }
}

impl Request {
    /// Reads a message of version 2 that came from `source`, in the order of RFC 6887 section 8.2.
    ///
    /// # Errors
    /// How it is to be answered, if at all.
    pub fn read(message: &[u8], source: IpAddr) -> Result<Self, Fault> {
        let mut reader = Reader::new(message);
        let header = header(&mut reader).ok_or(Fault::Silent)?;
        if message.len() > LONGEST || !message.len().is_multiple_of(4) {
            return Err(ResultCode::MalformedRequest.into());
        }
        let payload = match header.opcode {
            Opcode::MAP => MAP,
            Opcode::PEER => PEER,
            _ => 0,
        };
        if message.len() < HEADER + payload {
            return Err(ResultCode::MalformedRequest.into());
        }
        if header.client != source {
            return Err(ResultCode::AddressMismatch.into());
        }
        let body = match header.opcode {
            Opcode::ANNOUNCE => Some(Body::Announce),
            Opcode::MAP => map(&mut reader).map(Body::Map),
            Opcode::PEER => peer(&mut reader).map(Body::Peer),
            _ => return Err(ResultCode::UnsuppOpcode.into()),
        };
        let body = body.ok_or(ResultCode::MalformedRequest)?;
        let (options, fault) = option::read_all(reader.rest());
        Ok(Self { opcode: header.opcode, lifetime: header.lifetime, body, options, fault })
    }
}

struct Header {
    opcode: Opcode,
    lifetime: u32,
    client: IpAddr,
}

fn header(reader: &mut Reader<'_>) -> Option<Header> {
    let _version = reader.u8()?;
    let opcode = Opcode(reader.u8()? & !Opcode::RESPONSE);
    let _reserved = reader.u16()?;
    Some(Header { opcode, lifetime: reader.u32()?, client: reader.address()? })
}

fn map(reader: &mut Reader<'_>) -> Option<Map> {
    let nonce = reader.array()?;
    let protocol = reader.u8()?;
    let _reserved: [u8; 3] = reader.array()?;
    let (internal_port, port) = (reader.u16()?, reader.u16()?);
    let suggested = SocketAddr::new(reader.address()?, port);
    Some(Map { nonce, protocol, internal_port, suggested })
}

fn peer(reader: &mut Reader<'_>) -> Option<Peer> {
    let map = map(reader)?;
    let port = reader.u16()?;
    let _reserved = reader.u16()?;
    Some(Peer { map, remote: SocketAddr::new(reader.address()?, port) })
}

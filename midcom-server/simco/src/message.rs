//! The SIMCO header, and messages out of a stream of octets (RFC 4540 sections 4.2 and 6).

use crate::reader::Reader;
use crate::{Malformed, attribute::Writer};

/// Octets of the header.
pub const HEADER: usize = 8;
/// A whole message has at most so many octets (section 8.7; B-AMB-06).
pub const MAX_MESSAGE: usize = 65_536;

/// The basic message types (section 4.2.1).
pub(crate) mod basic {
    pub const REQUEST: u8 = 0x01;
    pub const POSITIVE: u8 = 0x02;
    pub const NEGATIVE: u8 = 0x03;
    pub const NOTIFICATION: u8 = 0x04;
}

/// The header of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Request, positive reply, negative reply or notification.
    pub basic: u8,
    /// What of it.
    pub sub_type: u8,
    /// Octets after the header.
    pub length: u16,
    /// The transaction identifier.
    pub tid: u32,
}

impl Header {
    /// The header at the beginning of `octets`, none if they are too few.
    #[must_use]
    pub fn decode(octets: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(octets);
        Some(Self {
            basic: reader.u8().ok()?,
            sub_type: reader.u8().ok()?,
            length: reader.u16().ok()?,
            tid: reader.u32().ok()?,
        })
    }
}

/// Appends a whole message to `out`, or nothing.
pub(crate) fn encode(
    out: &mut Vec<u8>,
    basic: u8,
    sub_type: u8,
    tid: u32,
    payload: impl FnOnce(&mut Writer<'_>),
) -> Result<(), Malformed> {
    let at = out.len();
    out.extend([basic, sub_type, 0, 0]);
    out.extend(tid.to_be_bytes());
    payload(&mut Writer::new(out));
    let whole = out.len() - at;
    let length = u16::try_from(whole - HEADER).ok().filter(|_| whole <= MAX_MESSAGE);
    let Some(length) = length else {
        out.truncate(at);
        return Err(Malformed::TooBig);
    };
    if let Some(place) = out.get_mut(at + 2..at + 4) {
        place.copy_from_slice(&length.to_be_bytes());
    }
    Ok(())
}

/// Octets that have arrived and not yet become messages. It never holds more than one read beyond a message.
#[derive(Debug)]
pub(crate) struct Incoming {
    octets: Vec<u8>,
    start: usize,
    max: usize,
}

/// A message, or why there is none.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// More octets are needed, none of a message are there.
    Nothing,
    /// More octets are needed to end a message.
    Partial,
    /// The message is longer than what is accepted.
    TooLong(Header),
    /// The message's header; its octets are those of [`Incoming::payload`].
    Message(Header),
}

impl Incoming {
    /// `max`: octets of a whole message that are accepted.
    pub(crate) fn new(max: usize) -> Self {
        Self { octets: Vec::new(), start: 0, max }
    }

    pub(crate) fn push(&mut self, octets: &[u8]) {
        if self.start > 0 {
            self.octets.drain(..self.start);
            self.start = 0;
        }
        self.octets.extend_from_slice(octets);
    }

    /// Octets held.
    pub(crate) fn len(&self) -> usize {
        self.octets.len() - self.start
    }

    fn waiting(&self) -> &[u8] {
        self.octets.get(self.start..).unwrap_or_default()
    }

    pub(crate) fn peek(&self) -> Next {
        let waiting = self.waiting();
        let Some(header) = Header::decode(waiting) else {
            return if waiting.is_empty() { Next::Nothing } else { Next::Partial };
        };
        let whole = HEADER + usize::from(header.length);
        if whole > self.max {
            Next::TooLong(header)
        } else if waiting.len() < whole {
            Next::Partial
        } else {
            Next::Message(header)
        }
    }

    /// The payload of the message that `peek` gave.
    pub(crate) fn payload(&self, header: &Header) -> &[u8] {
        self.waiting().get(HEADER..HEADER + usize::from(header.length)).unwrap_or_default()
    }

    /// Takes the message that `peek` gave away.
    pub(crate) fn consume(&mut self, header: &Header) {
        self.start = (self.start + HEADER + usize::from(header.length)).min(self.octets.len());
        if self.start == self.octets.len() {
            self.clear();
        }
    }

    /// Forgets everything; a large buffer is given back, for ten thousand idle connections hold none.
    pub(crate) fn clear(&mut self) {
        self.octets.clear();
        self.start = 0;
        self.octets.shrink_to(256);
    }
}

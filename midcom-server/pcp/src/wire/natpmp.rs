//! NAT-PMP (RFC 6886 section 3), with erratum 3618.

use super::bytes::Reader;
use std::net::Ipv4Addr;

/// Version 0.
pub const VERSION: u8 = 0;
/// Set in the opcode of responses.
const RESPONSE: u8 = 128;

/// A result code (RFC 6886 section 3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum ResultCode {
    /// Done.
    Success = 0,
    /// Not version 0.
    UnsupportedVersion = 1,
    /// Not authorized, or refused.
    Refused = 2,
    /// The box has no external address for this client.
    NetworkFailure = 3,
    /// No mapping is left.
    OutOfResources = 4,
    /// Unknown opcode.
    UnsupportedOpcode = 5,
}

impl ResultCode {
    /// Every code there is, in order.
    pub const ALL: [Self; 6] = [
        Self::Success,
        Self::UnsupportedVersion,
        Self::Refused,
        Self::NetworkFailure,
        Self::OutOfResources,
        Self::UnsupportedOpcode,
    ];

    /// As metrics label it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::UnsupportedVersion => "unsupported_version",
            Self::Refused => "refused",
            Self::NetworkFailure => "network_failure",
            Self::OutOfResources => "out_of_resources",
            Self::UnsupportedOpcode => "unsupported_opcode",
        }
    }
}

/// A transport whose ports NAT-PMP maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Opcode 1.
    Udp,
    /// Opcode 2.
    Tcp,
}

impl Transport {
    const fn opcode(self) -> u8 {
        match self {
            Self::Udp => 1,
            Self::Tcp => 2,
        }
    }

    /// IP protocol number.
    #[must_use]
    pub const fn protocol(self) -> u8 {
        match self {
            Self::Udp => 17,
            Self::Tcp => 6,
        }
    }
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Opcode 0: what is the external address?
    ExternalAddress,
    /// Opcodes 1 and 2.
    Map {
        /// Which one.
        transport: Transport,
        /// Host byte order; 0 with lifetime 0 means all of them.
        internal_port: u16,
        /// Suggested, 0 for any.
        external_port: u16,
        /// Seconds, 0 to delete.
        lifetime: u32,
    },
    /// Any other: answered with the request itself (RFC 6886 section 3.5).
    Unknown,
}

impl Request {
    /// Reads a message of version 0 with an opcode below 128; `None` if it is too short to be answered.
    #[must_use]
    pub fn read(message: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(message);
        let _version = reader.u8()?;
        let transport = match reader.u8()? {
            0 => return Some(Self::ExternalAddress),
            1 => Transport::Udp,
            2 => Transport::Tcp,
            _ => return Some(Self::Unknown),
        };
        let _reserved = reader.u16()?;
        Some(Self::Map {
            transport,
            internal_port: reader.u16()?,
            external_port: reader.u16()?,
            lifetime: reader.u32()?,
        })
    }
}

fn front(opcode: u8, result: ResultCode, epoch: u32) -> Vec<u8> {
    let mut message = Vec::with_capacity(16);
    message.extend([VERSION, RESPONSE | opcode]);
    message.extend((result as u16).to_be_bytes());
    message.extend(epoch.to_be_bytes());
    message
}

/// The external address, zero unless the result is success; also sent to everybody (RFC 6886 section 3.2.1).
#[must_use]
pub fn external_address(result: ResultCode, epoch: u32, address: Ipv4Addr) -> Vec<u8> {
    let mut message = front(0, result, epoch);
    let address = if result == ResultCode::Success { address } else { Ipv4Addr::UNSPECIFIED };
    message.extend(address.octets());
    message
}

/// What became of a mapping; port and lifetime are zero where there is none.
#[must_use]
pub fn mapping(
    transport: Transport,
    result: ResultCode,
    epoch: u32,
    (internal_port, external_port): (u16, u16),
    lifetime: u32,
) -> Vec<u8> {
    let mut message = front(transport.opcode(), result, epoch);
    message.extend(internal_port.to_be_bytes());
    message.extend(external_port.to_be_bytes());
    message.extend(lifetime.to_be_bytes());
    message
}

/// To a request of another version: opcode 128 (erratum 3618; the text shows 0).
#[must_use]
pub fn unsupported_version(epoch: u32) -> Vec<u8> {
    front(0, ResultCode::UnsupportedVersion, epoch)
}

/// To an unknown opcode: the whole request, its top bit set and the result in place.
#[must_use]
pub fn unsupported_opcode(request: &[u8]) -> Vec<u8> {
    let mut message = request.to_vec();
    message.resize(message.len().max(4), 0);
    if let Some([_, opcode, high, low]) = message.first_chunk_mut::<4>() {
        *opcode |= RESPONSE;
        [*high, *low] = (ResultCode::UnsupportedOpcode as u16).to_be_bytes();
    }
    message
}

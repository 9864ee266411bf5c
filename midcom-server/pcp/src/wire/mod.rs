//! The bytes of PCP (RFC 6887, RFC 7753) and of NAT-PMP (RFC 6886). Nothing here keeps state, and no bytes make
//! it panic: everything is read through [`Reader`], which does not index.

mod bytes;
mod code;
pub mod natpmp;
mod option;
mod request;
mod response;

pub use bytes::{Reader, address, field};
pub use code::{Opcode, OptionCode, ResultCode};
pub use option::{Filter, PcpOption, PortSet};
pub use request::{Body, Fault, Map, Nonce, Peer, Request, Version};
pub use response::{Header, announcement, error, success};

/// PCP's version (RFC 6887 section 7.1).
pub const VERSION: u8 = 2;
/// Where servers listen (RFC 6887 section 19.1).
pub const SERVER_PORT: u16 = 5351;
/// Where clients listen for announcements.
pub const CLIENT_PORT: u16 = 5350;
/// Longest message, bytes (RFC 6887 section 7).
pub const LONGEST: usize = 1100;
/// Bytes of the common header.
pub const HEADER: usize = 24;
/// Bytes of MAP's payload (RFC 6887 section 11.1).
pub const MAP: usize = 36;
/// Bytes of PEER's payload (RFC 6887 section 12.1).
pub const PEER: usize = 56;

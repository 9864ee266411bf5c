//! Responses (RFC 6887 sections 7.2 and 8.2).

use super::bytes::field;
use super::option::PcpOption;
use super::{Body, HEADER, LONGEST, Map, Opcode, ResultCode, VERSION};
use std::net::SocketAddr;

/// What a server fills in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The result.
    pub result: ResultCode,
    /// Of the mapping or of the error, seconds.
    pub lifetime: u32,
    /// The server's epoch, seconds.
    pub epoch: u32,
}

/// An error response: the request itself under another header, of at most 1100 bytes and a multiple of 4.
#[must_use]
pub fn error(request: &[u8], header: Header) -> Vec<u8> {
    let mut message = request.get(..LONGEST).unwrap_or(request).to_vec();
    message.resize(message.len().next_multiple_of(4).max(HEADER), 0);
    // Header and last 96 bits of the client's address lie at the same offsets: where they were is where they go.
    let parsed = !header.result.is_unparsed();
    put(&mut message, Opcode(0), header, parsed);
    if let (Some(opcode), Some(asked)) = (message.get_mut(1), request.get(1)) {
        *opcode = asked | Opcode::RESPONSE;
    }
    message
}

/// A success response: the payload with what was assigned in place of what was suggested, and `options`.
#[must_use]
pub fn success(body: &Body, assigned: SocketAddr, options: &[PcpOption], header: Header) -> Vec<u8> {
    let mut message = vec![0; HEADER];
    let opcode = match body {
        Body::Announce => Opcode::ANNOUNCE,
        Body::Map(_) => Opcode::MAP,
        Body::Peer(_) => Opcode::PEER,
    };
    put(&mut message, opcode, header, true);
    match body {
        Body::Announce => {}
        Body::Map(map) => put_map(&mut message, map, assigned),
        Body::Peer(peer) => {
            put_map(&mut message, &peer.map, assigned);
            message.extend(peer.remote.port().to_be_bytes());
            message.extend([0; 2]);
            message.extend(field(peer.remote.ip()));
        }
    }
    for option in options {
        option.write(&mut message);
    }
    message
}

/// The response that nobody asked for: the server is there, and this is its epoch (RFC 6887 section 14.1.3).
#[must_use]
pub fn announcement(epoch: u32) -> Vec<u8> {
    let mut message = vec![0; HEADER];
    put(&mut message, Opcode::ANNOUNCE, Header { result: ResultCode::Success, lifetime: 0, epoch }, true);
    message
}

fn put(message: &mut [u8], opcode: Opcode, header: Header, parsed: bool) {
    let mut front = [0; 12];
    let (first, rest) = front.split_at_mut(4);
    first.copy_from_slice(&[VERSION, opcode.0 | Opcode::RESPONSE, 0, header.result.number()]);
    let (lifetime, epoch) = rest.split_at_mut(4);
    lifetime.copy_from_slice(&header.lifetime.to_be_bytes());
    epoch.copy_from_slice(&header.epoch.to_be_bytes());
    if let Some(to) = message.get_mut(..12) {
        to.copy_from_slice(&front);
    }
    if parsed && let Some(reserved) = message.get_mut(12..HEADER) {
        reserved.fill(0);
    }
}

fn put_map(message: &mut Vec<u8>, map: &Map, assigned: SocketAddr) {
    message.extend(map.nonce);
    message.extend([map.protocol, 0, 0, 0]);
    message.extend(map.internal_port.to_be_bytes());
    message.extend(assigned.port().to_be_bytes());
    message.extend(field(assigned.ip()));
}

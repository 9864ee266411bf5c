//! ICMP errors as the box originates them.

use crate::checksum;
use crate::field::put;
use crate::packet::{IPV4_HEADER_LEN, IPV6_HEADER_LEN, mapped};
use crate::protocol;
use crate::transport::icmp::HEADER_LEN;

/// Largest ICMPv4 error in bytes (RFC 1812 4.3.2.3).
pub const IPV4_ERROR_MAX: usize = 576;
/// Largest ICMPv6 error in bytes: the minimum MTU (RFC 4443 2.4 c).
pub const IPV6_ERROR_MAX: usize = 1280;
const TTL: u8 = 64;

/// Writes an ICMP error, IP header first, into `out`; returns its length in bytes, 0 if `out` is too short for
/// any. `rest` is the second word of the ICMP header (RFC 792), `quoted` the offending packet from its IP header on.
#[must_use]
pub fn ipv4(
    out: &mut [u8],
    source: [u8; 4],
    destination: [u8; 4],
    kind: u8,
    code: u8,
    rest: u32,
    tos: u8,
    identification: u16,
    quoted: &[u8],
) -> usize {
    let room = out.len().min(IPV4_ERROR_MAX);
    let Some(fits) = room.checked_sub(IPV4_HEADER_LEN + HEADER_LEN) else { return 0 };
    let quote = quoted.get(..fits.min(quoted.len())).unwrap_or_default();
    let length = IPV4_HEADER_LEN + HEADER_LEN + quote.len();
    let Some(packet) = out.get_mut(..length) else { return 0 };
    let (header, message) = packet.split_at_mut(IPV4_HEADER_LEN);
    header.fill(0);
    put(header, 0, [0x45, tos]);
    put(header, 2, (length as u16).to_be_bytes());
    put(header, 4, identification.to_be_bytes());
    put(header, 8, [TTL, protocol::ICMP]);
    put(header, 12, source);
    put(header, 16, destination);
    let check = checksum::ones_complement(header);
    put(header, 10, check.to_be_bytes());
    write_message(message, kind, code, rest, quote);
    let check = checksum::transport(&mapped(source), &mapped(destination), protocol::ICMP, message);
    put(message, 2, check.to_be_bytes());
    length
}

/// The same for IPv6 (RFC 4443 2.1).
#[must_use]
pub fn ipv6(
    out: &mut [u8],
    source: [u8; 16],
    destination: [u8; 16],
    kind: u8,
    code: u8,
    rest: u32,
    traffic_class: u8,
    quoted: &[u8],
) -> usize {
    let room = out.len().min(IPV6_ERROR_MAX);
    let Some(fits) = room.checked_sub(IPV6_HEADER_LEN + HEADER_LEN) else { return 0 };
    let quote = quoted.get(..fits.min(quoted.len())).unwrap_or_default();
    let length = IPV6_HEADER_LEN + HEADER_LEN + quote.len();
    let Some(packet) = out.get_mut(..length) else { return 0 };
    let (header, message) = packet.split_at_mut(IPV6_HEADER_LEN);
    put(header, 0, [0x60 | traffic_class >> 4, traffic_class << 4, 0, 0]);
    put(header, 4, (message.len() as u16).to_be_bytes());
    put(header, 6, [protocol::ICMPV6, TTL]);
    put(header, 8, source);
    put(header, 24, destination);
    write_message(message, kind, code, rest, quote);
    let check = checksum::transport(&source, &destination, protocol::ICMPV6, message);
    put(message, 2, check.to_be_bytes());
    length
}

fn write_message(message: &mut [u8], kind: u8, code: u8, rest: u32, quote: &[u8]) {
    put(message, 0, [kind, code, 0, 0]);
    put(message, 4, rest.to_be_bytes());
    if let Some(to) = message.get_mut(HEADER_LEN..) {
        to.copy_from_slice(quote);
    }
}

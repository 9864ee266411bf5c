//! New ICMP and ICMPv6 errors about a packet (RFC 792, RFC 1812 4.3.2, RFC 4443 2.4).

use crate::checksum::{self, ones_complement};
use crate::field::put;
use crate::icmp::HEADER_LEN;
use crate::packet::{IPV4_HEADER_LEN, IPV6_HEADER_LEN, mapped};
use crate::protocol;

/// Longest IPv4 error in bytes, IP header included (RFC 1812 4.3.2.3).
pub const IPV4_LIMIT: usize = 576;
/// Longest IPv6 error in bytes, IP header included: the minimum MTU (RFC 4443 2.4 c).
pub const IPV6_LIMIT: usize = 1280;

const TTL: u8 = 64;

/// Writes an ICMP error from the IP header on to the start of `out`; returns its length, 0 if not even the
/// headers fit.
///
/// `rest_of_header` is the second word of the ICMP header (RFC 1191: the next-hop MTU), `quoted` the packet it
/// is about from its IP header on, of which as much is quoted as fits.
#[must_use]
pub fn ipv4(
    out: &mut [u8],
    source: [u8; 4],
    destination: [u8; 4],
    kind: u8,
    code: u8,
    rest_of_header: u32,
    tos: u8,
    identification: u16,
    quoted: &[u8],
) -> usize {
    let Some(length) = write_message(out, IPV4_HEADER_LEN, IPV4_LIMIT, [kind, code], rest_of_header, quoted)
    else {
        return 0;
    };
    let Some((header, message)) =
        out.get_mut(..length).and_then(|packet| packet.split_at_mut_checked(IPV4_HEADER_LEN))
    else {
        return 0;
    };
    header.fill(0);
    put(header, 0, [0x45, tos]);
    put(header, 2, (length as u16).to_be_bytes());
    put(header, 4, identification.to_be_bytes());
    put(header, 8, [TTL, protocol::ICMP]);
    put(header, 12, source);
    put(header, 16, destination);
    let check = ones_complement(header);
    put(header, 10, check.to_be_bytes());
    let check = checksum::transport(&mapped(source), &mapped(destination), protocol::ICMP, message);
    put(message, 2, check.to_be_bytes());
    length
}

/// Writes an ICMPv6 error from the IP header on to the start of `out`; see [`ipv4`]. `rest_of_header` is the
/// MTU of Packet Too Big, the pointer of Parameter Problem.
#[must_use]
pub fn ipv6(
    out: &mut [u8],
    source: [u8; 16],
    destination: [u8; 16],
    kind: u8,
    code: u8,
    rest_of_header: u32,
    traffic_class: u8,
    quoted: &[u8],
) -> usize {
    let Some(length) = write_message(out, IPV6_HEADER_LEN, IPV6_LIMIT, [kind, code], rest_of_header, quoted)
    else {
        return 0;
    };
    let Some((header, message)) =
        out.get_mut(..length).and_then(|packet| packet.split_at_mut_checked(IPV6_HEADER_LEN))
    else {
        return 0;
    };
    put(header, 0, [0x60 | traffic_class >> 4, traffic_class << 4, 0, 0]);
    put(header, 4, (message.len() as u16).to_be_bytes());
    put(header, 6, [protocol::ICMPV6, TTL]);
    put(header, 8, source);
    put(header, 24, destination);
    let check = checksum::transport(&source, &destination, protocol::ICMPV6, message);
    put(message, 2, check.to_be_bytes());
    length
}

/// Writes the ICMP message behind `header_len` bytes, its checksum 0; returns the length of the packet.
fn write_message(
    out: &mut [u8],
    header_len: usize,
    limit: usize,
    kind_and_code: [u8; 2],
    rest_of_header: u32,
    quoted: &[u8],
) -> Option<usize> {
    let before = header_len + HEADER_LEN;
    let room = out.len().min(limit).checked_sub(before)?;
    let quoted = quoted.get(..room).unwrap_or(quoted);
    let message = out.get_mut(header_len..before + quoted.len())?;
    put(message, 0, kind_and_code);
    put(message, 2, [0, 0]);
    put(message, 4, rest_of_header.to_be_bytes());
    message.get_mut(HEADER_LEN..)?.copy_from_slice(quoted);
    Some(before + quoted.len())
}

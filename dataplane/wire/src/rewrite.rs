//! Changes in place to a frame that [`packet::parse`](crate::packet::parse) has checked.
//!
//! Offsets come from the parse. One that points past the frame is a defect of the caller; it changes nothing.

use crate::checksum::Delta;
use crate::field::{array, put, u16_at};
use crate::packet::{Family, Fragment, Packet, TCP_SYN};
use crate::transport::{TCP_HEADER_LEN, Transport};

/// Offset in a TCP header of its checksum.
pub const TCP_CHECKSUM: usize = 16;
/// Offset in a UDP header of its checksum.
pub const UDP_CHECKSUM: usize = 6;
/// Offset in an ICMP or ICMPv6 header of its checksum.
pub const ICMP_CHECKSUM: usize = 2;
/// Offset in an ICMP or ICMPv6 query of its identifier.
pub const ICMP_IDENTIFIER: usize = 4;

const IPV4_TTL: usize = 8;
const IPV4_CHECKSUM: usize = 10;
const IPV4_SOURCE: usize = 12;
const IPV4_DESTINATION: usize = 16;
const IPV6_HOP_LIMIT: usize = 7;
const IPV6_SOURCE: usize = 8;
const IPV6_DESTINATION: usize = 24;
const TCP_DATA_OFFSET: usize = 12;

const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_MSS: u8 = 2;
const OPTION_MSS_LEN: u8 = 4;

/// Writes the Ethernet addresses.
pub fn set_mac(frame: &mut [u8], destination: [u8; 6], source: [u8; 6]) {
    if let Some(addresses) = frame.first_chunk_mut::<12>() {
        put(addresses, 0, destination);
        put(addresses, 6, source);
    }
}

/// Writes the source of the IPv4 header at `l3` and updates that header's checksum, not the transport's.
pub fn set_ipv4_source(frame: &mut [u8], l3: usize, address: [u8; 4]) {
    set_ipv4_address(frame, l3, IPV4_SOURCE, address);
}

/// Writes the destination of the IPv4 header at `l3` and updates that header's checksum, not the transport's.
pub fn set_ipv4_destination(frame: &mut [u8], l3: usize, address: [u8; 4]) {
    set_ipv4_address(frame, l3, IPV4_DESTINATION, address);
}

fn set_ipv4_address(frame: &mut [u8], l3: usize, at: usize, address: [u8; 4]) {
    let Some(header) = frame.get_mut(l3..) else { return };
    let Some(&old) = array::<4>(header, at) else { return };
    put(header, at, address);
    adjust(header, IPV4_CHECKSUM, Delta::bytes(&old, &address));
}

/// Writes the source of the IPv6 header at `l3`, which has no checksum of its own.
pub fn set_ipv6_source(frame: &mut [u8], l3: usize, address: [u8; 16]) {
    put(frame, l3.saturating_add(IPV6_SOURCE), address);
}

/// Writes the destination of the IPv6 header at `l3`, which has no checksum of its own.
pub fn set_ipv6_destination(frame: &mut [u8], l3: usize, address: [u8; 16]) {
    put(frame, l3.saturating_add(IPV6_DESTINATION), address);
}

/// Writes a port or ICMP identifier at `at`; its checksum is the caller's to [`adjust`].
pub fn set_port(frame: &mut [u8], at: usize, port: u16) {
    put(frame, at, port.to_be_bytes());
}

/// Updates the checksum at `at` of IPv4, TCP, ICMP or ICMPv6.
pub fn adjust(frame: &mut [u8], at: usize, delta: Delta) {
    if let Some(check) = u16_at(frame, at) {
        put(frame, at, delta.apply(check).to_be_bytes());
    }
}

/// Updates the UDP checksum at `at`, where 0 means there is none.
pub fn adjust_udp(frame: &mut [u8], at: usize, delta: Delta) {
    if let Some(check) = u16_at(frame, at) {
        put(frame, at, delta.apply_udp(check).to_be_bytes());
    }
}

/// Lowers the TTL or hop limit by one, and updates the IPv4 header checksum. 0 stays 0.
pub fn decrement_ttl(frame: &mut [u8], l3: usize, family: Family) {
    let Some(header) = frame.get_mut(l3..) else { return };
    match family {
        Family::V4 => {
            let Some(&[ttl, protocol]) = array(header, IPV4_TTL) else { return };
            let lowered = ttl.saturating_sub(1);
            put(header, IPV4_TTL, [lowered]);
            let words = [[ttl, protocol], [lowered, protocol]].map(u16::from_be_bytes);
            adjust(header, IPV4_CHECKSUM, Delta::word(words[0], words[1]));
        }
        Family::V6 => {
            let Some(&[limit]) = array(header, IPV6_HOP_LIMIT) else { return };
            put(header, IPV6_HOP_LIMIT, [limit.saturating_sub(1)]);
        }
    }
}

/// Lowers the MSS option of a SYN or SYN-ACK to `mss` bytes and updates the TCP checksum; says whether it did.
///
/// It never raises the MSS and never inserts the option (RFC 9293 3.7.1).
pub fn clamp_mss(frame: &mut [u8], packet: &Packet, mss: u16) -> bool {
    let Transport::Tcp { flags, .. } = packet.transport else { return false };
    if flags & TCP_SYN == 0 || matches!(packet.fragment, Fragment::Later { .. }) {
        return false;
    }
    frame.get_mut(packet.l4..packet.end).is_some_and(|segment| clamp_mss_of_syn(segment, mss))
}

/// As [`clamp_mss`], of a TCP segment that is known to have SYN set.
pub fn clamp_mss_of_syn(segment: &mut [u8], mss: u16) -> bool {
    let Some(&[data_offset]) = array(segment, TCP_DATA_OFFSET) else { return false };
    let Some(header) = segment.get_mut(..usize::from(data_offset >> 4) * 4) else { return false };
    let Some(at) = mss_option(header) else { return false };
    let Some(old) = u16_at(header, at).filter(|&old| old > mss) else { return false };
    put(header, at, mss.to_be_bytes());
    // At an odd offset the value lies across two words: its bytes have each other's weight.
    let delta =
        if at % 2 == 0 { Delta::word(old, mss) } else { Delta::word(old.swap_bytes(), mss.swap_bytes()) };
    adjust(header, TCP_CHECKSUM, delta);
    true
}

/// Offset of the MSS value in a TCP header; `None` too if the options before it are malformed.
fn mss_option(header: &[u8]) -> Option<usize> {
    let mut at = TCP_HEADER_LEN;
    loop {
        match *header.get(at..)? {
            [] | [OPTION_END, ..] => return None,
            [OPTION_NOP, ..] => at += 1,
            [OPTION_MSS, OPTION_MSS_LEN, _, _, ..] => return Some(at + 2),
            [_, length, ..] if length >= 2 => at += usize::from(length),
            _ => return None,
        }
    }
}

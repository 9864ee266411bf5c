//! The one-pass parse of an IP packet: everything the packet path asks about it, checked once.

use crate::checksum;
use crate::field::array;
use crate::{Malformed, extension, protocol, transport};

pub use crate::extension::EXTENSION_HEADERS;
pub use crate::transport::Transport;

/// TCP FIN.
pub const TCP_FIN: u8 = 0x01;
/// TCP SYN.
pub const TCP_SYN: u8 = 0x02;
/// TCP RST.
pub const TCP_RST: u8 = 0x04;
/// TCP PSH.
pub const TCP_PSH: u8 = 0x08;
/// TCP ACK.
pub const TCP_ACK: u8 = 0x10;
/// TCP URG.
pub const TCP_URG: u8 = 0x20;
/// TCP ECE (RFC 3168).
pub const TCP_ECE: u8 = 0x40;
/// TCP CWR (RFC 3168).
pub const TCP_CWR: u8 = 0x80;

/// Bytes of an IPv4 header without options.
pub const IPV4_HEADER_LEN: usize = 20;
/// Bytes of the fixed IPv6 header.
pub const IPV6_HEADER_LEN: usize = 40;

const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_LOOSE_SOURCE_ROUTE: u8 = 131;
const OPTION_STRICT_SOURCE_ROUTE: u8 = 137;
const FLAG_DONT_FRAGMENT: u16 = 0x4000;
const FLAG_MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// Internet protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4 (RFC 791).
    V4,
    /// IPv6 (RFC 8200).
    V6,
}

/// Where a packet stands in its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// The whole datagram; an atomic IPv6 fragment too (RFC 6946).
    Whole,
    /// The first fragment, more follow. It holds the whole transport header.
    First {
        /// Offset in the frame of the fragment's data: the transport header in IPv4, what follows the Fragment
        /// header in IPv6.
        data: usize,
    },
    /// Any other.
    Later {
        /// Bytes of the datagram's fragmentable part before this one, a multiple of 8.
        offset: u16,
        /// Whether it is not the last.
        more: bool,
    },
}

/// A sound IP packet in a frame. All offsets count from the start of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Version.
    pub family: Family,
    /// Offset of the IP header.
    pub l3: usize,
    /// Offset of the transport header; of the fragment's data in [`Fragment::Later`].
    pub l4: usize,
    /// End of the IP packet; Ethernet padding may lie behind it.
    pub end: usize,
    /// Source, IPv4 as `::ffff:a.b.c.d`.
    pub source: [u8; 16],
    /// Destination, IPv4 as `::ffff:a.b.c.d`.
    pub destination: [u8; 16],
    /// Protocol, or the last next-header value of an IPv6 chain.
    pub protocol: u8,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Identification of the datagram; 0 in IPv6 without Fragment header.
    pub identification: u32,
    /// IPv4 DF. `true` in IPv6, which routers never fragment.
    pub dont_fragment: bool,
    /// IPv4 options, or IPv6 extension headers other than Fragment.
    pub has_options: bool,
    /// Whole or fragment.
    pub fragment: Fragment,
    /// Transport header.
    pub transport: Transport,
}

/// An IPv4 address as `::ffff:a.b.c.d` (RFC 4291 2.5.5.2).
#[must_use]
pub const fn mapped(address: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = address;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// The IPv4 address in `::ffff:a.b.c.d`, `None` of any other.
#[must_use]
pub const fn unmapped(address: [u8; 16]) -> Option<[u8; 4]> {
    match address {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => Some([a, b, c, d]),
        _ => None,
    }
}

/// Parses and checks the IP packet at `l3` of `frame`, to the end of its transport header.
///
/// Checksums of TCP, UDP and ICMP queries are left to the receiver, as they are only updated on the way.
///
/// # Errors
/// The first thing found wrong.
pub fn parse(frame: &[u8], l3: usize, family: Family) -> Result<Packet, Malformed> {
    match family {
        Family::V4 => parse_v4(frame, l3),
        Family::V6 => parse_v6(frame, l3),
    }
}

fn parse_v4(frame: &[u8], l3: usize) -> Result<Packet, Malformed> {
    let fixed: &[u8; IPV4_HEADER_LEN] = array(frame, l3).ok_or(Malformed::Ip4Truncated)?;
    let &[version_ihl, _, total0, total1, _, _, fragment0, fragment1, _, protocol, ..] = fixed;
    if version_ihl >> 4 != 4 {
        return Err(Malformed::Ip4BadVersion);
    }
    let header_len = usize::from(version_ihl & 0xf) * 4;
    if header_len < IPV4_HEADER_LEN {
        return Err(Malformed::Ip4BadIhl);
    }
    let l4 = l3 + header_len;
    let header = frame.get(l3..l4).ok_or(Malformed::Ip4BadIhl)?;
    let total_len = usize::from(u16::from_be_bytes([total0, total1]));
    let end = l3 + total_len;
    if total_len < header_len || end > frame.len() {
        return Err(Malformed::Ip4BadTotalLength);
    }
    if checksum::ones_complement(header) != 0 {
        return Err(Malformed::Ip4BadChecksum);
    }
    if let Some(options) = header.get(IPV4_HEADER_LEN..)
        && !options.is_empty()
    {
        walk_options(options)?;
    }

    let fragment_field = u16::from_be_bytes([fragment0, fragment1]);
    let fragment = classify_fragment(FragmentFields {
        offset: usize::from(fragment_field & FRAGMENT_OFFSET) * 8,
        more: fragment_field & FLAG_MORE_FRAGMENTS != 0,
        before: header_len,
        data: l4,
        end,
        protocol,
    })?;
    v4_packet(frame, fixed, l3, l4, fragment)
}

/// Parses an IPv4 packet whose header the caller has checked (version, checksum, lengths): it has no options and is
/// no fragment. To the end of its transport header, as [`parse`].
///
/// # Errors
/// What is wrong with its transport header.
pub fn parse_plain(frame: &[u8], l3: usize) -> Result<Packet, Malformed> {
    let header: &[u8; IPV4_HEADER_LEN] = array(frame, l3).ok_or(Malformed::Ip4Truncated)?;
    v4_packet(frame, header, l3, l3 + IPV4_HEADER_LEN, Fragment::Whole)
}

/// What an IPv4 header says.
#[inline(always)]
fn v4_packet(
    frame: &[u8],
    header: &[u8; IPV4_HEADER_LEN],
    l3: usize,
    l4: usize,
    fragment: Fragment,
) -> Result<Packet, Malformed> {
    let &[_, traffic_class, t0, t1, id0, id1, f0, _, ttl, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] =
        header;
    let mut packet = Packet {
        family: Family::V4,
        l3,
        l4,
        end: l3 + usize::from(u16::from_be_bytes([t0, t1])),
        source: mapped([s0, s1, s2, s3]),
        destination: mapped([d0, d1, d2, d3]),
        protocol,
        ttl,
        traffic_class,
        identification: u32::from(u16::from_be_bytes([id0, id1])),
        dont_fragment: u16::from(f0) << 8 & FLAG_DONT_FRAGMENT != 0,
        has_options: l4 - l3 > IPV4_HEADER_LEN,
        fragment,
        transport: Transport::None,
    };
    packet.transport = transport::parse(frame, &packet, true)?;
    Ok(packet)
}

/// Checks lengths of options to the end of the list, and that there is no source route.
fn walk_options(mut options: &[u8]) -> Result<(), Malformed> {
    loop {
        match *options {
            [] | [OPTION_END, ..] => return Ok(()),
            [OPTION_NOP, ref rest @ ..] => options = rest,
            [_] => return Err(Malformed::Ip4BadOptions),
            [kind, length, ..] => {
                let rest = options.get(usize::from(length)..);
                options = rest.filter(|_| length >= 2).ok_or(Malformed::Ip4BadOptions)?;
                // RFC 5508 7.3, RFC 7126 4.3.5: source routes are not forwarded.
                if matches!(kind, OPTION_LOOSE_SOURCE_ROUTE | OPTION_STRICT_SOURCE_ROUTE) {
                    return Err(Malformed::IpOptionsSourceRoute);
                }
            }
        }
    }
}

fn parse_v6(frame: &[u8], l3: usize) -> Result<Packet, Malformed> {
    let header: &[u8; IPV6_HEADER_LEN] = array(frame, l3).ok_or(Malformed::Ip6Truncated)?;
    let &[version_class, class_flow, _, _, length0, length1, next, ttl, ..] = header;
    if version_class >> 4 != 6 {
        return Err(Malformed::Ip6BadVersion);
    }
    let payload_len = usize::from(u16::from_be_bytes([length0, length1]));
    let payload = l3 + IPV6_HEADER_LEN;
    let end = payload + payload_len;
    // Length 0 is a jumbogram (RFC 2675), or there is no transport at all.
    if payload_len == 0 || end > frame.len() {
        return Err(Malformed::Ip6BadPayloadLength);
    }
    let chain = extension::walk(frame, payload, end, next)?;
    let fragment = match chain.fragment {
        Some(field) if field.offset != 0 || field.more => classify_fragment(FragmentFields {
            offset: field.offset,
            more: field.more,
            before: field.data - payload,
            data: field.data,
            end,
            protocol: chain.protocol,
        })?,
        _ => Fragment::Whole,
    };
    let source = array(header, 8).ok_or(Malformed::Ip6Truncated)?;
    let destination = array(header, 24).ok_or(Malformed::Ip6Truncated)?;
    let mut packet = Packet {
        family: Family::V6,
        l3,
        l4: chain.l4,
        end,
        source: *source,
        destination: *destination,
        protocol: chain.protocol,
        ttl,
        traffic_class: version_class << 4 | class_flow >> 4,
        identification: chain.fragment.map_or(0, |field| field.identification),
        dont_fragment: true,
        has_options: chain.has_options,
        fragment,
        transport: Transport::None,
    };
    packet.transport = transport::parse(frame, &packet, !chain.segments_left)?;
    Ok(packet)
}

struct FragmentFields {
    /// Bytes.
    offset: usize,
    more: bool,
    /// Bytes that the 16-bit length of the reassembled datagram counts before the fragmentable part.
    before: usize,
    data: usize,
    end: usize,
    protocol: u8,
}

fn classify_fragment(field: FragmentFields) -> Result<Fragment, Malformed> {
    let FragmentFields { offset, more, before, data, end, protocol } = field;
    if offset == 0 && !more {
        return Ok(Fragment::Whole);
    }
    let length = end.saturating_sub(data);
    // RFC 3128: it would overwrite the flags of a first fragment that a filter let pass.
    if offset == 8 && protocol == protocol::TCP {
        return Err(Malformed::FragOffsetOne);
    }
    if before + offset + length > usize::from(u16::MAX) {
        return Err(Malformed::FragOverrun);
    }
    if length == 0 || (more && length % 8 != 0) {
        return Err(Malformed::FragBadLength);
    }
    // At most 8191 * 8, so it fits.
    Ok(if offset == 0 { Fragment::First { data } } else { Fragment::Later { offset: offset as u16, more } })
}

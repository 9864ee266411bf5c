//! The packet quoted in an ICMP error (RFC 792, RFC 4443, RFC 1812 4.3.2.3, RFC 5508 4).

use crate::extension::{EXTENSION_HEADERS, Extension, is_extension};
use crate::field::array;
use crate::packet::{Family, IPV4_HEADER_LEN, IPV6_HEADER_LEN, mapped};
use crate::{Malformed, checksum, icmp, protocol, transport};

const CHECKSUM_LEN: usize = 2;
const IPV4_CHECKSUM: usize = 10;
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;
const ICMP_CHECKSUM: usize = 2;

/// The start of a packet that came back in an ICMP error. All offsets count from the start of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// Version.
    pub family: Family,
    /// Offset of the embedded IP header.
    pub l3: usize,
    /// Offset of the embedded transport header.
    pub l4: usize,
    /// End of what is quoted of the packet: the length it states or the end of the message.
    pub end: usize,
    /// Source, IPv4 as `::ffff:a.b.c.d`.
    pub source: [u8; 16],
    /// Destination, IPv4 as `::ffff:a.b.c.d`.
    pub destination: [u8; 16],
    /// Protocol, or the last next-header value of an IPv6 chain.
    pub protocol: u8,
    /// What tells the flow.
    pub kind: InnerTransport,
    /// Offset of the embedded IPv4 header checksum.
    pub ip_checksum_at: Option<usize>,
}

/// What an embedded transport header says. Its checksum is never validated (RFC 5508 REQ-3c).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InnerTransport {
    /// TCP or UDP.
    Ports {
        /// Source port.
        source_port: u16,
        /// Destination port.
        destination_port: u16,
        /// Offset of the checksum, `None` if it is not quoted (TCP's in an 8-byte quote).
        checksum_at: Option<usize>,
        /// UDP, so a checksum of 0 stays 0.
        udp: bool,
    },
    /// Echo, and Timestamp in IPv4.
    Query {
        /// Identifier.
        identifier: u16,
        /// Type.
        kind: u8,
        /// Offset of the ICMP checksum.
        checksum_at: usize,
    },
    /// An ICMP error, which nobody may answer with one (RFC 1122 3.2.2).
    IcmpError,
    /// Anything else.
    Other,
}

/// Parses the packet embedded at `at`, of which `end` ends the ICMP message.
///
/// # Errors
/// [`Malformed::IcmpInnerTruncated`] if it does not reach far enough to tell its flow, which also means a
/// later fragment or another version; [`Malformed::IcmpInnerBadChecksum`] (RFC 5508 REQ-3a).
pub fn parse(frame: &[u8], at: usize, end: usize, family: Family) -> Result<Inner, Malformed> {
    let message = frame.get(..end).ok_or(Malformed::IcmpInnerTruncated)?;
    match family {
        Family::V4 => parse_v4(message, at),
        Family::V6 => parse_v6(message, at).ok_or(Malformed::IcmpInnerTruncated),
    }
}

fn parse_v4(message: &[u8], l3: usize) -> Result<Inner, Malformed> {
    let fixed: &[u8; IPV4_HEADER_LEN] = array(message, l3).ok_or(Malformed::IcmpInnerTruncated)?;
    let &[version_ihl, _, t0, t1, _, _, f0, f1, _, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = fixed;
    // RFC 5508 REQ-3b: the ports stand behind the options.
    let l4 = l3 + usize::from(version_ihl & 0xf) * 4;
    let header = message.get(l3..l4).ok_or(Malformed::IcmpInnerTruncated)?;
    let later_fragment = u16::from_be_bytes([f0, f1]) & 0x1fff != 0;
    if version_ihl >> 4 != 4 || header.len() < IPV4_HEADER_LEN || later_fragment {
        return Err(Malformed::IcmpInnerTruncated);
    }
    if checksum::ones_complement(header) != 0 {
        return Err(Malformed::IcmpInnerBadChecksum);
    }
    // RFC 5508 REQ-3d: what lies past the packet's own length is padding or extensions (RFC 4884).
    let stated = l3 + usize::from(u16::from_be_bytes([t0, t1]));
    let end = stated.min(message.len());
    let kind =
        quoted_transport(message, l4, end, Family::V4, protocol).ok_or(Malformed::IcmpInnerTruncated)?;
    Ok(Inner {
        family: Family::V4,
        l3,
        l4,
        end,
        source: mapped([s0, s1, s2, s3]),
        destination: mapped([d0, d1, d2, d3]),
        protocol,
        kind,
        ip_checksum_at: Some(l3 + IPV4_CHECKSUM),
    })
}

fn parse_v6(message: &[u8], l3: usize) -> Option<Inner> {
    let header: &[u8; IPV6_HEADER_LEN] = array(message, l3)?;
    let &[version_class, _, _, _, p0, p1, next, ..] = header;
    if version_class >> 4 != 6 {
        return None;
    }
    let mut l4 = l3 + IPV6_HEADER_LEN;
    let stated = l4 + usize::from(u16::from_be_bytes([p0, p1]));
    let end = stated.min(message.len());
    let quoted = message.get(..end)?;
    let mut protocol = next;
    for _ in 0..EXTENSION_HEADERS {
        if !is_extension(protocol) {
            break;
        }
        let extension = Extension::read(quoted, l4, protocol)?;
        if extension.fragment.is_some_and(|fragment| fragment.offset != 0) {
            return None;
        }
        protocol = extension.next;
        l4 = extension.after;
    }
    Some(Inner {
        family: Family::V6,
        l3,
        l4,
        end,
        source: *array(header, 8)?,
        destination: *array(header, 24)?,
        protocol,
        kind: quoted_transport(message, l4, end, Family::V6, protocol)?,
        ip_checksum_at: None,
    })
}

/// The transport header at `l4` of a quote that ends at `end`; `None` if it is too short to tell the flow.
fn quoted_transport(
    message: &[u8],
    l4: usize,
    end: usize,
    family: Family,
    protocol: u8,
) -> Option<InnerTransport> {
    let quoted = message.get(l4..end);
    let udp = protocol == protocol::UDP;
    match (family, protocol) {
        (_, protocol::TCP | protocol::UDP) => {
            let quoted = quoted?;
            let &[s0, s1, d0, d1, _, _, _, _] = quoted.first_chunk()?;
            let checksum = if udp { UDP_CHECKSUM } else { TCP_CHECKSUM };
            Some(InnerTransport::Ports {
                source_port: u16::from_be_bytes([s0, s1]),
                destination_port: u16::from_be_bytes([d0, d1]),
                checksum_at: (checksum + CHECKSUM_LEN <= quoted.len()).then_some(l4 + checksum),
                udp,
            })
        }
        (Family::V4, protocol::ICMP) | (Family::V6, protocol::ICMPV6) => {
            let &[kind, _, _, _, i0, i1, _, _] = quoted?.first_chunk()?;
            Some(if transport::query(family, kind).is_some() {
                let identifier = u16::from_be_bytes([i0, i1]);
                InnerTransport::Query { identifier, kind, checksum_at: l4 + ICMP_CHECKSUM }
            } else if reports_error(family, kind) {
                InnerTransport::IcmpError
            } else {
                InnerTransport::Other
            })
        }
        _ => Some(InnerTransport::Other),
    }
}

/// Whether a message of this type embeds a packet, also one that is not forwarded.
const fn reports_error(family: Family, kind: u8) -> bool {
    match family {
        Family::V4 => matches!(
            kind,
            icmp::UNREACHABLE
                | icmp::SOURCE_QUENCH
                | icmp::REDIRECT
                | icmp::TIME_EXCEEDED
                | icmp::PARAMETER_PROBLEM
        ),
        // RFC 4443 2.1: errors are the types under 128.
        Family::V6 => kind < icmp::V6_ECHO_REQUEST,
    }
}

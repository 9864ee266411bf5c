//! Transport headers of a packet.

use crate::packet::{Family, Fragment, Packet, TCP_ACK, TCP_FIN, TCP_PSH, TCP_RST, TCP_SYN, TCP_URG};
use crate::{Malformed, checksum, protocol};

/// ICMP and ICMPv6 message types by name.
pub mod icmp {
    /// Echo Reply (RFC 792).
    pub const ECHO_REPLY: u8 = 0;
    /// Destination Unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Source Quench, deprecated (RFC 6633).
    pub const SOURCE_QUENCH: u8 = 4;
    /// Redirect.
    pub const REDIRECT: u8 = 5;
    /// Echo.
    pub const ECHO: u8 = 8;
    /// Time Exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Parameter Problem.
    pub const PARAMETER_PROBLEM: u8 = 12;
    /// Timestamp.
    pub const TIMESTAMP: u8 = 13;
    /// Timestamp Reply.
    pub const TIMESTAMP_REPLY: u8 = 14;
    /// ICMPv6 Destination Unreachable (RFC 4443 3.1).
    pub const V6_UNREACHABLE: u8 = 1;
    /// ICMPv6 Packet Too Big.
    pub const V6_PACKET_TOO_BIG: u8 = 2;
    /// ICMPv6 Time Exceeded.
    pub const V6_TIME_EXCEEDED: u8 = 3;
    /// ICMPv6 Parameter Problem.
    pub const V6_PARAMETER_PROBLEM: u8 = 4;
    /// ICMPv6 Echo Request.
    pub const V6_ECHO_REQUEST: u8 = 128;
    /// ICMPv6 Echo Reply.
    pub const V6_ECHO_REPLY: u8 = 129;
    /// Bytes before the data of a query, or the embedded packet of an error.
    pub const HEADER_LEN: usize = 8;
}

/// Bytes of a TCP header without options.
pub const TCP_HEADER_LEN: usize = 20;
/// Bytes of a UDP header.
pub const UDP_HEADER_LEN: usize = 8;

/// The transport header of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp {
        /// Source port.
        source_port: u16,
        /// Destination port.
        destination_port: u16,
        /// Flags, see [`TCP_SYN`] and its like.
        flags: u8,
    },
    /// UDP.
    Udp {
        /// Source port.
        source_port: u16,
        /// Destination port.
        destination_port: u16,
        /// The sender computed none.
        checksum_zero: bool,
    },
    /// Echo, and Timestamp in IPv4.
    IcmpQuery {
        /// Identifier.
        identifier: u16,
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// Whether it answers one.
        reply: bool,
    },
    /// Unreachable, Time Exceeded, Parameter Problem; Packet Too Big in IPv6.
    IcmpError {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// Offset in the frame of the embedded packet.
        inner: usize,
    },
    /// Any other ICMP or ICMPv6 message.
    IcmpOther {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
    /// Another protocol.
    Other,
    /// A later fragment: its transport header is elsewhere.
    None,
}

/// Parses the header at `packet.l4`. `covered`: the packet's destination is the one that checksums cover.
pub(crate) fn parse(frame: &[u8], packet: &Packet, covered: bool) -> Result<Transport, Malformed> {
    if matches!(packet.fragment, Fragment::Later { .. }) {
        return Ok(Transport::None);
    }
    let whole = packet.fragment == Fragment::Whole;
    let message = frame.get(packet.l4..packet.end).unwrap_or_default();
    match (packet.family, packet.protocol) {
        (_, protocol::TCP) => tcp(message, whole),
        (_, protocol::UDP) => udp(message, whole),
        (Family::V4, protocol::ICMP) | (Family::V6, protocol::ICMPV6) => {
            icmp_message(message, packet, whole, covered)
        }
        _ => Ok(Transport::Other),
    }
}

/// A cut header is an attack in a first fragment (RFC 1858), damage elsewhere.
fn cut(whole: bool, otherwise: Malformed) -> Malformed {
    if whole { otherwise } else { Malformed::FragTiny }
}

fn tcp(message: &[u8], whole: bool) -> Result<Transport, Malformed> {
    let header: &[u8; TCP_HEADER_LEN] =
        message.first_chunk().ok_or_else(|| cut(whole, Malformed::TcpTruncated))?;
    let &[s0, s1, d0, d1, _, _, _, _, _, _, _, _, data_offset, flags, ..] = header;
    let header_len = usize::from(data_offset >> 4) * 4;
    if header_len < TCP_HEADER_LEN {
        return Err(Malformed::TcpBadOffset);
    }
    if header_len > message.len() {
        return Err(cut(whole, Malformed::TcpBadOffset));
    }
    if flags_unsound(flags) {
        return Err(Malformed::TcpBadFlags);
    }
    Ok(Transport::Tcp {
        source_port: u16::from_be_bytes([s0, s1]),
        destination_port: u16::from_be_bytes([d0, d1]),
        flags,
    })
}

const fn flags_unsound(flags: u8) -> bool {
    let none = flags & (TCP_FIN | TCP_SYN | TCP_RST | TCP_PSH | TCP_ACK | TCP_URG) == 0;
    let syn_and_end = flags & TCP_SYN != 0 && flags & (TCP_FIN | TCP_RST) != 0;
    let fin_alone = flags & (TCP_FIN | TCP_ACK) == TCP_FIN;
    none || syn_and_end || fin_alone
}

fn udp(message: &[u8], whole: bool) -> Result<Transport, Malformed> {
    let &[s0, s1, d0, d1, l0, l1, c0, c1] =
        message.first_chunk().ok_or_else(|| cut(whole, Malformed::UdpTruncated))?;
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    if length < UDP_HEADER_LEN || (whole && length > message.len()) {
        return Err(Malformed::UdpBadLength);
    }
    Ok(Transport::Udp {
        source_port: u16::from_be_bytes([s0, s1]),
        destination_port: u16::from_be_bytes([d0, d1]),
        checksum_zero: [c0, c1] == [0, 0],
    })
}

fn icmp_message(message: &[u8], packet: &Packet, whole: bool, covered: bool) -> Result<Transport, Malformed> {
    let &[kind, code, _, _, i0, i1, _, _] =
        message.first_chunk().ok_or_else(|| cut(whole, Malformed::IcmpTruncated))?;
    if let Some(reply) = query(packet.family, kind) {
        let identifier = u16::from_be_bytes([i0, i1]);
        return Ok(Transport::IcmpQuery { identifier, kind, code, reply });
    }
    if !is_error(packet.family, kind) {
        return Ok(Transport::IcmpOther { kind, code });
    }
    // RFC 5508 REQ-3. Of a fragment it cannot be known.
    if whole
        && covered
        && checksum::transport(&packet.source, &packet.destination, packet.protocol, message) != 0
    {
        return Err(Malformed::IcmpBadChecksum);
    }
    Ok(Transport::IcmpError { kind, code, inner: packet.l4 + icmp::HEADER_LEN })
}

/// Whether `kind` is a query with an identifier, and if so whether it is the reply.
pub(crate) const fn query(family: Family, kind: u8) -> Option<bool> {
    match (family, kind) {
        (Family::V4, icmp::ECHO | icmp::TIMESTAMP) | (Family::V6, icmp::V6_ECHO_REQUEST) => Some(false),
        (Family::V4, icmp::ECHO_REPLY | icmp::TIMESTAMP_REPLY) | (Family::V6, icmp::V6_ECHO_REPLY) => {
            Some(true)
        }
        _ => None,
    }
}

/// Whether `kind` is an error that is translated and forwarded. Source Quench (RFC 6633) and Redirect are not.
const fn is_error(family: Family, kind: u8) -> bool {
    match family {
        Family::V4 => matches!(kind, icmp::UNREACHABLE | icmp::TIME_EXCEEDED | icmp::PARAMETER_PROBLEM),
        Family::V6 => matches!(
            kind,
            icmp::V6_UNREACHABLE
                | icmp::V6_PACKET_TOO_BIG
                | icmp::V6_TIME_EXCEEDED
                | icmp::V6_PARAMETER_PROBLEM
        ),
    }
}

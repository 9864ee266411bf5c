//! The IPv6 extension header chain (RFC 8200 4).

use crate::Malformed;
use crate::field::array;
use crate::protocol::{DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, ROUTING};

/// Extension headers walked before a packet is refused.
pub const EXTENSION_HEADERS: usize = 8;

/// What the chain of a packet says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    /// Last next-header value.
    pub(crate) protocol: u8,
    /// Offset of the upper-layer header; of the fragment's data in a later fragment.
    pub(crate) l4: usize,
    pub(crate) fragment: Option<FragmentHeader>,
    /// Headers other than Fragment.
    pub(crate) has_options: bool,
    /// A routing header with segments left: the destination is not the final one that checksums cover.
    pub(crate) segments_left: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct FragmentHeader {
    /// Bytes.
    pub(crate) offset: usize,
    pub(crate) more: bool,
    pub(crate) identification: u32,
    /// Offset of what follows it.
    pub(crate) data: usize,
}

/// One header of the chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extension {
    /// Next-header value.
    pub(crate) next: u8,
    /// Offset of what follows it.
    pub(crate) after: usize,
    /// If it is a Fragment header.
    pub(crate) fragment: Option<FragmentHeader>,
    /// Type and segments left, if it is a Routing header.
    routing: Option<(u8, u8)>,
}

/// Whether the walk goes past this next-header value. AH, ESP, Mobility and the rest count as upper layer.
pub(crate) const fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS)
}

impl Extension {
    /// Reads the header of type `protocol` at `at`; `None` if `packet` does not hold all of it.
    pub(crate) fn read(packet: &[u8], at: usize, protocol: u8) -> Option<Self> {
        let &[next, length, third, fourth, i0, i1, i2, i3] = array(packet, at)?;
        let length = if protocol == FRAGMENT { 8 } else { (usize::from(length) + 1) * 8 };
        let after = at + length;
        if after > packet.len() {
            return None;
        }
        let field = u16::from_be_bytes([third, fourth]);
        let fragment = FragmentHeader {
            offset: usize::from(field & 0xfff8),
            more: field & 1 != 0,
            identification: u32::from_be_bytes([i0, i1, i2, i3]),
            data: after,
        };
        Some(Self {
            next,
            after,
            fragment: (protocol == FRAGMENT).then_some(fragment),
            routing: (protocol == ROUTING).then_some((third, fourth)),
        })
    }
}

/// Walks the chain from `at` to the upper-layer header, no further than `end`.
///
/// RFC 8200 4.1 asks receivers to take headers in any order and number, Hop-by-Hop only first. Routing and
/// Fragment are taken once: a second one has no meaning.
pub(crate) fn walk(frame: &[u8], at: usize, end: usize, next: u8) -> Result<Chain, Malformed> {
    let packet = frame.get(..end).ok_or(Malformed::Ip6ExtTruncated)?;
    let mut chain =
        Chain { protocol: next, l4: at, fragment: None, has_options: false, segments_left: false };
    let mut walked = 0;
    let mut routing = false;
    while is_extension(chain.protocol) {
        if walked == EXTENSION_HEADERS {
            return Err(Malformed::Ip6ExtLimit);
        }
        let misplaced = match chain.protocol {
            HOP_BY_HOP => walked > 0,
            ROUTING => routing,
            FRAGMENT => chain.fragment.is_some(),
            _ => false,
        };
        if misplaced {
            return Err(Malformed::Ip6ExtOrder);
        }
        let extension =
            Extension::read(packet, chain.l4, chain.protocol).ok_or(Malformed::Ip6ExtTruncated)?;
        if let Some((kind, segments_left)) = extension.routing {
            // RFC 5095 3: type 0 is an attack unless its segments are used up.
            if kind == 0 && segments_left != 0 {
                return Err(Malformed::Ip6RoutingHeader0);
            }
            routing = true;
            chain.segments_left = segments_left != 0;
        }
        if extension.fragment.is_some() {
            chain.fragment = extension.fragment;
        } else {
            chain.has_options = true;
        }
        chain.protocol = extension.next;
        chain.l4 = extension.after;
        walked += 1;
        if chain.fragment.is_some_and(|fragment| fragment.offset != 0) {
            break;
        }
    }
    Ok(chain)
}

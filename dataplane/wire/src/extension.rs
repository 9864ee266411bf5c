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

/// Walks the chain from `at` to the upper-layer header, no further than `end`.
///
/// RFC 8200 4.1 asks receivers to take headers in any order, Hop-by-Hop only first; each may stand once,
/// Destination Options twice. AH, ESP, Mobility and the rest count as upper layer.
pub(crate) fn walk(frame: &[u8], at: usize, end: usize, next: u8) -> Result<Chain, Malformed> {
    let packet = frame.get(..end).ok_or(Malformed::Ip6ExtTruncated)?;
    let mut chain =
        Chain { protocol: next, l4: at, fragment: None, has_options: false, segments_left: false };
    let mut walked = 0;
    let mut routing = false;
    let mut destination_options = 0;
    while matches!(chain.protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS) {
        if walked == EXTENSION_HEADERS {
            return Err(Malformed::Ip6ExtLimit);
        }
        let &[next, length, third, fourth, i0, i1, i2, i3] =
            array(packet, chain.l4).ok_or(Malformed::Ip6ExtTruncated)?;
        let after = chain.l4 + if chain.protocol == FRAGMENT { 8 } else { (usize::from(length) + 1) * 8 };
        if after > end {
            return Err(Malformed::Ip6ExtTruncated);
        }
        match chain.protocol {
            HOP_BY_HOP if walked > 0 => return Err(Malformed::Ip6ExtOrder),
            ROUTING if routing => return Err(Malformed::Ip6ExtOrder),
            FRAGMENT if chain.fragment.is_some() => return Err(Malformed::Ip6ExtOrder),
            DESTINATION_OPTIONS if destination_options == 2 => return Err(Malformed::Ip6ExtOrder),
            ROUTING => {
                // RFC 5095 3: type 0 is an attack unless its segments are used up.
                if third == 0 && fourth != 0 {
                    return Err(Malformed::Ip6RoutingHeader0);
                }
                routing = true;
                chain.segments_left = fourth != 0;
            }
            FRAGMENT => {
                let field = u16::from_be_bytes([third, fourth]);
                chain.fragment = Some(FragmentHeader {
                    offset: usize::from(field & 0xfff8),
                    more: field & 1 != 0,
                    identification: u32::from_be_bytes([i0, i1, i2, i3]),
                    data: after,
                });
            }
            DESTINATION_OPTIONS => destination_options += 1,
            _ => {}
        }
        chain.has_options |= chain.protocol != FRAGMENT;
        chain.protocol = next;
        chain.l4 = after;
        walked += 1;
        if chain.fragment.is_some_and(|field| field.offset != 0) {
            break;
        }
    }
    Ok(chain)
}

/// One header of an embedded packet's chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// What follows it.
    pub(crate) next: u8,
    /// Where.
    pub(crate) after: usize,
    /// It is the Fragment header of a later fragment: no transport header follows.
    pub(crate) later_fragment: bool,
}

/// The extension header `kind` at `at`: `None` if `kind` is not one, `Some(None)` if it is cut short.
pub(crate) fn step(kind: u8, packet: &[u8], at: usize) -> Option<Option<Step>> {
    if !matches!(kind, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS) {
        return None;
    }
    let read = || {
        let &[next, length, third, fourth] = array(packet, at)?;
        let fragment = kind == FRAGMENT;
        let after = at + if fragment { 8 } else { (usize::from(length) + 1) * 8 };
        let offset = u16::from_be_bytes([third, fourth]) & 0xfff8;
        (after <= packet.len()).then_some(Step { next, after, later_fragment: fragment && offset != 0 })
    };
    Some(read())
}

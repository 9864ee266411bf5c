//! Cutting an IPv4 packet into fragments (RFC 791 3.2).

use crate::checksum;
use crate::field::{put, u16_at};
use crate::packet::IPV4_HEADER_LEN;

const FLAG_MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;
/// Set in the type of an option that every fragment carries.
const OPTION_COPIED: u8 = 0x80;
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const HEADER_MAX: usize = 60;

/// How a packet is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentPlan {
    header: usize,
    payload: usize,
    /// Payload bytes of every fragment but the last, a multiple of 8.
    step: usize,
}

/// Plans the fragments of a packet of `header` and `payload` bytes for a link of `mtu` bytes. `None` if not
/// even eight bytes of payload fit.
#[must_use]
pub fn plan(header: usize, payload: usize, mtu: usize) -> Option<FragmentPlan> {
    let step = mtu.checked_sub(header)? & !7;
    (step > 0).then_some(FragmentPlan { header, payload, step })
}

impl FragmentPlan {
    /// How many fragments.
    #[must_use]
    pub const fn count(&self) -> usize {
        if self.payload == 0 { 1 } else { self.payload.div_ceil(self.step) }
    }

    /// Writes fragment `index` of `packet` (from its IP header on) into `out`; returns its length in bytes, 0 if
    /// it does not fit or does not exist. Offsets count on from `packet`'s own, if that is a fragment itself.
    #[must_use]
    pub fn write(&self, index: usize, packet: &[u8], out: &mut [u8]) -> usize {
        self.try_write(index, packet, out).unwrap_or(0)
    }

    fn try_write(&self, index: usize, packet: &[u8], out: &mut [u8]) -> Option<usize> {
        if index >= self.count() {
            return None;
        }
        let start = index * self.step;
        let end = (start + self.step).min(self.payload);
        let header = packet.get(..self.header)?;
        let piece = packet.get(self.header + start..self.header + end)?;
        let mut fresh = [0; HEADER_MAX];
        let length = if index == 0 {
            fresh.get_mut(..self.header)?.copy_from_slice(header);
            self.header
        } else {
            later_header(header, &mut fresh)?
        };
        let fresh = fresh.get_mut(..length)?;
        let field = u16_at(header, 6)?;
        let last = end == self.payload;
        let more = if last { field & FLAG_MORE_FRAGMENTS } else { FLAG_MORE_FRAGMENTS };
        let offset = (field & FRAGMENT_OFFSET) + (start / 8) as u16;
        put(fresh, 0, [0x40 | (length / 4) as u8]);
        put(fresh, 2, ((length + piece.len()) as u16).to_be_bytes());
        put(fresh, 6, (more | offset).to_be_bytes());
        put(fresh, 10, [0, 0]);
        let check = checksum::ones_complement(fresh);
        put(fresh, 10, check.to_be_bytes());
        let total = length + piece.len();
        let (to_header, to_piece) = out.get_mut(..total)?.split_at_mut(length);
        to_header.copy_from_slice(fresh);
        to_piece.copy_from_slice(piece);
        Some(total)
    }
}

/// The header of a later fragment: of the options only those marked as copied. Returns its length.
fn later_header(header: &[u8], fresh: &mut [u8; HEADER_MAX]) -> Option<usize> {
    let (fixed, mut options) = header.split_at_checked(IPV4_HEADER_LEN)?;
    fresh.get_mut(..IPV4_HEADER_LEN)?.copy_from_slice(fixed);
    let mut length = IPV4_HEADER_LEN;
    loop {
        match *options {
            [] | [OPTION_END, ..] => break,
            [OPTION_NOP, ref rest @ ..] => options = rest,
            [kind, size, ..] if size >= 2 => {
                let (option, rest) = options.split_at_checked(usize::from(size))?;
                if kind & OPTION_COPIED != 0 {
                    fresh.get_mut(length..length + option.len())?.copy_from_slice(option);
                    length += option.len();
                }
                options = rest;
            }
            _ => return None,
        }
    }
    Some(length.next_multiple_of(4))
}

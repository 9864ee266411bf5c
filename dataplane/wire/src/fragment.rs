//! Splitting an IPv4 packet with DF=0 for a link of smaller MTU (RFC 791 3.2).

use crate::checksum::ones_complement;
use crate::field::{array, put, u16_at};
use crate::packet::IPV4_HEADER_LEN;

const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;
const MAX_HEADER_LEN: usize = 60;
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_COPIED: u8 = 0x80;

/// How a packet is to be split. All lengths in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentPlan {
    header_len: usize,
    payload_len: usize,
    /// Payload of each piece but the last, a multiple of 8.
    piece_len: usize,
}

/// Plans the pieces of a packet of `header_len` and `payload_len` for `mtu`; one piece if it fits as it is.
///
/// `None` if the MTU has no room for 8 bytes behind the header, or the lengths are no IPv4 packet's.
#[must_use]
pub fn plan(header_len: usize, payload_len: usize, mtu: usize) -> Option<FragmentPlan> {
    let sound_header =
        (IPV4_HEADER_LEN..=MAX_HEADER_LEN).contains(&header_len) && header_len.is_multiple_of(4);
    let total = header_len.checked_add(payload_len)?;
    if !sound_header || total > usize::from(u16::MAX) {
        return None;
    }
    let room = mtu.checked_sub(header_len)?;
    let piece_len = if payload_len <= room { payload_len } else { room & !7 };
    if piece_len == 0 && payload_len > 0 {
        return None;
    }
    Some(FragmentPlan { header_len, payload_len, piece_len })
}

impl FragmentPlan {
    /// Number of pieces, at least 1.
    #[must_use]
    pub const fn count(&self) -> usize {
        match self.piece_len {
            0 => 1,
            length => self.payload_len.div_ceil(length),
        }
    }

    /// Writes piece `index` of the packet at `l3` of `frame` to the start of `out`, from its IP header on, and
    /// returns its length. What a piece of a fragment says of its place is that of the whole datagram.
    ///
    /// Returns 0 if there is no such piece, `out` is too short, or the packet is not the one planned for.
    #[must_use]
    pub fn write(&self, index: usize, frame: &[u8], l3: usize, out: &mut [u8]) -> usize {
        self.piece(index, frame, l3, out).unwrap_or(0)
    }

    fn piece(&self, index: usize, frame: &[u8], l3: usize, out: &mut [u8]) -> Option<usize> {
        if index >= self.count() {
            return None;
        }
        let packet = frame.get(l3..)?.get(..self.header_len + self.payload_len)?;
        let (source_header, payload) = packet.split_at_checked(self.header_len)?;
        let begin = index * self.piece_len;
        let end = self.payload_len.min(begin + self.piece_len);
        let piece = payload.get(begin..end)?;

        let mut options = [OPTION_END; MAX_HEADER_LEN - IPV4_HEADER_LEN];
        let source_options = source_header.get(IPV4_HEADER_LEN..)?;
        let options = if index == 0 {
            source_options
        } else {
            let length = copy_options(source_options, &mut options);
            options.get(..length)?
        };
        let header_len = IPV4_HEADER_LEN + options.len();
        let length = header_len + piece.len();

        let (header, data) = out.get_mut(..length)?.split_at_mut_checked(header_len)?;
        let fixed: [u8; IPV4_HEADER_LEN] = *array(source_header, 0)?;
        put(header, 0, fixed);
        header.get_mut(IPV4_HEADER_LEN..)?.copy_from_slice(options);
        data.copy_from_slice(piece);

        let field = u16_at(source_header, 6)?;
        let offset = usize::from(field & OFFSET) + begin / 8;
        let more = if end < self.payload_len { MORE_FRAGMENTS } else { field & MORE_FRAGMENTS };
        let offset = u16::try_from(offset).ok().filter(|offset| *offset <= OFFSET)?;
        // At most 15 words.
        put(header, 0, [0x40 | (header_len / 4) as u8]);
        put(header, 2, u16::try_from(length).ok()?.to_be_bytes());
        put(header, 6, (field & !(OFFSET | MORE_FRAGMENTS) | more | offset).to_be_bytes());
        put(header, 10, [0, 0]);
        let check = ones_complement(header);
        put(header, 10, check.to_be_bytes());
        Some(length)
    }
}

/// Copies the options that every fragment carries (RFC 791 3.1, copied flag); returns their length padded to
/// a multiple of 4. `to` is zeros.
fn copy_options(mut from: &[u8], to: &mut [u8]) -> usize {
    let mut length = 0;
    loop {
        let option_len = match *from {
            [] | [OPTION_END, ..] => break,
            [OPTION_NOP, ..] => 1,
            [_, option_len, ..] if option_len >= 2 => usize::from(option_len),
            _ => break,
        };
        let Some((option, rest)) = from.split_at_checked(option_len) else { break };
        if option.first().is_some_and(|kind| kind & OPTION_COPIED != 0)
            && let Some(place) = to.get_mut(length..length + option_len)
        {
            place.copy_from_slice(option);
            length += option_len;
        }
        from = rest;
    }
    length.next_multiple_of(4)
}

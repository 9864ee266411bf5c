//! Small changes to a parsed packet in place, checksums by difference (RFC 1624).

use crate::checksum::Delta;
use crate::field::{array, put, u16_at};
use crate::packet::{Family, Packet, TCP_SYN, Transport};

const IPV4_TTL: usize = 8;
const IPV4_CHECKSUM: usize = 10;
const IPV6_HOP_LIMIT: usize = 7;
const TCP_CHECKSUM: usize = 16;
const TCP_OPTIONS: usize = 20;
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_MSS: u8 = 2;

/// Takes one off the TTL or hop limit of the packet at `l3` (RFC 1812 5.3.1). 0 stays 0.
pub fn decrement_ttl(frame: &mut [u8], l3: usize, family: Family) {
    let at = l3 + if family == Family::V4 { IPV4_TTL } else { IPV6_HOP_LIMIT };
    let Some(&[ttl, next]) = array(frame, at) else { return };
    let Some(less) = ttl.checked_sub(1) else { return };
    put(frame, at, [less]);
    if family == Family::V4 {
        let delta = Delta::word(u16::from_be_bytes([ttl, next]), u16::from_be_bytes([less, next]));
        if let Some(check) = u16_at(frame, l3 + IPV4_CHECKSUM) {
            put(frame, l3 + IPV4_CHECKSUM, delta.apply(check).to_be_bytes());
        }
    }
}

/// Lowers the MSS option of a SYN to `mss` bytes (RFC 9293 3.7.1). Never raises it, never adds one.
/// `true` if it changed anything.
pub fn clamp_mss(frame: &mut [u8], packet: &Packet, mss: u16) -> bool {
    let Transport::Tcp { flags, .. } = packet.transport else { return false };
    if flags & TCP_SYN == 0 {
        return false;
    }
    let Some(at) = mss_at(frame, packet) else { return false };
    let Some(old) = u16_at(frame, at).filter(|old| *old > mss) else { return false };
    put(frame, at, mss.to_be_bytes());
    // At an odd offset the value's bytes lie in two words of the sum, which swaps them (RFC 1071 2 B).
    let odd = (at - packet.l4) % 2 == 1;
    let delta = if odd { Delta::word(old.swap_bytes(), mss.swap_bytes()) } else { Delta::word(old, mss) };
    if let Some(check) = u16_at(frame, packet.l4 + TCP_CHECKSUM) {
        put(frame, packet.l4 + TCP_CHECKSUM, delta.apply(check).to_be_bytes());
    }
    true
}

/// Offset in the frame of the MSS option's value.
fn mss_at(frame: &[u8], packet: &Packet) -> Option<usize> {
    let &[data_offset] = array(frame, packet.l4 + 12)?;
    let end = (packet.l4 + usize::from(data_offset >> 4) * 4).min(packet.end);
    let mut at = packet.l4 + TCP_OPTIONS;
    while at < end {
        match frame.get(at..end)? {
            [OPTION_END, ..] => return None,
            [OPTION_NOP, ..] => at += 1,
            [OPTION_MSS, 4, _, _, ..] => return Some(at + 2),
            [_, length, ..] if *length >= 2 => at += usize::from(*length),
            _ => return None,
        }
    }
    None
}

//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use crate::protocol;

const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// Ones'-complement sum of the big-endian 16-bit words of `bytes`, an odd last byte padded with 0.
///
/// Sums of pieces may be added (no more than 65537 of them) and then folded; each piece but the last must be
/// of even length.
#[must_use]
pub fn sum(bytes: &[u8]) -> u32 {
    let (words, odd) = bytes.as_chunks::<2>();
    let mut total = 0u64;
    for word in words {
        total += u64::from(u16::from_be_bytes(*word));
    }
    if let [last] = odd {
        total += u64::from(*last) << 8;
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u32
}

/// Folds the carries of a sum into 16 bits.
#[must_use]
pub const fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

/// The checksum of `bytes`: to be stored where the checksum field was 0; 0 if the field holds the right one.
#[must_use]
pub fn ones_complement(bytes: &[u8]) -> u16 {
    !fold(sum(bytes))
}

/// Sum of the pseudo header of a transport `protocol` whose header and data are `length` bytes.
///
/// The IPv4 one (RFC 9293 3.1) if both addresses are v4-mapped, else the IPv6 one (RFC 8200 8.1).
#[must_use]
pub fn pseudo_header(source: &[u8; 16], destination: &[u8; 16], protocol: u8, length: u32) -> u32 {
    let rest = u32::from(protocol) + (length & 0xffff) + (length >> 16);
    match (source.strip_prefix(&MAPPED), destination.strip_prefix(&MAPPED)) {
        (Some(source), Some(destination)) => sum(source) + sum(destination) + rest,
        _ => sum(source) + sum(destination) + rest,
    }
}

/// The checksum of a whole transport message: pseudo header, header and data, the field itself taken as it is.
/// ICMP for IPv4 has no pseudo header.
#[must_use]
pub fn transport(source: &[u8; 16], destination: &[u8; 16], protocol: u8, message: &[u8]) -> u16 {
    let pseudo = match protocol {
        protocol::ICMP => 0,
        _ => pseudo_header(source, destination, protocol, message.len() as u32),
    };
    !fold(pseudo + sum(message))
}

/// What a rewrite does to a checksum: the precomputed `~m + m'` of RFC 1624 equation 3. Deltas add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Delta(u16);

impl Delta {
    /// A rewrite that changes nothing.
    pub const NONE: Self = Self(0);

    /// The delta of replacing the word `old` by `new`.
    #[must_use]
    pub const fn word(old: u16, new: u16) -> Self {
        Self(fold((!old) as u32 + new as u32))
    }

    /// The delta of replacing the IPv4 address `old` by `new`: [`Delta::bytes`] of four bytes.
    #[must_use]
    pub const fn address(old: [u8; 4], new: [u8; 4]) -> Self {
        const fn sum([a, b, c, d]: [u8; 4]) -> u32 {
            u16::from_be_bytes([a, b]) as u32 + u16::from_be_bytes([c, d]) as u32
        }
        Self(fold(!fold(sum(old)) as u32 + fold(sum(new)) as u32))
    }

    /// The delta of replacing `old` by `new` at an even offset of what is summed.
    ///
    /// Both have the same length, as a rewrite in place does; what one has more than the other counts as
    /// inserted or removed at an even offset.
    #[must_use]
    pub fn bytes(old: &[u8], new: &[u8]) -> Self {
        // The sum of the complemented words is the complement of their sum.
        Self(fold(u32::from(ones_complement(old)) + sum(new)))
    }

    /// Both rewrites.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(fold(self.0 as u32 + other.0 as u32))
    }

    /// The checksum after the rewrite: `~(~check + ~m + m')`.
    #[must_use]
    pub const fn apply(self, check: u16) -> u16 {
        !fold((!check) as u32 + self.0 as u32)
    }

    /// The UDP checksum after the rewrite. 0 means there is none and stays 0; a result of 0 is sent as 0xffff
    /// (RFC 768).
    #[must_use]
    pub const fn apply_udp(self, check: u16) -> u16 {
        match (check, self.apply(check)) {
            (0, _) => 0,
            (_, 0) => 0xffff,
            (_, updated) => updated,
        }
    }

    /// The rewrite undone.
    #[must_use]
    pub const fn inverse(self) -> Self {
        match self.0 {
            0 => Self::NONE,
            delta => Self(!delta),
        }
    }

    /// The delta as a number, to be stored in a flow record.
    #[must_use]
    pub const fn to_bits(self) -> u16 {
        self.0
    }

    /// The delta that [`Self::to_bits`] gave.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }
}

//! Dimensions that several subcommands share.

use clap::ValueEnum;

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Direction {
    /// From subscribers.
    In2out,
    /// To subscribers.
    Out2in,
    /// A burst of the one, a burst of the other.
    Mixed,
}

/// In which order flows come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Order {
    /// Any flow at any time.
    Random,
    /// As they were opened.
    Sequential,
}

/// Whether headers are in the caches when the engine gets the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HeaderCache {
    /// As with a device that writes into the cache.
    Warm,
    /// In memory.
    Cold,
}

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Family {
    V4,
    V6,
}

/// Transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    Udp,
    Tcp,
}

impl Protocol {
    /// Its IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Udp => 17,
            Self::Tcp => 6,
        }
    }
}

/// Size of the frames, with their check sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameSize {
    /// Each the same.
    Bytes(u16),
    /// Seven of 64 bytes, four of 594, one of 1518.
    Imix,
}

impl FrameSize {
    /// Bytes of packet `number`.
    pub fn of(self, number: usize) -> usize {
        match self {
            Self::Bytes(bytes) => usize::from(bytes),
            // Small ones between the others, not in a row.
            Self::Imix => [64, 594, 64, 64, 594, 64, 1518, 64, 594, 64, 594, 64][number % 12],
        }
    }
}

impl core::str::FromStr for FrameSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "imix" {
            return Ok(Self::Imix);
        }
        match text.parse() {
            Ok(bytes @ 64..=1518) => Ok(Self::Bytes(bytes)),
            _ => Err(format!("{text} is neither 'imix' nor a frame size from 64 to 1518 bytes")),
        }
    }
}

impl core::fmt::Display for FrameSize {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Bytes(bytes) => bytes.fmt(f),
            Self::Imix => f.write_str("imix"),
        }
    }
}

/// Reads a number that may end in `k` (1024) or `M` (1 000 000).
///
/// # Errors
/// If it is none, 0, or more than there are inside endpoints.
pub fn count(text: &str) -> Result<u32, String> {
    let (digits, unit) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1024),
        None => match text.strip_suffix(['m', 'M']) {
            Some(digits) => (digits, 1_000_000),
            None => (text, 1),
        },
    };
    let number = digits.parse::<u32>().ok().and_then(|number| number.checked_mul(unit));
    number
        .filter(|number| (1..=64_000_000).contains(number))
        .ok_or_else(|| format!("{text} is not a number from 1 to 64M, such as 500, 64k or 10M"))
}

/// A number as [`count`] reads it, where that is shorter.
pub fn short(number: u32) -> String {
    match number {
        n if n >= 1_000_000 && n % 1_000_000 == 0 => format!("{}M", n / 1_000_000),
        n if n >= 1024 && n % 1024 == 0 => format!("{}k", n / 1024),
        n => n.to_string(),
    }
}

impl Direction {
    /// As in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::In2out => "in2out",
            Self::Out2in => "out2in",
            Self::Mixed => "mixed",
        }
    }
}

impl Order {
    /// As in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Sequential => "sequential",
        }
    }
}

impl HeaderCache {
    /// As in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Cold => "cold",
        }
    }
}

impl Family {
    /// As in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

impl Protocol {
    /// As in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_units() {
        for (text, number) in
            [("1", 1), ("500", 500), ("64k", 65_536), ("1M", 1_000_000), ("10M", 10_000_000)]
        {
            assert_eq!(count(text), Ok(number));
            assert_eq!(short(number), text);
        }
        for text in ["", "0", "-1", "5000M", "65M", "1G", "k"] {
            assert!(count(text).is_err(), "{text}");
        }
    }

    #[test]
    fn imix_is_seven_four_one() {
        let sizes: Vec<_> = (0..12).map(|number| FrameSize::Imix.of(number)).collect();
        let of = |size| sizes.iter().filter(|&&other| other == size).count();
        assert_eq!((of(64), of(594), of(1518)), (7, 4, 1));
        assert_eq!("imix".parse(), Ok(FrameSize::Imix));
        assert_eq!("512".parse(), Ok(FrameSize::Bytes(512)));
        assert!("63".parse::<FrameSize>().is_err());
    }
}

//! Comparisons of many bytes at once.

/// A bit for each of 16 bytes, those of `low` first, that equals `byte`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[must_use]
pub fn equal_bytes(low: u64, high: u64, byte: u8) -> u32 {
    use core::arch::x86_64::{_mm_cmpeq_epi8, _mm_movemask_epi8, _mm_set_epi64x, _mm_set1_epi8};
    // SAFETY: every x86-64 processor has SSE2, and these intrinsics touch registers only.
    let bytes = unsafe { _mm_set_epi64x(high as i64, low as i64) };
    // SAFETY: as above.
    let wanted = unsafe { _mm_set1_epi8(byte as i8) };
    // SAFETY: as above.
    let equal = unsafe { _mm_cmpeq_epi8(bytes, wanted) };
    // SAFETY: as above.
    (unsafe { _mm_movemask_epi8(equal) }) as u32
}

/// A bit for each of 16 bytes, those of `low` first, that equals `byte`.
#[cfg(not(target_arch = "x86_64"))]
#[must_use]
pub fn equal_bytes(low: u64, high: u64, byte: u8) -> u32 {
    let bytes = low.to_le_bytes().into_iter().chain(high.to_le_bytes());
    bytes.enumerate().fold(0, |bits, (at, each)| bits | u32::from(each == byte) << at)
}

#[cfg(test)]
mod tests {
    use super::equal_bytes;

    #[test]
    fn each_byte_has_its_bit() {
        assert_eq!(equal_bytes(0x0007_0000_0000_0007, 0x0700_0000_0000_0000, 7), 1 | 1 << 6 | 1 << 15);
        assert_eq!(equal_bytes(0, 0, 0), 0xffff);
        assert_eq!(equal_bytes(0, 0, 1), 0);
    }
}

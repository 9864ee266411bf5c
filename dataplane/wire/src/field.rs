//! Fields at offsets: reads that say `None` and writes that do nothing where the slice ends first.

/// `N` bytes at `at`.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<&[u8; N]> {
    bytes.get(at..)?.first_chunk()
}

/// Big-endian 16-bit field at `at`.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(|field| u16::from_be_bytes(*field))
}

/// Replaces the field at `at`; `false`, and nothing changed, if it does not lie in `bytes`.
pub(crate) fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) -> bool {
    match bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        Some(field) => {
            *field = value;
            true
        }
        None => false,
    }
}

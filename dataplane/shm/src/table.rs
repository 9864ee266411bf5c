//! Tables that travel whole: a memfd that nobody can write any more.

use crate::closer;
use crate::mapping::Mapping;
use crate::segment::{self, SegmentError};
use rustix::fs::{SealFlags, fcntl_add_seals};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use turnpike_abi::table::MAX_TABLE;

const SEALS: SealFlags =
    SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::WRITE).union(SealFlags::SEAL);

/// An immutable table, mapped; a plain slice, aligned to pages, since its bytes can never change.
#[derive(Debug)]
pub struct SealedTable {
    mapping: Mapping,
    fd: OwnedFd,
}

impl SealedTable {
    /// Makes a table of `bytes`.
    ///
    /// # Errors
    /// As [`SealedTable::write`].
    pub fn create(bytes: &[u8]) -> io::Result<Self> {
        Self::write(bytes.len(), |table| table.copy_from_slice(bytes))
    }

    /// Makes a table of `length` bytes, zero until `fill` writes them.
    ///
    /// # Errors
    /// `InvalidInput` if `length` is 0 or more than [`MAX_TABLE`]; else what the kernel says.
    pub fn write(length: usize, fill: impl FnOnce(&mut [u8])) -> io::Result<Self> {
        if length == 0 || length > MAX_TABLE {
            let what = format!("a table has 1 to {MAX_TABLE} bytes, not {length}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let fd = segment::allocate("turnpike-table", length)?;
        let mut writable = Mapping::shared(fd.as_fd(), length, true)?;
        // SAFETY: just mapped writable; the memfd is new, and nobody else has its descriptor.
        fill(unsafe { writable.bytes_mut() });
        // The kernel refuses the seal while a writable mapping exists.
        drop(writable);
        fcntl_add_seals(&fd, SEALS)?;
        Ok(Self { mapping: Mapping::private(fd.as_fd(), length)?, fd })
    }

    /// Maps a table of exactly `length` bytes that the other process made.
    ///
    /// # Errors
    /// If it is not sealed against every change, or not of that length, or longer than [`MAX_TABLE`].
    pub fn map(fd: OwnedFd, length: u64) -> Result<Self, SegmentError> {
        let bytes = match usize::try_from(length) {
            Ok(bytes @ 1..=MAX_TABLE) => bytes,
            _ => {
                closer::close(fd);
                return Err(SegmentError::Length { expected: MAX_TABLE as u64, actual: length });
            }
        };
        if let Err(error) = segment::check(fd.as_fd(), bytes, SEALS) {
            closer::close(fd);
            return Err(error);
        }
        Ok(Self { mapping: Mapping::private(fd.as_fd(), bytes)?, fd })
    }

    /// The descriptor, for the other process.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl core::ops::Deref for SealedTable {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: both constructors saw `F_SEAL_WRITE` set on the memfd. The kernel sets it only if there is
        // no writable mapping, and admits no write, mapping or hole after it.
        unsafe { self.mapping.frozen() }
    }
}

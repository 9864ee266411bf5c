//! A process's own segment, and the peer's as this process may see it.

use crate::atomic::Ordering;
use crate::closer;
use crate::mapping::Mapping;
use crate::page::{self, PageReader, PageWriter};
use crate::words::{Own, Peer};
use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, fstat, fstatfs,
    ftruncate, memfd_create,
};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// With these nobody but the creator's mapping can write, and the length is fixed: no SIGBUS.
pub(crate) const SEGMENT_SEALS: SealFlags =
    SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::FUTURE_WRITE);

/// File system type of a memfd; one of huge pages (`MFD_HUGETLB`) has another.
const TMPFS: u64 = 0x0102_1994;

/// Why a descriptor was not mapped.
#[derive(Debug)]
pub enum SegmentError {
    /// It is no memfd of ordinary pages.
    NotMemfd,
    /// It lacks a seal.
    Unsealed,
    /// It is of another length, bytes.
    Length {
        /// What the protocol says.
        expected: u64,
        /// What it is.
        actual: u64,
    },
    /// Part of it has no memory behind it: reading there could fail.
    Sparse,
    /// The kernel refused.
    Io(io::Error),
}

impl core::fmt::Display for SegmentError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NotMemfd => f.write_str("the descriptor is not a memfd of ordinary pages"),
            Self::Unsealed => f.write_str("the memfd lacks a seal: seal it before it is sent"),
            Self::Length { expected, actual } => {
                write!(f, "the memfd is {actual} bytes long, expected {expected}")
            }
            Self::Sparse => f.write_str("the memfd has holes: allocate it before it is sealed"),
            Self::Io(error) => write!(f, "cannot map the memfd: {error}"),
        }
    }
}

impl core::error::Error for SegmentError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<rustix::io::Errno> for SegmentError {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Io(errno.into())
    }
}

impl From<io::Error> for SegmentError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A memfd of `length` bytes, all of them backed by memory.
pub(crate) fn allocate(name: &str, length: usize) -> io::Result<OwnedFd> {
    let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&fd, length as u64)?;
    // Now, where a lack of memory is an error; later it would be a SIGBUS.
    fallocate(&fd, FallocateFlags::empty(), 0, length as u64)?;
    Ok(fd)
}

/// Checks that `fd` is a memfd that can be mapped without harm, whatever its owner does: the seals are
/// there, the length is `length`, and every page exists. The seals come first: they hold the rest in place.
pub(crate) fn check(fd: BorrowedFd<'_>, length: usize, needed: SealFlags) -> Result<(), SegmentError> {
    // EINVAL: the file is of a kind that has no seals.
    let seals = fcntl_get_seals(fd).map_err(|_| SegmentError::NotMemfd)?;
    if !seals.contains(needed) {
        return Err(SegmentError::Unsealed);
    }
    if fstatfs(fd)?.f_type as u64 != TMPFS {
        return Err(SegmentError::NotMemfd);
    }
    let stat = fstat(fd)?;
    let (expected, actual) = (length as u64, stat.st_size as u64);
    if expected != actual {
        return Err(SegmentError::Length { expected, actual });
    }
    // A page that does not exist would be allocated by our first read, at our cost, or kill us.
    if (stat.st_blocks as u64).saturating_mul(512) < actual {
        return Err(SegmentError::Sparse);
    }
    Ok(())
}

/// The access lies outside the segment or is not aligned to eight bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfBounds;

impl core::fmt::Display for OutOfBounds {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("outside the segment, or not aligned to eight bytes")
    }
}

impl core::error::Error for OutOfBounds {}

/// Memory this process writes and the other one reads.
#[derive(Debug)]
pub struct Segment {
    own: Own,
    fd: OwnedFd,
    length: usize,
}

impl Segment {
    /// Makes a segment of `length` bytes, all zero, and seals it: it can neither change its length nor be
    /// written through any other mapping or descriptor.
    ///
    /// # Errors
    /// If the kernel has no memory or no descriptor left.
    pub fn create(name: &str, length: usize) -> io::Result<Self> {
        let fd = allocate(name, length)?;
        let mapping = Mapping::shared(fd.as_fd(), length, true)?;
        fcntl_add_seals(&fd, SEGMENT_SEALS | SealFlags::SEAL)?;
        Ok(Self { own: Own(Arc::new(mapping)), fd, length })
    }

    /// The descriptor, for the other process.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Bytes.
    #[must_use]
    pub const fn length(&self) -> usize {
        self.length
    }

    /// Writes a value that does not change afterwards, at a multiple of eight bytes.
    ///
    /// # Errors
    /// If it does not fit there.
    pub fn write<T: IntoBytes + Immutable>(&self, offset: usize, value: &T) -> Result<(), OutOfBounds> {
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        self.own.store_all(offset, page::as_words(value)).ok_or(OutOfBounds)
    }

    /// Writes one word, atomically, at a multiple of eight bytes. Test peers write garbage with it.
    ///
    /// # Errors
    /// If it lies outside.
    pub fn poke(&self, offset: usize, value: u64) -> Result<(), OutOfBounds> {
        self.own.store(offset, value, Ordering::Release).ok_or(OutOfBounds)
    }

    /// The page at `offset`, to publish values of `T`.
    ///
    /// # Errors
    /// If it does not fit there.
    pub fn page<T: IntoBytes + Immutable>(&self, offset: usize) -> Result<PageWriter<T>, OutOfBounds> {
        PageWriter::over(self.own.clone(), offset).ok_or(OutOfBounds)
    }

    pub(crate) fn words(&self) -> Own {
        self.own.clone()
    }
}

impl AsFd for Segment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Memory the other process writes, mapped read-only. Nothing in it can be trusted.
#[derive(Clone, Debug)]
pub struct PeerSegment {
    peer: Peer,
    length: usize,
}

impl PeerSegment {
    /// Maps a segment of exactly `length` bytes that the other process made.
    ///
    /// # Errors
    /// If the descriptor is not such a segment, or could change under us.
    pub fn map(fd: OwnedFd, length: usize) -> Result<Self, SegmentError> {
        if let Err(error) = check(fd.as_fd(), length, SEGMENT_SEALS) {
            closer::close(fd);
            return Err(error);
        }
        let mapping = Mapping::shared(fd.as_fd(), length, false)?;
        Ok(Self { peer: Peer(Arc::new(mapping)), length })
    }

    /// Bytes.
    #[must_use]
    pub const fn length(&self) -> usize {
        self.length
    }

    /// One word, read atomically at a multiple of eight bytes; `None` outside the segment.
    #[must_use]
    pub fn load(&self, offset: usize) -> Option<u64> {
        self.peer.load(offset)
    }

    /// A value that the peer wrote once, at a multiple of eight bytes; `None` outside the segment.
    /// If the peer writes it meanwhile, it may come out mixed.
    #[must_use]
    pub fn read<T: FromBytes + IntoBytes>(&self, offset: usize) -> Option<T> {
        page::copy(&self.peer, offset)
    }

    /// The page at `offset`.
    ///
    /// # Errors
    /// If it lies outside the segment.
    pub fn page<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<PageReader<T>, OutOfBounds> {
        PageReader::over(self.peer.clone(), offset).ok_or(OutOfBounds)
    }

    pub(crate) fn words(&self) -> Peer {
        self.peer.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_can_map_a_segment_writable() {
        let segment = Segment::create("test", 8192).unwrap();
        let error = Mapping::shared(segment.fd(), 8192, true).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        // Nor through a descriptor opened anew.
        use std::os::fd::AsRawFd;
        let path = format!("/proc/self/fd/{}", segment.fd().as_raw_fd());
        let again = std::fs::File::options().read(true).write(true).open(path).unwrap();
        assert!(Mapping::shared(again.as_fd(), 8192, true).is_err());
        assert!(Mapping::shared(again.as_fd(), 8192, false).is_ok());
    }

    #[test]
    fn words_stay_inside_and_aligned() {
        let segment = Segment::create("test", 4096).unwrap();
        for (offset, count, inside) in [
            (0, 512, true),
            (4088, 1, true),
            (4096, 0, true),
            (4096, 1, false),
            (4088, 2, false),
            (4, 1, false),
            (usize::MAX - 7, 1, false),
            (8, usize::MAX / 8, false),
            (8, usize::MAX, false),
        ] {
            assert_eq!(segment.own.0.words(offset, count).is_some(), inside, "{offset} {count}");
        }
    }
}

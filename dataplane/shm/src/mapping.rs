//! Memory mapped from a descriptor. All the unsafe of shared memory is in this file.

use crate::atomic::AtomicU64;
use core::ptr::NonNull;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use std::io;
use std::os::fd::BorrowedFd;

/// Pages of memory that is no file's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pages {
    /// Hugepages, all taken now.
    Huge,
    /// Given when they are touched, large ones if the kernel can.
    Joined,
    /// Given when they are touched.
    Small,
}

/// A mapping of the first `length` bytes of a file, until it is dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    length: usize,
}

// SAFETY: the memory belongs to the process, not to a thread, and is unmapped by its one owner.
unsafe impl Send for Mapping {}
// SAFETY: through `&Mapping` memory is reached only as atomics, or as bytes that cannot change (`frozen`).
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps shared memory to read, and to write if `writable`. The file must be at least `length` bytes
    /// long and must never shrink.
    pub(crate) fn shared(fd: BorrowedFd<'_>, length: usize, writable: bool) -> io::Result<Self> {
        let protection = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        Self::map(fd, length, protection, MapFlags::SHARED)
    }

    /// Maps a file that can no longer change, to read. The mapping is private: before Linux 6.7 a file
    /// sealed against writing could not be mapped shared at all.
    pub(crate) fn private(fd: BorrowedFd<'_>, length: usize) -> io::Result<Self> {
        Self::map(fd, length, ProtFlags::READ, MapFlags::PRIVATE)
    }

    fn map(fd: BorrowedFd<'_>, length: usize, protection: ProtFlags, flags: MapFlags) -> io::Result<Self> {
        // SAFETY: the kernel chooses the address, so no other mapping of this process is touched.
        let base = unsafe { mmap(core::ptr::null_mut(), length, protection, flags, fd, 0) }?;
        let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { base, length })
    }

    /// Maps zeroed memory of this process alone.
    pub(crate) fn anonymous(length: usize, pages: Pages) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let extra = match pages {
            Pages::Huge => MapFlags::HUGETLB | MapFlags::HUGE_2MB | MapFlags::POPULATE,
            Pages::Joined | Pages::Small => MapFlags::NORESERVE,
        };
        // SAFETY: the kernel chooses the address, so no other mapping of this process is touched.
        let base =
            unsafe { mmap_anonymous(core::ptr::null_mut(), length, protection, MapFlags::PRIVATE | extra) }?;
        if pages == Pages::Joined {
            // SAFETY: the range is the mapping just made. It is a hint; pages stay small where it is refused.
            let _ = unsafe { madvise(base, length, Advice::LinuxHugepage) };
        }
        let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { base, length })
    }

    /// A part of a writable mapping, for a caller that gives no part out twice. `None` if it is not all inside.
    pub(crate) fn exclusive(&self, offset: usize, bytes: usize) -> Option<NonNull<u8>> {
        if offset.checked_add(bytes)? > self.length {
            return None;
        }
        // SAFETY: `offset <= length`, checked above, stays inside the mapping.
        Some(unsafe { self.base.add(offset) })
    }

    /// The `count` words from byte `offset` on; `None` if they are not aligned or not all inside.
    /// In a mapping that is not writable they must only be loaded, relaxed.
    #[inline]
    pub(crate) fn words(&self, offset: usize, count: usize) -> Option<&[AtomicU64]> {
        let bytes = count.checked_mul(size_of::<AtomicU64>())?;
        if !offset.is_multiple_of(align_of::<AtomicU64>()) || offset.checked_add(bytes)? > self.length {
            return None;
        }
        // SAFETY: `offset <= length`, checked above, stays inside the mapping.
        let first = unsafe { self.base.add(offset) };
        // SAFETY: the words lie inside the mapping (checked above), which lives as long as `self`; mmap
        // aligns to pages and `offset` to a word; every bit pattern is a u64, and fresh pages read as 0;
        // whoever else writes them, here or in the other process, is met with atomic accesses only.
        Some(unsafe { core::slice::from_raw_parts(first.cast::<AtomicU64>().as_ptr(), count) })
    }

    /// Writes the whole mapping as bytes.
    ///
    /// # Safety
    /// It was mapped writable, and no other mapping or descriptor of the file is in use meanwhile.
    pub(crate) unsafe fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `base` and `length` are one live mapping, writable and used by nobody else (the caller
        // says so), borrowed mutably through `self`.
        unsafe { core::slice::from_raw_parts_mut(self.base.as_ptr(), self.length) }
    }

    /// The whole mapping as bytes.
    ///
    /// # Safety
    /// Nobody can write the file any more.
    #[inline]
    pub(crate) unsafe fn frozen(&self) -> &[u8] {
        // SAFETY: `base` and `length` are one live mapping, and its bytes do not change (the caller says so).
        unsafe { core::slice::from_raw_parts(self.base.as_ptr(), self.length) }
    }
}

/// A hint for whole large pages' worth of this process's private memory.
pub(crate) fn prefer_large_pages(start: *mut core::ffi::c_void, length: usize) {
    // SAFETY: this advice changes no byte and unmaps nothing, whatever the range holds; where the kernel cannot
    // follow it, pages stay small.
    let _ = unsafe { madvise(start, length, Advice::LinuxHugepage) };
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `base` and `length` are exactly what mmap gave out; every reference into it borrowed
        // from `self` and is gone. It cannot fail for a whole mapping.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.length) };
    }
}

//! Large arrays of a worker: flow records, index, timers. From hugepages where there are any, in a file where
//! another process is to read them, or the next one to adopt them.

use crate::mapping::{Mapping, Pages};
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use zerocopy::FromBytes;

/// Bytes of a hugepage: lengths are multiples of it.
pub const HUGE: usize = 2 << 20;

/// Memory that arrays are cut from, front to back. Zeroed.
#[derive(Debug)]
pub struct Memory {
    mapping: Arc<Mapping>,
    length: usize,
    used: usize,
    huge: bool,
}

impl Memory {
    /// Ordinary pages, which the kernel gives when they are touched and joins to large ones if it can.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn ordinary(bytes: usize) -> io::Result<Self> {
        Self::anonymous(bytes, Pages::Joined)
    }

    /// Small pages, given when they are touched: for a table of which most is never used.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn sparse(bytes: usize) -> io::Result<Self> {
        Self::anonymous(bytes, Pages::Small)
    }

    /// Hugepages, all of them taken now.
    ///
    /// # Errors
    /// If not enough of them are free.
    pub fn huge(bytes: usize) -> io::Result<Self> {
        Self::anonymous(bytes, Pages::Huge)
    }

    fn anonymous(bytes: usize, pages: Pages) -> io::Result<Self> {
        let length = bytes.max(1).next_multiple_of(HUGE);
        let mapping = Mapping::anonymous(length, pages)?;
        Ok(Self { mapping: Arc::new(mapping), length, used: 0, huge: pages == Pages::Huge })
    }

    /// A new file of mode 0600 in place of one that lies at `path`, all of its pages taken now. `huge` says
    /// whether `path` lies in hugetlbfs. Returns the file as well, opened to be read only, for another process:
    /// through that it can only be mapped to be read. Who mapped the file in whose place it is keeps that one.
    ///
    /// # Errors
    /// If the file cannot be made or there is not enough memory for it; no file is left then.
    pub fn file(path: &Path, bytes: usize, huge: bool) -> io::Result<(Self, File)> {
        let length = bytes.max(1).next_multiple_of(HUGE);
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        let made = Self::over(&file, length, huge, true).and_then(|memory| Ok((memory, File::open(path)?)));
        if made.is_err() {
            // Pages that it got already would be missing to whoever tries next.
            let _ = std::fs::remove_file(path);
        }
        made
    }

    /// Pages that others can read through the descriptor, which belong to no directory: they go with the last who
    /// has them. Hugepages, all taken now, if `huge`; else ordinary ones, as they are touched: for tests and benches.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn nameless(name: &str, bytes: usize, huge: bool) -> io::Result<(Self, File)> {
        use rustix::fs::MemfdFlags;
        let length = bytes.max(1).next_multiple_of(HUGE);
        let pages = if huge { MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB } else { MemfdFlags::empty() };
        let file = File::from(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | pages)?);
        let memory = Self::over(&file, length, huge, huge)?;
        let readable = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        Ok((memory, readable))
    }

    fn over(file: &File, length: usize, huge: bool, now: bool) -> io::Result<Self> {
        file.set_len(length as u64)?;
        if now {
            // A page that is missing later would be met as a signal in the middle of a packet.
            rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, length as u64)?;
        }
        let mapping = Mapping::shared(file.as_fd(), length, true)?;
        Ok(Self { mapping: Arc::new(mapping), length, used: 0, huge })
    }

    /// Whether it consists of hugepages.
    #[must_use]
    pub fn is_huge(&self) -> bool {
        self.huge
    }

    /// Bytes in arrays so far.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used
    }

    /// Bytes that `count` elements take.
    #[must_use]
    pub const fn bytes_of<T>(count: usize) -> usize {
        (count * size_of::<T>()).next_multiple_of(4096)
    }

    /// The next `count` elements. `None` if they do not fit.
    pub fn array<T: FromBytes>(&mut self, count: usize) -> Option<Array<T>> {
        let bytes = count.checked_mul(size_of::<T>())?.checked_next_multiple_of(4096)?;
        let end = self.used.checked_add(bytes).filter(|&end| end <= self.length)?;
        let base = self.mapping.exclusive(self.used, bytes)?;
        self.used = end;
        Some(Array { first: base.cast(), count, mapping: Some(Arc::clone(&self.mapping)), owns: PhantomData })
    }
}

/// Elements in a [`Memory`], used like a slice.
#[derive(Debug)]
pub struct Array<T> {
    first: NonNull<T>,
    count: usize,
    /// Keeps it mapped, unless there are none.
    #[expect(dead_code, reason = "holds the mapping that `first` points into")]
    mapping: Option<Arc<Mapping>>,
    owns: PhantomData<T>,
}

impl<T> Default for Array<T> {
    /// No elements.
    fn default() -> Self {
        Self { first: NonNull::dangling(), count: 0, mapping: None, owns: PhantomData }
    }
}

// SAFETY: an array owns its elements, which lie in memory of the process, not of a thread.
unsafe impl<T: Send> Send for Array<T> {}
// SAFETY: through a shared array elements are only reached as `&T`.
unsafe impl<T: Sync> Sync for Array<T> {}

impl<T> Array<T> {
    /// Asks for the cache line of an element before it is needed. An index outside is ignored.
    #[inline(always)]
    pub fn prefetch(&self, index: usize) {
        if index < self.count {
            // SAFETY: `index` lies inside, so the pointer does.
            let element = unsafe { self.first.add(index) };
            prefetch(element.as_ptr().cast());
        }
    }
}

/// `count` zeros. The kernel gives pages as they are touched, large ones if it can and they fill one.
///
/// # Errors
/// If the kernel refuses.
pub fn zeros<T: FromBytes>(count: usize) -> io::Result<Array<T>> {
    let bytes = Memory::bytes_of::<T>(count);
    let mut memory = if bytes < HUGE { Memory::sparse(bytes) } else { Memory::ordinary(bytes) }?;
    memory.array(count).ok_or(io::ErrorKind::OutOfMemory.into())
}

/// An empty vector with room for `capacity`. The kernel gives pages as they are touched, large ones if it can.
#[must_use]
pub fn roomy<T>(capacity: usize) -> Vec<T> {
    let mut vector = Vec::with_capacity(capacity);
    let room = vector.spare_capacity_mut();
    let first = room.as_mut_ptr() as usize;
    let (start, end) = (first.next_multiple_of(HUGE), (first + size_of_val(room)) / HUGE * HUGE);
    if start < end {
        crate::mapping::prefer_large_pages(start as *mut core::ffi::c_void, end - start);
    }
    vector
}

/// Asks for the cache line at an address.
#[inline(always)]
fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint: it reads nothing the program sees and faults on no address.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Asks for the cache line where a value begins before it is needed.
#[inline(always)]
pub fn prefetch_value<T>(value: &T) {
    prefetch(core::ptr::from_ref(value).cast());
}

/// Asks for the cache line of the first byte before it is needed.
#[inline(always)]
pub fn prefetch_bytes(bytes: &[u8]) {
    prefetch(bytes.as_ptr());
}

impl<T> Deref for Array<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: `first` and `count` are elements inside the mapping, which lives as long as `self`; every bit
        // pattern is a T (`Memory::array` asks for `FromBytes`) and pages begin as 0; nobody else writes them.
        unsafe { core::slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }
}

impl<T> DerefMut for Array<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; arrays of one memory do not overlap, and `self` is borrowed mutably.
        unsafe { core::slice::from_raw_parts_mut(self.first.as_ptr(), self.count) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_begin_as_zero_do_not_overlap_and_end_with_the_memory() {
        let mut memory = Memory::ordinary(HUGE).unwrap();
        let mut first = memory.array::<u64>(1000).unwrap();
        let mut second = memory.array::<u32>(500).unwrap();
        assert!(first.iter().all(|&word| word == 0) && second.iter().all(|&word| word == 0));
        first.fill(u64::MAX);
        second.fill(7);
        first.prefetch(5);
        first.prefetch(usize::MAX);
        assert!(first.iter().all(|&word| word == u64::MAX) && second.iter().all(|&word| word == 7));
        assert_eq!(memory.used(), 8192 + 4096);
        assert!(memory.array::<u8>(HUGE).is_none());
        assert!(memory.array::<u64>(usize::MAX / 4).is_none());
        drop(memory);
        assert_eq!(first.last(), Some(&u64::MAX));
    }

    /// Who gets the descriptor cannot change a byte, nor the length.
    #[test]
    fn the_kernel_refuses_others_a_writable_mapping() {
        use std::os::unix::fs::FileExt;
        let directory = tempfile::TempDir::new_in("/dev/shm").unwrap();
        let (_memory, named) = Memory::file(&directory.path().join("state"), 4096, false).unwrap();
        let (_nameless, nameless) = Memory::nameless("test", 4096, false).unwrap();
        for file in [named, nameless] {
            assert!(Mapping::shared(file.as_fd(), HUGE, false).is_ok());
            let error = Mapping::shared(file.as_fd(), HUGE, true).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
            assert!(file.write_at(b"x", 0).is_err() && file.set_len(0).is_err());
        }
    }

    #[test]
    fn a_file_shows_what_its_arrays_hold() {
        use std::os::unix::fs::FileExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        std::fs::write(&path, "an older one").unwrap();
        let (mut memory, file) = Memory::file(&path, 4096, false).unwrap();
        let mut words = memory.array::<u64>(8).unwrap();
        words[3] = 0x0102_0304;
        let mut read = [0; 8];
        file.read_exact_at(&mut read, 24).unwrap();
        assert_eq!(u64::from_ne_bytes(read), 0x0102_0304);
        assert!(file.write_at(&read, 0).is_err());
    }
}

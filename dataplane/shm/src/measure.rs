//! What measuring needs and safe Rust has not: the time stamp counter, cache lines made cold, and an allocator
//! that refuses. For benchmarks and tests; no daemon uses it.

use core::cell::Cell;
use std::alloc::{GlobalAlloc, Layout, System};

/// Bytes of a cache line.
const LINE: usize = 64;

/// The time stamp counter of this core. What comes before it in the program is done when it is read.
#[inline]
#[must_use]
pub fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        let mut processor = 0;
        // SAFETY: RDTSCP is part of every x86-64 processor this runs on, and writes only `processor`.
        unsafe { core::arch::x86_64::__rdtscp(&raw mut processor) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        use std::sync::LazyLock;
        use std::time::Instant;
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        START.elapsed().as_nanos() as u64
    }
}

/// Writes the cache lines of `bytes` back and drops them from every cache.
pub fn evict(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(LINE).chain(bytes.rchunks(1).take(1)) {
        // SAFETY: the address is that of a live reference; CLFLUSH changes no byte.
        unsafe { core::arch::x86_64::_mm_clflush(line.as_ptr()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (bytes, LINE);
}

thread_local! {
    /// What this thread does under [`refusing`], empty if it may allocate.
    static REFUSING: Cell<&'static str> = const { Cell::new("") };
    /// Times this thread went to the allocator.
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, but for code under [`refusing`]. To be made the program's `#[global_allocator]`.
#[derive(Debug)]
pub struct Refusing;

impl Refusing {
    fn called(verb: &str, bytes: usize) {
        // A thread at its end has no locals left, and is not measured.
        let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
        let what = REFUSING.try_with(|what| what.replace("")).unwrap_or("");
        if !what.is_empty() {
            eprintln!("error: {what} {verb} {bytes} bytes: it must not touch the allocator");
            std::process::abort();
        }
    }
}

// SAFETY: every call goes to `System` as it came, and so keeps its promises; what is added to it touches only
// locals of the thread that need no memory, or ends the process.
unsafe impl GlobalAlloc for Refusing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::called("allocated", layout.size());
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::called("allocated", layout.size());
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::called("reallocated", size);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::realloc`.
        unsafe { System.realloc(place, layout, size) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        Self::called("freed", layout.size());
        // SAFETY: the caller keeps the contract of `GlobalAlloc::dealloc`.
        unsafe { System.dealloc(place, layout) }
    }
}

/// Runs `body`. If it goes to the allocator on this thread, the process ends with a message that begins with `what`.
///
/// # Panics
/// If `what` is empty, or [`Refusing`] is not the program's allocator: then nothing would be refused.
pub fn refusing<R>(what: &'static str, body: impl FnOnce() -> R) -> R {
    assert!(!what.is_empty(), "say what must not allocate");
    let calls = CALLS.get();
    drop(core::hint::black_box(Box::new(0u8)));
    assert!(CALLS.get() > calls, "Refusing is not the global allocator");
    REFUSING.set(what);
    let result = body();
    REFUSING.set("");
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on() {
        let before = ticks();
        assert!(ticks() >= before);
    }

    #[test]
    fn what_was_evicted_is_still_there() {
        let bytes: Vec<u8> = (0..=255).collect();
        evict(&bytes);
        evict(&bytes[3..60]);
        evict(&[]);
        assert!(bytes.iter().zip(0..=255).all(|(&byte, expected)| byte == expected));
    }

    #[test]
    #[should_panic(expected = "not the global allocator")]
    fn nothing_is_refused_by_another_allocator() {
        refusing("the test", || ());
    }
}

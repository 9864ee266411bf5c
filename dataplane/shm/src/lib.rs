//! The memory and the socket between the dataplane and the control plane.
//!
//! Neither process trusts the other. Each writes segments of its own and maps the other's read-only; what
//! it reads there is copied out once, then checked. This crate holds all the unsafe of that, and hands out
//! types that are safe whatever the peer does: at worst a ring is [`ring::Broken`], a page has no value.
//!
//! | module | what it is |
//! |---|---|
//! | [`segment`] | a sealed memfd of one's own; the peer's, checked and mapped read-only |
//! | [`ring`], [`link`] | slots from process to process; both rings of a worker |
//! | [`page`], [`statistics`] | values published under a sequence number; the statistics segment |
//! | [`socket`], [`attach`] | messages with descriptors; the dataplane's side of the handshake |
//! | [`memory`] | large arrays from hugepages or a file |
//! | [`state`] | the state files of workers, and views of their flows |
//! | [`simd`] | many bytes compared at once |
//! | [`table`] | immutable tables in a memfd |
//! | [`spsc`] | a channel between two threads of one process, with the same index arithmetic |
//! | [`measure`] | for benchmarks: time stamp counter, cold cache lines, an allocator that refuses |
//!
//! The algorithms are proved by loom (`RUSTFLAGS="--cfg loom" cargo test -p turnpike-shm --lib loom_`) and
//! run under ThreadSanitizer, where only the standard library is not instrumented:
//! `RUSTFLAGS="-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer"
//! TSAN_OPTIONS="suppressions=$PWD/dataplane/shm/tsan.suppressions" cargo +nightly test -p turnpike-shm
//! --target x86_64-unknown-linux-gnu --lib --test ring --test memory -- --test-threads=1`.

mod atomic;
mod cursor;
#[cfg_attr(loom, path = "mapping_loom.rs")]
mod mapping;
mod words;

#[cfg(not(loom))]
mod closer;

#[cfg(not(loom))]
pub mod attach;
#[cfg(not(loom))]
pub mod link;
#[cfg(not(loom))]
pub mod measure;
#[cfg(not(loom))]
pub mod memory;
pub mod page;
pub mod ring;
#[cfg(not(loom))]
pub mod segment;
pub mod simd;
#[cfg(not(loom))]
pub mod socket;
pub mod spsc;
#[cfg(not(loom))]
pub mod state;
#[cfg(not(loom))]
pub mod statistics;
#[cfg(not(loom))]
pub mod table;

//! Bindings to the installed libdpdk (22.11 or later): what `turnpike-dpdk` calls, and no more.
//!
//! Generated at build time from DPDK's own headers. The functions that DPDK defines as `static inline`
//! come through a small C shim under the prefix `turnpike_`, one call a burst. DPDK's manual documents
//! the rest under the same names.

#![no_std]

/// What bindgen made.
mod bindings {
    // Generated: its names are DPDK's, its safety contracts too.
    #![allow(
        missing_docs,
        non_camel_case_types,
        non_snake_case,
        non_upper_case_globals,
        clippy::all,
        clippy::undocumented_unsafe_blocks,
        clippy::multiple_unsafe_ops_per_block
    )]
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

pub use bindings::*;

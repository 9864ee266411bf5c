//! The bytes that the dataplane and the control plane share.
//!
//! Everything here is plain data: `#[repr(C)]`, fixed-size integers in native byte order (both
//! processes run on one machine), newtype constants where a peer could write any value, explicit
//! padding. Nothing in this crate reads memory: [`turnpike-shm`] maps it, copies a slot out once,
//! and hands the copy to the decoders here.
//!
//! | module | what it lays out |
//! |---|---|
//! | [`address`] | addresses, prefixes and the small identifiers |
//! | [`attach`] | the handshake on the unix socket |
//! | [`command`], [`event`] | slots of the rings |
//! | [`counters`] | the counter page of a worker, the drop reasons |
//! | [`deterministic`] | RFC 7422: inside address to external ports and back |
//! | [`flow`] | the state files: flow records in place |
//! | [`layout`] | where things lie in each segment; the layout hash |
//! | [`stats`] | the pages the dataplane publishes beside the workers' counters |
//! | [`steering`], [`rss`] | which worker owns a subscriber and a port; how a device's hash finds it |
//! | [`table`] | the policy and forwarding tables, sent whole in a sealed memfd |
#![no_std]
#![forbid(unsafe_code)]

pub mod address;
pub mod attach;
pub mod command;
pub mod counters;
pub mod deterministic;
pub mod event;
pub mod flow;
pub mod layout;
pub mod rss;
pub mod stats;
pub mod steering;
pub mod table;

pub use address::{Address, InterfaceId, PoolId, PortId, Prefix, WorkerId, ZoneId};

/// Version of everything in this crate. Peers of another version are refused at attach.
/// `tests/layout.rs` fails when a layout changes and this number does not.
pub const ABI_VERSION: u32 = 2;

/// Most worker threads a dataplane runs.
pub const MAX_WORKERS: usize = 64;
/// Most DPDK ports.
pub const MAX_PORTS: usize = 16;
/// Most interfaces: ports and VLAN subinterfaces together.
pub const MAX_INTERFACES: usize = 64;
/// Most zones.
pub const MAX_ZONES: usize = 16;
/// Most address pools.
pub const MAX_POOLS: usize = 64;
/// Most addresses of the box itself.
pub const MAX_OWN_ADDRESSES: usize = 4096;

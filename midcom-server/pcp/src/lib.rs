//! PCP (RFC 6887, with PORT_SET of RFC 7753) and NAT-PMP (RFC 6886): hosts open their own mappings.
//!
//! | module | what it does |
//! |---|---|
//! | `wire` | the bytes of both protocols; no state, no panic |
//! | `server` | the machine: requests in, orders and responses out; no I/O, time is an argument |
//! | `service` | the machine with its sockets, and its orders as transactions of the policy engine |
//! | `any_bytes` | what the fuzzer runs |
#![forbid(unsafe_code)]

pub mod any_bytes;
pub mod server;
pub mod service;
pub mod wire;

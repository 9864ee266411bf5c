//! PCP (RFC 6887, with PORT_SET of RFC 7753) and NAT-PMP (RFC 6886): hosts open their own mappings.
#![forbid(unsafe_code)]

pub mod any_bytes;
pub mod server;
pub mod wire;

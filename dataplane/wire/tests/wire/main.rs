//! Tests of the wire crate, against etherparse and against naive oracles.

mod any_bytes;
mod build;
mod checksum;
mod codec;
mod differential;
mod fragment;
mod icmp;
mod malformed;
mod packet;
mod rewrite;

//! The rows of RFC 4540 that codec and session machines meet, each a test named after its id.

mod any_bytes;
mod authentication;
mod conformance;
mod extensions;
mod format;
mod golden;
mod peer;
mod sessions;
mod tuples;

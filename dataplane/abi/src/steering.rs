//! Which worker owns what (design, section 3).
//!
//! Both processes and, where a device can be told, the NIC's RSS compute the same functions: a
//! subscriber belongs to the worker that the low bits of its address name, a block of 512 external
//! ports to the worker that the block's number names. A packet that reaches another worker crosses
//! to its owner, so these functions decide locality, never correctness.

use crate::{Address, WorkerId};

/// Ports in a block: with a redirection table of 128 entries a device can tell 128 blocks apart.
pub const PORT_BLOCK: u16 = 512;

/// The worker that owns an inside address. IPv4: by the low seven bits of the address.
/// IPv6: by the low seven bits of the /64 prefix, so that a host's temporary addresses stay together.
/// `workers` must not be 0; 0 counts as 1.
#[must_use]
pub const fn owner_of_inside(address: Address, workers: u8) -> WorkerId {
    let bytes = &address.0;
    let low = if address.is_v4() { bytes[15] } else { bytes[7] };
    WorkerId((low & 0x7f) % if workers == 0 { 1 } else { workers })
}

/// The worker that owns an external port (host byte order) of every pool address.
#[must_use]
pub const fn owner_of_port(port: u16, workers: u8) -> WorkerId {
    WorkerId((port / PORT_BLOCK) as u8 % if workers == 0 { 1 } else { workers })
}

/// The worker that owns a flow between two addresses neither of which is a subscriber's alone
/// (inside to inside, outside to outside): by the smaller one, so both directions agree.
#[must_use]
pub fn owner_of_pair(a: Address, b: Address, workers: u8) -> WorkerId {
    owner_of_inside(a.min(b), workers)
}

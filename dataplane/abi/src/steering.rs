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

/// The worker that packets of a protocol without ports meet first that are for a pool address: it knows the
/// inside host's worker by a lease. By the address, as if it were an inside one.
#[must_use]
pub const fn owner_of_portless(external: Address, workers: u8) -> WorkerId {
    owner_of_inside(external, workers)
}

/// Place of a port among the ports of its owner, which count from 0 without gaps: what one worker calls
/// neighbours lies, at the end of a block of [`PORT_BLOCK`], `workers` blocks apart.
#[must_use]
pub const fn local_of_port(port: u16, workers: u8) -> u16 {
    let workers = if workers == 0 { 1 } else { workers as u16 };
    port / PORT_BLOCK / workers * PORT_BLOCK + port % PORT_BLOCK
}

/// The port at a place among the ports of `worker`; `None` past its last one.
#[must_use]
pub const fn port_of_local(local: u16, worker: WorkerId, workers: u8) -> Option<u16> {
    let workers = if workers == 0 { 1 } else { workers as u32 };
    let block = (local / PORT_BLOCK) as u32 * workers + worker.0 as u32;
    if block * PORT_BLOCK as u32 > u16::MAX as u32 || worker.0 as u32 >= workers {
        return None;
    }
    Some(block as u16 * PORT_BLOCK + local % PORT_BLOCK)
}

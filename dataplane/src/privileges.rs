//! What the process may do. Root's rights shrink twice: before DPDK starts, to what starting takes; and once
//! everything is up, to what running takes.
//!
//! | capability | start | main thread | workers | for |
//! |---|---|---|---|---|
//! | `NET_ADMIN` | yes | yes | no | TAP twins, addresses, MTU; at the end to remove them and to leave promiscuous mode |
//! | `NET_RAW` | yes | no | no | opening packet sockets (`net_af_packet`, `net_af_xdp`); sending on them needs nothing |
//! | `SYS_ADMIN`, `BPF` | yes | with `net_af_xdp` | no | XDP programs, which libxdp needs to look up again to take them off at the end; vfio, physical addresses of hugepages |
//! | `IPC_LOCK` | yes | no | no | pinning memory |
//! | `SYS_NICE` | yes | no | no | pinning workers beside other tasks |
//! | `DAC_OVERRIDE`, `SYS_RAWIO` | yes | no | no | device files of uio and vfio |
//! | `CHOWN`, `FOWNER` | yes | no | no | the socket's group |
//! | `SETPCAP` | yes | no | no | shrinking the bounding set |
//!
//! Capabilities belong to threads, and no thread can take another's: the threads that DPDK itself starts (for
//! interrupts and alarms) keep those of the start. So this limits mistakes and what a hijacked worker can ask of the
//! kernel directly, not somebody who can make any thread run his code.

use crate::failure::Failure;
use caps::{CapSet, Capability, CapsHashSet};

const START: [Capability; 11] = [
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_RAW,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_BPF,
    Capability::CAP_IPC_LOCK,
    Capability::CAP_SYS_NICE,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_SYS_RAWIO,
    Capability::CAP_CHOWN,
    Capability::CAP_FOWNER,
    Capability::CAP_SETPCAP,
];

/// Before DPDK starts: no program that this process might be made to run gains anything, and only what
/// starting takes is left to it.
///
/// # Errors
/// If the kernel refuses.
pub fn for_start() -> Result<(), Failure> {
    crate::failure::Doing::doing(rustix::thread::set_no_new_privs(true), || {
        "cannot rule out new privileges".to_owned()
    })?;
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for capability in caps::read(None, CapSet::Bounding)? {
            if !START.contains(&capability) {
                caps::drop(None, CapSet::Bounding, capability)?;
            }
        }
    }
    keep(&START)
}

/// For the main thread, once everything is up. `xdp`: it has XDP programs to take off at the end.
///
/// # Errors
/// If the kernel refuses.
pub fn for_main(xdp: bool) -> Result<(), Failure> {
    if xdp {
        return keep(&[Capability::CAP_NET_ADMIN, Capability::CAP_SYS_ADMIN, Capability::CAP_BPF]);
    }
    keep(&[Capability::CAP_NET_ADMIN])
}

/// For a worker, once it is up.
///
/// # Errors
/// If the kernel refuses.
pub fn for_worker() -> Result<(), Failure> {
    keep(&[])
}

/// Leaves the calling thread those of `wanted` that it has.
fn keep(wanted: &[Capability]) -> Result<(), Failure> {
    let has = caps::read(None, CapSet::Permitted)?;
    let left: CapsHashSet = wanted.iter().copied().filter(|capability| has.contains(capability)).collect();
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    // The effective set must lie within the permitted one at every step.
    caps::set(None, CapSet::Effective, &left)?;
    caps::set(None, CapSet::Permitted, &left)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_s_thread_may_do_nothing() {
        // Capabilities are the thread's: those of the test runner stay.
        let left = std::thread::spawn(|| {
            for_worker().expect("dropping is always allowed");
            let sets = [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable, CapSet::Ambient];
            sets.map(|set| caps::read(None, set).expect("readable").len())
        });
        assert_eq!(left.join().expect("no panic"), [0; 4]);
    }

    #[test]
    fn the_main_thread_keeps_at_most_net_admin() {
        let left = std::thread::spawn(|| {
            for_main(false).expect("dropping is always allowed");
            caps::read(None, CapSet::Permitted).expect("readable")
        });
        let left = left.join().expect("no panic");
        assert!(left.iter().all(|&capability| capability == Capability::CAP_NET_ADMIN), "{left:?}");
    }
}

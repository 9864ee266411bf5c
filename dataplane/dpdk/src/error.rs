//! What can go wrong between the program, DPDK and a device.

use std::ffi::CStr;
use std::fmt;

/// A request to DPDK that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// EAL was initialised before in this process; DPDK allows that once, success or not.
    AlreadyInitialised,
    /// A string with a zero byte inside was to be given to DPDK.
    ZeroByte(String),
    /// EAL did not start.
    Init(Errno),
    /// A packet pool could not be made.
    Pool {
        /// Its name.
        pool: String,
        /// Why.
        why: Errno,
    },
    /// A second packet pool, while a port frees its packets on the assumption that there is one.
    PoolFixed,
    /// A thread could not be registered with EAL.
    Thread(Errno),
    /// A device refused.
    Device {
        /// Device string as configured.
        device: String,
        /// What it refused to do.
        doing: &'static str,
        /// Why.
        why: Errno,
    },
    /// A device cannot do what was asked for.
    Unable {
        /// Device string as configured.
        device: String,
        /// What was asked for, and the device's limit.
        what: String,
    },
}

/// An error number of the C library or of DPDK, positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// `ENOTSUP`: the device's driver has no such operation.
    pub const NOT_SUPPORTED: Self = Self(95);

    /// `rte_errno` of the calling thread.
    pub(crate) fn last() -> Self {
        // SAFETY: reads a thread-local variable of DPDK, which every thread has.
        Self(unsafe { dpdk_sys::turnpike_errno() })
    }

    /// From a return code: `-errno`, or `-1` where DPDK leaves the number in `rte_errno`.
    pub(crate) fn of(code: i32) -> Self {
        match code {
            -1 if Self::last().0 != 0 => Self::last(),
            code => Self(code.saturating_neg()),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: takes any number.
        let text = unsafe { dpdk_sys::rte_strerror(self.0) };
        if text.is_null() {
            return write!(f, "error {}", self.0);
        }
        // SAFETY: a string ended by zero, in static or thread-local memory that this thread does not
        // overwrite before the end of this function.
        let text = unsafe { CStr::from_ptr(text) };
        write!(f, "{} (error {})", text.to_string_lossy(), self.0)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyInitialised => write!(f, "DPDK can be started once in a process, and was"),
            Self::ZeroByte(text) => write!(f, "{text:?} has a zero byte inside, which DPDK cannot take"),
            Self::Init(why) => write!(
                f,
                "DPDK did not start: {why}; its own message stands above. Usual reasons: too few free \
                 hugepages (see HugePages_Free in /proc/meminfo), not root, a wrong EAL argument"
            ),
            Self::Pool { pool, why } => write!(
                f,
                "packet pool {pool:?} could not be made: {why}; raise the memory given to DPDK or lower the \
                 number of buffers"
            ),
            Self::PoolFixed => {
                write!(f, "a port frees its packets in bulk, so no second packet pool can be made")
            }
            Self::Thread(why) => write!(f, "a worker thread could not be registered with DPDK: {why}"),
            Self::Device { device, doing, why } => write!(f, "device {device:?}: {doing}: {why}"),
            Self::Unable { device, what } => write!(f, "device {device:?}: {what}"),
        }
    }
}

impl std::error::Error for Error {}

//! Packet pools.

use crate::eal::{Core, Eal};
use crate::error::{Errno, Error};
use crate::mbuf::Mbuf;
use dpdk_sys::rte_mempool;
use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use turnpike_engine::BufferSource;

/// A pool of packet buffers of one size.
///
/// A buffer may outlive the pool's handle: the memory goes back only once every buffer has come home.
#[derive(Debug)]
pub struct Mempool {
    pool: Arc<Pool>,
}

#[derive(Debug)]
pub(crate) struct Pool {
    raw: NonNull<rte_mempool>,
    size: u32,
    /// Bytes of a packet behind the headroom.
    room: usize,
    core: Arc<Core>,
}

// SAFETY: DPDK's default pool ("ring_mp_mc") takes calls from any thread at any time.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

/// Bytes in front of a packet in a fresh buffer, for headers to be put there.
pub const HEADROOM: usize = dpdk_sys::TURNPIKE_HEADROOM as usize;

impl Mempool {
    /// A pool of `count` buffers with room for `room` bytes of packet each behind [`HEADROOM`], and a cache
    /// of `cache` buffers (at most 512 and two thirds of `count`) for each registered thread.
    ///
    /// # Errors
    /// If there is not enough memory, the name is taken or too long, or a number is out of range.
    pub fn new(eal: &Eal, name: &str, count: u32, cache: u32, room: usize) -> Result<Self, Error> {
        let text = CString::new(name).map_err(|_| Error::ZeroByte(name.to_owned()))?;
        let failed = |why| Error::Pool { pool: name.to_owned(), why };
        let data_room = u16::try_from(room.saturating_add(HEADROOM)).map_err(|_| failed(Errno(22)))?;
        let mut control = eal.core().control();
        if control.fast_free_ports > 0 {
            return Err(Error::PoolFixed);
        }
        // SAFETY: DPDK is started; the name is a string ended by zero that DPDK copies.
        let raw = unsafe {
            dpdk_sys::rte_pktmbuf_pool_create(
                text.as_ptr(),
                count,
                cache,
                0,
                data_room,
                dpdk_sys::TURNPIKE_SOCKET_ANY,
            )
        };
        let raw = NonNull::new(raw).ok_or_else(|| failed(Errno::last()))?;
        control.pools += 1;
        let pool = Pool { raw, size: count, room, core: Arc::clone(eal.core()) };
        Ok(Self { pool: Arc::new(pool) })
    }

    /// Buffers of the pool.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.pool.size
    }

    /// Buffers at home, those in the threads' caches included. Buffers in a device's RX queue are not.
    #[must_use]
    pub fn available(&self) -> u32 {
        self.pool.available()
    }

    /// Buffers out: in queues of devices, rings and hands.
    #[must_use]
    pub fn in_use(&self) -> u32 {
        self.size().saturating_sub(self.available())
    }

    /// Bytes of packet that a buffer holds behind the usual headroom.
    #[must_use]
    pub fn room(&self) -> usize {
        self.pool.room
    }

    /// A source of empty buffers, one for each thread that makes packets.
    #[must_use]
    pub fn source(&self) -> MbufSource {
        MbufSource { pool: Arc::clone(&self.pool) }
    }

    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }
}

impl Pool {
    pub(crate) fn as_ptr(&self) -> *mut rte_mempool {
        self.raw.as_ptr()
    }

    pub(crate) fn room(&self) -> usize {
        self.room
    }

    fn available(&self) -> u32 {
        // SAFETY: the pool lives; the function only counts.
        unsafe { dpdk_sys::rte_mempool_avail_count(self.raw.as_ptr()) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let core = Arc::clone(&self.core);
        let mut control = core.control();
        if self.available() < self.size {
            // Somebody still holds packets. Freeing the pool would pull them away from under him.
            core.packets_at_large.store(true, Ordering::SeqCst);
            return;
        }
        control.pools = control.pools.saturating_sub(1);
        // SAFETY: every buffer is at home, and with this last reference nobody can take one out.
        unsafe { dpdk_sys::rte_mempool_free(self.raw.as_ptr()) };
    }
}

/// Takes empty buffers from a pool.
#[derive(Debug)]
pub struct MbufSource {
    pool: Arc<Pool>,
}

impl BufferSource<Mbuf> for MbufSource {
    fn take(&mut self, length: usize) -> Option<Mbuf> {
        if length > self.pool.room {
            return None;
        }
        // SAFETY: the pool lives. What comes back is a buffer of one segment that is ours alone.
        let raw = unsafe { dpdk_sys::turnpike_pktmbuf_alloc(self.pool.as_ptr()) };
        NonNull::new(raw).map(Mbuf::owning)
    }
}

//! Packets in DPDK's buffers.

use dpdk_sys::rte_mbuf;
use std::fmt;
use std::ptr::NonNull;
use turnpike_engine::Buffer;

/// A packet in one segment that belongs to its holder alone. Dropped, it goes home to its pool, once.
///
/// ```compile_fail,E0382
/// // Use after transmit: the queue has taken the packets, the vector no longer has them.
/// fn after_transmit(queue: &mut turnpike_dpdk::TxQueue, packet: turnpike_dpdk::Mbuf) {
///     let mut packets = vec![packet];
///     queue.burst(&mut packets);
///     drop(packet);
/// }
/// ```
///
/// ```compile_fail,E0382
/// // Double free: a packet is no `Clone` and no `Copy`.
/// fn twice(packet: turnpike_dpdk::Mbuf) {
///     drop(packet);
///     drop(packet);
/// }
/// ```
#[repr(transparent)]
pub struct Mbuf(NonNull<rte_mbuf>);

// SAFETY: a buffer may be used and freed by any thread, and this one has one owner. (It is not Sync:
// the pointer inside sees to that.)
unsafe impl Send for Mbuf {}

impl Mbuf {
    /// Takes over `raw`, which must have one segment, one reference and no other holder.
    pub(crate) fn owning(raw: NonNull<rte_mbuf>) -> Self {
        Self(raw)
    }

    fn raw(&self) -> &rte_mbuf {
        // SAFETY: valid and ours alone as long as `self` is.
        unsafe { self.0.as_ref() }
    }

    fn raw_mut(&mut self) -> &mut rte_mbuf {
        // SAFETY: valid and ours alone as long as `self` is.
        unsafe { self.0.as_mut() }
    }

    fn set_length(&mut self, length: u16) {
        let raw = self.raw_mut();
        raw.data_len = length;
        raw.pkt_len = u32::from(length);
    }

    /// Bytes free in front of the packet.
    #[must_use]
    pub fn headroom(&self) -> usize {
        usize::from(self.raw().data_off)
    }

    /// Bytes free behind the packet.
    #[must_use]
    pub fn tailroom(&self) -> usize {
        let raw = self.raw();
        usize::from(raw.buf_len) - usize::from(raw.data_off) - usize::from(raw.data_len)
    }

    /// Gives all of `packets` back to their pools in one call.
    pub fn free_bulk(packets: &mut Vec<Self>) {
        let count = packets.len();
        let first = packets.as_mut_ptr().cast::<*mut rte_mbuf>();
        // SAFETY: shrinking; the elements are not looked at through the vector again, so no `Drop` frees
        // them a second time.
        unsafe { packets.set_len(0) };
        // SAFETY: `Mbuf` is transparent over a pointer, so these are `count` pointers to packets that
        // belonged to the vector alone. A vector's length fits 32 bits here: no pool has more buffers.
        unsafe { dpdk_sys::rte_pktmbuf_free_bulk(first, count as u32) };
    }
}

impl Drop for Mbuf {
    fn drop(&mut self) {
        // SAFETY: ours alone, and not used again.
        unsafe { dpdk_sys::turnpike_pktmbuf_free(self.0.as_ptr()) };
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mbuf").field("length", &self.raw().data_len).finish_non_exhaustive()
    }
}

impl Buffer for Mbuf {
    #[inline]
    fn bytes(&self) -> &[u8] {
        let raw = self.raw();
        // SAFETY: DPDK and this module keep data_off within the buffer.
        let start = unsafe { raw.buf_addr.cast::<u8>().add(usize::from(raw.data_off)) };
        // SAFETY: data_off + data_len <= buf_len; the memory came zeroed from the kernel or was written by
        // the device, and lives and stays ours as long as `self`.
        unsafe { std::slice::from_raw_parts(start, usize::from(raw.data_len)) }
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        let raw = self.raw_mut();
        let length = usize::from(raw.data_len);
        // SAFETY: as in `bytes`.
        let start = unsafe { raw.buf_addr.cast::<u8>().add(usize::from(raw.data_off)) };
        // SAFETY: as in `bytes`; `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(start, length) }
    }

    #[inline]
    fn prepend(&mut self, count: usize) -> bool {
        let raw = self.raw_mut();
        match u16::try_from(count) {
            Ok(count) if count <= raw.data_off => {
                raw.data_off -= count;
                let length = raw.data_len + count;
                self.set_length(length);
                true
            }
            _ => false,
        }
    }

    #[inline]
    fn trim_front(&mut self, count: usize) {
        let raw = self.raw_mut();
        let count = u16::try_from(count).unwrap_or(u16::MAX).min(raw.data_len);
        raw.data_off += count;
        let length = raw.data_len - count;
        self.set_length(length);
    }

    #[inline]
    fn resize(&mut self, length: usize) -> bool {
        let raw = self.raw_mut();
        match u16::try_from(length) {
            Ok(length) if length <= raw.buf_len - raw.data_off => {
                self.set_length(length);
                true
            }
            _ => false,
        }
    }
}

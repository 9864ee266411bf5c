//! Queues of a started port. Each belongs to one thread at a time.

use crate::mbuf::Mbuf;
use crate::port::Shared;
use dpdk_sys::rte_mbuf;
use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Most packets of one burst.
pub const BURST: usize = 64;

/// A receive queue. It may move to another thread, but two threads cannot poll it:
///
/// ```compile_fail,E0499
/// fn share(mut queue: turnpike_dpdk::RxQueue) {
///     std::thread::scope(|scope| {
///         scope.spawn(|| queue.burst(&mut Vec::with_capacity(64)));
///         scope.spawn(|| queue.burst(&mut Vec::with_capacity(64)));
///     });
/// }
/// ```
///
/// ```compile_fail,E0277
/// fn need_sync<T: Sync>() {}
/// need_sync::<turnpike_dpdk::RxQueue>();
/// ```
///
/// ```
/// fn need_send<T: Send>() {}
/// need_send::<turnpike_dpdk::RxQueue>();
/// need_send::<turnpike_dpdk::TxQueue>();
/// need_send::<turnpike_dpdk::Mbuf>();
/// ```
#[derive(Debug)]
pub struct RxQueue {
    end: End,
}

/// A transmit queue. It may move to another thread, but two threads cannot use it:
///
/// ```compile_fail,E0599
/// fn share(queue: turnpike_dpdk::TxQueue) {
///     let other = queue.clone();
/// }
/// ```
///
/// ```compile_fail,E0277
/// fn need_sync<T: Sync>() {}
/// need_sync::<turnpike_dpdk::TxQueue>();
/// ```
#[derive(Debug)]
pub struct TxQueue {
    end: End,
}

#[derive(Debug)]
struct End {
    port: u16,
    queue: u16,
    shared: Arc<Shared>,
    /// Not Sync.
    _one_thread: PhantomData<Cell<()>>,
}

impl End {
    fn new(queue: u16, shared: &Arc<Shared>) -> Self {
        Self { port: shared.id(), queue, shared: Arc::clone(shared), _one_thread: PhantomData }
    }
}

impl RxQueue {
    /// Of a started port, once for each `queue` below its number of RX queues.
    pub(crate) fn new(queue: u16, shared: &Arc<Shared>) -> Self {
        Self { end: End::new(queue, shared) }
    }

    /// Takes packets off the queue: at most [`BURST`], and no more than `into` has room for without growing.
    /// Returns how many came.
    ///
    /// A packet that the device delivered in several segments is moved into one. Where that is not possible
    /// it is dropped and counted in [`crate::PortStats::rx_errors`].
    #[inline]
    pub fn burst(&mut self, into: &mut Vec<Mbuf>) -> usize {
        let spare = into.spare_capacity_mut();
        let room = spare.len().min(BURST);
        if room == 0 {
            return 0;
        }
        let slots = spare.as_mut_ptr().cast::<*mut rte_mbuf>();
        // SAFETY: the port is started and the queue set up as long as `shared` lives; this is the only object
        // for the queue and we have it exclusively; `slots` has room for `room` pointers.
        let came = unsafe { dpdk_sys::turnpike_rx_burst(self.end.port, self.end.queue, slots, room as u16) };
        let came = usize::from(came).min(room);
        // SAFETY: DPDK has written `came` pointers to packets that are ours now.
        let packets = unsafe { std::slice::from_raw_parts_mut(slots, came) };
        let mut kept = 0;
        for place in 0..came {
            let packet = packets[place];
            // SAFETY: a valid packet that nobody else has; the reference ends with the next line.
            let header = unsafe { &*packet };
            let odd = header.nb_segs != 1 || header.ol_flags & dpdk_sys::TURNPIKE_RX_VLAN_STRIPPED != 0;
            if !odd {
                packets[kept] = packet;
                kept += 1;
            } else if let Some(packet) = self.straighten(packet) {
                packets[kept] = packet;
                kept += 1;
            }
        }
        let length = into.len() + kept;
        // SAFETY: the `kept` elements behind the old end are initialised: `Mbuf` is transparent over a pointer
        // that is not null, and each packet has one segment and no other holder.
        unsafe { into.set_len(length) };
        kept
    }

    /// One segment, and the VLAN tag inside the frame even if the device took it out.
    #[cold]
    fn straighten(&mut self, mut packet: *mut rte_mbuf) -> Option<*mut rte_mbuf> {
        // SAFETY: a valid packet that nobody else has; the segments stay linked to it.
        let mut failed = unsafe { dpdk_sys::turnpike_pktmbuf_linearize(packet) } != 0;
        // SAFETY: as above.
        let flags = unsafe { (*packet).ol_flags };
        if !failed && flags & dpdk_sys::TURNPIKE_RX_VLAN_STRIPPED != 0 {
            // SAFETY: as above. The function may move the packet to another buffer, and then says so.
            failed = unsafe { dpdk_sys::turnpike_vlan_insert(&raw mut packet) } != 0;
        }
        if failed {
            // SAFETY: ours, and not used again.
            unsafe { dpdk_sys::turnpike_pktmbuf_free(packet) };
            self.end.shared.misshapen.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(packet)
    }
}

impl TxQueue {
    /// Of a started port, once for each `queue` below its number of TX queues.
    pub(crate) fn new(queue: u16, shared: &Arc<Shared>) -> Self {
        Self { end: End::new(queue, shared) }
    }

    /// Hands packets to the device and returns how many it took. The rest stays in `from`, at its front, in
    /// order.
    #[inline]
    pub fn burst(&mut self, from: &mut Vec<Mbuf>) -> usize {
        let offered = from.len().min(usize::from(u16::MAX));
        if offered == 0 {
            return 0;
        }
        let first = from.as_mut_ptr().cast::<*mut rte_mbuf>();
        let length = from.len();
        // SAFETY: shrinking. Until the length is restored no packet belongs to the vector, so that no packet
        // that the device took can be dropped.
        unsafe { from.set_len(0) };
        // SAFETY: the port is started and the queue set up as long as `shared` lives; this is the only object
        // for the queue and we have it exclusively; `first` points to `offered` packets of one segment that
        // are ours alone.
        let took =
            unsafe { dpdk_sys::turnpike_tx_burst(self.end.port, self.end.queue, first, offered as u16) };
        let took = usize::from(took).min(offered);
        if took < length {
            // SAFETY: `took` is within the vector's old length.
            let rest = unsafe { first.add(took) };
            // SAFETY: both ranges lie in the vector's old length; the packets there are still ours.
            unsafe { std::ptr::copy(rest, first, length - took) };
            // SAFETY: exactly the packets that the device did not take.
            unsafe { from.set_len(length - took) };
        }
        took
    }
}

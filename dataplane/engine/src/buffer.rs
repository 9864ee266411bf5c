//! What the engine asks of a packet buffer. Two exist: DPDK's mbuf and the simulator's frame.

/// A packet in one contiguous piece, from the first byte of its Ethernet header to the last before the FCS.
pub trait Buffer: Sized {
    /// The frame.
    fn bytes(&self) -> &[u8];

    /// The frame, to rewrite in place.
    fn bytes_mut(&mut self) -> &mut [u8];

    /// Grows the frame by `count` bytes at its front (their content is arbitrary). `false`, and nothing
    /// changed, if there is no headroom.
    #[must_use]
    fn prepend(&mut self, count: usize) -> bool;

    /// Takes `count` bytes off the front. `count` is at most the frame's length.
    fn trim_front(&mut self, count: usize);

    /// Sets the frame's length, growing or cutting at its end (bytes gained are arbitrary). `false`, and
    /// nothing changed, if there is no room.
    #[must_use]
    fn resize(&mut self, length: usize) -> bool;
}

/// Where new buffers come from.
pub trait BufferSource<B> {
    /// An empty buffer with the usual headroom and room for `length` bytes, or `None` if there is none left.
    fn take(&mut self, length: usize) -> Option<B>;
}

//! A packet buffer in ordinary memory, of a bounded supply.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use turnpike_engine::{Buffer, BufferSource};

/// Bytes before the frame, as DPDK leaves them.
const HEADROOM: usize = 128;
/// Bytes a buffer holds, headroom included.
const ROOM: usize = 16 * 1024;

/// A frame. Counts itself out of its supply when it is dropped.
#[derive(Debug)]
pub struct Frame {
    bytes: Vec<u8>,
    start: usize,
    live: Arc<AtomicUsize>,
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Buffer for Frame {
    fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }

    fn prepend(&mut self, count: usize) -> bool {
        let fits = count <= self.start;
        if fits {
            self.start -= count;
        }
        fits
    }

    fn trim_front(&mut self, count: usize) {
        self.start += count;
    }

    fn resize(&mut self, length: usize) -> bool {
        let fits = self.start + length <= ROOM;
        if fits {
            self.bytes.resize(self.start + length, 0xa5);
        }
        fits
    }
}

/// A supply of frames that knows how many are out.
#[derive(Clone, Debug)]
pub struct Frames {
    live: Arc<AtomicUsize>,
    limit: usize,
}

impl Frames {
    /// A supply of `limit` frames.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { live: Arc::new(AtomicUsize::new(0)), limit }
    }

    /// Frames that exist.
    #[must_use]
    pub fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// A frame with these bytes, whatever the limit.
    #[must_use]
    pub fn frame(&self, content: &[u8]) -> Frame {
        self.live.fetch_add(1, Ordering::Relaxed);
        let mut bytes = vec![0; HEADROOM];
        bytes.extend_from_slice(content);
        Frame { bytes, start: HEADROOM, live: Arc::clone(&self.live) }
    }
}

impl BufferSource<Frame> for Frames {
    fn take(&mut self, length: usize) -> Option<Frame> {
        (self.live() < self.limit && HEADROOM + length <= ROOM).then(|| self.frame(&[]))
    }
}

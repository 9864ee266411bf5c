//! Packet buffers on large pages, laid out like a device's.

use crate::machine;
use turnpike_engine::{Buffer, BufferSource};
use turnpike_shm::measure;

/// Bytes before the frame, as DPDK leaves them.
const HEADROOM: usize = 128;
/// Bytes from buffer to buffer: an odd number of cache lines, so that headers spread over all sets of a cache, as
/// DPDK's padding of pools does.
const STRIDE: usize = 37 * 64;
/// Bytes at the front of a frame that headers lie in.
pub const HEADERS: usize = 80;

/// A buffer of a [`Stock`].
#[derive(Debug)]
pub struct Frame {
    room: &'static mut [u8],
    start: usize,
    end: usize,
    /// The worker whose stock it is from.
    pub home: usize,
}

impl Frame {
    /// Makes it a frame of `length` bytes whose first ones are `headers`; the rest stays what it was.
    #[inline]
    pub fn write(&mut self, headers: &[u8], length: usize) {
        self.start = HEADROOM;
        self.end = HEADROOM + length.min(STRIDE - HEADROOM);
        let count = headers.len().min(length);
        self.room[HEADROOM..HEADROOM + count].copy_from_slice(&headers[..count]);
    }

    /// Drops its headers from the caches.
    pub fn cool(&self) {
        measure::evict(&self.room[HEADROOM..HEADROOM + HEADERS]);
    }
}

impl Buffer for Frame {
    #[inline]
    fn bytes(&self) -> &[u8] {
        &self.room[self.start..self.end]
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.room[self.start..self.end]
    }

    #[inline]
    fn prepend(&mut self, count: usize) -> bool {
        let fits = count <= self.start;
        if fits {
            self.start -= count;
        }
        fits
    }

    #[inline]
    fn trim_front(&mut self, count: usize) {
        self.start += count;
    }

    #[inline]
    fn resize(&mut self, length: usize) -> bool {
        let fits = self.start + length <= self.room.len();
        if fits {
            self.end = self.start + length;
        }
        fits
    }
}

/// Free buffers, the last one back first out again.
#[derive(Debug)]
pub struct Stock {
    free: Vec<Frame>,
    huge: bool,
}

impl Stock {
    /// `count` buffers for worker `home`.
    ///
    /// # Errors
    /// If there is no memory for them.
    pub fn new(count: usize, home: usize) -> Result<Self, String> {
        let (mut memory, huge) = machine::memory(count * STRIDE)?;
        let bytes = memory.array::<u8>(count * STRIDE).ok_or("too little memory for packet buffers")?;
        // For good: a frame may be in another worker's hands when this stock is gone.
        let bytes = Box::leak(Box::new(bytes));
        // A page that was only mapped is the shared page of zeros until it is written.
        bytes.fill(0);
        let frames = bytes.chunks_exact_mut(STRIDE);
        let free = frames.map(|room| Frame { room, start: HEADROOM, end: HEADROOM, home }).collect();
        Ok(Self { free, huge })
    }

    /// What the buffers lie on.
    pub fn pages(&self) -> &'static str {
        machine::pages(self.huge)
    }

    /// Memory of the buffers, if all of them are here.
    pub fn bytes(&self) -> u64 {
        (self.free.len() * STRIDE) as u64
    }

    /// Takes a buffer out.
    pub fn pop(&mut self) -> Option<Frame> {
        self.free.pop()
    }

    /// Puts buffers back.
    #[inline]
    pub fn put_back(&mut self, frames: &mut Vec<Frame>) {
        self.free.append(frames);
    }

    /// Puts one buffer back.
    pub fn put(&mut self, frame: Frame) {
        self.free.push(frame);
    }

    /// Gives at most `most` buffers of worker `home` away.
    pub fn send_home(&mut self, home: usize, most: usize, mut give: impl FnMut(Frame) -> Result<(), Frame>) {
        let mut given = 0;
        let mut index = 0;
        while index < self.free.len() && given < most {
            if self.free[index].home != home {
                index += 1;
                continue;
            }
            given += 1;
            if let Err(frame) = give(self.free.swap_remove(index)) {
                self.free.push(frame);
                break;
            }
        }
    }

    /// Free ones.
    pub fn len(&self) -> usize {
        self.free.len()
    }

    /// The `count` buffers that came back last, for a look at what left in them.
    pub fn last(&self, count: usize) -> &[Frame] {
        let first = self.free.len().saturating_sub(count);
        &self.free[first..]
    }
}

impl BufferSource<Frame> for Stock {
    fn take(&mut self, length: usize) -> Option<Frame> {
        if length > STRIDE - HEADROOM {
            return None;
        }
        let mut frame = self.free.pop()?;
        frame.start = HEADROOM;
        frame.end = HEADROOM;
        Some(frame)
    }
}

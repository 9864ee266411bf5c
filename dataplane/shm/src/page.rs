//! Pages of values that one process publishes and the other reads without stopping it: a sequence number
//! in a line of its own, odd while the page is written, then the value (see [`turnpike_abi::layout::page`]).

use crate::atomic::{Ordering, fence, pause};
use crate::words::{Own, Peer};
use core::marker::PhantomData;
use turnpike_abi::layout::LINE;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Readings of a page that is being written before a reader gives up. A write takes about a microsecond
/// and happens some ten times a second, but the kernel may stop the writer halfway: enough for some
/// milliseconds, since the reader gives the processor away meanwhile.
const ATTEMPTS: usize = if cfg!(loom) { 4 } else { 20_000 };

/// A page holds whole words.
const fn words<T>() -> usize {
    assert!(size_of::<T>().is_multiple_of(size_of::<u64>()), "a page holds whole words");
    size_of::<T>() / size_of::<u64>()
}

/// A value as the words that are stored.
pub(crate) fn as_words<T: IntoBytes + Immutable>(value: &T) -> impl ExactSizeIterator<Item = u64> {
    let (words, _) = value.as_bytes().as_chunks::<8>();
    words.iter().map(|bytes| u64::from_ne_bytes(*bytes))
}

/// Copies a value out of the peer's memory, word by word, each read once.
pub(crate) fn copy<T: FromBytes + IntoBytes>(peer: &Peer, offset: usize) -> Option<T> {
    let mut value = T::new_zeroed();
    let (chunks, rest) = value.as_mut_bytes().as_chunks_mut::<8>();
    if !rest.is_empty() {
        return None;
    }
    // Through a buffer of a line, so that no value is on the stack twice.
    let mut line = [0; LINE / 8];
    for (index, part) in chunks.chunks_mut(line.len()).enumerate() {
        let words = line.get_mut(..part.len())?;
        peer.copy(offset.checked_add(index * LINE)?, words)?;
        for (to, from) in part.iter_mut().zip(words) {
            *to = from.to_ne_bytes();
        }
    }
    Some(value)
}

/// Publishes values of `T` in a page of a segment of this process. One writer a page.
#[derive(Debug)]
pub struct PageWriter<T> {
    own: Own,
    offset: usize,
    /// Even between publications.
    sequence: u64,
    value: PhantomData<fn(T)>,
}

impl<T: IntoBytes + Immutable> PageWriter<T> {
    /// `None` if the page does not lie in the segment.
    pub(crate) fn over(own: Own, offset: usize) -> Option<Self> {
        own.0.words(offset, LINE / 8 + const { words::<T>() })?;
        Some(Self { own, offset, sequence: 0, value: PhantomData })
    }

    /// Replaces the page's value. Readers see the old one or this one, whole. Wait-free.
    #[inline]
    pub fn publish(&mut self, value: &T) {
        let odd = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(2);
        // The page lies in the segment (checked by `over`), so each step takes place.
        let _ = self.own.store(self.offset, odd, Ordering::Relaxed);
        // Who reads a word of what follows and then the sequence sees it odd.
        fence(Ordering::Release);
        let _ = self.own.store_all(self.offset + LINE, as_words(value));
        let _ = self.own.store(self.offset, self.sequence, Ordering::Release);
    }
}

impl<const N: usize> PageWriter<[u64; N]> {
    /// Replaces the page's first words, as [`PageWriter::publish`]; what lies behind them stays. Words beyond the page
    /// are left out.
    pub fn publish_first(&mut self, words: &[u64]) {
        let words = words.get(..N).unwrap_or(words);
        let odd = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(2);
        let _ = self.own.store(self.offset, odd, Ordering::Relaxed);
        fence(Ordering::Release);
        let _ = self.own.store_all(self.offset + LINE, words.iter().copied());
        let _ = self.own.store(self.offset, self.sequence, Ordering::Release);
    }
}

/// Reads the values that a [`PageWriter`] of the other process publishes.
#[derive(Debug)]
pub struct PageReader<T> {
    peer: Peer,
    offset: usize,
    value: PhantomData<fn() -> T>,
}

impl<T> Clone for PageReader<T> {
    fn clone(&self) -> Self {
        Self { peer: self.peer.clone(), offset: self.offset, value: PhantomData }
    }
}

impl<T: FromBytes + IntoBytes> PageReader<T> {
    /// `None` if the page does not lie in the segment.
    pub(crate) fn over(peer: Peer, offset: usize) -> Option<Self> {
        peer.0.words(offset, LINE / 8 + const { words::<T>() })?;
        Some(Self { peer, offset, value: PhantomData })
    }

    /// The value published last; zeros if none was. `None` if the writer was always halfway, because it
    /// died there or means harm; that takes some milliseconds to find out.
    #[must_use]
    pub fn read(&self) -> Option<T> {
        for attempt in 0..ATTEMPTS {
            let before = self.peer.acquire(self.offset)?;
            if before.is_multiple_of(2) {
                let value = copy(&self.peer, self.offset + LINE)?;
                // The words are read before the sequence is read again.
                fence(Ordering::Acquire);
                if self.peer.load(self.offset)? == before {
                    return Some(value);
                }
            }
            pause(attempt);
        }
        None
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::mapping::Mapping;
    use std::sync::Arc;

    /// Every interleaving, and every stale value the memory model allows, of two publications and a reader.
    #[test]
    fn loom_a_reader_never_sees_half_a_value() {
        let mut model = loom::model::Builder::new();
        model.max_branches = 20_000;
        model.preemption_bound = Some(3);
        model.check(|| {
            let mapping = Arc::new(Mapping::zeroed(LINE + 16));
            let mut writer = PageWriter::<[u64; 2]>::over(Own(Arc::clone(&mapping)), 0).unwrap();
            let reader = PageReader::<[u64; 2]>::over(Peer(mapping), 0).unwrap();
            let thread = loom::thread::spawn(move || {
                writer.publish(&[1, 1]);
                writer.publish(&[2, 2]);
            });
            if let Some([a, b]) = reader.read() {
                assert_eq!(a, b, "torn");
            }
            thread.join().unwrap();
            assert_eq!(reader.read(), Some([2, 2]));
        });
    }
}

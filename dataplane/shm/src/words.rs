//! The two ways to touch a segment: `Own` writes it, `Peer` only reads it. All access is by atomic words,
//! so a peer that writes at the same time gives us garbage at worst, never undefined behaviour.

use crate::atomic::{Ordering, fence};
use crate::mapping::Mapping;
use std::sync::Arc;

/// A segment this process writes.
#[derive(Clone, Debug)]
pub(crate) struct Own(pub(crate) Arc<Mapping>);

impl Own {
    #[inline]
    pub(crate) fn store(&self, offset: usize, value: u64, order: Ordering) -> Option<()> {
        self.0.words(offset, 1)?.first()?.store(value, order);
        Some(())
    }

    /// Stores the words one by one, relaxed.
    #[inline]
    pub(crate) fn store_all(&self, offset: usize, values: impl ExactSizeIterator<Item = u64>) -> Option<()> {
        let words = self.0.words(offset, values.len())?;
        for (word, value) in words.iter().zip(values) {
            word.store(value, Ordering::Relaxed);
        }
        Some(())
    }
}

/// A segment the other process writes, mapped read-only here.
#[derive(Clone, Debug)]
pub(crate) struct Peer(pub(crate) Arc<Mapping>);

impl Peer {
    /// Relaxed: read-only memory admits no other atomic load.
    #[inline]
    pub(crate) fn load(&self, offset: usize) -> Option<u64> {
        Some(self.0.words(offset, 1)?.first()?.load(Ordering::Relaxed))
    }

    /// A load that later accesses do not overtake.
    #[inline]
    pub(crate) fn acquire(&self, offset: usize) -> Option<u64> {
        let value = self.load(offset);
        fence(Ordering::Acquire);
        value
    }

    /// Copies words out one by one, relaxed; each is read once.
    #[inline]
    pub(crate) fn copy(&self, offset: usize, to: &mut [u64]) -> Option<()> {
        let words = self.0.words(offset, to.len())?;
        for (to, word) in to.iter_mut().zip(words) {
            *to = word.load(Ordering::Relaxed);
        }
        Some(())
    }
}

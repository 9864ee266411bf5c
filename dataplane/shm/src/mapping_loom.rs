//! Stands in for `mapping.rs` under loom: words on the heap, with the same access to them.

use crate::atomic::AtomicU64;

#[derive(Debug)]
pub(crate) struct Mapping {
    words: Vec<AtomicU64>,
}

impl Mapping {
    pub(crate) fn zeroed(length: usize) -> Self {
        Self { words: (0..length / 8).map(|_| AtomicU64::new(0)).collect() }
    }

    pub(crate) fn words(&self, offset: usize, count: usize) -> Option<&[AtomicU64]> {
        self.words.get(offset / 8..offset / 8 + count)
    }
}

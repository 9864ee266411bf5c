//! Bytes of a table that is sent to the dataplane whole.

use turnpike_abi::table::{TableKind, Writer};
use zerocopy::{Immutable, IntoBytes};

/// A table, ready to be written into a memfd. Its first byte is aligned to 8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    words: Vec<u64>,
    length: usize,
}

impl Table {
    /// The table.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.words.as_bytes().get(..self.length).unwrap_or_default()
    }
}

/// Collects the sections of a table.
#[derive(Clone, Debug)]
pub struct TableBuilder {
    writer: Writer,
    words: Vec<u64>,
}

impl TableBuilder {
    /// A table without sections. `generation` is not 0.
    #[must_use]
    pub fn new(kind: TableKind, generation: u64) -> Self {
        let writer = Writer::new(kind, generation);
        let words = vec![0; writer.length().div_ceil(8)];
        Self { writer, words }
    }

    /// Adds section `index` of the kind.
    ///
    /// # Panics
    /// If the kind has no such section, or the table grows past [`turnpike_abi::table::MAX_TABLE`].
    pub fn section<T: IntoBytes + Immutable>(&mut self, index: usize, records: &[T]) {
        let offset = self.writer.place(index, records);
        self.words.resize(self.writer.length().div_ceil(8), 0);
        self.write(offset, records.as_bytes());
    }

    /// The table with its header.
    #[must_use]
    pub fn finish(mut self) -> Table {
        let header = *self.writer.header();
        self.write(0, header.as_bytes());
        Table { words: self.words, length: self.writer.length() }
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.words.as_mut_bytes()[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

//! Builds a table straight into the memory that is sent.

use crate::error::TableError;
use turnpike_abi::table::{MAX_TABLE, TableKind, Writer};
use turnpike_shm::table::SealedTable;
use zerocopy::{Immutable, IntoBytes};

/// Collects the sections of a table by reference; [`TableBuilder::seal`] copies each once.
#[derive(Clone, Debug)]
pub struct TableBuilder<'a> {
    writer: Writer,
    parts: Vec<(usize, &'a [u8])>,
}

impl<'a> TableBuilder<'a> {
    /// An empty table. Its `generation` is not 0 and grows with every table of a kind.
    #[must_use]
    pub fn new(kind: TableKind, generation: u64) -> Self {
        Self { writer: Writer::new(kind, generation), parts: Vec::new() }
    }

    /// Adds section `index`.
    ///
    /// # Errors
    /// If the table grows past [`MAX_TABLE`].
    ///
    /// # Panics
    /// If a table has no section `index`: the caller's defect.
    pub fn section<T: IntoBytes + Immutable>(
        &mut self,
        index: usize,
        records: &'a [T],
    ) -> Result<&mut Self, TableError> {
        let end = self.writer.length().next_multiple_of(8).saturating_add(size_of_val(records));
        if end > MAX_TABLE {
            return Err(TableError::TooLarge(end));
        }
        let offset = self.writer.place(index, records);
        self.parts.push((offset, records.as_bytes()));
        Ok(self)
    }

    /// The finished table.
    ///
    /// # Errors
    /// If the kernel has no memory for it.
    pub fn seal(&self) -> Result<SealedTable, TableError> {
        let header = self.writer.header().as_bytes();
        let table = SealedTable::write(self.writer.length(), |table| {
            for (offset, bytes) in std::iter::once((0, header)).chain(self.parts.iter().copied()) {
                // `place` gave the offsets and counted the length: the parts lie in the table.
                if let Some(to) = table.get_mut(offset..offset + bytes.len()) {
                    to.copy_from_slice(bytes);
                }
            }
        })?;
        Ok(table)
    }
}

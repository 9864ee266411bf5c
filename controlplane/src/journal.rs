//! The journal: what was granted outlives this process. An embedded store (redb) in `control.state`, written by
//! one thread that commits whatever came in meanwhile together, so that an answer waits for one flush at most.

mod record;

use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition, TableError,
};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use tokio::sync::mpsc::UnboundedSender;
use turnpike_policy::former::{PinholeId, Record, Ticket};

/// Name of the file.
pub const FILE: &str = "journal.redb";
/// Version of the tables below.
const FORMAT: u64 = 1;
/// Notes committed together at most.
const GROUP: usize = 4096;

const ABOUT: TableDefinition<&str, u64> = TableDefinition::new("about");
const PINHOLES: TableDefinition<u64, &[u8]> = TableDefinition::new("pinholes");

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The directory cannot be made.
    #[error("{}: cannot be created: {source}; control.state has to be a directory this user may write", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another process has it.
    #[error("{}: another process has it open: is another turnpike-controlplane running?", path.display())]
    Locked {
        /// Which.
        path: PathBuf,
    },
    /// It is no journal, or a broken one.
    #[error("{}: {why}; nothing was changed: restore it, or move it away to start without pinholes", path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Reading or writing failed.
    #[error("{}: {why}", path.display())]
    Failed {
        /// Which.
        path: PathBuf,
        /// How.
        why: String,
    },
}

/// What was in the journal.
#[derive(Debug)]
pub struct Contents {
    /// Every record, by id.
    pub records: Vec<Record>,
    /// The id the next pinhole has to have, at least.
    pub next_id: u64,
}

/// Notes that are on disk, or could not be brought there.
#[derive(Debug)]
pub struct Written {
    /// Their tickets, in order.
    pub tickets: Vec<Ticket>,
    /// Whether they are durable.
    pub durable: bool,
}

enum Operation {
    Note(Ticket, Record),
    Forget(PinholeId),
}

/// The way to the writing thread. Dropped, it ends once everything is written.
#[derive(Debug)]
pub struct Journal {
    operations: Option<mpsc::Sender<Operation>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Journal {
    /// Opens or creates the journal in `directory` and reads it. `written` gets what became of each note.
    ///
    /// # Errors
    /// If it is not a journal, is damaged, is of a later release, or another process has it open.
    pub fn open(
        directory: &Path,
        written: UnboundedSender<Written>,
    ) -> Result<(Self, Contents), JournalError> {
        std::fs::create_dir_all(directory)
            .map_err(|source| JournalError::Directory { path: directory.to_owned(), source })?;
        let path = directory.join(FILE);
        let database = Database::create(&path).map_err(|error| open_error(&path, &error))?;
        let contents = read(&database, &path)?;
        let (operations, incoming) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || write(&database, &path, &incoming, &written))
            .map_err(|source| JournalError::Directory { path: directory.to_owned(), source })?;
        Ok((Self { operations: Some(operations), thread: Some(thread) }, contents))
    }

    /// Writes a record in place of what is there for its id; the ticket comes back when it is durable.
    pub fn note(&self, ticket: Ticket, record: Record) {
        self.send(Operation::Note(ticket, record));
    }

    /// Deletes a record.
    pub fn forget(&self, id: PinholeId) {
        self.send(Operation::Forget(id));
    }

    fn send(&self, operation: Operation) {
        if let Some(operations) = &self.operations
            && operations.send(operation).is_err()
        {
            tracing::error!("the journal's thread is gone");
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        drop(self.operations.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the journal's thread panicked");
        }
    }
}

fn open_error(path: &Path, error: &DatabaseError) -> JournalError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen => JournalError::Locked { path },
        DatabaseError::Storage(StorageError::Io(error))
            if !matches!(
                error.kind(),
                std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
            ) =>
        {
            JournalError::Failed { path, why: error.to_string() }
        }
        other => JournalError::Unusable { path, why: format!("not a journal, or damaged ({other})") },
    }
}

fn read(database: &Database, path: &Path) -> Result<Contents, JournalError> {
    let unusable = |why: String| JournalError::Unusable { path: path.to_owned(), why };
    let damaged = |error: &dyn std::fmt::Display| unusable(format!("damaged ({error})"));
    let transaction = database.begin_read().map_err(|error| damaged(&error))?;
    let about = match transaction.open_table(ABOUT) {
        Ok(about) => about,
        Err(TableError::TableDoesNotExist(_)) => {
            let mut tables = transaction.list_tables().map_err(|error| damaged(&error))?;
            return match tables.next() {
                None => create(database, path),
                Some(_) => Err(unusable("a store of another program".into())),
            };
        }
        Err(error) => return Err(damaged(&error)),
    };
    let number = |key: &str| match about.get(key) {
        Ok(Some(value)) => Ok(value.value()),
        Ok(None) => Err(unusable(format!("{key:?} is missing"))),
        Err(error) => Err(damaged(&error)),
    };
    let format = number("format")?;
    if format != FORMAT {
        return Err(unusable(format!("written in format {format}, this release knows {FORMAT}")));
    }
    let next_id = number("next_id")?;
    let table = transaction.open_table(PINHOLES).map_err(|error| damaged(&error))?;
    let mut records = Vec::new();
    for entry in table.iter().map_err(|error| damaged(&error))? {
        let (id, bytes) = entry.map_err(|error| damaged(&error))?;
        let id = id.value();
        let record = record::decode(id, bytes.value())
            .map_err(|error| unusable(format!("record of pinhole {id}: {error}")))?;
        records.push(record);
    }
    Ok(Contents { records, next_id })
}

fn create(database: &Database, path: &Path) -> Result<Contents, JournalError> {
    let make = || -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        {
            let mut about = transaction.open_table(ABOUT)?;
            about.insert("format", FORMAT)?;
            about.insert("next_id", 1)?;
            transaction.open_table(PINHOLES)?;
        }
        transaction.commit()?;
        Ok(())
    };
    make().map_err(|error| JournalError::Failed { path: path.to_owned(), why: error.to_string() })?;
    Ok(Contents { records: Vec::new(), next_id: 1 })
}

fn write(
    database: &Database,
    path: &Path,
    incoming: &mpsc::Receiver<Operation>,
    written: &UnboundedSender<Written>,
) {
    while let Ok(first) = incoming.recv() {
        let group: Vec<_> =
            std::iter::once(first).chain(incoming.try_iter().take(GROUP.saturating_sub(1))).collect();
        let result = commit(database, &group);
        if let Err(error) = &result {
            tracing::error!(path = %path.display(), %error, "the journal could not be written");
        }
        let tickets = group.iter().filter_map(|operation| match operation {
            Operation::Note(ticket, _) => Some(*ticket),
            Operation::Forget(_) => None,
        });
        let done = Written { tickets: tickets.collect(), durable: result.is_ok() };
        if !done.tickets.is_empty() && written.send(done).is_err() {
            tracing::debug!("notes are on disk, but nobody waits for them");
        }
    }
}

fn commit(database: &Database, group: &[Operation]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut pinholes = transaction.open_table(PINHOLES)?;
        let mut highest = 0;
        for operation in group {
            match operation {
                Operation::Note(_, record) => {
                    let id = record.pinhole.id.0;
                    highest = highest.max(id);
                    pinholes.insert(id, record::encode(record).as_slice())?;
                }
                Operation::Forget(id) => {
                    pinholes.remove(id.0)?;
                }
            }
        }
        let mut about = transaction.open_table(ABOUT)?;
        let next = about.get("next_id")?.map_or(1, |value| value.value());
        if highest >= next {
            about.insert("next_id", highest.saturating_add(1))?;
        }
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::record::tests::full;
    use super::*;
    use tokio::sync::mpsc::unbounded_channel;

    fn open(directory: &Path) -> (Journal, Contents, tokio::sync::mpsc::UnboundedReceiver<Written>) {
        let (written, done) = unbounded_channel();
        let (journal, contents) = Journal::open(directory, written).unwrap();
        (journal, contents, done)
    }

    #[test]
    fn notes_come_back_and_ids_are_not_used_twice() {
        let directory = tempfile::tempdir().unwrap();
        let (journal, contents, mut done) = open(directory.path());
        assert!(contents.records.is_empty());
        assert_eq!(contents.next_id, 1);
        journal.note(Ticket(1), full(1));
        journal.note(Ticket(2), full(2));
        let mut tickets = Vec::new();
        while tickets.len() < 2 {
            let written = done.blocking_recv().unwrap();
            assert!(written.durable);
            tickets.extend(written.tickets);
        }
        assert_eq!(tickets, [Ticket(1), Ticket(2)]);
        journal.forget(PinholeId(2));
        drop(journal);
        let (_journal, contents, _done) = open(directory.path());
        assert_eq!(contents.records, [full(1)]);
        assert_eq!(contents.next_id, 3);
    }

    #[test]
    fn what_is_not_a_journal_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let (written, _done) = unbounded_channel();
        let garbage: Vec<u8> = (0..8192u32).map(|n| (n % 251) as u8).collect();
        std::fs::write(&path, &garbage).unwrap();
        let error = Journal::open(directory.path(), written.clone()).unwrap_err();
        assert!(error.to_string().contains("move it away"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), garbage);

        std::fs::remove_file(&path).unwrap();
        let foreign: TableDefinition<&str, &str> = TableDefinition::new("other");
        let database = Database::create(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(foreign).unwrap().insert("a", "b").unwrap();
        transaction.commit().unwrap();
        drop(database);
        let error = Journal::open(directory.path(), written).unwrap_err();
        assert!(error.to_string().contains("another program"), "{error}");
    }

    #[test]
    fn a_damaged_record_stops_the_start() {
        let directory = tempfile::tempdir().unwrap();
        drop(open(directory.path()));
        let database = Database::create(directory.path().join(FILE)).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(PINHOLES).unwrap().insert(9, [1u8, 1, 6].as_slice()).unwrap();
        transaction.commit().unwrap();
        drop(database);
        let (written, _done) = unbounded_channel();
        let error = Journal::open(directory.path(), written).unwrap_err().to_string();
        assert!(error.contains("pinhole 9") && error.contains("middle"), "{error}");
    }

    #[test]
    fn two_processes_do_not_share_it() {
        let directory = tempfile::tempdir().unwrap();
        let _first = open(directory.path());
        let (written, _done) = unbounded_channel();
        let error = Journal::open(directory.path(), written).unwrap_err();
        assert!(matches!(error, JournalError::Locked { .. }), "{error}");
    }
}

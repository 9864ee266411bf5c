//! The journal: what was granted outlives this process. An embedded store (redb) in `control.state`, written by
//! one thread that commits whatever came in meanwhile together, so that an answer waits for one flush at most.

use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageError,
    TableDefinition, TableError,
};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use tokio::sync::mpsc::UnboundedSender;
use turnpike_policy::{GroupId, Note, Rule, RuleId, Ticket, Time, Uses};

/// Name of the file.
pub const FILE: &str = "journal.redb";
/// Version of the tables below: a release that does not know all of them must not lose what is in them. Format 2, without
/// permits, is read and becomes this one; format 1 held the pinholes of releases that were never given out.
const FORMAT: u64 = 3;
const WITHOUT_PERMITS: u64 = 2;
/// Effects committed together at most.
const GROUP: usize = 4096;
/// Bytes of pages kept in memory: what is written stays there until its commit.
const CACHE: usize = 64 << 20;

const ABOUT: TableDefinition<&str, u64> = TableDefinition::new("about");
const PCP_EPOCH: &str = "pcp_epoch";
const RULES: TableDefinition<u32, &[u8]> = TableDefinition::new("rules");
/// By the permit's identity, how often it was used.
const PERMITS: TableDefinition<&[u8; 16], &[u8]> = TableDefinition::new("permits");

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
    #[error("{}: {why}; nothing was changed: restore it, or move it away to start without rules", path.display())]
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
    /// Every rule, by identity.
    pub rules: Vec<Rule>,
    /// Uses of permits, by identity.
    pub permits: Vec<([u8; 16], Uses)>,
    /// The identity the next rule has to have, at least.
    pub next_rule: RuleId,
    /// The same of the next group.
    pub next_group: GroupId,
    /// When PCP's epoch began (RFC 6887 section 8.5), milliseconds since the epoch.
    pub pcp_epoch: Option<u64>,
}

/// Notes that are on disk, or could not be brought there.
#[derive(Debug)]
pub struct Written {
    /// Their tickets, in order.
    pub tickets: Vec<Ticket>,
    /// Whether they are durable.
    pub durable: bool,
}

/// A change as it is written.
enum Change {
    Write(RuleId, Vec<u8>),
    Forget(RuleId),
    Use([u8; 16], Time),
    ForgetPermit([u8; 16]),
    Ids(RuleId, GroupId),
    PcpEpoch(u64),
}

struct Operation {
    /// Who waits for it.
    ticket: Option<Ticket>,
    changes: Vec<Change>,
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
        let database = Database::builder()
            .set_cache_size(CACHE)
            .create(&path)
            .map_err(|error| open_error(&path, &error))?;
        let contents = read(&database, &path)?;
        let (operations, incoming) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || write(&database, &path, &incoming, &written))
            .map_err(|source| JournalError::Directory { path: directory.to_owned(), source })?;
        Ok((Self { operations: Some(operations), thread: Some(thread) }, contents))
    }

    /// Makes changes, all of them or none; the ticket comes back when they are durable.
    pub fn note(&self, ticket: Ticket, notes: Vec<Note>) {
        let changes = notes.into_iter().map(|note| match note {
            Note::Write(rule) => Change::Write(rule.id, rule.encode()),
            Note::Forget(id) => Change::Forget(id),
            Note::Use { permit, expires } => Change::Use(permit, expires),
            Note::ForgetPermit(permit) => Change::ForgetPermit(permit),
            Note::Ids { rules, groups } => Change::Ids(rules, groups),
        });
        self.send(Operation { ticket: Some(ticket), changes: changes.collect() });
    }

    /// PCP's epoch began anew. Nobody waits for it: lost with what was noted after it, it ends the epoch before too.
    pub fn pcp_epoch(&self, began: u64) {
        self.send(Operation { ticket: None, changes: vec![Change::PcpEpoch(began)] });
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
    if !matches!(format, FORMAT | WITHOUT_PERMITS) {
        return Err(unusable(format!("written in format {format}, this release knows {FORMAT}")));
    }
    let word =
        |key: &str| u32::try_from(number(key)?).map_err(|_| unusable(format!("{key:?} is beyond 32 bits")));
    let (next_rule, next_group) = (RuleId(word("next_rule")?), GroupId(word("next_group")?));
    let table = transaction.open_table(RULES).map_err(|error| damaged(&error))?;
    let mut rules = Vec::with_capacity(usize::try_from(table.len().unwrap_or(0)).unwrap_or(0));
    for entry in table.iter().map_err(|error| damaged(&error))? {
        let (id, bytes) = entry.map_err(|error| damaged(&error))?;
        let id = RuleId(id.value());
        let rule = Rule::decode(id, bytes.value())
            .map_err(|error| unusable(format!("record of rule {id}: {error}")))?;
        rules.push(rule);
    }
    let pcp_epoch = about.get(PCP_EPOCH).map_err(|error| damaged(&error))?.map(|value| value.value());
    let mut permits = Vec::new();
    if format == WITHOUT_PERMITS {
        add_permits(database)
            .map_err(|error| JournalError::Failed { path: path.to_owned(), why: error.to_string() })?;
    } else {
        let table = transaction.open_table(PERMITS).map_err(|error| damaged(&error))?;
        for entry in table.iter().map_err(|error| damaged(&error))? {
            let (permit, bytes) = entry.map_err(|error| damaged(&error))?;
            let uses = Uses::decode(bytes.value())
                .map_err(|error| unusable(format!("record of permit {:02x?}: {error}", permit.value())))?;
            permits.push((*permit.value(), uses));
        }
    }
    Ok(Contents { rules, permits, next_rule, next_group, pcp_epoch })
}

/// Makes format 2 the present one.
fn add_permits(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(ABOUT)?.insert("format", FORMAT)?;
    transaction.open_table(PERMITS)?;
    transaction.commit()?;
    Ok(())
}

fn create(database: &Database, path: &Path) -> Result<Contents, JournalError> {
    let make = || -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        {
            let mut about = transaction.open_table(ABOUT)?;
            about.insert("format", FORMAT)?;
            about.insert("next_rule", 1)?;
            about.insert("next_group", 1)?;
            transaction.open_table(RULES)?;
            transaction.open_table(PERMITS)?;
        }
        transaction.commit()?;
        Ok(())
    };
    make().map_err(|error| JournalError::Failed { path: path.to_owned(), why: error.to_string() })?;
    let (next_rule, next_group) = (RuleId(1), GroupId(1));
    Ok(Contents { rules: Vec::new(), permits: Vec::new(), next_rule, next_group, pcp_epoch: None })
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
        let tickets = group.iter().filter_map(|operation| operation.ticket).collect();
        if written.send(Written { tickets, durable: result.is_ok() }).is_err() {
            tracing::debug!("notes are on disk, but nobody waits for them");
        }
    }
}

fn commit(database: &Database, group: &[Operation]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut rules = transaction.open_table(RULES)?;
        let mut permits = transaction.open_table(PERMITS)?;
        let mut about = transaction.open_table(ABOUT)?;
        for change in group.iter().flat_map(|operation| &operation.changes) {
            match change {
                Change::Write(id, bytes) => {
                    rules.insert(id.0, bytes.as_slice())?;
                }
                Change::Forget(id) => {
                    rules.remove(id.0)?;
                }
                Change::Use(permit, expires) => {
                    let before = permits.get(permit)?.map(|bytes| Uses::decode(bytes.value())).transpose();
                    let before = before.map_err(|error| redb::Error::Corrupted(error.to_string()))?;
                    permits.insert(permit, Uses::and_one(before, *expires).encode().as_slice())?;
                }
                Change::ForgetPermit(permit) => {
                    permits.remove(permit)?;
                }
                Change::PcpEpoch(began) => {
                    about.insert(PCP_EPOCH, *began)?;
                }
                Change::Ids(next_rule, next_group) => {
                    about.insert("next_rule", u64::from(next_rule.0))?;
                    about.insert("next_group", u64::from(next_group.0))?;
                }
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
    use turnpike_policy::{
        Action, Agent, Annotation, Behaviour, Direction, Ending, Front, Parity, Protocol, Time, Tuple,
    };

    fn rule(id: u32) -> Rule {
        Rule {
            id: RuleId(id),
            group: GroupId(id),
            owner: Agent::new(Front::Simco, "proxy.example"),
            zone: "inside".into(),
            action: Action::Enable { direction: Direction::Inbound, parity: Parity::Any },
            protocol: Protocol::UDP,
            range: 1,
            internal: Some(Tuple::new("10.0.0.1".parse().unwrap(), 5004)),
            external: Tuple::new("192.0.2.1".parse().unwrap(), 0),
            pool: Some("public".into()),
            outside: None,
            behaviour: Behaviour::default(),
            locked: None,
            ending: Ending::Cut,
            annotation: Annotation::default(),
            created: Time(u64::from(id)),
            expires: Some(Time(99)),
        }
    }

    fn write(id: u32) -> Vec<Note> {
        vec![Note::Write(Box::new(rule(id)))]
    }

    fn open(directory: &Path) -> (Journal, Contents, UnboundedReceiver<Written>) {
        let (written, done) = unbounded_channel();
        let (journal, contents) = Journal::open(directory, written).unwrap();
        (journal, contents, done)
    }

    #[test]
    fn notes_come_back_with_the_identities_to_go_on_from() {
        let directory = tempfile::tempdir().unwrap();
        let (journal, contents, mut done) = open(directory.path());
        assert!(contents.rules.is_empty());
        assert_eq!(contents.next_rule, RuleId(1));
        journal.note(Ticket(1), write(1));
        journal.note(Ticket(2), write(2));
        journal.note(Ticket(3), vec![Note::Ids { rules: RuleId(70), groups: GroupId(80) }]);
        journal.note(Ticket(4), vec![Note::Forget(RuleId(2)), Note::Write(Box::new(rule(3)))]);
        let mut tickets = Vec::new();
        while tickets.len() < 4 {
            let written = done.blocking_recv().unwrap();
            assert!(written.durable);
            tickets.extend(written.tickets);
        }
        assert_eq!(tickets, [1, 2, 3, 4].map(Ticket));
        drop(journal);
        let (_journal, contents, _done) = open(directory.path());
        assert_eq!(contents.rules, [rule(1), rule(3)]);
        assert_eq!((contents.next_rule, contents.next_group), (RuleId(70), GroupId(80)));
    }

    fn use_of(permit: u8, expires: u64) -> Note {
        Note::Use { permit: [permit; 16], expires: Time(expires) }
    }

    #[test]
    fn uses_of_permits_are_counted_until_they_are_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let (journal, contents, mut done) = open(directory.path());
        assert!(contents.permits.is_empty());
        journal.note(Ticket(1), vec![write(1).remove(0), use_of(7, 900)]);
        journal.note(Ticket(2), vec![write(2).remove(0), use_of(7, 900)]);
        journal.note(Ticket(3), vec![write(3).remove(0), use_of(8, 500)]);
        journal.note(Ticket(4), vec![use_of(9, 100)]);
        journal.note(Ticket(5), vec![Note::ForgetPermit([9; 16]), Note::ForgetPermit([10; 16])]);
        let mut tickets = 0;
        while tickets < 5 {
            let written = done.blocking_recv().unwrap();
            assert!(written.durable);
            tickets += written.tickets.len();
        }
        drop(journal);
        let (_journal, contents, _done) = open(directory.path());
        let uses = |times, expires| Uses { times, expires: Time(expires) };
        assert_eq!(contents.permits, [([7; 16], uses(2, 900)), ([8; 16], uses(1, 500))]);
        assert_eq!(contents.rules, [rule(1), rule(2), rule(3)]);
    }

    /// A journal of before there were permits is read, and is of the present format from then on.
    #[test]
    fn a_journal_without_permits_is_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        drop(open(directory.path()));
        let path = directory.path().join(FILE);
        let database = Database::create(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(ABOUT).unwrap().insert("format", WITHOUT_PERMITS).unwrap();
        transaction.open_table(RULES).unwrap().insert(4, rule(4).encode().as_slice()).unwrap();
        transaction.delete_table(PERMITS).unwrap();
        transaction.commit().unwrap();
        drop(database);
        let (journal, contents, mut done) = open(directory.path());
        assert_eq!((contents.rules.as_slice(), contents.permits.len()), ([rule(4)].as_slice(), 0));
        journal.note(Ticket(1), vec![use_of(1, 5)]);
        assert!(done.blocking_recv().unwrap().durable);
        drop(journal);
        let (journal, contents, _done) = open(directory.path());
        assert_eq!((contents.rules.len(), contents.permits.len()), (1, 1));
        drop(journal);

        let database = Database::create(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        let before = transaction
            .open_table(ABOUT)
            .unwrap()
            .insert("format", FORMAT + 1)
            .unwrap()
            .map(|old| old.value());
        assert_eq!(before, Some(FORMAT));
        transaction.commit().unwrap();
        drop(database);
        let error = Journal::open(directory.path(), unbounded_channel().0).unwrap_err().to_string();
        assert!(error.contains(&format!("format {}", FORMAT + 1)), "{error}");
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
        transaction.open_table(PERMITS).unwrap().insert(&[5; 16], [1u8, 0].as_slice()).unwrap();
        transaction.commit().unwrap();
        drop(database);
        let error = Journal::open(directory.path(), unbounded_channel().0).unwrap_err().to_string();
        assert!(error.contains("permit [05,") && error.contains("middle"), "{error}");

        let database = Database::create(directory.path().join(FILE)).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(RULES).unwrap().insert(9, [1u8, 1, 6].as_slice()).unwrap();
        transaction.commit().unwrap();
        drop(database);
        let (written, _done) = unbounded_channel();
        let error = Journal::open(directory.path(), written).unwrap_err().to_string();
        assert!(error.contains("rule 9") && error.contains("middle"), "{error}");
    }

    #[test]
    fn two_processes_do_not_share_it() {
        let directory = tempfile::tempdir().unwrap();
        let _first = open(directory.path());
        let (written, _done) = unbounded_channel();
        let error = Journal::open(directory.path(), written).unwrap_err();
        assert!(matches!(error, JournalError::Locked { .. }), "{error}");
    }

    /// A copy of the file at any moment is what a crash of the machine leaves, as far as writes are in order.
    #[test]
    fn a_copy_taken_at_any_time_holds_whole_commits() {
        let directory = tempfile::tempdir().unwrap();
        let (journal, _, mut done) = open(directory.path());
        let mut durable = 0u32;
        for round in 1..=40u32 {
            journal.note(
                Ticket(u64::from(round)),
                vec![
                    Note::Write(Box::new(rule(2 * round))),
                    Note::Write(Box::new(rule(2 * round + 1))),
                    use_of(7, 900),
                ],
            );
            if round.is_multiple_of(3) {
                let copy = tempfile::tempdir().unwrap();
                std::fs::copy(directory.path().join(FILE), copy.path().join(FILE)).unwrap();
                if let Ok((_journal, contents)) = Journal::open(copy.path(), unbounded_channel().0) {
                    let ids: Vec<u32> = contents.rules.iter().map(|rule| rule.id.0).collect();
                    assert!(ids.len().is_multiple_of(2), "half a note in round {round}: {ids:?}");
                    let uses = contents.permits.first().map_or(0, |(_, uses)| uses.times);
                    assert_eq!(ids.len(), 2 * uses as usize, "rules without their use in round {round}");
                    assert!(ids.len() >= 2 * durable as usize, "round {round}: {durable} noted, {ids:?}");
                }
            }
            while let Ok(written) = done.try_recv() {
                durable += u32::try_from(written.tickets.len()).unwrap();
            }
        }
    }
}

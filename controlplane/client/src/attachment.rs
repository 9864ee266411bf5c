//! The attachment itself.

use crate::error::{AttachError, LinkError, TableError};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use turnpike_abi::attach::{AttachResult, Message, MessageKind};
use turnpike_abi::command::{Kind, Slot};
use turnpike_abi::counters::Counters;
use turnpike_abi::layout::rings;
use turnpike_abi::stats::{Identity, InterfaceInfo, MainStats, PortStats};
use turnpike_abi::table::TableKind;
use turnpike_abi::{MAX_WORKERS, PortId, WorkerId};
use turnpike_shm::attach::same_build;
use turnpike_shm::link::ControlLink;
use turnpike_shm::ring::{Broken, PushError};
use turnpike_shm::segment::{PeerSegment, Segment};
use turnpike_shm::socket::{Connection, Received};
use turnpike_shm::state::StateView;
use turnpike_shm::statistics::StatisticsView;
use turnpike_shm::table::SealedTable;
use zerocopy::{Immutable, IntoBytes};

/// How long the dataplane may take to answer HELLO. Its main thread looks about ten times a second.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the dataplane says beside the rings: what became of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The kind of the table.
    pub kind: TableKind,
    /// Its generation.
    pub generation: u64,
    /// [`AttachResult::OK`], or why it was not taken; the one before stays in force then.
    pub result: AttachResult,
    /// Where its fault lies, bytes from its start.
    pub offset: u64,
}

/// A control plane attached to a dataplane. One owner; [`Attachment::statistics`] may be shared.
#[derive(Debug)]
pub struct Attachment {
    connection: Connection,
    commands: Segment,
    statistics: StatisticsView,
    states: Arc<[StateView]>,
    identity: Identity,
    interfaces: Vec<InterfaceInfo>,
    links: Vec<ControlLink>,
    sequence: u64,
}

impl Attachment {
    /// Connects to the dataplane's socket and attaches. Waits at most about ten seconds.
    ///
    /// # Errors
    /// Says why not and what to do.
    pub fn connect(path: &Path) -> Result<Self, AttachError> {
        let connection = Connection::connect(path, PATIENCE)
            .map_err(|source| AttachError::Connect { path: path.to_owned(), source })?;
        Self::attach(connection)
    }

    /// Attaches over a connection that exists.
    ///
    /// # Errors
    /// As [`Attachment::connect`].
    pub fn attach(connection: Connection) -> Result<Self, AttachError> {
        // How many workers there are comes with the answer: room for as many as there can be.
        let length = rings::length(MAX_WORKERS);
        let commands = Segment::create("turnpike-commands", length).map_err(AttachError::OwnSegment)?;
        let hello = Message { value: length as u64, ..Message::new(MessageKind::HELLO) };
        // If the dataplane has refused before it read this, its word is still there to be read.
        let sent = connection.send(&hello, &[commands.fd()]);
        let (answer, descriptors) = match connection.receive_within(PATIENCE)? {
            Received::Message(answer, descriptors) => (answer, descriptors),
            Received::Nothing => return Err(AttachError::Timeout(PATIENCE)),
            Received::Closed => {
                sent?;
                return Err(AttachError::Closed);
            }
        };
        // A refusal counts whatever build it comes from: it may be about just that.
        if answer.kind == MessageKind::REFUSED {
            return Err(AttachError::Refused(answer.result));
        }
        same_build(&answer).map_err(AttachError::Refused)?;
        if answer.kind != MessageKind::WELCOME {
            return Err(AttachError::Protocol("no WELCOME"));
        }
        let workers = usize::try_from(answer.value)
            .ok()
            .filter(|workers| (1..=MAX_WORKERS).contains(workers))
            .ok_or(AttachError::Protocol("a WELCOME with an impossible number of workers"))?;
        let ([statistics, events], mut files) = descriptors
            .split()
            .filter(|(_, files): &([OwnedFd; 2], _)| files.len() == workers)
            .ok_or(AttachError::Protocol("a WELCOME without its descriptors: two, and one a worker"))?;
        let statistics = StatisticsView::map(statistics, workers)
            .map_err(|source| AttachError::Segment { which: "statistics", source })?;
        let events = PeerSegment::map(events, rings::length(workers))
            .map_err(|source| AttachError::Segment { which: "event", source })?;
        let identity = statistics.identity().ok_or(AttachError::Protocol("an identity of another build"))?;
        let mut links = Vec::with_capacity(workers);
        let mut states = Vec::with_capacity(workers);
        for worker in 0..workers {
            let worker = WorkerId(u8::try_from(worker).unwrap_or(u8::MAX));
            let link = ControlLink::new(&commands, &events, worker)
                .map_err(|_| AttachError::Protocol("an event segment without room for every worker"))?;
            links.push(link);
            let file = files.take_first().ok_or(AttachError::Protocol("a worker without state file"))?;
            let state = StateView::map(file, worker)
                .map_err(|source| AttachError::State { worker: worker.0, source })?;
            states.push(state);
        }
        let interfaces = statistics.interfaces();
        let states = states.into();
        Ok(Self { connection, commands, statistics, states, identity, interfaces, links, sequence: 0 })
    }

    /// Who the dataplane is.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Its interfaces, by index.
    #[must_use]
    pub fn interfaces(&self) -> &[InterfaceInfo] {
        &self.interfaces
    }

    /// How many workers it runs.
    #[must_use]
    pub const fn workers(&self) -> usize {
        self.links.len()
    }

    /// What it publishes, for others to read on their own.
    #[must_use]
    pub const fn statistics(&self) -> &StatisticsView {
        &self.statistics
    }

    /// The workers' flows, in order, for others to read on their own.
    #[must_use]
    pub const fn states(&self) -> &Arc<[StateView]> {
        &self.states
    }

    /// A worker's counters; `None` if there is no such worker or no whole copy could be had.
    #[must_use]
    pub fn counters(&self, worker: WorkerId) -> Option<Counters> {
        self.statistics.worker(worker)
    }

    /// A port's counters; `None` if there is no such port or no whole copy could be had.
    #[must_use]
    pub fn port_stats(&self, port: PortId) -> Option<PortStats> {
        if port.0 < self.identity.ports { self.statistics.port(port) } else { None }
    }

    /// The main thread's counters; `None` if no whole copy could be had.
    #[must_use]
    pub fn main_stats(&self) -> Option<MainStats> {
        self.statistics.main()
    }

    /// Shows the dataplane that this process lives. Milliseconds since the epoch.
    pub fn heartbeat(&self, now_ms: u64) {
        // Every command segment has the place.
        let _ = self.commands.poke(rings::HEARTBEAT, now_ms);
    }

    /// Sends a command to a worker; returns the sequence that its events repeat. Never waits.
    ///
    /// # Errors
    /// See [`LinkError`]; nothing was sent.
    pub fn command<T: IntoBytes + Immutable>(
        &mut self,
        worker: WorkerId,
        kind: Kind,
        body: &T,
    ) -> Result<u64, LinkError> {
        let link = self.links.get_mut(worker.index()).ok_or(LinkError::NoSuchWorker(worker.0))?;
        let sequence = self.sequence.wrapping_add(1);
        link.send(&Slot::new(kind, sequence, body)).map_err(|error| match error {
            PushError::Full => LinkError::Full,
            PushError::Broken => LinkError::Broken,
        })?;
        self.sequence = sequence;
        Ok(sequence)
    }

    /// Commands that a worker's ring takes now.
    ///
    /// # Errors
    /// [`LinkError::NoSuchWorker`] or [`LinkError::Broken`].
    pub fn command_room(&mut self, worker: WorkerId) -> Result<usize, LinkError> {
        let link = self.links.get_mut(worker.index()).ok_or(LinkError::NoSuchWorker(worker.0))?;
        link.free().map_err(|Broken| LinkError::Broken)
    }

    /// The next event of a worker, if any; kind and sequence are in its header. Never waits.
    ///
    /// # Errors
    /// [`LinkError::NoSuchWorker`] or [`LinkError::Broken`].
    pub fn poll_events(&mut self, worker: WorkerId) -> Result<Option<Slot>, LinkError> {
        let link = self.links.get_mut(worker.index()).ok_or(LinkError::NoSuchWorker(worker.0))?;
        link.event().map_err(|Broken| LinkError::Broken)
    }

    /// Offers a table; a [`Notice`] says later what became of it.
    ///
    /// # Errors
    /// If the dataplane is gone or does not read its socket.
    pub fn offer_table(
        &self,
        kind: TableKind,
        generation: u64,
        table: &SealedTable,
    ) -> Result<(), TableError> {
        let message = Message {
            table: kind.0,
            generation,
            value: table.len() as u64,
            ..Message::new(MessageKind::TABLE)
        };
        Ok(self.connection.send(&message, &[table.fd()])?)
    }

    /// The next notice, if any. Never waits; the descriptor is readable when there is one, or the end.
    ///
    /// # Errors
    /// The end of the attachment: [`AttachError::Detached`], [`AttachError::Closed`] and the like.
    pub fn receive(&self) -> Result<Option<Notice>, AttachError> {
        self.notice(self.connection.receive()?)
    }

    /// The next notice, waiting for it at most `timeout`. Not for async tasks.
    ///
    /// # Errors
    /// As [`Attachment::receive`].
    pub fn receive_within(&self, timeout: Duration) -> Result<Option<Notice>, AttachError> {
        self.notice(self.connection.receive_within(timeout)?)
    }

    fn notice(&self, received: Received) -> Result<Option<Notice>, AttachError> {
        let message = match received {
            Received::Nothing => return Ok(None),
            Received::Closed => return Err(AttachError::Closed),
            Received::Message(message, _) => message,
        };
        same_build(&message).map_err(|_| AttachError::Protocol("a message of another build"))?;
        match message.kind {
            MessageKind::TABLE_DONE => Ok(Some(Notice {
                kind: TableKind(message.table),
                generation: message.generation,
                result: message.result,
                offset: message.value,
            })),
            MessageKind::DETACHED => Err(AttachError::Detached(message.result)),
            _ => Err(AttachError::Protocol("a message out of order")),
        }
    }
}

impl AsFd for Attachment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

impl AsRawFd for Attachment {
    fn as_raw_fd(&self) -> RawFd {
        self.connection.as_raw_fd()
    }
}

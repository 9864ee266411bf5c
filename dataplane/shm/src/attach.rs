//! The dataplane's side of the handshake and of the connection behind it (see [`turnpike_abi::attach`]).
//! Nothing here waits: the main thread calls it when the socket is readable, or from time to time.

use crate::link::WorkerLink;
use crate::segment::{PeerSegment, Segment, SegmentError};
use crate::socket::{Connection, Descriptors, Received, SocketError};
use crate::statistics::Statistics;
use crate::table::SealedTable;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use turnpike_abi::attach::{AttachResult, Message, MessageKind};
use turnpike_abi::layout::{LAYOUT_HASH, MAGIC, rings};
use turnpike_abi::table::TableKind;
use turnpike_abi::{ABI_VERSION, MAX_WORKERS, WorkerId};

/// Why a connection did not become a session. The peer was told [`AttachError::result`], if it listens.
#[derive(Debug)]
pub enum AttachError {
    /// It closed its end.
    Closed,
    /// What it sent is no message.
    Malformed(&'static str),
    /// Its message does not fit this build, or is not a HELLO.
    Refused(AttachResult),
    /// Its segment is not what it has to be.
    Segment(SegmentError),
    /// It says that its segment has this many bytes, where the workers' rings need more or 64 workers' less.
    SegmentLength(u64),
    /// This process could not make its own side.
    Io(io::Error),
}

impl AttachError {
    /// As the protocol says it.
    #[must_use]
    pub const fn result(&self) -> AttachResult {
        match self {
            Self::Closed | Self::Malformed(_) => AttachResult::PROTOCOL,
            Self::Refused(result) => *result,
            Self::Segment(_) | Self::SegmentLength(_) => AttachResult::SEGMENT,
            // Nothing is wrong with the peer: it may come again.
            Self::Io(_) => AttachResult::STOPPING,
        }
    }
}

impl core::fmt::Display for AttachError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Closed => f.write_str("the control plane closed the connection before it attached"),
            Self::Malformed(what) => write!(f, "the control plane sent {what}"),
            Self::Refused(result) => f.write_str(result.text()),
            Self::Segment(error) => write!(f, "segment of the control plane: {error}"),
            Self::SegmentLength(length) => {
                write!(f, "segment of the control plane: {length} bytes do not hold the workers' rings")
            }
            Self::Io(error) => write!(f, "cannot make the event segment: {error}"),
        }
    }
}

impl core::error::Error for AttachError {}

impl From<SocketError> for AttachError {
    fn from(error: SocketError) -> Self {
        match error {
            SocketError::Malformed(what) => Self::Malformed(what),
            SocketError::Io(error) => Self::Io(error),
            SocketError::Full | SocketError::TooManyDescriptors => {
                Self::Io(io::Error::other(error.to_string()))
            }
        }
    }
}

/// What [`serve_hello`] made of a connection.
#[derive(Debug)]
pub enum Hello {
    /// Its HELLO is not there yet: ask again, or drop it after a while.
    Waiting(Connection),
    /// It is attached: one link goes to each worker, in order.
    Attached(Session, Vec<WorkerLink>),
    /// It is not, was told so, and the connection is closed.
    Refused(AttachError),
}

/// Tells a peer that it may not attach, before its HELLO: another one is attached, or its user may not, or
/// the dataplane stops. Closes the connection.
pub fn refuse(connection: Connection, result: AttachResult) {
    farewell(&connection, MessageKind::REFUSED, result);
}

/// Best effort: a peer that does not read its socket learns it from the end of the connection.
fn farewell(connection: &Connection, kind: MessageKind, result: AttachResult) {
    let _ = connection.send(&Message { result, ..Message::new(kind) }, &[]);
}

/// Takes a HELLO if it is there, checks everything about it, and answers WELCOME or REFUSED. `states` are the
/// workers' state files, opened to be read only, in order.
#[must_use]
pub fn serve_hello(connection: Connection, statistics: &Statistics, states: &[File]) -> Hello {
    let (message, descriptors) = match connection.receive() {
        Ok(Received::Nothing) => return Hello::Waiting(connection),
        Ok(Received::Closed) => return Hello::Refused(AttachError::Closed),
        Ok(Received::Message(message, descriptors)) => (message, descriptors),
        Err(error) => {
            let error = AttachError::from(error);
            refuse(connection, error.result());
            return Hello::Refused(error);
        }
    };
    match welcome(&connection, &message, descriptors, statistics, states) {
        Ok((commands, links)) => Hello::Attached(Session { connection, commands }, links),
        Err(error) => {
            refuse(connection, error.result());
            Hello::Refused(error)
        }
    }
}

fn welcome(
    connection: &Connection,
    hello: &Message,
    descriptors: Descriptors,
    statistics: &Statistics,
    states: &[File],
) -> Result<(PeerSegment, Vec<WorkerLink>), AttachError> {
    same_build(hello).map_err(AttachError::Refused)?;
    if hello.kind != MessageKind::HELLO {
        return Err(AttachError::Refused(AttachResult::PROTOCOL));
    }
    let Ok([segment]) = <[OwnedFd; 1]>::try_from(descriptors) else {
        return Err(AttachError::Refused(AttachResult::SEGMENT));
    };
    // The control plane does not know yet how many workers there are: it may bring room for more.
    let workers = statistics.workers();
    let length = usize::try_from(hello.value)
        .ok()
        .filter(|length| (rings::length(workers)..=rings::length(MAX_WORKERS)).contains(length))
        .ok_or(AttachError::SegmentLength(hello.value))?;
    let commands = PeerSegment::map(segment, length).map_err(AttachError::Segment)?;
    let events = Segment::create("turnpike-events", rings::length(workers)).map_err(AttachError::Io)?;
    let mut links = Vec::with_capacity(workers);
    for worker in 0..workers {
        let worker = WorkerId(u8::try_from(worker).unwrap_or(u8::MAX));
        let link = WorkerLink::new(&events, &commands, worker)
            .map_err(|_| AttachError::SegmentLength(hello.value))?;
        links.push(link);
    }
    let answer = Message { value: workers as u64, ..Message::new(MessageKind::WELCOME) };
    let descriptors: Vec<BorrowedFd<'_>> =
        [statistics.segment().fd(), events.fd()].into_iter().chain(states.iter().map(AsFd::as_fd)).collect();
    connection.send(&answer, &descriptors)?;
    Ok((commands, links))
}

/// Whether a message comes from a process that agrees with this one on every layout.
///
/// # Errors
/// Says in which of the three it does not.
pub fn same_build(message: &Message) -> Result<(), AttachResult> {
    if message.magic != MAGIC {
        return Err(AttachResult::PROTOCOL);
    }
    if message.abi_version != ABI_VERSION {
        return Err(AttachResult::VERSION);
    }
    if message.layout_hash != LAYOUT_HASH {
        return Err(AttachResult::LAYOUT);
    }
    Ok(())
}

/// A table that the control plane offers; its content is not yet looked at.
#[derive(Debug)]
pub struct Offer {
    /// What it is for; any value.
    pub kind: TableKind,
    /// Its number, repeated in the answer.
    pub generation: u64,
    /// The table, or why its descriptor is no good: answer with [`AttachResult::SEGMENT`].
    pub table: Result<SealedTable, SegmentError>,
}

/// How a session ended.
#[derive(Debug)]
pub enum Departure {
    /// The control plane closed its end, or died.
    Closed,
    /// It broke the protocol: [`Session::detach`] it with this result.
    Violation(AttachResult),
}

/// An attached control plane.
#[derive(Debug)]
pub struct Session {
    connection: Connection,
    commands: PeerSegment,
}

impl Session {
    /// The next table offered, if any.
    ///
    /// # Errors
    /// The end of the session.
    pub fn poll(&self) -> Result<Option<Offer>, Departure> {
        let (message, descriptors) = match self.connection.receive() {
            Ok(Received::Nothing) => return Ok(None),
            Ok(Received::Closed) => return Err(Departure::Closed),
            Ok(Received::Message(message, descriptors)) => (message, descriptors),
            Err(SocketError::Io(_)) => return Err(Departure::Closed),
            Err(_) => return Err(Departure::Violation(AttachResult::PROTOCOL)),
        };
        same_build(&message).map_err(Departure::Violation)?;
        if message.kind != MessageKind::TABLE {
            return Err(Departure::Violation(AttachResult::PROTOCOL));
        }
        let Ok([fd]) = <[OwnedFd; 1]>::try_from(descriptors) else {
            return Err(Departure::Violation(AttachResult::PROTOCOL));
        };
        Ok(Some(Offer {
            kind: TableKind(message.table),
            generation: message.generation,
            table: SealedTable::map(fd, message.value),
        }))
    }

    /// Says what became of an offered table; `offset` is where its fault lies, or 0.
    ///
    /// # Errors
    /// If the control plane is gone or does not read its answers: detach it.
    pub fn answer(
        &self,
        kind: TableKind,
        generation: u64,
        result: AttachResult,
        offset: u64,
    ) -> Result<(), Departure> {
        let answer = Message {
            result,
            table: kind.0,
            generation,
            value: offset,
            ..Message::new(MessageKind::TABLE_DONE)
        };
        match self.connection.send(&answer, &[]) {
            Ok(()) => Ok(()),
            Err(SocketError::Io(_)) => Err(Departure::Closed),
            Err(_) => Err(Departure::Violation(AttachResult::PROTOCOL)),
        }
    }

    /// The control plane's last sign of life, milliseconds since the epoch by its word; 0 before the first.
    #[must_use]
    pub fn heartbeat(&self) -> u64 {
        self.commands.load(rings::HEARTBEAT).unwrap_or(0)
    }

    /// Puts the control plane out and says why. Its links are dead: take them back from the workers.
    pub fn detach(self, result: AttachResult) {
        farewell(&self.connection, MessageKind::DETACHED, result);
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

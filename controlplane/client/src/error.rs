//! What can go wrong with an attachment, and what to do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;
use turnpike_abi::attach::AttachResult;
use turnpike_abi::table::MAX_TABLE;
use turnpike_shm::segment::SegmentError;
use turnpike_shm::socket::SocketError;
use turnpike_shm::state::StateError;

/// Why there is no attachment, or no longer one.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Nobody listens, or this user may not connect.
    #[error(
        "cannot connect to {}: {source}; is turnpike-dataplane running, and may this user open its socket?",
        path.display()
    )]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The dataplane answered REFUSED.
    #[error("the dataplane refused to attach: {}", .0.text())]
    Refused(AttachResult),
    /// The dataplane put this control plane out.
    #[error("the dataplane put this control plane out: {}", .0.text())]
    Detached(AttachResult),
    /// The connection ended without a word.
    #[error("the dataplane closed the connection: it stopped or died; attach again")]
    Closed,
    /// No answer to HELLO.
    #[error("the dataplane did not answer within {0:?}: it hangs, or is busy with another control plane")]
    Timeout(Duration),
    /// The dataplane sent what it must not.
    #[error("the dataplane broke the protocol: {0}; install the same release of both")]
    Protocol(&'static str),
    /// A segment of the dataplane cannot be used.
    #[error("{which} segment of the dataplane: {source}; install the same release of both")]
    Segment {
        /// Which one.
        which: &'static str,
        /// What is wrong with it.
        source: SegmentError,
    },
    /// A state file of the dataplane cannot be used.
    #[error("state file of worker {worker}: {source}; install the same release of both")]
    State {
        /// Whose it is.
        worker: u8,
        /// What is wrong with it.
        source: StateError,
    },
    /// This process could not make its own segment.
    #[error("cannot make the command segment: {0}; raise the memory or descriptor limit of this process")]
    OwnSegment(io::Error),
    /// The socket failed.
    #[error("{0}; attach again")]
    Socket(#[from] SocketError),
}

/// Why a command was not sent or an event not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// There are fewer workers.
    #[error("the dataplane has no worker {0}")]
    NoSuchWorker(u8),
    /// The worker has not caught up. Take events, then try again.
    #[error("the worker has not caught up with its commands: take its events and try again")]
    Full,
    /// The dataplane's ring index cannot be true.
    #[error("the dataplane wrote a ring index out of bounds: drop the attachment and attach again")]
    Broken,
}

/// Why a table was not made or not sent.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// It would be larger than [`MAX_TABLE`].
    #[error("a table of {0} bytes is larger than {MAX_TABLE}: use fewer rules or routes")]
    TooLarge(usize),
    /// The kernel has no memory for it.
    #[error("cannot make a table: {0}; raise the memory or descriptor limit of this process")]
    Memory(#[from] io::Error),
    /// The socket failed, or the dataplane does not read it.
    #[error("cannot offer a table: {0}; attach again")]
    Socket(#[from] SocketError),
}

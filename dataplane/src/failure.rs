//! Why the dataplane could not start, or had to end.

use std::io;
use std::path::PathBuf;

/// The last message of a dataplane that failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// DPDK or its memory.
    #[error("{0}")]
    Dpdk(#[from] dpdk::Error),
    /// A port could not be had.
    #[error("port {port:?}: {error}{hint}")]
    Port {
        /// Name in the configuration.
        port: String,
        /// What DPDK said.
        error: dpdk::Error,
        /// What to do, or nothing.
        hint: &'static str,
    },
    /// A core for a worker is missing.
    #[error("dataplane.cores: core {core} is not available to this process; it may use {available}")]
    Core {
        /// The core.
        core: u16,
        /// Cores there are.
        available: String,
    },
    /// The directory of the state files cannot be used.
    #[error("dataplane.state {}: {why}", path.display())]
    State {
        /// The directory.
        path: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
    /// The kernel refused something.
    #[error("{doing}: {error}")]
    Io {
        /// What was tried.
        doing: String,
        /// What the kernel said.
        error: io::Error,
    },
    /// The kernel refused an address, a route or a link.
    #[error("{doing}: {error}")]
    Netlink {
        /// What was tried.
        doing: String,
        /// What the kernel said.
        error: rtnetlink::Error,
    },
    /// The kernel refused to change capabilities.
    #[error("cannot drop privileges: {0}")]
    Privileges(#[from] caps::errors::CapsError),
    /// A worker ended without being told to.
    #[error("{0} ended on its own; packets are no longer forwarded")]
    Worker(String),
    /// The statistics segment has no place for something.
    #[error("the statistics segment has no place for {0}")]
    Statistics(String),
}

/// Names what was tried when the kernel refuses it.
pub trait Doing<T> {
    /// Turns the error into a [`Failure`].
    ///
    /// # Errors
    /// The error it was called on, if any.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure::Io { doing: what(), error: error.into() })
    }
}

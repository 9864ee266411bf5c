//! The handshake on the dataplane's unix socket (`SOCK_SEQPACKET`, one message a packet).
//!
//! ```text
//! control plane                              dataplane
//!   connect  ------------------------------>   SO_PEERCRED: uid allowed?
//!   HELLO (+ fd: its sealed segment)  ----->   version, layout hash, size, seals
//!   <----------  WELCOME (+ fds: statistics segment, event segment,   or  REFUSED
//!                         state files of the workers, to be read only)
//!   TABLE (+ fd: immutable memfd)  -------->   decode, check, hand to the workers
//!   <----------  TABLE_DONE, result 0 or why not
//!   close, or the socket's end  ----------->   detached; forwarding goes on
//!   <----------  DETACHED, why, and the end, if the control plane broke a rule
//! ```
//!
//! All of a message's meaning lies in a fixed [`Message`]; descriptors travel as `SCM_RIGHTS`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Where the dataplane listens.
pub const SOCKET_PATH: &str = "/run/turnpike/dataplane.sock";

/// What a message says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct MessageKind(pub u32);

impl MessageKind {
    /// Control plane to dataplane: `value` is the length of its segment. One descriptor.
    pub const HELLO: Self = Self(1);
    /// Dataplane to control plane: `value` is the number of workers. Two descriptors, and one a worker.
    pub const WELCOME: Self = Self(2);
    /// Dataplane to control plane: `result` says why; the socket closes.
    pub const REFUSED: Self = Self(3);
    /// Control plane to dataplane: `value` is the length of the table, `generation` its number. One descriptor.
    pub const TABLE: Self = Self(4);
    /// Dataplane to control plane: what became of table `generation`; `value` is the offset of the fault, if any.
    pub const TABLE_DONE: Self = Self(5);
    /// Dataplane to control plane: put out; `result` says why; the socket closes.
    pub const DETACHED: Self = Self(6);
}

/// How a request ended. 0 is success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct AttachResult(pub u32);

impl AttachResult {
    /// Done.
    pub const OK: Self = Self(0);
    /// `abi_version` differs.
    pub const VERSION: Self = Self(1);
    /// `layout_hash` differs.
    pub const LAYOUT: Self = Self(2);
    /// Another control plane is attached.
    pub const BUSY: Self = Self(3);
    /// The descriptor is missing, of the wrong size, or not sealed.
    pub const SEGMENT: Self = Self(4);
    /// The message is not one of this protocol.
    pub const PROTOCOL: Self = Self(5);
    /// A table was malformed: see `value`.
    pub const TABLE: Self = Self(6);
    /// A ring index or a command broke the rules.
    pub const RING: Self = Self(7);
    /// The peer's user id is not allowed.
    pub const CREDENTIALS: Self = Self(8);
    /// The dataplane is stopping.
    pub const STOPPING: Self = Self(9);

    /// In words, for logs.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::OK => "done",
            Self::VERSION => {
                "the two processes are of different ABI versions: install the same release of both"
            }
            Self::LAYOUT => "the two processes disagree on a shared layout: install the same release of both",
            Self::BUSY => "another control plane is attached",
            Self::SEGMENT => "the shared segment is missing, of the wrong size or not sealed",
            Self::PROTOCOL => "message out of order or malformed",
            Self::TABLE => "table malformed",
            Self::RING => "ring index or command out of bounds",
            Self::CREDENTIALS => "this user may not attach (see dataplane.control_user)",
            Self::STOPPING => "the dataplane is stopping",
            _ => "unknown result",
        }
    }
}

/// One packet on the socket.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Message {
    /// [`crate::layout::MAGIC`].
    pub magic: u64,
    /// [`crate::layout::LAYOUT_HASH`].
    pub layout_hash: u64,
    /// [`crate::ABI_VERSION`].
    pub abi_version: u32,
    /// What it says.
    pub kind: MessageKind,
    /// How it ended.
    pub result: AttachResult,
    /// [`crate::table::TableKind`] of a table, else 0.
    pub table: u32,
    /// Generation of a table.
    pub generation: u64,
    /// See [`MessageKind`].
    pub value: u64,
}

impl Message {
    /// A message of this build.
    #[must_use]
    pub fn new(kind: MessageKind) -> Self {
        Self {
            magic: crate::layout::MAGIC,
            layout_hash: crate::layout::LAYOUT_HASH,
            abi_version: crate::ABI_VERSION,
            kind,
            ..Self::default()
        }
    }
}

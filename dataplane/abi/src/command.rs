//! Commands: control plane to worker, one slot each. A command that is malformed costs the control plane
//! its attachment; one that cannot be carried out is answered with an [`crate::event::Ack`].

use crate::{Address, InterfaceId, PoolId, Prefix, WorkerId};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Bytes of a slot in both rings: three cache lines.
pub const SLOT: usize = 192;
/// Bytes of a slot behind its [`Header`].
pub const BODY: usize = SLOT - size_of::<Header>();

/// What a slot holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Kind(pub u32);

/// First bytes of every slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// Which body follows.
    pub kind: Kind,
    /// Zero.
    pub reserved: u32,
    /// Chosen by the sender of a command, repeated in every event that answers it.
    pub sequence: u64,
}

/// A slot as it lies in a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
pub struct Slot {
    /// Kind and sequence.
    pub header: Header,
    /// The body; bytes behind it are zero.
    pub body: [u8; BODY],
}

impl Default for Slot {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

impl Slot {
    /// A slot with `body` behind its header.
    #[must_use]
    pub fn new<T: IntoBytes + Immutable>(kind: Kind, sequence: u64, body: &T) -> Self {
        const { assert!(size_of::<T>() <= BODY) };
        let mut slot = Self { header: Header { kind, reserved: 0, sequence }, body: [0; BODY] };
        for (to, from) in slot.body.iter_mut().zip(body.as_bytes()) {
            *to = *from;
        }
        slot
    }

    /// The body as `T`. The bytes are the peer's: every field still has to be checked.
    #[must_use]
    pub fn body<T: FromBytes + KnownLayout + Immutable>(&self) -> T {
        const { assert!(size_of::<T>() <= BODY) };
        T::read_from_prefix(&self.body).map_or_else(|_| T::new_zeroed(), |(body, _)| body)
    }
}

/// Kinds of commands.
impl Kind {
    /// [`NeighbourSet`].
    pub const NEIGHBOUR_SET: Self = Self(1);
    /// [`NeighbourClear`].
    pub const NEIGHBOUR_CLEAR: Self = Self(2);
    /// [`PinholeAdd`].
    pub const PINHOLE_ADD: Self = Self(3);
    /// [`PinholeRemove`].
    pub const PINHOLE_REMOVE: Self = Self(4);
    /// [`PortLease`].
    pub const PORT_LEASE: Self = Self(5);
    /// [`PortLease`], taken back.
    pub const PORT_RELEASE: Self = Self(6);
    /// [`Walk`].
    pub const WALK: Self = Self(7);
    /// [`NeighboursReset`].
    pub const NEIGHBOURS_RESET: Self = Self(8);
}

/// A next hop's station address is known. Packets that wait for it leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NeighbourSet {
    /// The next hop.
    pub address: Address,
    /// The interface it lies on.
    pub interface: InterfaceId,
    /// Its station address, unicast.
    pub mac: [u8; 6],
}

/// A next hop is gone, or did not answer (`failed`): packets that wait for it are dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NeighbourClear {
    /// The next hop.
    pub address: Address,
    /// The interface it lay on.
    pub interface: InterfaceId,
    /// 1 if resolution failed, else 0.
    pub failed: u8,
    /// Zero.
    pub reserved: [u8; 5],
}

/// Every neighbour the worker knows is forgotten: a control plane that attaches starts from nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NeighboursReset {
    /// [`crate::layout::MAGIC`]: what forgets everything is not to be set off by a stray byte.
    pub magic: u64,
}

/// Opens a pinhole at the worker that owns `inside`. Translated (IPv4 with a pool): a binding that stays
/// without traffic. Not translated: packets from `remote` to the inside end pass the firewall.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PinholeAdd {
    /// Identity across restarts, not 0. Adding an id that exists with the same content succeeds and changes nothing.
    pub id: u64,
    /// The inside host.
    pub inside: Address,
    /// The pool address; unspecified lets the worker choose, and without `POOL` it has no meaning.
    pub external: Address,
    /// Who may use it.
    pub remote: Prefix,
    /// Inside port, host byte order.
    pub inside_port: u16,
    /// External port, host byte order; 0 lets the worker choose.
    pub external_port: u16,
    /// Lowest remote port that may use it.
    pub remote_port_first: u16,
    /// Highest.
    pub remote_port_last: u16,
    /// The pool, if `flags` has [`PinholeAdd::POOL`].
    pub pool: PoolId,
    /// 6 or 17.
    pub protocol: u8,
    /// [`PinholeAdd::POOL`], [`PinholeAdd::LEASED`].
    pub flags: u8,
    /// Zero.
    pub reserved: [u8; 4],
}

impl PinholeAdd {
    /// The pinhole is translated through `pool`.
    pub const POOL: u8 = 1;
    /// `external_port` lies in a block of another worker, which leased it ([`PortLease`]).
    pub const LEASED: u8 = 2;
}

/// Closes a pinhole and cuts the flows that use it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PinholeRemove {
    /// See [`PinholeAdd::id`].
    pub id: u64,
}

/// Sent to the worker in whose block an external port lies when the inside host belongs to another one:
/// the port is kept out of allocation and its packets cross to `owner`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PortLease {
    /// The pool address.
    pub external: Address,
    /// Host byte order, not 0.
    pub external_port: u16,
    /// The pool.
    pub pool: PoolId,
    /// 6 or 17.
    pub protocol: u8,
    /// The worker of the inside host.
    pub owner: WorkerId,
    /// Zero.
    pub reserved: [u8; 2],
}

/// Asks for rows of a table, from `cursor` on; rows and then [`crate::event::WalkEnd`] come as events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Walk {
    /// 0 at first, then [`crate::event::WalkEnd::cursor`].
    pub cursor: u64,
    /// Which table.
    pub table: WalkTable,
    /// Most rows to send, 1 to 256.
    pub limit: u32,
}

/// A table of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct WalkTable(pub u32);

impl WalkTable {
    /// Flows: [`crate::event::FlowRow`].
    pub const FLOWS: Self = Self(1);
    /// Bindings, pinholes among them: [`crate::event::BindingRow`].
    pub const BINDINGS: Self = Self(2);
}

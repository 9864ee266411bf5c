//! Events: worker to control plane, one slot each. A worker never waits for room: what does not fit is
//! counted, but answers are not lost, since a worker takes a command only when its answer has room.

use crate::command::Kind;
use crate::{Address, InterfaceId, PoolId, Prefix, WorkerId};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Kinds of events.
impl Kind {
    /// [`Ack`].
    pub const ACK: Self = Self(0x101);
    /// [`NeighbourNeeded`].
    pub const NEIGHBOUR_NEEDED: Self = Self(0x102);
    /// [`BindingRow`].
    pub const BINDING_ROW: Self = Self(0x104);
    /// [`WalkEnd`].
    pub const WALK_END: Self = Self(0x105);
    /// [`PinholeLocked`].
    pub const PINHOLE_LOCKED: Self = Self(0x106);
    /// [`PinholeClosed`].
    pub const PINHOLE_CLOSED: Self = Self(0x107);
    /// [`Seen`].
    pub const SEEN: Self = Self(0x108);
}

/// How a command ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct AckResult(pub u32);

impl AckResult {
    /// Carried out; in force for every later packet.
    pub const OK: Self = Self(0);
    /// The external port is taken.
    pub const PORT_TAKEN: Self = Self(1);
    /// The address is not of the pool, or the port not in its range.
    pub const NOT_IN_POOL: Self = Self(2);
    /// No free port on the subscriber's address.
    pub const NO_PORT: Self = Self(3);
    /// The table is full.
    pub const TABLE_FULL: Self = Self(4);
    /// No such pinhole.
    pub const NOT_FOUND: Self = Self(5);
    /// The id exists with other content.
    pub const CONFLICT: Self = Self(6);
    /// The inside endpoint already has a mapping with another external port.
    pub const MAPPED_ELSEWHERE: Self = Self(7);
    /// No policy table yet.
    pub const NO_POLICY: Self = Self(8);
    /// The inside address or port belongs to another worker.
    pub const NOT_OWNER: Self = Self(9);
    /// No reservation with that id, or not of these ports.
    pub const NOT_RESERVED: Self = Self(10);
    /// The subscriber has as many ports or blocks as the pool allows.
    pub const LIMIT: Self = Self(11);
    /// The inside endpoint has as many pinholes as one can have.
    pub const TOO_MANY: Self = Self(12);

    /// In words.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::OK => "done",
            Self::PORT_TAKEN => "the external port is in use",
            Self::NOT_IN_POOL => "the external address or port is not in the pool",
            Self::NO_PORT => "no free port on the subscriber's pool address",
            Self::TABLE_FULL => "the binding table is full",
            Self::NOT_FOUND => "no such pinhole",
            Self::CONFLICT => "the id exists with other content",
            Self::MAPPED_ELSEWHERE => "the inside endpoint is already mapped to another external port",
            Self::NO_POLICY => "no policy is loaded yet",
            Self::NOT_OWNER => "wrong worker",
            Self::NOT_RESERVED => "no such reservation, or not of these ports",
            Self::LIMIT => "the subscriber has as many ports as the pool allows",
            Self::TOO_MANY => "the inside endpoint has too many pinholes",
            _ => "unknown result",
        }
    }
}

/// Answer to a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ack {
    /// How it ended.
    pub result: AckResult,
    /// Of a pinhole: the external port it got, host byte order.
    pub external_port: u16,
    /// Zero.
    pub reserved: u16,
    /// Of a pinhole: the external address it got.
    pub external: Address,
}

/// Answer to [`crate::command::Look`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Seen {
    /// External address of the inside end, else the one its host has; unspecified if neither has one.
    pub external: Address,
    /// Milliseconds until the last flow that the inside host kept alive would end if it sent nothing more; 0 without
    /// such a flow.
    pub remaining_ms: u64,
    /// External port of the inside end, host byte order; 0 if it has none.
    pub external_port: u16,
    /// [`Seen::DYNAMIC`].
    pub flags: u16,
    /// Zero.
    pub reserved: [u8; 4],
}

impl Seen {
    /// The inside end's binding was made by packets, not by a pinhole.
    pub const DYNAMIC: u16 = 1;
}

/// A packet waits for this next hop. Sent at most once a second for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NeighbourNeeded {
    /// The next hop.
    pub address: Address,
    /// The interface it should lie on.
    pub interface: InterfaceId,
    /// Zero.
    pub reserved: [u8; 6],
}

/// Five-tuple of packets of one direction as they reach the box. Ports in host byte order; an ICMP query's
/// identifier stands in both.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct Tuple {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// A binding, or a pinhole of the firewall (`pool` is [`BindingRow::NO_POOL`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindingRow {
    /// Inside end.
    pub inside: Address,
    /// External end; unspecified without pool.
    pub external: Address,
    /// Who may use a pinhole; everybody for a dynamic binding.
    pub remote: Prefix,
    /// The pinhole's id, 0 for a dynamic binding.
    pub pinhole: u64,
    /// Milliseconds since it was made.
    pub age_ms: u64,
    /// Flows that use it.
    pub flows: u32,
    /// Inside port or query identifier, host byte order.
    pub inside_port: u16,
    /// External port or query identifier.
    pub external_port: u16,
    /// The pool.
    pub pool: PoolId,
    /// IP protocol number.
    pub protocol: u8,
    /// Owner.
    pub worker: WorkerId,
    /// Lowest and highest remote port that may use a pinhole.
    pub remote_ports: [u16; 2],
}

impl BindingRow {
    /// `pool` of a pinhole that is not translated.
    pub const NO_POOL: PoolId = PoolId(u16::MAX);
}

/// A remote end has a locking pinhole for itself from now on. Sent once; a pinhole that is to be the same after
/// a restart is added with this end as its `remote` then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PinholeLocked {
    /// The pinhole.
    pub id: u64,
    /// The remote address.
    pub remote: Address,
    /// Its port, host byte order; 0 if only the address is locked.
    pub remote_port: u16,
    /// Zero.
    pub reserved: [u8; 6],
}

/// A pinhole closed by itself: [`crate::command::PinholeAdd::CLOSE_ON_END`], or its address left the pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PinholeClosed {
    /// The pinhole.
    pub id: u64,
}

/// The walk came to its limit, to the table's end, or has looked at enough records for one command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WalkEnd {
    /// Where to go on; [`WalkEnd::DONE`] at the end of the table.
    pub cursor: u64,
    /// Rows sent; may be 0 before the end.
    pub rows: u32,
    /// Zero.
    pub reserved: u32,
}

impl WalkEnd {
    /// Nothing is left.
    pub const DONE: u64 = u64::MAX;
}

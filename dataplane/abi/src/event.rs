//! Events: worker to control plane, one slot each. A worker never waits for room: what does not fit is
//! counted, but answers are not lost, since a worker takes a command only when its answer has room.

use crate::command::Kind;
use crate::counters::{FlowEnd, TcpState};
use crate::flow::FlowRow;
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
    /// [`PortsLogged`]: a subscriber has these ports from now on.
    pub const PORTS_ASSIGNED: Self = Self(0x109);
    /// [`PortsLogged`]: it has them no more.
    pub const PORTS_RELEASED: Self = Self(0x10a);
    /// [`PortsLogged`]: it has them still. A row of [`crate::command::WalkTable::BLOCKS`].
    pub const PORTS_HELD: Self = Self(0x10b);
    /// [`FlowEnded`].
    pub const FLOW_ENDED: Self = Self(0x10c);
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

/// External ports that a subscriber has or had: a block, or one port in somebody else's. Sent where the policy says
/// [`crate::table::SettingsRecord::LOG_BLOCKS`]; not for the computed ranges of a deterministic pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PortsLogged {
    /// The subscriber.
    pub inside: Address,
    /// The pool address.
    pub external: Address,
    /// When it got them, milliseconds of the dataplane's clock, to 128 ms; [`PortsLogged::UNKNOWN`] if that is not
    /// known.
    pub since_ms: u64,
    /// When this was so, milliseconds of the dataplane's clock.
    pub at_ms: u64,
    /// First and last port of each run, host byte order; 0 and 0 behind the last run.
    pub runs: [[u16; 2]; PortsLogged::RUNS],
    /// IP protocol number; 0 for all that have ports or query identifiers.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

impl PortsLogged {
    /// Most runs of a block: 4096 ports in granules of 512 that need not begin with one.
    pub const RUNS: usize = 9;
    /// `since_ms` of a port whose beginning nobody noted.
    pub const UNKNOWN: u64 = u64::MAX;

    /// The runs there are.
    pub fn ports(&self) -> impl Iterator<Item = [u16; 2]> + '_ {
        self.runs.iter().copied().take_while(|run| *run != [0, 0])
    }
}

/// A flow ended. Sent where the policy says [`crate::table::SettingsRecord::LOG_FLOWS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlowEnded {
    /// The inside end.
    pub inside: Address,
    /// What the remote end took for the inside one.
    pub external: Address,
    /// The remote end.
    pub remote: Address,
    /// When it began, milliseconds of the dataplane's clock, to 128 ms.
    pub began_ms: u64,
    /// When its last packet came that counts against idleness.
    pub last_ms: u64,
    /// When it ended.
    pub ended_ms: u64,
    /// Packets from the inside end and from the remote one.
    pub packets: [u64; 2],
    /// IP packets' bytes, likewise.
    pub bytes: [u64; 2],
    /// Ports in host byte order; an ICMP query's identifier.
    pub inside_port: u16,
    /// See `inside_port`.
    pub external_port: u16,
    /// See `inside_port`.
    pub remote_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Index of a [`FlowEnd`].
    pub cause: u8,
    /// Index of a [`TcpState`]: the last one.
    pub state: u8,
    /// [`FlowEnded::INBOUND`], [`FlowEnded::TRANSLATED`].
    pub flags: u8,
    /// Zero.
    pub reserved: [u8; 6],
}

impl FlowEnded {
    /// Opened from the remote end.
    pub const INBOUND: u8 = 1;
    /// The external end differs from the inside one, or might.
    pub const TRANSLATED: u8 = 2;

    /// Of a flow as it is at `now_ms`, its last moment.
    #[must_use]
    pub fn new(flow: &FlowRow, why: FlowEnd, now_ms: u64) -> Self {
        Self {
            inside: flow.inside.0,
            external: flow.external.0,
            remote: flow.remote.0,
            began_ms: now_ms.saturating_sub(flow.age_ms),
            last_ms: now_ms.saturating_sub(flow.idle_ms),
            ended_ms: now_ms,
            packets: flow.packets,
            bytes: flow.bytes,
            inside_port: flow.inside.1,
            external_port: flow.external.1,
            remote_port: flow.remote.1,
            protocol: flow.protocol,
            cause: why.index() as u8,
            state: flow.state.index() as u8,
            flags: if flow.inbound { Self::INBOUND } else { 0 }
                | if flow.translated { Self::TRANSLATED } else { 0 },
            reserved: [0; 6],
        }
    }

    /// Why it ended; `None` if the sender is of another build.
    #[must_use]
    pub fn cause(&self) -> Option<FlowEnd> {
        FlowEnd::at(usize::from(self.cause))
    }

    /// Its last TCP state; [`TcpState::None`] of other protocols.
    #[must_use]
    pub fn state(&self) -> TcpState {
        TcpState::at(usize::from(self.state)).unwrap_or(TcpState::None)
    }
}

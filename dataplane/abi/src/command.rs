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
    /// [`PortLease`], taken back. Sent to its `owner` it is the question whether anything there still uses the ports:
    /// [`crate::event::AckResult::PORT_TAKEN`] if so. Nothing new begins to, once the answer was no.
    pub const PORT_RELEASE: Self = Self(6);
    /// [`Walk`].
    pub const WALK: Self = Self(7);
    /// [`NeighboursReset`].
    pub const NEIGHBOURS_RESET: Self = Self(8);
    /// [`PortsReserve`].
    pub const PORTS_RESERVE: Self = Self(9);
    /// [`PortsRelease`].
    pub const PORTS_RELEASE: Self = Self(10);
    /// [`Look`].
    pub const LOOK: Self = Self(11);
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

/// Most ports of one pinhole, one reservation or one lease.
pub const MAX_RANGE: u8 = 64;

/// Opens a pinhole at the worker that owns `inside`. Translated (IPv4 with a pool): bindings that stay without
/// traffic. Not translated: packets from `remote` to the inside end pass the firewall, both ways or one way as
/// `flags` say. All of its ports open at once or none does.
///
/// An inside endpoint may have several pinholes, up to [`PinholeAdd::MAX_SHARED`]; translated ones share its
/// external port, so a rule for each direction and one for each remote end keep one external endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PinholeAdd {
    /// Identity across restarts, not 0. Adding an id that exists with the same content succeeds and changes nothing.
    pub id: u64,
    /// With [`PinholeAdd::RESERVED`]: the reservation ([`PortsReserve::id`]) whose ports it takes. It is used
    /// up when the pinhole opens, and as it was when the pinhole is refused.
    pub reservation: u64,
    /// The inside host.
    pub inside: Address,
    /// The pool address; unspecified lets the worker choose, and without `POOL` it has no meaning.
    pub external: Address,
    /// Who may use it.
    pub remote: Prefix,
    /// Inside port, the lowest of a range, host byte order; 0 for a protocol without ports.
    pub inside_port: u16,
    /// External port, the lowest of a range, host byte order; 0 lets the worker choose.
    pub external_port: u16,
    /// Lowest remote port that may use it.
    pub remote_port_first: u16,
    /// Highest.
    pub remote_port_last: u16,
    /// The pool, if `flags` has [`PinholeAdd::POOL`].
    pub pool: PoolId,
    /// See the constants.
    pub flags: u16,
    /// Most flows at a time, 0 for no limit.
    pub max_flows: u16,
    /// 6 or 17, or a protocol without ports: 41, 47, 50, 55 (47 and 50 only untranslated).
    pub protocol: u8,
    /// Consecutive ports, 1 to [`MAX_RANGE`]; 0 counts as 1.
    pub ports: u8,
}

impl PinholeAdd {
    /// The pinhole is translated through `pool`.
    pub const POOL: u16 = 1;
    /// The external ports lie in blocks of another worker, which leased them ([`PortLease`]).
    pub const LEASED: u16 = 2;
    /// Flows are opened from outside; UDP and protocols without ports pass inwards only (RFC 5189 2.3.5),
    /// unless the zone's policy or another pinhole passes the other way too.
    pub const INBOUND: u16 = 4;
    /// Flows are opened from inside; UDP and protocols without ports pass outwards only.
    pub const OUTBOUND: u16 = 8;
    /// The first remote address that completes an exchange (TCP handshake; an answer of the inside end) has the
    /// hole for itself; until then at most [`PinholeAdd::CANDIDATES`] wait.
    pub const LOCK_ADDRESS: u16 = 16;
    /// Likewise the first remote address and port.
    pub const LOCK_ENDPOINT: u16 = 32;
    /// The hole closes with the first of its TCP connections that ends, UDP flows that expire likewise.
    pub const CLOSE_ON_END: u16 = 64;
    /// The external ports are those of `reservation`; `external` and `external_port` are taken from there.
    pub const RESERVED: u16 = 128;
    /// An external port that the worker chooses is even.
    pub const EVEN: u16 = 256;
    /// Odd.
    pub const ODD: u16 = 512;
    /// It had these external ports before: that they were freed a moment ago and are held back (RFC 6888 REQ-8) is no
    /// reason to refuse it.
    pub const AGAIN: u16 = 1024;
    /// All of them.
    pub const FLAGS: u16 = 2047;
    /// Remote ends that may try for a locking hole at the same time.
    pub const CANDIDATES: u16 = 8;
    /// Most pinholes of one inside endpoint.
    pub const MAX_SHARED: u16 = 64;
}

/// Closes a pinhole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PinholeRemove {
    /// See [`PinholeAdd::id`].
    pub id: u64,
    /// 1: flows that use it live on until they end by themselves; 0: they are cut.
    pub drain: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

/// Holds consecutive external ports back from everybody (RFC 5189 PRR). No traffic passes. Sent to the worker
/// that owns `inside`; without `inside` to any, and the pinhole's worker may then need them leased.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PortsReserve {
    /// Identity across restarts, not 0, of one number space with [`PinholeAdd::id`] or its own. Reserving an id
    /// that exists with the same content succeeds and changes nothing.
    pub id: u64,
    /// The inside host: the ports come from its blocks. Unspecified: of nobody yet.
    pub inside: Address,
    /// The pool address; unspecified lets the worker choose.
    pub external: Address,
    /// Lowest external port, host byte order; 0 lets the worker choose.
    pub external_port: u16,
    /// The pool.
    pub pool: PoolId,
    /// 6 or 17.
    pub protocol: u8,
    /// Consecutive ports, 1 to [`MAX_RANGE`].
    pub ports: u8,
    /// Of the lowest port, if the worker chooses.
    pub parity: Parity,
    /// 1: as [`PinholeAdd::AGAIN`]; 0 otherwise.
    pub again: u8,
}

/// Parity of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Parity(pub u8);

impl Parity {
    /// Either.
    pub const ANY: Self = Self(0);
    /// Even.
    pub const EVEN: Self = Self(1);
    /// Odd.
    pub const ODD: Self = Self(2);
}

/// Gives reserved ports back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PortsRelease {
    /// See [`PortsReserve::id`].
    pub id: u64,
}

/// Sent to the worker in whose block external ports lie when the inside host belongs to another one: the ports
/// are kept out of allocation and their packets cross to `owner`. All of them or none. For a protocol without
/// ports it goes to the worker that [`crate::steering::owner_of_portless`] names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PortLease {
    /// The pool address.
    pub external: Address,
    /// The reservation at this worker whose ports these are, all of them; it is used up. 0 for none.
    pub reservation: u64,
    /// Lowest port, host byte order, not 0; 0 for a protocol without ports.
    pub external_port: u16,
    /// The pool.
    pub pool: PoolId,
    /// 6, 17, 41 or 55.
    pub protocol: u8,
    /// The worker of the inside host.
    pub owner: WorkerId,
    /// Consecutive ports, 1 to [`MAX_RANGE`]; 0 counts as 1.
    pub ports: u8,
    /// 1: as [`PinholeAdd::AGAIN`]; 0 otherwise.
    pub again: u8,
}

/// Asks the worker that owns `inside` what an inside end has; [`crate::event::Seen`] comes back. Changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Look {
    /// The inside host.
    pub inside: Address,
    /// Its port, host byte order; 0 asks for the external address alone.
    pub inside_port: u16,
    /// The pool it is translated through, or [`crate::event::BindingRow::NO_POOL`].
    pub pool: PoolId,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 3],
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
    /// Bindings, pinholes among them: [`crate::event::BindingRow`]. Each once; if a pool is cut into other blocks
    /// meanwhile, some may come twice.
    pub const BINDINGS: Self = Self(2);
    /// Pinholes: a [`crate::event::BindingRow`] for each port of each of them, however many share a binding.
    pub const PINHOLES: Self = Self(3);
    /// Reservations: a [`crate::event::BindingRow`] each, whose `pinhole` is [`PortsReserve::id`]. One that is made or
    /// released meanwhile may be missing.
    pub const RESERVATIONS: Self = Self(4);
    /// Ports of this worker's blocks that are leased to others: a [`crate::event::BindingRow`] for each port, whose
    /// `worker` is [`PortLease::owner`], without inside end. One that is made or released meanwhile may be missing.
    pub const LEASES: Self = Self(5);
    /// Port blocks that subscribers have, without the computed ranges of a deterministic pool:
    /// a [`crate::event::PortsLogged`] each.
    pub const BLOCKS: Self = Self(6);
}

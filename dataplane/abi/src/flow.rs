//! The state files of a worker: its flow records, laid out for the path, read in place by the control plane,
//! and adopted by the next process.
//!
//! A file holds positions and no pointers. A record is sound at any instruction: its `sequence` is odd while
//! the fields that make its identity change, so a reader (or the next process after a crash) skips it. Counters
//! and the stamp change one by one, and each is whole by itself.
//!
//! ```text
//! offset 0      StateHeader
//! HEADER        FlowRecord  [flows]           IPv4
//!               FlowRecord6 [flows_v6]        IPv6
//!               FlowCold    [flows + flows_v6]
//! ```

use crate::counters::{ProtocolClass, TcpState};
use crate::{Address, WorkerId};
use core::mem::size_of;
use core::sync::atomic::{AtomicU16, Ordering, fence};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Stands for "none" where a record names another.
pub const NONE: u32 = u32::MAX;
/// Stands for "no next hop known" in [`FlowRecord::hops`].
pub const NO_HOP: u16 = u16::MAX;
/// Stands for "not seen yet" in [`FlowRecord::ingress`].
pub const NO_INGRESS: u8 = u8::MAX;
/// Milliseconds of a unit of [`FlowCold::created`], as a shift.
pub const CREATED_SHIFT: u32 = 7;
/// Bytes before the first array of a state file.
pub const HEADER: usize = 4096;

/// Direction of a packet of a flow by its ends: `Out` leaves the inside end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toward {
    /// From the inside end to the remote one.
    Out = 0,
    /// From the remote end to the external one.
    In = 1,
}

/// First bytes of a state file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StateHeader {
    /// [`crate::layout::MAGIC`], written last: a file without it was not finished.
    pub magic: u64,
    /// [`crate::layout::LAYOUT_HASH`] of the writer.
    pub layout_hash: u64,
    /// [`crate::ABI_VERSION`] of the writer.
    pub abi_version: u32,
    /// IPv4 records.
    pub flows: u32,
    /// IPv6 records.
    pub flows_v6: u32,
    /// Whose file it is.
    pub worker: WorkerId,
    /// How many workers there were: who owns what depends on it.
    pub workers: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// Wall clock at 0 of the dataplane's clock, which stamps and beginnings are of: milliseconds since the epoch.
    /// One word, which the worker renews as it publishes its counters: it follows a wall clock that was set.
    pub clock_base: u64,
}

/// Where things lie in a state file, by the numbers of its header. Bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateLayout {
    /// IPv4 records.
    pub flows: usize,
    /// IPv6 records.
    pub flows_v6: usize,
}

impl StateLayout {
    /// Arrays begin at multiples of this.
    pub const ALIGN: usize = 4096;

    /// The first IPv4 record.
    pub const RECORDS: usize = HEADER;

    /// The first IPv6 record.
    #[must_use]
    pub const fn records_v6(self) -> usize {
        Self::RECORDS + (self.flows * size_of::<FlowRecord>()).next_multiple_of(Self::ALIGN)
    }

    /// The first cold record, of flow 0.
    #[must_use]
    pub const fn cold(self) -> usize {
        self.records_v6() + (self.flows_v6 * size_of::<FlowRecord6>()).next_multiple_of(Self::ALIGN)
    }

    /// Everything. At most 1 TB for any two numbers of a header.
    #[must_use]
    pub const fn length(self) -> usize {
        self.cold() + ((self.flows + self.flows_v6) * size_of::<FlowCold>()).next_multiple_of(Self::ALIGN)
    }
}

/// A flow, hot: all that a packet needs, one cache line.
///
/// The ends are in network byte order as they stand in packets. `addresses` holds inside, remote, external and
/// `ports` likewise, so that source and destination of both directions lie side by side: those of packets going
/// out at 0, those of packets coming in at 4 (ports: 2). An ICMP query has its identifier as inside and external
/// port and its kind as remote port. A flow that is not translated has its inside end as external one.
#[derive(Debug, FromBytes, IntoBytes, KnownLayout)]
#[repr(C, align(64))]
pub struct FlowRecord {
    /// IP packets' bytes by [`Toward`] in the low [`BYTES_BITS`] bits; above them the high bits of `packets`.
    pub bytes: [u64; 2],
    /// Packets by [`Toward`], low 32 bits.
    pub packets: [u32; 2],
    /// Last packet that counts against idleness, milliseconds of the dataplane's clock modulo 2^32.
    pub stamp: u32,
    /// The worker's epoch in which `hops` were found out.
    pub epoch: u32,
    /// Next hop by [`Toward`], or [`NO_HOP`].
    pub hops: [u16; 2],
    /// Odd while the record changes its identity.
    pub sequence: AtomicU16,
    /// Interface that packets came in on, by [`Toward`], or [`NO_INGRESS`].
    pub ingress: [u8; 2],
    /// What going out does to the IP header's checksum (RFC 1624 delta); coming in undoes it.
    pub ip_delta: u16,
    /// What going out does to the transport checksum.
    pub l4_delta: u16,
    /// IP protocol.
    pub protocol: u8,
    /// Bits of [`flag`] and the TCP state.
    pub state: u8,
    /// Inside, remote, external.
    pub addresses: [u8; 12],
    /// Inside, remote, external.
    pub ports: [u8; 6],
}

/// An IPv6 flow: never translated. Its `head.addresses` are 0.
#[derive(Debug, FromBytes, IntoBytes, KnownLayout)]
#[repr(C, align(64))]
pub struct FlowRecord6 {
    /// The same as of an IPv4 flow.
    pub head: FlowRecord,
    /// The inside end.
    pub inside: [u8; 16],
    /// The remote end.
    pub remote: [u8; 16],
    /// Zero.
    pub reserved: [u8; 32],
}

/// A flow, cold: what only its beginning, its end and its timer need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlowCold {
    /// When it began, in units of 128 ms of the dataplane's clock.
    pub created: u32,
    /// Next in its timer's slot, or on the free list.
    pub timer: u32,
}

/// Bits of [`FlowRecord::bytes`] that count bytes: 4 PB.
pub const BYTES_BITS: u32 = 52;

/// Bits of [`FlowRecord::state`] above the TCP state.
pub mod flag {
    /// The TCP state's bits.
    pub const TCP: u8 = 0x07;
    /// A reset was the last thing that told about it.
    pub const RESET: u8 = 0x08;
    /// Opened from the remote end.
    pub const INBOUND: u8 = 0x10;
    /// Its external end differs from its inside end, or might.
    pub const TRANSLATED: u8 = 0x20;
    /// In use. A record without is free, or waits for its timer to become so.
    pub const LIVE: u8 = 0x40;
    /// In the list of a binding (an external port, or pinholes) that has a record of its own. A translated flow
    /// without is the only one of its binding, and its record stands for both.
    pub const LISTED: u8 = 0x80;
}

/// A flow as it is shown: copied out of a state file, whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRow {
    /// Its number in the file.
    pub number: u32,
    /// IP protocol.
    pub protocol: u8,
    /// Of TCP; of others `None`.
    pub state: TcpState,
    /// Opened from the remote end.
    pub inbound: bool,
    /// The external end differs from the inside one, or might.
    pub translated: bool,
    /// The inside end, port in host byte order: of an ICMP query its identifier.
    pub inside: (Address, u16),
    /// What the remote end takes for the inside one.
    pub external: (Address, u16),
    /// The remote end; of an ICMP query with the inside end's identifier.
    pub remote: (Address, u16),
    /// Packets by [`Toward`].
    pub packets: [u64; 2],
    /// IP packets' bytes by [`Toward`].
    pub bytes: [u64; 2],
    /// Milliseconds since the last packet that counts.
    pub idle_ms: u64,
    /// Milliseconds since the first packet, to 128 ms.
    pub age_ms: u64,
}

impl FlowRow {
    /// Of copies that nobody changes, at `now_ms` of the dataplane's clock. `ends` are those of an IPv6 flow, inside
    /// and remote. Any bytes make some row.
    #[must_use]
    pub fn new(
        number: u32,
        record: &FlowRecord,
        ends: Option<([u8; 16], [u8; 16])>,
        cold: &FlowCold,
        now_ms: u64,
    ) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = record.addresses;
        let (inside, remote, external) = match ends {
            Some((inside, remote)) => (Address(inside), Address(remote), Address(inside)),
            None => (Address::v4([a, b, c, d]), Address::v4([e, f, g, h]), Address::v4([i, j, k, l])),
        };
        let [m, n, o, p, q, r] = record.ports;
        let [inside_port, remote_port, external_port] = [[m, n], [o, p], [q, r]].map(u16::from_be_bytes);
        let query = matches!(ProtocolClass::of(record.protocol), ProtocolClass::Icmp);
        let ((packets_out, bytes_out), (packets_in, bytes_in)) =
            (record.traffic(Toward::Out), record.traffic(Toward::In));
        Self {
            number,
            protocol: record.protocol,
            state: record.tcp_state(),
            inbound: record.has(flag::INBOUND),
            translated: record.has(flag::TRANSLATED),
            inside: (inside, inside_port),
            external: (external, external_port),
            remote: (remote, if query { inside_port } else { remote_port }),
            packets: [packets_out, packets_in],
            bytes: [bytes_out, bytes_in],
            idle_ms: record.idle_ms(now_ms),
            age_ms: now_ms.saturating_sub(u64::from(cold.created) << CREATED_SHIFT),
        }
    }
}

const _: () = {
    assert!(size_of::<StateHeader>() <= HEADER);
    assert!(size_of::<FlowRecord>() == 64);
    assert!(size_of::<FlowRecord6>() == 128);
    assert!(size_of::<FlowCold>() == 8);
    assert!(TcpState::COUNT <= flag::TCP as usize + 1);
};

impl FlowRecord {
    /// Makes the record unreadable to others while its identity changes.
    pub fn open(&mut self) {
        let sequence = self.sequence.load(Ordering::Relaxed) | 1;
        self.sequence.store(sequence, Ordering::Relaxed);
        fence(Ordering::Release);
    }

    /// Ends what [`Self::open`] began.
    pub fn close(&mut self) {
        let sequence = self.sequence.load(Ordering::Relaxed) | 1;
        self.sequence.store(sequence.wrapping_add(1), Ordering::Release);
    }

    /// Whether bits of [`flag`] are set.
    #[must_use]
    pub const fn has(&self, flag: u8) -> bool {
        self.state & flag != 0
    }

    /// Sets or clears bits of [`flag`].
    pub const fn mark(&mut self, flag: u8, on: bool) {
        self.state = if on { self.state | flag } else { self.state & !flag };
    }

    /// The TCP state; of a flow of another protocol [`TcpState::None`].
    #[must_use]
    pub fn tcp_state(&self) -> TcpState {
        TcpState::at(usize::from(self.state & flag::TCP)).unwrap_or(TcpState::None)
    }

    /// Notes another TCP state.
    pub fn set_tcp_state(&mut self, state: TcpState) {
        self.state = self.state & !flag::TCP | state.index() as u8;
    }

    /// Counts a packet of `bytes`.
    #[inline]
    pub fn count(&mut self, toward: Toward, bytes: u64) {
        let (Some(packets), Some(sum)) =
            (self.packets.get_mut(toward as usize), self.bytes.get_mut(toward as usize))
        else {
            return;
        };
        *packets = packets.wrapping_add(1);
        *sum += bytes;
        if *packets == 0 {
            *sum = sum.wrapping_add(1 << BYTES_BITS);
        }
    }

    /// Packets and bytes so far.
    #[must_use]
    pub fn traffic(&self, toward: Toward) -> (u64, u64) {
        let (packets, bytes) = match toward {
            Toward::Out => (self.packets[0], self.bytes[0]),
            Toward::In => (self.packets[1], self.bytes[1]),
        };
        (u64::from(packets) | bytes >> BYTES_BITS << 32, bytes & ((1 << BYTES_BITS) - 1))
    }

    /// Milliseconds since the stamp at `now_ms`.
    #[must_use]
    pub const fn idle_ms(&self, now_ms: u64) -> u64 {
        // What lies in the future, by half the range, is not idle.
        let idle = (now_ms as u32).wrapping_sub(self.stamp);
        if idle > u32::MAX / 2 { 0 } else { idle as u64 }
    }
}

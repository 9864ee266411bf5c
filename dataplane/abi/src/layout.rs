//! Where things lie in the shared segments, and the hash that both sides compare.
//!
//! | segment | writer | holds |
//! |---|---|---|
//! | statistics | dataplane, for its whole life | identity, interfaces, port pages, one counter page and one page of rules' hits a worker |
//! | events | dataplane, one for each attachment | for each worker: event tail and slots, command head |
//! | commands | control plane, one for each attachment | heartbeat; for each worker: command tail and slots, event head |
//!
//! A ring's tail and slots lie in its producer's segment, its head in its consumer's. Indices count slots
//! since the start and wrap at 2^64; a slot's place is the index modulo [`RING_SLOTS`]. Each index has a
//! cache line of its own.

use crate::command::{Kind, Slot};
use crate::stats::{Identity, InterfaceInfo, MainStats, PortStats};
use crate::{MAX_INTERFACES, MAX_PORTS, counters};
use core::mem::{align_of, size_of};

/// First eight bytes of every segment, message and table: `TURNPIKE`.
pub const MAGIC: u64 = u64::from_be_bytes(*b"TURNPIKE");

/// Slots of a ring; a power of two.
pub const RING_SLOTS: usize = 1024;

/// Bytes of a cache line.
pub const LINE: usize = 64;

/// A page of `T` behind a sequence number: the writer makes it odd, writes, makes it even.
pub const fn page(bytes: usize) -> usize {
    (LINE + bytes).next_multiple_of(LINE)
}

/// Offsets in the statistics segment.
pub mod stats {
    use super::{
        Identity, InterfaceInfo, LINE, MAX_INTERFACES, MAX_PORTS, MainStats, PortStats, counters, page,
        size_of,
    };

    /// [`Identity`].
    pub const IDENTITY: usize = 0;
    /// [`InterfaceInfo`], [`MAX_INTERFACES`] of them.
    pub const INTERFACES: usize = size_of::<Identity>().next_multiple_of(LINE);
    /// Page of [`MainStats`].
    pub const MAIN: usize = (INTERFACES + MAX_INTERFACES * size_of::<InterfaceInfo>()).next_multiple_of(LINE);
    /// Pages of [`PortStats`], [`MAX_PORTS`] of them.
    pub const PORTS: usize = MAIN + page(size_of::<MainStats>());
    /// From one port page to the next.
    pub const PORT_STRIDE: usize = page(size_of::<PortStats>());
    /// Counter pages of the workers.
    pub const WORKERS: usize = (PORTS + MAX_PORTS * PORT_STRIDE).next_multiple_of(4096);
    /// From one worker's page to the next.
    pub const WORKER_STRIDE: usize = page(counters::region::WORDS * 8).next_multiple_of(4096);

    /// Words of a page of rules' hits: the policy's generation, how many rules it has, then a word for each.
    pub const HITS: usize = 2 + crate::table::MAX_RULES;
    /// From one worker's page of hits to the next. They lie behind the pages of counters.
    pub const HITS_STRIDE: usize = page(HITS * 8).next_multiple_of(4096);

    /// A worker's page of hits.
    #[must_use]
    pub const fn hits(workers: usize, worker: usize) -> usize {
        WORKERS + workers * WORKER_STRIDE + worker * HITS_STRIDE
    }

    /// Bytes of the segment.
    #[must_use]
    pub const fn length(workers: usize) -> usize {
        hits(workers, workers)
    }
}

/// Offsets in the event and command segments; both have the same form.
pub mod rings {
    use super::{LINE, RING_SLOTS, Slot, size_of};

    /// In the command segment: the control plane's heartbeat, milliseconds since the epoch. Unused in the other.
    pub const HEARTBEAT: usize = 0;
    /// First worker's part.
    pub const WORKERS: usize = 4096;
    /// In a part: tail of the ring this side produces.
    pub const TAIL: usize = 0;
    /// In a part: head of the ring this side consumes.
    pub const HEAD: usize = LINE;
    /// In a part: slots of the ring this side produces.
    pub const SLOTS: usize = 2 * LINE;
    /// From one worker's part to the next.
    pub const STRIDE: usize = (SLOTS + RING_SLOTS * size_of::<Slot>()).next_multiple_of(4096);

    /// Bytes of the segment.
    #[must_use]
    pub const fn length(workers: usize) -> usize {
        WORKERS + workers * STRIDE
    }
}

const fn fnv(hash: u64, value: u64) -> u64 {
    let mut hash = hash;
    let bytes = value.to_le_bytes();
    let mut i = 0;
    while i < 8 {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    hash
}

macro_rules! hash_of {
    ($seed:expr; $($type:ty { $($field:ident),* $(,)? })*) => {{
        let mut hash: u64 = $seed;
        $(
            hash = fnv(hash, size_of::<$type>() as u64);
            hash = fnv(hash, align_of::<$type>() as u64);
            $( hash = fnv(hash, core::mem::offset_of!($type, $field) as u64); )*
        )*
        hash
    }};
}

/// A hash over the size, alignment and field offsets of every shared type, the lists of counters and the
/// places above. Two builds that differ in any of these refuse each other.
pub const LAYOUT_HASH: u64 = {
    use crate::attach::Message;
    use crate::command::{
        Header, Look, NeighbourClear, NeighbourSet, NeighboursReset, PinholeAdd, PinholeRemove, PortLease,
        PortsRelease, PortsReserve, Walk,
    };
    use crate::event::{
        Ack, BindingRow, FlowEnded, NeighbourNeeded, PinholeClosed, PinholeLocked, PortsLogged, Seen, Tuple,
        WalkEnd,
    };
    use crate::flow::{FlowCold, FlowRecord, FlowRecord6, StateHeader};
    use crate::table::{
        AddressRecord, FirewallRuleRecord, InterfaceRecord, NatRuleRecord, PoolRangeRecord, PoolRecord,
        RouteRecord, Section, SettingsRecord, TableHeader, ZonePairRecord, ZoneRecord,
    };
    use crate::{Address, Prefix};
    let mut hash = hash_of! { 0xcbf2_9ce4_8422_2325 ^ crate::ABI_VERSION as u64;
        Address {}
        Prefix { address, length }
        Kind {}
        Header { kind, sequence }
        Slot { header, body }
        NeighbourSet { address, interface, mac }
        NeighbourClear { address, interface, failed }
        NeighboursReset { magic }
        PinholeAdd { id, reservation, inside, external, remote, inside_port, external_port, remote_port_first, remote_port_last, pool, flags, max_flows, protocol, ports }
        PinholeRemove { id, drain }
        PortsReserve { id, inside, external, external_port, pool, protocol, ports, parity }
        PortsRelease { id }
        PortLease { external, reservation, external_port, pool, protocol, owner, ports }
        Walk { cursor, table, limit }
        Ack { result, external_port, external }
        NeighbourNeeded { address, interface }
        Tuple { source, destination, source_port, destination_port, protocol }
        BindingRow { inside, external, remote, pinhole, age_ms, flows, inside_port, external_port, pool, protocol, worker, remote_ports }
        WalkEnd { cursor, rows }
        FlowRecord { bytes, packets, stamp, epoch, hops, sequence, ingress, ip_delta, l4_delta, protocol, state, addresses, ports }
        FlowRecord6 { head, inside, remote }
        FlowCold { created, timer }
        StateHeader { magic, layout_hash, abi_version, flows, flows_v6, worker, workers, clock_base }
        PinholeLocked { id, remote, remote_port }
        PinholeClosed { id }
        PortsLogged { inside, external, since_ms, at_ms, runs, protocol }
        FlowEnded { inside, external, remote, began_ms, last_ms, ended_ms, packets, bytes, inside_port, external_port, remote_port, protocol, cause, state, flags }
        Look { inside, inside_port, pool, protocol }
        Seen { external, remaining_ms, external_port, flags }
        Message { magic, layout_hash, abi_version, kind, result, table, generation, value }
        Identity { magic, layout_hash, abi_version, pid, started_ms, tsc_hz, workers, ports, interfaces, no_huge, dpdk_version, version }
        InterfaceInfo { name, tap_index, mtu, vlan, port, id, mac }
        PortStats { name, device, driver, link_up, speed, rx_packets, tx_packets, rx_bytes, tx_bytes, rx_missed, rx_errors, tx_errors, rx_nombuf, queues, mtu }
        MainStats { buffers, buffers_available, attaches, departures, violations, tables, tables_refused, tap_sent, tap_received, tap_dropped, inject_dropped, heartbeat_ms }
        Section { offset, count }
        TableHeader { magic, layout_hash, kind, generation, length, sections }
        SettingsRecord { udp, icmp, tcp_established, tcp_opening, tcp_closing, other, icmp_rate, neighbour_wait_ms, flags, mss_clamp }
        ZoneRecord { side }
        InterfaceRecord { interface, zone, mtu }
        PoolRecord { port_first, port_last, zone, proxy_arp, filtering, flags, block_size, blocks, quarantine, quarantine_tcp, quarantine_ports, subscriber_ports, subscriber_flows, subscriber_rate, subscriber_burst, dynamic, inside_first, inside_last }
        PoolRangeRecord { first, last, pool }
        NatRuleRecord { source, destination, from, to, action, pool }
        FirewallRuleRecord { source, destination, source_ports, destination_ports, protocol, icmp_type, icmp_code, from, to, action, family, rule }
        ZonePairRecord { from, to, action }
        AddressRecord { address, prefix_length, interface }
        RouteRecord { prefix, via, interface, kind }
    };
    let numbers = [
        counters::Counter::COUNT,
        counters::DropReason::COUNT,
        counters::ProtocolClass::COUNT,
        counters::Direction::COUNT,
        counters::FlowEnd::COUNT,
        counters::IcmpKind::COUNT,
        counters::FirewallAction::COUNT,
        counters::TcpState::COUNT,
        counters::region::WORDS,
        stats::PORTS,
        stats::WORKERS,
        stats::WORKER_STRIDE,
        stats::HITS_STRIDE,
        rings::STRIDE,
        RING_SLOTS,
    ];
    let mut i = 0;
    while i < numbers.len() {
        hash = fnv(hash, numbers[i] as u64);
        i += 1;
    }
    let names = [names_hash(counters::Counter::ALL.len(), 0), names_hash(counters::DropReason::ALL.len(), 1)];
    fnv(fnv(hash, names[0]), names[1])
};

/// A reordered or renamed counter changes the meaning of a page without changing its size.
const fn names_hash(count: usize, list: usize) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    let mut i = 0;
    while i < count {
        let name =
            if list == 0 { counters::Counter::ALL[i].name() } else { counters::DropReason::ALL[i].name() };
        let bytes = name.as_bytes();
        let mut j = 0;
        while j < bytes.len() {
            hash = fnv(hash, bytes[j] as u64);
            j += 1;
        }
        i += 1;
    }
    hash
}

const _: () = assert!(RING_SLOTS.is_power_of_two());
const _: () = assert!(size_of::<Slot>() == crate::command::SLOT);

//! What the dataplane publishes beside the workers' counters: who it is, its interfaces, its ports.
//! Written by the dataplane's main thread alone.

use crate::{InterfaceId, PortId};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// First bytes of the statistics segment. Constant once published.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Identity {
    /// [`crate::layout::MAGIC`].
    pub magic: u64,
    /// [`crate::layout::LAYOUT_HASH`].
    pub layout_hash: u64,
    /// [`crate::ABI_VERSION`].
    pub abi_version: u32,
    /// Process id of the dataplane.
    pub pid: u32,
    /// Wall clock at start, milliseconds since the epoch.
    pub started_ms: u64,
    /// TSC cycles a second.
    pub tsc_hz: u64,
    /// Workers, ports, interfaces in use.
    pub workers: u16,
    /// See `workers`.
    pub ports: u16,
    /// See `workers`.
    pub interfaces: u16,
    /// 1 if the packet memory lies in ordinary pages (`no_huge`).
    pub no_huge: u16,
    /// Version of DPDK, UTF-8, zero padded.
    pub dpdk_version: [u8; 32],
    /// Version of the binary, UTF-8, zero padded.
    pub version: [u8; 32],
}

/// An interface and its TAP twin. Constant once published.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InterfaceInfo {
    /// Name in the configuration, UTF-8, zero padded.
    pub name: [u8; 32],
    /// Kernel interface index of the TAP twin, in the dataplane's network namespace.
    pub tap_index: u32,
    /// Bytes of the largest IP packet.
    pub mtu: u16,
    /// VLAN id, 0 for the untagged interface of the port.
    pub vlan: u16,
    /// The port that carries it.
    pub port: PortId,
    /// Own index.
    pub id: InterfaceId,
    /// Station address.
    pub mac: [u8; 6],
    /// Zero.
    pub reserved: [u8; 6],
}

/// Counters of a DPDK port, refreshed about ten times a second under a sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PortStats {
    /// Name in the configuration, UTF-8, zero padded.
    pub name: [u8; 32],
    /// DPDK device string, UTF-8, zero padded, cut at 64 bytes.
    pub device: [u8; 64],
    /// DPDK driver, UTF-8, zero padded.
    pub driver: [u8; 32],
    /// Link: 1 up, 0 down.
    pub link_up: u64,
    /// Bits a second; 0 if unknown.
    pub speed: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets the device dropped because the queue was full.
    pub rx_missed: u64,
    /// Packets received with errors.
    pub rx_errors: u64,
    /// Packets not sent because of errors.
    pub tx_errors: u64,
    /// Receptions that found no buffer.
    pub rx_nombuf: u64,
    /// RX and TX queues in use.
    pub queues: u64,
    /// Bytes of the largest IP packet.
    pub mtu: u64,
    /// How unfragmented IPv4 packets find their owner's queue.
    pub steering_v4: Steering,
    /// How IPv6 packets do.
    pub steering_v6: Steering,
}

/// How packets come to the queue of the worker that owns them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Steering(pub u64);

impl Steering {
    /// They do not: the device spreads them its own way, and they cross to their owner in software.
    pub const SOFTWARE: Self = Self(0);
    /// There is one worker.
    pub const ONE_QUEUE: Self = Self(1);
    /// The port's RSS key and redirection table name the owner.
    pub const RSS_KEY: Self = Self(2);
    /// A flow rule hashes the inside address alone, with a key of its own.
    pub const FLOW_RSS: Self = Self(3);
    /// Flow rules match the bits that name the owner.
    pub const FLOW_RULES: Self = Self(4);

    /// The name that logs, API and command line have for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ONE_QUEUE => "one-queue",
            Self::RSS_KEY => "rss-key",
            Self::FLOW_RSS => "flow-rss",
            Self::FLOW_RULES => "flow-rules",
            _ => "software",
        }
    }
}

impl Default for PortStats {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

/// Counters of the dataplane's main thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MainStats {
    /// Packet buffers of the pool.
    pub buffers: u64,
    /// Free ones, driver and per-core caches included.
    pub buffers_available: u64,
    /// Control planes that attached.
    pub attaches: u64,
    /// Control planes that left on their own or closed the socket.
    pub departures: u64,
    /// Control planes put out for a broken ring, a malformed command or table.
    pub violations: u64,
    /// Tables accepted.
    pub tables: u64,
    /// Tables refused.
    pub tables_refused: u64,
    /// Packets written to a TAP twin.
    pub tap_sent: u64,
    /// Packets read from a TAP twin.
    pub tap_received: u64,
    /// Packets for a TAP twin that it did not take.
    pub tap_dropped: u64,
    /// Packets from a TAP twin without room towards a worker or without a buffer.
    pub inject_dropped: u64,
    /// Wall clock of the last publication, milliseconds since the epoch.
    pub heartbeat_ms: u64,
}

/// The text in a zero-padded field: up to the first zero, and empty if it is not UTF-8.
#[must_use]
pub fn text(field: &[u8]) -> &str {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    field.get(..end).and_then(|bytes| core::str::from_utf8(bytes).ok()).unwrap_or("")
}

/// `text` as a zero-padded field, cut at a character boundary if it is too long.
#[must_use]
pub fn field<const N: usize>(text: &str) -> [u8; N] {
    let mut end = text.len().min(N);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut field = [0; N];
    for (to, from) in field.iter_mut().zip(text.as_bytes().iter().take(end)) {
        *to = *from;
    }
    field
}

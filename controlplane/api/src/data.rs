//! What the answers hold, beside flows and bindings.
//!
//! Totals count from the dataplane's start. Rates are over the control plane's last sample, about a second.

use crate::{Endpoint, PinholeProtocol, PortRange, Prefix, Timestamp};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use turnpike_abi::command::PinholeAdd as SharedPinhole;

/// Packets and bytes of one direction: totals and rates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes of Ethernet frames, FCS not included.
    pub bytes: u64,
    /// Packets a second.
    pub packets_per_second: u64,
    /// Bits a second, of the same bytes.
    pub bits_per_second: u64,
}

/// How full a table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Entries now.
    pub in_use: u64,
    /// Entries it can hold.
    pub limit: u64,
    /// Entries made since start.
    pub created: u64,
    /// Entries made a second.
    pub created_per_second: u64,
}

/// The control plane's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlplaneInfo {
    /// Version of the binary.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// When it started.
    pub started_at: Timestamp,
}

/// The dataplane's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataplaneInfo {
    /// Version of the binary.
    pub version: String,
    /// Version of DPDK.
    pub dpdk_version: String,
    /// Process id.
    pub pid: u32,
    /// When it started.
    pub started_at: Timestamp,
    /// Whether packet memory lies in ordinary pages instead of hugepages.
    pub no_huge: bool,
    /// When the control plane attached to it.
    pub attached_since: Timestamp,
}

/// The configuration in force, in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigSummary {
    /// Where it was read.
    pub path: String,
    /// Hash of its text, as in the metric `turnpike_config_info`.
    pub hash: String,
    /// When it came into force.
    pub applied_at: Timestamp,
}

/// Load of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerLoad {
    /// Its number, from 0.
    pub worker: u32,
    /// Packets received a second.
    pub packets_per_second: u64,
    /// Share of cycles in bursts that had packets.
    pub busy_ratio: f64,
}

/// A port in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRate {
    /// Name in the configuration.
    pub name: String,
    /// Whether the link is up.
    pub link_up: bool,
    /// Received.
    pub receive: Traffic,
    /// Sent.
    pub transmit: Traffic,
    /// Packets the device lost on reception a second: missed, errors, no buffer.
    pub receive_lost_per_second: u64,
}

/// How full a pool is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolFill {
    /// Name in the configuration.
    pub name: String,
    /// External ports of one protocol on all its addresses together.
    pub ports: u64,
    /// Ports in use, by protocol.
    pub in_use: PortsInUse,
}

/// Ports of a pool in use; every protocol has port numbers of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortsInUse {
    /// TCP ports.
    pub tcp: u64,
    /// UDP ports.
    pub udp: u64,
    /// ICMP query identifiers.
    pub icmp: u64,
}

impl PortsInUse {
    /// The count of the fullest protocol.
    #[must_use]
    pub fn highest(&self) -> u64 {
        self.tcp.max(self.udp).max(self.icmp)
    }
}

/// Drops in short.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropSummary {
    /// Packets dropped.
    pub packets: u64,
    /// Packets dropped a second.
    pub packets_per_second: u64,
    /// The reasons with the highest rates, then the highest totals; at most ten, none without drops.
    pub top: Vec<DropData>,
}

/// Drops for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropData {
    /// Name of the reason, as in the metric `turnpike_drops_total`.
    pub reason: String,
    /// Packets.
    pub packets: u64,
    /// Packets a second.
    pub packets_per_second: u64,
}

/// The balance `received + injected + crossed_in + generated == sent + punted + crossed_out + drops + held`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conservation {
    /// Whether it holds for every worker.
    pub ok: bool,
    /// Left side, all workers together.
    pub packets_in: u64,
    /// Right side.
    pub packets_accounted: u64,
}

/// Packet buffers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BufferUse {
    /// Buffers of the pool.
    pub total: u64,
    /// Free ones.
    pub available: u64,
}

/// The box on one page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusData {
    /// Whether packets are forwarded: attached, every worker alive and on a policy.
    pub ready: bool,
    /// Whether a dataplane is attached. Without one, `dataplane` is `null` and the rest is as last seen.
    pub attached: bool,
    /// The control plane.
    pub controlplane: ControlplaneInfo,
    /// The dataplane.
    pub dataplane: Option<DataplaneInfo>,
    /// The configuration.
    pub config: ConfigSummary,
    /// Ports, in the configuration's order.
    pub ports: Vec<PortRate>,
    /// Workers, by number.
    pub workers: Vec<WorkerLoad>,
    /// Flows of all workers.
    pub flows: Usage,
    /// Bindings of all workers.
    pub bindings: Usage,
    /// Inside addresses with at least one binding.
    pub subscribers: u64,
    /// Pinholes installed.
    pub pinholes: u64,
    /// Pools, in the configuration's order.
    pub pools: Vec<PoolFill>,
    /// Packet buffers.
    pub buffers: BufferUse,
    /// Drops.
    pub drops: DropSummary,
    /// Whether every packet is accounted for.
    pub conservation: Conservation,
}

/// An interface: a port without tag or a VLAN of it, with its TAP twin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceData {
    /// Name in the configuration.
    pub name: String,
    /// VLAN id; `null` for the untagged one.
    pub vlan: Option<u16>,
    /// Its zone; `null` if it forwards nothing.
    pub zone: Option<String>,
    /// Station address.
    pub mac: String,
    /// Bytes of the largest IP packet.
    pub mtu_bytes: u32,
    /// Name of the TAP twin.
    pub tap: String,
    /// Addresses of the box on it, with their prefix length: `192.0.2.1/24`.
    pub addresses: Vec<String>,
}

/// A DPDK port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortData {
    /// Name in the configuration.
    pub name: String,
    /// DPDK device string.
    pub device: String,
    /// DPDK driver.
    pub driver: String,
    /// Whether the link is up.
    pub link_up: bool,
    /// Speed of the link; `null` if the device does not know.
    pub speed_bits_per_second: Option<u64>,
    /// Bytes of the largest IP packet.
    pub mtu_bytes: u32,
    /// RX and TX queues in use.
    pub queues: u32,
    /// How packets come to the queue of the worker that owns them.
    pub steering: SteeringData,
    /// Received.
    pub receive: Traffic,
    /// Sent.
    pub transmit: Traffic,
    /// Packets the device dropped because the queue was full.
    pub receive_missed: u64,
    /// Packets received with errors.
    pub receive_errors: u64,
    /// Receptions that found no buffer.
    pub receive_no_buffer: u64,
    /// Packets not sent because of errors.
    pub transmit_errors: u64,
    /// Its interfaces.
    pub interfaces: Vec<InterfaceData>,
}

/// How packets come to the queue of the worker that owns them: `one-queue`, `rss-key`, `flow-rss`, `flow-rules`,
/// or `software` where they do not and cross to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SteeringData {
    /// IPv4, unless fragmented.
    pub ipv4: String,
    /// IPv6.
    pub ipv6: String,
}

/// TSC cycles of a worker since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cycles {
    /// In bursts that had packets.
    pub busy: u64,
    /// In polls that had none, sleep included.
    pub idle: u64,
    /// In timers, commands and publishing.
    pub housekeeping: u64,
}

/// A worker thread.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerData {
    /// Its number, from 0.
    pub worker: u32,
    /// Milliseconds since it published its counters last.
    pub heartbeat_age_milliseconds: u64,
    /// Taken from the RX queues.
    pub receive: Traffic,
    /// Taken by the TX queues.
    pub transmit: Traffic,
    /// Packets for the box itself.
    pub punted: u64,
    /// Packets from the box itself.
    pub injected: u64,
    /// Packets it made itself.
    pub generated: u64,
    /// Packets that came from another worker.
    pub crossed_in: u64,
    /// Packets handed to the worker that owns them.
    pub crossed_out: u64,
    /// Packets dropped.
    pub dropped: u64,
    /// Packets dropped a second.
    pub dropped_per_second: u64,
    /// Packets waiting for a neighbour.
    pub held: u64,
    /// Bursts that had packets.
    pub bursts: u64,
    /// Cycles.
    pub cycles: Cycles,
    /// Share of cycles in bursts that had packets, over the last sample.
    pub busy_ratio: f64,
    /// Flows.
    pub flows: Usage,
    /// Bindings.
    pub bindings: Usage,
    /// Inside addresses with at least one binding.
    pub subscribers: u64,
    /// Pinholes installed.
    pub pinholes: u64,
    /// Neighbours known.
    pub neighbours: u64,
    /// Generation of the policy in use, 0 before the first.
    pub policy_generation: u64,
    /// Generation of the forwarding table in use, 0 before the first.
    pub forwarding_generation: u64,
    /// Milliseconds the timer wheel is behind.
    pub timer_lag_milliseconds: u64,
    /// Commands carried out.
    pub commands: u64,
    /// Commands answered with an error.
    pub commands_refused: u64,
    /// Events written.
    pub events: u64,
    /// Events lost.
    pub events_dropped: u64,
    /// Times it found the control plane's ring broken.
    pub peer_violations: u64,
    /// Its balance.
    pub conservation: Conservation,
}

/// A pool of external addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolData {
    /// Name in the configuration.
    pub name: String,
    /// Zone its addresses face.
    pub zone: String,
    /// Its addresses as ranges: `203.0.113.16-203.0.113.31`, `198.51.100.7`.
    pub ranges: Vec<String>,
    /// How many addresses.
    pub addresses: u64,
    /// Ports given out on each.
    pub port_range: PortRange,
    /// External ports of one protocol on all addresses together.
    pub ports: u64,
    /// Ports in use, by protocol.
    pub in_use: PortsInUse,
    /// Packets dropped because no port was free.
    pub exhausted: u64,
    /// Whether the box answers ARP for its addresses.
    pub proxy_arp: bool,
}

/// What the kernel knows of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NeighbourState {
    /// Asked, no answer yet.
    Incomplete,
    /// Confirmed lately.
    Reachable,
    /// Known, not confirmed lately.
    Stale,
    /// Known, about to be asked.
    Delay,
    /// Known, being asked.
    Probe,
    /// Did not answer.
    Failed,
    /// Set by hand.
    Permanent,
}

impl NeighbourState {
    /// The name in JSON and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Incomplete => "incomplete",
            Self::Reachable => "reachable",
            Self::Stale => "stale",
            Self::Delay => "delay",
            Self::Probe => "probe",
            Self::Failed => "failed",
            Self::Permanent => "permanent",
        }
    }
}

/// A next hop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighbourData {
    /// Its address.
    pub address: IpAddr,
    /// The interface it lies on.
    pub interface: String,
    /// Station address; `null` while unknown.
    pub mac: Option<String>,
    /// What the kernel knows.
    pub state: NeighbourState,
    /// Whether the workers have it.
    pub installed: bool,
}

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteKind {
    /// To a next hop or the link.
    Unicast,
    /// To the box itself.
    Local,
    /// Dropped with ICMP unreachable.
    Unreachable,
    /// Dropped without a word.
    Blackhole,
}

impl RouteKind {
    /// The name in JSON and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unicast => "unicast",
            Self::Local => "local",
            Self::Unreachable => "unreachable",
            Self::Blackhole => "blackhole",
        }
    }
}

/// A route as the workers have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteData {
    /// Destination.
    pub destination: Prefix,
    /// What it does.
    pub kind: RouteKind,
    /// Next hop; `null` where the destination is on the link or nothing is forwarded.
    pub via: Option<IpAddr>,
    /// Outgoing interface of a unicast route.
    pub interface: Option<String>,
}

/// Every drop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropsData {
    /// Packets the workers dropped.
    pub packets: u64,
    /// Packets they dropped a second.
    pub packets_per_second: u64,
    /// Every reason there is, zeros included, in the order of the packet's way through the box.
    pub reasons: Vec<DropData>,
    /// Packets the devices lost before a worker saw them: missed, errors, no buffer.
    pub device_receive_lost: u64,
    /// Packets for the box itself that a TAP twin did not take.
    pub tap_dropped: u64,
    /// Packets from the box itself that found no room towards a worker.
    pub inject_dropped: u64,
}

/// The configuration in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigData {
    /// Where it was read.
    pub path: String,
    /// Hash of its text.
    pub hash: String,
    /// When it came into force.
    pub applied_at: Timestamp,
    /// Its text, TOML.
    pub text: String,
    /// Keys whose value in the file waits for a restart of the dataplane.
    pub needs_restart: Vec<String>,
}

/// What a reload did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadData {
    /// Where it was read.
    pub path: String,
    /// Hash of the text in force before.
    pub previous_hash: String,
    /// Hash of the text in force now.
    pub hash: String,
    /// Whether the workers got something new.
    pub changed: bool,
    /// Keys whose new value waits for a restart of the dataplane.
    pub needs_restart: Vec<String>,
}

/// How far a pinhole is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PinholeState {
    /// On its way to the worker, or waiting for the dataplane to come back.
    Pending,
    /// In force.
    Active,
    /// Granted, but the worker refused it when it was installed again; tried anew now and then.
    Suspended,
    /// On its way out.
    Closing,
}

impl PinholeState {
    /// The name in JSON and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Closing => "closing",
        }
    }
}

/// A pinhole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinholeData {
    /// Its id, the same across restarts.
    pub id: u64,
    /// TCP or UDP.
    pub protocol: PinholeProtocol,
    /// The inside host's end.
    pub inside: Endpoint,
    /// The external end; `null` if it is not translated or not known yet.
    pub external: Option<Endpoint>,
    /// Name of the pool of `external`.
    pub pool: Option<String>,
    /// Who may use it; `null` for everybody.
    pub remote: Option<Prefix>,
    /// From which ports; `null` for all.
    pub remote_ports: Option<PortRange>,
    /// When it was added.
    pub created_at: Timestamp,
    /// When it ends; `null` for never.
    pub expires_at: Option<Timestamp>,
    /// How far it is.
    pub state: PinholeState,
    /// On whose behalf it exists: a front end and what that knows its client by, such as `cli:1000`.
    pub owner: String,
    /// What it is for.
    pub note: Option<String>,
}

impl PinholeData {
    /// As a command to the worker: who may use it and the ends, `pool` and lease flags left to the caller.
    #[must_use]
    pub fn to_command(&self) -> SharedPinhole {
        let ports = self.remote_ports.unwrap_or(PortRange::ALL);
        SharedPinhole {
            id: self.id,
            inside: self.inside.address.into(),
            external: self
                .external
                .map_or(turnpike_abi::Address::UNSPECIFIED, |external| external.address.into()),
            remote: self.remote.map_or(turnpike_abi::Prefix::ANY, Into::into),
            inside_port: self.inside.port,
            external_port: self.external.map_or(0, |external| external.port),
            remote_port_first: ports.first,
            remote_port_last: ports.last,
            protocol: self.protocol.number(),
            ..SharedPinhole::default()
        }
    }
}

/// Who is who.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionData {
    /// The CLI that asked; the control plane leaves it `null`.
    pub cli: Option<String>,
    /// The control plane; `null` if it was not reached.
    pub controlplane: Option<String>,
    /// The dataplane; `null` if none is attached.
    pub dataplane: Option<String>,
    /// DPDK; `null` if no dataplane is attached.
    pub dpdk: Option<String>,
    /// [`crate::API_VERSION`].
    pub api_version: u32,
    /// [`turnpike_abi::ABI_VERSION`].
    pub abi_version: u32,
}

//! The configuration as types, and every default.

use crate::address::{AddressRange, InterfaceAddress, Network};
use crate::midcom::{Agent, Midcom, Pcp, ThirdParty};
use crate::simco::Simco;
use crate::value::{MacAddress, MemorySize, Metrics, Name, PortRange, Protocol, Seconds, TapName};
use serde::Serialize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// A configuration that was checked: every name it refers to exists.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// Read by the dataplane at start.
    pub dataplane: Dataplane,
    /// Read by the control plane at start.
    pub control: Control,
    /// Timers.
    pub timeouts: Timeouts,
    /// Switches.
    pub options: Options,
    /// What the translator logs.
    pub log: Log,
    /// DPDK ports; the index is the port's id.
    #[serde(rename = "port")]
    pub ports: Vec<Port>,
    /// Zones; the index is the zone's id.
    #[serde(rename = "zone")]
    pub zones: Vec<Zone>,
    /// Static routes.
    #[serde(rename = "route")]
    pub routes: Vec<Route>,
    /// Pools of external addresses; the index is the pool's id.
    #[serde(rename = "pool")]
    pub pools: Vec<Pool>,
    /// NAT rules, first match first.
    pub nat: Vec<Nat>,
    /// What happens between two zones where no rule matches.
    #[serde(rename = "policy")]
    pub policies: Vec<Policy>,
    /// Firewall rules, first match first.
    #[serde(rename = "rule")]
    pub rules: Vec<Rule>,
    /// Limits and habits of MIDCOM.
    pub midcom: Midcom,
    /// Agents.
    #[serde(rename = "agent")]
    pub agents: Vec<Agent>,
    /// The front end for agents.
    pub simco: Simco,
    /// The front end for hosts.
    pub pcp: Pcp,
    /// Hosts that may open for others.
    #[serde(rename = "third_party")]
    pub third_parties: Vec<ThirdParty>,
}

/// `[dataplane]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Dataplane {
    /// Processor cores, one worker each, distinct, 1 to 64 of them.
    pub cores: Vec<u16>,
    /// What a worker does when there is nothing to do.
    pub poll: Poll,
    /// Packet memory in ordinary pages.
    pub no_huge: bool,
    /// Packet buffers and DPDK's own memory.
    pub memory: MemorySize,
    /// Packet buffers.
    pub buffers: u32,
    /// IPv4 flows a worker can hold.
    pub flows: u32,
    /// IPv6 flows a worker can hold.
    pub flows_v6: u32,
    /// Bindings a worker can hold.
    pub bindings: u32,
    /// Directory of the workers' state files; see [`Dataplane::state_directory`].
    pub state: Option<PathBuf>,
    /// Where the control plane attaches.
    pub socket: PathBuf,
    /// The user that may attach.
    pub control_user: String,
    /// Further EAL arguments.
    pub eal: Vec<String>,
}

impl Default for Dataplane {
    fn default() -> Self {
        Self {
            cores: Vec::new(),
            poll: Poll::Busy,
            no_huge: false,
            memory: MemorySize::from_mib(512),
            buffers: 16_384,
            flows: 65_536,
            flows_v6: 16_384,
            bindings: 65_536,
            state: None,
            socket: "/run/turnpike/dataplane.sock".into(),
            control_user: "turnpike".to_owned(),
            eal: Vec::new(),
        }
    }
}

impl Dataplane {
    /// Where the workers' state files are: as said, else where every system has memory of the kind.
    #[must_use]
    pub fn state_directory(&self) -> &Path {
        let default = if self.no_huge { "/dev/shm/turnpike" } else { "/dev/hugepages/turnpike" };
        self.state.as_deref().unwrap_or(Path::new(default))
    }
}

/// What a worker does when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Poll {
    /// Polls on: a whole core, the least delay.
    Busy,
    /// Sleeps, longer the longer it is idle.
    Adaptive,
}

/// `[control]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Control {
    /// Where the CLI connects.
    pub socket: PathBuf,
    /// Where Prometheus scrapes.
    pub metrics: Metrics,
    /// Directory of the journal.
    pub state: PathBuf,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            socket: "/run/turnpike/control.sock".into(),
            metrics: Metrics(Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9464)))),
            state: "/var/lib/turnpike".into(),
        }
    }
}

/// `[[port]]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Port {
    /// Its name, and that of its untagged interface.
    pub name: Name,
    /// PCI address or DPDK device string.
    pub device: String,
    /// Zone of the untagged interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<Name>,
    /// Addresses of the box on the untagged interface.
    pub addresses: Vec<InterfaceAddress>,
    /// Largest IP packet of the device and of the untagged interface, bytes.
    pub mtu: u16,
    /// Station address, if it is not to be the device's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    /// Name of the untagged interface's TAP twin; `None` if there is no untagged interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tap: Option<TapName>,
    /// VLAN subinterfaces.
    #[serde(rename = "vlan")]
    pub vlans: Vec<Vlan>,
}

/// Largest IP packet of an interface unless the configuration says otherwise, bytes.
pub const DEFAULT_MTU: u16 = 1500;

impl Port {
    /// Whether the port has an interface for untagged frames.
    #[must_use]
    pub fn has_untagged(&self) -> bool {
        self.zone.is_some() || !self.addresses.is_empty()
    }
}

/// `[[port.vlan]]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Vlan {
    /// VLAN id, 1 to 4094.
    pub id: u16,
    /// Name of the interface.
    pub name: Name,
    /// Its zone; without one it forwards nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<Name>,
    /// Addresses of the box.
    pub addresses: Vec<InterfaceAddress>,
    /// Largest IP packet, bytes; at most the port's.
    pub mtu: u16,
    /// Name of its TAP twin.
    pub tap: TapName,
}

/// `[[zone]]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Zone {
    /// Its name.
    pub name: Name,
    /// Where it stands.
    pub side: Side,
}

/// A side of the translator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Subscribers.
    Inside,
    /// The rest of the world.
    Outside,
}

/// `[[route]]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Route {
    /// Destination.
    pub destination: Network,
    /// Next hop, of the same family, on a link of the box.
    pub via: IpAddr,
}

/// `[[pool]]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pool {
    /// Its name.
    pub name: Name,
    /// Its addresses; ranges of all pools are disjoint.
    pub addresses: Vec<AddressRange>,
    /// External ports given out.
    pub ports: PortRange,
    /// The outside zone its addresses face.
    pub zone: Name,
    /// Answer ARP for its addresses there.
    pub proxy_arp: bool,
    /// Who may send to a mapping.
    pub filtering: Filtering,
    /// Keep the parity of ports while there is a port of it (RFC 4787 REQ-4).
    pub parity: bool,
    /// Ports of a block, the unit that a subscriber gets: a power of two from 64 to 4096.
    pub block_size: u16,
    /// Most blocks of a subscriber; 0 for no limit.
    pub blocks: u16,
    /// Most ports of a subscriber, of each protocol; 0 for no limit (RFC 6888 REQ-4).
    pub subscriber_ports: u32,
    /// Most flows of a subscriber; 0 for no limit (RFC 6888 REQ-5).
    pub subscriber_flows: u32,
    /// New flows a second that a subscriber may open; 0 for no limit (RFC 6888 REQ-4c).
    pub subscriber_rate: u32,
    /// How many of them may come at once; 0 for those of a second.
    pub subscriber_burst: u32,
    /// How long a freed UDP port, query identifier or block is held back (RFC 6888 REQ-8).
    pub quarantine: Seconds,
    /// How long a freed TCP port is held back.
    pub quarantine_tcp: Seconds,
    /// Most ports that a worker holds back.
    pub quarantine_ports: u32,
    /// Inside addresses that have a port range by computation (RFC 7422).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deterministic: Option<AddressRange>,
    /// Of a deterministic pool: the share of the ports for overflow, counted in subscribers (D of RFC 7422).
    pub dynamic: u16,
}

impl Pool {
    /// Ports given out unless the configuration says otherwise.
    pub const DEFAULT_PORTS: PortRange = PortRange { first: 1024, last: 65535 };
    /// Ports of a block.
    pub const DEFAULT_BLOCK_SIZE: u16 = 256;
    /// Most blocks of a subscriber: 4096 ports of each protocol.
    pub const DEFAULT_BLOCKS: u16 = 16;
    /// RFC 6888 REQ-8.
    pub const DEFAULT_QUARANTINE: Seconds = Seconds(120);
    /// A TCP connection was tracked to its end (RFC 6888 REQ-8a).
    pub const DEFAULT_QUARANTINE_TCP: Seconds = Seconds(0);
    /// As many as there is room for in most pools.
    pub const DEFAULT_QUARANTINE_PORTS: u32 = 1_000_000;
    /// As in the example of RFC 7422.
    pub const DEFAULT_DYNAMIC: u16 = 2;
}

/// Which remote ends may send to a mapping that an inside end made (RFC 4787 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filtering {
    /// Everybody.
    EndpointIndependent,
    /// Addresses that it has a flow with.
    AddressDependent,
    /// Addresses and ports that it has a flow with.
    AddressAndPortDependent,
}

/// Zones a rule applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ZoneMatch {
    /// All of them, written `any`.
    Any,
    /// One of them.
    Zone(Name),
}

impl ZoneMatch {
    /// The zone, if it is one.
    #[must_use]
    pub const fn name(&self) -> Option<&Name> {
        match self {
            Self::Any => None,
            Self::Zone(name) => Some(name),
        }
    }
}

/// `[[nat]]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Nat {
    /// Inside zone that flows come from; `Any` is every inside zone.
    pub from: ZoneMatch,
    /// Zone they go to.
    pub to: ZoneMatch,
    /// Inside sources, IPv4.
    pub source: Network,
    /// Destinations, IPv4.
    pub destination: Network,
    /// What to do.
    #[serde(flatten)]
    pub target: NatTarget,
}

/// What a NAT rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NatTarget {
    /// Translates the source into a pool.
    Pool(Name),
    /// Forwards untranslated (RFC 6888 REQ-6).
    Exempt,
}

/// `[[policy]]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Policy {
    /// Zone that flows come from.
    pub from: Name,
    /// Zone they go to.
    pub to: Name,
    /// What happens to them where no rule matches.
    pub default: Action,
}

/// What the firewall does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Passes.
    Accept,
    /// Drops without a word.
    Drop,
    /// Drops and says so with an ICMP error.
    Reject,
}

/// An IP version; serializes as 4 or 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// 4 or 6.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }

    /// That of a prefix.
    #[must_use]
    pub const fn of(network: &Network) -> Self {
        if network.is_v4() { Self::V4 } else { Self::V6 }
    }
}

/// `[[rule]]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rule {
    /// Zone that flows come from.
    pub from: ZoneMatch,
    /// Zone they go to.
    pub to: ZoneMatch,
    /// Family as written; [`Rule::effective_family`] also looks at the prefixes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    /// Protocol; `None` is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// ICMP type; `None` is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// ICMP code; `None` is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
    /// Sources; `None` is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Network>,
    /// Destinations; `None` is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<Network>,
    /// Source ports; `None` is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_ports: Option<PortRange>,
    /// Destination ports; `None` is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_ports: Option<PortRange>,
    /// What happens.
    pub action: Action,
}

impl Rule {
    /// The only family whose packets can match, if there is one.
    #[must_use]
    pub fn effective_family(&self) -> Option<Family> {
        let prefix = self.source.as_ref().or(self.destination.as_ref());
        self.family.or(prefix.map(Family::of))
    }
}

/// `[timeouts]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Timeouts {
    /// UDP flow (RFC 4787 REQ-5).
    pub udp: Seconds,
    /// ICMP query (RFC 5508 REQ-2).
    pub icmp: Seconds,
    /// Established TCP (RFC 5382 REQ-5).
    pub tcp_established: Seconds,
    /// TCP before it is established.
    pub tcp_opening: Seconds,
    /// TCP after FIN or RST.
    pub tcp_closing: Seconds,
    /// Protocols without ports.
    pub other: Seconds,
    /// How long a datagram may take to come in fragments (RFC 6146 3.4).
    pub fragment: Seconds,
    /// How long a packet waits for its next hop, milliseconds.
    pub neighbour_wait_ms: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            udp: Seconds(300),
            icmp: Seconds(60),
            tcp_established: Seconds(7440),
            tcp_opening: Seconds(240),
            tcp_closing: Seconds(240),
            other: Seconds(300),
            fragment: Seconds(2),
            neighbour_wait_ms: 3000,
        }
    }
}

/// `[options]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Options {
    /// Packets from outside refresh UDP flows too (RFC 4787 REQ-6a).
    pub udp_inbound_refresh: bool,
    /// Drop sources that do not route back to their interface (BCP 84).
    pub reverse_path: bool,
    /// Lower TCP MSS to the path's MTU.
    pub mss_clamp: bool,
    /// ICMP errors a second, for each worker and interface.
    pub icmp_rate: u32,
    /// Fragments that wait for the first of their datagram, for each worker.
    pub fragments_waiting: u32,
    /// Of those, and of datagrams under way, for each source.
    pub fragments_per_source: u32,
    /// Take timeouts below the minima of the RFCs.
    pub allow_noncompliant: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            udp_inbound_refresh: false,
            reverse_path: true,
            mss_clamp: true,
            icmp_rate: 1000,
            fragments_waiting: 512,
            fragments_per_source: 256,
            allow_noncompliant: false,
        }
    }
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Log {
    /// Port blocks as subscribers get them and give them back (RFC 6888 section 4).
    pub blocks: bool,
    /// Flows as they end, each with its cause and its traffic.
    pub flows: bool,
    /// Remote ends of those flows (RFC 6888 REQ-12).
    pub destinations: bool,
    /// The file; `None` is `nat.jsonl` in `control.state`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
}

impl Default for Log {
    fn default() -> Self {
        Self { blocks: true, flows: false, destinations: false, file: None }
    }
}

impl Serialize for Family {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(self.number())
    }
}

impl Serialize for ZoneMatch {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name().map_or("any", Name::as_str))
    }
}

impl Serialize for NatTarget {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap as _;
        let mut map = serializer.serialize_map(Some(1))?;
        match self {
            Self::Pool(name) => map.serialize_entry("pool", name)?,
            Self::Exempt => map.serialize_entry("action", "exempt")?,
        }
        map.end()
    }
}

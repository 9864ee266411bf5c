//! Tables that are sent whole: the policy and the forwarding table.
//!
//! The control plane writes one into a memfd, seals it against every change and offers it on the
//! socket. The dataplane decodes it once; nothing of it can move under the reader. A table is a
//! [`TableHeader`], then its sections, each an array of one record type, 8-byte aligned.
//! [`Writer`] builds one, [`Reader`] takes one apart and checks every offset; what the fields mean is
//! checked by the engine, which answers with a [`TableFault`].

use crate::counters::{ProtocolClass, TcpState};
use crate::{Address, InterfaceId, PoolId, Prefix, ZoneId};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Largest table in bytes.
pub const MAX_TABLE: usize = 512 << 20;
/// Sections in a table.
pub const SECTIONS: usize = 8;
/// Most firewall rules of a configuration. Also the most NAT rules, those for every inside zone counted for each.
pub const MAX_RULES: usize = 10_000;
/// Most records of firewall rules and of NAT rules: ICMP of both families is two.
pub const MAX_RECORDS: usize = 2 * MAX_RULES;

/// Most fragments that wait in a worker for the first of their datagram.
pub const MAX_FRAGMENTS_WAITING: u32 = 1024;

/// What a table is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct TableKind(pub u32);

impl TableKind {
    /// Zones, pools, rules, timeouts: see [`policy`].
    pub const POLICY: Self = Self(1);
    /// Addresses and routes: see [`forwarding`].
    pub const FORWARDING: Self = Self(2);
}

/// Where a section lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Section {
    /// Bytes from the start of the table; a multiple of 8.
    pub offset: u32,
    /// Records.
    pub count: u32,
}

/// First bytes of a table.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TableHeader {
    /// [`crate::layout::MAGIC`].
    pub magic: u64,
    /// [`crate::layout::LAYOUT_HASH`].
    pub layout_hash: u64,
    /// What it is for.
    pub kind: TableKind,
    /// Zero.
    pub reserved: u32,
    /// Not 0, grows with every table of a kind.
    pub generation: u64,
    /// Bytes of the table.
    pub length: u64,
    /// Its sections, by the indices of its kind.
    pub sections: [Section; SECTIONS],
}

/// Sections of a policy table.
pub mod policy {
    /// One [`super::SettingsRecord`].
    pub const SETTINGS: usize = 0;
    /// [`super::ZoneRecord`].
    pub const ZONES: usize = 1;
    /// [`super::InterfaceRecord`].
    pub const INTERFACES: usize = 2;
    /// [`super::PoolRecord`].
    pub const POOLS: usize = 3;
    /// [`super::PoolRangeRecord`].
    pub const POOL_RANGES: usize = 4;
    /// [`super::NatRuleRecord`], first match first.
    pub const NAT_RULES: usize = 5;
    /// [`super::FirewallRuleRecord`], first match first.
    pub const FIREWALL_RULES: usize = 6;
    /// [`super::ZonePairRecord`].
    pub const ZONE_PAIRS: usize = 7;
}

/// Sections of a forwarding table.
pub mod forwarding {
    /// [`super::AddressRecord`].
    pub const ADDRESSES: usize = 0;
    /// [`super::RouteRecord`].
    pub const ROUTES: usize = 1;
}

/// Timers in seconds and switches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SettingsRecord {
    /// UDP flow (RFC 4787 REQ-5).
    pub udp: u32,
    /// ICMP query (RFC 5508 REQ-2).
    pub icmp: u32,
    /// Established TCP (RFC 5382 REQ-5).
    pub tcp_established: u32,
    /// TCP before it is established (RFC 7857 2.1).
    pub tcp_opening: u32,
    /// TCP after FIN or RST (RFC 7857 2.1, 2.2).
    pub tcp_closing: u32,
    /// Protocols without ports.
    pub other: u32,
    /// ICMP errors a second that a worker makes for each interface.
    pub icmp_rate: u32,
    /// How long a packet waits for its next hop, milliseconds.
    pub neighbour_wait_ms: u32,
    /// [`SettingsRecord::UDP_INBOUND_REFRESH`] and others.
    pub flags: u32,
    /// TCP MSS towards an outside zone is lowered to the path's MTU (RFC 9293 3.7.1) if 1.
    pub mss_clamp: u32,
    /// How long a datagram may take to come in fragments (RFC 6146 3.4: at least 2).
    pub fragment: u32,
    /// Fragments that wait for the first of their datagram, for each worker: at most [`MAX_FRAGMENTS_WAITING`].
    pub fragments_waiting: u32,
    /// Of those, and of datagrams under way, for each source: at least 1.
    pub fragments_per_source: u32,
}

impl SettingsRecord {
    /// Packets from outside refresh UDP flows too (RFC 4787 REQ-6a).
    pub const UDP_INBOUND_REFRESH: u32 = 1;
    /// Drop packets whose source does not route back to their interface (BCP 84 strict).
    pub const REVERSE_PATH: u32 = 2;
    /// Say which port blocks subscribers get and give back: [`crate::event::PortsLogged`].
    pub const LOG_BLOCKS: u32 = 4;
    /// Say which flows end, and why: [`crate::event::FlowEnded`].
    pub const LOG_FLOWS: u32 = 8;

    /// Milliseconds that a flow may be idle in `state`, which is of TCP alone.
    #[must_use]
    pub fn timeout_ms(&self, class: ProtocolClass, state: TcpState) -> u64 {
        let seconds = match class {
            ProtocolClass::Tcp => match state {
                TcpState::Established => self.tcp_established,
                TcpState::None | TcpState::Init => self.tcp_opening,
                TcpState::ClientFin | TcpState::ServerFin => {
                    self.tcp_established.min(self.tcp_closing.max(240))
                }
                TcpState::BothFin | TcpState::Transitory => self.tcp_closing,
            },
            ProtocolClass::Udp => self.udp,
            ProtocolClass::Icmp => self.icmp,
            ProtocolClass::Other => self.other,
        };
        u64::from(seconds) * 1000
    }
}

/// A side of the translator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Side(pub u8);

impl Side {
    /// Subscribers.
    pub const INSIDE: Self = Self(0);
    /// The rest of the world.
    pub const OUTSIDE: Self = Self(1);
}

/// A zone. Its index in the section is its [`ZoneId`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ZoneRecord {
    /// Where it stands.
    pub side: Side,
    /// Zero.
    pub reserved: [u8; 7],
}

/// Puts an interface into a zone. Interfaces without record forward nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InterfaceRecord {
    /// The interface.
    pub interface: InterfaceId,
    /// Its zone.
    pub zone: ZoneId,
    /// Zero.
    pub reserved: u8,
    /// Largest IP packet sent there, bytes: 68 (1280 with IPv6) to 9600.
    pub mtu: u16,
    /// Zero.
    pub reserved2: u16,
}

/// Which remote ends may send to a mapping that an inside end made (RFC 4787 section 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Filtering(pub u8);

impl Filtering {
    /// Everybody.
    pub const ENDPOINT_INDEPENDENT: Self = Self(0);
    /// Addresses the inside end has a flow with, from any of their ports.
    pub const ADDRESS_DEPENDENT: Self = Self(1);
    /// Addresses and ports the inside end has a flow with.
    pub const ADDRESS_AND_PORT_DEPENDENT: Self = Self(2);
}

/// A pool. Its index in the section is its [`PoolId`]. Limits are for each subscriber; 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PoolRecord {
    /// Lowest external port given out, host byte order.
    pub port_first: u16,
    /// Highest.
    pub port_last: u16,
    /// Zone its addresses face.
    pub zone: ZoneId,
    /// 1: answer ARP for its addresses on interfaces of that zone (RFC 3022 6.2).
    pub proxy_arp: u8,
    /// Who may send to a mapping.
    pub filtering: Filtering,
    /// [`PoolRecord::DETERMINISTIC`], [`PoolRecord::PARITY`].
    pub flags: u8,
    /// Ports of a block: a power of two from 64 to 4096. Deterministic: of a block of the dynamic share.
    pub block_size: u16,
    /// Most blocks, the primary one included.
    pub blocks: u16,
    /// Seconds a freed UDP port or query identifier, and a block without mapping, is held back, at most 3600
    /// (RFC 6888 REQ-8).
    pub quarantine: u16,
    /// Seconds a freed TCP port is held back, at most 3600: its connection was tracked to its end (REQ-8a).
    pub quarantine_tcp: u16,
    /// Most ports a worker holds back, and never more than it can have bindings; what is freed beyond that is free at
    /// once. 0 holds none back.
    pub quarantine_ports: u32,
    /// Most ports of each protocol (RFC 6888 REQ-4).
    pub subscriber_ports: u32,
    /// Most flows (RFC 6888 REQ-5).
    pub subscriber_flows: u32,
    /// New flows a second, opened by the subscriber (RFC 6888 REQ-4c, REQ-5b).
    pub subscriber_rate: u32,
    /// How many of them may come at once, at least 1 with a rate; at most 1 000 000.
    pub subscriber_burst: u32,
    /// Deterministic: D of RFC 7422, the share of an address's ports for overflow, counted in subscribers.
    pub dynamic: u16,
    /// Zero.
    pub reserved: u16,
    /// Deterministic: the first inside address, network byte order.
    pub inside_first: [u8; 4],
    /// Deterministic: the last.
    pub inside_last: [u8; 4],
}

impl PoolRecord {
    /// Each inside address has a port range of its own by computation: see [`crate::deterministic`].
    pub const DETERMINISTIC: u8 = 1;
    /// An even inside port gets an even external port, an odd one an odd one, while there is one (RFC 4787 REQ-4).
    pub const PARITY: u8 = 2;
    /// Longest quarantine, seconds.
    pub const MAX_QUARANTINE: u16 = 3600;
}

impl Default for PoolRecord {
    /// Blocks of 256 ports, nothing held back, no limit.
    fn default() -> Self {
        Self {
            port_first: 0,
            port_last: 0,
            zone: ZoneId(0),
            proxy_arp: 0,
            filtering: Filtering::ENDPOINT_INDEPENDENT,
            flags: 0,
            block_size: 256,
            blocks: 0,
            quarantine: 0,
            quarantine_tcp: 0,
            quarantine_ports: u32::MAX,
            subscriber_ports: 0,
            subscriber_flows: 0,
            subscriber_rate: 0,
            subscriber_burst: 0,
            dynamic: 0,
            reserved: 0,
            inside_first: [0; 4],
            inside_last: [0; 4],
        }
    }
}

/// Addresses of a pool, first to last, IPv4, network byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PoolRangeRecord {
    /// First address.
    pub first: [u8; 4],
    /// Last address.
    pub last: [u8; 4],
    /// The pool.
    pub pool: PoolId,
    /// Zero.
    pub reserved: [u8; 6],
}

/// What a NAT rule does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct NatAction(pub u8);

impl NatAction {
    /// Translate the source into `pool`.
    pub const TRANSLATE: Self = Self(0);
    /// Forward untranslated (RFC 6888 REQ-6).
    pub const EXEMPT: Self = Self(1);
}

/// A NAT rule for IPv4 flows opened from `from` towards `to`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NatRuleRecord {
    /// Inside sources.
    pub source: Prefix,
    /// Destinations.
    pub destination: Prefix,
    /// Zone they come from, or any.
    pub from: ZoneId,
    /// Zone they go to, or any.
    pub to: ZoneId,
    /// What to do.
    pub action: NatAction,
    /// Zero.
    pub reserved: u8,
    /// The pool of [`NatAction::TRANSLATE`].
    pub pool: PoolId,
    /// Zero.
    pub reserved2: u16,
}

/// What a firewall rule or a default does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Action(pub u8);

impl Action {
    /// Pass.
    pub const ACCEPT: Self = Self(0);
    /// Drop without a word.
    pub const DROP: Self = Self(1);
    /// Drop and say so: ICMP 3/13, ICMPv6 1/1.
    pub const REJECT: Self = Self(2);
}

/// A firewall rule. Looked at for the first packet of a flow, addresses as the inside sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FirewallRuleRecord {
    /// Sources.
    pub source: Prefix,
    /// Destinations.
    pub destination: Prefix,
    /// Source ports, lowest and highest, host byte order. Looked at for TCP, UDP, SCTP, DCCP.
    pub source_ports: [u16; 2],
    /// Destination ports, likewise.
    pub destination_ports: [u16; 2],
    /// IP protocol number, or [`FirewallRuleRecord::ANY`].
    pub protocol: u16,
    /// ICMP type, or [`FirewallRuleRecord::ANY`].
    pub icmp_type: u16,
    /// ICMP code, or [`FirewallRuleRecord::ANY`].
    pub icmp_code: u16,
    /// Zone they come from, or any.
    pub from: ZoneId,
    /// Zone they go to, or any.
    pub to: ZoneId,
    /// What to do.
    pub action: Action,
    /// 4 or 6, or 0 for both.
    pub family: u8,
    /// Which of the configuration's rules it is of, from 0, less than [`MAX_RULES`]: what its hits are counted by.
    pub rule: u16,
    /// Zero.
    pub reserved: [u8; 4],
}

impl FirewallRuleRecord {
    /// Any protocol, type or code.
    pub const ANY: u16 = 0xffff;
}

/// What happens between two zones where no rule matches. Pairs without record drop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ZonePairRecord {
    /// Zone they come from.
    pub from: ZoneId,
    /// Zone they go to.
    pub to: ZoneId,
    /// What to do.
    pub action: Action,
    /// Zero.
    pub reserved: [u8; 5],
}

/// An address of the box.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AddressRecord {
    /// The address.
    pub address: Address,
    /// Its prefix length in the family's own terms.
    pub prefix_length: u8,
    /// Zero.
    pub reserved: u8,
    /// Its interface.
    pub interface: InterfaceId,
    /// Zero.
    pub reserved2: u32,
}

/// What a route does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct RouteKind(pub u8);

impl RouteKind {
    /// To `via` on `interface`, or to the destination itself if `via` is unspecified.
    pub const UNICAST: Self = Self(0);
    /// For the box: to the TAP twin of the interface it came in by.
    pub const LOCAL: Self = Self(1);
    /// Dropped with ICMP unreachable.
    pub const UNREACHABLE: Self = Self(2);
    /// Dropped without a word.
    pub const BLACKHOLE: Self = Self(3);
}

/// A route. One for each prefix: of several the control plane sends the best.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RouteRecord {
    /// Destination.
    pub prefix: Prefix,
    /// Next hop, of the destination's family; unspecified where the destination is on the link.
    pub via: Address,
    /// Outgoing interface of a unicast route.
    pub interface: InterfaceId,
    /// What it does.
    pub kind: RouteKind,
    /// Zero.
    pub reserved: [u8; 5],
}

/// What is wrong with a table, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFault {
    /// Offset in bytes of the record or field.
    pub offset: u64,
    /// In words.
    pub what: &'static str,
}

impl core::fmt::Display for TableFault {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} (at byte {} of the table)", self.what, self.offset)
    }
}

impl core::error::Error for TableFault {}

/// Takes a table apart. No record is interpreted.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    header: TableHeader,
}

impl<'a> Reader<'a> {
    /// Checks header, version and the bounds of every section.
    ///
    /// # Errors
    /// Says which of these is wrong.
    pub fn new(bytes: &'a [u8]) -> Result<Self, TableFault> {
        let fault = |offset, what| Err(TableFault { offset, what });
        let Ok((header, _)) = TableHeader::read_from_prefix(bytes) else {
            return fault(0, "shorter than a table header");
        };
        if header.magic != crate::layout::MAGIC {
            return fault(0, "not a Turnpike table");
        }
        if header.layout_hash != crate::layout::LAYOUT_HASH {
            return fault(8, "written for another layout");
        }
        if header.length != bytes.len() as u64 {
            return fault(32, "length differs from the descriptor's");
        }
        if header.generation == 0 {
            return fault(24, "generation is 0");
        }
        Ok(Self { bytes, header })
    }

    /// What the table is for.
    #[must_use]
    pub const fn kind(&self) -> TableKind {
        self.header.kind
    }

    /// Its generation.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.header.generation
    }

    /// The records of section `index`.
    ///
    /// # Errors
    /// If the section does not exist or lies outside the table.
    pub fn section<T: FromBytes + KnownLayout + Immutable>(
        &self,
        index: usize,
    ) -> Result<&'a [T], TableFault> {
        let entry = (size_of::<TableHeader>() - SECTIONS * size_of::<Section>()
            + index * size_of::<Section>()) as u64;
        let fault = |what| TableFault { offset: entry, what };
        let section = self.header.sections.get(index).ok_or(fault("no such section"))?;
        if section.count == 0 {
            return Ok(&[]);
        }
        if !section.offset.is_multiple_of(8) {
            return Err(fault("section not aligned"));
        }
        if (section.offset as usize) < size_of::<TableHeader>() {
            return Err(fault("section lies in the header"));
        }
        let rest = self.bytes.get(section.offset as usize..).ok_or(fault("section begins past the table"))?;
        <[T]>::ref_from_prefix_with_elems(rest, section.count as usize)
            .map(|(records, _)| records)
            .map_err(|_| fault("section runs past the table"))
    }

    /// Offset in bytes of record `record` of section `index`, for a [`TableFault`].
    #[must_use]
    pub fn offset_of<T>(&self, index: usize, record: usize) -> u64 {
        self.header
            .sections
            .get(index)
            .map_or(0, |section| u64::from(section.offset) + (record * size_of::<T>()) as u64)
    }
}

/// Lays a table out. The bytes of a section are appended in the order of the calls.
#[derive(Clone, Debug)]
pub struct Writer {
    header: TableHeader,
    end: usize,
}

impl Writer {
    /// An empty table.
    #[must_use]
    pub fn new(kind: TableKind, generation: u64) -> Self {
        let header = TableHeader {
            magic: crate::layout::MAGIC,
            layout_hash: crate::layout::LAYOUT_HASH,
            kind,
            generation,
            length: size_of::<TableHeader>() as u64,
            ..TableHeader::default()
        };
        Self { header, end: size_of::<TableHeader>() }
    }

    /// Places section `index` behind what is there; its bytes belong at the returned offset.
    ///
    /// # Panics
    /// If `index` is not a section or the table grows past [`MAX_TABLE`]: both are the caller's defects.
    pub fn place<T: IntoBytes + Immutable>(&mut self, index: usize, records: &[T]) -> usize {
        const { assert!(align_of::<T>() <= 8) };
        let offset = self.end.next_multiple_of(8);
        self.end = offset + size_of_val(records);
        assert!(self.end <= MAX_TABLE, "table of {} bytes is too large", self.end);
        self.header.sections[index] = Section { offset: offset as u32, count: records.len() as u32 };
        self.header.length = self.end as u64;
        offset
    }

    /// The header, once every section has its place.
    #[must_use]
    pub const fn header(&self) -> &TableHeader {
        &self.header
    }

    /// Bytes of the table.
    #[must_use]
    pub const fn length(&self) -> usize {
        self.end
    }
}

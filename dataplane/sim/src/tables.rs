//! Policy and forwarding tables for tests, as bytes, the way the control plane sends them.

use turnpike_abi::table::{
    Action, AddressRecord, FirewallRuleRecord, InterfaceRecord, NatAction, NatRuleRecord, PoolRangeRecord,
    PoolRecord, RouteKind, RouteRecord, SettingsRecord, Side, TableKind, Writer, ZonePairRecord, ZoneRecord,
    forwarding, policy,
};
use turnpike_abi::{Address, InterfaceId, PoolId, Prefix, ZoneId};
use zerocopy::IntoBytes;

/// The zone of subscribers in [`PolicyTable::default`].
pub const INSIDE: ZoneId = ZoneId(0);
/// The zone of everybody else.
pub const OUTSIDE: ZoneId = ZoneId(1);

/// A policy. The default has an inside zone on interface 0, an outside zone on interface 1, the pool
/// 203.0.113.0/28, translation of everything inside, and only outbound flows allowed.
#[derive(Clone, Debug)]
pub struct PolicyTable {
    /// See [`policy`].
    pub settings: SettingsRecord,
    /// Zones.
    pub zones: Vec<ZoneRecord>,
    /// Interfaces.
    pub interfaces: Vec<InterfaceRecord>,
    /// Pools.
    pub pools: Vec<PoolRecord>,
    /// Their ranges.
    pub ranges: Vec<PoolRangeRecord>,
    /// NAT rules.
    pub nat: Vec<NatRuleRecord>,
    /// Firewall rules.
    pub rules: Vec<FirewallRuleRecord>,
    /// Defaults.
    pub pairs: Vec<ZonePairRecord>,
}

impl Default for PolicyTable {
    fn default() -> Self {
        let zone = |side| ZoneRecord { side, ..ZoneRecord::default() };
        let member = |interface, zone| InterfaceRecord {
            interface: InterfaceId(interface),
            zone,
            mtu: 1500,
            ..InterfaceRecord::default()
        };
        Self {
            settings: SettingsRecord {
                udp: 300,
                icmp: 60,
                tcp_established: 7440,
                tcp_opening: 240,
                tcp_closing: 240,
                other: 300,
                icmp_rate: 1000,
                neighbour_wait_ms: 3000,
                flags: SettingsRecord::REVERSE_PATH,
                mss_clamp: 1,
                fragment: 2,
                fragments_waiting: 512,
                fragments_per_source: 64,
            },
            zones: vec![zone(Side::INSIDE), zone(Side::OUTSIDE)],
            interfaces: vec![member(0, INSIDE), member(1, OUTSIDE)],
            pools: vec![PoolRecord {
                port_first: 1024,
                port_last: 65535,
                zone: OUTSIDE,
                proxy_arp: 1,
                ..PoolRecord::default()
            }],
            ranges: vec![PoolRangeRecord {
                first: [203, 0, 113, 0],
                last: [203, 0, 113, 15],
                pool: PoolId(0),
                ..PoolRangeRecord::default()
            }],
            nat: vec![NatRuleRecord {
                from: INSIDE,
                to: OUTSIDE,
                action: NatAction::TRANSLATE,
                pool: PoolId(0),
                ..NatRuleRecord::default()
            }],
            rules: Vec::new(),
            pairs: vec![ZonePairRecord {
                from: INSIDE,
                to: OUTSIDE,
                action: Action::ACCEPT,
                ..ZonePairRecord::default()
            }],
        }
    }
}

/// A rule that matches everything from one zone to another; narrow it by its fields.
#[must_use]
pub fn rule(from: ZoneId, to: ZoneId, action: Action) -> FirewallRuleRecord {
    FirewallRuleRecord {
        from,
        to,
        action,
        source_ports: [0, u16::MAX],
        destination_ports: [0, u16::MAX],
        protocol: FirewallRuleRecord::ANY,
        icmp_type: FirewallRuleRecord::ANY,
        icmp_code: FirewallRuleRecord::ANY,
        ..FirewallRuleRecord::default()
    }
}

impl PolicyTable {
    /// The table's bytes.
    #[must_use]
    pub fn bytes(&self, generation: u64) -> Vec<u8> {
        let mut table = Table::new(TableKind::POLICY, generation);
        table.place(policy::SETTINGS, &[self.settings]);
        table.place(policy::ZONES, &self.zones);
        table.place(policy::INTERFACES, &self.interfaces);
        table.place(policy::POOLS, &self.pools);
        table.place(policy::POOL_RANGES, &self.ranges);
        table.place(policy::NAT_RULES, &self.nat);
        table.place(policy::FIREWALL_RULES, &self.rules);
        table.place(policy::ZONE_PAIRS, &self.pairs);
        table.finish()
    }
}

/// A forwarding table. The default has 10.0.0.1/16 and fd00::1/64 on interface 0, 192.0.2.1/24 and
/// 2001:db8::1/64 on interface 1, and default routes to 192.0.2.254 and 2001:db8::fe.
#[derive(Clone, Debug)]
pub struct ForwardingTable {
    /// The box's addresses.
    pub addresses: Vec<AddressRecord>,
    /// Routes.
    pub routes: Vec<RouteRecord>,
}

impl Default for ForwardingTable {
    fn default() -> Self {
        let mut table = Self { addresses: Vec::new(), routes: Vec::new() };
        table.address("10.0.0.1", 16, 0);
        table.address("fd00::1", 64, 0);
        table.address("192.0.2.1", 24, 1);
        table.address("2001:db8::1", 64, 1);
        table.route("0.0.0.0", 0, Some("192.0.2.254"), 1);
        table.route("::", 0, Some("2001:db8::fe"), 1);
        table
    }
}

/// Parses an address.
///
/// # Panics
/// If it is none.
#[must_use]
pub fn address(text: &str) -> Address {
    text.parse::<std::net::IpAddr>().expect("an address").into()
}

/// Parses a prefix of `length` bits.
///
/// # Panics
/// If it is none.
#[must_use]
pub fn prefix(text: &str, length: u8) -> Prefix {
    Prefix::new(address(text), length).expect("a prefix")
}

impl ForwardingTable {
    /// Gives the box an address, with the routes the kernel makes for it.
    pub fn address(&mut self, text: &str, length: u8, interface: u16) {
        self.addresses.push(AddressRecord {
            address: address(text),
            prefix_length: length,
            interface: InterfaceId(interface),
            ..AddressRecord::default()
        });
        self.routes.push(RouteRecord {
            prefix: Prefix::host(address(text)),
            kind: RouteKind::LOCAL,
            ..RouteRecord::default()
        });
        self.route(text, length, None, interface);
    }

    /// Adds a route.
    pub fn route(&mut self, text: &str, length: u8, via: Option<&str>, interface: u16) {
        self.routes.push(RouteRecord {
            prefix: prefix(text, length),
            via: via.map_or(Address::UNSPECIFIED, address),
            interface: InterfaceId(interface),
            kind: RouteKind::UNICAST,
            ..RouteRecord::default()
        });
    }

    /// The table's bytes.
    #[must_use]
    pub fn bytes(&self, generation: u64) -> Vec<u8> {
        let mut table = Table::new(TableKind::FORWARDING, generation);
        table.place(forwarding::ADDRESSES, &self.addresses);
        table.place(forwarding::ROUTES, &self.routes);
        table.finish()
    }
}

struct Table {
    writer: Writer,
    bytes: Vec<u8>,
}

impl Table {
    fn new(kind: TableKind, generation: u64) -> Self {
        let writer = Writer::new(kind, generation);
        let bytes = vec![0; writer.length()];
        Self { writer, bytes }
    }

    fn place<T: IntoBytes + zerocopy::Immutable>(&mut self, section: usize, records: &[T]) {
        let offset = self.writer.place(section, records);
        self.bytes.resize(offset, 0);
        self.bytes.extend_from_slice(records.as_bytes());
    }

    fn finish(mut self) -> Vec<u8> {
        let header = self.writer.header().as_bytes();
        self.bytes[..header.len()].copy_from_slice(header);
        self.bytes
    }
}

//! The policy table against the configuration it came from.

use turnpike_abi::table::{
    Action, FirewallRuleRecord, InterfaceRecord, NatAction, NatRuleRecord, PoolRangeRecord, PoolRecord,
    Reader, SettingsRecord, Side, TableKind, ZonePairRecord, ZoneRecord, policy,
};
use turnpike_abi::{Address, InterfaceId, PoolId, PortId, Prefix, ZoneId};
use turnpike_config::{Config, Table, compile_policy};
use turnpike_engine::{Interface, Policy};

const CONTRACT: &str = include_str!("../../../scripts/etc/turnpike.toml");

fn parse(text: &str) -> Config {
    Config::parse(text, "test").unwrap_or_else(|problems| panic!("{problems}"))
}

/// The contract with `from` replaced by `to`.
fn contract_with(from: &str, to: &str) -> Config {
    assert!(CONTRACT.contains(from), "{from}");
    parse(&CONTRACT.replacen(from, to, 1))
}

fn compile(config: &Config, generation: u64) -> Table {
    let interfaces = config.interfaces();
    let known = |name: &str| {
        interfaces.iter().find(|spec| spec.name.as_str() == name).map(|spec| (spec.id, spec.mtu))
    };
    compile_policy(config, &known, generation)
}

fn v4(text: &str, length: u8) -> Prefix {
    Prefix::new(Address::from(text.parse::<std::net::IpAddr>().unwrap()), length).unwrap()
}

/// An IPv4 prefix that holds every address: `::ffff:0:0/96`.
fn any_v4() -> Prefix {
    Prefix { address: Address::v4([0; 4]), length: 96, reserved: [0; 7] }
}

#[test]
fn every_section_of_the_contract() {
    let table = compile(&parse(CONTRACT), 7);
    let bytes = table.as_bytes();
    assert_eq!(bytes.as_ptr().align_offset(8), 0);
    let reader = Reader::new(bytes).unwrap();
    assert_eq!((reader.kind(), reader.generation()), (TableKind::POLICY, 7));
    let settings = SettingsRecord {
        udp: 300,
        icmp: 60,
        tcp_established: 7440,
        tcp_opening: 240,
        tcp_closing: 240,
        other: 300,
        icmp_rate: 1000,
        neighbour_wait_ms: 3000,
        flags: SettingsRecord::REVERSE_PATH | SettingsRecord::LOG_BLOCKS,
        mss_clamp: 1,
        fragment: 2,
        fragments_waiting: 512,
        fragments_per_source: 256,
    };
    assert_eq!(reader.section::<SettingsRecord>(policy::SETTINGS).unwrap(), [settings]);
    let zone = |side| ZoneRecord { side, ..ZoneRecord::default() };
    assert_eq!(
        reader.section::<ZoneRecord>(policy::ZONES).unwrap(),
        [zone(Side::INSIDE), zone(Side::OUTSIDE)]
    );
    let member = |interface, zone| InterfaceRecord {
        interface: InterfaceId(interface),
        zone: ZoneId(zone),
        mtu: 1500,
        ..InterfaceRecord::default()
    };
    assert_eq!(reader.section::<InterfaceRecord>(policy::INTERFACES).unwrap(), [member(0, 0), member(1, 1)]);
    let pool = PoolRecord {
        port_first: 1024,
        port_last: 65535,
        zone: ZoneId(1),
        proxy_arp: 1,
        blocks: 16,
        quarantine: 120,
        quarantine_ports: 1_000_000,
        ..PoolRecord::default()
    };
    assert_eq!(reader.section::<PoolRecord>(policy::POOLS).unwrap(), [pool]);
    let range = |first, last| PoolRangeRecord { first, last, pool: PoolId(0), ..PoolRangeRecord::default() };
    let ranges = [
        range([203, 0, 113, 16], [203, 0, 113, 31]),
        range([203, 0, 113, 40], [203, 0, 113, 45]),
        range([198, 51, 100, 7], [198, 51, 100, 7]),
    ];
    assert_eq!(reader.section::<PoolRangeRecord>(policy::POOL_RANGES).unwrap(), ranges);
    let exempt = NatRuleRecord {
        source: any_v4(),
        destination: v4("198.51.100.128", 25),
        from: ZoneId(0),
        to: ZoneId(1),
        action: NatAction::EXEMPT,
        ..NatRuleRecord::default()
    };
    let translate = NatRuleRecord {
        source: v4("192.168.0.0", 16),
        destination: any_v4(),
        action: NatAction::TRANSLATE,
        pool: PoolId(0),
        ..exempt
    };
    assert_eq!(reader.section::<NatRuleRecord>(policy::NAT_RULES).unwrap(), [exempt, translate]);
    let rule = FirewallRuleRecord {
        source: Prefix::ANY,
        destination: v4("fd00:1::", 64),
        source_ports: [0, 65535],
        destination_ports: [0, 65535],
        protocol: 58,
        icmp_type: 128,
        icmp_code: 0,
        from: ZoneId(1),
        to: ZoneId(0),
        action: Action::ACCEPT,
        family: 6,
        rule: 0,
        reserved: [0; 4],
    };
    assert_eq!(reader.section::<FirewallRuleRecord>(policy::FIREWALL_RULES).unwrap(), [rule]);
    let pair = ZonePairRecord {
        from: ZoneId(0),
        to: ZoneId(1),
        action: Action::ACCEPT,
        ..ZonePairRecord::default()
    };
    assert_eq!(reader.section::<ZonePairRecord>(policy::ZONE_PAIRS).unwrap(), [pair]);
}

#[test]
fn the_same_configuration_makes_the_same_bytes() {
    let config = parse(CONTRACT);
    assert_eq!(compile(&config, 1), compile(&parse(&config.to_toml()), 1));
    assert_ne!(compile(&config, 1), compile(&config, 2));
}

#[test]
fn the_engine_takes_it() {
    let config = parse(CONTRACT);
    let interfaces: Vec<Interface> = config
        .interfaces()
        .iter()
        .map(|spec| Interface { port: spec.port, vlan: spec.vlan, mac: [2; 6], mtu: spec.mtu })
        .collect();
    let policy = Policy::decode(compile(&config, 3).as_bytes(), &interfaces).unwrap();
    assert_eq!(policy.generation(), 3);
}

fn firewall_rules(rule: &str) -> Vec<FirewallRuleRecord> {
    let config = parse(&format!("{CONTRACT}\n[[rule]]\n{rule}\naction = \"reject\"\n"));
    let table = compile(&config, 1);
    Reader::new(table.as_bytes()).unwrap().section::<FirewallRuleRecord>(policy::FIREWALL_RULES).unwrap()[1..]
        .to_vec()
}

#[test]
fn a_rule_for_icmp_of_both_families_is_two() {
    let rules = firewall_rules("protocol = \"icmp\"");
    let seen: Vec<_> = rules.iter().map(|rule| (rule.family, rule.protocol, rule.source)).collect();
    assert_eq!(seen, [(4, 1, any_v4()), (6, 58, Prefix::ANY)]);
    assert!(rules.iter().all(|record| record.rule == 1), "both count as the one that was written");
    let rules = firewall_rules("protocol = \"icmp\"\nsource = \"192.0.2.0/24\"");
    let seen: Vec<_> = rules.iter().map(|rule| (rule.family, rule.protocol, rule.destination)).collect();
    assert_eq!(seen, [(4, 1, any_v4())]);
}

#[test]
fn a_rule_without_limits_matches_everything() {
    let rules = firewall_rules("");
    let any = FirewallRuleRecord::ANY;
    let expected = FirewallRuleRecord {
        source_ports: [0, 65535],
        destination_ports: [0, 65535],
        protocol: any,
        icmp_type: any,
        icmp_code: any,
        from: ZoneId::ANY,
        to: ZoneId::ANY,
        action: Action::REJECT,
        rule: 1,
        ..FirewallRuleRecord::default()
    };
    assert_eq!(rules, [expected]);
}

#[test]
fn a_rule_takes_its_family_from_its_prefixes() {
    let rules =
        firewall_rules("destination = \"2001:db8::/32\"\nprotocol = \"tcp\"\ndestination_ports = \"80-90\"");
    let [rule] = rules[..] else { panic!("{rules:?}") };
    assert_eq!((rule.family, rule.protocol, rule.destination_ports), (6, 6, [80, 90]));
    assert_eq!((rule.source, rule.destination), (Prefix::ANY, v4("2001:db8::", 32)));
}

#[test]
fn nat_from_any_zone_is_from_each_inside_zone() {
    let second = "[[zone]]\nname = \"guests\"\nside = \"inside\"\n\n[[nat]]\nfrom = \"any\"\nto = \"any\"\npool = \"public\"\n";
    let table = compile(&parse(&format!("{CONTRACT}\n{second}")), 1);
    let rules: &[NatRuleRecord] =
        Reader::new(table.as_bytes()).unwrap().section::<NatRuleRecord>(policy::NAT_RULES).unwrap();
    let last: Vec<_> = rules[2..].iter().map(|rule| (rule.from, rule.to, rule.action)).collect();
    let translate = NatAction::TRANSLATE;
    assert_eq!(last, [(ZoneId(0), ZoneId::ANY, translate), (ZoneId(2), ZoneId::ANY, translate)]);
}

#[test]
fn an_interface_the_dataplane_does_not_have_gets_no_record() {
    let config = parse(CONTRACT);
    let known = |name: &str| (name == "uplink").then_some((InterfaceId(5), 1400));
    let table = compile_policy(&config, &known, 1);
    let reader = Reader::new(table.as_bytes()).unwrap();
    let members: &[InterfaceRecord] = reader.section::<InterfaceRecord>(policy::INTERFACES).unwrap();
    // Its MTU is the one it was set up for: another one in the file waits for a restart.
    let members: Vec<_> = members.iter().map(|record| (record.interface, record.mtu)).collect();
    assert_eq!(members, [(InterfaceId(5), 1400)]);
}

#[test]
fn options_become_flags() {
    let config = contract_with("udp_inbound_refresh = false", "udp_inbound_refresh = true");
    let table = compile(&config, 1);
    let reader = Reader::new(table.as_bytes()).unwrap();
    let settings: &[SettingsRecord] = reader.section(policy::SETTINGS).unwrap();
    let blocks = SettingsRecord::LOG_BLOCKS;
    assert_eq!(
        settings[0].flags,
        SettingsRecord::UDP_INBOUND_REFRESH | SettingsRecord::REVERSE_PATH | blocks
    );
    for (from, to, flags) in [
        ("reverse_path = true", "reverse_path = false", blocks),
        ("\nblocks = true", "\nblocks = false", SettingsRecord::REVERSE_PATH),
        ("flows = false", "flows = true", SettingsRecord::REVERSE_PATH | blocks | SettingsRecord::LOG_FLOWS),
    ] {
        let table = compile(&contract_with(from, to), 1);
        let reader = Reader::new(table.as_bytes()).unwrap();
        let settings: &[SettingsRecord] = reader.section(policy::SETTINGS).unwrap();
        assert_eq!(settings[0].flags, flags, "{to}");
    }
}

#[test]
fn interfaces_are_numbered_port_by_port() {
    let text = r#"
        [dataplane]
        cores = [1]
        [[zone]]
        name = "z"
        side = "inside"
        [[port]]
        name = "trunk"
        device = "net_null0"
        mtu = 9000
        [[port.vlan]]
        id = 20
        name = "b"
        zone = "z"
        [[port.vlan]]
        id = 10
        name = "a"
        mtu = 1500
        tap = "a0"
        [[port]]
        name = "plain"
        device = "net_null1"
        zone = "z"
        mac = "02:00:00:00:00:0A"
        [[port.vlan]]
        id = 10
        name = "c"
        [[port]]
        name = "managed"
        device = "net_null2"
        addresses = ["192.0.2.1/24"]
        [[port.vlan]]
        id = 10
        name = "d"
    "#;
    let specs = parse(text).interfaces();
    let ids: Vec<u16> = specs.iter().map(|spec| spec.id.0).collect();
    assert_eq!(ids, [0, 1, 2, 3, 4, 5]);
    let seen: Vec<_> = specs
        .iter()
        .map(|spec| {
            (spec.name.as_str(), spec.port, spec.vlan, spec.mtu, spec.tap.as_str(), spec.zone.is_some())
        })
        .collect();
    let expected = [
        ("b", PortId(0), 20, 9000, "tp-b", true),
        ("a", PortId(0), 10, 1500, "a0", false),
        ("plain", PortId(1), 0, 1500, "tp-plain", true),
        ("c", PortId(1), 10, 1500, "tp-c", false),
        ("managed", PortId(2), 0, 1500, "tp-managed", false),
        ("d", PortId(2), 10, 1500, "tp-d", false),
    ];
    assert_eq!(seen, expected);
    assert_eq!(specs[2].mac.map(|mac| mac.to_string()).as_deref(), Some("02:00:00:00:00:0a"));
}

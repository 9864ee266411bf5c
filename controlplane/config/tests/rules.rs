//! As many rules as a configuration may have: read, compiled, and taken by the engine.

use std::fmt::Write as _;
use std::time::Instant;
use turnpike_abi::table::{FirewallRuleRecord, MAX_RECORDS, MAX_RULES, NatRuleRecord, Reader, policy};
use turnpike_config::{Config, MAX_FILE, Table, compile_policy};
use turnpike_engine::{Interface, Policy};

const CONTRACT: &str = include_str!("../../../scripts/etc/turnpike.toml");

/// The contract up to its rules.
fn without_rules() -> &'static str {
    CONTRACT.split_once("\n[[rule]]").unwrap().0
}

fn compile(config: &Config) -> Table {
    let interfaces = config.interfaces();
    let known = |name: &str| {
        interfaces.iter().find(|spec| spec.name.as_str() == name).map(|spec| (spec.id, spec.mtu))
    };
    compile_policy(config, &known, 1)
}

fn decode(config: &Config, table: &Table) -> Policy {
    let interfaces: Vec<Interface> = config
        .interfaces()
        .iter()
        .map(|spec| Interface { port: spec.port, vlan: spec.vlan, mac: [2; 6], mtu: spec.mtu })
        .collect();
    Policy::decode(table.as_bytes(), &interfaces).unwrap_or_else(|fault| panic!("{fault}"))
}

/// Rules of both families with every key.
fn rules(count: usize) -> String {
    let mut text = String::new();
    for n in 0..count {
        let (family, source, destination) = if n.is_multiple_of(2) {
            (
                4,
                format!("198.{}.{}.0/24", n >> 8 & 0xff, n & 0xff),
                format!("10.{}.{}.7/32", n >> 8, n & 0xff),
            )
        } else {
            (6, format!("2001:db8:{n:x}::/48"), format!("fd00::{n:x}/128"))
        };
        write!(
            text,
            "\n[[rule]]\nfrom = \"outside\"\nto = \"inside\"\nfamily = {family}\nsource = \"{source}\"\n\
             destination = \"{destination}\"\nprotocol = \"{}\"\nsource_ports = \"{}-65535\"\n\
             destination_ports = \"{}-{}\"\naction = \"{}\"\n",
            if n % 3 == 0 { "udp" } else { "tcp" },
            1 + n,
            1 + n,
            30_000 + n,
            ["accept", "drop", "reject"][n % 3],
        )
        .unwrap();
    }
    text
}

#[test]
fn ten_thousand_rules_are_read_compiled_and_taken() {
    let text = format!("{}{}", without_rules(), rules(MAX_RULES));
    assert!(text.len() as u64 * 4 < MAX_FILE, "{} bytes", text.len());
    let begin = Instant::now();
    let config =
        Config::parse_bytes(text.as_bytes(), "large.toml").unwrap_or_else(|problems| panic!("{problems}"));
    let read = begin.elapsed();
    let table = compile(&config);
    let compiled = begin.elapsed() - read;
    let reader = Reader::new(table.as_bytes()).unwrap();
    assert_eq!(reader.section::<FirewallRuleRecord>(policy::FIREWALL_RULES).unwrap().len(), MAX_RULES);
    decode(&config, &table);
    let taken = begin.elapsed() - read - compiled;
    println!("{} bytes read in {read:?}, compiled in {compiled:?}, indexed in {taken:?}", text.len());
    assert_eq!(Config::parse(&config.to_toml(), "written.toml").unwrap(), config);
}

#[test]
fn ten_thousand_rules_for_icmp_are_twice_as_many_records() {
    let rule = "\n[[rule]]\nfrom = \"outside\"\nto = \"inside\"\nprotocol = \"icmp\"\naction = \"drop\"\n";
    let text = format!("{}{}", without_rules(), rule.repeat(MAX_RULES));
    let config = Config::parse(&text, "icmp.toml").unwrap();
    let table = compile(&config);
    let reader = Reader::new(table.as_bytes()).unwrap();
    assert_eq!(reader.section::<FirewallRuleRecord>(policy::FIREWALL_RULES).unwrap().len(), MAX_RECORDS);
    decode(&config, &table);
}

#[test]
fn one_rule_more_is_refused() {
    let text = format!("{}{}", without_rules(), rules(MAX_RULES + 1));
    let problems = Config::parse(&text, "larger.toml").unwrap_err().to_string();
    assert!(
        problems.ends_with("key \"rule[10000]\": is one too many: at most 10000 are possible"),
        "{problems}"
    );
}

#[test]
fn nat_rules_from_any_zone_count_for_each_inside_zone() {
    let (before, after) = CONTRACT.split_once("\n[[nat]]").unwrap();
    let zones = "\n[[zone]]\nname = \"second\"\nside = \"inside\"\n";
    let rule = "\n[[nat]]\nfrom = \"any\"\nto = \"outside\"\nsource = \"10.0.0.0/8\"\naction = \"exempt\"\n";
    let config = |rules: usize| {
        let text = format!("{before}{zones}{}\n[[nat]]{after}", rule.repeat(rules));
        Config::parse(&text, "nat.toml")
    };
    let own = CONTRACT.matches("\n[[nat]]").count();
    let largest = config(MAX_RULES / 2 - own).unwrap();
    let table = compile(&largest);
    let reader = Reader::new(table.as_bytes()).unwrap();
    assert_eq!(reader.section::<NatRuleRecord>(policy::NAT_RULES).unwrap().len(), MAX_RULES - own);
    decode(&largest, &table);
    let problems = config(MAX_RULES / 2 - own + 1).unwrap_err().to_string();
    assert!(problems.contains("key \"nat[5000]\": is one too many: at most 5000 are possible"), "{problems}");
}

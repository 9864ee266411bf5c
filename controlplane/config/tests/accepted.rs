//! What looks odd and is right.

use std::net::Ipv4Addr;
use turnpike_config::{Config, MemorySize, Metrics, NatTarget, PortRange, Protocol, Seconds};

const BASE: &str = r#"
[dataplane]
cores = [1]

[[zone]]
name = "inside"
side = "inside"

[[zone]]
name = "outside"
side = "outside"

[[port]]
name = "lan"
device = "net_null0"
zone = "inside"
"#;

fn accepted(more: &str) -> Config {
    let text = format!("{BASE}{more}");
    Config::parse(&text, "odd.toml").unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn timeouts_below_the_minima_if_the_operator_insists() {
    let config = accepted("[timeouts]\nudp = 5\nicmp = 1\n[options]\nallow_noncompliant = true");
    assert_eq!((config.timeouts.udp, config.timeouts.icmp), (Seconds(5), Seconds(1)));
    assert_eq!(std::time::Duration::from(config.timeouts.udp).as_secs(), 5);
}

#[test]
fn two_addresses_of_one_link() {
    let config = accepted("addresses = [\"192.0.2.1/24\", \"192.0.2.2/24\", \"192.0.2.3/32\"]");
    assert_eq!(config.interfaces()[0].addresses.len(), 3);
}

#[test]
fn both_addresses_of_a_point_to_point_link() {
    // RFC 3021: a /31 has neither a network nor a broadcast address.
    let second = "[[port]]\nname = \"b\"\ndevice = \"b\"\nzone = \"outside\"\naddresses = [\"192.0.2.3/31\"]";
    let config = accepted(&format!("addresses = [\"192.0.2.0/31\"]\n{second}"));
    assert_eq!(config.interfaces()[1].addresses[0].network().to_string(), "192.0.2.2/31");
}

#[test]
fn one_link_local_address_on_every_link() {
    let vlan = |id| format!("[[port.vlan]]\nid = {id}\nname = \"v{id}\"\naddresses = [\"fe80::1/64\"]\n");
    let config = accepted(&format!("addresses = [\"fe80::1/64\"]\n{}{}", vlan(1), vlan(4094)));
    assert_eq!(config.interfaces().len(), 3);
}

#[test]
fn no_metrics() {
    assert_eq!(accepted("[control]\nmetrics = \"\"").control.metrics, Metrics(None));
}

#[test]
fn every_form_of_a_pool_address() {
    let addresses = "addresses = [\"198.51.100.9\", \"198.51.100.10-198.51.100.12\", \"198.51.100.64/26\"]";
    let config =
        accepted(&format!("[[pool]]\nname = \"p\"\nzone = \"outside\"\nports = \"1-1023\"\n{addresses}"));
    let ranges: Vec<(Ipv4Addr, u64)> =
        config.pools[0].addresses.iter().map(|range| (range.first, range.count())).collect();
    let address = |last| Ipv4Addr::new(198, 51, 100, last);
    assert_eq!(ranges, [(address(9), 1), (address(10), 3), (address(64), 64)]);
    assert_eq!(config.pools[0].ports, PortRange { first: 1, last: 1023 });
}

#[test]
fn an_exemption_needs_no_pool() {
    let config = accepted("[[nat]]\nfrom = \"any\"\nto = \"any\"\naction = \"exempt\"");
    assert_eq!(config.nat[0].target, NatTarget::Exempt);
}

#[test]
fn protocols_by_name_and_by_number() {
    let rule = |protocol| format!("[[rule]]\naction = \"drop\"\nprotocol = {protocol}\n");
    let config = accepted(&[rule("\"gre\""), rule("47"), rule("254"), rule("\"icmp\"")].concat());
    let protocols: Vec<_> = config.rules.iter().map(|rule| rule.protocol.unwrap()).collect();
    let number = Protocol::Number;
    assert_eq!(protocols, [number(47), number(47), number(254), Protocol::Icmp]);
}

#[test]
fn numbers_and_lines_as_toml_allows_them() {
    let text = BASE.replace("cores = [1]", "cores = [0x1, 0b10]\nflows = 1_048_576\nmemory = \"2048M\"");
    let text = format!("\u{feff}{}", text.replace('\n', "\r\n"));
    let config = Config::parse(&text, "odd.toml").unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.dataplane.cores, [1, 2]);
    assert_eq!(config.dataplane.flows, 1_048_576);
    assert_eq!(config.dataplane.memory, MemorySize::from_mib(2048));
    assert_eq!(config.dataplane.memory.to_string(), "2G");
}

#[test]
fn lists_of_tables_written_inline() {
    let text = "dataplane = { cores = [1] }\nport = [{ name = \"a\", device = \"b\", zone = \"c\" }]\n\
                zone = [{ name = \"c\", side = \"inside\" }]\npool = []\n";
    assert_eq!(Config::parse(text, "inline.toml").unwrap().ports.len(), 1);
}

#[test]
fn the_configuration_of_the_readme_is_right() {
    let readme =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md")).expect("the README");
    let block =
        readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a configuration");
    if let Err(problems) = Config::parse(block, "README.md") {
        panic!("{problems}");
    }
}

/// What does nothing by itself is refused; this is prepared, switched off on purpose, or needs none of it.
#[test]
fn what_waits_for_something_else() {
    let agent = "[[agent]]\nname = \"watch\"\nzones = []\nrights = [\"read\", \"delete\"]\ninside = []\n";
    accepted(&format!("{agent}[simco]\nlisten = [\"192.168.0.1:7626\"]"));
    accepted("[[third_party]]\nclients = \"192.168.0.2/32\"\nhosts = [\"192.168.0.0/24\"]");
    let pool = "[[pool]]\nname = \"old\"\naddresses = [\"203.0.113.9\"]\nzone = \"outside\"\n";
    accepted(&format!("{pool}dynamic = 2\nsubscriber_burst = 0\nquarantine = 0"));
    accepted("[[nat]]\nfrom = \"inside\"\nto = \"inside\"\naction = \"exempt\"");
}

//! What a change takes, and the hash that tells two configurations apart.

use turnpike_config::{Config, ReloadImpact};

const CONTRACT: &str = include_str!("../../../scripts/etc/turnpike.toml");

fn parse(text: &str) -> Config {
    Config::parse(text, "test").unwrap_or_else(|problems| panic!("{problems}"))
}

fn impact(from: &str, to: &str) -> ReloadImpact {
    assert!(CONTRACT.contains(from), "{from}");
    Config::reload_impact(&parse(CONTRACT), &parse(&CONTRACT.replacen(from, to, 1)))
}

fn dataplane(paths: &[&str]) -> ReloadImpact {
    let restart_needed = paths.iter().map(|path| (*path).to_owned()).collect();
    ReloadImpact { restart_needed, dataplane: true, ..ReloadImpact::default() }
}

fn live(paths: &[&str]) -> ReloadImpact {
    ReloadImpact { live: paths.iter().map(|path| (*path).to_owned()).collect(), ..ReloadImpact::default() }
}

#[test]
fn nothing_changes() {
    let config = parse(CONTRACT);
    assert!(Config::reload_impact(&config, &config).is_empty());
    // Comments, blanks and defaults written out or left out.
    assert!(Config::reload_impact(&config, &parse(&config.to_toml())).is_empty());
    assert!(impact("poll = \"busy\"", "poll    = 'busy'").is_empty());
    assert!(impact("mtu = 1500", "").is_empty());
}

#[test]
fn what_the_policy_table_carries_has_effect_at_once() {
    assert_eq!(impact("udp = 300", "udp = 301"), live(&["timeouts.udp"]));
    assert_eq!(impact("icmp_rate = 1000", "icmp_rate = 1"), live(&["options.icmp_rate"]));
    assert_eq!(impact("icmp_type = 128", "icmp_type = 129"), live(&["rule[0].icmp_type"]));
    assert_eq!(impact("ports = \"1024-65535\"", "ports = \"1-65535\""), live(&["pool[0].ports"]));
    assert_eq!(impact("default = \"accept\"", "default = \"reject\""), live(&["policy[0].default"]));
    let added = "[[policy]]\nfrom = \"inside\"\nto = \"inside\"\ndefault = \"accept\"\n\n[timeouts]";
    assert_eq!(impact("[timeouts]", added), live(&["policy[1]"]));
}

#[test]
fn what_the_dataplane_reads_at_start_needs_its_restart() {
    assert_eq!(impact("flows = 65536", "flows = 65537"), dataplane(&["dataplane.flows"]));
    assert_eq!(impact("cores = [1]", "cores = [1, 2]"), dataplane(&["dataplane.cores"]));
    assert_eq!(impact("id = 100", "id = 101"), dataplane(&["port[1].vlan[0].id"]));
    assert_eq!(impact("# mac", "mac"), dataplane(&["port[0].mac"]));
    assert_eq!(impact("\"192.168.0.1/24\"", "\"192.168.0.2/24\""), dataplane(&["port[0].addresses"]));
    assert_eq!(impact("\"203.0.113.1\"", "\"203.0.113.3\""), dataplane(&["route[0].via"]));
    let port = "[[port]]\nname = \"third\"\ndevice = \"net_null0\"\nzone = \"inside\"\n\n[[pool]]";
    assert_eq!(impact("[[pool]]", port), dataplane(&["port[2]"]));
}

#[test]
fn an_interface_changes_its_zone_at_once_if_it_is_there_before_and_after() {
    let inside_port = "zone = \"inside\"                     # zone of";
    assert_eq!(impact(inside_port, "zone = \"outside\" #"), live(&["port[0].zone"]));
    let second_port = "device = \"0000:03:00.1\"\n";
    let untagged = "device = \"0000:03:00.1\"\nzone = \"inside\"\n";
    let expected = dataplane(&["port[1].tap", "port[1].zone"]);
    assert_eq!(impact(second_port, untagged), expected);
}

#[test]
fn what_the_control_plane_reads_at_start_needs_its_restart() {
    let expected = ReloadImpact {
        restart_needed: vec!["control.metrics".into()],
        controlplane: true,
        ..ReloadImpact::default()
    };
    assert_eq!(impact("\"127.0.0.1:9464\"", "\"\""), expected);
}

#[test]
fn the_hash_follows_the_meaning() {
    let config = parse(CONTRACT);
    assert_eq!(config.hash(), parse(&config.to_toml()).hash());
    assert_ne!(config.hash(), parse(&CONTRACT.replacen("udp = 300", "udp = 301", 1)).hash());
}

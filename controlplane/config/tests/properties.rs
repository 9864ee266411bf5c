//! Any bytes end in a configuration or in problems; every configuration survives being written and read,
//! and the engine takes its policy table.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use turnpike_config::{Config, InterfaceSpec, compile_policy};
use turnpike_engine::{Interface, Policy};

const CONTRACT: &str = include_str!("../../../scripts/etc/turnpike.toml");

/// What holds for any bytes.
fn check(bytes: &[u8]) -> Option<Config> {
    match Config::parse_bytes(bytes, "any.toml") {
        Ok(config) => {
            let written = config.to_toml();
            let read = Config::parse(&written, "written.toml").unwrap_or_else(|p| panic!("{p}\n{written}"));
            assert_eq!(read, config);
            assert_eq!(read.hash(), config.hash());
            assert!(Config::reload_impact(&config, &read).is_empty());
            let interfaces = config.interfaces();
            let known = |name: &str| {
                interfaces.iter().find(|spec| spec.name.as_str() == name).map(|spec| (spec.id, spec.mtu))
            };
            let table = compile_policy(&config, &known, 1);
            let interface = |spec: &InterfaceSpec| Interface {
                port: spec.port,
                vlan: spec.vlan,
                mac: [2; 6],
                mtu: spec.mtu,
            };
            let interfaces: Vec<Interface> = interfaces.iter().map(interface).collect();
            Policy::decode(table.as_bytes(), &interfaces).unwrap();
            Some(config)
        }
        Err(problems) => {
            assert!(problems.count() > 0);
            assert!(problems.to_string().starts_with("any.toml:"));
            None
        }
    }
}

/// A file of pieces that mean something, in any order.
fn pieces() -> impl Strategy<Value = String> {
    let words: Vec<String> = CONTRACT
        .split_inclusive(['\n', ' ', '='])
        .flat_map(|line| line.split_inclusive('"'))
        .map(str::to_owned)
        .collect();
    vec(select(words), 0..200).prop_map(|words| words.concat())
}

/// The contract with lines moved, doubled or lost, or characters changed.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let lines = vec((any::<Index>(), any::<Index>(), 0..3_u8), 0..4);
    let bytes = vec((any::<Index>(), any::<u8>()), 0..4);
    (lines, bytes).prop_map(|(edits, changes)| {
        let mut lines: Vec<&str> = CONTRACT.split_inclusive('\n').collect();
        for (from, to, edit) in edits {
            let (from, to) = (from.index(lines.len()), to.index(lines.len()));
            match edit {
                0 => drop(lines.remove(from)),
                1 => lines.insert(to, lines[from]),
                _ => lines.swap(from, to),
            }
        }
        let mut text = lines.concat().into_bytes();
        for (at, byte) in changes {
            let at = at.index(text.len());
            text[at] = byte;
        }
        text
    })
}

/// A valid file: each interface has a link of its own, each pool a network.
fn valid() -> impl Strategy<Value = String> {
    let port = (any::<bool>(), any::<bool>(), 1280..=9600_u16, vec(any::<bool>(), 0..4));
    let nat = (any::<Index>(), any::<Index>(), 0..=32_u8, any::<u32>());
    let pool = (1..=16_384_u32, 1..=32_767_u16, any::<bool>());
    let rule = (0..8_u8, any::<Index>(), any::<u128>(), 0..=128_u8, any::<[u8; 2]>(), 0..3_usize);
    let timeouts = (120..=604_800_u32, 60..=604_800_u32, 1..=604_800_u32, 10..=60_000_u32);
    (1..8_usize, vec(port, 1..8), vec(pool, 1..4), vec(nat, 0..6), vec(rule, 0..12), timeouts).prop_map(
        |(zones, ports, pools, nats, rules, (udp, icmp, other, wait))| {
            // Even zones are inside.
            let mut text = String::new();
            let mut line = |arguments: std::fmt::Arguments<'_>| {
                text.push_str(&arguments.to_string());
                text.push('\n');
            };
            let zone = |index: &Index| index.index(zones + 1);
            line(format_args!("[dataplane]\ncores = [{zones}, 900]\npoll = \"adaptive\"\nmemory = \"3G\""));
            line(format_args!(
                "[timeouts]\nudp = {udp}\nicmp = {icmp}\nother = {other}\nneighbour_wait_ms = {wait}"
            ));
            for i in 0..=zones {
                let side = if i % 2 == 0 { "inside" } else { "outside" };
                line(format_args!("[[zone]]\nname = \"zone-{i}\"\nside = \"{side}\""));
            }
            for (i, (has_zone, has_address, mtu, vlans)) in ports.iter().enumerate() {
                line(format_args!("[[port]]\nname = \"port_{i}\"\ndevice = \"net_null{i}\"\nmtu = {mtu}"));
                if *has_zone || vlans.is_empty() {
                    line(format_args!("zone = \"zone-{}\"", i % (zones + 1)));
                }
                if *has_address {
                    line(format_args!("addresses = [\"10.{i}.0.1/24\", \"2001:db8:{i}::1/64\"]"));
                }
                for (j, tagged_address) in vlans.iter().enumerate() {
                    let id = j * 1000 + 1;
                    line(format_args!("[[port.vlan]]\nid = {id}\nname = \"v{i}-{j}\"\nzone = \"zone-0\""));
                    if *tagged_address {
                        line(format_args!("addresses = [\"10.{i}.{id}.1/30\", \"fe80::1/64\"]", id = j + 1));
                    }
                }
            }
            for (i, (count, first, proxy_arp)) in pools.iter().enumerate() {
                let start = 0x6440_0000 + ((i as u32) << 16);
                let (first_address, last) =
                    (std::net::Ipv4Addr::from(start), std::net::Ipv4Addr::from(start + count - 1));
                line(format_args!(
                    "[[pool]]\nname = \"pool{i}\"\naddresses = [\"{first_address}-{last}\"]\n\
                     zone = \"zone-1\"\nports = \"{first}-{}\"\nproxy_arp = {proxy_arp}",
                    first * 2
                ));
            }
            for (i, (to, pool, length, source)) in nats.iter().enumerate() {
                let mask = u32::MAX.checked_shl(32 - u32::from(*length)).unwrap_or(0);
                let source = std::net::Ipv4Addr::from(source & mask);
                let from = if i % 2 == 0 { "any" } else { "zone-0" };
                line(format_args!("[[nat]]\nfrom = \"{from}\"\nsource = \"{source}/{length}\""));
                match pool.index(pools.len() + 1) {
                    0 => line(format_args!("action = \"exempt\"\nto = \"zone-{}\"", zone(to))),
                    // Pools are for outside zones.
                    pool => line(format_args!(
                        "pool = \"pool{}\"\nto = \"zone-{}\"",
                        pool - 1,
                        (zone(to).max(1) - 1) | 1
                    )),
                }
            }
            for (kind, from, bits, length, [low, high], action) in rules {
                let address = std::net::Ipv6Addr::from(bits & turnpike_abi::Prefix::mask(length));
                let action = ["accept", "drop", "reject"][action];
                line(format_args!("[[rule]]\nfrom = \"zone-{}\"\naction = \"{action}\"", zone(&from)));
                let (low, high) = (u16::from(low.min(high)) + 1, u16::from(low.max(high)) + 1);
                match kind {
                    0 => {}
                    1 => line(format_args!(
                        "protocol = \"icmp\"\nicmp_type = {low}\nicmp_code = 0",
                        low = low - 1
                    )),
                    2 => line(format_args!("protocol = \"tcp\"\ndestination_ports = \"{low}-{high}\"")),
                    3 => line(format_args!("protocol = \"sctp\"\nsource_ports = \"{low}\"\nfamily = 4")),
                    4 => line(format_args!("protocol = {}", high - 1)),
                    5 if address.to_ipv4_mapped().is_none() => {
                        line(format_args!("destination = \"{address}/{length}\""))
                    }
                    _ => line(format_args!("family = 6\nto = \"any\"")),
                }
            }
            text
        },
    )
}

proptest! {
    #[test]
    fn any_bytes_end_in_a_configuration_or_in_problems(bytes in vec(any::<u8>(), 0..400)) {
        check(&bytes);
    }

    #[test]
    fn any_text_ends_in_a_configuration_or_in_problems(text in "\\PC{0,200}") {
        check(text.as_bytes());
    }

    #[test]
    fn any_pieces_end_in_a_configuration_or_in_problems(text in pieces()) {
        check(text.as_bytes());
    }

    #[test]
    fn a_damaged_file_ends_in_a_configuration_or_in_problems(bytes in damaged()) {
        check(&bytes);
    }

    #[test]
    fn a_valid_configuration_survives_being_written_and_read(text in valid()) {
        if let Err(problems) = Config::parse(&text, "valid.toml") {
            panic!("{problems}\n{text}");
        }
        prop_assert!(check(text.as_bytes()).is_some());
    }
}

/// The damage leaves some files valid and makes others wrong, or the property above says nothing.
#[test]
fn damage_hits_both_cases() {
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let valid =
        (0..200).filter(|_| check(&damaged().new_tree(&mut runner).unwrap().current()).is_some()).count();
    assert!((10..190).contains(&valid), "{valid} of 200");
}

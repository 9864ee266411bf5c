//! The classifier against a linear scan.

use super::*;
use proptest::prelude::*;
use proptest::sample::select;
use turnpike_abi::MAX_ZONES;
use turnpike_abi::event::Tuple;
use turnpike_abi::table::MAX_RULES;

const ANY: u16 = FirewallRuleRecord::ANY;
const ZONES: usize = 5;

fn zone_matches(wanted: ZoneId, zone: ZoneId) -> bool {
    wanted == ZoneId::ANY || wanted == zone
}

fn rule_matches(rule: &FirewallRuleRecord, packet: &FirstPacket) -> bool {
    let tuple = &packet.tuple;
    let within = |range: [u16; 2], port: u16| (range[0]..=range[1]).contains(&port);
    let any_or = |wanted: u16, value: u8| wanted == ANY || wanted == u16::from(value);
    let family_matches = match rule.family {
        4 => tuple.source.is_v4(),
        6 => !tuple.source.is_v4(),
        _ => true,
    };
    // A rule for ICMP means the ICMP of its family.
    let protocol_matches = any_or(rule.protocol, tuple.protocol)
        || (rule.protocol == u16::from(ICMP) && tuple.protocol == ICMPV6 && !tuple.source.is_v4());
    family_matches
        && protocol_matches
        && zone_matches(rule.from, packet.from)
        && zone_matches(rule.to, packet.to)
        && rule.source.contains(tuple.source)
        && rule.destination.contains(tuple.destination)
        && (!has_ports(tuple.protocol)
            || (within(rule.source_ports, tuple.source_port)
                && within(rule.destination_ports, tuple.destination_port)))
        && match packet.icmp {
            Some((kind, code)) => any_or(rule.icmp_type, kind) && any_or(rule.icmp_code, code),
            None => rule.icmp_type == ANY,
        }
}

fn scan(rules: &[FirewallRuleRecord], packet: &FirstPacket) -> Option<usize> {
    rules.iter().position(|rule| rule_matches(rule, packet))
}

/// Few distinct bits, so that prefixes nest and addresses fall into them.
fn address() -> impl Strategy<Value = Address> {
    let v4 = (select(vec![[10, 0], [10, 1], [192, 168], [255, 255]]), 0u8..8, any::<u8>())
        .prop_map(|([a, b], c, d)| Address::v4([a, b, c, d]));
    let v6 = (select(vec![0u8, 0x20, 0x21, 0xfd, 0xff]), 0u8..4, 0u8..4, any::<u8>()).prop_map(
        |(first, second, middle, last)| {
            let mut bytes = [0; 16];
            (bytes[0], bytes[1], bytes[7], bytes[15]) = (first, second, middle, last);
            Address(bytes)
        },
    );
    prop_oneof![v4, v6]
}

/// Prefixes around IPv4's, of IPv4 and of IPv6; one in four is everything.
fn prefix() -> impl Strategy<Value = Prefix> {
    let lengths = prop_oneof![3 => 0u8..=128, 2 => select(vec![0, 8, 64, 96, 104, 112, 120, 124, 127, 128])];
    let narrow = (address(), lengths).prop_map(|(address, length)| {
        let bits = u128::from_be_bytes(address.0) & Prefix::mask(length);
        Prefix { address: Address(bits.to_be_bytes()), length, ..Prefix::default() }
    });
    prop_oneof![1 => Just(Prefix::ANY), 3 => narrow]
}

fn ports() -> impl Strategy<Value = [u16; 2]> {
    let port = || prop_oneof![0u16..6, 65530u16..=65535];
    // Some of them empty, as only a hostile peer writes them.
    prop_oneof![2 => Just([0, 65535]), 1 => port().prop_map(|port| [port; 2]), 2 => [port(), port()]]
}

fn protocol() -> impl Strategy<Value = u8> {
    select(vec![1, 6, 17, 33, 47, 58, 132, 255])
}

fn or_any(value: impl Strategy<Value = u8> + 'static) -> impl Strategy<Value = u16> {
    prop_oneof![Just(ANY), value.prop_map(u16::from)]
}

fn zone() -> impl Strategy<Value = ZoneId> {
    (0..ZONES as u8).prop_map(ZoneId)
}

fn rule() -> impl Strategy<Value = FirewallRuleRecord> {
    let zone = || prop_oneof![Just(ZoneId::ANY), zone()];
    let icmp = prop_oneof![3 => Just((ANY, ANY)), 1 => (or_any(0..3u8), or_any(0..3u8))];
    let prefixes = (prefix(), prefix());
    (zone(), zone(), prefixes, ports(), ports(), or_any(protocol()), icmp, select(vec![0, 0, 4, 6])).prop_map(
        |(from, to, (source, destination), source_ports, destination_ports, protocol, icmp, family)| {
            FirewallRuleRecord {
                source,
                destination,
                source_ports,
                destination_ports,
                protocol,
                icmp_type: icmp.0,
                icmp_code: icmp.1,
                from,
                to,
                family,
                ..FirewallRuleRecord::default()
            }
        },
    )
}

/// A packet of one family; types and codes with ICMP only, and not always.
fn packet() -> impl Strategy<Value = FirstPacket> {
    let port = || prop_oneof![0u16..6, 65530u16..=65535, any::<u16>()];
    let ends = (address(), address()).prop_filter("one family", |(a, b)| a.is_v4() == b.is_v4());
    (zone(), zone(), ends, port(), port(), protocol(), any::<bool>(), (0..4u8, 0..4u8)).prop_map(
        |(from, to, (source, destination), source_port, destination_port, protocol, asks, icmp)| {
            let query = asks && matches!(protocol, ICMP | ICMPV6);
            FirstPacket {
                from,
                to,
                tuple: Tuple {
                    source,
                    destination,
                    source_port,
                    destination_port,
                    protocol,
                    ..Tuple::default()
                },
                icmp: query.then_some(icmp),
            }
        },
    )
}

proptest! {
    #[test]
    fn a_few_rules(
        rules in prop::collection::vec(rule(), 0..40),
        packets in prop::collection::vec(packet(), 60),
    ) {
        let classifier = Classifier::new(&rules, ZONES).unwrap();
        for packet in &packets {
            prop_assert_eq!(classifier.first_match(packet), scan(&rules, packet), "{:?}", packet);
            // So few that vectors are not asked, they would say the same.
            prop_assert_eq!(classifier.search(packet), scan(&rules, packet), "{:?}", packet);
        }
    }

    /// No rule is for a zone that there is not.
    #[test]
    fn packets_of_unknown_zones(rules in prop::collection::vec(rule(), 0..40), packet in packet(), from: bool) {
        let classifier = Classifier::new(&rules, ZONES).unwrap();
        let unknown = ZoneId(ZONES as u8);
        let packet = if from {
            FirstPacket { from: unknown, ..packet }
        } else {
            FirstPacket { to: unknown, ..packet }
        };
        prop_assert_eq!(classifier.first_match(&packet), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn thousands_of_rules(
        rules in prop::collection::vec(rule(), 2000..6000),
        packets in prop::collection::vec(packet(), 400),
    ) {
        // Rules that few packets satisfy first, or the first of them would end every search.
        let mut rules = rules;
        rules.sort_by_key(|rule| u32::MAX - u32::from(rule.source.length) - u32::from(rule.destination.length));
        let classifier = Classifier::new(&rules, ZONES).unwrap();
        let mut deep = 0;
        for packet in &packets {
            let found = classifier.first_match(packet);
            prop_assert_eq!(found, scan(&rules, packet), "{:?}", packet);
            deep += usize::from(found.is_some_and(|rule| rule > 512));
        }
        prop_assert!(deep > 10, "{deep}");
    }
}

fn any_rule() -> FirewallRuleRecord {
    FirewallRuleRecord {
        from: ZoneId::ANY,
        to: ZoneId::ANY,
        source_ports: [0, u16::MAX],
        destination_ports: [0, u16::MAX],
        protocol: ANY,
        icmp_type: ANY,
        icmp_code: ANY,
        ..FirewallRuleRecord::default()
    }
}

/// No two prefixes and no two ends of ranges alike: the most classes that so many rules can make.
fn all_different(count: u32) -> Vec<FirewallRuleRecord> {
    (0..count)
        .map(|n| {
            let host = |net: u8| {
                let [_, b, c, d] = (n * 6).to_be_bytes();
                Prefix::host(Address::v4([net, b, c, d]))
            };
            let ports = [n as u16 * 2, 65_535 - n as u16 * 2];
            FirewallRuleRecord {
                source: host(10),
                destination: host(11),
                source_ports: ports,
                destination_ports: ports,
                ..any_rule()
            }
        })
        .collect()
}

#[test]
fn as_many_rules_as_a_configuration_has_fit_whatever_they_say() {
    let rules = all_different(MAX_RULES as u32);
    let begin = std::time::Instant::now();
    let classifier = Classifier::new(&rules, MAX_ZONES).unwrap();
    let bytes = classifier.vectors.lines.capacity() * size_of::<Line>();
    println!("{} MiB in {:?}", bytes >> 20, begin.elapsed());
    assert!(classifier.vectors.lines.len() * 10 > classifier.vectors.lines.capacity() * 9, "as planned");
    for n in (0..rules.len()).step_by(97) {
        let tuple = Tuple {
            source: rules[n].source.address,
            destination: rules[n].destination.address,
            source_port: 32_500,
            destination_port: rules[n].destination_ports[1],
            protocol: 6,
            ..Tuple::default()
        };
        let packet = FirstPacket { from: ZoneId(0), to: ZoneId(15), tuple, icmp: None };
        assert_eq!(classifier.first_match(&packet), Some(n));
    }
}

#[test]
fn more_memory_than_that_is_refused() {
    assert!(Classifier::new(&all_different(16_000), ZONES).is_err());
    assert_eq!(Classifier::new(&vec![any_rule(); MAX_RECORDS + 1], ZONES).unwrap_err(), "too many rules");
    assert!(Classifier::new(&vec![any_rule(); MAX_RECORDS], ZONES).is_ok());
}

/// Every word of two fields holds rules, and no rule has both: all words are looked at.
#[test]
fn a_packet_that_half_of_the_rules_nearly_match() {
    let prefix = |net| Prefix { address: Address::v4([net, 0, 0, 0]), length: 104, ..Prefix::default() };
    let rule = |n: usize| {
        let (source, destination) = if n.is_multiple_of(2) { (10, 11) } else { (11, 10) };
        FirewallRuleRecord { source: prefix(source), destination: prefix(destination), ..any_rule() }
    };
    let mut rules: Vec<FirewallRuleRecord> = (0..9999).map(rule).collect();
    let end = Address::v4([10, 1, 1, 1]);
    let tuple = Tuple { source: end, destination: end, protocol: 6, ..Tuple::default() };
    let packet = FirstPacket { from: ZoneId(0), to: ZoneId(1), tuple, icmp: None };
    assert_eq!(Classifier::new(&rules, ZONES).unwrap().first_match(&packet), None);
    rules.push(any_rule());
    assert_eq!(Classifier::new(&rules, ZONES).unwrap().first_match(&packet), Some(9999));
}

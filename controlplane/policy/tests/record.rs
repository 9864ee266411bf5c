//! The encoding of rules, and of uses of permits, is on disks: what was written stays readable.

use turnpike_policy::{
    Action, Agent, Annotation, Behaviour, Direction, Ending, Front, Grant, GroupId, Lock, Parity, PortParity,
    Protocol, RECORD_VERSION, Rule, RuleId, Time, Tuple, Undecodable, Uses,
};

/// A rule with every field set.
fn full() -> Rule {
    Rule {
        id: RuleId(7),
        group: GroupId(3),
        owner: Agent::new(Front::Simco, "proxy"),
        zone: "inside".into(),
        action: Action::Enable { direction: Direction::Inbound, parity: Parity::Same },
        protocol: Protocol::UDP,
        range: 2,
        internal: Some(Tuple::new("10.1.8.3".parse().unwrap(), 5004)),
        external: Tuple { address: "192.0.2.0".parse().unwrap(), length: 24, port: 0 },
        pool: Some("public".into()),
        outside: Some(Grant { address: "198.51.100.7".parse().unwrap(), port: 40000 }),
        behaviour: Behaviour {
            lock: Lock::AddressAndPort,
            max_flows: 1,
            close_on_fin: true,
            idle: Some(30),
            remote_ports: Some((1, 9)),
            ending: Some(Ending::Drain),
        },
        locked: Some(Tuple::new("192.0.2.33".parse().unwrap(), 9)),
        ending: Ending::Drain,
        annotation: Annotation { description: Some("rtp".into()), tag: [1, 2, 3].into() },
        created: Time(1_795_000_000_000),
        expires: Some(Time(1_795_000_060_000)),
    }
}

fn bare() -> Rule {
    Rule {
        id: RuleId(1),
        group: GroupId(1),
        owner: Agent::new(Front::Pcp, "inside/2001:db8::1"),
        zone: "inside".into(),
        action: Action::Reserve(PortParity::Even),
        protocol: Protocol(41),
        range: 1,
        internal: None,
        external: Tuple::any(turnpike_policy::IpVersion::V6),
        pool: None,
        outside: None,
        behaviour: Behaviour::default(),
        locked: None,
        ending: Ending::Cut,
        annotation: Annotation::default(),
        created: Time(0),
        expires: None,
    }
}

#[test]
fn rules_come_back() {
    for rule in [full(), bare()] {
        assert_eq!(Rule::decode(rule.id, &rule.encode()), Ok(rule));
    }
    for front in Front::ALL {
        let rule = Rule { owner: Agent::new(front, "x"), ..bare() };
        assert_eq!(Rule::decode(rule.id, &rule.encode()).unwrap().owner.front, front);
    }
}

#[test]
fn version_1_is_fixed() {
    let golden = concat!(
        "01",                 // version
        "00000003",           // group
        "01000570726f7879",   // simco:proxy
        "0006696e73696465",   // zone
        "0101",               // enable inbound, same parity
        "110002",             // udp, two ports
        "01040a01080320138c", // internal
        "04c0000200180000",   // external
        "0100067075626c6963", // pool
        "01c63364079c40",     // outside
        "02000101",           // lock, flows, close on FIN
        "010000001e",         // idle
        "0100010009",         // remote ports
        "0101",               // wished ending
        "0104c0000221200009", // locked
        "01",                 // ending
        "010003727470",       // description
        "0003010203",         // tag
        "000001a1ee565e00",   // created
        "01000001a1ee574860", // expires
    );
    let hex: String = full().encode().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, golden);
}

#[test]
fn every_damage_is_noticed() {
    let bytes = full().encode();
    for cut in 0..bytes.len() {
        assert!(Rule::decode(RuleId(7), &bytes[..cut]).is_err(), "cut at {cut}");
    }
    let mut long = bytes.clone();
    long.push(0);
    assert_eq!(Rule::decode(RuleId(7), &long), Err(Undecodable::Long(1)));
    let mut newer = bytes;
    newer[0] = RECORD_VERSION + 1;
    assert_eq!(Rule::decode(RuleId(7), &newer), Err(Undecodable::Version(RECORD_VERSION + 1)));
}

#[test]
fn uses_in_version_1_are_fixed() {
    let uses = Uses { times: 3, expires: Time(1_795_000_060_000) };
    let bytes = uses.encode();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, concat!("01", "00000003", "000001a1ee574860")); // version, times, expires
    assert_eq!(Uses::decode(&bytes), Ok(uses));
    for cut in 0..bytes.len() {
        assert!(Uses::decode(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    assert_eq!(Uses::decode(&[&bytes[..], &[0]].concat()), Err(Undecodable::Long(1)));
    let changed = |at: usize, byte| [&bytes[..at], &[byte], &bytes[at + 1..]].concat();
    assert_eq!(Uses::decode(&changed(4, 0)), Err(Undecodable::Field("times")));
    assert_eq!(Uses::decode(&changed(0, RECORD_VERSION + 1)), Err(Undecodable::Version(RECORD_VERSION + 1)));
}

//! The translator against a naive model: maps from inside to external ends, and nothing else.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use turnpike_abi::counters::{DropReason, ProtocolClass};
use turnpike_sim::lab::{INSIDE_PORT, Lab, OUTSIDE_PORT, forwarding, text};
use turnpike_sim::packets::{Build, ICMP, Seen, TCP, UDP};
use turnpike_sim::tables::{PolicyTable, address};
use turnpike_wire::packet::TCP_SYN;

const HOSTS: [&str; 5] = ["10.0.0.9", "10.0.0.10", "10.0.3.77", "10.0.255.254", "10.0.0.131"];
const SERVERS: [&str; 3] = ["198.51.100.7", "198.51.100.8", "192.0.2.254"];
const PROTOCOLS: [u8; 3] = [UDP, TCP, ICMP];

type End = (String, u16);

/// What the model knows.
#[derive(Default)]
struct Model {
    external: HashMap<(u8, End), End>,
    inside: HashMap<(u8, End), End>,
    /// Subscriber to external address, and how many mappings it has.
    paired: HashMap<String, String>,
    /// Who was pinged through which external identifier.
    asked: HashSet<(End, String)>,
}

#[derive(Clone, Debug)]
enum Step {
    Out {
        protocol: u8,
        host: usize,
        port: u16,
        server: usize,
        to: u16,
    },
    /// To the mapping of this number, or to a port that has none.
    In {
        mapping: prop::sample::Index,
        server: usize,
        from: u16,
    },
    Stray {
        protocol: u8,
        address: u8,
        port: u16,
    },
    Hairpin {
        host: usize,
        port: u16,
        mapping: prop::sample::Index,
    },
    /// Everything ends.
    Silence,
}

fn step() -> impl Strategy<Value = Step> {
    let protocol = || prop::sample::select(PROTOCOLS.to_vec());
    prop_oneof![
        8 => (protocol(), 0..HOSTS.len(), 1u16..6, 0..SERVERS.len(), 50u16..53).prop_map(|(protocol, host, port, server, to)| {
            Step::Out { protocol, host, port, server, to }
        }),
        6 => (any::<prop::sample::Index>(), 0..SERVERS.len(), 50u16..55).prop_map(|(mapping, server, from)| Step::In { mapping, server, from }),
        1 => (protocol(), 0u8..4, any::<u16>()).prop_map(|(protocol, address, port)| Step::Stray { protocol, address, port }),
        4 => (0..HOSTS.len(), 1u16..6, any::<prop::sample::Index>()).prop_map(|(host, port, mapping)| Step::Hairpin { host, port, mapping }),
        1 => Just(Step::Silence),
    ]
}

fn packet(protocol: u8, source: (&str, u16), destination: (&str, u16), reply: bool, payload: &[u8]) -> Build {
    match protocol {
        UDP => Build::udp(source, destination, payload),
        TCP => Build::tcp(source, destination, TCP_SYN, payload),
        _ => {
            Build::echo(source.0, destination.0, if reply { destination.1 } else { source.1 }, reply, payload)
        }
    }
}

impl Model {
    /// The mapping that the box used must be the known one, or a new one that nobody else has.
    fn learn(&mut self, protocol: u8, inside: &End, external: End) -> &'static str {
        if let Some(known) = self.external.get(&(protocol, inside.clone())) {
            assert_eq!(*known, external, "the mapping of {inside:?} moved");
            return "known mapping";
        }
        assert!(
            external.0.starts_with("203.0.113.") && external.1 >= 1024,
            "{external:?} is not of the pool"
        );
        let former = self.inside.insert((protocol, external.clone()), inside.clone());
        assert_eq!(former, None, "{external:?} was given to two");
        let pair = self.paired.entry(inside.0.clone()).or_insert_with(|| external.0.clone());
        assert_eq!(*pair, external.0, "{} has two external addresses", inside.0);
        self.external.insert((protocol, inside.clone()), external);
        "new mapping"
    }

    /// A mapping, by number in a stable order.
    fn pick(&self, index: prop::sample::Index) -> Option<(u8, End, End)> {
        let mut all: Vec<_> = self
            .inside
            .iter()
            .map(|((protocol, external), inside)| (*protocol, external.clone(), inside.clone()))
            .collect();
        all.sort();
        (!all.is_empty()).then(|| all.swap_remove(index.index(all.len())))
    }
}

fn same_but_translated(seen: &Seen, payload: &[u8]) {
    assert_eq!((seen.payload(), seen.packet.ttl), (payload, 63));
}

fn run(lab: &mut Lab, model: &mut Model, step: &Step, number: usize) -> &'static str {
    let payload = number.to_be_bytes();
    match step {
        &Step::Out { protocol, host, port, server, to } => {
            let (host, server) = (HOSTS[host], SERVERS[server]);
            let seen = lab.out(&packet(protocol, (host, port), (server, to), false, &payload));
            same_but_translated(&seen, &payload);
            let to = if protocol == ICMP { text(seen.source()).1 } else { to };
            assert_eq!(text(seen.destination()), (server.to_owned(), to));
            let external = text(seen.source());
            if protocol == ICMP {
                model.asked.insert((external.clone(), server.to_owned()));
            }
            model.learn(protocol, &(host.to_owned(), port), external)
        }
        Step::In { mapping, server, from } => {
            let Some((protocol, external, inside)) = model.pick(*mapping) else { return "nothing mapped" };
            let server = SERVERS[*server];
            let packet = packet(protocol, (server, *from), (&external.0, external.1), true, &payload);
            if protocol == ICMP && !model.asked.contains(&(external, server.to_owned())) {
                lab.step(OUTSIDE_PORT, &packet).dropped(DropReason::IcmpReplyUnasked);
                return "unasked";
            }
            let seen = lab.back(&packet);
            same_but_translated(&seen, &payload);
            assert_eq!(text(seen.destination()), inside);
            let from = if protocol == ICMP { inside.1 } else { *from };
            assert_eq!(text(seen.source()), (server.to_owned(), from));
            "inbound"
        }
        &Step::Stray { protocol, address, port } => {
            let external = (format!("203.0.113.{address}"), port);
            if model.inside.contains_key(&(protocol, external.clone())) {
                return "hit by chance";
            }
            let packet = packet(protocol, (SERVERS[0], 50), (&external.0, port), true, &payload);
            let reason = if protocol == ICMP { DropReason::IcmpReplyUnasked } else { DropReason::NoMapping };
            lab.step(OUTSIDE_PORT, &packet).dropped(reason);
            "stray"
        }
        Step::Hairpin { host, port, mapping } => {
            let Some((protocol, external, inside)) = model.pick(*mapping) else { return "nothing mapped" };
            if protocol == ICMP {
                return "no query to a query's identifier";
            }
            let host = HOSTS[*host];
            let packet = packet(protocol, (host, *port), (&external.0, external.1), false, &payload);
            let seen = lab.hairpin(&packet);
            same_but_translated(&seen, &payload);
            assert_eq!(text(seen.destination()), inside);
            let outcome = model.learn(protocol, &(host.to_owned(), *port), text(seen.source()));
            if outcome == "known mapping" { "hairpin" } else { "hairpin with new mapping" }
        }
        Step::Silence => {
            lab.appliance.advance(16_000_000, 20_000);
            let counters = lab.appliance.counters();
            for class in ProtocolClass::ALL {
                assert_eq!(
                    (counters.flows(*class).0, counters.bindings(*class).0),
                    (0, 0),
                    "{}",
                    class.name()
                );
            }
            *model = Model::default();
            "silence"
        }
    }
}

/// As many bindings as the model has.
fn agree(lab: &Lab, model: &Model) {
    let counters = lab.appliance.counters();
    for (protocol, class) in
        [(UDP, ProtocolClass::Udp), (TCP, ProtocolClass::Tcp), (ICMP, ProtocolClass::Icmp)]
    {
        let mapped = model.inside.keys().filter(|(of, _)| *of == protocol).count();
        assert_eq!(counters.bindings(class).0, mapped as u64, "bindings of {}", class.name());
    }
}

#[test]
fn translation_agrees_with_a_naive_model() {
    let mut policy = PolicyTable::default();
    policy.ranges[0].last = [203, 0, 113, 3];
    let outcomes = RefCell::new(BTreeMap::new());
    let mut runner = TestRunner::new(Config { cases: 250, failure_persistence: None, ..Config::default() });
    let strategy = (1u8..6, prop::collection::vec(step(), 1..80));
    let result = runner.run(&strategy, |(workers, steps)| {
        let mut lab = Lab::with(workers, &policy, &forwarding());
        for host in HOSTS {
            lab.appliance.neighbour(INSIDE_PORT, address(host), [2, 0xff, 0, 0, 0, 7]);
        }
        let mut model = Model::default();
        for (number, step) in steps.iter().enumerate() {
            let outcome = run(&mut lab, &mut model, step, number);
            *outcomes.borrow_mut().entry(outcome).or_insert(0u32) += 1;
            agree(&lab, &model);
        }
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
    // The generator hit every case.
    let outcomes = outcomes.into_inner();
    for case in [
        "new mapping",
        "known mapping",
        "inbound",
        "unasked",
        "stray",
        "hairpin",
        "hairpin with new mapping",
        "silence",
    ] {
        assert!(outcomes.get(case).is_some_and(|&count| count >= 20), "{case}: {outcomes:?}");
    }
}

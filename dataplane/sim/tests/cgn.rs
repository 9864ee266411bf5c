//! The carrier's side of translation: RFC 6888, pools, limits, exhaustion. Tests carry the ids of their requirement rows.

use std::collections::HashSet;
use turnpike_abi::command::{Kind, PinholeAdd, PinholeRemove};
use turnpike_abi::counters::{Counter, DropReason, IcmpKind, ProtocolClass};
use turnpike_abi::event::{Ack, AckResult};
use turnpike_abi::table::{NatAction, NatRuleRecord, PoolRangeRecord};
use turnpike_abi::{PoolId, Prefix, WorkerId, steering};
use turnpike_sim::lab::{
    BOX_INSIDE, HOST, INSIDE_PORT, Lab, OTHER_HOST, OTHER_SERVER, OUTSIDE_PORT, SERVER, everywhere,
    everywhere_with, forwarding, text,
};
use turnpike_sim::packets::Build;
use turnpike_sim::tables::{INSIDE, OUTSIDE, PolicyTable, address, prefix};
use turnpike_wire::packet::TCP_SYN;

/// A pool of one address with these ports.
fn pool(first: u16, last: u16) -> PolicyTable {
    let mut policy = PolicyTable::default();
    policy.ranges[0].last = policy.ranges[0].first;
    (policy.pools[0].port_first, policy.pools[0].port_last) = (first, last);
    policy
}

#[test]
fn cgn_2_a_subscriber_has_one_external_address_for_all_protocols() {
    everywhere(|lab| {
        for host in [HOST, OTHER_HOST, "10.0.7.7", "10.0.3.200"] {
            let mut addresses = HashSet::new();
            for port in 1..30 {
                addresses.insert(text(lab.out(&Build::udp((host, port), (SERVER, 53), b"")).source()).0);
                addresses
                    .insert(text(lab.out(&Build::tcp((host, port), (SERVER, 80), TCP_SYN, b"")).source()).0);
                addresses
                    .insert(text(lab.out(&Build::echo(host, OTHER_SERVER, port, false, b"")).source()).0);
            }
            assert_eq!(addresses.len(), 1, "{host}");
        }
    });
}

/// CGN-3: ranges that do not touch, single addresses among them, are all used.
#[test]
fn cgn_3_every_address_of_a_scattered_pool_is_used() {
    let mut policy = PolicyTable::default();
    let range = |first, last| PoolRangeRecord { first, last, pool: PoolId(0), ..PoolRangeRecord::default() };
    policy.ranges = vec![
        range([198, 18, 0, 7], [198, 18, 0, 7]),
        range([203, 0, 113, 16], [203, 0, 113, 19]),
        range([203, 0, 113, 40], [203, 0, 113, 42]),
    ];
    everywhere_with(&policy, &forwarding(), |lab| {
        let mut used = HashSet::new();
        for host in 0..250 {
            let host = format!("10.0.1.{host}");
            used.insert(text(lab.out(&Build::udp((&host, 9), (SERVER, 53), b"")).source()).0);
        }
        let expected = [
            "198.18.0.7",
            "203.0.113.16",
            "203.0.113.17",
            "203.0.113.18",
            "203.0.113.19",
            "203.0.113.40",
            "203.0.113.41",
            "203.0.113.42",
        ];
        assert_eq!(used, expected.iter().map(|&text| text.to_owned()).collect());
        // What lies between the ranges is not of the pool.
        assert_eq!(lab.appliance.drops(DropReason::NoMapping), 0);
        lab.step(OUTSIDE_PORT, &Build::udp((SERVER, 1), ("203.0.113.42", 1), b""))
            .dropped(DropReason::NoMapping);
        let stray = lab.step(OUTSIDE_PORT, &Build::udp((SERVER, 1), ("203.0.113.43", 1), b""));
        assert_eq!(stray.drops, [(DropReason::FirewallDefaultDeny, 1)]);
    });
}

/// CGN-6: what a rule exempts passes as it is, from the moment the policy says so.
#[test]
fn cgn_6_exempted_destinations_are_not_translated() {
    everywhere(|lab| {
        let packet = Build::udp((HOST, 5000), (OTHER_SERVER, 53), b"x");
        assert_ne!(text(lab.out(&packet).source()).0, HOST);
        let mut policy = PolicyTable::default();
        policy.nat.insert(
            0,
            NatRuleRecord {
                from: INSIDE,
                to: OUTSIDE,
                destination: prefix(OTHER_SERVER, 32),
                action: NatAction::EXEMPT,
                ..NatRuleRecord::default()
            },
        );
        lab.appliance.policy(&policy);
        let exempt = Build::udp((HOST, 5001), (OTHER_SERVER, 53), b"x");
        let seen = lab.out(&exempt);
        assert_eq!(text(seen.source()), (HOST.to_owned(), 5001));
        assert_eq!(seen.ip(), exempt.ttl(63).ip());
        let seen = lab.back(&Build::udp((OTHER_SERVER, 53), (HOST, 5001), b"answer"));
        assert_eq!(text(seen.destination()), (HOST.to_owned(), 5001));
        assert_ne!(text(lab.out(&Build::udp((HOST, 5001), (SERVER, 53), b"x")).source()).0, HOST);
        // Nobody else gets in.
        let stray = Build::udp((SERVER, 53), (HOST, 5001), b"x");
        lab.step(OUTSIDE_PORT, &stray).dropped(DropReason::FirewallDefaultDeny);
    });
}

/// CGN-7 is UDP-8 and TCP-3; here for every port of a pool at once.
#[test]
fn cgn_7_filtering_is_endpoint_independent_by_default() {
    everywhere_with(&pool(2000, 2100), &forwarding(), |lab| {
        let (external, port) = lab.udp_mapping(HOST, 5000);
        let seen = lab.back(&Build::udp((OTHER_SERVER, 12345), (&external, port), b"x"));
        assert_eq!(text(seen.destination()), (HOST.to_owned(), 5000));
    });
}

/// CGN-11: the first packet too many is dropped and answered, and nobody loses what he has.
#[test]
fn cgn_11_exhaustion_drops_the_new_flow_answers_and_evicts_nothing() {
    everywhere_with(&pool(2048, 3583), &forwarding(), |lab| {
        let mut mapped = Vec::new();
        let mut refused = 0;
        for port in 1..3000 {
            let packet = Build::udp((HOST, port), (SERVER, 53), b"x");
            let step = lab.step(INSIDE_PORT, &packet);
            if step.drops.is_empty() {
                assert_eq!(refused, 0, "a port was free after all");
                mapped.push((port, text(step.passed(OUTSIDE_PORT).source())));
                continue;
            }
            refused += 1;
            if refused <= 3 {
                let error = step.refused(DropReason::PortExhausted);
                assert_eq!(error.icmp(), (3, 1));
                assert_eq!(
                    (text(error.source()).0, text(error.destination()).0),
                    (BOX_INSIDE.into(), HOST.into())
                );
                assert_eq!(error.payload(), packet.ip());
            }
        }
        // All the ports that this host's worker has, each once, and no port that another worker has.
        let owner = |port| steering::owner_of_port(port, lab_workers(lab));
        let own = (2048..3584)
            .filter(|&port| owner(port) == steering::owner_of_inside(address(HOST), lab_workers(lab)));
        let got: HashSet<u16> = mapped.iter().map(|(_, external)| external.1).collect();
        assert_eq!(got, own.collect());
        assert_eq!(got.len(), mapped.len());
        assert!(refused > 0);
        assert_eq!(lab.appliance.counters().pool_exhaustions(0), refused);
        // 11d: everything mapped before works, both ways, from the same port.
        for (port, (external, external_port)) in &mapped {
            let seen = lab.back(&Build::udp((OTHER_SERVER, 1), (external, *external_port), b"x"));
            assert_eq!(text(seen.destination()).1, *port);
        }
        // TCP has its own ports.
        lab.out(&Build::tcp((HOST, 1), (SERVER, 53), TCP_SYN, b""));
    });
}

fn lab_workers(lab: &Lab) -> u8 {
    lab.appliance.workers()
}

/// 11b: answers are limited by rate; UPD-5: a subscriber's address is not changed when it has no port left.
#[test]
fn cgn_11b_answers_to_exhaustion_are_limited() {
    let mut policy = PolicyTable::default();
    (policy.pools[0].port_first, policy.pools[0].port_last) = (1024, 1055);
    policy.settings.icmp_rate = 10;
    let mut lab = Lab::with(1, &policy, &forwarding());
    lab.appliance.advance(1000, 1000);
    let mut addresses = HashSet::new();
    for port in 1..100 {
        let step = lab.step(INSIDE_PORT, &Build::udp((HOST, port), (SERVER, 53), b"x"));
        if step.drops.is_empty() {
            addresses.insert(text(step.passed(OUTSIDE_PORT).source()).0);
        }
    }
    // UPD-5: the other addresses of the pool are free, and stay out of it.
    assert_eq!(addresses.len(), 1);
    assert_eq!(lab.appliance.drops(DropReason::PortExhausted), 99 - 32);
    assert_eq!(lab.appliance.counters().icmp_errors(IcmpKind::UnreachableHost), (10, 99 - 32 - 10));
    // Another subscriber is not hurt.
    lab.udp_mapping(OTHER_HOST, 1);
}

#[test]
fn cgn_11_ports_come_back_when_their_flows_end() {
    everywhere_with(&pool(1024, 1024 + 5 * 512 - 1), &forwarding(), |lab| {
        let fill = |lab: &mut Lab| {
            (1..3000)
                .filter(|&port| {
                    lab.step(INSIDE_PORT, &Build::udp((HOST, port), (SERVER, 53), b"x")).drops.is_empty()
                })
                .count()
        };
        let first = fill(lab);
        assert!(first >= 512);
        lab.appliance.advance(320_000, 100);
        assert_eq!(lab.appliance.counters().bindings(ProtocolClass::Udp).0, 0);
        assert_eq!(lab.appliance.counters().get(Counter::Subscribers), 0);
        assert_eq!(fill(lab), first);
    });
}

#[test]
fn cgn_5_a_full_flow_table_refuses_new_flows_and_keeps_the_old() {
    let mut lab = Lab::sized(1, 50, &PolicyTable::default());
    for server in 0..50 {
        lab.out(&Build::udp((HOST, 5000), (&format!("198.51.100.{server}"), 53), b"x"));
    }
    let error = lab
        .step(INSIDE_PORT, &Build::udp((HOST, 5000), ("198.51.100.99", 53), b"x"))
        .refused(DropReason::FlowLimit);
    assert_eq!(error.icmp(), (3, 1));
    // From outside too: the binding is there, the flow has no room.
    let (external, port) = text(lab.out(&Build::udp((HOST, 5000), ("198.51.100.3", 53), b"x")).source());
    let packet = Build::udp(("198.51.100.200", 53), (&external, port), b"x");
    let _ = lab.step(OUTSIDE_PORT, &packet).refused(DropReason::FlowLimit);
    lab.back(&Build::udp(("198.51.100.3", 53), (&external, port), b"x"));
    // Room comes back with time.
    lab.appliance.advance(330_000, 100);
    lab.out(&Build::udp((HOST, 5000), ("198.51.100.99", 53), b"x"));
}

/// Pinholes are bindings without flows: they fill the one table and not the other.
#[test]
fn cgn_5_a_full_binding_table_refuses_new_mappings_and_keeps_the_old() {
    let mut lab = Lab::sized(1, 40, &PolicyTable::default());
    let pinhole = |port: u16| PinholeAdd {
        id: u64::from(port),
        inside: address(HOST),
        remote: Prefix::ANY,
        inside_port: port,
        remote_port_last: u16::MAX,
        protocol: 17,
        flags: PinholeAdd::POOL,
        ..PinholeAdd::default()
    };
    let held: Vec<Ack> =
        (1..=40).map(|port| lab.appliance.command(0, Kind::PINHOLE_ADD, &pinhole(port))).collect();
    assert!(held.iter().all(|ack| ack.result == AckResult::OK));
    assert_eq!(lab.appliance.command(0, Kind::PINHOLE_ADD, &pinhole(41)).result, AckResult::TABLE_FULL);
    let packet = Build::udp((OTHER_HOST, 1), (SERVER, 53), b"x");
    let error = lab.step(INSIDE_PORT, &packet).refused(DropReason::BindingLimit);
    assert_eq!(error.icmp(), (3, 1));
    // What is there works in both directions, with new flows too.
    for (port, ack) in (1..).zip(&held).take(20) {
        let external = ack.external.to_ip().to_string();
        let seen = lab.back(&Build::udp((SERVER, 53), (&external, ack.external_port), b"x"));
        assert_eq!(text(seen.destination()), (HOST.to_owned(), port));
        lab.out(&Build::udp((HOST, port), (OTHER_SERVER, 53), b"x"));
    }
    // One that goes makes room.
    assert_eq!(
        lab.appliance
            .command(0, Kind::PINHOLE_REMOVE, &PinholeRemove { id: 30, ..PinholeRemove::default() })
            .result,
        AckResult::OK
    );
    lab.appliance.advance(320_000, 100);
    lab.out(&packet);
}

/// BCP 38.
#[test]
fn cgn_b_private_sources_do_not_leave_untranslated() {
    let mut policy = PolicyTable::default();
    policy.nat.clear();
    policy.settings.flags = 0;
    everywhere_with(&policy, &forwarding(), |lab| {
        for source in [HOST, "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "100.127.255.255"] {
            lab.step(INSIDE_PORT, &Build::udp((source, 1), (SERVER, 53), b"x"))
                .dropped(DropReason::PrivateSource);
        }
        // Public addresses need no translation.
        let seen = lab.out(&Build::udp(("198.18.0.9", 1), (SERVER, 53), b"x"));
        assert_eq!(text(seen.source()), ("198.18.0.9".to_owned(), 1));
    });
}

/// A host whose ports lie in another worker's block still gets its answers: they cross.
#[test]
fn answers_that_arrive_at_another_worker_cross_to_the_owner() {
    let mut lab = Lab::new(4);
    let (external, port) = lab.udp_mapping(HOST, 5000);
    for worker in 0..4 {
        lab.appliance.steer(turnpike_sim::Steering::Fixed(WorkerId(worker)));
        let before = lab.appliance.counters().get(Counter::CrossedOut);
        lab.back(&Build::udp((SERVER, 53), (&external, port), b"x"));
        let crossed = lab.appliance.counters().get(Counter::CrossedOut) - before;
        assert_eq!(crossed, u64::from(worker != 9 % 4));
    }
}

#[test]
fn other_protocols_are_not_translated() {
    everywhere(|lab| {
        for protocol in [2, 33, 41, 47, 50, 51, 132] {
            let packet = Build::other(HOST, SERVER, protocol, &[0; 20]);
            lab.step(INSIDE_PORT, &packet).dropped(DropReason::ProtoUnsupported);
            let packet = Build::other(SERVER, "203.0.113.3", protocol, &[0; 20]);
            lab.step(OUTSIDE_PORT, &packet).dropped(DropReason::ProtoUnsupported);
        }
    });
}

//! Port blocks, quotas, quarantine, filtering and computed ranges, packet by packet. Tests carry the ids of their
//! requirement rows.

use std::collections::HashSet;
use turnpike_abi::counters::{Counter, DropReason, ProtocolClass};
use turnpike_abi::deterministic::Plan;
use turnpike_abi::steering;
use turnpike_abi::table::{Filtering, PoolRecord};
use turnpike_sim::lab::{
    HOST, INSIDE_PORT, Lab, OTHER_HOST, OTHER_SERVER, OUTSIDE_PORT, SERVER, everywhere_with, forwarding, text,
};
use turnpike_sim::packets::Build;
use turnpike_sim::tables::{PolicyTable, address};
use turnpike_wire::packet::{TCP_ACK, TCP_SYN};

fn with(change: impl Fn(&mut PoolRecord)) -> PolicyTable {
    let mut policy = PolicyTable::default();
    change(&mut policy.pools[0]);
    policy
}

/// New mappings until the first refusal, and its reason.
fn fill(lab: &mut Lab, host: &str, most: u16) -> (Vec<(String, u16)>, Option<DropReason>) {
    let mut got = Vec::new();
    for port in 1..=most {
        let step = lab.step(INSIDE_PORT, &Build::udp((host, port), (SERVER, 53), b"x"));
        match step.drops.first() {
            None => got.push(text(step.passed(OUTSIDE_PORT).source())),
            Some((reason, _)) => return (got, Some(*reason)),
        }
    }
    (got, None)
}

/// CGN-4: ports of each protocol are limited; the packet is refused with the limit's own reason and answered.
#[test]
fn cgn_4_ports_of_a_subscriber_are_limited_by_protocol() {
    everywhere_with(&with(|pool| pool.subscriber_ports = 20), &forwarding(), |lab| {
        assert_eq!(fill(lab, HOST, 100).1, Some(DropReason::SubscriberPorts));
        assert_eq!(lab.appliance.counters().bindings(ProtocolClass::Udp).0, 20);
        let error = lab
            .step(INSIDE_PORT, &Build::udp((HOST, 999), (SERVER, 53), b"x"))
            .refused(DropReason::SubscriberPorts);
        assert_eq!(error.icmp(), (3, 1));
        // TCP has its own, another subscriber too, and what is there works.
        lab.out(&Build::tcp((HOST, 1), (SERVER, 80), TCP_SYN, b""));
        lab.udp_mapping(OTHER_HOST, 1);
        lab.udp_mapping(HOST, 1);
        assert_eq!(lab.appliance.counters().pool_exhaustions(0), 0);
    });
}

/// CGN-4: a primary block and overflow blocks up to the limit, all on one address, each port once.
#[test]
fn cgn_4_blocks_of_a_subscriber_are_limited() {
    for size in [64, 1024] {
        let policy = with(|pool| (pool.block_size, pool.blocks) = (size, 2));
        everywhere_with(&policy, &forwarding(), |lab| {
            let (got, why) = fill(lab, HOST, 10_000);
            assert_eq!((got.len(), why), (2 * usize::from(size), Some(DropReason::SubscriberPorts)));
            assert_eq!(got.iter().collect::<HashSet<_>>().len(), got.len());
            assert_eq!(got.iter().map(|(address, _)| address).collect::<HashSet<_>>().len(), 1);
            let workers = lab.appliance.workers();
            let owner = steering::owner_of_inside(address(HOST), workers);
            assert!(got.iter().all(|(_, port)| steering::owner_of_port(*port, workers) == owner));
            lab.appliance.advance(1, 1);
            let counters = lab.appliance.counters();
            let blocks = [Counter::BlocksPrimary, Counter::BlocksOverflow, Counter::Blocks];
            assert_eq!(blocks.map(|counter| counters.get(counter)), [1, 1, 2]);
        });
    }
}

/// CGN-5: flows of a subscriber are limited; those from outside have half of them.
#[test]
fn cgn_5_flows_of_a_subscriber_are_limited() {
    everywhere_with(&with(|pool| pool.subscriber_flows = 10), &forwarding(), |lab| {
        let (external, port) = lab.udp_mapping(HOST, 5000);
        for at in 1..5 {
            lab.back(&Build::udp((OTHER_SERVER, at), (&external, port), b"x"));
        }
        let stranger = Build::udp((OTHER_SERVER, 9), (&external, port), b"x");
        lab.step(OUTSIDE_PORT, &stranger).dropped(DropReason::SubscriberFlows);
        for at in 1..6 {
            lab.out(&Build::udp((HOST, 5000), (&format!("198.51.100.{}", 20 + at), 53), b"x"));
        }
        let packet = Build::udp((HOST, 5000), ("198.51.100.99", 53), b"x");
        assert_eq!(lab.step(INSIDE_PORT, &packet).refused(DropReason::SubscriberFlows).icmp(), (3, 1));
        lab.udp_mapping(OTHER_HOST, 5000);
        // What is there lives, and room comes back.
        lab.back(&Build::udp((OTHER_SERVER, 1), (&external, port), b"x"));
        lab.appliance.advance(330_000, 100);
        lab.out(&packet);
    });
}

/// CGN-4c: new flows a second, after a burst; virtual time decides, packet by packet.
#[test]
fn cgn_4c_new_flows_of_a_subscriber_are_limited_by_rate() {
    let policy = with(|pool| (pool.subscriber_rate, pool.subscriber_burst) = (10, 5));
    everywhere_with(&policy, &forwarding(), |lab| {
        let mut tried = 0;
        let mut open = |lab: &mut Lab, most: u16| {
            let mut passed = 0;
            for _ in 0..most {
                tried += 1;
                let step = lab.step(INSIDE_PORT, &Build::udp((HOST, 1), (SERVER, tried), b"x"));
                match step.drops.first() {
                    None => passed += 1,
                    Some((reason, _)) => assert_eq!(*reason, DropReason::SubscriberRate),
                }
            }
            passed
        };
        assert_eq!(open(lab, 20), 5);
        lab.appliance.advance(300, 100);
        assert_eq!(open(lab, 20), 3);
        lab.appliance.advance(10_000, 100);
        assert_eq!(open(lab, 20), 5);
        let passed: u32 = (0..50)
            .map(|_| {
                lab.appliance.advance(100, 100);
                open(lab, 3)
            })
            .sum();
        assert_eq!(passed, 50);
        // Packets of known flows and other subscribers are not held up.
        lab.out(&Build::udp((HOST, 1), (SERVER, 1), b"x"));
        lab.udp_mapping(OTHER_HOST, 1);
    });
}

/// CGN-8: a freed UDP port is not given out again before its time, to anybody; a TCP port may be.
#[test]
fn cgn_8_a_freed_port_is_held_back() {
    let policy = with(|pool| {
        (pool.port_first, pool.port_last) = (1024, 1024 + 5 * 512 - 1);
        pool.quarantine = 120;
    });
    everywhere_with(&policy, &forwarding(), |lab| {
        let most = fill(lab, HOST, 4000).0.len();
        assert!(most >= 512);
        // They expire within 300 s and some, and are all held back.
        lab.appliance.advance(302_000, 100);
        let counters = lab.appliance.counters();
        assert_eq!(counters.bindings(ProtocolClass::Udp).0, 0);
        assert_eq!(counters.get(Counter::Quarantined), most as u64);
        assert_eq!(fill(lab, HOST, 4000), (Vec::new(), Some(DropReason::PortExhausted)));
        lab.appliance.advance(110_000, 100);
        assert_eq!(fill(lab, HOST, 4000).0.len(), 0);
        lab.appliance.advance(15_000, 100);
        assert_eq!(lab.appliance.counters().get(Counter::Quarantined), 0);
        assert_eq!(fill(lab, HOST, 4000).0.len(), most);
    });
}

/// UDP-4: even ports stay even, odd ones odd.
#[test]
fn udp_4_parity_is_kept_if_the_operator_says_so() {
    everywhere_with(&with(|pool| pool.flags = PoolRecord::PARITY), &forwarding(), |lab| {
        for port in 1..200 {
            assert_eq!(lab.udp_mapping(HOST, port).1 % 2, port % 2);
        }
    });
}

/// UDP-8, CGN-7: address-dependent filtering lets those in that were asked, from any port, as long as the flow lives.
#[test]
fn udp_8_address_dependent_filtering_lets_asked_addresses_in() {
    let policy = with(|pool| pool.filtering = Filtering::ADDRESS_DEPENDENT);
    everywhere_with(&policy, &forwarding(), |lab| {
        let (external, port) = lab.udp_mapping(HOST, 5000);
        lab.back(&Build::udp((SERVER, 53), (&external, port), b"answer"));
        lab.back(&Build::udp((SERVER, 9999), (&external, port), b"another port"));
        let stranger = Build::udp((OTHER_SERVER, 53), (&external, port), b"x");
        lab.step(OUTSIDE_PORT, &stranger).dropped(DropReason::FilteredUnasked);
        lab.out(&Build::udp((HOST, 5000), (OTHER_SERVER, 1), b"x"));
        lab.back(&stranger);
        // Another mapping of the same host asked nobody.
        let other = lab.udp_mapping(HOST, 6000);
        let packet = Build::udp((OTHER_SERVER, 53), (&other.0, other.1), b"x");
        lab.step(OUTSIDE_PORT, &packet).dropped(DropReason::FilteredUnasked);
        // It is forgotten with its flow.
        for _ in 0..7 {
            lab.appliance.advance(50_000, 100);
            lab.out(&Build::udp((HOST, 5000), (SERVER, 53), b"keeps the mapping"));
        }
        lab.step(OUTSIDE_PORT, &stranger).dropped(DropReason::FilteredUnasked);
    });
}

/// UDP-8: address-and-port-dependent filtering lets in only who was asked.
#[test]
fn udp_8_address_and_port_dependent_filtering_lets_only_answers_in() {
    let policy = with(|pool| pool.filtering = Filtering::ADDRESS_AND_PORT_DEPENDENT);
    everywhere_with(&policy, &forwarding(), |lab| {
        let (external, port) = lab.udp_mapping(HOST, 5000);
        lab.back(&Build::udp((SERVER, 53), (&external, port), b"answer"));
        for from in [(SERVER, 54), (OTHER_SERVER, 53)] {
            lab.step(OUTSIDE_PORT, &Build::udp(from, (&external, port), b"x"))
                .dropped(DropReason::FilteredUnasked);
        }
        // Mapping stays endpoint-independent.
        let seen = lab.out(&Build::udp((HOST, 5000), (OTHER_SERVER, 1), b"x"));
        assert_eq!(text(seen.source()), (external, port));
    });
}

/// TCP-3: the choice holds for TCP.
#[test]
fn tcp_3_filtering_of_connections_is_configurable() {
    for (filtering, asked) in [
        (Filtering::ENDPOINT_INDEPENDENT, false),
        (Filtering::ADDRESS_DEPENDENT, true),
        (Filtering::ADDRESS_AND_PORT_DEPENDENT, true),
    ] {
        let policy = with(|pool| pool.filtering = filtering);
        everywhere_with(&policy, &forwarding(), |lab| {
            let first = lab.out(&Build::tcp((HOST, 80), (SERVER, 99), TCP_SYN, b""));
            let (external, port) = text(first.source());
            lab.back(&Build::tcp((SERVER, 99), (&external, port), TCP_SYN | TCP_ACK, b""));
            let syn = Build::tcp((OTHER_SERVER, 7), (&external, port), TCP_SYN, b"");
            let step = lab.step(OUTSIDE_PORT, &syn);
            if asked {
                step.dropped(DropReason::FilteredUnasked);
            } else {
                let _ = step.passed(INSIDE_PORT);
            }
        });
    }
}

/// DET-4, DET-5, DET-9: a subscriber's packets leave from its computed range, with any number of workers, and
/// from the dynamic share only when that is full.
#[test]
fn det_4_packets_leave_from_the_computed_range() {
    let policy = with(|pool| {
        pool.flags = PoolRecord::DETERMINISTIC;
        (pool.inside_first, pool.inside_last) = ([10, 0, 0, 0], [10, 0, 3, 255]);
        pool.dynamic = 8;
        (pool.block_size, pool.blocks) = (64, 2);
    });
    everywhere_with(&policy, &forwarding(), |lab| {
        let plan = Plan::new(&policy.pools[0], 16, lab.appliance.workers()).unwrap();
        for host in [HOST, OTHER_HOST, "10.0.3.77"] {
            let place = plan.forward(address(host).to_v4().unwrap()).unwrap();
            let external = format!("203.0.113.{}", place.address);
            let runs: Vec<_> = plan.runs(place).collect();
            let (got, why) = fill(lab, host, 5000);
            assert_eq!(why, Some(DropReason::SubscriberPorts));
            assert_eq!(got.len(), usize::from(plan.ports()) + 64);
            for (at, (address, port)) in got.iter().enumerate() {
                assert_eq!(*address, external);
                let computed = runs.iter().any(|(first, last)| (*first..=*last).contains(port));
                assert_eq!(computed, at < usize::from(plan.ports()));
            }
        }
    });
}

/// A pool that is cut in another way keeps its bindings and their ports; limits change without a trace.
#[test]
fn a_pool_that_changes_its_blocks_keeps_its_bindings() {
    everywhere_with(&PolicyTable::default(), &forwarding(), |lab| {
        let before: Vec<_> = (1..300).map(|port| lab.udp_mapping(HOST, port)).collect();
        for (size, last) in [(64, 65535), (4096, 60000), (512, 65535)] {
            lab.appliance.policy(&with(|pool| (pool.block_size, pool.port_last) = (size, last)));
            for (port, mapping) in (1..).zip(&before) {
                assert_eq!(lab.udp_mapping(HOST, port), *mapping);
                lab.back(&Build::udp((OTHER_SERVER, 7), (&mapping.0, mapping.1), b"x"));
            }
            let new = lab.udp_mapping(HOST, 20_000 + size);
            assert!(!before.contains(&new));
        }
        let mut policy = PolicyTable::default();
        policy.ranges[0].last = [203, 0, 113, 200];
        policy.ranges[0].first = [203, 0, 113, 0];
        lab.appliance.policy(&policy);
        assert_eq!(lab.udp_mapping(HOST, 7), before[6]);
        lab.appliance.advance(400_000, 1000);
        assert_eq!(lab.appliance.counters().get(Counter::Blocks), 0);
    });
}

/// CGN-8: ports that are held back leave room for new mappings, however long that is beside the timeouts, and whoever
/// is refused has no block for it.
#[test]
fn cgn_8_what_is_held_back_leaves_room_for_new_mappings() {
    let mut policy = with(|pool| (pool.block_size, pool.quarantine) = (4096, 120));
    policy.settings.udp = 2;
    let mut lab = Lab::sized(1, 64, &policy);
    for host in 10..30 {
        for port in 1..50 {
            let packet = Build::udp((&format!("10.0.0.{host}"), port), (SERVER, 53), b"x");
            let step = lab.step(INSIDE_PORT, &packet);
            assert_eq!(step.drops, [], "host {host}, port {port}");
        }
        lab.appliance.advance(3000, 10);
    }
    lab.appliance.advance(300_000, 10);
    let counters = lab.appliance.counters();
    for gauge in [Counter::Quarantined, Counter::Subscribers, Counter::Blocks] {
        assert_eq!(counters.get(gauge), 0, "{gauge:?}");
    }
}

/// UDP-8: flows that were there before a pool asked for it let their remote addresses in, as long as they live.
#[test]
fn udp_8_address_dependent_filtering_knows_who_was_asked_before_it_began() {
    let policy = with(|pool| pool.filtering = Filtering::ADDRESS_DEPENDENT);
    everywhere_with(&PolicyTable::default(), &forwarding(), |lab| {
        let (external, port) = lab.udp_mapping(HOST, 5000);
        lab.back(&Build::udp((OTHER_SERVER, 7), (&external, port), b"opened from outside"));
        lab.appliance.policy(&policy);
        let asked = Build::udp((SERVER, 9999), (&external, port), b"another port");
        lab.back(&asked);
        lab.step(OUTSIDE_PORT, &Build::udp((OTHER_SERVER, 8), (&external, port), b"x"))
            .dropped(DropReason::FilteredUnasked);
        // One that began before ends, one that began after stays: the address still has a flow.
        for _ in 0..7 {
            lab.appliance.advance(50_000, 100);
            lab.out(&Build::udp((HOST, 5000), (SERVER, 54), b"keeps the mapping"));
        }
        lab.back(&Build::udp((SERVER, 9998), (&external, port), b"x"));
    });
}

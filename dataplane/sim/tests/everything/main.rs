//! Everything at once that can come to a binding, with a record or without: what flows, walks, looks, counters and the log
//! say of each other agrees after every step, and in the end nothing is left.

mod world;

use turnpike_abi::PoolId;
use turnpike_abi::command::{Kind, PinholeRemove, PortsRelease};
use turnpike_abi::counters::{Counter, ProtocolClass};
use turnpike_sim::Dice;
use turnpike_sim::lab::{INSIDE_PORT, OUTSIDE_PORT};
use turnpike_sim::packets::Build;
use turnpike_sim::tables::PolicyTable;
use world::{HOSTS, SERVERS, World, range, variant};

fn run(workers: u8, seed: u64) -> u64 {
    let mut dice = Dice(seed * 77 + 5);
    let deterministic = seed % 3 == 2;
    let first = variant(&mut dice, deterministic);
    let capacity = dice.one(&[40, 90, 300]);
    let mut world = World::new(workers, capacity, first);
    world.deterministic = deterministic;
    for step in 0..120 {
        let place = format!("{workers} workers, seed {seed}, step {step}");
        world.open(&mut dice);
        let rows = world.check(&mut dice, &place);
        world.probe(&mut dice, &rows, &place);
        if dice.below(2) == 0 {
            world.more(&mut dice);
            world.check(&mut dice, &place);
        }
        if dice.below(2) == 0 {
            world.command(&mut dice, &rows);
        }
        if dice.below(9) == 0 {
            let variant = variant(&mut dice, deterministic);
            world.lab.appliance.policy(&variant);
            world.policy = variant;
            world.check(
                &mut dice,
                &format!(
                    "{place}, policy {:?} {:?}",
                    world.policy.ranges.clone(),
                    world.policy.pools.clone()
                ),
            );
        }
        if dice.below(8) == 0 {
            let pause = dice.one(&[1, 300, 4000, 130_000, 400_000]);
            world.lab.appliance.advance(pause, pause / 8 + 1);
            world.check(&mut dice, &place);
        }
        if dice.below(12) == 0 {
            let change = dice.below(2) == 0;
            world.walk_while(&mut dice, &place, change);
        }
    }
    let opened = world.lab.appliance.counters().get(Counter::PlainOpenings);
    world.read_log();
    for (owner, id) in std::mem::take(&mut world.pinholes) {
        let remove = PinholeRemove { id, drain: 0, ..PinholeRemove::default() };
        let _ = world.lab.appliance.command(owner, Kind::PINHOLE_REMOVE, &remove);
    }
    for (owner, id, _) in std::mem::take(&mut world.reservations) {
        let _ = world.lab.appliance.command(owner, Kind::PORTS_RELEASE, &PortsRelease { id });
    }
    for (owner, lease) in std::mem::take(&mut world.leases) {
        let _ = world.lab.appliance.command(owner, Kind::PORT_RELEASE, &lease);
    }
    world.lab.appliance.advance(16_000_000, 20_000);
    let place = format!("{workers} workers, seed {seed}, in the end");
    assert!(world.check(&mut dice, &place).is_empty(), "{place}");
    let counters = world.lab.appliance.counters();
    for counter in [
        Counter::Subscribers,
        Counter::PortsReserved,
        Counter::Blocks,
        Counter::Quarantined,
        Counter::Pinholes,
    ] {
        assert_eq!(counters.get(counter), 0, "{place}: {}", counter.name());
    }
    assert!(world.spans.is_empty(), "{place}: {:?}", world.spans);
    // Nobody has flows on his account that are gone.
    for pool in 0..2 {
        let mut policy = PolicyTable::default();
        policy.pools.push(policy.pools[0]);
        policy.ranges = vec![range(0, 7, 0), range(8, 15, 1)];
        policy.nat[0].pool = PoolId(pool);
        policy.pools.iter_mut().for_each(|pool| pool.subscriber_flows = 5);
        world.lab.appliance.policy(&policy);
        for host in HOSTS {
            let passed = (0..7)
                .filter(|port| {
                    let packet = Build::udp((host, 3000 + port), (SERVERS[0], 53), b"x");
                    world.lab.step(INSIDE_PORT, &packet).sent.iter().any(|(port, _)| *port == OUTSIDE_PORT)
                })
                .count();
            assert_eq!(passed, 5, "{place}: {host} in pool {pool}");
        }
        world.lab.appliance.advance(700_000, 1000);
    }
    // As many as ever fit.
    let mut plain = PolicyTable::default();
    plain.pools[0].quarantine_ports = 0;
    world.lab.appliance.policy(&plain);
    for host in HOSTS {
        for port in 3000..3300 {
            world.lab.step(INSIDE_PORT, &Build::udp((host, port), (SERVERS[0], 53), b"x"));
        }
    }
    for worker in 0..usize::from(workers) {
        let fit = world.lab.appliance.counters_of(worker).bindings(ProtocolClass::Udp).0;
        assert_eq!(fit, capacity as u64, "{place}: room was lost");
    }
    opened
}

#[test]
fn one_worker_agrees_with_itself() {
    let opened: u64 = (0..40).map(|seed| run(1, seed)).sum();
    assert!(opened > 1000, "only {opened} flows were opened the short way");
}

#[test]
fn three_workers_agree_with_each_other() {
    let opened: u64 = (100..140).map(|seed| run(3, seed)).sum();
    assert!(opened > 1000, "only {opened} flows were opened the short way");
}

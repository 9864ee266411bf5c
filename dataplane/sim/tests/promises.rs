//! What a rule was promised it has: at any worker, and after a change that the control plane was killed in the middle of.

use turnpike_abi::command::{Kind, Parity, PinholeAdd, PinholeRemove, PortLease, PortsReserve};
use turnpike_abi::counters::{Counter, DropReason};
use turnpike_abi::event::{Ack, AckResult};
use turnpike_abi::{Address, Prefix, WorkerId, steering};
use turnpike_sim::lab::{HOST, Lab, OTHER_HOST, OUTSIDE_PORT, SERVER, forwarding, text};
use turnpike_sim::packets::{Build, UDP};
use turnpike_sim::tables::{PolicyTable, address};

const WORKERS: u8 = 2;

/// Two workers, and freed ports are held back for two minutes.
fn lab() -> Lab {
    let mut policy = PolicyTable::default();
    policy.pools[0].quarantine = 120;
    Lab::with(WORKERS, &policy, &forwarding())
}

fn owner(host: &str) -> WorkerId {
    steering::owner_of_inside(address(host), WORKERS)
}

fn pinhole(id: u64, host: &str, inside_port: u16, flags: u16) -> PinholeAdd {
    PinholeAdd {
        id,
        inside: address(host),
        remote: Prefix::ANY,
        inside_port,
        remote_port_last: u16::MAX,
        protocol: UDP,
        flags: PinholeAdd::POOL | flags,
        ports: 2,
        ..PinholeAdd::default()
    }
}

fn named(pinhole: PinholeAdd, (external, external_port): (Address, u16)) -> PinholeAdd {
    PinholeAdd { external, external_port, ..pinhole }
}

fn reservation(id: u64, host: Option<&str>) -> PortsReserve {
    let inside = host.map_or(Address::UNSPECIFIED, address);
    PortsReserve { id, inside, protocol: UDP, ports: 2, parity: Parity::ANY, ..PortsReserve::default() }
}

fn lease(owner: WorkerId, reservation: u64, (external, external_port): (Address, u16)) -> PortLease {
    PortLease { external, reservation, external_port, protocol: UDP, owner, ports: 2, ..PortLease::default() }
}

fn end(ack: &Ack) -> (Address, u16) {
    assert_eq!(ack.result, AckResult::OK);
    (ack.external, ack.external_port)
}

fn remove(lab: &mut Lab, id: u64, host: &str) {
    let remove = PinholeRemove { id, ..PinholeRemove::default() };
    let ack = lab.appliance.command(owner(host).index(), Kind::PINHOLE_REMOVE, &remove);
    assert_eq!(ack.result, AckResult::OK);
}

/// Where packets for both ports of an outside end come out.
fn reach(lab: &mut Lab, (external, port): (Address, u16)) -> [(String, u16); 2] {
    let external = external.to_ip().to_string();
    [0, 1].map(|at| text(lab.back(&Build::udp((SERVER, 9), (&external, port + at), b"x")).destination()))
}

/// A worker counts its own ports without gaps: at the place of a port that another worker leased it stands one of its
/// own, which is somebody else's.
#[test]
fn f_231_a_leased_port_is_not_the_own_one_at_its_place() {
    let mut lab = lab();
    let (here, there) = (owner(HOST), owner(OTHER_HOST));
    assert_ne!(here, there, "the hosts of this test are two workers'");
    let own = pinhole(1, OTHER_HOST, 4000, 0);
    let (external, port) = end(&lab.appliance.command(there.index(), Kind::PINHOLE_ADD, &own));
    let local = steering::local_of_port(port, WORKERS);
    let twin = (external, steering::port_of_local(local, here, WORKERS).unwrap());
    assert_eq!(steering::local_of_port(twin.1, WORKERS), local);
    // The twin lies in the other worker's block and is leased to the one that has the first.
    let leased = lab.appliance.command(here.index(), Kind::PORT_LEASE, &lease(there, 0, twin));
    assert_eq!(leased.result, AckResult::OK);
    let wanted = named(pinhole(2, OTHER_HOST, 5000, PinholeAdd::LEASED), twin);
    assert_eq!(end(&lab.appliance.command(there.index(), Kind::PINHOLE_ADD, &wanted)), twin);
    let at = |port| (OTHER_HOST.to_owned(), port);
    assert_eq!(reach(&mut lab, (external, port)), [at(4000), at(4001)]);
    assert_eq!(reach(&mut lab, twin), [at(5000), at(5001)]);
    // Each goes alone.
    remove(&mut lab, 1, OTHER_HOST);
    assert_eq!(reach(&mut lab, twin), [at(5000), at(5001)]);
    let gone = external.to_ip().to_string();
    lab.step(OUTSIDE_PORT, &Build::udp((SERVER, 9), (&gone, port), b"x")).dropped(DropReason::NoMapping);
}

/// A-PRR-03: killed while a reservation is enabled, the control plane knows the reservation alone, and gets it back.
#[test]
fn a_prr_03_a_reservation_is_held_again_after_half_an_enabling() {
    let mut lab = lab();
    for (id, host, reserved_for) in [(1, HOST, Some(HOST)), (2, HOST, None), (3, OTHER_HOST, None)] {
        let wanted = reservation(id, reserved_for);
        let at = owner(HOST);
        let held = end(&lab.appliance.command(at.index(), Kind::PORTS_RESERVE, &wanted));
        let flags = if owner(host) == at { PinholeAdd::RESERVED } else { PinholeAdd::LEASED };
        if flags == PinholeAdd::LEASED {
            let leased = lab.appliance.command(at.index(), Kind::PORT_LEASE, &lease(owner(host), id, held));
            assert_eq!(leased.result, AckResult::OK);
        }
        let reservation = if flags == PinholeAdd::RESERVED { id } else { 0 };
        let enabled =
            PinholeAdd { reservation, ..named(pinhole(id, host, 4000 + 10 * id as u16, flags), held) };
        assert_eq!(end(&lab.appliance.command(owner(host).index(), Kind::PINHOLE_ADD, &enabled)), held);
        reach(&mut lab, held);
        // Here it is killed. The next one finds a pinhole that the journal does not have.
        remove(&mut lab, id, host);
        let again = PortsReserve { external: held.0, external_port: held.1, again: 1, ..wanted };
        // Somebody else's wish is not heard while the ports are held back, or leased.
        let wish = PortsReserve { id: 99, again: 0, ..again };
        let refused = lab.appliance.command(at.index(), Kind::PORTS_RESERVE, &wish);
        assert_eq!(refused.result, AckResult::PORT_TAKEN);
        assert_eq!(end(&lab.appliance.command(at.index(), Kind::PORTS_RESERVE, &again)), held);
        assert_eq!(lab.appliance.counters().get(Counter::Quarantined), 0);
        let external = held.0.to_ip().to_string();
        lab.step(OUTSIDE_PORT, &Build::udp((SERVER, 9), (&external, held.1), b"x"))
            .dropped(DropReason::NoMapping);
        // And it can be enabled once more.
        if flags == PinholeAdd::LEASED {
            let leased = lab.appliance.command(at.index(), Kind::PORT_LEASE, &lease(owner(host), id, held));
            assert_eq!(leased.result, AckResult::OK);
        }
        assert_eq!(end(&lab.appliance.command(owner(host).index(), Kind::PINHOLE_ADD, &enabled)), held);
        reach(&mut lab, held);
    }
}

/// Killed while a rule is deleted, the control plane still knows it: it is opened again where it was, and what else was
/// freed in the same second stays held back.
#[test]
fn cgn_8_a_rule_that_comes_back_finds_its_ports_held_back_for_it() {
    let mut lab = lab();
    let at = owner(HOST).index();
    let ends: Vec<_> = (0..20u16)
        .map(|n| {
            end(&lab.appliance.command(
                at,
                Kind::PINHOLE_ADD,
                &pinhole(1 + u64::from(n), HOST, 4000 + 2 * n, 0),
            ))
        })
        .collect();
    for id in 1..=20 {
        remove(&mut lab, id, HOST);
    }
    lab.appliance.advance(20_000, 1000);
    assert_eq!(lab.appliance.counters().get(Counter::Quarantined), 40);
    for n in [3, 0, 19, 10, 11, 18] {
        let wanted = named(pinhole(1 + u64::from(n), HOST, 4000 + 2 * n, 0), ends[usize::from(n)]);
        assert_eq!(lab.appliance.command(at, Kind::PINHOLE_ADD, &wanted).result, AckResult::PORT_TAKEN);
        let again = PinholeAdd { flags: wanted.flags | PinholeAdd::AGAIN, ..wanted };
        assert_eq!(end(&lab.appliance.command(at, Kind::PINHOLE_ADD, &again)), ends[usize::from(n)]);
        reach(&mut lab, ends[usize::from(n)]);
    }
    lab.appliance.advance(1000, 1000);
    assert_eq!(lab.appliance.counters().get(Counter::Quarantined), 28);
    // The others' time is over when it would have been.
    lab.appliance.advance(95_000, 1000);
    assert_eq!(lab.appliance.counters().get(Counter::Quarantined), 28);
    lab.appliance.advance(10_000, 1000);
    assert_eq!(lab.appliance.counters().get(Counter::Quarantined), 0);
}

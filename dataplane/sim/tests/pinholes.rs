//! Pinholes as MIDCOM needs them: ranges, reservations, directions, locks, single connections, draining, protocols
//! without ports. Tests carry the ids of their rows.

use turnpike_abi::command::{Kind, Parity, PinholeAdd, PinholeRemove, PortLease, PortsRelease, PortsReserve};
use turnpike_abi::counters::{Counter, DropReason, ProtocolClass};
use turnpike_abi::event::{Ack, AckResult, PinholeClosed, PinholeLocked};
use turnpike_abi::table::Action;
use turnpike_abi::{Prefix, WorkerId, steering};
use turnpike_sim::lab::{
    HOST, HOST6, INSIDE_PORT, Lab, OTHER_HOST, OTHER_SERVER, OUTSIDE_PORT, SERVER, SERVER6, everywhere,
    everywhere_with, forwarding, text,
};
use turnpike_sim::packets::{Build, TCP, UDP};
use turnpike_sim::tables::{PolicyTable, address, prefix};
use turnpike_wire::packet::{TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN};

fn pinhole(id: u64, host: &str, protocol: u8, port: u16, flags: u16) -> PinholeAdd {
    PinholeAdd {
        id,
        inside: address(host),
        remote: Prefix::ANY,
        inside_port: port,
        remote_port_last: u16::MAX,
        protocol,
        flags: PinholeAdd::POOL | flags,
        ..PinholeAdd::default()
    }
}

fn owner(lab: &Lab, host: &str) -> usize {
    steering::owner_of_inside(address(host), lab.appliance.workers()).index()
}

fn add(lab: &mut Lab, wanted: &PinholeAdd, host: &str) -> Ack {
    lab.appliance.command(owner(lab, host), Kind::PINHOLE_ADD, wanted)
}

fn open(lab: &mut Lab, wanted: &PinholeAdd, host: &str) -> (String, u16) {
    let ack = add(lab, wanted, host);
    assert_eq!(ack.result, AckResult::OK);
    (ack.external.to_ip().to_string(), ack.external_port)
}

fn close(lab: &mut Lab, id: u64, host: &str, drain: u8) {
    let remove = PinholeRemove { id, drain, ..PinholeRemove::default() };
    assert_eq!(lab.appliance.command(owner(lab, host), Kind::PINHOLE_REMOVE, &remove).result, AckResult::OK);
}

fn reserve(lab: &mut Lab, wanted: &PortsReserve) -> Ack {
    lab.appliance.command(owner(lab, HOST), Kind::PORTS_RESERVE, wanted)
}

fn reservation(id: u64, ports: u8) -> PortsReserve {
    PortsReserve {
        id,
        inside: address(HOST),
        protocol: UDP,
        ports,
        parity: Parity::EVEN,
        ..PortsReserve::default()
    }
}

/// Nothing passes from inside by the zones' default: only pinholes open anything.
fn closed() -> PolicyTable {
    let mut policy = PolicyTable::default();
    policy.pairs[0].action = Action::DROP;
    policy
}

/// A-PRR-03, A-PER-01, F-231: reserved ports are in a row, even first, nobody else gets them, nothing passes; the
/// pinhole made of them has the same external end, all of its ports at once.
#[test]
fn a_prr_03_reserved_ports_are_held_back_and_become_the_pinhole() {
    everywhere(|lab| {
        let ack = reserve(lab, &reservation(1, 2));
        assert_eq!(ack.result, AckResult::OK);
        let (external, port) = (ack.external.to_ip().to_string(), ack.external_port);
        assert_eq!(port % 2, 0);
        assert_eq!(reserve(lab, &reservation(1, 2)), ack);
        assert_eq!(reserve(lab, &reservation(1, 4)).result, AckResult::CONFLICT);
        for at in 0..2 {
            let stray = Build::udp((SERVER, 9), (&external, port + at), b"x");
            lab.step(OUTSIDE_PORT, &stray).dropped(DropReason::NoMapping);
        }
        // The host's own mappings do not get them, a pinhole by name neither.
        for at in 0..600 {
            let (_, got) = lab.udp_mapping(HOST, 20_000 + at);
            assert!(got != port && got != port + 1);
        }
        let named =
            PinholeAdd { external: ack.external, external_port: port, ..pinhole(5, HOST, UDP, 99, 0) };
        assert_eq!(add(lab, &named, HOST).result, AckResult::PORT_TAKEN);
        // Not with another size; then whole.
        let wanted =
            PinholeAdd { reservation: 1, ports: 3, ..pinhole(2, HOST, UDP, 4000, PinholeAdd::RESERVED) };
        assert_eq!(add(lab, &wanted, HOST).result, AckResult::NOT_RESERVED);
        // Early media: the host already sends from its RTP port.
        let early = lab.udp_mapping(HOST, 4000);
        assert_ne!(early, (external.clone(), port));
        let wanted = PinholeAdd { ports: 2, ..wanted };
        assert_eq!(open(lab, &wanted, HOST), (external.clone(), port));
        for at in 0..2 {
            let seen = lab.back(&Build::udp((SERVER, 9), (&external, port + at), b"rtp"));
            assert_eq!(text(seen.destination()), (HOST.to_owned(), 4000 + at));
            assert_eq!(lab.udp_mapping(HOST, 4000 + at), (external.clone(), port + at));
        }
        assert_eq!(open(lab, &wanted, HOST), (external, port));
        // It is used up.
        let again = PinholeAdd { id: 3, inside_port: 6000, ..wanted };
        assert_eq!(add(lab, &again, HOST).result, AckResult::NOT_RESERVED);
        close(lab, 2, HOST, 0);
        lab.step(OUTSIDE_PORT, &Build::udp((SERVER, 9), (&text(lab_end(&ack)).0, port), b"x"))
            .dropped(DropReason::NoMapping);
    });
}

fn lab_end(ack: &Ack) -> (std::net::IpAddr, u16) {
    (ack.external.to_ip(), ack.external_port)
}

/// F-232: without ports a reservation fails; what is released is there again.
#[test]
fn f_232_a_reservation_fails_when_no_row_is_left() {
    let mut policy = PolicyTable::default();
    (policy.pools[0].port_first, policy.pools[0].port_last) = (1024, 1024 + 5 * 512 - 1);
    everywhere_with(&policy, &forwarding(), |lab| {
        let mut held = 0;
        let refused = loop {
            let ack = reserve(lab, &reservation(1 + held, 64));
            if ack.result != AckResult::OK {
                break ack.result;
            }
            held += 1;
        };
        assert_eq!(refused, AckResult::NO_PORT);
        assert!(held >= 4);
        lab.appliance.advance(1, 1);
        assert_eq!(lab.appliance.counters().get(Counter::PortsReserved), held * 64);
        let release = PortsRelease { id: 1 };
        let owner = owner(lab, HOST);
        assert_eq!(lab.appliance.command(owner, Kind::PORTS_RELEASE, &release).result, AckResult::OK);
        assert_eq!(lab.appliance.command(owner, Kind::PORTS_RELEASE, &release).result, AckResult::NOT_FOUND);
        assert_eq!(reserve(lab, &reservation(999, 64)).result, AckResult::OK);
    });
}

/// Ports reserved at one worker for a host of another: leased as a whole, then enabled there.
#[test]
fn a_reservation_of_another_worker_is_leased_whole() {
    let mut lab = Lab::new(2);
    let wanted = PortsReserve { inside: turnpike_abi::Address::UNSPECIFIED, ..reservation(1, 4) };
    let ack = lab.appliance.command(0, Kind::PORTS_RESERVE, &wanted);
    assert_eq!((ack.result, owner(&lab, HOST)), (AckResult::OK, 1));
    let lease = PortLease {
        external: ack.external,
        reservation: 1,
        external_port: ack.external_port,
        protocol: UDP,
        owner: WorkerId(1),
        ports: 4,
        ..PortLease::default()
    };
    let half = PortLease { ports: 2, ..lease };
    assert_eq!(lab.appliance.command(0, Kind::PORT_LEASE, &half).result, AckResult::NOT_RESERVED);
    assert_eq!(lab.appliance.command(0, Kind::PORT_LEASE, &lease).result, AckResult::OK);
    assert_eq!(lab.appliance.command(0, Kind::PORT_LEASE, &lease).result, AckResult::OK);
    let pinhole = PinholeAdd {
        external: ack.external,
        external_port: ack.external_port,
        ports: 4,
        ..pinhole(2, HOST, UDP, 4000, PinholeAdd::LEASED)
    };
    let external = open(&mut lab, &pinhole, HOST);
    for at in 0..4 {
        let seen = lab.back(&Build::udp((SERVER, 9), (&external.0, external.1 + at), b"rtp"));
        assert_eq!(text(seen.destination()), (HOST.to_owned(), 4000 + at));
    }
}

/// A range opens whole or not at all.
#[test]
fn a_range_that_does_not_fit_opens_nothing() {
    everywhere(|lab| {
        let whole = PinholeAdd { ports: 64, ..pinhole(1, HOST, UDP, 30_000, PinholeAdd::EVEN) };
        let (external, port) = open(lab, &whole, HOST);
        assert_eq!(port % 2, 0);
        for at in [0, 31, 63] {
            let seen = lab.back(&Build::udp((SERVER, 9), (&external, port + at), b"x"));
            assert_eq!(text(seen.destination()), (HOST.to_owned(), 30_000 + at));
        }
        let bindings = lab.appliance.counters().bindings(ProtocolClass::Udp).0;
        // The last of its ports is somebody's.
        let end = address(&external);
        let overlapping =
            PinholeAdd { external: end, external_port: port - 3, ports: 4, ..pinhole(2, HOST, UDP, 100, 0) };
        let result = add(lab, &overlapping, HOST).result;
        assert!(result == AckResult::PORT_TAKEN || result == AckResult::NOT_OWNER, "{result:?}");
        assert_eq!(lab.appliance.counters().bindings(ProtocolClass::Udp).0, bindings);
        close(lab, 1, HOST, 0);
        assert_eq!(lab.appliance.counters().bindings(ProtocolClass::Udp).0, 0);
        assert_eq!(lab.appliance.counters().get(Counter::Pinholes), 0);
    });
}

/// A-PER-01: a range for which the subscriber has too few ports left takes none, and a reservation stays whole.
#[test]
fn a_per_01_a_range_beyond_the_limit_of_ports_leaves_everything_as_it_was() {
    let mut policy = PolicyTable::default();
    (policy.pools[0].subscriber_ports, policy.pools[0].quarantine) = (4, 60);
    policy.settings.udp = 10;
    everywhere_with(&policy, &forwarding(), |lab| {
        let held = |lab: &mut Lab| {
            lab.appliance.advance(1, 1);
            lab.appliance.counters().get(Counter::PortsReserved)
        };
        let ack = reserve(lab, &reservation(5, 3));
        assert_eq!((ack.result, held(lab)), (AckResult::OK, 3));
        lab.udp_mapping(HOST, 1);
        lab.udp_mapping(HOST, 2);
        let range = PinholeAdd { ports: 3, ..pinhole(1, HOST, UDP, 30_000, 0) };
        assert_eq!(add(lab, &range, HOST).result, AckResult::LIMIT);
        let reserved =
            PinholeAdd { reservation: 5, ports: 3, ..pinhole(2, HOST, UDP, 40_000, PinholeAdd::RESERVED) };
        assert_eq!(add(lab, &reserved, HOST).result, AckResult::LIMIT);
        assert_eq!(held(lab), 3, "those of the reservation");
        let counters = lab.appliance.counters();
        assert_eq!((counters.bindings(ProtocolClass::Udp).0, counters.get(Counter::Quarantined)), (2, 0));
        // With room the reservation becomes the pinhole.
        lab.appliance.advance(11_000, 10);
        assert_eq!(open(lab, &reserved, HOST), (ack.external.to_ip().to_string(), ack.external_port));
        assert_eq!(add(lab, &range, HOST).result, AckResult::LIMIT);
        close(lab, 2, HOST, 0);
        lab.appliance.advance(200_000, 100);
        let counters = lab.appliance.counters();
        for gauge in [Counter::PortsReserved, Counter::Blocks, Counter::Subscribers, Counter::Quarantined] {
            assert_eq!(counters.get(gauge), 0, "{}", gauge.name());
        }
    });
}

/// A-ADR-08, F-211-a: an inbound UDP pinhole lets nothing out by itself; an outbound one beside it shares its port.
#[test]
fn a_adr_08_one_way_pinholes_pass_one_way() {
    everywhere_with(&closed(), &forwarding(), |lab| {
        let inbound = pinhole(1, HOST, UDP, 5000, PinholeAdd::INBOUND);
        let (external, port) = open(lab, &inbound, HOST);
        let query = Build::udp((SERVER, 9), (&external, port), b"query");
        let answer = Build::udp((HOST, 5000), (SERVER, 9), b"answer");
        lab.back(&query);
        lab.step(INSIDE_PORT, &answer).dropped(DropReason::PinholeOneWay);
        let outbound = pinhole(2, HOST, UDP, 5000, PinholeAdd::OUTBOUND);
        assert_eq!(open(lab, &outbound, HOST), (external.clone(), port));
        for _ in 0..3 {
            assert_eq!(text(lab.out(&answer).source()), (external.clone(), port));
            lab.back(&query);
        }
        // Without the way out the answers end, and with the way in the questions.
        close(lab, 2, HOST, 0);
        lab.step(INSIDE_PORT, &answer).dropped(DropReason::PinholeOneWay);
        lab.back(&query);
        close(lab, 1, HOST, 0);
        lab.step(OUTSIDE_PORT, &query).dropped(DropReason::NoMapping);
        // Only outwards.
        let (external, port) = open(lab, &outbound, HOST);
        lab.out(&answer);
        lab.step(OUTSIDE_PORT, &Build::udp((SERVER, 9), (&external, port), b"x"))
            .dropped(DropReason::PinholeOneWay);
    });
    // Where the zones let the host out anyway, answers pass.
    everywhere(|lab| {
        let (external, port) = open(lab, &pinhole(1, HOST, UDP, 5000, PinholeAdd::INBOUND), HOST);
        lab.back(&Build::udp((SERVER, 9), (&external, port), b"query"));
        let seen = lab.out(&Build::udp((HOST, 5000), (SERVER, 9), b"answer"));
        assert_eq!(text(seen.source()), (external, port));
    });
}

/// F-21-a: anybody reaches the server, answers go out, and the server opens nothing by this rule alone.
#[test]
fn f_21_a_a_tcp_server_is_reached_and_opens_nothing() {
    everywhere_with(&closed(), &forwarding(), |lab| {
        let (external, port) = open(lab, &pinhole(1, HOST, TCP, 80, PinholeAdd::INBOUND), HOST);
        for at in 0..100u16 {
            let from = (&*format!("198.51.100.{}", at % 200 + 1), 1000 + at);
            lab.back(&Build::tcp(from, (&external, port), TCP_SYN, b""));
            let seen = lab.out(&Build::tcp((HOST, 80), from, TCP_SYN | TCP_ACK, b""));
            assert_eq!(text(seen.source()), (external.clone(), port));
        }
        lab.step(INSIDE_PORT, &Build::tcp((HOST, 80), (OTHER_SERVER, 7), TCP_SYN, b""))
            .dropped(DropReason::PinholeOneWay);
    });
}

fn events<T: zerocopy::FromBytes + zerocopy::KnownLayout + zerocopy::Immutable>(
    lab: &mut Lab,
    kind: Kind,
) -> Vec<T> {
    lab.appliance.advance(2, 1);
    let all = std::mem::take(&mut lab.appliance.events);
    all.iter().filter(|(_, slot)| slot.header.kind == kind).map(|(_, slot)| slot.body()).collect()
}

/// F-222-lock: three race, exactly the first whose handshake completes has the hole; SYNs alone lock nothing.
#[test]
fn f_222_lock_the_first_handshake_has_the_hole() {
    everywhere(|lab| {
        let wanted = pinhole(1, HOST, TCP, 80, PinholeAdd::INBOUND | PinholeAdd::LOCK_ADDRESS);
        let (external, port) = open(lab, &wanted, HOST);
        let to = (&*external, port);
        let racers = ["198.51.100.31", "198.51.100.32", "198.51.100.33"];
        for racer in racers {
            lab.back(&Build::tcp((racer, 7), to, TCP_SYN, b""));
            lab.out(&Build::tcp((HOST, 80), (racer, 7), TCP_SYN | TCP_ACK, b""));
        }
        // A flood of SYNs: as many as may try, and no lock.
        for at in 0..40 {
            let step =
                lab.step(OUTSIDE_PORT, &Build::tcp((&format!("198.51.101.{at}"), 7), to, TCP_SYN, b""));
            if at >= 5 {
                step.dropped(DropReason::PinholeLocked);
            }
        }
        assert_eq!(lab.appliance.counters().get(Counter::PinholesLocked), 0);
        lab.back(&Build::tcp((racers[1], 7), to, TCP_ACK, b""));
        assert_eq!(lab.appliance.counters().get(Counter::PinholesLocked), 1);
        let locked: Vec<PinholeLocked> = events(lab, Kind::PINHOLE_LOCKED);
        assert_eq!(locked.len(), 1);
        assert_eq!((locked[0].id, locked[0].remote, locked[0].remote_port), (1, address(racers[1]), 0));
        for loser in [racers[0], racers[2]] {
            let step = lab.step(OUTSIDE_PORT, &Build::tcp((loser, 7), to, TCP_ACK, b""));
            assert!(!step.drops.is_empty());
            lab.step(OUTSIDE_PORT, &Build::tcp((loser, 8), to, TCP_SYN, b""))
                .dropped(DropReason::PinholeLocked);
        }
        lab.back(&Build::tcp((racers[1], 7), to, TCP_ACK, b"data"));
        lab.back(&Build::tcp((racers[1], 8), to, TCP_SYN, b""));
    });
}

/// F-222-lock, UDP: an answer of the inside end locks; the port too if the rule says so.
#[test]
fn f_222_lock_an_answer_has_the_hole_for_udp() {
    everywhere(|lab| {
        let wanted = pinhole(1, HOST, UDP, 5000, PinholeAdd::LOCK_ENDPOINT);
        let (external, port) = open(lab, &wanted, HOST);
        for at in 1..4 {
            lab.back(&Build::udp((SERVER, at), (&external, port), b"x"));
        }
        lab.out(&Build::udp((HOST, 5000), (SERVER, 2), b"answer"));
        lab.back(&Build::udp((SERVER, 2), (&external, port), b"x"));
        for at in [1, 3, 4] {
            lab.step(OUTSIDE_PORT, &Build::udp((SERVER, at), (&external, port), b"x"))
                .dropped(DropReason::PinholeLocked);
        }
        // The same again, as the control plane replays it, changes nothing.
        assert_eq!(open(lab, &wanted, HOST), (external, port));
    });
}

/// F-22-a: a single-connection hole takes one, and closes with it; nobody else gets in before or after.
#[test]
fn f_22_a_a_single_connection_hole_closes_with_its_connection() {
    everywhere(|lab| {
        let flags = PinholeAdd::INBOUND | PinholeAdd::CLOSE_ON_END;
        let wanted =
            PinholeAdd { max_flows: 1, remote: prefix(SERVER, 32), ..pinhole(1, HOST, TCP, 80, flags) };
        let (external, port) = open(lab, &wanted, HOST);
        let to = (&*external, port);
        lab.step(OUTSIDE_PORT, &Build::tcp((OTHER_SERVER, 7), to, TCP_SYN, b""))
            .dropped(DropReason::FilteredRemote);
        lab.back(&Build::tcp((SERVER, 7), to, TCP_SYN, b""));
        lab.out(&Build::tcp((HOST, 80), (SERVER, 7), TCP_SYN | TCP_ACK, b""));
        lab.step(OUTSIDE_PORT, &Build::tcp((SERVER, 8), to, TCP_SYN, b"")).dropped(DropReason::PinholeFlows);
        lab.back(&Build::tcp((SERVER, 7), to, TCP_ACK, b"data"));
        lab.back(&Build::tcp((SERVER, 7), to, TCP_FIN | TCP_ACK, b""));
        lab.out(&Build::tcp((HOST, 80), (SERVER, 7), TCP_FIN | TCP_ACK, b""));
        let closed: Vec<PinholeClosed> = events(lab, Kind::PINHOLE_CLOSED);
        assert_eq!(closed.iter().map(|event| event.id).collect::<Vec<_>>(), [1]);
        assert_eq!(lab.appliance.counters().get(Counter::PinholesClosed), 1);
        // The connection's last segments pass, a new one does not.
        lab.back(&Build::tcp((SERVER, 7), to, TCP_ACK, b""));
        lab.step(OUTSIDE_PORT, &Build::tcp((SERVER, 9), to, TCP_SYN, b""))
            .dropped(DropReason::FilteredRemote);
        lab.appliance.advance(300_000, 100);
        assert_eq!(lab.appliance.counters().bindings(ProtocolClass::Tcp).0, 0);
    });
}

/// F-22-a: after deletion new flows are refused; established ones are cut, or live on if they are to be drained.
#[test]
fn f_22_a_a_removed_pinhole_cuts_or_drains_its_flows() {
    for drain in [0, 1] {
        everywhere(|lab| {
            let wanted = pinhole(1, HOST, TCP, 80, PinholeAdd::INBOUND);
            let (external, port) = open(lab, &wanted, HOST);
            let to = (&*external, port);
            lab.back(&Build::tcp((SERVER, 7), to, TCP_SYN, b""));
            lab.out(&Build::tcp((HOST, 80), (SERVER, 7), TCP_SYN | TCP_ACK, b""));
            lab.back(&Build::tcp((SERVER, 7), to, TCP_ACK, b"data"));
            close(lab, 1, HOST, drain);
            let syn = lab.step(OUTSIDE_PORT, &Build::tcp((OTHER_SERVER, 7), to, TCP_SYN, b""));
            let data = lab.step(OUTSIDE_PORT, &Build::tcp((SERVER, 7), to, TCP_ACK, b"data"));
            if drain == 0 {
                syn.dropped(DropReason::NoMapping);
                data.dropped(DropReason::NoMapping);
            } else {
                syn.dropped(DropReason::FilteredRemote);
                let _ = data.passed(INSIDE_PORT);
                lab.back(&Build::tcp((SERVER, 7), to, TCP_RST | TCP_ACK, b""));
                lab.appliance.advance(300_000, 100);
            }
            assert_eq!(lab.appliance.counters().bindings(ProtocolClass::Tcp).0, 0);
        });
    }
}

/// F-244: one host behind the box has protocol 41 of an external address, both ways; a second claimant is refused.
#[test]
fn f_244_six_in_four_passes_through_the_translator() {
    everywhere(|lab| {
        let workers = lab.appliance.workers();
        let external = "203.0.113.5";
        let out = Build::other(HOST, SERVER, 41, &[6; 40]);
        let back = Build::other(SERVER, external, 41, &[6; 40]);
        lab.step(INSIDE_PORT, &out).dropped(DropReason::ProtoUnsupported);
        lab.step(OUTSIDE_PORT, &back).dropped(DropReason::ProtoUnsupported);
        let first = steering::owner_of_portless(address(external), workers);
        let host = steering::owner_of_inside(address(HOST), workers);
        let leased = if first == host { 0 } else { PinholeAdd::LEASED };
        let lease =
            PortLease { external: address(external), protocol: 41, owner: host, ..PortLease::default() };
        if first != host {
            let ack = lab.appliance.command(first.index(), Kind::PORT_LEASE, &lease);
            assert_eq!(ack.result, AckResult::OK);
        }
        let wanted = PinholeAdd { external: address(external), ..pinhole(1, HOST, 41, 0, leased) };
        assert_eq!(open(lab, &wanted, HOST), (external.to_owned(), 0));
        let seen = lab.out(&out);
        assert_eq!(text(seen.source()).0, external);
        let seen = lab.back(&back);
        assert_eq!(text(seen.destination()).0, HOST);
        // Anybody may send, as a 6to4 router needs it.
        lab.back(&Build::other(OTHER_SERVER, external, 41, &[6; 40]));
        // The second claimant.
        let other = steering::owner_of_inside(address(OTHER_HOST), workers);
        let result = if first == other {
            let again = PinholeAdd { external: address(external), ..pinhole(2, OTHER_HOST, 41, 0, 0) };
            add(lab, &again, OTHER_HOST).result
        } else {
            let again = PortLease { owner: other, ..lease };
            lab.appliance.command(first.index(), Kind::PORT_LEASE, &again).result
        };
        assert_eq!(result, AckResult::PORT_TAKEN);
        close(lab, 1, HOST, 0);
        lab.step(INSIDE_PORT, &out).dropped(DropReason::ProtoUnsupported);
    });
}

/// F-245: ESP passes the firewall by pinhole, per pair of addresses, until it is removed.
#[test]
fn f_245_esp_passes_by_pinhole() {
    everywhere(|lab| {
        let esp = Build::other(SERVER6, HOST6, 50, &[1; 40]);
        lab.step(OUTSIDE_PORT, &esp).dropped(DropReason::FirewallDefaultDeny);
        let wanted = PinholeAdd { remote: prefix(SERVER6, 128), flags: 0, ..pinhole(1, HOST6, 50, 0, 0) };
        assert_eq!(add(lab, &wanted, HOST6).result, AckResult::OK);
        lab.back(&esp);
        lab.out(&Build::other(HOST6, SERVER6, 50, &[1; 40]));
        let stranger = Build::other("2001:db8:9::8", HOST6, 50, &[1; 40]);
        lab.step(OUTSIDE_PORT, &stranger).dropped(DropReason::FirewallDefaultDeny);
        close(lab, 1, HOST6, 0);
        lab.step(OUTSIDE_PORT, &esp).dropped(DropReason::FirewallDefaultDeny);
    });
}

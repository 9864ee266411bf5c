//! Commands of the control plane: pinholes, leases, walks, neighbours, policy switches, and what no correct one sends.

use turnpike_abi::command::{
    Kind, Look, NeighbourClear, NeighbourSet, NeighboursReset, PinholeAdd, PinholeRemove, PortLease,
    PortsRelease, PortsReserve, Slot, Walk, WalkTable,
};
use turnpike_abi::counters::{Counter, DropReason, FlowEnd, ProtocolClass, TcpState};
use turnpike_abi::event::{Ack, AckResult, BindingRow, Seen, WalkEnd};
use turnpike_abi::flow::{CREATED_SHIFT, FlowRow};
use turnpike_abi::layout::MAGIC;
use turnpike_abi::table::{NatAction, NatRuleRecord, PoolRangeRecord, PoolRecord};
use turnpike_abi::{Address, InterfaceId, PoolId, Prefix, WorkerId, steering};
use turnpike_engine::Violation;
use turnpike_sim::Appliance;
use turnpike_sim::lab::{
    GATEWAY, HOST, HOST6, INSIDE_PORT, Lab, OTHER_HOST, OTHER_SERVER, OUTSIDE_PORT, ROUTER_MAC, SERVER,
    SERVER6, everywhere, text,
};
use turnpike_sim::packets::{Build, TCP, UDP};
use turnpike_sim::tables::{INSIDE, OUTSIDE, PolicyTable, address, prefix};
use turnpike_wire::packet::{TCP_ACK, TCP_SYN};
use zerocopy::IntoBytes;

fn owner(lab: &Lab, host: &str) -> usize {
    steering::owner_of_inside(address(host), lab.appliance.workers()).index()
}

/// A translated pinhole for TCP port 80 of a host, anybody may use it, the worker chooses the port.
fn pinhole(id: u64, host: &str) -> PinholeAdd {
    PinholeAdd {
        id,
        inside: address(host),
        remote: Prefix::ANY,
        inside_port: 80,
        remote_port_last: u16::MAX,
        protocol: TCP,
        flags: PinholeAdd::POOL,
        ..PinholeAdd::default()
    }
}

fn add(lab: &mut Lab, wanted: &PinholeAdd, host: &str) -> Ack {
    let owner = owner(lab, host);
    lab.appliance.command(owner, Kind::PINHOLE_ADD, wanted)
}

fn remove(lab: &mut Lab, id: u64, host: &str) -> AckResult {
    let owner = owner(lab, host);
    lab.appliance
        .command(owner, Kind::PINHOLE_REMOVE, &PinholeRemove { id, ..PinholeRemove::default() })
        .result
}

fn external(ack: &Ack) -> (String, u16) {
    assert_eq!(ack.result, AckResult::OK);
    (ack.external.to_ip().to_string(), ack.external_port)
}

#[test]
fn a_pinhole_lets_flows_in_and_its_removal_cuts_them() {
    everywhere(|lab| {
        let ack = add(lab, &pinhole(7, HOST), HOST);
        let (pool, port) = external(&ack);
        assert_eq!(lab.appliance.counters().get(Counter::Pinholes), 1);
        let seen = lab.back(&Build::tcp((SERVER, 1000), (&pool, port), TCP_SYN, b""));
        assert_eq!(text(seen.destination()), (HOST.to_owned(), 80));
        let seen = lab.out(&Build::tcp((HOST, 80), (SERVER, 1000), TCP_SYN | TCP_ACK, b""));
        assert_eq!(text(seen.source()), (pool.clone(), port));
        lab.back(&Build::tcp((SERVER, 1000), (&pool, port), TCP_ACK, b"GET"));
        assert_eq!(remove(lab, 7, HOST), AckResult::OK);
        let cut = Build::tcp((SERVER, 1000), (&pool, port), TCP_ACK, b"more");
        lab.step(OUTSIDE_PORT, &cut).dropped(DropReason::NoMapping);
        let cut = Build::tcp((HOST, 80), (SERVER, 1000), TCP_ACK, b"more");
        lab.step(INSIDE_PORT, &cut).dropped(DropReason::SynRequired);
        let counters = lab.appliance.counters();
        assert_eq!(counters.flows_ended(ProtocolClass::Tcp, FlowEnd::Admin), 1);
        assert_eq!((counters.get(Counter::Pinholes), counters.bindings(ProtocolClass::Tcp).0), (0, 0));
        assert_eq!(remove(lab, 7, HOST), AckResult::NOT_FOUND);
    });
}

#[test]
fn a_pinhole_stays_without_traffic_and_its_flows_do_not() {
    everywhere(|lab| {
        let ack = add(lab, &PinholeAdd { protocol: UDP, ..pinhole(7, HOST) }, HOST);
        let (pool, port) = external(&ack);
        lab.back(&Build::udp((SERVER, 1000), (&pool, port), b"x"));
        lab.appliance.advance(1_000_000, 1000);
        assert_eq!(lab.appliance.counters().flows(ProtocolClass::Udp).0, 0);
        lab.back(&Build::udp((SERVER, 1000), (&pool, port), b"x"));
        // Flows from inside use it too.
        assert_eq!(text(lab.out(&Build::udp((HOST, 80), (OTHER_SERVER, 5), b"x")).source()), (pool, port));
    });
}

#[test]
fn a_pinhole_admits_only_its_remote_ends() {
    everywhere(|lab| {
        let narrow = PinholeAdd {
            remote: prefix("198.51.100.0", 29),
            remote_port_first: 1000,
            remote_port_last: 1999,
            ..pinhole(7, HOST)
        };
        let (pool, port) = external(&add(lab, &narrow, HOST));
        lab.back(&Build::tcp((SERVER, 1000), (&pool, port), TCP_SYN, b""));
        for remote in [(SERVER, 999), (SERVER, 2000), (OTHER_SERVER, 1500)] {
            let packet = Build::tcp(remote, (&pool, port), TCP_SYN, b"");
            lab.step(OUTSIDE_PORT, &packet).dropped(DropReason::FilteredRemote);
        }
        assert_eq!(lab.appliance.counters().get(Counter::EifFiltered), 3);
    });
}

#[test]
fn adding_is_idempotent_and_conflicts_are_refused() {
    everywhere(|lab| {
        let first = external(&add(lab, &pinhole(7, HOST), HOST));
        // The same again, and again with what the worker chose.
        assert_eq!(external(&add(lab, &pinhole(7, HOST), HOST)), first);
        let chosen = PinholeAdd { external: address(&first.0), external_port: first.1, ..pinhole(7, HOST) };
        assert_eq!(external(&add(lab, &chosen, HOST)), first);
        assert_eq!(lab.appliance.counters().bindings(ProtocolClass::Tcp).1, 1);
        for other in [
            PinholeAdd { inside_port: 81, ..pinhole(7, HOST) },
            PinholeAdd { protocol: UDP, ..pinhole(7, HOST) },
            PinholeAdd { remote: prefix(SERVER, 32), ..pinhole(7, HOST) },
            PinholeAdd { remote_port_first: 5, ..pinhole(7, HOST) },
            PinholeAdd { external_port: first.1 ^ 1, ..pinhole(7, HOST) },
        ] {
            assert_eq!(add(lab, &other, HOST).result, AckResult::CONFLICT);
        }
        assert!(lab.appliance.counters().get(Counter::CommandsRefused) >= 5);
        // Another id for the same end shares its port.
        assert_eq!(external(&add(lab, &pinhole(8, HOST), HOST)), first);
    });
}

#[test]
fn a_dynamic_mapping_becomes_the_pinhole_of_its_endpoint() {
    everywhere(|lab| {
        let dynamic = text(lab.out(&Build::tcp((HOST, 80), (SERVER, 9), TCP_SYN, b"")).source());
        let elsewhere = PinholeAdd { external_port: dynamic.1 ^ 1, ..pinhole(7, HOST) };
        assert_eq!(add(lab, &elsewhere, HOST).result, AckResult::MAPPED_ELSEWHERE);
        assert_eq!(external(&add(lab, &pinhole(7, HOST), HOST)), dynamic);
        lab.appliance.advance(500_000, 1000);
        lab.back(&Build::tcp((SERVER, 1000), (&dynamic.0, dynamic.1), TCP_SYN, b""));
    });
}

/// A requested external port: in the block of the host's own worker, and in another worker's, which leases it.
#[test]
fn a_requested_external_port_is_had_wherever_its_block_lies() {
    everywhere(|lab| {
        let workers = lab.appliance.workers();
        for (id, port) in (100..).zip([80u16, 443, 600, 1100, 5000, 8080, 40_000, 65_535]) {
            let mut wanted = PinholeAdd {
                external: address("203.0.113.5"),
                external_port: port,
                inside_port: port,
                ..pinhole(id, HOST)
            };
            let (own, block) = (owner(lab, HOST), steering::owner_of_port(port, workers).index());
            if own != block {
                assert_eq!(add(lab, &wanted, HOST).result, AckResult::NOT_OWNER);
                let lease = PortLease {
                    external: wanted.external,
                    external_port: port,
                    protocol: TCP,
                    owner: WorkerId(own as u8),
                    ..PortLease::default()
                };
                for _ in 0..2 {
                    assert_eq!(lab.appliance.command(block, Kind::PORT_LEASE, &lease).result, AckResult::OK);
                }
                assert_eq!(
                    lab.appliance.command(own, Kind::PORT_LEASE, &lease_to_other(lab, lease)).result,
                    AckResult::NOT_OWNER
                );
                wanted.flags |= PinholeAdd::LEASED;
            }
            assert_eq!(external(&add(lab, &wanted, HOST)), ("203.0.113.5".to_owned(), port));
            let seen = lab.back(&Build::tcp((SERVER, 1000), ("203.0.113.5", port), TCP_SYN, b""));
            assert_eq!(text(seen.destination()), (HOST.to_owned(), port));
            let left = lab.out(&Build::tcp((HOST, port), (SERVER, 1000), TCP_SYN | TCP_ACK, b""));
            assert_eq!(text(left.source()), ("203.0.113.5".to_owned(), port));
            // Errors about its flows cross likewise.
            let error = Build::icmp_error(GATEWAY, "203.0.113.5", 3, 1, 0, left.ip());
            assert_eq!(text(lab.back(&error).destination()).0, HOST);
            // Hairpinned packets too.
            let seen = lab.hairpin(&Build::tcp((OTHER_HOST, 999), ("203.0.113.5", port), TCP_SYN, b""));
            assert_eq!(text(seen.destination()), (HOST.to_owned(), port));
            // Taken is taken, for another host as well.
            let other = PinholeAdd { inside: address(OTHER_HOST), id: id + 1000, ..wanted };
            let result = add(lab, &PinholeAdd { flags: PinholeAdd::POOL, ..other }, OTHER_HOST).result;
            assert!(matches!(result, AckResult::PORT_TAKEN | AckResult::NOT_OWNER), "{}", result.text());
            // Given back.
            assert_eq!(remove(lab, id, HOST), AckResult::OK);
            if own != block {
                let lease = PortLease {
                    external: wanted.external,
                    external_port: port,
                    protocol: TCP,
                    owner: WorkerId(own as u8),
                    ..PortLease::default()
                };
                assert_eq!(lab.appliance.command(block, Kind::PORT_RELEASE, &lease).result, AckResult::OK);
                assert_eq!(
                    lab.appliance.command(block, Kind::PORT_RELEASE, &lease).result,
                    AckResult::NOT_FOUND
                );
            }
            let syn = Build::tcp((SERVER, 1001), ("203.0.113.5", port), TCP_SYN, b"");
            lab.step(OUTSIDE_PORT, &syn).dropped(DropReason::NoMapping);
        }
    });
}

/// The same lease for a third worker, which its addressee does not own the port of either.
fn lease_to_other(lab: &Lab, lease: PortLease) -> PortLease {
    let workers = lab.appliance.workers();
    PortLease { owner: WorkerId((lease.owner.0 + 1) % workers), ..lease }
}

#[test]
fn a_leased_port_is_not_given_out_and_cannot_be_used_twice() {
    let mut lab = Lab::new(2);
    // HOST belongs to worker 1, port 1024 to worker 0.
    let lease = PortLease {
        external: address("203.0.113.5"),
        external_port: 1024,
        protocol: UDP,
        owner: WorkerId(1),
        ..PortLease::default()
    };
    assert_eq!(lab.appliance.command(0, Kind::PORT_LEASE, &lease).result, AckResult::OK);
    let wanted = PinholeAdd {
        external: lease.external,
        external_port: 1024,
        protocol: UDP,
        flags: PinholeAdd::POOL | PinholeAdd::LEASED,
        ..pinhole(1, HOST)
    };
    assert_eq!(lab.appliance.command(1, Kind::PINHOLE_ADD, &wanted).result, AckResult::OK);
    let second = PinholeAdd { id: 2, inside_port: 81, ..wanted };
    assert_eq!(lab.appliance.command(1, Kind::PINHOLE_ADD, &second).result, AckResult::PORT_TAKEN);
    // What lies in a block of its own worker needs no lease, and is not had by claiming one.
    let claimed = PinholeAdd { id: 4, inside_port: 82, external_port: 600, ..wanted };
    assert_eq!(lab.appliance.command(1, Kind::PINHOLE_ADD, &claimed).result, AckResult::NOT_OWNER);
    let own = PinholeAdd { id: 3, inside: address(OTHER_HOST), flags: PinholeAdd::POOL, ..wanted };
    assert_eq!(lab.appliance.command(0, Kind::PINHOLE_ADD, &own).result, AckResult::PORT_TAKEN);
    let seen = lab.back(&Build::udp((SERVER, 1), ("203.0.113.5", 1024), b"x"));
    assert_eq!(text(seen.destination()), (HOST.to_owned(), 80));
}

#[test]
fn addresses_and_ports_that_are_not_of_the_pool_are_refused() {
    everywhere(|lab| {
        for external in ["203.0.113.16", "198.51.100.7", "192.0.2.1"] {
            let wanted = PinholeAdd { external: address(external), ..pinhole(7, HOST) };
            assert_eq!(add(lab, &wanted, HOST).result, AckResult::NOT_IN_POOL);
        }
        let wanted = PinholeAdd { pool: PoolId(9), ..pinhole(7, HOST) };
        assert_eq!(add(lab, &wanted, HOST).result, AckResult::NOT_IN_POOL);
        if lab.appliance.workers() > 1 {
            let wrong = (owner(lab, HOST) + 1) % usize::from(lab.appliance.workers());
            let answer = lab.appliance.command(wrong, Kind::PINHOLE_ADD, &pinhole(7, HOST));
            assert_eq!(answer.result, AckResult::NOT_OWNER);
        }
    });
}

#[test]
fn a_pinhole_of_the_firewall_admits_its_flows_without_translation() {
    everywhere(|lab| {
        let wanted = PinholeAdd { flags: 0, remote: prefix("2001:db8:9::", 48), ..pinhole(7, HOST6) };
        let ack = add(lab, &wanted, HOST6);
        assert_eq!((ack.result, ack.external, ack.external_port), (AckResult::OK, Address::UNSPECIFIED, 0));
        let syn = |from| Build::tcp((from, 1000), (HOST6, 80), TCP_SYN, b"");
        assert_eq!(lab.back(&syn(SERVER6)).ip(), syn(SERVER6).ttl(63).ip());
        lab.out(&Build::tcp((HOST6, 80), (SERVER6, 1000), TCP_SYN | TCP_ACK, b""));
        lab.step(OUTSIDE_PORT, &syn("2001:db8:a::1")).dropped(DropReason::FirewallDefaultDeny);
        let other = Build::tcp((SERVER6, 1000), (HOST6, 81), TCP_SYN, b"");
        lab.step(OUTSIDE_PORT, &other).dropped(DropReason::FirewallDefaultDeny);
        assert_eq!(remove(lab, 7, HOST6), AckResult::OK);
        let cut = Build::tcp((SERVER6, 1000), (HOST6, 80), TCP_ACK, b"more");
        let step = lab.step(OUTSIDE_PORT, &cut);
        assert!(step.sent.is_empty() && step.drops.len() == 1, "{step:?}");
        lab.step(OUTSIDE_PORT, &syn(SERVER6)).dropped(DropReason::FirewallDefaultDeny);
    });
}

fn walk(appliance: &mut Appliance, worker: usize, table: WalkTable, limit: u32) -> Vec<BindingRow> {
    let mut rows = Vec::new();
    let mut cursor = 0;
    while cursor != WalkEnd::DONE {
        let sequence = 1_000_000 + cursor;
        appliance
            .command_raw(worker, &Slot::new(Kind::WALK, sequence, &Walk { cursor, table, limit }))
            .unwrap();
        let events = std::mem::take(&mut appliance.events);
        let (last, page) = events.split_last().expect("an end");
        assert!(page.iter().all(|(from, event)| {
            from.index() == worker
                && event.header.kind == Kind::BINDING_ROW
                && event.header.sequence == sequence
        }));
        assert_eq!((last.1.header.kind, last.1.header.sequence), (Kind::WALK_END, sequence));
        let end: WalkEnd = last.1.body();
        assert_eq!(end.rows as usize, page.len());
        assert!(page.len() <= limit as usize && (cursor == 0 || !page.is_empty()));
        rows.extend(page.iter().map(|(_, event)| event.body::<BindingRow>()));
        cursor = end.cursor;
    }
    rows
}

#[test]
fn every_flow_and_binding_is_seen_once_in_pages_of_any_size() {
    for limit in [1, 7, 256] {
        let mut lab = Lab::new(2);
        for port in 1..=40 {
            lab.udp_mapping(HOST, port);
            lab.out(&Build::udp((HOST, port), (OTHER_SERVER, 53), b"again"));
        }
        lab.out(&Build::tcp((OTHER_HOST, 9), (SERVER, 80), TCP_SYN, b""));
        lab.out(&Build::echo(HOST, SERVER, 77, false, b""));
        lab.appliance.advance(5000, 1000);
        let flows: Vec<FlowRow> = lab.appliance.flows(1);
        assert_eq!(flows.len(), 81);
        let bindings = walk(&mut lab.appliance, 1, WalkTable::BINDINGS, limit);
        assert_eq!(bindings.len(), 41);
        for binding in bindings.iter().filter(|binding| binding.protocol == UDP) {
            assert_eq!((binding.inside, binding.flows, binding.pinhole), (address(HOST), 2, 0));
            assert_eq!(binding.worker, WorkerId(1));
            assert!((5000..5000 + (1 << CREATED_SHIFT)).contains(&binding.age_ms), "{}", binding.age_ms);
            let of_binding =
                flows.iter().filter(|flow| flow.inside.1 == binding.inside_port && flow.protocol == UDP);
            for flow in of_binding {
                assert_eq!(flow.external, (binding.external, binding.external_port));
                assert_eq!((flow.packets, flow.idle_ms), ([1, 0], 5000));
                // Beginnings are kept in units of 128 ms.
                assert!((5000..5128).contains(&flow.age_ms), "{}", flow.age_ms);
                assert_eq!((flow.translated, flow.inbound, flow.bytes), (true, false, [33, 0]));
            }
        }
        let query = flows.iter().find(|flow| flow.protocol == 1).unwrap();
        assert_eq!((query.inside.1, query.remote), (77, (address(SERVER), 77)));
        let flows = lab.appliance.flows(0);
        let [flow] = flows[..] else { panic!("{flows:?}") };
        assert_eq!((flow.inside, flow.state), ((address(OTHER_HOST), 9), TcpState::Init));
    }
}

#[test]
fn a_walk_of_empty_tables_ends_at_once() {
    let mut lab = Lab::new(1);
    assert!(
        walk(&mut lab.appliance, 0, WalkTable::BINDINGS, 5).is_empty() && lab.appliance.flows(0).is_empty()
    );
    // A cursor past the table is an end too.
    lab.appliance
        .command_raw(
            0,
            &Slot::new(Kind::WALK, 1, &Walk { cursor: u64::MAX - 1, table: WalkTable::BINDINGS, limit: 5 }),
        )
        .unwrap();
    let end: WalkEnd = lab.appliance.events.pop().unwrap().1.body();
    assert_eq!((end.cursor, end.rows), (WalkEnd::DONE, 0));
}

#[test]
fn neighbours_are_forgotten_by_command() {
    let mut lab = Lab::new(1);
    let packet = Build::udp((HOST, 1), (SERVER, 2), b"x");
    lab.out(&packet);
    let known = lab.appliance.counters().get(Counter::Neighbours);
    let clear = |failed| NeighbourClear {
        address: address(GATEWAY),
        interface: InterfaceId(1),
        failed,
        ..NeighbourClear::default()
    };
    assert_eq!(lab.appliance.command(0, Kind::NEIGHBOUR_CLEAR, &clear(0)).result, AckResult::OK);
    assert_eq!(lab.appliance.counters().get(Counter::Neighbours), known - 1);
    assert!(lab.step(0, &packet).sent.is_empty());
    assert_eq!(lab.appliance.counters().get(Counter::Held), 1);
    // It did not answer.
    assert_eq!(lab.appliance.command(0, Kind::NEIGHBOUR_CLEAR, &clear(1)).result, AckResult::OK);
    assert_eq!(lab.appliance.drops(DropReason::NeighbourUnresolved), 1);
    lab.neighbours();
    lab.out(&packet);
    assert_eq!(
        lab.appliance.command(0, Kind::NEIGHBOURS_RESET, &NeighboursReset { magic: MAGIC }).result,
        AckResult::OK
    );
    assert_eq!(lab.appliance.counters().get(Counter::Neighbours), 0);
    assert!(lab.step(0, &packet).sent.is_empty());
}

/// Two pools: what one loses ends, the other's bindings and flows stay.
#[test]
fn a_pool_address_that_is_taken_away_ends_its_bindings_only() {
    everywhere(|lab| {
        let mut policy = PolicyTable::default();
        policy.pools.push(PoolRecord {
            port_first: 1024,
            port_last: 65535,
            zone: OUTSIDE,
            ..PoolRecord::default()
        });
        let range = |address: [u8; 4], pool| PoolRangeRecord {
            first: address,
            last: address,
            pool: PoolId(pool),
            ..PoolRangeRecord::default()
        };
        policy.ranges = vec![range([203, 0, 113, 1], 0), range([203, 0, 113, 9], 1)];
        let second = NatRuleRecord {
            source: prefix(OTHER_HOST, 32),
            from: INSIDE,
            to: OUTSIDE,
            action: NatAction::TRANSLATE,
            pool: PoolId(1),
            ..NatRuleRecord::default()
        };
        policy.nat.insert(0, second);
        lab.appliance.policy(&policy);
        let first = lab.udp_mapping(HOST, 5000);
        let stays = lab.udp_mapping(OTHER_HOST, 5000);
        assert_eq!((first.0.as_str(), stays.0.as_str()), ("203.0.113.1", "203.0.113.9"));
        let counters = lab.appliance.counters();
        assert_eq!(
            (counters.pool_ports(0, ProtocolClass::Udp), counters.pool_ports(1, ProtocolClass::Udp)),
            (1, 1)
        );
        policy.ranges[0] = range([203, 0, 113, 2], 0);
        lab.appliance.policy(&policy);
        let counters = lab.appliance.counters();
        assert_eq!(
            (counters.pool_ports(0, ProtocolClass::Udp), counters.pool_ports(1, ProtocolClass::Udp)),
            (0, 1)
        );
        assert_eq!(counters.flows_ended(ProtocolClass::Udp, FlowEnd::Policy), 1);
        lab.back(&Build::udp((SERVER, 53), (&stays.0, stays.1), b"x"));
        assert_eq!(lab.udp_mapping(OTHER_HOST, 5000), stays);
        assert_eq!(lab.udp_mapping(HOST, 5000).0, "203.0.113.2");
        // The same policy again changes nothing.
        lab.appliance.policy(&policy);
        assert_eq!(lab.udp_mapping(OTHER_HOST, 5000), stays);
    });
}

#[test]
fn commands_before_the_first_policy_are_answered() {
    let interface =
        turnpike_engine::Interface { port: turnpike_abi::PortId(0), vlan: 0, mac: [2; 6], mtu: 1500 };
    let mut appliance = Appliance::bare(2, vec![interface], 16);
    assert_eq!(appliance.command(1, Kind::PINHOLE_ADD, &pinhole(1, HOST)).result, AckResult::NO_POLICY);
    let lease = PortLease {
        external: address("203.0.113.5"),
        external_port: 5,
        protocol: TCP,
        owner: WorkerId(1),
        ..PortLease::default()
    };
    assert_eq!(appliance.command(0, Kind::PORT_LEASE, &lease).result, AckResult::NO_POLICY);
}

fn violation<T: IntoBytes + zerocopy::Immutable>(kind: Kind, body: &T) -> Result<(), Violation> {
    let mut lab = Lab::new(2);
    let before = lab.appliance.counters().get(Counter::PeerViolations);
    let result = lab.appliance.command_raw(1, &Slot::new(kind, 1, body));
    let after = lab.appliance.counters().get(Counter::PeerViolations);
    assert_eq!(after - before, u64::from(result.is_err()));
    // It did no harm.
    lab.udp_mapping(HOST, 1);
    result
}

/// A look at `port` of [`HOST`] in the first pool.
fn look(lab: &mut Lab, port: u16) -> Seen {
    let pool = PoolId(0);
    let look = Look { inside: address(HOST), inside_port: port, pool, protocol: UDP, ..Look::default() };
    lab.appliance.command_raw(1, &Slot::new(Kind::LOOK, 77, &look)).unwrap();
    let events = std::mem::take(&mut lab.appliance.events);
    let [(_, event)] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((event.header.kind, event.header.sequence), (Kind::SEEN, 77));
    event.body()
}

#[test]
fn a_look_tells_the_external_end_and_how_long_packets_keep_it() {
    let mut lab = Lab::new(2);
    assert_eq!(look(&mut lab, 4000), Seen::default());
    let (external, port) = lab.udp_mapping(HOST, 4000);
    let seen = look(&mut lab, 4000);
    assert_eq!((seen.external, seen.external_port, seen.flags), (address(&external), port, Seen::DYNAMIC));
    let timeout = seen.remaining_ms;
    assert!(timeout > 0);
    lab.appliance.advance(5000, 1000);
    assert_eq!(look(&mut lab, 4000).remaining_ms, timeout - 5000);
    // Another port of the host: no binding, but the host's address.
    let seen = look(&mut lab, 4001);
    assert_eq!((seen.external, seen.external_port, seen.remaining_ms), (address(&external), 0, 0));
    // A pinhole that only the outside used is kept by nobody.
    let add = PinholeAdd { id: 9, inside_port: 4001, protocol: UDP, ..pinhole(9, HOST) };
    lab.appliance.command_raw(1, &Slot::new(Kind::PINHOLE_ADD, 1, &add)).unwrap();
    lab.appliance.events.clear();
    let seen = look(&mut lab, 4001);
    assert_eq!((seen.flags, seen.remaining_ms), (0, 0));
    assert_ne!(seen.external_port, 0);
}

#[test]
fn malformed_commands_are_violations() {
    let neighbour = NeighbourSet { address: address(GATEWAY), interface: InterfaceId(1), mac: ROUTER_MAC };
    let lease = PortLease {
        external: address("203.0.113.5"),
        external_port: 600,
        protocol: TCP,
        owner: WorkerId(0),
        ..PortLease::default()
    };
    let walk = Walk { cursor: 0, table: WalkTable::BINDINGS, limit: 1 };
    assert!(violation(Kind::NEIGHBOUR_SET, &neighbour).is_ok());
    assert!(violation(Kind::PINHOLE_ADD, &pinhole(1, HOST)).is_ok());
    assert!(violation(Kind::PORT_LEASE, &lease).is_ok());
    assert!(violation(Kind::WALK, &walk).is_ok());
    for (what, result) in [
        ("kind", violation(Kind(0), &())),
        ("kind", violation(Kind(11), &())),
        ("an event", violation(Kind::ACK, &Ack::default())),
        (
            "interface",
            violation(Kind::NEIGHBOUR_SET, &NeighbourSet { interface: InterfaceId(2), ..neighbour }),
        ),
        (
            "group station",
            violation(Kind::NEIGHBOUR_SET, &NeighbourSet { mac: [1, 0, 0, 0, 0, 0], ..neighbour }),
        ),
        ("no station", violation(Kind::NEIGHBOUR_SET, &NeighbourSet { mac: [0; 6], ..neighbour })),
        (
            "interface",
            violation(
                Kind::NEIGHBOUR_CLEAR,
                &NeighbourClear { interface: InterfaceId(9), ..NeighbourClear::default() },
            ),
        ),
        (
            "bool",
            violation(Kind::NEIGHBOUR_CLEAR, &NeighbourClear { failed: 2, ..NeighbourClear::default() }),
        ),
        ("magic", violation(Kind::NEIGHBOURS_RESET, &NeighboursReset { magic: 0 })),
        ("id", violation(Kind::PINHOLE_ADD, &pinhole(0, HOST))),
        ("flag", violation(Kind::PINHOLE_ADD, &PinholeAdd { flags: 2048, ..pinhole(1, HOST) })),
        ("protocol", violation(Kind::PINHOLE_ADD, &PinholeAdd { protocol: 1, ..pinhole(1, HOST) })),
        ("protocol", violation(Kind::PINHOLE_ADD, &PinholeAdd { protocol: 132, ..pinhole(1, HOST) })),
        ("port", violation(Kind::PINHOLE_ADD, &PinholeAdd { inside_port: 0, ..pinhole(1, HOST) })),
        (
            "ports",
            violation(
                Kind::PINHOLE_ADD,
                &PinholeAdd { remote_port_first: 9, remote_port_last: 8, ..pinhole(1, HOST) },
            ),
        ),
        (
            "prefix",
            violation(
                Kind::PINHOLE_ADD,
                &PinholeAdd { remote: Prefix { length: 129, ..Prefix::ANY }, ..pinhole(1, HOST) },
            ),
        ),
        (
            "prefix",
            violation(
                Kind::PINHOLE_ADD,
                &PinholeAdd {
                    remote: Prefix { address: address(SERVER), length: 100, ..Prefix::ANY },
                    ..pinhole(1, HOST)
                },
            ),
        ),
        (
            "inside",
            violation(
                Kind::PINHOLE_ADD,
                &PinholeAdd { inside: Address::UNSPECIFIED, flags: 0, ..pinhole(1, HOST) },
            ),
        ),
        ("family", violation(Kind::PINHOLE_ADD, &pinhole(1, HOST6))),
        ("leased", violation(Kind::PINHOLE_ADD, &PinholeAdd { flags: 3, ..pinhole(1, HOST) })),
        ("port", violation(Kind::PORT_LEASE, &PortLease { external_port: 0, ..lease })),
        ("owner", violation(Kind::PORT_LEASE, &PortLease { owner: WorkerId(2), ..lease })),
        ("owner", violation(Kind::PORT_LEASE, &PortLease { owner: WorkerId(1), ..lease })),
        ("protocol", violation(Kind::PORT_LEASE, &PortLease { protocol: 1, ..lease })),
        ("rows", violation(Kind::WALK, &Walk { limit: 0, ..walk })),
        ("a look at nobody", violation(Kind::LOOK, &Look::default())),
        ("rows", violation(Kind::WALK, &Walk { limit: 257, ..walk })),
        ("table", violation(Kind::WALK, &Walk { table: WalkTable(1), ..walk })),
        ("table", violation(Kind::WALK, &Walk { table: WalkTable(7), ..walk })),
    ] {
        assert!(result.is_err(), "{what}");
    }
}

#[test]
fn a_walk_over_pinholes_sees_each_that_shares_a_binding_and_none_that_is_gone() {
    for limit in [1, 2, 256] {
        let mut lab = Lab::new(1);
        let add = |id, remote: u16| PinholeAdd {
            id,
            inside: address(HOST),
            inside_port: 80,
            protocol: UDP,
            remote: Prefix::ANY,
            remote_port_first: remote,
            remote_port_last: remote,
            flags: PinholeAdd::POOL,
            ports: 1,
            ..PinholeAdd::default()
        };
        for id in 1..=5u64 {
            let ack = lab.appliance.command(0, Kind::PINHOLE_ADD, &add(id, 1000 + id as u16));
            assert_eq!(ack.result, AckResult::OK);
        }
        let remove = PinholeRemove { id: 3, ..PinholeRemove::default() };
        assert_eq!(lab.appliance.command(0, Kind::PINHOLE_REMOVE, &remove).result, AckResult::OK);
        lab.appliance.events.clear();
        let rows: Vec<BindingRow> = walk(&mut lab.appliance, 0, WalkTable::PINHOLES, limit);
        let mut ids: Vec<u64> = rows.iter().map(|row| row.pinhole).collect();
        ids.sort_unstable();
        assert_eq!(ids, [1, 2, 4, 5]);
        assert!(rows.iter().all(|row| row.inside_port == 80 && row.external_port == rows[0].external_port));
        assert!(rows.iter().all(|row| row.remote_ports == [1000 + row.pinhole as u16; 2]));
    }
}

#[test]
fn a_walk_over_reservations_sees_each_once() {
    for limit in [1, 2, 256] {
        let mut lab = Lab::new(1);
        let reserve = |id| PortsReserve { id, protocol: UDP, ports: 2, ..PortsReserve::default() };
        for id in 1..=5u64 {
            let ack = lab.appliance.command(0, Kind::PORTS_RESERVE, &reserve(id));
            assert_eq!(ack.result, AckResult::OK);
        }
        let release = PortsRelease { id: 3 };
        assert_eq!(lab.appliance.command(0, Kind::PORTS_RELEASE, &release).result, AckResult::OK);
        lab.appliance.events.clear();
        let rows: Vec<BindingRow> = walk(&mut lab.appliance, 0, WalkTable::RESERVATIONS, limit);
        let mut ids: Vec<u64> = rows.iter().map(|row| row.pinhole).collect();
        ids.sort_unstable();
        assert_eq!(ids, [1, 2, 4, 5]);
        assert!(rows.iter().all(|row| row.external_port != 0));
    }
}

#[test]
fn a_walk_over_leases_sees_each_port_once_and_its_user_says_whether_it_is_in_use() {
    for limit in [1, 2, 256] {
        let mut lab = Lab::new(2);
        // HOST belongs to worker 1, ports from 1024 on to worker 0.
        let lease = |port, ports| PortLease {
            external: address("203.0.113.5"),
            external_port: port,
            protocol: UDP,
            owner: WorkerId(1),
            ports,
            ..PortLease::default()
        };
        for (port, ports) in [(1024, 1), (1030, 3), (1040, 1)] {
            let ack = lab.appliance.command(0, Kind::PORT_LEASE, &lease(port, ports));
            assert_eq!(ack.result, AckResult::OK);
        }
        assert_eq!(lab.appliance.command(0, Kind::PORT_RELEASE, &lease(1031, 1)).result, AckResult::OK);
        lab.appliance.events.clear();
        let rows = walk(&mut lab.appliance, 0, WalkTable::LEASES, limit);
        let mut ports: Vec<u16> = rows.iter().map(|row| row.external_port).collect();
        ports.sort_unstable();
        assert_eq!(ports, [1024, 1030, 1032, 1040]);
        let of_host = |row: &BindingRow| {
            (row.external, row.worker, row.protocol) == (address("203.0.113.5"), WorkerId(1), UDP)
        };
        assert!(rows.iter().all(of_host) && rows.iter().all(|row| row.inside.is_unspecified()));
        assert!(walk(&mut lab.appliance, 1, WalkTable::LEASES, limit).is_empty());

        let wanted = PinholeAdd {
            external: address("203.0.113.5"),
            external_port: 1024,
            protocol: UDP,
            flags: PinholeAdd::POOL | PinholeAdd::LEASED,
            ..pinhole(1, HOST)
        };
        assert_eq!(lab.appliance.command(1, Kind::PINHOLE_ADD, &wanted).result, AckResult::OK);
        let used = |lab: &mut Lab, port| {
            lab.appliance.command(1, Kind::PORT_RELEASE, &lease(port, 1)).result == AckResult::PORT_TAKEN
        };
        assert!(used(&mut lab, 1024) && !used(&mut lab, 1030));
        // The question takes nothing away: a flow passes, and keeps the port when the pinhole drains.
        lab.back(&Build::udp((SERVER, 1), ("203.0.113.5", 1024), b"x"));
        lab.out(&Build::udp((HOST, 80), (SERVER, 1), b"y"));
        let drain = PinholeRemove { id: 1, drain: 1, ..PinholeRemove::default() };
        assert_eq!(lab.appliance.command(1, Kind::PINHOLE_REMOVE, &drain).result, AckResult::OK);
        assert!(used(&mut lab, 1024), "its flow lives on");
        lab.appliance.advance(400_000, 1000);
        assert!(!used(&mut lab, 1024), "its flow ended");
    }
}

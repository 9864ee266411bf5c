//! What a hostile review found, kept found.

use turnpike_abi::command::{Kind, PinholeAdd, Slot, Walk, WalkTable};
use turnpike_abi::counters::{Counter, DropReason, FirewallAction, ProtocolClass, TcpState};
use turnpike_abi::event::{AckResult, WalkEnd};
use turnpike_abi::table::{
    Action, InterfaceRecord, NatAction, NatRuleRecord, Side, ZonePairRecord, ZoneRecord,
};
use turnpike_abi::{InterfaceId, PoolId, PortId, Prefix, ZoneId, steering};
use turnpike_engine::Interface;
use turnpike_sim::packets::{Build, Seen, see};
use turnpike_sim::tables::{ForwardingTable, INSIDE, OUTSIDE, PolicyTable, address, rule};
use turnpike_sim::{Appliance, station};
use turnpike_wire::packet::{TCP_ACK, TCP_RST, TCP_SYN};

const HOST: &str = "10.0.0.9";
const OTHER_HOST: &str = "10.0.0.10";
const SERVER: &str = "198.51.100.7";
const GUEST: ZoneId = ZoneId(2);
const GUEST_HOST: &str = "10.9.0.9";

fn neighbours(appliance: &mut Appliance) {
    appliance.neighbour(1, address("192.0.2.254"), [0x02, 0xee, 0, 0, 0, 1]);
    appliance.neighbour(1, address("2001:db8::fe"), [0x02, 0xee, 0, 0, 0, 1]);
    for (host, last) in [(HOST, 1), (OTHER_HOST, 2), ("fd00::9", 3), ("fd00::a", 4)] {
        appliance.neighbour(0, address(host), [0x02, 0xff, 0, 0, 0, last]);
    }
}

fn appliance(workers: u8) -> Appliance {
    let mut appliance = Appliance::new(workers);
    neighbours(&mut appliance);
    appliance
}

/// The default box and a third interface 10.9.0.1/16 in a zone of guests.
fn with_guests(workers: u8, change: impl FnOnce(&mut PolicyTable)) -> Appliance {
    let interface = |index| Interface { port: PortId(index), vlan: 0, mac: station(index), mtu: 1500 };
    let mut appliance = Appliance::bare(workers, (0..3).map(interface).collect(), 1024);
    let mut policy = PolicyTable::default();
    policy.zones.push(ZoneRecord { side: Side::INSIDE, ..ZoneRecord::default() });
    policy.interfaces.push(InterfaceRecord {
        interface: InterfaceId(2),
        zone: GUEST,
        mtu: 1500,
        ..InterfaceRecord::default()
    });
    policy.pairs.push(ZonePairRecord {
        from: GUEST,
        to: OUTSIDE,
        action: Action::ACCEPT,
        ..ZonePairRecord::default()
    });
    change(&mut policy);
    appliance.policy(&policy);
    let mut forwarding = ForwardingTable::default();
    forwarding.address("10.9.0.1", 16, 2);
    appliance.forwarding(&forwarding);
    neighbours(&mut appliance);
    appliance.neighbour(2, address(GUEST_HOST), [0x02, 0xff, 0, 0, 0, 9]);
    appliance
}

fn drops(appliance: &Appliance) -> Vec<&'static str> {
    let counters = appliance.counters();
    DropReason::ALL.iter().filter(|&&reason| counters.drops(reason) > 0).map(|reason| reason.name()).collect()
}

fn pass(appliance: &mut Appliance, port: u16, packet: &Build) -> Option<Seen> {
    appliance.receive(port, &[&packet.frame(port)]);
    appliance.sent().map(|sent| see(&sent.bytes))
}

fn out(appliance: &mut Appliance, packet: &Build) -> Seen {
    pass(appliance, 0, packet).unwrap_or_else(|| panic!("nothing left: {:?}", drops(appliance)))
}

fn external(seen: &Seen) -> (String, u16) {
    let (ip, port) = seen.source();
    (ip.to_string(), port)
}

/// RFC 5508 REQ-4: an error goes to the host that sent the quoted packet. Anything else carries bytes past
/// the firewall to whomever the sender likes.
#[test]
fn icmp_4_an_error_reaches_nobody_but_the_sender_of_what_it_quotes() {
    for workers in [1, 3] {
        let mut appliance = appliance(workers);
        out(&mut appliance, &Build::udp(("fd00::9", 5000), ("2001:db8:9::7", 53), b"a"));
        let about = Build::udp(("fd00::9", 5000), ("2001:db8:9::7", 53), b"a").ip();
        let error = |to| Build::icmp_error("2001:db8:9::7", to, 1, 4, 0, &about);
        assert!(pass(&mut appliance, 1, &error("fd00::a")).is_none(), "the firewall was bypassed");
        assert_eq!(appliance.drops(DropReason::IcmpNoSession), 1);
        assert!(pass(&mut appliance, 1, &error("fd00::9")).is_some());
        // The same where it is translated: to another address of the pool.
        let left = out(&mut appliance, &Build::udp((HOST, 5000), (SERVER, 53), b"a"));
        let pool = external(&left).0;
        let other = if pool == "203.0.113.3" { "203.0.113.4" } else { "203.0.113.3" };
        let error = |to| Build::icmp_error("192.0.2.254", to, 11, 0, 0, left.ip());
        assert!(pass(&mut appliance, 1, &error(other)).is_none());
        assert!(pass(&mut appliance, 1, &error(&pool)).is_some());
    }
}

/// RFC 5508 REQ-5: the router in front of the host reports as well, and its address may be another worker's.
#[test]
fn icmp_5_an_error_of_an_inside_router_finds_the_flow_whoever_owns_the_router() {
    for last in [20, 21, 22, 23] {
        let mut appliance = appliance(4);
        let left = out(&mut appliance, &Build::udp((HOST, 5000), (SERVER, 53), b"a"));
        let (pool, _) = external(&left);
        let inward = Build::udp((SERVER, 53), (HOST, 5000), b"back").ip();
        let router = format!("10.0.0.{last}");
        let error = Build::icmp_error(&router, SERVER, 3, 4, 1400, &inward);
        let seen = pass(&mut appliance, 0, &error)
            .unwrap_or_else(|| panic!("router {router}: {:?}", drops(&appliance)));
        assert_eq!(seen.source().0.to_string(), pool);
    }
}

#[test]
fn icmp_ttl_a_hairpinned_error_does_not_leave_with_a_ttl_of_zero() {
    let mut appliance = appliance(2);
    let a = external(&out(&mut appliance, &Build::udp((HOST, 5000), (SERVER, 53), b"a")));
    let b = external(&out(&mut appliance, &Build::udp((OTHER_HOST, 6000), (SERVER, 53), b"b")));
    let over = out(&mut appliance, &Build::udp((HOST, 5000), (&b.0, b.1), b"over"));
    let error = |ttl| Build::icmp_error(OTHER_HOST, &a.0, 3, 3, 0, over.ip()).ttl(ttl);
    assert_eq!(pass(&mut appliance, 0, &error(2)).expect("a hairpinned error").packet.ttl, 1);
    assert!(pass(&mut appliance, 0, &error(1)).is_none());
    assert_eq!(appliance.drops(DropReason::TtlExpired), 1);
}

/// The rules of the zone a packet came from hold, whatever way it takes to a subscriber.
#[test]
fn a_rule_between_inside_zones_holds_for_hairpinned_packets() {
    for (workers, action) in [(1, Action::DROP), (3, Action::DROP), (1, Action::REJECT)] {
        let mut appliance = with_guests(workers, |policy| {
            policy.nat.push(NatRuleRecord {
                from: GUEST,
                to: OUTSIDE,
                action: NatAction::TRANSLATE,
                pool: PoolId(0),
                ..NatRuleRecord::default()
            });
            policy.rules.push(rule(GUEST, INSIDE, action));
        });
        let (pool, port) = external(&out(&mut appliance, &Build::udp((HOST, 5000), (SERVER, 53), b"a")));
        assert!(pass(&mut appliance, 2, &Build::udp((GUEST_HOST, 7), (&pool, port), b"x")).is_none());
        assert_eq!(appliance.drops(DropReason::FirewallRuleDeny), 1);
        // The world may.
        assert!(pass(&mut appliance, 1, &Build::udp((SERVER, 99), (&pool, port), b"x")).is_some());
    }
}

/// A pool address faces one outside zone; packets for it from another one are judged by where they came from.
#[test]
fn a_rule_is_asked_about_the_zone_a_packet_came_from_and_not_the_pools() {
    let mut appliance = with_guests(1, |policy| {
        policy.zones[GUEST.index()].side = Side::OUTSIDE;
        policy.rules.push(rule(GUEST, INSIDE, Action::DROP));
    });
    let (pool, port) = external(&out(&mut appliance, &Build::udp((HOST, 5000), (SERVER, 53), b"a")));
    assert!(pass(&mut appliance, 2, &Build::udp((GUEST_HOST, 7), (&pool, port), b"x")).is_none());
    assert_eq!(appliance.drops(DropReason::FirewallRuleDeny), 1);
    assert_eq!(appliance.counters().verdicts(GUEST, INSIDE, FirewallAction::Drop), 1);
}

/// CGN-B: what the outside could not answer does not reach a pool address either.
#[test]
fn cgn_b_a_private_source_without_rule_does_not_hairpin_untranslated() {
    let mut appliance = with_guests(1, |_| {});
    let (pool, port) = external(&out(&mut appliance, &Build::udp((HOST, 5000), (SERVER, 53), b"a")));
    assert!(pass(&mut appliance, 2, &Build::udp((GUEST_HOST, 7), (&pool, port), b"x")).is_none());
    assert_eq!(appliance.drops(DropReason::PrivateSource), 1);
}

/// BCP 38: nobody but the box sends from a pool address. Else one spoofed packet sets two subscribers on
/// each other.
#[test]
fn a_pool_address_is_no_source_on_the_wire() {
    for (port, workers) in [(1, 1), (1, 3), (0, 1)] {
        let mut appliance = appliance(workers);
        let mut policy = PolicyTable::default();
        policy.settings.flags = 0;
        appliance.policy(&policy);
        let (pool, external) = external(&out(&mut appliance, &Build::udp((HOST, 5000), (SERVER, 53), b"a")));
        let spoofed = Build::udp(("203.0.113.5", 4000), (&pool, external), b"x");
        assert!(pass(&mut appliance, port, &spoofed).is_none());
        assert_eq!(appliance.drops(DropReason::SpoofedSource), 1);
    }
}

/// RFC 7857 figure 1: a reset leads to TRANS from ESTABLISHED alone. Else three spoofed segments that nobody
/// answered make a flow that lasts for hours.
#[test]
fn upd_1_a_reset_before_the_handshake_does_not_establish() {
    let mut appliance = appliance(1);
    let (pool, port) = external(&out(&mut appliance, &Build::tcp((HOST, 80), (SERVER, 9), TCP_SYN, b"")));
    for flags in [TCP_SYN, TCP_RST, TCP_ACK] {
        assert!(pass(&mut appliance, 1, &Build::tcp((SERVER, 7), (&pool, port), flags, b"")).is_some());
    }
    assert_eq!(appliance.counters().flows_in(TcpState::Established), 0);
    appliance.advance(260_000, 500);
    assert_eq!(appliance.counters().flows(ProtocolClass::Tcp).0, 0);
}

/// One sender outside must not use up the table that subscribers need.
#[test]
fn flows_from_outside_leave_room_for_those_from_inside() {
    let interface = |index| Interface { port: PortId(index), vlan: 0, mac: station(index), mtu: 1500 };
    let mut appliance = Appliance::bare(1, vec![interface(0), interface(1)], 64);
    appliance.policy(&PolicyTable::default());
    appliance.forwarding(&ForwardingTable::default());
    neighbours(&mut appliance);
    let (pool, port) = external(&out(&mut appliance, &Build::tcp((HOST, 80), (SERVER, 9), TCP_SYN, b"")));
    for from in 1000..1200 {
        pass(&mut appliance, 1, &Build::tcp((SERVER, from), (&pool, port), TCP_SYN, b""));
    }
    assert!(appliance.drops(DropReason::FlowLimit) > 0);
    while appliance.sent().is_some() {}
    let left = out(&mut appliance, &Build::tcp((OTHER_HOST, 81), (SERVER, 9), TCP_SYN, b""));
    assert_eq!(left.packet.protocol, 6, "refused: {:?}", drops(&appliance));
    // They give their room back.
    appliance.advance(300_000, 500);
    assert_eq!(appliance.counters().flows(ProtocolClass::Tcp).0, 0);
    let (pool, port) = external(&out(&mut appliance, &Build::tcp((HOST, 80), (SERVER, 9), TCP_SYN, b"")));
    assert!(pass(&mut appliance, 1, &Build::tcp((SERVER, 7), (&pool, port), TCP_SYN, b"")).is_some());
}

/// RFC 4787 REQ-6: packets from outside do not keep a mapping, however many flows they open.
#[test]
fn udp_6_new_flows_from_outside_do_not_keep_a_mapping() {
    let mut appliance = appliance(2);
    let (pool, port) = external(&out(&mut appliance, &Build::udp((HOST, 5000), (SERVER, 53), b"a")));
    for from in 0..40 {
        pass(&mut appliance, 1, &Build::udp((SERVER, 1000 + from), (&pool, port), b"stay"));
        appliance.advance(10_000, 500);
    }
    assert_eq!(appliance.counters().bindings(ProtocolClass::Udp).0, 0);
    assert!(appliance.drops(DropReason::NoMapping) > 0);
}

/// UDP-7: the subscriber's route is gone and the default route leads outside: its packets stay here.
#[test]
fn udp_7_packets_for_a_subscriber_do_not_leave_by_the_default_route() {
    let mut appliance = appliance(1);
    let (pool, port) = external(&out(&mut appliance, &Build::udp((HOST, 5000), (SERVER, 53), b"a")));
    let mut table = ForwardingTable::default();
    table.routes.retain(|route| {
        !(route.prefix.length < 128 && route.prefix.contains(address(HOST)) && route.prefix.length > 96)
    });
    appliance.forwarding(&table);
    assert!(pass(&mut appliance, 1, &Build::udp((SERVER, 53), (&pool, port), b"x")).is_none());
    assert_eq!(appliance.drops(DropReason::NoRoute), 1);
}

#[test]
fn a_leased_pinhole_does_not_take_a_port_of_its_own_workers_blocks() {
    let mut appliance = appliance(2);
    let inside = address("10.0.0.8");
    let owner = steering::owner_of_inside(inside, 2);
    let own = (1024..).find(|&port| steering::owner_of_port(port, 2) == owner).unwrap();
    let add = PinholeAdd {
        id: 1,
        inside,
        external: address("203.0.113.3"),
        remote: Prefix::ANY,
        inside_port: 80,
        external_port: own,
        remote_port_first: 0,
        remote_port_last: u16::MAX,
        pool: PoolId(0),
        protocol: 6,
        flags: PinholeAdd::POOL | PinholeAdd::LEASED,
        ..PinholeAdd::default()
    };
    let ack = appliance.command(owner.index(), Kind::PINHOLE_ADD, &add);
    assert_eq!(ack.result, AckResult::NOT_OWNER);
    // Nor one that another pinhole has.
    let other = (1024..).find(|&port| steering::owner_of_port(port, 2) != owner).unwrap();
    let first = PinholeAdd { external_port: other, ..add };
    assert_eq!(appliance.command(owner.index(), Kind::PINHOLE_ADD, &first).result, AckResult::OK);
    let second = PinholeAdd { id: 2, inside_port: 81, ..first };
    assert_eq!(appliance.command(owner.index(), Kind::PINHOLE_ADD, &second).result, AckResult::PORT_TAKEN);
}

/// What the device was set up for is the most it takes, whatever the policy says.
#[test]
fn a_policy_cannot_raise_the_mtu_above_the_devices() {
    let mut appliance = appliance(1);
    let mut policy = PolicyTable::default();
    for member in &mut policy.interfaces {
        member.mtu = 9000;
    }
    appliance.policy(&policy);
    let big = Build::udp((HOST, 5000), (SERVER, 53), &[7; 2000]).df();
    let seen = pass(&mut appliance, 0, &big).expect("an answer");
    assert_eq!(seen.icmp(), (3, 4));
    assert_eq!(seen.ip()[26..28], 1500u16.to_be_bytes());
}

/// A walk looks at a bounded number of records, and goes on where it stopped.
#[test]
fn a_walk_over_a_table_with_holes_takes_bounded_steps_and_misses_nothing() {
    let interface = |index| Interface { port: PortId(index), vlan: 0, mac: station(index), mtu: 1500 };
    let mut appliance = Appliance::bare(1, vec![interface(0), interface(1)], 20_000);
    let mut policy = PolicyTable::default();
    policy.settings.icmp = 1;
    appliance.policy(&policy);
    appliance.forwarding(&ForwardingTable::default());
    neighbours(&mut appliance);
    for n in 0..15_000u16 {
        pass(&mut appliance, 0, &Build::echo(HOST, SERVER, n, false, b""));
    }
    out(&mut appliance, &Build::udp((HOST, 5000), (SERVER, 53), b"last"));
    appliance.advance(5_000, 5);
    for table in [WalkTable::BINDINGS] {
        let (mut cursor, mut rows, mut steps) = (0, 0, 0);
        while cursor != WalkEnd::DONE {
            let walk = Walk { cursor, table, limit: 256 };
            appliance.events.clear();
            appliance.command_raw(0, &Slot::new(Kind::WALK, 1, &walk)).unwrap();
            let (_, end) = appliance.events.pop().unwrap();
            let end: WalkEnd = end.body();
            (cursor, rows, steps) = (end.cursor, rows + end.rows, steps + 1);
        }
        assert_eq!(rows, 1);
        assert!((2..100).contains(&steps), "{steps} steps");
    }
}

/// A rule for a type of query holds although another type with the same identifier is allowed.
#[test]
fn an_echo_does_not_open_the_way_for_a_timestamp() {
    let mut appliance = appliance(1);
    let mut policy = PolicyTable::default();
    let mut timestamps = rule(INSIDE, OUTSIDE, Action::DROP);
    (timestamps.protocol, timestamps.icmp_type) = (1, 13);
    policy.rules.push(timestamps);
    appliance.policy(&policy);
    out(&mut appliance, &Build::echo(HOST, SERVER, 7, false, b"0123456789abcdef"));
    let mut timestamp = Build::echo(HOST, SERVER, 7, false, b"0123456789ab");
    timestamp.message[0] = 13;
    assert!(pass(&mut appliance, 0, &timestamp).is_none());
    assert_eq!(appliance.drops(DropReason::FirewallRuleDeny), 1);
}

/// Two mappings of one inside endpoint: a remote that has a flow through one cannot have it through the other.
/// That is a refusal and no defect of the box.
#[test]
fn a_remote_with_a_flow_through_one_pool_is_refused_by_the_other() {
    let mut appliance = appliance(1);
    let mut policy = PolicyTable::default();
    policy.ranges[0].last = [203, 0, 113, 7];
    let mut range = policy.ranges[0];
    (range.first, range.last, range.pool) = ([203, 0, 113, 8], [203, 0, 113, 15], PoolId(1));
    policy.ranges.push(range);
    policy.pools.push(policy.pools[0]);
    let mut first = policy.nat[0];
    first.destination = Prefix::host(address(SERVER));
    first.pool = PoolId(1);
    policy.nat.insert(0, first);
    appliance.policy(&policy);
    out(&mut appliance, &Build::udp((HOST, 5000), (SERVER, 53), b"a"));
    let (pool, port) = external(&out(&mut appliance, &Build::udp((HOST, 5000), ("198.51.100.8", 53), b"a")));
    assert!(pass(&mut appliance, 1, &Build::udp((SERVER, 53), (&pool, port), b"x")).is_none());
    assert_eq!(drops(&appliance), ["filtered_remote"]);
}

/// An exhausted pool of many addresses costs a new subscriber's packet no walk over them, and a port that
/// comes free is found.
#[test]
fn udp_11_the_last_free_port_of_a_large_pool_is_found() {
    let interface = |index| Interface { port: PortId(index), vlan: 0, mac: station(index), mtu: 1500 };
    let mut appliance = Appliance::bare(1, vec![interface(0), interface(1)], 4096);
    let mut policy = PolicyTable::default();
    policy.ranges[0].last = [203, 0, 114, 255];
    (policy.pools[0].port_first, policy.pools[0].port_last) = (5000, 5001);
    appliance.policy(&policy);
    appliance.forwarding(&ForwardingTable::default());
    neighbours(&mut appliance);
    let host = |n: u16| format!("10.0.{}.{}", 1 + n / 200, 1 + n % 200);
    let addresses = 512;
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..addresses {
        for port in [1, 2] {
            let left = out(&mut appliance, &Build::udp((&host(n), port), (SERVER, 53), b"a"));
            seen.insert(external(&left));
        }
    }
    // Exactly all of them: nobody was refused while a port was left, and no port was given twice.
    assert_eq!(seen.len(), 2 * usize::from(addresses));
    pass(&mut appliance, 0, &Build::udp((&host(addresses), 1), (SERVER, 53), b"a"));
    assert_eq!(appliance.drops(DropReason::PortExhausted), 1);
    appliance.advance(320_000, 500);
    assert_eq!(appliance.counters().bindings(ProtocolClass::Udp).0, 0);
    while appliance.sent().is_some() {}
    // Another policy narrows the range: what is free is counted anew.
    policy.pools[0].port_last = 5000;
    appliance.policy(&policy);
    out(&mut appliance, &Build::udp((&host(0), 1), (SERVER, 53), b"a"));
    pass(&mut appliance, 0, &Build::udp((&host(0), 2), (SERVER, 53), b"a"));
    assert_eq!(appliance.drops(DropReason::PortExhausted), 2);
}

/// Somebody who sends to addresses that nobody has fills the queue of the link they would be on, no other.
#[test]
fn packets_for_absent_neighbours_leave_room_for_those_of_other_links() {
    let mut appliance = Appliance::new(1);
    appliance.neighbour(1, address("192.0.2.254"), [0x02, 0xee, 0, 0, 0, 1]);
    let (pool, port) = external(&out(&mut appliance, &Build::udp((HOST, 5000), (SERVER, 53), b"a")));
    for absent in 10..60 {
        for _ in 0..8 {
            let scan = Build::udp((HOST, 5000), (&format!("192.0.2.{absent}"), 9), b"scan");
            assert!(pass(&mut appliance, 0, &scan).is_none());
        }
    }
    assert!(appliance.drops(DropReason::NeighbourQueueFull) > 0);
    assert!(pass(&mut appliance, 1, &Build::udp((SERVER, 53), (&pool, port), b"answer")).is_none());
    appliance.neighbour(0, address(HOST), [0x02, 0xff, 0, 0, 0, 1]);
    assert_eq!(see(&appliance.sent().expect("released").bytes).payload(), b"answer");
    appliance.advance(4_000, 100);
    assert_eq!((appliance.counters().get(Counter::Held), appliance.live_frames()), (0, 0));
}

/// RFC 1812 4.3.2.7: no error to a group, in the link layer either.
#[test]
fn no_icmp_error_is_sent_to_a_group_of_stations() {
    let mut appliance = appliance(1);
    let mut probe = Build::udp((HOST, 5000), (SERVER, 53), b"a").ttl(1);
    assert!(pass(&mut appliance, 0, &probe).is_some());
    probe.from = [0xff; 6];
    assert!(pass(&mut appliance, 0, &probe).is_none());
    assert_eq!(appliance.drops(DropReason::TtlExpired), 2);
}

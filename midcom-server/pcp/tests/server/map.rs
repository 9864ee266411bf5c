//! MAP and its options (rows E-MAP, E-OPT, E-SEC).

use crate::world::{
    EXTERNAL, HOST, HOST6, MANAGER, NONCE, OTHER, TCP, THEIRS, UDP, World, end, ip, map, peer, settings,
};
use turnpike_pcp::server::{Kind, Order, Refused};

#[test]
fn e_map_01_what_cannot_be_mapped_entirely_is_refused() {
    let mut world = World::new();
    let reply = world.mapped(&map(HOST, TCP, 80, 600));
    assert_eq!((reply.bytes[36], reply.internal_port()), (TCP, 80));
    assert_eq!(reply.bytes[24..36], NONCE);
    assert_eq!(reply.external().ip(), ip(EXTERNAL));
    assert_eq!(reply.lifetime(), 600);
    for (protocol, port) in [(TCP, 0), (UDP, 0), (0, 0), (99, 0), (132, 80), (50, 0)] {
        assert_eq!(world.refused(&map(HOST, protocol, port, 600), 9).lifetime(), 1800);
    }
    world.refused(&map(HOST, 0, 80, 600), 3);
    world.refused(&map(HOST, 0, 80, 0), 3);
    world.refused(&map(HOST, 50, 80, 600), 3);
    // A protocol without ports, where the box can map it.
    world.settings.untranslated.push(50);
    world.server.set_settings(world.settings.clone());
    let reply = world.mapped(&map(HOST6, 50, 0, 600));
    assert_eq!(reply.external(), end("[2001:db8:1::10]:0"));
}

#[test]
fn e_map_02_another_nonce_is_not_the_owner() {
    let mut world = World::new();
    world.mapped(&map(HOST, TCP, 80, 600));
    world.pass(100);
    for lifetime in [7200, 0] {
        let reply = world.refused(&map(HOST, TCP, 80, lifetime).nonce(THEIRS), 2);
        assert_eq!(reply.lifetime(), 500, "how long the mapping lives");
    }
    // Zero is a nonce like any other.
    world.mapped(&map(HOST, UDP, 80, 600).nonce([0; 12]));
    world.refused(&map(HOST, UDP, 80, 600), 2);
}

#[test]
fn e_map_03_a_static_mapping_is_shown_for_ever() {
    let mut world = World::new();
    world.policy.fixed.insert((ip(HOST), TCP, 80), end("203.0.113.7:8080"));
    for nonce in [NONCE, THEIRS] {
        let reply = world.mapped(&map(HOST, TCP, 80, 600).nonce(nonce).suggest(EXTERNAL, 9000));
        assert_eq!(reply.external(), end("203.0.113.7:8080"));
        assert_eq!(reply.lifetime(), u32::MAX);
        assert_eq!(reply.bytes[24..36], nonce);
    }
    assert_eq!(world.server.mappings(), 0, "nothing is remembered");
    world.refused(&map(HOST, TCP, 80, 600).suggest(EXTERNAL, 9000).prefer_failure(), 11);
    world.mapped(&map(HOST, TCP, 80, 600).suggest(EXTERNAL, 8080).prefer_failure());
}

#[test]
fn e_map_04_an_existing_mapping_keeps_its_external_end() {
    let mut world = World::new();
    let first = world.mapped(&map(HOST, TCP, 80, 600)).external();
    world.pass(300);
    let reply = world.mapped(&map(HOST, TCP, 80, 1200).suggest(EXTERNAL, 4711));
    assert_eq!((reply.external(), reply.lifetime()), (first, 1200));
    assert_eq!(world.rule().ends, world.now.after_seconds(1200));
}

#[test]
fn e_map_05_an_outbound_mapping_gives_its_external_end() {
    let mut world = World::new();
    world.policy.outbound.insert((ip(HOST), TCP, 80), end("203.0.113.7:30000"));
    let reply = world.mapped(&map(HOST, TCP, 80, 600).suggest(EXTERNAL, 4711));
    assert_eq!(reply.external(), end("203.0.113.7:30000"));
    world.mapped(&map(HOST, TCP, 80, 0));
    assert!(world.policy.rules.is_empty());
    // The same with a mapping that PEER made, which stays.
    let made = world.mapped(&peer(HOST, UDP, 90, "198.51.100.1:53", 600)).external();
    assert_eq!(world.mapped(&map(HOST, UDP, 90, 600)).external(), made);
    world.mapped(&map(HOST, UDP, 90, 0));
    assert_eq!(world.rule().wanted.kind, Kind::Outbound(end("198.51.100.1:53")));
}

#[test]
fn e_map_06_a_suggestion_is_followed_if_it_can_be_and_never_does_harm() {
    let mut world = World::new();
    assert_eq!(
        world.mapped(&map(HOST, TCP, 80, 600).suggest(EXTERNAL, 80)).external(),
        end("203.0.113.7:80")
    );
    assert_eq!(world.mapped(&map(HOST, TCP, 81, 600).suggest("0.0.0.0", 4711)).external().port(), 4711);
    for (port, address) in
        [(82, "127.0.0.1"), (83, "224.0.0.1"), (84, "198.51.100.1"), (85, "2001:db8::1"), (86, "::1")]
    {
        let reply = world.mapped(&map(HOST, TCP, port, 600).suggest(address, 5000 + port));
        assert_eq!(reply.external().ip(), ip(EXTERNAL));
    }
    let taken = world.mapped(&map(OTHER, TCP, 80, 600).suggest(EXTERNAL, 80)).external();
    assert_ne!(taken, end("203.0.113.7:80"), "somebody else has it");
}

#[test]
fn e_map_07_the_protocols_own_ports_are_nobodys() {
    let mut world = World::new();
    for port in [5350, 5351] {
        world.refused(&map(HOST, UDP, port, 600).suggest(EXTERNAL, port).prefer_failure(), 11);
        let reply = world.mapped(&map(HOST, UDP, port, 600).suggest(EXTERNAL, port));
        assert_ne!(reply.external().port(), port);
        let reply = world.mapped(&map(HOST, TCP, port, 600).suggest(EXTERNAL, port));
        assert_eq!(reply.external().port(), port, "of UDP alone");
    }
    // Nor are they given out by chance.
    world.policy.next_ports = vec![5351, 5350, 6000];
    let reply = world.mapped(&map(HOST, UDP, 1, 600));
    assert_eq!(reply.external().port(), 6000);
    assert!(
        world
            .policy
            .rules
            .values()
            .all(|rule| { rule.wanted.protocol != UDP || ![5350, 5351].contains(&rule.external.port()) })
    );
    // One protocol's request never makes another's mapping.
    let mut world = World::new();
    world.mapped(&map(HOST, TCP, 80, 600));
    assert_eq!(world.rule().wanted.protocol, TCP);
}

#[test]
fn e_map_08_anybody_may_use_it_unless_a_filter_says_otherwise() {
    let mut world = World::new();
    world.mapped(&map(HOST, UDP, 80, 600));
    assert_eq!(world.rule().wanted.kind, Kind::Inbound);
    assert!(world.admits("198.51.100.1:1") && world.admits("8.8.8.8:53"));
}

#[test]
fn e_map_09_a_subscriber_has_a_quota() {
    let mut settings = settings();
    settings.quota = 3;
    let mut world = World::with(settings);
    for port in 1..=3 {
        world.mapped(&map(HOST, TCP, port, 600));
    }
    let reply = world.refused(&map(HOST, TCP, 4, 600), 10);
    assert_eq!(reply.lifetime(), 30);
    world.mapped(&map(HOST, TCP, 3, 1200));
    world.mapped(&map(OTHER, TCP, 4, 600));
    world.mapped(&map(HOST, TCP, 1, 0));
    world.mapped(&map(HOST, TCP, 4, 600));
    // Hosts of one IPv6 network are one subscriber.
    for last in 1..=3 {
        world.mapped(&map(&format!("2001:db8:1::{last}"), TCP, 1, 600));
    }
    world.refused(&map("2001:db8:1::4", TCP, 1, 600), 10);
    // The policy engine has a word too.
    for (refused, code) in [
        (Refused::Quota, 10),
        (Refused::Full, 8),
        (Refused::Network, 7),
        (Refused::Policy, 2),
        (Refused::Protocol, 9),
    ] {
        world.policy.refuse = Some(refused);
        world.refused(&map("192.168.0.77", TCP, 1, 600), code);
    }
}

#[test]
fn e_map_10_a_pure_firewall_returns_the_internal_end() {
    let mut world = World::new();
    let reply = world.mapped(&map(HOST6, TCP, 80, 600).suggest("2001:db8:9::1", 81));
    assert_eq!(reply.external(), end("[2001:db8:1::10]:80"));
    world.refused(&map(HOST6, TCP, 81, 600).suggest("2001:db8:1::10", 82).prefer_failure(), 11);
    world.mapped(&map(HOST6, TCP, 81, 600).suggest("2001:db8:1::10", 81).prefer_failure());
    // An IPv4 host outside every NAT rule.
    let reply = world.mapped(&map("198.51.100.77", TCP, 80, 600));
    assert_eq!(reply.external(), end("198.51.100.77:80"));
}

#[test]
fn e_map_11_deleting() {
    let mut world = World::new();
    world.mapped(&map(HOST, TCP, 80, 600));
    let delete = map(HOST, TCP, 80, 0);
    let reply = world.mapped(&delete);
    assert_eq!((reply.lifetime(), reply.external()), (0, end("0.0.0.0:0")));
    assert!(world.policy.rules.is_empty());
    assert_eq!(world.mapped(&delete), reply, "again: the same response");

    world.policy.fixed.insert((ip(HOST), TCP, 81), end("203.0.113.7:8080"));
    world.refused(&map(HOST, TCP, 81, 0), 2);
    world.policy.outbound.insert((ip(HOST), TCP, 82), end("203.0.113.7:30000"));
    world.refused(&map(HOST, TCP, 82, 0), 2);
    world.mapped(&peer(HOST, TCP, 83, "198.51.100.1:443", 600));
    world.refused(&map(HOST, TCP, 83, 0), 2);
    world.mapped(&map(HOST, TCP, 0, 0));
    world.mapped(&map(HOST, 0, 0, 0));
    assert_eq!(world.policy.rules.len(), 1, "PEER's stays");
}

#[test]
fn e_map_12_the_suggested_family_says_which_mapping_is_deleted() {
    let mut world = World::new();
    world.mapped(&map(HOST, TCP, 80, 600));
    let reply = world.mapped(&map(HOST, TCP, 80, 0).suggest("::", 7));
    assert_eq!(reply.external(), end("[::]:7"), "both are copied");
    assert_eq!(world.policy.rules.len(), 1, "the IPv4 mapping is still there");
    let reply = world.mapped(&map(HOST, TCP, 80, 0).suggest("0.0.0.0", 7));
    assert_eq!(reply.external(), end("0.0.0.0:7"));
    assert!(world.policy.rules.is_empty(), "the port says nothing");
}

#[test]
fn e_map_13_a_request_does_not_end_what_packets_keep() {
    let mut world = World::new();
    let inside = (ip(HOST), TCP, 80);
    world.mapped(&map(HOST, TCP, 80, 7200));
    world.policy.kept.insert(inside, 240);
    let reply = world.mapped(&map(HOST, TCP, 80, 0));
    assert_eq!(reply.lifetime(), 240);
    assert_eq!(world.rule().ends, world.now.after_seconds(240));
    world.policy.kept.insert(inside, 5000);
    world.mapped(&map(HOST, TCP, 80, 7200));
    let reply = world.mapped(&map(HOST, TCP, 80, 600));
    assert_eq!(reply.lifetime(), 5000);
    world.policy.kept.clear();
    assert_eq!(world.mapped(&map(HOST, TCP, 80, 600)).lifetime(), 600);
    assert_eq!(world.mapped(&map(HOST, TCP, 80, 0)).lifetime(), 0);
    assert!(world.policy.rules.is_empty());
}

#[test]
fn e_map_14_only_its_lifetime_or_its_client_ends_it() {
    let mut world = World::new();
    world.mapped(&map(HOST, TCP, 80, 600));
    world.pass(599);
    world.server.poll(world.now);
    assert_eq!(world.server.mappings(), 1);
    assert_eq!(world.server.deadline(), Some(world.now.after_seconds(1)));
    world.pass(1);
    world.server.poll(world.now);
    assert_eq!(world.server.mappings(), 0);
    assert!(world.settle().is_empty());
    assert!(!world.policy.orders.iter().any(|order| matches!(order, Order::Close { .. })));
}

#[test]
fn e_map_15_lifetimes_have_a_least_and_a_most() {
    let mut world = World::new();
    for (asked, granted) in [(1, 120), (119, 120), (120, 120), (600, 600), (86_400, 7200), (u32::MAX, 7200)] {
        assert_eq!(world.mapped(&map(HOST, TCP, 80, asked)).lifetime(), granted);
        world.mapped(&map(HOST, TCP, 80, 0));
    }
}

#[test]
fn e_map_17_sctp_keeps_its_port_or_is_refused() {
    let mut settings = settings();
    settings.translated.push(132);
    let mut world = World::with(settings);
    let reply = world.mapped(&map(HOST, 132, 36412, 600).suggest(EXTERNAL, 4711));
    assert_eq!(reply.external(), end("203.0.113.7:36412"));
    world.refused(&map(OTHER, 132, 36412, 600), 11);
    let mut world = World::new();
    world.refused(&map(HOST, 132, 36412, 600), 9);
}

#[test]
fn e_map_18_map_and_peer_are_switched_off_one_by_one() {
    for (maps, peers) in [(false, true), (true, false)] {
        let mut settings = settings();
        (settings.map, settings.peer) = (maps, peers);
        let mut world = World::with(settings);
        let reply = world.ask(&map(HOST, TCP, 80, 600));
        assert_eq!(reply.result(), if maps { 0 } else { 2 });
        let reply = world.ask(&peer(HOST, TCP, 81, "198.51.100.1:443", 600));
        assert_eq!(reply.result(), if peers { 0 } else { 2 });
    }
}

#[test]
fn e_opt_01_only_who_is_trusted_speaks_for_others() {
    let mut world = World::new();
    let ask = map(HOST, TCP, 80, 600).third_party(OTHER);
    world.refused(&ask, 5);
    let peer_ask = peer(HOST, TCP, 80, "198.51.100.1:443", 600).third_party(OTHER);
    world.refused(&peer_ask, 5);
    let manager = map(MANAGER, TCP, 80, 600);
    world.refused(&manager.clone().third_party(MANAGER), 3);
    world.refused(&manager.clone().third_party("10.1.1.1"), 2);
    let reply = world.mapped(&manager.clone().third_party(HOST));
    assert!(reply.has(1), "it is in the response");
    assert_eq!(world.rule().wanted.host, ip(HOST));
    // The host itself does not know the nonce.
    world.refused(&map(HOST, TCP, 80, 0).nonce(THEIRS), 2);
    world.mapped(&map(MANAGER, TCP, 80, 0).third_party(HOST));
    assert!(world.policy.rules.is_empty());
    let mut strange = crate::world::announce(MANAGER);
    strange = strange.third_party(HOST);
    world.refused(&strange, 5);
}

#[test]
fn e_opt_02_prefer_failure_takes_the_suggestion_or_nothing() {
    let mut world = World::new();
    world.refused(&map(HOST, TCP, 80, 600).prefer_failure(), 6);
    world.refused(&map(HOST, TCP, 80, 0).suggest(EXTERNAL, 80).prefer_failure(), 6);
    let reply = world.mapped(&map(HOST, TCP, 80, 600).suggest(EXTERNAL, 80).prefer_failure());
    assert_eq!(reply.external(), end("203.0.113.7:80"));
    assert!(reply.has(2));
    let reply = world.refused(&map(OTHER, TCP, 80, 600).suggest(EXTERNAL, 80).prefer_failure(), 11);
    assert_eq!(reply.external(), end("203.0.113.7:80"), "the suggestion comes back");
    world.refused(&map(OTHER, TCP, 80, 600).suggest("203.0.113.8", 81).prefer_failure(), 11);
    world.refused(&map(HOST, TCP, 80, 600).suggest(EXTERNAL, 81).prefer_failure(), 11);
    world.mapped(&map(HOST, TCP, 80, 600).suggest(EXTERNAL, 80).prefer_failure());
    // Probing for free ports costs more than asking.
    let mut settings = settings();
    settings.rate = 10;
    let mut world = World::with(settings);
    let probe = |port: u16| map(HOST, TCP, port, 600).suggest(EXTERNAL, 10_000 + port).prefer_failure();
    let answered = (1..100).filter(|port| !world.ask_all(&probe(*port)).is_empty()).count();
    assert_eq!(answered, 4);
}

#[test]
fn e_opt_03_filters() {
    let mut world = World::new();
    let reply = world.mapped(&map(HOST, UDP, 80, 600).filter("198.51.100.0", 120, 53));
    assert_eq!(reply.options().len(), 1);
    assert!(world.admits("198.51.100.200:53"));
    assert!(!world.admits("198.51.100.200:54") && !world.admits("198.51.101.1:53"));
    // Added to what is there; again changes nothing.
    world.mapped(&map(HOST, UDP, 80, 600).filter("192.0.2.1", 128, 0).filter("192.0.2.1", 128, 0));
    assert_eq!(world.rule().wanted.filters.len(), 2);
    assert!(world.admits("192.0.2.1:9") && world.admits("198.51.100.200:53"));
    world.mapped(&map(HOST, UDP, 80, 600));
    assert_eq!(world.rule().wanted.filters.len(), 2, "a renewal leaves them");
    // Erratum 3891: length 0 clears whatever the address says, also for IPv4.
    let replace = map(HOST, UDP, 80, 600).filter("203.0.113.200", 0, 77).filter("192.0.2.2", 128, 1);
    world.mapped(&replace);
    assert!(world.admits("192.0.2.2:1") && !world.admits("192.0.2.1:9"));
    world.mapped(&map(HOST, UDP, 80, 600).filter("::", 0, 0));
    assert!(world.admits("192.0.2.1:9"), "no filter is left");

    world.refused(&map(HOST, UDP, 80, 0).filter("192.0.2.1", 128, 0), 6);
    for length in [1, 95, 129, 255] {
        world.refused(&map(HOST, UDP, 80, 600).filter("192.0.2.1", length, 0), 6);
    }
    world.refused(&map(HOST, UDP, 80, 600).filter("2001:db8::1", 128, 0), 6);
    world.refused(&map(HOST6, UDP, 80, 600).filter("2001:db8::1", 129, 0), 6);
    world.mapped(&map(HOST, UDP, 80, 600).filter("192.0.2.1", 96, 5));
    assert!(world.admits("8.8.8.8:5") && !world.admits("8.8.8.8:6"), "any IPv4 host from that port");
}

#[test]
fn e_opt_03_too_many_filters_change_nothing() {
    let mut world = World::new();
    let mut ask = map(HOST, UDP, 80, 600);
    for last in 1..=8 {
        ask = ask.filter(&format!("192.0.2.{last}"), 128, 0);
    }
    world.mapped(&ask);
    let reply = world.refused(&map(HOST, UDP, 80, 600).filter("192.0.2.9", 128, 0), 13);
    assert_eq!(reply.lifetime(), 1800);
    world.refused(&map(OTHER, UDP, 80, 600).option(3, &[0; 4]), 6);
    let swap = map(HOST, UDP, 80, 600).filter("::", 0, 0).filter("192.0.2.9", 128, 0);
    world.mapped(&swap);
    assert_eq!(world.rule().wanted.filters.len(), 1);
}

#[test]
fn e_sec_01_nothing_that_a_packet_could_not_have_opened() {
    let mut defaults = settings();
    defaults.third_party.clear();
    assert!(turnpike_pcp::server::Settings::default().third_party.is_empty());
    // Lifetimes are those of an outgoing TCP connection by default (RFC 5382: 2 h 4 min).
    assert!(turnpike_pcp::server::Settings::default().lifetime.1 <= 7440);
    let mut world = World::with(defaults);
    world.refused(&map(MANAGER, TCP, 80, 600).third_party(HOST), 5);
    for host in ["fe80::1", "::1", "ff02::1"] {
        world.refused(&map(host, TCP, 80, 600), 2);
        world.refused(&peer(host, TCP, 80, "[2001:db8::1]:443", 600), 2);
    }
    for host in ["127.0.0.1", "224.0.0.1", "255.255.255.255", "0.0.0.0", "169.254.1.1"] {
        world.refused(&map(host, TCP, 80, 600), 2);
    }
    // A host's rules are its own.
    world.mapped(&map(HOST, TCP, 80, 600));
    assert_eq!(world.rule().wanted.host, ip(HOST));
}

#[test]
fn a_mapping_that_ended_meanwhile_is_made_anew() {
    let mut world = World::new();
    world.mapped(&map(HOST, TCP, 80, 600));
    world.policy.rules.clear();
    let reply = world.mapped(&map(HOST, TCP, 80, 900));
    assert_eq!(reply.lifetime(), 900);
    assert_eq!(world.policy.rules.len(), 1);
}

#[test]
fn a_mapping_that_the_operator_took_away_is_forgotten() {
    let mut world = World::new();
    world.mapped(&map(HOST, TCP, 80, 600));
    let (number, _) = world.policy.rules.drain().next().expect("one");
    world.server.ended(world.now, turnpike_pcp::server::RuleId(number));
    assert_eq!(world.server.mappings(), 0);
    world.mapped(&map(HOST, TCP, 80, 600).nonce(THEIRS));
}

//! PORT_SET (RFC 7753; rows E-SET).

use crate::world::{EXTERNAL, HOST, NONCE, TCP, THEIRS, UDP, World, end, map, peer, settings};

#[test]
fn e_set_01_what_is_malformed() {
    let mut world = World::new();
    world.refused(&map(HOST, UDP, 4000, 600).port_set(0, 4000, false), 6);
    world.refused(&map(HOST, UDP, 4000, 600).port_set(4, 4000, false).port_set(4, 4000, false), 6);
    let ask = map(HOST, UDP, 4000, 600).suggest(EXTERNAL, 5000);
    world.refused(&ask.clone().port_set(4, 4000, false).prefer_failure(), 6);
    world.refused(&ask.prefer_failure().port_set(4, 4000, false), 6);
    world.refused(&map(HOST, UDP, 4000, 600).port_set(4, 4001, false), 6);
    world.refused(&map(HOST, UDP, 4000, 600).option(130, &[0, 4, 15, 160]), 6);
    world.refused(&map(HOST, 0, 1, 600).port_set(65535, 1, false), 3);
    // PEER has no such option, and it may be ignored.
    let reply = world.mapped(&peer(HOST, UDP, 9, "198.51.100.1:443", 600).port_set(4, 9, false));
    assert!(reply.options().is_empty());
}

#[test]
fn e_set_02_as_many_as_there_are_and_never_more_than_asked_for() {
    let mut world = World::new();
    let reply = world.mapped(&map(HOST, UDP, 50_000, 600).port_set(100, 50_000, false));
    assert_eq!(reply.port_set(), Some((100, 50_000)));
    assert_eq!(world.rule().wanted.size, 100);
    world.policy.most = 32;
    let reply = world.mapped(&map(HOST, TCP, 50_000, 600).port_set(100, 50_000, false));
    assert_eq!(reply.port_set(), Some((32, 50_000)), "example 5.1");
    // No ports beyond the last one.
    world.policy.most = u16::MAX;
    let reply = world.mapped(&map(HOST, UDP, 65_530, 600).port_set(0xffff, 65_530, false));
    assert_eq!(reply.port_set(), Some((6, 65_530)));
    // One remote port for all of a set is no rule of a range.
    let ask = map(HOST, UDP, 3000, 600).filter("192.0.2.1", 128, 53).port_set(4, 3000, false);
    assert_eq!(world.mapped(&ask).port_set(), None);
    world.refused(&map(HOST, TCP, 50_000, 600).filter("192.0.2.1", 128, 53).port_set(9, 50_000, false), 13);
    // The operator's limit.
    let mut settings = settings();
    settings.port_set = 8;
    let mut world = World::with(settings);
    let reply = world.mapped(&map(HOST, UDP, 1000, 600).port_set(0xffff, 1000, false));
    assert_eq!(reply.port_set(), Some((8, 1000)));
}

#[test]
fn e_set_03_a_single_port_has_no_option() {
    let mut world = World::new();
    assert!(world.mapped(&map(HOST, UDP, 4000, 600).port_set(1, 4000, false)).options().is_empty());
    world.policy.most = 1;
    assert!(world.mapped(&map(HOST, UDP, 5000, 600).port_set(10, 5000, false)).options().is_empty());
}

#[test]
fn e_set_04_overlaps_refresh_each_mapping() {
    let mut world = World::new();
    // Example 5.3.
    world.mapped(&map(HOST, TCP, 100, 600).suggest(EXTERNAL, 100));
    world.mapped(&map(HOST, TCP, 101, 600).suggest(EXTERNAL, 201).port_set(99, 101, false));
    let replies = world.ask_all(&map(HOST, TCP, 100, 900).port_set(100, 100, false));
    assert_eq!(replies.len(), 2);
    assert_eq!((replies[0].internal_port(), replies[0].external()), (100, end("203.0.113.7:100")));
    assert_eq!(replies[0].port_set(), None);
    assert_eq!((replies[1].internal_port(), replies[1].external()), (101, end("203.0.113.7:201")));
    assert_eq!(replies[1].port_set(), Some((99, 101)));
    assert!(replies.iter().all(|reply| reply.lifetime() == 900 && reply.result() == 0));
    assert_eq!(world.policy.rules.len(), 2, "nothing new");

    // Section 6.3: the second request begins within the first set.
    let mut world = World::new();
    let first = world.mapped(&map(HOST, TCP, 1, 600).port_set(10, 1, false));
    let second = world.mapped(&map(HOST, TCP, 5, 600).port_set(10, 5, false));
    assert_eq!((second.internal_port(), second.port_set()), (5, Some((10, 1))));
    assert_eq!(second.external(), first.external());
    // A client that does not know of sets learns its own port's end.
    let single = world.mapped(&map(HOST, TCP, 5, 600));
    assert!(single.options().is_empty());
    assert_eq!(single.external().port(), first.external().port() + 4);
    // Each with its own nonce.
    world.mapped(&map(HOST, TCP, 11, 600).nonce(THEIRS));
    let replies = world.ask_all(&map(HOST, TCP, 1, 700).port_set(11, 1, false));
    assert_eq!(replies.len(), 2);
    let granted: Vec<_> = replies.iter().filter(|reply| reply.result() == 0).collect();
    assert_eq!((granted.len(), granted[0].port_set()), (1, Some((10, 1))));
    assert!(replies.iter().any(|reply| reply.result() == 2));
    assert_eq!(granted[0].bytes[24..36], NONCE);
}

#[test]
fn e_set_05_a_set_is_renewed_and_deleted_as_one() {
    let mut world = World::new();
    let ask = map(HOST, TCP, 1000, 600).port_set(10, 1000, false);
    world.mapped(&ask);
    world.pass(300);
    let reply = world.mapped(&ask);
    assert_eq!((reply.lifetime(), reply.port_set()), (600, Some((10, 1000))));
    let reply = world.mapped(&map(HOST, TCP, 1000, 0).port_set(10, 1000, false));
    assert_eq!(reply.lifetime(), 0);
    assert!(world.policy.rules.is_empty());
}

#[test]
fn e_set_06_later_sets_have_the_same_address() {
    let mut world = World::new();
    let first = world.mapped(&map(HOST, TCP, 1000, 600).port_set(10, 1000, false)).external();
    let second = world.mapped(&map(HOST, TCP, 2000, 600).port_set(10, 2000, false)).external();
    assert_eq!(first.ip(), second.ip());
    assert!(second.port() >= first.port() + 10);
}

#[test]
fn e_set_07_parity_is_kept() {
    let mut world = World::new();
    for port in [4001, 5000, 6001, 7000] {
        let reply = world.mapped(&map(HOST, UDP, port, 600).port_set(3, port, true));
        assert_eq!(reply.external().port() % 2, port % 2);
        let (_, option) = reply.options().remove(0);
        assert_eq!(option[4], 1);
    }
}

//! Announcements and moved mappings (rows E-REC).

use crate::world::{EXTERNAL, HOST, MANAGER, TCP, UDP, World, announce, end, ip, map, peer};
use std::net::SocketAddr;
use turnpike_pcp::server::{Refused, Time};

/// When messages were sent, and what.
fn played(world: &mut World, seconds: u64) -> Vec<(u64, crate::world::Reply)> {
    let begin = world.now;
    let end = begin.after(seconds * 1000);
    let mut sent = Vec::new();
    while let Some(due) = world.server.deadline().filter(|due| *due <= end) {
        world.now = world.now.max(due);
        world.server.poll(world.now);
        let at = begin.until(world.now);
        sent.extend(world.settle().into_iter().map(|reply| (at, reply)));
    }
    world.now = end;
    sent
}

#[test]
fn e_rec_01_both_mechanisms_are_there() {
    let mut world = World::new();
    world.places();
    world.mapped(&map(HOST, TCP, 80, 600));
    world.policy.pool = Some(ip("203.0.113.8"));
    assert!(world.server.renumber(world.now, |address| address == ip("203.0.113.8")));
    let sent = played(&mut world, 1);
    assert!(sent.iter().any(|(_, reply)| reply.bytes[1] == 0x80), "ANNOUNCE");
    assert!(sent.iter().any(|(_, reply)| reply.bytes[1] == 0x81), "Mapping Update");
}

#[test]
fn e_rec_02_a_restart_is_announced_ten_times_in_both_families() {
    let mut world = World::new();
    world.speaks.nat_pmp = false;
    world.places();
    let sent = played(&mut world, 300);
    for to in ["224.0.0.1:5350", "[ff02::1]:5350"] {
        let to: SocketAddr = end(to);
        let ours: Vec<_> = sent.iter().filter(|(_, reply)| reply.to.ip() == to.ip()).collect();
        assert_eq!(ours.len(), 10);
        let times: Vec<u64> = ours.iter().map(|(at, _)| *at).collect();
        let gaps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps[0] >= 250 && gaps.windows(2).all(|pair| pair[1] >= 2 * pair[0]), "{gaps:?}");
        for (at, reply) in ours {
            assert_eq!(reply.to.port(), 5350);
            assert_eq!(reply.bytes.len(), 24);
            assert_eq!(reply.bytes[..8], [2, 0x80, 0, 0, 0, 0, 0, 0]);
            assert_eq!(u64::from(reply.epoch()), at / 1000, "the epoch goes on meanwhile");
        }
    }
    assert_eq!(world.server.deadline(), None);
    // State is lost: once more, from zero.
    world.server.reset_epoch(world.now);
    let sent = played(&mut world, 300);
    assert_eq!((sent.len(), sent[0].1.epoch()), (20, 0));
    let link = sent.iter().find_map(|(_, reply)| match reply.to {
        SocketAddr::V6(to) => Some(to.scope_id()),
        SocketAddr::V4(_) => None,
    });
    assert_eq!(link, Some(3), "on the link of the place");
}

#[test]
fn e_rec_03_who_asks_hears_that_the_server_is_there() {
    let mut world = World::new();
    let mut ask = announce(HOST);
    ask.bytes[4..8].copy_from_slice(&99u32.to_be_bytes());
    let reply = world.mapped(&ask);
    assert_eq!(reply.lifetime(), 0);
    assert_eq!(reply.bytes.len(), 24);
    assert_eq!((world.server.mappings(), world.policy.orders.len()), (0, 0));
    let mut mismatch = announce(HOST);
    mismatch.from = end("192.168.0.12:1");
    world.refused(&mismatch, 12);
    world.mapped(&announce(HOST).option(200, &[1, 2, 3]));
    world.refused(&announce(HOST).option(60, &[]), 5);
}

#[test]
fn e_rec_04_clients_hear_of_their_new_external_ends() {
    let mut world = World::new();
    let plain = map(HOST, TCP, 80, 600).filter("198.51.100.0", 120, 0);
    world.mapped(&plain);
    world.mapped(&map(MANAGER, UDP, 90, 600).from("192.168.0.99:4444").third_party(HOST));
    world.mapped(&peer(HOST, TCP, 5000, "198.51.100.1:443", 600));
    world.mapped(&map(HOST, TCP, 81, 600).suggest(EXTERNAL, 81).prefer_failure());
    world.mapped(&map(HOST, TCP, 82, 600));
    world.pass(100);
    world.policy.pool = Some(ip("203.0.113.8"));
    world.server.renumber(world.now, |address| address == ip("203.0.113.8"));
    world.settle();
    assert_eq!(world.epochs.len(), 1, "the epoch begins anew");
    // One renews by itself meanwhile: no more for that one.
    world.mapped(&map(HOST, TCP, 82, 600));
    let sent = played(&mut world, 10);
    let about = |port: u16, opcode: u8| -> Vec<_> {
        let ours = |reply: &&(u64, crate::world::Reply)| {
            reply.1.bytes[1] == opcode | 0x80 && reply.1.internal_port() == port
        };
        sent.iter().filter(ours).cloned().collect()
    };
    let moved = about(80, 1);
    assert_eq!(moved.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 250, 750]);
    let (_, reply) = &moved[0];
    assert_eq!((reply.result(), reply.external().ip()), (0, ip("203.0.113.8")));
    assert_eq!((reply.lifetime(), reply.to, reply.from), (500, plain.from, world.place));
    assert_eq!(reply.options().iter().map(|(code, _)| *code).collect::<Vec<_>>(), [3]);
    assert_eq!(reply.bytes[24..36], crate::world::NONCE);
    let third = about(90, 1);
    assert_eq!((third.len(), third[0].1.to), (3, end("192.168.0.99:4444")));
    assert!(third[0].1.has(1));
    assert_eq!(about(5000, 2).len(), 3);
    let failed = about(81, 1);
    assert_eq!((failed.len(), failed[0].1.result()), (3, 11));
    assert_eq!(failed[0].1.external(), end("203.0.113.7:81"));
    assert!(about(82, 1).is_empty());
    assert_eq!(world.policy.rules.len(), 4);
    assert!(world.policy.rules.values().all(|rule| rule.external.ip() == ip("203.0.113.8")));
}

#[test]
fn e_rec_04_what_cannot_be_moved_is_gone() {
    let mut world = World::new();
    world.mapped(&map(HOST, TCP, 80, 600));
    world.policy.refuse = Some(Refused::Full);
    world.server.renumber(world.now, |_| false);
    world.settle();
    let sent = played(&mut world, 10);
    let updates: Vec<_> = sent.iter().filter(|(_, reply)| reply.bytes[1] == 0x81).collect();
    assert_eq!(updates.len(), 3);
    assert!(updates.iter().all(|(_, reply)| reply.result() == 8));
    assert_eq!(world.server.mappings(), 0);
}

#[test]
fn after_a_restart_mappings_and_nonces_are_there() {
    let mut world = World::new();
    let external = world.mapped(&map(HOST, TCP, 80, 600).filter("198.51.100.0", 120, 7)).external();
    world.mapped(&peer(HOST, UDP, 5000, "198.51.100.1:443", 600));
    let began = Time(1_000_000_000);
    world.pass(100);
    world.restart(began);
    assert_eq!(world.server.mappings(), 2);
    let reply = world.refused(&map(HOST, TCP, 80, 600).nonce([1; 12]), 2);
    assert_eq!((reply.lifetime(), reply.epoch()), (500, 100));
    let reply = world.mapped(&map(HOST, TCP, 80, 600));
    assert_eq!(reply.external(), external);
    world.refused(&peer(HOST, UDP, 5000, "198.51.100.1:443", 600).nonce([1; 12]), 2);
    world.pass(600);
    world.server.poll(world.now);
    assert_eq!(world.server.mappings(), 0);
}

#[test]
fn e_rec_04_what_the_workers_ended_first_moves_too() {
    let mut world = World::new();
    world.mapped(&map(HOST, TCP, 80, 600));
    world.mapped(&map(HOST, TCP, 81, 600));
    let numbers: Vec<u64> = world.policy.rules.drain().map(|(number, _)| number).collect();
    for number in numbers {
        world.server.ended(world.now, turnpike_pcp::server::RuleId(number));
    }
    world.policy.pool = Some(ip("203.0.113.8"));
    // One of the two asked again meanwhile.
    world.mapped(&map(HOST, TCP, 81, 600));
    assert!(world.server.renumber(world.now, |address| address == ip("203.0.113.8")));
    world.settle();
    let sent = played(&mut world, 1);
    let updates: Vec<_> = sent.iter().filter(|(_, reply)| reply.bytes[1] == 0x81).collect();
    assert_eq!(updates.len(), 3);
    assert!(updates.iter().all(|(_, reply)| reply.external().ip() == ip("203.0.113.8")));
    assert_eq!(world.policy.rules.len(), 2);
    // What ended long ago, or at an address that is there still, does not come back.
    let numbers: Vec<u64> = world.policy.rules.drain().map(|(number, _)| number).collect();
    world.server.ended(world.now, turnpike_pcp::server::RuleId(numbers[0]));
    assert!(!world.server.renumber(world.now, |address| address == ip("203.0.113.8")));
    world.server.ended(world.now, turnpike_pcp::server::RuleId(numbers[1]));
    world.pass(6);
    assert!(!world.server.renumber(world.now, |_| false));
    assert_eq!(world.server.mappings(), 0);
}

#[test]
fn e_rec_04_a_mapping_waits_for_its_old_rule_to_go() {
    let mut world = World::new();
    world.mapped(&map(HOST, TCP, 80, 600));
    world.policy.refuse = Some(Refused::External);
    world.server.renumber(world.now, |_| false);
    world.settle();
    let sent = played(&mut world, 1);
    assert!(sent.iter().all(|(_, reply)| reply.bytes[1] != 0x81), "not given up");
    world.policy.refuse = None;
    world.policy.rules.clear();
    let sent = played(&mut world, 1);
    let updates: Vec<_> = sent.iter().filter(|(_, reply)| reply.bytes[1] == 0x81).collect();
    assert!(!updates.is_empty() && updates.iter().all(|(_, reply)| reply.result() == 0));
    // Not for ever.
    world.policy.refuse = Some(Refused::External);
    world.server.renumber(world.now, |_| false);
    world.settle();
    let sent = played(&mut world, 10);
    assert!(sent.iter().any(|(_, reply)| reply.bytes[1] == 0x81 && reply.result() == 8));
    assert_eq!(world.server.mappings(), 0);
}

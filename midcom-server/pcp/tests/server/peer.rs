//! PEER (rows E-PEER).

use crate::world::{EXTERNAL, HOST, HOST6, TCP, THEIRS, UDP, World, end, ip, map, peer};
use turnpike_pcp::server::Kind;

const REMOTE: &str = "198.51.100.1:443";

#[test]
fn e_peer_01_a_mapping_like_an_outgoing_packets() {
    let mut world = World::new();
    let reply = world.mapped(&peer(HOST, TCP, 5000, REMOTE, 600));
    assert_eq!(reply.external().ip(), ip(EXTERNAL));
    assert_eq!(reply.bytes[60..62], 443u16.to_be_bytes());
    assert_eq!(reply.bytes.len(), 80);
    assert_eq!(world.rule().wanted.kind, Kind::Outbound(end(REMOTE)));
    let ask = peer(HOST, TCP, 5001, REMOTE, 600).suggest(EXTERNAL, 7777);
    assert_eq!(world.mapped(&ask).external(), end("203.0.113.7:7777"));
    let reply = world.refused(&peer(HOST, TCP, 5002, REMOTE, 600).suggest(EXTERNAL, 7777), 11);
    assert_eq!(reply.external(), end("203.0.113.7:7777"));
    world.refused(&peer(HOST, TCP, 5002, REMOTE, 600).suggest("198.51.100.77", 0), 11);
    world.refused(&peer(HOST6, TCP, 5000, "[2001:db8:2::1]:443", 600).suggest("::", 1), 11);
    let reply = world.mapped(&peer(HOST6, TCP, 5000, "[2001:db8:2::1]:443", 600));
    assert_eq!(reply.external(), end("[2001:db8:1::10]:5000"));
}

#[test]
fn e_peer_02_a_mapping_that_is_there_is_shown_and_remembered() {
    let mut world = World::new();
    world.policy.outbound.insert((ip(HOST), TCP, 5000), end("203.0.113.7:33333"));
    world.policy.kept.insert((ip(HOST), TCP, 5000), 3000);
    let reply = world.mapped(&peer(HOST, TCP, 5000, REMOTE, 600).suggest(EXTERNAL, 7777));
    assert_eq!(reply.external(), end("203.0.113.7:33333"), "the suggestion says nothing");
    assert_eq!(reply.lifetime(), 3000, "nor is it shortened");
    let reply = world.refused(&peer(HOST, TCP, 5000, REMOTE, 7000).nonce(THEIRS), 2);
    assert_eq!(reply.lifetime(), 3000);
    let reply = world.mapped(&peer(HOST, TCP, 5000, REMOTE, 7000));
    assert_eq!(reply.lifetime(), 7000);
    // What MAP made has the same external end.
    let made = world.mapped(&map(HOST, UDP, 90, 600)).external();
    assert_eq!(world.mapped(&peer(HOST, UDP, 90, REMOTE, 600)).external(), made);
}

#[test]
fn e_peer_03_what_peer_cannot_do() {
    let mut world = World::new();
    world.mapped(&peer(HOST, TCP, 5000, REMOTE, 7000));
    for lifetime in [0, 1, 600] {
        assert_eq!(world.mapped(&peer(HOST, TCP, 5000, REMOTE, lifetime)).lifetime(), 7000);
    }
    for ask in [
        peer(HOST, TCP, 5001, REMOTE, 600).suggest(EXTERNAL, 1).prefer_failure(),
        peer(HOST, 0, 5001, REMOTE, 600),
        peer(HOST, TCP, 0, REMOTE, 600),
        peer(HOST, TCP, 5001, "198.51.100.1:0", 600),
        peer(HOST, TCP, 5001, "127.0.0.1:443", 600),
        peer(HOST, TCP, 5001, "224.0.0.1:443", 600),
        peer(HOST, TCP, 5001, "0.0.0.0:443", 600),
        peer(HOST, TCP, 5001, "[2001:db8::1]:443", 600),
    ] {
        world.refused(&ask, 3);
    }
    world.refused(&peer(HOST, TCP, 5001, REMOTE, 600).filter("192.0.2.1", 128, 0), 5);
    world.refused(&peer(HOST, 99, 5001, REMOTE, 600), 9);
}

#[test]
fn e_peer_04_it_ends_when_it_is_not_renewed() {
    let mut world = World::new();
    world.mapped(&peer(HOST, TCP, 5000, REMOTE, 600));
    world.pass(600);
    world.server.poll(world.now);
    assert_eq!((world.server.mappings(), world.policy.rules.len()), (0, 0));
    assert!(
        world.mapped(&peer(HOST, TCP, 5000, REMOTE, 7000)).lifetime() > 300,
        "longer than UDP's idle time"
    );
}

#[test]
fn two_copies_of_a_request_make_one_mapping() {
    let mut world = World::new();
    world.slow = true;
    let ask = peer(HOST, TCP, 5000, REMOTE, 600);
    assert!(world.ask_all(&ask).is_empty() && world.ask_all(&ask).is_empty());
    assert_eq!(world.catch_up().len(), 1);
    assert_eq!(world.policy.rules.len(), 1);
}

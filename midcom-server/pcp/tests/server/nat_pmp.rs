//! NAT-PMP (rows E-PMP).

use crate::world::{HOST, OTHER, TCP, UDP, World, end, ip, map, settings};
use std::net::SocketAddr;
use turnpike_pcp::server::{Drop, Side};

fn ask(world: &mut World, from: &str, bytes: &[u8]) -> Vec<Vec<u8>> {
    let from: SocketAddr = end(from);
    world.server.receive(world.now, world.place, from, bytes);
    let sent = world.settle();
    assert!(sent.iter().all(|reply| reply.to == from && reply.from == world.place));
    sent.into_iter().map(|reply| reply.bytes).collect()
}

/// RFC 6886 section 3.3.
fn mapping(op: u8, internal: u16, external: u16, lifetime: u32) -> Vec<u8> {
    let mut bytes = vec![0, op, 0, 0];
    bytes.extend(internal.to_be_bytes());
    bytes.extend(external.to_be_bytes());
    bytes.extend(lifetime.to_be_bytes());
    bytes
}

#[derive(Debug, PartialEq, Eq)]
struct Mapped {
    op: u8,
    result: u16,
    epoch: u32,
    internal: u16,
    external: u16,
    lifetime: u32,
}

#[track_caller]
fn mapped(world: &mut World, host: &str, request: &[u8]) -> Mapped {
    let mut replies = ask(world, &format!("{host}:4000"), request);
    assert_eq!(replies.len(), 1);
    let reply = replies.remove(0);
    assert_eq!((reply.len(), reply[0]), (16, 0));
    let two = |at: usize| u16::from_be_bytes([reply[at], reply[at + 1]]);
    let four = |at: usize| u32::from_be_bytes([reply[at], reply[at + 1], reply[at + 2], reply[at + 3]]);
    Mapped {
        op: reply[1],
        result: two(2),
        epoch: four(4),
        internal: two(8),
        external: two(10),
        lifetime: four(12),
    }
}

#[test]
fn e_pmp_01_external_address_and_mappings() {
    let mut settings = settings();
    settings.sides[0].1 = Side::Translated(Some([203, 0, 113, 7].into()));
    let mut world = World::with(settings);
    world.pass(9);
    let reply = ask(&mut world, "192.168.0.10:4000", &[0, 0]);
    assert_eq!(reply, [vec![0, 128, 0, 0, 0, 0, 0, 9, 203, 0, 113, 7]]);
    let udp = mapped(&mut world, HOST, &mapping(1, 80, 8080, 3600));
    assert_eq!(udp, Mapped { op: 129, result: 0, epoch: 9, internal: 80, external: 8080, lifetime: 3600 });
    let tcp = mapped(&mut world, HOST, &mapping(2, 80, 0, 3600));
    assert_eq!((tcp.op, tcp.result, tcp.internal), (130, 0, 80));
    let protocols: Vec<u8> = {
        let mut all: Vec<u8> = world.policy.rules.values().map(|rule| rule.wanted.protocol).collect();
        all.sort_unstable();
        all
    };
    assert_eq!(protocols, [TCP, UDP]);
}

#[test]
fn e_pmp_02_versions_opcodes_and_results() {
    let mut world = World::new();
    assert!(ask(&mut world, "192.168.0.10:4000", &[0, 128]).is_empty(), "a response");
    assert!(ask(&mut world, "192.168.0.10:4000", &[0, 255, 1]).is_empty());
    let odd = [0, 3, 9, 9, 1, 2, 3];
    assert_eq!(ask(&mut world, "192.168.0.10:4000", &odd), [vec![0, 131, 0, 5, 1, 2, 3]]);
    assert!(ask(&mut world, "192.168.0.10:4000", &mapping(1, 80, 80, 60)[..11]).is_empty(), "cut");
    // NAT-PMP is off: PCP's own words, which NAT-PMP clients understand.
    world.speaks.nat_pmp = false;
    world.quiet_places();
    let replies = ask(&mut world, "192.168.0.10:4000", &[0, 0]);
    assert_eq!(replies[0][..4], [2, 128, 0, 1]);
    // PCP is off: NAT-PMP's, with opcode 128 (erratum 3618).
    (world.speaks.pcp, world.speaks.nat_pmp) = (false, true);
    world.quiet_places();
    world.pass(5);
    let replies = ask(&mut world, "192.168.0.10:4000", &map(HOST, TCP, 80, 600).bytes);
    assert_eq!(replies, [vec![0, 128, 0, 1, 0, 0, 0, 5]]);
    world.speaks.nat_pmp = false;
    world.quiet_places();
    assert!(ask(&mut world, "192.168.0.10:4000", &[0, 0]).is_empty());
    assert!(ask(&mut world, "192.168.0.10:4000", &map(HOST, TCP, 80, 600).bytes).is_empty());
}

#[test]
fn e_pmp_03_the_companion_port_is_kept_for_its_host() {
    let mut world = World::new();
    assert_eq!(mapped(&mut world, HOST, &mapping(2, 80, 80, 3600)).external, 80);
    assert_ne!(mapped(&mut world, OTHER, &mapping(1, 80, 80, 3600)).external, 80);
    let over_pcp = world.mapped(&map(OTHER, UDP, 81, 600).suggest("0.0.0.0", 80));
    assert_ne!(over_pcp.external().port(), 80);
    let insisting = map(OTHER, UDP, 82, 600).suggest("0.0.0.0", 80).prefer_failure();
    assert_eq!(world.ask(&insisting).result(), 11);
    assert_eq!(mapped(&mut world, HOST, &mapping(1, 80, 80, 3600)).external, 80, "its own host gets it");
    assert!(
        !world.policy.rules.values().any(|rule| rule.wanted.host == ip(OTHER) && rule.external.port() == 80)
    );
    // Nor does it take a port whose companion is another's already.
    world.mapped(&map(OTHER, TCP, 90, 600).suggest("0.0.0.0", 90));
    assert_ne!(mapped(&mut world, HOST, &mapping(1, 90, 90, 3600)).external, 90);
}

#[test]
fn e_pmp_04_mappings_of_the_sender_and_no_longer_than_it_asks() {
    let mut world = World::new();
    let first = mapped(&mut world, HOST, &mapping(2, 80, 8080, 60));
    assert_eq!((first.external, first.lifetime), (8080, 60));
    assert_eq!(world.rule().wanted.host, ip(HOST));
    let again = mapped(&mut world, HOST, &mapping(2, 80, 9090, 90_000));
    assert_eq!((again.external, again.lifetime), (8080, 7200));
    world.policy.fixed.insert((ip(HOST), TCP, 81), end("203.0.113.7:8181"));
    let fixed = mapped(&mut world, HOST, &mapping(2, 81, 0, 500));
    assert_eq!((fixed.result, fixed.external, fixed.lifetime), (0, 8181, 500));
    world.policy.outbound.insert((ip(HOST), TCP, 82), end("203.0.113.7:8282"));
    assert_eq!(mapped(&mut world, HOST, &mapping(2, 82, 1, 500)).external, 8282);
    // PCP's mappings are shown, and left as they are.
    let pcp = world.mapped(&map(HOST, TCP, 83, 600)).external().port();
    let before = world.state();
    let shown = mapped(&mut world, HOST, &mapping(2, 83, 0, 7000));
    assert_eq!((shown.external, shown.lifetime), (pcp, 600));
    assert_eq!(mapped(&mut world, HOST, &mapping(2, 83, 0, 0)).result, 2);
    assert_eq!(world.state(), before);
    // And PCP takes over what NAT-PMP made.
    let reply = world.mapped(&map(HOST, TCP, 80, 600).nonce([1; 12]));
    assert_eq!(reply.external().port(), 8080);
    world.refused(&map(HOST, TCP, 80, 600), 2);
}

#[test]
fn e_pmp_05_deleting() {
    let mut world = World::new();
    mapped(&mut world, HOST, &mapping(2, 80, 8080, 600));
    let gone = Mapped { op: 130, result: 0, epoch: 0, internal: 80, external: 0, lifetime: 0 };
    assert_eq!(mapped(&mut world, HOST, &mapping(2, 80, 8080, 0)), gone);
    assert!(world.policy.rules.is_empty());
    assert_eq!(mapped(&mut world, HOST, &mapping(2, 80, 8080, 0)), gone, "again");
    world.policy.fixed.insert((ip(HOST), TCP, 81), end("203.0.113.7:8181"));
    let refused = mapped(&mut world, HOST, &mapping(2, 81, 0, 0));
    assert_eq!((refused.result, refused.internal, refused.lifetime), (2, 81, 0));
    // All of them, of one protocol.
    for port in 90..95 {
        mapped(&mut world, HOST, &mapping(2, port, 0, 600));
    }
    mapped(&mut world, HOST, &mapping(1, 90, 0, 600));
    mapped(&mut world, OTHER, &mapping(2, 90, 0, 600));
    let all = mapped(&mut world, HOST, &mapping(2, 0, 0, 0));
    assert_eq!((all.result, all.internal, all.external, all.lifetime), (0, 0, 0, 0));
    assert_eq!(world.policy.rules.len(), 2);
    // What is not NAT-PMP's stays, and the rest goes.
    world.mapped(&map(HOST, UDP, 99, 600));
    assert_eq!(mapped(&mut world, HOST, &mapping(1, 0, 0, 0)).result, 2);
    assert_eq!(world.policy.rules.len(), 2);
    assert_eq!(mapped(&mut world, HOST, &mapping(1, 0, 0, 600)).result, 2, "no port to map");
}

#[test]
fn e_pmp_06_announced_to_everybody() {
    let mut settings = settings();
    settings.sides[0].1 = Side::Translated(Some([203, 0, 113, 7].into()));
    let mut world = World::with(settings);
    world.speaks.pcp = false;
    world.places();
    let mut times = Vec::new();
    while let Some(due) = world.server.deadline() {
        world.now = due;
        world.server.poll(due);
        for reply in world.settle() {
            assert_eq!((reply.to, reply.from), (end("224.0.0.1:5350"), world.place));
            assert_eq!(reply.bytes[..4], [0, 128, 0, 0]);
            assert_eq!(reply.bytes[8..], [203, 0, 113, 7]);
            let elapsed = (world.now.0 - 1_000_000_000) / 1000;
            assert_eq!(reply.bytes[4..8], (elapsed as u32).to_be_bytes());
            times.push(world.now.0 - 1_000_000_000);
        }
    }
    assert_eq!(times.len(), 10);
    assert_eq!(times[..4], [0, 250, 750, 1750]);
}

#[test]
fn e_pmp_07_off_by_default_and_honest_about_pools() {
    assert!(!turnpike_pcp::server::Speaks::default().nat_pmp);
    let mut world = World::new();
    // Many addresses, and this host has none of them yet.
    let unknown = ask(&mut world, "192.168.0.10:4000", &[0, 0]);
    assert_eq!(unknown, [vec![0, 128, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0]]);
    world.policy.paired = Some(ip("203.0.113.9"));
    assert_eq!(ask(&mut world, "192.168.0.10:4000", &[0, 0])[0][8..], [203, 0, 113, 9]);
    mapped(&mut world, HOST, &mapping(2, 80, 0, 600));
    assert_eq!(ask(&mut world, "192.168.0.10:4000", &[0, 0])[0][8..], [203, 0, 113, 7], "its mapping's");
    // RFC 6886 section 3.8: a host that is not translated has no NAT gateway here.
    assert!(ask(&mut world, "198.51.100.77:4000", &[0, 0]).is_empty());
    assert_eq!(world.server.counts().dropped(Drop::Disabled), 1);
}

//! What is accepted at all, and how errors look (rows E-COM).

use crate::world::{
    HOST, HOST6, MANAGER, NONCE, OTHER, TCP, UDP, World, announce, end, header, ip, map, settings,
};
use turnpike_pcp::server::Drop;

#[test]
fn e_com_01_only_where_the_operator_enabled_it() {
    let mut world = World::new();
    let elsewhere = turnpike_pcp::server::Place { interface: 4, address: ip("203.0.113.2") };
    for ask in [map(HOST, TCP, 80, 600), announce(HOST), map(MANAGER, TCP, 80, 600).third_party(HOST)] {
        world.server.receive(world.now, elsewhere, ask.from, &ask.bytes);
        assert!(world.settle().is_empty());
    }
    assert_eq!(world.server.counts().dropped(Drop::Disabled), 3);
    assert!(world.policy.orders.is_empty());
}

#[test]
fn e_com_02_what_is_dropped_and_what_is_malformed() {
    let mut world = World::new();
    for bytes in [vec![], vec![2]] {
        world.server.receive(world.now, world.place, end("192.168.0.10:1"), &bytes);
    }
    let mut response = announce(HOST);
    response.bytes[1] |= 0x80;
    assert!(world.ask_all(&response).is_empty(), "the R bit");
    assert_eq!(world.server.counts().dropped(Drop::NotARequest), 3);

    for version in [1, 3, 255] {
        let mut other = announce(HOST);
        other.bytes[0] = version;
        let reply = world.refused(&other, 1);
        assert_eq!(reply.lifetime(), 1800);
        assert_eq!(reply.bytes[12..24], other.bytes[12..24], "not parsed: the client's address comes back");
    }
    let mut short = announce(HOST);
    short.bytes.truncate(2);
    short.bytes[0] = 3;
    assert_eq!(world.ask(&short).bytes.len(), 24, "room for the header");

    let mut short = announce(HOST);
    short.bytes.truncate(20);
    assert!(world.ask_all(&short).is_empty());
    assert_eq!(world.server.counts().dropped(Drop::TooShort), 1);

    let mut long = map(HOST, TCP, 80, 600);
    long.bytes.resize(1104, 0);
    assert_eq!(world.refused(&long, 3).bytes.len(), 1100);
    let mut odd = map(HOST, TCP, 80, 600);
    odd.bytes.push(0);
    assert_eq!(world.refused(&odd, 3).bytes.len(), 64, "padded to a multiple of four");
    let mut cut = map(HOST, TCP, 80, 600);
    cut.bytes.truncate(56);
    world.refused(&cut, 3);
    let mut cut = crate::world::peer(HOST, TCP, 80, "198.51.100.1:443", 600);
    cut.bytes.truncate(76);
    world.refused(&cut, 3);
}

#[test]
fn e_com_03_a_client_behind_another_nat_is_told() {
    let mut world = World::new();
    let mut ask = map(HOST, TCP, 80, 600);
    ask.from = end("192.168.0.11:40000");
    let reply = world.refused(&ask, 12);
    assert_eq!(reply.lifetime(), 1800);
    assert_eq!(reply.to, ask.from);
    // The size is looked at first, the opcode after it.
    ask.bytes[1] = 77;
    world.refused(&ask, 12);
}

#[test]
fn e_com_04_an_unknown_opcode_comes_back_as_it_was() {
    let mut world = World::new();
    let mut ask = header(3, 5, ip(HOST));
    ask.bytes.extend([1, 2, 3, 4, 5, 6, 7, 8]);
    let reply = world.refused(&ask, 4);
    assert_eq!(reply.bytes[24..], ask.bytes[24..]);
    assert_eq!(reply.lifetime(), 1800);
}

#[test]
fn e_com_05_an_error_is_a_copy_of_the_request() {
    let mut world = World::new();
    world.pass(77);
    let ask = map(HOST, 99, 0, 600).suggest("203.0.113.99", 4711).option(200, b"whatever");
    let reply = world.refused(&ask, 9);
    assert_eq!(reply.bytes[24..], ask.bytes[24..]);
    assert_eq!((reply.lifetime(), reply.epoch()), (1800, 77));
    assert_eq!(reply.bytes[2], 0);
    assert_eq!(reply.bytes[12..24], [0; 12], "parsed: the reserved bits are zero");
}

#[test]
fn e_com_06_options_are_processed_in_order_and_repeated_if_they_were() {
    let mut world = World::new();
    let unknown = map(HOST, TCP, 80, 600).option(60, &[1, 2, 3]);
    assert_eq!(world.refused(&unknown, 5).bytes[60..], unknown.bytes[60..], "errors have them all");
    // The first fault counts.
    world.refused(&map(HOST, TCP, 80, 600).option(3, &[0; 4]).option(60, &[]), 6);
    world.refused(&map(HOST, TCP, 80, 600).option(60, &[]).option(3, &[0; 4]), 5);
    world.refused(&map(HOST, TCP, 80, 600).third_party(OTHER).option(3, &[0; 4]), 5);
    let ask = map(HOST, TCP, 80, 600).option(200, b"abc").filter("198.51.100.0", 120, 0).option(129, &[]);
    let reply = world.mapped(&ask);
    assert_eq!(reply.options().iter().map(|(code, _)| *code).collect::<Vec<_>>(), [3]);
}

#[test]
fn e_com_07_options_that_cannot_be_read() {
    let mut world = World::new();
    let twice = map(HOST, TCP, 80, 600).suggest("0.0.0.0", 80).prefer_failure().prefer_failure();
    world.refused(&twice, 6);
    let manager = map(MANAGER, TCP, 80, 600).third_party(HOST).third_party(HOST);
    world.refused(&manager, 6);
    let mut beyond = map(HOST, TCP, 80, 600).option(200, &[0; 8]);
    beyond.bytes[63] = 200;
    world.refused(&beyond, 6);
    // Even what comes before it is not looked at then.
    let mut beyond = map(HOST, TCP, 80, 600).option(60, &[]).option(200, &[0; 8]);
    beyond.bytes[67] = 200;
    world.refused(&beyond, 6);
    let full = map(HOST, TCP, 80, 600).filter("198.51.100.1", 128, 0).option(200, &[0; 1100 - 60 - 24 - 4]);
    assert_eq!(full.bytes.len(), 1100);
    assert!(world.mapped(&full).bytes.len() < 1100, "never longer than the request");
}

#[test]
fn e_com_08_an_error_changes_nothing() {
    let mut world = World::new();
    world.mapped(&map(HOST, TCP, 80, 600));
    for (ask, code) in [
        (map(HOST, TCP, 80, 7200).nonce(crate::world::THEIRS), 2),
        (map(HOST, TCP, 80, 7200).option(60, &[]), 5),
        (map(HOST, TCP, 80, 7200).filter("198.51.100.1", 95, 0), 6),
        (map(HOST, TCP, 80, 7200).suggest("0.0.0.0", 81).prefer_failure(), 11),
        (map(HOST, TCP, 80, 0).filter("198.51.100.1", 128, 0), 6),
    ] {
        world.refused(&ask, code);
    }
}

#[test]
fn e_com_09_ipv4_addresses_are_told_by_all_96_bits() {
    let mut world = World::new();
    let mut ask = map(HOST, TCP, 80, 600);
    assert_eq!(ask.bytes[8..20], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
    for at in 8..20 {
        let mut other = ask.clone();
        other.bytes[at] ^= 1;
        world.refused(&other, 12);
    }
    // A suggestion that is not quite IPv4 is an IPv6 address, which is no hint here.
    ask = ask.suggest(crate::world::EXTERNAL, 4711);
    ask.bytes[44] = 1;
    let reply = world.mapped(&ask);
    assert_eq!(reply.external(), end("203.0.113.7:4711"));
    assert_eq!(reply.bytes[44..56], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
    let reply = world.mapped(&map(HOST6, TCP, 80, 600));
    assert_eq!(reply.external(), end("[2001:db8:1::10]:80"));
}

#[test]
fn e_com_10_the_epoch_counts_seconds_in_every_response() {
    let mut world = World::new();
    assert_eq!(world.mapped(&announce(HOST)).epoch(), 0);
    for seconds in 1..=3 {
        world.pass(1);
        assert_eq!(world.mapped(&announce(HOST)).epoch(), seconds);
    }
    let mut wrong = announce(HOST);
    wrong.bytes[1] = 99;
    assert_eq!(world.refused(&wrong, 4).epoch(), 3);
    world.server.reset_epoch(world.now);
    world.settle();
    assert_eq!(world.epochs, [world.now], "it is to be remembered");
    assert_eq!(world.mapped(&announce(HOST)).epoch(), 0);
    let began = world.now;
    world.pass(10);
    world.restart(began);
    assert_eq!(world.mapped(&announce(HOST)).epoch(), 10, "nothing was lost: it goes on");
}

#[test]
fn e_com_11_who_asks_too_often_is_not_answered() {
    let mut settings = settings();
    settings.rate = 5;
    let mut world = World::with(settings);
    let answered = (0..50).filter(|_| !world.ask_all(&announce(HOST)).is_empty()).count();
    assert_eq!(answered, 10);
    assert_eq!(world.server.counts().dropped(Drop::Rate), 40);
    assert_eq!(world.ask(&announce(OTHER)).result(), 0, "others are");
    world.pass(1);
    assert_eq!(world.ask(&announce(HOST)).result(), 0);

    let mut world = World::new();
    world.slow = true;
    let mut asked = 0;
    while world.server.waiting() < 4096 {
        let host = format!("192.168.{}.{}", 1 + asked / 200, 1 + asked % 200);
        world.ask_all(&map(&host, TCP, 80, 0));
        asked += 1;
    }
    assert!(world.ask_all(&announce(HOST)).is_empty());
    assert_eq!(world.server.counts().dropped(Drop::Overload), 1);
}

#[test]
fn e_com_12_the_same_request_gets_the_same_response() {
    let mut world = World::new();
    for ask in [
        map(HOST, TCP, 80, 600),
        map(HOST, UDP, 80, 600).filter("198.51.100.0", 120, 9),
        map(HOST, TCP, 443, 0),
        map(HOST, 99, 0, 600),
        map(HOST, UDP, 4000, 600).port_set(10, 4000, false),
        crate::world::peer(HOST, TCP, 5000, "198.51.100.1:443", 600),
        announce(HOST),
    ] {
        let first = world.ask(&ask);
        assert_eq!(world.ask(&ask), first, "{ask:?}");
    }
    // A copy that arrives before the first is answered is not answered by itself.
    let ask = map(HOST, TCP, 8080, 600);
    world.slow = true;
    assert!(world.ask_all(&ask).is_empty());
    assert!(world.ask_all(&ask).is_empty());
    assert_eq!(world.server.counts().dropped(Drop::Busy), 1);
    assert_eq!(world.catch_up().len(), 1);
}

#[test]
fn every_answer_is_counted() {
    let mut world = World::new();
    world.mapped(&map(HOST, TCP, 80, 600));
    world.refused(&map(HOST, TCP, 80, 600).nonce([1; 12]), 2);
    world.mapped(&announce(HOST));
    let counted: Vec<_> = world.server.counts().answered().filter(|row| row.3 > 0).collect();
    assert_eq!(
        counted,
        [
            ("pcp", "announce", "success", 1),
            ("pcp", "map", "success", 1),
            ("pcp", "map", "not_authorized", 1)
        ]
    );
    assert_eq!(NONCE.len(), 12);
}

//! Flows of one inside end that differ in how they are filed: alone with their binding, with others of it, in another
//! pool, untranslated. Their hashes by source have all but a byte in common, so that with a few thousand of them the
//! index often guesses another one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use turnpike_abi::PoolId;
use turnpike_abi::counters::{Counter, DropReason};
use turnpike_abi::flow::FlowRow;
use turnpike_abi::table::{NatAction, NatRuleRecord, PoolRangeRecord, Side};
use turnpike_sim::Dice;
use turnpike_sim::lab::{
    HOST, INSIDE_PORT, Lab, OTHER_HOST, OTHER_SERVER, OUTSIDE_PORT, SERVER, forwarding, text,
};
use turnpike_sim::packets::{Build, Seen, UDP, see};
use turnpike_sim::tables::{INSIDE, OUTSIDE, PolicyTable, address, prefix};
use turnpike_wire::packet::{Fragment, TCP_ACK, TCP_SYN};

/// A third server, towards which there is another pool.
const FAR_SERVER: &str = "198.51.100.9";

fn rule(source: &str, destination: &str, pool: Option<u16>) -> NatRuleRecord {
    NatRuleRecord {
        source: prefix(source, if source.ends_with(".0") { 0 } else { 32 }),
        destination: prefix(destination, if destination.ends_with(".0") { 0 } else { 32 }),
        from: INSIDE,
        to: OUTSIDE,
        action: if pool.is_some() { NatAction::TRANSLATE } else { NatAction::EXEMPT },
        pool: PoolId(pool.unwrap_or(0)),
        ..NatRuleRecord::default()
    }
}

/// Two pools; [`FAR_SERVER`] is reached through the second, [`OTHER_SERVER`] untranslated.
fn two_pools() -> PolicyTable {
    let mut policy = PolicyTable::default();
    policy.pools.push(policy.pools[0]);
    let range = |first, last, pool| PoolRangeRecord {
        first: [203, 0, 113, first],
        last: [203, 0, 113, last],
        pool: PoolId(pool),
        ..PoolRangeRecord::default()
    };
    policy.ranges = vec![range(0, 7, 0), range(8, 15, 1)];
    policy.nat = vec![
        rule("0.0.0.0", OTHER_SERVER, None),
        rule("0.0.0.0", FAR_SERVER, Some(1)),
        rule("0.0.0.0", "0.0.0.0", Some(0)),
    ];
    policy
}

/// Packets that come from inside together.
fn come(lab: &mut Lab, packets: &[Build]) -> Vec<Seen> {
    let frames: Vec<_> = packets.iter().map(|packet| packet.frame(INSIDE_PORT)).collect();
    let frames: Vec<_> = frames.iter().map(Vec::as_slice).collect();
    let step = lab.burst(INSIDE_PORT, &frames);
    assert_eq!(step.drops, []);
    step.sent.iter().map(|(port, frame)| if *port == OUTSIDE_PORT { see(frame) } else { panic!() }).collect()
}

#[test]
fn flows_that_are_filed_elsewhere_are_fast_though_another_is_guessed() {
    for to in [OTHER_SERVER, FAR_SERVER] {
        let mut lab = Lab::with(1, &two_pools(), &forwarding());
        let first = come(&mut lab, &[Build::udp((HOST, 5000), (SERVER, 53), b"x")]);
        let packets: Vec<_> = (1..=2000).map(|port| Build::udp((HOST, 5000), (to, port), b"x")).collect();
        let before: Vec<_> = packets.chunks(50).flat_map(|burst| come(&mut lab, burst)).collect();
        let fast = lab.appliance.counters().get(Counter::FastPath);
        let after: Vec<_> = packets.chunks(70).flat_map(|burst| come(&mut lab, burst)).collect();
        assert_eq!(lab.appliance.counters().get(Counter::FastPath) - fast, 2000);
        let ends =
            |seen: &[Seen]| seen.iter().map(|seen| (seen.source(), seen.destination())).collect::<Vec<_>>();
        assert_eq!(ends(&before), ends(&after));
        let sources: BTreeSet<_> = after.iter().map(Seen::source).collect();
        assert_eq!(sources.len(), 1);
        assert_ne!(sources.first(), Some(&first[0].source()));
        let again = come(&mut lab, &[Build::udp((HOST, 5000), (SERVER, 53), b"x")]);
        assert_eq!(ends(&first), ends(&again));
    }
}

/// Whatever the index guessed for their first packets, which come twice.
#[test]
fn second_flows_of_many_ends_are_opened_the_short_way_and_once() {
    let mut lab = Lab::with(1, &PolicyTable::default(), &forwarding());
    let (ends, each) = (2000u16, 25);
    let mut external = BTreeMap::new();
    for server in [SERVER, OTHER_SERVER] {
        for some in (1..=ends).collect::<Vec<_>>().chunks(each) {
            let packets = some.iter().flat_map(|port| {
                let packet = Build::udp((HOST, 5000 + port), (server, 53), b"x");
                [packet.clone(), packet]
            });
            let sent = come(&mut lab, &packets.collect::<Vec<_>>());
            for (port, seen) in some.iter().flat_map(|port| [port, port]).zip(&sent) {
                assert_eq!(*external.entry(*port).or_insert(seen.source()), seen.source());
            }
        }
    }
    let counters = lab.appliance.counters();
    assert_eq!(counters.get(Counter::PlainOpenings), 2 * u64::from(ends));
    assert_eq!(lab.appliance.flows(0).len(), 2 * usize::from(ends));
    let different: BTreeSet<_> = external.values().collect();
    assert_eq!(different.len(), usize::from(ends));
}

/// While most packets are of an end with so many flows that they lie under their whole key, and are looked for there first.
#[test]
fn other_ends_are_found_and_open_flows_beside_a_crowded_one() {
    let mut lab = Lab::with(1, &PolicyTable::default(), &forwarding());
    let crowd: Vec<_> = (1..=300).map(|port| Build::udp((HOST, 5000), (SERVER, port), b"x")).collect();
    let plain = |port: u16| Build::udp((OTHER_HOST, port), (SERVER, 53), b"x");
    for _ in 0..2 {
        crowd.chunks(60).for_each(|burst| drop(come(&mut lab, burst)));
    }
    let mut external = BTreeMap::new();
    for round in 0..3 {
        let before = lab.appliance.counters();
        for (some, first) in crowd.chunks(30).zip((6000..).step_by(10)) {
            // Each comes twice in its burst: the second is of a flow that was not there when both were looked for.
            let others = (first..first + 10).flat_map(|port| [plain(port), plain(port)]);
            let sent = come(&mut lab, &some.iter().cloned().chain(others).collect::<Vec<_>>());
            for (port, seen) in (first..first + 10).flat_map(|port| [port, port]).zip(&sent[30..]) {
                assert_eq!(*external.entry(port).or_insert(seen.source()), seen.source());
            }
        }
        let counters = lab.appliance.counters();
        let [fast, opened] = [Counter::FastPath, Counter::PlainOpenings]
            .map(|counter| counters.get(counter) - before.get(counter));
        // The second of a pair takes the long way, whose flow is one and the same.
        assert_eq!((fast, opened), if round == 0 { (300, 100) } else { (500, 0) });
        assert_eq!(lab.appliance.flows(0).len(), 400);
    }
}

/// Its two flows to one end could not be told from each other, though neither binding has a record.
#[test]
fn who_is_spoken_to_through_one_pool_does_not_get_in_through_another() {
    let mut lab = Lab::with(1, &two_pools(), &forwarding());
    let [one, other] = [SERVER, FAR_SERVER].map(|to| {
        let sent = come(&mut lab, &[Build::udp((HOST, 5000), (to, 53), b"x")]);
        text(sent[0].source())
    });
    assert_ne!(one, other);
    let step = lab.step(OUTSIDE_PORT, &Build::udp((SERVER, 53), (&other.0, other.1), b"y"));
    step.dropped(DropReason::FilteredRemote);
    lab.back(&Build::udp((SERVER, 54), (&other.0, other.1), b"y"));
    lab.back(&Build::udp((SERVER, 53), (&one.0, one.1), b"y"));
}

/// A policy of any kind: with other pools or none, with hosts and servers that are not translated, with an inside zone
/// that is one no longer.
fn variant(dice: &mut Dice) -> PolicyTable {
    let mut policy = two_pools();
    match dice.below(9) {
        0 | 1 => {
            (policy.pools, policy.ranges) = (vec![], vec![]);
            policy.nat = vec![rule("0.0.0.0", "0.0.0.0", None)];
        }
        2 => policy.zones[0].side = Side::OUTSIDE,
        3 => policy.nat.insert(0, rule(OTHER_HOST, "0.0.0.0", None)),
        4 => policy.nat = vec![rule("0.0.0.0", "0.0.0.0", Some(1))],
        5 => {
            policy.ranges[0].last = [203, 0, 113, 3];
            policy.pools[1].block_size = 128;
        }
        6 => policy.nat = vec![rule("0.0.0.0", SERVER, Some(1)), rule("0.0.0.0", "0.0.0.0", Some(0))],
        _ => {}
    }
    policy
}

fn tagged(frame: &[u8]) -> Vec<u8> {
    let mut tagged = frame.to_vec();
    tagged.splice(12..12, [0x81, 0, 0, 0]);
    tagged
}

/// What left, but for external ports and what depends on them: the two boxes draw other numbers.
fn but_for_the_port((port, frame): &(u16, Vec<u8>)) -> (u16, u8, Vec<u8>) {
    let seen = see(frame);
    let to = seen.destination().0.to_string();
    let Seen { packet, mut frame, .. } = seen;
    assert_eq!(packet.fragment, Fragment::Whole);
    if packet.protocol == 1 {
        // An error, about a packet to an external port.
        frame.truncate(packet.l4);
        frame[packet.l3 + 2..packet.l3 + 4].fill(0);
    } else {
        frame[packet.l4..packet.l4 + if to.starts_with("203.") { 4 } else { 2 }].fill(0);
        let checksum = packet.l4 + if packet.protocol == UDP { 6 } else { 16 };
        frame[checksum..checksum + 2].fill(0);
    }
    (*port, packet.protocol, frame)
}

/// A flow but for external ports.
fn known(flow: &FlowRow) -> impl Ord + core::fmt::Debug + use<> {
    let (inside, remote) = (flow.inside, flow.remote);
    let remote_port = if matches!(remote.0.to_v4(), Some([203, ..])) { 0 } else { remote.1 };
    (inside, remote.0, remote_port, flow.external.0, flow.protocol, flow.translated, flow.inbound)
}

/// Each flow once, and one external port for each inside end, to whom it ever speaks.
fn sound(flows: &[FlowRow], place: &str) {
    let mut external = BTreeMap::new();
    let mut keys = BTreeSet::new();
    for flow in flows {
        assert!(keys.insert((flow.inside, flow.remote, flow.protocol)), "twice: {flow:?}: {place}");
        if flow.translated {
            // Its pool, as far as its addresses tell.
            let of = (flow.inside, flow.protocol, flow.external.0);
            assert_eq!(*external.entry(of).or_insert(flow.external.1), flow.external.1, "{flow:?}: {place}");
        }
    }
}

fn run(workers: u8, seed: u64) -> u64 {
    const STEPS: u64 = 80;
    const HOSTS: [&str; 2] = [HOST, OTHER_HOST];
    const SERVERS: [&str; 3] = [SERVER, OTHER_SERVER, FAR_SERVER];
    let mut dice = Dice(seed);
    let mut policy = variant(&mut dice);
    policy.settings.udp = dice.one(&[5, 300]);
    // Few buckets, or many flows.
    let capacity = dice.one(&[30, 100, 1000]);
    let mut labs = [(); 2].map(|()| Lab::sized(workers, capacity, &policy));
    // Packets that left, of either box.
    let mut left: Vec<[Seen; 2]> = Vec::new();
    let mut used: Vec<(usize, u16, usize, u16, bool)> = Vec::new();
    for step in 0..STEPS {
        let place = format!("{workers} workers, seed {seed}, step {step}");
        let most = dice.one(&[1, 3, 12, 90]);
        let packets: Vec<_> = (0..=dice.below(most))
            .map(|_| {
                let again = !used.is_empty() && dice.below(3) > 0;
                let ends = if again {
                    used[dice.below(used.len() as u64) as usize]
                } else {
                    let (host, server) = (dice.below(2) as usize, dice.below(3) as usize);
                    let ports = (5000 + dice.below(3) as u16, 1 + dice.below(300) as u16);
                    (host, ports.0, server, ports.1, dice.below(3) == 0)
                };
                used.push(ends);
                let (host, from, server, to, tcp) = ends;
                let from = (HOSTS[host], from);
                // To another's external end, now and then.
                let others = (dice.below(12) == 0 && !left.is_empty())
                    .then(|| &left[dice.below(left.len() as u64) as usize]);
                let tcp = others.map_or(tcp, |pair| pair[0].packet.protocol != UDP);
                let others = others.map(|pair| pair.each_ref().map(|it| text(it.source())));
                let flags = if again && dice.below(2) == 0 { TCP_ACK } else { TCP_SYN };
                let to = others.unwrap_or_else(|| [(); 2].map(|()| (SERVERS[server].to_owned(), to)));
                to.map(|to| {
                    let to = (to.0.as_str(), to.1);
                    if tcp { Build::tcp(from, to, flags, b"x") } else { Build::udp(from, to, b"x") }
                })
            })
            .collect();
        let steps = [0, 1].map(|lab| {
            let frames = packets.iter().map(|packet| packet[lab].frame(INSIDE_PORT));
            let frames: Vec<_> = frames.map(|frame| if lab == 1 { tagged(&frame) } else { frame }).collect();
            let frames: Vec<_> = frames.iter().map(Vec::as_slice).collect();
            labs[lab].burst(INSIDE_PORT, &frames)
        });
        assert_eq!(steps[0].drops, steps[1].drops, "{place}: {packets:?}");
        let sent = steps.each_ref().map(|step| step.sent.iter().map(but_for_the_port).collect::<Vec<_>>());
        assert_eq!(sent[0], sent[1], "{place}: {packets:?}");
        for (short, long) in steps[0].sent.iter().zip(&steps[1].sent) {
            let pair = [see(&short.1), see(&long.1)];
            if short.0 == OUTSIDE_PORT && pair[0].packet.protocol != 1 {
                left.push(pair);
            }
        }
        // Answers, and strangers.
        for _ in 0..dice.below(20).min(left.len() as u64) {
            let at = dice.below(left.len() as u64) as usize;
            let stranger = (dice.below(4) == 0).then(|| 7000 + dice.below(100) as u16);
            let back = [0, 1].map(|lab| {
                let seen = &left[at][lab];
                let (to, from) = (text(seen.source()), text(seen.destination()));
                let (to, from) = ((to.0.as_str(), to.1), (from.0.as_str(), stranger.unwrap_or(from.1)));
                let packet = match seen.packet.protocol {
                    UDP => Build::udp(from, to, b"y"),
                    _ => Build::tcp(
                        from,
                        to,
                        if stranger.is_some() { TCP_SYN } else { TCP_SYN | TCP_ACK },
                        b"",
                    ),
                };
                let frame = packet.frame(OUTSIDE_PORT);
                let step = labs[lab].frame(OUTSIDE_PORT, &if lab == 1 { tagged(&frame) } else { frame });
                (step.sent.iter().map(but_for_the_port).collect::<Vec<_>>(), step.drops)
            });
            assert_eq!(back[0], back[1], "{place}");
        }
        let flows = labs.each_ref().map(|lab| {
            let flows: Vec<_> = (0..usize::from(workers)).flat_map(|at| lab.appliance.flows(at)).collect();
            sound(&flows, &place);
            let mut flows: Vec<_> = flows.iter().map(known).collect();
            flows.sort();
            flows
        });
        assert_eq!(flows[0], flows[1], "{place}");
        if dice.below(10) == 0 {
            let udp = policy.settings.udp;
            policy = variant(&mut dice);
            policy.settings.udp = udp;
            labs.iter_mut().for_each(|lab| lab.appliance.policy(&policy));
        }
        if dice.below(10) == 0 {
            let pause = dice.one(&[1, 4000, 6000, 250_000, 800_000]);
            labs.iter_mut().for_each(|lab| lab.appliance.advance(pause, pause / 8 + 1));
        }
        // A port that was given back may be another's, of either box.
        for (lab, which) in labs.iter().zip(0..) {
            let flows: BTreeSet<_> = (0..usize::from(workers))
                .flat_map(|at| lab.appliance.flows(at))
                .map(|flow| (flow.external, flow.remote, flow.protocol))
                .collect();
            left.retain(|pair| {
                let end = |(ip, port): (IpAddr, u16)| (address(&ip.to_string()), port);
                let (seen, protocol) = (&pair[which], pair[which].packet.protocol);
                flows.contains(&(end(seen.source()), end(seen.destination()), protocol))
            });
        }
    }
    labs.iter_mut().for_each(|lab| lab.appliance.advance(16_000_000, 20_000));
    for lab in &labs {
        assert!((0..usize::from(workers)).all(|at| lab.appliance.flows(at).is_empty()));
    }
    labs[0].appliance.counters().get(Counter::PlainOpenings)
}

#[test]
fn whatever_a_source_has_it_gets_what_the_long_way_gives() {
    let opened: u64 = (0..24).map(|seed| run(1 + (seed % 2) as u8 * 2, seed)).sum();
    assert!(opened > 1000, "only {opened} flows were opened the short way");
}

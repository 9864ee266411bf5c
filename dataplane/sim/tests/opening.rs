//! The short way of a first packet against the long way, which a priority tag makes every frame take.

use turnpike_abi::command::{Kind, Look, PinholeAdd, PinholeRemove, Slot, Walk, WalkTable};
use turnpike_abi::counters::{Counter, Counters, ProtocolClass};
use turnpike_abi::event::{self, AckResult, BindingRow, WalkEnd};
use turnpike_abi::steering;
use turnpike_abi::table::{Action, Filtering, NatAction, NatRuleRecord, PoolRecord, SettingsRecord};
use turnpike_abi::{PoolId, Prefix};
use turnpike_sim::Dice;
use turnpike_sim::lab::{INSIDE_PORT, Lab, OUTSIDE_PORT, forwarding};
use turnpike_sim::packets::{Build, Seen, see};
use turnpike_sim::tables::{INSIDE, OUTSIDE, PolicyTable, address, prefix, rule};
use turnpike_wire::ethernet;
use turnpike_wire::packet::{Fragment, TCP_ACK, TCP_FIN, TCP_PSH, TCP_SYN, TCP_URG};

/// Tables with something of everything that has a say about a first packet.
fn policy(seed: u64) -> PolicyTable {
    let mut policy = PolicyTable::default();
    let pool = &mut policy.pools[0];
    match seed % 7 {
        0 => policy.settings.flags &= !SettingsRecord::REVERSE_PATH,
        1 => (pool.subscriber_flows, pool.subscriber_rate, pool.subscriber_burst) = (9, 3, 5),
        2 => (pool.subscriber_ports, pool.filtering) = (6, Filtering::ADDRESS_DEPENDENT),
        3 => {
            // Exhausted before long.
            (pool.port_first, pool.port_last, pool.block_size, pool.blocks) = (1024, 1151, 64, 1);
            policy.ranges[0].last = policy.ranges[0].first;
        }
        4 => pool.flags |= PoolRecord::PARITY,
        5 => {
            (pool.port_first, pool.port_last, pool.block_size) = (1024, 1535, 64);
            (pool.quarantine, pool.quarantine_tcp, pool.quarantine_ports) = (120, 3, 9);
            (pool.subscriber_ports, policy.settings.udp) = (12, 4);
        }
        _ => {
            pool.flags |= PoolRecord::DETERMINISTIC;
            (pool.inside_first, pool.inside_last) = ([10, 0, 0, 8], [10, 0, 0, 13]);
            (pool.port_last, pool.block_size, pool.dynamic, pool.blocks) = (1919, 64, 2, 2);
            policy.ranges[0].last = policy.ranges[0].first;
            policy.settings.mss_clamp = 0;
        }
    }
    if seed % 2 == 1 {
        let mut server = rule(INSIDE, OUTSIDE, Action::REJECT);
        server.destination = prefix("198.51.100.66", 32);
        let mut mail = rule(INSIDE, OUTSIDE, Action::DROP);
        (mail.protocol, mail.destination_ports) = (6, [25, 25]);
        let mut web = rule(INSIDE, OUTSIDE, Action::ACCEPT);
        (web.destination_ports, web.rule) = ([443, 443], 2);
        mail.rule = 1;
        policy.rules = vec![server, mail, web];
    }
    if seed % 3 == 1 {
        let exempt = NatRuleRecord {
            source: prefix("10.0.0.12", 32),
            from: INSIDE,
            to: OUTSIDE,
            action: NatAction::EXEMPT,
            pool: PoolId(0),
            ..NatRuleRecord::default()
        };
        policy.nat.insert(0, exempt);
    }
    policy.interfaces[1].mtu = 1400;
    policy
}

fn labs(workers: u8, seed: u64) -> [Lab; 2] {
    [(); 2].map(|()| {
        let mut table = forwarding();
        table.route("198.51.101.0", 24, Some("192.0.2.99"), OUTSIDE_PORT);
        let mut lab = Lab::with(workers, &policy(seed), &table);
        for host in 11..16 {
            lab.appliance.neighbour(
                INSIDE_PORT,
                address(&format!("10.0.0.{host}")),
                [2, 0xff, 0, 0, 0, host],
            );
        }
        // One inside end has a pinhole: it is none of the short way's.
        let inside = address("10.0.0.13");
        let pinhole = PinholeAdd {
            id: 1,
            inside,
            remote: Prefix::ANY,
            inside_port: 2001,
            remote_port_last: u16::MAX,
            protocol: 17,
            flags: PinholeAdd::POOL,
            max_flows: 2,
            ..PinholeAdd::default()
        };
        let owner = steering::owner_of_inside(inside, workers).index();
        // Its worker may have none of a small pool's ports.
        let result = lab.appliance.command(owner, Kind::PINHOLE_ADD, &pinhole).result;
        assert!(matches!(result, AckResult::OK | AckResult::NO_PORT), "{result:?}");
        lab
    })
}

/// A first packet, or one that is nearly one.
fn first(dice: &mut Dice) -> Build {
    const HOSTS: [&str; 9] = [
        "10.0.0.9",
        "10.0.0.10",
        "10.0.0.11",
        "10.0.0.12",
        "10.0.0.13",
        "10.0.0.14",
        // Not from there, or from nobody.
        "192.168.7.7",
        "203.0.113.5",
        "127.0.0.1",
    ];
    const SERVERS: [&str; 11] = [
        "198.51.100.7",
        "198.51.100.8",
        "198.51.100.9",
        "198.51.100.66",
        "198.51.100.10",
        // An unknown next hop, nowhere, a pool address, the box, a subscriber, the link.
        "198.51.101.1",
        "240.0.0.1",
        "203.0.113.3",
        "192.0.2.1",
        "10.0.0.10",
        "169.254.3.3",
    ];
    let host = if dice.below(12) == 0 { dice.one(&HOSTS[6..]) } else { dice.one(&HOSTS[..6]) };
    let server = if dice.below(12) == 0 { dice.one(&SERVERS[5..]) } else { dice.one(&SERVERS[..5]) };
    let ports = (2000 + dice.below(6) as u16, [443, 25, 53][dice.below(3) as usize]);
    let most = if dice.below(10) == 0 { 1460 } else { 40 };
    let payload = vec![7; dice.below(most) as usize];
    let packet = if dice.below(2) == 0 {
        Build::udp((host, ports.0), (server, ports.1), &payload)
    } else {
        let flags = match dice.below(12) {
            0 => TCP_SYN | TCP_ACK,
            1 => TCP_SYN | TCP_PSH,
            2 => TCP_SYN | TCP_URG,
            3 => TCP_SYN | TCP_FIN,
            4 => TCP_ACK,
            5 => TCP_SYN | 0xc0,
            _ => TCP_SYN,
        };
        let options: &[u8] = match dice.below(4) {
            0 => &[],
            1 => &[2, 4, 5, 180],
            2 => &[1, 2, 4, 5, 180, 1, 1, 0],
            _ => &[1, 1, 1, 9],
        };
        Build::tcp_with((host, ports.0), (server, ports.1), flags, options, &payload)
    };
    let packet = if dice.below(25) == 0 { packet.ttl(dice.below(3) as u8) } else { packet };
    if dice.below(3) == 0 { packet.df() } else { packet }
}

/// As the frame of somebody who marks priority: 802.1Q, VLAN 0. It comes from the same port as the other.
fn tagged(frame: &[u8]) -> Vec<u8> {
    let mut tagged = frame.to_vec();
    tagged.splice(12..12, [0x81, 0, 0, 0]);
    assert_eq!(ethernet::parse(&tagged).unwrap().vlan, Some(0));
    tagged
}

/// What left, but for the external port and what depends on it: the two boxes draw other numbers.
fn but_for_the_port(frame: &[u8]) -> Vec<u8> {
    let Seen { packet, mut frame, .. } = see(frame);
    // An error quotes what came in, and only the first fragment has ports.
    if packet.protocol != 1 && !matches!(packet.fragment, Fragment::Later { .. }) {
        frame[packet.l4..packet.l4 + 2].fill(0);
        let checksum = packet.l4 + if packet.protocol == 6 { 16 } else { 6 };
        frame[checksum..checksum + 2].fill(0);
    }
    frame
}

/// Counters, but for what says which way was taken.
fn counted(lab: &Lab) -> Counters {
    let mut counters = lab.appliance.counters();
    counters.set(Counter::FastPath, 0);
    counters.set(Counter::PlainOpenings, 0);
    counters.set(Counter::ReceivedBytes, 0);
    counters
}

/// An answer from outside to what left, if that was translated.
fn answer(left: &Seen) -> Option<Build> {
    let ((external, port), (server, from)) = (left.source(), left.destination());
    let ends = ((server.to_string(), from), (external.to_string(), port));
    let (source, destination) = ((ends.0.0.as_str(), ends.0.1), (ends.1.0.as_str(), ends.1.1));
    match left.packet.protocol {
        17 => Some(Build::udp(source, destination, b"answer")),
        6 => Some(Build::tcp(source, destination, TCP_SYN | TCP_ACK, b"")),
        _ => None,
    }
}

/// What comes to a binding besides its first flow. The boxes answer alike, though in one of them the record of that
/// flow may stand for the binding.
fn befall(
    labs: &mut [Lab; 2],
    workers: u8,
    dice: &mut Dice,
    left: &[[Seen; 2]],
    open: &mut Vec<(usize, u64)>,
) {
    const HOSTS: [&str; 4] = ["10.0.0.9", "10.0.0.10", "10.0.0.11", "10.0.0.12"];
    let inside = (address(dice.one(&HOSTS)), 2000 + dice.below(6) as u16);
    let owner = steering::owner_of_inside(inside.0, workers).index();
    let protocol = [6, 17][dice.below(2) as usize];
    match dice.below(5) {
        // A stranger, or another port of somebody who was asked.
        0 if !left.is_empty() => {
            let pair = &left[dice.below(left.len() as u64) as usize];
            let (known, from) = (pair[0].destination().0.to_string(), 50_000 + dice.below(9) as u16);
            let stranger = if dice.below(2) == 0 { "198.51.100.99" } else { &known };
            let steps: Vec<_> = labs
                .iter_mut()
                .zip(pair)
                .map(|(lab, seen)| {
                    let (external, port) = seen.source();
                    let to = (external.to_string(), port);
                    let to = (to.0.as_str(), to.1);
                    let packet = match seen.packet.protocol {
                        6 => Build::tcp((stranger, from), to, TCP_SYN, b""),
                        _ => Build::udp((stranger, from), to, b"hello"),
                    };
                    let step = lab.step(OUTSIDE_PORT, &packet);
                    (step.sent, step.drops)
                })
                .collect();
            assert_eq!(steps[0], steps[1]);
        }
        1 => {
            let id = 2 + dice.below(1 << 31);
            let pinhole = PinholeAdd {
                id,
                inside: inside.0,
                remote: if dice.below(2) == 0 { Prefix::ANY } else { prefix("198.51.100.0", 28) },
                inside_port: inside.1,
                remote_port_last: u16::MAX,
                protocol,
                flags: PinholeAdd::POOL
                    | [0, PinholeAdd::INBOUND, PinholeAdd::OUTBOUND][dice.below(3) as usize],
                ..PinholeAdd::default()
            };
            let results =
                labs.each_mut().map(|lab| lab.appliance.command(owner, Kind::PINHOLE_ADD, &pinhole).result);
            assert_eq!(results[0], results[1], "{pinhole:?}");
            if results[0] == AckResult::OK {
                open.push((owner, id));
            }
        }
        2 if !open.is_empty() => {
            let (owner, id) = open.swap_remove(dice.below(open.len() as u64) as usize);
            let remove = PinholeRemove { id, drain: dice.below(2) as u8, ..PinholeRemove::default() };
            let results =
                labs.each_mut().map(|lab| lab.appliance.command(owner, Kind::PINHOLE_REMOVE, &remove).result);
            assert_eq!(results, [AckResult::OK; 2]);
        }
        3 => {
            let (pool, protocol) = (PoolId(0), protocol);
            let look = Look { inside: inside.0, inside_port: inside.1, pool, protocol, ..Look::default() };
            let [short, long] = labs.each_mut().map(|lab| {
                lab.appliance.events.clear();
                lab.appliance.command_raw(owner, &Slot::new(Kind::LOOK, 1, &look)).expect("a sound command");
                let seen: event::Seen = lab.appliance.events.pop().expect("an answer").1.body();
                (seen.external, seen.external_port != 0, seen.flags, seen.remaining_ms)
            });
            assert_eq!(short, long);
        }
        _ => {
            let [short, long] = labs.each_mut().map(|lab| {
                let mut rows = Vec::new();
                for worker in 0..usize::from(workers) {
                    rows.extend(bindings(lab, worker));
                }
                rows.sort_by_key(|row| format!("{row:?}"));
                rows
            });
            assert_eq!(short, long);
        }
    }
}

/// All bindings of a worker, but for their ports.
fn bindings(lab: &mut Lab, worker: usize) -> Vec<BindingRow> {
    let (mut rows, mut cursor) = (Vec::new(), 0);
    while cursor != WalkEnd::DONE {
        lab.appliance.events.clear();
        let walk = Walk { cursor, table: WalkTable::BINDINGS, limit: 7 };
        lab.appliance.command_raw(worker, &Slot::new(Kind::WALK, 1, &walk)).expect("a sound command");
        for (_, event) in lab.appliance.events.drain(..) {
            match event.header.kind {
                Kind::WALK_END => cursor = event.body::<WalkEnd>().cursor,
                _ => rows.push(BindingRow { external_port: 0, ..event.body() }),
            }
        }
    }
    rows
}

fn run(workers: u8, seed: u64, more_comes: bool) -> u64 {
    let mut labs = labs(workers, seed);
    let mut dice = Dice(seed);
    let mut open = Vec::new();
    for step in 0..250 {
        // Alone, a few, or more than the stages take at once.
        let most = [1, 1, 12, 90][dice.below(4) as usize];
        let packets: Vec<_> = (0..=dice.below(most)).map(|_| first(&mut dice)).collect();
        let frames: Vec<_> = packets.iter().map(|packet| packet.frame(INSIDE_PORT)).collect();
        let others: Vec<_> = frames.iter().map(|frame| tagged(frame)).collect();
        let [short, long] = [(0, &frames), (1, &others)].map(|(lab, frames)| {
            let frames: Vec<_> = frames.iter().map(Vec::as_slice).collect();
            labs[lab].burst(INSIDE_PORT, &frames)
        });
        let place = format!("{workers} workers, seed {seed}, step {step}: {packets:?}");
        assert_eq!(short.drops, long.drops, "{place}");
        assert_eq!(short.punted, long.punted, "{place}");
        let [left, right] = [&short, &long].map(|step| {
            step.sent.iter().map(|(port, frame)| (*port, but_for_the_port(frame))).collect::<Vec<_>>()
        });
        assert_eq!(left, right, "{place}");
        // The answer comes back to the same host, changed in the same way.
        let mut translated = Vec::new();
        for (left, right) in short.sent.iter().zip(&long.sent).filter(|(left, _)| left.0 == OUTSIDE_PORT) {
            let answers = [left, right].map(|(_, frame)| answer(&see(frame)));
            if let [Some(left), Some(right)] = answers {
                let left = labs[0].step(OUTSIDE_PORT, &left);
                let right = labs[1].step(OUTSIDE_PORT, &right);
                assert_eq!((left.sent, left.drops), (right.sent, right.drops), "{place}");
            }
            let pair = [see(&left.1), see(&right.1)];
            if [6, 17].contains(&pair[0].packet.protocol)
                && pair[0].source().0.to_string().starts_with("203.0.113.")
            {
                translated.push(pair);
            }
        }
        if more_comes {
            befall(&mut labs, workers, &mut dice, &translated, &mut open);
        }
        if dice.below(20) == 0 {
            let pause = [1, 300, 4000, 130_000, 400_000][dice.below(5) as usize];
            labs.iter_mut().for_each(|lab| lab.appliance.advance(pause, pause / 8 + 1));
        }
        assert_eq!(counted(&labs[0]), counted(&labs[1]), "{place}");
        assert_eq!(labs[0].appliance.rule_hits(), labs[1].appliance.rule_hits(), "{place}");
    }
    for (owner, id) in open {
        let remove = PinholeRemove { id, drain: 1, ..PinholeRemove::default() };
        labs.iter_mut().for_each(|lab| {
            assert_eq!(lab.appliance.command(owner, Kind::PINHOLE_REMOVE, &remove).result, AckResult::OK)
        });
    }
    // In the end nothing is left but the one pinhole, if it found a port.
    labs.iter_mut().for_each(|lab| lab.appliance.advance(16_000_000, 20_000));
    assert_eq!(counted(&labs[0]), counted(&labs[1]));
    for lab in &labs {
        let counters = lab.appliance.counters();
        let bindings: u64 = ProtocolClass::ALL.iter().map(|class| counters.bindings(*class).0).sum();
        assert_eq!(bindings, counters.get(Counter::Pinholes));
    }
    let [short, long] = labs.map(|lab| lab.appliance.counters().get(Counter::PlainOpenings));
    assert_eq!(long, 0);
    short
}

#[test]
fn both_ways_open_the_same_flows() {
    let opened: u64 = (0..35).map(|seed| run(1 + (seed % 2) as u8 * 2, seed, false)).sum();
    assert!(opened > 3000, "only {opened} flows were opened the short way");
}

/// A binding is the same thing whether it has a record or its flow's stands for it.
#[test]
fn whatever_comes_to_a_binding_finds_the_same() {
    let opened: u64 = (0..70).map(|seed| run(1 + (seed % 2) as u8 * 2, seed, true)).sum();
    assert!(opened > 6000, "only {opened} flows were opened the short way");
}

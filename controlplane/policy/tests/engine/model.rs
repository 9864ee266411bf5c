//! The engine against what owners were told. Whatever the order in which notes become durable, workers answer,
//! dataplanes come and go and the process restarts: what was granted is what the journal and the workers have once
//! things calm down, and nothing else is.

use crate::support::{Heard, World, access, agent, per, profile, prr, tuple, udp};
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use turnpike_abi::event::AckResult;
use turnpike_policy::{
    Access, Annotation, Direction, Enable, Front, Lifetime, Network, Outside, Permit, Profile, Protocol,
    Refusal, Reply, Request, Requester, Reserve, RuleId, Scope, State, Time, TransactionId, Tuple,
};

#[derive(Clone, Debug)]
pub enum Op {
    Enable {
        agent: u8,
        host: u8,
        port: u16,
        range: u16,
        wish: Option<(u16, bool)>,
        seconds: u32,
    },
    Firewall {
        host: u8,
        port: u16,
    },
    Reserve {
        agent: u8,
        host: Option<u8>,
        range: u16,
    },
    Upgrade {
        which: usize,
        host: u8,
        port: u16,
    },
    Change {
        which: usize,
        seconds: u32,
    },
    Group {
        which: usize,
        seconds: u32,
    },
    Annotate {
        which: usize,
        word: u8,
    },
    /// "guest" may open nothing without a permit; `way`: by PER, by PRR, by PER after PRR.
    Permit {
        number: u8,
        way: u8,
        host: u8,
        port: u16,
    },
    Durable,
    Lost,
    Answer,
    Refuse,
    Pass(u64),
    Detach {
        emptied: bool,
        workers: u8,
    },
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    // Ports in blocks of every worker, few enough to collide.
    let wish = proptest::option::of(((0u16..6).prop_map(|n| 506 + n * 2), any::<bool>()));
    prop_oneof![
        9 => (0u8..2, 1u8..5, 80u16..84, 1u16..4, wish, 1u32..30)
            .prop_map(|(agent, host, port, range, wish, seconds)| Op::Enable { agent, host, port, range, wish, seconds }),
        2 => (1u8..4, 80u16..82).prop_map(|(host, port)| Op::Firewall { host, port }),
        4 => (0u8..2, proptest::option::of(1u8..5), 1u16..4)
            .prop_map(|(agent, host, range)| Op::Reserve { agent, host, range }),
        4 => (0usize..8, 1u8..5, 80u16..84).prop_map(|(which, host, port)| Op::Upgrade { which, host, port }),
        4 => (0usize..8, 0u32..20).prop_map(|(which, seconds)| Op::Change { which, seconds: seconds.saturating_sub(8) }),
        1 => (0usize..8, 0u32..3).prop_map(|(which, seconds)| Op::Group { which, seconds }),
        1 => (0usize..8, any::<u8>()).prop_map(|(which, word)| Op::Annotate { which, word }),
        4 => (0u8..3, 0u8..4, 1u8..5, 80u16..84)
            .prop_map(|(number, way, host, port)| Op::Permit { number, way, host, port }),
        14 => Just(Op::Durable),
        1 => Just(Op::Lost),
        18 => Just(Op::Answer),
        1 => Just(Op::Refuse),
        2 => (0u64..6).prop_map(Op::Pass),
        1 => (any::<bool>(), 1u8..4).prop_map(|(emptied, workers)| Op::Detach { emptied, workers }),
        1 => Just(Op::Restart),
    ]
}

/// Workers, and what happens, as the fuzzer's bytes say it: an operation each, and what it needs. Every byte counts.
pub fn of_bytes(bytes: &[u8]) -> (u8, Vec<Op>) {
    let mut bytes = bytes.iter().copied();
    let workers = 1 + bytes.next().unwrap_or(0) % 3;
    let mut ops = Vec::new();
    while let Some(kind) = bytes.next() {
        let mut next = |range: u8| bytes.next().unwrap_or(0) % range;
        ops.push(match kind % 32 {
            0..=5 => {
                let wish = (next(2) == 1).then(|| (506 + 2 * u16::from(next(6)), next(2) == 1));
                let (agent, host, port) = (next(2), 1 + next(4), 80 + u16::from(next(4)));
                let (range, seconds) = (1 + u16::from(next(3)), 1 + u32::from(next(29)));
                Op::Enable { agent, host, port, range, wish, seconds }
            }
            6 if kind / 32 % 2 == 1 => {
                Op::Permit { number: next(3), way: next(4), host: 1 + next(4), port: 80 + u16::from(next(4)) }
            }
            6 => Op::Firewall { host: 1 + next(3), port: 80 + u16::from(next(2)) },
            7..=9 => {
                let host = (next(2) == 1).then(|| 1 + next(4));
                Op::Reserve { agent: next(2), host, range: 1 + u16::from(next(3)) }
            }
            10..=12 => {
                Op::Upgrade { which: next(8).into(), host: 1 + next(4), port: 80 + u16::from(next(4)) }
            }
            13..=15 => Op::Change { which: next(8).into(), seconds: u32::from(next(20)).saturating_sub(8) },
            16 => Op::Group { which: next(8).into(), seconds: next(3).into() },
            17 => Op::Annotate { which: next(8).into(), word: next(255) },
            18..=21 => Op::Durable,
            22 => Op::Lost,
            23..=27 => Op::Answer,
            28 => Op::Refuse,
            29 => Op::Pass(next(6).into()),
            30 => Op::Detach { emptied: next(2) == 1, workers: 1 + next(3) },
            _ => Op::Restart,
        });
    }
    (workers, ops)
}

/// Lets `ops` happen and checks what is left when all is calm.
pub fn run(workers: u8, ops: &[Op]) -> Seen {
    let mut world = World::with(access_with_guest(), workers);
    world.slow_disk = Some(VecDeque::new());
    world.slow_workers = Some(VecDeque::new());
    let mut told = Told::default();
    for op in ops {
        step(&mut world, &mut told, op);
    }
    check(&mut world, &mut told);
    use_up(&mut world, &mut told);
    told.seen
}

fn access_with_guest() -> Access {
    let mut access = access();
    let guest = Profile { inside: Scope::Prefixes(vec![]), durable: false, ..profile() };
    access.fronts.get_mut(&Front::Simco).unwrap().agents.insert("guest".into(), guest);
    access
}

/// The first of three ends while things happen.
fn permit(number: u8) -> Permit {
    Permit {
        inside: Network::V4,
        outside: Network::V4,
        protocol: Some(Protocol::UDP),
        lifetime: 300,
        rules: 1 + u32::from(number),
        nonce: [number; 16],
        expires: Time(if number == 0 { 1_012_000 } else { u64::MAX }),
    }
}

/// What the owners know.
#[derive(Default)]
struct Told {
    /// Rules with their outside ends, and whether they are reservations.
    rules: BTreeMap<RuleId, (Option<Tuple>, bool)>,
    deleting: BTreeMap<TransactionId, Vec<RuleId>>,
    /// PERs by permit, and rules granted by each.
    by_permit: BTreeMap<TransactionId, u8>,
    uses: BTreeMap<u8, u32>,
    seen: Seen,
}

#[derive(Default)]
pub struct Seen {
    granted: usize,
    upgraded: usize,
    refused: usize,
    leased: usize,
    shared: usize,
    restarted: usize,
    /// Rules granted by permits, and uses that were refused or given back.
    by_permit: usize,
    not_by_permit: usize,
    /// Times something under way was lost.
    broken: usize,
}

impl Told {
    /// Takes what was said since the last time.
    fn hear(&mut self, world: &mut World) {
        for heard in std::mem::take(&mut world.heard) {
            let Heard::Reply(transaction, result) = heard else { continue };
            if let Some(number) = self.by_permit.remove(&transaction) {
                let granted = result.is_ok();
                *self.uses.entry(number).or_default() += u32::from(granted);
                self.seen.by_permit += usize::from(granted);
                self.seen.not_by_permit += usize::from(!granted);
            }
            match result {
                Ok(Reply::Enabled { rule, outside, .. }) => {
                    if let Some((reserved, true)) = self.rules.insert(rule, (Some(outside), false)) {
                        assert!(reserved.is_none_or(|reserved| reserved == outside), "A2 as reserved");
                        self.seen.upgraded += 1;
                    }
                    self.seen.granted += 1;
                }
                Ok(Reply::Reserved { rule, outside, .. }) => {
                    self.rules.insert(rule, (outside, true));
                }
                Ok(Reply::Lifetime(Lifetime::NONE)) => {
                    for rule in self.deleting.remove(&transaction).unwrap_or_default() {
                        assert!(!world.disk.contains_key(&rule), "deleted, but in the journal");
                        self.rules.remove(&rule);
                    }
                }
                Ok(_) => {}
                Err(_) => self.seen.refused += 1,
            }
        }
        // What expired is announced, and gone for its owner.
        for audit in std::mem::take(&mut world.audits) {
            if let turnpike_policy::AuditEvent::Ended { rule, .. } = audit.event {
                self.rules.remove(&rule.id);
            }
        }
        // A use is on the disk if and only if its rule was granted, until the permit ends.
        for number in 0..3 {
            let permit = permit(number);
            let uses = self.uses.get(&number).copied().unwrap_or_default();
            assert!(uses <= permit.rules, "{number} used {uses} times");
            if permit.expires > world.now {
                let noted = world.uses.get(&permit.nonce).map_or(0, |uses| uses.times);
                assert_eq!(noted, uses, "uses of permit {number} in the journal");
            }
        }
    }
}

fn step(world: &mut World, told: &mut Told, op: &Op) {
    let by = |number: u8| Requester::new(agent(["a", "b"][usize::from(number)]));
    let nth = |told: &Told, which: usize| told.rules.keys().nth(which % told.rules.len().max(1)).copied();
    match op {
        Op::Enable { agent, host, port, range, wish, seconds } => {
            let outside =
                wish.map(|(port, strict)| Outside { port: Some(port), strict, ..Outside::default() });
            let host = format!("10.0.0.{host}");
            let enable = Enable { range: *range, outside, lifetime: Lifetime(*seconds), ..udp(&host, *port) };
            world.submit(&by(*agent), Request::Enable(Box::new(enable)));
        }
        Op::Firewall { host, port } => {
            let internal = tuple(&format!("172.16.0.{host}"), *port);
            let enable = per(Protocol::TCP, internal, tuple("192.0.2.1", 9), Direction::Inbound);
            world.submit(&by(0), Request::Enable(Box::new(enable)));
        }
        Op::Reserve { agent, host, range } => {
            let host = host.map(|host| format!("10.0.0.{host}"));
            let reserve = Reserve { lifetime: Lifetime(25), ..prr(host.as_deref(), *range) };
            world.submit(&by(*agent), Request::Reserve(Box::new(reserve)));
        }
        Op::Upgrade { which, host, port } => {
            let Some(id) = nth(told, *which) else { return };
            let Some((rule, _)) = world.engine.rule(id) else { return };
            let (owner, range) = (rule.owner.clone(), rule.range);
            let enable = Enable { reserved: Some(id), range, ..udp(&format!("10.0.0.{host}"), *port) };
            world.submit(&Requester::new(owner), Request::Enable(Box::new(enable)));
        }
        Op::Change { which, seconds } => {
            let Some(rule) = nth(told, *which) else { return };
            let request = Request::RuleLifetime { rule, lifetime: Lifetime(*seconds) };
            let transaction = world.submit(&Requester::new(agent("boss")), request);
            if *seconds == 0 {
                told.deleting.insert(transaction, vec![rule]);
            }
        }
        Op::Group { which, seconds } => {
            let Some(rule) = nth(told, *which).and_then(|id| world.engine.rule(id)) else { return };
            let group = rule.0.group;
            let members: Vec<RuleId> = world
                .engine
                .rules()
                .filter(|(rule, _)| rule.group == group)
                .map(|(rule, _)| rule.id)
                .collect();
            let request = Request::GroupLifetime { group, lifetime: Lifetime(*seconds) };
            let transaction = world.submit(&Requester::new(agent("boss")), request);
            if *seconds == 0 {
                told.deleting.insert(transaction, members);
            }
        }
        Op::Annotate { which, word } => {
            let Some(rule) = nth(told, *which) else { return };
            let annotation = Annotation { tag: [*word].into(), ..Annotation::default() };
            world.submit(&Requester::new(agent("boss")), Request::Annotate { rule, annotation });
        }
        Op::Permit { number, way, host, port } => {
            let guest = agent("guest");
            let by = Requester { permit: Some(permit(*number)), ..Requester::new(guest.clone()) };
            if *way == 2 {
                let reserve = Reserve { lifetime: Lifetime(25), ..prr(None, 1) };
                world.submit(&by, Request::Reserve(Box::new(reserve)));
            } else {
                let mine =
                    |id: &&RuleId| world.engine.rule(**id).is_some_and(|(rule, _)| rule.owner == guest);
                let mut reservations =
                    told.rules.iter().filter(|(_, (_, reserve))| *reserve).map(|(id, _)| id);
                let reserved = if *way == 3 { reservations.find(mine).copied() } else { None };
                let enable = Enable { reserved, ..udp(&format!("10.0.0.{host}"), *port) };
                let transaction = world.submit(&by, Request::Enable(Box::new(enable)));
                told.by_permit.insert(transaction, *number);
            }
        }
        Op::Durable => {
            if let Some((ticket, notes)) = world.slow_disk.as_mut().and_then(VecDeque::pop_front) {
                world.write(ticket, notes);
            }
        }
        Op::Lost => {
            // Deletions are carried out whatever the disk says, and repeated after a crash: not here.
            let forgets = |notes: &[turnpike_policy::Note]| {
                use turnpike_policy::Note;
                notes.iter().any(|note| !matches!(note, Note::Write(_) | Note::Use { .. }))
            };
            let queue = world.slow_disk.as_mut().unwrap();
            if queue.front().is_some_and(|(_, notes)| !forgets(notes))
                && let Some((ticket, _)) = queue.pop_front()
            {
                world.engine.not_durable(ticket, world.now);
            }
        }
        Op::Answer => {
            if let Some((token, worker, command)) = world.slow_workers.as_mut().and_then(VecDeque::pop_front)
            {
                world.carry_out(token, worker, command);
            }
        }
        Op::Refuse => world.workers.refuse = Some(AckResult::TABLE_FULL),
        Op::Pass(seconds) => world.pass(*seconds),
        Op::Detach { emptied, workers } => {
            told.seen.broken += 1;
            world.slow_workers = Some(VecDeque::new());
            world.engine.detached(world.now);
            world.run();
            if *emptied {
                world.workers =
                    crate::support::Workers { count: *workers, ..crate::support::Workers::default() };
            }
            world.attach();
        }
        Op::Restart => {
            told.hear(world);
            told.deleting.clear();
            told.by_permit.clear();
            told.seen.restarted += 1;
            told.seen.broken += 1;
            // What the dead process was asked to delete and had not answered for may be either.
            world.restart();
            told.rules.retain(|id, _| world.engine.rule(*id).is_some());
            world.attach();
        }
    }
    world.run();
    told.hear(world);
    told.seen.leased += world.workers.leases.len();
    let pinholes: Vec<_> = world.workers.pinholes.values().collect();
    told.seen.shared +=
        usize::from(pinholes.windows(2).any(|pair| {
            (pair[0].0.inside, pair[0].0.inside_port) == (pair[1].0.inside, pair[1].0.inside_port)
        }));
}

/// Lets everything that is under way happen.
fn calm(world: &mut World, told: &mut Told) {
    world.workers.refuse = None;
    for _ in 0..10_000 {
        step(world, told, &Op::Durable);
        step(world, told, &Op::Answer);
        let disk = world.slow_disk.as_ref().is_some_and(VecDeque::is_empty);
        let workers = world.slow_workers.as_ref().is_some_and(VecDeque::is_empty);
        if disk && workers {
            return;
        }
    }
    panic!("no end of it");
}

fn check(world: &mut World, told: &mut Told) {
    calm(world, told);
    // Suspended rules are tried again, some other rule's end having made room.
    for _ in 0..3 {
        step(world, told, &Op::Pass(6));
        calm(world, told);
    }
    assert_eq!(world.engine.under_way(), 0);
    let (mut expected, mut suspended) = (BTreeMap::new(), Vec::new());
    for (rule, state) in world.engine.rules() {
        // After a dataplane came that had nothing another rule of the inside end may be there first, or a range lie in
        // the blocks of two workers: it is tried on.
        assert!(state == State::Active || state == State::Suspended && told.seen.broken > 0, "{rule:?}");
        suspended.extend((state == State::Suspended).then_some(rule.id));
        expected.insert(rule.id, rule.clone());
    }
    assert_eq!(world.disk, expected, "the journal has what was granted");
    assert_eq!(world.engine.len(), expected.len());
    let told_ids: Vec<RuleId> = told.rules.keys().copied().collect();
    assert_eq!(told_ids, expected.keys().copied().collect::<Vec<_>>(), "owners know what they have");
    let mut pinholes = Vec::new();
    let mut reservations = Vec::new();
    for (id, (outside, reserve)) in &told.rules {
        let rule = &expected[id];
        if rule.pool.is_some() {
            let end = rule.outside.map(|end| Tuple::new(end.address.into(), end.port));
            assert_eq!(end, *outside, "the end that was promised");
        }
        if suspended.contains(id) {
            continue;
        }
        if *reserve { reservations.push(u64::from(id.0)) } else { pinholes.push(u64::from(id.0)) }
    }
    assert_eq!(world.workers.pinholes.keys().copied().collect::<Vec<_>>(), pinholes);
    assert_eq!(world.workers.reservations.keys().copied().collect::<Vec<_>>(), reservations);
    for (_, port, _) in world.workers.leases.keys() {
        let used = expected
            .values()
            .any(|rule| rule.outside.is_some_and(|end| (end.port..end.port + rule.range).contains(port)));
        assert!(used, "port {port} is leased for nobody");
    }
    // An outside port belongs to one inside port.
    let mut ports: BTreeMap<(std::net::Ipv4Addr, u16), (std::net::IpAddr, u16)> = BTreeMap::new();
    for rule in expected.values() {
        let (Some(end), Some(internal)) = (rule.outside, rule.internal.filter(|tuple| tuple.port != 0))
        else {
            continue;
        };
        for offset in 0..rule.range {
            let inside = (internal.address, internal.port + offset);
            let before = ports.insert((end.address, end.port + offset), inside);
            assert!(before.is_none_or(|before| before == inside), "{:?} twice", (end, offset));
        }
    }
}

/// As often as a permit is good for, rules are granted by it; then it is used up, and stays so over a restart. Where
/// nothing is translated, so that no outside end of a suspended rule is in the way.
fn use_up(world: &mut World, told: &mut Told) {
    let ask = |world: &mut World, told: &mut Told, number: u8, port: u16| {
        let by = Requester { permit: Some(permit(number)), ..Requester::new(agent("guest")) };
        let transaction = world.submit(&by, Request::Enable(Box::new(udp("172.16.9.9", port))));
        told.by_permit.insert(transaction, number);
        // Not heard yet where it was refused at once.
        let refused = world.answer(transaction).and_then(Result::err);
        calm(world, told);
        refused
    };
    let over = |world: &World, number| {
        let permit = permit(number);
        if permit.expires > world.now { Refusal::PermitUsed(permit.rules) } else { Refusal::PermitExpired }
    };
    for number in 0..3 {
        let permit = permit(number);
        let ended = permit.expires <= world.now;
        assert!(!ended || !world.uses.contains_key(&permit.nonce), "permit {number} is not forgotten");
        let used = told.uses.get(&number).copied().unwrap_or_default();
        let left = if ended { 0 } else { permit.rules - used };
        for n in 0..left as u16 {
            let port = 1000 + 10 * u16::from(number) + n;
            assert_eq!(ask(world, told, number, port), None, "permit {number} has {left} uses left");
        }
        assert_eq!(ask(world, told, number, 2000), Some(over(world, number)));
        assert!(ended || told.uses[&number] == permit.rules, "permit {number}");
    }
    step(world, told, &Op::Restart);
    calm(world, told);
    for number in 0..3 {
        assert_eq!(ask(world, told, number, 3000), Some(over(world, number)), "after a restart");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn promises_are_kept(ops in proptest::collection::vec(op(), 1..120), workers in 1u8..4) {
        run(workers, &ops);
    }

    #[test]
    fn any_bytes_are_a_program(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let (workers, ops) = of_bytes(&bytes);
        run(workers, &ops);
    }
}

/// Inputs that the fuzzer found worth keeping.
#[test]
fn the_corpus() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/any_ops");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("the corpus") {
        let (workers, ops) = of_bytes(&std::fs::read(entry.unwrap().path()).unwrap());
        run(workers, &ops);
        count += 1;
    }
    assert!(count > 0, "the corpus is empty");
}

/// The generator reaches what is worth it.
#[test]
fn the_interesting_cases_happen() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut seen = Seen::default();
    for _ in 0..60 {
        let ops = proptest::collection::vec(op(), 80..160).new_tree(&mut runner).unwrap().current();
        let played = run(2, &ops);
        seen.granted += played.granted;
        seen.upgraded += played.upgraded;
        seen.refused += played.refused;
        seen.leased += played.leased;
        seen.shared += played.shared;
        seen.restarted += played.restarted;
        seen.by_permit += played.by_permit;
        seen.not_by_permit += played.not_by_permit;
        seen.broken += played.broken;
    }
    for (what, count) in [
        ("granted", seen.granted),
        ("upgraded", seen.upgraded),
        ("refused", seen.refused),
        ("leased", seen.leased),
        ("shared", seen.shared),
        ("restarted", seen.restarted),
        ("by permit", seen.by_permit),
        ("not by permit", seen.not_by_permit),
        ("broken", seen.broken),
    ] {
        assert!(count >= 10, "{what}: {count}");
    }
}

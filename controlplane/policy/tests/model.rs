//! The engine against a journal, workers and owners that are as simple as can be. Whatever the order in which
//! notes become durable, workers answer, dataplanes come and go and the process restarts:
//! what owners were promised is what the workers have once things calm down, and nothing else is.

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use turnpike_abi::command::{PinholeAdd, PortLease};
use turnpike_abi::event::{Ack, AckResult};
use turnpike_abi::{Address, PoolId, WorkerId, steering};
use turnpike_policy::former::{
    Command, Effect, Endpoint, Engine, External, Grant, Limits, Owner, Phase, PinholeId, Pool, Protocol,
    Realm, Record, Refusal, Remote, Request, State, Ticket, Time, Token,
};

const LIMITS: Limits = Limits { pinholes: 12, per_owner: 8, lifetime: 1_000_000 };

#[derive(Clone, Debug)]
enum Op {
    Add { host: u8, port: u16, external: Option<u16>, address: bool, lifetime: Option<u64> },
    Remove(usize),
    Durable { well: bool },
    Answer { refuse: bool },
    Advance(u64),
    Detach,
    Attach { workers: u8, emptied: bool },
    Restart,
    Renumber,
}

fn op() -> impl Strategy<Value = Op> {
    // Ports in blocks of both workers, few enough to collide.
    let external = prop_oneof![Just(None), (0u16..4).prop_map(|n| Some(500 + n * 8))];
    prop_oneof![
        8 => (1u8..6, 80u16..82, external, any::<bool>(), proptest::option::of(1u64..9_000))
            .prop_map(|(host, port, external, address, lifetime)| {
                Op::Add { host, port, external, address, lifetime }
            }),
        3 => (0usize..8).prop_map(Op::Remove),
        12 => proptest::bool::weighted(0.95).prop_map(|well| Op::Durable { well }),
        16 => proptest::bool::weighted(0.1).prop_map(|refuse| Op::Answer { refuse }),
        2 => (0u64..6_000).prop_map(Op::Advance),
        1 => Just(Op::Detach),
        3 => (1u8..4, any::<bool>()).prop_map(|(workers, emptied)| Op::Attach { workers, emptied }),
        1 => Just(Op::Restart),
        1 => Just(Op::Renumber),
    ]
}

/// Pools in one of two orders, so that their numbers change.
fn realm(swapped: bool) -> Realm {
    let pool = |name: &str, id, base| Pool {
        name: name.into(),
        id: PoolId(id),
        ranges: vec![(Ipv4Addr::new(203, 0, 113, base), Ipv4Addr::new(203, 0, 113, base + 1))],
        ports: (1024, 65535),
    };
    let (a, b) = if swapped { (1, 0) } else { (0, 1) };
    let mut pools = vec![pool("public", a, 16), pool("other", b, 32)];
    pools.sort_by_key(|pool| pool.id);
    Realm { pools }
}

/// What reached the disk, and what is on its way.
#[derive(Default)]
struct Disk {
    records: BTreeMap<PinholeId, Record>,
    /// The highest id that ever was there.
    highest: u64,
    queue: VecDeque<Written>,
}

enum Written {
    Note(Ticket, Record),
    Forget(PinholeId),
}

/// Workers that do as they are told, when they get to it.
#[derive(Default)]
struct Workers {
    count: u8,
    pinholes: BTreeMap<u64, (PinholeAdd, Ack)>,
    leases: BTreeSet<(Address, u16, u8, u8)>,
    queue: VecDeque<(Token, WorkerId, Command)>,
}

#[derive(Default)]
struct Seen {
    granted: usize,
    leased: usize,
    suspended: usize,
    replayed: usize,
    refused: usize,
}

struct World {
    engine: Engine,
    disk: Disk,
    workers: Option<Workers>,
    /// What owners were told they have.
    promised: BTreeMap<PinholeId, Option<Grant>>,
    now: Time,
    swapped: bool,
    seen: Seen,
}

fn key(lease: &PortLease) -> (Address, u16, u8, u8) {
    (lease.external, lease.external_port, lease.protocol, lease.owner.0)
}

impl Workers {
    fn carry_out(&mut self, worker: WorkerId, command: Command, refuse: bool, swapped: bool) -> Ack {
        let no = |result| Ack { result, ..Ack::default() };
        match command {
            Command::Lease(lease) => {
                assert_eq!(steering::owner_of_port(lease.external_port, self.count), worker);
                assert_ne!(lease.owner, worker);
                if refuse {
                    return no(AckResult::PORT_TAKEN);
                }
                let known = self.leases.contains(&key(&lease));
                if !known && self.taken(lease.external, lease.external_port, 0) {
                    return no(AckResult::PORT_TAKEN);
                }
                self.leases.insert(key(&lease));
                Ack::default()
            }
            Command::Release(lease) => {
                if self.leases.remove(&key(&lease)) {
                    Ack::default()
                } else {
                    no(AckResult::NOT_FOUND)
                }
            }
            Command::Remove(remove) => match self.pinholes.remove(&remove.id) {
                Some(_) => Ack::default(),
                None => no(AckResult::NOT_FOUND),
            },
            Command::Add(add) => {
                assert_eq!(steering::owner_of_inside(add.inside, self.count), worker);
                if refuse {
                    return no(AckResult::NO_PORT);
                }
                if let Some((known, ack)) = self.pinholes.get(&add.id) {
                    return if known.pool == add.pool { *ack } else { no(AckResult::CONFLICT) };
                }
                self.open(worker, add, swapped)
            }
        }
    }

    fn taken(&self, external: Address, port: u16, id: u64) -> bool {
        self.pinholes
            .iter()
            .any(|(other, (_, ack))| *other != id && ack.external == external && ack.external_port == port)
    }

    fn open(&mut self, worker: WorkerId, add: PinholeAdd, swapped: bool) -> Ack {
        let pool = realm(swapped).pools[usize::from(add.pool.0)].clone();
        let external = if add.external.is_unspecified() { pool.ranges[0].0.into() } else { add.external };
        let port = match add.external_port {
            0 => {
                let mine = |port: &u16| steering::owner_of_port(*port, self.count) == worker;
                let leased = |port| self.leases.iter().any(|lease| lease.0 == external && lease.1 == port);
                (1024..=u16::MAX)
                    .filter(mine)
                    .find(|&port| !self.taken(external, port, add.id) && !leased(port))
                    .unwrap()
            }
            port => {
                let own = steering::owner_of_port(port, self.count) == worker;
                assert_eq!(add.flags & PinholeAdd::LEASED != 0, !own);
                assert!(own || self.leases.contains(&(external, port, add.protocol, worker.0)), "no lease");
                if self.taken(external, port, add.id) {
                    return Ack { result: AckResult::PORT_TAKEN, ..Ack::default() };
                }
                port
            }
        };
        let ack = Ack { external, external_port: port, ..Ack::default() };
        self.pinholes.insert(add.id, (add, ack));
        ack
    }
}

impl World {
    fn new() -> Self {
        let mut engine = Engine::new(LIMITS, 1);
        engine.set_realm(realm(false), Time(0));
        Self {
            engine,
            disk: Disk::default(),
            workers: None,
            promised: BTreeMap::new(),
            now: Time(1_000),
            swapped: false,
            seen: Seen::default(),
        }
    }

    fn settle(&mut self) {
        let effects: Vec<_> = self.engine.effects().collect();
        for effect in effects {
            match effect {
                Effect::Note { ticket, record } => self.disk.queue.push_back(Written::Note(ticket, record)),
                Effect::Forget(id) => self.disk.queue.push_back(Written::Forget(id)),
                Effect::Tell { token, worker, command } => {
                    if let Command::Add(add) = &command {
                        let on_disk = self.disk.records.contains_key(&PinholeId(add.id));
                        assert!(on_disk, "pinhole {} is sent before it is on disk", add.id);
                    }
                    let workers = self.workers.as_mut().expect("a command without a dataplane");
                    self.seen.leased += usize::from(matches!(command, Command::Lease(_)));
                    workers.queue.push_back((token, worker, command));
                }
                Effect::Granted(id) => {
                    let record = &self.disk.records[&id];
                    assert_eq!(record.phase, Phase::Granted, "granted before it is on disk");
                    let end = record.pinhole.granted;
                    assert!(self.promised.values().all(|other| *other != end), "{end:?} promised twice");
                    self.promised.insert(id, end);
                    self.seen.granted += 1;
                }
                Effect::Refused(id, _) => {
                    assert!(!self.promised.contains_key(&id), "refused after it was granted");
                    self.seen.refused += 1;
                }
                Effect::Ended(id, _) => {
                    self.promised.remove(&id);
                }
                Effect::Suspended(id, _) => {
                    assert!(self.promised.contains_key(&id));
                    self.seen.suspended += 1;
                }
            }
        }
    }

    fn durable(&mut self, well: bool) -> bool {
        match self.disk.queue.pop_front() {
            Some(Written::Note(ticket, record)) if well => {
                self.disk.highest = self.disk.highest.max(record.pinhole.id.0);
                self.disk.records.insert(record.pinhole.id, record);
                self.engine.durable(ticket, self.now);
            }
            Some(Written::Note(ticket, _)) => self.engine.not_durable(ticket, self.now),
            Some(Written::Forget(id)) => {
                self.disk.records.remove(&id);
            }
            None => return false,
        }
        true
    }

    fn answer(&mut self, refuse: bool) -> bool {
        let swapped = self.swapped;
        let Some(workers) = &mut self.workers else { return false };
        let Some((token, worker, command)) = workers.queue.pop_front() else { return false };
        let ack = workers.carry_out(worker, command, refuse, swapped);
        self.engine.answer(token, ack, self.now);
        true
    }

    fn attach(&mut self, workers: u8, left: Option<Workers>) {
        self.workers = Some(match left {
            // The same dataplane: what it had it has.
            Some(left) => Workers { queue: VecDeque::new(), ..left },
            None => Workers { count: workers, ..Workers::default() },
        });
        let count = self.workers.as_ref().map_or(workers, |workers| workers.count);
        self.seen.replayed += self.promised.len();
        self.engine.attached(count, self.now);
    }

    fn detach(&mut self) -> Option<Workers> {
        let left = self.workers.take();
        self.engine.detached(self.now);
        left
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Add { host, port, external, address, lifetime } => {
                let request = Request {
                    owner: Owner("a".into()),
                    protocol: Protocol::Udp,
                    inside: Endpoint { address: IpAddr::from([192, 168, 0, *host]), port: *port },
                    external: Some(External {
                        pool: "public".into(),
                        address: address.then_some(Ipv4Addr::new(203, 0, 113, 17)),
                        port: *external,
                    }),
                    remote: Remote::anyone(IpAddr::V4(Ipv4Addr::LOCALHOST)),
                    lifetime: *lifetime,
                    note: None,
                };
                match self.engine.add(request, self.now) {
                    Ok(id) => assert!(!self.disk.records.contains_key(&id), "id {id} used twice"),
                    Err(Refusal::Detached) => assert!(self.workers.is_none()),
                    Err(_) => self.seen.refused += 1,
                }
            }
            Op::Remove(which) => {
                let id = self.promised.keys().nth(*which).copied();
                if let Some(id) = id {
                    // It may have expired and be on its way out.
                    let closing = self.engine.pinhole(id).is_none_or(|(_, state, _)| state == State::Closing);
                    assert_eq!(self.engine.remove(id, self.now).is_err(), closing);
                }
            }
            Op::Durable { well } => {
                self.durable(*well);
            }
            Op::Answer { refuse } => {
                self.answer(*refuse);
            }
            Op::Advance(milliseconds) => {
                self.now = self.now.after(*milliseconds);
                self.engine.advance(self.now);
            }
            Op::Detach => {
                self.detach();
            }
            Op::Attach { workers, emptied } => {
                let left = self.detach();
                self.settle();
                self.attach(*workers, left.filter(|_| !emptied));
            }
            Op::Restart => {
                // Killed: what is not on disk is lost, and with it everybody who waited.
                let left = self.workers.take();
                self.disk.queue.clear();
                self.engine = Engine::new(LIMITS, self.disk.highest + 1);
                self.engine.set_realm(realm(self.swapped), self.now);
                for record in self.disk.records.values() {
                    self.engine.restore(record.clone()).unwrap();
                }
                let disk = &self.disk.records;
                // A grant may be on disk and its owner not told: it counts. A removal that its owner asked
                // for is on disk or still stands.
                self.promised = disk
                    .values()
                    .filter(|record| record.phase == Phase::Granted)
                    .map(|record| (record.pinhole.id, record.pinhole.granted))
                    .collect();
                if let Some(left) = left {
                    let count = left.count;
                    self.attach(count, Some(left));
                }
            }
            Op::Renumber => {
                self.swapped = !self.swapped;
                self.engine.set_realm(realm(self.swapped), self.now);
            }
        }
        self.settle();
    }

    /// Everything that is under way ends, suspended pinholes are tried again, nobody refuses any more.
    fn calm_down(&mut self) {
        if self.workers.is_none() {
            self.attach(2, None);
            self.settle();
        }
        for _ in 0..3 {
            let mut rounds = 0;
            while self.durable(true) || self.answer(false) {
                self.settle();
                rounds += 1;
                assert!(rounds < 10_000, "never calm");
            }
            self.now = self.now.after(6_000);
            self.engine.advance(self.now);
            self.settle();
        }
    }

    fn check(&self) {
        let workers = self.workers.as_ref().unwrap();
        let held: BTreeMap<_, _> = workers
            .pinholes
            .iter()
            .map(|(id, (_, ack))| {
                let address = ack.external.to_v4().unwrap().into();
                (PinholeId(*id), Some(Grant { address, port: ack.external_port }))
            })
            .collect();
        assert_eq!(held, self.promised, "workers and owners disagree");
        let on_disk: BTreeMap<_, _> =
            self.disk.records.iter().map(|(id, record)| (*id, record.pinhole.granted)).collect();
        assert_eq!(on_disk, self.promised, "disk and owners disagree");
        for (pinhole, state, why) in self.engine.pinholes() {
            assert_eq!(state, State::Active, "{pinhole:?} {why:?}");
            assert!(pinhole.expires.is_none_or(|expires| expires > self.now), "lives on: {pinhole:?}");
        }
        assert_eq!(self.engine.len(), self.promised.len());
        let needed = workers.pinholes.values().filter(|(add, _)| add.flags & PinholeAdd::LEASED != 0).count();
        assert_eq!(workers.leases.len(), needed, "leases left over: {:?}", workers.leases);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn promises_are_kept(ops in proptest::collection::vec(op(), 0..120)) {
        let mut world = World::new();
        world.attach(2, None);
        for op in &ops {
            world.apply(op);
        }
        world.calm_down();
        world.check();
    }
}

/// The test above is about something: its scripts get to grants, leases, refusals, replays and suspensions.
#[test]
fn scripts_reach_what_they_are_for() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut total = Seen::default();
    for _ in 0..200 {
        let ops = proptest::collection::vec(op(), 60..120).new_tree(&mut runner).unwrap().current();
        let mut world = World::new();
        world.attach(2, None);
        for op in &ops {
            world.apply(op);
        }
        total.granted += world.seen.granted;
        total.leased += world.seen.leased;
        total.suspended += world.seen.suspended;
        total.replayed += world.seen.replayed;
        total.refused += world.seen.refused;
    }
    assert!(total.granted > 200, "{}", total.granted);
    assert!(total.leased > 100, "{}", total.leased);
    assert!(total.suspended > 5, "{}", total.suspended);
    assert!(total.replayed > 50, "{}", total.replayed);
    assert!(total.refused > 200, "{}", total.refused);
}

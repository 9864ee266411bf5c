//! An engine with a journal, workers and listeners that are as simple as can be.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use turnpike_abi::command::{Parity as AbiParity, PinholeAdd, PortLease, PortsReserve};
use turnpike_abi::event::{Ack, AckResult, BindingRow};
use turnpike_abi::{Address, PoolId, WorkerId, steering};
use turnpike_policy::{
    Access, Agent, Audit, Capabilities, Command, Direction, Effect, Enable, Engine, Event, Front,
    FrontAccess, GroupId, Lifetime, Limits, Network, Note, Notification, Pool, Profile, Protocol, Realm,
    Refusal, Reply, Request, Requester, Reserve, Rights, Rule, RuleId, Scope, Service, SessionId, Ticket,
    Time, Token, TransactionId, Translation, Tuple, Uses,
};

/// What came out of the engine, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    Reply(TransactionId, Result<Reply, Refusal>),
    Notification(SessionId, Notification),
}

/// Rules with their states, pinholes, reservations, records in the journal.
pub type Picture = (Vec<(Rule, turnpike_policy::State)>, Vec<u64>, Vec<u64>, usize);

/// Workers that do as they are told.
#[derive(Default)]
pub struct Workers {
    pub count: u8,
    pub pinholes: BTreeMap<u64, (PinholeAdd, Ack)>,
    pub reservations: BTreeMap<u64, (WorkerId, PortsReserve, Ack)>,
    pub leases: BTreeMap<(Address, u16, u8), u8>,
    /// Leased ports that flows of drained pinholes still use.
    pub draining: Vec<(Address, u16, u8)>,
    /// Commands carried out.
    pub commands: usize,
    /// Answer to the next PINHOLE_ADD or PORTS_RESERVE but OK.
    pub refuse: Option<AckResult>,
    /// Ports that traffic has taken.
    pub dynamic: Vec<(Ipv4Addr, u16, u8)>,
    /// Highest port given out, if few are to be had.
    pub last_port: Option<u16>,
}

pub struct World {
    pub engine: Engine,
    pub disk: BTreeMap<RuleId, Rule>,
    /// The disk's uses of permits.
    pub uses: BTreeMap<[u8; 16], Uses>,
    pub ids: (RuleId, GroupId),
    pub workers: Workers,
    pub now: Time,
    pub heard: Vec<Heard>,
    pub audits: Vec<Audit>,
    /// Notes that are not durable yet, if the disk is slow.
    pub slow_disk: Option<VecDeque<(Ticket, Vec<Note>)>>,
    /// Commands that are not carried out yet, if the workers are slow.
    pub slow_workers: Option<VecDeque<(Token, WorkerId, Command)>>,
    next: u64,
}

pub fn agent(name: &str) -> Agent {
    Agent::new(Front::Simco, name)
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn tuple(text: &str, port: u16) -> Tuple {
    match text.split_once('/') {
        Some((address, length)) => Tuple { address: ip(address), length: length.parse().unwrap(), port },
        None => Tuple::new(ip(text), port),
    }
}

pub fn network(text: &str) -> Network {
    let tuple = tuple(text, 0);
    tuple.network()
}

pub fn profile() -> Profile {
    Profile {
        zones: vec!["inside".into()],
        rights: Rights::OWN,
        inside: Scope::Prefixes(vec![
            network("10.0.0.0/8"),
            network("2001:db8::/32"),
            network("172.16.0.0/12"),
        ]),
        outside: vec![Network::V4, Network::V6],
        protocols: Vec::new(),
        external_wildcard: true,
        takes_over: Vec::new(),
        rules: 1000,
        sessions: 4,
        lifetime: Lifetime(3600),
        idle: None,
        durable: true,
    }
}

/// Agents `a`, `b` and `c`; `boss` may do everything, `backup` act for `a`. Hosts of 10/8 are translated, those of
/// 172.16/12 and of IPv6 are not.
pub fn access() -> Access {
    let pool = |name: &str, id, base| Pool {
        name: name.into(),
        id: PoolId(id),
        ranges: vec![(Ipv4Addr::new(203, 0, 113, base), Ipv4Addr::new(203, 0, 113, base + 3))],
        ports: (1024, 65535),
    };
    let mut simco = FrontAccess { zones: vec!["inside".into(), "guests".into()], ..FrontAccess::default() };
    for name in ["a", "b", "c"] {
        simco.agents.insert(name.into(), profile());
    }
    let boss = Profile { rights: Rights::OWN.and(Rights::ADMIN), ..profile() };
    simco.agents.insert("boss".into(), boss);
    simco.agents.insert("backup".into(), Profile { takes_over: vec![agent("a")], ..profile() });
    let own = Profile { inside: Scope::Own, ..profile() };
    let pcp = FrontAccess { zones: vec!["inside".into()], everybody: Some(own), ..FrontAccess::default() };
    Access {
        realm: Realm {
            pools: vec![pool("public", 0, 16), pool("other", 1, 32)],
            translations: vec![
                Translation {
                    zone: Some("guests".into()),
                    source: network("10.0.0.0/8"),
                    pool: Some("other".into()),
                },
                Translation { zone: None, source: network("10.0.0.0/8"), pool: Some("public".into()) },
            ],
        },
        fronts: [(Front::Simco, simco), (Front::Pcp, pcp)].into_iter().collect(),
        limits: Limits::default(),
        ..Access::default()
    }
}

pub fn per(protocol: Protocol, internal: Tuple, external: Tuple, direction: Direction) -> Enable {
    Enable { external, ..Enable::new(protocol, internal, direction, Lifetime(300)) }
}

pub fn udp(host: &str, port: u16) -> Enable {
    Enable::new(Protocol::UDP, tuple(host, port), Direction::Inbound, Lifetime(300))
}

pub fn prr(host: Option<&str>, range: u16) -> Reserve {
    Reserve {
        group: None,
        zone: None,
        service: Service::Traditional,
        internal_version: turnpike_policy::IpVersion::V4,
        internal: host.map(|host| tuple(host, 0)),
        external_version: turnpike_policy::IpVersion::V4,
        protocol: Protocol::UDP,
        range,
        parity: turnpike_policy::PortParity::Even,
        outside: None,
        interfaces: None,
        lifetime: Lifetime(120),
        annotation: turnpike_policy::Annotation::default(),
    }
}

impl World {
    pub fn new() -> Self {
        Self::with(access(), 2)
    }

    pub fn with(access: Access, workers: u8) -> Self {
        let mut engine = Engine::new(RuleId(1), GroupId(1));
        let now = Time(1_000_000);
        engine.set_access(access, now);
        engine.note_ids();
        let mut world = Self {
            engine,
            disk: BTreeMap::new(),
            uses: BTreeMap::new(),
            ids: (RuleId(1), GroupId(1)),
            workers: Workers { count: workers, ..Workers::default() },
            now,
            heard: Vec::new(),
            audits: Vec::new(),
            slow_disk: None,
            slow_workers: None,
            next: 1,
        };
        world.attach();
        world
    }

    pub fn attach(&mut self) {
        self.engine.attached(self.workers.count);
        for (worker, row) in self.workers.rows() {
            self.engine.found(worker, &row, self.now);
        }
        let reservations: Vec<_> =
            self.workers.reservations.iter().map(|(id, (worker, ..))| (*id, *worker)).collect();
        for (id, worker) in reservations {
            let row = BindingRow { pinhole: id, ..BindingRow::default() };
            self.engine.found_reservation(worker, &row);
        }
        for (worker, row) in self.workers.lease_rows() {
            self.engine.found_lease(worker, &row, self.now);
        }
        self.engine.walked(self.now);
        self.run();
    }

    /// The process dies and starts again from its disk.
    pub fn restart(&mut self) {
        let mut engine = Engine::new(self.ids.0, self.ids.1);
        for rule in self.disk.values() {
            let stored = Rule::decode(rule.id, &rule.encode()).unwrap();
            assert_eq!(stored, *rule);
            engine.restore(stored).unwrap();
        }
        for (permit, uses) in &self.uses {
            engine.restore_permit(*permit, Uses::decode(&uses.encode()).unwrap());
        }
        engine.set_access(self.engine.access().clone(), self.now);
        engine.note_ids();
        self.engine = engine;
        self.slow_disk = self.slow_disk.as_ref().map(|_| VecDeque::new());
        self.slow_workers = self.slow_workers.as_ref().map(|_| VecDeque::new());
        self.run();
    }

    pub fn open(&mut self, name: &str) -> SessionId {
        self.try_open(name).unwrap().0
    }

    pub fn try_open(&mut self, name: &str) -> Result<(SessionId, Capabilities), Refusal> {
        let result = self.engine.open_session(&agent(name), self.now);
        self.run();
        result
    }

    /// Carries out what the engine wants until it wants nothing more.
    pub fn run(&mut self) {
        loop {
            let effects: Vec<Effect> = self.engine.effects().collect();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                match effect {
                    Effect::Note { ticket, notes } => match &mut self.slow_disk {
                        Some(queue) => queue.push_back((ticket, notes)),
                        None => self.write(ticket, notes),
                    },
                    Effect::Tell { token, worker, command } => match &mut self.slow_workers {
                        Some(queue) => queue.push_back((token, worker, command)),
                        None => self.carry_out(token, worker, command),
                    },
                    Effect::Reply { transaction, result } => {
                        self.heard.push(Heard::Reply(transaction, result))
                    }
                    Effect::Notify { session, notification } => {
                        self.heard.push(Heard::Notification(session, notification));
                    }
                    Effect::Audit(audit) => self.audits.push(*audit),
                    Effect::Suspended(..) => {}
                }
            }
        }
    }

    pub fn write(&mut self, ticket: Ticket, notes: Vec<Note>) {
        for note in notes {
            match note {
                Note::Write(rule) => {
                    self.disk.insert(rule.id, *rule);
                }
                Note::Forget(id) => {
                    self.disk.remove(&id);
                }
                Note::Use { permit, expires } => {
                    let uses = Uses::and_one(self.uses.get(&permit).copied(), expires);
                    self.uses.insert(permit, uses);
                }
                Note::ForgetPermit(permit) => {
                    self.uses.remove(&permit);
                }
                Note::Ids { rules, groups } => self.ids = (rules, groups),
            }
        }
        self.engine.durable(ticket, self.now);
    }

    pub fn carry_out(&mut self, token: Token, worker: WorkerId, command: Command) {
        let ack = self.workers.carry_out(worker, command);
        self.engine.answer(token, ack, self.now);
    }

    pub fn submit(&mut self, by: &Requester, request: Request) -> TransactionId {
        let transaction = TransactionId(self.next);
        self.next += 1;
        self.engine.submit(transaction, by, request, self.now);
        self.run();
        transaction
    }

    pub fn answer(&self, transaction: TransactionId) -> Option<Result<Reply, Refusal>> {
        let mut answers = self.heard.iter().filter_map(|heard| match heard {
            Heard::Reply(of, result) if *of == transaction => Some(result.clone()),
            _ => None,
        });
        let answer = answers.next();
        assert!(answers.next().is_none(), "two answers to {transaction:?}");
        answer
    }

    pub fn ask(&mut self, by: &Requester, request: Request) -> Result<Reply, Refusal> {
        let transaction = self.submit(by, request);
        self.answer(transaction).expect("an answer")
    }

    pub fn by(&self, name: &str) -> Requester {
        Requester::new(agent(name))
    }

    pub fn enable(&mut self, name: &str, enable: Enable) -> Result<(RuleId, GroupId, Tuple), Refusal> {
        match self.ask(&self.by(name), Request::Enable(Box::new(enable)))? {
            Reply::Enabled { rule, group, outside, .. } => Ok((rule, group, outside)),
            other => panic!("{other:?}"),
        }
    }

    pub fn reserve(
        &mut self,
        name: &str,
        reserve: Reserve,
    ) -> Result<(RuleId, GroupId, Option<Tuple>), Refusal> {
        match self.ask(&self.by(name), Request::Reserve(Box::new(reserve)))? {
            Reply::Reserved { rule, group, outside, inside, .. } => {
                assert_eq!(inside, None);
                Ok((rule, group, outside))
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn lifetime(&mut self, name: &str, rule: RuleId, seconds: u32) -> Result<Lifetime, Refusal> {
        match self.ask(&self.by(name), Request::RuleLifetime { rule, lifetime: Lifetime(seconds) })? {
            Reply::Lifetime(lifetime) => Ok(lifetime),
            other => panic!("{other:?}"),
        }
    }

    pub fn group_lifetime(&mut self, name: &str, group: GroupId, seconds: u32) -> Result<Lifetime, Refusal> {
        match self.ask(&self.by(name), Request::GroupLifetime { group, lifetime: Lifetime(seconds) })? {
            Reply::Lifetime(lifetime) => Ok(lifetime),
            other => panic!("{other:?}"),
        }
    }

    pub fn status(&mut self, name: &str, rule: RuleId) -> Result<turnpike_policy::RuleStatus, Refusal> {
        match self.ask(&self.by(name), Request::RuleStatus(rule))? {
            Reply::Rule(status) => Ok(*status),
            other => panic!("{other:?}"),
        }
    }

    pub fn list(&mut self, name: &str) -> Vec<RuleId> {
        match self.ask(&self.by(name), Request::RuleList(turnpike_policy::Filter::default())).unwrap() {
            Reply::Rules(rules) => rules.into_iter().map(|(rule, _)| rule).collect(),
            other => panic!("{other:?}"),
        }
    }

    pub fn pass(&mut self, seconds: u64) {
        self.now = self.now.after(seconds * 1000);
        while self.engine.deadline().is_some_and(|due| due <= self.now) {
            self.engine.advance(self.now);
            self.run();
        }
    }

    /// What sessions heard unasked since the last call.
    pub fn notifications(&mut self) -> Vec<(SessionId, Event)> {
        let all = std::mem::take(&mut self.heard);
        let unasked = all.iter().filter_map(|heard| match heard {
            Heard::Notification(session, notification) => Some((*session, notification.event)),
            Heard::Reply(..) => None,
        });
        unasked.collect()
    }

    /// A picture of everything that a refused request must not change.
    pub fn picture(&self) -> Picture {
        let mut rules: Vec<_> = self.engine.rules().map(|(rule, state)| (rule.clone(), state)).collect();
        rules.sort_by_key(|(rule, _)| rule.id);
        (
            rules,
            self.workers.pinholes.keys().copied().collect(),
            self.workers.reservations.keys().copied().collect(),
            self.disk.len(),
        )
    }
}

impl Workers {
    /// What a walk of the workers' tables shows.
    pub fn rows(&self) -> Vec<(WorkerId, BindingRow)> {
        let row = |(id, (add, ack)): (&u64, &(PinholeAdd, Ack))| {
            let worker = steering::owner_of_inside(add.inside, self.count);
            let translated = add.flags & PinholeAdd::POOL != 0;
            let row = BindingRow {
                inside: add.inside,
                inside_port: add.inside_port,
                external: ack.external,
                external_port: ack.external_port,
                pool: if translated { add.pool } else { BindingRow::NO_POOL },
                protocol: add.protocol,
                pinhole: *id,
                remote: add.remote,
                remote_ports: [add.remote_port_first, add.remote_port_last],
                worker,
                ..BindingRow::default()
            };
            (worker, row)
        };
        self.pinholes.iter().map(row).collect()
    }

    /// What a walk of their leases shows.
    fn lease_rows(&self) -> Vec<(WorkerId, BindingRow)> {
        let row = |(&(external, external_port, protocol), &owner): (&(Address, u16, u8), &u8)| {
            let lessor = match protocol {
                6 | 17 => steering::owner_of_port(external_port, self.count),
                _ => steering::owner_of_portless(external, self.count),
            };
            let worker = WorkerId(owner);
            (lessor, BindingRow { external, external_port, protocol, worker, ..BindingRow::default() })
        };
        self.leases.iter().map(row).collect()
    }

    /// Ports of `range` from `port` on that somebody has, but for the inside end that has them all.
    fn taken(&self, address: Address, protocol: u8, port: u16, range: u8, except: u64) -> bool {
        (0..u16::from(range.max(1))).any(|offset| {
            let port = port + offset;
            let pinhole = self.pinholes.values().any(|(add, ack)| {
                add.protocol == protocol
                    && ack.external == address
                    && (ack.external_port..ack.external_port.saturating_add(u16::from(add.ports.max(1))))
                        .contains(&port)
            });
            let reserved = self.reservations.iter().any(|(id, (_, reserve, ack))| {
                *id != except
                    && reserve.protocol == protocol
                    && ack.external == address
                    && (ack.external_port..ack.external_port + u16::from(reserve.ports)).contains(&port)
            });
            let dynamic = self
                .dynamic
                .iter()
                .any(|(v4, at, of)| Address::v4(v4.octets()) == address && *at == port && *of == protocol);
            pinhole || reserved || dynamic || self.leases.contains_key(&(address, port, protocol))
        })
    }

    fn choose(&self, worker: WorkerId, protocol: u8, range: u8, parity: AbiParity) -> Option<u16> {
        let address = Address::v4([203, 0, 113, 16]);
        (1024..=self.last_port.unwrap_or(u16::MAX - 64)).find(|&port| {
            let own = |port| steering::owner_of_port(port, self.count) == worker;
            let fits = match parity {
                AbiParity::EVEN => port.is_multiple_of(2),
                AbiParity::ODD => !port.is_multiple_of(2),
                _ => true,
            };
            let last = port + u16::from(range.max(1)) - 1;
            fits && own(port) && own(last) && !self.taken(address, protocol, port, range, 0)
        })
    }

    pub fn carry_out(&mut self, worker: WorkerId, command: Command) -> Ack {
        self.commands += 1;
        let no = |result| Ack { result, ..Ack::default() };
        match command {
            Command::Reserve(reserve) => {
                if let Some(result) = self.refuse.take() {
                    return no(result);
                }
                if let Some((_, same, ack)) = self.reservations.get(&reserve.id) {
                    assert_eq!((same.ports, same.protocol), (reserve.ports, reserve.protocol));
                    return *ack;
                }
                let address = if reserve.external.is_unspecified() {
                    Address::v4([203, 0, 113, 16])
                } else {
                    reserve.external
                };
                let port = match reserve.external_port {
                    0 => match self.choose(worker, reserve.protocol, reserve.ports, reserve.parity) {
                        Some(port) => port,
                        None => return no(AckResult::NO_PORT),
                    },
                    port if self.taken(address, reserve.protocol, port, reserve.ports, reserve.id) => {
                        return no(AckResult::PORT_TAKEN);
                    }
                    port => port,
                };
                assert_eq!(steering::owner_of_port(port, self.count), worker);
                let ack = Ack { result: AckResult::OK, external: address, external_port: port, reserved: 0 };
                self.reservations.insert(reserve.id, (worker, reserve, ack));
                ack
            }
            Command::Unreserve(release) => match self.reservations.remove(&release.id) {
                Some(_) => no(AckResult::OK),
                None => no(AckResult::NOT_RESERVED),
            },
            Command::Lease(lease) => self.lease(worker, &lease),
            // Asked of the worker that has it: whether it uses it.
            Command::Release(lease) if lease.owner == worker => {
                let used = self.pinholes.values().any(|(add, ack)| {
                    let ports = ack.external_port..=ack.external_port + (u16::from(add.ports.max(1)) - 1);
                    (ack.external, add.protocol) == (lease.external, lease.protocol)
                        && ports.contains(&lease.external_port)
                });
                let drains = self.draining.contains(&(lease.external, lease.external_port, lease.protocol));
                no(if used || drains { AckResult::PORT_TAKEN } else { AckResult::OK })
            }
            Command::Release(lease) => {
                let keys = (0..u16::from(lease.ports.max(1)))
                    .map(|offset| (lease.external, lease.external_port + offset, lease.protocol));
                let own = |key: &_| self.leases.get(key) == Some(&lease.owner.0);
                let gone: Vec<_> = keys.filter(own).collect();
                self.leases.retain(|key, _| !gone.contains(key));
                no(if gone.is_empty() { AckResult::NOT_FOUND } else { AckResult::OK })
            }
            Command::Add(add) => self.add(worker, &add),
            Command::Remove(remove) => match self.pinholes.remove(&remove.id) {
                Some(_) => no(AckResult::OK),
                None => no(AckResult::NOT_FOUND),
            },
        }
    }

    fn lease(&mut self, worker: WorkerId, lease: &PortLease) -> Ack {
        let no = |result| Ack { result, ..Ack::default() };
        assert_ne!(lease.owner, worker);
        let ports = lease.external_port..lease.external_port + u16::from(lease.ports.max(1));
        if ports.clone().any(|port| steering::owner_of_port(port, self.count) != worker)
            && lease.protocol != 41
        {
            return no(AckResult::NOT_OWNER);
        }
        if lease.reservation != 0 {
            let Some((_, _, ack)) = self.reservations.get(&lease.reservation) else {
                return no(AckResult::NOT_RESERVED);
            };
            assert_eq!(ack.external_port, lease.external_port);
            self.reservations.remove(&lease.reservation);
        }
        let ports = u16::from(lease.ports.max(1));
        let keys: Vec<_> =
            (0..ports).map(|offset| (lease.external, lease.external_port + offset, lease.protocol)).collect();
        let free = |key: &(Address, u16, u8)| {
            self.leases.get(key) == Some(&lease.owner.0) || !self.taken(key.0, key.2, key.1, 1, 0)
        };
        if !keys.iter().all(free) {
            return no(AckResult::PORT_TAKEN);
        }
        for key in keys {
            self.leases.insert(key, lease.owner.0);
        }
        no(AckResult::OK)
    }

    fn add(&mut self, worker: WorkerId, add: &PinholeAdd) -> Ack {
        let no = |result| Ack { result, ..Ack::default() };
        assert_eq!(steering::owner_of_inside(add.inside, self.count), worker);
        if let Some(result) = self.refuse.take() {
            return no(result);
        }
        if let Some((same, ack)) = self.pinholes.get(&add.id) {
            let same =
                PinholeAdd { flags: 0, external: add.external, external_port: add.external_port, ..*same };
            return if same == (PinholeAdd { flags: 0, ..*add }) { *ack } else { no(AckResult::CONFLICT) };
        }
        if add.flags & PinholeAdd::POOL == 0 {
            let ack = Ack::default();
            self.pinholes.insert(add.id, (*add, ack));
            return ack;
        }
        let reserved = add.flags & PinholeAdd::RESERVED != 0;
        let leased = add.flags & PinholeAdd::LEASED != 0;
        let mapping = self.pinholes.values().find_map(|(other, ack)| {
            let apart = i32::from(add.inside_port) - i32::from(other.inside_port);
            let inside = other.inside == add.inside
                && other.protocol == add.protocol
                && other.flags & PinholeAdd::POOL != 0
                && (0..i32::from(other.ports.max(1))).contains(&apart);
            inside.then(|| (ack.external, (i32::from(ack.external_port) + apart) as u16))
        });
        let (external, port) = if reserved {
            match self.reservations.get(&add.reservation) {
                Some((_, _, ack)) => (ack.external, ack.external_port),
                None => return no(AckResult::NOT_RESERVED),
            }
        } else if let Some((external, port)) = mapping {
            if add.external_port != 0 && (add.external, add.external_port) != (external, port) {
                return no(AckResult::MAPPED_ELSEWHERE);
            }
            (external, port)
        } else {
            let external =
                if add.external.is_unspecified() { Address::v4([203, 0, 113, 16]) } else { add.external };
            let parity = match add.flags & (PinholeAdd::EVEN | PinholeAdd::ODD) {
                PinholeAdd::EVEN => AbiParity::EVEN,
                PinholeAdd::ODD => AbiParity::ODD,
                _ => AbiParity::ANY,
            };
            let port = match add.external_port {
                0 if matches!(add.protocol, 6 | 17) => {
                    match self.choose(worker, add.protocol, add.ports, parity) {
                        Some(port) => port,
                        None => return no(AckResult::NO_PORT),
                    }
                }
                port if leased => port,
                port if self.taken(external, add.protocol, port, add.ports, 0) => {
                    return no(AckResult::PORT_TAKEN);
                }
                port => port,
            };
            (external, port)
        };
        if matches!(add.protocol, 6 | 17) && mapping.is_none() {
            let own = steering::owner_of_port(port, self.count) == worker;
            assert_eq!(own, !leased, "leased exactly where the port is another worker's");
        }
        if reserved {
            self.reservations.remove(&add.reservation);
        }
        let ack = Ack { result: AckResult::OK, external, external_port: port, reserved: 0 };
        self.pinholes.insert(add.id, (*add, ack));
        ack
    }
}

//! The daemon's part: the policy engine with a journal that is always durable, and a worker that does as it is told.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use turnpike_abi::command::{Parity, PinholeAdd};
use turnpike_abi::event::{Ack, AckResult};
use turnpike_abi::{Address, PoolId};
use turnpike_gateway::{Addressee, Answer, Gateway, Opened, Order, Orders, Said};
use turnpike_midcom::{Counters, Server, Settings};
use turnpike_policy::{
    Access, Command, Effect, Engine, Event, Front, FrontAccess, GroupId, Lifetime, Network, Pool, Profile,
    Realm, Rights, RuleId, Scope, SessionId, Time, TransactionId, Translation,
};

/// The pool's address: that of the golden vectors.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// An agent that may do what agents do with their own rules, for 10.0.0.0/8.
pub fn profile() -> Profile {
    Profile {
        zones: vec!["inside".into()],
        rights: Rights::OWN,
        inside: Scope::Prefixes(vec![
            Network { address: [10, 0, 0, 0].into(), length: 8 },
            Network { address: [172, 16, 0, 0].into(), length: 12 },
        ]),
        outside: vec![Network::V4],
        protocols: Vec::new(),
        external_wildcard: true,
        takes_over: Vec::new(),
        rules: 20_000,
        sessions: 20,
        lifetime: Lifetime(3600),
        idle: None,
        durable: true,
    }
}

/// 10/8 is translated, the rest is not. The agents: "proxy", "other" and "boss", who may everything.
pub fn access() -> Access {
    let pool =
        Pool { name: "public".into(), id: PoolId(0), ranges: vec![(OUTSIDE, OUTSIDE)], ports: (1024, 65535) };
    let source = Network { address: [10, 0, 0, 0].into(), length: 8 };
    let translation = Translation { zone: None, source, pool: Some("public".into()) };
    let boss = Profile { rights: Rights::OWN.and(Rights::ADMIN), ..profile() };
    let agents = [("proxy", profile()), ("other", profile()), ("boss", boss)];
    let simco = FrontAccess {
        zones: vec!["inside".into()],
        agents: agents.into_iter().map(|(name, profile)| (name.into(), profile)).collect(),
        ..FrontAccess::default()
    };
    Access {
        realm: Realm { pools: vec![pool], translations: vec![translation] },
        fronts: [(Front::Simco, simco)].into_iter().collect(),
        ..Access::default()
    }
}

/// What a test does to the daemon.
type Deed = Box<dyn FnOnce(&mut Engine, Time) + Send>;

/// The box: a server on loopback, and its daemon.
pub struct Middlebox {
    pub address: SocketAddr,
    pub server: Server,
    deeds: mpsc::Sender<Deed>,
}

impl Middlebox {
    pub async fn start(settings: Settings) -> Self {
        Self::with(settings, access()).await
    }

    pub async fn with(settings: Settings, access: Access) -> Self {
        let (gateway, orders) = Gateway::new();
        let (deeds, to_do) = mpsc::channel(16);
        tokio::spawn(Daemon::new(access).run(orders, to_do));
        let server = Server::new(gateway, settings);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(server.clone().serve(listener));
        Self { address, server, deeds }
    }

    /// Does something to the engine, and comes back when it is done.
    pub async fn engine<T: Send + 'static>(
        &self,
        deed: impl FnOnce(&mut Engine, Time) -> T + Send + 'static,
    ) -> T {
        let (done, result) = oneshot::channel();
        let deed: Deed = Box::new(move |engine, now| drop(done.send(deed(engine, now))));
        assert!(self.deeds.send(deed).await.is_ok());
        result.await.unwrap()
    }

    pub fn counters(&self) -> Arc<Counters> {
        self.server.counters()
    }
}

struct Daemon {
    engine: Engine,
    start: Instant,
    sessions: HashMap<SessionId, mpsc::Sender<Said>>,
    answers: HashMap<TransactionId, Addressee>,
    next: u64,
    /// What the worker has, by the rule: its outside end.
    worker: BTreeMap<u64, (Address, u16)>,
    port: u16,
}

impl Daemon {
    fn new(access: Access) -> Self {
        let mut engine = Engine::new(RuleId(1), GroupId(1));
        engine.set_access(access, Time(0));
        engine.attached(1);
        engine.walked(Time(0));
        Self {
            engine,
            start: Instant::now(),
            sessions: HashMap::new(),
            answers: HashMap::new(),
            next: 1,
            worker: BTreeMap::new(),
            port: 40_000,
        }
    }

    fn now(&self) -> Time {
        Time(u64::try_from(self.start.elapsed().as_millis()).unwrap())
    }

    async fn run(mut self, mut orders: Orders, mut deeds: mpsc::Receiver<Deed>) {
        loop {
            let tick = tokio::time::sleep(std::time::Duration::from_millis(20));
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.order(order),
                    None => return,
                },
                Some(deed) = deeds.recv() => {
                    let now = self.now();
                    deed(&mut self.engine, now);
                }
                () = tick => {
                    let now = self.now();
                    self.engine.advance(now);
                }
            }
            self.carry_out();
        }
    }

    fn order(&mut self, order: Order) {
        let now = self.now();
        match order {
            Order::Open { agent, said, outcome, .. } => {
                let opened = self.engine.open_session(&agent, now);
                let opened = opened.map(|(id, capabilities)| {
                    self.sessions.insert(id, said);
                    Opened { id, capabilities }
                });
                drop(outcome.send(opened));
            }
            Order::Close(session) => {
                self.engine.close_session(session);
                self.sessions.remove(&session);
            }
            Order::May { agent, outcome } => drop(outcome.send(self.engine.may_open(&agent))),
            Order::Call { by, request, to } => {
                let transaction = TransactionId(self.next);
                self.next += 1;
                self.answers.insert(transaction, to);
                self.engine.submit(transaction, &by, request, now);
            }
        }
    }

    fn carry_out(&mut self) {
        loop {
            let effects: Vec<Effect> = self.engine.effects().collect();
            if effects.is_empty() {
                return;
            }
            let now = self.now();
            for effect in effects {
                match effect {
                    Effect::Note { ticket, .. } => self.engine.durable(ticket, now),
                    Effect::Tell { token, command, .. } => {
                        let ack = self.work(command);
                        self.engine.answer(token, ack, now);
                    }
                    Effect::Reply { transaction, result } => self.reply(transaction, result),
                    Effect::Notify { session, notification } => {
                        let over = matches!(notification.event, Event::SessionEnded(_));
                        if let Some(said) = self.sessions.get(&session) {
                            drop(said.try_send(Said::Notification(notification)));
                        }
                        if over {
                            self.sessions.remove(&session);
                        }
                    }
                    Effect::Audit(_) | Effect::Suspended(..) => {}
                }
            }
        }
    }

    fn reply(&mut self, transaction: TransactionId, answer: Answer) {
        match self.answers.remove(&transaction) {
            Some(Addressee::Session { session, transaction }) => {
                if let Some(said) = self.sessions.get(&session) {
                    drop(said.try_send(Said::Reply { transaction, answer }));
                }
            }
            Some(Addressee::Once(one)) => drop(one.send(answer)),
            None => panic!("an answer to nobody"),
        }
    }

    fn free(&self, port: u16, ports: u8) -> bool {
        let wanted = port..port.saturating_add(ports.max(1).into());
        self.worker.values().all(|(_, taken)| !wanted.contains(taken))
    }

    /// The lowest free port from 40000 on, of this parity: 0 even, 1 odd.
    fn choose(&mut self, ports: u8, parity: Option<u16>) -> u16 {
        let fits = |port: &u16| parity.is_none_or(|parity| port % 2 == parity) && self.free(*port, ports);
        (self.port..=u16::MAX).find(fits).unwrap()
    }

    fn work(&mut self, command: Command) -> Ack {
        let external = Address::from(std::net::IpAddr::V4(OUTSIDE));
        match command {
            Command::Add(add) => {
                if add.flags & PinholeAdd::POOL == 0 {
                    self.worker.insert(add.id, (add.inside, add.inside_port));
                    return Ack { external: add.inside, external_port: add.inside_port, ..Ack::default() };
                }
                let parity = match add.flags & (PinholeAdd::EVEN | PinholeAdd::ODD) {
                    PinholeAdd::EVEN => Some(0),
                    PinholeAdd::ODD => Some(1),
                    _ => None,
                };
                let reserved = self.worker.get(&add.reservation).map(|end| end.1);
                let port = match add.external_port {
                    0 => reserved.unwrap_or_else(|| self.choose(add.ports, parity)),
                    port => port,
                };
                self.worker.insert(add.id, (external, port));
                Ack { external, external_port: port, ..Ack::default() }
            }
            Command::Reserve(reserve) => {
                let parity = match reserve.parity {
                    Parity::EVEN => Some(0),
                    Parity::ODD => Some(1),
                    _ => None,
                };
                let port = match reserve.external_port {
                    0 => self.choose(reserve.ports, parity),
                    port => port,
                };
                self.worker.insert(reserve.id, (external, port));
                Ack { external, external_port: port, ..Ack::default() }
            }
            Command::Remove(remove) => self.gone(remove.id),
            Command::Unreserve(release) => self.gone(release.id),
            Command::Lease(_) | Command::Release(_) => Ack::default(),
        }
    }

    fn gone(&mut self, id: u64) -> Ack {
        match self.worker.remove(&id) {
            Some(_) => Ack::default(),
            None => Ack { result: AckResult::NOT_FOUND, ..Ack::default() },
        }
    }
}

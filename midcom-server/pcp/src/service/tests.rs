//! The machine with the policy engine itself: what it orders comes about there.

use super::rules::{Errand, Held, Outbound, Question, Rules};
use crate::server::{
    Answer, Asker, Effect, Kind, Order, OrderId, Place, Prefix, Refused, RuleId, Server, Settings, Side,
    Time, Wanted,
};
use crate::wire::Filter;
use hashbrown::HashMap;
use std::net::{IpAddr, SocketAddr};
use tokio::sync::mpsc;
use turnpike_abi::event::{Ack, AckResult};
use turnpike_abi::{Address, PoolId};
use turnpike_gateway::{Addressee, Gateway, Order as Call};
use turnpike_policy::{
    Access, Agent, Command, Effect as Done, Enable, Engine, Front, FrontAccess, GroupId, Lifetime, Name,
    Network, Pool, Profile, Protocol, Realm, Reply, Request, Requester, Rights, Rule, RuleId as Pid, Scope,
    TransactionId, Translation, Tuple,
};

const NOW: turnpike_policy::Time = turnpike_policy::Time(1_000_000);

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn profile(inside: Scope) -> Profile {
    Profile {
        zones: vec!["inside".into()],
        rights: Rights::OWN,
        inside,
        outside: vec![Network::V4, Network::V6],
        protocols: Vec::new(),
        external_wildcard: true,
        takes_over: Vec::new(),
        rules: 100,
        sessions: 0,
        lifetime: Lifetime(7200),
        idle: None,
        durable: true,
    }
}

fn access() -> Access {
    let pool = Pool {
        name: "public".into(),
        id: PoolId(0),
        ranges: vec![([203, 0, 113, 7].into(), [203, 0, 113, 7].into())],
        ports: (1024, 65535),
    };
    let source = Network { address: ip("192.168.0.0"), length: 16 };
    let front = |everybody| FrontAccess {
        zones: vec!["inside".into()],
        agents: HashMap::new(),
        hosts: Vec::new(),
        everybody: Some(everybody),
    };
    let mut cli = profile(Scope::Prefixes(vec![Network::V4, Network::V6]));
    cli.lifetime = Lifetime::FOREVER;
    Access {
        realm: Realm {
            pools: vec![pool],
            translations: vec![Translation { zone: None, source, pool: Some("public".into()) }],
        },
        fronts: HashMap::from([
            (Front::Pcp, front(profile(Scope::Own))),
            (Front::NatPmp, front(profile(Scope::Own))),
            (Front::Cli, front(cli)),
        ]),
        ..Access::default()
    }
}

/// The daemon: the policy engine, a journal that is always there and a worker that grants from one address.
async fn daemon(mut orders: turnpike_gateway::Orders, rules: mpsc::UnboundedSender<Vec<Rule>>) {
    let mut engine = Engine::new(Pid(1), GroupId(1));
    engine.set_access(access(), NOW);
    engine.attached(1);
    engine.walked(NOW);
    let mut waiting = HashMap::new();
    let mut taken = HashMap::new();
    let mut next_port = 40_000;
    let mut next = 0;
    while let Some(call) = orders.recv().await {
        let Call::Call { by, request, to: Addressee::Once(to) } = call else { continue };
        next += 1;
        waiting.insert(TransactionId(next), to);
        engine.submit(TransactionId(next), &by, request, NOW);
        loop {
            let effects: Vec<Done> = engine.effects().collect();
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                match effect {
                    Done::Note { ticket, .. } => engine.durable(ticket, NOW),
                    Done::Tell { token, command, .. } => {
                        let mut ack = Ack { result: AckResult::OK, ..Ack::default() };
                        if let Command::Add(add) = command {
                            (ack.external, ack.external_port) = (add.external, add.external_port);
                            if ack.external.is_unspecified() {
                                ack.external = Address::v4([203, 0, 113, 7]);
                            }
                            if ack.external_port == 0 {
                                next_port += 100;
                                ack.external_port = next_port;
                            }
                            if *taken.entry(ack.external_port).or_insert(add.inside) != add.inside {
                                ack.result = AckResult::PORT_TAKEN;
                            }
                        }
                        engine.answer(token, ack, NOW);
                    }
                    Done::Reply { transaction, result } => {
                        let to = waiting.remove(&transaction).expect("it was asked");
                        let _ = to.send(result);
                    }
                    _ => {}
                }
            }
        }
        let _ = rules.send(engine.rules().map(|(rule, _)| rule.clone()).collect());
    }
}

struct World {
    rules: Rules,
    gateway: Gateway,
    now: mpsc::UnboundedReceiver<Vec<Rule>>,
    last: Vec<Rule>,
    next: u64,
}

const HOST: &str = "192.168.0.10";

fn asker(host: &str) -> Asker {
    let place = Place { interface: 1, address: ip("192.168.0.1") };
    Asker { place, to: SocketAddr::new(ip(host), 4000) }
}

fn wanted(host: &str, port: u16) -> Wanted {
    Wanted {
        asker: asker(host),
        nat_pmp: false,
        kind: Kind::Inbound,
        host: ip(host),
        protocol: 17,
        port,
        size: 1,
        address: None,
        external_port: None,
        strict: false,
        parity: false,
        filters: Vec::new(),
        lifetime: 600,
        memo: vec![1, 2, 3],
    }
}

fn filter(address: &str, length: u8, port: u16) -> Filter {
    Filter { length, port, address: ip(address) }
}

impl World {
    fn new() -> Self {
        let (gateway, orders) = Gateway::new();
        let (questions, mut asked) = mpsc::channel::<Question>(8);
        let (rules, now) = mpsc::unbounded_channel();
        tokio::spawn(daemon(orders, rules));
        tokio::spawn(async move {
            while let Some(question) = asked.recv().await {
                let remaining = u32::from(question.port);
                let _ = question.answer.send(Outbound { remaining, ..Outbound::default() });
            }
        });
        let rules = Rules::new(gateway.clone(), questions);
        Self { rules, gateway, now, last: Vec::new(), next: 0 }
    }

    async fn order(&mut self, order: Order) -> Answer {
        let zone = |_: &Asker, _: IpAddr| Some(Name::from("inside"));
        let (answer, errand) = self.rules.work(order, zone, |_| Some(Name::from("inside"))).await;
        self.rules.apply(errand);
        while let Ok(rules) = self.now.try_recv() {
            self.last = rules;
        }
        self.last.sort_by_key(|rule| rule.id);
        answer
    }

    async fn opened(&mut self, wanted: Wanted) -> (RuleId, SocketAddr, u16) {
        match self.order(Order::Open(wanted)).await {
            Answer::Opened { rule, external, size } => (rule, external, size),
            other => panic!("{other:?}"),
        }
    }

    fn remotes(&self) -> Vec<String> {
        self.last.iter().map(|rule| rule.external.to_string()).collect()
    }
}

#[tokio::test]
async fn a_mapping_is_a_rule_of_its_host() {
    let mut world = World::new();
    let (rule, external, _) = world.opened(wanted(HOST, 80)).await;
    assert_eq!(external.ip(), ip("203.0.113.7"));
    assert_eq!(world.last.len(), 1);
    assert_eq!(world.last[0].owner.to_string(), "pcp:inside/192.168.0.10");
    assert_eq!(world.remotes(), ["0.0.0.0/0:*"]);
    assert_eq!(&*world.last[0].annotation.tag, [1, 2, 3]);
    let change = Order::Change { rule, lifetime: 900, filters: Vec::new(), memo: vec![4] };
    assert_eq!(world.order(change).await, Answer::Changed);
    assert_eq!(world.last[0].expires, Lifetime(900).from(NOW));
    assert_eq!(&*world.last[0].annotation.tag, [4]);
    assert_eq!(world.order(Order::Close { rule }).await, Answer::Closed);
    assert!(world.last.is_empty());
    assert_eq!(world.order(Order::Close { rule }).await, Answer::Refused(Refused::Gone));
}

#[tokio::test]
async fn filters_are_rules_of_one_group_with_one_external_end() {
    let mut world = World::new();
    let filters = vec![filter("198.51.100.77", 120, 0), filter("192.0.2.1", 128, 53)];
    let (rule, external, _) = world.opened(Wanted { filters: filters.clone(), ..wanted(HOST, 80) }).await;
    assert_eq!(world.remotes(), ["198.51.100.0/24:*", "192.0.2.1:53"]);
    let ends: Vec<_> = world.last.iter().map(|rule| rule.outside.expect("translated").port).collect();
    assert_eq!(ends, [external.port(); 2]);
    assert!(world.last.iter().all(|rule| rule.group == world.last[0].group));
    let filters = vec![filters[1], filter("192.0.2.2", 128, 0)];
    let change = Order::Change { rule, lifetime: 600, filters, memo: vec![9] };
    assert_eq!(world.order(change).await, Answer::Changed);
    assert_eq!(world.remotes(), ["192.0.2.1:53", "192.0.2.2:*"]);
    assert!(world.last.iter().all(|rule| *rule.annotation.tag == [9]));
    let change = Order::Change { rule, lifetime: 600, filters: Vec::new(), memo: vec![9] };
    assert_eq!(world.order(change).await, Answer::Changed);
    assert_eq!(world.remotes(), ["0.0.0.0/0:*"]);
}

#[tokio::test]
async fn what_somebody_else_made_is_static() {
    let mut world = World::new();
    let internal = Tuple::new(ip(HOST), 80);
    let direction = turnpike_policy::Direction::Bidirectional;
    let enable = Enable::new(Protocol::UDP, internal, direction, Lifetime::FOREVER);
    let operator = Requester::new(Agent::new(Front::Cli, "0"));
    let made = world.gateway.transact(operator, Request::Enable(Box::new(enable))).await;
    let Ok(Reply::Enabled { outside, .. }) = made else { panic!("{made:?}") };
    let end = SocketAddr::new(outside.address, outside.port);
    assert_eq!(world.order(Order::Open(wanted(HOST, 80))).await, Answer::Refused(Refused::Fixed(end)));
    let look = Order::Look { asker: asker(HOST), host: ip(HOST), protocol: 17, port: 80 };
    let Answer::Seen(seen) = world.order(look).await else { panic!("not seen") };
    assert_eq!((seen.fixed, seen.remaining), (Some(end), 80));
}

#[tokio::test]
async fn suggestions_strict_and_not() {
    let mut world = World::new();
    let wish = |host, strict| Wanted { external_port: Some(5000), strict, ..wanted(host, 80) };
    assert_eq!(world.opened(wish(HOST, true)).await.1.port(), 5000);
    assert_eq!(
        world.order(Order::Open(wish("192.168.0.11", true))).await,
        Answer::Refused(Refused::External)
    );
    assert_ne!(world.opened(wish("192.168.0.11", false)).await.1.port(), 5000);
    let elsewhere = Wanted { address: Some(ip("198.51.100.1")), ..wish("192.168.0.12", false) };
    let answer = world.order(Order::Open(elsewhere)).await;
    assert!(
        matches!(answer, Answer::Opened { external, .. } if external.ip() == ip("203.0.113.7")),
        "{answer:?}"
    );
}

#[tokio::test]
async fn sets_are_ranges_and_take_what_there_is() {
    let mut world = World::new();
    let (_, _, size) = world.opened(Wanted { size: 40, ..wanted(HOST, 1000) }).await;
    assert_eq!((size, world.last[0].range), (40, 40));
    let (_, _, size) = world.opened(Wanted { size: 200, ..wanted(HOST, 2000) }).await;
    assert_eq!(size, 50, "the policy engine takes 64 at most");
}

#[tokio::test]
async fn peer_lets_its_remote_end_in_and_nobody_out() {
    let mut world = World::new();
    let remote: SocketAddr = "198.51.100.1:443".parse().expect("an end");
    world.opened(Wanted { kind: Kind::Outbound(remote), ..wanted(HOST, 5000) }).await;
    assert_eq!(world.remotes(), ["198.51.100.1:443"]);
    assert_eq!(world.last[0].ending, turnpike_policy::Ending::Drain);
}

#[tokio::test]
async fn another_host_is_refused_by_the_engine_too() {
    let mut world = World::new();
    let other = Wanted { host: ip("192.168.0.99"), ..wanted(HOST, 80) };
    assert_eq!(world.order(Order::Open(other)).await, Answer::Refused(Refused::Policy));
}

#[tokio::test]
async fn a_kept_group_is_the_mapping_it_was() {
    let mut world = World::new();
    let settings = Settings {
        sides: vec![(Prefix { address: ip("192.168.0.0"), length: 16 }, Side::Translated(None))],
        rate: 1000,
        ..Settings::default()
    };
    let mut server = Server::new(settings.clone(), Time(NOW.0));
    // MAP of UDP port 80, with two filters.
    let mut message = vec![2, 1, 0, 0, 0, 0, 2, 88];
    message.extend(crate::wire::field(ip(HOST)));
    message.extend([5; 12]);
    message.extend([17, 0, 0, 0, 0, 80, 0, 0]);
    message.extend(crate::wire::field(ip("0.0.0.0")));
    for last in 1..=2 {
        let option = crate::wire::PcpOption::Filter(filter(&format!("192.0.2.{last}"), 128, last));
        option.write(&mut message);
    }
    let Asker { place, to } = asker(HOST);
    let spoken = crate::server::Speaks { pcp: true, nat_pmp: false };
    server.set_places(Time(NOW.0), vec![(place, spoken)]);
    let sent = converse(&mut world, &mut server, place, to, &message).await;
    assert_eq!(sent[0][3], 0);
    let (kept, held) = Held::kept(world.last[0].group, &world.last).expect("a mapping");
    let mut server = Server::new(settings, Time(NOW.0));
    server.set_places(Time(NOW.0), vec![(place, spoken)]);
    assert!(server.keep(&kept));
    world.rules.apply(Errand::Hold(kept.rule, Box::new(held)));
    let before = world.last.clone();
    let again = converse(&mut world, &mut server, place, to, &message).await;
    assert_eq!(again, sent);
    assert_eq!(world.last, before, "renewed, and nothing new");
}

async fn converse(
    world: &mut World,
    server: &mut Server,
    place: Place,
    to: SocketAddr,
    message: &[u8],
) -> Vec<Vec<u8>> {
    server.receive(Time(NOW.0), place, to, message);
    let mut sent = Vec::new();
    loop {
        let effects: Vec<Effect> = server.effects().collect();
        if effects.is_empty() {
            return sent;
        }
        for effect in effects {
            match effect {
                Effect::Send { bytes, .. } => sent.push(bytes),
                Effect::Epoch(_) => {}
                Effect::Order(id, order) => {
                    world.next = world.next.max(id.0);
                    let answer = world.order(order).await;
                    server.answered(Time(NOW.0), OrderId(id.0), answer);
                }
            }
        }
    }
}

#[test]
fn a_source_has_to_be_behind_the_interface() {
    let place = Place { interface: 1, address: ip("192.168.0.1") };
    let prefix =
        |text: &str, length| turnpike_abi::Prefix::new(Address::from(ip(text)), length).expect("a prefix");
    let mut sockets = super::sockets::Sockets::new(0, mpsc::channel(1).0);
    let hosts = vec![prefix("192.168.0.0", 24), prefix("2001:db8:1::", 64)];
    let speaks = crate::server::Speaks { pcp: true, nat_pmp: false };
    let listen =
        super::Listen { place, device: "tp-inside".to_owned(), zone: "inside".into(), speaks, hosts };
    sockets.set(vec![listen]);
    for (host, good) in [
        (HOST, true),
        ("2001:db8:1::10", true),
        ("fe80::1", true),
        ("203.0.113.1", false),
        ("192.168.1.10", false),
        ("2001:db8:2::1", false),
    ] {
        assert_eq!(sockets.is_from(&place, ip(host)), good, "{host}");
    }
    assert!(!sockets.is_from(&Place { interface: 2, ..place }, ip(HOST)));
}

//! The load: actors that make, change and delete rules over SIMCO, one request after the other each, and write down what
//! they are told.

use super::record::{Actor, Doubt, Lifetime, PLACES, Record, Rule};
use std::cell::RefCell;
use std::net::{IpAddr, SocketAddrV4};
use std::rc::Rc;
use std::time::Instant;
use turnpike_midcom::agent::{Agent, RequestError};
use turnpike_simco::{
    Direction, Enable, EnableParameters, EnableReserved, Ends, Extras, IpVersion, Location, NatMode,
    PortParity, Reply, Reserve, ReserveParameters, RuleRequest, Tuple,
};

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Of the remote end, where a rule is for one alone.
const REMOTE_PORT: u16 = 5060;
/// Seconds: none ends during a run, and what is left tells them apart.
const LIFETIMES: [u32; 3] = [20_000, 40_000, 60_000];

/// A cheap generator: the moments differ, and a failure names its seed.
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// Below `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn of<T: Copy>(&mut self, what: &[T]) -> T {
        what[self.roll(what.len() as u64) as usize]
    }
}

type Shared = Rc<RefCell<Record>>;

/// Goes on until the session is lost.
pub async fn act(agent: Agent, record: Shared, number: usize, mut dice: Dice) {
    loop {
        let place = dice.roll(PLACES as u64) as usize;
        let (request, doubt) = next(&mut record.borrow_mut().actors[number], place, &mut dice);
        record.borrow_mut().ask(number, &doubt);
        match agent.request(request.clone()).await {
            Ok(reply) => record.borrow_mut().answer(number, doubt, &request, reply),
            Err(RequestError::Lost(_) | RequestError::Closed) => return,
            Err(error) => panic!("actor {number}, {request:?}: {error}"),
        }
    }
}

/// What actor `actor` asks next.
fn next(actor: &mut Actor, place: usize, dice: &mut Dice) -> (RuleRequest, Doubt) {
    let rule = actor.places[place].clone();
    match (rule, dice.roll(10)) {
        (None, 0..4) => reserve(actor, place, dice),
        (None, _) => enable(actor, place, dice),
        (Some(rule), 0..6) if !rule.enabled => enable_reserved(actor, place, rule, dice),
        (Some(rule), 0..8) => one(place, &rule, dice),
        (Some(rule), _) => group(actor, &rule, dice),
    }
}

/// Ports of the inside host in a row that were not asked for yet, the lowest of the same parity as `like`.
fn internal(actor: &mut Actor, ports: u16, like: u16) -> SocketAddrV4 {
    // A run never gets around.
    let port = 1024 + actor.asked % 60_000 / 2 * 2 + like % 2;
    actor.asked += ports.div_ceil(2) * 2 + 2;
    SocketAddrV4::new(actor.host, port)
}

fn tuple(location: Location, protocol: u8, end: SocketAddrV4, ports: u16) -> Tuple {
    Tuple::full(location, protocol, IpAddr::V4(*end.ip()), end.port(), ports)
}

/// Which way, and for which remote end: only inbound may be for every port (RFC 4540 section 4.3.9).
fn parameters(actor: &Actor, same_parity: bool, dice: &mut Dice) -> (EnableParameters, SocketAddrV4) {
    let (direction, port) = dice.of(&[(Direction::Inbound, 0), (Direction::Bidirectional, REMOTE_PORT)]);
    (EnableParameters { same_parity, direction }, SocketAddrV4::new(actor.remote, port))
}

/// A group that the actor has a rule in already, sometimes.
fn joined(actor: &Actor, dice: &mut Dice) -> Option<u32> {
    let groups: Vec<u32> = actor.places.iter().flatten().map(|rule| rule.group).collect();
    (!groups.is_empty() && dice.roll(2) == 0).then(|| dice.of(&groups))
}

fn unknown(actor: &Actor, protocol: u8, ports: u16, internal: Option<SocketAddrV4>, seconds: u32) -> Rule {
    Rule {
        id: 0,
        group: 0,
        protocol,
        ports,
        outside: SocketAddrV4::new([0; 4].into(), 0),
        internal,
        external: SocketAddrV4::new(actor.remote, 0),
        enabled: false,
        lifetime: Lifetime { seconds, asked: Instant::now() },
    }
}

fn reserve(actor: &mut Actor, place: usize, dice: &mut Dice) -> (RuleRequest, Doubt) {
    let protocol = dice.of(&[TCP, UDP, UDP]);
    let ports = dice.of(&[1, 2, 2, 4, 7]);
    // Reserved for a host that is known, or for nobody yet.
    let internal = (dice.roll(2) == 0).then(|| internal(actor, ports, 0));
    let lifetime = dice.of(&LIFETIMES);
    let group = joined(actor, dice);
    let request = Reserve {
        parameters: ReserveParameters {
            mode: NatMode::Traditional,
            parity: dice.of(&[PortParity::Any, PortParity::Odd, PortParity::Even]),
            inside: Some(IpVersion::V4),
            outside: Some(IpVersion::V4),
            protocol,
            range: ports,
        },
        lifetime,
        group,
        internal: internal.map(|end| tuple(Location::Internal, protocol, end, ports)),
        extras: Extras::default(),
    };
    let group = group.unwrap_or(0);
    let rule = Rule { group, ..unknown(actor, protocol, ports, internal, lifetime) };
    (RuleRequest::Reserve(request), Doubt::New { place, rule })
}

fn enable(actor: &mut Actor, place: usize, dice: &mut Dice) -> (RuleRequest, Doubt) {
    let protocol = dice.of(&[TCP, UDP, UDP]);
    let ports = dice.of(&[1, 1, 2, 4]);
    let like = dice.roll(2) as u16;
    let internal = internal(actor, ports, like);
    let lifetime = dice.of(&LIFETIMES);
    let (parameters, external) = parameters(actor, dice.roll(2) == 0, dice);
    let group = joined(actor, dice);
    let request = Enable {
        parameters,
        internal: tuple(Location::Internal, protocol, internal, ports),
        external: tuple(Location::External, protocol, external, ports),
        lifetime,
        group,
        extras: Extras::default(),
    };
    let group = group.unwrap_or(0);
    let rule =
        Rule { group, enabled: true, external, ..unknown(actor, protocol, ports, Some(internal), lifetime) };
    (RuleRequest::Enable(request), Doubt::New { place, rule })
}

fn enable_reserved(actor: &mut Actor, place: usize, rule: Rule, dice: &mut Dice) -> (RuleRequest, Doubt) {
    let same_parity = dice.roll(2) == 0 && rule.internal.is_none();
    let internal = rule.internal.unwrap_or_else(|| internal(actor, rule.ports, rule.outside.port()));
    let lifetime = dice.of(&LIFETIMES);
    let (parameters, external) = parameters(actor, same_parity, dice);
    let request = EnableReserved {
        parameters,
        internal: tuple(Location::Internal, rule.protocol, internal, rule.ports),
        external: tuple(Location::External, rule.protocol, external, rule.ports),
        lifetime,
        rule: rule.id,
        extras: Extras::default(),
    };
    let lifetime = Lifetime { seconds: lifetime, asked: Instant::now() };
    let rule = Rule { enabled: true, internal: Some(internal), external, lifetime, ..rule };
    (RuleRequest::EnableReserved(request), Doubt::Become { place, rule })
}

/// Deletes a rule or changes its lifetime.
fn one(place: usize, rule: &Rule, dice: &mut Dice) -> (RuleRequest, Doubt) {
    let lifetime = if dice.roll(5) < 3 { 0 } else { dice.of(&LIFETIMES) };
    let request = RuleRequest::ChangeLifetime { rule: rule.id, lifetime };
    (request, changed(vec![place], lifetime))
}

/// The same of a group.
fn group(actor: &Actor, rule: &Rule, dice: &mut Dice) -> (RuleRequest, Doubt) {
    let lifetime = if dice.roll(2) == 0 { 0 } else { dice.of(&LIFETIMES) };
    let member = |place: &usize| actor.places[*place].as_ref().is_some_and(|other| other.group == rule.group);
    let request = RuleRequest::ChangeGroupLifetime { group: rule.group, lifetime };
    (request, changed((0..PLACES).filter(member).collect(), lifetime))
}

fn changed(places: Vec<usize>, seconds: u32) -> Doubt {
    match seconds {
        0 => Doubt::Delete { places },
        _ => Doubt::Live { places, lifetime: Lifetime { seconds, asked: Instant::now() } },
    }
}

/// An outside tuple's lowest end.
fn outside(tuple: &Tuple) -> SocketAddrV4 {
    match tuple.ends {
        Ends::Full { address: IpAddr::V4(address), port, .. } => SocketAddrV4::new(address, port),
        other => panic!("an outside end that is none: {other:?}"),
    }
}

impl Record {
    /// A request goes out.
    fn ask(&mut self, number: usize, doubt: &Doubt) {
        if let Doubt::Delete { places } = doubt {
            for &place in places {
                let rule = self.actors[number].places[place].clone().unwrap();
                self.let_go(&rule);
            }
        }
        self.actors[number].doubt = Some(doubt.clone());
    }

    /// Its answer came.
    fn answer(&mut self, number: usize, doubt: Doubt, request: &RuleRequest, reply: Reply) {
        self.actors[number].doubt = None;
        self.acknowledged += 1;
        *self.counts.entry(request.name()).or_default() += 1;
        match (doubt, reply) {
            (Doubt::New { place, rule }, Reply::Reserved(reserved)) => {
                assert_eq!(reserved.lifetime, rule.lifetime.seconds);
                if let RuleRequest::Reserve(Reserve { parameters, group, .. }) = request {
                    let odd = outside(&reserved.outside).port() % 2 == 1;
                    assert_ne!((parameters.parity, odd), (PortParity::Odd, false), "{reserved:?}");
                    assert_ne!((parameters.parity, odd), (PortParity::Even, true), "{reserved:?}");
                    assert!(group.is_none_or(|group| group == reserved.group), "{reserved:?}");
                }
                let (id, group) = (reserved.rule, reserved.group);
                self.have(number, place, Rule { id, group, outside: outside(&reserved.outside), ..rule });
            }
            (Doubt::New { place, rule }, Reply::Enabled(enabled)) => {
                assert_eq!(enabled.lifetime, rule.lifetime.seconds);
                let end = outside(&enabled.outside);
                if let (RuleRequest::Enable(Enable { parameters, group, .. }), Some(internal)) =
                    (request, rule.internal)
                {
                    let same = end.port() % 2 == internal.port() % 2;
                    assert!(same || !parameters.same_parity, "{internal} became {end}");
                    assert!(group.is_none_or(|group| group == enabled.group), "{enabled:?}");
                }
                let (id, group) = (enabled.rule, enabled.group);
                self.have(number, place, Rule { id, group, outside: end, ..rule });
            }
            (Doubt::Become { place, rule }, Reply::Enabled(enabled)) => {
                let was = (rule.id, rule.group, rule.outside, rule.lifetime.seconds);
                let end = outside(&enabled.outside);
                assert_eq!(
                    (enabled.rule, enabled.group, end, enabled.lifetime),
                    was,
                    "not what was reserved"
                );
                self.actors[number].places[place] = Some(rule);
            }
            (Doubt::Delete { places }, Reply::Deleted | Reply::GroupLifetimeChanged { lifetime: 0 }) => {
                for place in places {
                    let rule = self.actors[number].places[place].take().unwrap();
                    self.forget(&rule);
                }
            }
            (
                Doubt::Live { places, lifetime },
                Reply::LifetimeChanged { lifetime: seconds }
                | Reply::GroupLifetimeChanged { lifetime: seconds },
            ) => {
                assert_eq!(seconds, lifetime.seconds);
                for place in places {
                    self.actors[number].places[place].as_mut().unwrap().lifetime = lifetime;
                }
            }
            (doubt, reply) => panic!("actor {number}: {reply:?} to {doubt:?}"),
        }
    }

    fn have(&mut self, number: usize, place: usize, rule: Rule) {
        self.hold(number, &rule);
        self.actors[number].places[place] = Some(rule);
    }
}

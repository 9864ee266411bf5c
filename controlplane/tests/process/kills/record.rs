//! What an agent knows of its own rules: what was answered, and what it asked for and never heard of.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::Instant;

/// Outside ends of a protocol.
pub type End = (u8, SocketAddrV4);
/// Rules an actor has at most.
pub const PLACES: usize = 3;
/// Ends of deleted rules that are kept to knock at.
const GONE: usize = 4096;

/// An acknowledged rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    pub id: u32,
    pub group: u32,
    pub protocol: u8,
    pub ports: u16,
    /// A2, its lowest port.
    pub outside: SocketAddrV4,
    /// A0, its lowest port; none of a reservation for nobody yet.
    pub internal: Option<SocketAddrV4>,
    /// A3: who may use it; port 0 is any. Of a reservation, the actor's.
    pub external: SocketAddrV4,
    /// It is an enable rule.
    pub enabled: bool,
    pub lifetime: Lifetime,
}

/// Seconds from when it was asked for and from when it was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lifetime {
    pub seconds: u32,
    pub asked: Instant,
}

impl Rule {
    /// Its outside ends.
    pub fn ends(&self) -> impl Iterator<Item = End> + use<> {
        let (protocol, outside) = (self.protocol, self.outside);
        let port = outside.port();
        (port..=port + (self.ports - 1)).map(move |port| (protocol, SocketAddrV4::new(*outside.ip(), port)))
    }

    /// Its outside ends and where inside they lead.
    pub fn ways(&self) -> impl Iterator<Item = (End, SocketAddrV4)> + use<> {
        let internal = self.internal.filter(|_| self.enabled);
        let inside =
            internal.into_iter().flat_map(|to| (to.port()..=u16::MAX).map(move |port| (*to.ip(), port)));
        self.ends().zip(inside).map(|(end, (host, port))| (end, SocketAddrV4::new(host, port)))
    }
}

/// A request without answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Doubt {
    /// A new rule in this place; what it would be but for its numbers and its outside end.
    New { place: usize, rule: Rule },
    /// The reservation in this place becomes this.
    Become { place: usize, rule: Rule },
    /// All of these places are deleted.
    Delete { places: Vec<usize> },
    /// All of these places live so long.
    Live { places: Vec<usize>, lifetime: Lifetime },
}

/// What one actor has.
#[derive(Debug)]
pub struct Actor {
    /// Its agent's number.
    pub agent: usize,
    /// Its inside host.
    pub host: Ipv4Addr,
    /// Who may use its rules: nobody else's are for this one.
    pub remote: Ipv4Addr,
    pub places: [Option<Rule>; PLACES],
    pub doubt: Option<Doubt>,
    /// Ports of the inside host that were asked for: none twice.
    pub asked: u16,
}

/// What all of them have.
#[derive(Debug, Default)]
pub struct Record {
    pub actors: Vec<Actor>,
    /// Who holds an outside end, as far as it was acknowledged.
    held: BTreeMap<End, usize>,
    /// Ends of rules whose deletion was acknowledged, and the remote end that was let in.
    pub gone: Vec<(End, SocketAddrV4)>,
    /// Answers.
    pub acknowledged: u64,
    /// By kind of request, in the agents' words.
    pub counts: BTreeMap<&'static str, u64>,
}

impl Record {
    pub fn new(actors: Vec<Actor>) -> Self {
        Self { actors, ..Self::default() }
    }

    /// Actor `actor` has this now. Nobody else may have any of its ends.
    pub fn hold(&mut self, actor: usize, rule: &Rule) {
        for end in rule.ends() {
            let before = self.held.insert(end, actor);
            let has = before.map(|other| &self.actors[other]);
            assert!(has.is_none(), "{end:?} was given twice: to actor {actor}, {rule:#?}, and to {has:#?}");
        }
    }

    /// What actor `actor` asked to be rid of may be anybody's from now on.
    pub fn let_go(&mut self, rule: &Rule) {
        for end in rule.ends() {
            self.held.remove(&end);
        }
    }

    /// Its deletion was acknowledged.
    pub fn forget(&mut self, rule: &Rule) {
        self.gone.extend(rule.ends().map(|end| (end, rule.external)));
        let surplus = self.gone.len().saturating_sub(GONE);
        self.gone.drain(..surplus);
    }

    /// Whether somebody has this end for sure.
    pub fn is_held(&self, end: &End) -> bool {
        self.held.contains_key(end)
    }

    /// Whether an inside end is of a rule that was asked for, or asked to go, and nobody heard of it.
    pub fn is_doubtful(&self, (host, port): (IpAddr, u16)) -> bool {
        let is_of = |rule: &Rule| {
            let first = rule.internal.map_or(0, |internal| internal.port());
            (first..first + rule.ports).contains(&port)
        };
        let mut actors = self.actors.iter().filter(|actor| IpAddr::V4(actor.host) == host);
        actors.any(|actor| match &actor.doubt {
            Some(Doubt::New { rule, .. }) => is_of(rule),
            Some(Doubt::Delete { places }) => {
                places.iter().any(|&place| actor.places[place].as_ref().is_some_and(is_of))
            }
            _ => false,
        })
    }

    /// Every acknowledged rule and whose it is; those asked to go away are none.
    pub fn sure(&self) -> impl Iterator<Item = (&Actor, &Rule)> {
        self.actors.iter().flat_map(|actor| {
            let going = |place: &usize| match &actor.doubt {
                Some(Doubt::Delete { places }) => places.contains(place),
                _ => false,
            };
            let places = actor.places.iter().enumerate().filter(move |(place, _)| !going(place));
            places.filter_map(move |(_, rule)| rule.as_ref().map(|rule| (actor, rule)))
        })
    }
}

//! `kill -9` of the control plane at random moments under load: agents over TLS, the real engine as the dataplane. What
//! each agent was told is compared with what the control plane lists afterwards, with what the workers have, and with what
//! packets do.

mod agents;
mod record;

use crate::support::SOON;
use crate::support::engine::{Simco, name};
use agents::{Dice, act};
use record::{Actor, Doubt, End, Lifetime, PLACES, Record, Rule};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::{JoinSet, LocalSet};
use turnpike_abi::command::WalkTable;
use turnpike_api::{PinholeState, Request, RuleAction, RuleData, RuleFilter, RulesRequest};
use turnpike_sim::attached::Dataplane;
use turnpike_sim::packets::{Build, TCP};
use turnpike_simco::Extensions;
use turnpike_wire::packet::TCP_SYN;

const AGENTS: usize = 3;
/// Of each agent.
const SESSIONS: usize = 3;
/// On each session.
const ACTORS: usize = 8;
/// Kills, unless `TURNPIKE_KILLS` says another number.
const KILLS: u64 = 6;
/// Every so many kills the workers lose everything too.
const EMPTIED: u64 = 4;
/// Answers of a round before the kill: fewer than this.
const ANSWERS: u64 = 400;

/// The box, its workers, and what the agents know.
struct Kills {
    site: Simco,
    record: Rc<RefCell<Record>>,
    dice: Dice,
    /// Which kill is next, for whoever reads a failure.
    round: u64,
}

impl Kills {
    fn new(seed: u64) -> Self {
        let actor = |number: usize| Actor {
            agent: number / (SESSIONS * ACTORS),
            host: Ipv4Addr::new(10, (number / (SESSIONS * ACTORS)) as u8, 1, number as u8 + 1),
            remote: Ipv4Addr::new(198, 51, 100, number as u8 + 1),
            places: [const { None }; PLACES],
            doubt: None,
            asked: 0,
        };
        let actors = (0..AGENTS * SESSIONS * ACTORS).map(actor).collect();
        Self {
            site: Simco::new(AGENTS, 2 * ACTORS),
            record: Rc::new(RefCell::new(Record::new(actors))),
            dice: Dice(seed),
            round: 0,
        }
    }

    /// Everybody at work, until a moment that nobody foresees; then the control plane is killed.
    async fn load(&mut self) {
        let mut actors = JoinSet::new();
        let mut sessions = Vec::new();
        for session in 0..AGENTS * SESSIONS {
            let (agent, notices) = self.site.session(session / SESSIONS).await;
            for actor in 0..ACTORS {
                let number = session * ACTORS + actor;
                let dice = Dice(self.dice.roll(1 << 31));
                actors.spawn_local(act(agent.clone(), Rc::clone(&self.record), number, dice));
            }
            sessions.push(notices);
        }
        let enough = self.record.borrow().acknowledged + self.dice.roll(ANSWERS);
        let deadline = Instant::now() + SOON;
        while self.record.borrow().acknowledged < enough {
            assert!(Instant::now() < deadline, "round {}: hardly any answers", self.round);
            // An actor ends before the kill only when it panics.
            tokio::select! {
                Some(ended) = actors.join_next() => ended.expect("an actor goes on"),
                () = tokio::time::sleep(Duration::from_millis(1)) => {}
            }
        }
        tokio::time::sleep(Duration::from_micros(self.dice.roll(5000))).await;
        self.site.kill();
        while let Some(ended) = actors.join_next().await {
            ended.expect("an actor ends with its session");
        }
    }

    /// What the control plane lists.
    fn listed(&self) -> BTreeMap<u32, RuleData> {
        let (mut all, mut cursor) = (BTreeMap::new(), None);
        loop {
            let request = RulesRequest { filter: RuleFilter::default(), cursor, limit: 1000 };
            let page = self.site.call::<Vec<RuleData>>(&Request::Rules(request)).unwrap();
            for rule in page.data {
                let twice = all.insert(rule.id, rule);
                assert_eq!(twice, None, "round {}: listed twice", self.round);
            }
            cursor = page.next_cursor;
            if cursor.is_none() {
                return all;
            }
        }
    }

    /// The control plane lists what was acknowledged and nothing else; what was in doubt is settled by what it says.
    async fn settle(&self) {
        let deadline = Instant::now() + SOON;
        let mut listed = loop {
            let listed = self.listed();
            let Some(lazy) = listed.values().find(|rule| rule.state != PinholeState::Active) else {
                break listed;
            };
            assert!(Instant::now() < deadline, "round {}: never active: {lazy:#?}", self.round);
            std::thread::park_timeout(Duration::from_millis(2));
        };
        let owned = |agent: usize| -> BTreeSet<u32> {
            let owner = format!("simco:{}", name(agent));
            listed.values().filter(|rule| rule.owner == owner).map(|rule| rule.id).collect()
        };
        for agent in 0..AGENTS {
            let (session, _notices) = self.site.session(agent).await;
            let told = session.list(Extensions::ALL).await.unwrap();
            assert_eq!(BTreeSet::from_iter(told), owned(agent), "round {}", self.round);
        }
        let mut record = self.record.borrow_mut();
        let mut doubts = Vec::new();
        for number in 0..record.actors.len() {
            let doubt = record.actors[number].doubt.take();
            self.settle_actor(&mut record, number, doubt.as_ref(), &mut listed);
            doubts.push(doubt);
        }
        // Whatever is left has to be one of those that nobody heard of.
        for (number, doubt) in doubts.into_iter().enumerate() {
            if let Some(Doubt::New { place, rule }) = doubt {
                let owner = format!("simco:{}", name(record.actors[number].agent));
                // One that joined no group is alone in its own: those without host are told apart by that.
                let alone = |group| !record.sure().any(|(_, rule)| rule.group == group);
                let like = |other: &&RuleData| {
                    let wanted = Rule { id: other.id, ..rule.clone() };
                    other.owner == owner && is(other, &wanted) && (rule.group != 0 || alone(other.group))
                };
                if let Some(id) = listed.values().find(like).map(|found| found.id) {
                    let found = listed.remove(&id).unwrap();
                    let outside = found.outside.as_ref().unwrap().parse().unwrap();
                    let rule = Rule { id, group: found.group, outside, ..rule };
                    record.hold(number, &rule);
                    record.actors[number].places[place] = Some(rule);
                }
            }
        }
        assert!(listed.is_empty(), "round {}: invented: {listed:#?}", self.round);
    }

    /// An actor's acknowledged rules are there, but for what `doubt` says of them.
    fn settle_actor(
        &self,
        record: &mut Record,
        number: usize,
        doubt: Option<&Doubt>,
        listed: &mut BTreeMap<u32, RuleData>,
    ) {
        let mut settled = Vec::new();
        for place in 0..PLACES {
            let Some(rule) = record.actors[number].places[place].clone() else { continue };
            let found = listed.remove(&rule.id);
            let lost = || -> ! {
                panic!(
                    "round {}: actor {number} was told {rule:#?}\nand is in doubt of {doubt:?}; there is {found:#?}",
                    self.round
                )
            };
            let there = |other: &Rule| found.as_ref().is_some_and(|found| is(found, other));
            let now = match doubt {
                Some(Doubt::Delete { places }) if places.contains(&place) => {
                    settled.push(found.is_none());
                    match &found {
                        None => {
                            record.forget(&rule);
                            None
                        }
                        Some(_) if there(&rule) => {
                            record.hold(number, &rule);
                            Some(rule)
                        }
                        Some(_) => lost(),
                    }
                }
                Some(Doubt::Live { places, lifetime }) if places.contains(&place) => {
                    let other = Rule { lifetime: *lifetime, ..rule.clone() };
                    // Where both are the same both are true.
                    if lifetime.seconds != rule.lifetime.seconds {
                        settled.push(there(&other));
                    }
                    Some(if there(&other) {
                        other
                    } else if there(&rule) {
                        rule
                    } else {
                        lost()
                    })
                }
                Some(Doubt::Become { place: which, rule: other }) if *which == place => {
                    Some(if there(other) {
                        other.clone()
                    } else if there(&rule) {
                        rule
                    } else {
                        lost()
                    })
                }
                _ if there(&rule) => Some(rule),
                _ => lost(),
            };
            record.actors[number].places[place] = now;
        }
        settled.dedup();
        assert!(settled.len() <= 1, "round {}: half of {doubt:?} was done", self.round);
    }

    /// Packets of the remote ends reach the right inside ends through what was acknowledged, and nothing through what
    /// was deleted.
    fn knock(&self) {
        let record = self.record.borrow();
        let from = 1024 + (self.round % 60_000) as u16;
        let knock = |(protocol, end): End, remote: SocketAddrV4| {
            let port = if remote.port() == 0 { from } else { remote.port() };
            let (remote, to) = (remote.ip().to_string(), end.ip().to_string());
            let (remote, to) = ((&*remote, port), (&*to, end.port()));
            let packet = if protocol == TCP {
                Build::tcp(remote, to, TCP_SYN, b"")
            } else {
                Build::udp(remote, to, b"x")
            };
            self.site.workers.with(|dataplane| dataplane.passes(&packet))
        };
        for (actor, rule) in record.sure() {
            for (end, inside) in rule.ways() {
                let there = Some((IpAddr::V4(*inside.ip()), inside.port()));
                assert_eq!(knock(end, rule.external), there, "round {}: {end:?} of {rule:#?}", self.round);
            }
            if !rule.enabled && actor.doubt.is_none() {
                for end in rule.ends() {
                    assert_eq!(knock(end, rule.external), None, "round {}: {end:?} of {rule:#?}", self.round);
                }
            }
        }
        for &(end, remote) in &record.gone {
            if !record.is_held(&end) {
                // The port may be another rule's by now that was asked for last.
                let there = knock(end, remote).filter(|there| !record.is_doubtful(*there));
                assert_eq!(there, None, "round {}: {end:?} was deleted", self.round);
            }
        }
    }

    /// The workers have what was acknowledged, whole, and nothing else.
    fn walk(&self) {
        type Way = (u64, u8, SocketAddrV4, SocketAddrV4);
        let v4 = |address: turnpike_abi::Address, port| match address.to_ip() {
            IpAddr::V4(address) => SocketAddrV4::new(address, port),
            IpAddr::V6(address) => panic!("{address}"),
        };
        let record = self.record.borrow();
        let rules = || record.sure().map(|(_, rule)| rule);
        let way = |rule: &Rule| {
            let id = u64::from(rule.id);
            rule.ways().map(move |((protocol, end), inside)| (id, protocol, end, inside)).collect::<Vec<_>>()
        };
        let open: BTreeSet<Way> = rules().flat_map(way).collect();
        let reserved: BTreeSet<(u64, u8, SocketAddrV4)> = rules()
            .filter(|rule| !rule.enabled)
            .map(|rule| (u64::from(rule.id), rule.protocol, rule.outside))
            .collect();
        let mut last = String::new();
        let deadline = Instant::now() + SOON;
        loop {
            let (pinholes, reservations) = self.site.workers.with(|dataplane| {
                (dataplane.walk(WalkTable::PINHOLES), dataplane.walk(WalkTable::RESERVATIONS))
            });
            let there: BTreeSet<Way> = pinholes
                .iter()
                .map(|row| {
                    let (end, inside) =
                        (v4(row.external, row.external_port), v4(row.inside, row.inside_port));
                    (row.pinhole, row.protocol, end, inside)
                })
                .collect();
            let held: BTreeSet<(u64, u8, SocketAddrV4)> = reservations
                .iter()
                .map(|row| (row.pinhole, row.protocol, v4(row.external, row.external_port)))
                .collect();
            let rows = (pinholes.len(), reservations.len());
            if (&there, &held, rows) == (&open, &reserved, (open.len(), reserved.len())) {
                return;
            }
            assert!(Instant::now() < deadline, "round {}: {last}", self.round);
            last = format!(
                "pinholes missing {:?}, too many {:?}; reservations missing {:?}, too many {:?}",
                open.difference(&there).collect::<Vec<_>>(),
                there.difference(&open).collect::<Vec<_>>(),
                reserved.difference(&held).collect::<Vec<_>>(),
                held.difference(&reserved).collect::<Vec<_>>(),
            );
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// A start after a kill, and everything compared.
    async fn restart(&mut self) {
        self.site.start();
        self.site.until_ready();
        self.settle().await;
        self.walk();
        self.knock();
    }
}

/// Whether a listed rule is `rule`, its number, group and outside end left open where those of `rule` are.
fn is(listed: &RuleData, rule: &Rule) -> bool {
    let end = |end: SocketAddrV4| Some(end.to_string());
    let external = match rule.external.port() {
        0 => format!("{}:*", rule.external.ip()),
        port => format!("{}:{port}", rule.external.ip()),
    };
    let action = if rule.enabled { RuleAction::Enable } else { RuleAction::Reserve };
    listed.id == rule.id
        && (rule.group == 0 || listed.group == rule.group)
        && listed.action == action
        && listed.protocol.0 == rule.protocol
        && listed.ports == rule.ports
        && listed.internal == rule.internal.and_then(end)
        && (!rule.enabled || listed.external == Some(external))
        && (rule.outside.port() == 0 || listed.outside == end(rule.outside))
        && lives(listed.lifetime_seconds, rule.lifetime)
}

/// Whether so many seconds may be left of a lifetime.
fn lives(left: Option<u32>, Lifetime { seconds, asked }: Lifetime) -> bool {
    let gone = asked.elapsed().as_secs() as u32 + 2;
    left.is_some_and(|left| left <= seconds && left + gone >= seconds)
}

#[test]
fn no_kill_loses_or_invents_a_rule_of_simco() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let kills = number("TURNPIKE_KILLS").unwrap_or(KILLS);
    let seed = number("TURNPIKE_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("TURNPIKE_SEED={seed}");
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let mut all = Kills::new(seed);
        let mut most = 0;
        all.restart().await;
        for round in 1..=kills {
            all.round = round;
            all.load().await;
            most = most.max(all.record.borrow().sure().count());
            // The workers go on by themselves.
            all.knock();
            if round % EMPTIED == 0 {
                all.site.workers.with(Dataplane::restart).unwrap();
            }
            all.restart().await;
        }
        let record = all.record.borrow();
        eprintln!(
            "{kills} kills in {:.1} s: {} answers {:?}, at most {most} rules, {} deleted ends knocked at",
            began.elapsed().as_secs_f64(),
            record.acknowledged,
            record.counts,
            record.gone.len()
        );
        let kinds = ["PRR", "PER", "PEA", "PLC", "GLC"];
        assert!(kinds.iter().all(|kind| record.counts.contains_key(kind)), "{:?}", record.counts);
        assert!(most > 40 && !record.gone.is_empty(), "hardly any load: at most {most} rules");
    });
}

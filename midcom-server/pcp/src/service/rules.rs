//! The machine's orders as transactions of the policy engine (RFC 5189). A mapping is a group of rules: one for each
//! filter, or one for everybody; the group's identity names it. What the machine has to remember lies in the rules'
//! tags.

use crate::server::{Answer, Asker, Kept, Kind, Order, Refused, RuleId as MappingId, Seen, Time, Wanted};
use crate::wire::Filter;
use hashbrown::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use tokio::sync::{mpsc, oneshot};
use turnpike_gateway::Gateway;
use turnpike_policy::{
    Action, Agent, Annotation, Behaviour, Direction, Enable, Ending, Find, Front, GroupId, IpVersion,
    Lifetime, Name, Outside, Parity, Protocol, Refusal, Reply, Request, Requester, Rule, RuleId, RuleStatus,
    Tuple,
};

/// What a worker has for an inside end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outbound {
    /// External end that packets made.
    pub external: Option<SocketAddr>,
    /// Seconds that packets keep it, or a mapping of the policy engine, from now on.
    pub remaining: u32,
    /// The host's external address.
    pub paired: Option<IpAddr>,
}

/// A question about the workers' bindings.
#[derive(Debug)]
pub struct Question {
    /// Zone of the inside host.
    pub zone: Name,
    /// The inside host.
    pub host: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Inside port; 0 to learn of the address alone.
    pub port: u16,
    /// Where the answer goes; dropped if no worker can be asked.
    pub answer: oneshot::Sender<Outbound>,
}

/// Whether a rule is one of PCP's or NAT-PMP's.
pub(super) const fn is_ours(owner: &Agent) -> bool {
    matches!(owner.front, Front::Pcp | Front::NatPmp)
}

/// A filter as the rules have it: who may use the mapping; `None` is everybody.
type Remote = Option<(IpAddr, u8, u16)>;

fn remote_of(filter: &Filter) -> Remote {
    let length = filter.prefix_length()?;
    Some((network(filter.address, length), length, filter.port))
}

fn network(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & mask).into())
        }
    }
}

/// A mapping as the policy engine has it.
#[derive(Clone, Debug)]
pub(super) struct Held {
    by: Requester,
    zone: Name,
    group: GroupId,
    kind: Kind,
    protocol: Protocol,
    internal: Tuple,
    range: u16,
    outside: Tuple,
    rules: Vec<(RuleId, Remote)>,
    memo: Vec<u8>,
}

/// What an order made of its mapping.
#[derive(Debug)]
pub(super) enum Errand {
    Nothing,
    Hold(MappingId, Box<Held>),
    Forget(MappingId),
}

impl Held {
    /// The rules of a group as a mapping, after a restart.
    pub(super) fn kept(group: GroupId, members: &[Rule]) -> Option<(Kept, Self)> {
        let first = members.iter().min_by_key(|rule| rule.id)?;
        let internal = first.internal?;
        let memo = members.iter().map(|rule| &rule.annotation.tag).find(|tag| !tag.is_empty())?;
        let outside = first.outside.map_or(internal, |end| Tuple::new(end.address.into(), end.port));
        let (_, host) = first.owner.name.rsplit_once('/')?;
        let kind = match first.behaviour.ending {
            Some(Ending::Drain) => {
                Kind::Outbound(SocketAddr::new(first.external.address, first.external.port))
            }
            _ => Kind::Inbound,
        };
        let rules = members.iter().map(|rule| {
            let A3 { address, length, port } = A3::from(rule.external);
            let anybody = kind != Kind::Inbound || (length == 0 && port == 0);
            (rule.id, (!anybody).then_some((address, length, port)))
        });
        let held = Self {
            by: Requester::new(first.owner.clone()).from_host(host.parse().ok()?),
            zone: first.zone.clone(),
            group,
            kind,
            protocol: first.protocol,
            internal,
            range: first.range,
            outside,
            rules: rules.collect(),
            memo: memo.to_vec(),
        };
        let expires = members.iter().filter_map(|rule| rule.expires).max()?;
        let kept = Kept {
            rule: MappingId(u64::from(group.0)),
            external: SocketAddr::new(outside.address, outside.port),
            expires: Time(expires.0),
            memo: held.memo.clone(),
        };
        Some((kept, held))
    }

    /// The transaction that makes one of its rules.
    fn enable(&self, remote: Remote, lifetime: u32, outside: Option<Outside>) -> Request {
        let version = self.internal.version();
        // MAP is two-way (RFC 6887 section 11). PEER opens no way out that the zone's policy does not: it keeps the
        // mapping and lets its remote end in, as a packet's mapping would.
        let direction = match self.kind {
            Kind::Inbound => Direction::Bidirectional,
            Kind::Outbound(_) => Direction::Inbound,
        };
        let mut enable = Enable::new(self.protocol, self.internal, direction, Lifetime(lifetime));
        enable.zone = Some(self.zone.clone());
        enable.group = (self.group != GroupId(0)).then_some(self.group);
        enable.range = self.range;
        enable.external = match (self.kind, remote) {
            (Kind::Outbound(remote), _) => Tuple::new(remote.ip(), remote.port()),
            (Kind::Inbound, Some((address, length, port))) => Tuple { address, length, port },
            (Kind::Inbound, None) => Tuple::any(version),
        };
        enable.outside = outside;
        if matches!(self.kind, Kind::Outbound(_)) {
            // RFC 6887 section 12.3: it reverts to what packets made of it.
            enable.behaviour = Behaviour { ending: Some(Ending::Drain), ..Behaviour::default() };
        }
        enable.annotation = Annotation { description: None, tag: self.memo.clone().into() };
        Request::Enable(Box::new(enable))
    }
}

/// A3 of a rule.
struct A3 {
    address: IpAddr,
    length: u8,
    port: u16,
}

impl From<Tuple> for A3 {
    fn from(tuple: Tuple) -> Self {
        Self { address: tuple.address, length: tuple.length, port: tuple.port }
    }
}

/// Every mapping, by its name.
pub(super) struct Rules {
    gateway: Gateway,
    questions: mpsc::Sender<Question>,
    held: HashMap<MappingId, Held>,
    by_rule: HashMap<RuleId, MappingId>,
}

impl Rules {
    pub(super) fn new(gateway: Gateway, questions: mpsc::Sender<Question>) -> Self {
        Self { gateway, questions, held: HashMap::new(), by_rule: HashMap::new() }
    }

    pub(super) fn hold(&mut self, mapping: MappingId, held: Held) {
        self.forget(mapping);
        self.by_rule.extend(held.rules.iter().map(|(rule, _)| (*rule, mapping)));
        self.held.insert(mapping, held);
    }

    pub(super) fn forget(&mut self, mapping: MappingId) {
        for (rule, _) in self.held.remove(&mapping).into_iter().flat_map(|held| held.rules) {
            self.by_rule.remove(&rule);
        }
    }

    pub(super) fn apply(&mut self, errand: Errand) {
        match errand {
            Errand::Nothing => {}
            Errand::Hold(mapping, held) => self.hold(mapping, *held),
            Errand::Forget(mapping) => self.forget(mapping),
        }
    }

    /// A rule is gone: the mapping that is gone with it, if that was its last.
    pub(super) fn ended(&mut self, rule: RuleId) -> Option<MappingId> {
        let mapping = self.by_rule.remove(&rule)?;
        let held = self.held.get_mut(&mapping)?;
        held.rules.retain(|(other, _)| *other != rule);
        if !held.rules.is_empty() {
            return None;
        }
        self.held.remove(&mapping);
        Some(mapping)
    }

    /// Every rule of a mapping.
    pub(super) fn known(&self) -> HashSet<RuleId> {
        self.by_rule.keys().copied().collect()
    }

    /// What has to be done for an order. `zone` tells a host's zone for who asks, `own` that of who asks.
    pub(super) fn work(
        &self,
        order: Order,
        zone: impl Fn(&Asker, IpAddr) -> Option<Name>,
        own: impl Fn(&Asker) -> Option<Name>,
    ) -> impl Future<Output = (Answer, Errand)> + Send + 'static {
        let engine = Engine { gateway: self.gateway.clone(), questions: self.questions.clone() };
        let task = match order {
            Order::Look { asker, host, protocol, port } => match zone(&asker, host) {
                Some(zone) => Task::Look { by: requester(&asker, &zone, false), zone, host, protocol, port },
                None => Task::Nothing(Refused::Network),
            },
            Order::Open(wanted) => match (zone(&wanted.asker, wanted.host), own(&wanted.asker)) {
                (Some(zone), Some(own)) => {
                    let by = requester(&wanted.asker, &own, wanted.nat_pmp);
                    Task::Open { by, zone, wanted: Box::new(wanted) }
                }
                _ => Task::Nothing(Refused::Network),
            },
            Order::Change { rule, lifetime, filters, memo } => match self.held.get(&rule) {
                Some(held) => {
                    Task::Change { mapping: rule, held: Box::new(held.clone()), lifetime, filters, memo }
                }
                None => Task::Nothing(Refused::Gone),
            },
            Order::Close { rule } => match self.held.get(&rule) {
                Some(held) => Task::Close { mapping: rule, held: Box::new(held.clone()) },
                None => Task::Nothing(Refused::Gone),
            },
        };
        engine.carry_out(task)
    }
}

/// Who asks, to the policy engine: a host is the agent `ZONE/ADDRESS`.
fn requester(asker: &Asker, zone: &Name, nat_pmp: bool) -> Requester {
    let host = asker.to.ip();
    let front = if nat_pmp { Front::NatPmp } else { Front::Pcp };
    Requester::new(Agent::new(front, &format!("{zone}/{host}"))).from_host(host)
}

/// An order with everything it needs.
enum Task {
    Nothing(Refused),
    Look { by: Requester, zone: Name, host: IpAddr, protocol: u8, port: u16 },
    Open { by: Requester, zone: Name, wanted: Box<Wanted> },
    Change { mapping: MappingId, held: Box<Held>, lifetime: u32, filters: Vec<Filter>, memo: Vec<u8> },
    Close { mapping: MappingId, held: Box<Held> },
}

/// The way to the policy engine and the workers.
#[derive(Clone)]
struct Engine {
    gateway: Gateway,
    questions: mpsc::Sender<Question>,
}

impl Engine {
    async fn carry_out(self, task: Task) -> (Answer, Errand) {
        let result = match task {
            Task::Nothing(refused) => Err((refused, Errand::Nothing)),
            Task::Look { by, zone, host, protocol, port } => {
                self.look(by, zone, host, protocol, port).await.map_err(|refused| (refused, Errand::Nothing))
            }
            Task::Open { by, zone, wanted } => {
                self.open(by, zone, &wanted).await.map_err(|refused| (refused, Errand::Nothing))
            }
            Task::Change { mapping, held, lifetime, filters, memo } => {
                self.change(mapping, *held, lifetime, &filters, memo).await
            }
            Task::Close { mapping, held } => self.close(mapping, &held).await,
        };
        result.unwrap_or_else(|(refused, errand)| (Answer::Refused(refused), errand))
    }

    async fn find(
        &self,
        by: &Requester,
        zone: &Name,
        host: IpAddr,
        protocol: u8,
        port: u16,
    ) -> Result<Vec<RuleStatus>, Refused> {
        let find =
            Find { zone: Some(zone.clone()), protocol: Some(Protocol(protocol)), host, ports: (port, port) };
        match self.gateway.transact(by.clone(), Request::Find(find)).await {
            Ok(Reply::Found(found)) => Ok(found),
            Ok(_) => Ok(Vec::new()),
            Err(why) => Err(refused(&why)),
        }
    }

    async fn look(
        &self,
        by: Requester,
        zone: Name,
        host: IpAddr,
        protocol: u8,
        port: u16,
    ) -> Result<(Answer, Errand), Refused> {
        let found = if port == 0 { Vec::new() } else { self.find(&by, &zone, host, protocol, port).await? };
        let (answer, outbound) = oneshot::channel();
        let question = Question { zone, host, protocol, port, answer };
        self.questions.send(question).await.map_err(|_| Refused::Network)?;
        let Outbound { external, remaining, paired } = outbound.await.map_err(|_| Refused::Network)?;
        let seen = Seen { fixed: fixed(&found, port), outbound: external, remaining, paired };
        Ok((Answer::Seen(seen), Errand::Nothing))
    }

    async fn open(&self, by: Requester, zone: Name, wanted: &Wanted) -> Result<(Answer, Errand), Refused> {
        let found = self.find(&by, &zone, wanted.host, wanted.protocol, wanted.port).await?;
        if let (Some(external), Kind::Inbound) = (fixed(&found, wanted.port), wanted.kind) {
            return Err(Refused::Fixed(external));
        }
        let mut held = Held {
            by,
            zone,
            group: GroupId(0),
            kind: wanted.kind,
            protocol: Protocol(wanted.protocol),
            internal: Tuple::new(wanted.host, wanted.port),
            range: wanted.size,
            outside: Tuple::any(IpVersion::of(wanted.host)),
            rules: Vec::new(),
            memo: wanted.memo.clone(),
        };
        let translated = wanted.address != Some(wanted.host);
        let wish = Outside {
            pool: None,
            address: wanted.address,
            port: wanted.external_port,
            strict: wanted.strict,
        };
        let wish = (translated && (wish.address.is_some() || wish.port.is_some())).then_some(wish);
        let mut remotes: Vec<Remote> = wanted.filters.iter().map(remote_of).collect();
        if remotes.is_empty() {
            remotes.push(None);
        }
        for remote in remotes {
            let outside = wish.clone().filter(|_| held.rules.is_empty());
            if let Err(why) = self.add(&mut held, remote, wanted.lifetime, outside, wanted.parity).await {
                self.abandon(&held).await;
                return Err(why);
            }
        }
        let mapping = MappingId(u64::from(held.group.0));
        let external = SocketAddr::new(held.outside.address, held.outside.port);
        let answer = Answer::Opened { rule: mapping, external, size: held.range };
        Ok((answer, Errand::Hold(mapping, Box::new(held))))
    }

    /// Makes one more rule of a mapping; the first of a range takes what there is (RFC 7753 section 4.2).
    async fn add(
        &self,
        held: &mut Held,
        remote: Remote,
        lifetime: u32,
        outside: Option<Outside>,
        parity: bool,
    ) -> Result<(), Refused> {
        loop {
            let mut request = held.enable(remote, lifetime, outside.clone());
            if let (Request::Enable(enable), true) = (&mut request, parity && held.rules.is_empty()) {
                enable.parity = Parity::Same;
            }
            match self.gateway.transact(held.by.clone(), request).await {
                Ok(Reply::Enabled { rule, group, outside, .. }) => {
                    held.rules.push((rule, remote));
                    (held.group, held.outside) = (group, outside);
                    return Ok(());
                }
                Ok(_) => return Err(Refused::Network),
                Err(why) if held.rules.is_empty() && held.range > 1 && is_about_ports(&why) => {
                    held.range /= 2;
                }
                Err(why) => return Err(refused(&why)),
            }
        }
    }

    /// Takes away what was made of a mapping that is not to be.
    async fn abandon(&self, held: &Held) {
        if held.group != GroupId(0) {
            let gone = Request::GroupLifetime { group: held.group, lifetime: Lifetime::NONE };
            if let Err(error) = self.gateway.transact(held.by.clone(), gone).await {
                tracing::warn!(%error, group = held.group.0, "rules of a refused mapping stay until they expire");
            }
        }
    }

    async fn change(
        &self,
        mapping: MappingId,
        mut held: Held,
        lifetime: u32,
        filters: &[Filter],
        memo: Vec<u8>,
    ) -> Result<(Answer, Errand), (Refused, Errand)> {
        let mut wanted: Vec<Remote> = filters.iter().map(remote_of).collect();
        if wanted.is_empty() {
            wanted.push(None);
        }
        let fresh = std::mem::replace(&mut held.memo, memo);
        let annotated = fresh == held.memo;
        let old = held.rules.clone();
        let outcome = self.change_rules(&mut held, &wanted, &old, lifetime, annotated).await;
        match outcome {
            Ok(()) => Ok((Answer::Changed, Errand::Hold(mapping, Box::new(held)))),
            Err(Refused::Gone) => {
                self.abandon(&held).await;
                Err((Refused::Gone, Errand::Forget(mapping)))
            }
            Err(why) => Err((why, Errand::Hold(mapping, Box::new(held)))),
        }
    }

    /// New rules first, the old ones last: nobody who may come in at both times is kept out between them.
    async fn change_rules(
        &self,
        held: &mut Held,
        wanted: &[Remote],
        old: &[(RuleId, Remote)],
        lifetime: u32,
        annotated: bool,
    ) -> Result<(), Refused> {
        for remote in wanted.iter().filter(|wanted| !old.iter().any(|(_, there)| there == *wanted)) {
            self.add(held, *remote, lifetime, None, false).await?;
        }
        for (rule, remote) in old {
            if wanted.contains(remote) {
                if !annotated {
                    let annotation = Annotation { description: None, tag: held.memo.clone().into() };
                    self.transact(held, Request::Annotate { rule: *rule, annotation }).await?;
                }
            } else {
                let gone = Request::RuleLifetime { rule: *rule, lifetime: Lifetime::NONE };
                self.transact(held, gone).await?;
                held.rules.retain(|(other, _)| other != rule);
            }
        }
        let (group, lifetime) = (held.group, Lifetime(lifetime));
        self.transact(held, Request::GroupLifetime { group, lifetime }).await
    }

    async fn close(&self, mapping: MappingId, held: &Held) -> Result<(Answer, Errand), (Refused, Errand)> {
        let gone = Request::GroupLifetime { group: held.group, lifetime: Lifetime::NONE };
        match self.transact(held, gone).await {
            Ok(()) => Ok((Answer::Closed, Errand::Forget(mapping))),
            Err(Refused::Gone) => Err((Refused::Gone, Errand::Forget(mapping))),
            Err(why) => Err((why, Errand::Nothing)),
        }
    }

    async fn transact(&self, held: &Held, request: Request) -> Result<(), Refused> {
        let answer = self.gateway.transact(held.by.clone(), request).await;
        answer.map(drop).map_err(|why| refused(&why))
    }
}

/// The external end of a rule that hosts may not change, for everybody: a static mapping (RFC 6887 section 11.3).
fn fixed(found: &[RuleStatus], port: u16) -> Option<SocketAddr> {
    found.iter().find_map(|status| {
        let rule = &status.rule;
        let inwards = matches!(
            rule.action,
            Action::Enable { direction: Direction::Inbound | Direction::Bidirectional, .. }
        );
        let everybody = rule.external.length == 0 && rule.external.port == 0;
        if is_ours(&rule.owner) || !inwards || !everybody {
            return None;
        }
        let (internal, outside) = (rule.internal?, status.outside?);
        let offset = port.checked_sub(internal.port)?;
        Some(SocketAddr::new(outside.address, outside.port.checked_add(offset)?))
    })
}

/// Whether fewer ports might be had.
const fn is_about_ports(why: &Refusal) -> bool {
    matches!(why, Refusal::NoPort(_) | Refusal::Range { .. }) || why.pcp().code == 8
}

fn refused(why: &Refusal) -> Refused {
    match (why, why.pcp().code) {
        (Refusal::NoSuchRule(_) | Refusal::NoSuchGroup(_), _) => Refused::Gone,
        (_, 7) => Refused::Network,
        (_, 8) => Refused::Full,
        (_, 9) => Refused::Protocol,
        (_, 10) => Refused::Quota,
        (_, 11) => Refused::External,
        _ => Refused::Policy,
    }
}

//! A server, a policy engine that grants from one address, and messages written by hand from the RFCs' figures.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use turnpike_pcp::server::{
    Answer, Effect, Kept, Kind, Order, OrderId, Place, Prefix, Refused, RuleId, Seen, Server, Settings, Side,
    Speaks, ThirdParty, Time, Wanted,
};

pub const HOST: &str = "192.168.0.10";
pub const OTHER: &str = "192.168.0.11";
pub const MANAGER: &str = "192.168.0.99";
pub const HOST6: &str = "2001:db8:1::10";
pub const EXTERNAL: &str = "203.0.113.7";
pub const NONCE: [u8; 12] = [7; 12];
pub const THEIRS: [u8; 12] = [9; 12];
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub fn end(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}

fn field(address: IpAddr) -> [u8; 16] {
    let mut field = [0; 16];
    match address {
        IpAddr::V4(v4) => {
            field[10..12].fill(0xff);
            field[12..].copy_from_slice(&v4.octets());
        }
        IpAddr::V6(v6) => field = v6.octets(),
    }
    field
}

/// A request, field by field.
#[derive(Clone, Debug)]
pub struct Ask {
    pub bytes: Vec<u8>,
    pub from: SocketAddr,
}

/// The common header (RFC 6887 figure 2).
pub fn header(opcode: u8, lifetime: u32, client: IpAddr) -> Ask {
    let mut bytes = vec![2, opcode, 0, 0];
    bytes.extend(lifetime.to_be_bytes());
    bytes.extend(field(client));
    Ask { bytes, from: SocketAddr::new(client, 40_000) }
}

/// MAP without a suggestion (figure 9).
pub fn map(host: &str, protocol: u8, port: u16, lifetime: u32) -> Ask {
    let host = ip(host);
    let mut ask = header(1, lifetime, host);
    ask.bytes.extend(NONCE);
    ask.bytes.extend([protocol, 0, 0, 0]);
    ask.bytes.extend(port.to_be_bytes());
    ask.bytes.extend([0, 0]);
    let none = if host.is_ipv4() { "0.0.0.0" } else { "::" };
    ask.bytes.extend(field(ip(none)));
    ask
}

/// PEER without a suggestion (figure 11).
pub fn peer(host: &str, protocol: u8, port: u16, remote: &str, lifetime: u32) -> Ask {
    let mut ask = map(host, protocol, port, lifetime);
    let remote = end(remote);
    ask.bytes[1] = 2;
    ask.bytes.extend(remote.port().to_be_bytes());
    ask.bytes.extend([0, 0]);
    ask.bytes.extend(field(remote.ip()));
    ask
}

pub fn announce(host: &str) -> Ask {
    header(0, 0, ip(host))
}

impl Ask {
    pub fn nonce(mut self, nonce: [u8; 12]) -> Self {
        self.bytes[24..36].copy_from_slice(&nonce);
        self
    }

    pub fn suggest(mut self, address: &str, port: u16) -> Self {
        self.bytes[42..44].copy_from_slice(&port.to_be_bytes());
        self.bytes[44..60].copy_from_slice(&field(ip(address)));
        self
    }

    pub fn from(mut self, from: &str) -> Self {
        self.from = end(from);
        self.bytes[8..24].copy_from_slice(&field(self.from.ip()));
        self
    }

    pub fn option(mut self, code: u8, data: &[u8]) -> Self {
        self.bytes.extend([code, 0]);
        self.bytes.extend((data.len() as u16).to_be_bytes());
        self.bytes.extend(data);
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
        self
    }

    pub fn third_party(self, host: &str) -> Self {
        let host = field(ip(host));
        self.option(1, &host)
    }

    pub fn prefer_failure(self) -> Self {
        self.option(2, &[])
    }

    /// `length` as on the wire.
    pub fn filter(self, address: &str, length: u8, port: u16) -> Self {
        let mut data = vec![0, length];
        data.extend(port.to_be_bytes());
        data.extend(field(ip(address)));
        self.option(3, &data)
    }

    pub fn port_set(self, size: u16, first: u16, parity: bool) -> Self {
        let mut data = size.to_be_bytes().to_vec();
        data.extend(first.to_be_bytes());
        data.push(u8::from(parity));
        self.option(130, &data)
    }
}

/// A message of the server, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub bytes: Vec<u8>,
    pub from: Place,
    pub to: SocketAddr,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn address_at(bytes: &[u8], at: usize) -> IpAddr {
    let field: [u8; 16] = bytes[at..at + 16].try_into().expect("sixteen bytes");
    if field[..10] == [0; 10] && field[10..12] == [0xff; 2] {
        IpAddr::from([field[12], field[13], field[14], field[15]])
    } else {
        IpAddr::from(field)
    }
}

impl Reply {
    pub fn result(&self) -> u8 {
        self.bytes[3]
    }

    pub fn lifetime(&self) -> u32 {
        u32_at(&self.bytes, 4)
    }

    pub fn epoch(&self) -> u32 {
        u32_at(&self.bytes, 8)
    }

    pub fn internal_port(&self) -> u16 {
        u16_at(&self.bytes, 40)
    }

    pub fn external(&self) -> SocketAddr {
        SocketAddr::new(address_at(&self.bytes, 44), u16_at(&self.bytes, 42))
    }

    /// Codes and data of the options behind MAP's or PEER's payload.
    pub fn options(&self) -> Vec<(u8, Vec<u8>)> {
        let payload = if self.bytes[1] & 0x7f == 2 { 80 } else { 60 };
        let mut rest = &self.bytes[payload..];
        let mut options = Vec::new();
        while let [code, _, high, low, data @ ..] = rest {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            options.push((*code, data[..length].to_vec()));
            rest = &data[length.next_multiple_of(4)..];
        }
        options
    }

    pub fn has(&self, code: u8) -> bool {
        self.options().iter().any(|(other, _)| *other == code)
    }

    /// Size and first port of the PORT_SET option.
    pub fn port_set(&self) -> Option<(u16, u16)> {
        let options = self.options();
        let (_, data) = options.iter().find(|(code, _)| *code == 130)?;
        Some((u16_at(data, 0), u16_at(data, 2)))
    }
}

/// A rule of the policy engine.
#[derive(Clone, Debug)]
pub struct Rule {
    pub wanted: Wanted,
    pub external: SocketAddr,
    pub ends: Time,
}

type InsideEnd = (IpAddr, u8, u16);

/// The policy engine.
#[derive(Debug, Default)]
pub struct Policy {
    pub rules: HashMap<u64, Rule>,
    pub fixed: HashMap<InsideEnd, SocketAddr>,
    pub outbound: HashMap<InsideEnd, SocketAddr>,
    /// Seconds that packets keep an inside end's mapping.
    pub kept: HashMap<InsideEnd, u32>,
    /// External ends somebody else has.
    pub taken: HashSet<(u8, SocketAddr)>,
    pub paired: Option<IpAddr>,
    /// Ports given out next, in this order.
    pub next_ports: Vec<u16>,
    /// Most ports of a set.
    pub most: u16,
    /// The address it grants from.
    pub pool: Option<IpAddr>,
    pub refuse: Option<Refused>,
    pub orders: Vec<Order>,
    next: u64,
}

impl Policy {
    fn carry_out(&mut self, now: Time, order: &Order, translated: bool) -> Answer {
        self.orders.push(order.clone());
        if let Some(refused) = self.refuse {
            return Answer::Refused(refused);
        }
        match order {
            Order::Look { host, protocol, port, .. } => {
                let at = (*host, *protocol, *port);
                Answer::Seen(Seen {
                    fixed: self.fixed.get(&at).copied(),
                    outbound: self.outbound.get(&at).copied(),
                    remaining: self.kept.get(&at).copied().unwrap_or_default(),
                    paired: self.paired,
                })
            }
            Order::Open(wanted) => match self.place(wanted, translated) {
                Ok((external, size)) => {
                    self.next += 1;
                    let ends = now.after_seconds(wanted.lifetime);
                    let wanted = Wanted { size, ..wanted.clone() };
                    self.rules.insert(self.next, Rule { wanted, external, ends });
                    Answer::Opened { rule: RuleId(self.next), external, size }
                }
                Err(refused) => Answer::Refused(refused),
            },
            Order::Change { rule, lifetime, filters, memo } => match self.rules.get_mut(&rule.0) {
                Some(rule) => {
                    rule.ends = now.after_seconds(*lifetime);
                    rule.wanted.filters.clone_from(filters);
                    rule.wanted.memo.clone_from(memo);
                    Answer::Changed
                }
                None => Answer::Refused(Refused::Gone),
            },
            Order::Close { rule } => match self.rules.remove(&rule.0) {
                Some(_) => Answer::Closed,
                None => Answer::Refused(Refused::Gone),
            },
        }
    }

    fn place(&mut self, wanted: &Wanted, translated: bool) -> Result<(SocketAddr, u16), Refused> {
        let inside = (wanted.host, wanted.protocol, wanted.port);
        if let Some(fixed) = self.fixed.get(&inside) {
            return Err(Refused::Fixed(*fixed));
        }
        if !translated {
            return Ok((SocketAddr::new(wanted.host, wanted.port), wanted.size));
        }
        let pool = self.pool.unwrap_or_else(|| ip(EXTERNAL));
        if wanted.address.is_some_and(|address| address != pool) {
            return Err(Refused::External);
        }
        let same = |rule: &&Rule| (rule.wanted.host, rule.wanted.protocol, rule.wanted.port) == inside;
        let mapped =
            self.outbound.get(&inside).copied().or(self.rules.values().find(same).map(|r| r.external));
        if let Some(mapped) = mapped {
            return match wanted.external_port {
                Some(port) if port != mapped.port() => Err(Refused::External),
                _ => Ok((mapped, wanted.size)),
            };
        }
        let size = wanted.size.min(self.most.max(1));
        let free = |port: u16| {
            (port..port.saturating_add(size)).all(|port| {
                let end = SocketAddr::new(pool, port);
                let inside = |rule: &Rule| {
                    let first = rule.external.port();
                    rule.wanted.protocol == wanted.protocol
                        && (first..first.saturating_add(rule.wanted.size)).contains(&port)
                };
                !self.taken.contains(&(wanted.protocol, end)) && !self.rules.values().any(inside)
            })
        };
        let port = match wanted.external_port {
            Some(port) if free(port) => port,
            Some(_) => return Err(Refused::External),
            None if !self.next_ports.is_empty() => self.next_ports.remove(0),
            None => (20_000..60_000)
                .filter(|port| !wanted.parity || port % 2 == wanted.port % 2)
                .find(|port| free(*port))
                .ok_or(Refused::Full)?,
        };
        Ok((SocketAddr::new(pool, port), size))
    }
}

/// Everything.
#[derive(Debug)]
pub struct World {
    pub server: Server,
    pub settings: Settings,
    pub policy: Policy,
    pub now: Time,
    pub place: Place,
    pub place6: Place,
    /// The policy engine does not answer.
    pub slow: bool,
    pub held: Vec<(OrderId, Order)>,
    pub epochs: Vec<Time>,
    pub speaks: Speaks,
}

pub fn settings() -> Settings {
    Settings {
        sides: vec![(Prefix { address: ip("192.168.0.0"), length: 16 }, Side::Translated(None))],
        third_party: vec![ThirdParty {
            client: Prefix { address: ip(MANAGER), length: 32 },
            hosts: vec![Prefix { address: ip("192.168.0.0"), length: 24 }],
        }],
        port_set: 1024,
        rate: 1000,
        ..Settings::default()
    }
}

impl World {
    pub fn new() -> Self {
        Self::with(settings())
    }

    pub fn with(settings: Settings) -> Self {
        let now = Time(1_000_000_000);
        let mut world = Self {
            server: Server::new(settings.clone(), now),
            settings,
            policy: Policy { most: u16::MAX, ..Policy::default() },
            now,
            place: Place { interface: 3, address: ip("192.168.0.1") },
            place6: Place { interface: 3, address: ip("2001:db8:1::1") },
            slow: false,
            held: Vec::new(),
            epochs: Vec::new(),
            speaks: Speaks { pcp: true, nat_pmp: true },
        };
        world.quiet_places();
        world
    }

    /// The places are known, and were announced long ago.
    pub fn quiet_places(&mut self) {
        let now = Time(self.now.0 - 1_000_000);
        let places = vec![(self.place, self.speaks), (self.place6, self.speaks)];
        self.server.set_places(now, places);
        for _ in 0..10 {
            self.server.poll(Time(u64::MAX));
        }
        self.server.effects().for_each(drop);
    }

    /// Time passes, and rules end.
    pub fn pass(&mut self, seconds: u32) {
        self.now = self.now.after_seconds(seconds);
        let now = self.now;
        self.policy.rules.retain(|_, rule| rule.ends > now);
    }

    /// Carries out what the server wants; what it sent.
    pub fn settle(&mut self) -> Vec<Reply> {
        let mut sent = Vec::new();
        loop {
            let effects: Vec<Effect> = self.server.effects().collect();
            if effects.is_empty() {
                return sent;
            }
            for effect in effects {
                match effect {
                    Effect::Send { from, to, bytes } => sent.push(Reply { bytes, from, to }),
                    Effect::Epoch(time) => self.epochs.push(time),
                    Effect::Order(id, order) if self.slow => self.held.push((id, order)),
                    Effect::Order(id, order) => self.answer(id, &order),
                }
            }
        }
    }

    fn answer(&mut self, id: OrderId, order: &Order) {
        let host = match order {
            Order::Look { host, .. } => Some(*host),
            Order::Open(wanted) => Some(wanted.host),
            Order::Change { .. } | Order::Close { .. } => None,
        };
        let translated = host.is_some_and(|host| matches!(self.settings.side(host), Side::Translated(_)));
        let answer = self.policy.carry_out(self.now, order, translated);
        self.server.answered(self.now, id, answer);
    }

    /// The policy engine answers what it has.
    pub fn catch_up(&mut self) -> Vec<Reply> {
        self.slow = false;
        for (id, order) in std::mem::take(&mut self.held) {
            self.answer(id, &order);
        }
        self.settle()
    }

    pub fn ask_all(&mut self, ask: &Ask) -> Vec<Reply> {
        let place = if ask.from.is_ipv4() { self.place } else { self.place6 };
        self.server.receive(self.now, place, ask.from, &ask.bytes);
        self.settle()
    }

    /// The one answer, which leaves where the request arrived.
    #[track_caller]
    pub fn ask(&mut self, ask: &Ask) -> Reply {
        let mut replies = self.ask_all(ask);
        assert_eq!(replies.len(), 1, "{replies:?}");
        let reply = replies.remove(0);
        assert_eq!(reply.to, ask.from);
        let place = if ask.from.is_ipv4() { self.place } else { self.place6 };
        assert_eq!(reply.from, place);
        assert_eq!(reply.bytes[0], 2);
        assert_eq!(reply.bytes[1], ask.bytes[1] | 0x80);
        assert!(reply.bytes.len() <= 1100 && reply.bytes.len().is_multiple_of(4));
        reply
    }

    /// A mapping, which has to be granted.
    #[track_caller]
    pub fn mapped(&mut self, ask: &Ask) -> Reply {
        let reply = self.ask(ask);
        assert_eq!(reply.result(), 0, "{reply:?}");
        reply
    }

    /// The one refusal, after which nothing is changed (row E-COM-08).
    #[track_caller]
    pub fn refused(&mut self, ask: &Ask, result: u8) -> Reply {
        let before = self.state();
        let reply = self.ask(ask);
        assert_eq!(reply.result(), result, "{reply:?}");
        assert_eq!(self.state(), before, "an error changed something");
        reply
    }

    /// What there is, as the policy engine has it.
    pub fn state(&self) -> Vec<(SocketAddr, Time, Vec<u8>)> {
        let rules = self.policy.rules.values();
        let mut state: Vec<_> =
            rules.map(|rule| (rule.external, rule.ends, rule.wanted.memo.clone())).collect();
        state.sort();
        state
    }

    /// The only rule there is.
    #[track_caller]
    pub fn rule(&self) -> &Rule {
        assert_eq!(self.policy.rules.len(), 1, "{:?}", self.policy.rules);
        self.policy.rules.values().next().expect("one")
    }

    /// Inbound packets from `remote` reach the rule's host.
    pub fn admits(&self, remote: &str) -> bool {
        let remote = end(remote);
        let rule = self.rule();
        let kind = rule.wanted.kind;
        let filters = &rule.wanted.filters;
        kind == Kind::Inbound
            && (filters.is_empty()
                || filters.iter().any(|filter| {
                    let length = filter.prefix_length().expect("a length of its family");
                    let prefix = Prefix { address: filter.address, length };
                    prefix.contains(remote.ip()) && (filter.port == 0 || filter.port == remote.port())
                }))
    }

    /// The control plane starts anew with what the policy engine kept.
    pub fn restart(&mut self, epoch: Time) {
        self.server = Server::new(self.settings.clone(), epoch);
        self.quiet_places();
        for (number, rule) in &self.policy.rules {
            let kept = Kept {
                rule: RuleId(*number),
                external: rule.external,
                expires: rule.ends,
                memo: rule.wanted.memo.clone(),
            };
            assert!(self.server.keep(&kept));
        }
    }

    pub fn places(&mut self) {
        let places = vec![(self.place, self.speaks), (self.place6, self.speaks)];
        self.server.set_places(self.now, Vec::new());
        self.server.set_places(self.now, places);
    }
}

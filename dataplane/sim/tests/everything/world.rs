//! A box to which anything may happen, and what has to agree in it.

use std::collections::{BTreeMap, BTreeSet};
use turnpike_abi::command::{
    Kind, Look, Parity, PinholeAdd, PinholeRemove, PortLease, PortsRelease, PortsReserve, Slot, Walk,
    WalkTable,
};
use turnpike_abi::counters::{Counter, DropReason, ProtocolClass};
use turnpike_abi::event::{self, AckResult, BindingRow, PortsLogged, WalkEnd};
use turnpike_abi::flow::FlowRow;
use turnpike_abi::table::{Filtering, NatAction, NatRuleRecord, PoolRangeRecord, PoolRecord, SettingsRecord};
use turnpike_abi::{Address, PoolId, Prefix, WorkerId, steering};
use turnpike_sim::Dice;
use turnpike_sim::lab::{INSIDE_PORT, Lab, OUTSIDE_PORT};
use turnpike_sim::packets::Build;
use turnpike_sim::tables::{INSIDE, OUTSIDE, PolicyTable, address, prefix};
use turnpike_wire::packet::{TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN};

pub const HOSTS: [&str; 8] =
    ["10.0.0.8", "10.0.0.9", "10.0.0.10", "10.0.0.11", "10.0.0.12", "10.0.0.13", "10.0.0.14", "10.0.0.15"];
pub const SERVERS: [&str; 4] = ["198.51.100.7", "198.51.100.8", "198.51.100.9", "198.51.100.10"];

pub fn range(first: u8, last: u8, pool: u16) -> PoolRangeRecord {
    PoolRangeRecord {
        first: [203, 0, 113, first],
        last: [203, 0, 113, last],
        pool: PoolId(pool),
        ..PoolRangeRecord::default()
    }
}

/// A policy with one or two pools of any shape.
pub fn variant(dice: &mut Dice, deterministic: bool) -> PolicyTable {
    let mut policy = PolicyTable::default();
    policy.settings.flags |= SettingsRecord::LOG_BLOCKS;
    (policy.settings.udp, policy.settings.tcp_opening, policy.settings.tcp_closing) =
        dice.one(&[(300, 240, 240), (4, 6, 5), (60, 240, 9)]);
    let shape = dice.below(7);
    policy.ranges = match shape {
        0 => vec![range(0, 15, 0)],
        1 => vec![range(0, 7, 0)],
        2 => vec![range(4, 15, 0)],
        3 => vec![range(0, 3, 0), range(8, 11, 0)],
        4 => vec![range(0, 7, 0), range(8, 15, 1)],
        5 => vec![range(0, 7, 1), range(8, 15, 0)],
        _ => vec![range(0, 3, 1), range(4, 15, 0)],
    };
    if shape >= 4 {
        policy.pools.push(policy.pools[0]);
        policy.nat.insert(
            0,
            NatRuleRecord {
                source: prefix(dice.one(&["10.0.0.8", "10.0.0.12"]), 30),
                from: INSIDE,
                to: OUTSIDE,
                action: NatAction::TRANSLATE,
                pool: PoolId(1),
                ..NatRuleRecord::default()
            },
        );
    }
    for pool in &mut policy.pools {
        pool.block_size = dice.one(&[64, 128, 256, 512]);
        (pool.port_first, pool.port_last) =
            dice.one(&[(1024, 65535), (1024, 65535), (1024, 5119), (2048, 9215)]);
        pool.filtering = dice.one(&[
            Filtering::ENDPOINT_INDEPENDENT,
            Filtering::ADDRESS_DEPENDENT,
            Filtering::ADDRESS_AND_PORT_DEPENDENT,
        ]);
        if dice.below(4) == 0 {
            pool.flags |= PoolRecord::PARITY;
        }
        if dice.below(3) == 0 {
            (pool.quarantine, pool.quarantine_tcp, pool.quarantine_ports) = (120, 3, 9);
        }
        if dice.below(4) == 0 {
            (pool.subscriber_ports, pool.subscriber_flows) = (10, 12);
        }
        if dice.below(5) == 0 {
            pool.blocks = 1;
        }
        if deterministic && dice.below(2) == 0 {
            pool.flags |= PoolRecord::DETERMINISTIC;
            (pool.inside_first, pool.inside_last) = ([10, 0, 0, 8], [10, 0, 0, 13]);
            (pool.port_first, pool.port_last, pool.dynamic, pool.blocks) = (1024, 65535, 2, 4);
        }
    }
    policy
}

/// What the log says somebody has, until it says that he gave it back.
type Span = (usize, Address, Address, Vec<[u16; 2]>, u8);

/// The box, and what it was told.
pub struct World {
    pub lab: Lab,
    workers: u8,
    pub policy: PolicyTable,
    pub deterministic: bool,
    pub pinholes: Vec<(usize, u64)>,
    pub reservations: Vec<(usize, u64, PortsReserve)>,
    pub leases: Vec<(usize, PortLease)>,
    pub spans: Vec<Span>,
    next: u64,
    drained: BTreeSet<(Address, u16, u8)>,
}

/// Whose binding a row is of.
fn key(row: &BindingRow) -> (Address, u16, u8, u16) {
    (row.inside, row.inside_port, row.protocol, row.pool.0)
}

impl World {
    pub fn new(workers: u8, capacity: usize, policy: PolicyTable) -> Self {
        let mut lab = Lab::sized(workers, capacity, &policy);
        for host in 8..16 {
            lab.appliance.neighbour(
                INSIDE_PORT,
                address(&format!("10.0.0.{host}")),
                [2, 0xff, 0, 0, 0, host],
            );
        }
        Self {
            lab,
            workers,
            policy,
            deterministic: false,
            pinholes: vec![],
            reservations: vec![],
            leases: vec![],
            spans: vec![],
            next: 1,
            drained: BTreeSet::new(),
        }
    }

    /// Takes what the box said besides answers.
    pub fn read_log(&mut self) {
        for (worker, slot) in std::mem::take(&mut self.lab.appliance.events) {
            let kind = slot.header.kind;
            if kind == Kind::PINHOLE_CLOSED {
                let event::PinholeClosed { id } = slot.body();
                self.pinholes.retain(|(_, it)| *it != id);
                continue;
            }
            if kind != Kind::PORTS_ASSIGNED && kind != Kind::PORTS_RELEASED {
                continue;
            }
            let logged: PortsLogged = slot.body();
            let span =
                (worker.index(), logged.inside, logged.external, logged.ports().collect(), logged.protocol);
            if kind == Kind::PORTS_ASSIGNED {
                self.spans.push(span);
            } else {
                let at = self.spans.iter().rposition(|it| *it == span);
                let at = at.unwrap_or_else(|| panic!("released what was never assigned: {span:?}"));
                self.spans.remove(at);
            }
        }
    }

    fn step_walk(&mut self, worker: usize, cursor: u64, limit: u32) -> (Vec<BindingRow>, u64) {
        self.read_log();
        let walk = Walk { cursor, table: WalkTable::BINDINGS, limit };
        self.lab.appliance.command_raw(worker, &Slot::new(Kind::WALK, 1, &walk)).expect("sound");
        let (mut rows, mut next) = (Vec::new(), None);
        let events = std::mem::take(&mut self.lab.appliance.events);
        for (from, event) in events {
            match event.header.kind {
                Kind::WALK_END => next = Some(event.body::<WalkEnd>().cursor),
                Kind::BINDING_ROW => rows.push(event.body()),
                _ => self.lab.appliance.events.push((from, event)),
            }
        }
        assert!(rows.len() <= limit as usize);
        (rows, next.expect("an end"))
    }

    fn rows(&mut self, limit: u32) -> Vec<BindingRow> {
        let mut all = Vec::new();
        for worker in 0..usize::from(self.workers) {
            let mut cursor = 0;
            while cursor != WalkEnd::DONE {
                let (rows, next) = self.step_walk(worker, cursor, limit);
                assert!(next > cursor, "the walk gets on");
                cursor = next;
                all.extend(rows);
            }
        }
        all
    }

    fn flows(&self) -> Vec<FlowRow> {
        (0..usize::from(self.workers)).flat_map(|worker| self.lab.appliance.flows(worker)).collect()
    }

    /// Whether all that tells of bindings tells the same. Returns them.
    pub fn check(&mut self, dice: &mut Dice, place: &str) -> Vec<BindingRow> {
        self.lab.appliance.advance(4, 1);
        let limit = dice.one(&[1, 3, 256]);
        let rows = self.rows(limit);
        self.read_log();
        let keys: BTreeSet<_> = rows.iter().map(key).collect();
        assert_eq!(keys.len(), rows.len(), "a binding twice: {place}");
        let ends: BTreeSet<_> =
            rows.iter().map(|row| (row.external, row.external_port, row.protocol)).collect();
        assert_eq!(ends.len(), rows.len(), "an external end twice: {place}");
        let mut counts = BTreeMap::new();
        for flow in self.flows() {
            assert!(flow.translated);
            *counts.entry((flow.inside, flow.external, flow.protocol)).or_insert(0u32) += 1;
        }
        let shown: BTreeMap<_, _> = rows
            .iter()
            .filter(|row| row.flows > 0)
            .map(|row| {
                (((row.inside, row.inside_port), (row.external, row.external_port), row.protocol), row.flows)
            })
            .collect();
        assert_eq!(shown, counts, "{place}");
        for row in &rows {
            assert!(row.flows > 0 || row.pinhole != 0, "nobody uses {row:?}: {place}");
        }
        let counters = self.lab.appliance.counters();
        let counted: u64 = ProtocolClass::ALL.iter().map(|class| counters.bindings(*class).0).sum();
        assert_eq!(counted, rows.len() as u64, "{place}");
        let subscribers: BTreeSet<_> = rows.iter().map(|row| (row.inside, row.pool.0)).collect();
        assert_eq!(counters.get(Counter::Subscribers), subscribers.len() as u64, "{place}");
        if !self.deterministic {
            for row in &rows {
                let pool = &self.policy.pools[row.pool.index()];
                if !(pool.port_first..=pool.port_last).contains(&row.external_port) || row.pinhole != 0 {
                    continue;
                }
                let covered = self.spans.iter().any(|(_, inside, external, ports, protocol)| {
                    (inside, external) == (&row.inside, &row.external)
                        && (*protocol == 0 || *protocol == row.protocol)
                        && ports.iter().any(|&[a, b]| (a..=b).contains(&row.external_port))
                });
                assert!(covered, "not logged: {row:?}: {place}");
            }
        }
        if !rows.is_empty() {
            let row = rows[dice.below(rows.len() as u64) as usize];
            let look = Look {
                inside: row.inside,
                inside_port: row.inside_port,
                pool: row.pool,
                protocol: row.protocol,
                ..Look::default()
            };
            let owner = steering::owner_of_inside(row.inside, self.workers).index();
            self.lab.appliance.command_raw(owner, &Slot::new(Kind::LOOK, 1, &look)).expect("sound");
            let at = self.lab.appliance.events.iter().position(|(_, it)| it.header.kind == Kind::SEEN);
            let seen: event::Seen = self.lab.appliance.events.remove(at.unwrap()).1.body();
            assert_eq!((seen.external, seen.external_port), (row.external, row.external_port), "{place}");
        }
        rows
    }

    /// Flows as bursts, the short way or the long one.
    pub fn open(&mut self, dice: &mut Dice) {
        let most = dice.one(&[1, 2, 12, 70]);
        let frames: Vec<_> = (0..=dice.below(most))
            .map(|_| {
                let (host, server) = (dice.one(&HOSTS), dice.one(&SERVERS));
                let ends = ((host, 2000 + dice.below(7) as u16), (server, dice.one(&[53, 443])));
                let packet = match dice.below(2) {
                    0 => Build::udp(ends.0, ends.1, b"x"),
                    _ => Build::tcp(ends.0, ends.1, TCP_SYN, b""),
                };
                let mut frame = packet.frame(INSIDE_PORT);
                if dice.below(4) == 0 {
                    frame.splice(12..12, [0x81, 0, 0, 0]);
                }
                frame
            })
            .collect();
        let frames: Vec<_> = frames.iter().map(Vec::as_slice).collect();
        self.lab.burst(INSIDE_PORT, &frames);
    }

    /// A packet from outside to somebody's port: the pool's filtering decides.
    pub fn probe(&mut self, dice: &mut Dice, rows: &[BindingRow], place: &str) {
        let rows: Vec<_> = rows.iter().filter(|row| row.flows > 0).collect();
        if rows.is_empty() {
            return;
        }
        let row = rows[dice.below(rows.len() as u64) as usize];
        let flows: Vec<_> = self
            .flows()
            .into_iter()
            .filter(|flow| {
                flow.external == (row.external, row.external_port) && flow.protocol == row.protocol
            })
            .collect();
        let (server, port) = (dice.one(&SERVERS), 50_000 + dice.below(3) as u16);
        let to = (row.external.to_ip().to_string(), row.external_port);
        let packet = match row.protocol {
            6 => Build::tcp((server, port), (&to.0, to.1), TCP_SYN, b""),
            _ => Build::udp((server, port), (&to.0, to.1), b"x"),
        };
        let step = self.lab.step(OUTSIDE_PORT, &packet);
        if row.pinhole != 0 || self.drained.contains(&(row.inside, row.inside_port, row.protocol)) {
            return;
        }
        let known = flows.iter().any(|flow| flow.remote == (address(server), port));
        let asked = flows.iter().any(|flow| flow.remote.0 == address(server) && !flow.inbound);
        let passes = known
            || match self.policy.pools[row.pool.index()].filtering {
                Filtering::ENDPOINT_INDEPENDENT => true,
                Filtering::ADDRESS_DEPENDENT => asked,
                _ => false,
            };
        let reasons: Vec<_> = step.drops.iter().map(|(reason, _)| *reason).collect();
        let limited = reasons.iter().any(|it| {
            matches!(it, DropReason::SubscriberFlows | DropReason::FlowLimit | DropReason::FilteredRemote)
        });
        if passes {
            assert!(
                step.sent.iter().any(|(port, _)| *port == INSIDE_PORT) || limited,
                "{row:?} {flows:?} from {server} {port}: {step:?}: {place}"
            );
        } else {
            assert!(
                reasons == [DropReason::FilteredUnasked] || limited,
                "{row:?} {flows:?} from {server} {port}: {step:?}: {place}"
            );
        }
    }

    /// Answers, ends, errors, and packets of one subscriber to another's external end.
    pub fn more(&mut self, dice: &mut Dice) {
        let flows = self.flows();
        for _ in 0..dice.below(12) {
            if flows.is_empty() {
                return;
            }
            let flow = flows[dice.below(flows.len() as u64) as usize];
            let ip = |address: Address| address.to_ip().to_string();
            let (inside, remote, external) = (ip(flow.inside.0), ip(flow.remote.0), ip(flow.external.0));
            let (inside, remote, external) = (
                (inside.as_str(), flow.inside.1),
                (remote.as_str(), flow.remote.1),
                (external.as_str(), flow.external.1),
            );
            let tcp = flow.protocol == 6;
            match dice.below(6) {
                0 if tcp => {
                    self.lab.step(OUTSIDE_PORT, &Build::tcp(remote, external, TCP_SYN | TCP_ACK, b""));
                    self.lab.step(INSIDE_PORT, &Build::tcp(inside, remote, TCP_ACK, b""));
                    let end = dice.one(&[TCP_RST, TCP_FIN | TCP_ACK, TCP_ACK]);
                    self.lab.step(INSIDE_PORT, &Build::tcp(inside, remote, end, b""));
                    self.lab.step(OUTSIDE_PORT, &Build::tcp(remote, external, end, b""));
                }
                0 => {
                    self.lab.step(OUTSIDE_PORT, &Build::udp(remote, external, b"answer"));
                }
                1 => {
                    let about = if tcp {
                        Build::tcp(external, remote, TCP_SYN, b"")
                    } else {
                        Build::udp(external, remote, b"x")
                    };
                    let step = self.lab.step(
                        OUTSIDE_PORT,
                        &Build::icmp_error("198.51.100.77", external.0, 3, 1, 0, &about.ip()),
                    );
                    assert!(step.sent.iter().any(|(port, _)| *port == INSIDE_PORT), "{flow:?} {step:?}");
                }
                2 => {
                    let from = (dice.one(&HOSTS), 2000 + dice.below(7) as u16);
                    let packet = if tcp {
                        Build::tcp(from, external, TCP_SYN, b"")
                    } else {
                        Build::udp(from, external, b"x")
                    };
                    self.lab.step(INSIDE_PORT, &packet);
                }
                3 => {
                    let packet = if tcp {
                        Build::tcp(inside, remote, TCP_ACK, b"more")
                    } else {
                        Build::udp(inside, remote, &[7; 1400])
                    };
                    let frame = packet.frame(INSIDE_PORT);
                    for piece in turnpike_sim::pieces::cut_evenly(&frame, 7, 400) {
                        self.lab.frame(INSIDE_PORT, &piece);
                    }
                }
                _ => {
                    let packet = if tcp {
                        Build::tcp(inside, remote, TCP_ACK, b"more")
                    } else {
                        Build::udp(inside, remote, b"more")
                    };
                    let frames = [packet.frame(INSIDE_PORT), packet.frame(INSIDE_PORT)];
                    let frames: Vec<_> = frames.iter().map(Vec::as_slice).collect();
                    self.lab.burst(INSIDE_PORT, &frames);
                }
            }
        }
    }

    /// A pinhole, a reservation or a lease comes or goes.
    pub fn command(&mut self, dice: &mut Dice, rows: &[BindingRow]) {
        let host = dice.one(&HOSTS);
        let inside = address(host);
        let owner = steering::owner_of_inside(inside, self.workers).index();
        let protocol = dice.one(&[6, 17]);
        let pool = PoolId(dice.below(self.policy.pools.len() as u64) as u16);
        let id = self.next;
        self.next += 1;
        let external = |dice: &mut Dice| address(&format!("203.0.113.{}", dice.below(16)));
        let base = PinholeAdd {
            id,
            inside,
            remote: Prefix::ANY,
            inside_port: 2000 + dice.below(7) as u16,
            remote_port_last: u16::MAX,
            protocol,
            pool,
            ports: dice.one(&[1, 1, 1, 2, 3]),
            flags: PinholeAdd::POOL
                | dice.one(&[0, 0, PinholeAdd::EVEN, PinholeAdd::ODD, PinholeAdd::CLOSE_ON_END]),
            ..PinholeAdd::default()
        };
        match dice.below(7) {
            0 => {
                let add = base;
                if self.lab.appliance.command(owner, Kind::PINHOLE_ADD, &add).result == AckResult::OK {
                    self.pinholes.push((owner, id));
                }
            }
            1 => {
                // A name near somebody's port, often in his block.
                let (external, port) = match rows.len() {
                    0 => (external(dice), 1024 + dice.below(60_000) as u16),
                    n => {
                        let row = rows[dice.below(n as u64) as usize];
                        (row.external, (row.external_port ^ dice.below(8) as u16).max(1))
                    }
                };
                let add = PinholeAdd { external, external_port: port, flags: PinholeAdd::POOL, ..base };
                if self.lab.appliance.command(owner, Kind::PINHOLE_ADD, &add).result == AckResult::OK {
                    self.pinholes.push((owner, id));
                }
            }
            2 if !self.pinholes.is_empty() => {
                let (owner, id) = self.pinholes.swap_remove(dice.below(self.pinholes.len() as u64) as usize);
                let drain = dice.below(2) as u8;
                if drain == 1 {
                    for row in rows.iter().filter(|row| row.pinhole != 0) {
                        self.drained.insert((row.inside, row.inside_port, row.protocol));
                    }
                }
                let remove = PinholeRemove { id, drain, ..PinholeRemove::default() };
                let _ = self.lab.appliance.command(owner, Kind::PINHOLE_REMOVE, &remove);
            }
            3 => {
                let reserve = PortsReserve {
                    id,
                    inside: if dice.below(2) == 0 { inside } else { Address::UNSPECIFIED },
                    pool,
                    protocol,
                    ports: dice.one(&[1, 2, 4]),
                    parity: Parity::ANY,
                    ..PortsReserve::default()
                };
                if self.lab.appliance.command(owner, Kind::PORTS_RESERVE, &reserve).result == AckResult::OK {
                    self.reservations.push((owner, id, reserve));
                }
            }
            4 if !self.reservations.is_empty() => {
                let at = dice.below(self.reservations.len() as u64) as usize;
                let (owner, reservation, reserve) = self.reservations[at];
                if dice.below(2) == 0 {
                    self.reservations.swap_remove(at);
                    let _ = self.lab.appliance.command(
                        owner,
                        Kind::PORTS_RELEASE,
                        &PortsRelease { id: reservation },
                    );
                    return;
                }
                let inside = if reserve.inside.is_unspecified() { inside } else { reserve.inside };
                if steering::owner_of_inside(inside, self.workers).index() != owner {
                    return;
                }
                let add = PinholeAdd {
                    inside,
                    reservation,
                    pool: reserve.pool,
                    protocol: reserve.protocol,
                    ports: reserve.ports,
                    flags: PinholeAdd::POOL | PinholeAdd::RESERVED,
                    ..base
                };
                if self.lab.appliance.command(owner, Kind::PINHOLE_ADD, &add).result == AckResult::OK {
                    self.reservations.swap_remove(at);
                    self.pinholes.push((owner, id));
                }
            }
            5 if self.workers > 1 => {
                let port = 1024 + dice.below(4000) as u16;
                let lessor = steering::owner_of_port(port, self.workers).index();
                if lessor == owner {
                    return;
                }
                let external = external(dice);
                let lease = PortLease {
                    external,
                    external_port: port,
                    pool,
                    protocol,
                    owner: WorkerId(owner as u8),
                    ports: 1,
                    ..PortLease::default()
                };
                if self.lab.appliance.command(lessor, Kind::PORT_LEASE, &lease).result != AckResult::OK {
                    return;
                }
                self.leases.push((lessor, lease));
                let add = PinholeAdd {
                    external,
                    external_port: port,
                    ports: 1,
                    flags: PinholeAdd::POOL | PinholeAdd::LEASED,
                    ..base
                };
                if self.lab.appliance.command(owner, Kind::PINHOLE_ADD, &add).result == AckResult::OK {
                    self.pinholes.push((owner, id));
                }
            }
            _ => {}
        }
    }

    /// What is there from the first step of a walk to the last is seen once, whatever comes meanwhile.
    pub fn walk_while(&mut self, dice: &mut Dice, place: &str, change: bool) {
        // What is made meanwhile is younger.
        self.lab.appliance.advance(1000, 100);
        let end = |row: &BindingRow| (row.external, row.external_port, row.age_ms);
        let before: BTreeMap<_, _> = self.rows(256).into_iter().map(|row| (key(&row), end(&row))).collect();
        let mut seen: BTreeMap<_, u32> = BTreeMap::new();
        for worker in 0..usize::from(self.workers) {
            let mut cursor = 0;
            while cursor != WalkEnd::DONE {
                let (rows, next) = self.step_walk(worker, cursor, 3);
                cursor = next;
                for row in &rows {
                    *seen.entry(key(row)).or_default() += 1;
                }
                match dice.below(3) {
                    0 => self.open(dice),
                    1 => self.probe(dice, &rows, place),
                    _ if change => self.command(dice, &rows),
                    _ => {}
                }
            }
        }
        let after: BTreeMap<_, _> = self.rows(256).into_iter().map(|row| (key(&row), end(&row))).collect();
        for (key, end) in &before {
            if after.get(key) == Some(end) {
                assert_eq!(seen.get(key), Some(&1), "{key:?} {end:?}: {place}");
            }
        }
    }
}

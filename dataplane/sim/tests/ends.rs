//! Whatever happened: once all of it has ended, nothing of it is left, in no table and no gauge.

use std::collections::BTreeMap;
use turnpike_abi::command::{
    Kind, Parity, PinholeAdd, PinholeRemove, PortLease, PortsRelease, PortsReserve, Slot, Walk, WalkTable,
};
use turnpike_abi::counters::{Counter, DropReason, ProtocolClass, TcpState};
use turnpike_abi::event::{AckResult, PortsLogged, WalkEnd};
use turnpike_abi::table::{Filtering, NatAction, NatRuleRecord, PoolRangeRecord, PoolRecord, SettingsRecord};
use turnpike_abi::{Address, MAX_POOLS, PoolId, PortId, Prefix, steering};
use turnpike_engine::{Interface, Time};
use turnpike_sim::lab::{INSIDE_PORT, Lab, OUTSIDE_PORT, forwarding};
use turnpike_sim::packets::{Build, ICMP, TCP, UDP, see};
use turnpike_sim::tables::{INSIDE, OUTSIDE, PolicyTable, address, prefix};
use turnpike_sim::{Appliance, Dice, station};
use turnpike_wire::packet::{TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN};

const SERVERS: [&str; 3] = ["198.51.100.7", "198.51.100.8", "198.51.100.9"];
const HOSTS6: [&str; 2] = ["fd00::9", "fd00:0:0:5::9"];
const SERVER6: &str = "2001:db8:9::7";
const STEPS: u64 = 90;
/// Longer than any timeout of [`policy`], any quarantine, and what follows from either.
const SILENCE_MS: u64 = 330_000;

fn host(dice: &mut Dice) -> String {
    format!("10.0.0.{}", 9 + dice.below(12))
}

fn policy(dice: &mut Dice) -> PolicyTable {
    let mut policy = PolicyTable::default();
    let settings = &mut policy.settings;
    (settings.udp, settings.icmp, settings.other) = (dice.one(&[4, 20]), 5, 9);
    settings.tcp_established = dice.one(&[30, 60]);
    (settings.tcp_opening, settings.tcp_closing) = (dice.one(&[6, 20]), dice.one(&[4, 12]));
    settings.flags |= dice.one(&[0, SettingsRecord::UDP_INBOUND_REFRESH]) | SettingsRecord::LOG_BLOCKS;
    let pool = &mut policy.pools[0];
    (pool.block_size, pool.blocks) = (dice.one(&[64, 256, 4096]), dice.one(&[0, 0, 1, 2]));
    (pool.quarantine, pool.quarantine_tcp) = (dice.one(&[0, 2, 120]), dice.one(&[0, 5, 120]));
    pool.quarantine_ports = dice.one(&[0, 5, u32::MAX, u32::MAX]);
    pool.filtering = dice.one(&[
        Filtering::ENDPOINT_INDEPENDENT,
        Filtering::ADDRESS_DEPENDENT,
        Filtering::ADDRESS_AND_PORT_DEPENDENT,
    ]);
    if dice.below(3) == 0 {
        (pool.subscriber_flows, pool.subscriber_ports) = (dice.one(&[0, 20]), dice.one(&[0, 6]));
        (pool.subscriber_rate, pool.subscriber_burst) = (dice.one(&[0, 3]), 4);
    }
    policy.ranges[0].last[3] = dice.one(&[0, 3, 15]);
    match dice.below(5) {
        0 => pool.flags |= PoolRecord::PARITY,
        1 => {
            pool.flags |= PoolRecord::DETERMINISTIC;
            (pool.inside_first, pool.inside_last, pool.dynamic) = ([10, 0, 0, 8], [10, 0, 0, 15], 2);
        }
        2 => pool.port_last = 3071,
        _ => {}
    }
    if dice.below(2) == 0 {
        let mut second = *pool;
        (second.flags, second.port_first, second.port_last) = (0, 1024, 65535);
        policy.pools.push(second);
        policy.ranges.push(PoolRangeRecord {
            first: [203, 0, 113, 64],
            last: [203, 0, 113, 65],
            pool: PoolId(1),
            ..PoolRangeRecord::default()
        });
        let some = NatRuleRecord {
            source: prefix("10.0.0.16", 29),
            from: INSIDE,
            to: OUTSIDE,
            action: NatAction::TRANSLATE,
            pool: PoolId(1),
            ..NatRuleRecord::default()
        };
        policy.nat.insert(0, some);
    }
    policy
}

type End = (String, u16);
/// External address, protocol, first and last port of each run, as the log has them.
type Ports = (Address, u8, Vec<[u16; 2]>);

struct Run {
    lab: Lab,
    dice: Dice,
    workers: u8,
    next_id: u64,
    leases: Vec<PortLease>,
    /// External ends that were seen, newest last: protocol, end, who it spoke to.
    ends: Vec<(u8, End, End)>,
    /// By the log: who has which ports.
    logged: BTreeMap<Ports, Address>,
    /// What happened, to see that it did.
    seen: BTreeMap<&'static str, u64>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let (workers, capacity) = (1 + dice.below(3) as u8, dice.one(&[24, 64, 4096]));
        let interface = |index| Interface { port: PortId(index), vlan: 0, mac: station(index), mtu: 1500 };
        let mut appliance = Appliance::bare(workers, vec![interface(0), interface(1)], capacity);
        if seed % 16 == 3 {
            // Just before milliseconds wrap in 32 bits.
            appliance.now = Time(u64::from(u32::MAX) - 20_000);
        }
        let first = policy(&mut dice);
        appliance.policy(&first);
        appliance.forwarding(&forwarding());
        let mut lab = Lab { appliance };
        lab.neighbours();
        for host in 9..21 {
            let address = address(&format!("10.0.0.{host}"));
            lab.appliance.neighbour(INSIDE_PORT, address, [2, 0xff, 0, 0, 0, host]);
        }
        Self {
            lab,
            dice,
            workers,
            next_id: 1,
            leases: Vec::new(),
            ends: Vec::new(),
            logged: BTreeMap::new(),
            seen: BTreeMap::new(),
        }
    }

    fn note(&mut self, what: &'static str, count: u64) {
        *self.seen.entry(what).or_default() += count;
    }

    fn owner(&self, host: &str) -> usize {
        steering::owner_of_inside(address(host), self.workers).index()
    }

    fn burst(&mut self, port: u16, packets: &[Build]) {
        let frames: Vec<_> = packets.iter().map(|packet| packet.frame(port)).collect();
        let frames: Vec<_> = frames.iter().map(Vec::as_slice).collect();
        let step = self.lab.burst(port, &frames);
        for (reason, count) in &step.drops {
            assert_ne!(*reason, DropReason::InternalError, "{step:?}");
            self.note(reason.name(), *count);
        }
        for (_, frame) in step.sent.iter().filter(|(by, _)| *by == OUTSIDE_PORT) {
            let seen = see(frame);
            let words = |end: (std::net::IpAddr, u16)| (end.0.to_string(), end.1);
            let protocol = seen.packet.protocol;
            if matches!(protocol, UDP | TCP) || (protocol == ICMP && seen.icmp().0 == 8) {
                self.ends.push((protocol, words(seen.source()), words(seen.destination())));
            }
        }
        let old = self.ends.len().saturating_sub(60);
        self.ends.drain(..old);
    }

    fn inside_packet(&mut self) -> Build {
        let dice = &mut self.dice;
        let host = host(dice);
        let (port, server, to) = (1000 + dice.below(7) as u16, dice.one(&SERVERS), 50 + dice.below(2) as u16);
        match dice.below(12) {
            0..=3 => Build::udp((&host, port), (server, to), b"x"),
            4..=6 => Build::tcp((&host, port), (server, to), TCP_SYN, b""),
            7 => Build::echo(&host, server, port, false, b"x"),
            8 => Build::udp((dice.one(&HOSTS6), port), (SERVER6, to), b"x"),
            9 => Build::other(&host, server, dice.one(&[41, 50]), &[6; 40]),
            10 => {
                let flags = dice.one(&[TCP_ACK, TCP_FIN | TCP_ACK, TCP_RST, TCP_SYN | TCP_ACK]);
                Build::tcp((&host, port), (server, to), flags, b"")
            }
            _ => match self.ends.last() {
                Some((UDP, (external, at), _)) if !external.contains(':') => {
                    Build::udp((&host, port), (external, *at), b"hairpin")
                }
                _ => Build::udp((&host, 999), (server, to), b"x"),
            },
        }
    }

    fn outside_packet(&mut self) -> Build {
        let dice = &mut self.dice;
        let known = self.ends.get(dice.below(60) as usize).cloned();
        let Some((protocol, (external, port), (server, from))) = known else {
            let to = (dice.one(&["203.0.113.0", "203.0.113.64"]), 1024 + dice.below(600) as u16);
            return match dice.below(3) {
                0 => Build::other(SERVERS[0], to.0, 41, &[6; 40]),
                1 => Build::tcp((SERVERS[0], 50), to, TCP_SYN, b""),
                _ => Build::udp((SERVERS[0], 50), to, b"x"),
            };
        };
        let from = if dice.below(4) == 0 { 60 } else { from };
        let server = if dice.below(4) == 0 { SERVERS[1].to_owned() } else { server };
        if external.contains(':') {
            return Build::udp((SERVER6, from), (&external, port), b"y");
        }
        let server = if server.starts_with("203") { SERVERS[0].to_owned() } else { server };
        match protocol {
            UDP => Build::udp((&server, from), (&external, port), b"y"),
            TCP => {
                let all = [TCP_SYN | TCP_ACK, TCP_ACK, TCP_SYN, TCP_FIN | TCP_ACK, TCP_RST];
                Build::tcp((&server, from), (&external, port), dice.one(&all), b"")
            }
            _ => Build::echo(&server, &external, port, true, b"y"),
        }
    }

    fn add_pinhole(&mut self) {
        let dice = &mut self.dice;
        let v6 = dice.below(5) == 0;
        let host = if v6 { dice.one(&HOSTS6).to_owned() } else { host(dice) };
        let protocol = if v6 { dice.one(&[UDP, TCP, 50]) } else { dice.one(&[UDP, UDP, TCP, TCP, 41]) };
        let portless = !matches!(protocol, UDP | TCP);
        let flags = [
            PinholeAdd::INBOUND,
            PinholeAdd::OUTBOUND,
            PinholeAdd::LOCK_ADDRESS,
            PinholeAdd::LOCK_ENDPOINT,
            PinholeAdd::CLOSE_ON_END,
            PinholeAdd::EVEN,
            0,
            0,
        ];
        let external = if dice.below(3) == 0 || portless {
            dice.one(&["203.0.113.0", "203.0.113.2", "203.0.113.64"])
        } else {
            "::"
        };
        let pool = PoolId(u16::from(external.ends_with(".64")));
        let named = external != "::" && !portless && dice.below(2) == 0;
        let mut add = PinholeAdd {
            id: self.next_id,
            inside: address(&host),
            external: if v6 { address("::") } else { address(external) },
            remote: if dice.below(3) == 0 { prefix("198.51.100.8", 32) } else { Prefix::ANY },
            inside_port: if portless { 0 } else { 1000 + dice.below(7) as u16 },
            external_port: if named && !v6 { 1024 + dice.below(900) as u16 } else { 0 },
            remote_port_last: u16::MAX,
            pool,
            flags: dice.one(&flags) | if v6 { 0 } else { PinholeAdd::POOL },
            max_flows: dice.one(&[0, 2]),
            protocol,
            ports: if portless { 1 } else { dice.one(&[1, 1, 3]) },
            ..PinholeAdd::default()
        };
        if v6 || portless {
            add.flags &= !PinholeAdd::EVEN;
        }
        self.next_id += 1;
        let owner = self.owner(&host);
        let mut result = self.lab.appliance.command(owner, Kind::PINHOLE_ADD, &add).result;
        // Of a range beside a port that one of its ends has already, the next may be another worker's: no lease then.
        if result == AckResult::NOT_OWNER && (portless || add.external_port != 0) {
            let of = if portless {
                steering::owner_of_portless(add.external, self.workers)
            } else {
                steering::owner_of_port(add.external_port, self.workers)
            };
            let lease = PortLease {
                external: add.external,
                external_port: add.external_port,
                pool,
                protocol,
                owner: steering::owner_of_inside(add.inside, self.workers),
                ports: add.ports,
                ..PortLease::default()
            };
            let leased = self.lab.appliance.command(of.index(), Kind::PORT_LEASE, &lease).result;
            if leased == AckResult::OK {
                self.leases.push(lease);
                add.flags |= PinholeAdd::LEASED;
                result = self.lab.appliance.command(owner, Kind::PINHOLE_ADD, &add).result;
                self.note("leased", u64::from(result == AckResult::OK));
            }
        }
        self.note(if result == AckResult::OK { "pinhole" } else { "no pinhole" }, 1);
    }

    fn reserve(&mut self) {
        let dice = &mut self.dice;
        let (host, id) = (host(dice), self.next_id);
        let somebody = dice.below(2) == 0;
        let reserve = PortsReserve {
            id,
            inside: address(if somebody { host.as_str() } else { "::" }),
            protocol: UDP,
            ports: dice.one(&[1, 2, 8]),
            parity: dice.one(&[Parity::ANY, Parity::EVEN]),
            ..PortsReserve::default()
        };
        let open = dice.below(2) == 0;
        let inside_port = 1000 + dice.below(7) as u16;
        self.next_id += 1;
        let owner = self.owner(&host);
        let result = self.lab.appliance.command(owner, Kind::PORTS_RESERVE, &reserve).result;
        self.note("reserved", u64::from(result == AckResult::OK));
        if result == AckResult::OK && open {
            let add = PinholeAdd {
                id: self.next_id,
                reservation: id,
                inside: address(&host),
                remote: Prefix::ANY,
                inside_port,
                remote_port_last: u16::MAX,
                flags: PinholeAdd::POOL | PinholeAdd::RESERVED,
                protocol: UDP,
                ports: reserve.ports,
                ..PinholeAdd::default()
            };
            self.next_id += 1;
            let result = self.lab.appliance.command(owner, Kind::PINHOLE_ADD, &add).result;
            self.note("claimed", u64::from(result == AckResult::OK));
        }
    }

    fn close(&mut self, id: u64, drain: u8) {
        for worker in 0..usize::from(self.workers) {
            let remove = PinholeRemove { id, drain, ..PinholeRemove::default() };
            self.lab.appliance.command(worker, Kind::PINHOLE_REMOVE, &remove);
            if drain == 0 {
                self.lab.appliance.command(worker, Kind::PORTS_RELEASE, &PortsRelease { id });
            }
        }
    }

    fn give_leases_back(&mut self) {
        for lease in std::mem::take(&mut self.leases) {
            let asked = self.lab.appliance.command(lease.owner.index(), Kind::PORT_RELEASE, &lease).result;
            if asked != AckResult::OK {
                self.leases.push(lease);
                continue;
            }
            for worker in 0..usize::from(self.workers) {
                if worker != lease.owner.index() {
                    self.lab.appliance.command(worker, Kind::PORT_RELEASE, &lease);
                }
            }
        }
    }

    fn step(&mut self) {
        match self.dice.below(24) {
            0..=8 => {
                let count = self.dice.one(&[1, 4, 40, 90]);
                let packets: Vec<_> = (0..count).map(|_| self.inside_packet()).collect();
                self.burst(INSIDE_PORT, &packets);
            }
            9..=13 => {
                let packets: Vec<_> =
                    (0..self.dice.one(&[1, 5, 30])).map(|_| self.outside_packet()).collect();
                self.burst(OUTSIDE_PORT, &packets);
            }
            14 | 15 => {
                let milliseconds = self.dice.one(&[5, 700, 3000]);
                self.lab.appliance.advance(milliseconds, 9);
            }
            16 => {
                let milliseconds = self.dice.one(&[7000, 21_000]);
                self.lab.appliance.advance(milliseconds, 40);
            }
            17 => {
                let policy = policy(&mut self.dice);
                self.lab.appliance.policy(&policy);
            }
            18 | 19 => self.add_pinhole(),
            20 => self.reserve(),
            21 | 22 => {
                let (id, drain) = (self.dice.below(self.next_id), self.dice.below(2) as u8);
                self.close(id, drain);
            }
            _ => self.give_leases_back(),
        }
        self.read_log();
    }

    /// The log gives nobody what somebody has, and takes from nobody what he has not.
    fn read_log(&mut self) {
        for (_, slot) in std::mem::take(&mut self.lab.appliance.events) {
            if !matches!(slot.header.kind, Kind::PORTS_ASSIGNED | Kind::PORTS_RELEASED) {
                continue;
            }
            let line: PortsLogged = slot.body();
            let ports = (line.external, line.protocol, line.ports().collect::<Vec<_>>());
            self.note(if line.since_ms == PortsLogged::UNKNOWN { "logged port" } else { "logged" }, 1);
            if slot.header.kind == Kind::PORTS_ASSIGNED {
                assert_eq!(self.logged.insert(ports, line.inside), None, "{line:?}");
            } else {
                assert_eq!(self.logged.remove(&ports), Some(line.inside), "{line:?}");
            }
        }
    }

    fn end_all(&mut self) {
        for id in 1..self.next_id {
            self.close(id, 0);
        }
        // What was drained ends by itself.
        self.lab.appliance.advance(200_000, 100);
        self.give_leases_back();
        assert_eq!(self.leases, [], "their users are gone");
        self.lab.appliance.advance(SILENCE_MS, 100);
    }

    fn assert_empty(&mut self) {
        self.read_log();
        assert_eq!(self.logged, BTreeMap::new());
        let counters = self.lab.appliance.counters();
        for class in ProtocolClass::ALL {
            assert_eq!((counters.flows(*class).0, counters.bindings(*class).0), (0, 0), "{}", class.name());
            for pool in 0..MAX_POOLS {
                assert_eq!(counters.pool_ports(pool, *class), 0, "pool {pool}, {}", class.name());
            }
        }
        for state in TcpState::ALL {
            assert_eq!(counters.flows_in(*state), 0, "{}", state.name());
        }
        for gauge in [
            Counter::Held,
            Counter::Subscribers,
            Counter::Blocks,
            Counter::Quarantined,
            Counter::PortsReserved,
            Counter::Pinholes,
        ] {
            assert_eq!(counters.get(gauge), 0, "{}", gauge.name());
        }
        assert!(counters.get(Counter::TimerLagMs) < 1000 * u64::from(self.workers));
        for worker in 0..usize::from(self.workers) {
            assert_eq!(self.lab.appliance.flows(worker), []);
            for table in [
                WalkTable::BINDINGS,
                WalkTable::PINHOLES,
                WalkTable::RESERVATIONS,
                WalkTable::LEASES,
                WalkTable::BLOCKS,
            ] {
                self.lab.appliance.events.clear();
                let walk = Walk { cursor: 0, table, limit: 200 };
                self.lab.appliance.command_raw(worker, &Slot::new(Kind::WALK, 1 << 40, &walk)).unwrap();
                let events = std::mem::take(&mut self.lab.appliance.events);
                let end: WalkEnd = events.last().expect("an end").1.body();
                assert_eq!(end.rows, 0, "{table:?} {:?}", events[0]);
            }
        }
    }

    /// As many bindings and flows as there ever were room for.
    fn fill(&mut self) {
        let capacity = self.lab.appliance.counters().get(Counter::BindingsLimit) / u64::from(self.workers);
        if capacity > 100 {
            return;
        }
        self.lab.appliance.policy(&PolicyTable::default());
        for worker in 0..usize::from(self.workers) {
            let mut hosts = (9..21).map(|host| format!("10.0.0.{host}"));
            let host = hosts.find(|host| self.owner(host) == worker).expect("a host of each worker");
            for port in 0..capacity as u16 {
                let packet = Build::udp((&host, 2000 + port), (SERVERS[0], 53), b"x");
                assert_eq!(self.lab.step(INSIDE_PORT, &packet).drops, [], "{port} of {capacity}");
            }
        }
    }
}

#[test]
fn what_has_ended_leaves_nothing() {
    let mut all = BTreeMap::new();
    for seed in 0..40 {
        println!("seed {seed}");
        let mut run = Run::new(seed);
        for _ in 0..STEPS {
            run.step();
        }
        run.end_all();
        run.assert_empty();
        run.fill();
        for (what, count) in run.seen {
            *all.entry(what).or_insert(0) += count;
        }
    }
    for what in ["pinhole", "leased", "reserved", "claimed", "logged", "logged port"] {
        assert!(all.get(what).is_some_and(|count| *count >= 10), "{what}: {all:?}");
    }
}

//! The engine against a map of flows and a set of ports, for a million packets and another: who has which port, which
//! flows there are, and what each packet looks like when it leaves, every checksum computed in full.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use turnpike_abi::Address;
use turnpike_abi::counters::{DropReason, ProtocolClass};
use turnpike_sim::Dice;
use turnpike_sim::lab::{INSIDE_PORT, Lab, OTHER_MAC, OUTSIDE_PORT};
use turnpike_sim::packets::{Build, Seen, TCP, UDP, see};
use turnpike_sim::tables::PolicyTable;
use turnpike_wire::packet::{TCP_ACK, TCP_SYN};

const PACKETS: u64 = 1_000_000;
/// Of every flow, in whatever state: the oracle knows one.
const TIMEOUT_S: u32 = 30;
/// Between two looks at everything; no multiple of it is near the timeout.
const PAUSE_MS: u64 = 7000;
/// Bursts between two pauses.
const BURSTS: u64 = 150;
const BLOCK: u16 = 64;
/// The pool's first address.
const POOL: u32 = 0xcb00_7100;

/// An IPv4 endpoint.
type End = (u32, u16);

fn host(number: u64) -> u32 {
    0x0a00_0100 + number as u32
}

fn server(number: u64) -> u32 {
    0xc633_6401 + number as u32
}

fn end(seen: (IpAddr, u16)) -> End {
    let IpAddr::V4(address) = seen.0 else { panic!("{seen:?}") };
    (address.to_bits(), seen.1)
}

/// What a TCP connection has seen; UDP is open from the first packet on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Syn,
    Answered,
    Open,
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    used_ms: u64,
    phase: Phase,
}

#[derive(Clone, Copy, Debug)]
struct Mapping {
    external: End,
    flows: usize,
    /// When a packet last came from inside.
    used_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    protocol: u8,
    inside: End,
    remote: End,
}

/// What may be had of a pool.
#[derive(Clone, Copy, Debug)]
struct Limits {
    workers: u8,
    addresses: u32,
    ports: (u16, u16),
    /// Of a host; 0 for any number.
    blocks: usize,
}

impl Limits {
    fn policy(&self) -> PolicyTable {
        let mut policy = PolicyTable::default();
        let settings = &mut policy.settings;
        (settings.udp, settings.tcp_opening, settings.tcp_established) = (TIMEOUT_S, TIMEOUT_S, TIMEOUT_S);
        // After the established timeout (RFC 7857 section 2.1); together still less than the next pause.
        settings.tcp_closing = 3;
        let pool = &mut policy.pools[0];
        (pool.port_first, pool.port_last) = self.ports;
        (pool.block_size, pool.blocks) = (BLOCK, self.blocks as u16);
        policy.ranges[0].last = [203, 0, 113, self.addresses as u8 - 1];
        policy
    }

    fn holds(&self, (address, port): End) -> bool {
        (POOL..POOL + self.addresses).contains(&address) && (self.ports.0..=self.ports.1).contains(&port)
    }
}

/// The translator, naively.
struct Oracle {
    limits: Limits,
    now_ms: u64,
    flows: HashMap<Key, Flow>,
    mappings: HashMap<(u8, End), Mapping>,
    /// The ports in use.
    external: HashMap<(u8, End), End>,
    /// Blocks with a port in use, and whose they are: the ports in use of each protocol.
    blocks: BTreeMap<End, (u32, BTreeSet<(u8, u16)>)>,
    outcomes: BTreeMap<&'static str, u64>,
}

/// A packet on its way in.
struct Sent {
    key: Key,
    /// From inside, or to this external end.
    to: Option<End>,
    phase: Phase,
}

impl Oracle {
    fn new(limits: Limits) -> Self {
        let (flows, mappings, external) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self {
            limits,
            now_ms: 0,
            flows,
            mappings,
            external,
            blocks: BTreeMap::new(),
            outcomes: BTreeMap::new(),
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.outcomes.entry(what).or_default() += 1;
    }

    fn block_of(&self, (address, port): End) -> End {
        (address, (port - self.limits.ports.0) / BLOCK)
    }

    /// Takes the port that a new mapping got: nobody has it, and its block is the host's or was nobody's, on the address
    /// that the host has already.
    fn take(&mut self, protocol: u8, inside: End, external: End) {
        assert!(self.limits.holds(external), "{external:?} is of no pool");
        assert_eq!(self.external.insert((protocol, external), inside), None, "{external:?} is another's");
        let of_host: Vec<End> =
            self.blocks.iter().filter(|(_, (host, _))| *host == inside.0).map(|(block, _)| *block).collect();
        assert!(of_host.iter().all(|block| block.0 == external.0), "{inside:?} has another address");
        let block = self.block_of(external);
        let (host, ports) = self.blocks.entry(block).or_insert((inside.0, BTreeSet::new()));
        assert_eq!(*host, inside.0, "{block:?} is another's");
        ports.insert((protocol, external.1));
        let most = self.limits.blocks;
        let many = of_host.len() + usize::from(!of_host.contains(&block));
        assert!(most == 0 || many <= most, "{inside:?} has {many} blocks");
        self.mappings.insert((protocol, inside), Mapping { external, flows: 0, used_ms: self.now_ms });
    }

    /// Whether a host may have another port: in a block of its own, or in one that is nobody's.
    fn has_room(&self, protocol: u8, host: u32) -> bool {
        let own: Vec<_> = self.blocks.iter().filter(|(_, (of, _))| *of == host).collect();
        let in_own = own.iter().any(|(_, (_, ports))| {
            ports.iter().filter(|(of, _)| *of == protocol).count() < usize::from(BLOCK)
        });
        let (first, last) = self.limits.ports;
        let on_address = usize::from((last - first + 1) / BLOCK);
        let taken = |address| self.blocks.range((address, 0)..=(address, u16::MAX)).count();
        let another = match own.first() {
            Some(((address, _), _)) => taken(*address) < on_address,
            None => (0..self.limits.addresses).any(|n| taken(POOL + n) < on_address),
        };
        in_own || another && (self.limits.blocks == 0 || own.len() < self.limits.blocks)
    }

    /// Notes that a packet of a flow passed, which may be the first.
    fn used(&mut self, sent: &Sent) {
        let Key { protocol, inside, .. } = sent.key;
        let now_ms = self.now_ms;
        let mapping = self.mappings.get_mut(&(protocol, inside)).expect("a mapping");
        // RFC 4787 REQ-6: a UDP packet from outside keeps neither its flow nor, with a new one, the mapping.
        let counts = sent.to.is_none() || protocol == TCP;
        if counts {
            mapping.used_ms = now_ms;
        }
        let flow = self.flows.entry(sent.key).or_insert_with(|| {
            mapping.flows += 1;
            Flow { used_ms: mapping.used_ms, phase: Phase::Syn }
        });
        if counts {
            flow.used_ms = now_ms;
        }
        if protocol == TCP {
            let next = match (flow.phase, sent.phase) {
                (Phase::Syn, Phase::Answered) => Phase::Answered,
                (Phase::Answered, Phase::Open) => Phase::Open,
                (phase, _) => phase,
            };
            flow.phase = next;
        }
    }

    /// What came of a packet: the frame that left, if one did.
    fn judge(&mut self, sent: &Sent, left: Option<&(u16, Seen)>) -> Option<DropReason> {
        let Key { protocol, inside, remote } = sent.key;
        if let Some(external) = sent.to {
            if !self.external.contains_key(&(protocol, external)) {
                assert!(left.is_none(), "{external:?} is nobody's");
                self.count("to nobody");
                return Some(DropReason::NoMapping);
            }
            let (port, seen) = left.unwrap_or_else(|| panic!("{:?} of {external:?} did not pass", sent.key));
            assert_eq!((*port, end(seen.source()), end(seen.destination())), (INSIDE_PORT, remote, inside));
            self.count(if self.flows.contains_key(&sent.key) { "back" } else { "back, another remote" });
            self.used(sent);
            return None;
        }
        let known = self.mappings.get(&(protocol, inside)).map(|mapping| mapping.external);
        let Some((port, seen)) = left else {
            assert_eq!(known, None, "{:?} has a mapping and did not pass", sent.key);
            assert!(!self.has_room(protocol, inside.0), "{:?} got no port though one is free", sent.key);
            self.count("no port");
            return Some(DropReason::PortExhausted);
        };
        assert_eq!((*port, end(seen.destination())), (OUTSIDE_PORT, remote));
        let external = end(seen.source());
        match known {
            Some(known) => assert_eq!(known, external, "{:?} changed its external end", sent.key),
            None => self.take(protocol, inside, external),
        }
        self.count(match (known, self.flows.contains_key(&sent.key)) {
            (None, _) => "new mapping",
            (_, false) => "new flow",
            (_, true) => "known flow",
        });
        self.used(sent);
        None
    }

    /// Time has passed: flows end, and ports with their last one.
    fn end_flows(&mut self) {
        let is_over = |flow: &Flow| flow.used_ms + u64::from(TIMEOUT_S) * 1000 <= self.now_ms;
        let ended: Vec<Key> =
            self.flows.iter().filter(|(_, flow)| is_over(flow)).map(|(key, _)| *key).collect();
        for key in ended {
            self.flows.remove(&key);
            self.count("end");
            let of = (key.protocol, key.inside);
            let mapping = self.mappings.get_mut(&of).expect("a mapping");
            mapping.flows -= 1;
            if mapping.flows > 0 {
                continue;
            }
            let external = mapping.external;
            self.mappings.remove(&of);
            self.external.remove(&(key.protocol, external));
            let block = self.block_of(external);
            let (_, ports) = self.blocks.get_mut(&block).expect("a block");
            ports.remove(&(key.protocol, external.1));
            if ports.is_empty() {
                self.blocks.remove(&block);
            }
        }
    }

    /// The box knows the flows that the oracle knows, and no other.
    fn agree(&self, lab: &Lab) {
        let rows = (0..lab.appliance.workers()).flat_map(|worker| lab.appliance.flows(worker.into()));
        let end = |(address, port): (Address, u16)| end((address.to_ip(), port));
        let theirs: BTreeMap<Key, End> = rows
            .map(|row| {
                let key = Key { protocol: row.protocol, inside: end(row.inside), remote: end(row.remote) };
                (key, end(row.external))
            })
            .collect();
        let ours: BTreeMap<Key, End> = self
            .flows
            .keys()
            .map(|key| (*key, self.mappings[&(key.protocol, key.inside)].external))
            .collect();
        let odd: Vec<_> = theirs.iter().filter(|(key, end)| ours.get(key) != Some(end)).take(3).collect();
        let missing: Vec<_> = ours.iter().filter(|(key, end)| theirs.get(key) != Some(end)).take(3).collect();
        assert!(odd.is_empty() && missing.is_empty(), "too many: {odd:?}, missing: {missing:?}");
        for (protocol, class) in [(UDP, ProtocolClass::Udp), (TCP, ProtocolClass::Tcp)] {
            let mapped = self.external.keys().filter(|(of, _)| *of == protocol).count() as u64;
            assert_eq!(lab.appliance.counters().bindings(class).0, mapped, "bindings of {}", class.name());
        }
    }
}

/// A burst, all from inside or all from outside.
fn burst(dice: &mut Dice, oracle: &Oracle, known: &[Key], hosts: u64) -> Vec<Sent> {
    let out = dice.below(10) < 6;
    let count = 1 + dice.below(64);
    let any = |dice: &mut Dice| Key {
        protocol: dice.one(&[UDP, UDP, TCP]),
        inside: (host(dice.below(hosts)), 2000 + dice.below(400) as u16),
        remote: (server(dice.below(4)), 50 + dice.below(8) as u16),
    };
    let mut packets = Vec::new();
    for _ in 0..count {
        let key = if known.is_empty() || dice.below(4) == 0 {
            any(dice)
        } else {
            known[dice.below(known.len() as u64) as usize]
        };
        let flow = oracle.flows.get(&key);
        let phase = flow.map_or(Phase::Syn, |flow| flow.phase);
        if out {
            let phase = if phase == Phase::Syn { Phase::Syn } else { Phase::Open };
            packets.push(Sent { key, to: None, phase });
            continue;
        }
        match oracle.mappings.get(&(key.protocol, key.inside)) {
            // Of a mapping with more flows the box does not look at all, to tell when it was used last.
            Some(mapping) if key.protocol == UDP && (flow.is_some() || mapping.flows < 8) => {
                packets.push(Sent { key, to: Some(mapping.external), phase: Phase::Open });
            }
            Some(mapping) if flow.is_some() => {
                let phase = if phase == Phase::Syn { Phase::Answered } else { Phase::Open };
                packets.push(Sent { key, to: Some(mapping.external), phase });
            }
            Some(_) => {}
            None => {
                let (first, last) = oracle.limits.ports;
                let port = first + dice.below(u64::from(last - first) + 1) as u16;
                let external = (POOL + dice.below(oracle.limits.addresses.into()) as u32, port);
                if !oracle.external.contains_key(&(key.protocol, external)) {
                    packets.push(Sent { key, to: Some(external), phase: Phase::Open });
                }
            }
        }
    }
    packets
}

fn frame(sent: &Sent, number: u32) -> Vec<u8> {
    let text = |(address, port): End| (Ipv4Addr::from_bits(address).to_string(), port);
    let (from, to) = match sent.to {
        None => (text(sent.key.inside), text(sent.key.remote)),
        Some(external) => (text(sent.key.remote), text(external)),
    };
    let (from, to, payload) = ((&from.0[..], from.1), (&to.0[..], to.1), number.to_be_bytes());
    let flags = match sent.phase {
        Phase::Syn => TCP_SYN,
        Phase::Answered => TCP_SYN | TCP_ACK,
        Phase::Open => TCP_ACK,
    };
    let packet = if sent.key.protocol == UDP {
        Build::udp(from, to, &payload)
    } else {
        Build::tcp(from, to, flags, &payload)
    };
    packet.frame(if sent.to.is_none() { INSIDE_PORT } else { OUTSIDE_PORT })
}

fn run(limits: Limits, hosts: u64, seed: u64) -> BTreeMap<&'static str, u64> {
    let mut lab = Lab::sized(limits.workers, 32_768, &limits.policy());
    for number in 0..hosts {
        lab.appliance.neighbour(INSIDE_PORT, Address::v4(host(number).to_be_bytes()), OTHER_MAC);
    }
    let (mut dice, mut oracle) = (Dice(seed), Oracle::new(limits));
    let (mut known, mut packets): (Vec<Key>, u64) = (Vec::new(), 0);
    while packets < PACKETS {
        for _ in 0..BURSTS {
            let sent = burst(&mut dice, &oracle, &known, hosts);
            let Some(first) = sent.first() else { continue };
            let frames: Vec<_> = (0..).zip(&sent).map(|(number, sent)| frame(sent, number)).collect();
            let frames: Vec<_> = frames.iter().map(Vec::as_slice).collect();
            let step = lab.burst(if first.to.is_none() { INSIDE_PORT } else { OUTSIDE_PORT }, &frames);
            let left: HashMap<u32, (u16, Seen)> = step
                .sent
                .iter()
                .filter_map(|(port, frame)| {
                    let seen = see(frame);
                    let number = seen.payload().try_into().map(u32::from_be_bytes).ok()?;
                    Some((number, (*port, seen)))
                })
                .collect();
            let mut refused = BTreeMap::new();
            for (number, sent) in (0..).zip(&sent) {
                match oracle.judge(sent, left.get(&number)) {
                    Some(reason) => *refused.entry(reason.name()).or_insert(0) += 1,
                    None if dice.below(8) == 0 => known.push(sent.key),
                    None => {}
                }
            }
            // Refused for want of a port or of a block.
            let dropped = step.drops.iter().fold(BTreeMap::new(), |mut all, &(reason, count)| {
                let reason =
                    if reason == DropReason::SubscriberPorts { DropReason::PortExhausted } else { reason };
                *all.entry(reason.name()).or_insert(0) += count;
                all
            });
            assert_eq!(dropped, refused);
            assert_eq!(left.len() as u64 + refused.values().sum::<u64>(), sent.len() as u64);
            packets += sent.len() as u64;
        }
        lab.appliance.advance(PAUSE_MS, 20);
        oracle.now_ms += PAUSE_MS;
        oracle.end_flows();
        known.retain(|key| oracle.flows.contains_key(key));
        oracle.agree(&lab);
    }
    oracle.outcomes
}

/// More hosts than ports: every block is taken, given back and taken by another again and again.
#[test]
fn a_million_packets_through_a_pool_that_is_too_small() {
    let limits = Limits { workers: 1, addresses: 3, ports: (1024, 1024 + 8 * BLOCK - 1), blocks: 2 };
    let outcomes = run(limits, 20, 1);
    for what in [
        "known flow",
        "new flow",
        "new mapping",
        "no port",
        "back",
        "back, another remote",
        "to nobody",
        "end",
    ] {
        assert!(outcomes.get(what).is_some_and(|&count| count > 5000), "{what}: {outcomes:?}");
    }
}

/// Packets come to any of three workers and cross to the one that has their host.
#[test]
fn a_million_packets_through_workers_that_hand_them_over() {
    let limits = Limits { workers: 3, addresses: 4, ports: (1024, 65535), blocks: 0 };
    let outcomes = run(limits, 40, 2);
    assert_eq!(outcomes.get("no port"), None);
    assert!(outcomes["new mapping"] > 20_000, "{outcomes:?}");
}

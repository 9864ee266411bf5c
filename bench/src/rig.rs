//! One worker's engine with its tables, and the place where its time is taken.

use crate::clock::{self, ticks};
use crate::frame::{Frame, Stock};
use crate::machine;
use crate::options::{Direction, Family, FrameSize, Order, Protocol};
use crate::traffic::{
    self, Chunk, Draw, External, Generator, Headers, INSIDE, OUTSIDE, Plan, ROUTERS, Segment,
};
use std::fs::File;
use std::sync::Arc;
use turnpike_abi::command::{Kind, NeighbourSet, Slot};
use turnpike_abi::counters::{Counter, DropReason};
use turnpike_abi::table::{Action, FirewallRuleRecord, NatAction, PoolRangeRecord, SettingsRecord};
use turnpike_abi::{InterfaceId, PoolId, PortId, WorkerId};
use turnpike_engine::{Buffer, Crossed, Engine, Forwarding, Interface, Outbox, Policy, STAGE, Setup, Time};
use turnpike_shm::memory::Memory;
use turnpike_sim::station;
use turnpike_sim::tables::{ForwardingTable, PolicyTable, address};

/// Packets of a burst, if nothing else is asked for: what the dataplane takes from a queue at once.
pub const BURST: usize = 64;
/// Packets of a chunk: enough that reading the time twice does not count, few enough that their headers stay warm.
pub const CHUNK: usize = 256;
/// Packets that come in a millisecond of virtual time.
const PACKETS_A_MS: u64 = 10_000;
/// Ports that a subscriber takes from the pool, at least.
const PORTS_EACH: u64 = 512;
/// Flows there is room for in the family that a rig is not about.
const OTHER_FAMILY: usize = 64;
/// Ports of a pool address.
pub const PORTS: u64 = 64_512;

/// What the box is made for.
#[derive(Clone, Debug)]
pub struct Shape {
    /// The flows that will be opened.
    pub plan: Plan,
    /// Flows and bindings a worker can hold.
    pub capacity: u32,
    /// Numbers of flows that will occur: from 0 to this.
    pub numbers: u32,
    /// Translate IPv4.
    pub translate: bool,
    /// Ports of a block.
    pub block: u16,
    /// Addresses of the pool, if not as many as every subscriber finds its ports on.
    pub pool: Option<u32>,
    /// Rules of the firewall, from inside to outside.
    pub rules: Vec<FirewallRuleRecord>,
    /// What happens to flows from inside that no rule matches.
    pub default: Action,
    /// Seconds until an idle flow ends.
    pub timeout: u32,
    /// Seconds for which a port is held back after that.
    pub quarantine: u16,
    /// Packet buffers.
    pub buffers: usize,
}

impl Shape {
    /// A translator for `flows` flows of `plan` that never end.
    pub fn new(plan: Plan, flows: u32) -> Self {
        Self {
            plan,
            capacity: flows,
            numbers: flows,
            translate: plan.family == Family::V4,
            block: 256,
            pool: None,
            rules: Vec::new(),
            default: Action::ACCEPT,
            timeout: 100_000,
            quarantine: 0,
            buffers: 4 * CHUNK,
        }
    }

    /// Pool addresses; by default so many that every subscriber finds its ports on them.
    pub fn pool_addresses(&self) -> u32 {
        if let Some(pool) = self.pool {
            return pool;
        }
        let workers = u64::from(self.plan.workers);
        let subscribers = u64::from(self.numbers.div_ceil(self.plan.each.max(1))) * workers;
        let ports = (subscribers * PORTS_EACH).max(u64::from(self.numbers) * workers * 3 / 2);
        // A few to spare: subscribers are not spread evenly.
        (ports * 5 / 4).div_ceil(PORTS) as u32 + 1
    }

    fn interfaces() -> Vec<Interface> {
        let interface = |index| Interface { port: PortId(index), vlan: 0, mac: station(index), mtu: 1500 };
        vec![interface(INSIDE), interface(OUTSIDE)]
    }

    /// The policy, decoded.
    pub fn policy(&self) -> Result<Arc<Policy>, String> {
        let mut table = PolicyTable::default();
        let timeout = self.timeout;
        table.settings = SettingsRecord {
            udp: timeout,
            icmp: timeout,
            tcp_established: timeout,
            tcp_opening: timeout,
            tcp_closing: timeout,
            other: timeout,
            ..table.settings
        };
        table.ranges = vec![PoolRangeRecord {
            first: [198, 18, 0, 0],
            last: (u32::from_be_bytes([198, 18, 0, 0]) + self.pool_addresses() - 1).to_be_bytes(),
            pool: PoolId(0),
            ..PoolRangeRecord::default()
        }];
        for pool in &mut table.pools {
            (pool.quarantine, pool.quarantine_tcp) = (self.quarantine, self.quarantine);
            pool.block_size = self.block;
        }
        if !self.translate {
            table.nat.iter_mut().for_each(|rule| rule.action = NatAction::EXEMPT);
        }
        table.pairs.iter_mut().for_each(|pair| pair.action = self.default);
        table.rules.clone_from(&self.rules);
        Policy::decode(&table.bytes(1), &Self::interfaces())
            .map(Arc::new)
            .map_err(|fault| format!("the engine refuses the policy: {fault}"))
    }

    /// The forwarding table, decoded: a router on either side.
    pub fn forwarding(&self) -> Result<Arc<Forwarding>, String> {
        let mut table = ForwardingTable { addresses: Vec::new(), routes: Vec::new() };
        table.address("172.16.0.1", 24, INSIDE);
        table.address("2a00:3::1", 64, INSIDE);
        table.address("192.0.2.1", 24, OUTSIDE);
        table.address("2a00:4::1", 64, OUTSIDE);
        table.route("10.0.0.0", 8, Some("172.16.0.2"), INSIDE);
        table.route("2a00:1::", 32, Some("2a00:3::2"), INSIDE);
        table.route("0.0.0.0", 0, Some("192.0.2.2"), OUTSIDE);
        table.route("::", 0, Some("2a00:4::2"), OUTSIDE);
        Forwarding::decode(&table.bytes(1), &Self::interfaces())
            .map(Arc::new)
            .map_err(|fault| format!("the engine refuses the forwarding table: {fault}"))
    }
}

/// What a chunk came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Passed {
    /// Time stamp counter.
    pub ticks: u64,
    /// Packets that left.
    pub sent: usize,
}

/// The engine, and around it what a shell has.
#[derive(Debug)]
pub struct Rig {
    pub engine: Engine<Frame>,
    pub stock: Stock,
    pub shape: Shape,
    pub out: Outbox<Frame>,
    /// Virtual time.
    pub now: Time,
    /// Packets of the current millisecond.
    packets: u64,
    /// Packets that left, not yet told.
    sent: usize,
    /// Bytes that the engine asked for at its start, in two pieces.
    pub arrays: u64,
    /// External ends of the flows that were opened, by number.
    pub external: Arc<Vec<External>>,
}

impl Rig {
    /// An engine with tables and neighbours, and no flow.
    ///
    /// # Errors
    /// If it refuses them or there is no memory.
    pub fn new(shape: &Shape) -> Result<Self, String> {
        Self::over(shape, |bytes| machine::memory(bytes).map(|(memory, _)| memory))
    }

    /// A rig for `flows` flows that others read in place, the file they read, and whether it lies on 2 MB pages.
    ///
    /// # Errors
    /// As [`Rig::new`].
    pub fn readable(flows: u32) -> Result<(Self, File, bool), String> {
        let (mut file, mut huge) = (None, true);
        let rig = Self::over(&Shape::new(Plan::single(crate::napt::FLOWS_EACH), flows), |bytes| {
            let (memory, readable) = Memory::nameless("turnpike-bench", bytes, true)
                .or_else(|_| {
                    huge = false;
                    Memory::nameless("turnpike-bench", bytes, false)
                })
                .map_err(|error| format!("no memory for {bytes} bytes: {error}"))?;
            file = Some(readable);
            Ok(memory)
        })?;
        Ok((rig, file.ok_or("the engine took no memory")?, huge))
    }

    /// Small packets of any of `flows` flows in both directions, in random order, their headers warm.
    pub fn mixed(&self, flows: u32) -> Generator {
        Generator {
            plan: self.shape.plan,
            draw: Draw::new(flows, Order::Random, 1),
            direction: Direction::Mixed,
            size: FrameSize::Bytes(64),
            cold: false,
            external: Arc::clone(&self.external),
        }
    }

    /// A rig with its flows in memory that `state` gives for so many bytes.
    ///
    /// # Errors
    /// As [`Rig::new`].
    pub fn over(shape: &Shape, state: impl FnOnce(usize) -> Result<Memory, String>) -> Result<Self, String> {
        let (worker, workers) = (shape.plan.worker, shape.plan.workers);
        let stock = Stock::new(shape.buffers, usize::from(worker))?;
        let [flows, flows_v6] = match shape.plan.family {
            Family::V4 => [shape.capacity as usize, OTHER_FAMILY],
            Family::V6 => [OTHER_FAMILY, shape.capacity as usize],
        };
        let setup = Setup {
            worker: WorkerId(worker),
            workers,
            ports: 2,
            interfaces: Shape::interfaces(),
            flows,
            flows_v6,
            bindings: shape.capacity as usize,
            key: [0x5a ^ worker; 16],
        };
        let sizes = [Engine::<Frame>::state_bytes(&setup), Engine::<Frame>::private_bytes(&setup)];
        let arrays: usize = sizes.iter().sum();
        let mut state = state(sizes[0])?;
        let (mut private, _) = machine::memory(sizes[1])?;
        let mut engine =
            Engine::new(&setup, &mut state, &mut private).ok_or("the engine finds too little memory")?;
        engine.set_policy(shape.policy()?);
        engine.set_forwarding(shape.forwarding()?);
        let mut out = Outbox::new(2, 4 * CHUNK);
        for (interface, router) in
            [(INSIDE, "172.16.0.2"), (INSIDE, "2a00:3::2"), (OUTSIDE, "192.0.2.2"), (OUTSIDE, "2a00:4::2")]
        {
            let set = NeighbourSet {
                address: address(router),
                interface: InterfaceId(interface),
                mac: ROUTERS[usize::from(interface)],
            };
            engine
                .command(Time(1), &Slot::new(Kind::NEIGHBOUR_SET, 1, &set), &mut out)
                .map_err(|violation| format!("the engine refuses a neighbour: {}", violation.0))?;
        }
        out.events.clear();
        Ok(Self {
            engine,
            stock,
            shape: shape.clone(),
            out,
            now: Time(1),
            packets: 0,
            sent: 0,
            arrays: arrays as u64,
            external: Arc::new(Vec::new()),
        })
    }

    /// Hands the chunk to the engine, burst by burst, and takes the time of that. Afterwards all buffers are back.
    pub fn pass(&mut self, chunk: &mut Chunk) -> Passed {
        let from = ticks();
        self.measured(chunk);
        let ticks = ticks() - from;
        Passed { ticks, sent: core::mem::take(&mut self.sent) }
    }

    /// What is measured. Not inlined, so that callgrind can tell it from the rest.
    #[inline(never)]
    pub fn measured(&mut self, chunk: &mut Chunk) {
        for burst in &mut chunk.bursts {
            self.packets += burst.frames.len() as u64;
            self.engine.receive(
                self.now,
                PortId(burst.port),
                &mut burst.frames,
                &mut self.stock,
                &mut self.out,
            );
            self.collect();
            if self.packets >= PACKETS_A_MS {
                self.packets = 0;
                self.now.0 += 1;
                self.engine.tick(self.now, &mut self.out);
                self.collect();
            }
        }
    }

    /// The translator alone: headers are parsed before the time is taken, and nothing leaves. All buffers are back
    /// afterwards, and `sent` says how many packets were translated.
    pub fn translate(&mut self, chunk: &mut Chunk) -> Passed {
        let mut passed = Passed::default();
        for burst in &mut chunk.bursts {
            for packets in burst.frames.chunks_mut(STAGE) {
                self.engine.parse(PortId(burst.port), packets);
                let from = ticks();
                let done = self.engine.translate(self.now, packets);
                // The time is taken once for few packets, so what that costs is taken off.
                passed.ticks += (ticks() - from).saturating_sub(clock::reading());
                passed.sent += done;
            }
            self.stock.put_back(&mut burst.frames);
        }
        passed
    }

    /// Like [`Rig::pass`], for packets that crossed from other workers.
    pub fn pass_crossed(&mut self, crossed: &mut Vec<Crossed<Frame>>) -> Passed {
        let from = ticks();
        self.engine.receive_crossed(self.now, crossed, &mut self.stock, &mut self.out);
        self.collect();
        let ticks = ticks() - from;
        Passed { ticks, sent: core::mem::take(&mut self.sent) }
    }

    /// Empties the outbox, but for what crosses.
    #[inline]
    fn collect(&mut self) {
        for queue in &mut self.out.transmit {
            self.sent += queue.len();
            self.stock.put_back(queue);
        }
        self.stock.put_back(&mut self.out.freed);
        for (_, frame) in self.out.punt.drain(..) {
            self.stock.put(frame);
        }
        self.out.events.clear();
    }

    /// Lets time pass until `until`, in steps of `step` milliseconds; takes the time of that.
    pub fn advance(&mut self, until: Time, step: u64) -> u64 {
        let from = ticks();
        while self.now < until {
            self.now = Time((self.now.0 + step).min(until.0));
            self.engine.tick(self.now, &mut self.out);
            self.collect();
        }
        ticks() - from
    }

    /// Lets all flows end. Time makes a leap of their timeout.
    pub fn end_all(&mut self) {
        self.now.0 += u64::from(self.shape.timeout) * 1000 + 1000;
        while self.flows() > 0 {
            let step = Time(self.now.0 + 100);
            self.advance(step, 100);
        }
    }

    /// Live flows.
    pub fn flows(&self) -> u64 {
        use turnpike_abi::counters::ProtocolClass;
        let counters = self.engine.counters();
        let live = |class| {
            let (live, _) = counters.flows(class);
            live
        };
        live(ProtocolClass::Udp) + live(ProtocolClass::Tcp)
    }

    /// Packets dropped, by reason.
    pub fn drops(&self) -> Vec<(DropReason, u64)> {
        let counters = self.engine.counters();
        DropReason::ALL
            .iter()
            .map(|&reason| (reason, counters.drops(reason)))
            .filter(|(_, packets)| *packets > 0)
            .collect()
    }

    /// An error that names the drops, if `sent` is not `expected`.
    pub fn expect_sent(&self, sent: usize, expected: usize) -> Result<(), String> {
        if sent == expected {
            return Ok(());
        }
        let drops: Vec<_> =
            self.drops().iter().map(|(reason, packets)| format!("{} {packets}", reason.name())).collect();
        Err(format!(
            "{sent} of {expected} packets came through; dropped since the start: {}; to the kernel: {}",
            drops.join(", "),
            self.engine.counters().get(Counter::Punted)
        ))
    }

    /// Opens flows `from` to `to` with three packets, as a TCP handshake is: after that, nothing more is to be
    /// learnt about them. Notes their external ends. `took` gets ticks and packets of each chunk of first packets.
    ///
    /// # Errors
    /// If one does not open.
    pub fn open(
        &mut self,
        (from, to): (u32, u32),
        size: usize,
        mut took: impl FnMut(u64, usize),
    ) -> Result<(), String> {
        let plan = self.shape.plan;
        let mut chunk = Chunk::new(CHUNK / BURST, BURST);
        let mut external = Arc::unwrap_or_clone(core::mem::take(&mut self.external));
        if self.shape.translate && external.len() < to as usize {
            external.resize(to as usize, External::default());
        }
        let mut first = from;
        while first < to {
            let next = (first + CHUNK as u32).min(to);
            let mut number = first;
            let handshake = [(INSIDE, Segment::Syn), (OUTSIDE, Segment::SynAck), (INSIDE, Segment::Ack)];
            for (port, segment) in handshake {
                number = if segment == Segment::Syn { number } else { first };
                let mut exact = Chunk::new(1, (next - first) as usize);
                let chunk = if (next - first) as usize == CHUNK { &mut chunk } else { &mut exact };
                chunk.fill(
                    &mut self.stock,
                    |_| port,
                    |port| {
                        let ends = if port == INSIDE {
                            plan.ends(number)
                        } else {
                            plan.answer(number, external.get(number as usize).copied())
                        };
                        number += 1;
                        (number - 1, Headers::new(&plan, number - 1, &ends, segment, port, size))
                    },
                );
                let packets = (next - first) as usize;
                let passed = self.pass(chunk);
                self.expect_sent(passed.sent, packets)?;
                if segment == Segment::Syn {
                    took(passed.ticks, packets);
                    if self.shape.translate {
                        self.note_external(packets, &mut external)?;
                    }
                }
            }
            first = next;
        }
        self.external = Arc::new(external);
        Ok(())
    }

    /// Reads from the `packets` frames that left last which external ends their flows have.
    fn note_external(&self, packets: usize, external: &mut [External]) -> Result<(), String> {
        for frame in self.stock.last(packets) {
            let (_, number, end) = translated_source(frame.bytes(), self.shape.plan.protocol)
                .ok_or("a frame that left is not the packet that came")?;
            *external.get_mut(number as usize).ok_or("a packet of no flow left")? = end;
        }
        Ok(())
    }
}

/// Worker, flow number and source of a frame of [`crate::traffic`] over IPv4.
pub fn translated_source(frame: &[u8], protocol: Protocol) -> Option<(usize, u32, External)> {
    let number_at = match protocol {
        Protocol::Udp => 42,
        Protocol::Tcp => 54,
    };
    let address = frame.get(26..30)?.try_into().ok()?;
    let port = u16::from_be_bytes(frame.get(34..36)?.try_into().ok()?);
    let tag = u32::from_be_bytes(frame.get(number_at..number_at + 4)?.try_into().ok()?);
    let (worker, number) = traffic::tagged(tag);
    Some((worker, number, External { address, port }))
}

//! The packet pipeline of one worker, as a pure library: bursts in, verdicts out.
//!
//! The engine does no I/O, reads no clock, takes no lock and, after [`Engine::new`], allocates nothing on
//! the path. Time is an argument. The same code runs under DPDK, in the simulator, in the fuzzers and in
//! the benches.

#![forbid(unsafe_code)]

mod between;
mod bindings;
mod buffer;
mod classifier;
mod commands;
mod egress;
mod expiry;
mod fast;
mod flows;
mod forwarding;
mod fragments;
mod hits;
mod holes;
mod index;
mod intervals;
mod keyed;
mod neighbours;
mod opening;
mod outbox;
mod pipeline;
mod policy;
mod ports;
mod reassembly;
mod records;
mod related;
mod replies;
mod sessions;
mod tcp;
mod translate;
mod trie;
mod tuples;
mod wheel;

pub use buffer::{Buffer, BufferSource};
pub use forwarding::Forwarding;
pub use outbox::{Crossed, Outbox};
pub use policy::Policy;

use bindings::Bindings;
use fast::{Doors, GROUP, LANES, Lanes};
use flows::Flows;
use pipeline::{Tables, Worker};
use std::sync::Arc;
use turnpike_abi::command::Slot;
use turnpike_abi::counters::{Counter, Counters, DropReason};
use turnpike_abi::flow::StateLayout;
use turnpike_abi::table::{SettingsRecord, Side};
use turnpike_abi::{InterfaceId, PortId, WorkerId};
use turnpike_shm::memory::Memory;

/// Packets that move through the stages of the fast path together.
pub const STAGE: usize = LANES;

/// Milliseconds since the dataplane started. Monotonic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

/// What a worker is told at start.
#[derive(Clone, Debug)]
pub struct Setup {
    /// This worker.
    pub worker: WorkerId,
    /// How many there are.
    pub workers: u8,
    /// Ports of the dataplane.
    pub ports: usize,
    /// Every interface, by [`InterfaceId`].
    pub interfaces: Vec<Interface>,
    /// IPv4 flows this worker can hold.
    pub flows: usize,
    /// IPv6 flows this worker can hold.
    pub flows_v6: usize,
    /// Bindings this worker can hold: of up to 65536 subscribers, or an eighth as many if that is more.
    pub bindings: usize,
    /// Random key of the hash tables and of port choice, new at every start.
    pub key: [u8; 16],
}

/// A place with addresses: a port, or a VLAN of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its port.
    pub port: PortId,
    /// VLAN id, 0 for untagged.
    pub vlan: u16,
    /// Its station address.
    pub mac: [u8; 6],
    /// Largest IP packet in bytes; the policy may lower it.
    pub mtu: u16,
}

/// The control plane sent a command that no correct one sends. The shell detaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation(pub &'static str);

/// The pipeline of one worker and everything it owns.
#[derive(Debug)]
pub struct Engine<B> {
    worker: Worker<B>,
    policy: Option<Arc<Policy>>,
    forwarding: Option<Arc<Forwarding>>,
    /// Both tables, once both are there.
    tables: Option<Tables>,
    /// Of the burst that is under way.
    lanes: Lanes,
    /// By port.
    doors: Vec<Doors>,
    /// There was a pool once, and flows may be filed by their source.
    translates: bool,
}

impl<B: Buffer> Engine<B> {
    /// Takes everything the worker will need, except what new pools need ([`Engine::set_policy`]): its flows from
    /// `state`, which has [`Engine::state_bytes`] left and may be read by others, their index and the bindings from
    /// `private`, which has [`Engine::private_bytes`]. `None` if one of them has not.
    #[must_use]
    pub fn new(setup: &Setup, state: &mut Memory, private: &mut Memory) -> Option<Self> {
        Some(Self {
            worker: Worker::new(setup, state, private)?,
            policy: None,
            forwarding: None,
            tables: None,
            lanes: Lanes::new(),
            doors: Doors::of(&setup.interfaces),
            translates: false,
        })
    }

    /// Bytes of memory that the flows of a worker take.
    #[must_use]
    pub const fn state_bytes(setup: &Setup) -> usize {
        StateLayout { flows: setup.flows, flows_v6: setup.flows_v6 }.length()
    }

    /// Bytes of memory that their index and the bindings take.
    #[must_use]
    pub const fn private_bytes(setup: &Setup) -> usize {
        Flows::index_bytes(setup.flows, setup.flows_v6) + Bindings::bytes(setup)
    }

    /// Tells readers of the flows, and the process that takes them over, which moment of the wall clock `Time(0)` is,
    /// milliseconds since the epoch. To be said again as that clock is set.
    pub fn set_clock_base(&mut self, clock_base: u64) {
        self.worker.flows.set_clock_base(clock_base);
    }

    /// Takes a burst from a port. `burst` is drained; every packet of it ends in `out` or is held inside.
    pub fn receive(
        &mut self,
        now: Time,
        port: PortId,
        burst: &mut Vec<B>,
        source: &mut impl BufferSource<B>,
        out: &mut Outbox<B>,
    ) {
        self.worker.now = now;
        self.worker.counters.burst(burst.len());
        self.worker.counters.add(Counter::Received, burst.len() as u64);
        let bytes = burst.iter().map(|buffer| buffer.bytes().len() as u64).sum();
        self.worker.counters.add(Counter::ReceivedBytes, bytes);
        let Self { worker, tables, lanes, doors, .. } = self;
        let (Some(tables), Some(doors)) = (tables.as_ref(), doors.get(port.index())) else {
            for buffer in burst.drain(..) {
                worker.frame(tables.as_ref(), now, port, buffer, source, out);
            }
            return;
        };
        let refreshes = tables.policy.settings.flags & SettingsRecord::UDP_INBOUND_REFRESH != 0;
        let (came, mut long_way) = (burst.len() as u64, 0);
        let mut packets = burst.drain(..);
        while !packets.as_slice().is_empty() {
            let count = packets.as_slice().len().min(LANES);
            fast::look(lanes, packets.as_slice(), doors, &worker.flows);
            let opens = fast::guess(lanes, count, &worker.flows);
            worker.all_plain = true;
            if opens {
                fast::prepare(lanes, 0..count, false, &mut worker.bindings, &worker.flows);
            }
            // All at once, if there is nothing to prepare.
            let group = if opens { GROUP } else { LANES };
            for first in (0..count).step_by(group) {
                if first > 0 {
                    let some = first..count.min(first + 2 * group);
                    fast::prepare(lanes, some, true, &mut worker.bindings, &worker.flows);
                }
                for (at, buffer) in (first..).zip(packets.by_ref().take(group)) {
                    let Err(mut buffer) = worker.fast(now, refreshes, lanes.at(at), buffer, out) else {
                        continue;
                    };
                    if lanes.at(at).is_guessed() {
                        match worker.fast_again(now, refreshes, (lanes, at), buffer, out) {
                            Ok(()) => continue,
                            Err(back) => buffer = back,
                        }
                    }
                    long_way += 1;
                    let (lane, drawn) = (lanes.at(at), lanes.drawn(at));
                    worker.bindings.expect(drawn.and_then(|drawn| drawn.foreseen));
                    if let Some(drawn) = drawn {
                        match worker.open_plain(tables, now, (lane, drawn), buffer, source, out) {
                            Ok(()) if lanes.brought_first_block(at) => {
                                let some = at + 1..count.min(at + 1 + group);
                                fast::prepare(lanes, some, true, &mut worker.bindings, &worker.flows);
                                continue;
                            }
                            Ok(()) => continue,
                            Err(back) => buffer = back,
                        }
                    }
                    worker.all_plain = false;
                    match lane.packet() {
                        Some(packet) => worker.looked_at(tables, now, packet, buffer, source, out),
                        None => worker.frame(Some(tables), now, port, buffer, source, out),
                    }
                }
            }
        }
        worker.bindings.expect(None);
        worker.counters.add(Counter::FastPath, came - long_way);
    }

    /// For benches: headers of up to [`STAGE`] packets alone. [`Engine::translate`] goes on with them.
    pub fn parse(&mut self, port: PortId, burst: &[B]) {
        if let Some(doors) = self.doors.get(port.index()) {
            fast::parse(&mut self.lanes, burst, doors);
        }
    }

    /// For benches: the translator's stages alone, over the packets that [`Engine::parse`] looked at last. Returns
    /// how many it rewrote.
    pub fn translate(&mut self, now: Time, burst: &mut [B]) -> usize {
        self.worker.translate_burst(now, &mut self.lanes, burst)
    }

    /// Takes packets from other workers. `burst` is drained.
    pub fn receive_crossed(
        &mut self,
        now: Time,
        burst: &mut Vec<Crossed<B>>,
        source: &mut impl BufferSource<B>,
        out: &mut Outbox<B>,
    ) {
        self.worker.now = now;
        for crossed in burst.drain(..) {
            self.worker.counters.add(Counter::CrossedIn, 1);
            self.worker.crossed(self.tables.as_ref(), now, crossed, source, out);
        }
    }

    /// Sends a frame of the kernel (from the TAP twin of `interface`) as it is, tagged where the interface is a VLAN.
    pub fn inject(&mut self, interface: InterfaceId, buffer: B, out: &mut Outbox<B>) {
        self.worker.inject(interface, buffer, out);
    }

    /// Carries out a command of the control plane; answers go to `out.events`. Takes at most 257 event slots.
    ///
    /// # Errors
    /// If the command is malformed.
    pub fn command(&mut self, now: Time, slot: &Slot, out: &mut Outbox<B>) -> Result<(), Violation> {
        self.worker.now = now;
        self.worker.command(self.tables.as_ref(), now, slot, out).inspect_err(|_| {
            self.worker.counters.add(Counter::PeerViolations, 1);
        })
    }

    /// Timers: expires flows and packets that wait, in bounded steps. Call it once a millisecond or after every burst.
    pub fn tick(&mut self, now: Time, out: &mut Outbox<B>) {
        self.worker.now = now;
        while let Some(waiting) = self.worker.neighbours.expire(now) {
            self.worker.discard(waiting.buffer, DropReason::NeighbourUnresolved, out);
            self.worker.count_held();
        }
        if let Some(tables) = &self.tables {
            self.worker.bindings.ports.at(now);
            self.worker.expire_fragments(now, &tables.policy.settings, out);
            self.worker.expire(now, &tables.policy.settings);
            self.worker.look_after_pinholes(out);
        }
        self.worker.count_records();
    }

    /// Whether what the operator wants logged waits for room in the event ring.
    #[must_use]
    pub fn has_records(&self) -> bool {
        self.worker.has_records()
    }

    /// Puts what the operator wants logged into `out.events`, at most `room` of it, so that answers and news of
    /// pinholes have theirs. The rest waits; what the worker has no place for any more is lost and counted.
    pub fn send_records(&mut self, room: usize, out: &mut Outbox<B>) {
        self.worker.send_records(room, out);
    }

    /// Switches to another policy at a burst boundary; returns the one in use until now, to be freed elsewhere.
    /// Allocates port maps for pool addresses that are new, and ends bindings whose address left its pool.
    pub fn set_policy(&mut self, policy: Arc<Policy>) -> Option<Arc<Policy>> {
        self.worker.counters.set(Counter::PolicyGeneration, policy.generation());
        self.worker.counters.set(Counter::FragmentsLimit, policy.settings.fragments_waiting.into());
        let shorter = self.policy.as_ref().is_some_and(|old| policy.has_shorter_timeouts_than(old));
        if shorter {
            self.worker.flows.look_at_all();
        }
        self.worker.next_epoch();
        self.worker.want_records(&policy.settings);
        self.worker.hits.set_policy(&policy);
        self.translates |= policy.pools().next().is_some();
        let leads_inside = |on| policy.zone_of(on).is_some_and(|zone| policy.side_of(zone) == Side::INSIDE);
        let translates = self.translates;
        self.doors.iter_mut().for_each(|doors| doors.set_near(|on| translates && leads_inside(on)));
        let old = self.policy.replace(policy);
        self.join_tables();
        if let Some(tables) = &self.tables {
            self.worker.policy_changed(tables);
        }
        old
    }

    /// Switches to another forwarding table; returns the one in use until now, to be freed elsewhere.
    pub fn set_forwarding(&mut self, forwarding: Arc<Forwarding>) -> Option<Arc<Forwarding>> {
        self.worker.counters.set(Counter::ForwardingGeneration, forwarding.generation());
        self.worker.next_epoch();
        let first = self.forwarding.is_none();
        let old = self.forwarding.replace(forwarding);
        self.join_tables();
        if let (true, Some(tables)) = (first, &self.tables) {
            self.worker.policy_changed(tables);
        }
        old
    }

    fn join_tables(&mut self) {
        if let (Some(policy), Some(forwarding)) = (&self.policy, &self.forwarding) {
            self.tables = Some(Tables { policy: Arc::clone(policy), forwarding: Arc::clone(forwarding) });
        }
    }

    /// Counts packets that a TX queue took.
    pub fn sent(&mut self, packets: u64, bytes: u64) {
        self.worker.counters.add(Counter::Sent, packets);
        self.worker.counters.add(Counter::SentBytes, bytes);
    }

    /// Counts packets that a TX queue did not take; the shell frees them.
    pub fn not_sent(&mut self, packets: u64) {
        self.drops(DropReason::TxQueueFull, packets);
    }

    /// Turns punted packets that found no room into drops; the shell frees them.
    pub fn not_punted(&mut self, packets: u64) {
        self.take_back(Counter::Punted, packets);
        self.drops(DropReason::PuntRingFull, packets);
    }

    /// Turns crossed packets that found no room into drops; the shell frees them.
    pub fn not_crossed(&mut self, packets: u64) {
        self.take_back(Counter::CrossedOut, packets);
        self.drops(DropReason::CrossingRingFull, packets);
    }

    fn take_back(&mut self, counter: Counter, packets: u64) {
        let counted = self.worker.counters.get(counter);
        self.worker.counters.set(counter, counted.wrapping_sub(packets));
    }

    fn drops(&mut self, reason: DropReason, packets: u64) {
        for _ in 0..packets {
            self.worker.counters.drop_packet(reason);
        }
    }

    /// How often each firewall rule was the first to match a first packet, as the words of
    /// [`turnpike_abi::layout::stats::HITS`], if that changed since it was asked for last.
    pub fn rule_hits(&mut self) -> Option<&[u64]> {
        self.worker.hits.take()
    }

    /// The worker's counters, to publish.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.worker.counters
    }

    /// The worker's counters, for what the shell counts (cycles, rings, heartbeat).
    pub fn counters_mut(&mut self) -> &mut Counters {
        &mut self.worker.counters
    }
}

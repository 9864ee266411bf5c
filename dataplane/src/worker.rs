//! A worker thread: it polls its queues and carries packets between them and the engine. Nothing on the path
//! allocates, locks, logs or calls the kernel, but for the sleep of an idle worker.

use crate::clock::Clock;
use dpdk::{BURST, Mbuf, MbufSource, RxQueue, TxQueue, rdtsc};
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;
use turnpike_abi::command::{Kind, Slot};
use turnpike_abi::counters::Counter;
use turnpike_abi::{InterfaceId, PortId};
use turnpike_config::Poll;
use turnpike_engine::{Buffer as _, Crossed, Engine, Forwarding, Outbox, Policy, Time};
use turnpike_shm::link::WorkerLink;
use turnpike_shm::page::PageWriter;
use turnpike_shm::ring::{Broken, PushError};
use turnpike_shm::spsc::{Receiver, Sender};
use turnpike_shm::statistics::{CounterWords, HitWords};

/// What the main thread tells a worker.
#[derive(Debug)]
pub enum Order {
    /// A control plane attached, the so-manyth: serve its rings.
    Attach(u64, WorkerLink),
    /// It is gone: give the rings back.
    Detach,
    /// Switch to this policy.
    Policy(Arc<Policy>),
    /// Switch to this forwarding table.
    Forwarding(Arc<Forwarding>),
    /// End.
    Stop,
}

/// What a worker tells the main thread, mostly to have it free things.
#[derive(Debug)]
pub enum Report {
    /// The worker polls; its state file, to be read.
    Ready(File),
    /// The worker could not begin.
    Failed(String),
    /// Rings no longer used.
    Returned(WorkerLink),
    /// Rings no longer used because the control plane, the so-manyth, broke a rule.
    Violation(u64, WorkerLink, &'static str),
    /// A policy no longer used.
    OldPolicy(Arc<Policy>),
    /// A forwarding table no longer used.
    OldForwarding(Arc<Forwarding>),
}

/// A packet and the interface whose TAP twin it goes to or comes from.
pub type Exception = (InterfaceId, Mbuf);

/// A worker's ends of the channels to the other threads.
#[derive(Debug)]
pub struct Channels {
    /// From the main thread.
    pub orders: Receiver<Order>,
    /// To the main thread; longer than orders can be outstanding.
    pub reports: Sender<Report>,
    /// To the TAP twins.
    pub punt: Sender<Exception>,
    /// From the TAP twins.
    pub inject: Receiver<Exception>,
    /// To the other workers, by [`turnpike_abi::WorkerId`]; nobody crosses to himself.
    pub cross_to: Vec<Option<Sender<Crossed<Mbuf>>>>,
    /// From the other workers.
    pub cross_from: Vec<Receiver<Crossed<Mbuf>>>,
}

/// Everything a worker owns.
#[derive(Debug)]
pub struct Worker {
    queues: Vec<(RxQueue, TxQueue)>,
    engine: Engine<Mbuf>,
    source: MbufSource,
    outbox: Outbox<Mbuf>,
    channels: Channels,
    link: Option<WorkerLink>,
    /// Whose link it is, or was.
    session: u64,
    page: PageWriter<CounterWords>,
    hits: PageWriter<HitWords>,
    clock: Clock,
    poll: Poll,
    burst: Vec<Mbuf>,
    crossed: Vec<Crossed<Mbuf>>,
    injected: Vec<Exception>,
    /// Packets that found no room, to be freed.
    refused: Vec<Mbuf>,
    /// Counter up to which cycles are accounted for.
    accounted: u64,
    ticked: Time,
    published: Time,
    /// When rules' hits were.
    hits_published: Time,
    /// Counters changed since they were published.
    unpublished: bool,
}

/// Entries of each kind in the outbox: a burst with all it can set free, and the answer to a command.
const OUTBOX: usize = 2048;

/// Free event slots a command may need: 256 rows and their end, and events of packets beside them.
const ROOM_FOR_ANSWERS: usize = 300;

/// Commands taken in a row before packets are looked at again.
const COMMANDS: usize = 16;

/// Polls with packets after which orders and commands are looked at even so.
const POLLS_BETWEEN_ORDERS: u32 = 32;

/// Milliseconds between two publications of the counters.
const PUBLISH_EVERY_MS: u64 = 10;

/// Milliseconds between two publications of the firewall rules' hits, of which there may be 80 kB.
const PUBLISH_HITS_EVERY_MS: u64 = 500;

/// Empty polls before an adaptive worker goes to sleep.
const POLLS_BEFORE_SLEEP: u32 = 4096;
/// First sleep, microseconds; it doubles.
const SHORTEST_SLEEP_US: u64 = 50;
/// Longest sleep, microseconds. A queue of 512 packets fills in it at a million packets a second.
const LONGEST_SLEEP_US: u64 = 500;

impl Worker {
    /// A worker over `queues` (by port). All its memory is allocated here.
    pub fn new(
        queues: Vec<(RxQueue, TxQueue)>,
        engine: Engine<Mbuf>,
        source: MbufSource,
        channels: Channels,
        (page, hits): (PageWriter<CounterWords>, PageWriter<HitWords>),
        clock: Clock,
        poll: Poll,
    ) -> Self {
        Self {
            outbox: Outbox::new(queues.len(), OUTBOX),
            queues,
            engine,
            source,
            channels,
            link: None,
            session: 0,
            page,
            hits,
            clock,
            poll,
            burst: Vec::with_capacity(BURST),
            crossed: Vec::with_capacity(BURST),
            injected: Vec::with_capacity(BURST),
            refused: Vec::with_capacity(OUTBOX),
            accounted: rdtsc(),
            ticked: Time(0),
            published: Time(0),
            hits_published: Time(0),
            unpublished: true,
        }
    }

    /// Polls until told to stop. `state` is its state file, for those who read it.
    pub fn run(mut self, state: File) {
        self.engine.set_clock_base(self.clock.epoch_ms());
        self.report(Report::Ready(state));
        let mut span = Counter::CyclesIdle;
        let mut busy_polls = 0;
        let mut empty_polls = 0;
        let mut sleep_us = SHORTEST_SLEEP_US;
        loop {
            let begin = rdtsc();
            self.account(span, begin);
            let now = self.clock.advance(begin);
            let packets = self.packets(now);
            if packets > 0 {
                span = Counter::CyclesBusy;
                self.unpublished = true;
                busy_polls += 1;
                empty_polls = 0;
                sleep_us = SHORTEST_SLEEP_US;
            } else {
                span = Counter::CyclesIdle;
                busy_polls = POLLS_BETWEEN_ORDERS;
                empty_polls += 1;
            }
            if now != self.ticked || busy_polls >= POLLS_BETWEEN_ORDERS {
                busy_polls = 0;
                self.account(span, rdtsc());
                match self.housekeeping(now) {
                    Done::Nothing => {}
                    Done::Something => self.account(Counter::CyclesHousekeeping, rdtsc()),
                    Done::All => break,
                }
            }
            if packets == 0 {
                if self.poll == Poll::Adaptive && empty_polls >= POLLS_BEFORE_SLEEP {
                    if self.unpublished {
                        self.publish(now);
                    }
                    std::thread::sleep(Duration::from_micros(sleep_us));
                    sleep_us = (sleep_us * 2).min(LONGEST_SLEEP_US);
                } else {
                    std::hint::spin_loop();
                }
            }
        }
        if let Some(link) = self.link.take() {
            self.report(Report::Returned(link));
        }
        self.account(span, rdtsc());
        self.publish(self.clock.now());
    }

    /// Whatever waits in queues and rings, at most a burst of each. Returns the number of packets.
    #[inline]
    fn packets(&mut self, now: Time) -> usize {
        let mut packets = 0;
        for port in 0..self.queues.len() {
            let Some((rx, _)) = self.queues.get_mut(port) else { break };
            let came = rx.burst(&mut self.burst);
            if came > 0 {
                packets += came;
                let port = PortId(port as u16);
                self.engine.receive(now, port, &mut self.burst, &mut self.source, &mut self.outbox);
                self.flush();
            }
        }
        for other in 0..self.channels.cross_from.len() {
            let Some(ring) = self.channels.cross_from.get_mut(other) else { break };
            let came = ring.drain_into(&mut self.crossed, BURST);
            if came > 0 {
                packets += came;
                self.engine.receive_crossed(now, &mut self.crossed, &mut self.source, &mut self.outbox);
                self.flush();
            }
        }
        let came = self.channels.inject.drain_into(&mut self.injected, BURST);
        if came > 0 {
            packets += came;
            for (interface, packet) in self.injected.drain(..) {
                self.engine.inject(interface, packet, &mut self.outbox);
            }
            self.flush();
        }
        packets
    }

    /// Empties the outbox. Every packet ends in a queue, in a ring, or free and counted.
    #[inline]
    fn flush(&mut self) {
        for ((_, tx), packets) in self.queues.iter_mut().zip(&mut self.outbox.transmit) {
            if packets.is_empty() {
                continue;
            }
            let bytes = length(packets);
            let took = tx.burst(packets);
            self.engine.sent(took as u64, bytes - length(packets));
            if !packets.is_empty() {
                self.engine.not_sent(packets.len() as u64);
                Mbuf::free_bulk(packets);
            }
        }
        for exception in self.outbox.punt.drain(..) {
            if let Err((_, packet)) = self.channels.punt.push(exception) {
                self.engine.not_punted(1);
                self.refused.push(packet);
            }
        }
        for (worker, crossed) in self.outbox.cross.drain(..) {
            let ring = self.channels.cross_to.get_mut(worker.index()).and_then(Option::as_mut);
            let refused = match ring {
                Some(ring) => ring.push(crossed).err(),
                None => Some(crossed),
            };
            if let Some(crossed) = refused {
                self.engine.not_crossed(1);
                self.refused.push(crossed.into_buffer());
            }
        }
        if !self.refused.is_empty() {
            Mbuf::free_bulk(&mut self.refused);
        }
        if !self.outbox.freed.is_empty() {
            Mbuf::free_bulk(&mut self.outbox.freed);
        }
        if !self.outbox.events.is_empty() {
            self.send_events();
        }
    }

    /// Events that nobody can take are counted, never waited for.
    fn send_events(&mut self) {
        let (mut sent, mut lost, mut broken) = (0, 0, false);
        for event in self.outbox.events.drain(..) {
            match self.link.as_mut().map(|link| link.send(&event)) {
                Some(Ok(())) => sent += 1,
                Some(Err(PushError::Full)) | None => lost += 1,
                Some(Err(PushError::Broken)) => {
                    lost += 1;
                    broken = true;
                }
            }
        }
        self.engine.counters_mut().add(Counter::Events, sent);
        self.engine.counters_mut().add(Counter::EventsDropped, lost);
        if broken {
            self.ring_broken();
        }
    }

    /// What the operator wants logged, as far as it leaves room for answers. Without anybody to take it, it waits.
    fn send_records(&mut self) {
        let Some(link) = &mut self.link else { return };
        match link.free() {
            Ok(free) => {
                self.engine.send_records(free.saturating_sub(ROOM_FOR_ANSWERS), &mut self.outbox);
                self.flush();
            }
            Err(Broken) => self.ring_broken(),
        }
    }

    /// Timers, orders, commands, publication.
    fn housekeeping(&mut self, now: Time) -> Done {
        let mut done = Done::Nothing;
        if now != self.ticked {
            self.ticked = now;
            self.engine.tick(now, &mut self.outbox);
            self.flush();
            if self.engine.has_records() {
                self.send_records();
            }
            done = Done::Something;
        }
        // One at a time: a new policy takes a while, and packets wait meanwhile.
        if let Some(order) = self.channels.orders.pop() {
            done = Done::Something;
            self.unpublished = true;
            if !self.obey(order) {
                return Done::All;
            }
        }
        if self.commands(now) {
            self.unpublished = true;
            done = Done::Something;
        }
        if now.0 - self.published.0 >= PUBLISH_EVERY_MS {
            self.publish(now);
            done = Done::Something;
        }
        done
    }

    /// `false`: stop.
    fn obey(&mut self, order: Order) -> bool {
        match order {
            Order::Attach(session, link) => {
                self.session = session;
                if let Some(old) = self.link.replace(link) {
                    self.report(Report::Returned(old));
                }
            }
            Order::Detach => {
                if let Some(link) = self.link.take() {
                    self.report(Report::Returned(link));
                }
            }
            Order::Policy(policy) => {
                if let Some(old) = self.engine.set_policy(policy) {
                    self.report(Report::OldPolicy(old));
                }
            }
            Order::Forwarding(forwarding) => {
                if let Some(old) = self.engine.set_forwarding(forwarding) {
                    self.report(Report::OldForwarding(old));
                }
            }
            Order::Stop => return false,
        }
        true
    }

    /// Carries out commands while their answers have room. `true` if there was one.
    fn commands(&mut self, now: Time) -> bool {
        let mut any = false;
        for _ in 0..COMMANDS {
            let Some(link) = &mut self.link else { break };
            let slot = match next_command(link) {
                Ok(Some(slot)) => slot,
                Ok(None) => break,
                Err(Broken) => {
                    self.ring_broken();
                    return true;
                }
            };
            any = true;
            let result = self.engine.command(now, &slot, &mut self.outbox);
            self.flush();
            if let Err(violation) = result {
                // The engine has counted it.
                self.put_out(violation.0);
                break;
            }
            // Rows cost as much as all the others together.
            if matches!(slot.header.kind, Kind::WALK | Kind::LOOK) {
                break;
            }
        }
        any
    }

    #[cold]
    fn ring_broken(&mut self) {
        self.engine.counters_mut().add(Counter::PeerViolations, 1);
        self.put_out("a ring index is out of bounds");
    }

    /// Stops serving a control plane that broke a rule.
    #[cold]
    fn put_out(&mut self, why: &'static str) {
        if let Some(link) = self.link.take() {
            self.report(Report::Violation(self.session, link, why));
        }
    }

    /// The channel is longer than orders can be outstanding and each order has one report at most; were it full
    /// even so, what is in the report is freed here.
    fn report(&mut self, report: Report) {
        drop(self.channels.reports.push(report));
    }

    #[inline]
    fn account(&mut self, span: Counter, until: u64) {
        self.engine.counters_mut().add(span, until.wrapping_sub(self.accounted));
        self.accounted = until;
    }

    fn publish(&mut self, now: Time) {
        self.published = now;
        self.unpublished = false;
        self.engine.counters_mut().set(Counter::HeartbeatMs, self.clock.wall_clock_ms());
        self.engine.set_clock_base(self.clock.epoch_ms());
        self.page.publish(self.engine.counters().words());
        if now.0 - self.hits_published.0 >= PUBLISH_HITS_EVERY_MS
            && let Some(words) = self.engine.rule_hits()
        {
            self.hits_published = now;
            self.hits.publish_first(words);
        }
    }
}

/// What housekeeping came to.
enum Done {
    Nothing,
    Something,
    /// The order to stop.
    All,
}

fn next_command(link: &mut WorkerLink) -> Result<Option<Slot>, Broken> {
    if !link.has_command()? || !link.has_room(ROOM_FOR_ANSWERS)? {
        return Ok(None);
    }
    link.command()
}

fn length(packets: &[Mbuf]) -> u64 {
    packets.iter().map(|packet| packet.bytes().len() as u64).sum()
}

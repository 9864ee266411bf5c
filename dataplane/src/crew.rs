//! The workers as the main thread sees them.

use crate::clock::Clock;
use crate::failure::{Doing as _, Failure};
use crate::privileges;
use crate::state::{Directory, StateFile};
use crate::worker::{Channels, Exception, Order, Report, Worker};
use dpdk::{Eal, Mbuf, Mempool, RxQueue, TxQueue};
use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;
use std::thread::JoinHandle;
use turnpike_abi::WorkerId;
use turnpike_config::Config;
use turnpike_engine::{Crossed, Engine, Interface, Setup};
use turnpike_shm::link::WorkerLink;
use turnpike_shm::memory::{HUGE, Memory};
use turnpike_shm::spsc::{Receiver, Sender, channel};
use turnpike_shm::statistics::Statistics;

/// Packets in a ring between a worker and the main thread, or two workers.
const PACKETS: usize = 512;
/// Orders on their way to a worker.
const ORDERS: usize = 64;
/// Reports on their way back: more than orders that can be taken between two looks of the main thread.
const REPORTS: usize = 4 * ORDERS;

/// All workers.
#[derive(Debug)]
pub struct Crew {
    members: Vec<Member>,
    /// Control planes that attached.
    sessions: u64,
    /// The workers' state files, to be read by control planes.
    states: Vec<File>,
}

#[derive(Debug)]
struct Member {
    name: String,
    thread: JoinHandle<()>,
    orders: Sender<Order>,
    /// Orders that found no room.
    backlog: VecDeque<Order>,
    reports: Receiver<Report>,
    punt: Receiver<Exception>,
    inject: Sender<Exception>,
}

/// What every worker is made from.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// DPDK, which workers register with.
    pub eal: &'a Arc<Eal>,
    /// Packet buffers.
    pub pool: &'a Mempool,
    /// Where counters are published.
    pub statistics: &'a Statistics,
    /// Time.
    pub clock: &'a Clock,
    /// Interfaces, by id.
    pub interfaces: &'a [Interface],
    /// Where flows lie.
    pub state: &'a Directory,
}

impl Crew {
    /// Starts a thread for each core and waits until all of them poll.
    ///
    /// # Errors
    /// If a thread cannot be made, pinned or registered with DPDK. Those that started have ended by then.
    pub fn start(plan: &Plan<'_>, queues: Vec<Vec<(RxQueue, TxQueue)>>) -> Result<Self, Failure> {
        let count = queues.len();
        let mut crossings = crossings(count);
        let mut crew = Self { members: Vec::with_capacity(count), sessions: 0, states: Vec::new() };
        for (index, queues) in queues.into_iter().enumerate() {
            let crossing = crossings.pop_front().unwrap_or_default();
            crew.members.push(Member::start(plan, index as u8, queues, crossing)?);
        }
        crew.wait_until_ready()?;
        Ok(crew)
    }

    /// Engines allocate their tables first, which can take a while.
    fn wait_until_ready(&mut self) -> Result<(), Failure> {
        for member in &mut self.members {
            loop {
                match member.reports.pop() {
                    Some(Report::Ready(state)) => {
                        self.states.push(state);
                        break;
                    }
                    Some(Report::Failed(why)) => {
                        return Err(Failure::Worker(format!("{} ({why})", member.name)));
                    }
                    Some(_) => {}
                    None if member.thread.is_finished() && member.reports.is_empty() => {
                        return Err(Failure::Worker(member.name.clone()));
                    }
                    None => std::thread::park_timeout(std::time::Duration::from_millis(1)),
                }
            }
        }
        Ok(())
    }

    /// The workers' state files, in order.
    pub fn states(&self) -> &[File] {
        &self.states
    }

    /// Gives each worker the order that `order` makes for it.
    pub fn order(&mut self, mut order: impl FnMut() -> Order) {
        for member in &mut self.members {
            member.order(order());
        }
    }

    /// Gives each worker its link to the control plane.
    pub fn attach(&mut self, links: Vec<WorkerLink>) {
        self.sessions += 1;
        for (member, link) in self.members.iter_mut().zip(links) {
            member.order(Order::Attach(self.sessions, link));
        }
    }

    /// Whether every worker has taken its orders. Until then nothing more is taken from a control plane: tables
    /// come faster than workers switch, and those on their way hold memory.
    pub fn is_settled(&self) -> bool {
        self.members.iter().all(|member| member.backlog.is_empty() && member.orders.is_empty())
    }

    /// Takes the workers' reports and frees what they gave back. Returns what the control plane that attached last
    /// did wrong, if it did; one before it has left by then.
    ///
    /// # Errors
    /// If a worker has ended.
    pub fn listen(&mut self) -> Result<Option<&'static str>, Failure> {
        let mut violation = None;
        for member in &mut self.members {
            while let Some(report) = member.reports.pop() {
                match report {
                    Report::Violation(session, link, why) => {
                        drop(link);
                        tracing::warn!(worker = member.name, "the control plane broke a rule: {why}");
                        if session == self.sessions {
                            violation = Some(why);
                        }
                    }
                    Report::Returned(link) => drop(link),
                    Report::OldPolicy(policy) => drop(policy),
                    Report::OldForwarding(forwarding) => drop(forwarding),
                    Report::Ready(_) | Report::Failed(_) => {}
                }
            }
            member.post_backlog();
            if member.thread.is_finished() {
                return Err(Failure::Worker(member.name.clone()));
            }
        }
        Ok(violation)
    }

    /// Takes at most `max` packets for the TAP twins from each worker.
    pub fn take_punted(&mut self, packets: &mut Vec<Exception>, max: usize) {
        for member in &mut self.members {
            member.punt.drain_into(packets, max);
        }
    }

    /// Hands a packet from a TAP twin to the first worker, which sends it.
    ///
    /// # Errors
    /// Hands it back if there is no room.
    pub fn inject(&mut self, exception: Exception) -> Result<(), Exception> {
        match self.members.first_mut() {
            Some(first) => first.inject.push(exception),
            None => Err(exception),
        }
    }
}

/// Tells all to stop and waits for them. Packets in rings are freed.
impl Drop for Crew {
    fn drop(&mut self) {
        for member in &mut self.members {
            member.order(Order::Stop);
        }
        for mut member in self.members.drain(..) {
            while !member.thread.is_finished() {
                member.post_backlog();
                // Full rings must not keep a worker from its orders: it never waits for them.
                std::thread::park_timeout(std::time::Duration::from_micros(200));
            }
            if member.thread.join().is_err() {
                tracing::error!("{} panicked", member.name);
            }
        }
    }
}

/// A worker's ends of the rings to and from the others.
#[derive(Debug, Default)]
struct Crossing {
    to: Vec<Option<Sender<Crossed<Mbuf>>>>,
    from: Vec<Receiver<Crossed<Mbuf>>>,
}

/// A ring from each worker to each other one.
fn crossings(count: usize) -> VecDeque<Crossing> {
    let mut crossings: VecDeque<Crossing> = (0..count).map(|_| Crossing::default()).collect();
    for from in 0..count {
        for to in 0..count {
            let ends = (from != to).then(|| channel(PACKETS));
            let (sender, receiver) =
                ends.map_or((None, None), |(sender, receiver)| (Some(sender), Some(receiver)));
            if let Some(crossing) = crossings.get_mut(from) {
                crossing.to.push(sender);
            }
            if let (Some(crossing), Some(receiver)) = (crossings.get_mut(to), receiver) {
                crossing.from.push(receiver);
            }
        }
    }
    crossings
}

impl Member {
    fn start(
        plan: &Plan<'_>,
        index: u8,
        queues: Vec<(RxQueue, TxQueue)>,
        crossing: Crossing,
    ) -> Result<Self, Failure> {
        let name = format!("worker-{index}");
        let config = plan.config;
        let core = config.dataplane.cores.get(usize::from(index)).copied().unwrap_or_default();
        let (orders, order_end) = channel(ORDERS);
        let (mut report_end, reports) = channel(REPORTS);
        let (punt_end, punt) = channel(PACKETS);
        let (inject, inject_end) = channel(PACKETS);
        let failure = |_| Failure::Statistics(name.clone());
        let page = plan.statistics.worker(WorkerId(index)).map_err(failure)?;
        let hits = plan.statistics.hits(WorkerId(index)).map_err(failure)?;
        let mut key = [0; 16];
        rustix::rand::getrandom(&mut key, rustix::rand::GetRandomFlags::empty())
            .doing(|| "cannot have random numbers".to_owned())?;
        let setup = Setup {
            worker: WorkerId(index),
            workers: config.dataplane.cores.len() as u8,
            ports: config.ports.len(),
            interfaces: plan.interfaces.to_vec(),
            flows: config.dataplane.flows as usize,
            flows_v6: config.dataplane.flows_v6 as usize,
            bindings: config.dataplane.bindings as usize,
            key,
        };
        let (eal, source) = (Arc::clone(plan.eal), plan.pool.source());
        let (file, no_huge) = (plan.state.file(index), config.dataplane.no_huge);
        let (clock, poll) = (plan.clock.clone(), config.dataplane.poll);
        let body = move || {
            // The thread first, so that all its memory comes from its own node.
            let registration = match prepare(core, &eal) {
                Ok(registration) => registration,
                Err(why) => {
                    drop(report_end.push(Report::Failed(why)));
                    return;
                }
            };
            let (engine, state) = match tables(&setup, &file, no_huge) {
                Ok(made) => made,
                Err(why) => {
                    drop(report_end.push(Report::Failed(why)));
                    return;
                }
            };
            let channels = Channels {
                orders: order_end,
                reports: report_end,
                punt: punt_end,
                inject: inject_end,
                cross_to: crossing.to,
                cross_from: crossing.from,
            };
            let worker = Worker::new(queues, engine, source, channels, (page, hits), clock, poll);
            worker.run(state);
            drop(registration);
        };
        let thread = std::thread::Builder::new()
            .name(name.clone())
            .spawn(body)
            .doing(|| format!("cannot start {name}"))?;
        tracing::info!(worker = name, core, "worker starts");
        Ok(Self { name, thread, orders, backlog: VecDeque::new(), reports, punt, inject })
    }

    fn order(&mut self, order: Order) {
        self.backlog.push_back(order);
        self.post_backlog();
    }

    fn post_backlog(&mut self) {
        while let Some(order) = self.backlog.pop_front() {
            if let Err(order) = self.orders.push(order) {
                self.backlog.push_front(order);
                break;
            }
        }
    }
}

/// The worker's pipeline, its flows in the state file, their index and the bindings in memory of this process alone:
/// of hugepages unless the operator wants none.
fn tables(setup: &Setup, file: &StateFile, no_huge: bool) -> Result<(Engine<Mbuf>, File), String> {
    let (state, private) = (Engine::<Mbuf>::state_bytes(setup), Engine::<Mbuf>::private_bytes(setup));
    let short = |error: std::io::Error| {
        let pages = state.div_ceil(HUGE) + private.div_ceil(HUGE);
        let (flows, flows_v6) = (setup.flows, setup.flows_v6);
        let wanted =
            format!("no memory for {flows} IPv4 and {flows_v6} IPv6 flows in {}", file.path().display());
        if no_huge {
            let mib = (state + private).div_ceil(1 << 20);
            return format!("{wanted}: {mib} MiB are needed ({error}); lower `flows` and `flows_v6`");
        }
        format!(
            "{wanted}: {pages} free hugepages of 2 MiB are needed beside those of `memory` ({error}); reserve more of \
             them (vm.nr_hugepages), lower `flows` and `flows_v6`, or set `no_huge`"
        )
    };
    let (mut state, readable) = file.take(state).map_err(short)?;
    let private = if no_huge { Memory::ordinary(private) } else { Memory::huge(private) };
    let engine = Engine::new(setup, &mut state, &mut private.map_err(short)?);
    Ok((engine.ok_or("the flow table does not fit its own size")?, readable))
}

/// Pins the calling thread, gives up its rights and makes it known to DPDK.
fn prepare(core: u16, eal: &Eal) -> Result<dpdk::Registration, String> {
    if !core_affinity::set_for_current(core_affinity::CoreId { id: usize::from(core) }) {
        return Err(format!("cannot be pinned to core {core}"));
    }
    privileges::for_worker().map_err(|failure| failure.to_string())?;
    eal.register_thread().map_err(|error| error.to_string())
}

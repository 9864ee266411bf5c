//! Several workers in one process, each on its processor, each making its own packets.
//!
//! With steering, as a device's receive-side scaling does it, a worker gets the packets of its own flows. Without,
//! it gets those of everybody's, and most of them cross to their owners by rings between the threads.

use crate::clock::{hz, ticks};
use crate::frame::Frame;
use crate::machine::{self, Resident};
use crate::napt::FLOWS_EACH;
use crate::options::{Order, count, short};
use crate::report::{Cell, Report, Table};
use crate::rig::{BURST, CHUNK, Rig, Shape, translated_source};
use crate::spread::Spread;
use crate::traffic::{Chunk, Draw, External, Headers, INSIDE, OUTSIDE, Plan, Segment};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use turnpike_abi::counters::Counter;
use turnpike_engine::{Buffer, Crossed};
use turnpike_shm::spsc::{self, Receiver, Sender};
use turnpike_sim::packets::see;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Numbers of workers, each on a processor of its own.
    #[arg(long, value_delimiter = ',', default_value = "2")]
    pub workers: Vec<u8>,
    /// Flows of each worker.
    #[arg(long, value_parser = count, default_value = "1M")]
    pub flows: u32,
    /// Order of the flows.
    #[arg(long, default_value = "random")]
    pub order: Order,
    /// Chunks of 256 packets that each worker is measured with.
    #[arg(long, default_value_t = 2048)]
    pub chunks: usize,
    /// Fail if the workers together carry less than this many times what one does.
    #[arg(long, value_name = "TIMES")]
    pub at_least: Option<f64>,
}

/// Chunks in a row with all workers, then as many with the first alone.
const TURN: usize = 64;
/// Room of a ring between two threads.
const RING: usize = 4096;
/// Of so many chunks one is looked at, packet by packet, against what should have come out.
const LOOK_AT: usize = 16;

/// A worker's ends of the rings to the others and back.
struct Crossing {
    to: Vec<Option<Sender<Crossed<Frame>>>>,
    from: Vec<Receiver<Crossed<Frame>>>,
    /// Buffers go home.
    home: Vec<Option<Sender<Frame>>>,
    returned: Vec<Receiver<Frame>>,
}

fn crossings(workers: usize) -> Vec<Crossing> {
    let empty = || Crossing {
        to: (0..workers).map(|_| None).collect(),
        from: Vec::new(),
        home: (0..workers).map(|_| None).collect(),
        returned: Vec::new(),
    };
    let mut all: Vec<Crossing> = (0..workers).map(|_| empty()).collect();
    for from in 0..workers {
        for to in (0..workers).filter(|&to| to != from) {
            let (sender, receiver) = spsc::channel(RING);
            all[from].to[to] = Some(sender);
            all[to].from.push(receiver);
            let (sender, receiver) = spsc::channel(2 * RING);
            all[from].home[to] = Some(sender);
            all[to].returned.push(receiver);
        }
    }
    all
}

/// What all workers know.
struct Common {
    workers: usize,
    steered: bool,
    options: Options,
    barrier: Barrier,
    /// By worker and flow.
    external: Mutex<Vec<Arc<Vec<External>>>>,
    /// Workers that make no more packets.
    done: AtomicUsize,
    plans: Vec<Plan>,
}

/// What a worker found.
#[derive(Debug, Default)]
struct Found {
    /// Ticks a packet that this worker got, with all workers at it.
    together: Spread,
    /// Ticks a packet that crossed to this worker.
    taken: Spread,
    /// Likewise with the first alone; of the first.
    alone: Spread,
    crossed: u64,
    received: u64,
    /// Packets that were looked at and were right.
    right: u64,
    /// What the process's memory lay on meanwhile.
    pages: String,
}

struct Worker<'a> {
    common: &'a Common,
    index: usize,
    rig: Rig,
    crossing: Crossing,
    external: Vec<Arc<Vec<External>>>,
    draw: Draw,
    turn: u64,
    crossed: Vec<Crossed<Frame>>,
    found: Found,
    /// Packets that left.
    sent: u64,
}

impl Worker<'_> {
    /// Packets of this worker's own flows, or of anybody's.
    fn fill(&mut self, chunk: &mut Chunk) {
        let Self { common, index, rig, external, draw, turn, .. } = self;
        // Both directions by turns, burst by burst.
        chunk.fill(
            &mut rig.stock,
            |burst| [INSIDE, OUTSIDE][burst % 2],
            |port| {
                let number = draw.next();
                *turn += 1;
                let owner = if common.steered { *index } else { *turn as usize % common.workers };
                let plan = &common.plans[owner];
                let ends = if port == INSIDE {
                    plan.ends(number)
                } else {
                    plan.answer(number, external[owner].get(number as usize).copied())
                };
                (number, Headers::new(plan, number, &ends, Segment::Ack, port, 64))
            },
        );
    }

    /// One chunk through the engine, and into the rings what crosses. Returns ticks.
    fn step(&mut self, chunk: &mut Chunk) -> Result<u64, String> {
        let passed = self.rig.pass(chunk);
        let mut spent = passed.ticks;
        self.sent += passed.sent as u64;
        let from = ticks();
        for (to, crossed) in self.rig.out.cross.drain(..) {
            let ring = self.crossing.to.get_mut(to.index()).and_then(Option::as_mut);
            let refused = match ring {
                Some(ring) => ring.push(crossed).err(),
                None => Some(crossed),
            };
            if refused.is_some() {
                return Err("a packet crossed to a worker with a full ring, or to none".to_owned());
            }
        }
        spent += ticks() - from;
        Ok(spent)
    }

    /// Packets that others got and this worker owns.
    fn take_crossed(&mut self) {
        for ring in &mut self.crossing.from {
            let from = ticks();
            let came = ring.drain_into(&mut self.crossed, BURST);
            if came > 0 {
                let drained = ticks() - from;
                let passed = self.rig.pass_crossed(&mut self.crossed);
                self.sent += passed.sent as u64;
                self.found.taken.add(drained + passed.ticks, came);
            }
        }
    }

    /// Looks at frames that left.
    fn look(&mut self, frames: usize) -> Result<(), String> {
        for frame in self.rig.stock.last(frames) {
            let seen = see(frame.bytes());
            let (worker, number, source) = translated_source(frame.bytes(), self.common.plans[0].protocol)
                .ok_or("a strange frame left")?;
            let ends = self.common.plans[worker].ends(number);
            let external = self.external[worker][number as usize];
            let outward = seen.destination() == (ends.destination.to_ip(), ends.destination_port);
            let right = if outward {
                source == external
            } else {
                seen.destination() == (ends.source.to_ip(), ends.source_port)
                    && seen.source() == (ends.destination.to_ip(), ends.destination_port)
            };
            if worker != self.index || !right {
                return Err(format!(
                    "flow {number} of worker {worker} left worker {} as {seen:?}",
                    self.index
                ));
            }
            self.found.right += 1;
        }
        Ok(())
    }

    /// Buffers of others go home, one's own come back.
    fn trade(&mut self) {
        for (home, ring) in self.crossing.home.iter_mut().enumerate() {
            if let Some(ring) = ring {
                let room = ring.free();
                self.rig.stock.send_home(home, room, |frame| ring.push(frame));
            }
        }
        for ring in &mut self.crossing.returned {
            while let Some(frame) = ring.pop() {
                self.rig.stock.put(frame);
            }
        }
    }

    /// Whether the rings take a whole chunk, and there are buffers for it.
    fn may_go_on(&mut self, packets: usize) -> bool {
        self.rig.stock.len() >= packets
            && self.crossing.to.iter_mut().flatten().all(|ring| ring.free() >= packets)
    }

    /// All workers side by side, by turns with the first alone.
    fn run_steered(&mut self) -> Result<(), String> {
        let mut chunk = Chunk::new(CHUNK / BURST, BURST);
        let packets = chunk.packets();
        for _ in 0..self.common.options.chunks.div_ceil(TURN) {
            self.common.barrier.wait();
            for number in 0..TURN {
                self.fill(&mut chunk);
                let sent = self.sent;
                let spent = self.step(&mut chunk)?;
                self.found.together.add(spent, packets);
                if number % LOOK_AT == 0 {
                    self.look((self.sent - sent) as usize)?;
                }
            }
            self.common.barrier.wait();
            for _ in 0..if self.index == 0 { TURN } else { 0 } {
                self.fill(&mut chunk);
                let spent = self.step(&mut chunk)?;
                self.found.alone.add(spent, packets);
            }
        }
        Ok(())
    }

    /// All workers side by side, each with everybody's packets. Nobody waits for the others but for room in a ring,
    /// and meanwhile takes what comes.
    fn run_crossing(&mut self) -> Result<(), String> {
        let mut chunk = Chunk::new(CHUNK / BURST, BURST);
        let packets = chunk.packets();
        for number in 0..self.common.options.chunks {
            while !self.may_go_on(packets) {
                self.take_crossed();
                self.trade();
                thread::yield_now();
            }
            self.fill(&mut chunk);
            let spent = self.step(&mut chunk)?;
            self.found.together.add(spent, packets);
            let sent = self.sent;
            for _ in 0..CHUNK / BURST {
                self.take_crossed();
            }
            if number % LOOK_AT == 0 {
                self.look((self.sent - sent) as usize)?;
            }
            self.trade();
        }
        Ok(())
    }

    fn run(&mut self) -> Result<(), String> {
        let common = self.common;
        let received = self.rig.engine.counters().get(Counter::Received);
        if common.steered {
            self.run_steered()?;
        } else {
            self.run_crossing()?;
        }
        // What still crosses is waited for.
        common.done.fetch_add(1, Ordering::SeqCst);
        loop {
            let all = common.done.load(Ordering::SeqCst) == common.workers;
            self.take_crossed();
            self.trade();
            if all && self.crossing.from.iter().all(Receiver::is_empty) {
                break;
            }
            thread::yield_now();
        }
        let dropped = self.rig.engine.counters().total_drops();
        if dropped > 0 {
            return Err(format!("{dropped} packets were dropped: {:?}", self.rig.drops()));
        }
        let counters = self.rig.engine.counters();
        self.found.crossed = counters.get(Counter::CrossedOut);
        self.found.received = counters.get(Counter::Received) - received;
        self.found.pages = Resident::now().pages();
        Ok(())
    }
}

fn work(common: &Common, index: usize, crossing: Crossing, cpus: &[usize]) -> Result<Found, String> {
    machine::pin(cpus, index)?;
    let shape =
        Shape { buffers: 4 * CHUNK + 2 * RING, ..Shape::new(common.plans[index], common.options.flows) };
    let mut rig = Rig::new(&shape)?;
    rig.open((0, common.options.flows), 64, |_, _| ())?;
    common.external.lock().map_err(|_| "another worker failed")?[index] = Arc::clone(&rig.external);
    common.barrier.wait();
    let external = common.external.lock().map_err(|_| "another worker failed")?.clone();
    let mut worker = Worker {
        common,
        index,
        rig,
        crossing,
        external,
        draw: Draw::new(common.options.flows, common.options.order, 1 + index as u64),
        turn: index as u64,
        crossed: Vec::with_capacity(CHUNK),
        found: Found::default(),
        sent: 0,
    };
    worker.run()?;
    Ok(worker.found)
}

/// All workers, with steering or without.
fn measure(workers: u8, steered: bool, options: &Options, cpus: &[usize]) -> Result<Vec<Found>, String> {
    let count = usize::from(workers);
    let common = Common {
        workers: count,
        steered,
        options: options.clone(),
        barrier: Barrier::new(count),
        external: Mutex::new(vec![Arc::default(); count]),
        done: AtomicUsize::new(0),
        plans: (0..workers).map(|worker| Plan { worker, workers, ..Plan::single(FLOWS_EACH) }).collect(),
    };
    let common = &common;
    thread::scope(|scope| {
        let threads: Vec<_> = crossings(count)
            .into_iter()
            .enumerate()
            .map(|(index, crossing)| {
                scope.spawn(move || {
                    // The others wait for it at a barrier: a failure ends the program.
                    work(common, index, crossing, cpus).unwrap_or_else(|error| {
                        eprintln!("error: worker {index}: {error}");
                        std::process::exit(1);
                    })
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| "a worker failed".to_owned())).collect()
    })
}

/// Measures all rows.
///
/// # Errors
/// If there are fewer processors than workers, a packet is wrong, or the rate too low.
pub fn run(options: &Options, cpus: &[usize], report: &mut Report) -> Result<(), String> {
    let columns = [
        ("workers", "workers"),
        ("steering", "steering"),
        ("together", "cycles/packet"),
        ("taken", "and one that crossed"),
        ("alone", "one alone"),
        ("mpps", "Mpps together"),
        ("times", "times one"),
        ("crossed", "crossed, %"),
        ("right", "packets looked at, all right"),
    ];
    let mut table = Table::new("scale: workers side by side, mixed directions", &columns);
    machine::describe(&mut table);
    table.condition(
        "packets",
        format!(
            "64 bytes UDP, headers warm, {} order, {} flows a worker, bursts of {BURST}, median (p10..p90)",
            options.order.name(),
            short(options.flows)
        ),
    );
    let mut pages = String::new();
    let mut short_of = None;
    for &workers in &options.workers {
        if usize::from(workers) > cpus.len() {
            return Err(format!("{workers} workers need as many processors; there are {}", cpus.len()));
        }
        let mut alone = 0.0;
        for steered in [true, false] {
            report
                .note(&format!("scale: {workers} workers, steering {}", if steered { "on" } else { "off" }));
            let mut found = measure(workers, steered, options, cpus)?;
            let crossed: u64 = found.iter().map(|found| found.crossed).sum();
            let received: u64 = found.iter().map(|found| found.received).sum();
            let share = crossed as f64 / received as f64;
            // As many packets cross to a worker as cross from it.
            let cost = |found: &mut Found| found.together.quantile(0.5) + share * found.taken.quantile(0.5);
            let rate: f64 = found.iter_mut().map(|found| hz() / cost(found)).sum();
            let (mut together, mut taken) = (Spread::default(), Spread::default());
            found.iter().for_each(|found| together.merge(&found.together));
            found.iter().for_each(|found| taken.merge(&found.taken));
            let alone_cell = if steered {
                let summary = found[0].alone.summary();
                alone = hz() / summary.median;
                summary.into()
            } else {
                Cell::None
            };
            if steered && crossed > 0 {
                return Err(format!("{crossed} of {received} packets crossed in spite of steering"));
            }
            pages.clone_from(&found[0].pages);
            let times = rate / alone;
            if steered && options.at_least.is_some_and(|least| times < least) {
                short_of = Some(times);
            }
            table.row(vec![
                u64::from(workers).into(),
                if steered { "on" } else { "off" }.into(),
                together.summary().into(),
                if steered { Cell::None } else { taken.summary().into() },
                alone_cell,
                Cell::Number(rate / 1e6, 1),
                Cell::Number(times, 2),
                Cell::Number(share * 100.0, 1),
                found.iter().map(|found| found.right).sum::<u64>().into(),
            ]);
        }
    }
    table.condition("pages", pages);
    report.table(&table);
    match short_of {
        Some(times) => Err(format!("the workers carry {times:.2} times what one does, which is too little")),
        None => Ok(()),
    }
}

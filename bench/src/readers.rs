//! What it costs a worker that its flows are read in place, and how long a reader takes for all of them.

use crate::clock::hz;
use crate::machine;
use crate::options::{count, short};
use crate::report::{Cell, Report, Table};
use crate::rig::{BURST, CHUNK, Rig};
use crate::spread::Spread;
use crate::traffic::Chunk;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use turnpike_abi::WorkerId;
use turnpike_shm::state::{Place, StateView};

/// Places that a reader looks at before it asks whether it is still its turn.
const STEP: usize = 1024;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Numbers of flows.
    #[arg(long, value_delimiter = ',', value_parser = count, default_value = "64k,1M,10M")]
    pub flows: Vec<u32>,
    /// Threads that read at once, each all flows again and again.
    #[arg(long, default_value_t = 1)]
    pub readers: usize,
    /// Turns, each of 64 chunks of 256 packets with readers and 64 without.
    #[arg(long, default_value_t = 64)]
    pub turns: usize,
}

/// Chunks of a turn.
const TURN: usize = 64;

/// What the worker and the readers tell each other.
#[derive(Debug, Default)]
struct Signals {
    /// It is the readers' turn.
    read: AtomicBool,
    /// All is done.
    end: AtomicBool,
    /// Readers at work.
    at_work: AtomicU64,
    /// Flows read.
    rows: AtomicU64,
    /// Time spent reading, nanoseconds.
    nanoseconds: AtomicU64,
}

/// Reads all flows over and over while told to.
fn reader(view: &StateView, signals: &Signals) {
    let mut place = 0;
    while !signals.end.load(Ordering::Acquire) {
        if !signals.read.load(Ordering::Acquire) {
            thread::yield_now();
            continue;
        }
        signals.at_work.fetch_add(1, Ordering::AcqRel);
        let (began, mut rows) = (Instant::now(), 0);
        while signals.read.load(Ordering::Acquire) {
            for _ in 0..STEP {
                match std::hint::black_box(view.flow(place, 1)) {
                    Place::Flow(_) => rows += 1,
                    Place::Empty => {}
                    Place::Outside => {
                        place = 0;
                        continue;
                    }
                }
                place += 1;
            }
        }
        let spent = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        signals.nanoseconds.fetch_add(spent, Ordering::AcqRel);
        signals.rows.fetch_add(rows, Ordering::AcqRel);
        signals.at_work.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Has the readers begin or end, and waits until they have.
fn turn(signals: &Signals, readers: u64) -> Result<(), String> {
    signals.read.store(readers > 0, Ordering::Release);
    let deadline = Instant::now() + Duration::from_secs(10);
    while signals.at_work.load(Ordering::Acquire) != readers {
        if Instant::now() > deadline {
            return Err("the readers do not run: see --cpus".to_owned());
        }
        thread::yield_now();
    }
    Ok(())
}

/// All flows once, alone: rows and seconds.
fn once(view: &StateView) -> (u64, f64) {
    let began = Instant::now();
    let mut rows = 0;
    for place in 0..view.places() {
        rows += u64::from(matches!(std::hint::black_box(view.flow(place, 1)), Place::Flow(_)));
    }
    (rows, began.elapsed().as_secs_f64())
}

/// Without and with readers.
fn measure(
    rig: &mut Rig,
    flows: u32,
    options: &Options,
    signals: &Signals,
    readers: u64,
) -> Result<[Spread; 2], String> {
    let mut chunk = Chunk::new(CHUNK / BURST, BURST);
    let packets = chunk.packets();
    let mut generator = rig.mixed(flows);
    let mut spreads = [0; 2].map(|_| Spread::with_capacity(options.turns * TURN));
    for _ in 0..options.turns {
        for (spread, readers) in spreads.iter_mut().zip([0, readers]) {
            turn(signals, readers)?;
            for _ in 0..TURN {
                generator.fill(&mut chunk, &mut rig.stock);
                let passed = rig.pass(&mut chunk);
                rig.expect_sent(passed.sent, packets)?;
                spread.add(passed.ticks, packets);
            }
        }
    }
    turn(signals, 0)?;
    Ok(spreads)
}

/// Measures all rows.
///
/// # Errors
/// If a packet does not come through, or there are too few processors or too little memory.
pub fn run(options: &Options, cpus: &[usize], report: &mut Report) -> Result<(), String> {
    let columns = [
        ("flows", "flows"),
        ("alone", "alone, cycles/packet"),
        ("read", "while read"),
        ("ratio", "ratio"),
        ("once", "all flows once, s"),
        ("row", "row, cycles"),
    ];
    let mut table = Table::new("readers: whole engine, its flows read in place by another thread", &columns);
    machine::describe(&mut table);
    let (readers, turns) = (options.readers.max(1), options.turns);
    table.condition(
        "packets",
        format!("64 bytes, both directions, random order, warm, {turns} turns of {TURN} chunks of {CHUNK}, median (p10..p90)"),
    );
    table.condition("readers", format!("{readers}, each all flows again and again, without a pause"));
    for &flows in &options.flows {
        report.note(&format!("readers: {} flows", short(flows)));
        let (mut rig, file, huge) = Rig::readable(flows)?;
        let view = StateView::map(file.into(), WorkerId(rig.shape.plan.worker))
            .map_err(|error| format!("the engine's flows cannot be read: {error}"))?;
        rig.open((0, flows), 64, |_, _| ())?;
        let signals = Signals::default();
        let mut spreads = thread::scope(|scope| {
            for index in 0..readers {
                let (view, signals) = (view.clone(), &signals);
                scope.spawn(move || match machine::pin(cpus, 1 + index) {
                    Ok(()) => reader(&view, signals),
                    // The worker finds out that it does not begin.
                    Err(error) => eprintln!("error: {error}"),
                });
            }
            let measured = measure(&mut rig, flows, options, &signals, readers as u64);
            signals.end.store(true, Ordering::Release);
            signals.read.store(false, Ordering::Release);
            measured
        })?;
        let (rows, seconds) = once(&view);
        if rows != u64::from(flows) {
            return Err(format!("{rows} of {flows} flows were read"));
        }
        let [alone, read] = spreads.each_mut().map(Spread::summary);
        let spent = signals.nanoseconds.load(Ordering::Acquire) as f64 / 1e9;
        let row = spent * hz() / signals.rows.load(Ordering::Acquire).max(1) as f64;
        table.row(vec![
            short(flows).into(),
            alone.into(),
            read.into(),
            Cell::Number(read.median / alone.median, 3),
            Cell::Number(seconds, 3),
            Cell::Number(row, 0),
        ]);
        if Some(&flows) == options.flows.last() {
            table.condition("pages", format!("of the flows {}", machine::pages(huge)));
        }
    }
    report.table(&table);
    Ok(())
}

//! The real processes: packets through `turnpike-dataplane` (configured by a real `turnpike-controlplane`) from port
//! to port, beside `dpdk-testpmd` on the same ports as the ceiling and nftables in the kernel as what people have.

mod boxes;
mod generator;
mod host;
mod search;

use crate::machine;
use crate::report::{Cell, Report, Table};
use crate::spread::Spread;
use boxes::{Kind, Plan};
use generator::{Direction, Latency, Outcome, Tester};
use host::Lab;
use search::{Bound, Step};
use std::path::PathBuf;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Boxes to measure, in turn.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "turnpike,testpmd,nftables")]
    boxes: Vec<Kind>,
    /// How often each of them is measured anew.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Length of a trial.
    #[arg(long, default_value_t = 500)]
    milliseconds: u64,
    /// Attempts of which one must lose nothing for a rate to count: on a shared machine others take the processor away.
    #[arg(long, default_value_t = 3)]
    attempts: u32,
    /// Flows; each packet belongs to a random one.
    #[arg(long, default_value = "64k", value_parser = crate::options::count)]
    flows: u32,
    /// Bytes of the frames, check sequence included.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(64..=1518))]
    size: u16,
    /// Which way packets go.
    #[arg(long, value_enum, default_value = "mixed")]
    direction: Direction,
    /// Packets a port's ring holds, as a power of two: 10 is 1024.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u8).range(8..=14))]
    ring: u8,
    /// Processor of the generator and of everything but the box's forwarding, then that of the latter.
    #[arg(long, value_delimiter = ',', default_value = "0,1")]
    cores: Vec<usize>,
    /// Priority of generator and box, as of nice(1): against what else runs on their processors.
    #[arg(long, default_value_t = 0, allow_hyphen_values = true, value_parser = clap::value_parser!(i8).range(-20..=19))]
    nice: i8,
    /// Where Turnpike's and the generator's binaries are; left out: where this one is.
    #[arg(long, value_name = "DIR")]
    bin: Option<PathBuf>,
    /// Name of the lab: its namespaces and its directory in /run are called after it.
    #[arg(long, default_value = "bench")]
    name: String,
}

/// Shares of the highest rate without loss at which latency is measured.
const LOADS: [f64; 3] = [0.1, 0.5, 0.9];
/// The search ends when the highest rate is known this well.
const PRECISION: f64 = 0.02;
/// A rate counts as offered from this share of it on: on a shared machine the generator, too, loses its processor.
const OFFERED: f64 = 0.9;
/// The search begins here, packets a second.
const FIRST_RATE: f64 = 100_000.0;
/// Flows set up in a second before anything is measured.
const LEARN_RATE: f64 = 50_000.0;

/// Everything measured of one kind of box.
#[derive(Debug)]
struct Results {
    kind: Kind,
    driver: String,
    /// Packets a second without loss, by round.
    rates: Spread,
    /// How often the generator, not the box, ended the search.
    bounded_by_generator: usize,
    /// By load: rate and latencies.
    latencies: [[Spread; 5]; LOADS.len()],
}

/// Measures and prints two tables.
///
/// # Errors
/// If a process cannot be started, or a box forwards nothing.
pub fn run(options: &Options, report: &mut Report) -> Result<(), String> {
    let plan = plan(options)?;
    let lab = Lab::new(&options.name, options.nice, plan.hugepages())?;
    let mut results: Vec<Results> =
        options.boxes.iter().map(|&kind| Results::new(kind, options.rounds)).collect();
    for round in 1..=options.rounds {
        for of_kind in &mut results {
            let name = of_kind.kind.name();
            let rate = measure(&lab, &plan, options, of_kind).map_err(|why| format!("{name}: {why}"))?;
            report.note(&format!("round {round}: {name} {:.0} packets/s", rate));
        }
    }
    report.table(&rates(&plan, options, &mut results));
    report.table(&latencies(&plan, options, &mut results));
    Ok(())
}

fn plan(options: &Options) -> Result<Plan, String> {
    let beside = || std::env::current_exe().ok().and_then(|path| path.parent().map(PathBuf::from));
    let bin = options.bin.clone().or_else(beside).ok_or("where are the binaries? Say it with --bin")?;
    let &[generator_core, box_core] = &options.cores[..] else {
        return Err("--cores takes two processors: the generator's and the box's".to_owned());
    };
    Ok(Plan { bin, flows: options.flows, size: options.size, ring: options.ring, generator_core, box_core })
}

/// One round of one box. Returns its highest rate without loss.
fn measure(lab: &Lab, plan: &Plan, options: &Options, results: &mut Results) -> Result<f64, String> {
    let mut started = boxes::start(results.kind, lab, plan)?;
    let tester = &mut started.tester;
    results.driver.clone_from(&tester.driver);
    // Enough for the processes to come up, then a packet a flow, twice.
    let patience = 20_000 + (2.0 * f64::from(options.flows) / LEARN_RATE * 1000.0) as u64;
    let learned = tester.learn(LEARN_RATE, patience)?;
    if learned < options.flows {
        return Err(format!(
            "of {} flows {learned} came through in {} s; see the logs in {}",
            options.flows,
            patience / 1000,
            lab.directory().display()
        ));
    }
    // The box looks for its neighbours, and everybody's caches fill.
    tester.trial(FIRST_RATE / 10.0, 500, options.direction)?;
    let found = search::highest(FIRST_RATE, PRECISION, |rate| attempt(tester, options, rate))?;
    if found.bound == Bound::Generator {
        results.bounded_by_generator += 1;
    }
    results.rates.add(found.rate as u64, 1);
    for (load, spreads) in LOADS.iter().zip(&mut results.latencies) {
        let outcome = tester.trial(found.rate * load, 2 * options.milliseconds, options.direction)?;
        let Latency { p50, p99, p999, max } = outcome.latency_ns;
        for (spread, value) in spreads.iter_mut().zip([outcome.rate as u64, p50, p99, p999, max]) {
            spread.add(value, 1);
        }
    }
    Ok(found.rate)
}

/// Whether a rate passes without loss, within the allowed attempts.
fn attempt(tester: &mut Tester, options: &Options, rate: f64) -> Result<Step, String> {
    let mut step = Step::Lossy;
    for _ in 0..options.attempts.max(1) {
        let outcome = tester.trial(rate, options.milliseconds, options.direction)?;
        if outcome.wrong > 0 {
            return Err(format!("{} packets came out with the wrong addresses or ports", outcome.wrong));
        }
        step = step.or(judge(rate, &outcome));
        if matches!(step, Step::Lossless(_)) {
            break;
        }
    }
    Ok(step)
}

fn judge(rate: f64, outcome: &Outcome) -> Step {
    if outcome.received < outcome.sent {
        Step::Lossy
    } else if outcome.rate < rate * OFFERED {
        Step::NotOffered(outcome.rate)
    } else {
        Step::Lossless(outcome.rate)
    }
}

impl Results {
    fn new(kind: Kind, rounds: usize) -> Self {
        let spread = || Spread::with_capacity(rounds);
        Self {
            kind,
            driver: String::new(),
            rates: spread(),
            bounded_by_generator: 0,
            latencies: std::array::from_fn(|_| std::array::from_fn(|_| spread())),
        }
    }
}

fn conditions(table: &mut Table, plan: &Plan, options: &Options) {
    machine::describe(table);
    table.condition(
        "cores",
        format!(
            "{} forwards and nothing else; {} has the generator, the control plane, the kernel and all other threads; nice {}",
            plan.box_core, plan.generator_core, options.nice
        ),
    );
    table.condition(
        "traffic",
        format!(
            "UDP, {} flows, order random, {} bytes, {}, headers warm (the port's driver has just copied them); packet memory on 2 MB pages",
            crate::options::short(plan.flows),
            plan.size,
            options.direction.name()
        ),
    );
    table.condition(
        "trials",
        format!(
            "{} rounds of all boxes in turn, {} ms a trial, a rate passes if one of {} attempts loses nothing; rings of {}",
            options.rounds,
            options.milliseconds,
            options.attempts,
            1u32 << plan.ring
        ),
    );
}

fn rates(plan: &Plan, options: &Options, results: &mut [Results]) -> Table {
    let mut table = Table::new(
        "Packets a second without loss, port to port",
        &[
            ("box", "box"),
            ("does", "does"),
            ("ports", "ports"),
            ("packets_per_second", "packets/s (p10..p90)"),
            ("of_ceiling", "of testpmd"),
            ("generator_bound", "rounds bound by the generator"),
        ],
    );
    conditions(&mut table, plan, options);
    // A rate that the generator could not exceed says nothing of the box, nor does a ratio to it.
    let bound = |of_kind: &Results| of_kind.bounded_by_generator * 2 > options.rounds;
    let ceiling = results
        .iter_mut()
        .find(|of_kind| of_kind.kind == Kind::Testpmd && !bound(of_kind))
        .map(|of_kind| of_kind.rates.summary().median);
    for of_kind in results {
        let bounded = bound(of_kind);
        let summary = of_kind.rates.summary();
        table.row(vec![
            of_kind.kind.name().into(),
            of_kind.kind.does().into(),
            of_kind.driver.clone().into(),
            summary.into(),
            ceiling
                .filter(|_| !bounded)
                .map_or(Cell::None, |ceiling| Cell::Number(summary.median / ceiling, 2)),
            (of_kind.bounded_by_generator as u64).into(),
        ]);
    }
    table
}

fn latencies(plan: &Plan, options: &Options, results: &mut [Results]) -> Table {
    let mut table = Table::new(
        "Latency through the box, microseconds",
        &[
            ("box", "box"),
            ("load", "load"),
            ("packets_per_second", "packets/s"),
            ("p50_us", "p50"),
            ("p99_us", "p99"),
            ("p999_us", "p99.9"),
            ("max_us", "max"),
        ],
    );
    conditions(&mut table, plan, options);
    table.condition("load", "share of the box's own rate without loss; medians of the rounds");
    for of_kind in results {
        for (load, spreads) in LOADS.iter().zip(&mut of_kind.latencies) {
            let [rate, latencies @ ..] = spreads;
            let mut cells = vec![
                of_kind.kind.name().into(),
                format!("{:.0} %", load * 100.0).into(),
                Cell::Number(rate.quantile(0.5), 0),
            ];
            cells.extend(latencies.iter_mut().map(|spread| Cell::Number(spread.quantile(0.5) / 1000.0, 1)));
            table.row(cells);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_is_judged_by_loss_first() {
        let outcome = |sent, received, rate| Outcome { sent, received, rate, ..Outcome::default() };
        assert_eq!(judge(1000.0, &outcome(500, 500, 999.0)), Step::Lossless(999.0));
        assert_eq!(judge(1000.0, &outcome(500, 499, 1000.0)), Step::Lossy);
        assert_eq!(judge(1000.0, &outcome(400, 400, 800.0)), Step::NotOffered(800.0));
        assert_eq!(judge(1000.0, &outcome(400, 399, 800.0)), Step::Lossy);
    }
}

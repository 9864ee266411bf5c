//! Port allocation: what a new binding costs while its block fills up to the last port.

use crate::machine;
use crate::options::Protocol;
use crate::report::{Cell, Report, Table};
use crate::rig::{Rig, Shape};
use crate::spread::Spread;
use crate::traffic::{Chunk, Headers, INSIDE, Plan, Segment};
use turnpike_shm::measure::refusing;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Times that a pool address is filled.
    #[arg(long, default_value_t = 50)]
    pub rounds: usize,
    /// Fail if a port at 99 % costs more than this many times what it costs at 10 %.
    #[arg(long, value_name = "TIMES")]
    pub at_most: Option<f64>,
}

/// Ports of a block, as the default pool has them.
const BLOCK: u32 = 256;
/// Blocks of a pool address: as many subscribers.
const BLOCKS: u32 = 252;
/// Occupancy from and to, percent.
const SHARES: [(u32, u32); 5] = [(5, 15), (45, 55), (85, 95), (98, 99), (99, 100)];

/// Measures all rows.
///
/// # Errors
/// If a port is refused while there are free ones, or costs too much.
pub fn run(options: &Options, report: &mut Report) -> Result<(), String> {
    let columns = [
        ("occupied", "ports of each block in use, %"),
        ("opened", "new flow, cycles"),
        ("ratio", "to the first row"),
    ];
    let mut table = Table::new("ports: new bindings while every block of a pool address fills up", &columns);
    machine::describe(&mut table);
    table.condition(
        "pool",
        format!(
            "one address, {BLOCKS} subscribers by turns, a block of {BLOCK} ports each; median (p10..p90)"
        ),
    );
    let plan = Plan { protocol: Protocol::Udp, ..Plan::single(BLOCK) };
    let flows = BLOCK * BLOCKS;
    let mut rig = Rig::new(&Shape { pool: Some(1), timeout: 60, ..Shape::new(plan, flows) })?;
    let mut spreads = SHARES.map(|_| Spread::default());
    // One port of every block, so that all are equally full.
    let mut chunk = Chunk::new(4, BLOCKS as usize / 4);
    for _ in 0..options.rounds {
        for port in 0..BLOCK {
            let mut subscriber = 0;
            chunk.fill(
                &mut rig.stock,
                |_| INSIDE,
                |on| {
                    let number = subscriber * BLOCK + port;
                    subscriber += 1;
                    (number, Headers::new(&plan, number, &plan.ends(number), Segment::Syn, on, 64))
                },
            );
            let passed = refusing("the engine, at a new binding,", || rig.pass(&mut chunk));
            rig.expect_sent(passed.sent, BLOCKS as usize)?;
            let percent = port * 100 / BLOCK;
            for (spread, (from, to)) in spreads.iter_mut().zip(SHARES) {
                if (from..to).contains(&percent) {
                    spread.add(passed.ticks, BLOCKS as usize);
                }
            }
        }
        rig.end_all();
    }
    let mut first = None;
    let mut last = 0.0;
    for (mut spread, (from, to)) in spreads.into_iter().zip(SHARES) {
        let opened = spread.summary();
        let base = *first.get_or_insert(opened.median);
        last = opened.median / base;
        table.row(vec![format!("{from} to {to}").into(), opened.into(), Cell::Number(last, 2)]);
    }
    report.table(&table);
    match options.at_most {
        Some(most) if last > most => {
            Err(format!("at 99 % a port costs {last:.2} times what it does at 10 %"))
        }
        _ => Ok(()),
    }
}

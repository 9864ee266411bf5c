//! Established flows through the translator, each row beside the limit, measured by turns.

use crate::frame::Stock;
use crate::limit::Probe;
use crate::machine::{self, Resident};
use crate::options::{Direction, FrameSize, HeaderCache, Order, count, short};
use crate::report::{Cell, Report, Table};
use crate::rig::{BURST, CHUNK, Rig, Shape};
use crate::spread::Spread;
use crate::traffic::{Chunk, Draw, Generator, Plan};
use std::sync::Arc;
use turnpike_shm::measure::refusing;

/// Flows of a subscriber.
pub const FLOWS_EACH: u32 = 64;
/// Chunks in a row before the other's turn comes: long enough that each has the caches to itself, short against
/// changes of the machine's load.
const TURN: usize = 64;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Numbers of flows.
    #[arg(long, value_delimiter = ',', value_parser = count, default_value = "1,64k,1M,4M,10M")]
    pub flows: Vec<u32>,
    /// Directions.
    #[arg(long, value_delimiter = ',', default_value = "in2out,out2in,mixed")]
    pub direction: Vec<Direction>,
    /// Orders.
    #[arg(long, value_delimiter = ',', default_value = "random,sequential")]
    pub order: Vec<Order>,
    /// Frame sizes: bytes with the check sequence, or imix.
    #[arg(long, value_delimiter = ',', default_value = "64")]
    pub size: Vec<FrameSize>,
    /// Headers in the caches or not.
    #[arg(long, value_delimiter = ',', default_value = "warm")]
    pub headers: Vec<HeaderCache>,
    /// Flows of an inside end, which share its binding.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(FLOWS_EACH)))]
    pub share: u32,
    /// Packets of a burst.
    #[arg(long, default_value_t = BURST, value_parser = burst)]
    pub burst: usize,
    /// Chunks of 256 packets that are measured for each row, of the engine and of the limit.
    #[arg(long, default_value_t = 2048)]
    pub chunks: usize,
}

/// Reads a burst size.
///
/// # Errors
/// If it is not between 1 and 256.
pub fn burst(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=CHUNK).contains(number));
    number.ok_or_else(|| format!("a burst has 1 to {CHUNK} packets, not {text}"))
}

/// One of the things measured by turns: its own packets, its own samples.
#[derive(Debug)]
pub struct Lane<'a> {
    pub generator: &'a mut Generator,
    pub spread: Spread,
}

impl Lane<'_> {
    /// Makes a chunk, has `pass` process it, and notes the ticks that it says it took.
    pub fn chunk(
        &mut self,
        chunk: &mut Chunk,
        stock: &mut Stock,
        pass: impl FnOnce(&mut Chunk, &mut Stock) -> Result<u64, String>,
    ) -> Result<(), String> {
        self.generator.fill(chunk, stock);
        let ticks = pass(chunk, stock)?;
        self.spread.add(ticks, chunk.packets());
        Ok(())
    }
}

/// What one row is about.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub flows: u32,
    pub direction: Direction,
    pub order: Order,
    pub size: FrameSize,
    pub headers: HeaderCache,
    pub burst: usize,
    pub chunks: usize,
}

/// Translator, whole engine and limit, by turns.
fn measure(row: &Row, rig: &mut Rig, probe: &mut Probe, stock: &mut Stock) -> Result<[Spread; 3], String> {
    let mut chunk = Chunk::new(CHUNK.div_ceil(row.burst), row.burst);
    // Both directions are in a chunk of two bursts or more.
    if row.direction == Direction::Mixed && chunk.bursts.len() < 2 {
        chunk = Chunk::new(2, row.burst);
    }
    let generator = Generator {
        plan: rig.shape.plan,
        draw: Draw::new(row.flows, row.order, 1),
        direction: row.direction,
        size: row.size,
        cold: row.headers == HeaderCache::Cold,
        external: Arc::clone(&rig.external),
    };
    // Other flows for the whole engine than those the translator alone has just had in the caches.
    let others = Generator { draw: Draw::new(row.flows, row.order, 2), ..generator.clone() };
    let mut generators = [generator.clone(), others, generator];
    let [stage, engine, limit] = &mut generators;
    let mut lanes = [stage, engine, limit]
        .map(|generator| Lane { generator, spread: Spread::with_capacity(row.chunks + TURN) });
    let packets = chunk.packets();
    for _ in 0..row.chunks.div_ceil(TURN) {
        let [stage, engine, limit] = &mut lanes;
        for _ in 0..TURN {
            stage.generator.fill(&mut chunk, &mut rig.stock);
            let passed = rig.translate(&mut chunk);
            // Where two flows share what the index knows of them, one of them is looked for once more, outside of the stage. Flows
            // of one inside end differ in a byte of it only.
            let least = if rig.shape.plan.share == 1 { 98 } else { 95 };
            if passed.sent * 100 < packets * least {
                rig.expect_sent(passed.sent, packets)?;
            }
            stage.spread.add(passed.ticks, packets);
        }
        for _ in 0..TURN {
            engine.generator.fill(&mut chunk, &mut rig.stock);
            let passed = refusing("the engine, at a packet,", || rig.pass(&mut chunk));
            rig.expect_sent(passed.sent, packets)?;
            engine.spread.add(passed.ticks, packets);
        }
        for _ in 0..TURN {
            limit.chunk(&mut chunk, stock, |chunk, stock| Ok(probe.pass(chunk, stock)))?;
        }
    }
    Ok(lanes.map(|lane| lane.spread))
}

/// Measures all rows.
///
/// # Errors
/// If a packet does not come through, or there is no memory.
pub fn run(options: &Options, report: &mut Report) -> Result<(), String> {
    let columns = [
        ("flows", "flows"),
        ("direction", "direction"),
        ("order", "order"),
        ("size", "bytes"),
        ("headers", "headers"),
        ("nat_stage", "NAT stage, cycles/packet"),
        ("limit", "limit"),
        ("ratio", "NAT/limit"),
        ("engine", "whole engine"),
        ("on_top", "on top"),
        ("engine_ratio", "engine/limit"),
        ("mpps", "Mpps"),
    ];
    let name = match options.share {
        1 => "napt: established UDP flows, one worker".to_owned(),
        share => format!("napt: established UDP flows, {share} of each inside end"),
    };
    let mut table = Table::new(name, &columns);
    machine::describe(&mut table);
    table.condition(
        "packets",
        format!("bursts of {}, {} chunks of {CHUNK} a row, median (p10..p90)", options.burst, options.chunks),
    );
    for &flows in &options.flows {
        report.note(&format!("napt: {} flows", short(flows)));
        let before = Resident::now();
        let plan = Plan { share: options.share, ..Plan::single(FLOWS_EACH) };
        let mut rig = Rig::new(&Shape::new(plan, flows))?;
        rig.open((0, flows), 64, |_, _| ())?;
        let engine_pages = Resident::now().since(&before).pages();
        let mut probe = Probe::new(flows)?;
        let mut stock = Stock::new(4 * CHUNK, 0)?;
        if Some(&flows) == options.flows.last() {
            table.condition(
                "pages",
                format!("engine {engine_pages}; limit {}; packet buffers {}", probe.pages(), stock.pages()),
            );
        }
        for &order in &options.order {
            // With one flow there is one order.
            if flows == 1 && order != options.order[0] {
                continue;
            }
            for &direction in &options.direction {
                for &size in &options.size {
                    for &headers in &options.headers {
                        let (burst, chunks) = (options.burst, options.chunks);
                        let row = Row { flows, direction, order, size, headers, burst, chunks };
                        let mut spreads = measure(&row, &mut rig, &mut probe, &mut stock)?;
                        let [stage, engine, limit] = spreads.each_mut().map(Spread::summary);
                        // The translator alone gets headers that were parsed just before: they are never cold.
                        let warm = |cell| if headers == HeaderCache::Warm { cell } else { Cell::None };
                        table.row(vec![
                            short(flows).into(),
                            direction.name().into(),
                            order.name().into(),
                            size.to_string().into(),
                            headers.name().into(),
                            warm(stage.into()),
                            limit.into(),
                            warm(Cell::Number(stage.median / limit.median, 2)),
                            engine.into(),
                            warm(Cell::Number(engine.median - stage.median, 0)),
                            Cell::Number(engine.median / limit.median, 2),
                            Cell::Number(crate::clock::hz() / engine.median / 1e6, 1),
                        ]);
                    }
                }
            }
        }
    }
    report.table(&table);
    Ok(())
}

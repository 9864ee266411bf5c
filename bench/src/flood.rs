//! Attacks: a flood of new flows ten times as many as the table holds, and tuples chosen to collide.

use crate::machine::{self, Resident};
use crate::napt::FLOWS_EACH;
use crate::options::{Direction, FrameSize, Order, count, short};
use crate::report::{Cell, Report, Table};
use crate::rig::{BURST, CHUNK, Rig, Shape};
use crate::spread::Spread;
use crate::traffic::{
    Chunk, Draw, Ends, External, Generator, Headers, INSIDE, OUTSIDE, Pattern, Plan, Segment, mix,
};
use std::sync::Arc;
use turnpike_abi::Address;
use turnpike_shm::measure::refusing;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Flows the table can hold; half of them are established before the flood.
    #[arg(long, value_parser = count, default_value = "256k")]
    pub capacity: u32,
    /// New flows in the flood, as a multiple of the capacity.
    #[arg(long, default_value_t = 10)]
    pub times: u32,
    /// Flows of each pattern of tuples.
    #[arg(long, value_parser = count, default_value = "64k")]
    pub patterns: u32,
    /// Chunks of 256 packets that are measured for each pattern.
    #[arg(long, default_value_t = 1024)]
    pub chunks: usize,
}

/// Chunks in a row with the flood, then without.
const TURN: usize = 32;

/// Where the flood comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// A few subscribers open flows without end.
    Subscribers,
    /// Packets from everywhere to every port of the pool.
    World,
}

/// A packet of the flood that no flow knows. The subscribers are others than those of the established flows.
fn flood_packet(source: Source, established: &Plan, pool: u32, number: u32) -> (u16, Ends) {
    let mixed = mix(u64::from(number) << 3);
    match source {
        Source::Subscribers => {
            let hosts = Plan { each: 60_000, ..*established };
            // 60 000 ports of each host, behind the last address of the established ones.
            let mut ends = hosts.ends(number % 60_000);
            let host = (0x0b00_0000 - 1 - number / 60_000).to_be_bytes();
            ends.source = Address::v4(host);
            ends.source_port = 1024 + (number % 60_000) as u16;
            (INSIDE, ends)
        }
        Source::World => {
            let destination = u32::from_be_bytes([198, 18, 0, 0]) + (mixed >> 40) as u32 % pool;
            let [_, b, c, d] = (mixed as u32).to_be_bytes();
            let ends = Ends {
                source: Address::v4([9, b, c, d]),
                source_port: 53,
                destination: Address::v4(destination.to_be_bytes()),
                destination_port: 1024 + ((mixed >> 32) % 64_512) as u16,
            };
            (OUTSIDE, ends)
        }
    }
}

struct Flooded {
    quiet: Spread,
    under: Spread,
    flood: Spread,
    offered: u64,
    arrived: u64,
    packets: u64,
    reasons: String,
    grown: u64,
}

/// Established flows by turns with the flood and without.
fn flood(options: &Options, source: Source) -> Result<Flooded, String> {
    let plan = Plan::single(FLOWS_EACH);
    let established = options.capacity / 2;
    let shape = Shape { numbers: options.capacity, ..Shape::new(plan, options.capacity) };
    let mut rig = Rig::new(&shape)?;
    rig.open((0, established), 64, |_, _| ())?;
    let mut generator = Generator {
        plan,
        draw: Draw::new(established, Order::Random, 1),
        direction: Direction::Mixed,
        size: FrameSize::Bytes(64),
        cold: false,
        external: Arc::clone(&rig.external),
    };
    let mut chunk = Chunk::new(CHUNK / BURST, BURST);
    let mut hostile = Chunk::new(CHUNK / BURST, BURST);
    let flows = u64::from(options.capacity) * u64::from(options.times);
    let chunks = (flows as usize).div_ceil(CHUNK);
    let room = || Spread::with_capacity(chunks + TURN);
    let mut flooded = Flooded {
        quiet: room(),
        under: room(),
        flood: room(),
        offered: 0,
        arrived: 0,
        packets: 0,
        reasons: String::new(),
        grown: 0,
    };
    let drops_before = rig.drops();
    // Memory is compared with what it was when the flood had filled the table once.
    let mut before = None;
    let pool = shape.pool_addresses();
    let port = if source == Source::Subscribers { INSIDE } else { OUTSIDE };
    let mut number = 0;
    for turn in 0..chunks.div_ceil(TURN) * 2 {
        let attack = turn % 2 == 1;
        for _ in 0..TURN {
            // Made in the quiet turns too, so that what making them does to the caches is the same.
            hostile.fill(
                &mut rig.stock,
                |_| port,
                |port| {
                    let (_, ends) = flood_packet(source, &plan, pool, number);
                    number += u32::from(attack);
                    (number, Headers::new(&plan, 0, &ends, Segment::Syn, port, 64))
                },
            );
            if attack {
                let passed = refusing("the engine, in a flood,", || rig.pass(&mut hostile));
                flooded.flood.add(passed.ticks, CHUNK);
                flooded.packets += CHUNK as u64;
                if before.is_none() && flooded.packets >= u64::from(options.capacity) {
                    before = Some(Resident::now());
                }
            } else {
                for burst in &mut hostile.bursts {
                    rig.stock.put_back(&mut burst.frames);
                }
            }
            generator.fill(&mut chunk, &mut rig.stock);
            let passed = refusing("the engine, in a flood,", || rig.pass(&mut chunk));
            let spread = if attack { &mut flooded.under } else { &mut flooded.quiet };
            spread.add(passed.ticks, CHUNK);
            if attack {
                flooded.offered += CHUNK as u64;
                flooded.arrived += passed.sent as u64;
            } else {
                rig.expect_sent(passed.sent, CHUNK)?;
            }
        }
    }
    let before = before.unwrap_or_else(Resident::now);
    flooded.grown = Resident::now().total().saturating_sub(before.total());
    let reasons: Vec<_> = rig
        .drops()
        .iter()
        .map(|(reason, packets)| {
            let earlier =
                drops_before.iter().find(|(other, _)| other == reason).map_or(0, |(_, packets)| *packets);
            format!("{} {}", reason.name(), packets - earlier)
        })
        .collect();
    flooded.reasons = reasons.join(", ");
    Ok(flooded)
}

fn floods(options: &Options, report: &mut Report) -> Result<(), String> {
    let columns = [
        ("source", "flood from"),
        ("quiet", "established, quiet: cycles"),
        ("under", "under flood"),
        ("kept", "rate kept, %"),
        ("delivered", "delivered, %"),
        ("flood", "packet of the flood, cycles"),
        ("packets", "packets"),
        ("reasons", "refused"),
        ("grown_kb", "memory grown, kB"),
    ];
    let mut table =
        Table::new("flood: established flows beside new ones, a chunk of each by turns", &columns);
    machine::describe(&mut table);
    table.condition(
        "table",
        format!(
            "{} flows, half established; flood of {} times that; headers warm, random order, median (p10..p90)",
            short(options.capacity),
            options.times
        ),
    );
    for (source, name) in [(Source::Subscribers, "subscribers"), (Source::World, "outside")] {
        let mut flooded = flood(options, source)?;
        let (quiet, under) = (flooded.quiet.summary(), flooded.under.summary());
        table.row(vec![
            name.into(),
            quiet.into(),
            under.into(),
            Cell::Number(quiet.median * 100.0 / under.median, 1),
            Cell::Number(flooded.arrived as f64 * 100.0 / flooded.offered as f64, 2),
            flooded.flood.summary().into(),
            flooded.packets.into(),
            flooded.reasons.into(),
            (flooded.grown / 1024).into(),
        ]);
    }
    report.table(&table);
    Ok(())
}

/// Lookups of flows whose tuples are chosen, by turns with those of flows all over.
fn patterns(options: &Options, report: &mut Report) -> Result<(), String> {
    let columns = [
        ("pattern", "tuples"),
        ("opened", "new flow, cycles"),
        ("lookup", "established, cycles"),
        ("spread", "tuples all over, same turns"),
        ("ratio", "ratio"),
    ];
    let mut table = Table::new("hash flooding: tuples an attacker chooses", &columns);
    machine::describe(&mut table);
    table.condition(
        "packets",
        format!(
            "64 bytes UDP in2out, headers warm, random order, {} flows of each kind",
            short(options.patterns)
        ),
    );
    let make = |pattern| -> Result<(Rig, Spread), String> {
        let plan = Plan { pattern, ..Plan::single(FLOWS_EACH) };
        let mut rig = Rig::new(&Shape::new(plan, options.patterns))?;
        let mut opened = Spread::default();
        rig.open((0, options.patterns), 64, |ticks, packets| opened.add(ticks, packets))?;
        Ok((rig, opened))
    };
    let (mut base, mut base_opened) = make(Pattern::Spread)?;
    table.row(vec!["all over".into(), base_opened.summary().into(), Cell::None, Cell::None, Cell::None]);
    for (pattern, name) in [
        (Pattern::OneNetwork, "one /25, ports in sequence, one server"),
        (Pattern::UpperBits, "differing in upper bits only"),
        (Pattern::RemoteSweep, "one inside port, remote ends in sequence"),
    ] {
        let (mut rig, mut opened) = make(pattern)?;
        let mut chunk = Chunk::new(CHUNK / BURST, BURST);
        let mut spreads = [Spread::default(), Spread::default()];
        let generator = |rig: &Rig| Generator {
            plan: rig.shape.plan,
            draw: Draw::new(options.patterns, Order::Random, 1),
            direction: Direction::In2out,
            size: FrameSize::Bytes(64),
            cold: false,
            external: Arc::<Vec<External>>::default(),
        };
        let mut generators = [generator(&rig), generator(&base)];
        let mut rigs = [&mut rig, &mut base];
        for _ in 0..options.chunks.div_ceil(TURN) {
            for ((rig, generator), spread) in rigs.iter_mut().zip(&mut generators).zip(&mut spreads) {
                for _ in 0..TURN {
                    generator.fill(&mut chunk, &mut rig.stock);
                    let passed = rig.pass(&mut chunk);
                    rig.expect_sent(passed.sent, CHUNK)?;
                    spread.add(passed.ticks, CHUNK);
                }
            }
        }
        let [chosen, over] = spreads.each_mut().map(Spread::summary);
        table.row(vec![
            name.into(),
            opened.summary().into(),
            chosen.into(),
            over.into(),
            Cell::Number(chosen.median / over.median, 2),
        ]);
    }
    report.table(&table);
    Ok(())
}

/// Measures both.
///
/// # Errors
/// If an established flow loses a packet without a flood.
pub fn run(options: &Options, report: &mut Report) -> Result<(), String> {
    floods(options, report)?;
    patterns(options, report)
}

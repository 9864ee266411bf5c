//! The yardstick: the same packets and the same number of random cache lines, touched and prefetched, with no logic.
//!
//! A packet costs one 64-byte line of an index and the 64-byte record that the line leads to, in arrays as large as a
//! flow table of that many flows has, on the same kind of pages. A burst goes in three steps, as in the engine: the
//! index lines are asked for, then read and the records asked for, then the records and the headers are written.

use crate::clock::ticks;
use crate::frame::Stock;
use crate::napt::{self, Lane};
use crate::options::{Direction, FrameSize, HeaderCache, Order, count, short};
use crate::report::{Cell, Report, Table};
use crate::rig::{BURST, CHUNK};
use crate::traffic::{Chunk, Draw, Generator, Plan, mix};
use crate::{machine, spread::Spread};
use std::sync::Arc;
use turnpike_engine::Buffer;
use turnpike_shm::memory::{Array, Memory};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A cache line.
#[derive(Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(64))]
struct Line([u64; 8]);

/// Slots of a line of the engine's index, and how many of 25 it fills.
const SLOTS: usize = 12;
const FULL: usize = 18;

/// The memory of a flow table.
#[derive(Debug)]
pub struct Probe {
    index: Array<Line>,
    records: Array<Line>,
    /// Records of the burst at hand.
    found: Vec<usize>,
    huge: bool,
}

impl Probe {
    /// As much as a table of `flows` flows has, with both directions of a flow in the index.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn new(flows: u32) -> Result<Self, String> {
        let (records, lines) = (flows as usize, (2 * flows as usize * 25).div_ceil(SLOTS * FULL));
        let bytes = Memory::bytes_of::<Line>(records) + Memory::bytes_of::<Line>(lines);
        let (mut memory, huge) = machine::memory(bytes)?;
        let mut array = |count| -> Result<Array<Line>, String> {
            let mut array = memory.array::<Line>(count).ok_or("too little memory for the probe")?;
            // A page that was only mapped is the shared page of zeros until it is written.
            array.iter_mut().for_each(|line| line.0 = [0; 8]);
            Ok(array)
        };
        Ok(Self { index: array(lines)?, records: array(records)?, found: Vec::with_capacity(CHUNK), huge })
    }

    /// What its memory lies on.
    pub fn pages(&self) -> &'static str {
        machine::pages(self.huge)
    }

    /// Touches the memory of a chunk's packets, and takes the time of that. The buffers are back afterwards.
    pub fn pass(&mut self, chunk: &mut Chunk, stock: &mut Stock) -> u64 {
        let from = ticks();
        for burst in &mut chunk.bursts {
            self.burst(burst.port, &burst.flows, &mut burst.frames);
            stock.put_back(&mut burst.frames);
        }
        ticks() - from
    }

    fn burst(&mut self, port: u16, flows: &[u32], frames: &mut [crate::frame::Frame]) {
        let lines = self.index.len() as u64;
        let bucket = |flow: u32| {
            let hash = mix(u64::from(flow) << 1 | u64::from(port));
            (((hash >> 32) * lines) >> 32) as usize
        };
        for &flow in flows {
            self.index.prefetch(bucket(flow));
        }
        self.found.clear();
        for &flow in flows {
            // All of it is zero, but the record's address is not known before the line is there.
            let line = &self.index[bucket(flow)];
            let record = flow as usize + line.0[(flow % 8) as usize] as usize;
            self.records.prefetch(record);
            self.found.push(record);
        }
        for (&record, frame) in self.found.iter().zip(frames) {
            let line = &mut self.records[record].0;
            line[0] = line[0].wrapping_add(1);
            let bytes = frame.bytes_mut();
            bytes[22] = bytes[22].wrapping_sub(1);
            bytes[34] = line[0] as u8;
        }
    }
}

/// `limit` alone.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Numbers of flows.
    #[arg(long, value_delimiter = ',', value_parser = count, default_value = "1,64k,1M,4M,10M")]
    flows: Vec<u32>,
    /// Orders.
    #[arg(long, value_delimiter = ',', default_value = "random,sequential")]
    order: Vec<Order>,
    /// Headers in the caches or not.
    #[arg(long, value_delimiter = ',', default_value = "warm,cold")]
    headers: Vec<HeaderCache>,
    /// Packets of a burst.
    #[arg(long, default_value_t = BURST, value_parser = napt::burst)]
    burst: usize,
    /// Chunks of 256 packets that are measured for each row.
    #[arg(long, default_value_t = 2048)]
    chunks: usize,
}

/// Measures it.
///
/// # Errors
/// If there is no memory.
pub fn run(options: &Options, report: &mut Report) -> Result<(), String> {
    let columns = [
        ("flows", "flows"),
        ("order", "order"),
        ("headers", "headers"),
        ("limit", "cycles/packet (p10..p90)"),
        ("mpps", "Mpps"),
    ];
    let mut table = Table::new("limit: two random cache lines a packet, no logic", &columns);
    machine::describe(&mut table);
    table.condition("packets", format!("64 bytes, bursts of {}", options.burst));
    for (index, &flows) in options.flows.iter().enumerate() {
        let mut probe = Probe::new(flows)?;
        let mut stock = Stock::new(4 * CHUNK, 0)?;
        if index == 0 {
            table.condition("pages", format!("tables {}, packet buffers {}", probe.pages(), stock.pages()));
        }
        let mut chunk = Chunk::new(CHUNK.div_ceil(options.burst), options.burst);
        for &order in &options.order {
            for &headers in &options.headers {
                let mut generator = Generator {
                    plan: Plan::single(napt::FLOWS_EACH),
                    draw: Draw::new(flows, order, 1),
                    direction: Direction::In2out,
                    size: FrameSize::Bytes(64),
                    cold: headers == HeaderCache::Cold,
                    external: Arc::default(),
                };
                let mut lane =
                    Lane { generator: &mut generator, spread: Spread::with_capacity(options.chunks) };
                for _ in 0..options.chunks {
                    lane.chunk(&mut chunk, &mut stock, |chunk, stock| Ok(probe.pass(chunk, stock)))?;
                }
                let summary = lane.spread.summary();
                table.row(vec![
                    short(flows).into(),
                    order.name().into(),
                    headers.name().into(),
                    summary.into(),
                    Cell::Number(crate::clock::hz() / summary.median / 1e6, 1),
                ]);
            }
        }
    }
    report.table(&table);
    Ok(())
}

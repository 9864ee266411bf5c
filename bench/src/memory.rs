//! Bytes a flow, everything included.

use crate::machine::{self, Resident};
use crate::napt::FLOWS_EACH;
use crate::options::{count, short};
use crate::report::{Cell, Report, Table};
use crate::rig::{PORTS, Rig, Shape};
use crate::traffic::Plan;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Numbers of flows, the largest first: a later row may get memory that an earlier one gave back.
    #[arg(long, value_delimiter = ',', value_parser = count, default_value = "10M,1M")]
    pub flows: Vec<u32>,
    /// Flows of a subscriber; its ports come in blocks, so few flows leave much of a block unused.
    #[arg(long, value_delimiter = ',', default_values_t = [FLOWS_EACH, 4 * FLOWS_EACH], value_parser = clap::value_parser!(u32).range(1..=8000))]
    pub each: Vec<u32>,
    /// Ports of a block.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(64..=4096))]
    pub block: u16,
    /// Fail if a flow takes more bytes than this, with everything that belongs to it.
    #[arg(long, value_name = "BYTES")]
    pub at_most: Option<f64>,
}

/// Measures all rows.
///
/// # Errors
/// If a flow takes more than it may.
pub fn run(options: &Options, report: &mut Report) -> Result<(), String> {
    let columns = [
        ("flows", "flows"),
        ("each", "of a subscriber"),
        ("pool", "pool addresses"),
        ("arrays", "arrays, computed: bytes/flow"),
        ("reserved", "at start, MB"),
        ("resident", "with all flows, MB"),
        ("bytes_per_flow", "bytes/flow, everything"),
        ("pages", "pages"),
    ];
    let mut table = Table::new("memory: resident memory of an engine and its policy", &columns);
    machine::describe(&mut table);
    table.condition("each flow", format!("with a binding of its own; blocks of {} ports", options.block));
    table.condition("pool", "five blocks for four that are needed");
    table.condition(
        "included",
        "index, records, bindings, timers, port state, pools, neighbour and route tables",
    );
    let mut worst = 0.0f64;
    for (&flows, &each) in
        options.flows.iter().flat_map(|flows| options.each.iter().map(move |each| (flows, each)))
    {
        // What is not per flow and not the engine's comes first: buffers, vectors of this program.
        let before = Resident::now();
        let pool = pool_for(flows, each, options.block);
        let shape = Shape { block: options.block, pool: Some(pool), ..Shape::new(Plan::single(each), flows) };
        let mut rig = Rig::new(&shape)?;
        let buffers = rig.stock.bytes();
        let start = Resident::now().since(&before);
        rig.open((0, flows), 64, |_, _| ())?;
        // This program's own list of external ends.
        let own = buffers + (rig.external.capacity() * size_of::<crate::traffic::External>()) as u64;
        let filled = Resident::now().since(&before);
        let bytes = filled.total().saturating_sub(own);
        let of_a_flow = bytes as f64 / f64::from(flows);
        worst = worst.max(of_a_flow);
        table.row(vec![
            short(flows).into(),
            each.to_string().into(),
            u64::from(pool).into(),
            Cell::Number(rig.arrays as f64 / f64::from(flows), 1),
            Cell::Number(start.total().saturating_sub(buffers) as f64 / 1e6, 0),
            Cell::Number(bytes as f64 / 1e6, 0),
            Cell::Number(of_a_flow, 1),
            filled.pages().into(),
        ]);
    }
    report.table(&table);
    match options.at_most {
        Some(limit) if worst > limit => Err(format!("a flow takes {worst:.1} bytes, more than {limit}")),
        _ => Ok(()),
    }
}

/// Addresses on which subscribers with `each` flows find their blocks, with a quarter to spare: they are not spread
/// evenly.
fn pool_for(flows: u32, each: u32, block: u16) -> u32 {
    let ports = u64::from(flows.div_ceil(each)) * u64::from(each.next_multiple_of(block.into()));
    (ports * 5 / 4).div_ceil(PORTS) as u32 + 1
}

//! New flows: what opening one costs, and that neither a packet nor a flow goes to the allocator.

use crate::clock::hz;
use crate::machine::{self, Resident};
use crate::napt::FLOWS_EACH;
use crate::options::{Order, Protocol, count, short};
use crate::report::{Cell, Report, Table};
use crate::rig::{BURST, CHUNK, Rig, Shape};
use crate::spread::Spread;
use crate::traffic::{Chunk, Headers, INSIDE, Plan, Segment};
use turnpike_abi::table::PoolRecord;
use turnpike_engine::Time;
use turnpike_shm::measure::refusing;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Flows the tables can hold.
    #[arg(long, value_delimiter = ',', value_parser = count, default_value = "1M")]
    pub capacity: Vec<u32>,
    /// Protocols of the flows.
    #[arg(long, value_delimiter = ',', default_value = "udp,tcp")]
    pub protocol: Vec<Protocol>,
    /// Orders: random over subscribers, or one subscriber after the other.
    #[arg(long, value_delimiter = ',', default_value = "random,sequential")]
    pub order: Vec<Order>,
    /// Flows opened for each row of a nearly full table. An empty one is filled to half.
    #[arg(long, value_parser = count, default_value = "500k")]
    pub flows: u32,
    /// Seconds for which ports are held back: those let go while others expire count as their expiry.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=PoolRecord::MAX_QUARANTINE as i64))]
    pub quarantine: u16,
}

/// Idle timeout in the nearly full table, seconds: the shortest RFC 4787 allows.
const TIMEOUT: u32 = 120;

/// Opens new flows forever.
#[derive(Debug)]
pub struct Openings {
    plan: Plan,
    order: Order,
    /// A power of two: flows that there can be.
    numbers: u32,
    next: u64,
}

impl Openings {
    /// Numbers for twice `flows`, so that none comes again while it may be open.
    pub fn new(plan: Plan, order: Order, flows: u32) -> Self {
        Self { plan, order, numbers: (flows * 2).next_power_of_two(), next: 0 }
    }

    /// How many numbers there are.
    pub fn numbers(&self) -> u32 {
        self.numbers
    }

    /// The next flow. An odd factor and a shifted sum permute the numbers below a power of two.
    fn number(&mut self) -> u32 {
        let mask = self.numbers - 1;
        if self.order == Order::Sequential {
            self.next += 1;
            return (self.next - 1) as u32 & mask;
        }
        let shift = (self.numbers.trailing_zeros() / 2).max(1);
        let mut number = (self.next as u32).wrapping_mul(0x9e37_79b1) & mask;
        number ^= number >> shift;
        number = number.wrapping_mul(0x85eb_ca6b) & mask;
        number ^= number >> shift;
        self.next += 1;
        number
    }

    /// Fills `chunk` with first packets.
    pub fn fill(&mut self, chunk: &mut Chunk, rig: &mut Rig) {
        let plan = self.plan;
        chunk.fill(
            &mut rig.stock,
            |_| INSIDE,
            |port| {
                let number = self.number();
                (number, Headers::new(&plan, number, &plan.ends(number), Segment::Syn, port, 64))
            },
        );
    }
}

/// What is there before the flows that are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    /// Nothing; they fill half of the table.
    Nothing,
    /// As many flows as make it nine tenths full.
    NineTenths,
    /// Nothing, and each is the first of its subscriber, who gets an address and a block with it.
    NoSubscriber,
}

impl Before {
    const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "empty, to half",
            Self::NineTenths => "90 % full",
            Self::NoSubscriber => "new subscribers",
        }
    }
}

/// Opening and expiry, in ticks a flow.
#[derive(Debug)]
pub struct Costs {
    pub opened: Spread,
    pub expired: Spread,
    /// Live flows when it was measured.
    pub occupied: u64,
}

/// Opens `flows` in an empty table.
fn into_empty(rig: &mut Rig, openings: &mut Openings, flows: u32) -> Result<Costs, String> {
    let mut chunk = Chunk::new(CHUNK / BURST, BURST);
    let mut opened = Spread::with_capacity(flows as usize / CHUNK + 1);
    for _ in 0..flows as usize / CHUNK {
        openings.fill(&mut chunk, rig);
        let passed = refusing("the engine, at a new flow,", || rig.pass(&mut chunk));
        rig.expect_sent(passed.sent, CHUNK)?;
        opened.add(passed.ticks, CHUNK);
    }
    let mut expired = Spread::default();
    let occupied = rig.flows();
    // All of them end, a few in each call.
    rig.now.0 += u64::from(rig.shape.timeout) * 1000 + 1000;
    while rig.flows() > 0 {
        let before = rig.flows();
        let ticks = refusing("the engine, at expiry,", || rig.advance(Time(rig.now.0 + 16), 1));
        expired.add(ticks, (before - rig.flows()) as usize);
    }
    Ok(Costs { opened, expired, occupied })
}

/// Fills nine tenths of the table, then opens `flows` while as many expire.
fn into_nearly_full(rig: &mut Rig, openings: &mut Openings, flows: u32) -> Result<Costs, String> {
    let steady = u64::from(rig.shape.capacity) * 9 / 10;
    let mut chunk = Chunk::new(CHUNK / BURST, BURST);
    // Time goes on so fast that what was opened a timeout ago were as many as are to be live.
    let pause = |passed: u64| Time(passed * u64::from(TIMEOUT) * 1000 / steady);
    let mut passed_flows = 0;
    let mut opened = Spread::with_capacity(flows as usize / CHUNK + 1);
    let mut expired = Spread::with_capacity(flows as usize / CHUNK + 1);
    let mut measured = 0;
    let start = rig.now.0;
    let mut lowest = u64::MAX;
    while measured < flows {
        openings.fill(&mut chunk, rig);
        let passed = refusing("the engine, at a new flow,", || rig.pass(&mut chunk));
        rig.expect_sent(passed.sent, CHUNK)?;
        passed_flows += CHUNK as u64;
        let until = Time(start + pause(passed_flows).0);
        let before = rig.flows();
        let ticks = refusing("the engine, at expiry,", || rig.advance(until, 1));
        // Until flows begin to expire, the table only fills.
        if passed_flows > steady + steady / 10 {
            opened.add(passed.ticks, CHUNK);
            expired.add(ticks, (before - rig.flows()) as usize);
            measured += CHUNK as u32;
            lowest = lowest.min(rig.flows());
        }
    }
    Ok(Costs { opened, expired, occupied: lowest })
}

/// Measures all rows.
///
/// # Errors
/// If a flow does not open.
pub fn run(options: &Options, report: &mut Report) -> Result<(), String> {
    let columns = [
        ("capacity", "capacity"),
        ("protocol", "protocol"),
        ("order", "order"),
        ("table", "table"),
        ("live", "live flows"),
        ("opened", "new flow, cycles"),
        ("flows_per_second", "new flows/s"),
        ("expired", "expiry, cycles a flow"),
        ("allocations", "allocations"),
    ];
    let mut table = Table::new("setup: new flows through the whole engine, one worker", &columns);
    machine::describe(&mut table);
    table.condition(
        "packets",
        format!("64 bytes, headers warm, bursts of {BURST}, {FLOWS_EACH} flows a subscriber"),
    );
    table.condition("each new flow", "new binding, port, index entries, timer; median (p10..p90)");
    table.condition(
        "new subscribers",
        "each flow is the first of its subscriber, who gets an address and a block with it",
    );
    if options.quarantine > 0 {
        table.condition("ports", format!("held back for {} s", options.quarantine));
    }
    let mut pages = None;
    for &capacity in &options.capacity {
        for &protocol in &options.protocol {
            for &order in &options.order {
                for there in [Before::Nothing, Before::NineTenths, Before::NoSubscriber] {
                    let (each, most) = match there {
                        // A worker has room for an eighth as many subscribers.
                        Before::NoSubscriber if order == Order::Random => (1, capacity / 16),
                        Before::NoSubscriber => continue,
                        _ => (FLOWS_EACH, capacity),
                    };
                    let plan = Plan { protocol, ..Plan::single(each) };
                    let mut openings = Openings::new(plan, order, most);
                    let before = Resident::now();
                    let shape = Shape::new(plan, capacity);
                    let quarantine = options.quarantine;
                    let shape = Shape { numbers: openings.numbers(), timeout: TIMEOUT, quarantine, ..shape };
                    let mut rig = Rig::new(&shape)?;
                    let mut costs = match there {
                        Before::NineTenths => into_nearly_full(&mut rig, &mut openings, options.flows)?,
                        Before::Nothing => into_empty(&mut rig, &mut openings, capacity / 2)?,
                        Before::NoSubscriber => into_empty(&mut rig, &mut openings, most)?,
                    };
                    if there == Before::NineTenths {
                        pages.get_or_insert_with(|| Resident::now().since(&before).pages());
                    }
                    let (opened, expired) = (costs.opened.summary(), costs.expired.summary());
                    table.row(vec![
                        short(capacity).into(),
                        protocol.name().into(),
                        order.name().into(),
                        there.name().into(),
                        costs.occupied.into(),
                        opened.into(),
                        Cell::Number(hz() / opened.median, 0),
                        expired.into(),
                        // Had there been one, the process would have ended.
                        0u64.into(),
                    ]);
                }
            }
        }
    }
    table.condition("pages", pages.unwrap_or_default());
    report.table(&table);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// The refusal ends the process, so this test runs itself in another one.
    #[test]
    fn an_allocation_is_refused() {
        const CHILD: &str = "TURNPIKE_BENCH_ALLOCATES";
        if std::env::var_os(CHILD).is_some() {
            let mut list = Vec::new();
            refusing("the test", || list.push(1u64));
            return;
        }
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["setup::tests::an_allocation_is_refused", "--exact", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(
            said.contains("error: the test allocated 32 bytes: it must not touch the allocator"),
            "{said}"
        );
    }

    #[test]
    fn no_flow_is_opened_twice_in_a_round() {
        for flows in [1, 5, 1000, 30_000] {
            for order in [Order::Random, Order::Sequential] {
                let mut openings = Openings::new(Plan::single(64), order, flows);
                let numbers = openings.numbers();
                let seen: HashSet<_> = (0..numbers).map(|_| openings.number()).collect();
                assert_eq!(seen.len(), numbers as usize);
                assert!(seen.iter().all(|&number| number < numbers));
            }
        }
    }
}

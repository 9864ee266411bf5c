//! First packets against many rules, in both families.

use crate::machine;
use crate::options::{Family, count};
use crate::report::{Report, Table};
use crate::rig::{BURST, CHUNK, Rig, Shape};
use crate::spread::Spread;
use crate::traffic::{Chunk, Ends, Headers, INSIDE, Plan, Segment, below};
use turnpike_abi::table::{Action, FirewallRuleRecord};
use turnpike_abi::{Address, Prefix};
use turnpike_sim::tables::{self, rule};

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Numbers of rules; half of them are of each family.
    #[arg(long, value_delimiter = ',', value_parser = count, default_value = "10,100,1000,10000")]
    pub rules: Vec<u32>,
    /// Chunks of 256 first packets that are measured for each row.
    #[arg(long, default_value_t = 256)]
    pub chunks: usize,
}

/// Flows the table holds while this is measured.
const CAPACITY: u32 = 65_536;

/// The network that rule `index` is about: 9.x.y.0/24 or 2a00:9:x:y::/64. No rule is about another one.
fn network(index: u32, family: Family) -> Address {
    let [_, _, high, low] = index.to_be_bytes();
    match family {
        Family::V4 => Address::v4([9, high, low, 0]),
        Family::V6 => {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&[0x2a, 0, 0, 9, 0, high, 0, low]);
            Address(bytes)
        }
    }
}

/// Rule `index`: a network, one protocol, ports that are one, a range or any; here and there a source too.
fn rule_of(index: u32) -> FirewallRuleRecord {
    let family = [Family::V4, Family::V6][index as usize % 2];
    let mut record = rule(tables::INSIDE, tables::OUTSIDE, Action::ACCEPT);
    let (length, inside, bits) = match family {
        Family::V4 => (24, Address::v4([10, 0, 0, 0]), 8),
        Family::V6 => (64, tables::address("2a00:1::"), 32),
    };
    record.family = if family == Family::V4 { 4 } else { 6 };
    record.destination = Prefix::new(network(index, family), length).expect("a length of that family");
    record.protocol = 17;
    record.destination_ports = match index / 2 % 3 {
        0 => [443, 443],
        1 => [400, 500],
        _ => [0, u16::MAX],
    };
    if (index / 2).is_multiple_of(4) {
        record.source = Prefix::new(inside, bits).expect("a length of that family");
    }
    record
}

/// The first packet of flow `number`: to the network of a rule, or to one that no rule is about.
fn ends(plan: &Plan, number: u32, rules: u32, matching: bool) -> Ends {
    let mut ends = plan.ends(number);
    if matching {
        let family = u32::from(plan.family == Family::V6);
        let index = below(rules / 2, u64::from(number)) * 2 + family;
        ends.destination = network(index, plan.family);
        ends.destination.0[15] = 1 + (number % 200) as u8;
    }
    ends
}

/// Ticks a first packet.
fn measure(rig: &mut Rig, rules: u32, matching: bool, chunks: usize) -> Result<Spread, String> {
    let plan = rig.shape.plan;
    let mut chunk = Chunk::new(CHUNK / BURST, BURST);
    let mut spread = Spread::with_capacity(chunks);
    let mut number = 0;
    for _ in 0..chunks {
        if rig.flows() + CHUNK as u64 > u64::from(CAPACITY) / 2 {
            rig.end_all();
        }
        chunk.fill(
            &mut rig.stock,
            |_| INSIDE,
            |port| {
                number = (number + 1) % (1 << 22);
                let ends = ends(&plan, number, rules, matching);
                (number, Headers::new(&plan, number, &ends, Segment::Syn, port, 64))
            },
        );
        let passed = rig.pass(&mut chunk);
        rig.expect_sent(passed.sent, if matching { CHUNK } else { 0 })?;
        spread.add(passed.ticks, CHUNK);
    }
    rig.end_all();
    Ok(spread)
}

/// Measures all rows.
///
/// # Errors
/// If a packet is not judged as the rules say.
pub fn run(options: &Options, report: &mut Report) -> Result<(), String> {
    let columns = [
        ("rules", "rules"),
        ("family", "family"),
        ("accepted", "matched, flow opened: cycles"),
        ("denied", "no match, dropped: cycles"),
    ];
    let mut table = Table::new("firewall: first packets through the whole engine, one worker", &columns);
    machine::describe(&mut table);
    table.condition("packets", format!("64 bytes UDP, headers warm, bursts of {BURST}, not translated"));
    table.condition("rules", "half of each family; a match is at a random place; median (p10..p90)");
    for &rules in &options.rules {
        let rules = (rules / 2).max(1) * 2;
        for family in [Family::V4, Family::V6] {
            let plan = Plan { family, ..Plan::single(64) };
            let mut rig = Rig::new(&Shape {
                translate: false,
                rules: (0..rules).map(rule_of).collect(),
                default: Action::DROP,
                timeout: 60,
                ..Shape::new(plan, CAPACITY)
            })?;
            // By turns, so that a change of the machine's load meets both.
            let (mut accepted, mut denied) = (Spread::default(), Spread::default());
            for _ in 0..4 {
                accepted.merge(&measure(&mut rig, rules, true, options.chunks.div_ceil(4))?);
                denied.merge(&measure(&mut rig, rules, false, options.chunks.div_ceil(4))?);
            }
            table.row(vec![
                u64::from(rules).into(),
                family.name().into(),
                accepted.summary().into(),
                denied.summary().into(),
            ]);
        }
    }
    report.table(&table);
    Ok(())
}

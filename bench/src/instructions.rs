//! Instructions a packet, counted by callgrind: the same on every run, so a regression of a few percent shows.
//!
//! The program runs itself under valgrind, once for a number of packets and once for twice that. The difference is
//! what the packets of the second half took; what comes before and after them cancels out.

use crate::options::{Direction, Family, FrameSize, Order, Protocol};
use crate::report::{Cell, Report, Table};
use crate::rig::{BURST, CHUNK, Rig, Shape};
use crate::setup::Openings;
use crate::traffic::{Chunk, Draw, Generator, Plan};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// What to count.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Where the numbers are that these are compared with.
    #[arg(long, default_value = "bench/instructions.json", value_name = "FILE")]
    pub baseline: PathBuf,
    /// Write the numbers there instead.
    #[arg(long)]
    pub update: bool,
    /// Run one scenario and count nothing: for callgrind to look into.
    #[arg(long)]
    pub scenario: Option<Scenario>,
    /// Packets of the scenario.
    #[arg(long, default_value_t = PACKETS, requires = "scenario")]
    pub packets: usize,
}

/// A way through the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// An established UDP flow, from inside.
    In2outUdp,
    /// The same from outside.
    Out2inUdp,
    /// The first packet of a translated TCP flow.
    NewFlowTcp,
    /// An established UDP flow over IPv6.
    Ipv6Firewall,
}

/// Packets of the shorter run.
const PACKETS: usize = 64 * CHUNK;
/// Established flows.
const FLOWS: u32 = 4096;
/// How far a number may be from the baseline.
const TOLERANCE: f64 = 0.03;

/// The committed numbers.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Baseline {
    /// Compiler they were counted with.
    rustc: String,
    /// By scenario.
    instructions_per_packet: BTreeMap<String, f64>,
}

impl Scenario {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Sends `packets` packets through the engine.
    fn run(self, packets: usize) -> Result<(), String> {
        let mut chunk = Chunk::new(CHUNK / BURST, BURST);
        if self == Self::NewFlowTcp {
            let plan = Plan { protocol: Protocol::Tcp, ..Plan::single(64) };
            let mut openings = Openings::new(plan, Order::Random, packets as u32);
            let shape = Shape { numbers: openings.numbers(), ..Shape::new(plan, 2 * PACKETS as u32) };
            let mut rig = Rig::new(&shape)?;
            for _ in 0..packets / CHUNK {
                openings.fill(&mut chunk, &mut rig);
                let passed = rig.pass(&mut chunk);
                rig.expect_sent(passed.sent, CHUNK)?;
            }
            return Ok(());
        }
        let family = if self == Self::Ipv6Firewall { Family::V6 } else { Family::V4 };
        let mut rig = Rig::new(&Shape::new(Plan { family, ..Plan::single(64) }, FLOWS))?;
        rig.open((0, FLOWS), 64, |_, _| ())?;
        let mut generator = Generator {
            plan: rig.shape.plan,
            draw: Draw::new(FLOWS, Order::Random, 1),
            direction: if self == Self::Out2inUdp { Direction::Out2in } else { Direction::In2out },
            size: FrameSize::Bytes(64),
            cold: false,
            external: Arc::clone(&rig.external),
        };
        for _ in 0..packets / CHUNK {
            generator.fill(&mut chunk, &mut rig.stock);
            let passed = rig.pass(&mut chunk);
            rig.expect_sent(passed.sent, CHUNK)?;
        }
        Ok(())
    }

    /// Instructions within [`Rig::measured`] for `packets` packets.
    fn count(self, packets: usize) -> Result<u64, String> {
        let program = std::env::current_exe().map_err(|error| format!("where is this program? {error}"))?;
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*Rig::measured*"])
            .arg(program)
            .args(["instructions", "--scenario", &self.name(), "--packets", &packets.to_string()])
            .output()
            .map_err(|error| format!("cannot run valgrind (scripts/setup installs it): {error}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(format!("{} failed under valgrind:\n{said}", self.name()));
        }
        collected(&said).ok_or_else(|| format!("callgrind named no count for {}:\n{said}", self.name()))
    }

    fn per_packet(self) -> Result<f64, String> {
        let (once, twice) = (self.count(PACKETS)?, self.count(2 * PACKETS)?);
        if once == 0 || twice <= once {
            return Err(format!("callgrind counted {once} and {twice}: is Rig::measured inlined?"));
        }
        Ok((twice - once) as f64 / PACKETS as f64)
    }
}

/// The count in callgrind's last words: `==1== Collected : 12345`.
fn collected(said: &str) -> Option<u64> {
    let line = said.lines().find_map(|line| line.split_once("Collected :"))?;
    line.1.trim().parse().ok()
}

fn rustc() -> String {
    let output = Command::new("rustc").arg("--version").output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

fn read(path: &Path) -> Result<Baseline, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Runs one scenario, or counts all of them and compares.
///
/// # Errors
/// If a number is more than 3 % away from the baseline.
pub fn run(options: &Options, report: &mut Report) -> Result<(), String> {
    if let Some(scenario) = options.scenario {
        return scenario.run(options.packets);
    }
    let mut counted = Baseline { rustc: rustc(), ..Baseline::default() };
    for scenario in Scenario::value_variants() {
        let instructions = (scenario.per_packet()? * 10.0).round() / 10.0;
        counted.instructions_per_packet.insert(scenario.name(), instructions);
    }
    let columns = [
        ("scenario", "scenario"),
        ("instructions", "instructions/packet"),
        ("baseline", "baseline"),
        ("change", "change, %"),
    ];
    let mut table = Table::new("instructions: counted by callgrind", &columns);
    table.condition("compiler", counted.rustc.clone());
    if options.update {
        let text = serde_json::to_string_pretty(&counted).map_err(|error| error.to_string())? + "\n";
        std::fs::write(&options.baseline, text)
            .map_err(|error| format!("{}: {error}", options.baseline.display()))?;
    }
    let baseline = read(&options.baseline)?;
    let mut wrong = Vec::new();
    for (name, &instructions) in &counted.instructions_per_packet {
        let before = baseline.instructions_per_packet.get(name).copied();
        let change = before.map(|before| instructions / before - 1.0);
        if change.is_none_or(|change| change.abs() > TOLERANCE) {
            let before = before.map_or("nothing".to_owned(), |before| before.to_string());
            wrong.push(format!("{name}: {instructions} instructions a packet, the baseline says {before}"));
        }
        table.row(vec![
            name.as_str().into(),
            Cell::Number(instructions, 1),
            before.map_or(Cell::None, |before| Cell::Number(before, 1)),
            change.map_or(Cell::None, |change| Cell::Number(change * 100.0, 1)),
        ]);
    }
    report.table(&table);
    if wrong.is_empty() {
        return Ok(());
    }
    let compilers = if counted.rustc == baseline.rustc {
        String::new()
    } else {
        format!(" (counted with {}, the baseline with {})", counted.rustc, baseline.rustc)
    };
    Err(format!(
        "{}{compilers}. If that is meant, commit the new numbers with it: turnpike-bench instructions --update",
        wrong.join("; ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_runs() {
        for scenario in Scenario::value_variants() {
            scenario.run(2 * CHUNK).unwrap();
        }
    }

    #[test]
    fn the_count_is_found() {
        let said = "==7== Events    : Ir\n==7== Collected : 1234567\n==7== \n";
        assert_eq!(collected(said), Some(1_234_567));
        assert_eq!(collected("valgrind: no such file"), None);
    }

    #[test]
    fn the_baseline_names_every_scenario() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.json");
        let baseline = read(&path).unwrap();
        let names: Vec<_> = baseline.instructions_per_packet.into_keys().collect();
        let mut expected: Vec<_> =
            Scenario::value_variants().iter().map(|scenario| scenario.name()).collect();
        expected.sort();
        assert_eq!(names, expected);
    }
}

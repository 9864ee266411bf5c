//! Turnpike's benchmarks. The engine runs in this process, without DPDK; what a packet costs is counted in ticks of
//! the time stamp counter around [`turnpike_engine::Engine::receive`] and nothing else. See the README beside it.

#![forbid(unsafe_code)]

mod all;
mod clock;
mod firewall;
mod flood;
mod frame;
mod instructions;
mod limit;
mod machine;
mod memory;
mod midcom;
mod napt;
mod options;
mod ports;
mod readers;
mod report;
mod rig;
mod ring;
mod scale;
mod setup;
mod shown;
mod spread;
mod system;
mod traffic;

use clap::{Parser, Subcommand};
use report::Report;
use std::process::ExitCode;
use turnpike_shm::measure::Refusing;

#[global_allocator]
static ALLOCATOR: Refusing = Refusing;

/// Benchmarks of Turnpike's packet engine.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// Print one JSON object a table instead of tables.
    #[arg(long, global = true)]
    json: bool,
    /// Processors to run on, the first for what needs only one.
    #[arg(long, global = true, value_delimiter = ',', value_name = "CPU")]
    cpus: Vec<usize>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Established flows through the translator, beside the limit.
    Napt(napt::Options),
    /// The same packets and memory without logic: the yardstick.
    Limit(limit::Options),
    /// New flows, into an empty and into a nearly full table, with expiry.
    Setup(setup::Options),
    /// New bindings while port blocks fill up.
    Ports(ports::Options),
    /// First packets against many rules.
    Firewall(firewall::Options),
    /// One worker and more, with and without steering by the device.
    Scale(scale::Options),
    /// Bytes a flow.
    Memory(memory::Options),
    /// The rings between processes and between threads.
    Ring(ring::Options),
    /// Established flows while another thread reads all of them in place, as `show flows` does.
    Readers(readers::Options),
    /// Established flows while the real `turnpike show flows --json --all` lists all of them.
    Shown(shown::Options),
    /// Established flows under a flood of new ones, and tuples chosen by an attacker.
    Flood(flood::Options),
    /// Instructions a packet, counted by callgrind, against the baseline.
    Instructions(instructions::Options),
    /// The real processes, port to port, beside testpmd and the kernel. Needs root and two processors.
    System(system::Options),
    /// Pinholes over SIMCO: rate, latency, memory and restart of the real control plane. Needs two processors.
    Midcom(midcom::Options),
    /// Everything but `system`, `midcom` and `shown`, as the tables of the README.
    All(all::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut report = Report::new(arguments.json);
    let cpus = machine::cpus(&arguments.cpus);
    let done = machine::pin(&cpus, 0).and_then(|()| match &arguments.command {
        Command::Napt(options) => napt::run(options, &mut report),
        Command::Limit(options) => limit::run(options, &mut report),
        Command::Setup(options) => setup::run(options, &mut report),
        Command::Ports(options) => ports::run(options, &mut report),
        Command::Firewall(options) => firewall::run(options, &mut report),
        Command::Scale(options) => scale::run(options, &cpus, &mut report),
        Command::Memory(options) => memory::run(options, &mut report),
        Command::Ring(options) => ring::run(options, &cpus, &mut report),
        Command::Readers(options) => readers::run(options, &cpus, &mut report),
        Command::Shown(options) => shown::run(options, &cpus, &mut report),
        Command::Flood(options) => flood::run(options, &mut report),
        Command::Instructions(options) => instructions::run(options, &mut report),
        Command::System(options) => system::run(options, &mut report),
        Command::Midcom(options) => midcom::run(options, &cpus, &mut report),
        Command::All(options) => all::run(options, &cpus, &mut report),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

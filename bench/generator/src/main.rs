//! Sends UDP packets through a box under test, from its inside port to its outside port and back, and measures
//! loss and latency. `turnpike-bench system` starts it and tells it what to send: one JSON request a line on
//! standard input, one JSON answer a line on standard output, until end of file.

#![forbid(unsafe_code)]

mod end;
mod flows;
mod histogram;
mod packet;
mod trial;

use clap::Parser;
use dpdk::{Eal, Mempool};
use end::End;
use flows::Flows;
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::io::{BufRead as _, Write as _};
use std::process::ExitCode;
use trial::{Generator, Outcome, Trial};

/// Sends packets through a box under test; told what to by JSON lines on standard input.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// DPDK device that is wired to the box's inside port.
    #[arg(long, value_name = "DEVICE")]
    inside: String,
    /// DPDK device that is wired to the box's outside port.
    #[arg(long, value_name = "DEVICE")]
    outside: String,
    /// Station address of the box's inside port.
    #[arg(long, value_name = "MAC", value_parser = packet::station)]
    inside_gateway: [u8; 6],
    /// Station address of the box's outside port.
    #[arg(long, value_name = "MAC", value_parser = packet::station)]
    outside_gateway: [u8; 6],
    /// Flows; each is a subscriber's port and a peer.
    #[arg(long, default_value_t = 1)]
    flows: u32,
    /// Bytes of the frames, check sequence included, 64 to 1518.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(64..=1518))]
    size: u16,
    /// Processor core to run on.
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// Descriptors of a queue.
    #[arg(long, default_value_t = 4096)]
    descriptors: u16,
    /// Further EAL arguments.
    #[arg(long, value_delimiter = ' ', allow_hyphen_values = true)]
    eal: Vec<String>,
}

/// What it is told.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Request {
    /// Send a packet of each flow from inside until all have arrived, and learn what they were translated to.
    Learn {
        /// Packets a second.
        rate: f64,
        /// Give up after so long.
        milliseconds: u64,
    },
    /// Send at a rate and measure.
    Trial(Trial),
}

/// What it answers.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    /// It is set up and takes requests.
    Ready {
        /// Driver of the ports.
        driver: String,
    },
    /// Flows whose packets arrived outside, and flows there are.
    Learned { arrived: u32, flows: u32 },
    /// What became of a trial.
    Outcome(Outcome),
    /// The request made no sense.
    Error(String),
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("turnpike-generator: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let cores = format!("--lcores=0@{}", arguments.core);
    let mut eal = vec![cores.as_str(), "--in-memory", "--no-pci", "--no-telemetry", "--log-level=warning"];
    eal.extend(arguments.eal.iter().map(String::as_str));
    let eal = Eal::init(&eal)?;
    let pool = Mempool::new(&eal, "packets", 32_767, 256, 2048)?;
    let open = |device: &str, gateway| End::open(&eal, &pool, device, gateway, arguments.descriptors);
    let inside = open(&arguments.inside, arguments.inside_gateway)?;
    let outside = open(&arguments.outside, arguments.outside_gateway)?;
    let driver = inside.driver();
    let flows = Flows::new(arguments.flows);
    let size = usize::from(arguments.size) - packet::CHECK_SEQUENCE;
    let mut generator = Generator::new([inside, outside], flows, size, pool.source(), eal.tsc_hz());

    answer(&Answer::Ready { driver })?;
    for line in std::io::stdin().lock().lines() {
        answer(&match serde_json::from_str(&line?) {
            Ok(Request::Learn { rate, milliseconds }) => {
                let arrived = generator.learn(rate, milliseconds);
                Answer::Learned { arrived, flows: arguments.flows }
            }
            Ok(Request::Trial(trial)) => Answer::Outcome(generator.trial(&trial)),
            Err(error) => Answer::Error(error.to_string()),
        })?;
    }
    Ok(())
}

fn answer(answer: &Answer) -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, answer)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

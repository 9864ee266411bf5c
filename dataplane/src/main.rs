//! `turnpike-dataplane`: DPDK ports, worker threads, TAP twins and the socket to which the control plane
//! attaches. What happens to a packet is `turnpike-engine`'s.

#![forbid(unsafe_code)]

mod attachment;
mod clock;
mod control;
mod crew;
mod environment;
mod failure;
mod ports;
mod privileges;
mod start;
mod state;
mod tap;
mod worker;

use clap::Parser;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;
use turnpike_config::Config;

/// The configuration was refused.
const CONFIG_INVALID: u8 = 7;

/// Forwards packets between DPDK ports: NAPT, firewall, TAP twins for the box's own traffic.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes:
  0  stopped on request, or the configuration is right (--check)
  1  failed: a device, memory, the network or a thread; the last message says which
  2  wrong command line
  7  the configuration is wrong; every problem is listed

Signals: SIGTERM and SIGINT stop it in order; the TAP twins are removed. After a crash they stay, and the
next start takes them over.

Environment: RUST_LOG filters the log (default: info). RUNTIME_DIRECTORY is where DPDK puts its own files."
)]
struct Arguments {
    /// The configuration of both daemons.
    #[arg(long, value_name = "FILE", default_value = "/etc/turnpike/turnpike.toml")]
    config: PathBuf,

    /// Checks the configuration and ends.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::from(CONFIG_INVALID);
        }
    };
    if arguments.check {
        println!("{}: right", arguments.config.display());
        return ExitCode::SUCCESS;
    }
    log_to_stderr();
    match start::run(&config) {
        Ok(()) => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            tracing::error!("{failure}");
            ExitCode::FAILURE
        }
    }
}

/// For people on a terminal; JSON lines where systemd collects them.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = std::io::stderr().is_terminal();
    let systemd = ["JOURNAL_STREAM", "INVOCATION_ID"].iter().any(|name| std::env::var_os(name).is_some());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if systemd && !terminal {
        log.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
    } else {
        log.with_target(false).with_ansi(terminal).init();
    }
}

//! The control plane of Turnpike.
//!
//! | module | what it does |
//! |---|---|
//! | `daemon` | owns the state, runs the loop |
//! | `attach` | the attachment to the dataplane: orders to workers, their events |
//! | `tables` | policy and forwarding tables on their way to the dataplane, reloads |
//! | `kernel`, `netlink`, `mirror`, `resolve` | what the kernel knows of routes and neighbours, and makes it look |
//! | `pinholes`, `journal` | the policy engine's requests and effects; what survives a restart |
//! | `audit`, `natlog`, `lines` | who opened what; who had which external ports; the threads that write it |
//! | `simco`, `descriptors` | the SIMCO server as the configuration wants it, and the descriptors that takes |
//! | `api`, `answers`, `walk` | the CLI's socket and its answers |
//! | `reading`, `facts`, `metrics` | counters in shared memory, rates, the exporter |
#![forbid(unsafe_code)]

mod access;
mod answers;
mod api;
mod attach;
mod audit;
mod clock;
mod daemon;
mod descriptors;
mod facts;
mod firewall;
mod flows;
mod journal;
mod kernel;
mod lines;
mod metrics;
mod midcom;
mod mirror;
mod natlog;
mod netlink;
mod options;
mod pcp;
mod pinholes;
mod ranges;
mod reading;
mod resolve;
mod rules;
mod running;
mod simco;
mod started;
mod survey;
mod tables;
mod walk;

use crate::audit::AuditLog;
use clap::Parser;
use clock::{Clock, wall_ms};
use daemon::{Daemon, Inputs, Parts, notify};
use facts::{Apply, Board, Shape};
use journal::{Contents, Journal};
use options::Options;
use pcp::Pcp;
use running::Running;
use sd_notify::NotifyState;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;
use turnpike_gateway::Gateway;
use turnpike_policy::{Engine, Front, Refusal};

/// Exit code of a wrong configuration.
const CONFIG_INVALID: u8 = 7;
/// Exit code of a wrong command line, as clap has it.
const USAGE: u8 = 2;
/// Messages of each kind that may wait for the daemon.
const QUEUE: usize = 256;

fn main() -> ExitCode {
    let options = Options::parse();
    if let Err(error) = log(&options.log) {
        eprintln!("turnpike-controlplane: --log {:?}: {error}", options.log);
        return ExitCode::from(USAGE);
    }
    let running = match Running::load(&options.config) {
        Ok(running) => running,
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::from(CONFIG_INVALID);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no event loop");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(serve(running)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Text on a terminal, a JSON object a line under systemd.
fn log(filter: &str) -> Result<(), tracing_subscriber::filter::ParseError> {
    let filter = EnvFilter::try_new(filter)?;
    let systemd = ["INVOCATION_ID", "JOURNAL_STREAM"].iter().any(|name| std::env::var_os(name).is_some());
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if systemd {
        subscriber.json().flatten_event(true).init();
    } else {
        subscriber.with_target(false).with_ansi(std::io::stderr().is_terminal()).init();
    }
    Ok(())
}

/// Why the daemon could not start or go on.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Journal(#[from] journal::JournalError),
    #[error("the journal contradicts itself: {0}; move it away to start without rules")]
    Contradiction(Refusal),
    #[error(transparent)]
    Simco(#[from] simco::SimcoError),
    #[error("cannot listen at {at}: {source}; see {key}")]
    Listen { at: String, key: &'static str, source: std::io::Error },
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("signals: {0}")]
    Signals(#[from] std::io::Error),
}

async fn serve(running: Running) -> Result<(), Failure> {
    if rustix::process::geteuid().is_root() {
        tracing::info!(
            "running as root, which is not needed: any user that dataplane.control_user names will do"
        );
    }
    descriptors::raise(&running.config);
    let clock = Clock::start();
    let (written_sender, written) = mpsc::unbounded_channel();
    let (journal, contents) = Journal::open(&running.config.control.state, written_sender)?;
    let pcp_epoch = contents.pcp_epoch;
    // The hosts' own: PCP knows them again by what they say.
    let own = |rule: &&turnpike_policy::Rule| matches!(rule.owner.front, Front::Pcp | Front::NatPmp);
    let kept = contents.rules.iter().filter(own).cloned().collect();
    let policy = restore(contents)?;
    let audit = audit_log(&running);

    let board = Board::default();
    let shape = Shape::of(&running);
    board.change(|facts| {
        facts.started_ms = wall_ms();
        facts.shape = shape;
        facts.applied(Apply::Ok);
    });

    let path = running.config.control.socket.clone();
    let socket = api::Socket::bind(&path).map_err(|source| Failure::Listen {
        at: path.display().to_string(),
        key: "control.socket",
        source,
    })?;
    if let Some(address) = running.config.control.metrics.0 {
        let listen = |source| Failure::Listen { at: address.to_string(), key: "control.metrics", source };
        let listener = metrics::Listener::bind(address).await.map_err(listen)?;
        let router = metrics::router(board.clone())?;
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the exporter stopped");
            }
        });
    }
    let (gateway, orders) = Gateway::new();
    let simco = simco::Simco::start(&running.config, gateway.clone())?;
    let counters = simco.counters();
    board.change(|facts| facts.simco = Some(counters));
    let (ask_sender, asks) = mpsc::channel(QUEUE);
    let api = tokio::spawn(socket.serve(ask_sender));
    let (kernel_sender, kernel) = mpsc::channel(QUEUE);
    tokio::spawn(kernel::follow(kernel_sender));
    let (resolve, resolutions) = mpsc::channel(resolve::QUEUE);
    tokio::spawn(resolve::run(resolutions));
    let (attaching, attached) = mpsc::channel(1);

    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        config = %running.path.display(),
        hash = running.hash,
        rules = policy.len(),
        "started"
    );
    notify(&[NotifyState::Ready]);
    let (pcp_inputs, pcp_said) = mpsc::channel(QUEUE);
    let (question_sender, questions) = mpsc::channel(QUEUE);
    let (epoch_sender, epochs) = mpsc::unbounded_channel();
    let service = turnpike_pcp::service::Service::new(turnpike_pcp::service::Parts {
        configuration: pcp::configuration(&running.config),
        gateway: gateway.clone(),
        questions: question_sender,
        rules: kept,
        epoch: pcp_epoch,
        epochs: epoch_sender,
        now: Arc::new(move || clock.now().0),
        port: turnpike_pcp::wire::SERVER_PORT,
    });
    board.change(|facts| facts.pcp = service.board());
    tokio::spawn(service.run(pcp_said));
    let pcp = Pcp::new(pcp_inputs);
    let daemon =
        Daemon::new(Parts { running, board, clock, policy, journal, audit, simco, pcp, resolve, attaching });
    let result = daemon.run(Inputs { asks, kernel, written, attached, orders, questions, epochs }).await;
    drop(gateway);
    // Its end removes the socket.
    api.abort();
    if let Err(error) = api.await
        && !error.is_cancelled()
    {
        tracing::error!(%error, "the CLI's socket failed");
    }
    Ok(result?)
}

/// The policy engine with what the journal held.
fn restore(contents: Contents) -> Result<Engine, Failure> {
    let mut engine = Engine::new(contents.next_rule, contents.next_group);
    for rule in contents.rules {
        engine.restore(rule).map_err(Failure::Contradiction)?;
    }
    for (permit, uses) in contents.permits {
        engine.restore_permit(permit, uses);
    }
    Ok(engine)
}

/// The audit log; without one the daemon runs all the same, and counts what is not written.
fn audit_log(running: &Running) -> Option<AuditLog> {
    let config = &running.config;
    let path = config.midcom.audit.clone().unwrap_or_else(|| config.control.state.join(audit::FILE));
    match AuditLog::start(&path, "audit", audit::line) {
        Ok(log) => Some(log),
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "no audit log: see midcom.audit");
            None
        }
    }
}

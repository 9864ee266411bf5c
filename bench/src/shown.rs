//! What `turnpike show flows --json --all` costs a worker, whole: the real CLI asks the real control plane, which reads
//! the flows of the engine in this process in place.

use crate::machine;
use crate::options::{count, short};
use crate::report::{Cell, Report, Table};
use crate::rig::{BURST, CHUNK, Rig};
use crate::spread::Spread;
use crate::traffic::Chunk;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use turnpike_abi::attach::AttachResult;
use turnpike_abi::stats::Identity;
use turnpike_shm::attach::{Hello, Session, serve_hello};
use turnpike_shm::link::WorkerLink;
use turnpike_shm::socket::{Connection, Listener};
use turnpike_shm::statistics::Statistics;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Numbers of flows.
    #[arg(long, value_delimiter = ',', value_parser = count, default_value = "1M,10M")]
    pub flows: Vec<u32>,
    /// Directory of turnpike and turnpike-controlplane.
    #[arg(long, default_value = "target/release")]
    pub bin: PathBuf,
}

/// Chunks of a turn: some 20 ms.
const TURN: usize = 512;
/// Turns that are measured; the CLI goes on to its end after them.
const TURNS: usize = 4096;
/// For a process to come up.
const SOON: Duration = Duration::from_secs(20);
/// Rounds of the dataplane's main thread.
const ROUND: Duration = Duration::from_millis(1);

/// A process that ends with its owner.
struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> Result<Self, String> {
        let name = command.get_program().display().to_string();
        command.spawn().map(Self).map_err(|error| format!("{name}: {error}; see --bin"))
    }

    /// Has it rest, or go on.
    fn rest(&self, rest: bool) {
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            // Gone is as good as at rest.
            let _ = kill_process(pid, if rest { Signal::STOP } else { Signal::CONT });
        }
    }

    /// Memory of its own, kB.
    fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.rest(false);
        // Gone already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A directory that goes with its owner.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} stays behind: {error}", self.0.display());
        }
    }
}

/// The main thread of a dataplane that offers one worker's flows to whoever attaches, until told to end.
fn serve(listener: &Listener, state: &File, end: &AtomicBool) -> Result<(), String> {
    let statistics = Statistics::create(1).map_err(|error| format!("statistics: {error}"))?;
    let identity = Identity { pid: std::process::id(), workers: 1, ..Identity::default() };
    statistics.identify(identity).map_err(|_| "statistics: no place for an identity")?;
    let states = [state.try_clone().map_err(|error| format!("the state file: {error}"))?];
    let mut waiting: Option<Connection> = None;
    let mut attached: Option<(Session, Vec<WorkerLink>)> = None;
    while !end.load(Ordering::Acquire) {
        if let Ok(Some((connection, _))) = listener.accept() {
            waiting = Some(connection);
        }
        if let Some(connection) = waiting.take() {
            match serve_hello(connection, &statistics, &states) {
                Hello::Waiting(connection) => waiting = Some(connection),
                Hello::Attached(session, links) => attached = Some((session, links)),
                Hello::Refused(error) => return Err(format!("the control plane was refused: {error}")),
            }
        }
        if let Some((session, links)) = &mut attached {
            while let Ok(Some(offer)) = session.poll() {
                // A control plane that is gone is found out by whoever waits for the CLI.
                let _ = session.answer(offer.kind, offer.generation, AttachResult::OK, 0);
            }
            for link in links {
                while let Ok(Some(_)) = link.command() {}
            }
        }
        thread::park_timeout(ROUND);
    }
    Ok(())
}

fn configuration(directory: &Path) -> String {
    let path = |name: &str| directory.join(name);
    format!(
        "[dataplane]\ncores = [1]\nsocket = {:?}\n\n[control]\nsocket = {:?}\nmetrics = \"\"\nstate = {:?}\n\n[[port]]\nname = \"inside\"\ndevice = \"net_null0\"\nzone = \"inside\"\n\n[[zone]]\nname = \"inside\"\nside = \"inside\"\n",
        path("dataplane.sock"),
        path("control.sock"),
        path("state"),
    )
}

/// The CLI, with `words` behind its socket.
fn cli(bin: &Path, directory: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(bin.join("turnpike"));
    command.arg("--socket").arg(directory.join("control.sock")).args(["--json", "--quiet"]).args(words);
    command.stdin(Stdio::null()).stderr(Stdio::inherit());
    command
}

/// What came of a list.
struct Shown {
    spreads: [Spread; 2],
    rows: u64,
    seconds: f64,
    /// Most memory of the CLI and of the control plane, kB.
    memory: [u64; 2],
}

/// Packets by turns, while the CLI lists all flows and while it and the control plane rest.
fn measure(
    rig: &mut Rig,
    flows: u32,
    processes: [&mut Process; 2],
    done: &AtomicBool,
) -> Result<Shown, String> {
    let mut chunk = Chunk::new(CHUNK / BURST, BURST);
    let packets = chunk.packets();
    let mut generator = rig.mixed(flows);
    let mut spreads = [0; 2].map(|_| Spread::with_capacity(TURNS * TURN));
    let (mut memory, mut working, mut turns) = ([0; 2], Duration::ZERO, 0);
    while !done.load(Ordering::Acquire) {
        for (spread, rest) in spreads.iter_mut().zip([true, false]) {
            if rest && turns >= TURNS {
                continue;
            }
            processes.iter().for_each(|process| process.rest(rest));
            let began = Instant::now();
            for _ in 0..TURN {
                generator.fill(&mut chunk, &mut rig.stock);
                let passed = rig.pass(&mut chunk);
                rig.expect_sent(passed.sent, packets)?;
                if turns < TURNS {
                    spread.add(passed.ticks, packets);
                }
            }
            if !rest {
                working += began.elapsed();
            }
        }
        for (most, process) in memory.iter_mut().zip(&processes) {
            *most = process.memory().max(*most);
        }
        turns += 1;
    }
    Ok(Shown { spreads, rows: 0, seconds: working.as_secs_f64(), memory })
}

/// Starts the processes on the second processor, and measures.
fn show(rig: &mut Rig, flows: u32, state: &File, options: &Options, cpus: &[usize]) -> Result<Shown, String> {
    let directory = Directory(std::env::temp_dir().join(format!("turnpike-bench-{}", std::process::id())));
    let problem = |error: std::io::Error| format!("{}: {error}", directory.0.display());
    fs::create_dir(&directory.0).map_err(problem)?;
    let config = directory.0.join("turnpike.toml");
    fs::write(&config, configuration(&directory.0)).map_err(problem)?;
    let listener = Listener::bind(&directory.0.join("dataplane.sock"), 0o600)
        .map_err(|error| format!("the dataplane's socket: {error}"))?;
    let (end, done) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let serving = scope.spawn(|| machine::pin(cpus, 1).and_then(|()| serve(&listener, state, &end)));
        // What a thread starts runs where it does.
        let starting = scope.spawn(|| {
            machine::pin(cpus, 1)?;
            let mut command = Command::new(options.bin.join("turnpike-controlplane"));
            command.arg("--config").arg(&config).args(["--log", "error"]);
            let control = Process::start(&mut command)?;
            let deadline = Instant::now() + SOON;
            let one = ["show", "flows", "--limit", "1"];
            while !cli(&options.bin, &directory.0, &one)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
            {
                if Instant::now() > deadline {
                    return Err("turnpike show flows gets no answer: see --bin".to_owned());
                }
                thread::sleep(Duration::from_millis(50));
            }
            let all = ["show", "flows", "--all"];
            let list = Process::start(cli(&options.bin, &directory.0, &all).stdout(Stdio::piped()))?;
            Ok((list, control))
        });
        let started = starting.join().unwrap_or_else(|_| Err("starting the processes failed".to_owned()));
        let shown = started.and_then(|(mut list, mut control)| {
            let output = list.0.stdout.take().ok_or("the CLI has no output")?;
            let counting = scope.spawn(|| {
                let rows = machine::pin(cpus, 1).map(|()| {
                    let lines = BufReader::with_capacity(1 << 20, output).split(b'\n');
                    lines.map_while(Result::ok).filter(|line| line.starts_with(b"    {")).count() as u64
                });
                done.store(true, Ordering::Release);
                rows
            });
            let measured = measure(rig, flows, [&mut list, &mut control], &done);
            control.rest(false);
            if measured.is_err() {
                drop(list);
                return measured;
            }
            let rows = counting.join().unwrap_or_else(|_| Err("counting the rows failed".to_owned()))?;
            match list.0.wait() {
                Ok(status) if status.success() => measured.map(|shown| Shown { rows, ..shown }),
                Ok(status) => Err(format!("turnpike show flows: {status}")),
                Err(error) => Err(format!("turnpike show flows: {error}")),
            }
        });
        end.store(true, Ordering::Release);
        serving.join().unwrap_or_else(|_| Err("the dataplane's thread failed".to_owned()))?;
        shown
    })
}

/// Measures all rows.
///
/// # Errors
/// If a packet does not come through, a flow is not shown, or there are too few processors or too little memory.
pub fn run(options: &Options, cpus: &[usize], report: &mut Report) -> Result<(), String> {
    let columns = [
        ("flows", "flows"),
        ("alone", "alone, cycles/packet"),
        ("shown", "while shown"),
        ("ratio", "ratio"),
        ("seconds", "list, s"),
        ("rate", "rows/s"),
        ("cli", "CLI, MB"),
        ("control", "control plane, MB"),
    ];
    let mut table =
        Table::new("shown: whole engine, turnpike show flows --json --all by another processor", &columns);
    machine::describe(&mut table);
    table.condition(
        "packets",
        format!("64 bytes, both directions, random order, warm, turns of {TURN} chunks of {CHUNK}, median (p10..p90)"),
    );
    table.condition("turns", "the CLI and the control plane rest every other one; seconds are those at work");
    for &flows in &options.flows {
        report.note(&format!("shown: {} flows", short(flows)));
        let (mut rig, file, huge) = Rig::readable(flows)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        rig.engine.set_clock_base(u64::try_from(now.as_millis()).unwrap_or(0));
        rig.open((0, flows), 64, |_, _| ())?;
        let Shown { mut spreads, rows, seconds, memory } = show(&mut rig, flows, &file, options, cpus)?;
        if rows != u64::from(flows) {
            return Err(format!("{rows} of {flows} flows were shown"));
        }
        let [alone, shown] = spreads.each_mut().map(Spread::summary);
        let [cli, control] = memory.map(|kilobytes| kilobytes as f64 / 1000.0);
        table.row(vec![
            short(flows).into(),
            alone.into(),
            shown.into(),
            Cell::Number(shown.median / alone.median, 3),
            Cell::Number(seconds, 1),
            Cell::Number(rows as f64 / seconds, 0),
            Cell::Number(cli, 1),
            Cell::Number(control, 1),
        ]);
        if Some(&flows) == options.flows.last() {
            table.condition("pages", format!("of the flows {}", machine::pages(huge)));
        }
    }
    report.table(&table);
    Ok(())
}

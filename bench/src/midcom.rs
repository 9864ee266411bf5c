//! MIDCOM end to end: agents over TLS, the real control plane on a processor of its own, a worker with the real engine
//! in this process. How many pinholes a second, how long until the first packet passes, what a million of them take,
//! and how long a restart with them.

mod load;
mod site;

use crate::machine;
use crate::options::{count, short};
use crate::report::{Cell, Report, Table};
use load::{Line, Times};
use site::{Process, Site};
use std::cell::{Cell as Slot, RefCell};
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::{LocalSet, yield_now};
use turnpike_sim::attached::{Counts, Dataplane};
use turnpike_sim::packets::Build;

/// The dataplane, which is served without pause.
type Shared = Rc<RefCell<Dataplane>>;

/// The remote end that uses the pinholes.
const REMOTE: &str = "198.51.100.1";
/// Pinholes whose flows are watched over a restart.
const WATCHED: usize = 1000;
/// For anything that should end.
const PATIENCE: Duration = Duration::from_secs(120);

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Agents, each with a session of its own over TLS.
    #[arg(long, default_value_t = 16)]
    pub sessions: usize,
    /// Requests of a session under way at once.
    #[arg(long, default_value_t = 64)]
    pub depth: usize,
    /// Seconds for the rate.
    #[arg(long, default_value_t = 5)]
    pub seconds: u64,
    /// Requests a second while latencies are measured under load.
    #[arg(long, default_value_t = 10_000)]
    pub rate: u32,
    /// Requests whose latency is measured, without load and with.
    #[arg(long, default_value_t = 1000)]
    pub probes: u32,
    /// Rules for memory and restart.
    #[arg(long, value_parser = count, default_value = "1M")]
    pub rules: u32,
    /// Where the control plane's journal lies: what "durable" means is this disk's word.
    #[arg(long, default_value = "/var/tmp")]
    pub state: PathBuf,
    /// Where Turnpike's binaries are; left out: where this one is.
    #[arg(long)]
    bin: Option<PathBuf>,
}

/// Measures everything.
///
/// # Errors
/// If a request is refused, a packet is lost, or something cannot be started.
pub fn run(options: &Options, cpus: &[usize], report: &mut Report) -> Result<(), String> {
    let beside = || Some(std::env::current_exe().ok()?.parent()?.to_owned());
    let bin = options.bin.clone().or_else(beside).ok_or("where are the binaries? Say it with --bin")?;
    let control = *cpus.get(1).or(cpus.first()).ok_or("no processor: see --cpus")?;
    let site = Site::new(&options.state, &bin, control, options.sessions + 1, options.rules)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no event loop: {error}"))?;
    LocalSet::new().block_on(&runtime, async {
        let bench = Bench::new(options, site, report)?;
        // Not a task of its own: sockets are looked at after each of its rounds.
        tokio::select! {
            broken = bench.serve() => broken,
            done = bench.all(report) => done,
        }
    })
}

struct Bench<'a> {
    options: &'a Options,
    site: Site,
    dataplane: Shared,
    /// Numbers of pinholes given out.
    next: Rc<Slot<u32>>,
}

impl<'a> Bench<'a> {
    fn new(options: &'a Options, site: Site, report: &Report) -> Result<Self, String> {
        report.note("midcom: the worker's tables");
        let dataplane = Dataplane::new(&site.path("dataplane.sock"), 1, room(options))?;
        Ok(Self { options, site, dataplane: Rc::new(RefCell::new(dataplane)), next: Rc::default() })
    }

    /// Does the worker's work without pause, until it breaks.
    async fn serve(&self) -> Result<(), String> {
        loop {
            self.dataplane.borrow_mut().poll().map_err(|error| format!("the worker stopped: {error}"))?;
            yield_now().await;
        }
    }

    async fn all(&self, report: &mut Report) -> Result<(), String> {
        let mut process = self.site.start()?;
        // The last one is for what is not load.
        let mut lines = load::connect(&self.site, self.options.sessions + 1, self.options.depth).await?;
        self.until("a survey", |counts| counts.surveys > 0).await?;
        let result = self.measure(&mut process, &mut lines, report).await;
        result.map_err(|error| format!("{error}\n{}", self.site.log()))
    }

    async fn measure(
        &self,
        process: &mut Process,
        lines: &mut Vec<Line>,
        report: &mut Report,
    ) -> Result<(), String> {
        report.note("midcom: latency without load");
        let (load, probing) = lines.split_at(self.options.sessions);
        let agent = &probing.first().ok_or("no agent")?.0;
        let probes = self.options.probes;
        let quiet = load::probe(agent, &self.dataplane, &self.next, probes).await?;
        report.note(&format!("midcom: latency at {} requests a second", self.options.rate));
        let stop = Rc::new(Slot::new(false));
        let busy = async {
            let times = load::probe(agent, &self.dataplane, &self.next, probes).await;
            stop.set(true);
            times
        };
        let began = Instant::now();
        let paced = load::pace(load, &self.next, self.options.rate, &stop);
        let (busy, paced) = tokio::join!(busy, paced);
        let ((paced, most), busy) = (paced?, busy?);
        let rate = f64::from(paced) / began.elapsed().as_secs_f64();
        self.latencies(quiet, busy, (rate, most), report);

        report.note("midcom: rate");
        let before = (machine::processor_time(process.id()), machine::processor_time(std::process::id()));
        let (opened, took) = load::flood(
            load,
            &self.next,
            u32::MAX,
            Some(self.options.seconds),
            self.options.depth,
            |_, _| (),
        )
        .await?;
        let shares = [(process.id(), before.0), (std::process::id(), before.1)]
            .map(|(id, before)| (machine::processor_time(id) - before).as_secs_f64() / took.as_secs_f64());
        self.rates(f64::from(opened) / took.as_secs_f64(), shares, report);

        if self.options.rules > self.next.get() {
            report.note(&format!("midcom: {} rules", short(self.options.rules)));
        }
        let watched: Rc<RefCell<Vec<SocketAddrV4>>> = Rc::default();
        let watch = Rc::clone(&watched);
        let granted = move |number: u32, outside| {
            // From all over the table.
            if number.is_multiple_of(997) && watch.borrow().len() < WATCHED {
                watch.borrow_mut().push(outside);
            }
        };
        load::flood(load, &self.next, self.options.rules, None, self.options.depth, granted).await?;
        let resident = machine::resident(process.id());
        let rules = self.next.get();
        lines.clear();
        self.restarts(process, rules, resident, &watched.take(), report).await
    }

    /// Waits for what the worker counts, from the last time it was taken.
    async fn until(&self, what: &str, done: impl Fn(&Counts) -> bool) -> Result<Counts, String> {
        let began = Instant::now();
        loop {
            if done(&self.dataplane.borrow().counts) {
                return Ok(std::mem::take(&mut self.dataplane.borrow_mut().counts));
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("never: {what}"));
            }
            yield_now().await;
        }
    }

    fn table(&self, title: &str, columns: &[(&'static str, &'static str)]) -> Table {
        let mut table = Table::new(format!("midcom: {title}"), columns);
        machine::describe(&mut table);
        table.condition(
            "control plane",
            format!("one process on one processor, journal in {}", self.options.state.display()),
        );
        table.condition("agents and worker", "one thread on another processor");
        table
    }

    fn latencies(&self, quiet: Times, busy: Times, (rate, most): (f64, usize), report: &mut Report) {
        let columns = [
            ("load", "load, requests/s"),
            ("until", "from the request until"),
            ("p50", "p50, us"),
            ("p90", "p90, us"),
            ("p99", "p99, us"),
            ("max", "max, us"),
        ];
        let mut table = self.table("latency of PER, durable, over TLS", &columns);
        table.condition(
            "load",
            format!("{} sessions, at most {most} requests under way", self.options.sessions),
        );
        for (load, Times { replied, passed }) in [(0.0, quiet), (rate, busy)] {
            for (until, mut times) in [("its reply", replied), ("the first packet passed", passed)] {
                times.sort_unstable_by(f64::total_cmp);
                let at = |share: f64| {
                    let place = (share * times.len().saturating_sub(1) as f64).round() as usize;
                    Cell::Number(times.get(place).copied().unwrap_or(0.0), 0)
                };
                let quantiles = [at(0.5), at(0.9), at(0.99), at(1.0)];
                table.row([vec![Cell::Number(load, 0), until.into()], quantiles.to_vec()].concat());
            }
        }
        report.table(&table);
    }

    fn rates(&self, rate: f64, [control, agents]: [f64; 2], report: &mut Report) {
        let columns = [
            ("sessions", "sessions"),
            ("depth", "requests under way each"),
            ("rate", "PER/s"),
            ("control", "control plane, processors"),
            ("agents", "agents and worker, processors"),
        ];
        let mut table = self.table("PER transactions a second, durable, over TLS", &columns);
        table.row(vec![
            (self.options.sessions as u64).into(),
            (self.options.depth as u64).into(),
            Cell::Number(rate, 0),
            Cell::Number(control, 2),
            Cell::Number(agents, 2),
        ]);
        report.table(&table);
    }

    /// Kills the control plane and starts it again: beside the worker that has everything, then beside an empty one.
    async fn restarts(
        &self,
        process: &mut Process,
        rules: u32,
        resident: u64,
        watched: &[SocketAddrV4],
        report: &mut Report,
    ) -> Result<(), String> {
        let columns = [
            ("workers", "workers"),
            ("ready", "ready for agents, s"),
            ("replayed", "replayed, s"),
            ("busy", "processor time of that, s"),
            ("opened", "pinholes opened"),
            ("sent", "packets sent meanwhile"),
            ("lost", "lost"),
            ("resident", "resident afterwards, MiB"),
        ];
        let mut table = self.table("kill -9 and restart", &columns);
        table.condition("rules", short(rules));
        table.condition("resident before", format!("{} MiB", resident >> 20));
        for (name, kept) in [("have everything", true), ("start empty", false)] {
            report.note(&format!("midcom: restart, the workers {name}"));
            process.kill();
            if !kept {
                self.dataplane.borrow_mut().restart()?;
            }
            self.dataplane.borrow_mut().counts = Counts::default();
            let began = Instant::now();
            *process = self.site.start()?;
            let stop = Rc::new(Slot::new(false));
            let packets = self.packets(if kept { watched } else { &[] }, &stop);
            let replay = async {
                let ready = load::connect(&self.site, 1, 1).await.map(|lines| (lines, began.elapsed()));
                let wanted = if kept { 0 } else { u64::from(rules) };
                let counts =
                    self.until("the replay", |counts| counts.surveys > 0 && counts.opened >= wanted).await;
                stop.set(true);
                Ok::<_, String>((ready?, counts?, began.elapsed()))
            };
            let ((sent, lost), replayed) = tokio::join!(packets, replay);
            let ((_lines, ready), counts, replayed) = replayed?;
            table.row(vec![
                name.into(),
                Cell::Number(ready.as_secs_f64(), 2),
                Cell::Number(replayed.as_secs_f64(), 2),
                Cell::Number(machine::processor_time(process.id()).as_secs_f64(), 2),
                counts.opened.into(),
                sent.into(),
                lost.into(),
                (machine::resident(process.id()) >> 20).into(),
            ]);
        }
        report.table(&table);
        Ok(())
    }

    /// Sends a packet through one pinhole after the other, without pause; how many, and how many did not pass.
    async fn packets(&self, watched: &[SocketAddrV4], stop: &Slot<bool>) -> (u64, u64) {
        let (mut sent, mut lost) = (0, 0);
        let mut ends = watched.iter().cycle();
        while !stop.get() {
            if let Some(&outside) = ends.next() {
                sent += 1;
                lost += u64::from(!passes(&self.dataplane, outside));
            }
            yield_now().await;
        }
        (sent, lost)
    }
}

/// Hands the engine a packet of the remote end for an outside end, and says whether it came out inside.
fn passes(dataplane: &Shared, outside: SocketAddrV4) -> bool {
    let to = outside.ip().to_string();
    let packet = Build::udp((REMOTE, 5060), (&to, outside.port()), b"first");
    dataplane.borrow_mut().passes(&packet).is_some()
}

/// Bindings of the worker: the rules', and those of the rate before them.
fn room(options: &Options) -> usize {
    options.rules as usize + options.rules as usize / 4 + (1 << 20)
}

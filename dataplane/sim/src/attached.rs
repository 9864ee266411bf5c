//! The dataplane in this process: its side of the attachment over real shared memory, and workers with the real engine
//! behind it. A real control plane attaches to it; packets are handed to the engines by whoever tests or measures, there
//! are no ports.

use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use turnpike_abi::attach::AttachResult;
use turnpike_abi::command::{Kind, Slot, Walk, WalkTable};
use turnpike_abi::counters::Counter;
use turnpike_abi::event::{BindingRow, WalkEnd};
use turnpike_abi::flow::{StateHeader, StateLayout};
use turnpike_abi::stats::{Identity, InterfaceInfo, MainStats, field};
use turnpike_abi::table::TableKind;
use turnpike_abi::{InterfaceId, PortId, WorkerId};
use turnpike_engine::{Interface, Policy};
use turnpike_shm::attach::{Hello, Session, serve_hello};
use turnpike_shm::link::WorkerLink;
use turnpike_shm::memory::Memory;
use turnpike_shm::page::PageWriter;
use turnpike_shm::socket::{Connection, Listener};
use turnpike_shm::state::StateArrays;
use turnpike_shm::statistics::{CounterWords, Statistics};

use crate::packets::{Build, see};
use crate::tables::{ForwardingTable, address};
use crate::{Appliance, Steering, station};

/// The interface to inside hosts, 10.0.0.0/8.
pub const INSIDE: u16 = 0;
/// The interface to everybody else.
pub const OUTSIDE: u16 = 1;
/// Routers on both sides.
const ROUTERS: [&str; 2] = ["172.16.0.2", "192.0.2.2"];
/// Commands of a worker carried out before the next has its turn.
const COMMANDS: usize = 64;
/// Slots that the answer to one command takes at most.
const ANSWER: usize = 257;
/// Flows in the state files that are shown: the workers' own are not in them.
const SHOWN: usize = 1024;
/// Rows of a walk asked for at once.
const ROWS: u32 = 256;

/// What the control plane had the workers do since the counts were last taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Pinholes they were told to open.
    pub opened: u64,
    /// Walks over the first worker's leases that came to their end: the last part of a survey.
    pub surveys: u64,
}

/// Sees the workers as they are between two commands, as a packet that arrives there would.
pub type Watch = Box<dyn FnMut(&mut Dataplane) + Send>;

/// The dataplane.
pub struct Dataplane {
    appliance: Appliance,
    interfaces: Vec<Interface>,
    socket: PathBuf,
    listener: Option<Listener>,
    statistics: Statistics,
    pages: Vec<PageWriter<CounterWords>>,
    main: PageWriter<MainStats>,
    states: Vec<File>,
    _shown: Vec<StateArrays>,
    waiting: Option<Connection>,
    session: Option<(Session, Vec<WorkerLink>)>,
    began: Instant,
    /// Milliseconds since `began` at the last housekeeping.
    kept: u64,
    capacity: usize,
    /// What was done.
    pub counts: Counts,
    /// Called after each command.
    pub watch: Option<Watch>,
}

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn failed(what: &str) -> impl Fn(&dyn std::fmt::Display) -> String {
    move |error| format!("{what}: {error}")
}

impl Dataplane {
    /// A dataplane at `socket` whose `workers` have room for `capacity` bindings each, empty.
    ///
    /// # Errors
    /// If the socket or memory cannot be had.
    pub fn new(socket: &Path, workers: u8, capacity: usize) -> Result<Self, String> {
        let listener = Listener::bind(socket, 0o660)
            .map_err(|error| format!("cannot listen at {}: {error}", socket.display()))?;
        let statistics = Statistics::create(workers.into()).map_err(|error| failed("statistics")(&error))?;
        let interface = |index| Interface { port: PortId(index), vlan: 0, mac: station(index), mtu: 1500 };
        let interfaces = vec![interface(INSIDE), interface(OUTSIDE)];
        describe(&statistics, workers).map_err(|error| failed("statistics")(&error))?;
        let pages = (0..workers).map(|worker| statistics.worker(WorkerId(worker)));
        let pages = pages.collect::<Result<_, _>>().map_err(|error| failed("statistics")(&error))?;
        let main = statistics.main().map_err(|error| failed("statistics")(&error))?;
        let mut appliance = Appliance::bare(workers, interfaces.clone(), capacity);
        appliance.steer(if workers == 1 { Steering::Fixed(WorkerId(0)) } else { Steering::RoundRobin });
        let mut table = ForwardingTable { addresses: Vec::new(), routes: Vec::new() };
        table.address("172.16.0.1", 24, INSIDE);
        table.address("192.0.2.1", 24, OUTSIDE);
        table.route("10.0.0.0", 8, Some(ROUTERS[0]), INSIDE);
        table.route("0.0.0.0", 0, Some(ROUTERS[1]), OUTSIDE);
        appliance.forwarding(&table);
        let shown = (0..workers).map(|worker| state(WorkerId(worker)));
        let (states, shown) = shown.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        Ok(Self {
            appliance,
            interfaces,
            socket: socket.to_owned(),
            listener: Some(listener),
            statistics,
            pages,
            main,
            states,
            _shown: shown,
            waiting: None,
            session: None,
            began: Instant::now(),
            kept: 0,
            capacity,
            counts: Counts::default(),
            watch: None,
        })
    }

    /// An empty one in its place, at the same socket, that nobody watches.
    ///
    /// # Errors
    /// As [`Dataplane::new`].
    pub fn restart(&mut self) -> Result<(), String> {
        // Two cannot listen there.
        (self.listener, self.waiting, self.session) = (None, None, None);
        *self = Self::new(&self.socket.clone(), self.appliance.workers(), self.capacity)?;
        Ok(())
    }

    /// Does what there is to do without waiting: the attachment and timers once a millisecond, commands every time.
    ///
    /// # Errors
    /// If the control plane breaks the protocol.
    pub fn poll(&mut self) -> Result<(), String> {
        let now = self.began.elapsed().as_millis() as u64;
        if now > self.kept {
            self.appliance.advance(now - self.kept, now - self.kept);
            self.kept = now;
            self.attach()?;
            self.tables()?;
            self.publish();
        }
        for worker in 0..self.pages.len() {
            self.commands(worker)?;
        }
        self.tell()
    }

    fn attach(&mut self) -> Result<(), String> {
        if self.session.is_some() {
            return Ok(());
        }
        if self.waiting.is_none() {
            let Some(listener) = &self.listener else { return Ok(()) };
            let accepted = listener.accept().map_err(|error| format!("accepting: {error}"))?;
            self.waiting = accepted.map(|(connection, _)| connection);
        }
        let Some(connection) = self.waiting.take() else { return Ok(()) };
        match serve_hello(connection, &self.statistics, &self.states) {
            Hello::Waiting(connection) => self.waiting = Some(connection),
            Hello::Attached(session, links) => self.session = Some((session, links)),
            Hello::Refused(error) => return Err(format!("the control plane cannot attach: {error}")),
        }
        Ok(())
    }

    fn tables(&mut self) -> Result<(), String> {
        loop {
            let Some((session, _)) = &self.session else { return Ok(()) };
            match session.poll() {
                Ok(None) => return Ok(()),
                // It was killed.
                Err(_) => self.session = None,
                Ok(Some(offer)) => {
                    let table = offer.table.map_err(|error| format!("a table is unsound: {error}"))?;
                    if offer.kind == TableKind::POLICY {
                        let policy = Policy::decode(&table, &self.interfaces)
                            .map_err(|fault| format!("the policy table is unsound: {fault}"))?;
                        self.appliance.policy_decoded(&Arc::new(policy));
                    }
                    if session.answer(offer.kind, offer.generation, AttachResult::OK, 0).is_err() {
                        self.session = None;
                    }
                }
            }
        }
    }

    fn publish(&mut self) {
        for (worker, page) in self.pages.iter_mut().enumerate() {
            let mut counters = self.appliance.counters_of(worker).clone();
            counters.set(Counter::HeartbeatMs, wall_ms());
            page.publish(counters.words());
        }
        self.main.publish(&MainStats { buffers: 64, buffers_available: 64, ..MainStats::default() });
    }

    fn commands(&mut self, worker: usize) -> Result<(), String> {
        for _ in 0..COMMANDS {
            let Some(link) = self.link(worker) else { return Ok(()) };
            if !link.has_room(ANSWER).map_err(|_| "the event ring is broken")? {
                return Ok(());
            }
            let Some(slot) = link.command().map_err(|_| "the command ring is broken")? else { return Ok(()) };
            self.command(worker, &slot)?;
            self.tell()?;
            if let Some(mut watch) = self.watch.take() {
                watch(self);
                self.watch = Some(watch);
            }
        }
        Ok(())
    }

    fn link(&mut self, worker: usize) -> Option<&mut WorkerLink> {
        self.session.as_mut().and_then(|(_, links)| links.get_mut(worker))
    }

    /// Tells the control plane what the workers say, if there is one.
    fn tell(&mut self) -> Result<(), String> {
        for (worker, event) in std::mem::take(&mut self.appliance.events) {
            if let Some(link) = self.link(worker.index()) {
                link.send(&event).map_err(|error| format!("an answer has no room: {error:?}"))?;
            }
        }
        Ok(())
    }

    fn command(&mut self, worker: usize, slot: &Slot) -> Result<(), String> {
        self.appliance
            .command_raw(worker, slot)
            .map_err(|violation| format!("the engine refuses a command: {}", violation.0))?;
        match slot.header.kind {
            Kind::PINHOLE_ADD => self.counts.opened += 1,
            Kind::NEIGHBOURS_RESET => {
                let answer = std::mem::take(&mut self.appliance.events);
                for (interface, router) in [INSIDE, OUTSIDE].into_iter().zip(ROUTERS) {
                    self.appliance.neighbour(interface, address(router), station(0x100 + interface));
                }
                self.appliance.events = answer;
            }
            Kind::WALK if worker == 0 => {
                let Walk { table, .. } = slot.body();
                let end = self.appliance.events.last().map(|(_, event)| event.body::<WalkEnd>().cursor);
                if table == WalkTable::LEASES && end == Some(WalkEnd::DONE) {
                    self.counts.surveys += 1;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What the workers have in a table, asked of them as the control plane asks.
    ///
    /// # Panics
    /// If a worker refuses to say.
    pub fn walk(&mut self, table: WalkTable) -> Vec<BindingRow> {
        let told = std::mem::take(&mut self.appliance.events);
        let mut rows = Vec::new();
        for worker in 0..self.pages.len() {
            let mut cursor = 0;
            while cursor != WalkEnd::DONE {
                let walk = Walk { cursor, limit: ROWS, table };
                let sound = self.appliance.command_raw(worker, &Slot::new(Kind::WALK, u64::MAX, &walk));
                assert!(sound.is_ok(), "a walk is refused: {sound:?}");
                for (_, event) in self.appliance.events.drain(..) {
                    match event.header.kind {
                        Kind::BINDING_ROW => rows.push(event.body()),
                        Kind::WALK_END => cursor = event.body::<WalkEnd>().cursor,
                        _ => {}
                    }
                }
            }
        }
        self.appliance.events = told;
        rows
    }

    /// Hands the workers a packet of a remote end for an outside end, and says where inside it came out, if it did.
    ///
    /// # Panics
    /// If what came out is unsound.
    pub fn passes(&mut self, packet: &Build) -> Option<(IpAddr, u16)> {
        self.appliance.receive(OUTSIDE, &[&packet.frame(OUTSIDE)]);
        let mut passed = None;
        while let Some(sent) = self.appliance.sent() {
            if sent.port == PortId(INSIDE) {
                passed = Some(see(&sent.bytes).destination());
            }
        }
        passed
    }
}

/// Tells who this is and which interfaces it has.
fn describe(statistics: &Statistics, workers: u8) -> Result<(), turnpike_shm::segment::OutOfBounds> {
    for (id, name) in [(INSIDE, "inside"), (OUTSIDE, "outside")] {
        statistics.describe(&InterfaceInfo {
            name: field(name),
            // No kernel has devices of these numbers: addresses and routes are the workers' own.
            tap_index: 4_000_001 + u32::from(id),
            mtu: 1500,
            port: PortId(id),
            id: InterfaceId(id),
            mac: station(id),
            ..InterfaceInfo::default()
        })?;
    }
    statistics.identify(Identity {
        pid: std::process::id(),
        started_ms: wall_ms(),
        workers: workers.into(),
        ports: 2,
        interfaces: 2,
        dpdk_version: field("none"),
        version: field("sim"),
        ..Identity::default()
    })
}

/// The state file that is shown of a worker.
fn state(worker: WorkerId) -> Result<(File, StateArrays), String> {
    let header = StateHeader { flows: SHOWN as u32, flows_v6: 8, worker, ..StateHeader::default() };
    let bytes = StateLayout { flows: SHOWN, flows_v6: 8 }.length();
    let (mut memory, file) =
        Memory::nameless("turnpike-sim", bytes, false).map_err(|error| failed("memory")(&error))?;
    let shown = StateArrays::new(header, &mut memory).ok_or("too little memory for the state file")?;
    Ok((file, shown))
}

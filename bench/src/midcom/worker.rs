//! The dataplane in this process: its side of the attachment, and a worker with the real engine behind it. Packets
//! are handed to the engine by whoever measures; there are no ports.

use std::fs::File;
use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use turnpike_abi::attach::AttachResult;
use turnpike_abi::command::{Kind, Slot, Walk, WalkTable};
use turnpike_abi::counters::Counter;
use turnpike_abi::event::WalkEnd;
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
use turnpike_sim::packets::Build;
use turnpike_sim::tables::{ForwardingTable, address};
use turnpike_sim::{Appliance, Steering, station};

const INSIDE: u16 = 0;
const OUTSIDE: u16 = 1;
const WORKER: WorkerId = WorkerId(0);
/// Routers on both sides.
const ROUTERS: [&str; 2] = ["172.16.0.2", "192.0.2.2"];
/// The remote end that uses the pinholes.
pub const REMOTE: &str = "198.51.100.1";
/// Commands carried out before packets get their turn.
const COMMANDS: usize = 64;
/// Slots that the answer to one command takes at most.
const ANSWER: usize = 257;
/// Flows in the state file that is shown: this worker's own are not in it.
const SHOWN: usize = 1024;

/// What the control plane had the worker do since the counts were last taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Pinholes it was told to open.
    pub opened: u64,
    /// Walks over its leases that came to their end: the last part of a survey.
    pub surveys: u64,
}

/// The dataplane.
pub struct Dataplane {
    appliance: Appliance,
    interfaces: Vec<Interface>,
    listener: Option<Listener>,
    statistics: Statistics,
    page: PageWriter<CounterWords>,
    main: PageWriter<MainStats>,
    states: Vec<File>,
    _shown: StateArrays,
    waiting: Option<Connection>,
    session: Option<(Session, WorkerLink)>,
    began: Instant,
    /// Milliseconds since `began` at the last housekeeping.
    kept: u64,
    /// What was done.
    pub counts: Counts,
}

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

impl Dataplane {
    /// A dataplane at `socket` with room for `bindings`, empty.
    ///
    /// # Errors
    /// If the socket or memory cannot be had.
    pub fn new(socket: &Path, bindings: usize) -> Result<Self, String> {
        let io = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
        let listener = Listener::bind(socket, 0o660)
            .map_err(|error| io(&format!("cannot listen at {}", socket.display()), &error))?;
        let statistics = Statistics::create(1).map_err(|error| io("statistics", &error))?;
        let interface = |index| Interface { port: PortId(index), vlan: 0, mac: station(index), mtu: 1500 };
        let interfaces = vec![interface(INSIDE), interface(OUTSIDE)];
        for (id, name) in [(INSIDE, "inside"), (OUTSIDE, "outside")] {
            let info = InterfaceInfo {
                name: field(name),
                // No kernel has devices of these numbers: addresses and routes are this worker's own.
                tap_index: 4_000_001 + u32::from(id),
                mtu: 1500,
                port: PortId(id),
                id: InterfaceId(id),
                mac: station(id),
                ..InterfaceInfo::default()
            };
            statistics.describe(&info).map_err(|error| io("statistics", &error))?;
        }
        let identity = Identity {
            pid: std::process::id(),
            started_ms: wall_ms(),
            workers: 1,
            ports: 2,
            interfaces: 2,
            dpdk_version: field("none"),
            version: field("bench"),
            ..Identity::default()
        };
        statistics.identify(identity).map_err(|error| io("statistics", &error))?;
        let page = statistics.worker(WORKER).map_err(|error| io("statistics", &error))?;
        let main = statistics.main().map_err(|error| io("statistics", &error))?;
        let header =
            StateHeader { flows: SHOWN as u32, flows_v6: 8, worker: WORKER, ..StateHeader::default() };
        let bytes = StateLayout { flows: SHOWN, flows_v6: 8 }.length();
        let (mut memory, state) =
            Memory::nameless("turnpike-bench", bytes, false).map_err(|error| io("memory", &error))?;
        let shown = StateArrays::new(header, &mut memory).ok_or("too little memory for the state file")?;
        let mut appliance = Appliance::bare(1, interfaces.clone(), bindings);
        appliance.steer(Steering::Fixed(WORKER));
        let mut table = ForwardingTable { addresses: Vec::new(), routes: Vec::new() };
        table.address("172.16.0.1", 24, INSIDE);
        table.address("192.0.2.1", 24, OUTSIDE);
        table.route("10.0.0.0", 8, Some(ROUTERS[0]), INSIDE);
        table.route("0.0.0.0", 0, Some(ROUTERS[1]), OUTSIDE);
        appliance.forwarding(&table);
        Ok(Self {
            appliance,
            interfaces,
            listener: Some(listener),
            statistics,
            page,
            main,
            states: vec![state],
            _shown: shown,
            waiting: None,
            session: None,
            began: Instant::now(),
            kept: 0,
            counts: Counts::default(),
        })
    }

    /// An empty one in its place, at the same socket.
    ///
    /// # Errors
    /// As [`Dataplane::new`].
    pub fn restart(&mut self, socket: &Path, bindings: usize) -> Result<(), String> {
        // Two cannot listen there.
        (self.listener, self.session) = (None, None);
        *self = Self::new(socket, bindings)?;
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
        self.commands()
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
            Hello::Attached(session, links) => {
                self.session = links.into_iter().next().map(|link| (session, link));
            }
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
        let mut counters = self.appliance.counters();
        counters.set(Counter::HeartbeatMs, wall_ms());
        self.page.publish(counters.words());
        self.main.publish(&MainStats { buffers: 64, buffers_available: 64, ..MainStats::default() });
    }

    fn commands(&mut self) -> Result<(), String> {
        for _ in 0..COMMANDS {
            let Some((_, link)) = &mut self.session else { return Ok(()) };
            if !link.has_room(ANSWER).map_err(|_| "the event ring is broken")? {
                return Ok(());
            }
            let Some(slot) = link.command().map_err(|_| "the command ring is broken")? else { return Ok(()) };
            self.command(&slot)?;
            let Some((_, link)) = &mut self.session else { return Ok(()) };
            for (_, event) in self.appliance.events.drain(..) {
                link.send(&event).map_err(|error| format!("an answer has no room: {error:?}"))?;
            }
        }
        Ok(())
    }

    fn command(&mut self, slot: &Slot) -> Result<(), String> {
        self.appliance
            .command_raw(0, slot)
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
            Kind::WALK => {
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

    /// Hands the engine a packet of the remote end for an outside end, and says whether it came out inside.
    pub fn passes(&mut self, outside: SocketAddrV4) -> bool {
        let to = outside.ip().to_string();
        let frame = Build::udp((REMOTE, 5060), (&to, outside.port()), b"first").frame(OUTSIDE);
        self.appliance.receive(OUTSIDE, &[&frame]);
        let mut passed = false;
        while let Some(sent) = self.appliance.sent() {
            passed |= sent.port == PortId(INSIDE);
        }
        passed
    }
}

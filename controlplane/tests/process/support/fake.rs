//! The dataplane's side of the attachment with workers that keep bindings in a map and rows in a list.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use turnpike_abi::attach::AttachResult;
use turnpike_abi::command::{
    Kind, NeighbourClear, NeighbourSet, PinholeAdd, PinholeRemove, PortLease, Slot, Walk, WalkTable,
};
use turnpike_abi::counters::{Counter, Counters};
use turnpike_abi::event::{Ack, AckResult, BindingRow, PortsLogged, WalkEnd};
use turnpike_abi::flow::{StateHeader, StateLayout};
use turnpike_abi::stats::{Identity, InterfaceInfo, MainStats, PortStats, field};
use turnpike_abi::table::{AddressRecord, Reader, RouteRecord, TableKind, forwarding};
use turnpike_abi::{Address, InterfaceId, PortId, WorkerId, steering};
use turnpike_shm::attach::{Hello, Session, refuse, serve_hello};
use turnpike_shm::link::WorkerLink;
use turnpike_shm::memory::Memory;
use turnpike_shm::socket::{Connection, Listener};
use turnpike_shm::state::StateArrays;
use turnpike_shm::statistics::Statistics;

/// Rounds of the fake's loop.
const ROUND: Duration = Duration::from_millis(1);

/// What the fake knows and was told.
#[derive(Debug, Default)]
pub struct State {
    /// Kernel indices of the TAP twins, by interface.
    pub taps: [u32; 2],
    /// Commands by worker, in order, but for walks.
    pub commands: Vec<(WorkerId, Slot)>,
    /// Bytes and generation of the last table of each kind.
    pub policy: Option<(u64, Vec<u8>)>,
    pub forwarding: Option<(u64, Vec<u8>)>,
    /// Answer to the next policy tables.
    pub refuse_policy: bool,
    /// Answer to every PINHOLE_ADD but OK.
    pub refuse_pinholes: Option<AckResult>,
    /// Leave every PINHOLE_ADD without an answer.
    pub ignore_pinholes: bool,
    /// Pinholes by id, as they were added, and the port each got.
    pub pinholes: BTreeMap<u64, (PinholeAdd, Ack)>,
    pub leases: Vec<PortLease>,
    /// The workers' flows.
    pub flows: Vec<StateArrays>,
    /// Blocks that subscribers hold.
    pub blocks: Vec<(WorkerId, PortsLogged)>,
    /// Events to send.
    pub events: Vec<(WorkerId, Slot)>,
    /// Hits of the firewall's rules, the same of every worker.
    pub hits: Vec<u64>,
    /// Times somebody attached.
    pub attaches: u64,
    /// Break the first worker's event ring.
    pub corrupt: bool,
}

impl State {
    pub fn addresses(&self) -> Vec<AddressRecord> {
        let Some((_, bytes)) = &self.forwarding else { return Vec::new() };
        Reader::new(bytes).unwrap().section::<AddressRecord>(forwarding::ADDRESSES).unwrap().to_vec()
    }

    pub fn routes(&self) -> Vec<RouteRecord> {
        let Some((_, bytes)) = &self.forwarding else { return Vec::new() };
        Reader::new(bytes).unwrap().section::<RouteRecord>(forwarding::ROUTES).unwrap().to_vec()
    }

    pub fn neighbours_set(&self) -> Vec<(WorkerId, NeighbourSet)> {
        let of = self.commands.iter().filter(|(_, slot)| slot.header.kind == Kind::NEIGHBOUR_SET);
        of.map(|(worker, slot)| (*worker, slot.body())).collect()
    }

    pub fn neighbours_cleared(&self) -> Vec<(WorkerId, NeighbourClear)> {
        let of = self.commands.iter().filter(|(_, slot)| slot.header.kind == Kind::NEIGHBOUR_CLEAR);
        of.map(|(worker, slot)| (*worker, slot.body())).collect()
    }
}

/// A dataplane in a thread. Dropped, it is gone as if killed.
#[derive(Debug)]
pub struct Fake {
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    pub fn start(socket: &Path, workers: u8) -> Self {
        Self::with_taps(socket, workers, [4_000_001, 4_000_002])
    }

    pub fn with_taps(socket: &Path, workers: u8, taps: [u32; 2]) -> Self {
        let listener = Listener::bind(socket, 0o660).unwrap();
        let state = Arc::new(Mutex::new(State { taps, ..State::default() }));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopping) = (Arc::clone(&state), Arc::clone(&stop));
        let thread = std::thread::spawn(move || serve(&listener, workers, &shared, &stopping));
        Self { state, stop, thread: Some(thread) }
    }

    pub fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap())
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the fake dataplane panicked");
        }
    }
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn describe(statistics: &Statistics, workers: u8, taps: [u32; 2]) {
    let identity = Identity {
        pid: std::process::id(),
        started_ms: now_ms(),
        workers: workers.into(),
        ports: 2,
        interfaces: 2,
        dpdk_version: field("22.11.fake"),
        version: field("0.0.fake"),
        ..Identity::default()
    };
    for (id, name) in [(0u16, "inside"), (1, "outside")] {
        let info = InterfaceInfo {
            name: field(name),
            tap_index: taps[usize::from(id)],
            mtu: 1500,
            port: PortId(id),
            id: InterfaceId(id),
            mac: [2, 0, 0, 0, 0, id as u8],
            ..InterfaceInfo::default()
        };
        statistics.describe(&info).unwrap();
        let port =
            PortStats { name: field(name), link_up: 1, rx_packets: 7, mtu: 1500, ..PortStats::default() };
        statistics.port(PortId(id)).unwrap().publish(&port);
    }
    statistics.identify(identity).unwrap();
}

/// A state file for some flows.
fn state_file(worker: WorkerId, shared: &Mutex<State>) -> File {
    let header = StateHeader { flows: 1024, flows_v6: 8, worker, ..StateHeader::default() };
    let bytes = StateLayout { flows: 1024, flows_v6: 8 }.length();
    let (mut memory, file) = Memory::nameless("fake", bytes, false).unwrap();
    shared.lock().unwrap().flows.push(StateArrays::new(header, &mut memory).unwrap());
    file
}

fn serve(listener: &Listener, workers: u8, shared: &Mutex<State>, stop: &AtomicBool) {
    let statistics = Statistics::create(workers.into()).unwrap();
    let taps = shared.lock().unwrap().taps;
    describe(&statistics, workers, taps);
    let mut pages: Vec<_> = (0..workers).map(|w| statistics.worker(WorkerId(w)).unwrap()).collect();
    let mut hits: Vec<_> = (0..workers).map(|w| statistics.hits(WorkerId(w)).unwrap()).collect();
    let mut main = statistics.main().unwrap();
    let files: Vec<File> = (0..workers).map(|worker| state_file(WorkerId(worker), shared)).collect();
    let mut waiting: Option<Connection> = None;
    let mut session: Option<(Session, Vec<WorkerLink>)> = None;
    while !stop.load(Ordering::Relaxed) {
        if let Some((connection, _)) = listener.accept().unwrap() {
            match session {
                Some(_) => refuse(connection, AttachResult::BUSY),
                None => waiting = Some(connection),
            }
        }
        if let Some(connection) = waiting.take() {
            match serve_hello(connection, &statistics, &files) {
                Hello::Waiting(connection) => waiting = Some(connection),
                Hello::Attached(new, links) => {
                    shared.lock().unwrap().attaches += 1;
                    session = Some((new, links));
                }
                Hello::Refused(error) => panic!("{error}"),
            }
        }
        let mut state = shared.lock().unwrap();
        let gone = session.as_mut().is_some_and(|(session, links)| {
            state.corrupt || tables(session, &mut state).is_err() || !rings(links, workers, &mut state)
        });
        if gone {
            state.corrupt = false;
            session = None;
        }
        let generation = state.policy.as_ref().map_or(0, |(generation, _)| *generation);
        let words = [&[generation, state.hits.len() as u64], state.hits.as_slice()].concat();
        hits.iter_mut().for_each(|page| page.publish_first(&words));
        for (page, worker) in pages.iter_mut().zip(0u8..) {
            let mut counters = Counters::default();
            counters.set(Counter::HeartbeatMs, now_ms());
            let generation = |table: &Option<(u64, Vec<u8>)>| table.as_ref().map_or(0, |(number, _)| *number);
            counters.set(Counter::PolicyGeneration, generation(&state.policy));
            counters.set(Counter::ForwardingGeneration, generation(&state.forwarding));
            counters.set(Counter::Received, 100 + u64::from(worker));
            counters.set(Counter::Sent, 100 + u64::from(worker));
            counters.set(Counter::FlowsLimit, 1000);
            page.publish(counters.words());
        }
        main.publish(&MainStats { buffers: 64, buffers_available: 60, ..MainStats::default() });
        drop(state);
        std::thread::park_timeout(ROUND);
    }
}

fn tables(session: &Session, state: &mut State) -> Result<(), ()> {
    while let Some(offer) = session.poll().map_err(drop)? {
        let table = offer.table.expect("a sound table");
        assert_eq!(Reader::new(&table).unwrap().generation(), offer.generation);
        if offer.kind == TableKind::POLICY && state.refuse_policy {
            session.answer(offer.kind, offer.generation, AttachResult::TABLE, 88).map_err(drop)?;
            continue;
        }
        let place = match offer.kind {
            TableKind::POLICY => &mut state.policy,
            TableKind::FORWARDING => &mut state.forwarding,
            other => panic!("{other:?}"),
        };
        assert!(place.as_ref().is_none_or(|(before, _)| *before < offer.generation), "generations grow");
        *place = Some((offer.generation, table.to_vec()));
        session.answer(offer.kind, offer.generation, AttachResult::OK, 0).map_err(drop)?;
    }
    Ok(())
}

fn rings(links: &mut [WorkerLink], workers: u8, state: &mut State) -> bool {
    for (worker, slot) in std::mem::take(&mut state.events) {
        links[worker.index()].send(&slot).unwrap();
    }
    for (link, worker) in links.iter_mut().zip((0u8..).map(WorkerId)) {
        while link.has_room(257).unwrap_or(false) {
            let slot = match link.command() {
                Ok(Some(slot)) => slot,
                Ok(None) => break,
                Err(_) => return false,
            };
            for answer in command(worker, workers, &slot, state) {
                link.send(&answer).unwrap();
            }
        }
    }
    true
}

fn command(worker: WorkerId, workers: u8, slot: &Slot, state: &mut State) -> Vec<Slot> {
    let sequence = slot.header.sequence;
    if slot.header.kind == Kind::WALK {
        return walk(worker, sequence, &slot.body(), state);
    }
    state.commands.push((worker, *slot));
    let mut ack = Ack::default();
    match slot.header.kind {
        Kind::PINHOLE_ADD if state.ignore_pinholes => return Vec::new(),
        Kind::PINHOLE_ADD => ack = pinhole_add(worker, workers, &slot.body(), state),
        Kind::PINHOLE_REMOVE => {
            let PinholeRemove { id, .. } = slot.body();
            if state.pinholes.remove(&id).is_none() {
                ack.result = AckResult::NOT_FOUND;
            }
        }
        Kind::PORT_LEASE => {
            // Had before or not, it is the same lease.
            let lease = PortLease { again: 0, ..slot.body() };
            assert_eq!(steering::owner_of_port(lease.external_port, workers), worker);
            assert_ne!(lease.owner, worker);
            if !state.leases.contains(&lease) {
                state.leases.push(lease);
            }
        }
        Kind::PORT_RELEASE => {
            let lease = PortLease { again: 0, ..slot.body() };
            if lease.owner == worker {
                let uses =
                    |ack: &Ack| (ack.external, ack.external_port) == (lease.external, lease.external_port);
                if state.pinholes.values().any(|(_, ack)| uses(ack)) {
                    ack.result = AckResult::PORT_TAKEN;
                }
            } else {
                let before = state.leases.len();
                state.leases.retain(|other| *other != lease);
                if state.leases.len() == before {
                    ack.result = AckResult::NOT_FOUND;
                }
            }
        }
        Kind::NEIGHBOUR_SET | Kind::NEIGHBOUR_CLEAR | Kind::NEIGHBOURS_RESET => {}
        other => panic!("{other:?}"),
    }
    vec![Slot::new(Kind::ACK, sequence, &ack)]
}

fn pinhole_add(worker: WorkerId, workers: u8, add: &PinholeAdd, state: &mut State) -> Ack {
    assert_eq!(steering::owner_of_inside(add.inside, workers), worker);
    assert!(state.policy.is_some(), "a pinhole before the policy");
    let refuse = |result| Ack { result, ..Ack::default() };
    if let Some(result) = state.refuse_pinholes {
        return refuse(result);
    }
    if let Some((_, ack)) = state.pinholes.get(&add.id) {
        return *ack;
    }
    let mut ack = Ack::default();
    if add.flags & PinholeAdd::POOL != 0 {
        let leased = add.flags & PinholeAdd::LEASED != 0;
        ack.external_port = match add.external_port {
            0 => {
                let taken = |port| state.pinholes.values().any(|(_, ack)| ack.external_port == port);
                let free = |port: &u16| steering::owner_of_port(*port, workers) == worker && !taken(*port);
                (1024..=u16::MAX).find(free).unwrap()
            }
            port => {
                let own = steering::owner_of_port(port, workers) == worker;
                assert_eq!(own, !leased, "leased exactly where the port is another worker's");
                let held = state.leases.iter().any(|lease| {
                    lease.external_port == port && lease.external == add.external && lease.owner == worker
                });
                assert!(own || held, "a leased port without lease");
                port
            }
        };
        ack.external =
            if add.external.is_unspecified() { Address::v4([203, 0, 113, 16]) } else { add.external };
        let end = (add.protocol, ack.external, ack.external_port);
        if state
            .pinholes
            .values()
            .any(|(other, ack)| (other.protocol, ack.external, ack.external_port) == end)
        {
            return refuse(AckResult::PORT_TAKEN);
        }
    }
    state.pinholes.insert(add.id, (*add, ack));
    ack
}

fn walk(worker: WorkerId, sequence: u64, walk: &Walk, state: &State) -> Vec<Slot> {
    assert!((1..=256).contains(&walk.limit));
    let rows: Vec<Slot> = match walk.table {
        WalkTable::RESERVATIONS => Vec::new(),
        WalkTable::LEASES => state
            .leases
            .iter()
            .filter(|lease| steering::owner_of_port(lease.external_port, 2) == worker)
            .map(|lease| {
                let row = BindingRow {
                    external: lease.external,
                    external_port: lease.external_port,
                    pool: lease.pool,
                    protocol: lease.protocol,
                    worker: lease.owner,
                    ..BindingRow::default()
                };
                Slot::new(Kind::BINDING_ROW, sequence, &row)
            })
            .collect(),
        WalkTable::BLOCKS => {
            let own = state.blocks.iter().filter(|(owner, _)| *owner == worker);
            own.map(|(_, row)| Slot::new(Kind::PORTS_HELD, sequence, row)).collect()
        }
        _ => state
            .pinholes
            .values()
            .filter(|(add, _)| steering::owner_of_inside(add.inside, 2) == worker)
            .map(|(add, ack)| {
                let row = BindingRow {
                    inside: add.inside,
                    inside_port: add.inside_port,
                    external: ack.external,
                    external_port: ack.external_port,
                    pool: add.pool,
                    protocol: add.protocol,
                    pinhole: add.id,
                    remote_ports: [0, u16::MAX],
                    worker,
                    ..BindingRow::default()
                };
                Slot::new(Kind::BINDING_ROW, sequence, &row)
            })
            .collect(),
    };
    let from = usize::try_from(walk.cursor).unwrap().min(rows.len());
    let to = (from + walk.limit as usize).min(rows.len());
    let cursor = if to == rows.len() { WalkEnd::DONE } else { to as u64 };
    let end = WalkEnd { cursor, rows: (to - from) as u32, reserved: 0 };
    let mut slots = rows[from..to].to_vec();
    slots.push(Slot::new(Kind::WALK_END, sequence, &end));
    slots
}

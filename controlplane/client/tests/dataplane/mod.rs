//! A dataplane without packets: the socket, the rings and the pages of a real one, for tests of its peers.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};
use turnpike_abi::attach::AttachResult;
use turnpike_abi::command::{Kind, Slot};
use turnpike_abi::counters::{Counter, Counters};
use turnpike_abi::event::{Ack, AckResult};
use turnpike_abi::flow::{StateHeader, StateLayout, flag};
use turnpike_abi::stats::{Identity, InterfaceInfo, MainStats, PortStats, field};
use turnpike_abi::table::Reader;
use turnpike_abi::{InterfaceId, PortId, WorkerId};
use turnpike_shm::attach::{Departure, Hello, Session, refuse, serve_hello};
use turnpike_shm::link::WorkerLink;
use turnpike_shm::memory::Memory;
use turnpike_shm::socket::{Connection, Listener};
use turnpike_shm::state::StateArrays;
use turnpike_shm::statistics::Statistics;

pub const WORKERS: u8 = 2;

fn state(worker: u8) -> (File, StateArrays) {
    let header = StateHeader { flows: 4, worker: WorkerId(worker), ..StateHeader::default() };
    let bytes = StateLayout { flows: 4, flows_v6: 0 }.length();
    let (mut memory, file) = Memory::nameless("test", bytes, false).unwrap();
    let mut arrays = StateArrays::new(header, &mut memory).unwrap();
    if worker == 1 {
        let record = &mut arrays.records[2];
        (record.state, record.protocol, record.ports) = (flag::LIVE, 17, [0x14, 0xe9, 0, 53, 0x14, 0xe9]);
    }
    (file, arrays)
}

/// What it has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub attaches: u64,
    pub refused: u64,
    pub departures: u64,
    pub violations: u64,
    pub commands: u64,
    pub tables: u64,
    pub tables_refused: u64,
}

pub struct Dataplane {
    listener: Listener,
    statistics: Statistics,
    states: Vec<File>,
    /// Of each worker; worker 1 has one flow.
    _arrays: Vec<StateArrays>,
    waiting: Option<(Connection, Instant)>,
    attached: Option<(Session, Vec<WorkerLink>)>,
    pub seen: Seen,
}

impl Dataplane {
    pub fn new(path: &Path) -> Self {
        let statistics = Statistics::create(usize::from(WORKERS)).unwrap();
        let identity = Identity {
            pid: std::process::id(),
            workers: u16::from(WORKERS),
            ports: 1,
            interfaces: 1,
            ..Identity::default()
        };
        statistics.identify(identity).unwrap();
        let inside = InterfaceInfo { name: field("inside"), id: InterfaceId(0), ..InterfaceInfo::default() };
        statistics.describe(&inside).unwrap();
        statistics.port(PortId(0)).unwrap().publish(&PortStats { rx_packets: 11, ..PortStats::default() });
        statistics.main().unwrap().publish(&MainStats { buffers: 12, ..MainStats::default() });
        let mut counters = Counters::default();
        for worker in 0..WORKERS {
            counters.add(Counter::Received, 100);
            statistics.worker(WorkerId(worker)).unwrap().publish(counters.words());
        }
        let (states, _arrays) = (0..WORKERS).map(state).unzip();
        let listener = Listener::bind(path, 0o600).unwrap();
        Self { listener, statistics, states, _arrays, waiting: None, attached: None, seen: Seen::default() }
    }

    /// The control plane's heartbeat as it is seen here.
    pub fn heartbeat(&self) -> Option<u64> {
        self.attached.as_ref().map(|(session, _)| session.heartbeat())
    }

    /// One round of what the main thread and the workers of a dataplane do.
    pub fn step(&mut self) {
        if let Some((session, links)) = self.attached.take() {
            match Self::serve(&session, links, &mut self.seen) {
                Ok(links) => self.attached = Some((session, links)),
                Err(Departure::Closed) => self.seen.departures += 1,
                Err(Departure::Violation(result)) => {
                    self.seen.violations += 1;
                    session.detach(result);
                }
            }
        }
        if self.waiting.is_none()
            && let Some((connection, _)) = self.listener.accept().unwrap()
        {
            if self.attached.is_some() {
                self.seen.refused += 1;
                refuse(connection, AttachResult::BUSY);
            } else {
                self.waiting = Some((connection, Instant::now()));
            }
        }
        if let Some((connection, since)) = self.waiting.take() {
            match serve_hello(connection, &self.statistics, &self.states) {
                Hello::Waiting(connection) if since.elapsed() < Duration::from_millis(200) => {
                    self.waiting = Some((connection, since));
                }
                Hello::Waiting(_) | Hello::Refused(_) => self.seen.refused += 1,
                Hello::Attached(session, links) => {
                    self.seen.attaches += 1;
                    self.attached = Some((session, links));
                }
            }
        }
    }

    fn serve(
        session: &Session,
        mut links: Vec<WorkerLink>,
        seen: &mut Seen,
    ) -> Result<Vec<WorkerLink>, Departure> {
        let broken = |_| Departure::Violation(AttachResult::RING);
        for link in &mut links {
            // A bounded number a round, each with an answer, as a worker takes them.
            for _ in 0..32 {
                if !link.has_room(1).map_err(broken)? {
                    break;
                }
                let Some(command) = link.command().map_err(broken)? else { break };
                seen.commands += 1;
                if !(1..=8).contains(&command.header.kind.0) {
                    return Err(Departure::Violation(AttachResult::RING));
                }
                let ack = Ack { result: AckResult::NO_POLICY, ..Ack::default() };
                link.send(&Slot::new(Kind::ACK, command.header.sequence, &ack))
                    .map_err(|_| Departure::Violation(AttachResult::RING))?;
            }
        }
        if let Some(offer) = session.poll()? {
            let (result, offset) = match &offer.table {
                Err(_) => (AttachResult::SEGMENT, 0),
                Ok(table) => match Reader::new(table) {
                    Err(fault) => (AttachResult::TABLE, fault.offset),
                    Ok(_) => (AttachResult::OK, 0),
                },
            };
            if result == AttachResult::OK {
                seen.tables += 1;
            } else {
                seen.tables_refused += 1;
            }
            session.answer(offer.kind, offer.generation, result, offset)?;
        }
        Ok(links)
    }
}

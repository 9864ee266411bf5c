//! The log of the translator: which subscriber had which external ports when (RFC 6888 section 4, RFC 6302), a line
//! of JSON for each port block that comes or goes; and, where the operator asks for it, one for each flow that ended.
//!
//! Lines of blocks that were lost are made up for: whoever attaches asks every worker for the blocks that are held,
//! and asks again once a day.

use crate::attach::{Order, Walker};
use crate::daemon::Daemon;
use crate::lines::{LineLog, Lost};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;
use turnpike_abi::command::{Kind, Slot, Walk, WalkTable};
use turnpike_abi::event::{FlowEnded, PortsLogged, WalkEnd};
use turnpike_abi::{Address, WorkerId};
use turnpike_api::{Endpoint, FlowDirection, FlowState, Protocol, Timestamp};
use turnpike_config::Config;

/// Name of the file in `control.state` unless `log.file` names another.
const FILE: &str = "nat.jsonl";
/// Between two looks at the blocks that are held.
const AGAIN: Duration = Duration::from_secs(24 * 3600);
/// Rows a worker sends for one command.
const STEP: u32 = 256;

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A subscriber got ports.
    PortsAssigned,
    /// It has them no more.
    PortsReleased,
    /// It has them still.
    PortsHeld,
    /// A flow ended.
    FlowEnded,
}

impl Event {
    /// All of them, in the order of [`crate::facts::Facts::log_records`].
    pub const ALL: [Self; 4] = [Self::PortsAssigned, Self::PortsReleased, Self::PortsHeld, Self::FlowEnded];

    /// As it stands in lines and labels the metric.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PortsAssigned => "ports_assigned",
            Self::PortsReleased => "ports_released",
            Self::PortsHeld => "ports_held",
            Self::FlowEnded => "flow_ended",
        }
    }
}

/// A line to be.
#[derive(Debug)]
pub enum Line {
    /// Of ports.
    Ports {
        /// What about them.
        event: Event,
        /// Whose news it is.
        worker: WorkerId,
        /// Wall clock at 0 of its clock, milliseconds since the epoch.
        base_ms: u64,
        /// The pool of the address, if the configuration still has it.
        pool: Option<String>,
        /// Which ports.
        ports: PortsLogged,
    },
    /// Of a flow.
    Flow {
        /// Whose news it is.
        worker: WorkerId,
        /// See [`Line::Ports`].
        base_ms: u64,
        /// Whether the remote end is named (RFC 6888 REQ-12: only if the operator says so).
        destination: bool,
        /// The flow.
        flow: FlowEnded,
    },
}

/// A line's fields, in their order. What is not known is not there.
#[derive(Serialize)]
struct Fields {
    time: Timestamp,
    event: Event,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<Protocol>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<String>,
    inside: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    external: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ports: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    traffic: Option<Traffic>,
    worker: u8,
}

#[derive(Serialize)]
struct Traffic {
    last_packet: Timestamp,
    direction: FlowDirection,
    state: FlowState,
    packets_out: u64,
    packets_in: u64,
    bytes_out: u64,
    bytes_in: u64,
}

/// A line without its end.
pub fn line(line: &Line) -> String {
    let at = |base_ms: u64, clock_ms: u64| Timestamp(base_ms.saturating_add(clock_ms));
    let fields = match line {
        Line::Ports { event, worker, base_ms, pool, ports } => Fields {
            time: at(*base_ms, ports.at_ms),
            event: *event,
            cause: None,
            protocol: (ports.protocol != 0).then_some(Protocol(ports.protocol)),
            pool: pool.clone(),
            inside: ports.inside.to_string(),
            external: Some(ports.external.to_string()),
            remote: None,
            ports: Some(ports.ports().map(run).collect()),
            since: (ports.since_ms != PortsLogged::UNKNOWN).then(|| at(*base_ms, ports.since_ms)),
            traffic: None,
            worker: worker.0,
        },
        Line::Flow { worker, base_ms, destination, flow } => {
            let ([packets_out, packets_in], [bytes_out, bytes_in]) = (flow.packets, flow.bytes);
            let inbound = flow.flags & FlowEnded::INBOUND != 0;
            let translated = flow.flags & FlowEnded::TRANSLATED != 0;
            Fields {
                time: at(*base_ms, flow.ended_ms),
                event: Event::FlowEnded,
                cause: flow.cause().map(turnpike_abi::counters::FlowEnd::name),
                protocol: Some(Protocol(flow.protocol)),
                pool: None,
                inside: Endpoint::new(flow.inside, flow.inside_port).to_string(),
                external: translated.then(|| Endpoint::new(flow.external, flow.external_port).to_string()),
                remote: destination.then(|| Endpoint::new(flow.remote, flow.remote_port).to_string()),
                ports: None,
                since: Some(at(*base_ms, flow.began_ms)),
                traffic: Some(Traffic {
                    last_packet: at(*base_ms, flow.last_ms),
                    direction: if inbound { FlowDirection::Inbound } else { FlowDirection::Outbound },
                    state: FlowState(flow.state()),
                    packets_out,
                    packets_in,
                    bytes_out,
                    bytes_in,
                }),
                worker: worker.0,
            }
        }
    };
    serde_json::to_string(&fields).unwrap_or_default()
}

fn run([first, last]: [u16; 2]) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

/// The log as the daemon has it.
#[derive(Debug, Default)]
pub struct NatLog {
    file: Option<(PathBuf, LineLog<Line>)>,
    /// What earlier files lost.
    before: Lost,
    /// Lines by [`Event::ALL`].
    records: [u64; Event::ALL.len()],
    /// Lines for which there is no file.
    homeless: u64,
    /// Whether the workers in reach say which blocks come and go.
    blocks: bool,
    /// When they are asked for those that are held.
    again: Option<Instant>,
}

impl NatLog {
    /// Opens the file that a configuration names, if it wants anything logged. Where it cannot be opened, the log goes
    /// on in the file there was; what to tell the operator then.
    pub fn configure(&mut self, config: &Config) -> Option<String> {
        let log = &config.log;
        let path = log.file.clone().unwrap_or_else(|| config.control.state.join(FILE));
        if !(log.blocks || log.flows) || self.file.as_ref().is_some_and(|(open, _)| *open == path) {
            return None;
        }
        match LineLog::start(&path, "nat-log", line) {
            Ok(file) => {
                self.before = self.lost();
                self.file = Some((path, file));
                None
            }
            Err(error) => {
                let instead = self.file.as_ref().map_or_else(
                    || "nothing is logged".to_owned(),
                    |(open, _)| format!("the log goes on in {}", open.display()),
                );
                let path = path.display();
                let warning = format!(
                    "log.file: {path} cannot be opened ({error}): {instead}; make it writable and reload"
                );
                tracing::error!("{warning}");
                Some(warning)
            }
        }
    }

    fn note(&mut self, event: Event, line: Line) {
        let noted = match &self.file {
            Some((_, file)) => file.note(Box::new(line)),
            None => {
                self.homeless += 1;
                false
            }
        };
        if let (true, Some(count)) = (noted, self.records.get_mut(event as usize)) {
            *count += 1;
        }
    }

    /// Lines noted, by [`Event::ALL`].
    pub const fn records(&self) -> [u64; Event::ALL.len()] {
        self.records
    }

    /// Lines that were not written.
    pub fn lost(&self) -> Lost {
        let now = self.file.as_ref().map(|(_, file)| file.lost()).unwrap_or_default();
        Lost { full: self.before.full + now.full, failed: self.before.failed + now.failed + self.homeless }
    }
}

/// Whether an event is for the log.
pub fn is_logged(kind: Kind) -> bool {
    matches!(kind, Kind::PORTS_ASSIGNED | Kind::PORTS_RELEASED | Kind::FLOW_ENDED)
}

impl Daemon {
    /// A worker's news.
    pub(crate) fn logged(&mut self, worker: WorkerId, slot: &Slot) {
        let base_ms = self.dataplane.as_ref().map_or(0, |dataplane| {
            dataplane.states().get(worker.index()).map_or(0, turnpike_client::StateView::clock_base_ms)
        });
        let event = match slot.header.kind {
            Kind::PORTS_ASSIGNED => Event::PortsAssigned,
            Kind::PORTS_RELEASED => Event::PortsReleased,
            Kind::PORTS_HELD => Event::PortsHeld,
            _ => {
                let destination = self.running.config.log.destinations;
                let line = Line::Flow { worker, base_ms, destination, flow: slot.body() };
                return self.natlog.note(Event::FlowEnded, line);
            }
        };
        let ports: PortsLogged = slot.body();
        let pool = self.pool_of(ports.external);
        self.natlog.note(event, Line::Ports { event, worker, base_ms, pool, ports });
    }

    fn pool_of(&self, external: Address) -> Option<String> {
        let address = std::net::Ipv4Addr::from(external.to_v4()?);
        let mut pools = self.running.config.pools.iter();
        let has = |pool: &&turnpike_config::Pool| {
            pool.addresses.iter().any(|range| (range.first..=range.last).contains(&address))
        };
        pools.find(has).map(|pool| pool.name.as_str().to_owned())
    }

    /// The workers are on the policy: asks for the blocks that are held if they did not say so all along. `first` says
    /// that they were not heard before.
    pub(crate) fn log_in_force(&mut self, first: bool) {
        let blocks = self.running.config.log.blocks;
        if blocks && (first || !self.natlog.blocks) {
            self.natlog.again = Some(Instant::now());
        }
        self.natlog.blocks = blocks;
    }

    /// Nobody is there to be asked.
    pub(crate) fn log_detached(&mut self) {
        self.natlog.blocks = false;
        self.natlog.again = None;
    }

    /// Asks for the blocks that are held when it is time.
    pub(crate) fn log_due(&mut self, now: Instant) {
        let Some(dataplane) = self.dataplane.as_mut().filter(|_| self.natlog.blocks) else { return };
        if self.natlog.again.is_none_or(|again| again > now) {
            return;
        }
        self.natlog.again = Some(now + AGAIN);
        for worker in 0..dataplane.workers() {
            dataplane.order(WorkerId(worker), step(0));
        }
    }

    /// An event of a walk over blocks.
    pub(crate) fn blocks_walked(&mut self, worker: WorkerId, slot: &Slot) {
        match slot.header.kind {
            Kind::PORTS_HELD => self.logged(worker, slot),
            Kind::WALK_END => {
                let WalkEnd { cursor, .. } = slot.body();
                if let Some(dataplane) = self.dataplane.as_mut().filter(|_| cursor != WalkEnd::DONE) {
                    dataplane.order(worker, step(cursor));
                }
            }
            _ => tracing::warn!(worker = worker.0, "a worker does not say which blocks are held"),
        }
    }
}

fn step(cursor: u64) -> Order {
    Order::Walk(Walker::Log, Walk { cursor, table: WalkTable::BLOCKS, limit: STEP })
}

#[cfg(test)]
mod tests {
    use super::*;
    use turnpike_abi::counters::FlowEnd;

    fn ports(event: Event) -> Line {
        let mut ports = PortsLogged {
            inside: Address::v4([100, 64, 0, 7]),
            external: Address::v4([203, 0, 113, 5]),
            since_ms: 1000,
            at_ms: 61_500,
            ..PortsLogged::default()
        };
        (ports.runs[0], ports.runs[1]) = ([1024, 1535], [2048, 2559]);
        Line::Ports {
            event,
            worker: WorkerId(1),
            base_ms: 1_800_000_000_000,
            pool: Some("public".into()),
            ports,
        }
    }

    fn flow(destination: bool) -> Line {
        let flow = FlowEnded {
            inside: Address::v4([100, 64, 0, 7]),
            external: Address::v4([203, 0, 113, 5]),
            remote: Address::v4([198, 51, 100, 9]),
            began_ms: 128,
            last_ms: 400,
            ended_ms: 300_400,
            packets: [3, 2],
            bytes: [180, 120],
            inside_port: 5000,
            external_port: 1100,
            remote_port: 53,
            protocol: 17,
            cause: FlowEnd::Timeout.index() as u8,
            flags: FlowEnded::TRANSLATED,
            ..FlowEnded::default()
        };
        Line::Flow { worker: WorkerId(0), base_ms: 1_800_000_000_000, destination, flow }
    }

    /// CGN-L: protocol, subscriber, external address and ports, and the time in UTC.
    #[test]
    fn cgn_l_a_line_says_who_had_which_ports_when() {
        assert_eq!(
            line(&ports(Event::PortsReleased)),
            r#"{"time":"2027-01-15T08:01:01.500Z","event":"ports_released","pool":"public","inside":"100.64.0.7","external":"203.0.113.5","ports":["1024-1535","2048-2559"],"since":"2027-01-15T08:00:01.000Z","worker":1}"#
        );
    }

    /// CGN-12: the remote end is named only if the operator says so.
    #[test]
    fn cgn_12_destinations_are_not_logged_unless_the_operator_says_so() {
        assert_eq!(
            line(&flow(true)),
            r#"{"time":"2027-01-15T08:05:00.400Z","event":"flow_ended","cause":"timeout","protocol":"udp","inside":"100.64.0.7:5000","external":"203.0.113.5:1100","remote":"198.51.100.9:53","since":"2027-01-15T08:00:00.128Z","last_packet":"2027-01-15T08:00:00.400Z","direction":"outbound","state":"none","packets_out":3,"packets_in":2,"bytes_out":180,"bytes_in":120,"worker":0}"#
        );
        let without = line(&flow(false));
        assert!(!without.contains("198.51.100.9") && !without.contains("remote"), "{without}");
    }

    /// What a broken dataplane sends makes some line.
    #[test]
    fn any_numbers_make_a_line() {
        let ports = PortsLogged { since_ms: u64::MAX - 1, at_ms: u64::MAX, ..PortsLogged::default() };
        let odd = Line::Ports {
            event: Event::PortsHeld,
            worker: WorkerId(9),
            base_ms: u64::MAX,
            pool: None,
            ports,
        };
        assert!(line(&odd).starts_with(r#"{"time":"#));
        let flow = FlowEnded { cause: 255, state: 255, ended_ms: u64::MAX, ..FlowEnded::default() };
        let odd = Line::Flow { worker: WorkerId(9), base_ms: u64::MAX, destination: true, flow };
        assert!(line(&odd).contains(r#""event":"flow_ended","protocol":"#));
    }
}

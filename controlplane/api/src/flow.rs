//! Flows and bindings as the outside sees them.

use crate::address::as_text;
use crate::{Endpoint, ParseError, PortRange, Prefix, Protocol};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use turnpike_abi::WorkerId;
use turnpike_abi::counters::{ProtocolClass, TcpState};
use turnpike_abi::event::BindingRow;
use turnpike_abi::flow::FlowRow;
use turnpike_abi::table::SettingsRecord;

/// State of a TCP flow by the name that metrics use; `none` for other protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowState(pub TcpState);

impl fmt::Display for FlowState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0.name())
    }
}

impl FromStr for FlowState {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        TcpState::ALL.iter().find(|state| state.name() == text).map(|&state| Self(state)).ok_or_else(|| {
            let names: Vec<_> = TcpState::ALL.iter().map(|state| state.name()).collect();
            ParseError::new(text, format!("a state: {}", names.join(", ")))
        })
    }
}

as_text!(FlowState);

/// Who sent a flow's first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowDirection {
    /// The inside end.
    Outbound,
    /// The remote end.
    Inbound,
}

impl fmt::Display for FlowDirection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Outbound => "out",
            Self::Inbound => "in",
        })
    }
}

/// A flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowData {
    /// IP protocol.
    pub protocol: Protocol,
    /// TCP state.
    pub state: FlowState,
    /// Who opened it.
    pub direction: FlowDirection,
    /// The subscriber's end; of a flow between two that are not translated, the end that opened it.
    pub inside: Endpoint,
    /// What the remote end takes for the inside end; `null` if the flow is not translated.
    pub external: Option<Endpoint>,
    /// The other end as `inside` addresses it.
    pub remote: Endpoint,
    /// Packets from `inside`.
    pub packets_out: u64,
    /// Packets to `inside`.
    pub packets_in: u64,
    /// Bytes of IP from `inside`.
    pub bytes_out: u64,
    /// Bytes of IP to `inside`.
    pub bytes_in: u64,
    /// Seconds since the first packet.
    pub age_seconds: u64,
    /// Seconds since the last packet that counts against the timeout.
    pub idle_seconds: u64,
    /// Seconds of idleness after which it ends.
    pub timeout_seconds: u64,
    /// The worker that owns it.
    pub worker: u32,
}

impl FlowData {
    /// From a row of `worker`, whose timeouts `settings` says.
    #[must_use]
    pub fn from_row(row: &FlowRow, worker: WorkerId, settings: &SettingsRecord) -> Self {
        let end = |(address, port)| Endpoint::new(address, port);
        let ([packets_out, packets_in], [bytes_out, bytes_in]) = (row.packets, row.bytes);
        Self {
            protocol: Protocol(row.protocol),
            state: FlowState(row.state),
            direction: if row.inbound { FlowDirection::Inbound } else { FlowDirection::Outbound },
            inside: end(row.inside),
            external: row.translated.then(|| end(row.external)),
            remote: end(row.remote),
            packets_out,
            packets_in,
            bytes_out,
            bytes_in,
            age_seconds: row.age_ms / 1000,
            idle_seconds: row.idle_ms / 1000,
            timeout_seconds: settings.timeout_ms(ProtocolClass::of(row.protocol), row.state) / 1000,
            worker: u32::from(worker.0),
        }
    }
}

/// A binding, or a pinhole of the firewall.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingData {
    /// IP protocol.
    pub protocol: Protocol,
    /// Inside end.
    pub inside: Endpoint,
    /// External end; `null` for a pinhole that is not translated.
    pub external: Option<Endpoint>,
    /// Name of the pool of `external`.
    pub pool: Option<String>,
    /// The pinhole it belongs to; `null` if traffic made it.
    pub pinhole: Option<u64>,
    /// Who may use a pinhole; `null` for everybody.
    pub remote: Option<Prefix>,
    /// From which ports; `null` for all.
    pub remote_ports: Option<PortRange>,
    /// Flows that use it.
    pub flows: u64,
    /// Seconds since it was made.
    pub age_seconds: u64,
    /// The worker that owns it.
    pub worker: u32,
}

impl BindingData {
    /// From a worker's row; `pool` is the name of the row's pool.
    #[must_use]
    pub fn from_row(row: &BindingRow, pool: Option<&str>) -> Self {
        let translated = row.pool != BindingRow::NO_POOL;
        let [first, last] = row.remote_ports;
        let ports = PortRange { first, last };
        let pinhole = (row.pinhole != 0).then_some(row.pinhole);
        Self {
            protocol: Protocol(row.protocol),
            inside: Endpoint::new(row.inside, row.inside_port),
            external: translated.then(|| Endpoint::new(row.external, row.external_port)),
            pool: pool.filter(|_| translated).map(Into::into),
            pinhole,
            remote: pinhole.and_then(|_| Prefix::from_shared(row.remote)),
            remote_ports: pinhole.map(|_| ports).filter(|ports| *ports != PortRange::ALL),
            flows: u64::from(row.flows),
            age_seconds: row.age_ms / 1000,
            worker: u32::from(row.worker.0),
        }
    }
}

//! What `turnpike` (the CLI) and `turnpike-controlplane` say to each other over a unix stream socket.
//!
//! One JSON object a line in each direction: a [`Request`] up, an [`Envelope`] or an error down, in order.
//! `turnpike --json` prints the same envelopes, so every type here is a public format: fields are added,
//! never renamed, removed or given another meaning without a new number in [`Payload::SCHEMA`].
//!
//! Numbers are integers with their unit in the name, shares are `_ratio` from 0 to 1, addresses are strings,
//! times are RFC 3339 in UTC, what is absent is `null`.
#![forbid(unsafe_code)]

pub mod address;
pub mod client;
pub mod data;
pub mod envelope;
mod firewall;
pub mod flow;
mod nat;
pub mod request;
pub mod rule;
pub mod serve;
pub mod timestamp;

pub use address::{Endpoint, EndpointPattern, ParseError, PortRange, Prefix, Protocol};
pub use client::{Client, ClientError};
pub use data::{
    BufferUse, ConfigData, ConfigSummary, Conservation, ControlplaneInfo, Cycles, DataplaneInfo, DropData,
    DropSummary, DropsData, InterfaceData, NeighbourData, NeighbourState, PinholeData, PinholeState,
    PoolData, PoolFill, PortData, PortRate, PortsInUse, ReloadData, RouteData, RouteKind, StatusData,
    SteeringData, Traffic, Usage, VersionData, WorkerData, WorkerLoad,
};
pub use envelope::{Envelope, ErrorBody, ErrorCode, Payload};
pub use firewall::FirewallRuleData;
pub use flow::{BindingData, FlowData, FlowDirection, FlowState};
pub use nat::{NatForwardData, NatReverseData, PortHolder};
pub use request::{
    BindingFilter, BindingsRequest, FlowFilter, FlowsRequest, NatForward, NatReverse, PinholeAdd,
    PinholeProtocol, PinholeRemove, Request,
};
pub use rule::{
    AgentData, GroupData, GroupsRequest, RuleAction, RuleData, RuleDelete, RuleDirection, RuleFilter,
    RulesRequest, SessionData,
};
pub use timestamp::Timestamp;

/// Where the control plane listens unless `control.socket` says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/turnpike/control.sock";

/// Version of this protocol. Grows when a request or response changes so that an older peer would go wrong.
pub const API_VERSION: u32 = 1;

/// Longest request line in bytes, its newline included.
pub const MAX_REQUEST: usize = 64 << 10;

/// Longest response line in bytes that a client accepts.
pub const MAX_RESPONSE: usize = 64 << 20;

/// Most rows of flows or bindings in one response.
pub const MAX_PAGE: u32 = 1000;

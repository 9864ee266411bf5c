//! What can be asked.

use crate::rule::{GroupsRequest, RuleDelete, RulesRequest, check_page};
use crate::{
    BindingData, EndpointPattern, ErrorBody, ErrorCode, FlowData, FlowState, PortRange, Prefix, Protocol,
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// One line to the control plane: `{"request": "flows", ...}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Answered with [`crate::StatusData`].
    Status,
    /// Answered with `Vec<`[`crate::PortData`]`>`.
    Ports,
    /// Answered with `Vec<`[`crate::WorkerData`]`>`.
    Workers,
    /// Answered with a page of [`FlowData`].
    Flows(FlowsRequest),
    /// Answered with a page of [`BindingData`].
    Bindings(BindingsRequest),
    /// Answered with `Vec<`[`crate::PoolData`]`>`.
    Pools,
    /// Answered with `Vec<`[`crate::NeighbourData`]`>`.
    Neighbours,
    /// The forwarding table as mirrored. Answered with `Vec<`[`crate::RouteData`]`>`.
    Routes,
    /// The firewall's static rules. Answered with `Vec<`[`crate::FirewallRuleData`]`>`.
    Firewall,
    /// Answered with [`crate::DropsData`].
    Drops,
    /// Answered with [`crate::ConfigData`].
    Config,
    /// Read the configuration file again. Answered with [`crate::ReloadData`].
    ConfigReload,
    /// Answered with [`crate::PinholeData`], external end included.
    PinholeAdd(PinholeAdd),
    /// Answered with `Vec<`[`crate::PinholeData`]`>`.
    PinholeList,
    /// Answered with the [`crate::PinholeData`] that was removed.
    PinholeRemove(PinholeRemove),
    /// Where a deterministic pool maps an inside address. Answered with [`crate::NatForwardData`].
    NatForward(NatForward),
    /// Whose port it is. Answered with [`crate::NatReverseData`].
    NatReverse(NatReverse),
    /// Answered with a page of [`crate::RuleData`].
    Rules(RulesRequest),
    /// Answered with the [`crate::RuleData`] that was deleted.
    RuleDelete(RuleDelete),
    /// Answered with a page of [`crate::GroupData`].
    Groups(GroupsRequest),
    /// Answered with `Vec<`[`crate::AgentData`]`>`.
    Agents,
    /// Answered with `Vec<`[`crate::SessionData`]`>`.
    Sessions,
    /// Answered with [`crate::VersionData`].
    Version,
}

impl Request {
    /// Whether it changes something, which takes the operator's role.
    #[must_use]
    pub const fn mutates(&self) -> bool {
        match self {
            Self::ConfigReload | Self::PinholeAdd(_) | Self::PinholeRemove(_) | Self::RuleDelete(_) => true,
            Self::Status
            | Self::Ports
            | Self::Workers
            | Self::Flows(_)
            | Self::Bindings(_)
            | Self::Pools
            | Self::Neighbours
            | Self::Routes
            | Self::Firewall
            | Self::Drops
            | Self::Config
            | Self::PinholeList
            | Self::NatForward(_)
            | Self::NatReverse(_)
            | Self::Rules(_)
            | Self::Groups(_)
            | Self::Agents
            | Self::Sessions
            | Self::Version => false,
        }
    }

    /// Checks the values that their types do not.
    ///
    /// # Errors
    /// [`ErrorCode::BadRequest`], naming the field.
    pub fn check(&self) -> Result<(), ErrorBody> {
        match self {
            Self::Flows(FlowsRequest { limit, cursor, .. })
            | Self::Bindings(BindingsRequest { limit, cursor, .. }) => {
                if !(1..=crate::MAX_PAGE).contains(limit) {
                    return Err(bad(format!("limit is {limit}, allowed are 1 to {}", crate::MAX_PAGE)));
                }
                if cursor.as_ref().is_some_and(|cursor| cursor.len() > 256) {
                    return Err(bad("cursor is not one that a response gave".into()));
                }
                Ok(())
            }
            Self::PinholeAdd(add) => add.check(),
            Self::Rules(request) => check_page(request.limit, request.cursor.as_deref()),
            Self::Groups(request) => check_page(request.limit, request.cursor.as_deref()),
            _ => Ok(()),
        }
    }
}

fn bad(message: String) -> ErrorBody {
    ErrorBody::new(ErrorCode::BadRequest, message)
}

/// A page of flows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowsRequest {
    /// Which.
    #[serde(default)]
    pub filter: FlowFilter,
    /// `next_cursor` of the page before; `null` for the first.
    #[serde(default)]
    pub cursor: Option<String>,
    /// Most rows, 1 to [`crate::MAX_PAGE`]. A page may hold fewer, even none, and still not be the last.
    pub limit: u32,
}

/// A page of bindings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BindingsRequest {
    /// Which.
    #[serde(default)]
    pub filter: BindingFilter,
    /// `next_cursor` of the page before; `null` for the first.
    #[serde(default)]
    pub cursor: Option<String>,
    /// Most rows, 1 to [`crate::MAX_PAGE`]. A page may hold fewer, even none, and still not be the last.
    pub limit: u32,
}

/// Which flows; what is `null` does not restrict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlowFilter {
    /// Inside address or prefix. A hairpin is two flows, one of each inside end.
    pub subscriber: Option<Prefix>,
    /// IP protocol.
    pub protocol: Option<Protocol>,
    /// TCP state.
    pub state: Option<FlowState>,
    /// External end.
    pub external: Option<EndpointPattern>,
    /// Remote end.
    pub remote: Option<EndpointPattern>,
}

impl FlowFilter {
    /// Whether nothing is restricted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether `flow` is one of them.
    #[must_use]
    pub fn matches(&self, flow: &FlowData) -> bool {
        self.subscriber.is_none_or(|prefix| prefix.contains(flow.inside.address))
            && self.protocol.is_none_or(|protocol| protocol == flow.protocol)
            && self.state.is_none_or(|state| state == flow.state)
            && self.external.is_none_or(|pattern| flow.external.is_some_and(|end| pattern.matches(&end)))
            && self.remote.is_none_or(|pattern| pattern.matches(&flow.remote))
    }
}

/// Which bindings; what is `null` does not restrict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BindingFilter {
    /// Inside address or prefix.
    pub subscriber: Option<Prefix>,
    /// IP protocol.
    pub protocol: Option<Protocol>,
    /// External end.
    pub external: Option<EndpointPattern>,
    /// Pinholes alone.
    pub pinholes: bool,
}

impl BindingFilter {
    /// Whether nothing is restricted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether `binding` is one of them.
    #[must_use]
    pub fn matches(&self, binding: &BindingData) -> bool {
        self.subscriber.is_none_or(|prefix| prefix.contains(binding.inside.address))
            && self.protocol.is_none_or(|protocol| protocol == binding.protocol)
            && self.external.is_none_or(|pattern| binding.external.is_some_and(|end| pattern.matches(&end)))
            && (!self.pinholes || binding.pinhole.is_some())
    }
}

/// Protocols that a pinhole can be for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PinholeProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl PinholeProtocol {
    /// The IP protocol number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for PinholeProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Protocol(self.number()).fmt(f)
    }
}

/// Opens a pinhole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinholeAdd {
    /// TCP or UDP.
    pub protocol: PinholeProtocol,
    /// The inside host's end; its port is not 0.
    pub inside: crate::Endpoint,
    /// The external end; what is `null` the box chooses.
    #[serde(default)]
    pub external: Option<EndpointPattern>,
    /// Who may use it; `null` for everybody. Of the family of `inside`.
    #[serde(default)]
    pub remote: Option<Prefix>,
    /// From which ports; `null` for all.
    #[serde(default)]
    pub remote_ports: Option<PortRange>,
    /// Seconds until it ends by itself, at least 1; `null` for never.
    #[serde(default)]
    pub lifetime_seconds: Option<u32>,
    /// Name of the pool of the external end; `null` for the one that the NAT rules give the inside host.
    #[serde(default)]
    pub pool: Option<String>,
    /// What it is for, at most [`PinholeAdd::MAX_NOTE`] bytes in one line.
    #[serde(default)]
    pub note: Option<String>,
}

impl PinholeAdd {
    /// Longest note in bytes.
    pub const MAX_NOTE: usize = 200;

    /// Checks what the types do not.
    ///
    /// # Errors
    /// [`ErrorCode::BadRequest`], naming the field.
    pub fn check(&self) -> Result<(), ErrorBody> {
        if self.inside.port == 0 {
            return Err(bad(format!("inside {}: the port is 0", self.inside)));
        }
        if self.inside.address.is_unspecified() || self.inside.address.is_multicast() {
            return Err(bad(format!("inside {}: not the address of a host", self.inside)));
        }
        if self.external.is_some_and(|end| end.port == Some(0)) {
            return Err(bad("external: the port is 0; leave it out to let the box choose".into()));
        }
        if let Some(remote) =
            self.remote.filter(|remote| remote.address().is_ipv4() != self.inside.address.is_ipv4())
        {
            return Err(bad(format!("remote {remote}: not of the family of inside {}", self.inside)));
        }
        if let Some(ports) = self.remote_ports.filter(|ports| ports.first > ports.last) {
            return Err(bad(format!("remote_ports {ports}: the first is above the last")));
        }
        if self.lifetime_seconds == Some(0) {
            return Err(bad("lifetime_seconds is 0; leave it out for no end".into()));
        }
        match &self.note {
            Some(note) if note.len() > Self::MAX_NOTE => {
                Err(bad(format!("note is {} bytes long, allowed are {}", note.len(), Self::MAX_NOTE)))
            }
            Some(note) if note.chars().any(char::is_control) => {
                Err(bad("note holds a control character; it is one line of text".into()))
            }
            _ => Ok(()),
        }
    }
}

/// Closes a pinhole and cuts the flows that use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinholeRemove {
    /// [`crate::PinholeData::id`].
    pub id: u64,
}

/// An inside address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatForward {
    /// The inside address.
    pub inside: std::net::Ipv4Addr,
    /// When; `null` for now.
    #[serde(default)]
    pub time: Option<crate::Timestamp>,
}

/// An external address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatReverse {
    /// The external address.
    pub external: std::net::Ipv4Addr,
    /// The external port or query identifier.
    pub port: u16,
    /// When; `null` for now.
    #[serde(default)]
    pub time: Option<crate::Timestamp>,
}

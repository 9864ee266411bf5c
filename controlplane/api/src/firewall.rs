//! The firewall's static rules: those of the configuration.

use crate::{PortRange, Prefix, Protocol};
use serde::{Deserialize, Serialize};

/// A static rule. What is `null` does not restrict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirewallRuleData {
    /// Its place among the `[[rule]]` sections, from 1. The first that matches decides.
    pub rule: u32,
    /// Zone that flows come from.
    pub from: Option<String>,
    /// Zone they go to.
    pub to: Option<String>,
    /// 4 or 6.
    pub family: Option<u8>,
    /// IP protocol. ICMP stands for ICMPv6 too.
    pub protocol: Option<Protocol>,
    /// ICMP type.
    pub icmp_type: Option<u8>,
    /// ICMP code.
    pub icmp_code: Option<u8>,
    /// Sources.
    pub source: Option<Prefix>,
    /// Source ports.
    pub source_ports: Option<PortRange>,
    /// Destinations.
    pub destination: Option<Prefix>,
    /// Destination ports.
    pub destination_ports: Option<PortRange>,
    /// `accept`, `drop` or `reject`.
    pub action: String,
    /// First packets that it was the first rule to match, since the rules are what they are; `null` while not every
    /// worker counts for them.
    pub hits: Option<u64>,
}

//! The firewall's static rules, and how often each was the first to match.

use crate::daemon::Daemon;
use turnpike_abi::WorkerId;
use turnpike_api::{FirewallRuleData, PortRange, Prefix, Protocol};
use turnpike_config::{Action, Config, Network};

impl Daemon {
    /// Hits by rule, of all workers; none unless every worker counts for the policy in force.
    pub(crate) fn rule_hits(&self) -> Vec<u64> {
        let (Some(generation), Some(dataplane)) = (self.tables.in_force(), &self.dataplane) else {
            return Vec::new();
        };
        let mut sum = Vec::new();
        for worker in 0..dataplane.workers() {
            let Some(counted) = dataplane.statistics().hits(WorkerId(worker)) else { return Vec::new() };
            if counted.generation != generation {
                return Vec::new();
            }
            sum.resize(sum.len().max(counted.hits.len()), 0);
            for (sum, hits) in sum.iter_mut().zip(counted.hits) {
                *sum = hits.wrapping_add(*sum);
            }
        }
        sum
    }
}

/// The rules of a configuration, with their hits.
pub fn rules(config: &Config, hits: &[u64]) -> Vec<FirewallRuleData> {
    let prefix = |network: &Option<Network>| {
        network.as_ref().and_then(|network| Prefix::new(network.address(), network.length()).ok())
    };
    let ports = |range: Option<turnpike_config::PortRange>| {
        range.map(|range| PortRange { first: range.first, last: range.last })
    };
    let list = config.rules.iter().enumerate();
    list.map(|(place, rule)| FirewallRuleData {
        rule: u32::try_from(place + 1).unwrap_or(u32::MAX),
        from: rule.from.name().map(|zone| zone.as_str().to_owned()),
        to: rule.to.name().map(|zone| zone.as_str().to_owned()),
        family: rule.effective_family().map(turnpike_config::Family::number),
        protocol: rule.protocol.map(|protocol| match protocol {
            turnpike_config::Protocol::Icmp => Protocol(1),
            turnpike_config::Protocol::Number(number) => Protocol(number),
        }),
        icmp_type: rule.icmp_type,
        icmp_code: rule.icmp_code,
        source: prefix(&rule.source),
        source_ports: ports(rule.source_ports),
        destination: prefix(&rule.destination),
        destination_ports: ports(rule.destination_ports),
        action: match rule.action {
            Action::Accept => "accept",
            Action::Drop => "drop",
            Action::Reject => "reject",
        }
        .to_owned(),
        hits: hits.get(place).copied(),
    })
    .collect()
}

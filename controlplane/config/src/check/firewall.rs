//! Firewall rules and the defaults between zones.

use super::{Zones, distinct, limit};
use crate::address::Network;
use crate::model::{Config, Family, Rule};
use crate::read::Document;
use turnpike_abi::table::MAX_RULES;

pub(super) fn check(config: &Config, zones: &Zones<'_>, document: &mut Document<'_>) {
    let mut pairs = Vec::new();
    for (i, policy) in config.policies.iter().enumerate() {
        zones.expect(document, &format!("policy[{i}].from"), &policy.from, false);
        zones.expect(document, &format!("policy[{i}].to"), &policy.to, false);
        if !policy.from.is_unread() && !policy.to.is_unread() {
            pairs.push((format!("policy[{i}]"), (&policy.from, &policy.to)));
        }
    }
    distinct(document, pairs.into_iter(), |(from, to), first, line| {
        format!(
            "from \"{from}\" to \"{to}\" is {first} already (line {line}): a pair of zones has one default"
        )
    });
    limit(document, "rule", config.rules.len(), MAX_RULES);
    for (i, rule) in config.rules.iter().enumerate() {
        zones.expect_match(document, &format!("rule[{i}].from"), &rule.from);
        zones.expect_match(document, &format!("rule[{i}].to"), &rule.to);
        let path = |key: &str| format!("rule[{i}].{key}");
        families(rule, document, path);
        if !document.is_faulty(&path("protocol")) {
            protocol(rule, document, path);
        }
    }
}

fn families(rule: &Rule, document: &mut Document<'_>, path: impl Fn(&str) -> String) {
    let prefixes = [("source", &rule.source), ("destination", &rule.destination)];
    if let Some(family) = rule.family {
        for (key, prefix) in prefixes {
            if let Some(prefix) = prefix.as_ref().filter(|prefix| Family::of(prefix) != family) {
                let (mine, number) = (version(prefix), family.number());
                let message =
                    format!("\"{prefix}\" is {mine}, but the rule has family = {number}: make them agree");
                document.refuse(&path(key), message);
            }
        }
    } else if let (Some(source), Some(destination)) = (&rule.source, &rule.destination)
        && source.is_v4() != destination.is_v4()
    {
        let (mine, other) = (version(destination), version(source));
        let message = format!("\"{destination}\" is {mine}, but the source is {other}: no packet has both");
        document.refuse(&path("destination"), message);
    }
}

fn version(network: &Network) -> &'static str {
    if network.is_v4() { "IPv4" } else { "IPv6" }
}

fn protocol(rule: &Rule, document: &mut Document<'_>, path: impl Fn(&str) -> String) {
    let icmp = rule.protocol.is_some_and(|protocol| protocol.is_icmp());
    let ports = rule.protocol.is_some_and(|protocol| protocol.has_ports());
    if !icmp {
        for (key, value) in [("icmp_type", rule.icmp_type), ("icmp_code", rule.icmp_code)] {
            if let Some(value) = value {
                let message =
                    format!("{value} needs protocol = \"icmp\": other packets have no ICMP type and code");
                document.refuse(&path(key), message);
            }
        }
    } else if let (None, Some(code)) = (rule.icmp_type, rule.icmp_code)
        && !document.is_faulty(&path("icmp_type"))
    {
        let message = format!("{code} needs icmp_type: a code has a meaning only together with its type");
        document.refuse(&path("icmp_code"), message);
    }
    if !ports {
        for (key, range) in
            [("source_ports", rule.source_ports), ("destination_ports", rule.destination_ports)]
        {
            if let Some(range) = range {
                let message = format!(
                    "\"{range}\" needs a protocol with ports: write protocol = \"tcp\", \"udp\", \"sctp\" or \"dccp\""
                );
                document.refuse(&path(key), message);
            }
        }
    }
}

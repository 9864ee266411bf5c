//! What is right by itself and would do nothing beside the rest: refused, since whoever wrote it expects something.
//!
//! A value that is the default says nothing. Front ends that are switched off keep what is prepared for them.

use crate::midcom::{Agent, Right};
use crate::model::{Config, Pool, Side};
use crate::read::{Document, quoted};
use crate::value::Name;

pub(super) fn check(config: &Config, document: &mut Document<'_>) {
    for (i, it) in config.pools.iter().enumerate() {
        pool(it, &format!("pool[{i}]"), document);
    }
    let log = &config.log;
    if log.file.is_some() && !log.blocks && !log.flows && !faulty(document, "log", &["blocks", "flows"]) {
        let message = "is for nothing: give blocks = true or flows = true, or take the file away";
        document.refuse("log.file", message.to_owned());
    }
    for (i, it) in config.agents.iter().enumerate() {
        agent(config, it, &format!("agent[{i}]"), document);
    }
    for (i, third) in config.third_parties.iter().enumerate() {
        if third.hosts.is_empty() {
            empty(document, &format!("third_party[{i}]"), "hosts", "its clients may open for nobody");
        }
    }
    simco(config, document);
    pcp(config, document);
}

/// Whether any of these keys could not be read.
fn faulty(document: &Document<'_>, table: &str, keys: &[&str]) -> bool {
    keys.iter().any(|key| document.is_faulty(&format!("{table}.{key}")))
}

fn pool(pool: &Pool, at: &str, document: &mut Document<'_>) {
    let path = |key: &str| format!("{at}.{key}");
    if pool.dynamic != Pool::DEFAULT_DYNAMIC
        && pool.deterministic.is_none()
        && !faulty(document, at, &["deterministic"])
    {
        let message = format!(
            "{} is a share of deterministic ranges, and the pool has none: give deterministic, the inside range, or take dynamic away",
            pool.dynamic
        );
        document.refuse(&path("dynamic"), message);
    }
    if pool.subscriber_burst > 0 && pool.subscriber_rate == 0 && !faulty(document, at, &["subscriber_rate"]) {
        let message = format!(
            "{} limits nothing without subscriber_rate: give the new flows a second, or take subscriber_burst away",
            pool.subscriber_burst
        );
        document.refuse(&path("subscriber_burst"), message);
    }
    if pool.quarantine_ports != Pool::DEFAULT_QUARANTINE_PORTS
        && pool.quarantine.0 == 0
        && pool.quarantine_tcp.0 == 0
        && !faulty(document, at, &["quarantine", "quarantine_tcp"])
    {
        let message = format!(
            "{} bounds nothing: no port is held back with quarantine = 0 and quarantine_tcp = 0",
            pool.quarantine_ports
        );
        document.refuse(&path("quarantine_ports"), message);
    }
}

/// Reports an empty list without which what its table is for cannot be done.
fn empty(document: &mut Document<'_>, at: &str, key: &str, what: &str) {
    let path = format!("{at}.{key}");
    if !document.is_faulty(&path) {
        document.refuse(&path, format!("is empty, so {what}: fill it, or take the table away"));
    }
}

fn agent(config: &Config, agent: &Agent, at: &str, document: &mut Document<'_>) {
    if agent.rights.is_empty() {
        empty(document, at, "rights", "the agent may do nothing");
    }
    // Who looks and cleans up only needs none of these.
    let (reserves, enables) = (agent.rights.contains(&Right::Reserve), agent.rights.contains(&Right::Enable));
    for (key, needed, list) in [
        ("zones", reserves || enables, agent.zones.is_empty()),
        ("inside", reserves || enables, agent.inside.is_empty()),
        ("outside", enables, agent.outside.is_empty()),
    ] {
        if needed && list {
            empty(document, at, key, "the agent's rights to reserve or enable are for nothing");
        }
    }
    for (j, other) in agent.takes_over.iter().enumerate() {
        if *other == agent.name {
            let message = format!("{} is the agent itself: its own rules are its own already", quoted(other));
            document.refuse(&format!("{at}.takes_over[{j}]"), message);
        }
    }
    let simco = &config.simco;
    if simco.zones.is_empty() || document.is_faulty("simco.zones") {
        return;
    }
    let inside =
        |name: &Name| config.zones.iter().any(|zone| zone.name == *name && zone.side == Side::Inside);
    let sound = simco.zones.iter().all(inside);
    for (j, zone) in agent.zones.iter().enumerate() {
        if sound && inside(zone) && !simco.zones.contains(zone) {
            let name = quoted(zone.as_str());
            let message = format!("{name} is not in simco.zones: add it there, or take it away here");
            document.refuse(&format!("{at}.zones[{j}]"), message);
        }
    }
    if agent.key.is_some() && simco.clear_text.is_empty() && !document.is_faulty("simco.clear_text") {
        let message = "is asked for by nobody: keys are for clear text, and simco.clear_text has no source";
        document.refuse(&format!("{at}.key"), message.to_owned());
    }
}

fn simco(config: &Config, document: &mut Document<'_>) {
    let (simco, agents) = (&config.simco, &config.agents);
    if simco.zones.is_empty() {
        return;
    }
    let keys = (0..agents.len()).any(|i| faulty(document, &format!("agent[{i}]"), &["key"]))
        || agents.iter().any(|agent| agent.key.is_some());
    if !simco.clear_text.is_empty() && !agents.is_empty() && !keys && !document.is_faulty("agent") {
        let message = "lets nobody in: no [[agent]] has a key to prove itself by, give one to those who speak in clear text";
        document.refuse("simco.clear_text", message.to_owned());
    }
    if simco.token_key.is_some() && !simco.extensions {
        let message =
            "is for authorization tokens, which are a vendor extension: extensions = false refuses them";
        document.refuse("simco.token_key", message.to_owned());
    }
}

fn pcp(config: &Config, document: &mut Document<'_>) {
    let pcp = &config.pcp;
    if !pcp.zones.is_empty() && !pcp.map && !pcp.peer {
        let message =
            "has zones whose hosts may open nothing: map = false and peer = false, allow one of them";
        document.refuse("pcp.zones", message.to_owned());
    }
    if !pcp.nat_pmp.is_empty() && !pcp.map {
        let message =
            "has zones whose hosts may open nothing: NAT-PMP has inbound mappings alone, and map = false";
        document.refuse("pcp.nat_pmp", message.to_owned());
    }
    if pcp.zones.is_empty() && !pcp.nat_pmp.is_empty() && !document.is_faulty("pcp.zones") {
        for i in 0..config.third_parties.len() {
            let message = "is for PCP, which has no zones: NAT-PMP knows no third party; give pcp.zones";
            document.refuse(&format!("third_party[{i}]"), message.to_owned());
        }
    }
}

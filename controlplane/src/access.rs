//! What the configuration says to the policy engine: pools, front ends, agents, limits.

use hashbrown::HashMap;
use turnpike_abi::PoolId;
use turnpike_config::midcom::{self, Right};
use turnpike_config::{Config, NatTarget, Side, ZoneMatch};
use turnpike_policy::{
    Access, Agent, Ending, Front, FrontAccess, Lifetime, Limits, Name, Network, Pool, Profile, Protocol,
    Realm, Rights, Scope, Translation,
};

/// The zone of the CLI where the configuration has no inside zone.
pub const NO_ZONE: &str = "";

/// Everything of `config` that the engine needs.
pub fn of(config: &Config) -> Access {
    let midcom = &config.midcom;
    let mut fronts = HashMap::new();
    fronts.insert(Front::Cli, cli(config));
    fronts.insert(Front::Simco, simco(config));
    let pcp = &config.pcp;
    fronts.insert(Front::Pcp, hosts(config, &pcp.zones));
    fronts.insert(Front::NatPmp, hosts(config, &pcp.nat_pmp));
    Access {
        realm: realm(config),
        fronts,
        limits: Limits {
            rules: midcom.rules as usize,
            per_subscriber: midcom.rules_per_host,
            sessions: midcom.sessions,
            range: midcom.range,
            notice: midcom.notice,
            ..Limits::default()
        },
        ending: match midcom.ending {
            midcom::Ending::Cut => Ending::Cut,
            midcom::Ending::Drain => Ending::Drain,
        },
        hide_foreign: midcom.hide_foreign,
    }
}

/// The pools, and whom the NAT rules translate through them.
pub fn realm(config: &Config) -> Realm {
    let pools = config.pools.iter().zip(0u16..).map(|(pool, index)| Pool {
        name: pool.name.as_str().into(),
        id: PoolId(index),
        ranges: pool.addresses.iter().map(|range| (range.first, range.last)).collect(),
        ports: (pool.ports.first, pool.ports.last),
    });
    let translations = config.nat.iter().map(|rule| Translation {
        zone: match &rule.from {
            ZoneMatch::Any => None,
            ZoneMatch::Zone(zone) => Some(zone.as_str().into()),
        },
        source: network(&rule.source),
        pool: match &rule.target {
            NatTarget::Pool(name) => Some(name.as_str().into()),
            NatTarget::Exempt => None,
        },
    });
    // An exemption for some destinations leaves the host translated towards the others.
    let everywhere = config.nat.iter().map(|rule| rule.destination.length() == 0);
    let translations = translations.zip(everywhere).filter(|(rule, all)| rule.pool.is_some() || *all);
    Realm { pools: pools.collect(), translations: translations.map(|(rule, _)| rule).collect() }
}

fn network(network: &turnpike_config::Network) -> Network {
    Network { address: network.address(), length: network.length() }
}

fn names(names: &[turnpike_config::Name]) -> Vec<Name> {
    names.iter().map(|name| name.as_str().into()).collect()
}

/// Protocol numbers of the configuration's protocols.
pub fn protocols(list: &[turnpike_config::Protocol]) -> Vec<Protocol> {
    let number = |protocol: &turnpike_config::Protocol| match protocol {
        turnpike_config::Protocol::Icmp => Protocol(1),
        turnpike_config::Protocol::Number(number) => Protocol(*number),
    };
    list.iter().map(number).collect()
}

/// The operator's own front end: everything, in every inside zone.
fn cli(config: &Config) -> FrontAccess {
    let inside = config.zones.iter().filter(|zone| zone.side == Side::Inside);
    let mut zones: Vec<Name> = inside.map(|zone| zone.name.as_str().into()).collect();
    if zones.is_empty() {
        zones.push(NO_ZONE.into());
    }
    let everybody = Profile {
        zones: zones.clone(),
        rights: Rights::OWN.and(Rights::ADMIN),
        inside: Scope::Prefixes(vec![Network::V4, Network::V6]),
        outside: vec![Network::V4, Network::V6],
        protocols: Vec::new(),
        external_wildcard: true,
        takes_over: Vec::new(),
        rules: u32::MAX,
        sessions: 0,
        lifetime: Lifetime::FOREVER,
        idle: None,
        durable: true,
    };
    FrontAccess { zones, everybody: Some(everybody), ..FrontAccess::default() }
}

fn simco(config: &Config) -> FrontAccess {
    let zones = names(&config.simco.zones);
    let profile = |agent: &midcom::Agent| Profile {
        zones: names(&agent.zones),
        rights: agent.rights.iter().fold(Rights::default(), |rights, right| rights.and(right_of(*right))),
        inside: Scope::Prefixes(agent.inside.iter().map(network).collect()),
        outside: agent.outside.iter().map(network).collect(),
        protocols: protocols(&agent.protocols),
        external_wildcard: agent.external_wildcard,
        takes_over: agent.takes_over.iter().map(|name| Agent::new(Front::Simco, name)).collect(),
        rules: agent.rules,
        sessions: agent.sessions,
        lifetime: Lifetime(agent.lifetime),
        idle: Some(agent.idle).filter(|&seconds| seconds > 0),
        durable: agent.durable,
    };
    let agents = config.agents.iter().map(|agent| (agent.name.as_str().into(), profile(agent))).collect();
    FrontAccess { zones, agents, ..FrontAccess::default() }
}

const fn right_of(right: Right) -> Rights {
    match right {
        Right::Reserve => Rights::RESERVE,
        Right::Enable => Rights::ENABLE,
        Right::Modify => Rights::MODIFY,
        Right::Extend => Rights::EXTEND,
        Right::Delete => Rights::DELETE,
        Right::Read => Rights::READ,
        Right::Admin => Rights::OWN.and(Rights::ADMIN),
    }
}

/// Hosts open for themselves, and some for others.
fn hosts(config: &Config, enabled: &[turnpike_config::Name]) -> FrontAccess {
    let zones = names(enabled);
    let pcp = &config.pcp;
    let everybody = Profile {
        zones: zones.clone(),
        rights: Rights::OWN,
        inside: Scope::Own,
        outside: vec![Network::V4, Network::V6],
        protocols: protocols(&pcp.protocols),
        external_wildcard: true,
        takes_over: Vec::new(),
        rules: pcp.rules,
        sessions: 0,
        lifetime: Lifetime(pcp.lifetime),
        idle: None,
        durable: true,
    };
    let third = config.third_parties.iter().map(|third| {
        let inside = Scope::Prefixes(third.hosts.iter().map(network).collect());
        (network(&third.clients), Profile { inside, rules: third.rules, ..everybody.clone() })
    });
    // The service hears what becomes of rules, whoever ends them.
    let watcher = Profile { rights: Rights::READ.and(Rights::ADMIN), sessions: 2, ..everybody.clone() };
    let agents = HashMap::from([(turnpike_pcp::service::WATCHER.into(), watcher)]);
    FrontAccess { zones, agents, hosts: third.collect(), everybody: Some(everybody) }
}

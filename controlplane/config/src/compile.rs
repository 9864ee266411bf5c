//! The policy table: what the workers need of the configuration, in the records of `turnpike_abi::table`.

use crate::model::{Action, Config, Family, Filtering, NatTarget, Pool, Side, ZoneMatch};
use crate::table::{Table, TableBuilder};
use crate::value::{Name, Protocol};
use crate::{Network, Seconds};
use turnpike_abi::table::{
    self as abi, FirewallRuleRecord, InterfaceRecord, NatAction, NatRuleRecord, PoolRangeRecord, PoolRecord,
    SettingsRecord, TableKind, ZonePairRecord, ZoneRecord, policy,
};
use turnpike_abi::{InterfaceId, PoolId, Prefix, ZoneId};

/// The policy table of a configuration: the same bytes for the same arguments. `known` has the interfaces of
/// the running dataplane by name, with the MTU they were set up for, which stays in force until a restart; one
/// it does not know gets no record and so forwards nothing.
/// `generation` is not 0 and grows with every table.
#[must_use]
pub fn compile_policy(
    config: &Config,
    known: &dyn Fn(&str) -> Option<(InterfaceId, u16)>,
    generation: u64,
) -> Table {
    let mut table = TableBuilder::new(TableKind::POLICY, generation);
    table.section(policy::SETTINGS, &[settings(config)]);
    table.section(policy::ZONES, &zones(config));
    table.section(policy::INTERFACES, &interfaces(config, known));
    table.section(policy::POOLS, &pools(config));
    table.section(policy::POOL_RANGES, &pool_ranges(config));
    table.section(policy::NAT_RULES, &nat_rules(config));
    table.section(policy::FIREWALL_RULES, &firewall_rules(config));
    table.section(policy::ZONE_PAIRS, &zone_pairs(config));
    table.finish()
}

/// Timeouts and options as the policy table says them.
#[must_use]
pub fn settings(config: &Config) -> SettingsRecord {
    let (timeouts, options) = (&config.timeouts, &config.options);
    let flag = |set, flag| if set { flag } else { 0 };
    let seconds = |Seconds(seconds)| seconds;
    let workers = config.dataplane.cores.len().max(1) as u32;
    SettingsRecord {
        udp: seconds(timeouts.udp),
        icmp: seconds(timeouts.icmp),
        tcp_established: seconds(timeouts.tcp_established),
        tcp_opening: seconds(timeouts.tcp_opening),
        tcp_closing: seconds(timeouts.tcp_closing),
        other: seconds(timeouts.other),
        icmp_rate: options.icmp_rate,
        neighbour_wait_ms: timeouts.neighbour_wait_ms,
        flags: flag(options.udp_inbound_refresh, SettingsRecord::UDP_INBOUND_REFRESH)
            | flag(options.reverse_path, SettingsRecord::REVERSE_PATH)
            | flag(config.log.blocks, SettingsRecord::LOG_BLOCKS)
            | flag(config.log.flows, SettingsRecord::LOG_FLOWS),
        mss_clamp: options.mss_clamp.into(),
        fragment: seconds(timeouts.fragment),
        fragments_waiting: options.fragments_waiting.min(config.dataplane.buffers / 2 / workers),
        fragments_per_source: options.fragments_per_source,
    }
}

fn zones(config: &Config) -> Vec<ZoneRecord> {
    let side = |side| match side {
        Side::Inside => abi::Side::INSIDE,
        Side::Outside => abi::Side::OUTSIDE,
    };
    config.zones.iter().map(|zone| ZoneRecord { side: side(zone.side), ..ZoneRecord::default() }).collect()
}

/// The id of a zone; a checked configuration names no other.
fn zone_id(config: &Config, name: &Name) -> Option<ZoneId> {
    config.zones.iter().position(|zone| zone.name == *name).map(|index| ZoneId(index as u8))
}

fn interfaces(config: &Config, known: &dyn Fn(&str) -> Option<(InterfaceId, u16)>) -> Vec<InterfaceRecord> {
    let record = |spec: crate::InterfaceSpec| {
        let zone = zone_id(config, spec.zone.as_ref()?)?;
        let (interface, mtu) = known(spec.name.as_str())?;
        Some(InterfaceRecord { interface, zone, mtu, ..InterfaceRecord::default() })
    };
    config.interfaces().into_iter().filter_map(record).collect()
}

fn pools(config: &Config) -> Vec<PoolRecord> {
    config.pools.iter().map(|pool| pool_record(config, pool)).collect()
}

/// A pool as the workers take it.
fn pool_record(config: &Config, pool: &Pool) -> PoolRecord {
    PoolRecord {
        port_first: pool.ports.first,
        port_last: pool.ports.last,
        zone: zone_id(config, &pool.zone).unwrap_or(ZoneId::ANY),
        proxy_arp: pool.proxy_arp.into(),
        filtering: match pool.filtering {
            Filtering::EndpointIndependent => abi::Filtering::ENDPOINT_INDEPENDENT,
            Filtering::AddressDependent => abi::Filtering::ADDRESS_DEPENDENT,
            Filtering::AddressAndPortDependent => abi::Filtering::ADDRESS_AND_PORT_DEPENDENT,
        },
        flags: if pool.parity { PoolRecord::PARITY } else { 0 }
            | if pool.deterministic.is_some() { PoolRecord::DETERMINISTIC } else { 0 },
        block_size: pool.block_size,
        blocks: pool.blocks,
        quarantine: pool.quarantine.0 as u16,
        quarantine_tcp: pool.quarantine_tcp.0 as u16,
        quarantine_ports: pool.quarantine_ports,
        subscriber_ports: pool.subscriber_ports,
        subscriber_flows: pool.subscriber_flows,
        subscriber_rate: pool.subscriber_rate,
        subscriber_burst: if pool.subscriber_burst == 0 {
            pool.subscriber_rate
        } else {
            pool.subscriber_burst
        },
        dynamic: if pool.deterministic.is_some() { pool.dynamic } else { 0 },
        inside_first: pool.deterministic.map_or([0; 4], |inside| inside.first.octets()),
        inside_last: pool.deterministic.map_or([0; 4], |inside| inside.last.octets()),
        ..PoolRecord::default()
    }
}

fn pool_ranges(config: &Config) -> Vec<PoolRangeRecord> {
    let mut records = Vec::new();
    for (index, pool) in config.pools.iter().enumerate() {
        records.extend(pool.addresses.iter().map(|range| PoolRangeRecord {
            first: range.first.octets(),
            last: range.last.octets(),
            pool: PoolId(index as u16),
            ..PoolRangeRecord::default()
        }));
    }
    records
}

/// `from = "any"` means every inside zone: a record for each.
fn nat_rules(config: &Config) -> Vec<NatRuleRecord> {
    let mut records = Vec::new();
    for rule in &config.nat {
        let (action, pool) = match &rule.target {
            NatTarget::Exempt => (NatAction::EXEMPT, 0),
            NatTarget::Pool(name) => {
                let Some(index) = config.pools.iter().position(|pool| pool.name == *name) else { continue };
                (NatAction::TRANSLATE, index as u16)
            }
        };
        let Some(to) = zone_match_id(config, &rule.to) else { continue };
        let sources = config.zones.iter().enumerate().filter(|(_, zone)| match &rule.from {
            ZoneMatch::Any => zone.side == Side::Inside,
            ZoneMatch::Zone(name) => zone.name == *name,
        });
        records.extend(sources.map(|(index, _)| NatRuleRecord {
            source: rule.source.prefix(),
            destination: rule.destination.prefix(),
            from: ZoneId(index as u8),
            to,
            action,
            pool: PoolId(pool),
            ..NatRuleRecord::default()
        }));
    }
    records
}

fn zone_match_id(config: &Config, zone: &ZoneMatch) -> Option<ZoneId> {
    match zone {
        ZoneMatch::Any => Some(ZoneId::ANY),
        ZoneMatch::Zone(name) => zone_id(config, name),
    }
}

/// `protocol = "icmp"` of both families is two protocols: a record for each.
fn firewall_rules(config: &Config) -> Vec<FirewallRuleRecord> {
    const ICMP: u16 = 1;
    const ICMPV6: u16 = 58;
    const ANY: u16 = FirewallRuleRecord::ANY;
    let mut records = Vec::new();
    for (number, rule) in (0u16..).zip(&config.rules) {
        let (Some(from), Some(to)) = (zone_match_id(config, &rule.from), zone_match_id(config, &rule.to))
        else {
            continue;
        };
        let family = rule.effective_family();
        let cases: &[(Option<Family>, u16)] = match (rule.protocol, family) {
            (Some(Protocol::Icmp), None) => &[(Some(Family::V4), ICMP), (Some(Family::V6), ICMPV6)],
            (Some(Protocol::Icmp), Some(Family::V4)) => &[(Some(Family::V4), ICMP)],
            (Some(Protocol::Icmp), Some(Family::V6)) => &[(Some(Family::V6), ICMPV6)],
            (Some(Protocol::Number(number)), family) => &[(family, number.into())],
            (None, family) => &[(family, ANY)],
        };
        records.extend(cases.iter().map(|(family, protocol)| {
            let ports = |range: Option<crate::PortRange>| {
                range.map_or([0, u16::MAX], |range| [range.first, range.last])
            };
            FirewallRuleRecord {
                source: prefix(rule.source.as_ref(), *family),
                destination: prefix(rule.destination.as_ref(), *family),
                source_ports: ports(rule.source_ports),
                destination_ports: ports(rule.destination_ports),
                protocol: *protocol,
                icmp_type: rule.icmp_type.map_or(ANY, u16::from),
                icmp_code: rule.icmp_code.map_or(ANY, u16::from),
                from,
                to,
                action: action(rule.action),
                family: family.map_or(0, Family::number),
                rule: number,
                reserved: [0; 4],
            }
        }));
    }
    records
}

/// A prefix, or every address of the family.
fn prefix(network: Option<&Network>, family: Option<Family>) -> Prefix {
    match (network, family) {
        (Some(network), _) => network.prefix(),
        (None, Some(Family::V4)) => Network::ANY_V4.prefix(),
        (None, Some(Family::V6) | None) => Prefix::ANY,
    }
}

fn action(action: Action) -> abi::Action {
    match action {
        Action::Accept => abi::Action::ACCEPT,
        Action::Drop => abi::Action::DROP,
        Action::Reject => abi::Action::REJECT,
    }
}

fn zone_pairs(config: &Config) -> Vec<ZonePairRecord> {
    let record = |policy: &crate::Policy| {
        let (from, to) = (zone_id(config, &policy.from)?, zone_id(config, &policy.to)?);
        Some(ZonePairRecord { from, to, action: action(policy.default), ..ZonePairRecord::default() })
    };
    config.policies.iter().filter_map(record).collect()
}

//! Pools and NAT rules.

use super::{Zones, distinct_names, is_complete, limit, unknown};
use crate::address::AddressRange;
use crate::deterministic::Variables;
use crate::model::{Config, NatTarget, Side};
use crate::read::{Document, quoted};
use std::collections::HashMap;
use std::net::IpAddr;
use turnpike_abi::MAX_POOLS;
use turnpike_abi::table::MAX_RULES;

/// Most addresses of all pools together.
const MAX_POOL_ADDRESSES: u64 = 1 << 16;

pub(super) fn check(config: &Config, zones: &Zones<'_>, document: &mut Document<'_>) {
    limit(document, "pool", config.pools.len(), MAX_POOLS);
    let names = config.pools.iter().enumerate().map(|(i, pool)| (format!("pool[{i}].name"), &pool.name));
    distinct_names(document, names, "pool");
    for (i, pool) in config.pools.iter().enumerate() {
        if pool.addresses.is_empty() {
            document
                .refuse(&format!("pool[{i}].addresses"), "is empty: list at least one IPv4 address".into());
        }
        if !pool.addresses.is_empty()
            && let Some(Err(what)) = Variables::of(config, pool).map(|variables| variables.ranges())
        {
            let hint = "give it more addresses or ports, a smaller inside range or a smaller dynamic share";
            document
                .refuse(&format!("pool[{i}].deterministic"), format!("does not work out: {what}: {hint}"));
        }
        let path = format!("pool[{i}].zone");
        if let Some(zone) = zones.expect(document, &path, &pool.zone, false) {
            expect_side(config, zone, Side::Outside, &path, document);
        }
    }
    overlaps(config, document);
    let pools: HashMap<_, _> = config.pools.iter().enumerate().map(|(i, pool)| (&pool.name, i)).collect();
    let complete = !document.is_faulty("pool") && is_complete(&pools, config.pools.len(), MAX_POOLS);
    // A rule from any zone is one for every inside zone.
    let inside = config.zones.iter().filter(|zone| zone.side == Side::Inside).count();
    limit(document, "nat", config.nat.len(), MAX_RULES / inside.max(1));
    for (i, rule) in config.nat.iter().enumerate() {
        let path = format!("nat[{i}].from");
        if let Some(zone) = zones.expect_match(document, &path, &rule.from) {
            expect_side(config, zone, Side::Inside, &path, document);
        }
        let path = format!("nat[{i}].to");
        if let Some(zone) = zones.expect_match(document, &path, &rule.to)
            && matches!(rule.target, NatTarget::Pool(_))
        {
            expect_outside(config, zone, &path, document);
        }
        if let NatTarget::Pool(name) = &rule.target
            && complete
            && !pools.contains_key(name)
            && !name.is_unread()
        {
            let names: Vec<&str> = config.pools.iter().map(|pool| pool.name.as_str()).collect();
            document.refuse(&format!("nat[{i}].pool"), unknown(name, "pool", &names));
        }
    }
}

fn expect_side(config: &Config, zone: usize, side: Side, path: &str, document: &mut Document<'_>) {
    if config.zones[zone].side == side || document.is_faulty(&format!("zone[{zone}].side")) {
        return;
    }
    let name = quoted(config.zones[zone].name.as_str());
    let message = match side {
        Side::Outside => format!("{name} is an inside zone: the addresses of a pool face an outside zone"),
        Side::Inside => format!("{name} is an outside zone: NAT rules translate flows from inside zones"),
    };
    document.refuse(path, message);
}

/// A pool would never be used towards an inside zone. (An exemption says what is so anyway.)
fn expect_outside(config: &Config, zone: usize, path: &str, document: &mut Document<'_>) {
    if config.zones[zone].side == Side::Inside && !document.is_faulty(&format!("zone[{zone}].side")) {
        let name = quoted(config.zones[zone].name.as_str());
        let message = format!("{name} is an inside zone: flows are translated on their way to outside zones");
        document.refuse(path, message);
    }
}

/// An address is in one range of one pool, and not the box's own.
fn overlaps(config: &Config, document: &mut Document<'_>) {
    let mut ranges: Vec<(AddressRange, (usize, usize))> = Vec::new();
    for (i, pool) in config.pools.iter().enumerate() {
        ranges.extend(pool.addresses.iter().enumerate().map(|(j, range)| (*range, (i, j))));
    }
    let path = |(i, j): (usize, usize)| format!("pool[{i}].addresses[{j}]");
    let mut sum = 0;
    for (range, at) in &ranges {
        let fitted = sum <= MAX_POOL_ADDRESSES;
        sum += range.count();
        if fitted && sum > MAX_POOL_ADDRESSES {
            let range = quoted(&range.to_string());
            let message =
                format!("{range} makes {sum} pool addresses: at most {MAX_POOL_ADDRESSES} are possible");
            document.refuse(&path(*at), message);
        }
    }
    if sum > MAX_POOL_ADDRESSES {
        return;
    }
    ranges.sort_unstable();
    let mut furthest: Option<(AddressRange, (usize, usize))> = None;
    for &(range, at) in &ranges {
        if let Some((other, other_at)) = furthest.filter(|(other, _)| other.last >= range.first) {
            let (first, second) = if other_at < at { (other_at, at) } else { (at, other_at) };
            let (earlier, later) = if other_at < at { (other, range) } else { (range, other) };
            let line = document.line(&path(first));
            let message = format!(
                "\"{later}\" overlaps \"{earlier}\", which is {} (line {line}): an address is in one range of one pool",
                path(first)
            );
            document.refuse(&path(second), message);
        }
        if furthest.is_none_or(|(other, _)| range.last > other.last) {
            furthest = Some((range, at));
        }
    }
    for spec in config.interfaces() {
        for address in &spec.addresses {
            let IpAddr::V4(address) = address.address else { continue };
            if let Some((range, at)) = ranges.iter().find(|(range, _)| range.contains(address)) {
                let (interface, range) = (quoted(spec.name.as_str()), quoted(&range.to_string()));
                let message = format!(
                    "{range} holds {address}, the box's own address on interface {interface}: give the pool other addresses"
                );
                document.refuse(&path(*at), message);
            }
        }
    }
}

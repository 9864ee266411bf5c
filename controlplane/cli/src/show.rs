//! The text of the answers, but for [`crate::status`].

use crate::reasons;
use crate::table::{Column, Table, number, printable, text};
use std::io::{self, Write};
use turnpike_api::{
    BindingData, ConfigData, DropsData, Endpoint, FirewallRuleData, FlowData, NeighbourData, PinholeData,
    PoolData, PortData, Protocol, RouteData, WorkerData,
};

/// What stands for something that is absent.
pub const NONE: &str = "-";

pub(crate) fn or_none<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| NONE.into(), |value| value.to_string())
}

/// An end of a flow: without the port where the protocol has none.
fn end(protocol: Protocol, endpoint: Endpoint) -> String {
    if protocol.has_ports() { endpoint.to_string() } else { endpoint.address.to_string() }
}

/// `yes` or `no`.
#[must_use]
pub const fn yes_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

/// Writes a table of `rows`.
pub(crate) fn table<T>(
    out: &mut dyn Write,
    columns: &'static [Column],
    rows: &[T],
    row: impl Fn(&T) -> Vec<String>,
) -> io::Result<()> {
    Table::new(columns).write(out, &rows.iter().map(row).collect::<Vec<_>>())
}

/// Columns of [`flow`].
pub const FLOWS: &[Column] = &[
    text("PROTOCOL"),
    text("STATE"),
    text("DIR"),
    text("INSIDE"),
    text("EXTERNAL"),
    text("REMOTE"),
    number("PKTS-OUT"),
    number("PKTS-IN"),
    number("BYTES-OUT"),
    number("BYTES-IN"),
    number("AGE"),
    number("IDLE"),
    number("TIMEOUT"),
    number("WORKER"),
];

/// A row of flows.
#[must_use]
pub fn flow(flow: &FlowData) -> Vec<String> {
    let of = |endpoint| end(flow.protocol, endpoint);
    vec![
        flow.protocol.to_string(),
        flow.state.to_string(),
        flow.direction.to_string(),
        of(flow.inside),
        or_none(flow.external.map(of)),
        of(flow.remote),
        flow.packets_out.to_string(),
        flow.packets_in.to_string(),
        flow.bytes_out.to_string(),
        flow.bytes_in.to_string(),
        flow.age_seconds.to_string(),
        flow.idle_seconds.to_string(),
        flow.timeout_seconds.to_string(),
        flow.worker.to_string(),
    ]
}

/// Columns of [`binding`].
pub const BINDINGS: &[Column] = &[
    text("PROTOCOL"),
    text("INSIDE"),
    text("EXTERNAL"),
    text("POOL"),
    number("PINHOLE"),
    text("REMOTE"),
    text("REMOTE-PORTS"),
    number("FLOWS"),
    number("AGE"),
    number("WORKER"),
];

/// A row of bindings.
#[must_use]
pub fn binding(binding: &BindingData) -> Vec<String> {
    let of = |endpoint| end(binding.protocol, endpoint);
    let any = |restricted: Option<String>| restricted.unwrap_or_else(|| "any".into());
    vec![
        binding.protocol.to_string(),
        of(binding.inside),
        or_none(binding.external.map(of)),
        or_none(binding.pool.as_deref()),
        or_none(binding.pinhole),
        any(binding.remote.map(|remote| remote.to_string())),
        any(binding.remote_ports.map(|ports| ports.to_string())),
        binding.flows.to_string(),
        binding.age_seconds.to_string(),
        binding.worker.to_string(),
    ]
}

const PORTS: &[Column] = &[
    text("PORT"),
    text("LINK"),
    number("SPEED-BIT/S"),
    number("MTU"),
    number("QUEUES"),
    text("STEER-V4"),
    text("STEER-V6"),
    number("RX-PKTS"),
    number("RX-BYTES"),
    number("RX-MISSED"),
    number("RX-ERRORS"),
    number("RX-NOBUF"),
    number("TX-PKTS"),
    number("TX-BYTES"),
    number("TX-ERRORS"),
    text("DRIVER"),
    text("DEVICE"),
];

const INTERFACES: &[Column] = &[
    text("INTERFACE"),
    text("PORT"),
    number("VLAN"),
    text("ZONE"),
    text("MAC"),
    number("MTU"),
    text("TAP"),
    text("ADDRESSES"),
];

/// Ports, then their interfaces.
///
/// # Errors
/// Those of `out`.
pub fn ports(out: &mut dyn Write, ports: &[PortData]) -> io::Result<()> {
    table(out, PORTS, ports, |port| {
        vec![
            port.name.clone(),
            if port.link_up { "up" } else { "down" }.into(),
            or_none(port.speed_bits_per_second),
            port.mtu_bytes.to_string(),
            port.queues.to_string(),
            port.steering.ipv4.clone(),
            port.steering.ipv6.clone(),
            port.receive.packets.to_string(),
            port.receive.bytes.to_string(),
            port.receive_missed.to_string(),
            port.receive_errors.to_string(),
            port.receive_no_buffer.to_string(),
            port.transmit.packets.to_string(),
            port.transmit.bytes.to_string(),
            port.transmit_errors.to_string(),
            port.driver.clone(),
            port.device.clone(),
        ]
    })?;
    writeln!(out)?;
    let interfaces: Vec<_> = ports
        .iter()
        .flat_map(|port| port.interfaces.iter().map(move |interface| (port, interface)))
        .collect();
    table(out, INTERFACES, &interfaces, |(port, interface)| {
        vec![
            interface.name.clone(),
            port.name.clone(),
            or_none(interface.vlan),
            or_none(interface.zone.as_deref()),
            interface.mac.clone(),
            interface.mtu_bytes.to_string(),
            interface.tap.clone(),
            if interface.addresses.is_empty() { NONE.into() } else { interface.addresses.join(", ") },
        ]
    })
}

const WORKERS: &[Column] = &[
    number("WORKER"),
    number("BUSY"),
    number("PKTS/S"),
    number("RX-PKTS"),
    number("TX-PKTS"),
    number("PUNTED"),
    number("INJECTED"),
    number("GENERATED"),
    number("CROSSED-IN"),
    number("CROSSED-OUT"),
    number("CROSSED"),
    number("DROPPED"),
    number("HELD"),
    text("BALANCE"),
];

const WORKER_TABLES: &[Column] = &[
    number("WORKER"),
    number("FLOWS"),
    number("FLOWS-LIMIT"),
    number("BINDINGS"),
    number("BINDINGS-LIMIT"),
    number("SUBSCRIBERS"),
    number("PINHOLES"),
    number("NEIGHBOURS"),
    number("POLICY"),
    number("FORWARDING"),
    number("COMMANDS"),
    number("REFUSED"),
    number("EVENTS-LOST"),
    number("VIOLATIONS"),
    number("TIMER-LAG-MS"),
    number("HEARTBEAT-MS"),
];

/// Workers: packets, then tables.
///
/// # Errors
/// Those of `out`.
pub fn workers(out: &mut dyn Write, workers: &[WorkerData]) -> io::Result<()> {
    table(out, WORKERS, workers, |worker| {
        vec![
            worker.worker.to_string(),
            crate::units::ratio_percent(worker.busy_ratio),
            worker.receive.packets_per_second.to_string(),
            worker.receive.packets.to_string(),
            worker.transmit.packets.to_string(),
            worker.punted.to_string(),
            worker.injected.to_string(),
            worker.generated.to_string(),
            worker.crossed_in.to_string(),
            worker.crossed_out.to_string(),
            crate::units::percent(worker.crossed_out, worker.receive.packets),
            worker.dropped.to_string(),
            worker.held.to_string(),
            if worker.conservation.ok { "ok" } else { "BROKEN" }.into(),
        ]
    })?;
    writeln!(out)?;
    table(out, WORKER_TABLES, workers, |worker| {
        vec![
            worker.worker.to_string(),
            worker.flows.in_use.to_string(),
            worker.flows.limit.to_string(),
            worker.bindings.in_use.to_string(),
            worker.bindings.limit.to_string(),
            worker.subscribers.to_string(),
            worker.pinholes.to_string(),
            worker.neighbours.to_string(),
            worker.policy_generation.to_string(),
            worker.forwarding_generation.to_string(),
            worker.commands.to_string(),
            worker.commands_refused.to_string(),
            worker.events_dropped.to_string(),
            worker.peer_violations.to_string(),
            worker.timer_lag_milliseconds.to_string(),
            worker.heartbeat_age_milliseconds.to_string(),
        ]
    })
}

const POOLS: &[Column] = &[
    text("POOL"),
    text("ZONE"),
    number("ADDRESSES"),
    text("PORT-RANGE"),
    number("PORTS"),
    number("TCP"),
    number("UDP"),
    number("ICMP"),
    number("FILL"),
    number("EXHAUSTED"),
    text("PROXY-ARP"),
    text("RANGES"),
];

/// Pools.
///
/// # Errors
/// Those of `out`.
pub fn pools(out: &mut dyn Write, pools: &[PoolData]) -> io::Result<()> {
    table(out, POOLS, pools, |pool| {
        vec![
            pool.name.clone(),
            pool.zone.clone(),
            pool.addresses.to_string(),
            pool.port_range.to_string(),
            pool.ports.to_string(),
            pool.in_use.tcp.to_string(),
            pool.in_use.udp.to_string(),
            pool.in_use.icmp.to_string(),
            crate::units::percent(pool.in_use.highest(), pool.ports),
            pool.exhausted.to_string(),
            yes_no(pool.proxy_arp).into(),
            pool.ranges.join(", "),
        ]
    })
}

const NEIGHBOURS: &[Column] =
    &[text("ADDRESS"), text("INTERFACE"), text("MAC"), text("STATE"), text("INSTALLED")];

/// Neighbours.
///
/// # Errors
/// Those of `out`.
pub fn neighbours(out: &mut dyn Write, neighbours: &[NeighbourData]) -> io::Result<()> {
    table(out, NEIGHBOURS, neighbours, |neighbour| {
        vec![
            neighbour.address.to_string(),
            neighbour.interface.clone(),
            or_none(neighbour.mac.as_deref()),
            neighbour.state.name().into(),
            yes_no(neighbour.installed).into(),
        ]
    })
}

const ROUTES: &[Column] = &[text("DESTINATION"), text("KIND"), text("VIA"), text("INTERFACE")];

/// Routes.
///
/// # Errors
/// Those of `out`.
pub fn routes(out: &mut dyn Write, routes: &[RouteData]) -> io::Result<()> {
    table(out, ROUTES, routes, |route| {
        vec![
            route.destination.to_string(),
            route.kind.name().into(),
            or_none(route.via),
            or_none(route.interface.as_deref()),
        ]
    })
}

const FIREWALL: &[Column] = &[
    number("RULE"),
    text("FROM"),
    text("TO"),
    number("IP"),
    text("PROTOCOL"),
    text("SOURCE"),
    text("PORTS"),
    text("DESTINATION"),
    text("PORTS"),
    text("ACTION"),
    number("HITS"),
];

/// Static rules of the firewall.
///
/// # Errors
/// Those of `out`.
pub fn firewall(out: &mut dyn Write, rules: &[FirewallRuleData]) -> io::Result<()> {
    let any = |restricted: Option<String>| restricted.unwrap_or_else(|| "any".into());
    table(out, FIREWALL, rules, |rule| {
        let mut protocol = any(rule.protocol.map(|protocol| protocol.to_string()));
        if let Some(kind) = rule.icmp_type {
            protocol += &format!(" type {kind}");
        }
        if let Some(code) = rule.icmp_code {
            protocol += &format!(" code {code}");
        }
        vec![
            rule.rule.to_string(),
            any(rule.from.clone()),
            any(rule.to.clone()),
            any(rule.family.map(|family| family.to_string())),
            protocol,
            any(rule.source.map(|source| source.to_string())),
            any(rule.source_ports.map(|ports| ports.to_string())),
            any(rule.destination.map(|destination| destination.to_string())),
            any(rule.destination_ports.map(|ports| ports.to_string())),
            rule.action.clone(),
            or_none(rule.hits),
        ]
    })
}

const DROPS: &[Column] = &[text("REASON"), number("PKTS"), number("PKTS/S"), text("MEANING")];

/// Drops: every reason with `all`, else those that happened.
///
/// # Errors
/// Those of `out`.
pub fn drops(out: &mut dyn Write, drops: &DropsData, all: bool) -> io::Result<()> {
    let shown: Vec<_> = drops.reasons.iter().filter(|drop| all || drop.packets > 0).collect();
    table(out, DROPS, &shown, |drop| {
        vec![
            drop.reason.clone(),
            drop.packets.to_string(),
            drop.packets_per_second.to_string(),
            reasons::meaning(&drop.reason).into(),
        ]
    })?;
    writeln!(out)?;
    writeln!(out, "dropped by workers          {} ({}/s)", drops.packets, drops.packets_per_second)?;
    writeln!(out, "lost by devices on receive  {}", drops.device_receive_lost)?;
    writeln!(out, "not taken by a TAP twin     {}", drops.tap_dropped)?;
    writeln!(out, "no room from a TAP twin     {}", drops.inject_dropped)
}

/// The configuration: its text, with where it comes from as a comment before it.
///
/// # Errors
/// Those of `out`.
pub fn config(out: &mut dyn Write, config: &ConfigData) -> io::Result<()> {
    writeln!(
        out,
        "# {}, hash {}, applied {}",
        printable(&config.path),
        printable(&config.hash),
        config.applied_at
    )?;
    for line in config.text.lines() {
        writeln!(out, "{}", line.split('\t').map(printable).collect::<Vec<_>>().join("\t"))?;
    }
    Ok(())
}

const PINHOLES: &[Column] = &[
    number("ID"),
    text("PROTOCOL"),
    text("INSIDE"),
    text("EXTERNAL"),
    text("POOL"),
    text("REMOTE"),
    text("REMOTE-PORTS"),
    text("EXPIRES"),
    text("STATE"),
    text("OWNER"),
    text("NOTE"),
];

/// Pinholes.
///
/// # Errors
/// Those of `out`.
pub fn pinholes(out: &mut dyn Write, pinholes: &[PinholeData]) -> io::Result<()> {
    table(out, PINHOLES, pinholes, |pinhole| {
        vec![
            pinhole.id.to_string(),
            pinhole.protocol.to_string(),
            pinhole.inside.to_string(),
            or_none(pinhole.external),
            or_none(pinhole.pool.as_deref()),
            pinhole.remote.map_or_else(|| "any".into(), |remote| remote.to_string()),
            pinhole.remote_ports.map_or_else(|| "any".into(), |ports| ports.to_string()),
            pinhole.expires_at.map_or_else(|| "never".into(), |expires| expires.to_string()),
            pinhole.state.name().into(),
            pinhole.owner.clone(),
            or_none(pinhole.note.as_deref()),
        ]
    })
}

/// A pinhole in one line.
#[must_use]
pub fn pinhole(pinhole: &PinholeData) -> String {
    let mut line = format!("pinhole {}: {} ", pinhole.id, pinhole.protocol);
    match pinhole.external {
        Some(external) => line += &format!("{external} to {}", pinhole.inside),
        None => line += &format!("to {}", pinhole.inside),
    }
    if let Some(remote) = pinhole.remote {
        line += &format!(" from {remote}");
    }
    if let Some(ports) = pinhole.remote_ports {
        line += &format!(" from ports {ports}");
    }
    if let Some(expires) = pinhole.expires_at {
        line += &format!(" until {expires}");
    }
    line
}

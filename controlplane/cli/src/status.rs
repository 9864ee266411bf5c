//! The text of `show status`.

use crate::show::yes_no;
use crate::table::{Column, Table, number, printable, text};
use crate::units::{duration, percent, ratio_percent};
use std::io::{self, Write};
use turnpike_api::{Envelope, StatusData, Usage};

/// What the box does, in a few words.
#[must_use]
pub const fn state(status: &StatusData) -> &'static str {
    match (status.attached, status.ready) {
        (true, true) => "forwarding",
        (true, false) => "attached, not ready",
        (false, _) => "no dataplane attached",
    }
}

const PORTS: &[Column] = &[
    text("PORT"),
    text("LINK"),
    number("RX-PKTS/S"),
    number("RX-BIT/S"),
    number("TX-PKTS/S"),
    number("TX-BIT/S"),
    number("LOST/S"),
];
const WORKERS: &[Column] = &[number("WORKER"), number("BUSY"), number("PKTS/S")];
const POOLS: &[Column] =
    &[text("POOL"), number("PORTS"), number("TCP"), number("UDP"), number("ICMP"), number("FILL")];
const DROPS: &[Column] = &[text("DROP-REASON"), number("PKTS"), number("PKTS/S")];

/// Writes the page.
///
/// # Errors
/// Those of `out`.
pub fn write(out: &mut dyn Write, envelope: &Envelope<StatusData>) -> io::Result<()> {
    let (status, now) = (&envelope.data, envelope.generated_at);
    let usage = |usage: &Usage| {
        let share = percent(usage.in_use, usage.limit);
        format!("{} of {} ({share}), {}/s new", usage.in_use, usage.limit, usage.created_per_second)
    };
    let mut line = |name: &str, value: &str| writeln!(out, "{name:<15}{}", printable(value));
    line("state", state(status))?;
    line("host", &envelope.host)?;
    match &status.dataplane {
        Some(dataplane) => {
            let up = duration(dataplane.started_at.seconds_until(now));
            let (version, dpdk, pid) = (&dataplane.version, &dataplane.dpdk_version, dataplane.pid);
            line("dataplane", &format!("{version}, {dpdk}, pid {pid}, up {up}"))?;
            line("attached", &format!("since {}", dataplane.attached_since))?;
            line("hugepages", yes_no(!dataplane.no_huge))?;
        }
        None => line("dataplane", "none attached, counters as last seen")?,
    }
    let controlplane = &status.controlplane;
    let up = duration(controlplane.started_at.seconds_until(now));
    line("control plane", &format!("{}, pid {}, up {up}", controlplane.version, controlplane.pid))?;
    let config = &status.config;
    line("config", &format!("{}, hash {}, applied {}", config.path, config.hash, config.applied_at))?;
    line("flows", &usage(&status.flows))?;
    line("bindings", &usage(&status.bindings))?;
    line("subscribers", &status.subscribers.to_string())?;
    line("pinholes", &status.pinholes.to_string())?;
    let buffers = &status.buffers;
    let used = buffers.total.saturating_sub(buffers.available);
    let share = percent(used, buffers.total);
    line("buffers", &format!("{used} of {} in use ({share})", buffers.total))?;
    line("drops", &format!("{}, {}/s", status.drops.packets, status.drops.packets_per_second))?;
    line("balance", &balance(status))?;
    tables(out, status)
}

/// What keeps the box from doing its work, or soon will: as the alert rules see it, at this moment.
#[must_use]
pub fn troubles(status: &StatusData) -> Vec<String> {
    let mut troubles = Vec::new();
    if !status.ready {
        troubles.push(state(status).to_owned());
    }
    let down = status.ports.iter().filter(|port| !port.link_up);
    troubles.extend(down.map(|port| format!("port {}: link down", port.name)));
    for (what, usage) in [("flows", &status.flows), ("bindings", &status.bindings)] {
        if above(usage.in_use, usage.limit, FULL) {
            troubles.push(format!("{what}: {} of {}", usage.in_use, usage.limit));
        }
    }
    let full = status.pools.iter().filter(|pool| above(pool.in_use.highest(), pool.ports, FULL));
    troubles.extend(
        full.map(|pool| {
            format!("pool {}: {} of {} ports in use", pool.name, pool.in_use.highest(), pool.ports)
        }),
    );
    let buffers = &status.buffers;
    if above(buffers.total.saturating_sub(buffers.available), buffers.total, SCARCE) {
        troubles.push(format!("buffers: {} of {} free", buffers.available, buffers.total));
    }
    if !status.conservation.ok {
        troubles.push(format!("balance: {}", balance(status)));
    }
    troubles
}

/// Percent of a table or pool that may be in use.
const FULL: u64 = 95;
/// Percent of the packet buffers that may be.
const SCARCE: u64 = 90;

const fn above(in_use: u64, limit: u64, percent: u64) -> bool {
    in_use.saturating_mul(100) > limit.saturating_mul(percent)
}

/// Writes the line of a check.
///
/// # Errors
/// Those of `out`.
pub fn check(out: &mut dyn Write, status: &StatusData, troubles: &[String]) -> io::Result<()> {
    if troubles.is_empty() {
        return writeln!(out, "OK: {}, {} flows", state(status), status.flows.in_use);
    }
    writeln!(out, "DEGRADED: {}", printable(&troubles.join("; ")))
}

/// Whether every packet is accounted for, in words.
#[must_use]
pub fn balance(status: &StatusData) -> String {
    let balance = &status.conservation;
    if balance.ok {
        "ok, every packet accounted for".into()
    } else {
        format!("BROKEN, {} packets in, {} accounted for", balance.packets_in, balance.packets_accounted)
    }
}

fn tables(out: &mut dyn Write, status: &StatusData) -> io::Result<()> {
    let mut section = |columns, rows: Vec<Vec<String>>| {
        if rows.is_empty() {
            return Ok(());
        }
        writeln!(out)?;
        Table::new(columns).write(out, &rows)
    };
    let ports = status.ports.iter().map(|port| {
        vec![
            port.name.clone(),
            if port.link_up { "up" } else { "down" }.into(),
            port.receive.packets_per_second.to_string(),
            port.receive.bits_per_second.to_string(),
            port.transmit.packets_per_second.to_string(),
            port.transmit.bits_per_second.to_string(),
            port.receive_lost_per_second.to_string(),
        ]
    });
    section(PORTS, ports.collect())?;
    let workers = status.workers.iter().map(|worker| {
        vec![
            worker.worker.to_string(),
            ratio_percent(worker.busy_ratio),
            worker.packets_per_second.to_string(),
        ]
    });
    section(WORKERS, workers.collect())?;
    let pools = status.pools.iter().map(|pool| {
        vec![
            pool.name.clone(),
            pool.ports.to_string(),
            pool.in_use.tcp.to_string(),
            pool.in_use.udp.to_string(),
            pool.in_use.icmp.to_string(),
            percent(pool.in_use.highest(), pool.ports),
        ]
    });
    section(POOLS, pools.collect())?;
    let drops =
        status.drops.top.iter().map(|drop| {
            vec![drop.reason.clone(), drop.packets.to_string(), drop.packets_per_second.to_string()]
        });
    section(DROPS, drops.collect())
}

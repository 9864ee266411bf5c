//! What the screen says, as text: the live view and `--once` print the same.

use crate::status::{balance, state};
use crate::table::{Column, Table, number, printable, text};
use crate::units::{bit_rate, duration, ratio_percent, thousands};
use std::io::{self, Write};
use turnpike_api::{Envelope, PortRate, StatusData, Traffic};

/// A share with a bar.
#[derive(Clone, Debug, PartialEq)]
pub struct Gauge {
    /// What is measured.
    pub label: String,
    /// From 0 to 1.
    pub ratio: f64,
    /// The numbers behind it.
    pub detail: String,
}

impl Gauge {
    fn new(label: impl Into<String>, part: u64, whole: u64, detail: String) -> Self {
        let ratio = if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        Self { label: label.into(), ratio, detail }
    }

    /// The share in percent.
    #[must_use]
    pub fn percent(&self) -> String {
        ratio_percent(self.ratio)
    }

    /// A bar of `width` characters, brackets included.
    #[must_use]
    pub fn bar(&self, width: usize) -> String {
        let room = width.saturating_sub(2);
        let exact = self.ratio.clamp(0.0, 1.0) * room as f64;
        // Anything above nothing shows.
        let filled = if self.ratio > 0.0 { (exact.round() as usize).max(1).min(room) } else { 0 };
        format!("[{}{}]", "|".repeat(filled), " ".repeat(room - filled))
    }
}

/// The screen's text.
#[derive(Clone, Debug, PartialEq)]
pub struct Screen {
    /// Name of the box.
    pub host: String,
    /// What it does, in a few words.
    pub state: &'static str,
    /// Whether that is what it should do.
    pub ready: bool,
    /// When this was.
    pub time: String,
    /// Versions and uptime.
    pub about: String,
    /// Packets and bits a second of all ports together, drops.
    pub totals: String,
    /// How full the tables are.
    pub tables: Vec<Gauge>,
    /// A line for each port, the titles first.
    pub ports: Vec<String>,
    /// How busy each worker is.
    pub workers: Vec<Gauge>,
    /// How full each pool is.
    pub pools: Vec<Gauge>,
    /// A line for each reason, the titles first.
    pub drops: Vec<String>,
    /// Whether every packet is accounted for, in words.
    pub balance: String,
    /// Whether it is.
    pub balanced: bool,
    /// Why this is not the present: the last answer was an error.
    pub fault: Option<String>,
}

const PORTS: &[Column] = &[
    text("PORT"),
    text("LINK"),
    number("RX PKTS/S"),
    number("RX BITS"),
    number("TX PKTS/S"),
    number("TX BITS"),
    number("LOST/S"),
];
const DROPS: &[Column] = &[text("DROPS BY REASON"), number("PKTS"), number("PKTS/S")];

impl Screen {
    /// The screen of a status.
    #[must_use]
    pub fn new(envelope: &Envelope<StatusData>) -> Self {
        let (status, now) = (&envelope.data, envelope.generated_at);
        Self {
            host: printable(&envelope.host).into_owned(),
            state: state(status),
            ready: status.ready && status.attached,
            time: now.to_string().split('.').next().unwrap_or_default().replace('T', " ") + "Z",
            about: match &status.dataplane {
                Some(dataplane) => {
                    let up = duration(dataplane.started_at.seconds_until(now));
                    let text = format!("up {up}  v{}  {}", dataplane.version, dataplane.dpdk_version);
                    printable(&text).into_owned()
                }
                None => format!("control plane v{}", printable(&status.controlplane.version)),
            },
            totals: totals(status),
            tables: tables(status),
            ports: Table::new(PORTS).lines(&status.ports.iter().map(port).collect::<Vec<_>>()),
            workers: status
                .workers
                .iter()
                .map(|worker| Gauge {
                    label: format!("worker {}", worker.worker),
                    ratio: worker.busy_ratio,
                    detail: format!("{}/s", thousands(worker.packets_per_second)),
                })
                .collect(),
            pools: status
                .pools
                .iter()
                .map(|pool| {
                    let used = pool.in_use.highest();
                    let label = printable(&pool.name).into_owned();
                    Gauge::new(label, used, pool.ports, thousands(used))
                })
                .collect(),
            drops: Table::new(DROPS).lines(
                &status
                    .drops
                    .top
                    .iter()
                    .map(|drop| {
                        vec![drop.reason.clone(), thousands(drop.packets), thousands(drop.packets_per_second)]
                    })
                    .collect::<Vec<_>>(),
            ),
            balance: balance(status),
            balanced: status.conservation.ok,
            fault: None,
        }
    }

    /// Writes the screen as plain text, nothing left out.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "turnpike {}  {}  {}  {}", self.host, self.state, self.about, self.time)?;
        writeln!(out, "{}", self.totals)?;
        writeln!(out, "balance {}", self.balance)?;
        gauges(out, &self.tables)?;
        lines(out, &self.ports)?;
        gauges(out, &self.workers)?;
        gauges(out, &self.pools)?;
        lines(out, &self.drops)
    }
}

/// Columns of gauges in plain text; the titles are never shown.
const GAUGES: &[Column] = &[text(""), number(""), text("")];

fn gauges(out: &mut dyn Write, gauges: &[Gauge]) -> io::Result<()> {
    let row = |gauge: &Gauge| vec![gauge.label.clone(), gauge.percent(), gauge.detail.clone()];
    let rows = Table::new(GAUGES).lines(&gauges.iter().map(row).collect::<Vec<_>>());
    if gauges.is_empty() { Ok(()) } else { lines(out, rows.get(1..).unwrap_or_default()) }
}

fn lines(out: &mut dyn Write, lines: &[String]) -> io::Result<()> {
    writeln!(out)?;
    lines.iter().try_for_each(|line| writeln!(out, "{line}"))
}

fn totals(status: &StatusData) -> String {
    let sum = |of: fn(&PortRate) -> &Traffic| {
        let (packets, bits) = status.ports.iter().map(of).fold((0u64, 0u64), |(packets, bits), traffic| {
            (packets.saturating_add(traffic.packets_per_second), bits.saturating_add(traffic.bits_per_second))
        });
        format!("{} pkts/s {}", thousands(packets), bit_rate(bits))
    };
    format!(
        "rx {}   tx {}   drops {}/s",
        sum(|port| &port.receive),
        sum(|port| &port.transmit),
        thousands(status.drops.packets_per_second)
    )
}

fn tables(status: &StatusData) -> Vec<Gauge> {
    let of = |used: u64, all: u64| format!("{} of {}", thousands(used), thousands(all));
    let mut gauges: Vec<_> = [("flows", &status.flows), ("bindings", &status.bindings)]
        .map(|(label, usage)| {
            let new = thousands(usage.created_per_second);
            let detail = format!("{}  {new}/s new", of(usage.in_use, usage.limit));
            Gauge::new(label, usage.in_use, usage.limit, detail)
        })
        .into();
    let buffers = &status.buffers;
    let used = buffers.total.saturating_sub(buffers.available);
    gauges.push(Gauge::new("buffers", used, buffers.total, of(used, buffers.total)));
    gauges
}

fn port(port: &PortRate) -> Vec<String> {
    vec![
        port.name.clone(),
        if port.link_up { "up" } else { "down" }.into(),
        thousands(port.receive.packets_per_second),
        bit_rate(port.receive.bits_per_second),
        thousands(port.transmit.packets_per_second),
        bit_rate(port.transmit.bits_per_second),
        thousands(port.receive_lost_per_second),
    ]
}

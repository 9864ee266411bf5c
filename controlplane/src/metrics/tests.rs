//! The exposition: names are an API, every series is there from the start, Prometheus' own checker accepts it.

use super::families::all;
use super::family::{Family, Value};
use super::*;
use crate::facts::{Facts, PoolFacts, Shape};
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use turnpike_abi::counters::{Counter, Counters, Direction, DropReason, ProtocolClass};
use turnpike_abi::stats::{PortStats, field};

fn facts() -> Facts {
    let pool = |name: &str| PoolFacts { name: name.into(), addresses: 16, ports: 16 * 64512 };
    Facts {
        shape: Shape {
            hash: "0123456789abcdef".into(),
            ports: vec!["inside".into(), "outside".into()],
            zones: vec!["inside".into(), "outside".into()],
            pools: vec![pool("public"), pool("static")],
            workers: 2,
        },
        ..Facts::default()
    }
}

fn families() -> Vec<Family> {
    all(&Reading::default(), &facts(), 0.001)
}

fn exposition(reading: &Reading) -> String {
    let families: Vec<_> = all(reading, &facts(), 0.001).into_iter().filter_map(proto_family).collect();
    TextEncoder::new().encode_to_string(&families).unwrap()
}

/// Written anew with `TURNPIKE_BLESS=1`. A change here breaks dashboards and alerts: say so in the release.
#[test]
fn names_types_labels_and_help_are_the_golden_ones() {
    let mut text = String::new();
    for family in families() {
        let labels = family.labels.join(",");
        writeln!(text, "{} {:?} {{{labels}}} {}", family.name, family.kind, family.help).unwrap();
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/metrics/golden.txt");
    if std::env::var_os("TURNPIKE_BLESS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(path).unwrap());
}

#[test]
fn every_series_is_there_before_anything_attaches() {
    let families = families();
    for family in &families {
        assert!(!family.rows.is_empty(), "{} has no series", family.name);
        for (labels, _) in &family.rows {
            assert_eq!(labels.len(), family.labels.len(), "{}", family.name);
        }
        let mut series: Vec<_> = family.rows.iter().map(|(labels, _)| labels).collect();
        series.sort();
        series.dedup();
        assert_eq!(series.len(), family.rows.len(), "{} has a series twice", family.name);
    }
    let drops = families.iter().find(|family| family.name == "turnpike_drops_total").unwrap();
    assert_eq!(drops.rows.len(), DropReason::COUNT);
    let mut names: Vec<_> = families.iter().map(|family| family.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), families.len(), "a family is there twice");
    // The collector's own check of names and labels.
    assert!(router(Board::default()).is_ok());
}

/// Sixty-four workers, sixteen ports and zones and sixty-four pools stay within what a scrape may hold.
#[test]
fn a_full_box_has_a_bounded_number_of_series() {
    let names = |what: &str, count: usize| (0..count).map(|n| format!("{what}{n}")).collect::<Vec<_>>();
    let pools = names("pool", 64).into_iter().map(|name| PoolFacts { name, addresses: 1, ports: 1 });
    let shape = Shape {
        ports: names("port", 16),
        zones: names("zone", 16),
        pools: pools.collect(),
        workers: 64,
        ..Shape::default()
    };
    let full = all(&Reading::default(), &Facts { shape, ..Facts::default() }, 0.001);
    let series: usize = full.iter().map(|family| family.rows.len()).sum();
    assert!(series <= 5000, "{series} series");
}

#[test]
fn counters_reach_their_series() {
    let mut worker = Counters::default();
    worker.add(Counter::Received, 7);
    worker.add(Counter::EventsDropped, 3);
    worker.drop_packet(DropReason::NoRoute);
    worker.forwarded(Direction::In2Out, ProtocolClass::Udp, 100);
    worker.forwarded(Direction::In2Out, ProtocolClass::Udp, 1500);
    worker.burst(3);
    worker.burst(400);
    worker.binding_created(ProtocolClass::Tcp, 1);
    let port = PortStats { name: field("uplink"), rx_missed: 9, ..PortStats::default() };
    let reading = Reading { ports: vec![port], workers: vec![worker.clone(), worker], ..Reading::default() };
    let text = exposition(&reading);
    for line in [
        r#"turnpike_worker_packets_total{worker="1"} 7"#,
        r#"turnpike_worker_ring_dropped_total{ring="events",worker="0"} 3"#,
        r#"turnpike_drops_total{reason="no_route"} 2"#,
        r#"turnpike_drops_total{reason="ttl_expired"} 0"#,
        r#"turnpike_forward_packets_total{direction="in2out",proto="udp"} 4"#,
        r#"turnpike_forward_bytes_total{direction="in2out",proto="udp"} 3200"#,
        r#"turnpike_packet_size_bytes_bucket{direction="in2out",le="128"} 2"#,
        r#"turnpike_packet_size_bytes_bucket{direction="in2out",le="1518"} 4"#,
        r#"turnpike_packet_size_bytes_sum{direction="in2out"} 3200"#,
        r#"turnpike_packet_size_bytes_count{direction="in2out"} 4"#,
        r#"turnpike_worker_batch_packets_bucket{worker="0",le="4"} 1"#,
        r#"turnpike_worker_batch_packets_bucket{worker="0",le="+Inf"} 2"#,
        r#"turnpike_pool_ports_in_use{pool="static",proto="tcp"} 2"#,
        r#"turnpike_port_receive_missed_total{port="uplink"} 9"#,
        r#"turnpike_port_receive_missed_total{port="outside"} 0"#,
        r#"turnpike_pool_ports{pool="public",proto="udp"} 1032192"#,
    ] {
        let sorted = |line: &str| {
            let (labels, rest) = line.split_once('}').unwrap_or((line, ""));
            let (name, labels) = labels.split_once('{').unwrap_or((labels, ""));
            let mut labels: Vec<_> = labels.split(',').map(str::to_owned).collect();
            labels.sort();
            (name.to_owned(), labels, rest.to_owned())
        };
        assert!(text.lines().any(|other| sorted(other) == sorted(line)), "{line}\n{text}");
    }
}

#[test]
fn histograms_are_cumulative_and_end_in_infinity() {
    for family in families() {
        for (_, value) in family.rows {
            if let Value::Histogram { buckets, .. } = value {
                assert!(buckets.is_sorted_by(|(a, _), (b, _)| a < b), "{}", family.name);
                assert_eq!(buckets.last().map(|(bound, _)| *bound), Some(f64::INFINITY), "{}", family.name);
            }
        }
    }
}

#[test]
fn promtool_accepts_it() {
    let Ok(mut promtool) = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
    else {
        eprintln!("promtool is not installed: not checked");
        return;
    };
    promtool.stdin.take().unwrap().write_all(exposition(&Reading::default()).as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

//! The translator's log: what workers say lands in a file, whoever restarts, and what is lost is counted.

use crate::support::{RULES, Site, until};
use serde_json::Value;
use turnpike_abi::command::{Kind, Slot};
use turnpike_abi::counters::FlowEnd;
use turnpike_abi::event::{FlowEnded, PortsLogged};
use turnpike_abi::{Address, WorkerId};
use turnpike_api::{ReloadData, Request};

fn block(host: u8, first: u16) -> PortsLogged {
    let mut ports = PortsLogged {
        inside: Address::v4([192, 168, 0, host]),
        external: Address::v4([203, 0, 113, 16]),
        since_ms: 5000,
        at_ms: 5000,
        ..PortsLogged::default()
    };
    ports.runs[0] = [first, first + 255];
    ports
}

fn flow(port: u16) -> FlowEnded {
    FlowEnded {
        inside: Address::v4([192, 168, 0, 9]),
        external: Address::v4([203, 0, 113, 16]),
        remote: Address::v4([198, 51, 100, 1]),
        ended_ms: 9000,
        inside_port: port,
        external_port: port,
        remote_port: 443,
        protocol: 6,
        cause: FlowEnd::Rst.index() as u8,
        flags: FlowEnded::TRANSLATED,
        ..FlowEnded::default()
    }
}

/// The file's lines once there are `count` of an event.
fn lines(site: &Site, name: &str, event: &str, count: usize) -> Vec<Value> {
    until(event, || {
        let text = std::fs::read_to_string(site.path(name)).ok()?;
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines: Vec<Value> = whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let of: Vec<Value> = lines.into_iter().filter(|line| line["event"] == event).collect();
        (of.len() >= count).then_some(of)
    })
}

/// Blocks are logged by default; who attaches asks for those that are held, so that none is missing.
#[test]
fn log_14_blocks_are_logged_and_asked_for_after_a_restart() {
    let mut site = Site::new();
    let fake = site.dataplane();
    fake.with(|state| state.blocks.push((WorkerId(1), block(7, 1024))));
    site.start();
    site.until_ready();
    let held = lines(&site, "state/nat.jsonl", "ports_held", 1);
    assert_eq!(held[0]["inside"], "192.168.0.7");
    assert_eq!(held[0]["ports"], serde_json::json!(["1024-1279"]));
    assert_eq!((&held[0]["external"], &held[0]["worker"]), (&"203.0.113.16".into(), &1.into()));
    fake.with(|state| {
        let slot = |kind, body: &PortsLogged| (WorkerId(0), Slot::new(kind, 0, body));
        state.events.push(slot(Kind::PORTS_ASSIGNED, &block(8, 2048)));
        state.events.push(slot(Kind::PORTS_RELEASED, &block(8, 2048)));
    });
    assert_eq!(lines(&site, "state/nat.jsonl", "ports_assigned", 1)[0]["inside"], "192.168.0.8");
    let released = lines(&site, "state/nat.jsonl", "ports_released", 1);
    assert_eq!(released[0]["since"], "1970-01-01T00:00:05.000Z");
    assert_eq!(released[0]["pool"], "public");
    let counted = r#"turnpike_log_records_total{event="ports_assigned",transport="file"}"#;
    until("counted", || (site.metric(counted) == 1.0).then_some(()));
    assert_eq!(site.metric(r#"turnpike_log_dropped_total{transport="file",reason="full"}"#), 0.0);

    site.kill();
    fake.with(|state| state.blocks.push((WorkerId(0), block(9, 4096))));
    site.start();
    assert_eq!(lines(&site, "state/nat.jsonl", "ports_held", 3).len(), 3);
}

/// CGN-12: flows and their remote ends are logged on request alone, and a request takes a reload, no restart. A file
/// that somebody moved away is opened anew.
#[test]
fn cgn_12_flows_are_logged_on_request_after_a_reload() {
    let mut site = Site::new();
    let fake = site.dataplane();
    site.configure(&format!("{RULES}\n[log]\nflows = true\n"));
    site.start();
    site.until_ready();
    let ended = |port| (WorkerId(0), Slot::new(Kind::FLOW_ENDED, 0, &flow(port)));
    fake.with(|state| state.events.push(ended(1)));
    let first = lines(&site, "state/nat.jsonl", "flow_ended", 1);
    assert_eq!((&first[0]["cause"], &first[0]["protocol"]), (&"rst".into(), &"tcp".into()));
    assert_eq!((&first[0]["inside"], first[0].get("remote")), (&"192.168.0.9:1".into(), None));

    let file = site.path("flows.jsonl");
    let log = format!("[log]\nblocks = false\nflows = true\ndestinations = true\nfile = {file:?}\n");
    site.configure(&format!("{RULES}\n{log}"));
    let data: ReloadData = site.ask(&Request::ConfigReload);
    assert!(data.changed && data.needs_restart.is_empty());
    fake.with(|state| state.events.push(ended(2)));
    let second = lines(&site, "flows.jsonl", "flow_ended", 1);
    assert_eq!(
        (&second[0]["inside"], &second[0]["remote"]),
        (&"192.168.0.9:2".into(), &"198.51.100.1:443".into())
    );

    std::fs::rename(&file, site.path("flows.jsonl.1")).unwrap();
    fake.with(|state| state.events.push(ended(3)));
    assert_eq!(lines(&site, "flows.jsonl", "flow_ended", 1)[0]["inside"], "192.168.0.9:3");
}

/// A file that cannot be opened is said to whoever reloads, and costs no line: the log goes on where it was.
#[test]
fn a_log_file_that_cannot_be_opened_loses_nothing() {
    let mut site = Site::new();
    let fake = site.dataplane();
    site.start();
    site.until_ready();
    let file = site.path("nowhere/nat.jsonl");
    site.configure(&format!("{RULES}\n[log]\nfile = {file:?}\n"));
    let answer = site.call::<ReloadData>(&Request::ConfigReload).unwrap();
    let [warning] = answer.warnings.as_slice() else { panic!("one warning: {:?}", answer.warnings) };
    let [path, old] = [&file, &site.path("state/nat.jsonl")].map(|path| path.display().to_string());
    assert!(warning.starts_with(&format!("log.file: {path} cannot be opened")), "{warning}");
    assert!(warning.contains(&old), "{warning}");
    fake.with(|state| {
        state.events.push((WorkerId(0), Slot::new(Kind::PORTS_ASSIGNED, 0, &block(8, 2048))));
    });
    assert_eq!(lines(&site, "state/nat.jsonl", "ports_assigned", 1)[0]["inside"], "192.168.0.8");

    std::fs::create_dir(site.path("nowhere")).unwrap();
    let answer = site.call::<ReloadData>(&Request::ConfigReload).unwrap();
    assert!(answer.warnings.is_empty(), "{:?}", answer.warnings);
    fake.with(|state| {
        state.events.push((WorkerId(0), Slot::new(Kind::PORTS_RELEASED, 0, &block(8, 2048))));
    });
    assert_eq!(lines(&site, "nowhere/nat.jsonl", "ports_released", 1)[0]["inside"], "192.168.0.8");
}

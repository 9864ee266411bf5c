//! Start, exit codes, TAP twins, crash and orderly stop.

use crate::lab::{BINARY, Daemon, Namespace, configuration, wait_for};
use std::process::Command;
use tempfile::TempDir;
use turnpike_client::Place;

/// Ports that receive nothing.
pub const SILENT: &str = r#"
[[port]]
name = "inside"
device = "net_null0,no-rx=1"
zone = "inside"
addresses = ["192.168.0.1/24", "fd00:1::1/64"]
mac = "02:00:00:00:00:01"

[[port]]
name = "outside"
device = "net_null1,no-rx=1"

[[port.vlan]]
id = 100
name = "uplink"
zone = "outside"
addresses = ["203.0.113.2/24"]
mtu = 1400

[[zone]]
name = "inside"
side = "inside"

[[zone]]
name = "outside"
side = "outside"

[[route]]
destination = "0.0.0.0/0"
via = "203.0.113.1"
"#;

#[test]
fn exit_codes_of_the_command_line() {
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("turnpike.toml");
    let run = |words: &[&str]| {
        let output = Command::new(BINARY).args(words).output().expect("the binary runs");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    };
    let path = file.to_str().expect("UTF-8");
    std::fs::write(&file, configuration(directory.path(), directory.path(), "[1]", SILENT)).expect("written");
    let (code, text) = run(&["--config", path, "--check"]);
    assert_eq!(code, Some(0), "{text}");
    std::fs::write(
        &file,
        configuration(directory.path(), directory.path(), "[1, 1]", "[[port]]\nnaem = 1\n"),
    )
    .expect("written");
    let (code, text) = run(&["--config", path]);
    assert_eq!(code, Some(7), "{text}");
    assert!(text.contains("naem"), "{text}");
    assert_eq!(run(&["--confgi"]).0, Some(2));
    let (code, text) = run(&["--version"]);
    assert_eq!((code, text.trim()), (Some(0), concat!("turnpike-dataplane ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn twins_come_with_the_dataplane_and_go_with_it() {
    let namespace = Namespace::new();
    let daemon = Daemon::start(&namespace, "[1]", SILENT);
    let inside = namespace.addresses("tp-inside").expect("a TAP");
    assert!(inside.contains("192.168.0.1/24") && inside.contains("fd00:1::1/64"), "{inside}");
    assert!(!inside.contains("tentative"), "IPv6 works at once: {inside}");
    let uplink = namespace.addresses("tp-uplink").expect("a TAP");
    assert!(uplink.contains("203.0.113.2/24"), "{uplink}");
    assert!(namespace.addresses("tp-outside").is_none(), "no untagged interface, no TAP");
    let link = namespace.run(&["ip", "link", "show", "dev", "tp-inside"]);
    assert!(link.contains("02:00:00:00:00:01") && link.contains("mtu 1500"), "{link}");
    let link = namespace.run(&["ip", "link", "show", "dev", "tp-uplink"]);
    assert!(link.contains("mtu 1400"), "{link}");
    let routes = namespace.run(&["ip", "route"]);
    assert!(routes.contains("default via 203.0.113.1 dev tp-uplink"), "{routes}");
    let (status, log) = daemon.stop();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!log.contains("not given back"), "{log}");
    assert!(namespace.addresses("tp-inside").is_none() && namespace.addresses("tp-uplink").is_none());
}

#[test]
fn the_next_dataplane_takes_over_what_a_crash_left() {
    let namespace = Namespace::new();
    Daemon::start(&namespace, "[1]", SILENT).kill();
    let index = |namespace: &Namespace| {
        let lines = namespace.addresses("tp-inside").expect("it stays");
        lines.split(':').next().map(str::to_owned)
    };
    let before = index(&namespace);
    // What others did there: a route of a routing daemon's, and an address that is in no configuration.
    namespace.run(&["ip", "route", "add", "10.9.0.0/16", "via", "192.168.0.9"]);
    namespace.run(&["ip", "address", "add", "192.0.2.77/24", "dev", "tp-inside"]);
    let daemon = Daemon::start(&namespace, "[1]", SILENT);
    assert_eq!(index(&namespace), before, "the same device");
    let routes = namespace.run(&["ip", "route"]);
    assert!(routes.contains("10.9.0.0/16 via 192.168.0.9"), "{routes}");
    let addresses = namespace.addresses("tp-inside").unwrap_or_default();
    assert!(addresses.contains("192.168.0.1/24") && !addresses.contains("192.0.2.77"), "{addresses}");
    let (status, log) = daemon.stop();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(namespace.addresses("tp-inside").is_none(), "removed although another process made it");
}

#[test]
fn state_files_are_the_dataplane_s_alone_and_go_with_it() {
    let namespace = Namespace::new();
    let mut daemon = Daemon::start(&namespace, "[0, 1]", SILENT);
    let files = |daemon: &Daemon| {
        let mut files = daemon.state();
        files.sort();
        files
    };
    let both = [("worker-0".to_owned(), 0o600), ("worker-1".to_owned(), 0o600)];
    assert_eq!(files(&daemon), both);
    let attachment = daemon.attach();
    let workers = attachment.states().iter().map(|view| (view.worker().0, view.places()));
    // IPv4 as configured, IPv6 by default.
    assert_eq!(workers.collect::<Vec<_>>(), [(0, 4096 + 16_384), (1, 4096 + 16_384)]);

    daemon.kill_and_start(&namespace);
    assert_eq!(files(&daemon), both, "those of the dead one were replaced");
    assert_eq!(attachment.states()[0].flow(0, 0), Place::Empty, "who mapped those keeps them");

    let memory = daemon.memory();
    let (status, log) = daemon.stop();
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!(memory.path().join("state").read_dir().expect("the directory stays").count(), 0);
}

#[test]
fn a_failed_start_says_why_and_leaves_nothing() {
    let namespace = Namespace::new();
    let fail = |cores: &str, from: &str, to: &str| {
        let (status, log) = Daemon::launch(&namespace, cores, &SILENT.replace(from, to)).wait();
        assert_eq!(status.code(), Some(1), "{log}");
        assert!(namespace.addresses("tp-inside").is_none(), "{log}");
        log
    };
    let log = fail("[1]", "net_null1,no-rx=1", "net_af_packet0,iface=nowhere");
    assert!(log.contains("port \"outside\"") && log.contains("iface="), "{log}");
    let log = fail("[1]", "net_null1,no-rx=1", "net_ring1");
    assert!(log.contains("port \"outside\"") && log.contains("mac ="), "no station address: {log}");
    let log = fail("[1, 900]", "", "");
    assert!(log.contains("core 900"), "{log}");

    let daemon = Daemon::start(&namespace, "[1]", SILENT);
    let (status, log) = Daemon::launch(&namespace, "[1]", SILENT).wait();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("tp-inside"), "the TAP belongs to a living process: {log}");
    assert!(namespace.addresses("tp-inside").is_some(), "whose TAP stays");
    assert_eq!(daemon.stop().0.code(), Some(0));
}

#[test]
fn a_twin_that_somebody_removes_does_not_take_the_rest_along() {
    let namespace = Namespace::new();
    let daemon = Daemon::start(&namespace, "[1]", SILENT);
    namespace.run(&["ip", "link", "delete", "tp-inside"]);
    wait_for("a word about it", || daemon.log().contains("somebody removed it").then_some(()));
    let attachment = daemon.attach();
    assert_eq!(attachment.interfaces().len(), 2);
    let (status, log) = daemon.stop();
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!(log.matches("somebody removed it").count(), 1, "said once");
    assert!(namespace.addresses("tp-uplink").is_none());
}

#[test]
fn after_the_start_little_is_allowed() {
    let namespace = Namespace::new();
    let daemon = Daemon::start(&namespace, "[1]", SILENT);
    let pid = daemon.attach().identity().pid;
    let mut seen = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs") {
        let path = task.expect("a task").path();
        let name = std::fs::read_to_string(path.join("comm")).expect("a name");
        let status = std::fs::read_to_string(path.join("status")).expect("a status");
        let field = |key: &str| {
            let line = status.lines().find(|line| line.starts_with(key)).unwrap_or_default();
            line.split_whitespace().nth(1).unwrap_or_default().to_owned()
        };
        assert_eq!(field("NoNewPrivs"), "1");
        match name.trim() {
            // CAP_NET_ADMIN is bit 12.
            "turnpike-datapl" => assert_eq!(field("CapPrm"), "0000000000001000"),
            "worker-0" => {
                assert_eq!(field("CapPrm"), "0000000000000000");
                assert_eq!(field("Cpus_allowed_list"), "1");
            }
            _ => assert_ne!(field("Cpus_allowed_list"), "1", "{name} on the worker's core"),
        }
        seen.push(name.trim().to_owned());
    }
    assert!(seen.contains(&"worker-0".to_owned()), "{seen:?}");
}

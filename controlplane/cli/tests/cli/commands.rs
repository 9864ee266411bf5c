//! The CLI as a process, against a control plane that speaks the API over a socket: every command, text and JSON.

use crate::support::{Ran, Server, check_golden, example, example_text, line, turnpike};
use turnpike_api::{PinholeRemove, Request, StatusData};

/// Commands, the golden file of their text, and the API's example that they show.
const COMMANDS: &[(&[&str], &str, &str)] = &[
    (&["show", "status"], "status", "status"),
    (&["show", "ports"], "ports", "ports"),
    (&["show", "workers"], "workers", "workers"),
    (&["show", "flows"], "flows", "flows"),
    (&["show", "bindings"], "bindings", "bindings"),
    (&["show", "pools"], "pools", "pools"),
    (&["show", "neighbours"], "neighbours", "neighbours"),
    (&["show", "routes"], "routes", "routes"),
    (&["show", "firewall"], "firewall", "firewall"),
    (&["show", "drops"], "drops", "drops"),
    (&["show", "drops", "--all"], "drops-all", "drops"),
    (&["show", "config"], "config", "config"),
    (&["pinhole", "list"], "pinhole-list", "pinholes"),
    (&["pinhole", "remove", "1"], "pinhole-remove", "pinhole"),
    (&["pinhole", "add", "--protocol", "tcp", "--inside", "192.168.0.20:22"], "pinhole-add", "pinhole"),
    (&["show", "rules"], "rules", "rules"),
    (&["show", "groups"], "groups", "groups"),
    (&["show", "agents"], "agents", "agents"),
    (&["show", "sessions"], "sessions", "sessions"),
    (&["rule", "delete", "7"], "rule-delete", "rule"),
    (&["config", "reload"], "config-reload", "reload"),
    (&["top", "--once"], "top-once", "status"),
    (&["nat", "forward", "198.51.100.2"], "nat-forward", "nat_forward"),
    (&["nat", "reverse", "192.0.2.1", "5056"], "nat-reverse", "nat_reverse"),
    (&["version"], "version", "version"),
];

#[test]
fn every_command_prints_text_and_notes() {
    let server = Server::of_examples();
    for (args, golden, _) in COMMANDS {
        let ran = server.run(args);
        assert_eq!(ran.code, 0, "{args:?}: {ran:?}");
        let stderr =
            if ran.stderr.is_empty() { String::new() } else { format!("--- stderr\n{}", ran.stderr) };
        check_golden(&format!("{golden}.txt"), &(ran.stdout + &stderr));
    }
}

#[test]
fn every_command_prints_the_envelope_as_json() {
    let server = Server::of_examples();
    for (args, _, name) in COMMANDS {
        let ran = server.run(&[&["--json"], *args].concat());
        assert_eq!(ran.code, 0, "{args:?}: {ran:?}");
        let mut expected: serde_json::Value = serde_json::from_str(&example_text(name)).unwrap();
        expected["next_cursor"] = serde_json::Value::Null;
        expected["truncated"] = false.into();
        if *name == "version" {
            expected["data"]["cli"] = env!("CARGO_PKG_VERSION").into();
        }
        assert_eq!(ran.json(), expected, "{args:?}");
    }
}

/// What makes a sound status another one.
type Change = dyn Fn(&mut StatusData) + Sync;

/// `show status --check`: a line and an exit code for each thing that can be wrong.
#[test]
fn a_check_of_the_status_tells_each_trouble() {
    let ran = |change: &Change| {
        let mut sound = example::<StatusData>("status");
        (sound.data.ready, sound.data.attached, sound.data.conservation.ok) = (true, true, true);
        sound.data.ports.iter_mut().for_each(|port| port.link_up = true);
        sound.data.buffers.available = sound.data.buffers.total;
        (sound.data.flows.in_use, sound.data.bindings.in_use) = (7, 5);
        change(&mut sound.data);
        let answer = line(&sound);
        let server = Server::new(move |_| Some(answer.clone()));
        let json = server.run(&["--json", "show", "status", "--check"]);
        let text = server.run(&["show", "status", "--check"]);
        assert_eq!(
            (json.code, &json.json()["data"]),
            (text.code, &serde_json::to_value(&sound.data).unwrap())
        );
        (text.code, text.stdout)
    };
    assert_eq!(ran(&|_| ()), (0, "OK: forwarding, 7 flows\n".into()));
    let cases: [(&Change, &str); 7] = [
        (&|status| status.ready = false, "attached, not ready"),
        (&|status| (status.ready, status.attached) = (false, false), "no dataplane attached"),
        (&|status| status.ports[1].link_up = false, "port outside: link down"),
        (&|status| (status.flows.in_use, status.flows.limit) = (951, 1000), "flows: 951 of 1000"),
        (&|status| (status.bindings.in_use, status.bindings.limit) = (1, 1), "bindings: 1 of 1"),
        (&|status| status.pools[0].in_use.udp = status.pools[0].ports, "pool public: "),
        (&|status| status.buffers.available = status.buffers.total / 11, "buffers: "),
    ];
    for (change, said) in cases {
        let (code, text) = ran(change);
        assert_eq!(code, 9, "{text}");
        assert!(text.starts_with(&format!("DEGRADED: {said}")) && !text.contains(';'), "{text}");
    }
    let (code, text) = ran(&|status| {
        status.ports[0].link_up = false;
        status.conservation.ok = false;
    });
    assert_eq!(code, 9);
    assert!(text.starts_with("DEGRADED: port inside: link down; balance: BROKEN, "), "{text}");
}

#[test]
fn quiet_prints_results_alone() {
    let server = Server::of_examples();
    let (loud, quiet) = (server.run(&["show", "bindings"]), server.run(&["-q", "show", "bindings"]));
    assert_eq!(loud.stderr, "warning: worker 1 does not answer: its rows are missing\n");
    assert_eq!((quiet.code, quiet.stderr.as_str()), (0, ""));
    assert_eq!(quiet.stdout, loud.stdout);
}

#[test]
fn options_reach_the_control_plane() {
    let server = Server::of_examples();
    let sent = |args: &[&str]| {
        let ran = server.run(args);
        assert!(ran.code == 0, "{args:?}: {ran:?}");
        match server.requests().as_slice() {
            [request] => serde_json::to_value(request).unwrap(),
            requests => panic!("{args:?} sent {requests:?}"),
        }
    };
    let expect = |json: &str| serde_json::from_str::<serde_json::Value>(json).unwrap();
    assert_eq!(
        sent(&[
            "show",
            "flows",
            "--subscriber",
            "192.168.0.0/24",
            "--protocol",
            "TCP",
            "--state",
            "established",
            "--external",
            ":443",
            "--remote",
            "[2001:db8::1]:443",
            "--limit",
            "5",
        ]),
        expect(
            r#"{"request": "flows", "cursor": null, "limit": 6, "filter": {
                "subscriber": "192.168.0.0/24", "protocol": "tcp", "state": "established",
                "external": {"address": null, "port": 443},
                "remote": {"address": "2001:db8::1", "port": 443}}}"#
        )
    );
    assert_eq!(
        sent(&[
            "show",
            "bindings",
            "--subscriber",
            "fd00:1::10",
            "--external",
            "203.0.113.16",
            "--pinholes",
            "--all"
        ]),
        expect(
            r#"{"request": "bindings", "cursor": null, "limit": 1000, "filter": {
                "subscriber": "fd00:1::10/128", "protocol": null, "pinholes": true,
                "external": {"address": "203.0.113.16", "port": null}}}"#
        )
    );
    assert_eq!(
        sent(&[
            "pinhole",
            "add",
            "--protocol",
            "udp",
            "--inside",
            "[fd00:1::20]:53",
            "--external",
            ":53",
            "--remote",
            "2001:db8::/32",
            "--remote-ports",
            "1024-65535",
            "--lifetime",
            "3600",
            "--pool",
            "public",
            "--note",
            "resolver",
        ]),
        expect(
            r#"{"request": "pinhole_add", "protocol": "udp", "inside": {"address": "fd00:1::20", "port": 53},
                "external": {"address": null, "port": 53}, "remote": "2001:db8::/32",
                "remote_ports": {"first": 1024, "last": 65535}, "lifetime_seconds": 3600, "pool": "public",
                "note": "resolver"}"#
        )
    );
    assert_eq!(server.run(&["pinhole", "remove", "7"]).code, 0);
    assert_eq!(server.requests(), [Request::PinholeRemove(PinholeRemove { id: 7 })]);
}

#[test]
fn a_configuration_is_checked_without_a_daemon() {
    let sound = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/etc/turnpike.toml");
    let check = |path: &str, json: bool| {
        let mut command = turnpike();
        command.args(["--socket", "/nonexistent", "config", "check", path]);
        if json {
            command.arg("--json");
        }
        Ran::of(command)
    };
    let ran = check(sound, false);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, &*format!("{sound}: ok\n"), ""));
    let json = check(sound, true).json();
    assert_eq!(
        (json["schema"].as_str(), json["data"]["valid"].as_bool()),
        (Some("turnpike.check.v1"), Some(true))
    );

    let directory = tempfile::tempdir().unwrap();
    let wrong = directory.path().join("wrong.toml");
    std::fs::write(&wrong, "[dataplane]\ncores = [1]\nbuffer = 3\n\n[control]\nmetrics = \"nowhere\"\n")
        .unwrap();
    let wrong = wrong.to_str().unwrap();
    let ran = check(wrong, false);
    assert_eq!((ran.code, ran.stdout.as_str()), (7, ""));
    for named in ["turnpike: ", "problems", "wrong.toml:3:", "buffer", "wrong.toml:6:", "metrics"] {
        assert!(ran.stderr.contains(named), "{named} in {}", ran.stderr);
    }
    let ran = check(wrong, true);
    assert_eq!(ran.code, 7);
    assert_eq!(ran.json()["error"]["code"], "config_invalid");
    assert!(ran.json()["error"]["details"].as_array().unwrap().len() >= 2);

    let ran = check("/nonexistent/turnpike.toml", false);
    assert_eq!(ran.code, 7);
    assert!(ran.stderr.contains("/nonexistent/turnpike.toml"), "{}", ran.stderr);
}

#[test]
fn completions_are_scripts_of_their_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let mut command = turnpike();
        command.args(["completions", shell]);
        let ran = Ran::of(command);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
        for word in ["turnpike", "show", "pinhole", "flows", "subscriber"] {
            assert!(ran.stdout.contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn help_names_the_exit_codes() {
    let mut command = turnpike();
    command.arg("--help");
    let ran = Ran::of(command);
    assert_eq!(ran.code, 0);
    check_golden("help.txt", &ran.stdout);
}

#[test]
fn the_live_screen_wants_a_terminal() {
    let server = Server::of_examples();
    let ran = server.run(&["top"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("--once"), "{}", ran.stderr);
    assert_eq!(server.run(&["--json", "top"]).code, 2);
}

#[test]
fn a_box_without_dataplane_says_so() {
    let mut envelope = example::<StatusData>("status");
    envelope.data.attached = false;
    envelope.data.ready = false;
    envelope.data.dataplane = None;
    envelope.data.conservation.ok = false;
    envelope.data.conservation.packets_accounted -= 3;
    let answer = crate::support::line(&envelope);
    let server = Server::new(move |_| Some(answer.clone()));
    check_golden("status-detached.txt", &server.run(&["show", "status"]).stdout);
    check_golden("top-once-detached.txt", &server.run(&["top", "--once"]).stdout);
}

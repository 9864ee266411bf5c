//! What the CLI does when something is wrong: exit codes, and one JSON document on standard output all the same.

use crate::support::{Ran, Server, answer, example, line, refuse, turnpike};
use std::io::Read;
use std::process::Stdio;
use turnpike_api::{Envelope, ErrorBody, ErrorCode, FlowData, FlowsRequest, Request, RouteData};

/// Rows `from..to` of a table of flows that are told apart by their age.
fn rows(from: u64, to: u64) -> Vec<FlowData> {
    let flow = example::<Vec<FlowData>>("flows").data.remove(0);
    (from..to).map(|age_seconds| FlowData { age_seconds, ..flow.clone() }).collect()
}

/// A control plane with `total` flows, which gives pages of at most `page` rows.
fn many(total: u64, page: u64) -> Server {
    Server::new(move |request| {
        let Request::Flows(FlowsRequest { cursor, limit, .. }) = request else {
            return Some(answer(request));
        };
        let from: u64 = cursor.as_ref().map_or(0, |cursor| cursor.parse().unwrap());
        let to = (from + u64::from(*limit).min(page)).min(total);
        let next = (to < total).then(|| to.to_string());
        Some(line(&Envelope::new("box1", rows(from, to)).with_next(next)))
    })
}

fn ages(ran: &Ran) -> Vec<u64> {
    ran.json()["data"].as_array().unwrap().iter().map(|row| row["age_seconds"].as_u64().unwrap()).collect()
}

#[test]
fn every_error_code_ends_with_its_exit_code() {
    for code in ErrorCode::ALL {
        let error = ErrorBody::new(code, "it is wrong")
            .with_hint("make it right")
            .with_details(vec!["here".into(), "and \u{1b}[31mhere".into()]);
        let line = refuse(&error);
        let server = Server::new(move |_| Some(line.clone()));
        for args in
            [&["show", "status"][..], &["show", "flows"], &["pinhole", "remove", "9"], &["top", "--once"]]
        {
            let ran = server.run(args);
            assert_eq!((ran.code, ran.stdout.as_str()), (i32::from(code.exit_code()), ""), "{args:?}");
            let text = "turnpike: it is wrong\n  here\n  and \\u{1b}[31mhere\nhint: make it right\n";
            assert_eq!(ran.stderr, text, "{args:?}");
            let ran = server.run(&[args, &["--json"]].concat());
            assert_eq!(ran.code, i32::from(code.exit_code()));
            assert_eq!(ran.json()["error"], serde_json::to_value(&error).unwrap());
        }
    }
}

#[test]
fn nobody_there_is_6() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    for args in [
        &["show", "status"][..],
        &["show", "flows"],
        &["pinhole", "list"],
        &["config", "reload"],
        &["top", "--once"],
    ] {
        let mut command = turnpike();
        command.arg("--socket").arg(&socket).arg("--json").args(args);
        let ran = Ran::of(command);
        assert_eq!(ran.code, 6, "{args:?}");
        assert_eq!(ran.json()["error"]["code"], "unreachable");
        assert!(ran.stderr.contains(socket.to_str().unwrap()), "{}", ran.stderr);
    }
    // The version of this program is known without a daemon.
    let mut command = turnpike();
    command.arg("--socket").arg(&socket).arg("version");
    let ran = Ran::of(command);
    assert_eq!((ran.code, ran.stdout.lines().count()), (0, 1));
    assert!(ran.stderr.starts_with("warning: the control plane does not answer"), "{}", ran.stderr);
}

#[test]
fn silence_is_124() {
    let server = Server::new(|_| None);
    for args in [&["show", "status"][..], &["show", "bindings"]] {
        let ran = server.run(&[args, &["--timeout", "0.05"]].concat());
        assert_eq!((ran.code, ran.stdout.as_str()), (124, ""));
        assert!(ran.stderr.contains("no answer within 0.05 s"), "{}", ran.stderr);
    }
}

#[test]
fn another_release_is_told() {
    let server = Server::new(|_| Some(line(&Envelope::<Vec<RouteData>>::new("box1", vec![]))));
    let ran = server.run(&["show", "status"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.contains("turnpike.routes.v1") && ran.stderr.contains("same release"),
        "{}",
        ran.stderr
    );
}

#[test]
fn usage_is_2() {
    for args in [
        &[][..],
        &["show"],
        &["show", "everything"],
        &["show", "flows", "--subscriber", "example.org"],
        &["show", "flows", "--limit", "0"],
        &["show", "flows", "--limit", "5", "--all"],
        &["pinhole", "add", "--protocol", "tcp"],
        &["pinhole", "remove", "first"],
        &["--timeout", "0", "show", "status"],
        // Found by the API's own check, before anything is sent.
        &["pinhole", "add", "--protocol", "tcp", "--inside", "192.168.0.20:0"],
        &["pinhole", "add", "--protocol", "tcp", "--inside", "192.168.0.20:80", "--remote", "::/0"],
    ] {
        let mut command = turnpike();
        command.args(args);
        let ran = Ran::of(command);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{args:?}");
        assert!(!ran.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn nothing_found_is_3_if_it_was_searched() {
    let empty = many(0, 1000);
    let ran = empty.run(&["show", "flows", "--protocol", "udp"]);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (3, "", "no flows match\n"));
    let ran = empty.run(&["show", "flows"]);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, "", "no flows\n"));
    let ran = empty.run(&["show", "flows", "--protocol", "udp", "--json"]);
    assert_eq!((ran.code, ran.json()["data"].as_array().unwrap().len()), (3, 0));

    let server = Server::new(|_| Some(line(&Envelope::<Vec<RouteData>>::new("box1", vec![]))));
    let ran = server.run(&["show", "routes"]);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, "", "no routes\n"));
}

#[test]
fn flows_are_capped_unless_all_are_wanted() {
    for page in [1000, 333] {
        let server = many(2500, page);
        let ran = server.run(&["show", "flows"]);
        assert_eq!((ran.code, ran.stdout.lines().count()), (0, 1001));
        assert_eq!(ran.stderr, "showing 1000 flows, there are more: --limit N or --all shows them\n");

        let ran = server.run(&["show", "flows", "--limit", "7", "--json"]);
        assert_eq!(ages(&ran), (0..7).collect::<Vec<_>>());
        assert_eq!(ran.json()["truncated"], true);

        let ran = server.run(&["show", "flows", "--all", "--json"]);
        assert_eq!(ages(&ran), (0..2500).collect::<Vec<_>>());
        assert_eq!((&ran.json()["truncated"], ran.stderr.as_str()), (&false.into(), ""));

        let ran = server.run(&["show", "flows", "--limit", "2500"]);
        assert_eq!((ran.stdout.lines().count(), ran.stderr.as_str()), (2501, ""));
    }
    // Exactly as many as are shown: nothing is left out, and nothing says so.
    let ran = many(1000, 300).run(&["show", "flows", "--json"]);
    assert_eq!((ages(&ran).len(), &ran.json()["truncated"]), (1000, &false.into()));
}

#[test]
fn empty_pages_are_not_the_end() {
    let server = Server::new(|request| {
        let Request::Flows(FlowsRequest { cursor, .. }) = request else { return None };
        let (rows, next) = match cursor.as_deref() {
            None => (vec![], Some("1")),
            Some("1") => (rows(0, 1), Some("2")),
            _ => (vec![], None),
        };
        Some(line(&Envelope::new("box1", rows).with_next(next.map(Into::into))))
    });
    assert_eq!(ages(&server.run(&["show", "flows", "--json", "--protocol", "tcp"])), [0]);
}

#[test]
fn a_page_that_repeats_is_not_followed_for_ever() {
    let server = Server::new(|_| Some(line(&Envelope::new("box1", rows(0, 1)).with_next(Some("0".into())))));
    let ran = server.run(&["show", "flows", "--all"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("repeats"), "{}", ran.stderr);
}

#[test]
fn an_error_in_the_middle_leaves_one_document() {
    let server = Server::new(|request| {
        let Request::Flows(FlowsRequest { cursor, .. }) = request else { return None };
        Some(match cursor {
            None => line(&Envelope::new("box1", rows(0, 2)).with_next(Some("2".into()))),
            Some(_) => refuse(&ErrorBody::new(ErrorCode::Unreachable, "the dataplane went away")),
        })
    });
    let ran = server.run(&["show", "flows", "--json"]);
    assert_eq!((ran.code, ages(&ran).len()), (6, 2));
    assert_eq!(ran.json()["truncated"], true);
    assert_eq!(ran.json()["warnings"][0], "the dataplane went away");
    let ran = server.run(&["show", "flows"]);
    assert_eq!((ran.code, ran.stdout.lines().count()), (6, 3));
    assert_eq!(ran.stderr, "turnpike: the dataplane went away\n");
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let server = many(20_000, 1000);
    for json in [&[][..], &["--json"]] {
        let mut child = server
            .command(&[&["show", "flows", "--all"], json].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // What `head -c 100` does.
        child.stdout.take().unwrap().read_exact(&mut [0; 100]).unwrap();
        let ended = child.wait_with_output().unwrap();
        assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(0), &b""[..]));
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let server = Server::of_examples();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let ended = server.command(&["show", "status"]).stdout(full).output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(String::from_utf8(ended.stderr).unwrap().contains("cannot be written"));
}

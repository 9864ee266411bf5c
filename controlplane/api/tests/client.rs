//! The client against a socket that behaves well, badly, or not at all.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use turnpike_api::serve::{decode_request, encode_error, encode_response};
use turnpike_api::{Client, ClientError, Envelope, ErrorBody, ErrorCode, Request, RouteData, VersionData};

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(50);

/// A path for a socket, short enough for one; removed with whatever listens there.
struct SocketPath(PathBuf);

impl SocketPath {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("turnpike-api-{}-{number}.sock", std::process::id())))
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        // Nothing to do about a path that was never bound.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Serves one connection with `serve` and hands a client of it to `test`.
fn with_server(
    timeout: Duration,
    serve: impl FnOnce(UnixStream) + Send + 'static,
    test: impl FnOnce(Client),
) {
    let path = SocketPath::new();
    let listener = UnixListener::bind(&path.0).unwrap();
    let server = std::thread::spawn(move || serve(listener.accept().unwrap().0));
    test(Client::connect(&path.0, timeout).unwrap());
    server.join().unwrap();
}

fn version() -> VersionData {
    VersionData {
        cli: None,
        controlplane: Some("1".into()),
        dataplane: None,
        dpdk: None,
        api_version: 1,
        abi_version: 1,
    }
}

#[test]
fn answers_come_in_order_on_one_connection() {
    let serve = |stream: UnixStream| {
        let mut writer = stream.try_clone().unwrap();
        for line in BufReader::new(stream).lines() {
            let answer = match decode_request(line.unwrap().as_bytes()).unwrap() {
                Request::Version => encode_response(&Ok(Envelope::new("box1", version()))),
                Request::Routes => encode_response::<Vec<RouteData>>(&Ok(Envelope::new("box1", vec![]))),
                _ => encode_error(&ErrorBody::new(ErrorCode::NotFound, "no such pinhole")),
            };
            // In two parts: a line is complete when its newline is there, not before.
            let (a, b) = answer.split_at(answer.len() / 2);
            writer.write_all(a).unwrap();
            writer.write_all(b).unwrap();
        }
    };
    with_server(LONG, serve, |mut client| {
        for _ in 0..3 {
            assert_eq!(client.call::<VersionData>(&Request::Version).unwrap().data, version());
            assert!(client.call::<Vec<RouteData>>(&Request::Routes).unwrap().data.is_empty());
            let error = client.call::<VersionData>(&Request::PinholeList).unwrap_err();
            assert_eq!(error.body().code, ErrorCode::NotFound);
        }
        let error = client.call::<VersionData>(&Request::Routes).unwrap_err();
        assert!(matches!(error, ClientError::Malformed { .. }));
        assert!(error.to_string().contains("turnpike.routes.v1"), "{error}");
    });
}

#[test]
fn silence_is_a_timeout() {
    let serve = |stream: UnixStream| {
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        // Holds the connection open, silent, until the client gives up and closes it.
        assert_eq!(BufReader::new(&stream).read_line(&mut line).unwrap(), 0);
    };
    with_server(SHORT, serve, |mut client| {
        let error = client.call::<VersionData>(&Request::Version).unwrap_err();
        assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
        assert_eq!(error.body().code.exit_code(), 124);
    });
}

#[test]
fn a_server_that_trickles_for_ever_is_a_timeout() {
    let serve = |mut stream: UnixStream| while stream.write_all(b" ").is_ok() {};
    with_server(SHORT, serve, |mut client| {
        let error = client.call::<VersionData>(&Request::Version).unwrap_err();
        let code = error.body().code;
        assert!(code == ErrorCode::Timeout || code == ErrorCode::Failed, "{error}");
    });
}

#[test]
fn a_closed_connection_is_unreachable() {
    let serve = |stream: UnixStream| drop(stream);
    with_server(LONG, serve, |mut client| {
        let error = client.call::<VersionData>(&Request::Version).unwrap_err();
        assert_eq!(error.body().code, ErrorCode::Unreachable, "{error}");
    });
}

#[test]
fn answers_of_no_protocol() {
    for answer in ["nonsense\n", "{}\n", "[]\n", "{\"schema\":\"turnpike.version.v1\"}\n", "{\"error\":7}\n"]
    {
        let serve = move |mut stream: UnixStream| {
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        };
        with_server(LONG, serve, |mut client| {
            let error = client.call::<VersionData>(&Request::Version).unwrap_err();
            assert!(matches!(error, ClientError::Malformed { .. }), "{answer}: {error}");
            assert_eq!(error.body().code.exit_code(), 1);
        });
    }
}

#[test]
fn nobody_there() {
    let path = SocketPath::new();
    let error = Client::connect(&path.0, LONG).unwrap_err();
    assert_eq!(error.body().code, ErrorCode::Unreachable);
    assert!(error.to_string().contains(&*path.0.to_string_lossy()), "{error}");
    // A socket whose owner died.
    drop(UnixListener::bind(&path.0).unwrap());
    assert_eq!(Client::connect(&path.0, LONG).unwrap_err().body().code, ErrorCode::Unreachable);
}

#[test]
fn every_code_has_the_exit_code_of_the_manual() {
    let codes = ErrorCode::ALL.map(ErrorCode::exit_code);
    assert_eq!(codes, [1, 2, 3, 5, 6, 7, 8, 124, 1]);
}

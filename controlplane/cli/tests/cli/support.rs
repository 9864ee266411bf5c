//! A control plane that answers from the API's golden files, and the CLI run against it.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use turnpike_api::serve::{RequestDecoder, encode_error};
use turnpike_api::{Envelope, ErrorBody, Payload, Request};

/// Where the golden files of the API lie.
fn api_golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../api/tests/golden").join(format!("{name}.json"))
}

/// The text of an example response.
pub fn example_text(name: &str) -> String {
    std::fs::read_to_string(api_golden(name)).unwrap()
}

/// An example response.
pub fn example<T: Payload>(name: &str) -> Envelope<T> {
    serde_json::from_str(&example_text(name)).unwrap()
}

/// Compares `text` with a file of this directory's `golden`; `UPDATE_GOLDEN=1` writes it.
pub fn check_golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(golden, text, "{} differs; it is now:\n{text}", path.display());
}

/// `value` as a line.
pub fn line(value: &impl serde::Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).unwrap();
    line.push(b'\n');
    line
}

/// An error as a line.
pub fn refuse(error: &ErrorBody) -> Vec<u8> {
    encode_error(error)
}

/// The example that answers a request.
pub fn answer(request: &Request) -> Vec<u8> {
    let name = match request {
        Request::Status => "status",
        Request::Ports => "ports",
        Request::Workers => "workers",
        Request::Flows(_) => "flows",
        Request::Bindings(_) => "bindings",
        Request::Pools => "pools",
        Request::Neighbours => "neighbours",
        Request::Routes => "routes",
        Request::Firewall => "firewall",
        Request::Drops => "drops",
        Request::Config => "config",
        Request::ConfigReload => "reload",
        Request::PinholeAdd(_) | Request::PinholeRemove(_) => "pinhole",
        Request::PinholeList => "pinholes",
        Request::NatForward(_) => "nat_forward",
        Request::NatReverse(_) => "nat_reverse",
        Request::Rules(_) => "rules",
        Request::RuleDelete(_) => "rule",
        Request::Groups(_) => "groups",
        Request::Agents => "agents",
        Request::Sessions => "sessions",
        Request::Version => "version",
    };
    let mut value: serde_json::Value = serde_json::from_str(&example_text(name)).unwrap();
    // The only page of its rows.
    value["next_cursor"] = serde_json::Value::Null;
    value["truncated"] = false.into();
    line(&value)
}

/// A control plane on a socket of its own.
pub struct Server {
    directory: tempfile::TempDir,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Answers by the examples.
    pub fn of_examples() -> Self {
        Self::new(|request| Some(answer(request)))
    }

    /// Answers with `respond`; says nothing where that gives `None`. Requests that do not decode get their error.
    pub fn new(respond: impl Fn(&Request) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("s")).unwrap();
        let requests = Arc::default();
        let (seen, respond) = (Arc::clone(&requests), Arc::new(respond));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (seen, respond) = (Arc::clone(&seen), Arc::clone(&respond));
                std::thread::spawn(move || serve(stream.unwrap(), &seen, &*respond));
            }
        });
        Self { directory, requests }
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    /// What it was asked, emptied.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }

    /// The CLI on its socket.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = turnpike();
        command.arg("--socket").arg(self.socket()).args(args);
        command
    }

    /// Runs the CLI on its socket.
    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args))
    }
}

fn serve(mut stream: UnixStream, seen: &Mutex<Vec<Request>>, respond: &dyn Fn(&Request) -> Option<Vec<u8>>) {
    let mut decoder = RequestDecoder::default();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        let mut input = &buffer[..count];
        while let Some(request) = decoder.next(&mut input) {
            let answer = match request {
                Ok(request) => {
                    seen.lock().unwrap().push(request.clone());
                    respond(&request)
                }
                Err(error) => Some(encode_error(&error)),
            };
            // A client that went away no longer wants it.
            if answer.is_some_and(|answer| stream.write_all(&answer).is_err()) {
                return;
            }
        }
    }
}

/// The CLI.
pub fn turnpike() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_turnpike"));
    command.stdin(Stdio::null());
    command
}

/// How a run of the CLI ended.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn of(mut command: Command) -> Self {
        let Output { status, stdout, stderr } = command.output().unwrap();
        Self {
            code: status.code().expect("ended by a signal"),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }

    /// Standard output as the one JSON document that it has to be.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

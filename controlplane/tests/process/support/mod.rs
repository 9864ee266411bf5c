//! A dataplane without packets, and the daemon as a process beside it.

pub mod engine;
pub mod fake;

use crate::certificates::{Authority, Fault, dns};
use fake::Fake;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use turnpike_api::{
    Client, ClientError, Envelope, Payload, PinholeAdd, PinholeData, PinholeProtocol, Request, StatusData,
};

/// For anything that should happen at once.
pub const SOON: Duration = Duration::from_secs(10);

/// Waits until `what` is some.
pub fn until<T>(description: &str, mut what: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(value) = what() {
            return value;
        }
        assert!(Instant::now() < deadline, "never: {description}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// A pinhole for everybody, for good, wherever the box puts it.
pub fn pinhole(protocol: PinholeProtocol, inside: &str) -> PinholeAdd {
    PinholeAdd {
        protocol,
        inside: inside.parse().unwrap(),
        external: None,
        remote: None,
        remote_ports: None,
        lifetime_seconds: None,
        pool: None,
        note: None,
    }
}

/// A configuration with two interfaces, two zones and a pool of sixteen addresses.
pub const RULES: &str = r#"
[[port]]
name = "inside"
device = "net_null0"
zone = "inside"
addresses = ["192.168.0.1/24", "fd00:1::1/64"]

[[port]]
name = "outside"
device = "net_null1"
zone = "outside"
addresses = ["203.0.113.2/24"]

[[zone]]
name = "inside"
side = "inside"

[[zone]]
name = "outside"
side = "outside"

[[pool]]
name = "public"
addresses = ["203.0.113.16/28"]
zone = "outside"

[[nat]]
from = "inside"
to = "outside"
source = "192.168.0.0/16"
pool = "public"

[[policy]]
from = "inside"
to = "outside"
default = "accept"
"#;

/// SIMCO over TLS for the inside zone.
pub fn simco_over_tls(address: SocketAddr, authority: &Authority) -> String {
    let files = authority.issue("box.example", &[dns("box.example")], true, Fault::None);
    format!(
        "[simco]\nzones = [\"inside\"]\nlisten = [\"{address}\"]\ncertificate = {:?}\nkey = {:?}\nauthorities = {:?}\n",
        files.certificate, files.key, files.authorities,
    )
}

/// A directory with everything of one box, and the daemon while it runs.
#[derive(Debug)]
pub struct Site {
    pub directory: tempfile::TempDir,
    metrics: u16,
    daemon: Option<Child>,
    wrapper: Vec<String>,
}

impl Site {
    /// A box that nothing runs in yet.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let metrics = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let new = Self { directory, metrics, daemon: None, wrapper: Vec::new() };
        new.configure(RULES);
        new
    }

    /// The same, its daemon run through `command`.
    pub fn wrapped(command: &[&str]) -> Self {
        let mut new = Self::new();
        new.wrapper = command.iter().map(|&word| word.to_owned()).collect();
        new
    }

    /// A box that `new` makes, and a free address on loopback for a server of its. It is held meanwhile, so that the
    /// exporter has a port of its own.
    pub fn with_server(new: impl FnOnce() -> Self) -> (Self, SocketAddr) {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        (new(), held.local_addr().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes the configuration: where things lie, and `rules`.
    pub fn configure(&self, rules: &str) {
        let text = format!(
            "[dataplane]\ncores = [1, 2]\nsocket = {:?}\n\n[control]\nsocket = {:?}\nmetrics = \"127.0.0.1:{}\"\nstate = {:?}\n{rules}",
            self.path("dataplane.sock"),
            self.path("control.sock"),
            self.metrics,
            self.path("state"),
        );
        std::fs::write(self.path("turnpike.toml"), text).unwrap();
    }

    /// A dataplane of two workers at this box's socket.
    pub fn dataplane(&self) -> Fake {
        Fake::start(&self.path("dataplane.sock"), 2)
    }

    /// Starts the daemon and waits for its socket.
    pub fn start(&mut self) {
        let mut words = self.wrapper.clone();
        words.push(env!("CARGO_BIN_EXE_turnpike-controlplane").to_owned());
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        let child = Command::new(&words[0])
            .args(&words[1..])
            .arg("--config")
            .arg(self.path("turnpike.toml"))
            .args(["--log", "debug"])
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap();
        self.daemon = Some(child);
        until("the CLI's socket", || Client::connect(&self.path("control.sock"), SOON).ok().map(drop));
    }

    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().unwrap().id()
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.pid().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Kills the daemon without warning.
    pub fn kill(&mut self) {
        let mut child = self.daemon.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Waits for the daemon's end.
    pub fn wait(&mut self) -> ExitStatus {
        until("the daemon's end", || self.daemon.as_mut().unwrap().try_wait().unwrap())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub fn call<T: Payload>(&self, request: &Request) -> Result<Envelope<T>, ClientError> {
        Client::connect(&self.path("control.sock"), SOON)?.call(request)
    }

    pub fn ask<T: Payload>(&self, request: &Request) -> T {
        self.call(request).unwrap_or_else(|error| panic!("{request:?}: {error}\n{}", self.log())).data
    }

    pub fn status(&self) -> StatusData {
        self.ask(&Request::Status)
    }

    pub fn until_ready(&self) -> StatusData {
        until("ready", || Some(self.status()).filter(|status| status.ready))
    }

    pub fn pinholes(&self) -> Vec<PinholeData> {
        self.ask(&Request::PinholeList)
    }

    /// Status line and body of a GET to the exporter.
    pub fn get(&self, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.metrics)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: box\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }

    /// The value of a series, written as the exposition writes it.
    pub fn metric(&self, series: &str) -> f64 {
        let (_, body) = self.get("/metrics");
        let line = body.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series}\n{body}")).parse().unwrap()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            // Gone already is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// Whether a socket exists at `path`.
pub fn is_there(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}

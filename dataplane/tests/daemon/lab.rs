//! A namespace, a running dataplane in it, and wires whose other ends the test holds.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tun_rs::{DeviceBuilder, Layer, SyncDevice};
use turnpike_client::Attachment;

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_turnpike-dataplane");

/// How long anything may take. The machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks `condition` until it gives a value.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// A network namespace that goes away with the test.
#[derive(Debug)]
pub struct Namespace(String);

impl Namespace {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let namespace = Self(format!("tpd-{}-{number}", std::process::id()));
        succeed(Command::new("ip").args(["netns", "add", &namespace.0]));
        // Wires stay silent: what comes out of them is the dataplane's. The TAP twins get IPv6 back by themselves.
        namespace.run(&["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"]);
        namespace
    }

    /// Runs a program in it and returns what it printed.
    pub fn run(&self, words: &[&str]) -> String {
        let output = succeed(Command::new("ip").args(["netns", "exec", &self.0]).args(words));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A TAP in it, up, whose frames the test sends and receives: a port of the dataplane reads the other end.
    pub fn wire(&self, name: &str) -> SyncDevice {
        let path = Path::new("/run/netns").join(&self.0);
        std::thread::scope(|scope| {
            let made = scope.spawn(|| {
                let namespace = File::open(path).expect("the namespace exists");
                let kind = rustix::thread::LinkNameSpaceType::Network;
                rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind))
                    .expect("root may enter");
                let wire =
                    DeviceBuilder::new().name(name).layer(Layer::L2).mtu(1500).build_sync().expect("a TAP");
                wire.set_nonblocking(true).expect("non-blocking");
                wire
            });
            made.join().expect("no panic")
        })
    }

    /// Index and lines of `ip address` for a device, or `None` if there is no such device.
    pub fn addresses(&self, device: &str) -> Option<String> {
        let output = Command::new("ip")
            .args(["-n", &self.0, "-o", "address", "show", "dev", device])
            .output()
            .expect("ip runs");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn succeed(command: &mut Command) -> Output {
    let output = command.output().expect("the program exists");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error} (these tests need root)");
    output
}

/// A dataplane at work. Killed if the test ends first.
#[derive(Debug)]
pub struct Daemon {
    process: Child,
    directory: TempDir,
    /// On a tmpfs, for its state.
    memory: Rc<TempDir>,
}

impl Daemon {
    /// Starts one with `ports`, the part of its configuration from the first `[[port]]` on, and waits until it
    /// serves.
    pub fn start(namespace: &Namespace, cores: &str, ports: &str) -> Self {
        let mut daemon = Self::launch(namespace, cores, ports);
        daemon.wait_until_ready();
        daemon
    }

    fn wait_until_ready(&mut self) {
        wait_for("the dataplane's socket", || {
            let ended = self.process.try_wait().expect("a child");
            assert!(ended.is_none(), "it ended with {ended:?}:\n{}", self.log());
            self.log().contains("ready").then_some(())
        });
    }

    /// Starts one and does not wait.
    pub fn launch(namespace: &Namespace, cores: &str, ports: &str) -> Self {
        let directory = TempDir::new().expect("a directory");
        let path = directory.path();
        let config = path.join("turnpike.toml");
        let memory = TempDir::new_in("/dev/shm").expect("a directory in memory");
        std::fs::write(&config, configuration(path, memory.path(), cores, ports)).expect("written");
        let process = spawn(namespace, path);
        Self { process, directory, memory: Rc::new(memory) }
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        socket(self.directory.path())
    }

    /// The directory above its state, which stays as long as somebody has it.
    pub fn memory(&self) -> Rc<TempDir> {
        Rc::clone(&self.memory)
    }

    /// Where its flows lie: names and modes of the files.
    pub fn state(&self) -> Vec<(String, u32)> {
        let entries = std::fs::read_dir(self.memory.path().join("state")).into_iter().flatten();
        entries
            .map(|entry| {
                let entry = entry.expect("a directory");
                let mode = entry.metadata().expect("a file").permissions().mode();
                (entry.file_name().to_string_lossy().into_owned(), mode & 0o777)
            })
            .collect()
    }

    /// Everything it said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Attaches to it.
    pub fn attach(&self) -> Attachment {
        Attachment::connect(&self.socket()).unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    /// Ends it without warning.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("a child");
    }

    /// Ends it without warning and starts it again, with the same configuration and directories.
    pub fn kill_and_start(&mut self, namespace: &Namespace) {
        self.end();
        self.process = spawn(namespace, self.directory.path());
        self.wait_until_ready();
    }

    /// Asks it to stop; its exit status and log.
    pub fn stop(mut self) -> (ExitStatus, String) {
        succeed(Command::new("kill").args(["-TERM", &self.process.id().to_string()]));
        self.wait()
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self) -> (ExitStatus, String) {
        let status = wait_for("its end", || self.process.try_wait().expect("a child"));
        (status, self.log())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A process with the configuration in a directory, and a new log there.
fn spawn(namespace: &Namespace, path: &Path) -> Child {
    let log = File::create(path.join("log")).expect("a log");
    Command::new("ip")
        .args(["netns", "exec", &namespace.0, BINARY, "--config"])
        .arg(path.join("turnpike.toml"))
        .env("RUNTIME_DIRECTORY", path)
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("ip runs")
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("run").join("dataplane.sock")
}

/// A whole configuration. Ordinary pages: these tests must not depend on hugepages.
pub fn configuration(directory: &Path, memory: &Path, cores: &str, ports: &str) -> String {
    format!(
        "[dataplane]\ncores = {cores}\npoll = \"adaptive\"\nno_huge = true\nmemory = \"96M\"\nbuffers = 8192\n\
         flows = 4096\nbindings = 4096\nsocket = {:?}\ncontrol_user = \"nobody\"\nstate = {:?}\n{ports}",
        socket(directory),
        memory.join("state")
    )
}

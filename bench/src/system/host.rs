//! Where the processes run: network namespaces, a directory in /run, hugepages and a file system of them.

use std::cell::Cell;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

const BACKLOG: &str = "/proc/sys/net/core/netdev_max_backlog";
const HUGEPAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
/// How long a process may take to end before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Runs a command at a priority. The kernel may share the processor among sessions first, which have one of their own.
const PRIORITY: &str = r#"echo "$0" 2>/dev/null >/proc/self/autogroup; exec nice -n "$0" "$@""#;
/// Namespaces of a lab: the box, and both of its neighbours.
pub const BOX: &str = "box";
pub const GENERATOR: &str = "generator";

/// The surroundings of the processes. The directory stays: there are logs in it.
#[derive(Debug)]
pub struct Lab {
    name: String,
    directory: PathBuf,
    /// Priority of the processes, as of nice(1).
    nice: i8,
    /// Hugepages that were added.
    added: u64,
    /// The processor whose kernel thread has another priority than its own, and the queue the kernel had.
    favoured: Cell<Option<(usize, u32)>>,
}

impl Lab {
    /// Makes namespaces, directory and `hugepages` of 2 MB; removes what a run that was killed left.
    ///
    /// # Errors
    /// Without root's rights, or if there is no memory for the pages.
    pub fn new(name: &str, nice: i8, hugepages: u64) -> Result<Self, String> {
        if name.is_empty()
            || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        {
            return Err(format!("--name {name}: lower-case letters, digits and '-'"));
        }
        let directory = PathBuf::from(format!("/run/turnpike-{name}"));
        let mut lab = Self { name: name.to_owned(), directory, nice, added: 0, favoured: Cell::new(None) };
        lab.remove();
        fs::create_dir_all(&lab.directory)
            .map_err(|error| format!("{}: {error}", lab.directory.display()))?;
        for host in [BOX, GENERATOR] {
            command(&["ip", "netns", "add", &lab.namespace(host)])?;
            lab.run(host, &["ip", "link", "set", "lo", "up"])?;
        }
        lab.reserve(hugepages)?;
        let mount = lab.mount();
        fs::create_dir_all(&mount).map_err(|error| format!("{}: {error}", mount.display()))?;
        let mount = mount.to_string_lossy();
        command(&["mount", "-n", "-t", "hugetlbfs", "-o", "mode=0700,pagesize=2M", &lab.name, &mount])?;
        Ok(lab)
    }

    /// Where sockets, configuration and logs are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the state files are: on 2 MB pages, whatever the machine has mounted.
    pub fn flows(&self) -> PathBuf {
        self.mount().join("state")
    }

    fn mount(&self) -> PathBuf {
        self.directory.join("flows")
    }

    /// Name of a host's network namespace.
    pub fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.name)
    }

    /// Runs a command at a host, to its end.
    ///
    /// # Errors
    /// What it says if it fails.
    pub fn run(&self, host: &str, words: &[&str]) -> Result<(), String> {
        let namespace = self.namespace(host);
        command(&[&["ip", "netns", "exec", &namespace], words].concat())
    }

    /// Starts a process at a host, on one processor. Its errors go to a log of that name in the directory; it ends with
    /// this program at the latest.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(
        &self,
        host: &str,
        log: &str,
        core: &str,
        words: &[&str],
        piped: bool,
    ) -> Result<Process, String> {
        let path = self.directory.join(format!("{log}.log"));
        let failed =
            |error: std::io::Error| format!("cannot start {}: {error}", words.first().unwrap_or(&""));
        let errors = File::create(path).map_err(failed)?;
        let output = if piped { Stdio::piped() } else { errors.try_clone().map_err(failed)?.into() };
        let child = Command::new("ip")
            .args(["netns", "exec", &self.namespace(host), "setpriv", "--pdeathsig", "TERM"])
            .args(["setsid", "sh", "-c", PRIORITY, &self.nice.to_string(), "taskset", "-c", core])
            .args(words)
            .env("RUNTIME_DIRECTORY", &self.directory)
            .stdin(if piped { Stdio::piped() } else { Stdio::null() })
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(failed)?;
        Ok(Process { child })
    }

    /// Removes a socket that a former round left, if it did.
    pub fn forget(&self, socket: &str) {
        let _ = fs::remove_file(socket);
    }

    /// Lets the kernel forward as the boxes do until the end of the lab: its thread for received packets on a processor
    /// with their priority, its queue of them as long as their rings.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn favour_kernel(&self, core: usize, queue: u32) -> Result<(), String> {
        if self.favoured.get().is_some() {
            return Ok(());
        }
        let failed = |error| format!("{BACKLOG}: {error}");
        let backlog = fs::read_to_string(BACKLOG).map_err(failed)?.trim().parse().unwrap_or(1000);
        self.favoured.set(Some((core, backlog)));
        fs::write(BACKLOG, queue.to_string()).map_err(failed)?;
        self.renice_softirq(core, self.nice)
    }

    fn renice_softirq(&self, core: usize, nice: i8) -> Result<(), String> {
        let name = format!("ksoftirqd/{core}");
        let processes = fs::read_dir("/proc").map_err(|error| format!("/proc: {error}"))?;
        let found = processes.flatten().find(|process| {
            fs::read_to_string(process.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        });
        let found = found.ok_or_else(|| format!("there is no {name}"))?;
        command(&["renice", "-n", &nice.to_string(), "-p", &found.file_name().to_string_lossy()])
    }

    fn reserve(&mut self, wanted: u64) -> Result<(), String> {
        let read = |name: &str| -> Result<u64, String> {
            let path = format!("{HUGEPAGES}/{name}");
            let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
            text.trim().parse().map_err(|_| format!("{path} is no number"))
        };
        let missing = wanted.saturating_sub(read("free_hugepages")?);
        if missing == 0 {
            return Ok(());
        }
        let total = read("nr_hugepages")?;
        let path = format!("{HUGEPAGES}/nr_hugepages");
        fs::write(&path, (total + missing).to_string()).map_err(|error| format!("{path}: {error}"))?;
        self.added = read("nr_hugepages")?.saturating_sub(total);
        if self.added < missing {
            return Err(format!("only {} of {missing} hugepages of 2 MB could be had", self.added));
        }
        Ok(())
    }

    fn remove(&self) {
        for host in [BOX, GENERATOR] {
            let namespace = self.namespace(host);
            if Path::new("/run/netns").join(&namespace).exists() {
                // What cannot be removed shows when it is made again.
                let _ = command(&["ip", "netns", "delete", &namespace]);
            }
        }
        let mount = self.mount();
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        if mounts.lines().any(|line| line.split(' ').nth(1).map(Path::new) == Some(mount.as_path())) {
            let _ = command(&["umount", "-n", "-l", &mount.to_string_lossy()]);
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.remove();
        let path = format!("{HUGEPAGES}/nr_hugepages");
        if let (true, Ok(text)) = (self.added > 0, fs::read_to_string(&path)) {
            let total = text.trim().parse::<u64>().unwrap_or(0);
            let _ = fs::write(&path, total.saturating_sub(self.added).to_string());
        }
        if let Some((core, backlog)) = self.favoured.take() {
            let _ = fs::write(BACKLOG, backlog.to_string());
            let _ = self.renice_softirq(core, 0);
        }
    }
}

/// A process, which ends with this.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Its standard input and output, once.
    pub fn pipes(&mut self) -> Option<(ChildStdin, ChildStdout)> {
        self.child.stdin.take().zip(self.child.stdout.take())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A generator ends at the end of its input, too, which is closed by now.
        let _ = command(&["kill", "-TERM", &self.child.id().to_string()]);
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command to its end.
///
/// # Errors
/// What it says if it fails.
pub fn command(words: &[&str]) -> Result<(), String> {
    let (program, arguments) = words.split_first().ok_or("no command")?;
    let output =
        Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

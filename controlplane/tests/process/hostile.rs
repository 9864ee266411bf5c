//! Agents that mean no good, against the real server in its process: nobody else may feel it, and memory stays bounded.

use crate::certificates::{self, Authority, dns, over_tls};
use crate::support::fake::Fake;
use crate::support::{RULES, Site, until};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpSocket;
use turnpike_midcom::agent::{self, Agent};
use turnpike_midcom::certificate::TlsFiles;
use turnpike_simco::{Direction, Enable, EnableParameters, Extensions, Extras, Location, Tuple};

/// Connections without session, from so many sources.
const CONNECTIONS: usize = 10_000;
const SOURCES: usize = 50;
/// Requests whose latency is taken.
const PROBES: usize = 150;
/// Octets that a connection without session may cost the server.
const EACH: u64 = 24 * 1024;

/// The box with SIMCO over TLS for "good.example" and "greedy.example".
struct Middlebox {
    site: Site,
    _dataplane: Fake,
    authority: Authority,
    address: SocketAddr,
}

impl Middlebox {
    fn start() -> Self {
        // Held until the exporter has a port of its own.
        let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        let mut site = Site::new();
        drop(held);
        let authority = Authority::new("authority");
        let files = authority.issue("box.example", &[dns("box.example")], true, certificates::Fault::None);
        let mut rules = format!(
            "{RULES}\n[simco]\nzones = [\"inside\"]\nlisten = [\"0.0.0.0:{}\"]\ncertificate = {:?}\nkey = {:?}\n\
             authorities = {:?}\nhandshake = 60\nestablish = 60\n",
            address.port(),
            files.certificate,
            files.key,
            files.authorities,
        );
        for name in ["good.example", "greedy.example"] {
            rules +=
                &format!("[[agent]]\nname = {name:?}\nzones = [\"inside\"]\ninside = [\"192.168.0.0/16\"]\n");
        }
        site.configure(&rules);
        let dataplane = site.dataplane();
        site.start();
        site.until_ready();
        Self { site, _dataplane: dataplane, authority, address }
    }

    /// Resident octets of the daemon.
    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.site.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
    }

    async fn agent(&self, name: &str) -> Agent {
        let settings = over_tls(self.address, &self.authority.agent(name), "box.example");
        Agent::connect(settings).await.unwrap().0
    }
}

fn per(host: u8, port: u16) -> Enable {
    let tuple = |location, address, port| Tuple::full(location, 17, Ipv4Addr::into(address), port, 1);
    Enable {
        parameters: EnableParameters { same_parity: false, direction: Direction::Inbound },
        internal: tuple(Location::Internal, Ipv4Addr::new(192, 168, 1, host), port),
        external: tuple(Location::External, Ipv4Addr::new(198, 51, 100, 1), 0),
        lifetime: 600,
        group: None,
        extras: Extras::default(),
    }
}

/// Half of so many requests are answered faster than this.
async fn latency(agent: &Agent) -> Duration {
    let mut times = Vec::new();
    for turn in 0..PROBES {
        let began = Instant::now();
        let rule = agent.enable(per(2, 5000)).await.unwrap().rule;
        times.push(began.elapsed());
        agent.change_lifetime(rule, 0).await.unwrap();
        // Not in step with whoever floods.
        tokio::time::sleep(Duration::from_micros(200 + 37 * turn as u64 % 500)).await;
    }
    times.sort_unstable();
    times[PROBES / 2]
}

/// As many descriptors as there may be.
fn raise() -> usize {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    maximum.map_or(usize::MAX, |maximum| usize::try_from(maximum).unwrap())
}

/// Connections of many sources: every other has begun a TLS handshake and goes on octet by octet, the rest is silent.
async fn idlers(to: SocketAddr) -> Vec<tokio::net::TcpStream> {
    let count = CONNECTIONS.min(raise().saturating_sub(2000));
    assert!(count >= 1000, "too few descriptors for this test: raise the limit of open files");
    let mut connections = Vec::with_capacity(count);
    for number in 0..count {
        let socket = TcpSocket::new_v4().unwrap();
        let source = Ipv4Addr::new(127, 0, 1, 1 + (number % SOURCES) as u8);
        socket.bind(SocketAddrV4::new(source, 0).into()).unwrap();
        let stream = socket.connect(to).await.unwrap();
        if number % 2 == 0 {
            // The header of a ClientHello of 512 octets, and its first one.
            stream.try_write(&[0x16, 3, 1, 2, 0, 1]).unwrap();
        }
        connections.push(stream);
    }
    connections
}

/// Ten thousand connections that are silent, half-open or slow.
#[tokio::test]
async fn ten_thousand_idle_connections_cost_others_nothing() {
    let middlebox = Middlebox::start();
    let good = middlebox.agent("good.example").await;
    let before = middlebox.memory();
    let quiet = latency(&good).await;
    let connections = idlers(middlebox.address).await;
    until("all accepted", || {
        let open = middlebox.site.metric("turnpike_simco_connections");
        (open > connections.len() as f64).then_some(())
    });
    let mut most = Duration::MAX;
    for octet in 0..5u8 {
        for stream in connections.iter().step_by(2) {
            stream.try_write(&[octet]).unwrap();
        }
        most = most.min(latency(&good).await);
        if most <= quiet * 2 {
            break;
        }
    }
    let grown = middlebox.memory().saturating_sub(before);
    let count = connections.len();
    assert!(grown / count as u64 <= EACH, "{grown} octets for {count}");
    drop(connections);
    until("all gone", || (middlebox.site.metric("turnpike_simco_connections") < 2.0).then_some(()));
    // Other tests may have begun since the first quiet was measured.
    let quiet = quiet.max(latency(&good).await);
    assert!(most <= quiet * 2, "{most:?} beside {count} connections, {quiet:?} without");
}

/// Sessions that send as many requests as they may, without pause, until they are stopped.
fn flood(address: SocketAddr, files: &TlsFiles, stop: &Arc<AtomicBool>, done: &Arc<AtomicU64>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let settings = agent::Settings { pipelining: 256, ..over_tls(address, files, "box.example") };
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (greedy, _, _) = Agent::connect(settings.clone()).await.unwrap();
            for number in 0..100u16 {
                let (greedy, stop, done) = (greedy.clone(), Arc::clone(stop), Arc::clone(done));
                all.spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        // What comes of it does not matter: most of it is refused.
                        let _ = match number % 3 {
                            0 => greedy.list(Extensions::ALL).await.map(drop),
                            1 => greedy.status(4_000_000).await.map(drop),
                            _ => greedy.enable(per(3, 2)).await.map(drop),
                        };
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        }
        while all.join_next().await.is_some() {}
    });
}

#[tokio::test]
async fn a_pipelined_flood_leaves_others_their_latency() {
    let middlebox = Middlebox::start();
    let good = middlebox.agent("good.example").await;
    let mut quiet = latency(&good).await;
    let before = middlebox.memory();
    let mut tries = Vec::new();
    // Other tests may come and go: a flood is compared with the quiet just before and just after it.
    while tries.len() < 8 {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let flooding = {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            let (address, files) = (middlebox.address, middlebox.authority.agent("greedy.example"));
            std::thread::spawn(move || flood(address, &files, &stop, &done))
        };
        until("a flood", || (done.load(Ordering::Relaxed) > 1000).then_some(()));
        let beside = latency(&good).await;
        let grown = middlebox.memory().saturating_sub(before);
        stop.store(true, Ordering::Relaxed);
        flooding.join().unwrap();
        assert!(grown < 64 << 20, "{grown} octets for a flood");
        let without = [quiet, latency(&good).await];
        if without.iter().any(|quiet| beside <= *quiet * 2) {
            return;
        }
        quiet = without[1];
        tries.push((beside, without));
    }
    panic!("beside a flood and without, before and after: {tries:?}");
}

/// Handshakes with a stranger's certificate: after ten of them the source is refused for a minute, which is logged.
#[tokio::test]
async fn brute_force_is_limited_and_logged() {
    let middlebox = Middlebox::start();
    let another = Authority::new("another authority");
    let files = TlsFiles { authorities: middlebox.authority.file(), ..another.agent("good.example") };
    let settings = over_tls(middlebox.address, &files, "box.example");
    for _ in 0..12 {
        assert!(Agent::connect(settings.clone()).await.is_err());
    }
    until("the source is refused", || {
        let log = middlebox.site.log();
        (log.contains("the source is refused after 10 failures")
            && log.contains("refused after too many failed authentications"))
        .then_some(())
    });
    let failed = middlebox.site.metric("turnpike_simco_handshake_failures_total");
    assert_eq!(failed, 10.0);
}

/// Without the descriptors that the configuration asks for the log says what to raise.
#[test]
fn too_few_descriptors_are_said() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port();
    let mut site = Site::wrapped(&["prlimit", "--nofile=900:900"]);
    drop(held);
    site.configure(&format!(
        "{RULES}\n[simco]\nzones = [\"inside\"]\nlisten = [\"127.0.0.1:{port}\"]\nclear_text = [\"127.0.0.0/8\"]\n"
    ));
    site.start();
    until("the warning", || {
        let log = site.log();
        (log.contains("open files are limited to 900") && log.contains("LimitNOFILE")).then_some(())
    });
}

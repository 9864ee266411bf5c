//! Agents that mean no good, against the real server in its process: nobody else may feel it, and memory stays bounded.

use crate::certificates::{Authority, over_tls};
use crate::support::fake::Fake;
use crate::support::{RULES, SOON, Site, simco_over_tls, until};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpSocket;
use turnpike_midcom::agent::{self, Agent};
use turnpike_midcom::certificate::{TlsFiles, client_config};
use turnpike_simco::{
    Direction, Enable, EnableParameters, Establish, Extensions, Extras, Location, Tuple, Version,
};

/// Connections without session, from so many sources.
const CONNECTIONS: usize = 10_000;
const SOURCES: usize = 50;
/// Times that latency is taken without what others do and beside it, in turns; requests of each.
const ROUNDS: u8 = 5;
const PROBES: usize = 40;
/// Octets that a connection without session may cost the server.
const EACH: u64 = 24 * 1024;
/// Connections that get further: into TLS, or through it; and what each may cost.
const HANDSHAKES: usize = 600;
const EACH_TLS: u64 = 96 * 1024;

/// Held by whoever measures latency: two floods at once would be one another's.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A connection that is held open.
type Held = (ClientConnection, std::net::TcpStream);

/// The box with SIMCO over TLS for "good.example" and "greedy.example".
struct Middlebox {
    site: Site,
    _dataplane: Fake,
    authority: Authority,
    address: SocketAddr,
}

impl Middlebox {
    fn start() -> Self {
        let (mut site, address) = Site::with_server(Site::new);
        let authority = Authority::new("authority");
        let simco = simco_over_tls(address, &authority);
        let mut rules = format!("{RULES}\n{simco}handshake = 60\nestablish = 60\n");
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

    /// Processor time of the thread that serves sessions, in hundredths of a second.
    fn worked(&self) -> u64 {
        let pid = self.site.pid();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/stat")).unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        // utime and stime, from the state on.
        fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
    }

    /// Waits for so many connections beside the good agent's.
    fn until_accepted(&self, count: usize) {
        until("all accepted", || {
            (self.site.metric("turnpike_simco_connections") > count as f64).then_some(())
        });
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

/// By what a latency beside a pest is taken.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Clock {
    /// The wall's.
    Wall,
    /// The processor time that the server spends on the pest while a request waits. If the pest keeps it busy without
    /// pause that is the request's latency, but for the time in which the server has no processor: a busy process waits
    /// for one longer than an idle one, which tells of the machine and not of the server's order.
    Server,
}

/// Latencies of an agent without what others do, and beside it: taken in turns, so that whatever else runs on this
/// machine meets both alike.
#[derive(Debug, Default)]
struct Latencies {
    without: Vec<Vec<Duration>>,
    beside: Vec<Vec<Duration>>,
}

impl Latencies {
    /// In the median of all rounds or, since what else runs here only adds, of the quietest. To the server's clock it adds
    /// nothing, but to what that is compared with: there the quietest count.
    fn within_twice(&self, clock: Clock) {
        let all = [&self.without, &self.beside].map(|rounds| median(rounds.concat()));
        let quietest =
            [&self.without, &self.beside].map(|rounds| rounds.iter().cloned().map(median).min().unwrap());
        let within = |[without, beside]: [Duration; 2]| beside <= without * 2;
        assert!(
            clock == Clock::Wall && within(all) || within(quietest),
            "without, and beside: {all:?}, when quietest {quietest:?}"
        );
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Some requests of an agent, one after the other: how long each took, and by how much `done` grew meanwhile.
async fn probe(agent: &Agent, done: &AtomicU64) -> Vec<(Duration, u64)> {
    let mut taken = Vec::new();
    for turn in 0..PROBES {
        let (began, before) = (Instant::now(), done.load(Ordering::Relaxed));
        let rule = agent.enable(per(2, 5000)).await.unwrap().rule;
        taken.push((began.elapsed(), done.load(Ordering::Relaxed) - before));
        agent.change_lifetime(rule, 0).await.unwrap();
        // Not in step with whoever floods.
        tokio::time::sleep(Duration::from_micros(200 + 37 * turn as u64 % 500)).await;
    }
    taken
}

async fn latencies(agent: &Agent) -> Vec<Duration> {
    probe(agent, &AtomicU64::new(0)).await.into_iter().map(|(time, _)| time).collect()
}

/// As many descriptors as there may be.
fn raise() -> usize {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    maximum.map_or(usize::MAX, |maximum| usize::try_from(maximum).unwrap())
}

/// A socket of `source` that leaves nothing behind when it is closed: the ports of tens of thousands would be missing
/// in other tests.
fn socket_at(source: Ipv4Addr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_zero_linger().unwrap();
    socket.bind(SocketAddrV4::new(source, 0).into()).unwrap();
    socket
}

/// Connections of many sources, others each round, for those whose handshakes failed are refused for a while: every
/// other has begun a TLS handshake and goes on octet by octet, the rest is silent.
async fn idlers(to: SocketAddr, round: u8) -> Vec<tokio::net::TcpStream> {
    let count = CONNECTIONS.min(raise().saturating_sub(2000));
    assert!(count >= 1000, "too few descriptors for this test: raise the limit of open files");
    let mut connections = Vec::with_capacity(count);
    for number in 0..count {
        let socket = socket_at(Ipv4Addr::new(127, 1, round, 1 + (number % SOURCES) as u8));
        let stream = socket.connect(to).await.unwrap();
        if number % 2 == 0 {
            // The header of a ClientHello of 512 octets, and its first one.
            stream.try_write(&[0x16, 3, 1, 2, 0, 1]).unwrap();
        }
        connections.push(stream);
    }
    connections
}

/// Rounds beside connections that somebody holds open and without them: the latency of others is within twice, and no
/// connection costs more than `each` octets.
async fn held_cost_little<T>(each: u64, hold: impl AsyncFn(&Middlebox, u8) -> Vec<T>) {
    let _alone = ALONE.lock().await;
    raise();
    let middlebox = Middlebox::start();
    let good = middlebox.agent("good.example").await;
    let mut seen = Latencies::default();
    let before = middlebox.memory();
    for round in 0..ROUNDS {
        seen.without.push(latencies(&good).await);
        let held = hold(&middlebox, round).await;
        let count = held.len();
        seen.beside.push(latencies(&good).await);
        let grown = middlebox.memory().saturating_sub(before);
        assert!(grown / count as u64 <= each, "{grown} octets for {count}");
        drop(held);
        until("all gone", || (middlebox.site.metric("turnpike_simco_connections") < 2.0).then_some(()));
    }
    seen.within_twice(Clock::Wall);
}

/// Ten thousand connections that are silent, half-open or slow.
#[tokio::test]
async fn ten_thousand_idle_connections_cost_others_nothing() {
    held_cost_little(EACH, async |middlebox, round| {
        let connections = idlers(middlebox.address, round).await;
        middlebox.until_accepted(connections.len());
        for stream in connections.iter().step_by(2) {
            stream.try_write(&[0]).unwrap();
        }
        connections
    })
    .await;
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

/// Somebody who does something over and over, in a thread of its own, until it is told to stop; it counts what it did.
type Pest = fn(SocketAddr, &TlsFiles, &Arc<AtomicBool>, &Arc<AtomicU64>);

/// Beside a pest that did something `times` times already, the latency of others is within twice that without it, and
/// memory bounded.
async fn others_are_left_alone(pest: Pest, times: u64, clock: Clock) {
    let _alone = ALONE.lock().await;
    let middlebox = Middlebox::start();
    let good = middlebox.agent("good.example").await;
    let mut seen = Latencies::default();
    let before = middlebox.memory();
    for _ in 0..ROUNDS {
        seen.without.push(latencies(&good).await);
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let flooding = {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            let (address, files) = (middlebox.address, middlebox.authority.agent("greedy.example"));
            std::thread::spawn(move || pest(address, &files, &stop, &done))
        };
        until("a flood", || (done.load(Ordering::Relaxed) > times).then_some(()));
        let began = (middlebox.worked(), done.load(Ordering::Relaxed));
        let taken = probe(&good, &done).await;
        let (worked, count) = (middlebox.worked() - began.0, done.load(Ordering::Relaxed) - began.1);
        let grown = middlebox.memory().saturating_sub(before);
        stop.store(true, Ordering::Relaxed);
        flooding.join().unwrap();
        assert!(grown < 64 << 20, "{grown} octets for a flood");
        assert!(clock == Clock::Wall || worked > 0 && count > times, "no flood: {count} in {worked} ticks");
        let times = taken.into_iter().map(|(time, others)| match clock {
            Clock::Wall => time,
            Clock::Server => Duration::from_micros(worked * 10_000 * others / count),
        });
        seen.beside.push(times.collect());
    }
    seen.within_twice(clock);
}

#[tokio::test]
async fn a_pipelined_flood_leaves_others_their_latency() {
    others_are_left_alone(flood, 1000, Clock::Server).await;
}

/// A blocking connection from the n-th of many sources, others each round.
async fn connect_from(round: u8, number: usize, to: SocketAddr) -> std::net::TcpStream {
    let socket = socket_at(Ipv4Addr::new(127, 2, round, 1 + (number % SOURCES) as u8));
    let stream = socket.connect(to).await.unwrap().into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    stream
}

fn tls(config: &Arc<ClientConfig>) -> ClientConnection {
    ClientConnection::new(Arc::clone(config), "box.example".try_into().unwrap()).unwrap()
}

fn establish() -> Vec<u8> {
    let establish = Establish { version: Version::V3_0, challenge: None, extensions: None };
    let mut message = Vec::new();
    turnpike_simco::Request::Establish(establish).encode(1, &mut message).unwrap();
    message
}

/// Sessions whose next message says that it is longer than any may be, and whose body keeps coming as long as it is
/// taken.
fn oversized(address: SocketAddr, files: &TlsFiles, stop: &Arc<AtomicBool>, done: &Arc<AtomicU64>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = client_config(files).unwrap();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let mut stream = StreamOwned::new(tls(&config), runtime.block_on(connect_from(0, number, address)));
        stream.write_all(&establish()).unwrap();
        let mut reply = [0; 4];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(reply[..2], [2, 1], "SE is granted");
        // PRS, if it were not for its length.
        let mut sent = stream.write(&[1, 0x21, 0xff, 0xff, 0, 0, 0, 2]).unwrap();
        while let Ok(count) = stream.write(&[0; 16 * 1024]) {
            sent += count;
            assert!(sent < 64 << 20, "{sent} octets of a message were taken");
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
}

/// The declared length is over the limit: refused before its body is there, which is not waited for.
#[tokio::test]
async fn oversized_messages_leave_others_their_latency() {
    others_are_left_alone(oversized, 10, Clock::Wall).await;
}

/// Connections that finish the TLS handshake, or go silent in its middle with the server's part of it done.
async fn handshakes(to: SocketAddr, files: &TlsFiles, finish: bool, round: u8) -> Vec<Held> {
    let config = client_config(files).unwrap();
    let mut held = Vec::with_capacity(HANDSHAKES);
    for number in 0..HANDSHAKES {
        let (mut tls, mut stream) = (tls(&config), connect_from(round, number, to).await);
        tls.write_tls(&mut stream).unwrap();
        while finish && tls.is_handshaking() {
            tls.complete_io(&mut stream).unwrap();
        }
        if !finish {
            // Its answer has begun.
            assert_eq!(stream.peek(&mut [0]).unwrap(), 1);
        }
        held.push((tls, stream));
    }
    held
}

/// Connections that have the server's part of the TLS handshake, or all of it, and are silent or send octet by octet.
async fn held_handshakes_cost_little(finish: bool) {
    held_cost_little(EACH_TLS, async |middlebox, round| {
        let greedy = middlebox.authority.agent("greedy.example");
        let mut held = handshakes(middlebox.address, &greedy, finish, round).await;
        middlebox.until_accepted(HANDSHAKES);
        let first = establish()[0];
        for (tls, stream) in held.iter_mut().step_by(2).filter(|_| finish) {
            tls.writer().write_all(&[first]).unwrap();
            tls.write_tls(stream).unwrap();
        }
        held
    })
    .await;
}

#[tokio::test]
async fn half_open_tls_costs_others_nothing() {
    held_handshakes_cost_little(false).await;
}

#[tokio::test]
async fn connections_that_finish_tls_and_drip_cost_others_nothing() {
    held_handshakes_cost_little(true).await;
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
    let (mut site, address) = Site::with_server(|| Site::wrapped(&["prlimit", "--nofile=900:900"]));
    site.configure(&format!(
        "{RULES}\n[simco]\nzones = [\"inside\"]\nlisten = [\"{address}\"]\nclear_text = [\"127.0.0.0/8\"]\n"
    ));
    site.start();
    until("the warning", || {
        let log = site.log();
        (log.contains("open files are limited to 900") && log.contains("LimitNOFILE")).then_some(())
    });
}

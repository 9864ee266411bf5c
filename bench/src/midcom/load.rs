//! The agents: sessions over TLS that open pinholes as fast as they are answered, or at a rate.

use super::Shared;
use super::site::Site;
use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use std::time::Duration;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep_until};
use turnpike_midcom::agent::{Agent, Lost, Notices};
use turnpike_simco::{Direction, Enable, EnableParameters, Ends, Extras, Location, Tuple};

/// Rules of a host.
const EACH: u32 = 64;
/// Seconds: longer than any run.
const LIFETIME: u32 = 86_400;
const UDP: u8 = 17;
/// For the control plane to let agents in.
const PATIENCE: Duration = Duration::from_secs(60);

/// An agent and what it is told, which has to be kept for it to go on.
pub type Line = (Agent, Notices);

/// Establishes a session of each of `agents` agents. The control plane may not be there yet.
///
/// # Errors
/// If there is none in time.
pub async fn connect(site: &Site, agents: usize, pipelining: usize) -> Result<Vec<Line>, String> {
    let mut lines = Vec::new();
    for number in 0..agents {
        let settings = site.settings(number, pipelining)?;
        let began = Instant::now();
        lines.push(loop {
            match Agent::connect(settings.clone()).await {
                Ok((agent, _, notices)) => break (agent, notices),
                Err(Lost::Dial(_)) if began.elapsed() < PATIENCE => {
                    sleep_until(Instant::now() + Duration::from_millis(2)).await;
                }
                Err(error) => return Err(format!("agent {number} has no session: {error}\n{}", site.log())),
            }
        });
    }
    Ok(lines)
}

/// The request for pinhole `number`: inbound UDP for an end of its own, from the one remote host.
pub fn request(number: u32) -> Enable {
    let host = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 1)) + number / EACH);
    let port = 5000 + 2 * (number % EACH) as u16;
    let remote: Ipv4Addr = super::REMOTE.parse().unwrap_or(Ipv4Addr::UNSPECIFIED);
    Enable {
        parameters: EnableParameters { same_parity: false, direction: Direction::Inbound },
        internal: Tuple::full(Location::Internal, UDP, IpAddr::V4(host), port, 1),
        external: Tuple::full(Location::External, UDP, IpAddr::V4(remote), 0, 1),
        lifetime: LIFETIME,
        group: None,
        extras: Extras::default(),
    }
}

/// Opens pinhole `number`.
///
/// # Errors
/// The refusal.
pub async fn open(agent: &Agent, number: u32) -> Result<SocketAddrV4, String> {
    let enabled = agent.enable(request(number)).await.map_err(|error| format!("PER {number}: {error}"))?;
    match enabled.outside.ends {
        Ends::Full { address: IpAddr::V4(address), port, .. } => Ok(SocketAddrV4::new(address, port)),
        other => Err(format!("PER {number}: an outside end that is none: {other:?}")),
    }
}

/// Opens pinholes from `next` on until `until` of them are open or `seconds` are over, `depth` a session at a time.
/// Hands each outside end to `granted`, and returns how many were opened in how long.
///
/// # Errors
/// The first refusal.
pub async fn flood(
    lines: &[Line],
    next: &Rc<Cell<u32>>,
    until: u32,
    seconds: Option<u64>,
    depth: usize,
    granted: impl Fn(u32, SocketAddrV4) + Clone + 'static,
) -> Result<(u32, Duration), String> {
    let (first, began) = (next.get(), Instant::now());
    let end = seconds.map(|seconds| began + Duration::from_secs(seconds));
    let mut all = JoinSet::new();
    for (agent, _) in lines {
        for _ in 0..depth {
            let (agent, next, granted) = (agent.clone(), Rc::clone(next), granted.clone());
            all.spawn_local(async move {
                while next.get() < until && end.is_none_or(|end| Instant::now() < end) {
                    let number = next.get();
                    next.set(number + 1);
                    granted(number, open(&agent, number).await?);
                }
                Ok::<(), String>(())
            });
        }
    }
    while let Some(done) = all.join_next().await {
        done.map_err(|error| format!("an agent broke off: {error}"))??;
    }
    Ok((next.get() - first, began.elapsed()))
}

/// Opens `rate` pinholes a second, evenly, until `stop` is set. Returns how many, and how many were under way at most.
///
/// # Errors
/// The first refusal.
pub async fn pace(
    lines: &[Line],
    next: &Rc<Cell<u32>>,
    rate: u32,
    stop: &Rc<Cell<bool>>,
) -> Result<(u32, usize), String> {
    let (first, began, mut sent, mut most) = (next.get(), Instant::now(), 0u32, 0);
    let mut under_way = JoinSet::new();
    while !stop.get() {
        let due = (began.elapsed().as_secs_f64() * f64::from(rate)) as u32;
        while sent < due {
            let number = next.get();
            next.set(number + 1);
            let (agent, _) = &lines[sent as usize % lines.len()];
            let agent = agent.clone();
            under_way.spawn_local(async move { open(&agent, number).await });
            sent += 1;
        }
        most = most.max(under_way.len());
        while let Some(done) = under_way.try_join_next() {
            done.map_err(|error| format!("an agent broke off: {error}"))??;
        }
        yield_now().await;
    }
    while let Some(done) = under_way.join_next().await {
        done.map_err(|error| format!("an agent broke off: {error}"))??;
    }
    Ok((next.get() - first, most))
}

/// Times of one request each, microseconds.
#[derive(Debug, Default)]
pub struct Times {
    /// From the request to its reply.
    pub replied: Vec<f64>,
    /// From the request to the first packet that passed.
    pub passed: Vec<f64>,
}

/// Opens `count` pinholes one at a time, a few milliseconds apart, and sends a packet through each as soon as its
/// reply is there.
///
/// # Errors
/// A refusal, or a packet that does not pass.
pub async fn probe(
    agent: &Agent,
    dataplane: &Shared,
    next: &Rc<Cell<u32>>,
    count: u32,
) -> Result<Times, String> {
    let mut times = Times::default();
    for turn in 0..count {
        // Not in step with anything.
        sleep_until(Instant::now() + Duration::from_micros(1500 + u64::from(turn * 7919 % 2000))).await;
        let number = next.get();
        next.set(number + 1);
        let began = std::time::Instant::now();
        let outside = open(agent, number).await?;
        times.replied.push(began.elapsed().as_secs_f64() * 1e6);
        if !super::passes(dataplane, outside) {
            return Err(format!("a packet for pinhole {number} at {outside} did not pass"));
        }
        times.passed.push(began.elapsed().as_secs_f64() * 1e6);
    }
    Ok(times)
}

//! Who gets a connection: bounds on how many, and a rest for addresses that fail to authenticate again and again.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Bounds of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once, with and without session.
    pub connections: usize,
    /// Connections at once that have no session yet, from one source address (IPv6: /64).
    pub half_open: usize,
    /// For the TLS handshake, from the connection on.
    pub handshake: Duration,
    /// For the agent to take what is written.
    pub write: Duration,
    /// Failed authentications of one source address within `period` after which it is refused.
    pub failures: u32,
    /// How long failures count, and how long a source is then refused.
    pub period: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            half_open: 256,
            handshake: Duration::from_secs(10),
            write: Duration::from_secs(30),
            failures: 10,
            period: Duration::from_secs(60),
        }
    }
}

/// What became of connections and messages since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Closed at once: too many of them.
    pub full: AtomicU64,
    /// Closed at once: too many failures of the source.
    pub blocked: AtomicU64,
    /// TLS handshakes that failed or were not completed in time.
    pub handshakes_failed: AtomicU64,
    /// Authentications that failed, and agents not authorized.
    pub authentications_failed: AtomicU64,
    /// Sessions established.
    pub sessions: AtomicU64,
    /// Requests answered with a format error, and BFM notifications.
    pub malformed: AtomicU64,
    /// Connections open now.
    pub open: AtomicUsize,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sources remembered at most.
const SOURCES: usize = 65_536;

#[derive(Debug)]
struct Source {
    half_open: usize,
    failures: u32,
    since: Instant,
    blocked: Option<Instant>,
    /// Whether the block was logged.
    told: bool,
}

/// The books over sources.
#[derive(Debug, Default)]
pub(crate) struct Guard {
    sources: Mutex<HashMap<IpAddr, Source>>,
    pub(crate) counters: Arc<Counters>,
}

/// Why a connection is closed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turned {
    Full,
    HalfOpen,
    Blocked { first: bool },
}

/// A connection without session; dropped when it has one, or is gone.
#[derive(Debug)]
pub(crate) struct HalfOpen {
    guard: Arc<Guard>,
    source: IpAddr,
}

/// A connection; dropped when it is gone.
#[derive(Debug)]
pub(crate) struct Place(Arc<Guard>);

/// A host may choose among all addresses of its /64.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) >> 64 << 64).into(),
        v4 => v4,
    }
}

impl Guard {
    pub(crate) fn admit(
        self: &Arc<Self>,
        address: IpAddr,
        limits: &Limits,
        now: Instant,
    ) -> Result<(Place, HalfOpen), Turned> {
        let source = source(address);
        if self.counters.open.load(Ordering::Relaxed) >= limits.connections {
            return Err(Turned::Full);
        }
        let mut sources = self.sources.lock();
        if sources.len() >= SOURCES && !sources.contains_key(&source) {
            sources.retain(|_, entry| entry.matters(limits, now));
            if sources.len() >= SOURCES {
                return Err(Turned::Full);
            }
        }
        let entry = sources.entry(source).or_insert_with(|| Source::new(now));
        if let Some(until) = entry.blocked {
            if now < until {
                let first = !std::mem::replace(&mut entry.told, true);
                return Err(Turned::Blocked { first });
            }
            *entry = Source { half_open: entry.half_open, ..Source::new(now) };
        }
        if entry.half_open >= limits.half_open {
            return Err(Turned::HalfOpen);
        }
        entry.half_open += 1;
        drop(sources);
        self.counters.open.fetch_add(1, Ordering::Relaxed);
        Ok((Place(Arc::clone(self)), HalfOpen { guard: Arc::clone(self), source }))
    }

    /// An authentication failed. True if the source is refused from now on.
    pub(crate) fn failed(&self, address: IpAddr, limits: &Limits, now: Instant) -> bool {
        let mut sources = self.sources.lock();
        let Some(entry) = sources.get_mut(&source(address)) else { return false };
        if now.duration_since(entry.since) > limits.period {
            (entry.failures, entry.since) = (0, now);
        }
        entry.failures += 1;
        if entry.failures >= limits.failures && entry.blocked.is_none() {
            entry.blocked = Some(now + limits.period);
            entry.told = false;
            return true;
        }
        false
    }
}

impl Source {
    fn new(now: Instant) -> Self {
        Self { half_open: 0, failures: 0, since: now, blocked: None, told: false }
    }

    fn matters(&self, limits: &Limits, now: Instant) -> bool {
        let failing = self.failures > 0 && now.duration_since(self.since) <= limits.period;
        self.half_open > 0 || failing || self.blocked.is_some_and(|until| now < until)
    }
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        let mut sources = self.guard.sources.lock();
        if let Some(entry) = sources.get_mut(&self.source) {
            entry.half_open = entry.half_open.saturating_sub(1);
            if entry.half_open == 0 && entry.failures == 0 {
                sources.remove(&self.source);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.counters.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { connections: 4, half_open: 2, failures: 3, ..Limits::default() }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn b_sec_05_failures_of_a_source_are_limited() {
        let (guard, start) = (Arc::new(Guard::default()), Instant::now());
        let admit = |address, now| guard.admit(ip(address), &limits(), now).map(|_| ());
        for failure in 1..=3 {
            let _held = guard.admit(ip("2001:db8::1"), &limits(), start).unwrap();
            assert_eq!(guard.failed(ip("2001:db8::1"), &limits(), start), failure == 3);
        }
        // The whole /64, but nobody else; logged once; forgiven after the period.
        assert_eq!(admit("2001:db8::2", start), Err(Turned::Blocked { first: true }));
        assert_eq!(admit("2001:db8::1", start), Err(Turned::Blocked { first: false }));
        assert_eq!(admit("2001:db8:0:1::1", start), Ok(()));
        assert_eq!(admit("192.0.2.1", start), Ok(()));
        assert_eq!(admit("2001:db8::1", start + limits().period), Ok(()));
    }

    #[test]
    fn failures_that_are_rare_do_not_add_up() {
        let (guard, start) = (Arc::new(Guard::default()), Instant::now());
        let _held = guard.admit(ip("192.0.2.1"), &limits(), start).unwrap();
        for minute in 0..10 {
            let now = start + Duration::from_secs(61 * minute);
            assert!(!guard.failed(ip("192.0.2.1"), &limits(), now));
        }
    }

    #[test]
    fn connections_are_counted_and_given_back() {
        let (guard, now) = (Arc::new(Guard::default()), Instant::now());
        let one = guard.admit(ip("192.0.2.1"), &limits(), now).unwrap();
        let two = guard.admit(ip("::ffff:192.0.2.1"), &limits(), now).unwrap();
        assert_eq!(guard.admit(ip("192.0.2.1"), &limits(), now).unwrap_err(), Turned::HalfOpen);
        // A session frees the place among those without.
        let (place, half_open) = one;
        drop(half_open);
        let three = guard.admit(ip("192.0.2.1"), &limits(), now).unwrap();
        let four = guard.admit(ip("192.0.2.2"), &limits(), now).unwrap();
        assert_eq!(guard.admit(ip("192.0.2.3"), &limits(), now).unwrap_err(), Turned::Full);
        assert_eq!(guard.counters.open.load(Ordering::Relaxed), 4);
        drop((place, two, three, four));
        assert_eq!(guard.counters.open.load(Ordering::Relaxed), 0);
        assert!(guard.sources.lock().is_empty());
    }
}

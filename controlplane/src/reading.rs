//! One look at everything the dataplane publishes, and the rates between two.

use std::time::Duration;
use tokio::time::Instant;
use turnpike_abi::counters::{Counter, Counters};
use turnpike_abi::stats::{Identity, InterfaceInfo, MainStats, PortStats};
use turnpike_abi::{PortId, WorkerId};
use turnpike_client::StatisticsView;

/// A worker that did not publish for this long counts as stalled, milliseconds.
pub const STALLED: u64 = 5_000;

/// What the dataplane published at one moment. Pages that could not be had whole keep their values from
/// the reading before.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Who it is; `None` before the first attachment.
    pub identity: Option<Identity>,
    /// Its interfaces, by id.
    pub interfaces: Vec<InterfaceInfo>,
    /// Its main thread.
    pub main: MainStats,
    /// Its ports, by id.
    pub ports: Vec<PortStats>,
    /// Its workers, by number.
    pub workers: Vec<Counters>,
}

impl Reading {
    /// Reads every page.
    #[must_use]
    pub fn take(view: &StatisticsView, before: Option<&Self>) -> Self {
        let identity = view.identity();
        let before = before.filter(|before| same_process(before.identity.as_ref(), identity.as_ref()));
        let ports = identity.map_or(0, |identity| identity.ports);
        Self {
            identity,
            interfaces: view.interfaces(),
            main: view.main().or_else(|| Some(before?.main)).unwrap_or_default(),
            ports: (0..ports)
                .map(|port| {
                    view.port(PortId(port))
                        .or_else(|| before?.ports.get(usize::from(port)).copied())
                        .unwrap_or_default()
                })
                .collect(),
            workers: (0..view.workers())
                .map(|worker| {
                    view.worker(WorkerId(u8::try_from(worker).unwrap_or(u8::MAX)))
                        .or_else(|| before?.workers.get(worker).cloned())
                        .unwrap_or_default()
                })
                .collect(),
        }
    }

    /// All workers together, gauges included.
    #[must_use]
    pub fn total(&self) -> Counters {
        let mut total = Counters::default();
        for worker in &self.workers {
            total.merge(worker);
        }
        total
    }

    /// Whether every worker is alive, and has a policy and a forwarding table.
    #[must_use]
    pub fn forwards(&self, now_ms: u64) -> bool {
        !self.workers.is_empty()
            && self.workers.iter().all(|worker| {
                now_ms.saturating_sub(worker.get(Counter::HeartbeatMs)) <= STALLED
                    && worker.get(Counter::PolicyGeneration) != 0
                    && worker.get(Counter::ForwardingGeneration) != 0
            })
    }

    /// Whether every worker has taken the policy table `generation`.
    #[must_use]
    pub fn on_policy(&self, generation: u64) -> bool {
        !self.workers.is_empty()
            && self.workers.iter().all(|worker| worker.get(Counter::PolicyGeneration) == generation)
    }
}

fn same_process(a: Option<&Identity>, b: Option<&Identity>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.pid == b.pid && a.started_ms == b.started_ms,
        _ => false,
    }
}

/// The last two readings, about a second apart.
#[derive(Debug, Default)]
pub struct Sampler {
    older: Reading,
    newer: Reading,
    apart: Duration,
    taken: Option<Instant>,
}

impl Sampler {
    /// Takes a sample.
    pub fn sample(&mut self, reading: Reading, now: Instant) {
        let restarted = !same_process(self.newer.identity.as_ref(), reading.identity.as_ref());
        self.apart = match self.taken {
            Some(taken) if !restarted => now.duration_since(taken),
            _ => Duration::ZERO,
        };
        self.older = std::mem::replace(&mut self.newer, reading);
        self.taken = Some(now);
    }

    /// No rates until there are two samples again: nobody publishes.
    pub fn pause(&mut self) {
        self.taken = None;
        self.apart = Duration::ZERO;
    }

    /// The last sample.
    #[must_use]
    pub const fn newer(&self) -> &Reading {
        &self.newer
    }

    /// Growth a second of what `value` picks out of a reading.
    #[must_use]
    pub fn rate(&self, value: impl Fn(&Reading) -> u64) -> u64 {
        let grown = value(&self.newer).saturating_sub(value(&self.older));
        let milliseconds = self.apart.as_millis();
        if milliseconds == 0 {
            return 0;
        }
        u64::try_from(u128::from(grown) * 1000 / milliseconds).unwrap_or(u64::MAX)
    }

    /// Growth of one value as a share of another's, 0 to 1.
    #[must_use]
    pub fn share(&self, part: impl Fn(&Reading) -> u64, whole: impl Fn(&Reading) -> u64) -> f64 {
        if self.apart.is_zero() {
            return 0.0;
        }
        let grown = |value: &dyn Fn(&Reading) -> u64| value(&self.newer).saturating_sub(value(&self.older));
        let (part, whole) = (grown(&part), grown(&whole));
        if whole == 0 { 0.0 } else { (part as f64 / whole as f64).min(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(pid: u32, received: u64) -> Reading {
        let mut worker = Counters::default();
        worker.set(Counter::Received, received);
        Reading {
            identity: Some(Identity { pid, workers: 1, ..Identity::default() }),
            workers: vec![worker],
            ..Reading::default()
        }
    }

    fn received(reading: &Reading) -> u64 {
        reading.total().get(Counter::Received)
    }

    #[test]
    fn rates_are_of_the_last_two_samples_of_one_process() {
        let mut sampler = Sampler::default();
        let start = Instant::now();
        sampler.sample(reading(1, 5000), start);
        assert_eq!(sampler.rate(received), 0);
        sampler.sample(reading(1, 6000), start + Duration::from_millis(500));
        assert_eq!(sampler.rate(received), 2000);
        assert!((sampler.share(received, |reading| 2 * received(reading)) - 0.5).abs() < 1e-9);
        // Another process counts from 0: neither a negative nor a giant rate.
        sampler.sample(reading(2, 10), start + Duration::from_millis(1500));
        assert_eq!(sampler.rate(received), 0);
        sampler.sample(reading(2, 30), start + Duration::from_millis(2500));
        assert_eq!(sampler.rate(received), 20);
        sampler.pause();
        assert_eq!(sampler.rate(received), 0);
    }
}

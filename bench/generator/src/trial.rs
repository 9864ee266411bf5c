//! A trial: packets at a rate for a while, and what became of them.

use crate::end::End;
use crate::flows::Flows;
use crate::histogram::Histogram;
use crate::packet::{self, Mark};
use dpdk::{Mbuf, MbufSource, rdtsc};
use serde::{Deserialize, Serialize};
use turnpike_engine::{Buffer as _, BufferSource as _};

/// Most packets sent at once.
const AT_ONCE: u64 = 32;
/// Packets by which sending may be late and still catch up. What is later is not sent: a burst that long would
/// measure the rings, not the box.
const CATCH_UP: u64 = 256;
/// How long nothing may arrive before a trial is over, in microseconds.
const SILENCE_US: u64 = 50_000;
const INSIDE: usize = 0;
const OUTSIDE: usize = 1;

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From inside to outside.
    In2out,
    /// From outside to inside.
    Out2in,
    /// Bursts of both in turn.
    Mixed,
}

/// What to send.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// Packets a second, of both directions together.
    pub rate: f64,
    /// For how long.
    pub milliseconds: u64,
    /// Which way.
    pub direction: Direction,
}

/// What became of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    /// Packets offered, whether the device took them or not.
    pub sent: u64,
    /// Of these, packets the device had no room for: the box did not take what came before.
    pub refused: u64,
    /// Packets that came out of the box at the right port, with the right addresses.
    pub received: u64,
    /// Packets that came out wrong.
    pub wrong: u64,
    /// Packets a second as they were really sent.
    pub rate: f64,
    /// Latency in nanoseconds.
    pub latency_ns: Latency,
}

/// From just before sending a burst to just after receiving one.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    pub p50: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

/// Sends and receives.
#[derive(Debug)]
pub struct Generator {
    ends: [End; 2],
    flows: Flows,
    /// Bytes of the frames, without check sequence.
    size: usize,
    source: MbufSource,
    hz: u64,
    trials: u16,
    burst: Vec<Mbuf>,
    latencies: Histogram,
}

impl Generator {
    pub fn new(ends: [End; 2], flows: Flows, size: usize, source: MbufSource, hz: u64) -> Self {
        let burst = Vec::with_capacity(AT_ONCE as usize);
        Self { ends, flows, size, source, hz, trials: 0, burst, latencies: Histogram::new() }
    }

    /// Sends a packet of each flow from inside, again for those that did not arrive, and notes what they became.
    /// Returns how many flows arrived.
    pub fn learn(&mut self, rate: f64, milliseconds: u64) -> u32 {
        self.trials = self.trials.wrapping_add(1);
        let began = rdtsc();
        let end = began + self.ticks(milliseconds * 1000);
        let pause = (self.hz as f64 / rate.max(1.0)) as u64;
        let (mut arrived, mut next, mut due) = (0, 0, began);
        while arrived < self.flows.count() {
            let now = rdtsc();
            if now >= end {
                break;
            }
            if self.ends.iter().any(|end| !end.is_up()) {
                due = now;
            }
            if now >= due {
                due += pause;
                // The first one without an answer from here on.
                let of = self.flows.count();
                let unknown =
                    (0..of).map(|step| (next + step) % of).find(|&flow| self.flows.external(flow).is_none());
                if let Some(flow) = unknown {
                    next = (flow + 1) % of;
                    self.push(INSIDE, flow, now);
                    self.ends[INSIDE].send(&mut self.burst);
                    if next == 0 {
                        // All were sent: time for them to arrive before they are sent again.
                        due += self.ticks(SILENCE_US);
                    }
                }
            }
            let (trial, flows) = (self.trials, &mut self.flows);
            self.ends[OUTSIDE].receive(|mark, source, _| {
                if mark.trial == trial
                    && flows.external(mark.flow).is_none()
                    && flows.learn(mark.flow, source)
                {
                    arrived += 1;
                }
            });
            self.ends[INSIDE].receive(|_, _, _| {});
        }
        (0..self.flows.count()).filter(|&flow| self.flows.external(flow).is_some()).count() as u32
    }

    /// Sends at a rate, then waits for what is still under way.
    pub fn trial(&mut self, trial: &Trial) -> Outcome {
        self.trials = self.trials.wrapping_add(1);
        self.latencies.clear();
        let mut outcome = Outcome::default();
        let length = self.ticks(trial.milliseconds * 1000);
        let per_tick = trial.rate / self.hz as f64;
        let began = rdtsc();
        // Packets that will never be sent because their time went by.
        let mut skipped = 0;
        let mut from = INSIDE;
        loop {
            let now = rdtsc();
            if now - began >= length {
                break;
            }
            let due = ((now - began) as f64 * per_tick) as u64 - skipped;
            let late = due.saturating_sub(outcome.sent);
            if late > CATCH_UP {
                skipped += late - CATCH_UP;
            }
            if late > 0 {
                from = match trial.direction {
                    Direction::In2out => INSIDE,
                    Direction::Out2in => OUTSIDE,
                    Direction::Mixed => 1 - from,
                };
                let count = late.min(AT_ONCE);
                for _ in 0..count {
                    let flow = self.flows.random();
                    self.push(from, flow, now);
                }
                // Without a buffer a packet counts as refused as well: the box holds them.
                outcome.refused += count - self.burst.len() as u64;
                outcome.refused += self.ends[from].send(&mut self.burst) as u64;
                outcome.sent += count;
            }
            self.collect(&mut outcome);
        }
        outcome.rate = outcome.sent as f64 * self.hz as f64 / length.max(1) as f64;
        let silence = self.ticks(SILENCE_US);
        let mut last = rdtsc();
        while outcome.received + outcome.wrong + outcome.refused < outcome.sent && rdtsc() - last < silence {
            if self.collect(&mut outcome) > 0 {
                last = rdtsc();
            }
        }
        let ns = |ticks: u64| (ticks as f64 * 1e9 / self.hz as f64) as u64;
        outcome.latency_ns = Latency {
            p50: ns(self.latencies.quantile(0.5)),
            p99: ns(self.latencies.quantile(0.99)),
            p999: ns(self.latencies.quantile(0.999)),
            max: ns(self.latencies.largest()),
        };
        outcome
    }

    /// Takes what arrived at both ends. Returns how many frames.
    #[inline]
    fn collect(&mut self, outcome: &mut Outcome) -> usize {
        let (trial, flows, latencies) = (self.trials, &self.flows, &mut self.latencies);
        let mut came = 0;
        for (at, end) in self.ends.iter_mut().enumerate() {
            let mut now = 0;
            came += end.receive(|mark, source, destination| {
                if mark.trial != trial {
                    return;
                }
                if now == 0 {
                    now = rdtsc();
                }
                let right = if at == INSIDE {
                    destination == Flows::inside(mark.flow) && source == Flows::peer(mark.flow)
                } else {
                    Some(source) == flows.external(mark.flow) && destination == Flows::peer(mark.flow)
                };
                if right {
                    outcome.received += 1;
                    latencies.add(now.saturating_sub(mark.sent));
                } else {
                    outcome.wrong += 1;
                }
            });
        }
        came
    }

    /// Adds a packet of a flow to the burst, if there is a buffer for it.
    #[inline]
    fn push(&mut self, from: usize, flow: u32, now: u64) {
        let Some(mut frame) = self.source.take(self.size) else { return };
        if !frame.resize(self.size) {
            return;
        }
        let (source, destination) = if from == INSIDE {
            (Flows::inside(flow), Flows::peer(flow))
        } else {
            (Flows::peer(flow), self.flows.external(flow).unwrap_or_default())
        };
        let mark = Mark { trial: self.trials, flow, sent: now };
        packet::write(frame.bytes_mut(), self.ends[from].stations, source, destination, mark);
        self.burst.push(frame);
    }

    fn ticks(&self, microseconds: u64) -> u64 {
        (u128::from(microseconds) * u128::from(self.hz) / 1_000_000) as u64
    }
}

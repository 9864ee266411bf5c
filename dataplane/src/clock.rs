//! Time from the time stamp counter, one reading a poll.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use turnpike_engine::Time;

/// Milliseconds since the dataplane started, advanced by readings of the time stamp counter.
#[derive(Clone, Debug)]
pub struct Clock {
    now: Time,
    /// Counter at which the next millisecond begins.
    next: u64,
    ticks_per_ms: u64,
    /// Wall clock at `Time(0)`, milliseconds since the epoch; the main thread keeps it right.
    epoch: Arc<AtomicU64>,
}

impl Clock {
    /// A clock that starts at counter `start`, which ticks `hz` times a second.
    pub fn new(start: u64, hz: u64) -> Self {
        let ticks_per_ms = (hz / 1000).max(1);
        let epoch = Arc::new(AtomicU64::new(wall_clock_ms()));
        Self { now: Time(0), next: start.wrapping_add(ticks_per_ms), ticks_per_ms, epoch }
    }

    /// Moves on to counter `ticks`. A counter that went back, or that of a core slightly behind, changes nothing.
    #[inline]
    pub fn advance(&mut self, ticks: u64) -> Time {
        let past = ticks.wrapping_sub(self.next);
        // Half the range: behind `next`.
        if past < 1 << 63 {
            let ms = past / self.ticks_per_ms + 1;
            self.now.0 += ms;
            self.next = self.next.wrapping_add(ms * self.ticks_per_ms);
        }
        self.now
    }

    /// The time of the last reading.
    #[inline]
    pub fn now(&self) -> Time {
        self.now
    }

    /// Wall clock of the last reading, milliseconds since the epoch.
    #[inline]
    pub fn wall_clock_ms(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed).wrapping_add(self.now.0)
    }

    /// Wall clock at `Time(0)`, milliseconds since the epoch.
    #[inline]
    pub fn epoch_ms(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// Follows the system's clock where that was set.
    pub fn follow_wall_clock(&self) {
        self.epoch.store(wall_clock_ms().wrapping_sub(self.now.0), Ordering::Relaxed);
    }
}

/// Milliseconds since the epoch.
pub fn wall_clock_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_come_from_ticks() {
        for start in [0, 5, u64::MAX - 1500] {
            let at = |ticks: u64| start.wrapping_add(ticks);
            let mut clock = Clock::new(start, 1_000_000);
            assert_eq!(clock.advance(at(0)), Time(0));
            assert_eq!(clock.advance(at(999)), Time(0));
            assert_eq!(clock.advance(at(1000)), Time(1));
            assert_eq!(clock.advance(at(900)), Time(1), "another core's counter, a little behind");
            assert_eq!(clock.advance(at(1999)), Time(1));
            assert_eq!(clock.advance(at(3_600_000_500)), Time(3_600_000), "an hour's sleep");
            assert_eq!(clock.advance(at(3_600_001_000)), Time(3_600_001), "no drift");
            assert_eq!(clock.now(), Time(3_600_001));
        }
    }

    #[test]
    fn the_wall_clock_is_followed() {
        let mut clock = Clock::new(0, 1_000_000);
        clock.advance(5_000);
        clock.follow_wall_clock();
        let difference = clock.wall_clock_ms().abs_diff(wall_clock_ms());
        assert!(difference < 5_000, "{difference}");
    }
}

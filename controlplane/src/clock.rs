//! Time for this process: wall-clock milliseconds that never go backwards.

use std::time::{SystemTime, UNIX_EPOCH};
use tokio::time::Instant;
use turnpike_policy::Time;

/// The wall clock, milliseconds since the epoch.
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The wall clock at its start, counted on by the monotonic one: a step of the wall clock neither ends nor
/// prolongs a lifetime before the next start.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    wall: u64,
}

impl Clock {
    /// Begins now.
    pub fn start() -> Self {
        Self { start: Instant::now(), wall: wall_ms() }
    }

    /// Now.
    pub fn now(&self) -> Time {
        let elapsed = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        Time(self.wall.saturating_add(elapsed))
    }
}

//! Ticks of the time stamp counter, and how many make a second.

use std::sync::LazyLock;
use std::time::{Duration, Instant};
use turnpike_shm::measure;

pub use turnpike_shm::measure::ticks;

/// How long the counter is compared with the clock.
const CALIBRATION: Duration = Duration::from_millis(50);

/// Ticks a second.
pub fn hz() -> f64 {
    static HZ: LazyLock<f64> = LazyLock::new(|| {
        // Of a few attempts the one that was interrupted least: its two readings lie closest to the clock's.
        let attempt = || {
            let (began, from) = (Instant::now(), measure::ticks());
            while began.elapsed() < CALIBRATION {
                std::hint::spin_loop();
            }
            let (took, to) = (began.elapsed(), measure::ticks());
            (took, (to - from) as f64 / took.as_secs_f64())
        };
        let mut attempts = [attempt(), attempt(), attempt()];
        attempts.sort_by_key(|(took, _)| *took);
        attempts[0].1
    });
    *HZ
}

/// Ticks that two readings one after the other are apart: what taking the time adds to what is measured.
pub fn reading() -> u64 {
    static READING: LazyLock<u64> = LazyLock::new(|| {
        let mut apart: Vec<u64> = (0..1001)
            .map(|_| {
                let from = measure::ticks();
                measure::ticks() - from
            })
            .collect();
        apart.sort_unstable();
        apart[apart.len() / 2]
    });
    *READING
}

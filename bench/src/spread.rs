//! Many short measurements, and what is said of them.

use serde::Serialize;

/// Costs of short chunks of work. On a shared machine a few are far too long; the median does not care.
#[derive(Clone, Debug, Default)]
pub struct Spread {
    samples: Vec<f32>,
}

/// Median and the limits between which four of five samples lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Half of the samples are below.
    pub median: f64,
    /// A tenth is below.
    pub p10: f64,
    /// A tenth is above.
    pub p90: f64,
}

impl Spread {
    /// Room for `samples`, so that adding them allocates nothing.
    pub fn with_capacity(samples: usize) -> Self {
        Self { samples: Vec::with_capacity(samples) }
    }

    /// Adds the cost of one unit of work, from a chunk of `units` that took `ticks`.
    pub fn add(&mut self, ticks: u64, units: usize) {
        if units > 0 {
            self.samples.push((ticks as f64 / units as f64) as f32);
        }
    }

    /// Adds what another measured.
    pub fn merge(&mut self, other: &Self) {
        self.samples.extend_from_slice(&other.samples);
    }

    /// The value that `share` (0 to 1) of the samples do not exceed; 0 without samples.
    pub fn quantile(&mut self, share: f64) -> f64 {
        self.samples.sort_unstable_by(f32::total_cmp);
        let last = self.samples.len().saturating_sub(1);
        let at = (share * last as f64).round() as usize;
        self.samples.get(at).copied().map_or(0.0, f64::from)
    }

    /// Median, p10 and p90.
    pub fn summary(&mut self) -> Summary {
        Summary { median: self.quantile(0.5), p10: self.quantile(0.1), p90: self.quantile(0.9) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_what_was_added() {
        let mut spread = Spread::with_capacity(101);
        for value in (0..=100).rev() {
            spread.add(value * 4, 4);
        }
        spread.add(1_000_000, 0);
        assert_eq!(spread.summary(), Summary { median: 50.0, p10: 10.0, p90: 90.0 });
        assert_eq!(spread.quantile(0.99), 99.0);
        assert_eq!(Spread::default().summary(), Summary::default());
    }
}

//! Latencies, counted in buckets whose width is at most 1/32 of their value.

/// Buckets to a power of two.
const STEPS: u32 = 32;
const BUCKETS: usize = (64 * STEPS) as usize;

/// How often which value came.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: Vec<u64>,
    total: u64,
    largest: u64,
}

impl Histogram {
    pub fn new() -> Self {
        Self { buckets: vec![0; BUCKETS], total: 0, largest: 0 }
    }

    /// Counts a value.
    #[inline]
    pub fn add(&mut self, value: u64) {
        if let Some(bucket) = self.buckets.get_mut(place(value)) {
            *bucket += 1;
        }
        self.total += 1;
        self.largest = self.largest.max(value);
    }

    /// The largest value of the smallest `share` of all (0 to 1); 0 of nothing.
    pub fn quantile(&self, share: f64) -> u64 {
        let rank = ((self.total as f64 * share).ceil() as u64).clamp(1, self.total.max(1));
        let mut below = 0;
        for (place, count) in self.buckets.iter().enumerate() {
            below += count;
            if below >= rank {
                return upper(place).min(self.largest);
            }
        }
        self.largest
    }

    /// The largest value.
    pub fn largest(&self) -> u64 {
        self.largest
    }

    pub fn clear(&mut self) {
        self.buckets.fill(0);
        (self.total, self.largest) = (0, 0);
    }
}

/// The bucket of a value: the value itself while it is small, then its first bits and their number.
fn place(value: u64) -> usize {
    let bits = u64::BITS - value.leading_zeros();
    let shift = bits.saturating_sub(STEPS.ilog2() + 1);
    (u64::from(shift * STEPS) + (value >> shift)) as usize
}

/// The largest value of a bucket.
fn upper(place: usize) -> u64 {
    let steps = STEPS as usize;
    let shift = (place / steps).saturating_sub(1);
    let first = (place - shift * steps) as u64;
    first.checked_add(1).and_then(|next| next.checked_shl(shift as u32)).map_or(u64::MAX, |next| next - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket_and_no_bucket_is_wide() {
        for value in (0..100_000u64).chain((0..60).map(|bit| (1 << bit) + 12_345)) {
            let place = place(value);
            assert!(upper(place) >= value, "{value}");
            assert!(place == 0 || upper(place - 1) < value, "{value}");
            assert!((upper(place) - value) as f64 <= value as f64 / 32.0, "{value}");
        }
    }

    #[test]
    fn quantiles_are_those_of_a_sorted_list() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.quantile(0.5), 0);
        (1..=1000u64).for_each(|value| histogram.add(value * 1000));
        for (share, exact) in [(0.5, 500_000.0), (0.99, 990_000.0), (0.999, 999_000.0), (1.0, 1_000_000.0)] {
            let found = histogram.quantile(share) as f64;
            assert!((exact..=exact * 1.04).contains(&found), "{share}: {found}");
        }
        assert_eq!(histogram.largest(), 1_000_000);
    }
}

//! Binary search for the highest rate that loses nothing.

/// What became of a rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// All packets came through. They were sent at this rate, which may be a little less than asked for.
    Lossless(f64),
    /// Some did not.
    Lossy,
    /// All came through, but the generator could send only at this rate.
    NotOffered(f64),
}

impl Step {
    /// The better one of two attempts.
    pub fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Lossless(a), Self::Lossless(b)) => Self::Lossless(a.max(b)),
            (lossless @ Self::Lossless(_), _) | (_, lossless @ Self::Lossless(_)) => lossless,
            (Self::NotOffered(a), Self::NotOffered(b)) => Self::NotOffered(a.max(b)),
            (offered @ Self::NotOffered(_), _) | (_, offered) => offered,
        }
    }
}

/// What ended the search upwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The box lost packets.
    Box,
    /// The generator could not send faster.
    Generator,
}

/// The highest rate without loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    pub rate: f64,
    pub bound: Bound,
}

/// Rates below this are not tried, packets a second.
const LEAST: f64 = 1000.0;

/// Searches from `first` on, until the result is known to within `precision`.
///
/// # Errors
/// Those of `step`, and if packets are lost at every rate.
pub fn highest(
    first: f64,
    precision: f64,
    mut step: impl FnMut(f64) -> Result<Step, String>,
) -> Result<Found, String> {
    let (mut good, mut bad, mut bound) = (0.0f64, f64::INFINITY, Bound::Box);
    // What was asked for when `good` was sent.
    let mut passed = 0.0;
    let mut rate = first;
    while bad > passed * (1.0 + precision) {
        match step(rate)? {
            Step::Lossless(sent) => {
                good = sent.max(good);
                passed = rate;
            }
            Step::Lossy => (bad, bound) = (rate, Bound::Box),
            Step::NotOffered(sent) => {
                good = sent.max(good);
                (bad, bound) = (rate, Bound::Generator);
            }
        }
        rate = if bad.is_infinite() {
            rate * 2.0
        } else if passed > 0.0 {
            f64::midpoint(passed, bad)
        } else {
            bad / 2.0
        };
        if bad <= LEAST {
            return Err(format!("packets are lost even at {bad:.0} a second"));
        }
        rate = rate.max(LEAST);
    }
    Ok(Found { rate: good, bound })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_box_s_limit_is_found_from_below_and_from_above() {
        for limit in [1500.0, 99_000.0, 100_000.0, 3_333_333.0] {
            let found = highest(100_000.0, 0.01, |rate| {
                Ok(if rate <= limit { Step::Lossless(rate) } else { Step::Lossy })
            });
            let Found { rate, bound } = found.expect("a rate");
            assert!(rate <= limit && rate * 1.011 >= limit, "{rate} for {limit}");
            assert_eq!(bound, Bound::Box);
        }
    }

    #[test]
    fn a_slow_generator_is_told_from_a_slow_box() {
        let limit = 700_000.0;
        let found = highest(100_000.0, 0.01, |rate| {
            Ok(if rate <= limit { Step::Lossless(rate) } else { Step::NotOffered(limit) })
        });
        let Found { rate, bound } = found.expect("a rate");
        assert!((rate - limit).abs() < limit * 0.01, "{rate}");
        assert_eq!(bound, Bound::Generator);
    }

    #[test]
    fn a_box_that_always_loses_is_an_error() {
        assert!(highest(100_000.0, 0.01, |_| Ok(Step::Lossy)).is_err());
        assert_eq!(highest(100_000.0, 0.01, |_| Err("gone".to_owned())), Err("gone".to_owned()));
    }

    #[test]
    fn the_better_attempt_counts() {
        assert_eq!(Step::Lossy.or(Step::Lossless(1.0)), Step::Lossless(1.0));
        assert_eq!(Step::Lossless(1.0).or(Step::Lossless(2.0)), Step::Lossless(2.0));
        assert_eq!(Step::Lossless(1.0).or(Step::NotOffered(2.0)), Step::Lossless(1.0));
        assert_eq!(Step::Lossy.or(Step::NotOffered(1.0)), Step::NotOffered(1.0));
        assert_eq!(Step::NotOffered(2.0).or(Step::NotOffered(1.0)), Step::NotOffered(2.0));
        assert_eq!(Step::Lossy.or(Step::Lossy), Step::Lossy);
    }
}

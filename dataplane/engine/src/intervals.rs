//! Which interval of a key space a key lies in.

/// An address or port as a number.
pub(crate) trait Key: Copy + Ord {
    /// Lowest key.
    const FIRST: Self;

    /// The key that follows, if there is one.
    fn next(self) -> Option<Self>;
}

macro_rules! key {
    ($key:ty) => {
        impl Key for $key {
            const FIRST: Self = 0;

            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }
        }
    };
}

key!(u16);
key!(u32);
key!(u128);

/// A value for each interval of a key space without gaps. Keys and values apart: a search touches keys only.
#[derive(Debug)]
pub(crate) struct Intervals<K> {
    starts: Vec<K>,
    values: Vec<u32>,
}

impl<K: Key> Intervals<K> {
    /// The whole key space as one interval.
    pub(crate) fn new(value: u32) -> Self {
        Self { starts: vec![K::FIRST], values: vec![value] }
    }

    /// Ends the last interval before `start`, which is not below where that began, and starts another one;
    /// an interval that would be empty gives way.
    pub(crate) fn begin(&mut self, start: K, value: u32) {
        debug_assert!(self.starts.last().is_some_and(|&last| last <= start));
        if self.starts.last() == Some(&start) {
            self.values.pop();
        } else {
            self.starts.push(start);
        }
        self.values.push(value);
    }

    /// The value of the interval that holds `key`. A binary search without branches to mispredict: a step
    /// costs a load and a conditional move, and searches in several fields overlap. B-trees were slower.
    #[inline]
    pub(crate) fn value(&self, key: K) -> u32 {
        let at = self.starts.partition_point(|&start| start <= key);
        at.checked_sub(1).and_then(|at| self.values.get(at)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_lies_in_the_interval_that_began_last() {
        let mut intervals = Intervals::new(7);
        intervals.begin(0u16, 8);
        intervals.begin(5, 9);
        intervals.begin(9, 1);
        intervals.begin(9, 2);
        intervals.begin(u16::MAX, 3);
        let expected = |key| match key {
            0..=4 => 8,
            5..=8 => 9,
            9..u16::MAX => 2,
            u16::MAX => 3,
        };
        assert!((0..=u16::MAX).all(|key| intervals.value(key) == expected(key)));
    }
}

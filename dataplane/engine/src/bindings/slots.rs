//! A map whose entries keep their places: a walk goes on from a place, however much came and went meanwhile.

use super::numbers::Numbers;
use crate::keyed::Keyed;
use core::hash::Hash;

/// At most as many entries as it was made for are to be put in: then it never allocates again.
#[derive(Debug)]
pub(super) struct Slots<K, V> {
    places: Vec<Option<(K, V)>>,
    vacant: Vec<u32>,
    by_key: Numbers,
}

impl<K: Copy + Eq + Hash, V> Slots<K, V> {
    /// `None` if the kernel gives no memory.
    pub(super) fn new(capacity: usize, keyed: Keyed) -> Option<Self> {
        Some(Self {
            places: Vec::with_capacity(capacity),
            vacant: Vec::with_capacity(capacity),
            by_key: Numbers::new(capacity, keyed)?,
        })
    }

    fn place(&self, key: &K) -> Option<u32> {
        let is = |place| matches!(self.places.get(place as usize), Some(Some((it, _))) if it == key);
        self.by_key.find(key, is)
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.places.get(self.place(key)? as usize)?.as_ref().map(|(_, value)| value)
    }

    pub(super) fn contains_key(&self, key: &K) -> bool {
        self.place(key).is_some()
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        let known = self.place(&key);
        let place = known.or_else(|| self.vacant.pop()).unwrap_or(self.places.len() as u32);
        if known.is_none() {
            self.by_key.insert(key, place);
        }
        match self.places.get_mut(place as usize) {
            Some(there) => *there = Some((key, value)),
            None => self.places.push(Some((key, value))),
        }
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let place = self.place(key)?;
        self.by_key.remove(key, place);
        let (_, value) = self.places.get_mut(place as usize)?.take()?;
        self.vacant.push(place);
        Some(value)
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&K, &V) -> bool) {
        for (number, place) in (0u32..).zip(&mut self.places) {
            if let Some((key, _)) = place.take_if(|(key, value)| !keep(key, value)) {
                self.by_key.remove(key, number);
                self.vacant.push(number);
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.places.iter().flatten().map(|(key, value)| (key, value))
    }

    /// Entries among the `most` places from `from` on, with their places.
    pub(super) fn walk(&self, from: usize, most: usize) -> impl Iterator<Item = (usize, &K, &V)> {
        let places = self.places.iter().enumerate().skip(from).take(most);
        places.filter_map(|(place, entry)| entry.as_ref().map(|(key, value)| (place, key, value)))
    }

    /// Places there are to walk over.
    pub(super) fn places(&self) -> usize {
        self.places.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Against an ordered map; and what is there from the first step of a walk to its last is seen once.
        #[test]
        fn a_walk_sees_what_stays(
            ops in proptest::collection::vec((0u8..24, any::<bool>()), 1..200),
            step in 1usize..5,
        ) {
            let mut slots = Slots::new(24, Keyed::new([7; 16])).unwrap();
            let mut oracle = BTreeMap::new();
            let (half, rest) = ops.split_at(ops.len() / 2);
            let apply = |slots: &mut Slots<u8, usize>, oracle: &mut BTreeMap<u8, usize>, n, key, put| {
                if put {
                    slots.insert(key, n);
                    oracle.insert(key, n);
                } else {
                    assert_eq!(slots.remove(&key), oracle.remove(&key));
                }
                assert_eq!(slots.len(), oracle.len());
                let mut all: Vec<_> = slots.iter().map(|(key, value)| (*key, *value)).collect();
                all.sort_unstable();
                assert_eq!(all, oracle.iter().map(|(key, value)| (*key, *value)).collect::<Vec<_>>());
            };
            for (n, &(key, put)) in half.iter().enumerate() {
                apply(&mut slots, &mut oracle, n, key, put);
            }
            let mut stays: Vec<u8> = oracle.keys().copied().collect();
            let mut seen = Vec::new();
            let mut from = 0;
            let mut rest = rest.iter().enumerate();
            while from < slots.places() {
                seen.extend(slots.walk(from, step).map(|(_, key, _)| *key));
                from += step;
                if let Some((n, &(key, put))) = rest.next() {
                    apply(&mut slots, &mut oracle, n, key, put);
                    stays.retain(|stays| *stays != key || put);
                }
            }
            for key in stays {
                prop_assert_eq!(seen.iter().filter(|seen| **seen == key).count(), 1);
            }
            slots.retain(|key, _| key % 2 == 0);
            oracle.retain(|key, _| key % 2 == 0);
            prop_assert_eq!(slots.len(), oracle.len());
            prop_assert!(oracle.iter().all(|(key, value)| slots.get(key) == Some(value)));
        }
    }
}

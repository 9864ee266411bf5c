//! The timer wheel: when to look at a flow again.
//!
//! The packet path writes only the flow's stamp. A flow hangs in the slot of the time at which it would
//! have expired when it was last looked at; when that slot comes due and the stamp has moved on, the
//! flow is hung up again. So a timer costs nothing on the path and at most one visit an idle timeout.

use crate::Time;
use turnpike_abi::flow::{FlowCold, NONE};
use turnpike_shm::memory::prefetch_value;

/// Milliseconds of a slot, as a shift.
const TICK_SHIFT: u32 = 7;
/// Slots; the horizon is 524 seconds. What lies beyond is visited once a horizon.
const SLOTS: u64 = 4096;

/// Entries of a slot that are known without a look at others: so many lines of memory can be on their way at once.
const STRIDE: usize = 8;

/// Flows by due time, the newest of a slot first. [`FlowCold::timer`] leads from each to the one that was hung up
/// [`STRIDE`] before it.
#[derive(Debug)]
pub(crate) struct Wheel {
    /// The newest of each slot.
    heads: Vec<[u32; STRIDE]>,
    /// Tick whose slot is emptied next.
    tick: u64,
    /// Entries of a slot that came due and were not yet visited: a ring, the next one at `at`.
    due: [u32; STRIDE],
    at: usize,
}

impl Wheel {
    pub(crate) fn new() -> Self {
        Self { heads: vec![[NONE; STRIDE]; SLOTS as usize], tick: 0, due: [NONE; STRIDE], at: 0 }
    }

    /// An empty wheel goes on where another one stands. Returns by when all that hangs on that one is due.
    pub(crate) fn go_on(&mut self, from: &Self) -> Time {
        self.tick = from.tick;
        Time((from.tick + SLOTS - 1) << TICK_SHIFT)
    }

    /// Hangs up `entry`, which must not hang already, to be visited at `due` or within one slot after it.
    pub(crate) fn insert(&mut self, flows: &mut [FlowCold], entry: u32, due: Time) {
        let tick = ((due.0 >> TICK_SHIFT) + 1).clamp(self.tick, self.tick + SLOTS - 1);
        let head = self.heads.get_mut((tick % SLOTS) as usize);
        if let (Some(head), Some(flow)) = (head, flows.get_mut(entry as usize)) {
            let [newest @ .., last] = *head;
            flow.timer = last;
            head[0] = entry;
            head[1..].copy_from_slice(&newest);
        }
    }

    /// The next entry whose time has come; it no longer hangs. Asks for what those after it will need here.
    pub(crate) fn pop(&mut self, flows: &[FlowCold], now: Time) -> Option<u32> {
        let mut entry = *self.due.get(self.at)?;
        while entry == NONE {
            if self.tick > now.0 >> TICK_SHIFT {
                return None;
            }
            let head = self.heads.get_mut((self.tick % SLOTS) as usize)?;
            (self.due, self.at) = (core::mem::replace(head, [NONE; STRIDE]), 0);
            self.tick += 1;
            entry = self.due[0];
            if entry != NONE {
                self.due.iter().filter_map(|&entry| flows.get(entry as usize)).for_each(prefetch_value);
            }
        }
        let next = flows.get(entry as usize)?.timer;
        *self.due.get_mut(self.at)? = next;
        self.at = (self.at + 1) % STRIDE;
        if let Some(next) = flows.get(next as usize) {
            prefetch_value(next);
        }
        Some(entry)
    }

    /// Milliseconds the wheel is behind.
    pub(crate) fn lag_ms(&self, now: Time) -> u64 {
        now.0.saturating_sub(self.tick << TICK_SHIFT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_entry_is_visited_once_and_within_a_slot(dues in prop::collection::vec(0u64..500_000, 1..200)) {
            let mut wheel = Wheel::new();
            let mut flows = vec![FlowCold::default(); dues.len()];
            for (entry, &due) in dues.iter().enumerate() {
                wheel.insert(&mut flows, entry as u32, Time(due));
            }
            let mut seen = vec![None; dues.len()];
            for now in (0..=500_500).step_by(100) {
                while let Some(entry) = wheel.pop(&flows, Time(now)) {
                    prop_assert!(seen[entry as usize].replace(now).is_none());
                }
            }
            for (due, seen) in dues.iter().zip(seen) {
                let seen = seen.expect("visited");
                prop_assert!(seen >= *due && seen <= due + (2 << TICK_SHIFT) + 100, "due {} visited {}", due, seen);
            }
        }
    }

    proptest! {
        /// Against stacks: of a slot the newest comes first, however many it has, also between two calls.
        #[test]
        fn of_a_slot_the_newest_comes_first(
            steps in prop::collection::vec((0u64..600, 0usize..30, 0u64..300), 1..40),
        ) {
            let mut wheel = Wheel::new();
            let mut flows = vec![FlowCold::default(); 40 * 30];
            let mut slots: std::collections::BTreeMap<u64, Vec<u32>> = Default::default();
            let (mut now, mut due, mut entry) = (0, Vec::new(), 0);
            for (delay, entries, pause) in steps {
                for _ in 0..entries {
                    wheel.insert(&mut flows, entry, Time(now + delay));
                    slots.entry(((now + delay) >> TICK_SHIFT) + 1).or_default().push(entry);
                    entry += 1;
                }
                now += pause;
                for _ in 0..entries.div_ceil(2) {
                    while due.is_empty() && slots.first_key_value().is_some_and(|(&at, _)| at <= now >> TICK_SHIFT) {
                        due = slots.pop_first().map(|(_, entries)| entries).unwrap_or_default();
                    }
                    prop_assert_eq!(wheel.pop(&flows, Time(now)), due.pop());
                }
            }
        }
    }

    #[test]
    fn what_lies_beyond_the_horizon_is_visited_at_the_horizon() {
        let mut wheel = Wheel::new();
        let mut flows = vec![FlowCold::default(); 1];
        wheel.insert(&mut flows, 0, Time(7_440_000));
        assert_eq!(wheel.pop(&flows, Time(100_000)), None);
        assert_eq!(wheel.pop(&flows, Time(600_000)), Some(0));
    }
}

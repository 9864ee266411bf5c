//! The flow table: a slab of records, and an index from either direction's tuple to the record.

use crate::Time;
use crate::keyed::{Keyed, Map, map};
use crate::translate::Rewrite;
use crate::wheel::Wheel;
use turnpike_abi::counters::{ProtocolClass, TcpState};
use turnpike_abi::event::Tuple;

/// Stands for "none" where a record names a flow or a binding.
pub(crate) const NONE: u32 = u32::MAX;

/// Direction of a packet within its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the end that opened the flow.
    Forward = 0,
    /// From the other.
    Reverse = 1,
}

/// A flow.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    pub(crate) forward: Tuple,
    pub(crate) reverse: Tuple,
    /// By [`Way`].
    pub(crate) rewrite: [Rewrite; 2],
    pub(crate) packets: [u64; 2],
    pub(crate) bytes: [u64; 2],
    pub(crate) created: Time,
    /// Last packet that counts against idleness.
    pub(crate) last: Time,
    pub(crate) class: ProtocolClass,
    pub(crate) state: TcpState,
    /// A reset was the last thing that told about it.
    pub(crate) reset: bool,
    /// Opened from an outside zone.
    pub(crate) inbound: bool,
    /// Off the index; the record waits for its timer.
    pub(crate) ended: bool,
    /// The binding it uses, or [`NONE`], and its neighbours in that binding's list.
    pub(crate) binding: u32,
    pub(crate) next: u32,
    pub(crate) previous: u32,
}

/// All flows of a worker.
#[derive(Debug)]
pub(crate) struct Flows {
    slab: Vec<Flow>,
    free: Vec<u32>,
    /// Flow number and, in the lowest bit, the [`Way`].
    index: Map<Tuple, u32>,
    pub(crate) wheel: Wheel,
    capacity: usize,
    /// Live flows that were opened from an outside zone.
    inbound: usize,
}

impl Flows {
    pub(crate) fn new(capacity: usize, keyed: Keyed) -> Self {
        Self {
            slab: Vec::with_capacity(capacity),
            free: Vec::with_capacity(capacity),
            index: map(capacity * 2, keyed),
            wheel: Wheel::new(capacity),
            capacity,
            inbound: 0,
        }
    }

    pub(crate) fn find(&self, tuple: &Tuple) -> Option<(u32, Way)> {
        let &entry = self.index.get(tuple)?;
        Some((entry >> 1, if entry & 1 == 0 { Way::Forward } else { Way::Reverse }))
    }

    /// A live flow or one that waits for its timer.
    pub(crate) fn record(&self, flow: u32) -> Option<&Flow> {
        self.slab.get(flow as usize)
    }

    pub(crate) fn record_mut(&mut self, flow: u32) -> Option<&mut Flow> {
        self.slab.get_mut(flow as usize)
    }

    /// Whether another flow fits. Those from outside get half of the table, so that nobody out there can keep
    /// subscribers from opening theirs.
    pub(crate) fn has_room(&self, inbound: bool) -> bool {
        let fits = !self.free.is_empty() || self.slab.len() < self.capacity;
        fits && (!inbound || self.inbound < self.capacity.div_ceil(2))
    }

    /// Puts a flow into the table and on the wheel. `None` if the table is full or one of its tuples is taken.
    pub(crate) fn insert(&mut self, flow: Flow, due: Time) -> Option<u32> {
        if self.index.contains_key(&flow.forward) || self.index.contains_key(&flow.reverse) {
            return None;
        }
        let (forward, reverse, inbound) = (flow.forward, flow.reverse, flow.inbound);
        let number = match self.free.pop() {
            Some(number) => {
                *self.slab.get_mut(number as usize)? = flow;
                number
            }
            None if self.slab.len() < self.capacity => {
                self.slab.push(flow);
                (self.slab.len() - 1) as u32
            }
            None => return None,
        };
        self.index.insert(forward, number << 1);
        self.index.insert(reverse, number << 1 | 1);
        self.wheel.insert(number, due);
        self.inbound += usize::from(inbound);
        Some(number)
    }

    /// Takes a flow off the index. Its record is free once the wheel has let go of it: [`Flows::reclaim`].
    pub(crate) fn end(&mut self, flow: u32) {
        if let Some(record) = self.slab.get_mut(flow as usize).filter(|record| !record.ended) {
            record.ended = true;
            self.inbound -= usize::from(record.inbound);
            self.index.remove(&record.forward);
            self.index.remove(&record.reverse);
        }
    }

    /// Frees the record of an ended flow that no longer hangs on the wheel.
    pub(crate) fn reclaim(&mut self, flow: u32) {
        self.free.push(flow);
    }

    /// Live flows among the `most` records from `cursor` on, with their numbers.
    pub(crate) fn walk(&self, cursor: usize, most: usize) -> impl Iterator<Item = (usize, &Flow)> {
        self.slab.iter().enumerate().skip(cursor).take(most).filter(|(_, flow)| !flow.ended)
    }

    /// Records there are to walk over.
    pub(crate) fn records(&self) -> usize {
        self.slab.len()
    }
}

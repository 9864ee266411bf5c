//! Subscribers: an inside address in a pool, what it has there, and its limits.

use super::Class;
use crate::index::Index;
use crate::keyed::{Keyed, TupleHash};
use turnpike_abi::PoolId;
use turnpike_abi::flow::NONE;
use turnpike_abi::table::PoolRecord;
use turnpike_shm::memory::{Memory, prefetch_value, roomy};

/// What a subscriber has in a pool. One external address for all of it (RFC 4787 REQ-2, RFC 6888 REQ-2).
/// One cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(crate) struct Subscriber {
    pub(super) inside: [u8; 4],
    pub(super) pool: PoolId,
    /// Number of its external address, [`NONE`] if that left the pool.
    pub(super) address: u32,
    pub(super) external: [u8; 4],
    /// By class, the first of its blocks that have a free port.
    pub(super) open: [u32; Class::COUNT],
    pub(super) blocks: u16,
    /// Ports in use by class.
    pub(super) ports: [u32; Class::COUNT],
    pub(super) flows: u32,
    /// New flows it may open at once, in thousandths.
    tokens: u32,
    /// Milliseconds when that was so.
    stamp: u32,
}

const _: () = assert!(size_of::<Subscriber>() == 64);

impl Subscriber {
    pub(super) fn new(inside: [u8; 4], pool: PoolId, now_ms: u64) -> Self {
        Self {
            inside,
            pool,
            address: NONE,
            external: [0; 4],
            open: [NONE; Class::COUNT],
            blocks: 0,
            ports: [0; Class::COUNT],
            flows: 0,
            tokens: u32::MAX,
            stamp: now_ms as u32,
        }
    }

    /// Whether it has nothing any more.
    pub(super) fn is_done(&self) -> bool {
        self.blocks == 0 && self.flows == 0 && self.ports == [0; Class::COUNT]
    }

    /// Whether it may have another flow. Those from outside get half of what there is, so that nobody out there
    /// can keep a subscriber from opening its own.
    pub(crate) fn has_flow_left(&self, pool: &PoolRecord, inbound: bool) -> bool {
        let limit = pool.subscriber_flows;
        limit == 0 || self.flows < if inbound { limit.div_ceil(2) } else { limit }
    }

    /// Takes one new flow from what the pool allows a second, in integers: a thousandth of a flow is `rate`
    /// milliseconds (RFC 6888 REQ-4c). `false` if there is none.
    pub(crate) fn admit(&mut self, pool: &PoolRecord, now_ms: u64) -> bool {
        if pool.subscriber_rate == 0 {
            return true;
        }
        let full = u64::from(pool.subscriber_burst.max(1)) * 1000;
        let passed = u64::from((now_ms as u32).wrapping_sub(self.stamp));
        let tokens = (u64::from(self.tokens) + passed * u64::from(pool.subscriber_rate)).min(full);
        self.stamp = now_ms as u32;
        let taken = tokens.checked_sub(1000);
        self.tokens = taken.unwrap_or(tokens) as u32;
        taken.is_some()
    }
}

/// All subscribers of a worker.
#[derive(Debug)]
pub(super) struct Subscribers {
    slab: Vec<Subscriber>,
    free: Vec<u32>,
    capacity: usize,
    index: Index,
    hash: TupleHash,
    /// Subscribers with a port in use.
    active: usize,
}

impl Subscribers {
    pub(super) const fn bytes(capacity: usize) -> usize {
        Index::bytes(capacity)
    }

    pub(super) fn new(capacity: usize, keyed: Keyed, memory: &mut Memory) -> Option<Self> {
        Some(Self {
            slab: roomy(capacity),
            free: Vec::with_capacity(capacity),
            capacity,
            index: Index::new(capacity, capacity, memory)?,
            hash: TupleHash::new(keyed),
            active: 0,
        })
    }

    fn hash(&self, inside: [u8; 4], pool: PoolId) -> u64 {
        self.hash.v4(u64::from(u32::from_be_bytes(inside)) << 32 | u64::from(pool.0), 0, 0)
    }

    pub(super) fn find(&self, inside: [u8; 4], pool: PoolId) -> Option<u32> {
        self.index.find(self.hash(inside, pool), |number| {
            self.slab.get(number as usize).is_some_and(|it| it.inside == inside && it.pool == pool)
        })
    }

    /// Asks for the line where the search for a subscriber begins.
    pub(super) fn prefetch_index(&self, inside: [u8; 4], pool: PoolId) {
        self.index.prefetch(self.hash(inside, pool));
    }

    /// Asks for the record that a subscriber likely has; returns its number.
    pub(super) fn prefetch_record(&self, inside: [u8; 4], pool: PoolId) -> Option<u32> {
        let number = self.index.guess(self.hash(inside, pool))?;
        prefetch_value(self.slab.get(number as usize)?);
        Some(number)
    }

    pub(super) fn record(&self, number: u32) -> Option<&Subscriber> {
        self.slab.get(number as usize)
    }

    pub(super) fn record_mut(&mut self, number: u32) -> Option<&mut Subscriber> {
        self.slab.get_mut(number as usize)
    }

    pub(super) fn insert(&mut self, subscriber: Subscriber) -> Option<u32> {
        let number = match self.free.pop() {
            Some(number) => {
                *self.slab.get_mut(number as usize)? = subscriber;
                number
            }
            None if self.slab.len() < self.capacity => {
                self.slab.push(subscriber);
                (self.slab.len() - 1) as u32
            }
            None => return None,
        };
        if !self.index.insert(self.hash(subscriber.inside, subscriber.pool), number) {
            self.free.push(number);
            return None;
        }
        Some(number)
    }

    /// Forgets a subscriber if it has nothing any more.
    pub(super) fn forget_if_done(&mut self, number: u32) {
        let Some(subscriber) = self.record(number).filter(|subscriber| subscriber.is_done()) else { return };
        if self.index.remove(self.hash(subscriber.inside, subscriber.pool), number) {
            self.free.push(number);
        }
    }

    /// Counts a port in or out.
    pub(super) fn count(&mut self, number: u32, class: Class, taken: bool) {
        let Some(subscriber) = self.slab.get_mut(number as usize) else { return };
        let had: u32 = subscriber.ports.iter().sum();
        let Some(ports) = subscriber.ports.get_mut(class.index()) else { return };
        if taken {
            *ports += 1;
            self.active += usize::from(had == 0);
        } else if *ports > 0 {
            *ports -= 1;
            self.active -= usize::from(had == 1);
        }
    }

    /// Subscribers with a port in use.
    pub(super) fn active(&self) -> usize {
        self.active
    }

    /// Every subscriber there is, by number.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> + use<> {
        0..self.slab.len() as u32
    }
}

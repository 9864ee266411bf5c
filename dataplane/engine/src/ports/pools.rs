//! Pools and their addresses, numbered; which of the addresses have blocks left.

use super::blocks::Blocks;
use super::geometry::{BLOCK_WORDS, Geometry};
use crate::keyed::Keyed;
use core::hash::BuildHasher;
use turnpike_abi::flow::NONE;
use turnpike_abi::table::PoolRecord;
use turnpike_abi::{PoolId, WorkerId};

/// Addresses that follow each other in a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u32,
    pub(super) last: u32,
    /// Number of the first one. Those of a pool follow each other.
    pub(super) base: u32,
    pub(super) pool: PoolId,
}

/// A pool.
#[derive(Clone, Debug)]
pub(super) struct PoolState {
    pub(super) record: PoolRecord,
    pub(super) geometry: Geometry,
    /// Number of its first address, and how many it has.
    base: u32,
    size: u32,
    /// Addresses that have a block on offer, in no order: what a new subscriber gets is found without a walk.
    open: Vec<u32>,
}

impl PoolState {
    /// Address and block that RFC 7422 computes for an inside address.
    pub(super) fn computed(&self, inside: [u8; 4], worker: WorkerId) -> Option<(u32, u16)> {
        let place = self.geometry.plan.as_ref()?.forward(inside)?;
        (place.worker == worker && place.address < self.size)
            .then_some((self.base + place.address, place.range))
    }

    /// The address of a new subscriber: the computed one, the one its own address chooses, or any that has a block of
    /// those that fit.
    pub(super) fn address_for(
        &self,
        inside: [u8; 4],
        blocks: &Blocks,
        keyed: Keyed,
        random: u64,
        fitting: &[u64; BLOCK_WORDS],
    ) -> Option<u32> {
        if let Some(plan) = &self.geometry.plan
            && let Some(place) = plan.forward(inside)
        {
            return Some(self.base + place.address);
        }
        let hash = keyed.hash_one(inside);
        let preferred = self.base + hash.checked_rem(self.size.into())? as u32;
        let has = |address| {
            blocks.taken(address).is_some_and(|taken| self.geometry.choose(taken, fitting, 0).is_some())
        };
        if has(preferred) { Some(preferred) } else { self.any_open(random, has) }
    }

    /// Any address that has a block on offer, if it is as it has to be.
    pub(super) fn any_open(&self, random: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        let (before, from) = self.open.split_at_checked((random % self.open.len().max(1) as u64) as usize)?;
        from.iter().chain(before).copied().find(|&address| is(address))
    }
}

/// All pools, and all their addresses.
#[derive(Debug, Default)]
pub(super) struct Pools {
    states: Vec<PoolState>,
    /// By first address.
    ranges: Vec<Range>,
    /// By number.
    addresses: Vec<AddressState>,
}

/// The pools of another policy, beside those there are.
#[derive(Debug)]
pub(crate) struct Coming {
    pub(super) pools: Pools,
    /// By pool: it is cut into the same blocks.
    alike: Vec<bool>,
    /// More differs than limits and times.
    pub(crate) moves: bool,
}

impl Coming {
    /// The number that an external address of a pool will have, if its ports stay where they are.
    pub(super) fn stays(&self, external: [u8; 4], was: PoolId) -> Option<u32> {
        let (is, pool) = self.pools.number(external)?;
        (pool == was && self.alike.get(was.index()) == Some(&true)).then_some(is)
    }
}

#[derive(Clone, Copy, Debug)]
struct AddressState {
    external: [u8; 4],
    pool: PoolId,
    /// Blocks on offer that nobody has.
    free: u16,
    /// Place in `open`, while there are any.
    place: u32,
}

impl Pools {
    pub(super) fn new(records: &[(PoolRecord, Vec<(u32, u32)>)], worker: WorkerId, workers: u8) -> Self {
        let mut pools = Self::default();
        for (id, (record, ranges)) in (0..).map(PoolId).zip(records) {
            let base = pools.addresses.len() as u32;
            let size: u32 = ranges.iter().map(|(first, last)| last - first + 1).sum();
            let geometry = Geometry::new(record, size, worker, workers);
            let free = geometry.offered;
            let mut ranges = ranges.clone();
            ranges.sort_unstable();
            for (first, last) in ranges {
                pools.ranges.push(Range { first, last, base: pools.addresses.len() as u32, pool: id });
                pools.addresses.extend((first..=last).map(|address| AddressState {
                    external: address.to_be_bytes(),
                    pool: id,
                    free,
                    place: NONE,
                }));
            }
            let mut open = Vec::with_capacity(size as usize);
            if free > 0 {
                for (place, number) in (0u32..).zip(base..base + size) {
                    open.push(number);
                    if let Some(address) = pools.addresses.get_mut(number as usize) {
                        address.place = place;
                    }
                }
            }
            pools.states.push(PoolState { record: *record, geometry, base, size, open });
        }
        pools.ranges.sort_unstable_by_key(|range| range.first);
        pools
    }

    /// What becomes of these pools when others come.
    pub(super) fn coming(&self, pools: Self) -> Coming {
        let pairs = self.states.iter().zip(&pools.states);
        let alike: Vec<_> = pairs.map(|(mine, new)| mine.geometry == new.geometry).collect();
        let moves = self.ranges != pools.ranges
            || self.states.len() != pools.states.len()
            || alike.iter().any(|alike| !alike);
        Coming { pools, alike, moves }
    }

    /// Takes over limits and times.
    pub(super) fn adjust(&mut self, other: &Self) {
        for (mine, new) in self.states.iter_mut().zip(&other.states) {
            mine.record = new.record;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.addresses.len()
    }

    /// How many blocks an address has at most.
    pub(super) fn blocks(&self) -> usize {
        self.states.iter().map(|state| usize::from(state.geometry.blocks())).max().unwrap_or(0)
    }

    pub(super) fn state(&self, pool: PoolId) -> Option<&PoolState> {
        self.states.get(pool.index())
    }

    /// Number and pool of an address.
    pub(super) fn number(&self, external: [u8; 4]) -> Option<(u32, PoolId)> {
        let address = u32::from_be_bytes(external);
        let at = self.ranges.partition_point(|range| range.first <= address).checked_sub(1)?;
        let range = self.ranges.get(at)?;
        (address <= range.last).then_some((range.base + (address - range.first), range.pool))
    }

    pub(super) fn external(&self, address: u32) -> Option<[u8; 4]> {
        self.addresses.get(address as usize).map(|address| address.external)
    }

    pub(super) fn pool_of(&self, address: u32) -> Option<PoolId> {
        self.addresses.get(address as usize).map(|address| address.pool)
    }

    /// The pool of an address.
    pub(super) fn of_address(&self, address: u32) -> Option<&PoolState> {
        self.state(self.pool_of(address)?)
    }

    /// Notes that a block was taken.
    pub(super) fn block_taken(&mut self, number: u32, block: u16) {
        let Some(address) = self.addresses.get_mut(number as usize) else { return };
        let Some(state) = self.states.get_mut(address.pool.index()) else { return };
        if !state.geometry.on_offer(block) {
            return;
        }
        address.free -= 1;
        if address.free == 0 {
            let hole = core::mem::replace(&mut address.place, NONE);
            state.open.swap_remove(hole as usize);
            let moved = state.open.get(hole as usize).copied();
            if let Some(moved) = moved.and_then(|moved| self.addresses.get_mut(moved as usize)) {
                moved.place = hole;
            }
        }
    }

    /// Notes that a block is free again.
    pub(super) fn block_free(&mut self, number: u32, block: u16) {
        let Some(address) = self.addresses.get_mut(number as usize) else { return };
        let Some(state) = self.states.get_mut(address.pool.index()) else { return };
        if !state.geometry.on_offer(block) {
            return;
        }
        address.free += 1;
        if address.free == 1 {
            address.place = state.open.len() as u32;
            state.open.push(number);
        }
    }
}

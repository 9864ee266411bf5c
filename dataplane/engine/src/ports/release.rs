//! Ports and blocks that are given back: held back for a while, then free.

use super::geometry::place_of;
use super::quarantine::Due;
use super::units::END;
use super::{Class, Entry, Ports};
use crate::Time;
use turnpike_abi::PoolId;
use turnpike_abi::command::Kind;
use turnpike_abi::flow::NONE;
use turnpike_shm::memory::prefetch_value;

/// Ports and blocks that are let go in one call.
const STEPS: usize = 64;

/// Where a port that is in use lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    address: u32,
    pub(crate) pool: PoolId,
    word: u16,
    bit: u8,
    pub(crate) class: Class,
    /// Its unit and its block's subscriber, or [`NONE`] as long as nobody looked for them.
    unit: u32,
    owner: u32,
}

impl Ports {
    /// Where a port lies that somebody has.
    pub(crate) fn place(&self, external: [u8; 4], class: Class, port: u16) -> Option<Place> {
        let (address, pool) = self.address(external)?;
        let (word, bit) = place_of(port, self.workers);
        Some(Place { address, pool, word, bit: bit as u8, class, unit: NONE, owner: NONE })
    }

    /// The slot of a port in use.
    fn slot_of(&self, place: &Place) -> Option<u32> {
        let known = (place.unit != NONE).then_some(place.unit);
        let unit = known.or_else(|| self.units.find(place.address, place.class, place.word))?;
        Some(unit * 64 + u32::from(place.bit))
    }

    fn block_of(&self, place: &Place) -> Option<u32> {
        self.units.unit(self.slot_of(place)?).map(|unit| unit.block)
    }

    /// Whose block a port in use lies in: [`NONE`] if it is nobody's.
    pub(crate) fn owner_of(&self, place: &Place) -> u32 {
        if place.owner != NONE {
            return place.owner;
        }
        let block = self.block_of(place).and_then(|block| self.blocks.record(block));
        block.map_or(NONE, |block| block.subscriber)
    }

    /// Says what a port in use stands for from now on.
    pub(crate) fn set_entry(&mut self, place: &Place, entry: Entry) {
        if let Some(slot) = self.slot_of(place) {
            self.units.set(slot, entry);
        }
    }

    /// First of four steps that bring the lines near which a port's release will need.
    pub(crate) fn prefetch_place(&self, place: &Place) {
        self.units.prefetch_directory(place.address, place.class, place.word);
    }

    /// Second step.
    pub(crate) fn prefetch_unit(&self, place: &mut Place) {
        if let Some(unit) = self.units.find(place.address, place.class, place.word) {
            place.unit = unit;
            self.units.prefetch_unit(unit * 64);
        }
    }

    /// Third step.
    pub(crate) fn prefetch_block_of(&self, place: &Place) {
        if let Some(block) = self.block_of(place) {
            self.blocks.prefetch(block);
        }
    }

    /// Fourth step.
    pub(crate) fn prefetch_owner_of(&self, place: &mut Place) {
        place.owner = self.owner_of(place);
        if let Some(subscriber) = self.subscribers.record(place.owner) {
            prefetch_value(subscriber);
        }
    }

    /// Gives a port back that a subscriber had; it is held back as long as its pool says.
    pub(crate) fn release(&mut self, subscriber: u32, external: [u8; 4], class: Class, port: u16) {
        self.release_at(subscriber, class, self.place(external, class, port).as_ref());
    }

    /// As [`Ports::release`], for a caller who knows where the port lies: nowhere, if its address left the pool.
    pub(crate) fn release_at(&mut self, subscriber: u32, class: Class, place: Option<&Place>) {
        self.subscribers.count(subscriber, class, false);
        if let Some(place) = place {
            self.release_place(place);
        }
        self.subscribers.forget_if_done(subscriber);
    }

    /// Gives a port back that was nobody's.
    pub(super) fn release_port(&mut self, external: [u8; 4], class: Class, port: u16) {
        if let Some(place) = self.place(external, class, port) {
            self.release_place(&place);
        }
    }

    fn release_place(&mut self, place: &Place) {
        let (now_s, &Place { pool, class, .. }) = (self.now_s(), place);
        let Some(slot) = self.slot_of(place) else { return };
        if matches!(self.units.entry_of(slot), Entry::Free | Entry::Cooling) {
            return;
        }
        let Some(state) = self.pools.state(pool) else { return };
        let record = &state.record;
        let seconds = if class == Class::Tcp { record.quarantine_tcp } else { record.quarantine };
        let full = self.quarantine.held >= record.quarantine_ports.min(self.quarantine.most);
        let block = self.units.unit(slot).map_or(NONE, |unit| unit.block);
        if let Some(block) = self.blocks.record_mut(block) {
            block.freed_s = now_s;
        }
        if seconds > 0 && !full {
            let next = self.quarantine.hold(slot, now_s + u32::from(seconds) + 1);
            self.units.chain(slot, next);
        } else {
            self.tally.skipped += u64::from(seconds > 0);
            self.free_slot(slot);
        }
    }

    /// Makes a port free at once.
    pub(super) fn free_slot(&mut self, slot: u32) {
        let Some(unit) = self.units.unit(slot) else { return };
        let (block, word, class, bit) = (unit.block, unit.word, unit.class, slot % 64);
        let (Some(class), Some(record)) = (Class::of_index(class), self.blocks.record(block)) else { return };
        let address = record.address;
        self.units.free(address, slot);
        let Some(pool) = self.pools.pool_of(address) else { return };
        let eligible = self.pools.state(pool).map_or(0, |state| state.geometry.eligible(word));
        let Some(record) = self.blocks.record_mut(block) else { return };
        record.busy -= 1;
        let idle = record.busy == 0;
        if eligible >> bit & 1 == 1 {
            if let Some(full) = record.full.get_mut(class.index()) {
                *full &= !(1 << (word - record.first_word));
            }
            if let Some(free) = record.free.get_mut(class.index()) {
                *free += 1;
                if *free == 1 {
                    self.blocks.link(&mut self.subscribers, block, class);
                }
            }
        }
        if idle {
            self.block_idle(block);
        }
    }

    /// Frees ports whose time is over, at most `most` and none behind a block that is over before them: first all lines
    /// that this needs are asked for. Returns how many.
    fn free_held(&mut self, most: usize) -> usize {
        let now_s = self.now_s();
        let mut held = [END; STEPS];
        let mut count = 0;
        self.quarantine.coming().iter().for_each(|&slot| self.units.prefetch_unit(slot));
        for place in held.iter_mut().take(most) {
            let Some(Due::Port(slot)) = self.quarantine.due(now_s) else { break };
            let next = self.units.chained(slot);
            self.quarantine.pop_port(next);
            self.units.prefetch_unit(next);
            *place = slot;
            count += 1;
        }
        let held = held.get(..count).unwrap_or_default();
        let units = || held.iter().filter_map(|&slot| self.units.unit(slot));
        units().for_each(|unit| self.blocks.prefetch(unit.block));
        for unit in units() {
            if let (Some(block), Some(class)) = (self.blocks.record(unit.block), Class::of_index(unit.class))
            {
                self.units.prefetch_directory(block.address, class, unit.word);
                if let Some(subscriber) = self.subscribers.record(block.subscriber) {
                    prefetch_value(subscriber);
                }
            }
        }
        held.iter().for_each(|&slot| self.free_slot(slot));
        count
    }

    /// A block without a port in use goes back when its time is over (RFC 7768 section 2, RFC 6888 REQ-8).
    pub(super) fn block_idle(&mut self, block: u32) {
        let now_s = self.now_s();
        let Some(record) = self.blocks.record(block).filter(|record| record.busy == 0) else { return };
        let (freed_s, hangs) = (record.freed_s, record.hangs);
        let state = self.pools.pool_of(record.address).and_then(|pool| self.pools.state(pool));
        let seconds = state.map_or(0, |state| u32::from(state.record.quarantine));
        let due_s = freed_s + seconds + u32::from(seconds > 0);
        if due_s <= now_s {
            if !hangs {
                self.release_block(block);
            }
        } else if !hangs {
            let next = core::mem::replace(self.quarantine.block_chain(due_s), block);
            if let Some(record) = self.blocks.record_mut(block) {
                (record.next, record.hangs) = (next, true);
            }
        }
    }

    fn release_block(&mut self, block: u32) {
        let Some(&record) = self.blocks.record(block) else { return };
        self.note_block(Kind::PORTS_RELEASED, block);
        for class in Class::ALL {
            if record.free.get(class.index()).is_some_and(|free| *free > 0) {
                self.blocks.unlink(&mut self.subscribers, block, class);
            }
        }
        self.blocks.give_back(block);
        self.pools.block_free(record.address, record.number);
        if let Some(subscriber) = self.subscribers.record_mut(record.subscriber) {
            subscriber.blocks -= 1;
            self.tally.released += 1;
            self.subscribers.forget_if_done(record.subscriber);
        }
    }

    /// Lets go of ports and blocks whose time is over, in bounded steps.
    pub(crate) fn tick(&mut self, now: Time) {
        self.now = now;
        let mut left = STEPS;
        while left > 0 {
            match self.quarantine.due(self.now_s()) {
                Some(Due::Port(_)) => left -= self.free_held(left),
                Some(Due::Block(block)) => {
                    left -= 1;
                    let next = self.blocks.record(block).map_or(NONE, |record| record.next);
                    self.quarantine.pop_block(next);
                    if let Some(record) = self.blocks.record_mut(block) {
                        record.hangs = false;
                    }
                    self.block_idle(block);
                }
                None => break,
            }
        }
    }
}

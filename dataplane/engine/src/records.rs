//! What the operator wants logged, on its way to the event ring: it waits for room, and nobody waits for it.

use crate::outbox::Outbox;
use crate::pipeline::Worker;
use std::collections::VecDeque;
use turnpike_abi::command::{Kind, Slot};
use turnpike_abi::counters::Counter;
use turnpike_abi::table::SettingsRecord;

/// Records that may wait.
const ROOM: usize = 4096;

/// Records of one kind that wait.
#[derive(Debug)]
pub(crate) struct Records<T> {
    waiting: VecDeque<T>,
    wanted: bool,
    /// How many found no room.
    lost: u64,
}

impl<T> Records<T> {
    /// None is wanted.
    pub(crate) const fn new() -> Self {
        Self { waiting: VecDeque::new(), wanted: false, lost: 0 }
    }

    /// Begins or ceases to note. What waits is sent even so.
    pub(crate) fn want(&mut self, wanted: bool) {
        self.wanted = wanted;
        if wanted {
            self.waiting.reserve_exact(ROOM - self.waiting.len().min(ROOM));
        }
    }

    /// Whether [`Records::note`] does anything.
    pub(crate) const fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// Notes a record if such are wanted, or counts its loss.
    pub(crate) fn note(&mut self, record: T) {
        if !self.wanted {
        } else if self.waiting.len() < ROOM {
            self.waiting.push_back(record);
        } else {
            self.lost += 1;
        }
    }

    /// How many were lost.
    pub(crate) const fn lost(&self) -> u64 {
        self.lost
    }
}

impl<B> Worker<B> {
    /// Notes what a policy wants noted.
    pub(crate) fn want_records(&mut self, settings: &SettingsRecord) {
        self.ended.want(settings.flags & SettingsRecord::LOG_FLOWS != 0);
        self.bindings.ports.records.want(settings.flags & SettingsRecord::LOG_BLOCKS != 0);
    }

    /// Whether records wait.
    pub(crate) fn has_records(&self) -> bool {
        !self.ended.waiting.is_empty() || !self.bindings.ports.records.waiting.is_empty()
    }

    /// Sends records, at most `room` of them: those of ports before those of flows, which they outweigh.
    pub(crate) fn send_records(&mut self, room: usize, out: &mut Outbox<B>) {
        let room = room.min(out.events.capacity() - out.events.len());
        let before = out.events.len();
        let ports = &mut self.bindings.ports.records.waiting;
        let count = ports.len().min(room);
        for (kind, record) in ports.drain(..count) {
            out.events.push(Slot::new(kind, 0, &record));
        }
        let count = self.ended.waiting.len().min(room - count);
        for record in self.ended.waiting.drain(..count) {
            out.events.push(Slot::new(Kind::FLOW_ENDED, 0, &record));
        }
        self.counters.add(Counter::LogRecords, (out.events.len() - before) as u64);
    }

    /// Publishes what was lost.
    pub(crate) fn count_records(&mut self) {
        let lost = self.ended.lost() + self.bindings.ports.records.lost();
        self.counters.set(Counter::LogRecordsLost, lost);
    }
}

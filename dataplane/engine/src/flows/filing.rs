//! Where flows are filed, and how they are found.
//!
//! Packets coming in are looked for under a hash of their whole key, and so are those going out of a flow that is not
//! translated. Packets going out of one that stands for its binding ([`crate::bindings::sole`]) are looked for under a hash of
//! their source, so that one entry serves both: the first packet of another flow of that inside end finds the binding where
//! it looks for its own flow. The other translated flows of an end lie there too, for one look to find them, as long as they are few
//! and the bucket has room; else under their whole key. Where a source is looked for it is noted whether its bindings have records,
//! and with them such flows.

use super::Flows;
use super::keys::{Key4, Key6, answers_of, is_of6, key4, key4_of, key6_of, toward_of};
use crate::Time;
use crate::keyed::ports_of;
use turnpike_abi::event::Tuple;
use turnpike_abi::flow::{FlowRecord, Toward, flag};

/// Flows of an inside end that are filed by their source, unless they stand for their binding.
const KIN: u32 = 4;

/// That no flow has a tuple, and where one with it will be filed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Absent {
    pub(super) hash: u64,
}

/// Under which hashes a flow is filed, or to be filed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filing {
    /// Packets going out, by their source, if the flow is translated.
    pub(super) by_source: Option<u64>,
    /// Packets going out.
    pub(super) whole: u64,
    /// Packets coming in.
    pub(super) inward: u64,
}

impl Flows {
    /// Hashes of an IPv4 packet's key: by its source, and of all of it.
    #[inline(always)]
    pub(crate) fn hashes4(&self, key: Key4) -> (u64, u64) {
        self.hash.v4_by_source(key.addresses, key.ports, key.protocol)
    }

    /// The first of [`Flows::hashes4`], but for the lowest byte, of packets from an inside end.
    pub(crate) fn hash_of_source(&self, protocol: u8, [a, b, c, d]: [u8; 4], port: u16) -> u64 {
        let [high, low] = port.to_be_bytes();
        let addresses = u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0]);
        self.hashes4(Key4 { addresses, ports: u32::from_ne_bytes([high, low, 0, 0]), protocol }).0
    }

    /// Hash of all of an IPv4 packet's key.
    #[inline(always)]
    pub(crate) fn hash4(&self, key: Key4) -> u64 {
        self.hashes4(key).1
    }

    /// Asks for the bucket of packets that answer those of `key`, sent to an external endpoint. Returns their hash.
    #[inline(always)]
    pub(crate) fn prefetch_answers(&self, key: Key4, external: [u8; 4], port: u16) -> u64 {
        let hash = self.hash4(answers_of(key, (external, port)));
        self.prefetch_index(hash);
        hash
    }

    /// Whether packets from an inside end, whose hash by their source is `by_source`, may have a flow that is filed under
    /// their whole key.
    #[inline(always)]
    pub(crate) fn may_be_elsewhere(&self, by_source: u64) -> bool {
        self.routed > 0 || self.may_have_record(by_source)
    }

    /// Whether the binding of such packets may have a record. If not, none of that end's has.
    #[inline(always)]
    pub(crate) fn may_have_record(&self, by_source: u64) -> bool {
        self.index.is_noted(by_source)
    }

    /// Says that a binding of a pool has a record.
    pub(crate) fn note_record(&mut self, by_source: u64) {
        self.index.note(by_source);
    }

    /// Undoes one [`Flows::note_record`].
    pub(crate) fn forget_record(&mut self, by_source: u64) {
        self.index.forget(by_source);
    }

    /// The flow of packets with `tuple`, and their direction.
    pub(crate) fn find(&self, tuple: &Tuple) -> Option<(u32, Toward)> {
        self.search(tuple).ok()
    }

    /// As [`Flows::find`], for a caller who will open a flow if there is none.
    ///
    /// # Errors
    /// What that needs, if there is none.
    pub(crate) fn search(&self, tuple: &Tuple) -> Result<(u32, Toward), Absent> {
        key4(tuple).map_or_else(|| self.search_whole(tuple), |key| self.search4(key))
    }

    /// As [`Flows::search`], by the key of an IPv4 packet.
    fn search4(&self, key: Key4) -> Result<(u32, Toward), Absent> {
        let (by_source, hash) = self.hashes4(key);
        self.under4(by_source, key).or_else(|| self.under4(hash, key)).ok_or(Absent { hash })
    }

    /// As [`Flows::search`], for a packet that no flow sends out: to a pool address.
    ///
    /// # Errors
    /// What opening a flow needs, if there is none.
    pub(crate) fn search_whole(&self, tuple: &Tuple) -> Result<(u32, Toward), Absent> {
        let hash = self.hash.of(tuple);
        self.under(hash, tuple).ok_or(Absent { hash })
    }

    /// The flow of packets with `tuple` that is filed under `hash`.
    fn under(&self, hash: u64, tuple: &Tuple) -> Option<(u32, Toward)> {
        if let Some(key) = key4(tuple) {
            return self.under4(hash, key);
        }
        let key = Key6 {
            source: tuple.source.0,
            destination: tuple.destination.0,
            ports: ports_of(tuple),
            protocol: tuple.protocol,
        };
        let is = |number: u32| {
            self.records6.get((number >> 1) as usize).is_some_and(|record| is_of6(record, number, &key))
        };
        let number = self.index6.find(hash, is)?;
        Some(((number >> 1) + self.records.len() as u32, toward_of(number)))
    }

    /// The flow of IPv4 packets with `key`.
    pub(crate) fn find4(&self, key: Key4) -> Option<(u32, Toward)> {
        self.search4(key).ok()
    }

    /// The flow that stands for the binding of an inside end that packets with the hash `by_source` come from, if `is` says
    /// that it is that end's.
    #[inline(always)]
    pub(crate) fn of_source(&self, by_source: u64, is: impl Fn(&FlowRecord) -> bool) -> Option<u32> {
        let found = self.index.find_any(by_source, |number| {
            let record = self.records.get((number >> 1) as usize);
            record.is_some_and(|record| stands_for_binding(record) && is(record))
        });
        found.map(|number| number >> 1)
    }

    /// The flow of IPv4 packets with `key` that is filed under `hash`.
    #[inline(always)]
    pub(super) fn under4(&self, hash: u64, key: Key4) -> Option<(u32, Toward)> {
        let is = |number: u32| {
            let record = self.records.get((number >> 1) as usize);
            record.is_some_and(|record| key4_of(record, toward_of(number)) == key)
        };
        self.index.find(hash, is).map(|number| (number >> 1, toward_of(number)))
    }

    /// Files a flow that was written and hangs it on the wheel. `None`, and the number is free again, if there is no room in
    /// the index.
    #[inline(always)]
    pub(super) fn file(&mut self, number: u32, filing: &Filing, due: Time) -> Option<()> {
        let sole = self.record(number).is_some_and(stands_for_binding);
        let base = self.records.len() as u32;
        let (index, reference) = match number.checked_sub(base) {
            None => (&mut self.index, number << 1),
            Some(at) => (&mut self.index6, at << 1),
        };
        let outward = match filing.by_source {
            Some(by_source) if sole => index.insert(by_source, reference),
            Some(by_source) if index.insert_near(by_source, reference, KIN) => true,
            _ => index.insert(filing.whole, reference),
        };
        if !outward || !index.insert(filing.inward, reference | 1) {
            if outward {
                self.take_off(number, filing);
            }
            self.record_mut(number)?.mark(flag::LIVE, false);
            self.reclaim(number);
            return None;
        }
        self.wheel.insert(&mut self.cold, number, due);
        Some(())
    }

    /// Takes the entry of packets going out off the index: it has one of two, which have not the same tag. `false` if there
    /// was none.
    fn take_off(&mut self, number: u32, filing: &Filing) -> bool {
        match number.checked_sub(self.records.len() as u32) {
            None => {
                let by_source = filing.by_source.is_some_and(|hash| self.index.remove(hash, number << 1));
                by_source || self.index.remove(filing.whole, number << 1)
            }
            Some(at) => self.index6.remove(filing.whole, at << 1),
        }
    }

    /// Takes a flow off the index.
    pub(super) fn take_both_off(&mut self, number: u32, filing: &Filing) {
        let outward = self.take_off(number, filing);
        let inward = match number.checked_sub(self.records.len() as u32) {
            None => self.index.remove(filing.inward, number << 1 | 1),
            Some(at) => self.index6.remove(filing.inward, at << 1 | 1),
        };
        debug_assert!(outward && inward, "flow {number} was filed elsewhere");
    }

    /// Under which hashes a flow is filed. Asks for the lines where it may lie.
    pub(crate) fn filing(&self, flow: u32) -> Option<Filing> {
        let Some(at) = (flow as usize).checked_sub(self.records.len()) else {
            let record = self.records.get(flow as usize)?;
            let (by_source, whole) = self.hashes4(key4_of(record, Toward::Out));
            let by_source = record.has(flag::TRANSLATED).then_some(by_source);
            let inward = self.hash4(key4_of(record, Toward::In));
            by_source.iter().for_each(|&hash| self.index.prefetch(hash));
            if !stands_for_binding(record) {
                self.index.prefetch(whole);
            }
            self.index.prefetch(inward);
            return Some(Filing { by_source, whole, inward });
        };
        let record = self.records6.get(at)?;
        let [whole, inward] = [Toward::Out, Toward::In].map(|toward| self.hash6(&key6_of(record, toward)));
        [whole, inward].iter().for_each(|&hash| self.index6.prefetch(hash));
        Some(Filing { by_source: None, whole, inward })
    }
}

/// Whether a flow is live and stands for its binding, which has no record then.
#[inline(always)]
const fn stands_for_binding(record: &FlowRecord) -> bool {
    record.state & (flag::LIVE | flag::TRANSLATED | flag::LISTED) == flag::LIVE | flag::TRANSLATED
}

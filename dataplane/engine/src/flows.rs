//! The flow table: records of one cache line, and an index from either direction's tuple to the record.
//!
//! IPv4 and IPv6 flows have one space of numbers, IPv4 first, but records and indexes of their own. All memory
//! is taken at start; records lie in the worker's state file (`turnpike_abi::flow`).

mod filing;
mod keys;

pub(crate) use filing::{Absent, Filing};
pub(crate) use keys::{Key4, Key6, ends_of, remote_of};

use keys::{answers_of, is_of6, is_query, key4, key4_of, toward_of, tuples_of};

use crate::Time;
use crate::bindings::sole;
use crate::index::Index;
use crate::keyed::{Keyed, TupleHash};
use crate::translate::{Endpoint, Rewrite};
use crate::wheel::Wheel;
use turnpike_abi::counters::{ProtocolClass, TcpState};
use turnpike_abi::event::Tuple;
use turnpike_abi::flow::{
    CREATED_SHIFT, FlowCold, FlowRecord, FlowRecord6, FlowRow, NO_HOP, NO_INGRESS, NONE, StateHeader, Toward,
    flag,
};
use turnpike_shm::memory::{Array, Memory, prefetch_bytes, prefetch_value};
use turnpike_shm::state::StateArrays;
use turnpike_wire::checksum::Delta;

/// A flow to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewFlow {
    /// Packets from the end that opens it.
    pub(crate) forward: Tuple,
    /// What the search for `forward` found out.
    pub(crate) absent: Absent,
    /// Packets that answer those, as they arrive.
    pub(crate) reverse: Tuple,
    pub(crate) translated: bool,
    pub(crate) state: TcpState,
    /// Opened from an outside zone.
    pub(crate) inbound: bool,
    pub(crate) created: Time,
    pub(crate) last: Time,
    /// One that has a record, or [`NONE`].
    pub(crate) binding: u32,
}

/// A flow to be, of a subscriber's first IPv4 packet to the outside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Departing {
    pub(crate) key: Key4,
    /// The first of [`Flows::hashes4`].
    pub(crate) by_source: u64,
    pub(crate) external: ([u8; 4], u16),
    /// The hash of packets that answer, if it is known.
    pub(crate) answers: Option<u64>,
    pub(crate) state: TcpState,
    pub(crate) now: Time,
    /// The binding that its inside end had. If it had none the port was nobody's, so nothing can have been sent to it,
    /// and the flow is the sole one of its binding.
    pub(crate) binding: Option<u32>,
    /// Bytes of the first packet.
    pub(crate) length: u16,
    /// What the next packet needs for the fast path.
    pub(crate) epoch: u32,
    pub(crate) hop: u16,
    pub(crate) ingress: u8,
}

/// Flow numbers that may be given out: those given back, and those never used.
#[derive(Debug)]
struct Free {
    head: u32,
    fresh: u32,
    end: u32,
}

impl Free {
    fn new(numbers: core::ops::Range<usize>) -> Self {
        Self { head: NONE, fresh: numbers.start as u32, end: numbers.end as u32 }
    }

    fn is_empty(&self) -> bool {
        self.head == NONE && self.fresh == self.end
    }

    /// The number that is taken next.
    fn peek(&self) -> Option<u32> {
        match self.head {
            NONE => (self.fresh < self.end).then_some(self.fresh),
            number => Some(number),
        }
    }

    fn take(&mut self, cold: &[FlowCold]) -> Option<u32> {
        if self.head != NONE {
            let number = self.head;
            self.head = cold.get(number as usize)?.timer;
            return Some(number);
        }
        let number = self.fresh;
        (number < self.end).then(|| {
            self.fresh += 1;
            number
        })
    }

    fn put(&mut self, cold: &mut [FlowCold], number: u32) {
        if let Some(flow) = cold.get_mut(number as usize) {
            flow.timer = self.head;
            self.head = number;
        }
    }
}

/// The binding of a flow, and in its list the next and the previous flow plus one, 0 for none.
type Link = [u32; 3];

/// All flows of a worker.
#[derive(Debug)]
pub(crate) struct Flows {
    header: Array<StateHeader>,
    records: Array<FlowRecord>,
    records6: Array<FlowRecord6>,
    cold: Array<FlowCold>,
    /// Of the flows that are [`flag::LISTED`]. Of others, as most are, nothing is ever written here: zero pages stand
    /// for them.
    links: Vec<Link>,
    index: Index,
    index6: Index,
    hash: TupleHash,
    free: Free,
    free6: Free,
    pub(crate) wheel: Wheel,
    /// The one that flows hung on before all were to be looked at, and by when that is empty: until then.
    former: Wheel,
    former_until: Option<Time>,
    /// All are to be looked at once more.
    again: bool,
    /// Live flows that were opened from an outside zone, IPv4 and IPv6.
    inbound: [usize; 2],
    /// Live IPv4 flows that are not translated.
    routed: usize,
}

impl Flows {
    /// Bytes that the index of `flows` IPv4 and `flows_v6` IPv6 flows takes.
    pub(crate) const fn index_bytes(flows: usize, flows_v6: usize) -> usize {
        Index::bytes(2 * flows) + Index::bytes(2 * flows_v6)
    }

    /// Tables for as many flows as `header` says, in memory that others may read and memory that they may not.
    /// `None` if one of them is too small.
    pub(crate) fn new(
        header: StateHeader,
        keyed: Keyed,
        state: &mut Memory,
        index: &mut Memory,
    ) -> Option<Self> {
        let (flows, flows_v6) = (header.flows as usize, header.flows_v6 as usize);
        let StateArrays { header, records, records6, cold } = StateArrays::new(header, state)?;
        Some(Self {
            header,
            records,
            records6,
            cold,
            links: vec![[0; 3]; flows + flows_v6],
            index: Index::new(2 * flows, 2 * flows, index)?,
            index6: Index::new(2 * flows_v6, 2 * flows_v6, index)?,
            hash: TupleHash::new(keyed),
            free: Free::new(0..flows),
            free6: Free::new(flows..flows + flows_v6),
            wheel: Wheel::new(),
            former: Wheel::new(),
            former_until: None,
            again: false,
            inbound: [0; 2],
            routed: 0,
        })
    }

    /// Tells readers and the next process which moment of the wall clock 0 of this worker's is.
    pub(crate) fn set_clock_base(&mut self, clock_base: u64) {
        if let Some(header) = self.header.first_mut() {
            header.clock_base = clock_base;
        }
    }

    /// Asks for the line where a search for `hash` begins.
    #[inline(always)]
    pub(crate) fn prefetch_index(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    /// Asks for what lies behind the bucket of a hash if that is full.
    #[inline(always)]
    pub(crate) fn prefetch_overflow(&self, hash: u64) {
        self.index.prefetch_overflow(hash);
    }

    /// The flow that a packet is likely of, and its direction; asks for its record.
    #[inline(always)]
    pub(crate) fn guess4(&self, hash: u64) -> Option<u32> {
        let number = self.index.guess(hash)?;
        self.records.prefetch((number >> 1) as usize);
        Some(number)
    }

    /// The record that [`Flows::guess4`] meant, if it is `key`'s.
    #[inline(always)]
    pub(crate) fn confirm4(&mut self, number: u32, key: Key4) -> Option<(&mut FlowRecord, Toward)> {
        let toward = toward_of(number);
        let record = self.records.get_mut((number >> 1) as usize)?;
        (record.has(flag::LIVE) && key4_of(record, toward) == key).then_some((record, toward))
    }

    /// As [`Flows::prefetch_index`], for IPv6.
    #[inline(always)]
    pub(crate) fn prefetch_index6(&self, hash: u64) {
        self.index6.prefetch(hash);
    }

    /// Hash of an IPv6 packet's key.
    #[inline(always)]
    pub(crate) fn hash6(&self, key: &Key6) -> u64 {
        self.hash.v6(key.source, key.destination, key.ports, key.protocol)
    }

    /// As [`Flows::guess4`], for IPv6.
    #[inline(always)]
    pub(crate) fn guess6(&self, hash: u64) -> Option<u32> {
        let number = self.index6.guess(hash)?;
        self.records6.prefetch((number >> 1) as usize);
        if let Some(record) = self.records6.get((number >> 1) as usize) {
            prefetch_bytes(&record.inside);
        }
        Some(number)
    }

    /// As [`Flows::confirm4`], for IPv6.
    #[inline(always)]
    pub(crate) fn confirm6(&mut self, number: u32, key: &Key6) -> Option<(&mut FlowRecord, Toward)> {
        let record = self.records6.get_mut((number >> 1) as usize)?;
        (record.head.has(flag::LIVE) && is_of6(record, number, key))
            .then_some((&mut record.head, toward_of(number)))
    }

    /// A live flow, or one that waits for its timer.
    pub(crate) fn record(&self, flow: u32) -> Option<&FlowRecord> {
        match (flow as usize).checked_sub(self.records.len()) {
            None => self.records.get(flow as usize),
            Some(at) => self.records6.get(at).map(|record| &record.head),
        }
    }

    pub(crate) fn record_mut(&mut self, flow: u32) -> Option<&mut FlowRecord> {
        match (flow as usize).checked_sub(self.records.len()) {
            None => self.records.get_mut(flow as usize),
            Some(at) => self.records6.get_mut(at).map(|record| &mut record.head),
        }
    }

    pub(crate) fn cold(&self, flow: u32) -> Option<&FlowCold> {
        self.cold.get(flow as usize)
    }

    /// The binding of a live flow, or [`NONE`].
    pub(crate) fn binding(&self, flow: u32) -> u32 {
        match self.record(flow) {
            Some(record) if record.has(flag::LISTED) => {
                self.links.get(flow as usize).map_or(NONE, |[binding, ..]| *binding)
            }
            Some(record) if record.has(flag::TRANSLATED) => sole::binding_of(flow),
            _ => NONE,
        }
    }

    /// Says that the binding of a flow has a record, in whose list the flow is.
    pub(crate) fn set_binding(&mut self, flow: u32, binding: u32) {
        if let Some(link) = self.links.get_mut(flow as usize) {
            *link = [binding, 0, 0];
        }
        if let Some(record) = self.record_mut(flow) {
            record.mark(flag::LISTED, true);
        }
    }

    /// The number that the next IPv4 flow gets.
    pub(crate) fn next_number(&self) -> Option<u32> {
        self.free.peek()
    }

    /// The flow after this one in its binding's list, or [`NONE`].
    pub(crate) fn next(&self, flow: u32) -> u32 {
        let listed = self.record(flow).is_some_and(|record| record.has(flag::LISTED));
        self.links.get(flow as usize).filter(|_| listed).map_or(NONE, |[_, next, _]| next.wrapping_sub(1))
    }

    /// Puts a flow before the first one of its binding's list.
    pub(crate) fn link(&mut self, flow: u32, first: u32) {
        if let Some([.., previous]) = self.links.get_mut(first as usize) {
            *previous = flow + 1;
            if let Some([_, next, _]) = self.links.get_mut(flow as usize) {
                *next = first + 1;
            }
        }
    }

    /// Takes a flow out of its list. Returns the one after it, or [`NONE`].
    pub(crate) fn unlink(&mut self, flow: u32) -> u32 {
        let Some(&[_, next, previous]) = self.links.get(flow as usize) else { return NONE };
        let (after, before) = (next.wrapping_sub(1), previous.wrapping_sub(1));
        if let Some(link) = self.links.get_mut(after as usize) {
            link[2] = previous;
        }
        if let Some(link) = self.links.get_mut(before as usize) {
            link[1] = next;
        }
        after
    }

    /// Whether another flow of the family fits. Those from outside get half of the table, so that nobody out
    /// there can keep subscribers from opening theirs.
    pub(crate) fn has_room(&self, inbound: bool, v4: bool) -> bool {
        let [of_v4, of_v6] = self.inbound;
        let (free, count, capacity) = if v4 {
            (&self.free, of_v4, self.records.len())
        } else {
            (&self.free6, of_v6, self.records6.len())
        };
        !free.is_empty() && (!inbound || count < capacity.div_ceil(2))
    }

    /// Puts a flow into the table and on the wheel. `None` if there is no room or its reverse tuple is taken.
    pub(crate) fn insert(&mut self, flow: &NewFlow, due: Time) -> Option<u32> {
        let (forward, reverse) = ((flow.absent.hash, &flow.forward), self.search(&flow.reverse).err()?);
        let reverse = (reverse.hash, &flow.reverse);
        let ((whole, out), (hash_in, inward)) =
            if flow.inbound { (reverse, forward) } else { (forward, reverse) };
        let v4 = out.source.is_v4() && out.destination.is_v4();
        let by_source = key4(out).filter(|_| flow.translated).map(|key| self.hashes4(key).0);
        let filing = Filing { by_source, whole, inward: hash_in };
        let free = if v4 { &mut self.free } else { &mut self.free6 };
        let number = free.take(&self.cold)?;
        // The next one will be needed soon.
        self.cold.prefetch(free.head as usize);
        self.records.prefetch(free.head as usize);
        self.write(number, flow, out, inward);
        self.file(number, &filing, due)?;
        if let Some(count) = self.inbound.get_mut(usize::from(!v4)) {
            *count += usize::from(flow.inbound);
        }
        self.routed += usize::from(v4 && !flow.translated);
        Some(number)
    }

    /// As [`Flows::insert`], for a flow that begins as nearly all do, and with its first packet counted.
    #[inline(always)]
    pub(crate) fn insert_departing(&mut self, flow: &Departing, due: Time) -> Option<u32> {
        let answers = answers_of(flow.key, flow.external);
        let hash_in = flow.answers.unwrap_or_else(|| self.hash4(answers));
        if flow.binding.is_some() && self.under4(hash_in, answers).is_some() {
            return None;
        }
        let number = self.free.take(&self.cold)?;
        self.cold.prefetch(self.free.head as usize);
        self.records.prefetch(self.free.head as usize);
        let cold = self.cold.get_mut(number as usize)?;
        cold.created = (flow.now.0 >> CREATED_SHIFT) as u32;
        let [a, b, c, d, e, f, g, h] = flow.key.addresses.to_ne_bytes();
        let [m, n, o, p] = flow.key.ports.to_ne_bytes();
        let ([i, j, k, l], port) = flow.external;
        let [q, r] = port.to_be_bytes();
        let ip = Delta::address([a, b, c, d], [i, j, k, l]);
        let record = self.records.get_mut(number as usize)?;
        record.open();
        (record.bytes, record.packets) = ([flow.length.into(), 0], [1, 0]);
        (record.stamp, record.epoch) = (flow.now.0 as u32, flow.epoch);
        (record.hops, record.ingress) = ([flow.hop, NO_HOP], [flow.ingress, NO_INGRESS]);
        record.ip_delta = ip.to_bits();
        record.l4_delta = ip.and(Delta::word(u16::from_be_bytes([m, n]), port)).to_bits();
        record.protocol = flow.key.protocol;
        record.state = flag::LIVE | flag::TRANSLATED | flow.state.index() as u8;
        record.addresses = [a, b, c, d, e, f, g, h, i, j, k, l];
        record.ports = [m, n, o, p, q, r];
        record.close();
        let mut filing = Filing { by_source: Some(flow.by_source), whole: 0, inward: hash_in };
        if let Some(binding) = flow.binding {
            self.set_binding(number, binding);
            filing.whole = self.hash4(flow.key);
        }
        self.file(number, &filing, due)?;
        Some(number)
    }

    fn write(&mut self, number: u32, flow: &NewFlow, out: &Tuple, inward: &Tuple) {
        if let Some(cold) = self.cold.get_mut(number as usize) {
            cold.created = (flow.created.0 >> CREATED_SHIFT) as u32;
        }
        let query = is_query(out.protocol);
        let external_port = if query { inward.source_port } else { inward.destination_port };
        let Some(record) = self.record_mut(number) else { return };
        record.open();
        record.bytes = [0; 2];
        record.packets = [0; 2];
        record.stamp = flow.last.0 as u32;
        record.hops = [NO_HOP; 2];
        record.ingress = [NO_INGRESS; 2];
        record.protocol = out.protocol;
        record.state = flag::LIVE | flow.state.index() as u8;
        record.mark(flag::INBOUND, flow.inbound);
        record.mark(flag::TRANSLATED, flow.translated);
        let ends = (out.source.to_v4(), out.destination.to_v4(), inward.destination.to_v4());
        if let (Some(inside), Some(remote), Some(external)) = ends {
            let ip = Delta::bytes(&inside, &external);
            record.ip_delta = ip.to_bits();
            record.l4_delta = ip.and(Delta::word(out.source_port, external_port)).to_bits();
            let ([a, b, c, d], [e, f, g, h], [i, j, k, l]) = (inside, remote, external);
            record.addresses = [a, b, c, d, e, f, g, h, i, j, k, l];
        } else {
            (record.ip_delta, record.l4_delta, record.addresses) = (0, 0, [0; 12]);
        }
        let ports = [out.source_port, out.destination_port, external_port];
        let [[a, b], [c, d], [e, f]] = ports.map(u16::to_be_bytes);
        record.ports = [a, b, c, d, e, f];
        let at = (number as usize).checked_sub(self.records.len());
        if let Some(record) = at.and_then(|at| self.records6.get_mut(at)) {
            (record.inside, record.remote) = (out.source.0, out.destination.0);
        }
        if let Some(record) = self.record_mut(number) {
            record.close();
        }
        if flow.binding != NONE {
            self.set_binding(number, flow.binding);
        }
    }

    /// Asks for a flow's record.
    pub(crate) fn prefetch(&self, flow: u32) {
        let Some(at) = (flow as usize).checked_sub(self.records.len()) else {
            return self.records.prefetch(flow as usize);
        };
        if let Some(record) = self.records6.get(at) {
            prefetch_value(&record.head);
            prefetch_bytes(&record.inside);
        }
    }

    /// Takes a flow off the index. Its record is free once the wheel has let go of it: [`Flows::reclaim`].
    pub(crate) fn end(&mut self, flow: u32, filing: &Filing) {
        let Some(record) = self.record_mut(flow).filter(|record| record.has(flag::LIVE)) else { return };
        record.open();
        record.mark(flag::LIVE, false);
        record.close();
        let (inbound, translated) = (record.has(flag::INBOUND), record.has(flag::TRANSLATED));
        let v6 = flow as usize >= self.records.len();
        self.routed -= usize::from(!v6 && !translated);
        if let Some(count) = self.inbound.get_mut(usize::from(v6)) {
            *count -= usize::from(inbound);
        }
        self.take_both_off(flow, filing);
    }

    /// Frees the record of an ended flow that no longer hangs on the wheel.
    pub(crate) fn reclaim(&mut self, flow: u32) {
        let v4 = (flow as usize) < self.records.len();
        let free = if v4 { &mut self.free } else { &mut self.free6 };
        free.put(&mut self.cold, flow);
    }

    /// Hangs a flow up again, to be looked at when `due`.
    pub(crate) fn look_again(&mut self, flow: u32, due: Time) {
        self.wheel.insert(&mut self.cold, flow, due);
    }

    /// The next flow whose timer has come; it hangs no longer.
    pub(crate) fn pop_due(&mut self, now: Time) -> Option<u32> {
        self.wheel.pop(&self.cold, now)
    }

    /// Has every flow looked at soon ([`Flows::pop_former`]), not when its timer comes: timeouts became shorter, or what
    /// waits for its timer takes room.
    pub(crate) fn look_at_all(&mut self) {
        if self.former_until.is_some() {
            self.again = true;
            return;
        }
        core::mem::swap(&mut self.wheel, &mut self.former);
        self.former_until = Some(self.wheel.go_on(&self.former));
    }

    /// The next flow that is to be looked at before its time; it hangs no longer.
    pub(crate) fn pop_former(&mut self) -> Option<u32> {
        let flow = self.former.pop(&self.cold, self.former_until?);
        if flow.is_none() {
            self.former_until = None;
            if core::mem::take(&mut self.again) {
                self.look_at_all();
            }
        }
        flow
    }

    /// Tuples of packets going out and coming in, as they arrive.
    pub(crate) fn tuples(&self, flow: u32) -> Option<(Tuple, Tuple)> {
        let record = self.record(flow)?;
        let at = (flow as usize).checked_sub(self.records.len());
        Some(tuples_of(record, at.and_then(|at| self.records6.get(at))))
    }

    /// A flow as it is shown.
    pub(crate) fn row(&self, flow: u32, now: Time) -> Option<FlowRow> {
        let at = (flow as usize).checked_sub(self.records.len());
        let ends = at.and_then(|at| self.records6.get(at)).map(|record| (record.inside, record.remote));
        Some(FlowRow::new(flow, self.record(flow)?, ends, self.cold(flow)?, now.0))
    }

    /// What to do to packets of one direction.
    pub(crate) fn rewrite(&self, flow: u32, toward: Toward) -> Rewrite {
        let Some(record) = self.record(flow).filter(|record| record.has(flag::TRANSLATED)) else {
            return Rewrite::None;
        };
        let [a, b, c, d, _, _, _, _, i, j, k, l] = record.addresses;
        let [m, n, _, _, o, p] = record.ports;
        let (inside, external) = (u16::from_be_bytes([m, n]), u16::from_be_bytes([o, p]));
        let delta = Delta::from_bits(record.ip_delta);
        match toward {
            Toward::Out => Rewrite::Source(Endpoint::new(inside, ([i, j, k, l], external), delta)),
            Toward::In => {
                Rewrite::Destination(Endpoint::new(external, ([a, b, c, d], inside), delta.inverse()))
            }
        }
    }

    /// Live flows among the `most` places from `cursor` on, with their places and numbers. Places are the
    /// numbers ever used, without a gap.
    pub(crate) fn walk(&self, cursor: usize, most: usize) -> impl Iterator<Item = (usize, u32)> + '_ {
        let places = cursor..cursor.saturating_add(most).min(self.places());
        places.filter_map(|place| self.at(place).map(|number| (place, number)))
    }

    /// The live flow at a place.
    pub(crate) fn at(&self, place: usize) -> Option<u32> {
        let used = self.free.fresh as usize;
        let number = if place < used { place } else { self.records.len() + (place - used) } as u32;
        self.record(number).filter(|record| record.has(flag::LIVE)).map(|_| number)
    }

    /// Places there are to walk over.
    pub(crate) fn places(&self) -> usize {
        self.free.fresh as usize + (self.free6.fresh as usize - self.records.len())
    }
}

/// What is in force for a protocol's flows: which timeout, which table of ports.
pub(crate) const fn class_of_record(record: &FlowRecord) -> ProtocolClass {
    crate::bindings::class_of(record.protocol)
}

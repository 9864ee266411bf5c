//! The end of flows: timers that come due, and what a flow leaves behind.
//!
//! Flows whose time has come end as packets pass: a batch moves through stages, each of which asks for the lines of
//! memory that the next one reads. What a stage learns holds until the last one: nobody else writes, and the end of
//! one flow changes nothing that another's stages looked at.

use crate::bindings::{Entries, sole};
use crate::flows::{Filing, Flows, class_of_record};
use crate::pipeline::{Tables, Worker};
use crate::ports::Place;
use crate::{Buffer, Time, tcp};
use turnpike_abi::counters::{Counter, FlowEnd, ProtocolClass, TcpState};
use turnpike_abi::event::FlowEnded;
use turnpike_abi::flow::{FlowRecord, NONE, flag};
use turnpike_abi::table::SettingsRecord;

/// Flows that the timers look at in one call, and when they are behind by more than two of their slots.
const VISITS: usize = 64;
const VISITS_BEHIND: usize = 256;
const BEHIND_MS: u64 = 256;
/// Flows that end together.
const BATCH: usize = 64;
const _: () = assert!(VISITS.is_multiple_of(BATCH) && VISITS_BEHIND.is_multiple_of(BATCH));

/// A flow on its way through the stages.
#[derive(Clone, Copy)]
struct Ending {
    flow: u32,
    binding: u32,
    /// Nothing if it has ended already and its timer finds it so.
    why: Option<(FlowEnd, Filing)>,
    /// Of its binding, if that may end with it: where it is filed if it has a record, and its port.
    entries: Option<Entries>,
    place: Option<Place>,
}

impl Ending {
    const NONE: Self = Self { flow: NONE, binding: NONE, why: None, entries: None, place: None };
}

impl<B: Buffer> Worker<B> {
    /// Ends a flow, and its binding with its last flow unless that is a pinhole.
    pub(crate) fn end_flow(&mut self, number: u32, why: FlowEnd) {
        if let Some(filing) = self.flows.filing(number) {
            self.end_filed(number, (why, &filing), (None, None));
        }
    }

    /// As [`Worker::end_flow`], where it is known where the flow lies, and perhaps where its binding does.
    fn end_filed(
        &mut self,
        number: u32,
        (why, filing): (FlowEnd, &Filing),
        (entries, place): (Option<&Entries>, Option<&Place>),
    ) {
        let now = self.now;
        let Some(flow) = self.flows.record(number).filter(|flow| flow.has(flag::LIVE)) else { return };
        let (class, state, binding) = (class_of_record(flow), flow.tcp_state(), self.flows.binding(number));
        let idle = flow.idle_ms(now.0);
        let sole = sole::flow_of(binding).is_some();
        if binding != NONE && !sole {
            let asked = self.bindings.asks_for_remotes(binding);
            let remote = asked.then(|| self.remote_of(number)).flatten();
            self.bindings.flow_ended(binding, remote);
        }
        if self.ended.is_wanted()
            && let Some(row) = self.flows.row(number, now)
        {
            self.ended.note(FlowEnded::new(&row, why, now.0));
        }
        self.flows.end(number, filing);
        self.counters.flow_ended(class, state, why);
        if sole {
            self.end_sole(number, place);
            return;
        }
        let next = if self.bindings.is_shared(binding) { self.flows.unlink(number) } else { NONE };
        let Some(record) = self.bindings.take_down(binding, number, next) else { return };
        record.used(now, idle);
        if !record.is_in_use() && record.is_dynamic() {
            match entries {
                Some(entries) => {
                    self.bindings.remove_from(&mut self.flows, (binding, entries, place), &mut self.counters);
                }
                None => self.bindings.remove(&mut self.flows, binding, &mut self.counters),
            }
        }
    }

    /// Ends the binding that the record of a flow which just ended stands for.
    fn end_sole(&mut self, flow: u32, place: Option<&Place>) {
        let Some(record) = self.flows.record(flow) else { return };
        let found = if place.is_none() { self.bindings.leaving_with(record) } else { None };
        let Some(place) = place.or(found.as_ref()) else { return };
        self.bindings.sole_ended((flow, record), place);
        self.bindings.remove_sole(record, place, &mut self.counters);
    }

    /// Ends every flow of a binding, then the binding.
    pub(crate) fn end_binding(&mut self, number: u32, why: FlowEnd) {
        while let Some(flow) =
            self.bindings.record(number).map(|record| record.first_flow).filter(|&flow| flow != NONE)
        {
            self.end_flow(flow, why);
        }
        self.bindings.remove(&mut self.flows, number, &mut self.counters);
    }

    /// Looks at flows whose time has come, a few at a time; more of them the further the timers are behind.
    pub(crate) fn expire(&mut self, now: Time, settings: &SettingsRecord) {
        let visits = if self.flows.wheel.lag_ms(now) > BEHIND_MS { VISITS_BEHIND } else { VISITS };
        for _ in 0..visits / BATCH {
            if !self.visit_batch(now, settings, |flows| flows.pop_due(now)) {
                break;
            }
        }
        self.visit_batch(now, settings, Flows::pop_former);
        self.counters.set(Counter::TimerLagMs, self.flows.wheel.lag_ms(now));
        self.bindings.ports.tick(now);
        self.bindings.ports.count(&mut self.counters);
    }

    /// Looks at as many flows as end together. `false` if there were fewer.
    fn visit_batch(
        &mut self,
        now: Time,
        settings: &SettingsRecord,
        pop: impl Fn(&mut Flows) -> Option<u32>,
    ) -> bool {
        let mut due = [NONE; BATCH];
        let mut count = 0;
        for place in &mut due {
            let Some(number) = pop(&mut self.flows) else { break };
            self.flows.prefetch(number);
            *place = number;
            count += 1;
        }
        if count > 0 {
            self.visit(due.get(..count).unwrap_or_default(), now, settings);
        }
        count == BATCH
    }

    /// Looks at flows that the wheel let go of: each ends, or hangs again.
    fn visit(&mut self, due: &[u32], now: Time, settings: &SettingsRecord) {
        let mut endings = [Ending::NONE; BATCH];
        let mut places = endings.iter_mut();
        for &flow in due {
            let ending = match self.fate_of(flow, now, settings) {
                Fate::Again(due) => {
                    self.flows.look_again(flow, due);
                    continue;
                }
                Fate::Ends(why) => self.ending(flow, why),
                Fate::Ended => Ending { flow, ..Ending::NONE },
            };
            if let Some(place) = places.next() {
                *place = ending;
            }
        }
        let count = BATCH - places.len();
        let endings = endings.get_mut(..count).unwrap_or_default();
        self.prepare_bindings(endings);
        for ending in endings {
            if let Some((why, filing)) = &ending.why {
                self.end_filed(ending.flow, (*why, filing), (ending.entries.as_ref(), ending.place.as_ref()));
            }
            self.flows.reclaim(ending.flow);
        }
    }

    /// A flow that is to end; asks for the lines where it and its binding lie.
    fn ending(&self, flow: u32, why: FlowEnd) -> Ending {
        let binding = self.flows.binding(flow);
        self.bindings.prefetch_record(binding);
        let why = self.flows.filing(flow).map(|filing| (why, filing));
        Ending { flow, binding, why, entries: None, place: None }
    }

    /// Finds out where the bindings of flows that end lie, and asks for all that their own end will need.
    fn prepare_bindings(&self, endings: &mut [Ending]) {
        for ending in endings.iter_mut() {
            if let Some(flow) = sole::flow_of(ending.binding) {
                ending.place = self.flows.record(flow).and_then(|record| self.bindings.leaving_with(record));
            } else if self.bindings.record(ending.binding).is_some_and(|record| record.is_dynamic())
                && let Some((entries, place)) = self.bindings.leaving(&self.flows, ending.binding)
            {
                (ending.entries, ending.place) = (Some(entries), place);
            }
        }
        let ports = &self.bindings.ports;
        places(endings).for_each(|place| ports.prefetch_unit(place));
        places(endings).for_each(|place| ports.prefetch_block_of(place));
        places(endings).for_each(|place| ports.prefetch_owner_of(place));
    }

    /// What is to become of a flow whose timer came.
    fn fate_of(&mut self, number: u32, now: Time, settings: &SettingsRecord) -> Fate {
        let Some(flow) = self.flows.record_mut(number).filter(|flow| flow.has(flag::LIVE)) else {
            return Fate::Ended;
        };
        let (class, state) = (class_of_record(flow), flow.tcp_state());
        let left = settings.timeout_ms(class, state).saturating_sub(flow.idle_ms(now.0));
        let revisit = revisit_ms(class, settings);
        if left > 0 {
            return Fate::Again(Time(now.0 + left.min(revisit)));
        }
        if state == TcpState::Established {
            // RFC 7857 figure 1: the established timeout leads to TRANS, which a packet leaves again.
            self.counters.tcp_state(state, TcpState::Transitory);
            flow.set_tcp_state(TcpState::Transitory);
            flow.stamp = now.0 as u32;
            return Fate::Again(Time(now.0 + revisit));
        }
        Fate::Ends(match state {
            TcpState::Transitory if !flow.has(flag::RESET) => FlowEnd::Timeout,
            state => tcp::ending(state),
        })
    }
}

/// Where the ports lie that will be given back.
fn places(endings: &mut [Ending]) -> impl Iterator<Item = &mut Place> {
    endings.iter_mut().filter_map(|ending| ending.place.as_mut())
}

/// What is to become of a flow whose timer came.
enum Fate {
    /// Its time is not over: the next look at it.
    Again(Time),
    Ends(FlowEnd),
    /// It ended before, and waited for its timer.
    Ended,
}

/// When to look at a flow that was used at `last`.
pub(crate) fn due(tables: &Tables, class: ProtocolClass, state: TcpState, last: Time) -> Time {
    let settings = &tables.policy.settings;
    Time(last.0 + settings.timeout_ms(class, state).min(revisit_ms(class, settings)))
}

/// Idle timeout of a flow in milliseconds.
pub(crate) fn timeout_ms(flow: &FlowRecord, settings: &SettingsRecord) -> u64 {
    settings.timeout_ms(class_of_record(flow), flow.tcp_state())
}

/// How long a flow may go without a look: no longer than the shortest timeout it can change to, so that every
/// timeout is noticed when it runs out.
fn revisit_ms(class: ProtocolClass, settings: &SettingsRecord) -> u64 {
    match class {
        ProtocolClass::Tcp => u64::from(settings.tcp_opening.min(settings.tcp_closing)) * 1000,
        _ => u64::MAX >> 1,
    }
}

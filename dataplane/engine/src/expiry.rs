//! The end of flows: timers that come due, and what a flow leaves behind.

use crate::flows::class_of_record;
use crate::pipeline::{Tables, Worker};
use crate::{Buffer, Time, tcp};
use turnpike_abi::counters::{Counter, FlowEnd, ProtocolClass, TcpState};
use turnpike_abi::event::FlowEnded;
use turnpike_abi::flow::{FlowRecord, NONE, flag};
use turnpike_abi::table::SettingsRecord;

/// Flows that the timers look at in one call, and when they are behind by more than two of their slots.
const VISITS: usize = 64;
const VISITS_BEHIND: usize = 256;
const BEHIND_MS: u64 = 256;

impl<B: Buffer> Worker<B> {
    /// Ends a flow, and its binding with its last flow unless that is a pinhole.
    pub(crate) fn end_flow(&mut self, number: u32, why: FlowEnd) {
        let now = self.now;
        let (Some(flow), Some(cold)) = (self.flows.record(number), self.flows.cold(number)) else { return };
        if !flow.has(flag::LIVE) {
            return;
        }
        let (class, state, binding) = (class_of_record(flow), flow.tcp_state(), cold.binding);
        let idle = flow.idle_ms(now.0);
        if let (true, Some((remote, inbound))) = (binding != NONE, self.remote_of(number)) {
            self.bindings.flow_ended(binding, remote, inbound);
        }
        if self.ended.is_wanted()
            && let Some(row) = self.flows.row(number, now)
        {
            self.ended.note(FlowEnded::new(&row, why, now.0));
        }
        self.flows.end(number);
        self.counters.flow_ended(class, state, why);
        let next = self.flows.unlink(number);
        let Some(record) = self.bindings.take_down(binding, number, next) else { return };
        record.used(now, idle);
        if !record.is_in_use() && record.is_dynamic() {
            self.bindings.remove(binding, &mut self.counters);
        }
    }

    /// Ends every flow of a binding, then the binding.
    pub(crate) fn end_binding(&mut self, number: u32, why: FlowEnd) {
        while let Some(flow) =
            self.bindings.record(number).map(|record| record.first_flow).filter(|&flow| flow != NONE)
        {
            self.end_flow(flow, why);
        }
        self.bindings.remove(number, &mut self.counters);
    }

    /// Looks at flows whose time has come, a few at a time; more of them the further the timers are behind.
    pub(crate) fn expire(&mut self, now: Time, settings: &SettingsRecord) {
        let visits = if self.flows.wheel.lag_ms(now) > BEHIND_MS { VISITS_BEHIND } else { VISITS };
        for _ in 0..visits {
            let Some(number) = self.flows.pop_due(now) else { break };
            let Some(flow) = self.flows.record_mut(number) else { continue };
            if !flow.has(flag::LIVE) {
                self.flows.reclaim(number);
                continue;
            }
            let (class, state, reset) = (class_of_record(flow), flow.tcp_state(), flow.has(flag::RESET));
            let left = timeout_ms(flow, settings).saturating_sub(flow.idle_ms(now.0));
            let revisit = revisit_ms(class, settings);
            if left > 0 {
                self.flows.look_again(number, Time(now.0 + left.min(revisit)));
                continue;
            }
            if state == TcpState::Established {
                // RFC 7857 figure 1: the established timeout leads to TRANS, which a packet leaves again.
                self.counters.tcp_state(state, TcpState::Transitory);
                flow.set_tcp_state(TcpState::Transitory);
                flow.stamp = now.0 as u32;
                self.flows.look_again(number, Time(now.0 + revisit));
                continue;
            }
            let why = match state {
                TcpState::Transitory if !reset => FlowEnd::Timeout,
                state => tcp::ending(state),
            };
            self.end_flow(number, why);
            self.flows.reclaim(number);
        }
        if let Some(place) = self.sweep.take() {
            self.sweep_from(place, now, settings);
        }
        self.counters.set(Counter::TimerLagMs, self.flows.wheel.lag_ms(now));
        self.bindings.ports.tick(now);
        self.bindings.ports.count(&mut self.counters);
        self.counters.set(Counter::Subscribers, self.bindings.subscribers() as u64);
    }

    /// Ends what is overdue by timeouts that became shorter, a few at a time. The timers find it later, ended.
    fn sweep_from(&mut self, place: usize, now: Time, settings: &SettingsRecord) {
        for place in place..place + VISITS {
            let Some(number) = self.flows.walk(place, 1).next().map(|(_, number)| number) else { continue };
            let overdue = self.flows.record(number).is_some_and(|flow| {
                flow.tcp_state() != TcpState::Established && flow.idle_ms(now.0) >= timeout_ms(flow, settings)
            });
            if overdue {
                self.end_flow(number, FlowEnd::Timeout);
            }
        }
        let next = place + VISITS;
        self.sweep = (next < self.flows.places()).then_some(next);
    }
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

//! Flows and the pinholes they pass by: direction, locks, closing.

use crate::Buffer;
use crate::bindings::{Closing, Passage, PassingBy};
use crate::outbox::Outbox;
use crate::pipeline::{Passing, Tables, Worker};
use crate::policy::FirstPacket;
use crate::sessions::Egress;
use crate::tuples::{firewall_tuple, icmp_of};
use turnpike_abi::Address;
use turnpike_abi::command::PinholeAdd;
use turnpike_abi::counters::{Counter, DropReason, FirewallAction, FlowEnd, TcpState};
use turnpike_abi::event::{AckResult, BindingRow};
use turnpike_abi::flow::{NO_HOP, NONE, Toward, flag};
use turnpike_wire::packet::{Packet, TCP_ACK, TCP_SYN, Transport};

/// Pinholes that close in one look at the timers.
const CLOSINGS: usize = 16;

impl<B: Buffer> Worker<B> {
    /// The remote end of a flow, and whether it opened the flow.
    pub(crate) fn remote_of(&self, flow: u32) -> Option<((Address, u16), bool)> {
        let (out, _) = self.flows.tuples(flow)?;
        let inbound = self.flows.record(flow)?.has(flag::INBOUND);
        Some(((out.destination, out.destination_port), inbound))
    }

    /// Whether a packet of a flow through a pinhole may pass, and whether the next one may do without being asked.
    ///
    /// # Errors
    /// If it goes against the direction of its pinhole.
    pub(crate) fn passes_by(
        &mut self,
        tables: &Tables,
        passing: &Passing,
        packet: &Packet,
        (flow, toward): (u32, Toward),
        egress: &Egress,
    ) -> Result<bool, DropReason> {
        let binding = self.flows.binding(flow);
        if self.bindings.record(binding).is_none_or(|record| record.is_dynamic()) {
            return Ok(true);
        }
        let Some(state) = self.flows.record(flow).map(|record| record.tcp_state()) else { return Ok(true) };
        let (Some((remote, inbound)), Some((out, _))) = (self.remote_of(flow), self.flows.tuples(flow))
        else {
            return Ok(true);
        };
        let outwards = toward == Toward::Out;
        let (inside, outside) =
            if outwards { (passing.from, egress.zone) } else { (egress.zone, passing.from) };
        let first =
            FirstPacket { from: inside, to: outside, tuple: firewall_tuple(&out), icmp: icmp_of(packet) };
        let (alive, ends, tcp) = match packet.transport {
            Transport::Tcp { flags, .. } => {
                let shaken = state == TcpState::Established && flags & (TCP_SYN | TCP_ACK) == TCP_ACK;
                (shaken && !outwards, matches!(state, TcpState::BothFin | TcpState::Transitory), true)
            }
            _ => (outwards, false, false),
        };
        let by_pinhole_only = !tcp && tables.policy.firewall(&first).action != FirewallAction::Accept;
        let seen = PassingBy { outwards, alive, ends, by_pinhole_only };
        let (passage, locked) = self.bindings.passage(binding, remote, inbound, seen, &mut self.counters);
        if locked {
            self.end_losers(binding);
        }
        match passage {
            Passage::Settled => Ok(true),
            Passage::Watched => Ok(false),
            Passage::Against => Err(DropReason::PinholeOneWay),
        }
    }

    /// Ends the flows of those who tried for a pinhole that somebody else has now.
    fn end_losers(&mut self, binding: u32) {
        self.end_flows(binding, FlowEnd::Binding, |worker, flow| {
            worker
                .remote_of(flow)
                .is_some_and(|(remote, inbound)| worker.bindings.lost_race(binding, remote, inbound))
        });
        self.recount(binding);
    }

    /// Ends some flows of a binding that has a pinhole.
    fn end_flows(&mut self, binding: u32, why: FlowEnd, ends: impl Fn(&Self, u32) -> bool) {
        let mut flow = self.bindings.record(binding).map_or(NONE, |record| record.first_flow);
        while flow != NONE {
            let next = self.flows.next(flow);
            if ends(self, flow) {
                self.end_flow(flow, why);
            }
            flow = next;
        }
    }

    /// After the pinholes of a binding changed: counts the flows of each again, and has the next packet of each looked
    /// at.
    fn recount(&mut self, binding: u32) {
        self.bindings.recount(binding);
        let mut flow = self.bindings.record(binding).map_or(NONE, |record| record.first_flow);
        while flow != NONE {
            let next = self.flows.next(flow);
            if let Some((remote, inbound)) = self.remote_of(flow) {
                self.bindings.count_again(binding, remote, inbound);
            }
            if let Some(record) = self.flows.record_mut(flow) {
                record.open();
                record.hops = [NO_HOP; 2];
                record.close();
            }
            flow = next;
        }
    }

    /// A pinhole was installed on a port.
    pub(crate) fn pinholes_changed(&mut self, add: &PinholeAdd, at: u16) {
        let pool = if add.flags & PinholeAdd::POOL != 0 { add.pool } else { BindingRow::NO_POOL };
        let port = add.inside_port + at;
        if let Some(binding) = self.bindings.of_inside(add.protocol, add.inside, port, pool)
            && self.bindings.record(binding).is_some_and(|record| record.is_in_use())
        {
            self.recount(binding);
        }
    }

    /// Ends dynamic bindings whose inside endpoints get reserved ports, if nothing else stands against the pinhole.
    pub(crate) fn make_way(&mut self, tables: &Tables, add: &PinholeAdd) -> Result<(), AckResult> {
        if self.bindings.first_of(add.id).is_some() {
            return Ok(());
        }
        self.bindings.check_reserved(&tables.policy, add)?;
        for at in 0..u16::from(add.ports.max(1)) {
            let port = add.inside_port + at;
            if let Some(binding) = self.bindings.of_inside(add.protocol, add.inside, port, add.pool)
                && self.bindings.record(binding).is_some_and(|record| record.is_dynamic())
            {
                self.end_binding(binding, FlowEnd::Binding);
            }
        }
        Ok(())
    }

    /// Closes a pinhole; its flows are cut, or left to end by themselves. `false` if there is none.
    pub(crate) fn close_pinhole(&mut self, id: u64, drain: bool) -> bool {
        let mut found = false;
        while let Some(closing) = self.bindings.first_of(id) {
            found = true;
            self.close_port(closing, drain);
        }
        found
    }

    fn close_port(&mut self, closing: Closing, drain: bool) {
        let binding = closing.binding;
        if !drain {
            self.end_flows(binding, FlowEnd::Admin, |worker, flow| {
                worker
                    .remote_of(flow)
                    .is_some_and(|(remote, inbound)| worker.bindings.is_by(closing, remote, inbound))
            });
        }
        if self.bindings.unlink(closing) {
            self.recount(binding);
        } else if !drain || self.bindings.record(binding).is_some_and(|record| !record.is_in_use()) {
            self.end_binding(binding, FlowEnd::Admin);
        } else {
            self.bindings.drain(binding);
            self.recount(binding);
        }
    }

    /// Closes the pinholes that were to close by themselves, and sends the events that wait.
    pub(crate) fn look_after_pinholes(&mut self, out: &mut Outbox<B>) {
        for _ in 0..CLOSINGS {
            let Some(id) = self.bindings.next_closing(&mut self.counters) else { break };
            self.close_pinhole(id, true);
        }
        for at in 0..self.bindings.notices.len() {
            if let Some(&slot) = self.bindings.notices.get(at) {
                self.event(slot, out);
            }
        }
        self.bindings.notices.clear();
        self.counters.set(Counter::Pinholes, self.bindings.pinholes() as u64);
        self.counters.set(Counter::Subscribers, self.bindings.subscribers() as u64);
    }
}

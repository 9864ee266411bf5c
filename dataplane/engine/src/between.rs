//! Packets between two hosts inside: which worker has their flow, or may open it.
//!
//! A flow is with the owner of the host whose pinhole it came through, or, if one of the two is translated for the
//! other, with that one's; all others are with the owner of both together. None of the workers knows what the others
//! have. So a packet goes from the sender's to the pair's to the receiver's until one has its flow.

use crate::pipeline::{Stage, Tables, Worker};
use crate::policy::FirstPacket;
use crate::tuples::{firewall_tuple, icmp_of, tuple_of};
use crate::{Buffer, related, tcp};
use turnpike_abi::counters::FirewallAction;
use turnpike_abi::event::Tuple;
use turnpike_abi::{WorkerId, ZoneId, steering};
use turnpike_wire::packet::{Packet, Transport};

/// The stops of a packet.
const SENDER: u8 = 0;
const PAIR: u8 = 1;
const RECEIVER: u8 = 2;
/// Back at the sender's: its pinhole opens the flow, since nobody has one.
const SENDER_AGAIN: u8 = 3;

/// What a worker does with a packet between two hosts inside.
pub(crate) enum Between {
    /// It is the right one; whether a pinhole of the receiver opens the flow, if there is none.
    Here { inbound: bool },
    /// Another one is next.
    Next(WorkerId, Stage),
}

impl<B: Buffer> Worker<B> {
    /// Whether this worker is the right one for a packet from zone `from` to `to`, or which to ask next.
    pub(crate) fn between(
        &self,
        tables: &Tables,
        stage: Stage,
        (from, to): (ZoneId, ZoneId),
        frame: &[u8],
        packet: &Packet,
    ) -> Between {
        let (near, far) = related::flow_ends(frame, packet);
        let sender = steering::owner_of_inside(near, self.workers);
        let (mut stop, mut may_open) = match stage {
            Stage::Between { stop, may_open } => (stop, may_open),
            _ if sender != self.id => {
                return Between::Next(sender, Stage::Between { stop: SENDER, may_open: false });
            }
            _ => (SENDER, false),
        };
        let tuple = tuple_of(packet);
        let known = match &tuple {
            Some(tuple) => self.flows.find(tuple).is_some(),
            None => self.knows_related(frame, packet),
        };
        // Only what would be dropped for want of a rule can have a pinhole, or a flow through one.
        let closed = tuple.as_ref().is_none_or(|tuple| {
            let first = FirstPacket { from, to, tuple: firewall_tuple(tuple), icmp: icmp_of(packet) };
            let verdict = tables.policy.firewall(&first);
            verdict.action != FirewallAction::Accept && !verdict.by_rule
        });
        loop {
            if known || stop >= SENDER_AGAIN || (stop == PAIR && !closed) {
                return Between::Here { inbound: false };
            }
            if stop == SENDER && closed {
                may_open = self.has_pinhole(packet, tuple.as_ref(), false);
            }
            if stop == RECEIVER {
                let inbound = self.has_pinhole(packet, tuple.as_ref(), true);
                if inbound || !may_open {
                    return Between::Here { inbound };
                }
            }
            stop += 1;
            let worker = match stop {
                PAIR => steering::owner_of_pair(near, far, self.workers),
                RECEIVER => steering::owner_of_inside(far, self.workers),
                _ => sender,
            };
            if worker != self.id {
                return Between::Next(worker, Stage::Between { stop, may_open });
            }
        }
    }

    /// Whether a first packet has a pinhole here: the receiver's (`inbound`) or the sender's.
    fn has_pinhole(&self, packet: &Packet, tuple: Option<&Tuple>, inbound: bool) -> bool {
        let opens = match packet.transport {
            Transport::Tcp { flags, .. } => tcp::opens(flags),
            _ => true,
        };
        opens && tuple.is_some_and(|tuple| self.pinhole_for(tuple, None, inbound).is_some())
    }
}

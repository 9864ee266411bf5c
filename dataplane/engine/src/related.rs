//! ICMP errors in transit: they belong to the flow whose packet they quote (RFC 5508 section 4), and they
//! neither refresh nor end it (RFC 4787 REQ-12, RFC 5382 REQ-10, RFC 5508 REQ-6).

use crate::pipeline::{Refusal, Tables, Verdict, Worker};
use crate::sessions::Egress;
use crate::translate::{self, Rewrite};
use crate::tuples::{answering, query_port};
use crate::{Buffer, pipeline};
use turnpike_abi::Address;
use turnpike_abi::counters::{Counter, Direction, DropReason, IcmpKind, ProtocolClass};
use turnpike_abi::event::Tuple;
use turnpike_abi::flow::NO_HOP;
use turnpike_abi::table::Side;
use turnpike_wire::inner::{self, Inner, InnerTransport};
use turnpike_wire::packet::{Packet, Transport};
use turnpike_wire::rewrite;

/// The embedded packet and its tuple.
fn embedded(frame: &[u8], packet: &Packet) -> Result<(Inner, Tuple), DropReason> {
    let Transport::IcmpError { inner: at, .. } = packet.transport else {
        return Err(DropReason::InternalError);
    };
    let inner = inner::parse(frame, at, packet.end, packet.family).map_err(pipeline::reason_of)?;
    let (source_port, destination_port) = match inner.kind {
        InnerTransport::Ports { source_port, destination_port, .. } => (source_port, destination_port),
        InnerTransport::Query { identifier, kind, .. } => (identifier, query_port(kind)),
        InnerTransport::IcmpError => return Err(DropReason::IcmpDoubleError),
        InnerTransport::Other => (0, 0),
    };
    let tuple = Tuple {
        source: Address(inner.source),
        destination: Address(inner.destination),
        source_port,
        destination_port,
        protocol: inner.protocol,
        reserved: [0; 3],
    };
    Ok((inner, tuple))
}

/// The ends of the flow a packet belongs to, in the packet's own direction: of an error those of the packet
/// it quotes, since any router on the way may have sent it (RFC 5508 REQ-5).
pub(crate) fn flow_ends(frame: &[u8], packet: &Packet) -> (Address, Address) {
    match embedded(frame, packet) {
        Ok((_, tuple)) => (tuple.destination, tuple.source),
        Err(_) => (Address(packet.source), Address(packet.destination)),
    }
}

impl<B: Buffer> Worker<B> {
    /// The external port that the embedded packet left from, which names the error's owner.
    pub(crate) fn embedded_port(&self, frame: &[u8], packet: &Packet) -> Result<u16, DropReason> {
        embedded(frame, packet).map(|(_, tuple)| tuple.source_port)
    }

    /// The protocol whose ports decide where a packet for a pool address belongs.
    pub(crate) fn port_protocol(&self, frame: &[u8], packet: &Packet) -> u8 {
        match packet.transport {
            Transport::IcmpError { .. } => {
                embedded(frame, packet).map_or(packet.protocol, |(_, tuple)| tuple.protocol)
            }
            _ => packet.protocol,
        }
    }

    /// Forwards an error along the flow it is about. `egress` is where its destination routes to, if that is
    /// not to be translated.
    pub(crate) fn related(
        &mut self,
        tables: &Tables,
        buffer: &mut B,
        packet: &Packet,
        egress: Option<Egress>,
        hairpin: bool,
    ) -> Verdict {
        let (inner, rewrite) = match self.rewrite_for(buffer.bytes(), packet) {
            Ok(found) => found,
            Err(reason) => return Verdict::Drop(reason),
        };
        let refused = |reason, kind| {
            // No error about an error: the reply is left out, the reason stays.
            Verdict::Refuse(Refusal { reason, kind, mtu: 0, packet: *packet })
        };
        if packet.ttl <= 1 {
            return refused(DropReason::TtlExpired, IcmpKind::TimeExceeded);
        }
        let egress = match (rewrite, egress) {
            (Rewrite::Destination(end), _) => match self.related_egress(tables, end.address(), packet) {
                Ok(egress) if tables.policy.side_of(egress.zone) != Side::INSIDE => {
                    return Verdict::Drop(DropReason::NoRoute);
                }
                Ok(egress) => egress,
                Err(verdict) => return verdict,
            },
            (Rewrite::None | Rewrite::Source(_), Some(egress)) => egress,
            (Rewrite::None | Rewrite::Source(_), None) => return Verdict::Drop(DropReason::IcmpNoSession),
        };
        if packet.end - packet.l3 > usize::from(egress.mtu) {
            return refused(DropReason::MtuExceeded, IcmpKind::FragNeeded);
        }
        let direction = match (rewrite, hairpin) {
            (_, true) => Direction::Hairpin,
            (Rewrite::Destination(_), false) => Direction::Out2In,
            (Rewrite::Source(_), false) => Direction::In2Out,
            (Rewrite::None, false) => Direction::Routed,
        };
        self.rewrite_error(buffer, packet, &inner, &rewrite);
        rewrite::decrement_ttl(buffer.bytes_mut(), packet.l3, packet.family);
        Verdict::Transmit {
            next_hop: egress.next_hop,
            hop: NO_HOP,
            packet: *packet,
            direction,
            class: ProtocolClass::Icmp,
        }
    }

    /// The first half of a hairpinned error: its source side is translated, its destination is not yet.
    pub(crate) fn related_rewrite(&mut self, buffer: &mut B, packet: &Packet) -> Result<(), DropReason> {
        let (inner, rewrite) = self.rewrite_for(buffer.bytes(), packet)?;
        if !matches!(rewrite, Rewrite::Source(_)) {
            return Err(DropReason::IcmpNoSession);
        }
        self.rewrite_error(buffer, packet, &inner, &rewrite);
        Ok(())
    }

    /// Whether the flow that an error is about is this worker's.
    pub(crate) fn knows_related(&self, frame: &[u8], packet: &Packet) -> bool {
        self.rewrite_for(frame, packet).is_ok()
    }

    fn rewrite_for(&self, frame: &[u8], packet: &Packet) -> Result<(Inner, Rewrite), DropReason> {
        let (inner, tuple) = embedded(frame, packet)?;
        // RFC 5508 REQ-4: it is for the sender of what it quotes. To anybody else it would carry what its
        // sender likes past the firewall.
        if tuple.source != Address(packet.destination) {
            return Err(DropReason::IcmpNoSession);
        }
        // Packets that answer the embedded one travel the error's own way.
        let (flow, toward) = self.flows.find(&answering(&tuple)).ok_or(DropReason::IcmpNoSession)?;
        Ok((inner, self.flows.rewrite(flow, toward)))
    }

    fn rewrite_error(&mut self, buffer: &mut B, packet: &Packet, inner: &Inner, rewrite: &Rewrite) {
        translate::apply_to_error(buffer.bytes_mut(), packet, inner, rewrite);
        match rewrite {
            Rewrite::Destination(_) => self.counters.add(Counter::IcmpTranslatedOut2In, 1),
            Rewrite::Source(_) => self.counters.add(Counter::IcmpTranslatedIn2Out, 1),
            Rewrite::None => {}
        }
    }
}

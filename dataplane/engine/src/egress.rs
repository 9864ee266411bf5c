//! The last steps of a packet: fragmentation, next hop, Ethernet header, TX queue.

use crate::neighbours::{Held, NextHop};
use crate::outbox::Outbox;
use crate::pipeline::{Tables, Worker};
use crate::{Buffer, BufferSource, Time};
use turnpike_abi::command::{Kind, Slot};
use turnpike_abi::counters::{Counter, Direction, DropReason, ProtocolClass};
use turnpike_abi::event::NeighbourNeeded;
use turnpike_wire::ethernet::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use turnpike_wire::fragment;
use turnpike_wire::packet::{Family, Packet};

/// What is known of a packet that is ready to leave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    /// Offset of the IP header in the frame.
    pub(crate) l3: usize,
    pub(crate) family: Family,
    pub(crate) direction: Direction,
    pub(crate) class: ProtocolClass,
}

/// Most fragments one packet is cut into: a 9600-byte packet for a 576-byte link makes 18.
pub(crate) const MAX_FRAGMENTS: usize = 64;

impl<B: Buffer> Worker<B> {
    /// Sends a finished packet, or keeps it until its next hop is known. The frame ends with the packet.
    pub(crate) fn leave(
        &mut self,
        tables: &Tables,
        now: Time,
        next_hop: NextHop,
        buffer: B,
        ready: Ready,
        out: &mut Outbox<B>,
    ) {
        if let Some(mac) = self.neighbours.station(next_hop) {
            self.emit(next_hop, buffer, ready, mac, out);
            return;
        }
        let wait = u64::from(tables.policy.settings.neighbour_wait_ms);
        match self.neighbours.hold(now, next_hop, buffer, ready, Time(now.0 + wait)) {
            Held::Waits { ask } => {
                self.count_held();
                if ask {
                    let needed = NeighbourNeeded {
                        address: next_hop.address,
                        interface: next_hop.interface,
                        ..NeighbourNeeded::default()
                    };
                    self.event(Slot::new(Kind::NEIGHBOUR_NEEDED, 0, &needed), out);
                }
            }
            Held::Full(buffer) => self.discard(buffer, DropReason::NeighbourQueueFull, out),
        }
    }

    /// Writes the Ethernet header and hands the frame to the port.
    pub(crate) fn emit(
        &mut self,
        next_hop: NextHop,
        mut buffer: B,
        ready: Ready,
        mac: [u8; 6],
        out: &mut Outbox<B>,
    ) {
        let Some(interface) = self.interfaces.get(next_hop.interface.index()).copied() else {
            return self.discard(buffer, DropReason::InternalError, out);
        };
        let header = if interface.vlan == 0 {
            ethernet::HEADER_LEN
        } else {
            ethernet::HEADER_LEN + ethernet::VLAN_LEN
        };
        if header < ready.l3 {
            buffer.trim_front(ready.l3 - header);
        } else if header > ready.l3 && !buffer.prepend(header - ready.l3) {
            return self.discard(buffer, DropReason::BufferExhausted, out);
        }
        let ethertype = match ready.family {
            Family::V4 => ETHERTYPE_IPV4,
            Family::V6 => ETHERTYPE_IPV6,
        };
        let vlan = (interface.vlan != 0).then_some(interface.vlan);
        if ethernet::write(buffer.bytes_mut(), mac, interface.mac, vlan, ethertype).is_none() {
            return self.discard(buffer, DropReason::InternalError, out);
        }
        let length = buffer.bytes().len();
        match out.transmit(interface.port, buffer) {
            Ok(()) => self.counters.forwarded(ready.direction, ready.class, length),
            Err(buffer) => self.discard(buffer, DropReason::TxQueueFull, out),
        }
    }

    /// Cuts an IPv4 packet for a link of `mtu` bytes and sends the pieces in order (RFC 4787 REQ-13a).
    pub(crate) fn leave_in_pieces(
        &mut self,
        tables: &Tables,
        now: Time,
        next_hop: NextHop,
        (buffer, packet): (B, &Packet),
        (mtu, ready): (u16, Ready),
        source: &mut impl BufferSource<B>,
        out: &mut Outbox<B>,
    ) {
        let (header, payload) = (packet.l4 - packet.l3, packet.end - packet.l4);
        let plan =
            fragment::plan(header, payload, usize::from(mtu)).filter(|plan| plan.count() <= MAX_FRAGMENTS);
        let Some(plan) = plan else {
            return self.discard(buffer, DropReason::MtuExceeded, out);
        };
        // All or none: a datagram with a piece missing is of no use to anybody.
        for index in 0..plan.count() {
            let taken = source.take(ready.l3 + usize::from(mtu)).and_then(|mut piece| {
                if !piece.resize(ready.l3 + usize::from(mtu)) {
                    return None;
                }
                let length =
                    plan.write(index, buffer.bytes(), packet.l3, piece.bytes_mut().get_mut(ready.l3..)?);
                (length > 0 && piece.resize(ready.l3 + length)).then_some(piece)
            });
            let Some(piece) = taken else {
                out.freed.append(&mut self.pieces);
                return self.discard(buffer, DropReason::BufferExhausted, out);
            };
            self.pieces.push(piece);
        }
        // One packet came, `count` leave.
        self.counters.add(Counter::Generated, plan.count() as u64 - 1);
        out.freed.push(buffer);
        let mut pieces = core::mem::take(&mut self.pieces);
        for piece in pieces.drain(..) {
            self.leave(tables, now, next_hop, piece, ready, out);
        }
        self.pieces = pieces;
    }

    /// Packets that waited for `next_hop` leave.
    pub(crate) fn release_waiting(&mut self, next_hop: NextHop, mac: [u8; 6], out: &mut Outbox<B>) {
        while let Some(waiting) = self.neighbours.release(next_hop) {
            self.counters.add(Counter::NeighbourReleased, 1);
            self.emit(next_hop, waiting.buffer, waiting.ready, mac, out);
        }
        self.count_held();
    }

    /// Packets that waited for `next_hop` in vain are dropped.
    pub(crate) fn drop_waiting(&mut self, next_hop: NextHop, out: &mut Outbox<B>) {
        while let Some(waiting) = self.neighbours.release(next_hop) {
            self.discard(waiting.buffer, DropReason::NeighbourUnresolved, out);
        }
        self.count_held();
    }

    /// Counts a drop and hands the buffer back.
    pub(crate) fn discard(&mut self, buffer: B, reason: DropReason, out: &mut Outbox<B>) {
        self.counters.drop_packet(reason);
        out.freed.push(buffer);
    }

    /// Writes an event, or counts its loss.
    pub(crate) fn event(&mut self, slot: Slot, out: &mut Outbox<B>) {
        if out.events.len() < out.events.capacity() {
            out.events.push(slot);
        } else {
            self.counters.add(Counter::EventsDropped, 1);
        }
    }
}

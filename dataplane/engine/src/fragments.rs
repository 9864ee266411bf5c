//! Fragments on their way: where those of a datagram meet, and what each has to know to be treated like a whole
//! packet once [`crate::reassembly`] has let it go.

use crate::outbox::{Crossed, Outbox};
use crate::pipeline::{Stage, Tables, Worker};
use crate::reassembly::Leaving;
use crate::{Buffer, BufferSource, Time, translate};
use turnpike_abi::counters::{Counter, Direction, DropReason};
use turnpike_abi::table::{SettingsRecord, Side};
use turnpike_abi::{Address, InterfaceId, WorkerId, ZoneId, steering};
use turnpike_wire::Malformed;
use turnpike_wire::packet::{self, Fragment, Packet, TCP_ACK, Transport};

/// What the first fragment told about all of its datagram. It goes along when a fragment crosses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    protocol: u8,
    identification: u32,
    transport: Transport,
}

impl Head {
    /// What a first fragment says, under another identification.
    pub(crate) fn new(packet: &Packet, identification: u32) -> Self {
        Self { protocol: packet.protocol, identification, transport: packet.transport }
    }

    /// What a fragment knows, `None` of a whole packet.
    pub(crate) fn of(packet: &Packet) -> Option<Self> {
        let Packet { protocol, identification, transport, .. } = *packet;
        (packet.fragment != Fragment::Whole).then_some(Self { protocol, identification, transport })
    }

    /// Makes a fragment know it. The flags of TCP were the first fragment's; later ones open and end nothing.
    pub(crate) fn tell(&self, packet: &mut Packet) {
        packet.protocol = self.protocol;
        packet.identification = self.identification;
        packet.transport = match (packet.fragment, self.transport) {
            (Fragment::Later { .. }, Transport::Tcp { source_port, destination_port, .. }) => {
                Transport::Tcp { source_port, destination_port, flags: TCP_ACK }
            }
            (_, transport) => transport,
        };
    }
}

/// A packet after its source was translated to `port`, to be handled as if it had just come. A later fragment
/// does not say its port itself.
///
/// # Errors
/// What is wrong with the packet now.
pub(crate) fn turned(frame: &[u8], packet: &Packet, port: u16) -> Result<Packet, Malformed> {
    let mut turned = packet::parse(frame, packet.l3, packet.family)?;
    if let (Fragment::Later { .. }, Some(mut head)) = (packet.fragment, Head::of(packet)) {
        match &mut head.transport {
            Transport::Tcp { source_port, .. } | Transport::Udp { source_port, .. } => *source_port = port,
            Transport::IcmpQuery { identifier, .. } => *identifier = port,
            Transport::IcmpError { .. }
            | Transport::IcmpOther { .. }
            | Transport::Other
            | Transport::None => {}
        }
        head.tell(&mut turned);
    }
    Ok(turned)
}

impl<B: Buffer> Worker<B> {
    /// The worker at which the fragments of a datagram meet: the owner of the inside address where that is known.
    /// Of one for a pool address the port is not known yet, so any worker will do if it is always the same.
    pub(crate) fn meeting_place(
        &self,
        tables: &Tables,
        from: ZoneId,
        pool: bool,
        packet: &Packet,
    ) -> WorkerId {
        let (source, destination) = (Address(packet.source), Address(packet.destination));
        if tables.policy.side_of(from) == Side::INSIDE {
            return steering::owner_of_inside(source, self.workers);
        }
        if !pool {
            return steering::owner_of_inside(destination, self.workers);
        }
        let ends = u128::from_be_bytes(source.0) ^ u128::from_be_bytes(destination.0).rotate_left(9);
        let mixed = (ends as u64 ^ (ends >> 64) as u64 ^ u64::from(packet.identification))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        WorkerId(((mixed >> 32) % u64::from(self.workers.max(1))) as u8)
    }

    /// Keeps a fragment until its fate is known, which may be at once.
    pub(crate) fn join(&mut self, tables: &Tables, now: Time, on: InterfaceId, packet: &Packet, buffer: B) {
        let from = tables.policy.zone_of(on).unwrap_or(ZoneId::ANY);
        self.reassembly.take(now, &tables.policy.settings, from, packet, (buffer, on));
    }

    /// Sends on what [`Worker::join`] has set free.
    pub(crate) fn leave_joined(
        &mut self,
        tables: Option<&Tables>,
        now: Time,
        source: &mut impl BufferSource<B>,
        out: &mut Outbox<B>,
    ) {
        while let Some(Leaving { buffer, on, fate }) = self.reassembly.leaving() {
            match fate {
                Ok(head) => {
                    let joined = Crossed { buffer, arrived_on: on, stage: Stage::Joined, head: Some(head) };
                    self.pass_on(tables, now, joined, source, out);
                }
                Err(reason) => self.discard(buffer, reason, out),
            }
        }
        self.count_held();
    }

    /// Drops fragments whose datagram took too long.
    pub(crate) fn expire_fragments(&mut self, now: Time, settings: &SettingsRecord, out: &mut Outbox<B>) {
        self.reassembly.expire(now, settings);
        while let Some(Leaving { buffer, fate, .. }) = self.reassembly.leaving() {
            self.discard(buffer, fate.err().unwrap_or(DropReason::InternalError), out);
        }
        self.count_held();
    }

    /// Counts a fragment that is sent on.
    pub(crate) fn count_fragment(&mut self, packet: &Packet) {
        if packet.fragment != Fragment::Whole {
            self.counters.add(Counter::FragmentsForwarded, 1);
        }
    }

    /// Gives a translated packet that leaves in pieces an identification that no other host behind the same
    /// address has in use (RFC 3022 6.3). One that came in pieces has it already.
    pub(crate) fn renumber(&mut self, buffer: &mut B, packet: &Packet, direction: Direction) {
        if packet.fragment == Fragment::Whole && direction == Direction::In2Out {
            let number = self.reassembly.identification(Address(packet.destination), packet.protocol);
            translate::identify(buffer.bytes_mut(), packet, number);
        }
    }

    /// Shows how many packets wait: for a neighbour, or for the first fragment of their datagram.
    pub(crate) fn count_held(&mut self) {
        let [v4, v6] = self.reassembly.waiting();
        self.counters.set(Counter::Held, (self.neighbours.waiting() + v4 + v6) as u64);
        self.counters.set(Counter::FragmentsWaitingV4, v4 as u64);
        self.counters.set(Counter::FragmentsWaitingV6, v6 as u64);
        self.counters.set(Counter::FragmentsHeld, self.reassembly.held());
    }
}

//! Where a burst's packets go: the engine fills an outbox, the shell empties it after every call.

use turnpike_abi::{InterfaceId, PortId, WorkerId, command::Slot};

/// Packets, buffers and events that leave the engine. Allocated once; it never grows on the path.
#[derive(Debug)]
pub struct Outbox<B> {
    /// To the TX queue of each port, by [`PortId`]. The shell counts what the queue took as `Sent` and the
    /// rest with [`crate::Engine::not_sent`].
    pub transmit: Vec<Vec<B>>,
    /// To the TAP twins. The engine has counted them as punted: the shell takes back what does not fit with
    /// [`crate::Engine::not_punted`].
    pub punt: Vec<(InterfaceId, B)>,
    /// To other workers, likewise with [`crate::Engine::not_crossed`].
    pub cross: Vec<(WorkerId, Crossed<B>)>,
    /// Dropped and counted; to be freed.
    pub freed: Vec<B>,
    /// For the event ring.
    pub events: Vec<Slot>,
}

/// A packet on its way to the worker that owns it, with what the first worker already did to it.
#[derive(Debug)]
pub struct Crossed<B> {
    pub(crate) buffer: B,
    pub(crate) arrived_on: InterfaceId,
    pub(crate) stage: crate::pipeline::Stage,
    /// What a fragment knows of its datagram.
    pub(crate) head: Option<crate::fragments::Head>,
}

impl<B> Crossed<B> {
    /// The buffer, for a shell that has to free it.
    pub fn into_buffer(self) -> B {
        self.buffer
    }
}

impl<B> Outbox<B> {
    /// An outbox for `ports` ports with room for `room` entries of each kind.
    #[must_use]
    pub fn new(ports: usize, room: usize) -> Self {
        Self {
            transmit: (0..ports).map(|_| Vec::with_capacity(room)).collect(),
            punt: Vec::with_capacity(room),
            cross: Vec::with_capacity(room),
            freed: Vec::with_capacity(room),
            events: Vec::with_capacity(room),
        }
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.transmit.iter().all(Vec::is_empty)
            && self.punt.is_empty()
            && self.cross.is_empty()
            && self.freed.is_empty()
            && self.events.is_empty()
    }

    pub(crate) fn transmit(&mut self, port: PortId, buffer: B) -> Result<(), B> {
        match self.transmit.get_mut(port.index()) {
            Some(queue) if queue.len() < queue.capacity() => {
                queue.push(buffer);
                Ok(())
            }
            _ => Err(buffer),
        }
    }
}

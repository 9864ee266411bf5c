//! Both ends of the two rings between the control plane and one worker.

use crate::ring::{Broken, PushError, RingConsumer, RingProducer};
use crate::segment::{OutOfBounds, PeerSegment, Segment};
use turnpike_abi::WorkerId;
use turnpike_abi::command::Slot;
use turnpike_abi::layout::{RING_SLOTS, rings};

fn ends(
    own: &Segment,
    peer: &PeerSegment,
    worker: WorkerId,
) -> Result<(RingProducer, RingConsumer), OutOfBounds> {
    let base = rings::WORKERS + worker.index() * rings::STRIDE;
    let slots = RING_SLOTS as u64;
    let producer = RingProducer::over(own.words(), peer.words(), base, slots).ok_or(OutOfBounds)?;
    let consumer = RingConsumer::over(own.words(), peer.words(), base, slots).ok_or(OutOfBounds)?;
    Ok((producer, consumer))
}

/// The dataplane's end for one worker: takes commands, produces events. Owned by that worker's thread.
#[derive(Debug)]
pub struct WorkerLink {
    events: RingProducer,
    commands: RingConsumer,
}

impl WorkerLink {
    /// The rings of `worker` in a fresh event segment and the control plane's fresh command segment.
    ///
    /// # Errors
    /// If a segment has no part for that worker.
    pub fn new(events: &Segment, commands: &PeerSegment, worker: WorkerId) -> Result<Self, OutOfBounds> {
        let (events, commands) = ends(events, commands, worker)?;
        Ok(Self { events, commands })
    }

    /// The next command, not yet checked.
    ///
    /// # Errors
    /// If the control plane broke the ring.
    #[inline]
    pub fn command(&mut self) -> Result<Option<Slot>, Broken> {
        self.commands.pop()
    }

    /// Whether a command waits.
    ///
    /// # Errors
    /// If the control plane broke the ring.
    #[inline]
    pub fn has_command(&mut self) -> Result<bool, Broken> {
        Ok(self.commands.available()? > 0)
    }

    /// Whether `events` more fit; ask before taking a command that answers with that many.
    ///
    /// # Errors
    /// If the control plane broke the ring.
    #[inline]
    pub fn has_room(&mut self, events: usize) -> Result<bool, Broken> {
        self.events.has_room(events)
    }

    /// Events that fit now.
    ///
    /// # Errors
    /// If the control plane broke the ring.
    pub fn free(&mut self) -> Result<usize, Broken> {
        self.events.free()
    }

    /// Sends an event. Never waits.
    ///
    /// # Errors
    /// If the ring is full (count it) or the control plane broke it.
    #[inline]
    pub fn send(&mut self, event: &Slot) -> Result<(), PushError> {
        self.events.push(event)
    }
}

/// The control plane's end for one worker: produces commands, takes events.
#[derive(Debug)]
pub struct ControlLink {
    commands: RingProducer,
    events: RingConsumer,
}

impl ControlLink {
    /// The rings of `worker` in a fresh command segment and the dataplane's fresh event segment.
    ///
    /// # Errors
    /// If a segment has no part for that worker.
    pub fn new(commands: &Segment, events: &PeerSegment, worker: WorkerId) -> Result<Self, OutOfBounds> {
        let (commands, events) = ends(commands, events, worker)?;
        Ok(Self { commands, events })
    }

    /// Sends a command. Never waits.
    ///
    /// # Errors
    /// If the ring is full (try again after taking events) or the dataplane broke it.
    #[inline]
    pub fn send(&mut self, command: &Slot) -> Result<(), PushError> {
        self.commands.push(command)
    }

    /// Commands that fit now.
    ///
    /// # Errors
    /// If the dataplane broke the ring.
    pub fn free(&mut self) -> Result<usize, Broken> {
        self.commands.free()
    }

    /// The next event, not yet checked.
    ///
    /// # Errors
    /// If the dataplane broke the ring.
    #[inline]
    pub fn event(&mut self) -> Result<Option<Slot>, Broken> {
        self.events.pop()
    }
}

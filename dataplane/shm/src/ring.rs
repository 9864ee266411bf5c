//! A ring of slots across two segments: the producer writes tail and slots in its own, the consumer its
//! head in its own (see [`turnpike_abi::layout::rings`]). Whatever the peer writes is checked each time it
//! is read; a slot is copied out once and never looked at again.

use crate::atomic::Ordering;
use crate::cursor::{ConsumerCursor, ProducerCursor};
use crate::words::{Own, Peer};
use turnpike_abi::command::{SLOT, Slot};
use turnpike_abi::layout::rings;

pub use crate::cursor::Broken;

const SLOT_WORDS: usize = SLOT / size_of::<u64>();

/// Why a slot was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushError {
    /// The consumer has not caught up; nothing was written.
    Full,
    /// The consumer's index is out of bounds; see [`Broken`].
    Broken,
}

impl core::fmt::Display for PushError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Full => f.write_str("the ring is full: the other process has not caught up"),
            Self::Broken => Broken.fmt(f),
        }
    }
}

impl core::error::Error for PushError {}

impl From<Broken> for PushError {
    fn from(_: Broken) -> Self {
        Self::Broken
    }
}

/// The end that writes slots. Once broken it stays broken.
#[derive(Debug)]
pub struct RingProducer {
    own: Own,
    peer: Peer,
    /// Bytes from the start of both segments to this worker's part.
    base: usize,
    /// A power of two.
    slots: u64,
    cursor: ProducerCursor,
    broken: bool,
}

impl RingProducer {
    /// A ring that has carried nothing yet, in the parts at `base`. `None` if `own` is too short for it.
    pub(crate) fn over(own: Own, peer: Peer, base: usize, slots: u64) -> Option<Self> {
        let words = (rings::SLOTS / 8).checked_add(SLOT_WORDS.checked_mul(slots as usize)?)?;
        own.0.words(base, words)?;
        peer.load(base.checked_add(rings::HEAD)?)?;
        Some(Self { own, peer, base, slots, cursor: ProducerCursor::new(slots), broken: false })
    }

    /// Writes one slot.
    ///
    /// # Errors
    /// If the ring is full, or the peer broke it.
    #[inline]
    pub fn push(&mut self, slot: &Slot) -> Result<(), PushError> {
        if !self.has_room(1)? {
            return Err(PushError::Full);
        }
        let place = (self.cursor.tail() & (self.slots - 1)) as usize;
        let words: &[u64; SLOT_WORDS] = zerocopy::transmute_ref!(slot);
        let at = self.base + rings::SLOTS + place * SLOT;
        self.own.store_all(at, words.iter().copied()).ok_or(Broken)?;
        // Release: who sees the tail sees the slot.
        self.own.store(self.base + rings::TAIL, self.cursor.advance(1), Ordering::Release).ok_or(Broken)?;
        Ok(())
    }

    /// Whether `slots` more fit. Reads the peer's index only if its copy does not already say so.
    ///
    /// # Errors
    /// If the peer's head moved backwards or past our tail.
    #[inline]
    pub fn has_room(&mut self, slots: usize) -> Result<bool, Broken> {
        if !self.broken && self.cursor.room() >= slots as u64 {
            return Ok(true);
        }
        Ok(self.free()? >= slots)
    }

    /// Slots that fit now.
    ///
    /// # Errors
    /// If the peer's head moved backwards or past our tail.
    #[inline]
    pub fn free(&mut self) -> Result<usize, Broken> {
        if self.broken {
            return Err(Broken);
        }
        // Acquire: our next writes to a slot come after the peer's reads of what it held.
        let head = self.peer.acquire(self.base + rings::HEAD).ok_or(Broken)?;
        self.cursor.observe(head).map(|free| free as usize).inspect_err(|_| self.broken = true)
    }
}

/// The end that reads slots. Once broken it stays broken.
#[derive(Debug)]
pub struct RingConsumer {
    own: Own,
    peer: Peer,
    base: usize,
    slots: u64,
    cursor: ConsumerCursor,
    broken: bool,
}

impl RingConsumer {
    /// A ring that has carried nothing yet, in the parts at `base`. `None` if `peer` is too short for it.
    pub(crate) fn over(own: Own, peer: Peer, base: usize, slots: u64) -> Option<Self> {
        let words = (rings::SLOTS / 8).checked_add(SLOT_WORDS.checked_mul(slots as usize)?)?;
        peer.0.words(base, words)?;
        own.0.words(base.checked_add(rings::HEAD)?, 1)?;
        Some(Self { own, peer, base, slots, cursor: ConsumerCursor::new(slots), broken: false })
    }

    /// The oldest slot, copied out. Its content is the peer's: every field still has to be checked.
    ///
    /// # Errors
    /// If the peer's tail moved backwards or further ahead than the ring is long.
    #[inline]
    pub fn pop(&mut self) -> Result<Option<Slot>, Broken> {
        if self.available()? == 0 {
            return Ok(None);
        }
        let place = (self.cursor.head() & (self.slots - 1)) as usize;
        let mut words = [0u64; SLOT_WORDS];
        self.peer.copy(self.base + rings::SLOTS + place * SLOT, &mut words).ok_or(Broken)?;
        // Release: who sees the head may reuse the slot, so our reads of it come first.
        self.own.store(self.base + rings::HEAD, self.cursor.advance(1), Ordering::Release).ok_or(Broken)?;
        Ok(Some(zerocopy::transmute!(words)))
    }

    /// Slots that can be read now, at least. Looks at the peer's index only when none is known of, so a
    /// loop over an empty ring costs one load of a line that nobody writes.
    ///
    /// # Errors
    /// If the peer's tail moved backwards or further ahead than the ring is long.
    #[inline]
    pub fn available(&mut self) -> Result<usize, Broken> {
        if self.broken {
            return Err(Broken);
        }
        let ready = self.cursor.ready();
        if ready > 0 {
            return Ok(ready as usize);
        }
        // Acquire: the slots are read after the tail that covers them.
        let tail = self.peer.acquire(self.base + rings::TAIL).ok_or(Broken)?;
        self.cursor.observe(tail).map(|ready| ready as usize).inspect_err(|_| self.broken = true)
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::mapping::Mapping;
    use std::sync::Arc;
    use turnpike_abi::command::Kind;

    /// A ring of two slots carries three: the third reuses the first's place. Loom has no model of a load
    /// that a later store overtakes, so the release of the head is proved by the channel's tests, whose
    /// slots are cells.
    #[test]
    fn loom_slots_arrive_whole_and_in_order() {
        let mut model = loom::model::Builder::new();
        model.max_branches = 20_000;
        model.preemption_bound = Some(3);
        model.check(|| {
            let length = rings::SLOTS + 2 * SLOT;
            let (left, right) = (Arc::new(Mapping::zeroed(length)), Arc::new(Mapping::zeroed(length)));
            let mut producer =
                RingProducer::over(Own(Arc::clone(&left)), Peer(Arc::clone(&right)), 0, 2).unwrap();
            let mut consumer = RingConsumer::over(Own(right), Peer(left), 0, 2).unwrap();
            let thread = loom::thread::spawn(move || {
                (1..=3u64).filter(|&n| producer.push(&Slot::new(Kind(n as u32), n, &[n; 22])).is_ok()).count()
            });
            let mut received = Vec::new();
            for _ in 0..2 {
                received.extend(consumer.pop().unwrap());
            }
            let sent = thread.join().unwrap();
            while let Some(slot) = consumer.pop().unwrap() {
                received.push(slot);
            }
            assert_eq!(received.len(), sent);
            assert!(received.windows(2).all(|pair| pair[0].header.sequence < pair[1].header.sequence));
            for slot in received {
                let n = slot.header.sequence;
                assert_eq!(slot, Slot::new(Kind(n as u32), n, &[n; 22]), "torn");
            }
        });
    }
}

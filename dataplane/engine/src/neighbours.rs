//! Next hops: their station addresses, and the packets that wait for one.

use crate::Time;
use crate::keyed::{Keyed, Map, map};
use std::collections::VecDeque;
use turnpike_abi::{Address, InterfaceId};

/// Neighbours a worker knows or asks for.
const CAPACITY: usize = 65536;
/// Packets that wait, in total, for one link and for one next hop: absent neighbours on one link are not to
/// keep those of the others from being looked for.
const WAITING: usize = 256;
const WAITING_ON_LINK: usize = 128;
const WAITING_EACH: usize = 8;
/// Milliseconds between two requests for the same next hop.
const ASK_AGAIN_MS: u64 = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NextHop {
    pub(crate) interface: InterfaceId,
    pub(crate) address: Address,
}

#[derive(Clone, Copy, Debug)]
enum Entry {
    Known([u8; 6]),
    Asked(Time),
}

/// A packet ready to leave but for its next hop's address.
#[derive(Debug)]
pub(crate) struct Waiting<B> {
    pub(crate) next_hop: NextHop,
    pub(crate) buffer: B,
    pub(crate) ready: crate::egress::Ready,
    until: Time,
}

/// The neighbours of a worker.
#[derive(Debug)]
pub(crate) struct Neighbours<B> {
    entries: Map<NextHop, Entry>,
    waiting: VecDeque<Waiting<B>>,
    known: usize,
}

/// What became of a packet whose next hop is not known.
#[derive(Debug)]
pub(crate) enum Held<B> {
    /// It waits; `ask` says whether the control plane should be asked now.
    Waits { ask: bool },
    /// There is no room.
    Full(B),
}

impl<B> Neighbours<B> {
    pub(crate) fn new(keyed: Keyed) -> Self {
        Self { entries: map(CAPACITY, keyed), waiting: VecDeque::with_capacity(WAITING), known: 0 }
    }

    pub(crate) fn station(&self, next_hop: NextHop) -> Option<[u8; 6]> {
        match self.entries.get(&next_hop) {
            Some(Entry::Known(mac)) => Some(*mac),
            Some(Entry::Asked(_)) | None => None,
        }
    }

    pub(crate) fn known(&self) -> usize {
        self.known
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Keeps a packet until its next hop is known or `until`.
    pub(crate) fn hold(
        &mut self,
        now: Time,
        next_hop: NextHop,
        buffer: B,
        ready: crate::egress::Ready,
        until: Time,
    ) -> Held<B> {
        if !self.has_room(next_hop) {
            return Held::Full(buffer);
        }
        self.waiting.push_back(Waiting { next_hop, buffer, ready, until });
        let ask = match self.entries.get(&next_hop) {
            Some(Entry::Asked(at)) => now.0 >= at.0 + ASK_AGAIN_MS,
            Some(Entry::Known(_)) | None => true,
        };
        if ask {
            self.entries.insert(next_hop, Entry::Asked(now));
        }
        Held::Waits { ask }
    }

    fn has_room(&self, next_hop: NextHop) -> bool {
        if self.waiting.len() >= WAITING
            || (self.entries.len() >= CAPACITY && !self.entries.contains_key(&next_hop))
        {
            return false;
        }
        let (mut on_link, mut same) = (0, 0);
        for waiting in &self.waiting {
            on_link += usize::from(waiting.next_hop.interface == next_hop.interface);
            same += usize::from(waiting.next_hop == next_hop);
        }
        on_link < WAITING_ON_LINK && same < WAITING_EACH
    }

    /// Learns a station address. `false` if there is no room for it.
    pub(crate) fn set(&mut self, next_hop: NextHop, mac: [u8; 6]) -> bool {
        if self.entries.len() >= CAPACITY && !self.entries.contains_key(&next_hop) {
            return false;
        }
        if !matches!(self.entries.insert(next_hop, Entry::Known(mac)), Some(Entry::Known(_))) {
            self.known += 1;
        }
        true
    }

    /// Forgets a next hop.
    pub(crate) fn clear(&mut self, next_hop: NextHop) {
        if matches!(self.entries.remove(&next_hop), Some(Entry::Known(_))) {
            self.known -= 1;
        }
    }

    /// Forgets all of them; packets go on waiting.
    pub(crate) fn reset(&mut self) {
        self.entries.clear();
        self.known = 0;
    }

    /// A packet that waits for `next_hop`.
    pub(crate) fn release(&mut self, next_hop: NextHop) -> Option<Waiting<B>> {
        let at = self.waiting.iter().position(|waiting| waiting.next_hop == next_hop)?;
        self.waiting.remove(at)
    }

    /// A packet that has waited too long.
    pub(crate) fn expire(&mut self, now: Time) -> Option<Waiting<B>> {
        if self.waiting.front()?.until > now {
            return None;
        }
        let waiting = self.waiting.pop_front()?;
        let others = self.waiting.iter().any(|other| other.next_hop == waiting.next_hop);
        if !others && matches!(self.entries.get(&waiting.next_hop), Some(Entry::Asked(_))) {
            self.entries.remove(&waiting.next_hop);
        }
        Some(waiting)
    }
}

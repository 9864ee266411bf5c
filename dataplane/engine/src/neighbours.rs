//! Next hops: their station addresses, and the packets that wait for one.

use crate::keyed::{Folding, Keyed};
use crate::{Interface, Time};
use std::collections::VecDeque;
use turnpike_abi::flow::NO_HOP;
use turnpike_abi::{Address, InterfaceId, PortId};
use turnpike_wire::ethernet::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, HEADER_LEN, VLAN_LEN};

/// Neighbours a worker knows or asks for.
const CAPACITY: usize = 65536;
/// Packets that wait, in total, for one link and for one next hop: absent neighbours on one link are not to
/// keep those of the others from being looked for.
const WAITING: usize = 256;
const WAITING_ON_LINK: usize = 128;
const WAITING_EACH: usize = 8;
/// Places for adjacencies; their numbers take 16 bits in a flow's record.
const ADJACENCIES: usize = NO_HOP as usize;
/// Milliseconds between two requests for the same next hop.
const ASK_AGAIN_MS: u64 = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NextHop {
    pub(crate) interface: InterfaceId,
    pub(crate) address: Address,
}

#[derive(Clone, Copy, Debug)]
enum Entry {
    Known {
        mac: [u8; 6],
        /// Its place among the adjacencies, or [`NO_HOP`].
        adjacency: u16,
    },
    Asked(Time),
}

/// A next hop as the fast path needs it. Its place never changes its meaning within an epoch of the worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Adjacency {
    /// The Ethernet header to write.
    pub(crate) header: [u8; HEADER_LEN + VLAN_LEN],
    /// Bytes of it.
    pub(crate) length: u8,
    /// Its station address is known.
    pub(crate) live: bool,
    /// The header is one of IPv6 packets.
    pub(crate) v6: bool,
    /// Largest IP packet in bytes.
    pub(crate) mtu: u16,
    pub(crate) port: PortId,
}

impl Adjacency {
    fn new(interface: &Interface, mac: [u8; 6], mtu: u16, v6: bool) -> Self {
        let mut header = [0; HEADER_LEN + VLAN_LEN];
        let vlan = (interface.vlan != 0).then_some(interface.vlan);
        let ethertype = if v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
        let length = ethernet::write(&mut header, mac, interface.mac, vlan, ethertype).unwrap_or(0) as u8;
        Self { header, length, live: length != 0, v6, mtu, port: interface.port }
    }
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
    entries: hashbrown::HashMap<NextHop, Entry, Folding>,
    pub(crate) adjacencies: Vec<Adjacency>,
    /// The one that was asked for last, and its place: new flows of a burst mostly leave through one router.
    last: Option<(NextHop, u16)>,
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
        let adjacencies = Vec::with_capacity(ADJACENCIES);
        Self {
            // Twice the room, as [`crate::keyed::map`] has it.
            entries: hashbrown::HashMap::with_capacity_and_hasher(CAPACITY * 2, Folding::new(keyed)),
            adjacencies,
            last: None,
            waiting: VecDeque::with_capacity(WAITING),
            known: 0,
        }
    }

    pub(crate) fn station(&self, next_hop: NextHop) -> Option<[u8; 6]> {
        match self.entries.get(&next_hop) {
            Some(Entry::Known { mac, .. }) => Some(*mac),
            Some(Entry::Asked(_)) | None => None,
        }
    }

    /// The station address of the adjacency at a place, while it is known.
    pub(crate) fn station_at(&self, place: u16) -> Option<[u8; 6]> {
        let adjacency = self.adjacencies.get(usize::from(place)).filter(|adjacency| adjacency.live)?;
        adjacency.header.first_chunk().copied()
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
            Some(Entry::Known { .. }) | None => true,
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
        match self.entries.get_mut(&next_hop) {
            Some(Entry::Known { mac: known, adjacency }) => {
                *known = mac;
                let place = self.adjacencies.get_mut(usize::from(*adjacency));
                if let Some(to) = place.and_then(|adjacency| adjacency.header.first_chunk_mut()) {
                    *to = mac;
                }
            }
            Some(Entry::Asked(_)) | None => {
                self.entries.insert(next_hop, Entry::Known { mac, adjacency: NO_HOP });
                self.known += 1;
            }
        }
        true
    }

    /// Forgets a next hop.
    pub(crate) fn clear(&mut self, next_hop: NextHop) {
        self.last = None;
        if let Some(Entry::Known { adjacency, .. }) = self.entries.remove(&next_hop) {
            self.known -= 1;
            if let Some(adjacency) = self.adjacencies.get_mut(usize::from(adjacency)) {
                adjacency.live = false;
            }
        }
    }

    /// The place of a known next hop among the adjacencies; its interface takes packets of `mtu` bytes. `None` if
    /// its address is not known, or if there are no more places in this epoch ([`Neighbours::has_places`]).
    pub(crate) fn adjacency(&mut self, next_hop: NextHop, interface: &Interface, mtu: u16) -> Option<u16> {
        if let Some((last, place)) = self.last
            && last == next_hop
            && let Some(known) = self.adjacencies.get_mut(usize::from(place))
        {
            known.mtu = mtu;
            return Some(place);
        }
        let Some(Entry::Known { mac, adjacency }) = self.entries.get_mut(&next_hop) else { return None };
        if let Some(known) = self.adjacencies.get_mut(usize::from(*adjacency)) {
            known.mtu = mtu;
            self.last = Some((next_hop, *adjacency));
            return Some(*adjacency);
        }
        if self.adjacencies.len() >= ADJACENCIES {
            return None;
        }
        *adjacency = self.adjacencies.len() as u16;
        self.adjacencies.push(Adjacency::new(interface, *mac, mtu, !next_hop.address.is_v4()));
        Some(*adjacency)
    }

    /// Whether another adjacency fits into this epoch.
    pub(crate) fn has_places(&self) -> bool {
        self.adjacencies.len() < ADJACENCIES
    }

    /// Gives every place up. The worker begins another epoch, in which no record knows one.
    pub(crate) fn forget_places(&mut self) {
        self.last = None;
        self.adjacencies.clear();
        for entry in self.entries.values_mut() {
            if let Entry::Known { adjacency, .. } = entry {
                *adjacency = NO_HOP;
            }
        }
    }

    /// Forgets all of them; packets go on waiting.
    pub(crate) fn reset(&mut self) {
        self.last = None;
        self.entries.clear();
        self.adjacencies.iter_mut().for_each(|adjacency| adjacency.live = false);
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

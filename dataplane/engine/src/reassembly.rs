//! Virtual reassembly: fragments pass through without being put together (RFC 4787 REQ-14, RFC 6146 3.4).
//!
//! Only the first fragment of a datagram says which ports it belongs to. Those that come before it wait, those
//! that come after it are told, and each is then translated on its own; no byte is copied. Datagrams are known
//! by their addresses, identification and zone, so all of one meet at one worker before they go to the owner of
//! their flow. What was forwarded stays on record until the datagram is complete, so that no fragment overlaps
//! another (RFC 5722; for IPv4 too, as RFC 1858 and 3128 ask of filters). Everything is bounded: by source, in
//! number and in time; when the box is full, the oldest datagram gives way, since a whole one is done soon.

use crate::Time;
use crate::fragments::Head;
use crate::keyed::{Keyed, Map, map};
use core::hash::{BuildHasher, Hasher};
use std::collections::VecDeque;
use turnpike_abi::counters::DropReason;
use turnpike_abi::flow::NONE;
use turnpike_abi::table::{MAX_FRAGMENTS_WAITING, SettingsRecord};
use turnpike_abi::{Address, InterfaceId, WorkerId, ZoneId};
use turnpike_wire::packet::{Family, Fragment, Packet, Transport};

/// Datagrams under way that a worker keeps track of.
const DATAGRAMS: usize = 4096;
/// Fragments of those, waiting or forwarded.
const PIECES: usize = 16_384;
/// Fragments of one datagram: 64 kB over a link of 1280 bytes make 54.
const PIECES_EACH: u16 = 64;
/// Datagrams that the timers end in one call.
const ENDED_AT_ONCE: usize = 64;
/// Sequences of identifications.
const SEQUENCES: usize = 256;

/// RFC 6146 3.4: which fragments are of one datagram. In IPv6 the protocol of later ones means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    source: Address,
    destination: Address,
    identification: u32,
    protocol: u8,
    from: ZoneId,
}

/// A datagram under way.
#[derive(Clone, Copy, Debug)]
struct Datagram {
    key: Key,
    begun: Time,
    head: Option<Head>,
    /// All of it is dropped, for this.
    refused: Option<DropReason>,
    /// Its length in bytes, once the last fragment came.
    end: Option<u16>,
    /// Bytes of it that came.
    covered: u32,
    /// Its fragments, in order of their offsets.
    first: u32,
    last: u32,
    pieces: u16,
    waiting: u16,
    /// By [`Order`].
    links: [Link; 2],
}

/// Lists of datagrams, oldest first.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// All of them.
    Age = 0,
    /// Those with fragments that wait, by when the first of these came.
    Waiting = 1,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    older: u32,
    newer: u32,
}

impl Link {
    const NONE: Self = Self { older: NONE, newer: NONE };
}

/// A fragment that came.
#[derive(Debug)]
struct Piece<B> {
    offset: u16,
    end: u16,
    next: u32,
    waits: Option<(B, InterfaceId)>,
}

/// What a source has under way.
#[derive(Clone, Copy, Debug, Default)]
struct Source {
    datagrams: u32,
    waiting: u32,
}

/// A fragment on its way out of here: what its head says, or why it is dropped.
#[derive(Debug)]
pub(crate) struct Leaving<B> {
    pub(crate) buffer: B,
    pub(crate) on: InterfaceId,
    pub(crate) fate: Result<Head, DropReason>,
}

/// Why a fragment has no place in its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Misfit {
    Duplicate,
    Overlap,
    Full,
}

/// The datagrams whose fragments meet at this worker.
#[derive(Debug)]
pub(crate) struct Reassembly<B> {
    datagrams: Vec<Datagram>,
    free: Vec<u32>,
    index: Map<Key, u32>,
    /// Of each [`Order`], its oldest and newest.
    ends: [Link; 2],
    pieces: Vec<Piece<B>>,
    free_pieces: Vec<u32>,
    sources: Map<Address, Source>,
    /// IPv4, IPv6.
    waiting: [usize; 2],
    /// Fragments that were made to wait, ever.
    held: u64,
    leaving: VecDeque<Leaving<B>>,
    identifications: Identifications,
}

impl<B> Reassembly<B> {
    pub(crate) fn new(keyed: Keyed, worker: WorkerId, workers: u8) -> Self {
        Self {
            datagrams: Vec::with_capacity(DATAGRAMS),
            free: Vec::with_capacity(DATAGRAMS),
            index: map(DATAGRAMS, keyed),
            ends: [Link::NONE; 2],
            pieces: Vec::with_capacity(PIECES),
            free_pieces: Vec::with_capacity(PIECES),
            sources: map(DATAGRAMS, keyed),
            waiting: [0; 2],
            held: 0,
            leaving: VecDeque::with_capacity(MAX_FRAGMENTS_WAITING as usize + 1),
            identifications: Identifications::new(keyed, worker, workers),
        }
    }

    /// Fragments that wait, IPv4 and IPv6.
    pub(crate) fn waiting(&self) -> [usize; 2] {
        self.waiting
    }

    /// Fragments that were made to wait, ever.
    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    /// A fragment whose fate is known. Ask until there is none, after every call that takes the time.
    pub(crate) fn leaving(&mut self) -> Option<Leaving<B>> {
        self.leaving.pop_front()
    }

    /// An identification for a datagram that is sent in fragments from a translated address.
    pub(crate) fn identification(&mut self, destination: Address, protocol: u8) -> u16 {
        self.identifications.next(destination, protocol)
    }

    /// Takes a fragment that came in from a zone.
    pub(crate) fn take(
        &mut self,
        now: Time,
        settings: &SettingsRecord,
        from: ZoneId,
        packet: &Packet,
        (buffer, on): (B, InterfaceId),
    ) {
        if let Err((buffer, reason)) = self.try_take(now, settings, from, packet, (buffer, on)) {
            self.leaving.push_back(Leaving { buffer, on, fate: Err(reason) });
        }
    }

    fn try_take(
        &mut self,
        now: Time,
        settings: &SettingsRecord,
        from: ZoneId,
        packet: &Packet,
        (buffer, on): (B, InterfaceId),
    ) -> Result<(), (B, DropReason)> {
        let Some((offset, end, last)) = extent(packet) else {
            return Err((buffer, DropReason::InternalError));
        };
        let key = Key {
            source: Address(packet.source),
            destination: Address(packet.destination),
            identification: packet.identification,
            protocol: if packet.family == Family::V4 { packet.protocol } else { 0 },
            from,
        };
        let number = match self.find_or_begin(key, now, settings) {
            Ok(number) => number,
            Err(reason) => return Err((buffer, reason)),
        };
        let Some(&Datagram { refused, head, .. }) = self.datagrams.get(number as usize) else {
            return Err((buffer, DropReason::InternalError));
        };
        let waits = head.is_none() && offset != 0;
        let refusal = match refused {
            Some(reason) => Some(reason),
            None if waits && !self.has_room_to_wait(number, key.source, settings) => {
                return Err((buffer, DropReason::FragLimit));
            }
            // RFC 5508 REQ-3: the checksum of an error is verified, which takes all of it.
            None if matches!(packet.transport, Transport::IcmpError { .. }) => {
                Some(DropReason::FragIcmpError)
            }
            None => None,
        };
        if let Some(reason) = refusal {
            self.refuse(number, reason);
            return Err((buffer, reason));
        }
        let piece = match self.place(number, offset, end, last) {
            Ok(piece) => piece,
            Err(Misfit::Duplicate) => return Err((buffer, DropReason::FragDuplicate)),
            // RFC 5722 section 4: all of the datagram, those to come too.
            Err(Misfit::Overlap) => {
                self.refuse(number, DropReason::FragOverlap);
                return Err((buffer, DropReason::FragOverlap));
            }
            Err(Misfit::Full) => {
                self.refuse(number, DropReason::FragLimit);
                return Err((buffer, DropReason::FragLimit));
            }
        };
        if waits {
            self.hold(number, piece, (buffer, on));
            return Ok(());
        }
        let head = head.unwrap_or_else(|| self.learn(packet));
        self.leaving.push_back(Leaving { buffer, on, fate: Ok(head) });
        if offset == 0 {
            self.release(number, head);
        }
        if self.datagrams.get(number as usize).is_some_and(Datagram::is_complete) {
            self.end(number, DropReason::InternalError);
        }
        Ok(())
    }

    /// Ends datagrams that have been under way too long, a few at a time.
    pub(crate) fn expire(&mut self, now: Time, settings: &SettingsRecord) {
        for _ in 0..ENDED_AT_ONCE {
            let due = |datagram: &Datagram| datagram.begun.0 + u64::from(settings.fragment) * 1000 <= now.0;
            let oldest = self.oldest(Order::Age);
            if !self.datagrams.get(oldest as usize).is_some_and(due) {
                break;
            }
            self.end(oldest, DropReason::FragTimeout);
        }
    }

    fn find_or_begin(&mut self, key: Key, now: Time, settings: &SettingsRecord) -> Result<u32, DropReason> {
        if let Some(&number) = self.index.get(&key) {
            return Ok(number);
        }
        if self.sources.get(&key.source).is_some_and(|of| of.datagrams >= settings.fragments_per_source) {
            return Err(DropReason::FragLimit);
        }
        if self.free.is_empty() && self.datagrams.len() >= DATAGRAMS {
            self.end(self.oldest(Order::Age), DropReason::FragLimit);
        }
        let datagram = Datagram {
            key,
            begun: now,
            head: None,
            refused: None,
            end: None,
            covered: 0,
            first: NONE,
            last: NONE,
            pieces: 0,
            waiting: 0,
            links: [Link::NONE; 2],
        };
        let number = match self.free.pop() {
            Some(number) => number,
            None => {
                self.datagrams.push(datagram);
                self.datagrams.len() as u32 - 1
            }
        };
        let place = self.datagrams.get_mut(number as usize).ok_or(DropReason::InternalError)?;
        *place = datagram;
        self.link(Order::Age, number);
        self.index.insert(key, number);
        self.sources.entry(key.source).or_default().datagrams += 1;
        Ok(number)
    }

    /// Whether one more fragment of this datagram may wait; makes an old datagram give way if it must.
    fn has_room_to_wait(&mut self, number: u32, source: Address, settings: &SettingsRecord) -> bool {
        if self.sources.get(&source).is_some_and(|of| of.waiting >= settings.fragments_per_source) {
            return false;
        }
        if self.waiting.iter().sum::<usize>() < settings.fragments_waiting as usize {
            return true;
        }
        let mut oldest = self.oldest(Order::Waiting);
        if oldest == number {
            oldest = self
                .datagrams
                .get(number as usize)
                .map_or(NONE, |this| this.links[Order::Waiting as usize].newer);
        }
        self.end(oldest, DropReason::FragLimit);
        oldest != NONE
    }

    fn oldest(&self, order: Order) -> u32 {
        self.ends[order as usize].older
    }

    /// Appends a datagram to a list.
    fn link(&mut self, order: Order, number: u32) {
        let at = order as usize;
        let newest = core::mem::replace(&mut self.ends[at].newer, number);
        match self.datagrams.get_mut(newest as usize) {
            Some(newest) => newest.links[at].newer = number,
            None => self.ends[at].older = number,
        }
        if let Some(datagram) = self.datagrams.get_mut(number as usize) {
            datagram.links[at] = Link { older: newest, newer: NONE };
        }
    }

    /// Takes a datagram out of a list it is in.
    fn unlink(&mut self, order: Order, number: u32) {
        let at = order as usize;
        let Some(Link { older, newer }) = self.datagrams.get(number as usize).map(|this| this.links[at])
        else {
            return;
        };
        match self.datagrams.get_mut(older as usize) {
            Some(older) => older.links[at].newer = newer,
            None => self.ends[at].older = newer,
        }
        match self.datagrams.get_mut(newer as usize) {
            Some(newer) => newer.links[at].older = older,
            None => self.ends[at].newer = older,
        }
    }

    /// Puts a fragment on its datagram's record.
    fn place(&mut self, number: u32, offset: u16, end: u16, last: bool) -> Result<u32, Misfit> {
        let datagram = *self.datagrams.get(number as usize).ok_or(Misfit::Full)?;
        // Fragments mostly come in order: then nothing but the last one is looked at.
        let in_order = self.pieces.get(datagram.last as usize).is_some_and(|piece| piece.end <= offset);
        let (mut before, mut at) = if in_order { (datagram.last, NONE) } else { (NONE, datagram.first) };
        while let Some(piece) = self.pieces.get(at as usize).filter(|piece| piece.offset < offset) {
            (before, at) = (at, piece.next);
        }
        let behind = self.pieces.get(at as usize);
        if behind.is_some_and(|piece| (piece.offset, piece.end) == (offset, end)) {
            return Err(Misfit::Duplicate);
        }
        let past_the_end =
            datagram.end.is_some_and(|whole| end > whole || last) || (last && behind.is_some());
        if past_the_end
            || self.pieces.get(before as usize).is_some_and(|piece| piece.end > offset)
            || behind.is_some_and(|piece| piece.offset < end)
        {
            return Err(Misfit::Overlap);
        }
        if datagram.pieces >= PIECES_EACH {
            return Err(Misfit::Full);
        }
        let piece = Piece { offset, end, next: at, waits: None };
        let place = self.piece(number, piece).ok_or(Misfit::Full)?;
        if let Some(before) = self.pieces.get_mut(before as usize) {
            before.next = place;
        }
        let datagram = self.datagrams.get_mut(number as usize).ok_or(Misfit::Full)?;
        if before == NONE {
            datagram.first = place;
        }
        if at == NONE {
            datagram.last = place;
        }
        if last {
            datagram.end = Some(end);
        }
        datagram.pieces += 1;
        datagram.covered += u32::from(end - offset);
        Ok(place)
    }

    /// A record for a fragment; the oldest other datagram gives way if there is none left.
    fn piece(&mut self, number: u32, piece: Piece<B>) -> Option<u32> {
        if self.free_pieces.is_empty() && self.pieces.len() >= PIECES {
            let oldest = self.oldest(Order::Age);
            if oldest == number {
                return None;
            }
            self.end(oldest, DropReason::FragLimit);
        }
        let place = match self.free_pieces.pop() {
            Some(place) => place,
            None if self.pieces.len() < PIECES => {
                self.pieces.push(piece);
                return Some(self.pieces.len() as u32 - 1);
            }
            None => return None,
        };
        *self.pieces.get_mut(place as usize)? = piece;
        Some(place)
    }

    /// What a first fragment says, with an identification of ours for IPv4: it counts where the source is
    /// translated, so that datagrams of two hosts behind one address do not mix (RFC 3022 6.3, RFC 6864 5.3.1).
    fn learn(&mut self, packet: &Packet) -> Head {
        let identification = match packet.family {
            Family::V4 => self.identification(Address(packet.destination), packet.protocol).into(),
            Family::V6 => packet.identification,
        };
        Head::new(packet, identification)
    }

    fn hold(&mut self, number: u32, piece: u32, buffer: (B, InterfaceId)) {
        let (Some(datagram), Some(piece)) =
            (self.datagrams.get_mut(number as usize), self.pieces.get_mut(piece as usize))
        else {
            return;
        };
        piece.waits = Some(buffer);
        datagram.waiting += 1;
        if datagram.waiting == 1 {
            self.link(Order::Waiting, number);
        }
        self.held += 1;
        self.count(number, 1);
    }

    /// Counts `more` fragments of a datagram that wait, or `-more` that wait no longer.
    fn count(&mut self, number: u32, more: isize) {
        let Some(Datagram { key, .. }) = self.datagrams.get(number as usize) else { return };
        if let Some(source) = self.sources.get_mut(&key.source) {
            source.waiting = source.waiting.saturating_add_signed(more as i32);
        }
        if let Some(waiting) = self.waiting.get_mut(usize::from(!key.source.is_v4())) {
            *waiting = waiting.saturating_add_signed(more);
        }
    }

    /// The first fragment came: the others follow it in order.
    fn release(&mut self, number: u32, head: Head) {
        if let Some(datagram) = self.datagrams.get_mut(number as usize) {
            datagram.head = Some(head);
        }
        self.let_go(number, Ok(head));
    }

    /// Whatever of a datagram waits leaves, in order.
    fn let_go(&mut self, number: u32, fate: Result<Head, DropReason>) {
        let Some(datagram) = self.datagrams.get_mut(number as usize) else { return };
        let waited = core::mem::take(&mut datagram.waiting);
        if waited == 0 {
            return;
        }
        let mut at = datagram.first;
        self.unlink(Order::Waiting, number);
        while let Some(piece) = self.pieces.get_mut(at as usize) {
            if let Some((buffer, on)) = piece.waits.take() {
                self.leaving.push_back(Leaving { buffer, on, fate });
            }
            at = piece.next;
        }
        self.count(number, -isize::from(waited as i16));
    }

    /// Drops a datagram: what waits of it, and what is to come until its time is over.
    fn refuse(&mut self, number: u32, reason: DropReason) {
        self.let_go(number, Err(reason));
        let Some(datagram) = self.datagrams.get_mut(number as usize) else { return };
        datagram.refused = Some(reason);
    }

    /// Forgets a datagram; what of it waits is dropped.
    fn end(&mut self, number: u32, reason: DropReason) {
        self.let_go(number, Err(reason));
        let Some(&Datagram { key, first, .. }) = self.datagrams.get(number as usize) else { return };
        let mut at = first;
        while let Some(piece) = self.pieces.get(at as usize) {
            self.free_pieces.push(at);
            at = piece.next;
        }
        self.unlink(Order::Age, number);
        self.index.remove(&key);
        if let Some(source) = self.sources.get_mut(&key.source) {
            source.datagrams -= 1;
            if source.datagrams == 0 {
                self.sources.remove(&key.source);
            }
        }
        self.free.push(number);
    }
}

impl Datagram {
    /// Every byte of it has been forwarded.
    fn is_complete(&self) -> bool {
        self.head.is_some() && self.waiting == 0 && self.end.is_some_and(|end| u32::from(end) == self.covered)
    }
}

/// First byte in the datagram, the one behind the last, and whether the datagram ends there.
fn extent(packet: &Packet) -> Option<(u16, u16, bool)> {
    let (offset, data, more) = match packet.fragment {
        Fragment::Whole => return None,
        Fragment::First { data } => (0, data, true),
        Fragment::Later { offset, more } => (offset, packet.l4, more),
    };
    let length = u16::try_from(packet.end.checked_sub(data)?).ok()?;
    Some((offset, offset.checked_add(length)?, !more))
}

/// Identifications of IPv4 datagrams, in sequences by destination and protocol that each start anywhere. Workers
/// share external addresses, so each has a range of its own.
#[derive(Debug)]
struct Identifications {
    keyed: Keyed,
    counts: Vec<u32>,
    first: u32,
    range: u32,
}

impl Identifications {
    fn new(keyed: Keyed, worker: WorkerId, workers: u8) -> Self {
        let range = 65_536 / u32::from(workers.max(1));
        let start = |sequence: usize| {
            let mut hasher = keyed.build_hasher();
            hasher.write(b"identification");
            hasher.write_usize(sequence);
            hasher.finish() as u32
        };
        Self { keyed, counts: (0..SEQUENCES).map(start).collect(), first: range * u32::from(worker.0), range }
    }

    fn next(&mut self, destination: Address, protocol: u8) -> u16 {
        let mut hasher = self.keyed.build_hasher();
        hasher.write_u128(u128::from_be_bytes(destination.0));
        hasher.write_u8(protocol);
        let at = hasher.finish() as usize % SEQUENCES;
        let Some(count) = self.counts.get_mut(at) else { return 0 };
        *count = count.wrapping_add(1);
        (self.first + *count % self.range) as u16
    }
}

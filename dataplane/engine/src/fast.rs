//! The fast path: packets of known flows that need nothing but their rewrite, a burst at a time.
//!
//! A burst moves through three stages, none of which waits for a cache line that the one before it could have
//! asked for: headers and hash; the index's bucket; the flow's record and what follows from it. Whatever is not
//! plain (options, fragments, SYN and FIN, a next hop not known yet, a route that changed) goes the long way
//! through [`Worker::frame`], which knows all of it and leaves in the record what this path needs next time.

use crate::Buffer;
use crate::bindings::{Bindings, Place};
use crate::flows::{Flows, Key4, Key6};
use crate::neighbours::Adjacency;
use crate::outbox::Outbox;
use crate::pipeline::Worker;
use crate::ports::{Class, Foreseen};
use crate::{Interface, Time};
use core::ops::Range;
use turnpike_abi::InterfaceId;
use turnpike_abi::counters::{Counters, Direction, DropReason, ProtocolClass, TcpState};
use turnpike_abi::flow::{FlowRecord, NONE, Toward, flag};
use turnpike_shm::memory::prefetch_bytes;
use turnpike_wire::checksum::Delta;
use turnpike_wire::ethernet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, HEADER_LEN, VLAN_LEN};
use turnpike_wire::packet::Family;

/// Packets that move through the stages together.
pub(crate) const LANES: usize = 64;
/// Packets that are finished before those behind them are prepared again.
pub(crate) const GROUP: usize = 8;
/// Packets whose headers are asked for ahead of the one that is read.
const AHEAD: usize = 4;
/// Bursts by which it changes where packets are looked for first: one that is unlike those before and behind it changes nothing.
const CROWDED: u8 = 3;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ETHERTYPE_VLAN: u16 = 0x8100;
/// FIN, SYN, RST, ACK; only the last is plain.
const FLAGS: u8 = 0x17;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// What one less of a TTL does to the header checksum: `~old + new` of the word that holds it.
const TTL_DELTA: Delta = Delta::word(0x0100, 0x0000);

/// A packet on its way through the stages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lane {
    pub(crate) key: Key4,
    /// Under which its flow is looked for first. Of an IPv4 packet one of [`Flows::hashes4`]: by its source, if it may open
    /// a flow.
    pub(crate) hash: u64,
    /// What the index says it is, or [`NONE`] for the long way.
    guess: u32,
    /// Bytes of the IP packet; 0 of a SYN, which is none of the fast path's.
    pub(crate) length: u16,
    /// Offset of the IP header.
    pub(crate) l3: u8,
    /// Interface it came in on.
    pub(crate) on: u8,
    /// IPv6: its key stays in the packet.
    v6: bool,
    /// Came from inside: its flow may be filed by its source.
    near: bool,
    /// May open a flow: the long way, but not unprepared.
    opens: bool,
}

impl Lane {
    const SLOW: Self = Self {
        key: Key4 { addresses: 0, ports: 0, protocol: 0 },
        hash: 0,
        guess: NONE,
        length: 0,
        l3: 0,
        on: 0,
        v6: false,
        near: false,
        opens: false,
    };

    /// The key of an IPv4 packet that may open a flow.
    #[inline(always)]
    pub(crate) fn opening(&self) -> Option<Key4> {
        (self.opens && !self.v6).then_some(self.key)
    }

    /// Asks for the index's bucket of an IPv4 packet's flow, where that is looked for first.
    #[inline(always)]
    fn hash(&mut self, flows: &Flows, crowded: bool) {
        self.hash = if self.near && !crowded { flows.hashes4(self.key).0 } else { flows.hash4(self.key) };
        flows.prefetch_index(self.hash);
    }

    /// Notes what the index says an IPv4 packet is. Returns whether that may open a flow.
    #[inline(always)]
    fn guessed(&mut self, guess: u32) -> bool {
        // A SYN has the long way to go even if its flow exists.
        self.guess = if self.opens { NONE } else { guess };
        self.opens = guess == NONE && self.near;
        self.opens
    }

    /// Whether the index knew something of it.
    #[inline(always)]
    pub(crate) fn is_guessed(&self) -> bool {
        self.guess != NONE
    }

    /// Interface, offset and family of a packet that was found sound, if it was.
    pub(crate) fn packet(&self) -> Option<(InterfaceId, usize, Family)> {
        let family = if self.v6 { Family::V6 } else { Family::V4 };
        (self.l3 != 0).then_some((InterfaceId(self.on.into()), usize::from(self.l3), family))
    }
}

/// The stages' memory between two of them.
#[derive(Debug)]
pub(crate) struct Lanes {
    lanes: [Lane; LANES],
    /// Of packets that may open a flow.
    drawn: [Drawn; LANES],
    /// Of the last bursts from inside, how many had most of their packets filed under their whole key, less the others: 0 to
    /// [`CROWDED`].
    crowded: u8,
}

/// What a packet will need that may open a flow.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Drawn {
    /// Where its binding is filed, if that may have a record.
    pub(crate) place: Option<Place>,
    /// The port that a new binding of its will get.
    pub(crate) foreseen: Option<Foreseen>,
    /// With that port, the hash of packets that answer.
    answers: u64,
}

impl Drawn {
    /// The hash of packets that answer those of a flow whose binding has a port, if it is the one that was drawn.
    pub(crate) fn answers(&self, (external, port): ([u8; 4], u16)) -> Option<u64> {
        let drawn = self.foreseen.filter(|drawn| (drawn.external, drawn.port) == (external, port));
        drawn.map(|_| self.answers)
    }
}

impl Lanes {
    pub(crate) fn new() -> Self {
        Self { lanes: [Lane::SLOW; LANES], drawn: [Drawn::default(); LANES], crowded: 0 }
    }

    /// Whether what comes from inside is looked for under its whole key first.
    #[inline(always)]
    const fn crowded(&self) -> bool {
        self.crowded > CROWDED / 2
    }

    /// A lane of the burst.
    #[inline(always)]
    pub(crate) fn at(&self, at: usize) -> &Lane {
        self.lanes.get(at).unwrap_or(&Lane::SLOW)
    }

    /// Whether no port was drawn for a packet, so that it brought its subscriber a block, and the next one is of the same.
    #[inline(always)]
    pub(crate) fn brought_first_block(&self, at: usize) -> bool {
        let (this, next) = (self.at(at), self.at(at + 1));
        let of_same = this.key.addresses.to_le() as u32 == next.key.addresses.to_le() as u32 && next.opens;
        of_same && self.drawn.get(at).is_some_and(|drawn| drawn.foreseen.is_none())
    }

    /// What [`prepare`] found out for a packet, if it may open a flow.
    pub(crate) fn drawn(&self, at: usize) -> Option<&Drawn> {
        self.drawn.get(at).filter(|_| self.lanes.get(at).is_some_and(|lane| lane.opens))
    }
}

/// The interfaces of a port, for the first look at a frame.
#[derive(Clone, Debug, Default)]
pub(crate) struct Doors {
    doors: Vec<Door>,
}

#[derive(Clone, Copy, Debug)]
struct Door {
    /// VLAN id, 0 for untagged.
    vlan: u16,
    on: u8,
    /// Leads inside, where a translator is.
    near: bool,
    /// The address as it stands in a frame.
    station: u64,
}

impl Doors {
    /// Those of each port.
    pub(crate) fn of(interfaces: &[Interface]) -> Vec<Self> {
        let ports = interfaces.iter().map(|interface| interface.port.index() + 1).max().unwrap_or(0);
        let mut all = vec![Self::default(); ports];
        for (interface, id) in interfaces.iter().zip(0u8..u8::MAX) {
            if let Some(of_port) = all.get_mut(interface.port.index()) {
                let [a, b, c, d, e, f] = interface.mac;
                let station = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
                of_port.doors.push(Door { vlan: interface.vlan, on: id, near: false, station });
            }
        }
        all
    }

    /// Says which of them lead inside, where a translator is.
    pub(crate) fn set_near(&mut self, near: impl Fn(InterfaceId) -> bool) {
        for door in &mut self.doors {
            door.near = near(InterfaceId(door.on.into()));
        }
    }

    #[inline(always)]
    fn find(&self, vlan: u16, station: u64) -> Option<&Door> {
        self.doors.iter().find(|door| door.vlan == vlan && door.station == station)
    }
}

/// What a fast packet leaves with.
pub(crate) struct Rewritten {
    pub(crate) adjacency: Adjacency,
    pub(crate) direction: Direction,
    pub(crate) class: ProtocolClass,
}

/// First stage: headers, hash, and a request for the index's bucket.
#[inline(always)]
pub(crate) fn look<B: Buffer>(lanes: &mut Lanes, burst: &[B], doors: &Doors, flows: &Flows) {
    let crowded = lanes.crowded();
    for (at, (lane, buffer)) in lanes.lanes.iter_mut().zip(burst).enumerate() {
        if let Some(ahead) = burst.get(at + AHEAD) {
            prefetch_bytes(ahead.bytes());
        }
        *lane = read(buffer.bytes(), doors).unwrap_or(Lane::SLOW);
        if lane.v6 {
            if let Some(key) = key6(buffer.bytes(), lane) {
                lane.hash = flows.hash6(&key);
                flows.prefetch_index6(lane.hash);
            }
        } else if lane.length != 0 || lane.opens {
            lane.hash(flows, crowded);
        }
    }
}

/// For benches: headers alone, so that nothing of the table is asked for before the time is taken.
pub(crate) fn parse<B: Buffer>(lanes: &mut Lanes, burst: &[B], doors: &Doors) {
    for (lane, buffer) in lanes.lanes.iter_mut().zip(burst) {
        *lane = read(buffer.bytes(), doors).unwrap_or(Lane::SLOW);
    }
}

/// Second stage: the index, and a request for the flow's record. What came from inside and is not found where it is looked
/// for first is looked for once more when the others are done; where most of a few bursts was found is where the next one is
/// looked for first. Returns whether any packet may open a flow.
#[inline(always)]
pub(crate) fn guess(lanes: &mut Lanes, count: usize, flows: &Flows) -> bool {
    let crowded = lanes.crowded();
    let (mut opening, mut again) = (false, 0u64);
    for (at, lane) in lanes.lanes.iter_mut().take(count).enumerate() {
        if lane.v6 {
            lane.guess = flows.guess6(lane.hash).unwrap_or(NONE);
        } else if lane.length != 0 || lane.opens {
            let guess = flows.guess4(lane.hash);
            if lane.near && guess.is_none() && (crowded || flows.may_be_elsewhere(lane.hash)) {
                let (by_source, whole) = flows.hashes4(lane.key);
                lane.hash = if crowded { by_source } else { whole };
                flows.prefetch_index(lane.hash);
                again |= 1 << at;
            } else {
                opening |= lane.guessed(guess.unwrap_or(NONE));
            }
        }
    }
    let (known, found) = if again == 0 { (count, 0) } else { guess_again(lanes, count, again, flows) };
    if lanes.at(0).near {
        let most_are_elsewhere = found * 2 > known;
        let step =
            if most_are_elsewhere == crowded { lanes.crowded.saturating_sub(1) } else { lanes.crowded + 1 };
        lanes.crowded = step.min(CROWDED);
    }
    opening || known < count
}

/// Looks in the other place for the packets that `again` has a bit for. Returns how many of the burst open no flow, and how
/// many were found there.
#[inline(never)]
fn guess_again(lanes: &mut Lanes, count: usize, mut again: u64, flows: &Flows) -> (usize, usize) {
    let (mut known, mut found) = (count, 0);
    while again != 0 {
        let at = again.trailing_zeros() as usize;
        again &= again - 1;
        let Some(lane) = lanes.lanes.get_mut(at) else { break };
        let guess = flows.guess4(lane.hash);
        found += usize::from(guess.is_some());
        if lane.guessed(guess.unwrap_or(NONE)) {
            lane.hash = flows.hashes4(lane.key).0;
            known -= 1;
        }
    }
    (known, found)
}

/// Between second and third stage, where packets may open flows: what a new binding touches is asked for line
/// after line, each over the whole burst. The last two are those of the port that it will get, which is drawn here, and
/// of the flow's entry for what comes back to that port. `again`, before each [`GROUP`], does it for those alone for which
/// no port was drawn, of the group and of the next one: a packet before them may have brought their subscriber its first
/// block; of the others it asks for what lies behind a bucket that is full.
pub(crate) fn prepare(
    lanes: &mut Lanes,
    some: Range<usize>,
    again: bool,
    bindings: &mut Bindings,
    flows: &Flows,
) {
    let Lanes { lanes, drawn, .. } = lanes;
    let mut opening = [Opening::NONE; LANES];
    let mut openings = 0;
    let of_some = lanes.iter().zip(drawn.iter_mut()).enumerate().skip(some.start).take(some.len());
    for (at, (lane, drawn)) in of_some.filter(|(_, (lane, _))| lane.opens) {
        if again && drawn.foreseen.is_some() {
            if at < some.start + GROUP {
                flows.prefetch_overflow(lane.hash);
                flows.prefetch_overflow(drawn.answers);
            }
            continue;
        }
        let Some(opening) = opening.get_mut(openings) else { break };
        let [a, b, c, d, ..] = lane.key.addresses.to_ne_bytes();
        let [high, low, ..] = lane.key.ports.to_ne_bytes();
        bindings.prefetch([a, b, c, d]);
        drawn.place = flows.may_have_record(lane.hash).then(|| {
            bindings.prefetch_place(lane.key.protocol, [a, b, c, d], u16::from_be_bytes([high, low]))
        });
        let class = if lane.key.protocol == TCP { Class::Tcp } else { Class::Udp };
        *opening = Opening { lane: at, class, inside: [a, b, c, d], subscriber: NONE, block: NONE };
        openings += 1;
    }
    let opening = opening.get_mut(..openings).unwrap_or_default();
    for opening in opening.iter_mut() {
        opening.subscriber = bindings.prefetch_subscriber(opening.inside).unwrap_or(NONE);
    }
    for opening in opening.iter_mut() {
        opening.block = bindings.ports.prefetch_block(opening.subscriber, opening.class).unwrap_or(NONE);
    }
    for opening in opening.iter() {
        bindings.ports.prefetch_units(opening.block, opening.class);
    }
    for opening in opening.iter() {
        let foreseen = bindings.draw(opening.subscriber, opening.block, opening.class);
        if let (Some(drawn), Some(lane)) = (drawn.get_mut(opening.lane), lanes.get(opening.lane)) {
            if let Some(foreseen) = &foreseen {
                drawn.answers = flows.prefetch_answers(lane.key, foreseen.external, foreseen.port);
            }
            drawn.foreseen = foreseen;
        }
    }
}

/// A packet that may open a flow.
#[derive(Clone, Copy)]
struct Opening {
    lane: usize,
    inside: [u8; 4],
    class: Class,
    /// What the index says they are, or [`NONE`].
    subscriber: u32,
    block: u32,
}

impl Opening {
    const NONE: Self = Self { lane: 0, inside: [0; 4], class: Class::Udp, subscriber: NONE, block: NONE };
}

/// A plain packet: for a station of the port, IP without options or extension headers, whole, UDP or a TCP segment
/// that changes nothing, TTL left, every length and the header checksum right. `None` for all else.
#[inline(always)]
fn read(frame: &[u8], doors: &Doors) -> Option<Lane> {
    let ethernet: &[u8; HEADER_LEN] = frame.first_chunk()?;
    let &[a, b, c, d, e, f, .., type_high, type_low] = ethernet;
    let station = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
    let (vlan, l3, ethertype) = match u16::from_be_bytes([type_high, type_low]) {
        ethertype @ (ETHERTYPE_IPV4 | ETHERTYPE_IPV6) => (0, HEADER_LEN, ethertype),
        ETHERTYPE_VLAN => {
            let &[tag_high, tag_low, high, low] = frame.get(HEADER_LEN..)?.first_chunk()?;
            let vlan = u16::from_be_bytes([tag_high, tag_low]) & 0x0fff;
            // Tagged 0 is the untagged interface: rare, and its header shrinks.
            if vlan == 0 {
                return None;
            }
            (vlan, HEADER_LEN + VLAN_LEN, u16::from_be_bytes([high, low]))
        }
        _ => return None,
    };
    let door = doors.find(vlan, station)?;
    match ethertype {
        ETHERTYPE_IPV4 => read4(frame, l3, door),
        ETHERTYPE_IPV6 => read6(frame, l3, door.on),
        _ => None,
    }
}

#[inline(always)]
fn read4(frame: &[u8], l3: usize, door: &Door) -> Option<Lane> {
    let ip: &[u8; 28] = frame.get(l3..)?.first_chunk()?;
    let length = u16::from_be_bytes([ip[2], ip[3]]);
    let fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0xbfff;
    let plain = ip[0] == 0x45
        && fragment == 0
        && ip[8] > 1
        && l3 + usize::from(length) <= frame.len()
        && header_is_sound(ip);
    if !plain {
        return None;
    }
    let (sound, opens) = match ip[9] {
        UDP => (length >= 28 && u16::from_be_bytes([ip[24], ip[25]]) == length - 20, false),
        TCP => match frame.get(l3 + 33) {
            Some(flags) if flags & FLAGS == SYN && length >= 40 => (false, true),
            _ => (is_plain_segment(frame, l3 + 20, length.saturating_sub(20)), false),
        },
        _ => (false, false),
    };
    let addresses = [ip[12], ip[13], ip[14], ip[15], ip[16], ip[17], ip[18], ip[19]];
    let key = Key4 {
        addresses: u64::from_ne_bytes(addresses),
        ports: u32::from_ne_bytes([ip[20], ip[21], ip[22], ip[23]]),
        protocol: ip[9],
    };
    let lane = Lane { key, l3: l3 as u8, on: door.on, near: door.near, ..Lane::SLOW };
    match (sound, opens) {
        (true, _) => Some(Lane { length, ..lane }),
        (false, true) => Some(Lane { opens, ..lane }),
        (false, false) => None,
    }
}

#[inline(always)]
fn read6(frame: &[u8], l3: usize, on: u8) -> Option<Lane> {
    let ip: &[u8; 48] = frame.get(l3..)?.first_chunk()?;
    let payload = u16::from_be_bytes([ip[4], ip[5]]);
    let length = payload.checked_add(40)?;
    let sound = match ip[6] {
        // RFC 8200 8.1: a checksum of 0 is not for IPv6.
        UDP => u16::from_be_bytes([ip[44], ip[45]]) == payload && payload >= 8 && [ip[46], ip[47]] != [0, 0],
        TCP => is_plain_segment(frame, l3 + 40, payload),
        _ => false,
    };
    let plain = ip[0] >> 4 == 6 && ip[7] > 1 && l3 + usize::from(length) <= frame.len() && sound;
    plain.then_some(Lane {
        key: Key4 { protocol: ip[6], ..Lane::SLOW.key },
        length,
        l3: l3 as u8,
        on,
        v6: true,
        ..Lane::SLOW
    })
}

/// Whether a TCP segment of `length` bytes has a sound header and changes no state.
#[inline(always)]
fn is_plain_segment(frame: &[u8], l4: usize, length: u16) -> bool {
    let Some(&[offset, flags]) = frame.get(l4 + 12..).and_then(<[u8]>::first_chunk) else { return false };
    let header = u16::from(offset >> 4) * 4;
    header >= 20 && length >= header && flags & FLAGS == ACK
}

/// Addresses and ports of a plain IPv6 packet.
#[inline(always)]
fn key6(frame: &[u8], lane: &Lane) -> Option<Key6> {
    let ip: &[u8; 44] = frame.get(usize::from(lane.l3)..)?.first_chunk()?;
    Some(Key6 {
        source: *ip.get(8..)?.first_chunk()?,
        destination: *ip.get(24..)?.first_chunk()?,
        ports: u32::from_ne_bytes([ip[40], ip[41], ip[42], ip[43]]),
        protocol: lane.key.protocol,
    })
}

/// Whether the checksum over a header without options holds. Byte order does not matter to it (RFC 1071 2.B).
#[inline(always)]
fn header_is_sound(ip: &[u8; 28]) -> bool {
    let (words, _) = ip.as_chunks::<4>();
    let sum: u64 = words.iter().take(5).map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    (sum & 0xffff) + (sum >> 16) == 0xffff
}

impl<B: Buffer> Worker<B> {
    /// Third stage: finishes a packet, or gives it back for the long way, untouched.
    #[inline(always)]
    pub(crate) fn fast(
        &mut self,
        now: Time,
        inbound_refreshes: bool,
        lane: &Lane,
        mut buffer: B,
        out: &mut Outbox<B>,
    ) -> Result<(), B> {
        let Some(done) = self.rewrite(now, inbound_refreshes, lane, buffer.bytes_mut()) else {
            return Err(buffer);
        };
        depart(&mut self.counters, lane, &done, buffer, out);
        Ok(())
    }

    /// A packet that [`Worker::fast`] gave back although something was found for it. If that was another flow, the right one is
    /// looked for; if there is none, the packet is prepared as others are that may open one.
    #[inline(never)]
    pub(crate) fn fast_again(
        &mut self,
        now: Time,
        inbound_refreshes: bool,
        (lanes, at): (&mut Lanes, usize),
        buffer: B,
        out: &mut Outbox<B>,
    ) -> Result<(), B> {
        let Some(lane) = lanes.lanes.get_mut(at).filter(|lane| !lane.v6) else { return Err(buffer) };
        if self.flows.confirm4(lane.guess, lane.key).is_some() {
            return Err(buffer);
        }
        if let Some((flow, toward)) = self.flows.find4(lane.key) {
            lane.guess = flow << 1 | toward as u32;
            return self.fast(now, inbound_refreshes, lane, buffer, out);
        }
        (lane.guess, lane.opens, lane.hash) = (NONE, lane.near, self.flows.hashes4(lane.key).0);
        if lane.opens {
            prepare(lanes, at..at + 1, false, &mut self.bindings, &self.flows);
        }
        Err(buffer)
    }

    /// The translator's part: the flow's record, its state, addresses, ports and checksums.
    #[inline(always)]
    fn rewrite(
        &mut self,
        now: Time,
        inbound_refreshes: bool,
        lane: &Lane,
        frame: &mut [u8],
    ) -> Option<Rewritten> {
        if lane.guess == NONE {
            return None;
        }
        let (record, toward) = if lane.v6 {
            self.flows.confirm6(lane.guess, &key6(frame, lane)?)?
        } else {
            self.flows.confirm4(lane.guess, lane.key)?
        };
        let adjacency = *ready(record, toward, lane, self.epoch, &self.neighbours.adjacencies)?;
        record.count(toward, u64::from(lane.length));
        if toward == Toward::Out || lane.key.protocol == TCP || inbound_refreshes {
            record.stamp = now.0 as u32;
        }
        let class = if lane.key.protocol == TCP { ProtocolClass::Tcp } else { ProtocolClass::Udp };
        let direction = match (record.has(flag::TRANSLATED), toward) {
            (false, _) => Direction::Routed,
            (true, Toward::Out) => Direction::In2Out,
            (true, Toward::In) => Direction::Out2In,
        };
        if !lane.v6 {
            translate(frame, lane, record, toward)?;
        }
        Some(Rewritten { adjacency, direction, class })
    }

    /// For benches: all stages of the translator over a burst, without what comes before and after it.
    pub(crate) fn translate_burst(&mut self, now: Time, lanes: &mut Lanes, burst: &mut [B]) -> usize {
        let count = burst.len().min(LANES);
        let crowded = lanes.crowded();
        for lane in lanes.lanes.iter_mut().take(count).filter(|lane| lane.length != 0 && !lane.v6) {
            lane.hash(&self.flows, crowded);
        }
        guess(lanes, count, &self.flows);
        let mut done = 0;
        for (lane, buffer) in lanes.lanes.iter().zip(burst) {
            done += usize::from(self.rewrite(now, false, lane, buffer.bytes_mut()).is_some());
        }
        done
    }
}

/// The next hop of a packet that may take the fast path.
#[inline(always)]
fn ready<'a>(
    record: &FlowRecord,
    toward: Toward,
    lane: &Lane,
    epoch: u32,
    adjacencies: &'a [Adjacency],
) -> Option<&'a Adjacency> {
    let (hop, ingress) = match toward {
        Toward::Out => (record.hops[0], record.ingress[0]),
        Toward::In => (record.hops[1], record.ingress[1]),
    };
    let adjacency = adjacencies.get(usize::from(hop))?;
    let settled = lane.key.protocol != TCP
        || record.state & (flag::TCP | flag::RESET) == TcpState::Established.index() as u8;
    let may = record.epoch == epoch
        && ingress == lane.on
        && settled
        && adjacency.live
        && lane.length <= adjacency.mtu
        && lane.l3 == adjacency.length
        && lane.v6 == adjacency.v6;
    may.then_some(adjacency)
}

/// Addresses, ports and checksums of a plain packet.
#[inline(always)]
pub(crate) fn translate(frame: &mut [u8], lane: &Lane, record: &FlowRecord, toward: Toward) -> Option<()> {
    let l3 = usize::from(lane.l3);
    let [a, b, c, d, _, _, _, _, i, j, k, l] = record.addresses;
    let [m, n, _, _, o, p] = record.ports;
    let (ip_delta, l4_delta) = (Delta::from_bits(record.ip_delta), Delta::from_bits(record.l4_delta));
    let ip: &mut [u8; 28] = frame.get_mut(l3..)?.first_chunk_mut()?;
    let (ip_delta, l4_delta) = match toward {
        Toward::Out => {
            (ip[12], ip[13], ip[14], ip[15]) = (i, j, k, l);
            (ip[20], ip[21]) = (o, p);
            (ip_delta, l4_delta)
        }
        Toward::In => {
            (ip[16], ip[17], ip[18], ip[19]) = (a, b, c, d);
            (ip[22], ip[23]) = (m, n);
            (ip_delta.inverse(), l4_delta.inverse())
        }
    };
    [ip[10], ip[11]] = ip_delta.apply(u16::from_be_bytes([ip[10], ip[11]])).to_be_bytes();
    if lane.key.protocol == UDP {
        [ip[26], ip[27]] = l4_delta.apply_udp(u16::from_be_bytes([ip[26], ip[27]])).to_be_bytes();
    } else {
        let check: &mut [u8; 2] = frame.get_mut(l3 + 36..)?.first_chunk_mut()?;
        *check = l4_delta.apply(u16::from_be_bytes(*check)).to_be_bytes();
    }
    Some(())
}

/// TTL, Ethernet header, counters, TX queue.
#[inline(always)]
pub(crate) fn depart<B: Buffer>(
    counters: &mut Counters,
    lane: &Lane,
    done: &Rewritten,
    mut buffer: B,
    out: &mut Outbox<B>,
) {
    let l3 = usize::from(lane.l3);
    let end = l3 + usize::from(lane.length);
    let frame = buffer.bytes_mut();
    // Ethernet padding ends here.
    let padded = frame.len() != end;
    if lane.v6 {
        if let Some(hop_limit) = frame.get_mut(l3 + 7) {
            *hop_limit = hop_limit.wrapping_sub(1);
        }
    } else if let Some(ip) = frame.get_mut(l3..).and_then(<[u8]>::first_chunk_mut::<20>) {
        ip[8] = ip[8].wrapping_sub(1);
        [ip[10], ip[11]] = TTL_DELTA.apply(u16::from_be_bytes([ip[10], ip[11]])).to_be_bytes();
    }
    match l3 {
        HEADER_LEN => {
            if let (Some(header), Some(wanted)) =
                (frame.first_chunk_mut::<HEADER_LEN>(), done.adjacency.header.first_chunk::<HEADER_LEN>())
            {
                *header = *wanted;
            }
        }
        _ => {
            if let Some(header) = frame.first_chunk_mut::<{ HEADER_LEN + VLAN_LEN }>() {
                *header = done.adjacency.header;
            }
        }
    }
    if padded && !buffer.resize(end) {
        counters.drop_packet(DropReason::InternalError);
        out.freed.push(buffer);
        return;
    }
    match out.transmit(done.adjacency.port, buffer) {
        Ok(()) => counters.forwarded(done.direction, done.class, end),
        Err(buffer) => {
            counters.drop_packet(DropReason::TxQueueFull);
            out.freed.push(buffer);
        }
    }
}

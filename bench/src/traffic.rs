//! The packets: which flows there are, in which order they come, and what their headers hold.

use crate::frame::{Frame, HEADERS, Stock};
use crate::options::{Direction, Family, FrameSize, Order, Protocol};
use std::sync::Arc;
use turnpike_abi::Address;
use turnpike_wire::checksum;
use turnpike_wire::ethernet;
use turnpike_wire::packet::{TCP_ACK, TCP_SYN};

/// Bits of a flow's number in the payload; above it is the number of its worker.
const NUMBER_BITS: u32 = 26;

/// What the payload says of a flow.
const fn tag(worker: u8, number: u32) -> u32 {
    (worker as u32) << NUMBER_BITS | number
}

/// Worker and flow number that a payload names.
pub const fn tagged(tag: u32) -> (usize, u32) {
    ((tag >> NUMBER_BITS) as usize, tag & ((1 << NUMBER_BITS) - 1))
}

/// The port that subscribers are behind.
pub const INSIDE: u16 = 0;
/// The port that everybody else is behind.
pub const OUTSIDE: u16 = 1;
/// Station of the router behind each port.
pub const ROUTERS: [[u8; 6]; 2] = [[0x02, 0xee, 0, 0, 0, 1], [0x02, 0xee, 0, 0, 0, 2]];

/// Bytes at the front of the payload that hold the flow's number.
const NUMBER: usize = 4;
/// Bytes of the check sequence, which counts in a frame's size but is not in the buffer.
const FCS: usize = 4;

/// How the tuples of flows are related.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Subscribers with a few flows each, to remote ends all over.
    Spread,
    /// 256 hosts of one network to one server, with ports in sequence.
    OneNetwork,
    /// What differs between tuples are bits that a weak hash throws away: the upper ones of address and port.
    UpperBits,
    /// One host and one inside port, to remote addresses in sequence.
    RemoteSweep,
}

/// The flows of a worker.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Worker they belong to.
    pub worker: u8,
    /// Of so many.
    pub workers: u8,
    /// Flows of one subscriber.
    pub each: u32,
    /// Flows of one of its ports, each to another remote end.
    pub share: u32,
    /// Family.
    pub family: Family,
    /// Transport.
    pub protocol: Protocol,
    /// Relation of the tuples.
    pub pattern: Pattern,
}

/// A tuple, as the sender of its first packet knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    pub source: Address,
    pub source_port: u16,
    pub destination: Address,
    pub destination_port: u16,
}

/// The outside of a translated flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct External {
    pub address: [u8; 4],
    /// Host byte order.
    pub port: u16,
}

/// Spreads numbers; neighbours end far from each other. A bijection.
pub const fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A number below `limit` that looks random, the same for the same `seed`.
pub const fn below(limit: u32, seed: u64) -> u32 {
    (((mix(seed) >> 32) * limit as u64) >> 32) as u32
}

impl Plan {
    /// The flows of worker 0 of 1: UDP over IPv4.
    pub const fn single(each: u32) -> Self {
        Self {
            worker: 0,
            workers: 1,
            each,
            share: 1,
            family: Family::V4,
            protocol: Protocol::Udp,
            pattern: Pattern::Spread,
        }
    }

    /// Number of the network address of this worker's subscriber `index`: its low seven bits name the worker.
    const fn subscriber(&self, index: u32) -> u32 {
        let (worker, workers) = (self.worker as u32, self.workers as u32);
        let of_this_worker = (127 - worker) / workers + 1;
        (index / of_this_worker) * 128 + (index % of_this_worker) * workers + worker
    }

    /// Flow `number` as it leaves its inside host.
    pub fn ends(&self, number: u32) -> Ends {
        let mixed = mix(u64::from(number));
        let spread = |index: u32, port: u32| (self.subscriber(index), port as u16, mixed as u32, 443u16);
        let (host, source_port, remote, destination_port) = match self.pattern {
            Pattern::Spread => spread(number / self.each, 1024 + (number % self.each) / self.share * 7),
            Pattern::OneNetwork => (self.subscriber(number % 128), 1024 + (number / 128) as u16, 1, 443),
            Pattern::UpperBits => {
                (self.subscriber((number >> 8) << 8), ((number & 0xff) << 8) as u16 | 1, 0x0100_0000, 443)
            }
            Pattern::RemoteSweep => (self.subscriber(0), 5000, number, 443),
        };
        let (source, destination) = match self.family {
            Family::V4 => {
                let [_, b, c, d] = host.to_be_bytes();
                let [_, e, f, g] = remote.to_be_bytes();
                (Address::v4([10, b, c, d]), Address::v4([8, e, f, g]))
            }
            Family::V6 => {
                let mut source = [0; 16];
                source[..4].copy_from_slice(&[0x2a, 0, 0, 1]);
                source[4..8].copy_from_slice(&host.to_be_bytes());
                source[15] = 1;
                let mut destination = [0; 16];
                destination[..4].copy_from_slice(&[0x2a, 0, 0, 2]);
                destination[12..].copy_from_slice(&remote.to_be_bytes());
                (Address(source), Address(destination))
            }
        };
        Ends { source, source_port, destination, destination_port }
    }

    /// Flow `number` as its remote end answers, to `external` if it is translated.
    pub fn answer(&self, number: u32, external: Option<External>) -> Ends {
        let ends = self.ends(number);
        let (destination, destination_port) = match external {
            Some(external) => (Address::v4(external.address), external.port),
            None => (ends.source, ends.source_port),
        };
        Ends { source: ends.destination, source_port: ends.destination_port, destination, destination_port }
    }
}

/// TCP flags of a packet, or none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// The first packet.
    Syn,
    /// Its answer.
    SynAck,
    /// Any later one.
    Ack,
}

/// Headers and the flow's number, ready to be copied into a frame; how many bytes that is, and the frame's length.
#[derive(Clone, Copy, Debug)]
pub struct Headers {
    bytes: [u8; HEADERS],
    count: usize,
    length: usize,
}

impl Headers {
    /// A packet of flow `number` that arrives on `port`, in a frame of `size` bytes with its check sequence.
    pub fn new(plan: &Plan, number: u32, ends: &Ends, segment: Segment, port: u16, size: usize) -> Self {
        let protocol = plan.protocol;
        let v4 = ends.source.is_v4();
        let l4 = ethernet::HEADER_LEN + if v4 { 20 } else { 40 };
        let payload = l4
            + match protocol {
                Protocol::Udp => 8,
                Protocol::Tcp => 20,
            };
        let count = payload + NUMBER;
        let length = (size - FCS).max(count);
        let mut bytes = [0; HEADERS];
        let ethertype = if v4 { ethernet::ETHERTYPE_IPV4 } else { ethernet::ETHERTYPE_IPV6 };
        let from = ROUTERS[usize::from(port)];
        ethernet::write(&mut bytes, turnpike_sim::station(port), from, None, ethertype).expect("room for it");
        let ip = &mut bytes[ethernet::HEADER_LEN..];
        if v4 {
            ip[0] = 0x45;
            ip[2..4].copy_from_slice(&((length - ethernet::HEADER_LEN) as u16).to_be_bytes());
            // Atomic datagrams (RFC 6864).
            ip[6] = 0x40;
            ip[8] = 64;
            ip[9] = protocol.number();
            ip[12..16].copy_from_slice(&ends.source.0[12..]);
            ip[16..20].copy_from_slice(&ends.destination.0[12..]);
            let check = checksum::ones_complement(&ip[..20]);
            ip[10..12].copy_from_slice(&check.to_be_bytes());
        } else {
            ip[0] = 0x60;
            ip[4..6].copy_from_slice(&((length - l4) as u16).to_be_bytes());
            ip[6] = protocol.number();
            ip[7] = 64;
            ip[8..24].copy_from_slice(&ends.source.0);
            ip[24..40].copy_from_slice(&ends.destination.0);
        }
        let transport = &mut bytes[l4..];
        transport[..2].copy_from_slice(&ends.source_port.to_be_bytes());
        transport[2..4].copy_from_slice(&ends.destination_port.to_be_bytes());
        let checksum_at = match protocol {
            Protocol::Udp => {
                transport[4..6].copy_from_slice(&((length - l4) as u16).to_be_bytes());
                6
            }
            Protocol::Tcp => {
                transport[7] = 1;
                transport[12] = 0x50;
                transport[13] = match segment {
                    Segment::Syn => TCP_SYN,
                    Segment::SynAck => TCP_SYN | TCP_ACK,
                    Segment::Ack => TCP_ACK,
                };
                transport[14] = 0x20;
                16
            }
        };
        transport[payload - l4..count - l4].copy_from_slice(&tag(plan.worker, number).to_be_bytes());
        // What follows in the frame is zeros.
        let pseudo = checksum::pseudo_header(
            &ends.source.0,
            &ends.destination.0,
            protocol.number(),
            (length - l4) as u32,
        );
        let check = !checksum::fold(pseudo + checksum::sum(&transport[..count - l4]));
        let check = if check == 0 { 0xffff } else { check };
        transport[checksum_at..checksum_at + 2].copy_from_slice(&check.to_be_bytes());
        Self { bytes, count, length }
    }

    /// Puts them into a frame.
    pub fn write(&self, frame: &mut Frame) {
        frame.write(&self.bytes[..self.count], self.length);
    }
}

/// Packets that came in on one port at one time.
#[derive(Debug)]
pub struct Burst {
    pub port: u16,
    pub frames: Vec<Frame>,
    /// Numbers of their flows.
    pub flows: Vec<u32>,
}

/// Bursts that are measured as one.
#[derive(Debug)]
pub struct Chunk {
    pub bursts: Vec<Burst>,
    burst: usize,
}

impl Chunk {
    /// Room for `bursts` bursts of `burst` packets.
    pub fn new(bursts: usize, burst: usize) -> Self {
        let empty = || Burst { port: 0, frames: Vec::with_capacity(burst), flows: Vec::with_capacity(burst) };
        Self { bursts: (0..bursts).map(|_| empty()).collect(), burst }
    }

    /// Packets it has room for.
    pub fn packets(&self) -> usize {
        self.bursts.len() * self.burst
    }

    /// Fills the bursts with packets of the flows that `next` names; `ports` gives the port of each burst, and
    /// `headers` the packet of a flow on a port.
    pub fn fill(
        &mut self,
        stock: &mut Stock,
        mut port: impl FnMut(usize) -> u16,
        mut packet: impl FnMut(u16) -> (u32, Headers),
    ) {
        for (index, burst) in self.bursts.iter_mut().enumerate() {
            burst.port = port(index);
            burst.flows.clear();
            for _ in 0..self.burst {
                let Some(mut frame) = stock.pop() else { break };
                let (number, headers) = packet(burst.port);
                headers.write(&mut frame);
                burst.frames.push(frame);
                burst.flows.push(number);
            }
        }
    }

    /// Drops the headers of its packets from the caches.
    pub fn cool(&self) {
        for burst in &self.bursts {
            burst.frames.iter().for_each(Frame::cool);
        }
    }
}

/// Which flow comes next.
#[derive(Clone, Debug)]
pub struct Draw {
    flows: u32,
    order: Order,
    count: u64,
}

impl Draw {
    /// Over flows 0 to `flows`, always in the same order for the same `seed`.
    pub const fn new(flows: u32, order: Order, seed: u64) -> Self {
        Self { flows, order, count: seed << 32 }
    }

    /// The next one.
    pub fn next(&mut self) -> u32 {
        self.count += 1;
        match self.order {
            Order::Random => below(self.flows, self.count),
            Order::Sequential => (self.count % u64::from(self.flows)) as u32,
        }
    }
}

/// Makes chunks of packets of established flows.
#[derive(Clone, Debug)]
pub struct Generator {
    pub plan: Plan,
    pub draw: Draw,
    pub direction: Direction,
    pub size: FrameSize,
    /// Headers are not in the caches when the engine gets them.
    pub cold: bool,
    /// By flow; empty if flows are not translated.
    pub external: Arc<Vec<External>>,
}

impl Generator {
    /// Fills `chunk`.
    pub fn fill(&mut self, chunk: &mut Chunk, stock: &mut Stock) {
        let port = |index| match self.direction {
            Direction::In2out => INSIDE,
            Direction::Out2in => OUTSIDE,
            Direction::Mixed => [INSIDE, OUTSIDE][index % 2],
        };
        let mut packets = 0;
        chunk.fill(stock, port, |port| {
            let number = self.draw.next();
            let ends = if port == INSIDE {
                self.plan.ends(number)
            } else {
                self.plan.answer(number, self.external.get(number as usize).copied())
            };
            packets += 1;
            let size = self.size.of(packets);
            (number, Headers::new(&self.plan, number, &ends, Segment::Ack, port, size))
        });
        if self.cold {
            chunk.cool();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use turnpike_abi::{WorkerId, steering};
    use turnpike_engine::Buffer;
    use turnpike_sim::packets::see;

    #[test]
    fn every_packet_is_sound() {
        let mut stock = Stock::new(1, 0).unwrap();
        let mut frame = stock.pop().unwrap();
        for family in [Family::V4, Family::V6] {
            for protocol in [Protocol::Udp, Protocol::Tcp] {
                for size in [64, 594, 1518] {
                    let plan = Plan { family, protocol, ..Plan::single(64) };
                    let ends = plan.ends(77);
                    assert!(frame.resize(1514));
                    frame.bytes_mut().fill(0);
                    Headers::new(&plan, 77, &ends, Segment::Syn, INSIDE, size).write(&mut frame);
                    let mut bytes = frame.bytes().to_vec();
                    let l3 = if family == Family::V4 { 28 } else { 48 };
                    let shortest = 14 + l3 + 4 + if protocol == Protocol::Tcp { 12 } else { 0 };
                    assert_eq!(bytes.len(), (size - 4).max(shortest));
                    let seen = see(&bytes);
                    assert_eq!(seen.destination(), (ends.destination.to_ip(), 443));
                    assert_eq!(seen.source(), (ends.source.to_ip(), ends.source_port));
                    bytes.clear();
                }
            }
        }
    }

    #[test]
    fn flows_differ_and_belong_to_their_worker() {
        for pattern in [Pattern::Spread, Pattern::OneNetwork, Pattern::UpperBits, Pattern::RemoteSweep] {
            for workers in [1, 2, 3, 5] {
                for worker in 0..workers {
                    for family in [Family::V4, Family::V6] {
                        let plan = Plan { worker, workers, family, pattern, ..Plan::single(64) };
                        let mut seen = HashSet::new();
                        for number in 0..10_000 {
                            let ends = plan.ends(number);
                            assert_eq!(steering::owner_of_inside(ends.source, workers), WorkerId(worker));
                            assert!(seen.insert(format!("{ends:?}")), "{ends:?} again at {number}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_draw_reaches_every_flow() {
        for order in [Order::Random, Order::Sequential] {
            let mut draw = Draw::new(50, order, 3);
            let seen: HashSet<_> = (0..1000).map(|_| draw.next()).collect();
            assert_eq!(seen.len(), 50);
            assert!(seen.iter().all(|&flow| flow < 50));
        }
        let mut one = Draw::new(1, Order::Random, 0);
        assert_eq!(one.next(), 0);
    }
}

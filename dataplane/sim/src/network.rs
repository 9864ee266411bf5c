//! Hosts, wires and the box in virtual time. The same seed gives the same run.

use crate::host::Host;
use crate::tables::ForwardingTable;
use crate::{Appliance, station};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use turnpike_abi::Address;
use turnpike_abi::command::Kind;
use turnpike_abi::event::NeighbourNeeded;
use turnpike_engine::Time;
use turnpike_wire::arp;
use turnpike_wire::ethernet::{self, ETHERTYPE_ARP};

/// How a wire treats frames.
#[derive(Clone, Copy, Debug)]
pub struct Wire {
    /// Frames lost of a thousand.
    pub loss: u32,
    /// Frames delivered twice of a thousand.
    pub duplication: u32,
    /// Shortest and longest time a frame takes, milliseconds. A spread reorders.
    pub delay: (u64, u64),
}

impl Wire {
    /// Loses nothing and keeps the order.
    pub const PERFECT: Self = Self { loss: 0, duplication: 0, delay: (1, 1) };
}

/// What the wires did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// Frames put on a wire.
    pub carried: u64,
    /// Frames lost.
    pub lost: u64,
    /// Frames delivered twice.
    pub duplicated: u64,
    /// Frames that overtook an earlier one.
    pub reordered: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Receiver {
    /// The box, by this port.
    Port(u16),
    /// The hosts on the link of this port.
    Link(u16),
}

/// A frame on a wire: when it arrives, in what order it was sent, where, and its bytes.
type InFlight = Reverse<(u64, u64, Receiver, Vec<u8>)>;

/// The box, a link on each of its ports, and the hosts there.
pub struct Network {
    /// The box.
    pub appliance: Appliance,
    /// Hosts, each with the port whose link it is on.
    pub hosts: Vec<(u16, Host)>,
    /// What the wires did.
    pub weather: Weather,
    wire: Wire,
    flying: BinaryHeap<InFlight>,
    latest: u64,
    sequence: u64,
    random: u64,
    own: Vec<[u8; 4]>,
}

impl Network {
    /// A network whose links are all like `wire`, around a box with the default tables.
    #[must_use]
    pub fn new(appliance: Appliance, wire: Wire, seed: u64) -> Self {
        let own = ForwardingTable::default().addresses;
        Self {
            appliance,
            hosts: Vec::new(),
            weather: Weather::default(),
            wire,
            flying: BinaryHeap::new(),
            latest: 0,
            sequence: 0,
            random: seed | 1,
            own: own.iter().filter_map(|record| record.address.to_v4()).collect(),
        }
    }

    /// Puts a host on the link of a port; returns its number.
    pub fn host(&mut self, port: u16, host: Host) -> usize {
        self.hosts.push((port, host));
        self.hosts.len() - 1
    }

    /// A host by its number.
    pub fn at(&mut self, host: usize) -> &mut Host {
        &mut self.hosts[host].1
    }

    /// Lets the network work until `done`; says whether that came before `deadline_ms`.
    pub fn run(&mut self, deadline_ms: u64, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        while self.now() < deadline_ms {
            if done(self) {
                return true;
            }
            self.step();
        }
        false
    }

    fn now(&self) -> u64 {
        self.appliance.now.0
    }

    /// Everything that is due now, then on to the next moment at which something is.
    fn step(&mut self) {
        let now = self.now();
        while let Some(Reverse((at, ..))) = self.flying.peek()
            && *at <= now
        {
            let Some(Reverse((_, _, receiver, frame))) = self.flying.pop() else { break };
            match receiver {
                Receiver::Port(port) => self.appliance.receive(port, &[&frame]),
                Receiver::Link(port) => self.broadcast(port, &frame),
            }
            self.collect();
        }
        let mut next = now + 100;
        for index in 0..self.hosts.len() {
            let (port, host) = &mut self.hosts[index];
            let port = *port;
            let frames: Vec<_> = host.poll(now).collect();
            if let Some(at) = host.poll_at(now) {
                next = next.min(at.max(now + 1));
            }
            for frame in frames {
                self.launch(Receiver::Port(port), frame);
            }
        }
        if let Some(Reverse((at, ..))) = self.flying.peek() {
            next = next.min((*at).max(now + 1));
        }
        self.appliance.advance(next - now, next - now);
        self.collect();
    }

    fn broadcast(&mut self, port: u16, frame: &[u8]) {
        let Ok(link) = ethernet::parse(frame) else { return };
        for (on, host) in &mut self.hosts {
            if *on == port && (link.destination == host.mac || ethernet::is_multicast(link.destination)) {
                host.deliver(frame.to_vec());
            }
        }
    }

    /// Takes what the box gave out: frames, what is the kernel's, questions for neighbours.
    fn collect(&mut self) {
        while let Some(sent) = self.appliance.sent() {
            self.launch(Receiver::Link(sent.port.0), sent.bytes);
        }
        while let Some((interface, mut frame)) = self.appliance.punted() {
            // The kernel's part: ARP for the box's own addresses.
            let Ok(link) = ethernet::parse(&frame) else { continue };
            let asked = arp::parse(&frame[link.payload..]).ok().filter(|_| link.ethertype == ETHERTYPE_ARP);
            let own = asked.is_some_and(|asked| self.own.contains(&asked.target_ip));
            if own && arp::reply_in_place(&mut frame, link.payload, station(interface.0)).is_ok() {
                self.appliance.inject(interface.0, &frame);
                while let Some(sent) = self.appliance.sent() {
                    self.launch(Receiver::Link(sent.port.0), sent.bytes);
                }
            }
        }
        for (_, event) in std::mem::take(&mut self.appliance.events) {
            if event.header.kind == Kind::NEIGHBOUR_NEEDED {
                let needed: NeighbourNeeded = event.body();
                let found =
                    self.hosts.iter().find(|(_, host)| Address::v4(host.address.octets()) == needed.address);
                if let Some((port, host)) = found {
                    self.appliance.neighbour(*port, needed.address, host.mac);
                }
            }
        }
    }

    /// Puts a frame on a wire, with the wire's luck.
    fn launch(&mut self, receiver: Receiver, frame: Vec<u8>) {
        self.weather.carried += 1;
        if self.chance(self.wire.loss) {
            self.weather.lost += 1;
            return;
        }
        if self.chance(self.wire.duplication) {
            self.weather.duplicated += 1;
            self.fly(receiver, frame.clone());
        }
        self.fly(receiver, frame);
    }

    fn fly(&mut self, receiver: Receiver, frame: Vec<u8>) {
        let (shortest, longest) = self.wire.delay;
        let at = self.now() + shortest + self.next() % (longest - shortest + 1);
        self.weather.reordered += u64::from(at < self.latest);
        self.latest = self.latest.max(at);
        self.sequence += 1;
        self.flying.push(Reverse((at, self.sequence, receiver, frame)));
    }

    fn chance(&mut self, of_a_thousand: u32) -> bool {
        self.next() % 1000 < u64::from(of_a_thousand)
    }

    /// Steele and Vigna's splitmix64.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.random;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// Virtual time.
    #[must_use]
    pub fn time(&self) -> Time {
        self.appliance.now
    }
}

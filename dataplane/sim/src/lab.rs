//! A box between a few hosts, and steps that say everything that came of them.

use crate::packets::{Build, Seen, see};
use crate::tables::{ForwardingTable, PolicyTable, address};
use crate::{Appliance, Steering};
use std::net::IpAddr;
use turnpike_abi::counters::DropReason;
use turnpike_abi::{PortId, WorkerId};
use turnpike_engine::Interface;

/// A subscriber.
pub const HOST: &str = "10.0.0.9";
/// Another, with another owner wherever there are several workers.
pub const OTHER_HOST: &str = "10.0.0.10";
/// A host outside, behind the router.
pub const SERVER: &str = "198.51.100.7";
/// Another.
pub const OTHER_SERVER: &str = "198.51.100.8";
/// The router outside.
pub const GATEWAY: &str = "192.0.2.254";
/// The box's own address inside.
pub const BOX_INSIDE: &str = "10.0.0.1";
/// The box's own address outside.
pub const BOX_OUTSIDE: &str = "192.0.2.1";
/// A subscriber's IPv6 host.
pub const HOST6: &str = "fd00::9";
/// Another, in another prefix and so with another owner.
pub const OTHER_HOST6: &str = "fd00:0:0:5::9";
/// An IPv6 host outside.
pub const SERVER6: &str = "2001:db8:9::7";
/// The box's own IPv6 address inside.
pub const BOX_INSIDE6: &str = "fd00::1";
/// The box's own IPv6 address outside.
pub const BOX_OUTSIDE6: &str = "2001:db8::1";

/// Station address of [`GATEWAY`], in both families.
pub const ROUTER_MAC: [u8; 6] = [0x02, 0xee, 0, 0, 0, 1];
/// Station address of [`HOST`] and [`HOST6`].
pub const HOST_MAC: [u8; 6] = [0x02, 0xff, 0, 0, 0, 1];
/// Station address of the other subscribers.
pub const OTHER_MAC: [u8; 6] = [0x02, 0xff, 0, 0, 0, 2];

/// The inside port.
pub const INSIDE_PORT: u16 = 0;
/// The outside port.
pub const OUTSIDE_PORT: u16 = 1;

/// The box and its neighbours.
pub struct Lab {
    /// The box.
    pub appliance: Appliance,
}

/// Everything that came of a step.
#[derive(Clone, Debug)]
pub struct Step {
    /// Where it came in.
    pub port: u16,
    /// What left, by which port.
    pub sent: Vec<(u16, Vec<u8>)>,
    /// What went to a TAP twin, of which interface.
    pub punted: Vec<(u16, Vec<u8>)>,
    /// Drops.
    pub drops: Vec<(DropReason, u64)>,
}

/// Runs a scenario with one worker, with several between which packets cross, and with every packet at one worker.
pub fn everywhere(scenario: impl Fn(&mut Lab)) {
    everywhere_with(&PolicyTable::default(), &forwarding(), scenario);
}

/// The same with other tables.
pub fn everywhere_with(policy: &PolicyTable, forwarding: &ForwardingTable, scenario: impl Fn(&mut Lab)) {
    for (workers, steering) in [
        (1, Steering::RoundRobin),
        (2, Steering::RoundRobin),
        (5, Steering::RoundRobin),
        (3, Steering::Fixed(WorkerId(2))),
    ] {
        let mut lab = Lab::with(workers, policy, forwarding);
        lab.appliance.steer(steering);
        scenario(&mut lab);
    }
}

/// The default forwarding table and a second IPv6 prefix inside.
#[must_use]
pub fn forwarding() -> ForwardingTable {
    let mut table = ForwardingTable::default();
    table.route("fd00:0:0:5::", 64, None, INSIDE_PORT);
    table
}

/// Address and port in words, to compare and to build packets from.
#[must_use]
pub fn text(end: (IpAddr, u16)) -> (String, u16) {
    (end.0.to_string(), end.1)
}

impl Lab {
    /// With the default policy.
    #[must_use]
    pub fn new(workers: u8) -> Self {
        Self::with(workers, &PolicyTable::default(), &forwarding())
    }

    /// With these tables.
    #[must_use]
    pub fn with(workers: u8, policy: &PolicyTable, forwarding: &ForwardingTable) -> Self {
        let mut appliance = Appliance::new(workers);
        appliance.policy(policy);
        appliance.forwarding(forwarding);
        let mut lab = Self { appliance };
        lab.neighbours();
        lab
    }

    /// With this policy, and with room for so many flows a worker.
    #[must_use]
    pub fn sized(workers: u8, capacity: usize, policy: &PolicyTable) -> Self {
        let interface =
            |index| Interface { port: PortId(index), vlan: 0, mac: crate::station(index), mtu: 1500 };
        let interfaces = vec![interface(INSIDE_PORT), interface(OUTSIDE_PORT)];
        let mut appliance = Appliance::bare(workers, interfaces, capacity);
        appliance.policy(policy);
        appliance.forwarding(&forwarding());
        let mut lab = Self { appliance };
        lab.neighbours();
        lab
    }

    /// Tells the box every neighbour.
    pub fn neighbours(&mut self) {
        for (interface, neighbour, mac) in [
            (OUTSIDE_PORT, GATEWAY, ROUTER_MAC),
            (OUTSIDE_PORT, "2001:db8::fe", ROUTER_MAC),
            (INSIDE_PORT, HOST, HOST_MAC),
            (INSIDE_PORT, HOST6, HOST_MAC),
            (INSIDE_PORT, OTHER_HOST, OTHER_MAC),
            (INSIDE_PORT, OTHER_HOST6, OTHER_MAC),
        ] {
            self.appliance.neighbour(interface, address(neighbour), mac);
        }
    }

    /// A packet comes in by a port.
    pub fn step(&mut self, port: u16, packet: &Build) -> Step {
        self.frame(port, &packet.frame(port))
    }

    /// A frame comes in by a port.
    pub fn frame(&mut self, port: u16, frame: &[u8]) -> Step {
        self.burst(port, &[frame])
    }

    /// Frames come in by a port, as one burst.
    pub fn burst(&mut self, port: u16, frames: &[&[u8]]) -> Step {
        let before = self.appliance.counters();
        self.appliance.receive(port, frames);
        let after = self.appliance.counters();
        let drops =
            DropReason::ALL.iter().map(|&reason| (reason, after.drops(reason) - before.drops(reason)));
        Step {
            port,
            sent: core::iter::from_fn(|| self.appliance.sent())
                .map(|sent| (sent.port.0, sent.bytes))
                .collect(),
            punted: core::iter::from_fn(|| self.appliance.punted())
                .map(|(interface, bytes)| (interface.0, bytes))
                .collect(),
            drops: drops.filter(|(_, count)| *count > 0).collect(),
        }
    }

    /// A packet from inside that leaves outside, alone.
    pub fn out(&mut self, packet: &Build) -> Seen {
        self.step(INSIDE_PORT, packet).passed(OUTSIDE_PORT)
    }

    /// A packet from outside that reaches the inside, alone.
    pub fn back(&mut self, packet: &Build) -> Seen {
        self.step(OUTSIDE_PORT, packet).passed(INSIDE_PORT)
    }

    /// A packet from inside that returns to the inside.
    pub fn hairpin(&mut self, packet: &Build) -> Seen {
        self.step(INSIDE_PORT, packet).passed(INSIDE_PORT)
    }

    /// The external end of a new or known UDP mapping.
    pub fn udp_mapping(&mut self, host: &str, port: u16) -> (String, u16) {
        text(self.out(&Build::udp((host, port), (SERVER, 53), b"hello")).source())
    }
}

impl Step {
    /// One packet left, by `port`, and that is all.
    ///
    /// # Panics
    /// If anything else happened.
    #[must_use]
    pub fn passed(&self, port: u16) -> Seen {
        assert!(self.drops.is_empty() && self.punted.is_empty(), "{self:?}");
        let [(by, bytes)] = &self.sent[..] else { panic!("{self:?}") };
        assert_eq!(*by, port);
        see(bytes)
    }

    /// It was dropped without a word.
    ///
    /// # Panics
    /// If anything else happened.
    pub fn dropped(&self, reason: DropReason) {
        assert_eq!(self.drops, [(reason, 1)], "{self:?}");
        assert!(self.sent.is_empty() && self.punted.is_empty(), "{self:?}");
    }

    /// It was dropped and its sender got an ICMP error, which is returned.
    ///
    /// # Panics
    /// If anything else happened.
    #[must_use]
    pub fn refused(&self, reason: DropReason) -> Seen {
        assert_eq!(self.drops, [(reason, 1)], "{self:?}");
        assert!(self.punted.is_empty(), "{self:?}");
        let [(by, bytes)] = &self.sent[..] else { panic!("{self:?}") };
        assert_eq!(*by, self.port, "the error goes where the packet came from");
        see(bytes)
    }

    /// It went to the TAP twin of `interface`.
    ///
    /// # Panics
    /// If anything else happened.
    #[must_use]
    pub fn punted(&self, interface: u16) -> &[u8] {
        assert!(self.drops.is_empty() && self.sent.is_empty(), "{self:?}");
        let [(on, bytes)] = &self.punted[..] else { panic!("{self:?}") };
        assert_eq!(*on, interface);
        bytes
    }
}

//! What packets see of rules while these are made and deleted: a range whole or not at all, nothing before the agent asked
//! for it, everything once it was acknowledged, and nothing any more from the acknowledgement of its deletion on. Packets
//! arrive between any two commands that the real engine carries out.

use crate::support::engine::Simco;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex};
use turnpike_midcom::agent::Agent;
use turnpike_sim::attached::Dataplane;
use turnpike_sim::packets::Build;
use turnpike_simco::{
    Direction, EnableParameters, EnableReserved, Ends, Extras, IpVersion, Location, NatMode, PortParity,
    Reserve, ReserveParameters, Tuple,
};

const UDP: u8 = 17;
const ACTORS: u8 = 12;
/// Rules each of them makes and deletes.
const RULES: u16 = 12;
/// Rules that were deleted and are looked at still.
const LAST: usize = 64;

/// What an agent knows of a rule.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Known {
    /// Its ports are reserved: nobody asked to open them.
    Reserved,
    /// Asked to open, to close, or both.
    Asked,
    Open,
    Gone,
}

/// A range as packets meet it.
#[derive(Clone, Copy, Debug)]
struct Range {
    known: Known,
    outside: SocketAddrV4,
    inside: SocketAddrV4,
    remote: Ipv4Addr,
    ports: u16,
}

impl Range {
    /// Whether packets for all of its ports arrive inside: as one burst, all or none.
    fn is_open(&self, dataplane: &mut Dataplane) -> bool {
        let (remote, outside) = (self.remote.to_string(), self.outside.ip().to_string());
        let mut arrived = (0..self.ports).map(|at| {
            let packet = Build::udp((&remote, 5060), (&outside, self.outside.port() + at), b"x");
            let there = dataplane.passes(&packet);
            let right = (IpAddr::V4(*self.inside.ip()), self.inside.port() + at);
            assert!(there.is_none_or(|there| there == right), "{self:?}: port {at} leads to {there:?}");
            there.is_some()
        });
        let first = arrived.next().unwrap();
        assert!(arrived.all(|other| other == first), "half of {self:?} is open");
        first
    }

    fn check(&self, dataplane: &mut Dataplane) -> bool {
        let open = self.is_open(dataplane);
        match self.known {
            Known::Reserved | Known::Gone => assert!(!open, "{self:?} is open"),
            Known::Open => assert!(open, "{self:?} is closed"),
            Known::Asked => {}
        }
        open
    }
}

/// All ranges, and how often one was seen closed and open while nobody knew which.
#[derive(Debug, Default)]
struct Seen {
    ranges: Vec<Range>,
    turn: usize,
    between: [u64; 2],
}

impl Seen {
    /// A packet for each port of some ranges.
    fn look(&mut self, dataplane: &mut Dataplane) {
        let from = self.ranges.len().saturating_sub(LAST);
        for _ in 0..self.ranges.len().min(4) {
            self.turn += 1;
            let range = self.ranges[from + self.turn % (self.ranges.len() - from)];
            let open = range.check(dataplane);
            if range.known == Known::Asked {
                self.between[usize::from(open)] += 1;
            }
        }
    }
}

/// Makes rules of a range each, one after the other, and deletes them; every third is deleted before its opening is
/// acknowledged.
async fn act(agent: Agent, site: &Simco, seen: &Mutex<Seen>, number: u8) {
    for turn in 0..RULES {
        let ports = 2 + turn % 7;
        let inside = SocketAddrV4::new(Ipv4Addr::new(10, 0, 1, number + 1), 2000 + 16 * turn);
        let remote = Ipv4Addr::new(198, 51, 100, number + 1);
        let tuple = |location, end: SocketAddrV4, ports| {
            Tuple::full(location, UDP, IpAddr::V4(*end.ip()), end.port(), ports)
        };
        let internal = tuple(Location::Internal, inside, ports);
        let reserve = Reserve {
            parameters: ReserveParameters {
                mode: NatMode::Traditional,
                parity: PortParity::Even,
                inside: Some(IpVersion::V4),
                outside: Some(IpVersion::V4),
                protocol: UDP,
                range: ports,
            },
            lifetime: 600,
            group: None,
            // Without host the ports are often another worker's, and leased.
            internal: (turn % 2 == 0).then_some(internal),
            extras: Extras::default(),
        };
        let reserved = agent.reserve(reserve).await.unwrap();
        let Ends::Full { address: IpAddr::V4(address), port, .. } = reserved.outside.ends else {
            panic!("{reserved:?}")
        };
        let outside = SocketAddrV4::new(address, port);
        let range = Range { known: Known::Reserved, outside, inside, remote, ports };
        let place = {
            let mut seen = seen.lock().unwrap();
            seen.ranges.push(range);
            seen.ranges.len() - 1
        };
        // The next packets after an acknowledgement see what it says.
        let know = |known| {
            let now = Range { known, ..range };
            seen.lock().unwrap().ranges[place] = now;
            if known != Known::Asked {
                site.workers.with(|dataplane| now.check(dataplane));
            }
        };
        know(Known::Reserved);
        let enable = agent.enable_reserved(EnableReserved {
            parameters: EnableParameters { same_parity: true, direction: Direction::Inbound },
            internal,
            external: tuple(Location::External, SocketAddrV4::new(remote, 0), 1),
            lifetime: 600,
            rule: reserved.rule,
            extras: Extras::default(),
        });
        know(Known::Asked);
        if turn % 3 == 2 {
            let (enabled, deleted) = tokio::join!(enable, agent.change_lifetime(reserved.rule, 0));
            assert_eq!((enabled.unwrap().outside.ends, deleted), (reserved.outside.ends, Ok(0)));
        } else {
            assert_eq!(enable.await.unwrap().outside.ends, reserved.outside.ends);
            know(Known::Open);
            know(Known::Asked);
            agent.change_lifetime(reserved.rule, 0).await.unwrap();
        }
        know(Known::Gone);
    }
}

#[tokio::test]
async fn a_packet_sees_whole_ranges_in_the_order_of_their_acknowledgements() {
    let mut site = Simco::new(1, 64);
    site.start();
    site.until_ready();
    let seen = Arc::new(Mutex::new(Seen::default()));
    let watched = Arc::clone(&seen);
    site.workers.with(|dataplane| {
        dataplane.watch = Some(Box::new(move |dataplane| watched.lock().unwrap().look(dataplane)));
    });
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(site.session(0).await);
    }
    let actors =
        (0..ACTORS).map(|number| act(sessions[usize::from(number % 3)].0.clone(), &site, &seen, number));
    futures_util::future::join_all(actors).await;
    let seen = seen.lock().unwrap();
    assert_eq!(seen.ranges.len(), usize::from(ACTORS) * usize::from(RULES));
    assert!(seen.between.iter().all(|count| *count > 10), "hardly anything between: {:?}", seen.between);
}

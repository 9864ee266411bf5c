//! Real TCP through the engine: smoltcp hosts over wires that lose, duplicate and reorder, in virtual time.

use std::net::Ipv4Addr;
use turnpike_abi::counters::{Counter, DropReason, ProtocolClass};
use turnpike_sim::{Appliance, Host, Network, Socket, Wire};

const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
const OTHER_HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 10);
/// The box's default route leads to it.
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
const LENGTH: usize = 200_000;
/// Ten minutes.
const DEADLINE: u64 = 600_000;

fn network(workers: u8, wire: Wire, seed: u64) -> (Network, usize, usize, usize) {
    let mut network = Network::new(Appliance::new(workers), wire, seed);
    let inside = Ipv4Addr::new(10, 0, 0, 1);
    let client = network.host(0, Host::new([2, 0xaa, 0, 0, 0, 9], HOST, 16, inside));
    let other = network.host(0, Host::new([2, 0xaa, 0, 0, 0, 10], OTHER_HOST, 16, inside));
    let server = network.host(1, Host::new([2, 0xbb, 0, 0, 0, 1], SERVER, 24, Ipv4Addr::new(192, 0, 2, 1)));
    (network, client, other, server)
}

fn bytes(salt: u8) -> Vec<u8> {
    (0..LENGTH).map(|i| (i as u8).wrapping_mul(31).wrapping_add((i >> 8) as u8) ^ salt).collect()
}

/// One end of a transfer.
struct End {
    host: usize,
    socket: Socket,
    send: Vec<u8>,
    sent: usize,
    received: Vec<u8>,
}

impl End {
    fn new(host: usize, socket: Socket, salt: u8) -> Self {
        Self { host, socket, send: bytes(salt), sent: 0, received: Vec::new() }
    }

    fn work(&mut self, network: &mut Network) -> bool {
        let host = network.at(self.host);
        self.sent += host.send(self.socket, &self.send[self.sent..]);
        host.receive(self.socket, &mut self.received);
        if self.sent == LENGTH && self.received.len() == LENGTH {
            host.close(self.socket);
        }
        self.sent == LENGTH && self.received.len() == LENGTH
    }
}

/// Both ends send [`LENGTH`] bytes at once; every byte has to arrive.
fn transfer(network: &mut Network, mut ends: Vec<End>) {
    let done = network.run(DEADLINE, |network| {
        // Each end works, whatever the other says.
        let mut done = true;
        for end in &mut ends {
            done &= end.work(network);
        }
        done
    });
    let progress: Vec<_> = ends.iter().map(|end| (end.sent, end.received.len())).collect();
    assert!(done, "not done after ten minutes: {progress:?}, {:?}", network.weather);
    for pair in ends.chunks(2) {
        assert!(pair[0].received == pair[1].send && pair[1].received == pair[0].send, "bytes changed");
    }
}

const BAD: Wire = Wire { loss: 50, duplication: 20, delay: (1, 12) };

#[test]
fn tcp_1_a_transfer_in_both_directions_survives_five_percent_loss() {
    for (workers, seed) in [(1, 1), (2, 2), (2, 3), (5, 4)] {
        let (mut network, client, _, server) = network(workers, BAD, seed);
        let listening = network.at(server).listen(80);
        let connecting = network.at(client).connect(40_000, (SERVER, 80));
        let ends = vec![End::new(client, connecting, 0), End::new(server, listening, 0x5a)];
        transfer(&mut network, ends);
        let (external, _) = network.at(server).remote(listening).unwrap();
        assert!(external.to_string().starts_with("203.0.113."), "{external} was not translated");
        // The weather was as ordered, and the box lost nothing of its own.
        let weather = network.weather;
        assert!(weather.lost > 20 && weather.duplicated > 5 && weather.reordered > 20, "{weather:?}");
        let counters = network.appliance.counters();
        assert_eq!(counters.total_drops(), 0, "the box dropped packets");
        assert_eq!(counters.flows(ProtocolClass::Tcp), (1, 1));
        assert_eq!(counters.get(Counter::CrossedOut) > 0, workers > 1);
    }
}

#[test]
fn tcp_8_a_hairpinned_transfer_arrives_too() {
    for workers in [1, 2] {
        let (mut network, client, other, server) = network(workers, BAD, 7);
        // The other host's port becomes known by a connection to outside.
        let listening = network.at(server).listen(80);
        let mapped = network.at(other).connect(8080, (SERVER, 80));
        assert!(network.run(DEADLINE, |network| network.at(server).remote(listening).is_some()));
        let (external, port) = network.at(server).remote(listening).unwrap();
        let std::net::IpAddr::V4(external) = external else { panic!("IPv6") };
        network.at(other).close(mapped);
        let served = network.at(other).listen(8080);
        let connecting = network.at(client).connect(40_000, (external, port));
        let ends = vec![End::new(client, connecting, 0), End::new(other, served, 0x5a)];
        transfer(&mut network, ends);
        let (seen, _) = network.at(other).remote(served).unwrap();
        assert!(seen.to_string().starts_with("203.0.113."), "{seen} is not external");
        assert_eq!(network.appliance.counters().drops(DropReason::NoMapping), 0);
    }
}

/// The same seed gives the same run, to the last frame.
#[test]
fn runs_repeat() {
    let run = || {
        let (mut network, client, _, server) = network(2, BAD, 99);
        let listening = network.at(server).listen(80);
        let connecting = network.at(client).connect(40_000, (SERVER, 80));
        let ends = vec![End::new(client, connecting, 0), End::new(server, listening, 0x5a)];
        transfer(&mut network, ends);
        (network.weather, network.time(), network.appliance.counters().get(Counter::Sent))
    };
    assert_eq!(run(), run());
}

//! The kernel's tables in a network namespace of its own, mirrored into a dataplane without packets.
//! Skipped, and said so, where this user can make no namespace.

use crate::support::fake::{Fake, State};
use crate::support::{Site, until};
use std::process::Command;
use turnpike_abi::command::Kind as CommandKind;
use turnpike_abi::command::Slot;
use turnpike_abi::event::NeighbourNeeded;
use turnpike_abi::table::{RouteKind, RouteRecord};
use turnpike_abi::{Address, InterfaceId, Prefix, WorkerId};
use turnpike_api::{NeighbourData, NeighbourState, Request, RouteData};

/// Kernel indices of the veth ends that stand for TAP twins.
const TAPS: [u32; 2] = [101, 102];

const SETUP: &str = "set -e
ip link set lo up
ip address add 10.255.0.1/32 dev lo
ip link add tap-a index 101 type veth peer name peer-a
ip link add tap-b index 102 type veth peer name peer-b
ip link add other type veth peer name other-peer
for device in tap-a peer-a tap-b peer-b other other-peer; do ip link set $device up; done
ip address add 192.168.0.1/24 dev tap-a
ip -6 address add fd00:1::1/64 dev tap-a nodad
ip address add 203.0.113.2/24 dev tap-b
ip address add 172.16.0.1/24 dev other
ip route add default via 203.0.113.1
ip route add default via 172.16.0.9 metric 5
ip route add 198.51.100.0/24 via 203.0.113.9 metric 20
ip route add 198.51.100.0/24 via 203.0.113.8 metric 10
ip route add unreachable 198.18.0.0/15
ip route add blackhole 192.0.2.0/24
exec \"$@\"";

fn namespaces() -> Option<Vec<&'static str>> {
    let own = ["unshare", "--net"];
    let mapped = ["unshare", "--user", "--map-root-user", "--net"];
    for wrapper in [&own[..], &mapped[..]] {
        let status = Command::new(wrapper[0])
            .args(&wrapper[1..])
            .args(["ip", "link", "add", "a", "type", "veth", "peer", "name", "b"])
            .output();
        if status.is_ok_and(|output| output.status.success()) {
            return Some(wrapper.to_vec());
        }
    }
    None
}

fn start() -> Option<(Site, Fake)> {
    let Some(mut wrapper) = namespaces() else {
        eprintln!("no network namespaces here: not tested");
        return None;
    };
    wrapper.extend(["sh", "-c", SETUP, "sh"]);
    let mut site = Site::wrapped(&wrapper);
    let fake = Fake::with_taps(&site.path("dataplane.sock"), 2, TAPS);
    site.start();
    site.until_ready();
    Some((site, fake))
}

/// Runs `ip` inside.
fn ip(site: &Site, words: &str) {
    let pid = site.pid().to_string();
    let mut command = Command::new("nsenter");
    command.args(["--target", &pid, "--net"]);
    if std::fs::metadata("/proc/self/ns/user").is_ok() && !is_root() {
        command.args(["--user", "--preserve-credentials"]);
    }
    let status = command.arg("ip").args(words.split(' ')).status().unwrap();
    assert!(status.success(), "ip {words}");
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn prefix(text: &str) -> Prefix {
    let (address, length) = text.split_once('/').unwrap();
    let address: std::net::IpAddr = address.parse().unwrap();
    Prefix::new(address.into(), length.parse().unwrap()).unwrap()
}

fn route(state: &State, destination: &str) -> Option<RouteRecord> {
    let wanted = prefix(destination);
    let routes = state.routes();
    let mut matching = routes.iter().filter(|route| route.prefix == wanted);
    let found = matching.next().copied();
    assert!(matching.next().is_none(), "{destination} is there twice");
    found
}

fn via(text: &str) -> Address {
    text.parse::<std::net::IpAddr>().unwrap().into()
}

#[test]
fn addresses_and_routes_are_mirrored() {
    let Some((site, fake)) = start() else { return };
    until("the forwarding table", || fake.with(|state| route(state, "0.0.0.0/0")));
    fake.with(|state| {
        let kind = |destination: &str| route(state, destination).map(|route| route.kind);
        let default = route(state, "0.0.0.0/0").unwrap();
        assert_eq!((default.kind, default.via), (RouteKind::UNICAST, via("203.0.113.1")));
        assert_eq!(default.interface, InterfaceId(1));
        // The better metric.
        assert_eq!(route(state, "198.51.100.0/24").unwrap().via, via("203.0.113.8"));
        let connected = route(state, "192.168.0.0/24").unwrap();
        assert_eq!((connected.interface, connected.via), (InterfaceId(0), Address::UNSPECIFIED));
        for local in
            ["192.168.0.1/32", "192.168.0.255/32", "203.0.113.2/32", "10.255.0.1/32", "fd00:1::1/128"]
        {
            assert_eq!(kind(local), Some(RouteKind::LOCAL), "{local}");
        }
        assert_eq!(kind("fd00:1::/64"), Some(RouteKind::UNICAST));
        assert_eq!(kind("198.18.0.0/15"), Some(RouteKind::UNREACHABLE));
        assert_eq!(kind("192.0.2.0/24"), Some(RouteKind::BLACKHOLE));
        // Not the dataplane's: other devices, the loopback, links.
        for absent in
            ["172.16.0.0/24", "172.16.0.1/32", "127.0.0.0/8", "127.0.0.1/32", "::1/128", "fe80::/64"]
        {
            assert_eq!(kind(absent), None, "{absent}");
        }
        let addresses = state.addresses();
        let mine = |text: &str, length, interface| {
            addresses.iter().any(|record| {
                record.address == via(text)
                    && record.prefix_length == length
                    && record.interface == InterfaceId(interface)
            })
        };
        assert!(mine("192.168.0.1", 24, 0) && mine("fd00:1::1", 64, 0) && mine("203.0.113.2", 24, 1));
        assert!(!addresses.iter().any(|record| record.address == via("172.16.0.1")));
    });

    // What comes and goes while we look.
    ip(&site, "route add 100.64.0.0/10 nexthop via 203.0.113.5 nexthop via 203.0.113.6");
    let added = until("a new route", || fake.with(|state| route(state, "100.64.0.0/10")));
    assert_eq!(added.via, via("203.0.113.5"));
    ip(&site, "route replace 100.64.0.0/10 via 203.0.113.7");
    until("a replaced route", || {
        fake.with(|state| route(state, "100.64.0.0/10")).filter(|route| route.via == via("203.0.113.7"))
    });
    ip(&site, "route del 100.64.0.0/10");
    until("a route gone", || fake.with(|state| route(state, "100.64.0.0/10").is_none().then_some(())));
    ip(&site, "route del 198.51.100.0/24 metric 10");
    until("the next best", || {
        fake.with(|state| route(state, "198.51.100.0/24")).filter(|route| route.via == via("203.0.113.9"))
    });
    ip(&site, "address add 203.0.113.3/24 dev tap-b");
    until("a new address", || fake.with(|state| route(state, "203.0.113.3/32")));
    let shown: Vec<RouteData> = site.ask(&Request::Routes);
    assert!(
        shown.iter().any(|route| route.destination.to_string() == "0.0.0.0/0"
            && route.interface.as_deref() == Some("outside"))
    );
    // The kernel drops these without a word.
    ip(&site, "link set tap-b down");
    until("no default route", || fake.with(|state| route(state, "0.0.0.0/0").is_none().then_some(())));
}

#[test]
fn neighbours_are_mirrored_and_looked_for() {
    let Some((site, fake)) = start() else { return };
    ip(&site, "neigh add 192.168.0.50 lladdr 02:00:00:00:00:50 dev tap-a nud permanent");
    let set = |state: &mut State, address: &str| {
        let address = via(address);
        let of: Vec<_> =
            state.neighbours_set().into_iter().filter(|(_, set)| set.address == address).collect();
        (of.len() >= 2).then_some(of)
    };
    let told = until("both workers told", || fake.with(|state| set(state, "192.168.0.50")));
    assert!(told.iter().all(|(_, set)| set.mac == [2, 0, 0, 0, 0, 0x50] && set.interface == InterfaceId(0)));
    assert_ne!(told[0].0, told[1].0);
    // Neither other devices' neighbours nor anything twice.
    ip(&site, "neigh add 172.16.0.9 lladdr 02:00:00:00:00:09 dev other nud permanent");
    ip(&site, "neigh add 203.0.113.1 lladdr 02:00:00:00:00:01 dev tap-b nud reachable");
    until("both workers told", || fake.with(|state| set(state, "203.0.113.1")));
    fake.with(|state| {
        assert_eq!(state.neighbours_set().len(), 4);
        assert!(state.neighbours_cleared().is_empty());
    });
    ip(&site, "neigh del 192.168.0.50 dev tap-a");
    until("both workers told of its end", || {
        fake.with(|state| (state.neighbours_cleared().len() == 2).then_some(()))
    });

    // A worker asks for a host that is not there: the kernel looks for it and gives up.
    let needed = NeighbourNeeded {
        address: via("192.168.0.77"),
        interface: InterfaceId(0),
        ..NeighbourNeeded::default()
    };
    let event = Slot::new(CommandKind::NEIGHBOUR_NEEDED, 0, &needed);
    fake.with(|state| state.events.push((WorkerId(1), event)));
    until("the kernel looking", || {
        let list: Vec<NeighbourData> = site.ask(&Request::Neighbours);
        let found = list.into_iter().find(|neighbour| neighbour.address.to_string() == "192.168.0.77")?;
        Some(found).filter(|neighbour| neighbour.state == NeighbourState::Incomplete && !neighbour.installed)
    });
    until("its failure", || {
        fake.with(|state| {
            let cleared = state.neighbours_cleared();
            let failed =
                cleared.iter().filter(|(_, clear)| clear.address == needed.address && clear.failed == 1);
            (failed.count() == 2).then_some(())
        })
    });
    // One that is known is told to the one that asks, at once.
    let known = NeighbourNeeded { address: via("203.0.113.1"), interface: InterfaceId(1), ..needed };
    let before = fake.with(|state| state.neighbours_set().len());
    let event = Slot::new(CommandKind::NEIGHBOUR_NEEDED, 0, &known);
    fake.with(|state| state.events.push((WorkerId(0), event)));
    until("told again", || fake.with(|state| (state.neighbours_set().len() == before + 1).then_some(())));
}

//! Synthetic messages of rtnetlink, and what the workers are told.

use super::*;
use crate::netlink;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteNextHopFlags, RouteType,
};
use std::net::IpAddr;

const TAP: u32 = 11;
const TAP2: u32 = 12;
const OTHER: u32 = 2;
const LO: u32 = 1;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

fn ip(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

fn route_address(text: &str) -> RouteAddress {
    match text.parse().unwrap() {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}

/// `destination` in table main over `oif`, with more attributes.
fn message(destination: &str, kind: RouteType, oif: u32, more: &[RouteAttribute]) -> RouteMessage {
    let (address, length) = destination.split_once('/').unwrap();
    let mut message = RouteMessage::default();
    message.header.address_family =
        if address.contains(':') { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.destination_prefix_length = length.parse().unwrap();
    message.header.kind = kind;
    message.header.table = 254;
    if length != "0" {
        message.attributes.push(RouteAttribute::Destination(route_address(address)));
    }
    if oif != 0 {
        message.attributes.push(RouteAttribute::Oif(oif));
    }
    message.attributes.extend_from_slice(more);
    message
}

fn unicast(destination: &str, oif: u32, via: &str, metric: u32) -> RouteMessage {
    let more = [RouteAttribute::Gateway(route_address(via)), RouteAttribute::Priority(metric)];
    message(destination, RouteType::Unicast, oif, &more)
}

fn local(destination: &str, kind: RouteType, oif: u32) -> RouteMessage {
    let mut message = message(destination, kind, oif, &[]);
    message.header.table = 255;
    message
}

fn mirror() -> Mirror {
    let mut mirror = Mirror::default();
    mirror.set_taps([(TAP, InterfaceId(0)), (TAP2, InterfaceId(1))]);
    for (index, name) in [(LO, "lo"), (OTHER, "eth0"), (TAP, "tp-inside"), (TAP2, "tp-outside")] {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes.push(LinkAttribute::IfName(name.into()));
        if index == LO {
            link.header.flags = LinkFlags::Loopback;
        }
        mirror.link_is(netlink::link(&link));
    }
    mirror
}

fn with(messages: &[RouteMessage]) -> Mirror {
    let mut mirror = mirror();
    for message in messages {
        if let Some(route) = netlink::route(message) {
            mirror.route_is(route, false);
        }
    }
    mirror
}

/// The record for `destination`, as kind, next hop and interface.
fn lookup(mirror: &Mirror, destination: &str) -> Option<(RouteKind, Address, u16)> {
    let (address, length) = destination.split_once('/').unwrap();
    let prefix = Prefix::new(ip(address), length.parse().unwrap()).unwrap();
    let routes = mirror.forwarding().routes;
    let found: Vec<_> = routes.iter().filter(|route| route.prefix == prefix).collect();
    assert!(found.len() <= 1, "{destination} is there {} times", found.len());
    found.first().map(|route| (route.kind, route.via, route.interface.0))
}

#[test]
fn the_lowest_metric_over_a_tap_wins() {
    let mirror = with(&[
        unicast("0.0.0.0/0", OTHER, "172.16.0.1", 0),
        unicast("0.0.0.0/0", TAP2, "203.0.113.9", 200),
        unicast("0.0.0.0/0", TAP2, "203.0.113.1", 100),
        unicast("::/0", TAP2, "fe80::1", 1024),
    ]);
    assert_eq!(lookup(&mirror, "0.0.0.0/0"), Some((RouteKind::UNICAST, ip("203.0.113.1"), 1)));
    assert_eq!(lookup(&mirror, "::/0"), Some((RouteKind::UNICAST, ip("fe80::1"), 1)));
}

#[test]
fn the_local_table_comes_before_the_main_one() {
    let mirror = with(&[
        unicast("192.0.2.1/32", TAP2, "203.0.113.1", 0),
        local("192.0.2.1/32", RouteType::Local, TAP),
        local("192.0.2.255/32", RouteType::Broadcast, TAP),
        local("2001:db8::/128", RouteType::Anycast, TAP),
        local("ff00::/8", RouteType::Multicast, TAP),
        local("10.255.0.1/32", RouteType::Local, LO),
        local("127.0.0.1/32", RouteType::Local, LO),
        local("127.0.0.0/8", RouteType::Local, LO),
        local("::1/128", RouteType::Local, LO),
        local("172.16.0.2/32", RouteType::Local, OTHER),
    ]);
    for present in ["192.0.2.1/32", "192.0.2.255/32", "2001:db8::/128", "10.255.0.1/32"] {
        assert_eq!(lookup(&mirror, present).map(|found| found.0), Some(RouteKind::LOCAL), "{present}");
    }
    assert_eq!(mirror.forwarding().routes.len(), 4);
}

#[test]
fn of_a_multipath_route_the_first_living_hop_over_a_tap_is_taken() {
    let hop = |index, via, flags| {
        let mut hop = RouteNextHop::default();
        hop.interface_index = index;
        hop.flags = flags;
        hop.attributes.push(RouteAttribute::Gateway(route_address(via)));
        hop
    };
    let none = RouteNextHopFlags::empty();
    let hops = vec![
        hop(OTHER, "172.16.0.1", none),
        hop(TAP, "192.168.0.2", RouteNextHopFlags::Linkdown),
        hop(TAP2, "203.0.113.1", none),
        hop(TAP2, "203.0.113.2", none),
    ];
    let multipath =
        message("198.51.100.0/24", RouteType::Unicast, 0, &[RouteAttribute::MultiPath(hops.clone())]);
    let mut mirror = with(std::slice::from_ref(&multipath));
    assert_eq!(lookup(&mirror, "198.51.100.0/24"), Some((RouteKind::UNICAST, ip("203.0.113.1"), 1)));
    // One hop taken out, then all.
    let third = message("198.51.100.0/24", RouteType::Unicast, TAP2, &hops[2].attributes);
    mirror.route_gone(&netlink::route(&third).unwrap());
    assert_eq!(lookup(&mirror, "198.51.100.0/24"), Some((RouteKind::UNICAST, ip("203.0.113.2"), 1)));
    mirror.route_gone(&netlink::route(&multipath).unwrap());
    assert_eq!(lookup(&mirror, "198.51.100.0/24"), None);
}

#[test]
fn what_is_not_the_dataplanes_business_is_left_out() {
    let mut other_table = unicast("192.0.2.0/24", TAP, "192.168.0.2", 0);
    other_table.attributes.push(RouteAttribute::Table(100));
    let mut cloned = unicast("192.0.3.0/24", TAP, "192.168.0.2", 0);
    cloned.header.flags = RouteFlags::Cloned;
    let mut tos = unicast("192.0.4.0/24", TAP, "192.168.0.2", 0);
    tos.header.tos = 16;
    let mut dead = unicast("192.0.5.0/24", TAP, "192.168.0.2", 0);
    dead.header.flags = RouteFlags::Dead;
    let mirror = with(&[
        other_table,
        cloned,
        tos,
        dead,
        unicast("192.0.6.0/24", TAP, "2001:db8::1", 0),
        message("fe80::/64", RouteType::Unicast, TAP, &[]),
        message("::ffff:0:0/96", RouteType::Unreachable, LO, &[]),
        message("192.0.7.0/24", RouteType::Throw, TAP, &[]),
    ]);
    assert_eq!(mirror.forwarding().routes, []);
}

#[test]
fn refusals_are_kinds_of_their_own() {
    let mirror = with(&[
        message("192.0.2.0/24", RouteType::Unreachable, 0, &[]),
        message("198.18.0.0/15", RouteType::Prohibit, 0, &[]),
        message("2001:db8:f::/48", RouteType::BlackHole, LO, &[]),
    ]);
    let kind = |destination| lookup(&mirror, destination).map(|found| found.0);
    assert_eq!(kind("192.0.2.0/24"), Some(RouteKind::UNREACHABLE));
    assert_eq!(kind("198.18.0.0/15"), Some(RouteKind::UNREACHABLE));
    assert_eq!(kind("2001:db8:f::/48"), Some(RouteKind::BLACKHOLE));
}

#[test]
fn a_replacement_takes_the_place_of_its_key_alone() {
    let mut mirror = with(&[
        unicast("192.0.2.0/24", TAP2, "203.0.113.1", 10),
        unicast("192.0.2.0/24", TAP2, "203.0.113.2", 20),
    ]);
    mirror.route_is(netlink::route(&unicast("192.0.2.0/24", TAP2, "203.0.113.3", 10)).unwrap(), true);
    assert_eq!(lookup(&mirror, "192.0.2.0/24").unwrap().1, ip("203.0.113.3"));
    mirror.route_gone(&netlink::route(&unicast("192.0.2.0/24", TAP2, "203.0.113.3", 10)).unwrap());
    assert_eq!(lookup(&mirror, "192.0.2.0/24").unwrap().1, ip("203.0.113.2"));
}

#[test]
fn addresses_are_those_of_taps() {
    let mut mirror = mirror();
    for (link, text, length) in
        [(TAP, "192.168.0.1", 24), (OTHER, "172.16.0.1", 24), (TAP2, "2001:db8::1", 64)]
    {
        let mut message = AddressMessage::default();
        message.header.index = link;
        message.header.prefix_len = length;
        message.header.family = if text.contains(':') { AddressFamily::Inet6 } else { AddressFamily::Inet };
        message.attributes.push(AddressAttribute::Address(text.parse().unwrap()));
        mirror.address_is(netlink::address(&message).unwrap());
    }
    let of = |mirror: &Mirror| {
        let addresses = mirror.forwarding().addresses;
        addresses.iter().map(|a| (a.address, a.prefix_length, a.interface.0)).collect::<Vec<_>>()
    };
    assert_eq!(of(&mirror), [(ip("192.168.0.1"), 24, 0), (ip("2001:db8::1"), 64, 1)]);
    mirror.link_gone(TAP);
    assert_eq!(of(&mirror), [(ip("2001:db8::1"), 64, 1)]);
    // Another dataplane made its TAP twins anew.
    mirror.set_taps([(OTHER, InterfaceId(5))]);
    assert_eq!(of(&mirror), [(ip("172.16.0.1"), 24, 5)]);
}

fn neighbour(link: u32, address: &str, state: NeighbourState, mac: Option<[u8; 6]>) -> Neighbour {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = link;
    message.header.state = state;
    let destination = match address.parse().unwrap() {
        IpAddr::V4(v4) => {
            message.header.family = AddressFamily::Inet;
            NeighbourAddress::Inet(v4)
        }
        IpAddr::V6(v6) => {
            message.header.family = AddressFamily::Inet6;
            NeighbourAddress::Inet6(v6)
        }
    };
    message.attributes.push(NeighbourAttribute::Destination(destination));
    message.attributes.extend(mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.to_vec())));
    netlink::neighbour(&message).unwrap()
}

#[test]
fn only_changes_of_neighbours_are_told() {
    use NeighbourState::{Delay, Failed, Incomplete, Probe, Reachable, Stale};
    let mut mirror = mirror();
    let a = ip("192.168.0.9");
    let mut now = |state, mac| mirror.neighbour_is(neighbour(TAP, "192.168.0.9", state, mac));
    let set = |mac| Some(NeighbourChange::Set(NeighbourSet { address: a, interface: InterfaceId(0), mac }));
    let clear = |failed| {
        let clear = NeighbourClear { address: a, interface: InterfaceId(0), failed, ..Default::default() };
        Some(NeighbourChange::Clear(clear))
    };
    assert_eq!(now(Incomplete, None), None);
    assert_eq!(now(Reachable, Some(MAC)), set(MAC));
    for state in [Stale, Delay, Probe, Reachable] {
        assert_eq!(now(state, Some(MAC)), None);
    }
    let moved = [2, 0, 0, 0, 0, 8];
    assert_eq!(now(Stale, Some(moved)), set(moved));
    assert_eq!(now(Failed, None), clear(1));
    assert_eq!(now(Failed, None), None);
    // Asked for again, and again nobody there: packets may wait for it.
    assert_eq!(now(Incomplete, None), None);
    assert_eq!(now(Failed, None), clear(1));
    assert_eq!(now(Reachable, Some(MAC)), set(MAC));
    assert_eq!(mirror.neighbour_gone(TAP, a), clear(0));
    assert_eq!(mirror.neighbour_gone(TAP, a), None);
}

#[test]
fn neighbours_elsewhere_and_odd_ones_are_not_told() {
    let mut mirror = mirror();
    let reachable = NeighbourState::Reachable;
    assert_eq!(mirror.neighbour_is(neighbour(OTHER, "172.16.0.9", reachable, Some(MAC))), None);
    let group = [0x33, 0x33, 0, 0, 0, 1];
    assert_eq!(mirror.neighbour_is(neighbour(TAP, "192.168.0.9", reachable, Some(group))), None);
    assert_eq!(mirror.neighbour_is(neighbour(TAP, "192.168.0.9", reachable, Some([0; 6]))), None);
    let mut multicast = NeighbourMessage::default();
    multicast.header.family = AddressFamily::Inet6;
    multicast.header.ifindex = TAP;
    let all_nodes = NeighbourAddress::Inet6("ff02::1".parse().unwrap());
    multicast.attributes.push(NeighbourAttribute::Destination(all_nodes));
    assert_eq!(netlink::neighbour(&multicast), None);
    multicast.header.flags = NeighbourFlags::Proxy;
    assert_eq!(netlink::neighbour(&multicast), None);
}

#[test]
fn a_dump_tells_the_difference() {
    let mut mirror = mirror();
    let reachable = NeighbourState::Reachable;
    let of = |n: u8, mac| neighbour(TAP, &format!("192.168.0.{n}"), reachable, Some(mac));
    assert_eq!(mirror.replace_neighbours([of(1, MAC), of(2, MAC)]).len(), 2);
    assert_eq!(mirror.replace_neighbours([of(1, MAC), of(2, MAC)]), []);
    let changes = mirror.replace_neighbours([of(2, [2, 0, 0, 0, 0, 9]), of(3, MAC)]);
    assert_eq!(changes.len(), 3);
    assert!(
        changes.iter().any(
            |change| matches!(change, NeighbourChange::Clear(clear) if clear.address == ip("192.168.0.1"))
        )
    );
    // A control plane that attaches anew tells everything.
    assert_eq!(mirror.tell_all().len(), 2);
    assert_eq!(mirror.neighbours().len(), 2);
    assert!(mirror.neighbours().iter().all(|(_, _, installed)| *installed));
}

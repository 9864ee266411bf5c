//! Ports, interfaces, their addresses, and routes.

use super::{Zones, distinct, distinct_names, limit};
use crate::address::{InterfaceAddress, Network};
use crate::model::{Config, Port};
use crate::read::{Document, quoted};
use crate::value::{Name, TapName};
use std::collections::HashSet;
use std::net::IpAddr;
use turnpike_abi::{MAX_INTERFACES, MAX_PORTS};

/// Most addresses of one interface.
const MAX_ADDRESSES: usize = 64;

/// An interface with the key path of its table.
struct Place<'c> {
    path: String,
    name: &'c Name,
    zone: Option<&'c Name>,
    addresses: &'c [InterfaceAddress],
    mtu: u16,
    tap: Option<&'c TapName>,
    tagged: bool,
}

/// Every interface in canonical order. A port without untagged interface is there with its name alone.
fn places(config: &Config) -> Vec<Place<'_>> {
    let mut places = Vec::new();
    for (i, port) in config.ports.iter().enumerate() {
        places.push(Place {
            path: format!("port[{i}]"),
            name: &port.name,
            zone: port.zone.as_ref(),
            addresses: &port.addresses,
            mtu: port.mtu,
            tap: port.tap.as_ref(),
            tagged: false,
        });
        places.extend(port.vlans.iter().enumerate().map(|(j, vlan)| Place {
            path: format!("port[{i}].vlan[{j}]"),
            name: &vlan.name,
            zone: vlan.zone.as_ref(),
            addresses: &vlan.addresses,
            mtu: vlan.mtu,
            tap: Some(&vlan.tap),
            tagged: true,
        }));
    }
    places
}

pub(super) fn check(config: &Config, zones: &Zones<'_>, document: &mut Document<'_>) {
    if config.ports.is_empty() {
        document.refuse("port", "is missing: the dataplane needs at least one [[port]]".into());
    }
    limit(document, "port", config.ports.len(), MAX_PORTS);
    devices(config, document);
    for (i, port) in config.ports.iter().enumerate() {
        vlans(config, i, document);
        use_of_port(port, &format!("port[{i}]"), document);
    }
    let places = places(config);
    let names = places.iter().map(|place| (format!("{}.name", place.path), place.name));
    distinct_names(document, names, "interface");
    // Of two interfaces with one name the TAP twins' default names clash as well: that is no news.
    let mut named = HashSet::new();
    let places_named_once = places.iter().filter(|place| named.insert(place.name));
    let taps = places_named_once.filter_map(|place| Some((format!("{}.tap", place.path), place.tap?)));
    distinct(document, taps.filter(|(_, tap)| !tap.is_unread()), |tap, first, line| {
        let tap = quoted(tap.as_str());
        format!("{tap} is {first} already (line {line}): each TAP twin needs a name of its own")
    });
    for place in &places {
        if let Some(zone) = place.zone {
            zones.expect(document, &format!("{}.zone", place.path), zone, false);
        }
        mtu(place, document);
    }
    if interfaces_fit(config, &places, document) {
        addresses(&places, document);
    }
}

/// A port forwards something, and what is said about its untagged interface has one to apply to.
fn use_of_port(port: &Port, path: &str, document: &mut Document<'_>) {
    let keys = ["zone", "addresses", "vlan"].map(|key| format!("{path}.{key}"));
    if document.is_faulty(path) || keys.iter().any(|key| document.is_faulty(key)) {
        return;
    }
    if port.zone.is_none() && port.vlans.is_empty() {
        document.refuse(path, "has neither a zone nor a VLAN: it would forward nothing".into());
    } else if let Some(tap) = port.tap.as_ref().filter(|_| !port.has_untagged()) {
        let tap = quoted(tap.as_str());
        let message =
            format!("{tap} has no untagged interface to be the twin of: give the port a zone or addresses");
        document.refuse(&format!("{path}.tap"), message);
    }
}

/// DPDK knows a device by what stands before its first comma; a PCI address may leave its domain 0000 out.
fn devices(config: &Config, document: &mut Document<'_>) {
    fn identity(device: &str) -> &str {
        let name = device.split(',').next().unwrap_or_default().trim();
        name.strip_prefix("0000:").unwrap_or(name)
    }
    let devices = config.ports.iter().enumerate().filter(|(_, port)| !port.device.is_empty());
    let devices = devices.map(|(i, port)| (format!("port[{i}].device"), identity(&port.device)));
    distinct(document, devices, |device, first, line| {
        format!("{} is {first} already (line {line}): each port needs a device of its own", quoted(device))
    });
}

fn vlans(config: &Config, port: usize, document: &mut Document<'_>) {
    let vlans = config.ports[port].vlans.iter().enumerate().filter(|(_, vlan)| vlan.id != 0);
    let ids = vlans.map(|(j, vlan)| (format!("port[{port}].vlan[{j}].id"), vlan.id));
    distinct(document, ids, |id, first, line| {
        format!("{id} is {first} already (line {line}): each VLAN of a port has its own id")
    });
    let most = config.ports[port].mtu;
    for (j, vlan) in config.ports[port].vlans.iter().enumerate() {
        if vlan.mtu > most && !document.is_faulty(&format!("port[{port}].mtu")) {
            let message =
                format!("{} is more than the port's mtu, which is {most}: raise that first", vlan.mtu);
            document.refuse(&format!("port[{port}].vlan[{j}].mtu"), message);
        }
    }
}

/// RFC 8200, section 5.
fn mtu(place: &Place<'_>, document: &mut Document<'_>) {
    if place.mtu < 1280 && place.addresses.iter().any(|address| address.address.is_ipv6()) {
        let message =
            format!("{} is too small: an interface with an IPv6 address needs 1280 or more", place.mtu);
        document.refuse(&format!("{}.mtu", place.path), message);
    }
}

/// Reports what is too much, and whether the number of interfaces is right.
fn interfaces_fit(config: &Config, places: &[Place<'_>], document: &mut Document<'_>) -> bool {
    let untagged = config.ports.iter().filter(|port| port.has_untagged()).count();
    let count = untagged + places.iter().filter(|place| place.tagged).count();
    if let Some(last) = places.last().filter(|_| count > MAX_INTERFACES) {
        let message = format!("makes {count} interfaces: at most {MAX_INTERFACES} are possible");
        document.refuse(&last.path, message);
    }
    for place in places.iter().filter(|place| place.addresses.len() > MAX_ADDRESSES) {
        let count = place.addresses.len();
        let message = format!("has {count} addresses: an interface takes at most {MAX_ADDRESSES}");
        document.refuse(&format!("{}.addresses", place.path), message);
    }
    count <= MAX_INTERFACES
}

/// No address twice, and no two links with overlapping prefixes: the kernel would not know which to use.
fn addresses(places: &[Place<'_>], document: &mut Document<'_>) {
    struct Link {
        network: Network,
        address: InterfaceAddress,
        place: usize,
        path: String,
    }
    let mut links: Vec<Link> = Vec::new();
    let counted = places.iter().enumerate().filter(|(_, place)| place.addresses.len() <= MAX_ADDRESSES);
    for (place, Place { path, addresses, .. }) in counted {
        links.extend(addresses.iter().enumerate().map(|(i, address)| Link {
            network: address.network(),
            address: *address,
            place,
            path: format!("{path}.addresses[{i}]"),
        }));
    }
    // Prefixes are nested or disjoint: sorted by address, then length, those around one are a stack.
    links.sort_by_key(|link| (link.network, link.place));
    let mut around: Vec<&Link> = Vec::new();
    for link in &links {
        around.retain(|outer| outer.network.overlaps(&link.network));
        let clash = around.iter().copied().find(|outer| {
            let same = outer.address.address == link.address.address;
            let elsewhere = outer.place != link.place;
            same && !(elsewhere && link.address.is_link_local())
                || elsewhere && !(outer.address.is_link_local() && link.address.is_link_local())
        });
        if let Some(outer) = clash {
            let key = |link: &Link| (link.place, link.path.len(), link.path.clone());
            let (first, second) = if key(outer) < key(link) { (outer, link) } else { (link, outer) };
            let line = document.line(&first.path);
            let mine = quoted(&second.address.to_string());
            let (other, path) = (quoted(&first.address.to_string()), &first.path);
            let message = if first.address.address == second.address.address {
                format!("{mine} is {path} already (line {line}): an address belongs to one interface, once")
            } else {
                format!(
                    "{mine} overlaps {other}, which is {path} (line {line}): each link needs its own prefix"
                )
            };
            document.refuse(&second.path, message);
        }
        around.push(link);
    }
}

pub(super) fn routes(config: &Config, document: &mut Document<'_>) {
    let routes = config.routes.iter().enumerate();
    let destinations =
        routes.clone().map(|(i, route)| (format!("route[{i}].destination"), route.destination));
    let destinations: Vec<_> = destinations.filter(|(path, _)| !document.is_faulty(path)).collect();
    distinct(document, destinations.into_iter(), |destination, first, line| {
        format!("\"{destination}\" is {first} already (line {line}): a destination has one route")
    });
    let unread = (0..config.ports.len()).any(|i| {
        let vlans = config.ports[i].vlans.len();
        document.is_faulty(&format!("port[{i}].addresses"))
            || (0..vlans).any(|j| document.is_faulty(&format!("port[{i}].vlan[{j}].addresses")))
    });
    let addresses: Vec<InterfaceAddress> =
        places(config).iter().flat_map(|place| place.addresses).copied().collect();
    for (i, route) in routes {
        let (via, path) = (route.via, format!("route[{i}].via"));
        if document.is_faulty(&path) {
            continue;
        }
        if via.is_ipv4() != route.destination.is_v4() {
            if !document.is_faulty(&format!("route[{i}].destination")) {
                let (mine, other) = families(via);
                let message = format!(
                    "\"{via}\" is {mine}, but the destination is {other}: write an address of that family"
                );
                document.refuse(&path, message);
            }
        } else if addresses.iter().any(|address| address.address == via) {
            document.refuse(&path, format!("\"{via}\" is the box itself: write the address of a router"));
        } else if !unread && !addresses.iter().any(|address| address.network().contains(via)) {
            let message = format!(
                "\"{via}\" is on no link of the box: write an address within the prefix of an interface"
            );
            document.refuse(&path, message);
        }
    }
}

fn families(address: IpAddr) -> (&'static str, &'static str) {
    if address.is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") }
}

//! What rtnetlink says, in our own terms. Pure: messages in, values out.

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHopFlags, RouteType, RouteVia,
};
use turnpike_abi::{Address, Prefix};

/// Routing tables that are mirrored.
const MAIN: u32 = 254;
const LOCAL: u32 = 255;

/// A kernel interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it is the loopback.
    pub loopback: bool,
    /// Station address, if it has one of six bytes.
    pub mac: Option<[u8; 6]>,
}

/// An address of the box.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalAddress {
    /// The kernel interface.
    pub link: u32,
    /// The address.
    pub address: Address,
    /// Prefix length in the family's own terms.
    pub length: u8,
}

/// The table a route is in; the kernel looks at local first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Addresses of the box.
    Local,
    /// Everything else.
    Main,
}

/// What makes a route one of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey {
    /// Destination.
    pub prefix: Prefix,
    /// Its table.
    pub table: Table,
    /// Its metric; the lowest wins.
    pub metric: u32,
}

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteAction {
    /// Forwards.
    Unicast,
    /// For the box.
    Local,
    /// Refuses with an ICMP error.
    Unreachable,
    /// Refuses without a word.
    Blackhole,
}

/// A next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hop {
    /// The kernel interface.
    pub link: u32,
    /// The router; `None` on the link.
    pub via: Option<Address>,
    /// The kernel does not use it now.
    pub dead: bool,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Which.
    pub key: RouteKey,
    /// What it does.
    pub action: RouteAction,
    /// Where to; several with multipath.
    pub hops: Vec<Hop>,
}

/// What the kernel knows of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The kernel interface.
    pub link: u32,
    /// Its address.
    pub address: Address,
    /// Its state.
    pub state: NeighbourState,
    /// Its station address, if it is known, unicast and of six bytes.
    pub mac: Option<[u8; 6]>,
}

impl Neighbour {
    /// The station address to send to, in the states in which the kernel itself would.
    pub fn usable(&self) -> Option<[u8; 6]> {
        match self.state {
            NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp => self.mac,
            _ => None,
        }
    }
}

/// An interface.
pub fn link(message: &LinkMessage) -> Link {
    let name = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    });
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok(),
        _ => None,
    });
    Link {
        index: message.header.index,
        name: name.unwrap_or_default(),
        loopback: message.header.flags.contains(LinkFlags::Loopback),
        mac,
    }
}

/// An address of the box; `None` of other families.
pub fn address(message: &AddressMessage) -> Option<LocalAddress> {
    if !matches!(message.header.family, AddressFamily::Inet | AddressFamily::Inet6) {
        return None;
    }
    // On point-to-point links the local address is an attribute of its own.
    let find = |local: bool| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(ip) if local => Some(*ip),
            AddressAttribute::Address(ip) if !local => Some(*ip),
            _ => None,
        })
    };
    let ip = find(true).or_else(|| find(false))?;
    Some(LocalAddress { link: message.header.index, address: ip.into(), length: message.header.prefix_len })
}

/// A route of the main or local table; `None` of everything that is not the dataplane's business: other
/// tables, caches, routes for one kind of traffic, multicast.
pub fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let v4 = match header.address_family {
        AddressFamily::Inet => true,
        AddressFamily::Inet6 => false,
        _ => return None,
    };
    if header.tos != 0 || header.source_prefix_length != 0 || header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let action = match header.kind {
        RouteType::Unicast => RouteAction::Unicast,
        RouteType::Local | RouteType::Broadcast | RouteType::Anycast => RouteAction::Local,
        RouteType::Unreachable | RouteType::Prohibit => RouteAction::Unreachable,
        RouteType::BlackHole => RouteAction::Blackhole,
        _ => return None,
    };
    let mut table = u32::from(header.table);
    let mut destination = if v4 { Address::v4([0; 4]) } else { Address::UNSPECIFIED };
    let mut metric = 0;
    let mut single = Hop { link: 0, via: None, dead: header.flags.contains(RouteFlags::Dead) };
    let mut hops = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(address) => destination = route_address(address)?,
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::MultiPath(list) => hops.extend(list.iter().map(|hop| {
                let mut of = Hop { link: hop.interface_index, via: None, dead: false };
                of.dead = hop.flags.intersects(RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown);
                for attribute in &hop.attributes {
                    next_hop(attribute, &mut of);
                }
                of
            })),
            other => next_hop(other, &mut single),
        }
    }
    if hops.is_empty() {
        hops.push(single);
    }
    let table = match table {
        MAIN => Table::Main,
        LOCAL => Table::Local,
        _ => return None,
    };
    // An IPv6 route to mapped addresses would read as one of IPv4.
    if !v4 && destination.is_v4() {
        return None;
    }
    let prefix = Prefix::new(destination, header.destination_prefix_length)?;
    Some(Route { key: RouteKey { prefix, table, metric }, action, hops })
}

fn next_hop(attribute: &RouteAttribute, hop: &mut Hop) {
    match attribute {
        RouteAttribute::Oif(index) => hop.link = *index,
        RouteAttribute::Gateway(address) => hop.via = route_address(address),
        RouteAttribute::Via(RouteVia::Inet(ip)) => hop.via = Some((*ip).into()),
        RouteAttribute::Via(RouteVia::Inet6(ip)) => hop.via = Some((*ip).into()),
        // The kernel wraps such packets: not a plain next hop.
        RouteAttribute::Encap(_) => hop.dead = true,
        _ => {}
    }
}

fn route_address(address: &RouteAddress) -> Option<Address> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

/// A neighbour; `None` of proxies, other families and multicast groups.
pub fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    if !matches!(message.header.family, AddressFamily::Inet | AddressFamily::Inet6)
        || message.header.flags.contains(NeighbourFlags::Proxy)
    {
        return None;
    }
    let mut address = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address = Some(Address::from(*ip)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => {
                address = Some(Address::from(*ip));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = <[u8; 6]>::try_from(bytes.as_slice())
                    .ok()
                    .filter(|mac| mac[0] & 1 == 0 && *mac != [0; 6]);
            }
            _ => {}
        }
    }
    let address = address?;
    if address.to_ip().is_multicast() {
        return None;
    }
    Some(Neighbour { link: message.header.ifindex, address, state: message.header.state, mac })
}

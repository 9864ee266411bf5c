//! The kernel's addresses, routes and neighbours as the workers need them. Pure: fed with what
//! [`crate::netlink`] read, asked for the forwarding table and for what changed about neighbours.

use crate::netlink::{Link, LocalAddress, Neighbour, Route, RouteAction, RouteKey, Table};
use hashbrown::HashMap;
use rtnetlink::packet_route::neighbour::NeighbourState;
use std::collections::{BTreeMap, BTreeSet};
use turnpike_abi::command::{NeighbourClear, NeighbourSet};
use turnpike_abi::table::{AddressRecord, RouteKind, RouteRecord};
use turnpike_abi::{Address, InterfaceId, Prefix};

/// What the workers are told about a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighbourChange {
    /// It can be reached.
    Set(NeighbourSet),
    /// It cannot, or not any more.
    Clear(NeighbourClear),
}

/// Addresses and routes as the forwarding table holds them, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarding {
    /// The box's own.
    pub addresses: Vec<AddressRecord>,
    /// One for each prefix.
    pub routes: Vec<RouteRecord>,
}

/// Everything the kernel said.
#[derive(Debug, Default)]
pub struct Mirror {
    taps: HashMap<u32, InterfaceId>,
    links: HashMap<u32, Link>,
    addresses: BTreeSet<LocalAddress>,
    routes: BTreeMap<RouteKey, Vec<Route>>,
    neighbours: HashMap<(u32, Address), Neighbour>,
    /// What every worker was told, by what it knows.
    told: HashMap<(InterfaceId, Address), [u8; 6]>,
}

impl Mirror {
    /// The TAP twins by kernel index. Whatever the workers were told counts as forgotten.
    pub fn set_taps(&mut self, taps: impl IntoIterator<Item = (u32, InterfaceId)>) {
        self.taps = taps.into_iter().collect();
        self.told.clear();
    }

    /// The interface whose TAP twin has the kernel index `link`.
    pub fn interface(&self, link: u32) -> Option<InterfaceId> {
        self.taps.get(&link).copied()
    }

    /// The TAP twin of `interface`: kernel index and name.
    pub fn tap(&self, interface: InterfaceId) -> Option<&Link> {
        let (index, _) = self.taps.iter().find(|(_, id)| **id == interface)?;
        self.links.get(index)
    }

    /// An interface appeared or changed.
    pub fn link_is(&mut self, link: Link) {
        self.links.insert(link.index, link);
    }

    /// An interface is gone, and its addresses with it.
    pub fn link_gone(&mut self, index: u32) {
        self.links.remove(&index);
        self.addresses.retain(|address| address.link != index);
    }

    /// An address appeared.
    pub fn address_is(&mut self, address: LocalAddress) {
        self.addresses.insert(address);
    }

    /// An address is gone.
    pub fn address_gone(&mut self, address: LocalAddress) {
        self.addresses.remove(&address);
    }

    /// A route appeared; with `replace` in place of those of its key.
    pub fn route_is(&mut self, route: Route, replace: bool) {
        let of_key = self.routes.entry(route.key).or_default();
        if replace {
            of_key.clear();
        }
        if !of_key.contains(&route) {
            of_key.push(route);
        }
    }

    /// A route is gone.
    pub fn route_gone(&mut self, route: &Route) {
        if let Some(of_key) = self.routes.get_mut(&route.key) {
            of_key.retain(|known| {
                known.action != route.action || !known.hops.iter().all(|hop| named(&route.hops, hop))
            });
            // A single hop taken out of a multipath route.
            for known in of_key.iter_mut() {
                known.hops.retain(|hop| !named(&route.hops, hop));
            }
            if of_key.is_empty() {
                self.routes.remove(&route.key);
            }
        }
    }

    /// All links, addresses and routes anew.
    pub fn replace(
        &mut self,
        links: impl IntoIterator<Item = Link>,
        addresses: impl IntoIterator<Item = LocalAddress>,
        routes: impl IntoIterator<Item = Route>,
    ) {
        self.links = links.into_iter().map(|link| (link.index, link)).collect();
        self.addresses = addresses.into_iter().collect();
        self.routes.clear();
        for route in routes {
            self.route_is(route, false);
        }
    }

    /// All neighbours anew; returns what that changes for the workers.
    pub fn replace_neighbours(
        &mut self,
        neighbours: impl IntoIterator<Item = Neighbour>,
    ) -> Vec<NeighbourChange> {
        let before = std::mem::take(&mut self.neighbours);
        let mut changes = Vec::new();
        for neighbour in neighbours {
            changes.extend(self.neighbour_is(neighbour));
        }
        for (key, neighbour) in before {
            if !self.neighbours.contains_key(&key) {
                changes.extend(self.untell(neighbour.link, neighbour.address, false));
            }
        }
        changes
    }

    /// A neighbour appeared or changed; returns what that changes for the workers.
    pub fn neighbour_is(&mut self, neighbour: Neighbour) -> Option<NeighbourChange> {
        let before = self.neighbours.insert((neighbour.link, neighbour.address), neighbour);
        if let Some(mac) = neighbour.usable() {
            return self.tell(neighbour.link, neighbour.address, mac);
        }
        if neighbour.state == NeighbourState::Failed {
            let again = before.is_some_and(|before| before.state == NeighbourState::Failed);
            return if again { None } else { self.untell(neighbour.link, neighbour.address, true) };
        }
        // Being asked for: what the workers have stays good until it fails.
        None
    }

    /// A neighbour is gone; returns what that changes for the workers.
    pub fn neighbour_gone(&mut self, link: u32, address: Address) -> Option<NeighbourChange> {
        self.neighbours.remove(&(link, address));
        self.untell(link, address, false)
    }

    /// Everything the workers have to be told when they know nothing.
    pub fn tell_all(&mut self) -> Vec<NeighbourChange> {
        self.told.clear();
        let usable: Vec<_> =
            self.neighbours.values().filter_map(|n| Some((n.link, n.address, n.usable()?))).collect();
        usable.into_iter().filter_map(|(link, address, mac)| self.tell(link, address, mac)).collect()
    }

    /// Neighbours on TAP twins, by interface and address, and whether the workers have them.
    pub fn neighbours(&self) -> Vec<(InterfaceId, Neighbour, bool)> {
        let mut list: Vec<_> = self
            .neighbours
            .values()
            .filter_map(|neighbour| {
                let interface = self.interface(neighbour.link)?;
                Some((interface, *neighbour, self.told.contains_key(&(interface, neighbour.address))))
            })
            .collect();
        list.sort_by_key(|(interface, neighbour, _)| (*interface, neighbour.address));
        list
    }

    /// Addresses of the box on `interface`, with their prefix lengths.
    pub fn addresses(&self, interface: InterfaceId) -> impl Iterator<Item = (Address, u8)> + '_ {
        self.addresses
            .iter()
            .filter(move |address| self.interface(address.link) == Some(interface))
            .map(|address| (address.address, address.length))
    }

    /// What the kernel last said of `address` behind `interface`.
    pub fn neighbour(&self, interface: InterfaceId, address: Address) -> Option<&Neighbour> {
        let (link, _) = self.taps.iter().find(|(_, id)| **id == interface)?;
        self.neighbours.get(&(*link, address))
    }

    /// The forwarding table: of every prefix the best route that is the dataplane's business.
    pub fn forwarding(&self) -> Forwarding {
        let addresses = self
            .addresses
            .iter()
            .filter_map(|address| {
                Some(AddressRecord {
                    address: address.address,
                    prefix_length: address.length,
                    interface: self.interface(address.link)?,
                    ..AddressRecord::default()
                })
            })
            .collect();
        let mut routes: Vec<RouteRecord> = Vec::new();
        // Keys come by prefix, then table (local first), then metric: the first usable one is the best.
        for (key, of_key) in &self.routes {
            if routes.last().is_some_and(|best| best.prefix == key.prefix) {
                continue;
            }
            routes.extend(of_key.iter().find_map(|route| self.record(route)));
        }
        Forwarding { addresses, routes }
    }

    fn record(&self, route: &Route) -> Option<RouteRecord> {
        let prefix = route.key.prefix;
        let none = RouteRecord { prefix, ..RouteRecord::default() };
        match route.action {
            RouteAction::Unreachable => Some(RouteRecord { kind: RouteKind::UNREACHABLE, ..none }),
            RouteAction::Blackhole => Some(RouteRecord { kind: RouteKind::BLACKHOLE, ..none }),
            RouteAction::Local => {
                let ours = route.key.table == Table::Local
                    && !is_loopback(prefix)
                    && route.hops.iter().any(|hop| {
                        self.taps.contains_key(&hop.link)
                            || self.links.get(&hop.link).is_some_and(|link| link.loopback)
                    });
                ours.then_some(RouteRecord { kind: RouteKind::LOCAL, ..none })
            }
            RouteAction::Unicast if is_link_local(prefix) => None,
            RouteAction::Unicast => {
                let hop = route.hops.iter().find(|hop| !hop.dead && self.taps.contains_key(&hop.link))?;
                // An IPv4 destination behind an IPv6 router cannot be written down.
                if hop.via.is_some_and(|via| via.is_v4() != is_v4(prefix)) {
                    return None;
                }
                Some(RouteRecord {
                    kind: RouteKind::UNICAST,
                    via: hop.via.unwrap_or(Address::UNSPECIFIED),
                    interface: self.interface(hop.link)?,
                    ..none
                })
            }
        }
    }

    fn tell(&mut self, link: u32, address: Address, mac: [u8; 6]) -> Option<NeighbourChange> {
        let interface = self.interface(link)?;
        if self.told.insert((interface, address), mac) == Some(mac) {
            return None;
        }
        Some(NeighbourChange::Set(NeighbourSet { address, interface, mac }))
    }

    /// A failure is told even of a neighbour that was never there: packets may wait for it.
    fn untell(&mut self, link: u32, address: Address, failed: bool) -> Option<NeighbourChange> {
        let interface = self.interface(link)?;
        let known = self.told.remove(&(interface, address)).is_some();
        (known || failed).then_some(NeighbourChange::Clear(NeighbourClear {
            address,
            interface,
            failed: u8::from(failed),
            ..NeighbourClear::default()
        }))
    }
}

fn named(hops: &[crate::netlink::Hop], hop: &crate::netlink::Hop) -> bool {
    hops.iter().any(|other| other.link == hop.link && other.via == hop.via)
}

fn is_v4(prefix: Prefix) -> bool {
    prefix.address.is_v4() && prefix.length >= 96
}

fn is_loopback(prefix: Prefix) -> bool {
    prefix.length > 96 && prefix.address.to_ip().is_loopback()
}

/// fe80::/10 means another link on every interface: nothing is forwarded there.
fn is_link_local(prefix: Prefix) -> bool {
    prefix.length >= 10 && prefix.address.0[0] == 0xfe && prefix.address.0[1] & 0xc0 == 0x80
}

#[cfg(test)]
mod tests;

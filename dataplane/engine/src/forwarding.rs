//! The forwarding table: what the kernel knows about the box's addresses and routes, compiled.

use crate::Interface;
use crate::trie::Trie;
use turnpike_abi::table::{
    AddressRecord, Reader, RouteKind, RouteRecord, TableFault, TableKind, forwarding as section,
};
use turnpike_abi::{Address, InterfaceId, MAX_OWN_ADDRESSES};

/// The forwarding table: the box's addresses and routes; immutable, shared by the workers.
#[derive(Debug)]
pub struct Forwarding {
    generation: u64,
    /// The box's own, sorted.
    own: Vec<Address>,
    /// What ICMP errors are sent from, by interface: IPv4 and IPv6.
    sources: Vec<[Option<Address>; 2]>,
    routes: Vec<Route>,
    v4: Trie,
    v6: Trie,
}

/// Where a destination leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// To `via`, or to the destination itself, on `interface`.
    Unicast {
        interface: InterfaceId,
        via: Option<Address>,
    },
    /// The box itself.
    Local,
    Unreachable,
    Blackhole,
}

impl Forwarding {
    /// Decodes and checks a forwarding table.
    ///
    /// # Errors
    /// Says what is wrong and where; the caller keeps the table it has.
    pub fn decode(table: &[u8], interfaces: &[Interface]) -> Result<Self, TableFault> {
        let reader = Reader::new(table)?;
        if reader.kind() != TableKind::FORWARDING {
            return Err(TableFault { offset: 16, what: "not a forwarding table" });
        }
        let addresses = reader.section::<AddressRecord>(section::ADDRESSES)?;
        if addresses.len() > MAX_OWN_ADDRESSES {
            let offset = reader.offset_of::<AddressRecord>(section::ADDRESSES, MAX_OWN_ADDRESSES);
            return Err(TableFault { offset, what: "too many addresses" });
        }
        for (index, record) in addresses.iter().enumerate() {
            let offset = reader.offset_of::<AddressRecord>(section::ADDRESSES, index);
            if record.interface.index() >= interfaces.len() {
                return Err(TableFault { offset, what: "address on an unknown interface" });
            }
            if record.prefix_length > if record.address.is_v4() { 32 } else { 128 } {
                return Err(TableFault { offset, what: "prefix length of an address out of range" });
            }
        }
        let mut own: Vec<Address> = addresses.iter().map(|record| record.address).collect();
        own.sort_unstable();
        let sources = (0u16..)
            .zip(interfaces)
            .map(|(interface, _)| [true, false].map(|v4| source_of(addresses, InterfaceId(interface), v4)));
        let sources = sources.collect();
        let records = reader.section::<RouteRecord>(section::ROUTES)?;
        let mut routes = Vec::with_capacity(records.len());
        for (index, record) in records.iter().enumerate() {
            let fault =
                |what| TableFault { offset: reader.offset_of::<RouteRecord>(section::ROUTES, index), what };
            if !record.prefix.is_canonical() {
                return Err(fault("prefix of a route is malformed"));
            }
            let is_v4 = record.prefix.length >= 96 && record.prefix.address.is_v4();
            let via = (!record.via.is_unspecified()).then_some(record.via);
            let route = match record.kind {
                RouteKind::UNICAST if record.interface.index() >= interfaces.len() => {
                    return Err(fault("route over an unknown interface"));
                }
                RouteKind::UNICAST if via.is_some_and(|via| via.is_v4() != is_v4) => {
                    return Err(fault("next hop of another family"));
                }
                RouteKind::UNICAST => Route::Unicast { interface: record.interface, via },
                RouteKind::LOCAL => Route::Local,
                RouteKind::UNREACHABLE => Route::Unreachable,
                RouteKind::BLACKHOLE => Route::Blackhole,
                _ => return Err(fault("unknown kind of route")),
            };
            routes.push(route);
        }
        let (mut v4, mut v6) = (Trie::new(), Trie::new());
        // Short prefixes first: each insertion then touches one node at most, whatever order the table has.
        let mut order: Vec<u32> = (0..records.len() as u32).collect();
        order.sort_by_key(|&index| records.get(index as usize).map(|record| record.prefix.length));
        for value in order {
            let Some(RouteRecord { prefix, .. }) = records.get(value as usize) else { continue };
            let bytes = &prefix.address.0;
            let fitted = match bytes.last_chunk::<4>() {
                Some(low) if prefix.length >= 96 && prefix.address.is_v4() => {
                    v4.insert(low, prefix.length - 96, value)
                }
                _ => v6.insert(bytes, prefix.length, value),
            };
            if !fitted {
                let offset = reader.offset_of::<RouteRecord>(section::ROUTES, value as usize);
                return Err(TableFault { offset, what: "too many routes" });
            }
        }
        Ok(Self { generation: reader.generation(), own, sources, routes, v4, v6 })
    }

    /// Generation of the table it came from.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Where `destination` leads; `None` without a route.
    pub(crate) fn lookup(&self, destination: Address) -> Option<Route> {
        let value = match destination.to_v4() {
            Some(octets) => return self.lookup_v4(octets),
            None => self.v6.lookup(&destination.0),
        };
        self.routes.get(value? as usize).copied()
    }

    /// As [`Forwarding::lookup`], of an IPv4 address.
    #[inline(always)]
    pub(crate) fn lookup_v4(&self, destination: [u8; 4]) -> Option<Route> {
        self.routes.get(self.v4.lookup(&destination)? as usize).copied()
    }

    /// The box's own address on an interface, for ICMP errors: of the wanted family, global if there is one.
    pub(crate) fn own_address(&self, interface: InterfaceId, v4: bool) -> Option<Address> {
        let [of_v4, of_v6] = *self.sources.get(interface.index())?;
        if v4 { of_v4 } else { of_v6 }
    }

    /// Whether `address` is one of the box's own.
    pub(crate) fn is_own(&self, address: Address) -> bool {
        self.own.binary_search(&address).is_ok()
    }
}

fn source_of(addresses: &[AddressRecord], interface: InterfaceId, v4: bool) -> Option<Address> {
    let of_family = || {
        let on_interface =
            move |record: &&AddressRecord| record.interface == interface && record.address.is_v4() == v4;
        addresses.iter().filter(on_interface).map(|record| record.address)
    };
    of_family().find(|address| !is_link_local(*address)).or_else(|| of_family().next())
}

/// `fe80::/10` (RFC 4291 2.5.6) or `169.254.0.0/16` (RFC 3927).
pub(crate) fn is_link_local(address: Address) -> bool {
    match address.to_v4() {
        Some([a, b, _, _]) => a == 169 && b == 254,
        None => address.0[0] == 0xfe && address.0[1] & 0xc0 == 0x80,
    }
}

/// `224.0.0.0/4` or `ff00::/8`.
pub(crate) fn is_multicast(address: Address) -> bool {
    match address.to_v4() {
        Some([a, ..]) => a & 0xf0 == 224,
        None => address.0[0] == 0xff,
    }
}

/// Addresses that no packet on the wire may have as source, besides multicast (RFC 1812 5.3.7, RFC 6092 REC-1..3).
pub(crate) fn is_martian_source(address: Address, in_ipv6: bool) -> bool {
    match address.to_v4() {
        Some(_) if in_ipv6 => true,
        Some([a, b, c, d]) => a == 0 || a == 127 || a >= 240 || [a, b, c, d] == [255; 4],
        None => is_martian_v6(&address.0) || address.is_unspecified(),
    }
}

/// Addresses that no packet may be forwarded to, besides multicast.
pub(crate) fn is_martian_destination(address: Address, in_ipv6: bool) -> bool {
    match address.to_v4() {
        Some(_) if in_ipv6 => true,
        Some([a, ..]) => a == 0 || a == 127 || a >= 240 || is_link_local(address),
        None => is_martian_v6(&address.0) || address.is_unspecified() || is_link_local(address),
    }
}

/// Whether no packet may be forwarded from or to an IPv4 address: multicast, link-local and what is martian.
#[inline(always)]
pub(crate) const fn is_unroutable([a, b, ..]: [u8; 4]) -> bool {
    matches!(a, 0 | 127 | 224..) || (a == 169 && b == 254)
}

/// Loopback, IPv4-compatible, deprecated site-local and ORCHID (RFC 6092 REC-3). The documentation prefix
/// is left to rules: labs use it.
fn is_martian_v6(bytes: &[u8; 16]) -> bool {
    let compatible = bytes[..12].iter().all(|&byte| byte == 0) && bytes[12..] != [0; 4];
    let site_local = bytes[0] == 0xfe && bytes[1] & 0xc0 == 0xc0;
    let orchid = bytes[..3] == [0x20, 0x01, 0x00] && bytes[3] & 0xf0 == 0x10;
    compatible || site_local || orchid
}

//! What packets of a flow are told by: addresses and ports as they stand in a packet, or in a flow's record.

use crate::keyed::ports_of;
use turnpike_abi::Address;
use turnpike_abi::event::Tuple;
use turnpike_abi::flow::{FlowRecord, FlowRecord6, Toward};

/// Addresses and ports of an IPv4 packet as they stand in it, or of a record's direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key4 {
    pub(crate) addresses: u64,
    pub(crate) ports: u32,
    pub(crate) protocol: u8,
}

/// Addresses and ports of an IPv6 packet as they stand in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key6 {
    pub(crate) source: [u8; 16],
    pub(crate) destination: [u8; 16],
    pub(crate) ports: u32,
    pub(crate) protocol: u8,
}

#[inline(always)]
pub(super) const fn toward_of(number: u32) -> Toward {
    if number & 1 == 0 { Toward::Out } else { Toward::In }
}

pub(super) const fn is_query(protocol: u8) -> bool {
    protocol == 1 || protocol == 58
}

/// The key of an IPv4 tuple.
pub(super) fn key4(tuple: &Tuple) -> Option<Key4> {
    let ([a, b, c, d], [e, f, g, h]) = (tuple.source.to_v4()?, tuple.destination.to_v4()?);
    let addresses = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
    Some(Key4 { addresses, ports: ports_of(tuple), protocol: tuple.protocol })
}

/// The key of packets that answer those of a UDP or TCP key, sent to an external end.
#[inline(always)]
pub(super) fn answers_of(key: Key4, (external, port): ([u8; 4], u16)) -> Key4 {
    let [_, _, _, _, a, b, c, d] = key.addresses.to_ne_bytes();
    let ([e, f, g, h], [high, low]) = (external, port.to_be_bytes());
    let [_, _, remote_high, remote_low] = key.ports.to_ne_bytes();
    Key4 {
        addresses: u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        ports: u32::from_ne_bytes([remote_high, remote_low, high, low]),
        ..key
    }
}

/// The key of packets of one direction.
#[inline(always)]
pub(super) fn key4_of(record: &FlowRecord, toward: Toward) -> Key4 {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = record.addresses;
    let (addresses, ports) = match toward {
        Toward::Out => ([a, b, c, d, e, f, g, h], ports_out(record)),
        Toward::In => ([e, f, g, h, i, j, k, l], ports_in(record)),
    };
    Key4 { addresses: u64::from_ne_bytes(addresses), ports, protocol: record.protocol }
}

#[inline(always)]
const fn ports_out(record: &FlowRecord) -> u32 {
    let [a, b, c, d, ..] = record.ports;
    u32::from_ne_bytes([a, b, c, d])
}

#[inline(always)]
const fn ports_in(record: &FlowRecord) -> u32 {
    let [_, _, c, d, e, f] = record.ports;
    // A query is answered by the other kind, with the same identifier.
    if is_query(record.protocol) {
        u32::from_ne_bytes([e, f, c, d ^ 1])
    } else {
        u32::from_ne_bytes([c, d, e, f])
    }
}

#[inline(always)]
pub(super) fn is_of6(record: &FlowRecord6, number: u32, key: &Key6) -> bool {
    let head = &record.head;
    let (source, destination, ports) = match toward_of(number) {
        Toward::Out => (&record.inside, &record.remote, ports_out(head)),
        Toward::In => (&record.remote, &record.inside, ports_in(head)),
    };
    *source == key.source
        && *destination == key.destination
        && ports == key.ports
        && head.protocol == key.protocol
}

/// As [`key4_of`], for IPv6.
pub(super) fn key6_of(record: &FlowRecord6, toward: Toward) -> Key6 {
    let FlowRecord6 { head, inside, remote, .. } = record;
    let (source, destination, ports) = match toward {
        Toward::Out => (*inside, *remote, ports_out(head)),
        Toward::In => (*remote, *inside, ports_in(head)),
    };
    Key6 { source, destination, ports, protocol: head.protocol }
}

/// Inside and external end of an IPv4 flow, ports in host byte order.
pub(crate) const fn ends_of(record: &FlowRecord) -> (([u8; 4], u16), ([u8; 4], u16)) {
    let [a, b, c, d, _, _, _, _, i, j, k, l] = record.addresses;
    let [m, n, _, _, o, p] = record.ports;
    (([a, b, c, d], u16::from_be_bytes([m, n])), ([i, j, k, l], u16::from_be_bytes([o, p])))
}

/// Remote address of an IPv4 flow.
pub(crate) const fn remote_of(record: &FlowRecord) -> [u8; 4] {
    let [_, _, _, _, a, b, c, d, ..] = record.addresses;
    [a, b, c, d]
}

pub(super) fn tuples_of(record: &FlowRecord, v6: Option<&FlowRecord6>) -> (Tuple, Tuple) {
    let (inside, remote, external) = match v6 {
        Some(v6) => (Address(v6.inside), Address(v6.remote), Address(v6.inside)),
        None => {
            let ((inside, _), (external, _)) = ends_of(record);
            (Address::v4(inside), Address::v4(remote_of(record)), Address::v4(external))
        }
    };
    let split = |ports: u32| {
        let [a, b, c, d] = ports.to_ne_bytes();
        (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
    };
    let tuple = |source, destination, ports| {
        let (source_port, destination_port) = split(ports);
        Tuple {
            source,
            destination,
            source_port,
            destination_port,
            protocol: record.protocol,
            reserved: [0; 3],
        }
    };
    (tuple(inside, remote, ports_out(record)), tuple(remote, external, ports_in(record)))
}

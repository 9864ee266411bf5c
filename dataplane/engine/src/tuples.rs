//! The tuple of a packet: what flows are found by, and what rules look at.

use crate::bindings;
use turnpike_abi::Address;
use turnpike_abi::counters::ProtocolClass;
use turnpike_abi::event::Tuple;
use turnpike_wire::icmp;
use turnpike_wire::packet::{Packet, Transport};

/// The tuple of a packet that can belong to a flow. A query's identifier is its source port; see
/// [`query_port`] for the other.
pub(crate) fn tuple_of(packet: &Packet) -> Option<Tuple> {
    let (source_port, destination_port) = match packet.transport {
        Transport::Tcp { source_port, destination_port, .. }
        | Transport::Udp { source_port, destination_port, .. } => (source_port, destination_port),
        Transport::IcmpQuery { identifier, kind, .. } => (identifier, query_port(kind)),
        Transport::Other => (0, 0),
        Transport::IcmpError { .. } | Transport::IcmpOther { .. } | Transport::None => return None,
    };
    Some(Tuple {
        source: Address(packet.source),
        destination: Address(packet.destination),
        source_port,
        destination_port,
        protocol: packet.protocol,
        reserved: [0; 3],
    })
}

/// The destination port of a query's tuple: 0 and 1 for an echo request and its reply, 2 and 3 for a
/// timestamp's, so that a reply matches only what was asked, and a rule for one type is not passed under the
/// flow of another.
pub(crate) const fn query_port(kind: u8) -> u16 {
    match kind {
        icmp::ECHO_REPLY | icmp::V6_ECHO_REPLY => 1,
        icmp::TIMESTAMP => 2,
        icmp::TIMESTAMP_REPLY => 3,
        _ => 0,
    }
}

/// The tuple of packets that answer those of `tuple`.
pub(crate) fn answering(tuple: &Tuple) -> Tuple {
    let query = bindings::class_of(tuple.protocol) == ProtocolClass::Icmp;
    Tuple {
        source: tuple.destination,
        destination: tuple.source,
        source_port: if query { tuple.source_port } else { tuple.destination_port },
        destination_port: if query { tuple.destination_port ^ 1 } else { tuple.source_port },
        ..*tuple
    }
}
pub(crate) fn icmp_of(packet: &Packet) -> Option<(u8, u8)> {
    match packet.transport {
        Transport::IcmpQuery { kind, code, .. } => Some((kind, code)),
        _ => None,
    }
}

/// A query has no ports for a rule to look at.
pub(crate) fn firewall_tuple(tuple: &Tuple) -> Tuple {
    if bindings::class_of(tuple.protocol) == ProtocolClass::Icmp {
        Tuple { source_port: 0, destination_port: 0, ..*tuple }
    } else {
        *tuple
    }
}

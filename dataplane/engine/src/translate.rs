//! Rewriting packets: what a flow's record says is applied here, checksums by difference (RFC 1624).

use turnpike_abi::Address;
use turnpike_wire::checksum::Delta;
use turnpike_wire::inner::{Inner, InnerTransport};
use turnpike_wire::packet::{Fragment, Packet, Transport};

/// What to do to every packet of one direction of a flow. Built once, applied often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Rewrite {
    /// Nothing: the flow is not translated.
    #[default]
    None,
    /// Source address and port.
    Source(Endpoint),
    /// Destination address and port.
    Destination(Endpoint),
}

/// The new address and port, and what changes in the checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    address: [u8; 4],
    /// Host byte order.
    port: u16,
    address_delta: Delta,
    port_delta: Delta,
}

impl Endpoint {
    /// From a port to an endpoint whose address makes a known difference.
    pub(crate) fn new(old_port: u16, (address, port): ([u8; 4], u16), address_delta: Delta) -> Self {
        Self { address, port, address_delta, port_delta: Delta::word(old_port, port) }
    }

    pub(crate) fn address(&self) -> Address {
        Address::v4(self.address)
    }
}

const IPV4_IDENTIFICATION: usize = 4;
const IPV4_CHECKSUM: usize = 10;
const IPV4_SOURCE: usize = 12;
const IPV4_DESTINATION: usize = 16;

fn read(frame: &[u8], at: usize) -> Option<u16> {
    frame.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
}

fn write(frame: &mut [u8], at: usize, value: u16) {
    if let Some(field) = frame.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *field = value.to_be_bytes();
    }
}

fn write_address(frame: &mut [u8], at: usize, value: [u8; 4]) {
    if let Some(field) = frame.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *field = value;
    }
}

impl Rewrite {
    /// The new port, 0 if there is none.
    pub(crate) fn port(&self) -> u16 {
        match self {
            Self::None => 0,
            Self::Source(end) | Self::Destination(end) => end.port,
        }
    }
}

/// Applies a rewrite to a parsed packet. Only the first of its fragments has a transport header.
pub(crate) fn apply(frame: &mut [u8], packet: &Packet, rewrite: &Rewrite) {
    let (end, source) = match rewrite {
        Rewrite::None => return,
        Rewrite::Source(end) => (end, true),
        Rewrite::Destination(end) => (end, false),
    };
    write_address(frame, packet.l3 + if source { IPV4_SOURCE } else { IPV4_DESTINATION }, end.address);
    adjust(frame, packet.l3 + IPV4_CHECKSUM, |check| end.address_delta.apply(check));
    if source && packet.fragment != Fragment::Whole {
        identify(frame, packet, packet.identification as u16);
    }
    if matches!(packet.fragment, Fragment::Later { .. }) {
        return;
    }
    let port_at = packet.l4 + if source { 0 } else { 2 };
    let both = end.address_delta.and(end.port_delta);
    match packet.transport {
        Transport::Tcp { .. } => {
            write(frame, port_at, end.port);
            adjust(frame, packet.l4 + 16, |check| both.apply(check));
        }
        Transport::Udp { .. } => {
            write(frame, port_at, end.port);
            // RFC 768: 0 means none was computed and stays 0 (RFC 3022 4.1).
            adjust(frame, packet.l4 + 6, |check| both.apply_udp(check));
        }
        Transport::IcmpQuery { .. } => {
            // RFC 3022 4.1: no pseudo header, only the identifier changes.
            write(frame, packet.l4 + 4, end.port);
            adjust(frame, packet.l4 + 2, |check| end.port_delta.apply(check));
        }
        Transport::IcmpError { .. } | Transport::IcmpOther { .. } | Transport::Other | Transport::None => {}
    }
}

/// Gives an IPv4 packet another identification.
pub(crate) fn identify(frame: &mut [u8], packet: &Packet, identification: u16) {
    let mut delta = Delta::NONE;
    edit(frame, packet.l3 + IPV4_IDENTIFICATION, identification, &mut delta);
    adjust(frame, packet.l3 + IPV4_CHECKSUM, |check| delta.apply(check));
}

fn adjust(frame: &mut [u8], at: usize, change: impl FnOnce(u16) -> u16) {
    if let Some(check) = read(frame, at) {
        write(frame, at, change(check));
    }
}

/// Writes a word and notes the change.
fn edit(frame: &mut [u8], at: usize, value: u16, delta: &mut Delta) {
    if let Some(old) = read(frame, at) {
        write(frame, at, value);
        *delta = delta.and(Delta::word(old, value));
    }
}

/// Rewrites an ICMP error (RFC 5508 section 4.2). `rewrite` belongs to the flow's packets that travel in
/// the error's own direction; the embedded packet travelled the other way, so it is rewritten at its
/// opposite end.
pub(crate) fn apply_to_error(frame: &mut [u8], packet: &Packet, inner: &Inner, rewrite: &Rewrite) {
    let (end, outward) = match rewrite {
        Rewrite::None => return,
        Rewrite::Source(end) => (end, true),
        Rewrite::Destination(end) => (end, false),
    };
    // The outer header. Towards outside the source becomes the external address whoever sent the error (REQ-5).
    let at = packet.l3 + if outward { IPV4_SOURCE } else { IPV4_DESTINATION };
    let mut outer = Delta::NONE;
    edit_address(frame, at, end.address, &mut outer);
    adjust(frame, packet.l3 + IPV4_CHECKSUM, |check| outer.apply(check));

    // The embedded packet; every word changed counts towards the checksum of the message around it.
    let mut message = Delta::NONE;
    let at = inner.l3 + if outward { IPV4_DESTINATION } else { IPV4_SOURCE };
    edit_address(frame, at, end.address, &mut message);
    if let Some(at) = inner.ip_checksum_at {
        let address = message;
        if let Some(check) = read(frame, at) {
            edit(frame, at, address.apply(check), &mut message);
        }
    }
    match inner.kind {
        InnerTransport::Ports { checksum_at, udp, .. } => {
            let port_at = inner.l4 + if outward { 2 } else { 0 };
            // The embedded pseudo header changes by the same address.
            let mut both = end.address_delta;
            edit_both(frame, port_at, end.port, &mut message, &mut both);
            if let Some((at, check)) = checksum_at.and_then(|at| read(frame, at).map(|check| (at, check))) {
                let check = if udp { both.apply_udp(check) } else { both.apply(check) };
                edit(frame, at, check, &mut message);
            }
        }
        InnerTransport::Query { checksum_at, .. } => {
            let mut identifier = Delta::NONE;
            edit_both(frame, inner.l4 + 4, end.port, &mut message, &mut identifier);
            if let Some(check) = read(frame, checksum_at) {
                edit(frame, checksum_at, identifier.apply(check), &mut message);
            }
        }
        InnerTransport::IcmpError | InnerTransport::Other => {}
    }
    adjust(frame, packet.l4 + 2, |check| message.apply(check));
}

fn edit_both(frame: &mut [u8], at: usize, value: u16, first: &mut Delta, second: &mut Delta) {
    if let Some(old) = read(frame, at) {
        write(frame, at, value);
        let delta = Delta::word(old, value);
        *first = first.and(delta);
        *second = second.and(delta);
    }
}

fn edit_address(frame: &mut [u8], at: usize, value: [u8; 4], delta: &mut Delta) {
    let [a, b, c, d] = value;
    edit(frame, at, u16::from_be_bytes([a, b]), delta);
    edit(frame, at + 2, u16::from_be_bytes([c, d]), delta);
}

//! ICMP errors the box makes itself.

use crate::egress::Ready;
use crate::forwarding::{is_martian_source, is_multicast};
use crate::outbox::Outbox;
use crate::pipeline::{Refusal, Tables, Worker};
use crate::{Buffer, Time};
use turnpike_abi::counters::{Counter, Direction, IcmpKind, ProtocolClass};
use turnpike_abi::{Address, InterfaceId};
use turnpike_wire::ethernet;
use turnpike_wire::icmp_error;
use turnpike_wire::packet::{Family, Fragment, Packet, Transport};

/// Largest error made: an ICMPv6 error fills up to the minimum MTU (RFC 4443 2.4 c).
const LARGEST: usize = 1280;

/// A token bucket for each interface (RFC 1812 4.3.2.8): a second's worth of errors may come at once.
#[derive(Debug)]
pub(crate) struct Limits {
    buckets: Vec<Bucket>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Thousandths of an error.
    tokens: u64,
    filled: Time,
}

impl Limits {
    pub(crate) fn new(interfaces: usize) -> Self {
        Self { buckets: vec![Bucket { tokens: u64::MAX, filled: Time(0) }; interfaces] }
    }

    fn admit(&mut self, interface: InterfaceId, now: Time, rate: u32) -> bool {
        let Some(bucket) = self.buckets.get_mut(interface.index()) else { return false };
        let rate = u64::from(rate);
        let gained = now.0.saturating_sub(bucket.filled.0).saturating_mul(rate);
        bucket.filled = now;
        bucket.tokens = bucket.tokens.saturating_add(gained).min(rate * 1000);
        if bucket.tokens < 1000 {
            return false;
        }
        bucket.tokens -= 1000;
        true
    }
}

impl<B: Buffer> Worker<B> {
    /// Answers a refused packet, which is counted as a drop already, with an ICMP error in its own buffer.
    pub(crate) fn refuse(
        &mut self,
        tables: &Tables,
        now: Time,
        on: InterfaceId,
        &Refusal { kind, mtu, ref packet, .. }: &Refusal,
        mut buffer: B,
        out: &mut Outbox<B>,
    ) {
        if !may_answer(packet, buffer.bytes()) {
            out.freed.push(buffer);
            return;
        }
        let v4 = packet.family == Family::V4;
        let own = tables.forwarding.own_address(on, v4);
        let (Some(own), true) = (own, self.limits.admit(on, now, tables.policy.settings.icmp_rate)) else {
            self.counters.icmp(kind_of(kind, v4), false);
            out.freed.push(buffer);
            return;
        };
        let station: [u8; 6] = match buffer.bytes().get(6..12).and_then(|mac| mac.first_chunk()) {
            Some(mac) => *mac,
            None => return out.freed.push(buffer),
        };
        let mut error = [0; LARGEST];
        let quoted = buffer.bytes().get(packet.l3..packet.end).unwrap_or_default();
        let length = write_error(&mut error, own, kind, mtu, packet, quoted);
        let l3 = packet.l3;
        if !buffer.resize(l3 + length) {
            return out.freed.push(buffer);
        }
        if let (Some(to), Some(from)) = (buffer.bytes_mut().get_mut(l3..), error.get(..length)) {
            to.copy_from_slice(from);
        }
        self.counters.add(Counter::Generated, 1);
        self.counters.icmp(kind_of(kind, v4), true);
        // Back to the station it came from: no need to resolve it, and no way to reflect it elsewhere.
        let next_hop = crate::neighbours::NextHop { interface: on, address: Address(packet.source) };
        let ready =
            Ready { l3, family: packet.family, direction: Direction::Routed, class: ProtocolClass::Icmp };
        self.emit(next_hop, buffer, ready, station, out);
    }
}

/// RFC 1812 4.3.2.7, RFC 4443 2.4 e: no error about an error, a later fragment, or what came to or from many.
fn may_answer(packet: &Packet, frame: &[u8]) -> bool {
    let group_frame = ethernet::parse(frame).is_ok_and(|link| {
        ethernet::is_multicast(link.destination) || !ethernet::is_unicast_nonzero(link.source)
    });
    let source = Address(packet.source);
    !matches!(packet.transport, Transport::IcmpError { .. } | Transport::IcmpOther { .. })
        && !matches!(packet.fragment, Fragment::Later { .. })
        && !group_frame
        && !is_multicast(source)
        && !is_martian_source(source, packet.family == Family::V6)
        && !is_multicast(Address(packet.destination))
}

/// The kind as the family has it.
const fn kind_of(kind: IcmpKind, v4: bool) -> IcmpKind {
    match kind {
        IcmpKind::FragNeeded if !v4 => IcmpKind::PacketTooBig,
        kind => kind,
    }
}

fn write_error(
    out: &mut [u8],
    own: Address,
    kind: IcmpKind,
    mtu: u16,
    packet: &Packet,
    quoted: &[u8],
) -> usize {
    let source = Address(packet.source);
    match (own.to_v4(), source.to_v4()) {
        (Some(own), Some(to)) => {
            let (kind, code, rest) = match kind {
                IcmpKind::UnreachableNet => (3, 0, 0),
                IcmpKind::UnreachableHost => (3, 1, 0),
                IcmpKind::UnreachableAdmin => (3, 13, 0),
                // RFC 1191 section 4: the next hop's MTU in the low half.
                IcmpKind::FragNeeded | IcmpKind::PacketTooBig => (3, 4, u32::from(mtu)),
                IcmpKind::TimeExceeded => (11, 0, 0),
            };
            // RFC 5508 REQ-10d: the error has the packet's DSCP.
            icmp_error::ipv4(out, own, to, kind, code, rest, packet.traffic_class & !3, 0, quoted)
        }
        _ => {
            let (kind, code, rest) = match kind {
                IcmpKind::UnreachableNet => (1, 0, 0),
                IcmpKind::UnreachableHost => (1, 3, 0),
                IcmpKind::UnreachableAdmin => (1, 1, 0),
                IcmpKind::FragNeeded | IcmpKind::PacketTooBig => (2, 0, u32::from(mtu)),
                IcmpKind::TimeExceeded => (3, 0, 0),
            };
            icmp_error::ipv6(out, own.0, source.0, kind, code, rest, packet.traffic_class & !3, quoted)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ttl_2_the_limit_lets_a_seconds_worth_through_and_fills_again() {
        let mut limits = Limits::new(1);
        let on = InterfaceId(0);
        let burst = (0..300).filter(|_| limits.admit(on, Time(5), 100)).count();
        assert_eq!(burst, 100);
        assert!(!limits.admit(on, Time(9), 100));
        assert!(limits.admit(on, Time(15), 100));
        assert!(!limits.admit(on, Time(15), 0));
        assert!(!limits.admit(InterfaceId(7), Time(15), 100));
    }
}

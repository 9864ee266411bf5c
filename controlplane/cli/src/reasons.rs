//! Drop reasons in words.

use turnpike_abi::counters::DropReason;

/// What a reason means to an operator; empty for one that this release does not know.
#[must_use]
pub fn meaning(name: &str) -> &'static str {
    DropReason::ALL.iter().find(|reason| reason.name() == name).map_or("", |&reason| words(reason))
}

const fn words(reason: DropReason) -> &'static str {
    use DropReason as R;
    match reason {
        R::EthTruncated => "frame shorter than its Ethernet header",
        R::MacNotOurs => "frame for another station",
        R::VlanTruncated => "VLAN tag cut short",
        R::VlanUnknown => "VLAN that no interface of the port carries",
        R::EthertypeUnknown => "neither ARP, IPv4 nor IPv6",
        R::ArpMalformed => "ARP cut short, or not for Ethernet and IPv4",
        R::Ip4Truncated => "IPv4 header cut short",
        R::Ip4BadVersion => "IPv4: version is not 4",
        R::Ip4BadIhl => "IPv4: bad header length",
        R::Ip4BadTotalLength => "IPv4: bad total length",
        R::Ip4BadChecksum => "IPv4: header checksum wrong",
        R::Ip4BadOptions => "IPv4: malformed options",
        R::IpOptionsSourceRoute => "IPv4: source route option",
        R::Ip6Truncated => "IPv6 header cut short",
        R::Ip6BadVersion => "IPv6: version is not 6",
        R::Ip6BadPayloadLength => "IPv6: payload length past the frame",
        R::Ip6ExtTruncated => "IPv6: extension header cut short",
        R::Ip6ExtOrder => "IPv6: extension headers out of order",
        R::Ip6ExtLimit => "IPv6: too many extension headers",
        R::Ip6RoutingHeader0 => "IPv6: type 0 routing header",
        R::MartianSource => "source that no host may use",
        R::MartianDestination => "destination that must not be forwarded",
        R::SpoofedSource => "source does not route back to its interface",
        R::MulticastUnsupported => "multicast or broadcast not for the box",
        R::FragTiny => "fragment that cuts the transport header",
        R::FragOffsetOne => "fragment with offset 1",
        R::FragOverrun => "fragment that ends past 65535 bytes",
        R::FragBadLength => "fragment of a bad length",
        R::FragOverlap => "fragments that overlap",
        R::FragDuplicate => "fragment that came before",
        R::FragLimit => "too many fragments under way",
        R::FragTimeout => "first fragment missing for too long",
        R::FragIcmpError => "ICMP error in fragments",
        R::TcpTruncated => "TCP header cut short",
        R::TcpBadOffset => "TCP: bad data offset",
        R::TcpBadFlags => "TCP: flags that no stack sends",
        R::UdpTruncated => "UDP header cut short",
        R::UdpBadLength => "UDP: bad length",
        R::IcmpTruncated => "ICMP message cut short",
        R::IcmpBadChecksum => "ICMP: checksum wrong",
        R::IcmpInnerTruncated => "ICMP error: embedded packet too short",
        R::IcmpInnerBadChecksum => "ICMP error: embedded header checksum wrong",
        R::IcmpDoubleError => "ICMP error about an ICMP error",
        R::IcmpUnknownType => "ICMP type that is not forwarded",
        R::IcmpNoSession => "ICMP error about no flow of the box",
        R::ProtoUnsupported => "protocol that is not translated",
        R::TtlExpired => "TTL or hop limit used up",
        R::MtuExceeded => "larger than the next link, not to be fragmented",
        R::NoRoute => "no route to the destination",
        R::RouteUnreachable => "the route says unreachable or blackhole",
        R::NeighbourUnresolved => "next hop did not answer ARP or ND",
        R::NeighbourQueueFull => "too many packets wait for the next hop",
        R::NoMapping => "to a pool address, and no binding has that port",
        R::FilteredRemote => "the pinhole does not admit this remote end",
        R::FilteredUnasked => "the pool's filtering: the host did not ask for it",
        R::PinholeOneWay => "against the direction of a one-way pinhole",
        R::PinholeLocked => "the pinhole is locked to another remote end",
        R::PinholeFlows => "the pinhole has as many flows as it may",
        R::FirewallRuleDeny => "a firewall rule says drop or reject",
        R::FirewallDefaultDeny => "no rule matched and the zones' default is deny",
        R::SynRequired => "TCP of no known flow, and not a SYN",
        R::IcmpReplyUnasked => "ICMP reply that nobody asked for",
        R::PrivateSource => "private source would leave untranslated",
        R::PortExhausted => "no free port for the subscriber",
        R::SubscriberPorts => "the subscriber has all the ports it may have",
        R::SubscriberFlows => "the subscriber has all the flows it may have",
        R::SubscriberRate => "the subscriber opens flows too fast",
        R::FlowLimit => "flow table full",
        R::BindingLimit => "binding table full",
        R::HairpinLoop => "would be translated a third time",
        R::CrossingRingFull => "ring to the owning worker full",
        R::PuntRingFull => "ring to the TAP twin full",
        R::TxQueueFull => "transmit queue full",
        R::BufferExhausted => "no packet buffer free",
        R::NotConfigured => "no policy yet, or interface without zone",
        R::InternalError => "defect of the box: please report",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_words() {
        let mut seen = std::collections::HashSet::new();
        for reason in DropReason::ALL {
            let words = meaning(reason.name());
            assert!(!words.is_empty() && words.len() <= 50, "{}: {words}", reason.name());
            assert!(seen.insert(words), "{words}");
        }
        assert_eq!(meaning("of_another_release"), "");
    }
}

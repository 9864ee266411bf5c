//! Why a frame was refused.

use core::fmt;

macro_rules! malformed {
    ($($(#[doc = $doc:literal])+ $variant:ident = $text:literal,)+) => {
        /// What is wrong with a frame. The names are those of the drop reasons.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Malformed {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Malformed {
            /// Every variant, once.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
        }

        impl fmt::Display for Malformed {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$variant => $text,)+
                })
            }
        }
    };
}

malformed! {
    /// Frame shorter than its Ethernet header.
    EthTruncated = "frame shorter than its Ethernet header",
    /// VLAN tag cut short.
    VlanTruncated = "VLAN tag cut short",
    /// ARP cut short, or not for Ethernet and IPv4 (RFC 826).
    ArpMalformed = "ARP packet cut short or not for Ethernet and IPv4",
    /// IPv4 header cut short.
    Ip4Truncated = "IPv4 header cut short",
    /// Version is not 4.
    Ip4BadVersion = "IP version is not 4",
    /// Header length under 20 bytes or past the frame.
    Ip4BadIhl = "IPv4 header length under 20 bytes or past the frame",
    /// Total length under the header's or past the frame.
    Ip4BadTotalLength = "IPv4 total length under the header's or past the frame",
    /// Header checksum wrong.
    Ip4BadChecksum = "IPv4 header checksum wrong",
    /// Options run past the header or have a length under 2.
    Ip4BadOptions = "IPv4 options run past the header or have a length under 2",
    /// Loose or strict source route (RFC 5508 7.3, RFC 7126 4.3).
    IpOptionsSourceRoute = "IPv4 source route",
    /// IPv6 header cut short.
    Ip6Truncated = "IPv6 header cut short",
    /// Version is not 6.
    Ip6BadVersion = "IP version is not 6",
    /// Payload length 0 (so also a jumbogram) or past the frame.
    Ip6BadPayloadLength = "IPv6 payload length 0 or past the frame",
    /// Extension header cut short.
    Ip6ExtTruncated = "IPv6 extension header cut short",
    /// Hop-by-Hop not first, or a Routing or Fragment header a second time (RFC 8200 4.1).
    Ip6ExtOrder = "IPv6 extension header out of place or repeated",
    /// More than [`packet::EXTENSION_HEADERS`](crate::packet::EXTENSION_HEADERS) extension headers.
    Ip6ExtLimit = "too many IPv6 extension headers",
    /// Type 0 routing header with segments left (RFC 5095).
    Ip6RoutingHeader0 = "IPv6 routing header of type 0",
    /// Fragment with offset 0 that cuts the transport header (RFC 1858).
    FragTiny = "first fragment cuts the transport header",
    /// TCP fragment at offset 1, that is 8 bytes (RFC 3128).
    FragOffsetOne = "TCP fragment at offset 1",
    /// Fragment of a packet that would end past 65535 bytes.
    FragOverrun = "fragment ends past 65535 bytes",
    /// Non-last fragment whose length is not a multiple of 8, or an empty one.
    FragBadLength = "fragment empty, or not the last and not a multiple of 8 bytes",
    /// TCP header cut short.
    TcpTruncated = "TCP header cut short",
    /// TCP data offset under 20 bytes or past the segment.
    TcpBadOffset = "TCP data offset under 20 bytes or past the segment",
    /// Flag combination no stack sends: none, SYN+FIN, SYN+RST, FIN without ACK.
    TcpBadFlags = "TCP flags that no stack sends",
    /// UDP header cut short.
    UdpTruncated = "UDP header cut short",
    /// UDP length under 8 or past the packet.
    UdpBadLength = "UDP length under 8 or past the packet",
    /// ICMP message under 8 bytes.
    IcmpTruncated = "ICMP message cut short",
    /// Checksum of an ICMP error wrong (RFC 5508 REQ-3).
    IcmpBadChecksum = "ICMP checksum wrong",
    /// Embedded packet too short to find its ports.
    IcmpInnerTruncated = "packet embedded in an ICMP error too short to find its ports",
    /// Embedded IPv4 header checksum wrong (RFC 5508 REQ-3a).
    IcmpInnerBadChecksum = "IPv4 header checksum of the embedded packet wrong",
}

impl core::error::Error for Malformed {}

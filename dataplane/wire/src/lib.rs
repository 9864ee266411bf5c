//! Header parsing and codecs for the packet path: Ethernet, VLAN, ARP, IPv4, IPv6, TCP, UDP, ICMP, ICMPv6.
//!
//! Frames are byte slices from the first byte of the Ethernet header to the last before the FCS. Offsets are
//! counted from the start of the frame. Every multi-byte field is returned in host byte order. Nothing here
//! panics, whatever the bytes: [`packet::parse`] checks once what the rest of the box then relies on.

#![no_std]
#![forbid(unsafe_code)]

pub mod arp;
pub mod checksum;
pub mod ethernet;
mod extension;
mod field;
pub mod fragment;
pub mod icmp_error;
pub mod inner;
mod malformed;
pub mod packet;
pub mod rewrite;
mod transport;

pub use malformed::Malformed;
pub use packet::Family;
pub use transport::icmp;

/// IP protocol numbers (IANA).
pub mod protocol {
    /// IPv6 Hop-by-Hop Options (RFC 8200 4.3).
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP (RFC 792).
    pub const ICMP: u8 = 1;
    /// TCP (RFC 9293).
    pub const TCP: u8 = 6;
    /// UDP (RFC 768).
    pub const UDP: u8 = 17;
    /// IPv6 Routing header (RFC 8200 4.4).
    pub const ROUTING: u8 = 43;
    /// IPv6 Fragment header (RFC 8200 4.5).
    pub const FRAGMENT: u8 = 44;
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: u8 = 58;
    /// IPv6 Destination Options (RFC 8200 4.6).
    pub const DESTINATION_OPTIONS: u8 = 60;
}

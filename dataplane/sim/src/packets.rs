//! Packets for tests: built with full checksums, taken apart with full checks.

use std::net::IpAddr;
use turnpike_abi::Address;
use turnpike_wire::checksum;
use turnpike_wire::ethernet;
use turnpike_wire::packet::{self, Family, Packet, Transport};

/// ICMP.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMPv6.
pub const ICMPV6: u8 = 58;

/// One end.
pub type End<'a> = (&'a str, u16);

/// What a test packet looks like; every field may be changed before [`Build::frame`].
#[derive(Clone, Debug)]
pub struct Build {
    /// Source.
    pub source: IpAddr,
    /// Destination.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Transport header and payload, its checksum field 0 if `checksum_at` is set.
    pub message: Vec<u8>,
    /// Where the transport checksum goes, if one is computed.
    pub checksum_at: Option<usize>,
    /// TTL or hop limit.
    pub ttl: u8,
    /// DF.
    pub dont_fragment: bool,
    /// TOS or traffic class.
    pub traffic_class: u8,
    /// Identification.
    pub identification: u16,
    /// Destination station.
    pub to: [u8; 6],
    /// Source station.
    pub from: [u8; 6],
    /// VLAN tag.
    pub vlan: Option<u16>,
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

impl Build {
    fn new(
        source: &str,
        destination: &str,
        protocol: u8,
        message: Vec<u8>,
        checksum_at: Option<usize>,
    ) -> Self {
        Self {
            source: ip(source),
            destination: ip(destination),
            protocol,
            message,
            checksum_at,
            ttl: 64,
            dont_fragment: false,
            traffic_class: 0,
            identification: 1,
            to: [0; 6],
            from: [0x02, 0xff, 0, 0, 0, 1],
            vlan: None,
        }
    }

    /// A UDP datagram.
    #[must_use]
    pub fn udp(source: End<'_>, destination: End<'_>, payload: &[u8]) -> Self {
        let mut message = Vec::new();
        message.extend(source.1.to_be_bytes());
        message.extend(destination.1.to_be_bytes());
        message.extend(((8 + payload.len()) as u16).to_be_bytes());
        message.extend([0, 0]);
        message.extend(payload);
        Self::new(source.0, destination.0, UDP, message, Some(6))
    }

    /// A TCP segment.
    #[must_use]
    pub fn tcp(source: End<'_>, destination: End<'_>, flags: u8, payload: &[u8]) -> Self {
        Self::tcp_with(source, destination, flags, &[], payload)
    }

    /// A TCP segment with options, whose length is a multiple of 4.
    #[must_use]
    pub fn tcp_with(
        source: End<'_>,
        destination: End<'_>,
        flags: u8,
        options: &[u8],
        payload: &[u8],
    ) -> Self {
        let mut message = Vec::new();
        message.extend(source.1.to_be_bytes());
        message.extend(destination.1.to_be_bytes());
        message.extend([0, 0, 0, 1, 0, 0, 0, 0]);
        message.extend([((5 + options.len() / 4) as u8) << 4, flags, 0x20, 0, 0, 0, 0, 0]);
        message.extend(options);
        message.extend(payload);
        Self::new(source.0, destination.0, TCP, message, Some(16))
    }

    /// An echo request or reply of the addresses' family.
    #[must_use]
    pub fn echo(source: &str, destination: &str, identifier: u16, reply: bool, payload: &[u8]) -> Self {
        let (protocol, kind) = match (ip(source), reply) {
            (IpAddr::V4(_), false) => (ICMP, 8),
            (IpAddr::V4(_), true) => (ICMP, 0),
            (IpAddr::V6(_), false) => (ICMPV6, 128),
            (IpAddr::V6(_), true) => (ICMPV6, 129),
        };
        let mut message = vec![kind, 0, 0, 0];
        message.extend(identifier.to_be_bytes());
        message.extend([0, 1]);
        message.extend(payload);
        Self::new(source, destination, protocol, message, Some(2))
    }

    /// An ICMP error about `about`, which is an IP packet.
    #[must_use]
    pub fn icmp_error(source: &str, destination: &str, kind: u8, code: u8, rest: u32, about: &[u8]) -> Self {
        let protocol = if ip(source).is_ipv4() { ICMP } else { ICMPV6 };
        let mut message = vec![kind, code, 0, 0];
        message.extend(rest.to_be_bytes());
        message.extend(about);
        Self::new(source, destination, protocol, message, Some(2))
    }

    /// A packet of any protocol.
    #[must_use]
    pub fn other(source: &str, destination: &str, protocol: u8, payload: &[u8]) -> Self {
        Self::new(source, destination, protocol, payload.to_vec(), None)
    }

    /// Sets TTL or hop limit.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets DF.
    #[must_use]
    pub fn df(mut self) -> Self {
        self.dont_fragment = true;
        self
    }

    /// The frame, for interface `to`.
    #[must_use]
    pub fn frame(&self, to: u16) -> Vec<u8> {
        let mut this = self.clone();
        if this.to == [0; 6] {
            this.to = crate::station(to);
        }
        let mut frame =
            vec![0; ethernet::HEADER_LEN + if self.vlan.is_some() { ethernet::VLAN_LEN } else { 0 }];
        let ethertype =
            if self.source.is_ipv4() { ethernet::ETHERTYPE_IPV4 } else { ethernet::ETHERTYPE_IPV6 };
        ethernet::write(&mut frame, this.to, this.from, self.vlan, ethertype).expect("room");
        frame.extend(self.ip());
        frame
    }

    /// The IP packet.
    #[must_use]
    pub fn ip(&self) -> Vec<u8> {
        let (source, destination) = (Address::from(self.source).0, Address::from(self.destination).0);
        let mut message = self.message.clone();
        if let Some(at) = self.checksum_at {
            let check = transport_checksum(&source, &destination, self.protocol, &message);
            let check = if self.protocol == UDP && check == 0 { 0xffff } else { check };
            message[at..at + 2].copy_from_slice(&check.to_be_bytes());
        }
        let mut packet = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = vec![0x45, self.traffic_class];
                header.extend(((20 + message.len()) as u16).to_be_bytes());
                header.extend(self.identification.to_be_bytes());
                header.extend([if self.dont_fragment { 0x40 } else { 0 }, 0, self.ttl, self.protocol, 0, 0]);
                header.extend(source.octets());
                header.extend(destination.octets());
                let check = checksum::ones_complement(&header);
                header[10..12].copy_from_slice(&check.to_be_bytes());
                header
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut header = vec![0x60 | self.traffic_class >> 4, self.traffic_class << 4, 0, 0];
                header.extend((message.len() as u16).to_be_bytes());
                header.extend([self.protocol, self.ttl]);
                header.extend(source.octets());
                header.extend(destination.octets());
                header
            }
            _ => panic!("both ends are of one family"),
        };
        packet.extend(message);
        packet
    }
}

fn transport_checksum(source: &[u8; 16], destination: &[u8; 16], protocol: u8, message: &[u8]) -> u16 {
    let pseudo = if protocol == ICMP {
        0
    } else {
        checksum::pseudo_header(source, destination, protocol, message.len() as u32)
    };
    !checksum::fold(u64_fold(u64::from(pseudo) + u64::from(checksum::sum(message))))
}

fn u64_fold(sum: u64) -> u32 {
    ((sum & 0xffff_ffff) + (sum >> 32)) as u32
}

/// A frame taken apart, all its checksums verified in full.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Destination station.
    pub to: [u8; 6],
    /// Source station.
    pub from: [u8; 6],
    /// VLAN tag.
    pub vlan: Option<u16>,
    /// The parsed packet.
    pub packet: Packet,
    /// The whole frame.
    pub frame: Vec<u8>,
}

/// Takes a frame apart.
///
/// # Panics
/// If anything about it is wrong, a checksum for example.
#[must_use]
pub fn see(frame: &[u8]) -> Seen {
    let link = ethernet::parse(frame).expect("an Ethernet frame");
    let family = if link.ethertype == ethernet::ETHERTYPE_IPV4 { Family::V4 } else { Family::V6 };
    let packet = packet::parse(frame, link.payload, family).expect("a sound packet");
    assert_eq!(packet.end, frame.len(), "bytes behind the packet");
    let message = &frame[packet.l4..packet.end];
    let zero_udp = matches!(packet.transport, Transport::Udp { checksum_zero: true, .. });
    if packet.fragment == packet::Fragment::Whole && !zero_udp && packet.transport != Transport::Other {
        let check = transport_checksum(&packet.source, &packet.destination, packet.protocol, message);
        assert_eq!(check, 0, "transport checksum is wrong");
    }
    Seen { to: link.destination, from: link.source, vlan: link.vlan, packet, frame: frame.to_vec() }
}

impl Seen {
    /// Source address and port (or query identifier).
    #[must_use]
    pub fn source(&self) -> (IpAddr, u16) {
        (Address(self.packet.source).to_ip(), self.ports().0)
    }

    /// Destination address and port (or query identifier).
    #[must_use]
    pub fn destination(&self) -> (IpAddr, u16) {
        (Address(self.packet.destination).to_ip(), self.ports().1)
    }

    fn ports(&self) -> (u16, u16) {
        match self.packet.transport {
            Transport::Tcp { source_port, destination_port, .. }
            | Transport::Udp { source_port, destination_port, .. } => (source_port, destination_port),
            Transport::IcmpQuery { identifier, .. } => (identifier, identifier),
            _ => (0, 0),
        }
    }

    /// The IP packet.
    #[must_use]
    pub fn ip(&self) -> &[u8] {
        &self.frame[self.packet.l3..self.packet.end]
    }

    /// What follows the transport header of UDP, TCP without options, or ICMP.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        let header = if self.packet.protocol == TCP { 20 } else { 8 };
        &self.frame[self.packet.l4 + header..self.packet.end]
    }

    /// Type and code of an ICMP message.
    #[must_use]
    pub fn icmp(&self) -> (u8, u8) {
        (self.frame[self.packet.l4], self.frame[self.packet.l4 + 1])
    }
}

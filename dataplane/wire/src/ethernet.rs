//! Ethernet II headers with at most one 802.1Q tag.

use crate::Malformed;
use crate::field::{array, put, u16_at};

/// Bytes of a header without tag.
pub const HEADER_LEN: usize = 14;
/// Bytes a tag adds.
pub const VLAN_LEN: usize = 4;
/// IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// 802.1Q tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// 802.1ad service tag; not understood, so it is an unknown EtherType.
pub const ETHERTYPE_QINQ: u16 = 0x88a8;
/// The broadcast address.
pub const BROADCAST: [u8; 6] = [0xff; 6];

const VLAN_ID: u16 = 0x0fff;

/// A parsed Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet {
    /// Destination station.
    pub destination: [u8; 6],
    /// Source station.
    pub source: [u8; 6],
    /// EtherType, behind the tag if there is one. A second tag is left here.
    pub ethertype: u16,
    /// VLAN id of the tag; `Some(0)` is a tag with priority only (802.1Q 9.6).
    pub vlan: Option<u16>,
    /// Offset of what follows the header.
    pub payload: usize,
}

/// Parses the header of a frame.
///
/// # Errors
/// [`Malformed::EthTruncated`] or [`Malformed::VlanTruncated`].
pub fn parse(frame: &[u8]) -> Result<Ethernet, Malformed> {
    let header: &[u8; HEADER_LEN] = frame.first_chunk().ok_or(Malformed::EthTruncated)?;
    let &[d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = header;
    let mut ethernet = Ethernet {
        destination: [d0, d1, d2, d3, d4, d5],
        source: [s0, s1, s2, s3, s4, s5],
        ethertype: u16::from_be_bytes([t0, t1]),
        vlan: None,
        payload: HEADER_LEN,
    };
    if ethernet.ethertype == ETHERTYPE_VLAN {
        let &[c0, c1, t0, t1] = array(frame, HEADER_LEN).ok_or(Malformed::VlanTruncated)?;
        ethernet.vlan = Some(u16::from_be_bytes([c0, c1]) & VLAN_ID);
        ethernet.ethertype = u16::from_be_bytes([t0, t1]);
        ethernet.payload = HEADER_LEN + VLAN_LEN;
    }
    Ok(ethernet)
}

/// Writes a header at the start of `header`; returns its length, or `None` (and nothing written) if it does
/// not fit. Priority and drop eligibility of a tag are 0.
#[must_use]
pub fn write(
    header: &mut [u8],
    destination: [u8; 6],
    source: [u8; 6],
    vlan: Option<u16>,
    ethertype: u16,
) -> Option<usize> {
    let length = HEADER_LEN + if vlan.is_some() { VLAN_LEN } else { 0 };
    let header = header.get_mut(..length)?;
    put(header, 0, destination);
    put(header, 6, source);
    if let Some(id) = vlan {
        put(header, 12, ETHERTYPE_VLAN.to_be_bytes());
        put(header, 14, (id & VLAN_ID).to_be_bytes());
    }
    put(header, length - 2, ethertype.to_be_bytes());
    Some(length)
}

/// EtherType of a frame without a look at the rest; `None` if it is too short.
#[must_use]
pub fn ethertype(frame: &[u8]) -> Option<u16> {
    u16_at(frame, 12)
}

/// Whether `mac` is a group address (broadcast included).
#[must_use]
pub const fn is_multicast(mac: [u8; 6]) -> bool {
    mac[0] & 1 != 0
}

/// Whether `mac` is the address of one station, and not all zeros.
#[must_use]
pub const fn is_unicast_nonzero(mac: [u8; 6]) -> bool {
    !is_multicast(mac) && !matches!(mac, [0, 0, 0, 0, 0, 0])
}

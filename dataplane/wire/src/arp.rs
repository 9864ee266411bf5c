//! ARP for Ethernet and IPv4 (RFC 826).

use crate::field::{array, put};
use crate::{Malformed, ethernet};

/// Bytes of a packet.
pub const PACKET_LEN: usize = 28;
/// Operation: request.
pub const REQUEST: u16 = 1;
/// Operation: reply.
pub const REPLY: u16 = 2;

const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// A parsed ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// [`REQUEST`], [`REPLY`] or another.
    pub operation: u16,
    /// Sender's station.
    pub sender_mac: [u8; 6],
    /// Sender's address; 0.0.0.0 in a probe (RFC 5227).
    pub sender_ip: [u8; 4],
    /// Target's station; means nothing in a request.
    pub target_mac: [u8; 6],
    /// Target's address.
    pub target_ip: [u8; 4],
}

/// Parses what follows the Ethernet header. Padding behind is ignored.
///
/// # Errors
/// [`Malformed::ArpMalformed`] if it is cut short or not for Ethernet and IPv4.
pub fn parse(bytes: &[u8]) -> Result<Arp, Malformed> {
    fields(bytes).ok_or(Malformed::ArpMalformed)
}

fn fields(bytes: &[u8]) -> Option<Arp> {
    let packet: &[u8; PACKET_LEN] = bytes.first_chunk()?;
    if *array(packet, 0)? != ETHERNET_IPV4 {
        return None;
    }
    Some(Arp {
        operation: u16::from_be_bytes(*array(packet, 6)?),
        sender_mac: *array(packet, 8)?,
        sender_ip: *array(packet, 14)?,
        target_mac: *array(packet, 18)?,
        target_ip: *array(packet, 24)?,
    })
}

/// Writes a packet at the start of `out`; returns its length, or `None` (and nothing written) if it does not
/// fit.
#[must_use]
pub fn write(out: &mut [u8], arp: &Arp) -> Option<usize> {
    let out: &mut [u8; PACKET_LEN] = out.first_chunk_mut()?;
    put(out, 0, ETHERNET_IPV4);
    put(out, 6, arp.operation.to_be_bytes());
    put(out, 8, arp.sender_mac);
    put(out, 14, arp.sender_ip);
    put(out, 18, arp.target_mac);
    put(out, 24, arp.target_ip);
    Some(PACKET_LEN)
}

/// Turns the request at `payload` (see [`ethernet::Ethernet`]) of `frame` into the reply that `own_mac` has
/// the address asked for, Ethernet header included.
///
/// # Errors
/// [`Malformed::ArpMalformed`], and nothing changed, if there is no sound request.
pub fn reply_in_place(frame: &mut [u8], payload: usize, own_mac: [u8; 6]) -> Result<(), Malformed> {
    if payload < ethernet::HEADER_LEN {
        return Err(Malformed::ArpMalformed);
    }
    let (header, packet) = frame.split_at_mut_checked(payload).ok_or(Malformed::ArpMalformed)?;
    let request = parse(packet)?;
    if request.operation != REQUEST {
        return Err(Malformed::ArpMalformed);
    }
    let reply = Arp {
        operation: REPLY,
        sender_mac: own_mac,
        sender_ip: request.target_ip,
        target_mac: request.sender_mac,
        target_ip: request.sender_ip,
    };
    put(header, 0, request.sender_mac);
    put(header, 6, own_mac);
    write(packet, &reply).map(|_| ()).ok_or(Malformed::ArpMalformed)
}

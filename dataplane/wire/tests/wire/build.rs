//! Frames built byte by byte, with checksums from a naive oracle.

use turnpike_wire::ethernet;

/// Offset of the IP header in every frame built here.
pub const L3: usize = ethernet::HEADER_LEN;
pub const SOURCE: [u8; 4] = [10, 0, 0, 2];
pub const DESTINATION: [u8; 4] = [198, 51, 100, 7];
pub const SOURCE_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
pub const DESTINATION_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
pub const MORE: u16 = 0x2000;

/// RFC 1071, the slow way.
pub fn naive_checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) * 256 + u32::from(*pair.get(1).unwrap_or(&0));
        if sum > 0xffff {
            sum -= 0xffff;
        }
    }
    !(sum as u16)
}

pub fn pseudo_v4(source: [u8; 4], destination: [u8; 4], protocol: u8, length: usize) -> Vec<u8> {
    [&source[..], &destination, &[0, protocol], &(length as u16).to_be_bytes()].concat()
}

pub fn pseudo_v6(protocol: u8, length: usize) -> Vec<u8> {
    [&SOURCE_V6[..], &DESTINATION_V6, &(length as u32).to_be_bytes(), &[0, 0, 0, protocol]].concat()
}

/// Puts the checksum of an IPv4 header right.
pub fn seal_v4(packet: &mut [u8]) {
    let length = (usize::from(packet[0] & 0xf) * 4).min(packet.len());
    packet[10..12].fill(0);
    let check = naive_checksum(&[&packet[..length]]);
    packet[10..12].copy_from_slice(&check.to_be_bytes());
}

pub fn frame(ethertype: u16, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; L3];
    ethernet::write(&mut frame, [2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], None, ethertype).unwrap();
    frame.extend_from_slice(packet);
    frame
}

/// An IPv4 packet without Ethernet header. `options` is a multiple of 4 bytes.
pub fn packet_v4(options: &[u8], fragment_field: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let header_len = 20 + options.len();
    let mut packet = vec![0; 20];
    packet[0] = 0x40 | (header_len / 4) as u8;
    packet[1] = 0xb8;
    packet[2..4].copy_from_slice(&((header_len + payload.len()) as u16).to_be_bytes());
    packet[4..6].copy_from_slice(&0x1234u16.to_be_bytes());
    packet[6..8].copy_from_slice(&fragment_field.to_be_bytes());
    packet[8] = 64;
    packet[9] = protocol;
    packet[12..16].copy_from_slice(&SOURCE);
    packet[16..20].copy_from_slice(&DESTINATION);
    packet.extend_from_slice(options);
    packet.extend_from_slice(payload);
    seal_v4(&mut packet);
    packet
}

pub fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    frame(ethernet::ETHERTYPE_IPV4, &packet_v4(&[], 0, protocol, payload))
}

pub fn v4_options(options: &[u8], protocol: u8, payload: &[u8]) -> Vec<u8> {
    frame(ethernet::ETHERTYPE_IPV4, &packet_v4(options, 0, protocol, payload))
}

/// An IPv4 fragment; `offset` in bytes.
pub fn v4_fragment(offset: usize, more: bool, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let field = (offset / 8) as u16 | if more { MORE } else { 0 };
    frame(ethernet::ETHERTYPE_IPV4, &packet_v4(&[], field, protocol, payload))
}

/// An IPv6 packet without Ethernet header.
pub fn packet_v6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x6b, 0x80, 0, 0];
    packet.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    packet.extend_from_slice(&[next, 64]);
    packet.extend_from_slice(&SOURCE_V6);
    packet.extend_from_slice(&DESTINATION_V6);
    packet.extend_from_slice(payload);
    packet
}

pub fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    frame(ethernet::ETHERTYPE_IPV6, &packet_v6(next, payload))
}

/// An IPv6 packet with extension headers: each is its type and its bytes, whose first this fills in.
pub fn v6_chain(extensions: &[(u8, Vec<u8>)], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let kinds: Vec<u8> = extensions.iter().map(|(kind, _)| *kind).chain([protocol]).collect();
    let mut bytes = Vec::new();
    for ((_, header), next) in extensions.iter().zip(&kinds[1..]) {
        let mut header = header.clone();
        header[0] = *next;
        bytes.extend_from_slice(&header);
    }
    bytes.extend_from_slice(payload);
    v6(kinds[0], &bytes)
}

/// Options headers are padded with PadN.
pub fn options_header(kind: u8) -> (u8, Vec<u8>) {
    (kind, vec![0, 0, 1, 4, 0, 0, 0, 0])
}

pub fn routing_header(kind: u8, segments_left: u8) -> (u8, Vec<u8>) {
    let mut header = vec![0, 2, kind, segments_left, 0, 0, 0, 0];
    header.extend_from_slice(&DESTINATION_V6);
    (43, header)
}

/// `offset` in bytes.
pub fn fragment_header(offset: usize, more: bool) -> (u8, Vec<u8>) {
    let field = (offset as u16 & 0xfff8) | u16::from(more);
    let mut header = vec![0, 0];
    header.extend_from_slice(&field.to_be_bytes());
    header.extend_from_slice(&0xcafe_f00du32.to_be_bytes());
    (44, header)
}

/// A TCP segment from port 40000 to 80, its checksum that of an IPv4 packet. `options` is a multiple of 4 bytes.
pub fn tcp(options: &[u8], flags: u8, data: &[u8]) -> Vec<u8> {
    let mut segment = vec![0x9c, 0x40, 0, 80, 1, 2, 3, 4, 5, 6, 7, 8];
    segment.extend_from_slice(&[((20 + options.len()) / 4 * 16) as u8, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend_from_slice(options);
    segment.extend_from_slice(data);
    let check = naive_checksum(&[&pseudo_v4(SOURCE, DESTINATION, 6, segment.len()), &segment]);
    segment[16..18].copy_from_slice(&check.to_be_bytes());
    segment
}

/// A UDP datagram from port 40000 to 53, its checksum that of an IPv4 packet.
pub fn udp(data: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0x9c, 0x40, 0, 53];
    datagram.extend_from_slice(&((8 + data.len()) as u16).to_be_bytes());
    datagram.extend_from_slice(&[0, 0]);
    datagram.extend_from_slice(data);
    let check = match naive_checksum(&[&pseudo_v4(SOURCE, DESTINATION, 17, datagram.len()), &datagram]) {
        0 => 0xffff,
        check => check,
    };
    datagram[6..8].copy_from_slice(&check.to_be_bytes());
    datagram
}

fn icmp_message(pseudo: &[u8], kind: u8, code: u8, rest: [u8; 4], data: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend_from_slice(&rest);
    message.extend_from_slice(data);
    let check = naive_checksum(&[pseudo, &message]);
    message[2..4].copy_from_slice(&check.to_be_bytes());
    message
}

pub fn icmp4(kind: u8, code: u8, rest: [u8; 4], data: &[u8]) -> Vec<u8> {
    icmp_message(&[], kind, code, rest, data)
}

pub fn icmp6(kind: u8, code: u8, rest: [u8; 4], data: &[u8]) -> Vec<u8> {
    icmp_message(&pseudo_v6(58, 8 + data.len()), kind, code, rest, data)
}

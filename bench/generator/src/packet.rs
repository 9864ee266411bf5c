//! The frames: Ethernet, IPv4, UDP, and a payload that says which packet it is and when it left.

use turnpike_wire::checksum;

/// Of Ethernet; the device makes and takes it.
pub const CHECK_SEQUENCE: usize = 4;
/// Where the payload begins.
const PAYLOAD: usize = 14 + 20 + 8;
/// Bytes of it that mean something.
const MARK: usize = 16;
/// Bytes of the smallest frame, without check sequence.
pub const SMALLEST: usize = 60;
/// First bytes of the payload.
const MAGIC: [u8; 2] = [0x7e, 0x57];

/// An end of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    pub address: [u8; 4],
    pub port: u16,
}

/// What the payload says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Which trial.
    pub trial: u16,
    /// Which flow.
    pub flow: u32,
    /// Time stamp counter as it left.
    pub sent: u64,
}

/// What arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// One of ours.
    Marked(Mark, Endpoint, Endpoint),
    /// An ARP request.
    Arp,
    /// Anything else, such as neighbour discovery.
    Other,
}

/// Writes a frame of `frame.len()` bytes, at least [`SMALLEST`], with finished checksums.
#[inline]
pub fn write(
    frame: &mut [u8],
    stations: ([u8; 6], [u8; 6]),
    source: Endpoint,
    destination: Endpoint,
    mark: Mark,
) {
    let length = frame.len();
    let Some((head, padding)) = frame.split_first_chunk_mut::<SMALLEST>() else { return };
    padding.fill(0);
    let mut out = [0; SMALLEST];
    let mut put = |at: usize, bytes: &[u8]| {
        out.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
    };
    put(0, &stations.0);
    put(6, &stations.1);
    put(12, &[0x08, 0x00, 0x45, 0x00]);
    put(16, &((length - 14) as u16).to_be_bytes());
    // TTL 64, UDP.
    put(22, &[64, 17]);
    put(26, &source.address);
    put(30, &destination.address);
    put(34, &source.port.to_be_bytes());
    put(36, &destination.port.to_be_bytes());
    put(38, &((length - 34) as u16).to_be_bytes());
    put(42, &MAGIC);
    put(44, &mark.trial.to_be_bytes());
    put(46, &mark.flow.to_be_bytes());
    put(50, &mark.sent.to_be_bytes());
    let header = !checksum::fold(checksum::sum(&out[14..34]));
    // Addresses, ports and the rest; behind it are zeros. The pseudo header has protocol and length as well.
    let message = checksum::sum(&out[26..PAYLOAD + MARK]) + 17 + (length as u32 - 34);
    let check = match !checksum::fold(message) {
        0 => 0xffff,
        check => check,
    };
    let [high, low] = header.to_be_bytes();
    (out[24], out[25]) = (high, low);
    let [high, low] = check.to_be_bytes();
    (out[40], out[41]) = (high, low);
    *head = out;
}

/// Reads what arrived.
#[inline]
pub fn read(frame: &[u8]) -> Arrival {
    let Some(head) = frame.first_chunk::<SMALLEST>() else {
        return if frame.get(12..14) == Some(&[0x08, 0x06]) { Arrival::Arp } else { Arrival::Other };
    };
    match head {
        [_, _, _, _, _, _, _, _, _, _, _, _, 0x08, 0x06, ..] => return Arrival::Arp,
        [_, _, _, _, _, _, _, _, _, _, _, _, 0x08, 0x00, 0x45, ..] => {}
        _ => return Arrival::Other,
    }
    if head[23] != 17 || head[42..44] != MAGIC {
        return Arrival::Other;
    }
    let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let long = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let mark =
        Mark { trial: word(44), flow: long(46), sent: u64::from(long(50)) << 32 | u64::from(long(54)) };
    let source = Endpoint { address: long(26).to_be_bytes(), port: word(34) };
    let destination = Endpoint { address: long(30).to_be_bytes(), port: word(36) };
    Arrival::Marked(mark, source, destination)
}

/// Turns an ARP request into the reply that whoever is asked for is at `station`. `false` if it is none.
pub fn answer_arp(frame: &mut [u8], station: [u8; 6]) -> bool {
    turnpike_wire::ethernet::parse(frame)
        .is_ok_and(|link| turnpike_wire::arp::reply_in_place(frame, link.payload, station).is_ok())
}

/// Reads a station address, `02:00:00:00:00:01`.
///
/// # Errors
/// If it is none.
pub fn station(text: &str) -> Result<[u8; 6], String> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| format!("{text} is no station address such as 02:00:00:00:00:01"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use turnpike_wire::packet::{self, Family, Transport};

    #[test]
    fn frames_are_sound_and_read_back() {
        let source = Endpoint { address: [100, 64, 3, 200], port: 40_001 };
        let destination = Endpoint { address: [198, 51, 100, 9], port: 53 };
        for length in [60, 61, 594, 1514] {
            for sent in [0, 1, u64::MAX, 0x0123_4567_89ab_cdef] {
                let mark = Mark { trial: 77, flow: 65_535, sent };
                let mut frame = vec![0xaa; length];
                write(&mut frame, ([2; 6], [4; 6]), source, destination, mark);
                assert_eq!(read(&frame), Arrival::Marked(mark, source, destination));
                let parsed = packet::parse(&frame, 14, Family::V4).expect("a sound packet");
                assert_eq!((parsed.end, parsed.ttl), (length, 64));
                assert!(matches!(parsed.transport, Transport::Udp { source_port: 40_001, .. }));
                // A right checksum makes the sum over everything all ones.
                let message = checksum::sum(&frame[26..]) + 17 + (length as u32 - 34);
                assert_eq!(checksum::fold(message), 0xffff);
            }
        }
    }

    #[test]
    fn other_frames_are_told_apart() {
        assert_eq!(read(&[0; 20]), Arrival::Other);
        assert_eq!(read(&[0; 80]), Arrival::Other);
        let mut arp = [0; 60];
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        assert_eq!(read(&arp), Arrival::Arp);
        assert_eq!(read(&arp[..42]), Arrival::Arp);
        assert_eq!(station("02:00:00:00:00:0a"), Ok([2, 0, 0, 0, 0, 10]));
        assert!(station("02:00").is_err() && station("x").is_err());
    }
}

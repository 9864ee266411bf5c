//! Datagrams in fragments, and a receiver that puts them together again, without mercy for what does not fit.

use crate::packets::{Seen, see};
use std::collections::BTreeMap;
use turnpike_wire::checksum::ones_complement;
use turnpike_wire::ethernet::{self, ETHERTYPE_IPV4};
use turnpike_wire::packet::{self, Family, Fragment};

const FRAGMENT_HEADER: u8 = 44;

/// Cuts the packet of an untagged frame behind these multiples of eight bytes of its data. IPv6 gets
/// `identification` in its Fragment header, IPv4 keeps its own.
///
/// # Panics
/// If it is no sound frame.
#[must_use]
pub fn cut(frame: &[u8], identification: u32, at: &[usize]) -> Vec<Vec<u8>> {
    let link = ethernet::parse(frame).expect("an Ethernet frame");
    let (header_length, v4) = if link.ethertype == ETHERTYPE_IPV4 { (20, true) } else { (40, false) };
    let (before, data) = frame.split_at(link.payload + header_length);
    let mut pieces = Vec::new();
    let mut begin = 0;
    for end in at.iter().map(|at| at * 8).filter(|&at| at < data.len()).chain([data.len()]) {
        assert!(begin < end, "cuts ascend");
        let (part, more) = (&data[begin..end], end < data.len());
        let mut piece = before.to_vec();
        let header = &mut piece[link.payload..];
        if v4 {
            header[2..4].copy_from_slice(&((header_length + part.len()) as u16).to_be_bytes());
            let field = u16::from(more) << 13 | (begin / 8) as u16;
            header[6..8].copy_from_slice(&field.to_be_bytes());
            header[10..12].fill(0);
            let check = ones_complement(header);
            header[10..12].copy_from_slice(&check.to_be_bytes());
        } else {
            header[4..6].copy_from_slice(&((8 + part.len()) as u16).to_be_bytes());
            let next = core::mem::replace(&mut header[6], FRAGMENT_HEADER);
            piece.extend([next, 0]);
            piece.extend((begin as u16 | u16::from(more)).to_be_bytes());
            piece.extend(identification.to_be_bytes());
        }
        piece.extend(part);
        pieces.push(piece);
        begin = end;
    }
    pieces
}

/// Cuts into pieces of `length` bytes, a multiple of eight.
#[must_use]
pub fn cut_evenly(frame: &[u8], identification: u32, length: usize) -> Vec<Vec<u8>> {
    let cuts: Vec<usize> = (1..).map(|n| n * length / 8).take_while(|at| at * 8 < frame.len()).collect();
    cut(frame, identification, &cuts)
}

/// What a host knows of a datagram under way.
#[derive(Debug, Default)]
struct Heap {
    /// By offset.
    parts: BTreeMap<usize, Vec<u8>>,
    end: Option<usize>,
    /// Frame up to the data, as the first fragment has it.
    before: Vec<u8>,
    protocol: u8,
}

/// A host that receives.
#[derive(Debug, Default)]
pub struct Receiver {
    heaps: BTreeMap<([u8; 16], [u8; 16], u32), Heap>,
}

impl Receiver {
    /// Takes a frame; the datagram it completes, all its checksums verified.
    ///
    /// # Panics
    /// If the frame is unsound, fragments overlap, or the whole is wrong: so a mix of two datagrams shows.
    pub fn take(&mut self, frame: &[u8]) -> Option<Seen> {
        let seen = see(frame);
        let packet = seen.packet;
        let (offset, data, more) = match packet.fragment {
            Fragment::Whole => return Some(seen),
            Fragment::First { data } => (0, data, true),
            Fragment::Later { offset, more } => (usize::from(offset), packet.l4, more),
        };
        let key = (packet.source, packet.destination, packet.identification);
        let heap = self.heaps.entry(key).or_default();
        let part = frame[data..packet.end].to_vec();
        let end = offset + part.len();
        for (at, other) in &heap.parts {
            assert!(end <= *at || at + other.len() <= offset, "overlap in {key:?}");
        }
        if offset == 0 {
            heap.before = frame[..data].to_vec();
            heap.protocol = packet.protocol;
        }
        if !more {
            assert_eq!(heap.end.replace(end), None, "two ends");
        }
        heap.parts.insert(offset, part);
        let length: usize = heap.parts.values().map(Vec::len).sum();
        if heap.end != Some(length) {
            return None;
        }
        let heap = self.heaps.remove(&key)?;
        Some(see(&whole(&heap, packet.family)))
    }

    /// Datagrams that lack something.
    #[must_use]
    pub fn incomplete(&self) -> usize {
        self.heaps.len()
    }
}

fn whole(heap: &Heap, family: Family) -> Vec<u8> {
    let mut frame = heap.before.clone();
    let data: Vec<u8> = heap.parts.values().flatten().copied().collect();
    let link = ethernet::parse(&frame).expect("an Ethernet frame");
    match family {
        Family::V4 => {
            let header = &mut frame[link.payload..];
            header[2..4].copy_from_slice(&((20 + data.len()) as u16).to_be_bytes());
            header[6..8].fill(0);
            header[10..12].fill(0);
            let check = ones_complement(header);
            header[10..12].copy_from_slice(&check.to_be_bytes());
        }
        Family::V6 => {
            // The Fragment header is the last before the data.
            frame.truncate(frame.len() - 8);
            let header = &mut frame[link.payload..];
            header[4..6].copy_from_slice(&(data.len() as u16).to_be_bytes());
            header[6] = heap.protocol;
        }
    }
    frame.extend(data);
    let parsed = packet::parse(&frame, link.payload, family).expect("a sound datagram");
    assert_eq!(parsed.fragment, Fragment::Whole);
    frame
}

//! Any bytes at all: one harness for the property test and the fuzz target.
//!
//! The input is read as a program: raw frames, sound packets with a few bytes changed, answers to what the
//! box just sent, time, commands. After every step [`Appliance`] checks that each worker conserves packets
//! and that no buffer leaked; a panic anywhere is a failure.

use crate::packets::{Build, ICMP};
use crate::tables::{ForwardingTable, INSIDE, OUTSIDE, PolicyTable, address, rule};
use crate::{Appliance, Sent, station};
use turnpike_abi::PortId;
use turnpike_abi::command::{Header, Kind, SLOT, Slot};
use turnpike_abi::counters::Counters;
use turnpike_abi::table::{Action, RouteKind};
use turnpike_engine::Interface;
use turnpike_wire::checksum;
use zerocopy::FromBytes;

/// Most steps of one program.
const STEPS: usize = 64;
/// Flows and bindings of each worker.
const CAPACITY: usize = 12;

/// Reads numbers and pieces off the input; 0 and nothing at its end.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn piece(&mut self, length: usize) -> &'a [u8] {
        let (piece, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        piece
    }
}

/// A box with the default tables but little memory, so that programs are fast and fill it.
fn small(workers: u8) -> Appliance {
    let interface = |index| Interface { port: PortId(index), vlan: 0, mac: station(index), mtu: 1500 };
    let mut appliance = Appliance::bare(workers, vec![interface(0), interface(1)], CAPACITY);
    let mut policy = PolicyTable::default();
    if let Some(range) = policy.ranges.first_mut() {
        range.last = [203, 0, 113, 3];
    }
    if let Some(pool) = policy.pools.first_mut() {
        // Of several workers the host's own has four of them.
        (pool.port_first, pool.port_last) = (1400, 1539);
    }
    let mut denied = rule(INSIDE, OUTSIDE, Action::REJECT);
    denied.destination_ports = [54, 54];
    let mut admitted = rule(OUTSIDE, INSIDE, Action::ACCEPT);
    admitted.destination_ports = [1007, 1007];
    policy.rules = vec![denied, admitted];
    appliance.policy(&policy);
    let mut forwarding = ForwardingTable::default();
    // Destinations of sound packets whose last byte was changed.
    for (text, kind) in [("198.51.100.128", RouteKind::UNREACHABLE), ("198.51.100.64", RouteKind::BLACKHOLE)]
    {
        forwarding.route(text, 26, None, 0);
        if let Some(route) = forwarding.routes.last_mut() {
            route.kind = kind;
        }
    }
    appliance.forwarding(&forwarding);
    appliance
}

/// Runs a program and returns the counters at its end.
pub fn run(data: &[u8]) -> Counters {
    trace(data, false).0
}

/// Runs a program, with the fast path or without it, and returns the counters at its end and all that left.
pub fn trace(data: &[u8], long_way: bool) -> (Counters, Vec<Sent>) {
    let mut input = Input(data);
    let mut appliance = small(1 + input.byte() % 3);
    if long_way {
        appliance.take_the_long_way();
    }
    let mut all = Vec::new();
    appliance.neighbour(1, address("192.0.2.254"), [2, 0, 0, 0, 0, 9]);
    appliance.neighbour(0, address("10.0.0.9"), [2, 0, 0, 0, 0, 8]);
    let mut last: Option<Sent> = None;
    for _ in 0..STEPS {
        if input.0.is_empty() {
            break;
        }
        match input.byte() % 8 {
            0 => {
                let (port, length) = (input.byte() % 2, usize::from(input.byte()));
                appliance.receive(u16::from(port), &[input.piece(length)]);
            }
            1..=3 => {
                let mut frame = sound(&mut input);
                let port = u16::from(input.byte() % 2);
                change(&mut frame, &mut input);
                appliance.receive(port, &[&frame]);
            }
            4 => {
                if let Some(sent) = &last {
                    let mut frame = turned(sent);
                    change(&mut frame, &mut input);
                    // More of the same in one burst, so that what the first leaves in the flow's record is used.
                    appliance.receive(sent.port.0, &[&frame, &frame, &frame]);
                }
            }
            5 => {
                let milliseconds = u64::from(input.word()) * 16;
                appliance.advance(milliseconds, 1 + milliseconds / 8);
            }
            6 => {
                let mut bytes = [0; SLOT];
                let choice = input.byte();
                let kind = Kind(u32::from(choice % 10));
                let worker = usize::from(choice / 10 % appliance.workers());
                let piece = input.piece(96);
                let body = &mut bytes[size_of::<Header>()..][..piece.len()];
                body.copy_from_slice(piece);
                if let Ok(mut slot) = Slot::read_from_bytes(&bytes) {
                    slot.header.kind = kind;
                    // A malformed command is refused; what counts is that it does no harm.
                    let _ = appliance.command_raw(worker, &slot);
                }
            }
            _ => appliance.inject(u16::from(input.byte() % 3), input.piece(60)),
        }
        while let Some(sent) = appliance.sent() {
            all.push(sent.clone());
            last = Some(sent);
        }
        appliance.events.clear();
        while appliance.punted().is_some() {}
    }
    (appliance.counters(), all)
}

/// One of the packets the box is for.
fn sound(input: &mut Input<'_>) -> Vec<u8> {
    let (kind, port) = (input.byte(), 1000 + u16::from(input.byte() % 8));
    let (inside, outside) = (("10.0.0.9", port), ("198.51.100.7", 53));
    let (inside6, outside6) = (("fd00::9", port), ("2001:db8:9::7", 53));
    let pool = ("203.0.113.3", port);
    let payload = vec![0x55; usize::from(input.byte()) * 8];
    let build = match kind % 12 {
        0 => Build::udp(inside, outside, &payload),
        1 => Build::tcp(inside, outside, 1 << (kind >> 5), &payload),
        2 => Build::tcp(inside, outside, 0x02, &payload),
        3 => Build::echo(inside.0, outside.0, port, false, &payload),
        4 => Build::udp(outside, pool, &payload),
        5 => Build::tcp(outside, pool, 0x02, &payload),
        6 => Build::icmp_error("192.0.2.254", pool.0, 3, 4, 1400, &Build::udp(pool, outside, &payload).ip()),
        7 => Build::udp(inside6, outside6, &payload),
        8 => Build::tcp(inside6, outside6, 0x02, &payload),
        9 => Build::echo(inside6.0, outside6.0, port, false, &payload),
        10 => Build::icmp_error(
            outside6.0,
            inside6.0,
            2,
            0,
            1280,
            &Build::udp(inside6, outside6, &payload).ip(),
        ),
        _ => Build::udp(inside, pool, &payload),
    };
    let build = if kind & 0x10 != 0 { build.ttl(1) } else { build };
    build.frame(u16::from(matches!(kind % 12, 4..=6 | 10)))
}

/// The frame as its receiver would answer it: stations, addresses and the first ports exchanged.
fn turned(sent: &Sent) -> Vec<u8> {
    let mut frame = sent.bytes.clone();
    let mut swap = |a: usize, b: usize, length: usize| {
        if frame.len() >= b + length {
            for i in 0..length {
                frame.swap(a + i, b + i);
            }
        }
    };
    swap(0, 6, 6);
    if sent.bytes.get(12..14) == Some(&[0x08, 0x00]) {
        swap(26, 30, 4);
        swap(34, 36, 2);
    } else {
        swap(22, 38, 16);
        swap(54, 56, 2);
    }
    frame
}

/// Changes up to seven bytes, or cuts the frame; then the IPv4 and ICMP checksums are put right or left as they
/// are. Without the first nothing behind a checksum would ever be reached.
fn change(frame: &mut Vec<u8>, input: &mut Input<'_>) {
    let changes = input.byte();
    for _ in 0..changes % 8 {
        let (at, value) = (usize::from(input.word()), input.byte());
        let length = frame.len().max(1);
        if let Some(byte) = frame.get_mut(at % length) {
            *byte = value;
        }
    }
    if changes & 0x80 != 0 {
        frame.truncate(usize::from(input.word()) % (frame.len() + 1));
    }
    if changes & 0x40 != 0 {
        mend(frame);
    }
}

/// Puts the checksum of the IPv4 header right, and that of an ICMP message behind it.
fn mend(frame: &mut [u8]) {
    let Some(packet) = frame.get_mut(14..) else { return };
    let header = packet.first().map_or(0, |first| usize::from(first & 0xf) * 4);
    if packet.len() < header || header < 20 {
        return;
    }
    let (header, message) = packet.split_at_mut(header);
    let (total, protocol) = (usize::from(u16::from_be_bytes([header[2], header[3]])), header[9]);
    write_checksum(header, 10);
    if protocol == ICMP {
        let length = total.saturating_sub(header.len()).min(message.len());
        write_checksum(&mut message[..length], 2);
    }
}

fn write_checksum(bytes: &mut [u8], at: usize) {
    if bytes.len() >= at + 2 {
        bytes[at..at + 2].fill(0);
        let check = checksum::ones_complement(bytes);
        bytes[at..at + 2].copy_from_slice(&check.to_be_bytes());
    }
}

//! Any bytes as a table: one harness for the property test and the fuzz target `tables`.
//!
//! The input is either a table as it stands, or edits to a sound one. Decoding never panics, a fault lies
//! inside the table, and what is accepted runs: packets pass the engine with it and none is lost.

use crate::packets::Build;
use crate::tables::{ForwardingTable, INSIDE, OUTSIDE, PolicyTable, address, prefix, rule};
use crate::{Appliance, station};
use std::sync::Arc;
use turnpike_abi::PortId;
use turnpike_abi::table::{Action, PoolRangeRecord, Reader, RouteKind, TableFault, policy};
use turnpike_engine::{Forwarding, Interface, Policy};

/// Pool addresses up to which an accepted policy is also run: a worker keeps 24 kB for each.
const ADDRESSES_RUN: u64 = 64;

/// How decoding ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As a policy.
    Policy,
    /// As a forwarding table.
    Forwarding,
    /// Not at all.
    Refused(TableFault),
}

/// The interfaces that tables are decoded for.
#[must_use]
pub fn interfaces() -> Vec<Interface> {
    (0..2).map(|index| Interface { port: PortId(index), vlan: 0, mac: station(index), mtu: 1500 }).collect()
}

/// A policy with a record in every section.
#[must_use]
pub fn sound_policy() -> Vec<u8> {
    let mut table = PolicyTable::default();
    let mut web = rule(OUTSIDE, INSIDE, Action::ACCEPT);
    web.protocol = 6;
    web.destination_ports = [80, 443];
    web.destination = prefix("fd00::", 64);
    table.rules = vec![web, rule(OUTSIDE, INSIDE, Action::REJECT)];
    table.bytes(7)
}

/// A forwarding table with every kind of route.
#[must_use]
pub fn sound_forwarding() -> Vec<u8> {
    let mut table = ForwardingTable::default();
    for (text, kind) in [("198.18.0.0", RouteKind::UNREACHABLE), ("198.19.0.0", RouteKind::BLACKHOLE)] {
        table.route(text, 16, None, 0);
        if let Some(route) = table.routes.last_mut() {
            route.kind = kind;
        }
    }
    table.bytes(7)
}

/// Runs one input.
///
/// # Panics
/// If a fault lies outside the table, or an engine with an accepted table loses packets.
pub fn run(data: &[u8]) -> Outcome {
    let (&first, rest) = data.split_first().unwrap_or((&0, &[]));
    let table = match first % 3 {
        0 => rest.to_vec(),
        1 => edited(sound_policy(), rest),
        _ => edited(sound_forwarding(), rest),
    };
    // A table comes in a mapping, which begins at a page.
    let mut aligned = vec![0u64; table.len().div_ceil(8)];
    let bytes = &mut zerocopy::IntoBytes::as_mut_bytes(aligned.as_mut_slice())[..table.len()];
    bytes.copy_from_slice(&table);
    decode(bytes)
}

fn decode(table: &[u8]) -> Outcome {
    let interfaces = interfaces();
    match (Policy::decode(table, &interfaces), Forwarding::decode(table, &interfaces)) {
        (Ok(_), Ok(_)) => panic!("a table is of one kind"),
        (Ok(policy), Err(_)) => {
            if addresses(table) <= ADDRESSES_RUN {
                let mut appliance = Appliance::new(2);
                appliance.policy_decoded(&Arc::new(policy));
                traffic(&mut appliance);
            }
            Outcome::Policy
        }
        (Err(_), Ok(forwarding)) => {
            let mut appliance = Appliance::new(2);
            appliance.forwarding_decoded(&Arc::new(forwarding));
            traffic(&mut appliance);
            Outcome::Forwarding
        }
        (Err(fault), Err(other)) => {
            for fault in [fault, other] {
                assert!(fault.offset <= table.len() as u64, "{fault} of {}", table.len());
            }
            // The decoder of the table's own kind has the better reason.
            Outcome::Refused(if fault.what == "not a policy table" { other } else { fault })
        }
    }
}

fn addresses(table: &[u8]) -> u64 {
    let ranges = Reader::new(table).and_then(|reader| reader.section::<PoolRangeRecord>(policy::POOL_RANGES));
    let count = |range: &PoolRangeRecord| {
        u64::from(u32::from_be_bytes(range.last)).saturating_sub(u64::from(u32::from_be_bytes(range.first)))
            + 1
    };
    ranges.map_or(0, |ranges| ranges.iter().map(count).sum())
}

/// Edits of three bytes: where (big-endian, modulo the length) and what. An odd byte at the end cuts.
fn edited(mut table: Vec<u8>, edits: &[u8]) -> Vec<u8> {
    let (edits, rest) = edits.as_chunks::<3>();
    for &[high, low, value] in edits {
        let at = usize::from(u16::from_be_bytes([high, low])) % table.len();
        table[at] = value;
    }
    if let [cut] = *rest {
        table.truncate(table.len() - usize::from(cut).min(table.len()));
    }
    table
}

fn traffic(appliance: &mut Appliance) {
    appliance.neighbour(1, address("192.0.2.254"), [2, 0, 0, 0, 0, 9]);
    appliance.neighbour(0, address("10.0.0.9"), [2, 0, 0, 0, 0, 8]);
    for (port, packet) in [
        (0, Build::udp(("10.0.0.9", 5000), ("198.51.100.7", 53), &[1; 700])),
        (0, Build::tcp(("10.0.0.9", 5000), ("198.51.100.7", 53), 2, b"")),
        (0, Build::udp(("10.0.0.9", 5000), ("203.0.113.3", 53), b"hairpin")),
        (1, Build::udp(("198.51.100.7", 53), ("203.0.113.3", 5000), b"in")),
        (0, Build::udp(("fd00::9", 5000), ("2001:db8:9::7", 53), b"six")),
        (1, Build::tcp(("2001:db8:9::7", 5000), ("fd00::9", 80), 2, b"")),
        (1, Build::echo("2001:db8:9::7", "fd00::9", 4, false, b"")),
    ] {
        appliance.receive(port, &[&packet.frame(port)]);
    }
    appliance.advance(1000, 200);
}

//! Families of port blocks, quarantine, reservations and the subscribers' limits.

use super::family::Family;
use turnpike_abi::counters::{Counter, Counters, DropReason};

/// Each limit of a subscriber as its label says it, with the reason of its drops.
const QUOTAS: [(&str, DropReason); 3] = [
    ("ports", DropReason::SubscriberPorts),
    ("sessions", DropReason::SubscriberFlows),
    ("rate", DropReason::SubscriberRate),
];

/// Values of all workers together.
pub fn families(total: &Counters) -> Vec<Family> {
    let single = |family: Family, counter: Counter| family.row(&[], total.get(counter) as f64);
    let kinds = [("primary", Counter::BlocksPrimary), ("overflow", Counter::BlocksOverflow)];
    vec![
        single(
            Family::gauge("turnpike_blocks_in_use", "Port blocks that subscribers have.", &[]),
            Counter::Blocks,
        ),
        Family::counter("turnpike_block_allocations_total", "Port blocks given to subscribers.", &["kind"])
            .each(&kinds, |(kind, counter)| (vec![(*kind).into()], total.get(*counter) as f64)),
        single(
            Family::counter("turnpike_block_releases_total", "Port blocks that came back.", &[]),
            Counter::BlocksReleased,
        ),
        single(
            Family::gauge("turnpike_ports_quarantined", "Freed ports that are held back.", &[]),
            Counter::Quarantined,
        ),
        single(
            Family::counter(
                "turnpike_quarantine_skipped_total",
                "Freed ports that were free at once because as many were held back as may be.",
                &[],
            ),
            Counter::QuarantineSkipped,
        ),
        single(
            Family::gauge(
                "turnpike_ports_reserved",
                "External ports reserved, and those leased from one worker to another.",
                &[],
            ),
            Counter::PortsReserved,
        ),
        Family::counter(
            "turnpike_subscriber_quota_exceeded_total",
            "Packets dropped because a subscriber was at a limit of its pool.",
            &["quota"],
        )
        .each(&QUOTAS, |(quota, reason)| (vec![(*quota).into()], total.drops(*reason) as f64)),
        single(
            Family::counter("turnpike_pinholes_closed_total", "Pinholes that closed by themselves.", &[]),
            Counter::PinholesClosed,
        ),
        single(
            Family::counter("turnpike_pinholes_locked_total", "Pinholes that a remote end locked.", &[]),
            Counter::PinholesLocked,
        ),
    ]
}

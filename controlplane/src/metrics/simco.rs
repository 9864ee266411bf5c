//! What the SIMCO server counts of connections, before there are sessions and transactions.

use super::family::Family;
use crate::facts::Facts;
use std::sync::atomic::{AtomicU64, Ordering};
use turnpike_midcom::Counters;

/// The families; 0 while there is no server.
pub fn families(facts: &Facts) -> Vec<Family> {
    let none = Counters::default();
    let counters = facts.simco.as_deref().unwrap_or(&none);
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (full, blocked) = (read(&counters.full), read(&counters.blocked));
    let served = read(&counters.accepted).saturating_sub(full + blocked);
    let single = |name: &'static str, help: &'static str, counter: &AtomicU64| {
        Family::counter(name, help, &[]).row(&[], read(counter) as f64)
    };
    vec![
        Family::gauge("turnpike_simco_connections", "Open SIMCO connections, with and without session.", &[])
            .row(&[], counters.open.load(Ordering::Relaxed) as f64),
        Family::counter(
            "turnpike_simco_connections_total",
            "SIMCO connections: served, or closed at once because there are too many or their source is refused.",
            &["result"],
        )
        .row(&["served"], served as f64)
        .row(&["full"], full as f64)
        .row(&["blocked"], blocked as f64),
        single(
            "turnpike_simco_handshake_failures_total",
            "TLS handshakes of SIMCO that failed or were not completed in time.",
            &counters.handshakes_failed,
        ),
        single(
            "turnpike_simco_authentication_failures_total",
            "SIMCO sessions refused for their agent or for missing security.",
            &counters.authentications_failed,
        ),
        single("turnpike_simco_sessions_total", "SIMCO sessions established.", &counters.sessions),
        single(
            "turnpike_simco_malformed_total",
            "SIMCO messages refused for their format.",
            &counters.malformed,
        ),
    ]
}

//! The translator's log: lines written, and lines lost on the way from the workers to the disk.

use super::family::Family;
use crate::facts::Facts;
use crate::natlog::Event;
use turnpike_abi::counters::{Counter, Counters};

/// The families. Whatever is lost is evidence that somebody may ask for: to be alarmed about.
pub fn families(facts: &Facts, total: &Counters) -> Vec<Family> {
    vec![
        Family::counter(
            "turnpike_log_records_total",
            "Lines of the translator's log, by what they are about.",
            &["event", "transport"],
        )
        .each(Event::ALL.iter().zip(facts.log_records), |(event, count)| {
            (vec![event.name().into(), "file".into()], *count as f64)
        }),
        Family::counter(
            "turnpike_log_dropped_total",
            "Lines of the translator's log that were lost: by a worker whose event ring stayed full, before the file because the disk is too slow, or because it refused them.",
            &["transport", "reason"],
        )
        .row(&["ring", "full"], total.get(Counter::LogRecordsLost) as f64)
        .row(&["file", "full"], facts.log_lost.full as f64)
        .row(&["file", "write_failed"], facts.log_lost.failed as f64),
    ]
}

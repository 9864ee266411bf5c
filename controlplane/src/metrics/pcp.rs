//! PCP and NAT-PMP: every request ends in a response or a named drop.

use super::family::Family;
use crate::facts::Facts;
use turnpike_pcp::server::Drop;

/// Its families, every series from the start.
pub fn families(facts: &Facts) -> Vec<Family> {
    let status = facts.pcp.copy();
    let counts = &status.counts;
    let answered: Vec<_> = counts.answered().collect();
    vec![
        Family::counter(
            "turnpike_pcp_requests_total",
            "Requests of hosts that were answered, by protocol (pcp, nat_pmp), opcode and result.",
            &["protocol", "opcode", "result"],
        )
        .each(answered, |&(protocol, opcode, result, count)| {
            ([protocol, opcode, result].map(Into::into).to_vec(), count as f64)
        }),
        Family::counter(
            "turnpike_pcp_dropped_total",
            "Messages to the PCP port that were not answered, by reason.",
            &["reason"],
        )
        .each(Drop::ALL, |why| (vec![why.name().into()], counts.dropped(*why) as f64)),
        Family::gauge("turnpike_pcp_mappings", "Mappings of hosts, those under way included.", &[])
            .row(&[], status.mappings as f64),
        Family::gauge(
            "turnpike_pcp_listening",
            "Addresses of the box that PCP or NAT-PMP is spoken at.",
            &[],
        )
        .row(&[], status.listening as f64),
        Family::counter(
            "turnpike_pcp_announcements_total",
            "Messages to everybody: that the server was restarted, or lost or changed mappings.",
            &[],
        )
        .row(&[], counts.announcements as f64),
        Family::counter(
            "turnpike_pcp_updates_total",
            "Messages to the clients of mappings that moved to other external ends.",
            &[],
        )
        .row(&[], counts.updates as f64),
        Family::counter("turnpike_pcp_unsent_total", "Messages that the kernel did not take.", &[])
            .row(&[], status.unsent as f64),
    ]
}

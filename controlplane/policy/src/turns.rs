//! Requests for the same inside end take turns. What the second is granted depends on what becomes of the first: its
//! outside ports, leased from another worker or those of a reservation, go back if it fails.

use crate::engine::Engine;
use crate::identity::{Requester, TransactionId};
use crate::refusal::Refusal;
use crate::rule::RuleId;
use crate::steps::Entry;
use crate::transaction::{Enable, Request};
use crate::tuple::{Protocol, Time, Tuple};
use hashbrown::HashMap;

/// Requests that wait, by the rule they wait for, in the order they came.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    waiting: HashMap<RuleId, Vec<(TransactionId, Requester, Box<Enable>)>>,
    pub(crate) len: usize,
}

impl Engine {
    /// The request itself if nothing is before it; `None` if it waits.
    pub(crate) fn wait_for_turn(
        &mut self,
        transaction: TransactionId,
        by: &Requester,
        request: Request,
    ) -> Result<Option<Request>, Refusal> {
        let Request::Enable(enable) = request else { return Ok(Some(request)) };
        let itself = enable.reserved.unwrap_or(RuleId(0));
        let before = self
            .overlapping(enable.protocol, enable.internal, enable.range, itself)
            .find_map(|(_, entry)| entry.undecided().then_some(entry.rule.id));
        let Some(before) = before else { return Ok(Some(Request::Enable(enable))) };
        if self.under_way + self.turns.len >= self.access.limits.pending {
            return Err(Refusal::Busy);
        }
        self.turns.len += 1;
        self.turns.waiting.entry(before).or_default().push((transaction, by.clone(), enable));
        Ok(None)
    }

    /// Something happened to a rule: whoever waited for it goes on if it stands or is gone.
    pub(crate) fn next_turn(&mut self, id: RuleId, now: Time) {
        if self.entries.get(&id).is_some_and(|entry| entry.undecided()) {
            return;
        }
        let Some(waiting) = self.turns.waiting.remove(&id) else { return };
        self.turns.len -= waiting.len();
        for (transaction, by, enable) in waiting {
            self.submit(transaction, &by, Request::Enable(enable), now);
        }
    }

    /// Enable rules but for `itself` with any of `range` inside ports from `internal` on, each with its lowest.
    pub(crate) fn overlapping(
        &self,
        protocol: Protocol,
        internal: Tuple,
        range: u16,
        itself: RuleId,
    ) -> impl Iterator<Item = (u16, &Entry)> {
        let last = internal.port.saturating_add(range.saturating_sub(1));
        let rules = self.index.at_inside(internal.address, protocol, (internal.port, last));
        rules.filter_map(move |(port, id)| {
            let entry = self.entries.get(&id).filter(|_| id != itself)?;
            let reaches = u32::from(port) + u32::from(entry.rule.range) > u32::from(internal.port);
            reaches.then_some((port, &**entry))
        })
    }
}

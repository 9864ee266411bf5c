//! A survey of the workers' pinholes, reservations and leases: after an attachment, so that what is as it should be is
//! left alone and what nobody answers for is removed; and now and then, to see which rules with an idle time are in
//! use.

use crate::attach::{Order, Walker};
use crate::daemon::Daemon;
use turnpike_abi::WorkerId;
use turnpike_abi::command::{Kind, Slot, Walk, WalkTable};
use turnpike_abi::event::{BindingRow, WalkEnd};

/// Rows a worker sends for one command.
const STEP: u32 = 256;
/// What is walked, in this order; only the first of them to find out what is in use.
const TABLES: [WalkTable; 3] = [WalkTable::PINHOLES, WalkTable::RESERVATIONS, WalkTable::LEASES];

/// What a survey is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To find out what is missing and what is too much.
    Reconcile,
    /// To find out what is in use.
    Use,
}

/// A survey under way.
#[derive(Debug)]
pub struct Survey {
    purpose: Purpose,
    /// Workers whose table has not been seen whole.
    left: u8,
    pinholes: u64,
}

impl Daemon {
    /// Begins a survey of every worker, in place of one for use that may be under way.
    pub(crate) fn survey(&mut self, purpose: Purpose) {
        let Some(dataplane) = &mut self.dataplane else { return };
        if self.survey.is_some() {
            // One table can be walked once at a time: a reconciliation sees use as well.
            return;
        }
        let workers = dataplane.workers();
        for worker in 0..workers {
            dataplane.order(WorkerId(worker), step(0, TABLES[0]));
        }
        self.survey = Some(Survey { purpose, left: workers, pinholes: 0 });
    }

    /// An event of a survey's walk.
    pub(crate) fn surveyed(&mut self, worker: WorkerId, table: WalkTable, slot: &Slot) {
        let now = self.clock.now();
        let Some(survey) = &mut self.survey else { return };
        match slot.header.kind {
            Kind::BINDING_ROW if table == WalkTable::RESERVATIONS => {
                return self.policy.found_reservation(worker, &slot.body());
            }
            Kind::BINDING_ROW if table == WalkTable::LEASES => {
                return self.policy.found_lease(worker, &slot.body(), now);
            }
            Kind::BINDING_ROW => {
                let row: BindingRow = slot.body();
                if row.pinhole == 0 {
                    return;
                }
                survey.pinholes += 1;
                if survey.purpose == Purpose::Reconcile {
                    self.policy.found(worker, &row, now);
                }
                if row.flows > 0 {
                    self.policy.used(row.pinhole, now);
                }
                return;
            }
            Kind::WALK_END => {
                let WalkEnd { cursor, .. } = slot.body();
                let next = match cursor {
                    WalkEnd::DONE if survey.purpose == Purpose::Use => None,
                    WalkEnd::DONE => {
                        TABLES.iter().skip_while(|walked| **walked != table).nth(1).map(|next| (0, *next))
                    }
                    cursor => Some((cursor, table)),
                };
                if let Some((cursor, table)) = next {
                    if let Some(dataplane) = &mut self.dataplane {
                        dataplane.order(worker, step(cursor, table));
                    }
                    return;
                }
            }
            _ => tracing::warn!(worker = worker.0, "a worker does not say which pinholes it has"),
        }
        survey.left = survey.left.saturating_sub(1);
        if survey.left > 0 {
            return;
        }
        let (purpose, pinholes) = (survey.purpose, survey.pinholes);
        self.survey = None;
        if purpose == Purpose::Reconcile {
            tracing::info!(
                pinholes,
                rules = self.policy.len(),
                "the workers' pinholes were compared with the rules"
            );
            self.policy.walked(now);
        }
    }
}

fn step(cursor: u64, table: WalkTable) -> Order {
    Order::Walk(Walker::Survey(table), Walk { cursor, table, limit: STEP })
}

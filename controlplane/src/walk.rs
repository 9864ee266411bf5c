//! Pages of bindings: a worker's table is walked in steps of at most 256 rows, filtered here, and
//! never more than one page is held. A page also ends after a number of rows looked at, so that a filter
//! that matches little neither holds up the worker nor the reader; its cursor says where to go on.

use crate::attach::{Order, Walker};
use std::time::Duration;
use tokio::time::Instant;
use turnpike_abi::WorkerId;
use turnpike_abi::command::{Kind, Slot, Walk, WalkTable};
use turnpike_abi::event::{Ack, BindingRow, WalkEnd};
use turnpike_api::{BindingData, BindingFilter, BindingsRequest, ErrorBody, ErrorCode};

/// Most rows a worker sends for one command.
const STEP: u32 = 256;
/// Rows looked at for one page, about.
const LOOKED_AT: u32 = 32_768;
/// Commands sent for one page.
const STEPS: u32 = 512;
/// For one page.
const PATIENCE: Duration = Duration::from_secs(5);

/// A walk under way.
#[derive(Debug)]
pub struct Walking {
    filter: BindingFilter,
    rows: Vec<BindingData>,
    limit: u32,
    workers: u8,
    worker: WorkerId,
    cursor: u64,
    looked_at: u32,
    steps: u32,
    deadline: Instant,
}

/// How a walk stands after an event.
#[derive(Debug)]
pub enum Progress {
    /// More is coming.
    Waiting,
    /// The next step has to be sent.
    Send(WorkerId, Walk),
    /// The page is done.
    Done(Page),
    /// The worker refused.
    Failed(ErrorBody),
}

/// A page of rows.
#[derive(Debug)]
pub struct Page {
    /// Its rows.
    pub rows: Vec<BindingData>,
    /// Where the next one begins; `None` at the end of the last worker's table.
    pub next: Option<String>,
}

impl Walking {
    /// A page from `request`'s cursor on.
    ///
    /// # Errors
    /// If the cursor is none that an answer gave.
    pub fn new(request: BindingsRequest, workers: u8, now: Instant) -> Result<Self, ErrorBody> {
        let (worker, cursor) = cursor(request.cursor.as_deref(), workers)?;
        Ok(Self {
            filter: request.filter,
            rows: Vec::new(),
            limit: request.limit,
            workers,
            worker: WorkerId(worker),
            cursor,
            looked_at: 0,
            steps: 0,
            deadline: now + PATIENCE,
        })
    }

    /// The command to send now.
    pub fn step(&mut self) -> (WorkerId, Walk) {
        self.steps += 1;
        let found = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        // Never more than the page has room for, since a cursor cannot point between two rows of a step.
        let limit = self.limit.saturating_sub(found).clamp(1, STEP);
        (self.worker, Walk { cursor: self.cursor, table: WalkTable::BINDINGS, limit })
    }

    /// The same as an order for the attachment.
    pub fn order(&mut self, number: u64) -> (WorkerId, Order) {
        let (worker, walk) = self.step();
        (worker, Order::Walk(Walker::Page(number), walk))
    }

    /// When it is given up.
    pub const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Takes an event of its worker. `pool` names a pool by its index.
    pub fn event(&mut self, slot: &Slot, pool: impl Fn(u16) -> Option<String>) -> Progress {
        match slot.header.kind {
            Kind::BINDING_ROW => {
                let row = slot.body::<BindingRow>();
                let row = BindingData::from_row(&row, pool(row.pool.0).as_deref());
                if self.filter.matches(&row) && self.rows.len() < self.limit as usize {
                    self.rows.push(row);
                }
                Progress::Waiting
            }
            Kind::WALK_END => self.end(&slot.body()),
            Kind::ACK => {
                let text = slot.body::<Ack>().result.text();
                Progress::Failed(ErrorBody::new(ErrorCode::Failed, format!("the worker refused: {text}")))
            }
            _ => Progress::Waiting,
        }
    }

    fn end(&mut self, end: &WalkEnd) -> Progress {
        self.looked_at = self.looked_at.saturating_add(end.rows);
        if end.cursor == WalkEnd::DONE {
            self.worker = WorkerId(self.worker.0.saturating_add(1));
            self.cursor = 0;
            if self.worker.0 >= self.workers {
                return self.page(None);
            }
        } else {
            self.cursor = end.cursor;
        }
        let full = self.rows.len() >= self.limit as usize;
        if full || self.looked_at >= LOOKED_AT || self.steps >= STEPS {
            return self.page(Some(format!("{}.{}", self.worker.0, self.cursor)));
        }
        let (worker, walk) = self.step();
        Progress::Send(worker, walk)
    }

    fn page(&mut self, next: Option<String>) -> Progress {
        Progress::Done(Page { rows: std::mem::take(&mut self.rows), next })
    }
}

/// Worker and place that a cursor names, which is `WORKER.PLACE`; the beginning without one.
///
/// # Errors
/// If it is none that an answer gave.
pub fn cursor(text: Option<&str>, workers: u8) -> Result<(u8, u64), ErrorBody> {
    let Some(text) = text else { return Ok((0, 0)) };
    text.split_once('.')
        .and_then(|(worker, place)| Some((worker.parse().ok()?, place.parse().ok()?)))
        .filter(|(worker, _): &(u8, u64)| *worker < workers)
        .ok_or_else(|| {
            ErrorBody::new(ErrorCode::BadRequest, format!("cursor {text:?} is not of this dataplane"))
                .with_hint("begin again without cursor")
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use turnpike_abi::Address;

    fn binding(n: u8) -> Slot {
        let inside = Address::v4([192, 0, 2, n]);
        Slot::new(Kind::BINDING_ROW, 1, &BindingRow { inside, protocol: 17, ..BindingRow::default() })
    }

    fn end(cursor: u64, rows: u32) -> Slot {
        Slot::new(Kind::WALK_END, 1, &WalkEnd { cursor, rows, reserved: 0 })
    }

    fn request(limit: u32, cursor: Option<&str>) -> BindingsRequest {
        BindingsRequest { filter: BindingFilter::default(), cursor: cursor.map(Into::into), limit }
    }

    /// Two workers with the rows 0..5 and 5..8, walked in pages.
    fn all_rows(limit: u32) -> Vec<u8> {
        let tables = [(0u8..5).collect::<Vec<_>>(), (5..8).collect()];
        let mut seen = Vec::new();
        let mut cursor: Option<String> = None;
        for _ in 0..100 {
            let mut walking = Walking::new(request(limit, cursor.as_deref()), 2, Instant::now()).unwrap();
            let (mut worker, mut walk) = walking.step();
            let page = loop {
                let table = &tables[worker.index()];
                let from = usize::try_from(walk.cursor).unwrap();
                let to = (from + walk.limit as usize).min(table.len());
                for &n in &table[from..to] {
                    assert!(matches!(walking.event(&binding(n), |_| None), Progress::Waiting));
                }
                let next = if to == table.len() { WalkEnd::DONE } else { to as u64 };
                match walking.event(&end(next, (to - from) as u32), |_| None) {
                    Progress::Send(next_worker, next_walk) => (worker, walk) = (next_worker, next_walk),
                    Progress::Done(page) => break page,
                    other => panic!("{other:?}"),
                }
            };
            assert!(page.rows.len() <= limit as usize);
            seen.extend(page.rows.iter().map(|row| match row.inside.address {
                std::net::IpAddr::V4(v4) => v4.octets()[3],
                std::net::IpAddr::V6(_) => 255,
            }));
            match page.next {
                Some(next) => cursor = Some(next),
                None => return seen,
            }
        }
        panic!("endless");
    }

    #[test]
    fn pages_of_every_size_hold_every_row_once() {
        for limit in 1..=9 {
            assert_eq!(all_rows(limit), (0..8).collect::<Vec<_>>(), "pages of {limit}");
        }
    }

    #[test]
    fn foreign_cursors_are_refused() {
        for cursor in ["", "x", "2.0", "0", "0.x", "-1.0"] {
            assert!(Walking::new(request(1, Some(cursor)), 2, Instant::now()).is_err(), "{cursor}");
        }
    }

    #[test]
    fn a_page_ends_after_enough_rows_that_do_not_match() {
        let mut asked = request(10, None);
        asked.filter.protocol = Some(turnpike_api::Protocol::TCP);
        let mut walking = Walking::new(asked, 1, Instant::now()).unwrap();
        let mut cursor = 0;
        loop {
            let (_, walk) = walking.step();
            assert!(walk.limit <= 10);
            cursor += 1000;
            match walking.event(&end(cursor, 1000), |_| None) {
                Progress::Done(page) => {
                    assert_eq!(page.next, Some(format!("0.{cursor}")));
                    assert_eq!(page.rows.len(), 0);
                    break;
                }
                Progress::Send(..) => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(u32::try_from(cursor).unwrap() <= LOOKED_AT + 1000);
    }
}

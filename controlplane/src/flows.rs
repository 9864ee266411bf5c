//! Pages of flows, read in place in the workers' state files: no worker takes part. A page holds at most as many rows
//! as were asked for, and ends after a number of places looked at, so that a filter that matches little neither holds
//! up a thread nor the asker; its cursor says where to go on.

use crate::clock::wall_ms;
use std::sync::Arc;
use turnpike_abi::table::SettingsRecord;
use turnpike_api::{Envelope, ErrorBody, FlowData, FlowFilter, FlowsRequest};
use turnpike_client::{Place, StateView};

/// Places looked at for one page: some tens of milliseconds.
const LOOKED_AT: usize = 1 << 19;

/// A page to be read, on a thread that may be busy for a while.
#[derive(Clone, Debug)]
pub struct Page {
    views: Arc<[StateView]>,
    settings: SettingsRecord,
    filter: FlowFilter,
    limit: usize,
    worker: usize,
    place: usize,
}

impl Page {
    /// The page from `request`'s cursor on, of flows with the timeouts of `settings`.
    ///
    /// # Errors
    /// If the cursor is none that an answer gave.
    pub fn new(
        request: FlowsRequest,
        views: Arc<[StateView]>,
        settings: SettingsRecord,
    ) -> Result<Self, ErrorBody> {
        let workers = u8::try_from(views.len()).unwrap_or(u8::MAX);
        let (worker, place) = crate::walk::cursor(request.cursor.as_deref(), workers)?;
        Ok(Self {
            views,
            settings,
            filter: request.filter,
            limit: usize::try_from(request.limit).unwrap_or(usize::MAX),
            worker: usize::from(worker),
            place: usize::try_from(place).unwrap_or(usize::MAX),
        })
    }

    /// Reads it. `host` is named in the answer.
    #[must_use]
    pub fn read(self, host: String) -> Envelope<Vec<FlowData>> {
        let (rows, next) = self.rows(wall_ms());
        Envelope::new(host, rows).with_next(next)
    }

    fn rows(self, wall_ms: u64) -> (Vec<FlowData>, Option<String>) {
        let mut rows = Vec::with_capacity(self.limit.min(turnpike_api::MAX_PAGE as usize));
        let (mut worker, mut place) = (self.worker, self.place);
        let mut left = LOOKED_AT;
        while let Some(view) = self.views.get(worker) {
            let now = view.clock_ms(wall_ms);
            loop {
                if rows.len() >= self.limit || left == 0 {
                    return (rows, Some(format!("{worker}.{place}")));
                }
                match view.flow(place, now) {
                    Place::Flow(row) => {
                        let flow = FlowData::from_row(&row, view.worker(), &self.settings);
                        if self.filter.matches(&flow) {
                            rows.push(flow);
                        }
                    }
                    Place::Empty => {}
                    Place::Outside => break,
                }
                place = place.saturating_add(1);
                left -= 1;
            }
            (worker, place) = (worker + 1, 0);
        }
        (rows, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use turnpike_abi::WorkerId;
    use turnpike_abi::flow::{FlowRecord, StateHeader, StateLayout, flag};
    use turnpike_api::Protocol;
    use turnpike_shm::memory::Memory;
    use turnpike_shm::state::StateArrays;

    /// Workers whose IPv4 tables have these sizes and a flow at each of these places.
    fn views(tables: &[(u32, &[usize])]) -> (Vec<StateArrays>, Arc<[StateView]>) {
        let of = |(worker, &(flows, taken)): (u8, &(u32, &[usize]))| {
            let bytes = StateLayout { flows: flows as usize, flows_v6: 1 }.length();
            let (mut memory, file) = Memory::nameless("test", bytes, false).unwrap();
            let worker = WorkerId(worker);
            let header = StateHeader { flows, flows_v6: 1, worker, ..StateHeader::default() };
            let mut arrays = StateArrays::new(header, &mut memory).unwrap();
            for &place in taken {
                let record: &mut FlowRecord = &mut arrays.records[place];
                record.protocol = 17;
                record.state = flag::LIVE;
                record.addresses[..4].copy_from_slice(&(place as u32).to_be_bytes());
            }
            (arrays, StateView::map(file.into(), worker).unwrap())
        };
        let (arrays, views): (Vec<_>, Vec<_>) = (0..).zip(tables).map(of).unzip();
        (arrays, views.into())
    }

    fn request(limit: u32, cursor: Option<String>) -> FlowsRequest {
        FlowsRequest { filter: FlowFilter::default(), cursor, limit }
    }

    /// All rows in pages of `limit`: worker and place, and how many pages it took.
    fn all(views: &Arc<[StateView]>, filter: &FlowFilter, limit: u32) -> (Vec<(u32, usize)>, usize) {
        let (mut seen, mut cursor, mut pages) = (Vec::new(), None, 0);
        loop {
            let request = FlowsRequest { filter: filter.clone(), ..request(limit, cursor) };
            let page = Page::new(request, Arc::clone(views), SettingsRecord::default()).unwrap();
            let (rows, next) = page.rows(0);
            assert!(rows.len() <= limit as usize);
            seen.extend(rows.iter().map(|row| match row.inside.address {
                std::net::IpAddr::V4(v4) => (row.worker, u32::from(v4) as usize),
                std::net::IpAddr::V6(_) => (row.worker, usize::MAX),
            }));
            pages += 1;
            match next {
                Some(next) => cursor = Some(next),
                None => return (seen, pages),
            }
        }
    }

    #[test]
    fn pages_of_every_size_hold_every_flow_once() {
        let (_arrays, views) = views(&[(9, &[0, 3, 4, 8]), (1, &[]), (5, &[1, 2])]);
        let expected = vec![(0, 0), (0, 3), (0, 4), (0, 8), (2, 1), (2, 2)];
        for limit in 1..=8 {
            assert_eq!(all(&views, &FlowFilter::default(), limit).0, expected, "pages of {limit}");
        }
    }

    #[test]
    fn foreign_cursors_are_refused_and_those_past_the_end_are_the_end() {
        let (_arrays, views) = views(&[(4, &[2]), (4, &[1])]);
        for cursor in ["", "x", "2.0", "0", "0.x", "-1.0", "256.0"] {
            let request = request(1, Some(cursor.to_owned()));
            assert!(Page::new(request, Arc::clone(&views), SettingsRecord::default()).is_err(), "{cursor}");
        }
        let past = request(5, Some(format!("1.{}", u64::MAX)));
        let page = Page::new(past, Arc::clone(&views), SettingsRecord::default()).unwrap();
        assert_eq!(page.rows(0), (Vec::new(), None));
    }

    #[test]
    fn a_page_ends_after_enough_places_that_do_not_match() {
        let places = 2 * LOOKED_AT + 5;
        let (_arrays, views) = views(&[(places as u32, &[7, places - 1])]);
        assert_eq!(all(&views, &FlowFilter::default(), 1000), (vec![(0, 7), (0, places - 1)], 3));
        let tcp = FlowFilter { protocol: Some(Protocol::TCP), ..FlowFilter::default() };
        assert_eq!(all(&views, &tcp, 1000), (Vec::new(), 3));
    }
}

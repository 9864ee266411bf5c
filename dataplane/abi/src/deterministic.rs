//! Deterministic port ranges (RFC 7422): which external address and ports an inside address has, and back, by
//! computation from the configuration alone.
//!
//! The algorithm is the sequential one (A = 0): the inside addresses in their order fill the first external
//! address of the pool, then the second. On an external address each has `ports()` consecutive ports, what is
//! left behind them is the dynamic share. With several workers the inside addresses of one worker fill the ports
//! of that worker in this way, so that both directions of a flow meet at one worker; ports that follow each other
//! there lie in blocks that alternate ([`steering::local_of_port`]). With one worker the result is that of
//! RFC 7422 section 2.3, port by port, but that a range is a multiple of 64 ports and at most 4096.

use crate::table::PoolRecord;
use crate::{Address, MAX_WORKERS, WorkerId, steering};

/// Ranges are multiples of this: a word of the allocator's bitmaps.
const WORD: u32 = 64;
/// Largest range: what a subscriber's block can be.
const MAX_PORTS: u32 = 4096;

/// The variables of RFC 7422 section 2 for one pool, and what follows from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    first: u32,
    last: u32,
    addresses: u32,
    workers: u8,
    ports: u16,
    /// By worker.
    shares: [Share; MAX_WORKERS],
}

/// A worker's part of every external address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// First usable port, as the worker counts them ([`steering::local_of_port`]); a multiple of 64.
    pub begin: u16,
    /// Usable ports, a multiple of 64.
    pub usable: u16,
    /// Subscribers that have their range on one external address.
    pub ranges: u16,
    /// Subscribers of the worker.
    pub subscribers: u32,
}

/// Where an inside address is mapped to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The external address, counted from 0 over the pool's addresses, lowest first.
    pub address: u32,
    /// The owner of the inside address and of the ports.
    pub worker: WorkerId,
    /// Which range on that address.
    pub range: u16,
}

/// Whose port it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// This inside address, and nobody else at any time.
    Inside([u8; 4]),
    /// Whoever got it from the dynamic share.
    Dynamic,
    /// A range whose subscriber the inside range does not have.
    Unassigned,
    /// Not given out.
    Reserved,
}

impl Plan {
    /// Works the ranges out for a pool of `addresses` external addresses.
    ///
    /// # Errors
    /// Says what does not fit.
    pub fn new(pool: &PoolRecord, addresses: u32, workers: u8) -> Result<Self, &'static str> {
        let (first, last) = (u32::from_be_bytes(pool.inside_first), u32::from_be_bytes(pool.inside_last));
        if first > last || first == 0 {
            return Err("the inside range of a deterministic pool is empty");
        }
        if last - first >= 1 << 24 {
            return Err("the inside range of a deterministic pool has more than 16777216 addresses");
        }
        if addresses == 0 {
            return Err("a deterministic pool without addresses");
        }
        let workers = workers.clamp(1, MAX_WORKERS as u8);
        let mut plan =
            Self { first, last, addresses, workers, ports: 0, shares: [Share::default(); MAX_WORKERS] };
        let mut ports = MAX_PORTS;
        for worker in 0..workers {
            let subscribers = plan.count(last, worker, true) - plan.count(first, worker, false);
            let ranges = subscribers.div_ceil(addresses);
            let (begin, usable) = usable(pool, WorkerId(worker), workers);
            let parts = u64::from(ranges) * u64::from(workers) + u64::from(pool.dynamic);
            if ranges > 0 {
                // RFC 7422 section 2, step 2: 1/(C+D) of the ports to each.
                let each = u64::from(usable) * u64::from(workers) / parts;
                ports = ports.min(each as u32 / WORD * WORD);
            }
            let Some(share) = plan.shares.get_mut(usize::from(worker)) else { break };
            *share = Share { begin, usable, ranges: ranges.min(1024) as u16, subscribers };
        }
        if ports == 0 {
            return Err("a deterministic pool has less than 64 ports for each inside address");
        }
        plan.ports = ports as u16;
        Ok(plan)
    }

    /// Ports of each inside address.
    #[must_use]
    pub const fn ports(&self) -> u16 {
        self.ports
    }

    /// What a worker has of every external address.
    #[must_use]
    pub fn share(&self, worker: WorkerId) -> Share {
        self.shares.get(worker.index()).copied().unwrap_or_default()
    }

    /// Function 1 of RFC 7422 section 2; `None` for an address outside the inside range.
    #[must_use]
    pub fn forward(&self, inside: [u8; 4]) -> Option<Place> {
        let address = u32::from_be_bytes(inside);
        if !(self.first..=self.last).contains(&address) {
            return None;
        }
        let worker = steering::owner_of_inside(Address::v4(inside), self.workers);
        let ranges = u32::from(self.share(worker).ranges).max(1);
        let rank = self.count(address, worker.0, false) - self.count(self.first, worker.0, false);
        Some(Place { address: rank / ranges, worker, range: (rank % ranges) as u16 })
    }

    /// The ports of a place, lowest first: first and last of each run. One run if there is one worker.
    pub fn runs(&self, place: Place) -> impl Iterator<Item = (u16, u16)> + use<> {
        let (workers, ports) = (self.workers, u32::from(self.ports));
        let mut next = u32::from(self.share(place.worker).begin) + u32::from(place.range) * ports;
        let end = next + ports;
        let port = move |local: u32| steering::port_of_local(local as u16, place.worker, workers);
        core::iter::from_fn(move || {
            if next >= end {
                return None;
            }
            let first = port(next)?;
            let mut last = first;
            next += 1;
            while next < end && port(next) == last.checked_add(1) {
                last += 1;
                next += 1;
            }
            Some((first, last))
        })
    }

    /// Function 2 of RFC 7422 section 2, for the external address at `address` of the pool.
    #[must_use]
    pub fn reverse(&self, address: u32, port: u16) -> Holder {
        let worker = steering::owner_of_port(port, self.workers);
        let share = self.share(worker);
        let local = steering::local_of_port(port, self.workers);
        let Some(offset) = local.checked_sub(share.begin).filter(|offset| *offset < share.usable) else {
            return Holder::Reserved;
        };
        let range = offset / self.ports;
        if range >= share.ranges {
            return Holder::Dynamic;
        }
        let rank = u64::from(address) * u64::from(share.ranges) + u64::from(range);
        if address >= self.addresses || rank >= u64::from(share.subscribers) {
            return Holder::Unassigned;
        }
        Holder::Inside(self.at_rank(worker.0, rank as u32).to_be_bytes())
    }

    /// Addresses below `address` (or up to it, if `including`) that `worker` owns.
    fn count(&self, address: u32, worker: u8, including: bool) -> u32 {
        let end = u64::from(address) + u64::from(including);
        let (cycles, rest) = (end / 128, (end % 128) as u32);
        (cycles * u64::from(self.in_cycle(128, worker)) + u64::from(self.in_cycle(rest, worker))) as u32
    }

    /// Values below `end`, at most 128, whose remainder is `worker`: [`steering::owner_of_inside`].
    fn in_cycle(&self, end: u32, worker: u8) -> u32 {
        (end + u32::from(self.workers) - 1 - u32::from(worker)) / u32::from(self.workers)
    }

    /// The inside address of `worker` that has `rank` others of it below.
    fn at_rank(&self, worker: u8, rank: u32) -> u32 {
        let each = self.in_cycle(128, worker).max(1);
        let index = self.count(self.first, worker, false) + rank;
        index / each * 128 + u32::from(worker) + index % each * u32::from(self.workers)
    }
}

/// First usable port of a worker as it counts them, and how many there are: whole words inside the pool's range.
fn usable(pool: &PoolRecord, worker: WorkerId, workers: u8) -> (u16, u16) {
    let mut found: Option<(u32, u32)> = None;
    for word in 0..u32::from(u16::MAX).div_ceil(WORD) {
        let Some(first) = steering::port_of_local((word * WORD) as u16, worker, workers) else { break };
        let last = first | (WORD as u16 - 1);
        if first >= pool.port_first && last <= pool.port_last {
            let begin = found.map_or(word, |(begin, _)| begin);
            found = Some((begin, word + 1));
        }
    }
    let (begin, end) = found.unwrap_or_default();
    ((begin * WORD) as u16, ((end - begin) * WORD) as u16)
}

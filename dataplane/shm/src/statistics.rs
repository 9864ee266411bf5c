//! The statistics segment: what the dataplane publishes for its whole life, and how it is read.

use crate::page::{PageReader, PageWriter};
use crate::segment::{OutOfBounds, PeerSegment, Segment, SegmentError};
use std::io;
use std::os::fd::OwnedFd;
use turnpike_abi::counters::{Counters, region};
use turnpike_abi::layout::{LAYOUT_HASH, MAGIC, stats};
use turnpike_abi::stats::{Identity, InterfaceInfo, MainStats, PortStats};
use turnpike_abi::{ABI_VERSION, InterfaceId, MAX_INTERFACES, MAX_PORTS, MAX_WORKERS, PortId, WorkerId};

/// A counter page as words; see [`Counters::words`].
pub type CounterWords = [u64; region::WORDS];

/// A page of rules' hits as words; see [`stats::HITS`].
pub type HitWords = [u64; stats::HITS];

/// How often the rules of a policy were the first to match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleHits {
    /// The policy's generation.
    pub generation: u64,
    /// By the rule's place in the configuration.
    pub hits: Vec<u64>,
}

/// The dataplane's end.
#[derive(Debug)]
pub struct Statistics {
    segment: Segment,
    workers: usize,
}

impl Statistics {
    /// Makes the segment for `workers` workers.
    ///
    /// # Errors
    /// If the kernel has no memory or no descriptor left.
    pub fn create(workers: usize) -> io::Result<Self> {
        let segment = Segment::create("turnpike-statistics", stats::length(workers))?;
        Ok(Self { segment, workers })
    }

    /// The segment, for the other process.
    #[must_use]
    pub const fn segment(&self) -> &Segment {
        &self.segment
    }

    /// Workers there are pages for.
    #[must_use]
    pub const fn workers(&self) -> usize {
        self.workers
    }

    /// Writes who we are; magic, version and layout hash are filled in. Once, before the first attachment.
    ///
    /// # Errors
    /// None: every statistics segment has the place.
    pub fn identify(&self, identity: Identity) -> Result<(), OutOfBounds> {
        let identity =
            Identity { magic: MAGIC, layout_hash: LAYOUT_HASH, abi_version: ABI_VERSION, ..identity };
        self.segment.write(stats::IDENTITY, &identity)
    }

    /// Writes an interface at its own index. Once, before the first attachment.
    ///
    /// # Errors
    /// If its id is [`MAX_INTERFACES`] or more.
    pub fn describe(&self, interface: &InterfaceInfo) -> Result<(), OutOfBounds> {
        self.segment.write(interface_offset(interface.id).ok_or(OutOfBounds)?, interface)
    }

    /// The main thread's page.
    ///
    /// # Errors
    /// None: every statistics segment has the page.
    pub fn main(&self) -> Result<PageWriter<MainStats>, OutOfBounds> {
        self.segment.page(stats::MAIN)
    }

    /// A port's page.
    ///
    /// # Errors
    /// If the port is [`MAX_PORTS`] or more.
    pub fn port(&self, port: PortId) -> Result<PageWriter<PortStats>, OutOfBounds> {
        self.segment.page(port_offset(port).ok_or(OutOfBounds)?)
    }

    /// A worker's page; publish [`Counters::words`].
    ///
    /// # Errors
    /// If there is no such worker.
    pub fn worker(&self, worker: WorkerId) -> Result<PageWriter<CounterWords>, OutOfBounds> {
        self.known(worker)?;
        self.segment.page(stats::WORKERS + worker.index() * stats::WORKER_STRIDE)
    }

    /// Behind the pages of the last worker lie others.
    fn known(&self, worker: WorkerId) -> Result<(), OutOfBounds> {
        if worker.index() < self.workers { Ok(()) } else { Err(OutOfBounds) }
    }

    /// A worker's page of rules' hits.
    ///
    /// # Errors
    /// If there is no such worker.
    pub fn hits(&self, worker: WorkerId) -> Result<PageWriter<HitWords>, OutOfBounds> {
        self.known(worker)?;
        self.segment.page(stats::hits(self.workers, worker.index()))
    }
}

fn interface_offset(interface: InterfaceId) -> Option<usize> {
    (interface.index() < MAX_INTERFACES)
        .then_some(stats::INTERFACES + interface.index() * size_of::<InterfaceInfo>())
}

fn port_offset(port: PortId) -> Option<usize> {
    (port.index() < MAX_PORTS).then_some(stats::PORTS + port.index() * stats::PORT_STRIDE)
}

/// The control plane's end. Cheap to clone: exporters read on their own, without stopping anybody.
#[derive(Clone, Debug)]
pub struct StatisticsView {
    segment: PeerSegment,
    workers: usize,
}

impl StatisticsView {
    /// Maps the statistics segment of a dataplane with `workers` workers.
    ///
    /// # Errors
    /// If the descriptor is not that.
    pub fn map(fd: OwnedFd, workers: usize) -> Result<Self, SegmentError> {
        // The peer's number: bounded before anything is computed from it.
        let workers = workers.min(MAX_WORKERS);
        Ok(Self { segment: PeerSegment::map(fd, stats::length(workers))?, workers })
    }

    /// Workers there are pages for.
    #[must_use]
    pub const fn workers(&self) -> usize {
        self.workers
    }

    /// Who the dataplane is. `None` if it says to be none of this build.
    #[must_use]
    pub fn identity(&self) -> Option<Identity> {
        let identity = self.segment.read::<Identity>(stats::IDENTITY)?;
        (identity.magic == MAGIC
            && identity.layout_hash == LAYOUT_HASH
            && identity.abi_version == ABI_VERSION
            && identity.workers as usize == self.workers)
            .then_some(identity)
    }

    /// The interfaces in use, by index.
    #[must_use]
    pub fn interfaces(&self) -> Vec<InterfaceInfo> {
        let count = self.identity().map_or(0, |identity| identity.interfaces);
        (0..count).map_while(|index| self.segment.read(interface_offset(InterfaceId(index))?)).collect()
    }

    /// The main thread's counters; `None` if no whole copy could be had.
    #[must_use]
    pub fn main(&self) -> Option<MainStats> {
        self.segment.page(stats::MAIN).ok()?.read()
    }

    /// A port's counters; `None` if it is out of range or no whole copy could be had.
    #[must_use]
    pub fn port(&self, port: PortId) -> Option<PortStats> {
        self.segment.page(port_offset(port)?).ok()?.read()
    }

    /// A worker's counters; `None` if there is no such worker or no whole copy could be had.
    #[must_use]
    pub fn worker(&self, worker: WorkerId) -> Option<Counters> {
        if worker.index() >= self.workers {
            return None;
        }
        let page: PageReader<CounterWords> =
            self.segment.page(stats::WORKERS + worker.index() * stats::WORKER_STRIDE).ok()?;
        let mut counters = Counters::default();
        *counters.words_mut() = page.read()?;
        Some(counters)
    }

    /// What a worker counted for each rule; `None` if there is no such worker or no whole copy could be had.
    #[must_use]
    pub fn hits(&self, worker: WorkerId) -> Option<RuleHits> {
        if worker.index() >= self.workers {
            return None;
        }
        let page: PageReader<HitWords> = self.segment.page(stats::hits(self.workers, worker.index())).ok()?;
        let words = page.read()?;
        let [generation, rules, hits @ ..] = &words;
        let rules = usize::try_from(*rules).unwrap_or(usize::MAX).min(hits.len());
        Some(RuleHits { generation: *generation, hits: hits.get(..rules)?.to_vec() })
    }
}

//! State files of workers (see [`turnpike_abi::flow`]): cut into arrays by their one writer, and read in place by
//! others, who copy one record after the other out without the writer's knowing.
//!
//! A reader takes nothing for granted but that the file does not shrink under it: the file is the dataplane's, which
//! replaces files and never cuts them. Every number is checked, every word is loaded atomically.

use crate::atomic::{Ordering, fence};
use crate::mapping::Mapping;
use crate::memory::{Array, Memory};
use crate::words::Peer;
use core::fmt;
use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat, fstatfs};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use turnpike_abi::flow::{
    FlowCold, FlowRecord, FlowRecord6, FlowRow, HEADER, StateHeader, StateLayout, flag,
};
use turnpike_abi::layout::{LAYOUT_HASH, MAGIC};
use turnpike_abi::{ABI_VERSION, WorkerId};

/// File system types where a state file may lie: memory, of ordinary pages or of large ones.
const TMPFS: u64 = 0x0102_1994;
/// See [`TMPFS`].
pub(crate) const HUGETLBFS: u64 = 0x9584_58f6;

/// Copies of a record before a reader leaves out one that changes its identity each time. Between two changes a
/// flow lives for a timeout: once is enough, unless the other side means harm.
const ATTEMPTS: usize = 4;

/// The word of a record with its sequence number, and the one with its state.
const SEQUENCE_WORD: usize = core::mem::offset_of!(FlowRecord, sequence) / 8 * 8;
const STATE_WORD: usize = core::mem::offset_of!(FlowRecord, state) / 8 * 8;

/// The arrays of a state file, for the worker whose it is.
#[derive(Debug)]
pub struct StateArrays {
    /// One element.
    pub header: Array<StateHeader>,
    /// IPv4 flows.
    pub records: Array<FlowRecord>,
    /// IPv6 flows.
    pub records6: Array<FlowRecord6>,
    /// Of both, IPv4 first.
    pub cold: Array<FlowCold>,
}

impl StateArrays {
    /// Cuts fresh memory into arrays for as many flows as `header` says, and writes the header: magic, version and
    /// layout hash are filled in, the magic last. `None` if the memory is too small, or not fresh.
    pub fn new(header: StateHeader, memory: &mut Memory) -> Option<Self> {
        if memory.used() != 0 {
            return None;
        }
        let (flows, flows_v6) = (header.flows as usize, header.flows_v6 as usize);
        let mut arrays = Self {
            header: memory.array(1)?,
            records: memory.array(flows)?,
            records6: memory.array(flows_v6)?,
            cold: memory.array(flows + flows_v6)?,
        };
        let first = arrays.header.first_mut()?;
        *first = StateHeader { magic: 0, layout_hash: LAYOUT_HASH, abi_version: ABI_VERSION, ..header };
        // Whoever sees the magic sees the rest.
        fence(Ordering::Release);
        first.magic = MAGIC;
        Some(arrays)
    }
}

/// Why a descriptor was not taken for a state file.
#[derive(Debug)]
pub enum StateError {
    /// It is no file in memory.
    NotMemory,
    /// It is shorter than its header says.
    Short {
        /// Bytes that the header asks for.
        expected: u64,
        /// What it is.
        actual: u64,
    },
    /// Its header is of another build, not finished, or of another worker.
    Header,
    /// The kernel refused.
    Io(io::Error),
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMemory => f.write_str("the descriptor is no file on hugetlbfs or tmpfs to be read"),
            Self::Short { expected, actual } => {
                write!(f, "the file has {actual} bytes, its header says {expected}")
            }
            Self::Header => f.write_str("the file's header is of another build or of another worker"),
            Self::Io(error) => write!(f, "cannot map the file: {error}"),
        }
    }
}

impl core::error::Error for StateError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<rustix::io::Errno> for StateError {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// What a place of the table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A flow.
    Flow(FlowRow),
    /// None, or one that begins or ends just now.
    Empty,
    /// The table has no such place.
    Outside,
}

/// A worker's flows, mapped to be read alone. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StateView {
    peer: Peer,
    layout: StateLayout,
    worker: WorkerId,
}

impl StateView {
    /// Maps the state file of `worker`. Of the descriptor only the right to read is used.
    ///
    /// # Errors
    /// If it is none, or not of this build.
    pub fn map(fd: OwnedFd, worker: WorkerId) -> Result<Self, StateError> {
        let mapped = Self::of(&fd, worker);
        // Closing a descriptor of whatever the other side sent may wait.
        crate::closer::close(fd);
        mapped
    }

    fn of(fd: &OwnedFd, worker: WorkerId) -> Result<Self, StateError> {
        let stat = fstat(fd)?;
        let system = fstatfs(fd)?.f_type as u64;
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if !regular || ![TMPFS, HUGETLBFS].contains(&system) || fcntl_getfl(fd)?.contains(OFlags::WRONLY) {
            return Err(StateError::NotMemory);
        }
        let actual = u64::try_from(stat.st_size).unwrap_or(0);
        let short = |expected: usize| match usize::try_from(actual) {
            Ok(length) if length >= expected => Ok(length),
            _ => Err(StateError::Short { expected: expected as u64, actual }),
        };
        short(HEADER)?;
        // Whole files: what lies in large pages can be unmapped only by whole ones.
        let whole = usize::try_from(actual).map_err(|_| StateError::Header)?;
        let mapping = Mapping::shared(fd.as_fd(), whole, false).map_err(StateError::Io)?;
        let peer = Peer(Arc::new(mapping));
        if peer.acquire(0) != Some(MAGIC) {
            return Err(StateError::Header);
        }
        let header: StateHeader = crate::page::copy(&peer, 0).ok_or(StateError::Header)?;
        if header.layout_hash != LAYOUT_HASH || header.abi_version != ABI_VERSION || header.worker != worker {
            return Err(StateError::Header);
        }
        // Two numbers of 32 bits: what follows cannot overflow.
        let layout = StateLayout { flows: header.flows as usize, flows_v6: header.flows_v6 as usize };
        short(layout.length())?;
        Ok(Self { peer, layout, worker })
    }

    /// Whose flows they are.
    #[must_use]
    pub const fn worker(&self) -> WorkerId {
        self.worker
    }

    /// Places there are, IPv4 first.
    #[must_use]
    pub const fn places(&self) -> usize {
        self.layout.flows + self.layout.flows_v6
    }

    /// The worker's clock at `wall_ms`, milliseconds since the epoch.
    #[must_use]
    pub fn clock_ms(&self, wall_ms: u64) -> u64 {
        wall_ms.saturating_sub(self.clock_base_ms())
    }

    /// Wall clock at 0 of the worker's, milliseconds since the epoch.
    #[must_use]
    pub fn clock_base_ms(&self) -> u64 {
        self.peer.load(core::mem::offset_of!(StateHeader, clock_base)).unwrap_or(0)
    }

    /// The flow at a place at `now_ms` of the worker's clock. Never a mixture of two; its counters go on meanwhile.
    #[must_use]
    pub fn flow(&self, place: usize, now_ms: u64) -> Place {
        let (flows, layout) = (self.layout.flows, self.layout);
        let (Ok(number), true) = (u32::try_from(place), place < self.places()) else { return Place::Outside };
        let (offset, v6) = match place.checked_sub(flows) {
            None => (StateLayout::RECORDS + place * size_of::<FlowRecord>(), false),
            Some(at) => (layout.records_v6() + at * size_of::<FlowRecord6>(), true),
        };
        let cold = layout.cold() + place * size_of::<FlowCold>();
        self.copy(number, offset, v6, cold, now_ms).map_or(Place::Empty, Place::Flow)
    }

    fn copy(&self, number: u32, offset: usize, v6: bool, cold: usize, now_ms: u64) -> Option<FlowRow> {
        for _ in 0..ATTEMPTS {
            let before = sequence_of(self.peer.acquire(offset + SEQUENCE_WORD)?);
            if !before.is_multiple_of(2) || !is_live(self.peer.load(offset + STATE_WORD)?) {
                return None;
            }
            let record: FlowRecord = crate::page::copy(&self.peer, offset)?;
            let ends = if v6 { Some(self.ends(offset)?) } else { None };
            let cold: FlowCold = crate::page::copy(&self.peer, cold)?;
            // All of it was read before the sequence is read again.
            fence(Ordering::Acquire);
            if sequence_of(self.peer.load(offset + SEQUENCE_WORD)?) == before {
                return record.has(flag::LIVE).then(|| FlowRow::new(number, &record, ends, &cold, now_ms));
            }
        }
        None
    }

    fn ends(&self, offset: usize) -> Option<([u8; 16], [u8; 16])> {
        let mut words = [0; 4];
        self.peer.copy(offset + core::mem::offset_of!(FlowRecord6, inside), &mut words)?;
        let [a, b, c, d] = words;
        Some((address([a, b]), address([c, d])))
    }
}

fn address([high, low]: [u64; 2]) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(high.to_ne_bytes().into_iter().chain(low.to_ne_bytes())) {
        *to = from;
    }
    bytes
}

/// A field of `N` bytes in a word of a record.
fn field<const N: usize>(word: u64, offset: usize) -> [u8; N] {
    let bytes = word.to_ne_bytes();
    core::array::from_fn(|at| bytes.get(offset % 8 + at).copied().unwrap_or(0))
}

fn sequence_of(word: u64) -> u16 {
    u16::from_ne_bytes(field(word, core::mem::offset_of!(FlowRecord, sequence)))
}

fn is_live(word: u64) -> bool {
    let [state] = field(word, core::mem::offset_of!(FlowRecord, state));
    state & flag::LIVE != 0
}

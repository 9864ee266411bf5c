//! Deterministic pools (RFC 7422): the ranges that follow from the configuration, for the checks and for those
//! who ask. The workers compute the same from the policy table.

use crate::model::{Config, Pool};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use turnpike_abi::deterministic::{Holder, Place, Plan};
use turnpike_abi::table::PoolRecord;

/// The variables of RFC 7422 section 2, as a record of the history keeps them (section 3 asks for one at every
/// change). The algorithm is always 0, sequential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variables {
    /// The pool.
    pub pool: String,
    /// Inside addresses (I), first and last.
    pub inside: (Ipv4Addr, Ipv4Addr),
    /// External ranges (O), first and last of each, lowest first.
    pub external: Vec<(Ipv4Addr, Ipv4Addr)>,
    /// Ports given out; all others are reserved (R).
    pub ports: (u16, u16),
    /// Dynamic share (D).
    pub dynamic: u16,
    /// Workers: the ports of a subscriber are its worker's.
    pub workers: u8,
}

impl Variables {
    /// Those of a pool; `None` if it is not deterministic.
    #[must_use]
    pub fn of(config: &Config, pool: &Pool) -> Option<Self> {
        let inside = pool.deterministic?;
        let mut external: Vec<_> = pool.addresses.iter().map(|range| (range.first, range.last)).collect();
        external.sort_unstable();
        Some(Self {
            pool: pool.name.as_str().to_owned(),
            inside: (inside.first, inside.last),
            external,
            ports: (pool.ports.first, pool.ports.last),
            dynamic: pool.dynamic,
            workers: u8::try_from(config.dataplane.cores.len()).unwrap_or(u8::MAX).max(1),
        })
    }

    /// The ranges that follow from them.
    ///
    /// # Errors
    /// If the inside addresses do not fit; the checks of a configuration refuse such a pool.
    pub fn ranges(&self) -> Result<Ranges, &'static str> {
        let record = PoolRecord {
            port_first: self.ports.0,
            port_last: self.ports.1,
            flags: PoolRecord::DETERMINISTIC,
            dynamic: self.dynamic,
            inside_first: self.inside.0.octets(),
            inside_last: self.inside.1.octets(),
            ..PoolRecord::default()
        };
        let external: Vec<(u32, u32)> =
            self.external.iter().map(|(first, last)| (first.to_bits(), last.to_bits())).collect();
        if external.iter().any(|(first, last)| first > last) {
            return Err("an external range is empty");
        }
        let count = external.iter().map(|(first, last)| u64::from(last - first) + 1).sum::<u64>();
        let plan = Plan::new(&record, u32::try_from(count).unwrap_or(u32::MAX), self.workers)?;
        Ok(Ranges { plan, external })
    }
}

/// Ranges of one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges {
    plan: Plan,
    /// First and last address of each range of the pool, lowest first.
    external: Vec<(u32, u32)>,
}

impl Ranges {
    /// The plan.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// External address and ports of an inside address: first and last of each run of ports, lowest first.
    #[must_use]
    pub fn forward(&self, inside: Ipv4Addr) -> Option<(Ipv4Addr, Vec<(u16, u16)>)> {
        let place: Place = self.plan.forward(inside.octets())?;
        let mut left = place.address;
        for (first, last) in &self.external {
            if left <= last - first {
                return Some((Ipv4Addr::from_bits(first + left), self.plan.runs(place).collect()));
            }
            left -= last - first + 1;
        }
        None
    }

    /// Whose port it is; `None` for an address of another pool.
    #[must_use]
    pub fn reverse(&self, external: Ipv4Addr, port: u16) -> Option<Holder> {
        let address = external.to_bits();
        let mut before = 0;
        for (first, last) in &self.external {
            if (*first..=*last).contains(&address) {
                return Some(self.plan.reverse(before + (address - first), port));
            }
            before += last - first + 1;
        }
        None
    }
}

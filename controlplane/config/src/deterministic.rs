//! Deterministic pools (RFC 7422): the ranges that follow from the configuration, for the checks and for those
//! who ask. The workers compute the same from the policy table.

use crate::compile::pool_record;
use crate::model::{Config, Pool};
use std::net::Ipv4Addr;
use turnpike_abi::deterministic::{Holder, Place, Plan};

/// Ranges of one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges {
    plan: Plan,
    /// First and last address of each range of the pool, lowest first.
    external: Vec<(u32, u32)>,
}

impl Ranges {
    /// Those of a pool; `None` if it is not deterministic.
    ///
    /// # Errors
    /// If the inside addresses do not fit; the checks of a configuration refuse such a pool.
    pub fn of(config: &Config, pool: &Pool) -> Option<Result<Self, &'static str>> {
        pool.deterministic?;
        let mut external: Vec<(u32, u32)> =
            pool.addresses.iter().map(|range| (range.first.to_bits(), range.last.to_bits())).collect();
        external.sort_unstable();
        let count = external.iter().map(|(first, last)| u64::from(last - first) + 1).sum::<u64>();
        let addresses = u32::try_from(count).unwrap_or(u32::MAX);
        let workers = u8::try_from(config.dataplane.cores.len()).unwrap_or(u8::MAX).max(1);
        let plan = Plan::new(&pool_record(config, pool), addresses, workers);
        Some(plan.map(|plan| Self { plan, external }))
    }

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

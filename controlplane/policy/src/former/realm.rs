//! The pools that pinholes are translated through, as the configuration in force has them.

use crate::former::Refusal;
use std::net::Ipv4Addr;
use turnpike_abi::PoolId;

/// A pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name in the configuration.
    pub name: String,
    /// Its index in the policy table.
    pub id: PoolId,
    /// Its addresses, first to last each.
    pub ranges: Vec<(Ipv4Addr, Ipv4Addr)>,
    /// Lowest and highest external port given out without being asked for.
    pub ports: (u16, u16),
}

impl Pool {
    /// Whether `address` is one of its addresses.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.ranges.iter().any(|&(first, last)| first <= address && address <= last)
    }

    /// How many addresses it has.
    #[must_use]
    pub fn addresses(&self) -> u64 {
        self.ranges
            .iter()
            .map(|&(first, last)| u64::from(u32::from(last).saturating_sub(u32::from(first))) + 1)
            .sum()
    }

    /// The address at `index` counted modulo the pool's size; `None` of an empty pool.
    #[must_use]
    pub fn address_at(&self, index: u64) -> Option<Ipv4Addr> {
        let mut left = index.checked_rem(self.addresses())?;
        for &(first, last) in &self.ranges {
            let size = u64::from(u32::from(last).saturating_sub(u32::from(first))) + 1;
            if left < size {
                return Some(Ipv4Addr::from(u32::from(first).saturating_add(left as u32)));
            }
            left -= size;
        }
        None
    }
}

/// Every pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Realm {
    /// In the order of the policy table.
    pub pools: Vec<Pool>,
}

impl Realm {
    /// The pool of that name.
    #[must_use]
    pub fn pool(&self, name: &str) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.name == name)
    }

    /// The pool of that name, if it has that address. Ports outside its range may be had by name: it is how
    /// a server gets port 80.
    ///
    /// # Errors
    /// Says what is not there.
    pub fn admit(&self, name: &str, address: Option<Ipv4Addr>) -> Result<&Pool, Refusal> {
        let pool = self.pool(name).ok_or_else(|| Refusal::NoSuchPool {
            pool: name.to_owned(),
            known: self.pools.iter().map(|pool| pool.name.clone()).collect(),
        })?;
        match address {
            Some(address) if !pool.contains(address) => {
                Err(Refusal::NotInPool { pool: name.to_owned(), address })
            }
            _ => Ok(pool),
        }
    }
}

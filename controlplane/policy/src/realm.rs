//! The pools that rules are translated through, and whom the NAT rules translate.

use crate::Refusal;
use crate::identity::Name;
use crate::tuple::Network;
use std::net::{IpAddr, Ipv4Addr};
use turnpike_abi::PoolId;

/// A pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name in the configuration.
    pub name: Name,
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

/// Whom a pool is for, in the order of the NAT rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translation {
    /// Inside zone; `None` is every one.
    pub zone: Option<Name>,
    /// Inside hosts.
    pub source: Network,
    /// The pool; `None` exempts them.
    pub pool: Option<Name>,
}

/// Every pool, and who is translated through which.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Realm {
    /// In the order of the policy table.
    pub pools: Vec<Pool>,
    /// First match first.
    pub translations: Vec<Translation>,
}

impl Realm {
    /// The pool of that name.
    #[must_use]
    pub fn pool(&self, name: &str) -> Option<&Pool> {
        self.pools.iter().find(|pool| &*pool.name == name)
    }

    /// The pool that has that address.
    #[must_use]
    pub fn pool_of(&self, address: Ipv4Addr) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.contains(address))
    }

    /// The pool an inside host of `zone` is translated through; `None` if it is not.
    #[must_use]
    pub fn pool_for(&self, zone: &str, host: IpAddr) -> Option<&Pool> {
        if host.is_ipv6() {
            return None;
        }
        let rule = self.translations.iter().find(|rule| {
            rule.zone.as_ref().is_none_or(|name| &**name == zone) && rule.source.contains(host)
        })?;
        self.pool(rule.pool.as_ref()?)
    }

    /// The first pool of `zone`, for a reservation whose host is not known yet; `None` if nothing is translated.
    #[must_use]
    pub fn pool_of_zone(&self, zone: &str) -> Option<&Pool> {
        let pool = |rule: &Translation| {
            let zoned = rule.zone.as_ref().is_none_or(|name| &**name == zone);
            if zoned { rule.pool.as_ref().and_then(|pool| self.pool(pool)) } else { None }
        };
        self.translations.iter().find_map(pool)
    }

    /// The pool of that name, if it has that address. Ports outside its range may be had by name: it is how
    /// a server gets port 80.
    ///
    /// # Errors
    /// Says what is not there.
    pub fn admit(&self, name: &str, address: Option<Ipv4Addr>) -> Result<&Pool, Refusal> {
        let pool = self.pool(name).ok_or_else(|| Refusal::NoSuchPool {
            pool: name.to_owned(),
            known: self.pools.iter().map(|pool| pool.name.to_string()).collect(),
        })?;
        match address {
            Some(address) if !pool.contains(address) => {
                Err(Refusal::NotInPool { pool: name.to_owned(), address: address.into() })
            }
            _ => Ok(pool),
        }
    }
}

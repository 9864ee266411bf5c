//! The mappings, by their inside ends.

use super::rate::subscriber;
use super::{Asker, Kind, RuleId, Time};
use crate::wire::{Filter, Nonce};
use hashbrown::HashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// What a mapping is told by. An inside end may have one mapping in each external family (erratum 3621).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) host: IpAddr,
    pub(super) protocol: u8,
    /// Family of the external end.
    pub(super) v6: bool,
    pub(super) kind: Kind,
    /// First inside port. The last field: a row of ports is a range of keys.
    pub(super) port: u16,
}

/// Who made a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Pcp,
    NatPmp,
}

/// A mapping, or one that waits to become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    /// Where and by whom it was asked for last.
    pub(super) asker: Asker,
    pub(super) dialect: Dialect,
    /// What its client tells it by; none of a mapping that NAT-PMP made.
    pub(super) nonce: Option<Nonce>,
    /// Ports in a row.
    pub(super) size: u16,
    pub(super) filters: Vec<Filter>,
    pub(super) third_party: bool,
    pub(super) prefer_failure: bool,
    /// Its name in the policy engine, and its first external end, once it has them.
    pub(super) granted: Option<(RuleId, SocketAddr)>,
    pub(super) expires: Time,
    /// The policy engine was asked something about it.
    pub(super) busy: bool,
}

impl Mapping {
    pub(super) fn new(asker: Asker, size: u16) -> Self {
        Self {
            asker,
            dialect: Dialect::Pcp,
            nonce: None,
            size,
            filters: Vec::new(),
            third_party: false,
            prefer_failure: false,
            granted: None,
            expires: Time(0),
            busy: false,
        }
    }

    pub(super) fn external(&self) -> Option<SocketAddr> {
        self.granted.map(|(_, external)| external)
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Table {
    mappings: BTreeMap<Key, Mapping>,
    by_rule: HashMap<RuleId, Key>,
    /// Inbound mappings by protocol and external end, each port of a set by itself.
    by_external: HashMap<(u8, SocketAddr), Key>,
    by_subscriber: HashMap<IpAddr, usize>,
    by_end: BTreeSet<(Time, Key)>,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.mappings.len()
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Mapping> {
        self.mappings.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &Key) -> Option<&mut Mapping> {
        self.mappings.get_mut(key)
    }

    pub(super) fn key_of(&self, rule: RuleId) -> Option<Key> {
        self.by_rule.get(&rule).copied()
    }

    /// Mappings of a subscriber.
    pub(super) fn held_by(&self, host: IpAddr) -> usize {
        self.by_subscriber.get(&subscriber(host)).copied().unwrap_or_default()
    }

    /// Keys of the inbound mappings with a port between that of `key` and `last`, in order.
    pub(super) fn overlapping(&self, key: &Key, last: u16) -> Vec<Key> {
        let first = Key { port: 0, ..*key };
        let end = Key { port: last, ..*key };
        let mut found = Vec::new();
        for (other, mapping) in self.mappings.range(first..=end).rev() {
            // Sets are disjoint: the first that ends before is the last to look at.
            if u32::from(other.port) + u32::from(mapping.size) <= u32::from(key.port) {
                break;
            }
            found.push(*other);
        }
        found.reverse();
        found
    }

    /// Keys of everything `host` has of a protocol.
    pub(super) fn of_host(&self, host: IpAddr, protocol: u8) -> Vec<Key> {
        let first = Key { host, protocol, v6: false, kind: Kind::Inbound, port: 0 };
        let rest = self.mappings.range(first..).map(|(key, _)| *key);
        rest.take_while(|key| key.host == host && key.protocol == protocol).collect()
    }

    /// Whether `host` has a mapping towards a remote end for this inside end.
    pub(super) fn has_outbound(&self, host: IpAddr, protocol: u8, port: u16) -> bool {
        self.of_host(host, protocol).iter().any(|key| key.kind != Kind::Inbound && key.port == port)
    }

    /// An external IPv4 address that `host` has.
    pub(super) fn external_of(&self, host: IpAddr) -> Option<IpAddr> {
        let first = Key { host, protocol: 0, v6: false, kind: Kind::Inbound, port: 0 };
        let mut own = self.mappings.range(first..).take_while(|(key, _)| key.host == host);
        own.find_map(|(_, mapping)| mapping.external()).map(|end| end.ip())
    }

    /// Whether the port beside it, of the other transport, is promised to another host (RFC 6886 section 3.3).
    pub(super) fn companion_taken(
        &self,
        key: &Key,
        dialect: Dialect,
        external: SocketAddr,
        size: u16,
    ) -> bool {
        let other = match key.protocol {
            6 => 17,
            17 => 6,
            _ => return false,
        };
        external_ends(external, size).any(|end| {
            let holder = self.by_external.get(&(other, end)).filter(|holder| holder.host != key.host);
            let reserves = |holder: &Key| {
                dialect == Dialect::NatPmp
                    || self.get(holder).is_some_and(|mapping| mapping.dialect == Dialect::NatPmp)
            };
            holder.is_some_and(reserves)
        })
    }

    /// Files a mapping; one that waits for its external end too.
    pub(super) fn insert(&mut self, key: Key, mapping: Mapping) {
        self.remove(&key);
        *self.by_subscriber.entry(subscriber(key.host)).or_default() += 1;
        let granted = mapping.granted;
        self.mappings.insert(key, mapping);
        if let Some((rule, external)) = granted {
            self.grant(&key, rule, external);
        }
    }

    /// A mapping has its external end.
    pub(super) fn grant(&mut self, key: &Key, rule: RuleId, external: SocketAddr) {
        self.unfile(key);
        let Some(mapping) = self.mappings.get_mut(key) else { return };
        mapping.granted = Some((rule, external));
        self.by_rule.insert(rule, *key);
        if key.kind == Kind::Inbound {
            for end in external_ends(external, mapping.size) {
                self.by_external.insert((key.protocol, end), *key);
            }
        }
    }

    /// A mapping ends then.
    pub(super) fn set_end(&mut self, key: &Key, end: Time) {
        if let Some(mapping) = self.mappings.get_mut(key) {
            self.by_end.remove(&(mapping.expires, *key));
            mapping.expires = end;
            self.by_end.insert((end, *key));
        }
    }

    /// A mapping that is over.
    pub(super) fn first_ended(&self, now: Time) -> Option<Key> {
        self.by_end.first().filter(|(end, _)| *end <= now).map(|(_, key)| *key)
    }

    /// When the next one is.
    pub(super) fn next_end(&self) -> Option<Time> {
        self.by_end.first().map(|(end, _)| *end)
    }

    /// Translated mappings whose external address `still` does not know.
    pub(super) fn translated_away(&self, still: &impl Fn(IpAddr) -> bool) -> Vec<(Key, RuleId)> {
        let granted = self.mappings.iter().filter_map(|(key, mapping)| Some((key, mapping.granted?)));
        let away = granted.filter(|(key, (_, external))| external.ip() != key.host && !still(external.ip()));
        away.map(|(key, (rule, _))| (*key, rule)).collect()
    }

    fn unfile(&mut self, key: &Key) {
        let Some(mapping) = self.mappings.get(key) else { return };
        let Some((rule, external)) = mapping.granted else { return };
        self.by_rule.remove(&rule);
        if key.kind == Kind::Inbound {
            for end in external_ends(external, mapping.size) {
                if self.by_external.get(&(key.protocol, end)) == Some(key) {
                    self.by_external.remove(&(key.protocol, end));
                }
            }
        }
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Mapping> {
        self.unfile(key);
        let mapping = self.mappings.remove(key)?;
        self.by_end.remove(&(mapping.expires, *key));
        let subscriber = subscriber(key.host);
        if let Some(count) = self.by_subscriber.get_mut(&subscriber) {
            *count -= 1;
            if *count == 0 {
                self.by_subscriber.remove(&subscriber);
            }
        }
        Some(mapping)
    }
}

fn external_ends(first: SocketAddr, size: u16) -> impl Iterator<Item = SocketAddr> {
    let last = first.port().saturating_add(size.saturating_sub(1));
    (first.port()..=last).map(move |port| SocketAddr::new(first.ip(), port))
}

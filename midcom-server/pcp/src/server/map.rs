//! MAP (RFC 6887 sections 11.3 and 15, RFC 7753 section 4).

use super::job::{Asked, Job, Options};
use super::order::{Kind, Order, RuleId, Wanted};
use super::steps::Step;
use super::table::{Dialect, Key, Mapping};
use super::{Drop, Server, Side, Time, memo};
use crate::wire::{Body, Filter, Map, ResultCode};
use std::net::{IpAddr, SocketAddr};

/// A PREFER_FAILURE request counts as so many more: it tells which ports are free (RFC 6887 section 13.2).
const PREFER_FAILURE_COST: u64 = 4;

/// Whether the protocol's packets are told apart by ports.
pub(super) const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, 6 | 17 | 33 | 132 | 136)
}

/// An address that packets can come from.
pub(super) fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_unspecified()
                || v4.is_loopback()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.is_link_local())
        }
        IpAddr::V6(v6) => {
            !(v6.is_unspecified() || v6.is_loopback() || v6.is_multicast() || v6.is_unicast_link_local())
        }
    }
}

/// `new` on top of `old` (RFC 6887 section 13.3); `None` if that is more than `most`.
pub(super) fn filters(old: &[Filter], new: &[Filter], most: usize) -> Option<Vec<Filter>> {
    let mut filters = old.to_vec();
    for filter in new {
        if filter.clears() {
            filters.clear();
        } else if !filters.contains(filter) {
            filters.push(*filter);
        }
    }
    (filters.len() <= most).then_some(filters)
}

impl Server {
    pub(super) fn map(&mut self, now: Time, job: Job, map: &Map) {
        if !self.settings.map || !is_host(job.host) {
            return self.fail(now, &job, ResultCode::NotAuthorized);
        }
        let no_ports = map.protocol != 0 && !has_ports(map.protocol);
        if map.internal_port != 0 && (map.protocol == 0 || no_ports) {
            return self.fail(now, &job, ResultCode::MalformedRequest);
        }
        if job.lifetime() == 0 {
            return self.unmap(now, job, map);
        }
        let side = self.settings.side(job.host);
        // All ports or all protocols of an address are nobody's while others may get ports of it.
        let wildcard = map.internal_port == 0 && !no_ports;
        if wildcard || !self.settings.maps(side, map.protocol) {
            return self.fail(now, &job, ResultCode::UnsuppProtocol);
        }
        let v6 = side == Side::Untranslated && job.host.is_ipv6();
        let key =
            Key { host: job.host, protocol: map.protocol, v6, kind: Kind::Inbound, port: map.internal_port };
        let Asked::Pcp { options, .. } = &job.asked else { return };
        if options.filters.iter().any(|filter| !filter.clears() && filter.address.is_ipv6() != v6) {
            return self.fail(now, &job, ResultCode::MalformedOption);
        }
        let size = Self::size(options, &key);
        let there = self.table.overlapping(&key, key.port.saturating_add(size - 1));
        if there.is_empty() {
            return self.create(now, job, key, size);
        }
        // RFC 7753 section 4.4.1: a refresh of each.
        for key in there {
            self.refresh(now, job.clone(), key);
        }
    }

    /// How many ports are asked for; a row of ports ends at the last one there is.
    fn size(options: &Options, key: &Key) -> u16 {
        // A filter's port is one port for all of the set, which no rule of a range says: fewer may be mapped.
        let single = key.port == 0 || options.filters.iter().any(|filter| filter.port != 0);
        let asked = options.port_set.filter(|_| !single).map_or(1, |set| set.size.max(1));
        let last = u16::MAX - key.port;
        asked.min(last.saturating_add(1).max(1))
    }

    /// Refuses unless the request may touch the mapping (RFC 6887 sections 11.3, 12.3 and 18.1).
    pub(super) fn admits(&mut self, now: Time, job: &Job, key: &Key) -> bool {
        let Some(mapping) = self.table.get(key) else { return false };
        if mapping.busy {
            self.counts.drop(Drop::Busy);
            return false;
        }
        let Asked::Pcp { request, .. } = &job.asked else { return true };
        let nonce = match &request.body {
            Body::Announce => return false,
            Body::Map(map) => map.nonce,
            Body::Peer(peer) => peer.map.nonce,
        };
        // A mapping of NAT-PMP has none; it is remembered from now on.
        if mapping.nonce.is_some_and(|known| known != nonce) {
            let left = now.seconds_until(mapping.expires);
            self.fail_for(now, job, ResultCode::NotAuthorized, left);
            return false;
        }
        true
    }

    fn refresh(&mut self, now: Time, job: Job, key: Key) {
        if !self.admits(now, &job, &key) {
            return;
        }
        let Some(mapping) = self.table.get_mut(&key) else { return };
        let Asked::Pcp { request, options, .. } = &job.asked else { return };
        if mapping.external().is_some_and(|external| job.insists_on_another(external)) {
            return self.fail(now, &job, ResultCode::CannotProvideExternal);
        }
        let set = mapping.size > 1;
        let filters = filters(&mapping.filters, &options.filters, self.settings.filters);
        let Some(filters) = filters.filter(|all| !set || all.iter().all(|filter| filter.port == 0)) else {
            return self.fail(now, &job, ResultCode::ExcessiveRemotePeers);
        };
        let lifetime = self.settings.granted(request.lifetime);
        if now.after_seconds(lifetime) < mapping.expires {
            // It may be kept by packets for longer (RFC 6887 section 15).
            return self.look_before(Step::Shorten { job, key, lifetime, filters });
        }
        self.change(job, key, lifetime, filters);
    }

    /// Has the policy engine look before a mapping is shortened or taken away.
    pub(super) fn look_before(&mut self, step: Step) {
        let Step::Shorten { job, key, .. } = &step else { return };
        let (asker, Key { host, protocol, port, .. }) = (job.asker, *key);
        if let Some(mapping) = self.table.get_mut(key) {
            mapping.busy = true;
        }
        self.order(step, Order::Look { asker, host, protocol, port });
    }

    /// Gives a mapping that is there another lifetime and filters.
    pub(super) fn change(&mut self, job: Job, key: Key, lifetime: u32, filters: Vec<Filter>) {
        let Some(mapping) = self.table.get_mut(&key) else { return };
        let Some((rule, _)) = mapping.granted else { return };
        mapping.busy = true;
        let mut draft = mapping.clone();
        draft.asker = job.asker;
        draft.filters.clone_from(&filters);
        if let Asked::Pcp { request, options, .. } = &job.asked {
            draft.prefer_failure = options.prefer_failure;
            draft.third_party = options.third_party.is_some();
            draft.dialect = Dialect::Pcp;
            draft.nonce = match &request.body {
                Body::Announce => None,
                Body::Map(map) => Some(map.nonce),
                Body::Peer(peer) => Some(peer.map.nonce),
            };
        }
        let memo = memo::write(&key, &draft);
        self.order(
            Step::Change { job, key, rule, lifetime, draft: Box::new(draft) },
            Order::Change { rule, lifetime, filters, memo },
        );
    }

    /// Makes a mapping that is not there.
    pub(super) fn create(&mut self, now: Time, job: Job, key: Key, size: u16) {
        let Asked::Pcp { request, options, .. } = &job.asked else { return };
        let Body::Map(map) = request.body else { return };
        let Some(filters) = filters(&[], &options.filters, self.settings.filters) else {
            return self.fail(now, &job, ResultCode::ExcessiveRemotePeers);
        };
        let prefer_failure = options.prefer_failure;
        if prefer_failure && !self.rates.admit(now, job.asker.to.ip(), PREFER_FAILURE_COST) {
            return self.counts.drop(Drop::Rate);
        }
        let mut wanted = Wanted {
            size: size.min(self.settings.port_set.max(1)),
            parity: options.port_set.is_some_and(|set| set.parity),
            filters,
            ..Wanted::new(job.asker, &key, self.settings.granted(request.lifetime))
        };
        let mut insists = prefer_failure;
        if self.suggest(&mut wanted, map.suggested, &mut insists).is_err() {
            return self.fail(now, &job, ResultCode::CannotProvideExternal);
        }
        self.open(now, job, key, wanted, insists);
    }

    /// Makes of a suggestion what can be asked for.
    ///
    /// # Errors
    /// If nothing else will do and it is not to be had.
    pub(super) fn suggest(
        &self,
        wanted: &mut Wanted,
        suggested: SocketAddr,
        insists: &mut bool,
    ) -> Result<(), ()> {
        let said = !suggested.ip().is_unspecified();
        match self.settings.side(wanted.host) {
            Side::Untranslated => {
                // RFC 6887 section 11.3: nothing is rewritten.
                (wanted.address, wanted.external_port) = (Some(wanted.host), Some(wanted.port));
                let other = (said && suggested.ip() != wanted.host)
                    || (suggested.port() != 0 && suggested.port() != wanted.port);
                if *insists && other { Err(()) } else { Ok(()) }
            }
            Side::Translated(_) => {
                let possible = is_host(suggested.ip()) && suggested.is_ipv4();
                let own = Self::is_own_port(wanted.protocol, suggested.port());
                if *insists && ((said && !possible) || own) {
                    return Err(());
                }
                wanted.address = Some(suggested.ip()).filter(|_| possible);
                wanted.external_port = Some(suggested.port()).filter(|port| *port != 0 && !own);
                if wanted.protocol == 132 {
                    // RFC 6887 section 16.3.3: SCTP's ports are not rewritten.
                    wanted.external_port = Some(wanted.port);
                    *insists = true;
                }
                Ok(())
            }
        }
    }

    /// Asks the policy engine for a mapping, if the subscriber may have one more.
    pub(super) fn open(&mut self, now: Time, job: Job, key: Key, mut wanted: Wanted, insists: bool) {
        if self.table.held_by(key.host) >= self.settings.quota {
            return self.fail(now, &job, ResultCode::UserExQuota);
        }
        if self.table.len() >= self.settings.mappings {
            return self.fail(now, &job, ResultCode::NoResources);
        }
        let mut draft = Mapping::new(job.asker, wanted.size);
        draft.filters.clone_from(&wanted.filters);
        draft.busy = true;
        match &job.asked {
            Asked::Pcp { request, options, .. } => {
                draft.prefer_failure = options.prefer_failure;
                draft.third_party = options.third_party.is_some();
                draft.nonce = match &request.body {
                    Body::Announce => None,
                    Body::Map(map) => Some(map.nonce),
                    Body::Peer(peer) => Some(peer.map.nonce),
                };
            }
            Asked::NatPmp { .. } | Asked::NatPmpAddress => draft.dialect = Dialect::NatPmp,
        }
        wanted.strict = insists;
        wanted.memo = memo::write(&key, &draft);
        self.table.insert(key, draft);
        let order = Order::Open(wanted.clone());
        self.order(Step::Open { job, key, wanted: Box::new(wanted), insists, tries: 0 }, order);
    }

    fn unmap(&mut self, now: Time, job: Job, map: &Map) {
        let Asked::Pcp { options, .. } = &job.asked else { return };
        // Erratum 3621: the family of the suggested address says which of the two mappings is meant.
        let v6 = map.suggested.is_ipv6();
        let (protocol, port) = (map.protocol, map.internal_port);
        let key = Key { host: job.host, protocol, v6, kind: Kind::Inbound, port };
        let size = Self::size(options, &key);
        let there = self.table.overlapping(&key, port.saturating_add(size - 1));
        if !there.is_empty() {
            for key in there {
                if self.admits(now, &job, &key) {
                    let filters = self.table.get(&key).map(|mapping| mapping.filters.clone());
                    let filters = filters.unwrap_or_default();
                    self.look_before(Step::Shorten { job: job.clone(), key, lifetime: 0, filters });
                }
            }
            return;
        }
        if self.table.has_outbound(job.host, protocol, port) {
            // RFC 6887 section 15.1: MAP deletes what MAP made.
            return self.fail(now, &job, ResultCode::NotAuthorized);
        }
        if port == 0 {
            return self.reply(now, &job, ResultCode::Success, 0, map.suggested);
        }
        let (asker, host) = (job.asker, job.host);
        self.order(Step::Absent { job }, Order::Look { asker, host, protocol, port });
    }

    /// Takes a mapping away.
    pub(super) fn close(&mut self, job: Job, key: Key, rule: RuleId) {
        self.order(Step::Close { job, key, rule }, Order::Close { rule });
    }
}

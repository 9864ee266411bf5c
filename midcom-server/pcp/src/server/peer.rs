//! PEER (RFC 6887 section 12.3).

use super::job::{Asked, Job};
use super::map::{has_ports, is_host};
use super::order::{Kind, Order, Seen, Wanted};
use super::steps::Step;
use super::table::Key;
use super::{Server, Side, Time};
use crate::wire::{Body, Peer, ResultCode};

impl Server {
    pub(super) fn peer(&mut self, now: Time, job: Job, peer: &Peer) {
        if !self.settings.peer || !is_host(job.host) {
            return self.fail(now, &job, ResultCode::NotAuthorized);
        }
        let map = &peer.map;
        let zero = map.protocol == 0 || map.internal_port == 0 || peer.remote.port() == 0;
        // The box forwards to no such address either (RFC 6887 section 12.3); it does not translate families.
        let nowhere = !is_host(peer.remote.ip()) || peer.remote.is_ipv6() != job.host.is_ipv6();
        if zero || nowhere {
            return self.fail(now, &job, ResultCode::MalformedRequest);
        }
        let side = self.settings.side(job.host);
        if !has_ports(map.protocol) || !self.settings.maps(side, map.protocol) {
            return self.fail(now, &job, ResultCode::UnsuppProtocol);
        }
        let v6 = side == Side::Untranslated && job.host.is_ipv6();
        let kind = Kind::Outbound(peer.remote);
        let key = Key { host: job.host, protocol: map.protocol, v6, kind, port: map.internal_port };
        if self.table.get(&key).is_some() {
            if self.admits(now, &job, &key) {
                self.prolong(now, job, key);
            }
            return;
        }
        let (asker, Key { host, protocol, port, .. }) = (job.asker, key);
        self.order(Step::Peer { job, key }, Order::Look { asker, host, protocol, port });
    }

    /// RFC 6887 section 12.1: PEER cannot shorten.
    fn prolong(&mut self, now: Time, job: Job, key: Key) {
        let Some(mapping) = self.table.get(&key) else { return };
        let left = now.seconds_until(mapping.expires);
        let lifetime = self.settings.granted(job.lifetime()).max(left);
        self.change(job, key, lifetime, Vec::new());
    }

    /// What there was for the inside end is known now.
    pub(super) fn peer_seen(&mut self, now: Time, job: Job, key: Key, seen: Seen) {
        if self.table.get(&key).is_some() {
            // Another copy of the request was faster.
            return self.counts.drop(super::Drop::Busy);
        }
        let Asked::Pcp { request, .. } = &job.asked else { return };
        let Body::Peer(peer) = request.body else { return };
        let mut wanted = Wanted::new(job.asker, &key, self.settings.granted(request.lifetime));
        let own = self.own_external(&key);
        if let Some(there) = seen.outbound.or(own) {
            // It is there: the suggestion says nothing (RFC 6887 section 12.3).
            wanted.lifetime = wanted.lifetime.max(seen.remaining);
            (wanted.address, wanted.external_port) = (Some(there.ip()), Some(there.port()));
            return self.open(now, job, key, wanted, false);
        }
        let mut insists = !peer.map.suggested.ip().is_unspecified() || peer.map.suggested.port() != 0;
        if self.suggest(&mut wanted, peer.map.suggested, &mut insists).is_err() {
            return self.fail(now, &job, ResultCode::CannotProvideExternal);
        }
        self.open(now, job, key, wanted, insists);
    }

    /// The external end that another mapping of this server gave to the inside end: mappings are
    /// endpoint-independent.
    fn own_external(&self, key: &Key) -> Option<std::net::SocketAddr> {
        let here = Key { kind: Kind::Inbound, ..*key };
        let inbound = self.table.overlapping(&here, key.port).into_iter().next();
        if let Some((found, mapping)) = inbound.and_then(|key| Some((key, self.table.get(&key)?))) {
            let mut external = mapping.external()?;
            external.set_port(external.port().saturating_add(key.port.saturating_sub(found.port)));
            return Some(external);
        }
        let mut own = self.table.of_host(key.host, key.protocol).into_iter();
        own.find_map(|other| self.table.get(&other).filter(|_| other.port == key.port)?.external())
    }
}

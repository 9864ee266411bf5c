//! Messages that nobody asked for: restarts (RFC 6887 section 14.1.3, RFC 6886 section 3.2.1) and mappings that
//! moved (RFC 6887 section 14.2).

use super::table::{Dialect, Key, Mapping};
use super::{Asker, Effect, Kind, Place, Server, Side, Speaks, Time};
use crate::wire::{self, Body, CLIENT_PORT, Header, Map, PcpOption, Peer, PortSet, ResultCode, natpmp};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// Milliseconds between the first two; each later gap is twice the one before.
const FIRST_GAP: u64 = 250;
/// Times a restart is announced.
const RESTARTS: u8 = 10;
/// Times a mapping's new end is.
const UPDATES: u8 = 3;
/// Messages sent at one go.
const BURST: usize = 512;

/// All hosts of the link.
const ALL_HOSTS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
/// All nodes of the link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// A mapping as its client is to see it.
#[derive(Clone, Debug)]
pub(super) struct Update {
    asker: Asker,
    dialect: Dialect,
    body: Body,
    options: Vec<PcpOption>,
    external: SocketAddr,
    expires: Time,
    result: ResultCode,
}

impl Update {
    pub(super) fn of(key: &Key, mapping: &Mapping, result: ResultCode) -> Self {
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let external = mapping.external().unwrap_or(nowhere);
        let map = Map {
            nonce: mapping.nonce.unwrap_or_default(),
            protocol: key.protocol,
            internal_port: key.port,
            suggested: external,
        };
        let body = match key.kind {
            Kind::Inbound => Body::Map(map),
            Kind::Outbound(remote) => Body::Peer(Peer { map, remote }),
        };
        let mut options = Vec::new();
        if mapping.third_party {
            options.push(PcpOption::ThirdParty(key.host));
        }
        options.extend(mapping.filters.iter().copied().map(PcpOption::Filter));
        if mapping.size > 1 {
            let (size, first) = (mapping.size, key.port);
            options.push(PcpOption::PortSet(PortSet { size, first, parity: false }));
        }
        Self {
            asker: mapping.asker,
            dialect: mapping.dialect,
            body,
            options,
            external,
            expires: mapping.expires,
            result,
        }
    }
}

#[derive(Clone, Debug)]
enum What {
    Restart(Place, Speaks),
    Update(Key, Box<Update>),
}

/// A message that is sent several times.
#[derive(Clone, Debug)]
pub(super) struct Series {
    what: What,
    left: u8,
    next: Time,
    gap: u64,
}

impl Server {
    /// The addresses that requests are received at. New ones hear of this server.
    pub fn set_places(&mut self, now: Time, places: Vec<(Place, Speaks)>) {
        self.series.retain(|series| match &series.what {
            What::Restart(place, speaks) => places.contains(&(*place, *speaks)),
            What::Update(..) => true,
        });
        for &(place, speaks) in places.iter().filter(|place| !self.places.contains(place)) {
            self.series.push(restart(now, place, speaks));
        }
        self.places = places;
    }

    /// Mappings were lost, or external addresses changed: the epoch begins anew, and everybody hears of it (RFC
    /// 6887 section 8.5).
    pub fn reset_epoch(&mut self, now: Time) {
        self.epoch = now;
        self.effects.push_back(Effect::Epoch(now));
        self.series.retain(|series| matches!(series.what, What::Update(..)));
        self.series.extend(self.places.iter().map(|&(place, speaks)| restart(now, place, speaks)));
    }

    pub(super) fn announce_update(&mut self, now: Time, key: Key, update: Update) {
        if update.dialect == Dialect::NatPmp {
            // NAT-PMP has no such message: its clients hear of the new epoch.
            return;
        }
        self.cease_updates(&key);
        let what = What::Update(key, Box::new(update));
        self.series.push(Series { what, left: UPDATES, next: now, gap: FIRST_GAP });
    }

    /// The client is up to date (RFC 6887 section 14.2).
    pub(super) fn cease_updates(&mut self, key: &Key) {
        self.series.retain(|series| !matches!(&series.what, What::Update(other, _) if other == key));
    }

    /// When [`Server::poll`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let series = self.series.iter().map(|series| series.next);
        let again = self.again.iter().map(|again| again.due);
        series.chain(again).chain(self.table.next_end()).min()
    }

    /// Sends what is due and forgets what is over.
    pub fn poll(&mut self, now: Time) {
        self.expire(now);
        self.reopen_due(now);
        let mut series = std::mem::take(&mut self.series);
        for due in series.iter_mut().filter(|series| series.next <= now).take(BURST) {
            match &due.what {
                What::Restart(place, speaks) => self.announce_restart(now, *place, *speaks),
                What::Update(_, update) => self.send_update(now, update),
            }
            due.left -= 1;
            due.next = now.after(due.gap);
            due.gap *= 2;
        }
        series.retain(|series| series.left > 0);
        self.series = series;
    }

    fn announce_restart(&mut self, now: Time, place: Place, speaks: Speaks) {
        let to = match place.address {
            IpAddr::V4(_) => SocketAddr::from((ALL_HOSTS, CLIENT_PORT)),
            IpAddr::V6(_) => SocketAddrV6::new(ALL_NODES, CLIENT_PORT, 0, place.interface).into(),
        };
        if speaks.pcp {
            let bytes = wire::announcement(self.epoch(now));
            self.counts.announcements += 1;
            self.effects.push_back(Effect::Send { from: place, to, bytes });
        }
        let sides = self.settings.sides.iter().map(|(_, side)| *side);
        let mut translated = sides.filter_map(|side| match side {
            Side::Translated(address) => Some(address),
            Side::Untranslated => None,
        });
        // RFC 6886 section 3.8: what does not translate does not announce either.
        if let (true, true, Some(first)) = (speaks.nat_pmp, place.address.is_ipv4(), translated.next()) {
            let only = first.filter(|_| translated.all(|other| other == first));
            let (result, address) = match only {
                Some(address) => (natpmp::ResultCode::Success, address),
                None => (natpmp::ResultCode::NetworkFailure, Ipv4Addr::UNSPECIFIED),
            };
            let bytes = natpmp::external_address(result, self.epoch(now), address);
            self.counts.announcements += 1;
            self.effects.push_back(Effect::Send { from: place, to, bytes });
        }
    }

    fn send_update(&mut self, now: Time, update: &Update) {
        let lifetime = match update.result {
            ResultCode::Success => now.seconds_until(update.expires),
            code => code.lifetime(),
        };
        let header = Header { result: update.result, lifetime, epoch: self.epoch(now) };
        let bytes = wire::success(&update.body, update.external, &update.options, header);
        self.counts.updates += 1;
        self.effects.push_back(Effect::Send { from: update.asker.place, to: update.asker.to, bytes });
    }
}

const fn restart(now: Time, place: Place, speaks: Speaks) -> Series {
    Series { what: What::Restart(place, speaks), left: RESTARTS, next: now, gap: FIRST_GAP }
}

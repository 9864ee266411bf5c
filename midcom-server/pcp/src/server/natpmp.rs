//! NAT-PMP (RFC 6886 section 3).

use super::job::{Asked, Asker, Job};
use super::map::is_host;
use super::order::{Kind, Order, Wanted};
use super::steps::Step;
use super::table::{Dialect, Key};
use super::{Drop, Server, Side, Time};
use crate::wire::ResultCode;
use crate::wire::natpmp::{self, Request, Transport};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// All mappings of a host and protocol on their way out (RFC 6886 section 3.4).
#[derive(Debug)]
pub(super) struct Sweep {
    pub(super) job: Job,
    /// Orders that were not answered yet.
    pub(super) left: usize,
    /// The first thing that could not be taken away.
    pub(super) refused: Option<natpmp::ResultCode>,
}

/// As NAT-PMP says it.
const fn result(code: ResultCode) -> natpmp::ResultCode {
    match code {
        ResultCode::Success => natpmp::ResultCode::Success,
        ResultCode::UnsuppVersion => natpmp::ResultCode::UnsupportedVersion,
        ResultCode::UnsuppOpcode => natpmp::ResultCode::UnsupportedOpcode,
        ResultCode::NetworkFailure => natpmp::ResultCode::NetworkFailure,
        ResultCode::NoResources | ResultCode::UserExQuota => natpmp::ResultCode::OutOfResources,
        ResultCode::NotAuthorized
        | ResultCode::MalformedRequest
        | ResultCode::UnsuppOption
        | ResultCode::MalformedOption
        | ResultCode::UnsuppProtocol
        | ResultCode::CannotProvideExternal
        | ResultCode::AddressMismatch
        | ResultCode::ExcessiveRemotePeers => natpmp::ResultCode::Refused,
    }
}

impl Server {
    pub(super) fn nat_pmp(&mut self, now: Time, asker: Asker, message: &[u8]) {
        let host = asker.to.ip();
        // RFC 6886 section 3.8: to a host that is not translated there is no NAT gateway here.
        let Side::Translated(address) = self.settings.side(host) else {
            return self.counts.drop(Drop::Disabled);
        };
        let Some(request) = Request::read(message) else {
            return self.counts.drop(Drop::TooShort);
        };
        match request {
            Request::Unknown => {
                self.counts.nat_pmp(3, natpmp::ResultCode::UnsupportedOpcode);
                self.send(&asker, natpmp::unsupported_opcode(message));
            }
            Request::ExternalAddress => {
                let job = Job { asker, host, asked: Asked::NatPmpAddress };
                let known = address.map(IpAddr::V4).or_else(|| self.table.external_of(host));
                match known {
                    Some(address) => self.nat_pmp_address(now, &job, Some(address)),
                    None => {
                        let look = Order::Look { asker, host, protocol: 17, port: 0 };
                        self.order(Step::Address { job }, look);
                    }
                }
            }
            Request::Map { transport, internal_port, external_port, lifetime } => {
                let asked = Asked::NatPmp { transport, internal_port, lifetime };
                let job = Job { asker, host, asked };
                if !self.settings.map || !is_host(host) {
                    return self.fail(now, &job, ResultCode::NotAuthorized);
                }
                match (internal_port, lifetime) {
                    (0, 0) => self.sweep(now, job, transport),
                    (0, _) => self.fail(now, &job, ResultCode::MalformedRequest),
                    _ => self.nat_pmp_map(now, job, transport, (internal_port, external_port), lifetime),
                }
            }
        }
    }

    fn nat_pmp_map(
        &mut self,
        now: Time,
        job: Job,
        transport: Transport,
        (port, suggested): (u16, u16),
        lifetime: u32,
    ) {
        let (host, protocol) = (job.host, transport.protocol());
        let key = Key { host, protocol, v6: false, kind: Kind::Inbound, port };
        let Some(key) = self.table.overlapping(&key, port).into_iter().next() else {
            if lifetime == 0 {
                let look = Order::Look { asker: job.asker, host, protocol, port };
                return self.order(Step::Absent { job }, look);
            }
            let lifetime = lifetime.min(self.settings.lifetime.1);
            let mut wanted = Wanted { nat_pmp: true, ..Wanted::new(job.asker, &key, lifetime) };
            let suggested = SocketAddr::from((Ipv4Addr::UNSPECIFIED, suggested));
            // Nothing is insisted on, so nothing is refused.
            let _ = self.suggest(&mut wanted, suggested, &mut false);
            return self.open(now, job, key, wanted, false);
        };
        if !self.admits(now, &job, &key) {
            return;
        }
        let Some(mapping) = self.table.get(&key) else { return };
        let Some((rule, mut external)) = mapping.granted else { return };
        external.set_port(external.port().saturating_add(port.saturating_sub(key.port)));
        match (mapping.dialect, lifetime) {
            (Dialect::NatPmp, 0) => {
                if let Some(mapping) = self.table.get_mut(&key) {
                    mapping.busy = true;
                }
                self.close(job, key, rule);
            }
            (Dialect::NatPmp, _) => {
                let lifetime = lifetime.min(self.settings.lifetime.1);
                self.change(job, key, lifetime, Vec::new());
            }
            // PCP's mappings have a nonce for a reason: they are shown, not changed.
            (Dialect::Pcp, 0) => self.fail(now, &job, ResultCode::NotAuthorized),
            (Dialect::Pcp, _) => {
                let left = now.seconds_until(mapping.expires).min(lifetime);
                let ports = (port, external.port());
                self.nat_pmp_mapping(now, &job, transport, natpmp::ResultCode::Success, ports, left);
            }
        }
    }

    /// RFC 6886 section 3.4: everything of a protocol, as far as it may be taken away.
    fn sweep(&mut self, now: Time, job: Job, transport: Transport) {
        let mut sweep = Sweep { job, left: 0, refused: None };
        let number = self.next;
        for key in self.table.of_host(sweep.job.host, transport.protocol()) {
            let Some(mapping) = self.table.get_mut(&key) else { continue };
            match (mapping.dialect, mapping.granted) {
                (Dialect::NatPmp, Some((rule, _))) if !mapping.busy => {
                    mapping.busy = true;
                    sweep.left += 1;
                    self.order(Step::Sweep { number, key, rule }, Order::Close { rule });
                }
                // On its way in or out: the client asks again.
                (Dialect::NatPmp, _) => return self.end_early(sweep, number),
                (Dialect::Pcp, _) if key.kind == Kind::Inbound => {
                    sweep.refused = Some(natpmp::ResultCode::Refused);
                }
                (Dialect::Pcp, _) => {}
            }
        }
        self.sweeps.insert(number, sweep);
        self.swept(now, number, None);
    }

    fn end_early(&mut self, mut sweep: Sweep, number: u64) {
        self.counts.drop(Drop::Busy);
        // What was begun goes on; nobody is answered.
        if sweep.left > 0 {
            sweep.left = usize::MAX;
            self.sweeps.insert(number, sweep);
        }
    }

    /// An order of a sweep was answered, with an error perhaps; or none was needed.
    pub(super) fn swept(&mut self, now: Time, number: u64, answered: Option<Option<ResultCode>>) {
        let Some(sweep) = self.sweeps.get_mut(&number) else { return };
        if let Some(code) = answered {
            sweep.left -= 1;
            sweep.refused = sweep.refused.or(code.map(result));
        }
        if sweep.left > 0 {
            return;
        }
        let Some(Sweep { job, refused, .. }) = self.sweeps.remove(&number) else { return };
        let Asked::NatPmp { transport, .. } = job.asked else { return };
        let result = refused.unwrap_or(natpmp::ResultCode::Success);
        self.nat_pmp_mapping(now, &job, transport, result, (0, 0), 0);
    }

    /// The external address, or that there is none.
    pub(super) fn nat_pmp_address(&mut self, now: Time, job: &Job, address: Option<IpAddr>) {
        let (result, address) = match address {
            Some(IpAddr::V4(v4)) => (natpmp::ResultCode::Success, v4),
            // RFC 6887 section 11.6: with a pool nobody has an address until he has a mapping.
            Some(IpAddr::V6(_)) | None => (natpmp::ResultCode::NetworkFailure, Ipv4Addr::UNSPECIFIED),
        };
        self.counts.nat_pmp(0, result);
        let bytes = natpmp::external_address(result, self.epoch(now), address);
        self.send(&job.asker, bytes);
    }

    pub(super) fn nat_pmp_version(&mut self, now: Time, asker: Asker) {
        self.counts.nat_pmp(3, natpmp::ResultCode::UnsupportedVersion);
        let bytes = natpmp::unsupported_version(self.epoch(now));
        self.send(&asker, bytes);
    }

    /// A refusal in NAT-PMP's words.
    pub(super) fn nat_pmp_refusal(&mut self, now: Time, job: &Job, code: ResultCode) {
        match job.asked {
            Asked::NatPmp { transport, internal_port, .. } => {
                self.nat_pmp_mapping(now, job, transport, result(code), (internal_port, 0), 0);
            }
            Asked::NatPmpAddress => self.nat_pmp_address(now, job, None),
            Asked::Pcp { .. } => {}
        }
    }
}

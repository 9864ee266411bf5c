//! A request while it is worked on, and its responses.

use super::{Effect, Place, Server, Time, belongs};
use crate::wire::{self, Body, Filter, Header, Opcode, PcpOption, PortSet, Request, ResultCode, natpmp};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// Who asked, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asker {
    /// Where the request arrived, and its response leaves.
    pub place: Place,
    /// Where it came from.
    pub to: SocketAddr,
}

/// The options of a request as they were processed.
#[derive(Clone, Debug, Default)]
pub(super) struct Options {
    pub(super) third_party: Option<IpAddr>,
    pub(super) prefer_failure: bool,
    pub(super) filters: Vec<Filter>,
    pub(super) port_set: Option<PortSet>,
    /// Those that a success response repeats, PORT_SET apart.
    repeated: Vec<PcpOption>,
}

impl Options {
    /// Takes the next option.
    ///
    /// # Errors
    /// With what the request is refused.
    pub(super) fn take(
        &mut self,
        option: &PcpOption,
        request: &Request,
        authorized: impl Fn(IpAddr) -> Result<(), ResultCode>,
    ) -> Result<(), ResultCode> {
        if !belongs(option.code(), request.opcode) {
            return match option {
                // RFC 6887 section 12.1.
                PcpOption::PreferFailure if request.opcode == Opcode::PEER => {
                    Err(ResultCode::MalformedRequest)
                }
                _ if option.code().is_mandatory() => Err(ResultCode::UnsuppOption),
                _ => Ok(()),
            };
        }
        let Body::Map(map) = request.body else {
            return self.take_third_party(option, authorized);
        };
        let deletes = request.lifetime == 0;
        let contradicts = match option {
            PcpOption::ThirdParty(_) => return self.take_third_party(option, authorized),
            // RFC 6887 section 13.2: what port, then? And RFC 7753 section 4.2.
            PcpOption::PreferFailure => deletes || map.suggested.port() == 0 || self.port_set.is_some(),
            // RFC 6887 section 13.3.
            PcpOption::Filter(filter) => deletes || (!filter.clears() && filter.prefix_length().is_none()),
            // RFC 7753 sections 4 and 4.2.
            PcpOption::PortSet(set) => {
                set.first != map.internal_port || (!deletes && (set.size == 0 || self.prefer_failure))
            }
        };
        if contradicts {
            return Err(ResultCode::MalformedOption);
        }
        match *option {
            PcpOption::PreferFailure => self.prefer_failure = true,
            PcpOption::Filter(filter) => self.filters.push(filter),
            PcpOption::PortSet(set) => {
                self.port_set = Some(set);
                return Ok(());
            }
            PcpOption::ThirdParty(_) => {}
        }
        self.repeated.push(*option);
        Ok(())
    }

    fn take_third_party(
        &mut self,
        option: &PcpOption,
        authorized: impl Fn(IpAddr) -> Result<(), ResultCode>,
    ) -> Result<(), ResultCode> {
        if let PcpOption::ThirdParty(host) = *option {
            authorized(host)?;
            self.third_party = Some(host);
            self.repeated.push(*option);
        }
        Ok(())
    }
}

/// What was asked for.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    /// A request of PCP.
    Pcp {
        /// As it came.
        message: Arc<[u8]>,
        request: Request,
        options: Options,
    },
    /// A mapping of NAT-PMP.
    NatPmp { transport: natpmp::Transport, internal_port: u16, lifetime: u32 },
    /// The external address, of NAT-PMP.
    NatPmpAddress,
}

/// A request that is worked on.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) asker: Asker,
    /// Whose mapping it is about.
    pub(super) host: IpAddr,
    pub(super) asked: Asked,
}

impl Job {
    /// Seconds asked for.
    pub(super) fn lifetime(&self) -> u32 {
        match &self.asked {
            Asked::Pcp { request, .. } => request.lifetime,
            Asked::NatPmp { lifetime, .. } => *lifetime,
            Asked::NatPmpAddress => 0,
        }
    }

    /// Whether the suggested external end is the only one that will do, and is not `external`.
    pub(super) fn insists_on_another(&self, external: SocketAddr) -> bool {
        let Asked::Pcp { request, options, .. } = &self.asked else { return false };
        let Body::Map(map) = &request.body else { return false };
        options.prefer_failure
            && (map.suggested.port() != external.port()
                || (!map.suggested.ip().is_unspecified() && map.suggested.ip() != external.ip()))
    }
}

/// What a success response says of a mapping.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    /// First inside port, and how many.
    pub(super) first: u16,
    pub(super) size: u16,
    /// First external end.
    pub(super) external: SocketAddr,
}

impl Server {
    /// Says what became of the mapping.
    pub(super) fn grant(&mut self, now: Time, job: &Job, lifetime: u32, shown: Shown) {
        match &job.asked {
            Asked::Pcp { request, options, .. } => {
                let Body::Map(map) = request.body else {
                    return self.reply(now, job, ResultCode::Success, lifetime, shown.external);
                };
                // A request that several sets answer gets a response for each (RFC 7753 section 5.3); one that
                // begins within a set keeps its inside port (section 6.3).
                let internal = map.internal_port.max(shown.first);
                let mut repeated = options.repeated.clone();
                let mut external = shown.external;
                if let (Some(set), 2..) = (options.port_set, shown.size) {
                    let (size, first) = (shown.size, shown.first);
                    repeated.push(PcpOption::PortSet(PortSet { size, first, parity: set.parity }));
                } else {
                    // RFC 7753 section 4.2: a single port has no PORT_SET, so the end shown is that port's.
                    let offset = internal.saturating_sub(shown.first);
                    external.set_port(external.port().saturating_add(offset));
                }
                let body = Body::Map(wire::Map { internal_port: internal, ..map });
                self.success(now, job, &body, external, &repeated, lifetime);
            }
            Asked::NatPmp { transport, internal_port, lifetime: asked, .. } => {
                // RFC 6886 section 3.3: not more than was asked for.
                let lifetime = lifetime.min(*asked);
                let ports = (*internal_port, if lifetime == 0 { 0 } else { shown.external.port() });
                self.nat_pmp_mapping(now, job, *transport, natpmp::ResultCode::Success, ports, lifetime);
            }
            Asked::NatPmpAddress => {}
        }
    }

    /// A response to PCP that says `assigned`, or whatever error.
    pub(super) fn reply(
        &mut self,
        now: Time,
        job: &Job,
        code: ResultCode,
        lifetime: u32,
        assigned: SocketAddr,
    ) {
        let Asked::Pcp { message, request, options } = &job.asked else {
            return self.nat_pmp_refusal(now, job, code);
        };
        if code == ResultCode::Success {
            let (body, repeated) = (request.body, options.repeated.clone());
            return self.success(now, job, &body, assigned, &repeated, lifetime);
        }
        self.counts.answer(request.opcode, code);
        let bytes = wire::error(message, Header { result: code, lifetime, epoch: self.epoch(now) });
        self.send(&job.asker, bytes);
    }

    fn success(
        &mut self,
        now: Time,
        job: &Job,
        body: &Body,
        assigned: SocketAddr,
        options: &[PcpOption],
        lifetime: u32,
    ) {
        let Asked::Pcp { request, .. } = &job.asked else { return };
        let header = Header { result: ResultCode::Success, lifetime, epoch: self.epoch(now) };
        let bytes = wire::success(body, assigned, options, header);
        self.counts.answer(request.opcode, ResultCode::Success);
        self.send(&job.asker, bytes);
    }

    /// Refuses with the lifetime that the error has by itself.
    pub(super) fn fail(&mut self, now: Time, job: &Job, code: ResultCode) {
        self.fail_for(now, job, code, code.lifetime());
    }

    /// Refuses, for `lifetime` seconds.
    pub(super) fn fail_for(&mut self, now: Time, job: &Job, code: ResultCode, lifetime: u32) {
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        self.reply(now, job, code, lifetime, nowhere);
    }

    pub(super) fn nat_pmp_mapping(
        &mut self,
        now: Time,
        job: &Job,
        transport: natpmp::Transport,
        result: natpmp::ResultCode,
        ports: (u16, u16),
        lifetime: u32,
    ) {
        let operation = match transport {
            natpmp::Transport::Udp => 1,
            natpmp::Transport::Tcp => 2,
        };
        self.counts.nat_pmp(operation, result);
        let bytes = natpmp::mapping(transport, result, self.epoch(now), ports, lifetime);
        self.effects.push_back(Effect::Send { from: job.asker.place, to: job.asker.to, bytes });
    }
}

//! Requests of the CLI, and the policy engine's effects on the journal, the workers and those who wait.

use crate::answers::{self, Sources};
use crate::api::{Ask, Peer};
use crate::attach::Order;
use crate::clock::wall_ms;
use crate::daemon::{Daemon, answer};
use crate::journal::Written;
use crate::reading::Reading;
use crate::walk::{Page, Walking, Wanted};
use hashbrown::HashMap;
use std::net::IpAddr;
use tokio::sync::oneshot;
use turnpike_abi::event::AckResult;
use turnpike_api::serve::{encode_error, encode_response};
use turnpike_api::{
    Envelope, ErrorBody, ErrorCode, Payload, PinholeAdd, PinholeData, PinholeProtocol, Request as Asked,
};
use turnpike_policy::former::{
    Effect, Endpoint, External, Owner, PinholeId, Protocol, Refusal, Remote, Request, State,
};

type Reply = oneshot::Sender<Vec<u8>>;

/// Those who wait for a pinhole.
#[derive(Debug, Default)]
pub struct Replies {
    adding: HashMap<PinholeId, Reply>,
    removing: HashMap<PinholeId, (Reply, PinholeData)>,
}

impl Daemon {
    /// Answers a request of the CLI, or sees to it that it is answered.
    pub(crate) fn ask(&mut self, ask: Ask) {
        let Ask { request, peer, reply } = ask;
        let line = match request {
            Asked::Flows(request) => {
                return self.walk(|workers, now| Walking::flows(request, workers, now), reply);
            }
            Asked::Bindings(request) => {
                return self.walk(|workers, now| Walking::bindings(request, workers, now), reply);
            }
            Asked::ConfigReload => return self.reload(Some(reply)),
            Asked::PinholeAdd(add) => return self.add_pinhole(add, peer, reply),
            Asked::PinholeRemove(remove) => return self.remove_pinhole(PinholeId(remove.id), reply),
            Asked::PinholeList => {
                let mut list: Vec<_> = self
                    .policy
                    .pinholes()
                    .map(|(pinhole, state, _)| answers::pinhole(pinhole, state))
                    .collect();
                list.sort_by_key(|pinhole| pinhole.id);
                self.ok(list)
            }
            Asked::Status => self.with_sources(|host, sources| line(host, sources.status())),
            Asked::Ports => self.with_sources(|host, sources| line(host, sources.ports())),
            Asked::Workers => self.with_sources(|host, sources| line(host, sources.workers())),
            Asked::Pools => self.with_sources(|host, sources| line(host, sources.pools())),
            Asked::Neighbours => self.with_sources(|host, sources| line(host, sources.neighbours())),
            Asked::Routes => self.with_sources(|host, sources| line(host, sources.routes())),
            Asked::Drops => self.with_sources(|host, sources| line(host, sources.drops())),
            Asked::Config => self.with_sources(|host, sources| line(host, sources.config())),
            Asked::NatForward(asked) => match self.ranges.forward(asked) {
                Ok(data) => self.ok(data),
                Err(error) => return self.refuse(reply, &error),
            },
            Asked::NatReverse(asked) => match self.ranges.reverse(asked) {
                Ok(data) => self.ok(data),
                Err(error) => return self.refuse(reply, &error),
            },
            Asked::Version => self.with_sources(|host, sources| line(host, sources.version())),
        };
        self.board.change(|facts| facts.api_requests[0] += 1);
        answer(reply, line);
    }

    fn with_sources(&self, make: impl FnOnce(&str, &Sources<'_>) -> Vec<u8>) -> Vec<u8> {
        let facts = self.board.copy();
        let before = self.sampler.newer();
        let reading = match &facts.view {
            Some(view) => Reading::take(view, Some(before)),
            None => Reading::default(),
        };
        let sources = Sources {
            reading: &reading,
            sampler: &self.sampler,
            running: &self.running,
            facts: &facts,
            mirror: &self.mirror,
            attached_ms: self.attached_ms,
            now_ms: wall_ms(),
        };
        make(&self.host, &sources)
    }

    fn ok<T: Payload>(&self, data: T) -> Vec<u8> {
        line(&self.host, data)
    }

    /// A page of a walk as an answer.
    pub(crate) fn page(&self, page: Page) -> Vec<u8> {
        let host = self.host.clone();
        self.board.change(|facts| facts.api_requests[0] += 1);
        match page.wanted {
            Wanted::Flows(_, rows) => encode_response(&Ok(Envelope::new(host, rows).with_next(page.next))),
            Wanted::Bindings(_, rows) => encode_response(&Ok(Envelope::new(host, rows).with_next(page.next))),
        }
    }

    fn refuse(&self, reply: Reply, error: &ErrorBody) {
        self.board.change(|facts| facts.api_requests[1] += 1);
        answer(reply, encode_error(error));
    }

    fn add_pinhole(&mut self, add: PinholeAdd, peer: Peer, reply: Reply) {
        match self.request(add, peer).and_then(|request| {
            self.policy.add(request, self.clock.now()).map_err(|refusal| error_of(&refusal))
        }) {
            Ok(id) => {
                self.replies.adding.insert(id, reply);
            }
            Err(error) => {
                self.board.change(|facts| facts.pinhole_requests[1] += 1);
                tracing::info!(uid = peer.uid, "pinhole refused: {error}");
                self.refuse(reply, &error);
            }
        }
    }

    fn request(&self, add: PinholeAdd, peer: Peer) -> Result<Request, ErrorBody> {
        let inside = Endpoint { address: add.inside.address, port: add.inside.port };
        let wanted = add.external.unwrap_or_default();
        let address = match wanted.address {
            None => None,
            Some(IpAddr::V4(address)) => Some(address),
            Some(IpAddr::V6(address)) => {
                let message = format!("external {address}: IPv6 is not translated");
                return Err(ErrorBody::new(ErrorCode::BadRequest, message).with_hint("leave it out"));
            }
        };
        // The pool that is named, else the one the address is of, else the one the NAT rules choose.
        let pool = add
            .pool
            .or_else(|| {
                let realm = self.running.realm();
                let pool = realm.pools.iter().find(|pool| address.is_some_and(|ip| pool.contains(ip)))?;
                Some(pool.name.clone())
            })
            .or_else(|| self.running.pool_for(inside.address).map(str::to_owned));
        let external = match pool {
            Some(pool) => Some(External { pool, address, port: wanted.port }),
            None if address.is_none() && wanted.port.is_none() => None,
            None => {
                let message = format!("no NAT rule translates {inside}, so it has no external end");
                return Err(ErrorBody::new(ErrorCode::BadRequest, message)
                    .with_hint("leave the external end out, or name a pool"));
            }
        };
        let anyone = Remote::anyone(inside.address);
        let ports = add.remote_ports.map_or(anyone.ports, |ports| (ports.first, ports.last));
        let remote = add.remote.map_or(Remote { ports, ..anyone }, |prefix| Remote {
            address: prefix.address(),
            length: prefix.length(),
            ports,
        });
        Ok(Request {
            owner: Owner(format!("cli:{}", peer.uid)),
            protocol: match add.protocol {
                PinholeProtocol::Tcp => Protocol::Tcp,
                PinholeProtocol::Udp => Protocol::Udp,
            },
            inside,
            external,
            remote,
            lifetime: add.lifetime_seconds.map(|seconds| u64::from(seconds) * 1000),
            note: add.note,
        })
    }

    fn remove_pinhole(&mut self, id: PinholeId, reply: Reply) {
        let data = self.policy.pinhole(id).map(|(pinhole, _, _)| answers::pinhole(pinhole, State::Closing));
        match (self.policy.remove(id, self.clock.now()), data) {
            (Ok(()), Some(data)) => {
                self.replies.removing.insert(id, (reply, data));
            }
            (Err(refusal), _) => self.refuse(reply, &error_of(&refusal)),
            (Ok(()), None) => self.refuse(reply, &error_of(&Refusal::NotFound(id))),
        }
    }

    /// Notes that came to the disk, or did not.
    pub(crate) fn written(&mut self, written: &Written) {
        let now = self.clock.now();
        for &ticket in &written.tickets {
            if written.durable {
                self.policy.durable(ticket, now);
            } else {
                self.board.change(|facts| facts.journal_failures += 1);
                self.policy.not_durable(ticket, now);
            }
        }
    }

    /// Carries out the policy engine's effects.
    pub(crate) fn carry_out(&mut self) {
        let effects: Vec<Effect> = self.policy.effects().collect();
        for effect in effects {
            match effect {
                Effect::Note { ticket, record } => self.journal.note(ticket, record),
                Effect::Forget(id) => self.journal.forget(id),
                Effect::Tell { token, worker, command } => {
                    if let Some(dataplane) = &mut self.dataplane
                        && !dataplane.order(worker, Order::Policy(token, command))
                    {
                        tracing::error!(
                            worker = worker.0,
                            "the policy engine named a worker there is none of"
                        );
                    }
                }
                Effect::Granted(id) => self.granted(id),
                Effect::Refused(id, why) => self.refused(id, &why),
                Effect::Ended(id, why) => {
                    tracing::info!(pinhole = id.0, %why, "pinhole ended");
                    self.removed(id);
                }
                Effect::Suspended(id, why) => {
                    tracing::warn!(pinhole = id.0, "pinhole could not be installed again: {why}; trying on");
                }
            }
        }
    }

    fn granted(&mut self, id: PinholeId) {
        let Some((pinhole, state, _)) = self.policy.pinhole(id) else { return };
        let end = pinhole.granted.map(|end| end.to_string()).unwrap_or_default();
        tracing::info!(
            pinhole = id.0,
            owner = %pinhole.request.owner,
            protocol = %pinhole.request.protocol,
            inside = %pinhole.request.inside,
            external = end,
            "pinhole granted"
        );
        let data = answers::pinhole(pinhole, state);
        self.board.change(|facts| facts.pinhole_requests[0] += 1);
        if let Some(reply) = self.replies.adding.remove(&id) {
            self.board.change(|facts| facts.api_requests[0] += 1);
            answer(reply, line(&self.host, data));
        }
    }

    fn refused(&mut self, id: PinholeId, why: &Refusal) {
        tracing::info!(pinhole = id.0, "pinhole refused: {why}");
        self.board.change(|facts| facts.pinhole_requests[1] += 1);
        if let Some(reply) = self.replies.adding.remove(&id) {
            self.refuse(reply, &error_of(why));
        }
        // Somebody removed it before it was granted: no end follows, and it is gone as they wanted.
        self.removed(id);
    }

    /// Answers who wanted it gone.
    fn removed(&mut self, id: PinholeId) {
        if let Some((reply, data)) = self.replies.removing.remove(&id) {
            self.board.change(|facts| facts.api_requests[0] += 1);
            answer(reply, line(&self.host, data));
        }
    }
}

fn line<T: Payload>(host: &str, data: T) -> Vec<u8> {
    encode_response(&Ok(Envelope::new(host, data)))
}

/// A refusal as the API says it.
fn error_of(refusal: &Refusal) -> ErrorBody {
    let code = match refusal {
        Refusal::Detached => ErrorCode::Unreachable,
        Refusal::Owner(_)
        | Refusal::PortZero
        | Refusal::NotAHost(_)
        | Refusal::Remote { .. }
        | Refusal::NotTranslated(_)
        | Refusal::NotInPool { .. }
        | Refusal::Lifetime { .. } => ErrorCode::BadRequest,
        Refusal::NoSuchPool { .. } | Refusal::NotFound(_) => ErrorCode::NotFound,
        Refusal::Duplicate(_)
        | Refusal::ExternalTaken { .. }
        | Refusal::InsideTaken { .. }
        | Refusal::Worker(AckResult::PORT_TAKEN | AckResult::CONFLICT | AckResult::MAPPED_ELSEWHERE) => {
            ErrorCode::Conflict
        }
        Refusal::OwnerQuota { .. }
        | Refusal::Full(_)
        | Refusal::Withdrawn(_)
        | Refusal::Worker(_)
        | Refusal::Journal => ErrorCode::Failed,
    };
    ErrorBody::new(code, refusal.to_string())
}

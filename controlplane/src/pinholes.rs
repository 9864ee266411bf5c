//! `turnpike pinhole` and `turnpike rule`: the operator's own front end of the policy engine.

use crate::answers::Sources;
use crate::api::{Ask, Peer};
use crate::clock::wall_ms;
use crate::daemon::{Daemon, answer, unreachable};
use crate::flows;
use crate::midcom::{LineReply, Waiter};
use crate::reading::Reading;
use crate::rules;
use crate::walk::{Page, Walking};
use std::net::IpAddr;
use turnpike_abi::event::AckResult;
use turnpike_api::serve::encode_response;
use turnpike_api::{
    Envelope, ErrorBody, ErrorCode, FlowsRequest, Payload, PinholeAdd, PinholeProtocol, PortRange,
    Request as Asked,
};
use turnpike_policy::{
    Action, Agent, Annotation, Behaviour, Direction, Enable, Find, Front, Lifetime, Outside, Protocol,
    Refusal, Request, Requester, Rule, RuleId, State, Tuple,
};

impl Daemon {
    /// Answers a request of the CLI, or sees to it that it is answered.
    pub(crate) fn ask(&mut self, ask: Ask) {
        let Ask { request, peer, reply } = ask;
        let line = match request {
            Asked::Flows(request) => return self.flows(request, reply),
            Asked::Bindings(request) => {
                return self.walk(|workers, now| Walking::new(request, workers, now), reply);
            }
            Asked::ConfigReload => return self.reload(Some(reply)),
            Asked::PinholeAdd(add) => return self.add_pinhole(add, peer, reply),
            Asked::PinholeRemove(remove) => return self.remove_pinhole(remove.id, peer, reply),
            Asked::RuleDelete(delete) => return self.delete_rule(delete.id, &operator(peer), reply),
            Asked::PinholeList => {
                let mut list: Vec<_> = self
                    .policy
                    .rules()
                    .filter(|(rule, _)| is_pinhole(rule))
                    .map(|(rule, state)| rules::pinhole(rule, state))
                    .collect();
                list.sort_by_key(|pinhole| pinhole.id);
                self.ok(list)
            }
            Asked::Rules(request) => {
                let now = self.clock.now();
                let (rows, next) = rules::rules(&self.policy, &request, now);
                encode_response(&Ok(Envelope::new(self.host.clone(), rows).with_next(next)))
            }
            Asked::Groups(request) => {
                let (rows, next) = rules::groups(&self.policy, &request, self.clock.now());
                encode_response(&Ok(Envelope::new(self.host.clone(), rows).with_next(next)))
            }
            Asked::Agents => self.ok(rules::agents(&self.policy, &self.midcom)),
            Asked::Sessions => self.ok(rules::sessions(&self.midcom)),
            Asked::Status => self.with_sources(|host, sources| line(host, sources.status())),
            Asked::Ports => self.with_sources(|host, sources| line(host, sources.ports())),
            Asked::Workers => self.with_sources(|host, sources| line(host, sources.workers())),
            Asked::Pools => self.with_sources(|host, sources| line(host, sources.pools())),
            Asked::Neighbours => self.with_sources(|host, sources| line(host, sources.neighbours())),
            Asked::Routes => self.with_sources(|host, sources| line(host, sources.routes())),
            Asked::Firewall => self.ok(crate::firewall::rules(&self.running.config, &self.rule_hits())),
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

    /// Answers with what was asked for.
    pub(crate) fn succeed<T: Payload>(&self, reply: LineReply, data: T) {
        self.board.change(|facts| facts.api_requests[0] += 1);
        answer(reply, line(&self.host, data));
    }

    /// A page of a walk as an answer.
    pub(crate) fn page(&self, page: Page) -> Vec<u8> {
        let host = self.host.clone();
        self.board.change(|facts| facts.api_requests[0] += 1);
        encode_response(&Ok(Envelope::new(host, page.rows).with_next(page.next)))
    }

    /// Answers with a page of flows, from a thread of its own: the rows are not asked of the workers but read.
    fn flows(&self, request: FlowsRequest, reply: LineReply) {
        let Some(dataplane) = &self.dataplane else { return self.refuse(reply, &unreachable()) };
        let settings = turnpike_config::settings(&self.running.config);
        match flows::Page::new(request, dataplane.states(), settings) {
            Ok(page) => {
                self.board.change(|facts| facts.api_requests[0] += 1);
                let host = self.host.clone();
                tokio::task::spawn_blocking(move || answer(reply, encode_response(&Ok(page.read(host)))));
            }
            Err(error) => self.refuse(reply, &error),
        }
    }

    fn add_pinhole(&mut self, add: PinholeAdd, peer: Peer, reply: LineReply) {
        let by = Requester::new(operator(peer));
        match self.request(add, &by) {
            Ok(request) => self.submit(&by, request, Waiter::PinholeAdd(reply)),
            Err(error) => {
                self.board.change(|facts| facts.pinhole_requests[1] += 1);
                tracing::info!(uid = peer.uid, "pinhole refused: {error}");
                self.refuse(reply, &error);
            }
        }
    }

    fn request(&self, add: PinholeAdd, by: &Requester) -> Result<Request, ErrorBody> {
        let inside = add.inside;
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
        let realm = &self.policy.access().realm;
        let of_address = || Some(realm.pool_of(address?)?.name.to_string());
        let of_rules = || self.running.pool_for(inside.address).map(str::to_owned);
        let pool = add.pool.or_else(of_address).or_else(of_rules);
        if pool.is_none() && (address.is_some() || wanted.port.is_some()) {
            let message = format!("no NAT rule translates {inside}, so it has no external end");
            return Err(ErrorBody::new(ErrorCode::BadRequest, message)
                .with_hint("leave the external end out, or name a pool"));
        }
        let protocol = Protocol(add.protocol.number());
        let remote_ports = add.remote_ports.filter(|ports| *ports != PortRange::ALL);
        let remote_ports = remote_ports.map(|ports| (ports.first, ports.last));
        let external = match add.remote {
            Some(prefix) => Tuple { address: prefix.address(), length: prefix.length(), port: 0 },
            None => Tuple::any(turnpike_policy::IpVersion::of(inside.address)),
        };
        let internal = Tuple::new(inside.address, inside.port);
        self.alone(protocol, internal, (external, remote_ports), pool.as_deref(), by)?;
        let lifetime = add.lifetime_seconds.map_or(Lifetime::FOREVER, Lifetime);
        let outside = pool.map(|pool| Outside {
            pool: Some(pool.as_str().into()),
            address: address.map(IpAddr::V4),
            port: wanted.port,
            strict: true,
        });
        Ok(Request::Enable(Box::new(Enable {
            external,
            outside,
            behaviour: Behaviour { remote_ports, ..Behaviour::default() },
            annotation: Annotation { description: add.note.map(Into::into), ..Annotation::default() },
            ..Enable::new(protocol, internal, Direction::Bidirectional, lifetime)
        })))
    }

    /// A pinhole of the operator is the only one of its inside end: a second one is a mistake.
    fn alone(
        &self,
        protocol: Protocol,
        internal: Tuple,
        remote: (Tuple, Option<(u16, u16)>),
        pool: Option<&str>,
        by: &Requester,
    ) -> Result<(), ErrorBody> {
        let find = Find {
            zone: None,
            protocol: Some(protocol),
            host: internal.address,
            ports: (internal.port, internal.port),
        };
        let Ok(found) = self.policy.find(by, &find, self.clock.now()) else { return Ok(()) };
        let turnpike_policy::Reply::Found(found) = found else { return Ok(()) };
        let Some(status) = found.first() else { return Ok(()) };
        let (id, rule) = (status.rule.id, &status.rule);
        let message =
            if (rule.external, rule.behaviour.remote_ports) == remote && rule.pool.as_deref() == pool {
                format!("pinhole {id} is the same")
            } else {
                let end = rule.outside.map_or_else(String::new, |end| format!(" at {end}"));
                let end_of = std::net::SocketAddr::new(internal.address, internal.port);
                format!("inside {protocol} {end_of} already has pinhole {id}{end}: remove that first")
            };
        Err(ErrorBody::new(ErrorCode::Conflict, message))
    }

    fn remove_pinhole(&mut self, id: u64, peer: Peer, reply: LineReply) {
        let rule = u32::try_from(id).ok().map(RuleId);
        let found = rule.and_then(|rule| self.policy.rule(rule)).filter(|(rule, _)| is_pinhole(rule));
        let Some((rule, _)) = found else {
            let error = ErrorBody::new(ErrorCode::NotFound, format!("no pinhole {id}"));
            return self.refuse(reply, &error);
        };
        let data = Box::new(rules::pinhole(rule, State::Closing));
        let request = Request::RuleLifetime { rule: rule.id, lifetime: Lifetime::NONE };
        let by = Requester::new(operator(peer));
        self.submit(&by, request, Waiter::PinholeRemove(reply, data));
    }
}

/// The agent that a user of the CLI is.
fn operator(peer: Peer) -> Agent {
    Agent::new(Front::Cli, &peer.uid.to_string())
}

/// Whether a rule is one that `turnpike pinhole` shows.
fn is_pinhole(rule: &Rule) -> bool {
    rule.owner.front == Front::Cli
        && matches!(rule.action, Action::Enable { .. })
        && rule.protocol.has_ports()
}

fn line<T: Payload>(host: &str, data: T) -> Vec<u8> {
    encode_response(&Ok(Envelope::new(host, data)))
}

/// The protocol as the API names it.
pub fn pinhole_protocol(protocol: Protocol) -> PinholeProtocol {
    if protocol == Protocol::TCP { PinholeProtocol::Tcp } else { PinholeProtocol::Udp }
}

/// A refusal as the API says it.
pub fn error_of(refusal: &Refusal) -> ErrorBody {
    let code = match refusal {
        Refusal::Detached => ErrorCode::Unreachable,
        Refusal::NoSuchPool { .. } | Refusal::NoSuchRule(_) | Refusal::NoSuchGroup(_) => ErrorCode::NotFound,
        Refusal::ExternalTaken { .. }
        | Refusal::MappedElsewhere { .. }
        | Refusal::NotProvided(_)
        | Refusal::Worker(AckResult::PORT_TAKEN | AckResult::CONFLICT | AckResult::MAPPED_ELSEWHERE) => {
            ErrorCode::Conflict
        }
        Refusal::Quota { .. }
        | Refusal::Full(_)
        | Refusal::Busy
        | Refusal::Withdrawn(_)
        | Refusal::Worker(_)
        | Refusal::NoPort(_)
        | Refusal::NoAddress(_)
        | Refusal::Journal => ErrorCode::Failed,
        _ => ErrorCode::BadRequest,
    };
    ErrorBody::new(code, refusal.to_string())
}

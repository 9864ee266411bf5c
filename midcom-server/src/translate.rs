//! SIMCO's requests in the policy engine's words, and its answers in SIMCO's (RFC 4540 section 8).

use std::sync::Arc;
use turnpike_policy::{self as policy, GroupId, Lifetime, Refusal, RuleId};
use turnpike_simco::{
    Behaviour, Capabilities, Direction, EnableParameters, EnableStatus, Enabled, Ends, Established,
    Extensions, Extras, Failure, IpVersion, IpVersions, Location, Lock, MAX_LISTED, MoreCapabilities,
    NatMode, Page, PortParity, Refused, Reply, Reserve, ReserveParameters, Reserved, RuleRequest, Tuple,
    Wildcards, checks, has_ports,
};

/// The extensions the server carries out: it has no rules of interfaces, and reads authorization tokens if it has
/// their key.
pub(crate) fn supported(tokens: bool) -> Extensions {
    let without = if tokens { Extensions::NONE } else { Extensions::TOKEN };
    Extensions::ALL.without(without.or(Extensions::INTERFACES))
}

/// The authorization token of a request.
pub(crate) fn token(request: &RuleRequest) -> Option<&[u8]> {
    let extras = match request {
        RuleRequest::Reserve(asked) => &asked.extras,
        RuleRequest::Enable(asked) => &asked.extras,
        RuleRequest::EnableReserved(asked) => &asked.extras,
        _ => return None,
    };
    extras.token.as_deref()
}

/// PIDs of a page: a PRL reply that also says where to go on.
const MAX_PAGE: usize = MAX_LISTED - 3;

/// What the answer is translated by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Reserve {
        protocol: u8,
        range: u16,
        version: IpVersion,
    },
    Enable {
        internal: Tuple,
        external: Tuple,
        range: u16,
    },
    Lifetime,
    Status,
    /// All or a page, of a group or of all.
    List(Option<Page>),
    GroupLifetime,
    GroupList,
    GroupStatus,
    /// The request is refused with this, unless the engine refuses it for a reason that RFC 4540 checks before.
    Refuse(Failure),
}

/// The configuration's part in it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reading {
    /// "twice" on a box without twice-NAT reserves A2 alone (B-AMB-18).
    pub(crate) lenient_nat_mode: bool,
}

/// The request for the engine.
///
/// # Errors
/// What is answered without asking it.
pub(crate) fn request(
    request: &RuleRequest,
    middlebox: &Capabilities,
    reading: Reading,
) -> Result<(policy::Request, Asked), Failure> {
    Ok(match request {
        RuleRequest::Reserve(asked) => reserve(asked, middlebox, reading),
        RuleRequest::Enable(asked) => {
            let group = asked.group.map(GroupId);
            let rule =
                Enabling { reserved: None, group, parameters: asked.parameters, lifetime: asked.lifetime };
            enable(&asked.internal, &asked.external, rule, &asked.extras, middlebox)
        }
        RuleRequest::EnableReserved(asked) => {
            let reserved = Some(RuleId(asked.rule));
            let rule =
                Enabling { reserved, group: None, parameters: asked.parameters, lifetime: asked.lifetime };
            enable(&asked.internal, &asked.external, rule, &asked.extras, middlebox)
        }
        // There is no DENY in MIDCOM (B-AMB-22): PDR is understood, and not offered.
        RuleRequest::Disable { .. } => return Err(Failure::NotSupported),
        &RuleRequest::ChangeLifetime { rule, lifetime } => {
            let request = policy::Request::RuleLifetime { rule: RuleId(rule), lifetime: Lifetime(lifetime) };
            (request, Asked::Lifetime)
        }
        &RuleRequest::RuleStatus { rule } => (policy::Request::RuleStatus(RuleId(rule)), Asked::Status),
        RuleRequest::RuleList { page } => list(*page),
        &RuleRequest::ChangeGroupLifetime { group, lifetime } => {
            let request =
                policy::Request::GroupLifetime { group: GroupId(group), lifetime: Lifetime(lifetime) };
            (request, Asked::GroupLifetime)
        }
        RuleRequest::GroupList => (policy::Request::GroupList, Asked::GroupList),
        &RuleRequest::GroupStatus { group } => {
            (policy::Request::GroupStatus(GroupId(group)), Asked::GroupStatus)
        }
    })
}

fn list(page: Option<Page>) -> (policy::Request, Asked) {
    if let Some(group) = page.and_then(|page| page.group) {
        return (policy::Request::GroupStatus(GroupId(group)), Asked::List(page));
    }
    // One more than fits tells whether all fit.
    let most = page.map_or(MAX_LISTED, page_size);
    let filter = policy::Filter {
        after: page.and_then(|page| page.after).map(RuleId),
        limit: u32::try_from(most + 1).unwrap_or(u32::MAX),
        ..policy::Filter::default()
    };
    (policy::Request::RuleList(filter), Asked::List(page))
}

fn page_size(page: Page) -> usize {
    match usize::try_from(page.limit) {
        Ok(limit @ 1..=MAX_PAGE) => limit,
        _ => MAX_PAGE,
    }
}

fn reserve(asked: &Reserve, middlebox: &Capabilities, reading: Reading) -> (policy::Request, Asked) {
    let ReserveParameters { mode, parity, inside, outside, protocol, range } = asked.parameters;
    let checked = checks::reserve(&asked.parameters, middlebox)
        .and_then(|()| asked.internal.as_ref().map(|tuple| host(tuple, protocol)).transpose());
    let internal = checked.ok().flatten();
    let of_host = internal.map(|tuple| IpVersion::of(tuple.address));
    let v4 = middlebox.internal_versions.v4;
    // IPi any: that of A0, if it is said (B-AMB-14).
    let inner = inside.or(of_host).or(outside).unwrap_or(if v4 { IpVersion::V4 } else { IpVersion::V6 });
    let outer = outside.unwrap_or(inner);
    let range = if has_ports(protocol) { range } else { 1 };
    let mut request = policy::Reserve {
        group: asked.group.map(GroupId),
        zone: asked.extras.realm.as_deref().map(Arc::from),
        service: match mode {
            NatMode::Traditional => policy::Service::Traditional,
            NatMode::Twice => policy::Service::Twice { lenient: reading.lenient_nat_mode },
        },
        internal_version: version(inner),
        internal,
        external_version: version(outer),
        protocol: policy::Protocol(protocol),
        range,
        parity: match parity {
            PortParity::Any => policy::PortParity::Any,
            PortParity::Odd => policy::PortParity::Odd,
            PortParity::Even => policy::PortParity::Even,
        },
        outside: wanted(&asked.extras),
        interfaces: interfaces(&asked.extras),
        lifetime: Lifetime(asked.lifetime),
        annotation: policy::Annotation::default(),
    };
    let answer = match checked {
        Ok(_) => Asked::Reserve { protocol, range, version: outer },
        Err(failure) => {
            (request.protocol, request.range) = UNLAWFUL;
            Asked::Refuse(failure)
        }
    };
    (policy::Request::Reserve(Box::new(request)), answer)
}

/// No rule has a range of 0: a request with it is refused, at the latest where the engine checks ports. Rights,
/// groups and reservations come before that, as RFC 4540 sections 8.2.1, 8.3.1 and 8.4.1 demand.
const UNLAWFUL: (policy::Protocol, u16) = (policy::Protocol::UDP, 0);

struct Enabling {
    reserved: Option<RuleId>,
    group: Option<GroupId>,
    parameters: EnableParameters,
    lifetime: u32,
}

fn enable(
    internal: &Tuple,
    external: &Tuple,
    rule: Enabling,
    extras: &Extras,
    middlebox: &Capabilities,
) -> (policy::Request, Asked) {
    let checked = checks::enable(internal, external, rule.parameters.direction, middlebox);
    let range = range(internal, external);
    let mut request = policy::Enable {
        reserved: rule.reserved,
        group: rule.group,
        zone: extras.realm.as_deref().map(Arc::from),
        protocol: policy::Protocol(internal.protocol),
        range,
        parity: if rule.parameters.same_parity { policy::Parity::Same } else { policy::Parity::Any },
        direction: match rule.parameters.direction {
            Direction::Inbound => policy::Direction::Inbound,
            Direction::Outbound => policy::Direction::Outbound,
            Direction::Bidirectional => policy::Direction::Bidirectional,
        },
        internal: tuple(internal),
        external: tuple(external),
        outside: wanted(extras),
        interfaces: interfaces(extras),
        lifetime: Lifetime(rule.lifetime),
        behaviour: extras.behaviour.map_or_else(policy::Behaviour::default, behaviour),
        annotation: policy::Annotation { description: None, tag: tag(internal, external, range) },
    };
    let answer = match checked {
        Ok(()) => Asked::Enable { internal: *internal, external: *external, range },
        Err(failure) => {
            (request.protocol, request.range) = UNLAWFUL;
            Asked::Refuse(failure)
        }
    };
    (policy::Request::Enable(Box::new(request)), answer)
}

/// The range of a rule: that of the tuple whose range means something.
fn range(internal: &Tuple, external: &Tuple) -> u16 {
    let of = |tuple: &Tuple| match tuple.ends {
        Ends::Full { port, range, .. } if port != 0 && range != ReserveParameters::ALL_PORTS => Some(range),
        _ => None,
    };
    if has_ports(internal.protocol) { of(internal).or(of(external)).unwrap_or(1) } else { 1 }
}

fn tuple(tuple: &Tuple) -> policy::Tuple {
    match tuple.ends {
        Ends::ProtocolsOnly { version: family, .. } => policy::Tuple::any(version(family)),
        Ends::Full { address, prefix, port, range } => {
            // Range 0xFFFF is every port (B-AMB-12); ports of protocols without are nothing.
            let all = range == ReserveParameters::ALL_PORTS || !has_ports(tuple.protocol);
            policy::Tuple { address, length: prefix, port: if all { 0 } else { port } }
        }
    }
}

/// A0 of a reservation: one host of the reserved protocol.
fn host(internal: &Tuple, protocol: u8) -> Result<policy::Tuple, Failure> {
    if internal.location != Location::Internal || internal.protocol != protocol {
        return Err(Failure::Inconsistent);
    }
    let Wildcards { address: false, .. } = internal.wildcards() else { return Err(Failure::Wildcarding) };
    Ok(tuple(internal))
}

fn wanted(extras: &Extras) -> Option<policy::Outside> {
    let wanted = extras.outside?;
    let Ends::Full { address, port, .. } = wanted.tuple.ends else { return None };
    Some(policy::Outside {
        pool: None,
        address: Some(address).filter(|address| !address.is_unspecified()),
        port: Some(port).filter(|&port| port != 0),
        strict: wanted.strict,
    })
}

fn interfaces(extras: &Extras) -> Option<(policy::Name, policy::Name)> {
    extras.interfaces.as_ref().map(|pair| (pair.inside.as_str().into(), pair.outside.as_str().into()))
}

fn behaviour(behaviour: Behaviour) -> policy::Behaviour {
    policy::Behaviour {
        lock: match behaviour.lock {
            Lock::None => policy::Lock::No,
            Lock::Address => policy::Lock::Address,
            Lock::AddressAndPort => policy::Lock::AddressAndPort,
        },
        max_flows: behaviour.max_flows,
        close_on_fin: behaviour.close_on_fin,
        idle: Some(behaviour.idle_timeout).filter(|&seconds| seconds != 0),
        ending: None,
        ..policy::Behaviour::default()
    }
}

fn version(version: IpVersion) -> policy::IpVersion {
    match version {
        IpVersion::V4 => policy::IpVersion::V4,
        IpVersion::V6 => policy::IpVersion::V6,
    }
}

/// A full tuple of the rule's protocol and range.
fn full(end: policy::Tuple, location: Location, protocol: policy::Protocol, range: u16) -> Tuple {
    let ends = Ends::Full { address: end.address, prefix: end.length, port: end.port, range };
    Tuple { location, protocol: protocol.0, ends }
}

/// A0 and A3 as the agent sent them, kept with the rule where they cannot be made from it: "protocols only" and
/// a prefix of no bits are one to the engine, and PES has to tell them apart (RFC 4540 section 8.6).
fn tag(internal: &Tuple, external: &Tuple, range: u16) -> Box<[u8]> {
    let made = |sent: &Tuple| full(tuple(sent), sent.location, policy::Protocol(sent.protocol), range);
    if made(internal) == *internal && made(external) == *external {
        return Box::default();
    }
    let mut octets = vec![0];
    internal.encode(&mut octets);
    let length = u8::try_from(octets.len() - 1).unwrap_or(0);
    if let Some(first) = octets.first_mut() {
        *first = length;
    }
    external.encode(&mut octets);
    octets.into()
}

fn untag(tag: &[u8]) -> Option<(Tuple, Tuple)> {
    let (length, tuples) = tag.split_first()?;
    let (internal, external) = tuples.split_at_checked(usize::from(*length))?;
    Some((Tuple::decode(internal).ok()?, Tuple::decode(external).ok()?))
}

/// The answer in SIMCO's words.
pub(crate) fn answer(asked: &Asked, answer: Result<policy::Reply, Refusal>) -> Result<Reply, Refused> {
    match answer {
        Err(refusal) => Err(refused(asked, &refusal)),
        Ok(reply) => positive(asked, reply).ok_or_else(|| Refused {
            reason: Some("the answer does not fit the request".to_owned()),
            ..Refused::from(Failure::ConfigurationFailed)
        })?,
    }
}

fn refused(asked: &Asked, refusal: &Refusal) -> Refused {
    let failure = failure(refusal);
    let reason = Some(refusal.to_string());
    match (asked, failure) {
        // What RFC 4540 checks before tuples and parameters.
        (
            Asked::Refuse(_),
            Failure::NotAuthorized
            | Failure::NoSuchRule
            | Failure::NoSuchGroup
            | Failure::RuleAccess
            | Failure::GroupAccess
            | Failure::NoAuthorization
            | Failure::Inconsistent,
        ) => Refused { reason, ..Refused::from(failure) },
        (Asked::Refuse(own), _) => Refused { reason: Some(own.to_string()), ..Refused::from(*own) },
        _ => Refused { reason, ..Refused::from(failure) },
    }
}

/// The code of a refusal.
pub(crate) fn failure(refusal: &Refusal) -> Failure {
    Failure::from_code(refusal.simco()).unwrap_or(Failure::ConfigurationFailed)
}

fn positive(asked: &Asked, reply: policy::Reply) -> Option<Result<Reply, Refused>> {
    let reply = match (asked, reply) {
        (
            &Asked::Reserve { protocol, range, version },
            policy::Reply::Reserved { rule, group, inside, outside, lifetime },
        ) => {
            let protocol = policy::Protocol(protocol);
            let full = |end, location| full(end, location, protocol, range);
            Reply::Reserved(Reserved {
                rule: rule.0,
                group: group.0,
                lifetime: lifetime.0,
                // A pure firewall reserves nothing (section 8.2.2).
                outside: outside.map_or_else(
                    || Tuple::protocols_only(Location::Outside, protocol.0, version),
                    |end| full(end, Location::Outside),
                ),
                inside: inside.map(|end| full(end, Location::Inside)),
            })
        }
        (
            &Asked::Enable { internal, external, range },
            policy::Reply::Enabled { rule, group, inside, outside, lifetime },
        ) => {
            let (outside, inside) = outer(&internal, &external, outside, inside, range);
            let inside = Some(inside);
            Reply::Enabled(Enabled { rule: rule.0, group: group.0, lifetime: lifetime.0, outside, inside })
        }
        (Asked::Lifetime, policy::Reply::Lifetime(Lifetime::NONE)) => Reply::Deleted,
        (Asked::Lifetime, policy::Reply::Lifetime(lifetime)) => {
            Reply::LifetimeChanged { lifetime: lifetime.0 }
        }
        (Asked::Status, policy::Reply::Rule(status)) => rule_status(*status)?,
        (Asked::List(page), policy::Reply::Rules(rules)) => {
            let rules = rules.into_iter().map(|(rule, _)| rule.0).collect();
            return Some(listed(rules, *page));
        }
        (&Asked::List(Some(page)), policy::Reply::Group { rules, .. }) => {
            let mut rules: Vec<u32> = rules.into_iter().map(|rule| rule.0).collect();
            rules.sort_unstable();
            rules.retain(|&rule| page.after.is_none_or(|after| rule > after));
            return Some(listed(rules, Some(page)));
        }
        (Asked::GroupLifetime, policy::Reply::Lifetime(lifetime)) => {
            Reply::GroupLifetimeChanged { lifetime: lifetime.0 }
        }
        (Asked::GroupList, policy::Reply::Groups(groups)) => {
            Reply::Groups(groups.into_iter().map(|(group, agent)| (group.0, owner(&agent))).collect())
        }
        (Asked::GroupStatus, policy::Reply::Group { owner: agent, lifetime, rules }) => Reply::GroupStatus {
            owner: owner(&agent),
            lifetime: lifetime.0,
            rules: rules.into_iter().map(|rule| rule.0).collect(),
        },
        _ => return None,
    };
    Some(Ok(reply))
}

/// A2 and A1 of a PER reply: the agent's own tuples where nothing is translated (section 8.3.2).
fn outer(
    internal: &Tuple,
    external: &Tuple,
    outside: policy::Tuple,
    inside: policy::Tuple,
    range: u16,
) -> (Tuple, Tuple) {
    let own = |sent: &Tuple, end: policy::Tuple, location| {
        if tuple(sent) == end {
            sent.at(location)
        } else {
            full(end, location, policy::Protocol(sent.protocol), range)
        }
    };
    (own(internal, outside, Location::Outside), own(external, inside, Location::Inside))
}

fn listed(mut rules: Vec<u32>, page: Option<Page>) -> Result<Reply, Refused> {
    match page {
        None if rules.len() > MAX_LISTED => Err(Refused::from(Failure::ReplyTooBig)),
        None => Ok(Reply::Rules { rules, more: None }),
        Some(page) => {
            let most = page_size(page);
            let more = rules.len() > most;
            rules.truncate(most);
            let more = more.then(|| Page { after: rules.last().copied(), ..page });
            Ok(Reply::Rules { rules, more })
        }
    }
}

fn rule_status(status: policy::RuleStatus) -> Option<Reply> {
    let policy::RuleStatus { rule, inside, outside, lifetime, .. } = status;
    let (protocol, range) = (rule.protocol, rule.range);
    let by = owner(&rule.owner);
    Some(match rule.action {
        policy::Action::Reserve(_) => {
            let family = match rule.external.version() {
                policy::IpVersion::V4 => IpVersion::V4,
                policy::IpVersion::V6 => IpVersion::V6,
            };
            let reserved = rule.outside.is_some().then_some(outside).flatten();
            Reply::ReserveStatus(
                Reserved {
                    rule: rule.id.0,
                    group: rule.group.0,
                    lifetime: lifetime.0,
                    outside: reserved.map_or_else(
                        || Tuple::protocols_only(Location::Outside, protocol.0, family),
                        |end| full(end, Location::Outside, protocol, range),
                    ),
                    inside: None,
                },
                by,
            )
        }
        policy::Action::Enable { direction, parity } => {
            let internal = rule.internal?;
            // Tags of other front ends are theirs.
            let own = rule.owner.front == policy::Front::Simco;
            let kept = own.then(|| untag(&rule.annotation.tag)).flatten();
            let (a0, a3) = kept.unwrap_or_else(|| {
                (
                    full(internal, Location::Internal, protocol, range),
                    full(rule.external, Location::External, protocol, range),
                )
            });
            let (outside, inside) =
                outer(&a0, &a3, outside.unwrap_or(internal), inside.unwrap_or(rule.external), range);
            Reply::EnableStatus(EnableStatus {
                rule: rule.id.0,
                group: rule.group.0,
                parameters: EnableParameters {
                    same_parity: parity == policy::Parity::Same,
                    direction: match direction {
                        policy::Direction::Inbound => Direction::Inbound,
                        policy::Direction::Outbound => Direction::Outbound,
                        policy::Direction::Bidirectional => Direction::Bidirectional,
                    },
                },
                internal: a0,
                inside: Some(inside),
                outside,
                external: a3,
                lifetime: lifetime.0,
                owner: by,
            })
        }
    })
}

/// The owner attribute: a SIMCO agent's name; of rules made over another front end with that before it.
fn owner(agent: &policy::Agent) -> Vec<u8> {
    let mut owner = match agent.front {
        policy::Front::Simco => agent.name.as_bytes().to_vec(),
        _ => agent.to_string().into_bytes(),
    };
    owner.truncate(turnpike_simco::MAX_OWNER);
    owner
}

/// What the agent is told of the middlebox.
pub(crate) fn capabilities(known: &policy::Capabilities) -> Established {
    let versions = |(v4, v6): (bool, bool)| IpVersions { v4, v6 };
    Established {
        capabilities: Capabilities {
            firewall: known.firewall,
            nat: known.nat,
            disable: false,
            port_translation: known.nat,
            protocol_translation: false,
            twice_nat: false,
            internal_wildcard: known.internal_wildcard,
            external_wildcard: known.external_wildcard,
            port_wildcard: known.port_wildcard,
            persistent: known.persistent,
            internal_versions: versions(known.internal_versions),
            external_versions: versions(known.external_versions),
            max_lifetime: known.lifetime.0,
        },
        extensions: None,
        more: Some(MoreCapabilities {
            groups: ["glc", "gl", "gs"].iter().all(|name| known.transactions.contains(name)),
            interfaces: false,
            idle_timeout: known.idle.unwrap_or(0),
            max_sessions: known.sessions,
            max_rules: 0,
        }),
        realms: Vec::new(),
    }
}

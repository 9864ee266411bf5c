//! Rules, groups, agents, sessions and pinholes as the API shows them.

use crate::midcom::Midcom;
use crate::pinholes::pinhole_protocol;
use std::net::IpAddr;
use turnpike_api::{
    AgentData, Endpoint, GroupData, GroupsRequest, PinholeData, PinholeState, PortRange, Prefix, RuleAction,
    RuleData, RuleDirection, RuleFilter, RulesRequest, SessionData, Timestamp,
};
use turnpike_policy::{
    Action, Agent, Direction, Engine, Front, GroupId, Lifetime, Requester, Rule, RuleId, RuleStatus, State,
    Time,
};

const fn state_of(state: State) -> PinholeState {
    match state {
        State::Pending => PinholeState::Pending,
        State::Active => PinholeState::Active,
        State::Suspended => PinholeState::Suspended,
        State::Closing => PinholeState::Closing,
    }
}

fn remote_ports(rule: &Rule) -> Option<PortRange> {
    let of_port = (rule.external.port != 0).then_some((rule.external.port, rule.external.port));
    rule.behaviour.remote_ports.or(of_port).map(|(first, last)| PortRange { first, last })
}

/// A pinhole of the operator.
pub fn pinhole(rule: &Rule, state: State) -> PinholeData {
    let internal = rule.internal.unwrap_or(rule.external);
    PinholeData {
        id: u64::from(rule.id.0),
        protocol: pinhole_protocol(rule.protocol),
        inside: Endpoint { address: internal.address, port: internal.port },
        external: rule.outside.map(|end| Endpoint { address: end.address.into(), port: end.port }),
        pool: rule.pool.as_ref().map(ToString::to_string),
        remote: Prefix::new(rule.external.address, rule.external.length)
            .ok()
            .filter(|_| rule.external.length > 0),
        remote_ports: remote_ports(rule),
        created_at: Timestamp(rule.created.0),
        expires_at: rule.expires.map(|expires| Timestamp(expires.0)),
        state: state_of(state),
        owner: rule.owner.to_string(),
        note: rule.annotation.description.as_ref().map(ToString::to_string),
    }
}

fn seconds(lifetime: Lifetime) -> Option<u32> {
    (lifetime != Lifetime::FOREVER).then_some(lifetime.0)
}

/// A rule.
pub fn rule(status: &RuleStatus) -> RuleData {
    let rule = &status.rule;
    let (action, direction) = match rule.action {
        Action::Reserve(_) => (RuleAction::Reserve, None),
        Action::Enable { direction: Direction::Inbound, .. } => (RuleAction::Enable, Some(RuleDirection::In)),
        Action::Enable { direction: Direction::Outbound, .. } => {
            (RuleAction::Enable, Some(RuleDirection::Out))
        }
        Action::Enable { direction: Direction::Bidirectional, .. } => {
            (RuleAction::Enable, Some(RuleDirection::Both))
        }
    };
    RuleData {
        id: rule.id.0,
        group: rule.group.0,
        owner: rule.owner.to_string(),
        zone: rule.zone.to_string(),
        action,
        direction,
        protocol: turnpike_api::Protocol(rule.protocol.0),
        ports: rule.range,
        internal: rule.internal.map(|tuple| tuple.to_string()),
        outside: status.outside.map(|tuple| tuple.to_string()),
        external: direction.map(|_| rule.external.to_string()),
        locked: rule.locked.map(|tuple| tuple.to_string()),
        pool: rule.pool.as_ref().map(ToString::to_string),
        remote_ports: rule.behaviour.remote_ports.map(|(first, last)| PortRange { first, last }),
        state: state_of(status.state),
        created_at: Timestamp(rule.created.0),
        expires_at: rule.expires.map(|expires| Timestamp(expires.0)),
        lifetime_seconds: seconds(status.lifetime),
        description: rule.annotation.description.as_ref().map(ToString::to_string),
    }
}

fn matches(filter: &RuleFilter, rule: &Rule) -> bool {
    filter
        .subscriber
        .is_none_or(|prefix| rule.internal.is_some_and(|internal| prefix.contains(internal.address)))
        && filter.protocol.is_none_or(|protocol| protocol.0 == rule.protocol.0)
        && filter.group.is_none_or(|group| group == rule.group.0)
        && filter
            .owner
            .as_ref()
            .is_none_or(|owner| *owner == rule.owner.to_string() || owner == rule.owner.front.name())
}

fn after(cursor: Option<&str>) -> u32 {
    cursor.and_then(|cursor| cursor.parse().ok()).unwrap_or(0)
}

/// A page of rules, and where the next one begins.
pub fn rules(engine: &Engine, request: &RulesRequest, now: Time) -> (Vec<RuleData>, Option<String>) {
    let limit = request.limit as usize;
    let from = RuleId(after(request.cursor.as_deref()));
    let page = engine.page(from, limit, |rule| matches(&request.filter, rule));
    let rows: Vec<RuleData> = page
        .iter()
        .filter_map(|(found, _)| engine.status_of(found.id, now))
        .map(|status| rule(&status))
        .collect();
    let next = rows.last().filter(|_| rows.len() == limit).map(|row| row.id.to_string());
    (rows, next)
}

/// A page of groups, and where the next one begins.
pub fn groups(engine: &Engine, request: &GroupsRequest, now: Time) -> (Vec<GroupData>, Option<String>) {
    let limit = request.limit as usize;
    let page = engine.group_page(GroupId(after(request.cursor.as_deref())), limit, now);
    let rows: Vec<GroupData> = page
        .into_iter()
        .map(|(group, owner, rules, lifetime)| GroupData {
            id: group.0,
            owner: owner.to_string(),
            rules: rules as u64,
            lifetime_seconds: seconds(lifetime),
        })
        .collect();
    let next = rows.last().filter(|_| rows.len() == limit).map(|row| row.id.to_string());
    (rows, next)
}

/// Agents of the configuration, and whoever has rules or sessions; at most a page of the latter.
pub fn agents(engine: &Engine, midcom: &Midcom) -> Vec<AgentData> {
    let access = engine.access();
    let mut agents: std::collections::BTreeMap<Agent, u64> = engine
        .owners()
        .take(turnpike_api::MAX_PAGE as usize)
        .map(|(agent, rules)| (agent.clone(), u64::from(rules)))
        .collect();
    for front in Front::ALL {
        let configured = access.fronts.get(&front).into_iter().flat_map(|front| front.agents.keys());
        for name in configured {
            agents.entry(Agent { front, name: name.clone() }).or_default();
        }
    }
    for session in midcom.sessions.values() {
        agents.entry(session.agent.clone()).or_default();
    }
    agents
        .into_iter()
        .map(|(agent, rules)| {
            let host = host_of(&agent);
            let by = Requester { host, ..Requester::new(agent.clone()) };
            let front = access.fronts.get(&agent.front).filter(|front| !front.zones.is_empty());
            let profile = front.and_then(|front| front.profile(&by.agent, host));
            AgentData {
                enabled: profile.is_some(),
                rules,
                rules_limit: profile
                    .map(|profile| u64::from(profile.rules))
                    .filter(|&most| most < u64::from(u32::MAX)),
                sessions: midcom.sessions.values().filter(|session| session.agent == agent).count() as u64,
                sessions_limit: profile.map_or(0, |profile| u64::from(profile.sessions)),
                agent: agent.to_string(),
            }
        })
        .collect()
}

/// The address in the name of a host that is an agent.
fn host_of(agent: &Agent) -> Option<IpAddr> {
    agent.name.rsplit_once('/')?.1.parse().ok()
}

/// Open sessions.
pub fn sessions(midcom: &Midcom) -> Vec<SessionData> {
    midcom
        .sessions
        .iter()
        .map(|(id, session)| {
            let [requests, refused, notifications] = session.about.counters.read();
            SessionData {
                id: id.0,
                agent: session.agent.to_string(),
                peer: session.about.peer.clone(),
                security: session.about.security.clone(),
                opened_at: Timestamp(session.opened_ms),
                requests,
                refused,
                notifications,
            }
        })
        .collect()
}

//! Sessions: who hears what happens to which rule (RFC 5189 2.3.4).

use crate::access::{Access, Profile, Rights};
use crate::effect::{AuditEvent, Effect};
use crate::engine::Engine;
use crate::identity::{Agent, Requester, SessionId};
use crate::refusal::Refusal;
use crate::rule::{Event, Notification, NotificationId, SessionEnd};
use crate::transaction::Capabilities;
use crate::tuple::Time;
use hashbrown::HashMap;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Every open session.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    open: BTreeMap<SessionId, Agent>,
    by_agent: HashMap<Agent, Vec<SessionId>>,
    /// Those of agents that may act on rules of others.
    wide: Vec<SessionId>,
    next_session: u64,
    next_notification: u64,
}

impl Sessions {
    pub(crate) fn agent(&self, session: SessionId) -> Option<&Agent> {
        self.open.get(&session)
    }

    fn insert(&mut self, agent: &Agent, wide: bool) -> SessionId {
        self.next_session += 1;
        let id = SessionId(self.next_session);
        self.open.insert(id, agent.clone());
        self.by_agent.entry(agent.clone()).or_default().push(id);
        if wide {
            self.wide.push(id);
        }
        id
    }

    fn remove(&mut self, id: SessionId) -> Option<Agent> {
        let agent = self.open.remove(&id)?;
        if let Some(list) = self.by_agent.get_mut(&agent) {
            list.retain(|&other| other != id);
            if list.is_empty() {
                self.by_agent.remove(&agent);
            }
        }
        self.wide.retain(|&other| other != id);
        Some(agent)
    }
}

/// Whether an agent with that profile may act on rules of `owner`.
pub(crate) fn may_act(profile: &Profile, agent: &Agent, owner: &Agent) -> bool {
    agent == owner || profile.rights.has(Rights::ADMIN) || profile.takes_over.contains(owner)
}

fn is_wide(profile: &Profile) -> bool {
    profile.rights.has(Rights::ADMIN) || !profile.takes_over.is_empty()
}

/// The profile of who asks, if the operator enabled its front end at all.
pub(crate) fn profile_of<'a>(access: &'a Access, by: &Requester) -> Result<&'a Profile, Refusal> {
    let front = access.fronts.get(&by.agent.front).filter(|front| !front.zones.is_empty());
    let Some(front) = front else {
        let front = by.agent.front.name();
        return Err(Refusal::NotEnabled { front, zone: "any".to_owned() });
    };
    front.profile(&by.agent, by.host).ok_or_else(|| Refusal::UnknownAgent(by.agent.clone()))
}

impl Engine {
    /// Lets a session in (SE, RFC 5189 2.2.1): the agent was authenticated, its authorization and the room for it
    /// are checked here.
    ///
    /// # Errors
    /// [`Refusal::NotEnabled`], [`Refusal::UnknownAgent`], [`Refusal::Sessions`].
    pub fn open_session(&mut self, agent: &Agent, now: Time) -> Result<(SessionId, Capabilities), Refusal> {
        let access = Arc::clone(&self.access);
        let result = self.may_open(agent);
        let (session, why) = match &result {
            Ok(_) => {
                let wide = profile_of(&access, &Requester::new(agent.clone())).is_ok_and(is_wide);
                (Some(self.sessions.insert(agent, wide)), None)
            }
            Err(why) => (None, Some(why.clone())),
        };
        self.audit(now, AuditEvent::Session { agent: agent.clone(), session, why });
        Ok((session.unwrap_or_default(), result?))
    }

    /// Whether [`Engine::open_session`] would let the agent in.
    ///
    /// # Errors
    /// As it.
    pub fn may_open(&self, agent: &Agent) -> Result<Capabilities, Refusal> {
        let access = &self.access;
        let profile = profile_of(access, &Requester::new(agent.clone()))?;
        if self.sessions.open.len() >= access.limits.sessions as usize {
            return Err(Refusal::Sessions { limit: access.limits.sessions, whose: "the box" });
        }
        let open = self.sessions.by_agent.get(agent).map_or(0, Vec::len);
        if open >= profile.sessions as usize {
            return Err(Refusal::Sessions { limit: profile.sessions, whose: "an agent" });
        }
        Ok(capabilities(access, profile))
    }

    /// A session is over: its agent's choice, or the connection broke. Its rules live on (RFC 5189 2.2.2 to 2.2.4).
    pub fn close_session(&mut self, session: SessionId) {
        self.sessions.remove(session);
    }

    /// Ends a session (AST, RFC 5189 2.2.3): it hears why, and nothing after it.
    pub fn end_session(&mut self, session: SessionId, why: SessionEnd) {
        if self.sessions.remove(session).is_some() {
            let notification = self.notification(Event::SessionEnded(why));
            self.effects.push_back(Effect::Notify { session, notification });
        }
    }

    /// Ends every session.
    pub fn end_sessions(&mut self, why: SessionEnd) {
        let all: Vec<SessionId> = self.sessions.open.keys().copied().collect();
        for session in all {
            self.end_session(session, why);
        }
    }

    /// Open sessions, oldest first.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionId, &Agent)> {
        self.sessions.open.iter().map(|(id, agent)| (*id, agent))
    }

    /// Ends the sessions of agents that the configuration no longer has, and notes who may act for others now.
    pub(crate) fn review_sessions(&mut self) {
        let access = Arc::clone(&self.access);
        let mut gone = Vec::new();
        self.sessions.wide.clear();
        for (&session, agent) in &self.sessions.open {
            match profile_of(&access, &Requester::new(agent.clone())) {
                Ok(profile) if is_wide(profile) => self.sessions.wide.push(session),
                Ok(_) => {}
                Err(_) => gone.push(session),
            }
        }
        for session in gone {
            self.end_session(session, SessionEnd::NotAuthorized);
        }
    }

    fn notification(&mut self, event: Event) -> Notification {
        self.sessions.next_notification += 1;
        Notification { id: NotificationId(self.sessions.next_notification), event }
    }

    /// Tells every session that may act on rules of `owner`, except the one that caused it.
    pub(crate) fn notify(&mut self, owner: &Agent, except: Option<SessionId>, event: Event) {
        let own = self.sessions.by_agent.get(owner).map_or(&[][..], Vec::as_slice);
        if own.is_empty() && self.sessions.wide.is_empty() {
            return;
        }
        let mut listeners: Vec<SessionId> = own.to_vec();
        for &session in &self.sessions.wide {
            let Some(agent) = self.sessions.open.get(&session).filter(|agent| *agent != owner) else {
                continue;
            };
            let may = profile_of(&self.access, &Requester::new(agent.clone()))
                .is_ok_and(|profile| may_act(profile, agent, owner));
            if may {
                listeners.push(session);
            }
        }
        listeners.retain(|&session| Some(session) != except);
        listeners.sort_unstable();
        for session in listeners {
            let notification = self.notification(event);
            self.effects.push_back(Effect::Notify { session, notification });
        }
    }
}

/// What the box can do for an agent with that profile (RFC 5189 2.1.6).
fn capabilities(access: &Access, profile: &Profile) -> Capabilities {
    let nat = profile.zones.iter().any(|zone| access.realm.pool_of_zone(zone).is_some());
    let mut transactions = Vec::new();
    for (right, names) in [
        (Rights::RESERVE, &["prr"][..]),
        (Rights::ENABLE, &["per"][..]),
        (Rights::READ, &["prl", "prs", "gl", "gs"][..]),
    ] {
        if profile.rights.has(right) {
            transactions.extend(names);
        }
    }
    if profile.rights.has(Rights::MODIFY) || profile.rights.has(Rights::DELETE) {
        transactions.extend(["rlc", "glc"]);
    }
    Capabilities {
        firewall: true,
        nat,
        internal_wildcard: false,
        external_wildcard: profile.external_wildcard,
        port_wildcard: true,
        persistent: true,
        internal_versions: (true, true),
        external_versions: (true, true),
        lifetime: profile.lifetime,
        idle: profile.idle,
        sessions: profile.sessions,
        transactions,
    }
}

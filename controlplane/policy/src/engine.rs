//! The engine's state, and what may be asked of it.

use crate::access::Access;
use crate::effect::{About, Audit, AuditEvent, Effect, Note, Ticket, Token};
use crate::identity::{Agent, Requester, SessionId, TransactionId};
use crate::index::Index;
use crate::leases::Leftovers;
use crate::permits::Permits;
use crate::refusal::Refusal;
use crate::rule::{Action, Grant, GroupId, Rule, RuleId, RuleStatus, State};
use crate::sessions::Sessions;
use crate::steps::{After, Batch, Entry, Stage};
use crate::transaction::{Reply, Request};
use crate::tuple::{Lifetime, Time, Tuple};
use crate::turns::Turns;
use hashbrown::{HashMap, HashSet};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// Identities noted ahead, so that one that was given out is not given out again after a crash.
const AHEAD: u32 = 1 << 16;
/// Rules looked at in one call of [`Engine::advance`].
const STEP: usize = 4096;

/// The policy engine.
#[derive(Debug)]
pub struct Engine {
    pub(crate) access: Arc<Access>,
    /// Workers of the attached dataplane.
    pub(crate) workers: Option<u8>,
    pub(crate) entries: HashMap<RuleId, Box<Entry>>,
    pub(crate) index: Index,
    pub(crate) sessions: Sessions,
    pub(crate) tickets: HashMap<Ticket, After>,
    pub(crate) tokens: HashMap<Token, RuleId>,
    /// Rules that wait to be installed in a new dataplane.
    pub(crate) to_start: VecDeque<RuleId>,
    pub(crate) batches: HashMap<u64, Batch>,
    /// Uses of permits, until they expire.
    pub(crate) permits: Permits,
    /// Requests under way.
    pub(crate) under_way: usize,
    /// Requests that wait for others.
    pub(crate) turns: Turns,
    pub(crate) effects: VecDeque<Effect>,
    /// Rules of which the journal was told in vain, and when to tell it again.
    pub(crate) untold: BTreeSet<RuleId>,
    pub(crate) tell_again: Option<Time>,
    names: HashSet<crate::Name>,
    next_rule: u32,
    next_group: u32,
    noted: (u32, u32),
    next_handle: u64,
    pub(crate) leftovers: Leftovers,
    /// The next worker that reserves for nobody yet.
    pub(crate) turn: u8,
}

impl Engine {
    /// An engine without rules. Identities are given out from `rules` and `groups` on, which have to be as high as
    /// the journal's last [`Note::Ids`] says.
    #[must_use]
    pub fn new(rules: RuleId, groups: GroupId) -> Self {
        Self {
            access: Arc::default(),
            workers: None,
            entries: HashMap::new(),
            index: Index::default(),
            sessions: Sessions::default(),
            tickets: HashMap::new(),
            tokens: HashMap::new(),
            to_start: VecDeque::new(),
            batches: HashMap::new(),
            permits: Permits::default(),
            under_way: 0,
            turns: Turns::default(),
            effects: VecDeque::new(),
            untold: BTreeSet::new(),
            tell_again: None,
            names: HashSet::new(),
            next_rule: rules.0.max(1),
            next_group: groups.0.max(1),
            noted: (rules.0.max(1), groups.0.max(1)),
            next_handle: 1,
            leftovers: Leftovers::default(),
            turn: 0,
        }
    }

    /// Takes back a rule from the journal. For use before [`Engine::attached`].
    ///
    /// # Errors
    /// [`Refusal::Inconsistent`] if its identity is known, [`Refusal::ExternalTaken`] if the rule of another inside
    /// end has its outside end: the journal contradicts itself.
    pub fn restore(&mut self, mut rule: Rule) -> Result<(), Refusal> {
        if rule.id.0 == 0 || self.entries.contains_key(&rule.id) {
            return Err(Refusal::Inconsistent("the rule's identity is there already"));
        }
        if let Some(end) = rule.outside {
            self.outside_free(&rule, end)?;
        }
        rule.zone = self.one_copy(rule.zone);
        rule.pool = rule.pool.map(|pool| self.one_copy(pool));
        self.next_rule = self.next_rule.max(rule.id.0.saturating_add(1));
        self.next_group = self.next_group.max(rule.group.0.saturating_add(1));
        self.insert(Entry::restored(rule));
        Ok(())
    }

    fn one_copy(&mut self, name: crate::Name) -> crate::Name {
        self.names.get_or_insert(name).clone()
    }

    /// Another configuration is in force. Sessions of agents it does not have end; rules live on; what is
    /// translated is installed again by its pools.
    pub fn set_access(&mut self, access: Access, now: Time) {
        if *self.access == access {
            return;
        }
        let moved = self.access.realm.pools != access.realm.pools;
        self.access = Arc::new(access);
        self.review_sessions();
        if moved && self.workers.is_some() {
            self.reinstall(now);
        }
    }

    /// The configuration in force.
    #[must_use]
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// A request. Its answer comes as one [`Effect::Reply`] under `transaction`.
    pub fn submit(&mut self, transaction: TransactionId, by: &Requester, request: Request, now: Time) {
        let name = request.name();
        let about = About::of(&request);
        let request = match self.wait_for_turn(transaction, by, request) {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(why) => return self.refuse(transaction, by, name, about, why, now),
        };
        let done = match request {
            Request::Reserve(reserve) => self.reserve(transaction, by, *reserve, now).map(|()| None),
            Request::Enable(enable) => self.enable(transaction, by, *enable, now).map(|()| None),
            Request::RuleLifetime { rule, lifetime } => {
                self.rule_lifetime(transaction, by, rule, lifetime, now).map(|()| None)
            }
            Request::GroupLifetime { group, lifetime } => {
                self.group_lifetime(transaction, by, group, lifetime, now).map(|()| None)
            }
            Request::Annotate { rule, annotation } => {
                self.annotate(transaction, by, rule, annotation, now).map(|()| None)
            }
            Request::RuleList(filter) => self.rule_list(by, &filter).map(Some),
            Request::RuleStatus(rule) => self.rule_status(by, rule, now).map(Some),
            Request::GroupList => self.group_list(by).map(Some),
            Request::GroupStatus(group) => self.group_status(by, group, now).map(Some),
            Request::Find(find) => self.find(by, &find, now).map(Some),
        };
        match done {
            Ok(None) => {}
            Ok(Some(reply)) => self.reply(transaction, Ok(reply)),
            Err(why) => self.refuse(transaction, by, name, about, why, now),
        }
    }

    /// Lifetimes that ran out, idle rules, installations to be tried again and permits that ended, up to `now`. A bounded step: see
    /// [`Engine::deadline`] for whether there is more.
    pub fn advance(&mut self, now: Time) {
        for _ in 0..STEP {
            match self.index.first_due() {
                Some((time, id)) if time <= now => self.due(id, now),
                _ => break,
            }
        }
        self.tell_journal_again(now);
        self.ask_for_leftovers(now);
        self.forget_permits(now);
    }

    /// When [`Engine::advance`] has something to do next.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let lifetimes = self.index.first_due().map(|(time, _)| time);
        [lifetimes, self.tell_again, self.leftovers.first_due(), self.permits.first_end()]
            .into_iter()
            .flatten()
            .min()
    }

    /// What is to be done, first things first. To be drained after every call.
    pub fn effects(&mut self) -> impl Iterator<Item = Effect> + '_ {
        self.effects.drain(..)
    }

    /// A granted rule as it stands.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> Option<(&Rule, State)> {
        self.entries
            .get(&id)
            .filter(|entry| entry.visible())
            .map(|entry| (entry.granted_rule(), entry.state()))
    }

    /// Every granted rule, in no order.
    pub fn rules(&self) -> impl Iterator<Item = (&Rule, State)> {
        self.entries
            .values()
            .filter(|entry| entry.visible())
            .map(|entry| (entry.granted_rule(), entry.state()))
    }

    /// Granted rules with identities above `after`, in order, at most `limit`.
    #[must_use]
    pub fn page(&self, after: RuleId, limit: usize, which: impl Fn(&Rule) -> bool) -> Vec<(&Rule, State)> {
        let mut ids: Vec<RuleId> = self
            .entries
            .values()
            .filter(|entry| entry.visible() && entry.rule.id > after && which(entry.granted_rule()))
            .map(|entry| entry.rule.id)
            .collect();
        if ids.len() > limit {
            ids.select_nth_unstable(limit);
            ids.truncate(limit);
        }
        ids.sort_unstable();
        ids.into_iter().filter_map(|id| self.rule(id)).collect()
    }

    /// Owners of rules, with how many each has, in no order.
    pub fn owners(&self) -> impl Iterator<Item = (&Agent, u32)> {
        self.index.owners()
    }

    /// Groups with their owners, members and lifetimes, in order, from identities above `after` on.
    #[must_use]
    pub fn group_page(
        &self,
        after: GroupId,
        limit: usize,
        now: Time,
    ) -> Vec<(GroupId, Agent, usize, Lifetime)> {
        let mut page: Vec<(GroupId, Agent, usize, Lifetime)> = Vec::new();
        for (group, id) in self.index.groups_after(after) {
            let Some((rule, _)) = self.rule(id) else { continue };
            let left = Lifetime::left(rule.expires, now);
            if let Some((last, _, members, lifetime)) = page.last_mut()
                && *last == group
            {
                *members += 1;
                *lifetime = left.max(*lifetime);
            } else if page.len() < limit {
                page.push((group, rule.owner.clone(), 1, left));
            } else {
                break;
            }
        }
        page
    }

    /// How many rules there are, those under way included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A rule as PRS shows it.
    #[must_use]
    pub fn status_of(&self, id: RuleId, now: Time) -> Option<RuleStatus> {
        let (rule, state) = self.rule(id)?;
        let enabled = matches!(rule.action, Action::Enable { .. });
        let outside = match rule.outside {
            Some(Grant { address, port }) => Some(Tuple::new(address.into(), port)),
            // A pure firewall: A2 is A0 (RFC 5189 2.3.5).
            None if enabled && rule.pool.is_none() => rule.internal,
            None => None,
        };
        Some(RuleStatus {
            state,
            inside: enabled.then_some(rule.external),
            outside,
            lifetime: Lifetime::left(rule.expires, now),
            rule: rule.clone(),
        })
    }

    /// Whether no other inside end has any of the outside ports from `end` on that `rule` would take.
    pub(crate) fn outside_free(&self, rule: &Rule, end: Grant) -> Result<(), Refusal> {
        let last = end.port.saturating_add(rule.range.saturating_sub(1));
        for (port, id) in self.index.at_outside(end.address, rule.protocol, (end.port, last)) {
            let Some(entry) = self.entries.get(&id).filter(|_| id != rule.id) else { continue };
            let other = &entry.rule;
            if u32::from(port) + u32::from(other.range) <= u32::from(end.port) {
                continue;
            }
            let shares = match (other.internal, rule.internal, other.action) {
                (Some(theirs), Some(ours), Action::Enable { .. }) => {
                    let apart = i32::from(theirs.port) - i32::from(ours.port);
                    theirs.address == ours.address && apart == i32::from(port) - i32::from(end.port)
                }
                _ => false,
            };
            if !shares {
                let outside = Grant { address: end.address, port };
                return Err(Refusal::ExternalTaken { protocol: rule.protocol, outside, holder: id });
            }
        }
        Ok(())
    }

    pub(crate) fn insert(&mut self, mut entry: Entry) {
        self.index.insert(&mut entry.rule);
        let id = entry.rule.id;
        self.entries.insert(id, Box::new(entry));
        self.schedule(id);
    }

    pub(crate) fn take(&mut self, id: RuleId) -> Option<Box<Entry>> {
        let entry = self.entries.remove(&id)?;
        self.index.schedule(id, entry.due, None);
        self.index.remove(&entry.rule);
        Some(entry)
    }

    /// The identity of a new rule, and of its group if it is to have its own.
    pub(crate) fn next_ids(&mut self, group: Option<GroupId>) -> (RuleId, GroupId) {
        while self.next_rule == 0 || self.entries.contains_key(&RuleId(self.next_rule)) {
            self.next_rule = self.next_rule.wrapping_add(1);
        }
        let rule = RuleId(self.next_rule);
        self.next_rule = self.next_rule.wrapping_add(1);
        let group = group.unwrap_or_else(|| {
            while self.next_group == 0 || self.index.members(GroupId(self.next_group)).next().is_some() {
                self.next_group = self.next_group.wrapping_add(1);
            }
            let group = GroupId(self.next_group);
            self.next_group = self.next_group.wrapping_add(1);
            group
        });
        self.note_ids();
        (rule, group)
    }

    /// Notes identities ahead of their use: at the start, and when half of what was noted is used.
    pub fn note_ids(&mut self) {
        let used =
            |next: u32, noted: u32| noted.wrapping_sub(next) < AHEAD / 2 || noted.wrapping_sub(next) > AHEAD;
        if used(self.next_rule, self.noted.0) || used(self.next_group, self.noted.1) {
            self.noted = (self.next_rule.wrapping_add(AHEAD), self.next_group.wrapping_add(AHEAD));
            let ids = Note::Ids { rules: RuleId(self.noted.0), groups: GroupId(self.noted.1) };
            self.note(vec![ids], After::Ids);
        }
    }

    /// The journal has not taken the identities that were noted ahead.
    pub(crate) fn forget_noted_ids(&mut self) {
        self.noted = (self.next_rule, self.next_group);
    }

    pub(crate) fn handle(&mut self) -> u64 {
        let handle = self.next_handle;
        self.next_handle += 1;
        handle
    }

    pub(crate) fn note(&mut self, notes: Vec<Note>, after: After) -> Ticket {
        let ticket = Ticket(self.handle());
        self.tickets.insert(ticket, after);
        self.effects.push_back(Effect::Note { ticket, notes });
        ticket
    }

    pub(crate) fn reply(&mut self, transaction: TransactionId, result: Result<Reply, Refusal>) {
        self.effects.push_back(Effect::Reply { transaction, result });
    }

    pub(crate) fn audit(&mut self, time: Time, event: AuditEvent) {
        self.effects.push_back(Effect::Audit(Box::new(Audit { time, event })));
    }

    pub(crate) fn refuse(
        &mut self,
        transaction: TransactionId,
        by: &Requester,
        name: &'static str,
        about: About,
        why: Refusal,
        now: Time,
    ) {
        self.reply(transaction, Err(why.clone()));
        let event =
            AuditEvent::Refused { by: by.agent.clone(), transaction: name, about: Box::new(about), why };
        self.audit(now, event);
    }

    /// Whether a session is open.
    #[must_use]
    pub fn has_session(&self, session: SessionId) -> bool {
        self.sessions.agent(session).is_some()
    }

    /// Rules on their way to a worker or to the journal.
    #[must_use]
    pub const fn under_way(&self) -> usize {
        self.under_way
    }

    /// Whether a granted rule waits to be installed.
    pub(crate) fn waits(entry: &Entry) -> bool {
        entry.stage == Stage::Waiting
    }
}

impl About {
    fn of(request: &Request) -> Self {
        let mut about = Self::default();
        match request {
            Request::Reserve(reserve) => {
                about.group = reserve.group;
                about.zone.clone_from(&reserve.zone);
                about.internal = reserve.internal.map(|internal| (reserve.protocol, internal));
            }
            Request::Enable(enable) => {
                about.rule = enable.reserved;
                about.group = enable.group;
                about.zone.clone_from(&enable.zone);
                about.internal = Some((enable.protocol, enable.internal));
                about.external = Some(enable.external);
            }
            Request::RuleLifetime { rule, .. }
            | Request::RuleStatus(rule)
            | Request::Annotate { rule, .. } => {
                about.rule = Some(*rule);
            }
            Request::GroupLifetime { group, .. } | Request::GroupStatus(group) => about.group = Some(*group),
            Request::RuleList(_) | Request::GroupList | Request::Find(_) => {}
        }
        about
    }
}

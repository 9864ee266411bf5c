//! The policy engine in the daemon: front ends' orders in, the engine's effects on the journal, the workers, the
//! audit log and those who wait out.

use crate::attach::Order as WorkerOrder;
use crate::clock::wall_ms;
use crate::daemon::{Daemon, answer};
use crate::facts::TransactionKey;
use crate::journal::Written;
use crate::pinholes::error_of;
use crate::rules;
use hashbrown::HashMap;
use std::collections::{BTreeMap, VecDeque};
use tokio::sync::{mpsc, oneshot};
use turnpike_abi::command::Slot;
use turnpike_abi::event::{PinholeClosed, PinholeLocked};
use turnpike_api::serve::encode_error;
use turnpike_api::{ErrorBody, PinholeData, RuleData};
use turnpike_gateway::{Addressee, Opened, Order, Said, SessionAbout};
use turnpike_policy::{
    Agent, AuditEvent, Effect, Event, Front, Notification, Reply, Request, Requester, SessionId,
    TransactionId, Tuple,
};

/// Who waits for a line over the CLI's socket.
pub type LineReply = oneshot::Sender<Vec<u8>>;

/// Where the answer to a transaction goes.
#[derive(Debug)]
pub enum Waiter {
    /// A front end.
    Gateway(Addressee),
    /// `turnpike pinhole add`.
    PinholeAdd(LineReply),
    /// `turnpike pinhole remove`, with what was removed.
    PinholeRemove(LineReply, Box<PinholeData>),
    /// `turnpike rule delete`, with what was deleted.
    RuleDelete(LineReply, Box<RuleData>),
}

/// A session that is open.
#[derive(Debug)]
pub struct OpenSession {
    said: mpsc::Sender<Said>,
    /// Whose.
    pub agent: Agent,
    /// What the front end said of it.
    pub about: SessionAbout,
    /// When it was opened, milliseconds since the epoch.
    pub opened_ms: u64,
}

/// Requests of a session begun before the next session has its turn: a session that sends many holds up those of
/// others by so many.
const SHARE: usize = 2;
/// Sessions that have their turn before effects are carried out.
const TURNS: usize = 64;

/// Requests of sessions that are not begun yet.
#[derive(Debug, Default)]
struct Line {
    /// By session, in the order they came.
    requests: HashMap<SessionId, VecDeque<(Requester, Request, Addressee)>>,
    /// Sessions that have any, in the order of their turns.
    turns: VecDeque<SessionId>,
}

/// Those who wait, and those who listen.
#[derive(Debug, Default)]
pub struct Midcom {
    line: Line,
    waiting: HashMap<TransactionId, (TransactionKey, Waiter)>,
    next_transaction: u64,
    /// Open sessions.
    pub sessions: BTreeMap<SessionId, OpenSession>,
    /// Those that did not take what was said.
    deaf: Vec<SessionId>,
    /// Whether effects wait to be carried out since the last time.
    pub counts: HashMap<TransactionKey, u64>,
}

impl Daemon {
    /// An order of a front end.
    pub(crate) fn order(&mut self, order: Order) {
        let now = self.clock.now();
        match order {
            Order::Open { agent, about, said, outcome } => {
                let result = self.policy.open_session(&agent, now).map(|(id, capabilities)| {
                    let session = OpenSession { said, agent, about, opened_ms: wall_ms() };
                    self.midcom.sessions.insert(id, session);
                    Opened { id, capabilities }
                });
                let opened = result.as_ref().ok().map(|opened| opened.id);
                if outcome.send(result).is_err()
                    && let Some(id) = opened
                {
                    self.close(id);
                }
            }
            Order::Close(id) => self.close(id),
            Order::May { agent, outcome } => {
                if outcome.send(self.policy.may_open(&agent)).is_err() {
                    tracing::debug!("the asker is gone");
                }
            }
            Order::Call { by, request, to } => match by.session {
                Some(session) => {
                    let requests = self.midcom.line.requests.entry(session).or_default();
                    if requests.is_empty() {
                        self.midcom.line.turns.push_back(session);
                    }
                    requests.push_back((by, request, to));
                }
                None => self.submit(&by, request, Waiter::Gateway(to)),
            },
        }
    }

    /// Whether requests wait for their turn.
    pub(crate) fn has_line(&self) -> bool {
        !self.midcom.line.turns.is_empty()
    }

    /// Begins requests, a few of each session in turn.
    pub(crate) fn begin_requests(&mut self) {
        for _ in 0..TURNS.min(self.midcom.line.turns.len()) {
            let Some(session) = self.midcom.line.turns.pop_front() else { return };
            let Some(mut requests) = self.midcom.line.requests.remove(&session) else { continue };
            // Requests of a session that is over are not begun (RFC 5189 2.2.2, 2.2.3).
            if !self.policy.has_session(session) {
                continue;
            }
            for _ in 0..SHARE {
                let Some((by, request, to)) = requests.pop_front() else { break };
                self.submit(&by, request, Waiter::Gateway(to));
            }
            if !requests.is_empty() {
                self.midcom.line.requests.insert(session, requests);
                self.midcom.line.turns.push_back(session);
            }
        }
    }

    fn close(&mut self, id: SessionId) {
        self.midcom.sessions.remove(&id);
        self.policy.close_session(id);
    }

    /// Submits a request; the answer goes to `waiter`.
    pub(crate) fn submit(&mut self, by: &Requester, request: Request, waiter: Waiter) {
        self.midcom.next_transaction += 1;
        let transaction = TransactionId(self.midcom.next_transaction);
        let key = TransactionKey { front: by.agent.front, transaction: request.name(), result: "ok" };
        self.midcom.waiting.insert(transaction, (key, waiter));
        self.policy.submit(transaction, by, request, self.clock.now());
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
        let mut effects = std::mem::take(&mut self.effects);
        loop {
            effects.extend(self.policy.effects());
            if effects.is_empty() {
                break;
            }
            for effect in effects.drain(..) {
                self.carry_out_one(effect);
            }
            // A session that does not listen is over: that has effects of its own.
            for session in std::mem::take(&mut self.midcom.deaf) {
                tracing::warn!(session = session.0, "the session does not take what is said to it: ended");
                self.close(session);
            }
        }
        self.effects = effects;
    }

    fn carry_out_one(&mut self, effect: Effect) {
        match effect {
            Effect::Note { ticket, notes } => self.journal.note(ticket, notes),
            Effect::Tell { token, worker, command } => {
                if let Some(dataplane) = &mut self.dataplane
                    && !dataplane.order(worker, WorkerOrder::Policy(token, command))
                {
                    tracing::error!(worker = worker.0, "the policy engine named a worker there is none of");
                }
            }
            Effect::Reply { transaction, result } => self.replied(transaction, result),
            Effect::Notify { session, notification } => self.say_unasked(session, notification),
            Effect::Audit(audit) => {
                self.log(&audit.event);
                if let Some(log) = &self.audit {
                    log.note(audit);
                }
            }
            Effect::Suspended(id, why) => {
                tracing::warn!(rule = id.0, "rule could not be installed again: {why}; trying on");
            }
        }
    }

    fn replied(&mut self, transaction: TransactionId, result: turnpike_gateway::Answer) {
        let Some((mut key, waiter)) = self.midcom.waiting.remove(&transaction) else { return };
        if let Err(why) = &result {
            key.result = why.reason();
        }
        *self.midcom.counts.entry(key).or_default() += 1;
        match waiter {
            Waiter::Gateway(Addressee::Once(to)) => {
                if to.send(result).is_err() {
                    tracing::debug!("the asker is gone");
                }
            }
            Waiter::Gateway(Addressee::Session { session, transaction }) => {
                self.say(session, Said::Reply { transaction, answer: result });
            }
            Waiter::PinholeAdd(reply) => self.pinhole_added(reply, result),
            Waiter::PinholeRemove(reply, data) => match result {
                Ok(_) => self.succeed(reply, *data),
                Err(why) => self.refuse(reply, &error_of(&why)),
            },
            Waiter::RuleDelete(reply, data) => match result {
                Ok(_) => self.succeed(reply, *data),
                Err(why) => self.refuse(reply, &error_of(&why)),
            },
        }
    }

    fn say(&mut self, session: SessionId, said: Said) {
        if let Some(open) = self.midcom.sessions.get(&session)
            && open.said.try_send(said).is_err()
        {
            self.midcom.deaf.push(session);
        }
    }

    fn say_unasked(&mut self, session: SessionId, notification: Notification) {
        self.say(session, Said::Notification(notification));
        if matches!(notification.event, Event::SessionEnded(_)) {
            self.midcom.sessions.remove(&session);
        }
    }

    fn log(&self, event: &AuditEvent) {
        match event {
            AuditEvent::Granted { by, rule, .. } => {
                tracing::debug!(rule = rule.id.0, %by, action = rule.action.name(), "rule granted");
            }
            AuditEvent::Ended { rule, why, .. } => {
                self.board.change(|facts| {
                    if let Some(count) = facts.rules_ended.get_mut(*why as usize) {
                        *count += 1;
                    }
                });
                tracing::debug!(rule = rule.id.0, why = why.name(), "rule ended");
            }
            AuditEvent::Refused { by, transaction, why, .. } => {
                tracing::info!(%by, transaction, reason = why.reason(), "refused: {why}");
            }
            AuditEvent::Session { agent, session, why } => match (session, why) {
                (Some(session), _) => tracing::info!(%agent, session = session.0, "session opened"),
                (None, Some(why)) => tracing::warn!(%agent, "session refused: {why}"),
                (None, None) => {}
            },
            AuditEvent::Changed { .. } | AuditEvent::Locked { .. } => {}
        }
    }

    /// A worker's news of a pinhole.
    pub(crate) fn pinhole_closed(&mut self, slot: &Slot) {
        let PinholeClosed { id } = slot.body();
        self.policy.closed(id, self.clock.now());
    }

    /// Likewise.
    pub(crate) fn pinhole_locked(&mut self, slot: &Slot) {
        let locked: PinholeLocked = slot.body();
        let remote = Tuple::new(locked.remote.to_ip(), locked.remote_port);
        self.policy.locked(locked.id, remote, self.clock.now());
    }

    /// Counts and states for the exporter.
    pub(crate) fn rule_facts(&mut self) {
        // Counting takes long when there are many.
        self.counted = self.counted.wrapping_add(1);
        let count = self.policy.len() < 50_000 || self.counted.is_multiple_of(30);
        let mut states = [0; crate::facts::STATES.len()];
        if count {
            for (_, state) in self.policy.rules() {
                let place = crate::facts::STATES.iter().position(|&other| other == state);
                if let Some(count) = place.and_then(|place| states.get_mut(place)) {
                    *count += 1;
                }
            }
            self.watches_use = self.policy.watches_use();
        }
        let mut sessions = [0; Front::ALL.len()];
        for session in self.midcom.sessions.values() {
            let place = Front::ALL.iter().position(|&front| front == session.agent.front);
            if let Some(count) = place.and_then(|place| sessions.get_mut(place)) {
                *count += 1;
            }
        }
        let counts = &self.midcom.counts;
        let lost = self.audit.as_ref().map(crate::audit::AuditLog::lost).unwrap_or_default();
        let (log_records, log_lost) = (self.natlog.records(), self.natlog.lost());
        let rules = self.policy.len() as u64;
        self.board.change(|facts| {
            if count {
                facts.pinholes = states;
            }
            facts.rules = rules;
            facts.sessions = sessions;
            facts.audit_lost = lost.full + lost.failed;
            (facts.log_records, facts.log_lost) = (log_records, log_lost);
            facts.transactions.clone_from(counts);
        });
    }

    /// Ends a rule on the operator's word.
    pub(crate) fn delete_rule(&mut self, id: u32, by: &Agent, reply: LineReply) {
        let now = self.clock.now();
        let id = turnpike_policy::RuleId(id);
        let Some(status) = self.policy.status_of(id, now) else {
            return self.refuse(reply, &error_of(&turnpike_policy::Refusal::NoSuchRule(id)));
        };
        let data = Box::new(rules::rule(&status));
        let lifetime = turnpike_policy::Lifetime::NONE;
        let request = Request::RuleLifetime { rule: id, lifetime };
        self.submit(&Requester::new(by.clone()), request, Waiter::RuleDelete(reply, data));
    }

    /// Answers a refusal.
    pub(crate) fn refuse(&self, reply: LineReply, error: &ErrorBody) {
        self.board.change(|facts| facts.api_requests[1] += 1);
        answer(reply, encode_error(error));
    }

    fn pinhole_added(&mut self, reply: LineReply, result: turnpike_gateway::Answer) {
        match result {
            Ok(Reply::Enabled { rule, .. }) => {
                self.board.change(|facts| facts.pinhole_requests[0] += 1);
                if let Some((rule, state)) = self.policy.rule(rule) {
                    let data = rules::pinhole(rule, state);
                    self.succeed(reply, data);
                }
            }
            Ok(_) => {}
            Err(why) => {
                self.board.change(|facts| facts.pinhole_requests[1] += 1);
                self.refuse(reply, &error_of(&why));
            }
        }
    }
}

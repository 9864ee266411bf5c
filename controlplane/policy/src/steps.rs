//! How a rule gets from one stage to the next.

use crate::changes::Change;
use crate::effect::{About, AuditEvent, Command, Effect, Note, Ticket, Token};
use crate::engine::Engine;
use crate::identity::{Agent, Permit, Requester, SessionId, TransactionId};
use crate::refusal::Refusal;
use crate::rule::{Action, Ended, Event, Grant, Rule, RuleId, State};
use crate::transaction::{Ending, Reply};
use crate::tuple::{Lifetime, Time, Tuple};
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use turnpike_abi::WorkerId;
use turnpike_abi::command::PortLease;
use turnpike_abi::event::{Ack, AckResult};

/// Milliseconds until a suspended rule, or the journal, is tried again.
pub(crate) const RETRY: u64 = 5_000;
/// Commands under way up to which rules are installed after an attachment.
const REPLAY: usize = 4096;
/// Other ports asked for when a worker gave one that belongs to a rule which is not installed yet.
const TRIES: u8 = 8;

const NO_ROW: &str = "none in such a row is left in blocks that nobody has, or the inside host; blocks of subscribers are theirs alone";

/// Where a rule stands and what it waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// A dataplane to install it in. Granted.
    Waiting,
    /// The worker that has the outside ports.
    Leasing(Token),
    /// The worker that is to have it.
    Adding(Token),
    /// The worker that had its identity with other content.
    Replacing(Token),
    /// The reservation's worker, which is to have it back after its PER was refused.
    Restoring(Token),
    /// The journal, before its owner is answered.
    Confirming(Ticket),
    /// Nothing: in force.
    Active,
    /// The time to try again. Granted.
    Suspended(Time, Refusal),
    /// The journal and the worker, to be rid of it.
    Ending {
        /// Until the journal has forgotten it.
        ticket: Option<Ticket>,
        /// Until the worker has.
        token: Option<Token>,
    },
    /// The worker, to be rid of what was not granted.
    Withdrawing(Token),
}

/// A wish for A2 that a worker has to fulfil.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) port: Option<u16>,
    pub(crate) strict: bool,
}

impl Wish {
    pub(crate) fn is(&self, end: Grant) -> bool {
        self.address.is_none_or(|address| address == end.address)
            && self.port.is_none_or(|port| port == end.port)
    }
}

/// A request that waits for its rule.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) transaction: TransactionId,
    pub(crate) name: &'static str,
    pub(crate) by: Agent,
    pub(crate) session: Option<SessionId>,
    /// The reservation it takes the place of, which stays if it fails.
    pub(crate) before: Option<Box<Rule>>,
    pub(crate) wish: Option<Wish>,
    /// Grant another outside end if this one cannot be had.
    pub(crate) fallback: bool,
    pub(crate) durable: bool,
    /// The permit it is granted by, of which a use is held.
    pub(crate) permit: Option<Permit>,
    pub(crate) tries: u8,
    /// Workers that have no ports for a reservation that is for no inside host yet.
    pub(crate) without: u8,
}

impl Asked {
    pub(crate) fn new(transaction: TransactionId, name: &'static str, by: &Requester, durable: bool) -> Self {
        Self {
            transaction,
            name,
            by: by.agent.clone(),
            session: by.session,
            before: None,
            wish: None,
            fallback: false,
            durable,
            permit: None,
            tries: 0,
            without: 0,
        }
    }
}

/// Why a rule has to go.
#[derive(Clone, Debug)]
pub(crate) struct Leaving {
    pub(crate) why: Ended,
    pub(crate) by: Option<Agent>,
    pub(crate) batch: Option<u64>,
}

/// A rule under the engine's care.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) rule: Rule,
    pub(crate) stage: Stage,
    /// Its owner was told that it is granted; so far as `asked` has a reservation before it, that was.
    pub(crate) granted: bool,
    pub(crate) asked: Option<Box<Asked>>,
    pub(crate) leaving: Option<Box<Leaving>>,
    /// The worker had its identity with other content once since it was last started.
    replaced: bool,
    /// The worker it was last sent to.
    pub(crate) at: Option<WorkerId>,
    /// Its outside ports are leased from another worker.
    pub(crate) leased: bool,
    /// What was installed was so by another configuration, or in another dataplane.
    stale: bool,
    /// Its owner was told that it ends soon.
    pub(crate) noticed: bool,
    /// When packets were last known to pass, if it has an idle time.
    pub(crate) last_packet: Option<Time>,
    /// When to look at it next, as the index has it.
    pub(crate) due: Option<Time>,
}

impl Entry {
    pub(crate) fn asked(rule: Rule, asked: Asked) -> Self {
        Self { granted: false, asked: Some(Box::new(asked)), ..Self::restored(rule) }
    }

    pub(crate) fn restored(rule: Rule) -> Self {
        Self {
            rule,
            stage: Stage::Waiting,
            granted: true,
            asked: None,
            leaving: None,
            replaced: false,
            at: None,
            leased: false,
            stale: false,
            noticed: false,
            last_packet: None,
            due: None,
        }
    }

    /// Whether agents know of it.
    pub(crate) fn visible(&self) -> bool {
        self.granted && self.leaving.is_none()
    }

    /// Whether a PER is taking a reservation's place.
    pub(crate) fn upgrading(&self) -> bool {
        self.asked.as_ref().is_some_and(|asked| asked.before.is_some())
    }

    /// The rule as agents know it.
    pub(crate) fn granted_rule(&self) -> &Rule {
        self.asked.as_ref().and_then(|asked| asked.before.as_deref()).unwrap_or(&self.rule)
    }

    /// What the journal has to be told of a change of the granted rule. Nothing while it has been told already of the
    /// rule that takes a reservation's place: that has a lifetime and words of its own.
    pub(crate) fn change_noted(&self) -> Option<Note> {
        let superseded = self.upgrading() && matches!(self.stage, Stage::Confirming(_));
        (!superseded).then(|| Note::Write(Box::new(self.granted_rule().clone())))
    }

    pub(crate) fn granted_rule_mut(&mut self) -> &mut Rule {
        match &mut self.asked {
            Some(asked) => asked.before.as_deref_mut().unwrap_or(&mut self.rule),
            None => &mut self.rule,
        }
    }

    pub(crate) fn state(&self) -> State {
        match self.stage {
            _ if self.leaving.is_some() || self.going() => State::Closing,
            Stage::Active => State::Active,
            _ if self.upgrading() => State::Active,
            Stage::Suspended(..) => State::Suspended,
            _ => State::Pending,
        }
    }

    /// Whether the workers were told to be rid of it.
    pub(crate) fn going(&self) -> bool {
        matches!(self.stage, Stage::Ending { .. } | Stage::Withdrawing(_))
    }

    /// Whether it is not known yet if it stays.
    pub(crate) fn undecided(&self) -> bool {
        self.asked.is_some() || self.leaving.is_some() || self.going()
    }

    pub(crate) fn settled(&self) -> bool {
        matches!(self.stage, Stage::Waiting | Stage::Active | Stage::Suspended(..))
    }

    fn next_due(&self, notice: u64) -> Option<Time> {
        if self.leaving.is_some() || !self.granted || self.asked.is_some() {
            return None;
        }
        let rule = self.granted_rule();
        let noticed = if notice > 0 && !self.noticed {
            // Only for rules that live long enough for it to be of use.
            rule.expires
                .filter(|expires| rule.created.until(*expires) > notice * 2)
                .map(|expires| Time(expires.0.saturating_sub(notice)))
        } else {
            None
        };
        let idle = rule
            .behaviour
            .idle
            .map(|seconds| self.last_packet.unwrap_or(rule.created).after(u64::from(seconds) * 1000));
        let retry = match self.stage {
            Stage::Suspended(retry, _) => Some(retry),
            _ => None,
        };
        [rule.expires, noticed, idle, retry].into_iter().flatten().min()
    }
}

/// What follows when the journal has a note.
#[derive(Clone, Debug)]
pub(crate) enum After {
    /// The rule is granted.
    Grant(RuleId),
    /// The lifetimes of rules are changed; their former ends, should it fail.
    Change(Box<Change>),
    /// The rules are forgotten, all or none of them.
    Forget(Vec<RuleId>),
    /// Nothing: nobody waits for what the journal is told of these rules. Told again, should it fail.
    Told(Vec<RuleId>),
    /// Nothing: identities were noted ahead. Again before the next one, should it fail.
    Ids,
}

/// Rules that end together, and who waits for it.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) left: usize,
    pub(crate) transaction: TransactionId,
    pub(crate) session: Option<SessionId>,
    pub(crate) owner: Agent,
    pub(crate) event: Event,
    pub(crate) failed: bool,
}

impl Engine {
    /// A dataplane with `workers` workers is attached and has taken the policy table. New rules can be made; those
    /// that were granted wait for [`Engine::walked`], so that what is there already is left alone.
    pub fn attached(&mut self, workers: u8) {
        self.workers = Some(workers.max(1));
    }

    /// Everything the workers have was reported by [`Engine::found`], [`Engine::found_reservation`] and
    /// [`Engine::found_lease`]: what is missing is installed.
    pub fn walked(&mut self, now: Time) {
        self.to_start = self.in_order(Self::waits).into();
        self.start_some(now);
    }

    /// Installs rules that wait for it, oldest first, and no more at once than the workers have in hand soon: a million
    /// orders would take more memory than the rules.
    fn start_some(&mut self, now: Time) {
        while self.tokens.len() < REPLAY {
            let Some(id) = self.to_start.pop_front() else { return };
            if self.entries.get(&id).is_some_and(|entry| entry.stage == Stage::Waiting) {
                self.start(id, now);
            }
        }
    }

    /// The dataplane is gone, and with it the commands under way.
    pub fn detached(&mut self, now: Time) {
        self.workers = None;
        self.tokens.clear();
        self.to_start = VecDeque::new();
        self.leftovers.clear();
        let under_way = self.in_order(|entry| entry.stage != Stage::Waiting);
        for &id in &under_way {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            entry.leased = false;
            entry.at = None;
            match &mut entry.stage {
                Stage::Active | Stage::Suspended(..) => {
                    entry.stage = Stage::Waiting;
                    self.schedule(id);
                }
                Stage::Leasing(_) | Stage::Adding(_) | Stage::Replacing(_) | Stage::Restoring(_) => {
                    if entry.asked.is_some() {
                        self.fail_request(id, Refusal::Detached, now);
                    }
                    if let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.granted) {
                        entry.stage = Stage::Waiting;
                        self.leave_if_due(id, now);
                    } else {
                        self.take(id);
                    }
                }
                Stage::Withdrawing(_) => {
                    self.take(id);
                }
                Stage::Ending { token, .. } => {
                    *token = None;
                    self.end_if_done(id, now);
                }
                // The next dataplane may be there before the note is on disk.
                Stage::Confirming(_) => entry.stale = true,
                Stage::Waiting => {}
            }
        }
        for id in under_way {
            self.next_turn(id, now);
        }
    }

    /// The journal holds the note of `ticket`.
    pub fn durable(&mut self, ticket: Ticket, now: Time) {
        match self.tickets.remove(&ticket) {
            Some(After::Grant(id)) => {
                self.confirmed(id, now);
                self.next_turn(id, now);
            }
            Some(After::Change(change)) => self.changed(*change, now),
            Some(After::Forget(ids)) => {
                for id in ids {
                    self.forgotten(id, now);
                    self.next_turn(id, now);
                }
            }
            Some(After::Told(_) | After::Ids) | None => {}
        }
    }

    /// The journal could not be written.
    pub fn not_durable(&mut self, ticket: Ticket, now: Time) {
        match self.tickets.remove(&ticket) {
            Some(After::Grant(id)) => {
                let confirming =
                    self.entries.get(&id).is_some_and(|entry| entry.stage == Stage::Confirming(ticket));
                if confirming {
                    self.fail(id, Refusal::Journal, true, now);
                    self.next_turn(id, now);
                }
            }
            Some(After::Change(change)) => self.not_changed(ticket, *change, now),
            // Better gone now and back after a crash than here against its owner's word.
            Some(After::Forget(ids)) => {
                for id in ids {
                    if let Some(batch) = self.batch_of(id) {
                        batch.failed = true;
                    }
                    self.forgotten(id, now);
                    self.next_turn(id, now);
                }
            }
            Some(After::Told(rules)) => self.not_told(rules, now),
            Some(After::Ids) => self.forget_noted_ids(),
            None => {}
        }
    }

    /// A worker answered the command of `token`.
    pub fn answer(&mut self, token: Token, ack: Ack, now: Time) {
        let Some(id) = self.tokens.remove(&token) else { return };
        self.start_some(now);
        if self.leftover_answered(token, ack, now) {
            return;
        }
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let ok = ack.result == AckResult::OK;
        let asked = entry.asked.is_some();
        let row = matches!(entry.rule.action, Action::Reserve(_)) || entry.rule.range > 1;
        let row = row && entry.rule.outside.is_none();
        match &mut entry.stage {
            Stage::Leasing(waits) if *waits == token => {
                if ok {
                    entry.leased = true;
                    self.send_install(id, true, now)
                } else {
                    self.fail(id, Refusal::Worker(ack.result), false, now)
                }
            }
            // It was sent under the pool numbers of another configuration: taken back, and sent again.
            Stage::Adding(waits) if *waits == token && entry.stale && !asked => self.take_back(id),
            Stage::Adding(waits) if *waits == token => match ack.result {
                AckResult::OK => self.installed(id, ack, now),
                // What the worker has under this identity is from before a reload or a restart.
                AckResult::CONFLICT if !asked && !entry.replaced => {
                    entry.replaced = true;
                    self.take_back(id);
                }
                AckResult::NO_PORT if self.another_worker(id) => self.send_install(id, false, now),
                AckResult::NO_PORT if row => self.fail(id, Refusal::NoPort(NO_ROW), false, now),
                result => self.fail(id, Refusal::Worker(result), false, now),
            },
            Stage::Replacing(waits) if *waits == token => self.begin(id, now),
            Stage::Restoring(waits) if *waits == token => {
                if ok {
                    self.settle(id, now)
                } else {
                    self.suspend(id, Refusal::Worker(ack.result), now)
                }
            }
            Stage::Ending { token: waits, .. } if *waits == Some(token) => {
                *waits = None;
                self.end_if_done(id, now);
            }
            Stage::Withdrawing(waits) if *waits == token => self.withdrawn(id, now),
            _ => {}
        }
        self.next_turn(id, now);
    }

    /// Installs a rule that was granted.
    pub(crate) fn start(&mut self, id: RuleId, now: Time) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.replaced = false;
            entry.stale = false;
        }
        self.begin(id, now);
    }

    /// Sets a rule on its way to the workers.
    pub(crate) fn begin(&mut self, id: RuleId, now: Time) {
        match self.lease_for(id) {
            Ok(Some((worker, lease))) => {
                let token = self.tell(id, worker, Command::Lease(lease));
                self.set(id, Stage::Leasing(token));
            }
            Ok(None) => self.send_install(id, false, now),
            Err(why) => {
                // Its pool is gone: nobody waits for the answer to this.
                if let Some((worker, command)) = self.removal(id, Ending::Cut) {
                    self.tell(id, worker, command);
                }
                self.fail(id, why, false, now);
            }
        }
    }

    fn send_install(&mut self, id: RuleId, leased: bool, now: Time) {
        match self.installation(id, leased) {
            Ok(Some((worker, command))) => {
                let token = self.tell(id, worker, command);
                self.set(id, Stage::Adding(token));
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.stale = false;
                    entry.at = Some(worker);
                }
            }
            // A reservation of a pure firewall, or of a whole address, holds nothing in a worker.
            Ok(None) => self.in_place(id, now),
            Err(why) => self.fail(id, why, false, now),
        }
    }

    /// Whether a reservation that a worker has no ports for may still be had of the next: any worker's will do as long as
    /// there is no inside host.
    fn another_worker(&mut self, id: RuleId) -> bool {
        let workers = self.workers.unwrap_or(1);
        let Some(entry) = self.entries.get_mut(&id) else { return false };
        let anywhere = entry.rule.internal.is_none() && entry.rule.outside.is_none();
        match &mut entry.asked {
            Some(asked) if anywhere && asked.without + 1 < workers => {
                asked.without += 1;
                true
            }
            _ => false,
        }
    }

    /// The worker has it.
    fn installed(&mut self, id: RuleId, ack: Ack, now: Time) {
        let Some(entry) = self.entries.get(&id) else { return };
        let rule = &entry.rule;
        let end = match (&rule.pool, ack.external.to_v4()) {
            (None, _) => None,
            (Some(_), Some(address)) if ack.external_port != 0 || !rule.protocol.has_ports() => {
                Some(Grant { address: address.into(), port: ack.external_port })
            }
            // An answer without an end is no answer.
            (Some(_), _) => return self.fail(id, Refusal::Worker(ack.result), true, now),
        };
        if let Some(end) = end.filter(|end| rule.outside != Some(*end)) {
            if rule.outside.is_some() {
                return self.fail(id, Refusal::NotProvided("the worker chose another"), true, now);
            }
            if let Err(why) = self.outside_free(rule, end) {
                return self.try_another(id, why, now);
            }
            self.claim(id, end);
            // It joined a mapping whose ports are leased already.
            let leased = matches!(self.lease_for(id), Ok(Some(_)));
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.leased |= leased;
            }
        }
        self.in_place(id, now);
    }

    /// The worker gave ports of a rule that waits to be installed again: back with them, and others.
    fn try_another(&mut self, id: RuleId, why: Refusal, now: Time) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        match &mut entry.asked {
            Some(asked) if asked.tries < TRIES => {
                asked.tries += 1;
                self.take_back(id);
            }
            _ => self.fail(id, why, true, now),
        }
    }

    /// Has the worker forget it, to begin again.
    fn take_back(&mut self, id: RuleId) {
        if let Some((worker, command)) = self.removal(id, Ending::Cut) {
            let token = self.tell(id, worker, command);
            self.set(id, Stage::Replacing(token));
        }
    }

    /// In the workers: a new rule goes to the journal, one that was granted is in force again.
    fn in_place(&mut self, id: RuleId, now: Time) {
        let Some(entry) = self.entries.get(&id) else { return };
        let Some(asked) = &entry.asked else { return self.settle(id, now) };
        let durable = asked.durable;
        let mut notes = vec![Note::Write(Box::new(entry.rule.clone()))];
        notes.extend(asked.permit.map(|Permit { nonce, expires, .. }| Note::Use { permit: nonce, expires }));
        if durable {
            let ticket = self.note(notes, After::Grant(id));
            self.set(id, Stage::Confirming(ticket));
        } else {
            self.note(notes, After::Told(vec![id]));
            self.confirmed(id, now);
        }
    }

    /// Durable and in the workers: answered, and the others hear of it (RFC 5189 2.3.8, 2.3.9).
    fn confirmed(&mut self, id: RuleId, now: Time) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let Some(asked) = entry.asked.take() else { return };
        entry.granted = true;
        entry.last_packet = entry.rule.behaviour.idle.map(|_| now);
        if let Some(permit) = &asked.permit {
            self.permits.settle(permit, true);
        }
        self.under_way = self.under_way.saturating_sub(1);
        let Some(entry) = self.entries.get(&id) else { return };
        let rule = &entry.rule;
        let lifetime = Lifetime::left(rule.expires, now);
        let outside = rule.outside.map(|end| Tuple::new(end.address.into(), end.port));
        let reply = match rule.action {
            Action::Reserve(_) => {
                Reply::Reserved { rule: id, group: rule.group, inside: None, outside, lifetime }
            }
            Action::Enable { .. } => Reply::Enabled {
                rule: id,
                group: rule.group,
                inside: rule.external,
                outside: outside.or(rule.internal).unwrap_or(rule.external),
                lifetime,
            },
        };
        let rule = rule.clone();
        let owner = rule.owner.clone();
        self.reply(asked.transaction, Ok(reply));
        self.notify(&owner, asked.session, Event::Rule { rule: id, lifetime });
        let event = AuditEvent::Granted { by: asked.by, transaction: asked.name, rule: Box::new(rule) };
        self.audit(now, event);
        self.settle(id, now);
    }

    /// In force, unless the dataplane or the configuration changed meanwhile or it has to go.
    fn settle(&mut self, id: RuleId, now: Time) {
        let attached = self.workers.is_some();
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.stage = if attached { Stage::Active } else { Stage::Waiting };
        let again = std::mem::take(&mut entry.stale) && attached && entry.leaving.is_none();
        self.schedule(id);
        if again {
            self.start(id, now);
        } else {
            self.leave_if_due(id, now);
        }
    }

    /// The configuration changed: what is installed is installed again by its new pools.
    pub(crate) fn reinstall(&mut self, now: Time) {
        for entry in self.entries.values_mut() {
            if !entry.settled() && !entry.going() {
                entry.stale = true;
            }
        }
        let translated = |entry: &Entry| {
            entry.rule.pool.is_some() && matches!(entry.stage, Stage::Active | Stage::Suspended(..))
        };
        for id in self.in_order(translated) {
            self.start(id, now);
        }
    }

    /// A rule could not be installed, or not be noted. `there`: the worker has it.
    fn fail(&mut self, id: RuleId, why: Refusal, there: bool, now: Time) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let Some(asked) = &mut entry.asked else { return self.suspend(id, why, now) };
        if asked.fallback && asked.before.is_none() && matches!(why, Refusal::Worker(_) | Refusal::NoPort(_))
        {
            asked.fallback = false;
            asked.wish = None;
            asked.without = 0;
            return self.without_wish(id, now);
        }
        let upgrade = asked.before.is_some();
        let leased = self.lease_of(id);
        let held = self.removal(id, Ending::Cut);
        self.fail_request(id, why, now);
        if upgrade {
            if there {
                self.tell_journal(vec![id]);
            }
            // PER refused: the reservation stands as it was (RFC 5189 2.3.9).
            return self.restore_reservation(id, there.then_some(held).flatten(), leased, now);
        }
        match held.filter(|_| there) {
            Some((worker, command)) => {
                let token = self.tell(id, worker, command);
                self.set(id, Stage::Withdrawing(token));
            }
            None => self.withdrawn(id, now),
        }
    }

    /// Answers a request with its refusal; a reservation takes its former place.
    fn fail_request(&mut self, id: RuleId, why: Refusal, now: Time) {
        let Some(asked) = self.entries.get_mut(&id).and_then(|entry| entry.asked.take()) else { return };
        if let Some(permit) = &asked.permit {
            self.permits.settle(permit, false);
        }
        self.under_way = self.under_way.saturating_sub(1);
        let Some(rule) = self.entries.get(&id).map(|entry| &entry.rule) else { return };
        let about = About {
            rule: asked.before.is_some().then_some(id),
            group: Some(rule.group),
            zone: Some(rule.zone.clone()),
            internal: rule.internal.map(|internal| (rule.protocol, internal)),
            external: Some(rule.external),
        };
        let by = Requester { agent: asked.by, session: asked.session, host: None, permit: None };
        self.refuse(asked.transaction, &by, asked.name, about, why, now);
        if let Some(before) = asked.before {
            self.replace_rule(id, *before);
        }
    }

    /// What a refused PER took of its reservation is put back. Where it took nothing the worker answers with what it
    /// has; where the reservation was not in place yet it gets there now.
    fn restore_reservation(
        &mut self,
        id: RuleId,
        held: Option<(WorkerId, Command)>,
        leased: Option<(WorkerId, PortLease)>,
        now: Time,
    ) {
        if let Some((worker, command)) = held {
            self.tell(id, worker, command);
        }
        if let Some((worker, lease)) = leased {
            self.tell(id, worker, Command::Release(PortLease { reservation: 0, ..lease }));
        }
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.leased = false;
        }
        match self.installation(id, false) {
            Ok(Some((worker, command))) => {
                let token = self.tell(id, worker, command);
                self.set(id, Stage::Restoring(token));
            }
            _ => self.settle(id, now),
        }
    }

    /// Another outside end will do: the worker's choice.
    fn without_wish(&mut self, id: RuleId, now: Time) {
        if let Some((worker, lease)) = self.lease_of(id) {
            self.tell(id, worker, Command::Release(lease));
        }
        if let Some(entry) = self.entries.get_mut(&id) {
            self.index.remove_outside(&entry.rule);
            entry.rule.outside = None;
            entry.leased = false;
        }
        self.begin(id, now);
    }

    /// Granted, but not installed again.
    fn suspend(&mut self, id: RuleId, why: Refusal, now: Time) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.stage = Stage::Suspended(now.after(RETRY), why.clone());
        self.schedule(id);
        self.effects.push_back(Effect::Suspended(id, why));
        self.leave_if_due(id, now);
    }

    /// The worker is rid of what was not granted.
    fn withdrawn(&mut self, id: RuleId, now: Time) {
        self.release_leases(id, now);
        self.take(id);
    }

    /// Gives a rule its outside end.
    fn claim(&mut self, id: RuleId, end: Grant) {
        if let Some(entry) = self.entries.get_mut(&id) {
            self.index.remove_outside(&entry.rule);
            entry.rule.outside = Some(end);
            self.index.insert_outside(&entry.rule);
        }
    }

    /// Puts a rule in the place of the one of its identity, group and owner.
    pub(crate) fn replace_rule(&mut self, id: RuleId, rule: Rule) {
        if let Some(entry) = self.entries.get_mut(&id) {
            self.index.remove_ends(&entry.rule);
            entry.rule = rule;
            self.index.insert_ends(&entry.rule);
        }
    }

    /// Ids of the entries that match, oldest first.
    pub(crate) fn in_order(&self, which: impl Fn(&Entry) -> bool) -> Vec<RuleId> {
        let mut ids: Vec<RuleId> =
            self.entries.values().filter(|entry| which(entry)).map(|entry| entry.rule.id).collect();
        ids.sort_unstable();
        ids
    }

    pub(crate) fn set(&mut self, id: RuleId, stage: Stage) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.stage = stage;
        }
    }

    pub(crate) fn tell(&mut self, id: RuleId, worker: WorkerId, command: Command) -> Token {
        let token = Token(self.handle());
        self.tokens.insert(token, id);
        self.effects.push_back(Effect::Tell { token, worker, command });
        token
    }

    /// Notes in the index when to look at a rule next.
    pub(crate) fn schedule(&mut self, id: RuleId) {
        let notice = u64::from(self.access.limits.notice) * 1000;
        if let Some(entry) = self.entries.get_mut(&id) {
            let next = entry.next_due(notice);
            self.index.schedule(id, entry.due, next);
            entry.due = next;
        }
    }
}

//! How lifetimes change and rules end: RLC, GLC, expiry, idleness, the workers' word (RFC 5189 2.3.10, 2.3.13, 2.4.2).

use crate::access::{Profile, Rights};
use crate::changes::{Change, Changed};
use crate::effect::{AuditEvent, Note};
use crate::engine::Engine;
use crate::identity::{Agent, Requester, TransactionId};
use crate::lists::has_right;
use crate::refusal::Refusal;
use crate::rule::{Ended, Event, GroupId, RuleId};
use crate::sessions::profile_of;
use crate::steps::{After, Batch, Leaving, Stage};
use crate::transaction::{Annotation, Reply};
use crate::tuple::{Lifetime, Time, Tuple};
use std::sync::Arc;

impl Engine {
    /// RLC.
    pub(crate) fn rule_lifetime(
        &mut self,
        transaction: TransactionId,
        by: &Requester,
        id: RuleId,
        lifetime: Lifetime,
        now: Time,
    ) -> Result<(), Refusal> {
        let access = Arc::clone(&self.access);
        let profile = profile_of(&access, by)?;
        may_set(profile, by, lifetime, "rlc")?;
        let owner = self.accessible(profile, by, id)?.owner.clone();
        if lifetime == Lifetime::NONE {
            let event = Event::Rule { rule: id, lifetime };
            self.delete(vec![id], transaction, by, owner, event, now);
            return Ok(());
        }
        let granted = lifetime.min(profile.lifetime);
        let event = Event::Rule { rule: id, lifetime: granted };
        self.change("rlc", vec![id], transaction, by, profile, owner, granted, event, now)
    }

    /// GLC: RLC of every member at once (RFC 5189 2.4.2).
    pub(crate) fn group_lifetime(
        &mut self,
        transaction: TransactionId,
        by: &Requester,
        group: GroupId,
        lifetime: Lifetime,
        now: Time,
    ) -> Result<(), Refusal> {
        let access = Arc::clone(&self.access);
        let profile = profile_of(&access, by)?;
        may_set(profile, by, lifetime, "glc")?;
        let owner = self.accessible_group(profile, by, group)?;
        let members: Vec<RuleId> = self.index.members(group).filter(|id| self.rule(*id).is_some()).collect();
        if lifetime == Lifetime::NONE {
            let event = Event::Group { group, lifetime };
            self.delete(members, transaction, by, owner, event, now);
            return Ok(());
        }
        let granted = lifetime.min(profile.lifetime);
        let event = Event::Group { group, lifetime: granted };
        self.change("glc", members, transaction, by, profile, owner, granted, event, now)
    }

    /// Other words on a rule of one's own.
    pub(crate) fn annotate(
        &mut self,
        transaction: TransactionId,
        by: &Requester,
        id: RuleId,
        annotation: Annotation,
        now: Time,
    ) -> Result<(), Refusal> {
        let access = Arc::clone(&self.access);
        let profile = profile_of(&access, by)?;
        let description = annotation.description.as_ref().map_or(0, |text| text.len());
        if description.max(annotation.tag.len()) > Annotation::LONGEST {
            return Err(Refusal::Annotation(Annotation::LONGEST));
        }
        let rule = self.accessible(profile, by, id)?;
        let (owner, lifetime) = (rule.owner.clone(), Lifetime::left(rule.expires, now));
        let Some(entry) = self.entries.get_mut(&id) else { return Err(Refusal::NoSuchRule(id)) };
        let before = std::mem::replace(&mut entry.granted_rule_mut().annotation, annotation.clone());
        let notes = entry.change_noted().into_iter().collect();
        let change = Change {
            transaction,
            name: "annotate",
            by: by.clone(),
            owner,
            lifetime,
            event: None,
            rules: vec![(id, Changed::Words { before, after: annotation })],
        };
        self.note(notes, After::Change(Box::new(change)));
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "one transaction's parameters, two callers")]
    fn change(
        &mut self,
        name: &'static str,
        ids: Vec<RuleId>,
        transaction: TransactionId,
        by: &Requester,
        profile: &Profile,
        owner: Agent,
        lifetime: Lifetime,
        event: Event,
        now: Time,
    ) -> Result<(), Refusal> {
        let expires = lifetime.from(now);
        let later =
            |before: Option<Time>| before.is_some_and(|before| expires.is_none_or(|end| end > before));
        if !profile.rights.has(Rights::EXTEND)
            && let Some(&id) =
                ids.iter().find(|id| self.rule(**id).is_some_and(|(rule, _)| later(rule.expires)))
        {
            return Err(Refusal::NotExtendable(id));
        }
        let mut notes = Vec::with_capacity(ids.len());
        let mut rules = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            let rule = entry.granted_rule_mut();
            rules.push((id, Changed::Expires { before: rule.expires, after: expires }));
            rule.expires = expires;
            notes.extend(entry.change_noted());
            self.schedule(id);
        }
        let event = Some(event);
        let change = Change { transaction, name, by: by.clone(), owner, lifetime, event, rules };
        if profile.durable {
            self.note(notes, After::Change(Box::new(change)));
        } else {
            self.note(notes, After::Told(change.rules.iter().map(|rule| rule.0).collect()));
            self.changed(change, now);
        }
        Ok(())
    }

    fn delete(
        &mut self,
        ids: Vec<RuleId>,
        transaction: TransactionId,
        by: &Requester,
        owner: Agent,
        event: Event,
        now: Time,
    ) {
        let number = self.handle();
        let (session, left) = (by.session, ids.len());
        let batch = Batch { left, transaction, session, owner, event, failed: false };
        self.batches.insert(number, batch);
        for &id in &ids {
            self.mark_leaving(id, Ended::Deleted, Some(by.agent.clone()), Some(number));
        }
        // No intermediate state is stable (RFC 5189 2.1.4): the journal forgets them at once, but for those that something
        // else is still under way with.
        let (now_due, later): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| self.is_due_to_leave(*id));
        self.forget(now_due, now);
        for id in later {
            self.leave_if_due(id, now);
        }
    }

    /// Ends a rule on the operator's word, whoever owns it. `by` is the operator.
    ///
    /// # Errors
    /// [`Refusal::NoSuchRule`].
    pub fn operator_ends(&mut self, id: RuleId, by: Agent, now: Time) -> Result<(), Refusal> {
        self.rule(id).ok_or(Refusal::NoSuchRule(id))?;
        self.end_unasked(id, Ended::Operator, Some(by), now);
        Ok(())
    }

    /// A worker says that a pinhole closed by itself.
    pub fn closed(&mut self, id: u64, now: Time) {
        if let Some(id) = u32::try_from(id).ok().map(RuleId).filter(|id| self.rule(*id).is_some()) {
            self.end_unasked(id, Ended::Closed, None, now);
        }
    }

    /// A worker says that a remote end has locked a pinhole; port 0 if only its address counts.
    pub fn locked(&mut self, id: u64, remote: Tuple, now: Time) {
        let Some(id) = u32::try_from(id).ok().map(RuleId) else { return };
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.rule.locked = Some(remote);
        if entry.visible() && !entry.upgrading() {
            let rule = Box::new(entry.rule.clone());
            self.note(vec![Note::Write(rule.clone())], After::Told(vec![id]));
            self.audit(now, AuditEvent::Locked { rule });
        }
    }

    /// Packets passed through a rule that has an idle time, or flows of it live, at `when`.
    pub fn used(&mut self, id: u64, when: Time) {
        let Some(id) = u32::try_from(id).ok().map(RuleId) else { return };
        if let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.rule.behaviour.idle.is_some()) {
            entry.last_packet = entry.last_packet.max(Some(when));
            self.schedule(id);
        }
    }

    /// Whether any rule has an idle time, so that its use has to be reported by [`Engine::used`].
    #[must_use]
    pub fn watches_use(&self) -> bool {
        self.entries.values().any(|entry| entry.rule.behaviour.idle.is_some())
    }

    /// What is due of a rule: its end, a notice of it, an installation to be tried again.
    pub(crate) fn due(&mut self, id: RuleId, now: Time) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let rule = entry.granted_rule();
        let idle = rule.behaviour.idle.is_some_and(|seconds| {
            entry.last_packet.unwrap_or(rule.created).after(u64::from(seconds) * 1000) <= now
        });
        if rule.expires.is_some_and(|expires| expires <= now) {
            return self.end_unasked(id, Ended::Expired, None, now);
        }
        if idle {
            return self.end_unasked(id, Ended::Idle, None, now);
        }
        if matches!(entry.stage, Stage::Suspended(retry, _) if retry <= now) {
            entry.stage = Stage::Waiting;
            self.schedule(id);
            if self.workers.is_some() {
                self.start(id, now);
            }
            return;
        }
        entry.noticed = true;
        let (owner, lifetime) =
            (entry.granted_rule().owner.clone(), Lifetime::left(entry.granted_rule().expires, now));
        self.schedule(id);
        self.notify(&owner, None, Event::Expiring { rule: id, lifetime });
    }

    /// ARE: every session that may act on the rule hears of its end before it ends (RFC 5189 2.3.13).
    fn end_unasked(&mut self, id: RuleId, why: Ended, by: Option<Agent>, now: Time) {
        let Some((rule, _)) = self.rule(id) else { return };
        let owner = rule.owner.clone();
        self.notify(&owner, None, Event::Rule { rule: id, lifetime: Lifetime::NONE });
        self.leave(id, why, by, None, now);
    }

    fn leave(&mut self, id: RuleId, why: Ended, by: Option<Agent>, batch: Option<u64>, now: Time) {
        self.mark_leaving(id, why, by, batch);
        self.leave_if_due(id, now);
    }

    fn mark_leaving(&mut self, id: RuleId, why: Ended, by: Option<Agent>, batch: Option<u64>) {
        if let Some(entry) = self.entries.get_mut(&id) {
            if entry.leaving.is_none() {
                entry.leaving = Some(Box::new(Leaving { why, by, batch }));
            }
            self.schedule(id);
        }
    }

    fn is_due_to_leave(&self, id: RuleId) -> bool {
        let entry = self.entries.get(&id);
        entry.is_some_and(|entry| entry.leaving.is_some() && entry.asked.is_none() && entry.settled())
    }

    /// Lets a rule go that has to, once nothing else is under way with it.
    pub(crate) fn leave_if_due(&mut self, id: RuleId, now: Time) {
        if self.is_due_to_leave(id) {
            self.forget(vec![id], now);
        }
    }

    /// Takes rules from the journal, all or none, and each from the workers.
    fn forget(&mut self, ids: Vec<RuleId>, now: Time) {
        if ids.is_empty() {
            return;
        }
        let notes = ids.iter().map(|&id| Note::Forget(id)).collect();
        let ticket = Some(self.note(notes, After::Forget(ids.clone())));
        for id in ids {
            let Some(ending) = self.entries.get(&id).map(|entry| entry.rule.ending) else { continue };
            let removal = self.removal(id, ending);
            let token = removal.map(|(worker, command)| self.tell(id, worker, command));
            self.set(id, Stage::Ending { ticket, token });
            self.end_if_done(id, now);
        }
    }

    /// The journal has forgotten a rule.
    pub(crate) fn forgotten(&mut self, id: RuleId, now: Time) {
        if let Some(entry) = self.entries.get_mut(&id)
            && let Stage::Ending { ticket, .. } = &mut entry.stage
        {
            *ticket = None;
            self.end_if_done(id, now);
        }
    }

    pub(crate) fn batch_of(&mut self, id: RuleId) -> Option<&mut Batch> {
        let number = self.entries.get(&id)?.leaving.as_ref()?.batch?;
        self.batches.get_mut(&number)
    }

    /// Gone from the journal and the workers: who waited is answered, then the others hear of it.
    pub(crate) fn end_if_done(&mut self, id: RuleId, now: Time) {
        let done =
            |entry: &crate::steps::Entry| matches!(entry.stage, Stage::Ending { ticket: None, token: None });
        if !self.entries.get(&id).is_some_and(|entry| done(entry)) {
            return;
        }
        self.release_leases(id, now);
        let Some(entry) = self.take(id) else { return };
        let Some(leaving) = entry.leaving else { return };
        let event = AuditEvent::Ended { by: leaving.by, rule: Box::new(entry.rule), why: leaving.why };
        self.audit(now, event);
        let Some(number) = leaving.batch else { return };
        let Some(batch) = self.batches.get_mut(&number) else { return };
        batch.left -= 1;
        if batch.left == 0
            && let Some(batch) = self.batches.remove(&number)
        {
            let result =
                if batch.failed { Err(Refusal::Journal) } else { Ok(Reply::Lifetime(Lifetime::NONE)) };
            self.reply(batch.transaction, result);
            self.notify(&batch.owner, batch.session, batch.event);
        }
    }
}

/// A lifetime of 0 deletes (RFC 5189 2.3.10).
fn may_set(profile: &Profile, by: &Requester, lifetime: Lifetime, name: &'static str) -> Result<(), Refusal> {
    let right = if lifetime == Lifetime::NONE { Rights::DELETE } else { Rights::MODIFY };
    has_right(profile, by, right, name)
}

//! Changes of granted rules on their way to the journal, and what follows if it does not take them.

use crate::effect::{About, AuditEvent, Ticket};
use crate::engine::Engine;
use crate::identity::{Agent, Requester, TransactionId};
use crate::refusal::Refusal;
use crate::rule::{Event, Rule, RuleId};
use crate::steps::{After, Entry, RETRY};
use crate::transaction::{Annotation, Reply};
use crate::tuple::{Lifetime, Time};

/// Rules named in a line of the audit log.
const NAMED: usize = 64;

/// A change of lifetimes, or of words, on its way to the journal.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) transaction: TransactionId,
    pub(crate) name: &'static str,
    pub(crate) by: Requester,
    pub(crate) owner: Agent,
    pub(crate) lifetime: Lifetime,
    /// What others hear; nothing of words.
    pub(crate) event: Option<Event>,
    /// What became of each rule.
    pub(crate) rules: Vec<(RuleId, Changed)>,
}

/// What a change replaced, and by what. Undone if the journal fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Changed {
    /// A rule's end.
    Expires { before: Option<Time>, after: Option<Time> },
    /// A rule's words.
    Words { before: Annotation, after: Annotation },
}

impl Changed {
    /// Makes this the later one of two changes of which the earlier did not happen. Whether they change the same.
    fn come_after(&mut self, earlier: &Self) -> bool {
        match (self, earlier) {
            (Self::Expires { before, .. }, Self::Expires { before: first, .. }) => *before = *first,
            (Self::Words { before, .. }, Self::Words { before: first, .. }) => before.clone_from(first),
            _ => return false,
        }
        true
    }

    /// Takes it back, unless something else has come to stand there.
    fn undo(self, rule: &mut Rule) {
        match self {
            Self::Expires { before, after } if rule.expires == after => rule.expires = before,
            Self::Words { before, after } if rule.annotation == after => rule.annotation = before,
            _ => {}
        }
    }
}

impl Engine {
    /// Lifetimes are changed in the journal: answered, and the others hear of it.
    pub(crate) fn changed(&mut self, change: Change, now: Time) {
        self.reply(change.transaction, Ok(Reply::Lifetime(change.lifetime)));
        if let Some(event) = change.event {
            self.notify(&change.owner, change.by.session, event);
            let event = AuditEvent::Changed {
                by: change.by.agent,
                transaction: change.name,
                rules: change.rules.iter().map(|rule| rule.0).take(NAMED).collect(),
                owner: change.owner,
                lifetime: change.lifetime,
            };
            self.audit(now, event);
        }
    }

    /// The change is not in the journal: refused.
    pub(crate) fn not_changed(&mut self, ticket: Ticket, change: Change, now: Time) {
        let about = About { rule: change.rules.first().map(|rule| rule.0), ..About::default() };
        self.undo(ticket, change.rules);
        self.refuse(change.transaction, &change.by, change.name, about, Refusal::Journal, now);
    }

    /// A change is not in the journal. Later ones on their way there stand, but have nothing else to go back to; what
    /// other notes have told the journal of it since is put right.
    fn undo(&mut self, lost: Ticket, mut rules: Vec<(RuleId, Changed)>) {
        let changes = self.tickets.iter_mut().filter_map(|(ticket, after)| match after {
            After::Change(change) if ticket.0 > lost.0 => Some((ticket.0, change)),
            _ => None,
        });
        let mut later: Vec<_> = changes.collect();
        later.sort_unstable_by_key(|(ticket, _)| *ticket);
        for (_, change) in later {
            rules.retain(|(id, earlier)| {
                let rule = change.rules.iter_mut().find(|rule| rule.0 == *id);
                !rule.is_some_and(|rule| rule.1.come_after(earlier))
            });
        }
        let ids = rules.iter().map(|rule| rule.0).collect();
        for (id, changed) in rules {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            changed.undo(entry.granted_rule_mut());
            self.schedule(id);
        }
        self.tell_journal(ids);
    }

    /// Tells the journal how granted rules stand.
    pub(crate) fn tell_journal(&mut self, ids: Vec<RuleId>) {
        let stays = |entry: &Entry| entry.granted && !entry.going();
        let entries =
            ids.iter().filter_map(|id| self.entries.get(id).map(Box::as_ref).filter(|entry| stays(entry)));
        let notes: Vec<_> = entries.filter_map(|entry| entry.change_noted()).collect();
        if !notes.is_empty() {
            self.note(notes, After::Told(ids));
        }
    }

    /// Tells the journal what it failed to take, once it is time to.
    pub(crate) fn tell_journal_again(&mut self, now: Time) {
        if self.tell_again.take_if(|time| *time <= now).is_some() {
            let ids = std::mem::take(&mut self.untold).into_iter().collect();
            self.tell_journal(ids);
        }
    }

    /// The journal has not taken what it was told of these rules.
    pub(crate) fn not_told(&mut self, rules: Vec<RuleId>, now: Time) {
        self.untold.extend(rules);
        self.tell_again.get_or_insert(now.after(RETRY));
    }
}

//! Uses of permits (scenario 2.3.3). A use is held while the rule it is for is under way; it is spent if and only if that
//! rule is granted, and noted with it, so that no restart gives it back.

use crate::effect::Note;
use crate::engine::Engine;
use crate::identity::Permit;
use crate::refusal::Refusal;
use crate::steps::After;
use crate::tuple::Time;
use hashbrown::HashMap;
use std::collections::BTreeSet;

/// Permits forgotten in one call of [`Engine::advance`].
const STEP: usize = 1024;

/// How often a permit was used: what the journal knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uses {
    /// Rules that were granted by it, at least 1.
    pub times: u32,
    /// When it ends, and its uses with it.
    pub expires: Time,
}

impl Uses {
    /// With one more, of a permit that ends at `expires`. Several of one identity end with the last.
    #[must_use]
    pub fn and_one(before: Option<Self>, expires: Time) -> Self {
        match before {
            Some(Self { times, expires: end }) => {
                Self { times: times.saturating_add(1), expires: end.max(expires) }
            }
            None => Self { times: 1, expires },
        }
    }
}

/// A permit of which uses are spent or held.
#[derive(Clone, Copy, Debug)]
struct Known {
    spent: u32,
    held: u32,
    expires: Time,
}

/// Every permit that must not be forgotten yet.
#[derive(Debug, Default)]
pub(crate) struct Permits {
    known: HashMap<[u8; 16], Known>,
    /// Those of which no use is held, by the end of their validity.
    ends: BTreeSet<(Time, [u8; 16])>,
}

impl Permits {
    fn restore(&mut self, nonce: [u8; 16], uses: Uses) {
        self.known.insert(nonce, Known { spent: uses.times, held: 0, expires: uses.expires });
        self.ends.insert((uses.expires, nonce));
    }

    /// Whether a use is left; `most` permits are known at once.
    pub(crate) fn check(&self, permit: &Permit, most: usize, now: Time) -> Result<(), Refusal> {
        // What was forgotten at its end must not be used again.
        if permit.expires <= now {
            return Err(Refusal::PermitExpired);
        }
        match self.known.get(&permit.nonce) {
            Some(known) if known.spent.saturating_add(known.held) >= permit.rules => {
                Err(Refusal::PermitUsed(permit.rules))
            }
            None if permit.rules == 0 => Err(Refusal::PermitUsed(0)),
            None if self.known.len() >= most => Err(Refusal::PermitsFull(most)),
            Some(_) | None => Ok(()),
        }
    }

    /// Holds a use, which [`Permits::check`] found to be left.
    pub(crate) fn hold(&mut self, permit: &Permit) {
        let none = Known { spent: 0, held: 0, expires: permit.expires };
        let known = self.known.entry(permit.nonce).or_insert(none);
        self.ends.remove(&(known.expires, permit.nonce));
        known.held += 1;
        known.expires = known.expires.max(permit.expires);
    }

    /// What was held is spent, or was for nothing.
    pub(crate) fn settle(&mut self, permit: &Permit, spent: bool) {
        let Some(known) = self.known.get_mut(&permit.nonce) else { return };
        known.held = known.held.saturating_sub(1);
        known.spent = known.spent.saturating_add(u32::from(spent));
        if known.held > 0 {
            return;
        }
        if known.spent > 0 {
            self.ends.insert((known.expires, permit.nonce));
        } else {
            self.known.remove(&permit.nonce);
        }
    }

    /// When the first of them can be forgotten.
    pub(crate) fn first_end(&self) -> Option<Time> {
        self.ends.first().map(|(end, _)| *end)
    }

    fn take_ended(&mut self, now: Time) -> Option<[u8; 16]> {
        self.ends.first().filter(|(end, _)| *end <= now)?;
        let (_, nonce) = self.ends.pop_first()?;
        self.known.remove(&nonce);
        Some(nonce)
    }
}

impl Engine {
    /// Takes back the uses of a permit from the journal.
    pub fn restore_permit(&mut self, nonce: [u8; 16], uses: Uses) {
        self.permits.restore(nonce, uses);
    }

    /// Forgets permits that have ended. If the journal fails to, they come back with the next start, and go again.
    pub(crate) fn forget_permits(&mut self, now: Time) {
        let mut notes = Vec::new();
        while notes.len() < STEP
            && let Some(nonce) = self.permits.take_ended(now)
        {
            notes.push(Note::ForgetPermit(nonce));
        }
        if !notes.is_empty() {
            self.note(notes, After::Told(Vec::new()));
        }
    }
}

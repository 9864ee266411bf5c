//! How often each firewall rule was the first to match a first packet: counted in private, published now and then.

use crate::policy::Policy;
use turnpike_abi::layout::stats::HITS;

/// Words before the rules'.
const HEAD: usize = 2;

/// The words of [`turnpike_abi::layout::stats::HITS`], as far as the policy has rules.
#[derive(Debug)]
pub(crate) struct Hits {
    words: Vec<u64>,
    /// Of the rules: another policy with the same ones goes on counting.
    fingerprint: u64,
    changed: bool,
}

impl Hits {
    pub(crate) fn new() -> Self {
        Self { words: Vec::with_capacity(HITS), fingerprint: 0, changed: false }
    }

    /// Begins to count for a policy: from 0 unless its rules are those of the one before.
    pub(crate) fn set_policy(&mut self, policy: &Policy) {
        let (fingerprint, rules) = policy.rules();
        if self.fingerprint != fingerprint || self.words.is_empty() {
            self.words.clear();
            self.words.resize(HEAD + rules, 0);
            self.fingerprint = fingerprint;
        }
        if let [generation, count, ..] = self.words.as_mut_slice() {
            (*generation, *count) = (policy.generation(), rules as u64);
        }
        self.changed = true;
    }

    /// Counts a first packet for a rule.
    pub(crate) fn count(&mut self, rule: u16) {
        if let Some(hits) = self.words.get_mut(HEAD + usize::from(rule)) {
            *hits = hits.wrapping_add(1);
            self.changed = true;
        }
    }

    /// The words, if they changed since they were taken last.
    pub(crate) fn take(&mut self) -> Option<&[u64]> {
        core::mem::take(&mut self.changed).then_some(self.words.as_slice())
    }
}

//! Mappings that others end, and mappings whose external address is none any more (RFC 6887 section 14.2).

use super::order::{Order, Refused, RuleId, Wanted};
use super::steps::Step;
use super::table::{Dialect, Key, Mapping};
use super::{Server, Time, memo};
use crate::wire::ResultCode;
use std::net::IpAddr;

/// How long a mapping that ended by itself is remembered: a worker that gets other pools ends those of the old ones
/// before anybody else hears of it.
const REMEMBERED: u64 = 5000;
/// The old rule may be on its way out still, and with it its end: tried again after so many milliseconds.
const PAUSE: u64 = 100;
/// So often.
const TRIES: u8 = 30;
/// Most of them.
const MOST: usize = 65_536;

/// A mapping that somebody else took away.
#[derive(Debug)]
pub(super) struct Gone {
    when: Time,
    key: Key,
    mapping: Mapping,
}

/// A mapping that is to get another external end once more.
#[derive(Debug)]
pub(super) struct Again {
    pub(super) due: Time,
    key: Key,
    rule: RuleId,
    tries: u8,
}

impl Server {
    /// A mapping got no other external end.
    pub(super) fn reopen_refused(&mut self, now: Time, key: Key, rule: RuleId, tries: u8, refused: Refused) {
        if refused == Refused::External && tries < TRIES {
            self.again.push(Again { due: now.after(PAUSE), key, rule, tries: tries + 1 });
            return;
        }
        self.update(now, &key, ResultCode::NoResources);
        self.table.remove(&key);
    }

    /// Tries again what is due.
    pub(super) fn reopen_due(&mut self, now: Time) {
        let all = std::mem::take(&mut self.again);
        let (due, later) = all.into_iter().partition(|again| again.due <= now);
        self.again = later;
        let due: Vec<Again> = due;
        for Again { key, rule, tries, .. } in due {
            self.reopen(now, key, rule, tries);
        }
    }

    /// Somebody else took a mapping away. One that an order is under way for waits for its answer.
    pub fn ended(&mut self, now: Time, rule: RuleId) {
        let Some(key) = self.table.key_of(rule) else { return };
        if self.table.get(&key).is_some_and(|mapping| mapping.busy) {
            return;
        }
        self.cease_updates(&key);
        self.gone.retain(|gone| gone.when.until(now) < REMEMBERED);
        if let Some(mapping) = self.table.remove(&key)
            && self.gone.len() < MOST
        {
            self.gone.push(Gone { when: now, key, mapping });
        }
    }

    /// External addresses changed: mappings whose own is not one any more get another, and their clients hear of
    /// it. Whether any did.
    pub fn renumber(&mut self, now: Time, still: impl Fn(IpAddr) -> bool) -> bool {
        let moved = self.table.translated_away(&still);
        for (key, rule) in &moved {
            if let Some(mapping) = self.table.get_mut(key) {
                mapping.busy = true;
            }
            // The old end first: an inside end has one at a time.
            self.order(Step::Leave { key: *key, rule: *rule }, Order::Close { rule: *rule });
        }
        let mut any = !moved.is_empty();
        for Gone { when, key, mapping } in std::mem::take(&mut self.gone) {
            let Some((rule, external)) = mapping.granted else { continue };
            let recent = when.until(now) < REMEMBERED && mapping.expires > now;
            if !recent || external.ip() == key.host || still(external.ip()) || self.table.get(&key).is_some()
            {
                continue;
            }
            any = true;
            let ends = mapping.expires;
            self.table.insert(key, mapping);
            self.table.set_end(&key, ends);
            self.reopen(now, key, rule, 0);
        }
        if any {
            self.reset_epoch(now);
        }
        any
    }

    /// Gets another external end for a mapping whose rule is gone.
    pub(super) fn reopen(&mut self, now: Time, key: Key, rule: RuleId, tries: u8) {
        let same =
            self.table.get_mut(&key).filter(|mapping| mapping.granted.is_some_and(|(old, _)| old == rule));
        let Some(mapping) = same else { return };
        if mapping.prefer_failure {
            self.update(now, &key, ResultCode::CannotProvideExternal);
            self.table.remove(&key);
            return;
        }
        mapping.busy = true;
        let wanted = Wanted {
            asker: mapping.asker,
            nat_pmp: mapping.dialect == Dialect::NatPmp,
            kind: key.kind,
            host: key.host,
            protocol: key.protocol,
            port: key.port,
            size: mapping.size,
            address: None,
            external_port: None,
            strict: false,
            parity: false,
            filters: mapping.filters.clone(),
            lifetime: now.seconds_until(mapping.expires),
            memo: memo::write(&key, mapping),
        };
        self.order(Step::Reopen { key, rule, tries }, Order::Open(wanted));
    }
}

//! What follows when the policy engine answers, and what it says by itself.

use super::announce::Update;
use super::job::{Asked, Job, Shown};
use super::order::{Answer, Kept, Kind, Order, OrderId, Refused, RuleId, Wanted};
use super::table::{Dialect, Key, Mapping};
use super::{Server, Side, Time, memo};
use crate::wire::{Body, Filter, ResultCode};
use std::net::SocketAddr;

/// What an order was for.
#[derive(Debug)]
pub(super) enum Step {
    /// A mapping is made.
    Open { job: Job, key: Key, wanted: Box<Wanted>, insists: bool, tries: u8 },
    /// A mapping gets another lifetime.
    Change { job: Job, key: Key, rule: RuleId, lifetime: u32, draft: Box<Mapping> },
    /// A mapping would be shortened to this, or be taken away: what do packets say?
    Shorten { job: Job, key: Key, lifetime: u32, filters: Vec<Filter> },
    /// A mapping is taken away.
    Close { job: Job, key: Key, rule: RuleId },
    /// Somebody wants away what is not in the table: is it anywhere?
    Absent { job: Job },
    /// Is there a mapping for the inside end of a PEER request?
    Peer { job: Job, key: Key },
    /// A mapping that nobody was told of is taken away.
    Discard,
    /// One of many that are taken away.
    Sweep { number: u64, key: Key, rule: RuleId },
    /// NAT-PMP's external address.
    Address { job: Job },
    /// A mapping that lost its external end is taken away, to get another.
    Leave { key: Key, rule: RuleId },
    /// It gets another.
    Reopen { key: Key, rule: RuleId, tries: u8 },
}

/// External ends that may turn out to be nobody's before it is given up.
const TRIES: u8 = 3;

const fn code_of(refused: Refused) -> ResultCode {
    match refused {
        Refused::External | Refused::Full | Refused::Gone => ResultCode::NoResources,
        Refused::Fixed(_) | Refused::Policy => ResultCode::NotAuthorized,
        Refused::Quota => ResultCode::UserExQuota,
        Refused::Network => ResultCode::NetworkFailure,
        Refused::Protocol => ResultCode::UnsuppProtocol,
    }
}

impl Server {
    /// The policy engine's answer to an order.
    pub fn answered(&mut self, now: Time, id: OrderId, answer: Answer) {
        let Some(step) = self.waiting.remove(&id) else { return };
        match (step, answer) {
            (Step::Discard, _) => {}
            (Step::Open { job, key, wanted, insists, tries }, Answer::Opened { rule, external, size }) => {
                if self.is_withheld(&key, external, size) {
                    self.order(Step::Discard, Order::Close { rule });
                    return self.open_again(now, job, key, wanted, insists, tries);
                }
                self.opened(now, &job, &key, wanted.lifetime, (rule, external, size));
            }
            (Step::Open { job, key, wanted, insists, tries }, answer) => {
                self.open_refused(now, job, key, wanted, insists, tries, refusal(&answer));
            }
            (Step::Change { job, key, lifetime, draft, .. }, Answer::Changed) => {
                self.changed(now, &job, key, lifetime, *draft);
            }
            (Step::Change { job, key, rule, .. }, answer) => match refusal(&answer) {
                // Its lifetime was over before the order arrived: it is as if it had not been there.
                Refused::Gone => {
                    self.forget(&key, rule);
                    self.begin_again(now, job);
                }
                refused => self.give_up(now, &job, &key, refused),
            },
            (Step::Shorten { job, key, lifetime, filters }, Answer::Seen(seen)) => {
                let Some(mapping) = self.table.get_mut(&key) else {
                    return self.begin_again(now, job);
                };
                mapping.busy = false;
                let left = now.seconds_until(mapping.expires);
                // RFC 6887 section 15: not sooner than packets would have let it expire.
                match (lifetime.max(seen.remaining.min(left)), mapping.granted) {
                    (0, Some((rule, _))) => {
                        mapping.busy = true;
                        self.close(job, key, rule);
                    }
                    (lifetime, _) => self.change(job, key, lifetime, filters),
                }
            }
            (Step::Shorten { job, key, .. }, answer) => self.give_up(now, &job, &key, refusal(&answer)),
            (Step::Close { job, key, rule }, Answer::Closed | Answer::Refused(Refused::Gone)) => {
                self.forget(&key, rule);
                self.deleted(now, &job);
            }
            (Step::Close { job, key, .. }, answer) => self.give_up(now, &job, &key, refusal(&answer)),
            (Step::Absent { job }, Answer::Seen(seen)) => {
                let nat_pmp = !matches!(job.asked, Asked::Pcp { .. });
                // RFC 6887 section 15.1 and RFC 6886 section 3.4: neither of them is its to delete. NAT-PMP does
                // not speak of outgoing packets' mappings.
                if seen.fixed.is_some() || (seen.outbound.is_some() && !nat_pmp) {
                    self.fail(now, &job, ResultCode::NotAuthorized);
                } else {
                    self.deleted(now, &job);
                }
            }
            (Step::Absent { job }, answer) => self.fail(now, &job, code_of(refusal(&answer))),
            (Step::Peer { job, key }, Answer::Seen(seen)) => self.peer_seen(now, job, key, seen),
            (Step::Peer { job, .. }, answer) => self.fail(now, &job, code_of(refusal(&answer))),
            (Step::Sweep { number, key, rule }, answer) => {
                let gone = matches!(answer, Answer::Closed | Answer::Refused(Refused::Gone));
                if gone {
                    self.forget(&key, rule);
                } else if let Some(mapping) = self.table.get_mut(&key) {
                    mapping.busy = false;
                }
                let failed = (!gone).then(|| code_of(refusal(&answer)));
                self.swept(now, number, Some(failed));
            }
            (Step::Address { job }, Answer::Seen(seen)) => {
                self.nat_pmp_address(now, &job, seen.paired);
            }
            (Step::Address { job }, _) => self.nat_pmp_address(now, &job, None),
            (Step::Leave { key, rule }, _) => self.reopen(now, key, rule, 0),
            (Step::Reopen { key, .. }, Answer::Opened { rule, external, size }) => {
                if let Some(mapping) = self.table.get_mut(&key) {
                    mapping.busy = false;
                    mapping.size = size;
                    self.table.grant(&key, rule, external);
                    self.update(now, &key, ResultCode::Success);
                }
            }
            (Step::Reopen { key, rule, tries }, answer) => {
                self.reopen_refused(now, key, rule, tries, refusal(&answer));
            }
        }
    }

    /// Whether an external end is one that nobody may have, or not this host.
    fn is_withheld(&self, key: &Key, external: SocketAddr, size: u16) -> bool {
        if self.settings.side(key.host) == Side::Untranslated {
            return false;
        }
        let last = external.port().saturating_add(size.saturating_sub(1));
        let dialect = self.table.get(key).map_or(Dialect::Pcp, |mapping| mapping.dialect);
        (external.port()..=last).any(|port| Self::is_own_port(key.protocol, port))
            || self.table.companion_taken(key, dialect, external, size)
    }

    fn opened(
        &mut self,
        now: Time,
        job: &Job,
        key: &Key,
        lifetime: u32,
        (rule, external, size): (RuleId, SocketAddr, u16),
    ) {
        if let Some(mapping) = self.table.get_mut(key) {
            mapping.busy = false;
            mapping.size = size;
        }
        self.table.grant(key, rule, external);
        self.table.set_end(key, now.after_seconds(lifetime));
        self.grant(now, job, lifetime, Shown { first: key.port, size, external });
    }

    fn open_refused(
        &mut self,
        now: Time,
        job: Job,
        key: Key,
        wanted: Box<Wanted>,
        insists: bool,
        tries: u8,
        refused: Refused,
    ) {
        match refused {
            Refused::External => self.open_again(now, job, key, wanted, insists, tries),
            Refused::Fixed(external) => {
                self.table.remove(&key);
                if job.insists_on_another(external) {
                    return self.fail(now, &job, ResultCode::CannotProvideExternal);
                }
                // RFC 6887 section 11.3: for ever, as far as its host is concerned.
                self.grant(now, &job, u32::MAX, Shown { first: key.port, size: 1, external });
            }
            refused => {
                self.table.remove(&key);
                self.fail(now, &job, code_of(refused));
            }
        }
    }

    /// The suggestion is not to be had: anything will do, unless the client said otherwise.
    fn open_again(
        &mut self,
        now: Time,
        job: Job,
        key: Key,
        mut wanted: Box<Wanted>,
        insists: bool,
        tries: u8,
    ) {
        if insists || tries >= TRIES {
            self.table.remove(&key);
            let code = if insists { ResultCode::CannotProvideExternal } else { ResultCode::NoResources };
            return self.fail(now, &job, code);
        }
        (wanted.address, wanted.external_port) = (None, None);
        let order = Order::Open(Wanted::clone(&wanted));
        self.order(Step::Open { job, key, wanted, insists, tries: tries + 1 }, order);
    }

    fn changed(&mut self, now: Time, job: &Job, key: Key, lifetime: u32, mut draft: Mapping) {
        let Some(mapping) = self.table.get_mut(&key) else { return };
        // It may have moved meanwhile.
        (draft.granted, draft.size) = (mapping.granted, mapping.size);
        draft.expires = mapping.expires;
        draft.busy = false;
        let (external, size) = (draft.external(), draft.size);
        *mapping = draft;
        self.table.set_end(&key, now.after_seconds(lifetime));
        self.cease_updates(&key);
        match external {
            _ if job.lifetime() == 0 && key.kind == Kind::Inbound => self.shortened(now, job, lifetime),
            Some(external) => {
                self.grant(now, job, lifetime, Shown { first: key.port, size, external });
            }
            None => {}
        }
    }

    /// A deletion that has to wait for its packets.
    fn shortened(&mut self, now: Time, job: &Job, lifetime: u32) {
        match &job.asked {
            Asked::Pcp { request, .. } => {
                if let Body::Map(map) = request.body {
                    self.reply(now, job, ResultCode::Success, lifetime, map.suggested);
                }
            }
            Asked::NatPmp { .. } | Asked::NatPmpAddress => self.deleted(now, job),
        }
    }

    fn deleted(&mut self, now: Time, job: &Job) {
        match &job.asked {
            Asked::Pcp { request, .. } => {
                if let Body::Map(map) = request.body {
                    // RFC 6887 section 15.1: what was suggested is copied.
                    self.reply(now, job, ResultCode::Success, 0, map.suggested);
                }
            }
            Asked::NatPmp { transport, internal_port, .. } => {
                let done = crate::wire::natpmp::ResultCode::Success;
                self.nat_pmp_mapping(now, job, *transport, done, (*internal_port, 0), 0);
            }
            Asked::NatPmpAddress => {}
        }
    }

    fn give_up(&mut self, now: Time, job: &Job, key: &Key, refused: Refused) {
        if let Some(mapping) = self.table.get_mut(key) {
            mapping.busy = false;
        }
        self.fail(now, job, code_of(refused));
    }

    /// Works on a request anew whose mapping went away meanwhile.
    fn begin_again(&mut self, now: Time, job: Job) {
        match job.asked {
            Asked::Pcp { message, request, .. } => self.request(now, job.asker, &message, request),
            Asked::NatPmp { .. } => self.fail(now, &job, ResultCode::NoResources),
            Asked::NatPmpAddress => {}
        }
    }

    /// Takes a mapping out of the table, unless another took its place meanwhile.
    fn forget(&mut self, key: &Key, rule: RuleId) {
        let same = self.table.get(key).and_then(|mapping| mapping.granted);
        if same.is_some_and(|(granted, _)| granted == rule) {
            self.table.remove(key);
        }
    }

    /// Forgets what is over; the policy engine keeps the same time.
    pub(super) fn expire(&mut self, now: Time) {
        while let Some(key) = self.table.first_ended(now) {
            if self.table.get(&key).is_some_and(|mapping| mapping.busy) {
                // The policy engine's answer decides.
                self.table.set_end(&key, now.after_seconds(1));
                continue;
            }
            self.cease_updates(&key);
            self.table.remove(&key);
        }
    }

    /// Takes a rule back into the table after a restart; whether it is one of this server's.
    pub fn keep(&mut self, kept: &Kept) -> bool {
        let Some((mut key, mut mapping)) = memo::read(&kept.memo) else { return false };
        key.v6 = kept.external.is_ipv6();
        mapping.granted = Some((kept.rule, kept.external));
        self.table.insert(key, mapping);
        self.table.set_end(&key, kept.expires);
        true
    }

    pub(super) fn update(&mut self, now: Time, key: &Key, result: ResultCode) {
        let Some(mapping) = self.table.get(key) else { return };
        let update = Update::of(key, mapping, result);
        self.announce_update(now, *key, update);
    }
}

/// Why it was not done; an answer to another question is the shell's mistake, and nothing was done.
const fn refusal(answer: &Answer) -> Refused {
    match answer {
        Answer::Refused(refused) => *refused,
        Answer::Seen(_) | Answer::Opened { .. } | Answer::Changed | Answer::Closed => Refused::Network,
    }
}

//! The engine's state, what may be asked of it, and the rules for what may stand beside what.

use crate::former::pinhole::{
    Endpoint, External, Grant, Owner, Phase, Pinhole, PinholeId, Protocol, Record, Remote, Request, State,
    Time,
};
use crate::former::steps::{Entry, Stage};
use crate::former::{Ended, Realm, Refusal};
use hashbrown::HashMap;
use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use turnpike_abi::command::{PinholeAdd, PinholeRemove, PortLease};
use turnpike_abi::event::AckResult;
use turnpike_abi::{Address, WorkerId, steering};

/// Longest name of an owner, bytes.
const OWNER_BYTES: usize = 64;

/// How much there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Pinholes in all.
    pub pinholes: usize,
    /// Pinholes of one owner.
    pub per_owner: usize,
    /// Longest lifetime, milliseconds.
    pub lifetime: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { pinholes: 1 << 20, per_owner: 1 << 20, lifetime: 10 * 365 * 24 * 3600 * 1000 }
    }
}

/// Names a note in the journal that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// Names a command that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// What a worker is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Open a pinhole.
    Add(PinholeAdd),
    /// Close it.
    Remove(PinholeRemove),
    /// Keep a port for a pinhole of another worker.
    Lease(PortLease),
    /// Take that back.
    Release(PortLease),
}

/// What the daemon has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Make the record durable, then call [`Engine::durable`], or [`Engine::not_durable`].
    Note {
        /// To be handed back.
        ticket: Ticket,
        /// What to write, in place of what is there for this id.
        record: Record,
    },
    /// Delete the record.
    Forget(PinholeId),
    /// Send it; the worker's answer goes to [`Engine::answer`].
    Tell {
        /// To be handed back.
        token: Token,
        /// The worker.
        worker: WorkerId,
        /// What to tell it.
        command: Command,
    },
    /// The request of this id is granted, durable and in force.
    Granted(PinholeId),
    /// The request of this id is refused; the id is gone or on its way out.
    Refused(PinholeId, Refusal),
    /// The pinhole is no longer in force (or, without dataplane, will not be installed again).
    Ended(PinholeId, Ended),
    /// A granted pinhole could not be installed again; it is tried anew now and then.
    Suspended(PinholeId, Refusal),
}

/// The policy engine.
#[derive(Debug)]
pub struct Engine {
    pub(crate) limits: Limits,
    pub(crate) realm: Realm,
    /// Workers of the attached dataplane.
    pub(crate) workers: Option<u8>,
    pub(crate) entries: HashMap<PinholeId, Entry>,
    pub(crate) by_inside: HashMap<(Protocol, Endpoint), PinholeId>,
    pub(crate) by_external: HashMap<(Protocol, Grant), PinholeId>,
    pub(crate) by_owner: HashMap<Owner, usize>,
    pub(crate) due: BTreeSet<(Time, PinholeId)>,
    pub(crate) tickets: HashMap<Ticket, PinholeId>,
    pub(crate) tokens: HashMap<Token, PinholeId>,
    pub(crate) effects: VecDeque<Effect>,
    next_id: u64,
    next_handle: u64,
}

impl Engine {
    /// An engine without pinholes whose first id is `first_id`: 1, or one above the highest that was ever noted.
    #[must_use]
    pub fn new(limits: Limits, first_id: u64) -> Self {
        Self {
            limits,
            realm: Realm::default(),
            workers: None,
            entries: HashMap::new(),
            by_inside: HashMap::new(),
            by_external: HashMap::new(),
            by_owner: HashMap::new(),
            due: BTreeSet::new(),
            tickets: HashMap::new(),
            tokens: HashMap::new(),
            effects: VecDeque::new(),
            next_id: first_id.max(1),
            next_handle: 1,
        }
    }

    /// Takes back a pinhole from the journal. For use before [`Engine::attached`].
    ///
    /// # Errors
    /// [`Refusal::Duplicate`] if the id is known, [`Refusal::ExternalTaken`] or [`Refusal::InsideTaken`] if
    /// another pinhole has one of its ends: the journal contradicts itself.
    pub fn restore(&mut self, record: Record) -> Result<(), Refusal> {
        let Record { pinhole, phase } = record;
        let id = pinhole.id;
        if id.0 == 0 || self.entries.contains_key(&id) {
            return Err(Refusal::Duplicate(id));
        }
        if let Some(end) = known_end(&pinhole) {
            self.external_free(pinhole.request.protocol, end, None)?;
        }
        let Request { protocol, inside, .. } = pinhole.request;
        if let Some(&holder) = self.by_inside.get(&(protocol, inside)) {
            return Err(Refusal::InsideTaken { protocol, inside, external: known_end(&pinhole), holder });
        }
        self.next_id = self.next_id.max(id.0.saturating_add(1));
        let stage = if phase == Phase::Granted { Stage::Waiting } else { Stage::Parked };
        self.insert(Entry::restored(pinhole, stage, phase));
        Ok(())
    }

    /// Asks for a pinhole. The outcome comes as [`Effect::Granted`] or [`Effect::Refused`].
    ///
    /// # Errors
    /// Whatever can be refused without asking a worker.
    pub fn add(&mut self, mut request: Request, now: Time) -> Result<PinholeId, Refusal> {
        let workers = self.workers.ok_or(Refusal::Detached)?;
        self.check(&request)?;
        if let Some(end) = self.chosen_end(&request, workers)?
            && let Some(external) = &mut request.external
        {
            external.address = Some(end.address);
            external.port = Some(end.port);
        }
        self.conflicts(&request)?;
        if self.entries.len() >= self.limits.pinholes {
            return Err(Refusal::Full(self.limits.pinholes));
        }
        if self.by_owner.get(&request.owner).is_some_and(|&count| count >= self.limits.per_owner) {
            return Err(Refusal::OwnerQuota { owner: request.owner, limit: self.limits.per_owner });
        }
        let id = PinholeId(self.next_id);
        self.next_id += 1;
        let expires = request.lifetime.map(|lifetime| now.after(lifetime));
        let pinhole = Pinhole { id, request, created: now, expires, granted: None };
        let ticket = self.ticket(id);
        self.effects.push_back(Effect::Note {
            ticket,
            record: Record { pinhole: pinhole.clone(), phase: Phase::Asked },
        });
        self.insert(Entry::asked(pinhole, Stage::Noting(ticket)));
        Ok(id)
    }

    /// Removes a pinhole. The outcome comes as [`Effect::Ended`].
    ///
    /// # Errors
    /// [`Refusal::NotFound`], also for one that is on its way out.
    pub fn remove(&mut self, id: PinholeId, now: Time) -> Result<(), Refusal> {
        match self.entries.get(&id) {
            Some(entry) if entry.state() != State::Closing => {
                self.leave(id, Ended::Removed, now);
                Ok(())
            }
            _ => Err(Refusal::NotFound(id)),
        }
    }

    /// Another configuration is in force at the workers: everything translated is installed again by its pools.
    pub fn set_realm(&mut self, realm: Realm, now: Time) {
        if self.realm == realm {
            return;
        }
        self.realm = realm;
        if self.workers.is_some() {
            self.reinstall(now);
        }
    }

    /// Lifetimes that ran out and installations to be tried again, up to `now`.
    pub fn advance(&mut self, now: Time) {
        while let Some(&(time, id)) = self.due.first() {
            if time > now {
                break;
            }
            self.due.pop_first();
            let Some(entry) = self.entries.get(&id) else { continue };
            if entry.pinhole.expires.is_some_and(|expires| expires <= now) {
                self.leave(id, Ended::Expired, now);
            } else if matches!(entry.stage, Stage::Suspended(retry, _) if retry <= now) {
                self.start(id, now);
            }
        }
    }

    /// When [`Engine::advance`] has something to do next.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.due.first().map(|&(time, _)| time)
    }

    /// What is to be done, first things first. To be drained after every call.
    pub fn effects(&mut self) -> impl Iterator<Item = Effect> + '_ {
        self.effects.drain(..)
    }

    /// A pinhole, how far it is, and why it is suspended if it is.
    #[must_use]
    pub fn pinhole(&self, id: PinholeId) -> Option<(&Pinhole, State, Option<&Refusal>)> {
        self.entries.get(&id).map(Entry::view)
    }

    /// Every pinhole, in no order.
    pub fn pinholes(&self) -> impl Iterator<Item = (&Pinhole, State, Option<&Refusal>)> {
        self.entries.values().map(Entry::view)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn check(&self, request: &Request) -> Result<(), Refusal> {
        let owner = request.owner.0.len();
        if owner == 0 || owner > OWNER_BYTES {
            return Err(Refusal::Owner(owner));
        }
        let Endpoint { address, port } = request.inside;
        if port == 0 || request.external.as_ref().is_some_and(|external| external.port == Some(0)) {
            return Err(Refusal::PortZero);
        }
        if !is_host(address) {
            return Err(Refusal::NotAHost(address));
        }
        check_remote(&request.remote, address)?;
        if let Some(asked) = request.lifetime
            && !(1..=self.limits.lifetime).contains(&asked)
        {
            return Err(Refusal::Lifetime { asked, most: self.limits.lifetime });
        }
        if let Some(External { pool, address: external, .. }) = &request.external {
            if address.is_ipv6() {
                return Err(Refusal::NotTranslated(address));
            }
            self.realm.admit(pool, *external)?;
        }
        Ok(())
    }

    /// The external end where it is known before a worker is asked: both parts given, or the port given and
    /// in a block of another worker, so that its lease needs an address.
    fn chosen_end(&self, request: &Request, workers: u8) -> Result<Option<Grant>, Refusal> {
        let Some(External { pool, address, port: Some(port) }) = &request.external else { return Ok(None) };
        let inside = Address::from(request.inside.address);
        let address = match address {
            Some(address) => *address,
            None if steering::owner_of_port(*port, workers) == steering::owner_of_inside(inside, workers) => {
                return Ok(None);
            }
            None => self.address_for(request.inside.address, pool)?,
        };
        Ok(Some(Grant { address, port: *port }))
    }

    /// The pool address for an inside host whose worker is not the one to choose: the one its other pinholes
    /// have (RFC 4787 REQ-2, paired), else by its own address.
    fn address_for(&self, inside: IpAddr, pool: &str) -> Result<Ipv4Addr, Refusal> {
        let same = |entry: &&Entry| {
            let request = &entry.pinhole.request;
            request.inside.address == inside
                && request.external.as_ref().is_some_and(|external| external.pool == pool)
        };
        let other = self.entries.values().filter(same).filter_map(|entry| entry.pinhole.granted).min();
        if let Some(grant) = other {
            return Ok(grant.address);
        }
        let index = match inside {
            IpAddr::V4(v4) => u64::from(u32::from(v4)),
            IpAddr::V6(_) => 0,
        };
        self.realm
            .pool(pool)
            .and_then(|pool| pool.address_at(index))
            .ok_or_else(|| Refusal::NoSuchPool { pool: pool.to_owned(), known: Vec::new() })
    }

    /// What stands beside what: an external end belongs to one inside end, and an inside end has one pinhole
    /// (with endpoint-independent mapping its second one could only have the same external end, and a binding
    /// in the worker has one filter).
    fn conflicts(&self, request: &Request) -> Result<(), Refusal> {
        if let Some(end) = request.external.as_ref().and_then(full) {
            self.external_free(request.protocol, end, None)?;
        }
        let Some(&holder) = self.by_inside.get(&(request.protocol, request.inside)) else { return Ok(()) };
        let Some(other) = self.entries.get(&holder) else { return Ok(()) };
        let theirs = &other.pinhole.request;
        let same = theirs.external.as_ref().map(|external| &external.pool)
            == request.external.as_ref().map(|external| &external.pool)
            && theirs.remote == request.remote
            && other.state() != State::Closing;
        Err(if same {
            Refusal::Duplicate(holder)
        } else {
            Refusal::InsideTaken {
                protocol: request.protocol,
                inside: request.inside,
                external: known_end(&other.pinhole),
                holder,
            }
        })
    }

    /// Whether the external `end` is free, or belongs to `id` already.
    pub(crate) fn external_free(
        &self,
        protocol: Protocol,
        end: Grant,
        id: Option<PinholeId>,
    ) -> Result<(), Refusal> {
        match self.by_external.get(&(protocol, end)) {
            Some(&holder) if Some(holder) != id => {
                Err(Refusal::ExternalTaken { protocol, external: end, holder })
            }
            _ => Ok(()),
        }
    }

    fn insert(&mut self, entry: Entry) {
        let Pinhole { id, request, expires, .. } = &entry.pinhole;
        let id = *id;
        self.by_inside.insert((request.protocol, request.inside), id);
        *self.by_owner.entry(request.owner.clone()).or_default() += 1;
        if let Some(end) = known_end(&entry.pinhole) {
            self.by_external.insert((request.protocol, end), id);
        }
        if let Some(expires) = expires {
            self.due.insert((*expires, id));
        }
        self.entries.insert(id, entry);
    }

    /// Takes an entry out of every index.
    pub(crate) fn take(&mut self, id: PinholeId) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        let request = &entry.pinhole.request;
        self.by_inside.remove(&(request.protocol, request.inside));
        if let Some(end) = known_end(&entry.pinhole) {
            self.by_external.remove(&(request.protocol, end));
        }
        if let Some(count) = self.by_owner.get_mut(&request.owner) {
            *count -= 1;
            if *count == 0 {
                self.by_owner.remove(&request.owner);
            }
        }
        if let Some(expires) = entry.pinhole.expires {
            self.due.remove(&(expires, id));
        }
        if let Stage::Suspended(retry, _) = entry.stage {
            self.due.remove(&(retry, id));
        }
        Some(entry)
    }

    /// Ids of the entries that match, oldest first.
    pub(crate) fn in_order(&self, which: impl Fn(&Entry) -> bool) -> Vec<PinholeId> {
        let mut ids: Vec<PinholeId> =
            self.entries.values().filter(|entry| which(entry)).map(|entry| entry.pinhole.id).collect();
        ids.sort_unstable();
        ids
    }

    fn handle(&mut self) -> u64 {
        let handle = self.next_handle;
        self.next_handle += 1;
        handle
    }

    pub(crate) fn ticket(&mut self, id: PinholeId) -> Ticket {
        let ticket = Ticket(self.handle());
        self.tickets.insert(ticket, id);
        ticket
    }

    pub(crate) fn tell(&mut self, id: PinholeId, worker: WorkerId, command: Command) -> Token {
        let token = Token(self.handle());
        self.tokens.insert(token, id);
        self.effects.push_back(Effect::Tell { token, worker, command });
        token
    }
}

/// The external end if it is granted or was asked for in full.
pub(crate) fn known_end(pinhole: &Pinhole) -> Option<Grant> {
    pinhole.granted.or_else(|| pinhole.request.external.as_ref().and_then(full))
}

fn full(external: &External) -> Option<Grant> {
    Some(Grant { address: external.address?, port: external.port? })
}

fn is_host(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_broadcast() || v4.is_link_local() || v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
    };
    !(link_local || address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

fn check_remote(remote: &Remote, inside: IpAddr) -> Result<(), Refusal> {
    let bad = |why| {
        Err(Refusal::Remote { address: remote.address, length: remote.length, ports: remote.ports, why })
    };
    if remote.address.is_ipv4() != inside.is_ipv4() {
        return bad("it is of another address family than the inside end");
    }
    if remote.prefix().is_none() {
        return bad("the prefix is longer than the address");
    }
    if remote.ports.0 > remote.ports.1 {
        return bad("the first port is higher than the last");
    }
    Ok(())
}

/// A worker's refusal as ours.
pub(crate) fn refused(result: AckResult) -> Refusal {
    Refusal::Worker(result)
}

//! How a pinhole gets from one stage to the next.

use crate::former::engine::{Command, Effect, Engine, Ticket, Token, known_end, refused};
use crate::former::pinhole::{Grant, Phase, Pinhole, PinholeId, Record, State, Time};
use crate::former::{Ended, Refusal};
use std::net::IpAddr;
use turnpike_abi::command::{PinholeAdd, PinholeRemove, PortLease};
use turnpike_abi::event::{Ack, AckResult};
use turnpike_abi::{Address, PoolId, WorkerId, steering};

/// Milliseconds until a suspended pinhole is tried again.
const RETRY: u64 = 5_000;

/// Where a pinhole stands and what it waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The journal, before anything is sent.
    Noting(Ticket),
    /// A dataplane to install it in. Granted.
    Waiting,
    /// The worker that has the port's block.
    Leasing(Token),
    /// The inside host's worker.
    Adding(Token),
    /// The inside host's worker, which had the id with other content.
    Replacing(Token),
    /// The journal, to hold the grant.
    Confirming(Ticket),
    /// Nothing: in force.
    Active,
    /// The time to try again. Granted.
    Suspended(Time, Refusal),
    /// The journal, before it is taken away.
    Parting(Ticket),
    /// The inside host's worker, to take it away.
    Removing(Token),
    /// The worker that leased the port.
    Releasing(Token),
    /// A dataplane to be taken from.
    Parked,
}

/// A pinhole under the engine's care.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) pinhole: Pinhole,
    pub(crate) stage: Stage,
    /// Its owner was told that it is granted.
    answered: bool,
    /// It is to go as soon as its stage allows.
    leaving: Option<Ended>,
    /// Its owner was told that it ended, or never heard of it.
    ended: bool,
    /// The worker had its id with other content once since it was last started.
    replaced: bool,
    /// What was installed was so by another configuration, or in another dataplane.
    stale: bool,
}

impl Entry {
    pub(crate) fn asked(pinhole: Pinhole, stage: Stage) -> Self {
        Self { pinhole, stage, answered: false, leaving: None, ended: false, replaced: false, stale: false }
    }

    pub(crate) fn restored(pinhole: Pinhole, stage: Stage, phase: Phase) -> Self {
        let granted = phase == Phase::Granted;
        let leaving = (!granted).then_some(Ended::Abandoned);
        Self { pinhole, stage, answered: granted, leaving, ended: !granted, replaced: false, stale: false }
    }

    pub(crate) fn state(&self) -> State {
        match self.stage {
            Stage::Parting(_) | Stage::Removing(_) | Stage::Releasing(_) | Stage::Parked => State::Closing,
            _ if self.leaving.is_some() => State::Closing,
            Stage::Active => State::Active,
            Stage::Suspended(..) => State::Suspended,
            _ => State::Pending,
        }
    }

    pub(crate) fn view(&self) -> (&Pinhole, State, Option<&Refusal>) {
        let why = match &self.stage {
            Stage::Suspended(_, why) => Some(why),
            _ => None,
        };
        (&self.pinhole, self.state(), why)
    }
}

impl Engine {
    /// A dataplane with `workers` workers is attached and has taken the policy table: everything is
    /// withdrawn from it or installed in it again.
    pub fn attached(&mut self, workers: u8, now: Time) {
        self.workers = Some(workers);
        for id in self.in_order(|entry| entry.stage == Stage::Parked) {
            self.withdraw(id, now);
        }
        for id in self.in_order(|entry| entry.stage == Stage::Waiting) {
            self.start(id, now);
        }
    }

    /// The dataplane is gone, and with it the commands under way.
    pub fn detached(&mut self, now: Time) {
        self.workers = None;
        self.tokens.clear();
        for id in self.in_order(|_| true) {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            match &entry.stage {
                Stage::Active => entry.stage = Stage::Waiting,
                Stage::Suspended(retry, _) => {
                    let retry = *retry;
                    entry.stage = Stage::Waiting;
                    self.due.remove(&(retry, id));
                }
                Stage::Leasing(_) | Stage::Adding(_) | Stage::Replacing(_) if entry.answered => {
                    entry.stage = Stage::Waiting;
                    self.leave_if_due(id, now);
                }
                Stage::Leasing(_) | Stage::Adding(_) | Stage::Replacing(_) => {
                    entry.stage = Stage::Parked;
                    self.refuse(id, Refusal::Detached);
                }
                Stage::Removing(_) | Stage::Releasing(_) => {
                    entry.stage = Stage::Parked;
                    self.tell_end(id);
                }
                // The next dataplane may be there before the note is on disk.
                Stage::Confirming(_) => entry.stale = true,
                Stage::Noting(_) | Stage::Waiting | Stage::Parting(_) | Stage::Parked => {}
            }
        }
    }

    /// The journal holds the note of `ticket`.
    pub fn durable(&mut self, ticket: Ticket, now: Time) {
        let Some(id) = self.tickets.remove(&ticket) else { return };
        let attached = self.workers.is_some();
        let Some(entry) = self.entries.get_mut(&id) else { return };
        match entry.stage {
            Stage::Noting(_) => match entry.leaving {
                Some(why) => {
                    self.refuse(id, Refusal::Withdrawn(why));
                    self.forget(id);
                }
                None if attached => self.start(id, now),
                None => {
                    self.refuse(id, Refusal::Detached);
                    self.forget(id);
                }
            },
            Stage::Confirming(_) => {
                entry.answered = true;
                self.effects.push_back(Effect::Granted(id));
                self.activate(id, now);
            }
            Stage::Parting(_) => self.withdraw(id, now),
            _ => {}
        }
    }

    /// The journal could not be written.
    pub fn not_durable(&mut self, ticket: Ticket, now: Time) {
        let Some(id) = self.tickets.remove(&ticket) else { return };
        let Some(entry) = self.entries.get(&id) else { return };
        match entry.stage {
            Stage::Noting(_) => {
                self.refuse(id, Refusal::Journal);
                self.forget(id);
            }
            Stage::Confirming(_) => {
                self.refuse(id, Refusal::Journal);
                self.withdraw(id, now);
            }
            // Better gone now and back after a crash than here against its owner's word.
            Stage::Parting(_) => self.withdraw(id, now),
            _ => {}
        }
    }

    /// A worker answered the command of `token`.
    pub fn answer(&mut self, token: Token, ack: Ack, now: Time) {
        let Some(id) = self.tokens.remove(&token) else { return };
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let ok = ack.result == AckResult::OK;
        match entry.stage {
            Stage::Leasing(_) if ok => self.send_add(id, now),
            Stage::Leasing(_) => self.fail(id, refused(ack.result), now),
            // It was sent under the pool numbers of another configuration: taken back, and sent again.
            Stage::Adding(_) if entry.stale && !entry.answered => self.take_back(id),
            Stage::Adding(_) if ok => self.installed(id, ack, now),
            // What the worker has under this id is from before a reload or a restart.
            Stage::Adding(_) if ack.result == AckResult::CONFLICT && entry.answered && !entry.replaced => {
                entry.replaced = true;
                self.take_back(id);
            }
            Stage::Adding(_) => self.fail(id, refused(ack.result), now),
            Stage::Replacing(_) => self.begin(id, now),
            Stage::Removing(_) => {
                self.tell_end(id);
                self.release(id);
            }
            Stage::Releasing(_) => self.forget(id),
            _ => {}
        }
    }

    /// Has the inside host's worker forget the pinhole, to begin again.
    fn take_back(&mut self, id: PinholeId) {
        if let Some(worker) = self.owner(id) {
            let token = self.tell(
                id,
                worker,
                Command::Remove(PinholeRemove { id: id.0, ..PinholeRemove::default() }),
            );
            self.set(id, Stage::Replacing(token));
        }
    }

    /// Installs a pinhole in the workers.
    pub(crate) fn start(&mut self, id: PinholeId, now: Time) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.replaced = false;
            entry.stale = false;
            if let Stage::Suspended(retry, _) = entry.stage {
                entry.stage = Stage::Waiting;
                self.due.remove(&(retry, id));
            }
        }
        self.begin(id, now);
    }

    fn begin(&mut self, id: PinholeId, now: Time) {
        match self.lease(id) {
            Ok(Some((worker, lease))) => {
                let token = self.tell(id, worker, Command::Lease(lease));
                self.set(id, Stage::Leasing(token));
            }
            Ok(None) => self.send_add(id, now),
            Err(why) => {
                // Its pool is gone: nobody waits for the answer to this.
                if let Some(worker) = self.owner(id) {
                    self.tell(
                        id,
                        worker,
                        Command::Remove(PinholeRemove { id: id.0, ..PinholeRemove::default() }),
                    );
                }
                self.fail(id, why, now);
            }
        }
    }

    fn send_add(&mut self, id: PinholeId, now: Time) {
        if self.entries.get(&id).is_some_and(|entry| entry.leaving.is_some() && entry.answered) {
            self.set(id, Stage::Waiting);
            self.leave_if_due(id, now);
            return;
        }
        let (Some(worker), Some(entry)) = (self.owner(id), self.entries.get(&id)) else { return };
        let request = &entry.pinhole.request;
        let pool = match self.pool_of(&entry.pinhole) {
            Ok(pool) => pool,
            Err(why) => return self.fail(id, why, now),
        };
        let (address, port) = match (entry.pinhole.granted, &request.external) {
            (Some(grant), _) => (Some(grant.address), Some(grant.port)),
            (None, Some(external)) => (external.address, external.port),
            (None, None) => (None, None),
        };
        let leased = matches!(self.lease(id), Ok(Some(_)));
        let body = PinholeAdd {
            id: id.0,
            inside: request.inside.address.into(),
            external: address.map_or(Address::UNSPECIFIED, Address::from),
            remote: request.remote.prefix().unwrap_or_default(),
            inside_port: request.inside.port,
            external_port: port.unwrap_or(0),
            remote_port_first: request.remote.ports.0,
            remote_port_last: request.remote.ports.1,
            pool: pool.unwrap_or_default(),
            protocol: request.protocol.number(),
            flags: if pool.is_some() { PinholeAdd::POOL } else { 0 }
                | if leased { PinholeAdd::LEASED } else { 0 },
            ..PinholeAdd::default()
        };
        let token = self.tell(id, worker, Command::Add(body));
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.stage = Stage::Adding(token);
            entry.stale = false;
        }
    }

    /// The worker has the pinhole.
    fn installed(&mut self, id: PinholeId, ack: Ack, now: Time) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let request = &entry.pinhole.request;
        let protocol = request.protocol;
        let end = match (&request.external, ack.external.to_v4()) {
            (None, _) => None,
            (Some(_), Some(address)) if ack.external_port != 0 => {
                Some(Grant { address: address.into(), port: ack.external_port })
            }
            // An answer without an end is no answer.
            (Some(_), _) => return self.reject_grant(id, Refusal::Worker(ack.result), now),
        };
        if entry.answered && entry.pinhole.granted == end {
            return self.activate(id, now);
        }
        if let Some(end) = end {
            if let Err(why) = self.external_free(protocol, end, Some(id)) {
                return self.reject_grant(id, why, now);
            }
            self.claim(id, end);
        }
        let ticket = self.ticket(id);
        self.set(id, Stage::Confirming(ticket));
        if let Some(entry) = self.entries.get(&id) {
            let record = Record { pinhole: entry.pinhole.clone(), phase: Phase::Granted };
            self.effects.push_back(Effect::Note { ticket, record });
        }
    }

    /// In force, unless the configuration changed meanwhile or somebody wants it gone.
    fn activate(&mut self, id: PinholeId, now: Time) {
        let attached = self.workers.is_some();
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.stage = if attached { Stage::Active } else { Stage::Waiting };
        let again = std::mem::take(&mut entry.stale) && attached && entry.leaving.is_none();
        if again {
            self.start(id, now);
        } else {
            self.leave_if_due(id, now);
        }
    }

    /// The configuration changed: what is installed is installed again by its new pools.
    pub(crate) fn reinstall(&mut self, now: Time) {
        for entry in self.entries.values_mut() {
            if matches!(
                entry.stage,
                Stage::Leasing(_) | Stage::Adding(_) | Stage::Replacing(_) | Stage::Confirming(_)
            ) {
                entry.stale = true;
            }
        }
        for id in self.in_order(|entry| matches!(entry.stage, Stage::Active | Stage::Suspended(..))) {
            self.start(id, now);
        }
    }

    /// The worker installed what cannot be granted.
    fn reject_grant(&mut self, id: PinholeId, why: Refusal, now: Time) {
        if self.entries.get(&id).is_some_and(|entry| entry.answered) {
            return self.fail(id, why, now);
        }
        self.refuse(id, why);
        self.withdraw(id, now);
    }

    /// A worker refused, or there is no pool to install it in.
    fn fail(&mut self, id: PinholeId, why: Refusal, now: Time) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if !entry.answered {
            self.refuse(id, why);
            return self.release(id);
        }
        let retry = now.after(RETRY);
        entry.stage = Stage::Suspended(retry, why.clone());
        if entry.leaving.is_some() {
            return self.leave_if_due(id, now);
        }
        self.due.insert((retry, id));
        self.effects.push_back(Effect::Suspended(id, why));
    }

    /// Marks a pinhole to go, and lets it go if its stage allows.
    pub(crate) fn leave(&mut self, id: PinholeId, why: Ended, now: Time) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.leaving.get_or_insert(why);
            self.leave_if_due(id, now);
        }
    }

    fn leave_if_due(&mut self, id: PinholeId, _now: Time) {
        let Some(entry) = self.entries.get(&id) else { return };
        if entry.leaving.is_none()
            || !matches!(entry.stage, Stage::Waiting | Stage::Active | Stage::Suspended(..))
        {
            return;
        }
        if let Stage::Suspended(retry, _) = entry.stage {
            self.due.remove(&(retry, id));
        }
        let record = Record { pinhole: entry.pinhole.clone(), phase: Phase::Closing };
        let ticket = self.ticket(id);
        self.set(id, Stage::Parting(ticket));
        self.effects.push_back(Effect::Note { ticket, record });
    }

    /// Takes a pinhole from the workers, now or when they are back.
    fn withdraw(&mut self, id: PinholeId, _now: Time) {
        match self.owner(id) {
            Some(worker) => {
                let token = self.tell(
                    id,
                    worker,
                    Command::Remove(PinholeRemove { id: id.0, ..PinholeRemove::default() }),
                );
                self.set(id, Stage::Removing(token));
            }
            None => {
                self.set(id, Stage::Parked);
                self.tell_end(id);
            }
        }
    }

    /// Gives the port back to its worker, then forgets.
    fn release(&mut self, id: PinholeId) {
        match self.lease(id) {
            Ok(Some((worker, lease))) => {
                let token = self.tell(id, worker, Command::Release(lease));
                self.set(id, Stage::Releasing(token));
            }
            _ => self.forget(id),
        }
    }

    fn forget(&mut self, id: PinholeId) {
        self.tell_end(id);
        self.take(id);
        self.effects.push_back(Effect::Forget(id));
    }

    fn refuse(&mut self, id: PinholeId, why: Refusal) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.ended = true;
            entry.leaving.get_or_insert(Ended::Abandoned);
            self.effects.push_back(Effect::Refused(id, why));
        }
    }

    fn tell_end(&mut self, id: PinholeId) {
        if let Some(entry) = self.entries.get_mut(&id)
            && !std::mem::replace(&mut entry.ended, true)
        {
            let why = entry.leaving.unwrap_or(Ended::Removed);
            self.effects.push_back(Effect::Ended(id, why));
        }
    }

    fn set(&mut self, id: PinholeId, stage: Stage) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.stage = stage;
        }
    }

    /// Gives the pinhole its external end.
    fn claim(&mut self, id: PinholeId, end: Grant) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let protocol = entry.pinhole.request.protocol;
        let before = known_end(&entry.pinhole);
        entry.pinhole.granted = Some(end);
        if before == Some(end) {
            return;
        }
        if let Some(before) = before {
            self.by_external.remove(&(protocol, before));
        }
        self.by_external.insert((protocol, end), id);
    }

    /// The worker of the inside host; `None` without dataplane.
    fn owner(&self, id: PinholeId) -> Option<WorkerId> {
        let entry = self.entries.get(&id)?;
        Some(steering::owner_of_inside(entry.pinhole.request.inside.address.into(), self.workers?))
    }

    /// The lease the pinhole needs, and from which worker. `None` where the port is its own worker's, or
    /// that worker will choose it.
    fn lease(&self, id: PinholeId) -> Result<Option<(WorkerId, PortLease)>, Refusal> {
        let (Some(entry), Some(workers)) = (self.entries.get(&id), self.workers) else { return Ok(None) };
        let pinhole = &entry.pinhole;
        let inside = Address::from(pinhole.request.inside.address);
        let owner = steering::owner_of_inside(inside, workers);
        let (pool, Some(end)) = (self.pool_of(pinhole)?, known_end(pinhole)) else {
            let port = pinhole.request.external.as_ref().and_then(|external| external.port);
            // The port was the inside host's worker's own when it was asked for; another dataplane came since.
            return match port.filter(|&port| steering::owner_of_port(port, workers) != owner) {
                Some(_) => Err(Refusal::Detached),
                None => Ok(None),
            };
        };
        let Some(pool) = pool else { return Ok(None) };
        let lessor = steering::owner_of_port(end.port, workers);
        let lease = PortLease {
            external: end.address.into(),
            external_port: end.port,
            pool,
            protocol: pinhole.request.protocol.number(),
            owner,
            ..PortLease::default()
        };
        Ok((lessor != owner).then_some((lessor, lease)))
    }

    /// The pool as the policy table numbers it, if the pinhole is translated.
    fn pool_of(&self, pinhole: &Pinhole) -> Result<Option<PoolId>, Refusal> {
        let (Some(external), IpAddr::V4(_)) = (&pinhole.request.external, pinhole.request.inside.address)
        else {
            return Ok(None);
        };
        let end = known_end(pinhole);
        let address = end.map(|end| end.address).or(external.address);
        Ok(Some(self.realm.admit(&external.pool, address)?.id))
    }
}

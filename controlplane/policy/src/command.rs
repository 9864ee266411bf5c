//! Rules as the workers' commands, and what of them the workers have already.

use crate::admit::wanted_parity;
use crate::effect::Command;
use crate::engine::Engine;
use crate::refusal::Refusal;
use crate::rule::{Action, Grant, Rule, RuleId};
use crate::steps::{Entry, Stage};
use crate::transaction::{Ending, Lock};
use crate::tuple::{Direction, PortParity, Time};
use turnpike_abi::command::{Parity, PinholeAdd, PinholeRemove, PortsRelease, PortsReserve};
use turnpike_abi::event::BindingRow;
use turnpike_abi::{Address, PoolId, Prefix, WorkerId, steering};

impl Engine {
    /// The worker of the inside host; `None` without dataplane or host.
    pub(crate) fn worker_of(&self, rule: &Rule) -> Option<WorkerId> {
        Some(steering::owner_of_inside(rule.internal?.address.into(), self.workers?))
    }

    /// The worker that outside ports belong to.
    pub(crate) fn lessor(&self, rule: &Rule, end: Grant) -> Option<WorkerId> {
        let workers = self.workers?;
        Some(if rule.protocol.has_ports() {
            steering::owner_of_port(end.port, workers)
        } else {
            steering::owner_of_portless(Address::from(std::net::IpAddr::V4(end.address)), workers)
        })
    }

    /// The pool as the policy table numbers it, if the rule is translated.
    pub(crate) fn pool_id(&self, rule: &Rule) -> Result<Option<PoolId>, Refusal> {
        let Some(pool) = &rule.pool else { return Ok(None) };
        Ok(Some(self.access.realm.admit(pool, rule.outside.map(|end| end.address))?.id))
    }

    /// What installs a rule, and where. `None` if no worker has to know of it.
    pub(crate) fn installation(
        &mut self,
        id: RuleId,
        leased: bool,
    ) -> Result<Option<(WorkerId, Command)>, Refusal> {
        let Some(workers) = self.workers else { return Err(Refusal::Detached) };
        let Some(entry) = self.entries.get(&id) else { return Ok(None) };
        let pool = self.pool_id(&entry.rule)?;
        if let Action::Reserve(_) = entry.rule.action {
            let Some(pool) = pool.filter(|_| entry.rule.protocol.has_ports()) else { return Ok(None) };
            let worker = match (entry.rule.outside, self.worker_of(&entry.rule)) {
                (Some(end), _) => steering::owner_of_port(end.port, workers),
                (None, Some(worker)) => worker,
                (None, None) => match (&entry.asked, entry.at) {
                    (Some(asked), Some(before)) if asked.without > 0 => WorkerId((before.0 + 1) % workers),
                    _ => WorkerId(self.turn % workers),
                },
            };
            let own = self.worker_of(&entry.rule) == Some(worker);
            let command = Command::Reserve(reservation_of(entry, pool, own));
            self.turn = self.turn.wrapping_add(1);
            return Ok(Some((worker, command)));
        }
        let Some(worker) = self.worker_of(&entry.rule) else { return Ok(None) };
        Ok(Some((worker, Command::Add(pinhole_of(entry, pool, leased)))))
    }

    /// What takes a rule from the workers; `None` without dataplane, or if no worker knows of it.
    pub(crate) fn removal(&self, id: RuleId, ending: Ending) -> Option<(WorkerId, Command)> {
        let workers = self.workers?;
        let entry = self.entries.get(&id)?;
        let rule = &entry.rule;
        if let Action::Reserve(_) = rule.action {
            if rule.pool.is_none() || !rule.protocol.has_ports() {
                return None;
            }
            let worker = match rule.outside {
                Some(end) => steering::owner_of_port(end.port, workers),
                None => entry.at?,
            };
            return Some((worker, Command::Unreserve(PortsRelease { id: u64::from(id.0) })));
        }
        let drain = u8::from(ending == Ending::Drain);
        let remove = PinholeRemove { id: u64::from(id.0), drain, reserved: [0; 7] };
        Some((self.worker_of(rule)?, Command::Remove(remove)))
    }

    /// A worker has a pinhole, as a walk of its table shows it. What the journal does not have is removed; what is as
    /// it should be stays untouched.
    pub fn found(&mut self, worker: WorkerId, row: &BindingRow, now: Time) {
        let known = u32::try_from(row.pinhole).ok().map(RuleId).filter(|id| self.entries.contains_key(id));
        let Some(id) = known else {
            let remove = PinholeRemove { id: row.pinhole, drain: 0, reserved: [0; 7] };
            self.tell(RuleId(0), worker, Command::Remove(remove));
            return;
        };
        let Some(entry) = self.entries.get(&id) else { return };
        // On its way out since before this dataplane was attached: nobody has told the worker yet.
        if matches!(entry.stage, Stage::Ending { token: None, .. }) {
            let remove = PinholeRemove { id: row.pinhole, drain: 0, reserved: [0; 7] };
            self.tell(RuleId(0), worker, Command::Remove(remove));
            return;
        }
        if entry.stage != Stage::Waiting {
            return;
        }
        if !entry.granted || !self.is_as_found(entry, worker, row) {
            if !matches!(entry.rule.action, Action::Enable { .. })
                || self.worker_of(&entry.rule) != Some(worker)
            {
                let remove = PinholeRemove { id: row.pinhole, drain: 0, reserved: [0; 7] };
                self.tell(RuleId(0), worker, Command::Remove(remove));
            }
            return;
        }
        // A range has a row for each port: the lowest one stands for all.
        let rule_port = entry.rule.internal.map_or(0, |internal| internal.port);
        if row.inside_port == rule_port {
            let leased = matches!(self.lease_for(id), Ok(Some(_)));
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.leased = leased;
                entry.stage = Stage::Active;
            }
            self.schedule(id);
            self.leave_if_due(id, now);
        }
    }

    /// A worker has a reservation, as a walk shows it. What the journal does not have is given back.
    pub fn found_reservation(&mut self, worker: WorkerId, row: &BindingRow) {
        let known = u32::try_from(row.pinhole).ok().and_then(|id| self.entries.get(&RuleId(id)));
        let wanted = known.is_some_and(|entry| {
            let reserve = matches!(entry.granted_rule().action, Action::Reserve(_));
            (reserve || entry.asked.is_some()) && !matches!(entry.stage, Stage::Ending { token: None, .. })
        });
        if !wanted {
            let release = PortsRelease { id: row.pinhole };
            self.tell(RuleId(0), worker, Command::Unreserve(release));
        }
    }

    fn is_as_found(&self, entry: &Entry, worker: WorkerId, row: &BindingRow) -> bool {
        let rule = &entry.rule;
        if self.worker_of(rule) != Some(worker) || rule.range > 1 {
            return false;
        }
        let Ok(pool) = self.pool_id(rule) else { return false };
        let wanted = pinhole_of(entry, pool, false);
        let end = (row.external, row.external_port);
        (row.inside, row.inside_port, row.protocol) == (wanted.inside, wanted.inside_port, wanted.protocol)
            && row.pool == pool.unwrap_or(BindingRow::NO_POOL)
            && (pool.is_none() || end == (wanted.external, wanted.external_port))
            && row.remote == wanted.remote
            && row.remote_ports == [wanted.remote_port_first, wanted.remote_port_last]
    }
}

fn reservation_of(entry: &Entry, pool: PoolId, own: bool) -> PortsReserve {
    let rule = &entry.rule;
    let wish = entry.asked.as_ref().and_then(|asked| asked.wish);
    let address = rule.outside.map(|end| end.address).or(wish.and_then(|wish| wish.address));
    let port = rule.outside.map(|end| end.port).or(wish.and_then(|wish| wish.port));
    let inside = rule.internal.filter(|_| own).map(|internal| internal.address);
    PortsReserve {
        id: u64::from(rule.id.0),
        inside: inside.map_or(Address::UNSPECIFIED, Address::from),
        external: address.map_or(Address::UNSPECIFIED, |v4| Address::from(std::net::IpAddr::V4(v4))),
        external_port: port.unwrap_or(0),
        pool,
        protocol: rule.protocol.0,
        ports: u8::try_from(rule.range).unwrap_or(u8::MAX),
        parity: match wanted_parity(rule) {
            PortParity::Any => Parity::ANY,
            PortParity::Even => Parity::EVEN,
            PortParity::Odd => Parity::ODD,
        },
        again: u8::from(has_its_end(entry)),
    }
}

/// Whether the outside end was promised already: the workers may have freed it since, but it is this rule's.
pub(crate) fn has_its_end(entry: &Entry) -> bool {
    entry.granted && entry.rule.outside.is_some()
}

fn pinhole_of(entry: &Entry, pool: Option<PoolId>, leased: bool) -> PinholeAdd {
    let rule = &entry.rule;
    let ports = rule.protocol.has_ports();
    let wish = entry.asked.as_ref().and_then(|asked| asked.wish);
    let address = rule.outside.map(|end| end.address).or(wish.and_then(|wish| wish.address));
    let port = rule.outside.map(|end| end.port).or(wish.and_then(|wish| wish.port));
    let internal = rule.internal.unwrap_or(rule.external);
    let remote = rule.locked.unwrap_or(rule.external);
    let (remote_first, remote_last) = match remote.port {
        0 => rule.behaviour.remote_ports.unwrap_or((0, u16::MAX)),
        _ if !ports => (0, u16::MAX),
        port if rule.locked.is_some() => (port, port),
        port => (port, port.saturating_add(rule.range - 1)),
    };
    let reserved = entry.upgrading() && !leased && ports && pool.is_some();
    let mut flags = 0;
    for (on, flag) in [
        (pool.is_some(), PinholeAdd::POOL),
        (leased, PinholeAdd::LEASED),
        (reserved, PinholeAdd::RESERVED),
        (rule.behaviour.lock == Lock::Address, PinholeAdd::LOCK_ADDRESS),
        (rule.behaviour.lock == Lock::AddressAndPort, PinholeAdd::LOCK_ENDPOINT),
        (rule.behaviour.close_on_fin, PinholeAdd::CLOSE_ON_END),
        (pool.is_some() && has_its_end(entry), PinholeAdd::AGAIN),
    ] {
        flags |= if on { flag } else { 0 };
    }
    if let Action::Enable { direction, .. } = rule.action {
        flags |= match direction {
            Direction::Inbound => PinholeAdd::INBOUND,
            Direction::Outbound => PinholeAdd::OUTBOUND,
            Direction::Bidirectional => 0,
        };
    }
    flags |= match wanted_parity(rule) {
        PortParity::Even if rule.outside.is_none() => PinholeAdd::EVEN,
        PortParity::Odd if rule.outside.is_none() => PinholeAdd::ODD,
        _ => 0,
    };
    PinholeAdd {
        id: u64::from(rule.id.0),
        reservation: if reserved { u64::from(rule.id.0) } else { 0 },
        inside: internal.address.into(),
        external: address
            .filter(|_| pool.is_some())
            .map_or(Address::UNSPECIFIED, |v4| Address::from(std::net::IpAddr::V4(v4))),
        remote: remote.prefix().unwrap_or(Prefix::ANY),
        inside_port: if ports { internal.port } else { 0 },
        external_port: port.filter(|_| pool.is_some()).unwrap_or(0),
        remote_port_first: remote_first,
        remote_port_last: remote_last,
        pool: pool.unwrap_or_default(),
        flags,
        max_flows: rule.behaviour.max_flows,
        protocol: rule.protocol.0,
        ports: if ports { u8::try_from(rule.range).unwrap_or(u8::MAX) } else { 1 },
    }
}

//! Ports that lie in another worker's block: leased for a rule before it is installed, given back when no rule needs
//! them and nothing passes through them.

use crate::command::has_its_end;
use crate::effect::{Command, Token};
use crate::engine::Engine;
use crate::refusal::Refusal;
use crate::rule::{Action, Rule, RuleId};
use crate::steps::{RETRY, Stage};
use crate::transaction::Ending;
use crate::tuple::{Protocol, Time};
use hashbrown::HashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use turnpike_abi::command::PortLease;
use turnpike_abi::event::{Ack, AckResult, BindingRow};
use turnpike_abi::{Address, WorkerId};

/// Longest time between two questions whether a port is still used, milliseconds.
const PATIENCE: u64 = 80_000;
/// Questions under way at once.
const MOST_ASKED: usize = 1024;

type Port = (Ipv4Addr, Protocol, u16);

/// Leased ports that no rule needs, but perhaps a flow that lives on: their user is asked until it uses them no more.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    ports: BTreeMap<Port, Leftover>,
    due: BTreeSet<(Time, Port)>,
    asked: HashMap<Token, Port>,
}

/// Who needs a leased port besides a rule that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    Nobody,
    /// A rule on its way to the workers, which may yet be refused.
    Asker,
    /// A rule that gives it back when it goes.
    Holder,
}

#[derive(Debug)]
struct Leftover {
    lessor: WorkerId,
    lease: PortLease,
    /// Until the question after the next one.
    pause: u64,
}

impl Leftovers {
    /// When somebody is to be asked next.
    pub(crate) fn first_due(&self) -> Option<Time> {
        self.due.first().map(|(time, _)| *time)
    }

    /// The dataplane is gone: the next one's walk shows what is left.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Engine {
    /// The lease an enable rule needs before it can be installed, and from which worker. `None` where the outside
    /// ports are its own worker's, or that worker will choose them.
    pub(crate) fn lease_for(&self, id: RuleId) -> Result<Option<(WorkerId, PortLease)>, Refusal> {
        let Some(entry) = self.entries.get(&id) else { return Ok(None) };
        let rule = &entry.rule;
        let (Action::Enable { .. }, Some(pool), Some(end)) = (rule.action, self.pool_id(rule)?, rule.outside)
        else {
            return Ok(None);
        };
        let (Some(owner), Some(lessor)) = (self.worker_of(rule), self.lessor(rule, end)) else {
            return Ok(None);
        };
        let lease = PortLease {
            external: Address::from(std::net::IpAddr::V4(end.address)),
            reservation: if entry.upgrading() && rule.protocol.has_ports() { u64::from(id.0) } else { 0 },
            external_port: end.port,
            pool,
            protocol: rule.protocol.0,
            owner,
            ports: Self::ports(rule),
            again: u8::from(has_its_end(entry)),
        };
        Ok((lessor != owner).then_some((lessor, lease)))
    }

    fn ports(rule: &Rule) -> u8 {
        if rule.protocol.has_ports() { u8::try_from(rule.range).unwrap_or(u8::MAX) } else { 1 }
    }

    /// The lease a rule has.
    pub(crate) fn lease_of(&self, id: RuleId) -> Option<(WorkerId, PortLease)> {
        self.entries.get(&id).filter(|entry| entry.leased)?;
        self.lease_for(id).ok().flatten()
    }

    /// Gives leased ports of a rule that is gone back to their worker, as far as no other rule of the inside end
    /// needs them. Flows that live on keep theirs.
    pub(crate) fn release_leases(&mut self, id: RuleId, now: Time) {
        let Some((lessor, lease)) = self.lease_of(id) else { return };
        let Some(entry) = self.entries.get(&id) else { return };
        let Some(end) = entry.rule.outside else { return };
        let (protocol, drains) = (entry.rule.protocol, entry.rule.ending == Ending::Drain && entry.granted);
        let last = end.port.saturating_add(entry.rule.range.saturating_sub(1));
        let mut needs = vec![Need::Nobody; usize::from(lease.ports.max(1))];
        for (port, other) in self.index.at_outside(end.address, protocol, (end.port, last)) {
            let Some(other) = self.entries.get(&other).filter(|_| other != id) else { continue };
            let need = match other.stage {
                _ if other.leased => Need::Holder,
                // One that is not installed asks for its lease anew.
                Stage::Waiting | Stage::Suspended(..) => Need::Nobody,
                _ => Need::Asker,
            };
            for offset in 0..other.rule.range {
                let place = (u32::from(port) + u32::from(offset)).checked_sub(u32::from(end.port));
                if let Some(most) = place.and_then(|place| needs.get_mut(place as usize)) {
                    *most = need.max(*most);
                }
            }
        }
        let mut first = 0u8;
        for run in needs.chunk_by(|a, b| a == b) {
            let ports = u8::try_from(run.len()).unwrap_or(u8::MAX);
            let external_port = end.port.saturating_add(u16::from(first));
            let release = PortLease { external_port, ports, reservation: 0, ..lease };
            match run.first() {
                Some(Need::Nobody) if !drains => {
                    self.tell(id, lessor, Command::Release(release));
                }
                Some(Need::Nobody | Need::Asker) => self.leave_over(lessor, release, now),
                Some(Need::Holder) | None => {}
            }
            first = first.saturating_add(ports);
        }
    }

    /// A worker has leased a port to another, as a walk shows it. What no rule needs is given back, once nothing passes
    /// through it.
    pub fn found_lease(&mut self, lessor: WorkerId, row: &BindingRow, now: Time) {
        let lease = PortLease {
            external: row.external,
            external_port: row.external_port,
            pool: row.pool,
            protocol: row.protocol,
            owner: row.worker,
            ports: 1,
            ..PortLease::default()
        };
        match self.needed(lessor, &lease) {
            Some(id) => {
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.leased = true;
                }
            }
            None => self.leave_over(lessor, lease, now),
        }
    }

    /// A rule that needs a port as `lessor` has leased it.
    fn needed(&self, lessor: WorkerId, lease: &PortLease) -> Option<RuleId> {
        let (address, protocol, port) = port_of(lease)?;
        self.index.at_outside(address, protocol, (port, port)).find_map(|(first, id)| {
            let entry = self.entries.get(&id).filter(|entry| !entry.going())?;
            let reaches = u32::from(port) < u32::from(first) + u32::from(entry.rule.range.max(1));
            let wanted = self.lease_for(id).ok().flatten().filter(|_| reaches);
            wanted.filter(|(from, wanted)| (*from, wanted.owner) == (lessor, lease.owner)).map(|_| id)
        })
    }

    fn leave_over(&mut self, lessor: WorkerId, lease: PortLease, now: Time) {
        let ports = u16::from(lease.ports.max(1));
        for offset in 0..ports {
            let external_port = lease.external_port.saturating_add(offset);
            let lease = PortLease { external_port, ports: 1, reservation: 0, ..lease };
            let Some(port) = port_of(&lease) else { return };
            let before = self.leftovers.ports.insert(port, Leftover { lessor, lease, pause: RETRY });
            if before.is_none() {
                self.leftovers.due.insert((now, port));
            }
        }
        self.ask_for_leftovers(now);
    }

    /// Asks for what is due whether it is still used. No more at once than the workers answer between two calls.
    pub(crate) fn ask_for_leftovers(&mut self, now: Time) {
        for _ in 0..MOST_ASKED {
            let Some(&(time, port)) = self.leftovers.due.first() else { return };
            if time > now || self.leftovers.asked.len() >= MOST_ASKED {
                return;
            }
            self.leftovers.due.remove(&(time, port));
            let Some(&Leftover { lessor, lease, .. }) = self.leftovers.ports.get(&port) else { continue };
            if self.needed(lessor, &lease).is_some() {
                self.ask_later(port, now);
                continue;
            }
            let token = self.tell(RuleId(0), lease.owner, Command::Release(lease));
            self.leftovers.asked.insert(token, port);
        }
    }

    /// Whether `token` was a question for a leftover; then its answer is taken.
    pub(crate) fn leftover_answered(&mut self, token: Token, ack: Ack, now: Time) -> bool {
        let Some(port) = self.leftovers.asked.remove(&token) else { return false };
        let Some(&Leftover { lessor, lease, .. }) = self.leftovers.ports.get(&port) else { return true };
        if ack.result == AckResult::OK && self.needed(lessor, &lease).is_none() {
            self.leftovers.ports.remove(&port);
            self.tell(RuleId(0), lessor, Command::Release(lease));
        } else {
            self.ask_later(port, now);
        }
        self.ask_for_leftovers(now);
        true
    }

    /// A flow uses it, or a rule that came meanwhile and may yet fail.
    fn ask_later(&mut self, port: Port, now: Time) {
        if let Some(leftover) = self.leftovers.ports.get_mut(&port) {
            self.leftovers.due.insert((now.after(leftover.pause), port));
            leftover.pause = PATIENCE.min(leftover.pause * 2);
        }
    }
}

fn port_of(lease: &PortLease) -> Option<Port> {
    let address = Ipv4Addr::from(lease.external.to_v4()?);
    Some((address, Protocol(lease.protocol), lease.external_port))
}

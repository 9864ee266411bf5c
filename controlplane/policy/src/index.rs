//! By what rules are found: inside end, outside end, group, owner, time.

use crate::identity::Agent;
use crate::rule::{Action, Grant, GroupId, Rule, RuleId};
use crate::tuple::{Protocol, Time};
use hashbrown::HashMap;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

/// Consecutive ports of a rule at most: how far below a port a range that holds it may begin.
pub(crate) const MOST_PORTS: u16 = 64;

/// An owner's place; given to another owner once it has no rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct OwnerNumber(u32);

#[derive(Debug)]
struct OwnerSlot {
    agent: Agent,
    rules: u32,
}

/// Every index. Ordered sets: a million entries take little, and neighbours in them belong together.
#[derive(Debug, Default)]
pub(crate) struct Index {
    inside: BTreeSet<(IpAddr, Protocol, u16, RuleId)>,
    outside: BTreeSet<(Ipv4Addr, Protocol, u16, RuleId)>,
    groups: BTreeSet<(GroupId, RuleId)>,
    owned: BTreeSet<(OwnerNumber, RuleId)>,
    owners: HashMap<Agent, OwnerNumber>,
    slots: Vec<OwnerSlot>,
    vacant: Vec<OwnerNumber>,
    subscribers: HashMap<IpAddr, u32>,
    due: BTreeSet<(Time, RuleId)>,
}

impl Index {
    /// Takes a rule in, and gives it its owner's one copy of the name.
    pub(crate) fn insert(&mut self, rule: &mut Rule) {
        let number = self.owner_number(&rule.owner);
        if let Some(slot) = self.slots.get_mut(number.0 as usize) {
            slot.rules += 1;
            rule.owner = slot.agent.clone();
        }
        self.owned.insert((number, rule.id));
        self.groups.insert((rule.group, rule.id));
        self.insert_ends(rule);
    }

    /// Takes a rule out.
    pub(crate) fn remove(&mut self, rule: &Rule) {
        if let Some(&number) = self.owners.get(&rule.owner) {
            self.owned.remove(&(number, rule.id));
            if let Some(slot) = self.slots.get_mut(number.0 as usize) {
                slot.rules -= 1;
                if slot.rules == 0 {
                    self.owners.remove(&rule.owner);
                    self.vacant.push(number);
                }
            }
        }
        self.groups.remove(&(rule.group, rule.id));
        self.remove_ends(rule);
    }

    /// The ends of a rule, where it has them. A reservation is no mapping of its inside end.
    pub(crate) fn insert_ends(&mut self, rule: &Rule) {
        if let Some(internal) = rule.internal {
            *self.subscribers.entry(internal.address).or_default() += 1;
            if matches!(rule.action, Action::Enable { .. }) {
                self.inside.insert((internal.address, rule.protocol, internal.port, rule.id));
            }
        }
        self.insert_outside(rule);
    }

    /// Takes them out.
    pub(crate) fn remove_ends(&mut self, rule: &Rule) {
        if let Some(internal) = rule.internal {
            self.inside.remove(&(internal.address, rule.protocol, internal.port, rule.id));
            if let Some(count) = self.subscribers.get_mut(&internal.address) {
                *count -= 1;
                if *count == 0 {
                    self.subscribers.remove(&internal.address);
                }
            }
        }
        self.remove_outside(rule);
    }

    /// The outside end alone.
    pub(crate) fn insert_outside(&mut self, rule: &Rule) {
        if let Some(Grant { address, port }) = rule.outside {
            self.outside.insert((address, rule.protocol, port, rule.id));
        }
    }

    /// Takes it out.
    pub(crate) fn remove_outside(&mut self, rule: &Rule) {
        if let Some(Grant { address, port }) = rule.outside {
            self.outside.remove(&(address, rule.protocol, port, rule.id));
        }
    }

    fn owner_number(&mut self, agent: &Agent) -> OwnerNumber {
        if let Some(&number) = self.owners.get(agent) {
            return number;
        }
        let slot = OwnerSlot { agent: agent.clone(), rules: 0 };
        let number = match self.vacant.pop() {
            Some(number) => {
                if let Some(place) = self.slots.get_mut(number.0 as usize) {
                    *place = slot;
                }
                number
            }
            None => {
                self.slots.push(slot);
                OwnerNumber(u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX))
            }
        };
        self.owners.insert(agent.clone(), number);
        number
    }

    /// Rules of an owner.
    pub(crate) fn count_of(&self, agent: &Agent) -> u32 {
        let slot = self.owners.get(agent).and_then(|number| self.slots.get(number.0 as usize));
        slot.map_or(0, |slot| slot.rules)
    }

    /// Rules of an owner with identities above `after`, in order.
    pub(crate) fn owned_by(&self, agent: &Agent, after: RuleId) -> impl Iterator<Item = RuleId> + '_ {
        let number = self.owners.get(agent).copied();
        let from = number.map(|number| (number, RuleId(after.0.saturating_add(1))));
        let rules = from.map(|from| self.owned.range(from..).take_while(move |entry| entry.0 == from.0));
        rules.into_iter().flatten().map(|entry| entry.1)
    }

    /// Owners and how many rules each has.
    pub(crate) fn owners(&self) -> impl Iterator<Item = (&Agent, u32)> {
        self.slots.iter().filter(|slot| slot.rules > 0).map(|slot| (&slot.agent, slot.rules))
    }

    /// Rules for an inside host.
    pub(crate) fn subscriber(&self, host: IpAddr) -> u32 {
        self.subscribers.get(&host).copied().unwrap_or(0)
    }

    /// Enable rules of an inside host, of `protocol`, whose lowest port is at most `last` and which could reach
    /// `first`, with that port.
    pub(crate) fn at_inside(
        &self,
        host: IpAddr,
        protocol: Protocol,
        (first, last): (u16, u16),
    ) -> impl Iterator<Item = (u16, RuleId)> + '_ {
        let from = first.saturating_sub(MOST_PORTS - 1);
        self.inside
            .range((host, protocol, from, RuleId(0))..=(host, protocol, last, RuleId(u32::MAX)))
            .map(|entry| (entry.2, entry.3))
    }

    /// Enable rules of an inside host.
    pub(crate) fn of_host(&self, host: IpAddr) -> impl Iterator<Item = (Protocol, u16, RuleId)> + '_ {
        self.inside
            .range((host, Protocol(0), 0, RuleId(0))..=(host, Protocol(255), u16::MAX, RuleId(u32::MAX)))
            .map(|entry| (entry.1, entry.2, entry.3))
    }

    /// Rules whose lowest outside port is at most `last` and which could reach `first`, with that port.
    pub(crate) fn at_outside(
        &self,
        address: Ipv4Addr,
        protocol: Protocol,
        (first, last): (u16, u16),
    ) -> impl Iterator<Item = (u16, RuleId)> + '_ {
        let from = first.saturating_sub(MOST_PORTS - 1);
        self.outside
            .range((address, protocol, from, RuleId(0))..=(address, protocol, last, RuleId(u32::MAX)))
            .map(|entry| (entry.2, entry.3))
    }

    /// Members of a group, in order.
    pub(crate) fn members(&self, group: GroupId) -> impl Iterator<Item = RuleId> + '_ {
        self.groups.range((group, RuleId(0))..=(group, RuleId(u32::MAX))).map(|entry| entry.1)
    }

    /// Every group above `after` with each of its members, in order.
    pub(crate) fn groups_after(&self, after: GroupId) -> impl Iterator<Item = (GroupId, RuleId)> + '_ {
        self.groups.range((GroupId(after.0.saturating_add(1)), RuleId(0))..).copied()
    }

    /// Notes when to look at a rule next, in place of `before`.
    pub(crate) fn schedule(&mut self, rule: RuleId, before: Option<Time>, next: Option<Time>) {
        if before == next {
            return;
        }
        if let Some(before) = before {
            self.due.remove(&(before, rule));
        }
        if let Some(next) = next {
            self.due.insert((next, rule));
        }
    }

    /// What is due first.
    pub(crate) fn first_due(&self) -> Option<(Time, RuleId)> {
        self.due.first().copied()
    }
}

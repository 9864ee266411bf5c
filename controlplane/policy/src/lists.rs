//! Transactions that change nothing: PRL, PRS, GL, GS (RFC 5189 2.3.11, 2.3.12, 2.4.3, 2.4.4).

use crate::access::{Profile, Rights};
use crate::engine::Engine;
use crate::identity::{Agent, Requester};
use crate::refusal::Refusal;
use crate::rule::{GroupId, Rule, RuleId};
use crate::sessions::{may_act, profile_of};
use crate::transaction::{Filter, Find, Reply};
use crate::tuple::{Lifetime, Time};
use std::sync::Arc;

/// A right, or the refusal of the transaction.
pub(crate) fn has_right(
    profile: &Profile,
    by: &Requester,
    right: Rights,
    transaction: &'static str,
) -> Result<(), Refusal> {
    if profile.rights.has(right) {
        Ok(())
    } else {
        Err(Refusal::NotAuthorized { agent: by.agent.clone(), transaction })
    }
}

impl Engine {
    pub(crate) fn rule_list(&self, by: &Requester, filter: &Filter) -> Result<Reply, Refusal> {
        let profile = profile_of(&self.access, by)?;
        has_right(profile, by, Rights::READ, "prl")?;
        let limit = if filter.limit == 0 { usize::MAX } else { filter.limit as usize };
        let after = filter.after.unwrap_or_default();
        let wanted = |rule: &Rule| {
            filter.protocol.is_none_or(|protocol| protocol == rule.protocol)
                && filter.internal.is_none_or(|network| {
                    rule.internal.is_some_and(|internal| network.contains(internal.address))
                })
        };
        let wide = profile.rights.has(Rights::ADMIN) || !profile.takes_over.is_empty();
        let rules = if filter.own || !wide {
            let own = self.index.owned_by(&by.agent, after);
            own.filter_map(|id| self.rule(id).map(|(rule, _)| rule))
                .filter(|rule| wanted(rule))
                .take(limit)
                .map(|rule| (rule.id, rule.owner.clone()))
                .collect()
        } else {
            self.page(after, limit, |rule| wanted(rule) && may_act(profile, &by.agent, &rule.owner))
                .into_iter()
                .map(|(rule, _)| (rule.id, rule.owner.clone()))
                .collect()
        };
        Ok(Reply::Rules(rules))
    }

    pub(crate) fn rule_status(&self, by: &Requester, id: RuleId, now: Time) -> Result<Reply, Refusal> {
        let profile = profile_of(&self.access, by)?;
        has_right(profile, by, Rights::READ, "prs")?;
        self.accessible(profile, by, id)?;
        let status = self.status_of(id, now).ok_or(Refusal::NoSuchRule(id))?;
        Ok(Reply::Rule(Box::new(status)))
    }

    /// A rule that is there and that the agent may act on.
    pub(crate) fn accessible(&self, profile: &Profile, by: &Requester, id: RuleId) -> Result<&Rule, Refusal> {
        let (rule, _) = self.rule(id).ok_or(Refusal::NoSuchRule(id))?;
        if may_act(profile, &by.agent, &rule.owner) {
            Ok(rule)
        } else if self.access.hide_foreign {
            Err(Refusal::NoSuchRule(id))
        } else {
            Err(Refusal::NotYourRule(id))
        }
    }

    /// The owner of a group that is there and that the agent may act on.
    pub(crate) fn accessible_group(
        &self,
        profile: &Profile,
        by: &Requester,
        group: GroupId,
    ) -> Result<Agent, Refusal> {
        let member = self.index.members(group).find_map(|id| self.rule(id));
        let (rule, _) = member.ok_or(Refusal::NoSuchGroup(group))?;
        if may_act(profile, &by.agent, &rule.owner) {
            Ok(rule.owner.clone())
        } else if self.access.hide_foreign {
            Err(Refusal::NoSuchGroup(group))
        } else {
            Err(Refusal::NotYourGroup(group))
        }
    }

    pub(crate) fn group_list(&self, by: &Requester) -> Result<Reply, Refusal> {
        let profile = profile_of(&self.access, by)?;
        has_right(profile, by, Rights::READ, "gl")?;
        let mut groups: Vec<(GroupId, Agent)> = Vec::new();
        if profile.rights.has(Rights::ADMIN) || !profile.takes_over.is_empty() {
            for (group, id) in self.index.groups_after(GroupId(0)) {
                let Some((rule, _)) = self.rule(id) else { continue };
                if groups.last().is_none_or(|(last, _)| *last != group)
                    && may_act(profile, &by.agent, &rule.owner)
                {
                    groups.push((group, rule.owner.clone()));
                }
            }
        } else {
            let own = self.index.owned_by(&by.agent, RuleId(0));
            groups
                .extend(own.filter_map(|id| self.rule(id)).map(|(rule, _)| (rule.group, rule.owner.clone())));
            groups.sort_unstable_by_key(|(group, _)| *group);
            groups.dedup_by_key(|(group, _)| *group);
        }
        Ok(Reply::Groups(groups))
    }

    pub(crate) fn group_status(&self, by: &Requester, group: GroupId, now: Time) -> Result<Reply, Refusal> {
        let profile = profile_of(&self.access, by)?;
        has_right(profile, by, Rights::READ, "gs")?;
        let owner = self.accessible_group(profile, by, group)?;
        let mut lifetime = Lifetime::NONE;
        let mut rules = Vec::new();
        for (rule, _) in self.index.members(group).filter_map(|id| self.rule(id)) {
            lifetime = lifetime.max(Lifetime::left(rule.expires, now));
            rules.push(rule.id);
        }
        Ok(Reply::Group { owner, lifetime, rules })
    }

    /// The statuses of the rules on inside ports.
    ///
    /// # Errors
    /// If the front end is not enabled, or does not know the agent.
    pub fn find(&self, by: &Requester, find: &Find, now: Time) -> Result<Reply, Refusal> {
        let access = Arc::clone(&self.access);
        profile_of(&access, by)?;
        let (first, last) = find.ports;
        let mut ids: Vec<RuleId> = match find.protocol {
            Some(protocol) => self
                .index
                .at_inside(find.host, protocol, (first, last))
                .filter(|&(port, id)| self.reaches(port, id, first))
                .map(|(_, id)| id)
                .collect(),
            None => self
                .index
                .of_host(find.host)
                .filter(|&(_, port, id)| port <= last && self.reaches(port, id, first))
                .map(|(_, _, id)| id)
                .collect(),
        };
        ids.sort_unstable();
        Ok(Reply::Found(ids.into_iter().filter_map(|id| self.status_of(id, now)).collect()))
    }

    fn reaches(&self, port: u16, id: RuleId, first: u16) -> bool {
        self.entries
            .get(&id)
            .is_some_and(|entry| u32::from(port) + u32::from(entry.rule.range) > u32::from(first))
    }
}

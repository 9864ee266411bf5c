//! PRR and PER up to the worker: rights, parameters, wildcards, the pool, conflicts, quotas
//! (RFC 5189 2.3.8, 2.3.9).

use crate::access::{Access, FrontAccess, Profile, Rights, Scope};
use crate::engine::Engine;
use crate::identity::{Name, Permit, Requester, TransactionId};
use crate::index::MOST_PORTS;
use crate::lists::has_right;
use crate::realm::Pool;
use crate::refusal::Refusal;
use crate::rule::{Action, Grant, GroupId, Rule, RuleId};
use crate::sessions::profile_of;
use crate::steps::{Asked, Entry, Wish};
use crate::transaction::{Annotation, Behaviour, Enable, Lock, Outside, Reserve};
use crate::tuple::{
    Direction, IpVersion, Lifetime, Network, Parity, PortParity, Protocol, Service, Time, Tuple,
};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use turnpike_abi::{Address, steering};

impl Engine {
    /// PRR.
    pub(crate) fn reserve(
        &mut self,
        transaction: TransactionId,
        by: &Requester,
        request: Reserve,
        now: Time,
    ) -> Result<(), Refusal> {
        let access = Arc::clone(&self.access);
        let profile = profile_of(&access, by)?;
        has_right(profile, by, Rights::RESERVE, "prr")?;
        let group = self.group_to_join(request.group, by)?;
        let zone = zone_of(&access, profile, by, request.zone.as_ref())?;
        check_ports(&access, request.protocol, request.range, 0)?;
        check_annotation(&request.annotation)?;
        if request.interfaces.is_some() {
            return Err(Refusal::Interfaces);
        }
        if request.internal_version != request.external_version {
            return Err(Refusal::Versions);
        }
        let host = request.internal.map(|internal| internal.address);
        if let Some(internal) = request.internal {
            if internal.version() != request.internal_version {
                return Err(Refusal::Versions);
            }
            check_internal(internal)?;
            check_ports(&access, request.protocol, request.range, internal.port)?;
        }
        let protocol = allowed_protocol(profile, by, request.protocol);
        // Without A0 its PER decides.
        let host_allowed = host.map_or(Ok(()), |host| allowed_host(profile, by, host));
        if let Err(why) = protocol.and(host_allowed) {
            let permit = by.permit.as_ref().ok_or_else(|| why.clone())?;
            let host = host.ok_or_else(|| why.clone())?;
            covered(permit, host, None, request.protocol).then_some(()).ok_or(why)?;
            // Its PER is what uses it: without a use left there is nothing to reserve for.
            self.permits.check(permit, access.limits.permits, now)?;
        }
        let (pool, wish) = match (host, request.internal_version) {
            (Some(host), _) => pool_of(&access, profile, &zone, host, request.outside.as_ref())?,
            (None, IpVersion::V4) => (access.realm.pool_of_zone(&zone), wish_of(request.outside.as_ref())),
            (None, IpVersion::V6) => (None, None),
        };
        if pool.is_some() && matches!(request.service, Service::Twice { lenient: false }) {
            return Err(Refusal::TwiceNat);
        }
        supported(request.protocol, pool.is_some())?;
        let lifetime = granted_lifetime(profile, by, request.lifetime)?;
        self.quotas(&access, profile, by, host, None)?;
        let (id, group) = self.next_ids(group);
        let rule = Rule {
            id,
            group,
            owner: by.agent.clone(),
            zone,
            action: Action::Reserve(request.parity),
            protocol: request.protocol,
            range: request.range,
            internal: request.internal,
            external: Tuple::any(request.external_version),
            pool: pool.map(|pool| pool.name.clone()),
            outside: None,
            behaviour: Behaviour::default(),
            locked: None,
            ending: access.ending,
            annotation: request.annotation,
            created: now,
            expires: lifetime.from(now),
        };
        let asked = Asked::new(transaction, "prr", by, profile.durable);
        self.begin_new(rule, asked, wish, now)
    }

    /// PER, also after a reservation.
    pub(crate) fn enable(
        &mut self,
        transaction: TransactionId,
        by: &Requester,
        request: Enable,
        now: Time,
    ) -> Result<(), Refusal> {
        let access = Arc::clone(&self.access);
        let profile = profile_of(&access, by)?;
        has_right(profile, by, Rights::ENABLE, "per")?;
        let before = match request.reserved {
            Some(id) => Some(self.reservation(profile, by, id)?),
            None => None,
        };
        let group = match before {
            Some(_) => None,
            None => self.group_to_join(request.group, by)?,
        };
        let (internal, external) = (request.internal, request.external);
        check_enable(&access, &request)?;
        if external.address_wild() && !profile.external_wildcard {
            return Err(Refusal::ExternalWildcard(external));
        }
        let zone = match before {
            Some(rule) => rule.zone.clone(),
            None => zone_of(&access, profile, by, request.zone.as_ref())?,
        };
        let mut by_permit = None;
        let allowed = allowed_protocol(profile, by, request.protocol)
            .and_then(|()| allowed_host(profile, by, internal.address))
            .and_then(|()| allowed_remote(profile, by, external.network()));
        if let Err(why) = allowed {
            let permit = by.permit.as_ref().ok_or_else(|| why.clone())?;
            let good = covered(permit, internal.address, Some(external.network()), request.protocol);
            good.then_some(()).ok_or(why)?;
            self.permits.check(permit, access.limits.permits, now)?;
            by_permit = Some(*permit);
        }
        let lifetime = granted_lifetime(profile, by, request.lifetime)?;
        // A use is spent with its rule or not at all: what is opened by it is durable before it is answered.
        let durable = profile.durable || by_permit.is_some();
        let mut asked = Asked { permit: by_permit, ..Asked::new(transaction, "per", by, durable) };
        let action = Action::Enable { direction: request.direction, parity: request.parity };
        if let Some(before) = before {
            let rule = self.after_reservation(&access, before, &request, action, lifetime.from(now))?;
            self.quotas(&access, profile, by, Some(internal.address), Some(before))?;
            self.check_mapping(&rule)?;
            asked.before = Some(Box::new(before.clone()));
            self.begin_upgrade(rule, asked, now);
            return Ok(());
        }
        let (pool, wish) = pool_of(&access, profile, &zone, internal.address, request.outside.as_ref())?;
        supported(request.protocol, pool.is_some())?;
        self.quotas(&access, profile, by, Some(internal.address), None)?;
        let (id, group) = self.next_ids(group);
        let rule = Rule {
            id,
            group,
            owner: by.agent.clone(),
            zone,
            action,
            protocol: request.protocol,
            range: request.range,
            internal: Some(internal),
            external,
            pool: pool.map(|pool| pool.name.clone()),
            outside: None,
            ending: request.behaviour.ending.unwrap_or(access.ending),
            behaviour: Behaviour { idle: shorter(request.behaviour.idle, profile.idle), ..request.behaviour },
            locked: None,
            annotation: request.annotation,
            created: now,
            expires: lifetime.from(now),
        };
        self.begin_new(rule, asked, wish, now)
    }

    /// The reservation a PER wants to take the place of (RFC 5189 2.3.9; the order of RFC 4540 8.4.1).
    fn reservation(&self, profile: &Profile, by: &Requester, id: RuleId) -> Result<&Rule, Refusal> {
        let (rule, _) = self.rule(id).ok_or(Refusal::NoSuchRule(id))?;
        let busy = self.entries.get(&id).is_some_and(|entry| entry.upgrading());
        if !matches!(rule.action, Action::Reserve(_)) || busy {
            return Err(Refusal::NotReserved(id));
        }
        self.accessible(profile, by, id)
    }

    /// The enable rule that takes a reservation's place: same identity, group, owner, A2.
    fn after_reservation(
        &self,
        access: &Access,
        before: &Rule,
        request: &Enable,
        action: Action,
        expires: Option<Time>,
    ) -> Result<Rule, Refusal> {
        let id = before.id;
        let internal = request.internal;
        if before.protocol != request.protocol {
            return Err(Refusal::ReservedProtocol(id));
        }
        if before.external.version() != request.external.version() {
            return Err(Refusal::ReservedVersion(id));
        }
        if before.range != request.range {
            return Err(Refusal::ReservedMismatch { rule: id, what: "range" });
        }
        // Another port of the reserved host is adopted, another host is not: its pool address may be another
        // (RFC 5189 2.3.9 leaves it to the middlebox).
        if before.internal.is_some_and(|reserved| reserved.address != internal.address) {
            return Err(Refusal::ReservedMismatch { rule: id, what: "internal address" });
        }
        let own = access.realm.pool_for(&before.zone, internal.address).map(|pool| &pool.name);
        if before.internal.is_none() && own != before.pool.as_ref() {
            return Err(Refusal::ReservedMismatch { rule: id, what: "pool" });
        }
        if let (Some(end), Parity::Same) = (before.outside, request.parity)
            && end.port % 2 != internal.port % 2
        {
            return Err(Refusal::ReservedParity { outside: end.port, internal: internal.port });
        }
        let annotated = request.annotation != Annotation::default();
        Ok(Rule {
            action,
            internal: Some(internal),
            external: request.external,
            behaviour: request.behaviour,
            ending: request.behaviour.ending.unwrap_or(access.ending),
            annotation: if annotated { request.annotation.clone() } else { before.annotation.clone() },
            expires,
            ..before.clone()
        })
    }

    /// The group a new rule is to be in: its owner's own (RFC 5189 2.1.5).
    fn group_to_join(&self, group: Option<GroupId>, by: &Requester) -> Result<Option<GroupId>, Refusal> {
        let Some(group) = group else { return Ok(None) };
        let member = self.index.members(group).find_map(|id| self.rule(id));
        let (rule, _) = member.ok_or(Refusal::NoSuchGroup(group))?;
        if rule.owner == by.agent {
            Ok(Some(group))
        } else if self.access.hide_foreign {
            Err(Refusal::NoSuchGroup(group))
        } else {
            Err(Refusal::NotYourGroup(group))
        }
    }

    fn quotas(
        &self,
        access: &Access,
        profile: &Profile,
        by: &Requester,
        host: Option<IpAddr>,
        before: Option<&Rule>,
    ) -> Result<(), Refusal> {
        let limits = &access.limits;
        if self.workers.is_none() {
            return Err(Refusal::Detached);
        }
        if self.under_way >= limits.pending {
            return Err(Refusal::Busy);
        }
        if before.is_none() {
            if self.entries.len() >= limits.rules {
                return Err(Refusal::Full(limits.rules));
            }
            if self.index.count_of(&by.agent) >= profile.rules {
                return Err(Refusal::Quota { whose: by.agent.to_string(), limit: profile.rules });
            }
        }
        let counted = before.is_some_and(|rule| rule.internal.is_some());
        if let Some(host) = host.filter(|_| !counted)
            && self.index.subscriber(host) >= limits.per_subscriber
        {
            return Err(Refusal::Quota { whose: host.to_string(), limit: limits.per_subscriber });
        }
        Ok(())
    }

    /// A new rule: the outside end it has to have or wishes, then on its way.
    fn begin_new(
        &mut self,
        mut rule: Rule,
        mut asked: Asked,
        wish: Option<Wish>,
        now: Time,
    ) -> Result<(), Refusal> {
        if rule.pool.is_some() {
            if let Some(end) = self.mapping(&rule)? {
                // Endpoint-independent: what the inside end has (RFC 4787 REQ-1), whatever is wished.
                if let Some(wish) = &wish
                    && wish.strict
                    && !wish.is(end)
                {
                    return Err(self.elsewhere(&rule));
                }
                check_parity(&rule, end)?;
                self.lease_in_one(&rule, end)?;
                rule.outside = Some(end);
            } else if let Some(wish) = wish {
                self.grant_wish(&mut rule, &mut asked, wish)?;
            } else if !rule.protocol.has_ports() {
                rule.outside = Some(self.address_of_its_own(&rule)?);
            }
        }
        if let Some(end) = rule.outside {
            self.outside_free(&rule, end)?;
            self.one_block(&rule, end)?;
        }
        let id = rule.id;
        if let Some(permit) = &asked.permit {
            self.permits.hold(permit);
        }
        self.insert(Entry::asked(rule, asked));
        self.under_way += 1;
        self.begin(id, now);
        Ok(())
    }

    fn begin_upgrade(&mut self, rule: Rule, asked: Asked, now: Time) {
        let id = rule.id;
        self.replace_rule(id, rule);
        if let Some(entry) = self.entries.get_mut(&id) {
            if let Some(permit) = &asked.permit {
                self.permits.hold(permit);
            }
            entry.asked = Some(Box::new(asked));
            self.under_way += 1;
        }
        self.begin(id, now);
    }

    /// After a reservation, A0 must not have another A2.
    fn check_mapping(&self, rule: &Rule) -> Result<(), Refusal> {
        match self.mapping(rule)? {
            Some(end) if rule.outside != Some(end) => Err(self.elsewhere(rule)),
            _ => Ok(()),
        }
    }

    fn elsewhere(&self, rule: &Rule) -> Refusal {
        let internal = rule.internal.unwrap_or(rule.external);
        let ports = (internal.port, internal.port.saturating_add(rule.range.saturating_sub(1)));
        let holder = self
            .index
            .at_inside(internal.address, rule.protocol, ports)
            .find_map(|(_, id)| self.entries.get(&id).filter(|entry| entry.rule.outside.is_some()));
        match holder {
            Some(entry) => Refusal::MappedElsewhere {
                protocol: rule.protocol,
                internal,
                holder: entry.rule.id,
                outside: entry.rule.outside,
            },
            None => Refusal::NotProvided("the inside end is mapped elsewhere"),
        }
    }

    /// The lowest outside port that other rules of the inside end leave for `rule`; `None` if they have none yet.
    fn mapping(&self, rule: &Rule) -> Result<Option<Grant>, Refusal> {
        let (Some(internal), Action::Enable { .. }) = (rule.internal, rule.action) else { return Ok(None) };
        let mut found: Option<Grant> = None;
        for (port, entry) in self.overlapping(rule.protocol, internal, rule.range, rule.id) {
            let other = &entry.rule;
            let (Some(end), true) = (other.outside, other.pool == rule.pool) else { continue };
            let lowest = i32::from(end.port) + i32::from(internal.port) - i32::from(port);
            let lowest =
                u16::try_from(lowest).ok().filter(|&lowest| !rule.protocol.has_ports() || lowest > 0);
            let end = lowest.map(|port| Grant { address: end.address, port });
            let fits = end.filter(|end| end.port.checked_add(rule.range - 1).is_some());
            match (fits, found) {
                (Some(end), None) => found = Some(end),
                (Some(end), Some(before)) if end == before => {}
                _ => return Err(self.elsewhere(rule)),
            }
        }
        Ok(found)
    }

    /// What is wished of A2, as far as the engine can see that it may be had.
    fn grant_wish(&self, rule: &mut Rule, asked: &mut Asked, wish: Wish) -> Result<(), Refusal> {
        let workers = self.workers.unwrap_or(1);
        asked.fallback = !wish.strict;
        let port = if rule.protocol.has_ports() { wish.port } else { Some(0) };
        let host = rule.internal.map(|internal| internal.address);
        let owner = host.map(|host| steering::owner_of_inside(Address::from(host), workers));
        let address = match (wish.address, port) {
            (Some(address), _) => Some(address),
            (None, Some(port)) if Some(steering::owner_of_port(port, workers)) == owner => None,
            (None, Some(_)) => self.address_for(rule),
            (None, None) => None,
        };
        if let (Some(address), Some(port)) = (address, port) {
            let end = Grant { address, port };
            let free = self.outside_free(rule, end).and_then(|()| check_parity(rule, end));
            match free.and_then(|()| self.one_block(rule, end)) {
                Ok(()) => rule.outside = Some(end),
                Err(why) if wish.strict => return Err(why),
                Err(_) if !rule.protocol.has_ports() => rule.outside = Some(self.address_of_its_own(rule)?),
                Err(_) => {}
            }
        } else {
            asked.wish = Some(Wish { address, port, strict: wish.strict });
        }
        Ok(())
    }

    /// The pool address for an inside host whose worker is not the one to choose: the one its other rules have
    /// (RFC 4787 REQ-2, paired), else by its own address.
    fn address_for(&self, rule: &Rule) -> Option<Ipv4Addr> {
        let pool = self.access.realm.pool(rule.pool.as_ref()?)?;
        let host = rule.internal.map(|internal| internal.address);
        let paired = host.and_then(|host| {
            self.index
                .of_host(host)
                .filter_map(|(_, _, id)| self.entries.get(&id))
                .filter(|entry| entry.rule.pool == rule.pool && entry.rule.protocol.has_ports())
                .find_map(|entry| entry.rule.outside)
        });
        paired.map(|end| end.address).or_else(|| {
            let index = match host {
                Some(IpAddr::V4(v4)) => u64::from(u32::from(v4)),
                _ => u64::from(rule.id.0),
            };
            pool.address_at(index)
        })
    }

    /// An address of the pool that nobody has for a protocol without ports.
    fn address_of_its_own(&self, rule: &Rule) -> Result<Grant, Refusal> {
        let nothing = Refusal::NoAddress(rule.protocol);
        let Some(pool) = rule.pool.as_ref().and_then(|name| self.access.realm.pool(name)) else {
            return Err(nothing);
        };
        let first = self.address_for(rule);
        let others = (0..pool.addresses().min(65_536)).filter_map(|index| pool.address_at(index));
        first
            .into_iter()
            .chain(others)
            .map(|address| Grant { address, port: 0 })
            .find(|end| self.outside_free(rule, *end).is_ok())
            .ok_or(nothing)
    }

    /// Ports of another worker are leased together: either other rules of the inside end have leased all of them, or
    /// none.
    fn lease_in_one(&self, rule: &Rule, end: Grant) -> Result<(), Refusal> {
        let Some(internal) = rule.internal.filter(|_| self.lessor(rule, end) != self.worker_of(rule)) else {
            return Ok(());
        };
        let all = (0..rule.range).all(|offset| {
            let port = Tuple { port: internal.port.saturating_add(offset), ..internal };
            self.overlapping(rule.protocol, port, 1, rule.id).next().is_some()
        });
        all.then_some(())
            .ok_or(Refusal::NotProvided("the range goes beyond ports leased from another worker"))
    }

    /// The ports of a range have to be of one worker.
    fn one_block(&self, rule: &Rule, end: Grant) -> Result<(), Refusal> {
        let workers = self.workers.unwrap_or(1);
        let last = end.port.saturating_add(rule.range.saturating_sub(1));
        let one = steering::owner_of_port(end.port, workers) == steering::owner_of_port(last, workers);
        one.then_some(()).ok_or(Refusal::NotProvided("the range crosses a block of ports"))
    }
}

/// The zone that is meant: enabled by the operator for the front end, and one of the agent's.
fn zone_of(
    access: &Access,
    profile: &Profile,
    by: &Requester,
    asked: Option<&Name>,
) -> Result<Name, Refusal> {
    let front = by.agent.front;
    let enabled = |zone: &Name| {
        let on = |access: &FrontAccess| access.zones.contains(zone);
        profile.zones.contains(zone) && access.fronts.get(&front).is_some_and(on)
    };
    let zone = match asked {
        Some(zone) => Some(zone).filter(|zone| enabled(zone)),
        None => profile.zones.iter().find(|zone| enabled(zone)),
    };
    zone.cloned().ok_or_else(|| Refusal::NotEnabled {
        front: front.name(),
        zone: asked.map_or_else(|| "any".to_owned(), ToString::to_string),
    })
}

fn check_enable(access: &Access, request: &Enable) -> Result<(), Refusal> {
    let Enable { internal, external, protocol, range, behaviour, .. } = request;
    check_internal(*internal)?;
    check_ports(access, *protocol, *range, internal.port)?;
    if internal.version() != external.version() {
        return Err(Refusal::Versions);
    }
    if external.prefix().is_none() {
        return Err(Refusal::NotAPrefix(external.network()));
    }
    if protocol.has_ports() {
        if internal.port == 0 {
            return Err(Refusal::InternalWildcard(*internal));
        }
        if external.port != 0 {
            check_ports(access, *protocol, *range, external.port)?;
        }
    }
    if request.interfaces.is_some() {
        return Err(Refusal::Interfaces);
    }
    check_annotation(&request.annotation)?;
    if behaviour.lock != Lock::No && !protocol.has_ports() {
        return Err(Refusal::Behaviour("only TCP and UDP holes can be locked by their first source"));
    }
    if behaviour.lock != Lock::No && request.direction == Direction::Outbound {
        return Err(Refusal::Behaviour("a hole that opens outwards has no first source"));
    }
    if let Some((first, last)) = behaviour.remote_ports
        && (first > last || external.port != 0)
    {
        return Err(Refusal::Behaviour("remote ports go upwards, and only where A3 has every port"));
    }
    if behaviour.idle == Some(0) {
        return Err(Refusal::Behaviour("an idle time of 0 would end the rule at once"));
    }
    Ok(())
}

/// A0 is one host (the box announces no internal wildcards).
fn check_internal(internal: Tuple) -> Result<(), Refusal> {
    if internal.prefix().is_none() {
        return Err(Refusal::NotAPrefix(internal.network()));
    }
    if internal.address_wild() {
        return Err(Refusal::InternalWildcard(internal));
    }
    is_host(internal.address).then_some(()).ok_or(Refusal::NotAHost(internal.address))
}

fn check_ports(access: &Access, protocol: Protocol, range: u16, port: u16) -> Result<(), Refusal> {
    let most = access.limits.range.clamp(1, MOST_PORTS);
    if !protocol.has_ports() {
        return Ok(());
    }
    if range == 0 || range > most {
        return Err(Refusal::Range { range, most });
    }
    match port.checked_add(range - 1) {
        Some(_) => Ok(()),
        None => Err(Refusal::Port { port, range }),
    }
}

fn check_annotation(annotation: &Annotation) -> Result<(), Refusal> {
    let description = annotation.description.as_ref().map_or(0, |text| text.len());
    if description.max(annotation.tag.len()) > Annotation::LONGEST {
        return Err(Refusal::Annotation(Annotation::LONGEST));
    }
    Ok(())
}

/// An outside end that is known before a worker is asked has to have the parity that was asked for.
fn check_parity(rule: &Rule, end: Grant) -> Result<(), Refusal> {
    let wanted = wanted_parity(rule);
    let good = match wanted {
        PortParity::Any => true,
        PortParity::Odd => end.port % 2 == 1,
        PortParity::Even => end.port.is_multiple_of(2),
    };
    good.then_some(()).ok_or(Refusal::NotProvided("its port has not the parity that was asked for"))
}

/// The parity of the lowest outside port.
pub(crate) fn wanted_parity(rule: &Rule) -> PortParity {
    match (rule.action, rule.internal) {
        (Action::Reserve(parity), _) => parity,
        (Action::Enable { parity: Parity::Same, .. }, Some(internal)) => {
            if internal.port.is_multiple_of(2) {
                PortParity::Even
            } else {
                PortParity::Odd
            }
        }
        _ => PortParity::Any,
    }
}

/// Protocols without ports that are known to work behind one external address each, and untranslated.
const TRANSLATED: [u8; 2] = [41, 55];
const PASSED: [u8; 4] = [41, 47, 50, 55];

fn supported(protocol: Protocol, translated: bool) -> Result<(), Refusal> {
    let why = match protocol {
        _ if protocol.has_ports() => return Ok(()),
        Protocol::ANY => "rules are for one protocol",
        Protocol(number) if translated && TRANSLATED.contains(&number) => return Ok(()),
        Protocol(number) if !translated && PASSED.contains(&number) => return Ok(()),
        _ if translated => "it cannot be translated: TCP, UDP, 41 and 55 can",
        _ => "the box has no rules of it: TCP, UDP, 41, 47, 50 and 55 it has",
    };
    Err(Refusal::UnsupportedProtocol { protocol, why })
}

fn allowed_protocol(profile: &Profile, by: &Requester, protocol: Protocol) -> Result<(), Refusal> {
    if profile.protocols.is_empty() || profile.protocols.contains(&protocol) {
        return Ok(());
    }
    Err(Refusal::NotItsProtocol { agent: by.agent.clone(), protocol })
}

fn allowed_host(profile: &Profile, by: &Requester, host: IpAddr) -> Result<(), Refusal> {
    let allowed = match &profile.inside {
        Scope::Own => by.host == Some(host),
        Scope::Prefixes(prefixes) => prefixes.iter().any(|prefix| prefix.contains(host)),
    };
    let internal = Network::host(host);
    allowed.then_some(()).ok_or_else(|| Refusal::NotItsHost { agent: by.agent.clone(), internal })
}

fn allowed_remote(profile: &Profile, by: &Requester, external: Network) -> Result<(), Refusal> {
    let allowed = profile.outside.iter().any(|prefix| prefix.covers(&external));
    allowed.then_some(()).ok_or_else(|| Refusal::NotItsRemote { agent: by.agent.clone(), external })
}

fn covered(permit: &Permit, host: IpAddr, external: Option<Network>, protocol: Protocol) -> bool {
    permit.inside.contains(host)
        && external.is_none_or(|external| permit.outside.covers(&external))
        && permit.protocol.is_none_or(|permitted| permitted == protocol)
}

/// At most what was asked, what the profile allows, and what the permit does (RFC 5189 2.3.8).
pub(crate) fn granted_lifetime(
    profile: &Profile,
    by: &Requester,
    asked: Lifetime,
) -> Result<Lifetime, Refusal> {
    let permitted = by.permit.map_or(Lifetime::FOREVER, |permit| Lifetime(permit.lifetime));
    let granted = asked.min(profile.lifetime).min(permitted);
    if granted == Lifetime::NONE { Err(Refusal::LifetimeZero) } else { Ok(granted) }
}

fn shorter(a: Option<u32>, b: Option<u32>) -> Option<u32> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn wish_of(outside: Option<&Outside>) -> Option<Wish> {
    let outside = outside?;
    let address = match outside.address {
        Some(IpAddr::V4(address)) => Some(address),
        _ => None,
    };
    let port = outside.port.filter(|&port| port != 0);
    (address.is_some() || port.is_some()).then_some(Wish { address, port, strict: outside.strict })
}

/// The pool an inside host is translated through, with what is wished of A2; no pool where it is not translated.
fn pool_of<'a>(
    access: &'a Access,
    profile: &Profile,
    zone: &str,
    host: IpAddr,
    outside: Option<&Outside>,
) -> Result<(Option<&'a Pool>, Option<Wish>), Refusal> {
    let own = access.realm.pool_for(zone, host);
    let strict = outside.is_some_and(|outside| outside.strict);
    let named = outside.and_then(|outside| outside.pool.as_ref());
    let pool = match named {
        // Only who may do everything chooses among pools.
        Some(name) if profile.rights.has(Rights::ADMIN) && host.is_ipv4() => {
            Some(access.realm.admit(name, None)?)
        }
        Some(name) if own.is_none_or(|own| own.name != *name) => {
            if strict && own.is_some() {
                let known = own.iter().map(|pool| pool.name.to_string()).collect();
                return Err(Refusal::NoSuchPool { pool: name.to_string(), known });
            }
            own
        }
        _ => own,
    };
    let wish = wish_of(outside);
    let Some(pool) = pool else {
        let other_address =
            outside.and_then(|outside| outside.address).is_some_and(|address| address != host);
        if strict && (named.is_some() || other_address) {
            return Err(Refusal::NotTranslated(host));
        }
        return Ok((None, None));
    };
    match wish {
        Some(Wish { address: Some(address), port, strict }) if !pool.contains(address) => {
            if strict {
                return Err(Refusal::NotInPool { pool: pool.name.to_string(), address: address.into() });
            }
            let rest = port.map(|port| Wish { address: None, port: Some(port), strict });
            Ok((Some(pool), rest))
        }
        wish => Ok((Some(pool), wish)),
    }
}

fn is_host(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_broadcast() || v4.is_link_local() || v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
    };
    !(link_local || address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

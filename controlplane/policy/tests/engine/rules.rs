//! RFC 5189 row by row, from reservations on: each test is named after the requirement it shows.

use crate::support::{Heard, World, access, agent, network, per, profile, prr, tuple, udp};
use std::collections::VecDeque;
use turnpike_abi::command::PinholeAdd;
use turnpike_abi::event::AckResult;
use turnpike_policy::{
    Action, Agent, AuditEvent, Behaviour, Direction, Enable, Ending, Event, Find, Front, GroupId, Lifetime,
    Limits, Lock, Network, Outside, Permit, PortParity, Protocol, Refusal, Reply, Request, Requester,
    Reserve, Rights, RuleId, Scope, State, Time,
};

fn gone(rule: RuleId) -> Event {
    Event::Rule { rule, lifetime: Lifetime::NONE }
}

#[test]
fn a_prr_01_a_pure_firewall_reserves_nothing_and_goes_through_the_same_states() {
    let mut world = World::new();
    let reserve = Reserve { internal: Some(tuple("172.16.0.1", 0)), ..prr(None, 2) };
    let (rule, _, outside) = world.reserve("a", reserve).unwrap();
    assert_eq!(outside, None);
    assert!(world.workers.reservations.is_empty());
    assert!(matches!(world.status("a", rule).unwrap().rule.action, Action::Reserve(_)));
    let enable = Enable { reserved: Some(rule), range: 2, ..udp("172.16.0.1", 5004) };
    assert_eq!(world.enable("a", enable).unwrap(), (rule, GroupId(1), tuple("172.16.0.1", 5004)));
}

#[test]
fn a_prr_02_nat_reserves_a2() {
    let mut world = World::new();
    let (rule, _, outside) = world.reserve("a", prr(None, 2)).unwrap();
    let outside = outside.unwrap();
    assert_eq!(outside.length, 32);
    let status = world.status("a", rule).unwrap();
    assert_eq!((status.outside, status.inside, status.rule.range), (Some(outside), None, 2));
}

#[test]
fn a_prr_03_nothing_passes_and_nobody_else_gets_what_is_reserved() {
    let mut world = World::with(access(), 1);
    let (_, _, outside) = world.reserve("a", prr(None, 2)).unwrap();
    let outside = outside.unwrap();
    assert!(world.workers.pinholes.is_empty(), "packet processing is unchanged");
    for port in [outside.port, outside.port + 1] {
        let wish = Outside { address: Some(outside.address), port: Some(port), strict: true, pool: None };
        let refusal = world.enable("b", Enable { outside: Some(wish), ..udp("10.0.0.5", 9) }).unwrap_err();
        assert_eq!(refusal.simco(), 0x50);
    }
    let (_, _, another) = world.enable("b", udp("10.0.0.5", 9)).unwrap();
    assert!(!(outside.port..=outside.port + 1).contains(&another.port));
}

#[test]
fn a_prr_04_a0_chooses_the_pool() {
    let mut world = World::new();
    let mut access = access();
    for profile in access.fronts.get_mut(&Front::Simco).unwrap().agents.values_mut() {
        profile.zones.push("guests".into());
    }
    world.engine.set_access(access, world.now);
    let in_zone = |zone: &str, host: &str| Reserve { zone: Some(zone.into()), ..prr(Some(host), 2) };
    let (rule, ..) = world.reserve("a", in_zone("inside", "10.0.0.1")).unwrap();
    assert_eq!(world.status("a", rule).unwrap().rule.pool.as_deref(), Some("public"));
    let (rule, ..) = world.reserve("a", in_zone("guests", "10.0.0.1")).unwrap();
    assert_eq!(world.status("a", rule).unwrap().rule.pool.as_deref(), Some("other"));
    let (rule, _, outside) = world.reserve("a", in_zone("inside", "172.16.0.1")).unwrap();
    assert_eq!((world.status("a", rule).unwrap().rule.pool, outside), (None, None));
}

#[test]
fn a_prr_05_protocols_without_ports_reserve_an_address() {
    let mut world = World::new();
    let reserve = |host: &str| Reserve {
        protocol: Protocol(41),
        range: 1,
        parity: PortParity::Any,
        ..prr(Some(host), 1)
    };
    let mut addresses = Vec::new();
    for n in 1..=4 {
        let (_, _, outside) = world.reserve("a", reserve(&format!("10.0.0.{n}"))).unwrap();
        addresses.push(outside.unwrap().address);
    }
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 4, "each its own");
    // Row F-244: no address is left for another.
    assert_eq!(world.reserve("a", reserve("10.0.0.9")).unwrap_err().simco(), 0x48);
}

#[test]
fn a_per_01_after_a_reservation_the_rule_keeps_its_identity_and_a2() {
    for workers in [1, 2, 3] {
        let mut world = World::with(access(), workers);
        let session = world.open("a");
        let other = world.open("boss");
        let by = world.by("a").in_session(session);
        for host in ["10.0.0.1", "10.0.0.2", "10.0.0.3"] {
            for internal in [None, Some(host)] {
                let (rule, group, outside) = world.reserve("a", prr(internal, 2)).unwrap();
                world.notifications();
                let enable = Enable { reserved: Some(rule), range: 2, ..udp(host, 5004) };
                let request = Request::Enable(Box::new(enable));
                let Ok(Reply::Enabled { rule: same, group: same_group, outside: a2, .. }) =
                    world.ask(&by, request)
                else {
                    panic!("{host} with {workers}");
                };
                assert_eq!((same, same_group, Some(a2)), (rule, group, outside));
                let heard: Vec<_> = world.notifications().iter().map(|(session, _)| *session).collect();
                assert_eq!(heard, [other], "no notification to who asked");
                assert!(world.workers.reservations.is_empty(), "it was used up");
                let again = Enable { reserved: Some(rule), range: 2, ..udp(host, 5004) };
                assert_eq!(world.enable("a", again).unwrap_err(), Refusal::NotReserved(rule));
                world.lifetime("a", rule, 0).unwrap();
                assert!(world.workers.leases.is_empty(), "{host} with {workers}");
            }
        }
    }
}

#[test]
fn a_per_02_a_failed_enable_leaves_the_reservation() {
    for workers in [1, 2, 3] {
        let mut world = World::with(access(), workers);
        for host in ["10.0.0.1", "10.0.0.2"] {
            let (rule, _, outside) = world.reserve("a", prr(None, 2)).unwrap();
            let enable = Enable { reserved: Some(rule), range: 2, ..udp(host, 5004) };
            let before = world.picture();
            world.workers.refuse = Some(AckResult::TABLE_FULL);
            assert_eq!(
                world.enable("a", enable.clone()).unwrap_err(),
                Refusal::Worker(AckResult::TABLE_FULL)
            );
            assert_eq!(world.picture(), before, "{host} with {workers}");
            assert!(world.workers.leases.is_empty());
            assert_eq!(Some(world.enable("a", enable).unwrap().2), outside, "and can be tried again");
            world.lifetime("a", rule, 0).unwrap();
        }
    }
}

#[test]
fn a_per_03_another_port_of_the_reserved_host_is_adopted_another_host_is_not() {
    let mut world = World::new();
    let reserve = Reserve { internal: Some(tuple("10.0.0.1", 4000)), ..prr(None, 2) };
    let (rule, ..) = world.reserve("a", reserve).unwrap();
    let enable = |host| Enable { reserved: Some(rule), range: 2, ..udp(host, 5004) };
    let refusal = world.enable("a", enable("10.0.0.2")).unwrap_err();
    assert_eq!(refusal, Refusal::ReservedMismatch { rule, what: "internal address" });
    world.enable("a", enable("10.0.0.1")).unwrap();
    assert_eq!(world.status("a", rule).unwrap().rule.internal, Some(tuple("10.0.0.1", 5004)));
}

#[test]
fn a_per_04_a_rule_for_each_direction_shares_one_binding() {
    let mut world = World::new();
    let (_, group, inbound) = world.enable("a", udp("10.0.0.1", 53)).unwrap();
    let out = Enable { group: Some(group), direction: Direction::Outbound, ..udp("10.0.0.1", 53) };
    let (_, _, outbound) = world.enable("a", out).unwrap();
    assert_eq!(inbound, outbound);
    assert_eq!(world.workers.pinholes.len(), 2);
}

#[test]
fn a_per_05_no_group_makes_one_and_a_wrong_one_makes_nothing() {
    let mut world = World::new();
    let (_, first, _) = world.enable("a", udp("10.0.0.1", 1)).unwrap();
    let (_, second, _) = world.enable("a", udp("10.0.0.1", 2)).unwrap();
    assert_ne!(first, second);
    let before = world.picture();
    let refusal = world.enable("a", Enable { group: Some(GroupId(99)), ..udp("10.0.0.1", 3) }).unwrap_err();
    assert_eq!((refusal.simco(), world.picture()), (0x44, before));
}

#[test]
fn a_rlc_01_no_more_than_was_asked_and_than_is_allowed_is_granted() {
    let mut world = World::new();
    let by = world.by("a");
    for (asked, granted) in [(1, 1), (3600, 3600), (3601, 3600), (u32::MAX, 3600)] {
        let enable = Enable { lifetime: Lifetime(asked), ..udp("10.0.0.1", 80) };
        let Ok(Reply::Enabled { rule, lifetime, .. }) = world.ask(&by, Request::Enable(Box::new(enable)))
        else {
            panic!("{asked}");
        };
        assert_eq!(lifetime, Lifetime(granted));
        assert_eq!(world.lifetime("a", rule, asked).unwrap(), Lifetime(granted));
    }
    let mut access = access();
    let simco = access.fronts.get_mut(&Front::Simco).unwrap();
    let short = Rights::ENABLE.and(Rights::MODIFY);
    simco.agents.insert("short".into(), turnpike_policy::Profile { rights: short, ..profile() });
    world.engine.set_access(access, world.now);
    let (rule, ..) = world.enable("short", udp("10.0.0.7", 80)).unwrap();
    assert_eq!(world.lifetime("short", rule, 301).unwrap_err(), Refusal::NotExtendable(rule));
    assert_eq!(world.lifetime("short", rule, 100).unwrap(), Lifetime(100));
}

#[test]
fn a_rlc_02_lifetime_0_deletes_either_kind() {
    let mut world = World::new();
    let (enabled, ..) = world.enable("a", udp("10.0.0.1", 80)).unwrap();
    let (reserved, ..) = world.reserve("a", prr(None, 2)).unwrap();
    for rule in [enabled, reserved] {
        assert_eq!(world.lifetime("a", rule, 60).unwrap(), Lifetime(60));
        assert_eq!(world.lifetime("a", rule, 0).unwrap(), Lifetime::NONE);
        assert_eq!(world.status("a", rule).unwrap_err(), Refusal::NoSuchRule(rule));
        assert_eq!(world.lifetime("a", rule, 60).unwrap_err(), Refusal::NoSuchRule(rule));
    }
    assert!(world.workers.pinholes.is_empty() && world.workers.reservations.is_empty());
    assert!(world.disk.is_empty());
}

/// The order of RFC 5189 2.3.8 to 2.3.10: who asked is answered first, then the others hear of it.
#[test]
fn a_ren_01_the_reply_comes_first_and_every_other_session_hears_of_it() {
    let mut world = World::new();
    let asker = world.open("a");
    let (twin, boss, backup, stranger) =
        (world.open("a"), world.open("boss"), world.open("backup"), world.open("b"));
    let by = world.by("a").in_session(asker);
    let mut rule = RuleId(0);
    for step in 0..4 {
        world.heard.clear();
        let request = match step {
            0 => Request::Reserve(Box::new(prr(None, 1))),
            1 => Request::Enable(Box::new(Enable { reserved: Some(rule), ..udp("10.0.0.1", 80) })),
            2 => Request::RuleLifetime { rule, lifetime: Lifetime(50) },
            _ => Request::RuleLifetime { rule, lifetime: Lifetime::NONE },
        };
        world.submit(&by, request);
        let Heard::Reply(_, Ok(reply)) = &world.heard[0] else { panic!("{:?}", world.heard) };
        if let Reply::Reserved { rule: made, .. } = reply {
            rule = *made;
        }
        let lifetime = Lifetime([120, 300, 50, 0][step]);
        let event = Event::Rule { rule, lifetime };
        assert_eq!(world.notifications(), [(twin, event), (boss, event), (backup, event)], "step {step}");
    }
    let _ = stranger;
}

#[test]
fn a_ren_02_expiry_is_announced_before_the_rule_is_gone() {
    let mut world = World::new();
    let session = world.open("a");
    let by = world.by("a").in_session(session);
    let Ok(Reply::Enabled { rule, .. }) = world.ask(&by, Request::Enable(Box::new(udp("10.0.0.1", 80))))
    else {
        panic!("refused");
    };
    world.slow_workers = Some(Default::default());
    world.pass(300);
    assert_eq!(world.notifications(), [(session, gone(rule))]);
    assert_eq!(world.workers.pinholes.len(), 1, "the worker has not been told yet");
    assert_eq!(world.status("a", rule).unwrap_err(), Refusal::NoSuchRule(rule));
    let mut queue = world.slow_workers.take().unwrap();
    for (token, worker, command) in queue.drain(..) {
        world.carry_out(token, worker, command);
    }
    world.run();
    assert!(world.workers.pinholes.is_empty() && world.disk.is_empty());
    assert!(world.notifications().is_empty(), "once");
    // The operator's word, and a worker's, are announced likewise.
    let Ok(Reply::Enabled { rule, .. }) = world.ask(&by, Request::Enable(Box::new(udp("10.0.0.1", 80))))
    else {
        panic!("refused");
    };
    world.engine.operator_ends(rule, Agent::new(Front::Cli, "0"), world.now).unwrap();
    world.run();
    assert_eq!(world.notifications(), [(session, gone(rule))]);
}

#[test]
fn a_ren_03_idle_rules_end_and_that_is_announced() {
    let mut access = access();
    for profile in access.fronts.get_mut(&Front::Simco).unwrap().agents.values_mut() {
        profile.idle = Some(30);
    }
    let mut world = World::with(access, 1);
    let session = world.open("a");
    let (rule, ..) = world.enable("a", udp("10.0.0.1", 80)).unwrap();
    world.notifications();
    assert!(world.engine.watches_use());
    world.pass(25);
    world.engine.used(u64::from(rule.0), world.now);
    world.pass(29);
    assert!(world.status("a", rule).is_ok());
    world.heard.clear();
    world.pass(1);
    assert_eq!(world.notifications(), [(session, gone(rule))]);
    assert!(world.workers.pinholes.is_empty());
    let ended = world
        .audits
        .iter()
        .any(|audit| matches!(&audit.event, AuditEvent::Ended { why: turnpike_policy::Ended::Idle, .. }));
    assert!(ended);
}

#[test]
fn a_grp_01_a_group_lives_as_long_as_its_members() {
    let mut world = World::new();
    let (first, group, _) =
        world.enable("a", Enable { lifetime: Lifetime(100), ..udp("10.0.0.1", 1) }).unwrap();
    let member = Enable { group: Some(group), lifetime: Lifetime(200), ..udp("10.0.0.1", 2) };
    let (second, ..) = world.enable("a", member).unwrap();
    let by = world.by("a");
    let Ok(Reply::Group { owner, lifetime, rules }) = world.ask(&by, Request::GroupStatus(group)) else {
        panic!("no group");
    };
    assert_eq!((owner, lifetime, rules), (agent("a"), Lifetime(200), vec![first, second]));
    assert_eq!(world.ask(&by, Request::GroupList), Ok(Reply::Groups(vec![(group, agent("a"))])));
    world.lifetime("a", second, 0).unwrap();
    world.pass(100);
    assert_eq!(world.ask(&by, Request::GroupStatus(group)), Err(Refusal::NoSuchGroup(group)));
    assert_eq!(world.ask(&by, Request::GroupList), Ok(Reply::Groups(vec![])));
}

#[test]
fn a_grp_02_a_groups_lifetime_is_that_of_all_members_and_others_hear_once() {
    let mut world = World::new();
    let asker = world.open("a");
    let other = world.open("boss");
    let by = world.by("a").in_session(asker);
    let (_, group, _) = world.enable("a", udp("10.0.0.1", 1)).unwrap();
    for port in 2..5 {
        world.enable("a", Enable { group: Some(group), ..udp("10.0.0.1", port) }).unwrap();
    }
    world.heard.clear();
    for seconds in [77, 0] {
        let lifetime = Lifetime(seconds);
        let reply = world.ask(&by, Request::GroupLifetime { group, lifetime });
        assert_eq!(reply, Ok(Reply::Lifetime(lifetime)));
        assert_eq!(world.notifications(), [(other, Event::Group { group, lifetime })]);
        let left: Vec<_> =
            world.engine.rules().map(|(rule, _)| Lifetime::left(rule.expires, world.now)).collect();
        assert!(left.iter().all(|left| *left == Lifetime(77)));
        assert_eq!(left.len(), if seconds == 0 { 0 } else { 4 });
    }
    assert!(world.workers.pinholes.is_empty() && world.disk.is_empty());
}

/// RFC 5189 2.1.4: no intermediate state of a group's deletion is stable, whenever the control plane is killed.
#[test]
fn a_grp_02_a_group_is_forgotten_at_once_or_not_at_all() {
    let mut world = World::new();
    let (_, group, _) = world.enable("a", udp("10.0.0.1", 1)).unwrap();
    world.reserve("a", prr(None, 2)).unwrap();
    for port in 2..5 {
        world.enable("a", Enable { group: Some(group), ..udp("10.0.0.1", port) }).unwrap();
    }
    world.slow_disk = Some(std::collections::VecDeque::new());
    let by = world.by("a");
    world.submit(&by, Request::GroupLifetime { group, lifetime: Lifetime(0) });
    let notes: Vec<_> = world.slow_disk.iter().flatten().map(|(_, notes)| notes.len()).collect();
    assert_eq!(notes, [4], "the members in one note, and nothing else");
}

#[test]
fn a_cnf_01_the_mandatory_transactions_are_offered_to_every_agent_with_its_rights() {
    let mut world = World::new();
    let (_, capabilities) = world.try_open("c").unwrap();
    for transaction in ["prr", "per", "rlc", "prl", "prs"] {
        assert!(capabilities.transactions.contains(&transaction));
    }
}

#[test]
fn a_cnf_02_the_optional_group_transactions_are_all_there() {
    let mut world = World::new();
    let (_, capabilities) = world.try_open("c").unwrap();
    for transaction in ["glc", "gl", "gs"] {
        assert!(capabilities.transactions.contains(&transaction));
    }
}

#[test]
fn a_amb_04_one_inside_end_always_has_one_outside_end() {
    for workers in [1, 2, 3] {
        let mut world = World::with(access(), workers);
        let (_, _, first) = world.enable("a", udp("10.0.0.1", 5004)).unwrap();
        let full = per(Protocol::UDP, tuple("10.0.0.1", 5004), tuple("192.0.2.1", 9), Direction::Outbound);
        assert_eq!(world.enable("b", full).unwrap().2, first);
        let wish = Outside { port: Some(first.port + 2), ..Outside::default() };
        let wished = Enable { outside: Some(wish.clone()), ..udp("10.0.0.1", 5004) };
        assert_eq!(world.enable("c", wished).unwrap().2, first, "whatever is wished");
        let strict = Outside { strict: true, ..wish };
        let refusal =
            world.enable("c", Enable { outside: Some(strict), ..udp("10.0.0.1", 5004) }).unwrap_err();
        assert!(matches!(refusal, Refusal::MappedElsewhere { .. }), "{refusal:?}");
    }
}

/// The second is carried out when it is known what became of the first.
#[test]
fn requests_for_one_inside_end_take_turns() {
    let slow = || {
        let mut world = World::new();
        let (rule, _, outside) = world.reserve("a", prr(Some("10.0.0.1"), 1)).unwrap();
        world.slow_disk = Some(VecDeque::new());
        let upgrade = Enable { reserved: Some(rule), ..udp("10.0.0.1", 5004) };
        let first = world.submit(&world.by("a"), Request::Enable(Box::new(upgrade)));
        let second = world.submit(&world.by("b"), Request::Enable(Box::new(udp("10.0.0.1", 5004))));
        assert_eq!((world.answer(first), world.answer(second)), (None, None));
        assert_eq!(world.workers.pinholes.len(), 1, "the second is not there yet");
        let (ticket, notes) = world.slow_disk.take().unwrap().pop_front().unwrap();
        (world, outside.unwrap(), first, second, ticket, notes)
    };
    let (mut world, reserved, first, second, ticket, notes) = slow();
    world.write(ticket, notes);
    world.run();
    for transaction in [first, second] {
        let answer = world.answer(transaction).unwrap().unwrap();
        assert!(matches!(answer, Reply::Enabled { outside, .. } if outside == reserved), "{answer:?}");
    }

    // The journal fails: the reservation has its end back, and the second gets another.
    let (mut world, reserved, first, second, ticket, _) = slow();
    world.engine.not_durable(ticket, world.now);
    world.run();
    assert_eq!(world.answer(first), Some(Err(Refusal::Journal)));
    let answer = world.answer(second).unwrap().unwrap();
    assert!(matches!(answer, Reply::Enabled { outside, .. } if outside != reserved), "{answer:?}");
    assert_eq!((world.workers.reservations.len(), world.workers.pinholes.len()), (1, 1));
}

#[test]
fn wishes_are_granted_where_they_can_be() {
    for workers in [1, 2, 3] {
        let mut world = World::with(access(), workers);
        for (n, port) in [80u16, 600, 1200, 5000].into_iter().enumerate() {
            let host = format!("10.0.1.{}", n + 1);
            let wish = |strict| Outside { port: Some(port), strict, ..Outside::default() };
            let enable = |host: &str, strict| Enable { outside: Some(wish(strict)), ..udp(host, 80) };
            assert_eq!(world.enable("a", enable(&host, true)).unwrap().2.port, port);
            let address = world.enable("a", enable(&host, false)).unwrap().2.address;
            let exact = Outside { address: Some(address), port: Some(port), ..Outside::default() };
            let other = Enable { outside: Some(exact), ..udp("10.0.2.1", 80 + port) };
            assert_ne!(world.enable("b", other).unwrap().2.port, port, "another one will do");
        }
    }
}

#[test]
fn hosts_open_for_themselves_alone() {
    let mut world = World::new();
    let by = |from: &str| {
        Requester::new(Agent::new(Front::Pcp, &format!("inside/{from}"))).from_host(from.parse().unwrap())
    };
    let request = |host: &str| Request::Enable(Box::new(udp(host, 80)));
    assert!(world.ask(&by("10.0.0.1"), request("10.0.0.1")).is_ok());
    let refusal = world.ask(&by("10.0.0.1"), request("10.0.0.2")).unwrap_err();
    assert!(matches!(refusal, Refusal::NotItsHost { .. }), "{refusal:?}");
    assert_eq!(refusal.pcp().code, 2);
    let find =
        Find { zone: None, protocol: None, host: crate::support::ip("10.0.0.1"), ports: (0, u16::MAX) };
    let Ok(Reply::Found(found)) = world.ask(&by("10.0.0.2"), Request::Find(find)) else { panic!("none") };
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].rule.owner.to_string(), "pcp:inside/10.0.0.1");
}

#[test]
fn quotas_of_agents_subscribers_and_the_box() {
    let mut access = access();
    access.limits.per_subscriber = 3;
    access.limits.rules = 6;
    access.fronts.get_mut(&Front::Simco).unwrap().agents.get_mut("a").unwrap().rules = 4;
    let mut world = World::with(access, 1);
    for port in 1..=3 {
        world.enable("a", udp("10.0.0.1", port)).unwrap();
    }
    assert_eq!(world.enable("b", udp("10.0.0.1", 9)).unwrap_err().simco(), 0x42, "of the subscriber");
    world.enable("a", udp("10.0.0.2", 1)).unwrap();
    let refusal = world.enable("a", udp("10.0.0.3", 1)).unwrap_err();
    assert_eq!(refusal, Refusal::Quota { whose: "simco:a".into(), limit: 4 });
    assert_eq!(refusal.pcp().code, 10);
    world.enable("b", udp("10.0.0.4", 1)).unwrap();
    world.enable("b", udp("10.0.0.4", 2)).unwrap();
    assert_eq!(world.enable("b", udp("10.0.0.5", 1)).unwrap_err(), Refusal::Full(6));
}

/// Ports that one worker has are had whichever worker's turn it is: all of them, and then the refusal says why.
#[test]
fn a_prr_05_a_reservation_for_no_host_is_had_of_any_worker() {
    let mut world = World::with(access(), 3);
    // Block 2 is the third worker's alone.
    world.workers.last_port = Some(1024 + 2 * 9);
    for pair in 0..10 {
        let (_, _, outside) = world.reserve("a", prr(None, 2)).unwrap();
        assert_eq!(outside.unwrap().port, 1024 + 2 * pair);
    }
    let before = world.picture();
    let refusal = world.reserve("b", prr(None, 2)).unwrap_err();
    assert_eq!((refusal.simco(), refusal.pcp().code, refusal.reason()), (0x49, 8, "no_port"));
    assert!(refusal.to_string().contains("blocks of subscribers"), "{refusal}");
    assert_eq!(world.picture(), before);
    assert_eq!(world.engine.under_way(), 0);
    // Of a host's own worker only.
    let commands = world.workers.commands;
    assert!(matches!(world.reserve("a", prr(Some("10.0.0.1"), 2)), Err(Refusal::NoPort(_))));
    assert_eq!(world.workers.commands, commands + 1);
}

/// "host" may open for nobody by itself, and need not wait for the journal.
fn for_permits() -> World {
    let mut access = access();
    let simco = access.fronts.get_mut(&Front::Simco).unwrap();
    let nobody = turnpike_policy::Profile { inside: Scope::Prefixes(vec![]), durable: false, ..profile() };
    simco.agents.insert("host".into(), nobody);
    access.limits.permits = 3;
    World::with(access, 1)
}

fn permit(number: u8) -> Permit {
    Permit {
        inside: network("10.0.0.1/32"),
        outside: network("192.0.2.0/24"),
        protocol: Some(Protocol::UDP),
        lifetime: 60,
        rules: 2,
        nonce: [number; 16],
        expires: Time(2_000_000),
    }
}

fn open_by(world: &mut World, permit: Permit) -> Result<Reply, Refusal> {
    let by = Requester { permit: Some(permit), ..world.by("host") };
    let enable = per(Protocol::UDP, tuple("10.0.0.1", 80), tuple("192.0.2.1", 0), Direction::Inbound);
    world.ask(&by, Request::Enable(Box::new(enable)))
}

/// F-233: neither a restart nor the end of its rules gives a use back.
#[test]
fn f_233_uses_of_permits_outlive_a_restart_until_the_permit_ends() {
    let mut world = for_permits();
    for _ in 0..2 {
        let Ok(Reply::Enabled { rule, .. }) = open_by(&mut world, permit(7)) else { panic!("refused") };
        world.lifetime("boss", rule, 0).unwrap();
    }
    world.restart();
    world.attach();
    assert_eq!(open_by(&mut world, permit(7)).unwrap_err(), Refusal::PermitUsed(2));
    // There is nothing to reserve for either.
    let by = Requester { permit: Some(permit(7)), ..world.by("host") };
    let reserve = prr(Some("10.0.0.1"), 1);
    assert_eq!(world.ask(&by, Request::Reserve(Box::new(reserve))).unwrap_err(), Refusal::PermitUsed(2));
    open_by(&mut world, permit(8)).unwrap();
    assert_eq!(world.uses.len(), 2);
    world.pass(1000);
    assert!(world.uses.is_empty(), "forgotten when they ended");
    assert_eq!(open_by(&mut world, permit(7)).unwrap_err(), Refusal::PermitExpired);
    world.restart();
    assert_eq!(world.engine.deadline(), None, "nothing is left of them");
}

/// F-233: a use is spent if and only if its rule was granted.
#[test]
fn f_233_a_use_without_its_rule_is_not_spent() {
    let mut world = for_permits();
    let once = Permit { rules: 1, ..permit(7) };
    world.workers.refuse = Some(AckResult::TABLE_FULL);
    assert_eq!(open_by(&mut world, once).unwrap_err(), Refusal::Worker(AckResult::TABLE_FULL));
    assert!(world.uses.is_empty());

    let enable = per(Protocol::UDP, tuple("10.0.0.1", 80), tuple("192.0.2.1", 0), Direction::Inbound);
    let request = || Request::Enable(Box::new(enable.clone()));
    let by = Requester { permit: Some(once), ..world.by("host") };
    world.slow_disk = Some(VecDeque::new());
    let lost = world.submit(&by, request());
    // Held meanwhile, also of an agent that need not wait for the journal.
    assert_eq!(world.answer(lost), None);
    let elsewhere = Enable { internal: tuple("10.0.0.1", 81), ..enable.clone() };
    let second = world.submit(&by, Request::Enable(Box::new(elsewhere)));
    assert_eq!(world.answer(second), Some(Err(Refusal::PermitUsed(1))));
    let (ticket, _) = world.slow_disk.as_mut().unwrap().pop_front().unwrap();
    world.engine.not_durable(ticket, world.now);
    world.run();
    assert_eq!(world.answer(lost), Some(Err(Refusal::Journal)));

    // The process dies with the note.
    let died = world.submit(&by, request());
    world.restart();
    world.attach();
    assert_eq!(world.answer(died), None);
    // The dataplane goes before the worker has answered.
    world.slow_workers = Some(VecDeque::new());
    let alone = world.submit(&by, request());
    world.engine.detached(world.now);
    world.run();
    assert_eq!(world.answer(alone), Some(Err(Refusal::Detached)));
    world.slow_workers = None;
    world.slow_disk = None;
    world.attach();
    open_by(&mut world, once).unwrap();
    assert_eq!(world.uses[&once.nonce].times, 1);
    assert_eq!(open_by(&mut world, once).unwrap_err(), Refusal::PermitUsed(1));
}

/// F-233: more permits than are remembered are refused, not forgotten.
#[test]
fn f_233_no_permit_is_forgotten_for_another() {
    let mut world = for_permits();
    let long = Permit { expires: Time(3_000_000), ..permit(1) };
    open_by(&mut world, long).unwrap();
    for number in 2..4 {
        open_by(&mut world, permit(number)).unwrap();
    }
    let refusal = open_by(&mut world, permit(4)).unwrap_err();
    assert_eq!((refusal.simco(), refusal.reason()), (0x42, "full"));
    assert_eq!(refusal, Refusal::PermitsFull(3));
    // Those that are known go on.
    open_by(&mut world, long).unwrap();
    assert_eq!(open_by(&mut world, long).unwrap_err(), Refusal::PermitUsed(2));
    world.pass(1000);
    assert_eq!(world.uses.len(), 1);
    open_by(&mut world, Permit { expires: Time(3_000_000), ..permit(4) }).unwrap();
}

#[test]
fn permits_open_what_the_agent_may_not_as_often_as_they_say() {
    let mut world = for_permits();
    let by = Requester { permit: Some(permit(7)), ..world.by("host") };
    let ask = |world: &mut World, host: &str, remote: &str| {
        let enable = per(Protocol::UDP, tuple(host, 80), tuple(remote, 0), Direction::Inbound);
        world.ask(&by, Request::Enable(Box::new(enable)))
    };
    assert!(ask(&mut world, "10.0.0.2", "192.0.2.1").is_err(), "another host");
    assert!(ask(&mut world, "10.0.0.1", "198.51.100.1").is_err(), "another remote end");
    for _ in 0..2 {
        let Ok(Reply::Enabled { lifetime, .. }) = ask(&mut world, "10.0.0.1", "192.0.2.1") else {
            panic!("refused");
        };
        assert_eq!(lifetime, Lifetime(60));
    }
    assert_eq!(ask(&mut world, "10.0.0.1", "192.0.2.1").unwrap_err(), Refusal::PermitUsed(2));
}

#[test]
fn behaviours_reach_the_worker_and_its_news_the_rule() {
    let mut world = World::new();
    let session = world.open("a");
    let behaviour =
        Behaviour { lock: Lock::Address, max_flows: 1, close_on_fin: true, ..Behaviour::default() };
    let enable = Enable {
        behaviour,
        ..Enable::new(Protocol::TCP, tuple("10.0.0.1", 80), Direction::Inbound, Lifetime(60))
    };
    let (rule, ..) = world.enable("a", enable).unwrap();
    let (add, _) = world.workers.pinholes[&u64::from(rule.0)];
    assert_eq!(add.flags & PinholeAdd::LOCK_ADDRESS, PinholeAdd::LOCK_ADDRESS);
    assert_eq!(add.flags & PinholeAdd::CLOSE_ON_END, PinholeAdd::CLOSE_ON_END);
    assert_eq!(add.max_flows, 1);
    world.engine.locked(u64::from(rule.0), tuple("192.0.2.7", 0), world.now);
    world.run();
    assert_eq!(world.disk[&rule].locked, Some(tuple("192.0.2.7", 0)), "the lock outlives a restart");
    world.restart();
    world.workers.pinholes.clear();
    world.attach();
    let (add, _) = world.workers.pinholes[&u64::from(rule.0)];
    assert_eq!(add.remote, tuple("192.0.2.7", 0).prefix().unwrap());
    let _ = session;
    let session = world.open("a");
    world.heard.clear();
    world.engine.closed(u64::from(rule.0), world.now);
    world.run();
    assert_eq!(world.notifications(), [(session, gone(rule))]);
    assert!(world.disk.is_empty());
}

#[test]
fn after_a_restart_only_differences_reach_the_workers() {
    let mut world = World::new();
    let mut rules = Vec::new();
    for n in 1..=9 {
        rules.push(world.enable("a", udp(&format!("10.0.0.{n}"), 80)).unwrap());
    }
    // One more that the journal never heard of, one that the worker lost.
    let (mut stray, ack) = world.workers.pinholes[&u64::from(rules[0].0.0)];
    stray.id = 4000;
    world.workers.pinholes.insert(4000, (stray, ack));
    world.restart();
    world.workers.pinholes.remove(&u64::from(rules[3].0.0));
    let before = world.workers.commands;
    world.attach();
    assert_eq!(world.workers.commands - before, 2, "one removed, one installed");
    assert!(!world.workers.pinholes.contains_key(&4000));
    for (rule, _, outside) in rules {
        let status = world.status("a", rule).unwrap();
        assert_eq!((status.outside, status.state), (Some(outside), State::Active));
    }
}

#[test]
fn networks_cover() {
    let v4 = |text| network(text);
    assert!(
        Network::V4.covers(&v4("10.0.0.0/8")) && v4("10.0.0.0/8").contains(crate::support::ip("10.255.0.1"))
    );
    assert!(!v4("10.0.0.0/8").covers(&Network::V4) && !Network::V4.covers(&Network::V6));
    assert!(!v4("2001:db8::/32").contains(crate::support::ip("2001:db9::1")));
}

/// A drained pinhole's flows keep the port that another worker leased, and give it back when they end.
#[test]
fn a_leased_port_goes_back_when_the_last_flow_of_a_drained_pinhole_ended() {
    let mut world = World::new();
    let host = (1..9).map(|n| format!("10.0.0.{n}"));
    let leases = |world: &World| world.workers.leases.keys().copied().collect::<Vec<_>>();
    for host in host {
        let outside = Outside { port: Some(600), strict: true, ..Outside::default() };
        let behaviour = Behaviour { ending: Some(Ending::Drain), ..Behaviour::default() };
        let enable = Enable { outside: Some(outside), behaviour, ..udp(&host, 80) };
        let (rule, ..) = world.enable("a", enable).unwrap();
        if leases(&world).is_empty() {
            world.lifetime("a", rule, 0).unwrap();
            continue;
        }
        world.workers.draining = leases(&world);
        world.lifetime("a", rule, 0).unwrap();
        assert!(world.workers.pinholes.is_empty() && leases(&world).len() == 1, "its flow lives on");
        // Nor does a control plane that finds it take it from the flow.
        world.restart();
        world.attach();
        world.pass(60);
        assert_eq!(leases(&world).len(), 1);
        world.workers.draining.clear();
        world.pass(160);
        assert!(leases(&world).is_empty());
        assert_eq!(world.engine.deadline(), None);
        return;
    }
    panic!("no host of the other worker");
}

/// Requests that are not answered yet are counted, and no more of them are begun than may wait.
#[test]
fn requests_under_way_are_bounded() {
    let limits = Limits { pending: 2, ..Limits::default() };
    let mut world = World::with(turnpike_policy::Access { limits, ..access() }, 1);
    world.slow_workers = Some(VecDeque::new());
    let by = world.by("a");
    let ask = |world: &mut World, port| world.submit(&by, Request::Enable(Box::new(udp("10.0.0.1", port))));
    let first = [ask(&mut world, 80), ask(&mut world, 82)];
    assert_eq!(world.engine.under_way(), 2);
    let third = ask(&mut world, 84);
    assert_eq!(world.answer(third), Some(Err(Refusal::Busy)));
    for (token, worker, command) in world.slow_workers.take().unwrap() {
        world.carry_out(token, worker, command);
    }
    world.run();
    assert!(first.iter().all(|&transaction| world.answer(transaction).is_some_and(|answer| answer.is_ok())));
    assert_eq!(world.engine.under_way(), 0);
}

//! RFC 5189 row by row: each test is named after the requirement it shows.

use crate::support::{Heard, World, access, agent, network, per, profile, prr, tuple, udp};
use turnpike_abi::command::PinholeAdd;
use turnpike_abi::event::AckResult;
use turnpike_policy::{
    AuditEvent, Direction, Enable, Event, Filter, Front, GroupId, IpVersion, Lifetime, Outside, Parity,
    PortParity, Protocol, Refusal, Reply, Request, Reserve, Rights, RuleId, Service, SessionEnd, SessionId,
    State, Tuple,
};

#[test]
fn a_gen_01_every_request_gets_one_reply() {
    let mut world = World::new();
    let by = world.by("a");
    let requests = [
        Request::Reserve(Box::new(prr(None, 2))),
        Request::Enable(Box::new(udp("10.0.0.1", 5004))),
        Request::RuleLifetime { rule: RuleId(1), lifetime: Lifetime(60) },
        Request::RuleList(Filter::default()),
        Request::RuleStatus(RuleId(1)),
        Request::GroupLifetime { group: GroupId(1), lifetime: Lifetime(60) },
        Request::GroupList,
        Request::GroupStatus(GroupId(1)),
        Request::RuleLifetime { rule: RuleId(1), lifetime: Lifetime::NONE },
        Request::RuleStatus(RuleId(99)),
    ];
    let transactions: Vec<_> = requests.iter().map(|request| world.submit(&by, request.clone())).collect();
    for transaction in &transactions {
        assert!(world.answer(*transaction).is_some(), "{transaction:?}");
    }
    let replies = world.heard.iter().filter(|heard| matches!(heard, Heard::Reply(..))).count();
    assert_eq!(replies, transactions.len());
}

#[test]
fn a_gen_02_replies_carry_the_identity_of_their_request() {
    let mut world = World::new();
    world.slow_workers = Some(Default::default());
    let by = world.by("a");
    let first = world.submit(&by, Request::Enable(Box::new(udp("10.0.0.1", 1))));
    let second = world.submit(&by, Request::Enable(Box::new(udp("10.0.0.2", 2))));
    assert_eq!((world.answer(first), world.answer(second)), (None, None));
    // The later one is carried out first.
    let mut queue = world.slow_workers.take().unwrap();
    while let Some((token, worker, command)) = queue.pop_back() {
        world.carry_out(token, worker, command);
        world.run();
    }
    let rule = |world: &World, transaction| match world.answer(transaction) {
        Some(Ok(Reply::Enabled { rule, .. })) => rule,
        other => panic!("{other:?}"),
    };
    let (first, second) = (rule(&world, first), rule(&world, second));
    assert_eq!(world.engine.rule(first).unwrap().0.internal, Some(tuple("10.0.0.1", 1)));
    assert_eq!(world.engine.rule(second).unwrap().0.internal, Some(tuple("10.0.0.2", 2)));
}

#[test]
fn a_gen_03_refusals_have_a_reason_and_a_code_in_each_protocol() {
    let mut world = World::new();
    let refusal = world.status("a", RuleId(9)).unwrap_err();
    assert_eq!(refusal, Refusal::NoSuchRule(RuleId(9)));
    assert_eq!((refusal.simco(), refusal.pcp().code, refusal.reason()), (0x43, 3, "no_such_rule"));
    assert!(matches!(world.audits.last().unwrap().event, AuditEvent::Refused { transaction: "prs", .. }));
}

#[test]
fn a_gen_04_notification_identities_never_repeat_over_sessions() {
    let mut world = World::new();
    for name in ["a", "a", "boss", "backup"] {
        world.open(name);
    }
    for port in 1..20 {
        world.enable("a", udp("10.0.0.1", port)).unwrap();
    }
    let mut ids: Vec<_> = world
        .heard
        .iter()
        .filter_map(|heard| match heard {
            Heard::Notification(_, notification) => Some(notification.id),
            Heard::Reply(..) => None,
        })
        .collect();
    let count = ids.len();
    assert_eq!(count, 4 * 19);
    ids.dedup();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count);
}

#[test]
fn a_gen_05_requests_are_atomic() {
    // Two agents race for the last ports: one wins, and the other has nothing at all.
    let mut world = World::with(access(), 1);
    world.workers.last_port = Some(1026);
    world.slow_workers = Some(Default::default());
    let (a, b) = (world.by("a"), world.by("b"));
    let first = world.submit(&a, Request::Reserve(Box::new(prr(None, 2))));
    let second =
        world.submit(&b, Request::Reserve(Box::new(Reserve { parity: PortParity::Odd, ..prr(None, 2) })));
    let mut queue = world.slow_workers.take().unwrap();
    while let Some((token, worker, command)) = queue.pop_front() {
        world.carry_out(token, worker, command);
    }
    world.run();
    let answers = [world.answer(first).unwrap(), world.answer(second).unwrap()];
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1, "{answers:?}");
    assert_eq!(world.workers.reservations.len(), 1);
    assert_eq!(world.engine.len(), 1);
    // What is under way is not to be seen.
    world.slow_disk = Some(Default::default());
    let third = world.submit(
        &a,
        Request::Enable(Box::new(Enable {
            external: tuple("192.0.2.1", 7),
            ..Enable::new(Protocol::UDP, tuple("172.16.0.1", 7), Direction::Inbound, Lifetime(9))
        })),
    );
    assert_eq!(world.answer(third), None);
    assert_eq!(world.list("a").len(), usize::from(answers[0].is_ok()));
}

#[test]
fn a_gen_06_identities_are_unique_and_owners_stay() {
    let mut world = World::new();
    let (first, first_group, _) = world.enable("a", udp("10.0.0.1", 1)).unwrap();
    let (second, second_group, _) = world.enable("b", udp("10.0.0.2", 1)).unwrap();
    assert!(first != second && first_group != second_group);
    world.lifetime("boss", first, 100).unwrap();
    assert_eq!(world.status("a", first).unwrap().rule.owner, agent("a"));
    world.lifetime("a", first, 0).unwrap();
    world.restart();
    world.attach();
    let (third, third_group, _) = world.enable("a", udp("10.0.0.3", 1)).unwrap();
    assert!(third > second && third_group > second_group, "identities are not given out again");
    assert_eq!(world.status("b", second).unwrap().rule.owner, agent("b"));
}

#[test]
fn a_gen_07_groups_belong_to_one_owner() {
    let mut world = World::new();
    let (_, group, _) = world.enable("a", udp("10.0.0.1", 1)).unwrap();
    let join = |port| Enable { group: Some(group), ..udp("10.0.0.1", port) };
    assert_eq!(world.enable("a", join(2)).unwrap().1, group);
    assert_eq!(world.enable("b", join(3)).unwrap_err(), Refusal::NotYourGroup(group));
    // Not even who may act on it: the group's rules have one owner.
    assert_eq!(world.enable("boss", join(4)).unwrap_err(), Refusal::NotYourGroup(group));
    let reserve = Reserve { group: Some(group), ..prr(None, 2) };
    assert_eq!(world.reserve("b", reserve).unwrap_err().simco(), 0x46);
    assert_eq!(world.group_lifetime("b", group, 0).unwrap_err(), Refusal::NotYourGroup(group));
}

#[test]
fn a_gen_08_agents_see_their_own_rules_and_administrators_all() {
    let mut world = World::new();
    let (mine, ..) = world.enable("a", udp("10.0.0.1", 1)).unwrap();
    let (theirs, ..) = world.enable("b", udp("10.0.0.2", 1)).unwrap();
    assert_eq!(world.list("a"), [mine]);
    assert_eq!(world.list("boss"), [mine, theirs]);
    assert_eq!(world.list("backup"), [mine], "takeover of a");
    assert_eq!(world.status("a", theirs).unwrap_err(), Refusal::NotYourRule(theirs));
    assert_eq!(world.lifetime("c", mine, 0).unwrap_err().simco(), 0x45);
    world.lifetime("backup", mine, 0).unwrap();
    let mut hidden = access();
    hidden.hide_foreign = true;
    world.engine.set_access(hidden, world.now);
    assert_eq!(world.status("a", theirs).unwrap_err(), Refusal::NoSuchRule(theirs));
}

#[test]
fn a_gen_09_capabilities_are_those_of_the_configuration() {
    let mut access = access();
    let simco = access.fronts.get_mut(&Front::Simco).unwrap();
    let narrow = turnpike_policy::Profile {
        rights: Rights::ENABLE,
        external_wildcard: false,
        lifetime: Lifetime(77),
        idle: Some(30),
        sessions: 2,
        ..profile()
    };
    simco.agents.insert("narrow".into(), narrow);
    let mut world = World::with(access, 1);
    let (_, all) = world.try_open("a").unwrap();
    assert!(all.firewall && all.nat && all.external_wildcard && all.port_wildcard && all.persistent);
    assert!(!all.internal_wildcard);
    assert_eq!(all.lifetime, Lifetime(3600));
    let (_, few) = world.try_open("narrow").unwrap();
    assert!(!few.external_wildcard);
    assert_eq!((few.lifetime, few.idle, few.sessions), (Lifetime(77), Some(30), 2));
    let mut untranslated = world.engine.access().clone();
    untranslated.realm.translations.clear();
    world.engine.set_access(untranslated, world.now);
    assert!(!world.try_open("b").unwrap().1.nat);
}

#[test]
fn a_gen_10_the_transactions_an_agent_may_use_are_announced_and_enforced() {
    let mut access = access();
    let simco = access.fronts.get_mut(&Front::Simco).unwrap();
    let reader = turnpike_policy::Profile { rights: Rights::READ, ..profile() };
    simco.agents.insert("reader".into(), reader);
    let mut world = World::with(access, 1);
    let (_, all) = world.try_open("a").unwrap();
    assert_eq!(all.transactions, ["prr", "per", "prl", "prs", "gl", "gs", "rlc", "glc"]);
    let (_, few) = world.try_open("reader").unwrap();
    assert_eq!(few.transactions, ["prl", "prs", "gl", "gs"]);
    assert_eq!(world.enable("reader", udp("10.0.0.1", 1)).unwrap_err().simco(), 0x41);
    assert_eq!(world.reserve("reader", prr(None, 2)).unwrap_err().simco(), 0x41);
    assert_eq!(world.lifetime("reader", RuleId(1), 0).unwrap_err().simco(), 0x41);
    assert!(world.list("reader").is_empty());
}

/// Every way to be refused leaves everything as it was.
#[test]
fn a_gen_12_a_failed_request_changes_no_state() {
    let mut world = World::new();
    let (rule, group, _) = world.enable("a", udp("10.0.0.1", 5000)).unwrap();
    let (reserved, _, outside) = world.reserve("a", prr(Some("10.0.0.9"), 2)).unwrap();
    let taken = outside.unwrap();
    let strict =
        |port| Some(Outside { address: Some(taken.address), port: Some(port), strict: true, pool: None });
    let pea = |enable: Enable| Enable { reserved: Some(reserved), range: 2, ..enable };
    let wrong: Vec<(&str, Enable, u8)> = vec![
        ("a", Enable { group: Some(GroupId(77)), ..udp("10.0.0.1", 1) }, 0x44),
        ("b", Enable { group: Some(group), ..udp("10.0.0.1", 1) }, 0x46),
        ("a", udp("192.0.2.1", 1), 0x41),
        ("a", udp("10.0.0.0/24", 1), 0x4C),
        ("a", udp("10.0.0.1", 0), 0x4C),
        ("a", udp("127.0.0.1", 1), 0x53),
        ("a", Enable { range: 65, ..udp("10.0.0.1", 1) }, 0x56),
        ("a", Enable { range: 0, ..udp("10.0.0.1", 1) }, 0x56),
        ("a", Enable { range: 2, ..udp("10.0.0.1", 65535) }, 0x55),
        ("a", Enable { external: tuple("2001:db8::9", 1), ..udp("10.0.0.1", 1) }, 0x4F),
        ("a", Enable { protocol: Protocol(99), ..udp("10.0.0.1", 1) }, 0x54),
        ("a", Enable { protocol: Protocol::ANY, ..udp("10.0.0.1", 1) }, 0x54),
        ("a", Enable { lifetime: Lifetime::NONE, ..udp("10.0.0.1", 1) }, 0x4A),
        ("a", Enable { interfaces: Some(("x".into(), "y".into())), ..udp("10.0.0.1", 1) }, 0x4A),
        ("a", Enable { outside: strict(taken.port + 1), ..udp("10.0.0.1", 1) }, 0x50),
        ("a", Enable { reserved: Some(RuleId(77)), ..udp("10.0.0.1", 1) }, 0x43),
        ("a", Enable { reserved: Some(rule), ..udp("10.0.0.1", 1) }, 0x4B),
        ("b", pea(udp("10.0.0.9", 5004)), 0x45),
        ("a", Enable { protocol: Protocol::TCP, ..pea(udp("10.0.0.9", 5004)) }, 0x4D),
        ("a", Enable { range: 3, ..pea(udp("10.0.0.9", 5004)) }, 0x4B),
        ("a", pea(udp("10.0.0.8", 5004)), 0x4B),
        ("a", Enable { parity: Parity::Same, ..pea(udp("10.0.0.9", 5005)) }, 0x58),
        ("a", Enable { external: tuple("2001:db8::9", 1), ..pea(udp("2001:db8::1", 5004)) }, 0x4F),
    ];
    let before = world.picture();
    for (name, enable, code) in wrong {
        let refusal = world.enable(name, enable.clone()).unwrap_err();
        assert_eq!(refusal.simco(), code, "{enable:?}: {refusal}");
        assert_eq!(world.picture(), before, "{enable:?}");
    }
    for result in [AckResult::NO_PORT, AckResult::TABLE_FULL, AckResult::LIMIT, AckResult::TOO_MANY] {
        for enable in [udp("10.0.0.1", 1), pea(udp("10.0.0.9", 5004))] {
            world.workers.refuse = Some(result);
            assert_eq!(world.enable("a", enable).unwrap_err(), Refusal::Worker(result));
            assert_eq!(world.picture(), before);
        }
    }
}

#[test]
fn a_gen_13_overlap_is_accepted_and_conflict_is_first_come_first_served() {
    let mut world = World::new();
    let (first, _, outside) = world.enable("a", udp("10.0.0.1", 80)).unwrap();
    let (second, _, same) = world.enable("b", udp("10.0.0.1", 80)).unwrap();
    assert_ne!(first, second);
    assert_eq!(outside, same, "one inside end has one outside end");
    assert_eq!(world.workers.pinholes.len(), 2);
    world.lifetime("a", first, 0).unwrap();
    assert_eq!(world.workers.pinholes.len(), 1, "packets pass until both are gone");
    let wish = Outside { address: Some(outside.address), port: Some(outside.port), strict: true, pool: None };
    let conflict = world.enable("c", Enable { outside: Some(wish), ..udp("10.0.0.3", 80) }).unwrap_err();
    assert!(matches!(conflict, Refusal::ExternalTaken { holder, .. } if holder == second), "{conflict:?}");
    assert_eq!(world.status("b", second).unwrap().state, State::Active);
    world.lifetime("b", second, 0).unwrap();
    assert!(world.workers.pinholes.is_empty() && world.workers.leases.is_empty());
}

#[test]
fn a_ses_03_authorization_is_decided_before_the_session_is_open() {
    let mut world = World::new();
    assert_eq!(world.try_open("stranger").unwrap_err().simco(), 0x24);
    let mut off = access();
    off.fronts.get_mut(&Front::Simco).unwrap().zones.clear();
    world.engine.set_access(off, world.now);
    let refusal = world.try_open("a").unwrap_err();
    assert!(matches!(refusal, Refusal::NotEnabled { .. }), "nothing is open unless the operator says so");
    assert!(matches!(world.audits.last().unwrap().event, AuditEvent::Session { session: None, .. }));
}

#[test]
fn a_ses_05_rules_survive_their_session() {
    let mut world = World::new();
    let session = world.open("a");
    let by = world.by("a").in_session(session);
    world.ask(&by, Request::Enable(Box::new(udp("10.0.0.1", 80)))).unwrap();
    world.engine.close_session(session);
    world.pass(299);
    assert_eq!(world.workers.pinholes.len(), 1);
    world.pass(1);
    assert!(world.workers.pinholes.is_empty() && world.disk.is_empty());
}

#[test]
fn a_ses_06_a_session_that_is_ended_hears_why_once_and_nothing_more() {
    let mut world = World::new();
    let (a, b) = (world.open("a"), world.open("b"));
    let mut less = access();
    less.fronts.get_mut(&Front::Simco).unwrap().agents.remove("a");
    world.engine.set_access(less, world.now);
    world.run();
    let ended = (a, Event::SessionEnded(SessionEnd::NotAuthorized));
    assert_eq!(world.notifications(), [ended], "one agent is affected");
    world.enable("b", udp("10.0.0.1", 80)).unwrap();
    assert!(!world.engine.has_session(a) && world.engine.has_session(b));
    assert!(world.notifications().iter().all(|(session, _)| *session == b));
}

#[test]
fn a_ses_07_several_sessions_may_be_of_one_agent() {
    let mut world = World::new();
    let first = world.open("a");
    let second = world.open("a");
    let by = world.by("a").in_session(first);
    world.ask(&by, Request::Enable(Box::new(udp("10.0.0.1", 80)))).unwrap();
    let heard: Vec<SessionId> = world.notifications().iter().map(|(session, _)| *session).collect();
    assert_eq!(heard, [second]);
    world.open("a");
    world.open("a");
    assert_eq!(world.try_open("a").unwrap_err().simco(), 0x21, "as many as the configuration allows");
}

#[test]
fn a_adr_02_versions_protocol_and_range_are_equal_on_all_tuples() {
    let mut world = World::new();
    let mixed = Enable { external: tuple("2001:db8::2", 80), ..udp("10.0.0.1", 80) };
    assert_eq!(world.enable("a", mixed).unwrap_err(), Refusal::Versions);
    let reserve = Reserve { external_version: IpVersion::V6, ..prr(None, 1) };
    assert_eq!(world.reserve("a", reserve).unwrap_err(), Refusal::Versions);
}

#[test]
fn a_adr_03_a1_is_a3_and_a2_is_a0_without_translation() {
    let mut world = World::new();
    for (host, translated) in [("10.0.0.1", true), ("172.16.0.1", false), ("2001:db8::1", false)] {
        let external = if host.contains(':') { tuple("2001:db8::9", 7) } else { tuple("192.0.2.9", 7) };
        let enable = per(Protocol::UDP, tuple(host, 80), external, Direction::Inbound);
        let by = world.by("a");
        let Ok(Reply::Enabled { inside, outside, .. }) = world.ask(&by, Request::Enable(Box::new(enable)))
        else {
            panic!("{host}");
        };
        assert_eq!(inside, external, "A1 is A3");
        assert_eq!(outside == tuple(host, 80), !translated, "A2 is A0 on a pure firewall alone");
    }
    let twice = Reserve { service: Service::Twice { lenient: false }, ..prr(None, 2) };
    assert_eq!(world.reserve("a", twice.clone()).unwrap_err(), Refusal::TwiceNat);
    let lenient = Reserve { service: Service::Twice { lenient: true }, ..prr(None, 2) };
    assert!(world.reserve("a", lenient).unwrap().2.is_some(), "A2 alone (row A-AMB-06)");
    let firewall = Reserve { internal_version: IpVersion::V6, external_version: IpVersion::V6, ..twice };
    assert_eq!(world.reserve("a", firewall).unwrap().2, None, "a firewall ignores the parameter");
}

#[test]
fn a_adr_05_port_0_is_every_port_and_a_range_is_consecutive() {
    let mut world = World::new();
    world.enable("a", udp("10.0.0.1", 80)).unwrap();
    let (add, _) = world.workers.pinholes.values().next().unwrap();
    assert_eq!((add.remote_port_first, add.remote_port_last), (0, u16::MAX));
    let range = Enable { range: 4, external: tuple("192.0.2.1", 7000), ..udp("10.0.0.2", 5004) };
    let (rule, _, outside) = world.enable("a", range).unwrap();
    let (add, ack) = world.workers.pinholes[&u64::from(rule.0)];
    assert_eq!((add.ports, add.inside_port, ack.external_port), (4, 5004, outside.port));
    assert_eq!((add.remote_port_first, add.remote_port_last), (7000, 7003));
    // One port in the middle of the range has the outside port in the middle.
    let (_, _, middle) = world.enable("b", udp("10.0.0.2", 5006)).unwrap();
    assert_eq!(middle.port, outside.port + 2);
}

#[test]
fn a_adr_06_parity() {
    let mut world = World::new();
    for (parity, rest) in [(PortParity::Even, 0), (PortParity::Odd, 1)] {
        let (_, _, outside) = world.reserve("a", Reserve { parity, ..prr(None, 2) }).unwrap();
        assert_eq!(outside.unwrap().port % 2, rest);
    }
    for port in [5004, 5005] {
        let same = Enable { parity: Parity::Same, ..udp("10.0.0.1", port) };
        assert_eq!(world.enable("a", same).unwrap().2.port % 2, port % 2);
    }
}

#[test]
fn a_adr_07_address_wildcards_are_local_policy() {
    let mut access = access();
    let simco = access.fronts.get_mut(&Front::Simco).unwrap();
    let strict = turnpike_policy::Profile {
        external_wildcard: false,
        outside: vec![network("192.0.2.0/24")],
        ..profile()
    };
    simco.agents.insert("strict".into(), strict);
    let mut world = World::with(access, 1);
    let towards = |external| per(Protocol::UDP, tuple("10.0.0.1", 80), external, Direction::Inbound);
    assert!(world.enable("a", towards(Tuple::any(IpVersion::V4))).is_ok());
    let refusal = world.enable("strict", towards(tuple("192.0.2.0/28", 80))).unwrap_err();
    assert_eq!(refusal.simco(), 0x4C);
    assert!(world.enable("strict", towards(tuple("192.0.2.1", 0))).is_ok(), "one port may be wild");
    assert_eq!(world.enable("strict", towards(tuple("198.51.100.1", 0))).unwrap_err().simco(), 0x41);
    // A0 is never a prefix.
    let wide = per(Protocol::UDP, tuple("10.0.0.0/24", 80), tuple("192.0.2.1", 80), Direction::Inbound);
    assert_eq!(world.enable("boss", wide).unwrap_err().simco(), 0x4C);
}

#[test]
fn a_adr_08_direction_reaches_the_worker() {
    let mut world = World::new();
    for (direction, flags) in [
        (Direction::Inbound, PinholeAdd::INBOUND),
        (Direction::Outbound, PinholeAdd::OUTBOUND),
        (Direction::Bidirectional, 0),
    ] {
        let enable = Enable::new(Protocol::TCP, tuple("10.0.0.1", 80), direction, Lifetime(9));
        let (rule, ..) = world.enable("a", enable).unwrap();
        let (add, _) = world.workers.pinholes[&u64::from(rule.0)];
        assert_eq!(add.flags & (PinholeAdd::INBOUND | PinholeAdd::OUTBOUND), flags);
    }
}

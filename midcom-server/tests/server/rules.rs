//! Section 8: policy rule control, through the policy engine.

use crate::daemon::{Middlebox, access, profile};
use crate::wire::{Raw, agent, hex, with_keys};
use turnpike_midcom::Settings;
use turnpike_midcom::agent::{Agent, Notice, Notices, RequestError, Status};
use turnpike_policy::{Agent as Name, Front, Rights, RuleId};
use turnpike_simco::{
    Direction, Enable, EnableParameters, EnableReserved, Ends, Extensions, Extras, Failure, IpVersion,
    Location, NatMode, Notification, Page, PortParity, Reply, Reserve, ReserveParameters, RuleRequest, Tuple,
};

fn tuple(location: Location, address: &str, port: u16) -> Tuple {
    Tuple::full(location, 17, address.parse().unwrap(), port, 1)
}

fn a0(address: &str, port: u16) -> Tuple {
    tuple(Location::Internal, address, port)
}

fn a3(address: &str, port: u16) -> Tuple {
    tuple(Location::External, address, port)
}

fn per(internal: Tuple, external: Tuple, lifetime: u32) -> Enable {
    Enable {
        parameters: EnableParameters { same_parity: false, direction: Direction::Inbound },
        internal,
        external,
        lifetime,
        group: None,
        extras: Extras::default(),
    }
}

fn prr(protocol: u8, range: u16) -> Reserve {
    Reserve {
        parameters: ReserveParameters {
            mode: NatMode::Traditional,
            parity: PortParity::Any,
            inside: Some(IpVersion::V4),
            outside: Some(IpVersion::V4),
            protocol,
            range,
        },
        lifetime: 300,
        group: None,
        internal: None,
        extras: Extras::default(),
    }
}

fn pea(rule: u32, internal: Tuple, external: Tuple) -> EnableReserved {
    let Enable { parameters, internal, external, lifetime, extras, .. } = per(internal, external, 300);
    EnableReserved { parameters, internal, external, lifetime, rule, extras }
}

fn failure<T: std::fmt::Debug>(result: Result<T, RequestError>) -> Failure {
    match result {
        Err(RequestError::Refused(refused)) => refused.failure,
        other => panic!("{other:?}"),
    }
}

/// The next ARE: rule and lifetime.
async fn are(notices: &mut Notices) -> (u32, u32) {
    loop {
        match notices.recv().await.unwrap() {
            Notice::Notification(Notification::Rule { rule, lifetime, .. }) => return (rule, lifetime),
            Notice::Open(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn start() -> (Middlebox, Agent, Notices) {
    let middlebox = Middlebox::start(with_keys()).await;
    let (agent, _, notices) = agent(&middlebox, "proxy").await;
    (middlebox, agent, notices)
}

/// A box whose agent "proxy" has other rights.
async fn with_rights(rights: Rights) -> (Middlebox, Agent, Notices) {
    let mut access = access();
    let agents = &mut access.fronts.get_mut(&Front::Simco).unwrap().agents;
    agents.insert("proxy".into(), turnpike_policy::Profile { rights, ..profile() });
    let middlebox = Middlebox::with(with_keys(), access).await;
    let (agent, _, notices) = agent(&middlebox, "proxy").await;
    (middlebox, agent, notices)
}

#[tokio::test]
async fn b_prr_01_order_of_checks() {
    let (middlebox, proxy, _n) = start().await;
    let (other, _, _n) = agent(&middlebox, "other").await;
    let foreign = other.reserve(prr(17, 1)).await.unwrap().group;
    let six = ReserveParameters { inside: Some(IpVersion::V6), ..prr(17, 0).parameters };
    // Group, access to it, then parameters; of several faults the first is told.
    let faulty = |group| Reserve { group, parameters: six, ..prr(17, 1) };
    assert_eq!(failure(proxy.reserve(faulty(Some(4_000))).await), Failure::NoSuchGroup);
    assert_eq!(failure(proxy.reserve(faulty(Some(foreign))).await), Failure::GroupAccess);
    let mixed = ReserveParameters { outside: Some(IpVersion::V6), ..prr(17, 1).parameters };
    let mixed = Reserve { parameters: mixed, ..prr(17, 1) };
    assert_eq!(failure(proxy.reserve(mixed).await), Failure::IpVersion);
    assert_eq!(failure(proxy.reserve(prr(17, 0)).await), Failure::IllegalRange);
    assert_eq!(failure(proxy.reserve(prr(47, 1)).await), Failure::ProtocolNotSupported);
    assert_eq!(
        failure(proxy.reserve(Reserve { lifetime: 0, ..prr(17, 1) }).await),
        Failure::ConfigurationFailed
    );
    // The right before all of it.
    let (_box, proxy, _n) = with_rights(Rights::ENABLE).await;
    assert_eq!(failure(proxy.reserve(faulty(Some(4_000))).await), Failure::NotAuthorized);
    // A longer lifetime than there is.
    let (_box, proxy, _n) = start().await;
    let long = proxy.reserve(Reserve { lifetime: u32::MAX, ..prr(17, 1) }).await.unwrap();
    assert_eq!(long.lifetime, 3600);
}

#[tokio::test]
async fn b_prr_02_a_pure_firewall_reserves_nothing() {
    let mut plain = access();
    plain.realm.translations.clear();
    let middlebox = Middlebox::with(with_keys(), plain).await;
    let (proxy, established, _n) = agent(&middlebox, "proxy").await;
    assert_eq!(established.capabilities.middlebox_type(), 0x80);
    let reserved = proxy.reserve(prr(17, 2)).await.unwrap();
    assert_eq!(reserved.outside, Tuple::protocols_only(Location::Outside, 17, IpVersion::V4));
    assert_eq!(reserved.inside, None);
    let mut octets = Vec::new();
    reserved.outside.encode(&mut octets);
    assert_eq!(octets, hex("11 00 11 02"));
    // IPo IPv6 comes back as such; NM does not matter to a firewall (A-PRR-02).
    let six = Some(IpVersion::V6);
    let parameters =
        ReserveParameters { inside: six, outside: six, mode: NatMode::Twice, ..prr(17, 1).parameters };
    let reserved = proxy.reserve(Reserve { parameters, ..prr(17, 1) }).await.unwrap();
    assert_eq!(reserved.outside, Tuple::protocols_only(Location::Outside, 17, IpVersion::V6));
    let Status::Reserve(status, owner) = proxy.status(reserved.rule).await.unwrap() else { panic!() };
    assert_eq!((status.outside, owner), (reserved.outside, b"proxy".to_vec()));
}

#[tokio::test]
async fn b_prr_03_a_nat_reserves_the_outside_end() {
    let (_box, proxy, _n) = start().await;
    let odd = ReserveParameters { parity: PortParity::Odd, ..prr(17, 3).parameters };
    let reserved = proxy.reserve(Reserve { parameters: odd, ..prr(17, 3) }).await.unwrap();
    assert_eq!(reserved.outside, Tuple::full(Location::Outside, 17, [198, 51, 100, 7].into(), 40_001, 3));
    let twice = ReserveParameters { mode: NatMode::Twice, ..prr(17, 1).parameters };
    let twice = Reserve { parameters: twice, ..prr(17, 1) };
    assert_eq!(failure(proxy.reserve(twice).await), Failure::NatMode);
}

#[tokio::test]
async fn b_amb_18_twice_on_a_nat_that_is_not() {
    let middlebox = Middlebox::start(Settings { lenient_nat_mode: true, ..with_keys() }).await;
    let (proxy, _, _n) = agent(&middlebox, "proxy").await;
    let twice = ReserveParameters { mode: NatMode::Twice, ..prr(17, 1).parameters };
    let reserved = proxy.reserve(Reserve { parameters: twice, ..prr(17, 1) }).await.unwrap();
    assert_eq!(reserved.inside, None);
}

#[tokio::test]
async fn b_amb_07_the_internal_tuple_in_a_prr() {
    let (_box, proxy, _n) = start().await;
    let internal = Some(a0("172.16.0.9", 0));
    // 172.16/12 is not translated, so there is nothing to reserve for this host.
    let reserved = proxy.reserve(Reserve { internal, ..prr(17, 1) }).await.unwrap();
    assert_eq!(reserved.outside, Tuple::protocols_only(Location::Outside, 17, IpVersion::V4));
    // Without it the zone's pool is taken.
    let reserved = proxy.reserve(prr(17, 1)).await.unwrap();
    assert!(matches!(reserved.outside.ends, Ends::Full { .. }));
    let foreign = Some(a0("192.0.2.9", 0));
    assert_eq!(
        failure(proxy.reserve(Reserve { internal: foreign, ..prr(17, 1) }).await),
        Failure::NotAuthorized
    );
    let wrong = Some(a3("10.0.0.9", 0));
    assert_eq!(
        failure(proxy.reserve(Reserve { internal: wrong, ..prr(17, 1) }).await),
        Failure::Inconsistent
    );
}

#[tokio::test]
async fn b_amb_14_any_version_is_the_one_reserved() {
    let (_box, proxy, _n) = start().await;
    let any = ReserveParameters { inside: None, outside: None, ..prr(17, 1).parameters };
    let reserved = proxy.reserve(Reserve { parameters: any, ..prr(17, 1) }).await.unwrap();
    assert_eq!(reserved.outside.version(), IpVersion::V4);
    // A host without translation of the other version.
    let internal = Some(Tuple::full(Location::Internal, 17, "2001:db8::9".parse().unwrap(), 0, 1));
    let refused = proxy.reserve(Reserve { parameters: any, internal, ..prr(17, 1) }).await;
    assert_eq!(failure(refused), Failure::NotAuthorized);
}

#[tokio::test]
async fn b_per_01_order_of_checks() {
    let (middlebox, proxy, _n) = start().await;
    let (other, _, _n) = agent(&middlebox, "other").await;
    let foreign = other.enable(per(a0("10.0.0.1", 1), a3("192.0.2.1", 1), 9)).await.unwrap().group;
    let misplaced = per(a0("10.0.0.2", 1), a0("192.0.2.1", 1), 0);
    let faulty = |group| Enable { group, ..misplaced.clone() };
    assert_eq!(failure(proxy.enable(faulty(Some(4_000))).await), Failure::NoSuchGroup);
    assert_eq!(failure(proxy.enable(faulty(Some(foreign))).await), Failure::GroupAccess);
    assert_eq!(failure(proxy.enable(faulty(None)).await), Failure::Inconsistent);
    let zero = per(a0("10.0.0.2", 1), a3("192.0.2.1", 1), 0);
    assert_eq!(failure(proxy.enable(zero).await), Failure::ConfigurationFailed);
    let (_box, proxy, _n) = with_rights(Rights::RESERVE).await;
    assert_eq!(failure(proxy.enable(faulty(Some(4_000))).await), Failure::NotAuthorized);
    // Wildcards that this box has not: A0 is one host.
    let (_box, proxy, _n) = start().await;
    let network = Ends::Full { address: [10, 0, 0, 0].into(), prefix: 24, port: 1, range: 1 };
    let wide = per(Tuple { ends: network, ..a0("10.0.0.0", 1) }, a3("192.0.2.1", 1), 9);
    assert_eq!(failure(proxy.enable(wide).await), Failure::Wildcarding);
    let all_ports = per(a0("10.0.0.2", 0), a3("192.0.2.1", 1), 9);
    assert_eq!(failure(proxy.enable(all_ports).await), Failure::Wildcarding);
}

#[tokio::test]
async fn b_per_02_a_firewall_shows_the_tuples_as_they_came() {
    let (_box, proxy, _n) = start().await;
    // Any port, any address, in two ways to say it: PES gives back the very same.
    let everybody = Tuple::protocols_only(Location::External, 17, IpVersion::V4);
    let zero = Ends::Full { address: [0, 0, 0, 0].into(), prefix: 0, port: 0, range: 7 };
    let everyone = Tuple { ends: zero, ..everybody };
    for external in [everybody, everyone, a3("192.0.2.1", 0), a3("192.0.2.1", 5)] {
        let internal = a0("172.16.0.9", 80);
        let enabled = proxy.enable(per(internal, external, 60)).await.unwrap();
        assert_eq!(enabled.outside, internal.at(Location::Outside));
        assert_eq!(enabled.inside, Some(external.at(Location::Inside)));
        let Status::Enable(status) = proxy.status(enabled.rule).await.unwrap() else { panic!() };
        assert_eq!((status.internal, status.external), (internal, external));
        assert_eq!((status.outside, status.inside), (enabled.outside, enabled.inside));
    }
}

#[tokio::test]
async fn b_per_03_a_nat_shows_the_outside_end() {
    let (_box, proxy, _n) = start().await;
    let mut rule = per(a0("10.0.0.9", 80), a3("192.0.2.1", 0), 60);
    rule.parameters.same_parity = true;
    let enabled = proxy.enable(rule.clone()).await.unwrap();
    let Ends::Full { address, prefix: 32, port, range: 1 } = enabled.outside.ends else { panic!() };
    assert_eq!(address, std::net::IpAddr::from([198, 51, 100, 7]));
    assert_eq!(port % 2, 0);
    // The same again is another rule with the same outside end (A-GEN-13, A-AMB-04).
    let again = proxy.enable(rule).await.unwrap();
    assert_ne!(again.rule, enabled.rule);
    assert_eq!(again.outside, enabled.outside);
}

#[tokio::test]
async fn b_amb_05_the_inside_tuple_is_always_sent() {
    let (_box, proxy, _n) = start().await;
    let enabled = proxy.enable(per(a0("10.0.0.9", 80), a3("192.0.2.1", 7), 60)).await.unwrap();
    assert_eq!(enabled.inside, Some(tuple(Location::Inside, "192.0.2.1", 7)));
}

#[tokio::test]
async fn b_pea_01_order_of_checks() {
    let (middlebox, proxy, _n) = start().await;
    let (other, _, _n) = agent(&middlebox, "other").await;
    let foreign = other.reserve(prr(17, 1)).await.unwrap().rule;
    let reserved = proxy.reserve(prr(17, 1)).await.unwrap();
    let (inside, outside) = (a0("10.0.0.9", 80), a3("192.0.2.1", 7));
    let misplaced = |rule| pea(rule, inside, inside);
    assert_eq!(failure(proxy.enable_reserved(misplaced(4_000)).await), Failure::NoSuchRule);
    assert_eq!(failure(proxy.enable_reserved(misplaced(foreign)).await), Failure::RuleAccess);
    assert_eq!(failure(proxy.enable_reserved(misplaced(reserved.rule)).await), Failure::Inconsistent);
    let tcp = |tuple| Tuple { protocol: 6, ..tuple };
    let wrong = pea(reserved.rule, tcp(inside), tcp(outside));
    assert_eq!(failure(proxy.enable_reserved(wrong).await), Failure::ProtocolMismatch);
    let zero = EnableReserved { lifetime: 0, ..pea(reserved.rule, inside, outside) };
    assert_eq!(failure(proxy.enable_reserved(zero).await), Failure::ConfigurationFailed);
    // After all of these the reservation is as it was (A-PER-02).
    let Status::Reserve(status, _) = proxy.status(reserved.rule).await.unwrap() else { panic!() };
    assert_eq!(status.outside, reserved.outside);
    let enabled = proxy.enable_reserved(pea(reserved.rule, inside, outside)).await.unwrap();
    assert_eq!((enabled.rule, enabled.group), (reserved.rule, reserved.group));
    assert_eq!(enabled.outside, reserved.outside);
    // It is enabled now: 0x4B for any other state (not 0x57).
    let again = pea(reserved.rule, inside, outside);
    assert_eq!(failure(proxy.enable_reserved(again).await), Failure::Inconsistent);
}

#[tokio::test]
async fn b_plc_01_lifetimes_and_deletion() {
    let (middlebox, proxy, _n) = start().await;
    let (other, _, _n) = agent(&middlebox, "other").await;
    let enabled = proxy.enable(per(a0("10.0.0.9", 80), a3("192.0.2.1", 7), 60)).await.unwrap();
    assert_eq!(failure(proxy.change_lifetime(4_000, 7).await), Failure::NoSuchRule);
    assert_eq!(failure(other.change_lifetime(enabled.rule, 7).await), Failure::RuleAccess);
    assert_eq!(failure(other.change_lifetime(enabled.rule, 0).await), Failure::RuleAccess);
    assert_eq!(proxy.change_lifetime(enabled.rule, 1_000_000).await, Ok(3600));
    assert_eq!(proxy.change_lifetime(enabled.rule, 30).await, Ok(30));
    assert_eq!(proxy.change_lifetime(enabled.rule, 0).await, Ok(0));
    assert_eq!(failure(proxy.change_lifetime(enabled.rule, 7).await), Failure::NoSuchRule);
    let (_box, proxy, _n) = with_rights(Rights::ENABLE.and(Rights::RESERVE)).await;
    assert_eq!(failure(proxy.change_lifetime(4_000, 7).await), Failure::NotAuthorized);
}

#[tokio::test]
async fn b_amb_09_granted_lifetimes_are_above_zero() {
    let (_box, proxy, _n) = start().await;
    for lifetime in [1, 2, 3599, 3600, 3601, u32::MAX] {
        let enabled = proxy.enable(per(a0("10.0.0.9", 80), a3("192.0.2.1", 7), lifetime)).await.unwrap();
        assert_eq!(enabled.lifetime, lifetime.min(3600));
        assert_eq!(proxy.change_lifetime(enabled.rule, lifetime).await, Ok(lifetime.min(3600)));
    }
}

#[tokio::test]
async fn b_prs_01_reserve_and_enable_rules() {
    let (middlebox, proxy, _n) = start().await;
    let (other, _, _n) = agent(&middlebox, "other").await;
    let reserved = proxy.reserve(prr(17, 2)).await.unwrap();
    let Status::Reserve(status, owner) = proxy.status(reserved.rule).await.unwrap() else { panic!() };
    assert_eq!(owner, b"proxy");
    assert_eq!(
        (status.rule, status.group, status.outside),
        (reserved.rule, reserved.group, reserved.outside)
    );
    assert!(status.lifetime <= 300 && status.lifetime >= 290);
    assert_eq!(failure(proxy.status(4_000).await), Failure::NoSuchRule);
    assert_eq!(failure(other.status(reserved.rule).await), Failure::RuleAccess);
    let (_box, proxy, _n) = with_rights(Rights::ENABLE).await;
    assert_eq!(failure(proxy.status(1).await), Failure::NotAuthorized);
}

#[tokio::test]
async fn b_prl_01_every_accessible_rule() {
    let (middlebox, proxy, _n) = start().await;
    let (other, _, _n) = agent(&middlebox, "other").await;
    let (boss, _, _n) = agent(&middlebox, "boss").await;
    let mut own = Vec::new();
    for port in 1..40 {
        own.push(proxy.enable(per(a0("172.16.0.9", port), a3("192.0.2.1", 7), 60)).await.unwrap().rule);
    }
    let foreign = other.reserve(prr(17, 1)).await.unwrap().rule;
    for extensions in [Extensions::ALL, Extensions::NONE] {
        assert_eq!(proxy.list(extensions).await, Ok(own.clone()));
        assert_eq!(other.list(extensions).await, Ok(vec![foreign]));
        assert_eq!(boss.list(extensions).await, Ok([own.clone(), vec![foreign]].concat()));
    }
    // By pages, and of a group.
    let page = Some(Page { after: Some(own[9]), limit: 10, group: None });
    let reply = proxy.request(RuleRequest::RuleList { page }).await.unwrap();
    let more = Some(Page { after: Some(own[19]), limit: 10, group: None });
    assert_eq!(reply, Reply::Rules { rules: own[10..20].to_vec(), more });
    let Status::Enable(status) = proxy.status(own[3]).await.unwrap() else { panic!() };
    let page = Some(Page { group: Some(status.group), ..Page::default() });
    let reply = proxy.request(RuleRequest::RuleList { page }).await.unwrap();
    assert_eq!(reply, Reply::Rules { rules: vec![own[3]], more: None });
}

#[tokio::test]
async fn b_prl_01_more_than_a_message_holds() {
    let mut wide = access();
    wide.limits.per_subscriber = 10_000;
    let middlebox = Middlebox::with(with_keys(), wide).await;
    let (proxy, _, _n) = agent(&middlebox, "proxy").await;
    let mut made = Vec::new();
    for chunk in 0..90_u16 {
        let rules = (0..100)
            .map(|port| proxy.enable(per(a0("172.16.0.9", 1 + chunk * 100 + port), a3("192.0.2.1", 7), 600)));
        for rule in futures_util::future::join_all(rules).await {
            made.push(rule.unwrap().rule);
        }
    }
    made.sort_unstable();
    assert_eq!(failure(proxy.request(RuleRequest::RuleList { page: None }).await), Failure::ReplyTooBig);
    assert_eq!(proxy.list(Extensions::ALL).await, Ok(made));
}

#[tokio::test]
async fn b_amb_22_pdr_is_understood_and_not_supported() {
    let (_box, proxy, _n) = start().await;
    let (internal, external) = (a0("10.0.0.9", 80), a3("192.0.2.1", 7));
    let refused = proxy.request(RuleRequest::Disable { internal, external, lifetime: 60 }).await;
    assert_eq!(failure(refused), Failure::NotSupported);
}

#[tokio::test]
async fn b_are_01_who_hears_what() {
    let (middlebox, proxy, mut own) = start().await;
    let (_second, _, mut second) = agent(&middlebox, "proxy").await;
    let (_boss, _, mut boss) = agent(&middlebox, "boss").await;
    let (_other, _, mut other) = agent(&middlebox, "other").await;
    let reserved = proxy.reserve(prr(17, 1)).await.unwrap().rule;
    proxy.enable_reserved(pea(reserved, a0("10.0.0.9", 80), a3("192.0.2.1", 7))).await.unwrap();
    proxy.change_lifetime(reserved, 200).await.unwrap();
    let rule = proxy.enable(per(a0("10.0.0.9", 90), a3("192.0.2.1", 7), 100)).await.unwrap().rule;
    proxy.change_lifetime(reserved, 0).await.unwrap();
    for notices in [&mut second, &mut boss] {
        for expected in [(reserved, 300), (reserved, 300), (reserved, 200), (rule, 100), (reserved, 0)] {
            assert_eq!(are(notices).await, expected);
        }
    }
    // The box ends it: everybody with access hears, the owner's session too; "other" heard nothing at all.
    let id = RuleId(rule);
    proxy.change_lifetime(rule, 1).await.unwrap();
    assert_eq!(are(&mut second).await, (rule, 1));
    for notices in [&mut own, &mut second] {
        assert_eq!(are(notices).await, (rule, 0));
    }
    assert!(middlebox.engine(move |engine, _| engine.rule(id).is_none()).await);
    drop(proxy);
    assert_eq!(other.recv().await.map(|notice| matches!(notice, Notice::Open(_))), Some(true));
    assert!(other.try_recv().is_err());
}

#[tokio::test]
async fn b_amb_08_no_notification_of_what_was_refused() {
    let (middlebox, proxy, _n) = start().await;
    let (_second, _, mut second) = agent(&middlebox, "proxy").await;
    assert!(proxy.enable(per(a0("10.0.0.9", 0), a3("192.0.2.1", 7), 60)).await.is_err());
    assert!(proxy.reserve(prr(17, 0)).await.is_err());
    let rule = proxy.enable(per(a0("10.0.0.9", 80), a3("192.0.2.1", 7), 60)).await.unwrap().rule;
    assert_eq!(are(&mut second).await, (rule, 60));
}

/// The reply is sent before the others are notified; a session's own messages keep the order of what happened.
#[tokio::test]
async fn a_ren_01_replies_and_notifications_in_order() {
    let middlebox = Middlebox::start(with_keys()).await;
    let mut raw = Raw::open(middlebox.address).await;
    let mut second = Raw::open(middlebox.address).await;
    for tid in 10..60_u32 {
        let octets =
            [hex("0111 0010"), tid.to_be_bytes().to_vec(), hex("000a0004 65110001 | 00070004 0000012c")]
                .concat();
        raw.send(&octets).await;
        second.send(&octets).await;
    }
    // Each hears of the other's fifty, and has its own fifty replies; in the order of the rules.
    for session in [&mut raw, &mut second] {
        let mut last = 0;
        let (mut replies, mut notifications) = (0, 0);
        for _ in 0..100 {
            let message = session.message().await.unwrap();
            match message[..2] {
                [2, 0x11] => replies += 1,
                [4, 3] => notifications += 1,
                _ => panic!("{message:?}"),
            }
            let rule = u32::from_be_bytes(message[12..16].try_into().unwrap());
            assert!(rule > last, "{rule} after {last}");
            last = rule;
        }
        assert_eq!((replies, notifications), (50, 50));
    }
}

#[tokio::test]
async fn b_cap_01_capabilities_are_those_of_the_configuration() {
    let (middlebox, _, _n) = start().await;
    let (_, established, _n) = agent(&middlebox, "proxy").await;
    let capabilities = established.capabilities;
    assert!(capabilities.firewall && capabilities.nat && capabilities.port_translation);
    assert!(!capabilities.twice_nat && !capabilities.disable && !capabilities.protocol_translation);
    // What is said to be supported is, and what is not is refused.
    assert!(capabilities.external_wildcard && capabilities.port_wildcard && !capabilities.internal_wildcard);
    let mut narrow = access();
    let agents = &mut narrow.fronts.get_mut(&Front::Simco).unwrap().agents;
    let one = turnpike_policy::Profile { external_wildcard: false, ..profile() };
    agents.insert("proxy".into(), one);
    let middlebox = Middlebox::with(with_keys(), narrow).await;
    let (proxy, established, _n) = agent(&middlebox, "proxy").await;
    assert!(!established.capabilities.external_wildcard);
    let any = Tuple::protocols_only(Location::External, 17, IpVersion::V4);
    assert_eq!(failure(proxy.enable(per(a0("10.0.0.9", 80), any, 60)).await), Failure::Wildcarding);
}

#[tokio::test]
async fn b_amb_23_the_kind_of_rule_decides_the_status() {
    let (_box, proxy, _n) = start().await;
    let reserved = proxy.reserve(prr(17, 1)).await.unwrap().rule;
    assert!(matches!(proxy.status(reserved).await, Ok(Status::Reserve(..))));
    proxy.enable_reserved(pea(reserved, a0("10.0.0.9", 80), a3("192.0.2.1", 7))).await.unwrap();
    assert!(matches!(proxy.status(reserved).await, Ok(Status::Enable(_))));
}

#[tokio::test]
async fn b_amb_24_several_sessions_of_an_agent_up_to_its_limit() {
    let (middlebox, _first, _n) = start().await;
    let mut held = Vec::new();
    for _ in 1..20 {
        held.push(agent(&middlebox, "proxy").await);
    }
    let settings = crate::wire::by_key(middlebox.address, "proxy");
    let lost = Agent::connect(settings.clone()).await.unwrap_err();
    assert!(lost.to_string().contains("lack of resources"), "{lost}");
    // Another agent has its own.
    agent(&middlebox, "other").await;
    held.pop();
    loop {
        // The place is free once the server has seen the end.
        match Agent::connect(settings.clone()).await {
            Ok(_) => break,
            Err(lost) => assert!(lost.to_string().contains("lack of resources"), "{lost}"),
        }
    }
}

/// The extension: GLC, GL, GS and GEN.
#[tokio::test]
async fn groups_with_those_who_offered_them() {
    let (middlebox, proxy, _n) = start().await;
    let (_second, _, mut second) = agent(&middlebox, "proxy").await;
    let first = proxy.enable(per(a0("10.0.0.9", 80), a3("192.0.2.1", 7), 60)).await.unwrap();
    let member = Enable { group: Some(first.group), ..per(a0("10.0.0.9", 81), a3("192.0.2.1", 7), 90) };
    let other = proxy.enable(member).await.unwrap();
    let group = first.group;
    let list = proxy.request(RuleRequest::GroupList).await;
    assert_eq!(list, Ok(Reply::Groups(vec![(group, b"proxy".to_vec())])));
    let status = proxy.request(RuleRequest::GroupStatus { group }).await.unwrap();
    let Reply::GroupStatus { owner, lifetime, mut rules } = status else { panic!() };
    rules.sort_unstable();
    assert_eq!((owner, rules), (b"proxy".to_vec(), vec![first.rule, other.rule]));
    assert!((80..=90).contains(&lifetime));
    let changed = proxy.request(RuleRequest::ChangeGroupLifetime { group, lifetime: 500 }).await;
    assert_eq!(changed, Ok(Reply::GroupLifetimeChanged { lifetime: 500 }));
    let gone = proxy.request(RuleRequest::ChangeGroupLifetime { group, lifetime: 0 }).await;
    assert_eq!(gone, Ok(Reply::GroupLifetimeChanged { lifetime: 0 }));
    let mut lifetimes = Vec::new();
    while lifetimes.len() < 2 {
        if let Notice::Notification(Notification::Group { group: of, lifetime }) =
            second.recv().await.unwrap()
        {
            assert_eq!(of, group);
            lifetimes.push(lifetime);
        }
    }
    assert_eq!(lifetimes, [500, 0]);
    assert_eq!(failure(proxy.request(RuleRequest::GroupStatus { group }).await), Failure::NoSuchGroup);
}

/// What an agent may open, by inside host, remote end, protocol, number and lifetime.
#[tokio::test]
async fn b_sec_04_what_an_agent_may_open() {
    let mut narrow = access();
    let agents = &mut narrow.fronts.get_mut(&Front::Simco).unwrap().agents;
    let network = |address: [u8; 4], length| turnpike_policy::Network { address: address.into(), length };
    let one = turnpike_policy::Profile {
        inside: turnpike_policy::Scope::Prefixes(vec![network([10, 0, 0, 0], 24)]),
        outside: vec![network([192, 0, 2, 0], 24)],
        protocols: vec![turnpike_policy::Protocol::UDP],
        rules: 2,
        lifetime: turnpike_policy::Lifetime(60),
        ..profile()
    };
    agents.insert("proxy".into(), one);
    let middlebox = Middlebox::with(with_keys(), narrow).await;
    let (proxy, established, _n) = agent(&middlebox, "proxy").await;
    assert_eq!(established.capabilities.max_lifetime, 60);
    let enable = |internal, external| proxy.enable(per(internal, external, 600));
    assert_eq!(failure(enable(a0("10.0.1.9", 80), a3("192.0.2.1", 7)).await), Failure::NotAuthorized);
    assert_eq!(failure(enable(a0("10.0.0.9", 80), a3("192.0.3.1", 7)).await), Failure::NotAuthorized);
    let tcp = |tuple| Tuple { protocol: 6, ..tuple };
    let refused = enable(tcp(a0("10.0.0.9", 80)), tcp(a3("192.0.2.1", 7))).await;
    assert_eq!(failure(refused), Failure::NotAuthorized);
    for port in [80, 81] {
        assert_eq!(enable(a0("10.0.0.9", port), a3("192.0.2.1", 7)).await.unwrap().lifetime, 60);
    }
    assert_eq!(failure(enable(a0("10.0.0.9", 82), a3("192.0.2.1", 7)).await), Failure::NoResources);
}

/// Rules survive the end of a session (A-SES-05), and belong to the agent, not the session.
#[tokio::test]
async fn a_ses_05_rules_survive_the_session() {
    let (middlebox, proxy, notices) = start().await;
    let rule = proxy.enable(per(a0("10.0.0.9", 80), a3("192.0.2.1", 7), 60)).await.unwrap().rule;
    drop((proxy, notices));
    let (proxy, _, _n) = agent(&middlebox, "proxy").await;
    assert_eq!(proxy.list(Extensions::ALL).await, Ok(vec![rule]));
    let owner = middlebox.engine(move |engine, _| engine.rule(RuleId(rule)).unwrap().0.owner.clone()).await;
    assert_eq!(owner, Name::new(Front::Simco, "proxy"));
}

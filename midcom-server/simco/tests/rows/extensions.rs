//! Section B.7 of the requirements: vendor extensions, used only by those who offered them.

use crate::authentication::converse;
use crate::peer::{Peer, golden_box, hex};
use proptest::prelude::*;
use turnpike_simco::{
    AgentEvent, AgentSession, Behaviour, Enable, EnableParameters, Ended, Established, Event, Extensions,
    Extras, Failure, Interfaces, Location, Lock, MoreCapabilities, Notification, Outcome, Page, Refused,
    Reply, Request, RuleRequest, Settings, Tuple, Underlying, WantedOutside,
};

fn trusted() -> Underlying {
    Underlying::Authenticated("proxy".into())
}

fn offering(offer: u32) -> Peer {
    let mut peer = Peer::new(trusted());
    peer.send(&format!("01010010 00000001 0001 0004 03000000 8000 0004 {offer:08x}"));
    peer
}

#[test]
fn b_amb_17_what_was_offered_is_granted_and_nothing_else() {
    let mut peer = offering(0xFFFF_FFFF);
    let [(1, Outcome::Positive(Reply::Established(established)))] = &peer.outcomes()[..] else { panic!() };
    assert_eq!(established.extensions, Some(Extensions::ALL));
    let mut peer = offering(1 << 16);
    assert_eq!(peer.output(), hex("02010014 00000001 | 00040008 c1f50000 00000e10 | 8000 0004 00010000"));
    assert_eq!(peer.send("01420000 00000002"), [Event::Request { tid: 2, request: RuleRequest::GroupList }]);
    // 0x8009 was not offered.
    let page = "0122 0014 00000003 8009 0010 00000000 00000000 00000000 00000000";
    assert_eq!(
        peer.send(page),
        [Event::Refused { failure: Failure::BadlyFormed, claimed: Some("proxy".into()) }]
    );
    let mut peer = offering(1 << 9);
    let request = RuleRequest::RuleList { page: Some(Page::default()) };
    assert_eq!(peer.send(page), [Event::Request { tid: 3, request }]);
}

#[test]
fn b_amb_16_a_strict_middlebox_refuses_the_offer_and_the_agent_sees_it() {
    let strict = Settings { extensions: Extensions::NONE, ..Settings::default() };
    let mut peer = Peer::with(strict, trusted());
    let mut agent = AgentSession::new(None, &[0; 32], Some(Extensions::ALL));
    let (agents, _) = converse(&mut agent, &mut peer);
    let refused = Refused::from(Failure::BadlyFormed);
    assert_eq!(agents, [AgentEvent::Ended(Ended::Refused(refused))]);
    assert!(peer.session.over().is_some());
}

#[test]
fn b_amb_17_reasons_for_who_wants_them() {
    let ended = || Notification::Rule { rule: 1, lifetime: 0, reason: Some("expired".into()) };
    let refused = || Refused { reason: Some("quota".into()), ..Refused::from(Failure::NoResources) };
    for (offer, said) in [(0, false), (Extensions::REASON.0, true)] {
        let mut peer = offering(offer);
        peer.output();
        peer.session.notify(ended(), &peer.ids);
        peer.send("01220000 00000002");
        peer.answer(2, Err(refused()));
        peer.session.terminate(Some("maintenance".into()));
        peer.events();
        let reasons: Vec<Option<String>> = peer
            .outcomes()
            .into_iter()
            .map(|(_, outcome)| match outcome {
                Outcome::Notification(
                    Notification::Rule { reason, .. } | Notification::SessionTerminated { reason },
                )
                | Outcome::Negative(Refused { reason, .. }) => reason,
                other => panic!("{other:?}"),
            })
            .collect();
        let expected = ["expired", "quota", "maintenance"].map(|text| said.then(|| text.to_owned()));
        assert_eq!(reasons, expected);
    }
}

#[test]
fn notifications_of_extensions_only_for_who_wants_them() {
    for (offer, count) in [(0, 0), (1 << 16, 1), (1 << 17, 1), (3 << 16, 2)] {
        let mut peer = offering(offer);
        peer.output();
        peer.session.notify(Notification::Group { group: 3, lifetime: 9 }, &peer.ids);
        peer.session.notify(Notification::Expiring { rule: 3, lifetime: 9 }, &peer.ids);
        assert_eq!(peer.said().len(), count);
    }
}

fn text() -> impl Strategy<Value = String> {
    "[a-zé ]{0,60}"
}

fn extras() -> impl Strategy<Value = Extras> {
    let behaviour = (
        prop_oneof![Just(Lock::None), Just(Lock::Address), Just(Lock::AddressAndPort)],
        any::<(bool, u16, u32)>(),
    )
        .prop_map(|(lock, (close_on_fin, max_flows, idle_timeout))| Behaviour {
            lock,
            close_on_fin,
            max_flows,
            idle_timeout,
        });
    let interfaces = (text(), text()).prop_map(|(inside, outside)| Interfaces { inside, outside });
    let outside = any::<(bool, [u8; 4], u16)>().prop_map(|(strict, address, port)| WantedOutside {
        strict,
        tuple: Tuple::full(Location::Outside, 17, address.into(), port, 1),
    });
    let token = proptest::collection::vec(any::<u8>(), 0..200);
    let parts = (
        proptest::option::of(text()),
        proptest::option::of(behaviour),
        proptest::option::of(token),
        proptest::option::of(interfaces),
        proptest::option::of(outside),
    );
    parts.prop_map(|(realm, behaviour, token, interfaces, outside)| Extras {
        realm,
        behaviour,
        token,
        interfaces,
        outside,
    })
}

proptest! {
    /// Every extension comes out as it went in, and is refused by who did not grant it.
    #[test]
    fn extensions_round_trip(extras in extras(), tid: u32) {
        let bare = extras == Extras::default();
        let request = Request::Rule(RuleRequest::Enable(Enable {
            parameters: EnableParameters {
                same_parity: false,
                direction: turnpike_simco::Direction::Inbound,
            },
            internal: Tuple::full(Location::Internal, 17, [10, 0, 0, 1].into(), 1, 1),
            external: Tuple::full(Location::External, 17, [192, 0, 2, 1].into(), 1, 1),
            lifetime: 7,
            group: None,
            extras,
        }));
        let mut octets = Vec::new();
        request.encode(tid, &mut octets).unwrap();
        prop_assert_eq!(Request::from_octets(&octets, Extensions::ALL), Ok((tid, request.clone())));
        let strict = Request::from_octets(&octets, Extensions::NONE);
        prop_assert_eq!(strict, if bare { Ok((tid, request)) } else { Err(Failure::BadlyFormed) });
    }

    #[test]
    fn more_capabilities_round_trip(groups: bool, numbers: [u32; 3], realms in proptest::collection::vec(text(), 0..5)) {
        let outcome = Outcome::Positive(Reply::Established(Established {
            capabilities: golden_box(),
            extensions: Some(Extensions::ALL),
            more: Some(MoreCapabilities {
                groups,
                interfaces: !groups,
                idle_timeout: numbers[0],
                max_sessions: numbers[1],
                max_rules: numbers[2],
            }),
            realms,
        }));
        let mut octets = Vec::new();
        outcome.encode(3, &mut octets).unwrap();
        prop_assert_eq!(Outcome::from_octets(&octets), Ok((3, outcome)));
    }

    #[test]
    fn group_replies_round_trip(groups in proptest::collection::vec((any::<u32>(), proptest::collection::vec(any::<u8>(), 0..255)), 0..20), rules: Vec<u32>) {
        let replies = [
            Reply::Groups(groups.clone()),
            Reply::GroupStatus { owner: b"o".to_vec(), lifetime: 3, rules: rules.clone() },
            Reply::GroupLifetimeChanged { lifetime: 0 },
            Reply::Rules { rules, more: Some(Page { after: Some(4), limit: 0, group: None }) },
        ];
        for reply in replies {
            let outcome = Outcome::Positive(reply);
            let mut octets = Vec::new();
            outcome.encode(3, &mut octets).unwrap();
            prop_assert_eq!(Outcome::from_octets(&octets), Ok((3, outcome)));
        }
    }
}

/// A text that is too long is cut between characters.
#[test]
fn texts_are_cut_whole() {
    let long = "é".repeat(200);
    let refused = Refused { reason: Some(long), ..Refused::from(Failure::Conflict) };
    let mut octets = Vec::new();
    Outcome::Negative(refused).encode(1, &mut octets).unwrap();
    let (_, Outcome::Negative(refused)) = Outcome::from_octets(&octets).unwrap() else { panic!() };
    assert_eq!(refused.reason, Some("é".repeat(127)));
}

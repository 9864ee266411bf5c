//! Section 7: session control.

use crate::peer::{Peer, hex};
use std::collections::BTreeSet;
use std::time::Duration;
use turnpike_simco::{
    Closed, Event, Failure, Notification, NotificationIds, Outcome, Refused, Reply, RuleRequest, Session,
    Settings, Underlying, Version,
};

const SE: &str = "01010008 00000001 0001 0004 03000000";

fn refused(failure: Failure, claimed: Option<&str>) -> Event {
    Event::Refused { failure, claimed: claimed.map(str::to_owned) }
}

fn closed(failure: Failure) -> Event {
    Event::Closed(Closed::Refused(failure))
}

fn trusted() -> Underlying {
    Underlying::Authenticated("proxy".into())
}

/// A session in NOAUTH: TLS knows the agent, the agent wants a proof that the box cannot give.
fn no_auth() -> Peer {
    let mut peer = Peer::new(trusted());
    assert_eq!(peer.send("01010010 00000001 0001 0004 03000000 0002 0004 61626364"), []);
    assert_eq!(peer.said(), ["0202000400000001"]);
    peer
}

#[test]
fn b_ses_01_se_in_noauth_and_open_changes_nothing() {
    let mut peer = Peer::open();
    assert_eq!(peer.send(SE), [refused(Failure::NotApplicable, Some("proxy"))]);
    assert_eq!(peer.said(), ["0320000000000001"]);
    assert!(peer.session.is_open());
    let mut peer = no_auth();
    assert_eq!(peer.send(SE), [refused(Failure::NotApplicable, Some("proxy"))]);
    assert_eq!(peer.said(), ["0320000000000001"]);
    assert_eq!(peer.send("01020000 00000002"), [Event::Opened { agent: "proxy".into() }]);
}

#[test]
fn b_ses_02_order_of_checks() {
    // The version is wrong everywhere, and no agent is authorized: the first fault counts.
    let wrong = "01010008 00000001 0001 0004 02000000";
    let first = [
        (Underlying::NoResources, Failure::LackOfResources),
        (Underlying::Unacceptable, Failure::TransportProblem),
        (Underlying::Insufficient, Failure::InsufficientSecurity),
        (Underlying::Challenge, Failure::InsufficientSecurity),
        (trusted(), Failure::VersionMismatch),
    ];
    for (underlying, failure) in first {
        let mut peer = Peer::new(underlying);
        peer.agents.authorized.set(Err(Failure::NoAuthorization));
        assert_eq!(peer.send(wrong), [refused(failure, None), closed(failure)]);
        let mut expected = Refused::from(failure);
        expected.version = (failure == Failure::VersionMismatch).then_some(Version::V3_0);
        assert_eq!(peer.outcomes(), [(1, Outcome::Negative(expected))]);
        assert!(peer.session.over().is_some());
    }
    let mut peer = Peer::new(trusted());
    peer.send(wrong);
    assert_eq!(peer.output(), hex("0322 0008 00000001 0001 0004 03000000"));
    let mut peer = Peer::new(trusted());
    peer.agents.authorized.set(Err(Failure::NoAuthorization));
    let failure = Failure::NoAuthorization;
    assert_eq!(peer.send(SE), [refused(failure, Some("proxy")), closed(failure)]);
    assert_eq!(peer.said(), ["0324000000000001"]);
}

#[test]
fn b_ses_03_who_wants_authentication_gets_an_sa_reply() {
    // Nobody: OPEN.
    let mut peer = Peer::new(trusted());
    assert_eq!(peer.send(SE), [Event::Opened { agent: "proxy".into() }]);
    assert_eq!(peer.output(), hex("0201000c 00000001 | 00040008 c1f50000 00000e10"));
    // The agent, and the middlebox cannot: an empty token, no challenge.
    let mut peer = Peer::new(trusted());
    assert_eq!(peer.send("01010010 00000001 0001 0004 03000000 0002 0004 61626364"), []);
    assert_eq!(peer.output(), hex("0202 0004 00000001 0003 0000"));
    // The middlebox: token and challenge. (The proofs themselves: authentication.rs.)
    let mut peer = Peer::new(Underlying::Challenge);
    assert_eq!(peer.send("01010010 00000001 0001 0004 03000000 0002 0004 61626364"), []);
    let [(1, Outcome::Positive(Reply::Authenticate { challenge: Some(_), token: Some(_) }))] =
        &peer.outcomes()[..]
    else {
        panic!()
    };
}

#[test]
fn b_ses_04_sa() {
    let mut peer = no_auth();
    assert_eq!(peer.send("01020000 00000002"), [Event::Opened { agent: "proxy".into() }]);
    assert_eq!(peer.output(), hex("0201000c 00000002 | 00040008 c1f50000 00000e10"));
    // Authorized no longer.
    let mut peer = no_auth();
    peer.agents.authorized.set(Err(Failure::NoAuthorization));
    let failure = Failure::NoAuthorization;
    assert_eq!(peer.send("01020000 00000002"), [refused(failure, Some("proxy")), closed(failure)]);
    assert_eq!(peer.said(), ["0324000000000002"]);
    // Not authentic.
    let mut peer = Peer::new(Underlying::Challenge);
    peer.send("01010010 00000001 0001 0004 03000000 0002 0004 61626364");
    peer.output();
    let failure = Failure::AuthenticationFailed;
    assert_eq!(peer.send("01020004 00000002 0003 0000"), [refused(failure, None), closed(failure)]);
    assert_eq!(peer.said(), ["0323000000000002"]);
    // OPEN already.
    let mut peer = Peer::open();
    assert_eq!(peer.send("01020000 00000002"), [refused(Failure::NotApplicable, Some("proxy"))]);
    assert!(peer.session.is_open());
}

#[test]
fn b_ses_05_st() {
    let mut peer = Peer::open();
    // What was processed is answered first, what follows is ignored.
    let events = peer.send("01220000 00000002 01030000 00000003 01220000 00000004");
    assert_eq!(events, [Event::Request { tid: 2, request: RuleRequest::RuleList { page: None } }]);
    assert!(peer.said().is_empty());
    peer.send("01220000 00000005");
    let events = peer.answer(2, Ok(Reply::Rules { rules: vec![], more: None }));
    assert_eq!(events, [Event::Closed(Closed::ByAgent)]);
    assert_eq!(peer.said(), ["0222000000000002", "0203000000000003"]);
    assert_eq!(peer.send("01220000 00000006"), []);
    peer.session.notify(Notification::Rule { rule: 1, lifetime: 0, reason: None }, &peer.ids);
    assert!(peer.output().is_empty());
    let mut peer = no_auth();
    assert_eq!(peer.send("01030000 00000003"), [Event::Closed(Closed::ByAgent)]);
    assert_eq!(peer.said(), ["0203000000000003"]);
}

#[test]
fn b_ses_06_ast_after_the_replies() {
    let mut peer = Peer::open();
    peer.send("01220000 00000002 01220000 00000003");
    peer.session.terminate(Some("maintenance".into()));
    assert_eq!(peer.events(), []);
    assert!(!peer.session.wants_octets());
    peer.send("01220000 00000004");
    peer.answer(3, Err(Refused::from(Failure::NotAuthorized)));
    let events = peer.answer(2, Ok(Reply::Rules { rules: vec![7], more: None }));
    assert_eq!(events, [Event::Closed(Closed::ByMiddlebox)]);
    assert_eq!(peer.said(), ["0341000000000003", "0222000800000002", "0402000080000001"]);
    peer.session.notify(Notification::Rule { rule: 7, lifetime: 0, reason: None }, &peer.ids);
    assert!(peer.output().is_empty());
    // In NOAUTH too; before a session there is nothing to terminate.
    let mut peer = no_auth();
    peer.session.terminate(None);
    assert_eq!(peer.events(), [Event::Closed(Closed::ByMiddlebox)]);
    assert_eq!(peer.said(), ["0402000080000001"]);
    let mut peer = Peer::new(trusted());
    peer.session.terminate(None);
    assert_eq!(peer.events(), [Event::Closed(Closed::ByMiddlebox)]);
    assert!(peer.output().is_empty());
}

#[test]
fn b_amb_02_se_in_open_is_not_applicable() {
    let mut peer = Peer::open();
    peer.send(SE);
    assert_eq!(peer.said(), ["0320000000000001"]);
}

#[test]
fn b_amb_03_sa_and_st_without_session() {
    for sub in ["02", "03"] {
        let mut peer = Peer::new(trusted());
        let failure = Failure::NotApplicable;
        let events = peer.send(&format!("01{sub}0000 00000007"));
        assert_eq!(events, [refused(failure, None), closed(failure)]);
        assert_eq!(peer.said(), ["0320000000000007"]);
        // The other reading.
        let settings = Settings { early_not_applicable: false, ..Settings::default() };
        let mut peer = Peer::with(settings, trusted());
        let events = peer.send(&format!("01{sub}0000 00000007"));
        assert_eq!(events[1], closed(Failure::WrongSubType));
        assert_eq!(peer.said(), ["0311000000000007"]);
    }
}

#[test]
fn b_amb_04_noauth_takes_sa_and_st_only() {
    let mut peer = no_auth();
    let rule_requests = ["11", "12", "13", "14", "15", "21", "22"];
    for sub in rule_requests {
        let events = peer.send(&format!("01{sub}0000 00000007"));
        assert_eq!(events, [refused(Failure::NotApplicable, Some("proxy"))]);
        assert_eq!(peer.said(), ["0320000000000007"]);
    }
    assert_eq!(peer.send("01020000 00000008"), [Event::Opened { agent: "proxy".into() }]);
    let mut peer = no_auth();
    let events = peer.send("01160000 00000007");
    assert_eq!(events, [refused(Failure::WrongSubType, Some("proxy")), closed(Failure::WrongSubType)]);
}

/// A request is answered once, and no more than the depth wait.
#[test]
fn a_gen_01_requests_wait_their_turn() {
    let settings = Settings { pipelining: 2, ..Settings::default() };
    let mut peer = Peer::with(settings, trusted());
    peer.send(SE);
    peer.output();
    let octets: Vec<u8> =
        (2..7_u32).flat_map(|tid| [hex("01220000"), tid.to_be_bytes().to_vec()].concat()).collect();
    let tids = |events: Vec<Event>| -> Vec<u32> {
        events
            .into_iter()
            .map(|event| match event {
                Event::Request { tid, .. } => tid,
                other => panic!("{other:?}"),
            })
            .collect()
    };
    assert_eq!(tids(peer.send_octets(&octets)), [2, 3]);
    assert!(!peer.session.wants_octets());
    // Minutes later: the agent could not help it.
    peer.now = Duration::from_secs(600);
    assert_eq!(peer.session.deadline(), None);
    let none = || Ok(Reply::Rules { rules: vec![], more: None });
    assert_eq!(tids(peer.answer(2, none())), [4]);
    assert_eq!(tids(peer.answer(3, none())), [5]);
    assert_eq!(tids(peer.answer(4, none())), [6]);
    peer.answer(5, none());
    peer.answer(6, none());
    assert!(peer.session.wants_octets());
    assert_eq!(peer.said().len(), 5);
    peer.answer(6, none());
    assert!(peer.output().is_empty(), "no second reply");
}

#[test]
fn a_gen_04_notification_ids_never_repeat_over_all_sessions() {
    let ids = NotificationIds::default();
    let agents = crate::peer::Agents::default();
    let mut sessions: Vec<Session> =
        (0..3).map(|_| Session::new(Settings::default(), trusted(), Duration::ZERO)).collect();
    let mut seen = BTreeSet::new();
    for session in &mut sessions {
        session.receive(&hex(SE), Duration::ZERO);
        while session.event(Duration::ZERO, &ids, &agents).is_some() {
            session.authorized(Ok(turnpike_simco::Established::default()));
        }
        session.output().clear();
    }
    for round in 0..100 {
        let session = &mut sessions[round % 3];
        session.notify(Notification::Rule { rule: 1, lifetime: 5, reason: None }, &ids);
        let octets = std::mem::take(session.output());
        let (tid, _) = Outcome::from_octets(&octets).unwrap();
        assert!(seen.insert(tid));
    }
}

/// A connection that never becomes a session is closed.
#[test]
fn a_session_is_established_in_time() {
    let mut peer = Peer::new(trusted());
    assert_eq!(peer.expire(), [Event::Closed(Closed::Idle)]);
    assert_eq!(peer.now, Settings::default().establish);
    assert!(peer.output().is_empty());
    let mut peer = no_auth();
    assert_eq!(peer.expire(), [Event::Closed(Closed::Idle)]);
}

#[test]
fn b_ka_01_no_timer_between_messages() {
    let mut peer = Peer::open();
    peer.now = Duration::from_secs(1_000_000);
    assert_eq!(peer.session.deadline(), None);
    assert_eq!(peer.events(), []);
    assert_eq!(peer.send("01220000 00000002").len(), 1);
}

/// While it is not known whether the agent is authorized, nothing is processed and little is read.
#[test]
fn a_ses_03_no_transaction_before_authorization() {
    let mut peer = Peer::new(trusted());
    peer.session.receive(&hex(&format!("{SE} 01220000 00000002")), peer.now);
    let event = peer.session.event(peer.now, &peer.ids, &peer.agents);
    assert_eq!(event, Some(Event::Authorize { agent: "proxy".into(), open: true }));
    assert_eq!(peer.session.event(peer.now, &peer.ids, &peer.agents), None);
    assert!(!peer.session.wants_octets() && !peer.session.is_open());
    let opened = peer.session.authorized(Ok(turnpike_simco::Established::default()));
    assert_eq!(opened, Some(Event::Opened { agent: "proxy".into() }));
    assert!(matches!(peer.events()[..], [Event::Request { tid: 2, .. }]));
    // It is closed if nobody ever says.
    let mut peer = Peer::new(trusted());
    peer.session.receive(&hex(SE), peer.now);
    peer.session.event(peer.now, &peer.ids, &peer.agents);
    assert_eq!(peer.expire(), [Event::Closed(Closed::Idle)]);
    assert_eq!(peer.session.authorized(Ok(turnpike_simco::Established::default())), None);
}

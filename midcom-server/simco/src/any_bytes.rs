//! One harness for the fuzzer and the property test: whatever arrives, on either side, nothing panics, what is
//! held stays bounded, every message sent can be read, and what was decoded comes out as it went in.

use crate::authentication::RANDOM;
use crate::message::HEADER;
use crate::{
    AgentEvent, AgentSession, Capabilities, Credentials, Directory, Established, Event, Extensions, Failure,
    Header, Notification, NotificationIds, Outcome, Refused, Reply, Request, RuleRequest, Session, Settings,
    Underlying,
};
use std::time::Duration;

struct Anybody;

impl Directory for Anybody {
    fn middlebox(&self) -> Vec<u8> {
        b"box".to_vec()
    }

    fn key(&self, agent: &[u8]) -> Option<Vec<u8>> {
        agent.first().map(|_| agent.to_vec())
    }

    fn random(&self) -> [u8; RANDOM] {
        [7; RANDOM]
    }
}

fn authorize(agent: &str) -> Result<Established, Failure> {
    let capabilities = Capabilities { max_lifetime: 60, ..Capabilities::default() };
    if agent.len() > 40 {
        return Err(Failure::NoAuthorization);
    }
    Ok(Established { capabilities, ..Established::default() })
}

/// Runs `data` against both sides: its first octet chooses the connection, the rest arrives in pieces.
///
/// # Panics
/// If an invariant does not hold.
pub fn run(data: &[u8]) {
    let Some((&choice, rest)) = data.split_first() else { return };
    middlebox(choice, rest);
    agent(choice, rest);
    messages(rest);
}

fn middlebox(choice: u8, mut rest: &[u8]) {
    let underlying = match choice & 3 {
        0 => Underlying::Challenge,
        1 => Underlying::Insufficient,
        _ => Underlying::Authenticated("agent".to_owned()),
    };
    let settings = Settings { max_request: 512, pipelining: 3, ..Settings::default() };
    let ids = NotificationIds::default();
    let mut now = Duration::ZERO;
    let mut session = Session::new(settings, underlying, now);
    if choice & 4 != 0 {
        // Most inputs shall come past the SE request.
        let mut octets = Vec::new();
        let establish = crate::Establish {
            version: crate::Version::V3_0,
            challenge: None,
            extensions: Some(Extensions::ALL),
        };
        let fits = Request::Establish(establish).encode(0, &mut octets);
        assert_eq!(fits, Ok(()));
        session.receive(&octets, now);
    }
    let mut waiting = Vec::new();
    loop {
        while let Some(event) = session.event(now, &ids, &Anybody) {
            match event {
                Event::Authorize { agent, open } => {
                    let opened = session.authorized(authorize(&agent));
                    assert!(open || !matches!(opened, Some(Event::Opened { .. })));
                }
                Event::Request { tid, request } => {
                    round_trip(&request);
                    waiting.push((tid, request));
                }
                Event::Opened { .. } => assert!(session.is_open()),
                Event::Refused { .. } => {}
                Event::Closed(_) => assert!(session.over().is_some()),
            }
            assert!(waiting.len() <= 3, "more requests than the depth");
            assert!(waiting.is_empty() || session.is_open(), "a request before OPEN");
        }
        readable(session.output());
        session.output().clear();
        if session.over().is_some() {
            assert!(!session.wants_octets());
            return;
        }
        if !session.wants_octets() || rest.first().is_none_or(|octet| octet & 0x80 != 0) {
            if let Some((tid, _)) = waiting.pop() {
                let refused = Refused::from(Failure::NoSuchRule);
                session.answer(tid, if tid & 1 == 0 { Ok(Reply::Deleted) } else { Err(refused) }, now);
            }
            session.notify(Notification::Group { group: 1, lifetime: 2 }, &ids);
        }
        if session.wants_octets() {
            let piece = rest.len().min(1 + usize::from(choice));
            let (now_comes, later) = rest.split_at(piece);
            if piece == 0 && waiting.is_empty() {
                return;
            }
            session.receive(now_comes, now);
            rest = later;
        }
        now += Duration::from_secs(u64::from(choice & 0x1F));
    }
}

fn agent(choice: u8, rest: &[u8]) {
    let credentials = (choice & 8 != 0).then(|| Credentials { id: b"a".to_vec(), key: vec![1; 16] });
    let mut session = AgentSession::new(credentials, &[3; RANDOM], Some(Extensions::ALL));
    for piece in rest.chunks(1 + usize::from(choice)) {
        session.receive(piece);
        while let Some(event) = session.event() {
            match event {
                AgentEvent::Opened(_) => {
                    assert!(session.is_open());
                    assert_ne!(session.request(&RuleRequest::RuleList { page: None }), Ok(None));
                }
                AgentEvent::Ended(_) => {
                    assert_eq!(session.event(), None);
                    return;
                }
                AgentEvent::Answer { .. } | AgentEvent::Notification(_) => {}
            }
        }
    }
}

/// Each message alone, in both directions.
fn messages(rest: &[u8]) {
    if let Ok((tid, request)) = Request::from_octets(rest, Extensions::ALL) {
        let mut out = Vec::new();
        assert_eq!(request.encode(tid, &mut out), Ok(()));
        assert_eq!(Request::from_octets(&out, Extensions::ALL), Ok((tid, request)));
    }
    if let Ok((tid, outcome)) = Outcome::from_octets(rest) {
        let mut out = Vec::new();
        if outcome.encode(tid, &mut out).is_ok() {
            assert_eq!(Outcome::from_octets(&out), Ok((tid, outcome)));
        }
    }
}

fn round_trip(request: &RuleRequest) {
    let request = Request::Rule(request.clone());
    let mut out = Vec::new();
    assert_eq!(request.encode(9, &mut out), Ok(()));
    assert_eq!(Request::from_octets(&out, Extensions::ALL), Ok((9, request)));
}

/// What the middlebox wrote is whole messages.
fn readable(mut octets: &[u8]) {
    while let Some(header) = Header::decode(octets) {
        let (message, rest) = octets.split_at(HEADER + usize::from(header.length));
        let (tid, _) = Outcome::from_octets(message).expect("the middlebox wrote what no agent can read");
        assert_eq!(tid, header.tid);
        octets = rest;
    }
    assert!(octets.is_empty(), "half a header was written");
}

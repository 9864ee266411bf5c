//! Row B-SEC-02: challenge and response with a shared key, agent against middlebox.

use crate::peer::{Agents, Peer, hex};
use turnpike_simco::authentication::{Prover, author, challenge, token, verify};
use turnpike_simco::{
    AgentEvent, AgentSession, Closed, Credentials, Ended, Event, Extensions, Failure, Outcome, Reply,
    Request, RuleRequest, Underlying,
};

/// Hands octets to and fro until both sides are silent.
pub fn converse(agent: &mut AgentSession, peer: &mut Peer) -> (Vec<AgentEvent>, Vec<Event>) {
    let (mut agents, mut peers) = (Vec::new(), Vec::new());
    loop {
        let up = std::mem::take(agent.output());
        peers.extend(peer.send_octets(&up));
        let down = peer.output();
        agent.receive(&down);
        agents.extend(std::iter::from_fn(|| agent.event()));
        if down.is_empty() && agent.output().is_empty() {
            return (agents, peers);
        }
    }
}

fn credentials(id: &str, key: &[u8]) -> Option<Credentials> {
    Some(Credentials { id: id.into(), key: key.to_vec() })
}

#[test]
fn b_sec_02_both_prove_that_they_know_the_key() {
    let mut peer = Peer::new(Underlying::Challenge);
    let key = Agents::default().key;
    let mut agent = AgentSession::new(credentials("proxy", &key), &[9; 32], None);
    let (agents, peers) = converse(&mut agent, &mut peer);
    assert!(matches!(agents[..], [AgentEvent::Opened(_)]), "{agents:?}");
    assert_eq!(peers, [Event::Opened { agent: "proxy".into() }]);
    assert_eq!(peer.session.agent(), Some("proxy"));
}

#[test]
fn b_sec_02_a_wrong_key_on_either_side() {
    // The agent notices first, and does not show its own proof to a stranger.
    let mut peer = Peer::new(Underlying::Challenge);
    let mut agent = AgentSession::new(credentials("proxy", b"another key of 16"), &[9; 32], None);
    let (agents, peers) = converse(&mut agent, &mut peer);
    assert_eq!(agents, [AgentEvent::Ended(Ended::NotAuthentic)]);
    assert_eq!(peers, []);
    // An agent that does not look is refused.
    let mut peer = Peer::new(Underlying::Challenge);
    let agents = challenge(b"proxy", &[9; 32]);
    let establish = [hex("0101 0032 00000001 0001 0004 03000000 0002 0026"), agents.clone()].concat();
    peer.send_octets(&establish);
    let (_, outcome) = peer.outcomes().remove(0);
    let Outcome::Positive(Reply::Authenticate { challenge: Some(middleboxs), .. }) = outcome else {
        panic!()
    };
    let wrong = token(Prover::Agent, b"another key of 16", &agents, &middleboxs);
    let events = peer.send_octets(&[hex("0102 0024 00000002 0003 0020"), wrong].concat());
    let failure = Failure::AuthenticationFailed;
    assert_eq!(
        events,
        [Event::Refused { failure, claimed: Some("proxy".into()) }, Event::Closed(Closed::Refused(failure))]
    );
    assert_eq!(peer.said(), ["0323000000000002"]);
}

/// An unknown agent sees the same messages of the same lengths as one with a wrong key.
#[test]
fn b_sec_02_no_identity_oracle() {
    let lengths = |id: &[u8]| {
        let mut peer = Peer::new(Underlying::Challenge);
        let mut said = Vec::new();
        let agents = challenge(id, &[9; 32]);
        let mut establish = Vec::new();
        Request::Establish(turnpike_simco::Establish {
            version: turnpike_simco::Version::V3_0,
            challenge: Some(agents),
            extensions: None,
        })
        .encode(1, &mut establish)
        .unwrap();
        peer.send_octets(&establish);
        said.extend(peer.said());
        peer.send_octets(&[hex("0102 0024 00000002 0003 0020"), vec![0; 32]].concat());
        said.extend(peer.said());
        said
    };
    assert_eq!(lengths(b"proxy"), lengths(b"nobody"));
    assert_eq!(lengths(b"proxy")[1], "0323000000000002");
}

#[test]
fn b_sec_02_without_challenge_there_is_no_name() {
    let mut peer = Peer::new(Underlying::Challenge);
    peer.send("01010008 00000001 0001 0004 03000000");
    assert_eq!(peer.said(), ["0326000000000001"]);
}

/// The two proofs differ, and each is bound to both challenges.
#[test]
fn b_sec_02_a_token_fits_one_exchange_and_one_side() {
    let (key, agents, middleboxs) =
        (b"sixteen octets k", challenge(b"a", &[1; 32]), challenge(b"m", &[2; 32]));
    let proof = token(Prover::Agent, key, &agents, &middleboxs);
    assert_eq!(proof.len(), 32);
    assert!(verify(Prover::Agent, key, &agents, &middleboxs, &proof));
    assert!(!verify(Prover::Middlebox, key, &agents, &middleboxs, &proof));
    assert!(!verify(Prover::Agent, key, &challenge(b"a", &[3; 32]), &middleboxs, &proof));
    assert!(!verify(Prover::Agent, key, &agents, &challenge(b"m", &[3; 32]), &proof));
    assert!(!verify(Prover::Agent, key, &agents, &middleboxs, proof.get(..31).unwrap()));
    assert!(!verify(Prover::Agent, key, &agents, &middleboxs, &[]));
}

#[test]
fn a_challenge_names_its_author() {
    assert_eq!(author(&challenge(b"proxy", &[7; 32])), Some(&b"proxy"[..]));
    assert_eq!(author(&challenge(b"", &[7; 32])), Some(&b""[..]));
    for wrong in [&b""[..], b"\x05proxy", &[5; 32], &[0; 34]] {
        assert_eq!(author(wrong), None);
    }
}

#[test]
fn b_sec_01_tls_needs_no_challenge() {
    let mut peer = Peer::new(Underlying::Authenticated("proxy".into()));
    let mut agent = AgentSession::new(None, &[9; 32], None);
    let (agents, peers) = converse(&mut agent, &mut peer);
    assert!(matches!(agents[..], [AgentEvent::Opened(_)]));
    assert_eq!(peers, [Event::Opened { agent: "proxy".into() }]);
}

/// The agent's machine against wrong answers.
#[test]
fn the_agent_takes_replies_that_fit_only() {
    let open = || {
        let mut agent = AgentSession::new(None, &[9; 32], None);
        agent.output().clear();
        agent.receive(&hex("0201000c 00000001 | 00040008 c1f50000 00000e10"));
        assert!(matches!(agent.event(), Some(AgentEvent::Opened(_))));
        assert_eq!(agent.request(&RuleRequest::RuleStatus { rule: 1 }), Ok(Some(2)));
        agent
    };
    for wrong in [
        "02160000 00000002",                              // PRD to PRS
        "02220000 00000003",                              // a TID that was not used
        "02030000 00000002",                              // ST to PRS
        "01010000 00000002",                              // a request
        "02210000 00000002",                              // no attributes
        "03990000 00000002",                              // an unknown failure
        "0201000c 00000002 | 00040008 c1f50000 00000e10", // a second SE reply
    ] {
        let mut agent = open();
        agent.receive(&hex(wrong));
        assert!(
            matches!(agent.event(), Some(AgentEvent::Ended(Ended::Unasked | Ended::Malformed(_)))),
            "{wrong}"
        );
        assert_eq!(agent.event(), None);
        assert_eq!(agent.request(&RuleRequest::GroupList), Ok(None));
    }
    // Asked for a proof without a key; asked for none although one was wanted.
    let mut agent = AgentSession::new(None, &[9; 32], None);
    agent.receive(&hex("0202 0008 00000001 0002 0004 01020304"));
    assert_eq!(agent.event(), Some(AgentEvent::Ended(Ended::NoKey)));
    let mut agent = AgentSession::new(credentials("proxy", &[7; 16]), &[9; 32], Some(Extensions::ALL));
    agent.receive(&hex("0201000c 00000001 | 00040008 c1f50000 00000e10"));
    assert_eq!(agent.event(), Some(AgentEvent::Ended(Ended::NotAuthentic)));
}

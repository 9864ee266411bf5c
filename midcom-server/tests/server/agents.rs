//! The agent library: reconnecting, resynchronizing, giving up.

use crate::daemon::Middlebox;
use crate::wire::{agent, by_key, with_keys};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use turnpike_midcom::agent::{self, Agent, Lost, Notice, RequestError, Status};
use turnpike_simco::{Direction, Enable, EnableParameters, Extensions, Extras, Location, RuleRequest, Tuple};

fn per(port: u16) -> Enable {
    let tuple = |location, address: [u8; 4], port| Tuple::full(location, 17, address.into(), port, 1);
    Enable {
        parameters: EnableParameters { same_parity: false, direction: Direction::Inbound },
        internal: tuple(Location::Internal, [10, 0, 0, 9], port),
        external: tuple(Location::External, [192, 0, 2, 1], 7),
        lifetime: 600,
        group: None,
        extras: Extras::default(),
    }
}

/// A way to the server that can be cut.
struct Wire {
    address: std::net::SocketAddr,
    cut: tokio::sync::watch::Sender<u32>,
}

impl Wire {
    async fn to(server: std::net::SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, cuts) = tokio::sync::watch::channel(0);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut cuts = cuts.clone();
                cuts.mark_unchanged();
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(server).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        Self { address, cut }
    }
}

#[tokio::test]
async fn a_lost_session_comes_back_and_learns_what_it_has() {
    let middlebox = Middlebox::start(with_keys()).await;
    let wire = Wire::to(middlebox.address).await;
    let settings =
        agent::Settings { reconnect: Some(Duration::from_millis(20)), ..by_key(wire.address, "proxy") };
    let (proxy, _, mut notices) = Agent::connect(settings).await.unwrap();
    let mut rules = Vec::new();
    for port in 1..=50 {
        rules.push(proxy.enable(per(port)).await.unwrap().rule);
    }
    wire.cut.send_modify(|cuts| *cuts += 1);
    // Meanwhile somebody else makes one and ends one.
    let (second, _, _n) = agent(&middlebox, "proxy").await;
    rules.push(second.enable(per(99)).await.unwrap().rule);
    second.change_lifetime(rules.remove(0), 0).await.unwrap();
    let mut lost = false;
    let found = loop {
        match notices.recv().await.unwrap() {
            Notice::Lost(_) => lost = true,
            Notice::Resynchronized(found) => break found,
            Notice::Open(_) | Notice::Notification(_) => {}
        }
    };
    assert!(lost);
    let mut known: Vec<u32> = found.iter().map(Status::rule).collect();
    known.sort_unstable();
    // What came or went while it was listing it hears as well; the list is as it was then.
    rules.retain(|rule| known.contains(rule));
    assert!(known.iter().all(|rule| rules.contains(rule) || *rule == 1), "{known:?}");
    assert!(known.len() >= 49);
    // The session works as before.
    let all = proxy.list(Extensions::ALL).await.unwrap();
    assert_eq!(all.len(), 50);
}

#[tokio::test]
async fn requests_under_way_when_the_session_is_lost() {
    // A box that accepts and says nothing after the session is open cannot be had from the real one: the wire is
    // cut while requests are under way.
    let middlebox = Middlebox::start(with_keys()).await;
    let wire = Wire::to(middlebox.address).await;
    let (proxy, _, _n) = Agent::connect(by_key(wire.address, "proxy")).await.unwrap();
    wire.cut.send_modify(|cuts| *cuts += 1);
    let answer = loop {
        match proxy.request(RuleRequest::RuleStatus { rule: 7 }).await {
            Err(RequestError::Refused(_)) => {}
            other => break other,
        }
    };
    assert!(matches!(answer, Err(RequestError::Lost(Lost::Broken(_)))), "{answer:?}");
    // Without reconnection it is closed for good.
    let mut last = proxy.request(RuleRequest::RuleStatus { rule: 7 }).await;
    while matches!(last, Err(RequestError::Lost(_))) {
        last = proxy.request(RuleRequest::RuleStatus { rule: 7 }).await;
    }
    assert_eq!(last, Err(RequestError::Closed));
}

/// A middlebox that opens a session, answers two pings, and is silent from then on.
async fn falls_silent(listener: TcpListener) -> u32 {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut request = vec![0; 16];
    stream.read_exact(&mut request).await.unwrap();
    stream.write_all(&crate::wire::hex("0201000c 00000001 | 00040008 c1f50000 00000e10")).await.unwrap();
    let mut pings = 0;
    while stream.read_exact(&mut request).await.is_ok() {
        assert_eq!(request[..2], [1, 0x21]);
        pings += 1;
        if pings <= 2 {
            let reply = [crate::wire::hex("0343 0000"), request[4..8].to_vec()].concat();
            stream.write_all(&reply).await.unwrap();
        }
    }
    pings
}

/// A middlebox that answers nothing is found out by the ping.
#[tokio::test]
async fn b_ka_01_a_silent_middlebox_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let silent = tokio::spawn(falls_silent(listener));
    let settings = agent::Settings {
        ping: Duration::from_millis(300),
        extensions: Extensions::NONE,
        reconnect: None,
        ..agent::Settings::new(&address.to_string())
    };
    let (_agent, _, mut notices) = Agent::connect(settings).await.unwrap();
    assert!(matches!(notices.recv().await, Some(Notice::Open(_))));
    assert_eq!(notices.recv().await, Some(Notice::Lost(Lost::Silent)));
    assert!(silent.await.unwrap() >= 1);
    // One that takes the connection and says nothing at all.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let settings = agent::Settings { timeout: Duration::from_millis(100), ..by_key(address, "proxy") };
    let lost = Agent::connect(settings).await.unwrap_err();
    assert!(matches!(lost, Lost::Dial(_)), "{lost:?}");
    drop(listener);
}

/// An agent may be started before its middlebox.
#[tokio::test]
async fn a_middlebox_that_comes_later() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let settings = agent::Settings { reconnect: Some(Duration::from_millis(20)), ..by_key(address, "proxy") };
    let (proxy, mut notices) = Agent::start(settings);
    assert!(matches!(notices.recv().await, Some(Notice::Lost(Lost::Dial(_)))));
    let middlebox = Middlebox::start(with_keys()).await;
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(middlebox.server.clone().serve(listener));
    while !matches!(notices.recv().await, Some(Notice::Open(_))) {}
    assert_eq!(proxy.list(Extensions::ALL).await, Ok(vec![]));
}

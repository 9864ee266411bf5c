//! Agents that mean no good: nobody else may feel it.

use crate::certificates::{Authority, over_tls};
use crate::daemon::Middlebox;
use crate::wire::{Raw, agent, by_key, hex, with_keys};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use turnpike_midcom::agent::{Agent, Lost};
use turnpike_midcom::{Limits, Settings};
use turnpike_simco::{Credentials, Ended, Extensions, Failure};

fn limited(limits: Limits) -> Settings {
    Settings { limits, ..with_keys() }
}

/// Waits for the other side to close.
async fn closed(stream: &mut TcpStream) {
    let mut octets = [0; 1024];
    let end = async { while !matches!(stream.read(&mut octets).await, Ok(0) | Err(_)) {} };
    tokio::time::timeout(Duration::from_secs(10), end).await.expect("the server closes");
}

#[tokio::test]
async fn b_sec_05_brute_force_is_stopped() {
    let limits = Limits { failures: 3, period: Duration::from_millis(400), ..Limits::default() };
    let middlebox = Middlebox::start(limited(limits)).await;
    let credentials = Some(Credentials { id: b"proxy".to_vec(), key: b"not the right key".to_vec() });
    // The library notices a wrong key itself; whoever guesses does not: a raw one does.
    let wrong = turnpike_midcom::agent::Settings { credentials, ..by_key(middlebox.address, "proxy") };
    assert_eq!(Agent::connect(wrong).await.unwrap_err(), Lost::Ended(Ended::NotAuthentic));
    for _ in 0..3 {
        let mut raw = Raw::connect(middlebox.address).await;
        let agents = turnpike_simco::authentication::challenge(b"proxy", &[3; 32]);
        raw.send(&[hex("0101 0032 00000001 0001 0004 03000000 0002 0026"), agents].concat()).await;
        raw.message().await.unwrap();
        raw.send(&[hex("0102 0024 00000002 0003 0020"), vec![0; 32]].concat()).await;
        assert_eq!(raw.message().await.unwrap(), hex("0323 0000 00000002"));
        assert_eq!(raw.message().await, None);
    }
    // From now on the source is turned away, even with the right key, until the period is over.
    assert!(Agent::connect(by_key(middlebox.address, "proxy")).await.is_err());
    let counters = middlebox.counters();
    assert_eq!(counters.authentications_failed.load(Ordering::Relaxed), 3);
    assert!(counters.blocked.load(Ordering::Relaxed) >= 1);
    while Agent::connect(by_key(middlebox.address, "proxy")).await.is_err() {}
}

#[tokio::test]
async fn half_open_tls_and_silent_connections_are_closed() {
    let authority = Authority::new("authority");
    let limits = Limits { handshake: Duration::from_millis(150), ..Limits::default() };
    let middlebox = Middlebox::start(Settings { limits, ..authority.server() }).await;
    let mut silent = TcpStream::connect(middlebox.address).await.unwrap();
    let mut hello = TcpStream::connect(middlebox.address).await.unwrap();
    hello.write_all(&hex("16 0301 0200 01")).await.unwrap();
    closed(&mut silent).await;
    closed(&mut hello).await;
    assert_eq!(middlebox.counters().handshakes_failed.load(Ordering::Relaxed), 1);
    // A good one that then says nothing.
    let session = turnpike_simco::Settings { establish: Duration::from_millis(100), ..Default::default() };
    middlebox.server.configure(Settings { session, ..with_keys() });
    let mut quiet = TcpStream::connect(middlebox.address).await.unwrap();
    quiet.write_all(&[1]).await.unwrap();
    closed(&mut quiet).await;
    while middlebox.counters().open.load(Ordering::Relaxed) > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn too_many_connections_of_one_source() {
    let limits = Limits { half_open: 50, connections: 60, ..Limits::default() };
    let middlebox = Middlebox::start(limited(limits)).await;
    let (proxy, _, _n) = agent(&middlebox, "proxy").await;
    let mut idle = Vec::new();
    for _ in 0..50 {
        idle.push(TcpStream::connect(middlebox.address).await.unwrap());
    }
    while middlebox.counters().open.load(Ordering::Relaxed) < 51 {
        tokio::task::yield_now().await;
    }
    let mut one_more = TcpStream::connect(middlebox.address).await.unwrap();
    closed(&mut one_more).await;
    assert_eq!(middlebox.counters().full.load(Ordering::Relaxed), 1);
    // Who has a session is not touched, and when they go there is room again.
    assert_eq!(proxy.list(Extensions::ALL).await, Ok(vec![]));
    drop(idle);
    while middlebox.counters().open.load(Ordering::Relaxed) > 1 {
        tokio::task::yield_now().await;
    }
    agent(&middlebox, "other").await;
}

/// Requests without end while the replies are not read: the server stops reading, and closes in the end.
#[tokio::test]
async fn an_agent_that_does_not_read() {
    let limits = Limits { write: Duration::from_millis(300), ..Limits::default() };
    let middlebox = Middlebox::start(limited(limits)).await;
    let (proxy, _, _n) = agent(&middlebox, "proxy").await;
    let mut raw = Raw::open(middlebox.address).await;
    let flood: Vec<u8> =
        (0..5_000_u32).flat_map(|tid| [hex("01220000"), tid.to_be_bytes().to_vec()].concat()).collect();
    let mut sent = 0_usize;
    loop {
        match tokio::time::timeout(Duration::from_secs(5), raw.0.write_all(&flood)).await {
            Ok(Ok(())) => sent += flood.len(),
            // The server closed it.
            Ok(Err(_)) => break,
            Err(_) => panic!("neither read nor closed after {sent} octets"),
        }
        assert!(sent < 1 << 30, "the server takes everything");
        assert_eq!(proxy.list(Extensions::ALL).await, Ok(vec![]));
    }
}

#[tokio::test]
async fn oversized_and_malformed_messages() {
    let middlebox = Middlebox::start(with_keys()).await;
    let mut raw = Raw::open(middlebox.address).await;
    raw.send(&hex("0122 fff0 00000009")).await;
    let bfm = raw.message().await.unwrap();
    let ast = raw.message().await.unwrap();
    assert_eq!((&bfm[..4], &ast[..4]), (&hex("04010000")[..], &hex("04020000")[..]));
    assert_eq!(raw.message().await, None);
    let mut raw = Raw::connect(middlebox.address).await;
    raw.send(b"GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(raw.message().await.unwrap()[..2], [4, 1]);
    assert_eq!(raw.message().await, None);
    assert_eq!(middlebox.counters().malformed.load(Ordering::Relaxed), 2);
}

/// A name without right costs a source its tries like a wrong key.
#[tokio::test]
async fn b_sec_05_agents_without_right_are_counted() {
    let authority = Authority::new("authority");
    let limits = Limits { failures: 2, ..Limits::default() };
    let middlebox = Middlebox::start(Settings { limits, ..authority.server() }).await;
    let settings = over_tls(middlebox.address, &authority.agent("nobody"), "box.example");
    for _ in 0..2 {
        match Agent::connect(settings.clone()).await {
            Err(Lost::Ended(Ended::Refused(refused))) => {
                assert_eq!(refused.failure, Failure::NoAuthorization)
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(Agent::connect(settings).await, Err(Lost::Dial(_))));
}

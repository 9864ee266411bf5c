//! Row F-233: authorization tokens, which let an agent open what it has no right to by itself.

use crate::daemon::Middlebox;
use crate::wire::{agent, with_keys};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use turnpike_midcom::Settings;
use turnpike_midcom::agent::{Agent, RequestError};
use turnpike_midcom::permit::{self, Network, Permit, Protocol, Time};
use turnpike_simco::{
    Direction, Enable, EnableParameters, Enabled, Extensions, Extras, Failure, Location, Tuple,
};

const KEY: &[u8] = b"a key for authorization tokens";
/// No agent of the daemon may open for it.
const HOST: &str = "192.168.0.10";
const REMOTE: &str = "192.0.2.1";

fn in_seconds(seconds: u64) -> Time {
    let then = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(seconds);
    Time(u64::try_from(then.as_millis()).unwrap())
}

fn permit() -> Permit {
    Permit {
        inside: Network::host(HOST.parse().unwrap()),
        outside: Network { address: REMOTE.parse().unwrap(), length: 24 },
        protocol: Some(Protocol::UDP),
        lifetime: 60,
        rules: 2,
        nonce: permit::identity().unwrap(),
        expires: in_seconds(60),
    }
}

async fn ask(
    agent: &Agent,
    host: &str,
    remote: &str,
    token: Option<Vec<u8>>,
) -> Result<Enabled, RequestError> {
    let tuple = |location, address: &str, port| Tuple::full(location, 17, address.parse().unwrap(), port, 1);
    let enable = Enable {
        parameters: EnableParameters { same_parity: false, direction: Direction::Inbound },
        internal: tuple(Location::Internal, host, 5004),
        external: tuple(Location::External, remote, 0),
        lifetime: 300,
        group: None,
        extras: Extras { token, ..Extras::default() },
    };
    agent.enable(enable).await
}

fn refused(answer: Result<Enabled, RequestError>) -> (Failure, String) {
    match answer {
        Err(RequestError::Refused(refused)) => (refused.failure, refused.reason.unwrap_or_default()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn f_233_a_token_lets_its_bearer_open_what_it_says_as_often_as_it_says() {
    let middlebox = Middlebox::start(Settings { token_key: Some(KEY.to_vec()), ..with_keys() }).await;
    let (proxy, established, _n) = agent(&middlebox, "proxy").await;
    assert!(established.extensions.unwrap().has(Extensions::TOKEN));
    let sealed = |permit: Permit| Some(permit::seal(&permit, KEY));
    assert_eq!(refused(ask(&proxy, HOST, REMOTE, None).await).0, Failure::NotAuthorized, "without");

    let token = sealed(permit());
    let other_host = ask(&proxy, "192.168.0.11", REMOTE, token.clone()).await;
    assert_eq!(refused(other_host).0, Failure::NotAuthorized, "another A0");
    let other_remote = ask(&proxy, HOST, "198.51.100.1", token.clone()).await;
    assert_eq!(refused(other_remote).0, Failure::NotAuthorized, "another A3");
    for rule in 1..=2 {
        let enabled = ask(&proxy, HOST, REMOTE, token.clone()).await.unwrap();
        assert_eq!(enabled.lifetime, 60, "rule {rule} lives as long as the token allows");
    }
    let (failure, why) = refused(ask(&proxy, HOST, REMOTE, token.clone()).await);
    assert_eq!(failure, Failure::NotAuthorized);
    assert!(why.contains("2 times"), "replayed: {why}");

    let tcp = sealed(Permit { protocol: Some(Protocol::TCP), ..permit() });
    assert_eq!(refused(ask(&proxy, HOST, REMOTE, tcp).await).0, Failure::NotAuthorized, "another protocol");
    let expired = sealed(Permit { expires: in_seconds(0), ..permit() });
    let (failure, why) = refused(ask(&proxy, HOST, REMOTE, expired).await);
    assert!(failure == Failure::NotAuthorized && why.contains("expired"), "expired: {why}");
    let mut tampered = permit::seal(&permit(), KEY);
    let address = 1 + 8 + 16 + 2;
    tampered[address + 3] ^= 1;
    let (failure, why) = refused(ask(&proxy, "192.168.0.11", REMOTE, Some(tampered)).await);
    assert!(failure == Failure::NotAuthorized && why.contains("changed"), "tampered: {why}");
    let foreign = permit::seal(&permit(), b"the key of somebody else");
    assert_eq!(refused(ask(&proxy, HOST, REMOTE, Some(foreign)).await).0, Failure::NotAuthorized);
    // An agent's own rights need no token, and a bad one does not pass for none.
    assert!(ask(&proxy, "10.0.0.5", REMOTE, None).await.is_ok());
    let garbage = ask(&proxy, "10.0.0.5", REMOTE, Some(b"garbage".to_vec())).await;
    assert_eq!(refused(garbage).0, Failure::NotAuthorized);
}

//! Row F-233 over kills: a token is good for as many rules as it says, however often the control plane dies.

use crate::support::{RULES, SOON, Site, until};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use turnpike_abi::command::Kind;
use turnpike_midcom::agent::{self, Agent, RequestError};
use turnpike_midcom::permit::{self, Network, Permit, Protocol, Time};
use turnpike_simco::{
    Credentials, Direction, Enable, EnableParameters, Enabled, Extras, Failure, Location, Tuple,
};

const TOKEN_KEY: &str = "a key for authorization tokens";
const AGENT_KEY: &str = "a key of 16 octets";
/// "visitor" may not open for it.
const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 10);
const REMOTE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// A box with SIMCO on loopback, not started yet.
fn site() -> (Site, SocketAddr) {
    let (site, address) = Site::with_server(Site::new);
    std::fs::write(site.path("token.key"), TOKEN_KEY).unwrap();
    std::fs::write(site.path("agent.key"), AGENT_KEY).unwrap();
    site.configure(&format!(
        "{RULES}\n[simco]\nzones = [\"inside\"]\nlisten = [\"{address}\"]\nclear_text = [\"127.0.0.0/8\"]\n\
         token_key = {:?}\n[[agent]]\nname = \"visitor\"\nzones = [\"inside\"]\ninside = [\"10.0.0.0/8\"]\n\
         key = {:?}\n",
        site.path("token.key"),
        site.path("agent.key"),
    ));
    (site, address)
}

/// A token for so many rules, good for ten minutes.
fn token(rules: u32) -> Vec<u8> {
    let end = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(600);
    let permit = Permit {
        inside: Network::host(HOST.into()),
        outside: Network::host(REMOTE.into()),
        protocol: Some(Protocol::UDP),
        lifetime: 300,
        rules,
        nonce: permit::identity().unwrap(),
        expires: Time(u64::try_from(end.as_millis()).unwrap()),
    };
    permit::seal(&permit, TOKEN_KEY.as_bytes())
}

async fn visitor(address: SocketAddr) -> Agent {
    let settings = agent::Settings {
        credentials: Some(Credentials { id: b"visitor".to_vec(), key: AGENT_KEY.as_bytes().to_vec() }),
        reconnect: None,
        ..agent::Settings::new(&address.to_string())
    };
    Agent::connect(settings).await.unwrap().0
}

async fn enable(agent: &Agent, token: &[u8], port: u16) -> Result<Enabled, RequestError> {
    let tuple = |location, address: Ipv4Addr, port| Tuple::full(location, 17, address.into(), port, 1);
    let enable = Enable {
        parameters: EnableParameters { same_parity: false, direction: Direction::Inbound },
        internal: tuple(Location::Internal, HOST, port),
        external: tuple(Location::External, REMOTE, 0),
        lifetime: 300,
        group: None,
        extras: Extras { token: Some(token.to_vec()), ..Extras::default() },
    };
    agent.enable(enable).await
}

/// Grants a rule by a token that has a use left, as soon as the dataplane is there.
async fn granted(agent: &Agent, token: &[u8], port: u16) -> Enabled {
    let granting = async {
        loop {
            match enable(agent, token, port).await {
                Ok(enabled) => return enabled,
                Err(RequestError::Refused(why)) if why.failure != Failure::NotAuthorized => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(SOON, granting).await.expect("granted")
}

async fn used_up(agent: &Agent, token: &[u8], times: u32) {
    match enable(agent, token, 6000).await {
        Err(RequestError::Refused(why)) => {
            let reason = why.reason.unwrap_or_default();
            assert_eq!(why.failure, Failure::NotAuthorized, "{reason}");
            assert!(reason.contains(&format!("{times} times")), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn f_233_a_kill_neither_gives_uses_of_a_token_back_nor_spends_them() {
    let (mut site, address) = site();
    let fake = site.dataplane();
    site.start();
    site.until_ready();
    let (twice, once) = (token(2), token(1));
    let agent = visitor(address).await;
    let first = granted(&agent, &twice, 5000).await;
    granted(&agent, &twice, 5001).await;
    used_up(&agent, &twice, 2).await;
    agent.change_lifetime(first.rule, 0).await.unwrap();

    // The worker is asked for the rule, and before it answers the process is gone.
    let asked = |fake: &crate::support::fake::Fake| {
        fake.with(|state| {
            state.commands.iter().filter(|(_, slot)| slot.header.kind == Kind::PINHOLE_ADD).count()
        })
    };
    let before = asked(&fake);
    fake.with(|state| state.ignore_pinholes = true);
    let unanswered = tokio::spawn({
        let (agent, once) = (agent.clone(), once.clone());
        async move { enable(&agent, &once, 5002).await }
    });
    let under_way = async {
        while asked(&fake) == before {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(SOON, under_way).await.expect("the worker is asked");
    site.kill();
    assert!(matches!(unanswered.await.unwrap(), Err(RequestError::Lost(_))));
    fake.with(|state| state.ignore_pinholes = false);

    site.start();
    site.until_ready();
    let agent = visitor(address).await;
    used_up(&agent, &twice, 2).await;
    granted(&agent, &once, 5002).await;
    site.kill();
    site.start();
    site.until_ready();
    let agent = visitor(address).await;
    used_up(&agent, &once, 1).await;
    used_up(&agent, &twice, 2).await;
    // The rules themselves are there.
    until("two rules", || {
        let there = fake.with(|state| state.pinholes.len());
        (there == 2).then_some(())
    });
}

//! Octets over TCP: what an agent that is not ours sees.

use crate::daemon::Middlebox;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use turnpike_midcom::Settings;
use turnpike_midcom::agent::{self, Agent, Notices};
use turnpike_policy::Network;
use turnpike_simco::authentication::{Prover, challenge, token};
use turnpike_simco::{Credentials, Established, Extensions};

pub const KEY: &[u8] = b"a key of 16 octets";

/// Clear text on loopback, with a key for each agent.
pub fn with_keys() -> Settings {
    let keys = ["proxy", "other", "boss", "nobody"].map(|name| (name.to_owned(), KEY.to_vec()));
    Settings {
        clear_text: vec![Network { address: [127, 0, 0, 0].into(), length: 8 }],
        keys: keys.into_iter().collect(),
        ..Settings::default()
    }
}

pub fn by_key(address: SocketAddr, id: &str) -> agent::Settings {
    agent::Settings {
        credentials: Some(Credentials { id: id.into(), key: KEY.to_vec() }),
        reconnect: None,
        ..agent::Settings::new(&address.to_string())
    }
}

pub async fn agent(middlebox: &Middlebox, id: &str) -> (Agent, Established, Notices) {
    Agent::connect(by_key(middlebox.address, id)).await.unwrap()
}

/// Octets of a text of hexadecimal digits; anything else in it is passed over.
pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect()
}

/// A connection that sends and takes octets.
pub struct Raw(pub TcpStream);

impl Raw {
    pub async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    /// With a session of "proxy" on it, without extensions.
    pub async fn open(address: SocketAddr) -> Self {
        let mut raw = Self::connect(address).await;
        let agents = challenge(b"proxy", &[3; 32]);
        raw.send(&[hex("0101 0032 00000001 0001 0004 03000000 0002 0026"), agents.clone()].concat()).await;
        let reply = raw.message().await.unwrap();
        assert_eq!(reply[..2], [2, 2]);
        let length = usize::from(u16::from_be_bytes([reply[10], reply[11]]));
        let middleboxs = &reply[12..12 + length];
        assert_eq!(reply[16 + length..], token(Prover::Middlebox, KEY, &agents, middleboxs));
        let proof = token(Prover::Agent, KEY, &agents, middleboxs);
        raw.send(&[hex("0102 0024 0000ffff 0003 0020"), proof].concat()).await;
        assert_eq!(raw.message().await.unwrap()[..2], [2, 1]);
        raw
    }

    pub async fn send(&mut self, octets: &[u8]) {
        self.0.write_all(octets).await.unwrap();
    }

    /// The next message; none: the connection is closed.
    pub async fn message(&mut self) -> Option<Vec<u8>> {
        let read = async {
            let mut message = vec![0; 8];
            self.0.read_exact(&mut message).await.ok()?;
            let length = 8 + usize::from(u16::from_be_bytes([message[2], message[3]]));
            message.resize(length, 0);
            self.0.read_exact(&mut message[8..]).await.ok()?;
            Some(message)
        };
        timeout(Duration::from_secs(10), read).await.expect("a message or the end")
    }

    pub async fn ask(&mut self, text: &str) -> Vec<u8> {
        self.send(&hex(text)).await;
        self.message().await.unwrap()
    }
}

/// The golden vectors from PRR to PRD, byte for byte, through engine and worker; then a second session hears
/// the notification of the vectors.
#[tokio::test]
async fn the_golden_dialogue() {
    let middlebox = Middlebox::start(with_keys()).await;
    let mut raw = Raw::open(middlebox.address).await;
    let mut second = Raw::open(middlebox.address).await;
    let reply = raw.ask("01110010 00000002 | 000a0004 65110002 | 00070004 0000012c").await;
    assert_eq!(
        reply,
        hex("02110028 00000002 | 00050004 00000001 | 00060004 00000001 | 00070004 0000012c \
             | 0009000c 01201102 9c400002 c6336407")
    );
    let reply = raw
        .ask(
            "01130038 00000003 | 000b0004 03010000 | 0009000c 01201100 138c0002 0a010803 \
             | 0009000c 01201103 00000002 c0000221 | 00070004 0000012c | 00050004 00000001",
        )
        .await;
    assert_eq!(
        reply,
        hex("02120038 00000003 | 00050004 00000001 | 00060004 00000001 | 00070004 0000012c \
             | 0009000c 01201102 9c400002 c6336407 | 0009000c 01201101 00000002 c0000221")
    );
    // PES: the request's tuples and the reply's; what is left of the lifetime; the owner.
    let status = raw.ask("01210008 00000005 | 00050004 00000001").await;
    let expected = hex("02230069 00000005 | 00050004 00000001 | 00060004 00000001 | 000b0004 03010000 \
         | 0009000c 01201100 138c0002 0a010803 | 0009000c 01201101 00000002 c0000221 \
         | 0009000c 01201102 9c400002 c6336407 | 0009000c 01201103 00000002 c0000221 \
         | 00070004 0000012c | 00080005 70726f7879");
    assert_eq!(status, expected);
    let reply = raw.ask("01150010 00000004 | 00050004 00000001 | 00070004 00000000").await;
    assert_eq!(reply, hex("02160000 00000004"));
    for lifetime in ["0000012c", "0000012c", "00000000"] {
        let notification = second.message().await.unwrap();
        assert_eq!(notification[..4], hex("04030010"));
        assert_eq!(notification[8..], hex(&format!("00050004 00000001 | 00070004 {lifetime}")));
    }
    let reply = raw.ask("01030000 00000006").await;
    assert_eq!(reply, hex("02030000 00000006"));
    assert_eq!(raw.message().await, None);
}

/// Several requests in one segment, each with one reply; and one request in many segments.
#[tokio::test]
async fn a_gen_01_pipelined_and_split() {
    let middlebox = Middlebox::start(with_keys()).await;
    let mut raw = Raw::open(middlebox.address).await;
    let list: Vec<u8> =
        (1..=200_u32).flat_map(|tid| [hex("01220000"), tid.to_be_bytes().to_vec()].concat()).collect();
    raw.send(&list).await;
    let mut tids = Vec::new();
    for _ in 0..200 {
        let reply = raw.message().await.unwrap();
        assert_eq!(reply[..4], hex("02220000"));
        tids.push(u32::from_be_bytes(reply[4..8].try_into().unwrap()));
    }
    tids.sort_unstable();
    assert_eq!(tids, (1..=200).collect::<Vec<_>>());
    for octet in hex("01210008 00000300 00050004 00000009") {
        raw.send(&[octet]).await;
        raw.0.flush().await.unwrap();
    }
    assert_eq!(raw.message().await.unwrap(), hex("03430000 00000300"));
}

/// B-AMB-16: an agent that offers nothing sees nothing beyond RFC 4540.
#[tokio::test]
async fn extensions_are_offered_or_not() {
    let middlebox = Middlebox::start(with_keys()).await;
    let (_, established, _n) = agent(&middlebox, "proxy").await;
    // It has no rules of interfaces and no key of tokens: it does not pretend to.
    let supported = Extensions::ALL.without(Extensions::TOKEN.or(Extensions::INTERFACES));
    assert_eq!(established.extensions, Some(supported));
    assert!(established.more.unwrap().groups);
    assert_eq!(established.more.unwrap().max_sessions, 20);
    let bare = agent::Settings { extensions: Extensions::NONE, ..by_key(middlebox.address, "proxy") };
    let (_, established, _n) = Agent::connect(bare).await.unwrap();
    assert_eq!((established.extensions, established.more), (None, None));
    // A strict box: the agent tries again without.
    let session = turnpike_simco::Settings { extensions: Extensions::NONE, ..Default::default() };
    middlebox.server.configure(Settings { session, ..with_keys() });
    let (agent, established, _n) = agent(&middlebox, "proxy").await;
    assert_eq!(established.extensions, None);
    assert_eq!(agent.list(Extensions::NONE).await, Ok(vec![]));
}

//! A connection to a session under test, in virtual time.

use std::cell::Cell;
use std::time::Duration;
use turnpike_simco::{
    Capabilities, Directory, Established, Event, Failure, IpVersions, NotificationIds, Outcome, Refused,
    Reply, Session, Settings, Underlying,
};

/// Octets of a text of hexadecimal digits; anything else in it is passed over.
pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
    assert!(digits.len().is_multiple_of(2), "an odd number of digits: {text}");
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect()
}

/// The box of the golden vectors: FW, NAT, NAPT; I, E, P, S; IPv4 and IPv6; 3600 s.
pub fn golden_box() -> Capabilities {
    Capabilities {
        firewall: true,
        nat: true,
        port_translation: true,
        internal_wildcard: true,
        external_wildcard: true,
        port_wildcard: true,
        persistent: true,
        internal_versions: IpVersions { v4: true, v6: false },
        external_versions: IpVersions { v4: true, v6: false },
        max_lifetime: 3600,
        ..Capabilities::default()
    }
}

/// Knows the agent "proxy" and its key.
#[derive(Debug)]
pub struct Agents {
    pub key: Vec<u8>,
    pub authorized: Cell<Result<(), Failure>>,
    pub random: Cell<u8>,
}

impl Default for Agents {
    fn default() -> Self {
        Self { key: b"sixteen octets k".to_vec(), authorized: Cell::new(Ok(())), random: Cell::new(1) }
    }
}

impl Directory for Agents {
    fn middlebox(&self) -> Vec<u8> {
        b"turnpike-1".to_vec()
    }

    fn key(&self, agent: &[u8]) -> Option<Vec<u8>> {
        (agent == b"proxy").then(|| self.key.clone())
    }

    fn random(&self) -> [u8; 32] {
        self.random.set(self.random.get().wrapping_add(1));
        [self.random.get(); 32]
    }
}

pub struct Peer {
    pub session: Session,
    pub ids: NotificationIds,
    pub agents: Agents,
    pub now: Duration,
}

impl Peer {
    pub fn new(underlying: Underlying) -> Self {
        Self::with(Settings::default(), underlying)
    }

    pub fn with(settings: Settings, underlying: Underlying) -> Self {
        Self {
            session: Session::new(settings, underlying, Duration::ZERO),
            ids: NotificationIds::default(),
            agents: Agents::default(),
            now: Duration::ZERO,
        }
    }

    /// A session in state OPEN, without extensions.
    pub fn open() -> Self {
        let mut peer = Self::new(Underlying::Authenticated("proxy".into()));
        peer.send("01010008 00000001 0001 0004 03000000");
        assert_eq!(peer.said(), ["0201000c00000001"]);
        peer
    }

    /// Sends octets and gives the events they cause.
    pub fn send(&mut self, text: &str) -> Vec<Event> {
        self.send_octets(&hex(text))
    }

    pub fn send_octets(&mut self, octets: &[u8]) -> Vec<Event> {
        self.session.receive(octets, self.now);
        self.events()
    }

    /// What happens; who asks whether an agent is authorized has its answer at once.
    pub fn events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.session.event(self.now, &self.ids, &self.agents) {
            let event = match event {
                Event::Authorize { .. } => {
                    let established = Established { capabilities: golden_box(), ..Established::default() };
                    self.session.authorized(self.agents.authorized.get().map(|()| established))
                }
                event => Some(event),
            };
            events.extend(event);
        }
        events
    }

    /// Lets time pass up to the next deadline, and gives what happens then.
    pub fn expire(&mut self) -> Vec<Event> {
        let deadline = self.session.deadline().expect("a deadline");
        self.now = deadline.checked_sub(Duration::from_nanos(1)).unwrap_or_default();
        assert_eq!(self.events(), [], "before the deadline");
        assert!(self.session.output().is_empty(), "before the deadline");
        self.now = deadline;
        self.events()
    }

    pub fn answer(&mut self, tid: u32, answer: Result<Reply, Refused>) -> Vec<Event> {
        self.session.answer(tid, answer, self.now);
        self.events()
    }

    pub fn output(&mut self) -> Vec<u8> {
        std::mem::take(self.session.output())
    }

    /// The messages since the last call.
    pub fn outcomes(&mut self) -> Vec<(u32, Outcome)> {
        messages(&self.output())
            .iter()
            .map(|octets| Outcome::from_octets(octets).expect("an outcome"))
            .collect()
    }

    /// The headers of the messages since the last call, in hexadecimal.
    pub fn said(&mut self) -> Vec<String> {
        let hex = |octets: &[u8]| octets.iter().map(|octet| format!("{octet:02x}")).collect();
        messages(&self.output()).iter().map(|octets| hex(&octets[..8])).collect()
    }
}

/// A stream cut into messages.
pub fn messages(mut octets: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while !octets.is_empty() {
        let length = 8 + usize::from(u16::from_be_bytes([octets[2], octets[3]]));
        found.push(octets[..length].to_vec());
        octets = &octets[length..];
    }
    found
}

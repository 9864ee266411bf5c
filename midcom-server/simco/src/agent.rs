//! The agent's side of a session: requests and octets go in, replies and notifications come out.

use crate::authentication::{Prover, RANDOM, challenge, token, verify};
use crate::extension::Extensions;
use crate::message::{Incoming, MAX_MESSAGE, Next};
use crate::reply::{Established, Notification, Outcome, Refused, Reply};
use crate::request::{Establish, Request, RuleRequest, sub_type};
use crate::{Malformed, Version};
use std::collections::BTreeMap;

/// A key shared with the middlebox.
#[derive(Clone)]
pub struct Credentials {
    /// The agent's id, at most 255 octets.
    pub id: Vec<u8>,
    /// The key.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("id", &String::from_utf8_lossy(&self.id)).finish_non_exhaustive()
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentEvent {
    /// The session is OPEN.
    Opened(Established),
    /// The reply to a request.
    Answer {
        /// Of the request.
        tid: u32,
        /// What came of it.
        answer: Result<Reply, Refused>,
    },
    /// Unasked.
    Notification(Notification),
    /// The session is over; the connection is to be closed.
    Ended(Ended),
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// The middlebox refused it.
    #[error("the middlebox refuses the session: {} (0x03{:02x})", .0.failure, .0.failure.code())]
    Refused(Refused),
    /// The middlebox did not prove that it knows the key.
    #[error("the middlebox did not prove that it knows the key")]
    NotAuthentic,
    /// It wants a proof, and there is no key.
    #[error("the middlebox asks for authentication, and there is no key for it")]
    NoKey,
    /// ST was answered.
    #[error("terminated")]
    ByAgent,
    /// AST.
    #[error("terminated by the middlebox{}", .0.as_deref().map(|why| format!(": {why}")).unwrap_or_default())]
    ByMiddlebox(Option<String>),
    /// BFM: the middlebox found a message badly formed.
    #[error("the middlebox found a message badly formed")]
    BadlyFormed,
    /// The middlebox sent something that is no SIMCO.
    #[error("the middlebox sent a malformed message: {0}")]
    Malformed(Malformed),
    /// The middlebox answered something that was not asked.
    #[error("the middlebox sent a reply that does not fit the request")]
    Unasked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Establishing,
    Authenticating,
    Open,
    Over,
}

/// A session.
#[derive(Debug)]
pub struct AgentSession {
    state: State,
    credentials: Option<Credentials>,
    /// The agent's challenge as it was sent.
    challenge: Option<Vec<u8>>,
    offered: Option<Extensions>,
    granted: Extensions,
    next_tid: u32,
    /// Sub-types of requests without reply.
    pending: BTreeMap<u32, u8>,
    incoming: Incoming,
    outgoing: Vec<u8>,
}

impl AgentSession {
    /// Begins a session: its SE request is in the output. With credentials the middlebox has to prove itself, and
    /// the agent does if asked; `random` is for the challenge. Without an offer it is SIMCO 3.0 alone.
    #[must_use]
    pub fn new(credentials: Option<Credentials>, random: &[u8; RANDOM], offered: Option<Extensions>) -> Self {
        let challenge = credentials.as_ref().map(|own| challenge(&own.id, random));
        let mut session = Self {
            state: State::Establishing,
            credentials,
            challenge: challenge.clone(),
            offered,
            granted: Extensions::NONE,
            next_tid: 1,
            pending: BTreeMap::new(),
            incoming: Incoming::new(MAX_MESSAGE),
            outgoing: Vec::new(),
        };
        let establish = Establish { version: Version::V3_0, challenge, extensions: offered };
        let sent = session.send(&Request::Establish(establish));
        debug_assert!(sent.is_ok());
        session
    }

    /// True in state OPEN.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Extensions in use.
    #[must_use]
    pub fn granted(&self) -> Extensions {
        self.granted
    }

    /// Requests without reply.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Octets to be written.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.outgoing
    }

    fn send(&mut self, request: &Request) -> Result<Option<u32>, Malformed> {
        // Section 4.2.5: no TID twice within a session. After 2^32 - 1 of them a new session is needed.
        let tid = self.next_tid;
        if tid == u32::MAX {
            return Ok(None);
        }
        request.encode(tid, &mut self.outgoing)?;
        self.next_tid += 1;
        self.pending.insert(tid, request.sub_type());
        Ok(Some(tid))
    }

    /// Sends a request; its TID comes back with the reply. None: the session is not OPEN.
    ///
    /// # Errors
    /// If the message would be too big.
    pub fn request(&mut self, request: &RuleRequest) -> Result<Option<u32>, Malformed> {
        if self.state != State::Open {
            return Ok(None);
        }
        self.send(&Request::Rule(request.clone()))
    }

    /// Asks for the end of the session (ST).
    pub fn terminate(&mut self) {
        if self.state != State::Over {
            let sent = self.send(&Request::Terminate);
            debug_assert!(sent.is_ok());
        }
    }

    /// Takes octets that arrived.
    pub fn receive(&mut self, octets: &[u8]) {
        if self.state != State::Over {
            self.incoming.push(octets);
        }
    }

    /// The next event of the octets received.
    pub fn event(&mut self) -> Option<AgentEvent> {
        while self.state != State::Over {
            let header = match self.incoming.peek() {
                Next::Message(header) => header,
                Next::TooLong(_) => return self.end(Ended::Malformed(Malformed::TooBig)),
                Next::Nothing | Next::Partial => return None,
            };
            let outcome = Outcome::decode(&header, self.incoming.payload(&header));
            self.incoming.consume(&header);
            let event = match outcome {
                Err(malformed) => self.end(Ended::Malformed(malformed)),
                Ok(Outcome::Notification(notification)) => self.notification(notification),
                Ok(Outcome::Negative(refused)) => self.negative(header.tid, refused),
                Ok(Outcome::Positive(reply)) => self.positive(header.tid, reply),
            };
            if event.is_some() {
                return event;
            }
        }
        None
    }

    fn end(&mut self, why: Ended) -> Option<AgentEvent> {
        self.state = State::Over;
        Some(AgentEvent::Ended(why))
    }

    fn notification(&mut self, notification: Notification) -> Option<AgentEvent> {
        match notification {
            Notification::BadlyFormed if !self.is_open() => self.end(Ended::BadlyFormed),
            Notification::SessionTerminated { reason } => self.end(Ended::ByMiddlebox(reason)),
            other => Some(AgentEvent::Notification(other)),
        }
    }

    fn negative(&mut self, tid: u32, refused: Refused) -> Option<AgentEvent> {
        if self.pending.remove(&tid).is_none() {
            return self.end(Ended::Unasked);
        }
        if self.state == State::Open {
            Some(AgentEvent::Answer { tid, answer: Err(refused) })
        } else {
            self.end(Ended::Refused(refused))
        }
    }

    fn positive(&mut self, tid: u32, reply: Reply) -> Option<AgentEvent> {
        let Some(asked) = self.pending.remove(&tid) else { return self.end(Ended::Unasked) };
        if !answers(asked, &reply) {
            return self.end(Ended::Unasked);
        }
        match (self.state, reply) {
            (_, Reply::Terminated) => self.end(Ended::ByAgent),
            (State::Establishing, Reply::Established(_)) if self.challenge.is_some() => {
                self.end(Ended::NotAuthentic)
            }
            (State::Establishing | State::Authenticating, Reply::Established(established)) => {
                self.granted =
                    established.extensions.unwrap_or_default().and(self.offered.unwrap_or_default());
                self.state = State::Open;
                Some(AgentEvent::Opened(established))
            }
            (State::Establishing, Reply::Authenticate { challenge, token }) => {
                self.authenticate(challenge, token)
            }
            (State::Open, reply) => Some(AgentEvent::Answer { tid, answer: Ok(reply) }),
            _ => self.end(Ended::Unasked),
        }
    }

    fn authenticate(&mut self, middleboxs: Option<Vec<u8>>, claimed: Option<Vec<u8>>) -> Option<AgentEvent> {
        let answer = match (&self.credentials, &self.challenge) {
            (Some(own), Some(agents)) => {
                let middleboxs_octets = middleboxs.clone().unwrap_or_default();
                let claimed = claimed.unwrap_or_default();
                if !verify(Prover::Middlebox, &own.key, agents, &middleboxs_octets, &claimed) {
                    return self.end(Ended::NotAuthentic);
                }
                middleboxs.map(|middleboxs| token(Prover::Agent, &own.key, agents, &middleboxs))
            }
            _ if middleboxs.is_some() => return self.end(Ended::NoKey),
            _ => None,
        };
        self.state = State::Authenticating;
        match self.send(&Request::Authenticate { token: answer }) {
            Ok(_) => None,
            Err(malformed) => self.end(Ended::Malformed(malformed)),
        }
    }
}

/// True if the reply is one of those that the request may have.
fn answers(asked: u8, reply: &Reply) -> bool {
    match reply {
        Reply::Established(_) => matches!(asked, sub_type::SE | sub_type::SA),
        Reply::Authenticate { .. } => asked == sub_type::SE,
        Reply::Terminated => asked == sub_type::ST,
        Reply::Reserved(_) => asked == sub_type::PRR,
        Reply::Enabled(_) => matches!(asked, sub_type::PER | sub_type::PEA),
        Reply::Disabled { .. } => asked == sub_type::PDR,
        Reply::LifetimeChanged { .. } | Reply::Deleted => asked == sub_type::PLC,
        Reply::ReserveStatus(..) | Reply::EnableStatus(_) | Reply::DisableStatus { .. } => {
            asked == sub_type::PRS
        }
        Reply::Rules { .. } => asked == sub_type::PRL,
        Reply::GroupLifetimeChanged { .. } => asked == sub_type::GLC,
        Reply::Groups(_) => asked == sub_type::GL,
        Reply::GroupStatus { .. } => asked == sub_type::GS,
    }
}

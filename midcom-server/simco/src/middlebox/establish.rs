//! SE and SA (RFC 4540 sections 7.2 and 7.3).

use super::{Directory, Event, Session, State, Underlying};
use crate::authentication::{Prover, author, challenge, token, verify};
use crate::extension::Extensions;
use crate::reply::{Established, Outcome, Reply};
use crate::request::Establish;
use crate::{Failure, Version};

/// What NOAUTH remembers.
#[derive(Debug)]
pub(super) struct Challenged {
    /// The offer of the SE request.
    offered: Option<Extensions>,
    proof: Proof,
}

/// What is remembered until it is known whether the agent is authorized.
#[derive(Debug)]
pub(super) struct Deciding {
    tid: u32,
    /// The offer of the SE request.
    offered: Option<Extensions>,
    /// Goes into an SA reply; none: an SE reply follows.
    token: Option<Vec<u8>>,
}

#[derive(Debug)]
enum Proof {
    /// The connection has said who the agent is; only the agent wanted an answer.
    Underlying,
    /// The agent has to answer. None: its id is unknown, and it fails like with a wrong key.
    Token { key: Option<Vec<u8>>, agents: Vec<u8>, middleboxs: Vec<u8> },
}

impl Session {
    pub(super) fn establish(
        &mut self,
        tid: u32,
        establish: Establish,
        directory: &impl Directory,
    ) -> Option<Event> {
        // Section 7.2 in its order; each of these closes the connection (B-SES-02).
        let insufficient = match &self.underlying {
            Underlying::NoResources => Some(Failure::LackOfResources),
            Underlying::Unacceptable => Some(Failure::TransportProblem),
            Underlying::Insufficient => Some(Failure::InsufficientSecurity),
            // Without the agent's challenge there is no name to look a key up by (B-SEC-02).
            Underlying::Challenge if establish.challenge.is_none() => Some(Failure::InsufficientSecurity),
            Underlying::Challenge | Underlying::Authenticated(_) => None,
        };
        if let Some(failure) = insufficient {
            return self.refuse(tid, failure);
        }
        if establish.version != Version::V3_0 {
            return self.refuse(tid, Failure::VersionMismatch);
        }
        if establish.extensions.is_some() && self.settings.extensions == Extensions::NONE {
            return self.refuse(tid, Failure::BadlyFormed);
        }
        if let Underlying::Authenticated(agent) = self.underlying.clone() {
            // The middlebox proves itself if it shares a key, else it says that it cannot: by an empty token.
            let token = establish.challenge.map(|agents| {
                let key = author(&agents).and_then(|id| directory.key(id));
                key.map_or_else(Vec::new, |key| token(Prover::Middlebox, &key, &agents, &[]))
            });
            self.agent = Some(agent.clone());
            let open = token.is_none();
            let deciding = Deciding { tid, offered: establish.extensions, token };
            self.state = State::Deciding(Box::new(deciding));
            return Some(Event::Authorize { agent, open });
        }
        let agents = establish.challenge.unwrap_or_default();
        let id = author(&agents);
        self.agent = id.map(|id| String::from_utf8_lossy(id).into_owned());
        let key = id.and_then(|id| directory.key(id));
        let middleboxs = challenge(&directory.middlebox(), &directory.random());
        // Who does not know the agent answers no differently: the token is then of a key that nobody has.
        let answers = key.clone().unwrap_or_else(|| directory.random().to_vec());
        let token = token(Prover::Middlebox, &answers, &agents, &middleboxs);
        self.send(
            tid,
            &Outcome::Positive(Reply::Authenticate {
                challenge: Some(middleboxs.clone()),
                token: Some(token),
            }),
        );
        let proof = Proof::Token { key, agents, middleboxs };
        self.state = State::NoAuth(Box::new(Challenged { offered: establish.extensions, proof }));
        None
    }

    pub(super) fn authenticate(
        &mut self,
        tid: u32,
        claimed: Option<Vec<u8>>,
        directory: &impl Directory,
    ) -> Option<Event> {
        let challenged = match std::mem::replace(&mut self.state, State::Closed) {
            State::NoAuth(challenged) => challenged,
            other => {
                self.state = other;
                return self.refuse_and(tid, Failure::NotApplicable, true);
            }
        };
        let authentic = match &challenged.proof {
            Proof::Underlying => true,
            Proof::Token { key, agents, middleboxs } => {
                let known = key.is_some();
                let key = key.clone().unwrap_or_else(|| directory.random().to_vec());
                let claimed = claimed.unwrap_or_default();
                verify(Prover::Agent, &key, agents, middleboxs, &claimed) && known
            }
        };
        if !authentic {
            return self.refuse(tid, Failure::AuthenticationFailed);
        }
        let deciding = Deciding { tid, offered: challenged.offered, token: None };
        self.state = State::Deciding(Box::new(deciding));
        Some(Event::Authorize { agent: self.agent.clone().unwrap_or_default(), open: true })
    }

    /// Whether the agent may configure the middlebox, and what it is told of it; else 0x0324, or 0x0321 if it has
    /// too many sessions. Gives the event that follows.
    pub fn authorized(&mut self, answer: Result<Established, Failure>) -> Option<Event> {
        let deciding = match std::mem::replace(&mut self.state, State::Closed) {
            State::Deciding(deciding) => deciding,
            other => {
                self.state = other;
                return None;
            }
        };
        if self.over.is_some() {
            return None;
        }
        let Deciding { tid, offered, token } = *deciding;
        let established = match answer {
            Ok(established) => established,
            Err(failure) => return self.refuse(tid, failure),
        };
        if token.is_none() {
            return self.open(tid, established, offered);
        }
        self.send(tid, &Outcome::Positive(Reply::Authenticate { challenge: None, token }));
        self.state = State::NoAuth(Box::new(Challenged { offered, proof: Proof::Underlying }));
        None
    }

    fn open(&mut self, tid: u32, mut established: Established, offered: Option<Extensions>) -> Option<Event> {
        // Of what is known about the box, tell what the agent understands; nothing but RFC 4540 without an offer.
        self.granted = offered.unwrap_or_default().and(self.settings.extensions);
        established.extensions = offered.map(|_| self.granted);
        if !self.granted.has(Extensions::MORE_CAPABILITIES) {
            established.more = None;
        }
        if !self.granted.has(Extensions::REALM) {
            established.realms.clear();
        }
        self.state = State::Open;
        self.send(tid, &Outcome::Positive(Reply::Established(established)));
        Some(Event::Opened { agent: self.agent.clone().unwrap_or_default() })
    }
}

//! The middlebox's side of a session (RFC 4540 sections 6 and 7): octets and time go in, replies and requests for
//! the policy engine come out.

mod establish;

use crate::extension::Extensions;
use crate::message::{HEADER, Header, Incoming, Next, basic};
use crate::reply::{Notification, Outcome, Refused, Reply};
use crate::request::{Request, RuleRequest, known, sub_type};
use crate::{Failure, Malformed};
use establish::{Challenged, Deciding};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Bounds and choices of a session.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Octets of a request, header included (B-FMT-01).
    pub max_request: usize,
    /// Requests that may wait for their replies; no more is read until one is answered.
    pub pipelining: usize,
    /// The longest pause within a message (B-FMT-02).
    pub pause: Duration,
    /// The longest time a message may take from its first octet to its last.
    pub message: Duration,
    /// The longest time from the connection to OPEN.
    pub establish: Duration,
    /// Extensions that are granted to who offers them. None: a strict SIMCO 3.0 middlebox.
    pub extensions: Extensions,
    /// SA and ST of a connection without session are answered 0x0320 (RFC 4540 sections 7.3 and 7.4), otherwise
    /// 0x0311 (section 6). Either way the connection is closed (B-AMB-03).
    pub early_not_applicable: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_request: 8192,
            pipelining: 64,
            pause: Duration::from_secs(60),
            message: Duration::from_secs(120),
            establish: Duration::from_secs(30),
            extensions: Extensions::ALL,
            early_not_applicable: true,
        }
    }
}

/// What is known of the connection when the session begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Underlying {
    /// TLS or IPsec says who the agent is.
    Authenticated(String),
    /// It says nothing: the agent has to answer a challenge.
    Challenge,
    /// It says nothing, and that is not enough: 0x0326.
    Insufficient,
    /// The middlebox has no room for it: 0x0321.
    NoResources,
    /// It is not acceptable: 0x0325.
    Unacceptable,
}

/// What the session asks of its surroundings.
pub trait Directory {
    /// The middlebox's own id.
    fn middlebox(&self) -> Vec<u8>;
    /// The key shared with the agent of this id, if there is one.
    fn key(&self, agent: &[u8]) -> Option<Vec<u8>>;
    /// Octets that nobody can foretell.
    fn random(&self) -> [u8; 32];
}

/// Identifiers of notifications, different in all sessions of a middlebox (A-GEN-04).
#[derive(Debug)]
pub struct NotificationIds(AtomicU32);

impl Default for NotificationIds {
    fn default() -> Self {
        Self(AtomicU32::new(0x8000_0001))
    }
}

impl NotificationIds {
    fn next(&self) -> u32 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// What the surroundings have to know or do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// May this agent configure the middlebox? [`Session::authorized`] wants to know.
    Authorize {
        /// Who it is, proven.
        agent: String,
        /// The session will be OPEN then; otherwise it is only asked, and asked again.
        open: bool,
    },
    /// The session is OPEN.
    Opened {
        /// Who it is.
        agent: String,
    },
    /// A request for the policy engine; [`Session::answer`] it.
    Request {
        /// Its transaction identifier.
        tid: u32,
        /// What is asked.
        request: RuleRequest,
    },
    /// A message was refused before it came so far.
    Refused {
        /// With which code.
        failure: Failure,
        /// Who the agent says it is, proven only if the session is OPEN.
        claimed: Option<String>,
    },
    /// Nothing more is read; the connection is to be closed once the output is written.
    Closed(Closed),
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// ST.
    #[error("terminated by the agent")]
    ByAgent,
    /// AST.
    #[error("terminated by the middlebox")]
    ByMiddlebox,
    /// A negative reply that ends the connection.
    #[error("refused: {0}")]
    Refused(Failure),
    /// BFM: a message longer than accepted.
    #[error("a message of {0} octets is too long")]
    TooLong(usize),
    /// BFM: a message that was not completed.
    #[error("a message was not completed in time")]
    Stalled,
    /// No session was established in time.
    #[error("no session was established in time")]
    Idle,
}

#[derive(Debug)]
enum State {
    Closed,
    /// Until the surroundings know whether the agent is authorized; nothing is read meanwhile.
    Deciding(Box<Deciding>),
    NoAuth(Box<Challenged>),
    Open,
}

/// What is sent when the last pending request is answered.
#[derive(Debug)]
enum Farewell {
    Terminated(u32),
    Terminate(Option<String>),
    BadlyFormed(Closed),
}

/// A session.
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    underlying: Underlying,
    state: State,
    agent: Option<String>,
    granted: Extensions,
    incoming: Incoming,
    outgoing: Vec<u8>,
    pending: usize,
    farewell: Option<Farewell>,
    over: Option<Closed>,
    told: bool,
    began: Duration,
    last_octet: Duration,
    message_began: Option<Duration>,
}

impl Session {
    /// A connection that was just made; `now` is of any clock that does not go back.
    #[must_use]
    pub fn new(settings: Settings, underlying: Underlying, now: Duration) -> Self {
        Self {
            incoming: Incoming::new(settings.max_request),
            settings,
            underlying,
            state: State::Closed,
            agent: None,
            granted: Extensions::NONE,
            outgoing: Vec::new(),
            pending: 0,
            farewell: None,
            over: None,
            told: false,
            began: now,
            last_octet: now,
            message_began: None,
        }
    }

    /// Takes octets that arrived. Hand in no more than one read's worth before [`Session::event`] returns none.
    pub fn receive(&mut self, octets: &[u8], now: Duration) {
        if self.over.is_some() || self.farewell.is_some() || octets.is_empty() {
            return;
        }
        self.last_octet = now;
        self.message_began.get_or_insert(now);
        self.incoming.push(octets);
    }

    fn may_go_on(&self) -> bool {
        self.over.is_none()
            && self.farewell.is_none()
            && self.pending < self.settings.pipelining
            && !matches!(self.state, State::Deciding(_))
    }

    /// False while enough requests wait for their answers, and at the end.
    #[must_use]
    pub fn wants_octets(&self) -> bool {
        self.may_go_on() && self.incoming.len() < self.settings.max_request + HEADER
    }

    /// True in state OPEN.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open) && self.over.is_none()
    }

    /// Who the agent is, once it is authenticated.
    #[must_use]
    pub fn agent(&self) -> Option<&str> {
        self.agent.as_deref().filter(|_| matches!(self.state, State::Open))
    }

    /// Extensions in use.
    #[must_use]
    pub fn granted(&self) -> Extensions {
        self.granted
    }

    /// Requests that wait for their answers.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// Why it ended, once nothing more will be sent.
    #[must_use]
    pub fn over(&self) -> Option<Closed> {
        self.over
    }

    /// Octets to be written.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.outgoing
    }

    /// When [`Session::event`] has to be called although nothing arrives.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        if self.over.is_some() || self.farewell.is_some() {
            return None;
        }
        let establish = (!self.is_open()).then(|| self.began + self.settings.establish);
        let message = self
            .message_began
            .filter(|_| self.wants_octets())
            .map(|began| (self.last_octet + self.settings.pause).min(began + self.settings.message));
        [establish, message].into_iter().flatten().min()
    }

    /// The next event, after octets have arrived, a request was answered or the deadline has come.
    pub fn event(
        &mut self,
        now: Duration,
        ids: &NotificationIds,
        directory: &impl Directory,
    ) -> Option<Event> {
        while self.may_go_on() {
            match self.incoming.peek() {
                Next::Message(header) => {
                    let event = self.message(&header, now, directory);
                    self.message_began = (self.incoming.len() > 0).then_some(now);
                    if event.is_some() {
                        return event;
                    }
                }
                // Section 6, 1): the header is not consistent with what may be sent.
                Next::TooLong(header) => {
                    self.farewell =
                        Some(Farewell::BadlyFormed(Closed::TooLong(HEADER + usize::from(header.length))));
                }
                Next::Nothing => {
                    self.message_began = None;
                    self.expire(now, Closed::Idle);
                    break;
                }
                Next::Partial => {
                    self.expire(now, Closed::Stalled);
                    break;
                }
            }
        }
        if matches!(self.state, State::Deciding(_)) {
            self.expire(now, Closed::Idle);
        }
        self.part(ids);
        match self.over {
            Some(why) if !self.told => {
                self.told = true;
                Some(Event::Closed(why))
            }
            _ => None,
        }
    }

    /// Section 6, 2), and the bound on the time to OPEN.
    fn expire(&mut self, now: Duration, why: Closed) {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        match why {
            Closed::Stalled => self.farewell = Some(Farewell::BadlyFormed(why)),
            _ => self.over = Some(why),
        }
    }

    /// Says farewell once every processed request has its reply (section 7.5).
    fn part(&mut self, ids: &NotificationIds) {
        if self.pending > 0 || self.over.is_some() {
            return;
        }
        let Some(farewell) = self.farewell.take() else { return };
        match farewell {
            Farewell::Terminated(tid) => {
                self.send(tid, &Outcome::Positive(Reply::Terminated));
                self.over = Some(Closed::ByAgent);
            }
            Farewell::Terminate(reason) => {
                self.say_terminated(ids, reason);
                self.over = Some(Closed::ByMiddlebox);
            }
            Farewell::BadlyFormed(why) => {
                self.send(ids.next(), &Outcome::Notification(Notification::BadlyFormed));
                if matches!(self.state, State::Open) {
                    self.say_terminated(ids, Some(why.to_string()));
                }
                self.over = Some(why);
            }
        }
        self.incoming.clear();
    }

    fn say_terminated(&mut self, ids: &NotificationIds, reason: Option<String>) {
        let reason = reason.filter(|_| self.granted.has(Extensions::REASON));
        self.send(ids.next(), &Outcome::Notification(Notification::SessionTerminated { reason }));
    }

    fn send(&mut self, tid: u32, outcome: &Outcome) {
        if let Err(error) = outcome.encode(tid, &mut self.outgoing) {
            // A list beyond section 8.7's limit is the only message that can be too big.
            debug_assert_eq!(error, Malformed::TooBig);
            let too_big = Outcome::Negative(Refused::from(Failure::ReplyTooBig));
            let fits = too_big.encode(tid, &mut self.outgoing);
            debug_assert!(fits.is_ok());
        }
    }

    /// Refuses; closes the connection unless a session is established.
    fn refuse(&mut self, tid: u32, failure: Failure) -> Option<Event> {
        let stays = matches!(self.state, State::Open);
        self.refuse_and(tid, failure, stays)
    }

    fn refuse_and(&mut self, tid: u32, failure: Failure, stays: bool) -> Option<Event> {
        self.send(tid, &Outcome::Negative(Refused::from(failure)));
        if !stays {
            self.over = Some(Closed::Refused(failure));
        }
        Some(Event::Refused { failure, claimed: self.agent.clone() })
    }

    /// Section 6, 3) to 6).
    fn message(&mut self, header: &Header, now: Duration, directory: &impl Directory) -> Option<Event> {
        let decoded = self.check(header);
        self.incoming.consume(header);
        let request = match decoded {
            Ok(request) => request,
            Err((failure, stays)) => return self.refuse_and(header.tid, failure, stays),
        };
        match request {
            Request::Establish(establish) => self.establish(header.tid, establish, directory),
            Request::Authenticate { token } => self.authenticate(header.tid, token, directory),
            Request::Terminate => {
                self.farewell = Some(Farewell::Terminated(header.tid));
                None
            }
            Request::Rule(request) => {
                self.pending += 1;
                self.last_octet = now;
                Some(Event::Request { tid: header.tid, request })
            }
        }
    }

    /// The request of the message, or the code it is refused with and whether the connection stays.
    fn check(&self, header: &Header) -> Result<Request, (Failure, bool)> {
        let open = matches!(self.state, State::Open);
        if header.basic != basic::REQUEST {
            return Err((Failure::WrongBasicType, open));
        }
        // Sub-types by state, sections 6, 4) and 7 (B-AMB-01 to B-AMB-04).
        let known = known(header.sub_type, self.granted);
        match (&self.state, header.sub_type) {
            (State::Closed, sub_type::SE) => {}
            (State::Closed, sub_type::SA | sub_type::ST) if self.settings.early_not_applicable => {
                return Err((Failure::NotApplicable, false));
            }
            (State::Closed | State::Deciding(_), _) => return Err((Failure::WrongSubType, false)),
            (_, _) if !known => return Err((Failure::WrongSubType, open)),
            (State::NoAuth(_), sub_type::SE..=sub_type::ST) | (State::Open, _) => {}
            (State::NoAuth(_), _) => return Err((Failure::NotApplicable, true)),
        }
        let request = Request::decode(header.sub_type, self.incoming.payload(header), self.granted)
            .map_err(|malformed| (Failure::from(malformed), open))?;
        match (&self.state, &request) {
            (State::NoAuth(_) | State::Open, Request::Establish(_))
            | (State::Open, Request::Authenticate { .. }) => Err((Failure::NotApplicable, true)),
            _ => Ok(request),
        }
    }

    /// The answer of a request that was handed out.
    pub fn answer(&mut self, tid: u32, answer: Result<Reply, Refused>, now: Duration) {
        if self.pending == 0 {
            return;
        }
        self.pending -= 1;
        // The agent could not go on while nothing was read.
        self.last_octet = self.last_octet.max(now);
        match answer {
            Ok(reply) => self.send(tid, &Outcome::Positive(reply)),
            Err(mut refused) => {
                refused.reason = refused.reason.filter(|_| self.granted.has(Extensions::REASON));
                self.send(tid, &Outcome::Negative(refused));
            }
        }
    }

    /// Tells the agent, if its session is OPEN and it understands this notification.
    pub fn notify(&mut self, notification: Notification, ids: &NotificationIds) {
        let needs = match &notification {
            Notification::Group { .. } => Extensions::GROUPS,
            Notification::Expiring { .. } => Extensions::EXPIRY_NOTICE,
            _ => Extensions::NONE,
        };
        if !self.is_open() || !self.granted.has(needs) {
            return;
        }
        let notification = match notification {
            Notification::Rule { rule, lifetime, reason } => {
                let reason = reason.filter(|_| self.granted.has(Extensions::REASON));
                Notification::Rule { rule, lifetime, reason }
            }
            other => other,
        };
        self.send(ids.next(), &Outcome::Notification(notification));
    }

    /// Terminates the session (AST) once the requests handed out are answered; without one, the connection.
    pub fn terminate(&mut self, reason: Option<String>) {
        if self.over.is_some() || self.farewell.is_some() {
            return;
        }
        match self.state {
            State::Closed | State::Deciding(_) => self.over = Some(Closed::ByMiddlebox),
            State::NoAuth(_) | State::Open => self.farewell = Some(Farewell::Terminate(reason)),
        }
    }

    /// The same when no more answers will come: requests that were handed out stay without reply.
    pub fn terminate_at_once(&mut self, reason: Option<String>) {
        self.pending = 0;
        self.terminate(reason);
    }
}

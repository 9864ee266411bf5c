//! One connection: octets between the socket and the session machine, requests between that and the policy engine.

use crate::certificate::names;
use crate::guard::{Counters, HalfOpen};
use crate::permit::{self, Permit, Time};
use crate::server::{Inner, Known, Settings};
use crate::translate::{self, Asked, Reading};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;
use turnpike_gateway::{Said, SessionAbout, SessionCounters};
use turnpike_policy::{Agent, Event as Happened, Front, Refusal, Requester, SessionEnd};
use turnpike_simco::{
    Capabilities, Closed, Established, Event, Failure, Notification, Refused, RuleRequest, Session,
    Underlying,
};

/// Octets of a read.
const READ: usize = 4096;
/// Requests taken, or replies passed on, before other connections have their turn: a session that sends many holds up
/// those of others by so many, at each of their steps.
const SHARE: usize = 2;
/// After the last message, so long may the agent take to read it before the connection is reset.
const LINGER: Duration = Duration::from_secs(2);
/// Octets that are thrown away meanwhile.
const LINGERING: usize = 64 * 1024;

/// What carries the octets.
#[derive(Debug)]
pub(crate) enum Transport {
    /// TLS with a certificate of these names.
    Tls { version: String, names: Vec<String> },
    /// Clear text of a source that may.
    ClearText,
    /// Clear text of a source that may not.
    Insufficient,
}

impl Transport {
    pub(crate) fn tls(connection: &rustls::ServerConnection) -> Self {
        let version = connection.protocol_version().map_or_else(|| "TLS".to_owned(), |v| format!("{v:?}"));
        let certificate = connection.peer_certificates().and_then(|chain| chain.first());
        Self::Tls { version, names: certificate.map(names).unwrap_or_default() }
    }

    fn security(&self) -> String {
        match self {
            Self::Tls { version, .. } => version.clone(),
            Self::ClearText | Self::Insufficient => "none".to_owned(),
        }
    }
}

/// A connection that has just been accepted.
#[derive(Debug)]
pub(crate) struct Connection {
    inner: Arc<Inner>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) peer: SocketAddr,
    half_open: Option<HalfOpen>,
    counters: Arc<SessionCounters>,
    security: String,
    gateway: Option<turnpike_gateway::Session>,
    middlebox: Capabilities,
    /// Requests at the engine, by the numbers they have there.
    asked: HashMap<u32, (u32, Asked)>,
    next: u32,
}

impl Connection {
    pub(crate) fn new(
        inner: Arc<Inner>,
        settings: Arc<Settings>,
        peer: SocketAddr,
        half_open: HalfOpen,
    ) -> Self {
        Self {
            inner,
            settings,
            peer,
            half_open: Some(half_open),
            counters: Arc::default(),
            security: String::new(),
            gateway: None,
            middlebox: Capabilities::default(),
            asked: HashMap::new(),
            next: 1,
        }
    }

    fn now(&self) -> Duration {
        self.inner.start.elapsed()
    }

    /// Counts a failure against the source, and says so in the log.
    fn failed(&self, agent: Option<&str>, why: &str) {
        let limits = &self.settings.limits;
        let blocked = self.inner.guard.failed(self.peer.ip(), limits, Instant::now());
        let agent = agent.unwrap_or("unknown");
        tracing::warn!(peer = %self.peer, agent, security = self.security, "SIMCO session refused: {why}");
        if blocked {
            let seconds = limits.period.as_secs();
            tracing::warn!(peer = %self.peer.ip(), seconds, "SIMCO: the source is refused after {} failures", limits.failures);
        }
    }

    pub(crate) fn handshake_failed(&self, why: &str) {
        Counters::add(&self.inner.guard.counters.handshakes_failed);
        self.failed(None, &format!("TLS handshake: {why}"));
    }

    /// The name under which the agent is configured; if none is, the first, which is then refused.
    async fn identity(&self, names: &[String]) -> Option<String> {
        for name in names {
            let agent = Agent::new(Front::Simco, name);
            match self.inner.gateway.may_session(agent).await {
                Err(Refusal::UnknownAgent(_)) => {}
                _ => return Some(name.clone()),
            }
        }
        names.first().cloned()
    }

    /// Runs the session to its end.
    pub(crate) async fn run<S: AsyncRead + AsyncWrite + Unpin>(
        mut self,
        mut stream: S,
        transport: Transport,
    ) {
        self.security = transport.security();
        let underlying = match transport {
            Transport::Tls { names, .. } => match self.identity(&names).await {
                Some(name) => Underlying::Authenticated(name),
                None => {
                    self.failed(None, "the certificate names nobody");
                    Underlying::Insufficient
                }
            },
            Transport::ClearText => Underlying::Challenge,
            Transport::Insufficient => Underlying::Insufficient,
        };
        let supported = translate::supported(self.settings.token_key.is_some());
        let extensions = self.settings.session.extensions.and(supported);
        let session = turnpike_simco::Settings { extensions, ..self.settings.session.clone() };
        let mut session = Session::new(session, underlying, self.now());
        let mut octets = vec![0; READ];
        loop {
            self.settle(&mut session).await;
            let output = std::mem::take(session.output());
            if !output.is_empty() && !self.write(&mut stream, &output).await {
                return;
            }
            if session.over().is_some() {
                return depart(stream).await;
            }
            let wake = session.deadline().map(|deadline| self.inner.start + deadline);
            tokio::select! {
                read = stream.read(&mut octets), if session.wants_octets() => match read {
                    Ok(0) | Err(_) => return self.lost(&session),
                    Ok(count) => session.receive(octets.get(..count).unwrap_or_default(), self.now()),
                },
                said = next(self.gateway.as_mut()) => self.said(&mut session, said),
                () = until(wake) => {}
            }
            // What else was said meanwhile goes out in the same write; others have their turns between.
            let mut answered = 1;
            while let Some(said) = self.gateway.as_mut().and_then(turnpike_gateway::Session::try_next) {
                self.said(&mut session, Some(said));
                answered += 1;
                if answered % SHARE == 0 {
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    async fn write<S: AsyncWrite + Unpin>(&self, stream: &mut S, output: &[u8]) -> bool {
        let write = async {
            stream.write_all(output).await?;
            stream.flush().await
        };
        match timeout(self.settings.limits.write, write).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::debug!(peer = %self.peer, %error, "SIMCO connection lost");
                false
            }
            Err(_) => {
                tracing::warn!(peer = %self.peer, "SIMCO connection closed: the agent does not read");
                false
            }
        }
    }

    /// RFC 4540 section 7.6: the session ends, its rules live on.
    fn lost(&self, session: &Session) {
        let agent = session.agent().unwrap_or("none");
        tracing::debug!(peer = %self.peer, agent, "SIMCO connection closed by the agent");
    }

    /// Carries out what the session wants, until it waits.
    async fn settle(&mut self, session: &mut Session) {
        let settings = Arc::clone(&self.settings);
        let inner = Arc::clone(&self.inner);
        let known = Known { settings: &settings, random: &inner.random };
        let (mut follows, mut asked) = (None, 0);
        while let Some(event) = follows.take().or_else(|| session.event(self.now(), &inner.ids, &known)) {
            match event {
                Event::Authorize { agent, open } => {
                    let answer = self.authorize(&agent, open).await;
                    follows = session.authorized(answer);
                }
                Event::Opened { agent } => {
                    self.half_open = None;
                    Counters::add(&inner.guard.counters.sessions);
                    tracing::info!(peer = %self.peer, agent, security = self.security, "SIMCO session open");
                }
                Event::Request { tid, request } => {
                    self.ask(session, tid, &request).await;
                    asked += 1;
                    if asked % SHARE == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                Event::Refused { failure, claimed } => self.refused(failure, claimed.as_deref()),
                Event::Closed(why) => {
                    if matches!(why, Closed::TooLong(_) | Closed::Stalled) {
                        Counters::add(&inner.guard.counters.malformed);
                    }
                    let agent = session.agent().unwrap_or("none");
                    tracing::info!(peer = %self.peer, agent, "SIMCO session closed: {why}");
                    // Requests that are still there are not begun (RFC 5189 2.2.2).
                    self.gateway = None;
                }
            }
        }
    }

    fn refused(&self, failure: Failure, claimed: Option<&str>) {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
        match failure {
            Failure::AuthenticationFailed | Failure::NoAuthorization | Failure::InsufficientSecurity => {
                Counters::add(&self.inner.guard.counters.authentications_failed);
                self.failed(claimed, &failure.to_string());
            }
            Failure::LackOfResources | Failure::VersionMismatch | Failure::TransportProblem => {
                let agent = claimed.unwrap_or("unknown");
                tracing::warn!(peer = %self.peer, agent, "SIMCO session refused: {failure}");
            }
            _ => Counters::add(&self.inner.guard.counters.malformed),
        }
    }

    async fn authorize(&mut self, agent: &str, open: bool) -> Result<Established, Failure> {
        let agent = Agent::new(Front::Simco, agent);
        let known = if open {
            let about = SessionAbout {
                peer: self.peer.to_string(),
                security: self.security.clone(),
                counters: Arc::clone(&self.counters),
            };
            let session = self.inner.gateway.open(agent, about).await;
            session.map(|session| self.gateway.insert(session).capabilities().clone())
        } else {
            self.inner.gateway.may_session(agent).await
        };
        let known = known.map_err(|refusal| match refusal {
            Refusal::Sessions { .. } | Refusal::Busy => Failure::LackOfResources,
            _ => Failure::NoAuthorization,
        })?;
        let established = translate::capabilities(&known);
        self.middlebox = established.capabilities;
        Ok(established)
    }

    /// What the request's token permits, if it has one.
    fn permit(&self, request: &RuleRequest) -> Result<Option<Permit>, Refused> {
        let (Some(token), Some(key)) = (translate::token(request), &self.settings.token_key) else {
            return Ok(None);
        };
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = Time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        permit::open(token, key, now).map(Some).map_err(|why| {
            tracing::info!(peer = %self.peer, "SIMCO request refused: {why}");
            Refused { reason: Some(why.to_string()), ..Refused::from(Failure::NotAuthorized) }
        })
    }

    async fn ask(&mut self, session: &mut Session, tid: u32, request: &RuleRequest) {
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        let reading = Reading { lenient_nat_mode: self.settings.lenient_nat_mode };
        let permit = self.permit(request);
        let translated = permit.and_then(|permit| {
            let (request, asked) = translate::request(request, &self.middlebox, reading)?;
            Ok((request, asked, permit))
        });
        let refused = match (translated, &self.gateway) {
            (Ok((request, asked, permit)), Some(gateway)) => {
                let transaction = self.next;
                self.next = self.next.wrapping_add(1);
                self.asked.insert(transaction, (tid, asked));
                let by = Requester { permit, ..gateway.requester().from_host(self.peer.ip()) };
                match gateway.call(by, transaction, request).await {
                    Ok(()) => return,
                    Err(refusal) => {
                        self.asked.remove(&transaction);
                        Refused::from(translate::failure(&refusal))
                    }
                }
            }
            (Ok(_), None) => Refused::from(Failure::ConfigurationFailed),
            (Err(refused), _) => refused,
        };
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
        session.answer(tid, Err(refused), self.now());
    }

    /// The engine's word; none: it says no more.
    fn said(&mut self, session: &mut Session, said: Option<Said>) {
        let now = self.now();
        match said {
            Some(Said::Reply { transaction, answer }) => {
                let Some((tid, asked)) = self.asked.remove(&transaction) else { return };
                let answer = translate::answer(&asked, answer);
                if answer.is_err() {
                    self.counters.refused.fetch_add(1, Ordering::Relaxed);
                }
                session.answer(tid, answer, now);
            }
            Some(Said::Notification(notification)) => {
                self.counters.notifications.fetch_add(1, Ordering::Relaxed);
                let notification = match notification.event {
                    Happened::Rule { rule, lifetime } => {
                        Notification::Rule { rule: rule.0, lifetime: lifetime.0, reason: None }
                    }
                    Happened::Group { group, lifetime } => {
                        Notification::Group { group: group.0, lifetime: lifetime.0 }
                    }
                    Happened::Expiring { rule, lifetime } => {
                        Notification::Expiring { rule: rule.0, lifetime: lifetime.0 }
                    }
                    Happened::SessionEnded(why) => {
                        let reason = match why {
                            SessionEnd::NotAuthorized => "the agent is no longer configured",
                            SessionEnd::Operator => "terminated by the operator",
                            SessionEnd::Stopping => "the control plane is stopping",
                        };
                        self.asked.clear();
                        return session.terminate_at_once(Some(reason.to_owned()));
                    }
                };
                session.notify(notification, &self.inner.ids);
            }
            None => {
                self.gateway = None;
                self.asked.clear();
                session.terminate_at_once(Some("the policy engine is gone".to_owned()));
            }
        }
    }
}

/// What the engine says, once there is a session with it.
async fn next(gateway: Option<&mut turnpike_gateway::Session>) -> Option<Said> {
    match gateway {
        Some(gateway) => gateway.next().await,
        None => std::future::pending().await,
    }
}

async fn until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake.into()).await,
        None => std::future::pending().await,
    }
}

/// Ends the connection so that the agent can read the last message: a close with octets unread would reset it.
async fn depart<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let away = async {
        stream.shutdown().await?;
        let mut octets = vec![0; READ];
        let mut left = LINGERING;
        while left > 0 {
            match stream.read(&mut octets).await? {
                0 => break,
                count => left = left.saturating_sub(count),
            }
        }
        std::io::Result::Ok(())
    };
    // Whatever comes of it, the connection is gone after it.
    let _ = timeout(LINGER, away).await;
}

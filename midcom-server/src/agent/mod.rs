//! The agent's side: a session with a middlebox that comes back by itself. After a lost connection the agent
//! learns by PRL and PRS which rules it has (RFC 5189 2.2.4: they live on without a session).

mod dial;
mod session;

use session::Task;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use turnpike_simco::{
    Credentials, Enable, EnableReserved, EnableStatus, Enabled, Ended, Established, Extensions, Notification,
    Refused, Reply, Reserve, Reserved, RuleRequest,
};

pub use dial::{DialError, TlsPeer};

/// Requests that wait to be sent.
const QUEUE: usize = 1024;

/// Where the middlebox is, and who the agent is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Host and port, as `box.example:7626`.
    pub address: String,
    /// TLS; none: clear text.
    pub tls: Option<TlsPeer>,
    /// The key shared with the middlebox.
    pub credentials: Option<Credentials>,
    /// Extensions to offer; a middlebox that knows none is asked again without.
    pub extensions: Extensions,
    /// For connection and session establishment.
    pub timeout: Duration,
    /// Requests without reply at a time.
    pub pipelining: usize,
    /// After so long without a message the middlebox is asked for one (B-KA-01), and the connection is given up
    /// when none comes for as long again.
    pub ping: Duration,
    /// Whether the session is established anew when it is lost, after 1 s, then twice as long up to this.
    pub reconnect: Option<Duration>,
}

impl Settings {
    /// Offers every extension, waits 10 s, pings after 60 s, tries again at least every 30 s.
    #[must_use]
    pub fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            tls: None,
            credentials: None,
            extensions: Extensions::ALL,
            timeout: Duration::from_secs(10),
            pipelining: 32,
            ping: Duration::from_secs(60),
            reconnect: Some(Duration::from_secs(30)),
        }
    }
}

/// What happens without being asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A session is open.
    Open(Established),
    /// After a session was lost and established anew: the rules that the agent may access now, with their
    /// statuses (PRL, PRS).
    Resynchronized(Vec<Status>),
    /// The middlebox says.
    Notification(Notification),
    /// The session is lost; another follows if the settings say so.
    Lost(Lost),
}

/// A rule as PRS shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// A reserve rule and its owner.
    Reserve(Reserved, Vec<u8>),
    /// An enable rule.
    Enable(EnableStatus),
}

impl Status {
    /// PID.
    #[must_use]
    pub fn rule(&self) -> u32 {
        match self {
            Self::Reserve(reserved, _) => reserved.rule,
            Self::Enable(status) => status.rule,
        }
    }
}

/// Why a session is lost or could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The connection could not be made, or not in time.
    #[error("{0}")]
    Dial(String),
    /// The connection broke.
    #[error("the connection is lost: {0}")]
    Broken(String),
    /// The middlebox does not answer.
    #[error("the middlebox does not answer")]
    Silent,
    /// The session ended.
    #[error(transparent)]
    Ended(#[from] Ended),
}

/// Why a request has no positive reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The middlebox refused it: nothing changed.
    #[error("refused: {} (0x03{:02x}){}", .0.failure, .0.failure.code(), .0.reason.as_deref().map(|why| format!(": {why}")).unwrap_or_default())]
    Refused(Refused),
    /// The session was lost before the reply came: whether it was carried out is unknown.
    #[error("the session was lost before the reply: {0}")]
    Lost(Lost),
    /// The agent was closed.
    #[error("the agent is closed")]
    Closed,
    /// The request does not fit in a message.
    #[error("the request is too big")]
    TooBig,
    /// The middlebox replied with something else.
    #[error("the middlebox replied with something else")]
    Unasked,
}

pub(crate) type Answer = Result<Reply, RequestError>;

pub(crate) struct Command {
    request: RuleRequest,
    answer: oneshot::Sender<Answer>,
}

/// A session with a middlebox; clones share it. It ends when the last is dropped.
#[derive(Clone, Debug)]
pub struct Agent {
    commands: mpsc::Sender<Command>,
}

/// What the agent is told; unread, it holds the session up after 4096 of them, dropped, nothing is told.
pub type Notices = mpsc::Receiver<Notice>;

impl Agent {
    /// Establishes a session.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn connect(settings: Settings) -> Result<(Self, Established, Notices), Lost> {
        let mut strict = false;
        let line = dial::dial(&settings, &mut strict).await?;
        let established = line.established.clone();
        let (agent, notices) = Self::spawn(settings, strict, Some(line));
        Ok((agent, established, notices))
    }

    /// Establishes a session as soon as the middlebox can be reached.
    #[must_use]
    pub fn start(settings: Settings) -> (Self, Notices) {
        Self::spawn(settings, false, None)
    }

    fn spawn(settings: Settings, strict: bool, line: Option<dial::Line>) -> (Self, Notices) {
        let (commands, waiting) = mpsc::channel(QUEUE);
        let (notices, told) = mpsc::channel(4 * QUEUE);
        tokio::spawn(Task::new(settings, strict, waiting, notices).run(line));
        (Self { commands }, told)
    }

    /// Sends a request and waits for its reply.
    ///
    /// # Errors
    /// The refusal, or that there is no reply.
    pub async fn request(&self, request: RuleRequest) -> Answer {
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command { request, answer }).await.map_err(|_| RequestError::Closed)?;
        answered.await.map_err(|_| RequestError::Closed)?
    }

    /// PRR.
    ///
    /// # Errors
    /// As [`Agent::request`].
    pub async fn reserve(&self, reserve: Reserve) -> Result<Reserved, RequestError> {
        match self.request(RuleRequest::Reserve(reserve)).await? {
            Reply::Reserved(reserved) => Ok(reserved),
            _ => Err(RequestError::Unasked),
        }
    }

    /// PER.
    ///
    /// # Errors
    /// As [`Agent::request`].
    pub async fn enable(&self, enable: Enable) -> Result<Enabled, RequestError> {
        match self.request(RuleRequest::Enable(enable)).await? {
            Reply::Enabled(enabled) => Ok(enabled),
            _ => Err(RequestError::Unasked),
        }
    }

    /// PEA.
    ///
    /// # Errors
    /// As [`Agent::request`].
    pub async fn enable_reserved(&self, enable: EnableReserved) -> Result<Enabled, RequestError> {
        match self.request(RuleRequest::EnableReserved(enable)).await? {
            Reply::Enabled(enabled) => Ok(enabled),
            _ => Err(RequestError::Unasked),
        }
    }

    /// PLC: the granted lifetime in seconds; 0: the rule is deleted.
    ///
    /// # Errors
    /// As [`Agent::request`].
    pub async fn change_lifetime(&self, rule: u32, lifetime: u32) -> Result<u32, RequestError> {
        match self.request(RuleRequest::ChangeLifetime { rule, lifetime }).await? {
            Reply::LifetimeChanged { lifetime } => Ok(lifetime),
            Reply::Deleted => Ok(0),
            _ => Err(RequestError::Unasked),
        }
    }

    /// PRS.
    ///
    /// # Errors
    /// As [`Agent::request`].
    pub async fn status(&self, rule: u32) -> Result<Status, RequestError> {
        match self.request(RuleRequest::RuleStatus { rule }).await? {
            Reply::ReserveStatus(reserved, owner) => Ok(Status::Reserve(reserved, owner)),
            Reply::EnableStatus(status) => Ok(Status::Enable(status)),
            _ => Err(RequestError::Unasked),
        }
    }

    /// PRL, all of it: by pages where the middlebox has them.
    ///
    /// # Errors
    /// As [`Agent::request`].
    pub async fn list(&self, extensions: Extensions) -> Result<Vec<u32>, RequestError> {
        let mut page = extensions.has(Extensions::PAGES).then(turnpike_simco::Page::default);
        let mut all = Vec::new();
        loop {
            let Reply::Rules { rules, more } = self.request(RuleRequest::RuleList { page }).await? else {
                return Err(RequestError::Unasked);
            };
            all.extend(rules);
            match more.filter(|_| page.is_some()) {
                Some(next) => page = Some(next),
                None => return Ok(all),
            }
        }
    }
}

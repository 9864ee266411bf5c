//! The way from a front end to the policy engine, which one task of the daemon owns. A crate of its own so that
//! front ends (`midcom-server`) are compiled without the daemon, and the daemon with them.
//!
//! The daemon holds [`Orders`] and answers each [`Order`]; front ends hold clones of [`Gateway`]. Queues are
//! bounded: a front end waits for room, and a session that does not take what is said to it is ended
//! ([`Session::next`] yields `None`), as a peer that does not read deserves.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{mpsc, oneshot};
use turnpike_policy::{Agent, Capabilities, Notification, Refusal, Reply, Request, Requester, SessionId};

/// Orders that wait for the daemon.
const ORDERS: usize = 4096;
/// Replies and notifications that wait for a session to take them.
const SAID: usize = 16_384;

/// What comes of a transaction.
pub type Answer = Result<Reply, Refusal>;

/// What a session is, for `turnpike show sessions`.
#[derive(Clone, Debug)]
pub struct SessionAbout {
    /// Its peer, such as `192.0.2.7:40112`.
    pub peer: String,
    /// What secures it, such as `TLSv1.3` or `none`.
    pub security: String,
    /// Counted by the front end.
    pub counters: Arc<SessionCounters>,
}

/// What a session did.
#[derive(Debug, Default)]
pub struct SessionCounters {
    /// Requests received.
    pub requests: AtomicU64,
    /// Negative replies sent.
    pub refused: AtomicU64,
    /// Notifications sent.
    pub notifications: AtomicU64,
}

impl SessionCounters {
    /// The three, in the order of the fields.
    #[must_use]
    pub fn read(&self) -> [u64; 3] {
        [&self.requests, &self.refused, &self.notifications].map(|count| count.load(Ordering::Relaxed))
    }
}

/// What is said to a session.
#[derive(Debug)]
pub enum Said {
    /// The one answer to a request of the session.
    Reply {
        /// As given to [`Session::call`].
        transaction: u32,
        /// The answer.
        answer: Answer,
    },
    /// Unasked: REN, GEN, or STN, after which nothing follows.
    Notification(Notification),
}

/// Where an answer goes.
#[derive(Debug)]
pub enum Addressee {
    /// To the session's channel, in order with its notifications.
    Session {
        /// The session.
        session: SessionId,
        /// The session's name for the request.
        transaction: u32,
    },
    /// To one who waits.
    Once(oneshot::Sender<Answer>),
}

/// A session that was let in.
#[derive(Debug)]
pub struct Opened {
    /// Its identity.
    pub id: SessionId,
    /// What the box can do for this agent.
    pub capabilities: Capabilities,
}

/// What the daemon is asked.
#[derive(Debug)]
pub enum Order {
    /// Let a session in.
    Open {
        /// Whose.
        agent: Agent,
        /// What it is.
        about: SessionAbout,
        /// Where replies and notifications go.
        said: mpsc::Sender<Said>,
        /// Where the outcome goes.
        outcome: oneshot::Sender<Result<Opened, Refusal>>,
    },
    /// A session is over; requests of its that were not begun are not.
    Close(SessionId),
    /// Whether an agent would be let in now.
    May {
        /// Who.
        agent: Agent,
        /// Where the outcome goes.
        outcome: oneshot::Sender<Result<Capabilities, Refusal>>,
    },
    /// A transaction.
    Call {
        /// Who asks.
        by: Requester,
        /// What.
        request: Request,
        /// Where the answer goes.
        to: Addressee,
    },
}

/// The daemon's end.
pub type Orders = mpsc::Receiver<Order>;

/// A front end's end.
#[derive(Clone, Debug)]
pub struct Gateway {
    orders: mpsc::Sender<Order>,
}

impl Gateway {
    /// Both ends.
    #[must_use]
    pub fn new() -> (Self, Orders) {
        let (orders, receiver) = mpsc::channel(ORDERS);
        (Self { orders }, receiver)
    }

    /// Opens a session for an authenticated agent.
    ///
    /// # Errors
    /// [`Refusal::UnknownAgent`], [`Refusal::NotEnabled`], [`Refusal::Sessions`]; [`Refusal::Busy`] if the daemon is
    /// stopping.
    pub async fn open(&self, agent: Agent, about: SessionAbout) -> Result<Session, Refusal> {
        let (said, events) = mpsc::channel(SAID);
        let (outcome, opened) = oneshot::channel();
        let order = Order::Open { agent: agent.clone(), about, said, outcome };
        self.orders.send(order).await.map_err(|_| Refusal::Busy)?;
        let Opened { id, capabilities } = opened.await.map_err(|_| Refusal::Busy)??;
        Ok(Session { id, agent, capabilities, events, gateway: self.clone() })
    }

    /// Whether `agent` would be let in now, and what the box could do for it: for the checks of resources and
    /// authorization that come before authentication (RFC 4540 7.2).
    ///
    /// # Errors
    /// As [`Gateway::open`].
    pub async fn may_session(&self, agent: Agent) -> Result<Capabilities, Refusal> {
        let (outcome, answer) = oneshot::channel();
        self.orders.send(Order::May { agent, outcome }).await.map_err(|_| Refusal::Busy)?;
        answer.await.map_err(|_| Refusal::Busy)?
    }

    /// One transaction, answered when it is durable and in force.
    ///
    /// # Errors
    /// Why it is refused; [`Refusal::Busy`] if the daemon is stopping.
    pub async fn transact(&self, by: Requester, request: Request) -> Answer {
        let (answer, answered) = oneshot::channel();
        let order = Order::Call { by, request, to: Addressee::Once(answer) };
        self.orders.send(order).await.map_err(|_| Refusal::Busy)?;
        answered.await.map_err(|_| Refusal::Busy)?
    }
}

/// An open session. Dropped, it is closed; its rules live on (RFC 5189 2.2.2 to 2.2.4).
#[derive(Debug)]
pub struct Session {
    id: SessionId,
    agent: Agent,
    capabilities: Capabilities,
    events: mpsc::Receiver<Said>,
    gateway: Gateway,
}

impl Session {
    /// Its identity.
    #[must_use]
    pub const fn id(&self) -> SessionId {
        self.id
    }

    /// Whose it is.
    #[must_use]
    pub const fn agent(&self) -> &Agent {
        &self.agent
    }

    /// What the box can do for its agent.
    #[must_use]
    pub const fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Who asks in this session: to be narrowed by host or permit.
    #[must_use]
    pub fn requester(&self) -> Requester {
        Requester::new(self.agent.clone()).in_session(self.id)
    }

    /// Sends a request; its answer comes from [`Session::next`] under `transaction`. Waits for room in the daemon's
    /// queue. Requests of a session begin in the order they are sent.
    ///
    /// # Errors
    /// [`Refusal::Busy`] if the daemon is stopping: no answer will come.
    pub async fn call(&self, by: Requester, transaction: u32, request: Request) -> Result<(), Refusal> {
        let to = Addressee::Session { session: self.id, transaction };
        self.gateway.orders.send(Order::Call { by, request, to }).await.map_err(|_| Refusal::Busy)
    }

    /// The next reply or notification, in the order RFC 5189 demands; `None` when the daemon ended the session
    /// because it did not take what was said, or is stopping. Cancel-safe.
    pub async fn next(&mut self) -> Option<Said> {
        self.events.recv().await
    }

    /// What is there already, without waiting.
    pub fn try_next(&mut self) -> Option<Said> {
        self.events.try_recv().ok()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A full queue is no reason to wait: the daemon also sees that the channel is closed.
        if self.gateway.orders.try_send(Order::Close(self.id)).is_err() {
            self.events.close();
        }
    }
}

//! The attachment to the dataplane: made, kept and made again; commands queued per worker, events taken.

use crate::mirror::NeighbourChange;
use crate::natlog::is_logged;
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::mpsc;
use turnpike_abi::WorkerId;
use turnpike_abi::attach::AttachResult;
use turnpike_abi::command::{Kind, Look, NeighboursReset, Slot, Walk, WalkTable};
use turnpike_abi::layout::MAGIC;
use turnpike_abi::stats::{Identity, InterfaceInfo};
use turnpike_abi::table::TableKind;
use turnpike_client::{
    AttachError, Attachment, LinkError, Notice, SealedTable, StateView, StatisticsView, TableError,
};
use turnpike_policy::{Command, Token};

/// Between two attempts.
const AGAIN: Duration = Duration::from_millis(100);
/// Between two attempts after a refusal that another attempt does not soon cure.
const PATIENCE: Duration = Duration::from_secs(1);
/// Most events taken from a worker in one call, so that nobody else starves.
const BATCH: usize = 2048;

/// What a worker is to be told.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// Of the policy engine; answered to it.
    Policy(Token, Command),
    /// Of the mirror; nobody waits for the answer.
    Neighbour(NeighbourChange),
    /// Forget all neighbours.
    NeighboursReset,
    /// A step of a walk; rows come back.
    Walk(Walker, Walk),
    /// Of PCP's question of this number; what is seen comes back.
    Look(u64, Look),
}

/// Who walks a worker's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walker {
    /// A page of this number, for the CLI.
    Page(u64),
    /// The survey, this table.
    Survey(WalkTable),
    /// The log of the translator.
    Log,
}

/// Who an event is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressee {
    /// The policy engine.
    Policy(Token),
    /// A walk.
    Walk(Walker),
    /// A question of PCP.
    Look(u64),
    /// Nobody asked: the worker's own news, or the answer to an order that needs none.
    Nobody,
}

/// Tries to attach until it succeeds, then hands the attachment over and ends. `put_out`: the last attachment
/// ended with a complaint about us, which haste does not cure.
pub async fn connect(path: PathBuf, put_out: bool, attached: mpsc::Sender<Attachment>) {
    let mut told = String::new();
    if put_out {
        tokio::time::sleep(PATIENCE).await;
    }
    loop {
        let socket = path.clone();
        // It waits for the dataplane's main thread, which looks about ten times a second.
        let result = tokio::task::spawn_blocking(move || Attachment::connect(&socket)).await;
        let pause = match result {
            Ok(Ok(attachment)) => {
                if attached.send(attachment).await.is_err() {
                    tracing::debug!("attached while stopping");
                }
                return;
            }
            Ok(Err(error)) => {
                let pause = match &error {
                    AttachError::Refused(AttachResult::BUSY | AttachResult::STOPPING)
                    | AttachError::Connect { .. }
                    | AttachError::Closed => AGAIN,
                    _ => PATIENCE,
                };
                let text = error.to_string();
                // Each reason once, not ten times a second.
                if told != text {
                    tracing::warn!("not attached: {text}; trying on");
                    told = text;
                }
                pause
            }
            Err(error) => {
                tracing::error!(%error, "an attempt to attach broke off");
                PATIENCE
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// An attached dataplane.
#[derive(Debug)]
pub struct Dataplane {
    attachment: Attachment,
    /// The same socket, registered with the event loop.
    ready: UnixDatagram,
    queues: Vec<VecDeque<Order>>,
    /// Orders whose answer somebody waits for, by sequence.
    waiting: HashMap<u64, Addressee>,
}

impl Dataplane {
    /// Takes charge of an attachment.
    ///
    /// # Errors
    /// If its descriptor cannot be watched.
    pub fn new(attachment: Attachment) -> std::io::Result<Self> {
        let descriptor = attachment.as_fd().try_clone_to_owned()?;
        let socket = std::os::unix::net::UnixDatagram::from(descriptor);
        socket.set_nonblocking(true)?;
        let ready = UnixDatagram::from_std(socket)?;
        let queues = (0..attachment.workers()).map(|_| VecDeque::new()).collect();
        Ok(Self { attachment, ready, queues, waiting: HashMap::new() })
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        self.attachment.identity()
    }

    /// Its interfaces, by id.
    pub fn interfaces(&self) -> &[InterfaceInfo] {
        self.attachment.interfaces()
    }

    /// What it publishes.
    pub fn statistics(&self) -> &StatisticsView {
        self.attachment.statistics()
    }

    /// Its workers' flows.
    pub fn states(&self) -> Arc<[StateView]> {
        Arc::clone(self.attachment.states())
    }

    /// How many workers it has, 1 to 64.
    pub fn workers(&self) -> u8 {
        u8::try_from(self.queues.len()).unwrap_or(u8::MAX)
    }

    /// Shows that we live.
    pub fn heartbeat(&self, now_ms: u64) {
        self.attachment.heartbeat(now_ms);
    }

    /// Offers a table.
    ///
    /// # Errors
    /// See [`TableError`].
    pub fn offer(&self, kind: TableKind, generation: u64, table: &SealedTable) -> Result<(), TableError> {
        self.attachment.offer_table(kind, generation, table)
    }

    /// Queues an order; `false` if there is no such worker.
    pub fn order(&mut self, worker: WorkerId, order: Order) -> bool {
        match self.queues.get_mut(worker.index()) {
            Some(queue) => {
                queue.push_back(order);
                true
            }
            None => false,
        }
    }

    /// Queues an order for every worker.
    pub fn order_all(&mut self, order: Order) {
        for queue in &mut self.queues {
            queue.push_back(order);
        }
    }

    /// Whether orders are queued.
    pub fn has_orders(&self) -> bool {
        self.queues.iter().any(|queue| !queue.is_empty())
    }

    /// Whether orders are queued or answers awaited, so that looking often pays.
    pub fn busy(&self) -> bool {
        !self.waiting.is_empty() || self.queues.iter().any(|queue| !queue.is_empty())
    }

    /// Writes as many orders as the rings take, and collects events for whom they are.
    ///
    /// # Errors
    /// If the dataplane broke a ring: the attachment is over.
    pub fn exchange(&mut self, events: &mut Vec<(WorkerId, Addressee, Slot)>) -> Result<(), LinkError> {
        for (worker, queue) in (0u8..).map(WorkerId).zip(&mut self.queues) {
            while let Some(order) = queue.front() {
                match send(&mut self.attachment, worker, order) {
                    Ok((sequence, addressee)) => {
                        if addressee != Addressee::Nobody {
                            self.waiting.insert(sequence, addressee);
                        }
                        queue.pop_front();
                    }
                    Err(LinkError::Full) => break,
                    Err(error) => return Err(error),
                }
            }
            for _ in 0..BATCH {
                let Some(slot) = self.attachment.poll_events(worker)? else { break };
                let addressee = match slot.header.kind {
                    Kind::BINDING_ROW | Kind::PORTS_HELD => self.waiting.get(&slot.header.sequence).copied(),
                    Kind::NEIGHBOUR_NEEDED | Kind::PINHOLE_CLOSED | Kind::PINHOLE_LOCKED => None,
                    kind if is_logged(kind) => None,
                    _ => self.waiting.remove(&slot.header.sequence),
                };
                events.push((worker, addressee.unwrap_or(Addressee::Nobody), slot));
            }
        }
        Ok(())
    }

    /// Waits for something on the socket, and takes it.
    ///
    /// # Errors
    /// The end of the attachment.
    pub async fn notice(&self) -> Result<Option<Notice>, AttachError> {
        if self.ready.readable().await.is_err() {
            return Err(AttachError::Closed);
        }
        let receive = || match self.attachment.receive() {
            // Makes the event loop wait for the socket again.
            Ok(None) => Err(ErrorKind::WouldBlock.into()),
            received => Ok(received),
        };
        self.ready.try_io(Interest::READABLE, receive).unwrap_or(Ok(None))
    }
}

fn send(attachment: &mut Attachment, worker: WorkerId, order: &Order) -> Result<(u64, Addressee), LinkError> {
    match order {
        Order::Policy(token, command) => {
            let sequence = match command {
                Command::Add(body) => attachment.command(worker, Kind::PINHOLE_ADD, body),
                Command::Remove(body) => attachment.command(worker, Kind::PINHOLE_REMOVE, body),
                Command::Reserve(body) => attachment.command(worker, Kind::PORTS_RESERVE, body),
                Command::Unreserve(body) => attachment.command(worker, Kind::PORTS_RELEASE, body),
                Command::Lease(body) => attachment.command(worker, Kind::PORT_LEASE, body),
                Command::Release(body) => attachment.command(worker, Kind::PORT_RELEASE, body),
            }?;
            Ok((sequence, Addressee::Policy(*token)))
        }
        Order::Neighbour(NeighbourChange::Set(body)) => attachment
            .command(worker, Kind::NEIGHBOUR_SET, body)
            .map(|sequence| (sequence, Addressee::Nobody)),
        Order::Neighbour(NeighbourChange::Clear(body)) => attachment
            .command(worker, Kind::NEIGHBOUR_CLEAR, body)
            .map(|sequence| (sequence, Addressee::Nobody)),
        Order::NeighboursReset => attachment
            .command(worker, Kind::NEIGHBOURS_RESET, &NeighboursReset { magic: MAGIC })
            .map(|sequence| (sequence, Addressee::Nobody)),
        Order::Look(number, body) => {
            attachment.command(worker, Kind::LOOK, body).map(|sequence| (sequence, Addressee::Look(*number)))
        }
        Order::Walk(walker, body) => {
            attachment.command(worker, Kind::WALK, body).map(|sequence| (sequence, Addressee::Walk(*walker)))
        }
    }
}

//! The control plane: who may attach, the session, the tables it offers (see [`turnpike_abi::attach`]).

use crate::crew::Crew;
use crate::failure::{Doing as _, Failure};
use crate::worker::Order;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use turnpike_abi::attach::AttachResult;
use turnpike_abi::stats::MainStats;
use turnpike_abi::table::{TableFault, TableKind};
use turnpike_config::Config;
use turnpike_engine::{Forwarding, Interface, Policy};
use turnpike_shm::attach::{Departure, Hello, Offer, Session, refuse, serve_hello};
use turnpike_shm::socket::{Connection, Credentials, Listener};
use turnpike_shm::statistics::Statistics;

/// How long a peer may take from its connect to its HELLO.
const HELLO_WITHIN: Duration = Duration::from_secs(1);
/// Connections and tables looked at before packets are again.
const AT_ONCE: usize = 8;

/// The socket, and at most one control plane.
#[derive(Debug)]
pub struct Attachment {
    listener: Listener,
    /// User ids that may attach.
    allowed: Vec<u32>,
    /// Connected, its HELLO not there yet.
    waiting: Option<(Connection, Credentials, Instant)>,
    session: Option<Session>,
    /// What tables may refer to.
    interfaces: Vec<Interface>,
}

impl Attachment {
    /// Listens where the configuration says, for root, our own user and `control_user`.
    ///
    /// # Errors
    /// If the directory or the socket cannot be made.
    pub fn open(config: &Config, interfaces: Vec<Interface>) -> Result<Self, Failure> {
        let path = config.dataplane.socket.as_path();
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).doing(|| format!("cannot make {}", directory.display()))?;
        }
        let listener =
            Listener::bind(path, 0o660).doing(|| format!("cannot listen at {}", path.display()))?;
        let mut allowed = vec![0, rustix::process::geteuid().as_raw()];
        let name = &config.dataplane.control_user;
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        match user(&users, name) {
            Some(user) => {
                allowed.push(user.uid);
                open_to_group(path, user.gid)?;
            }
            None => {
                tracing::warn!("dataplane.control_user: there is no user {name:?}; only root may attach");
            }
        }
        Ok(Self { listener, allowed, waiting: None, session: None, interfaces })
    }

    /// Descriptors that become readable when there is something to do.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let waiting = self.waiting.as_ref().map(|(connection, ..)| connection.as_fd());
        let session = self.session.as_ref().map(|session| session.as_fd());
        [Some(self.listener.as_fd()), waiting, session].into_iter().flatten()
    }

    /// Serves whatever waits. Never blocks.
    pub fn serve(&mut self, crew: &mut Crew, statistics: &Statistics, totals: &mut MainStats) {
        // The end of the old session first: its successor may be knocking already.
        self.serve_session(crew, totals);
        self.accept();
        self.serve_waiting(crew, statistics, totals);
    }

    fn accept(&mut self) {
        for _ in 0..AT_ONCE {
            let (connection, peer) = match self.listener.accept() {
                Ok(Some(accepted)) => accepted,
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!("cannot accept a control plane: {error}");
                    return;
                }
            };
            let result = if !self.allowed.contains(&peer.uid) {
                AttachResult::CREDENTIALS
            } else if self.session.is_some() || self.waiting.is_some() {
                AttachResult::BUSY
            } else {
                self.waiting = Some((connection, peer, Instant::now()));
                continue;
            };
            tracing::warn!(pid = peer.pid, uid = peer.uid, "refused to attach: {}", result.text());
            refuse(connection, result);
        }
    }

    fn serve_waiting(&mut self, crew: &mut Crew, statistics: &Statistics, totals: &mut MainStats) {
        if !crew.is_settled() {
            return;
        }
        let Some((connection, peer, since)) = self.waiting.take() else { return };
        match serve_hello(connection, statistics, crew.states()) {
            Hello::Waiting(connection) if since.elapsed() < HELLO_WITHIN => {
                self.waiting = Some((connection, peer, since));
            }
            Hello::Waiting(connection) => {
                tracing::warn!(pid = peer.pid, "connected and said nothing");
                refuse(connection, AttachResult::PROTOCOL);
            }
            Hello::Attached(session, links) => {
                tracing::info!(pid = peer.pid, uid = peer.uid, "control plane attached");
                totals.attaches += 1;
                crew.attach(links);
                self.session = Some(session);
            }
            Hello::Refused(error) => tracing::warn!(pid = peer.pid, "refused to attach: {error}"),
        }
    }

    fn serve_session(&mut self, crew: &mut Crew, totals: &mut MainStats) {
        // One table at a time, and the next once the workers have switched.
        for _ in 0..AT_ONCE {
            if !crew.is_settled() {
                return;
            }
            let Some(session) = &self.session else { return };
            let done = match session.poll() {
                Ok(None) => return,
                Ok(Some(offer)) => take(session, &offer, &self.interfaces, crew, totals),
                Err(departure) => Err(departure),
            };
            match done {
                Ok(()) => {}
                Err(Departure::Closed) => {
                    tracing::info!("control plane left");
                    totals.departures += 1;
                    self.session = None;
                    crew.order(|| Order::Detach);
                }
                Err(Departure::Violation(result)) => self.put_out(result, crew, totals),
            }
        }
    }

    /// Puts out a control plane that broke a rule; forwarding goes on.
    pub fn put_out(&mut self, result: AttachResult, crew: &mut Crew, totals: &mut MainStats) {
        let Some(session) = self.session.take() else { return };
        tracing::warn!("control plane detached: {}", result.text());
        totals.violations += 1;
        session.detach(result);
        crew.order(|| Order::Detach);
    }

    /// Says goodbye to whoever is there.
    pub fn close(self) {
        if let Some((connection, ..)) = self.waiting {
            refuse(connection, AttachResult::STOPPING);
        }
        if let Some(session) = self.session {
            session.detach(AttachResult::STOPPING);
        }
    }
}

/// Decodes a table, hands it to the workers and answers. A control plane that offers a malformed one is put out.
fn take(
    session: &Session,
    offer: &Offer,
    interfaces: &[Interface],
    crew: &mut Crew,
    totals: &mut MainStats,
) -> Result<(), Departure> {
    let mut answer = |result: AttachResult, offset: u64| {
        match result {
            AttachResult::OK => totals.tables += 1,
            _ => totals.tables_refused += 1,
        }
        session.answer(offer.kind, offer.generation, result, offset)
    };
    let table = match &offer.table {
        Ok(table) => table,
        Err(error) => {
            tracing::warn!("table of the control plane: {error}");
            answer(AttachResult::SEGMENT, 0)?;
            return Err(Departure::Violation(AttachResult::SEGMENT));
        }
    };
    let decoded = match offer.kind {
        TableKind::POLICY => policy(table, offer.generation, interfaces, crew),
        TableKind::FORWARDING => forwarding(table, offer.generation, interfaces, crew),
        _ => Err(TableFault { offset: 0, what: "there is no such kind of table" }),
    };
    match decoded {
        Ok(()) => answer(AttachResult::OK, 0),
        Err(fault) => {
            tracing::warn!(kind = offer.kind.0, generation = offer.generation, "table refused: {fault}");
            answer(AttachResult::TABLE, fault.offset)?;
            Err(Departure::Violation(AttachResult::TABLE))
        }
    }
}

const OTHER_GENERATION: TableFault =
    TableFault { offset: 24, what: "its generation is not that of the message" };

fn policy(
    table: &[u8],
    generation: u64,
    interfaces: &[Interface],
    crew: &mut Crew,
) -> Result<(), TableFault> {
    let policy = Arc::new(Policy::decode(table, interfaces)?);
    if policy.generation() != generation {
        return Err(OTHER_GENERATION);
    }
    tracing::info!(generation, "policy in force");
    crew.order(|| Order::Policy(Arc::clone(&policy)));
    Ok(())
}

fn forwarding(
    table: &[u8],
    generation: u64,
    interfaces: &[Interface],
    crew: &mut Crew,
) -> Result<(), TableFault> {
    let forwarding = Arc::new(Forwarding::decode(table, interfaces)?);
    if forwarding.generation() != generation {
        return Err(OTHER_GENERATION);
    }
    tracing::debug!(generation, "forwarding table in force");
    crew.order(|| Order::Forwarding(Arc::clone(&forwarding)));
    Ok(())
}

fn open_to_group(path: &Path, gid: u32) -> Result<(), Failure> {
    rustix::fs::chown(path, None, Some(rustix::fs::Gid::from_raw(gid)))
        .doing(|| format!("cannot give {} to group {gid} of dataplane.control_user", path.display()))
}

/// A user of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct User {
    uid: u32,
    gid: u32,
}

/// Looks a user up in the text of `/etc/passwd`, by name.
fn user(passwd: &str, name: &str) -> Option<User> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next()? == name;
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        found.then_some(User { uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nturnpike:x:998:997::/:/usr/sbin/nologin\nbroken\n";
        assert_eq!(user(passwd, "turnpike"), Some(User { uid: 998, gid: 997 }));
        assert_eq!(user(passwd, "root"), Some(User { uid: 0, gid: 0 }));
        assert_eq!(user(passwd, "turn"), None);
        assert_eq!(user(passwd, "broken"), None);
    }
}

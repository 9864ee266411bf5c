//! The server as the control plane runs it: sockets on the inside addresses of the zones that the operator enabled,
//! the machine, and its orders as transactions of the policy engine.

mod rules;
mod sockets;
#[cfg(test)]
mod tests;

pub use rules::{Outbound, Question};
pub use sockets::Listen;

use crate::server::{Answer, Counts, Effect, Order, OrderId, Prefix, Server, Settings, Time};
use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;
use rules::{Errand, Held, Rules};
use sockets::{Datagram, Sockets};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use turnpike_gateway::{Gateway, Said, Session, SessionAbout};
use turnpike_policy::{Agent, Event, Filter, Front, Lifetime, Name, Reply, Request, Rule, RuleId};

/// How often sockets that could not be opened are tried again, at least.
const AGAIN: Duration = Duration::from_secs(1);
/// The agent of both front ends that hears what becomes of rules: the configuration's access has to have it, with
/// the rights of an administrator.
pub const WATCHER: &str = "turnpike";
/// Results that wait for the loop.
const QUEUE: usize = 1024;

/// What the configuration says.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// To the machine.
    pub settings: Settings,
    /// Addresses that mappings are translated to: first to last, each.
    pub external: Vec<(IpAddr, IpAddr)>,
    /// Zones of hosts that others speak for; hosts in none are in the zone of who speaks.
    pub zones: Vec<(Prefix, Name)>,
}

impl Configuration {
    fn is_external(&self, address: IpAddr) -> bool {
        self.external.iter().any(|(first, last)| *first <= address && address <= *last)
    }
}

/// What the daemon says.
#[derive(Debug)]
pub enum Input {
    /// Another configuration is in force.
    Configured(Box<Configuration>),
    /// The addresses to listen at.
    Listen(Vec<Listen>),
}

/// Milliseconds since the epoch (1970), never going back.
pub type Now = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What a service is made of.
pub struct Parts {
    /// The configuration to begin with.
    pub configuration: Configuration,
    /// To the policy engine.
    pub gateway: Gateway,
    /// To whoever knows the workers' bindings.
    pub questions: mpsc::Sender<Question>,
    /// Rules that the journal kept, of any front end.
    pub rules: Vec<Rule>,
    /// When the epoch began, milliseconds on the clock of `now`; a new one begins without.
    pub epoch: Option<u64>,
    /// Where it is written when it begins anew.
    pub epochs: mpsc::UnboundedSender<u64>,
    /// The policy engine's clock.
    pub now: Now,
    /// The port to listen at: [`crate::wire::SERVER_PORT`].
    pub port: u16,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("configuration", &self.configuration).finish_non_exhaustive()
    }
}

/// What metrics show, as of the last thing that happened.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Requests by what became of them.
    pub counts: Counts,
    /// Mappings there are.
    pub mappings: usize,
    /// Addresses listened at.
    pub listening: usize,
    /// Responses the kernel did not take.
    pub unsent: u64,
}

/// The status, shared with the exporter. Held for copying alone.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<Status>>);

impl Board {
    /// A copy.
    #[must_use]
    pub fn copy(&self) -> Status {
        self.0.lock().clone()
    }
}

/// A service that does not run yet.
pub struct Service {
    server: Server,
    rules: Rules,
    sockets: Sockets,
    datagrams: mpsc::Receiver<Datagram>,
    done: (mpsc::UnboundedSender<Done>, mpsc::UnboundedReceiver<Done>),
    configuration: Configuration,
    epochs: mpsc::UnboundedSender<u64>,
    now: Now,
    board: Board,
    gateway: Gateway,
    watch: Option<Session>,
    watch_again: Instant,
    /// Rules there were when it was asked which there are.
    known: HashSet<RuleId>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("server", &self.server).finish_non_exhaustive()
    }
}

/// An order that was carried out.
struct Done {
    id: OrderId,
    answer: Answer,
    held: Errand,
}

impl Service {
    /// A service with the mappings that the journal kept.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { configuration, gateway, questions, rules, epoch, epochs, now, port } = parts;
        let at = now();
        // A clock that was set back is a state that nobody knows anything of.
        let known = epoch.filter(|epoch| *epoch <= at);
        if known.is_none() {
            // Nobody is left to hear of it only when the daemon stops.
            let _ = epochs.send(at);
        }
        let mut server = Server::new(configuration.settings.clone(), Time(known.unwrap_or(at)));
        let mut groups: HashMap<_, Vec<Rule>> = HashMap::new();
        for rule in rules.into_iter().filter(|rule| rules::is_ours(&rule.owner)) {
            groups.entry(rule.group).or_default().push(rule);
        }
        let watching = gateway.clone();
        let mut kept_rules = Rules::new(gateway, questions);
        for (group, members) in groups {
            match Held::kept(group, &members) {
                Some((kept, held)) if server.keep(&kept) => kept_rules.hold(kept.rule, held),
                _ => {
                    let rules: Vec<RuleId> = members.iter().map(|rule| rule.id).collect();
                    tracing::warn!(?rules, "rules without a mapping: they stay until they expire");
                }
            }
        }
        let (sender, datagrams) = mpsc::channel(QUEUE);
        Self {
            server,
            rules: kept_rules,
            sockets: Sockets::new(port, sender),
            datagrams,
            done: mpsc::unbounded_channel(),
            configuration,
            epochs,
            now,
            board: Board::default(),
            gateway: watching,
            watch: None,
            watch_again: Instant::now(),
            known: HashSet::new(),
        }
    }

    /// Where its status is.
    #[must_use]
    pub fn board(&self) -> Board {
        self.board.clone()
    }

    /// Runs until the daemon has nothing more to say.
    pub async fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        self.renumber();
        loop {
            self.settle();
            let wake = self.wake();
            tokio::select! {
                input = inputs.recv() => match input {
                    Some(input) => self.input(input),
                    None => return,
                },
                Some(datagram) = self.datagrams.recv() => {
                    let Datagram { place, from, bytes } = datagram;
                    if self.sockets.is_from(&place, from.ip()) {
                        self.server.receive(self.time(), place, from, &bytes);
                    } else {
                        self.server.refuse_source();
                    }
                }
                Some(done) = self.done.1.recv() => {
                    let Done { id, answer, held } = done;
                    self.rules.apply(held);
                    self.server.answered(self.time(), id, answer);
                }
                said = next(self.watch.as_mut()) => self.said(said),
                () = tokio::time::sleep_until(wake) => {
                    self.watch().await;
                    self.server.poll(self.time());
                    self.sockets.open_missing().await;
                    self.server.set_places(self.time(), self.sockets.places());
                }
            }
        }
    }

    fn time(&self) -> Time {
        Time((self.now)())
    }

    fn wake(&self) -> Instant {
        let due = self.server.deadline().map(|due| Duration::from_millis(self.time().until(due)));
        let again = self.sockets.is_missing().then_some(AGAIN);
        let listens = !self.sockets.places().is_empty();
        let watch = (listens && self.watch.is_none()).then(|| self.watch_again - Instant::now());
        let pause = due.into_iter().chain(again).chain(watch).min();
        // Without anything due, now and then all the same: it costs nothing.
        Instant::now() + pause.unwrap_or(Duration::from_secs(60))
    }

    /// Listens to what becomes of rules, and learns what became of them meanwhile.
    async fn watch(&mut self) {
        if self.watch.is_some() || self.watch_again > Instant::now() || self.sockets.places().is_empty() {
            return;
        }
        self.watch_again = Instant::now() + AGAIN;
        let about =
            SessionAbout { peer: "pcp".to_owned(), security: "none".to_owned(), counters: Arc::default() };
        // Either of the two may be enabled alone.
        let mut opened = self.gateway.open(Agent::new(Front::Pcp, WATCHER), about.clone()).await;
        if opened.is_err() {
            opened = self.gateway.open(Agent::new(Front::NatPmp, WATCHER), about).await;
        }
        match opened {
            Ok(session) => {
                self.known = self.rules.known();
                let all = Request::RuleList(Filter::default());
                if session.call(session.requester(), 0, all).await.is_ok() {
                    self.watch = Some(session);
                }
            }
            Err(error) => tracing::debug!(%error, "PCP does not hear yet what becomes of its rules"),
        }
    }

    fn said(&mut self, said: Option<Said>) {
        match said {
            Some(Said::Notification(notification)) => match notification.event {
                Event::Rule { rule, lifetime: Lifetime::NONE } => {
                    if let Some(mapping) = self.rules.ended(rule) {
                        self.server.ended(self.time(), mapping);
                    }
                }
                Event::Group { group, lifetime: Lifetime::NONE } => {
                    let mapping = crate::server::RuleId(u64::from(group.0));
                    self.rules.forget(mapping);
                    self.server.ended(self.time(), mapping);
                }
                Event::SessionEnded(_) => self.watch = None,
                Event::Rule { .. } | Event::Group { .. } | Event::Expiring { .. } => {}
            },
            Some(Said::Reply { answer: Ok(Reply::Rules(rules)), .. }) => {
                let there: HashSet<RuleId> = rules.into_iter().map(|(rule, _)| rule).collect();
                let gone = std::mem::take(&mut self.known).into_iter().filter(|rule| !there.contains(rule));
                let now = self.time();
                for mapping in gone.filter_map(|rule| self.rules.ended(rule)) {
                    self.server.ended(now, mapping);
                }
            }
            Some(Said::Reply { .. }) => {}
            None => self.watch = None,
        }
    }

    fn input(&mut self, input: Input) {
        match input {
            Input::Configured(configuration) => {
                self.configuration = *configuration;
                self.server.set_settings(self.configuration.settings.clone());
                self.renumber();
            }
            Input::Listen(listen) => {
                self.sockets.set(listen);
                self.server.set_places(self.time(), self.sockets.places());
            }
        }
    }

    /// Mappings whose external address is none any more move (RFC 6887 section 14.2).
    fn renumber(&mut self) {
        let configuration = &self.configuration;
        if self.server.renumber(Time((self.now)()), |address| configuration.is_external(address)) {
            tracing::info!("external addresses changed: mappings move, and the epoch begins anew");
        }
    }

    /// Carries out what the machine wants.
    fn settle(&mut self) {
        let effects: Vec<Effect> = self.server.effects().collect();
        for effect in effects {
            match effect {
                Effect::Send { from, to, bytes } => self.sockets.send(from, to, &bytes),
                Effect::Epoch(time) => {
                    let _ = self.epochs.send(time.0);
                }
                Effect::Order(id, order) => self.carry_out(id, order),
            }
        }
        let status = Status {
            counts: self.server.counts().clone(),
            mappings: self.server.mappings(),
            listening: self.sockets.places().len(),
            unsent: self.sockets.unsent(),
        };
        *self.board.0.lock() = status;
    }

    fn carry_out(&self, id: OrderId, order: Order) {
        let zones = |asker: &crate::server::Asker, host: IpAddr| {
            let others = self.configuration.zones.iter();
            let mut named = others.filter(|(prefix, _)| prefix.contains(host)).map(|(_, zone)| zone.clone());
            let own = self.sockets.zone(&asker.place);
            if host == asker.to.ip() { own } else { named.next().or(own) }
        };
        let own = |asker: &crate::server::Asker| self.sockets.zone(&asker.place);
        let work = self.rules.work(order, zones, own);
        let done = self.done.0.clone();
        tokio::spawn(async move {
            let (answer, held) = work.await;
            // The service ended: nobody waits for the answer.
            let _ = done.send(Done { id, answer, held });
        });
    }
}

/// What is said to a session; nothing, ever, to none.
async fn next(session: Option<&mut Session>) -> Option<Said> {
    match session {
        Some(session) => session.next().await,
        None => std::future::pending().await,
    }
}

//! The daemon: everything it knows, and the loop that keeps it. One task owns it all; others only carry
//! messages to it.

use crate::api::Ask;
use crate::attach::{Addressee, Dataplane, Order, Walker};
use crate::audit::AuditLog;
use crate::clock::{Clock, wall_ms};
use crate::facts::Board;
use crate::journal::{Journal, Written};
use crate::kernel::{Change, KernelEvent};
use crate::midcom::Midcom;
use crate::mirror::{Mirror, NeighbourChange};
use crate::natlog::{NatLog, is_logged};
use crate::pcp::Pcp;
use crate::ranges::History;
use crate::reading::{Reading, Sampler};
use crate::resolve::{Refresh, Resolve};
use crate::running::Running;
use crate::survey::{Purpose, Survey};
use crate::tables::Tables;
use crate::walk::{Progress, Walking};
use hashbrown::HashMap;
use sd_notify::NotifyState;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use turnpike_abi::attach::AttachResult;
use turnpike_abi::command::{Kind, Slot};
use turnpike_abi::event::NeighbourNeeded;
use turnpike_abi::{Address, WorkerId};
use turnpike_api::Timestamp;
use turnpike_api::serve::encode_error;
use turnpike_api::{ErrorBody, ErrorCode};
use turnpike_client::{AttachError, Attachment};
use turnpike_gateway::{Order as FrontOrder, Orders};
use turnpike_pcp::service::Question;
use turnpike_policy::{Effect, Engine, SessionEnd};

/// The rings have no wake-up: how often they are looked at while answers are awaited, while none are, and how
/// often the loop runs without a dataplane.
const BUSY: Duration = Duration::from_millis(2);
const IDLE: Duration = Duration::from_millis(10);
const ALONE: Duration = Duration::from_millis(100);
/// While a rule waits for a worker the rings are looked at without pause, for this long after the last news.
const EAGER: Duration = Duration::from_millis(1);
/// Orders of front ends taken before effects are carried out.
const TAKEN: usize = 1024;
/// Seconds between two surveys of which rules are in use.
const USE_SURVEY: u32 = 10;
/// Samples, refreshed neighbours, the watchdog.
const SECOND: Duration = Duration::from_secs(1);

/// Where messages come from.
#[derive(Debug)]
pub struct Inputs {
    /// Requests of the CLI.
    pub asks: mpsc::Receiver<Ask>,
    /// The kernel's word.
    pub kernel: mpsc::Receiver<KernelEvent>,
    /// The journal's.
    pub written: mpsc::UnboundedReceiver<Written>,
    /// A new attachment.
    pub attached: mpsc::Receiver<Attachment>,
    /// Orders of front ends.
    pub orders: Orders,
    /// Questions of PCP.
    pub questions: mpsc::Receiver<Question>,
    /// When PCP's epoch began anew.
    pub epochs: mpsc::UnboundedReceiver<u64>,
}

/// Everything the control plane knows.
#[derive(Debug)]
pub struct Daemon {
    pub(crate) running: Running,
    pub(crate) started: crate::started::Started,
    pub(crate) ranges: History,
    pub(crate) board: Board,
    pub(crate) clock: Clock,
    pub(crate) dataplane: Option<Dataplane>,
    pub(crate) attached_ms: Option<u64>,
    pub(crate) mirror: Mirror,
    pub(crate) tables: Tables,
    pub(crate) policy: Engine,
    pub(crate) journal: Journal,
    pub(crate) midcom: Midcom,
    pub(crate) pcp: Pcp,
    pub(crate) audit: Option<AuditLog>,
    pub(crate) natlog: NatLog,
    /// Records came with the last look at the rings: more wait where they came from.
    logs: bool,
    pub(crate) simco: crate::simco::Simco,
    pub(crate) effects: Vec<Effect>,
    pub(crate) survey: Option<Survey>,
    /// Whether a rule has an idle time.
    pub(crate) watches_use: bool,
    /// Times the rules' facts were brought up to date.
    pub(crate) counted: u32,
    eager_until: Instant,
    pub(crate) sampler: Sampler,
    walks: HashMap<u64, (Walking, oneshot::Sender<Vec<u8>>)>,
    next_walk: u64,
    refresh: Refresh,
    resolve: mpsc::Sender<Resolve>,
    attaching: mpsc::Sender<Attachment>,
    pub(crate) host: String,
    events: Vec<(WorkerId, Addressee, Slot)>,
}

/// What the daemon is made of.
#[derive(Debug)]
pub struct Parts {
    /// The configuration to begin with.
    pub running: Running,
    /// Shared with the exporter.
    pub board: Board,
    /// The clock that the policy engine's times are of.
    pub clock: Clock,
    /// The policy engine with what the journal held.
    pub policy: Engine,
    /// The journal.
    pub journal: Journal,
    /// The way to the PCP service.
    pub pcp: Pcp,
    /// The audit log, if it could be opened.
    pub audit: Option<AuditLog>,
    /// The SIMCO server.
    pub simco: crate::simco::Simco,
    /// To the resolver.
    pub resolve: mpsc::Sender<Resolve>,
    /// Where new attachments are sent.
    pub attaching: mpsc::Sender<Attachment>,
}

impl Daemon {
    /// A daemon that is not attached yet.
    pub fn new(parts: Parts) -> Self {
        let Parts { running, board, clock, mut policy, journal, audit, simco, pcp, resolve, attaching } =
            parts;
        policy.set_access(running.access(), clock.now());
        policy.note_ids();
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let mut natlog = NatLog::default();
        natlog.configure(&running.config);
        let mut ranges = History::open(&running.config.control.state);
        ranges.note(&running.config, Timestamp::now());
        Self {
            started: crate::started::Started::new(&running.config),
            running,
            ranges,
            board,
            clock,
            dataplane: None,
            attached_ms: None,
            mirror: Mirror::default(),
            tables: Tables::new(wall_ms()),
            policy,
            journal,
            midcom: Midcom::default(),
            pcp,
            audit,
            natlog,
            logs: false,
            simco,
            effects: Vec::new(),
            survey: None,
            watches_use: false,
            counted: 0,
            eager_until: Instant::now(),
            sampler: Sampler::default(),
            walks: HashMap::new(),
            next_walk: 1,
            refresh: Refresh::default(),
            resolve,
            attaching,
            host,
            events: Vec::new(),
        }
    }

    /// Runs until SIGTERM or SIGINT.
    ///
    /// # Errors
    /// If signals cannot be listened to.
    pub async fn run(mut self, mut inputs: Inputs) -> std::io::Result<()> {
        let mut hangup = signal(SignalKind::hangup())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        self.connect(false);
        let mut poll = Instant::now();
        let mut second = Instant::now();
        loop {
            tokio::select! {
                Some(ask) = inputs.asks.recv() => self.ask(ask),
                Some(event) = inputs.kernel.recv() => self.kernel(event),
                Some(written) = inputs.written.recv() => self.written(&written),
                Some(question) = inputs.questions.recv() => self.pcp_question(question),
                Some(epoch) = inputs.epochs.recv() => self.journal.pcp_epoch(epoch),
                Some(order) = inputs.orders.recv() => self.take_orders(order, &mut inputs.orders),
                () = tokio::task::yield_now(), if self.has_line() => self.begin_requests(),
                () = tokio::task::yield_now(), if self.is_eager() => self.exchange(),
                Some(attachment) = inputs.attached.recv() => self.attach(attachment),
                notice = notice(self.dataplane.as_ref()) => match notice {
                    Ok(Some(notice)) => self.notice(&notice),
                    Ok(None) => {}
                    Err(error) => self.detach(&error),
                },
                () = tokio::time::sleep_until(poll) => {
                    self.tick();
                    poll = Instant::now() + self.pause();
                }
                () = tokio::time::sleep_until(second) => {
                    self.every_second();
                    second += SECOND;
                    second = second.max(Instant::now());
                }
                Some(()) = hangup.recv() => self.hangup(),
                name = stop(&mut terminate, &mut interrupt) => {
                    tracing::info!(signal = name, "stopping: the dataplane forwards on");
                    notify(&[NotifyState::Stopping]);
                    self.policy.end_sessions(SessionEnd::Stopping);
                    self.carry_out();
                    return Ok(());
                }
            }
            // What was begun goes on before more is begun: else it would wait behind a flood at each of its steps.
            while let Ok(written) = inputs.written.try_recv() {
                self.written(&written);
            }
            self.settle();
            poll = poll.min(Instant::now() + self.pause());
        }
    }

    /// Orders of front ends, as many as are there.
    fn take_orders(&mut self, first: FrontOrder, orders: &mut Orders) {
        self.order(first);
        for _ in 1..TAKEN {
            match orders.try_recv() {
                Ok(order) => self.order(order),
                Err(_) => break,
            }
        }
        self.begin_requests();
    }

    fn is_eager(&self) -> bool {
        let waits = self.survey.is_some() || self.policy.under_way() > 0;
        waits && self.dataplane.as_ref().is_some_and(Dataplane::busy) && Instant::now() < self.eager_until
    }

    fn pause(&self) -> Duration {
        match &self.dataplane {
            None => ALONE,
            Some(dataplane) if dataplane.busy() || self.tables.waiting() || self.logs => BUSY,
            Some(_) => IDLE,
        }
    }

    /// Carries out what the policy engine wants, and sends what is queued.
    fn settle(&mut self) {
        self.carry_out();
        if let Some(dataplane) = &self.dataplane
            && dataplane.busy()
        {
            if dataplane.has_orders() {
                self.eager_until = Instant::now() + EAGER;
            }
            self.exchange();
        }
    }

    fn connect(&self, put_out: bool) {
        let path = self.running.config.dataplane.socket.clone();
        tokio::spawn(crate::attach::connect(path, put_out, self.attaching.clone()));
    }

    fn attach(&mut self, attachment: Attachment) {
        let mut dataplane = match Dataplane::new(attachment) {
            Ok(dataplane) => dataplane,
            Err(error) => {
                tracing::error!(%error, "the attachment cannot be watched: trying again");
                return self.connect(true);
            }
        };
        let identity = *dataplane.identity();
        tracing::info!(
            pid = identity.pid,
            workers = dataplane.workers(),
            version = turnpike_abi::stats::text(&identity.version),
            dpdk = turnpike_abi::stats::text(&identity.dpdk_version),
            "attached"
        );
        self.started.attached(&identity, &self.running);
        self.running.needs_restart = self.started.waiting(&self.running.config);
        let taps = dataplane.interfaces().iter().map(|info| (info.tap_index, info.id));
        self.mirror.set_taps(taps);
        self.pcp_addresses();
        self.warn_of_missing_interfaces(&dataplane);
        dataplane.heartbeat(wall_ms());
        // Rings before tables: neighbours are there when the first packet is forwarded.
        dataplane.order_all(Order::NeighboursReset);
        for change in self.mirror.tell_all() {
            dataplane.order_all(Order::Neighbour(change));
        }
        let view = dataplane.statistics().clone();
        self.board.change(|facts| {
            facts.attached = true;
            facts.attachments += 1;
            facts.view = Some(view);
        });
        self.dataplane = Some(dataplane);
        self.attached_ms = Some(wall_ms());
        self.tables.forget_offers();
        self.offer_policy();
        self.offer_forwarding();
    }

    fn warn_of_missing_interfaces(&self, dataplane: &Dataplane) {
        let known = |name: &str| {
            dataplane.interfaces().iter().any(|info| turnpike_abi::stats::text(&info.name) == name)
        };
        for spec in self.running.config.interfaces() {
            if !known(spec.name.as_str()) {
                tracing::warn!(
                    interface = spec.name.as_str(),
                    "the dataplane does not have this interface: it has to be restarted for it"
                );
            }
        }
    }

    fn detach(&mut self, error: &AttachError) {
        tracing::warn!("detached: {error}");
        let violated = matches!(error, AttachError::Protocol(_) | AttachError::Socket(_));
        let leaves = matches!(error, AttachError::Closed | AttachError::Detached(AttachResult::STOPPING));
        self.end_attachment(violated, !leaves);
    }

    fn end_attachment(&mut self, violated: bool, put_out: bool) {
        self.dataplane = None;
        self.attached_ms = None;
        self.board.change(|facts| {
            facts.attached = false;
            facts.dataplane_violations += u64::from(violated);
        });
        self.sampler.pause();
        self.policy.detached(self.clock.now());
        self.survey = None;
        self.pcp_detached();
        self.log_detached();
        self.tables.detached();
        for (_, (_, reply)) in self.walks.drain() {
            answer(reply, encode_error(&unreachable()));
        }
        self.finish_reload_alone();
        self.connect(put_out);
    }

    /// Rings, tables that are due, lifetimes.
    fn tick(&mut self) {
        let now = Instant::now();
        if let Some(dataplane) = &self.dataplane {
            dataplane.heartbeat(wall_ms());
        }
        self.exchange();
        self.policy.advance(self.clock.now());
        self.tables_due(now);
        self.log_due(now);
        let overdue: Vec<u64> =
            self.walks.iter().filter(|(_, (walk, _))| walk.deadline() <= now).map(|(n, _)| *n).collect();
        for number in overdue {
            if let Some((_, reply)) = self.walks.remove(&number) {
                let error = ErrorBody::new(ErrorCode::Timeout, "a worker does not answer")
                    .with_hint("look at turnpike show workers");
                answer(reply, encode_error(&error));
            }
        }
    }

    fn every_second(&mut self) {
        if let Some(dataplane) = &self.dataplane {
            let reading = Reading::take(dataplane.statistics(), Some(self.sampler.newer()));
            self.sampler.sample(reading, Instant::now());
            let stale = self.mirror.neighbours();
            let stale =
                stale.iter().map(|(_, neighbour, _)| (neighbour.link, neighbour.address, neighbour.state));
            for (link, address) in self.refresh.due(stale, Instant::now()) {
                self.look_for(link, address);
            }
        }
        self.rule_facts();
        if self.watches_use && self.counted.is_multiple_of(USE_SURVEY) {
            self.survey(Purpose::Use);
        }
        notify(&[NotifyState::Watchdog]);
    }

    /// Sends queued orders and takes events.
    fn exchange(&mut self) {
        let Some(dataplane) = &mut self.dataplane else { return };
        let mut events = std::mem::take(&mut self.events);
        let result = dataplane.exchange(&mut events);
        if !events.is_empty() {
            self.eager_until = Instant::now() + EAGER;
        }
        self.logs = false;
        for (worker, addressee, slot) in events.drain(..) {
            match addressee {
                Addressee::Policy(token) => self.policy.answer(token, slot.body(), self.clock.now()),
                Addressee::Look(number) => self.pcp_seen(number, &slot),
                Addressee::Walk(Walker::Page(number)) => self.walked(number, &slot),
                Addressee::Walk(Walker::Survey(table)) => self.surveyed(worker, table, &slot),
                Addressee::Walk(Walker::Log) => self.blocks_walked(worker, &slot),
                Addressee::Nobody if slot.header.kind == Kind::NEIGHBOUR_NEEDED => {
                    self.needed(worker, &slot.body());
                }
                Addressee::Nobody if slot.header.kind == Kind::PINHOLE_CLOSED => self.pinhole_closed(&slot),
                Addressee::Nobody if slot.header.kind == Kind::PINHOLE_LOCKED => self.pinhole_locked(&slot),
                Addressee::Nobody if is_logged(slot.header.kind) => {
                    self.logs = true;
                    self.logged(worker, &slot);
                }
                Addressee::Nobody => {}
            }
        }
        self.events = events;
        if let Err(error) = result {
            tracing::error!("detached: {error}");
            self.end_attachment(true, true);
        }
        self.carry_out();
    }

    fn needed(&mut self, worker: WorkerId, needed: &NeighbourNeeded) {
        let known = self.mirror.neighbour(needed.interface, needed.address);
        if let Some(mac) = known.and_then(crate::netlink::Neighbour::usable) {
            // The worker lost it, or asked while it was on its way.
            let set = turnpike_abi::command::NeighbourSet {
                address: needed.address,
                interface: needed.interface,
                mac,
            };
            if let Some(dataplane) = &mut self.dataplane {
                dataplane.order(worker, Order::Neighbour(NeighbourChange::Set(set)));
            }
            return;
        }
        if let Some(link) = self.mirror.tap(needed.interface).map(|tap| tap.index) {
            self.look_for(link, needed.address);
        }
    }

    fn look_for(&self, link: u32, address: Address) {
        let tap = self.mirror.interface(link).and_then(|interface| self.mirror.tap(interface));
        let Some(name) = tap.map(|tap| tap.name.clone()) else { return };
        match self.resolve.try_send(Resolve { link, name, address }) {
            Ok(()) => self.board.change(|facts| facts.resolutions += 1),
            Err(error) => tracing::debug!(%error, %address, "too many neighbours to look for"),
        }
    }

    fn kernel(&mut self, event: KernelEvent) {
        let changes = match event {
            KernelEvent::Tables { links, addresses, routes } => {
                self.board.change(|facts| facts.kernel_dumps += 1);
                self.mirror.replace(links, addresses, routes);
                self.tables.kernel_known();
                self.pcp_addresses();
                Vec::new()
            }
            KernelEvent::Neighbours(neighbours) => self.mirror.replace_neighbours(neighbours),
            KernelEvent::Change(change) => self.kernel_change(change).into_iter().collect(),
        };
        if let Some(dataplane) = &mut self.dataplane {
            for change in changes {
                dataplane.order_all(Order::Neighbour(change));
            }
        }
    }

    fn kernel_change(&mut self, change: Change) -> Option<NeighbourChange> {
        let about_links = !matches!(change, Change::Route(..) | Change::RouteGone(_));
        match change {
            Change::Neighbour(neighbour) => return self.mirror.neighbour_is(neighbour),
            Change::NeighbourGone(link, address) => return self.mirror.neighbour_gone(link, address),
            Change::Link(link) => self.mirror.link_is(link),
            Change::LinkGone(index) => self.mirror.link_gone(index),
            Change::Address(address) => self.mirror.address_is(address),
            Change::AddressGone(address) => self.mirror.address_gone(address),
            Change::Route(route, replace) => self.mirror.route_is(route, replace),
            Change::RouteGone(route) => self.mirror.route_gone(&route),
        }
        self.tables.forwarding_changed(Instant::now());
        if about_links {
            self.pcp_addresses();
        }
        None
    }

    fn hangup(&mut self) {
        tracing::info!("SIGHUP: reading the configuration again");
        match NotifyState::monotonic_usec_now() {
            Ok(time) => notify(&[NotifyState::Reloading, time]),
            Err(_) => notify(&[NotifyState::Reloading]),
        }
        self.reload(None);
    }

    /// Begins a walk whose page will be the answer.
    pub(crate) fn walk(
        &mut self,
        begin: impl FnOnce(u8, Instant) -> Result<Walking, ErrorBody>,
        reply: oneshot::Sender<Vec<u8>>,
    ) {
        let Some(dataplane) = &mut self.dataplane else {
            return answer(reply, encode_error(&unreachable()));
        };
        match begin(dataplane.workers(), Instant::now()) {
            Ok(mut walking) => {
                let number = self.next_walk;
                self.next_walk += 1;
                let (worker, order) = walking.order(number);
                dataplane.order(worker, order);
                self.walks.insert(number, (walking, reply));
            }
            Err(error) => answer(reply, encode_error(&error)),
        }
    }

    fn walked(&mut self, number: u64, slot: &Slot) {
        let Some((walking, _)) = self.walks.get_mut(&number) else { return };
        let pools = &self.running.config.pools;
        let pool = |index: u16| pools.get(usize::from(index)).map(|pool| pool.name.as_str().to_owned());
        let line = match walking.event(slot, pool) {
            Progress::Waiting => return,
            Progress::Send(worker, walk) => {
                if let Some(dataplane) = &mut self.dataplane {
                    dataplane.order(worker, Order::Walk(Walker::Page(number), walk));
                }
                return;
            }
            Progress::Done(page) => self.page(page),
            Progress::Failed(error) => encode_error(&error),
        };
        if let Some((_, reply)) = self.walks.remove(&number) {
            answer(reply, line);
        }
    }
}

/// What the dataplane says on its socket; never, without one.
async fn notice(dataplane: Option<&Dataplane>) -> Result<Option<turnpike_client::Notice>, AttachError> {
    match dataplane {
        Some(dataplane) => dataplane.notice().await,
        None => std::future::pending().await,
    }
}

async fn stop(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

/// Answers, unless the asker is gone.
pub(crate) fn answer(reply: oneshot::Sender<Vec<u8>>, line: Vec<u8>) {
    if reply.send(line).is_err() {
        tracing::debug!("the asker is gone");
    }
}

/// The error of everything that needs a dataplane.
pub(crate) fn unreachable() -> ErrorBody {
    ErrorBody::new(ErrorCode::Unreachable, "no dataplane is attached")
        .with_hint("is turnpike-dataplane running? The control plane attaches by itself")
}

/// Tells systemd, if it is there.
pub(crate) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be told");
    }
}

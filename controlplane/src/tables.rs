//! The policy and the forwarding table on their way to the dataplane, and reloads of the configuration.

use crate::clock::wall_ms;
use crate::daemon::{Daemon, answer, notify};
use crate::facts::{Apply, Shape};
use crate::mirror::Forwarding;
use crate::reading::Reading;
use crate::running::Running;
use crate::started::is_of_controlplane;
use crate::survey::Purpose;
use sd_notify::NotifyState;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;
use turnpike_abi::attach::AttachResult;
use turnpike_abi::stats::text;
use turnpike_abi::table::{TableKind, forwarding};
use turnpike_api::Timestamp;
use turnpike_api::serve::{encode_error, encode_response};
use turnpike_api::{Envelope, ErrorBody, ErrorCode, ReloadData};
use turnpike_client::{Notice, SealedTable, TableBuilder, TableError};
use turnpike_config::Config;
use turnpike_config::compile::compile_policy;

/// Changes of the kernel's tables are collected for this long.
const SETTLE: Duration = Duration::from_millis(20);
/// A forwarding table is not made again before this many times what it cost.
const SHARE: u32 = 5;

/// What was offered and what is due.
#[derive(Debug)]
pub struct Tables {
    /// Of the next table. Begins with the clock, so that it grows across restarts of this process.
    generation: u64,
    /// The policy table offered last, and whether the dataplane took it.
    policy: Option<(u64, bool)>,
    /// The policy table that every worker is on and the policy engine knows of.
    in_force: Option<u64>,
    /// The forwarding table offered last.
    pub(crate) forwarding: Option<Forwarding>,
    /// Since when the mirror differs from it, perhaps.
    changed: Option<Instant>,
    /// The kernel's tables are known.
    kernel: bool,
    cost: Duration,
    reload: Option<Reload>,
}

/// A configuration that waits for the dataplane's word.
#[derive(Debug)]
struct Reload {
    running: Running,
    simco: crate::simco::Prepared,
    data: ReloadData,
    warnings: Vec<String>,
    reply: Option<oneshot::Sender<Vec<u8>>>,
}

impl Tables {
    /// Nothing offered yet.
    pub fn new(now_ms: u64) -> Self {
        Self {
            generation: now_ms.max(1),
            policy: None,
            in_force: None,
            forwarding: None,
            changed: None,
            kernel: false,
            cost: Duration::ZERO,
            reload: None,
        }
    }

    fn next(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    /// The generation that every worker is on.
    pub const fn in_force(&self) -> Option<u64> {
        self.in_force
    }

    /// Whether the dataplane's answer or the workers' switch is awaited.
    pub fn waiting(&self) -> bool {
        self.policy.is_some_and(|(generation, _)| self.in_force != Some(generation))
    }

    /// A dataplane that knows nothing of us.
    pub fn forget_offers(&mut self) {
        self.policy = None;
        self.in_force = None;
        self.forwarding = None;
    }

    /// Nobody to offer anything.
    pub fn detached(&mut self) {
        self.forget_offers();
    }

    /// The kernel's tables were read.
    pub fn kernel_known(&mut self) {
        self.kernel = true;
        self.forwarding_changed(Instant::now());
    }

    /// The mirror changed.
    pub fn forwarding_changed(&mut self, now: Instant) {
        self.changed.get_or_insert(now);
    }
}

impl Daemon {
    /// Offers the policy of the configuration that waits, or of the one in force.
    pub(crate) fn offer_policy(&mut self) {
        let Some(dataplane) = &self.dataplane else { return };
        let generation = self.tables.next();
        let running = self.tables.reload.as_ref().map_or(&self.running, |reload| &reload.running);
        let interfaces = dataplane.interfaces();
        let known = |name: &str| {
            let info = interfaces.iter().find(|info| text(&info.name) == name)?;
            Some((info.id, info.mtu))
        };
        let table = compile_policy(&running.config, &known, generation);
        let sealed = SealedTable::create(table.as_bytes()).map_err(TableError::Memory);
        match sealed.and_then(|sealed| dataplane.offer(TableKind::POLICY, generation, &sealed)) {
            Ok(()) => self.tables.policy = Some((generation, false)),
            Err(error) => {
                tracing::error!("the policy table was not offered: {error}");
                self.finish_reload(Err(error.to_string()));
            }
        }
    }

    /// Offers the mirror's forwarding table if it differs from the one offered last.
    pub(crate) fn offer_forwarding(&mut self) {
        if !self.tables.kernel {
            return;
        }
        let Some(dataplane) = &self.dataplane else { return };
        let begin = Instant::now();
        self.tables.changed = None;
        let table = self.mirror.forwarding();
        if self.tables.forwarding.as_ref() == Some(&table) {
            return;
        }
        let generation = self.tables.next();
        let offer = || -> Result<(), TableError> {
            let mut builder = TableBuilder::new(TableKind::FORWARDING, generation);
            builder.section(forwarding::ADDRESSES, &table.addresses)?;
            builder.section(forwarding::ROUTES, &table.routes)?;
            dataplane.offer(TableKind::FORWARDING, generation, &builder.seal()?)
        };
        match offer() {
            Ok(()) => {
                tracing::debug!(
                    generation,
                    addresses = table.addresses.len(),
                    routes = table.routes.len(),
                    "forwarding table offered"
                );
                self.tables.forwarding = Some(table);
                self.pcp_addresses();
            }
            Err(error) => {
                tracing::error!("the forwarding table was not offered: {error}");
                // Tried again after a pause; the one before stays in force.
                self.tables.changed = Some(begin + Duration::from_secs(1));
            }
        }
        self.tables.cost = begin.elapsed();
    }

    /// What the dataplane made of a table.
    pub(crate) fn notice(&mut self, notice: &Notice) {
        let ok = notice.result == AttachResult::OK;
        match notice.kind {
            TableKind::POLICY if self.tables.policy == Some((notice.generation, false)) => {
                self.tables.policy = ok.then_some((notice.generation, true));
                if ok {
                    tracing::info!(generation = notice.generation, "policy in force");
                    self.finish_reload(Ok(()));
                } else {
                    let why = format!("{} (at byte {})", notice.result.text(), notice.offset);
                    tracing::error!(
                        generation = notice.generation,
                        "the dataplane refused the policy: {why}"
                    );
                    self.finish_reload(Err(why));
                }
            }
            TableKind::FORWARDING if !ok => tracing::error!(
                generation = notice.generation,
                offset = notice.offset,
                "the dataplane refused the forwarding table: {}; the one before stays in force",
                notice.result.text()
            ),
            _ => {}
        }
    }

    /// Tables whose time has come, and the policy engine when the workers have switched.
    pub(crate) fn tables_due(&mut self, now: Instant) {
        let wait = SETTLE.max(self.tables.cost * SHARE);
        if self.tables.changed.is_some_and(|since| since + wait <= now) {
            self.offer_forwarding();
        }
        let (Some((generation, true)), Some(dataplane)) = (self.tables.policy, &self.dataplane) else {
            return;
        };
        if self.tables.in_force == Some(generation) {
            return;
        }
        if Reading::take(dataplane.statistics(), None).on_policy(generation) {
            let workers = dataplane.workers();
            let first = self.tables.in_force.replace(generation).is_none();
            let now = self.clock.now();
            self.policy.set_access(self.running.access(), now);
            self.pcp_configured();
            self.log_in_force(first);
            if first {
                self.policy.attached(workers);
                self.survey(Purpose::Reconcile);
            }
        }
    }

    /// Reads the configuration again. What is wrong with it leaves the running one untouched.
    pub(crate) fn reload(&mut self, reply: Option<oneshot::Sender<Vec<u8>>>) {
        if self.tables.reload.is_some() {
            let error = ErrorBody::new(ErrorCode::Conflict, "another reload is under way")
                .with_hint("try again in a second");
            return self.refuse_reload(reply, &error);
        }
        let mut running = match Running::load(&self.running.path) {
            Ok(running) => running,
            Err(problems) => {
                self.board.change(|facts| facts.applied(Apply::Invalid));
                let details: Vec<String> = problems.to_string().lines().map(str::to_owned).collect();
                for line in &details {
                    tracing::error!("configuration refused: {line}");
                }
                let error = ErrorBody::new(
                    ErrorCode::ConfigInvalid,
                    format!("{} problems; the running configuration stays", problems.count()),
                )
                .with_details(details);
                return self.refuse_reload(reply, &error);
            }
        };
        // Certificates and keys are read again whatever else changes.
        let simco = match self.simco.prepare(&running.config) {
            Ok(simco) => simco,
            Err(why) => {
                self.board.change(|facts| facts.applied(Apply::Invalid));
                tracing::error!("configuration refused: {why}");
                let error = ErrorBody::new(
                    ErrorCode::ConfigInvalid,
                    "1 problem; the running configuration stays".to_owned(),
                )
                .with_details(vec![why.to_string()]);
                return self.refuse_reload(reply, &error);
            }
        };
        let impact = Config::reload_impact(&self.running.config, &running.config);
        running.needs_restart = self.started.waiting(&running.config);
        let mut warnings = Vec::new();
        for key in impact.restart_needed.iter().filter(|key| running.needs_restart.contains(key)) {
            let who = if is_of_controlplane(key) { "control plane" } else { "dataplane" };
            let warning = format!("{key} takes effect at the next start of the {who}");
            tracing::warn!("{warning}");
            warnings.push(warning);
        }
        let data = ReloadData {
            path: running.path.display().to_string(),
            previous_hash: self.running.hash.clone(),
            hash: running.hash.clone(),
            changed: !impact.live.is_empty(),
            needs_restart: running.needs_restart.clone(),
        };
        let changed = data.changed;
        self.tables.reload = Some(Reload { running, simco, data, warnings, reply });
        if changed && self.dataplane.is_some() {
            self.offer_policy();
        } else {
            self.finish_reload(Ok(()));
        }
    }

    /// No dataplane is there to refuse what it has not answered yet.
    pub(crate) fn finish_reload_alone(&mut self) {
        self.finish_reload(Ok(()));
    }

    fn finish_reload(&mut self, result: Result<(), String>) {
        let Some(reload) = self.tables.reload.take() else { return };
        let line = match result {
            Ok(()) => {
                self.simco.apply(reload.simco);
                self.running = Running { applied_ms: wall_ms(), ..reload.running };
                self.ranges.note(&self.running.config, Timestamp::now());
                let unlogged = self.natlog.configure(&self.running.config);
                let shape = Shape::of(&self.running);
                self.board.change(|facts| {
                    facts.shape = shape;
                    facts.applied(Apply::Ok);
                });
                if self.dataplane.is_none() {
                    self.policy.set_access(self.running.access(), self.clock.now());
                    self.pcp_configured();
                }
                tracing::info!(hash = self.running.hash, changed = reload.data.changed, "configuration read");
                let mut envelope = Envelope::new(self.host.clone(), reload.data);
                envelope.warnings = reload.warnings;
                envelope.warnings.extend(unlogged);
                encode_response(&Ok(envelope))
            }
            Err(why) => {
                self.board.change(|facts| facts.applied(Apply::Error));
                encode_error(
                    &ErrorBody::new(ErrorCode::ConfigInvalid, format!("the dataplane refused it: {why}"))
                        .with_hint("the running configuration stays"),
                )
            }
        };
        if let Some(reply) = reload.reply {
            answer(reply, line);
        }
        notify(&[NotifyState::Ready]);
    }

    fn refuse_reload(&self, reply: Option<oneshot::Sender<Vec<u8>>>, error: &ErrorBody) {
        if let Some(reply) = reply {
            answer(reply, encode_error(error));
        }
        notify(&[NotifyState::Ready]);
    }
}

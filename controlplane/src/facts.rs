//! What the exporter shows that does not lie in shared memory: written by the daemon, read at scrape time.

use crate::clock::wall_ms;
use crate::reading::Reading;
use crate::running::Running;
use hashbrown::HashMap;
use parking_lot::Mutex;
use std::sync::Arc;
use turnpike_client::StatisticsView;
use turnpike_policy::{Ended, Front, State};

/// How an attempt to bring a configuration into force ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Apply {
    /// In force.
    Ok,
    /// Refused by the checks.
    Invalid,
    /// Taken back.
    Reverted,
    /// Refused by the dataplane.
    Error,
}

impl Apply {
    /// Every outcome, in the order of [`Facts::applies`].
    pub const ALL: [Self; 4] = [Self::Ok, Self::Invalid, Self::Reverted, Self::Error];

    /// As the metric labels it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Invalid => "invalid",
            Self::Reverted => "reverted",
            Self::Error => "error",
        }
    }
}

/// The states of rules, in the order of [`Facts::pinholes`].
pub const STATES: [State; 4] = [State::Pending, State::Active, State::Suspended, State::Closing];

/// A kind of transaction and how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionKey {
    /// Who asked.
    pub front: Front,
    /// Its name in RFC 5189.
    pub transaction: &'static str,
    /// `ok`, or the reason of the refusal.
    pub result: &'static str,
}

/// A pool's capacity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolFacts {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: u64,
    /// External ports of one protocol on all of them.
    pub ports: u64,
}

/// Names and sizes of the configuration in force, so that every series is there before anything attaches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Hash of the configuration.
    pub hash: String,
    /// Ports, by id.
    pub ports: Vec<String>,
    /// Zones, by id.
    pub zones: Vec<String>,
    /// Pools, by id.
    pub pools: Vec<PoolFacts>,
    /// Workers.
    pub workers: usize,
}

impl Shape {
    /// That of a configuration.
    pub fn of(running: &Running) -> Self {
        let config = &running.config;
        Self {
            hash: running.hash.clone(),
            ports: config.ports.iter().map(|port| port.name.as_str().to_owned()).collect(),
            zones: config.zones.iter().map(|zone| zone.name.as_str().to_owned()).collect(),
            pools: running
                .realm()
                .pools
                .iter()
                .map(|pool| PoolFacts {
                    name: pool.name.to_string(),
                    addresses: pool.addresses(),
                    ports: pool.addresses()
                        * (u64::from(pool.ports.1).saturating_sub(u64::from(pool.ports.0)) + 1),
                })
                .collect(),
            workers: config.dataplane.cores.len(),
        }
    }
}

/// Everything the daemon tells the exporter.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// When this process started, milliseconds since the epoch.
    pub started_ms: u64,
    /// Names and sizes.
    pub shape: Shape,
    /// Attempts to bring a configuration into force, by [`Apply`].
    pub applies: [u64; 4],
    /// Whether the last one succeeded.
    pub last_apply_ok: bool,
    /// When that was, milliseconds since the epoch.
    pub last_apply_ms: u64,
    /// Whether a dataplane is attached now.
    pub attached: bool,
    /// Times one was attached.
    pub attachments: u64,
    /// Times the dataplane broke a rule of the protocol or of a ring.
    pub dataplane_violations: u64,
    /// Rules by [`STATES`].
    pub pinholes: [u64; 4],
    /// Rules, those under way included.
    pub rules: u64,
    /// Rules that ended, by [`Ended`].
    pub rules_ended: [u64; Ended::ALL.len()],
    /// Open sessions by [`Front`].
    pub sessions: [u64; Front::ALL.len()],
    /// Transactions by their end.
    pub transactions: HashMap<TransactionKey, u64>,
    /// Lines of the audit log that could not be written.
    pub audit_lost: u64,
    /// Lines of the translator's log, by [`crate::natlog::Event::ALL`].
    pub log_records: [u64; crate::natlog::Event::ALL.len()],
    /// Those that could not be written.
    pub log_lost: crate::lines::Lost,
    /// What the SIMCO server counts.
    pub simco: Option<std::sync::Arc<turnpike_midcom::Counters>>,
    /// Requests for pinholes granted and refused.
    pub pinhole_requests: [u64; 2],
    /// Requests answered and refused over the API.
    pub api_requests: [u64; 2],
    /// Notes the journal could not write.
    pub journal_failures: u64,
    /// PCP and NAT-PMP.
    pub pcp: turnpike_pcp::service::Board,
    /// Dumps of the kernel's tables.
    pub kernel_dumps: u64,
    /// Neighbours the kernel was made to look for.
    pub resolutions: u64,
    /// The segment of the dataplane attached last.
    pub view: Option<StatisticsView>,
}

impl Facts {
    /// Notes the outcome of an attempt to bring a configuration into force.
    pub fn applied(&mut self, outcome: Apply) {
        if let Some(count) = self.applies.get_mut(outcome as usize) {
            *count += 1;
        }
        self.last_apply_ok = outcome == Apply::Ok;
        self.last_apply_ms = wall_ms();
    }

    /// Whether packets are forwarded.
    pub fn ready(&self, reading: &Reading) -> bool {
        self.attached && reading.forwards(wall_ms())
    }
}

/// The facts, shared between the daemon and the exporter. Held for copying alone.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<Facts>>);

impl Board {
    /// Changes something.
    pub fn change(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.0.lock());
    }

    /// A copy.
    pub fn copy(&self) -> Facts {
        self.0.lock().clone()
    }
}

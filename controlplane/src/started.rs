//! What the daemons were started with: a key that they read at their start and that says something else by now waits
//! for the next start.

use crate::running::Running;
use turnpike_abi::stats::Identity;
use turnpike_config::Config;

/// The configurations at the two starts.
#[derive(Debug)]
pub struct Started {
    controlplane: Config,
    dataplane: Config,
    /// Process id and start of the dataplane that was attached last.
    process: Option<(u32, u64)>,
}

impl Started {
    /// With this process, and a dataplane that is not known better until it attaches.
    pub fn new(config: &Config) -> Self {
        Self { controlplane: config.clone(), dataplane: config.clone(), process: None }
    }

    /// A dataplane attached. One that was not there before began with the file as it is.
    pub fn attached(&mut self, identity: &Identity, running: &Running) {
        let process = Some((identity.pid, identity.started_ms));
        if self.process.is_some() && self.process != process {
            let file = Running::load(&running.path).map(|file| file.config);
            // A file that is wrong starts nothing: it was changed since.
            self.dataplane = file.unwrap_or_else(|_| running.config.clone());
        }
        self.process = process;
    }

    /// The keys of a configuration that wait for a start.
    pub fn waiting(&self, config: &Config) -> Vec<String> {
        let mut waiting = Config::reload_impact(&self.dataplane, config).restart_needed;
        waiting.retain(|key| !is_of_controlplane(key));
        let own = Config::reload_impact(&self.controlplane, config).restart_needed;
        waiting.extend(own.into_iter().filter(|key| is_of_controlplane(key)));
        waiting
    }
}

/// Whether a key that waits does so for the control plane.
pub fn is_of_controlplane(key: &str) -> bool {
    key.starts_with("control.")
}

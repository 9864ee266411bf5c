//! File descriptors: each SIMCO connection takes one, and the usual limit of 1024 is far below `simco.connections`.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use turnpike_config::Config;

/// What everything else takes: the journal, the dataplane's memory, the CLI's and the exporter's connections.
const OTHERS: u64 = 512;

/// Raises this process's limit as far as it may and needs to, and says how many connections there can be if that is
/// fewer than the configuration allows.
pub fn raise(config: &Config) {
    if config.simco.listen.is_empty() {
        return;
    }
    let wanted = u64::from(config.simco.connections) + OTHERS;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= wanted) {
        return;
    }
    let reachable = maximum.map_or(wanted, |maximum| maximum.min(wanted));
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(reachable), maximum }) {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
    let have = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if have < wanted {
        tracing::warn!(
            limit = have,
            "open files are limited to {have}, so that simco.connections = {} cannot be reached: raise LimitNOFILE= of \
             the unit (ulimit -n) to {wanted}, or lower simco.connections",
            config.simco.connections
        );
    }
}

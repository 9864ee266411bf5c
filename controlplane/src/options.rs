//! The command line.

use clap::Parser;
use std::path::PathBuf;

/// Paths, privileges, signals and exit codes, for those who write units and policies.
const NOTES: &str = "\
FILES (defaults; all but --config are set in the configuration)
  /etc/turnpike/turnpike.toml      read: the configuration
  /run/turnpike/dataplane.sock     connect: dataplane.socket; this user is its dataplane.control_user
  /run/turnpike/control.sock       create, mode 0660: control.socket; who may open it may change pinholes
  /var/lib/turnpike/journal.redb   read and write: the journal, in the directory control.state
  /proc/self, /proc/stat           read: process metrics

NETWORK
  127.0.0.1:9464                   listen: control.metrics, with /metrics, /healthz and /readyz
  AF_NETLINK                       routes, addresses and neighbours; no capability is needed
  AF_INET, AF_INET6                UDP to port 9 of next hops, so that the kernel resolves them

PRIVILEGES
  None: no capability, no write access outside the directories above. It runs in the network namespace of
  the dataplane's TAP twins.

SIGNALS
  SIGHUP             read the configuration again; a wrong one is refused and the running one stays
  SIGTERM, SIGINT    stop; the dataplane forwards on, and pinholes stay open

EXIT CODES
  0  stopped by a signal
  1  could not start or go on: see the log
  2  wrong command line
  7  the configuration is wrong: each problem with file, line, column and key";

/// Turnpike's control plane: attaches to the dataplane, gives it policy and routes, serves the CLI and
/// Prometheus, keeps pinholes.
#[derive(Clone, Debug, Parser)]
#[command(name = "turnpike-controlplane", version, after_help = NOTES)]
pub struct Options {
    /// Configuration of both daemons
    #[arg(long, value_name = "FILE", default_value = "/etc/turnpike/turnpike.toml")]
    pub config: PathBuf,

    /// What to log: error, warn, info, debug, trace, or a filter such as info,turnpike_controlplane=debug
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log: String,
}

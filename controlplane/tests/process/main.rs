//! The daemon as a process, against a dataplane without packets or the real engine.

#[path = "../../../midcom-server/tests/server/certificates.rs"]
#[expect(dead_code, reason = "what the server's own tests need of it")]
mod certificates;
mod daemon;
mod datapath;
mod firewall;
mod hostile;
mod kernel;
mod kills;
mod log;
mod rules;
mod support;
mod tokens;

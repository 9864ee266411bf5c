//! The daemon as a process, against a dataplane without packets.

mod daemon;
mod firewall;
mod hostile;
mod kernel;
mod log;
mod rules;
mod support;
mod tokens;

//! The daemon as a process, against a dataplane without packets.

mod daemon;
mod hostile;
mod kernel;
mod rules;
mod support;

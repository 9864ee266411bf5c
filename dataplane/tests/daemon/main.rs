//! The binary as a process, in a network namespace of its own. Needs root.

mod attaching;
mod lab;
mod life;
mod traffic;

//! The engine without DPDK: frames, wires and virtual time.
//!
//! [`Appliance`] runs one engine a worker, carries crossing packets between them, and checks after every
//! step that no packet was lost or counted twice.

#![forbid(unsafe_code)]

pub mod any_table;
mod appliance;
pub mod chaos;
mod frame;
pub mod lab;
pub mod packets;
pub mod tables;

pub use appliance::{Appliance, Sent, Steering, station};
pub use frame::{Frame, Frames};

//! The engine without DPDK: frames, wires and virtual time.
//!
//! [`Appliance`] runs one engine a worker, carries crossing packets between them, and checks after every
//! step that no packet was lost or counted twice.

#![forbid(unsafe_code)]

pub mod any_table;
mod appliance;
pub mod attached;
pub mod chaos;
mod dice;
mod frame;
mod host;
pub mod lab;
mod network;
pub mod packets;
pub mod pieces;
pub mod tables;

pub use appliance::{Appliance, Sent, Steering, station};
pub use dice::Dice;
pub use frame::{Frame, Frames};
pub use host::{Host, Socket};
pub use network::{Network, Weather, Wire};

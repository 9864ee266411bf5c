//! DPDK behind types that keep its rules: what would be a double free, a use after transmit or two threads
//! on one queue does not compile, and nothing outlives what it needs.
//!
//! ```no_run
//! use turnpike_dpdk::{Eal, Mempool, Port, PortConfig};
//! # fn main() -> Result<(), turnpike_dpdk::Error> {
//! let eal = Eal::init(&["--in-memory", "--no-pci", "-l", "0"])?;
//! let pool = Mempool::new(&eal, "packets", 16384, 256, 2048)?;
//! let port = Port::configure(&eal, "net_af_packet0,iface=eth1", &PortConfig::default(), &pool)?;
//! let (handle, mut rx, mut tx) = port.start()?;
//! println!("{} at {:?}", handle.driver(), handle.link());
//! let mut packets = Vec::with_capacity(64);
//! loop {
//!     rx[0].burst(&mut packets);
//!     tx[0].burst(&mut packets);
//!     packets.clear(); // what the device did not take
//! }
//! # }
//! ```
//!
//! Lifetimes are counted, not borrowed, since queues move to threads: a port is stopped and closed when its
//! [`PortHandle`] and all its queues are gone, a pool is freed when every buffer is home, DPDK is cleaned up
//! when ports and pools are gone.

mod eal;
mod error;
mod mbuf;
mod mempool;
mod port;
mod queue;
mod steer;

pub use eal::{Eal, Memory, Registration, rdtsc};
pub use error::{Errno, Error};
pub use mbuf::Mbuf;
pub use mempool::{HEADROOM, MbufSource, Mempool};
pub use port::{Link, Negotiated, Port, PortConfig, PortHandle, PortStats};
pub use queue::{BURST, RxQueue, TxQueue};
pub use steer::{RssState, softrss};

//! The policy engine: who may open what, for how long, and what the workers have to be told.
//!
//! Pure and synchronous: time is an argument, nothing is read or written. [`Engine`] takes requests and the
//! workers' answers and yields [`Effect`]s; the daemon carries them out in order. A pinhole is durable before
//! its command leaves and its grant is durable before its owner hears of it:
//!
//! ```text
//! add --> noted in the journal --> [lease of the port] --> pinhole --> grant in the journal --> granted
//!              |                          | refused             | refused
//!              +--------------------------+---------------------+--> refused, forgotten
//! remove, expiry --> noted --> pinhole removed --> [lease released] --> forgotten
//! ```
//!
//! After a restart whatever was granted is installed again with the same external end, and whatever was not
//! granted or was on its way out is taken from the workers.

mod engine;
mod pinhole;
mod realm;
mod refusal;
mod steps;

pub use engine::{Command, Effect, Engine, Limits, Ticket, Token};
pub use pinhole::{
    Endpoint, External, Grant, Owner, Phase, Pinhole, PinholeId, Protocol, Record, Remote, Request, State,
    Time,
};
pub use realm::{Pool, Realm};
pub use refusal::{Ended, Refusal};

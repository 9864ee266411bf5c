//! The control plane's end of the attachment to the dataplane: connect, say HELLO, map what it publishes,
//! send commands, take events, offer tables. Nothing here waits but [`Attachment::connect`].
//!
//! The dataplane is trusted no more than it trusts us: whatever it writes, the worst that comes of it is an
//! error here. After any error of [`Attachment`] that is not about one call, drop it and connect again.
#![forbid(unsafe_code)]

mod attachment;
mod error;
mod table;

pub use attachment::{Attachment, Notice};
pub use error::{AttachError, LinkError, TableError};
pub use table::TableBuilder;
pub use turnpike_shm::state::{Place, StateView};
pub use turnpike_shm::statistics::StatisticsView;
pub use turnpike_shm::table::SealedTable;

//! Closing what the peer sent. That can wait for as long as the peer likes (a TCP socket that lingers, a file of
//! the peer's own file system), so a thread does it that nobody waits for.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};

/// Descriptors that wait to be closed; above that no peer is accepted.
const ENOUGH: usize = 256;

static PENDING: AtomicUsize = AtomicUsize::new(0);

/// Has `fd` closed, soon or when its peer lets it.
pub(crate) fn close(fd: OwnedFd) {
    static CLOSER: OnceLock<Option<Sender<OwnedFd>>> = OnceLock::new();
    let closer = CLOSER.get_or_init(|| {
        let (sender, receiver) = channel::<OwnedFd>();
        let body = move || {
            for fd in receiver {
                drop(fd);
                PENDING.fetch_sub(1, Ordering::Relaxed);
            }
        };
        std::thread::Builder::new().name("closer".to_owned()).spawn(body).ok().map(|_| sender)
    });
    if let Some(closer) = closer {
        PENDING.fetch_add(1, Ordering::Relaxed);
        // The receiver lives as long as the process.
        let _ = closer.send(fd);
    }
}

/// Whether so many descriptors wait that peers should, too.
pub(crate) fn is_clogged() -> bool {
    PENDING.load(Ordering::Relaxed) > ENOUGH
}

//! The CLI's socket: one JSON object a line. Connections, lines and waits are bounded; who connects is taken
//! from the kernel (SO_PEERCRED) and logged with everything that changes something.

use rustix::net::sockopt::socket_peercred;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use turnpike_api::serve::{RequestDecoder, encode_error};
use turnpike_api::{ErrorBody, ErrorCode, Request};

/// Connections at a time; further ones wait to be accepted.
const CONNECTIONS: usize = 64;
/// A connection that says nothing for this long is closed.
const IDLE: Duration = Duration::from_secs(300);
/// An answer that is not read within this time ends the connection.
const WRITE: Duration = Duration::from_secs(10);
/// The daemon answers everything within this time, or never.
const ANSWER: Duration = Duration::from_secs(15);
/// After a failure to accept: descriptors may come free.
const PAUSE: Duration = Duration::from_millis(100);

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// User id.
    pub uid: u32,
    /// Process id.
    pub pid: i32,
}

/// A request on its way to the daemon.
#[derive(Debug)]
pub struct Ask {
    /// What.
    pub request: Request,
    /// Who.
    pub peer: Peer,
    /// Where the line of the answer goes.
    pub reply: oneshot::Sender<Vec<u8>>,
}

/// The socket; removed when dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Listens at `path`, for its user and group alone. What a dead process left there is replaced.
    ///
    /// # Errors
    /// `AddrInUse` if another process listens there; else what the kernel says.
    pub fn bind(path: &Path) -> std::io::Result<Self> {
        let is_socket = std::fs::symlink_metadata(path).is_ok_and(|about| about.file_type().is_socket());
        if is_socket {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                let what = "another process answers there: is another turnpike-controlplane running?";
                return Err(std::io::Error::new(std::io::ErrorKind::AddrInUse, what));
            }
            std::fs::remove_file(path)?;
        }
        // Nobody else may connect between the socket's birth and its permissions.
        let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o117));
        let listener = UnixListener::bind(path);
        rustix::process::umask(before);
        let socket = Self { listener: listener?, path: path.to_owned() };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
        Ok(socket)
    }

    /// Serves until the daemon listens no more.
    pub async fn serve(self, asks: mpsc::Sender<Ask>) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(permit) = permits.clone().acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let asks = asks.clone();
                    tokio::spawn(async move {
                        if let Err(error) = connection(stream, asks).await {
                            tracing::debug!(%error, "connection of the CLI ended");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection of the CLI could not be accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "socket not removed");
        }
    }
}

async fn connection(mut stream: UnixStream, asks: mpsc::Sender<Ask>) -> std::io::Result<()> {
    let credentials = socket_peercred(&stream)?;
    let peer = Peer { uid: credentials.uid.as_raw(), pid: credentials.pid.as_raw_nonzero().get() };
    tracing::debug!(uid = peer.uid, pid = peer.pid, "CLI connected");
    let mut decoder = RequestDecoder::default();
    let mut buffer = [0; 4096];
    loop {
        let read = tokio::time::timeout(IDLE, stream.read(&mut buffer)).await??;
        if read == 0 {
            return Ok(());
        }
        let mut input = buffer.get(..read).unwrap_or_default();
        while let Some(request) = decoder.next(&mut input) {
            let line = match request {
                Ok(request) => answer(request, peer, &asks).await,
                Err(error) => encode_error(&error),
            };
            tokio::time::timeout(WRITE, stream.write_all(&line)).await??;
        }
    }
}

async fn answer(request: Request, peer: Peer, asks: &mpsc::Sender<Ask>) -> Vec<u8> {
    if request.mutates() {
        tracing::info!(uid = peer.uid, pid = peer.pid, ?request, "request");
    }
    let (reply, answer) = oneshot::channel();
    let stopping = || encode_error(&ErrorBody::new(ErrorCode::Unreachable, "the control plane is stopping"));
    if asks.send(Ask { request, peer, reply }).await.is_err() {
        return stopping();
    }
    match tokio::time::timeout(ANSWER, answer).await {
        Ok(Ok(line)) => line,
        Ok(Err(_)) => stopping(),
        Err(_) => encode_error(
            &ErrorBody::new(ErrorCode::Timeout, "no answer in time: a worker does not respond")
                .with_hint("look at turnpike show workers; what was asked may still come into effect"),
        ),
    }
}

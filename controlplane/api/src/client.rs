//! A blocking client for one connection.

use crate::envelope::ErrorEnvelope;
use crate::{Envelope, ErrorBody, ErrorCode, MAX_REQUEST, MAX_RESPONSE, Payload, Request};
use serde::Deserialize;
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A request that got no answer, or an error for an answer.
#[derive(Debug)]
pub enum ClientError {
    /// Nobody listens at the socket, or it went away before it answered.
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The socket may not be opened.
    Permission {
        /// The socket.
        path: PathBuf,
    },
    /// No answer in time.
    Timeout {
        /// How long the client waited.
        waited: Duration,
    },
    /// The answer is not one of this protocol's.
    Malformed {
        /// What is wrong with it.
        what: String,
    },
    /// The control plane refused.
    Refused(ErrorBody),
}

impl ClientError {
    /// The error in the form that servers send.
    #[must_use]
    pub fn body(&self) -> ErrorBody {
        match self {
            Self::Unreachable { path, source } => ErrorBody::new(
                ErrorCode::Unreachable,
                format!("the control plane does not answer at {}: {source}", path.display()),
            )
            .with_hint("is turnpike-controlplane running (systemctl status turnpike-controlplane)? Another socket: --socket PATH"),
            Self::Permission { path } => ErrorBody::new(
                ErrorCode::Permission,
                format!("this user may not open {}", path.display()),
            )
            .with_hint("run as root or as a member of the socket's group"),
            Self::Timeout { waited } => ErrorBody::new(
                ErrorCode::Timeout,
                format!("no answer within {} s", waited.as_secs_f64()),
            )
            .with_hint("the control plane may be busy; wait longer with --timeout SECONDS"),
            Self::Malformed { what } => ErrorBody::new(ErrorCode::Failed, what.clone())
                .with_hint("install the same release of turnpike and turnpike-controlplane"),
            Self::Refused(body) => body.clone(),
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.body().fmt(f)
    }
}

impl std::error::Error for ClientError {}

/// A connection to the control plane. After an error other than [`ClientError::Refused`] it is of no more use.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    path: PathBuf,
    timeout: Duration,
    /// Bytes behind the last response.
    received: Vec<u8>,
}

impl Client {
    /// Connects. `timeout` bounds this and every later call, each as a whole.
    ///
    /// # Errors
    /// Unreachable, permission or timeout.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self, ClientError> {
        // A connect to a unix socket waits while its backlog is full, and only a thread can give that up.
        let (sender, receiver) = mpsc::channel();
        let target = path.to_owned();
        std::thread::spawn(move || sender.send(UnixStream::connect(target)));
        let path = path.to_owned();
        match receiver.recv_timeout(timeout) {
            Ok(Ok(stream)) => Ok(Self { stream, path, timeout, received: Vec::new() }),
            Ok(Err(error)) if error.kind() == ErrorKind::PermissionDenied => {
                Err(ClientError::Permission { path })
            }
            Ok(Err(source)) => Err(ClientError::Unreachable { path, source }),
            Err(_) => Err(ClientError::Timeout { waited: timeout }),
        }
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn call<T: Payload>(&mut self, request: &Request) -> Result<Envelope<T>, ClientError> {
        let deadline = Instant::now() + self.timeout;
        let mut line = serde_json::to_vec(request)
            .map_err(|error| ClientError::Malformed { what: format!("the request is not JSON: {error}") })?;
        line.push(b'\n');
        if line.len() > MAX_REQUEST {
            let what = format!("the request is {} bytes long, allowed are {MAX_REQUEST}", line.len());
            return Err(ClientError::Refused(ErrorBody::new(ErrorCode::BadRequest, what)));
        }
        self.send(&line, deadline)?;
        let line = self.receive(deadline)?;
        decode(&line)
    }

    /// Time left, never zero: a zero timeout would mean to wait for ever.
    fn left(&self, deadline: Instant) -> Result<Duration, ClientError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(ClientError::Timeout { waited: self.timeout }) } else { Ok(left) }
    }

    fn failed(&self, source: std::io::Error) -> ClientError {
        match source.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => ClientError::Timeout { waited: self.timeout },
            _ => ClientError::Unreachable { path: self.path.clone(), source },
        }
    }

    fn send(&mut self, mut line: &[u8], deadline: Instant) -> Result<(), ClientError> {
        while !line.is_empty() {
            let left = self.left(deadline)?;
            let sent = self.stream.set_write_timeout(Some(left)).and_then(|()| self.stream.write(line));
            match sent {
                Ok(0) => return Err(self.failed(ErrorKind::WriteZero.into())),
                Ok(count) => line = line.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The server may have said why before it closed: read that first.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(())
    }

    fn receive(&mut self, deadline: Instant) -> Result<Vec<u8>, ClientError> {
        let mut searched = 0;
        let mut chunk = vec![0; 64 << 10];
        loop {
            let fresh = self.received.get(searched..).unwrap_or_default();
            if let Some(end) = fresh.iter().position(|&byte| byte == b'\n') {
                let rest = self.received.split_off(searched + end + 1);
                return Ok(std::mem::replace(&mut self.received, rest));
            }
            searched = self.received.len();
            if searched > MAX_RESPONSE {
                return Err(ClientError::Malformed {
                    what: format!("the answer is longer than {MAX_RESPONSE} bytes"),
                });
            }
            let left = self.left(deadline)?;
            match self.stream.set_read_timeout(Some(left)).and_then(|()| self.stream.read(&mut chunk)) {
                Ok(0) => {
                    let source = std::io::Error::new(ErrorKind::UnexpectedEof, "it closed the connection");
                    return Err(self.failed(source));
                }
                Ok(count) => self.received.extend_from_slice(chunk.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
    }
}

/// Only what tells an envelope from an error, and whose it is.
#[derive(Deserialize)]
struct Head {
    schema: Option<String>,
}

/// Decodes a response line.
///
/// # Errors
/// [`ClientError::Refused`] for an error, [`ClientError::Malformed`] for what is no response to the request.
pub fn decode<T: Payload>(line: &[u8]) -> Result<Envelope<T>, ClientError> {
    let malformed = |what| Err(ClientError::Malformed { what });
    let schema = match serde_json::from_slice::<Head>(line) {
        Ok(Head { schema: Some(schema) }) => schema,
        Ok(Head { schema: None }) => {
            return match serde_json::from_slice::<ErrorEnvelope>(line) {
                Ok(ErrorEnvelope { error }) => Err(ClientError::Refused(error)),
                Err(error) => malformed(format!("the answer is neither data nor an error: {error}")),
            };
        }
        Err(error) => return malformed(format!("the answer is not JSON: {error}")),
    };
    if schema != T::SCHEMA {
        return malformed(format!("the answer is of schema {schema}, expected is {}", T::SCHEMA));
    }
    serde_json::from_slice(line)
        .or_else(|error| malformed(format!("the answer is not of schema {schema}: {error}")))
}

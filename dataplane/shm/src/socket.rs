//! The unix socket of the handshake: one [`Message`] a packet, descriptors beside it.

use crate::closer;
use core::mem::MaybeUninit;
use core::time::Duration;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect,
    listen, recvmsg, sendmsg, socket_with, socketpair,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use turnpike_abi::attach::Message;
use zerocopy::{FromBytes, IntoBytes};

/// Most descriptors beside a message: a WELCOME has two, and one a worker.
pub const MAX_DESCRIPTORS: usize = 2 + turnpike_abi::MAX_WORKERS;

/// Most that the kernel lets any packet carry (`SCM_MAX_FD`). With room for all of them none is left for it to close
/// while we wait.
const MOST_DESCRIPTORS: usize = 253;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 16;

/// Why a message was not sent or received.
#[derive(Debug)]
pub enum SocketError {
    /// The peer sent a packet that is no message: too short, too long, or with too many descriptors.
    Malformed(&'static str),
    /// The caller passes more than [`MAX_DESCRIPTORS`].
    TooManyDescriptors,
    /// The peer does not read what it is sent.
    Full,
    /// The kernel refused.
    Io(io::Error),
}

impl core::fmt::Display for SocketError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Malformed(what) => write!(f, "the peer sent {what}"),
            Self::TooManyDescriptors => {
                write!(f, "a message carries at most {MAX_DESCRIPTORS} descriptors")
            }
            Self::Full => f.write_str("the peer does not read its socket"),
            Self::Io(error) => write!(f, "socket: {error}"),
        }
    }
}

impl core::error::Error for SocketError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Errno> for SocketError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// Who is at the other end, by the kernel's word at the time of its connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Process id.
    pub pid: i32,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
}

/// The listening end. Removes its path when dropped.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    path: PathBuf,
}

impl Listener {
    /// Listens at `path`, whose permissions become `mode` before the first peer can connect. What a dead
    /// process left there is replaced.
    ///
    /// # Errors
    /// `AddrInUse` if another process listens there; `AlreadyExists` if the path is not a socket.
    pub fn bind(path: &Path, mode: u32) -> io::Result<Self> {
        remove_stale(path)?;
        let fd = seqpacket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        bind(&fd, &SocketAddrUnix::new(path)?)?;
        let listener = Self { fd, path: path.to_owned() };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        listen(&listener.fd, BACKLOG)?;
        Ok(listener)
    }

    /// The next peer that connected, without waiting; `None` if there is none.
    ///
    /// # Errors
    /// If the kernel has no descriptor left or does not tell who connected.
    pub fn accept(&self) -> io::Result<Option<(Connection, Credentials)>> {
        if closer::is_clogged() {
            return Ok(None);
        }
        match accept_with(&self.fd, SocketFlags::CLOEXEC) {
            Ok(fd) => {
                let peer = socket_peercred(&fd)?;
                let credentials = Credentials {
                    pid: peer.pid.as_raw_nonzero().get(),
                    uid: peer.uid.as_raw(),
                    gid: peer.gid.as_raw(),
                };
                Ok(Some((Connection { fd }, credentials)))
            }
            // Nobody there, or gone again.
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Best effort: a path that stays is found stale by the next process.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn seqpacket(flags: SocketFlags) -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Removes a socket nobody listens on.
fn remove_stale(path: &Path) -> io::Result<()> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        let what = format!("{} exists and is not a socket: remove it", path.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
    }
    let probe = seqpacket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    match connect(&probe, &SocketAddrUnix::new(path)?) {
        Err(Errno::CONNREFUSED) => std::fs::remove_file(path),
        // Gone meanwhile.
        Err(Errno::NOENT) => Ok(()),
        Ok(()) | Err(Errno::AGAIN) => {
            let what = format!("another process listens at {}: stop it first", path.display());
            Err(io::Error::new(io::ErrorKind::AddrInUse, what))
        }
        Err(errno) => Err(errno.into()),
    }
}

/// What a reception brought.
#[derive(Debug)]
pub enum Received {
    /// A message and the descriptors beside it, close-on-exec.
    Message(Message, Descriptors),
    /// Nothing is there.
    Nothing,
    /// The peer closed its end.
    Closed,
}

/// Descriptors that the peer sent, of whatever kind. Dropped, they are closed by a thread of its own: closing may
/// wait for the peer.
#[derive(Debug, Default)]
pub struct Descriptors(Vec<OwnedFd>);

impl core::ops::Deref for Descriptors {
    type Target = [OwnedFd];

    fn deref(&self) -> &[OwnedFd] {
        &self.0
    }
}

impl Descriptors {
    /// The first `N`, and the others. `None` if they are fewer.
    #[must_use]
    pub fn split<const N: usize>(mut self) -> Option<([OwnedFd; N], Self)> {
        let others = if self.0.len() < N { return None } else { self.0.split_off(N) };
        let first = <[OwnedFd; N]>::try_from(self).ok()?;
        Some((first, Self(others)))
    }

    /// The first of them, if any is left.
    pub fn take_first(&mut self) -> Option<OwnedFd> {
        (!self.0.is_empty()).then(|| self.0.remove(0))
    }
}

impl<const N: usize> TryFrom<Descriptors> for [OwnedFd; N] {
    type Error = Descriptors;

    /// All of them, if they are `N`.
    fn try_from(mut descriptors: Descriptors) -> Result<Self, Descriptors> {
        Self::try_from(core::mem::take(&mut descriptors.0)).map_err(Descriptors)
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        self.0.drain(..).for_each(closer::close);
    }
}

/// One end of a connection.
#[derive(Debug)]
pub struct Connection {
    fd: OwnedFd,
}

impl Drop for Connection {
    /// The peer sees the end at once. What it sent and nobody read goes with the last descriptor, and may hold
    /// descriptors whose end the peer can draw out: that is left to the closer.
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Both);
        if let Ok(last) = self.fd.try_clone() {
            closer::close(last);
        }
    }
}

impl Connection {
    /// Connects to `path`, waiting at most `timeout` where the listener is slow to accept.
    ///
    /// # Errors
    /// What the kernel says: `NotFound` or `ConnectionRefused` if nobody listens there.
    pub fn connect(path: &Path, timeout: Duration) -> io::Result<Self> {
        let fd = seqpacket(SocketFlags::CLOEXEC)?;
        set_socket_timeout(&fd, Timeout::Send, Some(timeout))?;
        connect(&fd, &SocketAddrUnix::new(path)?)?;
        Ok(Self { fd })
    }

    /// Two connected ends in one process.
    ///
    /// # Errors
    /// If the kernel has no descriptor left.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (left, right) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self { fd: left }, Self { fd: right }))
    }

    /// Sends a message. Never waits.
    ///
    /// # Errors
    /// [`SocketError::Full`] if the peer does not read; what the kernel says if it is gone.
    pub fn send(&self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> Result<(), SocketError> {
        self.send_bytes(message.as_bytes(), descriptors)
    }

    /// Sends a packet of any bytes. For test peers that do not keep to the protocol.
    ///
    /// # Errors
    /// As [`Connection::send`].
    pub fn send_bytes(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), SocketError> {
        if descriptors.len() > MAX_DESCRIPTORS {
            return Err(SocketError::TooManyDescriptors);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(SocketError::TooManyDescriptors);
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        loop {
            match sendmsg(&self.fd, &[IoSlice::new(bytes)], &mut control, flags) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(SocketError::Full),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The next message, without waiting.
    ///
    /// # Errors
    /// [`SocketError::Malformed`] if the packet is no message; its descriptors are closed.
    pub fn receive(&self) -> Result<Received, SocketError> {
        self.receive_with(RecvFlags::DONTWAIT)
    }

    /// The next message, waiting for it at most `timeout`.
    ///
    /// # Errors
    /// As [`Connection::receive`].
    pub fn receive_within(&self, timeout: Duration) -> Result<Received, SocketError> {
        // Zero would mean to wait for ever.
        let timeout = timeout.max(Duration::from_millis(1));
        set_socket_timeout(&self.fd, Timeout::Recv, Some(timeout))?;
        self.receive_with(RecvFlags::empty())
    }

    fn receive_with(&self, flags: RecvFlags) -> Result<Received, SocketError> {
        let mut bytes = [0u8; size_of::<Message>()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut reset = false;
        let received = loop {
            let parts = &mut [IoSliceMut::new(&mut bytes)];
            match recvmsg(&self.fd, parts, &mut control, flags | RecvFlags::CMSG_CLOEXEC) {
                Ok(received) => break received,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Received::Nothing),
                // The peer closed before it read all we sent. What it said before that comes next.
                Err(Errno::CONNRESET) if !reset => reset = true,
                Err(Errno::CONNRESET) => return Ok(Received::Closed),
                Err(errno) => return Err(errno.into()),
            }
        };
        let mut descriptors = Descriptors::default();
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = part {
                descriptors.0.extend(rights);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() > MAX_DESCRIPTORS {
            return Err(SocketError::Malformed("more descriptors than any message carries"));
        }
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Err(SocketError::Malformed("a packet longer than a message"));
        }
        // A packet without bytes looks like the end, and is as good as one.
        if received.bytes == 0 {
            return Ok(Received::Closed);
        }
        if received.bytes != bytes.len() {
            return Err(SocketError::Malformed("a packet shorter than a message"));
        }
        match Message::read_from_bytes(&bytes) {
            Ok(message) => Ok(Received::Message(message, descriptors)),
            Err(_) => Err(SocketError::Malformed("a packet of another size than a message")),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

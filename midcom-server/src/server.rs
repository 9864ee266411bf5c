//! The SIMCO server: listens, lets agents in over TLS or in clear text, and speaks for the policy engine.

use crate::connection::{Connection, Transport};
use crate::guard::{Counters, Guard, Limits, Turned};
use parking_lot::RwLock;
use ring::rand::{SecureRandom as _, SystemRandom};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use turnpike_gateway::Gateway;
use turnpike_policy::Network;
use turnpike_simco::{Directory, NotificationIds};

/// How long the listener rests when the system has no descriptor left.
const EXHAUSTED: Duration = Duration::from_millis(100);
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// The first octet of a TLS ClientHello's record.
const HANDSHAKE: u8 = 0x16;

/// What the operator configured.
#[derive(Clone)]
pub struct Settings {
    /// The middlebox's id in challenges.
    pub middlebox: String,
    /// TLS; none: there is only clear text.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Sources that may speak in clear text and prove themselves by a key: loopback, or what IPsec protects.
    pub clear_text: Vec<Network>,
    /// Keys of agents by name.
    pub keys: HashMap<String, Vec<u8>>,
    /// Bounds of the sessions.
    pub session: turnpike_simco::Settings,
    /// Bounds of the server.
    pub limits: Limits,
    /// "twice" on a box without twice-NAT reserves A2 alone (RFC 5189 2.3.8), and is not refused (RFC 4540 8.2.3).
    pub lenient_nat_mode: bool,
    /// What authorization tokens are sealed with ([`crate::permit`]); none: tokens are not in use.
    pub token_key: Option<Vec<u8>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            middlebox: "turnpike".to_owned(),
            tls: None,
            clear_text: Vec::new(),
            keys: HashMap::new(),
            session: turnpike_simco::Settings::default(),
            limits: Limits::default(),
            lenient_nat_mode: false,
            token_key: None,
        }
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Keys stay out of logs.
        f.debug_struct("Settings")
            .field("middlebox", &self.middlebox)
            .field("tls", &self.tls.is_some())
            .field("clear_text", &self.clear_text)
            .field("keys", &self.keys.len())
            .finish_non_exhaustive()
    }
}

/// The server; clones are the same one.
#[derive(Clone, Debug)]
pub struct Server {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) gateway: Gateway,
    pub(crate) settings: RwLock<Arc<Settings>>,
    pub(crate) guard: Arc<Guard>,
    pub(crate) ids: NotificationIds,
    pub(crate) random: SystemRandom,
    /// The zero of the sessions' clocks.
    pub(crate) start: Instant,
}

impl Server {
    /// A server that listens nowhere yet.
    #[must_use]
    pub fn new(gateway: Gateway, settings: Settings) -> Self {
        let inner = Inner {
            gateway,
            settings: RwLock::new(Arc::new(settings)),
            guard: Arc::default(),
            ids: NotificationIds::default(),
            random: SystemRandom::new(),
            start: Instant::now(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Other settings, for connections from now on. Agents that lost their authorization are terminated by the
    /// policy engine.
    pub fn configure(&self, settings: Settings) {
        *self.inner.settings.write() = Arc::new(settings);
    }

    /// What happened since the start.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.inner.guard.counters)
    }

    /// A listener at `address`, which an interface may get later: the dataplane makes the TAP twins.
    ///
    /// # Errors
    /// Why there is none.
    pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
        use rustix::net::sockopt;
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        if address.is_ipv4() {
            sockopt::set_ip_freebind(&socket, true)?;
        } else {
            sockopt::set_ipv6_freebind(&socket, true)?;
            sockopt::set_ipv6_v6only(&socket, !address.ip().is_unspecified())?;
        }
        socket.bind(address)?;
        socket.listen(BACKLOG)
    }

    /// Accepts connections for ever.
    pub async fn serve(self, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => self.accepted(stream, peer),
                Err(error) => {
                    tracing::warn!(%error, "SIMCO: no connection could be accepted");
                    tokio::time::sleep(EXHAUSTED).await;
                }
            }
        }
    }

    fn accepted(&self, stream: TcpStream, peer: SocketAddr) {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let settings = Arc::clone(&self.inner.settings.read());
        let guard = &self.inner.guard;
        Counters::add(&guard.counters.accepted);
        let (place, half_open) = match guard.admit(peer.ip(), &settings.limits, Instant::now()) {
            Ok(admitted) => admitted,
            Err(Turned::Blocked { first }) => {
                Counters::add(&guard.counters.blocked);
                if first {
                    tracing::warn!(peer = %peer.ip(), "SIMCO: refused after too many failed authentications");
                }
                return;
            }
            Err(Turned::Full | Turned::HalfOpen) => {
                Counters::add(&guard.counters.full);
                tracing::debug!(%peer, "SIMCO: closed, there are too many connections");
                return;
            }
        };
        let inner = Arc::clone(&self.inner);
        tokio::spawn(async move {
            let _place = place;
            let connection = Connection::new(inner, settings, peer, half_open);
            connect(stream, connection).await;
        });
    }
}

/// From the TCP connection to the session, over TLS or in clear text (B-AMB-19).
async fn connect(stream: TcpStream, connection: Connection) {
    if let Err(error) = watch(&stream) {
        tracing::debug!(peer = %connection.peer, %error, "SIMCO: gone before it began");
        return;
    }
    let mut first = [0];
    let limit = connection.settings.limits.handshake;
    match timeout(limit, stream.peek(&mut first)).await {
        Ok(Ok(1)) => {}
        // Nothing came, or the end.
        Ok(Ok(_) | Err(_)) | Err(_) => return,
    }
    if first != [HANDSHAKE] {
        let allowed =
            connection.settings.clear_text.iter().any(|prefix| prefix.contains(connection.peer.ip()));
        let transport = if allowed { Transport::ClearText } else { Transport::Insufficient };
        return connection.run(stream, transport).await;
    }
    let Some(config) = connection.settings.tls.clone() else {
        connection.handshake_failed("TLS is not configured: see simco.certificate");
        return;
    };
    match timeout(limit, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(stream)) => {
            let transport = Transport::tls(stream.get_ref().1);
            connection.run(stream, transport).await;
        }
        Ok(Err(error)) => connection.handshake_failed(&error.to_string()),
        Err(_) => connection.handshake_failed("not completed in time"),
    }
}

/// SIMCO has no keepalive (B-KA-01): TCP finds out that an agent is gone, in two minutes.
fn watch(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10))?;
    sockopt::set_tcp_keepcnt(stream, 6)?;
    Ok(())
}

/// What a session asks of the configuration.
pub(crate) struct Known<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) random: &'a SystemRandom,
}

impl Directory for Known<'_> {
    fn middlebox(&self) -> Vec<u8> {
        self.settings.middlebox.as_bytes().to_vec()
    }

    fn key(&self, agent: &[u8]) -> Option<Vec<u8>> {
        let name = std::str::from_utf8(agent).ok()?;
        self.settings.keys.get(name).cloned()
    }

    fn random(&self) -> [u8; 32] {
        let mut octets = [0; 32];
        // The system's generator is ready once the kernel is; without it no challenge may leave.
        self.random.fill(&mut octets).expect("the kernel's random numbers");
        octets
    }
}

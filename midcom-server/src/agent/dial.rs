//! A connection to the middlebox with an open session on it.

use super::{Lost, Settings};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::pki_types::ServerName;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use turnpike_simco::{AgentEvent, AgentSession, Ended, Established, Extensions, Failure};

/// TLS towards a middlebox.
#[derive(Clone, Debug)]
pub struct TlsPeer {
    /// Certificates and versions.
    pub config: Arc<rustls::ClientConfig>,
    /// The name that the middlebox's certificate has to have.
    pub name: ServerName<'static>,
}

/// Why a connection cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No TCP connection.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Host and port.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// No TLS.
    #[error("TLS with {address}: {source}")]
    Tls {
        /// Host and port.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The middlebox closed the connection before there was a session.
    #[error("{address} closed the connection: {source}")]
    Closed {
        /// Host and port.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// Too slow.
    #[error("{address} did not answer within {seconds} s")]
    Timeout {
        /// Host and port.
        address: String,
        /// The limit.
        seconds: u64,
    },
    /// No random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

pub(super) trait Octets: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Octets for T {}

/// An open session.
pub(super) struct Line {
    pub(super) stream: Box<dyn Octets>,
    pub(super) session: AgentSession,
    pub(super) established: Established,
}

/// Connects and establishes a session. A middlebox that refuses the offer of extensions is asked again without
/// (B-AMB-16), which `strict` remembers.
pub(super) async fn dial(settings: &Settings, strict: &mut bool) -> Result<Line, Lost> {
    loop {
        let offered =
            Some(settings.extensions).filter(|_| !*strict && settings.extensions != Extensions::NONE);
        let address = settings.address.clone();
        let seconds = settings.timeout.as_secs();
        let line = timeout(settings.timeout, once(settings, offered))
            .await
            .unwrap_or_else(|_| Err(Lost::Dial(DialError::Timeout { address, seconds }.to_string())));
        match line {
            Err(Lost::Ended(Ended::Refused(refused)))
                if refused.failure == Failure::BadlyFormed && offered.is_some() =>
            {
                *strict = true;
            }
            other => return other,
        }
    }
}

async fn once(settings: &Settings, offered: Option<Extensions>) -> Result<Line, Lost> {
    let address = || settings.address.clone();
    let lost = |error: DialError| Lost::Dial(error.to_string());
    let tcp = TcpStream::connect(&settings.address)
        .await
        .map_err(|source| lost(DialError::Connect { address: address(), source }))?;
    tcp.set_nodelay(true).map_err(|source| lost(DialError::Connect { address: address(), source }))?;
    let mut stream: Box<dyn Octets> = match &settings.tls {
        None => Box::new(tcp),
        Some(peer) => {
            let connector = TlsConnector::from(Arc::clone(&peer.config));
            let tls = connector.connect(peer.name.clone(), tcp).await;
            Box::new(tls.map_err(|source| lost(DialError::Tls { address: address(), source }))?)
        }
    };
    let mut random = [0; 32];
    SystemRandom::new().fill(&mut random).map_err(|_| lost(DialError::Random))?;
    let mut session = AgentSession::new(settings.credentials.clone(), &random, offered);
    let mut octets = [0; 4096];
    let closed = |source| lost(DialError::Closed { address: address(), source });
    loop {
        let output = std::mem::take(session.output());
        stream.write_all(&output).await.map_err(closed)?;
        stream.flush().await.map_err(closed)?;
        let count = match stream.read(&mut octets).await.map_err(closed)? {
            0 => return Err(closed(std::io::ErrorKind::UnexpectedEof.into())),
            count => count,
        };
        session.receive(octets.get(..count).unwrap_or_default());
        match session.event() {
            Some(AgentEvent::Opened(established)) => return Ok(Line { stream, session, established }),
            Some(AgentEvent::Ended(why)) => return Err(Lost::Ended(why)),
            // Notifications before the session are none of this session.
            Some(AgentEvent::Answer { .. } | AgentEvent::Notification(_)) | None => {}
        }
    }
}

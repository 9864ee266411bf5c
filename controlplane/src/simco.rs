//! The SIMCO server as the configuration wants it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use turnpike_config::Config;
use turnpike_gateway::Gateway;
use turnpike_midcom::certificate::{TlsError, TlsFiles, server_config};
use turnpike_midcom::{Counters, Limits, Server, Settings};
use turnpike_policy::Network;
use turnpike_simco::Extensions;

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum SimcoError {
    /// A file of TLS is not usable.
    #[error("simco: {0}")]
    Tls(#[from] TlsError),
    /// A key cannot be read.
    #[error("the key of agent {agent}: {}: {source}", path.display())]
    Key {
        /// Whose.
        agent: String,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The key of authorization tokens cannot be read.
    #[error("simco.token_key: {}: {source}", path.display())]
    TokenKey {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// An address cannot be listened at.
    #[error("cannot listen at {at}: {source}; see simco.listen")]
    Listen {
        /// The address.
        at: String,
        /// Why.
        source: std::io::Error,
    },
}

/// What the server is told. Reads certificates and keys.
///
/// # Errors
/// Names the file.
fn settings(config: &Config) -> Result<Settings, SimcoError> {
    let simco = &config.simco;
    let tls = match (&simco.certificate, &simco.key, &simco.authorities) {
        (Some(certificate), Some(key), Some(authorities)) => {
            let files = TlsFiles {
                certificate: certificate.clone(),
                key: key.clone(),
                authorities: authorities.clone(),
            };
            Some(server_config(&files)?)
        }
        _ => None,
    };
    let mut keys = std::collections::HashMap::new();
    for agent in &config.agents {
        if let Some(path) = &agent.key {
            let key = turnpike_midcom::read_key(path).map_err(|source| SimcoError::Key {
                agent: agent.name.clone(),
                path: path.clone(),
                source,
            })?;
            keys.insert(agent.name.clone(), key);
        }
    }
    let token_key = match &simco.token_key {
        Some(path) => {
            let wrong = |source| SimcoError::TokenKey { path: path.clone(), source };
            Some(turnpike_midcom::read_key(path).map_err(wrong)?)
        }
        None => None,
    };
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    Ok(Settings {
        middlebox: simco.id.clone(),
        tls,
        clear_text: simco.clear_text.iter().map(network).collect(),
        keys,
        session: turnpike_simco::Settings {
            max_request: simco.request as usize,
            pipelining: simco.pipelining as usize,
            establish: seconds(simco.establish),
            extensions: if simco.extensions { Extensions::ALL } else { Extensions::NONE },
            ..turnpike_simco::Settings::default()
        },
        limits: Limits {
            connections: simco.connections as usize,
            half_open: simco.half_open as usize,
            handshake: seconds(simco.handshake),
            write: seconds(simco.write),
            failures: simco.failures,
            period: seconds(simco.period),
        },
        lenient_nat_mode: simco.lenient_nat_mode,
        token_key,
    })
}

/// The server and where it listens.
#[derive(Debug)]
pub struct Simco {
    server: Server,
    listeners: BTreeMap<SocketAddr, AbortHandle>,
}

/// What a configuration asks for, ready to come into force.
#[derive(Debug)]
pub struct Prepared {
    settings: Settings,
    listeners: Vec<(SocketAddr, TcpListener)>,
    addresses: BTreeSet<SocketAddr>,
}

impl Simco {
    /// The server as `config` wants it.
    ///
    /// # Errors
    /// What is wrong with a file or an address.
    pub fn start(config: &Config, gateway: Gateway) -> Result<Self, SimcoError> {
        let mut simco =
            Self { server: Server::new(gateway, Settings::default()), listeners: BTreeMap::new() };
        let prepared = simco.prepare(config)?;
        simco.apply(prepared);
        Ok(simco)
    }

    /// What it counts.
    pub fn counters(&self) -> Arc<Counters> {
        self.server.counters()
    }

    /// Reads the files and binds the addresses that `config` has and the running one has not.
    ///
    /// # Errors
    /// What is wrong with a file or an address; nothing is changed.
    pub fn prepare(&self, config: &Config) -> Result<Prepared, SimcoError> {
        let settings = settings(config)?;
        let addresses: BTreeSet<SocketAddr> = config.simco.listen.iter().copied().collect();
        let mut listeners = Vec::new();
        for &address in addresses.iter().filter(|address| !self.listeners.contains_key(address)) {
            let listen = |source| SimcoError::Listen { at: address.to_string(), source };
            listeners.push((address, Server::bind(address).map_err(listen)?));
        }
        Ok(Prepared { settings, listeners, addresses })
    }

    /// Brings it into force. Connections that are there go on.
    pub fn apply(&mut self, prepared: Prepared) {
        let Prepared { settings, listeners, addresses } = prepared;
        self.server.configure(settings);
        self.listeners.retain(|address, listener| {
            let stays = addresses.contains(address);
            if !stays {
                listener.abort();
                tracing::info!(%address, "SIMCO: listening no more");
            }
            stays
        });
        for (address, listener) in listeners {
            tracing::info!(%address, "SIMCO: listening");
            let task = tokio::spawn(self.server.clone().serve(listener));
            self.listeners.insert(address, task.abort_handle());
        }
    }
}

fn network(prefix: &turnpike_config::Network) -> Network {
    Network { address: prefix.address(), length: prefix.length() }
}

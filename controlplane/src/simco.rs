//! The SIMCO server as the configuration wants it.

use std::path::PathBuf;
use std::time::Duration;
use turnpike_config::Config;
use turnpike_gateway::Gateway;
use turnpike_midcom::certificate::{TlsError, TlsFiles, server_config};
use turnpike_midcom::{Limits, Server, Settings};
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
pub fn settings(config: &Config) -> Result<Settings, SimcoError> {
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
    })
}

/// The server, listening where the configuration says; none if it says nowhere.
///
/// # Errors
/// What is wrong with a file or an address.
pub fn start(config: &Config, gateway: Gateway) -> Result<Option<Server>, SimcoError> {
    if config.simco.listen.is_empty() {
        return Ok(None);
    }
    let server = Server::new(gateway, settings(config)?);
    for &address in &config.simco.listen {
        let listen = |source| SimcoError::Listen { at: address.to_string(), source };
        let listener = Server::bind(address).map_err(listen)?;
        tracing::info!(%address, "SIMCO: listening");
        tokio::spawn(server.clone().serve(listener));
    }
    Ok(Some(server))
}

fn network(prefix: &turnpike_config::Network) -> Network {
    Network { address: prefix.address(), length: prefix.length() }
}

//! Who a certificate says its holder is, and the files TLS is made of.

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use turnpike_policy::Agent;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds something else.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// A file of certificates has none.
    #[error("{}: no certificate in it", .0.display())]
    Empty(PathBuf),
    /// A certificate of an authority is not usable.
    #[error("{}: {source}", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// Certificate and key do not fit, or are of an unsupported kind.
    #[error("{}: {source}", path.display())]
    Identity {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// Clients cannot be verified against the authorities.
    #[error("{}: {source}", path.display())]
    Verifier {
        /// The authorities' file.
        path: PathBuf,
        /// Why.
        source: rustls::server::VerifierBuilderError,
    },
}

/// Files of one side, PEM each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The own certificate and what leads to its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities of the other side.
    pub authorities: PathBuf,
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let file = |source| TlsError::File { path: path.to_owned(), source };
    let list: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(file)?.collect();
    let list = list.map_err(file)?;
    if list.is_empty() { Err(TlsError::Empty(path.to_owned())) } else { Ok(list) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| TlsError::File { path: path.to_owned(), source })
}

fn authorities(path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate).map_err(|source| TlsError::Authority { path: path.to_owned(), source })?;
    }
    Ok(Arc::new(store))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// TLS 1.2 and 1.3, nothing older (RFC 8996).
const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

/// The middlebox's side: agents have to show a certificate of one of the authorities.
///
/// # Errors
/// Names the file.
pub fn server_config(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let roots = authorities(&files.authorities)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(|source| TlsError::Verifier { path: files.authorities.clone(), source })?;
    let identity = |source| TlsError::Identity { path: files.certificate.clone(), source };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .map_err(identity)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&files.certificate)?, private_key(&files.key)?)
        .map_err(identity)?;
    // A resumed session would not show the certificate's end or withdrawal: every session shows it anew.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The agent's side.
///
/// # Errors
/// Names the file.
pub fn client_config(files: &TlsFiles) -> Result<Arc<ClientConfig>, TlsError> {
    let identity = |source| TlsError::Identity { path: files.certificate.clone(), source };
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .map_err(identity)?
        .with_root_certificates(authorities(&files.authorities)?)
        .with_client_auth_cert(certificates(&files.certificate)?, private_key(&files.key)?)
        .map_err(identity)?;
    Ok(Arc::new(config))
}

/// The names of a certificate's holder: of the subject's alternative names the URIs, DNS names, mail and IP addresses,
/// in this order; the common name only if there are none of them. Names an agent cannot have are left out.
#[must_use]
pub fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let mut kinds: [Vec<String>; 4] = Default::default();
    if let Ok(Some(extension)) = certificate.subject_alternative_name() {
        for name in &extension.value.general_names {
            match name {
                GeneralName::URI(name) => kinds[0].push((*name).to_owned()),
                GeneralName::DNSName(name) => kinds[1].push((*name).to_owned()),
                GeneralName::RFC822Name(name) => kinds[2].push((*name).to_owned()),
                GeneralName::IPAddress(octets) => kinds[3].extend(address(octets)),
                _ => {}
            }
        }
    }
    let mut names: Vec<String> = kinds.into_iter().flatten().collect();
    if names.is_empty() {
        let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        names.extend(common.map(str::to_owned));
    }
    names.retain(|name| {
        (1..=Agent::LONGEST).contains(&name.len())
            && !name.chars().any(|c| c.is_control() || c.is_whitespace())
    });
    names
}

fn address(octets: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(octets).ok().map(std::net::IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(octets).ok().map(std::net::IpAddr::from);
    v4.or_else(v6).map(|address| address.to_string())
}

//! Authorities and certificates made for one test.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use std::path::{Path, PathBuf};
use turnpike_midcom::Settings;
use turnpike_midcom::agent::{self, TlsPeer};
use turnpike_midcom::certificate::{TlsFiles, client_config, server_config};

/// An authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    folder: tempfile::TempDir,
}

/// How a certificate is made wrong.
#[derive(Clone, Copy, PartialEq)]
pub enum Fault {
    None,
    Expired,
    NotYet,
    /// For servers only.
    Purpose,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let pem = params.self_signed(&key).unwrap().pem();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), &pem).unwrap();
        Self { issuer: Issuer::new(params, key), pem, folder }
    }

    pub fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Certificate and key for `names`; without names, for the common name alone.
    pub fn issue(&self, common: &str, names: &[SanType], server: bool, fault: Fault) -> TlsFiles {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name = named(common);
        params.subject_alt_names = names.to_vec();
        let purpose = if server || fault == Fault::Purpose {
            ExtendedKeyUsagePurpose::ServerAuth
        } else {
            ExtendedKeyUsagePurpose::ClientAuth
        };
        params.extended_key_usages = vec![purpose];
        let years = match fault {
            Fault::Expired => (2001, 2002),
            Fault::NotYet => (2190, 2200),
            Fault::None | Fault::Purpose => (2001, 2200),
        };
        params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |kind: &str| self.folder.path().join(format!("{common}-{kind}.pem"));
        std::fs::write(path("cert"), certificate.pem() + &self.pem).unwrap();
        std::fs::write(path("key"), key.serialize_pem()).unwrap();
        TlsFiles { certificate: path("cert"), key: path("key"), authorities: self.file() }
    }

    /// A certificate with one DNS name.
    pub fn agent(&self, name: &str) -> TlsFiles {
        self.issue(name, &[dns(name)], false, Fault::None)
    }

    /// The server's settings, for "box.example".
    pub fn server(&self) -> Settings {
        let files = self.issue("box.example", &[dns("box.example")], true, Fault::None);
        Settings { tls: Some(server_config(&files).unwrap()), ..Settings::default() }
    }
}

fn named(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

pub fn dns(name: &str) -> SanType {
    SanType::DnsName(name.to_owned().try_into().unwrap())
}

/// How the agent with these files reaches the server that calls itself `name`.
pub fn over_tls(address: std::net::SocketAddr, files: &TlsFiles, name: &str) -> agent::Settings {
    let config = client_config(files).unwrap();
    let name = name.to_owned().try_into().unwrap();
    agent::Settings {
        tls: Some(TlsPeer { config, name }),
        reconnect: None,
        ..agent::Settings::new(&address.to_string())
    }
}

/// The files' texts, for what is wrong with files.
pub fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

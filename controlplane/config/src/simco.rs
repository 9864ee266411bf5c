//! `[simco]`: the SIMCO server (RFC 4540), as a type and from the document.

use crate::address::Network;
use crate::midcom::zones;
use crate::read::{Document, Section, boolean, integer, text};
use crate::sections::absolute_path;
use crate::value::{Name, Refusal};
use serde::Serialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use toml::de::DeValue;

/// Longest id of the middlebox, bytes.
const LONGEST_ID: usize = 255;
/// Longest of the times, seconds.
const LONGEST_TIME: i64 = 3600;

/// `[simco]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Simco {
    /// Inside zones agents may open for over SIMCO; none turns it off.
    pub zones: Vec<Name>,
    /// Where agents connect.
    pub listen: Vec<SocketAddr>,
    /// The box's certificate and what leads to its authority, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// Its private key, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// Authorities of the agents' certificates, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorities: Option<PathBuf>,
    /// Sources that may speak in clear text, and prove themselves by a key.
    pub clear_text: Vec<Network>,
    /// The box's id in challenges.
    pub id: String,
    /// Vendor extensions for agents that offer them.
    pub extensions: bool,
    /// A reservation for a twice-NAT reserves the outside end alone, and is not refused.
    pub lenient_nat_mode: bool,
    /// The key of authorization tokens; none: they are not in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_key: Option<PathBuf>,
    /// Connections at once.
    pub connections: u32,
    /// Of these, without session, from one source.
    pub half_open: u32,
    /// Requests of a session that may wait for their replies.
    pub pipelining: u32,
    /// Longest request, bytes.
    pub request: u32,
    /// Seconds for the TLS handshake.
    pub handshake: u32,
    /// Seconds from the connection to the session.
    pub establish: u32,
    /// Seconds an agent has to take what is sent.
    pub write: u32,
    /// Failed authentications of a source within the period after which it is refused.
    pub failures: u32,
    /// Seconds that failures count, and that a source is then refused.
    pub period: u32,
}

impl Default for Simco {
    fn default() -> Self {
        Self {
            zones: Vec::new(),
            listen: Vec::new(),
            certificate: None,
            key: None,
            authorities: None,
            clear_text: Vec::new(),
            id: "turnpike".to_owned(),
            extensions: true,
            lenient_nat_mode: false,
            token_key: None,
            connections: 16_384,
            half_open: 256,
            pipelining: 64,
            request: 8192,
            handshake: 10,
            establish: 30,
            write: 30,
            failures: 10,
            period: 60,
        }
    }
}

pub(crate) fn simco(section: &mut Section<'_, '_>) -> Simco {
    let default = Simco::default();
    let time = || integer(1..=LONGEST_TIME);
    Simco {
        zones: zones(section, "zones", false),
        listen: section
            .list("listen", "list addresses with ports, such as [\"192.168.0.1:7626\"]", listen)
            .unwrap_or_default(),
        certificate: section.optional("certificate", absolute_path),
        key: section.optional("key", absolute_path),
        authorities: section.optional("authorities", absolute_path),
        clear_text: section
            .list("clear_text", "list prefixes, such as [\"127.0.0.0/8\"]", text)
            .unwrap_or_default(),
        id: section.optional("id", id).unwrap_or(default.id),
        extensions: section.optional("extensions", boolean).unwrap_or(default.extensions),
        lenient_nat_mode: section.optional("lenient_nat_mode", boolean).unwrap_or(default.lenient_nat_mode),
        token_key: section.optional("token_key", absolute_path),
        connections: section.optional("connections", integer(1..=1_000_000)).unwrap_or(default.connections),
        half_open: section.optional("half_open", integer(1..=1_000_000)).unwrap_or(default.half_open),
        pipelining: section.optional("pipelining", integer(1..=4096)).unwrap_or(default.pipelining),
        request: section.optional("request", integer(256..=65_536)).unwrap_or(default.request),
        handshake: section.optional("handshake", time()).unwrap_or(default.handshake),
        establish: section.optional("establish", time()).unwrap_or(default.establish),
        write: section.optional("write", time()).unwrap_or(default.write),
        failures: section.optional("failures", integer(1..=1_000_000)).unwrap_or(default.failures),
        period: section.optional("period", time()).unwrap_or(default.period),
    }
}

/// Reports half a TLS identity, and a server that nobody could reach.
pub(crate) fn check(simco: &Simco, document: &mut Document<'_>) {
    let files = [
        ("simco.certificate", &simco.certificate),
        ("simco.key", &simco.key),
        ("simco.authorities", &simco.authorities),
    ];
    let given = files.iter().any(|(path, file)| file.is_some() || document.is_faulty(path));
    for (path, file) in files {
        if given && file.is_none() && !document.is_faulty(path) {
            document.refuse(path, "is missing: TLS takes certificate, key and authorities".to_owned());
        }
    }
    if simco.zones.is_empty() || document.is_faulty("simco.zones") {
        return;
    }
    if simco.listen.is_empty() && !document.is_faulty("simco.listen") {
        let message = "has zones but listens nowhere: give simco.listen, such as [\"192.168.0.1:7626\"]";
        document.refuse("simco.zones", message.to_owned());
    }
    let tls = ["simco.certificate", "simco.key", "simco.authorities"];
    let faulty = tls.iter().any(|path| document.is_faulty(path)) || document.is_faulty("simco.clear_text");
    if simco.certificate.is_none() && simco.clear_text.is_empty() && !faulty {
        let message = "has zones but lets nobody in: give certificate, key and authorities, or clear_text";
        document.refuse("simco.zones", message.to_owned());
    }
}

fn listen(value: &DeValue<'_>) -> Result<SocketAddr, Refusal> {
    let address: Option<SocketAddr> = value.as_str().and_then(|text| text.parse().ok());
    address
        .filter(|address| address.port() != 0)
        .ok_or("is not an address with a port: write \"192.168.0.1:7626\" or \"[2001:db8::1]:7626\"".into())
}

fn id(value: &DeValue<'_>) -> Result<String, Refusal> {
    let fits = |text: &&str| (1..=LONGEST_ID).contains(&text.len()) && !text.chars().any(char::is_control);
    value.as_str().filter(fits).map(str::to_owned).ok_or("is not an id: write 1 to 255 bytes of text".into())
}

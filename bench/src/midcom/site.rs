//! What the control plane needs around it: a directory, certificates, a configuration; and its process.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use turnpike_midcom::agent::{Settings, TlsPeer};
use turnpike_midcom::certificate::{TlsFiles, client_config};

/// Name in the box's certificate.
const BOX: &str = "box.example";

/// The directory, which goes with this.
#[derive(Debug)]
pub struct Site {
    directory: tempfile::TempDir,
    address: SocketAddr,
    /// Where the binary is.
    binary: PathBuf,
    /// The control plane's processor.
    cpu: usize,
    issuer: Issuer<'static, KeyPair>,
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> String {
    format!("{what}: {error}")
}

impl Site {
    /// A directory below `parent` with everything for `agents` agents that may have `rules` rules together.
    ///
    /// # Errors
    /// What cannot be made.
    pub fn new(parent: &Path, bin: &Path, cpu: usize, agents: usize, rules: u32) -> Result<Self, String> {
        let binary = bin.join("turnpike-controlplane");
        if !binary.is_file() {
            return Err(format!(
                "{} is missing: cargo build --release -p turnpike-controlplane, or say where it is with --bin",
                binary.display()
            ));
        }
        let directory = tempfile::tempdir_in(parent).map_err(|error| failed("a directory", &error))?;
        let key = KeyPair::generate().map_err(|error| failed("a key", &error))?;
        let mut params =
            CertificateParams::new(Vec::<String>::new()).map_err(|error| failed("a certificate", &error))?;
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let pem = params.self_signed(&key).map_err(|error| failed("a certificate", &error))?.pem();
        fs::write(directory.path().join("ca.pem"), pem).map_err(|error| failed("ca.pem", &error))?;
        // Free now; nobody else takes it in the moment until the control plane does.
        let address = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .map_err(|error| failed("a port", &error))?;
        let site = Self { directory, address, binary, cpu, issuer: Issuer::new(params, key) };
        site.issue(BOX, ExtendedKeyUsagePurpose::ServerAuth)?;
        for number in 0..agents {
            site.issue(&agent(number), ExtendedKeyUsagePurpose::ClientAuth)?;
        }
        fs::write(site.path("turnpike.toml"), site.configuration(agents, rules))
            .map_err(|error| failed("turnpike.toml", &error))?;
        Ok(site)
    }

    /// A file of the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn files(&self, name: &str) -> TlsFiles {
        TlsFiles {
            certificate: self.path(&format!("{name}.pem")),
            key: self.path(&format!("{name}.key")),
            authorities: self.path("ca.pem"),
        }
    }

    fn issue(&self, name: &str, purpose: ExtendedKeyUsagePurpose) -> Result<(), String> {
        let error = |error: rcgen::Error| failed("a certificate", &error);
        let key = KeyPair::generate().map_err(error)?;
        let mut params = CertificateParams::new(Vec::<String>::new()).map_err(error)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![SanType::DnsName(name.to_owned().try_into().map_err(error)?)];
        params.extended_key_usages = vec![purpose];
        let certificate = params.signed_by(&key, &self.issuer).map_err(error)?;
        let TlsFiles { certificate: path, key: key_path, .. } = self.files(name);
        fs::write(&path, certificate.pem()).map_err(|error| failed(name, &error))?;
        fs::write(&key_path, key.serialize_pem()).map_err(|error| failed(name, &error))
    }

    fn configuration(&self, agents: usize, rules: u32) -> String {
        let path = |name: &str| self.path(name).display().to_string();
        let box_ = self.files(BOX);
        let rules = rules.saturating_add(rules / 2).max(1 << 20);
        // 64512 ports each, of which a host of 64 rules has a block of 256.
        let last = 2 + rules / 8192;
        let mut text = format!(
            r#"[dataplane]
cores = [1]
socket = {:?}
[control]
socket = {:?}
metrics = ""
state = {:?}
[[port]]
name = "inside"
device = "net_null0"
zone = "inside"
addresses = ["172.16.0.1/24"]
[[port]]
name = "outside"
device = "net_null1"
zone = "outside"
addresses = ["192.0.2.1/24"]
[[zone]]
name = "inside"
side = "inside"
[[zone]]
name = "outside"
side = "outside"
[[pool]]
name = "public"
addresses = ["198.18.0.1-198.18.{}.{}"]
zone = "outside"
[[nat]]
from = "inside"
to = "outside"
source = "10.0.0.0/8"
pool = "public"
[[policy]]
from = "inside"
to = "outside"
default = "accept"
[midcom]
rules = {rules}
[simco]
zones = ["inside"]
listen = ["{}"]
certificate = {:?}
key = {:?}
authorities = {:?}
"#,
            path("dataplane.sock"),
            path("control.sock"),
            path("state"),
            last / 256,
            last % 256,
            self.address,
            box_.certificate.display().to_string(),
            box_.key.display().to_string(),
            box_.authorities.display().to_string(),
        );
        for number in 0..agents {
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "[[agent]]\nname = \"{}\"\nzones = [\"inside\"]\ninside = [\"10.0.0.0/8\"]\nrules = {rules}\n\
                 lifetime = 86400\n",
                agent(number)
            );
        }
        text
    }

    /// How agent `number` connects.
    ///
    /// # Errors
    /// If its certificate is gone.
    pub fn settings(&self, number: usize, pipelining: usize) -> Result<Settings, String> {
        let config = client_config(&self.files(&agent(number)))
            .map_err(|error| failed("an agent's certificate", &error))?;
        let name = BOX.try_into().map_err(|_| "the box's name is none".to_owned())?;
        Ok(Settings {
            tls: Some(TlsPeer { config, name }),
            pipelining,
            reconnect: None,
            ..Settings::new(&self.address.to_string())
        })
    }

    /// Starts the control plane on its processor.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&self) -> Result<Process, String> {
        let log = File::options().create(true).append(true).open(self.path("log"));
        let log = log.map_err(|error| failed("log", &error))?;
        let child = Command::new("taskset")
            .args(["-c", &self.cpu.to_string()])
            .arg(&self.binary)
            .arg("--config")
            .arg(self.path("turnpike.toml"))
            .args(["--log", "info"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| failed("cannot start the control plane", &error))?;
        Ok(Process { child })
    }

    /// The last lines of the control plane's log.
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.path("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(10).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

/// Name of an agent.
fn agent(number: usize) -> String {
    format!("agent-{number}.example")
}

/// The control plane, killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills it without warning, and waits until it is gone.
    pub fn kill(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

//! The configuration in force, and what the other parts need of it.

use crate::clock::wall_ms;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use turnpike_config::{Config, NatTarget, Problems};
use turnpike_policy::{Access, Realm};

/// A configuration that was read and checked.
#[derive(Clone, Debug)]
pub struct Running {
    /// What it says.
    pub config: Config,
    /// Where it was read.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// Hash of what it says, defaults included.
    pub hash: String,
    /// When it came into force, milliseconds since the epoch.
    pub applied_ms: u64,
    /// Keys whose value in the file waits for a restart.
    pub needs_restart: Vec<String>,
}

impl Running {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        let (config, text) = read(path)?;
        let hash = format!("{:016x}", config.hash());
        Ok(Self {
            config,
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            text,
            hash,
            applied_ms: wall_ms(),
            needs_restart: Vec::new(),
        })
    }

    /// The pools.
    pub fn realm(&self) -> Realm {
        crate::access::realm(&self.config)
    }

    /// Everything for the policy engine.
    pub fn access(&self) -> Access {
        crate::access::of(&self.config)
    }

    /// The pool an inside host is translated through by the first NAT rule for it; `None` if none is.
    pub fn pool_for(&self, inside: IpAddr) -> Option<&str> {
        if inside.is_ipv6() {
            return None;
        }
        self.config.nat.iter().find_map(|rule| match &rule.target {
            NatTarget::Pool(name) if rule.source.contains(inside) => Some(name.as_str()),
            _ => None,
        })
    }
}

/// The configuration and its text, of one reading of the file.
fn read(path: &Path) -> Result<(Config, String), Problems> {
    let bytes = std::fs::File::open(path).and_then(|file| {
        let mut bytes = Vec::new();
        file.take(turnpike_config::MAX_FILE + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    match bytes {
        Ok(bytes) => {
            let config = Config::parse_bytes(&bytes, &path.display().to_string())?;
            Ok((config, String::from_utf8_lossy(&bytes).into_owned()))
        }
        // Says why; should the file be there by now, its values are as good as its text.
        Err(_) => Config::load(path).map(|config| (config.clone(), config.to_toml())),
    }
}

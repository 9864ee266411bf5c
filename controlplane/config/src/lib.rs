//! The configuration of both daemons: one TOML file, read, checked and put into the forms they need.
//!
//! [`Config::load`] walks the parsed document itself instead of deriving `Deserialize`: a derived reader
//! stops at the first thing that is wrong, and an operator wants all of them, each with file, line,
//! column, key, value and what is allowed ([`Problems`]). Nothing is taken over from a file with a problem.
//!
//! | module | what it does |
//! |---|---|
//! | [`model`] | the configuration as types; every default |
//! | [`value`], [`address`] | the types of single values and how they are written |
//! | `read`, `sections` | from the document to the model |
//! | `check` | what a single value cannot tell: names, references, overlaps, families |
//! | [`compile`], [`table`] | the policy table for the dataplane |
//! | [`midcom`] | who may open what through which front end |
//! | [`deterministic`] | port ranges by computation (RFC 7422) |
//! | [`reload`] | which changes need a restart |
//! | [`interfaces`] | ports and VLANs in the order in which both daemons number them |

#![forbid(unsafe_code)]

pub mod address;
mod check;
pub mod compile;
#[cfg(test)]
mod contract;
pub mod deterministic;
pub mod interfaces;
pub mod midcom;
pub mod model;
mod problem;
mod read;
pub mod reload;
mod sections;
pub mod simco;
pub mod table;
pub mod value;

pub use address::{AddressRange, InterfaceAddress, Network};
pub use compile::{compile_policy, settings};
pub use interfaces::InterfaceSpec;
pub use model::{
    Action, Config, Control, Dataplane, Family, Filtering, Log, Nat, NatTarget, Options, Policy, Poll, Pool,
    Port, Route, Rule, Side, Timeouts, Vlan, Zone, ZoneMatch,
};
pub use problem::{Problem, Problems};
pub use reload::ReloadImpact;
pub use table::{Table, TableBuilder};
pub use value::{MacAddress, MemorySize, Metrics, Name, PortRange, Protocol, Refusal, Seconds, TapName};

use std::path::Path;

/// Largest file read, bytes. The most rules that are possible, each with every key, take a quarter of it.
pub const MAX_FILE: u64 = 16 << 20;

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// If it cannot be read, is larger than [`MAX_FILE`], is not UTF-8, or says anything that is wrong:
    /// then with everything that was found.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Problems> {
        use std::io::Read as _;
        let path = path.as_ref();
        let origin = path.display().to_string();
        let mut bytes = Vec::new();
        let read = std::fs::File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes));
        if let Err(error) = read {
            return Err(Problems::whole_file(&origin, format!("cannot be read: {error}")));
        }
        Self::parse_bytes(&bytes, &origin)
    }

    /// Checks the bytes of a file; `origin` is its name in messages.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse_bytes(bytes: &[u8], origin: &str) -> Result<Self, Problems> {
        if bytes.len() as u64 > MAX_FILE {
            let message = format!("is larger than {} MiB, the most that is read", MAX_FILE >> 20);
            return Err(Problems::whole_file(origin, message));
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::parse(text, origin),
            Err(error) => Err(Problems::not_utf8(origin, bytes, error.valid_up_to())),
        }
    }

    /// Checks the text of a file; `origin` is its name in messages.
    ///
    /// # Errors
    /// Everything that is wrong with it, in the order of the text. A syntax error stops at the first.
    pub fn parse(text: &str, origin: &str) -> Result<Self, Problems> {
        let mut document = read::Document::new(text);
        let config = match toml::de::DeTable::parse(text) {
            Ok(root) => {
                let config = sections::config(root.get_ref(), &mut document);
                check::config(&config, &mut document);
                Some(config)
            }
            Err(error) => {
                let end = text.len()..text.len();
                document.syntax_error(error.span().unwrap_or(end), error.message());
                None
            }
        };
        match (config, document.into_problems(origin)) {
            (Some(config), None) => Ok(config),
            (_, problems) => {
                Err(problems.unwrap_or_else(|| Problems::whole_file(origin, "is not TOML".into())))
            }
        }
    }

    /// The configuration in effect, every default written out. [`Config::parse`] gives the same back.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect(IS_TOML)
    }

    pub(crate) fn to_table(&self) -> toml::Table {
        toml::Table::try_from(self).expect(IS_TOML)
    }

    /// A hash of [`Config::to_toml`] (FNV-1a): the same in every process and on every machine for
    /// configurations that mean the same, whatever their comments, order of keys and defaults left out.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.to_toml().bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }
}

/// Why the serializer cannot fail.
const IS_TOML: &str = "every key is a string and every value one of TOML's types";

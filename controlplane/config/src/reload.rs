//! What changes between two configurations, and what it takes for the change to have effect.

use crate::model::Config;
use crate::value::Name;
use toml::{Table, Value};
use turnpike_abi::PortId;

/// Differences between a running and a new configuration, as key paths in the order of [`Config::to_toml`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReloadImpact {
    /// Changes that have effect at the next start of a daemon.
    pub restart_needed: Vec<String>,
    /// Whether the dataplane is one that has to be restarted for them.
    pub dataplane: bool,
    /// Whether the control plane is one.
    pub controlplane: bool,
    /// Changes that have effect with the next policy table.
    pub live: Vec<String>,
}

impl ReloadImpact {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.restart_needed.is_empty() && self.live.is_empty()
    }
}

/// Which daemon a change has to wait for.
#[derive(PartialEq)]
enum Effect {
    Live,
    Dataplane,
    Controlplane,
}

impl Config {
    /// What a change from `old` to `new` takes.
    #[must_use]
    pub fn reload_impact(old: &Self, new: &Self) -> ReloadImpact {
        let mut paths = Vec::new();
        differences_of_tables("", &old.to_table(), &new.to_table(), &mut paths);
        let mut impact = ReloadImpact::default();
        for path in paths {
            match effect(&path, old, new) {
                Effect::Live => impact.live.push(path),
                Effect::Dataplane => {
                    impact.dataplane = true;
                    impact.restart_needed.push(path);
                }
                Effect::Controlplane => {
                    impact.controlplane = true;
                    impact.restart_needed.push(path);
                }
            }
        }
        impact
    }
}

fn effect(path: &str, old: &Config, new: &Config) -> Effect {
    match path.split(['.', '[']).next().unwrap_or_default() {
        "dataplane" => Effect::Dataplane,
        "control" => Effect::Controlplane,
        // An interface moves between zones at once, as long as it is there before and after.
        "port" if path.ends_with(".zone") && shape(old) == shape(new) => Effect::Live,
        // The dataplane configures the TAP twins, their addresses and routes when it starts.
        "port" | "route" => Effect::Dataplane,
        _ => Effect::Live,
    }
}

/// Which interfaces there are: port, VLAN and name of each.
fn shape(config: &Config) -> Vec<(PortId, u16, Name)> {
    config.interfaces().into_iter().map(|spec| (spec.port, spec.vlan, spec.name)).collect()
}

fn differences_of_tables(path: &str, old: &Table, new: &Table, paths: &mut Vec<String>) {
    let gone = old.keys().filter(|key| !new.contains_key(*key));
    for key in new.keys().chain(gone) {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        differences(&path, old.get(key), new.get(key), paths);
    }
}

fn differences(path: &str, old: Option<&Value>, new: Option<&Value>, paths: &mut Vec<String>) {
    match (old, new) {
        (Some(Value::Table(old)), Some(Value::Table(new))) => differences_of_tables(path, old, new, paths),
        (Some(Value::Array(old)), Some(Value::Array(new))) if is_tables(old) || is_tables(new) => {
            for i in 0..old.len().max(new.len()) {
                differences(&format!("{path}[{i}]"), old.get(i), new.get(i), paths);
            }
        }
        (old, new) if old != new => paths.push(path.to_owned()),
        _ => {}
    }
}

fn is_tables(array: &[Value]) -> bool {
    array.first().is_some_and(Value::is_table)
}

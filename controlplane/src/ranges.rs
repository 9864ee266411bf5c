//! Deterministic pools (RFC 7422): questions of both directions, and the history of the variables that answers for
//! another time than now (RFC 7422 section 3). One JSON line for each change, in the state directory.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use turnpike_abi::deterministic::Holder;
use turnpike_api::{
    ErrorBody, ErrorCode, NatForward, NatForwardData, NatReverse, NatReverseData, PortHolder, PortRange,
    Timestamp,
};
use turnpike_config::Config;
use turnpike_config::deterministic::Variables;

/// The file in the state directory.
const FILE: &str = "deterministic.jsonl";
/// Most changes kept in memory, the newest.
const MOST: usize = 4096;

/// The variables of every deterministic pool from a time on.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Change {
    time: Timestamp,
    pools: Vec<Variables>,
}

/// Every change, oldest first.
#[derive(Debug)]
pub struct History {
    path: PathBuf,
    changes: Vec<Change>,
}

impl History {
    /// Reads what there is. Lines that cannot be read are left out and said.
    pub fn open(state: &Path) -> Self {
        let path = state.join(FILE);
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let mut changes = Vec::new();
        for (number, line) in text.lines().enumerate() {
            match serde_json::from_str(line) {
                Ok(change) => changes.push(change),
                Err(error) => {
                    tracing::warn!(file = %path.display(), line = number + 1, "not a record: {error}");
                }
            }
        }
        changes.drain(..changes.len().saturating_sub(MOST));
        Self { path, changes }
    }

    /// Notes what is in force from `now` on, if that is new.
    pub fn note(&mut self, config: &Config, now: Timestamp) {
        let pools: Vec<Variables> =
            config.pools.iter().filter_map(|pool| Variables::of(config, pool)).collect();
        let last = self.changes.last().map_or(&[][..], |change| &change.pools);
        if last == pools {
            return;
        }
        let change = Change { time: now, pools };
        let written = serde_json::to_string(&change).map_err(std::io::Error::from).and_then(|line| {
            let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&self.path)?;
            writeln!(file, "{line}")?;
            file.sync_data()
        });
        match written {
            Ok(()) => tracing::info!(file = %self.path.display(), "variables of deterministic pools noted"),
            Err(error) => tracing::error!(file = %self.path.display(), "not noted: {error}"),
        }
        if self.changes.len() == MOST {
            self.changes.remove(0);
        }
        self.changes.push(change);
    }

    /// The variables at a time.
    fn at(&self, time: Option<Timestamp>) -> Result<&Change, ErrorBody> {
        let found = match time {
            None => self.changes.last(),
            Some(time) => self.changes.iter().rev().find(|change| change.time <= time),
        };
        found.ok_or_else(|| {
            let message = match time {
                None => "no pool is deterministic".to_owned(),
                Some(time) => format!("nothing is known of {time}: the history begins later"),
            };
            ErrorBody::new(ErrorCode::NotFound, message)
                .with_hint("only pools with `deterministic` compute their mappings")
        })
    }

    /// Function 1 of RFC 7422.
    ///
    /// # Errors
    /// If no deterministic pool has the address.
    pub fn forward(&self, asked: NatForward) -> Result<NatForwardData, ErrorBody> {
        let change = self.at(asked.time)?;
        for variables in &change.pools {
            let found = variables.ranges().ok().and_then(|ranges| ranges.forward(asked.inside));
            if let Some((external, runs)) = found {
                return Ok(NatForwardData {
                    inside: asked.inside,
                    pool: variables.pool.clone(),
                    external,
                    ports: runs.into_iter().map(|(first, last)| PortRange { first, last }).collect(),
                    since: Some(change.time),
                });
            }
        }
        Err(not_found(format!("{} is in the inside range of no deterministic pool", asked.inside)))
    }

    /// Function 2 of RFC 7422.
    ///
    /// # Errors
    /// If no deterministic pool has the address.
    pub fn reverse(&self, asked: NatReverse) -> Result<NatReverseData, ErrorBody> {
        let change = self.at(asked.time)?;
        for variables in &change.pools {
            let found = variables.ranges().ok().and_then(|ranges| ranges.reverse(asked.external, asked.port));
            let Some(holder) = found else { continue };
            let (holder, inside) = match holder {
                Holder::Inside(inside) => (PortHolder::Inside, Some(Ipv4Addr::from(inside))),
                Holder::Dynamic => (PortHolder::Dynamic, None),
                Holder::Unassigned => (PortHolder::Unassigned, None),
                Holder::Reserved => (PortHolder::Reserved, None),
            };
            return Ok(NatReverseData {
                external: asked.external,
                port: asked.port,
                pool: variables.pool.clone(),
                holder,
                inside,
                since: Some(change.time),
            });
        }
        Err(not_found(format!("{} is of no deterministic pool", asked.external)))
    }
}

fn not_found(message: String) -> ErrorBody {
    ErrorBody::new(ErrorCode::NotFound, message)
        .with_hint("for other pools `turnpike show bindings` shows what is in use now")
}

#[cfg(test)]
mod tests {
    use super::*;

    const RFC: &str = r#"
        [dataplane]
        cores = [1]
        [[zone]]
        name = "in"
        side = "inside"
        [[zone]]
        name = "out"
        side = "outside"
        [[port]]
        name = "a"
        device = "net_null0"
        zone = "in"
        addresses = ["10.0.0.1/8"]
        [[port]]
        name = "b"
        device = "net_null1"
        zone = "out"
        addresses = ["203.0.113.1/24"]
        [[pool]]
        name = "public"
        addresses = ["192.0.2.1"]
        zone = "out"
        deterministic = "198.51.100.1-198.51.100.14"
        [[nat]]
        from = "in"
        to = "out"
        pool = "public"
    "#;

    fn config(text: &str) -> Config {
        Config::parse(text, "test").unwrap_or_else(|problems| panic!("{problems}"))
    }

    /// DET-2, DET-7, DET-8: both directions by the example of the RFC, and at the time that is asked for.
    #[test]
    fn det_8_answers_for_the_time_that_is_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let external: Ipv4Addr = "192.0.2.1".parse().unwrap();
        let mut history = History::open(directory.path());
        let ask = |history: &History, port, time| {
            history.reverse(NatReverse { external, port, time }).map(|data| (data.holder, data.inside))
        };
        assert!(ask(&history, 2001, None).is_err());
        history.note(&config(RFC), Timestamp(1000));
        history.note(&config(RFC), Timestamp(2000));
        let other = RFC.replace("100.1-198.51.100.14", "100.65-198.51.100.78");
        history.note(&config(&other), Timestamp(3000));
        // As a restart finds it.
        let history = History::open(directory.path());
        assert_eq!(history.changes.len(), 2);
        let inside = |text: &str| Ok((PortHolder::Inside, Some(text.parse().unwrap())));
        assert_eq!(ask(&history, 2001, None), inside("198.51.100.65"));
        assert_eq!(ask(&history, 2001, Some(Timestamp(2999))), inside("198.51.100.1"));
        assert_eq!(ask(&history, 58_204, Some(Timestamp(1000))), Ok((PortHolder::Dynamic, None)));
        assert!(ask(&history, 2001, Some(Timestamp(999))).is_err());
        let time = Some(Timestamp(1500));
        let forward = history.forward(NatForward { inside: "198.51.100.2".parse().unwrap(), time }).unwrap();
        assert_eq!((forward.external, forward.since), (external, Some(Timestamp(1000))));
        assert_eq!(forward.ports, [PortRange { first: 5056, last: 9087 }]);
        assert!(history.forward(NatForward { inside: external, time }).is_err());
    }
}

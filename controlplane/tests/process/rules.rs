//! Rules over kills and lost journals: what was answered is there, what is there was asked for.

use crate::support::{Site, pinhole, until};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use turnpike_abi::event::Ack;
use turnpike_api::{
    AgentData, Client, ClientError, Endpoint, ErrorCode, GroupData, GroupsRequest, PinholeData,
    PinholeProtocol, PinholeRemove, PinholeState, Request, RuleData, RuleDelete, RuleFilter, RulesRequest,
    SessionData,
};

fn add(inside: &str) -> Request {
    Request::PinholeAdd(pinhole(PinholeProtocol::Udp, inside))
}

fn rules(site: &Site) -> Vec<RuleData> {
    site.ask(&Request::Rules(RulesRequest { filter: RuleFilter::default(), cursor: None, limit: 1000 }))
}

#[test]
fn rules_are_shown_deleted_and_written_to_the_audit_log() {
    let mut site = Site::new();
    let fake = site.dataplane();
    site.start();
    site.until_ready();
    let granted: PinholeData =
        until("granted", || site.call(&add("192.168.0.10:5004")).ok().map(|envelope| envelope.data));
    let shown = rules(&site);
    assert_eq!(shown.len(), 1);
    assert_eq!(u64::from(shown[0].id), granted.id);
    assert_eq!(shown[0].outside, granted.external.map(|end| end.to_string()));
    assert_eq!(shown[0].lifetime_seconds, None);
    let groups: Vec<GroupData> = site.ask(&Request::Groups(GroupsRequest { cursor: None, limit: 10 }));
    assert_eq!((groups.len(), groups[0].id), (1, shown[0].group));
    let agents: Vec<AgentData> = site.ask(&Request::Agents);
    assert!(agents.iter().any(|agent| agent.agent == granted.owner && agent.rules == 1 && agent.enabled));
    assert!(site.ask::<Vec<SessionData>>(&Request::Sessions).is_empty());

    let error = site.call::<RuleData>(&Request::RuleDelete(RuleDelete { id: 4000 })).unwrap_err();
    assert_eq!(error.body().code, ErrorCode::NotFound);
    let deleted: RuleData = site.ask(&Request::RuleDelete(RuleDelete { id: shown[0].id }));
    assert_eq!(deleted.id, shown[0].id);
    assert!(rules(&site).is_empty() && fake.with(|state| state.pinholes.is_empty()));
    let counted = r#"turnpike_midcom_transactions_total{front="cli",transaction="per",result="ok"}"#;
    until("counted", || (site.metric(counted) == 1.0).then_some(()));
    assert_eq!(site.metric(r#"turnpike_rules_ended_total{reason="deleted"}"#), 1.0);

    let lines = until("the audit log", || {
        let text = std::fs::read_to_string(site.path("state/audit.jsonl")).ok()?;
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (lines.iter().filter(|line| line["event"] == "closed").count() == 1).then_some(lines)
    });
    let opened = lines.iter().find(|line| line["event"] == "opened").unwrap();
    assert_eq!(opened["by"], granted.owner.as_str());
    assert_eq!(opened["internal"], "192.168.0.10:5004");
    assert_eq!(opened["outside"], granted.external.unwrap().to_string().as_str());
    assert_eq!(opened["until"], "deleted");
    let closed = lines.iter().find(|line| line["event"] == "closed").unwrap();
    assert_eq!((&closed["why"], &closed["rule"]), (&"deleted".into(), &deleted.id.into()));
}

/// What nobody answers for is closed: the dataplane lives on while the journal is lost.
#[test]
fn pinholes_of_a_lost_journal_are_closed() {
    let mut site = Site::new();
    let fake = site.dataplane();
    site.start();
    site.until_ready();
    for n in 0..5 {
        let _: PinholeData = until("granted", || {
            site.call(&add(&format!("192.168.0.{}:80", 10 + n))).ok().map(|envelope| envelope.data)
        });
    }
    site.kill();
    assert_eq!(fake.with(|state| state.pinholes.len()), 5);
    std::fs::remove_file(site.path("state/journal.redb")).unwrap();
    site.start();
    until("closed", || fake.with(|state| state.pinholes.is_empty().then_some(())));
    assert!(site.pinholes().is_empty());
}

/// What a client knows of its own pinhole.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Known {
    Granted(u64, Endpoint),
    Gone,
    /// Asked, and the connection broke before the answer.
    Doubtful,
}

type Record = Arc<Mutex<BTreeMap<String, Known>>>;

/// Adds and removes pinholes until it is told to stop, or the daemon is gone.
fn client(socket: &Path, number: usize, record: &Record, stop: &AtomicBool) {
    let Ok(mut client) = Client::connect(socket, Duration::from_secs(5)) else { return };
    for n in (0..60).cycle() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let inside = format!("192.168.{}.{}:{}", number + 1, 10 + n % 10, 5000 + n);
        let known = record.lock().unwrap().get(&inside).copied();
        let request = match known {
            Some(Known::Granted(id, _)) => Request::PinholeRemove(PinholeRemove { id }),
            _ => add(&inside),
        };
        record.lock().unwrap().insert(inside.clone(), Known::Doubtful);
        let now = match client.call::<PinholeData>(&request) {
            Ok(envelope) if matches!(request, Request::PinholeAdd(_)) => {
                Known::Granted(envelope.data.id, envelope.data.external.unwrap())
            }
            Ok(_) => Known::Gone,
            // It was doubtful and is there after all: what the list says is settled after the kill.
            Err(ClientError::Refused(body)) if body.code == ErrorCode::Conflict => Known::Doubtful,
            Err(ClientError::Refused(_)) => known.unwrap_or(Known::Gone),
            Err(_) => return,
        };
        record.lock().unwrap().insert(inside, now);
    }
}

fn check(site: &Site, record: &Record, fake: &crate::support::fake::Fake, round: usize) {
    let pinholes = until("all active again", || {
        let list = site.call::<Vec<PinholeData>>(&Request::PinholeList).ok()?.data;
        list.iter().all(|pinhole| pinhole.state == PinholeState::Active).then_some(list)
    });
    let mut there: BTreeMap<String, &PinholeData> = BTreeMap::new();
    let mut ends = Vec::new();
    for pinhole in &pinholes {
        assert!(there.insert(pinhole.inside.to_string(), pinhole).is_none(), "round {round}: twice the same");
        ends.push(pinhole.external.unwrap().to_string());
    }
    let count = ends.len();
    ends.sort();
    ends.dedup();
    assert_eq!(ends.len(), count, "round {round}: an external port given twice");
    let mut record = record.lock().unwrap();
    for (inside, known) in record.iter_mut() {
        match (*known, there.remove(inside)) {
            (Known::Granted(id, end), Some(pinhole)) => {
                assert_eq!((pinhole.id, pinhole.external), (id, Some(end)), "round {round}: {inside}");
            }
            (Known::Granted(id, _), None) => {
                panic!("round {round}: {inside} was granted as {id} and is lost")
            }
            (Known::Gone, Some(pinhole)) => panic!("round {round}: {inside} was removed, now {pinhole:?}"),
            (Known::Gone, None) => {}
            (Known::Doubtful, found) => {
                *known = found.map_or(Known::Gone, |found| Known::Granted(found.id, found.external.unwrap()));
            }
        }
    }
    assert!(there.is_empty(), "round {round}: invented: {there:?}");
    // The workers have what was granted and nothing else, at the ends that were promised.
    until("the workers agree", || {
        let installed: BTreeMap<u64, Ack> =
            fake.with(|state| state.pinholes.iter().map(|(id, (_, ack))| (*id, *ack)).collect());
        let same = installed.len() == pinholes.len()
            && pinholes.iter().all(|pinhole| {
                installed
                    .get(&pinhole.id)
                    .is_some_and(|ack| ack.external_port == pinhole.external.unwrap().port)
            });
        same.then_some(())
    });
}

/// `kill -9` at random moments under load: `TURNPIKE_KILLS` times, or a few.
#[test]
fn no_kill_loses_or_invents_a_rule() {
    let kills: usize = std::env::var("TURNPIKE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    let mut site = Site::new();
    let fake = site.dataplane();
    let record: Record = Arc::default();
    // A cheap generator: the moments differ, and a failure names its round.
    let mut seed = u64::from(std::process::id());
    let mut most = 0;
    for round in 0..kills {
        site.start();
        site.until_ready();
        check(&site, &record, &fake, round);
        let stop = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..8)
            .map(|number| {
                let (socket, record, stop) =
                    (site.path("control.sock"), Arc::clone(&record), Arc::clone(&stop));
                std::thread::spawn(move || client(&socket, number, &record, &stop))
            })
            .collect();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::park_timeout(Duration::from_millis(20 + (seed >> 33) % 200));
        site.kill();
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().unwrap();
        }
        most = most
            .max(record.lock().unwrap().values().filter(|known| matches!(known, Known::Granted(..))).count());
    }
    site.start();
    site.until_ready();
    check(&site, &record, &fake, kills);
    assert!(most > 8, "hardly any load: at most {most} pinholes");
}

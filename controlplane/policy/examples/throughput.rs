//! What the engine with a journal can do on one core: durable PER transactions a second, memory of a million rules,
//! and the time until they are back after a restart. Workers answer at once.
//!
//! `cargo run --release -p turnpike-policy --example throughput -- [RULES] [DIRECTORY]`

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::error::Error;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Instant;
use turnpike_abi::event::{Ack, AckResult};
use turnpike_abi::{Address, PoolId};
use turnpike_policy::{
    Access, Agent, Command, Direction, Effect, Enable, Engine, Front, FrontAccess, GroupId, Lifetime, Limits,
    Network, Note, Pool, Profile, Protocol, Realm, Request, Requester, Rights, Rule, RuleId, Scope, Ticket,
    Time, TransactionId, Translation, Tuple,
};

const RULES: TableDefinition<u32, &[u8]> = TableDefinition::new("rules");
const NOW: Time = Time(1_795_000_000_000);
/// Transactions committed together: what comes in while the disk is busy.
const GROUP: usize = 512;
const WORKERS: u8 = 2;

fn access(rules: usize) -> Access {
    let profile = Profile {
        zones: vec!["inside".into()],
        rights: Rights::OWN,
        inside: Scope::Prefixes(vec![Network::V4]),
        outside: vec![Network::V4],
        protocols: Vec::new(),
        external_wildcard: true,
        takes_over: Vec::new(),
        rules: u32::MAX,
        sessions: 64,
        lifetime: Lifetime(u32::MAX - 1),
        idle: None,
        durable: true,
    };
    let agents = (0..16).map(|n| (format!("agent-{n}.example").into(), profile.clone())).collect();
    let simco = FrontAccess { zones: vec!["inside".into()], agents, ..FrontAccess::default() };
    Access {
        realm: Realm {
            pools: vec![Pool {
                name: "public".into(),
                id: PoolId(0),
                ranges: vec![(Ipv4Addr::new(198, 18, 0, 0), Ipv4Addr::new(198, 18, 0, 255))],
                ports: (1024, 65535),
            }],
            translations: vec![Translation { zone: None, source: Network::V4, pool: Some("public".into()) }],
        },
        fronts: [(Front::Simco, simco)].into_iter().collect(),
        limits: Limits { rules: rules * 2, per_subscriber: 1024, ..Limits::default() },
        ..Access::default()
    }
}

/// Carries out everything but notes, which it returns.
fn carry_out(engine: &mut Engine, ports: &mut u64, granted: &mut usize) -> Vec<(Ticket, Vec<Note>)> {
    let mut notes = Vec::new();
    loop {
        let effects: Vec<Effect> = engine.effects().collect();
        if effects.is_empty() {
            return notes;
        }
        for effect in effects {
            match effect {
                Effect::Note { ticket, notes: group } => notes.push((ticket, group)),
                Effect::Tell { token, command: Command::Add(add), .. } => {
                    let (external, external_port) = match add.external_port {
                        0 => {
                            *ports += 1;
                            let address = Ipv4Addr::from(0xc612_0000 + (*ports / 60_000) as u32);
                            (Address::v4(address.octets()), 1024 + (*ports % 60_000) as u16)
                        }
                        port => (add.external, port),
                    };
                    let ack = Ack { result: AckResult::OK, external, external_port, reserved: 0 };
                    engine.answer(token, ack, NOW);
                }
                Effect::Tell { token, .. } => engine.answer(token, Ack::default(), NOW),
                Effect::Reply { result, .. } => {
                    assert!(result.is_ok(), "{result:?}");
                    *granted += 1;
                }
                Effect::Notify { .. } | Effect::Audit(_) | Effect::Suspended(..) => {}
            }
        }
    }
}

fn commit(database: &Database, group: &[(Ticket, Vec<Note>)]) -> Result<(), Box<dyn Error>> {
    let transaction = database.begin_write()?;
    {
        let mut rules = transaction.open_table(RULES)?;
        for note in group.iter().flat_map(|(_, notes)| notes) {
            match note {
                Note::Write(rule) => {
                    rules.insert(rule.id.0, rule.encode().as_slice())?;
                }
                Note::Forget(id) => {
                    rules.remove(id.0)?;
                }
                Note::Use { .. } | Note::ForgetPermit(_) | Note::Ids { .. } => {}
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().split(' ').next()?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

fn fill(path: &Path, count: usize) -> Result<(), Box<dyn Error>> {
    let database = Database::builder().set_cache_size(64 << 20).create(path)?;
    let mut engine = Engine::new(RuleId(1), GroupId(1));
    engine.set_access(access(count), NOW);
    engine.attached(WORKERS);
    engine.walked(NOW);
    let agents: Vec<Requester> =
        (0..16).map(|n| Requester::new(Agent::new(Front::Simco, &format!("agent-{n}.example")))).collect();
    let (mut ports, mut granted) = (0, 0);
    let begin = Instant::now();
    let mut disk = std::time::Duration::ZERO;
    let mut number = 0usize;
    while number < count {
        for _ in 0..GROUP.min(count - number) {
            let host = Ipv4Addr::from(0x0a00_0000 + (number / 8) as u32);
            let internal = Tuple::new(host.into(), 5000 + (number % 8) as u16);
            let external = Tuple::new(Ipv4Addr::from(0xc000_0200 + (number % 200) as u32).into(), 0);
            let enable = Enable {
                external,
                ..Enable::new(Protocol::UDP, internal, Direction::Inbound, Lifetime(86_400))
            };
            let by = &agents[number % agents.len()];
            engine.submit(TransactionId(number as u64), by, Request::Enable(Box::new(enable)), NOW);
            number += 1;
        }
        let group = carry_out(&mut engine, &mut ports, &mut granted);
        let writing = Instant::now();
        commit(&database, &group)?;
        disk += writing.elapsed();
        for (ticket, _) in &group {
            engine.durable(*ticket, NOW);
        }
        carry_out(&mut engine, &mut ports, &mut granted);
    }
    let took = begin.elapsed();
    let file = std::fs::metadata(path)?.len() >> 20;
    println!(
        "{granted} PER durable in {:.2} s: {:.0} a second ({:.2} s of it in the journal, groups of {GROUP}); {:.0} MiB resident, {file} MiB on disk",
        took.as_secs_f64(),
        granted as f64 / took.as_secs_f64(),
        disk.as_secs_f64(),
        resident_mib(),
    );
    Ok(())
}

fn restart(path: &Path, count: usize) -> Result<(), Box<dyn Error>> {
    let begin = Instant::now();
    let database = Database::builder().set_cache_size(64 << 20).create(path)?;
    let mut engine = Engine::new(RuleId(u32::try_from(count)? + 1), GroupId(u32::try_from(count)? + 1));
    let transaction = database.begin_read()?;
    for entry in transaction.open_table(RULES)?.iter()? {
        let (id, bytes) = entry?;
        engine.restore(Rule::decode(RuleId(id.value()), bytes.value())?)?;
    }
    let read = begin.elapsed();
    engine.set_access(access(count), NOW);
    engine.attached(WORKERS);
    engine.walked(NOW);
    let (mut ports, mut granted) = (0, 0);
    carry_out(&mut engine, &mut ports, &mut granted);
    println!(
        "{} rules read back in {:.2} s, replayed to the workers in {:.2} s more; {:.0} MiB resident",
        engine.len(),
        read.as_secs_f64(),
        (begin.elapsed() - read).as_secs_f64(),
        resident_mib(),
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let count: usize = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let directory = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let path = directory.join(format!("turnpike-throughput-{}.redb", std::process::id()));
    // The second process starts with nothing in memory.
    let result = match std::env::var_os("TURNPIKE_RESTART") {
        Some(path) => return restart(Path::new(&path), count),
        None => fill(&path, count),
    };
    if result.is_ok() {
        std::process::Command::new(std::env::current_exe()?)
            .arg(count.to_string())
            .env("TURNPIKE_RESTART", &path)
            .status()?;
    }
    std::fs::remove_file(&path)?;
    result
}

//! The audit log: one JSON object a line of who opened what, when and until when, and of what was refused and why.
//! A thread writes; the daemon never waits for it. Lines that it cannot take are counted as lost.

use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use turnpike_api::Timestamp;
use turnpike_policy::{Action, Audit, AuditEvent, Lifetime, Rule, Time, Tuple};

/// Name of the file in `control.state` unless `midcom.audit` names another.
pub const FILE: &str = "audit.jsonl";
/// Lines that may wait for the disk.
const QUEUE: usize = 65_536;
/// Lines written between two looks at whether the file was moved away.
const CHUNK: usize = 4096;

/// The way to the writing thread.
#[derive(Clone, Debug)]
pub struct AuditLog {
    lines: SyncSender<Box<Audit>>,
    lost: Arc<AtomicU64>,
}

impl AuditLog {
    /// Begins to write to `path`, which is opened again whenever somebody moved it away.
    ///
    /// # Errors
    /// If it cannot be opened now, or there is no thread.
    pub fn start(path: &Path) -> std::io::Result<Self> {
        let file = open(path)?;
        let (lines, incoming) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let (path, count) = (path.to_owned(), Arc::clone(&lost));
        std::thread::Builder::new()
            .name("audit".into())
            .spawn(move || write(file, path, &incoming, &count))?;
        Ok(Self { lines, lost })
    }

    /// Has a line written.
    pub fn note(&self, audit: Box<Audit>) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.lines.try_send(audit) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that were not written.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    File::options().create(true).append(true).mode(0o640).open(path)
}

fn write(mut file: File, path: PathBuf, incoming: &Receiver<Box<Audit>>, lost: &AtomicU64) {
    let mut text = String::new();
    while let Ok(first) = incoming.recv() {
        text.clear();
        let mut count = 0;
        for audit in std::iter::once(first).chain(incoming.try_iter().take(CHUNK)) {
            text.push_str(&line(&audit));
            text.push('\n');
            count += 1;
        }
        if moved(&file, &path)
            && let Ok(again) = open(&path)
        {
            file = again;
        }
        if let Err(error) = file.write_all(text.as_bytes()) {
            lost.fetch_add(count, Ordering::Relaxed);
            tracing::error!(path = %path.display(), %error, "the audit log could not be written");
        }
    }
}

fn moved(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) != (there.dev(), there.ino()),
        _ => true,
    }
}

/// A line without its end.
pub fn line(audit: &Audit) -> String {
    let mut object = Map::new();
    put(&mut object, "time", json!(Timestamp(audit.time.0)));
    match &audit.event {
        AuditEvent::Granted { by, transaction, rule } => {
            let reserve = matches!(rule.action, Action::Reserve(_));
            put(&mut object, "event", json!(if reserve { "reserved" } else { "opened" }));
            put(&mut object, "by", json!(by.to_string()));
            put(&mut object, "transaction", json!(transaction));
            describe(&mut object, rule);
        }
        AuditEvent::Changed { by, transaction, rules, owner, lifetime } => {
            put(&mut object, "event", json!("changed"));
            put(&mut object, "by", json!(by.to_string()));
            put(&mut object, "transaction", json!(transaction));
            put(&mut object, "rules", json!(rules.iter().map(|rule| rule.0).collect::<Vec<_>>()));
            put(&mut object, "owner", json!(owner.to_string()));
            put(&mut object, "until", until(lifetime.from(audit.time), *lifetime));
        }
        AuditEvent::Ended { by, rule, why } => {
            put(&mut object, "event", json!("closed"));
            put(&mut object, "why", json!(why.name()));
            put(&mut object, "by", json!(by.as_ref().map(ToString::to_string)));
            describe(&mut object, rule);
        }
        AuditEvent::Refused { by, transaction, about, why } => {
            put(&mut object, "event", json!("refused"));
            put(&mut object, "by", json!(by.to_string()));
            put(&mut object, "transaction", json!(transaction));
            put(&mut object, "reason", json!(why.reason()));
            put(&mut object, "text", json!(why.to_string()));
            put(&mut object, "rule", json!(about.rule.map(|rule| rule.0)));
            put(&mut object, "group", json!(about.group.map(|group| group.0)));
            put(&mut object, "zone", json!(about.zone.as_deref()));
            put(&mut object, "protocol", json!(about.internal.map(|(protocol, _)| protocol.to_string())));
            put(&mut object, "internal", json!(about.internal.map(|(_, tuple)| tuple.to_string())));
            put(&mut object, "external", json!(about.external.map(|tuple| tuple.to_string())));
        }
        AuditEvent::Locked { rule } => {
            put(&mut object, "event", json!("locked"));
            put(&mut object, "remote", json!(rule.locked.map(|tuple| tuple.to_string())));
            describe(&mut object, rule);
        }
        AuditEvent::Session { agent, session, why } => {
            let event = if session.is_some() { "session" } else { "session_refused" };
            put(&mut object, "event", json!(event));
            put(&mut object, "by", json!(agent.to_string()));
            put(&mut object, "session", json!(session.map(|session| session.0)));
            put(&mut object, "reason", json!(why.as_ref().map(turnpike_policy::Refusal::reason)));
        }
    }
    Value::Object(object).to_string()
}

/// What is not known is not there.
fn put(object: &mut Map<String, Value>, key: &str, value: Value) {
    if !value.is_null() {
        object.insert(key.to_owned(), value);
    }
}

fn until(expires: Option<Time>, lifetime: Lifetime) -> Value {
    match expires {
        Some(time) if lifetime != Lifetime::NONE => json!(Timestamp(time.0)),
        _ => json!("deleted"),
    }
}

fn describe(object: &mut Map<String, Value>, rule: &Rule) {
    put(object, "rule", json!(rule.id.0));
    put(object, "group", json!(rule.group.0));
    put(object, "owner", json!(rule.owner.to_string()));
    put(object, "zone", json!(&*rule.zone));
    put(object, "protocol", json!(rule.protocol.to_string()));
    put(object, "ports", json!(rule.range));
    if let Action::Enable { direction, .. } = rule.action {
        put(object, "direction", json!(direction.name()));
        put(object, "external", json!(rule.external.to_string()));
    }
    put(object, "internal", json!(rule.internal.map(|tuple| tuple.to_string())));
    let outside = rule.outside.map(|end| Tuple::new(end.address.into(), end.port).to_string());
    put(object, "outside", json!(outside));
    put(object, "until", rule.expires.map_or(json!("deleted"), |time| json!(Timestamp(time.0))));
    put(object, "description", json!(rule.annotation.description));
}

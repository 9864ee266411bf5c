//! The audit log: one JSON object a line of who opened what, when and until when, and of what was refused and why.

use crate::lines::LineLog;
use serde_json::{Map, Value, json};
use turnpike_api::Timestamp;
use turnpike_policy::{Action, Audit, AuditEvent, Lifetime, Rule, Time, Tuple};

/// Name of the file in `control.state` unless `midcom.audit` names another.
pub const FILE: &str = "audit.jsonl";

/// The way to the writing thread.
pub type AuditLog = LineLog<Audit>;

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

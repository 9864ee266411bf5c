//! One example of each response, exactly as it stands on the wire (but for line breaks). A change of these files is a
//! change of a public format. `UPDATE_GOLDEN=1 cargo test -p turnpike-api --test golden` writes them anew.

mod examples;

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;
use turnpike_api::envelope::ErrorEnvelope;
use turnpike_api::{Envelope, Payload, Request};

/// Compares with the file, then reads the file back: both must give the same.
fn check<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(name: &str, value: &T) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.json"));
    let text = serde_json::to_string_pretty(value).unwrap() + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(golden, text, "{} differs: is the format meant to change?", path.display());
    assert_eq!(&serde_json::from_str::<T>(&golden).unwrap(), value, "{name} does not come back");
}

fn check_response<T: Payload + PartialEq + std::fmt::Debug>(data: T) {
    let name = T::SCHEMA.strip_prefix("turnpike.").and_then(|name| name.strip_suffix(".v1")).unwrap();
    check(name, &examples::envelope(data));
}

#[test]
fn responses() {
    check_response(examples::status());
    check_response(examples::ports());
    check_response(examples::workers());
    check_response(examples::pools());
    check_response(examples::neighbours());
    check_response(examples::routes());
    check_response(examples::firewall());
    check_response(examples::drops());
    check_response(examples::config());
    check_response(examples::reload());
    check_response(examples::version());
    check_response(examples::nat_forward());
    check_response(examples::nat_reverse());
    check_response(examples::pinhole());
    check_response(examples::pinholes());
    check_response(examples::rule());
    check_response(examples::agents());
    check_response(examples::sessions());
}

#[test]
fn pages() {
    let flows: Envelope<_> = examples::envelope(examples::flows()).with_next(Some("0.4096".into()));
    check("flows", &flows);
    let bindings = examples::envelope(examples::bindings())
        .with_warning("worker 1 does not answer: its rows are missing");
    check("bindings", &bindings);
    check("rules", &examples::envelope(examples::rules()).with_next(Some("8".into())));
    check("groups", &examples::envelope(examples::groups()).with_next(Some("5".into())));
}

#[test]
fn errors() {
    check("error", &ErrorEnvelope { error: examples::error() });
}

#[test]
fn requests() {
    check::<Vec<Request>>("requests", &examples::requests());
}

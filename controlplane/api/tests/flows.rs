//! Rows of the dataplane as the API shows them, and the filters over them.

use turnpike_abi::event::{BindingRow, FlowRow, Tuple};
use turnpike_abi::{Address, PoolId, WorkerId};
use turnpike_api::{BindingData, BindingFilter, Endpoint, FlowData, FlowDirection, FlowFilter, PortRange};

fn end(text: &str) -> Endpoint {
    text.parse().unwrap()
}

fn tuple(source: &str, destination: &str) -> Tuple {
    let (source, destination) = (end(source), end(destination));
    Tuple {
        source: source.address.into(),
        destination: destination.address.into(),
        source_port: source.port,
        destination_port: destination.port,
        protocol: 6,
        reserved: [0; 3],
    }
}

fn row(forward: Tuple, reverse: Tuple, flags: u8) -> FlowRow {
    FlowRow {
        forward,
        reverse,
        packets: [10, 20],
        bytes: [1000, 2000],
        idle_ms: 1999,
        timeout_ms: 7_440_000,
        age_ms: 60_000,
        state: 2,
        worker: WorkerId(3),
        flags,
        reserved: [0; 5],
    }
}

const INSIDE: &str = "192.168.0.10:5000";
const EXTERNAL: &str = "203.0.113.16:40000";
const REMOTE: &str = "198.51.100.80:443";

fn outbound() -> FlowData {
    FlowData::from_row(&row(tuple(INSIDE, REMOTE), tuple(REMOTE, EXTERNAL), FlowRow::TRANSLATED))
}

#[test]
fn outbound_and_inbound_name_the_same_ends() {
    let out = outbound();
    assert_eq!((out.inside, out.external, out.remote), (end(INSIDE), Some(end(EXTERNAL)), end(REMOTE)));
    assert_eq!((out.packets_out, out.packets_in, out.bytes_out, out.bytes_in), (10, 20, 1000, 2000));
    assert_eq!((out.direction, out.remote_inside), (FlowDirection::Outbound, None));
    assert_eq!((out.age_seconds, out.idle_seconds, out.timeout_seconds, out.worker), (60, 1, 7440, 3));

    let flags = FlowRow::TRANSLATED | FlowRow::INBOUND;
    let inbound = FlowData::from_row(&row(tuple(REMOTE, EXTERNAL), tuple(INSIDE, REMOTE), flags));
    let swapped = FlowData {
        direction: FlowDirection::Inbound,
        packets_out: 20,
        packets_in: 10,
        bytes_out: 2000,
        bytes_in: 1000,
        ..out
    };
    assert_eq!(inbound, swapped);
}

#[test]
fn an_untranslated_flow_has_no_external_end() {
    let flow = FlowData::from_row(&row(tuple(INSIDE, REMOTE), tuple(REMOTE, INSIDE), 0));
    assert_eq!(
        (flow.inside, flow.external, flow.remote, flow.remote_inside),
        (end(INSIDE), None, end(REMOTE), None)
    );
}

#[test]
fn a_hairpin_flow_belongs_to_both_subscribers() {
    let (peer, peer_external) = ("192.168.1.20:80", "203.0.113.17:8080");
    let flow =
        FlowData::from_row(&row(tuple(INSIDE, peer_external), tuple(peer, EXTERNAL), FlowRow::TRANSLATED));
    assert_eq!((flow.inside, flow.external), (end(INSIDE), Some(end(EXTERNAL))));
    assert_eq!((flow.remote, flow.remote_inside), (end(peer_external), Some(end(peer))));
    for subscriber in ["192.168.0.10", "192.168.1.20", "192.168.1.0/24"] {
        let filter = FlowFilter { subscriber: Some(subscriber.parse().unwrap()), ..FlowFilter::default() };
        assert!(filter.matches(&flow), "{subscriber}");
    }
}

#[test]
fn a_state_out_of_range_is_none() {
    let mut row = row(tuple(INSIDE, REMOTE), tuple(REMOTE, INSIDE), 0);
    row.state = 200;
    assert_eq!(FlowData::from_row(&row).state.to_string(), "none");
}

#[test]
fn each_filter_restricts_by_itself() {
    let flow = outbound();
    assert!(FlowFilter::default().matches(&flow) && FlowFilter::default().is_empty());
    let parse = |json: &str| serde_json::from_str::<FlowFilter>(json).unwrap();
    for (json, expected) in [
        (r#"{"subscriber":"192.168.0.10/32"}"#, true),
        (r#"{"subscriber":"192.168.0.0/16"}"#, true),
        (r#"{"subscriber":"0.0.0.0/0"}"#, true),
        (r#"{"subscriber":"::/0"}"#, false),
        (r#"{"subscriber":"192.168.0.11"}"#, false),
        (r#"{"subscriber":"203.0.113.16"}"#, false),
        (r#"{"protocol":"tcp"}"#, true),
        (r#"{"protocol":"6"}"#, true),
        (r#"{"protocol":"udp"}"#, false),
        (r#"{"state":"established"}"#, true),
        (r#"{"state":"init"}"#, false),
        (r#"{"external":{"address":"203.0.113.16"}}"#, true),
        (r#"{"external":{"port":40000}}"#, true),
        (r#"{"external":{"address":"203.0.113.16","port":40001}}"#, false),
        (r#"{"external":{"address":"203.0.113.17"}}"#, false),
        (r#"{"remote":{"address":"198.51.100.80","port":443}}"#, true),
        (r#"{"remote":{"port":80}}"#, false),
        (r#"{"protocol":"tcp","remote":{"port":80}}"#, false),
        (
            r#"{"subscriber":"192.168.0.10","protocol":"tcp","state":"established","remote":{"port":443}}"#,
            true,
        ),
    ] {
        assert_eq!(parse(json).matches(&flow), expected, "{json}");
    }
    let untranslated = FlowData { external: None, ..flow };
    assert!(!parse(r#"{"external":{"port":5000}}"#).matches(&untranslated));
}

fn binding_row() -> BindingRow {
    let (inside, external) = (end(INSIDE), end(EXTERNAL));
    BindingRow {
        inside: inside.address.into(),
        external: external.address.into(),
        remote: turnpike_abi::Prefix::ANY,
        pinhole: 0,
        age_ms: 60_000,
        flows: 2,
        inside_port: inside.port,
        external_port: external.port,
        pool: PoolId(0),
        protocol: 17,
        worker: WorkerId(1),
        remote_ports: [0, 65_535],
    }
}

#[test]
fn bindings_and_pinholes() {
    let dynamic = BindingData::from_row(&binding_row(), Some("public"));
    assert_eq!((dynamic.inside, dynamic.external), (end(INSIDE), Some(end(EXTERNAL))));
    assert_eq!(
        (dynamic.pool.as_deref(), dynamic.pinhole, dynamic.remote_ports),
        (Some("public"), None, None)
    );

    let pinhole = BindingRow {
        pinhole: 7,
        remote: turnpike_abi::Prefix::new(Address::v4([198, 51, 100, 0]), 24).unwrap(),
        remote_ports: [1024, 2047],
        ..binding_row()
    };
    let pinhole = BindingData::from_row(&pinhole, Some("public"));
    assert_eq!(pinhole.pinhole, Some(7));
    assert_eq!(pinhole.remote, Some("198.51.100.0/24".parse().unwrap()));
    assert_eq!(pinhole.remote_ports, Some(PortRange { first: 1024, last: 2047 }));

    let firewall = BindingRow { pinhole: 8, pool: BindingRow::NO_POOL, ..binding_row() };
    let firewall = BindingData::from_row(&firewall, Some("public"));
    assert_eq!((firewall.external, firewall.pool.as_deref(), firewall.remote), (None, None, None));

    let parse = |json: &str| serde_json::from_str::<BindingFilter>(json).unwrap();
    for (json, expected) in [
        ("{}", [true, true, true]),
        (r#"{"pinholes":true}"#, [false, true, true]),
        (r#"{"external":{"port":40000}}"#, [true, true, false]),
        (r#"{"subscriber":"192.168.0.0/24"}"#, [true, true, true]),
        (r#"{"protocol":"tcp"}"#, [false, false, false]),
    ] {
        let filter = parse(json);
        assert_eq!(
            [&dynamic, &pinhole, &firewall].map(|binding| filter.matches(binding)),
            expected,
            "{json}"
        );
    }
}

//! Rows of the dataplane as the API shows them, and the filters over them.

use turnpike_abi::counters::TcpState;
use turnpike_abi::event::BindingRow;
use turnpike_abi::flow::FlowRow;
use turnpike_abi::table::SettingsRecord;
use turnpike_abi::{Address, PoolId, WorkerId};
use turnpike_api::{BindingData, BindingFilter, Endpoint, FlowData, FlowDirection, FlowFilter, PortRange};

fn end(text: &str) -> Endpoint {
    text.parse().unwrap()
}

const INSIDE: &str = "192.168.0.10:5000";
const EXTERNAL: &str = "203.0.113.16:40000";
const REMOTE: &str = "198.51.100.80:443";

fn row() -> FlowRow {
    let both = |text| {
        let end = end(text);
        (end.address.into(), end.port)
    };
    FlowRow {
        number: 7,
        protocol: 6,
        state: TcpState::Established,
        inbound: false,
        translated: true,
        inside: both(INSIDE),
        external: both(EXTERNAL),
        remote: both(REMOTE),
        packets: [10, 20],
        bytes: [1000, 2000],
        idle_ms: 1999,
        age_ms: 60_000,
    }
}

fn shown(row: &FlowRow) -> FlowData {
    let settings = SettingsRecord { tcp_established: 7440, udp: 300, ..SettingsRecord::default() };
    FlowData::from_row(row, WorkerId(3), &settings)
}

fn outbound() -> FlowData {
    shown(&row())
}

#[test]
fn outbound_and_inbound_name_the_same_ends() {
    let out = outbound();
    assert_eq!((out.inside, out.external, out.remote), (end(INSIDE), Some(end(EXTERNAL)), end(REMOTE)));
    assert_eq!((out.packets_out, out.packets_in, out.bytes_out, out.bytes_in), (10, 20, 1000, 2000));
    assert_eq!(out.direction, FlowDirection::Outbound);
    assert_eq!((out.age_seconds, out.idle_seconds, out.timeout_seconds, out.worker), (60, 1, 7440, 3));
    let inbound = shown(&FlowRow { inbound: true, ..row() });
    assert_eq!(inbound, FlowData { direction: FlowDirection::Inbound, ..out });
    let udp = shown(&FlowRow { protocol: 17, state: TcpState::None, ..row() });
    assert_eq!((udp.timeout_seconds, udp.state.to_string().as_str()), (300, "none"));
}

#[test]
fn an_untranslated_flow_has_no_external_end() {
    let row = row();
    let flow = shown(&FlowRow { translated: false, external: row.inside, ..row });
    assert_eq!((flow.inside, flow.external, flow.remote), (end(INSIDE), None, end(REMOTE)));
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

//! Attachment, pinholes, walks, reloads, start and end.

use crate::support::{RULES, SOON, Site, is_there, pinhole, until};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use turnpike_abi::command::{Kind, PinholeAdd as AbiAdd};
use turnpike_abi::event::AckResult;
use turnpike_abi::flow::{FlowRecord, flag};
use turnpike_abi::table::{FirewallRuleRecord, MAX_RULES, PoolRecord, Reader, policy};
use turnpike_api::{
    BindingData, BindingFilter, BindingsRequest, Client, ClientError, ConfigData, Endpoint, EndpointPattern,
    ErrorCode, FlowData, FlowFilter, FlowsRequest, PinholeAdd, PinholeData, PinholeProtocol, PinholeRemove,
    PinholeState, Protocol, ReloadData, Request, WorkerData,
};

fn add(inside: &str) -> PinholeAdd {
    pinhole(PinholeProtocol::Tcp, inside)
}

fn refusal(error: ClientError) -> ErrorCode {
    match error {
        ClientError::Refused(body) => body.code,
        other => panic!("{other}"),
    }
}

#[test]
fn attaches_and_is_ready() {
    let mut under_test = Site::new();
    under_test.start();
    let alone = under_test.status();
    assert!(!alone.attached && !alone.ready && alone.dataplane.is_none());
    assert!(under_test.get("/readyz").0.contains("503"));
    assert!(under_test.get("/healthz").0.contains("200"));
    assert_eq!(under_test.metric("turnpike_ready"), 0.0);
    assert_eq!(under_test.metric(r#"turnpike_drops_total{reason="no_route"}"#), 0.0);

    let fake = under_test.dataplane();
    let begin = std::time::Instant::now();
    let ready = under_test.until_ready();
    assert!(begin.elapsed().as_secs_f64() < 1.0, "ready after {:?}", begin.elapsed());
    assert_eq!(ready.dataplane.unwrap().dpdk_version, "22.11.fake");
    assert_eq!(ready.ports.len(), 2);
    assert!(under_test.get("/readyz").0.contains("200"));
    assert_eq!(under_test.metric("turnpike_ready"), 1.0);
    assert_eq!(under_test.metric(r#"turnpike_worker_packets_total{worker="1"}"#), 101.0);
    assert_eq!(under_test.metric(r#"turnpike_port_receive_packets_total{port="inside"}"#), 7.0);
    let workers: Vec<WorkerData> = under_test.ask(&Request::Workers);
    assert_eq!(workers.len(), 2);
    assert!(workers.iter().all(|worker| worker.conservation.ok && worker.policy_generation > 0));

    fake.with(|state| {
        assert!(state.forwarding.is_some());
        // A control plane that attaches starts from nothing.
        let resets = state.commands.iter().filter(|(_, slot)| slot.header.kind == Kind::NEIGHBOURS_RESET);
        assert_eq!(resets.count(), 2);
        let (_, bytes) = state.policy.clone().unwrap();
        let reader = Reader::new(&bytes).unwrap();
        let pools = reader.section::<PoolRecord>(policy::POOLS).unwrap();
        assert_eq!(pools.len(), 1);
    });
}

#[test]
fn pinholes_are_granted_listed_and_removed() {
    let mut under_test = Site::new();
    let fake = under_test.dataplane();
    under_test.start();
    under_test.until_ready();
    let request = PinholeAdd { note: Some("web".into()), ..add("192.168.0.10:8080") };
    let granted: PinholeData = until("granted", || {
        // The policy engine hears of the dataplane when the workers are on the policy.
        under_test.call(&Request::PinholeAdd(request.clone())).ok().map(|envelope| envelope.data)
    });
    assert_eq!(granted.state, PinholeState::Active);
    assert_eq!(granted.pool.as_deref(), Some("public"));
    assert_eq!(granted.note.as_deref(), Some("web"));
    assert!(granted.owner.starts_with("cli:"));
    let external = granted.external.unwrap();
    assert_eq!(external.address.to_string(), "203.0.113.16");
    assert_eq!(under_test.pinholes(), std::slice::from_ref(&granted));
    let bindings: Vec<BindingData> = under_test.ask(&Request::Bindings(BindingsRequest {
        filter: BindingFilter { pinholes: true, ..BindingFilter::default() },
        cursor: None,
        limit: 10,
    }));
    assert_eq!(bindings.len(), 1);
    assert_eq!(bindings[0].pool.as_deref(), Some("public"));
    assert_eq!(bindings[0].external, Some(external));

    let again = under_test.call::<PinholeData>(&Request::PinholeAdd(request)).unwrap_err();
    assert_eq!(refusal(again), ErrorCode::Conflict);
    let taken = PinholeAdd {
        external: Some(EndpointPattern { address: Some(external.address), port: Some(external.port) }),
        ..add("192.168.0.11:80")
    };
    let error = under_test.call::<PinholeData>(&Request::PinholeAdd(taken)).unwrap_err();
    assert_eq!(refusal(error), ErrorCode::Conflict);

    let removed: PinholeData = under_test.ask(&Request::PinholeRemove(PinholeRemove { id: granted.id }));
    assert_eq!(removed.id, granted.id);
    assert!(under_test.pinholes().is_empty());
    fake.with(|state| assert!(state.pinholes.is_empty()));
    let error = under_test.call::<PinholeData>(&Request::PinholeRemove(PinholeRemove { id: granted.id }));
    assert_eq!(refusal(error.unwrap_err()), ErrorCode::NotFound);
    assert_eq!(under_test.metric(r#"turnpike_pinhole_requests_total{result="granted"}"#), 1.0);
}

#[test]
fn a_port_of_another_workers_block_is_leased() {
    let mut under_test = Site::new();
    let fake = under_test.dataplane();
    under_test.start();
    under_test.until_ready();
    // With two workers 192.168.0.10 is worker 0's; port 700 lies in block 1, which is worker 1's.
    let request = PinholeAdd {
        external: Some(EndpointPattern { address: None, port: Some(700) }),
        ..add("192.168.0.10:22")
    };
    let granted: PinholeData = until("granted", || {
        under_test.call(&Request::PinholeAdd(request.clone())).ok().map(|envelope| envelope.data)
    });
    assert_eq!(granted.external.unwrap().port, 700);
    fake.with(|state| {
        assert_eq!(state.leases.len(), 1);
        let (add, _) = state.pinholes[&granted.id];
        assert_eq!(add.flags, AbiAdd::POOL | AbiAdd::LEASED);
    });
    let _: PinholeData = under_test.ask(&Request::PinholeRemove(PinholeRemove { id: granted.id }));
    until("the lease given back", || fake.with(|state| state.leases.is_empty().then_some(())));
}

#[test]
fn refusals_of_the_worker_reach_the_asker_and_leave_nothing() {
    let mut under_test = Site::new();
    let fake = under_test.dataplane();
    under_test.start();
    under_test.until_ready();
    fake.with(|state| state.refuse_pinholes = Some(AckResult::NO_PORT));
    let error = until("the worker's word", || {
        let error = under_test.call::<PinholeData>(&Request::PinholeAdd(add("192.168.0.10:80"))).unwrap_err();
        Some(error).filter(|error| error.body().code != ErrorCode::Unreachable)
    });
    assert_eq!(refusal(error), ErrorCode::Failed);
    assert!(under_test.pinholes().is_empty());
}

#[test]
fn pinholes_outlive_both_processes_with_the_same_ports() {
    let mut under_test = Site::new();
    let fake = under_test.dataplane();
    under_test.start();
    under_test.until_ready();
    let mut granted: Vec<PinholeData> = Vec::new();
    for n in 0..20 {
        let request = PinholeAdd {
            lifetime_seconds: (n % 2 == 0).then_some(3600),
            ..add(&format!("192.168.0.{}:80", 10 + n))
        };
        granted.push(until("granted", || {
            under_test.call(&Request::PinholeAdd(request.clone())).ok().map(|envelope| envelope.data)
        }));
    }
    let installed = fake.with(|state| state.pinholes.clone());

    // The dataplane dies and comes back empty.
    drop(fake);
    until("detached", || (!under_test.status().attached).then_some(()));
    assert!(under_test.pinholes().iter().all(|pinhole| pinhole.state == PinholeState::Pending));
    let error = under_test.call::<PinholeData>(&Request::PinholeAdd(add("192.168.0.99:80"))).unwrap_err();
    assert_eq!(refusal(error), ErrorCode::Unreachable);
    let fake = under_test.dataplane();
    let all_active = || {
        let pinholes = under_test.pinholes();
        pinholes.iter().all(|pinhole| pinhole.state == PinholeState::Active).then_some(pinholes)
    };
    assert_eq!(until("installed again", all_active), granted);
    let ends = |state: &mut crate::support::fake::State| {
        state.pinholes.iter().map(|(id, (_, ack))| (*id, *ack)).collect::<Vec<_>>()
    };
    let expected: Vec<_> = installed.iter().map(|(id, (_, ack))| (*id, *ack)).collect();
    assert_eq!(fake.with(ends), expected);

    // The control plane dies; a removal meanwhile has to wait for nothing but its journal.
    let _: PinholeData = under_test.ask(&Request::PinholeRemove(PinholeRemove { id: granted[3].id }));
    granted.remove(3);
    under_test.kill();
    let attaches = fake.with(|state| state.attaches);
    under_test.start();
    until("attached again", || fake.with(|state| (state.attaches > attaches).then_some(())));
    let all_active = || {
        let pinholes = under_test.pinholes();
        pinholes.iter().all(|pinhole| pinhole.state == PinholeState::Active).then_some(pinholes)
    };
    assert_eq!(until("all active again", all_active), granted);
    assert_eq!(fake.with(|state| state.pinholes.len()), granted.len());
    // Ids are never used twice.
    let next: PinholeData = under_test.ask(&Request::PinholeAdd(add("192.168.0.99:80")));
    assert!(next.id > granted.iter().map(|pinhole| pinhole.id).max().unwrap());
}

#[test]
fn lifetimes_end() {
    let mut under_test = Site::new();
    let fake = under_test.dataplane();
    under_test.start();
    under_test.until_ready();
    let request = PinholeAdd { lifetime_seconds: Some(1), ..add("192.168.0.10:80") };
    let granted: PinholeData = until("granted", || {
        under_test.call(&Request::PinholeAdd(request.clone())).ok().map(|envelope| envelope.data)
    });
    assert!(granted.expires_at.unwrap() > granted.created_at);
    until("its end", || under_test.pinholes().is_empty().then_some(()));
    // The worker is told after the list is empty.
    until("its end at the worker", || fake.with(|state| state.pinholes.is_empty().then_some(())));
}

fn flow(n: u32, record: &mut FlowRecord) {
    let [_, b, c, d] = n.to_be_bytes();
    let [e, f] = 5000u16.to_be_bytes();
    let [g, h] = 443u16.to_be_bytes();
    record.open();
    record.protocol = if n.is_multiple_of(10) { 6 } else { 17 };
    record.state = flag::LIVE;
    record.addresses = [10, b, c, d, 198, 51, 100, 7, 10, b, c, d];
    record.ports = [e, f, g, h, e, f];
    record.close();
}

#[test]
fn flows_come_in_pages_and_filtered() {
    let mut under_test = Site::new();
    let fake = under_test.dataplane();
    under_test.start();
    under_test.until_ready();
    fake.with(|state| {
        for (worker, numbers) in [(0, 0..700), (1, 700..1000)] {
            // With places between them that are empty.
            for (record, n) in state.flows[worker].records[100..].iter_mut().zip(numbers) {
                flow(n, record);
            }
        }
    });
    let mut client = Client::connect(&under_test.path("control.sock"), SOON).unwrap();
    let mut walk = |filter: FlowFilter, limit: u32| {
        let mut seen: Vec<FlowData> = Vec::new();
        let mut cursor = None;
        loop {
            let request = FlowsRequest { filter: filter.clone(), cursor, limit };
            let page = client.call::<Vec<FlowData>>(&Request::Flows(request)).unwrap();
            assert!(page.data.len() <= limit as usize);
            assert_eq!(page.truncated, page.next_cursor.is_some());
            seen.extend(page.data);
            cursor = page.next_cursor;
            if cursor.is_none() {
                return seen;
            }
        }
    };
    for limit in [1000, 257, 100] {
        let mut addresses: Vec<_> =
            walk(FlowFilter::default(), limit).iter().map(|flow| flow.inside.address).collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), 1000);
    }
    let tcp = FlowFilter { protocol: Some(Protocol::TCP), ..FlowFilter::default() };
    assert_eq!(walk(tcp, 1000).len(), 100);
    let one = FlowFilter { subscriber: Some("10.0.3.8".parse().unwrap()), ..FlowFilter::default() };
    let found = walk(one, 5);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].inside, Endpoint { address: "10.0.3.8".parse().unwrap(), port: 5000 });

    drop(fake);
    until("detached", || (!under_test.status().attached).then_some(()));
    let request = FlowsRequest { filter: FlowFilter::default(), cursor: None, limit: 10 };
    let error = under_test.call::<Vec<FlowData>>(&Request::Flows(request)).unwrap_err();
    assert_eq!(refusal(error), ErrorCode::Unreachable);
}

#[test]
fn a_wrong_configuration_leaves_the_running_one() {
    let mut under_test = Site::new();
    let fake = under_test.dataplane();
    under_test.start();
    under_test.until_ready();
    let before: ConfigData = under_test.ask(&Request::Config);
    let generation = || fake.with(|state| state.policy.as_ref().map(|(generation, _)| *generation)).unwrap();
    let first = generation();

    under_test.configure(&RULES.replace("203.0.113.16/28", "203.0.113.16/99").replace("accept", "acept"));
    match under_test.call::<ReloadData>(&Request::ConfigReload).unwrap_err() {
        ClientError::Refused(body) => {
            assert_eq!(body.code, ErrorCode::ConfigInvalid);
            assert_eq!(body.details.len(), 2, "{body:?}");
        }
        other => panic!("{other}"),
    }
    assert_eq!(under_test.ask::<ConfigData>(&Request::Config), before);
    assert_eq!(generation(), first);
    assert_eq!(under_test.metric(r#"turnpike_config_apply_total{result="invalid"}"#), 1.0);
    assert_eq!(under_test.metric("turnpike_config_last_apply_success"), 0.0);

    // Sound, but the dataplane does not like it.
    under_test.configure(&RULES.replace("accept", "reject"));
    fake.with(|state| state.refuse_policy = true);
    let error = under_test.call::<ReloadData>(&Request::ConfigReload).unwrap_err();
    assert_eq!(refusal(error), ErrorCode::ConfigInvalid);
    assert_eq!(under_test.ask::<ConfigData>(&Request::Config), before);
    assert_eq!(under_test.metric(r#"turnpike_config_apply_total{result="error"}"#), 1.0);

    fake.with(|state| state.refuse_policy = false);
    let done: ReloadData = under_test.ask(&Request::ConfigReload);
    assert!(done.changed && done.needs_restart.is_empty());
    assert_ne!(done.hash, before.hash);
    assert!(generation() > first);
    assert_eq!(under_test.metric(&format!("turnpike_config_info{{hash=\"{}\"}}", done.hash)), 1.0);

    // By signal, with a key that waits for a restart.
    under_test.configure(&RULES.replace("\"net_null1\"", "\"net_null2\""));
    under_test.signal("-HUP");
    let config: ConfigData = until("the reload", || {
        Some(under_test.ask::<ConfigData>(&Request::Config)).filter(|config| config.hash != done.hash)
    });
    assert_eq!(config.needs_restart, ["port[1].device"]);

    // Taken back, it waits for nothing.
    under_test.configure(RULES);
    let done = under_test.call::<ReloadData>(&Request::ConfigReload).unwrap();
    assert!(done.data.needs_restart.is_empty() && done.warnings.is_empty(), "{done:?}");
}

/// A key that waits for the dataplane's start waits no more once another dataplane attached.
#[test]
fn what_waits_for_a_restart_ends_with_it() {
    let mut under_test = Site::new();
    let fake = under_test.dataplane();
    under_test.start();
    under_test.until_ready();
    under_test.configure(&RULES.replace("\"net_null1\"", "\"net_null2\""));
    let done: ReloadData = under_test.ask(&Request::ConfigReload);
    assert_eq!(done.needs_restart, ["port[1].device"]);
    drop(fake);
    let _fake = under_test.dataplane();
    until("the other dataplane is known", || {
        under_test.ask::<ConfigData>(&Request::Config).needs_restart.is_empty().then_some(())
    });
}

/// As many rules as a configuration may have, by reload: the daemon answers on, and the dataplane gets them all.
#[test]
fn ten_thousand_rules_reach_the_dataplane() {
    let mut under_test = Site::new();
    let fake = under_test.dataplane();
    under_test.start();
    under_test.until_ready();
    let rule = |n: usize| {
        let [high, low] = (n as u16).to_be_bytes();
        format!(
            "\n[[rule]]\nfrom = \"outside\"\nto = \"inside\"\nprotocol = \"tcp\"\n\
             destination = \"10.0.{high}.{low}/32\"\ndestination_ports = \"443\"\naction = \"accept\"\n"
        )
    };
    let rules: String = (0..MAX_RULES).map(rule).collect();
    under_test.configure(&format!("{RULES}{rules}"));
    let begin = std::time::Instant::now();
    let done: ReloadData = under_test.ask(&Request::ConfigReload);
    println!("{MAX_RULES} rules in force after {:?}", begin.elapsed());
    assert!(done.changed && done.needs_restart.is_empty());
    let records = fake.with(|state| {
        let (_, table) = state.policy.as_ref().unwrap();
        Reader::new(table).unwrap().section::<FirewallRuleRecord>(policy::FIREWALL_RULES).unwrap().len()
    });
    assert_eq!(records, MAX_RULES);
    let shown: ConfigData = under_test.ask(&Request::Config);
    assert_eq!(shown.hash, done.hash);
}

#[test]
fn ends_in_order_and_refuses_to_start_wrongly() {
    let mut under_test = Site::new();
    under_test.start();
    let socket = under_test.path("control.sock");
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    // A second one: the journal is taken.
    let daemon = env!("CARGO_BIN_EXE_turnpike-controlplane");
    let config = under_test.path("turnpike.toml");
    let second = Command::new(daemon).arg("--config").arg(&config).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("another process has it open"), "{said}");
    assert!(is_there(&socket));

    under_test.signal("-TERM");
    assert_eq!(under_test.wait().code(), Some(0));
    assert!(!is_there(&socket));

    under_test.configure("[[zone]]\nname = 7\n");
    let wrong = Command::new(daemon).arg("--config").arg(&config).output().unwrap();
    assert_eq!(wrong.status.code(), Some(7));
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(said.contains("turnpike.toml:") && said.contains("name"), "{said}");
    assert_eq!(Command::new(daemon).arg("--konfig").output().unwrap().status.code(), Some(2));
    let help = Command::new(daemon).arg("--help").output().unwrap();
    assert!(String::from_utf8_lossy(&help.stdout).contains("EXIT CODES"));
}

#[test]
fn a_journal_that_is_none_stops_the_start() {
    let under_test = Site::new();
    std::fs::create_dir(under_test.path("state")).unwrap();
    std::fs::write(under_test.path("state/journal.redb"), b"not a journal".repeat(1000)).unwrap();
    let daemon = Command::new(env!("CARGO_BIN_EXE_turnpike-controlplane"))
        .arg("--config")
        .arg(under_test.path("turnpike.toml"))
        .output()
        .unwrap();
    assert_eq!(daemon.status.code(), Some(1));
    let said = String::from_utf8_lossy(&daemon.stderr).into_owned();
    assert!(said.contains("journal.redb") && said.contains("move it away"), "{said}");
}

#[test]
fn overlong_lines_and_many_connections_do_no_harm() {
    let mut under_test = Site::new();
    under_test.start();
    let socket = under_test.path("control.sock");
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(&vec![b'x'; 100 << 10]).unwrap();
    stream.write_all(b"\n").unwrap();
    let mut answer = [0; 4096];
    let read = stream.read(&mut answer).unwrap();
    assert!(String::from_utf8_lossy(&answer[..read]).contains("bad_request"));

    let idle: Vec<_> = (0..100).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    drop(idle);
    assert!(!under_test.status().attached);
}

#[test]
fn a_dataplane_that_goes_and_comes_is_attached_again() {
    let mut under_test = Site::new();
    let fake = under_test.dataplane();
    under_test.start();
    under_test.until_ready();
    fake.with(|state| state.corrupt = true);
    until("attached again", || fake.with(|state| (state.attaches == 2).then_some(())));
    under_test.until_ready();
    assert_eq!(under_test.metric("turnpike_attachments_total"), 2.0);
}

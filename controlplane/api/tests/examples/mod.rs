//! Example data: a box with two ports, one VLAN, two workers and one pool.

use turnpike_abi::counters::{DropReason, TcpState};
use turnpike_api::*;

/// 2026-11-21T03:20:00Z.
const NOW: u64 = 1_795_231_200_000;

fn ago(seconds: u64) -> Timestamp {
    Timestamp(NOW - seconds * 1000)
}

pub fn envelope<T: Payload>(data: T) -> Envelope<T> {
    Envelope { generated_at: Timestamp(NOW), ..Envelope::new("box1", data) }
}

fn end(text: &str) -> Endpoint {
    text.parse().unwrap()
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn traffic(packets: u64, packets_per_second: u64) -> Traffic {
    Traffic { packets, bytes: packets * 700, packets_per_second, bits_per_second: packets_per_second * 5600 }
}

fn dataplane() -> DataplaneInfo {
    DataplaneInfo {
        version: "0.1.0".into(),
        dpdk_version: "DPDK 22.11.11".into(),
        pid: 4711,
        started_at: ago(93_784),
        no_huge: false,
        attached_since: ago(3_600),
    }
}

fn drop(reason: DropReason, packets: u64, packets_per_second: u64) -> DropData {
    DropData { reason: reason.name().into(), packets, packets_per_second }
}

pub fn status() -> StatusData {
    let port = |name: &str, receive, transmit| PortRate {
        name: name.into(),
        link_up: true,
        receive,
        transmit,
        receive_lost_per_second: 0,
    };
    StatusData {
        ready: true,
        attached: true,
        controlplane: ControlplaneInfo { version: "0.1.0".into(), pid: 4712, started_at: ago(3_601) },
        dataplane: Some(dataplane()),
        config: ConfigSummary {
            path: "/etc/turnpike/turnpike.toml".into(),
            hash: "5f2b6c0d9a1e4f37".into(),
            applied_at: ago(3_600),
        },
        ports: vec![
            port("inside", traffic(81_234_567, 401_223), traffic(120_345_678, 612_876)),
            port("outside", traffic(120_345_999, 612_901), traffic(81_200_111, 401_010)),
        ],
        workers: vec![
            WorkerLoad { worker: 0, packets_per_second: 520_124, busy_ratio: 0.625 },
            WorkerLoad { worker: 1, packets_per_second: 494_000, busy_ratio: 0.5 },
        ],
        flows: Usage { in_use: 48_211, limit: 131_072, created: 901_235, created_per_second: 312 },
        bindings: Usage { in_use: 30_127, limit: 131_072, created: 512_001, created_per_second: 207 },
        subscribers: 1_024,
        pinholes: 3,
        pools: vec![PoolFill {
            name: "public".into(),
            ports: 1_483_776,
            in_use: PortsInUse { tcp: 21_004, udp: 9_100, icmp: 23 },
        }],
        buffers: BufferUse { total: 16_384, available: 12_001 },
        drops: DropSummary {
            packets: 34_456,
            packets_per_second: 238,
            top: vec![
                drop(DropReason::NoMapping, 31_999, 230),
                drop(DropReason::FirewallDefaultDeny, 2_345, 8),
                drop(DropReason::TtlExpired, 112, 0),
            ],
        },
        conservation: Conservation { ok: true, packets_in: 201_601_000, packets_accounted: 201_601_000 },
    }
}

pub fn ports() -> Vec<PortData> {
    let interface = |name: &str, vlan, zone: Option<&str>, tap: &str, addresses: &[&str]| InterfaceData {
        name: name.into(),
        vlan,
        zone: zone.map(Into::into),
        mac: "02:00:00:00:00:01".into(),
        mtu_bytes: 1500,
        tap: tap.into(),
        addresses: addresses.iter().map(|&address| address.into()).collect(),
    };
    vec![
        PortData {
            name: "inside".into(),
            device: "net_af_packet0,iface=eth1".into(),
            driver: "net_af_packet".into(),
            link_up: true,
            speed_bits_per_second: None,
            mtu_bytes: 1500,
            queues: 2,
            steering: SteeringData { ipv4: "software".into(), ipv6: "software".into() },
            receive: traffic(81_234_567, 401_223),
            transmit: traffic(120_345_678, 612_876),
            receive_missed: 0,
            receive_errors: 0,
            receive_no_buffer: 0,
            transmit_errors: 0,
            interfaces: vec![interface(
                "inside",
                None,
                Some("inside"),
                "tp-inside",
                &["192.168.0.1/24", "fd00:1::1/64"],
            )],
        },
        PortData {
            name: "outside".into(),
            device: "0000:03:00.1".into(),
            driver: "net_ixgbe".into(),
            link_up: true,
            speed_bits_per_second: Some(10_000_000_000),
            mtu_bytes: 1500,
            queues: 2,
            steering: SteeringData { ipv4: "rss-key".into(), ipv6: "software".into() },
            receive: traffic(120_345_999, 612_901),
            transmit: traffic(81_200_111, 401_010),
            receive_missed: 17,
            receive_errors: 2,
            receive_no_buffer: 1,
            transmit_errors: 0,
            interfaces: vec![
                interface("outside", None, None, "tp-outside", &[]),
                interface(
                    "uplink",
                    Some(100),
                    Some("outside"),
                    "tp-uplink",
                    &["203.0.113.2/24", "2001:db8:1::2/64"],
                ),
            ],
        },
    ]
}

pub fn workers() -> Vec<WorkerData> {
    let worker = |worker, receive, busy_ratio, busy| WorkerData {
        worker,
        heartbeat_age_milliseconds: 12,
        receive,
        transmit: traffic(100_700_000, 500_100),
        punted: 512,
        injected: 498,
        generated: 112,
        crossed_in: 40,
        crossed_out: 41,
        dropped: 17_228,
        dropped_per_second: 119,
        held: 0,
        bursts: 9_000_123,
        cycles: Cycles { busy, idle: 90_000_000_000, housekeeping: 1_000_000_000 },
        busy_ratio,
        flows: Usage { in_use: 24_105, limit: 65_536, created: 450_617, created_per_second: 156 },
        bindings: Usage { in_use: 15_063, limit: 65_536, created: 256_000, created_per_second: 103 },
        subscribers: 512,
        pinholes: 2,
        neighbours: 4,
        policy_generation: 3,
        forwarding_generation: 19,
        timer_lag_milliseconds: 0,
        commands: 27,
        commands_refused: 1,
        events: 40_312,
        events_dropped: 0,
        peer_violations: 0,
        conservation: Conservation { ok: true, packets_in: 100_800_500, packets_accounted: 100_800_500 },
    };
    vec![
        worker(0, traffic(100_800_000, 520_124), 0.625, 150_000_000_000),
        worker(1, traffic(100_780_566, 494_000), 0.5, 91_000_000_000),
    ]
}

pub fn flows() -> Vec<FlowData> {
    let outbound = FlowData {
        protocol: Protocol::TCP,
        state: FlowState(TcpState::Established),
        direction: FlowDirection::Outbound,
        inside: end("192.168.0.10:51034"),
        external: Some(end("203.0.113.17:40213")),
        remote: end("198.51.100.80:443"),
        packets_out: 1_204,
        packets_in: 2_310,
        bytes_out: 80_331,
        bytes_in: 3_310_412,
        age_seconds: 95,
        idle_seconds: 2,
        timeout_seconds: 7_440,
        worker: 0,
    };
    vec![
        outbound.clone(),
        FlowData {
            direction: FlowDirection::Inbound,
            inside: end("192.168.0.20:22"),
            external: Some(end("203.0.113.18:2222")),
            remote: end("198.51.100.9:60001"),
            worker: 1,
            ..outbound.clone()
        },
        FlowData {
            protocol: Protocol::UDP,
            state: FlowState(TcpState::None),
            inside: end("192.168.0.10:5060"),
            external: Some(end("203.0.113.17:5060")),
            remote: end("203.0.113.18:5062"),
            timeout_seconds: 300,
            ..outbound.clone()
        },
        FlowData {
            protocol: Protocol::ICMPV6,
            state: FlowState(TcpState::None),
            inside: end("[fd00:1::10]:77"),
            external: None,
            remote: end("[2001:db8:1::53]:77"),
            timeout_seconds: 60,
            ..outbound.clone()
        },
        FlowData {
            protocol: Protocol(50),
            state: FlowState(TcpState::None),
            inside: end("[fd00:1::11]:0"),
            external: None,
            remote: end("[2001:db8:1::54]:0"),
            timeout_seconds: 300,
            worker: 1,
            ..outbound
        },
    ]
}

pub fn bindings() -> Vec<BindingData> {
    let dynamic = BindingData {
        protocol: Protocol::TCP,
        inside: end("192.168.0.10:51034"),
        external: Some(end("203.0.113.17:40213")),
        pool: Some("public".into()),
        pinhole: None,
        remote: None,
        remote_ports: None,
        flows: 3,
        age_seconds: 95,
        worker: 0,
    };
    vec![
        dynamic.clone(),
        BindingData {
            inside: end("192.168.0.20:22"),
            external: Some(end("203.0.113.18:2222")),
            pinhole: Some(1),
            remote: Some(prefix("198.51.100.0/24")),
            flows: 1,
            worker: 1,
            ..dynamic.clone()
        },
        BindingData {
            protocol: Protocol::UDP,
            inside: end("[fd00:1::20]:53"),
            external: None,
            pool: None,
            pinhole: Some(2),
            remote: None,
            remote_ports: Some(PortRange { first: 1024, last: 65_535 }),
            flows: 0,
            ..dynamic
        },
    ]
}

pub fn pools() -> Vec<PoolData> {
    vec![PoolData {
        name: "public".into(),
        zone: "outside".into(),
        ranges: vec![
            "203.0.113.16-203.0.113.31".into(),
            "203.0.113.40-203.0.113.45".into(),
            "198.51.100.7".into(),
        ],
        addresses: 23,
        port_range: PortRange { first: 1024, last: 65_535 },
        ports: 1_483_776,
        in_use: PortsInUse { tcp: 21_004, udp: 9_100, icmp: 23 },
        exhausted: 0,
        proxy_arp: true,
    }]
}

pub fn neighbours() -> Vec<NeighbourData> {
    vec![
        NeighbourData {
            address: "192.168.0.10".parse().unwrap(),
            interface: "inside".into(),
            mac: Some("02:00:00:00:10:10".into()),
            state: NeighbourState::Reachable,
            installed: true,
        },
        NeighbourData {
            address: "2001:db8:1::1".parse().unwrap(),
            interface: "uplink".into(),
            mac: Some("02:00:00:00:20:01".into()),
            state: NeighbourState::Stale,
            installed: true,
        },
        NeighbourData {
            address: "192.168.0.99".parse().unwrap(),
            interface: "inside".into(),
            mac: None,
            state: NeighbourState::Failed,
            installed: false,
        },
    ]
}

pub fn routes() -> Vec<RouteData> {
    let route = |destination: &str, kind, via: Option<&str>, interface: Option<&str>| RouteData {
        destination: prefix(destination),
        kind,
        via: via.map(|via| via.parse().unwrap()),
        interface: interface.map(Into::into),
    };
    vec![
        route("0.0.0.0/0", RouteKind::Unicast, Some("203.0.113.1"), Some("uplink")),
        route("10.0.0.0/8", RouteKind::Blackhole, None, None),
        route("192.168.0.0/24", RouteKind::Unicast, None, Some("inside")),
        route("192.168.0.1/32", RouteKind::Local, None, None),
        route("::/0", RouteKind::Unicast, Some("2001:db8:1::1"), Some("uplink")),
        route("fc00::/7", RouteKind::Unreachable, None, None),
    ]
}

pub fn firewall() -> Vec<FirewallRuleData> {
    let any = FirewallRuleData {
        rule: 1,
        from: None,
        to: None,
        family: None,
        protocol: None,
        icmp_type: None,
        icmp_code: None,
        source: None,
        source_ports: None,
        destination: None,
        destination_ports: None,
        action: "accept".into(),
        hits: Some(0),
    };
    vec![
        FirewallRuleData {
            from: Some("outside".into()),
            to: Some("inside".into()),
            family: Some(6),
            protocol: Some(Protocol::TCP),
            destination: Some(prefix("2001:db8:2::/48")),
            destination_ports: Some(PortRange { first: 22, last: 22 }),
            action: "reject".into(),
            hits: Some(1_204_117),
            ..any.clone()
        },
        FirewallRuleData {
            rule: 2,
            protocol: Some(Protocol(1)),
            icmp_type: Some(8),
            icmp_code: Some(0),
            ..any.clone()
        },
        FirewallRuleData {
            rule: 3,
            from: Some("inside".into()),
            source: Some(prefix("192.168.0.0/24")),
            source_ports: Some(PortRange { first: 1024, last: 65_535 }),
            protocol: Some(Protocol::UDP),
            action: "drop".into(),
            hits: None,
            ..any
        },
    ]
}

pub fn drops() -> DropsData {
    let some = [
        (DropReason::NoMapping, 31_999, 230),
        (DropReason::FirewallDefaultDeny, 2_345, 8),
        (DropReason::TtlExpired, 112, 0),
    ];
    let of = |reason| {
        some.iter().find(|(some, ..)| *some == reason).map_or((0, 0), |&(_, total, rate)| (total, rate))
    };
    DropsData {
        packets: 34_456,
        packets_per_second: 238,
        reasons: DropReason::ALL
            .iter()
            .map(|&reason| {
                let (packets, rate) = of(reason);
                drop(reason, packets, rate)
            })
            .collect(),
        device_receive_lost: 20,
        tap_dropped: 1,
        inject_dropped: 0,
    }
}

pub fn config() -> ConfigData {
    ConfigData {
        path: "/etc/turnpike/turnpike.toml".into(),
        hash: "5f2b6c0d9a1e4f37".into(),
        applied_at: ago(3_600),
        text: "[dataplane]\ncores = [1]\n\n[[port]]\nname = \"inside\"\ndevice = \"0000:03:00.0\"\n".into(),
        needs_restart: vec!["dataplane.buffers".into()],
    }
}

pub fn reload() -> ReloadData {
    ReloadData {
        path: "/etc/turnpike/turnpike.toml".into(),
        previous_hash: "5f2b6c0d9a1e4f37".into(),
        hash: "77ae01c29b3d6e58".into(),
        changed: true,
        needs_restart: vec!["dataplane.buffers".into()],
    }
}

pub fn version() -> VersionData {
    VersionData {
        cli: None,
        controlplane: Some("0.1.0".into()),
        dataplane: Some("0.1.0".into()),
        dpdk: Some("DPDK 22.11.11".into()),
        api_version: 1,
        abi_version: 1,
    }
}

pub fn pinhole() -> PinholeData {
    PinholeData {
        id: 1,
        protocol: PinholeProtocol::Tcp,
        inside: end("192.168.0.20:22"),
        external: Some(end("203.0.113.18:2222")),
        pool: Some("public".into()),
        remote: Some(prefix("198.51.100.0/24")),
        remote_ports: None,
        created_at: ago(600),
        expires_at: Some(Timestamp(NOW + 3_000_000)),
        state: PinholeState::Active,
        owner: "cli:0".into(),
        note: Some("ssh of the build host".into()),
    }
}

pub fn pinholes() -> Vec<PinholeData> {
    vec![
        pinhole(),
        PinholeData {
            id: 2,
            protocol: PinholeProtocol::Udp,
            inside: end("[fd00:1::20]:53"),
            external: None,
            pool: None,
            remote: None,
            remote_ports: Some(PortRange { first: 1024, last: 65_535 }),
            expires_at: None,
            state: PinholeState::Pending,
            owner: "cli:1000".into(),
            note: None,
            ..pinhole()
        },
    ]
}

pub fn error() -> ErrorBody {
    ErrorBody::new(
        ErrorCode::ConfigInvalid,
        "/etc/turnpike/turnpike.toml: 2 problems; the running configuration stays",
    )
    .with_hint("correct the file, check it with turnpike config check, then reload again")
    .with_details(vec!["line 4: unknown key mtuu".into(), "line 9: zone \"dmz\" is not defined".into()])
}

pub fn requests() -> Vec<Request> {
    let page = Some("0.4096".into());
    vec![
        Request::Status,
        Request::Ports,
        Request::Workers,
        Request::Flows(FlowsRequest {
            filter: FlowFilter {
                subscriber: Some(prefix("192.168.0.0/24")),
                protocol: Some(Protocol::TCP),
                state: Some(FlowState(TcpState::Established)),
                external: Some(":443".parse().unwrap()),
                remote: Some("[2001:db8::1]:443".parse().unwrap()),
            },
            cursor: page.clone(),
            limit: 256,
        }),
        Request::Bindings(BindingsRequest {
            filter: BindingFilter { pinholes: true, ..BindingFilter::default() },
            cursor: page,
            limit: MAX_PAGE,
        }),
        Request::Pools,
        Request::Neighbours,
        Request::Routes,
        Request::Firewall,
        Request::Drops,
        Request::Config,
        Request::ConfigReload,
        Request::PinholeAdd(PinholeAdd {
            protocol: PinholeProtocol::Tcp,
            inside: end("192.168.0.20:22"),
            external: Some("203.0.113.18:2222".parse().unwrap()),
            remote: Some(prefix("198.51.100.0/24")),
            remote_ports: Some(PortRange { first: 1024, last: 65_535 }),
            lifetime_seconds: Some(3_600),
            pool: Some("public".into()),
            note: Some("ssh of the build host".into()),
        }),
        Request::PinholeList,
        Request::PinholeRemove(PinholeRemove { id: 1 }),
        Request::NatForward(NatForward { inside: "198.51.100.2".parse().unwrap(), time: None }),
        Request::NatReverse(NatReverse {
            external: "192.0.2.1".parse().unwrap(),
            port: 5_056,
            time: Some("2026-11-21T03:20:00.000Z".parse().unwrap()),
        }),
        Request::Rules(RulesRequest {
            filter: RuleFilter {
                subscriber: Some(prefix("192.168.0.0/24")),
                protocol: Some(Protocol::UDP),
                owner: Some("simco:proxy.example".into()),
                group: Some(3),
            },
            cursor: Some("7".into()),
            limit: 100,
        }),
        Request::RuleDelete(RuleDelete { id: 7 }),
        Request::Groups(GroupsRequest { cursor: None, limit: 100 }),
        Request::Agents,
        Request::Sessions,
        Request::Version,
    ]
}

/// The example of RFC 7422, section 2.3.
pub fn nat_forward() -> NatForwardData {
    NatForwardData {
        inside: "198.51.100.2".parse().unwrap(),
        pool: "public".into(),
        external: "192.0.2.1".parse().unwrap(),
        ports: vec![PortRange { first: 5_056, last: 9_087 }],
        since: Some("2026-11-20T08:00:00.000Z".parse().unwrap()),
    }
}

pub fn nat_reverse() -> NatReverseData {
    NatReverseData {
        external: "192.0.2.1".parse().unwrap(),
        port: 5_056,
        pool: "public".into(),
        holder: PortHolder::Inside,
        inside: Some("198.51.100.2".parse().unwrap()),
        since: Some("2026-11-20T08:00:00.000Z".parse().unwrap()),
    }
}

pub fn rule() -> RuleData {
    RuleData {
        id: 7,
        group: 3,
        owner: "simco:proxy.example".into(),
        zone: "inside".into(),
        action: RuleAction::Enable,
        direction: Some(RuleDirection::In),
        protocol: Protocol::UDP,
        ports: 2,
        internal: Some("192.168.0.20:5004".into()),
        outside: Some("203.0.113.18:40000".into()),
        external: Some("192.0.2.33:*".into()),
        locked: Some("192.0.2.33:9000".into()),
        pool: Some("public".into()),
        remote_ports: None,
        state: PinholeState::Active,
        created_at: ago(60),
        expires_at: Some(Timestamp(NOW + 240_000)),
        lifetime_seconds: Some(240),
        description: Some("call 17".into()),
    }
}

pub fn rules() -> Vec<RuleData> {
    vec![
        rule(),
        RuleData {
            id: 8,
            group: 4,
            owner: "pcp:inside/192.168.0.21".into(),
            action: RuleAction::Reserve,
            direction: None,
            internal: None,
            external: None,
            locked: None,
            state: PinholeState::Pending,
            expires_at: None,
            lifetime_seconds: None,
            description: None,
            ..rule()
        },
    ]
}

pub fn groups() -> Vec<GroupData> {
    vec![
        GroupData { id: 3, owner: "simco:proxy.example".into(), rules: 2, lifetime_seconds: Some(240) },
        GroupData { id: 5, owner: "cli:0".into(), rules: 1, lifetime_seconds: None },
    ]
}

pub fn agents() -> Vec<AgentData> {
    vec![
        AgentData {
            agent: "simco:proxy.example".into(),
            enabled: true,
            rules: 12_345,
            rules_limit: Some(100_000),
            sessions: 2,
            sessions_limit: 16,
        },
        AgentData {
            agent: "cli:0".into(),
            enabled: true,
            rules: 1,
            rules_limit: None,
            sessions: 0,
            sessions_limit: 0,
        },
    ]
}

pub fn sessions() -> Vec<SessionData> {
    vec![SessionData {
        id: 4,
        agent: "simco:proxy.example".into(),
        peer: "192.168.0.5:40112".into(),
        security: "TLSv1.3".into(),
        opened_at: ago(3600),
        requests: 12_345,
        refused: 2,
        notifications: 7,
    }]
}

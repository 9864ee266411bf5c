//! TCP through the translator: RFC 5382, RFC 7857. Tests carry the ids of their requirement rows.

use turnpike_abi::counters::{Counter, DropReason, FlowEnd, ProtocolClass, TcpState};
use turnpike_sim::lab::{
    GATEWAY, HOST, HOST6, INSIDE_PORT, Lab, OTHER_HOST, OTHER_SERVER, OUTSIDE_PORT, SERVER, SERVER6,
    everywhere, everywhere_with, forwarding, text,
};
use turnpike_sim::packets::Build;
use turnpike_sim::tables::PolicyTable;
use turnpike_wire::packet::{TCP_ACK, TCP_FIN, TCP_PSH, TCP_RST, TCP_SYN};

const CLIENT: (&str, u16) = (HOST, 40000);
const WEB: (&str, u16) = (SERVER, 80);

fn flows(lab: &Lab) -> u64 {
    lab.appliance.counters().flows(ProtocolClass::Tcp).0
}

fn state(lab: &Lab) -> TcpState {
    let counters = lab.appliance.counters();
    let mut states = TcpState::ALL.iter().filter(|&&state| counters.flows_in(state) > 0);
    let state = *states.next().expect("a flow");
    assert!(states.next().is_none());
    state
}

/// Opens a connection and returns the client's external end.
fn open(lab: &mut Lab) -> (String, u16) {
    let external = text(lab.out(&Build::tcp(CLIENT, WEB, TCP_SYN, b"")).source());
    lab.back(&Build::tcp(WEB, (&external.0, external.1), TCP_SYN | TCP_ACK, b""));
    lab.out(&Build::tcp(CLIENT, WEB, TCP_ACK, b""));
    assert_eq!(state(lab), TcpState::Established);
    external
}

#[test]
fn tcp_1_the_mapping_does_not_depend_on_the_destination() {
    everywhere(|lab| {
        let first = text(lab.out(&Build::tcp(CLIENT, WEB, TCP_SYN, b"")).source());
        for server in [(SERVER, 443), (OTHER_SERVER, 80), (GATEWAY, 22)] {
            assert_eq!(text(lab.out(&Build::tcp(CLIENT, server, TCP_SYN, b"")).source()), first);
        }
        assert_eq!(lab.appliance.counters().bindings(ProtocolClass::Tcp).0, 1);
    });
}

#[test]
fn tcp_2_retransmitted_syn_data_in_syn_half_close_and_reset_pass() {
    everywhere(|lab| {
        let external = text(lab.out(&Build::tcp(CLIENT, WEB, TCP_SYN, b"fast open")).source());
        let seen = lab.out(&Build::tcp(CLIENT, WEB, TCP_SYN, b"fast open"));
        assert_eq!(seen.payload(), b"fast open");
        let back = |lab: &mut Lab, flags, data: &[u8]| {
            let seen = lab.back(&Build::tcp(WEB, (&external.0, external.1), flags, data));
            assert_eq!(text(seen.destination()), (HOST.to_owned(), 40000));
            assert_eq!(seen.payload(), data);
        };
        back(lab, TCP_SYN | TCP_ACK, b"");
        back(lab, TCP_SYN | TCP_ACK, b"");
        lab.out(&Build::tcp(CLIENT, WEB, TCP_ACK, b"GET"));
        // The client is done; the server goes on.
        lab.out(&Build::tcp(CLIENT, WEB, TCP_FIN | TCP_ACK, b""));
        assert_eq!(state(lab), TcpState::ClientFin);
        for _ in 0..3 {
            back(lab, TCP_ACK | TCP_PSH, b"data");
            lab.out(&Build::tcp(CLIENT, WEB, TCP_ACK, b""));
        }
        // RFC 7857 figure 1: only from ESTABLISHED does a reset lead to TRANS.
        back(lab, TCP_RST, b"");
        assert_eq!(state(lab), TcpState::ClientFin);
        lab.out(&Build::tcp(CLIENT, WEB, TCP_RST | TCP_ACK, b""));
        assert_eq!(flows(lab), 1);
    });
}

#[test]
fn tcp_2a_simultaneous_open_completes() {
    everywhere(|lab| {
        let external = text(lab.out(&Build::tcp(CLIENT, WEB, TCP_SYN, b"")).source());
        let back = |lab: &mut Lab, flags| lab.back(&Build::tcp(WEB, (&external.0, external.1), flags, b""));
        back(lab, TCP_SYN);
        assert_eq!(state(lab), TcpState::Established);
        lab.out(&Build::tcp(CLIENT, WEB, TCP_SYN | TCP_ACK, b""));
        back(lab, TCP_SYN | TCP_ACK);
        lab.out(&Build::tcp(CLIENT, WEB, TCP_ACK, b"data"));
    });
}

#[test]
fn tcp_3_a_syn_from_anybody_reaches_a_mapped_port() {
    everywhere(|lab| {
        let external = open(lab);
        let from = (OTHER_SERVER, 7777);
        let seen = lab.back(&Build::tcp(from, (&external.0, external.1), TCP_SYN, b""));
        assert_eq!(text(seen.destination()), (HOST.to_owned(), 40000));
        let seen = lab.out(&Build::tcp(CLIENT, from, TCP_SYN | TCP_ACK, b""));
        assert_eq!(text(seen.source()), external);
        assert_eq!(lab.appliance.counters().get(Counter::EifHits), 1);
        // What is not a SYN opens nothing.
        let stray = Build::tcp((OTHER_SERVER, 7778), (&external.0, external.1), TCP_ACK, b"");
        lab.step(OUTSIDE_PORT, &stray).dropped(DropReason::SynRequired);
    });
}

#[test]
fn tcp_4a_an_unsolicited_syn_is_dropped_without_a_word_and_without_a_flow() {
    everywhere(|lab| {
        for port in (1000..60_000).step_by(4999) {
            let syn = Build::tcp(WEB, ("203.0.113.5", port), TCP_SYN, b"");
            lab.step(OUTSIDE_PORT, &syn).dropped(DropReason::NoMapping);
        }
        assert_eq!(flows(lab), 0);
        lab.appliance.advance(10_000, 100);
        assert!(lab.appliance.sent().is_none());
    });
}

#[test]
fn tcp_5_an_established_connection_stays_for_7440_seconds() {
    everywhere(|lab| {
        let external = open(lab);
        lab.appliance.advance(7_439_000, 1000);
        assert_eq!(flows(lab), 1);
        let seen = lab.back(&Build::tcp(WEB, (&external.0, external.1), TCP_ACK, b"still here"));
        assert_eq!(seen.payload(), b"still here");
        assert_eq!(state(lab), TcpState::Established);
        // Idle for longer, it passes through the transitory state of 240 s (RFC 7857 figure 1).
        lab.appliance.advance(7_441_000, 1000);
        assert_eq!(state(lab), TcpState::Transitory);
        lab.appliance.advance(239_000 - 1000, 1000);
        assert_eq!(flows(lab), 1);
        lab.appliance.advance(5000, 1000);
        assert_eq!(flows(lab), 0);
        assert_eq!(lab.appliance.counters().flows_ended(ProtocolClass::Tcp, FlowEnd::Timeout), 1);
        assert_eq!(lab.appliance.counters().bindings(ProtocolClass::Tcp).0, 0);
    });
}

#[test]
fn tcp_5_transitory_connections_stay_for_240_seconds() {
    everywhere(|lab| {
        lab.out(&Build::tcp(CLIENT, WEB, TCP_SYN, b""));
        lab.appliance.advance(239_000, 1000);
        assert_eq!(flows(lab), 1);
        lab.appliance.advance(2000, 1000);
        assert_eq!(flows(lab), 0);
    });
}

/// TCP-5a, UPD-2: opening, established and closing have timers of their own.
#[test]
fn upd_2_each_tcp_timer_is_configured_by_itself() {
    let mut policy = PolicyTable::default();
    policy.settings.tcp_opening = 10;
    policy.settings.tcp_closing = 20;
    policy.settings.tcp_established = 300;
    everywhere_with(&policy, &forwarding(), |lab| {
        lab.out(&Build::tcp(CLIENT, WEB, TCP_SYN, b""));
        lab.appliance.advance(9000, 500);
        assert_eq!(flows(lab), 1);
        lab.appliance.advance(2000, 500);
        assert_eq!(flows(lab), 0);
        let external = open(lab);
        lab.appliance.advance(299_000, 500);
        assert_eq!(state(lab), TcpState::Established);
        lab.out(&Build::tcp(CLIENT, WEB, TCP_FIN | TCP_ACK, b""));
        lab.back(&Build::tcp(WEB, (&external.0, external.1), TCP_FIN | TCP_ACK, b""));
        assert_eq!(state(lab), TcpState::BothFin);
        lab.appliance.advance(19_000, 500);
        assert_eq!(flows(lab), 1);
        lab.appliance.advance(2000, 500);
        assert_eq!(flows(lab), 0);
        assert_eq!(lab.appliance.counters().flows_ended(ProtocolClass::Tcp, FlowEnd::Fin), 1);
    });
}

#[test]
fn tcp_6_payloads_are_left_alone() {
    everywhere(|lab| {
        open(lab);
        let port = b"PORT 10,0,0,9,156,64\r\n";
        assert_eq!(lab.out(&Build::tcp(CLIENT, WEB, TCP_ACK | TCP_PSH, port)).payload(), port);
    });
}

#[test]
fn tcp_7_no_external_port_is_shared() {
    let mut policy = PolicyTable::default();
    policy.ranges[0].last = policy.ranges[0].first;
    everywhere_with(&policy, &forwarding(), |lab| {
        let mut seen = std::collections::HashSet::new();
        for port in 1..100 {
            for host in [HOST, OTHER_HOST] {
                // To different servers, which an overloading translator would tell apart.
                let server = if port % 2 == 0 { SERVER } else { OTHER_SERVER };
                let left = lab.out(&Build::tcp((host, port), (server, 80), TCP_SYN, b""));
                assert!(seen.insert(text(left.source())));
            }
        }
    });
}

#[test]
fn tcp_8_hairpinned_connections_see_external_ends() {
    everywhere(|lab| {
        let b = text(lab.out(&Build::tcp((OTHER_HOST, 8080), WEB, TCP_SYN, b"")).source());
        let seen = lab.hairpin(&Build::tcp(CLIENT, (&b.0, b.1), TCP_SYN, b""));
        assert_eq!(text(seen.destination()), (OTHER_HOST.to_owned(), 8080));
        let a = text(seen.source());
        assert!(a.0.starts_with("203.0.113."));
        let seen = lab.hairpin(&Build::tcp((OTHER_HOST, 8080), (&a.0, a.1), TCP_SYN | TCP_ACK, b""));
        assert_eq!(text(seen.destination()), (HOST.to_owned(), 40000));
        assert_eq!(text(seen.source()), b);
        let seen = lab.hairpin(&Build::tcp(CLIENT, (&b.0, b.1), TCP_ACK, b"data"));
        assert_eq!((text(seen.source()), seen.payload()), (a, &b"data"[..]));
    });
}

#[test]
fn tcp_9_unreachable_is_translated_for_a_connection() {
    everywhere(|lab| {
        let left = lab.out(&Build::tcp(CLIENT, WEB, TCP_SYN, b""));
        let external = text(left.source());
        for quoted in [28, 40] {
            for code in [0, 1, 3, 10, 13] {
                let error = Build::icmp_error(GATEWAY, &external.0, 3, code, 0, &left.ip()[..quoted]);
                let seen = lab.back(&error);
                assert_eq!(seen.icmp(), (3, code));
                assert_eq!(text(seen.destination()).0, HOST);
                assert_eq!(seen.payload(), &Build::tcp(CLIENT, WEB, TCP_SYN, b"").ttl(63).ip()[..quoted]);
            }
        }
    });
}

#[test]
fn tcp_10_no_icmp_error_ends_a_connection() {
    everywhere(|lab| {
        let external = open(lab);
        let about = lab.out(&Build::tcp(CLIENT, WEB, TCP_ACK, b"data"));
        for (kind, code) in (0..16).map(|code| (3, code)).chain([(11, 0), (12, 0)]) {
            lab.back(&Build::icmp_error(SERVER, &external.0, kind, code, 0, about.ip()));
        }
        assert_eq!(state(lab), TcpState::Established);
        lab.back(&Build::tcp(WEB, (&external.0, external.1), TCP_ACK, b"more"));
        assert_eq!(text(lab.out(&Build::tcp(CLIENT, WEB, TCP_ACK, b"")).source()), external);
    });
}

#[test]
fn upd_3_a_reset_is_translated_and_a_later_packet_revives_the_session() {
    everywhere(|lab| {
        let external = open(lab);
        lab.back(&Build::tcp(WEB, (&external.0, external.1), TCP_RST, b""));
        assert_eq!(state(lab), TcpState::Transitory);
        lab.appliance.advance(239_000, 1000);
        lab.out(&Build::tcp(CLIENT, WEB, TCP_ACK, b"alive"));
        assert_eq!(state(lab), TcpState::Established);
        lab.back(&Build::tcp(WEB, (&external.0, external.1), TCP_RST, b""));
        lab.appliance.advance(241_000, 1000);
        assert_eq!(flows(lab), 0);
        assert_eq!(lab.appliance.counters().flows_ended(ProtocolClass::Tcp, FlowEnd::Rst), 1);
    });
}

/// UPD-6, UPD-7: a mapping is of one protocol, and so is what it lets in.
#[test]
fn upd_6_mappings_and_filters_are_per_protocol() {
    everywhere(|lab| {
        let tcp = text(lab.out(&Build::tcp(CLIENT, WEB, TCP_SYN, b"")).source());
        let counters = lab.appliance.counters();
        assert_eq!(counters.bindings(ProtocolClass::Udp).0, 0);
        let datagram = Build::udp((SERVER, 53), (&tcp.0, tcp.1), b"x");
        lab.step(OUTSIDE_PORT, &datagram).dropped(DropReason::NoMapping);
        let udp = lab.udp_mapping(HOST, 40000);
        assert_eq!(udp.0, tcp.0);
        assert_eq!(lab.appliance.counters().bindings(ProtocolClass::Udp).0, 1);
        if udp.1 != tcp.1 {
            let syn = Build::tcp(WEB, (&udp.0, udp.1), TCP_SYN, b"");
            lab.step(OUTSIDE_PORT, &syn).dropped(DropReason::NoMapping);
        }
    });
}

/// UPD-8: what the policy refuses refreshes nothing.
#[test]
fn upd_8_refused_inbound_packets_do_not_refresh() {
    everywhere(|lab| {
        let external = text(lab.out(&Build::tcp(CLIENT, WEB, TCP_SYN, b"")).source());
        for _ in 0..5 {
            lab.appliance.advance(50_000, 1000);
            let stray = Build::tcp((OTHER_SERVER, 1), (&external.0, external.1), TCP_ACK, b"");
            lab.appliance.receive(OUTSIDE_PORT, &[&stray.frame(1)]);
        }
        assert_eq!(flows(lab), 0);
        assert_eq!(lab.appliance.counters().bindings(ProtocolClass::Tcp).0, 0);
    });
}

fn mss_of(frame: &turnpike_sim::packets::Seen) -> u16 {
    let at = frame.packet.l4 + 22;
    u16::from_be_bytes([frame.frame[at], frame.frame[at + 1]])
}

#[test]
fn mss_1_is_clamped_in_both_directions() {
    let mut policy = PolicyTable::default();
    policy.interfaces[1].mtu = 1400;
    everywhere_with(&policy, &forwarding(), |lab| {
        let mss = |value: u16| [&[2, 4][..], &value.to_be_bytes()].concat();
        let left = lab.out(&Build::tcp_with(CLIENT, WEB, TCP_SYN, &mss(1460), b""));
        assert_eq!(mss_of(&left), 1360);
        let external = text(left.source());
        let answer =
            |value| Build::tcp_with(WEB, (&external.0, external.1), TCP_SYN | TCP_ACK, &mss(value), b"");
        assert_eq!(mss_of(&lab.back(&answer(1460))), 1360);
        // Never raised.
        assert_eq!(mss_of(&lab.back(&answer(536))), 536);
        // Nothing inserted.
        assert_eq!(lab.out(&Build::tcp(CLIENT, WEB, TCP_SYN, b"")).ip().len(), 40);
        let counters = lab.appliance.counters();
        assert_eq!(counters.get(Counter::MssClampedIn2Out), 1);
        assert_eq!(counters.get(Counter::MssClampedOut2In), 1);
        // IPv6 headers are 20 bytes longer.
        let left = lab.out(&Build::tcp_with((HOST6, 40000), (SERVER6, 80), TCP_SYN, &mss(1460), b""));
        assert_eq!(mss_of(&left), 1340);
    });
}

#[test]
fn mss_1_is_left_alone_if_the_operator_says_so() {
    let mut policy = PolicyTable::default();
    policy.interfaces[1].mtu = 1400;
    policy.settings.mss_clamp = 0;
    everywhere_with(&policy, &forwarding(), |lab| {
        let left = lab.out(&Build::tcp_with(CLIENT, WEB, TCP_SYN, &[2, 4, 0x05, 0xb4], b""));
        assert_eq!(mss_of(&left), 1460);
    });
}

#[test]
fn fw_15_what_is_no_first_segment_opens_nothing() {
    everywhere(|lab| {
        for flags in [TCP_ACK, TCP_SYN | TCP_ACK, TCP_RST, TCP_RST | TCP_ACK, TCP_FIN | TCP_ACK] {
            let packet = Build::tcp(CLIENT, WEB, flags, b"");
            lab.step(INSIDE_PORT, &packet).dropped(DropReason::SynRequired);
            let packet = Build::tcp((HOST6, 4), (SERVER6, 80), flags, b"");
            lab.step(INSIDE_PORT, &packet).dropped(DropReason::SynRequired);
        }
        assert_eq!(flows(lab), 0);
    });
}

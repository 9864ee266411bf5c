//! Section 6: message format checking.

use crate::peer::{Peer, hex};
use std::time::Duration;
use turnpike_simco::{
    Closed, Event, Extensions, Failure, HEADER, MAX_LISTED, MAX_MESSAGE, Malformed, Notification, Outcome,
    Reply, Request, RuleRequest, Settings, Underlying,
};

fn refused(failure: Failure, claimed: Option<&str>) -> Event {
    Event::Refused { failure, claimed: claimed.map(str::to_owned) }
}

fn closed(failure: Failure) -> Event {
    Event::Closed(Closed::Refused(failure))
}

#[test]
fn b_fmt_01_inconsistent_header() {
    // No session: BFM alone.
    let mut peer = Peer::new(Underlying::Authenticated("proxy".into()));
    assert_eq!(peer.send("0101 ffff 00000001"), [Event::Closed(Closed::TooLong(65_543))]);
    assert_eq!(peer.said(), ["0401000080000001"]);
    // A session: AST too. Whatever stands behind it is not looked at.
    let mut peer = Peer::open();
    assert_eq!(peer.send("0122 2000 00000002 01220000 00000003"), [Event::Closed(Closed::TooLong(8200))]);
    assert_eq!(peer.said(), ["0401000080000001", "0402000080000002"]);
    assert!(!peer.session.wants_octets());
    assert_eq!(peer.send("01220000 00000004"), []);
    assert!(peer.output().is_empty());
    // The longest request is taken.
    let mut peer = Peer::open();
    let mut longest = hex("0122 1ff8 00000002");
    longest.resize(8192, 0);
    assert_eq!(peer.send_octets(&longest), [refused(Failure::BadlyFormed, Some("proxy"))]);
    assert!(peer.session.is_open());
}

#[test]
fn b_fmt_02_a_message_that_stops() {
    // No session, the header arrives octet by octet within the time to OPEN.
    let patient = Settings { establish: Duration::from_secs(600), ..Settings::default() };
    let mut peer = Peer::with(patient, Underlying::Authenticated("proxy".into()));
    for octet in hex("01010008 000000") {
        peer.send_octets(&[octet]);
        peer.now += Duration::from_secs(10);
    }
    assert_eq!(peer.session.deadline(), Some(peer.now - Duration::from_secs(10) + Duration::from_secs(60)));
    assert_eq!(peer.expire(), [Event::Closed(Closed::Stalled)]);
    assert_eq!(peer.said(), ["0401000080000001"]);
    // A session: AST too.
    let mut peer = Peer::open();
    peer.now = Duration::from_secs(3600);
    assert_eq!(peer.session.deadline(), None, "no timer between messages");
    peer.send("0121 0008 00000002 0005 0004 0000");
    assert_eq!(peer.expire(), [Event::Closed(Closed::Stalled)]);
    assert_eq!(peer.now, Duration::from_secs(3660));
    assert_eq!(peer.said(), ["0401000080000001", "0402000080000002"]);
}

/// An octet every now and then does not keep a message alive for ever.
#[test]
fn b_fmt_02_slow_loris() {
    let mut peer = Peer::open();
    let began = peer.now;
    let mut octets = hex("0121 0008 00000002 0005 0004 0000").into_iter().cycle();
    loop {
        assert_eq!(peer.send_octets(&[octets.next().unwrap()]), []);
        let deadline = peer.session.deadline().unwrap();
        if deadline <= peer.now + Duration::from_secs(59) {
            break;
        }
        peer.now += Duration::from_secs(59);
    }
    assert_eq!(peer.expire(), [Event::Closed(Closed::Stalled)]);
    assert_eq!(peer.now - began, Settings::default().message);
}

#[test]
fn b_fmt_03_wrong_basic_type() {
    for basic in ["00", "02", "03", "04", "05", "ff"] {
        let mut peer = Peer::new(Underlying::Authenticated("proxy".into()));
        let events = peer.send(&format!("{basic}01 0000 00000007"));
        assert_eq!(events, [refused(Failure::WrongBasicType, None), closed(Failure::WrongBasicType)]);
        assert_eq!(peer.said(), ["0310000000000007"]);
        let mut peer = Peer::open();
        let events = peer.send(&format!("{basic}22 0000 00000007"));
        assert_eq!(events, [refused(Failure::WrongBasicType, Some("proxy"))]);
        assert_eq!(peer.said(), ["0310000000000007"]);
        assert!(peer.session.is_open());
    }
}

#[test]
fn b_fmt_04_wrong_sub_type() {
    for sub in [0x00_u8, 0x04, 0x10, 0x11, 0x15, 0x16, 0x22, 0x23, 0x24, 0x25, 0x41, 0xFF] {
        let mut peer = Peer::new(Underlying::Authenticated("proxy".into()));
        let events = peer.send(&format!("01{sub:02x} 0000 00000007"));
        assert_eq!(events, [refused(Failure::WrongSubType, None), closed(Failure::WrongSubType)]);
        assert_eq!(peer.said(), ["0311000000000007"]);
    }
    for sub in [0x00_u8, 0x04, 0x10, 0x16, 0x20, 0x23, 0x24, 0x25, 0x40, 0x41, 0x42, 0x43, 0xFF] {
        let mut peer = Peer::open();
        let events = peer.send(&format!("01{sub:02x} 0000 00000007"));
        assert_eq!(events, [refused(Failure::WrongSubType, Some("proxy"))], "{sub:#04x}");
        assert_eq!(peer.said(), ["0311000000000007"]);
        assert!(peer.session.is_open());
    }
}

/// Type and number of attributes, per message.
#[test]
fn b_fmt_05_wrong_attributes() {
    let wrong = [
        "0122 0008 00000002 00050004 00000001",                   // PRL has none
        "0121 0000 00000002",                                     // PRS without PID
        "0121 0010 00000002 00050004 00000001 00050004 00000001", // two PIDs
        "0121 0007 00000002 00050003 000001",                     // three octets of PID
        "0121 0009 00000002 00050005 0000000001",                 // five
        "0121 0008 00000002 00050009 00000001",                   // longer than the message
        "0121 0006 00000002 00050004 0000",                       // cut
        "0121 0003 00000002 000500",                              // a TLV cut in its head
        "0121 0008 00000002 000c0004 00000001",                   // an unknown type
        "0115 0010 00000002 00050004 00000001 00060004 00000001", // GID for lifetime
        "0111 0008 00000002 000a0004 65110002",                   // PRR without lifetime
        "0112 0020 00000002 000b0004 03010000 0009000c 01201100 138c0002 0a010803 00070004 0000012c",
        "0103 0004 00000002 00030000", // ST has none
    ];
    for octets in wrong {
        let length = hex(octets).len() - HEADER;
        let octets = format!("{}{length:04x}{}", &octets[..4], &octets[9..]);
        let mut peer = Peer::open();
        assert_eq!(peer.send(&octets), [refused(Failure::BadlyFormed, Some("proxy"))], "{octets}");
        assert_eq!(peer.said(), ["0312000000000002"]);
        assert!(peer.session.is_open());
    }
    let mut peer = Peer::new(Underlying::Authenticated("proxy".into()));
    let events = peer.send("0101 0000 00000001");
    assert_eq!(events, [refused(Failure::BadlyFormed, None), closed(Failure::BadlyFormed)]);
    assert_eq!(peer.said(), ["0312000000000001"]);
}

#[test]
fn b_amb_01_st_and_plc_are_requests_and_prd_pes_pds_are_not() {
    let mut peer = Peer::open();
    let events = peer.send("0115 0010 00000002 00050004 00000001 00070004 00000000");
    let request = RuleRequest::ChangeLifetime { rule: 1, lifetime: 0 };
    assert_eq!(events, [Event::Request { tid: 2, request }]);
    peer.answer(2, Ok(Reply::Deleted));
    for sub in ["16", "23", "24"] {
        assert_eq!(
            peer.send(&format!("01{sub} 0000 00000003")),
            [refused(Failure::WrongSubType, Some("proxy"))]
        );
    }
    assert_eq!(peer.send("0103 0000 00000004"), [Event::Closed(Closed::ByAgent)]);
    assert_eq!(peer.said().last().unwrap(), "0203000000000004");
}

#[test]
fn b_amb_06_a_list_of_8191_rules_is_the_greatest() {
    let list = |count: u32| Outcome::Positive(Reply::Rules { rules: (1..=count).collect(), more: None });
    let most = u32::try_from(MAX_LISTED).unwrap();
    let mut octets = Vec::new();
    list(most).encode(5, &mut octets).unwrap();
    assert_eq!(octets.len(), MAX_MESSAGE);
    assert_eq!(Outcome::from_octets(&octets), Ok((5, list(most))));
    octets.clear();
    assert_eq!(list(most + 1).encode(5, &mut octets), Err(Malformed::TooBig));
    assert!(octets.is_empty());
    // The session then says so itself.
    let mut peer = Peer::open();
    assert_eq!(peer.send("0122 0000 00000005").len(), 1);
    peer.answer(5, Ok(Reply::Rules { rules: (0..9000).collect(), more: None }));
    assert_eq!(peer.said(), ["0313000000000005"]);
}

#[test]
fn b_amb_13_undefined_values() {
    let prr = |set: &str| format!("0111 0010 00000002 000a0004 {set} 00070004 0000012c");
    for set in ["25110002", "e5110002", "75110002", "6d110002", "67110002"] {
        let mut peer = Peer::open();
        assert_eq!(peer.send(&prr(set)), [refused(Failure::BadlyFormed, Some("proxy"))], "{set}");
    }
    assert_eq!(Peer::open().send(&prr("65110002")).len(), 1);
    let per = |set: &str, a0: &str, a3: &str| {
        format!("0112 0030 00000002 000b0004 {set} 0009000c {a0} 0009000c {a3} 00070004 0000012c")
    };
    let (a0, a3) = ("01201100 138c0002 0a010803", "01201103 00000002 c0000221");
    for set in ["03000000", "03040000", "01010000", "02010000"] {
        let events = Peer::open().send(&per(set, a0, a3));
        assert_eq!(events, [refused(Failure::BadlyFormed, Some("proxy"))], "{set}");
    }
    // First 2, IP version 0 and 3, location 4, prefix 33.
    for bad in ["21201100", "00201100", "03201100", "01201104", "01211100"] {
        let events = Peer::open().send(&per("03010000", &a0.replace("01201100", bad), a3));
        assert_eq!(events, [refused(Failure::BadlyFormed, Some("proxy"))], "{bad}");
    }
    assert!(matches!(Peer::open().send(&per("03010000", a0, a3))[..], [Event::Request { .. }]));
}

#[test]
fn b_amb_15_any_order_but_of_the_tuples() {
    let (a0, a3) = ("0009000c 01201100 138c0002 0a010803", "0009000c 01201103 00000002 c0000221");
    let shuffled =
        format!("0113 0038 00000003 00050004 00000001 {a0} 00070004 0000012c {a3} 000b0004 03010000");
    let ordered =
        format!("0113 0038 00000003 000b0004 03010000 {a0} {a3} 00070004 0000012c 00050004 00000001");
    let exchanged =
        format!("0113 0038 00000003 000b0004 03010000 {a3} {a0} 00070004 0000012c 00050004 00000001");
    let decode = |text: &str| Request::from_octets(&hex(text), Extensions::NONE).unwrap();
    assert_eq!(decode(&shuffled), decode(&ordered));
    let (_, Request::Rule(RuleRequest::EnableReserved(enable))) = decode(&exchanged) else { panic!() };
    let checked = turnpike_simco::checks::enable(
        &enable.internal,
        &enable.external,
        enable.parameters.direction,
        &crate::peer::golden_box(),
    );
    assert_eq!(checked, Err(Failure::Inconsistent));
}

#[test]
fn b_amb_16_an_unknown_attribute_is_refused() {
    for code in ["0000", "000c", "7fff", "8001", "8002", "8010", "ffff"] {
        let events = Peer::open().send(&format!("0122 0008 00000002 {code} 0004 00000001"));
        assert_eq!(events, [refused(Failure::BadlyFormed, Some("proxy"))], "{code}");
    }
}

/// What the agent receives is checked as well, but what an extension adds there is passed over.
#[test]
fn b_amb_05_the_inside_tuple_may_be_absent() {
    let reply = hex("02120028 00000003 | 00050004 00000001 | 00060004 00000001 | 00070004 0000012c \
         | 0009000c 01201102 9c400002 c6336407");
    let (_, Outcome::Positive(Reply::Enabled(enabled))) = Outcome::from_octets(&reply).unwrap() else {
        panic!()
    };
    assert_eq!(enabled.inside, None);
    let extended = hex("04030018 80000001 | 00050004 00000001 | 00070004 00000000 | 8abc 0004 01020304");
    let expected = Outcome::Notification(Notification::Rule { rule: 1, lifetime: 0, reason: None });
    assert_eq!(Outcome::from_octets(&extended), Ok((0x8000_0001, expected)));
}

//! Who is let in: rows B-SEC-01, B-AMB-19, D-2xx.

use crate::certificates::{Authority, Fault, dns, over_tls, write};
use crate::daemon::{Middlebox, access};
use rcgen::SanType;
use std::sync::atomic::Ordering;
use turnpike_midcom::agent::{self, Agent, Lost, Notice};
use turnpike_midcom::certificate::{TlsFiles, names, server_config};
use turnpike_policy::{Front, Name};
use turnpike_simco::{Ended, Extensions, Failure};

fn refused(lost: &Lost) -> Failure {
    match lost {
        Lost::Ended(Ended::Refused(refused)) => refused.failure,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn b_sec_01_mutual_certificates_open_a_session_at_once() {
    let authority = Authority::new("authority");
    let middlebox = Middlebox::start(authority.server()).await;
    let settings = over_tls(middlebox.address, &authority.agent("proxy"), "box.example");
    let (agent, established, _notices) = Agent::connect(settings).await.unwrap();
    let capabilities = established.capabilities;
    assert_eq!(capabilities.middlebox_type(), 0xC1);
    assert_eq!(capabilities.max_lifetime, 3600);
    assert!(established.extensions.unwrap().has(Extensions::PAGES));
    assert_eq!(agent.list(established.extensions.unwrap()).await, Ok(vec![]));
    assert_eq!(middlebox.counters().sessions.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn b_sec_01_certificates_that_are_not_good_enough() {
    let (authority, stranger) = (Authority::new("authority"), Authority::new("stranger"));
    let middlebox = Middlebox::start(authority.server()).await;
    let trusting = |files: TlsFiles| TlsFiles { authorities: authority.file(), ..files };
    let bad = [
        ("wrong authority", trusting(stranger.agent("proxy"))),
        ("expired", authority.issue("proxy", &[dns("proxy")], false, Fault::Expired)),
        ("not valid yet", authority.issue("proxy", &[dns("proxy")], false, Fault::NotYet)),
        ("for servers", authority.issue("proxy", &[dns("proxy")], false, Fault::Purpose)),
    ];
    let count = bad.len();
    for (what, files) in bad {
        let settings = over_tls(middlebox.address, &files, "box.example");
        match Agent::connect(settings).await {
            Err(Lost::Dial(_)) => {}
            other => panic!("{what}: {other:?}"),
        }
    }
    let counters = middlebox.counters();
    assert_eq!(counters.handshakes_failed.load(Ordering::Relaxed), count as u64);
    assert_eq!(counters.sessions.load(Ordering::Relaxed), 0);
    // The agent, in turn, does not speak to a box of another name, or of an authority it does not know.
    let files = authority.agent("proxy");
    let wrong_name = over_tls(middlebox.address, &files, "other.example");
    assert!(matches!(Agent::connect(wrong_name).await, Err(Lost::Dial(_))));
    let wrong_authority = TlsFiles { authorities: stranger.file(), ..files };
    let wrong_authority = over_tls(middlebox.address, &wrong_authority, "box.example");
    assert!(matches!(Agent::connect(wrong_authority).await, Err(Lost::Dial(_))));
}

/// A good certificate of a name that the configuration does not have.
#[tokio::test]
async fn b_ses_02_a_name_that_is_no_agent() {
    let authority = Authority::new("authority");
    let middlebox = Middlebox::start(authority.server()).await;
    let settings = over_tls(middlebox.address, &authority.agent("nobody"), "box.example");
    let lost = Agent::connect(settings).await.unwrap_err();
    assert_eq!(refused(&lost), Failure::NoAuthorization);
    assert_eq!(middlebox.counters().authentications_failed.load(Ordering::Relaxed), 1);
}

/// Removed from the configuration: the open session ends (AST), a new one is refused, others are not touched.
#[tokio::test]
async fn d_f01_an_agent_that_is_removed() {
    let authority = Authority::new("authority");
    let middlebox = Middlebox::start(authority.server()).await;
    let settings = |name| over_tls(middlebox.address, &authority.agent(name), "box.example");
    let (_proxy, _, mut notices) = Agent::connect(settings("proxy")).await.unwrap();
    let (other, established, _others) = Agent::connect(settings("other")).await.unwrap();
    let mut without = access();
    let proxy: Name = "proxy".into();
    without.fronts.get_mut(&Front::Simco).unwrap().agents.remove(&proxy);
    middlebox.engine(move |engine, now| engine.set_access(without, now)).await;
    let why = loop {
        if let Notice::Lost(why) = notices.recv().await.unwrap() {
            break why;
        }
    };
    let reason = Some("the agent is no longer configured".to_owned());
    assert_eq!(why, Lost::Ended(Ended::ByMiddlebox(reason)));
    let lost = Agent::connect(settings("proxy")).await.unwrap_err();
    assert_eq!(refused(&lost), Failure::NoAuthorization);
    assert_eq!(other.list(established.extensions.unwrap()).await, Ok(vec![]));
}

/// SAN before CN, URIs before DNS names; the first that is configured counts.
#[tokio::test]
async fn b_sec_01_the_name_in_a_certificate() {
    let authority = Authority::new("authority");
    let read = |files: &TlsFiles| {
        use rustls::pki_types::pem::PemObject as _;
        names(&rustls::pki_types::CertificateDer::from_pem_file(&files.certificate).unwrap())
    };
    let uri = SanType::URI("urn:agent:proxy".to_owned().try_into().unwrap());
    let mail = SanType::Rfc822Name("agent@example.net".to_owned().try_into().unwrap());
    let address = SanType::IpAddress("2001:db8::1".parse().unwrap());
    let all = [mail, dns("proxy"), uri, address];
    let files = authority.issue("common", &all, false, Fault::None);
    assert_eq!(read(&files), ["urn:agent:proxy", "proxy", "agent@example.net", "2001:db8::1"]);
    let bare = authority.issue("proxy", &[], false, Fault::None);
    assert_eq!(read(&bare), ["proxy"]);
    assert_eq!(read(&authority.issue("a name", &[], false, Fault::None)), Vec::<String>::new());
    let long = "x".repeat(256);
    assert_eq!(
        read(&authority.issue("long", &[SanType::URI(long.try_into().unwrap())], false, Fault::None)),
        Vec::<String>::new()
    );
    let middlebox = Middlebox::start(authority.server()).await;
    for files in [files, bare] {
        let settings = over_tls(middlebox.address, &files, "box.example");
        Agent::connect(settings).await.unwrap();
    }
}

/// Clear text is refused unless the operator says so, with the code for it.
#[tokio::test]
async fn b_amb_19_clear_text_where_tls_is_required() {
    let authority = Authority::new("authority");
    let middlebox = Middlebox::start(authority.server()).await;
    let clear = agent::Settings { reconnect: None, ..agent::Settings::new(&middlebox.address.to_string()) };
    let lost = Agent::connect(clear).await.unwrap_err();
    assert_eq!(refused(&lost), Failure::InsufficientSecurity);
}

#[test]
fn files_that_are_no_certificates_are_named() {
    let authority = Authority::new("authority");
    let good = authority.agent("proxy");
    let folder = tempfile::tempdir().unwrap();
    let nothing = write(folder.path(), "nothing.pem", "");
    let garbage =
        write(folder.path(), "garbage.pem", "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n");
    let absent = folder.path().join("absent.pem");
    for wrong in [&nothing, &garbage, &absent] {
        for place in 0..3 {
            let mut files = good.clone();
            *[&mut files.certificate, &mut files.key, &mut files.authorities][place] = wrong.clone();
            let error = server_config(&files).unwrap_err().to_string();
            assert!(error.starts_with(&wrong.display().to_string()), "{error}");
        }
    }
    let other = Authority::new("other").agent("proxy");
    let mixed = TlsFiles { key: other.key, ..good };
    assert!(server_config(&mixed).is_err());
}

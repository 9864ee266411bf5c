//! The real engine as the dataplane beside the daemon, and SIMCO over TLS for some agents.

use super::{RULES, SOON, Site, simco_over_tls};
use crate::certificates::{Authority, over_tls};
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use turnpike_midcom::agent::{Agent, Lost, Notices, Settings};
use turnpike_sim::attached::Dataplane;

/// The dataplane, served by a thread.
pub struct Workers {
    dataplane: Arc<Mutex<Dataplane>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Workers {
    fn start(site: &Site) -> Self {
        let dataplane = Dataplane::new(&site.path("dataplane.sock"), 2, 16_384).unwrap();
        let dataplane = Arc::new(Mutex::new(dataplane));
        let stop = Arc::new(AtomicBool::new(false));
        let (served, stopping) = (Arc::clone(&dataplane), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                served.lock().unwrap().poll().unwrap();
                std::thread::park_timeout(Duration::from_micros(100));
            }
        });
        Self { dataplane, stop, thread: Some(thread) }
    }

    pub fn with<T>(&self, look: impl FnOnce(&mut Dataplane) -> T) -> T {
        look(&mut self.dataplane.lock().expect("the dataplane goes on"))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let broken = self.thread.take().is_some_and(|thread| thread.join().is_err());
        assert!(!broken || std::thread::panicking(), "the dataplane panicked");
    }
}

/// The rules of every box, with the subscribers in 10.0.0.0/8, and SIMCO over TLS for the agents.
fn rules(agents: usize, address: SocketAddr, authority: &Authority) -> String {
    let mut text = RULES.replace("192.168.0.0/16", "10.0.0.0/8") + &simco_over_tls(address, authority);
    for number in 0..agents {
        text += &format!(
            "[[agent]]\nname = \"{}\"\nzones = [\"inside\"]\ninside = [\"10.{number}.0.0/16\"]\nlifetime = 86400\n",
            name(number)
        );
    }
    text
}

/// An agent's name.
pub fn name(agent: usize) -> String {
    format!("agent-{agent}.example")
}

/// A box with workers and a server for agents, each of whom may open for a network of its own: 10.0.0.0/16 is the first's,
/// 10.1.0.0/16 the second's.
pub struct Simco {
    site: Site,
    pub workers: Workers,
    settings: Vec<Settings>,
    _authority: Authority,
}

impl Simco {
    /// A box that no daemon runs in yet; its agents have so many requests under way.
    pub fn new(agents: usize, pipelining: usize) -> Self {
        let (site, address) = Site::with_server(Site::new);
        let authority = Authority::new("authority");
        site.configure(&rules(agents, address, &authority));
        let settings = (0..agents).map(|agent| {
            let files = authority.agent(&name(agent));
            Settings { pipelining, ..over_tls(address, &files, "box.example") }
        });
        let settings = settings.collect();
        Self { workers: Workers::start(&site), site, settings, _authority: authority }
    }

    /// A session, as soon as there is a server.
    pub async fn session(&self, agent: usize) -> (Agent, Notices) {
        let deadline = Instant::now() + SOON;
        loop {
            match Agent::connect(self.settings[agent].clone()).await {
                Ok((session, _, notices)) => return (session, notices),
                Err(Lost::Dial(_)) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                Err(error) => panic!("no session: {error}"),
            }
        }
    }
}

impl Deref for Simco {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.site
    }
}

impl DerefMut for Simco {
    fn deref_mut(&mut self) -> &mut Site {
        &mut self.site
    }
}

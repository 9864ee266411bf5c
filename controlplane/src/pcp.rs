//! PCP and NAT-PMP: what the configuration, the kernel and the workers say to their service (`turnpike-pcp`), which
//! runs beside the daemon and opens mappings through the gateway like every front end.

use crate::attach::Order;
use crate::daemon::Daemon;
use crate::mirror::{Forwarding, Mirror};
use hashbrown::HashMap;
use std::net::{IpAddr, SocketAddr};
use tokio::sync::{mpsc, oneshot};
use turnpike_abi::command::{Kind, Look, Slot};
use turnpike_abi::event::{BindingRow, Seen};
use turnpike_abi::table::RouteKind;
use turnpike_abi::{Address, steering};
use turnpike_config::{Config, NatTarget, Network};
use turnpike_pcp::server::{Place, Prefix, Settings, Side, Speaks, ThirdParty};
use turnpike_pcp::service::{Configuration, Input, Listen, Outbound, Question};

/// Protocols that rules can be made of, where packets are translated and where they are not.
const TRANSLATED: [u8; 4] = [6, 17, 41, 55];
const PASSED: [u8; 6] = [6, 17, 41, 47, 50, 55];
/// Most ports of a set: those of a rule.
const MOST_MAPPINGS: usize = 1 << 20;

/// The daemon's end of the service.
#[derive(Debug)]
pub struct Pcp {
    inputs: mpsc::Sender<Input>,
    listening: Vec<Listen>,
    asked: HashMap<u64, oneshot::Sender<Outbound>>,
    next: u64,
}

impl Pcp {
    /// With the way to the service.
    pub fn new(inputs: mpsc::Sender<Input>) -> Self {
        Self { inputs, listening: Vec::new(), asked: HashMap::new(), next: 1 }
    }

    fn say(&self, input: Input) {
        if self.inputs.try_send(input).is_err() {
            tracing::error!("the PCP service does not listen: restart the control plane");
        }
    }
}

fn prefix(network: &Network) -> Prefix {
    Prefix { address: network.address(), length: network.length() }
}

/// What `config` says to the service.
pub fn configuration(config: &Config) -> Configuration {
    let pcp = &config.pcp;
    let allowed = |all: &[u8]| {
        let chosen = crate::access::protocols(&pcp.protocols);
        let chosen = |number: u8| chosen.is_empty() || chosen.iter().any(|protocol| protocol.0 == number);
        all.iter().copied().filter(|&number| chosen(number)).collect()
    };
    let only = |name: &turnpike_config::Name| {
        let pool = config.pools.iter().find(|pool| pool.name == *name)?;
        match pool.addresses.as_slice() {
            [range] if range.first == range.last => Some(range.first),
            _ => None,
        }
    };
    // An exemption for some destinations leaves the host translated towards the others.
    let sides = config.nat.iter().filter_map(|rule| match &rule.target {
        NatTarget::Pool(name) => Some((prefix(&rule.source), Side::Translated(only(name)))),
        NatTarget::Exempt if rule.destination.length() == 0 => {
            Some((prefix(&rule.source), Side::Untranslated))
        }
        NatTarget::Exempt => None,
    });
    let third = config.third_parties.iter().map(|third| ThirdParty {
        client: prefix(&third.clients),
        hosts: third.hosts.iter().map(prefix).collect(),
    });
    let settings = Settings {
        map: pcp.map,
        peer: pcp.peer,
        lifetime: (pcp.lifetime_min, pcp.lifetime.max(pcp.lifetime_min)),
        quota: pcp.rules as usize,
        mappings: MOST_MAPPINGS.min(config.midcom.rules as usize),
        port_set: pcp.port_set.min(config.midcom.range),
        rate: pcp.rate,
        third_party: third.collect(),
        sides: sides.collect(),
        translated: allowed(&TRANSLATED),
        untranslated: allowed(&PASSED),
        ..Settings::default()
    };
    let pools = config.pools.iter().flat_map(|pool| &pool.addresses);
    let zones = config.interfaces().into_iter().flat_map(|spec| {
        let zone = spec.zone.clone();
        spec.addresses.into_iter().filter_map(move |address| {
            let network = Prefix { address: address.address, length: address.length };
            Some((network, zone.as_ref()?.as_str().into()))
        })
    });
    Configuration {
        settings,
        external: pools.map(|range| (IpAddr::V4(range.first), IpAddr::V4(range.last))).collect(),
        zones: zones.collect(),
    }
}

/// The box's addresses in zones that PCP or NAT-PMP is enabled for.
fn listen(config: &Config, mirror: &Mirror, forwarding: Option<&Forwarding>) -> Vec<Listen> {
    let mut all = Vec::new();
    for spec in config.interfaces() {
        let Some(zone) = &spec.zone else { continue };
        let speaks =
            Speaks { pcp: config.pcp.zones.contains(zone), nat_pmp: config.pcp.nat_pmp.contains(zone) };
        let Some(tap) = mirror.tap(spec.id).filter(|_| speaks != Speaks::default()) else { continue };
        let routes = forwarding.into_iter().flat_map(|table| &table.routes);
        let behind = routes.filter(|route| route.kind == RouteKind::UNICAST && route.interface == spec.id);
        let hosts: Vec<_> = behind.map(|route| route.prefix).collect();
        all.extend(mirror.addresses(spec.id).map(|(address, _)| Listen {
            place: Place { interface: tap.index, address: address.to_ip() },
            device: tap.name.clone(),
            zone: zone.as_str().into(),
            speaks,
            hosts: hosts.clone(),
        }));
    }
    all
}

impl Daemon {
    /// Another configuration is in force, and the policy engine has it.
    pub(crate) fn pcp_configured(&mut self) {
        let configuration = configuration(&self.running.config);
        self.pcp.say(Input::Configured(Box::new(configuration)));
        self.pcp_addresses();
    }

    /// The kernel's addresses may be others.
    pub(crate) fn pcp_addresses(&mut self) {
        let listen = listen(&self.running.config, &self.mirror, self.tables.forwarding.as_ref());
        if listen != self.pcp.listening {
            self.pcp.say(Input::Listen(listen.clone()));
            self.pcp.listening = listen;
        }
    }

    /// Asks the worker that owns a host what it has for it. Without a worker nobody is answered.
    pub(crate) fn pcp_question(&mut self, question: Question) {
        let Question { zone, host, protocol, port, answer } = question;
        let access = self.policy.access();
        let pool = access.realm.pool_for(&zone, host).map_or(BindingRow::NO_POOL, |pool| pool.id);
        let Some(dataplane) = &mut self.dataplane else { return };
        let inside = Address::from(host);
        let worker = steering::owner_of_inside(inside, dataplane.workers());
        let look = Look { inside, inside_port: port, pool, protocol, reserved: [0; 3] };
        let number = self.pcp.next;
        self.pcp.next += 1;
        if dataplane.order(worker, Order::Look(number, look)) {
            self.pcp.asked.insert(number, answer);
        }
    }

    /// A worker's answer.
    pub(crate) fn pcp_seen(&mut self, number: u64, slot: &Slot) {
        let Some(answer) = self.pcp.asked.remove(&number) else { return };
        if slot.header.kind != Kind::SEEN {
            return;
        }
        let seen: Seen = slot.body();
        let paired = Some(seen.external).filter(|address| !address.is_unspecified()).map(|a| a.to_ip());
        let dynamic = seen.flags & Seen::DYNAMIC != 0;
        let external = paired.filter(|_| dynamic).map(|ip| SocketAddr::new(ip, seen.external_port));
        let remaining = u32::try_from(seen.remaining_ms.div_ceil(1000)).unwrap_or(u32::MAX);
        // Whoever asked may have gone.
        let _ = answer.send(Outbound { external, remaining, paired });
    }

    /// No worker answers any more.
    pub(crate) fn pcp_detached(&mut self) {
        self.pcp.asked.clear();
    }
}

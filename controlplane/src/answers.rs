//! Answers to what is asked over the CLI's socket, from a reading and the daemon's own state.

use crate::facts::Facts;
use crate::mirror::Mirror;
use crate::reading::{Reading, Sampler};
use crate::running::Running;
use rtnetlink::packet_route::neighbour::NeighbourState as KernelState;
use turnpike_abi::InterfaceId;
use turnpike_abi::counters::{Counter, Counters, DropReason, ProtocolClass};
use turnpike_abi::stats::{InterfaceInfo, PortStats, text};
use turnpike_abi::table::RouteKind as AbiRouteKind;
use turnpike_api::{
    BufferUse, ConfigData, ConfigSummary, Conservation, ControlplaneInfo, Cycles, DataplaneInfo, DropData,
    DropSummary, DropsData, InterfaceData, NeighbourData, NeighbourState, PoolData, PoolFill, PortData,
    PortRange, PortRate, PortsInUse, Prefix, RouteData, RouteKind, StatusData, SteeringData, Timestamp,
    Traffic, Usage, VersionData, WorkerData, WorkerLoad,
};

/// Most reasons in the short form of the drops.
const TOP_DROPS: usize = 10;

/// What the answers are made from.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// Read for this answer.
    pub reading: &'a Reading,
    /// For the rates.
    pub sampler: &'a Sampler,
    /// The configuration in force.
    pub running: &'a Running,
    /// What the exporter knows.
    pub facts: &'a Facts,
    /// The kernel's tables.
    pub mirror: &'a Mirror,
    /// When the dataplane was attached, milliseconds since the epoch.
    pub attached_ms: Option<u64>,
    /// Now, milliseconds since the epoch.
    pub now_ms: u64,
}

impl Sources<'_> {
    fn traffic(&self, packets: impl Fn(&Reading) -> u64, bytes: impl Fn(&Reading) -> u64) -> Traffic {
        Traffic {
            packets: packets(self.reading),
            bytes: bytes(self.reading),
            packets_per_second: self.sampler.rate(&packets),
            bits_per_second: self.sampler.rate(&bytes).saturating_mul(8),
        }
    }

    fn usage(
        &self,
        in_use: impl Fn(&Counters, ProtocolClass) -> (u64, u64),
        limit: Counter,
        worker: Option<usize>,
    ) -> Usage {
        let sum = |reading: &Reading, pick: &dyn Fn((u64, u64)) -> u64| {
            of(reading, worker, |counters| {
                ProtocolClass::ALL.iter().map(|&class| pick(in_use(counters, class))).sum()
            })
        };
        Usage {
            in_use: sum(self.reading, &|(now, _)| now),
            limit: of(self.reading, worker, |counters| counters.get(limit)),
            created: sum(self.reading, &|(_, ever)| ever),
            created_per_second: self.sampler.rate(|reading| sum(reading, &|(_, ever)| ever)),
        }
    }

    fn port(&self, index: usize) -> (Traffic, Traffic) {
        let port =
            |reading: &Reading, value: fn(&PortStats) -> u64| reading.ports.get(index).map_or(0, value);
        let receive = self.traffic(|r| port(r, |p| p.rx_packets), |r| port(r, |p| p.rx_bytes));
        let transmit = self.traffic(|r| port(r, |p| p.tx_packets), |r| port(r, |p| p.tx_bytes));
        (receive, transmit)
    }

    fn busy(&self, worker: usize) -> f64 {
        let cycles = |reading: &Reading, counters: &[Counter]| {
            of(reading, Some(worker), |of_worker| {
                counters.iter().map(|&counter| of_worker.get(counter)).fold(0, u64::wrapping_add)
            })
        };
        let all = [Counter::CyclesBusy, Counter::CyclesIdle, Counter::CyclesHousekeeping];
        self.sampler.share(|r| cycles(r, &[Counter::CyclesBusy]), |r| cycles(r, &all))
    }

    fn port_name(&self, index: usize, stats: &PortStats) -> String {
        match text(&stats.name) {
            "" => self
                .running
                .config
                .ports
                .get(index)
                .map_or_else(|| index.to_string(), |port| port.name.as_str().to_owned()),
            name => name.to_owned(),
        }
    }

    fn interface_name(&self, id: InterfaceId) -> String {
        self.reading
            .interfaces
            .get(id.index())
            .map_or_else(|| id.0.to_string(), |interface| text(&interface.name).to_owned())
    }

    /// The box on one page.
    pub fn status(&self) -> StatusData {
        let total = self.reading.total();
        let config = &self.running.config;
        let identity = self.reading.identity.filter(|_| self.facts.attached);
        let drops = self.drops();
        let ports = config.ports.len().max(self.reading.ports.len());
        StatusData {
            ready: self.facts.ready(self.reading),
            attached: self.facts.attached,
            controlplane: ControlplaneInfo {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                started_at: Timestamp(self.facts.started_ms),
            },
            dataplane: identity.zip(self.attached_ms).map(|(identity, attached)| DataplaneInfo {
                version: text(&identity.version).to_owned(),
                dpdk_version: text(&identity.dpdk_version).to_owned(),
                pid: identity.pid,
                started_at: Timestamp(identity.started_ms),
                no_huge: identity.no_huge != 0,
                attached_since: Timestamp(attached),
            }),
            config: ConfigSummary {
                path: self.running.path.display().to_string(),
                hash: self.running.hash.clone(),
                applied_at: Timestamp(self.running.applied_ms),
            },
            ports: (0..ports)
                .map(|index| {
                    let stats = self.reading.ports.get(index).copied().unwrap_or_default();
                    let (receive, transmit) = self.port(index);
                    PortRate {
                        name: self.port_name(index, &stats),
                        link_up: stats.link_up != 0,
                        receive,
                        transmit,
                        receive_lost_per_second: self
                            .sampler
                            .rate(|reading| reading.ports.get(index).map_or(0, receive_lost)),
                    }
                })
                .collect(),
            workers: (0..self.reading.workers.len())
                .map(|worker| WorkerLoad {
                    worker: number(worker),
                    packets_per_second: self
                        .sampler
                        .rate(|reading| of(reading, Some(worker), |c| c.get(Counter::Received))),
                    busy_ratio: self.busy(worker),
                })
                .collect(),
            flows: self.usage(Counters::flows, Counter::FlowsLimit, None),
            bindings: self.usage(Counters::bindings, Counter::BindingsLimit, None),
            subscribers: total.get(Counter::Subscribers),
            pinholes: total.get(Counter::Pinholes),
            pools: self
                .pools()
                .into_iter()
                .map(|pool| PoolFill { name: pool.name, ports: pool.ports, in_use: pool.in_use })
                .collect(),
            buffers: BufferUse {
                total: self.reading.main.buffers,
                available: self.reading.main.buffers_available,
            },
            drops: DropSummary {
                packets: drops.packets,
                packets_per_second: drops.packets_per_second,
                top: top(drops.reasons),
            },
            conservation: conservation(self.reading.workers.iter()),
        }
    }

    /// Every port.
    pub fn ports(&self) -> Vec<PortData> {
        let list = self.reading.ports.iter().enumerate();
        list.map(|(index, stats)| {
            let (receive, transmit) = self.port(index);
            PortData {
                name: self.port_name(index, stats),
                device: text(&stats.device).to_owned(),
                driver: text(&stats.driver).to_owned(),
                link_up: stats.link_up != 0,
                speed_bits_per_second: (stats.speed != 0).then_some(stats.speed),
                mtu_bytes: u32::try_from(stats.mtu).unwrap_or(u32::MAX),
                queues: u32::try_from(stats.queues).unwrap_or(u32::MAX),
                steering: SteeringData {
                    ipv4: stats.steering_v4.name().to_owned(),
                    ipv6: stats.steering_v6.name().to_owned(),
                },
                receive,
                transmit,
                receive_missed: stats.rx_missed,
                receive_errors: stats.rx_errors,
                receive_no_buffer: stats.rx_nombuf,
                transmit_errors: stats.tx_errors,
                interfaces: self
                    .reading
                    .interfaces
                    .iter()
                    .filter(|interface| interface.port.index() == index)
                    .map(|interface| self.interface(interface))
                    .collect(),
            }
        })
        .collect()
    }

    fn interface(&self, info: &InterfaceInfo) -> InterfaceData {
        let name = text(&info.name);
        let spec = self.running.config.interfaces().into_iter().find(|spec| spec.name.as_str() == name);
        let tap = self.mirror.tap(info.id).map(|link| link.name.clone());
        InterfaceData {
            name: name.to_owned(),
            vlan: (info.vlan != 0).then_some(info.vlan),
            zone: spec.as_ref().and_then(|spec| Some(spec.zone.as_ref()?.as_str().to_owned())),
            mac: mac(info.mac),
            mtu_bytes: u32::from(info.mtu),
            tap: tap.or_else(|| Some(spec.as_ref()?.tap.as_str().to_owned())).unwrap_or_default(),
            addresses: self
                .mirror
                .addresses(info.id)
                .map(|(address, length)| format!("{address}/{length}"))
                .collect(),
        }
    }

    /// Every worker.
    pub fn workers(&self) -> Vec<WorkerData> {
        let list = self.reading.workers.iter().enumerate();
        list.map(|(index, worker)| {
            let at = |counter: Counter| {
                move |reading: &Reading| of(reading, Some(index), |counters| counters.get(counter))
            };
            let get = |counter| worker.get(counter);
            WorkerData {
                worker: number(index),
                heartbeat_age_milliseconds: self.now_ms.saturating_sub(get(Counter::HeartbeatMs)),
                receive: self.traffic(at(Counter::Received), at(Counter::ReceivedBytes)),
                transmit: self.traffic(at(Counter::Sent), at(Counter::SentBytes)),
                punted: get(Counter::Punted),
                injected: get(Counter::Injected),
                generated: get(Counter::Generated),
                crossed_in: get(Counter::CrossedIn),
                crossed_out: get(Counter::CrossedOut),
                dropped: worker.total_drops(),
                dropped_per_second: self
                    .sampler
                    .rate(|reading| of(reading, Some(index), Counters::total_drops)),
                held: get(Counter::Held),
                bursts: get(Counter::Bursts),
                cycles: Cycles {
                    busy: get(Counter::CyclesBusy),
                    idle: get(Counter::CyclesIdle),
                    housekeeping: get(Counter::CyclesHousekeeping),
                },
                busy_ratio: self.busy(index),
                flows: self.usage(Counters::flows, Counter::FlowsLimit, Some(index)),
                bindings: self.usage(Counters::bindings, Counter::BindingsLimit, Some(index)),
                subscribers: get(Counter::Subscribers),
                pinholes: get(Counter::Pinholes),
                neighbours: get(Counter::Neighbours),
                policy_generation: get(Counter::PolicyGeneration),
                forwarding_generation: get(Counter::ForwardingGeneration),
                timer_lag_milliseconds: get(Counter::TimerLagMs),
                commands: get(Counter::Commands),
                commands_refused: get(Counter::CommandsRefused),
                events: get(Counter::Events),
                events_dropped: get(Counter::EventsDropped),
                peer_violations: get(Counter::PeerViolations),
                conservation: conservation(std::iter::once(worker)),
            }
        })
        .collect()
    }

    /// Every pool.
    pub fn pools(&self) -> Vec<PoolData> {
        let total = self.reading.total();
        let pools = self.running.config.pools.iter().zip(&self.facts.shape.pools).enumerate();
        pools
            .map(|(index, (pool, size))| PoolData {
                name: size.name.clone(),
                zone: pool.zone.as_str().to_owned(),
                ranges: pool
                    .addresses
                    .iter()
                    .map(|range| turnpike_api::address::address_range(range.first, range.last))
                    .collect(),
                addresses: size.addresses,
                port_range: PortRange { first: pool.ports.first, last: pool.ports.last },
                ports: size.ports,
                in_use: PortsInUse {
                    tcp: total.pool_ports(index, ProtocolClass::Tcp),
                    udp: total.pool_ports(index, ProtocolClass::Udp),
                    icmp: total.pool_ports(index, ProtocolClass::Icmp),
                },
                exhausted: total.pool_exhaustions(index),
                proxy_arp: pool.proxy_arp,
            })
            .collect()
    }

    /// Every neighbour on a TAP twin.
    pub fn neighbours(&self) -> Vec<NeighbourData> {
        let list = self.mirror.neighbours().into_iter();
        list.filter_map(|(interface, neighbour, installed)| {
            let state = match neighbour.state {
                KernelState::Incomplete => NeighbourState::Incomplete,
                KernelState::Reachable => NeighbourState::Reachable,
                KernelState::Stale => NeighbourState::Stale,
                KernelState::Delay => NeighbourState::Delay,
                KernelState::Probe => NeighbourState::Probe,
                KernelState::Failed => NeighbourState::Failed,
                KernelState::Permanent | KernelState::Noarp => NeighbourState::Permanent,
                _ => return None,
            };
            Some(NeighbourData {
                address: neighbour.address.to_ip(),
                interface: self.interface_name(interface),
                mac: neighbour.mac.map(mac),
                state,
                installed: installed && self.facts.attached,
            })
        })
        .collect()
    }

    /// The forwarding table as mirrored.
    pub fn routes(&self) -> Vec<RouteData> {
        let list = self.mirror.forwarding().routes.into_iter();
        list.filter_map(|route| {
            let kind = match route.kind {
                AbiRouteKind::UNICAST => RouteKind::Unicast,
                AbiRouteKind::LOCAL => RouteKind::Local,
                AbiRouteKind::UNREACHABLE => RouteKind::Unreachable,
                _ => RouteKind::Blackhole,
            };
            let unicast = kind == RouteKind::Unicast;
            let any6 = || Prefix::new(std::net::Ipv6Addr::UNSPECIFIED.into(), 0).ok();
            Some(RouteData {
                // The shared form's shortest prefix is the IPv6 default route: IPv4's is ::ffff:0:0/96.
                destination: Prefix::from_shared(route.prefix).or_else(any6)?,
                kind,
                via: (unicast && !route.via.is_unspecified()).then(|| route.via.to_ip()),
                interface: unicast.then(|| self.interface_name(route.interface)),
            })
        })
        .collect()
    }

    /// Every drop.
    pub fn drops(&self) -> DropsData {
        let total = self.reading.total();
        DropsData {
            packets: total.total_drops(),
            packets_per_second: self.sampler.rate(|reading| reading.total().total_drops()),
            reasons: DropReason::ALL
                .iter()
                .map(|&reason| DropData {
                    reason: reason.name().to_owned(),
                    packets: total.drops(reason),
                    packets_per_second: self
                        .sampler
                        .rate(|reading| of(reading, None, |counters| counters.drops(reason))),
                })
                .collect(),
            device_receive_lost: self.reading.ports.iter().map(receive_lost).sum(),
            tap_dropped: self.reading.main.tap_dropped,
            inject_dropped: self.reading.main.inject_dropped,
        }
    }

    /// The configuration.
    pub fn config(&self) -> ConfigData {
        ConfigData {
            path: self.running.path.display().to_string(),
            hash: self.running.hash.clone(),
            applied_at: Timestamp(self.running.applied_ms),
            text: self.running.text.clone(),
            needs_restart: self.running.needs_restart.clone(),
        }
    }

    /// Who is who.
    pub fn version(&self) -> VersionData {
        let identity = self.reading.identity.filter(|_| self.facts.attached);
        VersionData {
            cli: None,
            controlplane: Some(env!("CARGO_PKG_VERSION").to_owned()),
            dataplane: identity.map(|identity| text(&identity.version).to_owned()),
            dpdk: identity.map(|identity| text(&identity.dpdk_version).to_owned()),
            api_version: turnpike_api::API_VERSION,
            abi_version: turnpike_abi::ABI_VERSION,
        }
    }
}

/// A value of one worker, or the sum of all.
fn of(reading: &Reading, worker: Option<usize>, value: impl Fn(&Counters) -> u64) -> u64 {
    match worker {
        Some(worker) => reading.workers.get(worker).map_or(0, value),
        None => reading.workers.iter().map(value).fold(0, u64::wrapping_add),
    }
}

fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

fn receive_lost(port: &PortStats) -> u64 {
    port.rx_missed.wrapping_add(port.rx_errors).wrapping_add(port.rx_nombuf)
}

fn conservation<'a>(workers: impl Iterator<Item = &'a Counters>) -> Conservation {
    let mut sum = Conservation { ok: true, packets_in: 0, packets_accounted: 0 };
    for worker in workers {
        let (came, went) = worker.conservation();
        sum.ok &= came == went;
        sum.packets_in = sum.packets_in.wrapping_add(came);
        sum.packets_accounted = sum.packets_accounted.wrapping_add(went);
    }
    sum
}

fn top(mut reasons: Vec<DropData>) -> Vec<DropData> {
    reasons.retain(|reason| reason.packets > 0);
    reasons.sort_by_key(|reason| std::cmp::Reverse((reason.packets_per_second, reason.packets)));
    reasons.truncate(TOP_DROPS);
    reasons
}

fn mac(bytes: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = bytes;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

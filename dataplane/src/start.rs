//! From a configuration to a running dataplane.

use crate::attachment::Attachment;
use crate::clock::{Clock, wall_clock_ms};
use crate::control::{Main, PublishedPort};
use crate::crew::{Crew, Plan};
use crate::failure::{Doing as _, Failure};
use crate::state::Directory;
use crate::tap::Twins;
use crate::{environment, ports, privileges};
use dpdk::{Eal, Mempool, rdtsc};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use turnpike_abi::PortId;
use turnpike_abi::stats::{Identity, InterfaceInfo, field};
use turnpike_config::{Config, InterfaceSpec};
use turnpike_engine::Interface;
use turnpike_shm::statistics::Statistics;

/// Starts everything, runs until told to stop, and takes everything down.
///
/// # Errors
/// What could not be started, or what ended on its own.
pub fn run(config: &Config) -> Result<(), Failure> {
    let available = available_cores();
    check_cores(&config.dataplane.cores, &available)?;
    let signals = stop_signals()?;
    privileges::for_start()?;
    if config.dataplane.no_huge {
        tracing::warn!(
            "no_huge: packet memory lies in ordinary pages; expect more TLB misses and less throughput, and no \
             device that needs physical addresses"
        );
    }
    let state = Directory::open(config.dataplane.state_directory(), !config.dataplane.no_huge)?;
    leave_to_workers(&environment::main_cores(&config.dataplane.cores, &available))?;
    let eal = Arc::new(Eal::init(&environment::eal_arguments(config, &available))?);
    let clock = Clock::new(rdtsc(), eal.tsc_hz());
    let pool = packet_pool(&eal, config)?;
    let started = ports::start(&eal, config, &pool)?;

    let specs = config.interfaces();
    let macs = started.macs;
    let mac = |spec: &InterfaceSpec| macs.get(spec.port.index()).copied().unwrap_or_default();
    let interfaces: Vec<Interface> = specs
        .iter()
        .map(|spec| Interface { port: spec.port, vlan: spec.vlan, mac: mac(spec), mtu: spec.mtu })
        .collect();
    let mut twins = Twins::default();
    for spec in &specs {
        twins.create(spec, mac(spec))?;
    }
    twins.address(config)?;

    let workers = config.dataplane.cores.len();
    let statistics = Statistics::create(workers).doing(|| "cannot make the statistics segment".to_owned())?;
    describe(config, &eal, &statistics, &specs, &twins, &macs)?;
    let page = statistics.main().map_err(|_| Failure::Statistics("the main thread".to_owned()))?;
    let mut ports = Vec::with_capacity(started.handles.len());
    for (index, handle) in started.handles.into_iter().enumerate() {
        ports.push(PublishedPort::new(config, PortId(index as u16), handle, &statistics)?);
    }
    let attachment = Attachment::open(config, interfaces.clone())?;
    let plan = Plan {
        config,
        eal: &eal,
        pool: &pool,
        statistics: &statistics,
        clock: &clock,
        interfaces: &interfaces,
        state: &state,
    };
    let crew = Crew::start(&plan, started.queues)?;
    privileges::for_main(ports.iter().any(PublishedPort::is_xdp))?;
    let source = pool.source();
    let main = Main { crew, twins, attachment, ports, statistics, page, pool, source, clock, signals };

    notify(sd_notify::NotifyState::Ready);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), dpdk = eal.version(), workers, "ready");
    let ended = main.run();
    // Not before the workers are gone.
    drop(state);
    ended
}

/// Cores this process may use. Read before DPDK pins the thread.
fn available_cores() -> BTreeSet<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}

fn check_cores(cores: &[u16], available: &BTreeSet<usize>) -> Result<(), Failure> {
    match cores.iter().find(|&&core| !available.contains(&usize::from(core))) {
        Some(&core) => {
            let list: Vec<String> = available.iter().map(ToString::to_string).collect();
            Err(Failure::Core { core, available: list.join(", ") })
        }
        None => Ok(()),
    }
}

/// Moves this thread to `cores`. DPDK starts its own threads where it finds it: not on a worker's core.
fn leave_to_workers(cores: &BTreeSet<usize>) -> Result<(), Failure> {
    let mut set = rustix::thread::CpuSet::new();
    cores.iter().for_each(|&core| set.set(core));
    rustix::thread::sched_setaffinity(None, &set).doing(|| "cannot leave the workers' cores".to_owned())
}

/// A stream that becomes readable with the first signal to stop.
fn stop_signals() -> Result<UnixStream, Failure> {
    let doing = || "cannot catch signals".to_owned();
    let (receiver, sender) = UnixStream::pair().doing(doing)?;
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        let sender = sender.try_clone().doing(doing)?;
        signal_hook::low_level::pipe::register(signal, sender).doing(doing)?;
    }
    Ok(receiver)
}

fn packet_pool(eal: &Eal, config: &Config) -> Result<Mempool, Failure> {
    let buffers = config.dataplane.buffers;
    let workers = config.dataplane.cores.len() as u32;
    // Caches of all threads together hold at most an eighth of the buffers.
    let cache = (buffers / (8 * workers.max(1))).min(256);
    let room = ports::buffer_room(config);
    let pool = Mempool::new(eal, "packets", buffers, cache, room)?;
    if let Some(memory) = eal.memory(0) {
        tracing::info!(
            buffers,
            room,
            heap_mib = memory.total >> 20,
            free_mib = memory.free >> 20,
            "packet memory"
        );
    }
    Ok(pool)
}

/// Writes the constant part of the statistics segment.
fn describe(
    config: &Config,
    eal: &Eal,
    statistics: &Statistics,
    specs: &[InterfaceSpec],
    twins: &Twins,
    macs: &[[u8; 6]],
) -> Result<(), Failure> {
    let identity = Identity {
        pid: std::process::id(),
        started_ms: wall_clock_ms(),
        tsc_hz: eal.tsc_hz(),
        workers: config.dataplane.cores.len() as u16,
        ports: config.ports.len() as u16,
        interfaces: specs.len() as u16,
        no_huge: u16::from(config.dataplane.no_huge),
        dpdk_version: field(&eal.version()),
        version: field(env!("CARGO_PKG_VERSION")),
        ..Identity::default()
    };
    statistics.identify(identity).map_err(|_| Failure::Statistics("the identity".to_owned()))?;
    for (spec, twin) in specs.iter().zip(twins.all()) {
        let info = InterfaceInfo {
            name: field(spec.name.as_str()),
            tap_index: twin.index(),
            mtu: spec.mtu,
            vlan: spec.vlan,
            port: spec.port,
            id: spec.id,
            mac: macs.get(spec.port.index()).copied().unwrap_or_default(),
            reserved: [0; 6],
        };
        let failed = |_| Failure::Statistics(format!("interface {}", spec.name.as_str()));
        statistics.describe(&info).map_err(failed)?;
    }
    Ok(())
}

/// Tells systemd, if it started us.
pub fn notify(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!("systemd was not told: {error}");
    }
}

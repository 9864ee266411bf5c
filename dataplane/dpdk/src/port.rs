//! Ports: a device configured within what it can do, then started.

use crate::eal::{Control, Core, Eal};
use crate::error::{Errno, Error};
use crate::mempool::{Mempool, Pool};
use crate::queue::{RxQueue, TxQueue};
use crate::steer::{self, RssState};
use dpdk_sys::{rte_device, rte_eth_dev_info, rte_ether_addr};
use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use turnpike_abi::rss::{Facing, Rss};
use turnpike_abi::stats::Steering;

/// What a port should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// RX queues, at least 1.
    pub rx_queues: u16,
    /// TX queues, at least 1.
    pub tx_queues: u16,
    /// Descriptors of an RX queue; brought within the device's limits. 0: what the driver recommends.
    pub rx_descriptors: u16,
    /// Descriptors of a TX queue, likewise.
    pub tx_descriptors: u16,
    /// Bytes of the largest IP packet.
    pub mtu: u16,
    /// Station address to set, if the device can; `None` keeps the device's.
    pub mac: Option<[u8; 6]>,
    /// Let the device free sent packets without a look at their pool, if it can and there is one pool.
    pub fast_free: bool,
    /// Which way the port faces: packets shall come to the queue of the worker that owns them, one worker a
    /// queue. `None`, or what the device cannot be told: it hashes addresses and ports its own way.
    pub steering: Option<Facing>,
}

impl Default for PortConfig {
    fn default() -> Self {
        Self {
            rx_queues: 1,
            tx_queues: 1,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            mtu: 1500,
            mac: None,
            fast_free: true,
            steering: None,
        }
    }
}

/// What became of the wishes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Negotiated {
    /// Descriptors of an RX queue.
    pub rx_descriptors: u16,
    /// Descriptors of a TX queue.
    pub tx_descriptors: u16,
    /// RX and TX queues.
    pub queues: (u16, u16),
    /// Packets larger than a buffer come in several segments and are put together.
    pub scatter: bool,
    /// See [`PortConfig::fast_free`].
    pub fast_free: bool,
    /// The device spreads packets over its RX queues by RSS.
    pub rss: bool,
    /// How IPv4 packets, unless they are fragments, come to their owner's queue.
    pub steering_v4: Steering,
    /// How IPv6 packets do.
    pub steering_v6: Steering,
    /// The MTU was set on the device itself; `false` where its driver cannot.
    pub mtu_set: bool,
    /// [`PortConfig::mac`] was set on the device; `false` where there was none or its driver cannot.
    pub mac_set: bool,
}

/// Link state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Whether it is up.
    pub up: bool,
    /// Bits a second, 0 if unknown.
    pub speed: u64,
}

/// Counters of the device since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets lost because an RX queue was full.
    pub rx_missed: u64,
    /// Packets received broken, or in segments that could not be put together.
    pub rx_errors: u64,
    /// Packets not sent because of errors.
    pub tx_errors: u64,
    /// Receptions that found no free buffer.
    pub rx_nombuf: u64,
}

/// A configured port, not started.
#[derive(Debug)]
pub struct Port {
    shared: Shared,
    config: PortConfig,
    /// The key that the device has taken.
    keyed: Option<Rss>,
}

/// The control side of a started port, for one thread at a time. The port stops when this and all its queues
/// are gone.
#[derive(Debug)]
pub struct PortHandle {
    shared: Arc<Shared>,
    /// Not Sync: control calls for one port must not overlap.
    _one_thread: PhantomData<Cell<()>>,
}

/// What handle and queues hold together; its end is the port's.
#[derive(Debug)]
pub(crate) struct Shared {
    id: u16,
    device: String,
    driver: String,
    pub(crate) negotiated: Negotiated,
    started: bool,
    /// The device to remove at the end, if it was probed here.
    probed: Option<NonNull<rte_device>>,
    /// Packets that no RX queue could bring into one segment.
    pub(crate) misshapen: AtomicU64,
    core: Arc<Core>,
    /// The device takes buffers from here as long as it runs.
    _pool: Arc<Pool>,
}

// SAFETY: the device pointer is used in `drop` alone, under the lock of the control side.
unsafe impl Send for Shared {}
// SAFETY: through `&Shared` only plain fields and an atomic are reached.
unsafe impl Sync for Shared {}

impl Shared {
    pub(crate) fn id(&self) -> u16 {
        self.id
    }

    pub(crate) fn information(&self) -> Result<rte_eth_dev_info, Error> {
        let mut info = rte_eth_dev_info::default();
        // SAFETY: the port is ours; the pointer is to a local of the right type.
        let code = unsafe { dpdk_sys::rte_eth_dev_info_get(self.id, &raw mut info) };
        self.check("say what it can do", code).map(|()| info)
    }

    fn check(&self, doing: &'static str, code: i32) -> Result<(), Error> {
        if code < 0 {
            return Err(Error::Device { device: self.device.clone(), doing, why: Errno::of(code) });
        }
        Ok(())
    }

    /// Negotiates, configures and sets the queues up.
    fn set_up(
        &mut self,
        control: &mut Control,
        config: &PortConfig,
        info: &rte_eth_dev_info,
        pool: &Mempool,
    ) -> Result<Option<Rss>, Error> {
        let mut negotiated = negotiate(&self.device, config, info, pool)?;
        negotiated.fast_free &= control.pools == 1;
        let mut conf = device_conf(config, info, &negotiated);
        if negotiated.fast_free {
            control.fast_free_ports += 1;
        }
        self.negotiated = negotiated;

        let id = self.id;
        let mut keyed = if negotiated.rss { steer::plan(config, info) } else { None };
        if let Some(rss) = keyed {
            let mut key = steer::padded(&rss);
            conf.rx_adv_conf.rss_conf.rss_key = key.as_mut_ptr();
            conf.rx_adv_conf.rss_conf.rss_key_len = steer::key_length(info) as u8;
            if self.configure(config, &conf) != 0 {
                // Without a key of ours it hashes its own way.
                keyed = None;
            }
            conf.rx_adv_conf.rss_conf.rss_key = std::ptr::null_mut();
            conf.rx_adv_conf.rss_conf.rss_key_len = 0;
        }
        if keyed.is_none() {
            self.check("take its configuration", self.configure(config, &conf))?;
        }

        let rx = &raw mut self.negotiated.rx_descriptors;
        let tx = &raw mut self.negotiated.tx_descriptors;
        // SAFETY: both point to fields of ours for the time of the call.
        let code = unsafe { dpdk_sys::rte_eth_dev_adjust_nb_rx_tx_desc(id, rx, tx) };
        self.check("say how many descriptors it takes", code)?;
        self.set_up_queues(config, info, &conf, pool)?;

        if let Some(mac) = config.mac {
            let mut address = rte_ether_addr { addr_bytes: mac };
            // SAFETY: the port is ours; the address is copied.
            let code = unsafe { dpdk_sys::rte_eth_dev_default_mac_addr_set(id, &raw mut address) };
            if code != -Errno::NOT_SUPPORTED.0 {
                self.check("take the station address", code)?;
                self.negotiated.mac_set = true;
            }
        }
        // SAFETY: the port is ours and stopped, which every driver accepts for this.
        let code = unsafe { dpdk_sys::rte_eth_dev_set_mtu(id, config.mtu) };
        if code != -Errno::NOT_SUPPORTED.0 {
            self.check("take the MTU", code)?;
            self.negotiated.mtu_set = true;
        }
        Ok(keyed)
    }

    fn configure(&self, config: &PortConfig, conf: &dpdk_sys::rte_eth_conf) -> i32 {
        let (rx, tx) = (config.rx_queues, config.tx_queues);
        // SAFETY: the port is ours and stopped; `conf` is whole, and its key, if any, outlives the call.
        unsafe { dpdk_sys::rte_eth_dev_configure(self.id, rx, tx, conf) }
    }

    fn set_up_queues(
        &self,
        config: &PortConfig,
        info: &rte_eth_dev_info,
        conf: &dpdk_sys::rte_eth_conf,
        pool: &Mempool,
    ) -> Result<(), Error> {
        let Negotiated { rx_descriptors, tx_descriptors, .. } = self.negotiated;
        // SAFETY: the port is ours.
        let socket = unsafe { dpdk_sys::rte_eth_dev_socket_id(self.id) };
        // "Any" is -1 in both types.
        let socket = socket as u32;
        let mut rx_conf = info.default_rxconf;
        rx_conf.offloads = conf.rxmode.offloads;
        let rx_conf = &raw const rx_conf;
        for queue in 0..config.rx_queues {
            let pool = pool.pool().as_ptr();
            // SAFETY: the port is configured with this many queues; the pool outlives it (`_pool`).
            let code = unsafe {
                dpdk_sys::rte_eth_rx_queue_setup(self.id, queue, rx_descriptors, socket, rx_conf, pool)
            };
            self.check("set up an RX queue", code)?;
        }
        let mut tx_conf = info.default_txconf;
        tx_conf.offloads = conf.txmode.offloads;
        let tx_conf = &raw const tx_conf;
        for queue in 0..config.tx_queues {
            // SAFETY: the port is configured with this many queues.
            let code =
                unsafe { dpdk_sys::rte_eth_tx_queue_setup(self.id, queue, tx_descriptors, socket, tx_conf) };
            self.check("set up a TX queue", code)?;
        }
        Ok(())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let mut control = self.core.control();
        if self.started {
            // SAFETY: the port is ours; no queue of it exists any more, so nobody polls it.
            let _ = unsafe { dpdk_sys::rte_eth_dev_stop(self.id) };
        }
        // SAFETY: ours, and stopped.
        let _ = unsafe { dpdk_sys::rte_eth_dev_close(self.id) };
        if let Some(device) = self.probed {
            // SAFETY: the device was probed for this port and exists until removed here.
            let _ = unsafe { dpdk_sys::rte_dev_remove(device.as_ptr()) };
        }
        control.ports.retain(|&id| id != self.id);
        if self.negotiated.fast_free {
            control.fast_free_ports = control.fast_free_ports.saturating_sub(1);
        }
    }
}

impl Port {
    /// Finds or probes `device`, a PCI address or a virtual device with its arguments
    /// (`net_af_packet0,iface=eth1`), and configures it with buffers from `pool`.
    ///
    /// # Errors
    /// If the device does not exist, or cannot have the queues, the MTU or the station address.
    pub fn configure(eal: &Eal, device: &str, config: &PortConfig, pool: &Mempool) -> Result<Self, Error> {
        let mut control = eal.core().control();
        let (id, was_there) = find_or_probe(device)?;
        if control.ports.contains(&id) {
            return Err(Error::Unable {
                device: device.to_owned(),
                what: "it is in use as a port already".to_owned(),
            });
        }
        control.ports.push(id);
        // From here on the port's end is that of `Shared`.
        let mut shared = Shared {
            id,
            device: device.to_owned(),
            driver: String::new(),
            negotiated: Negotiated::default(),
            started: false,
            probed: None,
            misshapen: AtomicU64::new(0),
            core: Arc::clone(eal.core()),
            _pool: Arc::clone(pool.pool()),
        };
        let done = shared.information().and_then(|info| {
            shared.probed = if was_there { None } else { NonNull::new(info.device) };
            shared.driver = driver_name(&info);
            shared.set_up(&mut control, config, &info, pool)
        });
        // The end of `shared` takes the lock itself.
        drop(control);
        done.map(|keyed| Self { shared, config: config.clone(), keyed })
    }

    /// Starts the port and hands out its queues, each once.
    ///
    /// # Errors
    /// If the device refuses to start.
    pub fn start(mut self) -> Result<(PortHandle, Vec<RxQueue>, Vec<TxQueue>), Error> {
        // SAFETY: the port is ours and configured.
        let code = unsafe { dpdk_sys::rte_eth_dev_start(self.shared.id) };
        self.shared.check("start", code)?;
        self.shared.started = true;
        self.shared.steer(&self.config, self.keyed);
        let shared = Arc::new(self.shared);
        let rx = (0..self.config.rx_queues).map(|queue| RxQueue::new(queue, &shared)).collect();
        let tx = (0..self.config.tx_queues).map(|queue| TxQueue::new(queue, &shared)).collect();
        Ok((PortHandle { shared, _one_thread: PhantomData }, rx, tx))
    }
}

impl PortHandle {
    /// The device string it was configured with.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.shared.device
    }

    /// Name of the driver, such as `net_af_packet`.
    #[must_use]
    pub fn driver(&self) -> &str {
        &self.shared.driver
    }

    /// What the device agreed to.
    #[must_use]
    pub fn negotiated(&self) -> Negotiated {
        self.shared.negotiated
    }

    /// Station address.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        let mut address = rte_ether_addr::default();
        // SAFETY: the port is ours; the pointer is to a local of the right type. On failure it stays zero.
        let _ = unsafe { dpdk_sys::rte_eth_macaddr_get(self.shared.id, &raw mut address) };
        address.addr_bytes
    }

    /// Bytes of the largest IP packet.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        let mut mtu = 0;
        // SAFETY: the port is ours; the pointer is to a local of the right type. On failure it stays zero.
        let _ = unsafe { dpdk_sys::rte_eth_dev_get_mtu(self.shared.id, &raw mut mtu) };
        mtu
    }

    /// What the device says its RSS is set to; `None` if it does not say.
    #[must_use]
    pub fn rss_state(&self) -> Option<RssState> {
        self.shared.rss_state()
    }

    /// Link state now; does not wait for negotiation.
    #[must_use]
    pub fn link(&self) -> Link {
        let mut link = dpdk_sys::rte_eth_link::default();
        // SAFETY: the port is ours; the pointer is to a local of the right type.
        let code = unsafe { dpdk_sys::rte_eth_link_get_nowait(self.shared.id, &raw mut link) };
        if code < 0 {
            return Link { up: false, speed: 0 };
        }
        let speed = match link.link_speed {
            dpdk_sys::RTE_ETH_SPEED_NUM_UNKNOWN => 0,
            megabits => u64::from(megabits) * 1_000_000,
        };
        Link { up: link.link_status() != 0, speed }
    }

    /// The device's counters.
    #[must_use]
    pub fn stats(&self) -> PortStats {
        let mut stats = dpdk_sys::rte_eth_stats::default();
        // SAFETY: the port is ours; the pointer is to a local of the right type. On failure it stays zero.
        let _ = unsafe { dpdk_sys::rte_eth_stats_get(self.shared.id, &raw mut stats) };
        PortStats {
            rx_packets: stats.ipackets,
            tx_packets: stats.opackets,
            rx_bytes: stats.ibytes,
            tx_bytes: stats.obytes,
            rx_missed: stats.imissed,
            rx_errors: stats.ierrors.wrapping_add(self.shared.misshapen.load(Ordering::Relaxed)),
            tx_errors: stats.oerrors,
            rx_nombuf: stats.rx_nombuf,
        }
    }

    /// Receives every frame, whatever its destination.
    ///
    /// # Errors
    /// If the device cannot.
    pub fn set_promiscuous(&mut self) -> Result<(), Error> {
        // SAFETY: the port is ours.
        let code = unsafe { dpdk_sys::rte_eth_promiscuous_enable(self.shared.id) };
        self.shared.check("become promiscuous", code)
    }

    /// Receives every multicast frame: neighbour discovery (RFC 4861) and routing protocols need that.
    ///
    /// # Errors
    /// If the device cannot.
    pub fn set_all_multicast(&mut self) -> Result<(), Error> {
        // SAFETY: the port is ours.
        let code = unsafe { dpdk_sys::rte_eth_allmulticast_enable(self.shared.id) };
        self.shared.check("receive all multicast", code)
    }
}

/// The port of `device`, and whether it was there before this call.
fn find_or_probe(device: &str) -> Result<(u16, bool), Error> {
    let text = |text: &str| CString::new(text).map_err(|_| Error::ZeroByte(text.to_owned()));
    let name = text(device.split(',').next().unwrap_or(device))?;
    let arguments = text(device)?;
    let mut id = 0;
    // SAFETY: the name is ended by zero, the number a local.
    if unsafe { dpdk_sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &raw mut id) } == 0 {
        return Ok((id, true));
    }
    // SAFETY: the string is ended by zero and copied. The caller holds the lock of the control side.
    let code = unsafe { dpdk_sys::rte_dev_probe(arguments.as_ptr()) };
    let failed = |doing, code| Error::Device { device: device.to_owned(), doing, why: Errno::of(code) };
    if code < 0 {
        return Err(failed("find the device or its driver", code));
    }
    // SAFETY: as above.
    let code = unsafe { dpdk_sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &raw mut id) };
    if code < 0 {
        return Err(failed("find its Ethernet port", code));
    }
    Ok((id, false))
}

fn driver_name(info: &rte_eth_dev_info) -> String {
    if info.driver_name.is_null() {
        return String::new();
    }
    // SAFETY: not null, so the driver's static name, ended by zero.
    unsafe { CStr::from_ptr(info.driver_name) }.to_string_lossy().into_owned()
}

/// Holds the wishes against what the device says it can do.
fn negotiate(
    device: &str,
    config: &PortConfig,
    info: &rte_eth_dev_info,
    pool: &Mempool,
) -> Result<Negotiated, Error> {
    let unable = |what| Err(Error::Unable { device: device.to_owned(), what });
    for (kind, asked, limit) in
        [("RX", config.rx_queues, info.max_rx_queues), ("TX", config.tx_queues, info.max_tx_queues)]
    {
        if asked == 0 || asked > limit {
            return unable(format!("{asked} {kind} queues asked for; it has 1 to {limit}"));
        }
    }
    if config.mtu < info.min_mtu || config.mtu > info.max_mtu {
        return unable(format!(
            "MTU {} asked for; it takes {} to {}",
            config.mtu, info.min_mtu, info.max_mtu
        ));
    }
    // As DPDK reckons, which then only says "invalid argument".
    let overhead = match info.max_rx_pktlen.checked_sub(u32::from(info.max_mtu)) {
        Some(overhead) if info.max_mtu != u16::MAX => overhead,
        _ => dpdk_sys::RTE_ETHER_HDR_LEN + dpdk_sys::RTE_ETHER_CRC_LEN,
    };
    if u32::from(config.mtu) + overhead > info.max_rx_pktlen {
        let most = info.max_rx_pktlen.saturating_sub(overhead);
        return unable(format!("MTU {} asked for; its driver takes at most {most}", config.mtu));
    }
    // Ethernet header and two VLAN tags.
    let frame = usize::from(config.mtu) + dpdk_sys::RTE_ETHER_HDR_LEN as usize + 8;
    let scatter = frame > pool.pool().room();
    if scatter && info.rx_offload_capa & dpdk_sys::TURNPIKE_RX_OFFLOAD_SCATTER == 0 {
        return unable(format!(
            "frames of {frame} bytes do not fit buffers of {} and it cannot scatter them",
            pool.room()
        ));
    }
    let rss = config.rx_queues > 1 && info.flow_type_rss_offloads & rss_types() != 0;
    Ok(Negotiated {
        rx_descriptors: descriptors(config.rx_descriptors, info.default_rxportconf.ring_size),
        tx_descriptors: descriptors(config.tx_descriptors, info.default_txportconf.ring_size),
        queues: (config.rx_queues, config.tx_queues),
        scatter,
        fast_free: config.fast_free && info.tx_offload_capa & dpdk_sys::TURNPIKE_TX_OFFLOAD_FAST_FREE != 0,
        rss,
        steering_v4: Steering::SOFTWARE,
        steering_v6: Steering::SOFTWARE,
        mtu_set: false,
        mac_set: false,
    })
}

fn descriptors(wanted: u16, recommended: u16) -> u16 {
    match (wanted, recommended) {
        (0, 0) => 512,
        (0, recommended) => recommended,
        (wanted, _) => wanted,
    }
}

pub(crate) fn rss_types() -> u64 {
    dpdk_sys::TURNPIKE_RSS_IP | dpdk_sys::TURNPIKE_RSS_L4
}

/// The device's configuration, without a key.
fn device_conf(
    config: &PortConfig,
    info: &rte_eth_dev_info,
    negotiated: &Negotiated,
) -> dpdk_sys::rte_eth_conf {
    let mut conf = dpdk_sys::rte_eth_conf::default();
    conf.rxmode.mtu = u32::from(config.mtu);
    conf.rxmode.mq_mode = dpdk_sys::TURNPIKE_MQ_RX_NONE;
    if negotiated.scatter {
        conf.rxmode.offloads |= dpdk_sys::TURNPIKE_RX_OFFLOAD_SCATTER;
    }
    if negotiated.fast_free {
        conf.txmode.offloads |= dpdk_sys::TURNPIKE_TX_OFFLOAD_FAST_FREE;
    }
    if negotiated.rss {
        conf.rxmode.mq_mode = dpdk_sys::TURNPIKE_MQ_RX_RSS;
        conf.rx_adv_conf.rss_conf.rss_hf = info.flow_type_rss_offloads & rss_types();
    }
    conf
}

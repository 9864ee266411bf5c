//! From `[[port]]` to started DPDK ports.

use crate::environment::is_pci;
use crate::failure::Failure;
use dpdk::{Eal, Error, Mempool, Port, PortConfig, PortHandle, RxQueue, TxQueue};
use turnpike_abi::PortId;
use turnpike_abi::rss::Facing;
use turnpike_abi::stats::Steering;
use turnpike_config::{Config, Side};

/// Ports, and for each worker its queues by port.
#[derive(Debug)]
pub struct Started {
    /// By [`PortId`].
    pub handles: Vec<PortHandle>,
    /// Station addresses, by [`PortId`].
    pub macs: Vec<[u8; 6]>,
    /// By worker, then by [`PortId`].
    pub queues: Vec<Vec<(RxQueue, TxQueue)>>,
}

/// Ethernet header and two VLAN tags.
const FRAME_OVERHEAD: usize = 14 + 8;

/// Bytes of packet in a buffer: the largest frame of any port, and not less than devices commonly want.
pub fn buffer_room(config: &Config) -> usize {
    let mtu = config.ports.iter().map(|port| usize::from(port.mtu)).max().unwrap_or(0);
    (mtu + FRAME_OVERHEAD).next_multiple_of(64).max(2048)
}

/// Configures and starts every port with one queue pair for each worker.
///
/// # Errors
/// Names the port that refused, and why.
pub fn start(eal: &Eal, config: &Config, pool: &Mempool) -> Result<Started, Failure> {
    let workers = config.dataplane.cores.len() as u16;
    let descriptors = descriptors(pool.size(), config.ports.len(), config.dataplane.cores.len());
    let mut started =
        Started { handles: Vec::new(), macs: Vec::new(), queues: (0..workers).map(|_| Vec::new()).collect() };
    for (index, port) in config.ports.iter().enumerate() {
        let failed = |error| {
            let hint = hint(&error, &port.device, workers);
            Failure::Port { port: port.name.as_str().to_owned(), error, hint }
        };
        let wanted = PortConfig {
            rx_queues: workers,
            tx_queues: workers,
            rx_descriptors: descriptors,
            tx_descriptors: descriptors,
            mtu: port.mtu,
            mac: port.mac.map(|mac| mac.0),
            fast_free: true,
            steering: facing(config, PortId(index as u16)),
        };
        let device = Port::configure(eal, &port.device, &wanted, pool).map_err(failed)?;
        let (mut handle, rx, tx) = device.start().map_err(failed)?;
        // Neighbour discovery and routing protocols come as multicast. Most virtual devices deliver everything
        // anyway and cannot be told.
        if let Err(error) = handle.set_all_multicast()
            && is_pci(&port.device)
        {
            tracing::warn!(port = port.name.as_str(), "IPv6 neighbours may not be heard: {error}");
        }
        let mac = station_address(port, &mut handle)?;
        started.macs.push(mac);
        report(port.name.as_str(), mac, &handle);
        for ((rx, tx), queues) in rx.into_iter().zip(tx).zip(&mut started.queues) {
            queues.push((rx, tx));
        }
        started.handles.push(handle);
    }
    Ok(started)
}

/// The port's station address. A device that cannot be given the configured one has to receive everything: the
/// engine drops what is for others.
fn station_address(port: &turnpike_config::Port, handle: &mut PortHandle) -> Result<[u8; 6], Failure> {
    let failed = |error, hint| Failure::Port { port: port.name.as_str().to_owned(), error, hint };
    let mac = port.mac.map_or_else(|| handle.mac(), |mac| mac.0);
    if mac == [0; 6] {
        let what = "it has no station address".to_owned();
        let error = Error::Unable { device: port.device.clone(), what };
        return Err(failed(error, ": give the port one with mac = \"02:...\""));
    }
    if port.mac.is_some()
        && !handle.negotiated().mac_set
        && let Err(error) = handle.set_promiscuous()
    {
        if is_pci(&port.device) {
            return Err(failed(error, ", nor take the station address of its mac ="));
        }
        tracing::debug!(port = port.name.as_str(), "{error}");
    }
    Ok(mac)
}

fn report(name: &str, mac: [u8; 6], handle: &PortHandle) {
    let agreed = handle.negotiated();
    let [a, b, c, d, e, f] = mac;
    tracing::info!(
        port = name,
        driver = handle.driver(),
        mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"),
        mtu = handle.mtu(),
        queues = agreed.queues.0,
        rx_descriptors = agreed.rx_descriptors,
        tx_descriptors = agreed.tx_descriptors,
        rss = agreed.rss,
        steering_v4 = agreed.steering_v4.name(),
        steering_v6 = agreed.steering_v6.name(),
        fast_free = agreed.fast_free,
        mtu_set = agreed.mtu_set,
        scatter = agreed.scatter,
        link_up = handle.link().up,
        "port is up"
    );
    if agreed.steering_v4 == Steering::SOFTWARE {
        tracing::warn!(
            port = name,
            "the device cannot bring packets to the worker that owns them; they cross to it in software: see \
             CROSSED-OUT in `turnpike show workers`"
        );
    }
}

/// Descriptors of a queue: at most half of all buffers lie in RX queues, however many there are.
fn descriptors(buffers: u32, ports: usize, workers: usize) -> u16 {
    let each = buffers as usize / (2 * ports.max(1) * workers.max(1));
    // The largest power of two that is not above it.
    let power = (each.max(1) + 1).next_power_of_two() / 2;
    power.clamp(64, 1024) as u16
}

/// Which way a port faces, if all its zones lie on one side: packets then come to their owner's queue (design,
/// section 3). A port with zones of both sides cannot be steered.
fn facing(config: &Config, port: PortId) -> Option<Facing> {
    let interfaces = config.interfaces();
    let mut sides = interfaces.iter().filter(|interface| interface.port == port).filter_map(|interface| {
        let zone = interface.zone.as_ref()?;
        config.zones.iter().find(|candidate| candidate.name == *zone).map(|zone| zone.side)
    });
    let side = sides.next()?;
    if sides.any(|other| other != side) {
        return None;
    }
    Some(match side {
        Side::Inside => Facing::Inside,
        Side::Outside => Facing::Outside,
    })
}

fn hint(error: &Error, device: &str, workers: u16) -> &'static str {
    match error {
        Error::Unable { .. } if workers > 1 && device.starts_with("net_af_packet") => {
            "; a packet socket has as many queues as its argument qpairs= says: one for each core"
        }
        Error::Unable { .. } if workers > 1 && device.starts_with("net_af_xdp") => {
            "; an XDP port has as many queues as its argument queue_count= says: one for each core"
        }
        Error::Device { .. } if is_pci(device) => {
            "; is it bound to vfio-pci (dpdk-devbind.py --status), and no other program's?"
        }
        Error::Device { .. } if device.starts_with("net_af") => {
            "; does the interface of iface= exist in this network namespace?"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rx_queues_never_hold_more_than_half_the_buffers() {
        assert_eq!(descriptors(16384, 2, 1), 1024);
        assert_eq!(descriptors(16384, 2, 8), 512);
        assert_eq!(descriptors(4096, 2, 1), 1024);
        assert_eq!(descriptors(4095, 2, 1), 512);
        assert_eq!(descriptors(1024, 16, 64), 64);
        for buffers in [2048u32, 5000, 16384, 100_000] {
            for (ports, workers) in [(1, 1), (2, 1), (2, 2), (4, 4)] {
                let held = usize::from(descriptors(buffers, ports, workers)) * ports * workers;
                assert!(held <= buffers as usize / 2 || held == 64 * ports * workers);
            }
        }
    }

    #[test]
    fn a_port_faces_the_side_of_its_zones() {
        let config = |sides: [&str; 2]| {
            let [a, b] = sides;
            let text = format!(
                "[dataplane]\ncores = [1, 2, 3]\n[[port]]\nname = \"p\"\ndevice = \"net_null0\"\nzone = \"a\"\n\
                 addresses = [\"192.168.0.1/24\"]\n[[port.vlan]]\nname = \"v\"\nid = 7\nzone = \"b\"\n\
                 addresses = [\"192.168.1.1/24\"]\n[[zone]]\nname = \"a\"\nside = \"{a}\"\n\
                 [[zone]]\nname = \"b\"\nside = \"{b}\"\n"
            );
            Config::parse(&text, "test").unwrap_or_else(|problems| panic!("{problems}"))
        };
        assert_eq!(facing(&config(["inside", "inside"]), PortId(0)), Some(Facing::Inside));
        assert_eq!(facing(&config(["outside", "outside"]), PortId(0)), Some(Facing::Outside));
        assert_eq!(facing(&config(["inside", "outside"]), PortId(0)), None);
        assert_eq!(facing(&config(["inside", "inside"]), PortId(1)), None);
    }
}

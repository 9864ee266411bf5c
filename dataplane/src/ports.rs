//! From `[[port]]` to started DPDK ports.

use crate::environment::is_pci;
use crate::failure::Failure;
use dpdk::{Eal, Error, Mempool, Port, PortConfig, PortHandle, RxQueue, STEERING_ENTRIES, Steering, TxQueue};
use turnpike_abi::{Address, PortId, WorkerId, steering};
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
            steering: steering_of(config, PortId(index as u16), workers as u8),
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
        steered = agreed.steered,
        fast_free = agreed.fast_free,
        mtu_set = agreed.mtu_set,
        scatter = agreed.scatter,
        link_up = handle.link().up,
        "port is up"
    );
}

/// Descriptors of a queue: at most half of all buffers lie in RX queues, however many there are.
fn descriptors(buffers: u32, ports: usize, workers: usize) -> u16 {
    let each = buffers as usize / (2 * ports.max(1) * workers.max(1));
    // The largest power of two that is not above it.
    let power = (each.max(1) + 1).next_power_of_two() / 2;
    power.clamp(64, 1024) as u16
}

/// The redirection table that sends each packet to its owner's queue (design, section 3): inside ports by the
/// source address, outside ports by the destination port. A port with both kinds of zone gets none.
fn steering_of(config: &Config, port: PortId, workers: u8) -> Option<Steering> {
    let interfaces = config.interfaces();
    let mut sides = interfaces.iter().filter(|interface| interface.port == port).filter_map(|interface| {
        let zone = interface.zone.as_ref()?;
        config.zones.iter().find(|candidate| candidate.name == *zone).map(|zone| zone.side)
    });
    let side = sides.next()?;
    if sides.any(|other| other != side) {
        return None;
    }
    let mut queues = [0; STEERING_ENTRIES];
    for (entry, queue) in queues.iter_mut().enumerate() {
        // The hash has the seven bits reversed.
        let bits = (entry as u8).reverse_bits() >> 1;
        let WorkerId(owner) = match side {
            Side::Inside => steering::owner_of_inside(Address::v4([0, 0, 0, bits]), workers),
            Side::Outside => steering::owner_of_port(u16::from(bits) << 9, workers),
        };
        *queue = u16::from(owner);
    }
    let key_bit = match side {
        Side::Inside => 56,
        Side::Outside => 111,
    };
    Some(Steering { key_bit, queues })
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

    /// The hash that a device computes, bit by bit.
    fn toeplitz(key_bit: usize, tuple: &[u8; 12]) -> u32 {
        let bit = |bytes: &[u8], i: usize| bytes.get(i / 8).is_some_and(|byte| byte & (0x80 >> (i % 8)) != 0);
        let mut key = [0u8; 40];
        key[key_bit / 8] = 0x80 >> (key_bit % 8);
        (0..96).filter(|&i| bit(tuple, i)).fold(0, |hash, i| {
            hash ^ (0..32).fold(0u32, |window, k| window << 1 | u32::from(bit(&key, i + k)))
        })
    }

    #[test]
    fn a_device_that_hashes_as_told_finds_the_owner() {
        let config = |side: &str| {
            let text = format!(
                "[dataplane]\ncores = [1, 2, 3]\n[[port]]\nname = \"p\"\ndevice = \"net_null0\"\nzone = \"z\"\n\
                 addresses = [\"192.168.0.1/24\"]\n[[zone]]\nname = \"z\"\nside = \"{side}\"\n"
            );
            Config::parse(&text, "test").unwrap_or_else(|problems| panic!("{problems}"))
        };
        for workers in [2u8, 3] {
            let inside = steering_of(&config("inside"), PortId(0), workers).expect("one side");
            let outside = steering_of(&config("outside"), PortId(0), workers).expect("one side");
            for n in 0..20_000u32 {
                let noise = n.wrapping_mul(2_654_435_761).to_be_bytes();
                let more = n.wrapping_mul(40_503).rotate_left(11).to_be_bytes();
                let mut tuple = [0; 12];
                tuple[..4].copy_from_slice(&noise);
                tuple[4..8].copy_from_slice(&more);
                tuple[8..].copy_from_slice(&(n ^ 0x5bd1_e995).to_be_bytes());
                let source = Address::v4(noise);
                let port = u16::from_be_bytes([tuple[10], tuple[11]]);
                let queue = |steering: &Steering| {
                    let hash = toeplitz(usize::from(steering.key_bit), &tuple) as usize;
                    steering.queues[hash % STEERING_ENTRIES]
                };
                assert_eq!(queue(&inside), u16::from(steering::owner_of_inside(source, workers).0));
                assert_eq!(queue(&outside), u16::from(steering::owner_of_port(port, workers).0));
            }
        }
    }
}

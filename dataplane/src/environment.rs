//! What DPDK is started with.

use std::collections::BTreeSet;
use turnpike_config::Config;

/// EAL's arguments for a configuration. `available` are the cores this process may use.
pub fn eal_arguments(config: &Config, available: &BTreeSet<usize>) -> Vec<String> {
    let dataplane = &config.dataplane;
    let cores: Vec<String> =
        main_cores(&dataplane.cores, available).iter().map(ToString::to_string).collect();
    let mut arguments = vec![
        format!("--lcores=0@({})", cores.join(",")),
        "-m".to_owned(),
        dataplane.memory.mib().to_string(),
        // DPDK's own directory in RUNTIME_DIRECTORY; nothing of value is kept there.
        "--file-prefix=turnpike".to_owned(),
        // A socket of root's that any local user could try to reach, for counters that we publish ourselves.
        "--no-telemetry".to_owned(),
        "--log-level=warning".to_owned(),
    ];
    if dataplane.no_huge {
        // EAL refuses --in-memory together with --no-huge.
        arguments.extend(["--no-huge".to_owned(), "--no-shconf".to_owned()]);
    } else {
        // No files in hugetlbfs: the memory goes back with the process, however that ends.
        arguments.push("--in-memory".to_owned());
    }
    // Only the devices of the configuration are touched.
    let pci: Vec<&str> =
        config.ports.iter().map(|port| port.device.as_str()).filter(|device| is_pci(device)).collect();
    if pci.is_empty() {
        arguments.push("--no-pci".to_owned());
    }
    for device in pci {
        arguments.extend(["-a".to_owned(), device.to_owned()]);
    }
    arguments.extend(dataplane.eal.iter().cloned());
    arguments
}

/// The cores of the main thread and of DPDK's own threads: those without a worker, or all if every core has one.
/// DPDK knows of no other threads: the workers are ours.
pub fn main_cores(workers: &[u16], available: &BTreeSet<usize>) -> BTreeSet<usize> {
    let workers: BTreeSet<usize> = workers.iter().map(|&core| usize::from(core)).collect();
    let free: BTreeSet<usize> = available.difference(&workers).copied().collect();
    if free.is_empty() { available.clone() } else { free }
}

/// Whether a device string names a PCI device: `0000:03:00.0`, domain optional, with or without arguments.
pub fn is_pci(device: &str) -> bool {
    let name = device.split(',').next().unwrap_or_default();
    let hexadecimal =
        |text: &str, length: usize| text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let parts: Vec<&str> = name.split(':').collect();
    let (domain, bus, rest) = match parts.as_slice() {
        [domain, bus, rest] => (*domain, *bus, *rest),
        [bus, rest] => ("0000", *bus, *rest),
        _ => return false,
    };
    let function = rest.split_once('.');
    hexadecimal(domain, 4)
        && hexadecimal(bus, 2)
        && function.is_some_and(|(device, function)| {
            hexadecimal(device, 2) && matches!(function.as_bytes(), [b'0'..=b'7'])
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_addresses_are_told_from_virtual_devices() {
        for device in ["0000:03:00.0", "03:00.1", "0000:af:1f.7,mac=1", "ABCD:03:00.0"] {
            assert!(is_pci(device), "{device}");
        }
        for device in ["net_null0", "net_af_packet0,iface=eth1", "0000:03:00.8", "0000:03:00", "3:0.0", ""] {
            assert!(!is_pci(device), "{device}");
        }
    }

    #[test]
    fn dpdk_s_own_threads_stay_off_the_workers_cores() {
        let all = BTreeSet::from([0, 1, 2, 5]);
        assert_eq!(main_cores(&[1, 2], &all), BTreeSet::from([0, 5]));
        assert_eq!(main_cores(&[0, 1, 2, 5], &all), all);
    }
}

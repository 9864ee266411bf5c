//! DPDK on one core without hugepages and devices, as every machine has it.

use turnpike_dpdk::Eal;

pub fn start() -> Eal {
    Eal::init(&[
        "--no-huge",
        "-m",
        "128",
        "--no-pci",
        "--no-shconf",
        "--no-telemetry",
        "-l",
        "0",
        "--log-level=warning",
    ])
    .expect("EAL starts without hugepages")
}

//! The boxes under test: what each is started with, and how the generator is wired to it.

use super::generator::Tester;
use super::host::{BOX, GENERATOR, Lab, Process};
use clap::ValueEnum;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

/// Station addresses of the box's ports; where a device keeps its own, the generator's frames reach it all the same.
const INSIDE_MAC: &str = "02:00:00:00:01:01";
const OUTSIDE_MAC: &str = "02:00:00:00:01:02";

/// A box.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Both daemons: NAPT, firewall, routing.
    Turnpike,
    /// `dpdk-testpmd`: swaps the addresses of the frame and sends it out of the other port.
    Testpmd,
    /// The kernel: routing and nftables masquerade, between veth devices.
    Nftables,
}

impl Kind {
    /// As in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Turnpike => "turnpike",
            Self::Testpmd => "testpmd",
            Self::Nftables => "nftables",
        }
    }

    /// What it does to a packet.
    pub const fn does(self) -> &'static str {
        match self {
            Self::Turnpike => "NAPT, firewall, routing",
            Self::Testpmd => "macswap",
            Self::Nftables => "masquerade, routing",
        }
    }
}

/// How everything is set up.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where the binaries are.
    pub bin: PathBuf,
    pub flows: u32,
    /// Bytes of the frames.
    pub size: u16,
    /// Packets in a port's ring, as a power of two.
    pub ring: u8,
    pub generator_core: usize,
    pub box_core: usize,
}

/// MiB of packet memory of a box.
const BOX_MIB: u64 = 256;
/// MiB of the generator.
const GENERATOR_MIB: u64 = 128;

impl Plan {
    /// Hugepages of 2 MB that the processes need: packet memory, and room for the tables.
    pub fn hugepages(&self) -> u64 {
        (BOX_MIB + GENERATOR_MIB) / 2 + 32 + u64::from(self.capacity()) * 256 / (2 << 20)
    }

    /// Flows the box is configured for.
    fn capacity(&self) -> u32 {
        (self.flows * 2).next_power_of_two().max(65_536)
    }

    fn binary(&self, name: &str) -> Result<String, String> {
        let path = self.bin.join(name);
        if path.is_file() {
            return Ok(path.display().to_string());
        }
        Err(format!(
            "{} is missing: cargo build --release -p {name}, or say where it is with --bin",
            path.display()
        ))
    }
}

/// A box that runs, and the generator beside it.
#[derive(Debug)]
pub struct Started {
    pub tester: Tester,
    /// Ended in this order, after the generator.
    _processes: Vec<Process>,
}

/// Starts a box and a generator.
///
/// # Errors
/// What could not be started.
pub fn start(kind: Kind, lab: &Lab, plan: &Plan) -> Result<Started, String> {
    if kind == Kind::Nftables {
        kernel(lab, plan)?;
        let device = |number: usize| {
            format!("net_af_packet{number},iface=gen{number},framecnt={},qdisc_bypass=1", 1u32 << plan.ring)
        };
        let tester = generator(lab, plan, &device(0), &device(1))?;
        return Ok(Started { tester, _processes: Vec::new() });
    }
    let side = |name: &str| lab.directory().join(format!("{name}.sock")).display().to_string();
    let memif = |number: usize, role: &str, name: &str| {
        format!(
            "net_memif{number},role={role},id=0,socket={},socket-abstract=no,rsize={}",
            side(name),
            plan.ring
        )
    };
    // The server first: it makes the sockets, and will not have a former round's.
    for name in ["inside", "outside"] {
        lab.forget(&side(name));
    }
    let tester = generator(lab, plan, &memif(0, "server", "inside"), &memif(1, "server", "outside"))?;
    let devices = [memif(0, "client", "inside"), memif(1, "client", "outside")];
    let processes = match kind {
        Kind::Turnpike => turnpike(lab, plan, &devices)?,
        Kind::Testpmd | Kind::Nftables => vec![testpmd(lab, plan, &devices)?],
    };
    Ok(Started { tester, _processes: processes })
}

fn generator(lab: &Lab, plan: &Plan, inside: &str, outside: &str) -> Result<Tester, String> {
    let binary = plan.binary("turnpike-generator")?;
    let (core, flows, size) =
        (plan.generator_core.to_string(), plan.flows.to_string(), plan.size.to_string());
    let eal = format!("--eal=-m {GENERATOR_MIB} --file-prefix=generator");
    #[rustfmt::skip]
    let words = [
        &binary, "--inside", inside, "--outside", outside, "--inside-gateway", INSIDE_MAC,
        "--outside-gateway", OUTSIDE_MAC, "--flows", &flows, "--size", &size, "--core", &core, &eal,
    ];
    Tester::new(lab.start(GENERATOR, "generator", &core, &words, true)?)
}

fn testpmd(lab: &Lab, plan: &Plan, [inside, outside]: &[String; 2]) -> Result<Process, String> {
    let lcores = format!("0@{},1@{}", plan.generator_core, plan.box_core);
    let memory = BOX_MIB.to_string();
    let buffers = "--total-num-mbufs=32768";
    #[rustfmt::skip]
    let words = [
        "dpdk-testpmd", "--in-memory", "--no-pci", "--no-telemetry", "-m", &memory, "--lcores", &lcores,
        "--vdev", inside, "--vdev", outside, "--",
        // The burst of Turnpike's workers.
        "--forward-mode=macswap", "--nb-cores=1", "--burst=64", buffers, "--stats-period=3600",
    ];
    let cores = format!("{},{}", plan.generator_core, plan.box_core);
    lab.start(BOX, "testpmd", &cores, &words, false)
}

fn turnpike(lab: &Lab, plan: &Plan, devices: &[String; 2]) -> Result<Vec<Process>, String> {
    let path = lab.directory().join("turnpike.toml");
    fs::write(&path, configuration(lab, plan, devices))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    let path = path.display().to_string();
    let cores = format!("{},{}", plan.generator_core, plan.box_core);
    let dataplane = plan.binary("turnpike-dataplane")?;
    let dataplane = lab.start(BOX, "dataplane", &cores, &[&dataplane, "--config", &path], false)?;
    let controlplane = plan.binary("turnpike-controlplane")?;
    let core = plan.generator_core.to_string();
    let controlplane = lab.start(BOX, "controlplane", &core, &[&controlplane, "--config", &path], false)?;
    Ok(vec![controlplane, dataplane])
}

fn configuration(lab: &Lab, plan: &Plan, [inside, outside]: &[String; 2]) -> String {
    let (directory, flows) = (lab.directory().display(), lab.flows());
    let flows = flows.display();
    let capacity = plan.capacity();
    let core = plan.box_core;
    let mut text = format!(
        "[dataplane]\ncores = [{core}]\npoll = \"busy\"\nmemory = \"{BOX_MIB}M\"\nbuffers = 32768\n\
         flows = {capacity}\nbindings = {capacity}\nsocket = \"{directory}/dataplane.sock\"\ncontrol_user = \"root\"\n\
         state = \"{flows}\"\n\
         [control]\nsocket = \"{directory}/control.sock\"\nmetrics = \"\"\nstate = \"{directory}/state\"\n"
    );
    let ports = [
        ("inside", inside, INSIDE_MAC, "192.168.0.1/24"),
        ("outside", outside, OUTSIDE_MAC, "203.0.113.2/24"),
    ];
    for (name, device, mac, address) in ports {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "[[port]]\nname = \"{name}\"\ndevice = \"{device}\"\nmac = \"{mac}\"\nzone = \"{name}\"\n\
             addresses = [\"{address}\"]\n[[zone]]\nname = \"{name}\"\nside = \"{name}\"\n"
        );
    }
    text.push_str(
        "[[route]]\ndestination = \"100.64.0.0/12\"\nvia = \"192.168.0.2\"\n\
         [[route]]\ndestination = \"0.0.0.0/0\"\nvia = \"203.0.113.1\"\n\
         [[pool]]\nname = \"public\"\naddresses = [\"192.0.2.0/24\"]\nzone = \"outside\"\n\
         [[nat]]\nfrom = \"inside\"\nto = \"outside\"\nsource = \"100.64.0.0/12\"\npool = \"public\"\n\
         [[policy]]\nfrom = \"inside\"\nto = \"outside\"\ndefault = \"accept\"\n",
    );
    text
}

/// Routing and masquerade in the kernel. Received packets are handled by the box's processor (RPS): otherwise the
/// generator's would do it, as part of sending.
fn kernel(lab: &Lab, plan: &Plan) -> Result<(), String> {
    let generator = lab.namespace(GENERATOR);
    let steer = format!("{:x}", 1u64 << plan.box_core);
    let ends = [("0", INSIDE_MAC, "192.168.0.1/24"), ("1", OUTSIDE_MAC, "203.0.113.2/24")];
    for (number, mac, address) in ends {
        let (ours, theirs) = (format!("box{number}"), format!("gen{number}"));
        // A former round's.
        let _ = lab.run(BOX, &["ip", "link", "delete", &ours]);
        #[rustfmt::skip]
        lab.run(BOX, &[
            "ip", "link", "add", "name", &ours, "address", mac, "type", "veth",
            "peer", "name", &theirs, "netns", &generator,
        ])?;
        for (host, device) in [(BOX, &ours), (GENERATOR, &theirs)] {
            lab.run(host, &["sysctl", "-qw", &format!("net.ipv6.conf.{device}.disable_ipv6=1")])?;
            #[rustfmt::skip]
            lab.run(host, &["ethtool", "-K", device, "rx", "off", "tx", "off", "gro", "off", "gso", "off", "tso", "off"])?;
            lab.run(host, &["ip", "link", "set", device, "up"])?;
        }
        // The kernel must not answer for the generator.
        lab.run(GENERATOR, &["ip", "link", "set", &theirs, "arp", "off"])?;
        lab.run(BOX, &["ip", "address", "add", address, "dev", &ours])?;
        lab.run(BOX, &["sh", "-c", &format!("echo {steer} >/sys/class/net/{ours}/queues/rx-0/rps_cpus")])?;
    }
    lab.favour_kernel(plan.box_core, 1 << plan.ring)?;
    lab.run(BOX, &["sysctl", "-qw", "net.ipv4.ip_forward=1"])?;
    lab.run(BOX, &["ip", "route", "replace", "100.64.0.0/12", "via", "192.168.0.2"])?;
    lab.run(BOX, &["ip", "route", "replace", "default", "via", "203.0.113.1"])?;
    let rules = "flush ruleset; table ip nat { chain post { type nat hook postrouting priority srcnat; \
                 oifname \"box1\" masquerade; }; }";
    lab.run(BOX, &["nft", rules])
}

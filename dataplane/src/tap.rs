//! TAP twins: the kernel's side of each interface. The kernel answers ARP and ND there, and local programs
//! use the box's addresses (design, section 5).

use crate::failure::{Doing as _, Failure};
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::{Handle, RouteMessageBuilder};
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};
use turnpike_abi::InterfaceId;
use turnpike_config::{Config, InterfaceSpec};

/// The TAP twin of an interface.
pub struct Twin {
    device: SyncDevice,
    name: String,
    index: u32,
    interface: InterfaceId,
    /// The kernel's side was taken away.
    lost: bool,
}

/// All TAP twins, by interface. They are removed, with their addresses and routes, when this is dropped. They are
/// persistent: after a crash they stay, and the next process takes them over with whatever the kernel and routing
/// daemons have put there.
#[derive(Debug, Default)]
pub struct Twins {
    twins: Vec<Twin>,
}

/// Longest frame a TAP hands out: the largest IP packet there is, its Ethernet header and a tag.
pub const LONGEST_FRAME: usize = 65535 + 14 + 4;

impl Twin {
    fn create(spec: &InterfaceSpec, mac: [u8; 6]) -> Result<Self, Failure> {
        let name = spec.tap.as_str().to_owned();
        let doing = |what: &'static str| {
            let name = name.clone();
            move || format!("TAP twin {name}: cannot {what}")
        };
        let device = DeviceBuilder::new()
            .name(&name)
            .layer(Layer::L2)
            .inherit_enable_state()
            .build_sync()
            .doing(doing("be made (does another process have it, or is the name another device's?)"))?;
        device.set_nonblocking(true).doing(doing("be made not to wait"))?;
        device.set_mac_address(mac).doing(doing("take the port's station address"))?;
        device.set_mtu(spec.mtu).doing(doing("take the MTU"))?;
        settle(&name);
        device.enabled(true).doing(doing("be brought up"))?;
        let index = device.if_index().doing(doing("be found"))?;
        // Last: what fails before this leaves nothing behind.
        device.persist().doing(doing("be made to stay"))?;
        Ok(Self { device, name, index, interface: spec.id, lost: false })
    }

    /// Its interface.
    pub fn interface(&self) -> InterfaceId {
        self.interface
    }

    /// The kernel's index of it.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Hands a frame to the kernel.
    ///
    /// # Errors
    /// If the kernel does not take it.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.device.send(frame).map(|_| ())
    }

    /// The next frame from the kernel, copied to the front of `frame`; `None` if there is none.
    pub fn receive(&mut self, frame: &mut [u8]) -> Option<usize> {
        match self.device.recv(frame) {
            Ok(length) => Some(length),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                None
            }
            Err(error) => {
                if !self.lost {
                    tracing::error!(tap = self.name, "{error}: somebody removed it; restart to have it back");
                    self.lost = true;
                }
                None
            }
        }
    }

    /// Whether it can be waited for. One that was removed would always be ready, with an error.
    pub fn is_alive(&self) -> bool {
        !self.lost
    }
}

impl AsFd for Twin {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

impl std::fmt::Debug for Twin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Twin").field("name", &self.name).field("interface", &self.interface).finish()
    }
}

/// Sysctls of a TAP. A kernel built or booted without IPv6 lacks half of them: adding an IPv6 address there will
/// say so.
fn settle(name: &str) {
    let wanted = [
        ("ipv6", "disable_ipv6", "0"),
        // Addresses of the configuration work at once: what is behind the port is not this kernel's to probe.
        ("ipv6", "accept_dad", "0"),
        // A router does not take its routes from its subscribers (RFC 4861, 6.2.1).
        ("ipv6", "accept_ra", "0"),
        ("ipv6", "autoconf", "0"),
        // Each twin answers for its own addresses only, and asks with one of them: the others' links are elsewhere.
        ("ipv4", "arp_ignore", "1"),
        ("ipv4", "arp_announce", "2"),
    ];
    for (family, key, value) in wanted {
        let path = format!("/proc/sys/net/{family}/conf/{name}/{key}");
        if let Err(error) = std::fs::write(&path, value) {
            tracing::debug!("{path}: {error}");
        }
    }
}

impl Twins {
    /// The next interface's: makes its TAP, or takes over one that a dead process left, and brings it up.
    ///
    /// # Errors
    /// If the kernel refuses, for instance because another process has it.
    pub fn create(&mut self, spec: &InterfaceSpec, mac: [u8; 6]) -> Result<(), Failure> {
        self.twins.push(Twin::create(spec, mac)?);
        Ok(())
    }

    /// Each of them, by interface.
    pub fn all(&self) -> &[Twin] {
        &self.twins
    }

    /// Each of them, by interface.
    pub fn all_mut(&mut self) -> &mut [Twin] {
        &mut self.twins
    }

    /// Gives the twins their addresses and installs the static routes. On a twin that was taken over, addresses that
    /// the configuration no longer has go away.
    ///
    /// # Errors
    /// Names the address or route that the kernel refused.
    pub fn address(&self, config: &Config) -> Result<(), Failure> {
        let interfaces = config.interfaces();
        with_netlink(async |handle| {
            for twin in &self.twins {
                let Some(spec) = interfaces.get(twin.interface.index()) else { continue };
                remove_foreign(&handle, twin, spec).await?;
                for address in &spec.addresses {
                    let request = handle.address().add(twin.index, address.address, address.length).replace();
                    netlink(request.execute().await, || {
                        format!("TAP twin {}: address {address}", twin.name)
                    })?;
                }
            }
            for route in &config.routes {
                let via = interfaces
                    .iter()
                    .find(|spec| spec.addresses.iter().any(|address| address.network().contains(route.via)))
                    .and_then(|spec| self.twins.iter().find(|twin| twin.interface == spec.id));
                let what = || format!("route to {} via {}", route.destination, route.via);
                let message = RouteMessageBuilder::<IpAddr>::new()
                    .destination_prefix(route.destination.address(), route.destination.length())
                    .and_then(|message| message.gateway(route.via));
                let message = match message {
                    Ok(message) => via
                        .map(|twin| twin.index)
                        .into_iter()
                        .fold(message, RouteMessageBuilder::output_interface),
                    Err(error) => {
                        return Err(Failure::Io {
                            doing: what(),
                            error: io::Error::other(error.to_string()),
                        });
                    }
                };
                netlink(handle.route().add(message.build()).replace().execute().await, what)?;
            }
            Ok(())
        })
    }
}

impl Drop for Twins {
    fn drop(&mut self) {
        let removed = with_netlink(async |handle| {
            for twin in &self.twins {
                if let Err(error) = handle.link().del(twin.index).execute().await {
                    tracing::warn!(tap = twin.name, "cannot be removed: {error}");
                }
            }
            Ok(())
        });
        if let Err(failure) = removed {
            tracing::warn!("TAP twins stay: {failure}");
        }
    }
}

async fn remove_foreign(handle: &Handle, twin: &Twin, spec: &InterfaceSpec) -> Result<(), Failure> {
    let wanted: BTreeSet<(IpAddr, u8)> =
        spec.addresses.iter().map(|address| (address.address, address.length)).collect();
    let what = || format!("TAP twin {}: its addresses", twin.name);
    let present = handle.address().get().set_link_index_filter(twin.index).execute();
    let present: Vec<AddressMessage> = netlink(present.try_collect().await, what)?;
    for message in present {
        let Some(address) = address_of(&message) else { continue };
        let link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
        if !link_local && !wanted.contains(&(address, message.header.prefix_len)) {
            tracing::info!(tap = twin.name, "removes {address}, which the configuration does not have");
            netlink(handle.address().del(message).execute().await, what)?;
        }
    }
    Ok(())
}

fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    // Of an IPv4 address the own end is LOCAL; IPv6 has ADDRESS only.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

fn netlink<T>(result: Result<T, rtnetlink::Error>, what: impl FnOnce() -> String) -> Result<T, Failure> {
    result.map_err(|error| Failure::Netlink { doing: what(), error })
}

/// Runs `work` beside a netlink connection that lives just as long.
fn with_netlink<T>(work: impl AsyncFnOnce(Handle) -> Result<T, Failure>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .doing(|| "cannot start netlink".to_owned())?;
    runtime.block_on(async {
        let (connection, handle, _) =
            rtnetlink::new_connection().doing(|| "cannot open a netlink socket".to_owned())?;
        let connection = tokio::spawn(connection);
        let result = work(handle).await;
        connection.abort();
        result
    })
}

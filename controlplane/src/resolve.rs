//! Makes the kernel look for a neighbour, without privileges: an empty datagram to the discard port (RFC 863)
//! of that address, bound to the TAP twin, is something the kernel has to resolve the address for.

use hashbrown::HashMap;
use rtnetlink::packet_route::neighbour::NeighbourState;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::Instant;
use turnpike_abi::Address;

const DISCARD: u16 = 9;
/// A stale neighbour is looked for again after this time.
const REFRESH: Duration = Duration::from_secs(30);
/// Most stale neighbours looked for in one call of [`Refresh::due`].
const REFRESH_BURST: usize = 64;
/// Longest wait for room in a socket's buffer.
const PATIENCE: Duration = Duration::from_millis(50);
/// Resolutions that may wait; more are dropped, their workers ask again within a second.
pub const QUEUE: usize = 1024;

/// A neighbour to look for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolve {
    /// Kernel index of the TAP twin.
    pub link: u32,
    /// Its name.
    pub name: String,
    /// The neighbour.
    pub address: Address,
}

/// Sends the datagrams until nobody asks any more.
pub async fn run(mut requests: mpsc::Receiver<Resolve>) {
    let mut sockets: HashMap<(u32, bool), UdpSocket> = HashMap::new();
    while let Some(Resolve { link, name, address }) = requests.recv().await {
        let ip = address.to_ip();
        let key = (link, ip.is_ipv4());
        let socket = match sockets.get(&key) {
            Some(socket) => socket,
            None => match open(ip.is_ipv4(), &name).await {
                Ok(socket) => sockets.entry(key).or_insert(socket),
                Err(error) => {
                    tracing::warn!(%error, interface = name, "no socket to resolve neighbours with");
                    continue;
                }
            },
        };
        let to = match ip {
            IpAddr::V4(v4) => SocketAddr::from((v4, DISCARD)),
            IpAddr::V6(v6) if v6.is_unicast_link_local() => SocketAddrV6::new(v6, DISCARD, 0, link).into(),
            IpAddr::V6(v6) => SocketAddr::from((v6, DISCARD)),
        };
        match tokio::time::timeout(PATIENCE, socket.send_to(&[], to)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, %address, interface = name, "neighbour could not be asked for");
                // The interface may have been made anew under the same index.
                sockets.remove(&key);
            }
            Err(_) => tracing::debug!(%address, interface = name, "socket full"),
        }
    }
}

async fn open(v4: bool, device: &str) -> std::io::Result<UdpSocket> {
    let any: SocketAddr =
        if v4 { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.bind_device(Some(device.as_bytes()))?;
    Ok(socket)
}

/// Which stale neighbours to look for again, so that a next hop that died is noticed: the workers send to
/// it past the kernel, which therefore never asks on its own.
#[derive(Debug, Default)]
pub struct Refresh {
    asked: HashMap<(u32, Address), Instant>,
}

impl Refresh {
    /// Of `neighbours` (link, address, state) those that are due.
    pub fn due(
        &mut self,
        neighbours: impl IntoIterator<Item = (u32, Address, NeighbourState)>,
        now: Instant,
    ) -> Vec<(u32, Address)> {
        let mut stale = HashMap::new();
        let mut due = Vec::new();
        for (link, address, state) in neighbours {
            if state != NeighbourState::Stale {
                continue;
            }
            // Seen stale for the first time: the kernel knew it a moment ago.
            let asked = *self.asked.get(&(link, address)).unwrap_or(&now);
            if now.duration_since(asked) >= REFRESH && due.len() < REFRESH_BURST {
                due.push((link, address));
                stale.insert((link, address), now);
            } else {
                stale.insert((link, address), asked);
            }
        }
        self.asked = stale;
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_neighbours_are_asked_for_every_thirty_seconds() {
        let mut refresh = Refresh::default();
        let start = Instant::now();
        let stale = |n: u8| (7, Address::v4([10, 0, 0, n]), NeighbourState::Stale);
        let fresh = (7, Address::v4([10, 0, 0, 200]), NeighbourState::Reachable);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(refresh.due([stale(1), fresh], at(0)).is_empty());
        assert!(refresh.due([stale(1), fresh], at(29)).is_empty());
        assert_eq!(refresh.due([stale(1), fresh], at(30)), [(7, Address::v4([10, 0, 0, 1]))]);
        assert!(refresh.due([stale(1)], at(31)).is_empty());
        // Answered meanwhile, stale again later: a new wait begins.
        assert!(refresh.due([fresh], at(40)).is_empty());
        assert!(refresh.due([stale(1)], at(61)).is_empty());
        assert_eq!(refresh.due([stale(1)], at(91)).len(), 1);
    }

    #[test]
    fn a_whole_network_of_stale_neighbours_is_spread_out() {
        let mut refresh = Refresh::default();
        let start = Instant::now();
        let all: Vec<_> = (0..200).map(|n| (7, Address::v4([10, 0, 0, n]), NeighbourState::Stale)).collect();
        assert!(refresh.due(all.clone(), start).is_empty());
        let mut seen = std::collections::BTreeSet::new();
        for second in 30..34 {
            let due = refresh.due(all.clone(), start + Duration::from_secs(second));
            assert!(due.len() <= REFRESH_BURST);
            seen.extend(due);
        }
        assert_eq!(seen.len(), 200);
    }
}

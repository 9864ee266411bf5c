//! A socket for each address that requests are received at, bound to its interface: what arrives elsewhere does not
//! reach it (RFC 6887 section 8.2), and what it sends comes from that address.

use crate::server::{Place, Speaks};
use crate::wire::LONGEST;
use hashbrown::HashMap;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use turnpike_abi::{Address, Prefix};
use turnpike_policy::Name;

/// An address to listen at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The address, and its interface.
    pub place: Place,
    /// Name of the interface.
    pub device: String,
    /// Its zone.
    pub zone: Name,
    /// What is spoken there.
    pub speaks: Speaks,
    /// Hosts behind the interface: requests of others are not theirs (RFC 6887 section 17.1).
    pub hosts: Vec<Prefix>,
}

/// A message that arrived.
#[derive(Debug)]
pub(super) struct Datagram {
    pub(super) place: Place,
    pub(super) from: SocketAddr,
    pub(super) bytes: Vec<u8>,
}

struct Open {
    socket: Arc<UdpSocket>,
    reader: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// All of them.
pub(super) struct Sockets {
    port: u16,
    wanted: Vec<Listen>,
    open: HashMap<Place, Open>,
    received: mpsc::Sender<Datagram>,
    unsent: u64,
}

impl Sockets {
    pub(super) fn new(port: u16, received: mpsc::Sender<Datagram>) -> Self {
        Self { port, wanted: Vec::new(), open: HashMap::new(), received, unsent: 0 }
    }

    /// Listens there, and nowhere else.
    pub(super) fn set(&mut self, wanted: Vec<Listen>) {
        self.open.retain(|place, _| {
            let before = self.wanted.iter().find(|listen| listen.place == *place);
            let device = before.map(|listen| &listen.device);
            wanted.iter().any(|listen| listen.place == *place && Some(&listen.device) == device)
        });
        self.wanted = wanted;
    }

    /// Addresses that are listened at.
    pub(super) fn places(&self) -> Vec<(Place, Speaks)> {
        let open = self.wanted.iter().filter(|listen| self.open.contains_key(&listen.place));
        open.map(|listen| (listen.place, listen.speaks)).collect()
    }

    pub(super) fn zone(&self, place: &Place) -> Option<Name> {
        self.wanted.iter().find(|listen| listen.place == *place).map(|listen| listen.zone.clone())
    }

    /// Whether a host's packets come in at a place: by its routes, or on its link.
    pub(super) fn is_from(&self, place: &Place, host: IpAddr) -> bool {
        let on_link = matches!(host, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let listen = self.wanted.iter().find(|listen| listen.place == *place);
        let address = Address::from(host);
        on_link || listen.is_some_and(|listen| listen.hosts.iter().any(|prefix| prefix.contains(address)))
    }

    pub(super) fn is_missing(&self) -> bool {
        self.open.len() < self.wanted.len()
    }

    pub(super) const fn unsent(&self) -> u64 {
        self.unsent
    }

    /// Opens those that are not: an address may be on its way still (RFC 4862 section 5.4).
    pub(super) async fn open_missing(&mut self) {
        for Listen { place, device, .. } in self.wanted.clone() {
            if self.open.contains_key(&place) {
                continue;
            }
            match bind(place, &device, self.port).await {
                Ok(socket) => {
                    let socket = Arc::new(socket);
                    let reader = tokio::spawn(read(Arc::clone(&socket), place, self.received.clone()));
                    tracing::info!(address = %place.address, interface = device, "PCP is listening");
                    self.open.insert(place, Open { socket, reader });
                }
                Err(error) => {
                    tracing::debug!(%error, address = %place.address, interface = device, "PCP cannot listen yet");
                }
            }
        }
    }

    /// Sends from a place; what the kernel does not take at once is counted and gone: its client asks again.
    pub(super) fn send(&mut self, from: Place, to: SocketAddr, bytes: &[u8]) {
        let Some(open) = self.open.get(&from) else {
            self.unsent += 1;
            return;
        };
        if let Err(error) = open.socket.try_send_to(bytes, to) {
            self.unsent += 1;
            tracing::debug!(%error, %to, from = %from.address, "a PCP message could not be sent");
        }
    }
}

async fn bind(place: Place, device: &str, port: u16) -> std::io::Result<UdpSocket> {
    let address: SocketAddr = match place.address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            SocketAddrV6::new(v6, port, 0, place.interface).into()
        }
        address => SocketAddr::new(address, port),
    };
    let socket = UdpSocket::bind(address).await?;
    socket.bind_device(Some(device.as_bytes()))?;
    Ok(socket)
}

async fn read(socket: Arc<UdpSocket>, place: Place, to: mpsc::Sender<Datagram>) {
    // One byte more than the longest message, so that a longer one is told from it (RFC 6887 section 8.2).
    let mut buffer = [0; LONGEST + 4];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, from)) => {
                let bytes = buffer.get(..length).unwrap_or_default().to_vec();
                if to.send(Datagram { place, from, bytes }).await.is_err() {
                    return;
                }
            }
            // An ICMP error about a response, or the interface is going: the next look tells.
            Err(error) => {
                tracing::debug!(%error, address = %place.address, "PCP's socket");
                tokio::task::yield_now().await;
            }
        }
    }
}

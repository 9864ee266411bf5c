//! A host with a real TCP/IP stack (smoltcp) in virtual time.

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};
use std::collections::VecDeque;
use std::net::Ipv4Addr;

/// Bytes of each socket buffer: more than one window on the wire at a time.
const BUFFER: usize = 32 * 1024;

/// A host on one of the box's links.
pub struct Host {
    /// Station address.
    pub mac: [u8; 6],
    /// Its address.
    pub address: Ipv4Addr,
    interface: Interface,
    device: Queues,
    sockets: SocketSet<'static>,
}

/// A TCP socket of a [`Host`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket(SocketHandle);

impl Host {
    /// A host that sends everything beyond its prefix to `gateway`.
    ///
    /// # Panics
    /// If `mac` is not unicast.
    #[must_use]
    pub fn new(mac: [u8; 6], address: Ipv4Addr, prefix_length: u8, gateway: Ipv4Addr) -> Self {
        let mut device = Queues { received: VecDeque::new(), sent: VecDeque::new() };
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac)));
        config.random_seed = u64::from_be_bytes([0, 0, mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]]);
        let mut interface = Interface::new(config, &mut device, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddress::Ipv4(address), prefix_length)).expect("room for one");
        });
        interface.routes_mut().add_default_ipv4_route(gateway).expect("room for one");
        Self { mac, address, interface, device, sockets: SocketSet::new(Vec::new()) }
    }

    fn socket(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
        self.sockets.add(tcp::Socket::new(buffer(), buffer()))
    }

    /// A socket that waits for one connection.
    ///
    /// # Panics
    /// If `port` is 0.
    pub fn listen(&mut self, port: u16) -> Socket {
        let handle = self.socket();
        self.sockets.get_mut::<tcp::Socket>(handle).listen(port).expect("a port");
        Socket(handle)
    }

    /// A socket that opens a connection.
    ///
    /// # Panics
    /// If a port is 0.
    pub fn connect(&mut self, from: u16, to: (Ipv4Addr, u16)) -> Socket {
        let handle = self.socket();
        let socket = self.sockets.get_mut::<tcp::Socket>(handle);
        socket.connect(self.interface.context(), (IpAddress::Ipv4(to.0), to.1), from).expect("two ports");
        Socket(handle)
    }

    /// Hands bytes to the socket's send buffer; returns how many it took.
    pub fn send(&mut self, socket: Socket, bytes: &[u8]) -> usize {
        self.sockets.get_mut::<tcp::Socket>(socket.0).send_slice(bytes).unwrap_or(0)
    }

    /// Appends what arrived to `bytes`.
    pub fn receive(&mut self, socket: Socket, bytes: &mut Vec<u8>) {
        let socket = self.sockets.get_mut::<tcp::Socket>(socket.0);
        while socket.can_recv() {
            let taken = socket.recv(|chunk| {
                bytes.extend_from_slice(chunk);
                (chunk.len(), chunk.len())
            });
            if !matches!(taken, Ok(1..)) {
                break;
            }
        }
    }

    /// Sends FIN once everything is sent.
    pub fn close(&mut self, socket: Socket) {
        self.sockets.get_mut::<tcp::Socket>(socket.0).close();
    }

    /// State of a socket.
    #[must_use]
    pub fn state(&self, socket: Socket) -> tcp::State {
        self.sockets.get::<tcp::Socket>(socket.0).state()
    }

    /// The other end of a connection.
    #[must_use]
    pub fn remote(&self, socket: Socket) -> Option<(std::net::IpAddr, u16)> {
        let end = self.sockets.get::<tcp::Socket>(socket.0).remote_endpoint()?;
        Some((end.addr.into(), end.port))
    }

    /// A frame arrived.
    pub(crate) fn deliver(&mut self, frame: Vec<u8>) {
        self.device.received.push_back(frame);
    }

    /// Lets the stack work; returns what it sends.
    pub(crate) fn poll(&mut self, now_ms: u64) -> impl Iterator<Item = Vec<u8>> + use<'_> {
        self.interface.poll(instant(now_ms), &mut self.device, &mut self.sockets);
        self.device.sent.drain(..)
    }

    /// When the stack wants to work again, milliseconds.
    pub(crate) fn poll_at(&mut self, now_ms: u64) -> Option<u64> {
        let at = self.interface.poll_at(instant(now_ms), &self.sockets)?;
        // Rounded up: a timer that is due within this millisecond fires in the next.
        Some((at.total_micros().max(0) as u64).div_ceil(1000))
    }
}

fn instant(now_ms: u64) -> Instant {
    Instant::from_millis(now_ms as i64)
}

struct Queues {
    received: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
}

impl Device for Queues {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        let frame = self.received.pop_front()?;
        Some((Received(frame), Sending(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.sent))
    }
}

struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

struct Sending<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = vec![0; length];
        let result = fill(&mut frame);
        self.0.push_back(frame);
        result
    }
}

//! One end of the wire: a port of the generator.

use crate::packet;
use dpdk::{BURST, Eal, Error, Mbuf, Mempool, Port, PortConfig, PortHandle, RxQueue, TxQueue};
use turnpike_engine::Buffer as _;

/// A port, wired to one of the box's.
#[derive(Debug)]
pub struct End {
    handle: PortHandle,
    rx: RxQueue,
    tx: TxQueue,
    /// Station addresses: the box's, ours.
    pub stations: ([u8; 6], [u8; 6]),
    arrived: Vec<Mbuf>,
    replies: Vec<Mbuf>,
}

impl End {
    /// Opens and starts a device.
    ///
    /// # Errors
    /// What the device says.
    pub fn open(
        eal: &Eal,
        pool: &Mempool,
        device: &str,
        gateway: [u8; 6],
        descriptors: u16,
    ) -> Result<Self, Error> {
        let config =
            PortConfig { rx_descriptors: descriptors, tx_descriptors: descriptors, ..PortConfig::default() };
        let (mut handle, rx, tx) = Port::configure(eal, device, &config, pool)?.start()?;
        // A device that cannot receives everything anyway.
        let _ = handle.set_promiscuous();
        let none = || Error::Unable { device: device.to_owned(), what: "it has no queue".to_owned() };
        let rx = rx.into_iter().next().ok_or_else(none)?;
        let tx = tx.into_iter().next().ok_or_else(none)?;
        let stations = (gateway, handle.mac());
        let arrived = Vec::with_capacity(BURST);
        Ok(Self { handle, rx, tx, stations, arrived, replies: Vec::with_capacity(BURST) })
    }

    pub fn driver(&self) -> String {
        self.handle.driver().to_owned()
    }

    /// Whether the box is at the other end. Asking makes some drivers connect.
    pub fn is_up(&self) -> bool {
        self.handle.link().up
    }

    /// Sends, and returns how many packets the device had no room for; they are freed.
    #[inline]
    pub fn send(&mut self, packets: &mut Vec<Mbuf>) -> usize {
        self.tx.burst(packets);
        let refused = packets.len();
        if refused > 0 {
            Mbuf::free_bulk(packets);
        }
        refused
    }

    /// Receives a burst; `each` sees those that are ours. ARP requests are answered: whoever is asked for is here.
    #[inline]
    pub fn receive(
        &mut self,
        mut each: impl FnMut(packet::Mark, packet::Endpoint, packet::Endpoint),
    ) -> usize {
        let came = self.rx.burst(&mut self.arrived);
        if came == 0 {
            return 0;
        }
        let mut requests = false;
        for frame in &self.arrived {
            match packet::read(frame.bytes()) {
                packet::Arrival::Marked(mark, source, destination) => each(mark, source, destination),
                packet::Arrival::Arp => requests = true,
                packet::Arrival::Other => {}
            }
        }
        if requests {
            self.answer();
        }
        Mbuf::free_bulk(&mut self.arrived);
        came
    }

    #[cold]
    fn answer(&mut self) {
        let station = self.stations.1;
        for mut frame in self.arrived.drain(..) {
            if packet::read(frame.bytes()) == packet::Arrival::Arp
                && packet::answer_arp(frame.bytes_mut(), station)
            {
                self.replies.push(frame);
            }
        }
        self.tx.burst(&mut self.replies);
        self.replies.clear();
    }
}

//! The main thread's loop: packets between workers and TAP twins, the control plane, statistics, signals.

use crate::attachment::Attachment;
use crate::clock::{Clock, wall_clock_ms};
use crate::crew::Crew;
use crate::failure::{Doing as _, Failure};
use crate::tap::{LONGEST_FRAME, Twins};
use crate::worker::Exception;
use dpdk::{MbufSource, Mempool, PortHandle, rdtsc};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use turnpike_abi::PortId;
use turnpike_abi::attach::AttachResult;
use turnpike_abi::stats::{MainStats, PortStats, field};
use turnpike_config::Config;
use turnpike_engine::{Buffer as _, BufferSource as _};
use turnpike_shm::page::PageWriter;
use turnpike_shm::statistics::Statistics;

/// Packets moved from one ring or TAP before the next is looked at.
const AT_ONCE: usize = 128;
/// Longest wait while nothing comes from the workers.
const WAIT_IDLE: Duration = Duration::from_millis(10);
/// Longest wait while something does: workers cannot wake this thread.
const WAIT_BUSY: Duration = Duration::from_millis(1);
/// How long the short wait is kept up after the last packet.
const BUSY_FOR: Duration = Duration::from_millis(200);
/// From one publication to the next.
const PUBLISH_EVERY: Duration = Duration::from_millis(100);

/// What the main thread works with.
#[derive(Debug)]
pub struct Main {
    /// The workers.
    pub crew: Crew,
    /// TAP twins, by interface.
    pub twins: Twins,
    /// The control plane.
    pub attachment: Attachment,
    /// Ports and their pages.
    pub ports: Vec<PublishedPort>,
    /// Where the control plane reads.
    pub statistics: Statistics,
    /// Our own page.
    pub page: PageWriter<MainStats>,
    /// Packet buffers.
    pub pool: Mempool,
    /// Buffers for frames from the TAP twins.
    pub source: MbufSource,
    /// The workers' wall clock.
    pub clock: Clock,
    /// Readable once a signal to stop came.
    pub signals: UnixStream,
}

/// A port and the page that shows it.
#[derive(Debug)]
pub struct PublishedPort {
    handle: PortHandle,
    page: PageWriter<PortStats>,
    shown: PortStats,
}

impl PublishedPort {
    /// Port `id` of the configuration.
    ///
    /// # Errors
    /// If the statistics segment has no place for it.
    pub fn new(
        config: &Config,
        id: PortId,
        handle: PortHandle,
        statistics: &Statistics,
    ) -> Result<Self, Failure> {
        let name = config.ports.get(id.index()).map_or("", |port| port.name.as_str());
        let page = statistics.port(id).map_err(|_| Failure::Statistics(format!("port {name}")))?;
        let shown = PortStats {
            name: field(name),
            device: field(handle.device()),
            driver: field(handle.driver()),
            queues: u64::from(handle.negotiated().queues.0),
            mtu: u64::from(handle.mtu()),
            link_up: u64::from(handle.link().up),
            steering_v4: handle.negotiated().steering_v4,
            steering_v6: handle.negotiated().steering_v6,
            ..PortStats::default()
        };
        Ok(Self { handle, page, shown })
    }

    /// Whether an XDP program is behind it.
    pub fn is_xdp(&self) -> bool {
        self.handle.driver() == "net_af_xdp"
    }

    fn publish(&mut self) {
        let (stats, link) = (self.handle.stats(), self.handle.link());
        if (self.shown.link_up == 1) != link.up {
            let name = turnpike_abi::stats::text(&self.shown.name);
            tracing::warn!(port = name, "link is {}", if link.up { "up" } else { "down" });
        }
        self.shown = PortStats {
            link_up: u64::from(link.up),
            speed: link.speed,
            rx_packets: stats.rx_packets,
            tx_packets: stats.tx_packets,
            rx_bytes: stats.rx_bytes,
            tx_bytes: stats.tx_bytes,
            rx_missed: stats.rx_missed,
            rx_errors: stats.rx_errors,
            tx_errors: stats.tx_errors,
            rx_nombuf: stats.rx_nombuf,
            ..self.shown
        };
        self.page.publish(&self.shown);
    }
}

impl Main {
    /// Runs until a signal to stop, or until a worker fails; then takes everything down in order.
    ///
    /// # Errors
    /// If a worker ended on its own, or the kernel refuses to wait.
    pub fn run(mut self) -> Result<(), Failure> {
        let ended = self.serve();
        crate::start::notify(sd_notify::NotifyState::Stopping);
        self.attachment.close();
        drop(self.crew);
        // An XDP port never returns the buffers in its rings; they go with the process.
        let keeps_buffers = self.ports.iter().any(PublishedPort::is_xdp);
        // With the last queue gone the ports stop and give their buffers back.
        drop(self.ports);
        let held = self.pool.in_use();
        if held > 0 && !keeps_buffers {
            tracing::warn!("{held} packet buffers were not given back");
        }
        drop(self.twins);
        ended
    }

    fn serve(&mut self) -> Result<(), Failure> {
        let mut totals = MainStats::default();
        let mut punted = Vec::with_capacity(AT_ONCE);
        let mut frame = vec![0; LONGEST_FRAME];
        let mut last_packet = None::<Instant>;
        let mut published = None::<Instant>;
        loop {
            let busy = last_packet.is_some_and(|last| last.elapsed() < BUSY_FOR);
            if self.wait(if busy { WAIT_BUSY } else { WAIT_IDLE })? {
                tracing::info!("stops");
                return Ok(());
            }
            let mut moved = self.deliver_punted(&mut punted, &mut totals);
            moved |= self.fetch_injected(&mut frame, &mut totals);
            if moved {
                last_packet = Some(Instant::now());
            }
            self.attachment.serve(&mut self.crew, &self.statistics, &mut totals);
            if self.crew.listen()?.is_some() {
                self.attachment.put_out(AttachResult::RING, &mut self.crew, &mut totals);
            }
            if published.is_none_or(|published| published.elapsed() >= PUBLISH_EVERY) {
                published = Some(Instant::now());
                self.publish(&mut totals);
            }
        }
    }

    /// Waits until there is something to do. `true` if that is to stop.
    fn wait(&self, most: Duration) -> Result<bool, Failure> {
        let mut descriptors = vec![PollFd::new(&self.signals, PollFlags::IN)];
        descriptors.extend(
            self.twins
                .all()
                .iter()
                .filter(|twin| twin.is_alive())
                .map(|twin| PollFd::new(twin, PollFlags::IN)),
        );
        descriptors.extend(
            self.attachment
                .descriptors()
                .map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN)),
        );
        let most = Timespec { tv_sec: 0, tv_nsec: most.subsec_nanos().into() };
        match poll(&mut descriptors, Some(&most)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).doing(|| "cannot wait for events".to_owned()),
        }
        Ok(descriptors.first().is_some_and(|signals| !signals.revents().is_empty()))
    }

    /// Punted packets to the TAP twins. `true` if there were any.
    fn deliver_punted(&mut self, punted: &mut Vec<Exception>, totals: &mut MainStats) -> bool {
        self.crew.take_punted(punted, AT_ONCE);
        let any = !punted.is_empty();
        for (interface, packet) in punted.drain(..) {
            let twin = self.twins.all().get(interface.index());
            match twin.map(|twin| twin.send(packet.bytes())) {
                Some(Ok(())) => totals.tap_sent += 1,
                Some(Err(_)) | None => totals.tap_dropped += 1,
            }
        }
        any
    }

    /// Frames of the TAP twins to the first worker. `true` if there were any.
    fn fetch_injected(&mut self, frame: &mut [u8], totals: &mut MainStats) -> bool {
        let mut any = false;
        for twin in self.twins.all_mut() {
            for _ in 0..AT_ONCE {
                let Some(length) = twin.receive(frame) else { break };
                any = true;
                totals.tap_received += 1;
                let bytes = frame.get(..length).unwrap_or_default();
                let packet = self.source.take(length).and_then(|mut packet| {
                    packet.resize(length).then(|| {
                        packet.bytes_mut().iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
                        packet
                    })
                });
                let taken = packet.is_some_and(|packet| self.crew.inject((twin.interface(), packet)).is_ok());
                if !taken {
                    totals.inject_dropped += 1;
                }
            }
        }
        any
    }

    fn publish(&mut self, totals: &mut MainStats) {
        self.clock.advance(rdtsc());
        self.clock.follow_wall_clock();
        for port in &mut self.ports {
            port.publish();
        }
        totals.buffers = u64::from(self.pool.size());
        totals.buffers_available = u64::from(self.pool.available());
        totals.heartbeat_ms = wall_clock_ms();
        self.page.publish(totals);
    }
}

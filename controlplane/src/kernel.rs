//! Follows rtnetlink: a dump of everything, then what changes. Needs no privilege.
//!
//! Notifications are not the whole truth: the kernel drops routes without a word when a link goes down, and
//! notifications themselves when their reader is slow. So tables are dumped again after link and address
//! changes, after an overrun, and a while after route changes, at a cost bounded to a few percent of the time.

use crate::netlink::{self, Link, LocalAddress, Neighbour, Route};
use futures_util::{Stream, StreamExt, TryStreamExt};
use rtnetlink::packet_core::{NLM_F_REPLACE, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::AsyncSocket as _;
use rtnetlink::{Handle, MulticastGroup};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use turnpike_abi::Address;

/// What the kernel said.
#[derive(Debug)]
pub enum KernelEvent {
    /// All links, addresses and routes.
    Tables {
        /// Links.
        links: Vec<Link>,
        /// Addresses.
        addresses: Vec<LocalAddress>,
        /// Routes of the main and local tables.
        routes: Vec<Route>,
    },
    /// All neighbours.
    Neighbours(Vec<Neighbour>),
    /// One thing changed.
    Change(Change),
}

/// A single change.
#[derive(Debug)]
pub enum Change {
    /// A link appeared or changed.
    Link(Link),
    /// A link is gone.
    LinkGone(u32),
    /// An address appeared.
    Address(LocalAddress),
    /// An address is gone.
    AddressGone(LocalAddress),
    /// A route appeared; `true`: in place of those of its key.
    Route(Route, bool),
    /// A route is gone.
    RouteGone(Route),
    /// A neighbour appeared or changed.
    Neighbour(Neighbour),
    /// A neighbour is gone.
    NeighbourGone(u32, Address),
}

const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// Bytes of notifications the kernel may hold for us (it bounds this by `net.core.rmem_max`).
const RECEIVE_BUFFER: usize = 4 << 20;
/// From a link or address change to the dump that follows it.
const SOON: Duration = Duration::from_millis(20);
/// From a route change to the dump that follows it, at least.
const LATER: Duration = Duration::from_secs(1);
/// A dump that took a time is not repeated before this many times that time.
const SHARE: u32 = 20;
/// Before the connection is made anew after a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs until nobody listens any more.
pub async fn follow(events: mpsc::Sender<KernelEvent>) {
    while let Err(error) = session(&events).await {
        if events.is_closed() {
            return;
        }
        tracing::error!(%error, "rtnetlink failed: reconnecting");
        tokio::time::sleep(PAUSE).await;
    }
}

/// When the tables are to be dumped again.
struct Schedule {
    at: Option<Instant>,
    last: Instant,
    cost: Duration,
}

impl Schedule {
    fn within(&mut self, delay: Duration) {
        let at = (Instant::now() + delay).max(self.last + self.cost * SHARE);
        self.at = Some(self.at.map_or(at, |already| already.min(at)));
    }
}

/// A connection's driver, ended with it.
struct Driver(tokio::task::JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One connection. `Ok` if nobody listens any more.
async fn session(events: &mpsc::Sender<KernelEvent>) -> Result<(), rtnetlink::Error> {
    let (mut connection, handle, mut messages) =
        rtnetlink::new_multicast_connection(&GROUPS).map_err(|_| rtnetlink::Error::RequestFailed)?;
    let socket = connection.socket_mut().socket_mut();
    if let Err(error) = socket.set_rx_buf_sz(RECEIVE_BUFFER) {
        tracing::debug!(%error, "receive buffer of rtnetlink stays at its default");
    }
    let _driver = Driver(tokio::spawn(connection));
    let mut schedule = Schedule { at: None, last: Instant::now(), cost: Duration::ZERO };
    if !dump(&handle, events, &mut schedule).await? || !dump_neighbours(&handle, events).await? {
        return Ok(());
    }
    loop {
        let due = schedule.at;
        tokio::select! {
            message = messages.next() => {
                let Some((message, _)) = message else { return Err(rtnetlink::Error::RequestFailed) };
                if matches!(message.payload, NetlinkPayload::Overrun(_)) {
                    tracing::warn!("rtnetlink notifications were lost: reading everything again");
                    if !dump(&handle, events, &mut schedule).await?
                        || !dump_neighbours(&handle, events).await?
                    {
                        return Ok(());
                    }
                } else if let Some(change) = change(message) {
                    match change {
                        Change::Route(..) | Change::RouteGone(..) => schedule.within(LATER),
                        Change::Neighbour(_) | Change::NeighbourGone(..) => {}
                        _ => schedule.within(SOON),
                    }
                    if events.send(KernelEvent::Change(change)).await.is_err() {
                        return Ok(());
                    }
                }
            }
            () = sleep_until(due), if due.is_some() => {
                if !dump(&handle, events, &mut schedule).await? {
                    return Ok(());
                }
            }
            () = events.closed() => return Ok(()),
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn collect<T, U>(
    stream: impl Stream<Item = Result<T, rtnetlink::Error>>,
    convert: impl Fn(&T) -> Option<U>,
    into: &mut Vec<U>,
) -> Result<(), rtnetlink::Error> {
    let mut stream = std::pin::pin!(stream);
    while let Some(message) = stream.try_next().await? {
        into.extend(convert(&message));
    }
    Ok(())
}

/// `false` if nobody listens any more.
async fn dump(
    handle: &Handle,
    events: &mpsc::Sender<KernelEvent>,
    schedule: &mut Schedule,
) -> Result<bool, rtnetlink::Error> {
    let begin = Instant::now();
    let (mut links, mut addresses, mut routes) = (Vec::new(), Vec::new(), Vec::new());
    collect(handle.link().get().execute(), |message| Some(netlink::link(message)), &mut links).await?;
    collect(handle.address().get().execute(), netlink::address, &mut addresses).await?;
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut all = RouteMessage::default();
        all.header.address_family = family;
        collect(handle.route().get(all).execute(), netlink::route, &mut routes).await?;
    }
    *schedule = Schedule { at: None, last: Instant::now(), cost: begin.elapsed() };
    Ok(events.send(KernelEvent::Tables { links, addresses, routes }).await.is_ok())
}

/// `false` if nobody listens any more.
async fn dump_neighbours(
    handle: &Handle,
    events: &mpsc::Sender<KernelEvent>,
) -> Result<bool, rtnetlink::Error> {
    let mut neighbours = Vec::new();
    collect(handle.neighbours().get().execute(), netlink::neighbour, &mut neighbours).await?;
    Ok(events.send(KernelEvent::Neighbours(neighbours)).await.is_ok())
}

fn change(message: NetlinkMessage<RouteNetlinkMessage>) -> Option<Change> {
    let replace = message.header.flags & NLM_F_REPLACE != 0;
    let NetlinkPayload::InnerMessage(message) = message.payload else { return None };
    match message {
        RouteNetlinkMessage::NewLink(link) => Some(Change::Link(netlink::link(&link))),
        RouteNetlinkMessage::DelLink(link) => Some(Change::LinkGone(link.header.index)),
        RouteNetlinkMessage::NewAddress(address) => netlink::address(&address).map(Change::Address),
        RouteNetlinkMessage::DelAddress(address) => netlink::address(&address).map(Change::AddressGone),
        RouteNetlinkMessage::NewRoute(route) => {
            netlink::route(&route).map(|route| Change::Route(route, replace))
        }
        RouteNetlinkMessage::DelRoute(route) => netlink::route(&route).map(Change::RouteGone),
        RouteNetlinkMessage::NewNeighbour(neighbour) => netlink::neighbour(&neighbour).map(Change::Neighbour),
        RouteNetlinkMessage::DelNeighbour(neighbour) => netlink::neighbour(&neighbour)
            .map(|neighbour| Change::NeighbourGone(neighbour.link, neighbour.address)),
        _ => None,
    }
}

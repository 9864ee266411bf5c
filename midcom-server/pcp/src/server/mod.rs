//! The server's machine: requests in, orders to the policy engine and responses out. It does no I/O and reads no
//! clock.
//!
//! ```text
//! receive --> read --> [rate] --> options --> mapping there?  yes --> Change, or Close after a Look
//!                                                             no  --> Open, with the suggestion and then without
//! answered --> response       ended, moved --> epoch, Mapping Update       poll --> announcements that are due
//! ```
//!
//! A mapping that waits for the policy engine answers nobody: its client asks again (RFC 6887 section 8.1.1).

mod announce;
mod counts;
mod job;
pub use job::Asker;
mod map;
mod memo;
mod moved;
mod natpmp;
mod order;
mod peer;
mod rate;
mod settings;
mod steps;
mod table;

pub use counts::{Counts, Drop};
pub use order::{Answer, Kept, Kind, Order, OrderId, Refused, RuleId, Seen, Wanted};
pub use settings::{Place, Prefix, Settings, Side, Speaks, ThirdParty, Time};

use crate::wire::{Body, Fault, Opcode, OptionCode, Request, ResultCode, Version, error};
use announce::Series;
use hashbrown::HashMap;
use job::{Asked, Job};
use rate::Rates;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use steps::Step;
use table::Table;

/// Something the shell has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send `bytes` from the address and port of a place.
    Send {
        /// Where the request was received, or an announcement is made.
        from: Place,
        /// Who gets it, a multicast group perhaps.
        to: SocketAddr,
        /// The message.
        bytes: Vec<u8>,
    },
    /// Have the policy engine do this, and tell [`Server::answered`] what it said.
    Order(OrderId, Order),
    /// The epoch began anew: remember when (RFC 6887 section 8.5).
    Epoch(Time),
}

/// The server.
#[derive(Debug)]
pub struct Server {
    settings: Settings,
    places: Vec<(Place, Speaks)>,
    table: Table,
    waiting: HashMap<OrderId, Step>,
    sweeps: HashMap<u64, natpmp::Sweep>,
    series: Vec<Series>,
    rates: Rates,
    gone: Vec<moved::Gone>,
    again: Vec<moved::Again>,
    epoch: Time,
    next: u64,
    effects: VecDeque<Effect>,
    counts: Counts,
}

/// Orders that may be under way; what comes beyond that is dropped (RFC 6887 section 8.2).
const MOST_WAITING: usize = 4096;

impl Server {
    /// A server whose epoch began at `epoch`, with nothing in its table.
    #[must_use]
    pub fn new(mut settings: Settings, epoch: Time) -> Self {
        settings.filters = settings.filters.clamp(1, memo::MOST_FILTERS);
        Self {
            rates: Rates::new(settings.rate),
            settings,
            places: Vec::new(),
            table: Table::default(),
            waiting: HashMap::new(),
            sweeps: HashMap::new(),
            series: Vec::new(),
            gone: Vec::new(),
            again: Vec::new(),
            epoch,
            next: 1,
            effects: VecDeque::new(),
            counts: Counts::default(),
        }
    }

    /// What is to be done now, in order.
    pub fn effects(&mut self) -> impl Iterator<Item = Effect> + '_ {
        self.effects.drain(..)
    }

    /// What was counted so far.
    #[must_use]
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Mappings there are, those that wait among them.
    #[must_use]
    pub fn mappings(&self) -> usize {
        self.table.len()
    }

    /// Orders that the policy engine has not answered.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Seconds since the epoch began.
    #[must_use]
    pub fn epoch(&self, now: Time) -> u32 {
        u32::try_from(self.epoch.until(now) / 1000).unwrap_or(u32::MAX)
    }

    /// Another configuration is in force. Mappings stay as they are.
    pub fn set_settings(&mut self, mut settings: Settings) {
        settings.filters = settings.filters.clamp(1, memo::MOST_FILTERS);
        self.rates.set(settings.rate);
        self.settings = settings;
    }

    /// Counts a message whose source is not of the place it reached.
    pub fn refuse_source(&mut self) {
        self.counts.drop(Drop::Source);
    }

    /// A message from `from` that reached `place`. Its source was checked: see [`Server::refuse_source`].
    pub fn receive(&mut self, now: Time, place: Place, from: SocketAddr, message: &[u8]) {
        self.expire(now);
        let speaks = self.places.iter().find(|(there, _)| *there == place);
        let speaks = speaks.map(|(_, speaks)| *speaks).unwrap_or_default();
        let Some(version) = Version::of(message) else {
            return self.counts.drop(Drop::NotARequest);
        };
        if !self.rates.admit(now, from.ip(), 1) {
            return self.counts.drop(Drop::Rate);
        }
        if self.waiting.len() >= MOST_WAITING {
            return self.counts.drop(Drop::Overload);
        }
        let asker = Asker { place, to: from };
        match version {
            Version::NatPmp if speaks.nat_pmp && from.is_ipv4() => self.nat_pmp(now, asker, message),
            Version::Pcp if speaks.pcp => match Request::read(message, from.ip()) {
                Ok(request) => self.request(now, asker, message, request),
                Err(Fault::Silent) => self.counts.drop(Drop::TooShort),
                Err(Fault::Error(code)) => self.refuse(now, asker, message, code),
            },
            // RFC 6886 section 3: a gateway that speaks NAT-PMP alone says so in its own format.
            Version::Pcp | Version::Other if !speaks.pcp && speaks.nat_pmp && from.is_ipv4() => {
                self.nat_pmp_version(now, asker);
            }
            // RFC 6887 appendix A: to a NAT-PMP client this reads as "unsupported version" too.
            _ if speaks.pcp => self.refuse(now, asker, message, ResultCode::UnsuppVersion),
            _ => self.counts.drop(Drop::Disabled),
        }
    }

    fn request(&mut self, now: Time, asker: Asker, message: &[u8], request: Request) {
        let options = match self.options(&asker, &request) {
            Ok(options) => options,
            Err(code) => return self.refuse(now, asker, message, code),
        };
        let host = options.third_party.unwrap_or(asker.to.ip());
        let body = request.body;
        let job = Job { asker, host, asked: Asked::Pcp { message: message.into(), request, options } };
        match body {
            Body::Announce => {
                // RFC 6887 section 14.1.2: no state changes.
                self.reply(now, &job, ResultCode::Success, 0, SocketAddr::new(host, 0));
            }
            Body::Map(map) => self.map(now, job, &map),
            Body::Peer(peer) => self.peer(now, job, &peer),
        }
    }

    /// Processes the options of a request in their order (RFC 6887 section 7.3).
    fn options(&self, asker: &Asker, request: &Request) -> Result<job::Options, ResultCode> {
        let mut options = job::Options::default();
        for option in &request.options {
            options.take(option, request, |host| self.third_party(asker.to.ip(), host))?;
        }
        match request.fault {
            Some(code) => Err(code),
            None => Ok(options),
        }
    }

    /// RFC 6887 section 13.1: who may speak for whom.
    fn third_party(&self, client: IpAddr, host: IpAddr) -> Result<(), ResultCode> {
        let mut rules =
            self.settings.third_party.iter().filter(|rule| rule.client.contains(client)).peekable();
        if rules.peek().is_none() {
            return Err(ResultCode::UnsuppOption);
        }
        if client == host {
            return Err(ResultCode::MalformedRequest);
        }
        if rules.any(|rule| rule.hosts.iter().any(|prefix| prefix.contains(host))) {
            return Ok(());
        }
        Err(ResultCode::NotAuthorized)
    }

    /// Answers a request that did not get as far as a job.
    fn refuse(&mut self, now: Time, asker: Asker, message: &[u8], code: ResultCode) {
        let opcode = message.get(1).copied().unwrap_or_default();
        self.counts.answer(Opcode(opcode), code);
        let header = crate::wire::Header { result: code, lifetime: code.lifetime(), epoch: self.epoch(now) };
        self.send(&asker, error(message, header));
    }

    fn send(&mut self, asker: &Asker, bytes: Vec<u8>) {
        self.effects.push_back(Effect::Send { from: asker.place, to: asker.to, bytes });
    }

    fn order(&mut self, step: Step, order: Order) {
        let id = OrderId(self.next);
        self.next += 1;
        self.waiting.insert(id, step);
        self.effects.push_back(Effect::Order(id, order));
    }

    /// Whether a mapping may have this external end at all: RFC 6887 section 11.3 keeps PCP's own ports back.
    fn is_own_port(protocol: u8, port: u16) -> bool {
        protocol == 17 && (port == crate::wire::CLIENT_PORT || port == crate::wire::SERVER_PORT)
    }
}

/// Whether the option may stand with the opcode (RFC 6887 section 13: not with others unless they permit it).
const fn belongs(code: OptionCode, opcode: Opcode) -> bool {
    match code {
        OptionCode::THIRD_PARTY => matches!(opcode, Opcode::MAP | Opcode::PEER),
        OptionCode::PREFER_FAILURE | OptionCode::FILTER | OptionCode::PORT_SET => {
            matches!(opcode, Opcode::MAP)
        }
        _ => false,
    }
}

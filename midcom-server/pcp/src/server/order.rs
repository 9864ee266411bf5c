//! What the server wants of the policy engine, and what that says.

use super::Asker;
use super::table::Key;
use crate::wire::Filter;
use std::net::{IpAddr, SocketAddr};

/// Names an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderId(pub u64);

/// Names what stands for a mapping in the policy engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(pub u64);

/// Whom a mapping is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// For whoever the filters admit (MAP).
    Inbound,
    /// Towards one remote end (PEER).
    Outbound(SocketAddr),
}

/// A mapping to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Who asks for it, and where: the owner.
    pub asker: Asker,
    /// It was asked for over NAT-PMP.
    pub nat_pmp: bool,
    /// Whom it is for.
    pub kind: Kind,
    /// The inside host.
    pub host: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// First inside port, 0 for a protocol without ports.
    pub port: u16,
    /// Ports in a row, at least 1; fewer may be given.
    pub size: u16,
    /// External address to use, or any.
    pub address: Option<IpAddr>,
    /// First external port to use, or any.
    pub external_port: Option<u16>,
    /// That external end or none.
    pub strict: bool,
    /// Even to even, odd to odd, if it can be.
    pub parity: bool,
    /// Who may use it; nobody here means everybody.
    pub filters: Vec<Filter>,
    /// Seconds.
    pub lifetime: u32,
    /// To be kept with the rule for [`Kept`].
    pub memo: Vec<u8>,
}

impl Wanted {
    /// One port, to everybody and from any external end, for `lifetime` seconds.
    pub(super) const fn new(asker: Asker, key: &Key, lifetime: u32) -> Self {
        Self {
            asker,
            nat_pmp: false,
            kind: key.kind,
            host: key.host,
            protocol: key.protocol,
            port: key.port,
            size: 1,
            address: None,
            external_port: None,
            strict: false,
            parity: false,
            filters: Vec::new(),
            lifetime,
            memo: Vec::new(),
        }
    }
}

/// Something for the policy engine to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Look what there is for an inside end, beside this server's own rules.
    Look {
        /// Who asks.
        asker: Asker,
        /// The inside host.
        host: IpAddr,
        /// IP protocol number.
        protocol: u8,
        /// Inside port; 0 to learn of the external address alone.
        port: u16,
    },
    /// Make a mapping.
    Open(Wanted),
    /// Give one another lifetime and filters.
    Change {
        /// Which.
        rule: RuleId,
        /// Seconds from now.
        lifetime: u32,
        /// Who may use it; nobody here means everybody.
        filters: Vec<Filter>,
        /// In place of the one before.
        memo: Vec<u8>,
    },
    /// Take one away.
    Close {
        /// Which.
        rule: RuleId,
    },
}

/// What there is for an inside end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// External end of a mapping that this server did not make and hosts may not change.
    pub fixed: Option<SocketAddr>,
    /// External end that outgoing packets made.
    pub outbound: Option<SocketAddr>,
    /// Seconds that outgoing packets keep it, or the server's own mapping, from now on.
    pub remaining: u32,
    /// The host's external address, where it has one.
    pub paired: Option<IpAddr>,
}

/// Why an order was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The external end is another's, or not to be had.
    External,
    /// The inside end has a mapping that this server did not make, and this is its external end.
    Fixed(SocketAddr),
    /// The operator does not allow it.
    Policy,
    /// The subscriber has all it may have.
    Quota,
    /// The box is full.
    Full,
    /// The box cannot do it now.
    Network,
    /// The protocol cannot be mapped.
    Protocol,
    /// There is no such rule any more.
    Gone,
}

/// What came of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Of [`Order::Look`].
    Seen(Seen),
    /// Of [`Order::Open`].
    Opened {
        /// Its name from now on.
        rule: RuleId,
        /// First external end.
        external: SocketAddr,
        /// Ports mapped, at least 1 and at most those wanted.
        size: u16,
    },
    /// Of [`Order::Change`].
    Changed,
    /// Of [`Order::Close`].
    Closed,
    /// Of any of them.
    Refused(Refused),
}

/// A rule that the policy engine still has from before a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its name.
    pub rule: RuleId,
    /// First external end.
    pub external: SocketAddr,
    /// When it ends.
    pub expires: super::Time,
    /// What was given with it.
    pub memo: Vec<u8>,
}

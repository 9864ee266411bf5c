//! What the middlebox sends: positive replies, negative replies, notifications (RFC 4540 sections 5.1 to 5.3).

use crate::attribute::{Attributes, Figure, Kind, MAX_AUTHENTICATION, MAX_OWNER, Writer, present};
use crate::extension::{Extensions, MoreCapabilities, Page};
use crate::message::{Header, basic, encode};
use crate::request::sub_type;
use crate::{Capabilities, EnableParameters, Failure, Location, Malformed, Tuple, Version};

/// So many PIDs fit in a PRL reply (section 8.7; B-AMB-06).
pub const MAX_LISTED: usize = 8191;

/// A message from the middlebox to the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The request was carried out.
    Positive(Reply),
    /// It was not.
    Negative(Refused),
    /// Nobody asked.
    Notification(Notification),
}

/// A positive reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// SE: the session is established.
    Established(Established),
    /// SA: somebody has to authenticate.
    Authenticate {
        /// For the agent.
        challenge: Option<Vec<u8>>,
        /// The answer to the agent's challenge; empty: the middlebox cannot.
        token: Option<Vec<u8>>,
    },
    /// ST.
    Terminated,
    /// PRR.
    Reserved(Reserved),
    /// PER, for PER and PEA.
    Enabled(Enabled),
    /// PDR.
    Disabled {
        /// PID.
        rule: u32,
        /// Seconds.
        lifetime: u32,
    },
    /// PLC.
    LifetimeChanged {
        /// Seconds, above 0.
        lifetime: u32,
    },
    /// PRD.
    Deleted,
    /// PRS of a reserve rule.
    ReserveStatus(Reserved, Vec<u8>),
    /// PES: PRS of an enable rule.
    EnableStatus(EnableStatus),
    /// PDS: PRS of a disable rule.
    DisableStatus {
        /// PID.
        rule: u32,
        /// A0.
        internal: Tuple,
        /// A3.
        external: Tuple,
        /// Seconds left.
        lifetime: u32,
        /// Who created it.
        owner: Vec<u8>,
    },
    /// PRL.
    Rules {
        /// PIDs.
        rules: Vec<u32>,
        /// Where to go on, if there are more; an extension.
        more: Option<Page>,
    },
    /// GLC, an extension.
    GroupLifetimeChanged {
        /// Seconds; 0: deleted.
        lifetime: u32,
    },
    /// GL, an extension: GIDs and owners.
    Groups(Vec<(u32, Vec<u8>)>),
    /// GS, an extension.
    GroupStatus {
        /// Who owns its rules.
        owner: Vec<u8>,
        /// The longest of its members, seconds.
        lifetime: u32,
        /// PIDs.
        rules: Vec<u32>,
    },
}

/// The attributes of an SE reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Established {
    /// What the middlebox can do.
    pub capabilities: Capabilities,
    /// Extensions that are now in use: those offered and known.
    pub extensions: Option<Extensions>,
    /// What else it can do.
    pub more: Option<MoreCapabilities>,
    /// Realms in which the agent may have rules, its default first.
    pub realms: Vec<String>,
}

/// The attributes of a PRR reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// PID.
    pub rule: u32,
    /// GID.
    pub group: u32,
    /// Seconds.
    pub lifetime: u32,
    /// A2.
    pub outside: Tuple,
    /// A1 of a twice-NAT.
    pub inside: Option<Tuple>,
}

/// The attributes of a PER reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enabled {
    /// PID.
    pub rule: u32,
    /// GID.
    pub group: u32,
    /// Seconds.
    pub lifetime: u32,
    /// A2.
    pub outside: Tuple,
    /// A1; the middlebox always sends it, agents do without (B-AMB-05).
    pub inside: Option<Tuple>,
}

/// The attributes of a PES reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnableStatus {
    /// PID.
    pub rule: u32,
    /// GID.
    pub group: u32,
    /// As requested.
    pub parameters: EnableParameters,
    /// A0 as requested.
    pub internal: Tuple,
    /// A1.
    pub inside: Option<Tuple>,
    /// A2.
    pub outside: Tuple,
    /// A3 as requested.
    pub external: Tuple,
    /// Seconds left.
    pub lifetime: u32,
    /// Who created it.
    pub owner: Vec<u8>,
}

/// A negative reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub failure: Failure,
    /// A version that the middlebox supports, with 0x0322 only.
    pub version: Option<Version>,
    /// In words, an extension.
    pub reason: Option<String>,
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        let version = (failure == Failure::VersionMismatch).then_some(Version::V3_0);
        Self { failure, version, reason: None }
    }
}

/// What the middlebox says unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notification {
    /// BFM: a message was badly formed.
    BadlyFormed,
    /// AST: the session is over.
    SessionTerminated {
        /// In words, an extension.
        reason: Option<String>,
    },
    /// ARE: a rule is new, has another lifetime, or has ended.
    Rule {
        /// PID.
        rule: u32,
        /// Seconds left; 0: ended.
        lifetime: u32,
        /// Why, in words, an extension.
        reason: Option<String>,
    },
    /// GEN, an extension: a group has another lifetime or has ended.
    Group {
        /// GID.
        group: u32,
        /// Seconds left; 0: ended.
        lifetime: u32,
    },
    /// PEN, an extension: a rule will end soon.
    Expiring {
        /// PID.
        rule: u32,
        /// Seconds left.
        lifetime: u32,
    },
}

mod notification {
    pub const BFM: u8 = 0x01;
    pub const AST: u8 = 0x02;
    pub const ARE: u8 = 0x03;
    pub const GEN: u8 = 0x10;
    pub const PEN: u8 = 0x11;
}

fn figure(positive: u8) -> Result<Figure, Malformed> {
    let rule = [Kind::Rule, Kind::Group, Kind::Lifetime];
    let figure = match positive {
        sub_type::SE => Figure::new(&[Kind::Capabilities], &[Kind::Extensions, Kind::MoreCapabilities])
            .repeated(&[Kind::Realm]),
        sub_type::SA => Figure::new(&[], &[Kind::Challenge, Kind::Token]),
        sub_type::ST | sub_type::PRD => Figure::new(&[], &[]),
        sub_type::PRR | sub_type::PER => Figure::new(&rule, &[]).tuples(1, 2),
        sub_type::PDR => Figure::new(&[Kind::Rule, Kind::Lifetime], &[]),
        sub_type::PLC | sub_type::GLC => Figure::new(&[Kind::Lifetime], &[]),
        sub_type::PRS => {
            Figure::new(&[Kind::Rule, Kind::Group, Kind::Lifetime, Kind::Owner], &[]).tuples(1, 2)
        }
        sub_type::PES => {
            Figure::new(&[Kind::Rule, Kind::Group, Kind::Lifetime, Kind::Owner, Kind::Enable], &[])
                .tuples(3, 4)
        }
        sub_type::PDS => Figure::new(&[Kind::Rule, Kind::Lifetime, Kind::Owner], &[]).tuples(2, 2),
        sub_type::PRL => Figure::new(&[], &[Kind::Page]).repeated(&[Kind::Rule]),
        sub_type::GL => Figure::new(&[], &[]).repeated(&[Kind::Group, Kind::Owner]),
        sub_type::GS => Figure::new(&[Kind::Owner, Kind::Lifetime], &[]).repeated(&[Kind::Rule]),
        other => return Err(Malformed::SubType(other)),
    };
    Ok(figure.lenient())
}

/// The tuple for a place: by its location, wherever it stands.
fn at(found: &Attributes, location: Location) -> Option<Tuple> {
    found.tuples.iter().flatten().copied().find(|tuple| tuple.location == location)
}

fn outside(found: &Attributes) -> Result<Tuple, Malformed> {
    at(found, Location::Outside).ok_or(Malformed::Missing(Kind::Tuple.code()))
}

impl Reply {
    /// The positive reply of a message with this sub-type and payload.
    ///
    /// # Errors
    /// What is wrong.
    pub fn decode(positive: u8, payload: &[u8]) -> Result<Self, Malformed> {
        let mut found = Attributes::decode(payload, &figure(positive)?)?;
        let lifetime = found.lifetime.ok_or(Malformed::Missing(Kind::Lifetime.code()));
        Ok(match positive {
            sub_type::SE => Self::Established(Established {
                capabilities: present(found.capabilities, Kind::Capabilities)?,
                extensions: found.extensions,
                more: found.more_capabilities,
                realms: found.realms,
            }),
            sub_type::SA if found.challenge.is_none() && found.token.is_none() => {
                return Err(Malformed::Missing(Kind::Challenge.code()));
            }
            sub_type::SA => Self::Authenticate { challenge: found.challenge, token: found.token },
            sub_type::ST => Self::Terminated,
            sub_type::PRR | sub_type::PRS => {
                let reserved = Reserved {
                    rule: found.rule()?,
                    group: found.group()?,
                    lifetime: lifetime?,
                    outside: outside(&found)?,
                    inside: at(&found, Location::Inside),
                };
                match positive {
                    sub_type::PRR => Self::Reserved(reserved),
                    _ => Self::ReserveStatus(reserved, found.owner()?),
                }
            }
            sub_type::PER => Self::Enabled(Enabled {
                rule: found.rule()?,
                group: found.group()?,
                lifetime: lifetime?,
                outside: outside(&found)?,
                inside: at(&found, Location::Inside),
            }),
            sub_type::PDR => Self::Disabled { rule: found.rule()?, lifetime: lifetime? },
            sub_type::PLC => Self::LifetimeChanged { lifetime: lifetime? },
            sub_type::PRD => Self::Deleted,
            sub_type::PES => Self::EnableStatus(EnableStatus {
                rule: found.rule()?,
                group: found.group()?,
                parameters: present(found.enable, Kind::Enable)?,
                internal: present(at(&found, Location::Internal), Kind::Tuple)?,
                inside: at(&found, Location::Inside),
                outside: outside(&found)?,
                external: present(at(&found, Location::External), Kind::Tuple)?,
                lifetime: lifetime?,
                owner: found.owner()?,
            }),
            sub_type::PDS => Self::DisableStatus {
                rule: found.rule()?,
                internal: found.tuple(0)?,
                external: found.tuple(1)?,
                lifetime: lifetime?,
                owner: found.owner()?,
            },
            sub_type::PRL => Self::Rules { rules: found.rules, more: found.page },
            sub_type::GLC => Self::GroupLifetimeChanged { lifetime: lifetime? },
            sub_type::GL if found.groups.len() != found.owners.len() => {
                return Err(Malformed::Missing(Kind::Owner.code()));
            }
            sub_type::GL => Self::Groups(found.groups.into_iter().zip(found.owners).collect()),
            sub_type::GS => {
                Self::GroupStatus { owner: found.owner()?, lifetime: lifetime?, rules: found.rules }
            }
            other => return Err(Malformed::SubType(other)),
        })
    }

    fn sub_type(&self) -> u8 {
        match self {
            Self::Established(_) => sub_type::SE,
            Self::Authenticate { .. } => sub_type::SA,
            Self::Terminated => sub_type::ST,
            Self::Reserved(_) => sub_type::PRR,
            Self::Enabled(_) => sub_type::PER,
            Self::Disabled { .. } => sub_type::PDR,
            Self::LifetimeChanged { .. } => sub_type::PLC,
            Self::Deleted => sub_type::PRD,
            Self::ReserveStatus(..) => sub_type::PRS,
            Self::EnableStatus(_) => sub_type::PES,
            Self::DisableStatus { .. } => sub_type::PDS,
            Self::Rules { .. } => sub_type::PRL,
            Self::GroupLifetimeChanged { .. } => sub_type::GLC,
            Self::Groups(_) => sub_type::GL,
            Self::GroupStatus { .. } => sub_type::GS,
        }
    }

    fn write(&self, writer: &mut Writer<'_>) {
        match self {
            Self::Established(established) => established.write(writer),
            Self::Authenticate { challenge, token } => {
                if let Some(challenge) = challenge {
                    writer.octets(Kind::Challenge, challenge, MAX_AUTHENTICATION);
                }
                if let Some(token) = token {
                    writer.octets(Kind::Token, token, MAX_AUTHENTICATION);
                }
            }
            Self::Terminated | Self::Deleted => {}
            Self::Reserved(reserved) => reserved.write(writer),
            Self::Enabled(enabled) => {
                rule(writer, enabled.rule, enabled.group, enabled.lifetime);
                tuples(writer, [Some(&enabled.outside), enabled.inside.as_ref()]);
            }
            Self::Disabled { rule, lifetime } => {
                writer.number(Kind::Rule, *rule);
                writer.number(Kind::Lifetime, *lifetime);
            }
            Self::LifetimeChanged { lifetime } | Self::GroupLifetimeChanged { lifetime } => {
                writer.number(Kind::Lifetime, *lifetime);
            }
            Self::ReserveStatus(reserved, owner) => {
                reserved.write(writer);
                writer.octets(Kind::Owner, owner, MAX_OWNER);
            }
            Self::EnableStatus(status) => {
                writer.number(Kind::Rule, status.rule);
                writer.number(Kind::Group, status.group);
                writer.enable(status.parameters);
                tuples(
                    writer,
                    [
                        Some(&status.internal),
                        status.inside.as_ref(),
                        Some(&status.outside),
                        Some(&status.external),
                    ],
                );
                writer.number(Kind::Lifetime, status.lifetime);
                writer.octets(Kind::Owner, &status.owner, MAX_OWNER);
            }
            Self::DisableStatus { rule, internal, external, lifetime, owner } => {
                writer.number(Kind::Rule, *rule);
                tuples(writer, [Some(internal), Some(external)]);
                writer.number(Kind::Lifetime, *lifetime);
                writer.octets(Kind::Owner, owner, MAX_OWNER);
            }
            Self::Rules { rules, more } => {
                for rule in rules {
                    writer.number(Kind::Rule, *rule);
                }
                if let Some(page) = more {
                    writer.page(*page);
                }
            }
            Self::Groups(groups) => {
                for (group, owner) in groups {
                    writer.number(Kind::Group, *group);
                    writer.octets(Kind::Owner, owner, MAX_OWNER);
                }
            }
            Self::GroupStatus { owner, lifetime, rules } => {
                writer.octets(Kind::Owner, owner, MAX_OWNER);
                writer.number(Kind::Lifetime, *lifetime);
                for rule in rules {
                    writer.number(Kind::Rule, *rule);
                }
            }
        }
    }
}

fn rule(writer: &mut Writer<'_>, rule: u32, group: u32, lifetime: u32) {
    writer.number(Kind::Rule, rule);
    writer.number(Kind::Group, group);
    writer.number(Kind::Lifetime, lifetime);
}

fn tuples<const N: usize>(writer: &mut Writer<'_>, tuples: [Option<&Tuple>; N]) {
    for tuple in tuples.into_iter().flatten() {
        writer.tuple(tuple);
    }
}

impl Established {
    fn write(&self, writer: &mut Writer<'_>) {
        writer.capabilities(&self.capabilities);
        if let Some(extensions) = self.extensions {
            writer.number(Kind::Extensions, extensions.0);
        }
        if let Some(more) = self.more {
            writer.more_capabilities(more);
        }
        for realm in &self.realms {
            writer.text(Kind::Realm, realm);
        }
    }
}

impl Reserved {
    fn write(&self, writer: &mut Writer<'_>) {
        rule(writer, self.rule, self.group, self.lifetime);
        tuples(writer, [Some(&self.outside), self.inside.as_ref()]);
    }
}

impl Notification {
    fn decode(sub_type: u8, payload: &[u8]) -> Result<Self, Malformed> {
        let rule = [Kind::Rule, Kind::Lifetime];
        let figure = match sub_type {
            notification::BFM => Figure::new(&[], &[]),
            notification::AST => Figure::new(&[], &[Kind::Reason]),
            notification::ARE => Figure::new(&rule, &[Kind::Reason]),
            notification::GEN => Figure::new(&[Kind::Group, Kind::Lifetime], &[]),
            notification::PEN => Figure::new(&rule, &[]),
            other => return Err(Malformed::SubType(other)),
        };
        let found = Attributes::decode(payload, &figure.lenient())?;
        let lifetime = found.lifetime.ok_or(Malformed::Missing(Kind::Lifetime.code()));
        Ok(match sub_type {
            notification::BFM => Self::BadlyFormed,
            notification::AST => Self::SessionTerminated { reason: found.reason },
            notification::ARE => {
                Self::Rule { rule: found.rule()?, lifetime: lifetime?, reason: found.reason }
            }
            notification::GEN => Self::Group { group: found.group()?, lifetime: lifetime? },
            _ => Self::Expiring { rule: found.rule()?, lifetime: lifetime? },
        })
    }

    fn sub_type(&self) -> u8 {
        match self {
            Self::BadlyFormed => notification::BFM,
            Self::SessionTerminated { .. } => notification::AST,
            Self::Rule { .. } => notification::ARE,
            Self::Group { .. } => notification::GEN,
            Self::Expiring { .. } => notification::PEN,
        }
    }

    fn write(&self, writer: &mut Writer<'_>) {
        match self {
            Self::BadlyFormed => {}
            Self::SessionTerminated { reason } => write_reason(writer, reason.as_deref()),
            Self::Rule { rule, lifetime, reason } => {
                writer.number(Kind::Rule, *rule);
                writer.number(Kind::Lifetime, *lifetime);
                write_reason(writer, reason.as_deref());
            }
            Self::Group { group, lifetime } => {
                writer.number(Kind::Group, *group);
                writer.number(Kind::Lifetime, *lifetime);
            }
            Self::Expiring { rule, lifetime } => {
                writer.number(Kind::Rule, *rule);
                writer.number(Kind::Lifetime, *lifetime);
            }
        }
    }
}

fn write_reason(writer: &mut Writer<'_>, reason: Option<&str>) {
    if let Some(reason) = reason {
        writer.text(Kind::Reason, reason);
    }
}

impl Outcome {
    /// The middlebox's message with this header and payload. Attributes from 0x8000 on that are not known are
    /// passed over.
    ///
    /// # Errors
    /// What is wrong.
    pub fn decode(header: &Header, payload: &[u8]) -> Result<Self, Malformed> {
        match header.basic {
            basic::POSITIVE => Reply::decode(header.sub_type, payload).map(Self::Positive),
            basic::NEGATIVE => {
                let failure =
                    Failure::from_code(header.sub_type).ok_or(Malformed::SubType(header.sub_type))?;
                let figure = Figure::new(&[], &[Kind::Version, Kind::Reason]).lenient();
                let found = Attributes::decode(payload, &figure)?;
                Ok(Self::Negative(Refused { failure, version: found.version, reason: found.reason }))
            }
            basic::NOTIFICATION => Notification::decode(header.sub_type, payload).map(Self::Notification),
            _ => Err(Malformed::Undefined("basic message type")),
        }
    }

    /// The message of these octets and its TID.
    ///
    /// # Errors
    /// What is wrong.
    pub fn from_octets(octets: &[u8]) -> Result<(u32, Self), Malformed> {
        let header = Header::decode(octets).ok_or(Malformed::Short)?;
        let (_, payload) = octets.split_at_checked(crate::message::HEADER).ok_or(Malformed::Short)?;
        if payload.len() < usize::from(header.length) {
            return Err(Malformed::Short);
        }
        if payload.len() > usize::from(header.length) {
            return Err(Malformed::Long);
        }
        Ok((header.tid, Self::decode(&header, payload)?))
    }

    /// Appends the message to `out`, attributes in the order of the figures.
    ///
    /// # Errors
    /// If it is too big; `out` is then as it was.
    pub fn encode(&self, tid: u32, out: &mut Vec<u8>) -> Result<(), Malformed> {
        match self {
            Self::Positive(reply) => {
                encode(out, basic::POSITIVE, reply.sub_type(), tid, |writer| reply.write(writer))
            }
            Self::Negative(refused) => encode(out, basic::NEGATIVE, refused.failure.code(), tid, |writer| {
                if let Some(version) = refused.version {
                    writer.version(version);
                }
                write_reason(writer, refused.reason.as_deref());
            }),
            Self::Notification(notification) => {
                encode(out, basic::NOTIFICATION, notification.sub_type(), tid, |writer| {
                    notification.write(writer);
                })
            }
        }
    }
}

//! Requests: from the agent to the middlebox (RFC 4540 sections 5.2 and 5.3).

use crate::attribute::{Attributes, Figure, Kind, MAX_AUTHENTICATION, Writer, present};
use crate::extension::{Behaviour, Extensions, Interfaces, Page, WantedOutside};
use crate::message::{Header, basic, encode};
use crate::{EnableParameters, Failure, Malformed, ReserveParameters, Tuple, Version};

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// SE: session establishment.
    Establish(Establish),
    /// SA: session authentication.
    Authenticate {
        /// Answers the middlebox's challenge.
        token: Option<Vec<u8>>,
    },
    /// ST: session termination.
    Terminate,
    /// What a session is for.
    Rule(RuleRequest),
}

/// The attributes of SE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Establish {
    /// The agent's version of SIMCO.
    pub version: Version,
    /// Asks the middlebox to authenticate itself.
    pub challenge: Option<Vec<u8>>,
    /// Extensions that the agent understands.
    pub extensions: Option<Extensions>,
}

/// A request that the policy engine answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleRequest {
    /// PRR.
    Reserve(Reserve),
    /// PER.
    Enable(Enable),
    /// PEA.
    EnableReserved(EnableReserved),
    /// PDR.
    Disable {
        /// A0.
        internal: Tuple,
        /// A3.
        external: Tuple,
        /// Seconds.
        lifetime: u32,
    },
    /// PLC.
    ChangeLifetime {
        /// PID.
        rule: u32,
        /// Seconds; 0 deletes.
        lifetime: u32,
    },
    /// PRS.
    RuleStatus {
        /// PID.
        rule: u32,
    },
    /// PRL.
    RuleList {
        /// Which of them.
        page: Option<Page>,
    },
    /// GLC, an extension.
    ChangeGroupLifetime {
        /// GID.
        group: u32,
        /// Seconds; 0 deletes.
        lifetime: u32,
    },
    /// GL, an extension.
    GroupList,
    /// GS, an extension.
    GroupStatus {
        /// GID.
        group: u32,
    },
}

/// Extensions that PRR, PER and PEA have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// The realm of the internal address.
    pub realm: Option<String>,
    /// How the pinhole behaves.
    pub behaviour: Option<Behaviour>,
    /// Authorizes this request.
    pub token: Option<Vec<u8>>,
    /// Where it is.
    pub interfaces: Option<Interfaces>,
    /// Which outside tuple the agent would like.
    pub outside: Option<WantedOutside>,
}

/// The attributes of PRR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// What to reserve.
    pub parameters: ReserveParameters,
    /// Seconds.
    pub lifetime: u32,
    /// The group it joins.
    pub group: Option<u32>,
    /// A0, an extension.
    pub internal: Option<Tuple>,
    /// Other extensions.
    pub extras: Extras,
}

/// The attributes of PER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enable {
    /// Parity and direction.
    pub parameters: EnableParameters,
    /// A0, the first tuple.
    pub internal: Tuple,
    /// A3, the second tuple.
    pub external: Tuple,
    /// Seconds.
    pub lifetime: u32,
    /// The group it joins.
    pub group: Option<u32>,
    /// Extensions.
    pub extras: Extras,
}

/// The attributes of PEA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnableReserved {
    /// Parity and direction.
    pub parameters: EnableParameters,
    /// A0, the first tuple.
    pub internal: Tuple,
    /// A3, the second tuple.
    pub external: Tuple,
    /// Seconds.
    pub lifetime: u32,
    /// PID of the reserve rule.
    pub rule: u32,
    /// Extensions.
    pub extras: Extras,
}

/// The sub-types of requests and positive replies (section 4.2.2, and the extensions').
pub(crate) mod sub_type {
    pub const SE: u8 = 0x01;
    pub const SA: u8 = 0x02;
    pub const ST: u8 = 0x03;
    pub const PRR: u8 = 0x11;
    pub const PER: u8 = 0x12;
    pub const PEA: u8 = 0x13;
    pub const PDR: u8 = 0x14;
    pub const PLC: u8 = 0x15;
    pub const PRD: u8 = 0x16;
    pub const PRS: u8 = 0x21;
    pub const PRL: u8 = 0x22;
    pub const PES: u8 = 0x23;
    pub const PDS: u8 = 0x24;
    pub const GLC: u8 = 0x41;
    pub const GL: u8 = 0x42;
    pub const GS: u8 = 0x43;
}

/// True if a request may have this sub-type: PRD, PES and PDS are replies only (B-AMB-01).
pub(crate) fn known(sub_type: u8, granted: Extensions) -> bool {
    match sub_type {
        sub_type::SE..=sub_type::ST | sub_type::PRR..=sub_type::PLC | sub_type::PRS | sub_type::PRL => true,
        sub_type::GLC..=sub_type::GS => granted.has(Extensions::GROUPS),
        _ => false,
    }
}

/// Attributes of the extensions that all requests for a rule may have.
const EXTRAS: [Kind; 5] =
    [Kind::Realm, Kind::Behaviour, Kind::RuleToken, Kind::Interfaces, Kind::WantedOutside];

fn with_extras(optional: &[Kind]) -> Vec<Kind> {
    optional.iter().copied().chain(EXTRAS).collect()
}

fn figure(sub_type: u8) -> Result<Figure, Malformed> {
    Ok(match sub_type {
        sub_type::SE => Figure::new(&[Kind::Version], &[Kind::Challenge, Kind::Extensions]),
        sub_type::SA => Figure::new(&[], &[Kind::Token]),
        sub_type::ST | sub_type::GL => Figure::new(&[], &[]),
        sub_type::PRR => {
            Figure::new(&[Kind::Reserve, Kind::Lifetime], &with_extras(&[Kind::Group, Kind::InternalTuple]))
        }
        sub_type::PER => {
            Figure::new(&[Kind::Enable, Kind::Lifetime], &with_extras(&[Kind::Group])).tuples(2, 2)
        }
        sub_type::PEA => {
            Figure::new(&[Kind::Enable, Kind::Lifetime, Kind::Rule], &with_extras(&[])).tuples(2, 2)
        }
        sub_type::PDR => Figure::new(&[Kind::Lifetime], &[]).tuples(2, 2),
        sub_type::PLC => Figure::new(&[Kind::Rule, Kind::Lifetime], &[]),
        sub_type::PRS => Figure::new(&[Kind::Rule], &[]),
        sub_type::PRL => Figure::new(&[], &[Kind::Page]),
        sub_type::GLC => Figure::new(&[Kind::Group, Kind::Lifetime], &[]),
        sub_type::GS => Figure::new(&[Kind::Group], &[]),
        other => return Err(Malformed::SubType(other)),
    })
}

impl Attributes {
    fn extras(&mut self) -> Extras {
        Extras {
            realm: self.realms.pop(),
            behaviour: self.behaviour.take(),
            token: self.rule_token.take(),
            interfaces: self.interfaces.take(),
            outside: self.wanted_outside.take(),
        }
    }
}

impl Request {
    /// The request of a message whose header and payload these are; attributes of extensions that are not
    /// `granted` are refused like unknown ones, but for the offer itself.
    ///
    /// # Errors
    /// What is wrong; [`Failure::from`] says what to answer.
    pub fn decode(sub_type: u8, payload: &[u8], granted: Extensions) -> Result<Self, Malformed> {
        if !known(sub_type, granted) {
            return Err(Malformed::SubType(sub_type));
        }
        let mut found = Attributes::decode(payload, &figure(sub_type)?.granted(granted))?;
        let rule = match sub_type {
            sub_type::SE => {
                return Ok(Self::Establish(Establish {
                    version: present(found.version, Kind::Version)?,
                    challenge: found.challenge,
                    extensions: found.extensions,
                }));
            }
            sub_type::SA => return Ok(Self::Authenticate { token: found.token }),
            sub_type::ST => return Ok(Self::Terminate),
            sub_type::PRR => RuleRequest::Reserve(Reserve {
                parameters: present(found.reserve, Kind::Reserve)?,
                lifetime: present(found.lifetime, Kind::Lifetime)?,
                group: found.groups.first().copied(),
                internal: found.internal_tuple,
                extras: found.extras(),
            }),
            sub_type::PER => RuleRequest::Enable(Enable {
                parameters: present(found.enable, Kind::Enable)?,
                internal: found.tuple(0)?,
                external: found.tuple(1)?,
                lifetime: present(found.lifetime, Kind::Lifetime)?,
                group: found.groups.first().copied(),
                extras: found.extras(),
            }),
            sub_type::PEA => RuleRequest::EnableReserved(EnableReserved {
                parameters: present(found.enable, Kind::Enable)?,
                internal: found.tuple(0)?,
                external: found.tuple(1)?,
                lifetime: present(found.lifetime, Kind::Lifetime)?,
                rule: found.rule()?,
                extras: found.extras(),
            }),
            sub_type::PDR => RuleRequest::Disable {
                internal: found.tuple(0)?,
                external: found.tuple(1)?,
                lifetime: present(found.lifetime, Kind::Lifetime)?,
            },
            sub_type::PLC => RuleRequest::ChangeLifetime {
                rule: found.rule()?,
                lifetime: present(found.lifetime, Kind::Lifetime)?,
            },
            sub_type::PRS => RuleRequest::RuleStatus { rule: found.rule()? },
            sub_type::PRL => RuleRequest::RuleList { page: found.page },
            sub_type::GLC => RuleRequest::ChangeGroupLifetime {
                group: found.group()?,
                lifetime: present(found.lifetime, Kind::Lifetime)?,
            },
            sub_type::GL => RuleRequest::GroupList,
            sub_type::GS => RuleRequest::GroupStatus { group: found.group()? },
            other => return Err(Malformed::SubType(other)),
        };
        Ok(Self::Rule(rule))
    }

    /// The request of one whole message, and its TID.
    ///
    /// # Errors
    /// The code of the negative reply.
    pub fn from_octets(octets: &[u8], granted: Extensions) -> Result<(u32, Self), Failure> {
        let header = Header::decode(octets).ok_or(Failure::BadlyFormed)?;
        if header.basic != basic::REQUEST {
            return Err(Failure::WrongBasicType);
        }
        let (_, payload) = octets.split_at_checked(crate::message::HEADER).ok_or(Failure::BadlyFormed)?;
        if payload.len() != usize::from(header.length) {
            return Err(Failure::BadlyFormed);
        }
        Ok((header.tid, Self::decode(header.sub_type, payload, granted)?))
    }

    /// The sub-type of the message.
    #[must_use]
    pub fn sub_type(&self) -> u8 {
        match self {
            Self::Establish(_) => sub_type::SE,
            Self::Authenticate { .. } => sub_type::SA,
            Self::Terminate => sub_type::ST,
            Self::Rule(rule) => rule.sub_type(),
        }
    }

    /// Appends the message to `out`, attributes in the order of the figures.
    ///
    /// # Errors
    /// If it is too big; `out` is then as it was.
    pub fn encode(&self, tid: u32, out: &mut Vec<u8>) -> Result<(), Malformed> {
        encode(out, basic::REQUEST, self.sub_type(), tid, |writer| match self {
            Self::Establish(establish) => {
                writer.version(establish.version);
                if let Some(challenge) = &establish.challenge {
                    writer.octets(Kind::Challenge, challenge, MAX_AUTHENTICATION);
                }
                if let Some(extensions) = establish.extensions {
                    writer.number(Kind::Extensions, extensions.0);
                }
            }
            Self::Authenticate { token } => {
                if let Some(token) = token {
                    writer.octets(Kind::Token, token, MAX_AUTHENTICATION);
                }
            }
            Self::Terminate => {}
            Self::Rule(rule) => rule.write(writer),
        })
    }
}

impl RuleRequest {
    /// The sub-type of the message.
    #[must_use]
    pub fn sub_type(&self) -> u8 {
        match self {
            Self::Reserve(_) => sub_type::PRR,
            Self::Enable(_) => sub_type::PER,
            Self::EnableReserved(_) => sub_type::PEA,
            Self::Disable { .. } => sub_type::PDR,
            Self::ChangeLifetime { .. } => sub_type::PLC,
            Self::RuleStatus { .. } => sub_type::PRS,
            Self::RuleList { .. } => sub_type::PRL,
            Self::ChangeGroupLifetime { .. } => sub_type::GLC,
            Self::GroupList => sub_type::GL,
            Self::GroupStatus { .. } => sub_type::GS,
        }
    }

    /// The transaction's name in RFC 5189 and RFC 4540.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Reserve(_) => "PRR",
            Self::Enable(_) => "PER",
            Self::EnableReserved(_) => "PEA",
            Self::Disable { .. } => "PDR",
            Self::ChangeLifetime { .. } => "PLC",
            Self::RuleStatus { .. } => "PRS",
            Self::RuleList { .. } => "PRL",
            Self::ChangeGroupLifetime { .. } => "GLC",
            Self::GroupList => "GL",
            Self::GroupStatus { .. } => "GS",
        }
    }

    fn write(&self, writer: &mut Writer<'_>) {
        match self {
            Self::Reserve(reserve) => {
                writer.reserve(&reserve.parameters);
                writer.number(Kind::Lifetime, reserve.lifetime);
                if let Some(group) = reserve.group {
                    writer.number(Kind::Group, group);
                }
                if let Some(internal) = &reserve.internal {
                    writer.internal_tuple(internal);
                }
                reserve.extras.write(writer);
            }
            Self::Enable(enable) => {
                writer.enable(enable.parameters);
                writer.tuple(&enable.internal);
                writer.tuple(&enable.external);
                writer.number(Kind::Lifetime, enable.lifetime);
                if let Some(group) = enable.group {
                    writer.number(Kind::Group, group);
                }
                enable.extras.write(writer);
            }
            Self::EnableReserved(enable) => {
                writer.enable(enable.parameters);
                writer.tuple(&enable.internal);
                writer.tuple(&enable.external);
                writer.number(Kind::Lifetime, enable.lifetime);
                writer.number(Kind::Rule, enable.rule);
                enable.extras.write(writer);
            }
            Self::Disable { internal, external, lifetime } => {
                writer.tuple(internal);
                writer.tuple(external);
                writer.number(Kind::Lifetime, *lifetime);
            }
            Self::ChangeLifetime { rule, lifetime } => {
                writer.number(Kind::Rule, *rule);
                writer.number(Kind::Lifetime, *lifetime);
            }
            Self::RuleStatus { rule } => writer.number(Kind::Rule, *rule),
            Self::RuleList { page } => {
                if let Some(page) = page {
                    writer.page(*page);
                }
            }
            Self::ChangeGroupLifetime { group, lifetime } => {
                writer.number(Kind::Group, *group);
                writer.number(Kind::Lifetime, *lifetime);
            }
            Self::GroupList => {}
            Self::GroupStatus { group } => writer.number(Kind::Group, *group),
        }
    }
}

impl Extras {
    fn write(&self, writer: &mut Writer<'_>) {
        if let Some(realm) = &self.realm {
            writer.text(Kind::Realm, realm);
        }
        if let Some(outside) = &self.outside {
            writer.wanted_outside(outside);
        }
        if let Some(behaviour) = self.behaviour {
            writer.behaviour(behaviour);
        }
        if let Some(token) = &self.token {
            writer.octets(Kind::RuleToken, token, MAX_AUTHENTICATION);
        }
        if let Some(interfaces) = &self.interfaces {
            writer.interfaces(interfaces);
        }
    }
}

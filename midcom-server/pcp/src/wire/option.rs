//! Options (RFC 6887 sections 7.3 and 13, RFC 7753 section 4).

use super::bytes::{Reader, field};
use super::{OptionCode, ResultCode};
use std::net::IpAddr;

/// Who may use a mapping (RFC 6887 section 13.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Filter {
    /// Prefix length as it was sent: of the 128 bits. 0 takes all filters away.
    pub length: u8,
    /// The remote port, 0 for all of them.
    pub port: u16,
    /// The remote address, with the bits behind the prefix as they were sent.
    pub address: IpAddr,
}

impl Filter {
    /// Prefix length in the address family's own terms; `None` if the family has no such length. EID 3891 leaves
    /// 96 (any IPv4 host) to be read as it is written.
    #[must_use]
    pub fn prefix_length(&self) -> Option<u8> {
        match self.address {
            IpAddr::V4(_) => self.length.checked_sub(96).filter(|&length| length <= 32),
            IpAddr::V6(_) => Some(self.length).filter(|&length| length <= 128),
        }
    }

    /// Whether it takes all filters away; address and port say nothing then.
    #[must_use]
    pub const fn clears(&self) -> bool {
        self.length == 0
    }
}

/// A set of ports (RFC 7753 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortSet {
    /// How many.
    pub size: u16,
    /// The first inside port.
    pub first: u16,
    /// An even port is to be mapped to an even one, an odd one to an odd one.
    pub parity: bool,
}

/// An option that is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PcpOption {
    /// The mapping is another host's.
    ThirdParty(IpAddr),
    /// The suggested external end or none.
    PreferFailure,
    /// Who may use the mapping.
    Filter(Filter),
    /// More than one port.
    PortSet(PortSet),
}

impl PcpOption {
    /// Reads the data of the option `code`: `None` if it is not known here.
    pub(super) fn read(code: OptionCode, data: &[u8]) -> Option<Result<Self, ResultCode>> {
        let mut data = Reader::new(data);
        let read = match code {
            OptionCode::THIRD_PARTY => data.address().map(Self::ThirdParty),
            OptionCode::PREFER_FAILURE => Some(Self::PreferFailure),
            OptionCode::FILTER => filter(&mut data).map(Self::Filter),
            OptionCode::PORT_SET => port_set(&mut data).map(Self::PortSet),
            _ => return None,
        };
        Some(read.filter(|_| data.rest().is_empty()).ok_or(ResultCode::MalformedOption))
    }

    /// Its code.
    #[must_use]
    pub const fn code(&self) -> OptionCode {
        match self {
            Self::ThirdParty(_) => OptionCode::THIRD_PARTY,
            Self::PreferFailure => OptionCode::PREFER_FAILURE,
            Self::Filter(_) => OptionCode::FILTER,
            Self::PortSet(_) => OptionCode::PORT_SET,
        }
    }

    /// Appends it to a message.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut data = Vec::with_capacity(20);
        match self {
            Self::ThirdParty(address) => data.extend(field(*address)),
            Self::PreferFailure => {}
            Self::Filter(filter) => {
                data.extend([0, filter.length]);
                data.extend(filter.port.to_be_bytes());
                data.extend(field(filter.address));
            }
            Self::PortSet(set) => {
                data.extend(set.size.to_be_bytes());
                data.extend(set.first.to_be_bytes());
                data.push(u8::from(set.parity));
            }
        }
        out.extend([self.code().0, 0]);
        out.extend((data.len() as u16).to_be_bytes());
        out.extend(&data);
        out.resize(out.len().next_multiple_of(4), 0);
    }
}

fn filter(data: &mut Reader<'_>) -> Option<Filter> {
    let _reserved = data.u8()?;
    Some(Filter { length: data.u8()?, port: data.u16()?, address: data.address()? })
}

fn port_set(data: &mut Reader<'_>) -> Option<PortSet> {
    Some(PortSet { size: data.u16()?, first: data.u16()?, parity: data.u8()? & 1 == 1 })
}

/// The options of a request, in order: those understood, and the fault that ends the list. The structure of all
/// of them is looked at before any of them.
pub(super) fn read_all(bytes: &[u8]) -> (Vec<PcpOption>, Option<ResultCode>) {
    let mut found = Vec::new();
    let mut rest = Reader::new(bytes);
    while !rest.rest().is_empty() {
        let Some((code, data)) = next(&mut rest) else {
            return (Vec::new(), Some(ResultCode::MalformedOption));
        };
        found.push((code, data));
    }
    let mut options: Vec<PcpOption> = Vec::new();
    for (code, data) in found {
        match PcpOption::read(code, data) {
            Some(Ok(option)) => {
                let once = !matches!(option, PcpOption::Filter(_));
                if once && options.iter().any(|other| other.code() == code) {
                    return (options, Some(ResultCode::MalformedOption));
                }
                options.push(option);
            }
            Some(Err(fault)) => return (options, Some(fault)),
            None if code.is_mandatory() => return (options, Some(ResultCode::UnsuppOption)),
            None => {}
        }
    }
    (options, None)
}

fn next<'a>(rest: &mut Reader<'a>) -> Option<(OptionCode, &'a [u8])> {
    let code = OptionCode(rest.u8()?);
    let _reserved = rest.u8()?;
    let length = usize::from(rest.u16()?);
    let data = rest.take(length)?;
    rest.take(length.next_multiple_of(4) - length)?;
    Some((code, data))
}

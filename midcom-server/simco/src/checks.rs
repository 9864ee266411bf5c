//! What the middlebox checks of the tuples of PER, PEA and PDR, in the order of RFC 4540 section 8.3.1. Whether
//! the agent may do it at all is asked before (0x0341 to 0x0346), what it costs after.

use crate::tuple::has_ports;
use crate::{Capabilities, Direction, Ends, Failure, IpVersion, Location, ReserveParameters, Tuple};
use std::net::IpAddr;

/// The tuples of a PER or PEA request.
///
/// # Errors
/// The code of the negative reply.
pub fn enable(
    internal: &Tuple,
    external: &Tuple,
    direction: Direction,
    middlebox: &Capabilities,
) -> Result<(), Failure> {
    tuples(internal, external, middlebox)?;
    let wild = [internal.wildcards(), external.wildcards()];
    // Section 8.3.1, and for PEA too (B-AMB-10): "then only transport protocol wildcarding is allowed". A
    // wildcarded protocol implies all ports, which is no other kind of wildcard.
    let other = wild.iter().any(|wild| wild.address || wild.port);
    if direction == Direction::Bidirectional && other {
        return Err(Failure::Inconsistent);
    }
    values(internal, middlebox.internal_versions.has(internal.version()))?;
    values(external, middlebox.external_versions.has(external.version()))
}

/// The tuples of a PDR request: as PER, but there is no direction (section 8.8.2).
///
/// # Errors
/// The code of the negative reply.
pub fn disable(internal: &Tuple, external: &Tuple, middlebox: &Capabilities) -> Result<(), Failure> {
    tuples(internal, external, middlebox)
}

fn tuples(internal: &Tuple, external: &Tuple, middlebox: &Capabilities) -> Result<(), Failure> {
    if internal.location != Location::Internal || external.location != Location::External {
        return Err(Failure::Inconsistent);
    }
    if internal.protocol != external.protocol {
        return Err(Failure::Inconsistent);
    }
    if let (Some(inside), Some(outside)) = (range(internal), range(external))
        && inside != outside
    {
        return Err(Failure::Inconsistent);
    }
    let supported = |tuple: &Tuple, addresses: bool| {
        let wild = tuple.wildcards();
        (addresses || !wild.address) && (middlebox.port_wildcard || !wild.port)
    };
    if supported(internal, middlebox.internal_wildcard) && supported(external, middlebox.external_wildcard) {
        Ok(())
    } else {
        Err(Failure::Wildcarding)
    }
}

/// The port range if it is relevant: not for protocols without ports (B-AMB-11), nor when every port is meant,
/// be it by port 0 or by range 0xFFFF (B-AMB-12).
fn range(tuple: &Tuple) -> Option<u16> {
    match tuple.ends {
        Ends::Full { port, range, .. }
            if has_ports(tuple.protocol) && port != 0 && range != ReserveParameters::ALL_PORTS =>
        {
            Some(range)
        }
        _ => None,
    }
}

/// The codes that RFC 4540 defines and never uses, as section B.1 of the requirements assigns them.
fn values(tuple: &Tuple, version_known: bool) -> Result<(), Failure> {
    if !version_known {
        return Err(Failure::IpVersion);
    }
    let Ends::Full { address, prefix, port, range } = tuple.ends else { return Ok(()) };
    if !host_part_is_zero(address, prefix) {
        return Err(Failure::IllegalAddress);
    }
    let whole = prefix == IpVersion::of(address).bits();
    if whole
        && (address.is_unspecified() || address.is_multicast() || address.is_loopback() || broadcast(address))
    {
        return Err(Failure::IllegalAddress);
    }
    if has_ports(tuple.protocol) && port != 0 {
        if range == 0 {
            return Err(Failure::IllegalRange);
        }
        if range != ReserveParameters::ALL_PORTS && u32::from(port) + u32::from(range) > 0x1_0000 {
            return Err(Failure::IllegalPort);
        }
    }
    Ok(())
}

fn broadcast(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address.is_broadcast())
}

fn host_part_is_zero(address: IpAddr, prefix: u8) -> bool {
    match address {
        IpAddr::V4(address) => u32::from(address).checked_shl(u32::from(prefix)).unwrap_or(0) == 0,
        IpAddr::V6(address) => u128::from(address).checked_shl(u32::from(prefix)).unwrap_or(0) == 0,
    }
}

/// The parameter set of a PRR request, in the order of sections 8.2.1 and 8.2.3.
///
/// # Errors
/// The code of the negative reply.
pub fn reserve(parameters: &ReserveParameters, middlebox: &Capabilities) -> Result<(), Failure> {
    let inside = parameters.inside.is_none_or(|version| middlebox.internal_versions.has(version));
    let outside = parameters.outside.is_none_or(|version| middlebox.external_versions.has(version));
    if !inside || !outside {
        return Err(Failure::IpVersion);
    }
    // A range is meant for protocols with ports only.
    if parameters.range == 0 && has_ports(parameters.protocol) {
        return Err(Failure::IllegalRange);
    }
    Ok(())
}

//! What the policy engine keeps with a rule for this server.

use super::table::{Dialect, Key, Mapping};
use super::{Kind, Place};
use crate::wire::{Filter, Reader, address, field};
use std::net::SocketAddr;

const VERSION: u8 = 1;
const OUTBOUND: u8 = 1;
const NAT_PMP: u8 = 2;
const NONCE: u8 = 4;
const THIRD_PARTY: u8 = 8;
const PREFER_FAILURE: u8 = 16;

/// Most filters a memo has room for: the policy engine keeps 255 bytes.
pub(super) const MOST_FILTERS: usize = 8;

/// Everything of a mapping that the rule itself does not say.
pub(super) fn write(key: &Key, mapping: &Mapping) -> Vec<u8> {
    let mut bytes = vec![VERSION, 0];
    let mut flags = 0;
    bytes.extend(field(key.host));
    bytes.push(key.protocol);
    bytes.extend(key.port.to_be_bytes());
    bytes.extend(mapping.size.to_be_bytes());
    bytes.extend(mapping.asker.place.interface.to_be_bytes());
    bytes.extend(field(mapping.asker.place.address));
    end(&mut bytes, mapping.asker.to);
    if let Kind::Outbound(remote) = key.kind {
        flags |= OUTBOUND;
        end(&mut bytes, remote);
    }
    if let Some(nonce) = mapping.nonce {
        flags |= NONCE;
        bytes.extend(nonce);
    }
    for (flag, holds) in [
        (NAT_PMP, mapping.dialect == Dialect::NatPmp),
        (THIRD_PARTY, mapping.third_party),
        (PREFER_FAILURE, mapping.prefer_failure),
    ] {
        flags |= if holds { flag } else { 0 };
    }
    for filter in &mapping.filters {
        bytes.push(filter.length);
        end(&mut bytes, SocketAddr::new(filter.address, filter.port));
    }
    if let Some(place) = bytes.get_mut(1) {
        *place = flags;
    }
    bytes
}

fn end(bytes: &mut Vec<u8>, end: SocketAddr) {
    bytes.extend(field(end.ip()));
    bytes.extend(end.port().to_be_bytes());
}

/// Reads it back, without external end and end of life; `None` of bytes that [`write()`] did not write.
pub(super) fn read(memo: &[u8]) -> Option<(Key, Mapping)> {
    let mut reader = Reader::new(memo);
    if reader.u8()? != VERSION {
        return None;
    }
    let flags = reader.u8()?;
    let host = reader.address()?;
    let (protocol, port, size) = (reader.u8()?, reader.u16()?, reader.u16()?);
    let place = Place { interface: reader.u32()?, address: reader.address()? };
    let to = read_end(&mut reader)?;
    let kind = match flags & OUTBOUND {
        0 => Kind::Inbound,
        _ => Kind::Outbound(read_end(&mut reader)?),
    };
    let nonce = if flags & NONCE == 0 { None } else { Some(reader.array()?) };
    let mut filters = Vec::new();
    while !reader.rest().is_empty() {
        let length = reader.u8()?;
        let end = read_end(&mut reader)?;
        filters.push(Filter { length, port: end.port(), address: end.ip() });
    }
    // The family is the external end's, which the rule tells.
    let key = Key { host, protocol, v6: host.is_ipv6(), kind, port };
    let mut mapping = Mapping::new(super::Asker { place, to }, size.max(1));
    mapping.nonce = nonce;
    mapping.filters = filters;
    mapping.third_party = flags & THIRD_PARTY != 0;
    mapping.prefer_failure = flags & PREFER_FAILURE != 0;
    mapping.dialect = if flags & NAT_PMP == 0 { Dialect::Pcp } else { Dialect::NatPmp };
    Some((key, mapping))
}

fn read_end(reader: &mut Reader<'_>) -> Option<SocketAddr> {
    Some(SocketAddr::new(address(reader.array()?), reader.u16()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Asker;

    #[test]
    fn what_is_written_is_read_back() {
        let key = Key {
            host: "192.168.0.10".parse().unwrap(),
            protocol: 17,
            v6: false,
            kind: Kind::Outbound("203.0.113.9:53".parse().unwrap()),
            port: 4000,
        };
        let place = Place { interface: 7, address: "192.168.0.1".parse().unwrap() };
        let mut mapping = Mapping::new(Asker { place, to: "192.168.0.11:5000".parse().unwrap() }, 9);
        mapping.nonce = Some([3; 12]);
        mapping.third_party = true;
        mapping.filters = vec![Filter { length: 128, port: 1, address: "203.0.113.9".parse().unwrap() }; 2];
        let memo = write(&key, &mapping);
        assert_eq!(read(&memo), Some((key, mapping)));
        for length in 0..memo.len() {
            // A memo that ends between two filters is a shorter memo.
            assert!(read(&memo[..length]).is_none_or(|(_, short)| short.filters.len() < 2));
        }
    }
}

//! How a pinhole lies in the journal: a version byte, then fields of fixed order, integers in big-endian order,
//! texts and optional fields behind a length or presence byte. A record that does not decode to its last
//! byte is an error, never skipped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use turnpike_policy::former::{
    Endpoint, External, Grant, Owner, Phase, Pinhole, PinholeId, Protocol, Record, Remote, Request, Time,
};

/// The encoding written. Records of every version up to it are read.
pub const VERSION: u8 = 1;

/// Why a record cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    /// Written by a later release.
    #[error("it is of version {0}, this release reads up to {VERSION}: run the release that wrote it")]
    Version(u8),
    /// Ends early.
    #[error("it ends in the middle of a field")]
    Short,
    /// A field holds a value that none of ours writes.
    #[error("its field {0:?} has an impossible value")]
    Field(&'static str),
    /// Goes on behind its last field.
    #[error("{0} bytes follow its last field")]
    Long(usize),
}

/// As it is written.
pub fn encode(record: &Record) -> Vec<u8> {
    let Pinhole { id: _, request, created, expires, granted } = &record.pinhole;
    let mut out = Encoder(vec![VERSION]);
    out.byte(match record.phase {
        Phase::Asked => 0,
        Phase::Granted => 1,
        Phase::Closing => 2,
    });
    out.byte(request.protocol.number());
    out.text(&request.owner.0);
    out.ip(request.inside.address);
    out.u16(request.inside.port);
    out.option(request.external.as_ref(), |out, external| {
        out.text(&external.pool);
        out.option(external.address.as_ref(), |out, address| out.0.extend(address.octets()));
        out.option(external.port.as_ref(), |out, port| out.u16(*port));
    });
    out.ip(request.remote.address);
    out.byte(request.remote.length);
    out.u16(request.remote.ports.0);
    out.u16(request.remote.ports.1);
    out.option(request.lifetime.as_ref(), |out, lifetime| out.u64(*lifetime));
    out.option(request.note.as_ref(), |out, note| out.text(note));
    out.u64(created.0);
    out.option(expires.as_ref(), |out, expires| out.u64(expires.0));
    out.option(granted.as_ref(), |out, granted| {
        out.0.extend(granted.address.octets());
        out.u16(granted.port);
    });
    out.0
}

/// As it was.
///
/// # Errors
/// If `bytes` are anything but a whole record.
pub fn decode(id: u64, bytes: &[u8]) -> Result<Record, Undecodable> {
    let mut from = Decoder(bytes);
    match from.byte()? {
        VERSION => {}
        other => return Err(Undecodable::Version(other)),
    }
    let phase = match from.byte()? {
        0 => Phase::Asked,
        1 => Phase::Granted,
        2 => Phase::Closing,
        _ => return Err(Undecodable::Field("phase")),
    };
    let protocol = Protocol::from_number(from.byte()?).ok_or(Undecodable::Field("protocol"))?;
    let owner = Owner(from.text("owner")?);
    let inside = Endpoint { address: from.ip("inside")?, port: from.u16()? };
    let external = from.option("external", |from| {
        Ok(External {
            pool: from.text("pool")?,
            address: from.option("external address", |from| Ok(Ipv4Addr::from(from.array::<4>()?)))?,
            port: from.option("external port", Decoder::u16)?,
        })
    })?;
    let remote =
        Remote { address: from.ip("remote")?, length: from.byte()?, ports: (from.u16()?, from.u16()?) };
    if remote.prefix().is_none() {
        return Err(Undecodable::Field("remote"));
    }
    let lifetime = from.option("lifetime", Decoder::u64)?;
    let note = from.option("note", |from| from.text("note"))?;
    let created = Time(from.u64()?);
    let expires = from.option("expires", |from| from.u64().map(Time))?;
    let granted = from.option("granted", |from| {
        Ok(Grant { address: Ipv4Addr::from(from.array::<4>()?), port: from.u16()? })
    })?;
    if !from.0.is_empty() {
        return Err(Undecodable::Long(from.0.len()));
    }
    let request = Request { owner, protocol, inside, external, remote, lifetime, note };
    Ok(Record { pinhole: Pinhole { id: PinholeId(id), request, created, expires, granted }, phase })
}

struct Encoder(Vec<u8>);

impl Encoder {
    fn byte(&mut self, value: u8) {
        self.0.push(value);
    }

    fn u16(&mut self, value: u16) {
        self.0.extend(value.to_be_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend(value.to_be_bytes());
    }

    /// Texts are bounded far below this length where they are taken; a longer one is cut, not corrupted.
    fn text(&mut self, text: &str) {
        let mut end = text.len().min(usize::from(u16::MAX));
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.u16(end as u16);
        self.0.extend(text.bytes().take(end));
    }

    fn ip(&mut self, ip: IpAddr) {
        match ip {
            IpAddr::V4(v4) => {
                self.byte(4);
                self.0.extend(v4.octets());
            }
            IpAddr::V6(v6) => {
                self.byte(6);
                self.0.extend(v6.octets());
            }
        }
    }

    fn option<T>(&mut self, value: Option<&T>, write: impl FnOnce(&mut Self, &T)) {
        self.byte(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }
}

struct Decoder<'a>(&'a [u8]);

impl Decoder<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Undecodable> {
        let (array, rest) = self.0.split_first_chunk::<N>().ok_or(Undecodable::Short)?;
        self.0 = rest;
        Ok(*array)
    }

    fn byte(&mut self) -> Result<u8, Undecodable> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, Undecodable> {
        self.array().map(u16::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Undecodable> {
        self.array().map(u64::from_be_bytes)
    }

    fn text(&mut self, field: &'static str) -> Result<String, Undecodable> {
        let length = usize::from(self.u16()?);
        let (text, rest) = self.0.split_at_checked(length).ok_or(Undecodable::Short)?;
        self.0 = rest;
        std::str::from_utf8(text).map(str::to_owned).map_err(|_| Undecodable::Field(field))
    }

    fn ip(&mut self, field: &'static str) -> Result<IpAddr, Undecodable> {
        match self.byte()? {
            4 => Ok(Ipv4Addr::from(self.array::<4>()?).into()),
            6 => Ok(Ipv6Addr::from(self.array::<16>()?).into()),
            _ => Err(Undecodable::Field(field)),
        }
    }

    fn option<T>(
        &mut self,
        field: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T, Undecodable>,
    ) -> Result<Option<T>, Undecodable> {
        match self.byte()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(Undecodable::Field(field)),
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A record with every field set.
    pub fn full(id: u64) -> Record {
        Record {
            pinhole: Pinhole {
                id: PinholeId(id),
                request: Request {
                    owner: Owner("cli:0".into()),
                    protocol: Protocol::Tcp,
                    inside: Endpoint { address: "192.168.0.10".parse().unwrap(), port: 8080 },
                    external: Some(External {
                        pool: "public".into(),
                        address: Some(Ipv4Addr::new(203, 0, 113, 16)),
                        port: Some(2000),
                    }),
                    remote: Remote { address: "198.51.100.0".parse().unwrap(), length: 24, ports: (1, 9) },
                    lifetime: Some(60_000),
                    note: Some("web".into()),
                },
                created: Time(1_795_000_000_000),
                expires: Some(Time(1_795_000_060_000)),
                granted: Some(Grant { address: Ipv4Addr::new(203, 0, 113, 16), port: 2000 }),
            },
            phase: Phase::Granted,
        }
    }

    fn bare(id: u64) -> Record {
        Record {
            pinhole: Pinhole {
                id: PinholeId(id),
                request: Request {
                    owner: Owner("x".into()),
                    protocol: Protocol::Udp,
                    inside: Endpoint { address: "2001:db8::1".parse().unwrap(), port: 53 },
                    external: None,
                    remote: Remote::anyone("::".parse().unwrap()),
                    lifetime: None,
                    note: None,
                },
                created: Time(0),
                expires: None,
                granted: None,
            },
            phase: Phase::Asked,
        }
    }

    #[test]
    fn records_come_back() {
        for record in [full(7), bare(1)] {
            assert_eq!(decode(record.pinhole.id.0, &encode(&record)), Ok(record));
        }
    }

    /// The encoding is on disks: these bytes must stay readable.
    #[test]
    fn version_1_is_fixed() {
        let golden = concat!(
            "01",                   // version
            "01",                   // granted
            "06",                   // tcp
            "0005636c693a30",       // owner
            "04c0a8000a1f90",       // inside
            "0100067075626c6963",   // pool
            "01cb007110",           // external address
            "0107d0",               // external port
            "04c63364001800010009", // remote
            "01000000000000ea60",   // lifetime
            "010003776562",         // note
            "000001a1ee565e00",     // created
            "01000001a1ee574860",   // expires
            "01cb00711007d0",       // granted end
        );
        let hex: String = encode(&full(7)).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, golden);
    }

    #[test]
    fn every_damage_is_noticed() {
        let bytes = encode(&full(7));
        for cut in 0..bytes.len() {
            assert!(decode(7, &bytes[..cut]).is_err(), "cut at {cut}");
        }
        let mut long = bytes.clone();
        long.push(0);
        assert_eq!(decode(7, &long), Err(Undecodable::Long(1)));
        let mut newer = bytes;
        newer[0] = VERSION + 1;
        assert_eq!(decode(7, &newer), Err(Undecodable::Version(VERSION + 1)));
    }
}

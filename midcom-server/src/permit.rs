//! Authorization tokens (scenario 2.3.3, extension 0x8007): what an agent may do that has no right of its own, sealed by
//! somebody whom the operator gave the key to. The internal server hands them out; hosts show them to the box.
//!
//! A token is, big endian: version 1 (8 bits); end of its validity (64, seconds since 1970); identity (128); two prefixes,
//! of inside hosts and of remote ends, each version (8; 4 or 6), length (8) and address (32 or 128); protocol (8, 0 any);
//! longest lifetime (32, seconds); rules (32); HMAC-SHA-256 under the key over "SIMCO3-T" and all of it (256).

use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
pub use turnpike_policy::{Network, Permit, Protocol, Time};

const VERSION: u8 = 1;
const LABEL: &[u8] = b"SIMCO3-T";
/// Octets of the seal.
const SEAL: usize = 32;
/// Milliseconds of a second.
const SECOND: u64 = 1000;

/// Why a token permits nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Another key sealed it, or it was changed.
    #[error("the authorization token was not sealed by a key of this box, or was changed")]
    Seal,
    /// Its seal is good, but it is of another version.
    #[error("the authorization token is of a version that this box does not know")]
    Version,
    /// It is over.
    #[error("the authorization token has expired")]
    Expired,
}

/// An identity that no other token has.
///
/// # Errors
/// If the system has no random numbers.
pub fn identity() -> std::io::Result<[u8; 16]> {
    let mut octets = [0; 16];
    let none = |_| std::io::Error::other("the system gives no random numbers");
    SystemRandom::new().fill(&mut octets).map_err(none)?;
    Ok(octets)
}

/// The token of a permit. Its end is in whole seconds, rounded down.
#[must_use]
pub fn seal(permit: &Permit, key: &[u8]) -> Vec<u8> {
    let mut octets = vec![VERSION];
    octets.extend((permit.expires.0 / SECOND).to_be_bytes());
    octets.extend(permit.nonce);
    for network in [permit.inside, permit.outside] {
        let (version, address) = match network.address {
            IpAddr::V4(v4) => (4, v4.octets().to_vec()),
            IpAddr::V6(v6) => (6, v6.octets().to_vec()),
        };
        octets.extend([version, network.length]);
        octets.extend(address);
    }
    octets.push(permit.protocol.map_or(0, |protocol| protocol.0));
    octets.extend(permit.lifetime.to_be_bytes());
    octets.extend(permit.rules.to_be_bytes());
    let seal = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), &[LABEL, &octets].concat());
    octets.extend(seal.as_ref());
    octets
}

/// What a token permits at `now`. That it is not used more often than it may be is the policy engine's business.
///
/// # Errors
/// Why it permits nothing. The seal is looked at first: of others nothing is told.
pub fn open(token: &[u8], key: &[u8], now: Time) -> Result<Permit, Invalid> {
    let at = token.len().checked_sub(SEAL).ok_or(Invalid::Seal)?;
    let (octets, seal) = token.split_at_checked(at).ok_or(Invalid::Seal)?;
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, key), &[LABEL, octets].concat(), seal)
        .map_err(|_| Invalid::Seal)?;
    let permit = read(octets).ok_or(Invalid::Version)?;
    if permit.expires <= now { Err(Invalid::Expired) } else { Ok(permit) }
}

fn read(octets: &[u8]) -> Option<Permit> {
    let (&version, mut rest) = octets.split_first()?;
    if version != VERSION {
        return None;
    }
    let seconds = u64::from_be_bytes(*chunk(&mut rest)?);
    let nonce = *chunk(&mut rest)?;
    let (inside, outside) = (network(&mut rest)?, network(&mut rest)?);
    let [protocol] = *chunk(&mut rest)?;
    let permit = Permit {
        inside,
        outside,
        protocol: Some(Protocol(protocol)).filter(|&protocol| protocol != Protocol::ANY),
        lifetime: u32::from_be_bytes(*chunk(&mut rest)?),
        rules: u32::from_be_bytes(*chunk(&mut rest)?),
        nonce,
        expires: Time(seconds.saturating_mul(SECOND)),
    };
    rest.is_empty().then_some(permit)
}

fn chunk<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (chunk, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(chunk)
}

fn network(rest: &mut &[u8]) -> Option<Network> {
    let [version, length] = *chunk(rest)?;
    let (address, bits): (IpAddr, u8) = match version {
        4 => (Ipv4Addr::from(*chunk::<4>(rest)?).into(), 32),
        6 => (Ipv6Addr::from(*chunk::<16>(rest)?).into(), 128),
        _ => return None,
    };
    (length <= bits).then_some(Network { address, length })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"a key of the operator's own";

    fn permit() -> Permit {
        Permit {
            inside: Network { address: [192, 168, 0, 10].into(), length: 32 },
            outside: Network { address: "2001:db8::".parse().expect("an address"), length: 32 },
            protocol: Some(Protocol::UDP),
            lifetime: 120,
            rules: 2,
            nonce: *b"never used twice",
            expires: Time(5_000),
        }
    }

    #[test]
    fn f_233_a_token_says_what_was_sealed_until_it_expires() {
        let any = Permit { protocol: None, outside: Network::V4, ..permit() };
        for permit in [permit(), any] {
            let token = seal(&permit, KEY);
            assert_eq!(open(&token, KEY, Time(4_999)), Ok(permit));
            assert_eq!(open(&token, KEY, Time(5_000)), Err(Invalid::Expired));
            assert_eq!(open(&token, b"the key of somebody else", Time(0)), Err(Invalid::Seal));
        }
    }

    #[test]
    fn f_233_no_octet_of_a_token_can_be_changed() {
        let token = seal(&permit(), KEY);
        for at in 0..token.len() {
            let mut changed = token.clone();
            changed[at] ^= 1;
            assert_eq!(open(&changed, KEY, Time(0)), Err(Invalid::Seal), "octet {at}");
            assert_eq!(open(&token[..at], KEY, Time(0)), Err(Invalid::Seal), "cut after {at}");
        }
        let mut longer = token;
        longer.push(0);
        assert_eq!(open(&longer, KEY, Time(0)), Err(Invalid::Seal));
    }

    #[test]
    fn what_is_sealed_but_not_a_token_of_this_version_is_refused() {
        let sealed = |octets: &[u8]| {
            let seal = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, KEY), &[LABEL, octets].concat());
            [octets, seal.as_ref()].concat()
        };
        let good = seal(&permit(), KEY);
        let good = &good[..good.len() - SEAL];
        assert!(open(&sealed(good), KEY, Time(0)).is_ok());
        for at in 0..good.len() {
            assert_eq!(open(&sealed(&good[..at]), KEY, Time(0)), Err(Invalid::Version), "{at} octets");
        }
        assert_eq!(open(&sealed(&[good, &[0]].concat()), KEY, Time(0)), Err(Invalid::Version));
        // Another version, another family, a prefix that is longer than its address.
        for (at, octet) in [(0, 2), (25, 5), (26, 33)] {
            let mut wrong = good.to_vec();
            wrong[at] = octet;
            assert_eq!(open(&sealed(&wrong), KEY, Time(0)), Err(Invalid::Version), "octet {at}");
        }
    }
}

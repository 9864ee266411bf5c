//! MIDCOM over SIMCO (RFC 4540) on TCP: the server in front of the policy engine, and the agent's side as a library.
//!
//! | module | what it does |
//! |---|---|
//! | [`Server`], `connection` | listener, TLS 1.2 and 1.3 with certificates of both sides, sessions |
//! | `guard` | bounds on connections, a rest for sources that fail to authenticate |
//! | `translate` | SIMCO's requests in the policy engine's words, and its answers in SIMCO's |
//! | [`permit`] | authorization tokens: made for hosts, and verified |
//! | [`agent`] | a session from the other side: reconnects, and learns anew what it has |
//! | [`certificate`] | who a certificate says its holder is |
//!
//! Messages and state machines are [`turnpike_simco`]'s; what is allowed is the policy engine's business.
#![forbid(unsafe_code)]

pub mod agent;
pub mod certificate;
mod connection;
mod guard;
pub mod permit;
mod server;
mod translate;

pub use guard::{Counters, Limits};
pub use server::{Server, Settings};

/// Longest file of a key, bytes.
const LONGEST_KEY: u64 = 4096;

/// The key in a file: its bytes without the line's end; 32 or more hexadecimal digits stand for bytes.
///
/// # Errors
/// If the file cannot be read, or its key is shorter than [`turnpike_simco::authentication::MIN_KEY`] bytes.
pub fn read_key(path: &std::path::Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    use turnpike_simco::authentication::MIN_KEY;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(LONGEST_KEY).read_to_end(&mut bytes)?;
    while bytes.last().is_some_and(u8::is_ascii_whitespace) {
        bytes.pop();
    }
    let bytes = key_of_digits(&bytes).unwrap_or(bytes);
    if bytes.len() < MIN_KEY {
        let message = format!("a key of {} bytes is too short: write {MIN_KEY} or more", bytes.len());
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, message));
    }
    Ok(bytes)
}

/// The bytes of a key that is written as 32 or more hexadecimal digits; none if it is not.
fn key_of_digits(text: &[u8]) -> Option<Vec<u8>> {
    if text.len() < 32 || !text.len().is_multiple_of(2) {
        return None;
    }
    let digit = |octet: &u8| char::from(*octet).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let digits: Option<Vec<u8>> = text.iter().map(digit).collect();
    Some(digits?.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
}

#[cfg(test)]
mod tests {
    use super::key_of_digits;

    #[test]
    fn keys_as_digits() {
        assert_eq!(key_of_digits(b"000102030405060708090a0b0c0d0E0F"), Some((0..16).collect()));
        assert_eq!(key_of_digits(b"000102030405060708090a0b0c0d0e0g"), None);
        assert_eq!(key_of_digits(b"0011"), None);
        assert_eq!(key_of_digits(&[b'a'; 33]), None);
    }
}

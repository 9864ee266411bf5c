//! Challenge and response with a pre-shared key. RFC 4540 leaves the algorithm open and gives the agent no name;
//! this is the profile of `conformance.md` (row B-SEC-02): a challenge carries its author's id and 32 random octets,
//! a token is HMAC-SHA-256 under the agent's key over a label, the agent's challenge and the middlebox's.

use crate::reader::Reader;
use ring::hmac;

/// Random octets of a challenge.
pub const RANDOM: usize = 32;
/// Octets of a token.
pub const TOKEN: usize = 32;
/// Keys are at least so long, in octets.
pub const MIN_KEY: usize = 16;

/// Who proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prover {
    /// The middlebox, in its SA reply.
    Middlebox,
    /// The agent, in its SA request.
    Agent,
}

impl Prover {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Middlebox => b"SIMCO3-M",
            Self::Agent => b"SIMCO3-A",
        }
    }
}

/// The value of a challenge attribute: length of the id, the id, random octets. Ids beyond 255 octets are cut.
#[must_use]
pub fn challenge(id: &[u8], random: &[u8; RANDOM]) -> Vec<u8> {
    let id = id.get(..id.len().min(255)).unwrap_or_default();
    let mut value = Vec::with_capacity(1 + id.len() + RANDOM);
    value.push(u8::try_from(id.len()).unwrap_or(u8::MAX));
    value.extend_from_slice(id);
    value.extend_from_slice(random);
    value
}

/// The id in a challenge, none if it is not of this profile.
#[must_use]
pub fn author(challenge: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(challenge);
    let id = reader.short_octets().ok()?;
    reader.take(RANDOM).ok()?;
    reader.end().ok()?;
    Some(id)
}

fn context(prover: Prover, key: &[u8], agents: &[u8], middleboxs: &[u8]) -> hmac::Context {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    context.update(prover.label());
    context.update(agents);
    context.update(middleboxs);
    context
}

/// The token with which `prover` answers: `agents` and `middleboxs` are the values of the two challenges.
#[must_use]
pub fn token(prover: Prover, key: &[u8], agents: &[u8], middleboxs: &[u8]) -> Vec<u8> {
    context(prover, key, agents, middleboxs).sign().as_ref().to_vec()
}

/// True if `claimed` is that token. The comparison takes the same time wherever they differ.
#[must_use]
pub fn verify(prover: Prover, key: &[u8], agents: &[u8], middleboxs: &[u8], claimed: &[u8]) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let signed = [prover.label(), agents, middleboxs].concat();
    hmac::verify(&key, &signed, claimed).is_ok()
}

//! What is counted: every request ends in exactly one of these.

use crate::wire::{Opcode, ResultCode, natpmp};

/// Why a message was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drop {
    /// Shorter than two octets, or a response.
    NotARequest,
    /// Shorter than its header.
    TooShort,
    /// The subscriber asks too often.
    Rate,
    /// Too much is under way.
    Overload,
    /// Its mapping waits for the policy engine already: the client asks again.
    Busy,
    /// Neither protocol is switched on for it, or the host is not translated (RFC 6886 section 3.8).
    Disabled,
    /// Its source is no host of the interface it came in on (RFC 6887 section 17.1).
    Source,
}

impl Drop {
    /// Every reason, in order.
    pub const ALL: [Self; 7] = [
        Self::NotARequest,
        Self::TooShort,
        Self::Rate,
        Self::Overload,
        Self::Busy,
        Self::Disabled,
        Self::Source,
    ];

    /// As metrics label it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotARequest => "not_a_request",
            Self::TooShort => "too_short",
            Self::Rate => "rate",
            Self::Overload => "overload",
            Self::Busy => "busy",
            Self::Disabled => "disabled",
            Self::Source => "source",
        }
    }
}

/// Opcodes of PCP that are told apart, the rest last.
const OPCODES: [&str; 4] = ["announce", "map", "peer", "other"];
/// Those of NAT-PMP.
const OPERATIONS: [&str; 4] = ["external_address", "map_udp", "map_tcp", "other"];

/// Requests by what became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pcp: [[u64; ResultCode::ALL.len()]; OPCODES.len()],
    nat_pmp: [[u64; natpmp::ResultCode::ALL.len()]; OPERATIONS.len()],
    drops: [u64; Drop::ALL.len()],
    /// Announcements sent.
    pub announcements: u64,
    /// Mapping Updates sent.
    pub updates: u64,
}

impl Counts {
    pub(super) fn answer(&mut self, opcode: Opcode, result: ResultCode) {
        let row = OPCODES.iter().position(|name| *name == opcode.name()).unwrap_or(OPCODES.len() - 1);
        if let Some(count) = self.pcp.get_mut(row).and_then(|row| row.get_mut(usize::from(result.number()))) {
            *count += 1;
        }
    }

    pub(super) fn nat_pmp(&mut self, operation: usize, result: natpmp::ResultCode) {
        let count = self.nat_pmp.get_mut(operation).and_then(|row| row.get_mut(result as usize));
        if let Some(count) = count {
            *count += 1;
        }
    }

    pub(super) fn drop(&mut self, why: Drop) {
        if let Some(count) = self.drops.get_mut(why as usize) {
            *count += 1;
        }
    }

    /// Messages that were not answered for this reason.
    #[must_use]
    pub fn dropped(&self, why: Drop) -> u64 {
        self.drops.get(why as usize).copied().unwrap_or_default()
    }

    /// Answered requests: protocol, opcode and result with their number, every combination there is.
    pub fn answered(&self) -> impl Iterator<Item = (&'static str, &'static str, &'static str, u64)> + '_ {
        let pcp = OPCODES.iter().zip(&self.pcp).flat_map(|(opcode, row)| {
            ResultCode::ALL.iter().zip(row).map(|(result, count)| ("pcp", *opcode, result.name(), *count))
        });
        let nat_pmp = OPERATIONS.iter().zip(&self.nat_pmp).flat_map(|(operation, row)| {
            let results = natpmp::ResultCode::ALL.iter().zip(row);
            results.map(|(result, count)| ("nat_pmp", *operation, result.name(), *count))
        });
        pcp.chain(nat_pmp)
    }
}

//! Opcodes, options and result codes.

/// An opcode, without the bit that tells responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Opcode(pub u8);

impl Opcode {
    /// RFC 6887 section 14.1.
    pub const ANNOUNCE: Self = Self(0);
    /// RFC 6887 section 11.
    pub const MAP: Self = Self(1);
    /// RFC 6887 section 12.
    pub const PEER: Self = Self(2);
    /// Set in responses.
    pub const RESPONSE: u8 = 0x80;

    /// As metrics label it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ANNOUNCE => "announce",
            Self::MAP => "map",
            Self::PEER => "peer",
            _ => "other",
        }
    }
}

/// An option's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OptionCode(pub u8);

impl OptionCode {
    /// RFC 6887 section 13.1.
    pub const THIRD_PARTY: Self = Self(1);
    /// RFC 6887 section 13.2.
    pub const PREFER_FAILURE: Self = Self(2);
    /// RFC 6887 section 13.3.
    pub const FILTER: Self = Self(3);
    /// RFC 7753.
    pub const PORT_SET: Self = Self(130);

    /// Whether a server that does not know it has to refuse (RFC 6887 section 7.3).
    #[must_use]
    pub const fn is_mandatory(self) -> bool {
        self.0 < 128
    }
}

/// A result code (RFC 6887 section 7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ResultCode {
    /// Done.
    Success = 0,
    /// Not version 2.
    UnsuppVersion = 1,
    /// Not allowed to this client.
    NotAuthorized = 2,
    /// Could not be parsed.
    MalformedRequest = 3,
    /// Unknown opcode.
    UnsuppOpcode = 4,
    /// Unknown option that may not be ignored, or one that this client may not use.
    UnsuppOption = 5,
    /// An option that makes no sense.
    MalformedOption = 6,
    /// The box has no external side now.
    NetworkFailure = 7,
    /// The box is full.
    NoResources = 8,
    /// The protocol cannot be mapped.
    UnsuppProtocol = 9,
    /// The subscriber has all it may have.
    UserExQuota = 10,
    /// The suggested external end is not to be had.
    CannotProvideExternal = 11,
    /// The source is not the client's address: there is a NAT between.
    AddressMismatch = 12,
    /// Too many filters.
    ExcessiveRemotePeers = 13,
}

/// Lifetime of errors that pass soon, seconds (RFC 6887 section 7.4).
const SHORT: u32 = 30;
/// Lifetime of errors that stay, seconds.
const LONG: u32 = 1800;

impl ResultCode {
    /// Every code there is, in order.
    pub const ALL: [Self; 14] = [
        Self::Success,
        Self::UnsuppVersion,
        Self::NotAuthorized,
        Self::MalformedRequest,
        Self::UnsuppOpcode,
        Self::UnsuppOption,
        Self::MalformedOption,
        Self::NetworkFailure,
        Self::NoResources,
        Self::UnsuppProtocol,
        Self::UserExQuota,
        Self::CannotProvideExternal,
        Self::AddressMismatch,
        Self::ExcessiveRemotePeers,
    ];

    /// On the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// How long a client should take the same error for granted, seconds.
    #[must_use]
    pub const fn lifetime(self) -> u32 {
        match self {
            Self::Success => 0,
            // "Depends on the reason": a port in use may be free soon.
            Self::NetworkFailure | Self::NoResources | Self::UserExQuota | Self::CannotProvideExternal => {
                SHORT
            }
            Self::UnsuppVersion
            | Self::NotAuthorized
            | Self::MalformedRequest
            | Self::UnsuppOpcode
            | Self::UnsuppOption
            | Self::MalformedOption
            | Self::UnsuppProtocol
            | Self::AddressMismatch
            | Self::ExcessiveRemotePeers => LONG,
        }
    }

    /// Whether it says that the request could not be parsed, so that the client's address is given back in
    /// the reserved bits (RFC 6887 section 7.2).
    #[must_use]
    pub const fn is_unparsed(self) -> bool {
        matches!(
            self,
            Self::UnsuppVersion | Self::MalformedRequest | Self::UnsuppOpcode | Self::MalformedOption
        )
    }

    /// As metrics label it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::UnsuppVersion => "unsupp_version",
            Self::NotAuthorized => "not_authorized",
            Self::MalformedRequest => "malformed_request",
            Self::UnsuppOpcode => "unsupp_opcode",
            Self::UnsuppOption => "unsupp_option",
            Self::MalformedOption => "malformed_option",
            Self::NetworkFailure => "network_failure",
            Self::NoResources => "no_resources",
            Self::UnsuppProtocol => "unsupp_protocol",
            Self::UserExQuota => "user_ex_quota",
            Self::CannotProvideExternal => "cannot_provide_external",
            Self::AddressMismatch => "address_mismatch",
            Self::ExcessiveRemotePeers => "excessive_remote_peers",
        }
    }
}

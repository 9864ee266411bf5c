//! Why a message is refused: what was wrong with its octets, and the code that says so to the agent.

/// What is wrong with the octets of a message. A request with any of these is answered 0x0312 (RFC 4540 section
/// 6, 5), but for its sub-type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A value or the message ends within a field.
    #[error("the octets end within a field")]
    Short,
    /// Octets are left after the last field.
    #[error("octets are left after the last field")]
    Long,
    /// The message has no such sub-type.
    #[error("sub-type {0:#04x} is none of this message type")]
    SubType(u8),
    /// The attribute does not belong in this message, or was not offered.
    #[error("attribute {0:#06x} does not belong in this message")]
    Unexpected(u16),
    /// The attribute stands more often than the message's figure says.
    #[error("attribute {0:#06x} stands too often")]
    Repeated(u16),
    /// An attribute of the message's figure is not there.
    #[error("attribute {0:#06x} is missing")]
    Missing(u16),
    /// A field has a value that RFC 4540 section 4.3 does not define.
    #[error("the {0} has an undefined value")]
    Undefined(&'static str),
    /// The whole message would have more than 65,536 octets.
    #[error("the message is too big")]
    TooBig,
}

macro_rules! failures {
    ($($(#[doc = $doc:literal])* $name:ident = $code:literal, $text:literal;)*) => {
        /// The sub-types of negative replies (RFC 4540 section 4.2.3).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
        #[repr(u8)]
        pub enum Failure {
            $(#[doc = $text] #[error($text)] $name = $code,)*
        }

        impl Failure {
            /// All of them, by ascending code.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The failure with this sub-type.
            #[must_use]
            pub fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

failures! {
    WrongBasicType = 0x10, "wrong basic request message type";
    WrongSubType = 0x11, "wrong request message sub-type";
    BadlyFormed = 0x12, "badly formed request";
    ReplyTooBig = 0x13, "reply message too big";
    NotApplicable = 0x20, "request not applicable";
    LackOfResources = 0x21, "lack of resources";
    VersionMismatch = 0x22, "protocol version mismatch";
    AuthenticationFailed = 0x23, "authentication failed";
    NoAuthorization = 0x24, "no authorization";
    TransportProblem = 0x25, "transport protocol problem";
    InsufficientSecurity = 0x26, "security of underlying protocol layers insufficient";
    NotSupported = 0x40, "transaction not supported";
    NotAuthorized = 0x41, "agent not authorized for this transaction";
    NoResources = 0x42, "no resources available for this transaction";
    NoSuchRule = 0x43, "specified policy rule does not exist";
    NoSuchGroup = 0x44, "specified policy rule group does not exist";
    RuleAccess = 0x45, "not authorized for accessing specified policy";
    GroupAccess = 0x46, "not authorized for accessing specified group";
    AddressSpace = 0x47, "requested address space not available";
    LackOfAddresses = 0x48, "lack of IP addresses";
    LackOfPorts = 0x49, "lack of port numbers";
    ConfigurationFailed = 0x4A, "middlebox configuration failed";
    Inconsistent = 0x4B, "inconsistent request";
    Wildcarding = 0x4C, "requested wildcarding not supported";
    ProtocolMismatch = 0x4D, "protocol type doesn't match";
    NatMode = 0x4E, "NAT mode not supported";
    IpVersion = 0x4F, "IP version mismatch";
    Conflict = 0x50, "conflict with existing rule";
    LifetimeAccess = 0x51, "not authorized to change lifetime";
    LifetimeFixed = 0x52, "lifetime can't be extended";
    IllegalAddress = 0x53, "illegal IP address";
    ProtocolNotSupported = 0x54, "protocol type not supported";
    IllegalPort = 0x55, "illegal port number";
    IllegalRange = 0x56, "illegal number of subsequent ports";
    AlreadyEnabled = 0x57, "already enable PID";
    ParityMismatch = 0x58, "parity doesn't match";
}

impl Failure {
    /// The sub-type on the wire.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<Malformed> for Failure {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::SubType(_) => Self::WrongSubType,
            Malformed::Short
            | Malformed::Long
            | Malformed::Unexpected(_)
            | Malformed::Repeated(_)
            | Malformed::Missing(_)
            | Malformed::Undefined(_)
            | Malformed::TooBig => Self::BadlyFormed,
        }
    }
}

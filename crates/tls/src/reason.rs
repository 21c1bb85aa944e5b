//! What may be wrong with a ClientHello. Given by the reader; shown to operators in counters, and to
//! clients as the alert that it stands for.

use crate::alert::Alert;

/// Why bytes that begin as TLS does are not, and cannot become, a ClientHello that Baton routes by. Its
/// text is a sentence for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum HelloError {
    /// RFC 8446 5.1: no other record may come before the message has ended.
    #[error("a record of another kind comes before the ClientHello has ended")]
    Interleaved,
    /// RFC 8446 5.1 forbids it, and would otherwise let a client send without end.
    #[error("a handshake record is empty")]
    EmptyRecord,
    /// More than 2^14 bytes (RFC 8446 5.1).
    #[error("a record is longer than 16384 bytes")]
    RecordLength,
    /// The first handshake message is another one.
    #[error("the first handshake message is not a ClientHello")]
    NotHello,
    /// RFC 8446 5.1: a ClientHello ends with its record, since a change of keys follows it.
    #[error("a record goes on behind the end of the ClientHello")]
    Behind,
    /// More than [`HELLO_BYTES_MAX`](crate::HELLO_BYTES_MAX).
    #[error("the ClientHello is longer than 65536 bytes")]
    TooLong,
    /// A length reaches beyond what it is part of, or a field is missing.
    #[error("a length in the ClientHello reaches beyond its end")]
    Short,
    /// A length that the field's type does not allow: none where there must be some, an odd one.
    #[error("a field of the ClientHello has a length that is not allowed")]
    Length,
    /// Bytes that belong to no field.
    #[error("bytes are left over behind the last field of the ClientHello")]
    LeftOver,
    /// RFC 8446 4.2: at most one extension of each type.
    #[error("an extension is given twice")]
    ExtensionTwice,
    /// RFC 6066 3: at most one name of each type.
    #[error("two server names of the same type are given")]
    NameTwice,
    /// See [`Name`](crate::Name).
    #[error("the server name is not a host name")]
    Name,
}

impl HelloError {
    /// Every reason.
    pub const ALL: [Self; 12] = [
        Self::Interleaved,
        Self::EmptyRecord,
        Self::RecordLength,
        Self::NotHello,
        Self::Behind,
        Self::TooLong,
        Self::Short,
        Self::Length,
        Self::LeftOver,
        Self::ExtensionTwice,
        Self::NameTwice,
        Self::Name,
    ];

    /// The alert that answers it (RFC 8446 6.2: what cannot be read is a `decode_error`, what can be read
    /// but must not be said an `illegal_parameter`). Baton's own limit is no fault of the client.
    pub fn alert(self) -> Alert {
        match self {
            Self::Interleaved | Self::NotHello | Self::Behind => Alert::UnexpectedMessage,
            Self::RecordLength => Alert::RecordOverflow,
            Self::TooLong => Alert::InternalError,
            Self::EmptyRecord | Self::Short | Self::Length | Self::LeftOver => Alert::DecodeError,
            Self::ExtensionTwice | Self::NameTwice | Self::Name => Alert::IllegalParameter,
        }
    }
}

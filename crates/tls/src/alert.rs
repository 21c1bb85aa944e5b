//! Refusals as a TLS client understands them. The node sends one, then closes the connection; nothing
//! here knows why.

/// The fatal alerts that Baton itself sends (RFC 8446 6.2). Their numbers are those on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Alert {
    /// Another message than a ClientHello, or something within it.
    UnexpectedMessage = 10,
    /// A record longer than any may be.
    RecordOverflow = 22,
    /// A hello that can be read but says what it must not.
    IllegalParameter = 47,
    /// A hello that cannot be read.
    DecodeError = 50,
    /// The fault is Baton's: a limit of its own, or no server that could take the connection.
    InternalError = 80,
    /// No pool is for the name (RFC 6066 3).
    UnrecognizedName = 112,
    /// No pool speaks any of the protocols offered (RFC 7301 3.2).
    NoApplicationProtocol = 120,
}

const CONTENT_ALERT: u8 = 21;
const LEVEL_FATAL: u8 = 2;

/// The plaintext record of a fatal alert, whole: what may be sent in answer to a ClientHello, as no keys
/// are agreed on yet (RFC 8446 6). Its version is that of TLS 1.2, as RFC 8446 5.1 wants of all records
/// of a server.
pub fn alert(alert: Alert) -> [u8; 7] {
    [CONTENT_ALERT, 3, 3, 0, 2, LEVEL_FATAL, alert as u8]
}

//! Why a head or a message is in doubt. Given by the scanner, the parser and the follower; shown to
//! operators in counters and answers.

/// Why bytes are not a clear request, or a connection can no longer be followed. Its text is a sentence
/// for operators; its number is the same in the packet path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u8)]
pub enum Reason {
    /// The method has a byte that no method has, or a lower-case letter, or is missing.
    #[error("the method is missing, or has a byte that methods may not have, or a lower-case letter")]
    Method = 1,
    /// The method is longer than 31 bytes.
    #[error("the method is longer than 31 bytes")]
    MethodLength,
    /// CONNECT asks for a tunnel.
    #[error("CONNECT asks for a tunnel")]
    Connect,
    /// Neither a path nor `http://` or `https://` nor the `*` of OPTIONS (HTTP/2's preface, too); a second space.
    #[error("what is asked for is neither a path, nor an http or https URI, nor the * of OPTIONS")]
    PathForm,
    /// A control character.
    #[error("the path or query has a control character")]
    PathByte,
    /// RFC 9112 3.2: no target has one.
    #[error("the path or query has a # (a fragment)")]
    Fragment,
    /// A percent sign that no two hexadecimal digits follow.
    #[error("the path has a percent sign without two hexadecimal digits")]
    Escape,
    /// Anything but a space, one of the two versions and CRLF after path and query.
    #[error("the request line does not end in HTTP/1.0 or HTTP/1.1 after one space")]
    Version,
    /// A line feed that no carriage return precedes.
    #[error("a line ends in a line feed without carriage return")]
    BareLf,
    /// A carriage return that no line feed follows.
    #[error("a carriage return is not followed by a line feed")]
    BareCr,
    /// RFC 9112 5.2, `obs-fold`.
    #[error("a header line begins with a blank (folded header)")]
    Folded,
    /// A header line without name or colon, or with a byte that no name has.
    #[error("a header's name is empty or has a byte that names may not have")]
    Name,
    /// RFC 9112 5.1 forbids it.
    #[error("a blank stands between a header's name and its colon")]
    BlankBeforeColon,
    /// NUL or another control character in a value, a reason phrase or a chunk extension.
    #[error("a value has a control character")]
    Value,
    /// Content-Length more than once, be the values equal or not.
    #[error("Content-Length is given more than once")]
    LengthTwice,
    /// A list, a sign, nothing, or more digits than any body needs.
    #[error("Content-Length is not a number of 1 to 18 digits")]
    Length,
    /// Transfer-Encoding more than once.
    #[error("Transfer-Encoding is given more than once")]
    CodingTwice,
    /// Any transfer coding but chunked alone.
    #[error("Transfer-Encoding is not chunked alone")]
    Coding,
    /// HTTP/1.0 knows no transfer codings.
    #[error("Transfer-Encoding is given in an HTTP/1.0 message")]
    CodingTooEarly,
    /// The classic of request smuggling.
    #[error("Content-Length and Transfer-Encoding are both given")]
    LengthAndCoding,
    /// Host more than once.
    #[error("Host is given more than once")]
    HostTwice,
    /// A port that is no number, a user, a list, a name with an empty label.
    #[error("the host is not a name or an address, with or without a port")]
    HostForm,
    /// Of the pools that the readings belong to one is wrong.
    #[error("web servers differ in what the path or host means, and pools depend on it")]
    Readings,
    /// A chunk's size is missing, too long, or not hexadecimal.
    #[error("a chunk's size is not 1 to 15 hexadecimal digits")]
    ChunkSize,
    /// A chunk is longer or shorter than its size says.
    #[error("a chunk's data is not followed by CRLF")]
    ChunkEnd,
    /// A response begins otherwise than `HTTP/1.x NNN`.
    #[error("a response does not begin with HTTP/1.x and a status of three digits")]
    StatusLine,
    /// 101: what follows is not HTTP/1.
    #[error("the connection changes to another protocol (101)")]
    Upgrade,
    /// A body without length ends with the connection.
    #[error("a response's body lasts until the connection is closed")]
    UntilClose,
    /// The server speaks without having been asked.
    #[error("the server sent a response to no request")]
    Unasked,
    /// More requests are unanswered than are remembered.
    #[error("more than 32 requests are unanswered")]
    TooManyAsked,
}

impl Reason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 30] = [
        Self::Method,
        Self::MethodLength,
        Self::Connect,
        Self::PathForm,
        Self::PathByte,
        Self::Fragment,
        Self::Escape,
        Self::Version,
        Self::BareLf,
        Self::BareCr,
        Self::Folded,
        Self::Name,
        Self::BlankBeforeColon,
        Self::Value,
        Self::LengthTwice,
        Self::Length,
        Self::CodingTwice,
        Self::Coding,
        Self::CodingTooEarly,
        Self::LengthAndCoding,
        Self::HostTwice,
        Self::HostForm,
        Self::Readings,
        Self::ChunkSize,
        Self::ChunkEnd,
        Self::StatusLine,
        Self::Upgrade,
        Self::UntilClose,
        Self::Unasked,
        Self::TooManyAsked,
    ];
}

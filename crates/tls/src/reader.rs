//! The way to the ClientHello: TLS records, in which it may be whole or in parts (RFC 8446 5.1). The node
//! shows it what a client has sent so far; it never waits, and keeps no more than a hello may have.

use crate::hello::ClientHello;
use crate::reason::HelloError;

/// The longest ClientHello that is read, in bytes, its header of four not counted. Those of browsers have
/// 500 to 2,000; the longest key shares in sight add some thousands.
pub const HELLO_BYTES_MAX: usize = 65_536;

/// RFC 8446 5.1.
const RECORD_BYTES_MAX: usize = 1 << 14;
const CONTENT_HANDSHAKE: u8 = 22;
const VERSION_MAJOR: u8 = 3;
const HANDSHAKE_CLIENT_HELLO: u8 = 1;

/// What the first bytes of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParsedHello {
    /// A ClientHello, whole.
    Whole(ClientHello),
    /// More bytes may make a ClientHello of them.
    More,
    /// Not the beginning of a TLS handshake: another protocol, or the hello of SSL 2.
    NotTls,
    /// A TLS client's, but no more bytes can make a ClientHello of them.
    Malformed(HelloError),
}

/// What the first bytes of a connection are. For a hello that comes in pieces, a [`HelloReader`] looks at
/// each byte once.
pub fn read_client_hello(bytes: &[u8]) -> ParsedHello {
    HelloReader::default().read(bytes)
}

/// A ClientHello being read in pieces.
#[derive(Clone, Debug, Default)]
pub struct HelloReader {
    /// How many bytes of the connection have been looked at.
    read: usize,
    /// Bytes of the current record still to come.
    left: usize,
    /// The handshake message so far, with its header.
    message: Vec<u8>,
}

impl HelloReader {
    /// What has been received so far: all of it, from the connection's first byte, each time. Only what was
    /// not there the last time is looked at. When the answer is not [`ParsedHello::More`], it stays.
    pub fn read(&mut self, received: &[u8]) -> ParsedHello {
        if self.read == 0 && !may_begin_handshake(received) {
            return ParsedHello::NotTls;
        }
        match self.go_on(received) {
            Ok(Some(hello)) => ParsedHello::Whole(hello),
            Ok(None) => ParsedHello::More,
            Err(reason) => ParsedHello::Malformed(reason),
        }
    }

    fn go_on(&mut self, received: &[u8]) -> Result<Option<ClientHello>, HelloError> {
        loop {
            if let Some(body) = self.whole_body()? {
                return ClientHello::read(body).map(Some);
            }
            let rest = received.get(self.read..).unwrap_or_default();
            if self.left > 0 {
                let part = rest.get(..self.left).unwrap_or(rest);
                if part.is_empty() {
                    return Ok(None);
                }
                self.message.extend_from_slice(part);
                self.read += part.len();
                self.left -= part.len();
            } else {
                let Some((length, header_len)) = record_header(rest)? else { return Ok(None) };
                self.left = length;
                self.read += header_len;
            }
        }
    }

    /// The message's body, if all of it is there; an error as soon as it can no longer become a hello.
    fn whole_body(&self) -> Result<Option<&[u8]>, HelloError> {
        if self.message.first().is_some_and(|kind| *kind != HANDSHAKE_CLIENT_HELLO) {
            return Err(HelloError::NotHello);
        }
        let Some(([_, high, middle, low], body)) = self.message.split_first_chunk() else { return Ok(None) };
        let length = usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low);
        if length > HELLO_BYTES_MAX {
            return Err(HelloError::TooLong);
        }
        if body.len() + self.left > length {
            return Err(HelloError::Behind);
        }
        Ok((body.len() == length).then_some(body))
    }
}

/// Whether a TLS handshake may begin so: a handshake record of some version 3.x. The minor version is not
/// to be looked at (RFC 8446 5.1).
fn may_begin_handshake(received: &[u8]) -> bool {
    let is = |at: usize, wanted: u8| received.get(at).is_none_or(|c| *c == wanted);
    is(0, CONTENT_HANDSHAKE) && is(1, VERSION_MAJOR)
}

/// The length of the record that begins here, and that of its header.
fn record_header(bytes: &[u8]) -> Result<Option<(usize, usize)>, HelloError> {
    if bytes.first().is_some_and(|content| *content != CONTENT_HANDSHAKE) {
        return Err(HelloError::Interleaved);
    }
    let Some(header @ [_, _, _, high, low]) = bytes.first_chunk() else { return Ok(None) };
    match usize::from(u16::from_be_bytes([*high, *low])) {
        0 => Err(HelloError::EmptyRecord),
        length if length > RECORD_BYTES_MAX => Err(HelloError::RecordLength),
        length => Ok(Some((length, header.len()))),
    }
}

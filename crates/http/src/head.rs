//! The strict parser of request heads. The slow path, the model of the packet path and the tests call it
//! with bytes of a client; rules and keys ask the [`Request`] it gives. It never guesses: what is not
//! clear has no [`Request`], and a head that can no longer become clear is in doubt at once.

use std::borrow::Cow;

use crate::normal::normalise;
use crate::reason::Reason;
use crate::scan::{Phase, Scan, Side};

/// What some bytes are, read as the beginning of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// They begin with a clear head of so many bytes, the empty line included.
    Complete(Request<'a>, usize),
    /// More bytes may make a clear head of them.
    Incomplete,
    /// No more bytes can.
    Doubt(Reason),
}

/// What the bytes are, read as the beginning of a request. For a head that comes in pieces, a
/// [`Reading`] looks at each byte once.
pub fn parse_request(bytes: &[u8]) -> Parsed<'_> {
    Reading::default().parse(bytes)
}

/// A head being read in pieces.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    scan: Scan,
    read: usize,
    doubt: Option<Reason>,
}

impl Default for Reading {
    fn default() -> Self {
        Self { scan: Scan::new(Side::Requests), read: 0, doubt: None }
    }
}

impl Reading {
    /// What has been received so far: all of it, from the request's first byte, each time. Only what was
    /// not there the last time is looked at.
    pub fn parse<'a>(&mut self, received: &'a [u8]) -> Parsed<'a> {
        for c in received.iter().skip(self.read) {
            if self.doubt.is_some() || self.scan.phase == Phase::HeadDone {
                break;
            }
            self.doubt = self.scan.step(*c).err();
            self.read += 1;
        }
        match self.doubt {
            Some(reason) => Parsed::Doubt(reason),
            None if self.scan.phase != Phase::HeadDone => Parsed::Incomplete,
            None => match Request::of_clear(received, &self.scan) {
                Some(request) => Parsed::Complete(request, self.read),
                None => Parsed::Incomplete,
            },
        }
    }
}

/// A clear request. Everything borrows from the bytes it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// 1 to 15 upper-case letters.
    pub method: &'a str,
    /// The normalised path, which keys and routes look at.
    pub path: Cow<'a, str>,
    /// The path as it was sent.
    pub raw_path: &'a str,
    /// What follows the first `?`, as it was sent.
    pub query: Option<&'a str>,
    /// The version named in the request line.
    pub version: Version,
    /// The host named by the `Host` header: lower case, without port and final dot. `None` when the header is missing or empty.
    pub host: Option<Cow<'a, str>>,
    /// How the body that follows the head is delimited.
    pub body: Body,
    fields: &'a [u8],
}

/// The versions that a clear request may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// How a message's body is delimited (RFC 9112 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// There is none.
    None,
    /// This many bytes.
    Length(u64),
    /// Chunks, up to one of size zero and its trailer.
    Chunked,
}

/// The headers of a request in the order they were sent: name, and value without surrounding blanks.
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    rest: &'a [u8],
}

impl<'a> Request<'a> {
    /// The request that begins these bytes, which the scan has found to begin with a clear head.
    fn of_clear(bytes: &'a [u8], scan: &Scan) -> Option<Self> {
        let (method, rest) = split(bytes, b' ')?;
        let (asked_for, rest) = split(rest, b' ')?;
        let (_version, fields) = split(rest, b'\n')?;
        let asked_for = str::from_utf8(asked_for).ok()?;
        let (raw_path, query) = match asked_for.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (asked_for, None),
        };
        let host = Headers { rest: fields }.find(|(name, _)| name.eq_ignore_ascii_case(b"host"));
        Some(Self {
            method: str::from_utf8(method).ok()?,
            path: normalise(raw_path)?,
            raw_path,
            query,
            version: if scan.is_http10() { Version::Http10 } else { Version::Http11 },
            host: host.and_then(|(_, value)| host_of(value)),
            body: match scan.left {
                _ if scan.is_chunked() => Body::Chunked,
                0 => Body::None,
                length => Body::Length(length),
            },
            fields,
        })
    }

    /// The headers, in the order they were sent.
    pub fn headers(&self) -> Headers<'a> {
        Headers { rest: self.fields }
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        // The empty line at the end has no colon; a clear line ends in the only CRLF it has.
        let (line, rest) = split(self.rest, b'\n')?;
        let (name, value) = split(line, b':')?;
        self.rest = rest;
        Some((name, value.trim_ascii()))
    }
}

/// What stands before and behind the first `at`.
fn split(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let mut parts = bytes.splitn(2, |c| *c == at);
    Some((parts.next()?, parts.next()?))
}

/// A Host header's value as routes compare it (RFC 9110 4.2.3): lower case, without port and final dot.
fn host_of(value: &[u8]) -> Option<Cow<'_, str>> {
    let host = String::from_utf8_lossy(value);
    let end = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) => name.len(),
        _ => host.len(),
    };
    let name = host.get(..end)?;
    let name = name.strip_suffix('.').unwrap_or(name);
    match (&host, name) {
        (_, "") => None,
        (Cow::Borrowed(whole), _) if !name.bytes().any(|c| c.is_ascii_uppercase()) => {
            whole.get(..name.len()).map(Cow::Borrowed)
        }
        _ => Some(Cow::Owned(name.to_ascii_lowercase())),
    }
}

//! The strict parser of request heads. The slow path, the model of the packet path and the tests call it
//! with bytes of a client; rules and keys ask the [`Request`] it gives. It never guesses: what is not
//! clear has no [`Request`], and a head that can no longer become clear is in doubt at once.

use std::borrow::Cow;

use crate::bytes::is_method_byte;
use crate::normal::normalise;
use crate::readings::{is_plain, readings};
use crate::reason::Reason;
use crate::scan::{METHOD_MAX, Phase, Scan, Side};

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

/// Whether a clear request may have this method, but for CONNECT, which is none's.
pub fn is_method(text: &str) -> bool {
    (1..=usize::from(METHOD_MAX)).contains(&text.len()) && text.bytes().all(is_method_byte)
}

/// What the bytes are, read as the beginning of a request. For a head that comes in pieces, a
/// [`HeadReader`] looks at each byte once.
pub fn parse_request(bytes: &[u8]) -> Parsed<'_> {
    HeadReader::default().parse(bytes)
}

/// A head being read in pieces.
#[derive(Clone, Copy, Debug)]
pub struct HeadReader {
    scan: Scan,
    read: usize,
    doubt: Option<Reason>,
}

impl Default for HeadReader {
    fn default() -> Self {
        Self { scan: Scan::new(Side::Requests), read: 0, doubt: None }
    }
}

impl HeadReader {
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
    /// 1 to 31 bytes of a token, no lower-case letters among them.
    pub method: &'a str,
    /// The normalised path, which keys and routes look at. `*` for OPTIONS about the server as a whole: the
    /// beginning of no route's path.
    pub path: Cow<'a, str>,
    /// What follows the host, up to the query, as it was sent: of a URI that ends with its host nothing.
    pub raw_path: &'a [u8],
    /// What follows the first `?`, as it was sent.
    pub query: Option<&'a [u8]>,
    /// Its target is a whole URI, which names the host.
    pub absolute: bool,
    /// The version named in the request line.
    pub version: Version,
    /// The host of a target in absolute form (RFC 9112 3.2.2), else the one named by the `Host` header: lower
    /// case, without port and final dot. `None` when there is none.
    pub host: Option<Cow<'a, str>>,
    /// Where servers may see another host than that.
    pub(crate) other_hosts: Vec<Option<Cow<'a, str>>>,
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
        let begin = bytes.iter().position(|c| !matches!(c, b'\r' | b'\n'))?;
        let (method, rest) = split(bytes.get(begin..)?, b' ')?;
        let (target, rest) = split(rest, b' ')?;
        let (_version, fields) = split(rest, b'\n')?;
        let method = str::from_utf8(method).ok()?;
        let (authority, asked_for) = authority_of(target);
        let (raw_path, query) = split(asked_for, b'?').map_or((asked_for, None), |(path, q)| (path, Some(q)));
        let header = Headers { rest: fields }.find(|(name, _)| name.eq_ignore_ascii_case(b"host"));
        let (host, other_hosts) = hosts_of(authority, header.map(|(_, value)| value));
        Some(Self {
            method,
            path: match raw_path {
                b"*" => "*".into(),
                // RFC 9112 3.2.4, RFC 9110 4.2.3
                b"" if method == "OPTIONS" && query.is_none() => "*".into(),
                b"" => "/".into(),
                _ => normalise(raw_path)?,
            },
            raw_path,
            query,
            absolute: authority.is_some(),
            version: if scan.is_http10() { Version::Http10 } else { Version::Http11 },
            host,
            other_hosts,
            body: match scan.left {
                _ if scan.is_chunked() => Body::Chunked,
                0 => Body::None,
                length => Body::Length(length),
            },
            fields,
        })
    }

    /// What servers may take its path for; `None`: too much.
    pub(crate) fn readings(&self) -> Option<Vec<String>> {
        match self.raw_path {
            b"" => Some(vec!["/".to_owned(), self.path.as_ref().to_owned()]),
            path if path == b"*" || is_plain(path) => Some(vec![self.path.as_ref().to_owned()]),
            path => readings(path),
        }
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

/// Host and port of a target in absolute form, and what follows them.
fn authority_of(target: &[u8]) -> (Option<&[u8]>, &[u8]) {
    let slashes = target.windows(3).position(|three| three == b"://");
    let Some(after) = slashes.filter(|_| !target.starts_with(b"/")).and_then(|at| target.get(at + 3..))
    else {
        return (None, target);
    };
    let end = after.iter().position(|c| matches!(c, b'/' | b'?')).unwrap_or(after.len());
    let (authority, asked_for) = after.split_at(end);
    (Some(authority), asked_for)
}

/// The host that a request is for, and those that servers may take it for besides: some look at the Host header
/// although the target names a host, and some take a host with a final dot for another one.
fn hosts_of<'a>(
    authority: Option<&'a [u8]>,
    header: Option<&'a [u8]>,
) -> (Option<Cow<'a, str>>, Vec<Option<Cow<'a, str>>>) {
    let host = authority.or(header).and_then(host_of);
    let mut others = Vec::new();
    if authority.is_some() && header.is_none() {
        others.push(None);
    }
    for value in [authority, header].into_iter().flatten() {
        let (name, read) = (name_of(value), host_of(value));
        if name.ends_with(b".") {
            let as_sent = String::from_utf8_lossy(name).to_ascii_lowercase();
            others.push(Some(Cow::Owned(as_sent)));
        }
        if read != host {
            others.push(read);
        }
    }
    (host, others)
}

/// A host with its port as routes compare it (RFC 9110 4.2.3): lower case, without port and final dot.
fn host_of(value: &[u8]) -> Option<Cow<'_, str>> {
    let name = name_of(value);
    let name = str::from_utf8(name.strip_suffix(b".").unwrap_or(name)).ok()?;
    match name {
        "" => None,
        _ if !name.bytes().any(|c| c.is_ascii_uppercase()) => Some(name.into()),
        _ => Some(name.to_ascii_lowercase().into()),
    }
}

/// Without port. The scanner has seen to it that a colon behind a bracket, or the only one, comes before a port.
fn name_of(value: &[u8]) -> &[u8] {
    let end = match value.iter().position(|c| *c == b']') {
        Some(bracket) => bracket + 1,
        None => value.iter().position(|c| *c == b':').unwrap_or(value.len()),
    };
    value.get(..end).unwrap_or(value)
}

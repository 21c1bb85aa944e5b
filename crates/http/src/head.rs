//! A request head as Baton sees it. Made by the strict parser from bytes of a client; asked by rules and
//! keys. It never guesses: what is not clear has no [`Request`].

use std::borrow::Cow;

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
    /// The headers, in the order they were sent.
    pub fn headers(&self) -> Headers<'a> {
        Headers { rest: self.fields }
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let end = self.rest.windows(2).position(|pair| pair == b"\r\n")?;
        let (line, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest.get(2..)?;
        let colon = line.iter().position(|c| *c == b':')?;
        let (name, value) = line.split_at_checked(colon)?;
        Some((name, value.get(1..)?.trim_ascii()))
    }
}

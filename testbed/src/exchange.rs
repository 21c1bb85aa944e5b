//! Requests of many kinds about one content, and what is right as their answer: for loads that are
//! more than GET. Uploads need a server with the testbed's application ([`crate::WebServer::node`] or
//! [`crate::WebServer::nginx_before_app`]).

use std::io::Write as _;

use crate::client::{Fault, Response, Right};
use crate::content::Content;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// All of it.
    Get,
    /// Its head only.
    Head,
    /// From the first byte up to, but not with, the second.
    Range(u64, u64),
    /// It is sent, and sent back.
    Echo(Framing),
    /// It is sent, and the server says whether it is right.
    Check(Framing),
}

/// How the end of an upload is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// By its length.
    Length,
    /// In chunks of at most so many bytes, some with extensions; with a trailer.
    Chunked(usize),
}

/// A request, and what is right as its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    content: Content,
    kind: Kind,
}

impl Exchange {
    /// A request of a kind about the content `name` of `size` bytes.
    pub fn new(name: &str, size: u64, kind: Kind) -> Self {
        let name = match kind {
            Kind::Echo(_) => format!("app/echo/{name}"),
            Kind::Check(_) => format!("app/check/{name}"),
            _ => name.to_owned(),
        };
        Self { content: Content::new(&name, size), kind }
    }

    /// What it is about.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// What is asked.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The bytes of the request, its body included.
    pub fn request(&self) -> Vec<u8> {
        let path = self.content.path();
        let head = |method, field: &str| format!("{method} {path} HTTP/1.1\r\nHost: testbed\r\n{field}\r\n");
        match self.kind {
            Kind::Get => head("GET", "").into_bytes(),
            Kind::Head => head("HEAD", "").into_bytes(),
            Kind::Range(start, end) => {
                head("GET", &format!("Range: bytes={start}-{}\r\n", end.saturating_sub(1))).into_bytes()
            }
            Kind::Echo(Framing::Length) | Kind::Check(Framing::Length) => {
                let field = format!("Content-Length: {}\r\n", self.content.size());
                let mut bytes = head("POST", &field).into_bytes();
                self.body(usize::MAX, |piece| bytes.extend_from_slice(piece));
                bytes
            }
            Kind::Echo(Framing::Chunked(most)) | Kind::Check(Framing::Chunked(most)) => {
                let field = "Transfer-Encoding: chunked\r\nTrailer: X-After\r\n";
                let mut bytes = head("POST", field).into_bytes();
                self.body(most.max(1), |piece| {
                    let extension = if piece.len() % 3 == 0 { ";of=three" } else { "" };
                    // Writing to a vector does not fail.
                    let _ = write!(bytes, "{:x}{extension}\r\n", piece.len());
                    bytes.extend_from_slice(piece);
                    bytes.extend_from_slice(b"\r\n");
                });
                bytes.extend_from_slice(b"0\r\nX-After: all\r\n\r\n");
                bytes
            }
        }
    }

    fn body(&self, most: usize, mut take: impl FnMut(&[u8])) {
        let mut body = self.content.body();
        while let Some(piece) = body.next(most) {
            take(piece);
        }
    }

    /// The status and the body that are right.
    pub(crate) fn right(&self) -> (u16, Right<'_>) {
        let content = &self.content;
        match self.kind {
            Kind::Get | Kind::Echo(_) => (200, Right::Body(content, 0..content.size())),
            Kind::Head => (200, Right::None),
            Kind::Range(start, end) => (206, Right::Body(content, start..end)),
            Kind::Check(_) => (200, Right::Any),
        }
    }

    /// What is right besides.
    pub(crate) fn judge(&self, response: &Response) -> Result<(), Fault> {
        let size = self.content.size();
        let right = match self.kind {
            Kind::Head => response.header("content-length") == Some(size.to_string().as_str()),
            Kind::Check(_) => response.body == format!("ok {size}\n").as_bytes(),
            _ => true,
        };
        let path = || self.content.path().to_owned();
        if right { Ok(()) } else { Err(Fault::WrongBody { path: path(), at: 0 }) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Exchange, Framing, Kind};

    #[test]
    fn requests_are_written_as_their_kind_says() {
        let text = |kind| String::from_utf8_lossy(&Exchange::new("x", 0, kind).request()).into_owned();
        assert!(
            text(Kind::Range(5, 9)).contains("GET /x.0 ")
                && text(Kind::Range(5, 9)).contains("bytes=5-8\r\n")
        );
        assert!(text(Kind::Check(Framing::Length)).ends_with("Content-Length: 0\r\n\r\n"));
        let chunked = Exchange::new("x", 10, Kind::Echo(Framing::Chunked(6))).request();
        let body = chunked.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
        let body = &chunked[body..];
        assert!(body.starts_with(b"6;of=three\r\n") && body[12 + 6..].starts_with(b"\r\n4\r\n"));
        assert!(body.ends_with(b"\r\n0\r\nX-After: all\r\n\r\n"));
    }
}

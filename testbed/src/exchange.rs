//! Requests of many kinds about one content, and what is right as their answer: for loads that are
//! more than GET. Uploads need a server with the testbed's application ([`crate::WebServer::node`] or
//! [`crate::WebServer::nginx_before_app`]).

use std::io::{self, Write};

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
    ///
    /// # Panics
    /// Never.
    pub fn request(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write_to(&mut bytes).expect("writing to a vector does not fail");
        bytes
    }

    /// Writes the request, its body included, which may be longer than memory.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_to(&self, mut out: impl Write) -> io::Result<()> {
        let head = self.head();
        match self.kind {
            Kind::Get | Kind::Head | Kind::Range(..) => out.write_all(head.as_bytes()),
            Kind::Echo(framing) | Kind::Check(framing) => {
                out.write_all(head.as_bytes())?;
                self.write_body(out, framing)
            }
        }
    }

    fn head(&self) -> String {
        let (method, fields) = match self.kind {
            Kind::Get => ("GET", String::new()),
            Kind::Head => ("HEAD", String::new()),
            Kind::Range(start, end) => ("GET", format!("Range: bytes={start}-{}\r\n", end.saturating_sub(1))),
            Kind::Echo(Framing::Length) | Kind::Check(Framing::Length) => {
                ("POST", format!("Content-Length: {}\r\n", self.content.size()))
            }
            Kind::Echo(Framing::Chunked(_)) | Kind::Check(Framing::Chunked(_)) => {
                ("POST", "Transfer-Encoding: chunked\r\nTrailer: X-After\r\n".to_owned())
            }
        };
        format!("{method} {} HTTP/1.1\r\nHost: testbed\r\n{fields}\r\n", self.content.path())
    }

    fn write_body(&self, mut out: impl Write, framing: Framing) -> io::Result<()> {
        let mut body = self.content.body();
        let Framing::Chunked(most) = framing else {
            while let Some(piece) = body.next(usize::MAX) {
                out.write_all(piece)?;
            }
            return Ok(());
        };
        while let Some(piece) = body.next(most.max(1)) {
            let extension = if piece.len() % 3 == 0 { ";of=three" } else { "" };
            write!(out, "{:x}{extension}\r\n", piece.len())?;
            out.write_all(piece)?;
            out.write_all(b"\r\n")?;
        }
        out.write_all(b"0\r\nX-After: all\r\n\r\n")
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

//! The web servers: each request, in order, gets its answer, in pieces and after a while, when all that it carries has come.

use std::collections::VecDeque;

use crate::message::{CONTINUE, RequestId, answer, content, take_chunked};

/// A request's head, as a server reads it.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) id: RequestId,
    /// Of its path.
    pub(crate) pool: usize,
    /// The length of its answer's body.
    body: usize,
    /// The length of what it carries, and how that is coded.
    carries: usize,
    chunked: bool,
    expects: bool,
}

/// A request's head, taken off a stream; an error: it is none.
pub(crate) fn take_request(input: &mut Vec<u8>) -> Option<Result<Request, String>> {
    let end = input.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head: Vec<u8> = input.drain(..end).collect();
    let head = String::from_utf8_lossy(&head).into_owned();
    Some(Request::read(&head).ok_or(head))
}

impl Request {
    fn read(head: &str) -> Option<Self> {
        let (method, path) = head.split_once(" /p")?;
        let (pool, _) = path.split_once('/')?;
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let mut numbers = field("X-Id")?.split('-').map(str::parse::<usize>);
        let mut next = || numbers.next()?.ok();
        let (client, number, body, carries) = (next()?, next()?, next()?, next()?);
        let chunked = field("Transfer-Encoding") == Some("chunked");
        let length = field("Content-Length").map_or(Some(0), |text| text.parse().ok())?;
        let is_right = match method {
            "GET" => !chunked && carries == 0,
            "POST" => chunked || carries == length,
            _ => false,
        };
        let expects = field("Expect").is_some();
        let id = (client, number);
        is_right.then_some(Self { id, pool: pool.parse().ok()?, body, carries, chunked, expects })
    }

    /// What is said at once, if nothing of the content has come yet.
    pub(crate) fn goes_on(&self, input: &[u8]) -> &'static [u8] {
        if self.expects && input.is_empty() { CONTINUE } else { b"" }
    }

    /// Takes what it carries off the stream, when all of it is there. An error: it is not what its client sent.
    pub(crate) fn take_content(&self, input: &mut Vec<u8>) -> Option<Result<(), String>> {
        let got = if self.chunked {
            match take_chunked(input)? {
                Ok(got) => got,
                Err(error) => return Some(Err(format!("{error:?} is no chunk"))),
            }
        } else if input.len() < self.carries {
            return None;
        } else {
            input.drain(..self.carries).collect()
        };
        Some(if got == content(self.id, self.carries) {
            Ok(())
        } else {
            Err(format!("{} bytes of {} are not what the client sent", got.len(), self.carries))
        })
    }

    /// Its answer in pieces, each with the time at which it is written.
    pub(crate) fn pieces(
        &self,
        node: usize,
        from: u64,
        mut choose: impl FnMut(u64) -> u64,
    ) -> VecDeque<(u64, Vec<u8>)> {
        const THINKS: u64 = 20_000_000;
        let whole = answer(self.id, self.body, node);
        let mut at = from + if choose(3) == 0 { choose(THINKS) } else { choose(THINKS / 40) };
        let cuts = choose(3);
        let mut pieces = VecDeque::new();
        let mut rest = &whole[..];
        for _ in 0..cuts {
            let (piece, left) = rest.split_at(choose(rest.len() as u64) as usize);
            pieces.push_back((at, piece.to_vec()));
            at += choose(THINKS / 4);
            rest = left;
        }
        pieces.push_back((at, rest.to_vec()));
        pieces
    }
}

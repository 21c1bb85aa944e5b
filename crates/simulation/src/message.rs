//! What clients and servers say to each other, by RFC 9112: requests with and without content, and their answers. Each
//! byte follows from which request it is, so both ends know what they must get.

use crate::plan::{RequestPlan, Upload};

/// What a request is in the world: of which client, which one.
pub(crate) type RequestId = (usize, usize);

/// How many different ones each pool has.
const TARGETS: usize = 12;

/// A request's head.
pub(crate) fn request(id: RequestId, plan: &RequestPlan) -> Vec<u8> {
    let dot = if plan.odd { "./" } else { "" };
    let padding = "x".repeat(plan.padding);
    let (method, fields) = match plan.upload {
        None => ("GET", String::new()),
        Some(Upload { bytes, chunked, expects }) => {
            let expect = if expects { "Expect: 100-continue\r\n" } else { "" };
            let length = if chunked {
                "Transfer-Encoding: chunked\r\n".to_owned()
            } else {
                format!("Content-Length: {bytes}\r\n")
            };
            ("POST", format!("{expect}{length}"))
        }
    };
    let sent = plan.upload.map_or(0, |upload| upload.bytes);
    // Few targets, so that one is asked for again and again.
    let target = (plan.body + plan.padding) % TARGETS;
    let numbers = format!("{}-{}-{}-{sent}", id.0, id.1, plan.body);
    format!(
        "{method} /p{}/{dot}{target} HTTP/1.1\r\nHost: www\r\nX-Padding: {padding}\r\nX-Id: {numbers}\r\n{fields}\r\n",
        plan.pool
    )
    .into_bytes()
}

/// What a request carries, before it is coded. Half of it looks like another request, which must not be taken for one.
pub(crate) fn content(id: RequestId, bytes: usize) -> Vec<u8> {
    let lure = b"\r\n\r\nGET /p1/7 HTTP/1.1\r\nHost: www\r\nX-Id: 9-9-9-0\r\n\r\n";
    let byte = |at: usize| {
        if at / lure.len() % 2 == id.1 % 2 {
            lure[at % lure.len()]
        } else {
            (at * 11 + id.0 * 7 + id.1) as u8
        }
    };
    (0..bytes).map(byte).collect()
}

/// The content as it is sent: RFC 9112 7.1 if it is chunked, with an extension and a trailer now and then.
pub(crate) fn coded(id: RequestId, upload: Upload) -> Vec<u8> {
    let content = content(id, upload.bytes);
    if !upload.chunked {
        return content;
    }
    let mut coded = Vec::new();
    let (mut rest, mut number) = (&content[..], id.0 + id.1);
    while !rest.is_empty() {
        let (chunk, left) = rest.split_at((number * 37 % 401 + 1).min(rest.len()));
        let extension = if number % 5 == 0 { ";a=\"b\"" } else { "" };
        coded.extend(format!("{:x}{extension}\r\n", chunk.len()).bytes());
        coded.extend(chunk);
        coded.extend(b"\r\n");
        (rest, number) = (left, number + 1);
    }
    coded.extend(if id.1.is_multiple_of(3) { &b"0\r\nX-Sum: 1\r\n\r\n"[..] } else { b"0\r\n\r\n" });
    coded
}

/// A server's answer.
pub(crate) fn answer(id: RequestId, body: usize, node: usize) -> Vec<u8> {
    let mut answer =
        format!("HTTP/1.1 200 OK\r\nServer: n{node}\r\nContent-Length: {body}\r\n\r\n").into_bytes();
    answer.extend((0..body).map(|at| (at * 7 + id.0 * 31 + id.1 * 101) as u8));
    answer
}

/// What a server says to a client that asks before it sends (RFC 9110 10.1.1).
pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Takes a chunked content off a stream, when all of it is there (RFC 9112 7.1).
pub(crate) fn take_chunked(input: &mut Vec<u8>) -> Option<Result<Vec<u8>, String>> {
    let mut content = Vec::new();
    let mut at = 0;
    loop {
        let line = line(&input[at..])?;
        let (digits, length) = (line.split(';').next().unwrap_or(""), line.len() + 2);
        let Ok(size) = usize::from_str_radix(digits, 16) else { return Some(Err(line)) };
        at += length;
        if size == 0 {
            break;
        }
        let chunk = input.get(at..at + size + 2)?;
        if !chunk.ends_with(b"\r\n") {
            return Some(Err("no end of a chunk".to_owned()));
        }
        content.extend(&chunk[..size]);
        at += size + 2;
    }
    loop {
        let trailer = line(&input[at..])?;
        at += trailer.len() + 2;
        if trailer.is_empty() {
            input.drain(..at);
            return Some(Ok(content));
        }
    }
}

fn line(bytes: &[u8]) -> Option<String> {
    let end = bytes.windows(2).position(|two| two == b"\r\n")?;
    Some(bytes[..end].iter().map(|byte| char::from(*byte)).collect())
}

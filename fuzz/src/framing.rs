//! Where messages end, by Baton's follower and by a plain walk with httparse.

use baton_http::{Exchange, Fed};

use crate::with_size;

/// The first byte says in how many bytes at a time; the second how many requests have been asked, and whether
/// they were HEAD requests (0: the bytes are requests themselves). Of the rest: in pieces, with each
/// piece twice, the follower is as it is after one piece; and where it says that messages end, the
/// walk ends them too, as long as the follower is not in doubt.
pub fn message_framing(bytes: &[u8]) -> bool {
    let (size, rest) = with_size(bytes);
    let Some((asked, stream)) = rest.split_first() else { return false };
    let (asked, head) = (usize::from(*asked & 7), *asked & 8 != 0);
    let mut whole = Exchange::new(0, 0);
    let request: &[u8] = if head { b"HEAD / HTTP/1.1\r\n\r\n" } else { b"GET / HTTP/1.1\r\n\r\n" };
    whole.request(0, &request.repeat(asked));

    let mut pieces = whole;
    let mut at = 0;
    for piece in stream.chunks(size) {
        feed(&mut pieces, asked, at, piece);
        feed(&mut pieces, asked, at, piece);
        at = at.wrapping_add(piece.len() as u32);
    }
    let ends = ends(whole, asked, stream);
    feed(&mut whole, asked, 0, stream);
    assert_eq!(pieces, whole);

    let theirs = walk(stream, asked, head);
    assert_eq!(theirs.get(..ends.len()), Some(&*ends));
    if whole.doubt().is_none() {
        assert_eq!(theirs.len(), ends.len());
    }
    !ends.is_empty()
}

fn feed(exchange: &mut Exchange, asked: usize, seq: u32, bytes: &[u8]) {
    if asked == 0 {
        exchange.request(seq, bytes);
    } else {
        exchange.response(seq, bytes);
    }
}

/// Where the follower says that messages end, one at a time.
fn ends(mut exchange: Exchange, asked: usize, stream: &[u8]) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut at = 0;
    while let Some(rest) = stream.get(at..).filter(|rest| !rest.is_empty()) {
        let before = exchange;
        let (fed, used) = if asked == 0 {
            exchange.one_request(at as u32, rest)
        } else {
            exchange.one_response(at as u32, rest)
        };
        if matches!(fed, Fed::Doubt(_)) {
            break;
        }
        at += used;
        let follower = if asked == 0 { exchange.requests() } else { exchange.responses() };
        // Empty lines before a request are none.
        let empty = asked == 0
            && before.requests().is_between_messages()
            && before.outstanding() == exchange.outstanding();
        if follower.is_between_messages() && !empty {
            ends.push(at);
        }
    }
    ends
}

/// Where messages end when httparse reads their heads and chunks: at most as many as it understands.
fn walk(stream: &[u8], asked: usize, head: bool) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut at = 0;
    let mut unanswered = asked;
    while let Some(rest) = stream.get(at..).filter(|rest| !rest.is_empty()) {
        let message = if asked == 0 { request(rest) } else { response(rest, head) };
        let Some((length, is_final)) = message.filter(|_| asked == 0 || unanswered > 0) else { break };
        let Some(end) = at.checked_add(length).filter(|end| *end <= stream.len()) else { break };
        ends.push(end);
        at = end;
        unanswered = unanswered.saturating_sub(usize::from(is_final));
    }
    ends
}

fn request(bytes: &[u8]) -> Option<(usize, bool)> {
    // httparse takes fewer of the empty lines before a request.
    let empty = bytes.iter().take_while(|c| matches!(c, b'\r' | b'\n')).count();
    let bytes = bytes.get(empty..)?;
    let mut headers = vec![httparse::EMPTY_HEADER; bytes.len() / 4 + 1];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head) = request.parse(bytes).ok()? else { return None };
    let body = match Announced::by(request.headers)? {
        Announced::Nothing => 0,
        Announced::Length(length) => length,
        Announced::Chunks => chunks(bytes.get(head..)?)?,
    };
    Some((empty.checked_add(head)?.checked_add(body)?, true))
}

fn response(bytes: &[u8], to_head: bool) -> Option<(usize, bool)> {
    let bytes = &of_a_known_version(bytes);
    let mut headers = vec![httparse::EMPTY_HEADER; bytes.len() / 4 + 1];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(bytes).ok()? else { return None };
    let status = response.code?;
    if (100..200).contains(&status) {
        return Some((head, false));
    }
    if to_head || status == 204 || status == 304 {
        return Some((head, true));
    }
    let body = match Announced::by(response.headers)? {
        Announced::Nothing => return None,
        Announced::Length(length) => length,
        Announced::Chunks => chunks(bytes.get(head..)?)?,
    };
    Some((head.checked_add(body)?, true))
}

/// httparse knows HTTP/1.0 and HTTP/1.1; the follower takes every minor version (RFC 9110 2.5).
fn of_a_known_version(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if let [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ b'2'..=b'9', ..] = bytes.as_mut_slice() {
        *minor = b'1';
    }
    bytes
}

/// What headers say of a body (RFC 9112 6.3).
enum Announced {
    Nothing,
    Length(usize),
    Chunks,
}

impl Announced {
    fn by(headers: &[httparse::Header<'_>]) -> Option<Self> {
        let value = |name: &str| headers.iter().find(|h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value);
        if let Some(coding) = value("transfer-encoding") {
            return coding.trim_ascii().eq_ignore_ascii_case(b"chunked").then_some(Self::Chunks);
        }
        match value("content-length") {
            None => Some(Self::Nothing),
            Some(length) => str::from_utf8(length.trim_ascii()).ok()?.parse().ok().map(Self::Length),
        }
    }
}

/// The length of a body in chunks, with its trailer.
fn chunks(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let httparse::Status::Complete((line, size)) = httparse::parse_chunk_size(bytes.get(at..)?).ok()?
        else {
            return None;
        };
        at += line;
        if size == 0 {
            let mut headers = vec![httparse::EMPTY_HEADER; bytes.len() / 4 + 1];
            let trailer = httparse::parse_headers(bytes.get(at..)?, &mut headers).ok()?;
            let httparse::Status::Complete((length, _)) = trailer else { return None };
            return Some(at + length);
        }
        at = at.checked_add(usize::try_from(size).ok()?)?;
        if !bytes.get(at..)?.starts_with(b"\r\n") {
            return None;
        }
        at += 2;
    }
}

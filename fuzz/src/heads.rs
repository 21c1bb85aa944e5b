//! Request heads, read by Baton and by httparse.

use baton_http::{Exchange, HeadReader, Key, Parsed, Request, Version, is_normal, normalise, parse_request};

use crate::with_size;

/// Any bytes after the first as the beginning of a request: the same in pieces of as many bytes as the first
/// says; taken by the follower when clear; and what is clear, httparse reads alike: as long, with the
/// same method, target, version, headers and host.
///
/// The other way it does not hold: httparse takes much that Baton leaves in doubt (docs/requests.md).
pub fn request_head(bytes: &[u8]) -> bool {
    let (size, sent) = with_size(bytes);
    let whole = parse_request(sent);
    let mut reading = HeadReader::default();
    let mut exchange = Exchange::new(0, 0);
    for end in (0..sent.len()).step_by(size) {
        let begun = sent.get(..end).unwrap_or_default();
        assert_eq!(reading.parse(begun), parse_request(begun));
    }
    assert_eq!(reading.parse(sent), whole);
    let head = if let Parsed::Complete(_, length) = whole { sent.get(..length) } else { Some(sent) };
    exchange.request(0, head.expect("the head's bytes are there"));
    match whole {
        Parsed::Complete(request, length) => {
            assert_eq!((exchange.doubt(), exchange.outstanding().asked()), (None, 1));
            agree(sent, &request, length);
            is_consistent(&request);
            true
        }
        Parsed::Incomplete => {
            assert_eq!((exchange.doubt(), exchange.outstanding().asked()), (None, 0));
            false
        }
        Parsed::Doubt(reason) => {
            assert_eq!((exchange.doubt(), exchange.outstanding().asked()), (Some(reason), 0));
            false
        }
    }
}

fn agree(sent: &[u8], ours: &Request<'_>, length: usize) {
    // httparse wants UTF-8 in targets, and takes fewer of the empty lines before a request.
    if str::from_utf8(ours.raw_path).is_err() || ours.query.is_some_and(|q| str::from_utf8(q).is_err()) {
        return;
    }
    let empty = sent.iter().take_while(|c| matches!(c, b'\r' | b'\n')).count();
    let (sent, length) = (sent.get(empty..).unwrap_or_default(), length - empty);
    // A header line has at least four bytes: `a:`, CR and LF.
    let mut headers = vec![httparse::EMPTY_HEADER; sent.len() / 4 + 1];
    let mut theirs = httparse::Request::new(&mut headers);
    assert_eq!(theirs.parse(sent), Ok(httparse::Status::Complete(length)));
    assert_eq!(theirs.method, Some(ours.method));
    let target = [Some(ours.raw_path), ours.query].into_iter().flatten().collect::<Vec<_>>().join(&b'?');
    let theirs_whole = theirs.path.unwrap_or_default();
    let authority = theirs_whole.as_bytes().strip_suffix(&*target).expect("path and query are its end");
    assert_eq!(ours.absolute, !authority.is_empty());
    assert_eq!(theirs.version, Some(u8::from(ours.version == Version::Http11)));
    // httparse keeps the tabs behind a value.
    let trimmed = theirs.headers.iter().map(|h| (h.name.as_bytes(), h.value.trim_ascii()));
    assert!(ours.headers().eq(trimmed));
    let mut hosts = theirs.headers.iter().filter(|h| h.name.eq_ignore_ascii_case("host"));
    let header = hosts.next().map(|host| host.value.trim_ascii());
    let named = authority.rsplit(|c| *c == b'/').next().filter(|_| ours.absolute);
    let host = named.or(header).and_then(host_of);
    assert!(hosts.next().is_none(), "two hosts are never clear");
    assert_eq!(ours.host.as_deref(), host.as_deref());
}

/// Lower case, without port and final dot.
fn host_of(value: &[u8]) -> Option<String> {
    let mut host = String::from_utf8_lossy(value).to_ascii_lowercase();
    let digits = host.len() - host.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let before_port = host.len() - digits;
    if host.get(..before_port).is_some_and(|name| name.ends_with(':')) {
        host.truncate(before_port - 1);
    }
    if host.ends_with('.') {
        host.pop();
    }
    (!host.is_empty()).then_some(host)
}

fn is_consistent(request: &Request<'_>) {
    match normalise(request.raw_path) {
        Some(normal) => assert_eq!(normal, request.path),
        // A URI that ends with its host, or OPTIONS about the server.
        None => assert!(matches!((request.raw_path, &*request.path), (b"", "/" | "*") | (b"*", "*"))),
    }
    assert!(is_normal(&*request.path) || request.path == "*");
    let keys =
        [Key::Path, Key::PathQuery, Key::Query("a".into()), Key::Header("a".into()), Key::Cookie("a".into())];
    for key in keys {
        let bytes = key.of(request);
        assert!(bytes.is_some() || !key.is_in_request_line());
    }
}

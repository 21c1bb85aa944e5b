//! Request heads, read by Baton and by httparse.

use baton_http::{Exchange, Key, Parsed, Reading, Request, Version, is_normal, normalise, parse_request};

use crate::with_size;

/// Any bytes after the first as the beginning of a request: the same in pieces of as many bytes as the first
/// says; taken by the follower when clear; and what is clear, httparse reads alike: as long, with the
/// same method, target, version, headers and host.
///
/// The other way it does not hold: httparse takes much that Baton leaves in doubt (docs/requests.md).
pub fn request_head(bytes: &[u8]) -> bool {
    let (size, sent) = with_size(bytes);
    let whole = parse_request(sent);
    let mut reading = Reading::default();
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
    // A header line has at least four bytes: `a:`, CR and LF.
    let mut headers = vec![httparse::EMPTY_HEADER; sent.len() / 4 + 1];
    let mut theirs = httparse::Request::new(&mut headers);
    assert_eq!(theirs.parse(sent), Ok(httparse::Status::Complete(length)));
    assert_eq!(theirs.method, Some(ours.method));
    let target = [Some(ours.raw_path), ours.query].into_iter().flatten().collect::<Vec<_>>().join("?");
    assert_eq!(theirs.path, Some(&*target));
    assert_eq!(theirs.version, Some(u8::from(ours.version == Version::Http11)));
    // httparse keeps the tabs behind a value.
    let trimmed = theirs.headers.iter().map(|h| (h.name.as_bytes(), h.value.trim_ascii()));
    assert!(ours.headers().eq(trimmed));
    let mut hosts = theirs.headers.iter().filter(|h| h.name.eq_ignore_ascii_case("host"));
    let host = hosts.next().and_then(|host| host_of(host.value.trim_ascii()));
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
    assert_eq!(normalise(request.raw_path).as_ref(), Some(&request.path));
    assert!(is_normal(&request.path));
    let keys =
        [Key::Path, Key::PathQuery, Key::Query("a".into()), Key::Header("a".into()), Key::Cookie("a".into())];
    for key in keys {
        let bytes = key.of(request);
        assert!(bytes.is_some() || !key.is_in_request_line());
    }
}

//! The head parser against the naive one, against httparse, and against itself in pieces.

use baton_http::{Body, Exchange, HeadReader, Parsed, Phase, Version, parse_request};
use proptest::prelude::*;

use crate::messages::{request, requests, spoilt};
use crate::naive::{self, Seen};

/// One of these completes any head that is still incomplete.
const COMPLETIONS: &[&str] = &[
    "GET / HTTP/1.1\r\n\r\n",
    " / HTTP/1.1\r\n\r\n",
    "TTP://a/ HTTP/1.1\r\n\r\n",
    "TP://a/ HTTP/1.1\r\n\r\n",
    "P://a/ HTTP/1.1\r\n\r\n",
    "://a/ HTTP/1.1\r\n\r\n",
    "//a/ HTTP/1.1\r\n\r\n",
    "/a/ HTTP/1.1\r\n\r\n",
    "a/ HTTP/1.1\r\n\r\n",
    "] HTTP/1.1\r\n\r\n",
    "1] HTTP/1.1\r\n\r\n",
    "]\r\n\r\n",
    "1]\r\n\r\n",
    "X / HTTP/1.1\r\n\r\n",
    "/ HTTP/1.1\r\n\r\n",
    "41 HTTP/1.1\r\n\r\n",
    "1 HTTP/1.1\r\n\r\n",
    " HTTP/1.1\r\n\r\n",
    "HTTP/1.1\r\n\r\n",
    "TTP/1.1\r\n\r\n",
    "TP/1.1\r\n\r\n",
    "P/1.1\r\n\r\n",
    "/1.1\r\n\r\n",
    "1.1\r\n\r\n",
    ".1\r\n\r\n",
    "1\r\n\r\n",
    "\r\n\r\n",
    "\n\r\n",
    "\r\n",
    "\n",
    "x:\r\n\r\n",
    "chunked\r\n\r\n",
    "hunked\r\n\r\n",
    "unked\r\n\r\n",
    "nked\r\n\r\n",
    "ked\r\n\r\n",
    "ed\r\n\r\n",
    "d\r\n\r\n",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_naive_reading_agrees(bytes in spoilt(requests())) {
        match (naive::request(&bytes), parse_request(&bytes)) {
            (Seen::Whole { head, .. } | Seen::Begun { head, .. }, Parsed::Complete(_, length)) => {
                prop_assert_eq!(head, length);
            }
            // The head may be clear and the body bad.
            (Seen::Bad, Parsed::Complete(request, _)) => prop_assert_eq!(request.body, Body::Chunked),
            (Seen::Bad, Parsed::Doubt(_)) | (Seen::Unknown, Parsed::Doubt(_) | Parsed::Incomplete) => {}
            (seen, parsed) => prop_assert!(false, "{seen:?} {parsed:?}"),
        }
    }

    #[test]
    fn httparse_agrees_when_we_are_clear(bytes in spoilt(requests())) {
        let Parsed::Complete(ours, length) = parse_request(&bytes) else { return Ok(()) };
        // httparse wants UTF-8 in targets.
        prop_assume!(str::from_utf8(ours.raw_path).is_ok() && ours.query.is_none_or(|q| str::from_utf8(q).is_ok()));
        // httparse takes fewer of the empty lines before a request.
        let empty = bytes.iter().take_while(|c| matches!(c, b'\r' | b'\n')).count();
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut theirs = httparse::Request::new(&mut headers);
        prop_assert_eq!(theirs.parse(&bytes[empty..]), Ok(httparse::Status::Complete(length - empty)));
        prop_assert_eq!(theirs.method, Some(ours.method));
        let path = if ours.raw_path.is_empty() { &b""[..] } else { ours.raw_path };
        let target = [Some(path), ours.query].into_iter().flatten().collect::<Vec<_>>().join(&b'?');
        prop_assert!(theirs.path.is_some_and(|path| path.as_bytes().ends_with(&target)), "{:?}", theirs.path);
        prop_assert_eq!(theirs.version, Some(u8::from(ours.version == Version::Http11)));
        let their_headers: Vec<_> = theirs.headers.iter().map(|h| (h.name.as_bytes(), h.value)).collect();
        // httparse keeps the blanks behind a value when they are tabs.
        let trimmed: Vec<_> = their_headers.iter().map(|(n, v)| (*n, v.trim_ascii())).collect();
        prop_assert_eq!(ours.headers().collect::<Vec<_>>(), trimmed);
    }

    #[test]
    fn a_doubt_lasts_and_an_incomplete_head_can_be_completed(bytes in spoilt(request().prop_map(|m| m.bytes)), cut: prop::sample::Index) {
        let bytes = &bytes[..cut.index(bytes.len() + 1)];
        let longer = |end: &&str| [bytes, end.as_bytes()].concat();
        match parse_request(bytes) {
            Parsed::Doubt(reason) => {
                for all in COMPLETIONS.iter().map(longer) {
                    prop_assert_eq!(parse_request(&all), Parsed::Doubt(reason));
                }
            }
            Parsed::Incomplete => prop_assert!(
                COMPLETIONS.iter().map(longer).any(|all| matches!(parse_request(&all), Parsed::Complete(..)))
            ),
            Parsed::Complete(..) => {}
        }
    }

    #[test]
    fn a_head_in_pieces_is_the_same_head(bytes in spoilt(requests()), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..9)) {
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        ends.sort_unstable();
        let mut reading = HeadReader::default();
        for end in ends {
            prop_assert_eq!(reading.parse(&bytes[..end]), parse_request(&bytes[..end]));
        }
        prop_assert_eq!(reading.parse(&bytes), parse_request(&bytes));
    }

    #[test]
    fn the_follower_takes_what_the_parser_calls_clear(bytes in spoilt(requests())) {
        let mut exchange = Exchange::new(0, 0);
        match parse_request(&bytes) {
            Parsed::Complete(request, length) => {
                exchange.request(0, &bytes[..length]);
                prop_assert_eq!(exchange.doubt(), None);
                prop_assert_eq!(exchange.outstanding().asked(), 1);
                let (phase, left) = match request.body {
                    Body::None => (Phase::Start, 0),
                    Body::Length(n) => (Phase::Body, n),
                    Body::Chunked => (Phase::ChunkSize, 0),
                };
                prop_assert_eq!((exchange.requests().phase(), exchange.requests().left()), (phase, left));
            }
            Parsed::Incomplete => {
                exchange.request(0, &bytes);
                prop_assert_eq!((exchange.doubt(), exchange.outstanding().asked()), (None, 0));
            }
            Parsed::Doubt(reason) => {
                exchange.request(0, &bytes);
                prop_assert_eq!((exchange.doubt(), exchange.outstanding().asked()), (Some(reason), 0));
            }
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
        let _ = parse_request(&bytes);
        let mut exchange = Exchange::new(0, 0);
        exchange.request(0, &bytes);
        exchange.response(0, &bytes);
    }
}

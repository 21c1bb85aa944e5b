//! Both directions together: which response answers which request, and when the connection is idle.

use baton_http::{Exchange, Fed, Reason};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::messages::asked;

const GET: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
const HEAD: &[u8] = b"HEAD / HTTP/1.1\r\n\r\n";
const EMPTY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// A connection of a client and a server that speak in order.
struct Connection {
    exchange: Exchange,
    client: u32,
    server: u32,
}

impl Connection {
    fn new() -> Self {
        Self { exchange: Exchange::new(u32::MAX - 100, 77), client: u32::MAX - 100, server: 77 }
    }

    fn ask(&mut self, bytes: &[u8]) -> Fed {
        let fed = self.exchange.request(self.client, bytes);
        self.client = self.client.wrapping_add(bytes.len() as u32);
        fed
    }

    fn answer(&mut self, bytes: &[u8]) -> Fed {
        let fed = self.exchange.response(self.server, bytes);
        self.server = self.server.wrapping_add(bytes.len() as u32);
        fed
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn any_conversation_is_followed(all in vec(asked(), 1..40), turns in vec(any::<bool>(), 80), cut in any::<Index>()) {
        let mut connection = Connection::new();
        let (mut asked, mut answered) = (0, 0);
        let mut turns = turns.into_iter();
        while answered < all.len() {
            let next_asks = asked - answered < 32 && turns.next().unwrap_or(true);
            if asked < all.len() && (asked == answered || next_asks) {
                let bytes = &all[asked].request.bytes;
                let (first, second) = bytes.split_at(cut.index(bytes.len()));
                connection.ask(first);
                if first.iter().any(|c| !matches!(c, b'\r' | b'\n')) {
                    prop_assert!(!connection.exchange.is_idle());
                }
                connection.ask(second);
                asked += 1;
                prop_assert_eq!(connection.exchange.requests().boundary(), connection.client);
            } else {
                for interim in &all[answered].interim {
                    connection.answer(interim);
                    prop_assert!(connection.exchange.responses().is_between_messages());
                    prop_assert!(!connection.exchange.is_idle());
                }
                let bytes = &all[answered].response;
                let (first, second) = bytes.split_at(cut.index(bytes.len()));
                connection.answer(first);
                prop_assert!(!connection.exchange.is_idle());
                connection.answer(second);
                answered += 1;
                prop_assert_eq!(connection.exchange.responses().boundary(), connection.server);
            }
            let outstanding = connection.exchange.outstanding();
            prop_assert_eq!(connection.exchange.doubt(), None);
            prop_assert_eq!((outstanding.asked(), outstanding.answered()), (asked as u32, answered as u32));
            let goes_on = !connection.exchange.is_closing();
            prop_assert_eq!(connection.exchange.is_idle(), asked == answered && goes_on);
        }
    }
}

#[test]
fn a_head_response_has_no_body_and_a_get_response_has() {
    let length_5 = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    let mut connection = Connection::new();
    connection.ask(HEAD);
    connection.ask(GET);
    connection.answer(length_5);
    assert_eq!(connection.exchange.outstanding().answered(), 1);
    connection.answer(length_5);
    assert_eq!(connection.exchange.outstanding().answered(), 1);
    connection.answer(b"HTTP/");
    assert!(connection.exchange.is_idle());
    connection.ask(b"HEAD / HTTP/1.1\r\n\r\n");
    assert_eq!(connection.answer(b"HTTP/1.1 200 OK\r\n\r\n"), Fed::Followed);
    assert!(connection.exchange.is_idle());
}

#[test]
fn which_requests_are_head_is_remembered_over_many_turns() {
    let mut connection = Connection::new();
    for turn in 0..100_u32 {
        let ask = |n: u32| if n.is_multiple_of(3) { HEAD } else { GET };
        for n in 0..1 + turn % 32 {
            assert_eq!(connection.ask(ask(turn + n)), Fed::Followed);
        }
        for n in 0..1 + turn % 32 {
            let body: &[u8] = if ask(turn + n) == HEAD { b"" } else { b"abc" };
            connection.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n");
            connection.answer(body);
        }
        assert!(connection.exchange.is_idle(), "turn {turn}");
    }
}

#[test]
fn more_than_32_unanswered_requests_are_in_doubt() {
    let mut connection = Connection::new();
    assert_eq!(connection.ask(&GET.repeat(32)), Fed::Followed);
    connection.answer(EMPTY);
    assert_eq!(connection.ask(GET), Fed::Followed);
    assert_eq!(connection.ask(GET), Fed::Doubt(Reason::TooManyAsked));
}

#[test]
fn a_response_before_the_end_of_the_request_does_not_make_idle() {
    let mut connection = Connection::new();
    connection.ask(b"PUT / HTTP/1.1\r\nContent-Length: 3\r\n\r\na");
    connection.answer(EMPTY);
    assert!(connection.exchange.outstanding().is_none());
    assert!(!connection.exchange.is_idle());
    connection.ask(b"bc");
    assert!(connection.exchange.is_idle());
}

#[test]
fn doubtful_responses_are_in_doubt_and_say_why() {
    for (response, reason) in [
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", Reason::Upgrade),
        ("HTTP/1.1 200 OK\r\n\r\n", Reason::UntilClose),
        ("HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nbytes", Reason::UntilClose),
        ("http/1.1 200 OK\r\n", Reason::StatusLine),
        ("HTTP/2.0 200 OK\r\n", Reason::StatusLine),
        ("HTTP/1.1  200 OK\r\n", Reason::StatusLine),
        ("HTTP/1.1 20 OK\r\n", Reason::StatusLine),
        ("HTTP/1.1 2000\r\n", Reason::StatusLine),
        ("HTTP/1.1 200\tOK\r\n", Reason::StatusLine),
        ("\r\nHTTP/1.1 200 OK\r\n", Reason::StatusLine),
        ("<html>", Reason::StatusLine),
        ("HTTP/1.1 200\n", Reason::BareLf),
        ("HTTP/1.1 200 OK\n", Reason::BareLf),
        ("HTTP/1.1 200 O\0K\r\n", Reason::Value),
        ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n", Reason::Folded),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n", Reason::LengthTwice),
        ("HTTP/1.1 204 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n", Reason::LengthAndCoding),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n", Reason::Coding),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n", Reason::CodingTooEarly),
    ] {
        let mut connection = Connection::new();
        connection.ask(GET);
        assert_eq!(connection.answer(response.as_bytes()), Fed::Doubt(reason), "{response:?}");
        assert_eq!(connection.ask(GET), Fed::Doubt(reason), "{response:?}: for ever");
        assert_eq!(connection.answer(EMPTY), Fed::Doubt(reason), "{response:?}: for ever");
        assert!(!connection.exchange.is_idle());
    }
}

#[test]
fn a_response_to_no_request_is_in_doubt() {
    let mut connection = Connection::new();
    assert_eq!(connection.answer(b"H"), Fed::Doubt(Reason::Unasked));
    let mut connection = Connection::new();
    connection.ask(GET);
    connection.answer(EMPTY);
    assert_eq!(connection.answer(EMPTY), Fed::Doubt(Reason::Unasked));
    let mut connection = Connection::new();
    connection.ask(b"GET / HTTP/1.1\r\nA: b"); // a 408, say
    assert_eq!(connection.answer(EMPTY), Fed::Doubt(Reason::Unasked));
}

#[test]
fn doubtful_chunks_are_in_doubt_and_say_why() {
    for (body, reason) in [
        ("\r\n", Reason::ChunkSize),
        (" 5\r\n", Reason::ChunkSize),
        ("0x5\r\n", Reason::ChunkSize),
        ("5 \r\n", Reason::ChunkSize),
        ("-5\r\n", Reason::ChunkSize),
        (";a\r\n", Reason::ChunkSize),
        ("0123456789abcdef\r\n", Reason::ChunkSize),
        ("5\n", Reason::BareLf),
        ("5\r5", Reason::BareCr),
        ("5;a\n", Reason::BareLf),
        ("5;\x01\r\n", Reason::Value),
        ("1\r\nab", Reason::ChunkEnd),
        ("1\r\na\n", Reason::ChunkEnd),
        ("1\r\na\ra", Reason::ChunkEnd),
        ("0\r\n a: b\r\n", Reason::Folded),
        ("0\r\na\r\n", Reason::Name),
        ("0\r\na :b\r\n", Reason::BlankBeforeColon),
        ("0\r\n\n", Reason::BareLf),
        ("0\r\n\r\r", Reason::BareCr),
    ] {
        let mut connection = Connection::new();
        connection.ask(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert_eq!(connection.ask(body.as_bytes()), Fed::Doubt(reason), "{body:?}");
    }
}

#[test]
fn odd_chunks_are_clear() {
    for body in [
        "0\r\n\r\n",
        "000\r\n\r\n",
        "00000000000000A;\r\n0123456789\r\n0;a=\"b\"\r\nContent-Length: x\r\n\r\n",
    ] {
        let mut connection = Connection::new();
        connection.ask(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert_eq!(connection.ask(body.as_bytes()), Fed::Followed, "{body:?}");
        assert_eq!(connection.exchange.requests().boundary(), connection.client, "{body:?}");
        connection.answer(EMPTY);
        assert!(connection.exchange.is_idle(), "{body:?}");
    }
}

#[test]
fn interim_responses_answer_nothing() {
    let mut connection = Connection::new();
    connection.ask(b"PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    connection.answer(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103\r\nContent-Length: 9\r\n\r\n");
    assert_eq!(connection.exchange.outstanding().answered(), 0);
    connection.ask(b"abc");
    assert!(!connection.exchange.is_idle());
    connection.answer(b"HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n");
    assert!(connection.exchange.is_idle());
}

/// RFC 9112 9.3.
#[test]
fn the_last_message_says_so() {
    let asks = |head: &str| {
        let mut exchange = Exchange::new(0, 0);
        let fed = exchange.request(0, format!("GET / {head}\r\n\r\n").as_bytes());
        assert_eq!(fed, Fed::Followed, "{head}");
        (exchange.is_closing(), exchange.outstanding().upgrades() == 1)
    };
    for (head, last) in [
        ("HTTP/1.1", false),
        ("HTTP/1.1\r\nConnection: close", true),
        ("HTTP/1.1\r\nconnection:\tkeep-alive , CLOSE", true),
        ("HTTP/1.1\r\nConnection: closed, x-close", false),
        ("HTTP/1.1\r\nConnection: keep-alive\r\nConnection: close", true),
        ("HTTP/1.0", true),
        ("HTTP/1.0\r\nConnection: Keep-Alive", false),
    ] {
        assert_eq!(asks(head).0, last, "{head}");
    }
    for (value, may) in [("websocket", true), ("h2c", false), ("websocket, H2C", false), ("", false)] {
        assert_eq!(asks(&format!("HTTP/1.1\r\nUpgrade: {value}")).1, may, "{value}");
    }
    let mut exchange = Exchange::new(0, 0);
    exchange.request(0, b"GET / HTTP/1.1\r\n\r\n");
    exchange.response(0, b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    assert!(exchange.is_closing() && !exchange.is_idle());
}

//! Requests and responses with every kind of body, one after the other.

use super::{Seed, seed};

/// Name, requests asked before (0: these are requests; 8 more: HEAD requests), and the stream.
const STREAMS: [(&str, u8, &str); 37] = [
    ("requests-two", 0, "GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n"),
    ("requests-body-then-next", 0, "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nGET /GET / HTTP/1.1\r\n\r\n"),
    ("requests-body-of-none", 0, "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\n\r\n"),
    ("requests-body-cut", 0, "POST / HTTP/1.1\r\nContent-Length: 50\r\n\r\nhello"),
    (
        "requests-length-with-zeroes",
        0,
        "POST / HTTP/1.1\r\nContent-Length: 0005\r\n\r\nhelloGET / HTTP/1.1\r\n\r\n",
    ),
    (
        "requests-chunks",
        0,
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    ),
    (
        "requests-chunk-extension",
        0,
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"b\"\r\nhello\r\n00;x\r\n\r\n",
    ),
    (
        "requests-chunk-blank",
        0,
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n",
    ),
    (
        "requests-trailer",
        0,
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\nContent-Length: 9\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    ),
    (
        "requests-chunk-of-capitals",
        0,
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nA\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n",
    ),
    ("requests-chunk-cut", 0, "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"),
    (
        "requests-chunk-without-lf",
        0,
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r.0\r\n\r\n",
    ),
    (
        "requests-chunk-too-long",
        0,
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n",
    ),
    ("requests-chunk-bare-lf", 0, "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n"),
    (
        "requests-chunk-of-16-digits",
        0,
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    ),
    ("requests-chunk-negative", 0, "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n"),
    ("requests-doubt-in-the-second", 0, "GET / HTTP/1.1\r\n\r\nget / HTTP/1.1\r\n\r\n"),
    ("requests-length-of-get", 0, "GET / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n\r\n"),
    (
        "responses-lengths",
        2,
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    ),
    (
        "responses-chunks",
        2,
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ),
    (
        "responses-interim",
        1,
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
    ),
    (
        "responses-interim-with-length",
        1,
        "HTTP/1.1 103 Early Hints\r\nContent-Length: 9\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
    ),
    (
        "responses-no-content",
        2,
        "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
    ),
    ("responses-to-head", 9, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
    (
        "responses-to-head-chunked",
        10,
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ),
    ("responses-upgrade", 1, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\nxyz"),
    ("responses-until-close", 1, "HTTP/1.1 200 OK\r\n\r\nall that follows"),
    ("responses-http10", 1, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    (
        "responses-unasked",
        1,
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ),
    ("responses-no-reason", 1, "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"),
    ("responses-empty-reason", 1, "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n"),
    ("responses-odd-reason", 1, "HTTP/1.1 200 \u{fc}\t~\r\nContent-Length: 0\r\n\r\n"),
    ("responses-status-999", 1, "HTTP/1.1 999 What\r\nContent-Length: 1\r\n\r\nx"),
    ("responses-two-digits", 1, "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n"),
    (
        "responses-both",
        1,
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("responses-cut", 1, "HTTP/1.1 200 OK\r\nContent-Le"),
    ("responses-none", 1, "SSH-2.0-x\r\n"),
];

pub(super) fn seeds() -> Vec<Seed> {
    let sized = |(name, asked, stream): &(&str, u8, &str)| {
        let size = [255, 1, 3, 16][name.len() % 4];
        seed("message_framing", *name, [&[size, *asked], stream.as_bytes()].concat())
    };
    STREAMS.iter().map(sized).collect()
}

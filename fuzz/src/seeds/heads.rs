//! Request heads: clear ones, and one for each way of being in doubt.

use super::{Seed, seed};

const HEADS: [(&str, &str); 67] = [
    ("least", "GET / HTTP/1.1\r\n\r\n"),
    ("http10", "GET / HTTP/1.0\r\n\r\n"),
    ("host", "GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n"),
    ("host-port-dot-capitals", "GET / HTTP/1.1\r\nhOST:\t WWW.Example.com.:8080 \t\r\n\r\n"),
    ("host-empty", "GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    ("host-address-of-six", "GET / HTTP/1.1\r\nHost: [2001:DB8::1]:80\r\n\r\n"),
    ("absolute", "GET HTTPS://WWW.example.com:8080/a//b?c HTTP/1.1\r\nHost: b\r\n\r\n"),
    ("absolute-address", "GET http://[2001:DB8::1]/ HTTP/1.1\r\n\r\n"),
    ("absolute-without-path", "GET http://a. HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("absolute-without-path-but-query", "GET http://a?x://y/z HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("absolute-options", "OPTIONS http://a HTTP/1.1\r\n\r\n"),
    ("asterisk", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("empty-lines", "\r\n\n\r\r\nGET / HTTP/1.1\r\n\r\n"),
    ("methods-signs", "!#$%&'*+-.^_`|~09 / HTTP/1.1\r\n\r\n"),
    ("method-of-31", "ABCDEFGHIJKLMNOPQRSTUVWXYZ-2345 / HTTP/1.1\r\n\r\n"),
    ("path-beyond-ascii", "GET /\u{e9}?\u{4f60} HTTP/1.1\r\n\r\n"),
    ("host-twice", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
    ("query", "GET /a/b?c=d&e=%2f?x HTTP/1.1\r\n\r\n"),
    ("query-empty", "GET /a? HTTP/1.1\r\n\r\n"),
    ("escapes", "GET /%41%2f%2e%2E/%c3%bc HTTP/1.1\r\n\r\n"),
    ("dots", "GET /a/./b/../../../c//d/. HTTP/1.1\r\n\r\n"),
    ("escaped-dots", "GET /a/%2e%2e/b/%2E HTTP/1.1\r\n\r\n"),
    ("cookies", "GET / HTTP/1.1\r\nCookie: b=1; a=2\r\nCookie: a=3\r\nA: x\r\n\r\n"),
    ("length", "POST /up HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"),
    ("length-of-18-digits", "PUT / HTTP/1.1\r\nContent-Length: 999999999999999999\r\n\r\n"),
    ("chunked", "POST /up HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
    ("chunked-capitals", "POST / HTTP/1.1\r\ntransfer-encoding:CHUNKED \r\n\r\n"),
    ("expect", "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"),
    ("upgrade", "GET /ws HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
    ("two", "GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n"),
    ("odd-names", "GET / HTTP/1.1\r\n!#$%&'*+-.^_`|~09azAZ: x\r\n\r\n"),
    ("value-empty", "GET / HTTP/1.1\r\na:\r\nb: \t \r\n\r\n"),
    ("value-beyond-ascii", "GET / HTTP/1.1\r\na: \u{fc}\u{20ac}\r\n\r\n"),
    ("odd-path", "GET /!\"$&'()*+,-.:;<=>@[\\]^_`{|}~ HTTP/1.1\r\n\r\n"),
    ("cut-in-the-method", "GE"),
    ("cut-in-the-path", "GET /a/b"),
    ("cut-in-a-name", "GET / HTTP/1.1\r\nHos"),
    ("cut-before-the-end", "GET / HTTP/1.1\r\nHost: a\r\n\r"),
    ("doubt-small-method", "get / HTTP/1.1\r\n\r\n"),
    ("doubt-method-of-32", "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEF / HTTP/1.1\r\n\r\n"),
    ("doubt-head-in-small", "heaD / HTTP/1.1\r\n\r\n"),
    ("doubt-connect", "CONNECT a:443 HTTP/1.1\r\n\r\n"),
    ("doubt-http2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ("doubt-scheme", "GET ftp://a/ HTTP/1.1\r\nHost: b\r\n\r\n"),
    ("doubt-user", "GET http://u@a/ HTTP/1.1\r\nHost: b\r\n\r\n"),
    ("doubt-asterisk", "GET * HTTP/1.1\r\nHost: b\r\n\r\n"),
    ("doubt-path-byte", "GET /\u{7f} HTTP/1.1\r\n\r\n"),
    ("doubt-fragment", "GET /a/x#/../b HTTP/1.1\r\n\r\n"),
    ("doubt-port", "GET / HTTP/1.1\r\nHost: a:80b\r\n\r\n"),
    ("doubt-two-ports", "GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n"),
    ("doubt-host-of-a-dot", "GET / HTTP/1.1\r\nHost: .:\r\n\r\n"),
    ("doubt-host-list", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
    ("doubt-host-beyond-ascii", "GET / HTTP/1.1\r\nHost: \u{e9}.example\r\n\r\n"),
    ("doubt-escape", "GET /%4 HTTP/1.1\r\n\r\n"),
    ("doubt-two-blanks", "GET /  HTTP/1.1\r\n\r\n"),
    ("doubt-version", "GET / HTTP/1.2\r\n\r\n"),
    ("doubt-no-version", "GET /\r\n\r\n"),
    ("doubt-bare-lf", "GET / HTTP/1.1\nHost: a\n\n"),
    ("doubt-bare-cr", "GET / HTTP/1.1\r\na: b\rc\r\n\r\n"),
    ("doubt-folded", "GET / HTTP/1.1\r\na: b\r\n c\r\n\r\n"),
    ("doubt-name", "GET / HTTP/1.1\r\na(b): c\r\n\r\n"),
    ("doubt-blank-before-colon", "GET / HTTP/1.1\r\nContent-Length : 5\r\n\r\n"),
    ("doubt-nul", "GET / HTTP/1.1\r\na: \0\r\n\r\n"),
    ("doubt-length-twice", "POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n"),
    ("doubt-length", "POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\n"),
    ("doubt-coding", "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
    ("doubt-both", "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
];

pub(super) fn seeds() -> Vec<Seed> {
    let sized = |(name, head): &(&str, &str)| {
        let size = [255, 1, 3, 16][name.len() % 4];
        seed("request_head", *name, [&[size], head.as_bytes()].concat())
    };
    let mut seeds: Vec<Seed> = HEADS.iter().map(sized).collect();
    let many: String = (0..90).map(|i| format!("name-{i}: value\r\n")).collect();
    seeds.push(seed("request_head", "ninety-headers", format!("\u{10}GET / HTTP/1.1\r\n{many}\r\n")));
    seeds
}

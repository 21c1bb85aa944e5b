//! Random messages: clear by construction, and clear ones with a few bytes spoilt.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// A message and what is known of it.
#[derive(Clone, Debug)]
pub struct Message {
    pub bytes: Vec<u8>,
    /// A HEAD request.
    pub is_head: bool,
}

/// One request with everything that the server answers to it.
#[derive(Clone, Debug)]
pub struct Asked {
    pub request: Message,
    pub interim: Vec<Vec<u8>>,
    pub response: Vec<u8>,
}

pub fn request() -> impl Strategy<Value = Message> {
    let method = select(vec![
        "GET",
        "HEAD",
        "POST",
        "PUT",
        "HEADER",
        "HEA",
        "CONNEC",
        "PATCH",
        "OPTIONS",
        "M-SEARCH",
        "VERSION-CONTROL",
        "!#$%&'*+-.^_`|~0123456789ABCDEF",
    ]);
    let empty = select(vec!["", "", "", "\r\n", "\r\n\r\n"]);
    (empty, method, target(), any::<bool>(), headers(), body()).prop_map(
        |(empty, method, target, old, headers, body)| {
            let (announced, body) = if old { body.without_chunks() } else { body }.written();
            let version = if old { "1.0" } else { "1.1" };
            let target = if method == "OPTIONS" && target == "/" { "*" } else { &target };
            let head = format!("{empty}{method} {target} HTTP/{version}\r\n{headers}{announced}\r\n");
            Message { bytes: [head.as_bytes(), &body].concat(), is_head: method == "HEAD" }
        },
    )
}

pub fn asked() -> impl Strategy<Value = Asked> {
    let status = select(vec![200_u16, 204, 206, 304, 404, 500]);
    let interim = vec(select(vec![100_u16, 102, 103, 199]), 0..3);
    (request(), status, interim, headers(), body(), any::<bool>()).prop_map(
        |(request, status, interim, headers, body, reason)| {
            let (announced, body) = body.known().written();
            let body = if request.is_head || matches!(status, 204 | 304) { Vec::new() } else { body };
            let reason = if reason { " Some reason" } else { "" };
            let head = format!("HTTP/1.1 {status}{reason}\r\n{headers}{announced}\r\n");
            let early = |status| format!("HTTP/1.1 {status} \r\n{headers}{announced}\r\n").into_bytes();
            Asked {
                request,
                interim: interim.into_iter().map(early).collect(),
                response: [head.as_bytes(), &body].concat(),
            }
        },
    )
}

/// A few requests behind each other.
pub fn requests() -> impl Strategy<Value = Vec<u8>> {
    vec(request(), 1..5).prop_map(|all| all.into_iter().flat_map(|message| message.bytes).collect())
}

/// The same, spoilt in a few places or not at all.
pub fn spoilt(bytes: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    (bytes, vec((any::<Index>(), 0..3_u8, odd_byte()), 0..4)).prop_map(|(mut bytes, changes)| {
        for (at, change, byte) in changes {
            let i = at.index(bytes.len().max(1));
            match change {
                0 => bytes.insert(i.min(bytes.len()), byte),
                1 if i < bytes.len() => drop(bytes.remove(i)),
                _ if i < bytes.len() => bytes[i] = byte,
                _ => {}
            }
        }
        bytes
    })
}

fn odd_byte() -> impl Strategy<Value = u8> {
    let odd: Vec<u8> = b"\r\n\r\n\r\n \t\0:;,/.?%AaZz019\x0b\x7f\x80\xff-+\"#@[]*".to_vec();
    prop_oneof![4 => select(odd), 1 => any::<u8>()]
}

fn target() -> impl Strategy<Value = String> + Clone {
    let piece = select(vec![
        "/", "/", "a", "b", ".", "..", "%2e", "%2F", "%41", "%7b", "//", "img", "\u{e9}", "\\", "~",
    ]);
    let query = select(vec!["", "", "?", "?a=1", "?id=7&x=%zz", "?/../", "?\u{4f60}"]);
    let origin = (vec(piece, 0..8), query).prop_map(|(path, query)| format!("/{}{query}", path.concat()));
    let begin = select(vec![
        "http://a",
        "HTTPS://B.example:8080",
        "http://[::1]:",
        "hTTp://127.0.0.1",
        "https://a-_.b.",
    ]);
    let absolute = (begin, origin.clone(), any::<bool>())
        .prop_map(|(begin, rest, whole)| if whole { format!("{begin}{rest}") } else { begin.to_owned() });
    prop_oneof![4 => origin, 1 => absolute]
}

fn headers() -> impl Strategy<Value = String> {
    let line = select(vec![
        "Host: example.com:80\r\n",
        "Host:[2001:db8::1] \r\n",
        "Host: a.b_c-d.:\t\r\n",
        "A:\r\n",
        "Cookie: a=b; id=7\r\n",
        "X-Long: a value with : and \u{e9} and\ttabs \r\n",
        "Content-Lengthy: x\r\n",
        "Transfer: chunked\r\n",
        "Connection: keep-alive\r\n",
    ]);
    vec(line, 0..5).prop_map(|mut lines| {
        let mut hosts = 0;
        lines.retain(|line| {
            hosts += usize::from(line.starts_with("Host"));
            !line.starts_with("Host") || hosts == 1
        });
        lines.concat()
    })
}

#[derive(Clone, Debug)]
enum Body {
    Unsaid,
    Length(Vec<u8>),
    Chunks(Vec<Vec<u8>>, bool),
}

fn body() -> impl Strategy<Value = Body> {
    let data = || {
        let like_a_request = Just(b"GET /x HTTP/1.1\r\nHost: y\r\n\r\n".to_vec());
        let like_a_response = Just(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec());
        prop_oneof![vec(any::<u8>(), 1..80), like_a_request, like_a_response]
    };
    prop_oneof![
        2 => Just(Body::Unsaid),
        2 => prop_oneof![data(), Just(Vec::new())].prop_map(Body::Length),
        2 => (vec(data(), 0..4), any::<bool>()).prop_map(|(chunks, extra)| Body::Chunks(chunks, extra)),
    ]
}

impl Body {
    fn without_chunks(self) -> Self {
        match self {
            Self::Chunks(chunks, _) => Self::Length(chunks.concat()),
            other => other,
        }
    }

    fn known(self) -> Self {
        if matches!(self, Self::Unsaid) { Self::Length(Vec::new()) } else { self }
    }

    /// The header lines that announce it, and its bytes.
    fn written(self) -> (String, Vec<u8>) {
        match self {
            Self::Unsaid => (String::new(), Vec::new()),
            Self::Length(data) => (format!("Content-length:{} \r\n", data.len()), data),
            Self::Chunks(chunks, extra) => {
                let mut bytes = Vec::new();
                for chunk in chunks {
                    let extension = if extra { ";name=\"value\"" } else { "" };
                    bytes.extend(format!("{:04X}{extension}\r\n", chunk.len()).bytes());
                    bytes.extend(chunk);
                    bytes.extend(b"\r\n");
                }
                let trailer = if extra { "Content-Length: what\r\nHost: a\r\nHost: b\r\n" } else { "" };
                bytes.extend(format!("0\r\n{trailer}\r\n").bytes());
                ("Transfer-Encoding: Chunked\r\n".into(), bytes)
            }
        }
    }
}

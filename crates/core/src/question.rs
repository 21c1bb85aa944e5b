//! What a held packet asks for, by the rules and in the protocol of its service. Pure: bytes in, pool and
//! target out.

use baton_cluster::{PoolId, Protocol, Target, Unrouted};
use baton_datapath::{Frame, Progress, ServiceEntry, target_of};
use baton_http::{Exchange, Fed, Parsed, Reason, Request, parse_request};
use baton_tls::{Alert, ClientHello, ParsedHello, read_client_hello};

/// What a client is told that speaks something else where TLS is spoken.
pub const NOT_TLS: Alert = Alert::UnexpectedMessage;

/// What is to be done with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// It belongs to a pool, and has this target, if any.
    Request {
        pool: PoolId,
        target: Option<Target>,
        /// The host, when the kernel should be told which patterns it matches.
        host: Option<String>,
        /// Bytes of the payload before the next request begins in it, if one does.
        next: Option<usize>,
    },
    /// Its head is not whole: the reader's.
    Reader,
    /// It is in doubt, and where it goes matters: the reader's too, which refuses it.
    Doubtful(Reason),
    /// It cannot be read, but any server of the service may have it: placed by load alone.
    Unclear,
    /// TLS that no pool is for: the reader's too, which says so.
    Refused(Alert),
}

/// Reads the request that begins a payload.
pub(crate) fn read(service: &ServiceEntry, payload: &[u8], secret: u64) -> Read {
    match service.protocol {
        Protocol::Http => {}
        Protocol::Tls => return hello(service, payload, secret),
        Protocol::Tcp => return of_pool(service, 0, None),
    }
    match parse_request(payload) {
        Parsed::Complete(request, _) => place(service, &request, next_request(payload), secret),
        Parsed::Incomplete => read_line(service, payload, secret).unwrap_or(Read::Reader),
        Parsed::Doubt(reason) if service.strict => Read::Doubtful(reason),
        Parsed::Doubt(_) => Read::Unclear,
    }
}

/// The pool that the ClientHello which begins a payload belongs to; its name is the target.
fn hello(service: &ServiceEntry, payload: &[u8], secret: u64) -> Read {
    match read_client_hello(payload) {
        ParsedHello::Whole(hello) => place_hello(service, &hello, secret),
        ParsedHello::More => Read::Reader,
        ParsedHello::NotTls => Read::Refused(NOT_TLS),
        ParsedHello::Malformed(reason) => Read::Refused(reason.alert()),
    }
}

fn place_hello(service: &ServiceEntry, hello: &ClientHello, secret: u64) -> Read {
    let offers = |protocol: &str| hello.alpn.contains(protocol.as_bytes());
    match service.names.choose(hello.name.as_deref(), offers) {
        Ok(index) => {
            of_pool(service, index, hello.name.as_deref().map(|name| target_of(name.as_bytes(), secret)))
        }
        Err(Unrouted::Name) => Read::Refused(Alert::UnrecognizedName),
        Err(Unrouted::Protocol) => Read::Refused(Alert::NoApplicationProtocol),
    }
}

fn of_pool(service: &ServiceEntry, index: usize, target: Option<Target>) -> Read {
    let pool = service.pools.get(index).copied().unwrap_or(PoolId(0));
    Read::Request { pool, target, host: None, next: None }
}

/// Whether a packet of a strict service can be the one that the kernel asks about: a request, or the end of one
/// and the next.
pub(crate) fn is_asked(frame: &Frame, asked: &Progress) -> bool {
    match asked.boundary.map(|at| frame.seq.wrapping_sub(at).cast_signed()) {
        Some(0) => !matches!(parse_request(frame.payload()), Parsed::Incomplete),
        Some(1..) => false,
        Some(..0) | None => asked.cut_seq.is_some_and(|seq| frame.cut(seq).is_some()),
    }
}

/// Where the request line says all that the service's rules ask, as the programs do: the head may be longer
/// than a packet. `None` when more is needed.
fn read_line(service: &ServiceEntry, payload: &[u8], secret: u64) -> Option<Read> {
    let rules = &service.rules;
    let says_all = (0..service.pools.len()).all(|pool| rules.key(pool).is_in_request_line());
    if service.strict || rules.look_at_hosts() || !says_all {
        return None;
    }
    let payload = payload.get(empty_lines(payload)..)?;
    let end = payload.windows(2).position(|two| two == b"\r\n")?;
    let alone = [payload.get(..end)?, b"\r\n\r\n"].concat();
    match parse_request(&alone) {
        Parsed::Complete(request, _) => Some(place(service, &request, None, secret)),
        _ => None,
    }
}

fn place(service: &ServiceEntry, request: &Request<'_>, next: Option<usize>, secret: u64) -> Read {
    let rules = &service.rules;
    // Of servers that have all of them it does not matter which one takes it for what.
    let sure = if service.strict { rules.choose_surely(request) } else { Some(rules.choose(request)) };
    let Some(index) = sure else { return Read::Doubtful(Reason::Readings) };
    Read::Request {
        pool: service.pools.get(index).copied().unwrap_or(PoolId(0)),
        target: rules.target_bytes(index, request).map(|b| target_of(&b, secret)),
        host: request.host.as_deref().filter(|_| rules.look_at_wildcards()).map(str::to_owned),
        next,
    }
}

/// Where in the payload a second request begins, behind empty lines if there are some.
pub(crate) fn next_request(payload: &[u8]) -> Option<usize> {
    let mut exchange = Exchange::new(0, 0);
    match exchange.one_request(0, payload) {
        (Fed::Followed, used) if exchange.requests().is_between_messages() => {
            let rest = payload.get(used..)?;
            let empty = empty_lines(rest);
            (empty < rest.len()).then_some(used + empty)
        }
        _ => None,
    }
}

/// How many bytes of empty lines these begin with.
pub(crate) fn empty_lines(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|c| matches!(c, b'\r' | b'\n')).count()
}

#[cfg(test)]
mod tests {
    use baton_datapath::Heard;

    use super::*;

    const TWO: &[u8] = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n";
    const SECOND: u32 = TWO.len() as u32 / 2;

    fn frame(seq: u32, payload: &[u8]) -> Frame {
        let mut bytes = vec![0; 54];
        bytes[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
        bytes[16..18].copy_from_slice(&(40 + payload.len() as u16).to_be_bytes());
        (bytes[23], bytes[46]) = (6, 0x50);
        bytes[38..42].copy_from_slice(&seq.to_be_bytes());
        bytes.extend(payload);
        Frame::parse(&bytes).expect("IPv4 and TCP")
    }

    fn asked(boundary: Option<u32>, cut_seq: Option<u32>) -> Progress {
        let heard = Heard { ack: 0, window: 0, timestamps: None };
        let at = boundary.unwrap_or(0);
        let (early_seq, is_idle, room, is_let_go) = (None, false, 32, false);
        Progress {
            start_seq: 0,
            at,
            boundary,
            early_seq,
            is_idle,
            is_head_whole: true,
            room,
            is_let_go,
            heard,
            cut_seq,
        }
    }

    /// From every byte to every byte of two requests, of which the kernel asks about the first; or about both.
    #[test]
    fn pieces_that_came_earlier_are_not_what_is_asked_about() {
        let base = u32::MAX - 20;
        for (from, to) in (0..TWO.len()).flat_map(|from| (from + 1..=TWO.len()).map(move |to| (from, to))) {
            let piece = frame(base.wrapping_add(from as u32), &TWO[from..to]);
            for cut in [None, Some(base.wrapping_add(SECOND))] {
                let whole = from == 0 && to >= SECOND as usize;
                assert_eq!(is_asked(&piece, &asked(Some(base), cut)), whole, "{from}..{to}, {cut:?}");
            }
        }
    }

    /// The end of the first request, and the second one with it.
    #[test]
    fn the_end_of_a_request_and_the_next_are_cut() {
        let cut = Some(SECOND);
        let end = frame(SECOND - 2, &TWO[SECOND as usize - 2..]);
        assert!(is_asked(&end, &asked(None, cut)), "it is under way");
        assert!(is_asked(&end, &asked(cut, cut)), "it was seen before");
        assert!(!is_asked(&frame(SECOND, &TWO[SECOND as usize..]), &asked(None, cut)), "the next one alone");
        assert!(!is_asked(&frame(SECOND - 2, b"\r\n"), &asked(None, cut)), "the end alone");
    }

    #[test]
    fn empty_lines_are_no_request_of_their_own() {
        let lines = [b"\r\n\r\n", TWO, b"\r\n"].concat();
        assert_eq!(next_request(&lines), Some(4 + SECOND as usize));
        assert_eq!(next_request(&lines[4 + SECOND as usize..]), None);
        let behind = [&TWO[..SECOND as usize], b"\r\n\n", &TWO[SECOND as usize..]].concat();
        assert_eq!(next_request(&behind), Some(SECOND as usize + 3));
        assert_eq!(next_request(&[&TWO[..SECOND as usize], b"\r\n\0"].concat()), Some(SECOND as usize + 2));
        for empty in [&b""[..], b"\r\n", b"\r\n\r\n"] {
            assert_eq!(next_request(empty), None);
        }
    }

    const POOLS: &str = r#"
[cluster]
name = "web"
secret = "k3YvT9qLw0ZsB7nXfR2mJc8HdPu5GaE1"
[[node]]
name = "one"
address = "10.1.0.10"
roles = ["distributor", "dispatcher", "server"]
[[node]]
name = "two"
address = "10.1.0.11"
roles = ["server"]
[[service]]
name = "www"
vips = ["10.99.0.1"]
port = 80
[[service.pool]]
name = "public"
servers = ["one"]
policy = "lard"
[[service.pool]]
name = "private"
servers = ["two"]
policy = "lard"
[[service.route]]
pool = "private"
path = "/private/"
"#;

    /// In a strict service what servers may read differently is refused; in any other one it is placed.
    #[test]
    fn readings_that_belong_to_several_pools_are_refused_where_it_matters() {
        let of = |text: &str| {
            let cluster = baton_cluster::Cluster::parse(text).expect("a good file");
            crate::services::entry(&cluster, &cluster.services[0])
        };
        let strict = of(POOLS);
        let same = of(&POOLS.replace("servers = [\"one\"]\n", "").replace("servers = [\"two\"]\n", ""));
        assert!(strict.strict && !same.strict);
        for (path, at) in [("/private%2fx", 0), ("/public/../private/x", 1), ("/a//private/", 0)] {
            let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
            let pool = |service: &ServiceEntry| match read(service, head.as_bytes(), 7) {
                Read::Request { pool, .. } => service.pools.iter().position(|p| *p == pool),
                Read::Doubtful(reason) => {
                    assert_eq!(reason, Reason::Readings);
                    None
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(pool(&strict), (path == "/a//private/").then_some(at), "{path}");
            assert_eq!(pool(&same), Some(at), "{path}");
        }
        let doubtful = b"GET /a#b HTTP/1.1\r\n";
        assert_eq!(read(&strict, doubtful, 7), Read::Doubtful(Reason::Fragment));
        assert_eq!(read(&same, doubtful, 7), Read::Unclear);
    }

    const SEALED: &str = r#"
[cluster]
name = "web"
secret = "k3YvT9qLw0ZsB7nXfR2mJc8HdPu5GaE1"
[[node]]
name = "one"
address = "10.1.0.10"
roles = ["distributor", "dispatcher", "server"]
[[service]]
name = "plug"
vips = ["10.99.0.1"]
port = 7000
protocol = "tcp"
policy = "wrr"
[[service]]
name = "secure"
vips = ["10.99.0.1"]
port = 443
protocol = "tls"
[[service.pool]]
name = "old"
policy = "wrr"
[[service.pool]]
name = "new"
policy = "lard"
[[service.route]]
pool = "old"
host = "*.example.com"
[[service.route]]
pool = "new"
host = "*.example.com"
alpn = "h2"
"#;
    /// For img.example.com, without protocols; for www.Example.com, with h2; for no name.
    const HELLOS: [&[u8]; 3] = [
        include_bytes!("../../tls/testdata/openssl-tls12.bin"),
        include_bytes!("../../tls/testdata/openssl-default.bin"),
        include_bytes!("../../tls/testdata/openssl-no-name.bin"),
    ];

    fn sealed() -> [ServiceEntry; 2] {
        let cluster = baton_cluster::Cluster::parse(SEALED).expect("a good file");
        [0, 1].map(|at| crate::services::entry(&cluster, &cluster.services[at]))
    }

    fn placed(pool: u16, target: Option<Target>) -> Read {
        Read::Request { pool: PoolId(pool), target, host: None, next: None }
    }

    #[test]
    fn a_connection_that_nobody_reads_belongs_to_the_only_pool() {
        let [plug, _] = sealed();
        for bytes in [b"\0", TWO, HELLOS[0]] {
            assert_eq!(read(&plug, bytes, 7), placed(0, None));
        }
    }

    #[test]
    fn a_hello_belongs_to_the_pool_of_its_name_and_has_it_for_a_target() {
        let [_, secure] = sealed();
        let [old, new, nameless] = HELLOS;
        let target = |name: &str| Some(target_of(name.as_bytes(), 7));
        assert_eq!(read(&secure, old, 7), placed(1, target("img.example.com")));
        assert_eq!(read(&secure, new, 7), placed(2, target("www.example.com")));
        assert_eq!(read(&secure, nameless, 7), Read::Refused(Alert::UnrecognizedName));
        assert_eq!(read(&secure, TWO, 7), Read::Refused(NOT_TLS));
        for cut in 1..new.len() {
            assert_eq!(read(&secure, &new[..cut], 7), Read::Reader, "{cut} bytes");
        }
    }
}

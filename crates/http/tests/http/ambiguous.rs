//! The table of doubtful heads, and its counterpart of odd but clear ones.

use baton_http::{Exchange, Fed, Parsed, Reason, parse_request};

/// Heads that are in doubt and why. `|` marks the byte that brings the doubt.
const DOUBTFUL: &[(&str, Reason)] = &[
    ("| GET / HTTP/1.1\r\n\r\n", Reason::Method),
    ("\r\n| GET / HTTP/1.1\r\n\r\n", Reason::Method),
    ("|get / HTTP/1.1\r\n\r\n", Reason::Method),
    ("G|et / HTTP/1.1\r\n\r\n", Reason::Method),
    ("M-|search / HTTP/1.1\r\n\r\n", Reason::Method),
    ("GE|(T / HTTP/1.1\r\n\r\n", Reason::Method),
    ("GET|\t/ HTTP/1.1\r\n\r\n", Reason::Method),
    ("GET|\r\n\r\n", Reason::Method),
    ("GET|\n", Reason::BareLf),
    ("|\0GET / HTTP/1.1\r\n\r\n", Reason::Method),
    ("|\x16\x03\x01\x02", Reason::Method),
    ("ABCDEFGHIJKLMNOPQRSTUVWXYZABCDE|F / HTTP/1.1\r\n\r\n", Reason::MethodLength),
    ("CONNECT| example.com:443 HTTP/1.1\r\n\r\n", Reason::Connect),
    ("CONNECT| /a HTTP/1.1\r\n\r\n", Reason::Connect),
    ("GET HTTP|/1.1\r\n\r\n", Reason::PathForm),
    ("GET |ftp://a/ HTTP/1.1\r\n\r\n", Reason::PathForm),
    ("GET https|x://a/ HTTP/1.1\r\n\r\n", Reason::PathForm),
    ("GET http:/|a/ HTTP/1.1\r\n\r\n", Reason::PathForm),
    ("GET |a.example:80 HTTP/1.1\r\n\r\n", Reason::PathForm),
    ("GET |* HTTP/1.1\r\n\r\n", Reason::PathForm),
    ("OPTIONSX |* HTTP/1.1\r\n\r\n", Reason::PathForm),
    ("OPTIONS *|/ HTTP/1.1\r\n\r\n", Reason::PathForm),
    ("PRI |* HTTP/2.0\r\n\r\nSM\r\n\r\n", Reason::PathForm),
    ("GET | / HTTP/1.1\r\n\r\n", Reason::PathForm),
    ("GET |?a=1 HTTP/1.1\r\n\r\n", Reason::PathForm),
    ("GET |%2fa HTTP/1.1\r\n\r\n", Reason::PathForm),
    ("GET http://|/a HTTP/1.1\r\n\r\n", Reason::HostForm),
    ("GET http://|:80/a HTTP/1.1\r\n\r\n", Reason::HostForm),
    ("GET http://user|@a/b HTTP/1.1\r\n\r\n", Reason::HostForm),
    ("GET http://user:|x@a/b HTTP/1.1\r\n\r\n", Reason::HostForm),
    ("GET http://a|#/b HTTP/1.1\r\n\r\n", Reason::HostForm),
    ("GET http://a|\\/b HTTP/1.1\r\n\r\n", Reason::HostForm),
    ("GET http://a.|.b/ HTTP/1.1\r\n\r\n", Reason::HostForm),
    ("GET http://[::1|/ HTTP/1.1\r\n\r\n", Reason::HostForm),
    ("GET http://a|\r\n\r\n", Reason::HostForm),
    ("GET /a|\0b HTTP/1.1\r\n\r\n", Reason::PathByte),
    ("GET /a|\tb HTTP/1.1\r\n\r\n", Reason::PathByte),
    ("GET /a|\x7fb HTTP/1.1\r\n\r\n", Reason::PathByte),
    ("GET /a?q=|\x01 HTTP/1.1\r\n\r\n", Reason::PathByte),
    ("GET /private/x|#/../../public/ HTTP/1.1\r\n\r\n", Reason::Fragment),
    ("GET /a?q|#b HTTP/1.1\r\n\r\n", Reason::Fragment),
    ("GET http://a/|#b HTTP/1.1\r\n\r\n", Reason::Fragment),
    ("GET /%|zz HTTP/1.1\r\n\r\n", Reason::Escape),
    ("GET /%4|g HTTP/1.1\r\n\r\n", Reason::Escape),
    ("GET /%| HTTP/1.1\r\n\r\n", Reason::Escape),
    ("GET /%4|?q HTTP/1.1\r\n\r\n", Reason::Escape),
    ("GET /%|%41 HTTP/1.1\r\n\r\n", Reason::Escape),
    ("GET /a|\r\n", Reason::Version),
    ("GET /a |\r\n", Reason::Version),
    ("GET /a |b HTTP/1.1\r\n\r\n", Reason::Version),
    ("GET /a | HTTP/1.1\r\n\r\n", Reason::Version),
    ("GET /a |http/1.1\r\n\r\n", Reason::Version),
    ("GET /a HTTP/|2.0\r\n\r\n", Reason::Version),
    ("GET /a HTTP/|0.9\r\n\r\n", Reason::Version),
    ("GET /a HTTP/1.|2\r\n\r\n", Reason::Version),
    ("GET /a HTTP/1.1| \r\n\r\n", Reason::Version),
    ("GET /a HTTP/1.1|1\r\n\r\n", Reason::Version),
    ("GET /a|\n", Reason::BareLf),
    ("GET /a HTTP/1.1|\n\n", Reason::BareLf),
    ("GET /a HTTP/1.1\r|\r\n\r\n", Reason::BareCr),
    ("GET /a HTTP/1.1\r\n|\n", Reason::BareLf),
    ("GET /a HTTP/1.1\r\nA: b|\nHost: c\r\n\r\n", Reason::BareLf),
    ("GET /a HTTP/1.1\r\nA: b\r|Host: c\r\n\r\n", Reason::BareCr),
    ("GET /a HTTP/1.1\r\nA: b\r\n\r|\r\n", Reason::BareCr),
    ("GET /a HTTP/1.1\r\n| A: b\r\n\r\n", Reason::Folded),
    ("GET /a HTTP/1.1\r\nA: b\r\n| c\r\n\r\n", Reason::Folded),
    ("GET /a HTTP/1.1\r\nA: b\r\n|\tc\r\n\r\n", Reason::Folded),
    ("GET /a HTTP/1.1\r\n|: b\r\n\r\n", Reason::Name),
    ("GET /a HTTP/1.1\r\nA|\r\n\r\n", Reason::Name),
    ("GET /a HTTP/1.1\r\nA|\0: b\r\n\r\n", Reason::Name),
    ("GET /a HTTP/1.1\r\nA|(b): c\r\n\r\n", Reason::Name),
    ("GET /a HTTP/1.1\r\nA|é: b\r\n\r\n", Reason::Name),
    ("GET /a HTTP/1.1\r\nA|\n\r\n", Reason::BareLf),
    ("GET /a HTTP/1.1\r\nHost| : b\r\n\r\n", Reason::BlankBeforeColon),
    ("GET /a HTTP/1.1\r\nContent-Length|\t: 3\r\n\r\n", Reason::BlankBeforeColon),
    ("GET /a HTTP/1.1\r\nA: |\0\r\n\r\n", Reason::Value),
    ("GET /a HTTP/1.1\r\nA: b|\x0b\r\n\r\n", Reason::Value),
    ("GET /a HTTP/1.1\r\nA: b|\x7f\r\n\r\n", Reason::Value),
    ("GET /a HTTP/1.1\r\nContent-Length: 3\r\nContent-Length|: 3\r\n\r\n", Reason::LengthTwice),
    ("GET /a HTTP/1.1\r\nContent-Length: 3\r\ncontent-length|: 4\r\n\r\n", Reason::LengthTwice),
    ("GET /a HTTP/1.1\r\nContent-Length: 3|, 3\r\n\r\n", Reason::Length),
    ("GET /a HTTP/1.1\r\nContent-Length: |+3\r\n\r\n", Reason::Length),
    ("GET /a HTTP/1.1\r\nContent-Length: |-1\r\n\r\n", Reason::Length),
    ("GET /a HTTP/1.1\r\nContent-Length: 0|x3\r\n\r\n", Reason::Length),
    ("GET /a HTTP/1.1\r\nContent-Length: 1 |2\r\n\r\n", Reason::Length),
    ("GET /a HTTP/1.1\r\nContent-Length: 3|.0\r\n\r\n", Reason::Length),
    ("GET /a HTTP/1.1\r\nContent-Length: |\r\n\r\n", Reason::Length),
    ("GET /a HTTP/1.1\r\nContent-Length: 123456789012345678|9\r\n\r\n", Reason::Length),
    ("GET /a HTTP/1.1\r\nContent-Length: 3|\n\r\n", Reason::BareLf),
    (
        "GET /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding|: chunked\r\n\r\n",
        Reason::CodingTwice,
    ),
    ("GET /a HTTP/1.1\r\nTransfer-Encoding: |gzip, chunked\r\n\r\n", Reason::Coding),
    ("GET /a HTTP/1.1\r\nTransfer-Encoding: |identity\r\n\r\n", Reason::Coding),
    ("GET /a HTTP/1.1\r\nTransfer-Encoding: chunked|, chunked\r\n\r\n", Reason::Coding),
    ("GET /a HTTP/1.1\r\nTransfer-Encoding: chunked|x\r\n\r\n", Reason::Coding),
    ("GET /a HTTP/1.1\r\nTransfer-Encoding: chunk|\r\n\r\n", Reason::Coding),
    ("GET /a HTTP/1.1\r\nTransfer-Encoding: |\r\n\r\n", Reason::Coding),
    ("GET /a HTTP/1.1\r\nTransfer-Encoding: |\"chunked\"\r\n\r\n", Reason::Coding),
    ("GET /a HTTP/1.1\r\nTransfer-Encoding: |\x0bchunked\r\n\r\n", Reason::Coding),
    ("GET /a HTTP/1.1\r\nTransfer-Encoding: chunked |,\r\n\r\n", Reason::Coding),
    ("GET /a HTTP/1.1\r\nTransfer-Encoding: chunked|\n\r\n", Reason::BareLf),
    ("GET /a HTTP/1.0\r\nTransfer-Encoding|: chunked\r\n\r\n", Reason::CodingTooEarly),
    ("GET /a HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding|: chunked\r\n\r\n", Reason::LengthAndCoding),
    ("GET /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length|: 3\r\n\r\n", Reason::LengthAndCoding),
    ("GET /a HTTP/1.1\r\nHost: a\r\nHost|: a\r\n\r\n", Reason::HostTwice),
    ("GET /a HTTP/1.1\r\nHost: a\r\nHOST|: b\r\n\r\n", Reason::HostTwice),
    ("GET http://a/a HTTP/1.1\r\nHost: a\r\nHOST|: b\r\n\r\n", Reason::HostTwice),
    ("GET /a HTTP/1.1\r\nHost: a:80|abc\r\n\r\n", Reason::HostForm),
    ("GET /a HTTP/1.1\r\nHost: a:|evil\r\n\r\n", Reason::HostForm),
    ("GET /a HTTP/1.1\r\nHost: a:80|:80\r\n\r\n", Reason::HostForm),
    ("GET /a HTTP/1.1\r\nHost: a:|.public.example.com\r\n\r\n", Reason::HostForm),
    ("GET /a HTTP/1.1\r\nHost: a:1|.public.example.com\r\n\r\n", Reason::HostForm),
    ("GET /a HTTP/1.1\r\nHost: |:80\r\n\r\n", Reason::HostForm),
    ("GET /a HTTP/1.1\r\nHost: |.a\r\n\r\n", Reason::HostForm),
    ("GET /a HTTP/1.1\r\nHost: a.|.\r\n\r\n", Reason::HostForm),
    ("GET /a HTTP/1.1\r\nHost: a.b|, c\r\n\r\n", Reason::HostForm),
    ("GET /a HTTP/1.1\r\nHost: a |:80\r\n\r\n", Reason::HostForm),
    ("GET /a HTTP/1.1\r\nHost: a |b\r\n\r\n", Reason::HostForm),
    ("GET /a HTTP/1.1\r\nHost: x|@a\r\n\r\n", Reason::HostForm),
    ("GET /a HTTP/1.1\r\nHost: a|#b\r\n\r\n", Reason::HostForm),
    ("GET /a HTTP/1.1\r\nHost: a|/\r\n\r\n", Reason::HostForm),
    ("GET /a HTTP/1.1\r\nHost: a|\\\r\n\r\n", Reason::HostForm),
    ("GET /a HTTP/1.1\r\nHost: a|;x\r\n\r\n", Reason::HostForm),
    ("GET /a HTTP/1.1\r\nHost: |%61\r\n\r\n", Reason::HostForm),
    ("GET /a HTTP/1.1\r\nHost: |é\r\n\r\n", Reason::HostForm),
    ("GET /a HTTP/1.1\r\nHost: [|]\r\n\r\n", Reason::HostForm),
    ("GET /a HTTP/1.1\r\nHost: [::1|\r\n\r\n", Reason::HostForm),
    ("GET /a HTTP/1.1\r\nHost: [fe80::1|%25eth0]\r\n\r\n", Reason::HostForm),
    ("GET /a HTTP/1.1\r\nHost: [::1]|a\r\n\r\n", Reason::HostForm),
    ("GET /a HTTP/1.1\r\nHost: a|\0\r\n\r\n", Reason::Value),
    ("GET /a HTTP/1.1\r\nHost: a|\n\r\n", Reason::BareLf),
    ("GET /a HTTP/1.1\r\nHost: a\r|x\r\n\r\n", Reason::BareCr),
];

/// Odd heads that are clear: the path that they mean, and the host.
const CLEAR: &[(&str, &str, Option<&str>)] = &[
    ("GET / HTTP/1.1\r\n\r\n", "/", None),
    ("GET /a HTTP/1.0\r\nHost:\r\n\r\n", "/a", None),
    ("\r\nGET / HTTP/1.1\r\n\r\n", "/", None),
    ("\r\n\n\rGET /a HTTP/1.1\r\nHost: a\r\n\r\n", "/a", Some("a")),
    ("ABCDEFGHIJKLMNOPQRSTUVWXYZABCDE /a HTTP/1.1\r\nHost:a\r\n\r\n", "/a", Some("a")),
    ("VERSION-CONTROL /a HTTP/1.1\r\nHost:a\r\n\r\n", "/a", Some("a")),
    ("!#$%&'*+-.^_`|~09 /a HTTP/1.1\r\nHost: a:\r\n\r\n", "/a", Some("a")),
    ("HTTP /a HTTP/1.1\r\nHost: a_b-1.c\r\n\r\n", "/a", Some("a_b-1.c")),
    ("OPTIONS * HTTP/1.1\r\nHost: A.b\r\n\r\n", "*", Some("a.b")),
    ("OPTIONS http://A.b:80 HTTP/1.1\r\nHost: c\r\n\r\n", "*", Some("a.b")),
    ("OPTIONS http://a/ HTTP/1.1\r\n\r\n", "/", Some("a")),
    ("OPTIONS http://a? HTTP/1.1\r\n\r\n", "/", Some("a")),
    ("GET http://A.example:8080/x//y?q HTTP/1.1\r\nHost: b\r\n\r\n", "/x/y", Some("a.example")),
    ("GET HTTPS://[2001:DB8::1]:443/x HTTP/1.0\r\n\r\n", "/x", Some("[2001:db8::1]")),
    ("GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", "/", Some("a")),
    ("GET http://a?x://y/z HTTP/1.1\r\nHost: a\r\n\r\n", "/", Some("a")),
    ("GET /x/http://y/z HTTP/1.1\r\nHost: a\r\n\r\n", "/x/http:/y/z", Some("a")),
    ("GET http://a/http://b/c HTTP/1.1\r\nHost: a\r\n\r\n", "/http:/b/c", Some("a")),
    ("GET /b\u{fc}cher?q=\u{4f60} HTTP/1.1\r\nHost: a\r\n\r\n", "/b%C3%BCcher", Some("a")),
    ("CONNECTS /a HTTP/1.1\r\nHost: A.Example \t\r\n\r\n", "/a", Some("a.example")),
    ("GET /%7e%2E%2e/%2f HTTP/1.1\r\nhost: a:80\r\n\r\n", "/~../%2F", Some("a")),
    ("GET //a//b/ HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "/a/b/", Some("[::1]")),
    ("GET /../%2e%2e/a HTTP/1.1\r\nHost: [::1]\r\n\r\n", "/a", Some("[::1]")),
    ("GET /a?%zz HTTP/1.1\r\nHost: a.:80\r\n\r\n", "/a", Some("a")),
    ("GET /a?b?c/../d HTTP/1.1\r\nHost: \t \r\n\r\n", "/a", None),
    ("GET /a HTTP/1.1\r\nContent-Lengt: x\r\nContent-Lengthx: y\r\nHosts: z\r\n\r\n", "/a", None),
    ("GET /a HTTP/1.1\r\nContent-Length: \t 7 \t\r\n\r\n", "/a", None),
    ("GET /a HTTP/1.1\r\nTRANSFER-ENCODING:\tChUnKeD \r\n\r\n", "/a", None),
    ("GET /a HTTP/1.1\r\nA: \u{e9}\t:\r\nA: \r\n!#$%&'*+-.^_`|~: 1\r\n\r\n", "/a", None),
    ("GET /a|\\<> HTTP/1.1\r\n\r\n", "/a|\\<>", None),
];

#[test]
fn doubtful_heads_are_in_doubt_at_once_and_say_why() {
    assert!(DOUBTFUL.len() >= 40);
    for (marked, reason) in DOUBTFUL {
        let at = marked.find('|').expect("a mark");
        let head = marked.replacen('|', "", 1);
        let head = head.as_bytes();
        assert_eq!(parse_request(head), Parsed::Doubt(*reason), "{marked:?}");
        assert_eq!(parse_request(&head[..at]), Parsed::Incomplete, "{marked:?}");
        assert_eq!(parse_request(&head[..=at]), Parsed::Doubt(*reason), "{marked:?}");
        let mut exchange = Exchange::new(7, 0);
        assert_eq!(exchange.request(7, head), Fed::Doubt(*reason), "{marked:?}");
        assert_eq!(exchange.requests().at(), 7 + at as u32, "{marked:?}");
        assert_eq!(exchange.outstanding().asked(), 0, "{marked:?}");
    }
}

#[test]
fn odd_heads_are_clear() {
    for (head, path, host) in CLEAR {
        let Parsed::Complete(request, length) = parse_request(head.as_bytes()) else {
            panic!("{head:?}: {:?}", parse_request(head.as_bytes()));
        };
        assert_eq!((&*request.path, request.host.as_deref()), (*path, *host), "{head:?}");
        assert_eq!(length, head.len(), "{head:?}");
        let mut exchange = Exchange::new(7, 0);
        assert_eq!(exchange.request(7, head.as_bytes()), Fed::Followed, "{head:?}");
        assert_eq!(exchange.outstanding().asked(), 1, "{head:?}");
    }
}

#[test]
fn every_reason_that_a_head_can_have_is_in_the_table() {
    for reason in &Reason::ALL[..Reason::HostForm as usize] {
        assert!(DOUBTFUL.iter().any(|(_, r)| r == reason), "{reason:?}");
    }
}

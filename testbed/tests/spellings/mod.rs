//! The corpus: how requests may be spelt, and whose they are where pools differ in servers, as docs/requests.md
//! says. A server may refuse any of them; what it says alone is what counts.

/// Whose a request is in a strict service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    Public,
    Private,
    /// In doubt: Baton answers it, and closes.
    Refused,
}
use Of::{Private, Public, Refused};

/// Requests that are sent at once.
#[derive(Clone, Debug)]
pub struct Case {
    pub sent: Vec<u8>,
    /// Of each of them.
    pub of: Vec<Of>,
    /// There are empty lines before or between them, which some servers do not take (RFC 9112 2.2: they should).
    /// Where the request moves without them, its server is not asked to.
    pub empty_lines: bool,
}

fn case(sent: impl AsRef<[u8]>, of: &[Of]) -> Case {
    Case { sent: sent.as_ref().to_vec(), of: of.to_vec(), empty_lines: false }
}

fn spaced(parts: &[&str], of: &[Of]) -> Case {
    Case { empty_lines: true, ..case(parts.join("\r\n"), of) }
}

fn get(target: &str) -> String {
    with_line(&format!("GET {target} HTTP/1.1"))
}

fn with_line(line: &str) -> String {
    format!("{line}\r\nHost: a\r\n\r\n")
}

fn to(host: &str) -> String {
    format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

fn post(fields: &str, body: &str) -> String {
    format!("POST /public/up HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}")
}

/// Every case.
pub fn all() -> Vec<Case> {
    [targets(), hosts(), lines(), heads(), bodies(), pipelined()].concat()
}

fn targets() -> Vec<Case> {
    let public = [
        "/",
        "/public/x",
        "/public",
        "/private",
        "/PUBLIC/x",
        "/private.X",
        "/public?/../private/",
        "/public/a%2Fb",
        "/public/a%5cb",
        "/public/a;b=c",
        "/public/a\\b",
        "/public//a",
        "/public/b\u{fc}cher",
        "/public/x?q=\u{4f60}\u{597d}",
        "/public/x?a=|\"<>^{}`",
        "/public/x?100%",
        "/public/%7Euser/",
        "/public/a/../b",
        "/public/./a",
        "/public/%2e%2e/x",
        "/public/%2541",
        "/x@y:z!$&'()*+,=",
        "/public/x?http://private.example.com/private/",
        "/public/http://b/private/",
        "http://a/public/x",
        "http://a",
        "http://a?x",
        "HTTP://A:80/x",
        "https://a/x",
    ];
    let private = [
        "/private/",
        "/private/x",
        "/private/x?y=/../..",
        "/%70rivate/x",
        "/pr%69vat%65/x",
        "/private/a%2fb",
        "/private/a;b/c",
        "/private/x//y",
        "/private/a\\b",
        "/private/%c3%bc",
        "http://a/private/x",
        "http://A:8080/private/x?y",
    ];
    let refused = [
        // Servers read the path in several ways, and it matters.
        "/PRIVATE/x",
        "/Private/",
        "/%50rivate/x",
        "/private%2fx",
        "/private%2Fx",
        "/%2fprivate/x",
        "/public/..%2fprivate/x",
        "/public%2f..%2fprivate/x",
        "/private/..%2fpublic/x",
        "/private%2f%2e%2e%2fpublic/",
        "/private/%2e%2e%2fpublic",
        "/public/../private/x",
        "/private/../public/x",
        "/public/%2e%2e/private/x",
        "/./private/x",
        "//private/x",
        "/public//../private/x",
        "/private//../public/x",
        "/public/..;/private/x",
        "/private;v=1/x",
        "/public/..\\private/x",
        "/private\\x",
        "/public/..%5cprivate/x",
        "/private/x%00/../../public/y",
        "/private/x%3f/../../public/y",
        "/private/x%23/../../public/y",
        "/public/x%23/../../private/y",
        "http://a//private/x",
        "http://a/private%2fx",
        // Not clear at all.
        "/private/x#/../../public/",
        "/public/#/../../private/x",
        "/x#/../private/",
        "/public/x?y#z",
        "/public/%zz",
        "/public/%4",
        "/public/a%",
        "http://u@a/public/x",
        "http://u:p@a/private/x",
        "http://a:80x/public/x",
        "http:///x",
        "http:/a/x",
        "ftp://a/x",
        "*",
        "a/x",
        "x",
        "?x",
    ];
    let mut cases: Vec<Case> = Vec::new();
    for (targets, of) in [(&public[..], Public), (&private, Private), (&refused, Refused)] {
        cases.extend(targets.iter().map(|target| case(get(target), &[of])));
    }
    cases
}

fn hosts() -> Vec<Case> {
    let public = [
        "a",
        "A.example",
        "a:80",
        "a:",
        "[::1]",
        "[2001:DB8::1]:80",
        "10.0.0.1:80",
        "a_b-c.d",
        "",
        "\ta \t",
        "xprivate.example.com",
    ];
    let private = [
        "private.example.com",
        "PRIVATE.Example.Com",
        "private.example.com:80",
        "private.example.com:",
        " private.example.com\t",
    ];
    let refused = [
        "private.example.com.",
        "private.example.com.:80",
        "private.example.com:80abc",
        "private.example.com:evil",
        "private.example.com:80:80",
        "private.example.com:.public.example.com",
        "private.example.com:1.public.example.com",
        "private.example.com..",
        "private.example.com,x",
        "private.example.com :80",
        "x@private.example.com",
        "private.example.com#a",
        "private.example.com/",
        "private.example.com\\",
        "private.example.com;x",
        ":80",
        ".a",
        "a b",
        "[::1",
        "[]",
        "%61",
        "\u{e4}",
    ];
    let mut cases: Vec<Case> = Vec::new();
    for (hosts, of) in [(&public[..], Public), (&private, Private), (&refused, Refused)] {
        cases.extend(hosts.iter().map(|host| case(to(host), &[of])));
    }
    let with = |target: &str, host: &str| format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    cases.extend([
        case(with("http://private.example.com/x", "private.example.com"), &[Private]),
        case(with("http://private.example.com:80/x", "private.example.com"), &[Private]),
        case(with("http://b/x", "a"), &[Public]),
        case(with("http://private.example.com/x", "a"), &[Refused]),
        case(with("http://a/x", "private.example.com"), &[Refused]),
        case(with("http://private.example.com/private/x", "a"), &[Private]),
        case("GET /x HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", &[Refused]),
        case("GET /x HTTP/1.1\r\nHost: a\r\nHost: private.example.com\r\n\r\n", &[Refused]),
        case("GET /x HTTP/1.1\r\n\r\n", &[Public]),
        case("GET /private/x HTTP/1.0\r\n\r\n", &[Private]),
        case("GET http://private.example.com/x HTTP/1.0\r\n\r\n", &[Refused]),
        case("GET http://private.example.com/private/x HTTP/1.0\r\n\r\n", &[Private]),
    ]);
    cases
}

fn lines() -> Vec<Case> {
    let mut cases = vec![
        spaced(&["", &get("/private/x")], &[Private]),
        spaced(&["", "", &get("/public/x")], &[Public]),
        case(with_line("OPTIONS * HTTP/1.1"), &[Public]),
        case(with_line("OPTIONS /private/x HTTP/1.1"), &[Private]),
        case("OPTIONS * HTTP/1.1\r\nHost: private.example.com\r\n\r\n", &[Private]),
        case(with_line("VERSION-CONTROL /private/x HTTP/1.1"), &[Private]),
        case(with_line("M-SEARCH /public/x HTTP/1.1"), &[Public]),
        case(with_line("X!#$%&'*+-.^_`|~ /private/x HTTP/1.1"), &[Private]),
        case(with_line("DELETE /private/x HTTP/1.1"), &[Private]),
        case(with_line("BREW /private/x HTTP/1.0"), &[Private]),
    ];
    let long = format!("{} /public/x HTTP/1.1", "M".repeat(32));
    for line in [
        "get /private/x HTTP/1.1",
        "Get /private/x HTTP/1.1",
        "head /private/x HTTP/1.1",
        "GE(T /private/x HTTP/1.1",
        " GET /private/x HTTP/1.1",
        "GET  /private/x HTTP/1.1",
        "GET\t/private/x HTTP/1.1",
        "GET /private/x  HTTP/1.1",
        "GET /private/x HTTP/1.1 ",
        "GET /private/x\tHTTP/1.1",
        "GET /private/x y HTTP/1.1",
        "GET /private/x http/1.1",
        "GET /private/x HTTP/1.2",
        "GET /private/x HTTP/01.1",
        "GET /private/x HTTP/1.",
        "GET /private/x HTTP/2.0",
        "GET /private/x HTTP/3.1",
        "GET /private/x HTTPS/1.1",
        "GET /private/x ICY/1.1",
        "GET /private/x",
        "PROXY TCP4 192.0.2.1 10.99.0.1 5000 80",
        "CONNECT a:443 HTTP/1.1",
        "CONNECT /private/x HTTP/1.1",
        &long,
    ] {
        cases.push(case(with_line(line), &[Refused]));
    }
    cases
}

fn heads() -> Vec<Case> {
    let with = |fields: &str| format!("GET /private/x HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let mut cases: Vec<Case> = [
        "X-Empty:\r\n",
        "X: \u{9ad8} \t\r\n",
        "X_Y: 1\r\n",
        "!#$%&'*+-.^_`|~09azAZ: x\r\n",
        "Content-Length: 0\r\n",
        "Expect: something\r\n",
        "Transfer: chunked\r\nContent-Lengths: 9\r\n",
        "Range: bytes=0-1\r\n",
    ]
    .map(|fields| case(with(fields), &[Private]))
    .into();
    for fields in [
        "X: a\n",
        "X: a\rY: b\r\n",
        "X: a\r\n folded\r\n",
        "X : a\r\n",
        ": a\r\n",
        "nothing\r\n",
        "X: a\0b\r\n",
        "X(: a\r\n",
        "\u{e9}: a\r\n",
        "Content-Length: 0\r\nContent-Length: 0\r\n",
        "Content-Length: +0\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 0, 0\r\n",
        "Content-Length: 0x0\r\n",
        "Content-Length: \r\n",
        "Content-Length : 0\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
    ] {
        cases.push(case(with(fields), &[Refused]));
    }
    cases.push(case(get("/private/x").replace("\r\n", "\n"), &[Refused]));
    cases
}

fn bodies() -> Vec<Case> {
    let chunked = "Transfer-Encoding: chunked\r\n";
    let next = get("/private/x");
    vec![
        case(post("Content-Length: 5\r\n", "abcde"), &[Public]),
        case(post(&format!("Content-Length: {}\r\n", next.len()), &next), &[Public]),
        case(post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), &[Refused]),
        case(post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"), &[Refused]),
        case(post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"), &[Refused]),
        case(post("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"), &[Refused]),
        case(post(&format!("{chunked}{chunked}"), "0\r\n\r\n"), &[Refused]),
        case(post(chunked, "0\r\n\r\n").replace("HTTP/1.1", "HTTP/1.0"), &[Refused]),
    ]
}

fn pipelined() -> Vec<Case> {
    let (public, private) = (get("/public/x"), get("/private/x"));
    let length = post("Content-Length: 5\r\n", "abcde");
    vec![
        case([&public[..], &private].concat(), &[Public, Private]),
        case([&private[..], &private, &public].concat(), &[Private, Private, Public]),
        case([&public[..], &private, &public, &private].concat(), &[Public, Private, Public, Private]),
        spaced(&[&public, &private], &[Public, Private]),
        spaced(&[&length, &public], &[Public, Public]),
        spaced(&[&length, &private, ""], &[Public, Private]),
        case([&length[..], &private].concat(), &[Public, Private]),
        case([&private[..], &get("http://a/public/x")].concat(), &[Private, Public]),
        case([&public[..], &get("/private%2fx")].concat(), &[Public, Refused]),
        case([&private[..], &get("/private%2fx"), &public].concat(), &[Private, Refused]),
        case([&public[..], &get("/private/x#y")].concat(), &[Public, Refused]),
        case([&public[..], &to("private.example.com:x")].concat(), &[Public, Refused]),
        case([&public[..], &to("private.example.com")].concat(), &[Public, Private]),
        case([&public[..], &with_line("OPTIONS * HTTP/1.1"), &private].concat(), &[Public, Public, Private]),
    ]
}

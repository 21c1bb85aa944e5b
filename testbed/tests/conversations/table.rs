//! The conversations themselves.

use super::{Conversation, Step};

/// A page of 3000 bytes that every server has.
pub const PAGE: &str = "/page.3000";

fn send(bytes: impl AsRef<[u8]>) -> Step {
    Step::Send(bytes.as_ref().to_vec())
}

/// A request with these header lines, each with its CRLF, after `Host`.
fn request(line: &str, fields: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: testbed\r\n{fields}\r\n")
}

fn get(fields: &str) -> String {
    request(&format!("GET {PAGE}"), fields)
}

fn post(fields: &str, body: &str) -> String {
    request("POST /app/echo/x.5", fields) + body
}

fn of(name: &'static str, steps: Vec<Step>) -> Conversation {
    Conversation { name, steps, may_be_cut: false }
}

/// One write.
fn one(name: &'static str, bytes: impl AsRef<[u8]>) -> Conversation {
    of(name, vec![send(bytes)])
}

/// One write that the server may refuse before it has read all of it.
fn cut(name: &'static str, bytes: impl AsRef<[u8]>) -> Conversation {
    Conversation { may_be_cut: true, ..one(name, bytes) }
}

/// In pieces of so many bytes.
fn split(name: &'static str, bytes: impl AsRef<[u8]>, size: usize) -> Conversation {
    of(name, bytes.as_ref().chunks(size).map(send).collect())
}

/// Every conversation.
pub fn all() -> Vec<Conversation> {
    let parts =
        [persistence(), bodies(), pipelining(), selections(), methods(), heads(), targets(), others()];
    parts.into_iter().flatten().collect()
}

fn persistence() -> Vec<Conversation> {
    let old = format!("GET {PAGE} HTTP/1.0\r\n\r\n");
    let old_kept = format!("GET {PAGE} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    vec![
        of("two requests one after the other", vec![send(get("")), Step::Listen, send(get(""))]),
        one("a request to close", get("Connection: close\r\n")),
        one("HTTP/1.0", &old),
        of(
            "HTTP/1.0 kept alive",
            vec![send(&old_kept), Step::Listen, send(&old_kept), Step::Listen, send(&old)],
        ),
        of("HTTP/1.1 after HTTP/1.0", vec![send(&old_kept), Step::Listen, send(get(""))]),
        one("a version to come", format!("GET {PAGE} HTTP/1.2\r\nHost: x\r\nConnection: close\r\n\r\n")),
        one("a version too high", format!("GET {PAGE} HTTP/3.0\r\nHost: x\r\n\r\n")),
        one("HTTP/0.9", format!("GET {PAGE}\r\n")),
        of("a half-close behind the request", vec![send(get("")), Step::HalfClose]),
        of("a half-close within the head", vec![send(&get("")[..30]), Step::HalfClose]),
        of("a letter, and a half-close", vec![send("G"), Step::Listen, Step::HalfClose]),
        of("a method, and a half-close", vec![send("GET "), Step::Listen, Step::HalfClose]),
        of("a line, and a half-close", vec![send(&get("")[..26]), Step::Listen, Step::HalfClose]),
        of("all but the last byte", vec![send(&get("")[..get("").len() - 1]), Step::Listen, Step::HalfClose]),
        of("a half-close and nothing", vec![Step::HalfClose]),
        one("empty lines first", format!("\r\n\r\n{}", get(""))),
        of("empty lines between", vec![send(get("")), Step::Listen, send(format!("\r\n{}", get("")))]),
    ]
}

fn bodies() -> Vec<Conversation> {
    let length = "Content-Length: 5\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n";
    let expect = "Expect: 100-continue\r\nContent-Length: 5\r\n";
    let looks = format!("Content-Length: {}\r\n", get("").len());
    let chunks = "3;name=\"va;lue\"\r\nabc\r\n2\r\nde\r\n0\r\nX-Trailer: yes\r\n\r\n";
    vec![
        one("a body with a length", post(length, "abcde")),
        of("a body after its head", vec![send(post(length, "")), send("abc"), send("de")]),
        of("100-continue, waited for", vec![send(post(expect, "")), Step::Listen, send("abcde")]),
        one("100-continue, not waited for", post(expect, "abcde")),
        one("an expectation nobody knows", post("Expect: the-best\r\nContent-Length: 5\r\n", "abcde")),
        one("chunks with extensions and a trailer", post(chunked, chunks)),
        split("chunks byte by byte", post(chunked, chunks), 3),
        of("chunks and a request", vec![send(post(chunked, chunks)), Step::Listen, send(get(""))]),
        cut("a chunk size that is none", post(chunked, "zz\r\nabc\r\n0\r\n\r\n")),
        cut("a chunk size beyond all", post(chunked, "fffffffffffffffff\r\nabc\r\n0\r\n\r\n")),
        cut("a chunk longer than said", post(chunked, "3\r\nabcdef\r\n0\r\n\r\n")),
        of("a body that ends early", vec![send(post(length, "abc")), Step::HalfClose]),
        one("a body that looks like a request", post(&looks, &get(""))),
        of("and a request behind it", vec![send(post(&looks, &get("")) + &get(""))]),
        of("more body than said", vec![send(post(length, "abcdefgh")), Step::Listen]),
        one("GET with a body", get(length) + "abcde"),
        one("a body for a page", request(&format!("POST {PAGE}"), length) + "abcde"),
    ]
}

fn pipelining() -> Vec<Conversation> {
    let three = get("") + &get("X-Second: yes\r\n") + &get("");
    let head = request(&format!("HEAD {PAGE}"), "");
    let length = "Content-Length: 5\r\n";
    vec![
        one("three requests in one packet", &three),
        split("three requests cut anywhere", &three, 31),
        one("GET, HEAD and GET at once", get("") + &head + &get("")),
        one("a request behind one to close", get("Connection: close\r\n") + &get("")),
        one("requests before and behind a body", get("") + &post(length, "abcde") + &get("")),
        one("a good request, then a bad one", get("") + "BAD\r\n\r\n"),
        one("one found and one not", get("") + &request("GET /none.html", "") + &get("")),
    ]
}

fn selections() -> Vec<Conversation> {
    let of_range = |range: &str| get(&format!("Range: bytes={range}\r\n"));
    vec![
        one("HEAD", request(&format!("HEAD {PAGE}"), "")),
        one("not modified", get("If-None-Match: *\r\n")),
        of("not modified, then the page", vec![send(get("If-None-Match: *\r\n") + &get(""))]),
        one("modified never again", get("If-Modified-Since: Fri, 31 Dec 2100 23:59:59 GMT\r\n")),
        one("a range from the start", of_range("0-99")),
        one("the last bytes", of_range("-10")),
        one("a range beyond the end", of_range("5000-6000")),
        one("two ranges", of_range("0-9,20-29")),
        one("a range that is none", of_range("9-3")),
        one("languages and codings", get("Accept-Encoding: gzip, br\r\nAccept-Language: de;q=0.5\r\n")),
    ]
}

fn methods() -> Vec<Conversation> {
    vec![
        one("OPTIONS for all", request("OPTIONS *", "")),
        one("OPTIONS", request(&format!("OPTIONS {PAGE}"), "")),
        one("TRACE", request(&format!("TRACE {PAGE}"), "")),
        one("DELETE", request(&format!("DELETE {PAGE}"), "")),
        one("a method nobody knows", request(&format!("BREW {PAGE}"), "")),
        one("a method in lower case", request(&format!("get {PAGE}"), "")),
        cut("a method of 300 letters", request(&format!("{} {PAGE}", "M".repeat(300)), "")),
        one("a method with a bad character", request(&format!("GE(T {PAGE}"), "")),
        one("CONNECT", "CONNECT other:443 HTTP/1.1\r\nHost: other:443\r\n\r\n"),
        one("an upgrade that is not known", get("Connection: Upgrade\r\nUpgrade: carrier-pigeon\r\n")),
        of(
            "an upgrade, and bytes that follow",
            vec![
                send(get("Connection: Upgrade\r\nUpgrade: echo\r\n")),
                Step::Listen,
                send("GET / HTTP/1.1\r\n\r\n"),
            ],
        ),
    ]
}

fn heads() -> Vec<Conversation> {
    let many: String = (0..90).map(|i| format!("X-{i}: {}\r\n", "y".repeat(20))).collect();
    let long = format!("X-Long: {}\r\n", "y".repeat(6000));
    let longest = format!("X-Long: {}\r\n", "y".repeat(200_000));
    let twice = "Content-Length: 5\r\nContent-Length: 5\r\n";
    let differ = "Content-Length: 5\r\nContent-Length: 6\r\n";
    let both = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n";
    vec![
        one("bare line feeds", get("X: y\r\n").replace("\r\n", "\n")),
        cut("bare carriage returns", get("X: y\r\n").replace("\r\n", "\r")),
        one("one bare line feed", get("X: y\nZ: w\r\n")),
        one("a folded line", get("X: y\r\n  folded\r\n")),
        one("a space before the colon", get("X : y\r\n")),
        one("a name that is none", get(": y\r\n")),
        one("a line without a colon", get("nothing\r\n")),
        one("NUL in a value", get("X: a\0b\r\n")),
        one("a tab and high bytes", get("X:\ta\tb \u{fc}\r\n")),
        one("no Host", format!("GET {PAGE} HTTP/1.1\r\n\r\n")),
        one("two Hosts", get("Host: other\r\n")),
        one("a Host that is none", format!("GET {PAGE} HTTP/1.1\r\nHost: a b/c\r\n\r\n")),
        one("the same length twice", post(twice, "abcde")),
        cut("two lengths", post(differ, "abcdef")),
        cut("a negative length", post("Content-Length: -5\r\n", "abcde")),
        cut("a length with a plus", post("Content-Length: +5\r\n", "abcde")),
        cut("a length and chunks", post(both, "5\r\nabcde\r\n0\r\n\r\n")),
        cut("a coding nobody knows", post("Transfer-Encoding: magic\r\n", "abcde")),
        cut("chunked twice", post("Transfer-Encoding: chunked, chunked\r\n", "5\r\nabcde\r\n0\r\n\r\n")),
        cut(
            "chunked with HTTP/1.0",
            format!("POST {PAGE} HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ),
        one("many lines", get(&many)),
        one("a long line", get(&long)),
        split("a long line in pieces", get(&long), 700),
        cut("a line that is too long", get(&longest)),
        split("byte by byte", get(""), 1),
        of("cut in the method", vec![send("GE"), send(&get("")[2..])]),
        of("cut before the last line feed", vec![send(&get("")[..get("").len() - 1]), send("\n")]),
    ]
}

fn targets() -> Vec<Conversation> {
    let of_target = |target: &str| request(&format!("GET {target}"), "");
    let long = format!("{PAGE}?{}", "q".repeat(3000));
    // Longer ones than the reader takes are answered by Baton itself: see slow_path.rs.
    let longest = format!("{PAGE}?{}", "q".repeat(50_000));
    vec![
        one("the absolute form", of_target(&format!("http://testbed{PAGE}"))),
        one("the absolute form of another host", of_target(&format!("http://other{PAGE}"))),
        one("%2e%2e", of_target("/dir/%2e%2e/page.3000")),
        one("dots", of_target("/./dir/../page.3000")),
        one("above the root", of_target("/../page.3000")),
        one("slashes", of_target("//page.3000")),
        one("escaped letters", of_target("/p%61ge.3000")),
        one("an escape that is none", of_target("/p%zzge.3000")),
        one("an escaped NUL", of_target("/page%00.3000")),
        cut("NUL", of_target("/page\0.3000")),
        one("a query", of_target("/page.3000?a=b&c=%20")),
        one("a fragment", of_target("/page.3000#part")),
        one("a long query", of_target(&long)),
        cut("a query that is too long", of_target(&longest)),
        one("two spaces", request("GET  /page.3000", "")),
        one("no slash", of_target("page.3000")),
        one("nothing there", of_target("/none.html")),
    ]
}

fn others() -> Vec<Conversation> {
    // A preface, empty settings, and a ping.
    let mut http_2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    http_2.extend_from_slice(b"\0\0\x08\x06\0\0\0\0\0pingpong");
    let upgrade =
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n";
    let hello = b"\x16\x03\x01\0\x2f\x01\0\0\x2b\x03\x03".iter().copied().chain([7; 36]).collect::<Vec<u8>>();
    vec![
        Conversation { may_be_cut: true, ..one("HTTP/2 at once", &http_2) },
        of("an upgrade to HTTP/2", vec![send(get(upgrade)), Step::Listen, send(&http_2)]),
        cut("a TLS hello", hello),
        one("anything", "anything at all\r\n\r\n"),
        cut("bytes", (0..=255).collect::<Vec<u8>>()),
    ]
}

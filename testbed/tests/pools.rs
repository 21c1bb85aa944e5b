//! A service whose pools have different servers, and servers and clients that are not as one would have them: what
//! belongs to one pool is never served by a server of the other. It is served by the right one, or the connection
//! ends.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, sleep};
use std::time::Duration;

use baton_testbed::{Cluster, Dial, Figure, Host, Testbed};

const POOLS: &str = "[[service.pool]]\nname = \"first\"\nservers = [\"b\"]\npolicy = \"wrr\"\n\
                     [[service.pool]]\nname = \"second\"\nservers = [\"c\"]\npolicy = \"wrr\"\n\
                     [[service.route]]\npool = \"second\"\npath = \"/second/\"\n";
/// Long enough for everything on the way to be heard of.
const QUIET: Duration = Duration::from_millis(400);
/// A client's TCP repeats what is not acknowledged, and is told then.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a server of the second pool says to everything.
const RIGHT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond";

/// What a scripted server does when it has got a head.
#[derive(Clone, Copy)]
struct Script {
    /// It says this.
    says: &'static str,
    /// And closes then, after a while.
    closes: Option<Duration>,
}

/// A server that takes whatever comes for a request and says always the same; it tells what it has got.
fn serve(host: &Host, script: Script, got: Sender<String>) {
    let address = host.at(80);
    let listener = host.inside(|| TcpListener::bind(("::", address.port())).expect("a free port"));
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let got = got.clone();
            thread::spawn(move || converse(stream, script, &got));
        }
    });
}

fn converse(mut stream: TcpStream, script: Script, got: &Sender<String>) {
    let mut buffer = [0; 65_536];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
        // One answer to each packet is enough here, but to half a body.
        let half = text.ends_with(HALF);
        if got.send(text).is_err() {
            return;
        }
        if half {
            continue;
        }
        if stream.write_all(script.says.as_bytes()).is_err() {
            return;
        }
        if let Some(after) = script.closes {
            sleep(after);
            return;
        }
    }
}

/// The first half of a body.
const HALF: &str = "01234";

/// A cluster of two scripted servers, and what they have got.
struct Scripted<'a> {
    bed: &'a Testbed,
    cluster: Cluster<'a>,
    first: Receiver<String>,
    second: Receiver<String>,
}

impl<'a> Scripted<'a> {
    fn start(bed: &'a Testbed, script: Script) -> Self {
        let ((first_got, first), (second_got, second)) = (channel(), channel());
        let host = |name: &str| bed.nodes().iter().find(|host| host.name() == name).expect("a node");
        serve(host("b"), script, first_got);
        serve(host("c"), Script { says: RIGHT, closes: None }, second_got);
        let cluster = Figure::Five.start_without_servers(bed, Vec::new(), POOLS);
        Self { bed, cluster, first, second }
    }

    fn open(&self) -> TcpStream {
        Dial::new(self.cluster.service()).patience(PATIENCE).stream(self.bed.client(0)).expect("answered")
    }
}

/// What comes until nothing does for a moment; whether the connection has ended.
fn hear(stream: &mut TcpStream, quiet: Duration) -> (String, bool) {
    stream.set_read_timeout(Some(quiet)).expect("a timeout");
    let (mut heard, mut buffer) = (Vec::new(), [0; 65_536]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (String::from_utf8_lossy(&heard).into_owned(), true),
            Ok(read) => heard.extend_from_slice(&buffer[..read]),
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                return (String::from_utf8_lossy(&heard).into_owned(), false);
            }
            Err(_) => return (String::from_utf8_lossy(&heard).into_owned(), true),
        }
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")
}

/// Responses that Baton does not read, as llhttp's and other collections of them have them, though some client may.
const UNREAD: [&str; 12] = [
    "HTTP/1.1 200 OK\nContent-Length: 5\n\nfirst",
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\nfirst",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nfirst\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\nfirst\n0\n\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nfirst\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent Length: 5\r\nContent-Length: 5\r\n\r\nfirst",
    "HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nfirst",
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nfirst",
    "HTTP/1.1 200 OK\r\n\r\nfirst",
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    "HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nfirst",
    "<html>first</html>\r\n\r\n",
];

/// Whatever the answer looks like, the next request of the other pool never comes to this pool's server.
#[test]
fn behind_an_answer_that_cannot_be_read() {
    for says in UNREAD {
        let bed = Testbed::builder().figure(Figure::Five).build();
        let on = Scripted::start(&bed, Script { says, closes: None });
        for pipelined in [false, true] {
            let mut client = on.open();
            let (first, second) = (get("/a"), get("/second/b"));
            if pipelined {
                client.write_all((first + &second).as_bytes()).expect("sent");
            } else {
                client.write_all(first.as_bytes()).expect("sent");
                let (heard, ended) = hear(&mut client, QUIET);
                assert_eq!((heard.as_str(), ended), (says, false), "the answer comes through");
                client.write_all(second.as_bytes()).expect("sent");
            }
            let (heard, ended) = hear(&mut client, PATIENCE);
            let right = heard.ends_with("second");
            assert!(right || ended, "{says:?}, pipelined {pipelined}: neither answered nor ended: {heard:?}");
            let got: Vec<String> = on.first.try_iter().collect();
            assert!(!got.concat().contains("/second/"), "{says:?}, pipelined {pipelined}: {got:?}");
        }
        on.cluster.stop();
    }
}

/// But a server's own requests go on, as the client and it understand each other.
#[test]
fn own_requests_behind_an_answer_that_cannot_be_read() {
    let bed = Testbed::builder().figure(Figure::Five).build();
    let on = Scripted::start(&bed, Script { says: UNREAD[2], closes: None });
    let mut client = on.open();
    for round in 0..40 {
        client.write_all(get("/a").as_bytes()).expect("sent");
        let mut answer = vec![0; UNREAD[2].len()];
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        client.read_exact(&mut answer).unwrap_or_else(|e| panic!("round {round}: {e}"));
    }
    on.cluster.stop();
}

/// RFC 9112 9.6: whoever has said that it closes, nothing behind that is served, here or elsewhere.
#[test]
fn nothing_behind_the_end() {
    let last = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nfirst";
    let plain = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst";
    let old = "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nfirst";
    let closing = "GET /a HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Close\r\n\r\n";
    let post = "POST /second/b HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    for (says, asks) in [(last, get("/a").as_str()), (old, &get("/a")), (plain, closing)] {
        let bed = Testbed::builder().figure(Figure::Five).build();
        let on = Scripted::start(&bed, Script { says, closes: Some(Duration::from_millis(100)) });
        for apart in [None, Some(Duration::from_millis(30))] {
            let mut client = on.open();
            client.write_all(asks.as_bytes()).expect("sent");
            if let Some(apart) = apart {
                sleep(apart);
            }
            client.write_all(post.as_bytes()).expect("sent");
            let (heard, ended) = hear(&mut client, PATIENCE);
            assert_eq!((heard.as_str(), ended), (says, true), "{asks:?}, apart {apart:?}");
            assert_eq!(on.second.try_iter().count(), 0, "{asks:?}, apart {apart:?}: served elsewhere");
            let got: Vec<String> = on.first.try_iter().collect();
            assert!(!got.concat().contains("/second/"), "{asks:?}, apart {apart:?}: {got:?}");
        }
        on.cluster.stop();
    }
}

/// A protocol that a client has asked for is its own affair and its server's; but HTTP/2 has requests for every pool.
#[test]
fn other_protocols() {
    let says = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n";
    for (protocol, goes_on) in [("websocket", true), ("h2c", false), ("H2C", false)] {
        let bed = Testbed::builder().figure(Figure::Five).build();
        let on = Scripted::start(&bed, Script { says, closes: None });
        let mut client = on.open();
        let upgrade =
            format!("GET /a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n");
        client.write_all(upgrade.as_bytes()).expect("sent");
        assert_eq!(hear(&mut client, QUIET), (says.to_owned(), false), "{protocol}");
        let other = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n/second/";
        client.write_all(other.as_bytes()).expect("sent");
        let (heard, ended) = hear(&mut client, PATIENCE);
        let got = on.first.try_iter().collect::<String>().contains("/second/");
        assert_eq!((got, ended), (goes_on, !goes_on), "{protocol}: {heard:?}");
        on.cluster.stop();
    }
}

/// A request that cannot be read, in the packet that ends a body, or behind one that is answered.
#[test]
fn requests_that_cannot_be_read() {
    let says = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst";
    let doubtful =
        ["GET /second/b HTTP/1.1\nHost: x\n\n", "GET /second/b HTTP/1.1\r\nHost: x\r\nX : y\r\n\r\n"];
    let chunks = "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nabcde\r\n0\r\n\r\n";
    let bed = Testbed::builder().figure(Figure::Five).build();
    let on = Scripted::start(&bed, Script { says, closes: None });
    for second in doubtful {
        let mut client = on.open();
        let head = "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n".to_owned() + HALF;
        client.write_all(head.as_bytes()).expect("sent");
        sleep(QUIET);
        client.write_all(format!("56789{second}").as_bytes()).expect("sent");
        let (heard, ended) = hear(&mut client, PATIENCE);
        assert!(ended && heard.contains(" 400 "), "{second:?}: {heard:?}");
    }
    let mut client = on.open();
    client.write_all(format!("{chunks}{}", get("/second/b")).as_bytes()).expect("sent");
    let (_, ended) = hear(&mut client, PATIENCE);
    assert!(ended, "behind a chunk that only some servers can read");
    let got = on.first.try_iter().collect::<String>();
    assert!(got.contains("56789") && !got.contains("/second/"), "{got:?}");
    on.cluster.stop();
}

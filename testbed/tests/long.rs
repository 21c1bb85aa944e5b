//! Connections that are not a request and its answer, and those that last: upgrades and tunnels, late and
//! slow answers, a gigabyte each way, clients that wait, half-close, or give up at any point.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use baton_testbed::{
    Baton, Cluster, Connection, Content, Dial, DocRoot, Exchange, Fault, Figure, Framing, Host, Kind,
    Packets, Process, StartServer, Testbed, WebServer, get, node_status, wait_until,
};
use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};

const SOON: Duration = Duration::from_secs(10);
/// For what may take long on a busy machine.
const LONG: Duration = Duration::from_secs(60);
const GIGABYTE: u64 = 1_000_000_000;

/// A cluster of figure 7 with the application on Node.
fn with_app(work: impl FnOnce(&Testbed, &Cluster<'_>)) {
    with(WebServer::node, work);
}

fn with(server: StartServer, work: impl FnOnce(&Testbed, &Cluster<'_>)) {
    let bed = Testbed::builder().figure(Figure::Seven).build();
    let cluster = Figure::Seven.start(&bed, server, &DocRoot::shared(), "policy = \"wrr\"");
    work(&bed, &cluster);
    cluster.stop();
}

fn dial(cluster: &Cluster<'_>) -> Dial {
    Dial::new(cluster.service()).patience(LONG)
}

fn open(bed: &Testbed, cluster: &Cluster<'_>) -> Connection {
    dial(cluster).open(bed.client(0)).expect("answered")
}

fn stream(bed: &Testbed, cluster: &Cluster<'_>) -> TcpStream {
    dial(cluster).stream(bed.client(0)).expect("answered")
}

/// Reads a head, up to its empty line.
fn head(from: &mut impl Read) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        from.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// Python's websockets, on both sides.
#[test]
fn websockets() {
    const SERVER: &str = r#"
import asyncio, websockets
async def echo(socket, path=None):
    async for message in socket:
        await socket.send(message)
async def main():
    async with websockets.serve(echo, None, 80, max_size=1 << 24, ping_interval=1):
        await asyncio.Future()
asyncio.run(main())
"#;
    const CLIENT: &str = r#"
import asyncio, os, sys, websockets
async def one(i):
    async with websockets.connect(sys.argv[1] + str(i), max_size=1 << 24, ping_interval=1) as socket:
        for size in [0, 1, 125, 126, 65535, 65536, 3000000]:
            message = os.urandom(size) if size % 2 else "x" * size
            await socket.send(message)
            assert await socket.recv() == message
        await asyncio.sleep(3)
        # Many at once, answered in order.
        for n in range(200): await socket.send(str(n))
        for n in range(200): assert await socket.recv() == str(n)
    assert socket.close_code == 1000
async def main():
    await asyncio.gather(*[one(i) for i in range(12)])
    print("all echoed")
asyncio.run(main())
"#;
    let python = |host: &Host| host.command("/usr/bin/python3");
    let bed = Testbed::builder().figure(Figure::Seven).build();
    let servers = (0..bed.nodes().len()).filter(|i| Figure::Seven.has_role(*i, "server"));
    let _servers: Vec<Process> = servers
        .map(|i| {
            let node = bed.node(i);
            let mut command = python(node);
            command.arg(node.scratch().write("echo.py", SERVER));
            let mut process = node.start("websockets", command);
            process.wait_ready(SOON, || node.listens(80));
            process
        })
        .collect();
    let cluster = Figure::Seven.start_without_servers(&bed, Vec::new(), "policy = \"wrr\"");
    let client = bed.client(0);
    let mut command = client.command("timeout");
    command.args(["60", "/usr/bin/python3"]).arg(client.scratch().write("client.py", CLIENT));
    command.arg(format!("ws://{}/", cluster.host_in_url()));
    let output = command.output().expect("timeout can be started");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
    cluster.stop();
}

/// Bytes both ways at once, among them such as look like requests, and then an orderly end.
fn tunnel(mut stream: TcpStream, request: &str, status: &str) {
    stream.write_all(request.as_bytes()).expect("sent");
    let head = head(&mut stream);
    assert!(head.starts_with(status), "{head}");
    let looks = get(&Content::new("page", 3000), false);
    let bytes: Vec<u8> = looks.iter().cycle().take(2_000_000).copied().collect();
    let mut back = vec![0; bytes.len()];
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            (&stream).write_all(&bytes).expect("sent");
            stream.shutdown(Shutdown::Write).expect("half-closed");
        });
        (&stream).read_exact(&mut back).expect("echoed");
        writer.join().expect("no panic");
    });
    assert!(back == bytes, "the echo differs");
    assert_eq!(stream.read(&mut back).expect("an end"), 0);
}

#[test]
fn upgrades_and_connect() {
    with_app(|bed, cluster| {
        let upgrade = "GET /any HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
        let connect = "CONNECT other:443 HTTP/1.1\r\nHost: other:443\r\n\r\n";
        for _ in 0..3 {
            tunnel(stream(bed, cluster), upgrade, "HTTP/1.1 101 ");
            tunnel(stream(bed, cluster), connect, "HTTP/1.1 200 ");
        }
        // Behind an ordinary request.
        let mut kept = stream(bed, cluster);
        kept.write_all(b"HEAD /page.3000 HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
        assert!(head(&mut kept).starts_with("HTTP/1.1 200 "));
        tunnel(kept, upgrade, "HTTP/1.1 101 ");
    });
}

#[test]
fn long_polling() {
    with_app(|bed, cluster| {
        let mut waiting: Vec<Connection> = (0..10).map(|_| open(bed, cluster)).collect();
        for round in 0..2 {
            for (i, connection) in waiting.iter_mut().enumerate() {
                let poll = format!("GET /app/poll/{} HTTP/1.1\r\nHost: x\r\n\r\n", 1000 + 200 * i);
                connection.send(poll.as_bytes()).expect("sent");
            }
            for connection in &mut waiting {
                let response = connection.response().expect("answered late");
                assert_eq!((response.status, response.body.as_slice()), (200, &b"polled\n"[..]), "{round}");
            }
        }
    });
}

#[test]
fn server_sent_events() {
    with_app(|bed, cluster| {
        let mut streams: Vec<TcpStream> = (0..6).map(|_| stream(bed, cluster)).collect();
        for stream in &mut streams {
            stream.write_all(b"GET /app/events/12/300 HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
        }
        for stream in &mut streams {
            let head = head(stream);
            assert!(head.contains("text/event-stream"), "{head}");
            let mut lines = BufReader::new(stream).lines().map(|line| line.expect("a line"));
            let mut ids = Vec::new();
            // The last chunk has no bytes.
            while let Some(line) = lines.next().filter(|line| line != "0") {
                ids.extend(line.strip_prefix("id: ").map(|id| id.parse::<usize>().expect("a number")));
            }
            assert_eq!(ids, (0..12).collect::<Vec<_>>());
        }
    });
}

#[test]
fn a_gigabyte_each_way() {
    with_app(|bed, cluster| {
        let mut connection = open(bed, cluster);
        for kind in [Kind::Get, Kind::Check(Framing::Length)] {
            let exchange = Exchange::new("gigabyte", GIGABYTE, kind);
            connection.send_request(&exchange).unwrap_or_else(|fault| panic!("{kind:?}: {fault}"));
            connection.response_to(&exchange).unwrap_or_else(|fault| panic!("{kind:?}: {fault}"));
        }
        // Parts of it, and more on the same connection.
        let parts =
            [(0, 1), (65_535, 65_537), (GIGABYTE / 2 - 5, GIGABYTE / 2 + 300_000), (GIGABYTE - 9, GIGABYTE)];
        for (start, end) in parts {
            let exchange = Exchange::new("gigabyte", GIGABYTE, Kind::Range(start, end));
            connection.send_request(&exchange).expect("sent");
            connection.response_to(&exchange).unwrap_or_else(|fault| panic!("{start}-{end}: {fault}"));
        }
        let chunked = Exchange::new("chunks", 100_000_000, Kind::Check(Framing::Chunked(50_000)));
        connection.send_request(&chunked).expect("sent");
        connection.response_to(&chunked).expect("all of it right");
    });
}

/// Connections that are made long before they are used, or used again: with and without keepalives.
#[test]
fn clients_that_wait() {
    with_app(|bed, cluster| {
        let page = Content::new("page", 3000);
        let mut all: Vec<Connection> = Vec::new();
        for used in [false, true] {
            for kept in [false, true] {
                let mut connection = open(bed, cluster);
                if kept {
                    connection.keepalive(Duration::from_secs(1)).expect("a setting");
                }
                if used {
                    connection.fetch(&page).expect("the page");
                }
                all.push(connection);
            }
        }
        std::thread::sleep(Duration::from_secs(5));
        for (i, connection) in all.iter_mut().enumerate() {
            connection.fetch(&page).unwrap_or_else(|fault| panic!("{i}: {fault}"));
            connection.fetch(&page).unwrap_or_else(|fault| panic!("{i}, again: {fault}"));
        }
        assert!(cluster.counted("keepalive_answered") > 0);
    });
}

/// For minutes: a connection with or without a request behind it is as good as before. Of one whose last
/// handshake packet was lost only the client knows; when the cookie that would prove it has expired, its
/// request is answered with a RST.
#[test]
fn clients_that_wait_for_minutes() {
    // A cookie counts for two slots of 2^36 ns.
    const EXPIRED: Duration = Duration::from_secs(140);
    let bed = Testbed::builder().figure(Figure::Seven).wire();
    let bed = bed.unobserved("a handshake without its last packet is forgotten after a minute").build();
    let cluster = Figure::Seven.start(&bed, WebServer::node, &DocRoot::shared(), "policy = \"wrr\"");
    let page = Content::new("page", 3000);
    let mut fresh = open(&bed, &cluster);
    let mut used = open(&bed, &cluster);
    used.fetch(&page).expect("the page");
    // The last packet of a handshake is the second one from the client.
    let unknown = |cluster: &Cluster<'_>| {
        let loss = bed.lose_nth(2, Packets::FromClients);
        let connection = open(&bed, cluster);
        wait_until(SOON, "the loss", || loss.lost() == 1);
        connection
    };
    let (mut early, mut late) = (unknown(&cluster), unknown(&cluster));
    early.fetch(&page).expect("its cookie is proof enough");
    std::thread::sleep(EXPIRED);
    fresh.fetch(&page).expect("the page");
    used.fetch(&page).expect("the page");
    early.fetch(&page).expect("the page");
    let fault = late.fetch(&page).expect_err("its cookie has expired");
    assert!(matches!(fault, Fault::Reset), "{fault}");
    let reset = |baton: &Baton<'_>| {
        let status = baton.status();
        node_status(&status, baton.host().name())["unknown"]["reset"].as_u64().unwrap_or(0)
    };
    assert_eq!(cluster.batons.iter().map(reset).sum::<u64>(), 1, "no node had it");
    cluster.stop();
}

/// On Apache: nginx and Node cut a long answer short for such a client, also when they are alone.
#[test]
fn clients_that_half_close() {
    with(WebServer::apache, |bed, cluster| {
        // Without a request: the end is answered at once.
        for _ in 0..5 {
            let mut stream = stream(bed, cluster);
            stream.shutdown(Shutdown::Write).expect("half-closed");
            assert_eq!(stream.read(&mut [0; 1]).expect("an end"), 0);
        }
        wait_until(SOON, "FINs answered", || cluster.counted("fin_answered") == 5);
        // Behind a request, together with it or when some of the answer has come: all of it comes.
        for (size, late) in [(10, false), (3_000_000, false), (3_000_000, true)] {
            let content = Content::new("half", size);
            DocRoot::shared().add(&content);
            let mut stream = stream(bed, cluster);
            stream.write_all(&get(&content, true)).expect("sent");
            let mut got = Vec::new();
            if late {
                got.resize(100_000, 0);
                stream.read_exact(&mut got).expect("a part");
            }
            stream.shutdown(Shutdown::Write).expect("half-closed");
            stream.read_to_end(&mut got).expect("all of it");
            let body = got.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
            assert!(content.is(&got[body..]), "{size} {late}");
        }
    });
}

/// Sockets of the service on all nodes, in any state but listening and TIME-WAIT.
fn sockets(bed: &Testbed) -> usize {
    let states = ["state", "connected", "exclude", "time-wait", "sport", "=", ":80"];
    let args: Vec<&str> = ["-Htn"].into_iter().chain(states).collect();
    bed.nodes().iter().map(|node| node.run("ss", args.iter().copied()).lines().count()).sum()
}

/// A RST at every point of a connection: the server hears of it, nothing stays, and others are served.
#[test]
fn clients_that_give_up_at_any_point() {
    with_app(|bed, cluster| {
        let big = Content::new("big", 20_000_000);
        let page = Content::new("page", 3000);
        let upload = Exchange::new("up", 1_000_000, Kind::Check(Framing::Length)).request();
        let chunks = Exchange::new("up", 100_000, Kind::Check(Framing::Chunked(999))).request();
        let page_request = get(&page, false);
        let three = page_request.repeat(3);
        // What is sent, and how much is read before the RST.
        let points: [(&[u8], usize); 11] = [
            (&page_request[..1], 0),
            (&page_request[..20], 0),
            (&page_request[..page_request.len() - 1], 0),
            (&page_request, 0),
            (&page_request, 10),
            (&page_request, 3000),
            (&get(&big, false), 0),
            (&get(&big, false), 1_000_000),
            (&upload[..500_000], 0),
            (&chunks[..50_003], 0),
            (&three, 4000),
        ];
        for _ in 0..3 {
            for (sent, read) in &points {
                let mut stream = stream(bed, cluster);
                stream.write_all(sent).expect("sent");
                stream.read_exact(&mut vec![0; *read]).expect("a part of the answer");
                let now = linger { l_onoff: 1, l_linger: 0 };
                setsockopt(&stream, sockopt::Linger, &now).expect("a setting");
            }
            open(bed, cluster).fetch_last(&page).expect("others are served");
        }
        wait_until(SOON, "end of all sockets", || sockets(bed) == 0);
        wait_until(SOON, "end of all load", || {
            cluster.counted("serving_started") == cluster.counted("serving_ended")
        });
        let adopted = cluster.counted("adopted");
        wait_until(SOON, "end of all connections", || cluster.counted("closed") == adopted);
    });
}

/// A server that is told to stop ends its connections; its clients learn of it at once.
#[test]
fn servers_that_give_up() {
    with_app(|bed, cluster| {
        let page = Content::new("page", 3000);
        let mut connection = open(bed, cluster);
        let node = connection.fetch(&page).expect("the page").node().to_owned();
        let server = cluster.servers.iter().find(|server| server.on_node() == node).expect("it has served");
        server.process().signal(nix::sys::signal::Signal::SIGKILL);
        match connection.fetch(&page).expect_err("its server is gone") {
            Fault::Reset | Fault::ClosedEarly(0) => {}
            other => panic!("{other}"),
        }
    });
}

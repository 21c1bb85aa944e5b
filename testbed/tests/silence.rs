//! A client that nobody can serve is told so, at once and in its own protocol: it never waits for its own
//! patience to end.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use baton_testbed::{
    Baton, Cluster, Content, Dial, DocRoot, Figure, Frames, Testbed, WebServer, counted, get, node_status,
    wait_until,
};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(10);
/// Longer than an answer takes on a busy machine, shorter than any client's patience.
const AT_ONCE: Duration = Duration::from_secs(2);
const HELLO: &[u8] = include_bytes!("../../crates/tls/testdata/openssl-default.bin");

fn reader(baton: &Baton<'_>, what: &str) -> u64 {
    node_status(&baton.status(), baton.host().name())["reader"][what].as_u64().unwrap_or(0)
}

/// Waits until a node knows that these servers are dead.
fn wait_dead(baton: &Baton<'_>, servers: &[&str]) {
    let name = baton.host().name();
    wait_until(SOON, "servers that are known to be dead", || {
        let status = baton.status();
        let loads = node_status(&status, name)["loads"].as_array().cloned().unwrap_or_default();
        let of = |server: &&str| loads.iter().any(|l| l["server"] == *server && l["live"] == false);
        servers.iter().all(of)
    });
}

/// Web, TLS and plain TCP on one address.
fn three_services(bed: &Testbed, figure: Figure) -> String {
    let vip = figure.vips(bed)[0];
    let mut text = String::from("policy = \"lard\"\n");
    for (name, port, protocol) in [("secure", 443, "tls"), ("plug", 7000, "tcp")] {
        let _ = writeln!(
            text,
            "[[service]]\nname = \"{name}\"\nvips = [\"{vip}\"]\nport = {port}\nprotocol = \"{protocol}\"\n\
             policy = \"wrr\""
        );
    }
    text
}

/// What a client hears that sends these bytes; a RST is `None`.
fn ask(bed: &Testbed, to: SocketAddr, bytes: &[u8]) -> Option<Vec<u8>> {
    let asked = Instant::now();
    let mut stream = Dial::new(to).patience(SOON).stream(bed.client(0)).expect("answered");
    stream.write_all(bytes).expect("sent");
    let mut heard = Vec::new();
    let end = stream.read_to_end(&mut heard);
    assert!(asked.elapsed() < AT_ONCE, "{to}: after {:?}", asked.elapsed());
    match end {
        Ok(_) => Some(heard),
        Err(e) if e.kind() == ErrorKind::ConnectionReset => None,
        Err(e) => panic!("{to}: {e}"),
    }
}

/// No server is alive: HTTP, TLS and TCP clients hear of it.
#[test]
fn nobody_is_there_to_serve() {
    let bed = Testbed::builder().figure(Figure::Five).build();
    let figure = Figure::Five;
    let mut cluster = figure.start_without_servers(&bed, Vec::new(), &three_services(&bed, figure));
    let vip = cluster.vips[0];
    let front = cluster.batons.remove(0);
    cluster.batons.drain(..).for_each(Baton::kill);
    wait_dead(&front, &["b", "c", "d"]);
    let page = Content::new("page", 10);
    for n in 1..=3 {
        let heard = ask(&bed, SocketAddr::new(vip, 80), &get(&page, false)).expect("an orderly end");
        assert!(heard.starts_with(b"HTTP/1.1 503 "), "{:?}", String::from_utf8_lossy(&heard));
        let alert = ask(&bed, SocketAddr::new(vip, 443), HELLO).expect("an orderly end");
        assert_eq!(alert, [21, 3, 3, 0, 2, 2, 80], "internal_error");
        assert_eq!(ask(&bed, SocketAddr::new(vip, 7000), b"anything"), None, "a RST");
        assert_eq!(reader(&front, "refused"), 3 * n);
    }
    front.stop();
}

/// The same for a later request, at the server that has the connection, in whose pool nobody is alive.
#[test]
fn nobody_is_there_to_serve_a_later_request() {
    for figure in [Figure::Five, Figure::Seven] {
        let bed = Testbed::builder().figure(figure).build();
        let files = DocRoot::shared();
        let (here, there) = (Content::new("page", 3000), Content::new("second/page", 3000));
        [&here, &there].iter().for_each(|page| drop(files.add(page)));
        let pools = "[[service.pool]]\nname = \"first\"\nservers = [\"c\"]\npolicy = \"lard\"\n\
                     [[service.pool]]\nname = \"second\"\nservers = [\"d\"]\npolicy = \"lard\"\n\
                     [[service.route]]\npool = \"second\"\npath = \"/second/\"\n";
        let mut cluster = figure.start(&bed, WebServer::nginx, &files, pools);
        let mut connection = Dial::new(cluster.service()).open(bed.client(0)).expect("answered");
        connection.fetch(&here).expect("the page");
        let dead = cluster.batons.iter().position(|baton| baton.host().name() == "d").expect("a node");
        cluster.batons.remove(dead).kill();
        wait_dead(cluster.baton("c"), &["d"]);
        connection.fetch(&here).expect("its own pool is alive");
        let asked = Instant::now();
        connection.send(&get(&there, false)).expect("sent");
        let response = connection.response().unwrap_or_else(|e| panic!("{figure:?}: {e}"));
        assert_eq!((response.status, response.header("connection")), (503, Some("close")), "{figure:?}");
        assert!(asked.elapsed() < AT_ONCE, "{figure:?}: {:?}", asked.elapsed());
    }
}

/// A switch that has no distributor refuses new connections.
#[test]
fn nobody_is_there_to_distribute() {
    let bed = Testbed::builder().figure(Figure::Seven).build();
    let files = DocRoot::shared();
    let mut cluster = Figure::Seven.start(&bed, WebServer::nginx, &files, "");
    let to = cluster.service();
    let switch = cluster.batons.remove(0);
    cluster.batons.drain(..).for_each(Baton::kill);
    let refused = || {
        let asked = Instant::now();
        let connected = bed.client(0).inside(|| TcpStream::connect_timeout(&to, AT_ONCE));
        let kind = connected.as_ref().err().map(std::io::Error::kind);
        println!("{kind:?} after {:?}", asked.elapsed());
        kind == Some(ErrorKind::ConnectionRefused) && asked.elapsed() < AT_ONCE
    };
    // A distributor that has just died has a web server yet, and its address.
    wait_until(SOON, "no distributor", || refused() && counted(&switch, "reset_no_distributor") > 0);
    assert!(refused(), "nobody is there, and the client is told so each time");
    assert!(counted(&switch, "reset_no_distributor") >= 2);
    switch.stop();
}

/// A RST carries none of what the client sent, in one packet or in many.
#[test]
fn a_refusal_carries_nothing() {
    let bed = Testbed::builder().figure(Figure::Five).without_offloads().build();
    let cluster = Figure::Five.start_without_servers(&bed, Vec::new(), "");
    let frames = Frames::on(bed.client(0), "eth0");
    let v6 = cluster.service().is_ipv6();
    for length in [0, 1, 600, 30_000] {
        let request = format!("POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
        let request = [request.as_bytes(), &vec![b'x'; length]].concat();
        assert_eq!(ask(&bed, cluster.service(), &request), None, "nobody listens");
        let payload = frames.find(SOON, "a RST", |frame| {
            let l4 = if v6 { 54 } else { 34 };
            let is_rst = frame.get(l4 + 13)? & 4 != 0 && frame.get(..6)? == frames.mac();
            let from_service = frame.get(l4..l4 + 2)? == 80_u16.to_be_bytes();
            let total = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
            let segment = if v6 { total(18) } else { total(16) - 20 };
            (is_rst && from_service).then(|| segment - usize::from(frame[l4 + 12] >> 4) * 4)
        });
        assert_eq!(payload, 0, "{length} bytes sent");
        frames.waiting();
    }
    assert!(cluster.counted("reset_no_listener") >= 4);
    cluster.stop();
}

/// What Baton has answered itself does not keep the web server's port: it can be started again.
#[test]
fn an_answer_of_the_reader_leaves_the_port_free() {
    let bed = Testbed::builder().figure(Figure::Seven).build();
    let (files, page) = (DocRoot::shared(), Content::new("page", 3000));
    files.add(&page);
    let pools = "[[service.pool]]\nname = \"first\"\nservers = [\"c\"]\npolicy = \"lard\"\n\
                 [[service.pool]]\nname = \"second\"\nservers = [\"d\"]\npolicy = \"lard\"\n\
                 [[service.route]]\npool = \"second\"\npath = \"/second/\"\n";
    let mut cluster = Figure::Seven.start(&bed, WebServer::nginx, &files, pools);
    // By each of the three distributors, which are servers too: as soon as the switch spreads over all of them.
    wait_until(SOON, "an answer by each", || {
        let heard = ask(&bed, cluster.service(), b"GET /page HTTP/1.1\nHost: x\n\n").expect("an answer");
        assert!(heard.starts_with(b"HTTP/1.1 400 "), "{:?}", String::from_utf8_lossy(&heard));
        cluster.batons[1..].iter().all(|baton| reader(baton, "doubtful") > 0)
    });
    let left = |node: usize| bed.node(node).run("ss", ["-tanH", "state", "time-wait", "sport = :80"]);
    assert!((1..4).all(|node| !left(node).is_empty()), "the port is in use");
    cluster.servers.clear();
    for node in 1..4 {
        let bound = bed.node(node).inside(|| TcpListener::bind(("0.0.0.0", 80)));
        bound.unwrap_or_else(|e| panic!("{}: {e}", bed.node(node).name()));
    }
    end(cluster);
}

/// As [`ask`], of a client that waits for so long; what it heard, and when that ended.
fn ask_patiently(bed: &Testbed, to: SocketAddr, bytes: &[u8]) -> (std::io::Result<Vec<u8>>, Duration) {
    let asked = Instant::now();
    let mut stream = Dial::new(to).patience(DEAD_LONG).stream(bed.client(0)).expect("answered");
    stream.write_all(bytes).expect("sent");
    let mut heard = Vec::new();
    let end = stream.read_to_end(&mut heard).map(|_| heard);
    (end, asked.elapsed())
}

/// A machine is dead for longer than any of this takes.
const DEAD_LONG: Duration = Duration::from_secs(25);

/// A server's machine dies under requests. What was decided for it before that was known is decided again where
/// the request may be repeated; other connections are reset; nobody waits for it to come back.
#[test]
fn a_machine_dies() {
    for figure in [Figure::Five, Figure::Seven] {
        let bed = Testbed::builder().figure(figure).build();
        let (files, page) = (DocRoot::shared(), Content::new("page", 3000));
        files.add(&page);
        let cluster = figure.start(&bed, WebServer::nginx, &files, "policy = \"wrr\"");
        let dial = Dial::new(cluster.service()).patience(DEAD_LONG);
        let mut kept = Vec::new();
        while kept.len() < 2 {
            let mut connection = dial.open(bed.client(0)).expect("answered");
            if connection.fetch(&page).expect("the page").node() == "d" {
                kept.push(connection);
            }
        }
        // Until the switch has been told where they are.
        thread::sleep(Duration::from_millis(300));
        bed.router().ip("link set to-d down");
        let post =
            [&b"POST /page HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"[..], b"Content-Length: 1\r\n\r\nx"]
                .concat();
        let get = get(&page, true);
        thread::scope(|scope| {
            let gets: Vec<_> =
                (0..12).map(|_| scope.spawn(|| ask_patiently(&bed, cluster.service(), &get))).collect();
            let posts: Vec<_> =
                (0..6).map(|_| scope.spawn(|| ask_patiently(&bed, cluster.service(), &post))).collect();
            for asked in gets {
                let (heard, took) = asked.join().expect("no panic");
                let heard = heard.unwrap_or_else(|e| panic!("{figure:?}: {e} after {took:?}"));
                assert!(
                    heard.starts_with(b"HTTP/1.1 200 "),
                    "{figure:?}: {}",
                    String::from_utf8_lossy(&heard)
                );
                assert!(took < Duration::from_secs(8), "{figure:?}: {took:?}");
            }
            for asked in posts {
                let (heard, took) = asked.join().expect("no panic");
                println!("{figure:?}: POST {:?} after {took:?}", heard.as_ref().map(Vec::len));
                assert!(took < Duration::from_secs(20), "{figure:?}: {took:?}");
            }
        });
        for mut connection in kept {
            let asked = Instant::now();
            let fault = connection.fetch(&page).expect_err("its server is gone");
            println!("{figure:?}: {fault} after {:?}", asked.elapsed());
            assert!(asked.elapsed() < Duration::from_secs(20), "{figure:?}: {:?}", asked.elapsed());
        }
        assert!(cluster.counted("reset_node_gone") >= 2, "{figure:?}");
        bed.router().ip("link set to-d up");
        cluster.wait_formed();
        wait_until(SOON, "a request at the machine that is back", || {
            let mut connection = dial.open(bed.client(0)).expect("answered");
            connection.fetch(&page).expect("the page").node() == "d"
        });
        end(cluster);
    }
}

/// As virtual machines are for a snapshot: nobody was there to be heard, nor to hear.
#[test]
fn all_daemons_stop_for_a_while() {
    let bed = Testbed::builder().figure(Figure::Seven).build();
    let files = DocRoot::shared();
    let page = Content::new("page", 3000);
    files.add(&page);
    let cluster = Figure::Seven.start(&bed, WebServer::nginx, &files, "policy = \"lard\"\n");
    let fetch = || {
        let dial = Dial::new(cluster.service()).patience(SOON);
        dial.open(bed.client(0)).and_then(|mut connection| connection.fetch(&page)).expect("served");
    };
    fetch();
    let processes = || cluster.batons.iter().map(Baton::process);
    processes().for_each(|process| process.signal(Signal::SIGSTOP));
    thread::sleep(Duration::from_secs(3));
    processes().for_each(|process| process.signal(Signal::SIGCONT));
    fetch();
    thread::sleep(Duration::from_secs(2));
    fetch();
    for process in processes() {
        let log = std::fs::read_to_string(process.log()).expect("a log");
        assert!(!log.contains("nothing was heard"), "{log}");
    }
    cluster.stop();
}

/// A daemon dies, or its control connections are cut, and its machine lives: the connections of its web server
/// go on for as long as they please.
#[test]
fn only_a_daemon_dies() {
    let bed = Testbed::builder().figure(Figure::Five).build();
    let (files, page) = (DocRoot::shared(), Content::new("page", 3000));
    files.add(&page);
    let mut cluster = Figure::Five.start(&bed, WebServer::nginx, &files, "policy = \"wrr\"");
    let dial = Dial::new(cluster.service());
    let mut kept: Vec<_> = (0..6).map(|_| dial.open(bed.client(0)).expect("answered")).collect();
    kept.iter_mut().for_each(|connection| drop(connection.fetch(&page).expect("the page")));
    let dead = cluster.batons.pop().expect("daemons");
    dead.kill();
    let stopped = cluster.batons.pop().expect("daemons");
    stopped.process().signal(Signal::SIGSTOP);
    wait_dead(cluster.baton("a"), &["c", "d"]);
    // Longer than it takes to prove that a machine is gone.
    thread::sleep(Duration::from_secs(12));
    for connection in &mut kept {
        connection.fetch(&page).expect("the page");
    }
    assert_eq!(cluster.counted("reset_node_gone"), 0);
    stopped.process().signal(Signal::SIGCONT);
    cluster.stop();
}

fn end(cluster: Cluster<'_>) {
    for fault in ["fault_rewrite", "fault_map"] {
        assert_eq!(cluster.counted(fault), 0, "{fault}");
    }
    cluster.stop();
}

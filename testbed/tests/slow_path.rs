//! Request heads that do not fit one packet: Baton reads them itself, then gives the connection to the
//! server that should have it, and the client must not notice.

#[path = "slow_path/loss.rs"]
mod loss;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use baton_testbed::{
    Capture, Cluster, Connection, Content, Dial, DocRoot, Exchange, Fault, Figure, Framing, Kind, Testbed,
    WebServer, get, node_status, wait_until,
};

const SOON: Duration = Duration::from_secs(10);
/// Longer than a packet takes, so that pieces do not meet.
const PAUSE: Duration = Duration::from_millis(4);
const FIGURES: [Figure; 2] = [Figure::Five, Figure::Seven];

/// A count of the readers of all nodes.
fn reader(cluster: &Cluster<'_>, count: &str) -> u64 {
    let of = |baton: &baton_testbed::Baton<'_>| {
        let status = baton.status();
        node_status(&status, baton.host().name())["reader"][count].as_u64().expect("a count of the reader's")
    };
    cluster.batons.iter().map(of).sum()
}

/// What is served mostly.
fn site() -> (DocRoot, Content) {
    let (files, page) = (DocRoot::shared(), Content::new("page", 3000));
    files.add(&page);
    (files, page)
}

/// A GET with further header lines.
fn get_with(page: &Content, fields: &str) -> Vec<u8> {
    format!("GET {} HTTP/1.1\r\nHost: testbed\r\n{fields}\r\n", page.path()).into_bytes()
}

/// Header lines of about so many bytes together.
fn filler(bytes: usize) -> String {
    let line = |i: usize| format!("X-{i}: {}\r\n", "y".repeat(989 - i.to_string().len()));
    (0..bytes / 995).map(line).collect()
}

fn status_of(mut connection: Connection) -> Result<u16, Fault> {
    let response = connection.response()?;
    assert_eq!(response.header("connection"), Some("close"));
    assert!(response.body.ends_with(b".\n"), "no sentence: {:?}", String::from_utf8_lossy(&response.body));
    connection.expect_end()?;
    Ok(response.status)
}

/// Cut in two at every byte, and into single bytes, again and again from the same port; then once more on
/// the same connection, whole.
#[test]
fn heads_cut_everywhere() {
    for figure in FIGURES {
        let bed = Testbed::builder().figure(figure).one_cpu().build();
        let files = DocRoot::shared();
        let (page, next) = (Content::new("page", 3000), Content::new("next", 20_000));
        [&page, &next].iter().for_each(|content| drop(files.add(content)));
        let cluster = figure.start(&bed, WebServer::nginx, &files, "");
        let capture = Capture::start(bed.client(0), 80);
        let request = get(&page, false);
        let every: Vec<usize> = (1..request.len()).collect();
        let cuts = every.iter().map(|cut| vec![*cut]).chain([every.clone()]);
        for cuts in cuts {
            let dial = Dial::new(cluster.service()).source_port(45_000);
            let mut connection = dial.open(bed.client(0)).expect("answered");
            let fetched = connection.send_cut(&request, &cuts, PAUSE).and_then(|()| {
                connection.response_of(&page)?;
                connection.fetch_last(&next)
            });
            fetched.unwrap_or_else(|e| panic!("{figure:?}, cut at {cuts:?}: {e}"));
        }
        let seen = capture.stop();
        assert_eq!((seen.resets(), seen.retransmitted()), (0, 0), "{figure:?}: {:#?}", seen.flows);
        assert_eq!(seen.from_servers().timestamp_regressions, 0, "{figure:?}");
        // Where the line is whole it says all; it ends in the middle of the byte before.
        let line = request.windows(2).position(|two| two == b"\r\n").expect("a request line") as u64 + 2;
        assert_eq!(reader(&cluster, "replayed"), line, "{figure:?}");
        assert_eq!((reader(&cluster, "failed"), reader(&cluster, "reading_now")), (0, 0), "{figure:?}");
        cluster.stop();
    }
}

/// Up to the limit and beyond it, of many headers, sent at once or with a break.
#[test]
fn long_heads() {
    for figure in FIGURES {
        let bed = Testbed::builder().figure(figure).build();
        let (files, page) = site();
        // The target is in the last header.
        let cluster = figure.start(&bed, WebServer::apache, &files, "key = \"header:X-Last\"");
        let capture = Capture::start(bed.client(0), 80);
        for bytes in [2000, 6000, 14_000, 30_000, 64_000] {
            let request = get_with(&page, &format!("{}X-Last: z\r\nConnection: close\r\n", filler(bytes)));
            for cuts in [&[][..], &[5], &[1500]] {
                let mut connection = Dial::new(cluster.service()).open(bed.client(0)).expect("answered");
                let fetched = connection
                    .send_cut(&request, cuts, PAUSE)
                    .and_then(|()| connection.response_of(&page))
                    .and_then(|_| connection.expect_end());
                fetched.unwrap_or_else(|e| panic!("{figure:?}, {bytes} bytes cut at {cuts:?}: {e}"));
            }
        }
        // Beyond it a server says for itself what it thinks: Apache takes 100 lines if nobody tells it otherwise.
        for bytes in [66_000, 200_000] {
            let mut connection = Dial::new(cluster.service()).open(bed.client(0)).expect("answered");
            connection.send(&get_with(&page, &filler(bytes))).expect("sent");
            let response = connection.response().unwrap_or_else(|e| panic!("{figure:?}, {bytes} bytes: {e}"));
            assert_ne!(response.status, 431, "{figure:?}, {bytes} bytes");
            assert!(!response.node().is_empty(), "{figure:?}, {bytes} bytes");
        }
        assert_eq!(reader(&cluster, "too_long"), 0, "{figure:?}");
        assert_eq!(capture.stop().early_resets(), 0, "{figure:?}");
        cluster.stop();
    }
}

/// Where it matters which server gets it, a head that is too long to be read is refused.
#[test]
fn too_long_heads_of_a_strict_service() {
    for figure in FIGURES {
        let bed = Testbed::builder().figure(figure).build();
        let (files, page) = site();
        let cluster = figure.start(&bed, WebServer::apache, &files, &strict(figure).0);
        for bytes in [66_000, 200_000] {
            let mut connection = Dial::new(cluster.service()).open(bed.client(0)).expect("answered");
            connection.send(&get_with(&page, &filler(bytes))).expect("sent");
            assert_eq!(status_of(connection).expect("answered by Baton"), 431, "{figure:?}, {bytes} bytes");
        }
        assert_eq!(reader(&cluster, "too_long"), 2, "{figure:?}");
        cluster.stop();
    }
}

/// Clients of a strict service that never send the rest are told so; slow ones that do are served. Where any
/// server may have the connection, it is the server's own business how long a client may take.
#[test]
fn silent_and_slow_clients() {
    let cases = FIGURES.into_iter().flat_map(|figure| [(figure, true), (figure, false)]);
    for (figure, matters) in cases {
        let bed = Testbed::builder().figure(figure).build();
        let (files, page) = site();
        let service = if matters { strict(figure).0 } else { String::new() };
        let service = service + "[limits]\nhead_timeout_ms = 1500";
        let cluster = figure.start(&bed, WebServer::nginx, &files, &service);
        let capture = Capture::start(bed.client(0), 80);
        let dial = Dial::new(cluster.service());
        let request = get_from(&page, "first.example", 0);
        let parts = [1, 9, 16].map(|length| {
            let mut connection = dial.open(bed.client(0)).expect("answered");
            connection.send(&request[..length]).expect("sent");
            (connection, length)
        });
        let mut slow = dial.open(bed.client(0)).expect("answered");
        slow.send_cut(&request, &[1, 20, request.len() - 1], Duration::from_millis(300)).expect("sent");
        slow.response_of(&page).unwrap_or_else(|e| panic!("{figure:?}: {e}"));
        if !matters {
            wait_until(SOON, "all handed off as they are", || reader(&cluster, "replayed") == 4);
            thread::sleep(Duration::from_millis(500));
        }
        for (mut connection, length) in parts {
            if matters {
                assert_eq!(status_of(connection).expect("answered by Baton"), 408, "{figure:?}");
                continue;
            }
            connection.send(&request[length..]).expect("sent");
            connection.response_of(&page).unwrap_or_else(|e| panic!("{figure:?}, {length} bytes: {e}"));
            connection.fetch(&page).unwrap_or_else(|e| panic!("{figure:?}, {length} bytes, again: {e}"));
        }
        assert_eq!(reader(&cluster, "too_slow"), if matters { 3 } else { 0 }, "{figure:?}");
        assert_eq!(capture.stop().early_resets(), 0, "{figure:?}");
        cluster.stop();
    }
}

/// The two servers of a strict service that routes by host; the host comes in the last header.
fn strict(figure: Figure) -> (String, [&'static str; 2]) {
    let names = if figure == Figure::Five { ["b", "c"] } else { ["c", "d"] };
    let mut text = String::new();
    for (pool, server) in ["first", "second"].iter().zip(names) {
        text +=
            &format!("[[service.pool]]\nname = \"{pool}\"\nservers = [\"{server}\"]\npolicy = \"lard\"\n");
    }
    (text + "[[service.route]]\npool = \"second\"\nhost = \"second.example\"\n", names)
}

fn get_from(page: &Content, host: &str, fill: usize) -> Vec<u8> {
    let (path, filler) = (page.path(), filler(fill));
    format!("GET {path} HTTP/1.1\r\nX-First: 1\r\n{filler}Host: {host}\r\n\r\n").into_bytes()
}

/// Routes that look at a late header, and pools of different servers: the first request and, on the same
/// connection, later ones, cut or not.
#[test]
fn late_headers_decide() {
    for figure in FIGURES {
        let bed = Testbed::builder().figure(figure).build();
        let (files, page) = site();
        let (service, [first, second]) = strict(figure);
        let cluster = figure.start(&bed, WebServer::nginx, &files, &service);
        let hosts = [("first.example", first), ("second.example", second)];
        let capture = Capture::start(bed.client(0), 80);
        for (round, fill) in [0, 0, 3000, 10_000].into_iter().enumerate() {
            let mut connection = Dial::new(cluster.service()).open(bed.client(0)).expect("answered");
            for (i, (host, node)) in hosts.iter().cycle().skip(round % 2).take(6).enumerate() {
                let request = get_from(&page, host, fill);
                let cuts = if (i + round) % 3 == 2 { vec![] } else { vec![30 + i] };
                let response = connection
                    .send_cut(&request, &cuts, PAUSE)
                    .and_then(|()| connection.response_of(&page))
                    .unwrap_or_else(|e| panic!("{figure:?}, round {round}, request {i}: {e}"));
                assert_eq!(response.node(), *node, "{figure:?}, round {round}, request {i}");
            }
        }
        assert_eq!(capture.stop().early_resets(), 0, "{figure:?}");
        cluster.stop();
    }
}

/// In doubt where it matters, and where it does not.
#[test]
fn doubtful_heads() {
    let cases = FIGURES.into_iter().flat_map(|figure| [(figure, true), (figure, false)]);
    for (figure, matters) in cases {
        let bed = Testbed::builder().figure(figure).build();
        let (files, page) = site();
        let doubtful = format!("GET {} HTTP/1.1\nHost: first.example\n\n", page.path());
        let service = if matters { strict(figure).0 } else { String::new() };
        let cluster = figure.start(&bed, WebServer::nginx, &files, &service);
        for cuts in [&[][..], &[3], &[30]] {
            let mut connection = Dial::new(cluster.service()).open(bed.client(0)).expect("answered");
            connection.send_cut(doubtful.as_bytes(), cuts, PAUSE).expect("sent");
            if matters {
                assert_eq!(status_of(connection).expect("answered by Baton"), 400, "{figure:?}, {cuts:?}");
            } else {
                connection.response_of(&page).unwrap_or_else(|e| panic!("{figure:?}, {cuts:?}: {e}"));
            }
        }
        assert_eq!(reader(&cluster, "doubtful"), if matters { 3 } else { 0 }, "{figure:?}");
        cluster.stop();
    }
}

/// Bodies that begin in the packet that ends the head, and go on while the connection changes hands.
#[test]
fn uploads_behind_a_cut_head() {
    for figure in FIGURES {
        let bed = Testbed::builder().figure(figure).build();
        let files = DocRoot::shared();
        let cluster = figure.start(&bed, WebServer::nginx_before_app, &files, "");
        let capture = Capture::start(bed.client(0), 80);
        for size in [10, 3000, 100_000, 1_000_000] {
            for framing in [Framing::Length, Framing::Chunked(5000)] {
                for kind in [Kind::Check(framing), Kind::Echo(framing)] {
                    let exchange = Exchange::new("upload", size, kind);
                    let mut connection = Dial::new(cluster.service()).open(bed.client(0)).expect("answered");
                    let request = exchange.request();
                    let answered = connection
                        .send_cut(&request, &[7, 50], PAUSE)
                        .and_then(|()| connection.response_to(&exchange))
                        .and_then(|_| connection.send_request(&exchange))
                        .and_then(|()| connection.response_to(&exchange));
                    answered.unwrap_or_else(|e| panic!("{figure:?}, {size} bytes, {kind:?}: {e}"));
                }
            }
        }
        assert_eq!(capture.stop().early_resets(), 0, "{figure:?}");
        cluster.stop();
    }
}

/// Requests behind a head that came in pieces: all answered, in order, each by a server of its pool.
#[test]
fn pipelined_behind_a_cut_head() {
    for figure in FIGURES {
        let bed = Testbed::builder().figure(figure).one_cpu().build();
        let files = DocRoot::shared();
        let contents = [3000, 200_000, 10].map(|size| Content::new("size", size));
        contents.iter().for_each(|content| drop(files.add(content)));
        let (service, [first, second]) = strict(figure);
        let cluster = figure.start(&bed, WebServer::nginx, &files, &service);
        let hosts = [("first.example", first), ("second.example", second), ("first.example", first)];
        for fill in [0, 2500] {
            let capture = Capture::start(bed.client(0), 80);
            for cut in [3, 40, 70] {
                let all: Vec<u8> = contents
                    .iter()
                    .zip(hosts)
                    .flat_map(|(page, (host, _))| get_from(page, host, fill))
                    .collect();
                let mut connection = Dial::new(cluster.service()).open(bed.client(0)).expect("answered");
                connection.send_cut(&all, &[cut], PAUSE).expect("sent");
                for (page, (_, node)) in contents.iter().zip(hosts) {
                    let response = connection.response_of(page);
                    let response =
                        response.unwrap_or_else(|e| panic!("{figure:?}, {fill}, cut at {cut}: {e}"));
                    assert_eq!(response.node(), node, "{figure:?}, {fill}, cut at {cut}");
                }
            }
            let seen = capture.stop();
            assert_eq!(seen.resets(), 0, "{figure:?}");
        }
        assert!(cluster.counted("held_early") > 0, "{figure:?}: nothing was kept until it could be taken");
        cluster.stop();
    }
}

/// Clients that end their direction with the request (nginx may take one for a client that has left, alone
/// too), that give up in the middle of it, and others from the same port afterwards.
#[test]
fn clients_that_close_or_reset() {
    for figure in FIGURES {
        let bed = Testbed::builder().figure(figure);
        let bed =
            bed.unobserved("a node that has not seen the SYN is given a first packet with a FIN").build();
        let files = DocRoot::shared();
        let page = Content::new("page", 300_000);
        files.add(&page);
        let cluster = figure.start(&bed, WebServer::apache, &files, "");
        let dial = Dial::new(cluster.service());
        let request = get(&page, true);
        for round in 0..4 {
            let mut stream = dial.clone().source_port(45_000).stream(bed.client(0)).expect("answered");
            stream.write_all(&request[..10]).expect("sent");
            if round % 2 == 0 {
                thread::sleep(PAUSE);
            }
            stream.write_all(&request[10..]).expect("sent");
            stream.shutdown(Shutdown::Write).expect("an open connection");
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap_or_else(|e| panic!("{figure:?}, half-closed: {e}"));
            let body = all.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
            assert!(
                page.is(&all[body..]),
                "{figure:?}, half-closed: {} bytes after {}",
                all.len() - body,
                String::from_utf8_lossy(&all[..body])
            );
        }
        for _ in 0..5 {
            let connection = dial.clone().source_port(45_001);
            let mut connection = connection.open(bed.client(0)).expect("answered");
            let gone = reader(&cluster, "gone");
            connection.send(&request[..10]).expect("sent");
            wait_until(SOON, "the reader to have it", || reader(&cluster, "reading_now") == 1);
            connection.abort().expect("aborted");
            wait_until(SOON, "the reader to notice", || reader(&cluster, "gone") > gone);
            let connection = dial.clone().source_port(45_001);
            let mut connection = connection.open(bed.client(0)).expect("answered");
            connection.send_cut(&request, &[10], PAUSE).expect("sent");
            connection.response_of(&page).unwrap_or_else(|e| panic!("{figure:?}, after a RST: {e}"));
        }
        // A half head and a FIN: nothing to answer.
        let mut stream = dial.stream(bed.client(0)).expect("answered");
        stream.write_all(&request[..10]).expect("sent");
        stream.shutdown(Shutdown::Write).expect("an open connection");
        assert_eq!(stream.read_to_end(&mut Vec::new()).expect("closed, not reset"), 0, "{figure:?}");
        wait_until(SOON, "no head being read", || reader(&cluster, "reading_now") == 0);
        cluster.stop();
    }
}

/// More slow clients than may be read: the oldest are sent away, the others served.
#[test]
fn many_slow_clients() {
    const MOST: u64 = 16;
    for figure in FIGURES {
        let bed = Testbed::builder().figure(figure).build();
        let (files, page) = site();
        let limits = format!("[limits]\nreader_connections = {MOST}");
        let cluster = figure.start(&bed, WebServer::nginx, &files, &limits);
        let dial = Dial::new(cluster.service());
        let request = get(&page, true);
        let mut slow: Vec<_> = (0..120)
            .map(|_| {
                let mut connection = dial.open(bed.client(0)).expect("answered");
                connection.send(&request[..10]).expect("sent");
                connection
            })
            .collect();
        wait_until(SOON, "the oldest to be refused", || {
            reader(&cluster, "refused") + reader(&cluster, "reading_now") == 120
        });
        let reading = reader(&cluster, "reading_now");
        // Behind a switch each distributor has readers of its own.
        assert!(reading <= MOST * 3, "{figure:?}: {reading}");
        let mut served = 0;
        for mut connection in slow.drain(..) {
            if connection.send(&request[10..]).is_ok()
                && let Ok(response) = connection.response()
                && response.status == 200
            {
                served += 1;
            }
        }
        assert_eq!(served, reading, "{figure:?}");
        cluster.stop();
    }
}

/// Behind every distributor of every arrangement, whichever VIPs it holds without announcing them.
#[test]
fn every_arrangement() {
    for figure in Figure::ALL {
        let bed = Testbed::builder().figure(figure).one_cpu().build();
        let (files, page) = site();
        let cluster = figure.start(&bed, WebServer::nginx, &files, "policy = \"wrr\"");
        let capture = Capture::start(bed.client(0), 80);
        for vip in &cluster.vips {
            for _ in 0..4 {
                let dial = Dial::new((*vip, 80));
                let mut connection = dial.open(bed.client(0)).expect("answered");
                let request = get_with(&page, &filler(4000));
                let fetched = connection
                    .send_cut(&request, &[9], PAUSE)
                    .and_then(|()| connection.response_of(&page))
                    .and_then(|_| connection.fetch(&page));
                fetched.unwrap_or_else(|e| panic!("{figure:?}, {vip}: {e}"));
            }
        }
        let seen = capture.stop();
        assert_eq!((seen.resets(), seen.retransmitted()), (0, 0), "{figure:?}: {:#?}", seen.flows);
        assert_eq!(reader(&cluster, "replayed"), 4 * cluster.vips.len() as u64, "{figure:?}");
        if cluster.vips.len() > 1 {
            // A node that answered ARP for another's VIP would have read some of its heads too.
            let busy = cluster.batons.iter().filter(|baton| {
                let status = baton.status();
                node_status(&status, baton.host().name())["reader"]["replayed"] == 4
            });
            assert_eq!(busy.count(), cluster.vips.len(), "{figure:?}");
        }
        cluster.stop();
    }
}

/// When nobody is there to have it, a client whose bytes are taken already must be told.
#[test]
fn no_server() {
    let bed = Testbed::builder().figure(Figure::Five).build();
    let mut cluster = Figure::Five.start_without_servers(&bed, Vec::new(), "");
    let front = cluster.batons.remove(0);
    cluster.batons.drain(..).for_each(|baton| baton.kill());
    wait_until(SOON, "no server alive", || {
        let status = front.status();
        let loads = node_status(&status, "a")["loads"].as_array().cloned().unwrap_or_default();
        loads.iter().all(|load| load["live"] == false)
    });
    let mut connection = Dial::new(cluster.service()).open(bed.client(0)).expect("answered");
    connection.send_cut(&get(&Content::new("page", 10), false), &[9], PAUSE).expect("sent");
    assert_eq!(status_of(connection).expect("answered by Baton"), 503);
    front.stop();
}

/// What a server's socket learns of the round trip is not the time that the client took for its head.
#[test]
fn slow_heads_make_no_slow_round_trip() {
    let bed = Testbed::builder().figure(Figure::Five).build();
    let (files, page) = site();
    let cluster = Figure::Five.start(&bed, WebServer::nginx, &files, "");
    let mut connection = Dial::new(cluster.service()).open(bed.client(0)).expect("answered");
    connection.send_cut(&get(&page, false), &[5, 9], Duration::from_secs(1)).expect("sent");
    connection.response_of(&page).expect("served");
    let port = connection.local().port();
    let ask = format!("dport = :{port} and sport = :80");
    let seen = bed.nodes().iter().map(|node| node.run("ss", ["-tinH", ask.as_str()]));
    let seen = seen.collect::<String>();
    let rtt = seen.split(" rtt:").nth(1).and_then(|rest| rest.split('/').next()?.parse::<f64>().ok());
    let rtt = rtt.unwrap_or_else(|| panic!("no socket of the client's: {seen}"));
    assert!(rtt < 200.0, "{rtt} ms: {seen}");
    cluster.stop();
}

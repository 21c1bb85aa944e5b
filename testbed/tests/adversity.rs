//! What must not matter: clients that offer less, networks that lose packets, requests that do not fit
//! one packet, web servers that are slow to accept.

use std::net::SocketAddr;
use std::time::Duration;

use baton_testbed::{
    Capture, Content, Dial, DocRoot, Figure, Load, Packets, Testbed, WebServer, counted, get, wait_until,
};

const SOON: Duration = Duration::from_secs(5);

fn add_all(files: &DocRoot, sizes: &[u64]) -> Vec<Content> {
    let contents: Vec<Content> = sizes.iter().map(|size| Content::new("size", *size)).collect();
    contents.iter().for_each(|content| drop(files.add(content)));
    contents
}

/// What a client does not offer is not agreed to, and the adopted socket knows it.
#[test]
fn clients_without_timestamps_sack_or_window_scaling() {
    let bed = Testbed::builder().figure(Figure::Seven).one_cpu().build();
    let files = DocRoot::shared();
    let contents = add_all(&files, &[1000, 1_000_000]);
    let cluster = Figure::Seven.start(&bed, WebServer::nginx, &files, "");
    let client = bed.client(0);
    let all = ["timestamps", "sack", "window_scaling"];
    // An IP header, which is that of the nodes' family, UDP, Geneve with its option.
    let wrapping = bed.network().nodes.headers() - 20 + 64;
    let sets: [&[&str]; 6] = [&[], &all[..1], &all[1..2], &all[2..], &all[..2], &all];
    for without in sets {
        for key in all {
            let value = if without.contains(&key) { "0" } else { "1" };
            client.sysctl(&format!("net.ipv4.tcp_{key}"), value);
        }
        let capture = Capture::start(client, 80);
        let load = Load::new(Dial::new(cluster.service())).connections(2).requests(4);
        let summary = load.run(client, |i, j| contents[(i + j) % 2].clone());
        assert!(summary.is_clean(), "without {without:?}: {summary}");
        let seen = capture.stop();
        assert_eq!((seen.resets(), seen.retransmitted()), (0, 0), "without {without:?}");
        for flow in &seen.flows {
            let agreed = flow.syn_ack.expect("the SYN-ACK was captured");
            assert_eq!(agreed.timestamps, !without.contains(&"timestamps"));
            assert_eq!(agreed.sack, !without.contains(&"sack"));
            // A cookie without timestamps has room for scales only beside SACK.
            let scales = !without.contains(&"window_scaling") && without != &all[..2];
            assert_eq!(agreed.window_scale.is_some(), scales);
            assert_eq!(
                agreed.mss,
                Some(bed.plain_mss() - wrapping),
                "room for the handoff packet's wrapping"
            );
        }
    }
    cluster.stop();
}

/// 3 % of the packets lost in each direction, and between the nodes too, handoff packets among them.
#[test]
fn three_percent_loss_in_each_direction() {
    for figure in [Figure::Five, Figure::Seven, Figure::Eight] {
        let bed = Testbed::builder().figure(figure).wire().without_offloads().build();
        let files = DocRoot::shared();
        let contents = add_all(&files, &[100, 1000, 20_000, 300_000]);
        let cluster = figure.start(&bed, WebServer::nginx, &files, "policy = \"wrr\"");
        let capture = Capture::start(bed.client(0), 80);
        let losses = [
            bed.lose(3.0, Packets::FromClients),
            bed.lose(3.0, Packets::ToClients),
            bed.lose(3.0, Packets::BetweenNodes),
        ];
        let load = Load::new(Dial::new(cluster.service()).patience(Duration::from_secs(60)));
        let load = load.connections(40).requests(6);
        let closed = load.clone().close().run(bed.client(0), |i, j| contents[(i + j) % 4].clone());
        let kept = load.clone().run(bed.client(0), |i, j| contents[(i + j) % 4].clone());
        assert!(closed.is_clean() && kept.is_clean(), "{figure:?}: {closed}\n{kept}");
        // Behind a switch a lost handoff is decided afresh by whom the switch believes to be the owner. It may be that none
        // was lost: then once more.
        let begun = || cluster.counted("handoff_again") + cluster.counted("request_first");
        let mut connections = 40 * 7;
        while begun() <= connections && connections < 40 * 30 {
            let more = load.clone().close().run(bed.client(0), |i, j| contents[(i + j) % 4].clone());
            assert!(more.is_clean(), "{figure:?}: {more}");
            connections += 40 * 6;
        }
        assert!(begun() > connections, "{figure:?}: no first packet was repeated");
        assert!(losses.iter().all(|loss| loss.lost() > 0), "nothing was lost");
        drop(losses);
        // After both FINs a RST answers what is repeated because its answer was lost, with bare nginx
        // and this loss too. No connection may be broken by one.
        assert_eq!(capture.stop().early_resets(), 0, "{figure:?}");
        cluster.stop();
    }
}

/// Each packet that a connection begins with, lost once.
#[test]
fn the_first_packets_lost_one_by_one() {
    for figure in [Figure::Five, Figure::Seven] {
        let bed = Testbed::builder().figure(figure).wire().build();
        let files = DocRoot::shared();
        let contents = add_all(&files, &[20_000]);
        let cluster = figure.start(&bed, WebServer::nginx, &files, "policy = \"wrr\"");
        for packets in [Packets::SynAcks, Packets::Requests, Packets::Handoffs(6081)] {
            let capture = Capture::start(bed.client(0), 80);
            let loss = bed.lose_nth(1, packets);
            // Round robin: some of these are handed to another node.
            for _ in 0..4 {
                let connection = Dial::new(cluster.service()).open(bed.client(0)).expect("answered");
                connection.fetch_last(&contents[0]).unwrap_or_else(|e| panic!("{packets:?}: {e}"));
            }
            assert_eq!(loss.lost(), 1, "{figure:?} {packets:?}");
            drop(loss);
            assert_eq!(capture.stop().early_resets(), 0, "{figure:?} {packets:?}");
        }
        cluster.stop();
    }
}

/// A request line the kernel cannot see in one packet, heads of many segments, a body behind the head:
/// read by the reader, or placed by the first packet; served all the same.
#[test]
fn requests_that_do_not_fit_one_packet() {
    let bed = Testbed::builder().figure(Figure::Seven).one_cpu().build();
    let files = DocRoot::shared();
    let page = Content::new("page", 3000);
    files.add(&page);
    let cluster = Figure::Seven.start(&bed, WebServer::nginx, &files, "");
    let dial = Dial::new(cluster.service());
    let capture = Capture::start(bed.client(0), 80);

    for cuts in [&[2][..], &[3, 5], &[5], &[16], &[20, 21]] {
        let mut connection = dial.clone().open(bed.client(0)).expect("answered");
        connection.send_cut(&get(&page, true), cuts, Duration::from_millis(30)).expect("sent");
        connection.response_of(&page).unwrap_or_else(|e| panic!("cut at {cuts:?}: {e}"));
    }
    for filler in [2000, 6000, 20_000] {
        let mut connection = dial.clone().open(bed.client(0)).expect("answered");
        let fields: String = (0..filler / 1000).map(|i| format!("X-{i}: {}\r\n", "y".repeat(990))).collect();
        let head = format!("GET {} HTTP/1.1\r\nHost: x\r\n{fields}Connection: close\r\n\r\n", page.path());
        connection.send(head.as_bytes()).expect("sent");
        connection.response_of(&page).unwrap_or_else(|e| panic!("head of {filler} bytes: {e}"));
    }
    // A path longer than the kernel reads.
    let mut connection = dial.clone().open(bed.client(0)).expect("answered");
    let long = format!("GET {}?{} HTTP/1.1\r\nHost: x\r\n\r\n", page.path(), "q".repeat(900));
    connection.send(long.as_bytes()).expect("sent");
    connection.response_of(&page).expect("the query does not matter to the server");
    assert!(cluster.counted("reader_adopted") >= 5, "no head was left to the reader");

    let seen = capture.stop();
    assert_eq!((seen.resets(), seen.retransmitted()), (0, 0), "{:#?}", seen.flows);
    cluster.stop();
}

/// Pipelined requests: the connection is the unit of distribution, so all are answered by one server,
/// in order.
#[test]
fn pipelined_requests() {
    let bed = Testbed::builder().figure(Figure::Five).build();
    let files = DocRoot::shared();
    let contents = add_all(&files, &[1_000_000, 10, 3000]);
    let cluster = Figure::Five.start(&bed, WebServer::nginx, &files, "");
    let mut connection = Dial::new(cluster.service()).open(bed.client(0)).expect("answered");
    let all: Vec<u8> = contents.iter().flat_map(|content| get(content, false)).collect();
    connection.send(&all).expect("sent");
    for content in &contents {
        connection.response_of(content).expect("in order");
    }
    cluster.stop();
}

/// A web server that does not accept for a while, with a short backlog: clients wait, none is reset.
#[test]
fn a_full_listen_backlog() {
    let bed = Testbed::builder().figure(Figure::AllOnOne).build();
    let cluster = Figure::AllOnOne.start_without_servers(&bed, Vec::new(), "");
    let node = bed.node(0);
    let listener = node.inside(|| {
        use nix::sys::socket::{
            AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, socket,
        };
        use std::os::fd::AsRawFd;
        let any = SocketAddr::new(bed.network().vips.unspecified(), 80);
        let family = if any.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
        let socket = socket.expect("a socket");
        bind(socket.as_raw_fd(), &SockaddrStorage::from(any)).expect("port 80 is free");
        listen(&socket, Backlog::new(1).expect("1 is a backlog")).expect("listening");
        std::net::TcpListener::from(socket)
    });
    let capture = Capture::start(bed.client(0), 80);
    let dial = Dial::new(cluster.service()).patience(Duration::from_secs(30));
    let mut waiting: Vec<_> = (0..6)
        .map(|_| {
            let mut connection = dial.clone().open(bed.client(0)).expect("the distributor answers");
            connection.send(b"GET /size/5 HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
            connection
        })
        .collect();
    wait_until(SOON, "overflows of the accept queue", || node.kernel_counter("ListenOverflows") > 0);
    let served = std::thread::spawn(move || {
        for _ in 0..6 {
            use std::io::{Read as _, Write as _};
            let (mut stream, _) = listener.accept().expect("a client waits");
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).expect("its request") > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").expect("answered");
        }
    });
    for connection in &mut waiting {
        assert_eq!(connection.response().expect("served in the end").status, 200);
    }
    served.join().expect("all served");
    assert_eq!(capture.stop().resets(), 0);
    cluster.stop();
}

/// Without SYN cookies the kernel would answer an adoption with a RST. The daemon turns them on; when
/// somebody turns them off later the RST does not reach the client, and when they are back so is the
/// connection.
#[test]
fn syn_cookies_turned_off_by_somebody() {
    let bed = Testbed::builder().figure(Figure::Five).build();
    let files = DocRoot::shared();
    let page = Content::new("page", 3000);
    files.add(&page);
    bed.nodes().iter().for_each(|node| node.sysctl("net.ipv4.tcp_syncookies", "0"));
    let cluster = Figure::Five.start(&bed, WebServer::nginx, &files, "");
    let dial = Dial::new(cluster.service());
    let connection = dial.clone().open(bed.client(0)).expect("answered");
    connection.fetch_last(&page).expect("the daemon has turned them on");

    bed.nodes().iter().for_each(|node| node.sysctl("net.ipv4.tcp_syncookies", "0"));
    let capture = Capture::start(bed.client(0), 80);
    let mut connection = dial.open(bed.client(0)).expect("answered");
    connection.send(&get(&page, true)).expect("sent");
    wait_until(SOON, "the RST to be eaten", || cluster.counted("drop_overtaken_reset") > 0);
    bed.nodes().iter().for_each(|node| node.sysctl("net.ipv4.tcp_syncookies", "1"));
    connection.response_of(&page).expect("the client's own retransmission");
    assert_eq!(capture.stop().resets(), 0);
    cluster.stop();
}

/// No web server: the client is refused at once, and it is counted.
#[test]
fn a_web_server_that_does_not_listen() {
    for figure in [Figure::Five, Figure::AllOnOne, Figure::Seven] {
        let bed = Testbed::builder().figure(figure).one_cpu().build();
        let cluster = figure.start_without_servers(&bed, Vec::new(), "");
        let page = Content::new("page", 3000);
        let connection = Dial::new(cluster.service()).open(bed.client(0)).expect("answered");
        let fault = connection.fetch_last(&page).expect_err("nobody is there");
        assert!(matches!(fault, baton_testbed::Fault::Reset), "{figure:?}: {fault}");
        assert_eq!(cluster.counted("reset_no_listener"), 1, "{figure:?}");
        cluster.stop();
    }
}

/// Clients that give up at any point leave nothing behind.
#[test]
fn clients_that_give_up() {
    let bed = Testbed::builder().figure(Figure::Seven).build();
    let files = DocRoot::shared();
    let contents = add_all(&files, &[3000, 1_000_000]);
    let cluster = Figure::Seven.start(&bed, WebServer::nginx, &files, "");
    let dial = Dial::new(cluster.service());
    // Before the request: with a FIN, which is answered, and with a RST.
    let connection = dial.clone().open(bed.client(0)).expect("answered");
    drop(connection);
    wait_until(SOON, "the FIN to be answered", || cluster.counted("fin_answered") == 1);
    dial.clone().open(bed.client(0)).expect("answered").abort().expect("aborted");
    wait_until(SOON, "the RST to be noticed", || cluster.counted("open_reset") == 1);
    // In the middle of a response.
    for _ in 0..10 {
        let mut connection = dial.clone().receive_buffer(4096).open(bed.client(0)).expect("answered");
        connection.send(&get(&contents[1], false)).expect("sent");
        wait_until(SOON, "the connection to be busy", || cluster.counted("serving_started") > 0);
        connection.abort().expect("aborted");
    }
    wait_until(SOON, "no load left", || {
        cluster.counted("serving_started") == cluster.counted("serving_ended")
    });
    let adopted = cluster.counted("adopted");
    wait_until(SOON, "all closed", || cluster.counted("closed") == adopted);
    // The same ports serve others.
    let summary = Load::new(dial).connections(5).requests(3).run(bed.client(0), |_, _| contents[0].clone());
    assert!(summary.is_clean(), "{summary}");
    cluster.stop();
}

/// A handoff packet is lost while others are told of connections: the client's repetition is handed off
/// once more.
#[test]
fn a_handoff_packet_lost_behind_a_switch() {
    let bed = Testbed::builder().figure(Figure::SevenRouter).wire().build();
    let files = DocRoot::shared();
    let page = Content::new("page", 3000);
    files.add(&page);
    let cluster = Figure::SevenRouter.start(&bed, WebServer::nginx, &files, "policy = \"wrr\"");
    let service = cluster.service();
    for _ in 0..6 {
        let loss = bed.lose_nth(1, Packets::Handoffs(6081));
        let connection = Dial::new(service).open(bed.client(0)).expect("answered");
        connection.fetch_last(&page).expect("the repetition");
        drop(loss);
    }
    let switch = cluster.baton("router");
    assert!(counted(switch, "forwarded_distributor") > 0);
    cluster.stop();
}

/// Packets received in lists: a first request of several segments, each in its own handoff packet, and
/// all of them pass TC before TCP has seen the first. (A veth device batches when GRO is on; software
/// segmentation at the distributor repeats the wrapping.)
#[test]
fn first_requests_that_arrive_in_one_batch() {
    let bed = Testbed::builder().figure(Figure::Five).one_cpu().build();
    let files = DocRoot::shared();
    let page = Content::new("page", 3000);
    files.add(&page);
    bed.node(0).run("ethtool", "-K eth0 tso off gso off".split(' '));
    bed.nodes()[1..].iter().for_each(|node| drop(node.run("ethtool", "-K eth0 gro on".split(' '))));
    let cluster = Figure::Five.start(&bed, WebServer::nginx, &files, "policy = \"wrr\"");
    let capture = Capture::start(bed.client(0), 80);
    for round in 0..12 {
        let fields: String = (0..3 + round).map(|i| format!("X-{i}: {}\r\n", "y".repeat(990))).collect();
        let head = format!("GET {} HTTP/1.1\r\nHost: x\r\n{fields}Connection: close\r\n\r\n", page.path());
        let mut connection = Dial::new(cluster.service()).open(bed.client(0)).expect("answered");
        connection.send(head.as_bytes()).expect("sent");
        connection.response_of(&page).unwrap_or_else(|e| panic!("round {round}: {e}"));
    }
    let (received, adopted) = (cluster.counted("handoff_received"), cluster.counted("adopted"));
    assert_eq!(adopted, 12);
    assert!(received > adopted, "no head came in several handoff packets: {received} for {adopted}");
    let seen = capture.stop();
    assert_eq!((seen.resets(), seen.retransmitted()), (0, 0), "{:#?}", seen.flows);
    cluster.stop();
}

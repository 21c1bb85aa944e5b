//! Connections that the node where their packets come in does not know: its daemon was restarted, or its table was
//! too small. They go on, because their owner is asked for; or their clients are told at once. Nobody waits in vain.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use baton_testbed::{
    Baton, Capture, Cluster, Connection, Content, Dial, DocRoot, Fault, Figure, Frames, Load, Packets, Tcp,
    Testbed, WebServer, get, ip_header, node_status, tcp_packet, wait_until,
};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(10);
/// For so long after a node has come up nobody is reset on its word.
const SETTLED: Duration = Duration::from_millis(2500);
/// Bytes of a header of Ethernet.
const L3: usize = 14;

/// How a daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Kill,
    Stop,
}

/// Ends the daemons of these nodes, starts them again, and waits until the cluster has formed.
fn restart(cluster: &mut Cluster<'_>, bed: &Testbed, nodes: &[&str], end: End) {
    let config: PathBuf = bed.router().scratch().path().join("cluster.toml");
    for name in nodes {
        let place = cluster.batons.iter().position(|b| b.host().name() == *name).expect("such a node");
        let baton = cluster.batons.remove(place);
        let host = baton.host();
        match end {
            End::Kill => baton.kill(),
            End::Stop => baton.stop(),
        }
        cluster.batons.insert(place, Baton::start(host, &config));
    }
    cluster.wait_formed();
}

/// A number that the nodes' statuses have for the connections they did not know, summed.
fn unknown(cluster: &Cluster<'_>, what: &str) -> u64 {
    let of = |baton: &Baton<'_>| {
        let status = baton.status();
        node_status(&status, baton.host().name())["unknown"][what].as_u64().unwrap_or(0)
    };
    cluster.batons.iter().map(of).sum()
}

/// Connections that have had an answer.
fn idle(bed: &Testbed, cluster: &Cluster<'_>, count: usize, page: &Content) -> Vec<Connection> {
    let open = || {
        let dial = Dial::new(cluster.service()).patience(SOON);
        let mut connection = dial.open(bed.client(0)).expect("answered");
        connection.fetch(page).expect("the page");
        connection
    };
    (0..count).map(|_| open()).collect()
}

/// Each connection's next request is answered, and the one after it.
fn go_on(connections: &mut [Connection], page: &Content, what: &str) {
    for round in 0..2 {
        for (number, connection) in connections.iter_mut().enumerate() {
            let fetched = connection.fetch(page);
            fetched.unwrap_or_else(|fault| panic!("{what}: connection {number}, request {round}: {fault}"));
        }
    }
}

fn node_names(bed: &Testbed) -> Vec<&str> {
    bed.nodes().iter().map(|node| node.name()).collect()
}

/// Without a switch the front alone knows where a connection is, and forgets it. The servers have the sockets.
#[test]
fn idle_connections_outlive_the_front() {
    for end in [End::Kill, End::Stop] {
        let bed = Testbed::builder().figure(Figure::Five).build();
        let (files, page) = (DocRoot::shared(), Content::new("page", 3000));
        files.add(&page);
        let mut cluster = Figure::Five.start(&bed, WebServer::nginx, &files, "policy = \"wrr\"");
        let mut connections = idle(&bed, &cluster, 20, &page);
        let capture = Capture::start(bed.client(0), 80);
        let front = bed.node(0).name();
        restart(&mut cluster, &bed, &[front], end);
        go_on(&mut connections, &page, &format!("{end:?}"));
        assert_eq!(capture.stop().resets(), 0, "{end:?}");
        assert!(unknown(&cluster, "found") >= 20, "{end:?}: who has asked?");
        // The owner's daemon, too, has forgotten what it owns: its sockets tell.
        let all = node_names(&bed);
        restart(&mut cluster, &bed, &all[1..], end);
        restart(&mut cluster, &bed, &[front], end);
        go_on(&mut connections, &page, &format!("{end:?}, all of them"));
        assert_eq!(unknown(&cluster, "reset"), 0, "{end:?}");
        cluster.stop();
    }
}

/// Behind a switch: switch and distributors forget, one after the other; what the switch is told again ends
/// the detour.
#[test]
fn idle_connections_outlive_every_daemon_behind_a_switch() {
    for (figure, end) in [(Figure::Seven, End::Kill), (Figure::Six, End::Stop)] {
        let bed = Testbed::builder().figure(figure).build();
        let (files, page) = (DocRoot::shared(), Content::new("page", 3000));
        files.add(&page);
        let mut cluster = figure.start(&bed, WebServer::nginx, &files, "policy = \"wrr\"");
        let mut connections = idle(&bed, &cluster, 20, &page);
        let all = node_names(&bed);
        for name in &all {
            restart(&mut cluster, &bed, &[name], end);
        }
        go_on(&mut connections, &page, &format!("{figure:?} {end:?}"));
        assert!(unknown(&cluster, "found") > 0, "{figure:?}: nobody has asked");
        assert_eq!(unknown(&cluster, "reset"), 0, "{figure:?}");
        if figure == Figure::Seven {
            // Each connection has been asked about once: the switch knows, and the distributor.
            let asked = unknown(&cluster, "asked");
            go_on(&mut connections, &page, "once more");
            assert_eq!(unknown(&cluster, "asked"), asked, "the owner has told them");
        }
        cluster.stop();
    }
}

/// Connections without a request yet, whose clients send nothing but keepalives: these have no cookie to be known by,
/// and reach another distributor when the switch's table changes. Who answered the handshake has them still.
#[test]
fn keepalives_of_unused_connections_outlive_a_change_of_the_table() {
    let bed = Testbed::builder().figure(Figure::Seven).build();
    let (files, page) = (DocRoot::shared(), Content::new("page", 3000));
    files.add(&page);
    let mut cluster = Figure::Seven.start(&bed, WebServer::nginx, &files, "policy = \"wrr\"");
    let config: PathBuf = bed.router().scratch().path().join("cluster.toml");
    let late = cluster.batons.pop().expect("the last node");
    let host = late.host();
    late.stop();
    let capture = Capture::start(bed.client(0), 80);
    let open = |_| {
        let connection = Dial::new(cluster.service()).patience(SOON).open(bed.client(0)).expect("answered");
        connection.keepalive(Duration::from_secs(1)).expect("a setting");
        connection
    };
    let mut connections: Vec<Connection> = (0..24).map(open).collect();
    cluster.batons.push(Baton::start(host, &config));
    cluster.wait_formed();
    wait_until(SOON, "keepalives that reach the new distributor", || unknown(&cluster, "found") > 0);
    let answered = cluster.counted("keepalive_answered");
    wait_until(SOON, "answers to all", || cluster.counted("keepalive_answered") >= answered + 24);
    go_on(&mut connections, &page, "after keepalives");
    assert_eq!(capture.stop().resets(), 0);
    assert_eq!(unknown(&cluster, "reset"), 0);
    cluster.stop();
}

/// A client that waits for the rest of a long answer sends nothing but ACKs. While no programs are there they are
/// dropped, on their way or by the front's guard: then it goes on, whichever it was.
#[test]
fn a_download_outlives_the_front() {
    for (end, is_cut_off) in [(End::Stop, true), (End::Kill, true), (End::Stop, false), (End::Kill, false)] {
        let bed = Testbed::builder()
            .figure(Figure::Five)
            .wire()
            .unobserved("while its daemon is gone, its stack sees what is not its own")
            .build();
        let (files, page) = (DocRoot::shared(), Content::new("long", 40_000_000));
        files.add(&page);
        let mut cluster = Figure::Five.start(&bed, WebServer::nginx, &files, "policy = \"wrr\"");
        // What the server repeats meanwhile comes ever more seldom.
        let dial = Dial::new(cluster.service()).receive_buffer(64 * 1024).patience(4 * SOON);
        let mut stream = dial.stream(bed.client(0)).expect("answered");
        stream.write_all(&get(&page, true)).expect("sent");
        let mut head = vec![0; 100_000];
        stream.read_exact(&mut head).expect("its beginning");
        // It reads all the while.
        let reader = thread::spawn(move || {
            let (mut got, mut piece) = (head, vec![0; 64 * 1024]);
            loop {
                match stream.read(&mut piece) {
                    Ok(0) => return Ok(got),
                    Ok(length) => got.extend_from_slice(&piece[..length]),
                    Err(error) => return Err((got.len(), Fault::from(error))),
                }
                thread::sleep(Duration::from_millis(3));
            }
        });
        let loss = is_cut_off.then(|| bed.lose(100.0, Packets::FromClients));
        let front = bed.node(0).name();
        restart(&mut cluster, &bed, &[front], end);
        drop(loss);
        match reader.join().expect("read") {
            Ok(got) => {
                let body = got.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
                assert!(page.is(&got[body..]), "{end:?}: {} bytes", got.len());
            }
            Err((length, fault)) => panic!("{end:?} {is_cut_off}: after {length} bytes: {fault}"),
        }
        assert!(!is_cut_off || unknown(&cluster, "found") > 0, "{end:?}: nobody has asked");
        cluster.stop();
    }
}

/// A server's machine starts anew: the front still sends it what it has lost, and nobody else has it.
#[test]
fn a_server_that_has_lost_everything_says_so() {
    let bed = Testbed::builder().figure(Figure::Five).wire().build();
    let (files, page) = (DocRoot::shared(), Content::new("page", 3000));
    files.add(&page);
    let mut cluster = Figure::Five.start(&bed, WebServer::nginx, &files, "policy = \"wrr\"");
    let mut connections = idle(&bed, &cluster, 6, &page);
    let server = bed.nodes().last().expect("a server");
    // Its sockets end without a word to their clients.
    let loss = bed.lose(100.0, Packets::ToClients);
    server.run("ss", ["-K", "-tn", "state", "established", "sport", "=", ":80"]);
    restart(&mut cluster, &bed, &[server.name()], End::Kill);
    thread::sleep(SETTLED);
    drop(loss);
    let (mut answered, mut reset) = (0, 0);
    for connection in &mut connections {
        let began = Instant::now();
        match connection.fetch(&page) {
            Ok(_) => answered += 1,
            Err(Fault::Reset) => reset += 1,
            Err(fault) => panic!("{fault}"),
        }
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
    assert_eq!((answered, reset), (4, 2));
    assert_eq!(unknown_of(cluster.baton(server.name()), "reset"), 2);
    cluster.stop();
}

/// A table that is too small forgets idle connections; they are found when they go on.
#[test]
fn evicted_connections_are_found() {
    for figure in [Figure::Five, Figure::Eight] {
        let bed = Testbed::builder().figure(figure).build();
        let (files, page) = (DocRoot::shared(), Content::new("page", 300));
        files.add(&page);
        let config = format!("{}[limits]\nbindings = 1024\n", figure.config(&bed, "policy = \"wrr\""));
        let cluster = figure.start_with(&bed, WebServer::nginx, &files, &config);
        let mut connections = idle(&bed, &cluster, 50, &page);
        let load = Load::new(Dial::new(cluster.service())).connections(8).requests(500).close();
        let summary = load.run(bed.client(0), |_, _| page.clone());
        assert!(summary.is_clean(), "{figure:?}: {summary}");
        go_on(&mut connections, &page, &format!("{figure:?}"));
        assert!(unknown(&cluster, "found") > 0, "{figure:?}: nothing was evicted");
        assert_eq!(unknown(&cluster, "reset"), 0, "{figure:?}");
        cluster.stop();
    }
}

/// The numbers of a RST that goes to a client's port.
fn reset_to(frame: &[u8], port: u16) -> Option<u32> {
    let tcp = frame.get(L3 + ip_header(frame.get(L3..)?)..)?;
    let is_tcp = frame[L3 + if frame[L3] >> 4 == 6 { 6 } else { 9 }] == 6;
    let is_reset = tcp.get(13)? & 4 != 0 && tcp.get(2..4)? == port.to_be_bytes();
    (is_tcp && is_reset).then(|| u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]))
}

/// What no node has is refused, whatever the client sends, where it expects it (RFC 9293 3.10.7.1);
/// by each figure's own way to somebody who can say so.
#[test]
fn what_nobody_has_is_refused_at_once() {
    for figure in Figure::ALL {
        let bed = Testbed::builder()
            .figure(figure)
            .unobserved("packets of connections that there never were")
            .build();
        let (files, page) = (DocRoot::shared(), Content::new("page", 300));
        files.add(&page);
        let cluster = figure.start(&bed, WebServer::nginx, &files, "policy = \"wrr\"");
        // Nodes that came up a moment ago are not taken at their word yet.
        thread::sleep(SETTLED);
        // The client's neighbours are known then.
        let connection = Dial::new(cluster.service()).open(bed.client(0)).expect("answered");
        connection.fetch_last(&page).expect("the page");
        let (client, gateway) = (bed.client(0), Frames::on(bed.router(), &bed.client_port(0)).mac());
        let frames = Frames::on(client, "eth0");
        let payload = get(&page, false);
        let kinds = [
            ("a request", Tcp { payload: &payload, ..Tcp::default() }),
            ("an ACK", Tcp::default()),
            ("a FIN", Tcp { fin: true, ..Tcp::default() }),
        ];
        for (number, (what, tcp)) in kinds.into_iter().enumerate() {
            let from = SocketAddr::new(client.address(), 20_000 + number as u16);
            let ack = 0x1000_0000 * (number as u32 + 1);
            let packet = tcp_packet(from, cluster.service(), Tcp { seq: 77, ack: Some(ack), ..tcp });
            // A node that has work answers late: who asks repeats its packet, as clients do.
            let seq = (0..5).find_map(|_| {
                frames.send_packet(gateway, &packet);
                frames.look_for(Duration::from_secs(1), |frame| reset_to(frame, from.port()))
            });
            assert_eq!(seq, Some(ack), "{figure:?}: {what}");
        }
        let by_programs = cluster.counted("reset_unknown");
        assert_eq!(by_programs + unknown(&cluster, "reset"), 3, "{figure:?}: one RST for each packet");
        cluster.stop();
    }
}

/// While a node that may own a connection cannot be asked, nobody is reset; but not for ever.
#[test]
fn an_owner_that_cannot_be_asked_is_waited_for_and_not_for_ever() {
    let bed = Testbed::builder()
        .figure(Figure::Five)
        .unobserved("while its daemon is gone, its stack sees what is not its own")
        .build();
    let (files, page) = (DocRoot::shared(), Content::new("page", 3000));
    files.add(&page);
    let mut cluster = Figure::Five.start(&bed, WebServer::nginx, &files, "policy = \"wrr\"");
    let mut connections = idle(&bed, &cluster, 6, &page);
    // The last server's daemon stands still, and the front forgets: a third of the connections are nobody's.
    let server = cluster.batons.last().expect("a server");
    server.process().signal(Signal::SIGSTOP);
    let front = cluster.batons.remove(0);
    front.kill();
    let config = bed.router().scratch().path().join("cluster.toml");
    cluster.batons.insert(0, Baton::start(bed.node(0), &config));
    let began = Instant::now();
    let (mut answered, mut lost) = (0, 0);
    for connection in &mut connections {
        connection.send(&get(&page, false)).expect("sent");
    }
    thread::sleep(Duration::from_secs(3));
    assert_eq!(unknown_of(&cluster.batons[0], "reset"), 0, "its owner may be there");
    cluster.batons.last().expect("a server").process().signal(Signal::SIGCONT);
    for connection in &mut connections {
        match connection.response_of(&page) {
            Ok(_) => answered += 1,
            Err(_) => lost += 1,
        }
    }
    assert_eq!((answered, lost), (6, 0), "after {:?}", began.elapsed());
    cluster.wait_formed();

    // Now it does not come back.
    cluster.batons.pop().expect("a server").kill();
    let front = bed.node(0).name();
    let place = cluster.batons.iter().position(|b| b.host().name() == front).expect("the front");
    cluster.batons.remove(place).kill();
    cluster.batons.insert(place, Baton::start(bed.node(0), &config));
    let (mut answered, mut reset) = (0, 0);
    for connection in &mut connections {
        connection.send(&get(&page, false)).expect("sent");
    }
    let all: Vec<_> = connections
        .into_iter()
        .map(|mut connection| {
            let page = page.clone();
            thread::spawn(move || patiently(&mut connection, &page))
        })
        .collect();
    for one in all {
        match one.join().expect("a client") {
            Ok(()) => answered += 1,
            Err(Fault::Reset) => reset += 1,
            Err(fault) => panic!("{fault}"),
        }
    }
    assert!(answered >= 3 && reset >= 1, "{answered} answered, {reset} reset");
    drop(cluster);
}

fn unknown_of(baton: &Baton<'_>, what: &str) -> u64 {
    node_status(&baton.status(), baton.host().name())["unknown"][what].as_u64().unwrap_or(0)
}

/// Waits for a response for longer than a client usually would.
fn patiently(connection: &mut Connection, page: &Content) -> Result<(), Fault> {
    let until = Instant::now() + Duration::from_secs(40);
    loop {
        match connection.response_of(page) {
            Err(Fault::Timeout) if Instant::now() < until => {}
            other => return other.map(drop),
        }
    }
}

/// An address that nobody has, far away.
fn stranger(bed: &Testbed, number: u32) -> SocketAddr {
    let net = u16::try_from(number % 5000).expect("small");
    let address: IpAddr = match bed.network().vips.unspecified() {
        IpAddr::V4(_) => Ipv4Addr::new(11, (net >> 8) as u8, net as u8, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 1, net << 8, 0, 0, 0, 1).into(),
    };
    SocketAddr::new(address, 1024 + (number % 60_000) as u16)
}

/// A flood of such packets, from everywhere and from one place, costs the nodes a bounded number of questions;
/// clients notice nothing, and one that has lost its way behind another prefix is found meanwhile.
#[test]
fn a_flood_of_them_is_bounded() {
    const PACKETS: u32 = 40_000;
    let bed = Testbed::builder()
        .figure(Figure::Five)
        .without_offloads()
        .unobserved("a flood of packets of connections that there never were")
        .build();
    let (files, page) = (DocRoot::shared(), Content::new("page", 3000));
    files.add(&page);
    let mut cluster = Figure::Five.start(&bed, WebServer::nginx, &files, "policy = \"wrr\"");
    let mut connections = idle(&bed, &cluster, 5, &page);
    let front = bed.node(0).name();
    restart(&mut cluster, &bed, &[front], End::Kill);
    let outsider = bed.outsider();
    let frames = Frames::on(&outsider, "eth0");
    let to = if bed.network().is_routed() {
        Frames::on(bed.router(), "to-outsider").mac()
    } else {
        Frames::on(bed.node(0), "eth0").mac()
    };
    let began = Instant::now();
    let flood = |of: &dyn Fn(u32) -> SocketAddr| {
        for number in 0..PACKETS {
            let tcp = Tcp { seq: number, ack: Some(number.wrapping_mul(0x9e37_79b1)), ..Tcp::default() };
            frames.send_packet(to, &tcp_packet(of(number), cluster.service(), tcp));
        }
    };
    // From one prefix: others have their share.
    thread::scope(|scope| {
        let flooding =
            scope.spawn(|| flood(&|number| SocketAddr::new(stranger(&bed, 1).ip(), number as u16 | 1024)));
        go_on(&mut connections, &page, "beside the flood");
        flooding.join().expect("sent");
    });
    // From everywhere: those that are known notice nothing.
    thread::scope(|scope| {
        let flooding = scope.spawn(|| flood(&|number| stranger(&bed, number)));
        go_on(&mut connections, &page, "beside the flood from everywhere");
        flooding.join().expect("sent");
    });
    let windows = began.elapsed().as_nanos() as u64 / (1 << 28) + 2;
    wait_until(SOON, "the flood to be counted", || {
        let of = |counter: &str| cluster.counted(counter);
        of("held_unknown") + of("drop_unknown_rate") > u64::from(PACKETS)
    });
    assert!(cluster.counted("held_unknown") <= windows * 512, "{windows} windows");
    assert!(cluster.counted("drop_unknown_rate") > 0);
    let (asked, reset) = (unknown(&cluster, "asked"), unknown(&cluster, "reset"));
    assert!(reset <= asked && asked <= windows * 512, "{asked} asked, {reset} reset");
    cluster.stop();
}

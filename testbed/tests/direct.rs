//! Proves the testbed itself against bare web servers: client, router, one server. What is counted
//! as clean must be so without Baton, and what is broken on purpose must be seen.

use std::time::Duration;

use baton_testbed::{
    Capture, Content, Dial, Disturb, DocRoot, Fault, Frames, Host, Load, Origin, Packets, Tcp, Testbed,
    WebServer, get, tcp_packet, wait_until,
};

const SOON: Duration = Duration::from_secs(5);

type Start = fn(&Host, &DocRoot) -> WebServer;
const SERVERS: [Start; 2] = [WebServer::nginx, WebServer::apache];

/// Bodies of all sizes that matter: none, one byte, within a segment, over a window, 100 MB.
fn all_sizes(files: &DocRoot) -> Vec<Content> {
    let sizes = [0, 1, 1000, 1448, 65_536, 1_000_000, 100_000_000];
    let contents: Vec<Content> = sizes.iter().map(|size| Content::new("size", *size)).collect();
    contents.iter().for_each(|content| drop(files.add(content)));
    contents
}

#[test]
fn bodies_of_all_sizes_arrive_whole_and_without_a_retransmission_on_one_cpu() {
    let bed = Testbed::builder().one_cpu().build();
    let files = DocRoot::shared();
    let contents = all_sizes(&files);
    let total: u64 = contents.iter().map(Content::size).sum();
    for start in SERVERS {
        let server = start(bed.node(0), &files);
        let capture = Capture::start(bed.client(0), 80);
        let before = (bed.port_of(bed.node(0)), bed.client(0).counters("eth0"));

        let load = Load::new(Dial::new(bed.node(0).at(80)));
        let kept = load.clone().requests(contents.len()).run(bed.client(0), |_, j| contents[j].clone());
        let small = &contents[..6];
        let closed = load.requests(6).close().run(bed.client(0), |_, j| small[j].clone());
        assert!(kept.is_clean() && closed.is_clean(), "{kept}\n{closed}");
        assert_eq!((kept.connections, closed.connections), (1, 6));
        assert_eq!(kept.bytes, total);
        assert_eq!(kept.by_node["a"], 7, "{kept}");

        let seen = capture.stop();
        assert_eq!(seen.flows.len(), 7);
        assert_eq!((seen.resets(), seen.retransmitted()), (0, 0), "{:?}", seen.flows);
        assert_eq!(seen.from_servers().timestamp_regressions, 0);
        let bytes = kept.bytes + closed.bytes;
        assert!(seen.from_servers().payload_bytes > bytes, "bodies and heads were captured");
        // Counters: what left the node is what reached the client, and it is the bodies and heads.
        let node = bed.port_of(bed.node(0)) - before.0;
        let client = bed.client(0).counters("eth0") - before.1;
        assert!(node.rx_bytes > bytes && node.rx_bytes < bytes + bytes / 10, "{node:?} for {bytes}");
        assert!(client.rx_bytes.abs_diff(node.rx_bytes) < 10_000, "{node:?} {client:?}");
        drop(server);
    }
}

#[test]
fn servers_log_the_client_and_many_clients_are_told_apart() {
    let bed = Testbed::builder().nodes(2).clients(2).build();
    let files = DocRoot::shared();
    let page = Content::new("page", 3000);
    files.add(&page);
    let servers = [WebServer::nginx(bed.node(0), &files), WebServer::apache(bed.node(1), &files)];
    for (i, (node, server)) in (0..).zip(bed.nodes().iter().zip(&servers)) {
        for client in bed.clients() {
            let extra = client.extra_address(77 + i);
            let dial = Dial::new(node.at(80)).from_address(extra).source_port(4321);
            let mut connection = dial.open(client).expect("the server listens");
            let response = connection.fetch(&page).expect("the page");
            assert_eq!(response.node(), node.name());
            let me = connection.local();
            assert_eq!(me, std::net::SocketAddr::new(extra, 4321));
            let mine = || server.logged().iter().any(|line| line.client == me && line.path == page.path());
            wait_until(SOON, "log line with the client's address", mine);
        }
        let load = Load::new(Dial::new(node.at(80))).connections(40).requests(20);
        let summary = load.run(bed.client(0), |_, _| page.clone());
        assert!(summary.is_clean(), "{summary}");
        assert_eq!(summary.connections, 40);
        let summary = load.close().run(bed.client(1), |_, _| page.clone());
        assert!(summary.is_clean(), "{summary}");
        assert_eq!(summary.connections, 800);
        assert_eq!(summary.latency_us.len(), 800);
    }
}

#[test]
fn vips_are_routed_to_a_node_or_found_on_the_link() {
    let bed = Testbed::builder().nodes(2).build();
    let files = DocRoot::shared();
    let page = Content::new("page", 3000);
    files.add(&page);
    let _servers: Vec<_> = bed.nodes().iter().map(|node| WebServer::nginx(node, &files)).collect();
    let address = bed.vip(0);
    bed.nodes().iter().for_each(|node| node.hold_vip(address));
    let vip = std::net::SocketAddr::new(address, 80);
    for node in bed.nodes() {
        bed.route_vip(address, node);
        let response =
            Dial::new(vip).open(bed.client(0)).expect("routed").fetch_last(&page).expect("the page");
        assert_eq!(response.node(), node.name());
    }
    // Both, each for some of the connections.
    bed.route_vip_over(address, &[bed.node(0), bed.node(1)]);
    let load = Load::new(Dial::new(vip)).requests(60).close();
    let summary = load.run(bed.client(0), |_, _| page.clone());
    assert!(summary.is_clean() && summary.by_node.len() == 2, "{summary}");
    if bed.network().is_routed() {
        return;
    }
    // Nobody answers on the link for an address on loopback, until somebody does.
    bed.vip_on_link(address);
    let unheard = Dial::new(vip).patience(Duration::from_millis(200)).open(bed.client(0));
    assert!(unheard.is_err(), "{unheard:?}");
    bed.node(1).claim_vip(address);
    let response = Dial::new(vip).open(bed.client(0)).expect("answered").fetch_last(&page).expect("the page");
    assert_eq!(response.node(), "b");
}

#[test]
fn clients_can_do_what_ordinary_ones_hide() {
    let bed = Testbed::builder().build();
    let files = DocRoot::shared();
    let (page, large) = (Content::new("page", 3000), Content::new("large", 1_000_000));
    [&page, &large].iter().for_each(|content| drop(files.add(content)));
    let _server = WebServer::nginx(bed.node(0), &files);
    let to = bed.node(0).at(80);

    // One source port again and again.
    let load = Load::new(Dial::new(to).source_port(5555)).requests(30).close();
    let summary = load.run(bed.client(0), |_, _| page.clone());
    assert!(summary.is_clean(), "{summary}");

    // Pipelining, with writes cut inside the request line, into a small receive buffer.
    let dial = Dial::new(to).receive_buffer(8192);
    let mut connection = dial.open(bed.client(0)).expect("the server listens");
    let both = [get(&large, false), get(&page, false)].concat();
    connection.send_cut(&both, &[2, 9], Duration::from_millis(1)).expect("sent");
    connection.response_of(&large).expect("the first answer");
    connection.response_of(&page).expect("the second answer");

    // Another status, read in whole; and as a fault where a content was expected.
    connection.send(b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    assert_eq!(connection.response().expect("a response").status, 404);
    let fault = connection.fetch(&Content::new("none", 5)).expect_err("there is no such file");
    assert!(matches!(fault, Fault::Status(404)), "{fault}");
    connection.abort().expect("aborted");

    let refused = Dial::new(bed.node(0).at(81)).open(bed.client(0)).expect_err("nobody listens");
    assert!(matches!(refused, Fault::Refused), "{refused}");
}

#[test]
fn captures_show_options_resets_and_clients_without_them() {
    let bed = Testbed::builder().one_cpu().build();
    let files = DocRoot::shared();
    let page = Content::new("page", 3000);
    files.add(&page);
    let _server = WebServer::nginx(bed.node(0), &files);
    let client = bed.client(0);
    for (key, value) in [("timestamps", "0"), ("sack", "0"), ("window_scaling", "0"), ("", "")] {
        if !key.is_empty() {
            client.sysctl(&format!("net.ipv4.tcp_{key}"), value);
        }
        let capture = Capture::start(client, 80);
        let mut connection = Dial::new(bed.node(0).at(80)).open(client).expect("the server listens");
        connection.fetch(&page).expect("the page");
        connection.abort().expect("aborted");
        let seen = capture.stop();
        assert_eq!(seen.flows.len(), 1);
        assert_eq!((seen.from_clients().resets, seen.from_servers().resets), (1, 0));
        let agreed = seen.flows[0].syn_ack.expect("the SYN-ACK was captured");
        assert_eq!(agreed.mss, Some(bed.plain_mss()));
        assert_eq!(agreed.timestamps, key != "timestamps", "after {key}");
        assert_eq!(agreed.sack, key != "sack");
        assert_eq!(agreed.window_scale.is_some(), key != "window_scaling");
        if !key.is_empty() {
            client.sysctl(&format!("net.ipv4.tcp_{key}"), "1");
        }
    }
}

#[test]
fn random_loss_is_repaired_and_seen() {
    let bed = Testbed::builder().wire().one_cpu().without_offloads().build();
    let files = DocRoot::shared();
    let page = Content::new("large", 1_000_000);
    files.add(&page);
    let _server = WebServer::nginx(bed.node(0), &files);
    let load = Load::new(Dial::new(bed.node(0).at(80))).connections(4).requests(2);

    let capture = Capture::start(bed.client(0), 80);
    let summary = load.run(bed.client(0), |_, _| page.clone());
    assert!(summary.is_clean(), "{summary}");
    let seen = capture.stop();
    let sent_again = bed.node(0).kernel_counter("RetransSegs");
    assert_eq!((seen.retransmitted(), sent_again), (0, 0), "nothing is lost without a loss");

    let capture = Capture::start(bed.client(0), 80);
    let losses = [bed.lose(3.0, Packets::ToClients), bed.lose(3.0, Packets::FromClients)];
    let summary = load.run(bed.client(0), |_, _| page.clone());
    assert!(summary.is_clean(), "{summary}");
    for loss in &losses {
        let (seen, lost) = (loss.seen() as f64, loss.lost() as f64);
        assert!(lost > 0.0 && lost < seen / 5.0, "{lost} of {seen} lost at 3 %");
    }
    drop(losses);
    let seen = capture.stop();
    // A client's FIN that it sent again, since the ACK of the first was lost, meets no socket once the server
    // has closed: the stack answers with a RST, and no connection is broken by it.
    assert_eq!(seen.early_resets(), 0, "{:#?}", seen.flows);
    assert!(bed.node(0).kernel_counter("RetransSegs") > 0, "the server has sent again");
    let from_servers = seen.from_servers();
    assert!(from_servers.retransmitted + from_servers.out_of_order > 0, "{from_servers:?}");
}

#[test]
fn single_packets_are_lost_by_their_kind() {
    let bed = Testbed::builder().nodes(2).wire().one_cpu().build();
    let files = DocRoot::shared();
    let page = Content::new("page", 3000);
    files.add(&page);
    let _server = WebServer::nginx(bed.node(0), &files);
    let dial = Dial::new(bed.node(0).at(80));
    for packets in [Packets::SynAcks, Packets::Requests] {
        for nth in [1, 2] {
            let loss = bed.lose_nth(nth, packets);
            let capture = Capture::start(bed.client(0), 80);
            for _ in 0..2 {
                dial.open(bed.client(0)).expect("in the end").fetch_last(&page).expect("the page");
            }
            let seen = capture.stop();
            assert_eq!((loss.lost(), seen.resets(), seen.flows.len()), (1, 0, 2), "{packets:?} {nth}");
            assert!(loss.seen() >= 3, "two and the one sent again");
            // Either way it is the client that sends again: its SYN, or its request.
            let again: Vec<u64> = seen.flows.iter().map(|flow| flow.from_client.retransmitted).collect();
            assert_eq!(again.iter().position(|n| *n > 0), Some(nth as usize - 1), "{packets:?}: {again:?}");
        }
    }
    // Between nodes: the third of five datagrams to the encapsulation's port that say they are handoffs,
    // and no other packet.
    let (a, b) = (bed.node(0), bed.node(1));
    let loss = bed.lose_nth(3, Packets::Handoffs(6081));
    let receiver = b.inside(|| std::net::UdpSocket::bind(b.at(6081))).expect("a free port");
    receiver.set_read_timeout(Some(SOON)).expect("a time limit");
    let sender = a.inside(|| std::net::UdpSocket::bind(a.at(0))).expect("a free port");
    for number in 1..=5u8 {
        let (handoff, mut forwarded) = ([number; 80], [0; 80]);
        forwarded[42] = 0x80;
        for datagram in [handoff.map(|byte| byte & 0x7f), forwarded] {
            sender.send_to(&datagram, b.at(6081)).expect("sent");
        }
    }
    let mut one = [0];
    let mut next = || receiver.recv(&mut one).map(|_| one[0]).expect("a datagram");
    assert_eq!(std::array::from_fn(|_| next()), [1, 0, 2, 0, 0, 4, 0, 5, 0]);
    assert_eq!((loss.seen(), loss.lost()), (5, 1));
}

#[test]
fn loss_between_nodes_spares_clients() {
    let bed = Testbed::builder().nodes(2).build();
    let files = DocRoot::shared();
    let page = Content::new("page", 3000);
    files.add(&page);
    let _server = WebServer::nginx(bed.node(0), &files);
    let loss = bed.lose(100.0, Packets::BetweenNodes);
    let dial = Dial::new(bed.node(0).at(80)).patience(Duration::from_millis(300));
    let fault = dial.open(bed.node(1)).expect_err("everything is lost");
    assert!(matches!(fault, Fault::Timeout), "{fault}");
    dial.open(bed.client(0)).expect("nothing is lost").fetch_last(&page).expect("the page");
    assert_eq!(loss.seen(), loss.lost());
    drop(loss);
    dial.open(bed.node(1)).expect("it is over").fetch_last(&page).expect("the page");
}

#[test]
fn a_spoilt_file_is_reported() {
    let bed = Testbed::builder().build();
    let files = DocRoot::private();
    let (good, spoilt, cut) =
        (Content::new("a", 500_000), Content::new("b", 500_000), Content::new("c", 500_000));
    files.add(&good);
    let file = files.add(&spoilt);
    let mut bytes = std::fs::read(&file).expect("just written");
    bytes[400_000] ^= 1;
    std::fs::write(&file, bytes).expect("spoilt");
    std::fs::copy(files.add(&good), files.path().join("c.500000")).expect("another path's body");
    let _server = WebServer::nginx(bed.node(0), &files);
    let contents = [good.clone(), spoilt.clone(), cut.clone()];
    let load = Load::new(Dial::new(bed.node(0).at(80))).connections(3);
    let summary = load.run(bed.client(0), |i, _| contents[i].clone());
    assert_eq!((summary.ok, summary.wrong_bodies, summary.faults()), (1, 2, 2), "{summary}");
    assert!(!summary.is_clean());
    let mut connection = Dial::new(bed.node(0).at(80)).open(bed.client(0)).expect("the server listens");
    let fault = connection.fetch(&spoilt).expect_err("it is spoilt");
    assert!(matches!(fault, Fault::WrongBody { at: 400_000, .. }), "{fault}");

    // Our own client is not believed alone: curl and SHA-256 say the same.
    let url = |content: &Content| format!("http://{}{}", bed.node(0).at(80), content.path());
    for (content, right) in [(&good, true), (&spoilt, false)] {
        let script = format!("curl -sSf {} | sha256sum", url(content));
        let sum = bed.client(0).run("/bin/sh", ["-c", &script]);
        assert_eq!(sum.starts_with(&content.sha256()), right, "{sum}");
    }
}

#[test]
fn a_small_cache_before_a_slow_origin_hits_misses_and_forgets() {
    let bed = Testbed::builder().nodes(2).build();
    let origin = Origin::start(bed.node(1), 8000, Duration::from_millis(2));
    let _server = WebServer::caching_nginx(bed.node(0), origin.address(), 160);
    let load = Load::new(Dial::new(bed.node(0).at(80)));
    let object = |j: usize| Content::new(&format!("o{j}"), 1000 + j as u64);
    // Fewer objects than there is room for: the second round hits.
    let first = load.clone().requests(50).run(bed.client(0), |_, j| object(j));
    let second = load.clone().requests(50).run(bed.client(0), |_, j| object(j));
    assert!(first.is_clean() && second.is_clean(), "{first}\n{second}");
    assert_eq!((first.by_cache["MISS"], origin.requests()), (50, 50));
    assert_eq!(second.by_cache["HIT"], 50);
    // More than there is room for, forwards and then backwards: what is still there is what the
    // cache holds, the most recently used ones.
    let there = load.clone().requests(400).run(bed.client(0), |_, j| object(j));
    let back = load.requests(400).run(bed.client(0), |_, j| object(399 - j));
    assert!(there.is_clean() && back.is_clean(), "{there}\n{back}");
    let held = back.by_cache["HIT"];
    assert!((120..=200).contains(&held), "a cache for 160 objects held {held}");
    let hits = held + there.by_cache.get("HIT").copied().unwrap_or_default();
    assert_eq!(origin.requests(), 50 + 800 - hits);
}

#[test]
fn a_bad_line_loses_reorders_and_doubles_and_is_good_again() {
    let bed = Testbed::builder().wire().without_offloads().build();
    let files = DocRoot::shared();
    let contents = [0, 1000, 65_536, 1_000_000].map(|size| Content::new("size", size));
    contents.iter().for_each(|content| drop(files.add(content)));
    let _server = WebServer::nginx(bed.node(0), &files);
    let load = Load::new(Dial::new(bed.node(0).at(80))).connections(10).requests(20);
    let run = || {
        let capture = Capture::start(bed.client(0), 80);
        let summary = load.run(bed.client(0), |i, j| contents[(i + j) % 4].clone());
        assert!(summary.is_clean(), "{summary}");
        capture.stop().from_servers()
    };
    let bad = |how| {
        let line = bed.disturb(0, how);
        (run(), line.disturbed())
    };
    let (seen, [lost, reordered, doubled]) = bad(Disturb::new(1).double(5.0));
    assert!(seen.retransmitted > 0 && doubled > 0 && lost + reordered == 0, "{seen:?} {doubled}");
    let (seen, [lost, reordered, doubled]) = bad(Disturb::new(1).reorder(5.0));
    assert!(seen.out_of_order > 0 && reordered > 0 && lost + doubled == 0, "{seen:?} {reordered}");
    let before = bed.node(0).kernel_counter("RetransSegs");
    let (_, [lost, ..]) = bad(Disturb::new(1).lose(2.0));
    assert!(lost > 0 && bed.node(0).kernel_counter("RetransSegs") > before, "{lost}");
    run();
}

/// conntrack counts what belongs to no connection, and a testbed does not end well with it.
#[test]
fn invalid_packets_are_seen() {
    let (bed, quiet) = (Testbed::builder().build(), Testbed::builder().unobserved("to compare").build());
    for bed in [&bed, &quiet] {
        let frames = Frames::on(bed.client(0), "eth0");
        let router = Frames::on(bed.router(), &bed.client_port(0)).mac();
        let (from, to) = (bed.client(0).at(50_000), bed.node(0).at(80));
        frames.send_packet(
            router,
            &tcp_packet(from, to, Tcp { ack: Some(1), payload: b"x", ..Tcp::default() }),
        );
    }
    wait_until(SOON, "an invalid packet on the router", || !bed.invalid().is_empty());
    assert!(bed.invalid().iter().all(|seen| seen.host == "router" && seen.passed > 0), "{:?}", bed.invalid());
    assert!(bed.invalid().iter().all(|seen| seen.packets.contains("50000")), "{:?}", bed.invalid());
    assert!(quiet.invalid().is_empty());
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(bed)));
    assert!(ended.is_err(), "it says so");
}

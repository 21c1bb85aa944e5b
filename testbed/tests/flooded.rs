//! Frames that are not for the node that sees them: a link floods them, a port has gone down, somebody sends
//! them. Nobody acts on them, and so they are not multiplied.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use baton_testbed::{
    Cluster, Content, Dial, DocRoot, Figure, Frames, Network, Tcp, Testbed, WebServer, tcp_packet, wait_until,
};

const SOON: Duration = Duration::from_secs(10);

/// What no node does in an orderly network, and all nodes did where frames are flooded.
const STRANGE: [&str; 7] = [
    "drop_ttl",
    "drop_loop",
    "drop_no_role",
    "drop_unknown_flow",
    "drop_stale_socket",
    "fault_rewrite",
    "adopt_again",
];

fn nothing_strange(cluster: &Cluster<'_>) {
    for what in STRANGE {
        assert_eq!(cluster.counted(what), 0, "{what}");
    }
}

/// A hub: each node sees all that goes to any of them.
#[test]
fn a_link_that_floods_multiplies_nothing() {
    for figure in [Figure::Five, Figure::Seven] {
        let bed = Testbed::builder().figure(figure).network(Network::IPV4_FLOODED).build();
        let (files, page, large) =
            (DocRoot::shared(), Content::new("page", 3000), Content::new("large", 1_000_000));
        files.add(&page);
        files.add(&large);
        let cluster = figure.start(&bed, WebServer::nginx, &files, "");
        let dial = Dial::new(cluster.service());
        for _ in 0..24 {
            dial.open(bed.client(0)).expect("answered").fetch_last(&page).expect("the page");
        }
        dial.open(bed.client(0)).expect("answered").fetch_last(&large).expect("all of it");
        assert_eq!((cluster.counted("syn_answered"), cluster.counted("adopted")), (25, 25), "{figure:?}");
        nothing_strange(&cluster);
        cluster.stop();
    }
}

/// A pool for each of the last three nodes.
fn three_pools() -> String {
    let mut text = String::new();
    for node in ["b", "c", "d"] {
        let _ = writeln!(
            text,
            "[[service.pool]]\nname = \"{node}\"\nservers = [\"{node}\"]\npolicy = \"lard\"\n\
             [[service.route]]\npool = \"{node}\"\npath = \"/{node}/\""
        );
    }
    text
}

/// The switch forgets the way to a node whose port goes down, and floods all that is sent there. A connection
/// that has been at each node is known to each: one request must not go round between them.
#[test]
fn what_is_sent_to_a_node_that_is_gone_does_not_go_round() {
    let bed = Testbed::builder().figure(Figure::Seven).network(Network::IPV4).build();
    let files = DocRoot::shared();
    let pages = ["b", "c", "d"].map(|node| Content::new(&format!("{node}/page"), 3000));
    pages.iter().for_each(|page| drop(files.add(page)));
    let cluster = Figure::Seven.start(&bed, WebServer::nginx, &files, &three_pools());
    let mut connection = Dial::new(cluster.service()).open(bed.client(0)).expect("answered");
    for page in [&pages[0], &pages[2], &pages[1]] {
        connection.fetch(page).expect("the page");
    }
    assert!(cluster.counted("moved") >= 2);
    let seen = |node: usize| bed.port_of(bed.node(node)).tx_packets;
    let frames = || seen(0) + seen(1) + seen(3);
    bed.router().ip("link set to-c down");
    let before = frames();
    connection.send(format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", pages[1].path()).as_bytes()).expect("room");
    std::thread::sleep(Duration::from_millis(700));
    let flooded = frames() - before;
    // The request, some repetitions and probes, each to three ports, and the nodes' own talk.
    assert!(flooded < 600, "{flooded} frames for one request");
    bed.router().ip("link set to-c up");
    cluster.wait_formed();
    assert_eq!(cluster.counted("drop_ttl"), 0);
    cluster.stop();
}

/// Somebody on the link sends to an address that nobody has, to everybody, or in a VLAN: no node answers, adopts
/// or counts anything. With a priority, which is tag 0, it is a frame like any.
#[test]
fn frames_of_others_do_nothing() {
    let bed = Testbed::builder().figure(Figure::Seven).network(Network::IPV4).without_offloads();
    let bed = bed.unobserved("an outsider sends what belongs to no connection").build();
    let (files, page) = (DocRoot::shared(), Content::new("page", 3000));
    files.add(&page);
    let cluster = Figure::Seven.start(&bed, WebServer::nginx, &files, "");
    let outsider = bed.outsider();
    let frames = Frames::on(&outsider, "eth0");
    let switch = Frames::on(bed.node(0), "eth0").mac();
    let from = |port| SocketAddr::new(outsider.address(), port);
    let syn =
        |port: u16| tcp_packet(from(port), cluster.service(), Tcp { seq: 1000, syn: true, ..Tcp::default() });
    let request = |port: u16| {
        let get = Tcp {
            seq: 1001,
            ack: Some(77),
            payload: b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n",
            ..Tcp::default()
        };
        tcp_packet(from(port), cluster.service(), get)
    };
    let tagged = |tag: u16, packet: &[u8]| {
        let frame = frames.framed(frames.mac(), switch, packet);
        [&frame[..12], &[0x81, 0], &tag.to_be_bytes(), &frame[12..]].concat()
    };
    let nobody = [[2, 0xde, 0xad, 0xbe, 0xef, 1], [0xff; 6], [1, 0, 0x5e, 0, 0, 5]];
    for port in 0..40 {
        for to in nobody {
            frames.send(&frames.framed(frames.mac(), to, &syn(20_000 + port)));
            frames.send(&frames.framed(frames.mac(), to, &request(20_000 + port)));
        }
        for tag in [7, 100, 5 << 13 | 100] {
            frames.send(&tagged(tag, &syn(21_000 + port)));
        }
    }
    // Behind all of those, on the same way.
    for (n, tag) in [(1, 0), (2, 7 << 13)] {
        frames.send(&tagged(tag, &syn(22_000 + n)));
        let answered = || cluster.counted("syn_answered") == u64::from(n);
        wait_until(SOON, "an answer to a frame with priority", answered);
        frames.find(SOON, "the SYN-ACK", |frame| {
            let to_us = frame.get(..6) == Some(&frames.mac()) && frame.get(12..14) == Some(&[8, 0]);
            let port = frame.get(36..38).map(|port| u16::from_be_bytes([port[0], port[1]]));
            (to_us && port == Some(22_000 + n) && frame[47] & 0x12 == 0x12).then_some(())
        });
    }
    assert_eq!((cluster.counted("syn_answered"), cluster.counted("adopted")), (2, 0));
    nothing_strange(&cluster);
    let connection = Dial::new(cluster.service()).open(bed.client(0)).expect("answered");
    connection.fetch_last(&page).expect("the page");
    cluster.stop();
}

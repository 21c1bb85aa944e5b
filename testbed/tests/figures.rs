//! Every arrangement of the paper, with nginx and with Apache: what clients get, what their captures
//! show, and which way the bytes went.

use std::net::SocketAddr;
use std::time::Duration;

use baton_testbed::{
    Capture, Content, Dial, DocRoot, Figure, Load, StartServer, Testbed, WebServer, counted, wait_until,
};

const SERVERS: [(&str, StartServer); 2] = [("nginx", WebServer::nginx), ("apache", WebServer::apache)];

fn add_all(files: &DocRoot, sizes: &[u64]) -> Vec<Content> {
    let contents: Vec<Content> = sizes.iter().map(|size| Content::new("size", *size)).collect();
    contents.iter().for_each(|content| drop(files.add(content)));
    contents
}

/// Bodies of all sizes, one connection each and kept alive; nothing lost, so nothing sent twice; and no
/// response byte on a node that did not serve it.
fn bodies_arrive_whole_and_directly(figure: Figure, (name, server): (&str, StartServer)) {
    let bed = Testbed::builder().figure(figure).one_cpu().build();
    let files = DocRoot::shared();
    let contents = add_all(&files, &[0, 1, 1000, 1448, 65_536, 1_000_000, 100_000_000]);
    let cluster = figure.start(&bed, server, &files, "");
    let capture = Capture::start(bed.client(0), 80);
    let before: Vec<_> = bed.nodes().iter().map(|node| bed.port_of(node)).collect();

    let mut bytes = 0;
    for vip in &cluster.vips {
        let load = Load::new(Dial::new(SocketAddr::new(*vip, 80)));
        let kept = load.clone().requests(6).run(bed.client(0), |_, j| contents[j].clone());
        let closed = load.connections(1).requests(7).close().run(bed.client(0), |_, j| contents[j].clone());
        assert!(kept.is_clean() && closed.is_clean(), "{figure:?} {name}: {kept}\n{closed}");
        assert_eq!((kept.connections, closed.connections), (1, 7));
        bytes += kept.bytes + closed.bytes;
    }

    let seen = capture.stop();
    assert_eq!((seen.resets(), seen.retransmitted()), (0, 0), "{figure:?} {name}: {:#?}", seen.flows);
    assert_eq!(seen.from_servers().timestamp_regressions, 0, "{figure:?} {name}");
    // What came to any node is requests, ACKs and control messages: far less than the bodies.
    let mut towards_nodes = 0;
    let mut from_nodes = 0;
    for (node, before) in bed.nodes().iter().zip(before) {
        let port = bed.port_of(node) - before;
        towards_nodes += port.tx_bytes;
        from_nodes += port.rx_bytes;
    }
    assert!(from_nodes > bytes, "{figure:?} {name}: {from_nodes} left the nodes for {bytes}");
    assert!(towards_nodes < bytes / 20, "{figure:?} {name}: {towards_nodes} came to nodes for {bytes}");
    assert!(cluster.counted("adopted") >= 8 * cluster.vips.len() as u64);
    for (what, kind) in [("fault_rewrite", "fault"), ("fault_map", "fault"), ("event_lost", "fault")] {
        assert_eq!(cluster.counted(what), 0, "{what} is a {kind}");
    }
    cluster.stop();
}

#[test]
fn figure_5() {
    SERVERS.into_iter().for_each(|server| bodies_arrive_whole_and_directly(Figure::Five, server));
}

#[test]
fn figure_6() {
    SERVERS.into_iter().for_each(|server| bodies_arrive_whole_and_directly(Figure::Six, server));
}

#[test]
fn figure_7() {
    SERVERS.into_iter().for_each(|server| bodies_arrive_whole_and_directly(Figure::Seven, server));
}

#[test]
fn figure_7_with_the_router_as_switch() {
    SERVERS.into_iter().for_each(|server| bodies_arrive_whole_and_directly(Figure::SevenRouter, server));
}

#[test]
fn figure_8_without_a_switch() {
    SERVERS.into_iter().for_each(|server| bodies_arrive_whole_and_directly(Figure::Eight, server));
}

#[test]
fn all_on_one_node() {
    SERVERS.into_iter().for_each(|server| bodies_arrive_whole_and_directly(Figure::AllOnOne, server));
}

/// The servers are unmodified and do not notice: they log the client's own address and port.
#[test]
fn servers_log_the_clients_own_address() {
    for (name, server) in SERVERS {
        let bed = Testbed::builder().figure(Figure::Seven).build();
        let files = DocRoot::shared();
        let page = Content::new("page", 3000);
        files.add(&page);
        let cluster = Figure::Seven.start(&bed, server, &files, "");
        let extra = bed.client(0).extra_address(77);
        let dial = Dial::new(cluster.service()).from_address(extra).source_port(4321);
        let mut connection = dial.open(bed.client(0)).expect("a distributor answers");
        connection.fetch(&page).expect("the page");
        let me = connection.local();
        assert_eq!(me, SocketAddr::new(extra, 4321));
        wait_until(Duration::from_secs(5), "log line with the client's address", || {
            let logs = |s: &WebServer| s.logged().iter().any(|l| l.client == me && l.path == page.path());
            cluster.servers.iter().any(logs)
        });
        drop(connection);
        println!("{name}: logged {me}");
        cluster.stop();
    }
}

/// Many clients at once, from several networks, close and keep-alive, all bodies right; afterwards no
/// load is left anywhere.
#[test]
fn many_clients_at_once() {
    for figure in [Figure::Five, Figure::SevenRouter, Figure::Eight] {
        let bed = Testbed::builder().figure(figure).clients(2).build();
        let files = DocRoot::shared();
        let contents = add_all(&files, &[0, 1000, 20_000, 300_000]);
        let cluster = figure.start(&bed, WebServer::nginx, &files, "");
        let load = Load::new(Dial::new(cluster.service())).connections(60).requests(25);
        let kept = load.run(bed.client(0), |i, j| contents[(i + j) % 4].clone());
        assert!(kept.is_clean(), "{figure:?}: {kept}");
        let closed = load.close().run(bed.client(1), |i, j| contents[(i + j) % 4].clone());
        assert!(closed.is_clean(), "{figure:?}: {closed}");
        wait_until(Duration::from_secs(10), "no load left", || {
            let started = cluster.counted("serving_started");
            started > 0 && started == cluster.counted("serving_ended")
        });
        let adopted = cluster.counted("adopted");
        assert_eq!(adopted, 60 + 60 * 25, "{figure:?}");
        wait_until(Duration::from_secs(10), "all closed", || cluster.counted("closed") == adopted);
        cluster.stop();
    }
}

/// A client with one source port: each connection meets what the one before has left behind, on the
/// server in TIME_WAIT, in the distributor and in the switch as bindings.
#[test]
fn one_source_port_again_and_again() {
    for figure in [Figure::Five, Figure::Seven, Figure::AllOnOne] {
        for (name, server) in SERVERS {
            let bed = Testbed::builder().figure(figure).build();
            let files = DocRoot::shared();
            let contents = add_all(&files, &[1, 1000, 20_000]);
            let cluster = figure.start(&bed, server, &files, "policy = \"wrr\"");
            let dial = Dial::new(cluster.service()).source_port(5555);
            let summary =
                Load::new(dial).requests(60).close().run(bed.client(0), |_, j| contents[j % 3].clone());
            assert!(summary.is_clean(), "{figure:?} {name}: {summary}");
            assert!(cluster.counted("stale_socket_ended") > 0, "{figure:?} {name}: met no TIME_WAIT");
            cluster.stop();
        }
    }
}

/// After the update the client's packets go past the distributor.
#[test]
fn the_switch_learns_where_a_connection_went() {
    let bed = Testbed::builder().figure(Figure::Seven).build();
    let files = DocRoot::shared();
    let contents = add_all(&files, &[1000]);
    let cluster = Figure::Seven.start(&bed, WebServer::nginx, &files, "");
    let mut connection = Dial::new(cluster.service()).open(bed.client(0)).expect("answered");
    connection.fetch(&contents[0]).expect("the page");
    // One packet of the connection tells whether the update is there; soon all go the short way.
    let switch = cluster.baton("a");
    wait_until(Duration::from_secs(5), "the switch to forward by its binding", || {
        let before = counted(switch, "forwarded_binding");
        connection.fetch(&contents[0]).expect("the page");
        counted(switch, "forwarded_binding") > before
    });
    let detours = |c: &baton_testbed::Cluster<'_>| -> u64 {
        ["b", "c", "d"].iter().map(|n| counted(c.baton(n), "forwarded_binding")).sum()
    };
    let before = detours(&cluster);
    for _ in 0..20 {
        connection.fetch(&contents[0]).expect("the page");
    }
    assert_eq!(detours(&cluster), before, "packets still went by the distributor");
    drop(connection);
    cluster.stop();
}

//! Live connections move between servers for their later requests: each request is served where it should
//! be, every byte right, and the client's capture shows nothing of it.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use baton_testbed::{
    Capture, Connection, Content, Dial, DocRoot, Figure, StartServer, Testbed, WebServer, get,
};

const SERVERS: [(&str, StartServer); 2] = [("nginx", WebServer::nginx), ("apache", WebServer::apache)];

/// Two pools of one server each, the last two servers of a figure; `routes` say what belongs to the second.
fn two_pools(figure: Figure, settings: &str, routes: &str) -> (String, [String; 2]) {
    let servers: Vec<String> = (0..figure.nodes())
        .filter(|node| figure.has_role(*node, "server"))
        .map(|node| char::from(b'a' + node as u8).to_string())
        .collect();
    let nodes = [servers[servers.len() - 2].clone(), servers[servers.len() - 1].clone()];
    let mut text = String::new();
    for (pool, node) in ["first", "second"].iter().zip(&nodes) {
        let _ = writeln!(
            text,
            "[[service.pool]]\nname = {pool:?}\nservers = [{node:?}]\npolicy = \"lard\"\n{settings}"
        );
    }
    (text + routes, nodes)
}

/// A load is told at least once a second.
const TOLD: Duration = Duration::from_millis(1500);

const BY_PATH: &str = "[[service.route]]\npool = \"second\"\npath = \"/second/\"\n";

fn request(connection: &mut Connection, head: &str, content: &Content) -> String {
    connection.send(head.as_bytes()).expect("sent");
    connection.response_of(content).unwrap_or_else(|e| panic!("{head}: {e}")).node().to_owned()
}

fn alternating(figure: Figure) {
    for (name, server) in SERVERS {
        let bed = Testbed::builder().figure(figure).one_cpu().build();
        let files = DocRoot::shared();
        let pages = ["a", "second/b"].map(|name| [0, 1000, 70_000, 1_000_000].map(|n| Content::new(name, n)));
        pages.iter().flatten().for_each(|page| drop(files.add(page)));
        let (pools, nodes) = two_pools(figure, "", BY_PATH);
        let cluster = figure.start(&bed, server, &files, &pools);
        let capture = Capture::start(bed.client(0), 80);
        for vip in &cluster.vips {
            let mut connection = Dial::new(SocketAddr::new(*vip, 80)).open(bed.client(0)).expect("answered");
            for round in 0..16 {
                let page = &pages[round % 2][round / 2 % 4];
                let response = connection.fetch(page).unwrap_or_else(|e| panic!("round {round}: {e}"));
                assert_eq!(response.node(), nodes[round % 2], "{figure:?} {name}: {}", page.path());
            }
        }
        let seen = capture.stop();
        assert_eq!((seen.resets(), seen.retransmitted()), (0, 0), "{figure:?} {name}: {:#?}", seen.flows);
        assert_eq!(seen.from_servers().timestamp_regressions, 0, "{figure:?} {name}");
        assert_eq!(cluster.counted("moved"), 15 * cluster.vips.len() as u64, "{figure:?} {name}");
        for fault in ["fault_rewrite", "fault_map", "event_lost"] {
            assert_eq!(cluster.counted(fault), 0, "{fault}");
        }
        cluster.stop();
    }
}

#[test]
fn every_request_of_a_connection_on_figure_5() {
    alternating(Figure::Five);
}

#[test]
fn every_request_of_a_connection_on_figure_6() {
    alternating(Figure::Six);
}

#[test]
fn every_request_of_a_connection_on_figure_7() {
    alternating(Figure::Seven);
}

#[test]
fn every_request_of_a_connection_without_a_switch() {
    alternating(Figure::Eight);
}

/// What a connection's server has learnt of the path, the next one begins with.
#[test]
fn the_congestion_window_goes_along() {
    let bed = Testbed::builder().figure(Figure::Five).build();
    let files = DocRoot::shared();
    let (large, small) = (Content::new("a", 20_000_000), Content::new("second/b", 1000));
    files.add(&large);
    files.add(&small);
    let (pools, _) = two_pools(Figure::Five, "", BY_PATH);
    let cluster = Figure::Five.start(&bed, WebServer::nginx, &files, &pools);
    let mut connection = Dial::new(cluster.service()).open(bed.client(0)).expect("answered");
    connection.fetch(&large).expect("served");
    connection.fetch(&small).expect("served");
    assert!(cluster.counted("cwnd_carried") >= 1);
    cluster.stop();
}

/// Several requests in one packet, for different pools: in order, whole, and from the right servers.
#[test]
fn pipelined_requests_of_different_pools() {
    for figure in [Figure::Five, Figure::Seven] {
        let bed = Testbed::builder().figure(figure).build();
        let files = DocRoot::shared();
        let pages: Vec<Content> =
            ["a", "second/b", "second/c", "d", "e"].map(|name| Content::new(name, 30_000)).into();
        pages.iter().for_each(|page| drop(files.add(page)));
        let (pools, nodes) = two_pools(figure, "", BY_PATH);
        let cluster = figure.start(&bed, WebServer::nginx, &files, &pools);
        for first in 0..pages.len() {
            let mut connection = Dial::new(cluster.service()).open(bed.client(0)).expect("answered");
            let order: Vec<&Content> = pages.iter().cycle().skip(first).take(2 * pages.len()).collect();
            let all: Vec<u8> = order.iter().flat_map(|page| get(page, false)).collect();
            connection.send(&all).expect("sent");
            for page in order {
                let response =
                    connection.response_of(page).unwrap_or_else(|e| panic!("{}: {e}", page.path()));
                let right = &nodes[usize::from(page.path().starts_with("/second/"))];
                assert_eq!(response.node(), right, "{figure:?} {}", page.path());
            }
        }
        assert!(cluster.counted("held_pipelined") > 0);
        cluster.stop();
    }
}

/// Routes by host, method and exact path: what one packet tells is decided in the kernel, an odd spelling
/// in user space, by the same rules.
#[test]
fn routes_of_every_kind() {
    let bed = Testbed::builder().figure(Figure::Seven).build();
    let files = DocRoot::shared();
    let page = Content::new("page", 2000);
    files.add(&page);
    let routes = [
        "host = \"img.example.com\"",
        "host = \"*.cdn.example.com\"",
        "path_exact = \"/none\"",
        "methods = [\"OPTIONS\"]\npath = \"/\"",
    ]
    .map(|what| format!("[[service.route]]\npool = \"second\"\n{what}\n"))
    .concat();
    let (pools, nodes) = two_pools(Figure::Seven, "", &routes);
    let cluster = Figure::Seven.start(&bed, WebServer::nginx, &files, &pools);
    let mut connection = Dial::new(cluster.service()).open(bed.client(0)).expect("answered");
    let path = page.path();
    for _ in 0..3 {
        for (line, host, second) in [
            (path.to_owned(), "img.example.com", true),
            (path.to_owned(), "www.example.com", false),
            (path.to_owned(), "IMG.example.com:80", true),
            (path.to_owned(), "a.cdn.example.com", true),
            (path.to_owned(), "cdn.example.com", false),
            (format!("//x/../{}", path.trim_start_matches('/')), "b.cdn.example.com", true),
            (format!("/%70{}", path.trim_start_matches("/p")), "www.example.com", false),
        ] {
            let node =
                request(&mut connection, &format!("GET {line} HTTP/1.1\r\nHost: {host}\r\n\r\n"), &page);
            assert_eq!(node, nodes[usize::from(second)], "{host}{line}");
        }
    }
    assert!(cluster.counted("moved") > 6);
    cluster.stop();
}

/// Keys that only user space can read: the same target is served by the same server.
#[test]
fn keys_of_every_kind() {
    for (key, field) in [
        ("query:id", "GET {path}?x=1&id={n} HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("header:x-id", "GET {path} HTTP/1.1\r\nHost: x\r\nX-Id: {n}\r\n\r\n"),
        ("cookie:id", "GET {path} HTTP/1.1\r\nHost: x\r\nCookie: a=b; id={n}\r\n\r\n"),
        ("path+query", "GET {path}?{n} HTTP/1.1\r\nHost: x\r\n\r\n"),
    ] {
        let bed = Testbed::builder().figure(Figure::Seven).build();
        let files = DocRoot::shared();
        let page = Content::new("page", 500);
        files.add(&page);
        let service = format!("policy = \"lard\"\np_http = \"move\"\nkey = {key:?}\n");
        let cluster = Figure::Seven.start(&bed, WebServer::nginx, &files, &service);
        let mut connection = Dial::new(cluster.service()).open(bed.client(0)).expect("answered");
        let mut served = vec![String::new(); 12];
        for round in 0..36 {
            let head = field.replace("{path}", page.path()).replace("{n}", &(round % 12).to_string());
            let node = request(&mut connection, &head, &page);
            let before = &mut served[round % 12];
            assert!(before.is_empty() || *before == node, "{key} {}: {before}, then {node}", round % 12);
            *before = node;
        }
        served.sort();
        served.dedup();
        assert!(served.len() > 1, "{key}: all targets on one server");
        cluster.stop();
    }
}

/// Extended LARD: while the disk of the server that has the connection is idle, its requests stay; when it
/// is busy they go to where the target is.
#[test]
fn extended_lard_minds_the_disk() {
    let bed = Testbed::builder().figure(Figure::Five).build();
    let files = DocRoot::shared();
    let pages: Vec<Content> = (0..12).map(|i| Content::new(&format!("p{i}"), 2000)).collect();
    pages.iter().for_each(|page| drop(files.add(page)));
    let pressure = files.write("pressure", "100");
    let service = "policy = \"lard\"\np_http = \"extended-lard\"\n";
    let config = Figure::Five
        .config(&bed, service)
        .replace("roles = [\"server\"]", &format!("roles = [\"server\"]\npressure_file = {pressure:?}"));
    assert!(config.contains("pressure_file"), "{config}");
    let cluster = Figure::Five.start_with(&bed, WebServer::nginx, &files, &config);
    let dial = Dial::new(cluster.service());
    std::thread::sleep(TOLD);
    // Each page by a connection of its own: LARD spreads them over the servers.
    let mut home = Vec::new();
    for page in &pages {
        home.push(dial.open(bed.client(0)).expect("answered").fetch(page).expect("served").node().to_owned());
    }
    let mut connection = dial.open(bed.client(0)).expect("answered");
    for (page, home) in pages.iter().zip(&home) {
        assert_eq!(connection.fetch(page).expect("served").node(), home, "a busy disk: {}", page.path());
    }
    let moved = cluster.counted("moved");
    assert!(moved > 0);

    fs::write(&pressure, "0").expect("a file of our own");
    std::thread::sleep(TOLD);
    let mut connection = dial.open(bed.client(0)).expect("answered");
    let here = connection.fetch(&pages[0]).expect("served").node().to_owned();
    for page in &pages {
        assert_eq!(connection.fetch(page).expect("served").node(), here, "an idle disk: {}", page.path());
    }
    assert_eq!(cluster.counted("moved"), moved);
    cluster.stop();
}

/// Connections of a pool that says so stay, whatever they ask for.
#[test]
fn stay_means_stay() {
    let bed = Testbed::builder().figure(Figure::Five).build();
    let files = DocRoot::shared();
    let pages: Vec<Content> = (0..12).map(|i| Content::new(&format!("p{i}"), 2000)).collect();
    pages.iter().for_each(|page| drop(files.add(page)));
    let cluster = Figure::Five.start(&bed, WebServer::nginx, &files, "policy = \"lard\"");
    let mut connection = Dial::new(cluster.service()).open(bed.client(0)).expect("answered");
    let here = connection.fetch(&pages[0]).expect("served").node().to_owned();
    for page in &pages {
        assert_eq!(connection.fetch(page).expect("served").node(), here);
    }
    assert_eq!(cluster.counted("moved"), 0);
    cluster.stop();
}

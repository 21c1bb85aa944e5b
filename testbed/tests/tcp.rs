//! Plain TCP through Baton: nothing is read of it, so load alone places it; and several services at once on
//! one cluster, each with its own protocol, servers and policy.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use baton_testbed::{
    Certificate, Cluster, Content, Dial, DocRoot, Figure, Host, Testbed, WebServer, wait_until,
};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(20);
/// Both have the same roles on different nodes; servers are b, c and d.
const FIGURES: [Figure; 2] = [Figure::Five, Figure::Seven];
const PORT: u16 = 7000;

/// A server that says its node's name once it has heard something, and then what it hears. It ends its
/// direction when the client has ended its own. Its threads end with their connections; the one that
/// accepts, with the test's process.
fn serve_echo(node: &Host, port: u16) {
    let listener = node.inside(|| TcpListener::bind(("::", port)).expect("a free port"));
    let name = node.name().to_owned();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let name = name.clone();
            thread::spawn(move || echo(stream, &name));
        }
    });
}

/// Until the client has ended; what goes wrong the client sees.
fn echo(mut stream: TcpStream, name: &str) -> std::io::Result<()> {
    let mut piece = vec![0; 64 * 1024];
    let mut begun = false;
    loop {
        let length = stream.read(&mut piece)?;
        if !begun {
            stream.write_all(name.as_bytes())?;
            begun = true;
        }
        if length == 0 {
            return stream.shutdown(Shutdown::Write);
        }
        stream.write_all(&piece[..length])?;
    }
}

fn vips(bed: &Testbed, figure: Figure) -> String {
    figure.vips(bed).iter().map(|vip| format!("\"{vip}\"")).collect::<Vec<_>>().join(", ")
}

/// The cluster file's further services; the first one is HTTP on port 80.
fn tcp_service(bed: &Testbed, figure: Figure, policy: &str) -> String {
    format!(
        "policy = \"wrr\"\n[[service]]\nname = \"plug\"\nvips = [{}]\nport = {PORT}\nprotocol = \"tcp\"\n\
         policy = \"{policy}\"\n",
        vips(bed, figure)
    )
}

fn with_cluster(policy: &str, work: impl Fn(&Testbed, &Cluster<'_>)) {
    with_clusters(&FIGURES, policy, work);
}

fn with_clusters(figures: &[Figure], policy: &str, work: impl Fn(&Testbed, &Cluster<'_>)) {
    for &figure in figures {
        let bed = Testbed::builder().figure(figure).build();
        let servers = bed.nodes().iter().enumerate().filter(|(i, _)| figure.has_role(*i, "server"));
        servers.for_each(|(_, node)| serve_echo(node, PORT));
        let cluster = figure.start_without_servers(&bed, Vec::new(), &tcp_service(&bed, figure, policy));
        work(&bed, &cluster);
        cluster.stop();
    }
}

fn open(bed: &Testbed, cluster: &Cluster<'_>) -> TcpStream {
    let dial = Dial::new((cluster.vips[0], PORT)).patience(SOON);
    dial.stream(bed.client(0)).expect("connected")
}

/// Says something, and hears which node it is.
fn node_of(stream: &mut TcpStream) -> String {
    stream.write_all(b"hello").expect("sent");
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).expect("answered");
    assert_eq!(&answer[1..], b"hello");
    String::from_utf8_lossy(&answer[..1]).into_owned()
}

fn spread(nodes: impl IntoIterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    nodes.into_iter().for_each(|node| *counts.entry(node).or_default() += 1);
    counts
}

#[test]
fn connections_go_where_least_is_done() {
    with_cluster("least-loaded", |bed, cluster| {
        let mut open: Vec<(String, TcpStream)> = Vec::new();
        for _ in 0..9 {
            let mut stream = self::open(bed, cluster);
            open.push((node_of(&mut stream), stream));
        }
        let nodes = spread(open.iter().map(|(node, _)| node.clone()));
        assert_eq!(nodes.keys().collect::<Vec<_>>(), ["b", "c", "d"], "{nodes:?}");
        assert_eq!(cluster.counted("held_ask"), 9);
        assert_eq!(cluster.counted("held_head") + cluster.counted("reader_adopted"), 0, "nothing is read");
        for (_, stream) in &mut open {
            stream.shutdown(Shutdown::Write).expect("a socket");
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).expect("an orderly end");
            assert_eq!(rest, b"");
        }
    });
}

#[test]
fn connections_take_turns() {
    with_cluster("wrr", |bed, cluster| {
        let nodes = spread((0..9).map(|_| node_of(&mut open(bed, cluster))));
        assert_eq!(nodes.keys().collect::<Vec<_>>(), ["b", "c", "d"], "{nodes:?}");
        // Each distributor has a rota of its own.
        let fair = cluster.figure != Figure::Five || nodes.values().all(|count| *count == 3);
        assert!(fair && cluster.counted("decided_rota") == 9, "{nodes:?}");
    });
}

/// 10 MB in each direction at once, of bytes that no protocol has; then each side ends its own.
#[test]
fn bytes_flow_both_ways_until_each_side_ends() {
    with_cluster("least-loaded", |bed, cluster| {
        const BYTES: usize = 10_000_000;
        let sent: Vec<u8> =
            (0..BYTES as u32).flat_map(|i| i.wrapping_mul(0x9e37_79b1).to_le_bytes()[..1].to_vec()).collect();
        let mut stream = open(bed, cluster);
        let mut sending = stream.try_clone().expect("a socket");
        let expected = sent.clone();
        let sender = thread::spawn(move || {
            sending.write_all(&sent).expect("sent");
            sending.shutdown(Shutdown::Write).expect("a socket");
        });
        let mut received = Vec::new();
        stream.read_to_end(&mut received).expect("an orderly end");
        sender.join().expect("all sent");
        assert!(["b", "c", "d"].iter().any(|node| received[..1] == *node.as_bytes()));
        assert!(received[1..] == expected, "{} bytes came back", received.len() - 1);
        wait_until(SOON, "end of the connection at its server", || cluster.counted("closed") == 1);
    });
}

/// First bytes that come with the end of the client's direction, and none at all.
#[test]
fn short_connections_end_as_they_should() {
    with_cluster("least-loaded", |bed, cluster| {
        for _ in 0..5 {
            let mut stream = open(bed, cluster);
            stream.write_all(b"x").expect("sent");
            stream.shutdown(Shutdown::Write).expect("a socket");
            let mut all = String::new();
            stream.read_to_string(&mut all).expect("an orderly end");
            assert!(all.len() == 2 && all.ends_with('x'), "{all:?}");
        }
        let mut stream = open(bed, cluster);
        stream.shutdown(Shutdown::Write).expect("a socket");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("an orderly end");
        assert_eq!(all, b"", "nobody has had it");
    });
}

/// HTTP on two ports with different servers and policies, TLS and TCP on one address.
#[test]
fn several_services_share_a_cluster() {
    for figure in FIGURES {
        let bed = Testbed::builder().figure(figure).build();
        let (files, page) = (DocRoot::shared(), Content::new("page", 20_000));
        files.add(&page);
        let other = "server { listen 8080; listen [::]:8080; add_header X-Node @NODE@ always; @SITE@ }";
        let servers = bed.nodes().iter().enumerate().filter(|(i, _)| figure.has_role(*i, "server"));
        let servers = servers.map(|(_, node)| {
            serve_echo(node, PORT);
            WebServer::secure_nginx(node, &files, &[Certificate::new(node, "www.example.org")], other)
        });
        let vips = vips(&bed, figure);
        let more = format!(
            r#"{}
[[service]]
name = "other"
vips = [{vips}]
port = 8080
[[service.pool]]
name = "other"
servers = ["c", "d"]
policy = "lard"
[[service]]
name = "secure"
vips = [{vips}]
port = 443
protocol = "tls"
[[service.pool]]
name = "secure"
servers = ["d"]
policy = "least-loaded"
"#,
            tcp_service(&bed, figure, "least-loaded")
        );
        let cluster = figure.start_without_servers(&bed, servers.collect(), &more);
        let (client, vip) = (bed.client(0), cluster.vips[0]);
        let fetch = |port: u16| {
            let dial = Dial::new((vip, port)).patience(SOON);
            let response = dial.open(client).and_then(|connection| connection.fetch_last(&page));
            response.expect("the page").node().to_owned()
        };
        let https = || {
            let to = format!("www.example.org:443:{}", cluster.host_in_url());
            let url = format!("https://www.example.org{}", page.path());
            let args = ["-sS", "-k", "--max-time", "10", "--resolve", &to, "-o", "/dev/null", "-w"];
            client.run("curl", args.into_iter().chain(["%header{x-node} %{size_download}", &url]))
        };
        let mut nodes: BTreeMap<u16, Vec<String>> = BTreeMap::new();
        for _ in 0..6 {
            nodes.entry(80).or_default().push(fetch(80));
            nodes.entry(8080).or_default().push(fetch(8080));
            nodes.entry(PORT).or_default().push(node_of(&mut open(&bed, &cluster)));
            assert_eq!(https(), "d 20000", "{figure:?}");
        }
        let nodes: BTreeMap<u16, _> = nodes.into_iter().map(|(port, nodes)| (port, spread(nodes))).collect();
        assert!(nodes[&80].len() > 1, "turns: {nodes:?}");
        assert_eq!(nodes[&8080].len(), 1, "one page, one server: {nodes:?}");
        assert!(!nodes[&8080].contains_key("b"), "{nodes:?}");
        assert_eq!(nodes[&PORT].values().sum::<usize>(), 6);
        cluster.stop();
    }
}

/// While the distributor's daemon does nothing, TCP connections take turns without being asked for; and
/// connections that have a server go on.
#[test]
fn a_silent_daemon_stops_nothing() {
    with_clusters(&[Figure::Five], "least-loaded", |bed, cluster| {
        let mut before = open(bed, cluster);
        let node = node_of(&mut before);
        let silent = || cluster.batons.iter().map(baton_testbed::Baton::process);
        silent().for_each(|process| process.signal(Signal::SIGSTOP));
        let nodes = spread((0..6).map(|_| node_of(&mut open(bed, cluster))));
        assert!(nodes.len() > 1, "{nodes:?}");
        before.write_all(b"more").expect("sent");
        let mut answer = [0; 4];
        before.read_exact(&mut answer).expect("answered");
        assert_eq!((&answer, node.len()), (b"more", 1));
        silent().for_each(|process| process.signal(Signal::SIGCONT));
        cluster.wait_formed();
        assert!(cluster.counted("decided_alone") >= 6);
    });
}

/// A distributor that its switch may have given up decides nothing. Who has a server goes on, who comes waits, and
/// nobody is refused.
#[test]
fn silent_daemons_behind_a_switch_delay_who_comes() {
    with_clusters(&[Figure::Seven], "least-loaded", |bed, cluster| {
        let mut before = open(bed, cluster);
        node_of(&mut before);
        let daemons = || cluster.batons.iter().map(baton_testbed::Baton::process);
        daemons().for_each(|process| process.signal(Signal::SIGSTOP));
        thread::sleep(Duration::from_secs(3));
        thread::scope(|scope| {
            let comes = scope.spawn(|| node_of(&mut open(bed, cluster)));
            before.write_all(b"more").expect("sent");
            let mut answer = [0; 4];
            before.read_exact(&mut answer).expect("answered");
            assert_eq!(&answer, b"more");
            thread::sleep(Duration::from_secs(1));
            assert!(!comes.is_finished(), "nobody may decide it");
            daemons().for_each(|process| process.signal(Signal::SIGCONT));
            assert_eq!(comes.join().expect("no panic").len(), 1);
        });
        cluster.wait_formed();
        assert_eq!(cluster.counted("reset_no_distributor"), 0);
    });
}

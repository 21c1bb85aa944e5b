//! Servers that do not work, though their nodes are well: nobody listens, a firewall drops or rejects, NAT leads
//! elsewhere, the web server hangs, another program has the port, handoff packets are lost. Each loses its share within
//! seconds, is named with what was seen, and gets its share back; a slow one, or one with bad clients, loses nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, TcpListener};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use baton_testbed::{Cluster, Content, Dial, DocRoot, Figure, Host, Process, Testbed, WebServer};
use nix::sys::signal::Signal;

/// Until a doubt is told, or has ended.
const SOON: Duration = Duration::from_secs(40);
/// A client's, of which each request to a server that does not work takes as much.
const PATIENCE: Duration = Duration::from_secs(1);
const FAILED: &str = "failed";

type Counts = BTreeMap<String, usize>;

fn ask(bed: &Testbed, cluster: &Cluster<'_>, page: &Content) -> String {
    ask_as(bed.client(0), cluster, page)
}

fn ask_as(client: &Host, cluster: &Cluster<'_>, page: &Content) -> String {
    let connection = Dial::new(cluster.service()).patience(PATIENCE).open(client);
    let response = connection.and_then(|connection| connection.fetch_last(page));
    response.map_or_else(|_| FAILED.to_owned(), |response| response.node().to_owned())
}

/// So many requests, some at once, each on its own connection: who answered how many.
fn burst(bed: &Testbed, cluster: &Cluster<'_>, page: &Content, requests: usize) -> Counts {
    burst_as(bed.client(0), cluster, page, requests)
}

fn burst_as(client: &Host, cluster: &Cluster<'_>, page: &Content, requests: usize) -> Counts {
    let mut counts = Counts::new();
    thread::scope(|scope| {
        let one = || (0..requests / 4).map(|_| ask_as(client, cluster, page)).collect::<Vec<_>>();
        let askers: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
        for node in askers.into_iter().flat_map(|asker| asker.join().expect("it asks")) {
            *counts.entry(node).or_default() += 1;
        }
    });
    counts
}

/// The doubts of all nodes: about whom, and what was seen.
fn doubts(cluster: &Cluster<'_>) -> BTreeMap<String, String> {
    let status = cluster.baton("a").status();
    let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
    let all = nodes.iter().flat_map(|node| node["doubts"].as_array().cloned().unwrap_or_default());
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    all.map(|doubt| (text(&doubt["server"]), text(&doubt["seen"]))).collect()
}

/// Clients ask until just these servers are doubted.
#[track_caller]
fn wait_doubted(bed: &Testbed, cluster: &Cluster<'_>, page: &Content, expected: &[(&str, &str)]) {
    let is_so = |found: &BTreeMap<String, String>| {
        found.len() == expected.len()
            && expected.iter().all(|(node, seen)| found.get(*node).is_some_and(|text| text.contains(seen)))
    };
    let until = Instant::now() + SOON;
    while !is_so(&doubts(cluster)) {
        assert!(Instant::now() < until, "expected {expected:?}, found {:?}", doubts(cluster));
        burst(bed, cluster, page, 8);
    }
}

/// Doubted servers get next to nothing, and the others all the rest; it is said by whom and why.
#[track_caller]
fn avoided(bed: &Testbed, cluster: &Cluster<'_>, page: &Content, expected: &[(&str, &str)]) {
    wait_doubted(bed, cluster, page, expected);
    let counts = burst(bed, cluster, page, 120);
    let failed = counts.get(FAILED).copied().unwrap_or(0);
    // Of its third each has what is tried: ever less.
    assert!(failed <= 5 * expected.len(), "{expected:?}: {counts:?}");
    assert!(expected.iter().all(|(node, _)| !counts.contains_key(*node)), "{counts:?}");
}

/// All servers are trusted, and have their shares.
#[track_caller]
fn shared(bed: &Testbed, cluster: &Cluster<'_>, page: &Content) {
    wait_doubted(bed, cluster, page, &[]);
    let counts = burst(bed, cluster, page, 60);
    assert!(["b", "c", "d"].iter().all(|node| counts.get(*node).is_some_and(|n| *n >= 12)), "{counts:?}");
    assert!(!counts.contains_key(FAILED), "{counts:?}");
}

fn bed() -> (Testbed, DocRoot, Content) {
    let bed = Testbed::builder().figure(Figure::Five).clients(2).build();
    let (files, page) = (DocRoot::shared(), Content::new("page", 3000));
    files.add(&page);
    (bed, files, page)
}

/// The whole process group.
fn signal(host: &Host, process: &Process, signal: Signal) {
    host.run("kill", ["-s", signal.as_str().trim_start_matches("SIG"), "--", &format!("-{}", process.id())]);
}

fn rule(host: &Host, hook: &str, rule: &str) {
    host.run("nft", [format!("table inet sick {{ chain c {{ type {hook}; {rule}; }}; }}").as_str()]);
}

fn no_rule(host: &Host) {
    host.run("nft", ["delete table inet sick"]);
}

const INPUT: &str = "filter hook input priority 0";

#[test]
fn nobody_listens_or_a_firewall_drops() {
    let (bed, files, page) = bed();
    let mut cluster = Figure::Five.start(&bed, WebServer::nginx, &files, "policy = \"wrr\"");
    shared(&bed, &cluster, &page);
    drop(cluster.servers.remove(0));
    rule(bed.node(2), INPUT, "tcp dport 80 drop");
    let sick = [("b", "nobody listens"), ("c", "never begin")];
    avoided(&bed, &cluster, &page, &sick);
    cluster.servers.push(WebServer::nginx(bed.node(1), &files));
    no_rule(bed.node(2));
    shared(&bed, &cluster, &page);
    cluster.stop();
}

#[test]
fn a_firewall_rejects_or_nat_leads_elsewhere() {
    let (bed, files, page) = bed();
    let cluster = Figure::Five.start(&bed, WebServer::nginx, &files, "policy = \"lard\"");
    rule(bed.node(1), INPUT, "tcp dport 80 reject with tcp reset");
    let elsewhere = match bed.node(2).address() {
        IpAddr::V4(_) => "ip daddr 10.99.0.0/16 tcp dport 80 dnat ip to 172.17.0.2",
        IpAddr::V6(_) => "tcp dport 80 dnat ip6 to fd00:17::2",
    };
    rule(bed.node(2), "nat hook prerouting priority -100", elsewhere);
    let all: Vec<Content> = (0..60).map(|n| Content::new(&format!("page{n}"), 900)).collect();
    for content in &all {
        files.add(content);
    }
    let until = Instant::now() + SOON;
    // Targets of all servers.
    while doubts(&cluster).len() < 2 {
        assert!(Instant::now() < until, "{:?}", doubts(&cluster));
        thread::scope(|scope| {
            for content in all.iter().step_by(5) {
                scope.spawn(|| ask(&bed, &cluster, content));
            }
        });
    }
    let failed = AtomicUsize::new(0);
    let left = Mutex::new(all.iter());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(content) = { left.lock().expect("whole").next() } {
                    let works = ask(&bed, &cluster, content) == "d";
                    failed.fetch_add(usize::from(!works), Ordering::Relaxed);
                }
            });
        }
    });
    let failed = failed.into_inner();
    assert!(failed <= 10, "targets go to the one that works: {failed} of {} did not", all.len());
    avoided(&bed, &cluster, &page, &[("b", "reset before any answer"), ("c", "never begin")]);
    no_rule(bed.node(1));
    no_rule(bed.node(2));
    wait_doubted(&bed, &cluster, &page, &[]);
    cluster.stop();
}

/// A web server that takes a while until it answers, and one that a firewall keeps from one client: both work.
#[test]
fn slow_servers_and_bad_clients_raise_no_doubt() {
    let (bed, files, page) = bed();
    let listener = bed.node(1).inside(|| TcpListener::bind(("::", 80)).expect("the port is free"));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Longer than any client of this test waits.
            thread::spawn(move || (thread::sleep(Duration::from_secs(20)), drop(stream)));
        }
    });
    let servers = [2, 3].map(|node| WebServer::nginx(bed.node(node), &files)).into();
    let cluster = Figure::Five.start_without_servers(&bed, servers, "policy = \"wrr\"");
    let (bad, good) = (bed.client(1), bed.client(0));
    let family = if bad.address().is_ipv4() { "ip" } else { "ip6" };
    rule(bed.node(2), INPUT, &format!("{family} saddr {} tcp dport 80 drop", bad.address()));
    let (mut slow, mut never) = (0, 0);
    thread::scope(|scope| {
        let bad = scope.spawn(|| (0..12).filter(|_| ask_as(bad, &cluster, &page) == FAILED).count());
        while !bad.is_finished() {
            slow += usize::from(burst_as(good, &cluster, &page, 12).contains_key(FAILED));
            assert!(doubts(&cluster).is_empty(), "{:?}", doubts(&cluster));
        }
        never = bad.join().expect("it asks");
    });
    assert!(slow >= 2 && never >= 4, "nothing was slow, or nobody was kept out: {slow}, {never}");
    no_rule(bed.node(2));
    cluster.stop();
}

/// The queue of connections that its web server has yet to accept is short at `b`.
fn short_queue(host: &Host, files: &DocRoot) -> WebServer {
    if host.name() == "b" {
        host.sysctl("net.core.somaxconn", "2");
    }
    WebServer::nginx(host, files)
}

/// The web server hangs, and its queue is full; the link to another loses what wraps a packet.
#[test]
fn a_web_server_hangs_or_handoffs_are_lost() {
    let (bed, files, page) = bed();
    let cluster = Figure::Five.start(&bed, short_queue, &files, "policy = \"wrr\"");
    signal(bed.node(1), cluster.servers[0].process(), Signal::SIGSTOP);
    let (family, ip) = match (bed.network().is_routed(), bed.node(2).address()) {
        (true, IpAddr::V4(_)) => ("inet", "ip"),
        (true, IpAddr::V6(_)) => ("inet", "ip6"),
        (false, IpAddr::V4(_)) => ("bridge", "ip"),
        (false, IpAddr::V6(_)) => ("bridge", "ip6"),
    };
    let lost = format!("{ip} daddr {} udp dport 6081 drop", bed.node(2).address());
    let chain = "type filter hook forward priority 0";
    bed.router().run("nft", [format!("table {family} sick {{ chain c {{ {chain}; {lost}; }}; }}").as_str()]);
    avoided(&bed, &cluster, &page, &[("b", "never begin"), ("c", "never arrive")]);
    signal(bed.node(1), cluster.servers[0].process(), Signal::SIGCONT);
    bed.router().run("nft", [format!("delete table {family} sick").as_str()]);
    shared(&bed, &cluster, &page);
    cluster.stop();
}

/// The web server hangs, and its queue has room: its kernel takes whoever comes.
#[test]
fn a_web_server_hangs_and_its_queue_has_room() {
    let (bed, files, page) = bed();
    let cluster = Figure::Five.start(&bed, WebServer::nginx, &files, "policy = \"wrr\"");
    signal(bed.node(1), cluster.servers[0].process(), Signal::SIGSTOP);
    avoided(&bed, &cluster, &page, &[("b", "takes none")]);
    signal(bed.node(1), cluster.servers[0].process(), Signal::SIGCONT);
    shared(&bed, &cluster, &page);
    cluster.stop();
}

/// All servers of the pool are sick: who asks is served as soon as one works, and until then all are tried.
#[test]
fn when_all_are_doubted_all_are_tried() {
    let (bed, files, page) = bed();
    let mut cluster = Figure::Five.start(&bed, WebServer::nginx, &files, "policy = \"wrr\"");
    cluster.servers.clear();
    let nobody = "nobody listens";
    wait_doubted(&bed, &cluster, &page, &[("b", nobody), ("c", nobody), ("d", nobody)]);
    cluster.servers.push(WebServer::nginx(bed.node(3), &files));
    wait_doubted(&bed, &cluster, &page, &[("b", nobody), ("c", nobody)]);
    avoided(&bed, &cluster, &page, &[("b", nobody), ("c", nobody)]);
    cluster.stop();
}

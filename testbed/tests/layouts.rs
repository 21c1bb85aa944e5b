//! Layouts of real networks: nodes with a private and a public interface, two interfaces on one link, a router that
//! answers ARP for everybody.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use baton_testbed::{
    Baton, Capture, Cluster, Content, Dial, DocRoot, Figure, Network, Testbed, WebServer, counted,
    node_status, wait_until,
};

const SOON: Duration = Duration::from_secs(15);
const SHORT: Duration = Duration::from_secs(2);

fn number(baton: &Baton<'_>, what: &str) -> u64 {
    node_status(&baton.status(), baton.host().name())[what].as_u64().unwrap_or(0)
}

/// Requests one after the other, each on a connection of its own: the nodes that have answered.
#[track_caller]
fn answered_by(bed: &Testbed, to: SocketAddr, page: &Content, how_many: usize) -> BTreeSet<String> {
    let ask = |n| {
        let asked = Dial::new(to).patience(SOON).open(bed.client(0)).and_then(|c| c.fetch_last(page));
        asked.unwrap_or_else(|fault| panic!("request {n} of {how_many}: {fault:?}")).node().to_owned()
    };
    (0..how_many).map(ask).collect()
}

fn page(files: &DocRoot) -> Content {
    let page = Content::new("page", 30_000);
    files.add(&page);
    page
}

/// All that the servers have answered has been seen: connections have ended, bytes are counted.
#[track_caller]
fn all_seen(cluster: &Cluster<'_>, servers: &[&str], requests: u64) {
    let sum = |what: &str| servers.iter().map(|name| number(cluster.baton(name), what)).sum::<u64>();
    assert_eq!(sum("adopted"), requests);
    wait_until(SOON, "the ends of all connections", || sum("closed") == requests && sum("serving") == 0);
    assert!(sum("bytes_served") > requests * 30_000);
}

/// The usual layout of direct return: requests come by the private interface, answers leave by the public one. LARD
/// keeps its locality, as servers see what they answer.
#[test]
fn servers_whose_answers_leave_by_another_interface() {
    let bed = Testbed::builder().figure(Figure::Five).build();
    for server in 1..4 {
        bed.second_network(server);
        bed.default_route_by(server, "eth1");
    }
    let files = DocRoot::shared();
    let page = page(&files);
    let cluster = Figure::Five.start(&bed, WebServer::nginx, &files, "policy = \"lard\"");
    assert_eq!(answered_by(&bed, cluster.service(), &page, 60).len(), 1, "one page, one server");
    all_seen(&cluster, &["b", "c", "d"], 60);
    let sent: u64 = (1..4).map(|server| bed.node(server).counters("eth1").tx_bytes).sum();
    assert!(sent > 60 * 30_000, "answers have left by eth1: {sent} bytes");
    cluster.stop();
}

/// The same, but the route changes under running daemons, there and back.
#[test]
fn routes_that_change_are_followed() {
    let bed = Testbed::builder().figure(Figure::Five).build();
    (1..4).for_each(|server| bed.second_network(server));
    let files = DocRoot::shared();
    let page = page(&files);
    let cluster = Figure::Five.start(&bed, WebServer::nginx, &files, "policy = \"lard\"");
    let mut requests = 0;
    for interface in ["eth0", "eth1", "eth0"] {
        let before = ["b", "c", "d"].map(|name| host_count(cluster.baton(name), "followed"));
        (1..4).for_each(|server| bed.default_route_by(server, interface));
        if interface == "eth1" {
            wait_until(SOON, "the other interface is attached to", || {
                let now = ["b", "c", "d"].map(|name| host_count(cluster.baton(name), "followed"));
                now.iter().zip(&before).all(|(now, before)| now > before)
            });
        }
        assert_eq!(answered_by(&bed, cluster.service(), &page, 30).len(), 1, "by {interface}");
        requests += 30;
        all_seen(&cluster, &["b", "c", "d"], requests);
    }
    cluster.stop();
}

fn host_count(baton: &Baton<'_>, what: &str) -> u64 {
    node_status(&baton.status(), baton.host().name())["host"][what].as_u64().unwrap_or(0)
}

/// Distributors behind a switch, default routes by the other interface: handshakes and refusals leave by the node's own
/// routes.
#[test]
fn distributors_whose_answers_leave_by_another_interface() {
    let bed = Testbed::builder().figure(Figure::Seven).build();
    for node in 1..4 {
        bed.second_network(node);
        bed.default_route_by(node, "eth1");
    }
    let files = DocRoot::shared();
    let page = page(&files);
    let mut cluster = Figure::Seven.start(&bed, WebServer::nginx, &files, "policy = \"wrr\"");
    assert_eq!(answered_by(&bed, cluster.service(), &page, 30).len(), 3);
    all_seen(&cluster, &["b", "c", "d"], 30);
    // A refusal too: nobody listens any more.
    cluster.servers.clear();
    let capture = Capture::start(bed.client(0), 80);
    let refused =
        Dial::new(cluster.service()).patience(SOON).open(bed.client(0)).and_then(|c| c.fetch_last(&page));
    assert!(refused.is_err());
    let seen = capture.stop();
    assert!(seen.from_servers().resets > 0, "told at once: {refused:?}");
    cluster.stop();
}

/// All nodes' answers leave by the second interface, because rules send packets from the VIP, or from the service's port, to
/// a table of its own; the main table knows nothing of that interface. Then the rule goes, and comes, while daemons run.
fn by_rules(figure: Figure, rule: impl Fn(&Testbed) -> String) {
    let bed = Testbed::builder().figure(figure).build();
    let rule = rule(&bed);
    for node in 1..4 {
        bed.second_network(node);
        bed.table_by_second(node, &rule);
    }
    let files = DocRoot::shared();
    let page = page(&files);
    let mut cluster = figure.start(&bed, WebServer::nginx, &files, "policy = \"lard\"");
    let sent = |by: &str| (1..4).map(|node| bed.node(node).counters(by).tx_bytes).sum::<u64>();
    let (before, private) = (sent("eth1"), sent("eth0"));
    assert_eq!(answered_by(&bed, cluster.service(), &page, 30).len(), 1, "one page, one server");
    all_seen(&cluster, &["b", "c", "d"], 30);
    assert!(sent("eth1") - before > 30 * 30_000, "answers have left by eth1");
    assert!(sent("eth0") - private < 10 * 30_000, "and by it alone");
    // A refusal too: nobody listens any more.
    cluster.servers.clear();
    let capture = Capture::start(bed.client(0), 80);
    let refused =
        Dial::new(cluster.service()).patience(SOON).open(bed.client(0)).and_then(|c| c.fetch_last(&page));
    assert!(refused.is_err());
    assert!(capture.stop().from_servers().resets > 0, "told at once: {refused:?}");
    cluster.stop();
}

#[test]
fn servers_and_a_rule_by_source() {
    by_rules(Figure::Five, |bed| format!("from {}", bed.vip(0)));
}

#[test]
fn distributors_and_a_rule_by_source() {
    by_rules(Figure::Seven, |bed| format!("from {}", bed.vip(0)));
}

#[test]
fn distributors_and_a_rule_by_port() {
    by_rules(Figure::Seven, |_| "ipproto tcp sport 80".to_owned());
}

/// No default route matters to the clients' network: a longer one leads there by the other interface. It comes while the
/// daemons run, and where the default route had led is nothing.
#[test]
fn a_longer_route_to_the_clients() {
    let bed = Testbed::builder().figure(Figure::Seven).build();
    (1..4).for_each(|node| bed.second_network(node));
    let files = DocRoot::shared();
    let page = page(&files);
    let cluster = Figure::Seven.start(&bed, WebServer::nginx, &files, "policy = \"wrr\"");
    let before = ["b", "c", "d"].map(|name| host_count(cluster.baton(name), "followed"));
    (1..4).for_each(|node| bed.clients_by_second(node));
    wait_until(SOON, "the other interface is attached to", || {
        let now = ["b", "c", "d"].map(|name| host_count(cluster.baton(name), "followed"));
        now.iter().zip(&before).all(|(now, before)| now > before)
    });
    if !bed.network().is_routed() {
        let ip = if cluster.vips[0].is_ipv6() { "-6" } else { "-4" };
        for node in 1..4 {
            bed.node(node).ip(&format!("{ip} route del default"));
            bed.node(node).ip(&format!("{ip} route add unreachable default"));
        }
    }
    assert_eq!(answered_by(&bed, cluster.service(), &page, 30).len(), 3);
    all_seen(&cluster, &["b", "c", "d"], 30);
    cluster.stop();
}

/// The node that announces has a second interface on the same link: only the one that holds the VIP answers for it.
#[test]
fn two_interfaces_on_one_link() {
    let network = Network::from_environment().on_one_link();
    let bed = Testbed::builder().figure(Figure::Five).network(network).build();
    bed.second_on_link(0, 99);
    let files = DocRoot::shared();
    let page = page(&files);
    let cluster = Figure::Five.start(&bed, WebServer::nginx, &files, "policy = \"wrr\"");
    for _ in 0..24 {
        bed.router().ip("neigh flush dev br0");
        answered_by(&bed, cluster.service(), &page, 1);
        let entry = bed.router().ip(&format!("neigh show {}", cluster.vips[0]));
        assert!(entry.contains("02:00:0a:01:00:0a"), "eth0's: {entry}");
    }
    // A router that sends to the other one all the same is not served in silence, past the programs.
    let front = cluster.baton("a");
    let mac = bed.node(0).ip("-o link show eth1");
    let mac = mac.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a MAC address");
    bed.router().ip(&format!("neigh replace {} lladdr {mac} dev br0 nud permanent", cluster.vips[0]));
    let capture = Capture::start(bed.client(0), 80);
    let asked = Dial::new(cluster.service()).patience(SHORT).open(bed.client(0));
    assert!(asked.is_err(), "nobody answers there");
    assert_eq!(capture.stop().resets(), 0);
    assert!(counted(front, "drop_unattended") > 0);
    bed.router().ip(&format!("neigh del {} dev br0", cluster.vips[0]));
    answered_by(&bed, cluster.service(), &page, 6);
    cluster.stop();
}

/// An interface that comes while the daemon runs, on the same link.
#[test]
fn an_interface_that_comes_later_on_the_same_link() {
    let network = Network::from_environment().on_one_link();
    let bed = Testbed::builder().figure(Figure::Five).network(network).build();
    let files = DocRoot::shared();
    let page = page(&files);
    let cluster = Figure::Five.start(&bed, WebServer::nginx, &files, "policy = \"wrr\"");
    bed.second_on_link(0, 99);
    if cluster.vips[0].is_ipv4() {
        wait_until(SOON, "the setting", || {
            bed.node(0).run("sysctl", ["-n", "net.ipv4.conf.all.arp_ignore"]).trim() == "1"
        });
    }
    for _ in 0..12 {
        bed.router().ip("neigh flush dev br0");
        answered_by(&bed, cluster.service(), &page, 1);
    }
    cluster.stop();
}

/// A router that answers ARP for everybody, as in clouds: all nodes have its MAC address. What goes to another node is
/// wrapped, so that it is that node's.
#[test]
fn a_router_that_answers_for_all() {
    let bed = Testbed::builder().figure(Figure::Five).network(Network::IPV4).build();
    let files = DocRoot::shared();
    let mega = Content::new("mega", 1_000_000);
    files.add(&mega);
    let config = Figure::Five.config(&bed, "policy = \"wrr\"");
    bed.proxy_arp(bed.vip(0));
    let cluster = Figure::Five.start_with(&bed, WebServer::nginx, &files, &config);
    bed.router().ip(&format!("route replace {}/32 dev to-a", bed.vip(0)));
    let front = cluster.baton("a");
    wait_until(SOON, "the front to wrap", || {
        let log = std::fs::read_to_string(front.process().log()).unwrap_or_default();
        log.contains("have changed (routed: wrapped for them) routed=3")
    });
    let circled = counted(front, "drop_ttl");
    assert_eq!(answered_by(&bed, cluster.service(), &mega, 9).len(), 3);
    assert_eq!(counted(front, "drop_ttl"), circled, "no packet has come back");
    assert!(counted(front, "forwarded_binding") > 0);
    let told = front.doctor();
    assert!(told.contains("ok       proxy-arp            b, c, d seem to be on this link"), "{told}");
    cluster.stop();
}

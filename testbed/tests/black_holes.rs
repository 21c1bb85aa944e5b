//! Links that carry less than both ends believe, and say nothing of what they drop: found by probes, shown, and requests
//! with heads of any size are answered.

use std::time::Duration;

use baton_testbed::{
    Baton, Cluster, Connection, Content, Dial, DocRoot, Figure, Packets, Testbed, WebServer, node_status,
    wait_until,
};

const SOON: Duration = Duration::from_secs(30);
/// Where handoff packets go unless the cluster file says otherwise.
const HANDOFF_PORT: u16 = 6081;
/// Bytes of a header that says nothing: each way of getting one, some, or none too many into a packet of 1400 or 1500 bytes.
const PADDING: [usize; 14] = [0, 900, 1000, 1100, 1150, 1200, 1220, 1240, 1270, 1290, 1310, 1400, 3000, 6000];

fn bed(figure: Figure) -> (Testbed, DocRoot, Content) {
    let bed = Testbed::builder().figure(figure).without_offloads().build();
    let (files, page) = (DocRoot::shared(), Content::new("page", 20_000));
    files.add(&page);
    (bed, files, page)
}

fn head(content: &Content, padding: usize) -> Vec<u8> {
    let filler = "y".repeat(padding);
    format!("GET {} HTTP/1.1\r\nHost: x\r\nX: {filler}\r\n\r\n", content.path()).into_bytes()
}

#[track_caller]
fn ask(connection: &mut Connection, content: &Content, padding: usize, what: &str) -> String {
    connection.send(&head(content, padding)).expect("sent");
    let response = connection.response_of(content);
    response.unwrap_or_else(|fault| panic!("{what}: a header of {padding} bytes: {fault}")).node().to_owned()
}

/// A request of each size, each on a connection of its own.
#[track_caller]
fn all_sizes(bed: &Testbed, cluster: &Cluster<'_>, page: &Content, what: &str) {
    for padding in PADDING {
        let dial = Dial::new(cluster.service()).patience(SOON);
        let mut connection = dial.open(bed.client(0)).expect("a connection");
        ask(&mut connection, page, padding, what);
    }
}

fn path_mtu(baton: &Baton<'_>, to: &str) -> Option<u64> {
    let status = baton.status();
    let connections = node_status(&status, baton.host().name())["connections"].clone();
    connections.as_array()?.iter().find(|connection| connection["peer"] == to)?["path_mtu"].as_u64()
}

/// What `baton status` has to say in its verdict.
fn told(cluster: &Cluster<'_>, kind: &str) -> Vec<String> {
    let verdict = cluster.baton("a").status()["verdict"].clone();
    let all = verdict[kind].as_array().expect("an array");
    all.iter().map(|one| one["what"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Waits until each node has found so much to each other one that `narrow` says to be narrow, else all.
#[track_caller]
fn found(cluster: &Cluster<'_>, bytes: u64, narrow: impl Fn(&str, &str) -> bool) {
    for one in &cluster.batons {
        for other in &cluster.batons {
            let (from, to) = (one.host().name(), other.host().name());
            if from != to {
                let expected = if narrow(from, to) { bytes } else { 1500 };
                wait_until(SOON, &format!("path MTU of {expected} from {from} to {to}"), || {
                    path_mtu(one, to) == Some(expected)
                });
            }
        }
    }
}

/// As it was found: a switch port at 1400, while all interfaces say 1500; it begins while the cluster runs, and ends.
#[test]
fn a_link_carries_less_than_it_says() {
    for figure in [Figure::Five, Figure::Seven] {
        let (bed, files, page) = bed(figure);
        let cluster = figure.start(&bed, WebServer::nginx, &files, "policy = \"wrr\"\n");
        found(&cluster, 1500, |_, _| false);
        all_sizes(&bed, &cluster, &page, "without a hole");
        let mut before =
            Dial::new(cluster.service()).patience(SOON).open(bed.client(0)).expect("a connection");
        let hole = bed.lose(100.0, Packets::LargerThan { bytes: 1400, to: None, but_from: None });
        // As large as the handshake allowed: nobody has told the client.
        ask(&mut before, &page, 1290, "open since before the hole");
        found(&cluster, 1400, |_, _| true);
        let warned = told(&cluster, "warnings");
        assert!(
            warned.len() == 1 && warned[0].contains("1400 bytes, though the interfaces carry 1500"),
            "{warned:?}"
        );
        let lost = hole.lost();
        assert!(lost > 0, "nothing was too large");
        all_sizes(&bed, &cluster, &page, "with a hole");
        drop(hole);
        found(&cluster, 1500, |_, _| false);
        assert_eq!(told(&cluster, "warnings"), [""; 0]);
        all_sizes(&bed, &cluster, &page, "without it again");
        cluster.stop();
    }
}

/// Only the way to one server is narrow, and only there: the others are not disturbed, and it gets its share.
#[test]
fn one_way_is_narrow() {
    let figure = Figure::Five;
    let (bed, files, page) = bed(figure);
    let narrow = bed.node(2).name().to_owned();
    let hole =
        bed.lose(100.0, Packets::LargerThan { bytes: 1331, to: Some(bed.node(2).address()), but_from: None });
    let cluster = figure.start(&bed, WebServer::nginx, &files, "policy = \"wrr\"\n");
    found(&cluster, 1331, |_, to| to == narrow);
    for _ in 0..3 {
        all_sizes(&bed, &cluster, &page, "with a hole");
    }
    assert!(hole.lost() > 0);
    cluster.stop();
}

/// Nothing of the handoff port gets to one server, from the moment when something between the nodes begins to sort by
/// port; its control connections are up. Status says so, and has the exit code for it.
#[test]
fn handoffs_do_not_arrive() {
    let figure = Figure::Five;
    let (bed, files, _) = bed(figure);
    let cluster = figure.start(&bed, WebServer::nginx, &files, "policy = \"wrr\"\n");
    found(&cluster, 1500, |_, _| false);
    assert_eq!(told(&cluster, "problems"), [""; 0]);
    let hole = bed.lose(100.0, Packets::Datagrams { port: HANDOFF_PORT, to: bed.node(2).address() });
    let what = "no handoff packet from a arrives at c";
    wait_until(SOON, "a verdict", || told(&cluster, "problems").iter().any(|told| told.starts_with(what)));
    assert_eq!(told(&cluster, "problems").len(), 1);
    drop(hole);
    wait_until(SOON, "well again", || told(&cluster, "problems").is_empty());
    cluster.stop();
}

/// The hole is between servers alone, between which connections move: who answers handshakes hears of it from them.
#[test]
fn servers_hand_on_through_a_hole() {
    let figure = Figure::Five;
    let (bed, files, page) = bed(figure);
    let other = Content::new("second/page", 20_000);
    files.add(&other);
    let mut service = String::new();
    for (pool, node) in [("first", 1), ("second", 2)] {
        service += &format!(
            "[[service.pool]]\nname = {pool:?}\nservers = [{:?}]\npolicy = \"lard\"\n",
            bed.node(node).name()
        );
    }
    service += "[[service.route]]\npool = \"second\"\npath = \"/second/\"\n";
    let cluster = figure.start(&bed, WebServer::nginx, &files, &service);
    let mut before = Dial::new(cluster.service()).patience(SOON).open(bed.client(0)).expect("a connection");
    ask(&mut before, &page, 0, "before");
    let front = bed.node(0).name();
    let but_from = Some(bed.node(0).address());
    let holes =
        (1..4).map(|node| Packets::LargerThan { bytes: 1400, to: Some(bed.node(node).address()), but_from });
    let _holes: Vec<_> = holes.map(|hole| bed.lose(100.0, hole)).collect();
    found(&cluster, 1400, |from, to| from != front && to != front);
    for padding in PADDING {
        let served = ask(&mut before, &other, padding, "open since before the hole");
        assert_eq!(served, bed.node(2).name());
        assert_eq!(ask(&mut before, &page, padding, "and back"), bed.node(1).name());
        let mut new = Dial::new(cluster.service()).patience(SOON).open(bed.client(0)).expect("a connection");
        ask(&mut new, &page, padding, "new");
        assert_eq!(ask(&mut new, &other, padding, "moves"), bed.node(2).name());
    }
    cluster.stop();
}

//! Wall clocks that are far apart, or are set while the daemons run: nothing comes of it but that status and log say so.

use std::time::Duration;

use baton_testbed::{
    Baton, Cluster, Connection, Content, Dial, DocRoot, Figure, Testbed, WebServer, node_status, wait_until,
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
/// Less than a closed connection is remembered for, or a handoff packet is good for.
const NOW: Duration = Duration::from_secs(5);
/// Not among those that the kernel chooses itself: other connections of the test would have one of them.
const FIRST_PORT: u16 = 24_000;
const PORTS: u16 = 8;
/// Connections take turns, and move for a path of their own.
const SERVICE: &str = "policy = \"wrr\"\n";
const HOUR: i64 = 3600;

fn page() -> (DocRoot, Content) {
    let (files, page) = (DocRoot::shared(), Content::new("page", 1000));
    files.add(&page);
    (files, page)
}

/// A request by each of these ports; the client ends the connection by a RST, and may use its port again at once.
fn use_ports(bed: &Testbed, cluster: &Cluster<'_>, page: &Content, what: &str) {
    for port in FIRST_PORT..FIRST_PORT + PORTS {
        let dial = Dial::new(cluster.service()).source_port(port).patience(NOW);
        let connection = dial.open(bed.client(0));
        let mut connection = connection.unwrap_or_else(|fault| panic!("{what}: port {port}: {fault}"));
        connection.fetch(page).unwrap_or_else(|fault| panic!("{what}: port {port}: {fault}"));
        connection.abort().expect("a socket");
    }
}

fn kept(bed: &Testbed, cluster: &Cluster<'_>, page: &Content) -> Vec<Connection> {
    let open = || {
        let mut kept = Dial::new(cluster.service()).patience(NOW).open(bed.client(0)).expect("answered");
        kept.fetch(page).expect("the page");
        kept
    };
    (0..4).map(|_| open()).collect()
}

fn go_on(connections: &mut [Connection], page: &Content, what: &str) {
    for connection in connections {
        connection.fetch(page).unwrap_or_else(|fault| panic!("{what}: {fault}"));
    }
}

/// By how much one node says that another's wall clock is ahead of its own, seconds.
fn ahead(baton: &Baton<'_>, of: &str) -> Option<f64> {
    let status = baton.status();
    let connections = node_status(&status, baton.host().name())["connections"].clone();
    let to = connections.as_array()?.iter().find(|connection| connection["peer"] == of)?.clone();
    Some(to["clock_ahead_us"].as_f64()? / 1e6)
}

#[track_caller]
fn shows(baton: &Baton<'_>, of: &str, seconds: i64) {
    wait_until(SOON, &format!("clock of {of} ahead by {seconds} s"), || {
        ahead(baton, of).is_some_and(|ahead| (ahead - seconds as f64).abs() < 0.5)
    });
}

/// The clocks that `baton status` warns of; no client suffers, so all is well.
fn warned_of(baton: &Baton<'_>) -> Value {
    let verdict = baton.status()["verdict"].clone();
    assert_eq!(verdict["well"], true, "{verdict}");
    let clocks = |warning: &&Value| {
        warning["what"].as_str().is_some_and(|what| what.starts_with("wall clocks differ"))
    };
    let warnings = verdict["warnings"].as_array().expect("an array");
    warnings.iter().find(clocks).map_or(Value::Null, |warning| warning["nodes"].clone())
}

fn log(baton: &Baton<'_>) -> String {
    std::fs::read_to_string(baton.process().log()).unwrap_or_default()
}

#[track_caller]
fn no_handoff_is_stale(cluster: &Cluster<'_>) {
    assert_eq!(cluster.counted("drop_handoff_stale"), 0);
    assert_eq!(cluster.counted("two_owners"), 0);
}

/// As it was found: a server's clock is three minutes ahead, an hour, or ten minutes behind.
#[test]
fn a_servers_clock_is_far_off() {
    for seconds in [180, HOUR, -600] {
        let figure = Figure::Five;
        let bed = Testbed::builder().figure(figure).build();
        bed.node(2).set_wall_clock(seconds);
        let (files, page) = page();
        let cluster = figure.start(&bed, WebServer::nginx, &files, SERVICE);
        use_ports(&bed, &cluster, &page, "at first");
        use_ports(&bed, &cluster, &page, "again");
        shows(cluster.baton("a"), "c", seconds);
        shows(cluster.baton("c"), "a", -seconds);
        wait_until(SOON, "a word in the log", || log(cluster.baton("a")).contains("wall clock differs"));
        assert!(!log(cluster.baton("b")).contains("peer=\"a\" ahead_s"), "these two agree");
        assert_eq!(warned_of(cluster.baton("a")), json!(["c"]));
        assert_eq!(warned_of(cluster.baton("c")), json!(["c"]), "the others are the most");
        // Set right.
        bed.node(2).set_wall_clock(0);
        shows(cluster.baton("a"), "c", 0);
        assert_eq!(warned_of(cluster.baton("a")), Value::Null);
        wait_until(SOON, "a word in the log", || log(cluster.baton("a")).contains("right again"));
        use_ports(&bed, &cluster, &page, "set right");
        no_handoff_is_stale(&cluster);
        cluster.stop();
    }
}

/// As it was found: all clocks are set back at once, and clients use their ports again.
#[test]
fn all_clocks_are_set_back() {
    for seconds in [-5, -120] {
        let figure = Figure::Five;
        let bed = Testbed::builder().figure(figure).build();
        bed.nodes().iter().for_each(|node| node.set_wall_clock(0));
        let (files, page) = page();
        let cluster = figure.start(&bed, WebServer::nginx, &files, SERVICE);
        let mut kept = kept(&bed, &cluster, &page);
        use_ports(&bed, &cluster, &page, "before");
        bed.nodes().iter().for_each(|node| node.set_wall_clock(seconds));
        use_ports(&bed, &cluster, &page, "at once after");
        go_on(&mut kept, &page, "kept");
        use_ports(&bed, &cluster, &page, "again");
        no_handoff_is_stale(&cluster);
        cluster.stop();
    }
}

/// Each node's clock is something else, and is set to something else in turn, forth and back, behind a switch.
#[test]
fn clocks_are_set_one_after_the_other() {
    let figure = Figure::Seven;
    let bed = Testbed::builder().figure(figure).build();
    for (node, seconds) in bed.nodes().iter().zip([0, 30, -2 * HOUR, 86_400]) {
        node.set_wall_clock(seconds);
    }
    let (files, page) = page();
    let cluster = figure.start(&bed, WebServer::nginx, &files, SERVICE);
    let mut kept = kept(&bed, &cluster, &page);
    use_ports(&bed, &cluster, &page, "at first");
    for seconds in [20, -20, HOUR, -1_500_000_000] {
        for node in bed.nodes() {
            node.set_wall_clock(seconds);
            let what = format!("{} by {seconds} s", node.name());
            use_ports(&bed, &cluster, &page, &what);
            go_on(&mut kept, &page, &what);
        }
    }
    no_handoff_is_stale(&cluster);
    cluster.stop();
}

/// A node, and then all, are started again with other clocks: those that stay are right, and ports are used again.
#[test]
fn nodes_come_back_with_other_clocks() {
    let figure = Figure::Seven;
    let bed = Testbed::builder()
        .figure(figure)
        .unobserved("the nodes' own kernels answer clients while no daemon runs")
        .build();
    bed.nodes().iter().for_each(|node| node.set_wall_clock(0));
    let (files, page) = page();
    let mut cluster = figure.start(&bed, WebServer::nginx, &files, SERVICE);
    use_ports(&bed, &cluster, &page, "before");
    let config = bed.router().scratch().path().join("cluster.toml");
    for seconds in [HOUR, -HOUR] {
        let place = cluster.batons.iter().position(|baton| baton.host().name() == "c").expect("such a node");
        let baton = cluster.batons.remove(place);
        let host = baton.host();
        baton.stop();
        host.set_wall_clock(seconds);
        cluster.batons.insert(place, Baton::start(host, &config));
        cluster.wait_formed();
        wait_until(SOON, "answers by all ports", || {
            let dial = Dial::new(cluster.service()).patience(Duration::from_secs(1));
            (0..8).all(|_| dial.open(bed.client(0)).is_ok_and(|mut c| c.fetch(&page).is_ok()))
        });
        use_ports(&bed, &cluster, &page, &format!("one came back by {seconds} s"));
    }
    no_handoff_is_stale(&cluster);
    std::mem::take(&mut cluster.batons).into_iter().for_each(Baton::stop);
    bed.nodes().iter().for_each(|node| node.set_wall_clock(-2 * HOUR));
    cluster.batons = Baton::start_all(bed.nodes(), &config);
    cluster.wait_formed();
    use_ports(&bed, &cluster, &page, "all came back");
    no_handoff_is_stale(&cluster);
    cluster.stop();
}

//! A cluster that grows while it works: a file with one more node at its end is given to one node after the other, each
//! daemon being started again with it, and clients wait for nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use baton_testbed::{
    Baton, Cluster, Content, Dial, DocRoot, Fault, Figure, Testbed, WebServer, node_status, wait_until,
};

const SOON: Duration = Duration::from_secs(20);
/// A client that has not been answered by then has been forgotten. One whose connection a restart has lost, in the moment
/// in which the machine's own stack had it, is told when no absent node can own it: after ten seconds
/// (decision 20), when it next repeats its packet.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two daemons' restarts: longer than a failure timeout, shorter than an operator takes.
const BETWEEN: Duration = Duration::from_secs(3);
const CLIENTS: usize = 4;

/// The file with one more node at its end.
fn grown(bed: &Testbed, figure: Figure, text: &str) -> String {
    let (host, roles) =
        (bed.node(figure.nodes()), if figure == Figure::Five { "" } else { "\"distributor\", " });
    let (name, address) = (host.name(), host.address());
    let node = format!("[[node]]\nname = \"{name}\"\naddress = \"{address}\"\nroles = [{roles}\"server\"]\n");
    text.replacen("[[service]]", &format!("{node}[[service]]"), 1)
}

/// How clients' requests ended.
#[derive(Debug, Default)]
struct Ends {
    served: BTreeMap<String, u32>,
    /// At once, as by a machine whose daemon is away.
    refused: u32,
    late: Vec<String>,
}

/// One connection and one request after the other, until it is over.
fn ask(bed: &Testbed, dial: &Dial, pages: &[Content], over: &AtomicBool, ends: &Mutex<Ends>) {
    for page in pages.iter().cycle() {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let asked = Instant::now();
        let ended = dial.open(bed.client(0)).and_then(|connection| connection.fetch_last(page));
        let mut ends = ends.lock().expect("no panic");
        match ended {
            Ok(response) => *ends.served.entry(response.node().to_owned()).or_default() += 1,
            Err(Fault::Refused | Fault::Reset) => ends.refused += 1,
            Err(fault) => ends.late.push(format!("{fault} after {:?}", asked.elapsed())),
        }
        drop(ends);
        thread::sleep(Duration::from_millis(5));
    }
}

/// Starts each daemon again with another file, one after the other.
fn roll(cluster: &mut Cluster<'_>, config: &Path) {
    for _ in 0..cluster.batons.len() {
        let old = cluster.batons.remove(0);
        let host = old.host();
        old.stop();
        cluster.batons.push(Baton::start(host, config));
        let names: BTreeSet<String> = cluster.batons.iter().map(|b| b.host().name().to_owned()).collect();
        let meets_all = |baton: &Baton<'_>| names.is_subset(&up_for(baton));
        wait_until(SOON, "nodes with different files to meet", || cluster.batons.iter().all(meets_all));
        thread::sleep(BETWEEN);
    }
}

/// Who is up for a node, itself included.
fn up_for(baton: &Baton<'_>) -> BTreeSet<String> {
    let status = baton.status();
    let connections = node_status(&status, baton.host().name())["connections"].as_array().cloned();
    let up = connections.unwrap_or_default().into_iter().filter(|c| c["state"] == "up");
    let up = up.map(|c| c["peer"].as_str().unwrap_or_default().to_owned());
    up.chain([baton.host().name().to_owned()]).collect()
}

fn grows(figure: Figure, first: bool) {
    let away = "while a daemon is away, the stack of its machine answers what comes there with a RST";
    let bed = Testbed::builder().nodes(figure.nodes() + 1).unobserved(away).build();
    let files = DocRoot::shared();
    let pages: Vec<Content> = (0..40).map(|n| Content::new(&format!("page{n}"), 3000)).collect();
    pages.iter().for_each(|page| drop(files.add(page)));
    let text = figure.config(&bed, "policy = \"lard\"");
    let mut cluster = figure.start_with(&bed, WebServer::nginx, &files, &text);
    let host = bed.node(figure.nodes());
    cluster.servers.push(WebServer::nginx(host, &files));
    let longer = bed.router().scratch().write("longer.toml", grown(&bed, figure, &text));
    let mine = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&longer, mine).expect("an own file");

    let (over, ends) = (AtomicBool::new(false), Mutex::new(Ends::default()));
    let dial = Dial::new(cluster.service()).patience(PATIENCE);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| ask(&bed, &dial, &pages, &over, &ends));
        }
        let _over = Over(&over);
        // Either order will do.
        let early = first.then(|| Baton::start(host, &longer));
        roll(&mut cluster, &longer);
        cluster.batons.push(early.unwrap_or_else(|| Baton::start(host, &longer)));
        cluster.wait_formed();
        // Known pages stay where they are.
        let mut fresh = (0..).map(|n| Content::new(&format!("fresh{n}"), 100));
        wait_until(SOON, "requests at the new node", || {
            let page = fresh.next().expect("without end");
            files.add(&page);
            let connection = dial.open(bed.client(0)).expect("answered");
            connection.fetch_last(&page).expect("right").node() == host.name()
        });
    });
    let ends = ends.into_inner().expect("no panic");
    println!("{figure:?}, the new node {}: {ends:?}", if first { "first" } else { "last" });
    assert_eq!(ends.late, [""; 0], "{figure:?}");
    let all: u32 = ends.served.values().sum();
    assert!(all > 1000 && ends.refused * 4 < all, "{figure:?}: {ends:?}");
    for baton in &cluster.batons {
        assert_eq!(baton.status()["verdict"]["well"], true);
    }
    cluster.stop();
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn behind_a_switch_the_new_node_comes_last() {
    grows(Figure::Seven, false);
}

#[test]
fn behind_a_switch_the_new_node_comes_first() {
    grows(Figure::Seven, true);
}

#[test]
fn behind_one_distributor_the_new_node_comes_last() {
    grows(Figure::Five, false);
}

#[test]
fn behind_one_distributor_the_new_node_comes_first() {
    grows(Figure::Five, true);
}

/// A node in the middle of the file would give others other numbers: who has that file is refused, and named.
#[test]
fn a_node_in_the_middle_of_the_file_is_refused() {
    let figure = Figure::Five;
    let bed = Testbed::builder().nodes(figure.nodes() + 1).build();
    let text = figure.config(&bed, "policy = \"wrr\"");
    let mut cluster = figure.start_without_servers(&bed, Vec::new(), "policy = \"wrr\"");
    let host = bed.node(figure.nodes());
    let node = format!(
        "[[node]]\nname = \"{}\"\naddress = \"{}\"\nroles = [\"server\"]\n[[node]]\nname = \"b\"",
        host.name(),
        host.address()
    );
    let other =
        bed.router().scratch().write("middle.toml", text.replacen("[[node]]\nname = \"b\"", &node, 1));
    let last = cluster.batons.pop().expect("there are several");
    let name = last.host().name().to_owned();
    let restarted = last.host();
    last.stop();
    let stranger = Baton::start(restarted, &other);
    let front = cluster.batons[0].host().name();
    wait_until(SOON, "the reason to be told", || {
        let status = cluster.batons[0].status();
        let connections = node_status(&status, front)["connections"].as_array().cloned().unwrap_or_default();
        let theirs = connections.iter().find(|c| c["peer"] == name.as_str()).cloned().unwrap_or_default();
        let why = theirs["last_error"].as_str().unwrap_or_default();
        why.starts_with(&format!("{name} runs a cluster file in which [[node]] number 2 is another one"))
    });
    stranger.stop();
    cluster.stop();
}

//! What a node's daemon lives through, and who does not notice: silences, strangers, and tables that refuse what it
//! writes. (Floods have a suite of their own.)

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use baton_testbed::{
    Baton, Cluster, Content, Dial, DocRoot, Figure, Host, Load, Testbed, WebServer, node_status, wait_until,
};
use libbpf_rs::MapHandle;

const SOON: Duration = Duration::from_secs(10);

/// For how long each control connection of a node has been up, by peer; none that is down.
fn up_for(baton: &Baton<'_>) -> BTreeMap<String, u64> {
    let status = baton.status();
    let connections = node_status(&status, baton.host().name())["connections"].as_array().cloned();
    let up = connections.unwrap_or_default().into_iter().filter(|connection| connection["state"] == "up");
    up.map(|c| (c["peer"].as_str().unwrap_or_default().to_owned(), c["since_s"].as_u64().unwrap_or(0)))
        .collect()
}

fn decisions(cluster: &Cluster<'_>, node: &str, what: &str) -> u64 {
    let status = cluster.baton(node).status();
    node_status(&status, node)["decisions"][what].as_u64().unwrap_or(0)
}

/// A server's daemon is started again, within a few seconds: what its web server has in its cache is asked of it as
/// before, and nobody has to be asked for what all knew.
#[test]
fn a_server_that_is_silent_for_a_moment_keeps_what_it_had() {
    let bed = Testbed::builder().figure(Figure::Five).build();
    let files = DocRoot::shared();
    let pages: Vec<Content> = (0..30).map(|n| Content::new(&format!("page{n}"), 2000)).collect();
    pages.iter().for_each(|page| drop(files.add(page)));
    let mut cluster = Figure::Five.start(&bed, WebServer::nginx, &files, "policy = \"lard\"");
    let front = cluster.batons[0].host().name();
    let dial = Dial::new(cluster.service());
    let served_by = |page: &Content| {
        let response = dial.open(bed.client(0)).expect("answered").fetch_last(page).expect("right");
        response.node().to_owned()
    };
    let before: Vec<String> = pages.iter().map(served_by).collect();
    let asked = decisions(&cluster, front, "asked");
    assert_eq!(before, pages.iter().map(served_by).collect::<Vec<_>>(), "all of it is decided");
    assert_eq!(decisions(&cluster, front, "asked"), asked);

    let victim = cluster.batons.pop().expect("there are several");
    let (host, config) = (victim.host(), bed.router().scratch().path().join("cluster.toml"));
    let its = before.iter().filter(|node| *node == host.name()).count();
    assert!(its > 1, "{before:?}");
    victim.kill();
    wait_until(SOON, "its death to be noticed", || !up_for(cluster.baton(front)).contains_key(host.name()));
    cluster.batons.push(Baton::start(host, &config));
    cluster.wait_formed();
    assert_eq!(before, pages.iter().map(served_by).collect::<Vec<_>>(), "it has what it had");
    assert_eq!(decisions(&cluster, front, "asked"), asked, "and everybody knows it still");

    // Gone for longer: what it had is forgotten, and what others had is not.
    cluster.batons.pop().expect("just pushed").kill();
    thread::sleep(Duration::from_secs(12));
    cluster.batons.push(Baton::start(host, &config));
    cluster.wait_formed();
    let after: Vec<String> = pages.iter().map(served_by).collect();
    let others = before.iter().zip(&after).filter(|(before, _)| *before != host.name());
    assert!(others.clone().all(|(before, after)| before == after), "{before:?} {after:?}");
    assert_eq!(decisions(&cluster, front, "asked"), asked + its as u64, "its own are asked for again");
    cluster.stop();
}

/// Somebody without the secret holds all the connections to the control ports that he can get: a node that is started
/// again finds its peers all the same.
#[test]
fn silent_strangers_at_the_control_port_keep_no_node_out() {
    const CONTROL_PORT: u16 = 7654;
    let bed = Testbed::builder().figure(Figure::Five).build();
    let mut cluster = Figure::Five.start_without_servers(&bed, Vec::new(), "");
    let over = AtomicBool::new(false);
    let targets: Vec<SocketAddr> = bed.nodes().iter().map(|node| node.at(CONTROL_PORT)).collect();
    let silent = |target: &SocketAddr| {
        while !over.load(Ordering::Relaxed) {
            if let Ok(mut stream) = TcpStream::connect_timeout(target, SOON) {
                // Until it is closed.
                let _ = stream.set_read_timeout(Some(SOON));
                let _ = stream.read(&mut [0; 100]);
            }
            thread::sleep(Duration::from_millis(50));
        }
    };
    thread::scope(|scope| {
        // Whatever happens, they end.
        let _ends = Ends(&over);
        for target in targets.iter().flat_map(|target| [target; 150]) {
            scope.spawn(|| bed.client(0).inside(|| silent(target)));
        }
        thread::sleep(Duration::from_millis(500));
        let victim = cluster.batons.pop().expect("there are several");
        let (host, config) = (victim.host(), bed.router().scratch().path().join("cluster.toml"));
        victim.kill();
        cluster.batons.push(Baton::start(host, &config));
        let began = Instant::now();
        cluster.wait_formed();
        println!("found again after {:?}", began.elapsed());
    });
    cluster.stop();
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Makes the daemon's tables refuse whatever user space writes from now on; how many do.
fn freeze_tables(baton: &Baton<'_>) -> usize {
    let process = format!("/proc/{}/fdinfo", baton.process().id());
    let mut frozen = 0;
    for entry in std::fs::read_dir(process).expect("it runs") {
        let Ok(info) = std::fs::read_to_string(entry.expect("a file").path()) else { continue };
        let Some(id) = info.lines().find_map(|line| line.strip_prefix("map_id:")) else { continue };
        let map = MapHandle::from_map_id(id.trim().parse().expect("a number")).expect("an own map");
        frozen += usize::from(map.freeze().is_ok());
    }
    frozen
}

/// Every table of a node refuses what its daemon writes: it goes on, says so, and clients are served by what the
/// programs know. Its peers come and go meanwhile.
#[test]
fn tables_that_refuse_do_not_end_the_daemon() {
    for figure in [Figure::Five, Figure::Seven] {
        let bed = Testbed::builder().figure(figure).build();
        let files = DocRoot::shared();
        let page = Content::new("page", 3000);
        files.add(&page);
        let mut cluster = figure.start(&bed, WebServer::nginx, &files, "policy = \"wrr\"");
        let front = cluster.batons[0].host().name();
        let load = Load::new(Dial::new(cluster.service()).patience(SOON)).connections(2).requests(5).close();
        let served = load.run(bed.client(0), |_, _| page.clone());
        assert!(served.is_clean(), "{figure:?}: {served}");
        assert!(freeze_tables(cluster.baton(front)) > 5, "{figure:?}: its tables can be written still");

        // A peer that comes back has a new entry in several of them.
        let victim = cluster.batons.pop().expect("there are several");
        let host: &Host = victim.host();
        let config = bed.router().scratch().path().join("cluster.toml");
        victim.stop();
        cluster.batons.push(Baton::start(host, &config));
        cluster.wait_formed();
        let served = load.run(bed.client(0), |_, _| page.clone());
        assert!(served.is_clean(), "{figure:?}: {served}");

        let errors = || {
            let status = cluster.baton(front).status();
            node_status(&status, front)["troubles"].clone()
        };
        wait_until(SOON, "errors in the status", || errors()["errors"].as_u64() > Some(5));
        assert!(errors()["last"].as_str().is_some_and(|last| last.contains("table ")), "{}", errors());
        let log = std::fs::read_to_string(cluster.baton(front).process().log()).expect("a log");
        let lines = log.lines().filter(|line| line.contains("ERROR")).count();
        assert!((1..100).contains(&lines), "{lines} lines about errors");
        cluster.stop();
    }
}

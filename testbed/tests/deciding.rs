//! Who serves what: the policies as clients see them, and what happens when those who decide, or those
//! who serve, are gone.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use baton_testbed::{
    Baton, Content, Dial, DocRoot, Figure, Host, Load, Testbed, WebServer, counted, node_status, wait_until,
};

const SOON: Duration = Duration::from_secs(10);

fn pages(files: &DocRoot, count: usize) -> Vec<Content> {
    let pages: Vec<Content> = (0..count).map(|i| Content::new(&format!("page{i}"), 2000)).collect();
    pages.iter().for_each(|page| drop(files.add(page)));
    pages
}

fn spread(by_node: &BTreeMap<String, u64>) -> Vec<u64> {
    by_node.values().copied().collect()
}

#[test]
fn weighted_round_robin_goes_round() {
    let bed = Testbed::builder().figure(Figure::Five).build();
    let files = DocRoot::shared();
    let pages = pages(&files, 1);
    let cluster = Figure::Five.start(&bed, WebServer::nginx, &files, "policy = \"wrr\"");
    let load = Load::new(Dial::new(cluster.service())).requests(30).close();
    let summary = load.run(bed.client(0), |_, _| pages[0].clone());
    assert!(summary.is_clean(), "{summary}");
    assert_eq!(spread(&summary.by_node), [10, 10, 10], "{summary}");
    assert_eq!(counted(cluster.baton("a"), "decided_rota"), 30);
    cluster.stop();
}

/// LARD: a target stays with one server, different targets spread; the second request for a target is
/// decided in the kernel.
#[test]
fn lard_keeps_a_target_where_it_is() {
    for figure in [Figure::Five, Figure::Six, Figure::Seven] {
        let bed = Testbed::builder().figure(figure).build();
        let files = DocRoot::shared();
        let pages = pages(&files, 12);
        let cluster = figure.start(&bed, WebServer::nginx, &files, "policy = \"lard\"");
        let mut used = BTreeMap::new();
        for page in &pages {
            let summaries = cluster.vips.iter().map(|vip| {
                let load = Load::new(Dial::new(SocketAddr::new(*vip, 80))).requests(8).close();
                load.run(bed.client(0), |_, _| page.clone())
            });
            let mut servers = BTreeMap::new();
            for summary in summaries {
                assert!(summary.is_clean(), "{summary}");
                summary.by_node.into_iter().for_each(|(node, n)| *servers.entry(node).or_insert(0) += n);
            }
            assert_eq!(servers.len(), 1, "{figure:?} {}: {servers:?}", page.path());
            servers.into_keys().for_each(|node| *used.entry(node).or_insert(0) += 1);
        }
        assert!(used.len() >= 2, "{figure:?}: all targets on {used:?}");
        assert!(cluster.counted("decided_cache") > 0, "{figure:?}");
        assert!(cluster.counted("held_miss") >= 12, "{figure:?}");
        cluster.stop();
    }
}

/// `consult = "always"`: the paper's own behaviour, every request is asked.
#[test]
fn every_request_is_asked_when_told_so() {
    for policy in ["lard", "lard/r", "least-loaded", "wrr"] {
        let bed = Testbed::builder().figure(Figure::Six).build();
        let files = DocRoot::shared();
        let pages = pages(&files, 3);
        let service = format!("policy = \"{policy}\"\nconsult = \"always\"");
        let cluster = Figure::Six.start(&bed, WebServer::nginx, &files, &service);
        let load = Load::new(Dial::new(cluster.service())).connections(10).requests(6).close();
        let summary = load.run(bed.client(0), |_, j| pages[j % 3].clone());
        assert!(summary.is_clean(), "{policy}: {summary}");
        assert_eq!(cluster.counted("held_ask"), 60, "{policy}");
        let status = cluster.baton("c").status();
        let decided = node_status(&status, "c")["decisions"]["decided"].as_u64();
        assert_eq!(decided, Some(60), "{policy}");
        let asker = node_status(&status, "a")["decisions"].clone();
        assert_eq!(asker["asked"], asker["answered"], "{policy}");
        assert!(asker["batches"].as_u64() <= asker["asked"].as_u64(), "{policy}: {asker}");
        cluster.stop();
    }
}

/// LARD moves a target only when its server is overloaded: with a low limit, a hot target spreads.
#[test]
fn an_overloaded_server_gives_targets_away() {
    let bed = Testbed::builder().figure(Figure::Five).build();
    let files = DocRoot::shared();
    let page = Content::new("large", 1_000_000);
    files.add(&page);
    let service = "policy = \"lard/r\"\n[service.lard]\nt_low = 2\nt_high = 4";
    let cluster = Figure::Five.start(&bed, WebServer::nginx, &files, service);
    let dial = Dial::new(cluster.service()).receive_buffer(4096);
    let waiting: Vec<_> = (0..24)
        .map(|_| {
            let mut connection = dial.clone().open(bed.client(0)).expect("answered");
            connection.send(&baton_testbed::get(&page, true)).expect("sent");
            std::thread::sleep(Duration::from_millis(15)); // a load report must be possible in between
            connection
        })
        .collect();
    assert!(cluster.counted("held_load") > 0, "the load limit was never met");
    let mut used = BTreeMap::new();
    for mut connection in waiting {
        let response = connection.response_of(&page).expect("the page");
        *used.entry(response.node().to_owned()).or_insert(0) += 1;
    }
    assert!(used.len() >= 2, "one server took all: {used:?}");
    cluster.stop();
}

/// Without the dispatcher requests are served on: cached decisions hold, others are decided by the
/// fallback; when it is back it decides again.
#[test]
fn the_dispatcher_goes_and_comes_back() {
    let bed = Testbed::builder().figure(Figure::Six).build();
    let files = DocRoot::shared();
    let pages = pages(&files, 20);
    let mut cluster = Figure::Six.start(&bed, WebServer::nginx, &files, "policy = \"lard\"");
    let service = cluster.service();
    let ask = |from: usize, to: usize| {
        let load = Load::new(Dial::new(service)).requests(to - from).close();
        let summary = load.run(bed.client(0), |_, j| pages[from + j].clone());
        assert!(summary.is_clean(), "{summary}");
    };
    ask(0, 5);
    let place = cluster.batons.iter().position(|b| b.host().name() == "c").expect("the dispatcher");
    cluster.batons.remove(place).kill();
    // At once, while its silence has not been noticed, and afterwards.
    ask(5, 8);
    wait_until(SOON, "its death to be noticed", || {
        let status = cluster.baton("a").status();
        node_status(&status, "c")["reachable"] == false
    });
    ask(0, 12);
    let status = cluster.baton("a").status();
    let decisions = &node_status(&status, "a")["decisions"];
    assert!(decisions["fallback"].as_u64() > Some(0), "{decisions}");

    let config = bed.router().scratch().path().join("cluster.toml");
    cluster.batons.push(Baton::start(bed.node(2), &config));
    cluster.wait_formed();
    ask(0, 20);
    let decided = node_status(&cluster.baton("c").status(), "c")["decisions"]["decided"].as_u64();
    assert!(decided > Some(0), "the new dispatcher was asked nothing");
    cluster.stop();
}

/// A server's node dies: new connections go to the others, and none of theirs is hurt.
#[test]
fn a_server_node_dies() {
    for (figure, victim) in [(Figure::Five, "c"), (Figure::Seven, "d")] {
        let bed = Testbed::builder().figure(figure).build();
        let files = DocRoot::shared();
        let pages = pages(&files, 30);
        let mut cluster = figure.start(&bed, WebServer::nginx, &files, "policy = \"lard\"");
        let dial = Dial::new(cluster.service());
        let load = Load::new(dial.clone()).requests(30).close();
        let before = load.run(bed.client(0), |_, j| pages[j].clone());
        assert!(before.is_clean() && before.by_node.contains_key(victim), "{figure:?}: {before}");

        let place = cluster.batons.iter().position(|b| b.host().name() == victim).expect("it is there");
        let dying = cluster.batons.remove(place);
        let dead: &Host = dying.host();
        dying.kill();
        dead.ip("link set eth0 down");
        wait_until(SOON, "its death to be noticed by all", || {
            cluster.batons.iter().all(|baton| {
                let status = baton.status();
                node_status(&status, victim)["reachable"] == false
            })
        });
        let after = load.run(bed.client(0), |_, j| pages[j].clone());
        assert!(after.is_clean(), "{figure:?}: {after}");
        assert!(!after.by_node.contains_key(victim), "{figure:?}: {after}");
        cluster.stop();
    }
}

/// A node whose cluster file differs in what lasts is told so, and does not take part.
#[test]
fn a_node_with_another_file_is_left_out() {
    let bed = Testbed::builder().figure(Figure::Five).build();
    let files = DocRoot::shared();
    let pages = pages(&files, 4);
    let mut cluster = Figure::Five.start(&bed, WebServer::nginx, &files, "policy = \"wrr\"");
    let place = cluster.batons.iter().position(|b| b.host().name() == "d").expect("it is there");
    cluster.batons.remove(place).stop();
    let text = Figure::Five.config(&bed, "policy = \"wrr\"");
    let text = text.replacen("[cluster]\n", "[cluster]\nfailure_timeout_ms = 5000\n", 1);
    let other = bed.router().scratch().write("other.toml", &text);
    let stranger = Baton::start(bed.node(3), &other);
    let last_error = || {
        let status = cluster.baton("a").status();
        let connections = node_status(&status, "a")["connections"].as_array().cloned().unwrap_or_default();
        let theirs = connections.iter().find(|c| c["peer"] == "d").cloned().unwrap_or_default();
        theirs["last_error"].as_str().unwrap_or_default().to_owned()
    };
    wait_until(SOON, "the reason to be told", || last_error().contains("cluster file"));
    let load = Load::new(Dial::new(cluster.service())).requests(8).close();
    let summary = load.run(bed.client(0), |_, j| pages[j % 4].clone());
    assert!(summary.is_clean() && !summary.by_node.contains_key("d"), "{summary}");
    stranger.stop();
    cluster.stop();
}

/// What the daemon changes on its machine is as before when it has ended, and nothing of it is left.
#[test]
fn the_daemon_leaves_its_machine_as_it_was() {
    let bed = Testbed::builder().figure(Figure::Seven).build();
    let state = |host: &Host| {
        let sysctls = ["ipv4.tcp_syncookies", "ipv4.conf.all.arp_ignore", "ipv4.conf.all.arp_announce"];
        let values: Vec<String> =
            sysctls.iter().map(|key| host.run("sysctl", ["-n", &format!("net.{key}")])).collect();
        // Numbers of interfaces and times to live may differ; names and addresses may not.
        (host.run("ip", ["-br", "address"]), values, host.run("ip", ["-br", "link"]).lines().count())
    };
    bed.nodes().iter().for_each(|node| node.sysctl("net.ipv4.tcp_syncookies", "0"));
    let before: Vec<_> = bed.nodes().iter().map(state).collect();
    let cluster = Figure::Seven.start_without_servers(&bed, Vec::new(), "");
    let during: Vec<_> = bed.nodes().iter().map(state).collect();
    for (host, (before, during)) in bed.nodes().iter().zip(before.iter().zip(&during)) {
        assert_ne!(before, during, "{} was not configured", host.name());
    }
    cluster.stop();
    for (host, before) in bed.nodes().iter().zip(&before) {
        assert_eq!(before, &state(host), "{}", host.name());
    }
}

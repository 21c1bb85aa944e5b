//! Several dispatchers: the one that is asked is killed, stopped, and cut off from one of those that ask. No request is
//! lost, and each page stays with the server that has it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use baton_testbed::{Baton, Content, Dial, DocRoot, Figure, Testbed, WebServer, node_status, wait_until};
use nix::sys::signal::Signal;

/// Longer than a dispatcher that is back has to last before it is asked again.
const SOON: Duration = Duration::from_secs(40);
const PAGES: usize = 24;

/// Which page which server has.
type Places = BTreeMap<String, String>;

/// Figure 6 with a second dispatcher on the node of a server. Each request is asked about: nothing is kept at the
/// distributors that could hide what the dispatchers remember.
fn config(bed: &Testbed) -> String {
    let text = Figure::Six.config(bed, "policy = \"lard\"\nconsult = \"always\"");
    text.replacen("[\"server\"]", "[\"server\", \"dispatcher\"]", 1)
}

/// Asks for pages by one VIP. Whatever is not answered as it should be is a failure, and so is a page at two servers.
fn places(bed: &Testbed, to: SocketAddr, pages: &[Content]) -> Places {
    let fetched = pages.iter().map(|page| {
        let answer = Dial::new(to).open(bed.client(0)).and_then(|mut client| client.fetch(page));
        let answer = answer.unwrap_or_else(|e| panic!("{to} {}: {e}", page.path()));
        (page.path().to_owned(), answer.node().to_owned())
    });
    fetched.collect()
}

/// Asks for all pages again and again while something happens, once at least before that and once after; each must be where
/// it was.
fn while_asked_for(bed: &Testbed, to: SocketAddr, pages: &[Content], known: &Places, happens: impl FnOnce()) {
    let (rounds, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut is_last = false;
            while !is_last {
                is_last = over.load(Ordering::Relaxed);
                assert_eq!(&places(bed, to, pages), known, "a page has moved");
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        wait_until(SOON, "all pages", || rounds.load(Ordering::Relaxed) > 0 || load.is_finished());
        happens();
        over.store(true, Ordering::Relaxed);
        load.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

fn decisions(baton: &Baton<'_>) -> serde_json::Value {
    node_status(&baton.status(), baton.host().name())["decisions"].clone()
}

/// How a dispatcher stands with a node.
fn standing(baton: &Baton<'_>, dispatcher: &str) -> String {
    let all = decisions(baton)["dispatchers"].as_array().cloned().unwrap_or_default();
    let its = all.iter().find(|d| d["dispatcher"] == dispatcher).and_then(|d| d["standing"].as_str());
    its.unwrap_or_default().to_owned()
}

fn wait_standing(baton: &Baton<'_>, dispatcher: &str, as_it: &[&str]) {
    let what = format!("{dispatcher} as {as_it:?} of {}", baton.host().name());
    wait_until(SOON, &what, || as_it.contains(&standing(baton, dispatcher).as_str()));
}

/// Waits until a dispatcher remembers that many targets, and is ready.
fn wait_remembers(baton: &Baton<'_>, targets: usize) {
    wait_until(SOON, "a dispatcher that remembers", || {
        let its = decisions(baton);
        its["ready"] == true && its["targets"].as_u64() == Some(targets as u64)
    });
}

fn count(baton: &Baton<'_>, what: &str) -> u64 {
    decisions(baton)[what].as_u64().unwrap_or(0)
}

/// Nothing of control connections passes between two nodes, at one of them.
fn cut(bed: &Testbed, at: usize, from: usize) {
    let (host, other) = (bed.node(at), bed.node(from).address());
    let family = if other.is_ipv6() { "ip6" } else { "ip" };
    for (chain, field) in [("input", "saddr"), ("output", "daddr")] {
        host.run("nft", ["add", "table", "inet", "cut"]);
        let hook = format!("{{ type filter hook {chain} priority 0; }}");
        host.run("nft", ["add", "chain", "inet", "cut", chain, &hook]);
        host.run("nft", ["add", "rule", "inet", "cut", chain, family, field, &other.to_string(), "drop"]);
    }
}

#[test]
fn the_mapping_outlives_the_dispatcher() {
    let bed = Testbed::builder().figure(Figure::Six).build();
    let files = DocRoot::shared();
    let page = |i| Content::new(&format!("standby{i}"), 1500);
    let pages: Vec<Content> = (0..PAGES).map(page).collect();
    let later: Vec<Content> = (PAGES..PAGES + 8).map(page).collect();
    pages.iter().chain(&later).for_each(|page| drop(files.add(page)));
    let text = config(&bed);
    let mut cluster = Figure::Six.start_with(&bed, WebServer::nginx, &files, &text);
    let config = bed.router().scratch().path().join("cluster.toml");
    let [by_a, by_b] = [0, 1].map(|vip| SocketAddr::new(cluster.vips[vip], 80));
    for asker in ["a", "b"] {
        wait_standing(cluster.baton(asker), "c", &["asked"]);
    }
    let mut known = places(&bed, by_a, &pages);
    assert_eq!(known.values().collect::<std::collections::BTreeSet<_>>().len(), 2, "{known:?}");
    assert_eq!(places(&bed, by_b, &pages), known);
    wait_remembers(cluster.baton("d"), PAGES);

    // Killed: the other one knows all of it, and decides what is new.
    let killed = cluster.batons.remove(2);
    while_asked_for(&bed, by_a, &pages, &known, || {
        killed.kill();
        wait_standing(cluster.baton("a"), "d", &["asked"]);
    });
    known.extend(places(&bed, by_b, &later));
    let all: Vec<Content> = pages.into_iter().chain(later).collect();

    // Started again: it is asked when it knows all of it, too.
    while_asked_for(&bed, by_a, &all, &known, || {
        cluster.batons.insert(2, Baton::start(bed.node(2), &config));
        wait_remembers(cluster.baton("c"), all.len());
        for asker in ["a", "b"] {
            wait_standing(cluster.baton(asker), "c", &["asked"]);
        }
    });
    assert_eq!(count(cluster.baton("c"), "learned"), all.len() as u64);
    let before = count(cluster.baton("c"), "decided");
    assert_eq!(places(&bed, by_a, &all), known);
    assert_eq!(count(cluster.baton("c"), "decided"), before + all.len() as u64);

    // Stopped: its connections last for a while, and nobody waits for it.
    while_asked_for(&bed, by_a, &all, &known, || {
        cluster.baton("c").process().signal(Signal::SIGSTOP);
        wait_standing(cluster.baton("a"), "d", &["asked"]);
    });
    assert!(count(cluster.baton("a"), "reasked") > 0, "a question went unanswered");
    cluster.baton("c").process().signal(Signal::SIGCONT);
    wait_standing(cluster.baton("b"), "c", &["standby", "asked"]);
    wait_standing(cluster.baton("b"), "c", &["asked"]);

    // Cut off from one distributor alone: that one asks the other dispatcher, and both say the same.
    while_asked_for(&bed, by_a, &all, &known, || {
        cut(&bed, 0, 2);
        wait_standing(cluster.baton("a"), "c", &["down"]);
    });
    assert_eq!(standing(cluster.baton("a"), "d"), "asked");
    assert_eq!(standing(cluster.baton("b"), "c"), "asked");
    assert_eq!((places(&bed, by_a, &all), places(&bed, by_b, &all)), (known.clone(), known));
    let told = cluster.baton("b").status()["verdict"].to_string();
    assert!(told.contains("a and c have no connection") && told.contains("; a asks d"), "{told}");
    for asker in ["a", "b"] {
        let its = decisions(cluster.baton(asker));
        assert_eq!((&its["fallback"], &its["failed"]), (&0.into(), &0.into()), "{asker}: {its}");
    }
    bed.node(0).run("nft", ["delete", "table", "inet", "cut"]);
    cluster.stop();
}

//! Services that come, change and go while nodes run: what is new works, what stays is not disturbed, what
//! goes ends in order.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use baton_testbed::{
    Cluster, Content, Dial, DocRoot, Fault, Figure, Load, Testbed, WebServer, node_status, wait_until,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(10);
/// An address ends for half a minute at least.
const ENDED: Duration = Duration::from_secs(50);
/// Both have one node that announces all VIPs, the first; servers are b, c and d.
const FIGURES: [Figure; 2] = [Figure::Five, Figure::Seven];

/// A further service on a VIP that the figure does not use.
fn more(vip: IpAddr) -> String {
    format!("[[service]]\nname = \"more\"\nvips = [\"{vip}\"]\nport = 80\npolicy = \"wrr\"\n")
}

/// Brings clients' packets for a further VIP to the node that announces it.
fn bring(bed: &Testbed, vip: IpAddr) {
    if bed.network().is_routed() {
        bed.route_vip(vip, bed.node(0));
    } else {
        bed.vip_on_link(vip);
    }
}

/// Gives every node another file, in the order of the nodes: what the first one says of it.
#[track_caller]
fn reload_all(cluster: &Cluster<'_>, text: &str) -> Value {
    let said: Vec<Value> = cluster.batons.iter().map(|baton| baton.reload(text)).collect();
    for (baton, said) in cluster.batons.iter().zip(&said) {
        assert_eq!(said["error"], Value::Null);
        assert_eq!(said["node"], baton.host().name());
    }
    said[0].clone()
}

/// Which services end, at which nodes, with how many connections left.
fn ending(cluster: &Cluster<'_>) -> Vec<(String, String, u64)> {
    let status = cluster.batons[0].status();
    let nodes = status["nodes"].as_array().expect("nodes").iter();
    let of = |node: &Value| {
        let name = node["name"].as_str().expect("a name").to_owned();
        let ending = node["ending"].as_array().expect("a list").clone();
        ending.into_iter().map(move |e| {
            let service = e["service"].as_str().expect("a name").to_owned();
            (service, name.clone(), e["connections"].as_u64().expect("a number"))
        })
    };
    nodes.flat_map(of).collect()
}

fn holds(cluster: &Cluster<'_>, vip: IpAddr) -> usize {
    let needle = format!(" {vip}/");
    cluster.batons.iter().filter(|baton| baton.host().ip("address show").contains(&needle)).count()
}

#[test]
fn services_come_change_and_go() {
    for figure in FIGURES {
        let bed = Testbed::builder().figure(figure).build();
        let files = DocRoot::shared();
        let [page, picture] = [Content::new("page", 3000), Content::new("picture", 200_000)];
        for content in [&page, &picture] {
            files.add(content);
        }
        let one = figure.config(&bed, "");
        let cluster = figure.start_with(&bed, WebServer::nginx, &files, &one);
        let client = bed.client(0);
        let vip = bed.vip(1);
        bring(&bed, vip);
        let dial = |to| Dial::new(SocketAddr::new(to, 80)).patience(SOON);
        let mut old = dial(cluster.vips[0]).open(client).expect("connected");
        old.fetch(&page).expect("served");
        assert!(dial(vip).open(client).is_err(), "nobody is there yet");

        // One comes.
        let two = format!("{one}{}", more(vip));
        let said = reload_all(&cluster, &two);
        assert_eq!(
            (&said["added"], &said["changed"], &said["removed"]),
            (&json!(["more"]), &json!([]), &json!([]))
        );
        // Behind a switch each distributor has its own turn, and not each gets the same number.
        let nodes: BTreeSet<String> = (0..30)
            .map(|_| {
                dial(vip).open(client).expect("connected").fetch(&picture).expect("served").node().to_owned()
            })
            .collect();
        assert_eq!(nodes, ["b", "c", "d"].map(str::to_owned).into(), "by turns");
        old.fetch(&picture).expect("not disturbed");

        // The other one changes: pictures are served by c alone.
        let pools = format!(
            "[[service.pool]]\nname = \"site\"\npolicy = \"lard\"\n\
             [[service.pool]]\nname = \"pictures\"\npolicy = \"lard\"\nservers = [\"c\"]\n\
             [[service.route]]\npool = \"pictures\"\npath = \"/{}\"\n",
            picture.path().trim_start_matches('/')
        );
        let three = two.replacen("policy = \"lard\"\n", &pools, 1);
        let said = reload_all(&cluster, &three);
        assert_eq!((&said["added"], &said["changed"]), (&json!([]), &json!(["www"])));
        for _ in 0..4 {
            let mut new = dial(cluster.vips[0]).open(client).expect("connected");
            new.fetch(&page).expect("served");
            assert_eq!(new.fetch(&picture).expect("served").node(), "c");
        }
        old.fetch(&picture).expect("a connection from before stays where it is");

        // One goes.
        let mut last = dial(vip).open(client).expect("connected");
        last.fetch(&page).expect("served");
        let four = three.replace(&more(vip), "");
        assert_eq!(reload_all(&cluster, &four)["removed"], json!(["more"]));
        assert!(matches!(dial(vip).open(client), Err(Fault::Refused)), "no new connections");
        assert!(cluster.counted("reset_ending") >= 1);
        last.fetch(&picture).expect("it ends when its client says so");
        wait_until(SOON, "the last connection of the ending service to be counted", || {
            let ending = ending(&cluster);
            ending.iter().all(|(service, _, _)| service == "more")
                && ending.len() == cluster.batons.len()
                && ending.iter().any(|(_, _, connections)| *connections == 1)
        });
        assert_eq!(holds(&cluster, vip), cluster.batons.len(), "while it ends");
        last.fetch_last(&page).expect("the last of all");
        // It comes back.
        reload_all(&cluster, &three);
        dial(vip).open(client).expect("connected").fetch(&page).expect("served");
        old.fetch_last(&page).expect("to the end");
        for baton in &cluster.batons {
            assert_eq!(baton.reload(&three)["changed"], json!([]), "it is the same file");
        }
        cluster.stop();
        for node in bed.nodes() {
            assert!(!node.ip("address show").contains(&format!(" {vip}/")), "undone at the end");
        }
    }
}

/// Of connections that have lasted the nodes on their way are told when they end; what else a distributor has
/// seen the end of it forgets after minutes.
#[test]
fn nothing_is_left_of_a_service_that_has_ended() {
    let figure = Figure::Seven;
    let bed = Testbed::builder().figure(figure).build();
    let files = DocRoot::shared();
    let page = Content::new("page", 3000);
    files.add(&page);
    let one = figure.config(&bed, "");
    let cluster = figure.start_with(&bed, WebServer::nginx, &files, &one);
    let vip = bed.vip(1);
    bring(&bed, vip);
    reload_all(&cluster, &format!("{one}{}", more(vip)));
    let mut last = Dial::new(SocketAddr::new(vip, 80)).patience(SOON).open(bed.client(0)).expect("connected");
    last.fetch(&page).expect("served");
    thread::sleep(Duration::from_secs(1));
    last.fetch(&page).expect("served");
    reload_all(&cluster, &one);
    last.fetch_last(&page).expect("the last of all");
    assert_eq!(holds(&cluster, vip), cluster.batons.len(), "for a while");
    wait_until(ENDED, "nothing to be left of the service", || ending(&cluster).is_empty());
    wait_until(SOON, "its VIP to be gone", || holds(&cluster, vip) == 0);
    assert!(Dial::new(cluster.service()).open(bed.client(0)).is_ok(), "the other one is there");
    cluster.stop();
}

/// Clients whose connections move all the time, while the file changes under them at one node after another.
#[test]
fn nobody_notices_under_load() {
    let figure = Figure::Seven;
    let bed = Testbed::builder().figure(figure).build();
    let files = DocRoot::shared();
    let contents: Vec<Content> = (0..12).map(|i| Content::new(&format!("c{i}"), 500 + 3000 * i)).collect();
    contents.iter().for_each(|content| drop(files.add(content)));
    let moving = "policy = \"lard\"\np_http = \"move\"\n[service.lard]\nt_low = 1\nt_high = 2\n";
    let pools = |servers: &str| {
        format!(
            "[[service.pool]]\nname = \"site\"\npolicy = \"lard\"\np_http = \"move\"\n\
             [[service.pool]]\nname = \"some\"\npolicy = \"wrr\"\nservers = [{servers}]\n\
             [[service.route]]\npool = \"some\"\npath = \"/c1\"\n"
        )
    };
    let vip = bed.vip(1);
    let plain = figure.config(&bed, moving);
    let strict = |servers: &str| plain.replacen(moving, &pools(servers), 1);
    let with_more = |text: &str| format!("{text}{}", more(vip));
    let files_to_come = [
        with_more(&plain),
        strict("\"b\", \"c\""),
        with_more(&strict("\"c\", \"d\"")),
        with_more(&strict("\"d\"")),
        plain.clone(),
    ];
    let cluster = figure.start_with(&bed, WebServer::nginx, &files, &plain);
    let load = Load::new(Dial::new(cluster.service())).connections(12).requests(40);
    let over = AtomicBool::new(false);
    let (summary, reloads) = thread::scope(|scope| {
        let reloading = scope.spawn(|| {
            let mut reloads = 0;
            for (round, text) in files_to_come.iter().cycle().take(50).enumerate() {
                if over.load(Ordering::Relaxed) && round >= files_to_come.len() {
                    break;
                }
                // Another order each time.
                for i in 0..cluster.batons.len() {
                    let baton = &cluster.batons[(i + round) % cluster.batons.len()];
                    assert_eq!(baton.reload(text)["error"], Value::Null);
                    reloads += 1;
                }
            }
            reloads
        });
        let mut summary = load.run(bed.client(0), |i, j| contents[(i * 7 + j) % contents.len()].clone());
        for _ in 0..2 {
            if summary.is_clean() {
                summary = load.run(bed.client(0), |i, j| contents[(i * 5 + j) % contents.len()].clone());
            }
        }
        over.store(true, Ordering::Relaxed);
        (summary, reloading.join().expect("no panic"))
    });
    assert!(summary.is_clean(), "{summary}");
    assert!(reloads >= 4 * files_to_come.len());
    cluster.stop();
}

/// What cannot be taken is told, and changes nothing.
#[test]
fn a_file_that_cannot_be_taken_changes_nothing() {
    let figure = Figure::Five;
    let bed = Testbed::builder().figure(figure).build();
    let files = DocRoot::shared();
    let page = Content::new("page", 3000);
    files.add(&page);
    let good = figure.config(&bed, "");
    let cluster = figure.start_with(&bed, WebServer::nginx, &files, &good);
    let baton = &cluster.batons[0];
    let error = |text: &str| baton.reload(text)["error"].as_str().unwrap_or_default().to_owned();
    let refused = error(&good.replace("port = 80", "port = 80000"));
    assert!(refused.contains("cluster.toml:") && refused.contains("= help:"), "{refused}");
    let refused = error(&good.replacen("[[node]]", "control_port = 99\n[[node]]", 1));
    assert!(refused.contains("control_port, which cannot change while the node runs"), "{refused}");
    let file = |cluster: &Cluster<'_>, name: &str| {
        node_status(&cluster.baton(name).status(), name)["file"].as_str().expect("a digest").to_owned()
    };
    assert_eq!(file(&cluster, "a"), file(&cluster, "b"));

    // By signal, at one node alone: it goes by its own file, and asks nobody who does not know the pool.
    let other = good.replace("name = \"www\"", "name = \"web\"");
    std::fs::write(bed.router().scratch().path().join("cluster.toml"), &other).expect("an own file");
    baton.process().signal(Signal::SIGHUP);
    wait_until(SOON, "the file to be taken", || file(&cluster, "a") != file(&cluster, "b"));
    let mut connection = Dial::new(cluster.service()).patience(SOON).open(bed.client(0)).expect("connected");
    connection.fetch(&page).expect("served");
    cluster.stop();
}

/// The node that decides gets the file last: until then the others choose alone.
#[test]
fn the_dispatcher_may_be_the_last_to_know() {
    let figure = Figure::Six;
    let bed = Testbed::builder().figure(figure).build();
    let files = DocRoot::shared();
    let page = Content::new("page", 3000);
    files.add(&page);
    let good = figure.config(&bed, "");
    let cluster = figure.start_with(&bed, WebServer::nginx, &files, &good);
    let two = format!(
        "{good}{}",
        more(bed.vip(0)).replace("port = 80\npolicy = \"wrr\"", "port = 81\npolicy = \"lard\"")
    );
    let dispatcher = cluster.baton("c");
    for baton in cluster.batons.iter().filter(|baton| baton.host().name() != "c") {
        assert_eq!(baton.reload(&two)["added"], json!(["more"]));
    }
    // Nothing listens on 81, but the decision is what is looked at.
    let dial = Dial::new(SocketAddr::new(cluster.vips[0], 81)).patience(Duration::from_secs(2));
    let decided = |key: &str| {
        let status = dispatcher.status();
        let nodes = ["a", "b"].map(|name| node_status(&status, name)["decisions"][key].as_u64().unwrap_or(0));
        nodes.iter().sum::<u64>()
    };
    let ask = || {
        let mut connection = dial.open(bed.client(0)).expect("the distributor answers");
        let _ = connection.fetch(&page);
    };
    ask();
    assert!(decided("fallback") >= 1 && decided("failed") == 0);
    let fallback = decided("fallback");
    assert_eq!(dispatcher.reload(&two)["added"], json!(["more"]));
    ask();
    assert_eq!((decided("fallback"), decided("failed")), (fallback, 0), "the dispatcher knows it now");
    cluster.stop();
}

/// Who else changes hosts by the same journal (`baton doctor --fix`) may have it locked for seconds: held requests are
/// answered meanwhile, orders to reload wait for their turn, and each hears what became of it.
#[test]
fn a_reload_that_waits_keeps_nothing_waiting() {
    const LOCKED_FOR: Duration = Duration::from_secs(3);
    let bed = Testbed::builder().figure(Figure::Five).build();
    let files = DocRoot::shared();
    let page = Content::new("page", 3000);
    files.add(&page);
    let one = Figure::Five.config(&bed, "").replacen(
        "policy = \"lard\"\n",
        "policy = \"lard\"\nconsult = \"always\"\n",
        1,
    );
    assert!(one.contains("always"), "{one}");
    let cluster = Figure::Five.start_with(&bed, WebServer::nginx, &files, &one);
    let front = &cluster.batons[0];
    let two = format!("{one}{}", more(bed.vip(1)));
    let journal = std::fs::File::open(front.host().scratch().path().join("baton")).expect("its folder");
    journal.lock().expect("a lock");
    let locked = Instant::now();
    thread::scope(|scope| {
        let ordered: Vec<_> = (0..2).map(|_| scope.spawn(|| front.reload(&two))).collect();
        let mut fetched = 0;
        while locked.elapsed() < LOCKED_FOR {
            let dial = Dial::new(cluster.service()).patience(Duration::from_secs(1));
            dial.open(bed.client(0)).and_then(|mut c| c.fetch(&page)).expect("answered at once");
            fetched += 1;
        }
        assert!(fetched > 3 && !ordered.iter().any(|order| order.is_finished()), "{fetched}");
        assert_eq!(cluster.counted("decided_alone"), 0, "the daemon has been there all the time");
        journal.unlock().expect("unlocked");
        let mut said: Vec<Value> = ordered.into_iter().map(|order| order.join().expect("it ends")).collect();
        said.sort_by_key(|said| said["added"].as_array().map(Vec::len));
        assert_eq!(said[0]["error"], Value::Null);
        assert_eq!((&said[0]["added"], &said[1]["added"]), (&json!([]), &json!(["more"])));
    });
    cluster.stop();
}

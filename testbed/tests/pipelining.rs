//! Many requests of one client at once, of one pool or of several, in services whose pools have different servers:
//! the right answers from the right servers, about as fast as a server alone, and nothing that a client would have
//! to send again.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use baton_testbed::{
    Cluster, Connection, Content, Dial, Disturb, DocRoot, Exchange, Figure, Framing, Kind, Testbed,
    WebServer, get,
};

/// Two pools of one server each.
const POOLS: [&str; 2] = ["b", "c"];

fn service(settings: &str) -> String {
    let mut text = String::new();
    for (pool, node) in ["first", "second"].iter().zip(POOLS) {
        let _ = writeln!(
            text,
            "[[service.pool]]\nname = {pool:?}\nservers = [{node:?}]\npolicy = \"lard\"\n{settings}"
        );
    }
    text + "[[service.route]]\npool = \"second\"\npath = \"/second/\"\n"
}

/// Who serves it.
fn home(page: &Content) -> &'static str {
    POOLS[usize::from(page.path().starts_with("/second/"))]
}

/// The request; its path as it is, or with a name in it that says nothing.
fn request(page: &Content, odd: bool) -> Vec<u8> {
    if !odd {
        return get(page, false);
    }
    let (folder, file) = page.path().rsplit_once('/').expect("a path");
    let plain = String::from_utf8(get(page, false)).expect("ASCII");
    plain.replacen(page.path(), &format!("{folder}/./{file}"), 1).into_bytes()
}

/// Requests them all, at most `depth` unanswered; checks each answer.
fn pipeline(
    connection: &mut Connection,
    pages: &[&Content],
    depth: usize,
    bare: bool,
    odd: bool,
) -> Duration {
    let started = Instant::now();
    let first: Vec<u8> = pages.iter().take(depth).flat_map(|page| request(page, odd)).collect();
    connection.send(&first).expect("sent");
    for (i, page) in pages.iter().enumerate() {
        let response = connection
            .response_of(page)
            .unwrap_or_else(|e| panic!("{} of {}, {}: {e}", i + 1, pages.len(), page.path()));
        assert!(bare || response.node() == home(page), "{}: {}", page.path(), response.node());
        if let Some(next) = pages.get(i + depth) {
            connection.send(&request(next, odd)).expect("sent");
        }
    }
    started.elapsed()
}

/// How often the pool changes.
fn changes(pages: &[&Content]) -> u32 {
    pages.windows(2).filter(|two| home(two[0]) != home(two[1])).count() as u32
}

/// What a bare server and so many moves may take: on a machine that has other work, a move, which needs two processes
/// to run, may wait for its turn some times. A client's timeout, of which the faults of this kind were made, is 200
/// ms at least and doubles.
fn allowed(bare: Duration, changes: u32) -> Duration {
    10 * bare + Duration::from_millis(100) + Duration::from_millis(20) * changes
}

/// What Linux waits at least before it sends again.
const CLIENTS_TIMEOUT: Duration = Duration::from_millis(200);
/// A node that has not got to read a packet for so long tells the client that it is missing.
const GAP_TOLD: Duration = Duration::from_millis(40);
const ATTEMPTS: u32 = 3;

struct Bed<'a> {
    bed: &'a Testbed,
    cluster: &'a Cluster<'a>,
    /// Whether paths are spelt so that the programs cannot read them.
    odd: bool,
}

impl Bed<'_> {
    fn open(&self, to: SocketAddr) -> Connection {
        Dial::new(to).patience(Duration::from_secs(20)).open(self.bed.client(0)).expect("answered")
    }

    /// Segments that the client sent again; without probes, which it sends two round trips after the last
    /// acknowledgement: less than a millisecond here.
    fn retransmitted(&self) -> u64 {
        self.bed.client(0).kernel_counter("RetransSegs")
    }

    fn run(&self, what: &str, pages: &[&Content], depth: usize) {
        let server = self.bed.nodes().iter().find(|host| host.name() == POOLS[0]).expect("a server");
        let changes = changes(pages);
        for attempt in 1.. {
            let bare = pipeline(&mut self.open(server.at(80)), pages, depth, true, self.odd);
            let before = self.retransmitted();
            let took = pipeline(&mut self.open(self.cluster.service()), pages, depth, false, self.odd);
            let again = self.retransmitted() - before;
            let n = pages.len();
            println!(
                "{what}, {n} at depth {depth}: bare {bare:?}, {took:?}, {changes} changes, {again} again"
            );
            // Where everything has to wait for its turn, a client may lose patience without any loss.
            let is_late = took > CLIENTS_TIMEOUT && took > allowed(bare, changes);
            if (is_late || (took > GAP_TOLD && again > 0)) && attempt < ATTEMPTS {
                continue;
            }
            assert_eq!(again, 0, "{what}, depth {depth}: sent again");
            assert!(took <= allowed(bare, changes), "{what}, depth {depth}: {took:?}, bare {bare:?}");
            return;
        }
    }
}

fn every_shape(settings: &str) {
    let bed = Testbed::builder().figure(Figure::Five).build();
    bed.client(0).sysctl("net.ipv4.tcp_early_retrans", "0");
    let files = DocRoot::shared();
    let sizes = [634, 70_000];
    let pages = sizes.map(|size| ["a", "second/b"].map(|name| Content::new(name, size)));
    pages.iter().flatten().for_each(|page| drop(files.add(page)));
    let cluster = Figure::Five.start(&bed, WebServer::nginx, &files, &service(settings));
    let on = Bed { bed: &bed, cluster: &cluster, odd: false };
    for [first, second] in &pages {
        let alike = |n| vec![first; n];
        let others = |n| vec![second; n];
        let in_turn = |n| [first, second].into_iter().cycle().take(n).collect::<Vec<_>>();
        for depth in [3, 10] {
            on.run("one pool", &alike(40), depth);
            on.run("the other pool", &others(40), depth);
            on.run("in turn", &in_turn(40), depth);
        }
        for n in [10, 30, 100, 300] {
            let n = if first.size() > 1000 { n / 5 } else { n };
            on.run("one pool at once", &alike(n), n);
            on.run("in turn at once", &in_turn(n), n);
        }
        let runs: Vec<&Content> = (0..60).map(|i| if i / 5 % 2 == 0 { first } else { second }).collect();
        on.run("five and five at once", &runs, runs.len());
    }
    on.run("a thousand at once", &vec![&pages[0][0]; 1000], 1000);
    for fault in ["drop_loop", "drop_gap", "drop_early_request", "fault_rewrite", "fault_map", "event_lost"] {
        assert_eq!(cluster.counted(fault), 0, "{fault}");
    }
    cluster.stop();
}

#[test]
fn requests_that_move() {
    every_shape("p_http = \"move\"\n");
}

#[test]
fn requests_that_stay_in_their_pool() {
    every_shape("p_http = \"stay\"\n");
}

/// A slow client's: requests in turn, in pieces that end anywhere.
#[test]
fn requests_that_come_in_pieces() {
    let bed = Testbed::builder().figure(Figure::Five).build();
    bed.client(0).sysctl("net.ipv4.tcp_early_retrans", "0");
    let files = DocRoot::shared();
    let [first, second] = ["a", "second/b"].map(|name| Content::new(name, 634));
    [&first, &second].into_iter().for_each(|page| drop(files.add(page)));
    let cluster = Figure::Five.start(&bed, WebServer::nginx, &files, &service("p_http = \"move\"\n"));
    let on = Bed { bed: &bed, cluster: &cluster, odd: false };
    let in_pieces = |n, piece| {
        let mut connection = on.open(cluster.service());
        // Who serves the connection has no more to do when the rest begins.
        pipeline(&mut connection, &[&first], 1, false, false);
        let pages: Vec<&Content> = [&second, &first].into_iter().cycle().take(n).collect();
        let bytes: Vec<u8> = pages.iter().flat_map(|page| request(page, false)).collect();
        for part in bytes.chunks(piece) {
            connection.send(part).expect("sent");
            thread::sleep(Duration::from_millis(3));
        }
        for page in &pages {
            let response = connection.response_of(page).unwrap_or_else(|e| panic!("{n}, {piece}: {e}"));
            assert_eq!(response.node(), home(page), "{n}, {piece}");
        }
    };
    for (n, piece) in [(1, 30), (2, 30), (3, 30), (31, 30), (61, 500), (61, 1100), (61, 3100)] {
        // As above: a machine that has other work may be late.
        let again = || {
            let before = on.retransmitted();
            in_pieces(n, piece);
            on.retransmitted() - before
        };
        assert!((0..ATTEMPTS).any(|_| again() == 0), "{n} in pieces of {piece}: sent again");
    }
    for fault in ["drop_loop", "drop_gap", "drop_early_request", "fault_rewrite", "fault_map", "event_lost"] {
        assert_eq!(cluster.counted(fault), 0, "{fault}");
    }
    cluster.stop();
}

/// As a flat repository of apt's has it: paths that the programs cannot read.
#[test]
fn paths_that_only_user_space_reads() {
    let bed = Testbed::builder().figure(Figure::Five).build();
    bed.client(0).sysctl("net.ipv4.tcp_early_retrans", "0");
    let files = DocRoot::shared();
    let [first, second] = ["a", "second/b"].map(|name| Content::new(name, 634));
    [&first, &second].into_iter().for_each(|page| drop(files.add(page)));
    let cluster = Figure::Five.start(&bed, WebServer::nginx, &files, &service("p_http = \"move\"\n"));
    let on = Bed { bed: &bed, cluster: &cluster, odd: true };
    let in_turn = |n| [&first, &second].into_iter().cycle().take(n).collect::<Vec<_>>();
    on.run("one pool", &vec![&first; 40], 10);
    on.run("in turn", &in_turn(40), 10);
    for n in [10, 30, 100] {
        on.run("one pool at once", &vec![&first; n], n);
        on.run("in turn at once", &in_turn(n), n);
    }
    cluster.stop();
}

/// A package of Debian's, of about so many bytes that cannot be packed tighter.
fn package(dir: &Path, name: &str, bytes: usize) {
    let root = dir.join(format!("tree-{name}"));
    fs::create_dir_all(root.join("DEBIAN")).expect("a directory of ours");
    let control = format!(
        "Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\nDescription: nothing\n"
    );
    fs::write(root.join("DEBIAN/control"), control).expect("written");
    let noise: Vec<u8> =
        (0..bytes as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    fs::write(root.join("noise"), noise).expect("written");
    let made = Command::new("dpkg-deb").args(["-Znone", "--build"]).arg(&root).arg(dir).output();
    assert!(made.expect("dpkg-deb is there").status.success());
    fs::remove_dir_all(root).expect("ours");
}

/// apt-get, whose pipeline is ten deep: an index, then packages of both pools.
#[test]
fn apt_get() {
    const PACKAGES: usize = 60;
    let bed = Testbed::builder().figure(Figure::Five).build();
    let files = DocRoot::private();
    let (root, mut index) = (files.path().to_owned(), String::new());
    for pool in ["first", "second", "index"] {
        fs::create_dir_all(root.join(pool)).expect("a directory of ours");
    }
    for i in 0..PACKAGES {
        let (pool, name) = (["first", "second"][i / 4 % 2], format!("p{i}"));
        package(&root.join(pool), &name, if i % 5 == 0 { 200_000 } else { 3000 });
        let file = format!("{pool}/{name}_1_all.deb");
        let size = fs::metadata(root.join(&file)).expect("built").len();
        let sum = Command::new("sha256sum").arg(root.join(&file)).output().expect("coreutils").stdout;
        let sum = String::from_utf8_lossy(&sum).split(' ').next().unwrap_or_default().to_owned();
        let _ = write!(
            index,
            "Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\n\
             Filename: {file}\nSize: {size}\nSHA256: {sum}\nDescription: nothing\n\n"
        );
    }
    files.write("index/Packages", index);
    let cluster = Figure::Five.start(&bed, WebServer::nginx, &files, &service("p_http = \"move\"\n"));
    let server = bed.nodes().iter().find(|host| host.name() == POOLS[0]).expect("a server");
    let client = bed.client(0);
    client.sysctl("net.ipv4.tcp_early_retrans", "0");
    let fetch = |to: SocketAddr, name: &str| {
        let dir = client.scratch().path().join(name);
        for part in ["state/lists/partial", "cache/archives/partial", "got"] {
            fs::create_dir_all(dir.join(part)).expect("a directory of ours");
        }
        fs::write(dir.join("sources"), format!("deb [trusted=yes] http://{to}/ index/\n")).expect("written");
        fs::write(dir.join("status"), "").expect("written");
        let path = |part: &str| dir.join(part).display().to_string();
        let options = [
            format!("Dir::Etc::SourceList={}", path("sources")),
            "Dir::Etc::SourceParts=/dev/null".into(),
            format!("Dir::State={}", path("state")),
            format!("Dir::State::Status={}", path("status")),
            format!("Dir::Cache={}", path("cache")),
            "APT::Sandbox::User=root".into(),
            "Acquire::http::Proxy=false".into(),
            "Acquire::Languages=none".into(),
        ];
        let names: Vec<String> = (0..PACKAGES).map(|i| format!("p{i}")).collect();
        let install =
            ["install", "--yes", "--download-only", "--no-install-recommends"].map(str::to_owned).to_vec();
        let started = Instant::now();
        let mut said = String::new();
        for words in [vec!["update".to_owned()], [install, names].concat()] {
            let mut apt = client.command("apt-get");
            apt.args(options.iter().flat_map(|option| ["-o", option])).args(&words);
            let ended = apt.current_dir(path("got")).output().expect("apt-get is there");
            let text = String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
            assert!(ended.status.success(), "{words:?}: {text}");
            said += &text;
        }
        let there = fs::read_dir(path("cache/archives")).expect("there").flatten();
        let got = there.filter(|file| file.path().extension().is_some_and(|ext| ext == "deb")).count();
        assert_eq!(got, PACKAGES, "{said}");
        started.elapsed()
    };
    let bare = fetch(server.at(80), "bare");
    let took = fetch(cluster.service(), "baton");
    println!("apt-get: bare {bare:?}, {took:?}");
    // It needs as long itself, and the pool changes every four packages.
    assert!(took <= allowed(bare, PACKAGES as u32 / 4), "{took:?}, bare {bare:?}");
    cluster.stop();
}

/// Bodies among them, chunked and not, in packets that end anywhere.
#[test]
fn bodies_between_pools() {
    let bed = Testbed::builder().figure(Figure::Five).wire().without_offloads().build();
    let files = DocRoot::shared();
    for (name, size) in [("a", 80), ("a", 12_003), ("second/b", 501), ("second/b", 1390)] {
        files.add(&Content::new(name, size));
    }
    let mut pools = service("p_http = \"move\"\n").replace("[\"c\"]", "[\"c\", \"d\"]");
    for place in ["echo", "check"] {
        let _ = writeln!(pools, "[[service.route]]\npool = \"second\"\npath = \"/app/{place}/second/\"");
    }
    let cluster = Figure::Five.start(&bed, WebServer::nginx_before_app, &files, &pools);
    let get = |name: &str, size| Exchange::new(name, size, Kind::Get);
    let echo = |name: &str, size, framing| Exchange::new(name, size, Kind::Echo(framing));
    let (whole, pieces) = (Framing::Chunked(100_000), Framing::Chunked(154));
    let batches = [
        vec![
            get("a", 80),
            get("second/b", 501),
            echo("a", 12_003, whole),
            echo("second/b", 1390, Framing::Length),
        ],
        vec![echo("second/b", 501, pieces), get("a", 80), echo("a", 1390, pieces), get("second/b", 501)],
        vec![echo("a", 12_003, pieces), echo("second/b", 12_003, whole), get("a", 80)],
    ];
    for round in 0..10 {
        for (number, batch) in batches.iter().enumerate() {
            let mut connection = Dial::new(cluster.service()).open(bed.client(0)).expect("answered");
            let all: Vec<u8> = batch.iter().flat_map(Exchange::request).collect();
            connection.send(&all).expect("sent");
            for one in batch {
                let answered = connection.response_to(one);
                let response =
                    answered.unwrap_or_else(|e| panic!("{number}, {round}, {}: {e}", one.content().path()));
                let second = one.content().path().contains("/second/");
                assert_eq!(response.node() == "b", !second, "{number}, {round}, {}", one.content().path());
            }
        }
    }
    cluster.stop();
}

/// Uploads in small chunks over a line that loses, doubles and reorders: of what comes behind a gap the client hears
/// at once, and repeats what is missing before its timeout. (Else each loss doubles the timeout: minutes.)
#[test]
fn uploads_over_a_bad_line() {
    let bed = Testbed::builder().figure(Figure::Five).wire().without_offloads().build();
    let files = DocRoot::shared();
    files.add(&Content::new("a", 80));
    let mut pools = service("p_http = \"move\"\n");
    let _ = writeln!(pools, "[[service.route]]\npool = \"second\"\npath = \"/app/check/second/\"");
    let cluster = Figure::Five.start(&bed, WebServer::nginx_before_app, &files, &pools);
    let line = bed.disturb(0, Disturb::new(7).lose(1.0).reorder(2.0).double(1.0));
    let upload = Exchange::new("second/b", 1_000_000, Kind::Check(Framing::Chunked(1000)));
    for round in 0..8 {
        let dial = Dial::new(cluster.service()).patience(Duration::from_secs(20));
        let mut connection = dial.open(bed.client(0)).expect("answered");
        let began = Instant::now();
        for one in [&Exchange::new("a", 80, Kind::Get), &upload, &upload] {
            let answered = connection.send_request(one).and_then(|()| connection.response_to(one));
            answered.unwrap_or_else(|e| panic!("{round}, {}: {e}", one.content().path()));
        }
        println!("2 MB in {:?}", began.elapsed());
    }
    drop(line);
    cluster.stop();
}

//! `baton status` against a daemon that the test plays, and what a status message may hold.

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

use baton_datapath::Counter;
use baton_node::status::{
    ClusterStatus, ConnectionState, ConnectionStatus, CounterKind, CounterStatus, DecisionStatus,
    DispatcherStanding, DispatcherStatus, EndingStatus, HandoffStatus, HostStatus, LoadStatus, NodeStatus,
    ReaderStatus, Reloaded, TroubleStatus, UnknownStatus,
};
use common::{Scratch, baton};

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn connection(peer: &str) -> ConnectionStatus {
    ConnectionStatus {
        peer: peer.to_owned(),
        state: ConnectionState::Up,
        since_s: 61,
        rtt_us: Some(1234),
        clock_ahead_us: Some(-1_500_000),
        path_mtu: Some(1400),
        messages_in: 7,
        messages_out: 8,
        bytes_in: 1500,
        bytes_out: 999,
        last_error: None,
    }
}

fn counter(name: &str, kind: CounterKind, count: u64) -> CounterStatus {
    CounterStatus { name: name.to_owned(), kind, count, text: format!("{name}, in a sentence") }
}

/// A front-end and two servers, one of them dead.
fn cluster() -> ClusterStatus {
    let load = |server: &str, live| LoadStatus {
        server: server.to_owned(),
        serving: 3,
        assigned: 1,
        live,
        weight: 2,
    };
    let dead = ConnectionStatus {
        state: ConnectionState::Down,
        rtt_us: None,
        clock_ahead_us: None,
        path_mtu: None,
        last_error: Some("no route to host".to_owned()),
        ..connection("s2")
    };
    let front = NodeStatus {
        name: "front".to_owned(),
        id: 0,
        address: "10.1.0.10".to_owned(),
        roles: names(&["distributor", "dispatcher"]),
        reachable: true,
        since_s: 3700,
        version: "0.1.0".to_owned(),
        connections: vec![connection("s1"), dead],
        loads: vec![load("s1", true), load("s2", false)],
        decisions: DecisionStatus {
            in_kernel: 901,
            known: 12,
            asked: 52,
            reasked: 7,
            unreachable: 2,
            answered: 51,
            batches: 43,
            held_now: 4,
            failed: 5,
            fallback: 6,
            decided: 57,
            moves: 8,
            targets: Some(99),
            learned: 17,
            ready: Some(true),
            dispatchers: vec![DispatcherStatus {
                dispatcher: "front".to_owned(),
                standing: DispatcherStanding::Asked,
                late: 0,
            }],
        },
        reader: ReaderStatus {
            reading_now: 1,
            read: 20,
            doubtful: 2,
            too_slow: 3,
            too_long: 4,
            refused: 5,
            alerted: 9,
            gone: 6,
            replayed: 19,
            repeated: 7,
            failed: 8,
        },
        unknown: UnknownStatus {
            asking_now: 1,
            asked: 30,
            found: 20,
            reset: 5,
            begun: 6,
            unanswered: 3,
            coming: 2,
            overflowed: 4,
        },
        handoffs: vec![HandoffStatus { to: "s1".to_owned(), count: 950 }],
        counters: vec![
            counter("syn_answered", CounterKind::Normal, 1000),
            counter("drop_loop", CounterKind::Drop, 11),
            counter("drop_never", CounterKind::Drop, 0),
            counter("no_listener", CounterKind::Reset, 12),
            counter("broken", CounterKind::Fault, 13),
        ],
        ..NodeStatus::default()
    };
    let s1 = NodeStatus {
        name: "s1".to_owned(),
        id: 1,
        address: "10.1.0.11".to_owned(),
        roles: names(&["server"]),
        reachable: true,
        since_s: 59,
        version: "0.1.0".to_owned(),
        connections: vec![connection("front")],
        serving: 3,
        adopted: 950,
        closed: 947,
        bytes_served: 1_234_567,
        troubles: TroubleStatus { errors: 3, last: Some("a load: no room".to_owned()), icmp_held_back: 0 },
        ..NodeStatus::default()
    };
    let s2 = NodeStatus {
        name: "s2".to_owned(),
        id: 2,
        address: "10.1.0.12".to_owned(),
        roles: names(&["server"]),
        ..NodeStatus::default()
    };
    ClusterStatus { cluster: "web".to_owned(), asked: "front".to_owned(), nodes: vec![front, s1, s2] }
}

/// Answers one question at this socket with `answer`, and returns the question.
fn daemon(socket: &Path, answer: Vec<u8>) -> thread::JoinHandle<String> {
    let listener = UnixListener::bind(socket).expect("a new socket");
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a question");
        let mut question = [0; 7];
        stream.read_exact(&mut question).expect("a whole question");
        stream.write_all(&answer).expect("somebody listens");
        String::from_utf8_lossy(&question).into_owned()
    })
}

fn json(status: &ClusterStatus) -> Vec<u8> {
    serde_json::to_vec(status).expect("JSON")
}

#[test]
fn status_is_told_in_tables() {
    let dir = Scratch::new("tables");
    let daemon = daemon(&dir.0.join("front.sock"), json(&cluster()));
    let status = baton(&dir, &["status", "--run-dir", "."]).exits(3);
    assert_eq!((daemon.join().expect("no panic"), status.err), ("status\n".to_owned(), String::new()));
    let expected = "\
cluster web, as front sees it: NOT WELL, 1 problem, 1 warning
  s2 has been down for 1m 1s: no route to host
    -> does `baton node` run on s2? Its log says more, and so does `baton status` there
  warning: wall clocks differ: s1 is 2s behind
    -> set them right (timedatectl set-ntp true); no handoff depends on them, but logs cannot be compared

NODE   ROLES                    STATE  ADDRESS    SINCE  RTT     VERSION
front  distributor, dispatcher  up     10.1.0.10  1h 1m  -       0.1.0
s1     server                   up     10.1.0.11  59s    1.2 ms  0.1.0
s2     server                   down   10.1.0.12  0s     -       -

CONTROL CONNECTION  STATE  SINCE  RTT     CLOCK  PATH MTU  MESSAGES IN / OUT  BYTES IN / OUT  WHY DOWN
front - s1          up     1m 1s  1.2 ms  -1 s   1400      7 / 8              1.5 kB / 999 B  -
front - s2          down   1m 1s  -       -      -         7 / 8              1.5 kB / 999 B  no route to host

SERVER  LIVE  WEIGHT  SERVING  + ASSIGNED  ADOPTED  CLOSED  SERVED
s1      yes   2       3        1           950      947     1.2 MB
s2      no    2       3        1           -        -       -

DISTRIBUTOR  ASKS   IN KERNEL  KNOWN  ASKED  AGAIN  ANSWERED  BATCHES  HELD NOW  UNREACHED  FAILED  FALLBACK
front        front  901        12     52     7      51        43       4         2          5       6

READER  READING NOW  READ  LEFT  400 / 408 / 431 / 503  ALERTS  REPLAYED  REPEATED  FAILED
front   1            20    6     2 / 3 / 4 / 5          9       19        7         8

UNKNOWN  ASKING NOW  ASKED  FOUND  RESET  BEGUN  UNANSWERED  COMING  OVERFLOWED
front    1           30     20     5      6      3           2       4

DISPATCHER  READY  ASKED BY  SLOW FOR  DECIDED  MOVES  TARGETS  LEARNED
front       yes    front     -         57       8      99       17

HANDED OFF BY  TO  CONNECTIONS
front          s1  950

NODE   WHAT     COUNT  REASON       MEANS
front  dropped  11     drop_loop    drop_loop, in a sentence
front  refused  12     no_listener  no_listener, in a sentence
front  FAULT    13     broken       broken, in a sentence
s1     FAULT    3      errors       of the daemon, which went on; the last: a load: no room
";
    assert_eq!(status.out, expected);
}

#[test]
fn status_as_json_is_all_that_the_daemon_said() {
    let dir = Scratch::new("json");
    let daemon = daemon(&dir.0.join("front.sock"), json(&cluster()));
    let status = baton(&dir, &["status", "--run-dir", ".", "--node", "front", "--json"]).exits(3);
    daemon.join().expect("no panic");
    let told: ClusterStatus = serde_json::from_str(&status.out).expect("JSON");
    assert_eq!(told, cluster());
    assert_eq!(status.json()["nodes"][0]["connections"][1]["state"], "down");
    assert_eq!(status.json()["nodes"][0]["counters"][1]["kind"], "drop");
    let verdict = &status.json()["verdict"];
    assert_eq!((&verdict["well"], &verdict["problems"][0]["nodes"][0]), (&false.into(), &"s2".into()));
    assert_eq!(verdict["warnings"][0]["nodes"], serde_json::json!(["s1"]));
}

/// Two nodes, whose clocks and links are not as they should be: no reason to call anybody.
#[test]
fn of_warnings_alone_status_says_so_and_exits_with_0() {
    let dir = Scratch::new("warned");
    let mut status = cluster();
    status.nodes.truncate(2);
    let front = &mut status.nodes[0];
    (front.link_mtu, front.loads) = (1500, Vec::new());
    front.connections.truncate(1);
    let daemon = daemon(&dir.0.join("front.sock"), json(&status));
    let said = baton(&dir, &["status", "--run-dir", "."]).exits(0);
    daemon.join().expect("no panic");
    let begins =
        "cluster web, as front sees it: well, 2 warnings\n  warning: wall clocks differ: s1 is 2s behind\n";
    assert!(said.out.starts_with(begins), "{}", said.out);
    assert!(said.out.contains("warning: packets between front and s1 may have 1400 bytes"), "{}", said.out);
}

/// One node, which is all right.
fn alone() -> ClusterStatus {
    let node = NodeStatus { name: "a".to_owned(), reachable: true, ..NodeStatus::default() };
    ClusterStatus { cluster: "web".to_owned(), asked: "a".to_owned(), nodes: vec![node] }
}

#[test]
fn of_a_cluster_that_is_well_status_says_so_and_exits_with_0() {
    let dir = Scratch::new("well");
    let first = daemon(&dir.0.join("a.sock"), json(&alone()));
    let status = baton(&dir, &["status", "--run-dir", "."]).exits(0);
    first.join().expect("no panic");
    assert!(status.out.starts_with("cluster web, as a sees it: well\n\n"), "{}", status.out);
    let dir = Scratch::new("well-json");
    let second = daemon(&dir.0.join("a.sock"), json(&alone()));
    let status = baton(&dir, &["status", "--run-dir", ".", "--json"]).exits(0);
    second.join().expect("no panic");
    assert_eq!(status.json()["verdict"], serde_json::json!({ "well": true, "problems": [], "warnings": [] }));
}

/// Why a connection could not be made before it was is no news.
#[test]
fn an_error_that_is_over_is_not_shown() {
    let dir = Scratch::new("over");
    let mut status = cluster();
    status.nodes[0].connections[0].last_error = Some("Connection refused".to_owned());
    let daemon = daemon(&dir.0.join("front.sock"), json(&status));
    let told = baton(&dir, &["status", "--run-dir", "."]).exits(3).out;
    daemon.join().expect("no panic");
    assert!(!told.contains("refused (os") && !told.contains("Connection refused"), "{told}");
}

#[test]
fn without_a_daemon_status_says_so() {
    let dir = Scratch::new("none");
    let none = |arguments: &[&str]| {
        let none = baton(&dir, arguments).exits(1);
        assert!(none.err.contains("no daemon runs here"), "{}", none.err);
        assert!(none.err.contains("start it with `baton node`"), "{}", none.err);
        assert_eq!(none.out, "");
    };
    none(&["status", "--run-dir", "."]);
    none(&["status", "--run-dir", "./nowhere"]);
    none(&["status", "--run-dir", ".", "--node", "s1"]);
    for command in ["status", "reload"] {
        let none = baton(&dir, &[command, "--run-dir", ".", "--node", "s1", "--json"]).exits(1);
        assert_eq!(none.err, "");
        let told = none.json();
        assert_eq!(told["error"], "no daemon runs here: nobody listens at ./s1.sock");
        assert!(told["help"].is_string() && told["exit_code"] == 1, "{told}");
    }
    // Its socket is left when a daemon was killed.
    drop(UnixListener::bind(dir.0.join("s1.sock")).expect("a new socket"));
    none(&["status", "--run-dir", "."]);
}

#[test]
fn of_several_daemons_one_must_be_chosen() {
    let dir = Scratch::new("several");
    let _other = UnixListener::bind(dir.0.join("s1.sock")).expect("a new socket");
    let daemon = daemon(&dir.0.join("front.sock"), json(&cluster()));
    let several = baton(&dir, &["status", "--run-dir", "."]).exits(2);
    assert!(several.err.contains("front, s1") && several.err.contains("--node"), "{}", several.err);
    baton(&dir, &["status", "--run-dir", ".", "--node", "front"]).exits(3);
    daemon.join().expect("no panic");
}

#[test]
fn a_daemon_that_says_nothing_or_nonsense_is_not_waited_for() {
    let dir = Scratch::new("mute");
    let _mute = UnixListener::bind(dir.0.join("mute.sock")).expect("a new socket");
    let mute = baton(&dir, &["status", "--run-dir", ".", "--node", "mute"]).exits(1);
    assert!(mute.err.contains("has not answered for 2 s"), "{}", mute.err);
    for (name, answer) in
        [("odd", &b"{\"cluster\": 1}"[..]), ("short", b"{\"cluster\": \"web\""), ("empty", b"")]
    {
        let daemon = daemon(&dir.0.join(format!("{name}.sock")), answer.to_owned());
        let odd = baton(&dir, &["status", "--run-dir", ".", "--node", name]).exits(1);
        assert!(odd.err.contains("cannot be understood"), "{}", odd.err);
        daemon.join().expect("no panic");
    }
}

#[test]
fn a_node_of_the_largest_cluster_fits_a_status_message() {
    let most = 256;
    let name = "n".repeat(32);
    let node = NodeStatus {
        name: name.clone(),
        id: u16::MAX,
        address: "255.255.255.255".to_owned(),
        roles: names(&["switch", "distributor", "dispatcher", "server"]),
        reachable: true,
        since_s: u64::from(u32::MAX),
        version: "10.10.10".to_owned(),
        connections: vec![
            ConnectionStatus {
                peer: name.clone(),
                // What is measured of a connection goes with it, and gives room for the reason.
                state: ConnectionState::Down,
                rtt_us: None,
                clock_ahead_us: None,
                path_mtu: Some(u16::MAX),
                messages_in: u64::from(u32::MAX),
                messages_out: u64::from(u32::MAX),
                bytes_in: 1 << 48,
                bytes_out: 1 << 48,
                last_error: Some("e".repeat(ConnectionStatus::ERROR_BYTES_LEAST)),
                ..connection("")
            };
            most - 1
        ],
        loads: vec![
            LoadStatus {
                server: name.clone(),
                serving: 100_000,
                assigned: 100_000,
                live: true,
                weight: 100
            };
            most
        ],
        decisions: DecisionStatus {
            dispatchers: vec![DispatcherStatus { dispatcher: name.clone(), ..Default::default() }; 8],
            ..DecisionStatus::default()
        },
        handoffs: vec![HandoffStatus { to: name, count: u64::from(u32::MAX) }; most],
        counters: Counter::all()
            .map(|counter| CounterStatus {
                name: counter.name().to_owned(),
                kind: CounterKind::Normal,
                count: u64::from(u32::MAX),
                text: counter.text().to_owned(),
            })
            .collect(),
        troubles: TroubleStatus {
            errors: u64::MAX,
            last: Some("e".repeat(TroubleStatus::ERROR_BYTES_MAX)),
            icmp_held_back: u64::MAX,
        },
        host: HostStatus {
            mended: u64::MAX,
            followed: u64::MAX,
            last: Some("h".repeat(HostStatus::TEXT_BYTES_MAX)),
            fought: Some("h".repeat(HostStatus::TEXT_BYTES_MAX)),
            lost: Some("h".repeat(HostStatus::TEXT_BYTES_MAX)),
            misplaced: Some("h".repeat(HostStatus::TEXT_BYTES_MAX)),
            in_front: vec!["i".repeat(15); HostStatus::IN_FRONT_MAX],
        },
        ..NodeStatus::default()
    };
    let bytes = postcard::to_stdvec(&node).expect("postcard");
    let bound = baton_control::message::STATUS_BYTES_MAX;
    assert!(bytes.len() <= bound, "{} bytes, at most {bound}", bytes.len());
    assert_eq!(postcard::from_bytes::<NodeStatus>(&bytes).expect("postcard"), node);
}

#[test]
fn status_tells_of_files_that_differ_and_services_that_end() {
    let dir = Scratch::new("ending");
    let node = |name: &str, file: &str, ending: &[(&str, u64)]| NodeStatus {
        name: name.to_owned(),
        reachable: true,
        file: file.to_owned(),
        ending: ending
            .iter()
            .map(|(service, connections)| EndingStatus {
                service: (*service).to_owned(),
                connections: *connections,
            })
            .collect(),
        ..NodeStatus::default()
    };
    let nodes = vec![node("a", "00aa", &[("old", 7), ("older", 0)]), node("b", "00bb", &[("old", 3)])];
    let status = ClusterStatus { cluster: "web".to_owned(), asked: "a".to_owned(), nodes };
    let daemon = daemon(&dir.0.join("a.sock"), json(&status));
    let told = baton(&dir, &["status", "--run-dir", "."]).exits(3).out;
    daemon.join().expect("no panic");
    assert!(told.contains("\n  nodes go by 2 cluster files: a by 00aa; b by 00bb\n    -> "), "{told}");
    let expected = "
NODE  ITS CLUSTER FILE DIFFERS
a     00aa
b     00bb

ENDING SERVICE  NODE  CONNECTIONS LEFT
old             a     7
older           a     0
old             b     3
";
    assert!(told.ends_with(expected), "{told}");
}

#[test]
fn reload_tells_what_has_changed_or_why_not() {
    let names = |names: &[&str]| -> Vec<String> { names.iter().map(|name| (*name).to_owned()).collect() };
    let told = |reloaded: &Reloaded, options: &[&str], code| {
        let dir = Scratch::new("reload");
        let json = serde_json::to_vec(reloaded).expect("JSON");
        let daemon = daemon(&dir.0.join("a.sock"), json);
        let told = baton(&dir, &[&["reload", "--run-dir", "."], options].concat()).exits(code);
        assert_eq!(daemon.join().expect("no panic"), "reload\n");
        told
    };
    let same = Reloaded { node: "a".to_owned(), ..Reloaded::default() };
    assert_eq!(told(&same, &[], 0).out, "a goes by that file already\n");
    let (added, removed) = (names(&["new", "newer"]), names(&["old"]));
    let other = Reloaded { added, removed, ..same };
    assert_eq!(told(&other, &[], 0).out, "a goes by the file now; new: new, newer; ending: old\n");
    let json: Reloaded = serde_json::from_str(&told(&other, &["--json"], 0).out).expect("JSON");
    assert_eq!(json, other);
    let refused =
        Reloaded { error: Some("it changes node a\n  help: do not".to_owned()), ..Reloaded::default() };
    assert_eq!(told(&refused, &[], 78).err, "error: it changes node a\n  help: do not\n");
    let json = told(&refused, &["--json"], 78);
    assert_eq!(
        (serde_json::from_str::<Reloaded>(&json.out).expect("JSON"), json.err),
        (refused, String::new())
    );
    let mistakes =
        Reloaded { error: Some("error: no policy\n  --> cluster.toml:3".to_owned()), ..Reloaded::default() };
    assert_eq!(told(&mistakes, &[], 78).err, "error: no policy\n  --> cluster.toml:3\n");
}

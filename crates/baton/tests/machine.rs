//! `baton doctor` and `baton node` on a machine: a fresh network namespace that ends with the
//! process. Needs root, as what it tests does.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Ran, Scratch, baton, in_namespace, run, workspace};
use serde_json::Value;

/// For anything that is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// As an ordinary user would run it.
const UNPRIVILEGED: &str = "setpriv --bounding-set=-all --inh-caps=-all";

#[track_caller]
fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "after {PATIENCE:?} still not {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Severity by id.
fn findings(report: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let findings = report["findings"].as_array().expect("a list");
    findings.iter().map(|finding| (text(&finding["id"]), text(&finding["severity"]))).collect()
}

fn in_fresh_namespace(dir: &Scratch, script: &str) -> Ran {
    run(&mut in_namespace(dir, script))
}

#[test]
fn doctor_names_what_is_wrong_and_what_mends_it() {
    let dir = Scratch::new("doctor");
    dir.one_node();
    let doctor = in_fresh_namespace(&dir, "exec $BATON doctor --config one.toml --node n1").exits(1);
    assert_eq!(doctor.err, "");
    let lines: Vec<_> = doctor.out.lines().collect();
    let at = lines.iter().position(|line| line.starts_with("error    vip-loopback ")).expect(&doctor.out);
    assert!(lines[at + 1].trim_start().starts_with("-> ip addr add 10.99.0.1/32 dev lo"), "{}", doctor.out);
    assert!(lines.iter().any(|line| line.starts_with("ok       capabilities ")), "{}", doctor.out);
    assert!(lines.last().is_some_and(|line| line.starts_with("n1: ") && line.contains("`--fix` mends")));
}

#[test]
fn doctor_mends_what_can_be_mended_safely_once() {
    let dir = Scratch::new("fix");
    dir.one_node();
    let script = "doctor() { $BATON doctor --config one.toml --node n1 --run-dir . --json \"$@\" || true; }
                  echo '['; doctor; echo ,; doctor --fix; echo ,; doctor --fix; echo ']'";
    let reports = in_fresh_namespace(&dir, script).exits(0).json();
    let [before, fixed, again] = reports.as_array().expect("a list").as_slice() else {
        panic!("three reports: {reports}")
    };
    for id in ["vip-loopback", "arp-ignore", "arp-announce"] {
        assert_eq!(findings(before)[id], "error", "{before}");
        assert_eq!(findings(fixed)[id], "ok", "{fixed}");
    }
    assert!(before["errors"].as_u64() > fixed["errors"].as_u64(), "{reports}");
    assert_eq!(before["changed"].as_array().map(Vec::len), Some(0));
    assert!(fixed["changed"].as_array().is_some_and(|changed| changed.len() >= 3), "{fixed}");
    assert_eq!(again["changed"].as_array().map(Vec::len), Some(0), "{again}");
    assert!(fixed["fix_error"].is_null() && again["fix_error"].is_null(), "{reports}");
}

#[test]
fn doctor_without_privileges_still_tells_and_cannot_mend() {
    let dir = Scratch::new("plain");
    dir.one_node();
    let doctor = |more: &str| {
        let script = format!(
            "exec {UNPRIVILEGED} $BATON doctor --config one.toml --node n1 --run-dir . --json {more}"
        );
        in_fresh_namespace(&dir, &script).exits(1).json()
    };
    let report = doctor("");
    assert_eq!(findings(&report)["capabilities"], "error", "{report}");
    assert!(report["fix_error"].is_null());
    let report = doctor("--fix");
    assert!(report["fix_error"].is_string(), "{report}");
    assert_eq!(findings(&report)["vip-loopback"], "error", "{report}");
}

/// A cluster of two, of which n1 has but one role, and announces nothing.
fn n1_as(dir: &Scratch, role: &str) {
    let text = fs::read_to_string(dir.one_node()).expect("written");
    let other = "[[node]]\nname = \"other\"\naddress = \"10.1.0.10\"\nroles = [\"distributor\", \"dispatcher\", \"server\"]\n[[service]]";
    let text = text.replace("\"distributor\", \"dispatcher\", \"server\"]", &format!("\"{role}\"]"));
    dir.write("one.toml", &text.replace("[[service]]", other));
}

#[test]
fn doctor_asks_for_the_hold_device_and_raw_sockets_where_requests_are_decided() {
    const WITHOUT: &str = "exec unshare --mount sh -c 'mount -t tmpfs none /dev/net; \
                           exec setpriv --bounding-set=-net_raw --inh-caps=-net_raw \
                           $BATON doctor --config one.toml --node n1 --run-dir . --json'";
    let dir = Scratch::new("hold");
    let report = |exit| in_fresh_namespace(&dir, WITHOUT).exits(exit).json();
    let of = |report: &Value| {
        let found = findings(report);
        (found["capabilities"].clone(), found.get("tun").cloned())
    };
    let error = || "error".to_owned();
    dir.one_node();
    let distributor = report(1);
    assert_eq!(of(&distributor), (error(), Some(error())), "{distributor}");
    assert!(distributor.to_string().contains("this process lacks CAP_NET_RAW\""), "{distributor}");

    // A server decides the later requests of the connections that it has, or may after a reload.
    n1_as(&dir, "server");
    let server = report(1);
    assert_eq!(of(&server), (error(), Some(error())), "{server}");

    n1_as(&dir, "switch");
    let switch = report(0);
    assert_eq!(of(&switch), ("ok".to_owned(), None), "{switch}");
}

#[test]
fn node_and_doctor_exit_with_78_for_a_bad_cluster_file() {
    let dir = Scratch::new("ex-config");
    dir.one_node();
    dir.write("bad.toml", "[cluster]\nname = 3\n");
    for command in ["node", "doctor"] {
        let bad = baton(&dir, &[command, "--config", "bad.toml", "--node", "n1"]).exits(78);
        assert!(bad.err.contains("  --> bad.toml:2\n"), "{}", bad.err);
        let none = baton(&dir, &[command, "--config", "none.toml", "--node", "n1"]).exits(78);
        assert!(none.err.contains("baton init"), "{}", none.err);
        let other = baton(&dir, &[command, "--config", "one.toml", "--node", "n2"]).exits(78);
        assert!(other.err.contains("has no node \"n2\"; it has n1"), "{}", other.err);
    }
}

#[test]
fn node_exits_with_77_without_privileges_and_changes_nothing() {
    let dir = Scratch::new("ex-noperm");
    dir.one_node();
    let script = format!("exec {UNPRIVILEGED} $BATON node --config one.toml --node n1 --run-dir ./run");
    let node = in_fresh_namespace(&dir, &script).exits(77);
    assert!(node.err.contains("CAP_NET_ADMIN") && node.err.contains("help: "), "{}", node.err);
    assert!(!dir.0.join("run").exists());
}

#[test]
fn node_exits_with_1_when_it_cannot_start() {
    let dir = Scratch::new("ex-failed");
    dir.one_node();
    let script = "exec $BATON node --config one.toml --node n1 --run-dir ./one.toml";
    let node = in_fresh_namespace(&dir, script).exits(1);
    assert!(node.err.contains("error: ") && node.err.contains("--run-dir"), "{}", node.err);
}

/// What README, `baton node --help` and doctor name for an ordinary user.
const NAMED: &str = "net_admin,bpf,perfmon,net_raw";

/// A script that runs `baton` as an ordinary user with these capabilities alone. The binary comes by a descriptor:
/// that user may not see the folder in which it lies.
fn as_user(dir: &Scratch, capabilities: &str, arguments: &str) -> String {
    let nobody =
        nix::unistd::User::from_name("nobody").expect("users are listed").expect("every system has it");
    let run_dir = dir.0.join("run");
    fs::create_dir_all(&run_dir).expect("an own folder");
    for path in [dir.0.join("one.toml"), run_dir] {
        nix::unistd::chown(&path, Some(nobody.uid), Some(nobody.gid)).expect("an own file");
    }
    let only = format!("-all,+{}", capabilities.replace(',', ",+"));
    let user = "--reuid nobody --regid nogroup --clear-groups";
    let capabilities = format!("--bounding-set={only} --inh-caps={only} --ambient-caps={only}");
    format!(
        "exec unshare --mount sh -c 'mount -t tmpfs none /dev/net && mknod -m 666 /dev/net/tun c 10 200 &&
         exec setpriv {user} {capabilities} /proc/self/fd/3 {arguments} --config one.toml --node n1' 3< $BATON"
    )
}

#[test]
fn an_ordinary_user_with_the_named_capabilities_runs_a_node() {
    let dir = Scratch::new("user");
    let text = fs::read_to_string(dir.one_node()).expect("written");
    dir.write("one.toml", &text.replace("announce = false", "announce = true"));
    let help = baton(&dir, &["node", "--help"]).exits(0).out;
    let readme = fs::read_to_string(workspace("README.md")).expect("a README");
    for name in NAMED.split(',').map(|name| format!("CAP_{}", name.to_uppercase())) {
        assert!(help.contains(&name) && readme.contains(&name), "{name}");
    }
    let doctor = as_user(&dir, NAMED, "doctor --json --run-dir run");
    let report = run(&mut in_namespace(&dir, &doctor)).json();
    assert_eq!(findings(&report)["capabilities"], "ok", "{report}");
    assert_eq!(findings(&report)["tun"], "ok", "{report}");

    let mut daemon = Daemon::start(&dir, &as_user(&dir, NAMED, "node --run-dir run"));
    let log = || fs::read_to_string(dir.0.join("log")).unwrap_or_default();
    wait_until("ready", || {
        assert!(daemon.0.try_wait().expect("a child").is_none(), "it ended: {}", log());
        dir.0.join("run/n1.ready").exists().then_some(())
    });
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.0.id())).expect("it runs");
    assert!(!status.contains("\nUid:\t0\t"), "{status}");
    baton(&dir, &["status", "--run-dir", "run"]).exits(0);
    assert_eq!(daemon.end("-TERM").code(), Some(0), "{}", log());
    assert!(!dir.0.join("run/n1.undo").exists(), "{}", log());
}

#[test]
fn without_one_of_the_named_capabilities_a_node_says_which_and_changes_nothing() {
    let dir = Scratch::new("user-less");
    dir.one_node();
    for missing in NAMED.split(',') {
        let others: Vec<_> = NAMED.split(',').filter(|name| *name != missing).collect();
        let node = run(&mut in_namespace(&dir, &as_user(&dir, &others.join(","), "node --run-dir run")));
        let node = node.exits(77);
        let name = format!("CAP_{}", missing.to_uppercase());
        assert!(node.err.starts_with(&format!("error: this process lacks {name}\n")), "{}", node.err);
        let unit = "AmbientCapabilities=CAP_NET_ADMIN CAP_BPF CAP_PERFMON CAP_NET_RAW";
        assert!(node.err.contains(unit), "{}", node.err);
        assert_eq!(fs::read_dir(dir.0.join("run")).expect("an own folder").count(), 0, "{name}");
    }
}

/// The cause, and the next step, before anything is changed: not what the programs' loading would say.
#[test]
fn node_names_what_its_machine_lacks() {
    let dir = Scratch::new("lacks");
    dir.one_node();
    fs::write(dir.0.join("btf"), b"\0bpf_sk_assign\0").expect("an own folder");
    let with = |change: &str| {
        let script = format!("exec unshare --mount sh -c '{change} && exec {NODE_IN_SHELL} --run-dir run'");
        let node = in_fresh_namespace(&dir, &script).exits(1);
        assert!(!dir.0.join("run").exists() && !node.err.contains("libbpf"), "{}", node.err);
        node.err
    };
    let old = with("mount --bind btf /sys/kernel/btf/vmlinux");
    assert!(old.contains("lacks bpf_sk_assign_tcp_reqsk"), "{old}");
    assert!(old.contains("help: install Linux 6.9 or newer"), "{old}");
    let none = with("mount -t tmpfs none /dev/net");
    assert!(
        none.contains("/dev/net/tun cannot be used (No such file") && none.contains("modprobe tun"),
        "{none}"
    );
}

const NODE_IN_SHELL: &str = "$BATON node --config one.toml --node n1";

/// It runs, and says what it does without.
#[test]
fn a_node_without_cgroup2_says_how_to_have_it() {
    let dir = Scratch::new("cgroup2");
    dir.one_node();
    let hidden = "while umount -l \"$(awk \"\\$3 == \\\"cgroup2\\\" {print \\$2; exit}\" /proc/self/mounts)\" 2> /dev/null; do :; done";
    let script = format!("exec unshare --mount sh -c '{hidden}; exec {NODE_IN_SHELL} --run-dir .'");
    let mut daemon = Daemon::start(&dir, &script);
    daemon.wait_ready(&dir);
    assert_eq!(daemon.end("-TERM").code(), Some(0));
    let log = fs::read_to_string(dir.0.join("log")).expect("a log");
    assert!(log.contains("no cgroup2 is mounted") && log.contains("mount -t cgroup2"), "{log}");
    assert!(!log.contains("interface 0") && !log.contains("tcx"), "{log}");
}

/// A daemon in a namespace of its own; killed when dropped.
struct Daemon(Child);

impl Daemon {
    fn start(dir: &Scratch, script: &str) -> Self {
        let log = fs::File::create(dir.0.join("log")).expect("an own folder");
        Self::logging_to(dir, script, log)
    }

    fn logging_to(dir: &Scratch, script: &str, log: impl Into<Stdio>) -> Self {
        let mut command = in_namespace(dir, script);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Self(command.spawn().expect("unshare is installed"))
    }

    fn wait_ready(&mut self, dir: &Scratch) {
        wait_until("ready", || {
            let log = || fs::read_to_string(dir.0.join("log")).unwrap_or_default();
            assert!(self.0.try_wait().expect("a child").is_none(), "it ended: {}", log());
            dir.0.join("n1.ready").exists().then_some(())
        });
    }

    fn end(mut self, signal: &str) -> ExitStatus {
        run(Command::new("kill").args([signal, &self.0.id().to_string()])).exits(0);
        wait_until("ended", || self.0.try_wait().expect("a child"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn node_runs_answers_status_and_exits_with_0_when_asked_to_stop() {
    for signal in ["-TERM", "-INT"] {
        let dir = Scratch::new(&format!("run{signal}"));
        dir.one_node();
        let mut daemon =
            Daemon::start(&dir, "exec $BATON node --config one.toml --node n1 --run-dir . --log debug");
        let log = || fs::read_to_string(dir.0.join("log")).unwrap_or_default();
        wait_until("ready", || {
            assert!(daemon.0.try_wait().expect("a child").is_none(), "it ended: {}", log());
            dir.0.join("n1.ready").exists().then_some(())
        });
        let status = baton(&dir, &["status", "--run-dir", ".", "--json"]).exits(0).json();
        assert_eq!(status["cluster"], "one");
        assert_eq!(status["nodes"][0]["reachable"], true, "{status}");
        let status = baton(&dir, &["status", "--run-dir", "."]).exits(0);
        assert!(status.out.contains("\nn1 "), "{}", status.out);

        let ended = daemon.end(signal);
        assert_eq!(ended.code(), Some(0), "{ended}: {}", log());
        assert_eq!(left(&dir), [""; 0], "socket, ready file, journal");
    }
}

const NODE: &str = "exec $BATON node --config one.toml --node n1 --run-dir .";

/// What a daemon leaves in its run folder.
fn left(dir: &Scratch) -> Vec<&'static str> {
    ["n1.sock", "n1.ready", "n1.undo", "n1.lock"]
        .into_iter()
        .filter(|name| dir.0.join(name).exists())
        .collect()
}

/// A full disk, and a reader that has left, or does not read.
#[test]
fn a_log_that_nobody_takes_does_not_end_the_node() {
    let full = fs::File::options().write(true).open("/dev/full").expect("every Linux has it");
    let (gone, nobody) = std::io::pipe().expect("a pipe");
    drop(gone);
    let (_stalled, slow) = std::io::pipe().expect("a pipe");
    // Until it takes no more.
    nix::fcntl::fcntl(&slow, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).expect("a pipe");
    let mut writer = &slow;
    while std::io::Write::write(&mut writer, &[b'x'; 4096]).is_ok() {}
    nix::fcntl::fcntl(&slow, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty())).expect("a pipe");
    for (name, log) in [("full", Stdio::from(full)), ("gone", nobody.into()), ("slow", slow.into())] {
        let dir = Scratch::new(&format!("log-{name}"));
        dir.one_node();
        let mut daemon = Daemon::logging_to(&dir, &format!("{NODE} --log debug"), log);
        daemon.wait_ready(&dir);
        let status = baton(&dir, &["status", "--run-dir", ".", "--json"]).exits(0).json();
        assert_eq!(status["nodes"][0]["reachable"], true, "{status}");
        assert_eq!(daemon.end("-TERM").code(), Some(0), "{name}");
        assert_eq!(left(&dir), [""; 0], "{name}");
    }
}

#[test]
fn a_second_daemon_of_a_node_says_who_is_it_and_leaves_it_alone() {
    let dir = Scratch::new("twice");
    dir.one_node();
    let mut first = Daemon::start(&dir, NODE);
    first.wait_ready(&dir);
    let second = in_fresh_namespace(&dir, NODE).exits(1);
    let who = format!("n1 already runs here, pid {}", first.0.id());
    assert!(second.err.contains(&who), "{}", second.err);
    assert_eq!(left(&dir), ["n1.sock", "n1.ready", "n1.undo", "n1.lock"], "all of it is the first one's");
    baton(&dir, &["status", "--run-dir", "."]).exits(0);
    assert_eq!(first.end("-KILL").code(), None);
    // Nobody has to clean up after one that was killed, but who waits for this file.
    fs::remove_file(dir.0.join("n1.ready")).expect("left by the first one");
    let mut third = Daemon::start(&dir, NODE);
    third.wait_ready(&dir);
    assert_eq!(third.end("-TERM").code(), Some(0));
    assert_eq!(left(&dir), [""; 0]);
}

/// What the second one did to the host before it failed is undone, and nothing of what the first one did.
#[test]
fn one_network_namespace_is_one_node() {
    let dir = Scratch::new("same-net");
    dir.one_node();
    dir.write(
        "two.toml",
        &fs::read_to_string(dir.one_node()).expect("written").replace("10.99.0.1", "10.99.0.2"),
    );
    let script = "$BATON node --config one.toml --node n1 --run-dir . & first=$!
                  for i in $(seq 1000); do [ -e n1.ready ] && break; sleep 0.01; done
                  $BATON node --config two.toml --node n1 --run-dir ./other && exit 9
                  ip -o address show to 10.99.0.0/24 | grep -o '10.99.0.[0-9]*/'
                  ls other; kill $first; wait $first";
    let ran = in_fresh_namespace(&dir, script).exits(0);
    assert!(ran.err.contains("another node of Baton runs in this network namespace"), "{}", ran.err);
    assert_eq!(ran.out.trim(), "10.99.0.1/", "{}{}", ran.out, ran.err);
}

#[test]
fn doctor_and_node_warn_of_a_secret_that_others_may_read() {
    let dir = Scratch::new("open");
    let file = dir.one_node();
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("an own file");
    let doctor = "$BATON doctor --config one.toml --node n1 --run-dir . --json || true";
    let report = in_fresh_namespace(&dir, doctor).exits(0).json();
    assert_eq!(findings(&report)["cluster-file"], "warning", "{report}");
    let mut daemon = Daemon::start(&dir, NODE);
    daemon.wait_ready(&dir);
    assert_eq!(daemon.end("-TERM").code(), Some(0));
    let log = fs::read_to_string(dir.0.join("log")).expect("a log");
    assert!(log.contains("WARN") && log.contains("chmod o-rwx one.toml"), "{log}");
    assert!(!log.contains('\u{1b}'), "colours are for terminals: {log:?}");
}

/// Connections cannot be adopted into it: the node says so, whichever of the two was there first.
#[test]
fn node_warns_of_a_web_server_that_speaks_mptcp() {
    let serve = "setpriv --pdeathsig KILL python3 -c 'import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((\"\", 80)); s.listen(); open(\"listens\", \"w\"); time.sleep(60)'";
    let dir = Scratch::new("mptcp");
    dir.one_node();
    let script = format!(
        "sysctl -qw net.mptcp.enabled=1 || exit 9; {serve} & while [ ! -e listens ]; do sleep 0.01; done; {NODE}"
    );
    let mut daemon = Daemon::start(&dir, &script);
    daemon.wait_ready(&dir);
    let log = || fs::read_to_string(dir.0.join("log")).unwrap_or_default();
    wait_until("said", || log().contains("speaks MPTCP").then_some(()));
    assert!(log().contains("WARN") && log().contains("net.mptcp.enabled=0"), "{}", log());
    assert_eq!(daemon.end("-TERM").code(), Some(0));
}

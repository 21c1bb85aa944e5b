//! The demo as a newcomer runs it, only shorter. It needs root, nginx, apache2 and nftables.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use baton_testbed::Scratch;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// For a demo to end after it was asked to.
const PATIENCE: Duration = Duration::from_secs(30);

fn demo(folder: &Scratch, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_baton-demo"));
    command.args(args).current_dir(folder.path());
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// What is left of process `pid`: its namespaces and its directories.
fn left_by(pid: u32) -> Vec<String> {
    let entries = ["/run/netns", "/tmp"].into_iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten();
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(&format!("bt{pid}-"))).collect()
}

fn wait_until_gone(child: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("an own child") {
            return status.code();
        }
        if Instant::now() >= deadline {
            let _ = child.kill();
            panic!("the demo did not end in {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn wait_until_clean(pid: u32) {
    let deadline = Instant::now() + PATIENCE;
    while !left_by(pid).is_empty() {
        assert!(Instant::now() < deadline, "still there: {:?}", left_by(pid));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_demo_hands_connections_off_and_no_client_notices() {
    let folder = Scratch::new("demo");
    let child = demo(&folder, &["--seconds", "3", "--capture", "clients.pcap"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let child = child.expect("baton starts");
    let pid = child.id();
    let output = child.wait_with_output().expect("an own child");
    let told = text(&output);
    assert!(output.status.success(), "{told}");
    assert_eq!(left_by(pid), Vec::<String>::new());

    let file = fs::read_to_string(folder.path().join("target/demo/summary.json")).expect("a summary");
    let summary: Value = serde_json::from_str(&file).expect("JSON");
    let number = |pointer: &str| {
        let value = summary.pointer(pointer).and_then(Value::as_f64);
        value.unwrap_or_else(|| panic!("no number {pointer} in {file}"))
    };
    for none in [
        "body_errors",
        "client_resets",
        "other_faults",
        "two_owners",
        "bytes/through_switch",
        "bytes/through_distributors",
    ] {
        assert_eq!(number(&format!("/{none}")), 0.0, "{none} in {file}");
    }
    assert!(number("/requests") > 100.0 && number("/handoffs") > 50.0, "{file}");
    assert!(number("/bytes/served") > number("/bytes/bodies"), "with headers: {file}");
    assert!(number("/bytes/requests_through_switch") > 0.0, "{file}");
    for policy in ["wrr", "lard"] {
        assert!(number(&format!("/policies/{policy}/throughput_rps")) > 0.0, "{file}");
        let hit_rate = number(&format!("/policies/{policy}/hit_rate"));
        assert!((0.0..=1.0).contains(&hit_rate), "{file}");
        // The origin's own count and the servers' word agree, but for answers shared by waiters.
        let by_header = number(&format!("/policies/{policy}/hit_rate_by_header"));
        assert!((hit_rate - by_header).abs() < 0.05, "{file}");
        let by_node = summary.pointer(&format!("/policies/{policy}/by_node")).and_then(Value::as_array);
        let by_node: Vec<_> = by_node.into_iter().flatten().filter_map(Value::as_u64).collect();
        assert!(by_node.len() == 4 && by_node.iter().all(|answers| *answers > 0), "all nodes work: {file}");
    }
    assert!(number("/policies/lard/hit_rate") > number("/policies/wrr/hit_rate"), "{file}");
    assert!(
        fs::metadata(folder.path().join("clients.pcap")).is_ok_and(|file| file.len() > 100_000),
        "{told}"
    );
    assert!(told.contains("LARD / WRR") && told.contains("Every byte"), "{told}");
}

#[test]
fn a_kept_demo_can_be_curled_and_is_gone_when_told_to_end() {
    let folder = Scratch::new("demo");
    let mut child =
        demo(&folder, &["--seconds", "1", "--keep"]).stdout(Stdio::piped()).spawn().expect("baton starts");
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    let (mut told, mut hint) = (String::new(), None);
    while hint.is_none() || !told.contains("Ctrl-C") {
        let mut line = String::new();
        assert!(out.read_line(&mut line).expect("readable") > 0, "it ended early:\n{told}");
        if line.contains(" curl ") {
            hint = Some(line.trim().to_owned());
        }
        told.push_str(&line);
    }
    let hint = hint.expect("just seen");
    let curl = Command::new("sh").args(["-c", &hint]).output().expect("a shell");
    let head = text(&curl);
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("X-Node: n"), "{hint}: {head}");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("it runs");
    assert_eq!(wait_until_gone(&mut child), Some(0), "{told}");
    assert_eq!(left_by(child.id()), Vec::<String>::new());
}

#[test]
fn an_interrupted_demo_removes_everything_and_so_does_a_killed_one() {
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let folder = Scratch::new("demo");
        let mut child =
            demo(&folder, &["--seconds", "60"]).stdout(Stdio::piped()).spawn().expect("baton starts");
        let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        while !line.starts_with("wrr") {
            line.clear();
            assert!(out.read_line(&mut line).expect("readable") > 0, "it ended early");
        }
        assert!(!left_by(child.id()).is_empty(), "what this test looks for is there");
        kill(Pid::from_raw(child.id() as i32), signal).expect("it runs");
        let code = wait_until_gone(&mut child);
        assert_eq!(code, (signal == Signal::SIGINT).then_some(1));
        wait_until_clean(child.id());
        assert!(!Path::new(&folder.path().join("target/demo/summary.json")).exists(), "there is no result");
    }
}

#[test]
fn without_root_the_demo_says_so() {
    let folder = Scratch::new("demo");
    // A copy that anyone may run; the built one may lie where only root can go.
    let copy = folder.path().join("baton-demo");
    fs::copy(env!("CARGO_BIN_EXE_baton-demo"), &copy).expect("a copy");
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&copy)
        .current_dir("/")
        .output()
        .expect("setpriv (util-linux) is there");
    assert_eq!(output.status.code(), Some(77), "{}", text(&output));
    assert!(text(&output).contains("as root"), "{}", text(&output));
}

//! Nothing is left behind, however a test ends; and what a dead process left is swept.

use std::io::{BufRead, BufReader, Lines, Write};
use std::os::unix::fs::MetadataExt;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use baton_testbed::{Capture, Content, DocRoot, Namespace, Testbed, WebServer, wait_until};

const MODE: &str = "BATON_TESTBED_END";
const SOON: Duration = Duration::from_secs(10);

/// Builds a testbed with all kinds of processes in it, and ends as told.
#[test]
#[ignore = "the tests below run it, each in a process of its own"]
fn victim() {
    let Ok(mode) = std::env::var(MODE) else { return };
    let _ = catch_unwind(|| build_and_end(&mode));
    // Still there, so that its janitor does nothing yet: what is gone now, guards have removed.
    println!("guards are gone");
    std::thread::sleep(SOON * 3);
}

fn build_and_end(mode: &str) {
    let bed = Testbed::builder().nodes(2).wire().build();
    let files = DocRoot::shared();
    files.add(&Content::new("page", 3000));
    let _servers = (WebServer::nginx(bed.node(0), &files), WebServer::apache(bed.node(1), &files));
    let _capture = Capture::start(bed.client(0), 80);
    // Leaves its process group, so that only the namespace knows it.
    bed.node(0).run("/bin/sh", ["-c", "setsid sleep 1000 >/dev/null 2>&1 &"]);
    println!("all is built");
    // Go on only when it has been looked at.
    std::io::stdin().read_line(&mut String::new()).expect("a pipe");
    match mode {
        "return" => {}
        "panic" => panic!("on purpose"),
        "exit" => std::process::exit(3),
        other => panic!("no way to end called {other}"),
    }
}

/// A test process that has built a testbed.
struct Victim {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// What ran in its namespaces when it had built, whatever it calls itself.
    processes: Vec<Running>,
}

impl Victim {
    /// Starts one and waits until it has built; it then waits for [`Victim::go_on`].
    fn start(mode: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("a program has a path"))
            .args(["victim", "--exact", "--ignored", "--nocapture"])
            .env(MODE, mode)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a test can run itself");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut victim = Self { child, lines, processes: Vec::new() };
        victim.wait_for("all is built");
        let inode = |path: PathBuf| Some(path.metadata().ok()?.ino());
        let namespaces: Vec<u64> =
            entries("/run/netns").filter(|path| victim.owns(path)).filter_map(inode).collect();
        assert_eq!(namespaces.len(), 5, "client, wire, router, two nodes");
        let inside = |dir: &PathBuf| inode(dir.join("ns/net")).is_some_and(|it| namespaces.contains(&it));
        victim.processes = entries("/proc").filter(inside).filter_map(Running::at).collect();
        victim
    }

    /// One that has built and dropped its testbed, and still lives.
    fn gone_through(mode: &str) -> Self {
        let mut victim = Self::start(mode);
        victim.go_on();
        victim.wait_for("guards are gone");
        victim
    }

    fn wait_for(&mut self, line: &str) {
        let said = self.lines.any(|said| said.is_ok_and(|said| said.contains(line)));
        assert!(said, "the victim did not say that {line}");
    }

    fn go_on(&mut self) {
        let stdin = self.child.stdin.as_mut().expect("a pipe");
        stdin.write_all(b"\n").expect("it reads");
    }

    fn kill(&mut self) {
        self.child.kill().expect("an own child can be killed");
        self.child.wait().expect("it ends");
    }

    fn owns(&self, path: &Path) -> bool {
        let mark = format!("bt{}-", self.child.id());
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&mark))
    }

    /// What of it is on this machine: namespaces, directories, command lines of processes.
    fn left(&self) -> Vec<String> {
        let named = entries("/run/netns").chain(entries("/tmp")).filter(|path| self.owns(path));
        let named = named.map(|path| path.display().to_string());
        let still = self.processes.iter().filter(|process| process.still_runs());
        named.chain(still.map(|process| process.command.clone())).collect()
    }

    fn runs(&self, command: &str) -> bool {
        self.left().iter().any(|line| line.contains(command))
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process, known by its number and its start.
struct Running {
    dir: PathBuf,
    start: String,
    command: String,
}

impl Running {
    /// The process of a directory in `/proc`, unless it has ended.
    fn at(dir: PathBuf) -> Option<Self> {
        let stat = std::fs::read_to_string(dir.join("stat")).ok()?;
        // After the name in parentheses, which may be anything: the state, and 19 fields on the start.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let command = String::from_utf8_lossy(&std::fs::read(dir.join("cmdline")).ok()?).replace('\0', " ");
        let start = (*fields.get(19)?).to_owned();
        (*fields.first()? != "Z").then_some(Self { dir, start, command })
    }

    fn still_runs(&self) -> bool {
        Self::at(self.dir.clone()).is_some_and(|now| now.start == self.start)
    }
}

fn entries(dir: &str) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}

#[test]
fn guards_remove_everything_at_the_end_and_in_a_panic() {
    for mode in ["return", "panic"] {
        let victim = Victim::gone_through(mode);
        // Killed processes may take a moment to end; the janitor does nothing while the victim lives.
        wait_until(SOON, &format!("end of all after {mode}"), || victim.left().is_empty());
    }
}

#[test]
fn the_janitor_removes_what_a_killed_process_could_not() {
    for mode in ["exit", "kill"] {
        let mut victim = Victim::start(mode);
        for part in ["-router", "/tmp/bt", "nginx: worker", "apache2 -D", "tcpdump -i", "sleep 1000"] {
            assert!(victim.runs(part), "no {part} in {:?}", victim.left());
        }
        if mode == "exit" {
            victim.go_on();
            assert_eq!(victim.child.wait().expect("it ends").code(), Some(3));
        } else {
            victim.kill();
        }
        wait_until(SOON, "end of what a killed process left", || victim.left().is_empty());
    }
}

#[test]
fn without_a_janitor_servers_die_with_their_test_and_the_next_one_sweeps_the_rest() {
    let mut victim = Victim::start("kill");
    let janitor = format!("janitor\0{}\0", victim.child.id());
    let is_it = |dir: &PathBuf| {
        std::fs::read(dir.join("cmdline")).is_ok_and(|line| line.ends_with(janitor.as_bytes()))
    };
    let janitors: Vec<_> = entries("/proc").filter(is_it).collect();
    let [janitor] = janitors.as_slice() else { panic!("one janitor, not {janitors:?}") };
    let janitor = janitor.file_name().and_then(|name| name.to_str()?.parse().ok()).expect("a process id");
    kill(Pid::from_raw(janitor), Signal::SIGKILL).expect("it runs");
    victim.kill();
    wait_until(SOON, "end of the servers", || !victim.runs("nginx: master") && !victim.runs("tcpdump -i"));
    drop(Victim::gone_through("return"));
    wait_until(SOON, "end of what was left", || victim.left().is_empty());
}

#[test]
fn namespaces_of_dead_processes_are_swept_and_those_of_live_ones_are_not() {
    let mut dead = Command::new("true").spawn().expect("true");
    dead.wait().expect("it ends");
    let stale = PathBuf::from(format!("/run/netns/bt{}-0-stale", dead.id()));
    let name = stale.file_name().expect("a name");
    let made = Command::new("ip").args(["netns", "add"]).arg(name).status().expect("ip");
    assert!(made.success());
    let mine = Namespace::new("mine", None);
    drop(Victim::gone_through("return"));
    assert!(!stale.exists());
    assert!(Path::new("/run/netns").join(mine.name()).exists());
}

//! Nothing is left behind, however a test ends; and what a dead process left is swept.

use std::io::{BufRead, BufReader};
use std::panic::catch_unwind;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

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
    let script = format!("setsid sleep 1000.{} >/dev/null 2>&1 &", std::process::id());
    bed.node(0).run("/bin/sh", ["-c", &script]);
    println!("all is built");
    match mode {
        "return" => {}
        "panic" => panic!("on purpose"),
        "exit" => std::process::exit(3),
        // Until it is killed; not for ever should the test that kills it be killed itself.
        _ => std::thread::sleep(SOON * 3),
    }
}

/// Starts a victim and waits until it says `line`.
fn start_victim(mode: &str, line: &str) -> Child {
    let mut child = Command::new(std::env::current_exe().expect("a program has a path"))
        .args(["victim", "--exact", "--ignored", "--nocapture"])
        .env(MODE, mode)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a test can run itself");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let said = lines.any(|said| said.is_ok_and(|said| said.contains(line)));
    assert!(said, "the victim did not say that {line}");
    // Read to the end, that it may print.
    std::thread::spawn(move || lines.for_each(drop));
    child
}

/// Whatever on this machine carries the name of that process: namespaces, directories, processes.
fn left_by(pid: u32) -> Vec<String> {
    let mark = format!("bt{pid}-");
    let names = |dir| std::fs::read_dir(dir).into_iter().flatten().flatten();
    let named = names("/run/netns").chain(names("/tmp")).map(|entry| entry.file_name());
    let named = named.map(|name| name.to_string_lossy().into_owned()).filter(|name| name.starts_with(&mark));
    let running = names("/proc").filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let running = running.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    let marks = [format!("/tmp/{mark}"), format!("sleep 1000.{pid} ")];
    named.chain(running.filter(|line| marks.iter().any(|mark| line.contains(mark)))).collect()
}

fn end(mut victim: Child) {
    victim.kill().expect("an own child can be killed");
    victim.wait().expect("it ends");
}

#[test]
fn guards_remove_everything_at_the_end_and_in_a_panic() {
    for mode in ["return", "panic"] {
        let victim = start_victim(mode, "guards are gone");
        assert_eq!(left_by(victim.id()), [""; 0], "after {mode}");
        end(victim);
    }
}

#[test]
fn the_janitor_removes_what_a_killed_process_could_not() {
    for mode in ["exit", "wait"] {
        let mut victim = start_victim(mode, "all is built");
        let pid = victim.id();
        if mode == "exit" {
            assert_eq!(victim.wait().expect("it ends").code(), Some(3));
        } else {
            let there = left_by(pid);
            for part in ["-router", "nginx -c", "apache2 -D", "tcpdump -i", "sleep 1000"] {
                assert!(there.iter().any(|line| line.contains(part)), "no {part} in {there:?}");
            }
            end(victim);
        }
        wait_until(SOON, "end of what a killed process left", || left_by(pid).is_empty());
    }
}

#[test]
fn what_dead_processes_left_is_swept_and_that_of_live_ones_is_not() {
    let mut dead = Command::new("true").spawn().expect("true");
    dead.wait().expect("it ends");
    let stale = format!("bt{}-0-stale", dead.id());
    let made = Command::new("ip").args(["netns", "add", &stale]).status().expect("ip");
    assert!(made.success());
    let mine = Namespace::new("mine", None);
    end(start_victim("return", "guards are gone"));
    let list = Command::new("ip").args(["netns", "list"]).output().expect("ip");
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(!list.contains(&stale), "{list}");
    assert!(list.contains(mine.name()), "{list}");
}

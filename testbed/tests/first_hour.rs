//! The first hour of somebody who has the program, three machines with nginx, and what `--help`, `init`, `check`, `doctor`
//! and `status` say: every command as it would be typed, with an installed program in PATH.

use std::process::Output;
use std::time::Duration;

use baton_testbed::{Content, DocRoot, Host, Process, Testbed, WebServer, baton_binary, wait_until};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(30);
const NAMES: [&str; 3] = ["front", "s1", "s2"];

/// A machine's shell, with the program in its PATH and a folder to work in.
struct Shell<'a> {
    bed: &'a Testbed,
    at: &'a Host,
}

impl Shell<'_> {
    fn line(&self, line: &str) -> String {
        let root = self.bed.router().scratch().path().display();
        // Machines have folders of their own; these share one.
        let own = self.at.scratch().path().display();
        format!("cd {root}; export PATH={root}/bin:$PATH RUN={own}/run NO_COLOR=1; exec {line}")
    }

    fn try_type(&self, line: &str) -> Output {
        self.at.try_run("sh", ["-c", &self.line(line)])
    }

    /// Types a line that has to work, and returns what is said.
    fn type_in(&self, line: &str) -> String {
        self.at.run("sh", ["-c", &self.line(line)])
    }

    fn start(&self, line: &str) -> Process {
        let mut command = self.at.command("sh");
        command.args(["-c", &self.line(line)]);
        self.at.start("node", command)
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn from_an_empty_machine_to_the_same_page_from_the_same_server() {
    let bed = Testbed::builder().named_nodes(&NAMES).build();
    let vip = bed.vip(0).to_string();
    let shell = |at| Shell { bed: &bed, at };
    let [front, s1, s2] = [0, 1, 2].map(|number| shell(bed.node(number)));

    // 1. The program is installed.
    let binary = baton_binary();
    front.type_in(&format!("install -D -m 755 {} bin/baton", binary.display()));
    assert!(front.type_in("baton --help").contains("baton init"), "--help says how to begin");

    // 2. A file is written, and edited: addresses, and the address that clients see.
    let said_of_init = front.type_in("baton init --name shop --output etc-cluster.toml");
    assert!(said_of_init.contains("baton check"), "init says what comes next: {said_of_init}");
    let places = [("10.1.0.10", bed.node(0)), ("10.1.0.11", bed.node(1)), ("10.1.0.12", bed.node(2))];
    for (example, node) in places {
        front.type_in(&format!("sed -i s/{example}/{}/ etc-cluster.toml", node.address()));
    }
    front.type_in(&format!("sed -i s/10.99.0.1/{vip}/ etc-cluster.toml"));

    // 3. It is checked; a slip of the pen is told with its line and the word that was meant.
    front.type_in("sh -c 'sed s/failure_timeout_ms/failure_timout_ms/ etc-cluster.toml > slip.toml'");
    let slip = front.try_type("baton check slip.toml");
    assert!(!slip.status.success() && said(&slip).contains("did you mean"), "{}", said(&slip));
    assert!(front.type_in("baton check etc-cluster.toml").contains("front"));

    // 4. Each machine is looked at, and prepared.
    let files = DocRoot::shared();
    let pages: Vec<Content> = (0..8).map(|number| Content::new(&format!("page{number}"), 4000)).collect();
    pages.iter().for_each(|page| drop(files.add(page)));
    let servers = [s1.at, s2.at].map(|host| WebServer::nginx(host, &files));
    for node in [&front, &s1, &s2] {
        let name = node.at.name();
        let doctor = node
            .try_type(&format!("baton doctor --config etc-cluster.toml --node {name} --run-dir $RUN --fix"));
        assert!(doctor.status.success(), "{}", said(&doctor));
    }
    // The address that clients see comes with the node, for without it this machine would refuse them.
    assert!(!front.at.ip("address show").contains(&format!("{vip}/")));

    // 5. Whoever asks too early is told so.
    let early = front.try_type("baton status --run-dir $RUN");
    assert_eq!(early.status.code(), Some(1), "{}", said(&early));

    // 6. The nodes run. Clients need a way to the address: `check`, `doctor` and docs/services.md say which.
    let mut nodes = [&front, &s1, &s2].map(|node| {
        let name = node.at.name();
        node.start(&format!("baton node --config etc-cluster.toml --node {name} --run-dir $RUN"))
    });
    wait_until(SOON, "a cluster that is well", || {
        front.try_type("baton status --run-dir $RUN").status.success()
    });
    assert!(front.type_in("baton status --run-dir $RUN").contains("well"));
    bed.vip_on_link(bed.vip(0));

    // 7. The same page comes from the same server, and its log has the client's own address.
    let client = shell(bed.client(0));
    let ask =
        |path: &str| client.type_in(&format!("curl -sSf --max-time 10 -D - -o /dev/null http://{vip}{path}"));
    let server = |head: &str| {
        let line =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("x-node: ").map(str::to_owned));
        line.unwrap_or_else(|| panic!("no X-Node in\n{head}"))
    };
    let mut used = Vec::new();
    for page in &pages {
        let first = server(&ask(page.path()));
        assert!((0..4).all(|_| server(&ask(page.path())) == first), "{} moved", page.path());
        used.push(first);
    }
    used.sort();
    used.dedup();
    assert_eq!(used.len(), 2, "both servers are used: {used:?}");
    for nginx in &servers {
        assert!(nginx.logged().iter().all(|entry| entry.client.ip() == client.at.address()));
    }

    // 8. One ends its node: the others say so, to people and to whatever watches exit codes.
    nodes[2].signal(Signal::SIGTERM);
    assert!(nodes[2].wait(SOON).success());
    let mut told = None;
    wait_until(SOON, "a verdict that names s2", || {
        let status = front.try_type("baton status --run-dir $RUN");
        told = status.status.code();
        told == Some(3) && said(&status).lines().take(3).any(|line| line.contains("s2"))
    });
    pages.iter().for_each(|page| drop(ask(page.path())));

    // 9. All end, and their machines are as they were.
    for node in &mut nodes[..2] {
        node.signal(Signal::SIGTERM);
        assert!(node.wait(SOON).success());
    }
    for node in bed.nodes() {
        assert!(!node.ip("address show").contains(&format!("{vip}/")), "{} still has the VIP", node.name());
    }
}

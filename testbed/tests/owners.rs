//! One connection, one owner, while the switch's table changes: each request is decided once, though it is repeated
//! and the distributor that has it seems to be gone, or is.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use baton_testbed::{
    Baton, Capture, Content, Dial, DocRoot, Family, Host, Load, Summary, Testbed, WebServer, counted,
    node_status, wait_until,
};
use nix::sys::signal::Signal;

/// Enough for a client whose packets are lost four times in a row.
const SOON: Duration = Duration::from_secs(20);
const CONTROL_PORT: u16 = 7654;
/// In the order of the nodes.
const ROLES: [&str; 6] = ["switch", "dispatcher", "distributor", "distributor", "server", "server"];
const SWITCH: usize = 0;
const DISPATCHER: usize = 1;
const DISTRIBUTOR: usize = 2;
/// Each request is asked for, and policies that go by load answer differently each time.
const SERVICE: &str = "policy = \"least-loaded\"\nconsult = \"always\"\n";

/// A switch, a dispatcher, two distributors and two servers, whose responses have heads of different lengths.
struct Bed {
    bed: Testbed,
    page: Content,
    files: DocRoot,
}

impl Bed {
    fn new() -> Self {
        let bed = Testbed::builder().nodes(ROLES.len()).build();
        let files = DocRoot::shared();
        let page = Content::new("page", 200_000);
        files.add(&page);
        Self { bed, page, files }
    }

    fn config(&self) -> String {
        let head = "[cluster]\nname = \"owners\"\nsecret = \"0f1e2d3c4b5a69788796a5b4c3d2e1f0\"\n";
        let nodes = self.bed.nodes().iter().zip(ROLES).map(|(host, role)| {
            format!(
                "[[node]]\nname = \"{}\"\naddress = \"{}\"\nroles = [\"{role}\"]\n",
                host.name(),
                host.address()
            )
        });
        let vip = self.bed.vip(0);
        let service = format!("[[service]]\nname = \"www\"\nvips = [\"{vip}\"]\nport = 80\n{SERVICE}");
        head.to_owned() + &nodes.collect::<String>() + &service
    }

    fn start(&self) -> (Vec<WebServer>, Vec<Baton<'_>>) {
        let vip = self.bed.vip(0);
        if self.bed.network().is_routed() {
            self.bed.route_vip_over(vip, &[self.bed.node(SWITCH)]);
        } else {
            self.bed.vip_on_link(vip);
        }
        let servers = vec![
            WebServer::nginx(self.bed.node(4), &self.files),
            WebServer::apache(self.bed.node(5), &self.files),
        ];
        let config = self.bed.router().scratch().write("cluster.toml", self.config());
        let batons = Baton::start_all(self.bed.nodes(), &config);
        for baton in &batons {
            wait_until(SOON, "control connections", || {
                let status = baton.status();
                let connections = node_status(&status, baton.host().name())["connections"].clone();
                let up = |all: &Vec<serde_json::Value>| all.iter().filter(|c| c["state"] == "up").count();
                connections.as_array().map_or(0, up) == ROLES.len() - 1
            });
        }
        (servers, batons)
    }

    /// New connections, a request each, while a dispatcher that answers late lets requests be repeated.
    fn load(&self, batons: &[Baton<'_>], meanwhile: impl FnOnce() + Send) -> Summary {
        let over = &AtomicBool::new(false);
        let capture = Capture::with_answers(self.bed.client(0), 80);
        let dispatcher = batons[DISPATCHER].process();
        let summary = std::thread::scope(|scope| {
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    dispatcher.signal(Signal::SIGSTOP);
                    std::thread::sleep(Duration::from_millis(390));
                    dispatcher.signal(Signal::SIGCONT);
                    std::thread::sleep(Duration::from_millis(25));
                }
            });
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(800));
                meanwhile();
            });
            let load = Load::new(Dial::new(SocketAddr::new(self.bed.vip(0), 80)).patience(SOON));
            let summary =
                load.connections(40).requests(15).close().run(self.bed.client(0), |_, _| self.page.clone());
            over.store(true, Ordering::Relaxed);
            summary
        });
        assert_eq!(capture.stop().two_owners, [], "{summary}");
        summary
    }
}

/// Two nodes hear nothing of each other on their control connection, for a while. All else passes.
fn part(one: &Host, other: &Host, time: Duration) {
    let address = other.address();
    let family = if Family::of(address) == Family::Ipv4 { "ip" } else { "ip6" };
    let rules: Vec<String> = ["input", "output"]
        .into_iter()
        .flat_map(|hook| {
            let side = if hook == "input" { "saddr" } else { "daddr" };
            ["sport", "dport"].map(|port| {
                format!("add rule inet part {hook} {family} {side} {address} tcp {port} {CONTROL_PORT} drop")
            })
        })
        .collect();
    let chains = ["input", "output"]
        .map(|hook| format!("add chain inet part {hook} {{ type filter hook {hook} priority 0; }}"));
    let script =
        ["add table inet part".to_owned()].into_iter().chain(chains).chain(rules).collect::<Vec<_>>();
    one.run("nft", [script.join("\n").as_str()]);
    std::thread::sleep(time);
    one.run("nft", ["delete table inet part"]);
}

fn adopted(batons: &[Baton<'_>]) -> u64 {
    batons.iter().map(|baton| counted(baton, "adopted")).sum()
}

/// Where two servers answered, one of them would have adopted a connection too many.
/// `served`: requests so far.
fn each_was_served_once(batons: &[Baton<'_>], summary: &Summary, served: u64) {
    assert_eq!(summary.resets, 0, "{summary}");
    none_was_served_twice(batons, summary);
    assert_eq!(adopted(batons), served, "each by one server: {summary}");
}

fn none_was_served_twice(batons: &[Baton<'_>], summary: &Summary) {
    assert_eq!((summary.wrong_bodies, summary.timeouts), (0, 0), "{summary}");
    let both: u64 = batons.iter().map(|baton| counted(baton, "two_owners")).sum();
    assert_eq!(both, 0, "{summary}");
}

/// The switch misses a distributor that is there, and hears it again: the table changes twice, while requests are
/// undecided and repeated.
#[test]
fn a_distributor_that_seems_to_be_gone() {
    const ROUNDS: usize = 4;
    let bed = Bed::new();
    let (_servers, batons) = bed.start();
    let mut served = 0;
    // On a busy machine it may be that no request was repeated just then.
    let met = (0..ROUNDS).any(|_| {
        let summary = bed.load(&batons, || {
            part(bed.bed.node(DISTRIBUTOR), bed.bed.node(SWITCH), Duration::from_millis(2200));
        });
        served += summary.ok;
        each_was_served_once(&batons, &summary, served);
        assert!(summary.is_clean(), "{summary}");
        counted(&batons[SWITCH], "spread_earlier") > 0
    });
    assert!(met, "in {ROUNDS} rounds the table has not changed under any request");
    batons.into_iter().for_each(Baton::stop);
}

/// It is gone for so long that its connections are given to the other one, and comes back.
#[test]
fn a_distributor_that_is_gone_for_longer() {
    let bed = Bed::new();
    let (_servers, batons) = bed.start();
    let summary = bed.load(&batons, || {
        part(bed.bed.node(DISTRIBUTOR), bed.bed.node(SWITCH), Duration::from_millis(4500));
    });
    each_was_served_once(&batons, &summary, summary.ok);
    assert!(summary.is_clean(), "{summary}");
    batons.into_iter().for_each(Baton::stop);
}

/// It dies with requests that it has not decided: another one decides them. Until the switch knows, the stack of the
/// machine that it was on answers what comes there: new connections are refused, others reset.
#[test]
fn a_distributor_that_dies() {
    let bed = Bed::new();
    let (_servers, mut batons) = bed.start();
    let dying = batons.remove(DISTRIBUTOR);
    let summary = bed.load(&batons, move || dying.kill());
    none_was_served_twice(&batons, &summary);
    // A server may have adopted one whose client was reset: no more than these.
    let (adopted, reset) = (adopted(&batons), summary.resets);
    assert!((summary.ok..=summary.ok + reset).contains(&adopted), "{adopted} adopted: {summary}");
    batons.into_iter().for_each(Baton::stop);
}

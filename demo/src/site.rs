//! The demo's machines and what runs on them: clients behind a router; on the router's link the
//! switch, four nodes, and the origin that holds the content.
//!
//! The switch is a machine of its own beside the router, so that "through the switch" is one cable
//! that can be looked at: the router sends it what is for the VIP, and sends what comes from the
//! VIP to the clients itself.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use baton_cluster::PolicyKind;
use baton_node::status::ClusterStatus;
use baton_testbed::{Baton, Host, Network, Origin, Testbed, WebServer, patient, wait_until};

/// The address that clients connect to.
pub const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1));
/// The nodes, each distributor and server; the first one is the dispatcher too.
pub const NODES: [&str; 4] = ["n1", "n2", "n3", "n4"];
/// How many contents fit the cache of one node.
pub const CACHED: usize = 160;
/// How long the origin works on an answer.
pub const ORIGIN_DELAY: Duration = Duration::from_millis(25);
/// On how many it works at once.
pub const ORIGIN_AT_ONCE: usize = 8;
/// Addresses that clients connect from.
const CLIENTS: u8 = 8;
/// For daemons to find each other, and for servers to be gone.
const PATIENCE: Duration = Duration::from_secs(15);
/// For a daemon to say how the cluster is.
const STATUS_PATIENCE: Duration = Duration::from_secs(2);

/// The machines, the origin running, nothing else.
#[derive(Debug)]
pub struct Site {
    /// Before the machine it runs on: fields are dropped in this order.
    origin: Origin,
    bed: Testbed,
    sources: Vec<IpAddr>,
    secret: String,
    failure_timeout: Duration,
}

impl Site {
    /// Makes them.
    ///
    /// # Panics
    /// When something is not installed or the kernel refuses; the message says what to do.
    pub fn build() -> Self {
        let names: Vec<&str> = NODES.into_iter().chain(["switch", "origin"]).collect();
        let bed = Testbed::builder()
            .unobserved("what it shows is the cluster as it is")
            .named_nodes(&names)
            .network(Network::IPV4)
            .build();
        let sources = (0..CLIENTS).map(|i| bed.client(0).extra_address(10 + i)).collect();
        let origin = Origin::start_limited(bed.node(NODES.len() + 1), 80, ORIGIN_DELAY, ORIGIN_AT_ONCE);
        let secret = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
        let site = Self { origin, bed, sources, secret, failure_timeout: Duration::from_secs(1) };
        site.bed.route_vip(VIP, site.switch());
        site
    }

    /// Nodes that are silent for so long count as dead, instead of the usual second.
    pub fn with_failure_timeout(self, failure_timeout: Duration) -> Self {
        Self { failure_timeout, ..self }
    }

    /// The machine that clients run on.
    pub fn client(&self) -> &Host {
        self.bed.client(0)
    }

    /// The addresses that clients connect from.
    pub fn sources(&self) -> &[IpAddr] {
        &self.sources
    }

    /// The machine that every packet between clients and nodes crosses.
    pub fn router(&self) -> &Host {
        self.bed.router()
    }

    /// The machine that the switch runs on.
    pub fn switch(&self) -> &Host {
        self.bed.node(NODES.len())
    }

    /// The machines that the nodes run on.
    pub fn nodes(&self) -> &[Host] {
        &self.bed.nodes()[..NODES.len()]
    }

    /// The slow origin.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Where clients connect to.
    pub fn service(&self) -> SocketAddr {
        SocketAddr::new(VIP, 80)
    }

    /// Starts web servers with empty caches, and the daemons with this policy; waits until they
    /// have found each other.
    ///
    /// # Panics
    /// When one of them does not start.
    pub fn start(&self, policy: PolicyKind) -> Cluster<'_> {
        let servers = self.nodes().iter().enumerate().map(|(i, node)| self.web_server(i, node)).collect();
        let config = self.router().scratch().write(&format!("{}.toml", name(policy)), self.config(policy));
        let daemons = [self.switch()].into_iter().chain(self.nodes());
        let cluster = Cluster {
            site: self,
            daemons: daemons.map(|host| Baton::start(host, &config)).collect(),
            servers,
        };
        wait_until(PATIENCE, "cluster in which every node knows every server", || {
            cluster.status().is_ok_and(|status| is_whole(&status))
        });
        cluster
    }

    fn web_server(&self, index: usize, node: &Host) -> WebServer {
        let origin = self.origin.address();
        match software(index) {
            "nginx" => WebServer::caching_nginx(node, origin, CACHED),
            _ => WebServer::apache_before_cache(node, origin, CACHED),
        }
    }

    fn config(&self, policy: PolicyKind) -> String {
        let mut text = format!(
            "[cluster]\nname = \"demo\"\nsecret = \"{}\"\nfailure_timeout_ms = {}\n",
            self.secret,
            self.failure_timeout.as_millis()
        );
        // Writing to a string cannot fail.
        let mut node = |host: &Host, roles: &str, more: &str| {
            let _ = write!(
                text,
                "\n[[node]]\nname = \"{}\"\naddress = \"{}\"\nroles = [{roles}]\n{more}",
                host.name(),
                host.address()
            );
        };
        node(self.switch(), "\"switch\"", "announce = false\n");
        for (i, host) in self.nodes().iter().enumerate() {
            let dispatcher = if i == 0 { ", \"dispatcher\"" } else { "" };
            node(host, &format!("\"distributor\", \"server\"{dispatcher}"), "");
        }
        let service = format!("vips = [\"{VIP}\"]\nport = 80\npolicy = \"{policy}\"\n");
        let _ = write!(text, "\n[[service]]\nname = \"www\"\n{service}");
        text
    }
}

/// The policy's name as part of a file's.
fn name(policy: PolicyKind) -> String {
    policy.to_string().replace('/', "-")
}

/// The web server that clients of a node meet.
pub fn software(index: usize) -> &'static str {
    if index.is_multiple_of(2) { "nginx" } else { "Apache" }
}

/// All nodes answer, and the dispatcher's node takes every server for alive.
fn is_whole(status: &ClusterStatus) -> bool {
    let live = |status: &ClusterStatus| {
        status
            .nodes
            .iter()
            .filter(|node| !node.loads.is_empty())
            .all(|node| node.loads.iter().filter(|load| load.live).count() == NODES.len())
    };
    let knows = status.asked_node().is_some_and(|node| !node.loads.is_empty());
    knows && status.nodes.iter().all(|node| node.reachable) && live(status)
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster<'a> {
    site: &'a Site,
    daemons: Vec<Baton<'a>>,
    servers: Vec<WebServer>,
}

impl Cluster<'_> {
    /// The directory of the first node's daemon.
    pub fn run_dir(&self) -> PathBuf {
        self.site.nodes()[0].scratch().path().join("baton")
    }

    /// How the cluster is, as the first node's daemon says.
    ///
    /// # Errors
    /// When it does not answer, or not with a status.
    pub fn status(&self) -> io::Result<ClusterStatus> {
        let mut socket = UnixStream::connect(self.run_dir().join(format!("{}.sock", NODES[0])))?;
        socket.set_read_timeout(Some(patient(STATUS_PATIENCE)))?;
        socket.write_all(b"status\n")?;
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer)?;
        Ok(serde_json::from_slice(&answer)?)
    }

    /// Waits until no node is serving any more, at most for a few seconds, and says how the cluster
    /// is then.
    ///
    /// # Errors
    /// See [`Cluster::status`].
    pub fn settled(&self) -> io::Result<ClusterStatus> {
        let deadline = Instant::now() + patient(PATIENCE);
        loop {
            let status = self.status()?;
            let idle = status.nodes.iter().all(|node| node.serving == 0 && node.decisions.held_now == 0);
            if idle || Instant::now() >= deadline {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stops daemons and servers, and waits until the servers' ports are free.
    ///
    /// # Panics
    /// When a daemon does not end as it should.
    pub fn stop(self) {
        self.daemons.into_iter().for_each(Baton::stop);
        drop(self.servers);
        let nodes = self.site.nodes();
        wait_until(PATIENCE, "end of the web servers", || nodes.iter().all(|node| !node.listens(80)));
    }
}

#[cfg(test)]
mod tests {
    use super::{NODES, is_whole};
    use baton_node::status::{ClusterStatus, LoadStatus, NodeStatus};

    #[test]
    fn a_cluster_is_whole_when_every_node_knows_every_server() {
        let load = |name: &&str| LoadStatus { server: (*name).into(), live: true, ..LoadStatus::default() };
        let node = |name: &&str| NodeStatus {
            name: (*name).into(),
            reachable: true,
            loads: NODES.iter().map(load).collect(),
            ..NodeStatus::default()
        };
        let whole = ClusterStatus {
            cluster: "demo".into(),
            asked: "n1".into(),
            nodes: NODES.iter().map(node).collect(),
        };
        assert!(is_whole(&whole));
        let mut lonely = whole.clone();
        lonely.nodes[2].reachable = false;
        assert!(!is_whole(&lonely));
        let mut dead = whole.clone();
        dead.nodes[1].loads[3].live = false;
        assert!(!is_whole(&dead));
        let mut ignorant = whole;
        ignorant.nodes[0].loads.clear();
        assert!(!is_whole(&ignorant));
    }
}

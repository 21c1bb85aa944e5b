//! The arrangements of the paper (ATC'00, figures 5 to 8), each as a running cluster: namespaces, web
//! servers, one daemon a node. Only the cluster file says which is which.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Baton, Builder, DocRoot, Host, Testbed, WebServer, wait_until};

/// How long the daemons may take to find each other.
const FORMED: Duration = Duration::from_secs(20);
const SPREAD: Duration = Duration::from_secs(2);

/// Starts a kind of web server on a node.
pub type StartServer = fn(&Host, &DocRoot) -> WebServer;

/// An arrangement of roles over nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// One front-end (distributor, dispatcher) before servers.
    Five,
    /// Several distributors, the dispatcher on a node of its own, servers behind.
    Six,
    /// A switch on a node of its own; distributor and server together on the others.
    Seven,
    /// As seven, but the switch is the clients' router.
    SevenRouter,
    /// No switch: one VIP for each distributor, by DNS; distributor and server together.
    Eight,
    /// Every role on one node.
    AllOnOne,
}

impl Figure {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Five, Self::Six, Self::Seven, Self::SevenRouter, Self::Eight, Self::AllOnOne];

    /// The roles of the nodes, in their order, and then of the router (empty: not in the cluster).
    fn roles(self) -> (&'static [&'static str], &'static str) {
        const BOTH: &str = "distributor,server";
        const ALL_BUT_SWITCH: &str = "distributor,server,dispatcher";
        match self {
            Self::Five => (&["distributor,dispatcher", "server", "server", "server"], ""),
            Self::Six => (&["distributor", "distributor", "dispatcher", "server", "server"], ""),
            Self::Seven => (&["switch", ALL_BUT_SWITCH, BOTH, BOTH], ""),
            Self::SevenRouter => (&[ALL_BUT_SWITCH, BOTH, BOTH], "switch"),
            Self::Eight => (&[ALL_BUT_SWITCH, BOTH, BOTH], ""),
            Self::AllOnOne => (&["switch,distributor,server,dispatcher"], ""),
        }
    }

    /// How many nodes it needs.
    pub fn nodes(self) -> usize {
        self.roles().0.len()
    }

    /// The addresses that clients may connect to.
    pub fn vips(self, bed: &Testbed) -> Vec<IpAddr> {
        let many = matches!(self, Self::Six | Self::Eight);
        let vips = if many { self.with_role("distributor").count() } else { 1 };
        (0..vips).map(|index| bed.vip(index)).collect()
    }

    /// The nodes with a role.
    fn with_role(self, role: &str) -> impl Iterator<Item = usize> {
        (0..self.nodes()).filter(move |node| self.has_role(*node, role))
    }

    /// Brings clients' packets for the VIPs to the nodes that announce them, as the cluster file has it:
    /// the switches, or without one a distributor for each VIP. If the router is the switch they never get
    /// further than to it; without its programs they would go to the distributors.
    fn route_vips(self, bed: &Testbed) {
        let switches: Vec<usize> = self.with_role("switch").collect();
        let distributors: Vec<usize> = self.with_role("distributor").collect();
        for (index, vip) in self.vips(bed).into_iter().enumerate() {
            if !bed.network().is_routed() {
                bed.vip_on_link(vip);
                continue;
            }
            let dealt = [distributors[index % distributors.len()]];
            let nodes = match self {
                Self::SevenRouter => &distributors[..],
                _ if switches.is_empty() => &dealt,
                _ => &switches,
            };
            bed.route_vip_over(vip, &nodes.iter().map(|node| bed.node(*node)).collect::<Vec<_>>());
        }
    }

    /// Whether a node has a role.
    pub fn has_role(self, node: usize, role: &str) -> bool {
        self.roles().0.get(node).is_some_and(|roles| roles.split(',').any(|r| r == role))
    }

    /// The cluster file for a testbed. `service` is more of the service's table, such as
    /// `policy = "wrr"`, which is LARD if it says nothing.
    pub fn config(self, bed: &Testbed, service: &str) -> String {
        let mut text = String::from(
            "[cluster]\nname = \"testbed\"\nsecret = \"6f1c0a9be47d82355ac4e09d17b86f3e2d4c5a69\"\n",
        );
        let (roles, router) = self.roles();
        for (host, roles) in bed.nodes().iter().zip(roles) {
            node(&mut text, host, roles);
        }
        if !router.is_empty() {
            node(&mut text, bed.router(), router);
            let clients = (0..bed.clients().len()).map(|i| bed.client_port(i));
            let interfaces: Vec<String> =
                clients.chain(bed.node_ports()).map(|name| format!("{name:?}")).collect();
            let _ = writeln!(text, "announce = false\ninterfaces = [{}]", interfaces.join(", "));
        }
        let vips: Vec<String> = self.vips(bed).iter().map(|vip| format!("\"{vip}\"")).collect();
        let _ = writeln!(text, "[[service]]\nname = \"www\"\nvips = [{}]\nport = 80", vips.join(", "));
        if !service.contains("policy =") {
            text.push_str("policy = \"lard\"\n");
        }
        text + service + "\n"
    }

    /// Starts it on a testbed of enough nodes, and waits until every daemon has found every other.
    ///
    /// # Panics
    /// When it does not come up, with the end of a log.
    #[track_caller]
    pub fn start<'a>(
        self,
        bed: &'a Testbed,
        server: StartServer,
        files: &DocRoot,
        service: &str,
    ) -> Cluster<'a> {
        self.start_with(bed, server, files, &self.config(bed, service))
    }

    /// As [`Figure::start`], with a cluster file made from [`Figure::config`].
    ///
    /// # Panics
    /// As [`Figure::start`].
    #[track_caller]
    pub fn start_with<'a>(
        self,
        bed: &'a Testbed,
        server: StartServer,
        files: &DocRoot,
        config: &str,
    ) -> Cluster<'a> {
        let nodes = bed.nodes().iter().enumerate().filter(|(i, _)| self.has_role(*i, "server"));
        let servers = nodes.map(|(_, host)| server(host, files)).collect();
        self.start_daemons(bed, servers, config)
    }

    /// As [`Figure::start`], with web servers that the caller has started, or none.
    ///
    /// # Panics
    /// As [`Figure::start`].
    #[track_caller]
    pub fn start_without_servers<'a>(
        self,
        bed: &'a Testbed,
        servers: Vec<WebServer>,
        service: &str,
    ) -> Cluster<'a> {
        self.start_daemons(bed, servers, &self.config(bed, service))
    }

    #[track_caller]
    fn start_daemons<'a>(self, bed: &'a Testbed, servers: Vec<WebServer>, config: &str) -> Cluster<'a> {
        let config = bed.router().scratch().write("cluster.toml", config);
        let mine = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&config, mine).expect("an own file");
        self.route_vips(bed);
        let (roles, router) = self.roles();
        let hosts = bed.nodes().iter().take(roles.len());
        let hosts = hosts.chain((!router.is_empty()).then(|| bed.router()));
        if !router.is_empty() {
            bed.router_joins();
        }
        let batons = Baton::start_all(hosts, &config);
        let cluster = Cluster { figure: self, vips: self.vips(bed), servers, batons };
        cluster.wait_formed();
        cluster.wait_spread();
        cluster
    }
}

impl Builder {
    /// As many nodes as a figure needs.
    pub fn figure(self, figure: Figure) -> Self {
        self.nodes(figure.nodes())
    }
}

/// A running cluster. Dropping it kills the daemons; [`Cluster::stop`] ends them properly.
#[derive(Debug)]
pub struct Cluster<'a> {
    /// Which arrangement.
    pub figure: Figure,
    /// What clients connect to.
    pub vips: Vec<IpAddr>,
    /// The web servers, in the order of their nodes.
    pub servers: Vec<WebServer>,
    /// The daemons, in the order of their nodes; last the router's, if it has one.
    pub batons: Vec<Baton<'a>>,
}

impl<'a> Cluster<'a> {
    /// The first VIP's service.
    pub fn service(&self) -> SocketAddr {
        SocketAddr::new(self.vips[0], 80)
    }

    /// The service of every VIP.
    pub fn services(&self) -> Vec<SocketAddr> {
        self.vips.iter().map(|vip| SocketAddr::new(*vip, 80)).collect()
    }

    /// The first VIP as URLs have it: an IPv6 address in brackets.
    pub fn host_in_url(&self) -> String {
        match self.vips[0] {
            IpAddr::V4(vip) => vip.to_string(),
            IpAddr::V6(vip) => format!("[{vip}]"),
        }
    }

    /// Waits until every daemon has a control connection to every other.
    ///
    /// # Panics
    /// When that takes too long.
    #[track_caller]
    pub fn wait_formed(&self) {
        let others = self.batons.len() - 1;
        for baton in &self.batons {
            wait_until(FORMED, "control connections between all nodes", || {
                let status = baton.status();
                let mine = node_status(&status, baton.host().name());
                let up = mine["connections"]
                    .as_array()
                    .map_or(0, |all| all.iter().filter(|connection| connection["state"] == "up").count());
                up == others
            });
        }
    }

    /// Waits until each switch spreads over all distributors; not for ever, for its log may be cut short. Distributors
    /// that come one after the other change the table, and a client's RST then finds a node that does not know it.
    fn wait_spread(&self) {
        let has = |baton: &&Baton<'_>, role: &str| {
            let roles = node_status(&baton.status(), baton.host().name())["roles"].clone();
            roles.as_array().is_some_and(|roles| roles.iter().any(|name| name == role))
        };
        let distributors = self.batons.iter().filter(|baton| has(baton, "distributor")).count();
        let until = Instant::now() + SPREAD;
        for switch in self.batons.iter().filter(|baton| has(baton, "switch")) {
            let is_whole = || {
                let log = std::fs::read_to_string(switch.process().log()).unwrap_or_default();
                let last = log.lines().rev().find_map(|line| line.split_once("table made distributors="));
                last.is_some_and(|(_, number)| number.trim().parse() == Ok(distributors))
            };
            while !is_whole() && Instant::now() < until {
                thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// The daemon of a node.
    #[track_caller]
    pub fn baton(&self, name: &str) -> &Baton<'a> {
        self.batons.iter().find(|b| b.host().name() == name).expect("the cluster has such a node")
    }

    /// A counter of the packet path, summed over all nodes.
    pub fn counted(&self, counter: &str) -> u64 {
        self.batons.iter().map(|baton| counted(baton, counter)).sum()
    }

    /// Ends all daemons properly.
    #[track_caller]
    pub fn stop(self) {
        self.batons.into_iter().for_each(Baton::stop);
    }
}

/// A counter of one node's packet path.
#[track_caller]
pub fn counted(baton: &Baton<'_>, counter: &str) -> u64 {
    let status = baton.status();
    let counters = node_status(&status, baton.host().name())["counters"].as_array().cloned();
    let counters = counters.unwrap_or_default();
    counters.iter().find(|c| c["name"] == counter).and_then(|c| c["count"].as_u64()).unwrap_or(0)
}

/// One node's part of a status.
pub fn node_status<'j>(status: &'j serde_json::Value, name: &str) -> &'j serde_json::Value {
    let nodes = status["nodes"].as_array();
    nodes.and_then(|nodes| nodes.iter().find(|n| n["name"] == name)).unwrap_or(&serde_json::Value::Null)
}

fn node(text: &mut String, host: &Host, roles: &str) {
    let roles: Vec<String> = roles.split(',').map(|role| format!("{role:?}")).collect();
    let (name, address) = (host.name(), host.address());
    let _ = writeln!(
        text,
        "[[node]]\nname = \"{name}\"\naddress = \"{address}\"\nroles = [{}]",
        roles.join(", ")
    );
}

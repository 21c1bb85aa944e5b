//! What is legal in a cluster file but probably not meant. Called by `baton check` and by a node at
//! its start; refuses nothing.

use std::fmt;

use crate::{Cluster, Node, PHttp, PolicyConfig, Pool, Protocol, Service};

/// Ports of protocols in which the server speaks first, and what is usually spoken there.
const SERVER_SPEAKS: [(u16, &str); 11] = [
    (21, "FTP"),
    (22, "SSH"),
    (23, "Telnet"),
    (25, "SMTP"),
    (110, "POP3"),
    (119, "NNTP"),
    (143, "IMAP"),
    (587, "SMTP submission"),
    (3306, "MySQL"),
    (4190, "ManageSieve"),
    (5900, "VNC"),
];

/// A suspicion about a cluster file, and what to do if it is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What looks odd.
    pub what: String,
    /// What to do about it.
    pub help: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  help: {}", self.what, self.help)
    }
}

impl Warning {
    fn new(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self { what: what.into(), help: help.into() }
    }
}

impl Cluster {
    /// What is legal but suspicious: first of the cluster, then of nodes and services in file order.
    pub fn warnings(&self) -> Vec<Warning> {
        let arrivals =
            if self.has_switch() { self.many_announcing_switches() } else { self.idle_distributors() };
        let nodes = self.nodes.iter().flat_map(|node| self.about_node(node));
        let services = self.services.iter().flat_map(|service| self.about_service(service));
        arrivals.into_iter().chain(nodes).chain(services).collect()
    }

    fn many_announcing_switches(&self) -> Option<Warning> {
        let switches: Vec<_> = self.with_role(|roles| roles.switch).filter(|node| node.announce).collect();
        (switches.len() > 1).then(|| {
            Warning::new(
                format!(
                    "{} all announce every VIP: on one link, which gets a client's packets is left to chance",
                    list(&switches)
                ),
                "set announce = false on all but one, or route the VIPs to them (ECMP) and set it on all",
            )
        })
    }

    fn idle_distributors(&self) -> Option<Warning> {
        let announcing: Vec<_> =
            self.with_role(|roles| roles.distributor).filter(|node| node.announce).collect();
        let idle: Vec<_> = announcing
            .iter()
            .copied()
            .filter(|node| !self.vips().into_iter().any(|vip| self.announcers(vip).contains(&node.id)))
            .collect();
        (!idle.is_empty()).then(|| {
            Warning::new(
                format!("no VIP is left for {}: without a switch, a distributor gets clients only by a VIP of its own", list(&idle)),
                format!("give a service {} VIPs and its DNS name all of them, or add a switch", announcing.len()),
            )
        })
    }

    fn about_node(&self, node: &Node) -> Vec<Warning> {
        let name = &node.name;
        let mut found = Vec::new();
        if node.weight != 1 && !node.roles.server {
            found.push(Warning::new(
                format!("{name} has weight {}, but is no server", node.weight),
                "remove the weight, or give it the role \"server\"",
            ));
        }
        if node.pressure_file.is_some() && !node.roles.server {
            found.push(Warning::new(
                format!("{name} has a pressure_file, but is no server"),
                "remove it, or give it the role \"server\"",
            ));
        }
        let arrival = if self.has_switch() { node.roles.switch } else { node.roles.distributor };
        if !node.announce && !arrival {
            let (which, why) = if self.has_switch() {
                ("switches", "there is one")
            } else {
                ("distributors", "there is no switch")
            };
            found.push(Warning::new(
                format!("{name} has announce = false, but would announce nothing anyway: only {which} do, as {why}"),
                "remove it",
            ));
        }
        found
    }

    fn about_service(&self, service: &Service) -> Vec<Warning> {
        let mut found = Vec::new();
        if service.port == 443 && service.protocol == Protocol::Http {
            found.push(Warning::new(
                format!("service {} is on port 443, and requests inside TLS cannot be read", service.name),
                "write protocol = \"tls\" if the servers end TLS; or offer plain HTTP, with TLS ended before it",
            ));
        }
        let spoken = SERVER_SPEAKS.iter().find(|(port, _)| *port == service.port);
        if let (Protocol::Tcp, Some((port, what))) = (service.protocol, spoken) {
            found.push(Warning::new(
                format!("service {} is on port {port}, that of {what}, in which the server speaks first", service.name),
                "a connection goes to its server with the client's first bytes: offer such a protocol without Baton",
            ));
        }
        for (place, pool) in self.pools_of(service.id).enumerate() {
            found.extend(self.about_pool(pool));
            if !is_used(service, place) {
                found.push(Warning::new(
                    format!("no route leads to {}", self.pool_title(pool)),
                    format!("add a [[service.route]] with pool = \"{}\", or remove the pool", pool.name),
                ));
            }
        }
        found
    }

    fn about_pool(&self, pool: &Pool) -> Vec<Warning> {
        let Pool { policy, .. } = pool;
        let title = self.pool_title(pool);
        let mut found = Vec::new();
        if !policy.kind.is_lard() && *policy != PolicyConfig::new(policy.kind) {
            found.push(Warning::new(
                format!("{title} has constants of LARD, but its policy is {}", policy.kind),
                "remove its `lard` section, or choose the policy \"lard\" or \"lard/r\"",
            ));
        }
        if policy.kind.is_lard() && pool.servers.len() == 1 {
            found.push(Warning::new(
                format!("{title} has the policy {}, but there is one server only", policy.kind),
                "add servers: with one, every policy chooses it",
            ));
        }
        if pool.p_http == PHttp::Move && !policy.kind.is_lard() {
            found.push(Warning::new(
                format!("{title} moves connections for each request, but its policy {} is blind to content: they will stay", policy.kind),
                "choose the policy \"lard\" or \"lard/r\", or p_http = \"stay\"",
            ));
        }
        found
    }

    /// A pool as the operator knows it.
    fn pool_title(&self, pool: &Pool) -> String {
        match self.service(pool.service) {
            Some(service) if service.pools.len() == 1 => format!("service {}", service.name),
            Some(service) => format!("pool {} of service {}", pool.name, service.name),
            None => format!("pool {}", pool.name),
        }
    }
}

/// Whether the pool at this place of the service gets anything.
fn is_used(service: &Service, place: usize) -> bool {
    match service.protocol {
        Protocol::Http | Protocol::Tcp => {
            place == 0 || service.routes.iter().any(|route| route.pool == place)
        }
        Protocol::Tls => {
            let names = &service.names;
            names.default_pool() == Some(place) || names.routes().iter().any(|route| route.pool == place)
        }
    }
}

/// Names for a sentence: `n1, n2`.
fn list(nodes: &[&Node]) -> String {
    nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(", ")
}

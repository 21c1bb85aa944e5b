//! What a cluster file says, as types. Made by [`Cluster::parse`] alone, so that whoever holds a
//! [`Cluster`] need not check it again. Read by every role. Of a node that runs only the services and their
//! pools may change: see [`crate::Succession`].

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use baton_http::{Route, Rules};
use serde::{Deserialize, Serialize};

use crate::keys::Secret;
use crate::{NameRules, NodeId, Pool, PoolId, Protocol, ServiceId};

/// The machines that act as one server, and the services they offer.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The cluster's name: lower-case letters, digits and `-`. Keys differ between clusters of
    /// different names even when they share a secret.
    pub name: String,
    /// A node that has been silent for this long is taken for dead. 200 ms to 60 s, default 1 s.
    pub failure_timeout: Duration,
    /// TCP port of control connections, on each node's own address. Default 7654.
    pub control_port: u16,
    /// UDP port of encapsulated handoffs, on each node's own address. Default 6081, which is
    /// Geneve's (RFC 8926).
    pub handoff_port: u16,
    /// How nodes send each other clients' packets.
    pub forwarding: Forwarding,
    /// The nodes, in file order: `nodes[i].id` is `NodeId(i)`. 1 to [`NodeId::MAX_NODES`].
    pub nodes: Vec<Node>,
    /// The services, in file order; as parsed, `services[i].id` is `ServiceId(i)`. 1 to
    /// [`ServiceId::MAX_SERVICES`].
    pub services: Vec<Service>,
    /// The pools of all services, in file order; as parsed, `pools[i].id` is `PoolId(i)`. 1 to
    /// [`PoolId::MAX_POOLS`].
    pub pools: Vec<Pool>,
    /// Bounds of tables and queues.
    pub limits: Limits,
    pub(crate) secret: Secret,
}

/// How nodes send each other clients' packets that are no handoffs (those are always wrapped).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Forwarding {
    /// As they are to nodes on the same link, wrapped to those behind a router: as the routes say.
    #[default]
    Auto,
    /// As they are: all nodes are on one link.
    Direct,
    /// In Geneve (RFC 8926), to every node.
    Geneve,
}

impl Forwarding {
    /// Every way.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Direct, Self::Geneve];

    /// As in the cluster file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Direct => "direct",
            Self::Geneve => "geneve",
        }
    }
}

/// One machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its place in the cluster file.
    pub id: NodeId,
    /// Its name: lower-case letters, digits and `-`, at most 32; unique.
    pub name: String,
    /// Its own address, at which the other nodes reach it; unique, and never a VIP.
    pub address: IpAddr,
    /// The interfaces that Baton's programs attach to. Empty: the one that holds the address.
    pub interfaces: Vec<String>,
    /// What it does in the cluster; at least one role.
    pub roles: Roles,
    /// Its share of the work as a server, relative to the others. 1 to 100, default 1.
    pub weight: u16,
    /// Whether the node answers for VIPs on its link (ARP) when packets for them are to arrive at
    /// it. `false`: the operator routes the VIPs to it, or it is the clients' router itself.
    pub announce: bool,
    /// A file with a number from 0 to 100: how busy the server's disk is, in percent. `None`: what the
    /// kernel says of it, the share of the last ten seconds in which some task waited for a disk (PSI).
    pub pressure_file: Option<PathBuf>,
}

/// Which parts of the cluster's work a node does. Any mix is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Roles {
    /// Forwards clients' packets to nodes by TCP/IP header alone.
    pub switch: bool,
    /// Completes handshakes, reads requests, hands connections off.
    pub distributor: bool,
    /// Decides which server serves a target.
    pub dispatcher: bool,
    /// Adopts connections for the web server on the node.
    pub server: bool,
}

/// What clients connect to: a port on one or more VIPs, and which pool serves which requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its number on this node.
    pub id: ServiceId,
    /// Its name: as a node's; unique among services.
    pub name: String,
    /// The addresses that clients see, 1 to [`Service::MAX_VIPS`], in file order.
    pub vips: Vec<IpAddr>,
    /// The TCP port that clients connect to, and that the web servers listen on.
    pub port: u16,
    /// What is spoken on its connections.
    pub protocol: Protocol,
    /// Its pools, in file order: one at least; of TCP exactly one. The first is the default of HTTP: it
    /// serves what no route takes elsewhere.
    pub pools: Vec<PoolId>,
    /// HTTP: which requests go to which pool, in file order, of which nothing depends: the most specific
    /// route wins. `pool` is a place in `pools`.
    pub routes: Vec<Route>,
    /// TLS: which connections go to which pool.
    pub names: NameRules,
}

/// Bounds of kernel tables and user-space queues, per node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Entries of the table flow -> node; the least recently used gives way. 1,024 to 16,777,216.
    pub bindings: u32,
    /// Entries of the decision cache, target -> servers. 1,024 to 16,777,216.
    pub decisions: u32,
    /// Packets that wait in user space for a decision. 16 to 65,536.
    pub held_packets: u32,
    /// Connections whose request heads user space reads, because one packet did not hold enough of
    /// them. 16 to 65,536, default 1,024.
    pub reader_connections: u32,
    /// The longest request head that is read, in bytes; a longer one is answered 431 where pools differ in servers, and
    /// handed off as it is elsewhere. 1,024 to 65,536,
    /// default 65,536.
    pub head_bytes: u32,
    /// A request head that is not complete after this time is answered 408, or handed off as it is. 100 ms to 10 min, default
    /// 10 s.
    pub head_timeout: Duration,
}

impl Cluster {
    /// The most dispatchers: each tells all others what it decides.
    pub const DISPATCHERS_MAX: usize = 8;

    /// The node with this id; `None` if the cluster has fewer nodes.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id.index())
    }

    /// The node of this name.
    pub fn node_named(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The service of this number, if there is one.
    pub fn service(&self, id: ServiceId) -> Option<&Service> {
        self.services.iter().find(|service| service.id == id)
    }

    /// The pool of this number, if there is one.
    pub fn pool(&self, id: PoolId) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.id == id)
    }

    /// The pools of a service, the default first; none if there is no such service.
    pub fn pools_of(&self, service: ServiceId) -> impl Iterator<Item = &Pool> {
        self.pools.iter().filter(move |pool| pool.service == service)
    }

    /// The rules by which kernel and user space alike choose a pool for a request of the service, and
    /// the part of it that names its target. They name a pool by its place among the service's
    /// `pools`. `None` if there is no such service.
    pub fn rules(&self, service: ServiceId) -> Option<Rules> {
        let routes = self.service(service)?.routes.clone();
        let keys = self.pools_of(service).map(|pool| pool.key.clone()).collect();
        Some(Rules::new(routes, 0, keys))
    }

    /// The nodes whose roles `wanted` accepts, in file order: `with_role(|roles| roles.server)`.
    pub fn with_role(&self, wanted: impl Fn(Roles) -> bool) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |node| wanted(node.roles))
    }

    /// The nodes that decide, in the order in which they are asked: 1 to [`Cluster::DISPATCHERS_MAX`].
    pub fn dispatchers(&self) -> impl Iterator<Item = &Node> {
        self.with_role(|roles| roles.dispatcher)
    }

    /// The cluster's VIPs in file order, each once.
    pub fn vips(&self) -> Vec<IpAddr> {
        let mut vips = Vec::new();
        for vip in self.services.iter().flat_map(|service| &service.vips) {
            if !vips.contains(vip) {
                vips.push(*vip);
            }
        }
        vips
    }

    /// The nodes that are to announce `vip` on their link (ARP), so that clients' packets for it
    /// arrive there. Every announcing switch; or, in a cluster without a switch, the one
    /// announcing distributor that the VIP was dealt to: place i in its service's list goes to
    /// distributor i mod n, to be used with DNS round robin (ATC'00 figure 8). When several
    /// services share a VIP, the first one's list counts. Empty when the operator routes the VIP
    /// (`announce = false`), or it is no VIP of this cluster.
    pub fn announcers(&self, vip: IpAddr) -> Vec<NodeId> {
        let Some(place) = self.services.iter().find_map(|s| s.vips.iter().position(|v| *v == vip)) else {
            return Vec::new();
        };
        let announcing = |wanted: fn(Roles) -> bool| -> Vec<NodeId> {
            self.with_role(wanted).filter(|node| node.announce).map(|node| node.id).collect()
        };
        if self.has_switch() {
            return announcing(|roles| roles.switch);
        }
        let distributors = announcing(|roles| roles.distributor);
        let dealt = place.checked_rem(distributors.len()).and_then(|i| distributors.get(i));
        dealt.copied().into_iter().collect()
    }

    /// Whether any node is a switch; without one, clients' packets arrive at distributors.
    pub fn has_switch(&self) -> bool {
        self.with_role(|roles| roles.switch).next().is_some()
    }
}

impl Service {
    /// The most VIPs one service may have: with [`ServiceId::MAX_SERVICES`] it bounds the kernel's
    /// table of VIP and port.
    pub const MAX_VIPS: usize = 64;

    /// The most routes one service may have.
    pub const MAX_ROUTES: usize = 256;

    /// The most methods that one route may name.
    pub const MAX_METHODS: usize = 16;

    /// Whether the service's pools differ in their servers, so that a request must never be served
    /// outside its pool. Otherwise any server may serve any request, and pools differ only in how
    /// they spread theirs. Of HTTP alone: other connections have one pool for good.
    pub fn is_strict(&self, cluster: &Cluster) -> bool {
        let mut pools = cluster.pools_of(self.id).map(|pool| &pool.servers);
        let first = pools.next();
        self.protocol == Protocol::Http && pools.any(|servers| Some(servers) != first)
    }
}

impl Roles {
    /// The names of the roles that are set, in the order in which a connection meets them.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        [
            (self.switch, "switch"),
            (self.distributor, "distributor"),
            (self.dispatcher, "dispatcher"),
            (self.server, "server"),
        ]
        .into_iter()
        .filter_map(|(set, name)| set.then_some(name))
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().collect::<Vec<_>>().join(", "))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bindings: 262_144,
            decisions: 262_144,
            held_packets: 1024,
            reader_connections: 1024,
            head_bytes: 65_536,
            head_timeout: Duration::from_secs(10),
        }
    }
}

//! One number for what a cluster file means. Two files that differ only in comments, spaces, the
//! order of keys, or defaults written out have the same; every other difference shows. When nodes meet they
//! compare two parts of it: what all must agree on, and who is which node (docs/decisions/0025).

use std::net::IpAddr;

use baton_http::{HostMatch, PathMatch, Route};
use sha2::{Digest, Sha256};

use crate::{Cluster, NameRoute, Node, Pool, Service, ServiceId};

/// Names the encoding below; to be changed with it.
const VERSION: &str = "baton cluster 5";

impl Cluster {
    /// SHA-256 of what the file means. The order of nodes, services, pools and VIPs has a meaning,
    /// that of roles, interfaces, a pool's servers and routes has none. Of the secret only a derived value goes in.
    pub fn digest(&self) -> [u8; 32] {
        let mut canon = self.lasting();
        canon.list(&self.services, Canon::service);
        canon.list(&self.pools, |canon, pool| canon.pool(pool, self.place_of(pool.service)));
        canon.0.finalize().into()
    }

    /// The same of what cannot change while a node runs: everything but services and their pools.
    pub fn lasting_digest(&self) -> [u8; 32] {
        self.lasting().0.finalize().into()
    }

    /// The same of what nodes must agree on to understand each other at all: everything of `[cluster]` but the defaults of
    /// pools, and whether there is a switch, by which distributors make their cookies.
    pub fn common_digest(&self) -> [u8; 32] {
        let mut canon = Canon(Sha256::new());
        canon.text(VERSION);
        canon.text("common");
        self.common(&mut canon);
        canon.number(self.has_switch());
        canon.0.finalize().into()
    }

    /// For each node in file order the first eight bytes of a digest of what others must know of it: name, address and
    /// roles. Two files mean the same nodes by the same numbers as far as these agree from the start.
    pub fn node_digests(&self) -> Vec<[u8; 8]> {
        let digest = |node: &Node| {
            let mut canon = Canon(Sha256::new());
            canon.text(VERSION);
            canon.text("node");
            canon.member(node);
            let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(canon.0.finalize());
            [a, b, c, d, e, f, g, h]
        };
        self.nodes.iter().map(digest).collect()
    }

    fn common(&self, canon: &mut Canon) {
        canon.text(&self.name);
        canon.bytes(&self.derive::<32>("baton/1 digest"));
        canon.number(self.failure_timeout.as_millis());
        canon.number(self.control_port);
        canon.text(self.forwarding.name());
        canon.number(self.handoff_port);
    }

    /// Of a number, the place in the file.
    fn place_of(&self, service: ServiceId) -> u64 {
        self.services.iter().take_while(|other| other.id != service).count() as u64
    }

    fn lasting(&self) -> Canon {
        let mut canon = Canon(Sha256::new());
        canon.text(VERSION);
        self.common(&mut canon);
        canon.list(&self.nodes, Canon::node);
        canon.number(self.limits.bindings);
        canon.number(self.limits.decisions);
        canon.number(self.limits.held_packets);
        canon.number(self.limits.reader_connections);
        canon.number(self.limits.head_bytes);
        canon.number(self.limits.head_timeout.as_millis());
        canon
    }
}

/// What is hashed: numbers in 16 bytes, everything of variable length after its length, so that no
/// two meanings have the same bytes.
struct Canon(Sha256);

impl Canon {
    fn node(&mut self, node: &Node) {
        let mut interfaces = node.interfaces.clone();
        interfaces.sort_unstable();
        self.member(node);
        self.list(&interfaces, |canon, name| canon.text(name));
        self.number(node.weight);
        self.number(node.announce);
        self.text(&node.pressure_file.as_ref().map(|file| file.to_string_lossy()).unwrap_or_default());
    }

    /// What other nodes must know of one.
    fn member(&mut self, node: &Node) {
        self.text(&node.name);
        self.address(node.address);
        self.text(&node.roles.to_string());
    }

    fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.bytes(&v4.octets()),
            IpAddr::V6(v6) => self.bytes(&v6.octets()),
        }
    }

    fn service(&mut self, service: &Service) {
        self.text(&service.name);
        self.list(&service.vips, |canon, vip| canon.address(*vip));
        self.number(service.port);
        self.text(service.protocol.name());
        let mut routes: Vec<_> = service.routes.iter().map(plain).collect();
        routes.sort_unstable();
        self.list(&routes, |canon, (texts, pool)| {
            canon.list(texts, |canon, text| canon.text(text));
            canon.number(*pool as u64);
        });
        let mut names: Vec<_> = service.names.routes().iter().map(plain_name).collect();
        names.sort_unstable();
        self.list(&names, |canon, (texts, pool)| {
            canon.list(texts, |canon, text| canon.text(text));
            canon.number(*pool as u64);
        });
        let default = service.names.default_pool();
        self.list(default.as_slice(), |canon, pool| canon.number(*pool as u64));
    }

    fn pool(&mut self, pool: &Pool, service: u64) {
        self.text(&pool.name);
        self.number(service);
        self.list(&pool.servers, |canon, server| canon.number(server.0));
        self.text(pool.policy.kind.name());
        self.number(pool.policy.t_low);
        self.number(pool.policy.t_high);
        self.number(pool.policy.k.as_millis());
        self.text(pool.consult.name());
        self.text(&pool.key.to_string());
        self.text(pool.p_http.name());
        self.number(pool.pressure_low);
    }

    fn list<T>(&mut self, items: &[T], mut one: impl FnMut(&mut Self, &T)) {
        self.number(items.len() as u64);
        items.iter().for_each(|item| one(self, item));
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    fn number(&mut self, number: impl Into<u128>) {
        self.0.update(number.into().to_be_bytes());
    }
}

fn plain_host(host: &HostMatch) -> String {
    match host {
        HostMatch::Any => "any".to_owned(),
        HostMatch::Exact(host) => format!("is {host}"),
        HostMatch::Suffix(suffix) => format!("ends in {suffix}"),
    }
}

/// A route of TLS as texts that compare: which hosts, which protocol; and its pool.
fn plain_name(route: &NameRoute) -> (Vec<String>, usize) {
    let alpn = route.alpn.as_ref().map_or("any".to_owned(), |alpn| format!("is {alpn}"));
    (vec![plain_host(&route.host), alpn], route.pool)
}

/// A route as texts that compare: which hosts, which paths, which methods; and its pool.
fn plain(route: &Route) -> (Vec<String>, usize) {
    let path = match &route.path {
        PathMatch::Any => "any".to_owned(),
        PathMatch::Exact(path) => format!("is {path}"),
        PathMatch::Prefix(prefix) => format!("begins with {prefix}"),
    };
    let mut methods = route.methods.clone();
    methods.sort_unstable();
    (vec![plain_host(&route.host), path, methods.join(" ")], route.pool)
}

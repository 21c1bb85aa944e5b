//! A second interface for nodes, `eth1`: on a network of its own to the router, as where answers take a way of their
//! own; or on the link where `eth0` is.

use std::net::IpAddr;

use crate::network::{Family, on_link};
use crate::topology::{Testbed, link};

impl Testbed {
    /// Gives a node `eth1` on a link of its own to the router: 10.3.`index`.2 or fd03:`index`::2, the router's end is .1.
    /// No route leads there yet; see [`Testbed::default_route_by`].
    ///
    /// # Panics
    /// When the node has an `eth1` already.
    #[track_caller]
    pub fn second_network(&self, index: usize) {
        let node = self.node(index);
        let port = format!("pub-{}", node.name());
        link((node, "eth1"), (self.router(), &port));
        node.ip("link set eth1 up");
        self.router().ip(&format!("link set {port} up"));
        node.add_addresses(on_second(index, 2), "eth1");
        self.router().add_addresses(on_second(index, 1), &port);
    }

    /// A node's default routes leave by `eth0` or by `eth1`, its [`Testbed::second_network`], from now on.
    #[track_caller]
    pub fn default_route_by(&self, index: usize, interface: &str) {
        let gateways = match interface {
            "eth1" => on_second(index, 1),
            _ => self.gateways(index),
        };
        for gateway in gateways {
            self.node(index).ip(&format!("route replace default via {gateway} dev {interface}"));
        }
    }

    /// Another table of a node's routes, whose default route leaves by `eth1`, its [`Testbed::second_network`], and which
    /// `rule` (as `ip rule` takes it) sends packets to.
    #[track_caller]
    pub fn table_by_second(&self, index: usize, rule: &str) {
        for gateway in on_second(index, 1) {
            let ip = if gateway.is_ipv6() { "-6" } else { "-4" };
            let node = self.node(index);
            node.ip(&format!("{ip} route replace default via {gateway} dev eth1 table 100"));
            // Rules by an address are those of its family alone.
            if !rule.contains(if gateway.is_ipv6() { '.' } else { ':' }) {
                node.ip(&format!("{ip} rule add {rule} lookup 100"));
            }
        }
    }

    /// Routes of a node to the clients' networks by `eth1`, its [`Testbed::second_network`], longer than any default route.
    #[track_caller]
    pub fn clients_by_second(&self, index: usize) {
        for (gateway, client) in
            on_second(index, 1).into_iter().zip(Family::ALL.map(|f| self.client(0).address_of(f)))
        {
            self.node(index).ip(&format!("route replace {client} via {gateway} dev eth1"));
        }
    }

    /// Gives a node `eth1` on the nodes' own link, with addresses that end in `last` (10.1.0.`last`).
    ///
    /// # Panics
    /// When each node is on a link of its own.
    #[track_caller]
    pub fn second_on_link(&self, index: usize, last: u8) {
        assert!(!self.network().is_routed(), "the nodes share no link");
        let node = self.node(index);
        let port = format!("too-{}", node.name());
        link((node, "eth1"), (self.router(), &port));
        self.router().ip(&format!("link set {port} master br0 up"));
        node.ip("link set eth1 up");
        node.add_addresses(
            Family::ALL.map(|family| self.network().on_node_link(family, index, last)),
            "eth1",
        );
    }

    /// Makes a node's `eth0` anew, as whoever restarts a network does: another number, the same addresses and routes.
    #[track_caller]
    pub fn remake_interface(&self, index: usize) {
        let node = self.node(index);
        let port = format!("to-{}", node.name());
        node.ip("link del eth0");
        link((node, "eth0"), (self.router(), &port));
        if self.network().is_routed() {
            self.router().ip(&format!("link set {port} up"));
            self.router().add_addresses(self.gateways(index), &port);
        } else {
            self.router().ip(&format!("link set {port} master br0 up"));
        }
        node.ip(&format!("link set eth0 address 02:00:0a:01:00:{:02x} up", 10 + index));
        node.add_addresses(Family::ALL.map(|family| node.address_of(family)), "eth0");
        self.default_route_by(index, "eth0");
    }

    /// The nodes' link is none any more: each node is alone with the router, which answers ARP for all that it knows a way
    /// to. Nodes go on to think that they share a link. IPv4 alone; `vip` is at the first node.
    #[track_caller]
    pub fn proxy_arp(&self, vip: IpAddr) {
        let router = self.router();
        for node in self.nodes() {
            let port = format!("to-{}", node.name());
            router.ip(&format!("link set {port} nomaster"));
            router.sysctl(&format!("net.ipv4.conf.{port}.proxy_arp"), "1");
            router.sysctl(&format!("net.ipv4.neigh.{port}.proxy_delay"), "0");
            router.ip(&format!("route add {}/32 dev {port}", node.address_of(Family::Ipv4)));
        }
        router.ip(&format!("route replace {vip}/32 dev to-{}", self.node(0).name()));
    }

    /// The router's addresses on a node's link.
    fn gateways(&self, index: usize) -> [IpAddr; 2] {
        Family::ALL.map(|family| self.network().on_node_link(family, index, 1))
    }
}

fn on_second(index: usize, last: u8) -> [IpAddr; 2] {
    Family::ALL.map(|family| on_link(family, 3, index as u8, last))
}

//! The networks of the testbed and the machines on them.
//!
//! ```text
//!  client 10.2.<k>.2 --- [wire] --- router 10.2.<k>.1
//!                                   br0 10.1.0.1 ---+--- node a 10.1.0.10
//!                                                   +--- node b 10.1.0.11 ...
//! ```
//! Clients and nodes have one interface, `eth0`. The router has `to-client<k>`, and `br0` with a
//! port `to-<node>` for each node; it forwards like any router and can run a switch itself. The
//! wire, if asked for, is a bridge on each client's link: a place where packets get lost whatever
//! eBPF programs do on either side.
//!
//! In a routed layout there is no bridge: node n, counted from 0, is `10.1.<n>.10`, alone with the
//! router's `10.1.<n>.1` on a link of its own, `to-<node>`. Every interface has an IPv6 address too,
//! spelt alike: `fd02:<k>::2`, `fd01::10`, `fd01:<n>::10` ([`crate::network`] has the plan).

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::counters::Counters;
use crate::disturb::Disturb;
use crate::host::Host;
use crate::line::Line;
use crate::netns::Namespace;
use crate::network::{Family, Layout, Network, on_client_link};
use crate::observer::{Invalid, invalid, observe};
use crate::process::{OwnCpu, Pinned};

/// The most nodes, and the most clients, of one testbed: names are letters.
const MACHINES_MAX: usize = 26;

/// What a testbed shall have; made by [`Testbed::builder`].
#[derive(Debug, Clone)]
pub struct Builder {
    nodes: Vec<String>,
    clients: usize,
    wire: bool,
    one_cpu: bool,
    offloads: bool,
    network: Option<Network>,
    node_mtu: Option<u16>,
    line: Option<Disturb>,
    observed: bool,
}

impl Builder {
    /// How many nodes (1 if not said).
    pub fn nodes(self, nodes: usize) -> Self {
        Self { nodes: (0..nodes).map(letter).collect(), ..self }
    }

    /// Nodes of these names, of 1 to 12 characters each.
    pub fn named_nodes(self, names: &[&str]) -> Self {
        Self { nodes: names.iter().map(|name| (*name).to_owned()).collect(), ..self }
    }

    /// How many clients, each on a network of its own (1 if not said).
    pub fn clients(self, clients: usize) -> Self {
        Self { clients, ..self }
    }

    /// What its networks are like; if not said, as `BATON_NETWORK` says ([`Network::from_environment`]).
    pub fn network(self, network: Network) -> Self {
        Self { network: Some(network), ..self }
    }

    /// The MTU of the nodes' links, on both ends, in bytes (1500 if not said; IPv6 needs 1280).
    pub fn node_mtu(self, bytes: u16) -> Self {
        Self { node_mtu: Some(bytes), ..self }
    }

    /// Makes every client's line one with a round trip of at least `round_trip`, half of it in each
    /// direction: a [`Builder::line`] that delays, and does nothing else.
    pub fn delay(self, round_trip: Duration) -> Self {
        self.line(Disturb::new(0).delay(round_trip))
    }

    /// Makes every client's line like this for as long as the testbed is there: long, slow, bad
    /// ([`Testbed::line`] tells what it has done). Frames go through a relay, one frame at a time: so the
    /// segmentation and checksum offloads of both ends of the line are off. [`Testbed::lose`] cannot lose
    /// packets of clients then; the line can.
    pub fn line(self, line: Disturb) -> Self {
        Self { line: Some(line), wire: true, ..self }
    }

    /// Without conntrack as an observer on nodes and router: for what measures, and for tests that send broken
    /// packets on purpose, or none of whose machines is as it should be. `reason` is for who reads the test.
    pub fn unobserved(self, reason: &str) -> Self {
        assert!(!reason.is_empty(), "say why");
        Self { observed: false, ..self }
    }

    /// Puts a wire on the clients' links, on which [`Testbed::lose`] can lose packets. It costs a
    /// hop, so benchmarks leave it out.
    pub fn wire(self) -> Self {
        Self { wire: true, ..self }
    }

    /// Pins all that runs in the testbed, and the thread that builds it, to one CPU that no other testbed
    /// on this machine is pinned to; building waits while there is none. A veth device
    /// hands packets over on the CPU that sent them, so with two CPUs a flow whose sender migrates
    /// is reordered, and TCP retransmits without a loss. On one CPU packets keep their order: needed by
    /// tests that count retransmissions.
    ///
    /// Tail loss probes (RFC 8985 7) are off then: a sender that waits for the one CPU longer than
    /// two round trips would probe, and a probe is a retransmission without a loss. What is really
    /// lost is still retransmitted, after the timeout.
    pub fn one_cpu(self) -> Self {
        Self { one_cpu: true, ..self }
    }

    /// Turns segmentation and receive offloads and checksum offload off at clients and nodes:
    /// every packet is one Ethernet frame, as on a wire, and is lost alone.
    pub fn without_offloads(self) -> Self {
        Self { offloads: false, ..self }
    }

    /// Makes it.
    ///
    /// # Panics
    /// When not root, something is not installed or the kernel refuses.
    #[track_caller]
    pub fn build(&self) -> Testbed {
        let machines = 1..=MACHINES_MAX;
        assert!(machines.contains(&self.nodes.len()) && machines.contains(&self.clients), "1 to 26 of each");
        let own_cpu = self.one_cpu.then(OwnCpu::take);
        let cpu = own_cpu.as_ref().map(OwnCpu::number);
        let network = self.network.unwrap_or_else(Network::from_environment);
        let place = Place { cpu, network };
        let router = place.host("router".into(), network.nodes, place.on_node_link(0, 1));
        forwards(&router);
        if !network.is_routed() {
            bridge_of_nodes(&router, place.on_node_link(0, 1));
            if network.layout == Layout::Flooded {
                router.ip("link set br0 type bridge ageing_time 0");
            }
        }
        let nodes = (0..self.nodes.len()).map(|i| self.node(i, place, &router)).collect();
        let wire = self.wire.then(|| wire(cpu));
        let clients = (0..self.clients).map(|k| self.client(k, place, &router, wire.as_ref())).collect();
        // A thread that reads from a connection sends its window updates, and with them whatever the
        // server may send then.
        let pinned = cpu.map(|cpu| Pinned::to(cpu).expect("a thread may be pinned to a CPU that it was on"));
        let lines = self.lines(wire.as_ref());
        let bed = Testbed {
            lines,
            clients,
            nodes,
            wire,
            router,
            network,
            observed: self.observed,
            router_is_member: AtomicBool::new(false),
            _pinned: pinned,
            own_cpu,
        };
        if self.observed {
            bed.nodes.iter().for_each(|node| observe(node, false));
            observe(&bed.router, true);
        }
        if self.one_cpu {
            bed.clients
                .iter()
                .chain(&bed.nodes)
                .for_each(|host| host.sysctl("net.ipv4.tcp_early_retrans", "0"));
        }
        bed
    }

    fn node(&self, index: usize, place: Place, router: &Host) -> Host {
        let name = self.nodes[index].clone();
        let addresses = Family::ALL.map(|family| place.network.node(family, index));
        let node = place.host(name.clone(), place.network.nodes, addresses);
        let port = format!("to-{name}");
        link((&node, "eth0"), (router, &port));
        let gateways = if place.network.is_routed() {
            let gateways = place.on_node_link(index, 1);
            router.ip(&format!("link set {port} up"));
            router.add_addresses(gateways, &port);
            gateways
        } else {
            router.ip(&format!("link set {port} master br0 up"));
            place.on_node_link(0, 1)
        };
        node.ip(&format!("link set eth0 address 02:00:0a:01:00:{:02x} up", 10 + index));
        if let Some(mtu) = self.node_mtu {
            router.ip(&format!("link set {port} mtu {mtu}"));
            node.ip(&format!("link set eth0 mtu {mtu}"));
        }
        node.add_addresses(addresses, "eth0");
        gateways.iter().for_each(|gateway| drop(node.ip(&format!("route add default via {gateway}"))));
        self.offloads_of(&node);
        node
    }

    fn client(&self, k: usize, place: Place, router: &Host, wire: Option<&Namespace>) -> Host {
        let name = format!("client{k}");
        let [gateways, addresses] = [1, 2].map(|last| Family::ALL.map(|f| on_client_link(f, k, last)));
        let client = place.host(name.clone(), place.network.vips, addresses);
        let port = format!("to-{name}");
        match wire {
            None => link((&client, "eth0"), (router, &port)),
            Some(wire) => {
                link((&client, "eth0"), (wire, &name));
                link((router, &port), (wire, &format!("router{k}")));
                self.wire_through(wire, k);
            }
        }
        router.ip(&format!("link set {port} up"));
        router.add_addresses(gateways, &port);
        client.ip("link set eth0 up");
        client.add_addresses(addresses, "eth0");
        gateways.iter().for_each(|gateway| drop(client.ip(&format!("route add default via {gateway}"))));
        self.offloads_of(&client);
        if self.line.is_some() {
            one_frame_at_a_time(&client, "eth0");
            one_frame_at_a_time(router, &port);
        }
        client
    }

    /// Joins the two ends of a client's wire: with a bridge, or with nothing if a relay is to do it.
    fn wire_through(&self, wire: &Namespace, k: usize) {
        let ends = [format!("client{k}"), format!("router{k}")];
        if self.line.is_some() {
            ends.iter().for_each(|end| drop(wire.ip(&format!("link set {end} up"))));
            return;
        }
        wire.ip(&format!("link add wire{k} type bridge {QUIET_BRIDGE}"));
        ends.iter().for_each(|end| drop(wire.ip(&format!("link set {end} master wire{k} up"))));
        wire.ip(&format!("link set wire{k} up"));
    }

    fn lines(&self, wire: Option<&Namespace>) -> Vec<Line> {
        let (Some(line), Some(wire)) = (self.line, wire) else { return Vec::new() };
        (0..self.clients).map(|k| Line::start(wire, k, line)).collect()
    }

    fn offloads_of(&self, host: &Host) {
        if !self.offloads {
            host.run("ethtool", "-K eth0 tso off gso off gro off tx off rx off".split(' '));
        }
    }
}

/// Where machines are made, and with which addresses.
#[derive(Clone, Copy)]
struct Place {
    cpu: Option<usize>,
    network: Network,
}

impl Place {
    fn host(self, name: String, family: Family, addresses: [IpAddr; 2]) -> Host {
        Host::new(name, family, addresses, self.cpu)
    }

    fn on_node_link(self, index: usize, last: u8) -> [IpAddr; 2] {
        Family::ALL.map(|family| self.network.on_node_link(family, index, last))
    }
}

/// A cluster of machines; all of them go when it is dropped.
#[derive(Debug)]
pub struct Testbed {
    /// Before the wire that they are on: fields are dropped in this order.
    lines: Vec<Line>,
    clients: Vec<Host>,
    nodes: Vec<Host>,
    wire: Option<Namespace>,
    router: Host,
    network: Network,
    observed: bool,
    /// The router takes part in the cluster: its programs forward packets before conntrack sees them, so that it
    /// sees answers alone.
    router_is_member: AtomicBool,
    _pinned: Option<Pinned>,
    /// Until everything that runs on it has gone.
    own_cpu: Option<OwnCpu>,
}

impl Testbed {
    /// One client, one node, nothing else; then say what more.
    pub fn builder() -> Builder {
        Builder {
            nodes: vec![letter(0)],
            clients: 1,
            wire: false,
            one_cpu: false,
            offloads: true,
            network: None,
            node_mtu: None,
            line: None,
            observed: true,
        }
    }

    /// What conntrack has called invalid so far, on those of the nodes and the router where it was anything.
    pub fn invalid(&self) -> Vec<Invalid> {
        let router = [&self.router].into_iter().filter(|_| !self.router_is_member.load(Ordering::Relaxed));
        let hosts = self.nodes.iter().chain(router).filter(|_| self.observed);
        hosts.filter_map(invalid).filter(|seen| seen.own + seen.passed > 0).collect()
    }

    /// The one CPU that it runs on, if it runs on one.
    pub(crate) fn cpu(&self) -> Option<usize> {
        self.own_cpu.as_ref().map(OwnCpu::number)
    }

    /// What its networks are like.
    pub fn network(&self) -> Network {
        self.network
    }

    /// An address that clients see, counted from 0. Nothing is there until something is put there.
    #[track_caller]
    pub fn vip(&self, index: usize) -> IpAddr {
        self.network.vip(index)
    }

    /// The MSS of a connection between a client and a node, of the family of VIPs, with nothing between
    /// them but the router: what both ends say when the MTU of their links is 1500.
    pub fn plain_mss(&self) -> u16 {
        1500 - self.network.vips.headers()
    }

    /// All nodes, in the order of their names.
    pub fn nodes(&self) -> &[Host] {
        &self.nodes
    }

    /// A node, counted from 0.
    #[track_caller]
    pub fn node(&self, index: usize) -> &Host {
        &self.nodes[index]
    }

    /// A client, counted from 0.
    #[track_caller]
    pub fn client(&self, index: usize) -> &Host {
        &self.clients[index]
    }

    /// All clients.
    pub fn clients(&self) -> &[Host] {
        &self.clients
    }

    /// The router's interface to a client's network.
    pub fn client_port(&self, index: usize) -> String {
        format!("to-client{index}")
    }

    /// The router between clients and nodes. A switch may run on it.
    pub fn router(&self) -> &Host {
        &self.router
    }

    /// The router runs a switch from now on.
    pub(crate) fn router_joins(&self) {
        self.router_is_member.store(true, Ordering::Relaxed);
    }

    /// The router's interfaces to the nodes' networks: one to each node if each has its own.
    pub fn node_ports(&self) -> Vec<String> {
        match self.network.is_routed() {
            true => self.nodes.iter().map(|node| format!("to-{}", node.name())).collect(),
            false => vec!["br0".into()],
        }
    }

    /// The wire on the clients' links.
    ///
    /// # Panics
    /// When the testbed was made without, or with a line of its own on it.
    #[track_caller]
    pub fn wire(&self) -> &Namespace {
        assert!(self.lines.is_empty(), "there is a line on this testbed's wire already: let it lose packets");
        self.wire.as_ref().expect("this testbed has no wire: build it with `.wire()`")
    }

    /// The line of a client, counted from 0.
    ///
    /// # Panics
    /// When the testbed was not made with [`Builder::line`] or [`Builder::delay`].
    #[track_caller]
    pub fn line(&self, client: usize) -> &Line {
        self.lines.get(client).expect("this testbed has no lines: build it with `.line()` or `.delay()`")
    }

    /// The router sends packets for `vip` to this node, or to another one from now on.
    #[track_caller]
    pub fn route_vip(&self, vip: IpAddr, node: &Host) {
        self.route_vip_over(vip, &[node]);
    }

    /// The router sends packets for `vip` to these nodes, each flow to one of them (equal-cost routes).
    ///
    /// # Panics
    /// When there are none.
    #[track_caller]
    pub fn route_vip_over(&self, vip: IpAddr, nodes: &[&Host]) {
        assert!(!nodes.is_empty(), "no node to send {vip} to");
        let hop = |node: &&Host| format!("nexthop via {}", node.address_of(Family::of(vip)));
        self.replace_route(vip, &nodes.iter().map(hop).collect::<Vec<_>>().join(" "));
    }

    /// `vip` is on the nodes' link: the router asks there who has it.
    ///
    /// # Panics
    /// When the nodes share no link.
    #[track_caller]
    pub fn vip_on_link(&self, vip: IpAddr) {
        assert!(!self.network.is_routed(), "the nodes share no link: use `route_vip`");
        self.replace_route(vip, "dev br0");
    }

    #[track_caller]
    fn replace_route(&self, vip: IpAddr, to: &str) {
        // A hash of ports too, or one client's connections would all go one way.
        self.router.sysctl("net.ipv4.fib_multipath_hash_policy", "1");
        self.router.sysctl("net.ipv6.fib_multipath_hash_policy", "1");
        let prefix = format!("{vip}/{}", Family::of(vip).host_bits());
        self.router.ip(&format!("route replace {prefix} {to}"));
    }

    /// What has gone over the router's port to a node: `tx` is towards the node. Response bytes of
    /// a node are its port's `rx`.
    #[track_caller]
    pub fn port_of(&self, node: &Host) -> Counters {
        self.router.counters(&format!("to-{}", node.name()))
    }
}

/// Nothing was invalid: what a testbed's end shows, unless a test has failed already.
impl Drop for Testbed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let invalid: Vec<String> = self.invalid().iter().map(ToString::to_string).collect();
        assert!(invalid.is_empty(), "packets that a stateful firewall would drop: {}", invalid.join("; "));
    }
}

fn letter(index: usize) -> String {
    char::from(b'a' + index as u8).to_string()
}

/// Joins two interfaces with a cable. They are made where they belong: nothing of them is ever
/// seen in the real machine's namespace.
pub(crate) fn link((a, a_name): (&Namespace, &str), (b, b_name): (&Namespace, &str)) {
    a.ip(&format!("link add {a_name} type veth peer name {b_name} netns {}", b.name()));
}

/// Spanning tree off and no forward delay: ports carry packets as soon as they are up.
const QUIET_BRIDGE: &str = "stp_state 0 forward_delay 0 mcast_snooping 0";

/// Makes a machine a router.
fn forwards(router: &Host) {
    router.sysctl("net.ipv4.ip_forward", "1");
    router.sysctl("net.ipv6.conf.all.forwarding", "1");
}

fn bridge_of_nodes(router: &Host, addresses: [IpAddr; 2]) {
    router.ip(&format!("link add br0 type bridge {QUIET_BRIDGE}"));
    router.ip("link set br0 address 02:00:0a:01:00:01 up");
    router.add_addresses(addresses, "br0");
    bridged_packets_skip_ip_rules(router);
}

/// It passes on what it knows nothing of, and says nothing itself.
fn wire(cpu: Option<usize>) -> Namespace {
    let wire = Namespace::new("wire", cpu);
    bridged_packets_skip_ip_rules(&wire);
    for which in ["all", "default"] {
        wire.sysctl(&format!("net.ipv6.conf.{which}.disable_ipv6"), "1");
    }
    wire
}

/// What leaves by this interface is single frames with right checksums, whatever came in elsewhere.
fn one_frame_at_a_time(host: &Host, interface: &str) {
    host.run("ethtool", ["-K", interface, "tso", "off", "gso", "off", "tx", "off"]);
}

/// Where br_netfilter is there, bridged packets would also run through the rules for routed ones.
fn bridged_packets_skip_ip_rules(namespace: &Namespace) {
    for family in ["iptables", "ip6tables", "arptables"] {
        namespace.sysctl_if_there(&format!("net.bridge.bridge-nf-call-{family}"), "0");
    }
}

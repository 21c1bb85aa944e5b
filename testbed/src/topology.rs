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

use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Deref;

use nix::sched::sched_getaffinity;
use nix::unistd::Pid;

use crate::counters::Counters;
use crate::netns::Namespace;
use crate::process::Pinned;

/// The address that clients see, in tests that need only one.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// The most nodes, and the most clients, of one testbed: names are letters.
const MACHINES_MAX: usize = 26;

/// A machine of the testbed: everything of [`Namespace`], a name and an address.
#[derive(Debug)]
pub struct Host {
    name: String,
    address: Ipv4Addr,
    namespace: Namespace,
}

impl Host {
    /// Its name: `a`, `b`, ... for nodes unless they were named, `router`, `client0`, ...
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its own address (the router's is the one on the nodes' link).
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// A port at its own address.
    pub fn at(&self, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(self.address, port)
    }

    /// Gives a client one more address, to connect from.
    ///
    /// # Panics
    /// When `last` is 0, 1, 2 (taken) or 255.
    #[track_caller]
    pub fn extra_address(&self, last: u8) -> Ipv4Addr {
        assert!((3..255).contains(&last), "10.2.k.{last} is not free");
        let [a, b, c, _] = self.address.octets();
        let address = Ipv4Addr::new(a, b, c, last);
        self.ip(&format!("addr add {address}/24 dev eth0"));
        address
    }

    /// Puts a VIP on the loopback interface, and keeps the machine from answering ARP for it: what
    /// an operator does by hand on a server behind direct routing.
    #[track_caller]
    pub fn hold_vip(&self, vip: Ipv4Addr) {
        self.ip(&format!("addr add {vip}/32 dev lo"));
        self.sysctl("net.ipv4.conf.all.arp_ignore", "1");
        self.sysctl("net.ipv4.conf.all.arp_announce", "2");
    }
}

impl Deref for Host {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}

/// What a testbed shall have; made by [`Testbed::builder`].
#[derive(Debug, Clone)]
pub struct Builder {
    nodes: Vec<String>,
    clients: usize,
    wire: bool,
    one_cpu: bool,
    offloads: bool,
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

    /// Puts a wire on the clients' links, on which [`Testbed::lose`] can lose packets. It costs a
    /// hop, so benchmarks leave it out.
    pub fn wire(self) -> Self {
        Self { wire: true, ..self }
    }

    /// Pins all that runs in the testbed, and the thread that builds it, to one CPU. A veth device
    /// hands packets over on the CPU that sent them, so with two CPUs a flow whose sender migrates
    /// is reordered, and TCP retransmits without a loss. On one CPU packets keep their order: needed by tests that count
    /// retransmissions.
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
        let cpu = self.one_cpu.then(some_cpu);
        let router = self.router(cpu);
        let nodes = (0..self.nodes.len()).map(|i| self.node(i, cpu, &router)).collect();
        let wire = self.wire.then(|| Namespace::new("wire", cpu));
        if let Some(wire) = &wire {
            bridged_packets_skip_ip_rules(wire);
        }
        let clients = (0..self.clients).map(|k| self.client(k, cpu, &router, wire.as_ref())).collect();
        // A thread that reads from a connection sends its window updates, and with them whatever the
        // server may send then.
        let pinned = cpu.map(|cpu| Pinned::to(cpu).expect("a thread may be pinned to a CPU that it was on"));
        let bed = Testbed { clients, nodes, wire, router, _pinned: pinned };
        if self.one_cpu {
            bed.clients
                .iter()
                .chain(&bed.nodes)
                .for_each(|host| host.sysctl("net.ipv4.tcp_early_retrans", "0"));
        }
        bed
    }

    fn router(&self, cpu: Option<usize>) -> Host {
        let router = host("router".into(), Ipv4Addr::new(10, 1, 0, 1), Namespace::new("router", cpu));
        router.sysctl("net.ipv4.ip_forward", "1");
        // Spanning tree off and no forward delay: ports carry packets as soon as they are up.
        router.ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0");
        router.ip("link set br0 address 02:00:0a:01:00:01 up");
        router.ip("addr add 10.1.0.1/24 dev br0");
        bridged_packets_skip_ip_rules(&router);
        router
    }

    fn node(&self, index: usize, cpu: Option<usize>, router: &Host) -> Host {
        let name = self.nodes[index].clone();
        let last = 10 + index as u8;
        let node = host(name.clone(), Ipv4Addr::new(10, 1, 0, last), Namespace::new(&name, cpu));
        let port = format!("to-{name}");
        link((&node, "eth0"), (router, &port));
        router.ip(&format!("link set {port} master br0 up"));
        node.ip(&format!("link set eth0 address 02:00:0a:01:00:{last:02x} up"));
        node.ip(&format!("addr add {}/24 dev eth0", node.address));
        node.ip("route add default via 10.1.0.1");
        self.offloads_of(&node);
        node
    }

    fn client(&self, k: usize, cpu: Option<usize>, router: &Host, wire: Option<&Namespace>) -> Host {
        let name = format!("client{k}");
        let network = k as u8;
        let client = host(name.clone(), Ipv4Addr::new(10, 2, network, 2), Namespace::new(&name, cpu));
        let port = format!("to-{name}");
        match wire {
            None => link((&client, "eth0"), (router, &port)),
            Some(wire) => {
                link((&client, "eth0"), (wire, &name));
                link((router, &port), (wire, &format!("router{k}")));
                wire.ip(&format!(
                    "link add wire{k} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
                ));
                for end in [name.clone(), format!("router{k}")] {
                    wire.ip(&format!("link set {end} master wire{k} up"));
                }
                wire.ip(&format!("link set wire{k} up"));
            }
        }
        router.ip(&format!("link set {port} up"));
        router.ip(&format!("addr add 10.2.{network}.1/24 dev {port}"));
        client.ip("link set eth0 up");
        client.ip(&format!("addr add {}/24 dev eth0", client.address));
        client.ip(&format!("route add default via 10.2.{network}.1"));
        self.offloads_of(&client);
        client
    }

    fn offloads_of(&self, host: &Host) {
        if !self.offloads {
            host.run("ethtool", "-K eth0 tso off gso off gro off tx off rx off".split(' '));
        }
    }
}

/// A cluster of machines; all of them go when it is dropped.
#[derive(Debug)]
pub struct Testbed {
    clients: Vec<Host>,
    nodes: Vec<Host>,
    wire: Option<Namespace>,
    router: Host,
    _pinned: Option<Pinned>,
}

impl Testbed {
    /// One client, one node, nothing else; then say what more.
    pub fn builder() -> Builder {
        Builder { nodes: vec![letter(0)], clients: 1, wire: false, one_cpu: false, offloads: true }
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

    /// The wire on the clients' links.
    ///
    /// # Panics
    /// When the testbed was made without.
    #[track_caller]
    pub fn wire(&self) -> &Namespace {
        self.wire.as_ref().expect("this testbed has no wire: build it with `.wire()`")
    }

    /// The router sends packets for `vip` to this node, or to another one from now on.
    #[track_caller]
    pub fn route_vip(&self, vip: Ipv4Addr, node: &Host) {
        self.router.ip(&format!("route replace {vip}/32 via {}", node.address));
    }

    /// `vip` is on the nodes' link: the router asks by ARP who has it.
    #[track_caller]
    pub fn vip_on_link(&self, vip: Ipv4Addr) {
        self.router.ip(&format!("route replace {vip}/32 dev br0"));
    }

    /// What has gone over the router's port to a node: `tx` is towards the node. Response bytes of
    /// a node are its port's `rx`.
    #[track_caller]
    pub fn port_of(&self, node: &Host) -> Counters {
        self.router.counters(&format!("to-{}", node.name))
    }
}

fn host(name: String, address: Ipv4Addr, namespace: Namespace) -> Host {
    Host { name, address, namespace }
}

fn letter(index: usize) -> String {
    char::from(b'a' + index as u8).to_string()
}

/// Joins two interfaces with a cable. They are made where they belong: nothing of them is ever
/// seen in the real machine's namespace.
fn link((a, a_name): (&Namespace, &str), (b, b_name): (&Namespace, &str)) {
    a.ip(&format!("link add {a_name} type veth peer name {b_name} netns {}", b.name()));
}

/// Where br_netfilter is there, bridged packets would also run through the rules for routed ones.
fn bridged_packets_skip_ip_rules(namespace: &Namespace) {
    for family in ["iptables", "ip6tables", "arptables"] {
        namespace.sysctl_if_there(&format!("net.bridge.bridge-nf-call-{family}"), "0");
    }
}

/// One of the CPUs that this process may use; not the same one for each process, so that test
/// processes that run at once spread.
fn some_cpu() -> usize {
    let allowed = sched_getaffinity(Pid::from_raw(0)).expect("a process may ask for its own CPUs");
    let cpus: Vec<usize> =
        (0..nix::sched::CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)).collect();
    cpus[std::process::id() as usize % cpus.len()]
}

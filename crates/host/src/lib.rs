//! What a node's Linux must be like so that Baton works: read it, judge it, mend it, undo it.
//!
//! The daemon calls [`apply`] at start and [`Undo::run`] at exit; `baton doctor` calls [`read()`] and
//! [`judge()`], and with `--fix` also [`apply`]. This crate never attaches a program, makes a TAP device
//! or moves a packet (the datapath does), and never touches a firewall: firewalls are the operator's.
//!
//! Everything acts on the network namespace of the calling thread: call it from the thread (and the
//! current-thread runtime) that entered the namespace. Reading needs no privilege but sees less
//! without CAP_NET_ADMIN; changing needs CAP_NET_ADMIN.
//!
//! # Findings
//!
//! | id | what is wrong when it is not ok |
//! |---|---|
//! | `kernel-btf` | the kernel describes no types, so no program can be loaded |
//! | `kernel-kfunc` | the kernel cannot make a socket from a client's first data packet |
//! | `kernel-bpf` | the kernel has no BPF system call |
//! | `bpf-jit` | programs are interpreted, so each packet costs many times more |
//! | `cgroup2` | connections that move begin with a small congestion window |
//! | `capabilities` | Baton may not load programs, configure links or send frames |
//! | `tun` | the distributor cannot hold packets while it asks the dispatcher |
//! | `interface` | no interface holds the node's address, or one that is named is missing or is no Ethernet interface |
//! | `interface-up` | an interface of the cluster, or `lo`, is down |
//! | `mtu` | a full-size request does not fit the link once it carries handoff metadata; or IPv6 is off |
//! | `merging` | packets are merged into some that cannot be wrapped for another node |
//! | `tcp-syncookies` | the kernel answers an adoption with a RST to the client |
//! | `tcp-timestamps`, `tcp-sack`, `tcp-window-scaling` | connections that negotiated it cannot be adopted |
//! | `tcp-rfc1337` | a client that reuses a port meets the old connection and hangs |
//! | `ipv6` | IPv6 is switched off in the kernel or on an interface that needs it |
//! | `ipv6-keep-address` | the announced VIP is lost once its interface has been down |
//! | `arp-ignore`, `arp-announce` | a server answers ARP for a VIP that another node announces, or an interface for one that another interface holds |
//! | `answer-routes` | with several interfaces, refusals and handshakes leave by the wrong one |
//! | `answer-marks` | rules choose routes by marks that Baton's own answers do not carry |
//! | `vrf` | an interface of the cluster belongs to a VRF |
//! | `way-out` | answers leave by an interface that is not named, so connections are not seen to end |
//! | `send-redirects` | a forwarding node tells clients to go round it |
//! | `rp-filter` | packets of clients are dropped because replies leave elsewhere |
//! | `vip-loopback`, `vip-interface` | the VIP is not where this node needs it |
//! | `vip-route` | never wrong: says what the clients' router needs |
//! | `vip-conflict` | the VIP is on an interface of a node that must not announce it |
//! | `vip-duplicate` | the kernel does not use the VIP, because another host answered for it |
//! | `listener` | nothing listens on VIP:port, or it cannot be seen |
//! | `mptcp-listener` | the listener speaks MPTCP; connections cannot be adopted into it |
//! | `firewall` | the firewall could not be read |
//! | `firewall-new-not-syn` | a rule drops connections that do not begin with a SYN: all handed-off ones |
//! | `firewall-nat` | a rule sends packets to a service's port on to elsewhere, so nothing can be adopted there |
//! | `firewall-port` | the firewall drops by default and no rule names a port that Baton needs |
//! | `firewall-neighbours` | the firewall drops by default and no rule lets ICMPv6 in, which IPv6 lives by |
//! | `conntrack-loose` | connection tracking calls handed-off connections invalid |
//! | `bridge-netfilter` | bridged packets run through the firewall's forward rules |
//! | `handoff-port` | another program receives on the handoff port |
//! | `clock` | the clock is not synchronised, so the nodes' logs cannot be compared |

mod address;
mod announce;
mod error;
mod facts;
mod filter;
mod finding;
mod firewall;
mod judge;
mod judge_firewall;
mod judge_start;
mod keep;
mod link;
mod listeners;
mod plan;
mod read;
mod setup;
mod sockets;
mod sysctl;
mod undo;
mod way;

use std::net::{IpAddr, SocketAddr};

pub use announce::announce;
pub use error::HostError;
pub use facts::{Capabilities, Clock, Facts, Held, Interface, Kernel, Listener, Merges, Net, NoTun};
pub use filter::forget_filters;
pub use finding::{Finding, Severity};
pub use firewall::{Firewall, Rule};
pub use judge::judge;
pub use judge_start::obstacle;
pub use keep::{HostSeen, HostWatch, keep};
pub use link::cluster_interfaces;
pub use read::{essentials, read, waiting, web_server};
pub use setup::{Mended, apply, prepare, update};
pub use sockets::{SocketState, Sockets};
pub use sysctl::Sysctl;
pub use undo::{HostChange, Undo, Undone};
pub use way::{Way, answered_for};

/// What one node is to be. The caller makes it from the cluster file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The node's name: it names the journal of changes.
    pub node: String,
    /// The node's own address.
    pub address: IpAddr,
    /// The interfaces of the cluster; empty means the one that holds `address`, and those that default routes leave by.
    pub interfaces: Vec<String>,
    /// A web server on this node takes over connections.
    pub is_server: bool,
    /// The node completes handshakes and hands off.
    pub is_distributor: bool,
    /// The node forwards by header alone.
    pub is_switch: bool,
    /// Requests are decided on this node: it holds packets while it asks, and ends connections that no
    /// server takes.
    pub decides: bool,
    /// VIPs that this node serves without announcing: they go on `lo`.
    pub on_loopback: Vec<IpAddr>,
    /// VIPs that this node announces: they go on the first interface of the cluster.
    pub on_interface: Vec<IpAddr>,
    /// The services' TCP ports.
    pub ports: Vec<u16>,
    /// Where the node's web servers are to listen: each VIP and port of the services that it serves.
    pub listens: Vec<SocketAddr>,
    /// The TCP port of control connections.
    pub control_port: u16,
    /// The UDP port that carries encapsulated handoffs.
    pub handoff_port: u16,
}

impl Wanted {
    /// Whether this node's TCP adopts connections: a server's for its web server, a distributor's for
    /// the request heads that the kernel cannot decide.
    pub fn adopts(&self) -> bool {
        self.is_server || self.is_distributor
    }

    /// Whether this host must speak IPv6: by its own address or by a VIP that it holds.
    pub fn needs_ipv6(&self) -> bool {
        self.address.is_ipv6() || self.vips().any(|vip| vip.is_ipv6())
    }

    /// Whether this node passes on packets of others.
    pub fn forwards(&self) -> bool {
        self.is_switch || self.is_distributor
    }

    /// Every VIP that this node holds. A node that adopts holds all of the cluster's.
    pub fn vips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.on_loopback.iter().chain(&self.on_interface).copied()
    }
}

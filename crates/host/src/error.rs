//! What can go wrong while a host is read or changed, in words that tell the operator what to do.

use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

/// Why a host could not be read, changed or restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// The node's address is on no interface.
    #[error(
        "no interface holds {address}, the address of node {node}; this host has {have}. \
         Correct `address` in the cluster file, run this on the right host, or add it: \
         ip addr add {address}/{} dev INTERFACE",
        if address.is_ipv6() { 64 } else { 24 }
    )]
    NoInterface {
        /// The node, by its name.
        node: String,
        /// The address that was looked for.
        address: IpAddr,
        /// The addresses that the host has, for people.
        have: String,
    },
    /// The address cannot be a node's own or a VIP.
    #[error("{address} is {kind}, which can be neither a node's address nor a VIP. Correct the cluster file")]
    Unusable {
        /// The address.
        address: IpAddr,
        /// What kind of address it is, for people.
        kind: &'static str,
    },
    /// An interface named in the cluster file does not exist.
    #[error("there is no interface {name}; this host has {have}. Correct `interfaces` in the cluster file")]
    UnknownInterface {
        /// The name from the cluster file.
        name: String,
        /// The interfaces that the host has, for people.
        have: String,
    },
    /// An interface of the cluster carries IP packets without an Ethernet header.
    #[error(
        "{name} is no Ethernet interface (WireGuard and tun devices are none), and Baton needs one. \
         Give the node an address on an Ethernet interface, or use a tunnel that carries Ethernet \
         frames (VXLAN, or GRETAP in the tunnel there is)"
    )]
    NotEthernet {
        /// The interface.
        name: String,
    },
    /// The kernel refused a question or a change of links or addresses.
    #[error("the kernel refused to {what}: {source}. Run as root, or give Baton CAP_NET_ADMIN")]
    Netlink {
        /// What was asked.
        what: String,
        /// The kernel's answer.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A kernel setting could not be read or written.
    #[error(
        "cannot {doing} kernel setting {name}: {source}. Run as root with /proc/sys writable \
         (a container needs its own network namespace and CAP_NET_ADMIN)"
    )]
    Sysctl {
        /// `read` or `write`.
        doing: &'static str,
        /// The setting.
        name: String,
        /// The cause.
        source: io::Error,
    },
    /// The journal of changes could not be read or written; nothing was changed that it does not hold.
    #[error(
        "cannot keep the journal of changes {path}: {source}. Make its folder writable, or choose another run folder"
    )]
    Journal {
        /// The journal.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The journal is not what this program writes.
    #[error(
        "the journal of changes {path} cannot be understood: {source}. Look at it, undo by hand what it names, then delete it"
    )]
    JournalDamaged {
        /// The journal.
        path: PathBuf,
        /// The cause.
        source: serde_json::Error,
    },
    /// Another process is changing this host.
    #[error(
        "another process has been changing this host for {seconds} s (it holds {path}); wait for it, or end it"
    )]
    Busy {
        /// The lock.
        path: PathBuf,
        /// How long was waited, in seconds.
        seconds: u64,
    },
    /// A gratuitous ARP or an unsolicited Neighbour Advertisement could not be sent.
    #[error("cannot announce {vip} on {interface}: {source}. Run as root, or give Baton CAP_NET_RAW")]
    Announce {
        /// The address.
        vip: IpAddr,
        /// The interface.
        interface: String,
        /// The cause.
        source: io::Error,
    },
}

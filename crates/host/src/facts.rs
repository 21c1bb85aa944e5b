//! Everything that is read of a host before it is judged. Plain values: `read` fills them, `judge` and
//! `plan` look at them, tests write them by hand.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::firewall::Firewall;
use crate::sysctl::Sysctl;

/// Everything read of a host.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The kernel itself.
    pub kernel: Kernel,
    /// What this process may do.
    pub capabilities: Capabilities,
    /// `/dev/net/tun` can be opened for reading and writing; otherwise why not.
    pub tun: Option<Result<(), NoTun>>,
    /// Interfaces, addresses and routes.
    pub net: Net,
    /// The settings that matter for this node and exist here.
    pub sysctls: BTreeMap<Sysctl, String>,
    /// TCP listeners, or why they could not be seen.
    pub listeners: Option<Result<Vec<Listener>, String>>,
    /// UDP ports that some program receives on.
    pub udp_ports: Vec<u16>,
    /// The firewall's rules, or why they could not be seen.
    pub firewall: Option<Result<Firewall, String>>,
    /// Whether the clock follows a reference.
    pub clock: Clock,
}

/// What the kernel is and can.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    /// Its release, as `uname -r` says it.
    pub release: String,
    /// It describes its types at `/sys/kernel/btf/vmlinux`.
    pub has_btf: bool,
    /// It has `bpf_sk_assign_tcp_reqsk`.
    pub has_kfunc: bool,
    /// It has the BPF system call.
    pub has_bpf: bool,
    /// Control groups of version 2 are mounted, where this process sees them.
    pub has_cgroup2: bool,
}

/// Why `/dev/net/tun` cannot be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoTun {
    /// In the system's words.
    pub why: String,
    /// It is there, and this process may not open it.
    pub is_there: bool,
}

/// The effective capabilities of this process that matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// CAP_NET_ADMIN: links, addresses, settings, attaching programs.
    pub net_admin: bool,
    /// CAP_BPF, or CAP_SYS_ADMIN which includes it: loading programs.
    pub bpf: bool,
    /// CAP_PERFMON, or CAP_SYS_ADMIN which includes it: without it the kernel takes no program that computes with
    /// pointers as Baton's do.
    pub perfmon: bool,
    /// CAP_NET_RAW: sending frames.
    pub net_raw: bool,
}

impl Capabilities {
    /// From the `CapEff` line of `/proc/self/status`; nothing when it is absent.
    pub fn parse(status: &str) -> Self {
        // Bit numbers: linux/capability.h.
        const NET_ADMIN: u32 = 12;
        const NET_RAW: u32 = 13;
        const SYS_ADMIN: u32 = 21;
        const PERFMON: u32 = 38;
        const BPF: u32 = 39;
        let mask = status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .unwrap_or(0);
        let has = |bit: u32| mask & (1 << bit) != 0;
        Self {
            net_admin: has(NET_ADMIN),
            bpf: has(BPF) || has(SYS_ADMIN),
            perfmon: has(PERFMON) || has(SYS_ADMIN),
            net_raw: has(NET_RAW),
        }
    }
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its number in this network namespace.
    pub index: u32,
    /// Its hardware address; zero when it has none of six bytes.
    pub mac: [u8; 6],
    /// The largest IP packet it carries, in bytes.
    pub mtu: u32,
    /// It is set up.
    pub up: bool,
    /// Its packets have an Ethernet header: tunnels of IP alone (WireGuard, tun) have none.
    pub ethernet: bool,
    /// It is a bridge, or a port of one.
    pub bridged: bool,
    /// It is a part of another interface (of a bridge, a bond), to which its packets go.
    pub part: bool,
    /// It belongs to a VRF: its packets are its own, but its routes are those of the VRF.
    pub in_vrf: bool,
    /// How long the packets are that the kernel merges from those that arrive there, if it says so.
    pub merges: Option<Merges>,
}

/// Packets that arrive are merged into less than this, bytes (generic receive offload).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merges {
    /// Those of IPv6.
    pub ipv6: u32,
    /// Those of IPv4.
    pub ipv4: u32,
}

/// An address and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The interface that holds it.
    pub interface: String,
    /// The address.
    pub address: IpAddr,
    /// The length of its network's prefix, in bits.
    pub prefix: u8,
    /// Another host answered for it when it was added, so the kernel does not use it (IPv6 alone, RFC
    /// 4862 5.4.5).
    pub duplicate: bool,
}

/// Interfaces, addresses and routes of a network namespace.
#[derive(Clone, Debug, Default)]
pub struct Net {
    /// All interfaces.
    pub interfaces: Vec<Interface>,
    /// All addresses.
    pub addresses: Vec<Held>,
    /// The interfaces that IPv4 default routes leave by, of any table: rules choose among those.
    pub default_routes: Vec<String>,
    /// Those that IPv6 default routes leave by.
    pub default_routes_v6: Vec<String>,
    /// Those that any route through a gateway leaves by: clients may be behind it.
    pub gateways: Vec<String>,
    /// Rules choose routes by marks of packets.
    pub marks_matter: bool,
}

impl Net {
    /// The interface of this name.
    pub fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.name == name)
    }

    /// The interfaces that hold this address.
    pub fn holders(&self, address: IpAddr) -> impl Iterator<Item = &str> + '_ {
        self.addresses.iter().filter(move |held| held.address == address).map(|held| held.interface.as_str())
    }

    /// Whether this interface holds this address.
    pub fn holds(&self, interface: &str, address: IpAddr) -> bool {
        self.holders(address).any(|holder| holder == interface)
    }
}

/// A TCP listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where it listens.
    pub address: SocketAddr,
    /// It is an IPv6 socket that refuses IPv4.
    pub only_v6: bool,
    /// It speaks MPTCP. The kernel tells this only to CAP_NET_ADMIN.
    pub mptcp: bool,
    /// Connections that are established and wait for it.
    pub waiting: u32,
}

impl Listener {
    /// Whether a client of VIP:port reaches this listener.
    pub fn takes(&self, vip: IpAddr, port: u16) -> bool {
        self.address.port() == port
            && match (self.address.ip(), vip) {
                (ip, vip) if ip == vip => true,
                (IpAddr::V4(ip), IpAddr::V4(_)) => ip.is_unspecified(),
                (IpAddr::V4(_), IpAddr::V6(_)) => false,
                (IpAddr::V6(ip), IpAddr::V6(_)) => ip.is_unspecified(),
                (IpAddr::V6(ip), IpAddr::V4(vip)) => {
                    (ip.is_unspecified() && !self.only_v6) || ip.to_ipv4_mapped() == Some(vip)
                }
            }
    }
}

/// Whether the clock follows a reference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clock {
    /// It does.
    Synchronised,
    /// It does not.
    Adrift,
    /// No time service that we know could be asked.
    #[default]
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_effective_set() {
        let cap = |eff: &str| Capabilities::parse(&format!("CapPrm:\t000001ffffffffff\nCapEff:\t{eff}\n"));
        let all = Capabilities { net_admin: true, bpf: true, perfmon: true, net_raw: true };
        assert_eq!(cap("000001fffeffffff"), all);
        assert_eq!(cap("000000c000003000"), all, "CAP_BPF and CAP_PERFMON serve without CAP_SYS_ADMIN");
        assert_eq!(cap("0000008000003000"), Capabilities { perfmon: false, ..all }, "CAP_BPF alone does not");
        assert_eq!(cap("0000000000203000"), all, "CAP_SYS_ADMIN serves without both");
        assert_eq!(cap("0000000000001000"), Capabilities { net_admin: true, ..Capabilities::default() });
        assert_eq!(cap("0000000000000000"), Capabilities::default());
        assert_eq!(Capabilities::parse("garbage"), Capabilities::default());
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn listener(address: &str, only_v6: bool) -> Listener {
        Listener { address: address.parse().expect("an address"), only_v6, mptcp: false, waiting: 0 }
    }

    #[test]
    fn a_listener_takes_what_reaches_it() {
        let takes = |address: &str, only_v6| listener(address, only_v6).takes(ip("10.99.0.1"), 80);
        assert!(takes("0.0.0.0:80", false));
        assert!(takes("10.99.0.1:80", false));
        assert!(takes("[::]:80", false));
        assert!(takes("[::ffff:10.99.0.1]:80", false));
        assert!(!takes("[::]:80", true));
        assert!(!takes("0.0.0.0:81", false));
        assert!(!takes("127.0.0.1:80", false));
        assert!(!takes("[fd00:99::1]:80", false));
    }

    #[test]
    fn a_listener_takes_what_reaches_it_by_ipv6() {
        let takes = |address: &str, only_v6| listener(address, only_v6).takes(ip("fd00:99::1"), 80);
        assert!(takes("[::]:80", false));
        assert!(takes("[::]:80", true));
        assert!(takes("[fd00:99::1]:80", true));
        assert!(!takes("[fd00:99::2]:80", false));
        assert!(!takes("[::ffff:10.99.0.1]:80", false));
        assert!(!takes("[::1]:80", false));
        assert!(!takes("[::]:81", false));
        assert!(!takes("0.0.0.0:80", false), "an IPv4 socket gets no IPv6");
    }
}

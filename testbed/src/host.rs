//! A machine of the testbed: a namespace that has a name and addresses. [`crate::topology`] makes them.

use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;

use crate::netns::Namespace;
use crate::network::{Family, neighbour};

/// A machine of the testbed: everything of [`Namespace`], a name and an address of each family.
#[derive(Debug)]
pub struct Host {
    name: String,
    family: Family,
    /// IPv4, IPv6.
    addresses: [IpAddr; 2],
    namespace: Namespace,
}

impl Host {
    /// A machine with no interface yet. Of its addresses, the one of `family` is its own.
    #[track_caller]
    pub(crate) fn new(name: String, family: Family, addresses: [IpAddr; 2], cpu: Option<usize>) -> Self {
        let namespace = Namespace::new(&name, cpu);
        Self { name, family, addresses, namespace }
    }

    /// Its name: `a`, `b`, ... for nodes unless they were named, `router`, `client0`, ...
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its own address, of the family that its [`crate::Network`] says: for a client that of the VIPs. (The
    /// router's is the one on the nodes' link, or on the first node's.)
    pub fn address(&self) -> IpAddr {
        self.address_of(self.family)
    }

    /// Its own address of a family.
    pub fn address_of(&self, family: Family) -> IpAddr {
        let [v4, v6] = self.addresses;
        if family == Family::Ipv4 { v4 } else { v6 }
    }

    /// A port at its own address.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(), port)
    }

    /// Gives a client one more address, to connect from: of the family that its own has.
    ///
    /// # Panics
    /// When `last` is 0, 1, 2 (taken) or 255.
    #[track_caller]
    pub fn extra_address(&self, last: u8) -> IpAddr {
        assert!((3..255).contains(&last), "10.2.k.{last} is not free");
        let address = neighbour(self.address(), last);
        self.add_address(address, self.family.link_bits(), "eth0");
        address
    }

    /// Puts a VIP on the loopback interface, and keeps the machine from answering for it on its link:
    /// what an operator does by hand on a server behind direct routing. (With IPv6 a machine answers
    /// only for the addresses of the interface that is asked.)
    #[track_caller]
    pub fn hold_vip(&self, vip: IpAddr) {
        self.add_address(vip, Family::of(vip).host_bits(), "lo");
        self.sysctl("net.ipv4.conf.all.arp_ignore", "1");
        self.sysctl("net.ipv4.conf.all.arp_announce", "2");
    }

    /// Answers for a VIP on its link from now on.
    #[track_caller]
    pub fn claim_vip(&self, vip: IpAddr) {
        match Family::of(vip) {
            Family::Ipv4 => self.sysctl("net.ipv4.conf.all.arp_ignore", "0"),
            Family::Ipv6 => self.add_address(vip, 128, "eth0"),
        }
    }

    /// There is nobody to ask whether an IPv6 address is taken, and no time to.
    #[track_caller]
    fn add_address(&self, address: IpAddr, bits: u8, interface: &str) {
        let nodad = if address.is_ipv6() { "nodad" } else { "" };
        self.ip(&format!("addr add {address}/{bits} dev {interface} {nodad}"));
    }

    /// Gives it addresses on an interface.
    #[track_caller]
    pub(crate) fn add_addresses(&self, addresses: [IpAddr; 2], interface: &str) {
        for address in addresses {
            self.add_address(address, Family::of(address).link_bits(), interface);
        }
    }
}

impl Deref for Host {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}

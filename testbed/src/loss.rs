//! Losing packets on purpose, with nftables (this needs no netem): at random, or exactly the nth
//! of a kind. Rules sit where programs on a node's or switch's interfaces cannot pass them by: on
//! the wire for the clients' traffic, on the router's bridge for that between nodes. (A program on
//! the bridge's own ports could; rules for routed packets would miss what a switch redirects.) Nodes
//! that share no link have no bridge: what the router forwards between them is what can be lost, and a
//! switch that runs on the router itself passes it by.

use std::net::IpAddr;

use crate::netns::Namespace;
use crate::scratch::unique_name;
use crate::topology::Testbed;

/// Which packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packets {
    /// TCP from clients.
    FromClients,
    /// TCP to clients.
    ToClients,
    /// Any IP from one node to another (handoffs, forwarded packets, control connections).
    BetweenNodes,
    /// SYN-ACKs to clients.
    SynAcks,
    /// Packets from clients whose payload starts with `GET`.
    Requests,
    /// The nodes' handoff packets: UDP to this port (Geneve: 6081), without the flag that says that a packet
    /// is only forwarded.
    Handoffs(u16),
    /// All UDP to this port of a node, probes as well: something between the nodes sorts by port.
    Datagrams {
        /// The port.
        port: u16,
        /// The node's address.
        to: IpAddr,
    },
    /// IP packets from one node to another that are larger than so many bytes: a switch port that carries less than both
    /// ends believe. `to`: only those for this node. Offloads must be off, or what is merged counts as one.
    LargerThan {
        /// Bytes.
        bytes: u16,
        /// Its address.
        to: Option<IpAddr>,
        /// Not those from this node.
        but_from: Option<IpAddr>,
    },
}

impl Packets {
    /// The nftables expression that selects them.
    fn expression(self) -> String {
        let from_client = "iifname \"client*\" meta l4proto tcp";
        let to_client = "iifname \"router*\" meta l4proto tcp";
        let ip = |address: IpAddr| if address.is_ipv6() { "ip6" } else { "ip" };
        match self {
            Self::FromClients => from_client.into(),
            Self::ToClients => to_client.into(),
            Self::BetweenNodes => String::new(),
            Self::SynAcks => format!("{to_client} tcp flags & (syn | ack) == syn | ack"),
            Self::Requests => format!("{from_client} @ih,0,24 {:#x}", 0x0047_4554),
            Self::LargerThan { bytes, to, but_from } => {
                let to = to.map_or(String::new(), |to| format!("{} daddr {to}", ip(to)));
                let from = but_from.map_or(String::new(), |from| format!("{} saddr != {from}", ip(from)));
                format!("{to} {from} meta length > {bytes}")
            }
            Self::Datagrams { port, to } => format!("{} daddr {to} udp dport {port}", ip(to)),
            // Byte 34 of the option, behind Geneve's own 8 (docs/datapath.md). Probes are control packets of Geneve.
            Self::Handoffs(port) => format!("udp dport {port} @ih,8,8 & 0x80 == 0 @ih,336,8 & 0x80 == 0"),
        }
    }

    fn names_an_address(self) -> bool {
        matches!(
            self,
            Self::LargerThan { to: Some(_), .. }
                | Self::LargerThan { but_from: Some(_), .. }
                | Self::Datagrams { .. }
        )
    }

    fn between_nodes(self) -> bool {
        matches!(
            self,
            Self::BetweenNodes | Self::Handoffs(_) | Self::Datagrams { .. } | Self::LargerThan { .. }
        )
    }
}

/// What keeps a link going is never lost, as ARP is not: neighbour discovery, and who is in which
/// multicast group.
const SPARED: &str = "icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, \
                      nd-neighbor-advert, mld-listener-report, mld2-listener-report } accept";

/// A loss in force; it ends when dropped.
#[derive(Debug)]
pub struct Loss<'a> {
    place: &'a Namespace,
    /// The family of the table.
    family: &'static str,
    table: String,
}

impl Testbed {
    /// Loses `percent` of these packets from now on, at random.
    ///
    /// # Panics
    /// For clients' packets, when the testbed was made without a wire.
    #[track_caller]
    pub fn lose(&self, percent: f64, packets: Packets) -> Loss<'_> {
        assert!((0.0..=100.0).contains(&percent), "{percent} is not a percentage");
        let per_million = (percent * 10_000.0).round() as u32;
        match per_million {
            // nft refuses a comparison that always holds.
            1_000_000 => self.drop_if(packets, ""),
            _ => self.drop_if(packets, &format!("numgen random mod 1000000 < {per_million}")),
        }
    }

    /// Loses exactly one of these packets: the `nth` from now on, counted from 1.
    ///
    /// # Panics
    /// For clients' packets, when the testbed was made without a wire.
    #[track_caller]
    pub fn lose_nth(&self, nth: u32, packets: Packets) -> Loss<'_> {
        assert!(nth > 0, "packets are counted from 1");
        // `inc` counts 0, 1, 2, ... and would start again after 2^31 packets.
        self.drop_if(packets, &format!("numgen inc mod 2147483648 == {}", nth - 1))
    }

    #[track_caller]
    fn drop_if(&self, packets: Packets, chance: &str) -> Loss<'_> {
        let routed = packets.between_nodes() && self.network().is_routed();
        let place: &Namespace = if packets.between_nodes() { self.router() } else { self.wire() };
        let (family, ip) = match routed {
            true => ("inet", "iifname != \"to-client*\" oifname != \"to-client*\""),
            // An address says of which family packets are, and nft takes that once.
            false if packets.names_an_address() => ("bridge", ""),
            false => ("bridge", "ether type { ip, ip6 }"),
        };
        let table = unique_name("loss").replace('-', "_");
        let expression = packets.expression();
        place.run(
            "nft",
            [format!(
                "table {family} {table} {{ chain c {{ type filter hook forward priority 0; {SPARED}; \
                 {ip} {expression} counter {chance} counter drop; }}; }}"
            )
            .as_str()],
        );
        Loss { place, family, table }
    }
}

impl Loss<'_> {
    /// How many packets of the kind have come by, lost or not.
    #[track_caller]
    pub fn seen(&self) -> u64 {
        self.counters()[0]
    }

    /// How many packets have been lost.
    #[track_caller]
    pub fn lost(&self) -> u64 {
        self.counters()[1]
    }

    /// The packet counts of the rule's two counters.
    #[track_caller]
    fn counters(&self) -> [u64; 2] {
        let listing = self.place.run("nft", ["list", "table", self.family, &self.table]);
        let mut counts = listing.split("counter packets ").skip(1).map(|rest| {
            let number = rest.split_whitespace().next().unwrap_or_default();
            number.parse().unwrap_or_else(|_| panic!("cannot read nft's counters:\n{listing}"))
        });
        let mut next = || counts.next().unwrap_or_else(|| panic!("no counter in:\n{listing}"));
        [next(), next()]
    }
}

impl Drop for Loss<'_> {
    fn drop(&mut self) {
        let _ = self.place.try_run("nft", ["delete", "table", self.family, &self.table]);
    }
}

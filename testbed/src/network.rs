//! What the networks of a testbed are like: which family of addresses is used for what, and whether
//! the nodes share a link. Here is the plan of all addresses; [`crate::topology`] gives them out.
//! Pure, but for the one environment variable that chooses for whole test runs.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The variable that says which network a testbed gets that was not told.
const VARIABLE: &str = "BATON_NETWORK";

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// That of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }

    /// The address that stands for any.
    pub fn unspecified(self) -> IpAddr {
        match self {
            Self::Ipv4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::Ipv6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    /// The length of the IP header and a TCP header, both without options: what a link's MTU has more
    /// than the MSS.
    pub fn headers(self) -> u16 {
        match self {
            Self::Ipv4 => 20 + 20,
            Self::Ipv6 => 40 + 20,
        }
    }

    /// How long a prefix is that is one address.
    pub fn host_bits(self) -> u8 {
        match self {
            Self::Ipv4 => 32,
            Self::Ipv6 => 128,
        }
    }

    /// How long the prefix of a link of the testbed is.
    pub fn link_bits(self) -> u8 {
        match self {
            Self::Ipv4 => 24,
            Self::Ipv6 => 64,
        }
    }
}

/// How nodes are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// All on one link, with one subnet.
    OneLink,
    /// The same, on a link that gives every frame to everybody: a switch does so with frames for an
    /// address that it has forgotten, a hub with all.
    Flooded,
    /// Each on a link and a subnet of its own, with the router between them.
    Routed,
}

/// What the networks of a testbed are like. Every machine has addresses of both families, whichever is
/// used; the families here are those of [`crate::Host::address`], of VIPs and of cluster files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// The family of the nodes' and the router's addresses.
    pub nodes: Family,
    /// The family of the VIPs, and so of clients' addresses.
    pub vips: Family,
    /// How the nodes are joined.
    pub layout: Layout,
}

impl Network {
    /// IPv4 throughout, the nodes on one link.
    pub const IPV4: Self = Self::of(Family::Ipv4, Layout::OneLink);
    /// IPv6 throughout, the nodes on one link.
    pub const IPV6: Self = Self::of(Family::Ipv6, Layout::OneLink);
    /// IPv4 throughout, a router between the nodes.
    pub const IPV4_ROUTED: Self = Self::of(Family::Ipv4, Layout::Routed);
    /// IPv6 throughout, a router between the nodes.
    pub const IPV6_ROUTED: Self = Self::of(Family::Ipv6, Layout::Routed);

    /// IPv4 throughout, the nodes on one link that floods.
    pub const IPV4_FLOODED: Self = Self::of(Family::Ipv4, Layout::Flooded);

    /// Each family in each layout of an orderly network.
    pub const ALL: [Self; 4] = [Self::IPV4, Self::IPV6, Self::IPV4_ROUTED, Self::IPV6_ROUTED];
    /// Those that have a word in the environment.
    const WORDS: [(&str, Self); 5] = [
        ("ipv4", Self::IPV4),
        ("ipv6", Self::IPV6),
        ("ipv4-routed", Self::IPV4_ROUTED),
        ("ipv6-routed", Self::IPV6_ROUTED),
        ("ipv4-flooded", Self::IPV4_FLOODED),
    ];

    const fn of(family: Family, layout: Layout) -> Self {
        Self { nodes: family, vips: family, layout }
    }

    /// The same, with VIPs and clients of this family.
    pub fn with_vips(self, vips: Family) -> Self {
        Self { vips, ..self }
    }

    /// The one that `BATON_NETWORK` names: `ipv4` (if it names none), `ipv6`, `ipv4-routed`,
    /// `ipv6-routed` or `ipv4-flooded`.
    ///
    /// # Panics
    /// When it is another word.
    #[track_caller]
    pub fn from_environment() -> Self {
        let word = std::env::var(VARIABLE).unwrap_or_default();
        let words = Self::WORDS.map(|(word, _)| word);
        let known = || panic!("{VARIABLE} is {word:?}, but must be one of {words:?}");
        if word.is_empty() { Self::IPV4 } else { Self::named(&word).unwrap_or_else(known) }
    }

    fn named(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(known, _)| *known == word).map(|(_, network)| *network)
    }

    /// The same families on one link that floods nothing: for what needs a link that nodes share.
    pub fn on_one_link(self) -> Self {
        Self { layout: Layout::OneLink, ..self }
    }

    /// Whether a router is between the nodes.
    pub fn is_routed(self) -> bool {
        self.layout == Layout::Routed
    }

    /// An address that clients see, counted from 0: 10.99.0.1 or fd99::1, ...
    ///
    /// # Panics
    /// When `index` is above 98.
    #[track_caller]
    pub fn vip(self, index: usize) -> IpAddr {
        let last = u8::try_from(index + 1).ok().filter(|last| *last < 100);
        let last = last.unwrap_or_else(|| panic!("there are 99 VIPs, no number {index}"));
        match self.vips {
            Family::Ipv4 => Ipv4Addr::new(10, 99, 0, last).into(),
            Family::Ipv6 => Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, spelt(last)).into(),
        }
    }

    /// On a node's link: 10.1.0.`last` or fd01::`last`; if each has its own, 10.1.`index`.`last` or
    /// fd01:`index`::`last`.
    pub(crate) fn on_node_link(self, family: Family, index: usize, last: u8) -> IpAddr {
        on_link(family, 1, if self.is_routed() { index as u8 } else { 0 }, last)
    }

    /// A node's address: its link's .10 and so on if they share one, its own link's .10 if not.
    pub(crate) fn node(self, family: Family, index: usize) -> IpAddr {
        let last = if self.is_routed() { 10 } else { 10 + index as u8 };
        self.on_node_link(family, index, last)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let alike = Self { vips: self.nodes, ..*self };
        let word = Self::WORDS.iter().find(|(_, known)| *known == alike).map_or("unnamed", |(word, _)| word);
        f.write_str(word)?;
        if self.vips == self.nodes { Ok(()) } else { write!(f, " with {:?} VIPs", self.vips) }
    }
}

/// On a client's link: 10.2.`k`.`last` or fd02:`k`::`last`.
pub(crate) fn on_client_link(family: Family, client: usize, last: u8) -> IpAddr {
    on_link(family, 2, client as u8, last)
}

/// The address on the same link that ends in `last`.
pub(crate) fn neighbour(address: IpAddr, last: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            Ipv4Addr::new(a, b, c, last).into()
        }
        IpAddr::V6(address) => {
            let mut words = address.segments();
            words[7] = spelt(last);
            Ipv6Addr::from(words).into()
        }
    }
}

pub(crate) fn on_link(family: Family, side: u8, link: u8, last: u8) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::new(10, side, link, last).into(),
        Family::Ipv6 => {
            Ipv6Addr::new(0xfd00 | u16::from(side), spelt(link), 0, 0, 0, 0, 0, spelt(last)).into()
        }
    }
}

/// The hexadecimal number that is written with the decimal digits of this one, so that 10.1.0.12 and
/// fd01::12 are the same machine.
fn spelt(number: u8) -> u16 {
    let number = u16::from(number);
    number / 100 * 0x100 + number / 10 % 10 * 0x10 + number % 10
}

#[cfg(test)]
mod tests {
    use super::{Family, Network, neighbour, on_client_link, spelt};

    #[test]
    fn addresses_of_both_families_are_written_alike() {
        let both = |address: &dyn Fn(Family) -> std::net::IpAddr| {
            Family::ALL.map(|family| address(family).to_string())
        };
        assert_eq!(both(&|family| Network::IPV6.node(family, 15)), ["10.1.0.25", "fd01::25"]);
        assert_eq!(both(&|family| Network::IPV4_ROUTED.node(family, 15)), ["10.1.15.10", "fd01:15::10"]);
        assert_eq!(both(&|family| on_client_link(family, 3, 177)), ["10.2.3.177", "fd02:3::177"]);
        assert_eq!(both(&|family| Network::IPV4.with_vips(family).vip(1)), ["10.99.0.2", "fd99::2"]);
        assert_eq!(both(&|family| neighbour(on_client_link(family, 0, 2), 87)), ["10.2.0.87", "fd02::87"]);
        assert_eq!(spelt(255), 0x255);
    }

    #[test]
    fn every_network_has_a_word() {
        for (word, network) in Network::WORDS {
            assert_eq!((Network::named(word), network.to_string()), (Some(network), word.to_owned()));
        }
        assert_eq!(Network::named("ipx"), None);
        let mixed = Network::IPV6.with_vips(Family::Ipv4);
        assert_eq!(mixed.to_string(), "ipv6 with Ipv4 VIPs");
    }
}

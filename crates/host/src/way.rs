//! How packets reach another host: on the link or through a router, and how large they may be. Used by the
//! node; it changes nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric};

use crate::HostError;
use crate::link::{Links, Neighbour};

/// The way to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Through a router.
    pub routed: bool,
    /// The interface that packets leave by.
    pub interface: u32,
    /// The largest packet, bytes, where the kernel knows that it is less than the interface's: by a route,
    /// or because a router has said so (RFC 1191, RFC 8201).
    pub mtu: Option<u32>,
}

impl Way {
    /// As the kernel would send a packet now that has this source, an address of this host.
    ///
    /// # Errors
    /// [`HostError::Netlink`] when there is no way.
    pub async fn to(host: IpAddr, from: IpAddr) -> Result<Self, HostError> {
        let route = Links::open()?.route_to(host, Some(from)).await?;
        Ok(Self::of(&route))
    }

    /// Has the kernel ask a host on the link at once whether it is still there. It believes an address for up
    /// to a minute otherwise.
    ///
    /// # Errors
    /// [`HostError::Netlink`] when there is no way, or the kernel refuses.
    pub async fn doubt(host: IpAddr) -> Result<(), HostError> {
        let links = Links::open()?;
        let way = Self::of(&links.route_to(host, None).await?);
        if way.routed { Ok(()) } else { links.doubt(way.interface, host).await }
    }

    fn of(route: &RouteMessage) -> Self {
        let is_gateway =
            |a: &RouteAttribute| matches!(a, RouteAttribute::Gateway(_) | RouteAttribute::Via(_));
        let mtu = |a: &RouteAttribute| match a {
            RouteAttribute::Metrics(metrics) => metrics.iter().find_map(|metric| match metric {
                RouteMetric::Mtu(mtu) => Some(*mtu),
                _ => None,
            }),
            _ => None,
        };
        let interface = |a: &RouteAttribute| match a {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        };
        Self {
            interface: route.attributes.iter().find_map(interface).unwrap_or(0),
            routed: route.attributes.iter().any(is_gateway),
            mtu: route.attributes.iter().find_map(mtu).filter(|mtu| *mtu > 0),
        }
    }
}

/// Those of these hosts that answer with the hardware address of another one, or of the default gateway: something
/// answers for them (proxy ARP: clouds, private VLANs), and passes on only what is addressed to them. As far as the kernel
/// has asked them by now; nothing when it does not say.
pub async fn answered_for(hosts: &[IpAddr]) -> Vec<IpAddr> {
    let Ok(links) = Links::open() else { return Vec::new() };
    let Ok(neighbours) = links.neighbours().await else { return Vec::new() };
    let mut known = hosts.to_vec();
    if hosts.iter().any(IpAddr::is_ipv4) {
        known.extend(gateway(&links, ELSEWHERE.into()).await);
    }
    if hosts.iter().any(IpAddr::is_ipv6) {
        known.extend(gateway(&links, ELSEWHERE_V6.into()).await);
    }
    shared(&known, &neighbours).into_iter().filter(|host| hosts.contains(host)).collect()
}

/// Addresses for documents (RFC 5737, RFC 3849): the way to them is the default route.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const ELSEWHERE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// The default gateway. A router's link-local address says nothing: it has another one, by which it may be a node.
async fn gateway(links: &Links, elsewhere: IpAddr) -> Option<IpAddr> {
    let route = links.route_to(elsewhere, None).await.ok()?;
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(address)) => Some(IpAddr::from(*address)),
        RouteAttribute::Gateway(RouteAddress::Inet6(address)) if !address.is_unicast_link_local() => {
            Some(IpAddr::from(*address))
        }
        _ => None,
    })
}

/// The addresses that share a hardware address with another one of them, on one interface.
fn shared(addresses: &[IpAddr], neighbours: &[Neighbour]) -> Vec<IpAddr> {
    let place = |address: &IpAddr| {
        let of = neighbours.iter().find(|neighbour| neighbour.address == *address)?;
        Some((of.interface, of.mac))
    };
    let is_shared = |address: &&IpAddr| {
        place(address)
            .is_some_and(|at| addresses.iter().any(|other| other != *address && place(other) == Some(at)))
    };
    addresses.iter().filter(is_shared).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answers_for_several_is_found() {
        let ip = |last| IpAddr::from([10, 1, 0, last]);
        let at = |last, mac| Neighbour { address: ip(last), interface: 2, mac: [2, 0, 0, 0, 0, mac] };
        let known = [ip(1), ip(11), ip(12), ip(13)];
        let own = [at(1, 1), at(11, 11), at(12, 12)];
        assert_eq!(shared(&known, &own), [0; 0].map(ip), "each its own; one has not been asked");
        let proxied = [at(1, 1), at(11, 1), at(12, 12), at(99, 12)];
        assert_eq!(shared(&known, &proxied), [1, 11].map(ip), "a stranger's second address says nothing");
        let elsewhere = Neighbour { interface: 3, ..at(11, 12) };
        assert_eq!(shared(&known, &[elsewhere, at(12, 12)]), [0; 0].map(ip), "another link");
    }
}

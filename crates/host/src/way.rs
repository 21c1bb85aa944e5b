//! How packets reach another host: on the link or through a router, and how large they may be. Used by the
//! node; it changes nothing.

use std::net::IpAddr;

use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteMetric};

use crate::HostError;
use crate::link::Links;

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
    /// As the kernel would send a packet now.
    ///
    /// # Errors
    /// [`HostError::Netlink`] when there is no way.
    pub async fn to(host: IpAddr) -> Result<Self, HostError> {
        let route = Links::open()?.route_to(host).await?;
        Ok(Self::of(&route))
    }

    /// Has the kernel ask a host on the link at once whether it is still there. It believes an address for up
    /// to a minute otherwise.
    ///
    /// # Errors
    /// [`HostError::Netlink`] when there is no way, or the kernel refuses.
    pub async fn doubt(host: IpAddr) -> Result<(), HostError> {
        let links = Links::open()?;
        let way = Self::of(&links.route_to(host).await?);
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

//! Interfaces, addresses and default routes of the thread's network namespace, by rtnetlink. Used by
//! `read`, `setup` and `undo`. A socket stays in the namespace in which it was opened.

use std::collections::BTreeSet;
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::{TryStream, TryStreamExt};
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope, CacheInfo,
};
use rtnetlink::packet_route::link::{
    InfoKind, InfoPortKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use rtnetlink::packet_route::rule::{RuleAttribute, RuleMessage};
use rtnetlink::{AddressMessageBuilder, Handle, IpVersion, LinkUnspec, RouteMessageBuilder};

use crate::facts::{Held, Interface, Merges, Net};
use crate::{HostError, Wanted, address, plan};

/// The interfaces of the cluster on this host: those that `wanted` names, or else the one that holds
/// the node's address.
///
/// # Errors
/// [`HostError::NoInterface`] or [`HostError::UnknownInterface`], listing what there is.
pub async fn cluster_interfaces(wanted: &Wanted) -> Result<Vec<Interface>, HostError> {
    let net = Links::open()?.read().await?;
    plan::interfaces(wanted, &net)
}

/// An open rtnetlink socket.
#[derive(Debug)]
pub(crate) struct Links {
    handle: Handle,
}

impl Links {
    /// Opens it; its task ends when the value is dropped.
    pub(crate) fn open() -> Result<Self, HostError> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(refused("open a netlink socket"))?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// All interfaces, addresses and default routes.
    pub(crate) async fn read(&self) -> Result<Net, HostError> {
        let links = all(self.handle.link().get().execute(), "list interfaces").await?;
        let interfaces: Vec<_> = links.into_iter().filter_map(interface).collect();
        let name_of =
            |index: u32| interfaces.iter().find(|i| i.index == index).map(|i: &Interface| i.name.clone());

        let addresses = all(self.handle.address().get().execute(), "list addresses").await?;
        let addresses = addresses
            .into_iter()
            .filter_map(|message| {
                Some(Held {
                    interface: name_of(message.header.index)?,
                    address: local_address(&message)?,
                    prefix: message.header.prefix_len,
                    duplicate: is_duplicate(&message),
                })
            })
            .collect();

        let every_route = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let routes = all(self.handle.route().get(every_route).execute(), "list routes").await?;
        let every_route = RouteMessageBuilder::<Ipv6Addr>::new().build();
        // A kernel without IPv6 has no such routes.
        let routes_v6 =
            all(self.handle.route().get(every_route).execute(), "list routes").await.unwrap_or_default();
        let names = |routes: &[RouteMessage], of: fn(&RouteMessage) -> bool| {
            let indices: BTreeSet<u32> =
                routes.iter().filter(|route| of(route)).flat_map(leaves_by).collect();
            indices.into_iter().filter_map(name_of).collect::<Vec<_>>()
        };
        let (default_routes, default_routes_v6) = (names(&routes, is_default), names(&routes_v6, is_default));
        let gateways = names(&[routes, routes_v6].concat(), has_gateway);
        let marks_matter = self.marks_matter().await;
        Ok(Net { interfaces, addresses, default_routes, default_routes_v6, gateways, marks_matter })
    }

    /// Whether a rule chooses routes by marks of packets; not, where rules cannot be listed.
    async fn marks_matter(&self) -> bool {
        let by_mark = |rule: &RuleMessage| {
            rule.attributes
                .iter()
                .any(|attribute| matches!(attribute, RuleAttribute::FwMark(mark) if *mark != 0))
        };
        for family in [IpVersion::V4, IpVersion::V6] {
            let rules: Vec<RuleMessage> =
                self.handle.rule().get(family).execute().try_collect().await.unwrap_or_default();
            if rules.iter().any(by_mark) {
                return true;
            }
        }
        false
    }

    /// Adds a VIP so that the kernel does not pick it as the source of the host's own connections: an
    /// IPv4 one on `lo` has scope host, an IPv6 one is deprecated from the beginning (RFC 6724 5, rule
    /// 3), on any interface.
    ///
    /// An IPv6 VIP is an address of the interface that announces it, as in IPv4, and not a proxy entry: a
    /// proxy needs the host to forward, answers late and without the override flag (RFC 4861 7.2.8).
    /// Whether another host has it already is not asked: whoever announces it now is to have it, and the
    /// kernel would not use it while it asks.
    pub(crate) async fn add(&self, interface: &Interface, vip: IpAddr) -> Result<(), HostError> {
        let prefix = address::host_prefix(vip);
        let mut request = self.handle.address().add(interface.index, vip, prefix);
        let message = request.message_mut();
        if vip.is_ipv6() {
            let mut lifetime = CacheInfo::default();
            (lifetime.ifa_preferred, lifetime.ifa_valid) = (0, u32::MAX);
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            message.attributes.push(AddressAttribute::CacheInfo(lifetime));
        } else if interface.name == "lo" {
            message.header.scope = AddressScope::Host;
        }
        request.execute().await.map_err(refused(format!("add {vip}/{prefix} to {}", interface.name)))
    }

    /// Removes a VIP.
    pub(crate) async fn remove(&self, interface: &Interface, vip: IpAddr) -> Result<(), HostError> {
        let prefix = address::host_prefix(vip);
        let message = match vip {
            IpAddr::V4(vip) => {
                AddressMessageBuilder::<Ipv4Addr>::new().index(interface.index).address(vip, prefix).build()
            }
            IpAddr::V6(vip) => {
                AddressMessageBuilder::<Ipv6Addr>::new().index(interface.index).address(vip, prefix).build()
            }
        };
        let removed = self.handle.address().del(message).execute().await;
        removed.map_err(refused(format!("remove {vip}/{prefix} from {}", interface.name)))
    }

    /// The route that a packet to a host would take; `from`: if it has this source, which has to be one of this host's.
    pub(crate) async fn route_to(
        &self,
        host: IpAddr,
        from: Option<IpAddr>,
    ) -> Result<RouteMessage, HostError> {
        let what = format!("look up the route to {host}");
        let routes = all(self.handle.route().get(route_question(host, from)).execute(), &what).await?;
        let none = || HostError::Netlink { what, source: "there is none".into() };
        routes.into_iter().next().ok_or_else(none)
    }

    /// The neighbours whose hardware addresses are known.
    pub(crate) async fn neighbours(&self) -> Result<Vec<Neighbour>, HostError> {
        let all = all(self.handle.neighbours().get().execute(), "list neighbours").await?;
        Ok(all.into_iter().filter_map(neighbour).collect())
    }

    /// A neighbour's address is to be verified (RFC 4861 7.3.3; of IPv4 alike). One that is not believed in any
    /// case needs no doubt.
    pub(crate) async fn doubt(&self, interface: u32, host: IpAddr) -> Result<(), HostError> {
        let entry = self.handle.neighbours().add(interface, host).state(NeighbourState::Probe).replace();
        entry.execute().await.map_err(refused(format!("verify the neighbour {host}")))
    }

    /// Limits what the kernel merges. One message: the limit of IPv6 alone would set that of IPv4, too.
    pub(crate) async fn set_merges(&self, interface: &Interface, to: Merges) -> Result<(), HostError> {
        let mut message = LinkUnspec::new_with_index(interface.index).build();
        message.attributes.push(LinkAttribute::GroMaxSize(to.ipv6));
        message.attributes.push(LinkAttribute::GroIpv4MaxSize(to.ipv4));
        let set = self.handle.link().set(message).execute().await;
        set.map_err(refused(format!("set what {} merges", interface.name)))
    }

    /// Sets the interface up.
    pub(crate) async fn set_up(&self, interface: &Interface) -> Result<(), HostError> {
        let message = LinkUnspec::new_with_index(interface.index).up().build();
        let set = self.handle.link().set(message).execute().await;
        set.map_err(refused(format!("set {} up", interface.name)))
    }
}

/// A neighbour that the kernel has asked for its hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Neighbour {
    pub(crate) address: IpAddr,
    pub(crate) interface: u32,
    pub(crate) mac: [u8; 6],
}

fn neighbour(message: NeighbourMessage) -> Option<Neighbour> {
    let (mut address, mut mac) = (None, None);
    for attribute in message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some(v4.into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some(v6.into()),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.try_into().ok(),
            _ => {}
        }
    }
    Some(Neighbour { address: address?, interface: message.header.ifindex, mac: mac? })
}

/// The question for the way to a host: rules may go by the source, too.
fn route_question(host: IpAddr, from: Option<IpAddr>) -> RouteMessage {
    let prefix = address::host_prefix(host);
    match (host, from) {
        (IpAddr::V4(host), Some(IpAddr::V4(from))) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(host, prefix)
            .source_prefix(from, prefix)
            .build(),
        (IpAddr::V6(host), Some(IpAddr::V6(from))) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(host, prefix)
            .source_prefix(from, prefix)
            .build(),
        (IpAddr::V4(host), _) => {
            RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(host, prefix).build()
        }
        (IpAddr::V6(host), _) => {
            RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(host, prefix).build()
        }
    }
}

pub(crate) async fn all<T>(
    stream: impl TryStream<Ok = T, Error = rtnetlink::Error>,
    what: &str,
) -> Result<Vec<T>, HostError> {
    stream.try_collect().await.map_err(refused(what))
}

pub(crate) fn refused<E: Into<Box<dyn Error + Send + Sync>>>(
    what: impl Into<String>,
) -> impl FnOnce(E) -> HostError {
    let what = what.into();
    move |error| HostError::Netlink { what, source: error.into() }
}

fn interface(message: LinkMessage) -> Option<Interface> {
    let mut name = None;
    let (mut mac, mut mtu, mut bridged, mut part) = ([0; 6], 0, false, false);
    let (mut ipv6, mut ipv4, mut in_vrf) = (None, None, false);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text),
            LinkAttribute::Address(bytes) => mac = bytes.try_into().unwrap_or([0; 6]),
            LinkAttribute::Mtu(bytes) => mtu = bytes,
            LinkAttribute::Controller(_) => part = true,
            LinkAttribute::GroMaxSize(bytes) => ipv6 = Some(bytes),
            LinkAttribute::GroIpv4MaxSize(bytes) => ipv4 = Some(bytes),
            LinkAttribute::LinkInfo(infos) => {
                bridged = infos.iter().any(in_bridge);
                in_vrf = infos.iter().any(|info| matches!(info, LinkInfo::PortKind(InfoPortKind::Vrf)));
            }
            _ => {}
        }
    }
    let up = message.header.flags.contains(LinkFlags::Up);
    let merges = ipv6.zip(ipv4).map(|(ipv6, ipv4)| Merges { ipv6, ipv4 });
    let ethernet = matches!(message.header.link_layer_type, LinkLayerType::Ether | LinkLayerType::Loopback);
    Some(Interface {
        name: name?,
        index: message.header.index,
        mac,
        mtu,
        up,
        ethernet,
        bridged,
        part: part && !in_vrf,
        in_vrf,
        merges,
    })
}

fn in_bridge(info: &LinkInfo) -> bool {
    matches!(info, LinkInfo::Kind(InfoKind::Bridge) | LinkInfo::PortKind(InfoPortKind::Bridge))
}

/// The kernel tells an address's own end and its far end. Without a far end, IPv4 tells the same twice, and
/// IPv6 only the far one, which is then the own one.
fn local_address(message: &AddressMessage) -> Option<IpAddr> {
    let own = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    };
    let far = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Address(address @ IpAddr::V6(_)) => Some(*address),
        _ => None,
    };
    let attributes = &message.attributes;
    attributes.iter().find_map(own).or_else(|| attributes.iter().find_map(far))
}

fn is_duplicate(message: &AddressMessage) -> bool {
    message.attributes.iter().any(|attribute| {
        matches!(attribute, AddressAttribute::Flags(flags) if flags.contains(AddressFlags::Dadfailed))
    })
}

/// The interfaces that this route leaves by: several, if it has several next hops.
fn leaves_by(message: &RouteMessage) -> Vec<u32> {
    let by = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Oif(index) => vec![*index],
        RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
        _ => Vec::new(),
    };
    message.attributes.iter().flat_map(by).collect()
}

/// Of any table: which one is asked is a matter of rules.
fn is_default(message: &RouteMessage) -> bool {
    message.header.destination_prefix_length == 0 && message.header.kind == RouteType::Unicast
}

fn has_gateway(message: &RouteMessage) -> bool {
    let gateway = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => true,
        RouteAttribute::MultiPath(hops) => hops.iter().any(|hop| !hop.attributes.is_empty()),
        _ => false,
    };
    message.header.kind == RouteType::Unicast && message.attributes.iter().any(gateway)
}

/// Whether a route that comes or goes may matter to a node: a default one; or a way by one of these interfaces, by which
/// nothing is known to leave yet.
pub(crate) fn route_matters(message: &RouteMessage, unused: impl Fn(u32) -> bool) -> bool {
    message.header.destination_prefix_length == 0
        || (has_gateway(message) && leaves_by(message).into_iter().any(unused))
}

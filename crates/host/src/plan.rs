//! What this node's settings and addresses should be, as values. Judging and mending share it, so that
//! what `doctor` complains of is exactly what `apply` changes. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::facts::{Held, Interface, Merges, Net};
use crate::finding::Severity;
use crate::sysctl::Sysctl;
use crate::{HostError, Wanted, address};

/// A kernel setting that this node needs.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    /// The finding that speaks of it.
    pub(crate) id: &'static str,
    /// The setting.
    pub(crate) sysctl: Sysctl,
    /// The setting of `all` interfaces, when the kernel takes the greater of the two.
    pub(crate) or_greater: Option<Sysctl>,
    /// Which values will do.
    pub(crate) good: fn(i64) -> bool,
    /// The value to set when it will not.
    pub(crate) value: &'static str,
    /// How bad it is otherwise.
    pub(crate) severity: Severity,
    /// What happens otherwise.
    pub(crate) otherwise: &'static str,
}

impl Setting {
    fn new(
        id: &'static str,
        sysctl: Sysctl,
        good: fn(i64) -> bool,
        value: &'static str,
        otherwise: &'static str,
    ) -> Self {
        Self { id, sysctl, or_greater: None, good, value, severity: Severity::Error, otherwise }
    }

    /// Every kernel setting that must be read to judge this one.
    pub(crate) fn reads(&self) -> impl Iterator<Item = &Sysctl> {
        std::iter::once(&self.sysctl).chain(&self.or_greater)
    }

    /// The value in force, if this kernel has the setting.
    pub(crate) fn in_force(&self, values: &BTreeMap<Sysctl, String>) -> Option<i64> {
        let number = |sysctl: &Sysctl| values.get(sysctl).and_then(|text| text.parse::<i64>().ok());
        let own = number(&self.sysctl)?;
        Some(self.or_greater.as_ref().and_then(number).map_or(own, |all| own.max(all)))
    }
}

/// An address that this node needs on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NeededAddress {
    pub(crate) interface: String,
    pub(crate) address: IpAddr,
}

/// The interfaces of the cluster on this host: those named; or the one that holds the node's address, those by which clients
/// may be reached (of default routes in any table, and of routes through gateways), for that is where answers go, and those
/// that hold a VIP which this node announces, for that is where packets come.
pub(crate) fn interfaces(wanted: &Wanted, net: &Net) -> Result<Vec<Interface>, HostError> {
    std::iter::once(wanted.address).chain(wanted.vips()).try_for_each(address::check)?;
    if wanted.interfaces.is_empty() {
        let holder = net.holders(wanted.address).find_map(|name| net.interface(name));
        let holder = holder.ok_or_else(|| HostError::NoInterface {
            node: wanted.node.clone(),
            address: wanted.address,
            have: list(nameable(net).map(|h| format!("{}/{} on {}", h.address, h.prefix, h.interface))),
        })?;
        let holder = with_ethernet(holder)?;
        let routes = net.default_routes.iter().chain(&net.default_routes_v6).chain(&net.gateways);
        let vips = wanted.on_interface.iter().flat_map(|vip| net.holders(*vip));
        let mut found = vec![holder];
        for interface in routes
            .map(String::as_str)
            .chain(vips)
            .filter_map(|name| net.interface(name))
            .filter(|other| other.ethernet && other.name != "lo")
        {
            if !found.contains(interface) {
                found.push(interface.clone());
            }
        }
        return Ok(found);
    }
    let find = |name: &String| {
        let interface = net.interface(name).ok_or_else(|| HostError::UnknownInterface {
            name: name.clone(),
            have: list(net.interfaces.iter().map(|interface| interface.name.clone())),
        })?;
        with_ethernet(interface)
    };
    wanted.interfaces.iter().map(find).collect()
}

/// Interfaces that are none of the cluster's, but by which packets for its services may come: each that is Ethernet, and
/// no part of another one.
pub(crate) fn others(net: &Net, interfaces: &[Interface]) -> Vec<Interface> {
    let is_other = |interface: &&Interface| {
        interface.ethernet
            && !interface.part
            && interface.name != "lo"
            && !interface.name.starts_with(OWN_DEVICES)
            && interfaces.iter().all(|one| one.index != interface.index)
    };
    net.interfaces.iter().filter(is_other).cloned().collect()
}

/// How the names of Baton's own devices begin.
const OWN_DEVICES: &str = "baton-";

/// Packets are read, and sent on, with their Ethernet header.
fn with_ethernet(interface: &Interface) -> Result<Interface, HostError> {
    let name = || interface.name.clone();
    interface.ethernet.then(|| interface.clone()).ok_or_else(|| HostError::NotEthernet { name: name() })
}

/// The addresses that a cluster file may name.
fn nameable(net: &Net) -> impl Iterator<Item = &Held> {
    net.addresses.iter().filter(|held| address::check(held.address).is_ok())
}

/// The kernel settings that this node needs.
pub(crate) fn settings(wanted: &Wanted, net: &Net, interfaces: &[Interface]) -> Vec<Setting> {
    let mut settings = Vec::new();
    if wanted.adopts() {
        settings.extend(adopting());
    }
    if wanted.adopts() && wanted.vips().any(|vip| vip.is_ipv4()) {
        settings.extend(interfaces.iter().filter_map(|interface| loose_reverse_path(net, interface)));
    }
    if wanted.on_loopback.iter().any(IpAddr::is_ipv4) {
        settings.extend(silent_about_loopback());
    } else if wanted.on_interface.iter().any(IpAddr::is_ipv4)
        && (interfaces.len() > 1 || !others(net, interfaces).is_empty())
    {
        settings.push(silent_elsewhere());
    }
    if interfaces.len() > 1 {
        settings.extend(own_routes(wanted));
    }
    settings.extend(ipv6(wanted, interfaces));
    if wanted.forwards() {
        // The kernel sends redirects if either `all` or the interface says so.
        let names = std::iter::once("all").chain(interfaces.iter().map(|interface| interface.name.as_str()));
        settings.extend(names.map(|name| {
            let sysctl = Sysctl::of_interface(name, "send_redirects");
            let otherwise = "clients may be told to go round this node";
            let setting = Setting::new("send-redirects", sysctl, |v| v == 0, "0", otherwise);
            Setting { severity: Severity::Warning, ..setting }
        }));
    }
    settings
}

/// Merged packets shorter than this, bytes, fit an IP packet with the longest wrapping that they may get.
pub(crate) const MERGES_MAX: u32 = 65_535 - 104 + 1;
/// The kernel's own limit. More than that the operator has chosen (BIG TCP).
pub(crate) const MERGES_USUAL: u32 = 65_536;

/// What an interface of the cluster should merge, if it is to be changed.
pub(crate) fn merges(interface: &Interface) -> Option<Merges> {
    let less = |bytes: u32| if bytes <= MERGES_USUAL { bytes.min(MERGES_MAX) } else { bytes };
    let now = interface.merges?;
    let wanted = Merges { ipv6: less(now.ipv6), ipv4: less(now.ipv4) };
    (wanted != now).then_some(wanted)
}

/// The addresses that this node needs, loopback first.
pub(crate) fn places(wanted: &Wanted, interfaces: &[Interface]) -> Vec<NeededAddress> {
    let place = |interface: &str, address: &IpAddr| NeededAddress {
        interface: interface.to_owned(),
        address: *address,
    };
    let loopback = wanted.on_loopback.iter().map(|vip| place("lo", vip));
    let announced = interfaces
        .first()
        .into_iter()
        .flat_map(|first| wanted.on_interface.iter().map(|vip| place(&first.name, vip)));
    loopback.chain(announced).collect()
}

/// What the TCP of an adopting node needs, all in this namespace.
fn adopting() -> [Setting; 5] {
    let tcp = |id, key: &str, good, value, otherwise| {
        Setting::new(id, Sysctl::new(format!("net/ipv4/{key}")), good, value, otherwise)
    };
    [
        tcp(
            "tcp-syncookies",
            "tcp_syncookies",
            |v| v >= 1,
            "1",
            "the kernel answers an adoption with a RST to the client",
        ),
        tcp(
            "tcp-timestamps",
            "tcp_timestamps",
            |v| v >= 1,
            "1",
            "connections with timestamps cannot be adopted",
        ),
        tcp("tcp-sack", "tcp_sack", |v| v >= 1, "1", "connections with SACK cannot be adopted"),
        tcp(
            "tcp-window-scaling",
            "tcp_window_scaling",
            |v| v >= 1,
            "1",
            "connections with window scaling cannot be adopted",
        ),
        // With 1, a socket in TIME_WAIT cannot be ended by a RST, so a reused port never gets through.
        tcp(
            "tcp-rfc1337",
            "tcp_rfc1337",
            |v| v == 0,
            "0",
            "a client that reuses a port meets its old connection and hangs",
        ),
    ]
}

/// A server whose routes to clients do not all leave by the interface that clients' packets arrive by must not be
/// strict about reverse paths. `rp_filter` 2 (loose) on the interface overrules 1 on `all`.
fn loose_reverse_path(net: &Net, interface: &Interface) -> Option<Setting> {
    if net.default_routes.iter().chain(&net.gateways).all(|by| *by == interface.name) {
        return None;
    }
    let sysctl = Sysctl::of_interface(&interface.name, "rp_filter");
    let otherwise = "packets of clients are dropped whose way back leaves by another interface";
    let setting = Setting::new("rp-filter", sysctl, |v| v != 1, "2", otherwise);
    Some(Setting { or_greater: Some(Sysctl::of_interface("all", "rp_filter")), ..setting })
}

/// What IPv6 needs. The settings of TCP are one for both, and Neighbour Discovery needs none to be silent
/// about `lo`: it answers for the addresses of the interface that was asked, and for no others.
fn ipv6(wanted: &Wanted, interfaces: &[Interface]) -> Vec<Setting> {
    let lo = wanted.on_loopback.iter().any(IpAddr::is_ipv6).then_some("lo");
    let links = interfaces.iter().filter(|_| wanted.needs_ipv6()).map(|interface| interface.name.as_str());
    let on = |name| {
        let sysctl = Sysctl::of_interface_v6(name, "disable_ipv6");
        let otherwise = "no IPv6 packet is taken and no IPv6 address held there";
        Setting::new("ipv6", sysctl, |v| v == 0, "0", otherwise)
    };
    let mut settings: Vec<_> = lo.into_iter().chain(links).map(on).collect();
    if let (Some(first), true) = (interfaces.first(), wanted.on_interface.iter().any(IpAddr::is_ipv6)) {
        let sysctl = Sysctl::of_interface_v6(&first.name, "keep_addr_on_down");
        let otherwise = "the VIP is lost once the interface has been down, unlike an IPv4 one";
        settings.push(Setting {
            or_greater: Some(Sysctl::of_interface_v6("all", "keep_addr_on_down")),
            severity: Severity::Warning,
            ..Setting::new("ipv6-keep-address", sysctl, |v| v >= 1, "1", otherwise)
        });
    }
    settings
}

/// An IPv4 VIP on `lo` must not be spoken of on any link, named in the cluster file or not: so `all`.
fn silent_about_loopback() -> [Setting; 2] {
    let all = |key| Sysctl::of_interface("all", key);
    [
        Setting::new(
            "arp-ignore",
            all("arp_ignore"),
            |v| v >= 1,
            "1",
            "this node answers ARP for the VIP on lo",
        ),
        Setting::new(
            "arp-announce",
            all("arp_announce"),
            |v| v >= 2,
            "2",
            "this node's own ARP requests claim the VIP",
        ),
    ]
}

/// An IPv4 VIP that one interface holds must not be spoken of by another one that is on the same link: packets would
/// come where no program is.
fn silent_elsewhere() -> Setting {
    Setting::new(
        "arp-ignore",
        Sysctl::of_interface("all", "arp_ignore"),
        |v| v >= 1,
        "1",
        "every interface on the VIP's link answers ARP for it, also those that do not hold it",
    )
}

/// Where a node has several interfaces, its answers to clients leave by its own routes. The kernel tells the programs
/// what they are on behalf of an interface that forwards: `lo`, where no packet for others ever comes from.
fn own_routes(wanted: &Wanted) -> Vec<Setting> {
    let otherwise = "refusals and handshakes leave by the interface that clients' packets came by, whatever the routes say";
    let v4 = wanted.vips().any(|vip| vip.is_ipv4()).then(|| Sysctl::of_interface("lo", "forwarding"));
    let v6 = wanted.vips().any(|vip| vip.is_ipv6()).then(|| Sysctl::of_interface_v6("lo", "forwarding"));
    let setting = |sysctl| Setting::new("answer-routes", sysctl, |v| v >= 1, "1", otherwise);
    v4.into_iter().chain(v6).map(setting).collect()
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<_> = items.collect();
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

//! A host that is kept as its node needs it while the node runs: who changes something of it is noticed, and the change
//! taken back or followed. The daemon calls it whenever [`HostWatch`] tells of something, and now and then.

use std::path::Path;

use futures::StreamExt as _;
use futures::channel::mpsc::UnboundedReceiver;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::SocketAddr;
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection};

use crate::facts::{Held, Interface, Net};
use crate::link::{Links, refused, route_matters};
use crate::setup::{Announcing, Mended, change, is_right, settings_are_right};
use crate::undo::Undo;
use crate::{HostError, Wanted, plan};

/// A host's interfaces as they were when somebody looked.
#[derive(Clone, Debug)]
pub struct HostSeen {
    /// The interface that holds the node's address.
    pub cluster: Interface,
    /// Those by which packets of the services are to come or go. The first one is where VIPs are announced.
    pub watched: Vec<Interface>,
    /// Those by which such packets might come as well.
    pub others: Vec<Interface>,
    net: Net,
}

impl HostSeen {
    /// Looks.
    ///
    /// # Errors
    /// [`HostError::NoInterface`], [`HostError::UnknownInterface`] or [`HostError::NotEthernet`] when the node cannot be on
    /// this host; [`HostError::Netlink`].
    pub async fn look(wanted: &Wanted) -> Result<Self, HostError> {
        Self::of(wanted, Links::open()?.read().await?)
    }

    fn of(wanted: &Wanted, net: Net) -> Result<Self, HostError> {
        let watched = plan::interfaces(wanted, &net)?;
        let holder = Wanted { interfaces: Vec::new(), ..wanted.clone() };
        let cluster = plan::interfaces(&holder, &net)?.swap_remove(0);
        let others = plan::others(&net, &watched);
        Ok(Self { cluster, watched, others, net })
    }

    /// Whether kernel settings are as `wanted` needs them, given that nothing else has changed: no notification tells of
    /// these. Quick: it reads a few files.
    ///
    /// # Errors
    /// [`HostError::Sysctl`] when an existing one cannot be read.
    pub fn settings_are_right(&self, wanted: &Wanted) -> Result<bool, HostError> {
        settings_are_right(wanted, &self.net, &self.watched)
    }

    /// Interfaces by which no answer to a client is known to leave, by number; a route by one of them changes that. None,
    /// where the cluster file names the interfaces.
    pub fn unused(&self, wanted: &Wanted) -> Vec<u32> {
        let others = self.others.iter().filter(|_| wanted.interfaces.is_empty());
        others.map(|interface| interface.index).collect()
    }

    /// A VIP that is where it must not be, with the command that takes it away: whose neighbours find it there do not find
    /// Baton.
    pub fn misplaced(&self, wanted: &Wanted) -> Option<String> {
        let unseen = |held: &&Held| {
            held.interface != "lo"
                && (wanted.on_loopback.contains(&held.address)
                    || (wanted.on_interface.contains(&held.address)
                        && self.watched.iter().all(|watched| watched.name != held.interface)))
        };
        let Held { interface, address, prefix, .. } = self.net.addresses.iter().find(unseen)?;
        Some(format!("{interface} holds {address} (ip addr del {address}/{prefix} dev {interface})"))
    }

    /// Whether an interface is up, by number; none: there is no such interface.
    pub fn is_up(&self, index: u32) -> Option<bool> {
        self.net.interfaces.iter().find(|interface| interface.index == index).map(|interface| interface.up)
    }

    /// The numbers of all interfaces that programs may be on. Not of one that is a part of another by now: its packets would
    /// be seen twice.
    pub fn present(&self) -> Vec<u32> {
        let watched = |index| self.watched.iter().any(|watched| watched.index == index);
        let whole =
            self.net.interfaces.iter().filter(|interface| !interface.part || watched(interface.index));
        whole.map(|interface| interface.index).collect()
    }
}

/// Looks at the host, and puts back what is not as `wanted` needs it, by the journal in `run_dir`; without one the
/// host is the operator's, and only looked at. Neighbours hear of announced VIPs that were gone, or whose interface is not the one that
/// it was in `before`.
///
/// # Errors
/// What cannot be mended: the node cannot be on this host as it is now. [`HostError::Busy`] means only that somebody
/// else is changing it.
pub async fn keep(
    wanted: &Wanted,
    run_dir: Option<&Path>,
    before: &HostSeen,
) -> Result<(HostSeen, Vec<Mended>), HostError> {
    let seen = HostSeen::look(wanted).await?;
    let Some(run_dir) = run_dir else { return Ok((seen, Vec::new())) };
    let moved = before.watched.first().map(place) != seen.watched.first().map(place);
    if !moved && is_right(wanted, &seen.net, &seen.watched)? {
        return Ok((seen, Vec::new()));
    }
    let undo = Undo::at(run_dir, &wanted.node);
    let _lock = undo.lock().await?;
    let announcing = if moved { Announcing::All } else { Announcing::New };
    let mended = change(wanted, &undo, announcing).await?;
    Ok((HostSeen::look(wanted).await?, mended))
}

/// What neighbours know of an interface, and whether they can.
fn place(interface: &Interface) -> (u32, [u8; 6], bool) {
    (interface.index, interface.mac, interface.up)
}

/// The kernel's word of changes of interfaces, addresses, routes and rules.
#[derive(Debug)]
pub struct HostWatch {
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    /// Without one the connection may end.
    _handle: Handle,
}

impl HostWatch {
    /// Listens from now on.
    ///
    /// # Errors
    /// [`HostError::Netlink`] when the kernel refuses.
    pub fn listen() -> Result<Self, HostError> {
        use MulticastGroup::{Ipv4Ifaddr, Ipv4Route, Ipv4Rule, Ipv6Ifaddr, Ipv6Route, Ipv6Rule, Link};
        let groups = [Link, Ipv4Ifaddr, Ipv6Ifaddr, Ipv4Route, Ipv6Route, Ipv4Rule, Ipv6Rule];
        let opened = new_multicast_connection(&groups);
        let (connection, handle, messages) = opened.map_err(refused("tell of changes of links"))?;
        tokio::spawn(connection);
        Ok(Self { messages, _handle: handle })
    }

    /// Waits until something has changed that may matter to a node; false: nothing will be told any more. `unused`:
    /// whether a number is that of an interface of [`HostSeen::unused`].
    pub async fn next(&mut self, unused: impl Fn(u32) -> bool) -> bool {
        while let Some((message, _)) = self.messages.next().await {
            if matters(&message, &unused) {
                return true;
            }
        }
        false
    }
}

/// Routes to somewhere come and go by the thousand on some routers: of those only the first by an interface matters.
fn matters(message: &NetlinkMessage<RouteNetlinkMessage>, unused: impl Fn(u32) -> bool) -> bool {
    match &message.payload {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route),
        ) => route_matters(route, unused),
        _ => true,
    }
}

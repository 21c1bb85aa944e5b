//! How the other nodes are reached: on the link or through a router, and how large packets for them may be.
//! A task of its own, which looks again now and then, and tells the daemon.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use baton_cluster::{Cluster, Forwarding, Node, NodeId};
use baton_host::Way;
use tokio::sync::mpsc;

/// Between two looks, at last. What a kernel has learnt of a path it forgets after ten minutes.
const EVERY: Duration = Duration::from_secs(10);
/// For routers to say that the first probe was too large. Each wait is twice the one before: while nodes come up, the
/// kernel learns one after the other who answers for them.
const FIRST: Duration = Duration::from_millis(300);
/// What every path carries (RFC 791 3.1 asks for less, RFC 8200 5 for this), whatever is claimed.
const MTU_MIN: u32 = 1280;
/// IPv6 and UDP headers; those of IPv4 are shorter.
const HEADERS: u32 = 40 + 8;

/// The ways to all other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Paths {
    /// Nodes that packets are wrapped for.
    pub(crate) routed: Vec<NodeId>,
    /// By which interface each node is reached, where that is known.
    pub(crate) interfaces: Vec<(NodeId, u32)>,
    /// The largest packet that reaches all nodes, bytes, where that is less than the interface's MTU.
    pub(crate) mtu: Option<u16>,
}

impl Paths {
    /// As they are now, by the routes; a node without route counts as one on the link.
    pub(crate) async fn look(cluster: &Cluster, me: NodeId) -> Self {
        let mut paths = Self::default();
        for peer in cluster.nodes.iter().filter(|peer| peer.id != me) {
            let way = match Way::to(peer.address).await {
                Ok(way) => way,
                Err(error) => {
                    tracing::debug!(peer = peer.name, %error, "no way");
                    Way { routed: false, interface: 0, mtu: None }
                }
            };
            if way.interface != 0 {
                paths.interfaces.push((peer.id, way.interface));
            }
            let wrapped = match cluster.forwarding {
                Forwarding::Auto => way.routed,
                Forwarding::Direct => false,
                Forwarding::Geneve => true,
            };
            if wrapped {
                paths.routed.push(peer.id);
            }
            let mtu = way.mtu.map(|mtu| u16::try_from(mtu.max(MTU_MIN)).unwrap_or(u16::MAX));
            paths.mtu = [paths.mtu, mtu].into_iter().flatten().min();
        }
        if cluster.forwarding == Forwarding::Auto {
            paths.wrap_for_proxies(cluster, me).await;
        }
        paths
    }

    /// Nodes that something answers ARP for are behind it, though they seem to be on the link: what has a VIP for its
    /// destination would come back from there.
    async fn wrap_for_proxies(&mut self, cluster: &Cluster, me: NodeId) {
        let on_link = cluster.nodes.iter().filter(|peer| peer.id != me && !self.routed.contains(&peer.id));
        let addresses: Vec<IpAddr> = on_link.map(|peer| peer.address).collect();
        let proxied = baton_host::answered_for(&addresses).await;
        let found = cluster.nodes.iter().filter(|peer| proxied.contains(&peer.address));
        self.routed.extend(found.map(|peer| peer.id));
        self.routed.sort_unstable();
    }
}

/// Looks again for ever, and sends what has changed since `known`.
pub(crate) async fn watch(
    cluster: Cluster,
    node: Node,
    interface_mtu: u32,
    mut known: Paths,
    to_daemon: mpsc::Sender<Paths>,
) {
    let probes: Vec<_> = cluster
        .nodes
        .iter()
        .filter(|peer| known.routed.contains(&peer.id))
        .filter_map(|peer| probe(node.address, (peer.address, cluster.control_port).into()))
        .collect();
    let payload = vec![0; interface_mtu.saturating_sub(HEADERS) as usize];
    let mut wait = FIRST;
    loop {
        for socket in &probes {
            // A path that is too narrow says so here, or to the kernel: both is what this is for.
            let _ = socket.send(&payload);
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(EVERY);
        let now = Paths::look(&cluster, node.id).await;
        if now != known {
            known.clone_from(&now);
            if to_daemon.send(now).await.is_err() {
                return;
            }
        }
    }
}

/// A socket whose datagrams must not be fragmented, as is Linux's default. Nobody listens where they go.
fn probe(from: IpAddr, to: SocketAddr) -> Option<UdpSocket> {
    let any = match from {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.set_nonblocking(true)?;
        socket.connect(to)?;
        Ok(socket)
    });
    socket.inspect_err(|error| tracing::warn!(%to, %error, "the path's MTU cannot be probed")).ok()
}

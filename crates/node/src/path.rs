//! How the other nodes are reached: on the link or through a router, and how large packets for them may be. A task of
//! its own, which looks at routes now and then, sends probes that the nodes acknowledge ([`crate::search`]), and tells the
//! daemon what has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use baton_cluster::{Cluster, Forwarding, Node, NodeId};
use baton_host::Way;
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout_at};

use crate::search::{MTU_MIN, MtuSearch, ROUND};

/// Between two looks at the routes, at last. What a kernel has learnt of a path it forgets after ten minutes.
const EVERY: Duration = Duration::from_secs(10);
/// Before the first look. Each wait is twice the one before: while nodes come up, the kernel learns one after the other
/// who answers for them.
const FIRST: Duration = Duration::from_millis(300);
/// Repeated handoffs are no reason to probe again before this.
const AGAIN: Duration = Duration::from_secs(1);

/// Probes of a node whose acknowledgements are still understood.
const REMEMBERED: usize = 32;

/// The ways to all other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Paths {
    /// Nodes that packets are wrapped for.
    pub(crate) routed: Vec<NodeId>,
    /// By which interface each node is reached, where that is known.
    pub(crate) interfaces: Vec<(NodeId, u32)>,
    /// How large packets may be by a route, or because a router has said so, bytes.
    pub(crate) claims: BTreeMap<NodeId, u16>,
    /// The largest packet that each node has acknowledged, and does still, bytes.
    pub(crate) proved: BTreeMap<NodeId, u16>,
    /// The largest packet that gets from this node to all others, bytes, where that is less than the interface's MTU.
    pub(crate) mine: Option<u16>,
    /// The largest that gets from any node to any other, as far as they have said.
    pub(crate) mtu: Option<u16>,
}

/// What the daemon tells the task.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PathNews {
    /// A node is there.
    Up(NodeId),
    /// It is not any more.
    Down(NodeId),
    /// A node has got a probe; and what it says of its own ways (0: nothing).
    Probed(NodeId, u32, u16),
    /// The interface to the other nodes carries packets of so many bytes, or the routes are others.
    Host(u16),
    /// Clients repeat what has been handed off: perhaps it did not arrive.
    Repeated,
}

/// What probes are made of: who is to get it, its number, its size in bytes as an IP packet.
pub(crate) type MakeProbe = Box<dyn Fn(&Node, u32, usize) -> Vec<u8> + Send>;

impl Paths {
    /// As they are now, by the routes; a node without route counts as one on the link.
    pub(crate) async fn look(cluster: &Cluster, me: NodeId) -> Self {
        let mut paths = Self::default();
        // Rules may go by the source, which is this node's own address.
        let own = cluster.node(me).map(|node| node.address);
        for peer in cluster.nodes.iter().filter(|peer| peer.id != me) {
            let way = match Way::to(peer.address, own.unwrap_or(peer.address)).await {
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
            if let Some(mtu) = way.mtu {
                let mtu = u16::try_from(mtu).unwrap_or(u16::MAX).max(MTU_MIN);
                paths.claims.insert(peer.id, mtu);
            }
        }
        if cluster.forwarding == Forwarding::Auto {
            paths.wrap_for_proxies(cluster, me).await;
        }
        paths.mine = paths.claims.values().min().copied();
        paths.mtu = paths.mine;
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

/// The task.
pub(crate) struct Watch {
    cluster: Cluster,
    node: Node,
    interface_mtu: u16,
    make: MakeProbe,
    socket: Option<UdpSocket>,
    started: Instant,
    up: BTreeSet<NodeId>,
    searches: BTreeMap<NodeId, MtuSearch>,
    /// Of each node's last probes: their numbers, and sizes.
    sent: BTreeMap<NodeId, BTreeMap<u32, u16>>,
    number: u32,
    /// What the others say of their ways.
    told: BTreeMap<NodeId, u16>,
    again_from: Instant,
    /// When to look at the routes again.
    look_at: Instant,
}

impl Watch {
    pub(crate) fn new(cluster: Cluster, node: Node, interface_mtu: u16, make: MakeProbe) -> Self {
        let socket = UdpSocket::bind((node.address, 0)).and_then(|socket| {
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        let warn = |error: &std::io::Error| tracing::warn!(%error, "the paths' MTU cannot be probed");
        Self {
            interface_mtu,
            socket: socket.inspect_err(warn).ok(),
            started: Instant::now(),
            up: BTreeSet::new(),
            searches: BTreeMap::new(),
            sent: BTreeMap::new(),
            number: rand::random(),
            told: BTreeMap::new(),
            again_from: Instant::now(),
            look_at: Instant::now() + FIRST,
            cluster,
            node,
            make,
        }
    }

    /// Runs for ever: tells the daemon what has changed since `known`.
    pub(crate) async fn run(
        mut self,
        mut known: Paths,
        mut from_daemon: mpsc::Receiver<PathNews>,
        to_daemon: mpsc::Sender<Paths>,
    ) {
        let (mut routes, mut wait) = (known.clone(), FIRST);
        loop {
            self.claim(&routes);
            self.probe();
            let now = self.paths(&routes);
            if now != known {
                known.clone_from(&now);
                if to_daemon.send(now).await.is_err() {
                    return;
                }
            }
            let next = tokio::time::Instant::now() + ROUND / 2;
            while let Ok(news) = timeout_at(next, from_daemon.recv()).await {
                match news {
                    Some(news) => self.hear(news),
                    None => return sleep_until(next).await,
                }
            }
            if Instant::now() >= self.look_at {
                routes = Paths::look(&self.cluster, self.node.id).await;
                wait = (wait * 2).min(EVERY);
                self.look_at = Instant::now() + wait;
            }
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn claim(&mut self, routes: &Paths) {
        let now = self.now();
        for peer in self.cluster.nodes.iter().filter(|peer| peer.id != self.node.id) {
            let claimed =
                routes.claims.get(&peer.id).map_or(self.interface_mtu, |mtu| *mtu.min(&self.interface_mtu));
            self.searches.entry(peer.id).or_insert_with(|| MtuSearch::new(claimed, now)).claim(claimed, now);
        }
    }

    fn hear(&mut self, news: PathNews) {
        let now = self.now();
        match news {
            PathNews::Up(node) => {
                self.up.insert(node);
                if let Some(search) = self.searches.get_mut(&node) {
                    search.soon(now);
                }
            }
            PathNews::Down(node) => drop(self.up.remove(&node)),
            PathNews::Probed(node, number, least) => {
                let size = self.sent.get(&node).and_then(|sent| sent.get(&number));
                if let (Some(size), Some(search)) = (size, self.searches.get_mut(&node)) {
                    search.arrived(*size);
                }
                match least {
                    0 => drop(self.told.remove(&node)),
                    least => drop(self.told.insert(node, least.max(MTU_MIN))),
                }
            }
            PathNews::Host(mtu) => {
                self.interface_mtu = mtu;
                self.look_at = Instant::now();
            }
            PathNews::Repeated if Instant::now() >= self.again_from => {
                self.again_from = Instant::now() + AGAIN;
                self.searches.values_mut().for_each(|search| search.soon(now));
            }
            PathNews::Repeated => {}
        }
    }

    fn probe(&mut self) {
        let Some(socket) = &self.socket else { return };
        let now = self.started.elapsed();
        // The others have not agreed on the clock that a probe is dated by, and would not say that it came.
        for peer in self.cluster.nodes.iter().filter(|peer| self.up.contains(&peer.id)) {
            let Some(search) = self.searches.get_mut(&peer.id) else { continue };
            let sizes = search.tick(now);
            if sizes.is_empty() {
                continue;
            }
            let sent = self.sent.entry(peer.id).or_default();
            // An acknowledgement may be late, while the same sizes are tried again.
            sent.retain(|_, size| sizes.contains(size));
            if sent.len() > REMEMBERED {
                sent.clear();
            }
            for size in sizes {
                self.number = self.number.wrapping_add(1);
                let datagram = (self.make)(peer, self.number, usize::from(size));
                // What the kernel refuses to send does not arrive.
                if socket.send_to(&datagram, (peer.address, self.cluster.handoff_port)).is_ok() {
                    sent.insert(self.number, size);
                }
            }
        }
    }

    fn paths(&self, routes: &Paths) -> Paths {
        let usable = self.searches.values().map(MtuSearch::usable).min();
        let mine = usable.filter(|mtu| *mtu < self.interface_mtu);
        let now = self.now();
        let proved = self.searches.iter().filter_map(|(node, search)| Some((*node, search.confirmed(now)?)));
        let told = self.told.values().copied().filter(|mtu| *mtu < self.interface_mtu);
        let mtu = mine.into_iter().chain(told).min();
        Paths { mine, mtu, proved: proved.collect(), ..routes.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "[cluster]\nname = \"c\"\nsecret = \"6f1c0a9be47d82355ac4e09d17b86f3e2d4c5a69\"\n\
        [[node]]\nname = \"a\"\naddress = \"10.1.0.1\"\nroles = [\"switch\", \"distributor\", \"dispatcher\"]\n\
        [[node]]\nname = \"b\"\naddress = \"10.1.0.2\"\nroles = [\"server\"]\n\
        [[service]]\nname = \"web\"\nvips = [\"10.99.0.1\"]\nport = 80\npolicy = \"wrr\"\n";

    #[test]
    fn an_interface_that_carries_less_or_more_is_followed_and_others_count_where_they_carry_less() {
        let cluster = Cluster::parse(FILE).expect("a good file");
        let (node, other) = (cluster.nodes[0].clone(), cluster.nodes[1].id);
        let mut watch = Watch::new(cluster, node, 1500, Box::new(|_, _, _| Vec::new()));
        let mut after = |news: Option<PathNews>| {
            news.into_iter().for_each(|news| watch.hear(news));
            watch.claim(&Paths::default());
            let paths = watch.paths(&Paths::default());
            (paths.mine, paths.mtu)
        };
        assert_eq!(after(None), (None, None), "the interface alone says how much");
        assert_eq!(after(Some(PathNews::Probed(other, 0, 1450))), (None, Some(1450)));
        assert_eq!(after(Some(PathNews::Host(1400))), (None, None), "the other node carries more");
        assert_eq!(after(Some(PathNews::Host(9000))), (None, Some(1450)));
        assert_eq!(after(Some(PathNews::Probed(other, 0, 9000))), (None, None));
    }
}

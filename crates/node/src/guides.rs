//! What may be decided on this node without asking, kept in the kernel's tables: each pool's guide, the
//! servers' loads, and mappings that the dispatcher has told.

use std::time::Duration;

use baton_cluster::{Cluster, NodeId, PoolId, Target};
use baton_control::{Push, message};
use baton_datapath::constants::MAX_REPLICAS;
use baton_datapath::{Datapath, DatapathError, Guide};
use baton_dispatcher::Loads;
use baton_dispatcher::fallback::Ring;

use crate::clock;
use crate::peers::Peers;

/// What a pool's requests are decided by, as last told.
#[derive(Debug)]
struct Guided {
    servers: Vec<NodeId>,
    guide: message::Guide,
    /// A mapping of several servers may be used for so long before it is asked again.
    replicas_for: Duration,
    ring: Ring,
}

/// All pools'.
#[derive(Debug)]
pub(crate) struct Guides {
    pools: Vec<Guided>,
    /// The servers that the dispatcher names; `None` while it is silent.
    named: Option<Vec<NodeId>>,
    loads: Loads,
    least_weight: u16,
    generation: u32,
}

impl Guides {
    pub(crate) fn new(cluster: &Cluster) -> Self {
        let weight = |id: NodeId| cluster.node(id).map_or(1, |n| n.weight);
        let servers: Vec<(NodeId, u16)> = cluster.with_role(|r| r.server).map(|n| (n.id, n.weight)).collect();
        let pools = cluster.pools.iter().map(|pool| Guided {
            servers: pool.servers.clone(),
            guide: message::Guide::AskAlways,
            replicas_for: pool.policy.k,
            ring: Ring::new(pool.servers.iter().map(|id| (*id, weight(*id)))),
        });
        Self {
            pools: pools.collect(),
            named: None,
            loads: Loads::new(servers.iter().copied()),
            least_weight: servers.iter().map(|(_, w)| *w).min().unwrap_or(1),
            generation: 1,
        }
    }

    /// Every server's load as known here.
    pub(crate) fn loads(&self) -> &Loads {
        &self.loads
    }

    /// One more request was given to a server.
    pub(crate) fn assign(&mut self, server: NodeId) {
        self.loads.assign(server);
    }

    /// The server for a request when nobody can be asked: every node chooses alike.
    pub(crate) fn choose_alone(&self, pool: PoolId, target: Option<Target>) -> Option<NodeId> {
        let pool = self.pools.get(pool.index())?;
        pool.ring.choose(target, self.loads.of(&pool.servers))
    }

    /// Whether a node is one of a pool's servers.
    pub(crate) fn is_member(&self, pool: PoolId, node: NodeId) -> bool {
        self.pools.get(pool.index()).is_some_and(|pool| pool.servers.contains(&node))
    }

    /// Remembers a mapping, if the pool's guide lets the kernel use it.
    pub(crate) fn keep(
        &self,
        pool: PoolId,
        target: Target,
        servers: &[NodeId],
        datapath: &Datapath,
    ) -> Result<(), DatapathError> {
        let Some(guided) = self.pools.get(pool.index()) else { return Ok(()) };
        if !matches!(guided.guide, message::Guide::Cached { .. }) || servers.is_empty() {
            return Ok(());
        }
        let servers = servers.get(..MAX_REPLICAS as usize).unwrap_or(servers);
        let expires = (servers.len() > 1).then(|| clock::monotonic() + guided.replicas_for);
        datapath.set_decision(pool, target, servers, expires, self.generation)
    }

    /// Mappings that changed.
    pub(crate) fn pushed(&mut self, push: &Push, datapath: &Datapath) -> Result<(), DatapathError> {
        for change in &push.changes {
            if change.servers.is_empty() {
                datapath.remove_decision(push.pool, change.target)?;
            } else {
                self.keep(push.pool, change.target, &change.servers, datapath)?;
            }
        }
        Ok(())
    }

    /// A server's load.
    pub(crate) fn load(
        &mut self,
        node: NodeId,
        load: &message::Load,
        datapath: &Datapath,
    ) -> Result<(), DatapathError> {
        self.loads.report(node, load.serving, load.pressure);
        self.tell_load(node, datapath)
    }

    /// The dispatcher says which servers may be chosen; `None`: it is silent.
    pub(crate) fn named(&mut self, nodes: Option<Vec<NodeId>>) {
        self.named = nodes;
    }

    /// Works out which servers may be chosen: those the dispatcher names, of those that are there.
    pub(crate) fn refresh(&mut self, peers: &Peers, datapath: &Datapath) -> Result<(), DatapathError> {
        let mut left = false;
        let servers: Vec<NodeId> = self.loads.servers().map(|(node, _)| node).collect();
        for node in servers {
            let named = self.named.as_ref().is_none_or(|live| live.contains(&node));
            let live = named && peers.is_up(node);
            if self.loads.set_live(node, live) {
                left |= !live;
                self.tell_load(node, datapath)?;
            }
        }
        if left {
            // A server that left leaves every mapping for good: its targets may be elsewhere by the
            // time it is back.
            self.generation = self.generation.wrapping_add(1);
        }
        self.tell(datapath)
    }

    /// How to decide for a pool from now on.
    pub(crate) fn guide(
        &mut self,
        pool: PoolId,
        guide: message::Guide,
        datapath: &Datapath,
    ) -> Result<(), DatapathError> {
        if let Some(guided) = self.pools.get_mut(pool.index()) {
            guided.guide = guide;
        }
        self.tell(datapath)
    }

    /// Whatever was remembered is void: the dispatcher is another one, or has forgotten.
    pub(crate) fn forget(&mut self, datapath: &Datapath) -> Result<(), DatapathError> {
        self.generation = self.generation.wrapping_add(1);
        self.tell(datapath)
    }

    fn tell_load(&self, node: NodeId, datapath: &Datapath) -> Result<(), DatapathError> {
        let weight = self.loads.weight(node).unwrap_or(1);
        let reported = self.loads.load(node).unwrap_or(0);
        datapath.set_load(node, reported, weight, self.least_weight, self.loads.is_live(node))
    }

    fn tell(&self, datapath: &Datapath) -> Result<(), DatapathError> {
        for (guided, id) in self.pools.iter().zip(0..) {
            // While user space is silent the kernel goes round all live servers of the pool.
            let everybody: Vec<NodeId> =
                self.loads.of(&guided.servers).live().map(|(node, _)| node).collect();
            let (guide, rota) = match &guided.guide {
                message::Guide::AskAlways => (Guide::Ask, &everybody),
                message::Guide::Cached { load_limit } => {
                    (Guide::Cached { load_limit: *load_limit }, &everybody)
                }
                message::Guide::Rota(turns) => (Guide::Rota, turns),
            };
            datapath.set_guide(PoolId(id), &guide, rota, self.generation)?;
        }
        Ok(())
    }
}

//! What may be decided on this node without asking, kept in the kernel's tables: each pool's guide, the
//! servers' loads, and mappings that the dispatcher has told.

use std::collections::BTreeMap;

use baton_cluster::{NodeId, Pool, PoolHash, PoolId, Target};
use baton_control::{Push, message};
use baton_datapath::constants::MAX_REPLICAS;
use baton_datapath::{Datapath, DatapathError, Guide};
use baton_dispatcher::Loads;
use baton_dispatcher::fallback::Ring;

use crate::clock;
use crate::peers::Peers;
use crate::services::Services;

/// Guides that are kept of pools that this node's cluster file does not have, yet or any more.
const TOLD_MAX: usize = 2 * PoolId::NUMBERS;

/// A pool that requests are decided for.
#[derive(Debug)]
struct Guided {
    pool: Pool,
    ring: Ring,
}

/// All pools'.
#[derive(Debug)]
pub(crate) struct Guides {
    pools: BTreeMap<PoolId, Guided>,
    /// What each pool's requests are decided by, as last told.
    told: BTreeMap<PoolHash, message::Guide>,
    /// The servers that the dispatcher names; `None` while it is silent.
    named: Option<Vec<NodeId>>,
    loads: Loads,
    least_weight: u16,
    generation: u32,
}

impl Guides {
    pub(crate) fn new(services: &Services) -> Self {
        let cluster = services.cluster();
        let servers: Vec<(NodeId, u16)> = cluster.with_role(|r| r.server).map(|n| (n.id, n.weight)).collect();
        Self {
            pools: guided(services),
            told: BTreeMap::new(),
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
        let guided = self.pools.get(&pool)?;
        guided.ring.choose(target, self.loads.of(&guided.pool.servers))
    }

    /// Whether a node is one of a pool's servers.
    pub(crate) fn is_member(&self, pool: PoolId, node: NodeId) -> bool {
        self.pools.get(&pool).is_some_and(|guided| guided.pool.has(node))
    }

    /// Remembers a mapping, if the pool's guide lets the kernel use it.
    pub(crate) fn keep(
        &self,
        pool: PoolId,
        target: Target,
        servers: &[NodeId],
        datapath: &Datapath,
    ) -> Result<(), DatapathError> {
        let Some(Guided { pool: known, .. }) = self.pools.get(&pool) else { return Ok(()) };
        let cached = matches!(self.told.get(&known.hash), Some(message::Guide::Cached { .. }));
        if !cached || servers.is_empty() {
            return Ok(());
        }
        let servers = servers.get(..MAX_REPLICAS as usize).unwrap_or(servers);
        let expires = (servers.len() > 1).then(|| clock::monotonic() + known.policy.k);
        datapath.set_decision(pool, target, servers, expires, self.generation)
    }

    /// Mappings that changed.
    pub(crate) fn pushed(&mut self, push: &Push, datapath: &Datapath) -> Result<(), DatapathError> {
        let pool = self.pools.values().find(|guided| guided.pool.hash == push.pool);
        let Some(pool) = pool.map(|guided| guided.pool.id) else { return Ok(()) };
        for change in &push.changes {
            if change.servers.is_empty() {
                datapath.remove_decision(pool, change.target)?;
            } else {
                self.keep(pool, change.target, &change.servers, datapath)?;
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
        pool: PoolHash,
        guide: message::Guide,
        datapath: &Datapath,
    ) -> Result<(), DatapathError> {
        if self.told.len() < TOLD_MAX || self.told.contains_key(&pool) {
            self.told.insert(pool, guide);
        }
        self.tell(datapath)
    }

    /// Goes by other pools from now on. What was remembered may name servers that a pool has no more.
    pub(crate) fn pools_changed(
        &mut self,
        services: &Services,
        datapath: &Datapath,
    ) -> Result<(), DatapathError> {
        self.pools = guided(services);
        self.generation = self.generation.wrapping_add(1);
        self.tell(datapath)
    }

    /// Whatever was remembered is void: the dispatcher is another one, or has forgotten.
    pub(crate) fn forget(&mut self, datapath: &Datapath) -> Result<(), DatapathError> {
        self.generation = self.generation.wrapping_add(1);
        self.told.clear();
        self.tell(datapath)
    }

    fn tell_load(&self, node: NodeId, datapath: &Datapath) -> Result<(), DatapathError> {
        let weight = self.loads.weight(node).unwrap_or(1);
        let reported = self.loads.load(node).unwrap_or(0);
        datapath.set_load(node, reported, weight, self.least_weight, self.loads.is_live(node))
    }

    fn tell(&self, datapath: &Datapath) -> Result<(), DatapathError> {
        for (id, Guided { pool, .. }) in &self.pools {
            // While user space is silent the kernel goes round all live servers of the pool.
            let everybody: Vec<NodeId> = self.loads.of(&pool.servers).live().map(|(node, _)| node).collect();
            let (guide, rota) = match self.told.get(&pool.hash) {
                None | Some(message::Guide::AskAlways) => (Guide::Ask, &everybody),
                Some(message::Guide::Cached { load_limit }) => {
                    (Guide::Cached { load_limit: *load_limit }, &everybody)
                }
                Some(message::Guide::Rota(turns)) => (Guide::Rota, turns),
            };
            datapath.set_guide(*id, &guide, rota, self.generation)?;
        }
        Ok(())
    }
}

fn guided(services: &Services) -> BTreeMap<PoolId, Guided> {
    let weight = |id: NodeId| services.cluster().node(id).map_or(1, |n| n.weight);
    let ring = |pool: &Pool| Ring::new(pool.servers.iter().map(|id| (*id, weight(*id))));
    services.known().pools().map(|pool| (pool.id, Guided { pool: pool.clone(), ring: ring(pool) })).collect()
}

//! What may be decided on this node without asking, kept in the kernel's tables: each pool's guide, the
//! servers' loads, and mappings that the dispatcher has told.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use baton_cluster::{Guide, NodeId, Pool, PoolHash, PoolId, Target};
use baton_control::{Push, message};
use baton_datapath::constants::MAX_REPLICAS;
use baton_datapath::{DatapathError, GuideKind};
use baton_dispatcher::fallback::Ring;
use baton_dispatcher::{Dispatcher, Loads, Suspects};

use crate::outside::Outside;
use crate::peers::Peers;
use crate::services::Services;
use crate::standing::Standing;
use crate::trouble::for_all;

/// Guides that are kept of pools that this node's cluster file does not have, yet or any more.
const TOLD_MAX: usize = 2 * PoolId::NUMBERS;

/// Tables that refused something are tried again after this.
const RETRY: Duration = Duration::from_secs(1);

/// A pool that requests are decided for.
#[derive(Debug)]
struct Guided {
    pool: Pool,
    ring: Ring,
    /// Its servers that are given new work.
    favoured: Vec<NodeId>,
    /// How often its decisions became void by themselves.
    voided: u32,
}

/// What is to be written again.
#[derive(Clone, Copy, Debug, Default)]
struct Stale {
    loads: bool,
    guides: bool,
    retry_at: Option<Instant>,
}

/// What a dispatcher has told.
#[derive(Clone, Debug, Default)]
struct Told {
    guides: BTreeMap<PoolHash, Guide>,
    /// The servers that it names.
    live: Option<Vec<NodeId>>,
}

/// All pools'.
#[derive(Debug)]
pub struct Guides {
    pools: BTreeMap<PoolId, Guided>,
    /// What each dispatcher has told since it came up.
    heard: BTreeMap<NodeId, Told>,
    /// The dispatcher that is asked: of several this one's guides are in force.
    follows: Option<NodeId>,
    /// What each pool's requests are decided by; while nobody is asked, as it was before.
    told: BTreeMap<PoolHash, Guide>,
    /// The servers that the dispatcher names; `None` while nobody is asked.
    named: Option<Vec<NodeId>>,
    loads: Loads,
    /// Servers that are not to be chosen, of which decisions are remembered still, with since when.
    gone: BTreeMap<NodeId, Instant>,
    suspects: Suspects,
    least_weight: u16,
    generation: u32,
    /// The tables may not have what this has: they refused something. When they are to be tried again.
    stale: Stale,
}

impl Guides {
    pub(crate) fn new(services: &Services) -> Self {
        let cluster = services.cluster();
        let servers: Vec<(NodeId, u16)> = cluster.with_role(|r| r.server).map(|n| (n.id, n.weight)).collect();
        Self {
            pools: guided(services),
            heard: BTreeMap::new(),
            follows: None,
            told: BTreeMap::new(),
            named: None,
            loads: Loads::new(servers.iter().copied()),
            least_weight: servers.iter().map(|(_, w)| *w).min().unwrap_or(1),
            gone: BTreeMap::new(),
            suspects: Suspects::default(),
            generation: 1,
            stale: Stale::default(),
        }
    }

    /// Every server's load as known here.
    pub fn loads(&self) -> &Loads {
        &self.loads
    }

    /// One more request was given to a server.
    pub(crate) fn assign(&mut self, server: NodeId) {
        self.loads.assign(server);
    }

    /// The server for a request when nobody can be asked: every node chooses alike.
    /// A doubted server gets one now and then, if the request is a connection's `first`.
    pub(crate) fn choose_alone(
        &mut self,
        pool: PoolId,
        target: Option<Target>,
        first: bool,
        now: Duration,
    ) -> Option<NodeId> {
        let guided = self.pools.get(&pool)?;
        if first && guided.favoured.len() < guided.pool.servers.len() {
            let due = self.suspects.due(pool, &guided.pool.servers, |node| self.loads.is_live(node), now);
            if let Some(node) = due {
                self.suspects.tried(pool, node, now);
                return Some(node);
            }
        }
        guided.ring.choose(target, self.loads.of(&guided.favoured))
    }

    /// Some servers are doubted that were not, or the other way round.
    pub(crate) fn doubts_changed(
        &mut self,
        standing: &Standing,
        outside: &mut impl Outside,
        now: Duration,
    ) -> Result<(), DatapathError> {
        for (id, guided) in &mut self.pools {
            for server in guided.pool.servers.clone() {
                let doubted = standing.is_doubted(server, guided.pool.hash);
                let changed = self.suspects.set(*id, server, doubted, now, outside.random().into());
                // Decisions may name it: they are asked for again.
                guided.voided = guided.voided.wrapping_add(u32::from(changed && doubted));
            }
        }
        self.favour();
        self.tell(outside)
    }

    fn favour(&mut self) {
        for (id, guided) in &mut self.pools {
            let is_live = |node| self.loads.is_live(node);
            guided.favoured = self.suspects.favoured(*id, &guided.pool.servers, is_live);
        }
    }

    /// Whether a node is one of a pool's servers.
    pub(crate) fn is_member(&self, pool: PoolId, node: NodeId) -> bool {
        self.pools.get(&pool).is_some_and(|guided| guided.pool.has(node))
    }

    /// Remembers a mapping, if the pool's guide lets the kernel use it.
    pub(crate) fn keep(
        &mut self,
        pool: PoolId,
        target: Target,
        servers: &[NodeId],
        monotonic: Duration,
        outside: &mut impl Outside,
    ) -> Result<(), DatapathError> {
        let Some(Guided { pool: known, favoured, voided, .. }) = self.pools.get(&pool) else { return Ok(()) };
        let cached = matches!(self.told.get(&known.hash), Some(Guide::Cached { .. }));
        if !cached || servers.is_empty() {
            return Ok(());
        }
        // The dispatcher goes by its own cluster file, which this node may not have yet, or any more.
        // Nor may it have heard yet who is doubted.
        let mut servers: Vec<NodeId> =
            servers.iter().copied().filter(|node| favoured.contains(node)).collect();
        servers.truncate(MAX_REPLICAS as usize);
        if servers.is_empty() {
            return outside.remove_decision(pool, target);
        }
        let expires = (servers.len() > 1).then(|| monotonic + known.policy.k);
        let generation = self.generation.wrapping_add(*voided);
        outside.set_decision(pool, target, &servers, expires, generation).inspect_err(|_| {
            // Better none than the one before.
            if outside.remove_decision(pool, target).is_err() {
                self.void();
            }
        })
    }

    /// Mappings that changed.
    pub(crate) fn pushed(
        &mut self,
        push: &Push,
        monotonic: Duration,
        outside: &mut impl Outside,
    ) -> Result<(), DatapathError> {
        let pool = self.pools.values().find(|guided| guided.pool.hash == push.pool);
        let Some(pool) = pool.map(|guided| guided.pool.id) else { return Ok(()) };
        let told = for_all(&push.changes, |change| {
            if change.servers.is_empty() {
                outside.remove_decision(pool, change.target)
            } else {
                self.keep(pool, change.target, &change.servers, monotonic, outside)
            }
        });
        if told.is_err() {
            // What is remembered may not be what the dispatcher says now.
            self.void();
        }
        told
    }

    /// A server's load.
    pub(crate) fn load(
        &mut self,
        node: NodeId,
        load: &message::Load,
        outside: &mut impl Outside,
    ) -> Result<(), DatapathError> {
        self.loads.report(node, load.serving, load.pressure);
        let told = self.tell_load(node, outside);
        self.stale.loads |= told.is_err();
        told
    }

    /// A dispatcher says which servers may be chosen.
    pub(crate) fn named(&mut self, from: NodeId, nodes: Vec<NodeId>) {
        let live = Some(nodes);
        if self.follows == Some(from) {
            self.named.clone_from(&live);
        }
        self.heard.entry(from).or_default().live = live;
    }

    /// Another dispatcher is asked from now on, or none. What is remembered stands, because dispatchers tell each other
    /// what they decide; unless `anew`: this one may not know it, or news have been missed.
    pub(crate) fn follow(&mut self, dispatcher: Option<NodeId>, anew: bool) {
        self.follows = dispatcher;
        let heard = dispatcher.map(|node| self.heard.get(&node).cloned().unwrap_or_default());
        self.named = heard.as_ref().and_then(|told| told.live.clone());
        if anew {
            self.void();
            self.told.clear();
        }
        if let Some(told) = heard.filter(|told| !told.guides.is_empty()) {
            self.told = told.guides;
            self.stale.guides = true;
        }
    }

    /// A dispatcher is gone: when it comes back it tells all anew.
    pub(crate) fn silent(&mut self, dispatcher: NodeId) {
        self.heard.remove(&dispatcher);
    }

    /// Whether a server may be given a connection of this node's: the dispatcher may reach one that this node does not.
    pub(crate) fn may_have(&self, server: NodeId) -> bool {
        self.loads.is_live(server)
    }

    /// Works out which servers may be chosen: those the dispatcher names, of those that are there and known to all. What is remembered
    /// of one that is not stands for a while: the programs do not choose it, and it may be back in a moment.
    pub(crate) fn refresh(
        &mut self,
        peers: &Peers,
        outside: &mut impl Outside,
        now: Instant,
    ) -> Result<(), DatapathError> {
        let mut ended = self.forget_gone(outside, now);
        let servers: Vec<NodeId> = self.loads.servers().map(|(node, _)| node).collect();
        for node in servers {
            let named = self.named.as_ref().is_none_or(|live| live.contains(&node));
            let live = named && peers.is_known_to_all(node);
            if self.loads.set_live(node, live) {
                if live {
                    self.gone.remove(&node);
                } else {
                    self.gone.insert(node, now);
                }
                let told = self.tell_load(node, outside);
                self.stale.loads |= told.is_err();
                ended = ended.and(told);
            }
        }
        self.favour();
        let told = self.tell(outside);
        ended.and(told)
    }

    /// A server that has been gone for long leaves every decision for good: its targets may be elsewhere by the
    /// time it is back.
    fn forget_gone(&mut self, outside: &mut impl Outside, now: Instant) -> Result<(), DatapathError> {
        let long = |since: &Instant| now - *since >= Dispatcher::DISTRIBUTORS_REMEMBER_FOR;
        let gone: Vec<NodeId> =
            self.gone.iter().filter(|(_, since)| long(since)).map(|(node, _)| *node).collect();
        for_all(gone, |node| {
            self.gone.remove(&node);
            let forgotten = outside.forget_server(node);
            if forgotten.is_err() {
                self.void();
            }
            let decisions = forgotten?;
            tracing::debug!(server = %node, decisions, "forgotten");
            Ok(())
        })
    }

    /// Called on every tick: what takes its time, and what the tables refused.
    pub(crate) fn tick(&mut self, outside: &mut impl Outside, now: Instant) -> Result<(), DatapathError> {
        let forgotten = self.forget_gone(outside, now);
        let Stale { loads, guides, retry_at } = self.stale;
        if !(loads || guides) || retry_at.is_some_and(|at| now < at) {
            return forgotten;
        }
        self.stale.retry_at = Some(now + RETRY);
        let servers: Vec<NodeId> = self.loads.servers().map(|(node, _)| node).collect();
        let loads = for_all(servers, |node| self.tell_load(node, outside));
        self.stale.loads = loads.is_err();
        let told = self.tell(outside);
        forgotten.and(loads).and(told)
    }

    /// Whatever is remembered is void, as soon as the tables have the new generation.
    fn void(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        self.stale.guides = true;
    }

    /// A dispatcher says how to decide for a pool from now on.
    pub(crate) fn guide(
        &mut self,
        from: NodeId,
        pool: PoolHash,
        guide: Guide,
        outside: &mut impl Outside,
    ) -> Result<(), DatapathError> {
        let heard = &mut self.heard.entry(from).or_default().guides;
        if heard.len() < TOLD_MAX || heard.contains_key(&pool) {
            heard.insert(pool, guide.clone());
        }
        if self.follows != Some(from) {
            return Ok(());
        }
        if self.told.len() < TOLD_MAX || self.told.contains_key(&pool) {
            self.told.insert(pool, guide);
        }
        self.tell(outside)
    }

    /// Goes by other pools from now on. What was remembered may name servers that a pool has no more.
    pub(crate) fn pools_changed(
        &mut self,
        services: &Services,
        outside: &mut impl Outside,
    ) -> Result<(), DatapathError> {
        self.pools = guided(services);
        self.suspects
            .retain(Duration::ZERO, |pool, node| self.pools.get(&pool).is_some_and(|g| g.pool.has(node)));
        self.favour();
        self.void();
        self.tell(outside)
    }

    fn tell_load(&self, node: NodeId, outside: &mut impl Outside) -> Result<(), DatapathError> {
        let weight = self.loads.weight(node).unwrap_or(1);
        let reported = self.loads.load(node).unwrap_or(0);
        outside.set_load(node, reported, weight, self.least_weight, self.loads.is_live(node))
    }

    /// Writes all pools' guides; they are stale until all have been written.
    fn tell(&mut self, outside: &mut impl Outside) -> Result<(), DatapathError> {
        let told = for_all(&self.pools, |(id, Guided { pool, favoured, voided, .. })| {
            let everybody = self.loads.of(favoured).live().map(|(node, _)| node);
            let (guide, rota) = in_force(self.told.get(&pool.hash), favoured, everybody);
            outside.set_guide(*id, &guide, &rota, self.generation.wrapping_add(*voided))
        });
        self.stale.guides = told.is_err();
        told
    }
}

/// What a pool's requests are decided by on this node, and whose turn it is. What was told goes by the dispatcher's cluster
/// file: where it names servers that the pool does not have here, or that are doubted, others of the pool take their turns.
fn in_force(
    told: Option<&Guide>,
    favoured: &[NodeId],
    // While user space is silent the kernel goes round all live servers of the pool.
    everybody: impl Iterator<Item = NodeId>,
) -> (GuideKind, Vec<NodeId>) {
    match told {
        None | Some(Guide::AskAlways) => (GuideKind::Ask, everybody.collect()),
        Some(Guide::Cached { load_limit }) => {
            (GuideKind::Cached { load_limit: *load_limit }, everybody.collect())
        }
        Some(Guide::Rota(turns)) => {
            let own: Vec<NodeId> = turns.iter().copied().filter(|node| favoured.contains(node)).collect();
            if own.is_empty() && !turns.is_empty() {
                (GuideKind::Ask, everybody.collect())
            } else {
                (GuideKind::Rota, own)
            }
        }
    }
}

fn guided(services: &Services) -> BTreeMap<PoolId, Guided> {
    let weight = |id: NodeId| services.cluster().node(id).map_or(1, |n| n.weight);
    let ring = |pool: &Pool| Ring::new(pool.servers.iter().map(|id| (*id, weight(*id))));
    services
        .known()
        .pools()
        .map(|pool| {
            (
                pool.id,
                Guided { pool: pool.clone(), ring: ring(pool), favoured: pool.servers.clone(), voided: 0 },
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use baton_cluster::Cluster;

    use super::*;

    const FILE: &str = r#"
[cluster]
name = "web"
secret = "k3YvT9qLw0ZsB7nXfR2mJc8HdPu5GaE1"
[[node]]
name = "one"
address = "10.1.0.10"
roles = ["distributor", "dispatcher", "server"]
[[node]]
name = "two"
address = "10.1.0.11"
roles = ["server"]
[[node]]
name = "three"
address = "10.1.0.12"
roles = ["server"]
[[service]]
name = "www"
vips = ["10.99.0.1"]
port = 80
[[service.pool]]
name = "site"
servers = ["two", "three"]
policy = "wrr"
"#;

    #[test]
    fn a_rota_of_another_cluster_file_names_nobody_outside_the_pool() {
        let cluster = Cluster::parse(FILE).expect("a good file");
        let [one, two, three] = [0, 1, 2].map(NodeId);
        let told = |turns: &[NodeId]| {
            let told = Guide::Rota(turns.to_vec());
            in_force(Some(&told), &cluster.pools[0].servers, [two, three].into_iter())
        };
        assert_eq!(told(&[two, three, two]), (GuideKind::Rota, vec![two, three, two]));
        assert_eq!(told(&[one, three]), (GuideKind::Rota, vec![three]));
        assert_eq!(told(&[one]), (GuideKind::Ask, vec![two, three]), "nobody of it is left");
        assert_eq!(told(&[]), (GuideKind::Rota, vec![]), "the dispatcher says that nobody is there");
    }
}

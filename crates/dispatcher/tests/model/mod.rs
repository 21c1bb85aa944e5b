//! The policies once more, written from the papers' text and deliberately naive: lists that are
//! searched from end to end, loads brought to a common denominator, no bound on targets. Shares
//! no code with what it checks but the types in its signature.

use std::collections::BTreeMap;
use std::time::Duration;

use baton_cluster::{NodeId, PHttp, PolicyConfig, PolicyKind, Target};
use baton_dispatcher::PoolRule;

/// All weights in these tests divide it.
const COMMON: u32 = 12;

/// A server as the naive model sees it.
#[derive(Clone, Debug)]
pub struct ModelServer {
    pub weight: u32,
    pub in_pool: bool,
    pub up: bool,
    pub load: u32,
    pub pressure: u8,
}

/// The whole cluster, with one pool.
#[derive(Clone, Debug)]
pub struct Model {
    pub config: PolicyConfig,
    pub p_http: PHttp,
    pub pressure_low: u8,
    pub servers: BTreeMap<NodeId, ModelServer>,
    /// Who was given each request, from the first on.
    pub history: Vec<NodeId>,
    /// When each server went down last.
    pub down_since: BTreeMap<NodeId, Duration>,
    /// LARD keeps a list of one.
    pub sets: BTreeMap<Target, (Vec<NodeId>, Duration)>,
}

impl Model {
    pub fn new(rule: &PoolRule, weights: &[u16]) -> Self {
        let server = |(node, weight): (NodeId, &u16)| {
            let (weight, in_pool) = (u32::from(*weight), rule.servers.contains(&node));
            (node, ModelServer { weight, in_pool, up: false, load: 0, pressure: 0 })
        };
        Self {
            config: rule.policy,
            p_http: rule.p_http,
            pressure_low: rule.pressure_low,
            servers: (0u16..).map(NodeId).zip(weights).map(server).collect(),
            history: Vec::new(),
            down_since: BTreeMap::new(),
            sets: BTreeMap::new(),
        }
    }

    /// Whether the node may be chosen.
    pub fn serves(&self, node: NodeId) -> bool {
        self.servers.get(&node).is_some_and(|server| server.up && server.in_pool)
    }

    /// Load per weight, as a whole number.
    pub fn scaled(&self, node: NodeId) -> u32 {
        self.servers[&node].load * COMMON / self.servers[&node].weight
    }

    /// A threshold in the unit of [`Model::scaled`]: meant for the smallest weight.
    pub fn threshold(&self, t: u32) -> u32 {
        t * COMMON / self.servers.values().map(|server| server.weight).min().expect("a cluster has servers")
    }

    /// Those who are up, the one to prefer first: least load, then not chosen for longest.
    fn preferred(&self, among: &[NodeId]) -> Vec<NodeId> {
        let mut nodes: Vec<_> = among.iter().copied().filter(|node| self.serves(*node)).collect();
        let last_chosen =
            |node: &NodeId| self.history.iter().rposition(|chosen| chosen == node).map(|at| at + 1);
        nodes.sort_by_key(|node| (self.scaled(*node), last_chosen(node), *node));
        nodes
    }

    fn least_loaded(&self) -> Option<NodeId> {
        let all: Vec<_> = self.servers.keys().copied().collect();
        self.preferred(&all).first().copied()
    }

    /// "load > T_high and some node < T_low, or load >= 2 T_high"
    pub fn overloaded(&self, node: NodeId) -> bool {
        let load = self.scaled(node);
        let idle =
            |node: &NodeId| self.serves(*node) && self.scaled(*node) < self.threshold(self.config.t_low);
        (load > self.threshold(self.config.t_high) && self.servers.keys().any(idle))
            || load >= self.threshold(2 * self.config.t_high)
    }

    /// The server for a request, and the servers its target has from now on, as far as told.
    pub fn ask(
        &mut self,
        target: Option<Target>,
        at: Option<NodeId>,
        now: Duration,
    ) -> Option<(NodeId, Vec<NodeId>)> {
        let least = self.least_loaded()?;
        let here = at.filter(|node| self.serves(*node));
        let keeps = self.p_http == PHttp::Stay || !self.config.kind.is_lard() || target.is_none();
        let (server, set) = match (target, here) {
            (_, Some(here)) if keeps => (here, Vec::new()),
            (Some(target), here) if self.p_http == PHttp::ExtendedLard => self.extended(target, here),
            (Some(target), _) if self.config.kind == PolicyKind::Lard => self.lard(target, least),
            (Some(target), _) if self.config.kind == PolicyKind::LardReplicated => {
                self.lard_replicated(target, least, now)
            }
            _ => (least, Vec::new()),
        };
        self.history.push(server);
        self.server(server).load += 1;
        Some((server, set))
    }

    /// What is known of a target: the servers that are up. If none is, it is as if it had never been assigned, but what
    /// is known stays for when they are back, unless it is assigned meanwhile.
    fn known(&mut self, target: Target) -> Option<(Vec<NodeId>, Duration)> {
        let (mut set, changed) = self.sets.get(&target).cloned()?;
        set.retain(|node| self.serves(*node));
        if set.is_empty() {
            return None;
        }
        self.sets.insert(target, (set.clone(), changed));
        Some((set, changed))
    }

    /// The three metrics of USENIX'99 4.1, in the unit of [`Model::scaled`]; infinite is the largest.
    fn costs(&self, node: NodeId, has_it: bool) -> (u32, u32) {
        let miss_cost = self.threshold(self.config.t_high) - self.threshold(self.config.t_low);
        let l_idle = self.threshold(self.config.t_low);
        let l_overload = l_idle + 2 * miss_cost;
        let load = self.scaled(node);
        let balancing = load.saturating_sub(l_idle);
        let locality = if has_it { self.threshold(1) } else { miss_cost };
        let replacement = if load < l_idle || has_it { 0 } else { miss_cost };
        (u32::from(load > l_overload), balancing + locality + replacement)
    }

    /// USENIX'99 4.2.
    fn extended(&mut self, target: Target, here: Option<NodeId>) -> (NodeId, Vec<NodeId>) {
        let set = self.known(target).map(|(set, _)| set).unwrap_or_default();
        let calm = |node: NodeId| self.servers[&node].pressure < self.pressure_low;
        let all: Vec<_> = self.servers.keys().copied().collect();
        let among = match here {
            None => all,
            Some(here) if set.contains(&here) => return (here, set),
            Some(here) if calm(here) => {
                let mut set = set;
                if set.len() == 4 {
                    let most = self.preferred(&set)[3];
                    set.retain(|node| *node != most);
                }
                set.push(here);
                self.sets.insert(target, (set.clone(), Duration::ZERO));
                return (here, set);
            }
            Some(here) => [set.clone(), vec![here]].concat(),
        };
        // A stable sort: of equal costs, who has it (or has the connection) first, then as ever.
        let mut ordered = self.preferred(&among);
        ordered.sort_by_key(|node| here.map_or(!set.contains(node), |here| here != *node));
        ordered.sort_by_key(|node| self.costs(*node, set.contains(node)));
        let server = ordered[0];
        if here.is_some() {
            return (server, set);
        }
        let set = if set.contains(&server) { set } else { vec![server] };
        self.sets.insert(target, (set.clone(), Duration::ZERO));
        (server, set)
    }

    fn lard(&mut self, target: Target, least: NodeId) -> (NodeId, Vec<NodeId>) {
        let server = match self.known(target) {
            None => least,
            Some((set, _)) => {
                let server = set[0];
                let lighter = self.scaled(least) < self.scaled(server);
                if self.overloaded(server) && lighter { least } else { server }
            }
        };
        self.sets.insert(target, (vec![server], Duration::ZERO));
        (server, vec![server])
    }

    fn lard_replicated(&mut self, target: Target, least: NodeId, now: Duration) -> (NodeId, Vec<NodeId>) {
        let Some((before, changed)) = self.known(target) else {
            self.sets.insert(target, (vec![least], now));
            return (least, vec![least]);
        };
        let ordered = self.preferred(&before);
        let (mut n, m) = (ordered[0], ordered[ordered.len() - 1]);
        let mut after = before.clone();
        if self.overloaded(n) && self.scaled(least) < self.scaled(n) {
            let p = least;
            if !after.contains(&p) {
                if after.len() == 4 {
                    after.retain(|node| *node != m);
                }
                after.push(p);
            }
            n = p;
        }
        if after.len() > 1 && now - changed > self.config.k {
            after.retain(|node| *node != m);
        }
        let changed = if after == before { changed } else { now };
        self.sets.insert(target, (after.clone(), changed));
        (n, after)
    }

    fn server(&mut self, node: NodeId) -> &mut ModelServer {
        self.servers.get_mut(&node).expect("events name servers of the cluster")
    }

    pub fn report(&mut self, node: NodeId, load: u32, pressure: u8) {
        let server = self.server(node);
        (server.load, server.pressure) = (load, pressure);
    }

    pub fn up(&mut self, node: NodeId) {
        let server = self.server(node);
        if !server.up {
            server.up = true;
            (server.load, server.pressure) = (0, 0);
        }
    }

    pub fn down(&mut self, node: NodeId, now: Duration) {
        if std::mem::take(&mut self.server(node).up) {
            self.down_since.insert(node, now);
        }
    }

    /// "as if they had not been assigned before"
    pub fn pass(&mut self, now: Duration) {
        for node in self.servers.keys().copied().collect::<Vec<_>>() {
            let long = |since: &Duration| now - *since >= Duration::from_secs(10);
            if !self.servers[&node].up && self.down_since.get(&node).is_some_and(long) {
                self.forget(node);
            }
        }
    }

    fn forget(&mut self, node: NodeId) {
        for (set, _) in self.sets.values_mut() {
            set.retain(|held| *held != node);
        }
        self.sets.retain(|_, (set, _)| !set.is_empty());
    }
}

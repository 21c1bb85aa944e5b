//! The policies once more, written from the papers' text and deliberately naive: lists that are
//! searched from end to end, loads brought to a common denominator, no bound on targets. Shares
//! no code with what it checks but the types in its signature.

use std::collections::BTreeMap;
use std::time::Duration;

use baton_cluster::{NodeId, PolicyConfig, PolicyKind, Target};

/// All weights in these tests divide it.
const COMMON: u32 = 12;

/// A server as the naive model sees it.
#[derive(Clone, Debug)]
pub struct ModelServer {
    pub weight: u32,
    pub up: bool,
    pub load: u32,
}

/// The whole cluster.
#[derive(Clone, Debug)]
pub struct Model {
    pub config: PolicyConfig,
    pub servers: BTreeMap<NodeId, ModelServer>,
    /// Who was given each request, from the first on.
    pub history: Vec<NodeId>,
    /// LARD keeps a list of one.
    pub sets: BTreeMap<Target, (Vec<NodeId>, Duration)>,
}

impl Model {
    pub fn new(config: PolicyConfig, weights: &[u16]) -> Self {
        let server = |weight: &u16| ModelServer { weight: u32::from(*weight), up: false, load: 0 };
        let servers = (0u16..).map(NodeId).zip(weights.iter().map(server)).collect();
        Self { config, servers, history: Vec::new(), sets: BTreeMap::new() }
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
        let mut nodes: Vec<_> = among.iter().copied().filter(|node| self.servers[node].up).collect();
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
            |node: &NodeId| self.servers[node].up && self.scaled(*node) < self.threshold(self.config.t_low);
        (load > self.threshold(self.config.t_high) && self.servers.keys().any(idle))
            || load >= self.threshold(2 * self.config.t_high)
    }

    /// The server for a request, and the servers its target has from now on.
    pub fn ask(&mut self, target: Option<Target>, now: Duration) -> Option<(NodeId, Vec<NodeId>)> {
        let least = self.least_loaded()?;
        let (server, set) = match target {
            Some(target) if self.config.kind == PolicyKind::Lard => self.lard(target, least),
            Some(target) if self.config.kind == PolicyKind::LardReplicated => {
                self.lard_replicated(target, least, now)
            }
            _ => (least, Vec::new()),
        };
        self.history.push(server);
        self.server(server).load += 1;
        Some((server, set))
    }

    fn lard(&mut self, target: Target, least: NodeId) -> (NodeId, Vec<NodeId>) {
        let server = match self.sets.get(&target) {
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
        let Some((before, changed)) = self.sets.get(&target).cloned() else {
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

    pub fn report(&mut self, node: NodeId, load: u32) {
        self.server(node).load = load;
    }

    pub fn up(&mut self, node: NodeId) {
        let server = self.server(node);
        if !server.up {
            server.up = true;
            server.load = 0;
        }
    }

    /// "as if they had not been assigned before"
    pub fn down(&mut self, node: NodeId) {
        self.server(node).up = false;
        for (set, _) in self.sets.values_mut() {
            set.retain(|held| *held != node);
        }
        self.sets.retain(|_, (set, _)| !set.is_empty());
    }
}

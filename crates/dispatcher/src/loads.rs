//! How busy each server is, as the dispatcher knows it: what the server last reported plus what
//! was assigned to it since. Written by [`crate::Dispatcher`] alone; policies and the fallback
//! read it through a [`View`] of their pool's servers. It decides nothing.
//!
//! **Load** is a number of connections being served. A report replaces the assignments counted
//! since the one before, so between reports a load can only be too high by requests already
//! finished, and too low by those that distributors decided by themselves.
//!
//! **Weight.** Loads are compared per weight: 10 connections at a server of weight 2 count as much
//! as 5 at one of weight 1. The thresholds of LARD are meant for the servers of the *smallest*
//! weight in the cluster file, and scale with it for the others. So when all weights are equal,
//! whatever they are, every comparison is the papers'; and the death of a server moves none of
//! the others' thresholds. All comparisons are exact: products of integers, no division.
//!
//! **Ties** go to the server that was assigned something longest ago (never counts as longest),
//! then to the smaller id. So a cold cluster is filled in turns, and the choice is a function of
//! what happened before.
//!
//! **Pressure** is how busy a server's disk is, in percent, as it last reported; none until it does.

use std::cmp::Ordering;

use baton_cluster::NodeId;

/// The servers of the cluster with their loads. At most [`NodeId::MAX_NODES`].
#[derive(Clone, Debug)]
pub struct Loads {
    /// In order of id.
    servers: Vec<Server>,
    /// `NodeId` -> place in `servers`.
    places: Vec<Option<u16>>,
    /// The smallest weight: the one for which thresholds are meant.
    least_weight: u64,
    /// Assignments made so far: the clock of ties.
    assignments: u64,
}

#[derive(Clone, Debug)]
struct Server {
    node: NodeId,
    weight: u64,
    live: bool,
    reported: u32,
    assigned: u32,
    last_assigned: u64,
    pressure: u8,
}

/// The loads as one pool sees them: of its servers alone. Loads themselves are of the whole cluster: a
/// server that is in several pools is as busy for one as for another.
#[derive(Clone, Copy, Debug)]
pub struct View<'l> {
    loads: &'l Loads,
    /// In order of id.
    pool: &'l [NodeId],
}

/// The most connections that a server of weight `weight` may serve without being above
/// `threshold`, when the smallest weight in the cluster is `least_weight`. This is how a
/// distributor makes each server's limit from [`baton_cluster::Guide::Cached`]: `load <= limit` there is
/// exactly "not above the threshold" here.
pub fn load_limit(threshold: u32, weight: u16, least_weight: u16) -> u32 {
    let scaled = u64::from(threshold) * u64::from(weight) / u64::from(least_weight.max(1));
    u32::try_from(scaled).unwrap_or(u32::MAX)
}

impl Loads {
    /// The servers with their weights (0 counts as 1), all of them down and idle. A node named
    /// twice counts once; one beyond [`NodeId::MAX_NODES`] is left out.
    pub fn new(servers: impl IntoIterator<Item = (NodeId, u16)>) -> Self {
        let mut servers: Vec<Server> = servers
            .into_iter()
            .filter(|(node, _)| node.index() < NodeId::MAX_NODES)
            .map(|(node, weight)| Server::new(node, weight))
            .collect();
        servers.sort_by_key(|server| server.node);
        servers.dedup_by_key(|server| server.node);
        let mut places = vec![None; servers.last().map_or(0, |last| last.node.index() + 1)];
        for (server, place) in servers.iter().zip(0u16..) {
            if let Some(entry) = places.get_mut(server.node.index()) {
                *entry = Some(place);
            }
        }
        let least_weight = servers.iter().map(|server| server.weight).min().unwrap_or(1);
        Self { servers, places, least_weight, assignments: 0 }
    }

    /// Notes that the server itself counts `serving` connections, and that its disk is busy for
    /// `pressure` percent of the time. Reports of other nodes are ignored.
    pub fn report(&mut self, node: NodeId, serving: u32, pressure: u8) {
        if let Some(server) = self.server_mut(node) {
            server.reported = serving;
            server.assigned = 0;
            server.pressure = pressure;
        }
    }

    /// Notes that one more request was given to the server.
    pub fn assign(&mut self, node: NodeId) {
        self.assignments += 1;
        let stamp = self.assignments;
        if let Some(server) = self.server_mut(node) {
            server.assigned = server.assigned.saturating_add(1);
            server.last_assigned = stamp;
        }
    }

    /// Notes that the server came up or went down; `false` if that was known, or the node is no
    /// server. A server that comes up is idle until it reports.
    pub fn set_live(&mut self, node: NodeId, live: bool) -> bool {
        let Some(server) = self.server_mut(node) else { return false };
        if server.live == live {
            return false;
        }
        server.live = live;
        server.reported = 0;
        server.assigned = 0;
        server.pressure = 0;
        true
    }

    /// Whether the node is a server that is up.
    pub fn is_live(&self, node: NodeId) -> bool {
        self.server(node).is_some_and(|server| server.live)
    }

    /// The servers that are up with their weights, in order of id.
    pub fn live(&self) -> impl Iterator<Item = (NodeId, u16)> {
        self.live_servers().map(|server| (server.node, server.weight()))
    }

    /// All servers, up or down, with their weights, in order of id.
    pub fn servers(&self) -> impl Iterator<Item = (NodeId, u16)> {
        self.servers.iter().map(|server| (server.node, server.weight()))
    }

    /// The server's load in connections; `None` if the node is no server.
    pub fn load(&self, node: NodeId) -> Option<u32> {
        self.server(node).map(|server| u32::try_from(server.load()).unwrap_or(u32::MAX))
    }

    /// The server's weight; `None` if the node is no server.
    pub fn weight(&self, node: NodeId) -> Option<u16> {
        self.server(node).map(Server::weight)
    }

    /// How busy the server's disk is, in percent; `None` if the node is no server.
    pub fn pressure(&self, node: NodeId) -> Option<u8> {
        self.server(node).map(|server| server.pressure)
    }

    /// What a pool of these servers, in ascending order, sees of the loads.
    pub fn of<'l>(&'l self, pool: &'l [NodeId]) -> View<'l> {
        View { loads: self, pool }
    }

    fn live_servers(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter().filter(|server| server.live)
    }

    fn server(&self, node: NodeId) -> Option<&Server> {
        let place = (*self.places.get(node.index())?)?;
        self.servers.get(usize::from(place))
    }

    fn server_mut(&mut self, node: NodeId) -> Option<&mut Server> {
        let place = (*self.places.get(node.index())?)?;
        self.servers.get_mut(usize::from(place))
    }
}

impl<'l> View<'l> {
    /// The pool's servers that are up, with their weights, in order of id.
    pub fn live(self) -> impl Iterator<Item = (NodeId, u16)> {
        self.live_servers().map(|server| (server.node, server.weight()))
    }

    /// Whether the node is a server of the pool, and up.
    pub fn is_live(self, node: NodeId) -> bool {
        self.pool.binary_search(&node).is_ok() && self.loads.is_live(node)
    }

    /// The server that has the connection already, if it may keep it.
    pub fn keeper(self, at: Option<NodeId>) -> Option<NodeId> {
        at.filter(|node| self.is_live(*node))
    }

    /// The server's load in connections; `None` if the node is no server.
    pub fn load(self, node: NodeId) -> Option<u32> {
        self.loads.load(node)
    }

    /// The server's weight; `None` if the node is no server.
    pub fn weight(self, node: NodeId) -> Option<u16> {
        self.loads.weight(node)
    }

    /// The server that is up and has the least load for its weight; `None` if none is up.
    pub fn least_loaded(self) -> Option<NodeId> {
        self.live_servers().min_by(|a, b| a.compare(b)).map(|server| server.node)
    }

    /// The least loaded of `nodes` that are up.
    pub fn least_of(self, nodes: &[NodeId]) -> Option<NodeId> {
        self.live_among(nodes).min_by(|a, b| a.compare(b)).map(|server| server.node)
    }

    /// The most loaded of `nodes` that are up. Never [`View::least_of`] the same nodes when two
    /// of them are up, even if all loads are equal.
    pub fn most_of(self, nodes: &[NodeId]) -> Option<NodeId> {
        self.live_among(nodes).max_by(|a, b| a.compare(b)).map(|server| server.node)
    }

    /// Whether `a` has strictly less load for its weight than `b`; both must be servers.
    pub fn is_lighter(self, a: NodeId, b: NodeId) -> bool {
        match (self.loads.server(a), self.loads.server(b)) {
            (Some(a), Some(b)) => a.compare_load(b) == Ordering::Less,
            _ => false,
        }
    }

    /// Whether the server's load is above `threshold`, scaled by its weight.
    pub fn is_above(self, node: NodeId, threshold: u64) -> bool {
        let least = self.loads.least_weight;
        self.loads.server(node).is_some_and(|server| server.load() * least > threshold * server.weight)
    }

    /// Whether the server's load has reached `threshold`, scaled by its weight.
    pub fn has_reached(self, node: NodeId, threshold: u64) -> bool {
        let least = self.loads.least_weight;
        self.loads.server(node).is_some_and(|server| server.load() * least >= threshold * server.weight)
    }

    /// Whether the load of any server that is up is below `threshold`, scaled by its weight.
    pub fn any_below(self, threshold: u64) -> bool {
        let least = self.loads.least_weight;
        self.live_servers().any(|server| server.load() * least < threshold * server.weight)
    }

    /// How far the server's load is above `threshold`, scaled by its weight: a number of connections
    /// at a server of the smallest weight, as a fraction of integers. Zero if it is not above.
    pub(crate) fn excess(self, node: NodeId, threshold: u64) -> Fraction {
        let server = self.loads.server(node);
        let excess = server.map(|server| {
            let load = server.load() * self.loads.least_weight;
            Fraction { over: load.saturating_sub(threshold * server.weight), under: server.weight }
        });
        excess.unwrap_or(Fraction { over: 0, under: 1 })
    }

    /// Which of two servers to take when nothing else tells them apart: the one with less load for its
    /// weight, then as for ties.
    pub(crate) fn compare(self, a: NodeId, b: NodeId) -> Ordering {
        match (self.loads.server(a), self.loads.server(b)) {
            (Some(a), Some(b)) => a.compare(b),
            _ => a.cmp(&b),
        }
    }

    /// Whether the server's disk is busy for less than `percent` of the time.
    pub fn is_calm(self, node: NodeId, percent: u8) -> bool {
        self.loads.pressure(node).is_some_and(|pressure| pressure < percent)
    }

    fn live_servers(self) -> impl Iterator<Item = &'l Server> {
        self.live_among(self.pool)
    }

    fn live_among(self, nodes: &[NodeId]) -> impl Iterator<Item = &'l Server> {
        nodes.iter().filter(move |node| self.is_live(**node)).filter_map(move |node| self.loads.server(*node))
    }
}

/// A number that is not always whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fraction {
    over: u64,
    /// Never 0: a weight.
    under: u64,
}

impl Fraction {
    /// This and a whole number.
    pub(crate) fn plus(self, whole: u64) -> Self {
        Self { over: self.over + whole * self.under, ..self }
    }

    /// Exact comparison.
    pub(crate) fn compare(self, other: Self) -> Ordering {
        let cross = |a: Self, b: Self| u128::from(a.over) * u128::from(b.under);
        cross(self, other).cmp(&cross(other, self))
    }
}

impl Server {
    fn new(node: NodeId, weight: u16) -> Self {
        let weight = u64::from(weight.max(1));
        Self { node, weight, live: false, reported: 0, assigned: 0, last_assigned: 0, pressure: 0 }
    }

    fn weight(&self) -> u16 {
        u16::try_from(self.weight).unwrap_or(u16::MAX)
    }

    fn load(&self) -> u64 {
        u64::from(self.reported) + u64::from(self.assigned)
    }

    fn compare_load(&self, other: &Self) -> Ordering {
        (self.load() * other.weight).cmp(&(other.load() * self.weight))
    }

    fn compare(&self, other: &Self) -> Ordering {
        self.compare_load(other)
            .then(self.last_assigned.cmp(&other.last_assigned))
            .then(self.node.cmp(&other.node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [NodeId; 4] = [NodeId(0), NodeId(1), NodeId(2), NodeId(3)];

    fn up(weights: &[u16]) -> Loads {
        let mut loads = Loads::new((0u16..).map(NodeId).zip(weights.iter().copied()));
        for id in 0..weights.len() {
            assert!(loads.set_live(NodeId(u16::try_from(id).unwrap()), true));
        }
        loads
    }

    #[test]
    fn a_cold_cluster_is_filled_in_turns_even_when_reports_say_idle() {
        let mut loads = up(&[1, 1, 1]);
        let mut chosen = Vec::new();
        for _ in 0..6 {
            let server = loads.of(&ALL).least_loaded().unwrap();
            loads.assign(server);
            loads.report(server, 0, 0);
            chosen.push(server.0);
        }
        assert_eq!(chosen, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_report_replaces_what_was_assigned_before_it() {
        let mut loads = up(&[1, 1]);
        loads.assign(NodeId(0));
        loads.assign(NodeId(0));
        assert_eq!(loads.load(NodeId(0)), Some(2));
        loads.report(NodeId(0), 7, 0);
        loads.assign(NodeId(0));
        assert_eq!(loads.load(NodeId(0)), Some(8));
    }

    #[test]
    fn weight_scales_comparisons_and_thresholds_alike() {
        let mut loads = up(&[1, 2]);
        loads.report(NodeId(0), 6, 0);
        loads.report(NodeId(1), 10, 0);
        assert_eq!(loads.of(&ALL).least_loaded(), Some(NodeId(1)));
        assert!(!loads.of(&ALL).is_above(NodeId(1), 5) && loads.of(&ALL).has_reached(NodeId(1), 5));
        loads.report(NodeId(1), 11, 0);
        assert!(loads.of(&ALL).is_above(NodeId(1), 5) && !loads.of(&ALL).any_below(5));
        for weight in 1..=100 {
            for load in 0..200u32 {
                let mut loads = up(&[3, weight]);
                loads.report(NodeId(1), load, 0);
                let limit = load_limit(65, weight, weight.min(3));
                assert_eq!(load <= limit, !loads.of(&ALL).is_above(NodeId(1), 65));
            }
        }
    }

    #[test]
    fn equal_weights_of_any_size_change_nothing() {
        let mut loads = up(&[100, 100]);
        loads.report(NodeId(0), 66, 0);
        loads.report(NodeId(1), 65, 0);
        assert!(loads.of(&ALL).is_above(NodeId(0), 65) && !loads.of(&ALL).is_above(NodeId(1), 65));
    }

    #[test]
    fn unknown_and_dead_nodes_are_never_chosen() {
        let mut loads = up(&[1, 1]);
        loads.report(NodeId(9), 3, 0);
        loads.assign(NodeId(9));
        assert!(!loads.set_live(NodeId(9), true) && !loads.is_live(NodeId(9)));
        assert!(loads.set_live(NodeId(0), false) && !loads.set_live(NodeId(0), false));
        assert_eq!(loads.of(&ALL).least_loaded(), Some(NodeId(1)));
        assert_eq!(loads.of(&ALL).least_of(&[NodeId(0), NodeId(9)]), None);
        loads.set_live(NodeId(1), false);
        assert_eq!(loads.of(&ALL).least_loaded(), None);
    }

    #[test]
    fn the_most_loaded_is_not_the_least_loaded_when_all_are_equal() {
        let loads = up(&[1, 1, 1]);
        let nodes = [NodeId(2), NodeId(1)];
        assert_eq!(loads.of(&ALL).least_of(&nodes), Some(NodeId(1)));
        assert_eq!(loads.of(&ALL).most_of(&nodes), Some(NodeId(2)));
    }

    #[test]
    fn a_pool_sees_its_own_servers_alone() {
        let mut loads = up(&[1, 1, 2, 1]);
        let pool = [NodeId(1), NodeId(2)];
        loads.report(NodeId(1), 5, 10);
        loads.report(NodeId(2), 9, 9);
        let view = loads.of(&pool);
        assert_eq!(view.live().collect::<Vec<_>>(), [(NodeId(1), 1), (NodeId(2), 2)]);
        assert_eq!(view.least_loaded(), Some(NodeId(2)));
        assert!(!view.any_below(4) && loads.of(&ALL).any_below(4), "the idle ones are not in the pool");
        assert!(view.is_live(NodeId(1)) && !view.is_live(NodeId(0)));
        assert_eq!([view.keeper(Some(NodeId(2))), view.keeper(Some(NodeId(3)))], [Some(NodeId(2)), None]);
        assert!(view.is_calm(NodeId(2), 10) && !view.is_calm(NodeId(1), 10));
    }

    #[test]
    fn who_comes_back_is_idle_in_every_way() {
        let mut loads = up(&[1]);
        loads.report(NodeId(0), 5, 90);
        loads.set_live(NodeId(0), false);
        loads.set_live(NodeId(0), true);
        assert_eq!((loads.load(NodeId(0)), loads.pressure(NodeId(0))), (Some(0), Some(0)));
    }
}
